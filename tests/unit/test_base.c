/* base: errors, memory, bytes, frames, clock. */
#include "ic_test.h"

#include <malloc.h>
#include <string.h>

#include "base/ic_buf.h"
#include "base/ic_clock.h"
#include "base/ic_frame.h"
#include "base/ic_mem.h"

/* Ensures that an error carries its code and sentence, and that a prefix comes before the sentence.
 */
static void test_error_text(void **state)
{
    (void)state;
    ic_error e = {0};
    assert_int_equal(ic_error_set(&e, IC_EFORMAT, "row %d is short", 7), IC_EFORMAT);
    assert_int_equal(ic_error_prefix(&e, IC_EFORMAT, "file %s", "a.bin"), IC_EFORMAT);
    assert_string_equal(e.text, "file a.bin: row 7 is short");
    assert_string_equal(ic_err_name(IC_ECONFLICT), "CONFLICT");
    assert_string_equal(ic_err_name(-1000), "UNKNOWN");
    assert_int_equal(ic_error_set(NULL, IC_EIO, "nobody listens"), IC_EIO);
}

/* Ensures that the n-th large allocation fails when asked, once or from then on. */
static void test_allocation_faults(void **state)
{
    (void)state;
    ic_mem_fail_after(2, 0);
    void *first = ic_try_alloc(10), *second = ic_try_alloc(10), *third = ic_try_alloc_aligned(100);
    assert_non_null(first);
    assert_null(second);
    assert_non_null(third);
    assert_int_equal((uintptr_t)third % 64, 0);
    ic_free(first);
    ic_free(third);
    ic_mem_fail_after(1, 1);
    assert_null(ic_try_alloc(1));
    assert_null(ic_try_calloc(1, 1));
    ic_mem_fail_after(0, 0);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

/* Ensures that a server's large blocks are mapped by themselves, and go back to the system when
 * they are freed, whatever was freed before: without ic_mem_setup a freed block of 8 MiB makes the
 * next ones part of the heap. */
static void test_large_blocks_go_back(void **state)
{
    (void)state;
#ifdef SANITIZED
    print_message("skipped: a sanitizer's allocator has no such policy\n");
    skip();
#else
    enum { LARGE = 8 << 20, PIECE = 2 << 20 };
    ic_mem_setup();
    volatile uint8_t *large = ic_try_alloc(LARGE);
    large[LARGE / 2] = 1;
    ic_free((void *)large);
    size_t before = mallinfo2().hblkhd;
    volatile uint8_t *piece = ic_try_alloc(PIECE);
    piece[PIECE / 2] = 1;
    assert_true(mallinfo2().hblkhd >= before + PIECE);
    ic_free((void *)piece);
    assert_int_equal(mallinfo2().hblkhd, before);
#endif
}

/* Ensures that numbers and blobs come back as written, and that reading past the end is an error,
 * not a crash. */
static void test_bytes_round_trip(void **state)
{
    (void)state;
    ic_buf b;
    ic_buf_init(&b, 0);
    ic_buf_u8(&b, 200);
    ic_buf_u32(&b, 0xdeadbeef);
    ic_buf_u64(&b, 0x0123456789abcdefULL);
    ic_buf_f32(&b, -1.5f);
    assert_int_equal(ic_buf_blob(&b, "abc", 3), IC_OK);
    ic_cursor c;
    uint32_t count;
    ic_cursor_init(&c, b.data, b.size);
    assert_int_equal(ic_cursor_u8(&c), 200);
    assert_int_equal(ic_cursor_u32(&c), 0xdeadbeef);
    assert_true(ic_cursor_u64(&c) == 0x0123456789abcdefULL);
    assert_true(ic_cursor_f32(&c) == -1.5f);
    const void *blob = ic_cursor_blob(&c, &count);
    assert_int_equal(count, 3);
    assert_memory_equal(blob, "abc", 3);
    assert_int_equal(c.status, IC_OK);
    assert_int_equal(ic_cursor_u32(&c), 0);
    assert_int_equal(c.status, IC_EFORMAT);
    ic_buf_fini(&b);
}

/* Ensures that a buffer's limit is refused at the byte that crosses it, and that the refusal
 * sticks. */
static void test_buffer_limit(void **state)
{
    (void)state;
    ic_buf b;
    ic_buf_init(&b, 4);
    assert_int_equal(ic_buf_u32(&b, 1), IC_OK);
    assert_int_equal(ic_buf_u8(&b, 1), IC_ELIMIT);
    assert_int_equal(ic_buf_append(&b, "", 0), IC_ELIMIT);
    ic_buf_clear(&b);
    assert_int_equal(ic_buf_u8(&b, 1), IC_OK);
    ic_buf_fini(&b);
}

/* Ensures that a frame lives until its last reference goes, and that absurd sizes are refused. */
static void test_frame_references(void **state)
{
    (void)state;
    ic_frame *f = ic_frame_new(4, 2);
    assert_int_equal(f->bytes, 24);
    ic_frame *again = ic_frame_ref(f);
    ic_frame_unref(&f);
    assert_null(f);
    memset(again->rgb, 1, again->bytes);
    ic_frame_unref(&again);
    assert_null(ic_frame_new(0, 5));
    assert_null(ic_frame_new(20000, 5));
}

/* Ensures that a faked clock stands still and that the real one goes on afterwards. */
static void test_fake_clock(void **state)
{
    (void)state;
    ic_clock_fake(5, 7);
    assert_int_equal(ic_clock_mono_us(), 5);
    assert_int_equal(ic_clock_wall_us(), 7);
    ic_clock_fake_off();
    assert_true(ic_clock_wall_us() > 1000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_text),        cmocka_unit_test(test_large_blocks_go_back),
        cmocka_unit_test(test_allocation_faults), cmocka_unit_test(test_bytes_round_trip),
        cmocka_unit_test(test_buffer_limit),      cmocka_unit_test(test_frame_references),
        cmocka_unit_test(test_fake_clock),
    };
    return IC_TEST_RUN(tests);
}
