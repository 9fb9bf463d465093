/* ic_cuda_rotate: angles in registers, and rotation of a few pairs at once. */
#ifndef IC_CUDA_ROTATE_H
#define IC_CUDA_ROTATE_H

#include "kernels/cuda/ic_cuda.h"

#define IC_CUDA_LOG2E 1.44269504088896341f /* softmax runs in powers of 2 */

/* Sine and cosine to within 1e-6, for decode over 16-bit keys: brought to [-pi, pi] by a 2 pi of
 * two parts, then the special function unit. The number of turns is rounded by adding 3 * 2^22,
 * below which a float has no bits behind the point. */
__device__ __forceinline__ void ic_cuda_sincos_fast(float angle, float *sine, float *cosine)
{
    const float point = 12582912.0f;
    float turns = __fadd_rn(fmaf(angle, 0.15915494309189535f, point), -point);
    float rest = fmaf(turns, -6.2831854820251465f, angle);
    rest = fmaf(turns, 1.7484556000744880e-7f, rest);
    *sine = __sinf(rest);
    *cosine = __cosf(rest);
}

/* The angle of frequency i at a position. The product is rounded as on the CPU. */
__device__ __forceinline__ float ic_cuda_angle(float inv_freq, int axis, const ic_pos &p)
{
    return __fmul_rn((float)(axis == 0 ? p.t : axis == 1 ? p.h : p.w), inv_freq);
}

/* Turns the pairs (a[i], b[i]) of frequencies first .. first + 3. */
__device__ __forceinline__ void ic_cuda_turn(const ic_cuda_rope &rope, int first, const ic_pos &p,
                                             float (&a)[4], float (&b)[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float sine, cosine, x = a[i];
        sincosf(ic_cuda_angle(rope.inv_freq[first + i], rope.axis[first + i], p), &sine, &cosine);
        sine *= rope.scale;
        cosine *= rope.scale;
        a[i] = x * cosine - b[i] * sine;
        b[i] = b[i] * cosine + x * sine;
    }
}

/* Four elements, aligned to their size. */

template <class T> __device__ __forceinline__ void ic_cuda_load4(const T *from, float (&v)[4])
{
    union {
        typename std::conditional<sizeof(T) == 4, uint4, uint2>::type raw;
        T each[4];
    } u;
    u.raw = *(const decltype(u.raw) *)(const void *)from;
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] = ic_cuda_f32(u.each[i]);
}

template <class T> __device__ __forceinline__ void ic_cuda_store4(T *to, const float (&v)[4])
{
    union {
        typename std::conditional<sizeof(T) == 4, uint4, uint2>::type raw;
        T each[4];
    } u;
#pragma unroll
    for (int i = 0; i < 4; i++)
        u.each[i] = ic_cuda_to<T>(v[i]);
    *(decltype(u.raw) *)(void *)to = u.raw;
}

#endif
