/* Attention in tiles of 64 rows by 64 keys under an online softmax (Milakov & Gimelshein 2018; Dao
 * et al. 2022): for prefill slices, and for the patches of frames. See ic_cuda_attention.h. */
#include "kernels/cuda/ic_cuda_attention.h"

#include "kernels/cuda/ic_cuda_rotate.h"
#include "kernels/cuda/ic_cuda_tile.h"

enum { TILE = IC_CUDA_TILE, PARTS = IC_CUDA_TILE_PARTS, WARPS = IC_CUDA_TILE_THREADS / 32 };

/* Keys and values of the next block come while this one is used; f32 tiles are too large for two.
 */
template <class T, int DIM> struct layout {
    enum {
        STAGES = sizeof(T) == 4 ? 1 : 2,
        ROW = ic_cuda_row<T, DIM>::N,
        ONE = TILE * ROW, /* elements of a tile */
        ROOM = sizeof(T) == 4 ? TILE * IC_CUDA_TILE_ROOM * sizeof(float) : 0,
        BYTES = (1 + 2 * STAGES) * ONE * sizeof(T) + ROOM
    };
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
template <class T, int DIM>
static __global__ void __launch_bounds__(IC_CUDA_TILE_THREADS) attend_kernel(ic_cuda_batch b)
{
    using L = layout<T, DIM>;
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
    T *queries = shared, *room = shared + L::ONE;
    float *weights =
        (float *)(void *)(room + 2 * L::STAGES * L::ONE) + warp * 16 * IC_CUDA_TILE_ROOM;
    const T *k = (const T *)s.k + kv * s.kv_head, *v = (const T *)s.v + kv * s.kv_head;

    auto fetch = [&](int block) {
        T *to = room + block % L::STAGES * 2 * L::ONE;
        ic_cuda_tile_copy<T, DIM>(to, k, block * TILE, end);
        if (s.y)
            ic_cuda_tile_copy<T, DIM>(to + L::ONE, v, block * TILE, end);
    };
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
        if (block == 0)
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
            q.values(p, keys + L::ONE, weights, o);
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
        return ic_cuda_launch(d, attend_kernel<T, DIM>, grid, IC_CUDA_TILE_THREADS,
                              layout<T, DIM>::BYTES, *b);
    });
}

/* --- over a slab --- */

static size_t aligned(size_t bytes)
{
    return (bytes + 255) & ~(size_t)255;
}

/* Scratch of one slice, all of it in one room. */
struct slab_room {
    char *q, *k, *v;
    ic_cuda_stat *stats;
};

static int slab_room_of(ic_cuda_device *d, int64_t q_bytes, int64_t kv_bytes, int64_t stats,
                        slab_room *out)
{
    size_t q = aligned((size_t)q_bytes), kv = aligned((size_t)kv_bytes);
    size_t bytes = q + 2 * kv + (size_t)stats * sizeof(ic_cuda_stat);
    char *at = (char *)ic_cuda_scratch(d, IC_CUDA_ROOM_KEYS, bytes);
    *out = slab_room{at, at + q, at + q + kv, (ic_cuda_stat *)(void *)(at + q + 2 * kv)};
    return at ? 0 : IC_ENOMEM;
}

/* y NULL: the rows score and attend to nothing. */
static int attend_slab(ic_device *base, const ic_slab *slab, int layer, int heads, const ic_mat *q,
                       int behind, const ic_rope *rope, float scale, int scoring, ic_mat *y)
{
    ic_cuda_device *d = ic_cuda_of(base);
    int dim = slab->desc.head_dim, kv_heads = slab->desc.kv_heads, group = heads / kv_heads;
    ic_dtype stored = slab->desc.k_dtype, dtype = ic_cuda_tile_dtype(stored, dim);
    int wide = ic_cuda_tile_width(dtype, dim), size = (int)ic_dtype_size(dtype);
    ic_cuda_view view;
    ic_cuda_rope turned;
    slab_room room;
    int rc = ic_cuda_slab_view(slab, layer, &view);
    if (rc == 0)
        rc = ic_cuda_rope_of(d, rope, &turned);
    if (rc == 0)
        rc = slab_room_of(d, q->rows * heads * wide * size,
                          (int64_t)kv_heads * view.count * wide * size, (int64_t)scoring * heads,
                          &room);
    if (rc == 0)
        rc = ic_cuda_pack_queries(d, q, kv_heads, dim, scale * IC_CUDA_LOG2E, &view, behind,
                                  &turned, dtype, wide, room.q);
    if (rc == 0)
        rc = ic_cuda_pack_slab(d, &view, stored, &turned, view.count, dtype, wide, room.k, room.v);
    if (rc)
        return rc;
    ic_cuda_batch batch = {};
    ic_cuda_slice *s = &batch.slices[0];
    s->q = room.q;
    s->k = room.k;
    s->v = room.v;
    s->q_head = q->rows * group * wide;
    s->kv_head = (int64_t)view.count * wide;
    s->y = y ? (float *)y->data : NULL;
    s->y_stride = y ? y->stride : 0;
    s->stats = scoring ? room.stats : NULL;
    s->stat_rows = scoring;
    s->counts = view.counts;
    s->rows = (int)q->rows;
    s->behind = behind;
    batch.n = 1;
    batch.kv_heads = kv_heads;
    batch.group = group;
    batch.dim = dim;
    batch.rows_max = s->rows;
    rc = ic_cuda_attend(d, &batch, dtype, wide);
    if (rc == 0 && scoring) {
        ((ic_slab *)slab)->host_stale = true; /* the scores; the caller gave a slab to change */
        rc = ic_cuda_score_slice(d, s, &view, group, dtype, wide);
    }
    return rc;
}

int ic_cuda_attention_prefill(ic_device *d, const ic_slab *s, int layer, int heads, const ic_mat *q,
                              int behind, const ic_rope *rope, float scale, int window, ic_mat *y)
{
    int scoring = s->score_kind == IC_SCORE_SUM ? (int)q->rows : window;
    return attend_slab(d, s, layer, heads, q, behind, rope, scale, scoring, y);
}

int ic_cuda_attention_score(ic_device *d, const ic_slab *s, int layer, int heads, const ic_mat *q,
                            const ic_rope *rope, float scale)
{
    return attend_slab(d, s, layer, heads, q, 0, rope, scale, (int)q->rows, NULL);
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
