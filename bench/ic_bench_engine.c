/* infchat-bench engine: how fast this machine runs a model of a known shape. The text tower with
 * weights at random, layer by layer as the engine does it: prefill of 512-row chunks and decode,
 * against what the memory and the GEMM library give in the same run. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/ic_mem.h"
#include "bench/ic_bench.h"
#include "bench/ic_bench_device.h"
#include "kernels/ic_ops.h"

typedef struct shape {
    const char *name;
    int layers, hidden, heads, kv_heads, head_dim, inter, vocab;
} shape;

static const shape shapes[] = {
    {"demo", 6, 192, 6, 2, 32, 512, 2048},
    {"qwen3-0.6b", 28, 1024, 16, 8, 128, 3072, 151936},
    {"qwen3-vl-2b", 28, 2048, 16, 8, 128, 6144, 151936},
    {"qwen3-vl-8b", 36, 4096, 32, 8, 128, 12288, 151936},
};
enum { SHAPES = sizeof shapes / sizeof *shapes, CHUNK = 512, LAPS = 11 };

/* One layer's weights; the head stands in `out` of the last. */
typedef struct layer {
    ic_weight *qkv, *o, *gate_up, *down;
    void *host[4];
} layer;

typedef struct model {
    ic_device *d;
    shape s;
    ic_dtype dtype;
    layer *layers;
    ic_weight *head;
    void *head_host;
    int64_t weight_bytes, layer_weights; /* bytes that one decode token reads; elements of layers */
    float *ones;
    ic_slab *slab;
    float *inv_freq;
    uint8_t *axis;
    ic_mat x, normed, qkv, attended, gate_up, gated, logits; /* [CHUNK or batch, ...] */
    /* The shortest time that each operation of a step has taken, [layers * LAPS + 1]: what a step
     * takes when nobody disturbs it, on a machine where a whole step is never left alone. */
    double *best, lap_start;
} model;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Numbers of either sign and of magnitude 2^-8 to 2^-7. */
static void fill_random(void *host, ic_dtype dtype, int64_t n, uint64_t *state)
{
    for (int64_t i = 0; i < n; i++) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        uint32_t bits = (uint32_t)(*state >> 16);
        uint32_t value = (bits & 0x807fffffu) | 0x3b800000u;
        if (dtype == IC_F32)
            ((uint32_t *)host)[i] = value;
        else
            ((uint16_t *)host)[i] = (uint16_t)(value >> 16);
    }
}

static int make_weight(model *m, ic_weight **w, void **host, int64_t out, int64_t in,
                       uint64_t *state, ic_error *e)
{
    *host = ic_try_alloc_aligned((size_t)(out * in) * ic_dtype_size(m->dtype));
    if (!*host)
        return ic_error_set(e, IC_ENOMEM, "no memory for the weights of %s", m->s.name);
    fill_random(*host, m->dtype, out * in, state);
    int rc = ic_weight_new(w, m->d, *host, m->dtype, m->dtype, out, in, e);
    if (rc == 0)
        m->weight_bytes += ic_weight_bytes(*w);
    return rc;
}

static int make_layer(model *m, layer *l, uint64_t *state, ic_error *e)
{
    const shape *s = &m->s;
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    int rc = make_weight(m, &l->qkv, &l->host[0], q + 2 * kv, s->hidden, state, e);
    if (rc == 0)
        rc = make_weight(m, &l->o, &l->host[1], s->hidden, q, state, e);
    if (rc == 0)
        rc = make_weight(m, &l->gate_up, &l->host[2], 2 * s->inter, s->hidden, state, e);
    if (rc == 0)
        rc = make_weight(m, &l->down, &l->host[3], s->hidden, s->inter, state, e);
    m->layer_weights += (int64_t)s->hidden * (2 * q + 2 * kv + 3 * s->inter);
    return rc;
}

static int make_mat(model *m, ic_mat *mat, int64_t rows, int64_t cols, ic_error *e)
{
    *mat = (ic_mat){ic_device_alloc(m->d, (size_t)(rows * cols) * 4), IC_F32, rows, cols, cols};
    return mat->data ? 0 : ic_error_set(e, IC_ENOMEM, "no memory for activations");
}

static int make_room(model *m, int slots, ic_error *e)
{
    const shape *s = &m->s;
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    ic_slab_desc desc = {s->layers, s->kv_heads, s->head_dim, slots, m->dtype, m->dtype};
    m->ones = ic_calloc((size_t)s->hidden + (size_t)s->head_dim, sizeof *m->ones);
    for (int i = 0; i < s->hidden + s->head_dim; i++)
        m->ones[i] = 1;
    m->inv_freq = ic_calloc((size_t)s->head_dim, sizeof *m->inv_freq);
    m->axis = ic_alloc((size_t)s->head_dim);
    m->best = ic_calloc((size_t)s->layers * LAPS + 1, sizeof *m->best);
    for (int i = 0; i < s->head_dim / 2; i++)
        m->inv_freq[i] = powf(5e6f, -2.0f * (float)i / (float)s->head_dim);
    int rc = ic_slab_new(&m->slab, m->d, &desc, e);
    rc = rc ? rc : make_mat(m, &m->x, CHUNK, s->hidden, e);
    rc = rc ? rc : make_mat(m, &m->normed, CHUNK, s->hidden, e);
    rc = rc ? rc : make_mat(m, &m->qkv, CHUNK, q + 2 * kv, e);
    rc = rc ? rc : make_mat(m, &m->attended, CHUNK, q, e);
    rc = rc ? rc : make_mat(m, &m->gate_up, CHUNK, 2 * s->inter, e);
    rc = rc ? rc : make_mat(m, &m->gated, CHUNK, s->inter, e);
    return rc ? rc : make_mat(m, &m->logits, 1, s->vocab, e);
}

static int model_new(model *m, int slots, ic_error *e)
{
    uint64_t state = UINT64_C(0x9e3779b97f4a7c15);
    m->layers = ic_calloc((size_t)m->s.layers, sizeof *m->layers);
    int rc = make_weight(m, &m->head, &m->head_host, m->s.vocab, m->s.hidden, &state, e);
    for (int i = 0; i < m->s.layers && rc == 0; i++)
        rc = make_layer(m, &m->layers[i], &state, e);
    return rc ? rc : make_room(m, slots, e);
}

static void model_free(model *m)
{
    ic_mat *mats[] = {&m->x, &m->normed, &m->qkv, &m->attended, &m->gate_up, &m->gated, &m->logits};
    for (size_t i = 0; i < sizeof mats / sizeof *mats; i++)
        ic_device_free(m->d, mats[i]->data);
    for (int i = 0; m->layers && i < m->s.layers; i++) {
        layer *l = &m->layers[i];
        ic_weight_destroy(&l->qkv);
        ic_weight_destroy(&l->o);
        ic_weight_destroy(&l->gate_up);
        ic_weight_destroy(&l->down);
        for (int j = 0; j < 4; j++)
            ic_free(l->host[j]);
    }
    ic_weight_destroy(&m->head);
    ic_free(m->head_host);
    ic_free(m->layers);
    ic_free(m->ones);
    ic_free(m->inv_freq);
    ic_free(m->axis);
    ic_free(m->best);
    ic_slab_destroy(&m->slab);
}

/* The first `rows` rows, and `cols` columns from `first` on. */
static ic_mat part(const ic_mat *m, int64_t rows, int64_t first, int64_t cols)
{
    return (ic_mat){(float *)m->data + first, IC_F32, rows, cols, m->stride};
}

/* Ends the operation with this number in the step; passes rc on. */
static int lap(model *m, int number, int rc)
{
    double end = now(), took = end - m->lap_start;
    if (m->best[number] == 0 || took < m->best[number])
        m->best[number] = took;
    m->lap_start = end;
    return rc;
}

static void forget_laps(model *m)
{
    memset(m->best, 0, ((size_t)m->s.layers * LAPS + 1) * sizeof *m->best);
}

static double undisturbed(const model *m)
{
    double sum = 0;
    for (int i = 0; i < m->s.layers * LAPS + 1; i++)
        sum += m->best[i];
    return sum;
}

static int run_layer(model *m, int index, int rows, ic_role role)
{
    const shape *s = &m->s;
    const layer *l = &m->layers[index];
    ic_device *d = m->d;
    int q_cols = s->heads * s->head_dim, kv_cols = s->kv_heads * s->head_dim;
    ic_mat x = part(&m->x, rows, 0, s->hidden), normed = part(&m->normed, rows, 0, s->hidden);
    ic_mat qkv = part(&m->qkv, rows, 0, m->qkv.cols), q = part(&m->qkv, rows, 0, q_cols);
    ic_mat k = part(&m->qkv, rows, q_cols, kv_cols);
    ic_mat v = part(&m->qkv, rows, q_cols + kv_cols, kv_cols);
    ic_mat attended = part(&m->attended, rows, 0, q_cols);
    ic_mat gate_up = part(&m->gate_up, rows, 0, 2 * s->inter);
    ic_mat gated = part(&m->gated, rows, 0, s->inter);
    ic_rope rope = {s->head_dim / 2, m->inv_freq, m->axis, 1};
    float scale = 1.0f / sqrtf((float)s->head_dim);
    int at = index * LAPS;
    int rc = lap(m, at, ic_op_rmsnorm(d, &x, m->ones, s->hidden, 1e-6f, &normed));
    rc = rc ? rc : lap(m, at + 1, ic_op_gemm(d, role, &normed, l->qkv, NULL, false, &qkv));
    rc = rc ? rc : lap(m, at + 2, ic_op_rmsnorm(d, &q, m->ones, s->head_dim, 1e-6f, &q));
    rc = rc ? rc : lap(m, at + 3, ic_op_rmsnorm(d, &k, m->ones, s->head_dim, 1e-6f, &k));
    rc = rc ? rc : lap(m, at + 4, ic_slab_store(m->slab, index, rows, 0, &k, &v));
    if (rc == 0 && role == IC_PREFILL)
        rc = ic_op_attention_prefill(d, m->slab, index, s->heads, &q, 0, &rope, scale, &attended);
    else if (rc == 0)
        rc = ic_op_attention_decode(d, (const ic_slab *const *)&m->slab, 1, index, s->heads, &q,
                                    &rope, scale, &attended);
    rc = lap(m, at + 5, rc);
    rc = rc ? rc : lap(m, at + 6, ic_op_gemm(d, role, &attended, l->o, NULL, true, &x));
    rc = rc ? rc : lap(m, at + 7, ic_op_rmsnorm(d, &x, m->ones, s->hidden, 1e-6f, &normed));
    rc = rc ? rc : lap(m, at + 8, ic_op_gemm(d, role, &normed, l->gate_up, NULL, false, &gate_up));
    rc = rc ? rc : lap(m, at + 9, ic_op_swiglu(d, &gate_up, &gated));
    return rc ? rc : lap(m, at + 10, ic_op_gemm(d, role, &gated, l->down, NULL, true, &x));
}

/* One step: `rows` new rows through all layers; in decode, the head as well. */
static int run_step(model *m, int rows, ic_role role, uint32_t *ordinal, ic_error *e)
{
    ic_row list[CHUNK];
    for (int i = 0; i < rows; i++)
        list[i] = (ic_row){.ordinal = (*ordinal)++, .advance = 1};
    int rc = ic_slab_append(m->slab, list, rows, e);
    if (rc)
        return rc;
    uint64_t state = *ordinal * UINT64_C(0x9e3779b97f4a7c15);
    fill_random(m->x.data, IC_F32, (int64_t)rows * m->s.hidden, &state);
    m->lap_start = now();
    for (int i = 0; i < m->s.layers && rc == 0; i++)
        rc = run_layer(m, i, rows, role);
    if (rc == 0 && role == IC_DECODE) {
        ic_mat x = part(&m->x, 1, 0, m->s.hidden);
        rc = ic_op_gemm(m->d, role, &x, m->head, NULL, false, &m->logits);
        rc = lap(m, m->s.layers * LAPS, rc);
    }
    rc = rc ? rc : ic_ops_wait(m->d);
    return rc ? ic_error_set(e, rc, "a step failed") : 0;
}

typedef struct speed {
    double best;        /* tokens/s of the best step that was seen */
    double undisturbed; /* tokens/s of a step of every operation's best time */
    double fraction;    /* of what the machine gives (bytes or flops), undisturbed */
} speed;

/* What an undisturbed chunk's time goes to. */
typedef enum share { SHARE_PRODUCTS, SHARE_ATTENTION, SHARE_ROWS, SHARES } share;
static const share share_of_lap[LAPS] = {
    SHARE_ROWS,     SHARE_PRODUCTS, SHARE_ROWS,     SHARE_ROWS, SHARE_ATTENTION, SHARE_ATTENTION,
    SHARE_PRODUCTS, SHARE_ROWS,     SHARE_PRODUCTS, SHARE_ROWS, SHARE_PRODUCTS};

typedef struct figures {
    double read_rate, gemm_rate, library_rate; /* bytes/s, flop/s */
    speed prefill, decode, decode_long;
    double prefill_library;        /* as a fraction of the library's rate */
    double prefill_shares[SHARES]; /* seconds of a chunk */
} figures;

static void share_out(const model *m, double *shares)
{
    for (int i = 0; i < m->s.layers * LAPS; i++)
        shares[share_of_lap[i % LAPS]] += m->best[i];
}

/* One product of the size of a chunk's largest. */
static void measure_gemm(const model *m, ic_device *d, double *best)
{
    double rate = d ? ic_device_gemm_rate(d, m->dtype, CHUNK, 2 * m->s.inter, m->s.hidden, 0) : 0;
    *best = rate > *best ? rate : *best;
}

/* Whole chunks, each in place of the one before. Between them plain products, own and through the
 * library, as large and as often as a chunk's, so that both sides see the same machine. */
static int measure_prefill(model *m, ic_device *library, double seconds, figures *f,
                           uint32_t *ordinal, ic_error *e)
{
    double start = now();
    speed *s = &f->prefill;
    forget_laps(m);
    do {
        double before = now();
        int rc = run_step(m, CHUNK, IC_PREFILL, ordinal, e);
        if (rc)
            return rc;
        double rate = CHUNK / (now() - before);
        s->best = rate > s->best ? rate : s->best;
        ic_slab_drop_last(m->slab, CHUNK);
        measure_gemm(m, m->d, &f->gemm_rate);
        measure_gemm(m, library, &f->library_rate);
    } while (now() - start < seconds);
    s->undisturbed = CHUNK / undisturbed(m);
    share_out(m, f->prefill_shares);
    double flops =
        2 * (double)m->layer_weights * s->undisturbed; /* of the layers' products alone */
    s->fraction = flops / f->gemm_rate;
    f->prefill_library = f->library_rate > 0 ? flops / f->library_rate : 0;
    return 0;
}

/* Single tokens behind `history` rows, each in place of the one before. Between them the same
 * memory is read plainly: one layer's largest weight, as long unread as the decode products find
 * theirs, so that both sides see the same machine as often. */
static int measure_decode(model *m, int history, double seconds, speed *s, double *read_rate,
                          uint32_t *ordinal, ic_error *e)
{
    int rc = 0;
    for (int at = 0; at < history && rc == 0; at += CHUNK)
        rc = run_step(m, history - at < CHUNK ? history - at : CHUNK, IC_PREFILL, ordinal, e);
    double bytes = (double)m->weight_bytes + (double)ic_slab_row_bytes_live(m->slab);
    double start = now(), reading = 0;
    forget_laps(m);
    for (int i = 0; rc == 0 && now() - start < seconds; i++) {
        double before = now();
        rc = run_step(m, 1, IC_DECODE, ordinal, e);
        double rate = 1 / (now() - before);
        s->best = rate > s->best ? rate : s->best;
        ic_slab_drop_last(m->slab, 1);
        const layer *l = &m->layers[i % m->s.layers];
        size_t window = (size_t)ic_weight_bytes(l->gate_up);
        rate = (double)window / ic_device_read_time(m->d, l->host[2], window);
        reading = rate > reading ? rate : reading;
    }
    s->undisturbed = 1 / undisturbed(m);
    s->fraction = s->undisturbed * bytes / reading;
    *read_rate = reading > *read_rate ? reading : *read_rate;
    ic_slab_drop_last(m->slab, history);
    return rc;
}

static int measure(model *m, int history, double seconds, figures *f, ic_error *e)
{
    uint32_t ordinal = 0;
    ic_device *library = NULL; /* stays NULL in a build without one: then its rate is 0 */
    ic_device_config config = {
        .kind = "cpu", .threads = ic_device_info_of(m->d)->threads, .library = true};
    int rc = ic_device_open(&library, &config, e);
    rc = rc == IC_EUNSUPPORTED ? 0 : rc;
    if (rc == 0)
        rc = measure_prefill(m, library, seconds * 4, f, &ordinal, e);
    ic_device_close(&library);
    if (rc == 0)
        rc = measure_decode(m, 16, seconds * 4, &f->decode, &f->read_rate, &ordinal, e);
    if (rc == 0)
        rc = measure_decode(m, history, seconds * 4, &f->decode_long, &f->read_rate, &ordinal, e);
    return rc;
}

static void print_table(const model *m, int history, const figures *f)
{
    const ic_device_info *info = ic_device_info_of(m->d);
    printf("%s, %s, %d threads, %s\n", m->s.name, ic_dtype_name(m->dtype), info->threads,
           info->numerics);
    printf("  weights read per token %10.1f MiB\n", (double)m->weight_bytes / 1048576);
    printf("  memory read            %10.1f GB/s\n", f->read_rate * 1e-9);
    printf("  GEMM, own loops        %10.0f GFLOP/s\n", f->gemm_rate * 1e-9);
    printf("  GEMM, library          %10.0f GFLOP/s\n", f->library_rate * 1e-9);
    printf("                             best step   undisturbed, tokens/s\n");
    printf("  prefill of %d rows    %10.1f    %10.1f   %.2f of own GEMM, %.2f of library's\n",
           CHUNK, f->prefill.best, f->prefill.undisturbed, f->prefill.fraction, f->prefill_library);
    const double *part = f->prefill_shares;
    printf("    of its time: products %.1f ms, attention %.1f ms, norms and gates %.1f ms\n",
           part[SHARE_PRODUCTS] * 1e3, part[SHARE_ATTENTION] * 1e3, part[SHARE_ROWS] * 1e3);
    printf("  decode at %-6d       %10.2f    %10.2f   %.2f of memory read\n", 16, f->decode.best,
           f->decode.undisturbed, f->decode.fraction);
    printf("  decode at %-6d       %10.2f    %10.2f   %.2f of memory read, cache included\n",
           history, f->decode_long.best, f->decode_long.undisturbed, f->decode_long.fraction);
    printf("  peak memory            %10.1f MiB\n", (double)ic_bench_peak_memory() / 1048576);
}

static void print_speed(const char *name, const speed *s)
{
    printf(",\"%s_best_tokens_per_s\":%.5g,\"%s_tokens_per_s\":%.5g,\"%s_fraction\":%.3f", name,
           s->best, name, s->undisturbed, name, s->fraction);
}

static void print_json(const model *m, int history, const figures *f)
{
    const ic_device_info *info = ic_device_info_of(m->d);
    printf("{\"shape\":\"%s\",\"dtype\":\"%s\",\"threads\":%d,\"numerics\":\"%s\"", m->s.name,
           ic_dtype_name(m->dtype), info->threads, info->numerics);
    printf(",\"weight_bytes\":%lld,\"read_bytes_per_s\":%.4g,\"gemm_flops\":%.4g,"
           "\"library_gemm_flops\":%.4g",
           (long long)m->weight_bytes, f->read_rate, f->gemm_rate, f->library_rate);
    print_speed("prefill", &f->prefill);
    printf(",\"prefill_library_fraction\":%.3f,\"prefill_products_s\":%.4g,"
           "\"prefill_attention_s\":%.4g,\"prefill_rows_s\":%.4g",
           f->prefill_library, f->prefill_shares[SHARE_PRODUCTS],
           f->prefill_shares[SHARE_ATTENTION], f->prefill_shares[SHARE_ROWS]);
    print_speed("decode", &f->decode);
    printf(",\"history\":%d", history);
    print_speed("decode_history", &f->decode_long);
    printf(",\"peak_memory_bytes\":%zu}\n", ic_bench_peak_memory());
}

static const shape *find_shape(const char *name)
{
    for (int i = 0; i < SHAPES; i++)
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
    return NULL;
}

static int run_on_device(const char *kind, int argc, char **argv)
{
    ic_error e = {0};
    const char *name = ic_bench_option(argc, argv, "--shape", "qwen3-vl-8b");
    long seconds = ic_bench_number(argc, argv, "--seconds", 3);
    int rc = ic_bench_device(kind, name, seconds < 1 ? 1 : (double)seconds,
                             ic_bench_flag(argc, argv, "--json"), &e);
    if (rc)
        fprintf(stderr, "infchat-bench engine: %s\n", e.text);
    return rc ? 1 : 0;
}

static int run(int argc, char **argv)
{
    static const char *const flags[] = {"--json", NULL};
    static const char *const options[] = {"--shape",   "--dtype",  "--threads", "--history",
                                          "--seconds", "--device", NULL};
    if (!ic_bench_check(argc, argv, flags, options))
        return 2;
    const char *device = ic_bench_option(argc, argv, "--device", "cpu");
    if (strcmp(device, "cpu") != 0)
        return run_on_device(device, argc, argv);
    const shape *s = find_shape(ic_bench_option(argc, argv, "--shape", "qwen3-0.6b"));
    int dtype = ic_dtype_parse(ic_bench_option(argc, argv, "--dtype", "bf16"));
    long history = ic_bench_number(argc, argv, "--history", 2048);
    long threads = ic_bench_number(argc, argv, "--threads", 0);
    long seconds = ic_bench_number(argc, argv, "--seconds", 3);
    if (!s || (dtype != IC_F32 && dtype != IC_BF16) || history < 1 || history > 1 << 20
        || threads < 0 || threads > 1024 || seconds < 1) {
        fprintf(stderr, "usage: infchat-bench engine %s\n", ic_bench_engine.arguments);
        return 2;
    }
    model m = {.s = *s, .dtype = (ic_dtype)dtype};
    figures f = {0};
    ic_error e = {0};
    int rc = ic_device_open(&m.d, &(ic_device_config){.kind = "cpu", .threads = (int)threads}, &e);
    if (rc == 0)
        rc = model_new(&m, (int)history + CHUNK + 16, &e);
    if (rc == 0)
        rc = measure(&m, (int)history, (double)seconds, &f, &e);
    if (rc)
        fprintf(stderr, "infchat-bench engine: %s\n", e.text);
    else if (ic_bench_flag(argc, argv, "--json"))
        print_json(&m, (int)history, &f);
    else
        print_table(&m, (int)history, &f);
    model_free(&m);
    ic_device_close(&m.d);
    return rc ? 1 : 0;
}

const ic_bench_command ic_bench_engine = {
    "engine",
    "--shape demo|qwen3-0.6b|qwen3-vl-2b|qwen3-vl-8b [--dtype bf16|f32] [--threads N]\n"
    "           [--history ROWS] [--seconds N] [--json] [--device cpu|cuda]",
    "prefill and decode of a text tower with random weights, against memory and GEMM rates", run};
