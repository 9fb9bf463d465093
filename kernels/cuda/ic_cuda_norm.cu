/* RMSNorm and LayerNorm over groups of columns. A group is worked on by a warp when it is short (a
 * head), by a block when it is a whole row. Sums are f32, as on the CPU; the row is read again for
 * each pass, out of the caches. */
#include "kernels/cuda/ic_cuda.h"

enum { THREADS = 256, WARPS = THREADS / IC_CUDA_WARP, SHORT = 1024, AT_ONCE = 4 };

template <bool SHORT_GROUP> __device__ __forceinline__ float team_sum(float v)
{
    __shared__ float room[WARPS];
    return SHORT_GROUP ? ic_cuda_warp_sum(v) : ic_cuda_block_sum(v, room);
}

/* A thread's elements of a group: AT_ONCE neighbours, then those a team further. */
#define FOR_MINE(at, N, lane, team, dim) for (int at = (lane) * (N); at < (dim); at += (team) * (N))

/* y = (x - mean) / sqrt(variance + eps) * weight + bias; without CENTRED mean is 0. */
template <class X, class Y, int N, bool SHORT_GROUP, bool CENTRED>
__global__ void __launch_bounds__(THREADS)
    norm_groups(const X *x, int64_t ldx, const float *weight, const float *bias, int dim, float eps,
                Y *y, int64_t ldy, int per_row, int64_t groups)
{
    constexpr int TEAM = SHORT_GROUP ? (int)IC_CUDA_WARP : (int)THREADS;
    int lane = threadIdx.x % TEAM;
    int64_t group = (int64_t)blockIdx.x * (THREADS / TEAM) + threadIdx.x / TEAM;
    if (group >= groups)
        return; /* whole teams at a time */
    int64_t first = group % per_row * dim;
    const X *from = x + group / per_row * ldx + first;
    Y *to = y + group / per_row * ldy + first;
    float v[N], mean = 0, sum = 0;
    if (CENTRED) {
        FOR_MINE(at, N, lane, TEAM, dim)
        {
            ic_cuda_get<N>(from + at, v);
#pragma unroll
            for (int i = 0; i < N; i++)
                mean += v[i];
        }
        mean = team_sum<SHORT_GROUP>(mean) / (float)dim;
    }
    FOR_MINE(at, N, lane, TEAM, dim)
    {
        ic_cuda_get<N>(from + at, v);
#pragma unroll
        for (int i = 0; i < N; i++)
            sum += (v[i] - mean) * (v[i] - mean);
    }
    float factor = 1.0f / sqrtf(team_sum<SHORT_GROUP>(sum) / (float)dim + eps);
    FOR_MINE(at, N, lane, TEAM, dim)
    {
        ic_cuda_get<N>(from + at, v);
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] = (v[i] - mean) * factor * weight[at + i] + (CENTRED ? bias[at + i] : 0.0f);
        ic_cuda_put<N>(to + at, v);
    }
}

typedef struct norm_call {
    const ic_mat *x;
    ic_mat *y;
    const float *weight, *bias;
    int dim;
    float eps;
} norm_call;

template <class X, class Y, int N, bool SHORT_GROUP>
static int launch(ic_cuda_device *d, const norm_call *n)
{
    int per_row = (int)(n->x->cols / n->dim), per_block = SHORT_GROUP ? WARPS : 1;
    int64_t groups = n->x->rows * per_row;
    return ic_cuda_launch(d,
                          n->bias ? norm_groups<X, Y, N, SHORT_GROUP, true>
                                  : norm_groups<X, Y, N, SHORT_GROUP, false>,
                          ic_cuda_blocks(groups, per_block), THREADS, 0, (const X *)n->x->data,
                          n->x->stride, n->weight, n->bias, n->dim, n->eps, (Y *)n->y->data,
                          n->y->stride, per_row, groups);
}

template <class X, class Y> static int launch_shaped(ic_cuda_device *d, const norm_call *n)
{
    bool splits =
        n->dim % AT_ONCE == 0 && ic_cuda_splits(n->x, AT_ONCE) && ic_cuda_splits(n->y, AT_ONCE);
    if (n->dim <= SHORT)
        return splits ? launch<X, Y, AT_ONCE, true>(d, n) : launch<X, Y, 1, true>(d, n);
    return splits ? launch<X, Y, AT_ONCE, false>(d, n) : launch<X, Y, 1, false>(d, n);
}

static int run(ic_device *base, const norm_call *n)
{
    ic_cuda_device *d = ic_cuda_of(base);
    if (n->x->rows == 0)
        return 0;
    return ic_cuda_by_dtype(n->x->dtype, [&](auto tx) {
        return ic_cuda_by_dtype(
            n->y->dtype, [&](auto ty) { return launch_shaped<decltype(tx), decltype(ty)>(d, n); });
    });
}

int ic_cuda_rmsnorm(ic_device *d, const ic_mat *x, const float *weight, int dim, float eps,
                    ic_mat *y)
{
    norm_call n = {x, y, weight, NULL, dim, eps};
    return run(d, &n);
}

int ic_cuda_layernorm(ic_device *d, const ic_mat *x, const float *weight, const float *bias,
                      float eps, ic_mat *y)
{
    norm_call n = {x, y, weight, bias, (int)x->cols, eps};
    return run(d, &n);
}
