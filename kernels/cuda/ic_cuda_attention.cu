/* Attention in tiles of 64 rows by 64 keys under an online softmax (Milakov & Gimelshein 2018; Dao
 * et al. 2022): for prefill slices, and for the patches of frames. See ic_cuda_attention.h. */
#include "kernels/cuda/ic_cuda_attention.h"

#include "kernels/cuda/ic_cuda_rotate.h"
#include "kernels/cuda/ic_cuda_tile.h"

constexpr int TILE = IC_CUDA_TILE;
constexpr int PARTS = IC_CUDA_TILE_PARTS;

/* Keys and values of the next block come while this one is used; f32 tiles are too large for two.
 * LEAN, of f32 alone, is for devices with less shared memory: values come into the room of the keys
 * that have been used, and queries stay where they are. The same sums in the same order. */
template <class T, int DIM, bool LEAN> struct layout {
    static constexpr int STAGES = sizeof(T) == 4 ? 1 : 2;
    static constexpr int ROW = ic_cuda_row<T, DIM>::N;
    static constexpr int ONE = TILE * ROW; /* elements of a tile */
    static constexpr int ROOM = sizeof(T) == 4 ? TILE * IC_CUDA_TILE_ROOM * sizeof(float) : 0;
    static constexpr int BYTES = (LEAN ? 1 : 1 + 2 * STAGES) * ONE * sizeof(T) + ROOM;
};

/* What a lane knows of its two rows: 0: l / 4 of the warp's 16, 1: the eighth behind. */
struct online {
    float max[2], sum[2];
};

/* The four lanes that share a row. */
static __device__ __forceinline__ float row_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

static __device__ __forceinline__ float row_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

/* s becomes 2^(s - max) under the new maximum; row i sees the first sees[i] keys of the block.
 * factor[i] is for what was gathered so far. */
static __device__ __forceinline__ void soften(float (&s)[PARTS][4], const int (&sees)[2],
                                              online *state, float (&factor)[2])
{
    int column = threadIdx.x % 4 * 2;
    float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < PARTS; n++)
#pragma unroll
        for (int r = 0; r < 4; r++) {
            if (n * 8 + column + r % 2 >= sees[r / 2])
                s[n][r] = -INFINITY;
            top[r / 2] = fmaxf(top[r / 2], s[n][r]);
        }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        top[i] = fmaxf(state->max[i], row_max(top[i]));
        factor[i] = exp2f(state->max[i] - top[i]);
        state->max[i] = top[i];
    }
#pragma unroll
    for (int n = 0; n < PARTS; n++)
#pragma unroll
        for (int r = 0; r < 4; r++) {
            s[n][r] = exp2f(s[n][r] - top[r / 2]);
            total[r / 2] += s[n][r];
        }
#pragma unroll
    for (int i = 0; i < 2; i++)
        state->sum[i] = state->sum[i] * factor[i] + row_sum(total[i]);
}

/* One block: 64 rows of one kv head of one slice. The longest tiles start first. */
template <class T, int DIM, bool LEAN>
static __global__ void __launch_bounds__(IC_CUDA_TILE_THREADS) attend_kernel(ic_cuda_batch b)
{
    using L = layout<T, DIM, LEAN>;
    IC_CUDA_SHARED(T, shared);
    const ic_cuda_slice &s = b.slices[blockIdx.z];
    int kv = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int all = s.rows * b.group, first = (int)(gridDim.x - 1 - blockIdx.x) * TILE;
    if (first >= all)
        return;
    int rows = all - first < TILE ? all - first : TILE;
    int count = s.counts ? s.counts[kv] : s.keys;
    int place = s.counts ? count - s.behind - s.rows : 0; /* of the slice's first query */
    int end = s.counts ? place + (first + rows - 1) / b.group + 1 : count;
    int blocks = (end + TILE - 1) / TILE;
    T *queries = shared, *room = LEAN ? shared : shared + L::ONE;
    float *weights = (float *)(void *)(room + (LEAN ? 1 : 2 * L::STAGES) * L::ONE)
                     + warp * 16 * IC_CUDA_TILE_ROOM;
    const T *k = (const T *)s.k + kv * s.kv_head, *v = (const T *)s.v + kv * s.kv_head;

    auto fetch = [&](int block) {
        T *to = room + block % L::STAGES * 2 * L::ONE;
        ic_cuda_tile_copy<T, DIM>(to, k, block * TILE, end);
        if (s.y && !LEAN)
            ic_cuda_tile_copy<T, DIM>(to + L::ONE, v, block * TILE, end);
    };
    if constexpr (!LEAN)
        ic_cuda_tile_copy<T, DIM>(queries, (const T *)s.q + kv * s.q_head, first, all);
    if (L::STAGES == 2)
        fetch(0);
    ic_cuda_copy_commit();

    ic_cuda_queries<T, DIM> q;
    online state = {{-INFINITY, -INFINITY}, {0, 0}};
    float o[DIM / 8][4];
#pragma unroll
    for (int n = 0; n < DIM / 8; n++)
        o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0;
    int row[2] = {first + warp * 16 + lane / 4, first + warp * 16 + lane / 4 + 8};
    for (int block = 0; block < blocks; block++) {
        if (block + L::STAGES - 1 < blocks)
            fetch(block + L::STAGES - 1);
        ic_cuda_copy_commit();
        ic_cuda_copy_wait<L::STAGES - 1>();
        __syncthreads();
        if constexpr (LEAN)
            q.take_there((const T *)s.q + kv * s.q_head, first + warp * 16, all);
        else if (block == 0)
            q.take(queries + warp * 16 * L::ROW);
        const T *keys = room + block % L::STAGES * 2 * L::ONE;
        int sees[2];
        for (int i = 0; i < 2; i++)
            sees[i] = (s.counts ? place + row[i] / b.group + 1 : count) - block * TILE;
        float p[PARTS][4], factor[2];
        q.scores(keys, p);
        soften(p, sees, &state, factor);
        if (s.y) {
#pragma unroll
            for (int n = 0; n < DIM / 8; n++)
#pragma unroll
                for (int r = 0; r < 4; r++)
                    o[n][r] *= factor[r / 2];
            if constexpr (LEAN) {
                __syncthreads(); /* the keys have been used */
                ic_cuda_tile_copy<T, DIM>(room, v, block * TILE, end);
                ic_cuda_copy_commit();
                ic_cuda_copy_wait<0>();
                __syncthreads();
            }
            q.values(p, LEAN ? keys : keys + L::ONE, weights, o);
        }
        __syncthreads(); /* before the block's room is filled anew */
    }

    for (int i = 0; i < 2; i++) {
        if (row[i] >= all)
            continue;
        int stat = row[i] - (s.rows - s.stat_rows) * b.group;
        if (s.stats && stat >= 0 && lane % 4 == 0)
            s.stats[(int64_t)kv * s.stat_rows * b.group + stat] =
                ic_cuda_stat{state.max[i], state.sum[i]};
        if (!s.y)
            continue;
        float inverse = 1.0f / state.sum[i];
        int head = kv * b.group + row[i] % b.group;
        float *y = s.y + row[i] / b.group * s.y_stride + (int64_t)head * b.dim;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                if (n * 8 + lane % 4 * 2 + r < b.dim)
                    y[n * 8 + lane % 4 * 2 + r] = o[n][i * 2 + r] * inverse;
    }
}

int ic_cuda_attend(ic_cuda_device *d, const ic_cuda_batch *b, ic_dtype dtype, int wide)
{
    if (b->n == 0 || b->rows_max == 0)
        return 0;
    dim3 grid(ic_cuda_blocks((int64_t)b->rows_max * b->group, TILE), b->kv_heads, b->n);
    return ic_cuda_by_tile(dtype, wide, [&](auto t, auto w) {
        using T = decltype(t);
        const int DIM = decltype(w)::value;
        if constexpr (sizeof(T) == 4)
            if (layout<T, DIM, false>::BYTES > d->shared_max)
                return ic_cuda_launch(d, attend_kernel<T, DIM, true>, grid, IC_CUDA_TILE_THREADS,
                                      layout<T, DIM, true>::BYTES, *b);
        return ic_cuda_launch(d, attend_kernel<T, DIM, false>, grid, IC_CUDA_TILE_THREADS,
                              layout<T, DIM, false>::BYTES, *b);
    });
}

/* --- over slabs --- */

static size_t aligned(size_t bytes)
{
    return (bytes + 255) & ~(size_t)255;
}

/* What the slices of a call have in common. */
struct slab_call {
    ic_cuda_device *d;
    const ic_attend_slice *slices;
    int n, layer, heads, kv_heads, group, dim, wide;
    ic_dtype stored, dtype;
    const ic_mat *q;
    ic_mat *y; /* NULL: the rows score and attend to nothing */
    ic_cuda_rope rope;
    float scale;
};

/* Rows of a slice that score, always its last. */
static int scoring_rows(const slab_call *c, const ic_attend_slice *s)
{
    return !c->y || s->slab->score_kind == IC_SCORE_SUM ? s->rows : s->window;
}

/* Lays a slice's scratch out from `at` (NULL: only measures); returns its end. */
static char *lay_slice(const slab_call *c, const ic_attend_slice *s, int count, char *at,
                       ic_cuda_slice *out)
{
    size_t row = (size_t)c->wide * ic_dtype_size(c->dtype);
    size_t keys = aligned((size_t)c->kv_heads * count * row);
    int scoring = scoring_rows(c, s);
    out->q = at;
    at += aligned((size_t)s->rows * c->heads * row);
    out->k = at;
    out->v = at + keys;
    at += 2 * keys;
    out->stats = scoring ? (ic_cuda_stat *)(void *)at : NULL;
    out->stat_rows = scoring;
    return at + aligned((size_t)scoring * c->heads * sizeof(ic_cuda_stat));
}

static size_t slice_room(const slab_call *c, const ic_attend_slice *s)
{
    ic_cuda_slice out;
    int count = 0;
    for (int h = 0; h < c->kv_heads; h++) {
        int held = ic_slab_count(s->slab, c->layer, h);
        count = held > count ? held : count;
    }
    return (size_t)(lay_slice(c, s, count, NULL, &out) - (char *)NULL);
}

size_t ic_cuda_attend_room(const ic_cuda_device *d, const ic_slab_desc *desc, int heads, int rows)
{
    ic_dtype dtype = ic_cuda_tile_dtype(desc->k_dtype, desc->head_dim);
    size_t row = (size_t)ic_cuda_tile_width(dtype, desc->head_dim) * ic_dtype_size(dtype);
    size_t queries = (size_t)rows * heads * (row + sizeof(ic_cuda_stat));
    size_t keys = 2 * aligned((size_t)desc->kv_heads * desc->slots * row);
    size_t one = keys + queries + 2 * 256, all = IC_CUDA_SLICES * (keys + 2 * 256) + queries;
    size_t most = all < d->launch_keys ? all : d->launch_keys;
    return one > most ? one : most;
}

static ic_mat rows_of(const ic_mat *m, int64_t first, int rows)
{
    ic_mat part = *m;
    part.data = (float *)m->data + first * m->stride;
    part.rows = rows;
    return part;
}

/* Queries, keys and values of one slice on their way, and its part of the launch. */
static int bring_slice(const slab_call *c, const ic_attend_slice *s, const ic_cuda_view *view,
                       int64_t first, ic_cuda_slice *out)
{
    ic_mat q = rows_of(c->q, first, s->rows);
    out->q_head = (int64_t)s->rows * c->group * c->wide;
    out->kv_head = (int64_t)view->count * c->wide;
    out->counts = view->counts;
    out->rows = s->rows;
    out->behind = s->behind;
    if (c->y) {
        out->y = (float *)c->y->data + first * c->y->stride;
        out->y_stride = c->y->stride;
    }
    int rc = ic_cuda_pack_queries(c->d, &q, c->kv_heads, c->dim, c->scale * IC_CUDA_LOG2E, view,
                                  s->behind, &c->rope, c->dtype, c->wide, (void *)out->q);
    if (rc == 0)
        rc = ic_cuda_pack_slab(c->d, view, c->stored, &c->rope, view->count, c->dtype, c->wide,
                               (void *)out->k, (void *)out->v);
    return rc;
}

/* At most IC_CUDA_SLICES slices, their caches of one dtype: one launch. */
static int attend_alike(const slab_call *c, int64_t first)
{
    ic_cuda_view views[IC_CUDA_SLICES];
    ic_cuda_batch batch = {};
    char *end = NULL;
    int rc = 0;
    for (int i = 0; rc == 0 && i < c->n; i++) {
        rc = ic_cuda_slab_view(c->slices[i].slab, c->layer, &views[i]);
        end = lay_slice(c, &c->slices[i], views[i].count, end, &batch.slices[i]);
    }
    char *at =
        rc ? NULL : (char *)ic_cuda_scratch(c->d, IC_CUDA_ROOM_KEYS, (size_t)(end - (char *)NULL));
    if (!at)
        return rc ? rc : IC_ENOMEM;
    for (int i = 0; rc == 0 && i < c->n; i++) {
        const ic_attend_slice *s = &c->slices[i];
        at = lay_slice(c, s, views[i].count, at, &batch.slices[i]);
        rc = bring_slice(c, s, &views[i], first, &batch.slices[i]);
        first += s->rows;
        batch.rows_max = s->rows > batch.rows_max ? s->rows : batch.rows_max;
    }
    batch.n = c->n;
    batch.kv_heads = c->kv_heads;
    batch.group = c->group;
    batch.dim = c->dim;
    if (rc == 0)
        rc = ic_cuda_attend(c->d, &batch, c->dtype, c->wide);
    for (int i = 0; rc == 0 && i < c->n; i++)
        if (batch.slices[i].stat_rows) {
            c->slices[i].slab->host_stale = true; /* its scores */
            rc =
                ic_cuda_score_slice(c->d, &batch.slices[i], &views[i], c->group, c->dtype, c->wide);
        }
    return rc;
}

static int attend_slabs(ic_device *base, const ic_attend_slice *slices, int n, int layer, int heads,
                        const ic_mat *q, const ic_rope *rope, float scale, ic_mat *y)
{
    const ic_slab_desc *desc = &slices[0].slab->desc;
    slab_call c = {};
    c.d = ic_cuda_of(base);
    c.layer = layer;
    c.heads = heads;
    c.kv_heads = desc->kv_heads;
    c.group = heads / desc->kv_heads;
    c.dim = desc->head_dim;
    c.q = q;
    c.y = y;
    c.scale = scale;
    int rc = ic_cuda_rope_of(c.d, rope, &c.rope);
    int64_t row = 0;
    for (int first = 0; rc == 0 && first < n; first += c.n) {
        int64_t begin = row;
        c.slices = &slices[first];
        c.stored = slices[first].slab->desc.k_dtype;
        c.dtype = ic_cuda_tile_dtype(c.stored, c.dim);
        c.wide = ic_cuda_tile_width(c.dtype, c.dim);
        size_t room = 0;
        for (c.n = 0; first + c.n < n && c.n < IC_CUDA_SLICES
                      && slices[first + c.n].slab->desc.k_dtype == c.stored;
             c.n++) {
            room += slice_room(&c, &slices[first + c.n]);
            if (c.n > 0 && room > c.d->launch_keys)
                break;
            row += slices[first + c.n].rows;
        }
        rc = attend_alike(&c, begin);
    }
    return rc;
}

int ic_cuda_attention_slices(ic_device *d, const ic_attend_slice *slices, int n, int layer,
                             int heads, const ic_mat *q, const ic_rope *rope, float scale,
                             ic_mat *y)
{
    return attend_slabs(d, slices, n, layer, heads, q, rope, scale, y);
}

int ic_cuda_attention_prefill(ic_device *d, const ic_slab *s, int layer, int heads, const ic_mat *q,
                              int behind, const ic_rope *rope, float scale, int window, ic_mat *y)
{
    ic_attend_slice one = {(ic_slab *)s, (int)q->rows, behind,
                           window}; /* its scores alone change */
    return attend_slabs(d, &one, 1, layer, heads, q, rope, scale, y);
}

int ic_cuda_attention_score(ic_device *d, const ic_slab *s, int layer, int heads, const ic_mat *q,
                            const ic_rope *rope, float scale)
{
    ic_attend_slice one = {(ic_slab *)s, (int)q->rows, 0, (int)q->rows};
    return attend_slabs(d, &one, 1, layer, heads, q, rope, scale, NULL);
}

/* --- among the patches of segments --- */

static int attend_segments(ic_cuda_device *d, const ic_cuda_slice *whole, const int32_t *starts,
                           int n, int heads, int dim, ic_dtype dtype, int wide)
{
    int64_t row = (int64_t)wide * (int64_t)ic_dtype_size(dtype);
    for (int first = 0; first < n; first += IC_CUDA_SLICES) {
        ic_cuda_batch b = {};
        for (int i = first; i < n && i < first + IC_CUDA_SLICES; i++) {
            ic_cuda_slice *s = &b.slices[b.n++];
            *s = *whole;
            s->q = (const char *)whole->q + starts[i] * row;
            s->k = (const char *)whole->k + starts[i] * row;
            s->v = (const char *)whole->v + starts[i] * row;
            s->y = whole->y + starts[i] * whole->y_stride;
            s->rows = s->keys = starts[i + 1] - starts[i];
            b.rows_max = s->rows > b.rows_max ? s->rows : b.rows_max;
        }
        b.kv_heads = heads;
        b.group = 1;
        b.dim = dim;
        int rc = ic_cuda_attend(d, &b, dtype, wide);
        if (rc)
            return rc;
    }
    return 0;
}

size_t ic_cuda_full_room(const ic_cuda_device *d, int64_t rows, int heads, int dim)
{
    ic_dtype dtype = ic_cuda_tile_dtype(d->exact ? IC_F32 : IC_F16, dim);
    return 3
           * aligned((size_t)rows * heads * ic_cuda_tile_width(dtype, dim) * ic_dtype_size(dtype));
}

int ic_cuda_attention_full(ic_device *base, const ic_mat *q, const ic_mat *k, const ic_mat *v,
                           const int32_t *starts, int n, int heads, float scale, ic_mat *y)
{
    ic_cuda_device *d = ic_cuda_of(base);
    int dim = (int)(q->cols / heads);
    ic_dtype dtype = ic_cuda_tile_dtype(d->exact ? IC_F32 : IC_F16, dim);
    int wide = ic_cuda_tile_width(dtype, dim);
    if (dim % 8 || !wide)
        return ic_cuda_check(d, cudaErrorNotSupported, "full attention over heads of this size");
    if (q->rows == 0)
        return 0;
    size_t part = aligned((size_t)q->rows * heads * wide * ic_dtype_size(dtype));
    char *room = (char *)ic_cuda_scratch(d, IC_CUDA_ROOM_KEYS, 3 * part);
    if (!room)
        return IC_ENOMEM;
    const ic_mat *parts[3] = {q, k, v};
    int rc = 0;
    for (int i = 0; rc == 0 && i < 3; i++)
        rc = ic_cuda_pack_queries(d, parts[i], heads, dim, i ? 1.0f : scale * IC_CUDA_LOG2E, NULL,
                                  0, NULL, dtype, wide, room + i * part);
    ic_cuda_slice whole = {};
    whole.q = room;
    whole.k = room + part;
    whole.v = room + 2 * part;
    whole.q_head = whole.kv_head = q->rows * wide;
    whole.y = (float *)y->data;
    whole.y_stride = y->stride;
    return rc ? rc : attend_segments(d, &whole, starts, n, heads, dim, dtype, wide);
}
