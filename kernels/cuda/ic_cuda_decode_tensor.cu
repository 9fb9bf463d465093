/* Decode attention over 16-bit caches on the tensor cores. See ic_cuda_decode.h.
 *
 * A warp has 64 places of a piece: it scores them all, makes one softmax of them, and then weighs
 * the values; so nothing is rescaled on the way. Products, in fragments of ic_cuda_mma.h, with keys
 * and values as A and the group's heads (up to 8) as the 8 columns of B:
 * - scores, 16 keys x 8 heads, sum over dimensions. A sum may take dimensions in any order: lane l
 *   has of keys l / 4 and l / 4 + 8 the dimensions that it loads as 16-byte pieces, 8 low ones
 *   8 (4 m + l % 4) ... and their partners in rotation, half above; pairs of them are the A
 *   registers of the steps 4 m ... 4 m + 3, the low pair as columns 2 (l % 4), the high one as
 *   columns 8 + 2 (l % 4). Queries are laid out to match. No key ever changes lanes.
 * - output, dimensions x 8 heads, sum over 16 keys: values by ldmatrix, transposed; weights are the
 *   scores' fragments, transposed as well. */
#include "kernels/cuda/ic_cuda_decode.h"
#include "kernels/cuda/ic_cuda_mma.h"
#include "kernels/cuda/ic_cuda_rotate.h"

constexpr int SPLIT = IC_CUDA_DECODE_SPLIT;
constexpr int WARPS = IC_CUDA_DECODE_WARPS;
constexpr int THREADS = IC_CUDA_DECODE_THREADS;
constexpr int HEADS = 8;
constexpr int KEYS = 16;                    /* of a tile */
constexpr int TILES = SPLIT / WARPS / KEYS; /* of a warp; as many are in shared memory at once */
constexpr int PIECE = 16;                   /* bytes */

/* Bytes of a tile: keys as lanes have them, later values as rows with a gap (which puts the rows
 * that ldmatrix reads together into different banks). */
template <int M> static __host__ __device__ int tile_bytes(int dim)
{
    int keys = 4 * M * 32 * PIECE, values = KEYS * (dim * 2 + PIECE);
    return keys > values ? keys : values;
}

/* A position as floats: what angles are made of. */
struct place {
    float t, h, w;
};

static __device__ __forceinline__ place place_of(const ic_pos &p)
{
    return place{(float)p.t, (float)p.h, (float)p.w};
}

/* What a lane has to do with. */
template <int M> struct lane_share {
    int row, column; /* l / 4, l % 4 */
    bool used[M];    /* heads that are no multiple of 64 leave some pieces empty */
    /* Frequencies of the 8 pairs of piece m, on their axis; on the others 0: adding 0 is cheaper
     * than choosing, and changes no bit. */
    place freq[M][8];

    __device__ __forceinline__ lane_share(const ic_cuda_rope &rope)
    {
        row = threadIdx.x % 32 / 4;
        column = threadIdx.x % 4;
#pragma unroll
        for (int m = 0; m < M; m++) {
            used[m] = low(m) < rope.half;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                int at = used[m] ? low(m) + i : 0, axis = rope.axis[at];
                float f = rope.inv_freq[at];
                freq[m][i] = place{axis == 0 ? f : 0, axis == 1 ? f : 0, axis == 2 ? f : 0};
            }
        }
    }

    /* The first of the low dimensions of piece m. */
    __device__ __forceinline__ int low(int m) const
    {
        return (4 * m + column) * 8;
    }

    /* Rotates the pairs of 8 low and 8 high dimensions of piece m, without the rope's scale. */
    __device__ __forceinline__ void turn(int m, const place &p, float (&a)[8], float (&b)[8]) const
    {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const place &f = freq[m][i];
            float sine, cosine, x = a[i];
            float angle = fmaf(p.w, f.w, fmaf(p.h, f.h, __fmul_rn(p.t, f.t)));
            ic_cuda_sincos_fast(angle, &sine, &cosine);
            a[i] = x * cosine - b[i] * sine;
            b[i] = b[i] * cosine + x * sine;
        }
    }
};

/* The queries of up to 8 heads as B fragments: step 4 m + i, low and high. */
template <class T, int M> struct query_share {
    uint32_t b[4 * M][2];

    /* q: the first head's, of `heads`. Lane l has head l / 4. */
    __device__ __forceinline__ query_share(const lane_share<M> &lane, const float *q, int heads,
                                           int dim, float scale, const place &here)
    {
#pragma unroll
        for (int m = 0; m < M; m++) {
            float low[8], high[8];
            bool real = lane.used[m] && lane.row < heads;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float *at = q + (int64_t)lane.row * dim + lane.low(m) + i;
                low[i] = real ? at[0] * scale : 0.0f;
                high[i] = real ? at[dim / 2] * scale : 0.0f;
            }
            lane.turn(m, here, low, high);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                b[4 * m + i][0] = ic_cuda_pair<T>(low[2 * i], low[2 * i + 1]);
                b[4 * m + i][1] = ic_cuda_pair<T>(high[2 * i], high[2 * i + 1]);
            }
        }
    }
};

/* Keys of a tile, copied by the lane that will use them: piece (key, m, low or high) at [.][lane].
 */
template <int M>
static __device__ __forceinline__ void fetch_keys(const lane_share<M> &lane, char *tile,
                                                  const char *k, const int32_t *slots, int first,
                                                  int keys, int dim)
{
    char *to = tile + threadIdx.x % 32 * PIECE;
#pragma unroll
    for (int key = 0; key < 2; key++) {
        int slot = slots[min(first + lane.row + 8 * key, keys - 1)];
        const char *from = k + (int64_t)slot * dim * 2;
#pragma unroll
        for (int m = 0; m < M; m++, to += 2 * 32 * PIECE)
            if (lane.used[m]) {
                ic_cuda_copy_async<PIECE>(to, from + lane.low(m) * 2, PIECE);
                ic_cuda_copy_async<PIECE>(to + 32 * PIECE, from + lane.low(m) * 2 + dim, PIECE);
            }
    }
}

/* Values of a tile as rows. */
static __device__ __forceinline__ void fetch_values(char *tile, const char *v, const int32_t *slots,
                                                    int first, int keys, int dim)
{
    int pieces = dim / 8, lane = threadIdx.x % 32, stride = dim * 2 + PIECE;
    int key = lane / pieces, piece = lane % pieces;
    int keys_on = 32 / pieces, pieces_on = 32 % pieces;
    while (key < KEYS) {
        int slot = slots[min(first + key, keys - 1)];
        ic_cuda_copy_async<PIECE>(tile + key * stride + piece * PIECE,
                                  v + ((int64_t)slot * dim + piece * 8) * 2, PIECE);
        key += keys_on;
        piece += pieces_on;
        if (piece >= pieces) {
            piece -= pieces;
            key++;
        }
    }
}

/* Scores of a tile of 16 keys. */
template <class T, int M, bool ROTATED>
static __device__ __forceinline__ void
score_tile(const lane_share<M> &lane, const query_share<T, M> &q, const char *tile,
           const place *places, int first, int keys, float (&s)[4])
{
    const char *from = tile + threadIdx.x % 32 * PIECE;
    place at[2];
#pragma unroll
    for (int key = 0; key < 2; key++)
        at[key] = ROTATED ? place() : places[min(first + lane.row + 8 * key, keys - 1)];
    s[0] = s[1] = s[2] = s[3] = 0;
#pragma unroll
    for (int m = 0; m < M; m++) {
        uint32_t a[4][4] = {}; /* step, register */
#pragma unroll
        for (int key = 0; key < 2; key++) {
            if (!lane.used[m])
                continue;
            const T *piece = (const T *)(const void *)(from + (key * M + m) * 2 * 32 * PIECE);
            float low[8], high[8];
            ic_cuda_load(piece, low);
            ic_cuda_load(piece + 32 * PIECE / sizeof(T), high);
            if (!ROTATED)
                lane.turn(m, at[key], low, high);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                a[i][key] = ic_cuda_pair<T>(low[2 * i], low[2 * i + 1]);
                a[i][2 + key] = ic_cuda_pair<T>(high[2 * i], high[2 * i + 1]);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            ic_cuda_mma<T>(s, a[i], q.b[4 * m + i][0], q.b[4 * m + i][1]);
    }
}

/* Over the eight lanes that have keys of the same heads. */
static __device__ __forceinline__ float all_max(float v)
{
#pragma unroll
    for (int step = 4; step < 32; step *= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

static __device__ __forceinline__ float all_sum(float v)
{
#pragma unroll
    for (int step = 4; step < 32; step *= 2)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

/* The warp's softmax: s becomes 2^(s - max), 0 for what is no key. Lane l has heads 2 (l % 4) and
 * the next. */
static __device__ __forceinline__ void soften(float (&s)[TILES][4], int first, int keys,
                                              ic_cuda_stat (&stat)[2])
{
    int row = threadIdx.x % 32 / 4;
#pragma unroll
    for (int head = 0; head < 2; head++) {
        float top = -INFINITY, sum = 0;
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int key = 0; key < 2; key++) {
                float *score = &s[t][2 * key + head];
                if (first + t * KEYS + row + 8 * key >= keys)
                    *score = -INFINITY;
                top = fmaxf(top, *score);
            }
        top = all_max(top);
        float under = top == -INFINITY ? 0 : top;
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int key = 0; key < 2; key++) {
                float *score = &s[t][2 * key + head];
                *score = exp2f(*score - under);
                sum += *score;
            }
        stat[head] = ic_cuda_stat{top, all_sum(sum)};
    }
}

/* o[i], dimensions 16 i ... 16 i + 15 times 8 heads, += values times weights. */
template <class T, int M>
static __device__ __forceinline__ void weigh_tile(const char *tile, const float (&p)[4], int dim,
                                                  float (&o)[4 * M][4])
{
    int lane = threadIdx.x % 32, matrix = lane / 8, stride = dim * 2 + PIECE;
    /* Matrices: dimensions 0-7 and 8-15 of keys 0-7, then of keys 8-15. */
    const char *row = tile + (matrix / 2 * 8 + lane % 8) * stride + matrix % 2 * PIECE;
    uint32_t b0 = ic_cuda_transpose(ic_cuda_pair<T>(p[0], p[1]));
    uint32_t b1 = ic_cuda_transpose(ic_cuda_pair<T>(p[2], p[3]));
#pragma unroll
    for (int i = 0; i < 4 * M; i++) {
        if (i * 16 >= dim)
            break;
        uint32_t a[4];
        ic_cuda_ldmatrix<true>(a, row + i * 2 * PIECE);
        ic_cuda_mma<T>(o[i], a, b0, b1);
    }
}

/* blockIdx: the split; the kv head and which 8 of its query heads; the session. */
template <class T, int M, bool ROTATED>
static __global__ void __launch_bounds__(THREADS)
    tensor_kernel(ic_cuda_decode_job j, ic_cuda_rope rope)
{
    __shared__ int32_t slots[SPLIT];
    __shared__ place places[SPLIT];
    __shared__ ic_cuda_stat stats[WARPS * HEADS];
    IC_CUDA_SHARED(char, shared);
    const ic_cuda_view &v = j.views[blockIdx.z];
    int groups = (j.group + HEADS - 1) / HEADS, kv = blockIdx.y / groups;
    int g0 = (int)(blockIdx.y % groups) * HEADS, heads = min((int)HEADS, j.group - g0);
    int count = v.counts[kv], piece = (int)blockIdx.x * SPLIT,
        keys = min((int)SPLIT, count - piece);
    if (keys <= 0)
        return;
    int64_t table = (int64_t)kv * v.slots;
    for (int i = threadIdx.x; i < keys; i += THREADS) {
        slots[i] = v.order[table + piece + i];
        if (!ROTATED)
            places[i] = place_of(v.positions[table + piece + i]);
    }
    __syncthreads();
    int warp = threadIdx.x / 32, first = warp * TILES * KEYS, bytes = tile_bytes<M>(j.dim);
    const char *k = v.k + table * j.dim * 2, *values = v.v + table * j.dim * 2;
    char *tiles = shared + warp * TILES * bytes;
    lane_share<M> lane(rope);
    for (int t = 0; t < TILES; t++) {
        fetch_keys(lane, tiles + t * bytes, k, slots, first + t * KEYS, keys, j.dim);
        ic_cuda_copy_commit();
    }
    int head = kv * j.group + g0;
    query_share<T, M> q(lane, j.q + blockIdx.z * j.q_stride + (int64_t)head * j.dim, heads, j.dim,
                        j.scale, place_of(v.positions[table + count - 1]));

    float s[TILES][4], o[4 * M][4];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        /* Each tile of keys that is used up makes room for values. */
        ic_cuda_copy_wait<TILES - 1>();
        score_tile<T, M, ROTATED>(lane, q, tiles + t * bytes, places, first + t * KEYS, keys, s[t]);
        __syncwarp();
        fetch_values(tiles + t * bytes, values, slots, first + t * KEYS, keys, j.dim);
        ic_cuda_copy_commit();
    }
    if (v.score_kind == IC_SCORE_SUM)
        for (int t = 0; t < TILES; t++)
            for (int r = 0; r < 4; r++) {
                int place = first + t * KEYS + lane.row + r / 2 * 8, h = lane.column * 2 + r % 2;
                if (place < keys && h < heads)
                    j.scores[((int64_t)blockIdx.z * j.heads + head + h) * j.places + piece
                             + place] = s[t][r];
            }
    ic_cuda_stat stat[2];
    soften(s, first, keys, stat);
#pragma unroll
    for (int i = 0; i < 4 * M; i++)
        o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
    ic_cuda_copy_wait<0>();
    __syncwarp();
#pragma unroll
    for (int t = 0; t < TILES; t++)
        weigh_tile<T, M>(tiles + t * bytes, s[t], j.dim, o);

    __syncthreads(); /* the tiles are used up: their room is for the joining */
    float *parts = (float *)(void *)shared;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        int h = warp * HEADS + lane.column * 2 + r % 2;
        if (lane.row == 0 && r < 2)
            stats[h] = stat[r];
#pragma unroll
        for (int i = 0; i < 4 * M; i++)
            if (i * 16 < j.dim)
                parts[h * j.dim + i * 16 + lane.row + r / 2 * 8] = o[i][r];
    }
    __syncthreads();
    int64_t to = ((int64_t)blockIdx.z * j.heads + head) * j.splits + blockIdx.x;
    ic_cuda_decode_join<HEADS, WARPS>(j, stats, parts, heads, to);
}

template <class T, int M>
static int start(ic_cuda_device *d, const ic_cuda_decode_job &j, int n, const ic_cuda_rope &rope)
{
    size_t tiles = (size_t)WARPS * TILES * tile_bytes<M>(j.dim);
    size_t parts = (size_t)WARPS * HEADS * j.dim * sizeof(float);
    int groups = (j.group + HEADS - 1) / HEADS;
    return ic_cuda_launch(d, j.rotated ? tensor_kernel<T, M, true> : tensor_kernel<T, M, false>,
                          dim3(j.splits, j.kv_heads * groups, n), THREADS,
                          tiles > parts ? tiles : parts, j, rope);
}

template <class T>
static int start_by_dim(ic_cuda_device *d, const ic_cuda_decode_job &j, int n,
                        const ic_cuda_rope &rope)
{
    return j.dim <= 64    ? start<T, 1>(d, j, n, rope)
           : j.dim <= 128 ? start<T, 2>(d, j, n, rope)
                          : start<T, 4>(d, j, n, rope);
}

bool ic_cuda_decode_tensor_fits(const ic_cuda_device *d, int dim)
{
    const size_t static_bytes = 8 << 10; /* at most: slots, places, statistics */
    int bytes = dim <= 64    ? tile_bytes<1>(dim)
                : dim <= 128 ? tile_bytes<2>(dim)
                             : tile_bytes<4>(dim);
    return (size_t)WARPS * TILES * bytes + static_bytes <= d->shared_max;
}

int ic_cuda_decode_tensor(ic_cuda_device *d, ic_dtype dtype, const ic_cuda_decode_job *j, int n,
                          const ic_cuda_rope *rope)
{
    return dtype == IC_BF16 ? start_by_dim<__nv_bfloat16>(d, *j, n, *rope)
                            : start_by_dim<__half>(d, *j, n, *rope);
}
