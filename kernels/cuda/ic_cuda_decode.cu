/* Decode attention on plain arithmetic, and what both kinds share: the joining of the pieces, the
 * sums, the starting. See ic_cuda_decode.h.
 *
 * A key belongs to a group of LANES lanes, of which each has C pairs (i, i + half) of its
 * dimensions, for K and for V: what a lane will use, and nothing else, it copies asynchronously
 * into a queue of its own in shared memory, several keys ahead, so that no lane waits for another.
 * HEADS query heads share a load. Every group of lanes runs a softmax of its own over the keys that
 * fall to it. */
#include "kernels/cuda/ic_cuda_decode.h"
#include "kernels/cuda/ic_cuda_mma.h"
#include "kernels/cuda/ic_cuda_rotate.h"

constexpr int SPLIT = IC_CUDA_DECODE_SPLIT;
constexpr int WARPS = IC_CUDA_DECODE_WARPS;
constexpr int THREADS = IC_CUDA_DECODE_THREADS;
constexpr int STEPS = 4;              /* keys of a lane group between two looks at the maximum */
constexpr int DEEP = 3;               /* so many times STEPS keys are in the queue; */
constexpr int FEWER = 2;              /* on devices with less shared memory */
constexpr int STATIC_BYTES = 8 << 10; /* of shared memory, at most: slots, positions, statistics */
constexpr int PARTS = 4;              /* K low, K high, V low, V high */

/* LANES of a warp share a key, each with C pairs of its dimensions in 16-byte pieces at best. */
template <class T, int C, int LANES, int STAGES> struct shape {
    static constexpr int KEYS = 32 / LANES;     /* that a warp has at once */
    static constexpr int BYTES = C * sizeof(T); /* of a lane's piece */
    static constexpr int STAGE = STEPS * PARTS * 32 * BYTES;
    static constexpr int QUEUE = STAGES * STAGE; /* of a warp */
    static constexpr int A_WARP = SPLIT / WARPS; /* places */
    static constexpr int ROUNDS = A_WARP / (KEYS * STEPS);
};

/* A lane's piece, copied by itself. */
template <class T, int C>
static __device__ __forceinline__ void read_piece(const char *from, float (&v)[C])
{
#pragma unroll
    for (int i = 0; i < C; i += 4) {
        float four[4];
        ic_cuda_load4((const T *)(const void *)from + i, four);
#pragma unroll
        for (int n = 0; n < 4; n++)
            v[i + n] = four[n];
    }
}

/* What a lane has to do with: its pairs of dimensions, and their frequencies. */
template <int C> struct lane_share {
    bool used;     /* some lanes have no dimensions */
    int low, half; /* the first of its pairs */
    float inv_freq[C];
    uint8_t axis[C];

    __device__ __forceinline__ lane_share(const ic_cuda_rope &rope, int dim, int lane)
    {
        half = dim / 2;
        used = lane * C < half;
        low = used ? lane * C : 0;
#pragma unroll
        for (int i = 0; i < C; i++) {
            inv_freq[i] = rope.inv_freq[low + i];
            axis[i] = rope.axis[low + i];
        }
    }

    /* Turns the pairs by the angles at p, without the rope's scale. */
    template <bool EXACT>
    __device__ __forceinline__ void turn(const ic_pos &p, float (&a)[C], float (&b)[C]) const
    {
#pragma unroll
        for (int i = 0; i < C; i++) {
            float sine, cosine, x = a[i], angle = ic_cuda_angle(inv_freq[i], axis[i], p);
            if (EXACT)
                sincosf(angle, &sine, &cosine);
            else
                ic_cuda_sincos_fast(angle, &sine, &cosine);
            a[i] = x * cosine - b[i] * sine;
            b[i] = b[i] * cosine + x * sine;
        }
    }
};

template <int LANES> static __device__ __forceinline__ float group_sum(float v)
{
#pragma unroll
    for (int step = 1; step < LANES; step *= 2)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

/* The session's queries, HEADS of them, turned and scaled; heads beyond the group repeat its last.
 */
template <int C, int HEADS>
static __device__ __forceinline__ void
load_queries(const lane_share<C> &share, const ic_cuda_decode_job &j, int head, int heads,
             const ic_pos &here, float (&q)[HEADS][2][C])
{
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        const float *from =
            j.q + blockIdx.z * j.q_stride + (int64_t)(head + min(h, heads - 1)) * j.dim + share.low;
#pragma unroll
        for (int i = 0; i < C; i++) {
            q[h][0][i] = from[i];
            q[h][1][i] = from[share.half + i];
        }
        share.template turn<true>(here, q[h][0], q[h][1]);
#pragma unroll
        for (int i = 0; i < C; i++) {
            q[h][0][i] *= share.used ? j.scale : 0;
            q[h][1][i] *= share.used ? j.scale : 0;
        }
    }
}

/* Nothing is gathered yet. */
template <int C, int HEADS>
static __device__ __forceinline__ void begin(float (&max)[HEADS], float (&sum)[HEADS],
                                             float (&o)[HEADS][2][C])
{
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
#pragma unroll
        for (int i = 0; i < C; i++)
            o[h][0][i] = o[h][1][i] = 0;
        max[h] = -INFINITY;
        sum[h] = 0;
    }
}

/* s becomes 2^(s - max) under the new maximum; what was gathered so far is brought under it. */
template <int C, int HEADS>
static __device__ __forceinline__ void soften(float (&s)[STEPS][HEADS], float (&max)[HEADS],
                                              float (&sum)[HEADS], float (&o)[HEADS][2][C])
{
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float top = max[h];
#pragma unroll
        for (int step = 0; step < STEPS; step++)
            top = fmaxf(top, s[step][h]);
        float under = top == -INFINITY ? 0 : top, factor = exp2f(max[h] - under);
        max[h] = top;
        sum[h] *= factor;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            s[step][h] = exp2f(s[step][h] - under);
            sum[h] += s[step][h];
        }
        if (factor != 1)
#pragma unroll
            for (int i = 0; i < C; i++) {
                o[h][0][i] *= factor;
                o[h][1][i] *= factor;
            }
    }
}

/* o += weights times the values of a stage. */
template <class T, int C, int HEADS>
static __device__ __forceinline__ void weigh(const char *stage, const float (&s)[STEPS][HEADS],
                                             float (&o)[HEADS][2][C])
{
    const int piece = 32 * C * sizeof(T);
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        float a[C], b[C];
        read_piece<T, C>(stage + (step * PARTS + 2) * piece, a);
        read_piece<T, C>(stage + (step * PARTS + 3) * piece, b);
#pragma unroll
        for (int h = 0; h < HEADS; h++)
#pragma unroll
            for (int i = 0; i < C; i++) {
                o[h][0][i] = fmaf(s[step][h], a[i], o[h][0][i]);
                o[h][1][i] = fmaf(s[step][h], b[i], o[h][1][i]);
            }
    }
}

/* What a group of lanes found goes to shared memory; its first lane tells the statistics. */
template <int C, int HEADS>
static __device__ __forceinline__ void
leave(const lane_share<C> &share, bool tells, int group, int dim, const float (&max)[HEADS],
      const float (&sum)[HEADS], const float (&o)[HEADS][2][C], ic_cuda_stat *stats, float *parts)
{
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (tells)
            stats[group * HEADS + h] = ic_cuda_stat{max[h], sum[h]};
        float *to = parts + (group * HEADS + h) * dim + share.low;
#pragma unroll
        for (int i = 0; share.used && i < C; i++) {
            to[i] = o[h][0][i];
            to[share.half + i] = o[h][1][i];
        }
    }
}

/* blockIdx: the split; the kv head and which HEADS of its query heads; the session. */
template <class T, int C, int LANES, int HEADS, int STAGES>
static __global__ void __launch_bounds__(THREADS)
    part_kernel(ic_cuda_decode_job j, ic_cuda_rope rope)
{
    using S = shape<T, C, LANES, STAGES>;
    const bool exact = sizeof(T) == 4;
    __shared__ int32_t slots[SPLIT];
    __shared__ ic_pos positions[SPLIT];
    __shared__ ic_cuda_stat stats[WARPS * S::KEYS * HEADS];
    IC_CUDA_SHARED(char, shared);
    const ic_cuda_view &v = j.views[blockIdx.z];
    int tiles = (j.group + HEADS - 1) / HEADS, kv = blockIdx.y / tiles;
    int g0 = (int)(blockIdx.y % tiles) * HEADS, heads = min(HEADS, j.group - g0);
    int count = v.counts[kv], first = (int)blockIdx.x * SPLIT,
        keys = min((int)SPLIT, count - first);
    if (keys <= 0)
        return;
    int64_t table = (int64_t)kv * v.slots;
    for (int i = threadIdx.x; i < keys; i += THREADS) {
        slots[i] = v.order[table + first + i];
        positions[i] = v.positions[table + first + i];
    }
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, in_key = lane % LANES;
    int mine = lane / LANES; /* of the keys that the warp has at once */
    lane_share<C> share(rope, j.dim, in_key);
    const char *k = v.k + table * j.dim * sizeof(T), *values = v.v + table * j.dim * sizeof(T);
    char *queue = shared + warp * S::QUEUE + lane * S::BYTES;
    __syncthreads();

    /* Place of step `step` of a round among the split's; beyond the end the last is read again. */
    auto place_of = [&](int round, int step) {
        return warp * S::A_WARP + (round * STEPS + step) * S::KEYS + mine;
    };
    auto fetch = [&](int round) {
        char *to = queue + round % STAGES * S::STAGE;
#pragma unroll
        for (int step = 0; step < STEPS; step++, to += PARTS * 32 * S::BYTES) {
            int slot = slots[min(place_of(round, step), keys - 1)];
            int64_t low = ((int64_t)slot * j.dim + share.low) * sizeof(T);
            int64_t high = low + (int64_t)share.half * sizeof(T);
            ic_cuda_copy_async<S::BYTES>(to, k + low, S::BYTES);
            ic_cuda_copy_async<S::BYTES>(to + 32 * S::BYTES, k + high, S::BYTES);
            ic_cuda_copy_async<S::BYTES>(to + 64 * S::BYTES, values + low, S::BYTES);
            ic_cuda_copy_async<S::BYTES>(to + 96 * S::BYTES, values + high, S::BYTES);
        }
    };
    int left = keys - warp * S::A_WARP, round_keys = STEPS * S::KEYS; /* for this warp */
    int rounds = left <= 0 ? 0 : min((int)S::ROUNDS, (left + round_keys - 1) / round_keys);
    for (int round = 0; round < STAGES - 1; round++) {
        if (round < rounds)
            fetch(round);
        ic_cuda_copy_commit();
    }

    float q[HEADS][2][C], o[HEADS][2][C], max[HEADS], sum[HEADS];
    load_queries<C, HEADS>(share, j, kv * j.group + g0, heads, v.positions[table + count - 1], q);
    begin<C, HEADS>(max, sum, o);
    for (int round = 0; round < rounds; round++) {
        if (round + STAGES - 1 < rounds)
            fetch(round + STAGES - 1);
        ic_cuda_copy_commit();
        ic_cuda_copy_wait<STAGES - 1>();
        const char *from = queue + round % STAGES * S::STAGE;
        float s[STEPS][HEADS];
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            float a[C], b[C];
            int place = place_of(round, step);
            read_piece<T, C>(from + step * PARTS * 32 * S::BYTES, a);
            read_piece<T, C>(from + (step * PARTS + 1) * 32 * S::BYTES, b);
            share.template turn<exact>(positions[min(place, keys - 1)], a, b);
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float dot = 0;
#pragma unroll
                for (int i = 0; i < C; i++) {
                    dot = fmaf(q[h][0][i], a[i], dot);
                    dot = fmaf(q[h][1][i], b[i], dot);
                }
                dot = group_sum<LANES>(dot);
                s[step][h] = place < keys ? dot : -INFINITY;
                if (v.score_kind == IC_SCORE_SUM && place < keys && in_key == 0 && h < heads)
                    j.scores[((int64_t)blockIdx.z * j.heads + kv * j.group + g0 + h) * j.places
                             + first + place] = dot;
            }
        }
        soften<C, HEADS>(s, max, sum, o);
        weigh<T, C, HEADS>(from, s, o);
    }

    ic_cuda_copy_wait<0>();
    __syncthreads(); /* the queues are empty: their room is for the joining */
    float *parts = (float *)(void *)shared;
    leave<C, HEADS>(share, in_key == 0, warp * S::KEYS + mine, j.dim, max, sum, o, stats, parts);
    __syncthreads();
    int64_t to = ((int64_t)blockIdx.z * j.heads + kv * j.group + g0) * j.splits + blockIdx.x;
    ic_cuda_decode_join<HEADS, WARPS * S::KEYS>(j, stats, parts, heads, to);
}

/* blockIdx: the head; the session. The pieces are joined in their order. */
static __global__ void __launch_bounds__(THREADS) join_kernel(ic_cuda_decode_job j)
{
    int head = blockIdx.x, session = blockIdx.y;
    const ic_cuda_view &v = j.views[session];
    int splits = (v.counts[head / j.group] + SPLIT - 1) / SPLIT;
    int64_t at = ((int64_t)session * j.heads + head) * j.splits;
    const ic_cuda_stat *stats = j.stats + at;
    const float *parts = j.parts + at * j.dim;
    float max = -INFINITY, sum = 0;
    for (int i = 0; i < splits; i++)
        max = fmaxf(max, stats[i].max);
    for (int i = 0; i < splits; i++)
        sum += stats[i].sum * exp2f(stats[i].max - max);
    for (int d = threadIdx.x; d < j.dim; d += THREADS) {
        float all = 0;
        for (int i = 0; i < splits; i++)
            all += parts[(int64_t)i * j.dim + d] * exp2f(stats[i].max - max);
        j.y[session * j.y_stride + (int64_t)head * j.dim + d] = all / sum;
    }
    __syncthreads(); /* all have read the first piece's stat: it becomes the whole's */
    if (threadIdx.x == 0)
        j.stats[at] = ic_cuda_stat{max, sum};
}

/* A thread per key: what the row paid to it is added to its sum. blockIdx: places; kv head;
 * session. */
static __global__ void __launch_bounds__(THREADS) sum_kernel(ic_cuda_decode_job j)
{
    const ic_cuda_view &v = j.views[blockIdx.z];
    int place = (int)blockIdx.x * THREADS + (int)threadIdx.x, kv = blockIdx.y;
    if (v.score_kind != IC_SCORE_SUM || place >= v.counts[kv])
        return;
    int64_t table = (int64_t)kv * v.slots;
    float *score = v.scores + table + v.order[table + place], sum = *score;
    for (int g = 0; g < j.group; g++) {
        int64_t head = (int64_t)blockIdx.z * j.heads + kv * j.group + g;
        ic_cuda_stat stat = j.stats[head * j.splits];
        sum += exp2f(j.scores[head * j.places + place] - stat.max)
               * (1.0f / (stat.sum * (float)j.group));
    }
    *score = sum;
}

/* --- starting them --- */

template <class T, int C, int LANES, int HEADS, int STAGES>
static int start_stages(ic_cuda_device *d, const ic_cuda_decode_job &j, int n,
                        const ic_cuda_rope &rope)
{
    using S = shape<T, C, LANES, STAGES>;
    size_t parts = (size_t)WARPS * S::KEYS * HEADS * j.dim * sizeof(float);
    size_t queues = (size_t)WARPS * S::QUEUE;
    int tiles = (j.group + HEADS - 1) / HEADS;
    return ic_cuda_launch(d, part_kernel<T, C, LANES, HEADS, STAGES>,
                          dim3(j.splits, j.kv_heads * tiles, n), THREADS,
                          parts > queues ? parts : queues, j, rope);
}

template <class T, int C, int LANES, int HEADS>
static int start_parts(ic_cuda_device *d, const ic_cuda_decode_job &j, int n,
                       const ic_cuda_rope &rope)
{
    size_t wanted = (size_t)WARPS * shape<T, C, LANES, DEEP>::QUEUE + STATIC_BYTES;
    return wanted <= d->shared_max ? start_stages<T, C, LANES, HEADS, DEEP>(d, j, n, rope)
                                   : start_stages<T, C, LANES, HEADS, FEWER>(d, j, n, rope);
}

/* f32 goes by pieces of 16 bytes where a key fits 16 lanes; a group of two or more heads by fours.
 * 16-bit heads whose halves the tensor cores cannot take go one by one. */
static int start_plain(ic_cuda_device *d, ic_dtype dtype, const ic_cuda_decode_job &j, int n,
                       const ic_cuda_rope &rope)
{
    if (dtype == IC_BF16)
        return start_parts<__nv_bfloat16, 4, 32, 1>(d, j, n, rope);
    if (dtype == IC_F16)
        return start_parts<__half, 4, 32, 1>(d, j, n, rope);
    if (j.dim > 128)
        return start_parts<float, 4, 32, 1>(d, j, n, rope);
    return j.group > 1 ? start_parts<float, 4, 16, 4>(d, j, n, rope)
                       : start_parts<float, 4, 16, 1>(d, j, n, rope);
}

static size_t parts_bytes(int n, int heads, int dim, int count, bool sums)
{
    size_t places = (size_t)(count / IC_CUDA_COUNT_STEP + 2) * IC_CUDA_COUNT_STEP;
    size_t most = (size_t)n * heads * places;
    return most / SPLIT * (sizeof(ic_cuda_stat) + dim * sizeof(float))
           + (sums ? most * sizeof(float) : 0);
}

size_t ic_cuda_decode_room(const ic_slab_desc *desc, int heads, bool sums)
{
    return parts_bytes(IC_CUDA_DECODE_SESSIONS, heads, desc->head_dim, desc->slots, sums);
}

static int decode_some(ic_cuda_device *d, const ic_slab *const *slabs, int n, int layer,
                       const ic_cuda_rope &rope, ic_cuda_decode_job j)
{
    bool sums = false;
    int count = 0;
    for (int i = 0; i < n; i++) {
        int rc = ic_cuda_slab_view(slabs[i], layer, &j.views[i]);
        if (rc)
            return rc;
        count = j.views[i].count > count ? j.views[i].count : count;
        if (slabs[i]->score_kind == IC_SCORE_SUM) {
            sums = true;
            ((ic_slab *)slabs[i])->host_stale = true; /* its scores */
        }
    }
    /* A recorded step serves until a count reaches the next multiple of this; the room is for one
     * multiple more, so that no recording finds it too small. */
    j.places = (count / IC_CUDA_COUNT_STEP + 1) * IC_CUDA_COUNT_STEP;
    j.splits = j.places / SPLIT;
    int64_t rows = (int64_t)n * j.heads, pieces = rows * j.splits;
    char *room =
        (char *)ic_cuda_scratch(d, IC_CUDA_ROOM_PARTS, parts_bytes(n, j.heads, j.dim, count, sums));
    if (!room)
        return IC_ENOMEM;
    j.stats = (ic_cuda_stat *)(void *)room;
    j.parts = (float *)(void *)(j.stats + pieces);
    j.scores = j.parts + pieces * j.dim;
    ic_dtype dtype = slabs[0]->desc.k_dtype;
    bool tensor = dtype != IC_F32 && j.dim % 16 == 0 && ic_cuda_decode_tensor_fits(d, j.dim);
    int rc =
        tensor ? ic_cuda_decode_tensor(d, dtype, &j, n, &rope) : start_plain(d, dtype, j, n, rope);
    if (rc == 0)
        rc = ic_cuda_launch(d, join_kernel, dim3(j.heads, n), THREADS, 0, j);
    if (rc == 0 && sums)
        rc = ic_cuda_launch(d, sum_kernel, dim3(ic_cuda_blocks(j.places, THREADS), j.kv_heads, n),
                            THREADS, 0, j);
    return rc;
}

/* Sessions from `first` on that one launch can serve: of one dtype. */
static int count_alike(const ic_slab *const *slabs, int first, int n)
{
    int end = first + 1;
    while (end < n && end - first < IC_CUDA_DECODE_SESSIONS
           && slabs[end]->desc.k_dtype == slabs[first]->desc.k_dtype)
        end++;
    return end - first;
}

static int decode_all(ic_device *base, const ic_slab *const *slabs, int n, int layer, int heads,
                      const ic_mat *q, const ic_rope *rope, float scale, bool rotated, ic_mat *y)
{
    ic_cuda_device *d = ic_cuda_of(base);
    ic_cuda_rope turned;
    int rc = ic_cuda_rope_of(d, rope, &turned);
    for (int first = 0, some; rc == 0 && first < n; first += some) {
        some = count_alike(slabs, first, n);
        ic_cuda_decode_job j = {};
        j.q = (const float *)q->data + first * q->stride;
        j.y = (float *)y->data + first * y->stride;
        j.q_stride = q->stride;
        j.y_stride = y->stride;
        j.heads = heads;
        j.kv_heads = slabs[0]->desc.kv_heads;
        j.group = heads / j.kv_heads;
        j.dim = slabs[0]->desc.head_dim;
        /* The rope's scale is on both sides of a product. */
        j.scale = scale * IC_CUDA_LOG2E * rope->scale * rope->scale;
        j.rotated = rotated;
        rc = decode_some(d, slabs + first, some, layer, turned, j);
    }
    return rc;
}

int ic_cuda_attention_decode(ic_device *d, const ic_slab *const *slabs, int n, int layer, int heads,
                             const ic_mat *q, const ic_rope *rope, float scale, ic_mat *y)
{
    return decode_all(d, slabs, n, layer, heads, q, rope, scale, false, y);
}

int ic_cuda_attention_decode_rotated(ic_device *d, const ic_slab *const *slabs, int n, int layer,
                                     int heads, const ic_mat *q, const ic_rope *rope, float scale,
                                     ic_mat *y)
{
    for (int i = 0; i < n; i++)
        if (slabs[i]->desc.k_dtype == IC_F32 || slabs[i]->desc.head_dim % 16
            || !ic_cuda_decode_tensor_fits(ic_cuda_of(d), slabs[i]->desc.head_dim))
            return IC_EUNSUPPORTED;
    return decode_all(d, slabs, n, layer, heads, q, rope, scale, true, y);
}
