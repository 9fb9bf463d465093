/* infchat-bench policy --cost: what scoring and eviction take beside a chunk's prefill and a
 * token's decode, for saddle and for h2o at equal budget. A text tower with weights at random;
 * weights of a few layers stand in turn for those of all (their bytes are out of the caches when
 * their turn comes again), every layer has a cache of its own. Of each operation the shortest time
 * counts, so that what else the machine does stays out. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/ic_mem.h"
#include "bench/ic_bench.h"
#include "engine/ic_policy.h"
#include "kernels/ic_ops.h"

enum { LAYERS_OF_WEIGHTS = 4, OPS = 11, ATTENTION = 5, CHUNK_MAX = 512 };

typedef struct shape {
    const char *name;
    int layers, hidden, heads, kv_heads, head_dim, inter, vocab;
} shape;

static const shape shapes[] = {
    {"demo", 5, 256, 4, 2, 64, 512, 2048},
    {"qwen3-0.6b", 28, 1024, 16, 8, 128, 3072, 151936},
};

typedef struct layer {
    ic_weight *qkv, *o, *gate_up, *down;
} layer;

typedef struct times {      /* the shortest of each operation */
    double *best;           /* [layers * OPS] */
    double *scored, *alone; /* [layers]: attention that scores; scoring by itself */
    double last;            /* the head */
} times;

typedef struct side { /* one policy with a cache of its own; the two take turns */
    ic_session_config config;
    const ic_policy *policy;
    ic_slab *slab;
    uint32_t ordinal;
    times chunk, token, *now;
    double select, token_select;
} side;

typedef struct bench {
    ic_device *d;
    const shape *s;
    layer layers[LAYERS_OF_WEIGHTS];
    ic_weight *head;
    void *host[LAYERS_OF_WEIGHTS * 4 + 1]; /* the weights' own memory, kept by reference */
    int hosts;
    ic_mat x, normed, qkv, attended, gate_up, gated, logits;
    float *ones, *inv_freq;
    uint8_t *axis;
    uint64_t state;
    side *at; /* the policy whose turn it is */
} bench;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void note(double *best, double since)
{
    double took = now() - since;
    *best = *best == 0 || took < *best ? took : *best;
}

static float next_float(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (float)(int32_t)(*state >> 32) * 0x1p-31f;
}

static void fill(ic_mat *m, uint64_t *state)
{
    for (int64_t i = 0; i < m->rows * m->cols; i++)
        ((float *)m->data)[i / m->cols * m->stride + i % m->cols] = next_float(state);
}

/* --- the model ----------------------------------------------------------------------------------
 */

static int make_weight(bench *b, ic_weight **w, int64_t out, int64_t in, ic_error *e)
{
    uint16_t *host = ic_try_alloc_aligned((size_t)(out * in) * sizeof *host);
    if (!host)
        return ic_error_set(e, IC_ENOMEM, "no memory for the weights of %s", b->s->name);
    b->host[b->hosts++] = host;
    for (int64_t i = 0; i < out * in; i++) { /* bf16 of magnitude 2^-7 */
        b->state ^= b->state << 13;
        b->state ^= b->state >> 7;
        b->state ^= b->state << 17;
        host[i] = (uint16_t)((b->state >> 16 & 0x807f) | 0x3c00);
    }
    return ic_weight_new(w, b->d, host, IC_BF16, IC_BF16, out, in, e);
}

static int make_mat(bench *b, ic_mat *mat, int64_t rows, int64_t cols, ic_error *e)
{
    *mat = (ic_mat){ic_device_alloc(b->d, (size_t)(rows * cols) * 4), IC_F32, rows, cols, cols};
    return mat->data ? 0 : ic_error_set(e, IC_ENOMEM, "no memory for activations");
}

static int make_model(bench *b, ic_error *e)
{
    const shape *s = b->s;
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim, rc = 0;
    for (int i = 0; i < LAYERS_OF_WEIGHTS && rc == 0; i++) {
        layer *l = &b->layers[i];
        rc = make_weight(b, &l->qkv, q + 2 * kv, s->hidden, e);
        rc = rc ? rc : make_weight(b, &l->o, s->hidden, q, e);
        rc = rc ? rc : make_weight(b, &l->gate_up, 2 * s->inter, s->hidden, e);
        rc = rc ? rc : make_weight(b, &l->down, s->hidden, s->inter, e);
    }
    rc = rc ? rc : make_weight(b, &b->head, s->vocab, s->hidden, e);
    rc = rc ? rc : make_mat(b, &b->x, CHUNK_MAX, s->hidden, e);
    rc = rc ? rc : make_mat(b, &b->normed, CHUNK_MAX, s->hidden, e);
    rc = rc ? rc : make_mat(b, &b->qkv, CHUNK_MAX, q + 2 * kv, e);
    rc = rc ? rc : make_mat(b, &b->attended, CHUNK_MAX, q, e);
    rc = rc ? rc : make_mat(b, &b->gate_up, CHUNK_MAX, 2 * s->inter, e);
    rc = rc ? rc : make_mat(b, &b->gated, CHUNK_MAX, s->inter, e);
    rc = rc ? rc : make_mat(b, &b->logits, 1, s->vocab, e);
    b->ones = ic_calloc((size_t)s->hidden + (size_t)s->head_dim, sizeof *b->ones);
    for (int i = 0; i < s->hidden + s->head_dim; i++)
        b->ones[i] = 1;
    b->inv_freq = ic_calloc((size_t)s->head_dim, sizeof *b->inv_freq);
    b->axis = ic_alloc((size_t)s->head_dim);
    for (int i = 0; i < s->head_dim / 2; i++)
        b->inv_freq[i] = powf(1e6f, -2.0f * (float)i / (float)s->head_dim);
    return rc;
}

static void drop_model(bench *b)
{
    ic_mat *mats[] = {&b->x, &b->normed, &b->qkv, &b->attended, &b->gate_up, &b->gated, &b->logits};
    for (size_t i = 0; i < sizeof mats / sizeof *mats; i++)
        ic_device_free(b->d, mats[i]->data);
    for (int i = 0; i < LAYERS_OF_WEIGHTS; i++) {
        layer *l = &b->layers[i];
        ic_weight_destroy(&l->qkv);
        ic_weight_destroy(&l->o);
        ic_weight_destroy(&l->gate_up);
        ic_weight_destroy(&l->down);
    }
    ic_weight_destroy(&b->head);
    for (int i = 0; i < b->hosts; i++)
        ic_free(b->host[i]);
    ic_free(b->ones);
    ic_free(b->inv_freq);
    ic_free(b->axis);
}

static ic_mat part(const ic_mat *m, int64_t rows, int64_t first, int64_t cols)
{
    return (ic_mat){(float *)m->data + first, IC_F32, rows, cols, m->stride};
}

/* --- steps --------------------------------------------------------------------------------------
 */

static int attend(bench *b, int index, const ic_mat *q, bool decode, ic_mat *y)
{
    const shape *s = b->s;
    ic_rope rope = {s->head_dim / 2, b->inv_freq, b->axis, 1};
    float scale = 1.0f / sqrtf((float)s->head_dim);
    int window = b->at->config.window < q->rows ? b->at->config.window : (int)q->rows, rc;
    double since = now();
    if (decode) {
        rc = ic_op_attention_decode(b->d, (const ic_slab *const *)&b->at->slab, 1, index, s->heads,
                                    q, &rope, scale, y);
        note(&b->at->now->best[index * OPS + ATTENTION], since);
        return rc;
    }
    rc = ic_op_attention_prefill(b->d, b->at->slab, index, s->heads, q, 0, &rope, scale, y);
    note(&b->at->now->best[index * OPS + ATTENTION], since);
    if (rc || b->at->policy->score != IC_SCORE_WINDOW)
        return rc;
    since = now();
    rc = ic_op_attention_prefill_scored(b->d, b->at->slab, index, s->heads, q, 0, &rope, scale,
                                        window, y);
    note(&b->at->now->scored[index], since);
    ic_mat last = {(float *)q->data + (q->rows - window) * q->stride, IC_F32, window, q->cols,
                   q->stride};
    since = now();
    if (rc == 0)
        rc = ic_op_attention_score(b->d, b->at->slab, index, s->heads, &last, &rope, scale);
    note(&b->at->now->alone[index], since);
    return rc;
}

/* Runs an operation and notes its time. */
#define TIMED(op, call)                                                                            \
    do {                                                                                           \
        double since_ = now();                                                                     \
        rc = rc ? rc : (call);                                                                     \
        note(&b->at->now->best[index * OPS + (op)], since_);                                       \
    } while (0)

static int run_layer(bench *b, int index, int rows, bool decode)
{
    const shape *s = b->s;
    const layer *l = &b->layers[index % LAYERS_OF_WEIGHTS];
    ic_device *d = b->d;
    ic_role role = decode ? IC_DECODE : IC_PREFILL;
    int qc = s->heads * s->head_dim, kc = s->kv_heads * s->head_dim, rc = 0;
    ic_mat x = part(&b->x, rows, 0, s->hidden), normed = part(&b->normed, rows, 0, s->hidden);
    ic_mat qkv = part(&b->qkv, rows, 0, b->qkv.cols), q = part(&b->qkv, rows, 0, qc);
    ic_mat k = part(&b->qkv, rows, qc, kc), v = part(&b->qkv, rows, qc + kc, kc);
    ic_mat attended = part(&b->attended, rows, 0, qc);
    ic_mat gate_up = part(&b->gate_up, rows, 0, 2 * s->inter);
    ic_mat gated = part(&b->gated, rows, 0, s->inter);
    TIMED(0, ic_op_rmsnorm(d, &x, b->ones, s->hidden, 1e-6f, &normed));
    TIMED(1, ic_op_gemm(d, role, &normed, l->qkv, NULL, false, &qkv));
    TIMED(2, ic_op_rmsnorm(d, &q, b->ones, s->head_dim, 1e-6f, &q));
    TIMED(3, ic_op_rmsnorm(d, &k, b->ones, s->head_dim, 1e-6f, &k));
    TIMED(4, ic_slab_store(b->at->slab, index, rows, 0, &k, &v));
    rc = rc ? rc : attend(b, index, &q, decode, &attended);
    TIMED(6, ic_op_gemm(d, role, &attended, l->o, NULL, true, &x));
    TIMED(7, ic_op_rmsnorm(d, &x, b->ones, s->hidden, 1e-6f, &normed));
    TIMED(8, ic_op_gemm(d, role, &normed, l->gate_up, NULL, false, &gate_up));
    TIMED(9, ic_op_swiglu(d, &gate_up, &gated));
    TIMED(10, ic_op_gemm(d, role, &gated, l->down, NULL, true, &x));
    return rc;
}

static int run_step(bench *b, int rows, bool decode, ic_error *e)
{
    ic_row list[CHUNK_MAX];
    for (int i = 0; i < rows; i++)
        list[i] = (ic_row){.ordinal = b->at->ordinal++, .advance = 1};
    int rc = ic_slab_append(b->at->slab, list, rows, e);
    if (rc)
        return rc;
    ic_mat x = part(&b->x, rows, 0, b->s->hidden);
    fill(&x, &b->state);
    for (int i = 0; i < b->s->layers && rc == 0; i++)
        rc = run_layer(b, i, rows, decode);
    double since = now();
    if (rc == 0 && decode)
        rc = ic_op_gemm(b->d, IC_DECODE, &x, b->head, NULL, false, &b->logits);
    note(&b->at->now->last, since);
    return rc ? ic_error_set(e, rc, "a step failed") : 0;
}

/* Rows that were there before: K and V at random, no products. */
static int fill_cache(bench *b, ic_error *e)
{
    int left = b->at->config.cache_tokens, kc = b->s->kv_heads * b->s->head_dim, rc = 0;
    ic_row list[CHUNK_MAX];
    while (left > 0 && rc == 0) {
        int rows = left < CHUNK_MAX ? left : CHUNK_MAX;
        ic_mat k = part(&b->qkv, rows, 0, kc), v = part(&b->qkv, rows, kc, kc);
        for (int i = 0; i < rows; i++)
            list[i] = (ic_row){.ordinal = b->at->ordinal++, .advance = 1};
        rc = ic_slab_append(b->at->slab, list, rows, e);
        fill(&k, &b->state);
        fill(&v, &b->state);
        for (int i = 0; i < b->s->layers && rc == 0; i++)
            rc = ic_slab_store(b->at->slab, i, rows, 0, &k, &v);
        left -= rows;
    }
    return rc;
}

typedef struct figures {                                 /* seconds */
    double chunk, attention, score, score_alone, select; /* of a chunk; score: beside attention */
    double token, token_attention, token_select;
} figures;

static double sum_ops(const bench *b, const times *t, int op)
{
    double sum = 0;
    for (int i = 0; i < b->s->layers * OPS; i++)
        sum += op < 0 || i % OPS == op ? t->best[i] : 0;
    return sum;
}

static figures figures_of(const bench *b, const side *w)
{
    figures f = {.chunk = sum_ops(b, &w->chunk, -1),
                 .attention = sum_ops(b, &w->chunk, ATTENTION),
                 .select = w->select,
                 .token = sum_ops(b, &w->token, -1) + w->token.last,
                 .token_attention = sum_ops(b, &w->token, ATTENTION),
                 .token_select = w->token_select};
    for (int i = 0; i < b->s->layers; i++) {
        double attention = w->chunk.best[i * OPS + ATTENTION];
        f.score += w->chunk.scored[i] > 0 ? w->chunk.scored[i] - attention : 0;
        f.score_alone += w->chunk.alone[i];
    }
    return f;
}

static int run_chunk(bench *b, side *w, int rows, ic_error *e)
{
    b->at = w;
    w->now = &w->chunk;
    int rc = run_step(b, rows, false, e);
    if (rc)
        return rc;
    ic_plan plan = {0};
    bool due = ic_policy_chunk_end(w->policy, &w->config, ic_slab_used(w->slab), &plan);
    double since = now();
    rc = due ? ic_slab_evict(w->slab, &plan, NULL) : 0;
    note(&w->select, since);
    return rc;
}

/* A token of an answer; the policy's own rule says when rows leave. */
static int run_token(bench *b, side *w, ic_error *e)
{
    bool due = false;
    ic_plan plan = {0};
    b->at = w;
    w->now = &w->token;
    int rc = run_step(b, 1, true, e);
    rc = rc ? rc
            : ic_policy_answer_row(w->policy, &w->config, ic_slab_used(w->slab), &due, &plan, e);
    double since = now();
    if (rc == 0 && due) {
        rc = ic_slab_evict(w->slab, &plan, NULL);
        note(&w->token_select, since);
    }
    return rc;
}

static void make_times(const bench *b, times *t)
{
    t->best = ic_calloc((size_t)b->s->layers * (OPS + 2), sizeof *t->best);
    t->scored = t->best + b->s->layers * OPS;
    t->alone = t->scored + b->s->layers;
}

static int open_side(bench *b, side *w, const char *policy, const ic_session_config *config,
                     int chunk, ic_error *e)
{
    const shape *s = b->s;
    w->config = *config;
    snprintf(w->config.policy, sizeof w->config.policy, "%s", policy);
    ic_policy_settle(&w->config);
    w->policy = ic_policy_find(policy);
    make_times(b, &w->chunk);
    make_times(b, &w->token);
    ic_slab_desc desc = {s->layers,   s->kv_heads,
                         s->head_dim, config->cache_tokens + chunk + config->slack,
                         IC_BF16,     IC_BF16};
    int rc = ic_slab_new(&w->slab, b->d, &desc, e);
    rc = rc ? rc : ic_slab_keep_scores(w->slab, ic_policy_score(&w->config), 0, e);
    b->at = w;
    return rc ? rc : fill_cache(b, e);
}

static void close_side(side *w)
{
    ic_slab_destroy(&w->slab);
    ic_free(w->chunk.best);
    ic_free(w->token.best);
}

enum { TOKENS_A_LAP = 8 };

static int measure(bench *b, side sides[2], int chunk, int laps, ic_error *e)
{
    int rc = 0;
    for (int i = 0; i < laps && rc == 0; i++) {
        for (int n = 0; n < 2 && rc == 0; n++)
            rc = run_chunk(b, &sides[n], chunk, e);
        for (int n = 0; n < 2 * TOKENS_A_LAP && rc == 0; n++)
            rc = run_token(b, &sides[n % 2], e);
    }
    return rc;
}

/* --- results ------------------------------------------------------------------------------------
 */

static void print_policy(const char *name, const figures *f, bool json)
{
    const double values[] = {f->chunk,  f->attention, f->score,           f->score_alone,
                             f->select, f->token,     f->token_attention, f->token_select};
    static const char *const names[] = {"chunk_ms",           "chunk_attention_ms", "score_ms",
                                        "score_sliced_ms",    "select_ms",          "token_ms",
                                        "token_attention_ms", "token_select_ms"};
    printf(json ? ",\"%s\":{" : "%s\n", name);
    for (int i = 0; i < 8; i++) {
        if (json)
            printf("%s\"%s\":%.4g", i ? "," : "", names[i], values[i] * 1e3);
        else
            printf("  %-20s %10.3f\n", names[i], values[i] * 1e3);
    }
    if (json)
        printf("}");
}

static void print_all(const bench *b, const side sides[2], int chunk, bool json)
{
    const ic_device_info *info = ic_device_info_of(b->d);
    const ic_session_config *c = &sides[0].config;
    figures both[2] = {figures_of(b, &sides[0]), figures_of(b, &sides[1])};
    const figures *saddle = &both[0], *h2o = &both[1];
    double share = saddle->score / saddle->chunk;
    double sliced = saddle->score_alone / saddle->chunk, select = saddle->select / saddle->chunk;
    double chunk_gain =
        (h2o->chunk + h2o->select) / (saddle->chunk + saddle->score + saddle->select);
    double token_gain = (h2o->token + h2o->token_select) / saddle->token;
    if (json)
        printf("{\"shape\":\"%s\",\"threads\":%d,\"numerics\":\"%s\",\"window\":%d,\"chunk\":%d,"
               "\"cache_tokens\":%d,\"slots_at_scoring\":%d",
               b->s->name, info->threads, info->numerics, c->window, chunk, c->cache_tokens,
               c->cache_tokens + chunk);
    else
        printf("%s, %d threads, %s: window %d, chunk %d, %d slots at scoring; milliseconds\n",
               b->s->name, info->threads, info->numerics, c->window, chunk,
               c->cache_tokens + chunk);
    print_policy("saddle", saddle, json);
    print_policy("h2o", h2o, json);
    if (json)
        printf(",\"score_share\":%.4f,\"score_sliced_share\":%.4f,\"select_share\":%.4f,"
               "\"chunk_speedup_over_h2o\":%.3f,\"token_speedup_over_h2o\":%.3f}\n",
               share, sliced, select, chunk_gain, token_gain);
    else
        printf("scoring %.1f %% of the chunk's prefill (%.1f %% when the window comes in slices), "
               "selection %.1f %%\nover h2o: %.2f times per chunk, %.2f times per token\n",
               share * 100, sliced * 100, select * 100, chunk_gain, token_gain);
}

static int run(int argc, char **argv)
{
    static const char *const flags[] = {"--cost", "--json", NULL};
    static const char *const options[] = {"--shape", "--threads", "--window", "--chunk",
                                          "--slots", "--laps",    NULL};
    if (!ic_bench_check(argc, argv, flags, options))
        return 2;
    bench b = {.state = UINT64_C(0x9e3779b97f4a7c15)};
    const char *name = ic_bench_option(argc, argv, "--shape", "qwen3-0.6b");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        b.s = strcmp(shapes[i].name, name) == 0 ? &shapes[i] : b.s;
    long chunk = ic_bench_number(argc, argv, "--chunk", 256);
    long slots = ic_bench_number(argc, argv, "--slots", 4096);
    long laps = ic_bench_number(argc, argv, "--laps", 5);
    long threads = ic_bench_number(argc, argv, "--threads", 0);
    long window = ic_bench_number(argc, argv, "--window", IC_POLICY_WINDOW);
    if (!ic_bench_flag(argc, argv, "--cost") || !b.s || chunk < 1 || chunk > CHUNK_MAX
        || slots < chunk + 64 || slots > 1 << 20 || laps < 1 || laps > 1000 || threads < 0
        || threads > 1024 || window < 1 || window > 128) {
        fprintf(stderr, "usage: infchat-bench policy %s\n", ic_bench_policy.arguments);
        return 2;
    }
    ic_session_config config = {.cache_tokens = (int)(slots - chunk),
                                .slack = TOKENS_A_LAP + 8,
                                .sinks = 4,
                                .window = (int)window};
    side sides[2] = {{.select = 0}};
    ic_error e = {0};
    int rc = ic_device_open(&b.d, &(ic_device_config){.kind = "cpu", .threads = (int)threads}, &e);
    rc = rc ? rc : make_model(&b, &e);
    rc = rc ? rc : open_side(&b, &sides[0], "saddle", &config, (int)chunk, &e);
    rc = rc ? rc : open_side(&b, &sides[1], "h2o", &config, (int)chunk, &e);
    rc = rc ? rc : measure(&b, sides, (int)chunk, (int)laps, &e);
    if (rc)
        fprintf(stderr, "infchat-bench policy: %s\n", e.text);
    else
        print_all(&b, sides, (int)chunk, ic_bench_flag(argc, argv, "--json"));
    close_side(&sides[0]);
    close_side(&sides[1]);
    if (b.d)
        drop_model(&b);
    ic_device_close(&b.d);
    return rc ? 1 : 0;
}

const ic_bench_command ic_bench_policy = {
    "policy",
    "--cost [--shape qwen3-0.6b|demo] [--chunk ROWS] [--slots N] [--window L] [--laps N]\n"
    "           [--threads N] [--json]",
    "what scoring and eviction take beside prefill and decode, saddle against h2o", run};
