/* ic_cpu_vec: the inner loops of the CPU backend, one table per instruction set, chosen at run
 * time. Everything above them (blocking, threads, memory) is written once.
 *
 * Each result element is added up in an order that depends on its own row and on the sizes n and k
 * only, never on how many rows a call has: that is what makes results independent of the batch.
 */
#ifndef IC_CPU_VEC_H
#define IC_CPU_VEC_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/ic_device.h"

/* Columns of a block product come in multiples of this; buffers are padded to it. */
enum { IC_CPU_LANES = 16 };

/* A matrix whose numbers are high + low, each of bf16: 16 bits of an f32's 24. As the right side of
 * a product its rows are rows of pairs. */
typedef struct ic_cpu_halves {
    uint16_t *high, *low; /* low NULL: the numbers are bf16 as they are */
    int64_t stride;       /* elements of 16 bits between rows */
} ic_cpu_halves;

typedef struct ic_cpu_vec {
    const char *name; /* of the instruction set */

    void (*widen)(ic_dtype from, const void *src, float *dst, int64_t n);
    void (*narrow)(ic_dtype to, const float *src, void *dst, int64_t n);

    /* c[rows, n] = a[rows, k] b[k, n] (with add: +=); n a multiple of IC_CPU_LANES. Each element is
     * one chain over k. */
    void (*gemm)(const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc,
                 int rows, int k, int n, bool add);
    /* The same with k in pairs of bf16: a[rows, 2 * pairs], b[pairs, n] of two bf16 each. NULL
     * where the hardware has no such product. */
    void (*gemm_bf16)(const uint16_t *a, int64_t lda, const uint32_t *b, int64_t ldb, float *c,
                      int64_t ldc, int rows, int pairs, int n, bool add);
    int panel_cols; /* n at which gemm_bf16 is fastest, if more than 64 */
    /* The same of numbers in halves, high with low and low with high, but not low with low: nearly
     * the f32 product. NULL where that would not be faster than the f32 product; with it come: */
    void (*gemm_halves)(const ic_cpu_halves *a, const ic_cpu_halves *b, float *c, int64_t ldc,
                        int rows, int pairs, int n, bool add);
    void (*halve)(const float *x, uint16_t *high, uint16_t *low, int n);
    /* pairs[i] = (even[i], odd[i]), of 16 bits */
    void (*pair)(const void *even, const void *odd, uint32_t *pairs, int n);

    /* dst[c, r] = src[r, c] for 32-bit elements of any kind; src [rows, cols]; rows <= ldd. Bytes
     * of src need no alignment. */
    void (*transpose)(const void *src, int64_t lds, int rows, int cols, void *dst, int64_t ldd);

    /* y[i, o] = w[o, :] . x[i, :]: weights read once for all n rows of x. w [out, in] of any dtype,
     * rows without gaps. */
    void (*gemv)(ic_dtype dtype, const void *w, int out, int64_t in, const float *x, int64_t ldx,
                 int n, float *y, int64_t ldy);
    /* The same in bf16 products. NULL where the hardware has none. */
    void (*gemv_bf16)(const uint16_t *w, int out, int64_t in, const uint16_t *x, int64_t ldx, int n,
                      float *y, int64_t ldy);

    /* Reads all bytes and returns some number: for measuring. */
    float (*read)(const void *data, int64_t bytes);

    void (*rmsnorm)(const float *x, const float *weight, float eps, float *y, int n);
    void (*layernorm)(const float *x, const float *weight, const float *bias, float eps, float *y,
                      int n);
    void (*swiglu)(const float *gate, const float *up, float *y, int n);
    void (*gelu_tanh)(const float *x, float *y, int n);
    /* y (+)= x */
    void (*add)(const float *x, float *y, int n);
    void (*scale)(float factor, float *y, int n);

    /* One step of an online softmax over a block of scores s[n], n a multiple of IC_CPU_LANES:
     * s = exp(s - m') with m' the new maximum; *sum and *max are brought up to date. Returns the
     * factor for what was gathered so far. */
    float (*softmax)(float *s, int n, float *max, float *sum);
    /* y[i] = t[i], h[i] or w[i] as axis[i] is 0, 1 or 2 */
    void (*pick)(const float *t, const float *h, const float *w, const uint8_t *axis, float *y,
                 int n);
    /* y = x with pairs (i, i + half) turned by the angles; the same x may be y. */
    void (*rotate)(const float *x, const float *cosine, const float *sine, int half, float *y);

    /* Decode over a block of keys that lie anywhere. Scores: s[g * lds + j] = q_g . rotated k_j, q
     * [group, 2 * half]; k, cosine, sine: [keys] pointers. Values: o[g, :] += sum over j of
     * p[g * ldp + j] v_j, o [group, dim]. */
    void (*decode_scores)(ic_dtype dtype, const void *const *k, const float *const *cosine,
                          const float *const *sine, int keys, int half, const float *q, int group,
                          float *s, int lds);
    void (*decode_values)(ic_dtype dtype, const void *const *v, int keys, int dim, const float *p,
                          int ldp, int group, float *o, int64_t ldo);
} ic_cpu_vec;

extern const ic_cpu_vec ic_cpu_vec_plain;
/* NULL when this machine (or this build) has no such instructions. */
const ic_cpu_vec *ic_cpu_vec_avx2(void);
const ic_cpu_vec *ic_cpu_vec_avx512(void);
const ic_cpu_vec *ic_cpu_vec_avx512_bf16(void);
const ic_cpu_vec *ic_cpu_vec_amx(void);

#endif
