/* ic_param: named tensors of a model directory brought to a device in the form its operations want.
 * Inside the engine only. */
#ifndef IC_PARAM_H
#define IC_PARAM_H

#include "engine/ic_weights.h"

typedef struct ic_params { /* where tensors come from and go to; borrowed by the calls below */
    ic_device *device;
    const ic_weights *weights;
    int compute;   /* dtype of products: IC_F32 or IC_BF16; -1: as stored (f16 computes as f32) */
    int64_t bytes; /* of all tensors taken so far, as stored */
} ic_params;

typedef struct ic_linear {
    ic_weight *weight; /* [out, in] */
    float *bias;       /* [out] in device memory, or NULL */
} ic_linear;

/* "<name>.weight" [out, in] and, if `biased` or if the file has it, "<name>.bias" [out]. */
IC_MUST_CHECK int ic_params_linear(ic_params *p, const char *name, int64_t out_dim, int64_t in_dim,
                                   bool biased, ic_linear *linear, ic_error *e);
/* The same for a convolution whose stride is its kernel: [out, ...] is taken as [out, the rest]. */
IC_MUST_CHECK int ic_params_kernel(ic_params *p, const char *name, int dims, const int64_t *shape,
                                   bool biased, ic_linear *linear, ic_error *e);
/* `n` of them that take the same input, one below the other, as one: names without ".weight". None
 * may have a bias. IC_EUNSUPPORTED, without a sentence, if one has, or if their dtypes differ: then
 * they are to be taken one by one. */
IC_MUST_CHECK int ic_params_joined(ic_params *p, const char *const *names, const int64_t *out_dims,
                                   int n, int64_t in_dim, ic_linear *linear, ic_error *e);
void ic_linear_fini(ic_device *d, ic_linear *linear);

/* A vector of that many elements as f32 in device memory: *out, release with ic_device_free. */
IC_MUST_CHECK int ic_params_vector(ic_params *p, const char *name, int64_t count, float **out,
                                   ic_error *e);

/* The same for a matrix. */
IC_MUST_CHECK int ic_params_matrix(ic_params *p, const char *name, int64_t rows, int64_t cols,
                                   float **out, ic_error *e);

/* A table [rows, cols] for ic_op_gather in its own dtype. On a device whose memory is the host's it
 * stays where it is mapped, and *owned gets NULL; else *owned is to be freed with ic_device_free.
 */
IC_MUST_CHECK int ic_params_table(ic_params *p, const char *name, int64_t rows, int64_t cols,
                                  ic_mat *table, void **owned, ic_error *e);

/* Rows [first, first + rows) and columns [col, col + cols) of a matrix, in place. */
ic_mat ic_mat_view(const ic_mat *m, int64_t first, int64_t rows, int64_t col, int64_t cols);

#endif
