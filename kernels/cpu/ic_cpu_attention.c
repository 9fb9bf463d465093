/* Attention: blocks of keys under an online softmax (Milakov & Gimelshein 2018; Dao et al. 2022),
 * for a prefill slice, a decode row and the patches of a frame.
 *
 * A tile is some query rows times the heads that share a kv head. It walks over blocks of 64 keys
 * that are aligned to the order of the cache, so that what a row adds up, and in which order,
 * depends on its place alone: not on the slice it came in, nor on its neighbours in the tile. Keys
 * are rotated when their block is loaded, once for all rows and heads of the tile. */
#include <math.h>
#include <string.h>

#include "base/ic_assert.h"
#include "base/ic_mem.h"
#include "kernels/cpu/ic_cpu_score.h"
#include "kernels/ic_slab_priv.h"

enum {
    BLOCK_KEYS = IC_CPU_SCORE_KEYS,
    TILE_ROWS = 128,   /* queries times heads: enough that loading a block costs little beside it */
    HALVES_ROWS = 256, /* the same where products are faster */
    HALVES_STEP = 32,  /* elements that a product in halves adds at a time */
    ANGLES_MIN = 1024
};

/* --- angles --- */

static bool same_rope(const ic_cpu_angles *a, const ic_rope *rope)
{
    size_t half = (size_t)rope->half;
    return a->positions > 0 && a->half == rope->half && a->scale == rope->scale
           && memcmp(a->inv_freq, rope->inv_freq, half * sizeof(float)) == 0
           && memcmp(a->axis, rope->axis, half) == 0;
}

static void forget_angles(ic_cpu_angles *a)
{
    ic_free(a->inv_freq);
    ic_free(a->axis);
    ic_free(a->cosine);
    ic_free(a->sine);
    *a = (ic_cpu_angles){0};
}

static void adopt_rope(ic_cpu_angles *a, const ic_rope *rope)
{
    forget_angles(a);
    size_t half = (size_t)rope->half;
    a->half = rope->half;
    a->scale = rope->scale;
    a->inv_freq = memcpy(ic_alloc(half * sizeof(float)), rope->inv_freq, half * sizeof(float));
    a->axis = memcpy(ic_alloc(half), rope->axis, half);
    a->one_axis = true;
    for (size_t i = 0; i < half; i++) {
        IC_ASSERT(rope->axis[i] < 3);
        a->one_axis = a->one_axis && rope->axis[i] == 0;
    }
}

static void angle_rows(void *arg, int64_t first, int64_t end)
{
    ic_cpu_angles *a = arg;
    for (int64_t p = first; p < end; p++)
        for (int i = 0; i < a->half; i++) {
            float angle = (float)p * a->inv_freq[i];
            a->cosine[p * a->half + i] = cosf(angle) * a->scale;
            a->sine[p * a->half + i] = sinf(angle) * a->scale;
        }
}

/* Sees to it that the table covers positions below `end`. */
static int reach(ic_cpu_device *d, const ic_rope *rope, int32_t end)
{
    ic_cpu_angles *a = &d->angles;
    if (!same_rope(a, rope))
        adopt_rope(a, rope);
    if (end <= a->positions)
        return 0;
    int64_t positions = a->positions ? a->positions : ANGLES_MIN;
    while (positions < end)
        positions *= 2;
    size_t bytes = (size_t)positions * (size_t)a->half * sizeof(float);
    ic_free(a->cosine);
    ic_free(a->sine);
    a->positions = 0;
    a->cosine = ic_try_alloc(bytes);
    a->sine = ic_try_alloc(bytes);
    if (!a->cosine || !a->sine)
        return IC_ENOMEM;
    ic_cpu_for_rows(d, angle_rows, a, positions, 256);
    a->positions = (int)positions;
    return 0;
}

/* Cosines and sines at a position: borrowed from the table, or put together in `room` [2, half]. */
static void angles_at(const ic_cpu_device *d, ic_pos p, float *room, const float **cosine,
                      const float **sine)
{
    const ic_cpu_angles *a = &d->angles;
    int64_t half = a->half, t = p.t * half, h = p.h * half, w = p.w * half;
    *cosine = a->cosine + t;
    *sine = a->sine + t;
    if (a->one_axis || (p.t == p.h && p.t == p.w))
        return;
    d->vec->pick(a->cosine + t, a->cosine + h, a->cosine + w, a->axis, room, a->half);
    d->vec->pick(a->sine + t, a->sine + h, a->sine + w, a->axis, room + half, a->half);
    *cosine = room;
    *sine = room + half;
}

/* --- tiles --- */

/* One worker's room for a tile; all pointers lie in its scratch. */
typedef struct tile {
    const ic_cpu_vec *vec;
    int rows, dim, wide; /* wide: dim rounded up to lanes */
    float *q;            /* [rows, dim], rotated and scaled */
    float *o;            /* [rows, wide] */
    float *s;            /* [rows, BLOCK_KEYS] */
    float *max, *sum;    /* [rows] */
    float *k;            /* [BLOCK_KEYS, dim] */
    float *kt;           /* [dim, BLOCK_KEYS] */
    float *v;            /* [BLOCK_KEYS, wide] */
    float *angles;       /* [dim] */
    bool blank;          /* weights alone are wanted: no v, no o */

    /* In halves, if products run so: q and the weights [rows, ...], keys and values of the block as
     * right sides, and keys as they come [BLOCK_KEYS, deep]. */
    bool halves;
    int deep; /* dim rounded up to whole steps, the rest zero */
    ic_cpu_halves q2, s2, k2, kt2, v2;
} tile;

static size_t tile_bytes(int rows, int dim, bool halves)
{
    size_t wide = (size_t)ic_cpu_round_up(dim, IC_CPU_LANES), d = wide, r = (size_t)rows;
    size_t deep = (size_t)ic_cpu_round_up(dim, HALVES_STEP);
    r = (size_t)ic_cpu_round_up((int64_t)r, IC_CPU_LANES); /* keeps every part aligned */
    size_t floats = r * d + r * wide + r * BLOCK_KEYS + 2 * r + BLOCK_KEYS * (2 * d + wide) + d;
    if (halves)
        floats += r * deep + r * BLOCK_KEYS + 2 * BLOCK_KEYS * deep;
    return sizeof(float) * floats;
}

static ic_cpu_halves halves_in(float *memory, int64_t rows, int64_t cols)
{
    uint16_t *at = (uint16_t *)(void *)memory;
    return (ic_cpu_halves){at, at + rows * cols, cols};
}

/* What products in halves need, behind the rest. */
static void make_halves(tile *t, float *at, int64_t room)
{
    int64_t deep = ic_cpu_round_up(t->dim, HALVES_STEP);
    t->halves = true;
    t->deep = (int)deep;
    t->q2 = halves_in(at, room, deep);
    t->s2 = halves_in(at + room * deep, room, BLOCK_KEYS);
    t->k2 = halves_in(at + room * (deep + BLOCK_KEYS), BLOCK_KEYS, deep);
    t->kt2 =
        halves_in(at + room * (deep + BLOCK_KEYS) + BLOCK_KEYS * deep, deep / 2, 2 * BLOCK_KEYS);
    t->v2 = (ic_cpu_halves){.high = (uint16_t *)(void *)t->v, .stride = 2 * (int64_t)t->wide};
    if (deep != t->dim) {
        memset(t->q2.high, 0, (size_t)(room * deep) * sizeof(float));
        memset(t->k2.high, 0, (size_t)(BLOCK_KEYS * deep) * sizeof(float));
    }
}

static tile tile_in(const ic_cpu_device *d, void *memory, int rows, int dim, bool halves)
{
    int64_t wide = ic_cpu_round_up(dim, IC_CPU_LANES);
    int64_t room = ic_cpu_round_up(rows, IC_CPU_LANES);
    tile t = {.vec = d->vec, .rows = rows, .dim = dim, .wide = (int)wide};
    float *at = memory;
    t.q = at;
    t.o = t.q + room * wide;
    t.s = t.o + room * wide;
    t.max = t.s + room * BLOCK_KEYS;
    t.sum = t.max + room;
    t.k = t.sum + room;
    t.kt = t.k + BLOCK_KEYS * wide;
    t.v = t.kt + BLOCK_KEYS * wide;
    t.angles = t.v + BLOCK_KEYS * wide;
    if (halves)
        make_halves(&t, t.angles + wide, room);
    memset(t.o, 0, (size_t)rows * (size_t)wide * sizeof *t.o);
    memset(t.v, 0, BLOCK_KEYS * (size_t)wide * sizeof *t.v);
    for (int r = 0; r < rows; r++) {
        t.max[r] = -INFINITY;
        t.sum[r] = 0;
    }
    return t;
}

static void multiply_keys(const tile *t, int first, int rows, float *s)
{
    if (!t->halves) {
        t->vec->gemm(t->q + (int64_t)first * t->dim, t->dim, t->kt, BLOCK_KEYS, s, BLOCK_KEYS, rows,
                     t->dim, BLOCK_KEYS, false);
        return;
    }
    int64_t at = first * t->q2.stride;
    ic_cpu_halves q = {t->q2.high + at, t->q2.low + at, t->q2.stride};
    t->vec->gemm_halves(&q, &t->kt2, s, BLOCK_KEYS, rows, t->deep / 2, BLOCK_KEYS, false);
}

static void multiply_values(const tile *t, int first, int rows, int keys, const float *s)
{
    float *o = t->o + (int64_t)first * t->wide;
    if (!t->halves) {
        t->vec->gemm(s, BLOCK_KEYS, t->v, t->wide, o, t->wide, rows, keys, t->wide, true);
        return;
    }
    t->vec->halve(s, t->s2.high, t->s2.low, rows * BLOCK_KEYS);
    t->vec->gemm_halves(&t->s2, &t->v2, o, t->wide, rows, BLOCK_KEYS / 2, t->wide, true);
}

/* Adds a loaded block of `keys` keys to rows from `first` on. Row r sees visible + (r - first) /
 * step keys of the block, at most all; step 0: all see `visible`. */
static void add_block(tile *t, int first, int keys, int visible, int step)
{
    int rows = t->rows - first;
    float *s = t->s + (int64_t)first * BLOCK_KEYS;
    multiply_keys(t, first, rows, s);
    for (int r = 0; r < rows; r++) {
        int sees = visible + (step ? r / step : 0);
        for (int j = sees; j < BLOCK_KEYS; j++)
            s[r * BLOCK_KEYS + j] = -INFINITY;
        float factor =
            t->vec->softmax(s + r * BLOCK_KEYS, BLOCK_KEYS, &t->max[first + r], &t->sum[first + r]);
        if (factor != 1.0f && !t->blank)
            t->vec->scale(factor, t->o + (int64_t)(first + r) * t->wide, t->wide);
    }
    if (!t->blank)
        multiply_values(t, first, rows, keys, s);
}

static void give_row(const tile *t, int row, float *y)
{
    float *o = t->o + (int64_t)row * t->wide;
    t->vec->scale(1.0f / t->sum[row], o, t->wide);
    memcpy(y, o, (size_t)t->dim * sizeof *y);
}

/* --- attention over a slab --- */

typedef struct slab_job {
    ic_cpu_device *d;
    const ic_slab *const *slabs; /* one (prefill), or one per row (decode) */
    int layer, heads, kv_heads, dim;
    const ic_mat *q;
    ic_mat *y; /* NULL: scores alone */
    float scale;
    int behind;      /* rows appended after the slice */
    int rows_a_tile; /* rows of q in a tile, and in the window */
    int tiles;       /* per kv head */
    int window;      /* so many rows at the end score; they lie in the last tile */
    int last_rows;   /* of q in the last tile; 0: what is left */
    bool halves;     /* products of the tiles run in halves of bf16 */
    bool one_each;   /* decode: row i belongs to slabs[i] */
    bool in_turn;    /* a kv head's tiles run one after the other: its sums have an order */
    size_t kept_at;  /* in a worker's scratch: behind the largest tile */
} slab_job;

/* The key in t->k goes to its place in halves. */
static void halve_key(const tile *t, int i, const float *k)
{
    int64_t at = i * t->k2.stride;
    t->vec->halve(k, t->k2.high + at, t->k2.low + at, t->dim);
}

/* Keys in halves become a right side of pairs; those that do not exist count as zero. */
static void turn_halves(const tile *t, int keys)
{
    int64_t deep = t->deep, at = keys * deep;
    size_t rest = (size_t)((BLOCK_KEYS - keys) * deep) * sizeof(uint16_t);
    memset(t->k2.high + at, 0, rest);
    memset(t->k2.low + at, 0, rest);
    t->vec->transpose(t->k2.high, deep / 2, BLOCK_KEYS, t->deep / 2, t->kt2.high, BLOCK_KEYS);
    t->vec->transpose(t->k2.low, deep / 2, BLOCK_KEYS, t->deep / 2, t->kt2.low, BLOCK_KEYS);
}

/* Values of bf16 as pairs of rows, zeros behind the last. (A last one without a partner stands
 * twice: the weight of the second is 0.) */
static void pair_values(const tile *t, const ic_slab *s, int head, const int32_t *order, int keys)
{
    uint32_t *to = (uint32_t *)(void *)t->v2.high;
    int i = 0;
    for (; i < keys; i += 2, to += t->wide)
        t->vec->pair(ic_slab_v_at(s, head, order[i]),
                     ic_slab_v_at(s, head, order[i + 1 < keys ? i + 1 : i]), to, t->dim);
    memset(to, 0, (size_t)((BLOCK_KEYS - i) / 2 * t->wide) * sizeof *to);
}

static void load_slab_block(const slab_job *j, tile *t, const ic_slab *s, int head, int first,
                            int keys)
{
    const int32_t *order = ic_slab_order_of(s, head);
    const ic_pos *positions = ic_slab_positions_of(s, head);
    const float *cosine, *sine;
    for (int i = 0; i < keys; i++) {
        int slot = order[first + i];
        float *k = t->k + (int64_t)i * t->dim;
        t->vec->widen(s->desc.k_dtype, ic_slab_k_at(s, head, slot), k, t->dim);
        angles_at(j->d, positions[first + i], t->angles, &cosine, &sine);
        t->vec->rotate(k, cosine, sine, t->dim / 2, k);
        if (t->halves)
            halve_key(t, i, k);
        if (t->blank || t->halves)
            continue;
        t->vec->widen(s->desc.v_dtype, ic_slab_v_at(s, head, slot), t->v + (int64_t)i * t->wide,
                      t->dim);
    }
    if (t->halves) {
        turn_halves(t, keys);
        if (!t->blank)
            pair_values(t, s, head, order + first, keys);
        return;
    }
    memset(t->k + (int64_t)keys * t->dim, 0, (size_t)(BLOCK_KEYS - keys) * t->dim * sizeof *t->k);
    t->vec->transpose(t->k, t->dim, BLOCK_KEYS, t->dim, t->kt, BLOCK_KEYS);
}

/* Decode: the block's keys are rotated in registers and used at once, for a tile of one row. */
static void add_decode_block(const slab_job *j, tile *t, const ic_slab *s, int head, int first,
                             int keys)
{
    const int32_t *order = ic_slab_order_of(s, head) + first;
    const ic_pos *positions = ic_slab_positions_of(s, head) + first;
    const void *k[BLOCK_KEYS], *v[BLOCK_KEYS];
    const float *cosine[BLOCK_KEYS], *sine[BLOCK_KEYS];
    size_t v_bytes = (size_t)t->dim * ic_dtype_size(s->desc.v_dtype);
    for (int i = 0; i < keys; i++) {
        k[i] = ic_slab_k_at(s, head, order[i]);
        v[i] = ic_slab_v_at(s, head, order[i]);
        angles_at(j->d, positions[i], t->kt + (int64_t)i * t->dim, &cosine[i], &sine[i]);
        for (size_t at = 0; at < v_bytes; at += 64) /* under way while the keys are scored */
            __builtin_prefetch((const char *)v[i] + at, 0, 2);
    }
    t->vec->decode_scores(s->desc.k_dtype, k, cosine, sine, keys, t->dim / 2, t->q, t->rows, t->s,
                          BLOCK_KEYS);
    for (int r = 0; r < t->rows; r++) {
        float *weights = t->s + (int64_t)r * BLOCK_KEYS, *o = t->o + (int64_t)r * t->wide;
        for (int i = keys; i < BLOCK_KEYS; i++)
            weights[i] = -INFINITY;
        float factor = t->vec->softmax(weights, BLOCK_KEYS, &t->max[r], &t->sum[r]);
        if (factor != 1.0f)
            t->vec->scale(factor, o, t->wide);
    }
    t->vec->decode_values(s->desc.v_dtype, v, keys, t->dim, t->s, BLOCK_KEYS, t->rows, t->o,
                          t->wide);
}

static void load_query(const slab_job *j, tile *t, int kv, ic_pos position, int64_t row, int at)
{
    int group = j->heads / j->kv_heads;
    const float *cosine, *sine, *q = ic_cpu_row(j->q, row) + (int64_t)kv * group * j->dim;
    angles_at(j->d, position, t->angles, &cosine, &sine);
    for (int g = 0; g < group; g++, at++) {
        t->vec->rotate(q + (int64_t)g * j->dim, cosine, sine, j->dim / 2,
                       t->q + (int64_t)at * j->dim);
        t->vec->scale(j->scale, t->q + (int64_t)at * j->dim, j->dim);
        if (t->halves)
            t->vec->halve(t->q + (int64_t)at * j->dim, t->q2.high + at * t->q2.stride,
                          t->q2.low + at * t->q2.stride, j->dim);
    }
}

/* Rows of q in a tile; the last one may be a larger one, so as to hold a window. */
static int tile_rows(const slab_job *j, int part, int64_t *first)
{
    int64_t before = j->q->rows - j->last_rows;
    *first = (int64_t)part * j->rows_a_tile;
    if (j->last_rows && part == j->tiles - 1) {
        *first = before;
        return j->last_rows;
    }
    return (int)(before - *first < j->rows_a_tile ? before - *first : j->rows_a_tile);
}

/* Rows of the tile that score: all that the kept weights are of, at its end. */
static void walk_blocks(const slab_job *j, tile *t, const ic_slab *s, int head, int place,
                        const ic_cpu_kept *kept)
{
    int silent = kept ? t->rows - kept->rows : 0;
    float *scratch = t->s;
    int group = j->heads / j->kv_heads, end = place + t->rows / group; /* that the last row sees */
    for (int at = 0; at < end; at += BLOCK_KEYS) {
        int keys = end - at < BLOCK_KEYS ? end - at : BLOCK_KEYS;
        int blind = at > place ? at - place : 0; /* rows that stand before this block */
        int hidden = blind * group > silent ? blind * group - silent : 0;
        float *room = kept ? ic_cpu_kept_block(kept, at / BLOCK_KEYS, hidden) : NULL;
        t->s = kept && silent == 0 ? room : scratch;
        if (j->one_each) {
            add_decode_block(j, t, s, head, at, keys);
        } else {
            load_slab_block(j, t, s, head, at, keys);
            add_block(t, blind * group, keys, place + blind - at + 1, group);
        }
        if (kept)
            ic_cpu_kept_max(kept, at / BLOCK_KEYS, t->max + silent);
        if (kept && silent)
            memcpy(room + (int64_t)hidden * BLOCK_KEYS,
                   scratch + (int64_t)(silent + hidden) * BLOCK_KEYS,
                   (size_t)(kept->rows - hidden) * BLOCK_KEYS * sizeof *room);
    }
}

static void attend_tile(const slab_job *j, int kv, int part, int worker)
{
    int group = j->heads / j->kv_heads;
    int64_t first;
    int rows = tile_rows(j, part, &first);
    const ic_slab *s = j->slabs[j->one_each ? first : 0];
    int head = ic_slab_head(s, j->layer, kv), count = s->counts[head];
    /* The place of the tile's first row in the head's order. */
    int place = j->one_each ? count - 1 : (int)(count - j->behind - j->q->rows + first);
    bool sums = s->score_kind == IC_SCORE_SUM;
    bool scores = sums || (j->window && part == j->tiles - 1);
    int scoring = sums ? rows : j->window, silent = (rows - scoring) * group;
    char *memory = ic_cpu_worker_scratch(j->d, worker);
    tile t = tile_in(j->d, memory, rows * group, j->dim, j->halves);
    ic_cpu_kept kept = {0};
    t.blank = !j->y;
    if (scores)
        kept = ic_cpu_kept_in(memory + j->kept_at, scoring * group, place + rows);
    for (int i = 0; i < rows; i++)
        load_query(j, &t, kv, ic_slab_positions_of(s, head)[place + i], first + i, i * group);
    walk_blocks(j, &t, s, head, place, scores ? &kept : NULL);
    if (scores)
        ic_cpu_score(&kept, &(ic_cpu_scored){.vec = t.vec,
                                             .slab = s,
                                             .head = head,
                                             .place = place + rows - scoring,
                                             .rows = scoring,
                                             .group = group,
                                             .max = t.max + silent,
                                             .sum = t.sum + silent});
    for (int i = 0; j->y && i < rows; i++)
        for (int g = 0; g < group; g++)
            give_row(&t, i * group + g,
                     ic_cpu_row(j->y, first + i) + (int64_t)(kv * group + g) * j->dim);
}

static void slab_task(void *arg, int task, int worker)
{
    const slab_job *j = arg;
    if (!j->in_turn) {
        attend_tile(j, task % j->kv_heads, task / j->kv_heads, worker);
        return;
    }
    for (int part = 0; part < j->tiles; part++)
        attend_tile(j, task, part, worker);
}

/* keys: of the longest head that scores; 0: none does. */
static int run_slab_job(slab_job *j, const ic_rope *rope, int32_t position_end, int keys)
{
    int rc = reach(j->d, rope, position_end);
    int group = j->heads / j->kv_heads;
    int rows = group * (j->last_rows > j->rows_a_tile ? j->last_rows : j->rows_a_tile);
    j->kept_at = (tile_bytes(rows, j->dim, j->halves) + 63) & ~(size_t)63;
    if (rc == 0)
        rc = ic_cpu_reserve_workers(j->d, j->kept_at + (keys ? ic_cpu_kept_bytes(rows, keys) : 0));
    if (rc == 0)
        ic_cpu_pool_run(j->d->pool, slab_task, j, j->kv_heads * (j->in_turn ? 1 : j->tiles));
    return rc;
}

static int run_prefill(slab_job *j, const ic_rope *rope)
{
    const ic_slab *s = j->slabs[0];
    bool bf16 = s->desc.k_dtype == IC_BF16 && s->desc.v_dtype == IC_BF16;
    j->halves = bf16 && j->d->vec->gemm_halves;
    int group = j->heads / s->desc.kv_heads, rows = (j->halves ? HALVES_ROWS : TILE_ROWS) / group;
    j->kv_heads = s->desc.kv_heads;
    j->dim = s->desc.head_dim;
    j->rows_a_tile = rows > 0 ? rows : 1;
    if (j->window) { /* the last tile is a full one, or as large as the window */
        int last = j->window > j->rows_a_tile ? j->window : j->rows_a_tile;
        j->last_rows = last < j->q->rows ? last : (int)j->q->rows;
    }
    int64_t before = j->q->rows - j->last_rows;
    j->tiles = (int)((before + j->rows_a_tile - 1) / j->rows_a_tile) + (j->last_rows > 0);
    j->in_turn = s->score_kind == IC_SCORE_SUM;
    return run_slab_job(j, rope, s->position_end, j->window || j->in_turn ? s->desc.slots : 0);
}

int ic_cpu_attention_prefill(ic_device *base, const ic_slab *s, int layer, int heads,
                             const ic_mat *q, int behind, const ic_rope *rope, float scale,
                             int window, ic_mat *y)
{
    slab_job job = {.d = ic_cpu_of(base),
                    .slabs = &s,
                    .layer = layer,
                    .heads = heads,
                    .q = q,
                    .y = y,
                    .scale = scale,
                    .behind = behind,
                    .window = window};
    return run_prefill(&job, rope);
}

int ic_cpu_attention_score(ic_device *base, const ic_slab *s, int layer, int heads, const ic_mat *q,
                           const ic_rope *rope, float scale)
{
    slab_job job = {.d = ic_cpu_of(base),
                    .slabs = &s,
                    .layer = layer,
                    .heads = heads,
                    .q = q,
                    .scale = scale,
                    .window = (int)q->rows};
    return run_prefill(&job, rope);
}

int ic_cpu_attention_decode(ic_device *base, const ic_slab *const *slabs, int n, int layer,
                            int heads, const ic_mat *q, const ic_rope *rope, float scale, ic_mat *y)
{
    slab_job job = {.d = ic_cpu_of(base),
                    .slabs = slabs,
                    .layer = layer,
                    .heads = heads,
                    .kv_heads = slabs[0]->desc.kv_heads,
                    .dim = slabs[0]->desc.head_dim,
                    .q = q,
                    .y = y,
                    .scale = scale,
                    .rows_a_tile = 1,
                    .tiles = n,
                    .one_each = true};
    int32_t end = 0;
    int keys = 0;
    for (int i = 0; i < n; i++) {
        end = slabs[i]->position_end > end ? slabs[i]->position_end : end;
        if (slabs[i]->score_kind == IC_SCORE_SUM && slabs[i]->desc.slots > keys)
            keys = slabs[i]->desc.slots;
    }
    return run_slab_job(&job, rope, end, keys);
}

/* --- storing rows --- */

typedef struct store_job {
    ic_slab *s;
    const ic_cpu_vec *vec;
    const ic_mat *k, *v;
    int layer, appended, first;
} store_job;

static void store_head(void *arg, int task, int worker)
{
    (void)worker;
    const store_job *j = arg;
    ic_slab *s = j->s;
    int head = ic_slab_head(s, j->layer, task), dim = s->desc.head_dim;
    const int32_t *order = ic_slab_order_of(s, head) + s->counts[head] - j->appended + j->first;
    for (int64_t i = 0; i < j->k->rows; i++) {
        j->vec->narrow(s->desc.k_dtype, ic_cpu_row(j->k, i) + (int64_t)task * dim,
                       ic_slab_k_at(s, head, order[i]), dim);
        j->vec->narrow(s->desc.v_dtype, ic_cpu_row(j->v, i) + (int64_t)task * dim,
                       ic_slab_v_at(s, head, order[i]), dim);
    }
}

int ic_cpu_slab_store(ic_slab *s, int layer, int appended, int first, const ic_mat *k,
                      const ic_mat *v)
{
    ic_cpu_device *d = ic_cpu_of(s->device);
    store_job job = {s, d->vec, k, v, layer, appended, first};
    if (k->rows < 16) {
        for (int head = 0; head < s->desc.kv_heads; head++)
            store_head(&job, head, 0);
        return 0;
    }
    ic_cpu_pool_run(d->pool, store_head, &job, s->desc.kv_heads);
    return 0;
}

/* --- attention among the patches of a segment --- */

typedef struct full_job {
    ic_cpu_device *d;
    const ic_mat *q, *k, *v;
    ic_mat *y;
    const int32_t *starts;
    const int32_t *tile_segment, *tile_first; /* [tiles] */
    int heads, dim;
    float scale;
} full_job;

static void load_full_block(const full_job *j, tile *t, int64_t column, int64_t first, int keys)
{
    const float *k = ic_cpu_row(j->k, first) + column, *v = ic_cpu_row(j->v, first) + column;
    if (keys < BLOCK_KEYS)
        memset(t->kt, 0, (size_t)t->dim * BLOCK_KEYS * sizeof *t->kt);
    t->vec->transpose(k, j->k->stride, keys, t->dim, t->kt, BLOCK_KEYS);
    for (int i = 0; i < keys; i++)
        memcpy(t->v + (int64_t)i * t->wide, v + i * j->v->stride, (size_t)t->dim * sizeof *v);
}

static void full_task(void *arg, int task, int worker)
{
    const full_job *j = arg;
    int head = task % j->heads, part = task / j->heads;
    int segment = j->tile_segment[part];
    int64_t column = (int64_t)head * j->dim, first = j->tile_first[part];
    int64_t begin = j->starts[segment], end = j->starts[segment + 1];
    int rows = end - first < TILE_ROWS ? (int)(end - first) : TILE_ROWS;
    tile t = tile_in(j->d, ic_cpu_worker_scratch(j->d, worker), rows, j->dim, false);
    for (int i = 0; i < rows; i++) {
        float *q = t.q + (int64_t)i * j->dim;
        memcpy(q, ic_cpu_row(j->q, first + i) + column, (size_t)j->dim * sizeof *q);
        t.vec->scale(j->scale, q, j->dim);
    }
    for (int64_t at = begin; at < end; at += BLOCK_KEYS) {
        int keys = end - at < BLOCK_KEYS ? (int)(end - at) : BLOCK_KEYS;
        load_full_block(j, &t, column, at, keys);
        add_block(&t, 0, keys, keys, 0);
    }
    for (int i = 0; i < rows; i++)
        give_row(&t, i, ic_cpu_row(j->y, first + i) + column);
}

int ic_cpu_attention_full(ic_device *base, const ic_mat *q, const ic_mat *k, const ic_mat *v,
                          const int32_t *starts, int n, int heads, float scale, ic_mat *y)
{
    ic_cpu_device *d = ic_cpu_of(base);
    int dim = (int)(q->cols / heads), tiles = 0;
    for (int i = 0; i < n; i++)
        tiles += (starts[i + 1] - starts[i] + TILE_ROWS - 1) / TILE_ROWS;
    if (tiles == 0)
        return 0;
    int32_t *list = ic_cpu_shared_scratch(d, (size_t)tiles * 2 * sizeof *list);
    if (!list || ic_cpu_reserve_workers(d, tile_bytes(TILE_ROWS, dim, false)))
        return IC_ENOMEM;
    int at = 0;
    for (int i = 0; i < n; i++)
        for (int32_t first = starts[i]; first < starts[i + 1]; first += TILE_ROWS, at++) {
            list[at] = i;
            list[tiles + at] = first;
        }
    full_job job = {.d = d,
                    .q = q,
                    .k = k,
                    .v = v,
                    .y = y,
                    .starts = starts,
                    .tile_segment = list,
                    .tile_first = list + tiles,
                    .heads = heads,
                    .dim = dim,
                    .scale = scale};
    ic_cpu_pool_run(d->pool, full_task, &job, heads * tiles);
    return 0;
}
