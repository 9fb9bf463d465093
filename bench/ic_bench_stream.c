/* infchat-bench stream: a long text through a session of bounded memory. Every token's probability
 * is taken as it goes by, so perplexity, speed and resident memory come by tenths of the stream.
 * Books differ from each other; so sampled stretches are read again by fresh sessions that see a
 * plain window of the same length before them, and the ratio of the two perplexities is the figure
 * that shows drift. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/ic_mem.h"
#include "bench/ic_bench.h"
#include "engine/ic_session.h"

enum { DECILES = 10, TAIL = 2048, FILES_MAX = 64 };

typedef struct piece { /* whole lines, about a chunk of them */
    size_t at, bytes;
} piece;

typedef struct text {
    char *bytes;
    size_t size;
    piece *pieces;
    int count, capacity;
} text;

/* What has gone through one session. */
typedef struct reader {
    ic_session *session;
    float *before; /* logits [vocab] of the last row */
    bool any;      /* there is one */
    double nll;    /* sum over all rows that had one before them */
    int64_t rows, scored;
    int32_t id[TAIL]; /* the last rows, in a ring */
    double each[TAIL];
} reader;

typedef struct decile {
    double nll, seconds, stretch_stream, stretch_fresh, age;
    int64_t rows, scored, stretch_rows;
    size_t resident;
} decile;

typedef struct stream {
    ic_engine *engine;
    int vocab;
    text text;
    ic_session_config config;
    reader main, fresh;
    int64_t tokens; /* wanted */
    int samples, odd;
    decile deciles[DECILES];
    int reached;
    int64_t looped; /* tokens read after the text's end, from its beginning */
} stream;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static size_t resident(void)
{
    unsigned long pages = 0, held = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%lu %lu", &pages, &held) != 2)
        held = 0;
    if (f)
        fclose(f);
    return held * (size_t)sysconf(_SC_PAGESIZE);
}

/* --- the text -----------------------------------------------------------------------------------
 */

/* Appends a file, without byte order mark and carriage returns, ended by an empty line. */
static int add_file(text *t, const char *path, ic_error *e)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return ic_error_set(e, IC_EIO, "%s cannot be read", path);
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    rewind(f);
    if (size < 0) {
        fclose(f);
        return ic_error_set(e, IC_EIO, "%s cannot be read", path);
    }
    t->bytes = ic_realloc(t->bytes, t->size + (size_t)size + 3);
    char *to = t->bytes + t->size, *from = to;
    size_t got = fread(from, 1, (size_t)size, f), at = 0;
    fclose(f);
    if (got >= 3 && memcmp(from, "\xef\xbb\xbf", 3) == 0)
        at = 3;
    for (; at < got; at++)
        if (from[at] != '\r' && from[at] != '\0')
            *to++ = from[at];
    memcpy(to, "\n\n", 2);
    t->size = (size_t)(to + 2 - t->bytes);
    return 0;
}

/* The end of the line that begins at `at`, empty lines behind it included. */
static size_t line_end(const text *t, size_t at)
{
    while (at < t->size && t->bytes[at] != '\n')
        at++;
    while (at < t->size && t->bytes[at] == '\n')
        at++;
    return at;
}

/* Text is fed by whole lines, so that its tokens are the same wherever a session begins to read. */
static void cut_pieces(text *t, size_t bytes_a_piece)
{
    for (size_t at = 0; at < t->size;) {
        size_t end = line_end(t, at), next = end;
        while (next < t->size && line_end(t, next) - at <= bytes_a_piece)
            next = line_end(t, next);
        end = next > end ? next : end;
        if (t->count == t->capacity) {
            t->capacity = t->capacity ? 2 * t->capacity : 1024;
            t->pieces = ic_realloc(t->pieces, (size_t)t->capacity * sizeof *t->pieces);
        }
        t->pieces[t->count++] = (piece){at, end - at};
        at = end;
    }
}

/* --- reading ------------------------------------------------------------------------------------
 */

static double nll_of(const float *logits, int vocab, int32_t id)
{
    float most = logits[0];
    double sum = 0;
    for (int i = 1; i < vocab; i++)
        most = logits[i] > most ? logits[i] : most;
    for (int i = 0; i < vocab; i++)
        sum += (double)expf(logits[i] - most);
    return log(sum) + (double)most - (double)logits[id];
}

static void take_row(void *arg, const ic_session *session, uint32_t ordinal, int32_t id,
                     const float *logits)
{
    stream *s = arg;
    reader *r = session == s->main.session ? &s->main : &s->fresh;
    (void)ordinal;
    double nll = r->any ? nll_of(r->before, s->vocab, id) : 0;
    r->nll += nll;
    r->scored += r->any;
    r->id[r->rows % TAIL] = id;
    r->each[r->rows % TAIL] = nll;
    r->rows++;
    r->any = true;
    memcpy(r->before, logits, (size_t)s->vocab * sizeof *logits);
}

static int feed(stream *s, reader *r, int index, ic_error *e)
{
    const piece *p = &s->text.pieces[index % s->text.count];
    char *copy = ic_alloc(p->bytes + 1);
    memcpy(copy, s->text.bytes + p->at, p->bytes);
    copy[p->bytes] = '\0';
    int rc = ic_session_raw(r->session, copy, e);
    ic_free(copy);
    while (rc == 0 && ic_session_is_ready(r->session)) {
        ic_slice slice = {.session = r->session, .max_rows = 512};
        rc = ic_engine_step(s->engine, &slice, 1, e);
        if (rc == 0 && slice.progress == IC_PROGRESS_FAILED) {
            *e = slice.error;
            rc = slice.error.code ? slice.error.code : IC_EBUG;
        }
    }
    return rc;
}

static int begin(stream *s, reader *r, const char *policy, int cache_tokens, ic_error *e)
{
    ic_session_config c = s->config;
    float *room = r->before;
    *r = (reader){.before = room};
    snprintf(c.policy, sizeof c.policy, "%s", policy);
    c.cache_tokens = cache_tokens;
    return ic_session_new(&r->session, s->engine, &c, e);
}

/* The rows of the last piece again, behind a plain window of as many tokens as the budget. */
static int sample(stream *s, int index, int rows, decile *d, ic_error *e)
{
    int budget = s->config.cache_tokens, first = index;
    size_t bytes = 0,
           room = (size_t)budget * 3; /* about 3.4 bytes a token: rows are counted below */
    while (first > 0 && index - first < s->text.count - 1
           && bytes + s->text.pieces[(first - 1) % s->text.count].bytes <= room)
        bytes += s->text.pieces[--first % s->text.count].bytes;
    ic_session_config kept = s->config;
    s->config.slack = 0;
    int rc = begin(s, &s->fresh, "streaming", budget, e);
    s->config = kept;
    for (int i = first; i <= index && rc == 0; i++)
        rc = feed(s, &s->fresh, i, e);
    bool same = rc == 0 && s->fresh.rows > rows && rows < TAIL;
    for (int i = 1; same && i <= rows; i++)
        same = s->main.id[(s->main.rows - i) % TAIL] == s->fresh.id[(s->fresh.rows - i) % TAIL];
    for (int i = 1; same && i <= rows; i++) {
        d->stretch_stream += s->main.each[(s->main.rows - i) % TAIL];
        d->stretch_fresh += s->fresh.each[(s->fresh.rows - i) % TAIL];
        d->stretch_rows++;
    }
    s->odd += rc == 0 && !same;
    ic_session_destroy(&s->fresh.session);
    return rc;
}

static int compare_ages(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The median age of the rows that are held, mean over all heads. */
static double median_age(const stream *s)
{
    const ic_slab *slab = ic_session_slab(s->main.session);
    const ic_slab_desc *d = ic_slab_desc_of(slab);
    ic_row *rows = ic_calloc((size_t)d->slots, sizeof *rows);
    uint32_t *ages = ic_calloc((size_t)d->slots, sizeof *ages);
    double sum = 0;
    for (int head = 0; head < d->layers * d->kv_heads; head++) {
        int n = ic_slab_count(slab, head / d->kv_heads, head % d->kv_heads);
        ic_slab_rows(slab, head / d->kv_heads, head % d->kv_heads, rows, NULL, NULL);
        for (int i = 0; i < n; i++)
            ages[i] = (uint32_t)s->main.rows - rows[i].ordinal;
        qsort(ages, (size_t)n, sizeof *ages, compare_ages);
        sum += n ? (double)ages[n / 2] : 0;
    }
    ic_free(rows);
    ic_free(ages);
    return sum / (d->layers * d->kv_heads);
}

static int read_on(stream *s, int *index, decile *d, ic_error *e)
{
    int64_t rows = s->main.rows, scored = s->main.scored;
    double nll = s->main.nll, since = now();
    int rc = feed(s, &s->main, *index, e);
    d->seconds += now() - since;
    d->rows += s->main.rows - rows;
    d->scored += s->main.scored - scored;
    d->nll += s->main.nll - nll;
    if (*index >= s->text.count)
        s->looped += s->main.rows - rows;
    ++*index;
    return rc;
}

static int run_stream(stream *s, ic_error *e)
{
    int index = 0, rc = begin(s, &s->main, s->config.policy, s->config.cache_tokens, e);
    for (int i = 0; i < DECILES && rc == 0; i++) {
        decile *d = &s->deciles[i];
        int64_t end = s->tokens * (i + 1) / DECILES, span = s->tokens / DECILES;
        int taken = 0;
        while (s->main.rows < end && rc == 0) {
            int64_t before = s->main.rows;
            rc = read_on(s, &index, d, e);
            int rows = (int)(s->main.rows - before);
            bool due = s->samples > 0 && taken < s->samples
                       && s->main.rows - (end - span) >= span * (taken + 1) / (s->samples + 1);
            if (rc == 0 && due && s->main.rows > 2 * s->config.cache_tokens) {
                rc = sample(s, index - 1, rows, d, e);
                taken++;
            }
        }
        d->resident = resident();
        d->age = rc ? 0 : median_age(s);
        s->reached = d->rows > 0 ? i + 1 : i;
    }
    return rc;
}

/* --- results ------------------------------------------------------------------------------------
 */

static double per(double sum, double n)
{
    return n > 0 ? sum / n : 0;
}

static double ratio(const decile *d)
{
    return d->stretch_rows ? exp(per(d->stretch_stream - d->stretch_fresh, (double)d->stretch_rows))
                           : 0;
}

static void print_json(const stream *s, const char *model, const char *why)
{
    const ic_session_config *c =
        s->main.session ? ic_session_config_of(s->main.session) : &s->config;
    double nll = 0, scored = 0, seconds = 0, stream_nll = 0, fresh_nll = 0, stretch = 0;
    for (int i = 0; i < DECILES; i++) {
        const decile *d = &s->deciles[i];
        nll += d->nll, scored += (double)d->scored, seconds += d->seconds;
        stream_nll += d->stretch_stream, fresh_nll += d->stretch_fresh;
        stretch += (double)d->stretch_rows;
    }
    printf("{\"model\":\"%s\",\"numerics\":\"%s\",\"policy\":\"%s\",\"cache_tokens\":%d,"
           "\"chunk\":%d,\"slack\":%d,\"sinks\":%d,\"pinned_max\":%d,\"window\":%d,"
           "\"recent_pct\":%d,\"bias_pct\":%d,\"smooth_pct\":%d,\"pool\":%d,\"per_layer\":%d",
           model, ic_engine_info_of(s->engine)->numerics, c->policy, c->cache_tokens, c->chunk_max,
           c->slack, c->sinks, c->pinned_max, c->window, c->recent_pct, c->bias_pct, c->smooth_pct,
           c->pool, c->per_layer);
    printf(",\"tokens\":%lld,\"repeated_share\":%.4f,\"ended\":\"%s\"", (long long)s->main.rows,
           per((double)s->looped, (double)s->main.rows), why);
    printf(",\"perplexity\":%.4f,\"tokens_per_s\":%.1f,\"stretch_rows\":%.0f,"
           "\"stretch_perplexity\":%.4f,\"stretch_fresh_perplexity\":%.4f,\"ratio\":%.5f,"
           "\"stretches_left_out\":%d,\"deciles\":[",
           exp(per(nll, scored)), per(scored, seconds), stretch, exp(per(stream_nll, stretch)),
           exp(per(fresh_nll, stretch)), exp(per(stream_nll - fresh_nll, stretch)), s->odd);
    for (int i = 0; i < s->reached; i++) {
        const decile *d = &s->deciles[i];
        printf("%s{\"tokens\":%lld,\"perplexity\":%.4f,\"tokens_per_s\":%.1f,"
               "\"resident_bytes\":%zu,\"stretch_rows\":%lld,\"ratio\":%.5f,\"median_age\":%.0f}",
               i ? "," : "", (long long)d->rows, exp(per(d->nll, (double)d->scored)),
               per((double)d->rows, d->seconds), d->resident, (long long)d->stretch_rows, ratio(d),
               d->age);
    }
    printf("]}\n");
}

static void print_table(const stream *s, const char *why)
{
    printf("%s, %d tokens: %lld tokens read; %s\n", s->config.policy, s->config.cache_tokens,
           (long long)s->main.rows, why);
    printf("  tenth  perplexity  tokens/s  resident MiB   ratio to fresh  median age\n");
    for (int i = 0; i < s->reached; i++) {
        const decile *d = &s->deciles[i];
        printf("  %5d %11.3f %9.0f %13.1f %16.4f %11.0f\n", i + 1,
               exp(per(d->nll, (double)d->scored)), per((double)d->rows, d->seconds),
               (double)d->resident / 1048576, ratio(d), d->age);
    }
}

/* --- the command --------------------------------------------------------------------------------
 */

/* "--text FILE FILE ...": taken out of the arguments, which are then options with one value. */
static int take_files(int *argc, char **argv, const char **files)
{
    int count = 0, to = 0;
    for (int i = 0; i < *argc; i++) {
        if (strcmp(argv[i], "--text") != 0) {
            argv[to++] = argv[i];
            continue;
        }
        while (i + 1 < *argc && strncmp(argv[i + 1], "--", 2) != 0 && count < FILES_MAX)
            files[count++] = argv[++i];
    }
    *argc = to;
    return count;
}

static void read_settings(stream *s, int argc, char **argv)
{
    ic_session_config *c = &s->config;
    int cache = (int)ic_bench_number(argc, argv, "--cache-tokens", 0);
    ic_session_config_default(s->engine, cache, c);
    snprintf(c->policy, sizeof c->policy, "%s", ic_bench_option(argc, argv, "--policy", "saddle"));
    c->chunk_max = (int)ic_bench_number(argc, argv, "--chunk", 256);
    c->slack = 0;
    c->pinned_max = (int)ic_bench_number(argc, argv, "--pinned", 0);
    c->sinks = (int)ic_bench_number(argc, argv, "--sinks", c->sinks);
    c->window = (int)ic_bench_number(argc, argv, "--window", c->window);
    c->recent_pct = (int)ic_bench_number(argc, argv, "--recent", 0);
    c->bias_pct = (int)ic_bench_number(argc, argv, "--bias", 0);
    c->smooth_pct = (int)ic_bench_number(argc, argv, "--smooth", 0);
    c->pool = (int)ic_bench_number(argc, argv, "--pool", 0);
    c->per_layer = (int)ic_bench_number(argc, argv, "--per-layer", 0);
    s->tokens = ic_bench_number(argc, argv, "--tokens", 100000);
    s->samples = (int)ic_bench_number(argc, argv, "--samples", 4);
}

static int open_stream(stream *s, const char *model, int argc, char **argv, const char **files,
                       int count, ic_error *e)
{
    ic_engine_config config = {.model_dir = model,
                               .device = "cpu",
                               .dtype = "auto",
                               .threads = (int)ic_bench_number(argc, argv, "--threads", 0)};
    int rc = ic_engine_open(&s->engine, &config, e);
    for (int i = 0; i < count && rc == 0; i++)
        rc = add_file(&s->text, files[i], e);
    if (rc)
        return rc;
    read_settings(s, argc, argv);
    rc = ic_session_config_check(s->engine, &s->config, e);
    if (rc)
        return rc;
    s->vocab = ic_engine_info_of(s->engine)->vocab;
    s->main.before = ic_calloc((size_t)s->vocab, sizeof *s->main.before);
    s->fresh.before = ic_calloc((size_t)s->vocab, sizeof *s->fresh.before);
    cut_pieces(&s->text, (size_t)s->config.chunk_max * 3);
    ic_engine_watch_logits(s->engine, take_row, s);
    return s->text.count ? 0 : ic_error_set(e, IC_EINVAL, "the text is empty");
}

static int run(int argc, char **argv)
{
    static const char *const flags[] = {"--json", NULL};
    static const char *const options[] = {"--model",     "--tokens",  "--policy",  "--cache-tokens",
                                          "--chunk",     "--pinned",  "--sinks",   "--window",
                                          "--bias",      "--recent",  "--smooth",  "--pool",
                                          "--per-layer", "--samples", "--threads", NULL};
    const char *files[FILES_MAX];
    int count = take_files(&argc, argv, files);
    if (!ic_bench_check(argc, argv, flags, options))
        return 2;
    const char *model = ic_bench_option(argc, argv, "--model", NULL);
    if (!model || count == 0 || ic_bench_number(argc, argv, "--tokens", 1000) < 1000) {
        fprintf(stderr, "usage: infchat-bench stream %s\n", ic_bench_stream.arguments);
        return 2;
    }
    stream *s = ic_alloc(sizeof *s);
    ic_error e = {0};
    int rc = open_stream(s, model, argc, argv, files, count, &e);
    bool opened = rc == 0;
    rc = rc ? rc : run_stream(s, &e);
    bool full = rc == IC_ELIMIT && opened; /* "full" reads until its cache is */
    if (rc && !full)
        fprintf(stderr, "infchat-bench stream: %s\n", e.text);
    else if (ic_bench_flag(argc, argv, "--json"))
        print_json(s, model, full ? "cache full" : "all read");
    else
        print_table(s, full ? e.text : "all read");
    ic_session_destroy(&s->main.session);
    ic_session_destroy(&s->fresh.session);
    ic_engine_close(&s->engine);
    ic_free(s->main.before);
    ic_free(s->fresh.before);
    ic_free(s->text.bytes);
    ic_free(s->text.pieces);
    ic_free(s);
    return rc && !full ? 1 : 0;
}

const ic_bench_command ic_bench_stream = {
    "stream",
    "--model DIR --text FILE... [--tokens N] [--policy P] [--cache-tokens C] [--chunk ROWS]\n"
    "           [--sinks N] [--pinned N] [--window L] [--recent PCT] [--bias PCT] [--smooth PCT]\n"
    "           [--pool N] [--per-layer 0|1] [--samples PER-TENTH] [--threads N] [--json]",
    "a long text through a bounded memory: perplexity, speed and memory by tenths", run};
