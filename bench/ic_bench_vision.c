/* The vision tower of ic_bench_towers.h: Qwen3-VL's, over pairs of frames. */
#include <math.h>
#include <string.h>

#include "base/ic_mem.h"
#include "bench/ic_bench_towers.h"

enum {
    PATCH = 16,
    TEMPORAL = 2,
    MERGE = 2,
    UNIT = MERGE * MERGE,
    VALUES = 3 * TEMPORAL * PATCH * PATCH,
    SIDE = 48 /* of the table of learned positions */
};

static int64_t patches_of(const ic_bench_vision *v)
{
    return (int64_t)v->s.grid * v->s.grid;
}

static size_t frame_bytes(const ic_bench_vision *v)
{
    return (size_t)patches_of(v) * PATCH * PATCH * 3;
}

static int made_up(ic_bench_vision *v, ic_weight **w, int64_t out, int64_t in, ic_error *e)
{
    return ic_weight_new(w, v->d, NULL, IC_BF16, IC_BF16, out, in, e);
}

static int make_weights(ic_bench_vision *v, ic_error *e)
{
    int64_t hidden = v->s.vision_hidden, inter = v->s.vision_inter, merged = hidden * UNIT;
    int rc = made_up(v, &v->patch, hidden, VALUES, e);
    for (int i = 0; rc == 0 && i < v->s.depth; i++) {
        ic_bench_layer *b = &v->blocks[i];
        rc = made_up(v, &b->qkv, 3 * hidden, hidden, e);
        rc = rc ? rc : made_up(v, &b->o, hidden, hidden, e);
        rc = rc ? rc : made_up(v, &b->gate_up, inter, hidden, e);
        rc = rc ? rc : made_up(v, &b->down, hidden, inter, e);
    }
    for (int i = 0; rc == 0 && i <= IC_BENCH_DEEPSTACK; i++) {
        rc = made_up(v, &v->fc1[i], merged, merged, e);
        rc = rc ? rc : made_up(v, &v->fc2[i], v->s.hidden, merged, e);
    }
    double block = (double)(4 * hidden * hidden + 2 * hidden * inter);
    double merger = (double)(merged * merged + merged * v->s.hidden) / UNIT;
    v->product_flops = 2.0 * (double)patches_of(v)
                       * ((double)VALUES * (double)hidden + v->s.depth * block
                          + (1 + IC_BENCH_DEEPSTACK) * merger);
    return rc;
}

static int make_mat(ic_device *d, ic_mat *m, ic_dtype dtype, int64_t rows, int64_t cols,
                    ic_error *e)
{
    *m = (ic_mat){NULL, dtype, rows, cols, cols};
    m->data = ic_device_alloc(d, (size_t)(rows * cols) * ic_dtype_size(dtype));
    return m->data ? 0 : ic_error_set(e, IC_ENOMEM, "no memory for %lld rows", (long long)rows);
}

static int make_vector(ic_device *d, float **v, size_t n, float value, ic_error *e)
{
    float *host = ic_calloc(n, sizeof *host);
    for (size_t i = 0; i < n; i++)
        host[i] = value;
    *v = ic_device_alloc(d, n * sizeof *host);
    int rc = *v ? ic_device_upload(d, *v, host, n * sizeof *host) : IC_ENOMEM;
    ic_free(host);
    return rc ? ic_error_set(e, rc, "no memory for a vector") : 0;
}

static int make_rooms(ic_bench_vision *v, ic_error *e)
{
    int64_t hidden = v->s.vision_hidden, rows = v->pairs_max * patches_of(v);
    int64_t tokens = rows / UNIT * (1 + IC_BENCH_DEEPSTACK);
    int64_t wide = 3 * hidden > VALUES ? 3 * hidden : VALUES;
    int rc = make_mat(v->d, &v->x, IC_F32, rows, hidden, e);
    rc = rc ? rc : make_mat(v->d, &v->normed, IC_BF16, rows, hidden, e);
    rc = rc ? rc : make_mat(v->d, &v->wide, IC_F32, rows, wide, e);
    rc = rc ? rc : make_mat(v->d, &v->attended, IC_F32, rows, hidden, e);
    rc = rc ? rc : make_mat(v->d, &v->middle, IC_BF16, rows, v->s.vision_inter, e);
    rc = rc ? rc : make_mat(v->d, &v->tokens, IC_F32, tokens, v->s.hidden, e);
    size_t longest = (size_t)(hidden * UNIT);
    rc = rc ? rc : make_vector(v->d, &v->ones, longest, 1, e);
    rc = rc ? rc : make_vector(v->d, &v->zeros, longest, 0, e);
    return rc ? rc
              : make_vector(v->d, &v->positions, (size_t)SIDE * SIDE * (size_t)hidden, 0.01f, e);
}

int ic_bench_vision_new(ic_bench_vision *v, ic_device *d, const ic_bench_shape *s, int pairs_max,
                        ic_error *e)
{
    *v = (ic_bench_vision){.d = d, .s = *s, .pairs_max = pairs_max};
    v->blocks = ic_calloc((size_t)s->depth, sizeof *v->blocks);
    v->pixels = ic_alloc(2 * frame_bytes(v));
    for (size_t i = 0; i < 2 * frame_bytes(v); i++)
        v->pixels[i] = (uint8_t)(i * 7 + i / 1344 * 3);
    int rc = make_rooms(v, e);
    return rc ? rc : make_weights(v, e);
}

void ic_bench_vision_fini(ic_bench_vision *v)
{
    if (!v->d)
        return;
    void *memory[] = {v->x.data,        v->normed.data, v->wide.data,
                      v->attended.data, v->middle.data, v->tokens.data,
                      v->ones,          v->zeros,       v->positions};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        ic_device_free(v->d, memory[i]);
    for (int i = 0; i < v->s.depth; i++) {
        ic_weight_destroy(&v->blocks[i].qkv);
        ic_weight_destroy(&v->blocks[i].o);
        ic_weight_destroy(&v->blocks[i].gate_up);
        ic_weight_destroy(&v->blocks[i].down);
    }
    for (int i = 0; i <= IC_BENCH_DEEPSTACK; i++) {
        ic_weight_destroy(&v->fc1[i]);
        ic_weight_destroy(&v->fc2[i]);
    }
    ic_weight_destroy(&v->patch);
    ic_free(v->blocks);
    ic_free(v->pixels);
    *v = (ic_bench_vision){0};
}

/* --- the pass --- */

/* The same memory with rows of another width. */
static ic_mat shaped(const ic_mat *m, int64_t rows, int64_t cols)
{
    return (ic_mat){m->data, m->dtype, rows, cols, cols};
}

static ic_mat columns(const ic_mat *m, int64_t first_row, int64_t rows, int64_t first, int64_t cols)
{
    char *at = (char *)m->data + (size_t)(first_row * m->stride + first) * ic_dtype_size(m->dtype);
    return (ic_mat){at, m->dtype, rows, cols, m->stride};
}

static ic_patch_layout layout_of(const ic_bench_vision *v)
{
    return (ic_patch_layout){v->s.grid,          v->s.grid,         PATCH, TEMPORAL, MERGE,
                             {0.5f, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f}};
}

static int embed(ic_bench_vision *v, int pairs, ic_mat *x)
{
    const uint8_t *const frames[TEMPORAL] = {v->pixels, v->pixels + frame_bytes(v)};
    ic_patch_layout layout = layout_of(v);
    int64_t n = patches_of(v);
    ic_mat pixels = shaped(&v->wide, x->rows, VALUES);
    ic_mat table = {v->positions, IC_F32, (int64_t)SIDE * SIDE, x->cols, x->cols};
    int rc = 0;
    for (int i = 0; rc == 0 && i < pairs; i++) {
        ic_mat y = columns(&pixels, i * n, n, 0, VALUES);
        rc = ic_op_patchify(v->d, &layout, frames, &y);
    }
    rc = rc ? rc : ic_op_gemm(v->d, IC_PREFILL, &pixels, v->patch, v->ones, false, x);
    for (int i = 0; rc == 0 && i < pairs; i++) {
        ic_mat y = columns(x, i * n, n, 0, x->cols);
        rc = ic_op_vision_positions(v->d, &table, SIDE, &layout, &y);
    }
    return rc;
}

static int attend(ic_bench_vision *v, int pairs, const ic_mat *qkv, ic_mat *y)
{
    int64_t hidden = y->cols;
    int heads = v->s.vision_heads, head_dim = (int)hidden / heads, rc = 0;
    ic_patch_layout layout = layout_of(v);
    int64_t n = patches_of(v);
    int32_t *starts = ic_calloc((size_t)pairs + 1, sizeof *starts);
    for (int i = 0; i <= pairs; i++)
        starts[i] = (int32_t)(i * n);
    for (int i = 0; rc == 0 && i < pairs; i++) {
        ic_mat q = columns(qkv, starts[i], n, 0, hidden);
        ic_mat k = columns(qkv, starts[i], n, hidden, hidden);
        rc = ic_op_vision_rope(v->d, &layout, heads, head_dim, 1e4f, &q, &k);
    }
    ic_mat q = columns(qkv, 0, y->rows, 0, hidden), k = columns(qkv, 0, y->rows, hidden, hidden);
    ic_mat value = columns(qkv, 0, y->rows, 2 * hidden, hidden);
    if (rc == 0)
        rc = ic_op_attention_full(v->d, &q, &k, &value, starts, pairs, heads,
                                  1 / sqrtf((float)head_dim), y);
    ic_free(starts);
    return rc;
}

static int run_block(ic_bench_vision *v, const ic_bench_layer *b, int pairs, ic_mat *x)
{
    int64_t hidden = x->cols;
    ic_mat normed = shaped(&v->normed, x->rows, hidden),
           qkv = shaped(&v->wide, x->rows, 3 * hidden);
    ic_mat attended = shaped(&v->attended, x->rows, hidden);
    ic_mat middle = shaped(&v->middle, x->rows, v->s.vision_inter);
    int rc = ic_op_layernorm(v->d, x, v->ones, v->zeros, 1e-6f, &normed);
    rc = rc ? rc : ic_op_gemm(v->d, IC_PREFILL, &normed, b->qkv, v->ones, false, &qkv);
    rc = rc ? rc : attend(v, pairs, &qkv, &attended);
    rc = rc ? rc : ic_op_gemm(v->d, IC_PREFILL, &attended, b->o, v->zeros, true, x);
    rc = rc ? rc : ic_op_layernorm(v->d, x, v->ones, v->zeros, 1e-6f, &normed);
    rc = rc ? rc : ic_op_gemm(v->d, IC_PREFILL, &normed, b->gate_up, NULL, false, &middle);
    rc = rc ? rc : ic_op_gelu(v->d, &middle, true, &middle);
    return rc ? rc : ic_op_gemm(v->d, IC_PREFILL, &middle, b->down, v->zeros, true, x);
}

static int merge(ic_bench_vision *v, int level, const ic_mat *x)
{
    int64_t rows = x->rows / UNIT, merged = x->cols * UNIT;
    ic_mat x4 = shaped(x, rows, merged), normed = shaped(&v->normed, rows, merged);
    ic_mat middle = shaped(&v->wide, rows, merged);
    ic_mat y = columns(&v->tokens, level * rows, rows, 0, v->tokens.cols);
    int rc = ic_op_layernorm(v->d, &x4, v->ones, v->zeros, 1e-6f, &normed);
    rc = rc ? rc : ic_op_gemm(v->d, IC_PREFILL, &normed, v->fc1[level], v->ones, false, &middle);
    rc = rc ? rc : ic_op_gelu(v->d, &middle, false, &middle);
    return rc ? rc : ic_op_gemm(v->d, IC_PREFILL, &middle, v->fc2[level], NULL, false, &y);
}

int ic_bench_vision_encode(ic_bench_vision *v, int pairs, ic_error *e)
{
    ic_mat x = shaped(&v->x, pairs * patches_of(v), v->s.vision_hidden);
    int rc = embed(v, pairs, &x), level = 1;
    for (int i = 0; rc == 0 && i < v->s.depth; i++) {
        rc = run_block(v, &v->blocks[i], pairs, &x);
        if (rc == 0 && level <= IC_BENCH_DEEPSTACK && (i + 1) % (v->s.depth / 4 + 1) == 0)
            rc = merge(v, level++, &x);
    }
    rc = rc ? rc : merge(v, 0, &x);
    if (rc == 0)
        return 0;
    const char *why = ic_device_trouble(v->d);
    return ic_error_set(e, rc, "the vision tower failed: %s", *why ? why : ic_err_name(rc));
}
