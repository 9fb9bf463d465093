/* The bit rule of the CPU backend: what a row gives depends on the row and its role, never on the
 * rest of the call, the slice it came in, or the number of threads. */
#include <stdio.h>
#include <string.h>

#include "base/ic_mem.h"
#include "ic_test.h"
#include "kernels/ic_half.h"
#include "kernels/ic_ops.h"

enum { DEVICES = 3, ROWS = 512 };
static ic_device *devices[DEVICES]; /* of one kind, with 1, 2 and 5 threads */
static uint32_t seed;

static float next_random(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)((int32_t)seed >> 8) / (float)(1 << 23);
}

static float *random_floats(int64_t n)
{
    float *p = ic_try_alloc_aligned((size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++)
        p[i] = next_random();
    return p;
}

static int open_devices(const char *instructions, bool plain)
{
    static const int threads[DEVICES] = {1, 2, 5};
    seed = 99;
    for (int i = 0; i < DEVICES; i++) {
        ic_device_config config = {.kind = "cpu",
                                   .threads = threads[i],
                                   .plain_loops = plain,
                                   .instructions = instructions};
        int rc = ic_device_open(&devices[i], &config, NULL);
        if (rc == IC_EUNSUPPORTED && i == 0)
            return 0; /* the test finds no device and skips */
        if (rc || !ic_device_info_of(devices[i])->batch_exact)
            return -1;
    }
    return 0;
}

static int open_fast(void **state)
{
    (void)state;
    return open_devices(NULL, false);
}

static int open_bf16(void **state)
{
    (void)state;
    return open_devices("avx512-bf16", false);
}

static int open_avx2(void **state)
{
    (void)state;
    return open_devices("avx2", false);
}

static int open_plain(void **state)
{
    (void)state;
    return open_devices(NULL, true);
}

/* Tells that a machine lacks the instructions under test. */
static bool lacks_device(void)
{
    if (devices[0])
        return false;
    print_message("skipped: this machine has no such instructions\n");
    return true;
}

static int close_devices(void **state)
{
    (void)state;
    for (int i = 0; i < DEVICES; i++)
        ic_device_close(&devices[i]);
    return 0;
}

static void expect_same_bits(const float *a, const float *b, int64_t n, const char *what, int rows)
{
    if (memcmp(a, b, (size_t)n * sizeof *a) != 0)
        fail_msg("%s: bits differ with %d rows", what, rows);
}

/* --- products --- */

static void check_product(ic_role role, ic_dtype dtype, int in, int out, int most, int step)
{
    float *x = random_floats((int64_t)most * in), *all = random_floats((int64_t)most * out);
    float *some = random_floats((int64_t)most * out);
    void *host = ic_alloc((size_t)in * (size_t)out * 4);
    for (int64_t i = 0; i < (int64_t)in * out; i++)
        ic_dtype_put(dtype, host, i, next_random());
    for (int d = 0; d < DEVICES; d++) {
        ic_weight *w = NULL;
        assert_int_equal(ic_weight_new(&w, devices[d], host, dtype, dtype, out, in, NULL), 0);
        ic_mat xm = {x, IC_F32, most, in, in}, ym = {d ? some : all, IC_F32, most, out, out};
        assert_int_equal(ic_op_gemm(devices[d], role, &xm, w, NULL, false, &ym), 0);
        if (d)
            expect_same_bits(some, all, (int64_t)most * out, "threads", most);
        for (int rows = 1; rows <= most; rows += rows < 20 ? 1 : step) {
            /* The call's rows are taken from the end, so that a row has another place each time. */
            int first = most - rows;
            ic_mat xs = {x + (int64_t)first * in, IC_F32, rows, in, in};
            ic_mat ys = {some, IC_F32, rows, out, out};
            assert_int_equal(ic_op_gemm(devices[d], role, &xs, w, NULL, false, &ys), 0);
            expect_same_bits(some, all + (int64_t)first * out, (int64_t)rows * out,
                             role == IC_DECODE ? "decode product" : "prefill product", rows);
        }
        ic_weight_destroy(&w);
    }
    ic_free(host), ic_free(x), ic_free(all), ic_free(some);
}

/* A product's row has the same bits in calls of 1 to 512 rows, at any place, with any threads. */
static void test_products(void **state)
{
    (void)state;
    if (lacks_device())
        return;
    for (int dtype = IC_F32; dtype <= IC_BF16; dtype++) {
        check_product(IC_PREFILL, (ic_dtype)dtype, 70, 90, ROWS, 41);
        check_product(IC_PREFILL, (ic_dtype)dtype, 1100, 33, 64, 9);
        check_product(IC_DECODE, (ic_dtype)dtype, 203, 90, 40, 7);
    }
}

/* --- attention --- */

enum { HEADS = 6, KV = 2, DIM = 40, LENGTH = 300, WIDTH = HEADS * DIM };

static float inv_freq[DIM / 2];
static uint8_t axis[DIM / 2];
static const ic_rope rope = {DIM / 2, inv_freq, axis, 1};

static void make_rope(void)
{
    for (int i = 0; i < DIM / 2; i++) {
        inv_freq[i] = 1.0f / (float)(1 + i * i);
        axis[i] = (uint8_t)(i % 3);
    }
}

static void make_rows(ic_row *rows)
{
    for (int i = 0; i < LENGTH; i++) {
        rows[i] = (ic_row){.ordinal = (uint32_t)i, .advance = 1};
        if (i % 30 >= 10)
            rows[i] = (ic_row){(uint32_t)i,
                               (uint32_t)(1 + i / 30),
                               (uint16_t)(i % 30 / 10),
                               (uint16_t)(i % 10),
                               10,
                               IC_ROW_VISION,
                               0};
    }
}

static ic_slab *new_slab(ic_device *d, ic_dtype dtype)
{
    ic_slab *s = NULL;
    ic_slab_desc desc = {1, KV, DIM, LENGTH + 10, dtype, dtype};
    assert_int_equal(ic_slab_new(&s, d, &desc, NULL), 0);
    return s;
}

/* Feeds rows [first, end) as one slice. */
static void feed(ic_device *d, ic_slab *s, const ic_row *rows, float *const *qkv, int first,
                 int end, float *y)
{
    int n = end - first, kv = KV * DIM;
    ic_mat k = {qkv[1] + first * kv, IC_F32, n, kv, kv},
           v = {qkv[2] + first * kv, IC_F32, n, kv, kv};
    ic_mat q = {qkv[0] + first * WIDTH, IC_F32, n, WIDTH, WIDTH};
    ic_mat out = {y + first * WIDTH, IC_F32, n, WIDTH, WIDTH};
    assert_int_equal(ic_slab_append(s, rows + first, n, NULL), 0);
    assert_int_equal(ic_slab_store(s, 0, n, 0, &k, &v), 0);
    assert_int_equal(ic_op_attention_prefill(d, s, 0, HEADS, &q, 0, &rope, 0.2f, &out), 0);
}

/* Attention of a chunk has the same bits however it is cut into slices, with any threads. */
static void test_attention_slices(void **state)
{
    (void)state;
    if (lacks_device())
        return;
    static const int cuts[] = {1, 2, 7, 63, 64, 65, 128, 299};
    ic_row rows[LENGTH];
    float *qkv[3] = {random_floats(LENGTH * WIDTH), random_floats(LENGTH * KV * DIM),
                     random_floats(LENGTH * KV * DIM)};
    float *whole = random_floats(LENGTH * WIDTH), *sliced = random_floats(LENGTH * WIDTH);
    make_rope();
    make_rows(rows);
    for (int dtype = IC_F32; dtype <= IC_BF16; dtype++)
        for (int d = 0; d < DEVICES; d++) {
            ic_slab *s = new_slab(devices[d], (ic_dtype)dtype);
            feed(devices[d], s, rows, qkv, 0, LENGTH, d ? sliced : whole);
            if (d)
                expect_same_bits(sliced, whole, LENGTH * WIDTH, "threads", LENGTH);
            ic_slab_destroy(&s);
            for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
                s = new_slab(devices[d], (ic_dtype)dtype);
                for (int at = 0; at < LENGTH; at += cuts[c])
                    feed(devices[d], s, rows, qkv, at,
                         at + cuts[c] < LENGTH ? at + cuts[c] : LENGTH, sliced);
                expect_same_bits(sliced, whole, LENGTH * WIDTH, "slices", cuts[c]);
                ic_slab_destroy(&s);
            }
        }
    for (int i = 0; i < 3; i++)
        ic_free(qkv[i]);
    ic_free(whole), ic_free(sliced);
}

/* A decode row has the same bits alone and in a batch with other sessions, with any threads. */
static void test_attention_batch(void **state)
{
    (void)state;
    if (lacks_device())
        return;
    enum { SESSIONS = 5 };
    ic_row rows[LENGTH];
    float *qkv[3] = {random_floats(LENGTH * WIDTH), random_floats(LENGTH * KV * DIM),
                     random_floats(LENGTH * KV * DIM)};
    float *y = random_floats(LENGTH * WIDTH), *alone = random_floats(SESSIONS * WIDTH);
    float *batch = random_floats(SESSIONS * WIDTH);
    make_rope();
    make_rows(rows);
    for (int d = 0; d < DEVICES; d++) {
        ic_slab *slabs[SESSIONS];
        for (int i = 0; i < SESSIONS; i++) {
            slabs[i] = new_slab(devices[d], IC_BF16);
            feed(devices[d], slabs[i], rows, qkv, 0, 1 + i * 70, y);
            ic_mat q = {qkv[0] + i * WIDTH, IC_F32, 1, WIDTH, WIDTH};
            ic_mat out = {(d ? batch : alone) + i * WIDTH, IC_F32, 1, WIDTH, WIDTH};
            assert_int_equal(ic_op_attention_decode(devices[d], (const ic_slab *const *)&slabs[i],
                                                    1, 0, HEADS, &q, &rope, 0.2f, &out),
                             0);
        }
        if (d)
            expect_same_bits(batch, alone, SESSIONS * WIDTH, "decode threads", 1);
        ic_mat q = {qkv[0], IC_F32, SESSIONS, WIDTH, WIDTH};
        ic_mat out = {batch, IC_F32, SESSIONS, WIDTH, WIDTH};
        assert_int_equal(ic_op_attention_decode(devices[d], (const ic_slab *const *)slabs, SESSIONS,
                                                0, HEADS, &q, &rope, 0.2f, &out),
                         0);
        expect_same_bits(batch, alone, SESSIONS * WIDTH, "decode batch", SESSIONS);
        for (int i = 0; i < SESSIONS; i++)
            ic_slab_destroy(&slabs[i]);
    }
    for (int i = 0; i < 3; i++)
        ic_free(qkv[i]);
    ic_free(y), ic_free(alone), ic_free(batch);
}

/* --- rows by themselves --- */

/* Norms and activations of a row have the same bits whatever stands beside it. */
static void test_rows(void **state)
{
    (void)state;
    if (lacks_device())
        return;
    enum { N = 37, COLS = 150 };
    float *x = random_floats(N * 2 * COLS), *w = random_floats(2 * COLS);
    float *all = random_floats(N * 2 * COLS), *one = random_floats(2 * COLS);
    for (int d = 0; d < DEVICES; d++)
        for (int op = 0; op < 4; op++)
            for (int r = -1; r < N; r++) {
                float *from = r < 0 ? x : x + r * 2 * COLS, *to = r < 0 ? all : one;
                int rows = r < 0 ? N : 1, cols = op == 3 ? COLS : 2 * COLS;
                ic_mat xm = {from, IC_F32, rows, 2 * COLS, 2 * COLS};
                ic_mat ym = {to, IC_F32, rows, cols, 2 * COLS};
                int rc = op == 0   ? ic_op_rmsnorm(devices[d], &xm, w, 2 * COLS, 1e-6f, &ym)
                         : op == 1 ? ic_op_layernorm(devices[d], &xm, w, w, 1e-6f, &ym)
                         : op == 2 ? ic_op_gelu(devices[d], &xm, true, &ym)
                                   : ic_op_swiglu(devices[d], &xm, &ym);
                assert_int_equal(rc, 0);
                if (r >= 0)
                    expect_same_bits(one, all + r * 2 * COLS, cols, "row", op);
            }
    ic_free(x), ic_free(w), ic_free(all), ic_free(one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_products, open_fast, close_devices),
        cmocka_unit_test_setup_teardown(test_attention_slices, open_fast, close_devices),
        cmocka_unit_test_setup_teardown(test_attention_batch, open_fast, close_devices),
        cmocka_unit_test_setup_teardown(test_rows, open_fast, close_devices),
        cmocka_unit_test_setup_teardown(test_products, open_bf16, close_devices),
        cmocka_unit_test_setup_teardown(test_attention_slices, open_bf16, close_devices),
        cmocka_unit_test_setup_teardown(test_attention_batch, open_bf16, close_devices),
        cmocka_unit_test_setup_teardown(test_products, open_avx2, close_devices),
        cmocka_unit_test_setup_teardown(test_attention_slices, open_avx2, close_devices),
        cmocka_unit_test_setup_teardown(test_rows, open_avx2, close_devices),
        cmocka_unit_test_setup_teardown(test_products, open_plain, close_devices),
        cmocka_unit_test_setup_teardown(test_attention_slices, open_plain, close_devices),
        cmocka_unit_test_setup_teardown(test_attention_batch, open_plain, close_devices),
    };
    return IC_TEST_RUN(tests);
}
