/* In place of the toolkit's header where kernels are emulated. */
#include "tests/device/emu/ic_cuda_emu.h"
