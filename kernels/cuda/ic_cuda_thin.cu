/* Products of few rows: as fast as the weight can be read.
 *
 * 16-bit weights go through the tensor cores, though not for their arithmetic: an m16n8k16 product
 * takes 16 outputs and up to 8 rows of x, and no weight is widened, moved through shared memory or
 * read twice. The order of the sum is free as long as both operands follow it, so each lane reads
 * 16 bytes that lie together: lane l has elements 8 (l % 4) .. + 7 of 32 neighbouring ones, of
 * outputs l / 4 and l / 4 + 8, and of row l / 4 of x; the first four feed one product, the last
 * four the next. A block's warps share 16 outputs and split the depth; their sums meet in shared
 * memory. */
#include "kernels/cuda/ic_cuda_mma.h"
#include "kernels/cuda/ic_cuda_product.h"

enum {
    WARPS = 8,
    THREADS = WARPS * IC_CUDA_WARP,
    OUTPUTS = 16,    /* of a block */
    ROWS = 8,        /* of x in one product */
    SPAN = 32,       /* elements of the depth that a warp reads at once: 64 bytes of each output */
    PAIR = 2 * SPAN, /* two spans side by side: whole lines of 128 bytes */
    UNDER_WAY = 4    /* spans whose loads are started before the first is used */
};

/* Where span number u of a round begins for a warp. */
__device__ __forceinline__ int64_t span_at(int warp, int u)
{
    return (int64_t)warp * PAIR + u % 2 * SPAN + (int64_t)(u / 2) * (WARPS * PAIR);
}

__device__ __forceinline__ uint4 weights_at(const void *row, int64_t bytes, bool inside)
{
    uint4 none = {0, 0, 0, 0};
    return inside ? __ldcs((const uint4 *)((const char *)row + bytes)) : none;
}

__device__ __forceinline__ uint4 rows_at(const void *row, int64_t bytes, bool inside)
{
    uint4 none = {0, 0, 0, 0};
    return inside ? *(const uint4 *)((const char *)row + bytes) : none;
}

/* sums += 16 outputs x 8 rows over one span. */
template <class T>
__device__ __forceinline__ void multiply(float (&sums)[4], uint4 low, uint4 high, uint4 x)
{
    const uint32_t first[4] = {low.x, high.x, low.y, high.y};
    const uint32_t second[4] = {low.z, high.z, low.w, high.w};
    ic_cuda_mma<T>(sums, first, x.x, x.y);
    ic_cuda_mma<T>(sums, second, x.z, x.w);
}

/* y = x w^T (+ bias) (+ y) for 16 outputs and TILES * 8 rows. depth is padded to 8. */
template <class T, class Y, int TILES>
__global__ void __launch_bounds__(THREADS)
    thin_product(const T *w, int64_t ldw, int64_t outputs, const T *x, int64_t ldx, int64_t rows,
                 int64_t depth, const float *bias, bool add, Y *y, int64_t ldy)
{
    __shared__ float parts[WARPS][TILES][OUTPUTS][ROWS];
    int lane = threadIdx.x % IC_CUDA_WARP, warp = threadIdx.x / IC_CUDA_WARP;
    int place = lane / 4, mine = lane % 4 * 8;
    int64_t first = (int64_t)blockIdx.x * OUTPUTS, first_row = (int64_t)blockIdx.y * TILES * ROWS;
    int64_t last = outputs - 1; /* rows beyond it are read as it, and not stored */
    const T *low = w + (first + place < last ? first + place : last) * ldw;
    const T *high = w + (first + place + 8 < last ? first + place + 8 : last) * ldw;
    float sums[TILES][4] = {};
    for (int64_t start = 0; start < depth; start += UNDER_WAY / 2 * WARPS * PAIR) {
        uint4 a[UNDER_WAY][2];
#pragma unroll
        for (int u = 0; u < UNDER_WAY; u++) {
            int64_t at = start + span_at(warp, u) + mine;
            a[u][0] = weights_at(low, at * (int64_t)sizeof(T), at < depth);
            a[u][1] = weights_at(high, at * (int64_t)sizeof(T), at < depth);
        }
#pragma unroll
        for (int u = 0; u < UNDER_WAY; u++) {
            int64_t at = start + span_at(warp, u) + mine;
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                int64_t row = first_row + t * ROWS + place;
                uint4 b = rows_at(x + row * ldx, at * (int64_t)sizeof(T), row < rows && at < depth);
                multiply<T>(sums[t], a[u][0], a[u][1], b);
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int r = 0; r < 4; r++)
            parts[warp][t][place + 8 * (r / 2)][lane % 4 * 2 + r % 2] = sums[t][r];
    __syncthreads();
    for (int i = threadIdx.x; i < TILES * OUTPUTS * ROWS; i += THREADS) {
        int output = i % OUTPUTS, row = i / OUTPUTS;
        if (first + output > last || first_row + row >= rows)
            continue;
        float sum = bias ? bias[first + output] : 0.0f;
#pragma unroll
        for (int part = 0; part < WARPS; part++)
            sum += parts[part][row / ROWS][output][row % ROWS];
        Y *to = y + (first_row + row) * ldy + first + output;
        *to = ic_cuda_to<Y>(sum + (add ? ic_cuda_f32(*to) : 0.0f));
    }
}

/* The same in f32: a warp per output, four rows of x at a time. */
enum { F32_ROWS = 4 };

__global__ void __launch_bounds__(THREADS)
    thin_product_f32(const float *w, int64_t ldw, int64_t outputs, const float *x, int64_t ldx,
                     int64_t rows, int64_t depth, const float *bias, bool add, float *y,
                     int64_t ldy)
{
    int lane = threadIdx.x % IC_CUDA_WARP;
    int64_t output = (int64_t)blockIdx.x * WARPS + threadIdx.x / IC_CUDA_WARP;
    int64_t first_row = (int64_t)blockIdx.y * F32_ROWS;
    if (output >= outputs)
        return; /* the whole warp */
    float sums[F32_ROWS] = {};
    for (int64_t at = lane * 4; at < depth; at += IC_CUDA_WARP * 4) {
        float a[4], b[4];
        ic_cuda_load_once(w + output * ldw + at, a);
#pragma unroll
        for (int r = 0; r < F32_ROWS; r++) {
            if (first_row + r >= rows)
                break;
            ic_cuda_load(x + (first_row + r) * ldx + at, b);
#pragma unroll
            for (int i = 0; i < 4; i++)
                sums[r] += a[i] * b[i];
        }
    }
#pragma unroll
    for (int r = 0; r < F32_ROWS; r++) {
        float sum = ic_cuda_warp_sum(sums[r]);
        if (lane != 0 || first_row + r >= rows)
            continue;
        float *to = y + (first_row + r) * ldy + output;
        *to = sum + (bias ? bias[output] : 0.0f) + (add ? *to : 0.0f);
    }
}

template <class T, class Y, int TILES>
static int launch(ic_cuda_device *d, const ic_cuda_product *p)
{
    const ic_cuda_weight *w = p->w;
    dim3 grid(ic_cuda_blocks(w->base.out_dim, OUTPUTS), ic_cuda_blocks(p->rows, TILES * ROWS));
    return ic_cuda_launch(d, thin_product<T, Y, TILES>, grid, THREADS, 0, (const T *)w->data,
                          w->stride, w->base.out_dim, (const T *)p->x, p->ldx, p->rows, w->stride,
                          p->bias, p->add, (Y *)p->y->data, p->y->stride);
}

template <class T, class Y> static int launch_tiled(ic_cuda_device *d, const ic_cuda_product *p)
{
    return p->rows <= ROWS ? launch<T, Y, 1>(d, p) : launch<T, Y, 2>(d, p);
}

template <class T> static int launch_typed(ic_cuda_device *d, const ic_cuda_product *p)
{
    return p->y->dtype == IC_F32 ? launch_tiled<T, float>(d, p) : launch_tiled<T, T>(d, p);
}

static int launch_f32(ic_cuda_device *d, const ic_cuda_product *p)
{
    const ic_cuda_weight *w = p->w;
    dim3 grid(ic_cuda_blocks(w->base.out_dim, WARPS), ic_cuda_blocks(p->rows, F32_ROWS));
    return ic_cuda_launch(d, thin_product_f32, grid, THREADS, 0, (const float *)w->data, w->stride,
                          w->base.out_dim, (const float *)p->x, p->ldx, p->rows, w->stride, p->bias,
                          p->add, (float *)p->y->data, p->y->stride);
}

int ic_cuda_thin(ic_cuda_device *d, const ic_cuda_product *p)
{
    if (p->w->stored == IC_F32)
        return launch_f32(d, p);
    if (p->w->stored == IC_BF16)
        return launch_typed<__nv_bfloat16>(d, p);
    return launch_typed<__half>(d, p);
}
