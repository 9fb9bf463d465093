/* Weights on the device: rows in the compute dtype, padded so that every row begins where 16 bytes
 * can be read at once. */
#include "kernels/cuda/ic_cuda_product.h"

enum { THREADS = 256, GRID_Y_MAX = 65535, PIECE_BYTES = 64 << 20 };

template <class From, class To>
__global__ void convert_rows(const From *from, int64_t ldf, To *to, int64_t ldt, int64_t rows,
                             int64_t cols)
{
    int64_t col = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (col >= ldt)
        return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y)
        to[row * ldt + col] =
            ic_cuda_to<To>(col < cols ? ic_cuda_f32(from[row * ldf + col]) : 0.0f);
}

/* The common case, four at a time. */
enum { AT_ONCE = 4 };

template <class From, class To>
__global__ void convert_fours(const From *from, int64_t ldf, To *to, int64_t ldt, int64_t rows)
{
    int64_t col = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * AT_ONCE;
    if (col >= ldt)
        return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        float v[AT_ONCE];
        ic_cuda_get<AT_ONCE>(from + row * ldf + col, v);
        ic_cuda_put<AT_ONCE>(to + row * ldt + col, v);
    }
}

int ic_cuda_convert(ic_cuda_device *d, const void *from, ic_dtype from_dtype, int64_t ldf,
                    int64_t rows, int64_t cols, void *to, ic_dtype to_dtype, int64_t ldt)
{
    size_t unit = AT_ONCE * ic_dtype_size(from_dtype);
    bool fours =
        cols == ldt && cols % AT_ONCE == 0 && ldf % AT_ONCE == 0 && (uintptr_t)from % unit == 0;
    unsigned y = (unsigned)(rows < GRID_Y_MAX ? rows : (int64_t)GRID_Y_MAX);
    dim3 grid(ic_cuda_blocks(ldt, THREADS * (fours ? AT_ONCE : 1)), y);
    return ic_cuda_by_dtype(from_dtype, [&](auto tf) {
        using From = decltype(tf);
        return ic_cuda_by_dtype(to_dtype, [&](auto tt) {
            using To = decltype(tt);
            if (fours)
                return ic_cuda_launch(d, convert_fours<From, To>, grid, THREADS, 0,
                                      (const From *)from, ldf, (To *)to, ldt, rows);
            return ic_cuda_launch(d, convert_rows<From, To>, grid, THREADS, 0, (const From *)from,
                                  ldf, (To *)to, ldt, rows, cols);
        });
    });
}

/* Some rows at a time: as they are to scratch, from there to their place. */
static int bring(ic_cuda_device *d, ic_cuda_weight *w, const char *host, ic_dtype from)
{
    if (!host)
        return ic_cuda_fill(d, w->data, w->stored, w->base.out_dim * w->stride, 3);
    int64_t in = w->base.in_dim, out = w->base.out_dim, bytes = in * (int64_t)ic_dtype_size(from);
    if (from == w->stored && in == w->stride)
        return ic_cuda_upload(&d->base, w->data, host, (size_t)(out * bytes));
    int64_t piece = PIECE_BYTES / bytes > 0 ? PIECE_BYTES / bytes : 1;
    piece = piece < out ? piece : out;
    void *raw = ic_cuda_scratch(d, IC_CUDA_ROOM_OPERANDS, (size_t)(piece * bytes));
    int rc = raw ? 0 : IC_ENOMEM;
    for (int64_t row = 0; rc == 0 && row < out; row += piece) {
        int64_t rows = out - row < piece ? out - row : piece;
        char *to = (char *)w->data + row * w->stride * (int64_t)ic_dtype_size(w->stored);
        rc = ic_cuda_upload(&d->base, raw, host + row * bytes, (size_t)(rows * bytes));
        if (rc == 0)
            rc = ic_cuda_convert(d, raw, from, in, rows, in, to, w->stored, w->stride);
    }
    return rc ? rc : ic_cuda_wait(&d->base);
}

int ic_cuda_weight_new(ic_weight **out, ic_device *base, const void *host, ic_dtype from,
                       ic_dtype compute, int64_t out_dim, int64_t in_dim, ic_error *e)
{
    ic_cuda_device *d = ic_cuda_of(base);
    ic_cuda_weight *w = (ic_cuda_weight *)ic_alloc(sizeof *w);
    w->stored = compute;
    w->stride = ic_cuda_padded(in_dim);
    int64_t bytes = out_dim * w->stride * (int64_t)ic_dtype_size(compute);
    w->base = ic_weight{base, out_dim, in_dim, compute, bytes, bytes};
    w->data = ic_cuda_alloc(base, (size_t)bytes);
    int rc = w->data ? bring(d, w, (const char *)host, from) : IC_ENOMEM;
    size_t row = (size_t)w->stride * ic_dtype_size(compute);
    d->deepest = row > d->deepest ? row : d->deepest;
    if (rc) {
        ic_cuda_weight_destroy(&w->base);
        return ic_error_set(e, rc, "a weight of %lld MiB: %s", (long long)(bytes >> 20),
                            rc == IC_ENOMEM ? "no device memory is left" : d->trouble);
    }
    *out = &w->base;
    return 0;
}

void ic_cuda_weight_destroy(ic_weight *base)
{
    ic_cuda_weight *w = (ic_cuda_weight *)(void *)base;
    ic_cuda_free(base->device, w->data);
    ic_free(w);
}
