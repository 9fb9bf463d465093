/* ic_test_cuda: the device under test: a GPU, or, built with IC_CUDA_EMULATED, the same kernels run
 * on the CPU (tests/device/emu). Which of them it was is always printed. */
#ifndef IC_TEST_CUDA_H
#define IC_TEST_CUDA_H

#include <stdio.h>
#include <stdlib.h>

#include "ic_test.h"
#include "kernels/ic_device_priv.h"

#ifdef IC_CUDA_EMULATED
enum { IC_TEST_EMULATED = 1 };
#else
enum { IC_TEST_EMULATED = 0 };
#endif

/* exact: f32 where the device would otherwise choose 16-bit tiles. NULL: there is no GPU; the
 * reason is printed. */
static inline ic_device *ic_test_cuda_open(int exact)
{
    static int told;
    ic_device *d = NULL;
    ic_error e = {0};
    ic_device_config config = {.kind = "cuda", .plain_loops = exact != 0};
#ifdef IC_CUDA_EMULATED
    int rc = ic_cuda_device_open(&d, &config, &e);
#else
    int rc = ic_device_open(&d, &config, &e);
#endif
    if (!told++)
        printf("%s: %s\n",
               rc                 ? "skipped"
               : IC_TEST_EMULATED ? "EMULATED, no GPU was used"
                                  : "GPU",
               rc ? e.text : d->info.name);
    return rc ? NULL : d;
}

/* For mains: without a device the program is skipped, not passed. IC_TEST_ONLY names the test that
 * is run (tools/gpu-check, under tools that are slow). */
static inline bool ic_test_cuda_is_there(void)
{
    const char *only = getenv("IC_TEST_ONLY");
    if (only)
        cmocka_set_test_filter(only);
    ic_device *d = ic_test_cuda_open(0);
    bool there = d != NULL;
    ic_device_close(&d);
    return there;
}

#endif
