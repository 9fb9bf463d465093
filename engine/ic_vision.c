#include "engine/ic_vision.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/ic_assert.h"
#include "base/ic_mem.h"

enum { TILE_ROWS = 512 }; /* of the blocks' MLP: its wide middle never exists whole */

/* torch's default of the tower's layer norms; no checkpoint says another. */
static const float norm_eps = 1e-6f;

typedef struct norm {
    float *weight, *bias;
} norm;

typedef struct block {
    norm norm1, norm2;
    ic_linear qkv, proj, fc1, fc2;
} block;

typedef struct merger {
    norm norm;
    bool after_shuffle; /* normalises merged rows (DeepStack), not single patches */
    ic_linear fc1, fc2;
} merger;

struct ic_vision {
    /* immutable after new */
    const ic_model_config *config;
    ic_device *device;
    ic_linear patch;
    float *positions; /* [side * side, hidden] */
    block *blocks;
    merger last, levels[IC_DEEPSTACK_MAX];
    int patches_max;
    /* scratch, all f32 */
    ic_mat x, normed; /* [patches_max, hidden] */
    ic_mat wide;      /* [patches_max, widest of pixels of a patch and 3 * hidden] */
    ic_mat middle;    /* [TILE_ROWS, intermediate] */
    int32_t *starts;  /* [patches_max + 1] host */
};

/* --- loading ------------------------------------------------------------------------------------
 */

static const char *find_prefix(const ic_weights *w)
{
    return ic_weights_has(w, "visual.patch_embed.proj.weight") ? "visual." : "model.visual.";
}

static int load_norm(ic_params *p, const char *name, int64_t count, norm *n, ic_error *e)
{
    char full[192];
    snprintf(full, sizeof full, "%s.weight", name);
    int rc = ic_params_vector(p, full, count, &n->weight, e);
    snprintf(full, sizeof full, "%s.bias", name);
    return rc ? rc : ic_params_vector(p, full, count, &n->bias, e);
}

static int load_linear(ic_params *p, const char *prefix, const char *name, int64_t out_dim,
                       int64_t in_dim, ic_linear *linear, ic_error *e)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return ic_params_linear(p, full, out_dim, in_dim, true, linear, e);
}

static int load_block(const ic_vision_config *c, ic_params *p, const char *prefix, int index,
                      block *b, ic_error *e)
{
    char at[96], name[128];
    snprintf(at, sizeof at, "%sblocks.%d.", prefix, index);
    snprintf(name, sizeof name, "%snorm1", at);
    int rc = load_norm(p, name, c->hidden, &b->norm1, e);
    snprintf(name, sizeof name, "%snorm2", at);
    if (!rc)
        rc = load_norm(p, name, c->hidden, &b->norm2, e);
    if (!rc)
        rc = load_linear(p, at, "attn.qkv", 3 * (int64_t)c->hidden, c->hidden, &b->qkv, e);
    if (!rc)
        rc = load_linear(p, at, "attn.proj", c->hidden, c->hidden, &b->proj, e);
    if (!rc)
        rc = load_linear(p, at, "mlp.linear_fc1", c->intermediate, c->hidden, &b->fc1, e);
    if (!rc)
        rc = load_linear(p, at, "mlp.linear_fc2", c->hidden, c->intermediate, &b->fc2, e);
    return rc;
}

static int load_merger(const ic_vision_config *c, ic_params *p, const char *at, merger *m,
                       ic_error *e)
{
    int64_t merged = (int64_t)c->hidden * c->merge * c->merge;
    char name[160];
    snprintf(name, sizeof name, "%snorm", at);
    int rc = load_norm(p, name, m->after_shuffle ? merged : c->hidden, &m->norm, e);
    if (!rc)
        rc = load_linear(p, at, "linear_fc1", merged, merged, &m->fc1, e);
    if (!rc)
        rc = load_linear(p, at, "linear_fc2", c->out_hidden, merged, &m->fc2, e);
    return rc;
}

static int load_tower(ic_vision *v, ic_params *p, ic_error *e)
{
    const ic_vision_config *c = &v->config->vision;
    const char *prefix = find_prefix(p->weights);
    char name[128];
    snprintf(name, sizeof name, "%spatch_embed.proj", prefix);
    int rc = ic_params_kernel(
        p, name, 5, (const int64_t[]){c->hidden, c->channels, c->temporal, c->patch, c->patch},
        true, &v->patch, e);
    snprintf(name, sizeof name, "%spos_embed.weight", prefix);
    if (!rc)
        rc = ic_params_matrix(p, name, c->positions, c->hidden, &v->positions, e);
    for (int i = 0; !rc && i < c->depth; i++)
        rc = load_block(c, p, prefix, i, &v->blocks[i], e);
    snprintf(name, sizeof name, "%smerger.", prefix);
    if (!rc)
        rc = load_merger(c, p, name, &v->last, e);
    for (int i = 0; !rc && i < c->deepstack_count; i++) {
        snprintf(name, sizeof name, "%sdeepstack_merger_list.%d.", prefix, i);
        v->levels[i].after_shuffle = true;
        rc = load_merger(c, p, name, &v->levels[i], e);
    }
    return rc;
}

static bool make_scratch(ic_device *d, ic_mat *m, int64_t rows, int64_t cols)
{
    *m = (ic_mat){.dtype = IC_F32, .rows = rows, .cols = cols, .stride = cols};
    m->data = ic_device_alloc(d, (size_t)(rows * cols) * sizeof(float));
    return m->data != NULL;
}

static int patch_values(const ic_vision_config *c)
{
    return c->channels * c->temporal * c->patch * c->patch;
}

int ic_vision_new(ic_vision **out, const ic_model_config *config, ic_params *p, int patches_max,
                  ic_error *e)
{
    const ic_vision_config *c = &config->vision;
    ic_vision *v = ic_alloc(sizeof *v);
    v->config = config;
    v->device = p->device;
    v->patches_max = patches_max;
    v->blocks = ic_calloc((size_t)c->depth, sizeof *v->blocks);
    v->starts = ic_calloc((size_t)patches_max + 1, sizeof *v->starts);
    int wide = patch_values(c) > 3 * c->hidden ? patch_values(c) : 3 * c->hidden;
    int rc = load_tower(v, p, e);
    if (!rc
        && !(make_scratch(p->device, &v->x, patches_max, c->hidden)
             && make_scratch(p->device, &v->normed, patches_max, c->hidden)
             && make_scratch(p->device, &v->wide, patches_max, wide)
             && make_scratch(p->device, &v->middle, TILE_ROWS, c->intermediate)))
        rc = ic_error_set(e, IC_ENOMEM, "no memory for frames of %d patches", patches_max);
    if (rc)
        ic_vision_destroy(&v);
    *out = v;
    return rc;
}

static void norm_fini(ic_device *d, norm *n)
{
    ic_device_free(d, n->weight);
    ic_device_free(d, n->bias);
}

static void merger_fini(ic_device *d, merger *m)
{
    norm_fini(d, &m->norm);
    ic_linear_fini(d, &m->fc1);
    ic_linear_fini(d, &m->fc2);
}

static void block_fini(ic_device *d, block *b)
{
    norm_fini(d, &b->norm1);
    norm_fini(d, &b->norm2);
    ic_linear *linears[] = {&b->qkv, &b->proj, &b->fc1, &b->fc2};
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++)
        ic_linear_fini(d, linears[i]);
}

void ic_vision_destroy(ic_vision **v_p)
{
    ic_vision *v = *v_p;
    if (!v)
        return;
    *v_p = NULL;
    ic_linear_fini(v->device, &v->patch);
    ic_device_free(v->device, v->positions);
    for (int i = 0; i < v->config->vision.depth; i++)
        block_fini(v->device, &v->blocks[i]);
    merger_fini(v->device, &v->last);
    for (int i = 0; i < IC_DEEPSTACK_MAX; i++)
        merger_fini(v->device, &v->levels[i]);
    ic_mat *scratch[] = {&v->x, &v->normed, &v->wide, &v->middle};
    for (size_t i = 0; i < sizeof scratch / sizeof *scratch; i++)
        ic_device_free(v->device, scratch[i]->data);
    ic_free(v->starts);
    ic_free(v->blocks);
    ic_free(v);
}

/* --- the forward pass ---------------------------------------------------------------------------
 */

typedef struct pass { /* some jobs, one after the other in x */
    ic_vision *v;
    const ic_vision_job *jobs;
    int count;
    int rows; /* patches of all of them; v->starts says whose */
} pass;

static int product(ic_vision *v, const ic_mat *x, const ic_linear *w, bool add, ic_mat y)
{
    return ic_op_gemm(v->device, IC_PREFILL, x, w->weight, w->bias, add, &y);
}

/* The same memory with `merge` rows side by side as one: patches come in merge blocks. */
static ic_mat merged_view(const ic_mat *m, int rows, int width, int merge)
{
    IC_ASSERT(m->stride == width);
    return (ic_mat){.data = m->data,
                    .dtype = m->dtype,
                    .rows = rows / merge,
                    .cols = (int64_t)width * merge,
                    .stride = (int64_t)width * merge};
}

static ic_patch_layout layout_of(const ic_vision *v, const ic_vision_job *job)
{
    const ic_vision_config *c = &v->config->vision;
    const ic_processor_config *p = &v->config->processor;
    ic_patch_layout l = {.grid_h = job->grid_h,
                         .grid_w = job->grid_w,
                         .patch = c->patch,
                         .temporal = c->temporal,
                         .merge = c->merge};
    memcpy(l.mean, job->video ? p->video_mean : p->image_mean, sizeof l.mean);
    memcpy(l.std, job->video ? p->video_std : p->image_std, sizeof l.std);
    return l;
}

static int embed_patches(const pass *s)
{
    ic_vision *v = s->v;
    const ic_vision_config *c = &v->config->vision;
    int values = patch_values(c), rc = IC_OK;
    ic_mat pixels = v->wide;
    pixels.stride = pixels.cols = values;
    for (int i = 0; !rc && i < s->count; i++) {
        ic_patch_layout l = layout_of(v, &s->jobs[i]);
        int first = v->starts[i], rows = v->starts[i + 1] - first;
        ic_mat y = ic_mat_view(&pixels, first, rows, 0, values);
        rc = ic_op_patchify(v->device, &l, s->jobs[i].frames, &y);
    }
    ic_mat x = ic_mat_view(&v->x, 0, s->rows, 0, c->hidden);
    ic_mat all = ic_mat_view(&pixels, 0, s->rows, 0, values);
    if (!rc)
        rc = product(v, &all, &v->patch, false, x);
    ic_mat table = {.data = v->positions,
                    .dtype = IC_F32,
                    .rows = c->positions,
                    .cols = c->hidden,
                    .stride = c->hidden};
    int side = (int)lround(sqrt(c->positions));
    for (int i = 0; !rc && i < s->count; i++) {
        ic_patch_layout l = layout_of(v, &s->jobs[i]);
        int first = v->starts[i], rows = v->starts[i + 1] - first;
        ic_mat y = ic_mat_view(&v->x, first, rows, 0, c->hidden);
        rc = ic_op_vision_positions(v->device, &table, side, &l, &y);
    }
    return rc;
}

/* x += proj(attention(norm1(x))) */
static int attention_half(const pass *s, const block *b)
{
    ic_vision *v = s->v;
    const ic_vision_config *c = &v->config->vision;
    int head_dim = c->hidden / c->heads;
    ic_mat qkv = v->wide;
    qkv.stride = qkv.cols = 3 * (int64_t)c->hidden;
    ic_mat x = ic_mat_view(&v->x, 0, s->rows, 0, c->hidden);
    ic_mat y = ic_mat_view(&v->normed, 0, s->rows, 0, c->hidden);
    int rc = ic_op_layernorm(v->device, &x, b->norm1.weight, b->norm1.bias, norm_eps, &y);
    if (!rc)
        rc = product(v, &y, &b->qkv, false, ic_mat_view(&qkv, 0, s->rows, 0, qkv.cols));
    for (int i = 0; !rc && i < s->count; i++) {
        ic_patch_layout l = layout_of(v, &s->jobs[i]);
        int first = v->starts[i], rows = v->starts[i + 1] - first;
        ic_mat q = ic_mat_view(&qkv, first, rows, 0, c->hidden);
        ic_mat k = ic_mat_view(&qkv, first, rows, c->hidden, c->hidden);
        rc = ic_op_vision_rope(v->device, &l, c->heads, head_dim, (float)c->rope_theta, &q, &k);
    }
    if (rc)
        return rc;
    ic_mat q = ic_mat_view(&qkv, 0, s->rows, 0, c->hidden);
    ic_mat k = ic_mat_view(&qkv, 0, s->rows, c->hidden, c->hidden);
    ic_mat value = ic_mat_view(&qkv, 0, s->rows, 2 * (int64_t)c->hidden, c->hidden);
    rc = ic_op_attention_full(v->device, &q, &k, &value, v->starts, s->count, c->heads,
                              1.0f / sqrtf((float)head_dim), &y);
    return rc ? rc : product(v, &y, &b->proj, true, x);
}

/* x += fc2(gelu(fc1(norm2(x)))), some rows at a time */
static int mlp_half(const pass *s, const block *b)
{
    ic_vision *v = s->v;
    const ic_vision_config *c = &v->config->vision;
    int rc = IC_OK;
    for (int first = 0; !rc && first < s->rows; first += TILE_ROWS) {
        int rows = s->rows - first < TILE_ROWS ? s->rows - first : TILE_ROWS;
        ic_mat x = ic_mat_view(&v->x, first, rows, 0, c->hidden);
        ic_mat y = ic_mat_view(&v->normed, first, rows, 0, c->hidden);
        ic_mat middle = ic_mat_view(&v->middle, 0, rows, 0, c->intermediate);
        rc = ic_op_layernorm(v->device, &x, b->norm2.weight, b->norm2.bias, norm_eps, &y);
        if (!rc)
            rc = product(v, &y, &b->fc1, false, middle);
        if (!rc)
            rc = ic_op_gelu(v->device, &middle, c->gelu_tanh, &middle);
        if (!rc)
            rc = product(v, &middle, &b->fc2, true, x);
    }
    return rc;
}

/* Merged rows go to every job's matrix of that level. */
static int merge_patches(const pass *s, const merger *m, int level)
{
    ic_vision *v = s->v;
    const ic_vision_config *c = &v->config->vision;
    int unit = c->merge * c->merge, rc;
    int64_t merged = (int64_t)c->hidden * unit;
    ic_mat x = ic_mat_view(&v->x, 0, s->rows, 0, c->hidden);
    ic_mat normed = ic_mat_view(&v->normed, 0, s->rows, 0, c->hidden);
    ic_mat x4 = merged_view(&x, s->rows, c->hidden, unit);
    ic_mat y4 = merged_view(&normed, s->rows, c->hidden, unit);
    if (m->after_shuffle)
        rc = ic_op_layernorm(v->device, &x4, m->norm.weight, m->norm.bias, norm_eps, &y4);
    else
        rc = ic_op_layernorm(v->device, &x, m->norm.weight, m->norm.bias, norm_eps, &normed);
    ic_mat middle = {.data = v->wide.data,
                     .dtype = IC_F32,
                     .rows = s->rows / unit,
                     .cols = merged,
                     .stride = merged};
    if (!rc)
        rc = product(v, &y4, &m->fc1, false, middle);
    if (!rc)
        rc = ic_op_gelu(v->device, &middle, false, &middle);
    for (int i = 0; !rc && i < s->count; i++) {
        int first = v->starts[i] / unit, rows = v->starts[i + 1] / unit - first;
        ic_mat from = ic_mat_view(&middle, first, rows, 0, merged);
        const ic_mat *to = &s->jobs[i].level[level];
        rc = product(v, &from, &m->fc2, false, ic_mat_view(to, 0, rows, 0, to->cols));
    }
    return rc;
}

static int run_pass(const pass *s)
{
    ic_vision *v = s->v;
    const ic_vision_config *c = &v->config->vision;
    int rc = embed_patches(s);
    for (int i = 0; !rc && i < c->depth; i++) {
        rc = attention_half(s, &v->blocks[i]);
        if (!rc)
            rc = mlp_half(s, &v->blocks[i]);
        for (int n = 0; !rc && n < c->deepstack_count; n++) {
            if (c->deepstack[n] == i)
                rc = merge_patches(s, &v->levels[n], 1 + n);
        }
    }
    return rc ? rc : merge_patches(s, &v->last, 0);
}

int ic_vision_encode(ic_vision *v, const ic_vision_job *jobs, int count)
{
    int rc = IC_OK;
    while (!rc && count > 0) {
        pass s = {.v = v, .jobs = jobs};
        while (s.count < count) {
            int patches = jobs[s.count].grid_h * jobs[s.count].grid_w;
            IC_ASSERT(patches > 0 && patches <= v->patches_max);
            if (s.rows + patches > v->patches_max)
                break;
            v->starts[s.count++] = s.rows;
            s.rows += patches;
        }
        v->starts[s.count] = s.rows;
        rc = run_pass(&s);
        jobs += s.count;
        count -= s.count;
    }
    return rc;
}
