/* Every operation of the CUDA backend against the CPU's plain loops, as one table: odd sizes, one
 * row, sizes that do not divide the tiles, each dtype. Those on slabs: test_cuda_attention. An
 * error is measured against the largest value of the expected result, and may be so many units of
 * the coarsest format that the operation passes through. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/ic_mem.h"
#include "ic_test_cuda.h"
#include "kernels/ic_half.h"
#include "kernels/ic_ops.h"

static ic_device *cpu, *cuda;
static uint32_t seed;

static float next_random(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)((int32_t)seed >> 8) / (float)(1 << 23);
}

/* --- matrices on both sides --- */

typedef struct pair { /* the same content on the CPU and on the device */
    ic_mat cpu, cuda;
} pair;

/* rows x cols of a matrix that is `gap` columns wider. The device's in `dtype`; the CPU's is f32,
 * of the same values. */
static pair make(int64_t rows, int64_t cols, int gap, ic_dtype dtype)
{
    size_t count = (size_t)(rows * (cols + gap));
    float *values = ic_alloc(count * sizeof *values);
    char *narrow = ic_alloc(count * 4);
    for (size_t i = 0; i < count; i++) {
        ic_dtype_put(dtype, narrow, (int64_t)i, next_random());
        values[i] = ic_dtype_get(dtype, narrow, (int64_t)i);
    }
    pair p = {{values, IC_F32, rows, cols, cols + gap}, {NULL, dtype, rows, cols, cols + gap}};
    p.cuda.data = ic_device_alloc(cuda, count * ic_dtype_size(dtype));
    assert_non_null(p.cuda.data);
    assert_int_equal(ic_device_upload(cuda, p.cuda.data, narrow, count * ic_dtype_size(dtype)), 0);
    ic_free(narrow);
    return p;
}

static void drop(pair *p)
{
    ic_free(p->cpu.data);
    ic_device_free(cuda, p->cuda.data);
}

static float *on_cuda(const float *host, size_t count)
{
    float *to = ic_device_alloc(cuda, count * sizeof *host);
    assert_non_null(to);
    assert_int_equal(ic_device_upload(cuda, to, host, count * sizeof *host), 0);
    return to;
}

static double unit_of(ic_dtype dtype)
{
    return dtype == IC_F32 ? 0x1p-23 : dtype == IC_F16 ? 0x1p-10 : 0x1p-7;
}

/* Everything of the matrix is compared, the gaps between its rows as well: nobody may write there.
 * Prints a line of the table. */
static void compare(const char *name, const char *sizes, const pair *p, ic_dtype coarsest,
                    double units)
{
    size_t count = (size_t)(p->cpu.rows * p->cpu.stride);
    char *got = ic_alloc(count * 4);
    double largest = 0, worst = 0;
    assert_int_equal(
        ic_device_download(cuda, got, p->cuda.data, count * ic_dtype_size(p->cuda.dtype)), 0);
    for (size_t i = 0; i < count; i++) {
        double want = ((const float *)p->cpu.data)[i];
        double error = fabs((double)ic_dtype_get(p->cuda.dtype, got, (int64_t)i) - want);
        largest = fabs(want) > largest ? fabs(want) : largest;
        worst = error > worst || isnan(error) ? error : worst;
    }
    double unit =
        unit_of(coarsest) > unit_of(p->cuda.dtype) ? unit_of(coarsest) : unit_of(p->cuda.dtype);
    double in_units = worst / (unit * (largest > 0 ? largest : 1));
    printf("  %-18s %-22s %-4s %9.2e of the largest, %6.2f of %.1f units\n", name, sizes,
           ic_dtype_name(p->cuda.dtype), worst / (largest > 0 ? largest : 1), in_units, units);
    ic_free(got);
    assert_true(in_units <= units);
}

/* --- products --- */

typedef struct product_case {
    int rows, out, in;
    int gap; /* columns that x and y are wider than the product */
    ic_dtype stored, compute, x, y;
    bool bias, add;
} product_case;

/* Both sides multiply what the compute dtype makes of x and the weight. */
static void round_to(ic_dtype dtype, pair *p)
{
    float *v = p->cpu.data;
    char one[4];
    for (int64_t i = 0; i < p->cpu.rows * p->cpu.stride; i++) {
        ic_dtype_put(dtype, one, 0, v[i]);
        v[i] = ic_dtype_get(dtype, one, 0);
    }
}

static void check_product(const product_case *c)
{
    size_t count = (size_t)c->out * (size_t)c->in;
    char *weights = ic_alloc(count * 4);
    float *wide = ic_alloc(count * sizeof *wide), *bias = ic_calloc((size_t)c->out, sizeof *bias);
    char one[4];
    for (size_t i = 0; i < count; i++) {
        ic_dtype_put(c->stored, weights, (int64_t)i, next_random());
        ic_dtype_put(c->compute, one, 0, ic_dtype_get(c->stored, weights, (int64_t)i));
        wide[i] = ic_dtype_get(c->compute, one, 0);
    }
    for (int i = 0; i < c->out; i++)
        bias[i] = next_random();
    float *cuda_bias = on_cuda(bias, (size_t)c->out);
    pair x = make(c->rows, c->in, c->gap, c->x), y = make(c->rows, c->out, c->gap, c->y);
    round_to(c->compute, &x);
    ic_weight *a = NULL, *b = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_weight_new(&a, cpu, wide, IC_F32, IC_F32, c->out, c->in, &e), &e);
    ic_assert_ok(ic_weight_new(&b, cuda, weights, c->stored, c->compute, c->out, c->in, &e), &e);
    for (int decode = 0; decode < 2; decode++) {
        ic_role role = decode ? IC_DECODE : IC_PREFILL;
        assert_int_equal(ic_op_gemm(cpu, role, &x.cpu, a, c->bias ? bias : NULL, c->add, &y.cpu),
                         0);
        assert_int_equal(
            ic_op_gemm(cuda, role, &x.cuda, b, c->bias ? cuda_bias : NULL, c->add, &y.cuda), 0);
    }
    char sizes[64];
    snprintf(sizes, sizeof sizes, "%dx%dx%d%s%s %s", c->rows, c->out, c->in, c->bias ? " b" : "",
             c->add ? " +" : "", ic_dtype_name(c->compute));
    /* Both add up the same products in f32, in another order. */
    compare("product", sizes, &y, IC_F32, c->y == IC_F32 ? 16 + sqrt((double)c->in) : 2);
    ic_weight_destroy(&a);
    ic_weight_destroy(&b);
    ic_device_free(cuda, cuda_bias);
    ic_free(weights);
    ic_free(wide);
    ic_free(bias);
    drop(&x);
    drop(&y);
}

/* Products of one row to many, of sizes that fit no tile, agree in every dtype. */
static void products_agree(void **state)
{
    (void)state;
    static const product_case cases[] = {
        {1, 1, 1, 0, IC_F32, IC_F32, IC_F32, IC_F32, false, false},
        {1, 33, 65, 0, IC_F32, IC_F32, IC_F32, IC_F32, true, false},
        {5, 17, 130, 3, IC_F32, IC_F32, IC_F32, IC_F32, true, true},
        {37, 19, 50, 1, IC_F32, IC_F32, IC_F32, IC_F32, false, true},
        {1, 1, 1, 0, IC_BF16, IC_BF16, IC_F32, IC_F32, false, false},
        {1, 40, 96, 0, IC_BF16, IC_BF16, IC_F32, IC_F32, false, false},
        {1, 256, 1024, 0, IC_BF16, IC_BF16, IC_BF16, IC_F32, false, true},
        {3, 31, 1000, 8, IC_BF16, IC_BF16, IC_BF16, IC_BF16, true, false},
        {8, 48, 513, 5, IC_F32, IC_BF16, IC_F32, IC_F32, true, true},
        {9, 16, 77, 0, IC_BF16, IC_BF16, IC_F32, IC_F32, false, false},
        {16, 100, 2056, 0, IC_BF16, IC_BF16, IC_F32, IC_BF16, false, false},
        {17, 64, 128, 0, IC_BF16, IC_BF16, IC_BF16, IC_F32, true, true},
        {64, 96, 200, 8, IC_BF16, IC_BF16, IC_F32, IC_BF16, true, false},
        {100, 33, 77, 2, IC_F16, IC_BF16, IC_F32, IC_F32, false, true},
        {1, 33, 200, 0, IC_F16, IC_F16, IC_F32, IC_F32, false, false},
        {12, 40, 130, 0, IC_F16, IC_F16, IC_F16, IC_F16, true, false},
        {40, 24, 72, 0, IC_F16, IC_F16, IC_F32, IC_F32, true, true},
        {2, 24, 72, 0, IC_F16, IC_F32, IC_F32, IC_F32, false, false},
        {200, 24, 72, 0, IC_BF16, IC_F32, IC_F32, IC_F32, true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_product(&cases[i]);
}

/* --- rows --- */

typedef struct row_case {
    int rows, cols, gap;
    ic_dtype x, y;
} row_case;

static const row_case row_cases[] = {
    {1, 1, 0, IC_F32, IC_F32},     {1, 128, 0, IC_F32, IC_F32},  {3, 130, 7, IC_F32, IC_F32},
    {5, 1156, 4, IC_F32, IC_F32},  {2, 2051, 0, IC_F32, IC_F32}, {300, 64, 0, IC_F32, IC_BF16},
    {7, 1028, 12, IC_F32, IC_F16}, {4, 36, 4, IC_BF16, IC_BF16}, {9, 77, 1, IC_BF16, IC_F32},
    {6, 100, 0, IC_F16, IC_F16},
};
#define FOR_ROW_CASES(c)                                                                           \
    for (const row_case *c = row_cases; c < row_cases + sizeof row_cases / sizeof *row_cases; c++)

static const char *sizes_of(const row_case *c)
{
    static char text[64];
    snprintf(text, sizeof text, "%dx%d+%d %s", c->rows, c->cols, c->gap, ic_dtype_name(c->x));
    return text;
}

static void check_norms(const row_case *c, int dim)
{
    float weight[4096], bias[4096];
    for (int i = 0; i < c->cols; i++) {
        weight[i] = next_random();
        bias[i] = next_random();
    }
    float *w = on_cuda(weight, (size_t)c->cols), *b = on_cuda(bias, (size_t)c->cols);
    pair x = make(c->rows, c->cols, c->gap, c->x), y = make(c->rows, c->cols, c->gap, c->y);
    assert_int_equal(ic_op_rmsnorm(cpu, &x.cpu, weight, dim, 1e-6f, &y.cpu), 0);
    assert_int_equal(ic_op_rmsnorm(cuda, &x.cuda, w, dim, 1e-6f, &y.cuda), 0);
    compare("rmsnorm", sizes_of(c), &y, IC_F32, c->y == IC_F32 ? 16 : 1);
    assert_int_equal(ic_op_layernorm(cpu, &x.cpu, weight, bias, 1e-6f, &y.cpu), 0);
    assert_int_equal(ic_op_layernorm(cuda, &x.cuda, w, b, 1e-6f, &y.cuda), 0);
    compare("layernorm", sizes_of(c), &y, IC_F32, c->y == IC_F32 ? 16 : 1);
    assert_int_equal(ic_op_rmsnorm(cpu, &x.cpu, weight, dim, 1e-6f, &x.cpu), 0);
    assert_int_equal(ic_op_rmsnorm(cuda, &x.cuda, w, dim, 1e-6f, &x.cuda), 0);
    compare("rmsnorm in place", sizes_of(c), &x, IC_F32, c->x == IC_F32 ? 16 : 1);
    ic_device_free(cuda, w);
    ic_device_free(cuda, b);
    drop(&x);
    drop(&y);
}

/* Norms of whole rows, and of heads within a row, agree. */
static void norms_agree(void **state)
{
    (void)state;
    FOR_ROW_CASES(c)
    {
        check_norms(c, c->cols);
        if (c->cols % 4 == 0)
            check_norms(c, c->cols / 4);
    }
}

/* Activations agree, in place as well. */
static void activations_agree(void **state)
{
    (void)state;
    FOR_ROW_CASES(c)
    {
        pair x = make(c->rows, c->cols, c->gap, c->x), y = make(c->rows, c->cols, c->gap, c->y);
        for (int tanh_form = 0; tanh_form < 2; tanh_form++) {
            assert_int_equal(ic_op_gelu(cpu, &x.cpu, tanh_form, &y.cpu), 0);
            assert_int_equal(ic_op_gelu(cuda, &x.cuda, tanh_form, &y.cuda), 0);
            compare(tanh_form ? "gelu, tanh" : "gelu, erf", sizes_of(c), &y, IC_F32,
                    c->y == IC_F32 ? 16 : 1);
        }
        pair both = make(c->rows, 2 * (int64_t)c->cols, c->gap, c->x);
        assert_int_equal(ic_op_swiglu(cpu, &both.cpu, &y.cpu), 0);
        assert_int_equal(ic_op_swiglu(cuda, &both.cuda, &y.cuda), 0);
        compare("swiglu", sizes_of(c), &y, IC_F32, c->y == IC_F32 ? 16 : 1);
        drop(&both);
        drop(&x);
        drop(&y);
    }
}

/* Rows that are added, gathered and scattered come out as on the CPU, to the last bit. */
static void row_moves_agree(void **state)
{
    (void)state;
    static const int32_t ids[] = {4, 0, 6, 2, 5};
    FOR_ROW_CASES(c)
    {
        pair x = make(5, c->cols, c->gap, IC_F32), y = make(7, c->cols, c->gap, IC_F32);
        pair table = make(7, c->cols, c->gap, c->x);
        ic_mat to_cpu = y.cpu, to_cuda = y.cuda;
        to_cpu.rows = to_cuda.rows = 5;
        assert_int_equal(ic_op_gather(cpu, &table.cpu, ids, &to_cpu), 0);
        assert_int_equal(ic_op_gather(cuda, &table.cuda, ids, &to_cuda), 0);
        compare("gather", sizes_of(c), &y, IC_F32, 0);
        for (int set = 0; set < 2; set++) {
            assert_int_equal(ic_op_scatter(cpu, &x.cpu, ids, set, &y.cpu), 0);
            assert_int_equal(ic_op_scatter(cuda, &x.cuda, ids, set, &y.cuda), 0);
            compare(set ? "scatter =" : "scatter +", sizes_of(c), &y, IC_F32, 0);
        }
        assert_int_equal(ic_op_add(cpu, &x.cpu, &to_cpu), 0);
        assert_int_equal(ic_op_add(cuda, &x.cuda, &to_cuda), 0);
        compare("add", sizes_of(c), &y, IC_F32, 0);
        drop(&table);
        drop(&x);
        drop(&y);
    }
}

/* --- vision --- */

static void check_vision(const ic_patch_layout *l, int heads, int head_dim, int side)
{
    int patches = l->grid_h * l->grid_w, values = 3 * l->temporal * l->patch * l->patch;
    size_t bytes = (size_t)patches * (size_t)(l->patch * l->patch) * 3;
    uint8_t *pixels = ic_alloc(bytes * 2);
    for (size_t i = 0; i < bytes * 2; i++)
        pixels[i] = (uint8_t)(next_random() * 128 + 128);
    const uint8_t *const frames[2] = {pixels, pixels + bytes};
    char sizes[64];
    snprintf(sizes, sizeof sizes, "%dx%d of %d, %d", l->grid_h, l->grid_w, l->patch, l->temporal);
    for (int dtype = 0; dtype < IC_DTYPE_COUNT; dtype++) {
        pair y = make(patches, values, 3, dtype == IC_F16 ? IC_F16 : (ic_dtype)dtype);
        assert_int_equal(ic_op_patchify(cpu, l, frames, &y.cpu), 0);
        assert_int_equal(ic_op_patchify(cuda, l, frames, &y.cuda), 0);
        compare("patches", sizes, &y, IC_F32, dtype == IC_F32 ? 0 : 0.5);
        drop(&y);
        pair q = make(patches, heads * head_dim, 5, (ic_dtype)dtype);
        pair k = make(patches, heads * head_dim, 1, (ic_dtype)dtype);
        assert_int_equal(ic_op_vision_rope(cpu, l, heads, head_dim, 1e4f, &q.cpu, &k.cpu), 0);
        assert_int_equal(ic_op_vision_rope(cuda, l, heads, head_dim, 1e4f, &q.cuda, &k.cuda), 0);
        compare("vision rotation, q", sizes, &q, IC_F32, dtype == IC_F32 ? 4 : 1);
        compare("vision rotation, k", sizes, &k, IC_F32, dtype == IC_F32 ? 4 : 1);
        drop(&q);
        drop(&k);
        pair table = make((int64_t)side * side, 39, 0, (ic_dtype)dtype);
        pair x = make(patches, 39, 2, IC_F32);
        assert_int_equal(ic_op_vision_positions(cpu, &table.cpu, side, l, &x.cpu), 0);
        assert_int_equal(ic_op_vision_positions(cuda, &table.cuda, side, l, &x.cuda), 0);
        compare("vision positions", sizes, &x, IC_F32, 4);
        drop(&table);
        drop(&x);
    }
    ic_free(pixels);
}

/* Patches come out to the last bit; their positions and rotation agree, on square and odd grids. */
static void vision_agrees(void **state)
{
    (void)state;
    const ic_patch_layout qwen = {4, 6, 16, 2, 2, {0.5f, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f}};
    const ic_patch_layout odd = {3, 5, 7, 1, 1, {0.48f, 0.45f, 0.4f}, {0.27f, 0.26f, 0.28f}};
    const ic_patch_layout thin = {2, 14, 14, 2, 2, {0.1f, 0.2f, 0.3f}, {1, 2, 3}};
    check_vision(&qwen, 2, 72, 48);
    check_vision(&odd, 3, 16, 4);
    check_vision(&thin, 1, 8, 5);
}

/* --- the device itself --- */

/* What goes up comes down, in sizes around those of the pieces in which it travels. */
static void copies_come_back(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 4097, (8 << 20) - 1, 8 << 20, (16 << 20) + 5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *from = ic_alloc(sizes[i]), *to = ic_alloc(sizes[i]);
        for (size_t n = 0; n < sizes[i]; n++)
            from[n] = (unsigned char)(n * 7 + n / 251);
        void *memory = ic_device_alloc(cuda, sizes[i]);
        assert_non_null(memory);
        assert_int_equal(ic_device_download(cuda, to, memory, sizes[i]), 0);
        for (size_t n = 0; n < sizes[i]; n++)
            assert_int_equal(to[n], 0); /* granted memory is zeroed */
        assert_int_equal(ic_device_upload(cuda, memory, from, sizes[i]), 0);
        assert_int_equal(ic_device_download(cuda, to, memory, sizes[i]), 0);
        assert_memory_equal(from, to, sizes[i]);
        ic_device_free(cuda, memory);
        ic_free(from);
        ic_free(to);
    }
}

/* More memory than the device may give is refused, and the device goes on. */
static void too_much_memory_is_refused(void **state)
{
    (void)state;
    assert_null(ic_device_alloc(cuda, ic_device_info_of(cuda)->memory_bytes + 1));
    assert_null(ic_device_alloc(cuda, SIZE_MAX - 64));
    assert_string_equal(ic_device_trouble(cuda), "");
    void *memory = ic_device_alloc(cuda, 1000);
    assert_non_null(memory);
    ic_device_free(cuda, memory);
}

static int open_devices(void **state)
{
    seed = 7;
    if (ic_test_group_setup(state))
        return -1;
    cuda = ic_test_cuda_open(0);
    ic_device_config plain = {.kind = "cpu", .threads = 1, .plain_loops = true};
    return cuda ? ic_device_open(&cpu, &plain, NULL) : -1;
}

static int close_devices(void **state)
{
    ic_device_close(&cpu);
    ic_device_close(&cuda);
    return ic_test_group_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_come_back),  cmocka_unit_test(too_much_memory_is_refused),
        cmocka_unit_test(row_moves_agree),   cmocka_unit_test(norms_agree),
        cmocka_unit_test(activations_agree), cmocka_unit_test(products_agree),
        cmocka_unit_test(vision_agrees),
    };
    return ic_test_cuda_is_there() ? cmocka_run_group_tests(tests, open_devices, close_devices)
                                   : IC_TEST_SKIPPED;
}
