/* ic_cuda_emu: CUDA kernels run on the CPU, for tests on machines without a GPU.
 *
 * The kernels' own source is compiled as C++ against this header in place of the CUDA Toolkit's. A
 * launch runs block after block; the threads of a block are fibers, each of which runs until it
 * meets the others: at __syncthreads, or at a warp operation (shuffle, vote, mma, ldmatrix), which
 * is carried out when all lanes of its mask have come. What it finds: wrong index arithmetic, wrong
 * fragment layouts, missing barriers (threads and blocks run in another order with
 * IC_EMU_ORDER=reverse or a number), asynchronous copies that nobody waits for (they happen at the
 * wait), memory that nobody wrote (device and dynamic shared memory begin as NaN), accesses beyond
 * an allocation (each ends at a guard page), barriers that some threads miss (reported, then
 * abort). What it cannot find: races inside what one order allows, bank conflicts, time. */
#ifndef IC_CUDA_EMU_H
#define IC_CUDA_EMU_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <functional>

#define IC_CUDA_EMULATED 1

#define __global__
#define __device__
#define __host__
#define __shared__      static
#define __constant__    static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

#define IC_EMU_VECTOR(name, element, n) struct __attribute__((aligned(sizeof(element) * n))) name##n
IC_EMU_VECTOR(float, float, 2)
{
    float x, y;
};
IC_EMU_VECTOR(float, float, 4)
{
    float x, y, z, w;
};
IC_EMU_VECTOR(int, int, 2)
{
    int x, y;
};
IC_EMU_VECTOR(int, int, 4)
{
    int x, y, z, w;
};
IC_EMU_VECTOR(uint, unsigned, 2)
{
    unsigned x, y;
};
IC_EMU_VECTOR(uint, unsigned, 4)
{
    unsigned x, y, z, w;
};
struct uchar4 {
    unsigned char x, y, z, w;
};
static inline float2 make_float2(float x, float y)
{
    return float2{x, y};
}
static inline float4 make_float4(float x, float y, float z, float w)
{
    return float4{x, y, z, w};
}
static inline int2 make_int2(int x, int y)
{
    return int2{x, y};
}
static inline int4 make_int4(int x, int y, int z, int w)
{
    return int4{x, y, z, w};
}
static inline uint2 make_uint2(unsigned x, unsigned y)
{
    return uint2{x, y};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return uint4{x, y, z, w};
}

/* --- where a thread stands --- */

struct ic_emu_place {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
    ic_emu_place() : thread{0, 0, 0}, block{0, 0, 0}
    {
    }
};
extern ic_emu_place ic_emu_now; /* of the fiber that runs */
#define threadIdx (ic_emu_now.thread)
#define blockIdx  (ic_emu_now.block)
#define blockDim  (ic_emu_now.block_dim)
#define gridDim   (ic_emu_now.grid_dim)
static const int warpSize = 32;

void ic_emu_launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &kernel);
void *ic_emu_shared(); /* the block's dynamic shared memory */

/* --- meeting points --- */

void __syncthreads();
int ic_emu_sync_count(int predicate); /* barrier; threads whose predicate was not 0 */
static inline int __syncthreads_count(int predicate)
{
    return ic_emu_sync_count(predicate);
}
static inline int __syncthreads_or(int predicate)
{
    return ic_emu_sync_count(predicate) != 0;
}
static inline int __syncthreads_and(int predicate)
{
    return ic_emu_sync_count(!predicate) == 0;
}

/* All lanes of the mask bring an argument; when the last one has come, `act` sees all of them
 * ([32], NULL: not in the mask), and all go on. `act` also is the operation's identity: lanes that
 * meet at different ones are reported. */
typedef void (*ic_emu_act)(void **arguments);
void ic_emu_meet(unsigned mask, ic_emu_act act, void *argument);
int ic_emu_lane();

struct ic_emu_shuffle {
    uint64_t value;
    int from; /* lane to read */
    uint64_t result;
};
void ic_emu_act_shuffle(void **arguments);
void ic_emu_act_ballot(void **arguments);
void ic_emu_act_nothing(void **arguments);

template <class T> static inline T ic_emu_shuffle_from(unsigned mask, T value, int from)
{
    ic_emu_shuffle s = {0, from, 0};
    memcpy(&s.value, &value, sizeof value);
    ic_emu_meet(mask, ic_emu_act_shuffle, &s);
    memcpy(&value, &s.result, sizeof value);
    return value;
}
template <class T> static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32)
{
    int lane = ic_emu_lane();
    return ic_emu_shuffle_from(mask, value, (lane & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32)
{
    int lane = ic_emu_lane(), from = lane ^ lanes;
    return ic_emu_shuffle_from(mask, value,
                               (from & ~(width - 1)) == (lane & ~(width - 1)) ? from : lane);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    int lane = ic_emu_lane(), from = lane - (int)delta;
    return ic_emu_shuffle_from(mask, value, from < (lane & ~(width - 1)) ? lane : from);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    int lane = ic_emu_lane(), from = lane + (int)delta;
    return ic_emu_shuffle_from(mask, value, from > (lane | (width - 1)) ? lane : from);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    ic_emu_shuffle s = {(uint64_t)(predicate != 0), 0, 0};
    ic_emu_meet(mask, ic_emu_act_ballot, &s);
    return (unsigned)s.result;
}
static inline int __any_sync(unsigned mask, int predicate)
{
    return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate)
{
    return __ballot_sync(mask, !predicate) == 0;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    int nothing = 0;
    ic_emu_meet(mask, ic_emu_act_nothing, &nothing);
}
static inline void __threadfence()
{
}
static inline void __threadfence_block()
{
}

/* --- atomics: one fiber runs at a time --- */

template <class T> static inline T ic_emu_swap(T *at, T value)
{
    T old = *at;
    *at = value;
    return old;
}
template <class T, class U> static inline T atomicAdd(T *at, U value)
{
    return ic_emu_swap(at, (T)(*at + (T)value));
}
template <class T, class U> static inline T atomicMax(T *at, U value)
{
    return ic_emu_swap(at, std::max(*at, (T)value));
}
template <class T, class U> static inline T atomicMin(T *at, U value)
{
    return ic_emu_swap(at, std::min(*at, (T)value));
}
template <class T, class U> static inline T atomicOr(T *at, U value)
{
    return ic_emu_swap(at, (T)(*at | (T)value));
}
template <class T, class U> static inline T atomicAnd(T *at, U value)
{
    return ic_emu_swap(at, (T)(*at & (T)value));
}
template <class T, class U> static inline T atomicExch(T *at, U value)
{
    return ic_emu_swap(at, (T)value);
}
template <class T, class U, class V> static inline T atomicCAS(T *at, U compare, V value)
{
    return ic_emu_swap(at, *at == (T)compare ? (T)value : *at);
}

/* --- arithmetic --- */

template <class A, class B>
static inline constexpr typename std::common_type<A, B>::type max(A a, B b)
{
    return a > b ? a : b;
}
template <class A, class B>
static inline constexpr typename std::common_type<A, B>::type min(A a, B b)
{
    return a < b ? a : b;
}
#define IC_EMU_BITS(name, from, to)                                                                \
    static inline to name(from v)                                                                  \
    {                                                                                              \
        to out;                                                                                    \
        memcpy(&out, &v, sizeof out);                                                              \
        return out;                                                                                \
    }
IC_EMU_BITS(__float_as_uint, float, unsigned)
IC_EMU_BITS(__float_as_int, float, int)
IC_EMU_BITS(__uint_as_float, unsigned, float)
IC_EMU_BITS(__int_as_float, int, float)
static inline int __popc(unsigned v)
{
    return __builtin_popcount(v);
}
static inline int __popcll(unsigned long long v)
{
    return __builtin_popcountll(v);
}
static inline int __ffs(int v)
{
    return __builtin_ffs(v);
}
static inline int __ffsll(long long v)
{
    return __builtin_ffsll(v);
}
static inline int __clz(int v)
{
    return v ? __builtin_clz((unsigned)v) : 32;
}
template <class T> static inline T __ldg(const T *at)
{
    return *at;
}
template <class T> static inline T __ldcs(const T *at)
{
    return *at;
}
template <class T> static inline void __stcs(T *at, T value)
{
    *at = value;
}
#define __expf(v) expf(v)
#define __logf(v) logf(v)
#define __sinf(v) sinf(v)
#define __cosf(v) cosf(v)
static inline float rsqrtf(float v)
{
    return 1.0f / sqrtf(v);
}
static inline float __frcp_rn(float v)
{
    return 1.0f / v;
}
static inline float __fdividef(float a, float b)
{
    return a / b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __saturatef(float v)
{
    return v < 0 ? 0 : v > 1 ? 1 : v;
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)(((uint64_t)a * b) >> 32);
}
static inline float __int2float_rn(int v)
{
    return (float)v;
}
static inline int __float2int_rn(float v)
{
    return (int)rintf(v);
}
static inline long long clock64()
{
    return 0;
}

/* --- 16-bit formats --- */

uint16_t ic_emu_bf16_of(float v);
uint16_t ic_emu_f16_of(float v);
float ic_emu_of_bf16(uint16_t bits);
float ic_emu_of_f16(uint16_t bits);

struct __nv_bfloat16 {
    uint16_t bits;
};
struct __half {
    uint16_t bits;
};
typedef __half half;
struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
struct __attribute__((aligned(4))) __half2 {
    __half x, y;
};
typedef __half2 half2;
static inline __nv_bfloat16 __float2bfloat16_rn(float v)
{
    return __nv_bfloat16{ic_emu_bf16_of(v)};
}
static inline __nv_bfloat16 __float2bfloat16(float v)
{
    return __float2bfloat16_rn(v);
}
static inline float __bfloat162float(__nv_bfloat16 v)
{
    return ic_emu_of_bf16(v.bits);
}
static inline __half __float2half_rn(float v)
{
    return __half{ic_emu_f16_of(v)};
}
static inline __half __float2half(float v)
{
    return __float2half_rn(v);
}
static inline float __half2float(__half v)
{
    return ic_emu_of_f16(v.bits);
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return __nv_bfloat162{__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
static inline __half2 __floats2half2_rn(float x, float y)
{
    return __half2{__float2half_rn(x), __float2half_rn(y)};
}
static inline float2 __half22float2(__half2 v)
{
    return make_float2(__half2float(v.x), __half2float(v.y));
}
static inline float2 __bfloat1622float2(__nv_bfloat162 v)
{
    return make_float2(__bfloat162float(v.x), __bfloat162float(v.y));
}

/* --- what is inline PTX on a GPU (kernels/cuda/ic_cuda_mma.h) --- */

void ic_emu_mma(bool bf16, float *c, const unsigned *a, const unsigned *b);  /* m16n8k16 */
void ic_emu_ldmatrix(bool transposed, unsigned *registers, const void *row); /* x4 */
unsigned ic_emu_movmatrix(unsigned pair);                                    /* transposed */
void ic_emu_copy_async(void *shared, const void *global, int bytes, int given);
void ic_emu_copy_commit();
void ic_emu_copy_wait(int groups_under_way);

#endif
