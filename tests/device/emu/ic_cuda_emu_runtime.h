/* ic_cuda_emu_runtime: the part of the CUDA runtime that the backend uses, over host memory.
 *
 * Every stream is done when its call returns. */
#ifndef IC_CUDA_EMU_RUNTIME_H
#define IC_CUDA_EMU_RUNTIME_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorNoDevice = 100,
    cudaErrorNotReady = 600,
    cudaErrorNotSupported = 801
} cudaError_t;
typedef struct ic_emu_stream *cudaStream_t;
typedef struct ic_emu_event *cudaEvent_t;
typedef enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
} cudaMemcpyKind;
typedef enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
} cudaFuncAttribute;
typedef enum cudaDeviceAttr {
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76
} cudaDeviceAttr;
enum {
    cudaStreamNonBlocking = 1,
    cudaEventDisableTiming = 2,
    cudaEventDefault = 0,
    cudaHostAllocDefault = 0
};
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlockOptin;
    int major, minor, multiProcessorCount, l2CacheSize;
};

cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaMallocHost(void **out, size_t bytes);
cudaError_t cudaFreeHost(void *memory);
template <class T> static inline cudaError_t cudaMalloc(T **out, size_t bytes)
{
    return cudaMalloc((void **)(void *)out, bytes);
}
template <class T> static inline cudaError_t cudaMallocHost(T **out, size_t bytes)
{
    return cudaMallocHost((void **)(void *)out, bytes);
}
static inline cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned)
{
    return cudaMallocHost(out, bytes);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = NULL);
static inline cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind)
{
    memmove(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream = NULL);
cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t stream = NULL);
static inline cudaError_t cudaMemset(void *at, int value, size_t bytes)
{
    memset(at, value, bytes);
    return cudaSuccess;
}

/* Calls that have nothing to do here. */
#define IC_EMU_DONE(name, parameters)                                                              \
    static inline cudaError_t name parameters                                                      \
    {                                                                                              \
        return cudaSuccess;                                                                        \
    }
IC_EMU_DONE(cudaSetDevice, (int))
IC_EMU_DONE(cudaDeviceSynchronize, (void))
IC_EMU_DONE(cudaDeviceReset, (void))
IC_EMU_DONE(cudaGetLastError, (void))
IC_EMU_DONE(cudaPeekAtLastError, (void))
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
IC_EMU_DONE(cudaStreamQuery, (cudaStream_t))
IC_EMU_DONE(cudaStreamDestroy, (cudaStream_t))
IC_EMU_DONE(cudaStreamWaitEvent, (cudaStream_t, cudaEvent_t, unsigned = 0))
IC_EMU_DONE(cudaEventDestroy, (cudaEvent_t))
IC_EMU_DONE(cudaEventSynchronize, (cudaEvent_t))
IC_EMU_DONE(cudaEventQuery, (cudaEvent_t))
IC_EMU_DONE(cudaHostRegister, (void *, size_t, unsigned))
IC_EMU_DONE(cudaHostUnregister, (void *))
#define cudaEventRecord(...) (cudaSuccess)
size_t ic_emu_shared_max(void); /* IC_EMU_SHARED_KIB, or as sm_90 has */
template <class F> static inline cudaError_t cudaFuncSetAttribute(F *, cudaFuncAttribute, int bytes)
{
    return (size_t)bytes <= ic_emu_shared_max() ? cudaSuccess : cudaErrorInvalidValue;
}
static inline cudaError_t cudaStreamCreate(cudaStream_t *out)
{
    *out = (cudaStream_t)(void *)out;
    return cudaSuccess;
}
static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned)
{
    return cudaStreamCreate(out);
}
static inline cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    *out = (cudaEvent_t)(void *)out;
    return cudaSuccess;
}
static inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned)
{
    return cudaEventCreate(out);
}
/* Graphs: what is launched and copied under capture is done at each cudaGraphLaunch, with the
 * parameters that it had then. Anything that waits under capture is refused. */
typedef struct ic_emu_graph *cudaGraph_t;
typedef struct ic_emu_graph *cudaGraphExec_t;
typedef enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed
} cudaStreamCaptureMode;
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
typedef enum cudaMemoryType {
    cudaMemoryTypeUnregistered,
    cudaMemoryTypeHost,
    cudaMemoryTypeDevice,
    cudaMemoryTypeManaged
} cudaMemoryType;
struct cudaPointerAttributes {
    cudaMemoryType type;
};
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *out, const void *at);
static inline cudaError_t cudaRuntimeGetVersion(int *out)
{
    *out = 0;
    return cudaSuccess;
}
static inline cudaError_t cudaGetDeviceCount(int *out)
{
    *out = 1;
    return cudaSuccess;
}
static inline cudaError_t cudaGetDevice(int *out)
{
    *out = 0;
    return cudaSuccess;
}
static inline cudaError_t cudaDeviceGetAttribute(int *out, cudaDeviceAttr what, int)
{
    *out = what == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 227 << 10
           : what == cudaDevAttrMultiProcessorCount        ? 4
           : what == cudaDevAttrComputeCapabilityMajor     ? 9
                                                           : 0;
    return cudaSuccess;
}

#endif
