/* Scores of keys: what a slice's last rows paid to each, after attention has left their softmax.
 *
 * A block has 64 keys of one kv head and goes over the rows, 64 at a time: the same product as in
 * attention gives the same scores, the statistics make them probabilities, and each key's are
 * added up in the order of the rows, so that slices leave no trace in a sum. */
#include "kernels/cuda/ic_cuda_attention.h"
#include "kernels/cuda/ic_cuda_tile.h"

constexpr int TILE = IC_CUDA_TILE;
constexpr int PARTS = IC_CUDA_TILE_PARTS;

/* LEAN: as in ic_cuda_attention.cu. */
template <class T, int DIM, bool LEAN> struct layout {
    static constexpr int ROW = ic_cuda_row<T, DIM>::N;
    static constexpr int ONE = TILE * ROW;
    static constexpr int BYTES =
        (LEAN ? 1 : 2) * ONE * sizeof(T) + TILE * IC_CUDA_TILE_ROOM * sizeof(float);
};

/* A window's mean at a key: only the rows at or behind the key's place have seen it. */
static __device__ float window_score(float old, float column, int key, int place, int rows,
                                     float smooth)
{
    int seen = key <= place ? rows : rows - (key - place);
    float mean = column / (float)seen;
    return old >= 0 && smooth > 0 ? smooth * old + (1 - smooth) * mean : mean;
}

/* Probabilities of one tile of rows into shared memory; with `votes`, whether each is at least one
 * part in as many as the row sees. Either is over the group: a row is one query of it. */
template <class T, int DIM>
static __device__ void weigh_rows(const ic_cuda_queries<T, DIM> &q, const T *keys,
                                  const ic_cuda_stat *stats, int first, int all, int group,
                                  int place, int key, bool votes, float *weights)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = lane % 4 * 2;
    float s[PARTS][4];
    q.scores(keys, s);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int in_tile = warp * 16 + lane / 4 + i * 8, row = first + in_tile;
        int sees = row < all ? place + row / group + 1 - key : 0;
        ic_cuda_stat stat = row < all ? stats[row] : ic_cuda_stat{0, 1};
        float part = 1.0f / (stat.sum * (float)group), share = 1.0f / (float)group;
        float least = share / (float)(place + row / group + 1);
#pragma unroll
        for (int n = 0; n < PARTS; n++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int at = n * 8 + column + r;
                float weight = at < sees ? exp2f(s[n][i * 2 + r] - stat.max) * part : 0.0f;
                if (votes)
                    weight = weight >= least ? share : 0.0f;
                weights[in_tile * IC_CUDA_TILE_ROOM + at] = weight;
            }
    }
}

template <class T, int DIM, bool LEAN>
static __global__ void __launch_bounds__(IC_CUDA_TILE_THREADS)
    score_kernel(ic_cuda_slice s, ic_cuda_view v, int group)
{
    using L = layout<T, DIM, LEAN>;
    IC_CUDA_SHARED(T, shared);
    T *queries = shared, *keys = LEAN ? shared : shared + L::ONE;
    float *weights = (float *)(void *)(keys + L::ONE);
    int kv = blockIdx.y, key = blockIdx.x * TILE, tid = threadIdx.x;
    int count = s.counts[kv], end = count - s.behind; /* that the last row sees */
    int place = end - s.stat_rows, all = s.stat_rows * group;
    if (key >= end)
        return;
    const T *q = (const T *)s.q + kv * s.q_head + (int64_t)(s.rows - s.stat_rows) * group * DIM;
    const ic_cuda_stat *stats = s.stats + (int64_t)kv * all;
    ic_cuda_tile_copy<T, DIM>(keys, (const T *)s.k + kv * s.kv_head, key, end);

    bool sum = v.score_kind == IC_SCORE_SUM, peak = v.score_kind == IC_SCORE_PEAK;
    float *score = NULL, column = 0;
    if (tid < TILE && key + tid < end) {
        int64_t table = (int64_t)kv * v.slots;
        score = v.scores + table + v.order[table + key + tid];
        column = sum ? *score : 0;
    }
    /* Rows that stand before the first key see nothing here. */
    int blind = key > place ? (key - place) * group / TILE * TILE : 0;
    for (int first = blind; first < all; first += TILE) {
        if constexpr (!LEAN)
            ic_cuda_tile_copy<T, DIM>(queries, q, first, all);
        ic_cuda_copy_commit();
        ic_cuda_copy_wait<0>();
        __syncthreads();
        ic_cuda_queries<T, DIM> mine;
        if constexpr (LEAN)
            mine.take_there(q, first + tid / 32 * 16, all);
        else
            mine.take(queries + tid / 32 * 16 * L::ROW);
        weigh_rows<T, DIM>(mine, keys, stats, first, all, group, place, key,
                           v.score_kind == IC_SCORE_VOTES, weights);
        __syncthreads();
        int rows = all - first < TILE ? all - first : TILE;
        for (int r = 0; score && r < rows; r++) {
            float paid = weights[r * IC_CUDA_TILE_ROOM + tid];
            column = peak ? fmaxf(column, paid * (float)group) : column + paid;
        }
        __syncthreads();
    }
    if (score && peak)
        *score = fmaxf(v.smooth * *score, column);
    else if (score)
        *score =
            sum ? column : window_score(*score, column, key + tid, place, s.stat_rows, v.smooth);
}

int ic_cuda_score_slice(ic_cuda_device *d, const ic_cuda_slice *s, const ic_cuda_view *view,
                        int group, ic_dtype dtype, int wide)
{
    dim3 grid(ic_cuda_blocks(view->count, TILE), view->heads);
    return ic_cuda_by_tile(dtype, wide, [&](auto t, auto w) {
        using T = decltype(t);
        const int DIM = decltype(w)::value;
        if constexpr (sizeof(T) == 4)
            if (layout<T, DIM, false>::BYTES > d->shared_max)
                return ic_cuda_launch(d, score_kernel<T, DIM, true>, grid, IC_CUDA_TILE_THREADS,
                                      layout<T, DIM, true>::BYTES, *s, *view, group);
        return ic_cuda_launch(d, score_kernel<T, DIM, false>, grid, IC_CUDA_TILE_THREADS,
                              layout<T, DIM, false>::BYTES, *s, *view, group);
    });
}
