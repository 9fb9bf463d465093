/* Pictures resized by the CUDA device: the same bytes as on the host, which are torchvision's. */
#include <string.h>

#include "base/ic_mem.h"
#include "ic_test_cuda.h"
#include "kernels/ic_ops.h"
#include "kernels/ic_resize.h"

enum { MOST = 96 * 80 * 3 };

static ic_device *cuda;

static int open_device(void **state)
{
    (void)state;
    cuda = ic_test_cuda_open(0);
    return cuda ? ic_ops_reserve(cuda, &(ic_ops_bounds){.picture_bytes = MOST}) : -1;
}

static int close_device(void **state)
{
    (void)state;
    ic_device_close(&cuda);
    return 0;
}

/* Pictures of noise, or of one colour with hard edges: where sums leave 0 .. 255. */
static void fill(uint8_t *rgb, int w, int h, int kind)
{
    ic_test_noise(rgb, (size_t)w * (size_t)h * 3, w * 131 + h);
    for (int i = 0; kind && i < w * h * 3; i++)
        rgb[i] = i / 3 % w / 3 % 2 ? 255 : 0;
}

static void check(int sw, int sh, int dw, int dh)
{
    ic_error e = {0};
    uint8_t *src = ic_alloc((size_t)sw * (size_t)sh * 3);
    uint8_t *want = ic_calloc((size_t)dw * (size_t)dh * 3 + 1, 1);
    uint8_t *got = ic_calloc((size_t)dw * (size_t)dh * 3 + 1, 1);
    for (int kind = 0; kind < 2; kind++) {
        fill(src, sw, sh, kind);
        ic_assert_ok(ic_resize_rgb(src, sw, sh, want, dw, dh, &e), &e);
        assert_int_equal(cuda->backend->resize_rgb(cuda, src, sw, sh, got, dw, dh), 0);
        assert_memory_equal(got, want, (size_t)dw * (size_t)dh * 3 + 1);
    }
    ic_free(src);
    ic_free(want);
    ic_free(got);
}

/* Smaller and larger, one direction alone, one pixel, sides that divide nothing: the same bytes. */
static void same_bytes(void **state)
{
    (void)state;
    static const int sizes[][4] = {{96, 80, 28, 28}, {96, 54, 64, 32}, {31, 17, 64, 32},
                                   {7, 5, 32, 64},   {50, 40, 50, 12}, {50, 40, 13, 40},
                                   {1, 1, 16, 16},   {90, 3, 1, 1},    {33, 70, 34, 69}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3]);
}

/* What has no room on the device, or makes no sense, comes out as the host would have it. */
static void the_host_does_the_rest(void **state)
{
    (void)state;
    enum { W = 120, H = 90 };
    ic_error e = {0};
    uint8_t *src = ic_alloc((size_t)W * H * 3), want[16 * 12 * 3], got[16 * 12 * 3];
    fill(src, W, H, 0);
    assert_int_not_equal(cuda->backend->resize_rgb(cuda, src, W, H, got, 16, 12), 0);
    ic_assert_ok(ic_resize_rgb(src, W, H, want, 16, 12, &e), &e);
    ic_assert_ok(ic_device_resize_rgb(cuda, src, W, H, got, 16, 12, &e), &e);
    assert_memory_equal(got, want, sizeof want);
    assert_int_equal(ic_device_resize_rgb(cuda, src, 0, H, got, 16, 12, &e), IC_EINVAL);
    ic_free(src);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(same_bytes, open_device, close_device),
        cmocka_unit_test_setup_teardown(the_host_does_the_rest, open_device, close_device),
    };
    return ic_test_cuda_is_there() ? IC_TEST_RUN(tests) : IC_TEST_SKIPPED;
}
