/* infchat-bench eval: the questions of a set (models/demo/eval) put to the engine itself, on any
 * device: right answers, and how many. The clips come as frames that were decoded before (--write,
 * in a build with FFmpeg: sampled, fitted to the model's grid), so that a machine with a GPU and
 * nothing else can ask them. */
/* clang-format off */
/* frames: "ICEF", then per clip of the set: u32 width, height (of the grid), frames; per frame: u64
 *         pts_us; u32 bytes, and so many of: pixels xor those of the frame before, as runs: u16
 *         zeros, u16 others, the others */
/* clang-format on */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_buf.h"
#include "base/ic_mem.h"
#include "bench/ic_bench.h"
#include "bench/ic_bench_answer.h"
#include "engine/ic_session.h"
#ifdef IC_HAVE_SERVER
#include "actors/media/ic_media.h"
#endif

enum { MAGIC = 0x46454349, ANSWER_TOKENS = 64, ANSWER_BYTES = 2048, RUN_MAX = 0xffff };

typedef struct eval {
    ic_engine *engine;
    json_t *clips; /* questions.json */
    const char *folder;
    bool verbose;
    int right, asked;
} eval;

/* --- frames as bytes --- */

/* Onto the frame before. IC_EFORMAT. */
static int unpack(ic_cursor *in, uint8_t *rgb, size_t size)
{
    size_t at = 0;
    while (ic_cursor_left(in) > 0) {
        uint32_t run = ic_cursor_u32(in);
        size_t others = run >> 16;
        const uint8_t *bytes = ic_cursor_bytes(in, others);
        at += run & RUN_MAX;
        if (in->status || others > size || at > size - others)
            return IC_EFORMAT;
        for (size_t i = 0; i < others; i++)
            rgb[at++] ^= bytes[i];
    }
    return in->status;
}

/* --- writing --- */

#ifdef IC_HAVE_SERVER
static void put_run(ic_buf *b, const uint8_t *bytes, size_t zeros, size_t others)
{
    ic_buf_u32(b, (uint32_t)zeros | (uint32_t)others << 16);
    ic_buf_append(b, bytes, others);
}

/* Zeros of fewer than four bytes are no run of their own. */
static void pack(const uint8_t *delta, size_t size, ic_buf *b)
{
    size_t at = 0;
    while (at < size) {
        size_t zeros = 0, others = 0;
        while (at + zeros < size && zeros < RUN_MAX && delta[at + zeros] == 0)
            zeros++;
        at += zeros;
        while (at + others < size && others < RUN_MAX
               && (size - at - others < 4 || memcmp(delta + at + others, "\0\0\0\0", 4) != 0))
            others++;
        put_run(b, delta + at, zeros, others);
        at += others;
    }
}

/* Appends one frame; `last` is the one before, and becomes this one. */
static void put_frame(ic_buf *out, const ic_frame *f, uint8_t *last)
{
    ic_buf packed = {0};
    for (size_t i = 0; i < f->bytes; i++)
        last[i] ^= f->rgb[i];
    pack(last, f->bytes, &packed);
    memcpy(last, f->rgb, f->bytes);
    ic_buf_u64(out, (uint64_t)f->pts_us);
    ic_buf_blob(out, packed.data, (uint32_t)packed.size);
    ic_buf_fini(&packed);
}

static int put_frames(const eval *v, ic_media *media, const ic_grid *grid, ic_buf *out, ic_error *e)
{
    uint8_t *last = ic_calloc((size_t)grid->width * (size_t)grid->height * 3, 1);
    size_t head = out->size + 8;
    uint32_t count = 0;
    int rc = 0;
    ic_buf_u32(out, (uint32_t)grid->width);
    ic_buf_u32(out, (uint32_t)grid->height);
    ic_buf_u32(out, 0);
    while (rc == 0) {
        ic_frame *raw = NULL, *fitted = NULL;
        rc = ic_media_next(media, &raw, e);
        rc = rc ? rc : ic_engine_fit_frame(v->engine, raw, grid, &fitted, e);
        if (rc == 0) {
            put_frame(out, fitted, last);
            count++;
        }
        ic_frame_unref(&raw);
        ic_frame_unref(&fitted);
    }
    memcpy(out->data + head, &count, sizeof count); /* as ic_buf_u32 on this machine */
    ic_free(last);
    return rc == IC_ECLOSED ? out->status : rc;
}

static int put_clip(const eval *v, const json_t *clip, ic_buf *out, ic_error *e)
{
    char *root = realpath(v->folder, NULL);
    const char *roots[] = {root}, *name = json_string_value(json_object_get(clip, "clip"));
    char *path = ic_strf("%s/%s", root ? root : v->folder, name ? name : "");
    ic_media_source source = {
        .kind = IC_MEDIA_FILE, .name = path, .roots = roots, .roots_count = 1, .size = -1};
    ic_media_config config;
    ic_media *media = NULL;
    ic_grid grid;
    ic_media_config_init(&config);
    config.fps = json_number_value(json_object_get(clip, "fps"));
    config.threads = 1;
    int rc = ic_media_open(&media, &source, &config, e);
    if (rc == 0) {
        const ic_media_info *info = ic_media_get_info(media);
        rc = ic_engine_grid(v->engine, info->width, info->height, 0, true, &grid, e);
    }
    rc = rc ? rc : put_frames(v, media, &grid, out, e);
    ic_media_close(&media);
    ic_free(path);
    free(root);
    return rc;
}

static int write_frames(const eval *v, const char *path, ic_error *e)
{
    ic_buf out = {0};
    size_t i;
    json_t *clip;
    int rc = ic_buf_u32(&out, MAGIC);
    json_array_foreach(v->clips, i, clip)
    {
        rc = rc ? rc : put_clip(v, clip, &out, e);
    }
    FILE *f = rc ? NULL : fopen(path, "wbe");
    bool whole = f && fwrite(out.data, 1, out.size, f) == out.size;
    whole = f && fclose(f) == 0 && whole;
    if (rc == 0 && !whole)
        rc = ic_error_set(e, IC_EIO, "%s cannot be written", path);
    if (rc == 0)
        printf("%s: frames of %zu clips, %zu bytes\n", path, json_array_size(v->clips), out.size);
    ic_buf_fini(&out);
    return rc;
}
#else
static int write_frames(const eval *v, const char *path, ic_error *e)
{
    (void)v;
    return ic_error_set(e, IC_EUNSUPPORTED, "%s: this build has no decoder to make frames with",
                        path);
}
#endif

/* --- asking --- */

/* Steps the session until nothing is left to do; its answer, if there is one, goes to `answer`. */
static int settle(const eval *v, ic_session *s, char *answer, ic_error *e)
{
    size_t used = 0;
    answer[0] = '\0';
    while (ic_session_is_ready(s)) {
        ic_slice slice = {.session = s, .max_rows = 512};
        int rc = ic_engine_step(v->engine, &slice, 1, e);
        if (rc == 0 && slice.progress == IC_PROGRESS_FAILED) {
            *e = slice.error;
            rc = slice.error.code;
        }
        if (rc)
            return rc;
        if (slice.progress != IC_PROGRESS_TOKEN)
            continue;
        size_t bytes = 0;
        const char *piece = ic_tokenizer_piece(ic_engine_tokenizer(v->engine), slice.token, &bytes);
        if (piece && used + bytes < ANSWER_BYTES) {
            memcpy(answer + used, piece, bytes);
            answer[used += bytes] = '\0';
        }
    }
    return 0;
}

static int give_frames(const eval *v, ic_session *s, ic_cursor *in, ic_error *e)
{
    char answer[ANSWER_BYTES];
    int side = ic_engine_info_of(v->engine)->patch_pixels;
    ic_grid grid = {.width = (int)ic_cursor_u32(in)};
    grid.height = (int)ic_cursor_u32(in);
    uint32_t frames = ic_cursor_u32(in), packed = 0;
    if (in->status || grid.width < side || grid.height < side || grid.width > 4096
        || grid.height > 4096 || grid.width % side || grid.height % side)
        return ic_error_set(e, IC_EFORMAT, "the frames are not for this model");
    grid.tokens_w = grid.width / side;
    grid.tokens_h = grid.height / side;
    size_t size = (size_t)grid.width * (size_t)grid.height * 3;
    uint8_t *last = ic_calloc(size, 1);
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < frames; i++) {
        ic_frame *f = ic_frame_new(grid.width, grid.height);
        if (!f) {
            rc = ic_error_set(e, IC_ENOMEM, "no memory for a frame");
            break;
        }
        f->pts_us = (int64_t)ic_cursor_u64(in);
        f->ordinal = i;
        const void *bytes = ic_cursor_blob(in, &packed);
        ic_cursor runs;
        ic_cursor_init(&runs, bytes, bytes ? packed : 0);
        if (!bytes || unpack(&runs, last, size))
            rc = ic_error_set(e, IC_EFORMAT, "the frames are damaged");
        memcpy(f->rgb, last, size);
        rc = rc ? rc : ic_session_frame(s, &f, &grid, e);
        ic_frame_unref(&f);
        rc = rc ? rc : settle(v, s, answer, e);
    }
    ic_free(last);
    rc = rc ? rc : ic_session_frames_end(s, e);
    return rc ? rc : settle(v, s, answer, e);
}

/* The phrases of a round, all of which an answer must have. */
static char *accept_of(const json_t *round)
{
    char *all = ic_strf("%s", "");
    const json_t *list = json_object_get(round, "accept");
    for (size_t i = 0; i < json_array_size(list); i++) {
        char *longer =
            ic_strf("%s%s%s", all, i ? "&" : "", json_string_value(json_array_get(list, i)));
        ic_free(all);
        all = longer;
    }
    return all;
}

static int ask(eval *v, ic_session *s, const json_t *round, ic_error *e)
{
    char answer[ANSWER_BYTES];
    const char *question = json_string_value(json_object_get(round, "q"));
    ic_sampling sampling = ic_engine_info_of(v->engine)->sampling;
    sampling.max_tokens = ANSWER_TOKENS;
    int rc = ic_session_ask(s, question ? question : "", &sampling, e);
    rc = rc ? rc : settle(v, s, answer, e);
    if (rc)
        return rc;
    char *accept = accept_of(round);
    bool right = ic_bench_is_right(answer, accept);
    if (v->verbose)
        fprintf(stderr, "%s | %s | %s | %s\n", question, answer, accept, right ? "right" : "wrong");
    ic_free(accept);
    v->right += right;
    v->asked++;
    return 0;
}

static int play_clip(eval *v, const json_t *clip, ic_cursor *in, ic_error *e)
{
    ic_session_config config;
    ic_session *s = NULL;
    size_t i;
    json_t *round;
    ic_session_config_default(v->engine, 0, &config);
    int rc = ic_session_new(&s, v->engine, &config, e);
    rc = rc ? rc : give_frames(v, s, in, e);
    json_array_foreach(json_object_get(clip, "rounds"), i, round)
    {
        rc = rc ? rc : ask(v, s, round, e);
    }
    ic_session_destroy(&s);
    return rc;
}

static int read_file(const char *path, ic_buf *b, ic_error *e)
{
    FILE *f = fopen(path, "rbe");
    char piece[1 << 16];
    size_t got;
    if (!f)
        return ic_error_set(e, IC_ENOTFOUND,
                            "%s cannot be read: infchat-bench eval --write makes it", path);
    while ((got = fread(piece, 1, sizeof piece, f)) > 0)
        ic_buf_append(b, piece, got);
    fclose(f);
    return b->status;
}

static int ask_all(eval *v, const char *path, ic_error *e)
{
    ic_buf frames = {0};
    ic_cursor in;
    size_t i;
    json_t *clip;
    int rc = read_file(path, &frames, e);
    ic_cursor_init(&in, frames.data, frames.size);
    if (rc == 0 && ic_cursor_u32(&in) != MAGIC)
        rc = ic_error_set(e, IC_EFORMAT, "%s holds no frames", path);
    json_array_foreach(v->clips, i, clip)
    {
        rc = rc ? rc : play_clip(v, clip, &in, e);
    }
    ic_buf_fini(&frames);
    return rc;
}

/* --- the command --- */

static int run_eval(eval *v, const ic_engine_config *config, const char *frames, const char *out,
                    ic_error *e)
{
    char *path = ic_strf("%s/questions.json", v->folder);
    json_error_t why;
    v->clips = json_load_file(path, 0, &why);
    int rc = v->clips ? 0 : ic_error_set(e, IC_EFORMAT, "%s: %s", path, why.text);
    ic_free(path);
    rc = rc ? rc : ic_engine_open(&v->engine, config, e);
    if (rc == 0)
        rc = out ? write_frames(v, out, e) : ask_all(v, frames, e);
    return rc;
}

static int run(int argc, char **argv)
{
    static const char *const flags[] = {"--json", "--verbose", NULL};
    static const char *const options[] = {"--set",     "--model", "--device", "--frames",
                                          "--threads", "--write", NULL};
    if (!ic_bench_check(argc, argv, flags, options))
        return 2;
    ic_error e = {0};
    ic_engine_config config = {.model_dir = ic_bench_option(argc, argv, "--model", "models/demo"),
                               .device = ic_bench_option(argc, argv, "--device", "cpu"),
                               .threads = (int)ic_bench_number(argc, argv, "--threads", 0)};
    eval v = {.folder = ic_bench_option(argc, argv, "--set", "models/demo/eval"),
              .verbose = ic_bench_flag(argc, argv, "--verbose")};
    double start = ic_bench_now();
    const char *out = ic_bench_option(argc, argv, "--write", NULL);
    int rc = run_eval(&v, &config, ic_bench_option(argc, argv, "--frames", "frames.bin"), out, &e);
    if (rc)
        fprintf(stderr, "infchat-bench eval: %s\n", e.text);
    else if (!out && ic_bench_flag(argc, argv, "--json"))
        printf("{\"device\":\"%s\",\"right\":%d,\"asked\":%d}\n", config.device, v.right, v.asked);
    else if (!out)
        printf("%s: %d of %d right, %.1f %%, in %.1f s\n", config.device, v.right, v.asked,
               100.0 * v.right / (v.asked ? v.asked : 1), ic_bench_now() - start);
    ic_engine_close(&v.engine);
    json_decref(v.clips);
    return rc ? 1 : 0;
}

const ic_bench_command ic_bench_eval = {
    "eval",
    "--frames FILE [--model DIR] [--set DIR] [--device cpu|cuda] [--threads N] [--json]\n"
    "           [--verbose] | --write FILE [--model DIR] [--set DIR]",
    "questions of a set of clips, on any device: how many answers are right", run};
