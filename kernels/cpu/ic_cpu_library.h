/* ic_cpu_library: the GEMM library (oneDNN) as the CPU backend uses it: one product of a block of
 * columns per call, on the calling thread alone. Threads, blocks and their order are ours, so that
 * a busy core stalls one task and not a parallel region, and so that the bits of a row do not
 * depend on the number of threads.
 *
 * The yardstick of the bench, and chosen by a configuration that asks for it: the own loops were
 * faster on every processor measured, since they multiply rows of weights as they lie in the
 * model's file (docs/benchmarks.md), and the library promises nothing about bits. */
#ifndef IC_CPU_LIBRARY_H
#define IC_CPU_LIBRARY_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/ic_device.h"

typedef struct ic_cpu_library ic_cpu_library;

/* One product c[rows, cols] = a[rows, k] w[cols, k]^T; a and w in bf16 or f32, c f32. */
typedef struct ic_cpu_product {
    ic_dtype dtype;
    int rows; /* a multiple that ic_cpu_library_rows gave */
    int cols, k;
    int64_t lda; /* elements between rows of a; those of w are k apart, those of c cols */
    bool packed; /* w in the library's favourite form, of its own memory: for measuring */
} ic_cpu_product;

/* IC_EUNSUPPORTED when the build has no library. Caller owns *out. */
IC_MUST_CHECK int ic_cpu_library_new(ic_cpu_library **out, int workers, ic_error *e);
void ic_cpu_library_destroy(ic_cpu_library **l_p);

/* Rows to which a product of `rows` (at most 512) is padded: few sizes, so that few codes are made.
 */
int ic_cpu_library_rows(int rows);

/* Makes the code for a product, or finds it: before the tasks start. IC_EDEVICE. */
IC_MUST_CHECK int ic_cpu_library_prepare(ic_cpu_library *l, const ic_cpu_product *p);
/* Runs a prepared product as `worker`; w is ignored when packed. Any thread. */
IC_MUST_CHECK int ic_cpu_library_run(ic_cpu_library *l, int worker, const ic_cpu_product *p,
                                     const void *a, const void *w, float *c);

#endif
