/* In place of the toolkit's header where kernels are emulated: the runtime, as far as used. */
#ifndef IC_EMU_CUDA_RUNTIME_H
#define IC_EMU_CUDA_RUNTIME_H

#include "tests/device/emu/ic_cuda_emu.h"
#include "tests/device/emu/ic_cuda_emu_runtime.h"

#endif
