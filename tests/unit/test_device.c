/* The compute device: opening, what it says of itself, its memory, the GEMM library as a choice. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/ic_mem.h"
#include "ic_test.h"
#include "kernels/cpu/ic_cpu_pool.h"
#include "kernels/cpu/ic_cpu_vec.h"
#include "kernels/ic_half.h"
#include "kernels/ic_ops.h"

/* Unknown kinds and absurd thread counts are refused with a cure; cuda says that it is not built or
 * opens. */
static void test_open_refuses(void **state)
{
    (void)state;
    ic_device *d = NULL;
    ic_error e = {0};
    assert_int_equal(ic_device_open(&d, &(ic_device_config){.kind = "abacus"}, &e), IC_EINVAL);
    assert_non_null(strstr(e.text, "abacus"));
    assert_null(d);
    ic_device_config config = {.kind = "cpu", .threads = -1};
    assert_int_equal(ic_device_open(&d, &config, &e), IC_EINVAL);
    config = (ic_device_config){.kind = "cpu", .instructions = "neon"};
    assert_int_equal(ic_device_open(&d, &config, &e), IC_EUNSUPPORTED);
    config = (ic_device_config){.kind = "cpu", .threads = 100000};
    assert_int_equal(ic_device_open(&d, &config, &e), IC_EINVAL);
    assert_null(d);
}

/* A device tells its kind, threads, arithmetic and memory; the reference has another identity. */
static void test_info(void **state)
{
    (void)state;
    ic_device *fast = NULL, *plain = NULL;
    assert_int_equal(ic_device_open(&fast, &(ic_device_config){.kind = "cpu", .threads = 3}, NULL),
                     0);
    ic_device_config reference = {.kind = "cpu", .threads = 1, .plain_loops = true};
    assert_int_equal(ic_device_open(&plain, &reference, NULL), 0);
    const ic_device_info *info = ic_device_info_of(fast);
    assert_string_equal(info->kind, "cpu");
    assert_int_equal(info->threads, 3);
    assert_true(info->batch_exact && info->memory_bytes > 0 && info->name[0]);
    assert_non_null(strstr(ic_device_info_of(plain)->numerics, "plain"));
    if (ic_cpu_vec_avx2())
        assert_string_not_equal(info->numerics, ic_device_info_of(plain)->numerics);
    ic_device_close(&fast);
    ic_device_close(&plain);
    assert_null(fast);
    ic_device_close(&fast);
}

/* Memory comes zeroed, moves both ways, and is refused when there is none. */
static void test_memory(void **state)
{
    (void)state;
    ic_device *d = NULL;
    assert_int_equal(ic_device_open(&d, &(ic_device_config){.kind = "cpu", .threads = 1}, NULL), 0);
    char out[100], in[100] = "there and back";
    char *memory = ic_device_alloc(d, sizeof out);
    assert_int_equal(ic_device_download(d, out, memory, sizeof out), 0);
    for (size_t i = 0; i < sizeof out; i++)
        assert_int_equal(out[i], 0);
    assert_int_equal(ic_device_upload(d, memory, in, sizeof in), 0);
    assert_int_equal(ic_device_download(d, out, memory, sizeof out), 0);
    assert_memory_equal(in, out, sizeof in);
    ic_device_free(d, memory);
    ic_device_free(d, NULL);
    ic_mem_fail_after(1, 0);
    assert_null(ic_device_alloc(d, 64));
    ic_mem_fail_after(1, 0);
    ic_weight *w = NULL;
    ic_error e = {0};
    float host[4] = {0};
    assert_int_equal(ic_weight_new(&w, d, host, IC_F32, IC_BF16, 2, 2, &e), IC_ENOMEM);
    assert_null(w);
    ic_mem_fail_after(0, 0);
    ic_device_close(&d);
}

/* Names and sizes of dtypes go both ways. */
static void test_dtypes(void **state)
{
    (void)state;
    for (int i = 0; i < IC_DTYPE_COUNT; i++)
        assert_int_equal(ic_dtype_parse(ic_dtype_name((ic_dtype)i)), i);
    assert_int_equal(ic_dtype_parse("int4"), -1);
    assert_int_equal(ic_dtype_parse(NULL), -1);
    assert_int_equal(ic_dtype_size(IC_F32), 4);
    assert_int_equal(ic_dtype_size(IC_BF16), 2);
}

/* Every 16-bit pattern widens and narrows back to itself in both formats, by scalars and vectors;
 * rounding goes to the nearest even. */
static void test_half_formats(void **state)
{
    (void)state;
    const ic_cpu_vec *vecs[] = {&ic_cpu_vec_plain, ic_cpu_vec_avx2(), ic_cpu_vec_avx512()};
    static uint16_t patterns[65536], back[65536];
    static float wide[65536];
    for (int i = 0; i < 65536; i++)
        patterns[i] = (uint16_t)i;
    for (int n = 0; n < 3; n++)
        for (int dtype = IC_BF16; vecs[n] && dtype <= IC_F16; dtype++) {
            vecs[n]->widen((ic_dtype)dtype, patterns, wide, 65536);
            vecs[n]->narrow((ic_dtype)dtype, wide, back, 65536);
            for (int i = 0; i < 65536; i++) {
                float scalar = ic_dtype_get((ic_dtype)dtype, patterns, i);
                if (isnan(scalar)) {
                    assert_true(isnan(wide[i]));
                    assert_true(isnan(ic_dtype_get((ic_dtype)dtype, back, i)));
                    continue;
                }
                assert_true(wide[i] == scalar);
                assert_int_equal(back[i], i);
            }
        }
    static const struct {
        uint32_t bits;
        uint16_t bf16, f16;
    } cases[] = {{0x3f808000, 0x3f80, 0x3c04}, {0x3f818000, 0x3f82, 0x3c0c},
                 {0x3f808001, 0x3f81, 0x3c04}, {0x3f801000, 0x3f80, 0x3c00},
                 {0x3f803000, 0x3f80, 0x3c02}, {0x7f7fffff, 0x7f80, 0x7c00},
                 {0x33000000, 0x3300, 0x0000}, {0x33000001, 0x3300, 0x0001},
                 {0xb3c00000, 0xb3c0, 0x8002}, {0x477fefff, 0x4780, 0x7bff}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int n = 0; n < 3; n++) {
            uint16_t bf16[32], f16[32];
            float value[32];
            for (int j = 0; j < 32; j++)
                value[j] = ic_f32_of_bits(cases[i].bits);
            if (!vecs[n])
                continue;
            vecs[n]->narrow(IC_BF16, value, bf16, 32);
            vecs[n]->narrow(IC_F16, value, f16, 32);
            assert_int_equal(bf16[7], cases[i].bf16);
            assert_int_equal(f16[7], cases[i].f16);
        }
}

/* The softmax's exponentials are within 2 units in the last place down to where f32 ends, and far
 * below that they are 0, never noise. */
static void test_exp(void **state)
{
    (void)state;
    const ic_cpu_vec *vecs[] = {&ic_cpu_vec_plain, ic_cpu_vec_avx2(), ic_cpu_vec_avx512()};
    for (int n = 0; n < 3; n++)
        for (int piece = 0; vecs[n] && piece < 1500; piece++) {
            float x[64], y[64], max = 0, sum = 0;
            for (int i = 0; i < 64; i++)
                x[i] = y[i] = i ? -(float)(piece * 64 + i) * 0.0009f : 0;
            assert_true(vecs[n]->softmax(y, 64, &max, &sum) == 1.0f);
            double total = 0;
            for (int i = 0; i < 64; i++) {
                double want = exp((double)x[i]);
                total += want;
                if (x[i] > -87.3f)
                    assert_true(fabs(y[i] - want) <= want * 2 * 0x1p-23);
            }
            assert_true(fabs(sum - total) <= total * 4e-6);
            float s[16] = {0, -INFINITY, -88.5f, -104, -1e30f}, most = -INFINITY, all = 0;
            assert_true(vecs[n]->softmax(s, 16, &most, &all) == 0.0f);
            assert_true(s[0] == 1 && s[1] == 0 && s[4] == 0 && s[2] < 1e-37f && s[3] < 1e-37f);
        }
}

/* --- the pool --- */

typedef struct count_job {
    int done[5000];
    int busy[8]; /* a worker's room is used by one task at a time */
    int clashes;
} count_job;

static void count_task(void *arg, int task, int worker)
{
    count_job *j = arg;
    if (__atomic_exchange_n(&j->busy[worker], 1, __ATOMIC_SEQ_CST))
        __atomic_add_fetch(&j->clashes, 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&j->done[task], 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&j->busy[worker], 0, __ATOMIC_SEQ_CST);
}

/* Every task of thousands of jobs runs exactly once, and all have ended when the call returns. */
static void test_pool(void **state)
{
    (void)state;
    static const int counts[] = {1, 2, 3, 17, 5000};
    for (int threads = 1; threads <= 8; threads += 3) {
        ic_cpu_pool *p = NULL;
        assert_int_equal(ic_cpu_pool_new(&p, threads, NULL), 0);
        assert_int_equal(ic_cpu_pool_threads(p), threads);
        for (int round = 0; round < 2000; round++) {
            static count_job job;
            int count = counts[round % 50 ? round % 4 : 4];
            memset(&job, 0, sizeof job);
            ic_cpu_pool_run(p, count_task, &job, count);
            for (int i = 0; i < count; i++)
                assert_int_equal(job.done[i], 1);
            assert_int_equal(job.clashes, 0);
        }
        ic_cpu_pool_run(p, count_task, NULL, 0);
        ic_cpu_pool_destroy(&p);
        assert_null(p);
    }
}

static void *use_device(void *arg)
{
    ic_device *d = arg;
    float host[64] = {0}, x[64] = {0}, y[8];
    ic_weight *w = NULL;
    ic_mat xm = {x, IC_F32, 8, 8, 8}, ym = {y, IC_F32, 8, 1, 1};
    int rc = ic_weight_new(&w, d, host, IC_F32, IC_F32, 1, 8, NULL);
    rc = rc ? rc : ic_op_gemm(d, IC_PREFILL, &xm, w, NULL, false, &ym);
    ic_weight_destroy(&w);
    return rc ? arg : NULL;
}

/* A device that was opened by one thread may be driven by another. */
static void test_other_thread(void **state)
{
    (void)state;
    ic_device *d = NULL;
    assert_int_equal(ic_device_open(&d, &(ic_device_config){.kind = "cpu", .threads = 2}, NULL), 0);
    pthread_t thread;
    void *result = d;
    assert_int_equal(pthread_create(&thread, NULL, use_device, d), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_null(result);
    ic_device_close(&d);
}

/* --- the library --- */

static void fill(float *x, int64_t n, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++, seed = seed * 1664525u + 1013904223u)
        x[i] = (float)((int32_t)seed >> 8) / (float)(1 << 23);
}

static void check_library(ic_device *library, ic_device *plain, ic_dtype dtype, int rows, int in,
                          int out)
{
    float *x = ic_calloc((size_t)rows * (size_t)in, 4), *bias = ic_calloc((size_t)out, 4);
    float *a = ic_calloc((size_t)rows * (size_t)out, 4),
          *b = ic_calloc((size_t)rows * (size_t)out, 4);
    float *host = ic_calloc((size_t)in * (size_t)out, 4);
    void *stored = ic_calloc((size_t)in * (size_t)out, 4);
    fill(x, (int64_t)rows * in, 1), fill(bias, out, 2), fill(host, (int64_t)in * out, 3);
    /* Numbers that bf16 holds exactly, so that both sides multiply the same. */
    for (int64_t i = 0; i < (int64_t)rows * in; i++)
        x[i] = ic_bf16_to_f32(ic_f32_to_bf16(x[i]));
    for (int64_t i = 0; i < (int64_t)in * out; i++)
        ic_dtype_put(dtype, stored, i, host[i]);
    ic_mat xm = {x, IC_F32, rows, in, in}, am = {a, IC_F32, rows, out, out};
    ic_mat bm = {b, IC_F32, rows, out, out};
    ic_weight *wa = NULL, *wb = NULL;
    assert_int_equal(ic_weight_new(&wa, library, stored, dtype, dtype, out, in, NULL), 0);
    assert_int_equal(ic_weight_new(&wb, plain, stored, dtype, dtype, out, in, NULL), 0);
    assert_int_equal(ic_op_gemm(library, IC_PREFILL, &xm, wa, bias, false, &am), 0);
    assert_int_equal(ic_op_gemm(plain, IC_PREFILL, &xm, wb, bias, false, &bm), 0);
    for (int64_t i = 0; i < (int64_t)rows * out; i++)
        assert_true(fabsf(a[i] - b[i]) <= 1e-5f * (float)in);
    /* A row's bits do not depend on the others: the last row alone. */
    float *one = ic_calloc((size_t)out, 4);
    ic_mat last = {x + (int64_t)(rows - 1) * in, IC_F32, 1, in, in},
           om = {one, IC_F32, 1, out, out};
    assert_int_equal(ic_op_gemm(library, IC_PREFILL, &last, wa, bias, false, &om), 0);
    assert_memory_equal(one, a + (int64_t)(rows - 1) * out, (size_t)out * 4);
    ic_weight_destroy(&wa), ic_weight_destroy(&wb);
    ic_free(x), ic_free(bias), ic_free(a), ic_free(b), ic_free(host), ic_free(stored), ic_free(one);
}

/* Products through the GEMM library agree with the reference, and their rows are independent. */
static void test_library(void **state)
{
    (void)state;
    ic_device *library = NULL, *plain = NULL;
    ic_device_config with = {.kind = "cpu", .threads = 2, .library = true};
    ic_device_config without = {.kind = "cpu", .threads = 1, .plain_loops = true};
    int rc = ic_device_open(&library, &with, NULL);
    if (rc == IC_EUNSUPPORTED) {
        print_message("skipped: this build has no GEMM library\n");
        return;
    }
    assert_int_equal(rc, 0);
    assert_int_equal(ic_device_open(&plain, &without, NULL), 0);
    assert_non_null(strstr(ic_device_info_of(library)->numerics, "dnnl"));
    static const int shapes[][3] = {{1, 64, 64},     {5, 33, 300},  {70, 128, 256},
                                    {130, 200, 513}, {515, 40, 70}, {3, 1100, 7}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int dtype = IC_F32; dtype <= IC_BF16; dtype++)
            check_library(library, plain, (ic_dtype)dtype, shapes[i][0], shapes[i][1],
                          shapes[i][2]);
    assert_true(ic_device_gemm_rate(library, IC_F32, 64, 128, 64, 0.01) > 0);
    ic_device_close(&library);
    ic_device_close(&plain);
}

/* The measured rates are rates: positive and not absurd. */
static void test_rates(void **state)
{
    (void)state;
    ic_device *d = NULL;
    assert_int_equal(ic_device_open(&d, &(ic_device_config){.kind = "cpu", .threads = 2}, NULL), 0);
    double read = ic_device_read_rate(d, 1 << 20, 0.01);
    double gemm = ic_device_gemm_rate(d, IC_F32, 16, 64, 64, 0.01);
    assert_true(read > 1e6 && read < 1e14);
    assert_true(gemm > 1e5 && gemm < 1e15);
    ic_device_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_refuses), cmocka_unit_test(test_info),
        cmocka_unit_test(test_memory),       cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_half_formats), cmocka_unit_test(test_exp),
        cmocka_unit_test(test_pool),         cmocka_unit_test(test_other_thread),
        cmocka_unit_test(test_library),      cmocka_unit_test(test_rates),
    };
    return IC_TEST_RUN(tests);
}
