/* Every operation of kernels/ic_ops.h against the same arithmetic in double precision, on the plain
 * loops and on what this machine does best, over odd shapes. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/ic_mem.h"
#include "ic_test.h"
#include "kernels/ic_half.h"
#include "kernels/ic_ops.h"

enum { DEVICES_MAX = 6 };
static ic_device *devices[DEVICES_MAX];
static int device_count; /* those that this machine has */
static uint32_t seed;

static float next_random(void) /* about uniform in (-1, 1) */
{
    seed = seed * 1664525u + 1013904223u;
    return (float)((int32_t)seed >> 8) / (float)(1 << 23);
}

static int open_devices(void **state)
{
    static const ic_device_config configs[DEVICES_MAX] = {
        {.kind = "cpu", .threads = 1, .plain_loops = true},
        {.kind = "cpu", .threads = 1},
        {.kind = "cpu", .threads = 3},
        {.kind = "cpu", .threads = 2, .instructions = "avx2"},
        {.kind = "cpu", .threads = 1, .instructions = "avx512"},
        {.kind = "cpu", .threads = 1, .instructions = "avx512-bf16"}};
    (void)state;
    seed = 12345;
    for (int i = device_count = 0; i < DEVICES_MAX; i++) {
        int rc = ic_device_open(&devices[device_count], &configs[i], NULL);
        if (rc && rc != IC_EUNSUPPORTED)
            return -1;
        device_count += rc == 0;
    }
    return 0;
}

static int close_devices(void **state)
{
    (void)state;
    for (int i = 0; i < device_count; i++)
        ic_device_close(&devices[i]);
    return 0;
}

/* A matrix of random numbers with `gap` unused columns; every device's memory is host memory here
 * only because the CPU backend's is. */
static ic_mat mat_new(int64_t rows, int64_t cols, int64_t gap)
{
    ic_mat m = {ic_try_alloc_aligned((size_t)(rows * (cols + gap)) * 4), IC_F32, rows, cols,
                cols + gap};
    for (int64_t i = 0; i < rows * m.stride; i++)
        ((float *)m.data)[i] = next_random();
    return m;
}

static ic_mat mat_copy(const ic_mat *m)
{
    ic_mat copy = *m;
    copy.data = ic_try_alloc_aligned((size_t)(m->rows * m->stride) * 4);
    memcpy(copy.data, m->data, (size_t)(m->rows * m->stride) * 4);
    return copy;
}

static void mat_free(ic_mat *m)
{
    ic_free(m->data);
    m->data = NULL;
}

static float *at(const ic_mat *m, int64_t row, int64_t col)
{
    return (float *)m->data + row * m->stride + col;
}

static void expect_near(double got, double want, double allowed, const char *what)
{
    if (fabs(got - want) <= allowed)
        return;
    fail_msg("%s: got %.9g, want %.9g, allowed difference %.3g", what, got, want, allowed);
}

/* --- products --- */

static const struct {
    int rows, in, out, gap;
} products[] = {{1, 1, 1, 0},    {1, 64, 64, 0},   {3, 7, 5, 1},     {2, 96, 130, 0},
                {17, 33, 66, 3}, {5, 1030, 63, 0}, {64, 128, 64, 0}, {13, 2048, 17, 0},
                {9, 72, 200, 8}, {515, 40, 70, 0}, {4, 3071, 33, 0}, {49, 1100, 192, 5}};

static void check_product(ic_device *d, ic_role role, ic_dtype from, ic_dtype compute, size_t shape,
                          bool bias, bool add)
{
    int rows = products[shape].rows, in = products[shape].in, out = products[shape].out;
    ic_mat x = mat_new(rows, in, products[shape].gap), y = mat_new(rows, out, products[shape].gap);
    ic_mat before = mat_copy(&y), b = mat_new(1, out, 0);
    void *host = ic_alloc((size_t)out * (size_t)in * 4);
    for (int64_t i = 0; i < (int64_t)out * in; i++)
        ic_dtype_put(from, host, i, next_random());
    ic_weight *w = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_weight_new(&w, d, host, from, compute, out, in, &e), &e);
    assert_int_equal(ic_op_gemm(d, role, &x, w, bias ? b.data : NULL, add, &y), 0);
    bool halves = compute == IC_BF16 && ic_device_info_of(d)->bf16_matmul;
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < out; o++) {
            double sum = 0, size = 0;
            for (int k = 0; k < in; k++) {
                float a = *at(&x, r, k), v = ic_dtype_get(from, host, (int64_t)o * in + k);
                a = halves ? ic_bf16_to_f32(ic_f32_to_bf16(a)) : a;
                v = compute == IC_BF16 ? ic_bf16_to_f32(ic_f32_to_bf16(v)) : v;
                sum += (double)a * v;
                size += fabs((double)a * v);
            }
            sum += (bias ? *at(&b, 0, o) : 0) + (add ? *at(&before, r, o) : 0);
            expect_near(*at(&y, r, o), sum, 1e-6 * (size + 2), "product");
        }
    for (int r = 0; r < rows; r++) /* nothing is written beside the matrix */
        for (int64_t c = out; c < y.stride; c++)
            assert_true(*at(&y, r, c) == *at(&before, r, c));
    ic_weight_destroy(&w);
    ic_free(host);
    mat_free(&x);
    mat_free(&y);
    mat_free(&before);
    mat_free(&b);
}

/* y = x W^T (+ bias) (+ y) for both roles, all dtypes of weights and both of products. */
static void test_gemm(void **state)
{
    (void)state;
    static const ic_role roles[] = {IC_PREFILL, IC_DECODE};
    for (int d = 0; d < device_count; d++)
        for (size_t s = 0; s < sizeof products / sizeof *products; s++)
            for (int role = 0; role < 2; role++)
                for (int from = 0; from < IC_DTYPE_COUNT; from++)
                    for (int compute = IC_F32; compute <= IC_BF16; compute++)
                        check_product(devices[d], roles[role], (ic_dtype)from, (ic_dtype)compute, s,
                                      (s + (size_t)from) % 2, (s + (size_t)role) % 2);
}

/* A weight in host memory that is not aligned to its elements is still multiplied right. */
static void test_gemm_unaligned(void **state)
{
    (void)state;
    char *host = ic_alloc(8 * 4 + 1);
    for (int i = 0; i < 8; i++)
        ic_dtype_put(IC_F32, host + 1, i, (float)i);
    for (int d = 0; d < device_count; d++) {
        ic_weight *w = NULL;
        float x[4] = {1, 2, 3, 4}, y[2];
        ic_mat xm = {x, IC_F32, 1, 4, 4}, ym = {y, IC_F32, 1, 2, 2};
        assert_int_equal(ic_weight_new(&w, devices[d], host + 1, IC_F32, IC_F32, 2, 4, NULL), 0);
        assert_int_equal(ic_op_gemm(devices[d], IC_DECODE, &xm, w, NULL, false, &ym), 0);
        assert_true(y[0] == 20 && y[1] == 60);
        ic_weight_destroy(&w);
    }
    ic_free(host);
}

/* A weight that is already in the device's form is borrowed, others are converted and counted. */
static void test_weight_memory(void **state)
{
    (void)state;
    _Alignas(64) static const float host[64 * 3] = {0};
    static const struct {
        ic_dtype from, compute;
        int64_t bytes, own;
    } cases[] = {{IC_BF16, IC_BF16, 384, 0},
                 {IC_F32, IC_F32, 768, 0},
                 {IC_F32, IC_BF16, 384, 384},
                 {IC_F16, IC_BF16, 384, 384}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ic_weight *w = NULL;
        assert_int_equal(
            ic_weight_new(&w, devices[1], host, cases[i].from, cases[i].compute, 3, 64, NULL), 0);
        assert_int_equal(ic_weight_bytes(w), cases[i].bytes);
        assert_int_equal(ic_weight_own_bytes(w), cases[i].own);
        ic_weight_destroy(&w);
    }
}

/* --- rows by themselves --- */

static const struct {
    int rows, cols, gap;
} shapes[] = {{1, 1, 0}, {1, 128, 0}, {3, 7, 2}, {5, 48, 0}, {70, 130, 6}, {2, 1152, 0}};

static void check_norms(ic_device *d, int rows, int cols, int gap)
{
    ic_mat x = mat_new(rows, cols, gap), y = mat_new(rows, cols, 0), z = mat_new(rows, cols, 0);
    ic_mat w = mat_new(1, cols, 0), b = mat_new(1, cols, 0);
    assert_int_equal(ic_op_rmsnorm(d, &x, w.data, cols, 1e-6f, &y), 0);
    assert_int_equal(ic_op_layernorm(d, &x, w.data, b.data, 1e-6f, &z), 0);
    for (int r = 0; r < rows; r++) {
        double sum = 0, squares = 0, spread = 0;
        for (int c = 0; c < cols; c++) {
            sum += *at(&x, r, c);
            squares += (double)*at(&x, r, c) * *at(&x, r, c);
        }
        double mean = sum / cols;
        for (int c = 0; c < cols; c++)
            spread += (*at(&x, r, c) - mean) * (*at(&x, r, c) - mean);
        for (int c = 0; c < cols; c++) {
            double rms = *at(&x, r, c) / sqrt(squares / cols + 1e-6f) * *at(&w, 0, c);
            double layer = (*at(&x, r, c) - mean) / sqrt(spread / cols + 1e-6f) * *at(&w, 0, c)
                           + *at(&b, 0, c);
            expect_near(*at(&y, r, c), rms, 1e-6 * (1 + fabs(rms)), "rmsnorm");
            expect_near(*at(&z, r, c), layer, cols == 1 ? 1e-3 : 2e-6 * (1 + fabs(layer)),
                        "layernorm");
        }
    }
    mat_free(&x), mat_free(&y), mat_free(&z), mat_free(&w), mat_free(&b);
}

/* rmsnorm and layernorm follow their formulas. */
static void test_norms(void **state)
{
    (void)state;
    for (int d = 0; d < device_count; d++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            check_norms(devices[d], shapes[s].rows, shapes[s].cols, shapes[s].gap);
}

/* rmsnorm over groups of columns (heads), in place, leaves what lies beside the matrix alone. */
static void test_rmsnorm_heads_in_place(void **state)
{
    (void)state;
    for (int d = 0; d < device_count; d++) {
        ic_mat x = mat_new(3, 4 * 24, 5), w = mat_new(1, 24, 0), before = mat_copy(&x);
        assert_int_equal(ic_op_rmsnorm(devices[d], &x, w.data, 24, 1e-5f, &x), 0);
        for (int r = 0; r < 3; r++) {
            for (int c = 0; c < 96; c++) {
                double squares = 0;
                for (int i = 0; i < 24; i++)
                    squares +=
                        (double)*at(&before, r, c / 24 * 24 + i) * *at(&before, r, c / 24 * 24 + i);
                double want = *at(&before, r, c) / sqrt(squares / 24 + 1e-5f) * *at(&w, 0, c % 24);
                expect_near(*at(&x, r, c), want, 1e-6 * (1 + fabs(want)), "rmsnorm of heads");
            }
            for (int c = 96; c < 101; c++)
                assert_true(*at(&x, r, c) == *at(&before, r, c));
        }
        mat_free(&x), mat_free(&w), mat_free(&before);
    }
}

static void check_activations(ic_device *d, int rows, int cols, int gap)
{
    ic_mat gu = mat_new(rows, 2 * cols, gap), y = mat_new(rows, cols, gap);
    ic_mat x = mat_new(rows, cols, gap), t = mat_new(rows, cols, 0), g = mat_new(rows, cols, 0);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) { /* small values, large ones, and both ends */
            *at(&gu, r, c) *= c % 3 ? 3 : 90;
            *at(&x, r, c) *= c % 3 == 0 ? 20 : c % 3 == 1 ? 3 : 1e-3f;
        }
    assert_int_equal(ic_op_swiglu(d, &gu, &y), 0);
    assert_int_equal(ic_op_gelu(d, &x, true, &t), 0);
    assert_int_equal(ic_op_gelu(d, &x, false, &g), 0);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) {
            double gate = *at(&gu, r, c), v = *at(&x, r, c);
            double swiglu = gate / (1 + exp(-gate)) * *at(&gu, r, c + cols);
            double u = sqrt(2 / M_PI) * (v + 0.044715 * v * v * v);
            double tanh_form = 0.5 * v * (1 + tanh(u)), erf_form = 0.5 * v * erfc(-v / sqrt(2));
            expect_near(*at(&y, r, c), swiglu, 1e-6 * fabs(swiglu) + 1e-12, "swiglu");
            expect_near(*at(&t, r, c), tanh_form, 3e-6 * fabs(tanh_form) + 1e-7, "gelu tanh");
            expect_near(*at(&g, r, c), erf_form, 1e-6 * fabs(erf_form) + 3e-7, "gelu erf");
        }
    mat_free(&gu), mat_free(&y), mat_free(&x), mat_free(&t), mat_free(&g);
}

/* swiglu and both forms of gelu follow their formulas, for small and large arguments. */
static void test_activations(void **state)
{
    (void)state;
    for (int d = 0; d < device_count; d++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            check_activations(devices[d], shapes[s].rows, shapes[s].cols, shapes[s].gap);
}

/* add, gather from a table of each dtype, and scatter in both forms move exactly the named rows. */
static void test_moves(void **state)
{
    (void)state;
    static const int32_t ids[] = {4, 0, 4, 2};
    static const int32_t to[] = {5, 0, 3, 1};
    for (int d = 0; d < device_count; d++)
        for (int dtype = 0; dtype < IC_DTYPE_COUNT; dtype++) {
            ic_mat x = mat_new(4, 19, 1), y = mat_new(6, 19, 2), before = mat_copy(&y);
            char *table = ic_alloc(5 * 19 * 4);
            for (int i = 0; i < 5 * 19; i++)
                ic_dtype_put((ic_dtype)dtype, table, i, next_random());
            ic_mat t = {table, (ic_dtype)dtype, 5, 19, 19}, g = mat_new(4, 19, 0);
            assert_int_equal(ic_op_gather(devices[d], &t, ids, &g), 0);
            for (int r = 0; r < 4; r++)
                for (int c = 0; c < 19; c++)
                    assert_true(*at(&g, r, c)
                                == ic_dtype_get((ic_dtype)dtype, table, ids[r] * 19 + c));
            assert_int_equal(ic_op_scatter(devices[d], &x, to, dtype == 0, &y), 0);
            for (int r = 0; r < 4; r++)
                for (int c = 0; c < 19; c++)
                    assert_true(*at(&y, to[r], c)
                                == *at(&x, r, c) + (dtype == 0 ? 0 : *at(&before, to[r], c)));
            for (int c = 0; c < 19; c++)
                assert_true(*at(&y, 2, c) == *at(&before, 2, c));
            ic_mat sum = mat_copy(&g);
            assert_int_equal(ic_op_add(devices[d], &x, &sum), 0);
            assert_true(*at(&sum, 3, 18) == *at(&g, 3, 18) + *at(&x, 3, 18));
            ic_free(table);
            mat_free(&x), mat_free(&y), mat_free(&before), mat_free(&g), mat_free(&sum);
        }
}

/* --- attention --- */

/* Rows of a session with text, a marker and vision groups, so that axes differ. */
static void some_rows(ic_row *rows, int count)
{
    for (int i = 0; i < count; i++) {
        int phase = i % 23;
        rows[i] = (ic_row){.ordinal = (uint32_t)i, .advance = 1};
        if (phase >= 5 && phase < 17) {
            rows[i].kind = IC_ROW_VISION;
            rows[i].group = (uint32_t)(1 + i / 23);
            rows[i].h = (uint16_t)((phase - 5) / 4);
            rows[i].w = (uint16_t)((phase - 5) % 4);
            rows[i].advance = 4;
        }
    }
}

typedef struct head_shape {
    int heads, kv_heads, dim;
    ic_dtype dtype;
} head_shape;

static const head_shape head_shapes[] = {
    {4, 2, 16, IC_F32}, {2, 2, 24, IC_BF16}, {8, 1, 64, IC_F16}, {6, 2, 128, IC_BF16},
    {3, 3, 10, IC_F32}, {2, 1, 256, IC_F32}, {16, 2, 72, IC_F32}};

/* Softmax attention of one query over keys [0, count) of a head, in double. */
static void reference_row(const ic_slab *s, int kv, const float *q, int count, const ic_rope *rope,
                          float scale, double *y)
{
    int dim = 2 * rope->half, slots = ic_slab_desc_of(s)->slots;
    int32_t *slot = ic_calloc((size_t)slots, sizeof *slot);
    ic_pos *pos = ic_calloc((size_t)slots, sizeof *pos);
    float *k = ic_calloc((size_t)dim, 4), *v = ic_calloc((size_t)dim, 4);
    double *score = ic_calloc((size_t)count, sizeof *score), max = -INFINITY, sum = 0;
    ic_slab_rows(s, 0, kv, NULL, slot, pos);
    for (int j = 0; j < count; j++) {
        ic_slab_read(s, 0, kv, slot[j], k, v);
        for (int i = 0; i < rope->half; i++) {
            const int32_t *pq = &pos[count - 1].t, *pk = &pos[j].t;
            /* Angles are f32 numbers, as in transformers. */
            float aq = (float)pq[rope->axis[i]] * rope->inv_freq[i];
            float ak = (float)pk[rope->axis[i]] * rope->inv_freq[i];
            double cq = cos(aq), sq = sin(aq), ck = cos(ak), sk = sin(ak);
            double q0 = q[i] * cq - q[i + rope->half] * sq, q1 = q[i + rope->half] * cq + q[i] * sq;
            double k0 = k[i] * ck - k[i + rope->half] * sk, k1 = k[i + rope->half] * ck + k[i] * sk;
            score[j] += (q0 * k0 + q1 * k1) * rope->scale * rope->scale * scale;
        }
        max = fmax(max, score[j]);
    }
    memset(y, 0, (size_t)dim * sizeof *y);
    for (int j = 0; j < count; j++) {
        double p = exp(score[j] - max);
        sum += p;
        ic_slab_read(s, 0, kv, slot[j], k, v);
        for (int i = 0; i < dim; i++)
            y[i] += p * v[i];
    }
    for (int i = 0; i < dim; i++)
        y[i] /= sum;
    ic_free(slot), ic_free(pos), ic_free(k), ic_free(v), ic_free(score);
}

static void fill_rope(ic_rope *rope, int half, float scale)
{
    static float inv_freq[128];
    static uint8_t axis[128];
    for (int i = 0; i < half; i++) {
        inv_freq[i] = powf(10000, -(float)i / (float)half);
        axis[i] = (uint8_t)(i % 4 % 3);
    }
    *rope = (ic_rope){half, inv_freq, axis, scale};
}

static ic_slab *filled_slab(ic_device *d, const head_shape *h, int count, int slots)
{
    ic_slab *s = NULL;
    ic_slab_desc desc = {1, h->kv_heads, h->dim, slots, h->dtype, h->dtype};
    ic_error e = {0};
    ic_assert_ok(ic_slab_new(&s, d, &desc, &e), &e);
    ic_row *rows = ic_calloc((size_t)count, sizeof *rows);
    some_rows(rows, count);
    ic_assert_ok(ic_slab_append(s, rows, count, &e), &e);
    ic_mat k = mat_new(count, (int64_t)h->kv_heads * h->dim, 0), v = mat_new(count, k.cols, 3);
    assert_int_equal(ic_slab_store(s, 0, count, 0, &k, &v), 0);
    ic_free(rows), mat_free(&k), mat_free(&v);
    return s;
}

static void check_rows(const ic_slab *s, const head_shape *h, const ic_mat *q, const ic_mat *y,
                       int64_t row, int sees, const ic_rope *rope, float scale)
{
    double want[256];
    int group = h->heads / h->kv_heads;
    for (int head = 0; head < h->heads; head++) {
        reference_row(s, head / group, at(q, row, head * h->dim), sees, rope, scale, want);
        for (int i = 0; i < h->dim; i++)
            expect_near(*at(y, row, head * h->dim + i), want[i], 4e-6, "attention");
    }
}

/* A prefill slice attends causally to what stands before it, whatever follows it. */
static void test_attention_prefill(void **state)
{
    (void)state;
    for (int d = 0; d < device_count; d++)
        for (size_t i = 0; i < sizeof head_shapes / sizeof *head_shapes; i++) {
            const head_shape *h = &head_shapes[i];
            ic_rope rope;
            fill_rope(&rope, h->dim / 2, i % 2 ? 1.0f : 0.9f);
            ic_slab *s = filled_slab(devices[d], h, 150, 160);
            int behind = i % 2 ? 4 : 0, rows = 75;
            ic_mat q = mat_new(rows, (int64_t)h->heads * h->dim, 5), y = mat_new(rows, q.cols, 2);
            assert_int_equal(
                ic_op_attention_prefill(devices[d], s, 0, h->heads, &q, behind, &rope, 0.3f, &y),
                0);
            for (int r = 0; r < rows; r += 13)
                check_rows(s, h, &q, &y, r, 150 - behind - rows + r + 1, &rope, 0.3f);
            mat_free(&q), mat_free(&y);
            ic_slab_destroy(&s);
        }
}

/* Decode attends from the last row of each session, short and long ones together. */
static void test_attention_decode(void **state)
{
    (void)state;
    static const int counts[] = {1, 64, 129};
    for (int d = 0; d < device_count; d++)
        for (size_t i = 0; i < sizeof head_shapes / sizeof *head_shapes; i++) {
            const head_shape *h = &head_shapes[i];
            ic_rope rope;
            ic_slab *slabs[3];
            fill_rope(&rope, h->dim / 2, 1);
            for (int n = 0; n < 3; n++)
                slabs[n] = filled_slab(devices[d], h, counts[n], 140);
            ic_mat q = mat_new(3, (int64_t)h->heads * h->dim, 0), y = mat_new(3, q.cols, 0);
            assert_int_equal(ic_op_attention_decode(devices[d], (const ic_slab *const *)slabs, 3, 0,
                                                    h->heads, &q, &rope, 0.25f, &y),
                             0);
            for (int n = 0; n < 3; n++) {
                check_rows(slabs[n], h, &q, &y, n, counts[n], &rope, 0.25f);
                ic_slab_destroy(&slabs[n]);
            }
            mat_free(&q), mat_free(&y);
        }
}

/* Attention after an eviction uses the survivors' compact positions. */
static void test_attention_after_eviction(void **state)
{
    (void)state;
    for (int d = 0; d < device_count; d++) {
        const head_shape *h = &head_shapes[0];
        ic_rope rope;
        fill_rope(&rope, h->dim / 2, 1);
        ic_slab *s = filled_slab(devices[d], h, 150, 160);
        assert_int_equal(ic_slab_evict(s, &(ic_plan){.budget = 80, .sinks = 3}, NULL), 0);
        int count = ic_slab_count(s, 0, 0);
        assert_in_range(count, 60, 80);
        ic_mat q = mat_new(1, (int64_t)h->heads * h->dim, 0), y = mat_new(1, q.cols, 0);
        assert_int_equal(ic_op_attention_decode(devices[d], (const ic_slab *const *)&s, 1, 0,
                                                h->heads, &q, &rope, 0.25f, &y),
                         0);
        check_rows(s, h, &q, &y, 0, count, &rope, 0.25f);
        mat_free(&q), mat_free(&y);
        ic_slab_destroy(&s);
    }
}

static void check_full(ic_device *d, const head_shape *h)
{
    static const int32_t starts[] = {0, 1, 71, 71, 290};
    int heads = h->heads, dim = h->dim;
    ic_mat q = mat_new(290, (int64_t)heads * dim, 4), k = mat_new(290, q.cols, 4);
    ic_mat v = mat_new(290, q.cols, 4), y = mat_new(290, q.cols, 0);
    assert_int_equal(ic_op_attention_full(d, &q, &k, &v, starts, 4, heads, 0.2f, &y), 0);
    for (int segment = 0; segment < 4; segment++)
        for (int r = starts[segment]; r < starts[segment + 1]; r += 9)
            for (int head = 0; head < heads; head++) {
                double score[300], want[256] = {0}, sum = 0;
                for (int j = starts[segment]; j < starts[segment + 1]; j++) {
                    score[j] = 0;
                    for (int i = head * dim; i < (head + 1) * dim; i++)
                        score[j] += 0.2f * (double)*at(&q, r, i) * *at(&k, j, i);
                    sum += exp(score[j]);
                }
                for (int j = starts[segment]; j < starts[segment + 1]; j++)
                    for (int i = 0; i < dim; i++)
                        want[i] += exp(score[j]) / sum * *at(&v, j, head * dim + i);
                for (int i = 0; i < dim; i++)
                    expect_near(*at(&y, r, head * dim + i), want[i], 4e-6, "full attention");
            }
    mat_free(&q), mat_free(&k), mat_free(&v), mat_free(&y);
}

/* Full attention stays inside its segments, empty ones and single patches included. */
static void test_attention_full(void **state)
{
    (void)state;
    for (int d = 0; d < device_count; d++)
        for (size_t i = 0; i < sizeof head_shapes / sizeof *head_shapes; i++)
            check_full(devices[d], &head_shapes[i]);
}

/* --- vision --- */

/* Patches come in merge blocks, their values channel by channel, frame by frame, normalised. */
static void test_patchify(void **state)
{
    (void)state;
    ic_patch_layout l = {4, 6, 3, 2, 2, {0.5f, 0.4f, 0.3f}, {0.5f, 0.25f, 0.2f}};
    int height = l.grid_h * l.patch, width = l.grid_w * l.patch;
    uint8_t *pixels[2];
    for (int t = 0; t < 2; t++) {
        pixels[t] = ic_alloc((size_t)(height * width * 3));
        for (int i = 0; i < height * width * 3; i++)
            pixels[t][i] = (uint8_t)(next_random() * 127 + 128);
    }
    for (int d = 0; d < device_count; d++) {
        ic_mat y = mat_new(24, 3 * 2 * 9, 1);
        assert_int_equal(ic_op_patchify(devices[d], &l, (const uint8_t *const *)pixels, &y), 0);
        int row = 0;
        for (int bh = 0; bh < 2; bh++)
            for (int bw = 0; bw < 3; bw++)
                for (int ih = 0; ih < 2; ih++)
                    for (int iw = 0; iw < 2; iw++, row++)
                        for (int i = 0; i < 54; i++) {
                            int c = i / 18, t = i / 9 % 2, dy = i / 3 % 3, dx = i % 3;
                            int py = (bh * 2 + ih) * 3 + dy, px = (bw * 2 + iw) * 3 + dx;
                            double v = pixels[t][(py * width + px) * 3 + c];
                            double want = (v / 255 - l.mean[c]) / l.std[c];
                            expect_near(*at(&y, row, i), want, 2e-6, "patchify");
                        }
        mat_free(&y);
    }
    ic_free(pixels[0]), ic_free(pixels[1]);
}

/* The position table is interpolated bilinearly to grids larger, smaller and one cell wide. */
static void test_vision_positions(void **state)
{
    (void)state;
    static const struct {
        int h, w, merge, side;
    } cases[] = {{4, 6, 2, 5}, {2, 8, 2, 3}, {1, 3, 1, 4}, {12, 12, 2, 4}};
    for (int d = 0; d < device_count; d++)
        for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
            ic_patch_layout l = {
                .grid_h = cases[n].h, .grid_w = cases[n].w, .merge = cases[n].merge};
            int side = cases[n].side;
            ic_mat table = mat_new(side * side, 21, 0), y = mat_new(l.grid_h * l.grid_w, 21, 0);
            ic_mat before = mat_copy(&y);
            assert_int_equal(ic_op_vision_positions(devices[d], &table, side, &l, &y), 0);
            int row = 0;
            for (int block = 0; block < l.grid_h * l.grid_w / (l.merge * l.merge); block++)
                for (int inner = 0; inner < l.merge * l.merge; inner++, row++) {
                    int wide = l.grid_w / l.merge;
                    double r = block / wide * l.merge + inner / l.merge;
                    double c = block % wide * l.merge + inner % l.merge;
                    r = l.grid_h > 1 ? r * (side - 1) / (l.grid_h - 1) : 0;
                    c = l.grid_w > 1 ? c * (side - 1) / (l.grid_w - 1) : 0;
                    for (int i = 0; i < 21; i++) {
                        double want = *at(&before, row, i);
                        for (int th = 0; th < side; th++)
                            for (int tw = 0; tw < side; tw++)
                                want += fmax(0, 1 - fabs(r - th)) * fmax(0, 1 - fabs(c - tw))
                                        * *at(&table, th * side + tw, i);
                        expect_near(*at(&y, row, i), want, 4e-6, "vision positions");
                    }
                }
            mat_free(&table), mat_free(&y), mat_free(&before);
        }
}

/* The first quarter of frequencies turns by the row, the second by the column. */
static void test_vision_rope(void **state)
{
    (void)state;
    ic_patch_layout l = {.grid_h = 4, .grid_w = 6, .merge = 2};
    int dim = 24, half = 12, quarter = 6;
    for (int d = 0; d < device_count; d++) {
        ic_mat q = mat_new(24, 3 * dim, 7), k = mat_new(24, 3 * dim, 0), was = mat_copy(&q);
        assert_int_equal(ic_op_vision_rope(devices[d], &l, 3, dim, 10000, &q, &k), 0);
        for (int row = 0; row < 24; row++)
            for (int i = 0; i < 3 * half; i++) {
                int f = i % half, first = i / half * dim + f;
                int h = row / 12 * 2 + row % 4 / 2, w = row / 4 % 3 * 2 + row % 2;
                double angle = (f < quarter ? h : w) * pow(10000, -(double)(f % quarter) / quarter);
                double a = *at(&was, row, first), b = *at(&was, row, first + half);
                expect_near(*at(&q, row, first), a * cos(angle) - b * sin(angle), 2e-6, "rope");
                expect_near(*at(&q, row, first + half), b * cos(angle) + a * sin(angle), 2e-6,
                            "rope");
            }
        mat_free(&q), mat_free(&k), mat_free(&was);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_gemm, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_gemm_unaligned, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_weight_memory, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_norms, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_rmsnorm_heads_in_place, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_activations, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_moves, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_attention_prefill, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_attention_decode, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_attention_after_eviction, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_attention_full, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_patchify, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_vision_positions, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_vision_rope, open_devices, close_devices),
    };
    return IC_TEST_RUN(tests);
}
