/* Row moves and activations: everything whose elements do not meet. Bound by memory: each thread
 * moves four neighbouring elements at once where the shapes allow it. */
#include "kernels/cuda/ic_cuda_product.h"

enum { THREADS = 256, AT_ONCE = 4, GRID_Y_MAX = 65535 };

/* One column of blocks per piece of a row, one row of blocks per row. */
static dim3 grid_of(const ic_mat *shape, int at_once)
{
    int64_t rows = shape->rows < GRID_Y_MAX ? shape->rows : (int64_t)GRID_Y_MAX;
    return dim3(ic_cuda_blocks(shape->cols, (int64_t)THREADS * at_once), (unsigned)rows);
}

/* Calls f with the number of elements a thread takes, as a type. */
template <int N> struct few {
    enum { COUNT = N };
};
template <class F> static int by_width(bool splits, F f)
{
    return splits ? f(few<AT_ONCE>()) : f(few<1>());
}

#define MY_COLUMN(N) ((int64_t)(blockIdx.x * THREADS + threadIdx.x) * (N))

/* --- gather and scatter --- */

template <class T, int N>
__global__ void gather_rows(const T *table, int64_t lda, const int32_t *ids, float *y, int64_t ldy,
                            int64_t rows, int64_t cols)
{
    int64_t col = MY_COLUMN(N);
    if (col >= cols)
        return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        float v[N];
        ic_cuda_get<N>(table + ids[row] * lda + col, v);
        ic_cuda_put<N>(y + row * ldy + col, v);
    }
}

int ic_cuda_gather(ic_device *base, const ic_mat *table, const int32_t *ids, ic_mat *y)
{
    ic_cuda_device *d = ic_cuda_of(base);
    for (int64_t i = 0; i < y->rows; i++)
        IC_ASSERT(ids[i] >= 0 && ids[i] < table->rows);
    if (y->rows == 0)
        return 0;
    const int32_t *staged = (const int32_t *)ic_cuda_stage(d, ids, (size_t)y->rows * sizeof *ids);
    if (!staged)
        return IC_EDEVICE;
    bool splits = ic_cuda_splits(table, AT_ONCE) && ic_cuda_splits(y, AT_ONCE);
    return ic_cuda_by_dtype(table->dtype, [&](auto t) {
        using T = decltype(t);
        return by_width(splits, [&](auto n) {
            constexpr int N = decltype(n)::COUNT;
            return ic_cuda_launch(d, gather_rows<T, N>, grid_of(y, N), THREADS, 0,
                                  (const T *)table->data, table->stride, staged, (float *)y->data,
                                  y->stride, y->rows, y->cols);
        });
    });
}

template <bool SET, int N>
__global__ void scatter_rows(const float *x, int64_t ldx, const int32_t *places, float *y,
                             int64_t ldy, int64_t rows, int64_t cols)
{
    int64_t col = MY_COLUMN(N);
    if (col >= cols)
        return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        float v[N], old[N];
        float *to = y + (places ? places[row] : row) * ldy + col;
        ic_cuda_get<N>(x + row * ldx + col, v);
        if (!SET) {
            ic_cuda_get<N>(to, old);
#pragma unroll
            for (int i = 0; i < N; i++)
                v[i] += old[i];
        }
        ic_cuda_put<N>(to, v);
    }
}

/* y[places[i], :] (+)= x[i, :]; places on the device, or NULL: row by row. */
static int scatter_to(ic_cuda_device *d, const ic_mat *x, const int32_t *places, bool set,
                      ic_mat *y)
{
    bool splits = ic_cuda_splits(x, AT_ONCE) && ic_cuda_splits(y, AT_ONCE);
    return by_width(splits, [&](auto n) {
        constexpr int N = decltype(n)::COUNT;
        return ic_cuda_launch(d, set ? scatter_rows<true, N> : scatter_rows<false, N>,
                              grid_of(x, N), THREADS, 0, (const float *)x->data, x->stride, places,
                              (float *)y->data, y->stride, x->rows, x->cols);
    });
}

int ic_cuda_scatter(ic_device *base, const ic_mat *x, const int32_t *rows, bool set, ic_mat *y)
{
    ic_cuda_device *d = ic_cuda_of(base);
    if (x->rows == 0)
        return 0;
    const int32_t *staged = (const int32_t *)ic_cuda_stage(d, rows, (size_t)x->rows * sizeof *rows);
    return staged ? scatter_to(d, x, staged, set, y) : IC_EDEVICE;
}

int ic_cuda_add(ic_device *base, const ic_mat *x, ic_mat *y)
{
    return x->rows ? scatter_to(ic_cuda_of(base), x, NULL, false, y) : 0;
}

/* --- bias --- */

template <class Y, int N>
__global__ void add_bias_rows(const float *bias, Y *y, int64_t ldy, int64_t rows, int64_t cols)
{
    int64_t col = MY_COLUMN(N);
    if (col >= cols)
        return;
    float b[N], v[N];
    ic_cuda_get<N>(bias + col, b);
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        ic_cuda_get<N>(y + row * ldy + col, v);
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] += b[i];
        ic_cuda_put<N>(y + row * ldy + col, v);
    }
}

int ic_cuda_add_bias(ic_cuda_device *d, const float *bias, const ic_mat *y)
{
    bool splits = ic_cuda_splits(y, AT_ONCE) && (uintptr_t)bias % (AT_ONCE * sizeof *bias) == 0;
    return ic_cuda_by_dtype(y->dtype, [&](auto t) {
        using Y = decltype(t);
        return by_width(splits, [&](auto n) {
            constexpr int N = decltype(n)::COUNT;
            return ic_cuda_launch(d, add_bias_rows<Y, N>, grid_of(y, N), THREADS, 0, bias,
                                  (Y *)y->data, y->stride, y->rows, y->cols);
        });
    });
}

/* --- activations --- */

__device__ __forceinline__ float silu(float v)
{
    return v / (1.0f + expf(-v));
}

template <class X, class Y, int N>
__global__ void swiglu_rows(const X *x, int64_t ldx, Y *y, int64_t ldy, int64_t rows, int64_t cols)
{
    int64_t col = MY_COLUMN(N);
    if (col >= cols)
        return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        float gate[N], up[N];
        ic_cuda_get<N>(x + row * ldx + col, gate);
        ic_cuda_get<N>(x + row * ldx + cols + col, up);
#pragma unroll
        for (int i = 0; i < N; i++)
            gate[i] = silu(gate[i]) * up[i];
        ic_cuda_put<N>(y + row * ldy + col, gate);
    }
}

/* Calls f with values of the types of x and y and the width that both allow. */
template <class F> static int by_types(const ic_mat *x, const ic_mat *y, F f)
{
    bool splits = ic_cuda_splits(x, AT_ONCE) && ic_cuda_splits(y, AT_ONCE);
    return ic_cuda_by_dtype(x->dtype, [&](auto tx) {
        return ic_cuda_by_dtype(y->dtype, [&](auto ty) {
            return by_width(splits, [&](auto n) { return f(tx, ty, n); });
        });
    });
}

int ic_cuda_swiglu(ic_device *base, const ic_mat *gate_up, ic_mat *y)
{
    ic_cuda_device *d = ic_cuda_of(base);
    if (y->rows == 0)
        return 0;
    return by_types(gate_up, y, [&](auto tx, auto ty, auto n) {
        using X = decltype(tx);
        using Y = decltype(ty);
        constexpr int N = decltype(n)::COUNT;
        return ic_cuda_launch(d, swiglu_rows<X, Y, N>, grid_of(y, N), THREADS, 0,
                              (const X *)gate_up->data, gate_up->stride, (Y *)y->data, y->stride,
                              y->rows, y->cols);
    });
}

template <bool TANH> __device__ __forceinline__ float gelu(float v)
{
    if (TANH)
        return 0.5f * v * (1.0f + tanhf(0.7978845608028654f * (v + 0.044715f * v * v * v)));
    return 0.5f * v * (1.0f + erff(v * 0.70710678118654752f));
}

template <class X, class Y, int N, bool TANH>
__global__ void gelu_rows(const X *x, int64_t ldx, Y *y, int64_t ldy, int64_t rows, int64_t cols)
{
    int64_t col = MY_COLUMN(N);
    if (col >= cols)
        return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        float v[N];
        ic_cuda_get<N>(x + row * ldx + col, v);
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] = gelu<TANH>(v[i]);
        ic_cuda_put<N>(y + row * ldy + col, v);
    }
}

int ic_cuda_gelu(ic_device *base, const ic_mat *x, bool tanh_form, ic_mat *y)
{
    ic_cuda_device *d = ic_cuda_of(base);
    if (y->rows == 0)
        return 0;
    return by_types(x, y, [&](auto tx, auto ty, auto n) {
        using X = decltype(tx);
        using Y = decltype(ty);
        constexpr int N = decltype(n)::COUNT;
        return ic_cuda_launch(d, tanh_form ? gelu_rows<X, Y, N, true> : gelu_rows<X, Y, N, false>,
                              grid_of(y, N), THREADS, 0, (const X *)x->data, x->stride,
                              (Y *)y->data, y->stride, y->rows, y->cols);
    });
}
