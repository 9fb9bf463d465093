/* infchat-bench recall: what bounded memories still know of a long film. A stream of the demo world
 * (models/demo/train/make_stream.py makes films and questions from the truths that the training
 * talk is made of) goes in as it does in the service: a real file through the fence around FFmpeg,
 * sampled, fitted to the model's grid, two frames to a group. On the way there are rounds, which
 * stay in the conversation as a user's do: half of them about now, half about the past at known
 * distances. All memories take the same stream side by side; answers are counted by distance. Left
 * out of a build without the server's rooms. */
#include "bench/ic_bench.h"

#ifdef IC_HAVE_SERVER

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actors/media/ic_media.h"
#include "base/ic_mem.h"
#include "bench/ic_bench_answer.h"
#include "bench/ic_bench_memory.h"

enum { ANSWER_TOKENS = 64, ANSWER_BYTES = 2048, FIELDS = 7, LOOKS_MAX = 400 };

typedef struct round_of { /* all text lies in the script */
    int64_t at_us;
    const char *when; /* "now", "past", "never" */
    int distance;     /* seconds; 0 for now and never */
    double seen;      /* second at which the subject was last seen; -1: none */
    const char *kind, *question, *accept;
} round_of;

typedef struct script {
    char *text;
    const char *film;
    double fps, seconds;
    round_of *rounds;
    int count;
} script;

typedef struct memory {
    ic_session_config config;
    ic_session *session;
    char answer[ANSWER_BYTES];
    size_t used;
    char *outcome;  /* [rounds] '1' right, '0' wrong */
    double *held;   /* [rounds] rows of the frames of the subject's second, mean over all heads */
    uint32_t *came; /* ordinal with which each second of the film begins [seconds + 2] */
    int asked;      /* of the rounds: fewer than all if the session ended before */
    bool ended;
    ic_error error;
    ic_bench_map map;
} memory;

typedef struct recall {
    ic_engine *engine;
    script script;
    ic_media *media;
    ic_grid grid;
    memory list[IC_BENCH_MEMORIES_MAX];
    int count, next; /* next: round */
    int64_t end_us;
    int frames, looks, looked, marked;
    bool verbose;
    double seconds;
} recall;

/* --- the script ---------------------------------------------------------------------------------
 */

static int read_whole(const char *path, char **text, ic_error *e)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return ic_error_set(e, IC_ENOTFOUND, "%s cannot be read; make_stream.py makes it", path);
    size_t size = 0, room = 1 << 16, got;
    *text = ic_alloc(room);
    while ((got = fread(*text + size, 1, room - size - 1, f)) > 0) {
        size += got;
        if (room - size < 2)
            *text = ic_realloc(*text, room *= 2);
    }
    fclose(f);
    (*text)[size] = '\0';
    return IC_OK;
}

/* Cuts a line at its tabs; how many fields there are. */
static int cut(char *line, char *fields[FIELDS])
{
    int n = 0;
    for (char *at = line; at && n < FIELDS; n++) {
        fields[n] = at;
        at = strchr(at, '\t');
        if (at)
            *at++ = '\0';
    }
    return n;
}

static int read_script(script *s, const char *path, ic_error *e)
{
    int rc = read_whole(path, &s->text, e), room = 0;
    char *rest = NULL, *f[FIELDS];
    if (rc)
        return rc;
    for (char *line = strtok_r(s->text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        int n = cut(line, f);
        if (n == 4 && strcmp(f[0], "film") == 0) {
            s->film = f[1];
            s->fps = atof(f[2]);
            s->seconds = atof(f[3]);
            continue;
        }
        if (n != FIELDS)
            return ic_error_set(e, IC_EFORMAT, "%s: a round has %d fields, not %d", path, n,
                                FIELDS);
        if (s->count == room) {
            room = room ? 2 * room : 256;
            s->rounds = ic_realloc(s->rounds, (size_t)room * sizeof *s->rounds);
        }
        s->rounds[s->count++] = (round_of){.at_us = (int64_t)(atof(f[0]) * 1e6),
                                           .when = f[1],
                                           .distance = atoi(f[2]),
                                           .seen = atof(f[3]),
                                           .kind = f[4],
                                           .question = f[5],
                                           .accept = f[6]};
    }
    if (!s->film || s->fps <= 0 || s->seconds <= 0 || s->count == 0)
        return ic_error_set(e, IC_EFORMAT, "%s names no film, or has no rounds", path);
    return IC_OK;
}

/* --- the sessions -------------------------------------------------------------------------------
 */

static void end_memory(memory *m, const ic_error *error)
{
    m->ended = true;
    m->error = *error;
    ic_session_destroy(&m->session);
}

static void take_token(const recall *r, memory *m, int32_t token)
{
    size_t bytes = 0;
    const char *piece = ic_tokenizer_piece(ic_engine_tokenizer(r->engine), token, &bytes);
    if (piece && m->used + bytes < sizeof m->answer) {
        memcpy(m->answer + m->used, piece, bytes);
        m->used += bytes;
        m->answer[m->used] = '\0';
    }
}

/* Steps all sessions until none has anything to do. */
static int settle(recall *r, ic_error *e)
{
    for (;;) {
        ic_slice slices[IC_BENCH_MEMORIES_MAX];
        memory *of[IC_BENCH_MEMORIES_MAX];
        int n = 0;
        for (int i = 0; i < r->count; i++) {
            memory *m = &r->list[i];
            if (m->ended || !ic_session_is_ready(m->session))
                continue;
            of[n] = m;
            slices[n++] = (ic_slice){.session = m->session, .max_rows = 512};
        }
        if (n == 0)
            return IC_OK;
        int rc = ic_engine_step(r->engine, slices, n, e);
        if (rc)
            return rc;
        for (int i = 0; i < n; i++) {
            if (slices[i].progress == IC_PROGRESS_FAILED)
                end_memory(of[i], &slices[i].error);
            else if (slices[i].progress == IC_PROGRESS_TOKEN)
                take_token(r, of[i], slices[i].token);
        }
    }
}

static int give_frame(recall *r, ic_frame *raw, ic_error *e)
{
    ic_frame *fitted = NULL;
    int rc = ic_engine_fit_frame(r->engine, raw, &r->grid, &fitted, e);
    for (int i = 0; i < r->count && rc == 0; i++) {
        memory *m = &r->list[i];
        ic_error why = {0};
        ic_frame *mine = ic_frame_ref(fitted);
        if (!m->ended && ic_session_frame(m->session, &mine, &r->grid, &why))
            end_memory(m, &why);
        ic_frame_unref(&mine);
    }
    ic_frame_unref(&fitted);
    r->frames++;
    return rc ? rc : settle(r, e);
}

/* What is still held of the frames that showed the subject. */
static double held_of(const recall *r, const memory *m, double seen)
{
    int second = (int)seen, sum = 0;
    if (seen < 0 || second + 1 >= r->marked)
        return 0;
    const ic_slab *slab = ic_session_slab(m->session);
    const ic_slab_desc *d = ic_slab_desc_of(slab);
    ic_row *rows = ic_calloc((size_t)d->slots, sizeof *rows);
    for (int head = 0; head < d->layers * d->kv_heads; head++) {
        int n = ic_slab_count(slab, head / d->kv_heads, head % d->kv_heads);
        ic_slab_rows(slab, head / d->kv_heads, head % d->kv_heads, rows, NULL, NULL);
        for (int i = 0; i < n; i++)
            sum += rows[i].kind != IC_ROW_TEXT && rows[i].ordinal >= m->came[second]
                   && rows[i].ordinal < m->came[second + 1];
    }
    ic_free(rows);
    return (double)sum / (d->layers * d->kv_heads);
}

static int ask(recall *r, const round_of *q, ic_error *e)
{
    ic_sampling sampling = ic_engine_info_of(r->engine)->sampling;
    sampling.max_tokens = ANSWER_TOKENS;
    for (int i = 0; i < r->count; i++) {
        memory *m = &r->list[i];
        ic_error why = {0};
        m->used = 0;
        m->answer[0] = '\0';
        m->held[m->asked] = m->ended ? 0 : held_of(r, m, q->seen);
        if (!m->ended && ic_session_ask(m->session, q->question, &sampling, &why))
            end_memory(m, &why);
    }
    int rc = settle(r, e);
    for (int i = 0; i < r->count && rc == 0; i++) {
        memory *m = &r->list[i];
        if (m->ended)
            continue;
        bool right = ic_bench_is_right(m->answer, q->accept);
        m->outcome[m->asked++] = right ? '1' : '0';
        if (r->verbose)
            fprintf(stderr, "%s %d | %.0f s | %s %d | %s | %s | %s | %s\n", m->config.policy,
                    m->config.cache_tokens, (double)q->at_us * 1e-6, q->when, q->distance,
                    q->question, m->answer, q->accept, right ? "right" : "wrong");
    }
    return rc;
}

/* Notes where each second of the film begins, before its rounds and frames. */
static void mark(recall *r, int64_t now_us)
{
    for (; (int64_t)r->marked * 1000000 <= now_us && r->marked <= r->script.seconds; r->marked++) {
        for (int i = 0; i < r->count; i++) {
            memory *m = &r->list[i];
            ic_session_stats stats = {0};
            if (!m->ended)
                ic_session_stats_of(m->session, &stats);
            m->came[r->marked] = (uint32_t)stats.tokens;
        }
    }
}

/* At equal intervals of the film. */
static void look(recall *r, int64_t at_us)
{
    while (r->looked < r->looks && at_us >= r->end_us * (r->looked + 1) / r->looks) {
        r->looked++;
        for (int i = 0; i < r->count; i++) {
            if (!r->list[i].ended)
                ic_bench_map_look(&r->list[i].map, r->list[i].session);
        }
    }
}

static int ask_until(recall *r, int64_t now_us, ic_error *e)
{
    int rc = IC_OK;
    while (rc == 0 && r->next < r->script.count && r->script.rounds[r->next].at_us <= now_us)
        rc = ask(r, &r->script.rounds[r->next++], e);
    return rc;
}

static int play(recall *r, ic_error *e)
{
    double since = ic_bench_now();
    int rc = IC_OK;
    while (rc == 0) {
        ic_frame *raw = NULL;
        rc = ic_media_next(r->media, &raw, e);
        if (rc == IC_ECLOSED || (rc == 0 && raw->pts_us >= r->end_us)) {
            ic_frame_unref(&raw);
            mark(r, r->end_us);
            rc = ask_until(r, r->end_us, e);
            look(r, r->end_us);
            break;
        }
        if (rc == 0) {
            mark(r, raw->pts_us);
            rc = ask_until(r, raw->pts_us, e);
        }
        if (rc == 0) {
            look(r, raw->pts_us);
            rc = give_frame(r, raw, e);
        }
        ic_frame_unref(&raw);
    }
    r->seconds = ic_bench_now() - since;
    return rc;
}

/* --- results ------------------------------------------------------------------------------------
 */

typedef struct tally {
    int asked, right;
    int asked_held, right_held; /* of these: something of the subject was held */
    double rows;                /* of it, sum */
} tally;

/* Of the rounds asked that this fits; outcome, if not NULL, gets their '0' and '1'. */
static tally count(const recall *r, const memory *m, const char *when, int distance,
                   const char *kind, char *outcome)
{
    tally t = {0};
    for (int i = 0; i < m->asked; i++) {
        const round_of *q = &r->script.rounds[i];
        if ((when && strcmp(q->when, when) != 0) || (distance >= 0 && q->distance != distance)
            || (kind && strcmp(q->kind, kind) != 0))
            continue;
        if (outcome)
            outcome[t.asked] = m->outcome[i];
        t.asked++;
        t.right += m->outcome[i] == '1';
        t.asked_held += m->held[i] > 0;
        t.right_held += m->held[i] > 0 && m->outcome[i] == '1';
        t.rows += m->held[i];
    }
    if (outcome)
        outcome[t.asked] = '\0';
    return t;
}

/* The next larger distance of a past round that was asked; -1: none. */
static int next_distance(const recall *r, const memory *m, int after)
{
    int next = -1;
    for (int i = 0; i < m->asked; i++) {
        int d = r->script.rounds[i].distance;
        if (d > after && (next < 0 || d < next))
            next = d;
    }
    return next;
}

static void print_kinds(const recall *r, const memory *m)
{
    printf(",\"kinds\":[");
    for (int i = 0, printed = 0; i < m->asked; i++) {
        const round_of *q = &r->script.rounds[i];
        int j = 0;
        while (strcmp(r->script.rounds[j].kind, q->kind) != 0
               || strcmp(r->script.rounds[j].when, q->when) != 0)
            j++;
        if (j < i)
            continue;
        tally t = count(r, m, q->when, -1, q->kind, NULL);
        printf("%s{\"when\":\"%s\",\"kind\":\"%s\",\"asked\":%d,\"right\":%d}",
               printed++ ? "," : "", q->when, q->kind, t.asked, t.right);
    }
    printf("]");
}

static void print_part(const char *name, tally t, const char *outcome)
{
    printf(",\"%s\":{\"asked\":%d,\"right\":%d,\"outcome\":\"%s\"}", name, t.asked, t.right,
           outcome);
}

static void print_json(const recall *r, const memory *m, const char *model, const char *seed)
{
    char *outcome = ic_alloc((size_t)m->asked + 1);
    ic_session_stats stats = {0};
    if (m->session)
        ic_session_stats_of(m->session, &stats);
    printf("{\"bench\":\"recall\",\"model\":\"%s\",\"numerics\":\"%s\",\"meaning\":\"%s\",", model,
           ic_engine_info_of(r->engine)->numerics, ic_engine_info_of(r->engine)->meaning);
    ic_bench_memory_print(&m->config);
    printf(",\"seed\":%s,\"minutes\":%.4g,\"fps\":%.4g,\"frames_in\":%d,\"group_tokens\":%d,"
           "\"rounds\":%d,\"asked\":%d,\"tokens\":%llu,\"evicted_tokens\":%llu",
           seed, (double)r->end_us / 6e7, r->script.fps, r->frames,
           r->grid.tokens_w * r->grid.tokens_h, r->next, m->asked, (unsigned long long)stats.tokens,
           (unsigned long long)stats.evicted_tokens);
    print_part("now", count(r, m, "now", -1, NULL, outcome), outcome);
    print_part("past", count(r, m, "past", -1, NULL, outcome), outcome);
    print_part("never", count(r, m, "never", -1, NULL, outcome), outcome);
    printf(",\"distances\":[");
    for (int d = next_distance(r, m, 0), first = 1; d > 0; d = next_distance(r, m, d), first = 0) {
        tally t = count(r, m, "past", d, NULL, outcome);
        printf("%s{\"seconds\":%d,\"asked\":%d,\"right\":%d,\"outcome\":\"%s\","
               "\"asked_held\":%d,\"right_held\":%d,\"rows_held\":%.3f}",
               first ? "" : ",", d, t.asked, t.right, outcome, t.asked_held, t.right_held,
               t.rows / t.asked);
    }
    printf("]");
    print_kinds(r, m);
    printf(",\"side_by_side\":%d,\"wall_s\":%.2f,\"peak_memory_bytes\":%zu,\"ended\":", r->count,
           r->seconds, ic_bench_peak_memory());
    ic_bench_print_string(m->ended ? m->error.text : "all asked");
    ic_bench_map_print(&m->map, "seconds", (double)r->end_us * 1e-6);
    printf("}\n");
    ic_free(outcome);
}

static void print_row(const recall *r, const memory *m)
{
    static const char *const names[] = {"now", "past", "never"};
    printf("%-14s %6d ", m->config.policy, m->config.cache_tokens);
    for (int i = 0; i < 3; i++) {
        tally t = count(r, m, names[i], -1, NULL, NULL);
        printf("  %s %d/%d", names[i], t.right, t.asked);
    }
    for (int d = next_distance(r, m, 0); d > 0; d = next_distance(r, m, d)) {
        tally t = count(r, m, "past", d, NULL, NULL);
        printf("  %d s %d/%d", d, t.right, t.asked);
    }
    printf("%s%s\n", m->ended ? "; " : "", m->ended ? m->error.text : "");
}

/* --- the command --------------------------------------------------------------------------------
 */

static int open_film(recall *r, const char *folder, ic_error *e)
{
    char *root = realpath(folder, NULL); /* the script in it has been read */
    char *path = ic_strf("%s/%s", root ? root : folder, r->script.film);
    const char *roots[] = {root};
    ic_media_source source = {
        .kind = IC_MEDIA_FILE, .name = path, .roots = roots, .roots_count = 1, .size = -1};
    ic_media_config config;
    ic_media_config_init(&config);
    config.fps = r->script.fps;
    config.threads = 1;
    int rc = ic_media_open(&r->media, &source, &config, e);
    if (rc == 0) {
        const ic_media_info *info = ic_media_get_info(r->media);
        rc = ic_engine_grid(r->engine, info->width, info->height, 0, true, &r->grid, e);
    }
    ic_free(path);
    free(root);
    return rc;
}

static int open_memories(recall *r, int argc, char **argv, ic_error *e)
{
    ic_session_config configs[IC_BENCH_MEMORIES_MAX];
    int n = ic_bench_memories(r->engine, argc, argv, false, configs, e), rc = n < 0 ? n : 0;
    for (int i = 0; i < n && rc == 0; i++) {
        memory *m = &r->list[r->count++];
        m->outcome = ic_alloc((size_t)r->script.count);
        m->held = ic_calloc((size_t)r->script.count, sizeof *m->held);
        m->came = ic_calloc((size_t)r->script.seconds + 2, sizeof *m->came);
        ic_bench_map_init(&m->map, r->looks);
        rc = ic_session_new(&m->session, r->engine, &configs[i], e);
        if (rc == 0)
            m->config = *ic_session_config_of(m->session); /* settled */
    }
    return rc;
}

static int open_recall(recall *r, const char *model, const char *folder, const char *seed, int argc,
                       char **argv, ic_error *e)
{
    ic_engine_config config = {.model_dir = model,
                               .device = "cpu",
                               .dtype = "auto",
                               .threads = (int)ic_bench_number(argc, argv, "--threads", 0)};
    char *path = ic_strf("%s/stream_%s.tsv", folder, seed);
    int rc = read_script(&r->script, path, e);
    ic_free(path);
    double minutes = atof(ic_bench_option(argc, argv, "--minutes", "0"));
    r->end_us = (int64_t)(r->script.seconds * 1e6);
    if (rc == 0 && minutes * 60 > r->script.seconds)
        rc = ic_error_set(e, IC_EINVAL, "the stream of seed %s has %.4g minutes only", seed,
                          r->script.seconds / 60);
    if (minutes > 0)
        r->end_us = (int64_t)(minutes * 6e7);
    r->looks = (int)ic_bench_number(argc, argv, "--map", 0);
    if (rc == 0 && (r->looks < 0 || r->looks > LOOKS_MAX))
        rc = ic_error_set(e, IC_EINVAL, "--map takes 0 to %d looks", LOOKS_MAX);
    rc = rc ? rc : ic_engine_open(&r->engine, &config, e);
    rc = rc ? rc : open_film(r, folder, e);
    return rc ? rc : open_memories(r, argc, argv, e);
}

static void close_recall(recall *r)
{
    for (int i = 0; i < r->count; i++) {
        memory *m = &r->list[i];
        ic_session_destroy(&m->session);
        ic_free(m->outcome);
        ic_free(m->held);
        ic_free(m->came);
        ic_bench_map_fini(&m->map);
    }
    ic_media_close(&r->media);
    ic_engine_close(&r->engine);
    ic_free(r->script.rounds);
    ic_free(r->script.text);
    ic_free(r);
}

static int run(int argc, char **argv)
{
    static const char *const flags[] = {"--json", "--verbose", NULL};
    static const char *const options[] = {IC_BENCH_MEMORY_OPTIONS,
                                          "--model",
                                          "--films",
                                          "--seed",
                                          "--minutes",
                                          "--map",
                                          "--threads",
                                          NULL};
    if (!ic_bench_check(argc, argv, flags, options))
        return 2;
    const char *model = ic_bench_option(argc, argv, "--model", NULL);
    const char *folder = ic_bench_option(argc, argv, "--films", NULL);
    const char *seed = ic_bench_option(argc, argv, "--seed", "0");
    if (!model || !folder || !*seed || seed[strspn(seed, "0123456789")]) {
        fprintf(stderr, "usage: infchat-bench recall %s\n", ic_bench_recall.arguments);
        return 2;
    }
    recall *r = ic_calloc(1, sizeof *r);
    ic_error e = {0};
    r->verbose = ic_bench_flag(argc, argv, "--verbose");
    int rc = open_recall(r, model, folder, seed, argc, argv, &e);
    rc = rc ? rc : play(r, &e);
    if (rc)
        fprintf(stderr, "infchat-bench recall: %s\n", e.text);
    for (int i = 0; i < r->count && rc == 0; i++) {
        if (ic_bench_flag(argc, argv, "--json"))
            print_json(r, &r->list[i], model, seed);
        else
            print_row(r, &r->list[i]);
    }
    close_recall(r);
    return rc ? 1 : 0;
}

const ic_bench_command ic_bench_recall = {
    "recall",
    "--model DIR --films DIR [--seed S] [--minutes M] " IC_BENCH_MEMORY_USAGE "\n"
    "           [--map LOOKS] [--threads N] [--verbose] [--json]",
    "films with questions on the way: what bounded memories still know, by distance", run};

#endif
