/* ic_cuda: what the files of the CUDA backend share: the device with its streams and scratch, how
 * errors become codes, how kernels are started, and the small device functions that most need.
 *
 * Rules of the house:
 * - Everything that computes goes to one stream, in the order of calls, and no operation waits for
 *   it. Only downloads, ic_cuda_wait and the growth of scratch do. One thread computes at a time;
 *   memory, uploads and downloads (and so slabs opened, saved and loaded) may come from any thread
 *   beside it, of things that nobody computes with. They have a stream of their own.
 * - A failure is a code and a sentence in the device (ic_cuda_check). Nothing exits, nothing
 * throws.
 * - Host values reach a kernel as its parameters or through ic_cuda_stage, never through memory
 *   that the caller may change behind the call.
 * - A step of decode may be recorded as a graph (ic_cuda_step.cu). On a replay the operations run
 *   as always, but ic_cuda_launch does nothing and ic_cuda_stage writes the new values where the
 *   recorded kernels look for them. So within a step whatever changes from one step to the next (a
 *   count, a position, an id) must be staged or lie in device memory; parameters and grids may
 *   depend only on what the step's key says (ic_ops.h): which slabs, how many rows, and counts
 *   rounded up to IC_CUDA_COUNT_STEP.
 */
#ifndef IC_CUDA_H
#define IC_CUDA_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <pthread.h>

extern "C" {
#include "base/ic_assert.h"
#include "base/ic_mem.h"
#include "kernels/ic_device_priv.h"
}
#include "kernels/cuda/ic_cuda_launch.h"

enum {
    IC_CUDA_WARP = 32,
    IC_CUDA_BOUNCE = 8 << 20,
    IC_CUDA_COUNT_STEP = 512 /* rows of a cache that one recorded step of decode may grow by */
};

/* --- the device ----------------------------------------------------------------------------------
 */

/* Scratch by purpose: content lives until the next operation that asks for the same room. */
enum ic_cuda_room {
    IC_CUDA_ROOM_OPERANDS, /* a product's rows in its compute dtype */
    IC_CUDA_ROOM_LIBRARY,  /* cuBLASLt's workspace */
    IC_CUDA_ROOM_FRAMES,   /* pixels on their way to patches */
    IC_CUDA_ROOM_KEYS,     /* one layer's K and V, gathered and rotated */
    IC_CUDA_ROOM_PARTS,    /* partial results of a split attention */
    IC_CUDA_ROOM_SCORES,   /* column scores and what selection sorts */
    IC_CUDA_ROOM_SAMPLING,
    IC_CUDA_ROOM_COUNT
};

typedef struct ic_cuda_region {
    char *memory;
    size_t bytes;
    char *spare; /* a larger one, reserved; it takes the place when it is needed first */
    size_t spare_bytes;
} ic_cuda_region;

/* Page-locked host memory and its twin on the device. */
typedef struct ic_cuda_mail {
    char *host, *device;
    size_t bytes, at;
} ic_cuda_mail;

/* An ic_rope whose tables lie on the device. By value to kernels. */
typedef struct ic_cuda_rope {
    int half;
    const float *inv_freq; /* [half] */
    const uint8_t *axis;   /* [half] */
    float scale;
} ic_cuda_rope;

struct cublasLtContext; /* cuBLASLt's handle */

typedef struct ic_cuda_device {
    ic_device base;
    int ordinal, multiprocessors;
    pthread_mutex_t lock; /* guards memory's counts, the spares, the copies' staging; slabs */
    size_t used, limit;   /* bytes given out, and what may be */
    uint64_t taken;       /* how often memory was given out */
    uint64_t slabs;       /* opened, ever */
    size_t deepest;       /* bytes of the longest row of a weight */
    size_t launch_keys;   /* scratch for keys and values beyond which a launch takes no more slices
                           */
    size_t shared_max;    /* bytes of shared memory that one block may ask for */
    bool exact;           /* config->plain_loops: f32 where 16-bit tiles would do, for tests */
    cudaStream_t stream;  /* all that computes */
    cudaStream_t copies;  /* uploads and downloads that overlap with it */
    char *bounce[2]; /* page-locked, IC_CUDA_BOUNCE each: between pageable memory and `copies` */
    cudaEvent_t bounced[2];
    cudaEvent_t staged; /* what is large enough to be staged beside what computes */
    struct cublasLtContext *library;
    ic_cuda_region rooms[IC_CUDA_ROOM_COUNT];
    ic_cuda_mail ring;           /* for ic_cuda_stage */
    size_t staged_bytes;         /* by ic_cuda_stage, ever, in units of its alignment */
    ic_cuda_mail step_mail;      /* the same within a recorded step: every step begins at 0 */
    bool in_step;                /* between begin and end of a step that is recorded or replayed */
    bool replays;                /* the step's kernels are recorded already: start none */
    char *results;               /* page-locked, IC_CUDA_RESULTS: for ic_cuda_fetch */
    struct ic_cuda_mover *mover; /* of many pieces at once: ic_cuda_blocks.cu */
    struct ic_cuda_resizer *resizer; /* pictures on their way: ic_cuda_resize.cu */
    struct ic_cuda_waiting *waiting; /* rows to be appended: ic_cuda_slab.cu */
    struct ic_cuda_steps *steps;     /* recorded steps: ic_cuda_step.cu */
    struct ic_cuda_ropes *ropes;     /* tables of ic_cuda_rope_of */
    struct ic_cuda_lines *lines;     /* angles of patches: ic_cuda_vision.cu */
    struct ic_cuda_plans *plans;     /* which algorithm for which shape: ic_cuda_gemm.cu */
    char trouble[256];               /* the first failure, in words; "": none */
} ic_cuda_device;

static inline ic_cuda_device *ic_cuda_of(ic_device *d)
{
    return (ic_cuda_device *)(void *)d;
}

/* 0, or IC_ENOMEM / IC_EDEVICE with `what` noted in the device's trouble. */
int ic_cuda_check(ic_cuda_device *d, cudaError_t code, const char *what);

#define IC_CUDA_TRY(d, call)                                                                       \
    do {                                                                                           \
        int try_rc = ic_cuda_check((d), (call), #call);                                            \
        if (try_rc)                                                                                \
            return try_rc;                                                                         \
    } while (0)

/* At least `bytes` of the room, 256-byte aligned, content undefined; NULL when there is no memory.
 * It grows (and then waits) only the first time that so much is wanted. Of the computing thread. */
void *ic_cuda_scratch(ic_cuda_device *d, enum ic_cuda_room room, size_t bytes);
/* Sees to it that a later ic_cuda_scratch of up to so many bytes does not fail: when a model or a
 * slab is made. Any thread. IC_ENOMEM. */
int ic_cuda_reserve(ic_cuda_device *d, enum ic_cuda_room room, size_t bytes);
/* Device memory that this would take. */
size_t ic_cuda_reserve_cost(ic_cuda_device *d, enum ic_cuda_room room, size_t bytes);
ic_device_memory ic_cuda_memory_of(ic_device *d);

/* Copies on the copies' stream, done on return; any thread. What this thread has started before is
 * waited for. */
int ic_cuda_upload(ic_device *d, void *to_device, const void *from_host, size_t bytes);
int ic_cuda_download(ic_device *d, void *to_host, const void *from_device, size_t bytes);
int ic_cuda_wait(ic_device *d);
/* A few bytes that the kernels before have written, for the computing thread: on its own stream, so
 * that no session that is being saved stands in the way. */
#ifdef IC_CUDA_EMULATED
enum { IC_CUDA_RESULTS = 1 << 10 }; /* so little that tests come to its end */
#else
enum { IC_CUDA_RESULTS = 64 << 10 };
#endif
int ic_cuda_fetch(ic_cuda_device *d, void *to_host, const void *from_device, size_t bytes);
/* Kernels that this thread has started are done. */
int ic_cuda_settle(ic_cuda_device *d);
/* Page-locked memory. */
bool ic_cuda_is_locked(const void *host);
/* Device memory, counted; ic_cuda_alloc's is zeroed. Any thread. */
void *ic_cuda_alloc(ic_device *d, size_t bytes);
void ic_cuda_free(ic_device *d, void *memory);

/* Page-locked host memory. */
void *ic_cuda_alloc_host(ic_device *d, size_t bytes);
void ic_cuda_free_host(ic_device *d, void *memory);

/* The bytes on their way to the device; the kernels that are started next may read them there.
 * 256-byte aligned; valid until the stream has got to what was started before the next megabytes of
 * staging. NULL: the device failed, or `bytes` is beyond IC_CUDA_STAGE_MAX. */
enum { IC_CUDA_STAGE_MAX = 4 << 20 };
void *ic_cuda_stage(ic_cuda_device *d, const void *host, size_t bytes);

/* The tables of `rope` on the device, copied the first time that they are seen. */
int ic_cuda_rope_of(ic_cuda_device *d, const ic_rope *rope, ic_cuda_rope *out);

/* This thread has started kernels that it has not waited for. */
extern thread_local bool ic_cuda_busy;

static inline unsigned ic_cuda_blocks(int64_t n, int64_t per_block)
{
    return (unsigned)((n + per_block - 1) / per_block);
}

/* Starts a kernel on the device's stream. Shared memory above 48 KiB is asked for as it must be. */
template <class... Params, class... Args>
int ic_cuda_launch(ic_cuda_device *d, void (*kernel)(Params...), dim3 grid, dim3 block,
                   size_t shared, Args... args)
{
    if (d->replays)
        return 0;
    if (shared > 32 * 1024) /* a kernel's static shared memory counts towards the 48 KiB as well */
        IC_CUDA_TRY(d, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            (int)shared));
    ic_cuda_busy = true;
    IC_CUDA_LAUNCH(kernel, grid, block, shared, d->stream, (Params)args...);
    return ic_cuda_check(d, cudaGetLastError(), "starting a kernel");
}

/* All rows of m begin where n neighbouring elements may be moved at once. */
static inline bool ic_cuda_splits(const ic_mat *m, int n)
{
    size_t unit = n * ic_dtype_size(m->dtype);
    return m->cols % n == 0 && m->stride % n == 0 && (uintptr_t)m->data % unit == 0;
}

/* Calls f with a value of the C++ type of `dtype`: `[&](auto t) { using T = decltype(t); ... }`. */
template <class F> int ic_cuda_by_dtype(ic_dtype dtype, F f)
{
    if (dtype == IC_F32)
        return f(float());
    if (dtype == IC_BF16)
        return f(__nv_bfloat16());
    return f(__half());
}

/* --- device functions
 * ------------------------------------------------------------------------------
 */

__device__ __forceinline__ float ic_cuda_f32(float v)
{
    return v;
}
__device__ __forceinline__ float ic_cuda_f32(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}
__device__ __forceinline__ float ic_cuda_f32(__half v)
{
    return __half2float(v);
}

/* Round to nearest even, as ic_half.h does. */
template <class T> __device__ __forceinline__ T ic_cuda_to(float v);
template <> __device__ __forceinline__ float ic_cuda_to<float>(float v)
{
    return v;
}
template <> __device__ __forceinline__ __nv_bfloat16 ic_cuda_to<__nv_bfloat16>(float v)
{
    return __float2bfloat16_rn(v);
}
template <> __device__ __forceinline__ __half ic_cuda_to<__half>(float v)
{
    return __float2half_rn(v);
}

/* 16 bytes of T: what one thread moves at once. */
template <class T> struct ic_cuda_pack {
    enum { N = 16 / sizeof(T) };
};

template <class T>
__device__ __forceinline__ void ic_cuda_unpack(const uint4 &raw, float (&v)[ic_cuda_pack<T>::N])
{
    union {
        uint4 raw;
        T each[ic_cuda_pack<T>::N];
    } u = {raw};
#pragma unroll
    for (int i = 0; i < ic_cuda_pack<T>::N; i++)
        v[i] = ic_cuda_f32(u.each[i]);
}

/* from must be 16-byte aligned. */
template <class T>
__device__ __forceinline__ void ic_cuda_load(const T *from, float (&v)[ic_cuda_pack<T>::N])
{
    ic_cuda_unpack<T>(*(const uint4 *)(const void *)from, v);
}

/* The same, of memory that is read once: it does not push other things out of the caches. */
template <class T>
__device__ __forceinline__ void ic_cuda_load_once(const T *from, float (&v)[ic_cuda_pack<T>::N])
{
    ic_cuda_unpack<T>(__ldcs((const uint4 *)(const void *)from), v);
}

template <class T>
__device__ __forceinline__ void ic_cuda_store(T *to, const float (&v)[ic_cuda_pack<T>::N])
{
    union {
        uint4 raw;
        T each[ic_cuda_pack<T>::N];
    } u;
#pragma unroll
    for (int i = 0; i < ic_cuda_pack<T>::N; i++)
        u.each[i] = ic_cuda_to<T>(v[i]);
    *(uint4 *)(void *)to = u.raw;
}

/* N neighbouring elements at once; `from` and `to` aligned to N of them. */
template <int N, class T> struct __align__(N * sizeof(T)) ic_cuda_few
{
    T each[N];
};

template <int N, class T> __device__ __forceinline__ void ic_cuda_get(const T *from, float (&v)[N])
{
    ic_cuda_few<N, T> few = *(const ic_cuda_few<N, T> *)(const void *)from;
#pragma unroll
    for (int i = 0; i < N; i++)
        v[i] = ic_cuda_f32(few.each[i]);
}

template <int N, class T> __device__ __forceinline__ void ic_cuda_put(T *to, const float (&v)[N])
{
    ic_cuda_few<N, T> few;
#pragma unroll
    for (int i = 0; i < N; i++)
        few.each[i] = ic_cuda_to<T>(v[i]);
    *(ic_cuda_few<N, T> *)(void *)to = few;
}

__device__ __forceinline__ float ic_cuda_warp_sum(float v)
{
#pragma unroll
    for (int step = IC_CUDA_WARP / 2; step > 0; step /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

__device__ __forceinline__ float ic_cuda_warp_max(float v)
{
#pragma unroll
    for (int step = IC_CUDA_WARP / 2; step > 0; step /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

/* The sum over the block (whole warps), in every thread. `room`: one float per warp, shared; it may
 * be used again after the call. */
__device__ __forceinline__ float ic_cuda_block_sum(float v, float *room)
{
    int lane = threadIdx.x % IC_CUDA_WARP, warp = threadIdx.x / IC_CUDA_WARP;
    int warps = blockDim.x / IC_CUDA_WARP;
    v = ic_cuda_warp_sum(v);
    if (lane == 0)
        room[warp] = v;
    __syncthreads();
    v = ic_cuda_warp_sum(lane < warps ? room[lane] : 0.0f);
    __syncthreads();
    return v;
}

__device__ __forceinline__ float ic_cuda_block_max(float v, float *room)
{
    int lane = threadIdx.x % IC_CUDA_WARP, warp = threadIdx.x / IC_CUDA_WARP;
    int warps = blockDim.x / IC_CUDA_WARP;
    v = ic_cuda_warp_max(v);
    if (lane == 0)
        room[warp] = v;
    __syncthreads();
    v = ic_cuda_warp_max(lane < warps ? room[lane] : -INFINITY);
    __syncthreads();
    return v;
}

/* --- life ---
 */

int ic_cuda_memory_open(ic_cuda_device *d, size_t ring_bytes);
void ic_cuda_memory_close(ic_cuda_device *d);
int ic_cuda_gemm_open(ic_cuda_device *d);
void ic_cuda_gemm_close(ic_cuda_device *d);
void ic_cuda_vision_close(ic_cuda_device *d);
/* Scratch has moved: what has been recorded points to nothing. */
void ic_cuda_step_forget(ic_cuda_device *d);
void ic_cuda_step_close(ic_cuda_device *d);

/* Rows that wait to be appended go in, in front of what is started next. Of the computing thread.
 */
int ic_cuda_slab_flush(ic_cuda_device *d);
int ic_cuda_mover_open(ic_cuda_device *d);
void ic_cuda_mover_close(ic_cuda_device *d);
int ic_cuda_gather_blocks(ic_device *d, const ic_block *blocks, int n, uint8_t *image,
                          uint64_t *sum);
int ic_cuda_scatter_blocks(ic_device *d, const ic_block *blocks, int n, const uint8_t *image,
                           uint64_t *sum);
/* Room for pictures of up to so many bytes; and what it would take. */
int ic_cuda_resizer_reserve(ic_cuda_device *d, size_t picture_bytes);
size_t ic_cuda_resizer_cost(const ic_cuda_device *d, size_t picture_bytes);
void ic_cuda_resizer_close(ic_cuda_device *d);
int ic_cuda_resize_rgb(ic_device *d, const uint8_t *src, int sw, int sh, uint8_t *dst, int dw,
                       int dh);
/* Scratch of operations within bounds: ic_cuda_reserve.cu. */
int ic_cuda_ops_reserve(ic_device *d, const ic_ops_bounds *b);
size_t ic_cuda_ops_reserve_bytes(ic_device *d, const ic_ops_bounds *b);
/* Angles of patches for frames of up to so many patches on a side. */
int ic_cuda_vision_reach(ic_cuda_device *d, int side, int half, float theta);

/* --- the operations of this backend (ic_ops.h); those on slabs: ic_cuda_slab.h
 * ------------------------
 */

int ic_cuda_weight_new(ic_weight **out, ic_device *d, const void *host, ic_dtype from,
                       ic_dtype compute, int64_t out_dim, int64_t in_dim, ic_error *e);
void ic_cuda_weight_destroy(ic_weight *w);
int ic_cuda_gemm(ic_device *d, ic_role role, const ic_mat *x, const ic_weight *w, const float *bias,
                 bool add, ic_mat *y);

int ic_cuda_gather(ic_device *d, const ic_mat *table, const int32_t *ids, ic_mat *y);
int ic_cuda_scatter(ic_device *d, const ic_mat *x, const int32_t *rows, bool set, ic_mat *y);
int ic_cuda_add(ic_device *d, const ic_mat *x, ic_mat *y);
int ic_cuda_rmsnorm(ic_device *d, const ic_mat *x, const float *weight, int dim, float eps,
                    ic_mat *y);
int ic_cuda_layernorm(ic_device *d, const ic_mat *x, const float *weight, const float *bias,
                      float eps, ic_mat *y);
int ic_cuda_swiglu(ic_device *d, const ic_mat *gate_up, ic_mat *y);
int ic_cuda_gelu(ic_device *d, const ic_mat *x, bool tanh_form, ic_mat *y);

int ic_cuda_step_begin(ic_device *d, const ic_slab *const *slabs, int n, uint64_t shape);
int ic_cuda_step_end(ic_device *d, int rc);
int ic_cuda_sample(ic_device *d, const ic_mat *logits, const ic_draw *draws, int32_t *tokens);

int ic_cuda_patchify(ic_device *d, const ic_patch_layout *layout, const uint8_t *const *frames,
                     ic_mat *y);
int ic_cuda_vision_positions(ic_device *d, const ic_mat *table, int side,
                             const ic_patch_layout *layout, ic_mat *y);
int ic_cuda_vision_rope(ic_device *d, const ic_patch_layout *layout, int heads, int head_dim,
                        float theta, ic_mat *q, ic_mat *k);

double ic_cuda_read_rate(ic_device *d, size_t bytes, double seconds);
double ic_cuda_read_time(ic_device *d, const void *memory, size_t bytes);
double ic_cuda_gemm_rate(ic_device *d, ic_dtype compute, int m, int n, int k, double seconds);

#endif
