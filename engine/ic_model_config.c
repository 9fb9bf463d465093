#include "engine/ic_model_config.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ic_mem.h"

/* A JSON object being read, with the file's name for complaints and a sticky status: the first
 * wrong key is told. */
typedef struct reader {
    const char *file;
    json_t *object;
    int status;
    ic_error *e;
} reader;

static int64_t complain(reader *r, const char *key, const char *what)
{
    if (r->status == IC_OK)
        r->status = ic_error_set(r->e, IC_EFORMAT, "%s: %s %s", r->file, key, what);
    return 0;
}

/* A whole number within [low, high]; `fallback` when the key is absent, which is an error where
 * fallback is out of range. */
static int64_t read_int(reader *r, const char *key, int64_t low, int64_t high, int64_t fallback)
{
    json_t *v = json_object_get(r->object, key);
    int64_t n =
        v && !json_is_null(v) ? (json_is_integer(v) ? json_integer_value(v) : INT64_MIN) : fallback;
    if (n >= low && n <= high)
        return n;
    char what[96];
    snprintf(what, sizeof what, "%s; a whole number from %lld to %lld is needed",
             v ? "is out of range" : "is missing", (long long)low, (long long)high);
    return complain(r, key, what);
}

static double read_real(reader *r, const char *key, double low, double high, double fallback)
{
    json_t *v = json_object_get(r->object, key);
    double x = v && !json_is_null(v) ? (json_is_number(v) ? json_number_value(v) : NAN) : fallback;
    if (x >= low && x <= high)
        return x;
    char what[96];
    snprintf(what, sizeof what, "%s; a number from %g to %g is needed",
             v ? "is out of range" : "is missing", low, high);
    return (double)complain(r, key, what);
}

static bool read_bool(reader *r, const char *key, bool fallback)
{
    json_t *v = json_object_get(r->object, key);
    return json_is_boolean(v) ? json_is_true(v) : fallback;
}

static reader inside(const reader *r, const char *key)
{
    return (reader){.file = r->file, .object = json_object_get(r->object, key), .e = r->e};
}

/* Loads <dir>/<name>; NULL with status IC_ENOTFOUND when there is no such file. Caller owns the
 * object. */
static json_t *load_json(const char *dir, const char *name, int *status, ic_error *e)
{
    char *path = ic_strf("%s/%s", dir, name);
    json_error_t why;
    json_t *object = NULL;
    *status = IC_OK;
    if (access(path, R_OK) == 0)
        object = json_load_file(path, 0, &why);
    else
        *status = ic_error_set(e, errno == ENOENT ? IC_ENOTFOUND : IC_EIO, "%s: %s", path,
                               strerror(errno));
    if (*status == IC_OK && !json_is_object(object))
        *status = ic_error_set(e, IC_EFORMAT, "%s, line %d: %s", path, object ? 1 : why.line,
                               object ? "not a JSON object" : why.text);
    if (*status != IC_OK) {
        json_decref(object);
        object = NULL;
    }
    ic_free(path);
    return object;
}

/* --- config.json: text
 * -------------------------------------------------------------------------------- */

/* transformers 4.57: rope_theta beside rope_scaling {mrope_section, ...}; 5.x: rope_parameters
 * {rope_theta, mrope_section, ...}. */
static void read_rope(reader *r, ic_text_config *t)
{
    reader rope = inside(r, "rope_parameters");
    if (!rope.object)
        rope = inside(r, "rope_scaling");
    const char *type = json_string_value(json_object_get(rope.object, "rope_type"));
    if (!type)
        type = json_string_value(json_object_get(rope.object, "type"));
    if (type && strcmp(type, "default") != 0 && strcmp(type, "mrope") != 0 && r->status == IC_OK)
        r->status = ic_error_set(r->e, IC_EUNSUPPORTED, "%s: rope type %.40s is not supported",
                                 r->file, type);
    double beside = read_real(r, "rope_theta", 1, 1e12, 500000.0);
    t->rope_theta = rope.object ? read_real(&rope, "rope_theta", 1, 1e12, beside) : beside;
    t->mrope_interleaved =
        true; /* the family's only form: stored as mrope_interleaved, or taken for granted */
    json_t *sections = json_object_get(rope.object, "mrope_section");
    const int family[3] = {24, 20, 20};
    int sum = 0;
    for (int i = 0; i < 3; i++) {
        json_t *s = json_array_get(sections, (size_t)i);
        t->mrope_section[i] =
            sections ? (json_is_integer(s) ? (int)json_integer_value(s) : -1) : family[i];
        if (t->mrope_section[i] < 0 || t->mrope_section[i] > t->head_dim)
            complain(r, "mrope_section", "must be three whole numbers");
        sum += t->mrope_section[i];
    }
    if (sections && json_array_size(sections) != 3)
        complain(r, "mrope_section", "must be three whole numbers");
    if (sum < t->head_dim / 2 && sections)
        complain(r, "mrope_section", "must sum to half of head_dim");
    if (rope.status != IC_OK)
        r->status = rope.status;
}

static void read_text(reader *r, ic_text_config *t)
{
    t->hidden = (int)read_int(r, "hidden_size", 8, 65536, -1);
    t->layers = (int)read_int(r, "num_hidden_layers", 1, 512, -1);
    t->heads = (int)read_int(r, "num_attention_heads", 1, 1024, -1);
    t->kv_heads = (int)read_int(r, "num_key_value_heads", 1, 1024, t->heads);
    t->head_dim = (int)read_int(r, "head_dim", 2, 512, t->heads ? t->hidden / t->heads : -1);
    t->intermediate = (int)read_int(r, "intermediate_size", 1, 1 << 20, -1);
    t->vocab = (int)read_int(r, "vocab_size", 1, 1 << 24, -1);
    t->max_positions = (int)read_int(r, "max_position_embeddings", 1, 1 << 30, 128000);
    t->rms_eps = (float)read_real(r, "rms_norm_eps", 0, 1, 1e-6);
    t->attention_bias = read_bool(r, "attention_bias", false);
    if (r->status == IC_OK && t->heads % t->kv_heads != 0)
        complain(r, "num_attention_heads", "is not a multiple of num_key_value_heads");
    if (r->status == IC_OK && t->head_dim % 2 != 0)
        complain(r, "head_dim", "must be even");
    const char *act = json_string_value(json_object_get(r->object, "hidden_act"));
    if (act && strcmp(act, "silu") != 0 && r->status == IC_OK)
        r->status =
            ic_error_set(r->e, IC_EUNSUPPORTED,
                         "%s: hidden_act %.40s of the text tower is not supported", r->file, act);
    if (r->status == IC_OK)
        read_rope(r, t);
}

/* --- config.json: vision
 * ---------------------------------------------------------------------------- */

static void read_deepstack(reader *r, ic_vision_config *v)
{
    json_t *levels = json_object_get(r->object, "deepstack_visual_indexes");
    size_t count = json_array_size(levels);
    if (count > IC_DEEPSTACK_MAX) {
        complain(r, "deepstack_visual_indexes", "has more levels than are supported (8)");
        return;
    }
    v->deepstack_count = (int)count;
    for (size_t i = 0; i < count; i++) {
        json_t *level = json_array_get(levels, i);
        v->deepstack[i] = json_is_integer(level) ? (int)json_integer_value(level) : -1;
        if (v->deepstack[i] < 0 || v->deepstack[i] >= v->depth)
            complain(r, "deepstack_visual_indexes", "names a block that the tower does not have");
    }
}

static void read_vision_act(reader *r, ic_vision_config *v)
{
    const char *act = json_string_value(json_object_get(r->object, "hidden_act"));
    v->gelu_tanh = !act || strcmp(act, "gelu_pytorch_tanh") == 0;
    if (act && !v->gelu_tanh && strcmp(act, "gelu") != 0 && r->status == IC_OK)
        r->status =
            ic_error_set(r->e, IC_EUNSUPPORTED,
                         "%s: hidden_act %.40s of the vision tower is not supported", r->file, act);
}

static void read_vision(reader *r, ic_vision_config *v)
{
    v->depth = (int)read_int(r, "depth", 1, 512, 27);
    v->hidden = (int)read_int(r, "hidden_size", 8, 65536, 1152);
    v->heads = (int)read_int(r, "num_heads", 1, 1024, 16);
    v->intermediate = (int)read_int(r, "intermediate_size", 1, 1 << 20, 4304);
    v->patch = (int)read_int(r, "patch_size", 1, 256, 16);
    v->temporal = (int)read_int(r, "temporal_patch_size", 1, 16, 2);
    v->merge = (int)read_int(r, "spatial_merge_size", 1, 16, 2);
    v->channels = (int)read_int(r, "in_channels", 3, 3, 3);
    v->out_hidden = (int)read_int(r, "out_hidden_size", 8, 65536, 3584);
    v->positions = (int)read_int(r, "num_position_embeddings", 1, 1 << 24, 2304);
    reader rope = inside(r, "rope_parameters");
    v->rope_theta = rope.object ? read_real(&rope, "rope_theta", 1, 1e12, 10000.0) : 10000.0;
    int side = (int)lround(sqrt((double)v->positions));
    if (r->status == IC_OK && side * side != v->positions)
        complain(r, "num_position_embeddings", "is not a square");
    if (r->status == IC_OK && (v->hidden % v->heads != 0 || v->hidden / v->heads % 4 != 0))
        complain(r, "hidden_size", "of the vision tower must be heads times a multiple of 4");
    if (r->status == IC_OK)
        read_deepstack(r, v);
    read_vision_act(r, v);
    if (rope.status != IC_OK)
        r->status = rope.status;
}

/* --- config.json
 * ---------------------------------------------------------------------------------------- */

static int check_architecture(ic_model_config *c, const char *file, json_t *config, ic_error *e)
{
    static const char supported[] = "Qwen3VLForConditionalGeneration";
    const char *name =
        json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    if (!name || strcmp(name, supported) != 0)
        return ic_error_set(e, IC_EUNSUPPORTED,
                            "%s: architecture %.60s is not supported; this build runs %s", file,
                            name ? name : "(none named)", supported);
    snprintf(c->architecture, sizeof c->architecture, "%s", name);
    return IC_OK;
}

static void read_top(reader *r, ic_model_config *c, json_t *text)
{
    int64_t last = c->text.vocab - 1;
    c->image_token = (int32_t)read_int(r, "image_token_id", 0, last, -1);
    c->video_token = (int32_t)read_int(r, "video_token_id", 0, last, -1);
    c->vision_start = (int32_t)read_int(r, "vision_start_token_id", 0, last, -1);
    c->vision_end = (int32_t)read_int(r, "vision_end_token_id", 0, last, -1);
    reader inner = {.file = r->file, .object = text, .e = r->e};
    c->text.tied_head =
        read_bool(r, "tie_word_embeddings", read_bool(&inner, "tie_word_embeddings", false));
    const char *dtype = json_string_value(json_object_get(r->object, "dtype"));
    if (!dtype)
        dtype = json_string_value(json_object_get(r->object, "torch_dtype"));
    if (!dtype)
        dtype = json_string_value(json_object_get(text, "dtype"));
    if (dtype)
        snprintf(c->dtype, sizeof c->dtype, "%s", dtype);
    if (r->status == IC_OK && c->vision.out_hidden != c->text.hidden)
        complain(r, "out_hidden_size",
                 "of the vision tower differs from hidden_size of the text tower");
}

static int load_config(ic_model_config *c, const char *dir, ic_error *e)
{
    int rc;
    json_t *config = load_json(dir, "config.json", &rc, e);
    if (rc == IC_OK)
        rc = check_architecture(c, "config.json", config, e);
    reader top = {.file = "config.json", .object = config, .e = e, .status = rc};
    reader text = inside(&top, "text_config"), vision = inside(&top, "vision_config");
    if (rc == IC_OK && (!json_is_object(text.object) || !json_is_object(vision.object)))
        rc = ic_error_set(e, IC_EFORMAT, "config.json: text_config or vision_config is missing");
    if (rc == IC_OK) {
        read_text(&text, &c->text);
        rc = text.status;
    }
    if (rc == IC_OK) {
        read_vision(&vision, &c->vision);
        rc = vision.status;
    }
    if (rc == IC_OK) {
        read_top(&top, c, text.object);
        rc = top.status;
    }
    json_decref(config);
    return rc == IC_OK ? IC_OK : ic_error_prefix(e, rc, "%s", dir);
}

/* --- processors
 * ------------------------------------------------------------------------------------------- */

static void read_triple(reader *r, const char *key, float fallback, float out[3])
{
    json_t *list = json_object_get(r->object, key);
    for (size_t i = 0; i < 3; i++) {
        json_t *x = json_array_get(list, i);
        out[i] = list ? (float)json_number_value(x) : fallback;
        if (list && !json_is_number(x))
            complain(r, key, "must be three numbers");
    }
}

/* Limits of pixels: size {shortest_edge, longest_edge}, or the older min_pixels, max_pixels. */
static void read_pixels(reader *r, int64_t *low, int64_t *high)
{
    const int64_t most = (int64_t)1 << 40;
    reader size = inside(r, "size");
    int64_t older_low = read_int(r, "min_pixels", 1, most, *low),
            older_high = read_int(r, "max_pixels", 1, most, *high);
    *low = size.object ? read_int(&size, "shortest_edge", 1, most, older_low) : older_low;
    *high = size.object ? read_int(&size, "longest_edge", 1, most, older_high) : older_high;
    if (*low > *high)
        complain(r, "size", "has a shortest_edge above its longest_edge");
    if (size.status != IC_OK)
        r->status = size.status;
}

/* The object of one processor: a file of its own, or a part of processor_config.json. NULL: absent.
 * Caller owns. */
static json_t *load_processor(const char *dir, const char *file, const char *part, int *rc,
                              ic_error *e)
{
    json_t *own = load_json(dir, file, rc, e);
    if (*rc != IC_ENOTFOUND)
        return own;
    json_t *both = load_json(dir, "processor_config.json", rc, e);
    json_t *inner = json_incref(json_object_get(both, part));
    json_decref(both);
    if (*rc == IC_ENOTFOUND)
        *rc = IC_OK;
    return inner;
}

/* The rescaling and the patch geometry are part of the engine; a processor that asks for others is
 * refused. */
static void check_geometry(reader *r, const ic_vision_config *v)
{
    if (read_int(r, "patch_size", 1, 256, v->patch) != v->patch
        || read_int(r, "merge_size", 1, 16, v->merge) != v->merge
        || read_int(r, "temporal_patch_size", 1, 16, v->temporal) != v->temporal)
        complain(r, "patch_size, merge_size or temporal_patch_size", "differs from config.json");
    if (fabs(read_real(r, "rescale_factor", 0, 1, 1.0 / 255) - 1.0 / 255) > 1e-9
        || !read_bool(r, "do_rescale", true) || !read_bool(r, "do_normalize", true)
        || !read_bool(r, "do_resize", true))
        complain(r, "do_rescale, do_normalize, do_resize or rescale_factor",
                 "is not what this build does");
    if (read_int(r, "resample", 0, 5, 3) != 3)
        complain(r, "resample", "must be 3 (bicubic)");
}

static int load_image_processor(ic_model_config *c, const char *dir, ic_error *e)
{
    ic_processor_config *p = &c->processor;
    p->image_min_pixels = 65536;
    p->image_max_pixels = 16777216;
    int rc;
    json_t *object = load_processor(dir, "preprocessor_config.json", "image_processor", &rc, e);
    reader r = {.file = "preprocessor_config.json", .object = object, .e = e, .status = rc};
    read_triple(&r, "image_mean", 0.5f, p->image_mean);
    read_triple(&r, "image_std", 0.5f, p->image_std);
    read_pixels(&r, &p->image_min_pixels, &p->image_max_pixels);
    check_geometry(&r, &c->vision);
    json_decref(object);
    return r.status;
}

static int load_video_processor(ic_model_config *c, const char *dir, ic_error *e)
{
    ic_processor_config *p = &c->processor;
    p->video_min_pixels = 128 * 32 * 32;
    p->video_max_pixels = 32 * 32 * 768;
    int rc;
    json_t *object =
        load_processor(dir, "video_preprocessor_config.json", "video_processor", &rc, e);
    reader r = {.file = "video_preprocessor_config.json", .object = object, .e = e, .status = rc};
    read_triple(&r, "image_mean", 0.5f, p->video_mean);
    read_triple(&r, "image_std", 0.5f, p->video_std);
    read_pixels(&r, &p->video_min_pixels, &p->video_max_pixels);
    p->video_frame_max_tokens = read_int(&r, "max_video_tokens", 0, 1 << 24, 0);
    p->fps = read_real(&r, "fps", 0.001, 1000, 2);
    p->min_frames = (int)read_int(&r, "min_frames", 1, 1 << 24, 4);
    p->max_frames = (int)read_int(&r, "max_frames", 1, 1 << 24, 768);
    check_geometry(&r, &c->vision);
    json_decref(object);
    return r.status;
}

/* --- generation_config.json
 * --------------------------------------------------------------------------------- */

static void read_stops(reader *r, ic_model_config *c)
{
    json_t *stops = json_object_get(r->object, "eos_token_id");
    size_t count = json_is_array(stops) ? json_array_size(stops) : stops && !json_is_null(stops);
    for (size_t i = 0; i < count; i++) {
        json_t *id = json_is_array(stops) ? json_array_get(stops, i) : stops;
        if (i >= IC_STOP_MAX || !json_is_integer(id) || json_integer_value(id) < 0
            || json_integer_value(id) >= c->text.vocab) {
            complain(r, "eos_token_id", "must be up to 8 ids within the vocabulary");
            return;
        }
        c->stop[c->stop_count++] = (int32_t)json_integer_value(id);
    }
}

static int load_generation(ic_model_config *c, const char *dir, ic_error *e)
{
    int rc;
    json_t *object = load_json(dir, "generation_config.json", &rc, e);
    if (rc == IC_ENOTFOUND)
        rc = IC_OK;
    reader r = {.file = "generation_config.json", .object = object, .e = e, .status = rc};
    bool sample = read_bool(&r, "do_sample", false);
    c->sampling = (ic_sampling){
        .temperature = sample ? (float)read_real(&r, "temperature", 0, 100, 1) : 0,
        .top_k = sample ? (int32_t)read_int(&r, "top_k", 0, 1 << 24, 0) : 0,
        .top_p = sample ? (float)read_real(&r, "top_p", 0, 1, 1) : 1,
        .repetition_penalty = (float)read_real(&r, "repetition_penalty", 0.01, 100, 1),
        .max_tokens = (int32_t)read_int(&r, "max_new_tokens", 1, 1 << 24, 1024),
    };
    read_stops(&r, c);
    json_decref(object);
    return r.status;
}

int ic_model_config_load(ic_model_config *config, const char *dir, ic_error *e)
{
    *config = (ic_model_config){0};
    struct stat info;
    if (stat(dir, &info) != 0 || !S_ISDIR(info.st_mode))
        return ic_error_set(e, IC_ENOTFOUND, "%s: no such model directory", dir);
    int rc = load_config(config, dir, e);
    if (rc != IC_OK)
        return rc;
    rc = load_image_processor(config, dir, e);
    if (rc == IC_OK)
        rc = load_video_processor(config, dir, e);
    if (rc == IC_OK)
        rc = load_generation(config, dir, e);
    return rc == IC_OK ? IC_OK : ic_error_prefix(e, rc, "%s", dir);
}
