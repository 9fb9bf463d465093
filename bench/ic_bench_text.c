/* The text tower of ic_bench_towers.h. */
#include <math.h>
#include <string.h>

#include "base/ic_mem.h"
#include "bench/ic_bench_towers.h"

static int make_weight(ic_bench_text *t, ic_weight **w, int64_t out, int64_t in, ic_error *e)
{
    int rc = ic_weight_new(w, t->d, NULL, IC_BF16, IC_BF16, out, in, e);
    if (rc == 0)
        t->weight_bytes += ic_weight_bytes(*w);
    return rc;
}

static int make_layer(ic_bench_text *t, ic_bench_layer *l, ic_error *e)
{
    const ic_bench_shape *s = &t->s;
    int64_t q = (int64_t)s->heads * s->head_dim, kv = (int64_t)s->kv_heads * s->head_dim;
    int rc = make_weight(t, &l->qkv, q + 2 * kv, s->hidden, e);
    rc = rc ? rc : make_weight(t, &l->o, s->hidden, q, e);
    rc = rc ? rc : make_weight(t, &l->gate_up, 2 * (int64_t)s->inter, s->hidden, e);
    rc = rc ? rc : make_weight(t, &l->down, s->hidden, s->inter, e);
    t->product_flops += 2.0 * s->hidden * (double)(2 * q + 2 * kv + 3 * (int64_t)s->inter);
    return rc;
}

static int make_mat(ic_device *d, ic_mat *m, ic_dtype dtype, int64_t rows, int64_t cols,
                    ic_error *e)
{
    dtype = ic_device_info_of(d)->half_activations ? dtype : IC_F32;
    *m = (ic_mat){NULL, dtype, rows, cols, cols};
    m->data = ic_device_alloc(d, (size_t)(rows * cols) * ic_dtype_size(dtype));
    return m->data ? 0 : ic_error_set(e, IC_ENOMEM, "no memory for %lld rows", (long long)rows);
}

static int make_vector(ic_device *d, float **v, int n, float value, ic_error *e)
{
    float *host = ic_calloc((size_t)n, sizeof *host);
    for (int i = 0; i < n; i++)
        host[i] = value;
    *v = ic_device_alloc(d, (size_t)n * sizeof *host);
    int rc = *v ? ic_device_upload(d, *v, host, (size_t)n * sizeof *host) : IC_ENOMEM;
    ic_free(host);
    return rc ? ic_error_set(e, rc, "no memory for a vector") : 0;
}

/* The embeddings that rows begin with: some rows of either sign. */
enum { TABLE_ROWS = 64 };

static int make_table(ic_bench_text *t, ic_error *e)
{
    int hidden = t->s.hidden;
    int rc = make_mat(t->d, &t->table, IC_F32, TABLE_ROWS, hidden, e);
    float *host = ic_calloc((size_t)TABLE_ROWS * (size_t)hidden, sizeof *host);
    for (int i = 0; i < TABLE_ROWS * hidden; i++)
        host[i] = sinf((float)i * 0.7f) * 0.02f;
    if (rc == 0)
        rc = ic_device_upload(t->d, t->table.data, host,
                              (size_t)TABLE_ROWS * (size_t)hidden * sizeof *host);
    ic_free(host);
    return rc;
}

static int make_rooms(ic_bench_text *t, ic_error *e)
{
    const ic_bench_shape *s = &t->s;
    int64_t q = (int64_t)s->heads * s->head_dim, kv = (int64_t)s->kv_heads * s->head_dim;
    int64_t n = t->rows_max;
    int rc = make_mat(t->d, &t->x, IC_F32, n, s->hidden, e);
    rc = rc ? rc : make_mat(t->d, &t->normed, IC_BF16, n, s->hidden, e);
    rc = rc ? rc : make_mat(t->d, &t->qkv, IC_F32, n, q + 2 * kv, e);
    rc = rc ? rc : make_mat(t->d, &t->attended, IC_F32, n, q, e);
    rc = rc ? rc : make_mat(t->d, &t->gate_up, IC_BF16, n, 2 * (int64_t)s->inter, e);
    rc = rc ? rc : make_mat(t->d, &t->gated, IC_BF16, n, s->inter, e);
    rc = rc ? rc : make_mat(t->d, &t->logits, IC_F32, t->wanted_max, s->vocab, e);
    rc = rc ? rc : make_vector(t->d, &t->ones, s->hidden + s->head_dim, 1, e);
    return rc ? rc : make_table(t, e);
}

int ic_bench_text_new(ic_bench_text *t, ic_device *d, const ic_bench_shape *s, int rows_max,
                      int wanted_max, ic_error *e)
{
    *t = (ic_bench_text){.d = d, .s = *s, .rows_max = rows_max, .wanted_max = wanted_max};
    t->layers = ic_calloc((size_t)s->layers, sizeof *t->layers);
    t->inv_freq = ic_calloc((size_t)s->head_dim, sizeof *t->inv_freq);
    t->axis = ic_alloc((size_t)s->head_dim);
    for (int i = 0; i < s->head_dim / 2; i++) {
        t->inv_freq[i] = powf(5e6f, -2.0f * (float)i / (float)s->head_dim);
        t->axis[i] = (uint8_t)(i < 60 ? i % 3 : 0); /* interleaved, as Qwen3-VL has it */
    }
    int rc = make_rooms(t, e);
    for (int i = 0; rc == 0 && i < s->layers; i++)
        rc = make_layer(t, &t->layers[i], e);
    return rc ? rc : make_weight(t, &t->head, s->vocab, s->hidden, e);
}

static void layers_fini(ic_bench_layer *layers, int n)
{
    for (int i = 0; layers && i < n; i++) {
        ic_weight_destroy(&layers[i].qkv);
        ic_weight_destroy(&layers[i].o);
        ic_weight_destroy(&layers[i].gate_up);
        ic_weight_destroy(&layers[i].down);
    }
    ic_free(layers);
}

void ic_bench_text_fini(ic_bench_text *t)
{
    if (!t->d)
        return;
    void *memory[] = {t->table.data,   t->x.data,     t->normed.data, t->qkv.data, t->attended.data,
                      t->gate_up.data, t->gated.data, t->logits.data, t->ones};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        ic_device_free(t->d, memory[i]);
    layers_fini(t->layers, t->s.layers);
    ic_weight_destroy(&t->head);
    ic_free(t->inv_freq);
    ic_free(t->axis);
    *t = (ic_bench_text){0};
}

int ic_bench_text_slab(const ic_bench_text *t, int slots, ic_score_kind score, ic_slab **out,
                       ic_error *e)
{
    ic_slab_desc desc = {t->s.layers, t->s.kv_heads, t->s.head_dim, slots, IC_BF16, IC_BF16};
    int rc = ic_slab_new(out, t->d, &desc, e);
    return rc ? rc : ic_slab_keep_scores(*out, score, 0, e);
}

/* --- passes --- */

static ic_mat part(const ic_mat *m, int64_t rows, int64_t first, int64_t cols)
{
    char *at = (char *)m->data + (size_t)first * ic_dtype_size(m->dtype);
    return (ic_mat){at, m->dtype, rows, cols, m->stride};
}

typedef struct pass {
    ic_bench_text *t;
    ic_role role;
    int rows, window;
    ic_slab *const *slabs; /* of decode: one per row; else the one */
} pass;

static int store(const pass *p, int index, const ic_mat *k, const ic_mat *v)
{
    if (p->role == IC_PREFILL)
        return ic_slab_store(p->slabs[0], index, p->rows, 0, k, v);
    return ic_slab_store_each(p->slabs, p->rows, index, k, v);
}

static int attend(const pass *p, int index, const ic_mat *q, ic_mat *y)
{
    ic_bench_text *t = p->t;
    ic_rope rope = {t->s.head_dim / 2, t->inv_freq, t->axis, 1};
    float scale = 1.0f / sqrtf((float)t->s.head_dim);
    const ic_slab *const *slabs = (const ic_slab *const *)p->slabs;
    if (p->role == IC_DECODE && t->rotated)
        return ic_op_attention_decode_rotated(t->d, slabs, p->rows, index, t->s.heads, q, &rope,
                                              scale, y);
    if (p->role == IC_DECODE)
        return ic_op_attention_decode(t->d, slabs, p->rows, index, t->s.heads, q, &rope, scale, y);
    return ic_op_attention_prefill_scored(t->d, p->slabs[0], index, t->s.heads, q, 0, &rope, scale,
                                          p->window, y);
}

static int run_layer(const pass *p, int index)
{
    ic_bench_text *t = p->t;
    const ic_bench_shape *s = &t->s;
    const ic_bench_layer *l = &t->layers[index];
    int64_t q_cols = (int64_t)s->heads * s->head_dim, kv_cols = (int64_t)s->kv_heads * s->head_dim;
    ic_mat x = part(&t->x, p->rows, 0, s->hidden), normed = part(&t->normed, p->rows, 0, s->hidden);
    ic_mat qkv = part(&t->qkv, p->rows, 0, t->qkv.cols), q = part(&t->qkv, p->rows, 0, q_cols);
    ic_mat k = part(&t->qkv, p->rows, q_cols, kv_cols);
    ic_mat v = part(&t->qkv, p->rows, q_cols + kv_cols, kv_cols);
    ic_mat attended = part(&t->attended, p->rows, 0, q_cols);
    ic_mat both = part(&t->gate_up, p->rows, 0, t->gate_up.cols);
    ic_mat gated = part(&t->gated, p->rows, 0, s->inter);
    int rc = ic_op_rmsnorm(t->d, &x, t->ones, s->hidden, 1e-6f, &normed);
    rc = rc ? rc : ic_op_gemm(t->d, p->role, &normed, l->qkv, NULL, false, &qkv);
    rc = rc ? rc : ic_op_rmsnorm(t->d, &q, t->ones, s->head_dim, 1e-6f, &q);
    rc = rc ? rc : ic_op_rmsnorm(t->d, &k, t->ones, s->head_dim, 1e-6f, &k);
    rc = rc ? rc : store(p, index, &k, &v);
    rc = rc ? rc : attend(p, index, &q, &attended);
    rc = rc ? rc : ic_op_gemm(t->d, p->role, &attended, l->o, NULL, true, &x);
    rc = rc ? rc : ic_op_rmsnorm(t->d, &x, t->ones, s->hidden, 1e-6f, &normed);
    rc = rc ? rc : ic_op_gemm(t->d, p->role, &normed, l->gate_up, NULL, false, &both);
    rc = rc ? rc : ic_op_swiglu(t->d, &both, &gated);
    return rc ? rc : ic_op_gemm(t->d, p->role, &gated, l->down, NULL, true, &x);
}

static int run_layers(const pass *p)
{
    int32_t *ids = ic_calloc((size_t)p->rows, sizeof *ids);
    for (int i = 0; i < p->rows; i++)
        ids[i] = (int32_t)((p->t->ordinal + (uint32_t)i) % TABLE_ROWS);
    ic_mat x = part(&p->t->x, p->rows, 0, p->t->s.hidden);
    int rc = ic_op_gather(p->t->d, &p->t->table, ids, &x);
    ic_free(ids);
    for (int i = 0; rc == 0 && i < p->t->s.layers; i++)
        rc = run_layer(p, i);
    return rc;
}

static int failed(const ic_bench_text *t, int rc, ic_error *e)
{
    if (rc == 0)
        return 0;
    const char *why = ic_device_trouble(t->d);
    return ic_error_set(e, rc, "a pass failed: %s", *why ? why : ic_err_name(rc));
}

int ic_bench_text_prefill(ic_bench_text *t, ic_slab *slab, int rows, uint32_t group, int window,
                          ic_error *e)
{
    ic_row *list = ic_calloc((size_t)rows, sizeof *list);
    for (int i = 0; i < rows; i++) {
        list[i] = (ic_row){.ordinal = t->ordinal++, .advance = 1};
        if (group) {
            list[i].group = group;
            list[i].kind = IC_ROW_VISION;
            list[i].h = (uint16_t)(i / (t->s.grid / 2));
            list[i].w = (uint16_t)(i % (t->s.grid / 2));
            list[i].advance = (uint16_t)(t->s.grid / 2);
        }
    }
    int rc = ic_slab_append(slab, list, rows, e);
    ic_free(list);
    pass p = {t, IC_PREFILL, rows, window, &slab};
    return rc ? rc : failed(t, run_layers(&p), e);
}

int ic_bench_text_decode(ic_bench_text *t, ic_slab *const *slabs, int n, int32_t *tokens,
                         ic_error *e)
{
    int rc = 0;
    for (int i = 0; rc == 0 && i < n; i++) {
        ic_row row = {.ordinal = t->ordinal++, .advance = 1};
        rc = ic_slab_append(slabs[i], &row, 1, e);
    }
    if (rc)
        return rc;
    pass p = {t, IC_DECODE, n, 0, slabs};
    ic_mat x = part(&t->x, n, 0, t->s.hidden), normed = part(&t->normed, n, 0, t->s.hidden);
    ic_mat logits = part(&t->logits, n, 0, t->s.vocab);
    rc = ic_ops_begin(t->d, (const ic_slab *const *)slabs, n, t->rotated ? 2 : 1);
    if (rc)
        return failed(t, rc, e);
    rc = run_layers(&p);
    rc = rc ? rc : ic_op_rmsnorm(t->d, &x, t->ones, t->s.hidden, 1e-6f, &normed);
    rc = rc ? rc : ic_op_gemm(t->d, IC_DECODE, &normed, t->head, NULL, false, &logits);
    rc = ic_ops_end(t->d, rc);
    ic_draw *draws = ic_calloc((size_t)n, sizeof *draws);
    for (int i = 0; i < n; i++)
        draws[i] = (ic_draw){.top_p = 1, .penalty = 1};
    if (rc == 0)
        rc = ic_device_samples(t->d) ? ic_op_sample(t->d, &logits, draws, tokens)
                                     : ic_ops_wait(t->d);
    ic_free(draws);
    return failed(t, rc, e);
}
