/* Queries, keys and values on their way into tiles. See ic_cuda_attention.h. */
#include "kernels/cuda/ic_cuda_attention.h"
#include "kernels/cuda/ic_cuda_mma.h"
#include "kernels/cuda/ic_cuda_rotate.h"

enum { THREADS = 256 };

int ic_cuda_tile_width(ic_dtype dtype, int dim)
{
    static const int wide[][5] = {{64, 128, 256, 0}, {32, 64, 80, 128, 0}};
    const int *w = wide[dtype != IC_F32];
    while (*w && *w < dim)
        w++;
    return *w;
}

ic_dtype ic_cuda_tile_dtype(ic_dtype dtype, int dim)
{
    return ic_cuda_tile_width(dtype, dim) ? dtype : IC_F32;
}

/* The part of a row that this thread pads: four zeros from `dim` on, every 4 * parts. */
template <class T> static __device__ void pad_row(T *row, int dim, int wide, int part, int parts)
{
    const float zeros[4] = {0, 0, 0, 0};
    for (int i = dim + part * 4; i < wide; i += parts * 4)
        ic_cuda_store4(row + i, zeros);
}

/* f16 has an end; bf16 and f32 have none that activations reach. */
template <class T> static __device__ __forceinline__ void keep_in_range(float (&v)[4])
{
    if (sizeof(T) == 2 && !ic_cuda_is_bf16<T>::value)
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = fminf(fmaxf(v[i], -65504.0f), 65504.0f);
}

struct query_job {
    const float *q;
    int64_t stride;
    int rows, kv_heads, group, dim, wide, behind;
    float scale;
    bool rotated;
};

/* A thread per four pairs of a query: blockIdx.y is the query head. */
template <class T>
static __global__ void __launch_bounds__(THREADS)
    query_kernel(query_job j, ic_cuda_view v, ic_cuda_rope rope, T *out)
{
    int half = j.dim / 2, parts = half / 4;
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int row = (int)(at / parts), part = (int)(at % parts), head = blockIdx.y;
    int kv = head / j.group, i = part * 4;
    if (row >= j.rows)
        return;
    const float *q = j.q + row * j.stride + (int64_t)head * j.dim;
    T *to = out + (((int64_t)kv * j.rows + row) * j.group + head % j.group) * j.wide;
    float a[4], b[4];
#pragma unroll
    for (int n = 0; n < 4; n++) {
        a[n] = q[i + n];
        b[n] = q[half + i + n];
    }
    if (j.rotated) {
        int place = v.counts[kv] - j.behind - j.rows + row;
        ic_cuda_turn(rope, i, v.positions[(int64_t)kv * v.slots + place], a, b);
    }
#pragma unroll
    for (int n = 0; n < 4; n++) {
        a[n] *= j.scale;
        b[n] *= j.scale;
    }
    keep_in_range<T>(a);
    keep_in_range<T>(b);
    ic_cuda_store4(to + i, a);
    ic_cuda_store4(to + half + i, b);
    pad_row(to, j.dim, j.wide, part, parts);
}

int ic_cuda_pack_queries(ic_cuda_device *d, const ic_mat *q, int kv_heads, int dim, float scale,
                         const ic_cuda_view *view, int behind, const ic_cuda_rope *rope,
                         ic_dtype dtype, int wide, void *out)
{
    int heads = (int)(q->cols / dim);
    query_job job = {(const float *)q->data,
                     q->stride,
                     (int)q->rows,
                     kv_heads,
                     heads / kv_heads,
                     dim,
                     wide,
                     behind,
                     scale,
                     view != NULL};
    dim3 grid(ic_cuda_blocks(q->rows * (dim / 8), THREADS), heads);
    return ic_cuda_by_dtype(dtype, [&](auto t) {
        using T = decltype(t);
        return ic_cuda_launch(d, query_kernel<T>, grid, THREADS, 0, job,
                              view ? *view : ic_cuda_view(), rope ? *rope : ic_cuda_rope(),
                              (T *)out);
    });
}

/* A thread per four pairs of a key, and as much of the value: blockIdx.y is the kv head. */
template <class S, class T>
static __global__ void __launch_bounds__(THREADS)
    slab_kernel(ic_cuda_view v, ic_cuda_rope rope, int places, int wide, T *keys, T *values)
{
    int half = v.dim / 2, parts = half / 4, head = blockIdx.y;
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, table = (int64_t)head * v.slots;
    int place = (int)(at / parts), part = (int)(at % parts), i = part * 4;
    if (place >= v.counts[head] || place >= places)
        return;
    int64_t from = (table + v.order[table + place]) * v.dim + i;
    int64_t to = ((int64_t)head * places + place) * wide;
    float a[4], b[4];
    ic_cuda_load4((const S *)(void *)v.k + from, a);
    ic_cuda_load4((const S *)(void *)v.k + from + half, b);
    ic_cuda_turn(rope, i, v.positions[table + place], a, b);
    ic_cuda_store4(keys + to + i, a);
    ic_cuda_store4(keys + to + half + i, b);
    pad_row(keys + to, v.dim, wide, part, parts);
    ic_cuda_load4((const S *)(void *)v.v + from, a);
    ic_cuda_load4((const S *)(void *)v.v + from + half, b);
    ic_cuda_store4(values + to + i, a);
    ic_cuda_store4(values + to + half + i, b);
    pad_row(values + to, v.dim, wide, part, parts);
}

template <class S, class T>
static int pack_slab(ic_cuda_device *d, const ic_cuda_view *view, const ic_cuda_rope *rope,
                     int places, int wide, void *k, void *v)
{
    dim3 grid(ic_cuda_blocks((int64_t)places * (view->dim / 8), THREADS), view->heads);
    return ic_cuda_launch(d, slab_kernel<S, T>, grid, THREADS, 0, *view, *rope, places, wide,
                          (T *)k, (T *)v);
}

int ic_cuda_pack_slab(ic_cuda_device *d, const ic_cuda_view *view, ic_dtype stored,
                      const ic_cuda_rope *rope, int places, ic_dtype dtype, int wide, void *k,
                      void *v)
{
    return ic_cuda_by_dtype(stored, [&](auto s) {
        using S = decltype(s);
        return dtype == stored ? pack_slab<S, S>(d, view, rope, places, wide, k, v)
                               : pack_slab<S, float>(d, view, rope, places, wide, k, v);
    });
}
