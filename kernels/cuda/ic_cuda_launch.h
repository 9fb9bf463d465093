/* ic_cuda_launch: the two things of CUDA that are no C++, as macros, so that kernels also compile
 * for the emulation in tests/device/emu. */
#ifndef IC_CUDA_LAUNCH_H
#define IC_CUDA_LAUNCH_H

#include <cuda_runtime.h>

/* IC_CUDA_LAUNCH(kernel or (template<with, commas>), grid, block, shared bytes, stream,
 * arguments...) IC_CUDA_SHARED(type, name): `type *name`, the block's dynamic shared memory,
 * 16-byte aligned. */
#ifdef IC_CUDA_EMULATED
#define IC_CUDA_LAUNCH(kernel, grid, block, shared, stream, ...)                                   \
    ((void)(stream), ic_emu_launch((grid), (block), (shared), [=] { kernel(__VA_ARGS__); }))
#define IC_CUDA_SHARED(type, name) type *name = (type *)ic_emu_shared()
#else
#define IC_CUDA_LAUNCH(kernel, grid, block, shared, stream, ...)                                   \
    kernel<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__)
#define IC_CUDA_SHARED(type, name)                                                                 \
    extern __shared__ __align__(16) unsigned char ic_cuda_dynamic_shared[];                        \
    type *name = reinterpret_cast<type *>(ic_cuda_dynamic_shared)
#endif

#endif
