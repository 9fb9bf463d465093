/* ic_weights: what a safetensors file may not do to us, and what a good one gives. */
#include "ic_test.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/ic_mem.h"
#include "engine/ic_weights.h"

/* Writes a safetensors image: header text and `data_bytes` bytes 0, 1, 2, ... Returns its size. */
static size_t make_image(uint8_t *out, const char *header, size_t data_bytes)
{
    uint64_t length = strlen(header);
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(length >> (8 * i));
    memcpy(out + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++)
        out[8 + length + i] = (uint8_t)i;
    return 8 + length + data_bytes;
}

/* Opens an image that must be refused with `code`, and with a sentence that holds `words`. */
static void expect_refusal(const char *header, size_t data_bytes, int code, const char *words)
{
    uint8_t image[4096];
    size_t size = make_image(image, header, data_bytes);
    ic_weights *w = NULL;
    ic_error e = {0};
    assert_int_equal(ic_weights_open_memory(&w, image, size, &e), code);
    assert_null(w);
    if (!strstr(e.text, words))
        fail_msg("\"%s\" does not say \"%s\"", e.text, words);
}

/* Ensures that a good file gives its tensors with dtype, shape and bytes. */
static void test_good_file(void **state)
{
    (void)state;
    uint8_t image[4096];
    size_t size = make_image(image,
                             "{\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[16,22]},"
                             "\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}",
                             22);
    ic_weights *w;
    ic_error e;
    ic_tensor_view view;
    ic_assert_ok(ic_weights_open_memory(&w, image, size, &e), &e);
    ic_assert_ok(ic_weights_get(w, "a", 2, (int64_t[]){2, -1}, &view, &e), &e);
    assert_int_equal(view.dtype, IC_F32);
    assert_int_equal(view.elements, 4);
    assert_int_equal(((const uint8_t *)view.data)[5], 5);
    assert_int_equal((uintptr_t)view.data % 4, 0);
    ic_assert_ok(ic_weights_get(w, "b", 1, (int64_t[]){3}, &view, &e), &e);
    assert_int_equal(((const uint8_t *)view.data)[0], 16);
    assert_int_equal(ic_weights_get(w, "c", 1, (int64_t[]){3}, &view, &e), IC_ENOTFOUND);
    assert_int_equal(ic_weights_get(w, "a", 2, (int64_t[]){2, 3}, &view, &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "[2,2]"));
    assert_int_equal(ic_weights_bytes(w), 22);
    ic_weights_close(&w);
}

/* Ensures that each lie of a header is refused with a sentence that names it. */
static void test_refusals(void **state)
{
    (void)state;
    expect_refusal("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                   "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
                   12, IC_EFORMAT, "overlap");
    expect_refusal("{\"a\":{\"dtype\":\"F32\",\"shape\":[100],\"data_offsets\":[0,400]}}", 10,
                   IC_EFORMAT, "truncated");
    expect_refusal("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
                   IC_EFORMAT, "do not fit");
    expect_refusal("{\"a\":{\"dtype\":\"Q4\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, IC_EFORMAT,
                   "Q4");
    expect_refusal(
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,8],\"data_offsets\":[0,0]}}", 0,
        IC_EFORMAT, "impossible");
    expect_refusal("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4,
                   IC_EFORMAT, "impossible");
    expect_refusal("nonsense", 0, IC_EFORMAT, "JSON");
    uint8_t image[16] = {255, 255, 255, 255, 255, 255, 255, 127};
    ic_weights *w;
    ic_error e;
    assert_int_equal(ic_weights_open_memory(&w, image, sizeof image, &e), IC_EFORMAT);
    assert_int_equal(ic_weights_open_memory(&w, image, 3, &e), IC_EFORMAT);
}

/* Ensures that a dtype which the format knows and we do not is refused only when it is asked for,
 * by name. */
static void test_foreign_dtype(void **state)
{
    (void)state;
    uint8_t image[4096];
    size_t size = make_image(
        image, "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4);
    ic_weights *w;
    ic_error e;
    ic_tensor_view view;
    ic_assert_ok(ic_weights_open_memory(&w, image, size, &e), &e);
    assert_int_equal(ic_weights_get(w, "a", 1, (int64_t[]){4}, &view, &e), IC_EUNSUPPORTED);
    assert_non_null(strstr(e.text, "F8_E4M3"));
    ic_weights_close(&w);
}

/* Ensures that a tensor which lies unaligned in its file is given out aligned, with the same bytes.
 */
static void test_unaligned(void **state)
{
    (void)state;
    uint8_t image[4096] __attribute__((aligned(64)));
    const char *header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]}}  ";
    size_t size = make_image(image, header, 5);
    ic_weights *w;
    ic_error e;
    ic_tensor_view view;
    ic_assert_ok(ic_weights_open_memory(&w, image, size, &e), &e);
    ic_assert_ok(ic_weights_get(w, "b", 1, (int64_t[]){1}, &view, &e), &e);
    assert_int_equal((uintptr_t)view.data % 4, 0);
    assert_memory_equal(view.data, ((uint8_t[]){1, 2, 3, 4}), 4);
    ic_weights_close(&w);
}

static void write_file(const char *name, const void *bytes, size_t size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", ic_test_dir(), name);
    FILE *f = fopen(path, "wb");
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
}

/* Ensures that shards are found through their index, that content and not sharding makes the
 * fingerprint, and that a shard name cannot leave the directory. */
static void test_shards(void **state)
{
    (void)state;
    uint8_t image[4096], one[16], two[16];
    ic_weights *w;
    ic_error e;
    assert_int_equal(ic_weights_open(&w, ic_test_dir(), &e), IC_ENOTFOUND);
    write_file(
        "x.safetensors", image,
        make_image(image, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4));
    write_file(
        "y.safetensors", image,
        make_image(image, "{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4));
    const char *index = "{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"y.safetensors\"}}";
    write_file("model.safetensors.index.json", index, strlen(index));
    ic_assert_ok(ic_weights_open(&w, ic_test_dir(), &e), &e);
    assert_true(ic_weights_has(w, "a") && ic_weights_has(w, "b"));
    ic_weights_fingerprint(w, one);
    ic_weights_close(&w);
    const char *outside = "{\"weight_map\":{\"a\":\"../x.safetensors\"}}";
    write_file("model.safetensors.index.json", outside, strlen(outside));
    assert_int_equal(ic_weights_open(&w, ic_test_dir(), &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "plain file name"));
    const char *whole = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                        "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}";
    size_t size = make_image(image, whole, 8);
    memcpy(image + size - 4, (uint8_t[]){0, 1, 2, 3}, 4);
    write_file("model.safetensors", image, size);
    ic_assert_ok(ic_weights_open(&w, ic_test_dir(), &e), &e);
    ic_weights_fingerprint(w, two);
    ic_weights_close(&w);
    assert_memory_equal(one, two, 16);
}

/* Ensures that a failing allocation while a file is read is told, and leaks nothing. */
static void test_out_of_memory(void **state)
{
    (void)state;
    uint8_t image[4096] __attribute__((aligned(64)));
    size_t size = make_image(image,
                             "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                             "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]}}  ",
                             5);
    ic_weights *w;
    ic_error e;
    ic_mem_fail_after(1, 1);
    assert_int_equal(ic_weights_open_memory(&w, image, size, &e), IC_ENOMEM);
    ic_mem_fail_after(0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_file),     cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_foreign_dtype), cmocka_unit_test(test_unaligned),
        cmocka_unit_test(test_shards),        cmocka_unit_test(test_out_of_memory),
    };
    return IC_TEST_RUN(tests);
}
