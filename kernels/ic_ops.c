/* The public operations: the shape rules of ic_ops.h asserted once, for every backend. */
#include "kernels/ic_ops.h"

#include "base/ic_assert.h"
#include "kernels/ic_device_priv.h"
#include "kernels/ic_slab_priv.h"

static bool is_f32(const ic_mat *m)
{
    return m->dtype == IC_F32 && m->stride >= m->cols && (m->data || m->rows == 0);
}

/* f32, or 16 bits where the device says so. */
static bool is_active(const ic_device *d, const ic_mat *m)
{
    return (d->info.half_activations || m->dtype == IC_F32) && m->stride >= m->cols
           && (m->data || m->rows == 0);
}

static bool same_shape(const ic_mat *a, const ic_mat *b)
{
    return a->rows == b->rows && a->cols == b->cols;
}

static int64_t patches_of(const ic_patch_layout *layout)
{
    IC_ASSERT(layout->merge > 0 && layout->grid_h > 0 && layout->grid_w > 0);
    IC_ASSERT(layout->grid_h % layout->merge == 0 && layout->grid_w % layout->merge == 0);
    return (int64_t)layout->grid_h * layout->grid_w;
}

int ic_op_gemm(ic_device *d, ic_role role, const ic_mat *x, const ic_weight *w, const float *bias,
               bool add, ic_mat *y)
{
    IC_ASSERT(is_active(d, x) && is_active(d, y) && x->cols == w->in_dim && y->cols == w->out_dim);
    IC_ASSERT(x->rows == y->rows);
    return x->rows ? d->backend->gemm(d, role, x, w, bias, add, y) : 0;
}

int ic_op_gather(ic_device *d, const ic_mat *table, const int32_t *ids, ic_mat *y)
{
    IC_ASSERT(is_f32(y) && y->cols == table->cols);
    return d->backend->gather(d, table, ids, y);
}

int ic_op_rmsnorm(ic_device *d, const ic_mat *x, const float *weight, int dim, float eps, ic_mat *y)
{
    IC_ASSERT(is_active(d, x) && is_active(d, y) && same_shape(x, y) && dim > 0
              && x->cols % dim == 0);
    return d->backend->rmsnorm(d, x, weight, dim, eps, y);
}

int ic_op_layernorm(ic_device *d, const ic_mat *x, const float *weight, const float *bias,
                    float eps, ic_mat *y)
{
    IC_ASSERT(is_active(d, x) && is_active(d, y) && same_shape(x, y));
    return d->backend->layernorm(d, x, weight, bias, eps, y);
}

int ic_op_swiglu(ic_device *d, const ic_mat *gate_up, ic_mat *y)
{
    IC_ASSERT(is_active(d, gate_up) && is_active(d, y) && gate_up->rows == y->rows
              && gate_up->cols == 2 * y->cols);
    return d->backend->swiglu(d, gate_up, y);
}

int ic_op_gelu(ic_device *d, const ic_mat *x, bool tanh_form, ic_mat *y)
{
    IC_ASSERT(is_active(d, x) && is_active(d, y) && same_shape(x, y));
    return d->backend->gelu(d, x, tanh_form, y);
}

int ic_op_add(ic_device *d, const ic_mat *x, ic_mat *y)
{
    IC_ASSERT(is_f32(x) && is_f32(y) && same_shape(x, y));
    return d->backend->add(d, x, y);
}

int ic_op_scatter(ic_device *d, const ic_mat *x, const int32_t *rows, bool set, ic_mat *y)
{
    IC_ASSERT(is_f32(x) && is_f32(y) && x->cols == y->cols);
    for (int64_t i = 0; i < x->rows; i++)
        IC_ASSERT(rows[i] >= 0 && rows[i] < y->rows);
    return d->backend->scatter(d, x, rows, set, y);
}

static void check_attention(const ic_slab *s, int layer, int heads, const ic_mat *q,
                            const ic_rope *rope, const ic_mat *y)
{
    IC_ASSERT(is_f32(q) && is_f32(y) && same_shape(q, y));
    IC_ASSERT(layer >= 0 && layer < s->desc.layers && heads % s->desc.kv_heads == 0);
    IC_ASSERT(q->cols == (int64_t)heads * s->desc.head_dim && rope->half * 2 == s->desc.head_dim);
}

static void check_slice(const ic_slab *s, int layer, int heads, const ic_mat *q, int behind,
                        const ic_rope *rope, const ic_mat *y)
{
    check_attention(s, layer, heads, q, rope, y);
    for (int h = 0; h < s->desc.kv_heads; h++)
        IC_ASSERT(behind >= 0 && ic_slab_count(s, layer, h) - behind >= q->rows);
}

static void check_window(const ic_slab *s, int64_t rows, int behind, int window)
{
    IC_ASSERT(window >= 0 && window <= rows && (window == 0 || behind == 0));
    IC_ASSERT(window == 0 || ic_score_is_windowed(s->score_kind));
}

static int prefill(ic_device *d, const ic_slab *s, int layer, int heads, const ic_mat *q,
                   int behind, const ic_rope *rope, float scale, int window, ic_mat *y)
{
    check_slice(s, layer, heads, q, behind, rope, y);
    if (q->rows == 0)
        return 0;
    return d->backend->attention_prefill(d, s, layer, heads, q, behind, rope, scale, window, y);
}

int ic_op_attention_prefill(ic_device *d, const ic_slab *s, int layer, int heads, const ic_mat *q,
                            int behind, const ic_rope *rope, float scale, ic_mat *y)
{
    return prefill(d, s, layer, heads, q, behind, rope, scale, 0, y);
}

int ic_op_attention_prefill_scored(ic_device *d, ic_slab *s, int layer, int heads, const ic_mat *q,
                                   int behind, const ic_rope *rope, float scale, int window,
                                   ic_mat *y)
{
    check_window(s, q->rows, behind, window);
    return prefill(d, s, layer, heads, q, behind, rope, scale, window, y);
}

static ic_mat rows_of(const ic_mat *m, int64_t first, int64_t rows)
{
    ic_mat part = *m;
    part.data = (float *)m->data + first * m->stride;
    part.rows = rows;
    return part;
}

int ic_op_attention_slices(ic_device *d, const ic_attend_slice *slices, int n, int layer, int heads,
                           const ic_mat *q, const ic_rope *rope, float scale, ic_mat *y)
{
    int64_t row = 0;
    int rc = 0;
    for (int i = 0; rc == 0 && i < n; row += slices[i++].rows) {
        const ic_attend_slice *s = &slices[i];
        ic_mat qi = rows_of(q, row, s->rows), yi = rows_of(y, row, s->rows);
        if (!d->backend->attention_slices) {
            rc = ic_op_attention_prefill_scored(d, s->slab, layer, heads, &qi, s->behind, rope,
                                                scale, s->window, &yi);
            continue;
        }
        check_window(s->slab, s->rows, s->behind, s->window);
        check_slice(s->slab, layer, heads, &qi, s->behind, rope, &yi);
    }
    IC_ASSERT(rc || row == q->rows);
    if (rc || !d->backend->attention_slices || row == 0)
        return rc;
    return d->backend->attention_slices(d, slices, n, layer, heads, q, rope, scale, y);
}

int ic_op_attention_score(ic_device *d, ic_slab *s, int layer, int heads, const ic_mat *q,
                          const ic_rope *rope, float scale)
{
    check_attention(s, layer, heads, q, rope, q);
    IC_ASSERT(ic_score_is_windowed(s->score_kind));
    for (int h = 0; h < s->desc.kv_heads; h++)
        IC_ASSERT(ic_slab_count(s, layer, h) >= q->rows);
    return q->rows ? d->backend->attention_score(d, s, layer, heads, q, rope, scale) : 0;
}

static void check_decode(const ic_slab *const *slabs, int n, int layer, int heads, const ic_mat *q,
                         const ic_rope *rope, const ic_mat *y)
{
    IC_ASSERT(q->rows == n);
    for (int i = 0; i < n; i++) {
        check_attention(slabs[i], layer, heads, q, rope, y);
        IC_ASSERT(slabs[i]->desc.kv_heads == slabs[0]->desc.kv_heads);
        for (int h = 0; h < slabs[i]->desc.kv_heads; h++)
            IC_ASSERT(ic_slab_count(slabs[i], layer, h) > 0);
    }
}

int ic_op_attention_decode(ic_device *d, const ic_slab *const *slabs, int n, int layer, int heads,
                           const ic_mat *q, const ic_rope *rope, float scale, ic_mat *y)
{
    check_decode(slabs, n, layer, heads, q, rope, y);
    return n ? d->backend->attention_decode(d, slabs, n, layer, heads, q, rope, scale, y) : 0;
}

int ic_op_attention_decode_rotated(ic_device *d, const ic_slab *const *slabs, int n, int layer,
                                   int heads, const ic_mat *q, const ic_rope *rope, float scale,
                                   ic_mat *y)
{
    check_decode(slabs, n, layer, heads, q, rope, y);
    if (!d->backend->attention_decode_rotated)
        return IC_EUNSUPPORTED;
    return n ? d->backend->attention_decode_rotated(d, slabs, n, layer, heads, q, rope, scale, y)
             : 0;
}

int ic_op_patchify(ic_device *d, const ic_patch_layout *layout, const uint8_t *const *frames,
                   ic_mat *y)
{
    IC_ASSERT(is_active(d, y) && y->rows == patches_of(layout));
    IC_ASSERT(y->cols == 3 * layout->temporal * layout->patch * layout->patch);
    return d->backend->patchify(d, layout, frames, y);
}

int ic_op_vision_positions(ic_device *d, const ic_mat *table, int side,
                           const ic_patch_layout *layout, ic_mat *y)
{
    IC_ASSERT(is_f32(y) && y->rows == patches_of(layout) && table->cols == y->cols);
    IC_ASSERT(side > 0 && table->rows == (int64_t)side * side);
    return d->backend->vision_positions(d, table, side, layout, y);
}

int ic_op_vision_rope(ic_device *d, const ic_patch_layout *layout, int heads, int head_dim,
                      float theta, ic_mat *q, ic_mat *k)
{
    IC_ASSERT(is_active(d, q) && is_active(d, k) && q->dtype == k->dtype && same_shape(q, k)
              && q->rows == patches_of(layout));
    IC_ASSERT(q->cols == (int64_t)heads * head_dim && head_dim % 4 == 0);
    return d->backend->vision_rope(d, layout, heads, head_dim, theta, q, k);
}

int ic_op_attention_full(ic_device *d, const ic_mat *q, const ic_mat *k, const ic_mat *v,
                         const int32_t *starts, int n, int heads, float scale, ic_mat *y)
{
    IC_ASSERT(is_f32(q) && is_f32(k) && is_f32(v) && is_f32(y) && same_shape(q, k)
              && same_shape(q, v) && same_shape(q, y));
    IC_ASSERT(heads > 0 && q->cols % heads == 0 && n >= 0);
    for (int i = 0; i < n; i++)
        IC_ASSERT(starts[i] >= 0 && starts[i] <= starts[i + 1] && starts[i + 1] <= q->rows);
    return d->backend->attention_full(d, q, k, v, starts, n, heads, scale, y);
}

int ic_slab_store_each(ic_slab *const *slabs, int n, int layer, const ic_mat *k, const ic_mat *v)
{
    IC_ASSERT(is_f32(k) && is_f32(v) && same_shape(k, v) && k->rows == n);
    int rc = 0;
    if (n && slabs[0]->device->backend->slab_store_each)
        return slabs[0]->device->backend->slab_store_each(slabs, n, layer, k, v);
    for (int i = 0; rc == 0 && i < n; i++) {
        ic_mat ki = rows_of(k, i, 1), vi = rows_of(v, i, 1);
        rc = ic_slab_store(slabs[i], layer, 1, 0, &ki, &vi);
    }
    return rc;
}

int ic_slab_store(ic_slab *s, int layer, int appended, int first, const ic_mat *k, const ic_mat *v)
{
    IC_ASSERT(is_f32(k) && is_f32(v) && same_shape(k, v));
    IC_ASSERT(k->cols == (int64_t)s->desc.kv_heads * s->desc.head_dim);
    IC_ASSERT(layer >= 0 && layer < s->desc.layers && first >= 0 && first + k->rows <= appended);
    for (int h = 0; h < s->desc.kv_heads; h++)
        IC_ASSERT(ic_slab_count(s, layer, h) >= appended);
    return s->device->backend->slab_store(s, layer, appended, first, k, v);
}

static void check_bounds(const ic_ops_bounds *b)
{
    IC_ASSERT(b->rows >= 0 && b->drawn >= 0 && b->patches >= 0 && b->slice_rows >= 0);
    IC_ASSERT(!b->slab || (b->heads > 0 && b->heads % b->slab->kv_heads == 0 && b->rope));
}

int ic_ops_reserve(ic_device *d, const ic_ops_bounds *b)
{
    check_bounds(b);
    return d->backend->reserve ? d->backend->reserve(d, b) : 0;
}

size_t ic_ops_reserve_bytes(ic_device *d, const ic_ops_bounds *b)
{
    check_bounds(b);
    return d->backend->reserve_bytes ? d->backend->reserve_bytes(d, b) : 0;
}

int ic_ops_wait(ic_device *d)
{
    return d->backend->wait(d);
}

bool ic_device_samples(const ic_device *d)
{
    return d->backend->sample != NULL;
}

int ic_op_sample(ic_device *d, const ic_mat *logits, const ic_draw *draws, int32_t *tokens)
{
    IC_ASSERT(d->backend->sample && is_f32(logits) && logits->cols > 0);
    for (int64_t i = 0; i < logits->rows; i++)
        IC_ASSERT(draws[i].uniform >= 0 && draws[i].uniform < 1 && draws[i].top_k >= 0);
    return logits->rows ? d->backend->sample(d, logits, draws, tokens) : 0;
}

int ic_ops_begin(ic_device *d, const ic_slab *const *slabs, int n, uint64_t shape)
{
    return d->backend->step_begin ? d->backend->step_begin(d, slabs, n, shape) : 0;
}

int ic_ops_end(ic_device *d, int rc)
{
    return d->backend->step_end ? d->backend->step_end(d, rc) : rc;
}

double ic_device_read_rate(ic_device *d, size_t bytes, double seconds)
{
    return d->backend->read_rate(d, bytes, seconds);
}

double ic_device_read_time(ic_device *d, const void *memory, size_t bytes)
{
    return d->backend->read_time(d, memory, bytes);
}

double ic_device_gemm_rate(ic_device *d, ic_dtype compute, int m, int n, int k, double seconds)
{
    IC_ASSERT((compute == IC_F32 || compute == IC_BF16) && m > 0 && n > 0 && k > 0);
    return d->backend->gemm_rate(d, compute, m, n, k, seconds);
}
