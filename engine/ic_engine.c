#include "engine/ic_engine.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/ic_mem.h"
#include "engine/ic_engine_priv.h"
#include "kernels/ic_resize.h"

enum { MAX_TOKENS_DEFAULT = 1024, ASPECT_MAX = 200, SIDE_MAX = 16384 };

/* --- opening ------------------------------------------------------------------------------------
 */

/* Hashes a file's bytes, or the fact that it is not there. */
static void hash_file(XXH3_state_t *h, const char *dir, const char *name)
{
    char *path = ic_strf("%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    ic_free(path);
    XXH3_128bits_update(h, name, strlen(name) + 1);
    XXH3_128bits_update(h, f ? "+" : "-", 1);
    if (!f)
        return;
    char bytes[8192];
    size_t n;
    while ((n = fread(bytes, 1, sizeof bytes, f)) > 0)
        XXH3_128bits_update(h, bytes, n);
    fclose(f);
}

/* What a token id, a picture and a cache row mean: everything but the sampling defaults. */
static int build_meaning(ic_engine *engine, const ic_engine_config *config, ic_error *e)
{
    static const char *const files[] = {"config.json", "tokenizer.json", "preprocessor_config.json",
                                        "video_preprocessor_config.json", "processor_config.json"};
    XXH3_state_t *h = XXH3_createState();
    if (!h)
        return ic_error_set(e, IC_ENOMEM, "no memory for the model's fingerprint");
    XXH3_128bits_reset(h);
    uint8_t weights[16];
    ic_weights_fingerprint(engine->weights, weights);
    XXH3_128bits_update(h, weights, sizeof weights);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        hash_file(h, config->model_dir, files[i]);
    XXH3_128bits_update(h, engine->info.family, strlen(engine->info.family));
    XXH128_hash_t digest = XXH3_128bits_digest(h);
    XXH3_freeState(h);
    snprintf(engine->info.meaning, sizeof engine->info.meaning, "%016llx%016llx",
             (unsigned long long)digest.high64, (unsigned long long)digest.low64);
    return IC_OK;
}

static void name_of_dir(const char *dir, char *out, size_t room)
{
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && dir[start - 1] != '/')
        start--;
    snprintf(out, room, "%.*s", (int)(end - start), dir + start);
}

static void build_info(ic_engine *engine, const ic_engine_config *config, int compute,
                       int64_t weight_bytes)
{
    ic_engine_info *info = &engine->info;
    const ic_model_config *c = &engine->config;
    const ic_device_info *d = ic_device_info_of(engine->device);
    snprintf(info->architecture, sizeof info->architecture, "%s", c->architecture);
    snprintf(info->family, sizeof info->family, "%s", ic_grammar_family(engine->grammar));
    name_of_dir(config->model_dir, info->model_name, sizeof info->model_name);
    snprintf(info->numerics, sizeof info->numerics, "%s/%s", d->numerics,
             compute < 0 ? "stored" : ic_dtype_name((ic_dtype)compute));
    info->layers = c->text.layers;
    info->heads = c->text.heads;
    info->kv_heads = c->text.kv_heads;
    info->head_dim = c->text.head_dim;
    info->hidden = c->text.hidden;
    info->vocab = c->text.vocab;
    info->trained_tokens = c->text.max_positions;
    info->temporal = c->vision.temporal;
    info->patch_pixels = c->vision.patch * c->vision.merge;
    info->default_fps = c->processor.fps;
    info->weight_bytes = weight_bytes;
    info->kv_bytes_per_token = 2 * (int64_t)c->text.layers * c->text.kv_heads * c->text.head_dim
                               * (int64_t)ic_dtype_size(engine->kv_dtype);
    info->sampling = c->sampling;
    if (info->sampling.max_tokens <= 0)
        info->sampling.max_tokens = MAX_TOKENS_DEFAULT;
    info->exact = d->batch_exact;
}

/* The dtype of products, or -1: as each tensor is stored. */
static int parse_compute(const char *name, int *compute, ic_error *e)
{
    *compute = -1;
    if (!name || strcmp(name, "auto") == 0)
        return IC_OK;
    *compute = ic_dtype_parse(name);
    if (*compute == IC_F32 || *compute == IC_BF16)
        return IC_OK;
    return ic_error_set(e, IC_EINVAL, "dtype \"%s\": it must be auto, f32 or bf16", name);
}

/* The largest group that the processors would give, within what was asked for. */
static int group_tokens(const ic_engine *engine, int wanted)
{
    const ic_processor_config *p = &engine->config.processor;
    int64_t square = (int64_t)engine->info.patch_pixels * engine->info.patch_pixels;
    int64_t pixels =
        p->image_max_pixels > p->video_max_pixels ? p->image_max_pixels : p->video_max_pixels;
    int64_t limit = wanted > 0 ? wanted : IC_GROUP_TOKENS;
    int64_t most = pixels / square > 1 ? pixels / square : 1;
    return (int)(most < limit ? most : limit);
}

static int check_vision(const ic_model_config *c, ic_error *e)
{
    if (c->vision.temporal < 1 || c->vision.temporal > IC_FRAMES_MAX)
        return ic_error_set(e, IC_EUNSUPPORTED, "%d frames in one group; this build knows 1 and 2",
                            c->vision.temporal);
    if (c->vision.deepstack_count > c->text.layers)
        return ic_error_set(e, IC_EUNSUPPORTED, "%d DeepStack levels for %d layers",
                            c->vision.deepstack_count, c->text.layers);
    if (c->vision.out_hidden != c->text.hidden)
        return ic_error_set(e, IC_EUNSUPPORTED, "vision rows of %d for a text tower of %d",
                            c->vision.out_hidden, c->text.hidden);
    return IC_OK;
}

static int open_parts(ic_engine *engine, const ic_engine_config *config, ic_error *e)
{
    const char *dir = config->model_dir;
    int rc = ic_model_config_load(&engine->config, dir, e);
    if (!rc)
        rc = check_vision(&engine->config, e);
    if (!rc)
        rc = ic_weights_open(&engine->weights, dir, e);
    if (!rc)
        rc = ic_tokenizer_open(&engine->tokenizer, dir, e);
    if (!rc)
        rc = ic_grammar_open(&engine->grammar, dir, config->family, engine->tokenizer, e);
    if (rc)
        return rc;
    if (ic_tokenizer_vocab(engine->tokenizer) > engine->config.text.vocab)
        return ic_error_set(e, IC_EFORMAT, "%s: tokenizer.json has %d tokens, the model %d", dir,
                            ic_tokenizer_vocab(engine->tokenizer), engine->config.text.vocab);
    ic_device_config device = {.kind = config->device ? config->device : "cpu",
                               .threads = config->threads,
                               .plain_loops = config->plain_loops};
    return ic_device_open(&engine->device, &device, e);
}

static int open_towers(ic_engine *engine, const ic_engine_config *config, ic_error *e)
{
    int compute;
    int rc = parse_compute(config->dtype, &compute, e);
    if (rc)
        return rc;
    bool stored_bf16 =
        strcmp(engine->config.dtype, "bfloat16") == 0 || strcmp(engine->config.dtype, "bf16") == 0;
    engine->kv_dtype = compute == IC_BF16 || (compute < 0 && stored_bf16) ? IC_BF16 : IC_F32;
    ic_params params = {.device = engine->device, .weights = engine->weights, .compute = compute};
    rc = ic_model_new(&engine->model, &engine->config, &params, IC_STEP_PREFILL + IC_STEP_DECODE,
                      IC_STEP_WANTED, e);
    engine->info.patch_pixels = engine->config.vision.patch * engine->config.vision.merge;
    engine->group_tokens_max = group_tokens(engine, config->group_tokens_max);
    int unit = engine->config.vision.merge * engine->config.vision.merge;
    if (!rc)
        rc = ic_vision_new(&engine->vision, &engine->config, &params,
                           engine->group_tokens_max * unit, e);
    if (!rc)
        rc = ic_engine_reserve(engine, e);
    if (!rc)
        build_info(engine, config, compute, params.bytes);
    return rc;
}

int ic_engine_open(ic_engine **out, const ic_engine_config *config, ic_error *e)
{
    *out = NULL;
    if (!config->model_dir || !config->model_dir[0])
        return ic_error_set(e, IC_EINVAL, "no model directory was given");
    ic_engine *engine = ic_alloc(sizeof *engine);
    int rc = open_parts(engine, config, e);
    if (!rc)
        rc = open_towers(engine, config, e);
    if (!rc)
        rc = build_meaning(engine, config, e);
    if (rc) {
        ic_engine_close(&engine);
        return rc;
    }
    engine->step = ic_step_new(engine);
    *out = engine;
    return IC_OK;
}

void ic_engine_close(ic_engine **e_p)
{
    ic_engine *engine = *e_p;
    if (!engine)
        return;
    *e_p = NULL;
    ic_step_destroy(&engine->step);
    ic_vision_destroy(&engine->vision);
    ic_model_destroy(&engine->model);
    ic_device_close(&engine->device);
    ic_grammar_close(&engine->grammar);
    ic_tokenizer_close(&engine->tokenizer);
    ic_weights_close(&engine->weights);
    ic_free(engine);
}

const ic_engine_info *ic_engine_info_of(const ic_engine *engine)
{
    return &engine->info;
}

const ic_tokenizer *ic_engine_tokenizer(const ic_engine *engine)
{
    return engine->tokenizer;
}

void ic_engine_watch_logits(ic_engine *engine, ic_logits_fn *fn, void *arg)
{
    engine->watch = fn;
    engine->watch_arg = arg;
}

/* --- frames -------------------------------------------------------------------------------------
 */

typedef struct fit { /* the bounds of a resize; frames 1 for an image */
    double frames, even_frames;
    double min_pixels, max_pixels; /* over all frames */
    int factor;
} fit;

/* The processors' smart_resize: sides to multiples of the factor, half to even as Python rounds;
 * then, if all frames together are too many or too few pixels, scaled by one ratio. */
static void smart_resize(const fit *f, double height, double width, int *out_h, int *out_w)
{
    double factor = f->factor;
    double h = rint(height / factor) * factor, w = rint(width / factor) * factor;
    if (f->even_frames * h * w > f->max_pixels) {
        double beta = sqrt(f->frames * height * width / f->max_pixels);
        h = fmax(factor, floor(height / beta / factor) * factor);
        w = fmax(factor, floor(width / beta / factor) * factor);
    } else if (f->even_frames * h * w < f->min_pixels) {
        double beta = sqrt(f->min_pixels / (f->frames * height * width));
        h = ceil(height * beta / factor) * factor;
        w = ceil(width * beta / factor) * factor;
    }
    *out_h = (int)fmax(factor, h);
    *out_w = (int)fmax(factor, w);
}

static int check_picture(int width, int height, ic_error *e)
{
    if (width < 1 || height < 1 || width > SIDE_MAX || height > SIDE_MAX)
        return ic_error_set(e, IC_EINVAL, "a picture of %d x %d; sides must be 1 .. %d", width,
                            height, SIDE_MAX);
    int longer = width > height ? width : height, shorter = width > height ? height : width;
    if ((double)longer / shorter > ASPECT_MAX)
        return ic_error_set(e, IC_EINVAL,
                            "a picture of %d x %d: one side is more than %d times the other", width,
                            height, ASPECT_MAX);
    return IC_OK;
}

/* The video processor brings pictures smaller than one token to that size first. */
static void enlarge_small(int factor, double *height, double *width)
{
    if (*height >= factor && *width >= factor)
        return;
    double scale = fmax(factor / *height, factor / *width);
    *height = floor(*height * scale);
    *width = floor(*width * scale);
}

/* Rounding up may pass the bound on tokens: then the longer side gives way. */
static void clamp_tokens(int *h, int *w, int factor, int64_t limit)
{
    while ((int64_t)(*h / factor) * (*w / factor) > limit) {
        if (*h >= *w && *h > factor)
            *h -= factor;
        else
            *w -= factor;
    }
}

static int make_grid(const ic_engine *engine, fit *f, bool video, int width, int height,
                     int tokens_max, ic_grid *grid, ic_error *e)
{
    int rc = check_picture(width, height, e);
    if (rc)
        return rc;
    double h = height, w = width;
    int out_h, out_w;
    f->factor = engine->info.patch_pixels;
    f->max_pixels = fmax(f->max_pixels, (double)f->factor * f->factor);
    f->min_pixels = fmin(f->min_pixels, f->max_pixels);
    if (video)
        enlarge_small(f->factor, &h, &w);
    smart_resize(f, h, w, &out_h, &out_w);
    clamp_tokens(&out_h, &out_w, f->factor, tokens_max);
    *grid = (ic_grid){.width = out_w,
                      .height = out_h,
                      .tokens_w = out_w / f->factor,
                      .tokens_h = out_h / f->factor};
    return IC_OK;
}

int ic_engine_grid(const ic_engine *engine, int width, int height, int frame_tokens, bool video,
                   ic_grid *grid, ic_error *e)
{
    const ic_processor_config *p = &engine->config.processor;
    if (frame_tokens < 0)
        return ic_error_set(e, IC_EINVAL, "frame_tokens %d is negative", frame_tokens);
    int64_t tokens = engine->group_tokens_max;
    if (frame_tokens > 0 && frame_tokens < tokens)
        tokens = frame_tokens;
    if (video && frame_tokens == 0 && p->video_frame_max_tokens > 0
        && p->video_frame_max_tokens < tokens)
        tokens = p->video_frame_max_tokens;
    double square = (double)engine->info.patch_pixels * engine->info.patch_pixels;
    double most = (double)(video ? p->video_max_pixels : p->image_max_pixels);
    /* A stream has no length, so of a clip's limits only the upper one can bind a single frame. */
    fit f = {.frames = 1,
             .even_frames = 1,
             .min_pixels = video ? 0 : (double)p->image_min_pixels,
             .max_pixels = fmin(most, (double)tokens * square)};
    return make_grid(engine, &f, video, width, height, (int)tokens, grid, e);
}

int ic_engine_clip_grid(const ic_engine *engine, int width, int height, int frames, ic_grid *grid,
                        ic_error *e)
{
    const ic_processor_config *p = &engine->config.processor;
    int temporal = engine->info.temporal;
    if (frames < 1)
        return ic_error_set(e, IC_EINVAL, "a clip of %d frames", frames);
    int padded = frames < temporal ? temporal : frames;
    fit f = {.frames = padded,
             .even_frames = rint((double)padded / temporal) * temporal,
             .min_pixels = (double)p->video_min_pixels,
             .max_pixels = (double)p->video_max_pixels};
    return make_grid(engine, &f, true, width, height, engine->group_tokens_max, grid, e);
}

int ic_engine_fit_frame(const ic_engine *engine, ic_frame *frame, const ic_grid *grid,
                        ic_frame **out, ic_error *e)
{
    *out = NULL;
    if (frame->width == grid->width && frame->height == grid->height) {
        *out = ic_frame_ref(frame);
        return IC_OK;
    }
    ic_frame *fitted = ic_frame_new(grid->width, grid->height);
    if (!fitted)
        return ic_error_set(e, IC_ENOMEM, "no memory for a frame of %d x %d", grid->width,
                            grid->height);
    int rc = ic_device_resize_rgb(engine->device, frame->rgb, frame->width, frame->height,
                                  fitted->rgb, fitted->width, fitted->height, e);
    if (rc) {
        ic_frame_unref(&fitted);
        return rc;
    }
    fitted->pts_us = frame->pts_us;
    fitted->ordinal = frame->ordinal;
    *out = fitted;
    return IC_OK;
}
