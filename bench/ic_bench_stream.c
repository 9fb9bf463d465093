/* infchat-bench stream: a long text through bounded memories. Every token's probability is taken as
 * it goes by, so perplexity, speed and resident memory come by tenths of the stream. Books differ
 * from each other; so sampled stretches are read again by fresh sessions that see a plain window of
 * the same length before them, and the ratio of the two perplexities is the figure that shows
 * drift. All memories read the same pieces side by side, each timed by itself; with --state, a run
 * that was cut off goes on where it was saved. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ic_mem.h"
#include "bench/ic_bench.h"
#include "bench/ic_bench_memory.h"

enum { DECILES = 10, TAIL = 2048, FILES_MAX = 64, LOOKS_MAX = 400 };
enum { MAGIC = 0x53424349 /* "ICBS" */, STATE_VERSION = 2, SAVE_SECONDS = 60, PAUSED = 3 };

typedef struct piece { /* whole lines, about a chunk of them */
    size_t at, bytes;
} piece;

typedef struct text {
    char *bytes;
    size_t size;
    piece *pieces;
    int count, capacity;
} text;

typedef struct decile {
    double nll, seconds, stretch_stream, stretch_fresh, age;
    int64_t rows, scored, stretch_rows;
    size_t resident, anonymous; /* bytes, of the process */
} decile;

/* What has gone through one session. */
typedef struct reader {
    ic_session *session;
    ic_session_config config;
    float *before; /* logits [vocab] of the last row */
    bool any;      /* there is one */
    double nll;    /* sum over all rows that had one before them */
    int64_t rows, scored;
    int32_t id[TAIL]; /* the last rows, in a ring */
    double each[TAIL];
    decile deciles[DECILES];
    ic_bench_map map;
    bool ended; /* error says why */
    ic_error error;
} reader;

typedef struct stream {
    ic_engine *engine;
    int vocab;
    text text;
    uint64_t fingerprint; /* of the text */
    reader *list, fresh;
    int count, samples;
    int64_t tokens, rows;  /* wanted; read */
    int64_t looped;        /* tokens read after the text's end, from its beginning */
    int index, reached;    /* next piece; deciles begun */
    int taken, odd, looks; /* samples in this decile; those left out; of the map */
    int resumed;
    const char *state; /* file; NULL: none */
    double until, saved_at;
    bool paused;
} stream;

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

static uint64_t fingerprint(const text *t)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < t->size; i++)
        h = (h ^ (uint8_t)t->bytes[i]) * UINT64_C(0x100000001b3);
    return h;
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
    reader *r = &s->fresh;
    (void)ordinal;
    for (int i = 0; i < s->count; i++)
        r = s->list[i].session == session ? &s->list[i] : r;
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

/* The piece again, behind a plain window of as many tokens as the budget: read by s->fresh. */
static int read_fresh(stream *s, int budget, int index, ic_error *e)
{
    int first = index;
    size_t bytes = 0,
           room = (size_t)budget * 3; /* about 3.4 bytes a token: rows are counted below */
    while (first > 0 && index - first < s->text.count - 1
           && bytes + s->text.pieces[(first - 1) % s->text.count].bytes <= room)
        bytes += s->text.pieces[--first % s->text.count].bytes;
    reader *r = &s->fresh;
    float *before = r->before;
    *r = (reader){.before = before};
    ic_session_config_default(s->engine, budget, &r->config);
    snprintf(r->config.policy, sizeof r->config.policy, "streaming");
    r->config.chunk_max = s->list[0].config.chunk_max;
    r->config.slack = 0;
    r->config.pinned_max = 0;
    int rc = ic_session_new(&r->session, s->engine, &r->config, e);
    for (int i = first; i <= index && rc == 0; i++)
        rc = feed(s, r, i, e);
    ic_session_destroy(&r->session);
    return rc;
}

/* The last `rows` rows of r, read fresh too; false when the window did not reach back before them.
 */
static bool compare(const reader *fresh, const reader *r, int rows, decile *d)
{
    bool same = fresh->rows > rows && rows < TAIL;
    for (int i = 1; same && i <= rows; i++)
        same = r->id[(r->rows - i) % TAIL] == fresh->id[(fresh->rows - i) % TAIL];
    for (int i = 1; same && i <= rows; i++) {
        d->stretch_stream += r->each[(r->rows - i) % TAIL];
        d->stretch_fresh += fresh->each[(fresh->rows - i) % TAIL];
        d->stretch_rows++;
    }
    return same;
}

/* One fresh reading for each budget; memories of the same budget share it. */
static int sample(stream *s, int at, int rows, ic_error *e)
{
    int rc = 0;
    for (int i = 0; i < s->count && rc == 0; i++) {
        int budget = s->list[i].config.cache_tokens;
        bool done = s->list[i].ended || s->rows <= 2 * budget;
        for (int j = 0; j < i; j++)
            done = done || (!s->list[j].ended && s->list[j].config.cache_tokens == budget);
        if (done)
            continue;
        rc = read_fresh(s, budget, s->index - 1, e);
        for (int j = i; j < s->count && rc == 0; j++) {
            reader *r = &s->list[j];
            if (r->config.cache_tokens == budget && !r->ended)
                s->odd += !compare(&s->fresh, r, rows, &r->deciles[at]);
        }
    }
    return rc;
}

static int compare_ages(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The median age of the rows that are held, mean over all heads. */
static double median_age(const reader *r)
{
    const ic_slab *slab = ic_session_slab(r->session);
    const ic_slab_desc *d = ic_slab_desc_of(slab);
    ic_row *rows = ic_calloc((size_t)d->slots, sizeof *rows);
    uint32_t *ages = ic_calloc((size_t)d->slots, sizeof *ages);
    double sum = 0;
    for (int head = 0; head < d->layers * d->kv_heads; head++) {
        int n = ic_slab_count(slab, head / d->kv_heads, head % d->kv_heads);
        ic_slab_rows(slab, head / d->kv_heads, head % d->kv_heads, rows, NULL, NULL);
        for (int i = 0; i < n; i++)
            ages[i] = (uint32_t)r->rows - rows[i].ordinal;
        qsort(ages, (size_t)n, sizeof *ages, compare_ages);
        sum += n ? (double)ages[n / 2] : 0;
    }
    ic_free(rows);
    ic_free(ages);
    return sum / (d->layers * d->kv_heads);
}

/* One piece into one memory. A memory that takes no more ("full" does so) has ended. */
static void read_on(stream *s, reader *r, decile *d)
{
    int64_t rows = r->rows, scored = r->scored;
    double nll = r->nll, since = ic_bench_now();
    int rc = feed(s, r, s->index, &r->error);
    d->seconds += ic_bench_now() - since;
    d->rows += r->rows - rows;
    d->scored += r->scored - scored;
    d->nll += r->nll - nll;
    if (rc) {
        r->ended = true;
        ic_session_destroy(&r->session);
    }
}

/* The next piece into all memories; *rows gets its tokens, 0 when every memory has ended. */
static void read_piece(stream *s, int at, int *rows)
{
    int64_t before = s->rows;
    for (int i = 0; i < s->count; i++) {
        reader *r = &s->list[i];
        if (!r->ended)
            read_on(s, r, &r->deciles[at]);
        s->rows = !r->ended && r->rows > s->rows ? r->rows : s->rows;
    }
    *rows = (int)(s->rows - before);
    if (s->index >= s->text.count)
        s->looped += *rows;
    s->index++;
}

static void look(stream *s)
{
    if (s->looks == 0)
        return;
    int looked = (int)(s->rows * s->looks / s->tokens);
    for (int i = 0; i < s->count; i++) {
        reader *r = &s->list[i];
        while (!r->ended && r->map.looked < looked && r->map.looked < r->map.looks)
            ic_bench_map_look(&r->map, r->session);
    }
}

static void end_decile(stream *s, int at)
{
    for (int i = 0; i < s->count; i++) {
        reader *r = &s->list[i];
        r->deciles[at].resident = ic_bench_resident(&r->deciles[at].anonymous);
        r->deciles[at].age = r->ended ? 0 : median_age(r);
    }
    s->taken = 0;
}

/* --- the state on disk: disposable, of this build on this machine --------------------------------
 * "ICBS" version | blob settings | counters | per memory: reader, deciles, logits, map, blob error,
 * blob state of the session, blob rows */

/* What must be the same for a run to go on: a line of text. */
static char *settings_of(const stream *s)
{
    char *all = ic_strf("%016llx %lld %d %d %zu", (unsigned long long)s->fingerprint,
                        (long long)s->tokens, s->samples, s->looks, sizeof(decile));
    for (int i = 0; i < s->count; i++) {
        char meaning[33];
        ic_session_meaning(s->engine, &s->list[i].config, meaning);
        char *longer = ic_strf("%s %s", all, meaning);
        ic_free(all);
        all = longer;
    }
    return all;
}

static int put_session(const reader *r, ic_buf *out, ic_error *e)
{
    ic_buf part;
    ic_buf_init(&part, 0);
    int rc = ic_session_save_state(r->session, &part, e);
    if (rc == 0)
        rc = ic_buf_blob(out, part.data, (uint32_t)part.size);
    ic_buf_clear(&part);
    uint64_t cursor = 0;
    bool more = true;
    while (rc == 0 && more)
        rc = ic_session_save_rows(r->session, true, &cursor, 1u << 30, &part, &more);
    if (rc == 0)
        rc = ic_buf_blob(out, part.data, (uint32_t)part.size);
    ic_buf_fini(&part);
    return rc;
}

/* The parts of the stream and of a reader that are plain numbers, in order, to `carry`. */
typedef int carry_fn(void *arg, void *bytes, size_t count);

static int carry_stream(stream *s, carry_fn *carry, void *arg)
{
    int rc = carry(arg, &s->rows, sizeof s->rows);
    rc = rc ? rc : carry(arg, &s->looped, sizeof s->looped);
    int *numbers[] = {&s->index, &s->reached, &s->taken, &s->odd, &s->resumed};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && rc == 0; i++)
        rc = carry(arg, numbers[i], sizeof *numbers[i]);
    return rc;
}

static int carry_reader(const stream *s, reader *r, carry_fn *carry, void *arg)
{
    size_t looks = (size_t)r->map.looks, square = looks * looks * sizeof(uint32_t);
    const struct {
        void *bytes;
        size_t count;
    } parts[] = {{&r->any, sizeof r->any},
                 {&r->nll, sizeof r->nll},
                 {&r->rows, sizeof r->rows},
                 {&r->scored, sizeof r->scored},
                 {&r->ended, sizeof r->ended},
                 {&r->error, sizeof r->error},
                 {r->deciles, sizeof r->deciles},
                 {r->before, (size_t)s->vocab * sizeof *r->before},
                 {&r->map.looked, sizeof r->map.looked},
                 {r->map.edges, (looks + 1) * sizeof(uint32_t)},
                 {r->map.frames, square},
                 {r->map.text, square}};
    int rc = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && rc == 0; i++)
        rc = carry(arg, parts[i].bytes, parts[i].count);
    return rc;
}

static int carry_out(void *arg, void *bytes, size_t count)
{
    return ic_buf_append(arg, bytes, count);
}

static int carry_in(void *arg, void *bytes, size_t count)
{
    const void *from = ic_cursor_bytes(arg, count);
    if (from)
        memcpy(bytes, from, count);
    return from ? 0 : IC_EFORMAT;
}

static int write_file(const char *path, const ic_buf *b, ic_error *e)
{
    char *part = ic_strf("%s.part", path);
    FILE *f = fopen(part, "we");
    bool ok = f && fwrite(b->data, 1, b->size, f) == b->size;
    if (f && fclose(f))
        ok = false;
    ok = ok && rename(part, path) == 0;
    ic_free(part);
    return ok ? 0 : ic_error_set(e, IC_EIO, "%s cannot be written", path);
}

static int save(stream *s, ic_error *e)
{
    ic_buf b;
    ic_buf_init(&b, 0);
    char *settings = settings_of(s);
    ic_buf_u32(&b, MAGIC);
    ic_buf_u32(&b, STATE_VERSION);
    ic_buf_blob(&b, settings, (uint32_t)strlen(settings));
    int rc = carry_stream(s, carry_out, &b);
    for (int i = 0; i < s->count && rc == 0; i++) {
        rc = carry_reader(s, &s->list[i], carry_out, &b);
        if (rc == 0 && !s->list[i].ended)
            rc = put_session(&s->list[i], &b, e);
    }
    if (rc == 0 && b.status == 0)
        rc = write_file(s->state, &b, e);
    else if (rc == 0 || !e->code)
        rc = ic_error_set(e, IC_ENOMEM, "no memory for the state of the run");
    ic_free(settings);
    ic_buf_fini(&b);
    s->saved_at = ic_bench_now();
    return rc;
}

static int take_session(reader *r, ic_cursor *c, ic_error *e)
{
    uint32_t state_bytes = 0, rows_bytes = 0;
    const void *state = ic_cursor_blob(c, &state_bytes);
    const void *rows = ic_cursor_blob(c, &rows_bytes);
    int rc = c->status ? ic_error_set(e, IC_EFORMAT, "the state is cut off") : 0;
    rc = rc ? rc : ic_session_load_state(r->session, state, state_bytes, e);
    if (rc == 0 && rows_bytes)
        rc = ic_session_load_rows(r->session, rows, rows_bytes, e);
    return rc ? rc : ic_session_load_finish(r->session, e);
}

static int take_state(stream *s, ic_cursor *c, ic_error *e)
{
    char *settings = settings_of(s);
    bool known = ic_cursor_u32(c) == MAGIC && ic_cursor_u32(c) == STATE_VERSION;
    uint32_t bytes = 0;
    const char *was = known ? ic_cursor_blob(c, &bytes) : NULL;
    known = was && bytes == strlen(settings) && memcmp(was, settings, bytes) == 0;
    ic_free(settings);
    if (!known)
        return ic_error_set(e, IC_EMISMATCH, "%s is of another run; remove it to begin anew",
                            s->state);
    int rc = carry_stream(s, carry_in, c);
    for (int i = 0; i < s->count && rc == 0; i++) {
        reader *r = &s->list[i];
        rc = carry_reader(s, r, carry_in, c);
        if (rc == 0 && r->ended)
            ic_session_destroy(&r->session);
        else if (rc == 0)
            rc = take_session(r, c, e);
    }
    s->resumed++;
    return rc && !e->code ? ic_error_set(e, IC_EFORMAT, "%s is cut off", s->state) : rc;
}

/* Goes on with the state, if there is one. */
static int resume(stream *s, ic_error *e)
{
    FILE *f = fopen(s->state, "re");
    if (!f)
        return 0;
    ic_buf b;
    ic_buf_init(&b, 0);
    static char block[1 << 16];
    size_t got;
    while ((got = fread(block, 1, sizeof block, f)) > 0)
        ic_buf_append(&b, block, got);
    fclose(f);
    ic_cursor c;
    ic_cursor_init(&c, b.data, b.size);
    int rc = take_state(s, &c, e);
    ic_buf_fini(&b);
    return rc;
}

/* --- the run ------------------------------------------------------------------------------------
 */

static int read_decile(stream *s, int at, ic_error *e)
{
    int64_t end = s->tokens * (at + 1) / DECILES, span = s->tokens / DECILES;
    int rc = 0, rows = 1;
    while (s->rows < end && rows > 0 && rc == 0) {
        read_piece(s, at, &rows);
        look(s);
        bool due = s->taken < s->samples && rows > 0
                   && s->rows - (end - span) >= span * (s->taken + 1) / (s->samples + 1);
        if (due) {
            rc = sample(s, at, rows, e);
            s->taken++;
        }
        double now = ic_bench_now();
        s->paused = now >= s->until && s->rows < s->tokens;
        if (rc == 0 && s->state && (s->paused || now - s->saved_at >= SAVE_SECONDS)
            && s->rows < end)
            rc = save(s, e);
        if (s->paused && s->rows < end)
            return rc;
    }
    s->paused = false;
    return rc;
}

static int run_stream(stream *s, ic_error *e)
{
    int rc = 0;
    for (int i = s->reached; i < DECILES && rc == 0 && !s->paused; i++) {
        s->reached = i;
        rc = read_decile(s, i, e);
        if (!s->paused)
            end_decile(s, i);
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

/* Tenths up to the last one that has tokens. */
static int tenths(const reader *r)
{
    int n = DECILES;
    while (n > 0 && r->deciles[n - 1].rows == 0)
        n--;
    return n;
}

static decile sum_of(const reader *r)
{
    decile sum = {0};
    for (int i = 0; i < DECILES; i++) {
        const decile *d = &r->deciles[i];
        sum.nll += d->nll, sum.scored += d->scored, sum.seconds += d->seconds, sum.rows += d->rows;
        sum.stretch_stream += d->stretch_stream, sum.stretch_fresh += d->stretch_fresh;
        sum.stretch_rows += d->stretch_rows;
    }
    return sum;
}

static void print_json(const stream *s, const reader *r, const char *model)
{
    decile all = sum_of(r);
    double stretch = (double)all.stretch_rows;
    printf("{\"bench\":\"stream\",\"model\":\"%s\",\"numerics\":\"%s\",\"meaning\":\"%s\",", model,
           ic_engine_info_of(s->engine)->numerics, ic_engine_info_of(s->engine)->meaning);
    ic_bench_memory_print(&r->config);
    printf(",\"text_bytes\":%zu,\"text_fingerprint\":\"%016llx\",\"wanted\":%lld,\"tokens\":%lld,"
           "\"repeated_share\":%.4f,\"resumed\":%d,\"side_by_side\":%d,\"ended\":",
           s->text.size, (unsigned long long)s->fingerprint, (long long)s->tokens,
           (long long)r->rows, per((double)s->looped, (double)s->rows), s->resumed, s->count);
    ic_bench_print_string(r->ended ? r->error.text : "all read");
    printf(",\"perplexity\":%.4f,\"tokens_per_s\":%.1f,\"stretch_rows\":%.0f,"
           "\"stretch_perplexity\":%.4f,\"stretch_fresh_perplexity\":%.4f,\"ratio\":%.5f,"
           "\"stretches_left_out\":%d,\"deciles\":[",
           exp(per(all.nll, (double)all.scored)), per((double)all.rows, all.seconds), stretch,
           exp(per(all.stretch_stream, stretch)), exp(per(all.stretch_fresh, stretch)), ratio(&all),
           s->odd);
    for (int i = 0; i < tenths(r); i++) {
        const decile *d = &r->deciles[i];
        printf("%s{\"tokens\":%lld,\"perplexity\":%.4f,\"tokens_per_s\":%.1f,"
               "\"resident_bytes\":%zu,\"anonymous_bytes\":%zu,\"stretch_rows\":%lld,"
               "\"ratio\":%.5f,\"median_age\":%.0f}",
               i ? "," : "", (long long)d->rows, exp(per(d->nll, (double)d->scored)),
               per((double)d->rows, d->seconds), d->resident, d->anonymous,
               (long long)d->stretch_rows, ratio(d), d->age);
    }
    printf("]");
    ic_bench_map_print(&r->map, "tokens", (double)s->tokens);
    printf("}\n");
}

static void print_table(const reader *r)
{
    printf("%s, %d tokens: %lld tokens read; %s\n", r->config.policy, r->config.cache_tokens,
           (long long)r->rows, r->ended ? r->error.text : "all read");
    printf("  tenth  perplexity  tokens/s  resident MiB  anonymous   ratio to fresh  median age\n");
    for (int i = 0; i < tenths(r); i++) {
        const decile *d = &r->deciles[i];
        printf("  %5d %11.3f %9.0f %13.1f %10.1f %16.4f %11.0f\n", i + 1,
               exp(per(d->nll, (double)d->scored)), per((double)d->rows, d->seconds),
               (double)d->resident / 1048576, (double)d->anonymous / 1048576, ratio(d), d->age);
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

static int open_readers(stream *s, int argc, char **argv, ic_error *e)
{
    ic_session_config configs[IC_BENCH_MEMORIES_MAX];
    int n = ic_bench_memories(s->engine, argc, argv, true, configs, e), rc = n < 0 ? n : 0;
    s->vocab = ic_engine_info_of(s->engine)->vocab;
    s->fresh.before = ic_calloc((size_t)s->vocab, sizeof *s->fresh.before);
    s->list = ic_calloc((size_t)(n > 0 ? n : 1), sizeof *s->list);
    for (int i = 0; i < n && rc == 0; i++) {
        reader *r = &s->list[s->count++];
        r->before = ic_calloc((size_t)s->vocab, sizeof *r->before);
        ic_bench_map_init(&r->map, s->looks);
        rc = ic_session_new(&r->session, s->engine, &configs[i], e);
        if (rc == 0)
            r->config = *ic_session_config_of(r->session); /* settled */
    }
    return rc;
}

static int open_stream(stream *s, const char *model, int argc, char **argv, const char **files,
                       int count, ic_error *e)
{
    ic_engine_config config = {.model_dir = model,
                               .device = "cpu",
                               .dtype = "auto",
                               .threads = (int)ic_bench_number(argc, argv, "--threads", 0)};
    s->tokens = ic_bench_number(argc, argv, "--tokens", 100000);
    s->samples = (int)ic_bench_number(argc, argv, "--samples", 4);
    s->looks = (int)ic_bench_number(argc, argv, "--map", 0);
    s->state = ic_bench_option(argc, argv, "--state", NULL);
    s->saved_at = ic_bench_now();
    s->until = s->saved_at + (double)ic_bench_number(argc, argv, "--for", 1000000000);
    int rc = s->looks < 0 || s->looks > LOOKS_MAX
                 ? ic_error_set(e, IC_EINVAL, "--map takes 0 to %d looks", LOOKS_MAX)
                 : 0;
    for (int i = 0; i < count && rc == 0; i++)
        rc = add_file(&s->text, files[i], e);
    rc = rc ? rc : ic_engine_open(&s->engine, &config, e);
    rc = rc ? rc : open_readers(s, argc, argv, e);
    if (rc)
        return rc;
    s->fingerprint = fingerprint(&s->text);
    cut_pieces(&s->text, (size_t)s->list[0].config.chunk_max * 3);
    ic_engine_watch_logits(s->engine, take_row, s);
    if (s->text.count == 0)
        return ic_error_set(e, IC_EINVAL, "the text is empty");
    return s->state ? resume(s, e) : 0;
}

static void close_stream(stream *s)
{
    for (int i = 0; i < s->count; i++) {
        ic_session_destroy(&s->list[i].session);
        ic_free(s->list[i].before);
        ic_bench_map_fini(&s->list[i].map);
    }
    ic_session_destroy(&s->fresh.session);
    ic_engine_close(&s->engine);
    ic_free(s->fresh.before);
    ic_free(s->list);
    ic_free(s->text.bytes);
    ic_free(s->text.pieces);
    ic_free(s);
}

static int run(int argc, char **argv)
{
    static const char *const flags[] = {"--json", NULL};
    static const char *const options[] = {IC_BENCH_MEMORY_OPTIONS,
                                          "--model",
                                          "--tokens",
                                          "--samples",
                                          "--map",
                                          "--state",
                                          "--for",
                                          "--threads",
                                          NULL};
    const char *files[FILES_MAX];
    int count = take_files(&argc, argv, files);
    if (!ic_bench_check(argc, argv, flags, options))
        return 2;
    const char *model = ic_bench_option(argc, argv, "--model", NULL);
    if (!model || count == 0 || ic_bench_number(argc, argv, "--tokens", 1000) < 1000) {
        fprintf(stderr, "usage: infchat-bench stream %s\n", ic_bench_stream.arguments);
        return 2;
    }
    stream *s = ic_calloc(1, sizeof *s);
    ic_error e = {0};
    int rc = open_stream(s, model, argc, argv, files, count, &e);
    rc = rc ? rc : run_stream(s, &e);
    bool paused = rc == 0 && s->paused;
    if (rc)
        fprintf(stderr, "infchat-bench stream: %s\n", e.text);
    else if (paused)
        fprintf(stderr, "paused at %lld of %lld tokens: the same command goes on\n",
                (long long)s->rows, (long long)s->tokens);
    for (int i = 0; i < s->count && rc == 0 && !paused; i++) {
        if (ic_bench_flag(argc, argv, "--json"))
            print_json(s, &s->list[i], model);
        else
            print_table(&s->list[i]);
    }
    if (rc == 0 && !paused && s->state)
        unlink(s->state);
    close_stream(s);
    return rc ? 1 : paused ? PAUSED : 0;
}

const ic_bench_command ic_bench_stream = {
    "stream",
    "--model DIR --text FILE... [--tokens N] " IC_BENCH_MEMORY_USAGE "\n"
    "           [--samples PER-TENTH] [--map LOOKS] [--state FILE [--for SECONDS]] [--threads N]\n"
    "           [--json]",
    "a long text through bounded memories: perplexity, speed and memory by tenths", run};
