/* ic_cuda_product: what the files about weights and products share. */
#ifndef IC_CUDA_PRODUCT_H
#define IC_CUDA_PRODUCT_H

#include "kernels/cuda/ic_cuda.h"

enum { IC_CUDA_DEPTH = 8 /* rows of operands are padded with zeros to this many elements */ };

typedef struct ic_cuda_weight {
    ic_weight base;
    ic_dtype stored; /* the compute dtype */
    void *data;      /* [out, stride], zeros behind in_dim */
    int64_t stride;
} ic_cuda_weight;

/* One product, its operands in the compute dtype and padded alike. */
typedef struct ic_cuda_product {
    const ic_cuda_weight *w;
    const void *x; /* [rows, ldx] */
    int64_t rows, ldx;
    const float *bias; /* or NULL */
    bool add;
    const ic_mat *y; /* f32 or the compute dtype */
} ic_cuda_product;

static inline int64_t ic_cuda_padded(int64_t n)
{
    return (n + IC_CUDA_DEPTH - 1) / IC_CUDA_DEPTH * IC_CUDA_DEPTH;
}

/* to[rows, ldt] = from[rows, cols], zeros behind cols. */
int ic_cuda_convert(ic_cuda_device *d, const void *from, ic_dtype from_dtype, int64_t ldf,
                    int64_t rows, int64_t cols, void *to, ic_dtype to_dtype, int64_t ldt);

/* Made-up numbers, for measuring. */
int ic_cuda_fill(ic_cuda_device *d, void *to, ic_dtype dtype, int64_t n, uint32_t seed);

/* y[i, :] += bias */
int ic_cuda_add_bias(ic_cuda_device *d, const float *bias, const ic_mat *y);

/* Products of few rows, bound by the reading of the weight; right for any number of rows. */
int ic_cuda_thin(ic_cuda_device *d, const ic_cuda_product *p);

#endif
