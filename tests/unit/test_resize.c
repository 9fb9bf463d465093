/* ic_resize: equal to torchvision, bit for bit; sizes that make no sense; memory that runs out. */
#include "ic_test.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "kernels/ic_resize.h"

/* The same bytes as tests/golden/resize/make_resize.py makes. */
static void noise(uint32_t seed, int kind, uint8_t *out, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t x = ((uint64_t)i + (uint64_t)seed * 1000003u) * 0x9E3779B97F4A7C15ULL;
        x ^= x >> 29;
        x *= 0xBF58476D1CE4E5B9ULL;
        out[i] = (uint8_t)(x >> 40);
        if (kind)
            out[i] = out[i] >= 128 ? 255 : 0;
    }
}

static uint8_t *picture(uint32_t seed, int kind, int w, int h)
{
    uint8_t *p = ic_alloc((size_t)w * (size_t)h * 3);
    noise(seed, kind, p, (size_t)w * (size_t)h * 3);
    return p;
}

static int check_record(FILE *f)
{
    uint32_t head[6];
    if (fread(head, sizeof head, 1, f) != 1)
        return 0;
    int sw = (int)head[0], sh = (int)head[1], dw = (int)head[2], dh = (int)head[3];
    size_t bytes = (size_t)dw * (size_t)dh * 3;
    uint8_t *src = picture(head[4], (int)head[5], sw, sh);
    uint8_t *want = ic_alloc(bytes), *got = ic_alloc(bytes);
    assert_int_equal(fread(want, 1, bytes, f), bytes);
    ic_error e = {0};
    ic_assert_ok(ic_resize_rgb(src, sw, sh, got, dw, dh, &e), &e);
    assert_memory_equal(got, want, bytes);
    ic_free(src);
    ic_free(want);
    ic_free(got);
    return 1;
}

/* Ensures that pictures shrunk, grown, and left alone in one direction are torchvision's, bit for
 * bit. */
static void test_equals_torchvision(void **state)
{
    (void)state;
    FILE *f = fopen(IC_SOURCE_DIR "/tests/golden/resize/resize.bin", "rb");
    assert_non_null(f);
    int records = 0;
    while (check_record(f))
        records++;
    fclose(f);
    assert_int_equal(records, 13);
}

/* Ensures that a picture of one colour keeps it whatever the sizes: the weights sum to one. */
static void test_flat_stays_flat(void **state)
{
    (void)state;
    static const int sizes[][4] = {{7, 9, 50, 3}, {300, 200, 31, 17}, {64, 48, 64, 96}};
    for (size_t i = 0; i < 3; i++) {
        const int *s = sizes[i];
        size_t in = (size_t)s[0] * (size_t)s[1] * 3, out = (size_t)s[2] * (size_t)s[3] * 3;
        uint8_t *src = ic_alloc(in), *dst = ic_alloc(out);
        memset(src, 201, in);
        ic_error e = {0};
        ic_assert_ok(ic_resize_rgb(src, s[0], s[1], dst, s[2], s[3], &e), &e);
        for (size_t k = 0; k < out; k++)
            assert_int_equal(dst[k], 201);
        ic_free(src);
        ic_free(dst);
    }
}

/* Ensures that sides outside 1..16384 are refused with a sentence that names them. */
static void test_refuses_sizes(void **state)
{
    (void)state;
    uint8_t pixel[3] = {1, 2, 3}, out[3];
    ic_error e = {0};
    assert_int_equal(ic_resize_rgb(pixel, 0, 1, out, 1, 1, &e), IC_EINVAL);
    assert_int_equal(ic_resize_rgb(pixel, 1, 1, out, 1, -4, &e), IC_EINVAL);
    assert_int_equal(ic_resize_rgb(pixel, 1, 1, out, 16385, 1, &e), IC_EINVAL);
    assert_non_null(strstr(e.text, "16385"));
}

/* Ensures that each large allocation may fail: the answer is NOMEM and nothing leaks. */
static void test_out_of_memory(void **state)
{
    (void)state;
    uint8_t *src = picture(1, 0, 40, 30), dst[10 * 12 * 3];
    int64_t live = ic_mem_live();
    int failures = 0;
    for (int n = 1;; n++) {
        ic_error e = {0};
        ic_mem_fail_after(n, 0);
        int rc = ic_resize_rgb(src, 40, 30, dst, 10, 12, &e);
        ic_mem_fail_after(0, 0);
        assert_int_equal(ic_mem_live(), live);
        if (rc == IC_OK)
            break;
        assert_int_equal(rc, IC_ENOMEM);
        failures++;
    }
    assert_true(failures >= 5);
    ic_free(src);
}

static void *resize_many(void *arg)
{
    uint8_t *out = arg;
    uint8_t *src = picture(3, 0, 120, 90);
    int failed = 0;
    for (int i = 0; i < 20; i++)
        failed |= ic_resize_rgb(src, 120, 90, out, 33, 21, NULL);
    ic_free(src);
    return failed ? arg : NULL;
}

/* Ensures that two threads at once give the same picture. */
static void test_two_threads(void **state)
{
    (void)state;
    static uint8_t out[2][33 * 21 * 3];
    pthread_t t[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&t[i], NULL, resize_many, out[i]), 0);
    for (int i = 0; i < 2; i++) {
        void *failed = NULL;
        pthread_join(t[i], &failed);
        assert_null(failed);
    }
    assert_memory_equal(out[0], out[1], sizeof out[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_torchvision), cmocka_unit_test(test_flat_stays_flat),
        cmocka_unit_test(test_refuses_sizes),      cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_two_threads),
    };
    return IC_TEST_RUN(tests);
}
