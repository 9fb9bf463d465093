/* ic_cpu_amx: bf16 products on the tile units of a processor (AMX).
 *
 * Beside the vectors, not instead of them: a table of inner loops for such a processor is the one
 * of AVX512-BF16 with the block product from here. */
#ifndef IC_CPU_AMX_H
#define IC_CPU_AMX_H

#include "kernels/cpu/ic_cpu_vec.h"

/* Whether the processor has tiles for bf16 and the system lets this process use them. Asks the
 * system for leave, which then holds for all threads: before a device's threads start. */
bool ic_cpu_amx_ready(void);

/* As ic_cpu_vec.gemm_bf16; n is a multiple of IC_CPU_LANES. An element's additions are in steps of
 * 16 pairs, within a step even and odd elements apart: an order of k alone. Denormals are zero. */
void ic_cpu_amx_gemm(const uint16_t *a, int64_t lda, const uint32_t *b, int64_t ldb, float *c,
                     int64_t ldc, int rows, int pairs, int n, bool add);
/* As ic_cpu_vec.gemm_halves. */
void ic_cpu_amx_gemm_halves(const ic_cpu_halves *a, const ic_cpu_halves *b, float *c, int64_t ldc,
                            int rows, int pairs, int n, bool add);

#endif
