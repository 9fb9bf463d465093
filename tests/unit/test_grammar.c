/* ic_grammar: row by row what the chat template and the processor give; kinds, groups and pins;
 * what is held back survives a checkpoint; what is refused. */
#include "ic_test.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ic_mem.h"
#include "engine/ic_grammar.h"
#include "ic_test_npy.h"
#include "kernels/ic_slab.h"

#define GOLDEN IC_SOURCE_DIR "/tests/golden/"

typedef struct talk {
    ic_tokenizer *tokenizer;
    ic_grammar *grammar;
    ic_grammar_state *state;
    ic_grammar_rows rows;
} talk;

static void talk_open(talk *t, const char *tokenizer_dir)
{
    ic_error e = {0};
    *t = (talk){0};
    ic_assert_ok(ic_tokenizer_open(&t->tokenizer, tokenizer_dir, &e), &e);
    ic_assert_ok(ic_grammar_open(&t->grammar, tokenizer_dir, "qwen3-vl", t->tokenizer, &e), &e);
    t->state = ic_grammar_state_new(t->grammar);
}

static void talk_close(talk *t)
{
    ic_grammar_rows_fini(&t->rows);
    ic_grammar_state_destroy(&t->state);
    ic_grammar_close(&t->grammar);
    ic_tokenizer_close(&t->tokenizer);
}

/* The state goes through its saved form: nothing may depend on what is not in it. */
static void pass_through_checkpoint(talk *t)
{
    ic_buf saved;
    ic_buf_init(&saved, 0);
    assert_int_equal(ic_grammar_state_save(t->state, &saved), IC_OK);
    ic_grammar_state_destroy(&t->state);
    t->state = ic_grammar_state_new(t->grammar);
    ic_cursor in;
    ic_cursor_init(&in, saved.data, saved.size);
    ic_error e = {0};
    ic_assert_ok(ic_grammar_state_load(t->state, &in, &e), &e);
    assert_int_equal(ic_cursor_left(&in), 0);
    ic_buf_fini(&saved);
}

/* What the model says: rows that the engine makes itself. */
static void say(talk *t, const json_t *ids)
{
    size_t i;
    json_t *v;
    json_array_foreach(ids, i, v)
    {
        if (t->rows.count == t->rows.capacity) {
            t->rows.capacity = t->rows.capacity * 2 + 64;
            t->rows.row = ic_realloc(t->rows.row, (size_t)t->rows.capacity * sizeof *t->rows.row);
        }
        t->rows.row[t->rows.count++] =
            (ic_grammar_row){.id = (int32_t)json_integer_value(v), .patch = -1};
    }
}

static int apply(talk *t, const json_t *event, ic_error *e)
{
    const char *kind = json_string_value(json_array_get(event, 0));
    const json_t *first = json_array_get(event, 1);
    int a = (int)json_integer_value(first), b = (int)json_integer_value(json_array_get(event, 2));
    int c = (int)json_integer_value(json_array_get(event, 3));
    uint32_t group;
    if (strcmp(kind, "system") == 0)
        return ic_grammar_system(t->state, json_string_value(first), &t->rows, e);
    if (strcmp(kind, "text") == 0)
        return ic_grammar_text(t->state, json_string_value(first), &t->rows, e);
    if (strcmp(kind, "image") == 0)
        return ic_grammar_image(t->state, a, b, &group, &t->rows, e);
    if (strcmp(kind, "frames") == 0)
        return ic_grammar_frames(t->state, json_number_value(first), b, c, &group, &t->rows, e);
    if (strcmp(kind, "ask") == 0)
        return ic_grammar_ask(t->state, &t->rows, e);
    say(t, first);
    int32_t last = -1;
    if (json_is_true(json_array_get(event, 2))) { /* the model wrote the end of its turn itself */
        json_t *end = json_pack("[i]", (int)ic_grammar_turn_end(t->grammar));
        say(t, end);
        json_decref(end);
        last = ic_grammar_turn_end(t->grammar);
    }
    return ic_grammar_answered(t->state, last, &t->rows, e);
}

static void check_prefix(const talk *t, const json_t *ids, size_t n, int nth)
{
    for (size_t i = 0; i < n || i < (size_t)t->rows.count; i++) {
        int got = i < (size_t)t->rows.count ? t->rows.row[i].id : -1;
        int want = i < n ? (int)json_integer_value(json_array_get(ids, i)) : -1;
        if (got != want)
            fail_msg("conversation %d, row %zu: %d for %d", nth, i, got, want);
    }
}

static void check_chat(const json_t *chat, int nth)
{
    talk t;
    talk_open(&t, GOLDEN "tokenizer");
    const json_t *ids = json_object_get(chat, "ids"), *asks = json_object_get(chat, "asks");
    size_t i, asked = 0;
    json_t *event;
    json_array_foreach(json_object_get(chat, "events"), i, event)
    {
        ic_error e = {0};
        ic_assert_ok(apply(&t, event, &e), &e);
        if (strcmp(json_string_value(json_array_get(event, 0)), "ask") == 0)
            check_prefix(&t, ids, (size_t)json_integer_value(json_array_get(asks, asked++)), nth);
        pass_through_checkpoint(&t);
    }
    check_prefix(&t, ids, json_array_size(ids), nth);
    talk_close(&t);
}

/* Ensures that 160 conversations (texts that would run into a timestamp's tokens, forged special
 * tokens, empty turns, answers with and without their stop token) give the template's ids, at every
 * question and at the end, through a checkpoint after every event. */
static void test_equals_the_template(void **state)
{
    (void)state;
    char *lines = ic_test_read_file(GOLDEN "chats/chats.jsonl", NULL);
    assert_non_null(lines);
    int nth = 0;
    for (char *save, *line = strtok_r(lines, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        json_t *chat = json_loads(line, 0, NULL);
        assert_non_null(chat);
        check_chat(chat, nth++);
        json_decref(chat);
    }
    assert_int_equal(nth, 160);
    ic_free(lines);
}

/* --- the engine's golden prompts: ids from the processor, positions from get_rope_index ---------
 */

/* A case's video as the frame groups that the processor makes of it. */
static void say_video(talk *t, const json_t *info, const ic_npy *grid, int video)
{
    const json_t *stamps = json_array_get(json_object_get(info, "video_timestamps"), (size_t)video);
    assert_int_equal(json_array_size(stamps), grid->i32[video * 3]);
    for (size_t i = 0; i < json_array_size(stamps); i++) {
        uint32_t group;
        ic_error e = {0};
        double seconds = json_number_value(json_array_get(stamps, i));
        ic_assert_ok(ic_grammar_frames(t->state, seconds, grid->i32[video * 3 + 1] / 2,
                                       grid->i32[video * 3 + 2] / 2, &group, &t->rows, &e),
                     &e);
    }
}

static void say_part(talk *t, const json_t *info, const json_t *part, const ic_npy *image_grid,
                     const ic_npy *video_grid)
{
    ic_error e = {0};
    uint32_t group;
    const json_t *text = json_object_get(part, "text"), *image = json_object_get(part, "image");
    const json_t *video = json_object_get(part, "video");
    if (text)
        ic_assert_ok(ic_grammar_text(t->state, json_string_value(text), &t->rows, &e), &e);
    if (image) {
        const int32_t *grid = image_grid->i32 + json_integer_value(image) * 3;
        ic_assert_ok(ic_grammar_image(t->state, grid[1] / 2, grid[2] / 2, &group, &t->rows, &e),
                     &e);
    }
    if (video)
        say_video(t, info, video_grid, (int)json_integer_value(video));
}

static void say_answer(talk *t, const char *text)
{
    ic_error e = {0};
    int32_t *ids = NULL;
    int count = 0;
    ic_assert_ok(ic_grammar_ask(t->state, &t->rows, &e), &e);
    ic_assert_ok(ic_tokenizer_encode(t->tokenizer, text, strlen(text), false, &ids, &count, &e),
                 &e);
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(list, json_integer(ids[i]));
    say(t, list);
    ic_assert_ok(ic_grammar_answered(t->state, -1, &t->rows, &e), &e);
    json_decref(list);
    ic_free(ids);
}

static void say_message(talk *t, const json_t *info, const json_t *message,
                        const ic_npy *image_grid, const ic_npy *video_grid)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    const json_t *content = json_object_get(message, "content");
    const char *text = json_string_value(json_object_get(json_array_get(content, 0), "text"));
    ic_error e = {0};
    size_t i;
    const json_t *part;
    if (strcmp(role, "system") == 0)
        ic_assert_ok(ic_grammar_system(t->state, text, &t->rows, &e), &e);
    else if (strcmp(role, "assistant") == 0)
        say_answer(t, text);
    else
        json_array_foreach(content, i, part) say_part(t, info, part, image_grid, video_grid);
}

/* Positions by DESIGN's rule (text and markers advance by 1, a group by the larger side of its
 * grid), from nothing but the rows and each group's grid. */
static void check_positions(const talk *t, const ic_npy *want, const int (*grids)[2])
{
    int next = 0;
    for (int i = 0; i < t->rows.count; i++) {
        const ic_grammar_row *r = &t->rows.row[i];
        int pos[3] = {next, next, next};
        if (r->kind == IC_ROW_VISION) {
            const int *g = grids[r->group];
            pos[1] += r->patch / g[1];
            pos[2] += r->patch % g[1];
            if (r->patch == g[0] * g[1] - 1)
                next += g[0] > g[1] ? g[0] : g[1];
        } else {
            next++;
        }
        for (int axis = 0; axis < 3; axis++)
            assert_int_equal(pos[axis], want->i32[axis * want->shape[1] + i]);
    }
}

/* The grids of the groups in order, from the rows: a group's side lengths follow from the case. */
static void collect_grids(const talk *t, const ic_npy *image_grid, const ic_npy *video_grid,
                          int (*grids)[2])
{
    int image = 0, pair = 0, video = 0;
    int32_t pad = ic_tokenizer_id(t->tokenizer, "<|image_pad|>");
    for (int i = 0; i < t->rows.count; i++) {
        const ic_grammar_row *r = &t->rows.row[i];
        if (r->kind != IC_ROW_VISION || r->patch != 0)
            continue;
        const int32_t *g =
            r->id == pad ? image_grid->i32 + 3 * image++ : video_grid->i32 + 3 * video;
        grids[r->group][0] = g[1] / 2;
        grids[r->group][1] = g[2] / 2;
        if (r->id != pad && ++pair == g[0]) {
            pair = 0;
            video++;
        }
    }
}

static void load_optional(const char *name, const char *array, ic_npy *out)
{
    char *path = ic_strf(GOLDEN "cases/%s/%s.npy", name, array);
    ic_error e = {0};
    *out = (ic_npy){0};
    if (access(path, R_OK) == 0)
        ic_assert_ok(ic_npy_load(path, out, &e), &e);
    ic_free(path);
}

static void check_case(const char *name)
{
    ic_npy ids, positions, image_grid, video_grid;
    load_optional(name, "input_ids", &ids);
    load_optional(name, "position_ids", &positions);
    load_optional(name, "image_grid_thw", &image_grid);
    load_optional(name, "video_grid_thw", &video_grid);
    char *path = ic_strf(GOLDEN "cases/%s/case.json", name);
    json_t *info = json_load_file(path, 0, NULL);
    assert_non_null(info);
    talk t;
    talk_open(&t, GOLDEN "models/gqa2_tied_f32");
    size_t i;
    const json_t *message;
    json_array_foreach(json_object_get(info, "messages"), i, message)
        say_message(&t, info, message, &image_grid, &video_grid);
    ic_error e = {0};
    ic_assert_ok(ic_grammar_ask(t.state, &t.rows, &e), &e);
    assert_int_equal(t.rows.count, ids.count);
    for (int k = 0; k < t.rows.count; k++)
        assert_int_equal(t.rows.row[k].id, ids.i32[k]);
    int grids[32][2] = {{0}};
    collect_grids(&t, &image_grid, &video_grid, grids);
    check_positions(&t, &positions, grids);
    talk_close(&t);
    json_decref(info);
    ic_free(path);
    ic_npy_fini(&ids);
    ic_npy_fini(&positions);
    ic_npy_fini(&image_grid);
    ic_npy_fini(&video_grid);
}

/* Ensures that the golden prompts come out of the grammar with the ids that the processor gave, and
 * that their rows lead to get_rope_index's positions. */
static void test_equals_the_processor(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "text_short", "text_system", "text_bf16", "text_f16",   "image_f32",      "images_f32",
        "image_bf16", "image_f16",   "video_f32", "video_bf16", "video_chat_f32", "video_chat_f16"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_case(cases[i]);
}

/* --- what rows say ------------------------------------------------------------------------------
 */

/* Ensures that a frame group's timestamp and markers carry its number, that a token shared with the
 * text before the timestamp stays text, and that the first opening is pinned. */
static void test_kinds_and_groups(void **state)
{
    (void)state;
    talk t;
    talk_open(&t, GOLDEN "tokenizer");
    ic_error e = {0};
    uint32_t group = 0;
    ic_assert_ok(ic_grammar_frames(t.state, 0.25, 1, 2, &group, &t.rows, &e), &e);
    assert_int_equal(group, 1);
    ic_assert_ok(ic_grammar_text(t.state, "And>", &t.rows, &e), &e);
    int before = t.rows.count;
    ic_assert_ok(ic_grammar_frames(t.state, 1.25, 2, 2, &group, &t.rows, &e), &e);
    assert_int_equal(group, 2);
    int i = 0, markers = 0;
    assert_true(t.rows.row[0].pinned
                && t.rows.row[0].id == ic_tokenizer_id(t.tokenizer, "<|im_start|>"));
    for (i = 1; t.rows.row[i].kind == IC_ROW_TEXT; i++)
        assert_true(t.rows.row[i].pinned && t.rows.row[i].group == 0);
    assert_true(i >= 3); /* "user", "\n" */
    for (; i < before; i++) {
        const ic_grammar_row *r = &t.rows.row[i];
        assert_int_equal(r->group, 1);
        assert_false(r->pinned);
        assert_int_equal(r->kind, r->id == ic_tokenizer_id(t.tokenizer, "<|video_pad|>")
                                      ? IC_ROW_VISION
                                      : IC_ROW_MARKER);
    }
    /* "And? <1.2 seconds>": " <" is one token, of the text; the rest of the stamp is the group's.
     */
    for (; t.rows.row[i].kind == IC_ROW_TEXT; i++)
        assert_int_equal(t.rows.row[i].group, 0);
    size_t bytes;
    const char *piece = ic_tokenizer_piece(t.tokenizer, t.rows.row[i - 1].id, &bytes);
    assert_int_equal(bytes, 2);
    assert_memory_equal(piece, "><", 2);
    int patch = 0;
    for (; i < t.rows.count; i++) {
        assert_int_equal(t.rows.row[i].group, 2);
        markers += t.rows.row[i].kind == IC_ROW_MARKER;
        if (t.rows.row[i].kind == IC_ROW_VISION)
            assert_int_equal(t.rows.row[i].patch, patch++);
    }
    assert_int_equal(patch, 4);
    assert_true(markers > 4);
    talk_close(&t);
}

/* Ensures that the whole system turn is pinned and nothing of the user's first turn after it. */
static void test_system_turn_is_pinned(void **state)
{
    (void)state;
    talk t;
    talk_open(&t, GOLDEN "tokenizer");
    ic_error e = {0};
    ic_assert_ok(ic_grammar_system(t.state, "Be brief.", &t.rows, &e), &e);
    int system = t.rows.count;
    ic_assert_ok(ic_grammar_text(t.state, "Hi", &t.rows, &e), &e);
    ic_assert_ok(ic_grammar_ask(t.state, &t.rows, &e), &e);
    for (int i = 0; i < t.rows.count; i++)
        assert_int_equal(t.rows.row[i].pinned, i < system);
    talk_close(&t);
}

/* --- what is refused -----------------------------------------------------------------------------
 */

/* Ensures that calls out of turn and impossible pictures are refused and change nothing. */
static void test_out_of_turn(void **state)
{
    (void)state;
    talk t;
    talk_open(&t, GOLDEN "tokenizer");
    ic_error e = {0};
    uint32_t group;
    ic_grammar_state *s = t.state;
    assert_int_equal(ic_grammar_answered(s, -1, &t.rows, &e), IC_EINVAL);
    assert_int_equal(ic_grammar_image(s, 0, 3, &group, &t.rows, &e), IC_EINVAL);
    assert_int_equal(ic_grammar_image(s, 1 << 15, 1 << 15, &group, &t.rows, &e), IC_EINVAL);
    assert_int_equal(ic_grammar_frames(s, -1.0, 1, 1, &group, &t.rows, &e), IC_EINVAL);
    assert_int_equal(ic_grammar_frames(s, 0.0 / 0.0, 1, 1, &group, &t.rows, &e), IC_EINVAL);
    assert_int_equal(t.rows.count, 0);
    ic_assert_ok(ic_grammar_text(s, "Hi", &t.rows, &e), &e);
    assert_int_equal(ic_grammar_system(s, "late", &t.rows, &e), IC_EINVAL);
    ic_assert_ok(ic_grammar_ask(s, &t.rows, &e), &e);
    int count = t.rows.count;
    assert_int_equal(ic_grammar_text(s, "more", &t.rows, &e), IC_EBUSY);
    assert_int_equal(ic_grammar_frames(s, 1.0, 1, 1, &group, &t.rows, &e), IC_EBUSY);
    assert_int_equal(ic_grammar_ask(s, &t.rows, &e), IC_EBUSY);
    assert_int_equal(t.rows.count, count);
    ic_assert_ok(ic_grammar_answered(s, -1, &t.rows, &e), &e);
    assert_int_equal(ic_grammar_answered(s, -1, &t.rows, &e), IC_EINVAL);
    talk_close(&t);
}

/* Ensures that one stretch of text is bounded, and that a garbled saved state is refused. */
static void test_bounds(void **state)
{
    (void)state;
    talk t;
    talk_open(&t, GOLDEN "tokenizer");
    ic_error e = {0};
    char *text = ic_alloc(IC_TOKENIZER_MAX_TEXT + 1);
    memset(text, 'x', IC_TOKENIZER_MAX_TEXT);
    assert_int_equal(ic_grammar_text(t.state, text, &t.rows, &e), IC_ELIMIT);
    ic_free(text);
    static const uint8_t bad[] = {9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    static const uint8_t cut[] = {1, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 'a'};
    ic_cursor in;
    ic_cursor_init(&in, bad, sizeof bad);
    assert_int_equal(ic_grammar_state_load(t.state, &in, &e), IC_EFORMAT);
    ic_cursor_init(&in, cut, sizeof cut);
    assert_int_equal(ic_grammar_state_load(t.state, &in, &e), IC_EFORMAT);
    talk_close(&t);
}

static void check_family(const char *dir, const char *family, int want, ic_error *e)
{
    ic_error open = {0};
    ic_tokenizer *t = NULL;
    ic_grammar *g = NULL;
    ic_assert_ok(ic_tokenizer_open(&t, GOLDEN "models/gqa2_tied_f32", &open), &open);
    assert_int_equal(ic_grammar_open(&g, dir, family, t, e), want);
    if (want == IC_OK)
        assert_string_equal(ic_grammar_family(g), "qwen3-vl");
    else
        assert_null(g);
    ic_grammar_close(&g);
    ic_tokenizer_close(&t);
}

static void write_file(const char *name, const char *text)
{
    char *path = ic_strf("%s/%s", ic_test_dir(), name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    ic_free(path);
}

/* Ensures that a family is known by its template wherever transformers keeps it, that an unknown
 * template or name is refused and named, and that naming the family overrides the template. */
static void test_family_by_template(void **state)
{
    (void)state;
    ic_error e = {0};
    check_family(GOLDEN "models/gqa2_tied_f32", NULL, IC_OK, &e);    /* chat_template.jinja */
    check_family(GOLDEN "models/gqa4_untied_bf16", NULL, IC_OK, &e); /* chat_template.json */
    check_family(IC_SOURCE_DIR "/models/demo", NULL, IC_OK, &e);
    check_family(ic_test_dir(), NULL, IC_EUNSUPPORTED, &e);
    assert_non_null(strstr(e.text, "no chat template"));
    write_file("tokenizer_config.json", "{\"chat_template\": \"{{ messages }}\"}");
    check_family(ic_test_dir(), NULL, IC_EUNSUPPORTED, &e);
    assert_non_null(strstr(e.text, "hash"));
    assert_non_null(strstr(e.text, "qwen3-vl"));
    check_family(ic_test_dir(), "qwen3-vl", IC_OK, &e);
    check_family(ic_test_dir(), "gpt-7", IC_EUNSUPPORTED, &e);
    assert_non_null(strstr(e.text, "gpt-7"));
    /* The same template, reflowed, as one of several in tokenizer_config.json. */
    char *text = ic_test_read_file(GOLDEN "chat_template_qwen3_vl.jinja", NULL);
    for (char *p = text; *p; p++)
        *p = *p == '\n' ? '\t' : *p;
    json_t *config = json_pack("{s:[{s:s,s:s},{s:s,s:s}]}", "chat_template", "name", "tool_use",
                               "template", "x", "name", "default", "template", text);
    char *dumped = json_dumps(config, 0);
    write_file("tokenizer_config.json", dumped);
    check_family(ic_test_dir(), NULL, IC_OK, &e);
    free(dumped);
    json_decref(config);
    ic_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_the_template), cmocka_unit_test(test_equals_the_processor),
        cmocka_unit_test(test_kinds_and_groups),    cmocka_unit_test(test_system_turn_is_pinned),
        cmocka_unit_test(test_out_of_turn),         cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_family_by_template),
    };
    return IC_TEST_RUN(tests);
}
