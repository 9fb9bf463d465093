#include "ic_test_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_session_priv.h"
#include "ic_test.h"

static ic_test_log *watched;
static int watched_count;

const char *ic_test_device(void)
{
    const char *name = getenv("INFCHAT_TEST_DEVICE");
    return name && name[0] ? name : "cpu";
}

int ic_test_device_is_there(void)
{
    ic_device *d = NULL;
    ic_error e = {0};
    if (ic_device_open(&d, &(ic_device_config){.kind = ic_test_device()}, &e)) {
        printf("skipped: %s\n", e.text);
        return 0;
    }
    printf("device: %s\n", ic_device_info_of(d)->name);
    ic_device_close(&d);
    return 1;
}

ic_engine *ic_test_engine(const char *model, const char *dtype, int threads)
{
    char *dir = ic_strf("%s/tests/golden/models/%s", IC_SOURCE_DIR, model);
    ic_engine_config config = {
        .model_dir = dir, .device = ic_test_device(), .dtype = dtype, .threads = threads};
    /* Single precision means it: no 16-bit tiles on a device that would choose them. */
    config.plain_loops = strcmp(ic_test_device(), "cpu") != 0 && dtype && strcmp(dtype, "f32") == 0;
    ic_engine *engine = NULL;
    ic_error e = {0};
    int rc = ic_engine_open(&engine, &config, &e);
    ic_free(dir);
    ic_assert_ok(rc, &e);
    return engine;
}

void ic_test_engine_never_stop(ic_engine *engine)
{
    engine->config.stop_count = 0;
}

ic_engine *ic_test_engine_small(ic_grid *grid)
{
    ic_error e = {0};
    ic_engine *engine = ic_test_engine("gqa2_tied_f32", NULL, 1);
    ic_test_engine_never_stop(engine);
    if (grid)
        ic_assert_ok(ic_engine_grid(engine, 48, 32, 0, true, grid, &e), &e);
    return engine;
}

ic_session *ic_test_session(ic_engine *engine, const char *policy, int cache_tokens)
{
    ic_session_config config;
    ic_session *s = NULL;
    ic_error e = {0};
    ic_session_config_default(engine, cache_tokens, &config);
    if (policy)
        snprintf(config.policy, sizeof config.policy, "%s", policy);
    ic_assert_ok(ic_session_new(&s, engine, &config, &e), &e);
    return s;
}

ic_sampling ic_test_greedy(int max_tokens)
{
    return (ic_sampling){.top_p = 1, .repetition_penalty = 1, .max_tokens = max_tokens};
}

ic_sampling ic_test_drawn(int max_tokens)
{
    return (ic_sampling){.temperature = 5.0f,
                         .top_k = 200,
                         .top_p = 1.0f,
                         .seed = 11,
                         .repetition_penalty = 1.1f,
                         .max_tokens = max_tokens};
}

/* --- what happened ------------------------------------------------------------------------------
 */

void ic_test_log_init(ic_test_log *log, const ic_session *s, int vocab)
{
    *log = (ic_test_log){.session = s, .vocab = vocab};
}

void ic_test_log_fini(ic_test_log *log)
{
    free(log->ids);
    free(log->logits);
    *log = (ic_test_log){0};
}

static void note(void *arg, const ic_session *s, uint32_t ordinal, int32_t id, const float *logits)
{
    (void)arg;
    ic_test_log *log = NULL;
    for (int i = 0; i < watched_count; i++) {
        if (watched[i].session == s)
            log = &watched[i];
    }
    if (!log)
        return;
    if ((int)ordinal >= log->capacity) {
        log->capacity = 2 * (int)ordinal + 256;
        size_t rows = (size_t)log->capacity;
        log->ids = realloc(log->ids, rows * sizeof *log->ids);
        log->logits = realloc(log->logits, rows * (size_t)log->vocab * sizeof *log->logits);
        assert_non_null(log->ids);
        assert_non_null(log->logits);
    }
    log->ids[ordinal] = id;
    memcpy(log->logits + (size_t)ordinal * (size_t)log->vocab, logits,
           (size_t)log->vocab * sizeof *logits);
    log->rows = (int)ordinal + 1;
}

void ic_test_watch(ic_engine *engine, ic_test_log *logs, int count)
{
    watched = logs;
    watched_count = logs ? count : 0;
    ic_engine_watch_logits(engine, logs ? note : NULL, NULL);
}

static void take_result(ic_test_log *log, const ic_slice *slice)
{
    if (slice->progress == IC_PROGRESS_TOKEN) {
        assert_true(log->answer_count < 4096);
        log->answer[log->answer_count++] = slice->token;
    }
    if (slice->finish)
        log->finish = slice->finish;
    if (slice->progress == IC_PROGRESS_FAILED) {
        log->failures++;
        log->failure = slice->error;
    }
}

static unsigned next_random(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 16;
}

void ic_test_pump(ic_engine *engine, ic_test_log *logs, int count, int rows, unsigned *seed)
{
    for (int steps = 0;; steps++) {
        ic_slice slices[16];
        ic_test_log *of[16];
        int n = 0, ready = 0;
        for (int i = 0; i < count; i++) {
            if (!ic_session_is_ready(logs[i].session))
                continue;
            ready++;
            if (rows == 0 && next_random(seed) % 3 == 0)
                continue;
            of[n] = &logs[i];
            slices[n++] = (ic_slice){.session = (ic_session *)logs[i].session,
                                     .max_rows = rows ? rows : 1 + (int)(next_random(seed) % 70)};
        }
        if (!ready)
            return;
        ic_error e = {0};
        ic_assert_ok(ic_engine_step(engine, slices, n, &e), &e);
        for (int i = 0; i < n; i++)
            take_result(of[i], &slices[i]);
        assert_true(steps < 100000);
    }
}

int ic_test_steps(ic_engine *engine, ic_session *s, int steps, ic_test_shown *out)
{
    int made = 0;
    for (; made < steps && ic_session_is_ready(s); made++) {
        ic_error e = {0};
        ic_slice slice = {.session = s, .max_rows = 9};
        ic_assert_ok(ic_engine_step(engine, &slice, 1, &e), &e);
        assert_int_not_equal(slice.progress, IC_PROGRESS_FAILED);
        if (slice.progress == IC_PROGRESS_TOKEN) {
            assert_true(out->count < (int)(sizeof out->token / sizeof *out->token));
            out->token[out->count++] = slice.token;
        }
        if (slice.finish)
            out->finish = slice.finish;
    }
    return made;
}

ic_session *ic_test_session_answered(ic_engine *engine, const char *policy, int cache_tokens,
                                     const ic_sampling *sampling)
{
    ic_error e = {0};
    ic_test_shown shown = {0};
    ic_session *s = ic_test_session(engine, policy, cache_tokens);
    ic_assert_ok(ic_session_system(s, "You are a careful observer.", &e), &e);
    ic_assert_ok(ic_session_ask(s, "What did you see before all of this began?", sampling, &e), &e);
    ic_test_steps(engine, s, 1000, &shown);
    assert_int_equal(shown.count, sampling->max_tokens);
    return s;
}

static void save_all(ic_session *s, ic_buf *out)
{
    ic_error e = {0};
    uint64_t cursor = 0;
    ic_assert_ok(ic_session_save_state(s, out, &e), &e);
    for (bool more = true; more;)
        ic_assert_ok(ic_session_save_rows(s, true, &cursor, 1 << 20, out, &more), &e);
}

void ic_test_expect_same(ic_session *a, ic_session *b)
{
    ic_buf x = {0}, y = {0};
    save_all(a, &x);
    save_all(b, &y);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    ic_buf_fini(&x);
    ic_buf_fini(&y);
}

/* --- cases --------------------------------------------------------------------------------------
 */

static void load_array(const ic_test_case *c, const char *name, ic_npy *out)
{
    char path[160];
    snprintf(path, sizeof path, "cases/%s/%s.npy", c->name, name);
    ic_npy_golden(path, out);
}

void ic_test_case_load(ic_test_case *c, const char *name)
{
    *c = (ic_test_case){0};
    snprintf(c->name, sizeof c->name, "%s", name);
    char *path = ic_strf("%s/tests/golden/cases/%s/case.json", IC_SOURCE_DIR, name);
    c->json = json_load_file(path, 0, NULL);
    ic_free(path);
    assert_non_null(c->json);
    snprintf(c->model, sizeof c->model, "%s", json_string_value(json_object_get(c->json, "model")));
    load_array(c, "input_ids", &c->input_ids);
    load_array(c, "position_ids", &c->position_ids);
    load_array(c, "mm_types", &c->mm_types);
    load_array(c, "logit_rows", &c->logit_rows);
    load_array(c, "logits", &c->logits);
    load_array(c, "greedy", &c->greedy);
    for (int i = 0; i < json_integer_value(json_object_get(c->json, "images")); i++) {
        char array[32];
        snprintf(array, sizeof array, "image_%d", i);
        load_array(c, array, &c->images[i]);
    }
    for (int i = 0; i < json_integer_value(json_object_get(c->json, "videos")); i++) {
        char array[32];
        snprintf(array, sizeof array, "video_%d", i);
        load_array(c, array, &c->videos[i]);
    }
}

void ic_test_case_fini(ic_test_case *c)
{
    ic_npy *arrays[] = {&c->input_ids,  &c->position_ids, &c->mm_types,
                        &c->logit_rows, &c->logits,       &c->greedy};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        ic_npy_fini(arrays[i]);
    for (int i = 0; i < 8; i++) {
        ic_npy_fini(&c->images[i]);
        ic_npy_fini(&c->videos[i]);
    }
    json_decref(c->json);
}

int ic_test_case_turns(const ic_test_case *c)
{
    size_t i;
    json_t *message;
    int turns = 0;
    json_array_foreach(json_object_get(c->json, "messages"), i, message) turns +=
        strcmp(json_string_value(json_object_get(message, "role")), "user") == 0;
    return turns;
}

static ic_frame *frame_of(const ic_session *s, const uint8_t *rgb, int height, int width,
                          const ic_grid *grid)
{
    ic_error e = {0};
    ic_frame *f = ic_frame_new(width, height), *fitted = NULL;
    assert_non_null(f);
    memcpy(f->rgb, rgb, f->bytes);
    ic_assert_ok(ic_engine_fit_frame(s->engine, f, grid, &fitted, &e), &e);
    ic_frame_unref(&f);
    return fitted;
}

static void feed_image(const ic_npy *a, ic_session *s)
{
    ic_error e = {0};
    ic_grid grid;
    int height = (int)a->shape[0], width = (int)a->shape[1];
    ic_assert_ok(ic_engine_grid(s->engine, width, height, 0, false, &grid, &e), &e);
    ic_frame *f = frame_of(s, a->u8, height, width, &grid);
    ic_assert_ok(ic_session_image(s, &f, &grid, &e), &e);
}

static void feed_video(const ic_test_case *c, int index, ic_session *s)
{
    const ic_npy *a = &c->videos[index];
    json_t *source = json_array_get(json_object_get(c->json, "video_sources"), (size_t)index);
    double fps = json_number_value(json_object_get(source, "fps"));
    json_t *indices = json_object_get(source, "indices");
    ic_error e = {0};
    ic_grid grid;
    int frames = (int)a->shape[0], height = (int)a->shape[1], width = (int)a->shape[2];
    ic_assert_ok(ic_engine_clip_grid(s->engine, width, height, frames, &grid, &e), &e);
    for (int i = 0; i < frames; i++) {
        ic_frame *f =
            frame_of(s, a->u8 + (size_t)i * 3 * (size_t)(height * width), height, width, &grid);
        double at = (double)json_integer_value(json_array_get(indices, (size_t)i)) / fps;
        f->pts_us = (int64_t)(at * 1e6 + 0.5);
        ic_assert_ok(ic_session_frame(s, &f, &grid, &e), &e);
    }
    ic_assert_ok(ic_session_frames_end(s, &e), &e);
}

static void feed_part(const ic_test_case *c, json_t *part, ic_session *s)
{
    ic_error e = {0};
    const char *type = json_string_value(json_object_get(part, "type"));
    if (strcmp(type, "text") == 0)
        ic_assert_ok(ic_session_text(s, json_string_value(json_object_get(part, "text")), &e), &e);
    else if (strcmp(type, "image") == 0)
        feed_image(&c->images[json_integer_value(json_object_get(part, "image"))], s);
    else
        feed_video(c, (int)json_integer_value(json_object_get(part, "video")), s);
}

static const char *text_of(json_t *message)
{
    json_t *part = json_array_get(json_object_get(message, "content"), 0);
    return json_string_value(json_object_get(part, "text"));
}

/* An answer of the past: what it said is forced, and there it ends. */
static void feed_answer(ic_session *s, const char *text)
{
    ic_error e = {0};
    int32_t *ids = NULL;
    int count = 0;
    ic_assert_ok(ic_tokenizer_encode(ic_engine_tokenizer(s->engine), text, strlen(text), false,
                                     &ids, &count, &e),
                 &e);
    ic_assert_ok(ic_session_force(s, ids, count, &e), &e);
    ic_free(ids);
    ic_session_cancel(s);
}

void ic_test_case_turn(const ic_test_case *c, ic_session *s, int turn, const ic_sampling *last)
{
    json_t *messages = json_object_get(c->json, "messages"), *message, *part;
    ic_error e = {0};
    size_t i, n;
    int at = 0;
    json_array_foreach(messages, i, message)
    {
        const char *role = json_string_value(json_object_get(message, "role"));
        if (strcmp(role, "system") == 0) {
            if (turn == 0)
                ic_assert_ok(ic_session_system(s, text_of(message), &e), &e);
        } else if (strcmp(role, "user") == 0) {
            if (at++ != turn)
                continue;
            json_array_foreach(json_object_get(message, "content"), n, part) feed_part(c, part, s);
            json_t *answer = json_array_get(messages, i + 1);
            ic_sampling past = ic_test_greedy(4096);
            ic_assert_ok(ic_session_ask(s, "", answer ? &past : last, &e), &e);
            if (answer)
                feed_answer(s, text_of(answer));
        }
    }
}

void ic_test_case_run(const ic_test_case *c, ic_engine *engine, ic_test_log *log, int rows,
                      const ic_sampling *last)
{
    for (int turn = 0; turn < ic_test_case_turns(c); turn++) {
        log->answer_count = 0;
        ic_test_case_turn(c, (ic_session *)log->session, turn, last);
        ic_test_pump(engine, log, 1, rows, NULL);
        assert_int_equal(log->failures, 0);
    }
}

ic_frame *ic_test_frame(const ic_grid *grid, int n, int64_t pts_us)
{
    ic_frame *f = ic_frame_new(grid->width, grid->height);
    assert_non_null(f);
    for (size_t i = 0; i < f->bytes; i++)
        f->rgb[i] = (uint8_t)((size_t)n * 37 + i * (size_t)(n % 5 + 1) / 7);
    f->pts_us = pts_us;
    return f;
}
