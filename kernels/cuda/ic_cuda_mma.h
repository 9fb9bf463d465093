/* ic_cuda_mma: tensor cores and asynchronous copies: the PTX that has no C++ name, sm_80 and later.
 *
 * Fragments of m16n8k16 (PTX manual, "Matrix Fragments for mma.m16n8k16"), of lane l, two elements
 * to a register, the lower column (row, for B) in the lower half:
 * - A, 16 x 16: register r has row l / 4 + 8 (r % 2), columns 2 (l % 4) + 8 (r / 2) and the next;
 * - B, 16 x 8: register r has rows 2 (l % 4) + 8 r and the next, column l / 4;
 * - C, 16 x 8, f32: register r has row l / 4 + 8 (r / 2), column 2 (l % 4) + r % 2. */
#ifndef IC_CUDA_MMA_H
#define IC_CUDA_MMA_H

#include "kernels/cuda/ic_cuda.h"

template <class T> struct ic_cuda_is_bf16 {
    enum { value = false };
};
template <> struct ic_cuda_is_bf16<__nv_bfloat16> {
    enum { value = true };
};

/* Two values in a register, `low` in the lower half. */
template <class T> __device__ __forceinline__ uint32_t ic_cuda_pair(float low, float high)
{
    union {
        T each[2];
        uint32_t pair;
    } u = {{ic_cuda_to<T>(low), ic_cuda_to<T>(high)}};
    return u.pair;
}

/* c += a b */
template <class T>
__device__ __forceinline__ void ic_cuda_mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1)
{
#ifdef IC_CUDA_EMULATED
    const unsigned b[2] = {b0, b1};
    ic_emu_mma(ic_cuda_is_bf16<T>::value, c, a, b);
#else
    if (ic_cuda_is_bf16<T>::value)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/* Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8 and
 * gets of matrix i, in register i, elements 2 (l % 4) and the next of row l / 4 (transposed: of
 * column l / 4). Rows in shared memory, aligned to 16 bytes. */
template <bool TRANSPOSED>
__device__ __forceinline__ void ic_cuda_ldmatrix(uint32_t (&r)[4], const void *row)
{
#ifdef IC_CUDA_EMULATED
    ic_emu_ldmatrix(TRANSPOSED, r, row);
#else
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
#endif
}

/* An 8 x 8 matrix of 16-bit elements transposed: lane l has elements 2 (l % 4) and the next of row
 * l / 4, before and after. */
__device__ __forceinline__ uint32_t ic_cuda_transpose(uint32_t pair)
{
#ifdef IC_CUDA_EMULATED
    return ic_emu_movmatrix(pair);
#else
    uint32_t out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
    return out;
#endif
}

/* BYTES (8 or 16) from device to shared memory, under way until waited for; only the first `given`
 * are read, the others become 0. Both aligned to BYTES. */
template <int BYTES>
__device__ __forceinline__ void ic_cuda_copy_async(void *shared, const void *global, int given)
{
#ifdef IC_CUDA_EMULATED
    ic_emu_copy_async(shared, global, BYTES, given);
#else
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
                     "r"(given)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global),
                     "n"(BYTES), "r"(given)
                     : "memory");
#endif
}

/* What this thread has begun to copy since the last call is one group. */
__device__ __forceinline__ void ic_cuda_copy_commit()
{
#ifdef IC_CUDA_EMULATED
    ic_emu_copy_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until at most GROUPS of this thread's newest groups are under way. */
template <int GROUPS> __device__ __forceinline__ void ic_cuda_copy_wait()
{
#ifdef IC_CUDA_EMULATED
    ic_emu_copy_wait(GROUPS);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
#endif
}

#endif
