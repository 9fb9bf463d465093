/* infchat-bench logits: what the engine computes for one prompt, as .npy files, so that it can be
 * held against transformers on any model and any prompt. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/ic_mem.h"
#include "bench/ic_bench.h"
#include "engine/ic_model_config.h"
#include "engine/ic_session.h"
#include "kernels/ic_ops.h"
#ifdef IC_HAVE_SERVER
#include "actors/media/ic_media.h"
#endif

enum { PICTURES_MAX = 2048, ROWS_PER_GROUP = 24, ROWS_SPARE = 256 };

typedef struct picture { /* a frame of the video, or an image */
    ic_frame *source, *fitted;
    ic_grid grid;
} picture;

typedef struct logits_run {
    const char *out; /* folder */
    ic_engine *engine;
    ic_session *session;
    ic_model_config config;
    picture *images, *frames;
    int image_count, frame_count;
    /* written by the watch */
    int32_t *ids;
    float *logits;
    int rows, capacity, prompt_rows;
} logits_run;

/* --- .npy ---------------------------------------------------------------------------------------
 */

/* Format 1.0: a header of text, padded so that the data begin at a multiple of 64. */
static int write_npy(const char *folder, const char *name, const char *type, const void *data,
                     size_t element, int dims, const int64_t *shape)
{
    char *path = ic_strf("%s/%s.npy", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        ic_free(path);
        return IC_EIO;
    }
    char header[256], text[128] = "";
    size_t count = 1;
    for (int i = 0; i < dims; i++) {
        snprintf(text + strlen(text), sizeof text - strlen(text), "%lld,", (long long)shape[i]);
        count *= (size_t)shape[i];
    }
    int n = snprintf(header, sizeof header,
                     "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", type, text);
    int padded = (10 + n + 1 + 63) / 64 * 64 - 10;
    const unsigned char magic[10] = {
        0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)padded, (unsigned char)(padded >> 8)};
    fwrite(magic, 1, sizeof magic, f);
    fprintf(f, "%-*s\n", padded - 1, header);
    fwrite(data, element, count, f);
    int rc = ferror(f) ? IC_EIO : IC_OK;
    if (fclose(f) || rc) {
        fprintf(stderr, "%s: could not be written\n", path);
        rc = IC_EIO;
    }
    ic_free(path);
    return rc;
}

/* Pictures of one size as one array [n, height, width, 3]. */
static int write_pictures(const logits_run *r, const char *name, const picture *p, int count,
                          bool fitted)
{
    const ic_frame *first = fitted ? p[0].fitted : p[0].source;
    uint8_t *all = ic_try_alloc(first->bytes * (size_t)count);
    if (!all)
        return IC_ENOMEM;
    for (int i = 0; i < count; i++)
        memcpy(all + (size_t)i * first->bytes, (fitted ? p[i].fitted : p[i].source)->rgb,
               first->bytes);
    int rc = write_npy(r->out, name, "|u1", all, 1, 4,
                       (const int64_t[]){count, first->height, first->width, 3});
    ic_free(all);
    return rc;
}

/* Pixel values of pictures of one size, in the processors' patch order. */
static int write_pixels(const logits_run *r, ic_device *d, const char *name, const picture *p,
                        int count, bool video)
{
    const ic_vision_config *v = &r->config.vision;
    const ic_processor_config *c = &r->config.processor;
    ic_patch_layout l = {.grid_h = p->grid.tokens_h * v->merge,
                         .grid_w = p->grid.tokens_w * v->merge,
                         .patch = v->patch,
                         .temporal = v->temporal,
                         .merge = v->merge};
    memcpy(l.mean, video ? c->video_mean : c->image_mean, sizeof l.mean);
    memcpy(l.std, video ? c->video_std : c->image_std, sizeof l.std);
    int64_t rows = (int64_t)l.grid_h * l.grid_w, values = 3 * v->temporal * v->patch * v->patch;
    int groups = video ? (count + v->temporal - 1) / v->temporal : 1;
    size_t bytes = (size_t)(rows * values) * sizeof(float);
    float *all = ic_try_alloc(bytes * (size_t)groups);
    ic_mat y = {.data = ic_device_alloc(d, bytes), .rows = rows, .cols = values, .stride = values};
    int rc = all && y.data ? IC_OK : IC_ENOMEM;
    for (int g = 0; !rc && g < groups; g++) {
        const uint8_t *of[2];
        for (int i = 0; i < v->temporal; i++) {
            int n = g * v->temporal + i;
            of[i] = p[n < count ? n : count - 1].fitted->rgb;
        }
        rc = ic_op_patchify(d, &l, of, &y);
        if (!rc)
            rc = ic_device_download(d, (char *)all + (size_t)g * bytes, y.data, bytes);
    }
    if (!rc)
        rc = write_npy(r->out, name, "<f4", all, 4, 2, (const int64_t[]){rows * groups, values});
    ic_device_free(d, y.data);
    ic_free(all);
    return rc;
}

static int write_media(const logits_run *r)
{
    ic_device *d = NULL;
    ic_error e = {0};
    ic_device_config config = {.kind = "cpu", .threads = 1};
    int rc = ic_device_open(&d, &config, &e);
    for (int i = 0; !rc && i < r->image_count; i++) {
        char name[48];
        snprintf(name, sizeof name, "image_%d", i);
        rc = write_pictures(r, name, &r->images[i], 1, false);
        snprintf(name, sizeof name, "image_%d_resized", i);
        if (!rc)
            rc = write_pictures(r, name, &r->images[i], 1, true);
        snprintf(name, sizeof name, "image_%d_pixel_values", i);
        if (!rc)
            rc = write_pixels(r, d, name, &r->images[i], 1, false);
    }
    if (!rc && r->frame_count) {
        double *seconds = ic_calloc((size_t)r->frame_count, sizeof *seconds);
        for (int i = 0; i < r->frame_count; i++)
            seconds[i] = (double)r->frames[i].source->pts_us / 1e6;
        rc = write_npy(r->out, "video_timestamps", "<f8", seconds, 8, 1,
                       (const int64_t[]){r->frame_count});
        ic_free(seconds);
        if (!rc)
            rc = write_pictures(r, "video", r->frames, r->frame_count, false);
        if (!rc)
            rc = write_pictures(r, "video_resized", r->frames, r->frame_count, true);
        if (!rc)
            rc = write_pixels(r, d, "video_pixel_values", r->frames, r->frame_count, true);
    }
    ic_device_close(&d);
    return rc;
}

static int write_positions(const logits_run *r)
{
    ic_slab *slab = ic_session_slab(r->session);
    int count = ic_slab_count(slab, 0, 0), n = r->prompt_rows;
    ic_pos *pos = ic_calloc((size_t)count, sizeof *pos);
    int32_t *thw = ic_calloc((size_t)n * 3, sizeof *thw);
    ic_slab_rows(slab, 0, 0, NULL, NULL, pos);
    for (int i = 0; i < n; i++) {
        thw[i] = pos[i].t;
        thw[n + i] = pos[i].h;
        thw[2 * n + i] = pos[i].w;
    }
    int rc = write_npy(r->out, "position_ids", "<i4", thw, 4, 2, (const int64_t[]){3, n});
    ic_free(thw);
    ic_free(pos);
    return rc;
}

/* --- pictures -----------------------------------------------------------------------------------
 */

#ifdef IC_HAVE_SERVER
/* All samples of a file, up to `room` pictures. */
static int read_pictures(const char *path, double fps, picture *to, int room, int *count,
                         ic_error *e)
{
    const char *roots[] = {"/"};
    ic_media_source source = {
        .kind = IC_MEDIA_FILE, .name = path, .roots = roots, .roots_count = 1, .size = -1};
    ic_media_config config;
    ic_media *media = NULL;
    ic_media_config_init(&config);
    config.fps = fps;
    config.max_frames = (uint64_t)room;
    int rc = ic_media_open(&media, &source, &config, e);
    while (!rc && *count < room) {
        rc = ic_media_next(media, &to[*count].source, e);
        if (!rc && *count && to[*count].source->bytes != to[0].source->bytes)
            rc = ic_error_set(e, IC_EUNSUPPORTED, "%s changes its size midway", path);
        *count += to[*count].source != NULL;
    }
    ic_media_close(&media);
    return rc == IC_ECLOSED ? IC_OK : rc;
}
#else
static int read_pictures(const char *path, double fps, picture *to, int room, int *count,
                         ic_error *e)
{
    (void)fps, (void)to, (void)room, (void)count;
    return ic_error_set(e, IC_EUNSUPPORTED, "%s: this build has no media (INFCHAT_SERVER=OFF)",
                        path);
}
#endif

static int fit_pictures(logits_run *r, int frame_tokens, ic_error *e)
{
    int rc = IC_OK;
    for (int i = 0; !rc && i < r->image_count; i++) {
        picture *p = &r->images[i];
        rc = ic_engine_grid(r->engine, p->source->width, p->source->height, frame_tokens, false,
                            &p->grid, e);
        if (!rc)
            rc = ic_engine_fit_frame(r->engine, p->source, &p->grid, &p->fitted, e);
    }
    for (int i = 0; !rc && i < r->frame_count; i++) {
        picture *p = &r->frames[i];
        int width = p->source->width, height = p->source->height;
        if (frame_tokens)
            rc = ic_engine_grid(r->engine, width, height, frame_tokens, true, &p->grid, e);
        else
            rc = ic_engine_clip_grid(r->engine, width, height, r->frame_count, &p->grid, e);
        if (!rc)
            rc = ic_engine_fit_frame(r->engine, p->source, &p->grid, &p->fitted, e);
    }
    return rc;
}

static void drop_pictures(picture *p, int count)
{
    for (int i = 0; p && i < count; i++) {
        ic_frame_unref(&p[i].source);
        ic_frame_unref(&p[i].fitted);
    }
    ic_free(p);
}

/* --- the run ------------------------------------------------------------------------------------
 */

static void note_row(void *arg, const ic_session *s, uint32_t ordinal, int32_t id,
                     const float *logits)
{
    (void)s;
    logits_run *r = arg;
    size_t vocab = (size_t)ic_engine_info_of(r->engine)->vocab;
    if ((int)ordinal >= r->capacity) {
        r->capacity = 2 * (int)ordinal + 64;
        r->ids = ic_realloc(r->ids, (size_t)r->capacity * sizeof *r->ids);
        r->logits = ic_realloc(r->logits, (size_t)r->capacity * vocab * sizeof *r->logits);
    }
    r->ids[ordinal] = id;
    memcpy(r->logits + ordinal * vocab, logits, vocab * sizeof *logits);
    r->rows = (int)ordinal + 1;
}

static int open_session(logits_run *r, const char *prompt, int greedy, ic_error *e)
{
    const ic_engine_info *info = ic_engine_info_of(r->engine);
    int rows = (int)strlen(prompt) + greedy + ROWS_SPARE;
    for (int i = 0; i < r->image_count; i++)
        rows += r->images[i].grid.tokens_h * r->images[i].grid.tokens_w + ROWS_PER_GROUP;
    for (int i = 0; i < r->frame_count; i += info->temporal)
        rows += r->frames[i].grid.tokens_h * r->frames[i].grid.tokens_w + ROWS_PER_GROUP;
    ic_session_config config;
    if (rows > info->trained_tokens / 2)
        rows = info->trained_tokens / 2;
    ic_session_config_default(r->engine, rows, &config);
    snprintf(config.policy, sizeof config.policy, "full");
    config.pending_bytes_max = UINT64_MAX;
    config.group_tokens_max = 0;
    return ic_session_new(&r->session, r->engine, &config, e);
}

static int feed(logits_run *r, const char *system, const char *prompt, int greedy, ic_error *e)
{
    int rc = system ? ic_session_system(r->session, system, e) : IC_OK;
    for (int i = 0; !rc && i < r->image_count; i++) {
        ic_frame *f = ic_frame_ref(r->images[i].fitted);
        rc = ic_session_image(r->session, &f, &r->images[i].grid, e);
    }
    for (int i = 0; !rc && i < r->frame_count; i++) {
        ic_frame *f = ic_frame_ref(r->frames[i].fitted);
        rc = ic_session_frame(r->session, &f, &r->frames[i].grid, e);
    }
    ic_sampling sampling = {.top_p = 1, .repetition_penalty = 1, .max_tokens = greedy};
    return rc ? rc : ic_session_ask(r->session, prompt, &sampling, e);
}

/* Steps to the end of the answer; prints its text. */
static int answer(logits_run *r, int32_t *tokens, int *count, ic_error *e)
{
    ic_utf8_stream utf8 = {0};
    char text[512];
    while (ic_session_is_ready(r->session)) {
        ic_slice slice = {.session = r->session, .max_rows = 512};
        int rc = ic_engine_step(r->engine, &slice, 1, e);
        if (rc)
            return rc;
        if (slice.progress == IC_PROGRESS_FAILED) {
            *e = slice.error;
            return e->code;
        }
        if (slice.progress == IC_PROGRESS_TOKEN || slice.finish == IC_FINISH_STOP) {
            if (*count == 0)
                r->prompt_rows = r->rows;
            tokens[(*count)++] = slice.token;
        }
        size_t bytes = 0;
        const char *piece =
            slice.progress == IC_PROGRESS_TOKEN
                ? ic_tokenizer_piece(ic_engine_tokenizer(r->engine), slice.token, &bytes)
                : NULL;
        if (piece && IC_UTF8_STREAM_ROOM(bytes) <= sizeof text)
            fwrite(text, 1, ic_utf8_stream_push(&utf8, piece, bytes, false, text), stdout);
    }
    printf("\n");
    return IC_OK;
}

static int write_results(logits_run *r, const int32_t *tokens, int count)
{
    int64_t vocab = ic_engine_info_of(r->engine)->vocab, n = r->prompt_rows;
    int rc = write_npy(r->out, "input_ids", "<i4", r->ids, 4, 1, &n);
    if (!rc)
        rc = write_npy(r->out, "logits", "<f4", r->logits, 4, 2, (const int64_t[]){n, vocab});
    if (!rc)
        rc = write_npy(r->out, "greedy", "<i4", tokens, 4, 1, (const int64_t[]){count});
    if (!rc)
        rc = write_positions(r);
    return rc ? rc : write_media(r);
}

static int open_media(logits_run *r, int argc, char **argv, ic_error *e)
{
    int rc = IC_OK;
    r->images = ic_calloc(PICTURES_MAX, sizeof *r->images);
    r->frames = ic_calloc(PICTURES_MAX, sizeof *r->frames);
    for (int i = 0; !rc && i + 1 < argc; i++) {
        int one = 0;
        if (strcmp(argv[i], "--image") == 0 && r->image_count < PICTURES_MAX) {
            rc = read_pictures(argv[i + 1], 0, &r->images[r->image_count], 1, &one, e);
            r->image_count += one;
        }
    }
    const char *video = ic_bench_option(argc, argv, "--video", NULL);
    const char *fps = ic_bench_option(argc, argv, "--fps", NULL);
    int most = (int)ic_bench_number(argc, argv, "--max-frames", 768);
    most = most < 1 ? 1 : most > PICTURES_MAX ? PICTURES_MAX : most;
    if (!rc && video)
        rc = read_pictures(video, fps ? atof(fps) : r->config.processor.fps, r->frames, most,
                           &r->frame_count, e);
    int tokens = (int)ic_bench_number(argc, argv, "--frame-tokens", 0);
    return rc ? rc : fit_pictures(r, tokens, e);
}

static int run_prompt(logits_run *r, int argc, char **argv, ic_error *e)
{
    const char *prompt = ic_bench_option(argc, argv, "--prompt", NULL);
    int greedy = (int)ic_bench_number(argc, argv, "--greedy", 1);
    if (greedy < 1 || greedy > 1 << 16)
        return ic_error_set(e, IC_EINVAL, "--greedy %d is not in 1 .. %d", greedy, 1 << 16);
    ic_engine_config config = {.model_dir = ic_bench_option(argc, argv, "--model", NULL),
                               .device = "cpu",
                               .dtype = ic_bench_option(argc, argv, "--dtype", "auto"),
                               .threads = (int)ic_bench_number(argc, argv, "--threads", 0)};
    if (mkdir(r->out, 0777) && errno != EEXIST)
        return ic_error_set(e, IC_EIO, "%s: %s", r->out, strerror(errno));
    int rc = ic_model_config_load(&r->config, config.model_dir, e);
    if (!rc)
        rc = ic_engine_open(&r->engine, &config, e);
    if (!rc)
        rc = open_media(r, argc, argv, e);
    if (!rc)
        rc = open_session(r, prompt, greedy, e);
    if (rc)
        return rc;
    ic_engine_watch_logits(r->engine, note_row, r);
    int32_t *tokens = ic_calloc((size_t)greedy + 1, sizeof *tokens);
    int count = 0;
    rc = feed(r, ic_bench_option(argc, argv, "--system", NULL), prompt, greedy, e);
    if (!rc)
        rc = answer(r, tokens, &count, e);
    if (!rc && write_results(r, tokens, count))
        rc = ic_error_set(e, IC_EIO, "results could not be written to %s", r->out);
    ic_free(tokens);
    return rc;
}

static int run(int argc, char **argv)
{
    static const char *const flags[] = {NULL};
    static const char *const options[] = {
        "--model",        "--prompt", "--system", "--image", "--video",   "--fps", "--max-frames",
        "--frame-tokens", "--greedy", "--out",    "--dtype", "--threads", NULL};
    if (!ic_bench_check(argc, argv, flags, options))
        return 2;
    logits_run r = {.out = ic_bench_option(argc, argv, "--out", NULL)};
    if (!r.out || !ic_bench_option(argc, argv, "--model", NULL)
        || !ic_bench_option(argc, argv, "--prompt", NULL)) {
        fprintf(stderr, "logits needs --model DIR, --prompt TEXT and --out DIR\n");
        return 2;
    }
    ic_error e = {0};
    int rc = run_prompt(&r, argc, argv, &e);
    if (rc)
        fprintf(stderr, "%s\n", e.text);
    ic_session_destroy(&r.session);
    ic_engine_close(&r.engine);
    drop_pictures(r.images, r.image_count);
    drop_pictures(r.frames, r.frame_count);
    ic_free(r.ids);
    ic_free(r.logits);
    return rc ? 1 : 0;
}

const ic_bench_command ic_bench_logits = {
    "logits",
    "--model DIR --prompt TEXT --out DIR [--image FILE]... [--video FILE] [--fps N]\n"
    "           [--max-frames N] [--frame-tokens N] [--system TEXT] [--greedy N] [--dtype D]\n"
    "           [--threads N]",
    "token ids, position ids, frames, pixel values and logits of a prompt, as .npy files", run};
