#include "engine/ic_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/ic_assert.h"
#include "base/ic_mem.h"

typedef struct layer {
    float *input_norm, *post_norm; /* [hidden] */
    float *q_norm, *k_norm;        /* [head_dim], or NULL: none */
    ic_linear q, k, v, o, gate, up, down;
    ic_linear qkv, gate_up; /* in their place, on a device that joins weights */
} layer;

struct ic_model {
    /* immutable after new */
    const ic_model_config *config;
    ic_device *device;
    ic_mat table; /* token embeddings */
    void *table_owned;
    layer *layers;
    float *norm;
    ic_linear head;
    float *inv_freq;
    uint8_t *axis;
    ic_rope rope;
    int rows_max, wanted_max;
    /* scratch: f32, or of 16 bits where products read it, on a device that takes that */
    ic_mat x, normed;      /* [rows_max, hidden] */
    ic_mat qkv;            /* [rows_max, (heads + 2 kv_heads) * head_dim] */
    ic_mat attended;       /* [rows_max, heads * head_dim] */
    ic_mat gate_up;        /* [rows_max, 2 * intermediate] */
    ic_mat activated;      /* [rows_max, intermediate] */
    ic_mat picked, scores; /* [wanted_max, hidden], [wanted_max, vocab] */
    int32_t *places;       /* [rows_max] host: batch rows of a visual run */
};

/* --- loading ------------------------------------------------------------------------------------
 */

/* Frequency i of head_dim / 2 turns by theta^(-2i / head_dim). In single precision as transformers
 * has it, since late positions multiply the last bit. */
static void build_rope(ic_model *m)
{
    const ic_text_config *t = &m->config->text;
    int half = t->head_dim / 2;
    m->inv_freq = ic_calloc((size_t)half, sizeof *m->inv_freq);
    m->axis = ic_calloc((size_t)half, 1);
    for (int i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)t->head_dim;
        m->inv_freq[i] = 1.0f / (float)pow(t->rope_theta, exponent);
    }
    for (int axis = 1; axis < 3; axis++) {
        int start = 0; /* sections one after the other: t, h, w */
        for (int before = 0; before < axis; before++)
            start += t->mrope_section[before];
        for (int n = 0; n < t->mrope_section[axis]; n++) {
            int i = t->mrope_interleaved ? axis + 3 * n : start + n;
            IC_ASSERT(i < half);
            m->axis[i] = (uint8_t)axis;
        }
    }
    m->rope = (ic_rope){.half = half, .inv_freq = m->inv_freq, .axis = m->axis, .scale = 1};
}

/* Where published checkpoints of these towers keep their tensors. */
static const char *find_prefix(const ic_weights *w)
{
    static const char *const prefixes[] = {"model.language_model.", "language_model.model.",
                                           "model."};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        char name[96];
        snprintf(name, sizeof name, "%sembed_tokens.weight", prefixes[i]);
        if (ic_weights_has(w, name))
            return prefixes[i];
    }
    return prefixes[0];
}

typedef struct wish { /* one tensor of a layer */
    const char *name;
    int64_t out_dim, in_dim; /* in_dim 0: a vector */
    bool biased, optional;
    ic_linear *linear;
    float **vector;
} wish;

static int load_wish(ic_params *p, const char *prefix, const wish *w, ic_error *e)
{
    char name[160];
    snprintf(name, sizeof name, "%s%s", prefix, w->name);
    if (w->in_dim)
        return ic_params_linear(p, name, w->out_dim, w->in_dim, w->biased, w->linear, e);
    strncat(name, ".weight", sizeof name - strlen(name) - 1);
    if (w->optional && !ic_weights_has(p->weights, name))
        return IC_OK;
    return ic_params_vector(p, name, w->out_dim, w->vector, e);
}

/* q, k and v as one and gate and up as one, where the device wants that and the tensors allow it.
 */
static int join_layer(const ic_text_config *t, ic_params *p, const char *prefix, layer *l,
                      ic_error *e)
{
    static const char *const names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                        "mlp.gate_proj", "mlp.up_proj"};
    enum { NAMES = sizeof names / sizeof *names, ATTENTION = 3 };
    int64_t q = (int64_t)t->heads * t->head_dim, kv = (int64_t)t->kv_heads * t->head_dim;
    const int64_t outs[NAMES] = {q, kv, kv, t->intermediate, t->intermediate};
    char full[NAMES][160];
    const char *at[NAMES];
    for (int i = 0; i < NAMES; i++) {
        snprintf(full[i], sizeof full[i], "%s%s", prefix, names[i]);
        at[i] = full[i];
    }
    int rc = t->attention_bias ? IC_EUNSUPPORTED
                               : ic_params_joined(p, at, outs, ATTENTION, t->hidden, &l->qkv, e);
    if (rc && rc != IC_EUNSUPPORTED)
        return rc;
    rc = ic_params_joined(p, at + ATTENTION, outs + ATTENTION, NAMES - ATTENTION, t->hidden,
                          &l->gate_up, e);
    return rc == IC_EUNSUPPORTED ? IC_OK : rc;
}

static bool is_joined(const layer *l, const ic_linear *linear)
{
    if (l->qkv.weight && (linear == &l->q || linear == &l->k || linear == &l->v))
        return true;
    return l->gate_up.weight && (linear == &l->gate || linear == &l->up);
}

static int load_layer(const ic_text_config *t, ic_params *p, const char *prefix, int index,
                      layer *l, ic_error *e)
{
    int64_t q = (int64_t)t->heads * t->head_dim, kv = (int64_t)t->kv_heads * t->head_dim;
    bool b = t->attention_bias;
    const wish wishes[] = {
        {.name = "input_layernorm", .out_dim = t->hidden, .vector = &l->input_norm},
        {.name = "post_attention_layernorm", .out_dim = t->hidden, .vector = &l->post_norm},
        {.name = "self_attn.q_norm",
         .out_dim = t->head_dim,
         .vector = &l->q_norm,
         .optional = true},
        {.name = "self_attn.k_norm",
         .out_dim = t->head_dim,
         .vector = &l->k_norm,
         .optional = true},
        {.name = "self_attn.q_proj",
         .out_dim = q,
         .in_dim = t->hidden,
         .biased = b,
         .linear = &l->q},
        {.name = "self_attn.k_proj",
         .out_dim = kv,
         .in_dim = t->hidden,
         .biased = b,
         .linear = &l->k},
        {.name = "self_attn.v_proj",
         .out_dim = kv,
         .in_dim = t->hidden,
         .biased = b,
         .linear = &l->v},
        {.name = "self_attn.o_proj",
         .out_dim = t->hidden,
         .in_dim = q,
         .biased = b,
         .linear = &l->o},
        {.name = "mlp.gate_proj",
         .out_dim = t->intermediate,
         .in_dim = t->hidden,
         .linear = &l->gate},
        {.name = "mlp.up_proj", .out_dim = t->intermediate, .in_dim = t->hidden, .linear = &l->up},
        {.name = "mlp.down_proj",
         .out_dim = t->hidden,
         .in_dim = t->intermediate,
         .linear = &l->down},
    };
    char at[96];
    snprintf(at, sizeof at, "%slayers.%d.", prefix, index);
    int rc = ic_device_info_of(p->device)->joins_weights ? join_layer(t, p, at, l, e) : IC_OK;
    for (size_t i = 0; !rc && i < sizeof wishes / sizeof *wishes; i++)
        if (!wishes[i].linear || !is_joined(l, wishes[i].linear))
            rc = load_wish(p, at, &wishes[i], e);
    return rc;
}

static int load_ends(ic_model *m, ic_params *p, const char *prefix, ic_error *e)
{
    const ic_text_config *t = &m->config->text;
    char table[96], name[96];
    snprintf(table, sizeof table, "%sembed_tokens.weight", prefix);
    int rc = ic_params_table(p, table, t->vocab, t->hidden, &m->table, &m->table_owned, e);
    if (rc)
        return rc;
    snprintf(name, sizeof name, "%snorm.weight", prefix);
    rc = ic_params_vector(p, name, t->hidden, &m->norm, e);
    if (rc)
        return rc;
    if (!t->tied_head)
        return ic_params_linear(p, "lm_head", t->vocab, t->hidden, false, &m->head, e);
    int64_t counted = p->bytes; /* the same bytes serve twice */
    snprintf(name, sizeof name, "%sembed_tokens", prefix);
    rc = ic_params_linear(p, name, t->vocab, t->hidden, false, &m->head, e);
    p->bytes = counted;
    return rc;
}

static bool make_scratch(ic_device *d, ic_mat *m, ic_dtype dtype, int64_t rows, int64_t cols)
{
    *m = (ic_mat){.dtype = dtype, .rows = rows, .cols = cols, .stride = cols};
    m->data = ic_device_alloc(d, (size_t)(rows * cols) * ic_dtype_size(dtype));
    return m->data != NULL;
}

/* What products of the layers read and write between them: the dtype in which all of them compute,
 * or f32. */
static ic_dtype active_dtype(const ic_model *m)
{
    ic_dtype dtype = ic_weight_compute(m->layers[0].o.weight);
    if (!ic_device_info_of(m->device)->half_activations)
        return IC_F32;
    for (int i = 0; i < m->config->text.layers; i++) {
        const layer *l = &m->layers[i];
        const ic_linear *linears[] = {&l->q,    &l->k,  &l->v,    &l->o,      &l->qkv,
                                      &l->gate, &l->up, &l->down, &l->gate_up};
        for (size_t n = 0; n < sizeof linears / sizeof *linears; n++)
            if (linears[n]->weight && ic_weight_compute(linears[n]->weight) != dtype)
                return IC_F32;
    }
    return dtype;
}

static int make_scratches(ic_model *m, ic_error *e)
{
    const ic_text_config *t = &m->config->text;
    int64_t q = (int64_t)t->heads * t->head_dim, kv = (int64_t)t->kv_heads * t->head_dim;
    int64_t n = m->rows_max;
    ic_device *d = m->device;
    ic_dtype active = active_dtype(m);
    bool ok = make_scratch(d, &m->x, IC_F32, n, t->hidden)
              && make_scratch(d, &m->normed, active, n, t->hidden)
              && make_scratch(d, &m->qkv, IC_F32, n, q + 2 * kv)
              && make_scratch(d, &m->attended, IC_F32, n, q)
              && make_scratch(d, &m->gate_up, active, n, 2 * (int64_t)t->intermediate)
              && make_scratch(d, &m->activated, active, n, t->intermediate)
              && make_scratch(d, &m->picked, IC_F32, m->wanted_max, t->hidden)
              && make_scratch(d, &m->scores, IC_F32, m->wanted_max, t->vocab);
    m->places = ic_calloc((size_t)n, sizeof *m->places);
    return ok ? IC_OK : ic_error_set(e, IC_ENOMEM, "no memory for batches of %d rows", m->rows_max);
}

int ic_model_new(ic_model **out, const ic_model_config *config, ic_params *p, int rows_max,
                 int wanted_max, ic_error *e)
{
    ic_model *m = ic_alloc(sizeof *m);
    m->config = config;
    m->device = p->device;
    m->rows_max = rows_max;
    m->wanted_max = wanted_max;
    m->layers = ic_calloc((size_t)config->text.layers, sizeof *m->layers);
    build_rope(m);
    const char *prefix = find_prefix(p->weights);
    int rc = load_ends(m, p, prefix, e);
    for (int i = 0; !rc && i < config->text.layers; i++)
        rc = load_layer(&config->text, p, prefix, i, &m->layers[i], e);
    if (!rc)
        rc = make_scratches(m, e);
    if (rc)
        ic_model_destroy(&m);
    *out = m;
    return rc;
}

static void layer_fini(ic_device *d, layer *l)
{
    float *vectors[] = {l->input_norm, l->post_norm, l->q_norm, l->k_norm};
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        ic_device_free(d, vectors[i]);
    ic_linear *linears[] = {&l->q,    &l->k,  &l->v,    &l->o,      &l->qkv,
                            &l->gate, &l->up, &l->down, &l->gate_up};
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++)
        ic_linear_fini(d, linears[i]);
}

void ic_model_destroy(ic_model **m_p)
{
    ic_model *m = *m_p;
    if (!m)
        return;
    *m_p = NULL;
    for (int i = 0; i < m->config->text.layers; i++)
        layer_fini(m->device, &m->layers[i]);
    ic_linear_fini(m->device, &m->head);
    ic_device_free(m->device, m->norm);
    ic_device_free(m->device, m->table_owned);
    ic_mat *scratch[] = {&m->x,       &m->normed,    &m->qkv,    &m->attended,
                         &m->gate_up, &m->activated, &m->picked, &m->scores};
    for (size_t i = 0; i < sizeof scratch / sizeof *scratch; i++)
        ic_device_free(m->device, scratch[i]->data);
    ic_free(m->places);
    ic_free(m->inv_freq);
    ic_free(m->axis);
    ic_free(m->layers);
    ic_free(m);
}

const ic_rope *ic_model_rope(const ic_model *m)
{
    return &m->rope;
}

/* --- the forward pass ---------------------------------------------------------------------------
 */

typedef struct pass { /* one batch on its way */
    ic_model *m;
    const ic_model_batch *b;
    int prefill, decode; /* rows of each role */
} pass;

/* y = x W^T (+ y): the two roles keep their own kernels. */
static int product(const pass *s, const ic_mat *x, const ic_linear *w, bool add, const ic_mat *y)
{
    int rc = IC_OK;
    if (s->prefill) {
        ic_mat xp = ic_mat_view(x, 0, s->prefill, 0, x->cols);
        ic_mat yp = ic_mat_view(y, 0, s->prefill, 0, y->cols);
        rc = ic_op_gemm(s->m->device, IC_PREFILL, &xp, w->weight, w->bias, add, &yp);
    }
    if (!rc && s->decode) {
        ic_mat xd = ic_mat_view(x, s->prefill, s->decode, 0, x->cols);
        ic_mat yd = ic_mat_view(y, s->prefill, s->decode, 0, y->cols);
        rc = ic_op_gemm(s->m->device, IC_DECODE, &xd, w->weight, w->bias, add, &yd);
    }
    return rc;
}

/* Level 0 replaces the visual rows' embeddings, later ones are added. */
static int add_level(const pass *s, int level)
{
    int rc = IC_OK;
    for (int i = 0; !rc && i < s->b->visual_count; i++) {
        const ic_model_visual *v = &s->b->visual[i];
        if (level > v->levels)
            continue;
        for (int n = 0; n < v->rows; n++)
            s->m->places[n] = v->row + n;
        ic_mat from = ic_mat_view(&v->level[level], v->first, v->rows, 0, s->m->x.cols);
        rc = ic_op_scatter(s->m->device, &from, s->m->places, level == 0, &s->m->x);
    }
    return rc;
}

static int store_rows(const pass *s, int index, const ic_mat *k, const ic_mat *v)
{
    int rc = IC_OK, row = 0;
    for (int i = 0; !rc && i < s->b->prefill_count; i++) {
        const ic_model_slice *p = &s->b->prefill[i];
        ic_mat ki = ic_mat_view(k, row, p->rows, 0, k->cols),
               vi = ic_mat_view(v, row, p->rows, 0, v->cols);
        rc = ic_slab_store(p->slab, index, p->rows, 0, &ki, &vi);
        row += p->rows;
    }
    ic_mat kd = ic_mat_view(k, row, s->b->decode_count, 0, k->cols),
           vd = ic_mat_view(v, row, s->b->decode_count, 0, v->cols);
    return rc ? rc : ic_slab_store_each(s->b->decode, s->b->decode_count, index, &kd, &vd);
}

/* Queries of a window that is not complete yet wait in the session. */
static int hold_window(const pass *s, int index, const ic_model_slice *p, const ic_mat *q)
{
    for (int i = 0; i < p->window_rows; i++)
        s->m->places[i] = p->window_held + i;
    ic_mat last = ic_mat_view(q, p->rows - p->window_rows, p->window_rows, 0, q->cols);
    ic_mat window = p->window[index];
    return ic_op_scatter(s->m->device, &last, s->m->places, true, &window);
}

/* Whether the slice has the whole window, so that attention can score on its way. */
static bool scores_at_once(const ic_model_slice *p)
{
    return p->score && p->window_held == 0 && !p->asked;
}

/* A question that is complete is remembered, in the place of the oldest. */
static int remember_question(const pass *s, int index, const ic_model_slice *p)
{
    ic_mat asked = p->asked[index];
    ic_mat rows = ic_mat_view(&p->window[index], 0, p->window_held + p->window_rows, 0, asked.cols);
    for (int i = 0; i < rows.rows; i++)
        s->m->places[i] = (int32_t)((p->asked_next + i) % asked.rows);
    return ic_op_scatter(s->m->device, &rows, s->m->places, true, &asked);
}

/* A window that came in several slices is held, and scores when it is complete. */
static int score_later(const pass *s, int index, const ic_model_slice *p, const ic_mat *q)
{
    if (scores_at_once(p))
        return IC_OK;
    float scale = 1.0f / sqrtf((float)s->m->config->text.head_dim);
    int rc = p->window_rows ? hold_window(s, index, p, q) : IC_OK;
    if (rc || !p->score)
        return rc;
    if (p->asked && p->asked_next >= 0)
        rc = remember_question(s, index, p);
    if (rc)
        return rc;
    if (p->asked) {
        ic_mat asked = ic_mat_view(&p->asked[index], 0, p->asked_rows, 0, q->cols);
        return ic_op_attention_score(s->m->device, p->slab, index, s->m->config->text.heads, &asked,
                                     &s->m->rope, scale);
    }
    ic_mat window = ic_mat_view(&p->window[index], 0, p->window_held + p->window_rows, 0, q->cols);
    return ic_op_attention_score(s->m->device, p->slab, index, s->m->config->text.heads, &window,
                                 &s->m->rope, scale);
}

/* The slices of all sessions, a few at a time in one call. */
static int attend_slices(const pass *s, int index, const ic_mat *q, const ic_mat *y)
{
    enum { TOGETHER = 16 };
    const ic_text_config *t = &s->m->config->text;
    ic_attend_slice slices[TOGETHER];
    int rc = IC_OK, row = 0;
    for (int i = 0, n; !rc && i < s->b->prefill_count; i += n) {
        int first = row;
        for (n = 0; n < TOGETHER && i + n < s->b->prefill_count; n++) {
            const ic_model_slice *p = &s->b->prefill[i + n];
            slices[n] =
                (ic_attend_slice){p->slab, p->rows, 0, scores_at_once(p) ? p->window_rows : 0};
            row += p->rows;
        }
        ic_mat qi = ic_mat_view(q, first, row - first, 0, q->cols);
        ic_mat yi = ic_mat_view(y, first, row - first, 0, y->cols);
        rc = ic_op_attention_slices(s->m->device, slices, n, index, t->heads, &qi, &s->m->rope,
                                    1.0f / sqrtf((float)t->head_dim), &yi);
        for (int j = i; !rc && j < i + n; j++) {
            ic_mat qj = ic_mat_view(q, first, s->b->prefill[j].rows, 0, q->cols);
            rc = score_later(s, index, &s->b->prefill[j], &qj);
            first += s->b->prefill[j].rows;
        }
    }
    return rc;
}

static int attend(const pass *s, int index, const ic_mat *q, const ic_mat *y)
{
    const ic_text_config *t = &s->m->config->text;
    float scale = 1.0f / sqrtf((float)t->head_dim);
    int rc = attend_slices(s, index, q, y), row = 0;
    for (int i = 0; i < s->b->prefill_count; i++)
        row += s->b->prefill[i].rows;
    if (!rc && s->decode) {
        ic_mat qd = ic_mat_view(q, row, s->decode, 0, q->cols);
        ic_mat yd = ic_mat_view(y, row, s->decode, 0, y->cols);
        rc = ic_op_attention_decode(s->m->device, (const ic_slab *const *)s->b->decode, s->decode,
                                    index, t->heads, &qd, &s->m->rope, scale, &yd);
    }
    return rc;
}

/* x += o(attention(norm(x))) */
static int attention_half(const pass *s, int index, const ic_mat *x)
{
    ic_model *m = s->m;
    const ic_text_config *t = &m->config->text;
    const layer *l = &m->layers[index];
    int64_t qw = (int64_t)t->heads * t->head_dim, kw = (int64_t)t->kv_heads * t->head_dim;
    ic_mat normed = ic_mat_view(&m->normed, 0, x->rows, 0, x->cols);
    ic_mat q = ic_mat_view(&m->qkv, 0, x->rows, 0, qw);
    ic_mat k = ic_mat_view(&m->qkv, 0, x->rows, qw, kw);
    ic_mat v = ic_mat_view(&m->qkv, 0, x->rows, qw + kw, kw);
    ic_mat y = ic_mat_view(&m->attended, 0, x->rows, 0, qw);
    int rc = ic_op_rmsnorm(m->device, x, l->input_norm, t->hidden, t->rms_eps, &normed);
    if (!rc && l->qkv.weight) {
        ic_mat all = ic_mat_view(&m->qkv, 0, x->rows, 0, qw + 2 * kw);
        rc = product(s, &normed, &l->qkv, false, &all);
    } else {
        rc = rc ? rc : product(s, &normed, &l->q, false, &q);
        rc = rc ? rc : product(s, &normed, &l->k, false, &k);
        rc = rc ? rc : product(s, &normed, &l->v, false, &v);
    }
    if (!rc && l->q_norm)
        rc = ic_op_rmsnorm(m->device, &q, l->q_norm, t->head_dim, t->rms_eps, &q);
    if (!rc && l->k_norm)
        rc = ic_op_rmsnorm(m->device, &k, l->k_norm, t->head_dim, t->rms_eps, &k);
    if (!rc)
        rc = store_rows(s, index, &k, &v);
    if (!rc)
        rc = attend(s, index, &q, &y);
    return rc ? rc : product(s, &y, &l->o, true, x);
}

/* x += down(silu(gate(norm(x))) * up(norm(x))) */
static int mlp_half(const pass *s, int index, const ic_mat *x)
{
    ic_model *m = s->m;
    const ic_text_config *t = &m->config->text;
    const layer *l = &m->layers[index];
    int64_t width = t->intermediate;
    ic_mat normed = ic_mat_view(&m->normed, 0, x->rows, 0, x->cols);
    ic_mat both = ic_mat_view(&m->gate_up, 0, x->rows, 0, 2 * width);
    ic_mat gate = ic_mat_view(&both, 0, x->rows, 0, width);
    ic_mat up = ic_mat_view(&both, 0, x->rows, width, width);
    ic_mat y = ic_mat_view(&m->activated, 0, x->rows, 0, width);
    int rc = ic_op_rmsnorm(m->device, x, l->post_norm, t->hidden, t->rms_eps, &normed);
    if (!rc && l->gate_up.weight) {
        rc = product(s, &normed, &l->gate_up, false, &both);
    } else {
        rc = rc ? rc : product(s, &normed, &l->gate, false, &gate);
        rc = rc ? rc : product(s, &normed, &l->up, false, &up);
    }
    if (!rc)
        rc = ic_op_swiglu(m->device, &both, &y);
    return rc ? rc : product(s, &y, &l->down, true, x);
}

/* Logits always take the decode kernel, so that the first token of an answer does not depend on how
 * many other answers begin with it. */
static int score_wanted(ic_model *m, const ic_model_batch *b)
{
    int n = b->wanted_count;
    if (n == 0)
        return IC_OK;
    ic_mat picked = ic_mat_view(&m->picked, 0, n, 0, m->picked.cols);
    ic_mat scores = ic_mat_view(&m->scores, 0, n, 0, m->scores.cols);
    int rc = ic_op_gather(m->device, &m->x, b->wanted, &picked);
    if (!rc)
        rc = ic_op_rmsnorm(m->device, &picked, m->norm, (int)picked.cols, m->config->text.rms_eps,
                           &picked);
    return rc ? rc
              : ic_op_gemm(m->device, IC_DECODE, &picked, m->head.weight, m->head.bias, false,
                           &scores);
}

/* The wanted rows' logits come to the host, unless they are to stay. */
static int fetch_wanted(ic_model *m, const ic_model_batch *b)
{
    ic_mat scores = ic_mat_view(&m->scores, 0, b->wanted_count, 0, m->scores.cols);
    if (b->wanted_count > 0 && b->stay)
        return IC_OK;
    int rc = ic_ops_wait(m->device);
    if (rc || b->wanted_count == 0)
        return rc;
    return ic_device_download(m->device, b->logits, scores.data,
                              (size_t)(b->wanted_count * scores.cols) * sizeof(float));
}

int ic_model_draw(ic_model *m, const ic_draw *draws, int n, int32_t *tokens)
{
    ic_mat scores = ic_mat_view(&m->scores, 0, n, 0, m->scores.cols);
    return ic_op_sample(m->device, &scores, draws, tokens);
}

int ic_model_read_out(ic_model *m, const ic_model_batch *b)
{
    int rc = score_wanted(m, b);
    return rc ? rc : fetch_wanted(m, b);
}

/* From ids to logits, all on the device. */
static int run_pass(const pass *s)
{
    ic_model *m = s->m;
    ic_mat x = ic_mat_view(&m->x, 0, s->prefill + s->decode, 0, m->x.cols);
    int rc = ic_op_gather(m->device, &m->table, s->b->ids, &x);
    if (!rc)
        rc = add_level(s, 0);
    for (int i = 0; !rc && i < m->config->text.layers; i++) {
        rc = attention_half(s, i, &x);
        if (!rc)
            rc = mlp_half(s, i, &x);
        if (!rc)
            rc = add_level(s, i + 1);
    }
    return rc ? rc : score_wanted(m, s->b);
}

/* A pass of decode alone comes again with every token: the device may record it. */
static int run_decode(const pass *s)
{
    uint64_t shape = (uint64_t)s->decode << 32 | (uint64_t)s->b->wanted_count << 1 | 1;
    const ic_slab *const *slabs = (const ic_slab *const *)s->b->decode;
    int rc = ic_ops_begin(s->m->device, slabs, s->decode, shape);
    return rc ? rc : ic_ops_end(s->m->device, run_pass(s));
}

int ic_model_forward(ic_model *m, const ic_model_batch *b)
{
    pass s = {.m = m, .b = b, .decode = b->decode_count};
    for (int i = 0; i < b->prefill_count; i++)
        s.prefill += b->prefill[i].rows;
    IC_ASSERT(s.prefill + s.decode <= m->rows_max && b->wanted_count <= m->wanted_max);
    int rc = s.prefill == 0 && s.decode > 0 ? run_decode(&s) : run_pass(&s);
    return rc ? rc : fetch_wanted(m, b);
}
