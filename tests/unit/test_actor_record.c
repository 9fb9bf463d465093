/* Journal records, configurations and checkpoint heads: what is written is read; damage is refused.
 * IC_NEEDS_SERVER */
#include <stdio.h>
#include <string.h>

#include "ic_test.h"
#include "ic_test_npy.h"

#include "actors/ic_talk_record.h"
#include "base/ic_mem.h"

static ic_talk_record sample(ic_talk_record_kind kind)
{
    ic_talk_record r = {.kind = kind, .turn = 7, .media = 3, .finish = 2};
    r.told = (ic_talk_told){.evicted = 1ULL << 33, .skipped = 5, .deduplicated = 6};
    r.sampling = (ic_sampling){.temperature = 0.5f,
                               .top_k = 9,
                               .top_p = 0.25f,
                               .repetition_penalty = 1.5f,
                               .seed = 1234567890123ULL,
                               .max_tokens = 77};
    memset(r.key, 0xa5, sizeof r.key);
    r.source = (ic_talk_reach){.given = 12, .skipped = 34, .deduplicated = 56, .pos_us = -1};
    r.left_skipped = 1ULL << 34;
    r.left_duplicated = 78;
    if (kind == IC_RECORD_FRAME || kind == IC_RECORD_IMAGE) {
        r.frame = ic_frame_new(6, 4);
        r.frame->pts_us = 1500000;
        r.frame->ordinal = 11;
        for (size_t i = 0; i < r.frame->bytes; i++)
            r.frame->rgb[i] = (uint8_t)(i * 3);
        r.grid = (ic_grid){.width = 6, .height = 4, .tokens_w = 3, .tokens_h = 2};
    }
    if (kind == IC_RECORD_PIXELS) {
        r.pixels = (const uint8_t *)"pixels";
        r.pixel_bytes = 6;
    }
    if (kind == IC_RECORD_ASK)
        r.text = ic_strdup("What is \xe2\x82\xac?");
    if (kind == IC_RECORD_TOKENS) {
        r.tokens = ic_calloc(3, sizeof *r.tokens);
        r.tokens[0] = 5, r.tokens[1] = 70000, r.tokens[2] = -1;
        r.count = 3;
    }
    return r;
}

static void compare(const ic_talk_record *a, const ic_talk_record *b)
{
    bool turn =
        (a->kind >= IC_RECORD_ASK && a->kind <= IC_RECORD_TOKENS) || a->kind == IC_RECORD_END;
    assert_int_equal(a->kind, b->kind);
    if (turn)
        assert_int_equal(a->turn, b->turn);
    if (a->kind == IC_RECORD_MEDIA || a->kind == IC_RECORD_MEDIA_END)
        assert_int_equal(a->media, b->media);
    if (a->kind == IC_RECORD_SOURCE) {
        assert_int_equal(a->media, b->media);
        assert_memory_equal(&a->source, &b->source, sizeof a->source);
        assert_int_equal(a->left_skipped, b->left_skipped);
        assert_int_equal(a->left_duplicated, b->left_duplicated);
    }
    if (a->kind == IC_RECORD_END) {
        assert_int_equal(a->finish, b->finish);
        assert_memory_equal(&a->told, &b->told, sizeof a->told);
    }
    if (a->frame) {
        assert_memory_equal(&a->grid, &b->grid, sizeof a->grid);
        assert_int_equal(a->frame->pts_us, b->frame->pts_us);
        assert_int_equal(a->frame->ordinal, b->frame->ordinal);
        assert_memory_equal(a->frame->rgb, b->frame->rgb, a->frame->bytes);
    }
    if (a->text) {
        assert_string_equal(a->text, b->text);
        assert_memory_equal(&a->sampling, &b->sampling, sizeof a->sampling);
        assert_memory_equal(a->key, b->key, sizeof a->key);
    }
    assert_int_equal(a->count, b->count);
    if (a->count)
        assert_memory_equal(a->tokens, b->tokens, (size_t)a->count * sizeof *a->tokens);
}

/* Every kind of record comes back as it was, and cut short anywhere it is refused. */
static void records_come_back(void **state)
{
    (void)state;
    for (int kind = IC_RECORD_FRAME; kind <= IC_RECORD_SOURCE; kind++) {
        if (kind == IC_RECORD_END_V1)
            continue;
        ic_talk_record r = sample((ic_talk_record_kind)kind), back;
        ic_buf bytes = {0};
        ic_error e = {0};
        assert_int_equal(ic_talk_record_encode(&r, &bytes), IC_OK);
        ic_assert_ok(ic_talk_record_decode(&back, (uint32_t)kind, bytes.data, bytes.size, &e), &e);
        compare(&r, &back);
        ic_talk_record_fini(&back);
        for (size_t cut = 0; cut < bytes.size; cut++) {
            int rc = ic_talk_record_decode(&back, (uint32_t)kind, bytes.data, cut, &e);
            /* Pixels may be cut anywhere, and a frame without any has them in front of it. */
            bool fits = kind == IC_RECORD_PIXELS ? cut > 1 : rc == IC_OK && back.detached;
            assert_true(rc < 0 || fits);
            ic_talk_record_fini(&back);
        }
        ic_talk_record_fini(&r);
        ic_buf_fini(&bytes);
    }
}

/* A frame whose pixels went ahead comes back without them, and says so. */
static void large_frames_come_in_pieces(void **state)
{
    (void)state;
    ic_talk_record r = sample(IC_RECORD_IMAGE), back;
    ic_buf bytes = {0};
    ic_error e = {0};
    r.detached = true;
    assert_int_equal(ic_talk_record_encode(&r, &bytes), IC_OK);
    assert_true(bytes.size < r.frame->bytes);
    ic_assert_ok(ic_talk_record_decode(&back, IC_RECORD_IMAGE, bytes.data, bytes.size, &e), &e);
    assert_true(back.detached);
    assert_int_equal(back.frame->bytes, r.frame->bytes);
    ic_talk_record_fini(&back);
    ic_talk_record_fini(&r);
    ic_buf_fini(&bytes);
}

/* Records of a later version or an unknown kind, and counts beyond the bytes, are refused. */
static void strange_records_are_refused(void **state)
{
    (void)state;
    static const uint8_t later[] = {9}, unknown[] = {1, 0, 0};
    static const uint8_t many[] = {1, 7, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 1, 2, 3, 4};
    ic_talk_record r;
    ic_error e = {0};
    assert_int_equal(ic_talk_record_decode(&r, IC_RECORD_FRAMES_END, later, sizeof later, &e),
                     IC_EVERSION);
    assert_true(ic_talk_record_decode(&r, 99, unknown, sizeof unknown, &e) < 0);
    assert_true(ic_talk_record_decode(&r, IC_RECORD_TOKENS, many, sizeof many, &e) < 0);
}

/* The end of an answer as earlier builds wrote it is read, and not written any more. */
static void old_ends_are_read(void **state)
{
    (void)state;
    static const uint8_t old[] = {1, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0};
    ic_talk_record r;
    ic_buf out = {0};
    ic_error e = {0};
    ic_assert_ok(ic_talk_record_decode(&r, IC_RECORD_END_V1, old, sizeof old, &e), &e);
    assert_int_equal(r.turn, 7);
    assert_int_equal(r.finish, 2);
    assert_int_equal(ic_talk_record_decode(&r, IC_RECORD_END_V1, old, sizeof old - 1, &e),
                     IC_EFORMAT);
    r.kind = IC_RECORD_END_V1;
    assert_int_equal(ic_talk_record_encode(&r, &out), IC_EVERSION);
    ic_buf_fini(&out);
}

/* A session's configuration comes back, with and without a system prompt. */
static void configurations_come_back(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) {
        ic_talk_config c = {.has_seed = round == 1}, back;
        c.engine = (ic_session_config){.cache_tokens = 1000,
                                       .chunk_max = 128,
                                       .slack = 64,
                                       .sinks = 4,
                                       .pinned_max = 99,
                                       .kv_dtype = IC_BF16,
                                       .pending_bytes_max = 1ULL << 33,
                                       .group_tokens_max = 36,
                                       .window = 16,
                                       .recent_pct = 25,
                                       .bias_pct = -1,
                                       .smooth_pct = 30,
                                       .pool = 7,
                                       .per_layer = 1,
                                       .frames = 2};
        snprintf(c.engine.policy, sizeof c.engine.policy, "streaming");
        snprintf(c.model, sizeof c.model, "demo");
        c.system = round ? ic_strdup("Be brief.") : NULL;
        ic_buf bytes = {0};
        ic_error e = {0};
        assert_int_equal(ic_talk_config_encode(&c, &bytes), IC_OK);
        ic_assert_ok(ic_talk_config_decode(&back, bytes.data, bytes.size, &e), &e);
        assert_memory_equal(&back.engine, &c.engine, sizeof c.engine);
        assert_string_equal(back.model, "demo");
        assert_int_equal(back.has_seed, c.has_seed);
        if (round)
            assert_string_equal(back.system, "Be brief.");
        else
            assert_null(back.system);
        ic_talk_config_fini(&back);
        for (size_t cut = 0; cut < bytes.size; cut++)
            assert_true(ic_talk_config_decode(&back, bytes.data, cut, &e) < 0);
        ic_talk_config_fini(&c);
        ic_buf_fini(&bytes);
    }
}

/* A record of version 1, which left the settings to the policy, is read with the values that the
 * policies had then; one of a later build, with a setting unknown here, is refused. */
static void old_configurations_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *policy;
        int recent_pct, bias_pct, pool;
    } rows[] = {{"saddle", 50, 100, 15}, {"saddle-paper", 50, 100, 1}, {"h2o", 50, 0, 1},
                {"snapkv", 0, 0, 5},     {"recent-frames", 50, 0, 0},  {"streaming", 0, 0, 0}};
    const uint32_t numbers[] = {1000, 128, 64, 4, 99, IC_BF16};
    ic_talk_config c;
    ic_error e = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ic_buf bytes = {0};
        ic_buf_u8(&bytes, 1);
        ic_buf_blob(&bytes, rows[i].policy, (uint32_t)strlen(rows[i].policy));
        for (int n = 0; n < 6; n++)
            ic_buf_u32(&bytes, numbers[n]);
        ic_buf_u64(&bytes, 1 << 20);
        ic_buf_u32(&bytes, 36);
        for (int n = 0; n < 7; n++) /* sampling */
            ic_buf_u32(&bytes, 0);
        ic_buf_u8(&bytes, 0);
        ic_buf_blob(&bytes, "demo", 4);
        ic_buf_u8(&bytes, 0);
        ic_buf_blob(&bytes, "", 0);
        ic_assert_ok(ic_talk_config_decode(&c, bytes.data, bytes.size, &e), &e);
        assert_string_equal(c.engine.policy, rows[i].policy);
        assert_string_equal(c.model, "demo");
        assert_int_equal(c.engine.sinks, 4);
        assert_int_equal(c.engine.window, 32);
        assert_int_equal(c.engine.frames, 4);
        assert_int_equal(c.engine.frame_unit, IC_FRAME_TOKENS);
        assert_int_equal(c.engine.positions, IC_POSITIONS_COMPACT);
        assert_int_equal(c.engine.recent_pct, rows[i].recent_pct);
        assert_int_equal(c.engine.bias_pct, rows[i].bias_pct);
        assert_int_equal(c.engine.pool, rows[i].pool);
        assert_int_equal(c.engine.questions, -1); /* what came later is not theirs */
        assert_int_equal(c.engine.thin, -1);
        ic_session_config_settle(&c.engine);
        assert_int_equal(c.engine.smooth_pct, 0);
        ic_talk_config_fini(&c);
        ic_buf_fini(&bytes);
    }
    ic_buf later = {0};
    c = (ic_talk_config){.engine = {.policy = "saddle"}};
    assert_int_equal(ic_talk_config_encode(&c, &later), IC_OK);
    size_t count_at = 1 + 4 + 6 + 6 * 4 + 8 + 4;
    assert_int_equal(later.data[count_at], IC_SETTINGS);
    later.data[count_at]++;
    assert_int_equal(ic_talk_config_decode(&c, later.data, later.size, &e), IC_EVERSION);
    ic_buf_fini(&later);
}

static const char half[] = "so far: \xe2\x82";

/* In its middle, in the middle of a character even. */
static void put_answer(ic_talk_answer *a)
{
    *a = (ic_talk_answer){.turn = 4, .tokens = 70000, .held = {.count = 2}};
    memset(a->key, 0x5a, sizeof a->key);
    a->sampling = sample(IC_RECORD_START).sampling;
    memcpy(a->held.held, half + sizeof half - 3, 2);
    ic_buf_append(&a->text, half, sizeof half - 3);
}

static void expect_answer(const ic_talk_answer *a, const ic_talk_answer *b)
{
    assert_int_equal(a->turn, b->turn);
    assert_memory_equal(a->key, b->key, sizeof a->key);
    assert_memory_equal(&a->sampling, &b->sampling, sizeof a->sampling);
    assert_int_equal(a->tokens, b->tokens);
    assert_int_equal(a->held.count, b->held.count);
    assert_memory_equal(a->held.held, b->held.held, (size_t)a->held.count);
    assert_int_equal(a->text.size, b->text.size);
    assert_memory_equal(a->text.data, b->text.data, a->text.size);
}

/* A checkpoint's head comes back with the questions that waited and the answer that was going on.
 */
static void heads_come_back(void **state)
{
    (void)state;
    ic_talk_head h = {.turns = 4,
                      .medias = 2,
                      .open_media = 2,
                      .source = {.given = 9, .skipped = 3, .deduplicated = 2, .pos_us = 4500000},
                      .evicted_at_end = 1000,
                      .seen = 50,
                      .skipped = 3,
                      .deduplicated = 2,
                      .seen_at_end = 40,
                      .skipped_at_end = 1,
                      .deduplicated_at_end = 2,
                      .inexact = true,
                      .meaning = "0123456789abcdef0123456789abcdef",
                      .config = {.policy = "saddle", .cache_tokens = 77, .pool = 3}},
                 back;
    ic_buf bytes = {0};
    ic_error e = {0};
    ic_buf_blob(&h.asks, "question", 8);
    put_answer(&h.answer);
    assert_int_equal(ic_talk_head_encode(&h, &bytes), IC_OK);
    ic_assert_ok(ic_talk_head_decode(&back, bytes.data, bytes.size, &e), &e);
    assert_int_equal(back.turns, 4);
    assert_int_equal(back.open_media, 2);
    assert_memory_equal(&back.source, &h.source, sizeof h.source);
    assert_int_equal(back.evicted_at_end, 1000);
    assert_int_equal(back.deduplicated_at_end, 2);
    assert_true(back.inexact);
    assert_string_equal(back.meaning, h.meaning);
    assert_memory_equal(&back.config, &h.config, sizeof h.config);
    expect_answer(&back.answer, &h.answer);
    assert_int_equal(back.asks.size, h.asks.size);
    assert_memory_equal(back.asks.data, h.asks.data, h.asks.size);
    ic_talk_head_fini(&back);
    for (size_t cut = 0; cut < bytes.size; cut++)
        assert_true(ic_talk_head_decode(&back, bytes.data, cut, &e) < 0);
    h.answer.held.count = 4; /* no character lacks a byte then */
    ic_buf_clear(&bytes);
    assert_int_equal(ic_talk_head_encode(&h, &bytes), IC_OK);
    assert_int_equal(ic_talk_head_decode(&back, bytes.data, bytes.size, &e), IC_EFORMAT);
    ic_talk_head_fini(&h);
    ic_buf_fini(&bytes);
}

/* Ensures that how a file was read comes back from the ledger, and that an entry that is cut or of
 * a later version is refused. */
static void readings_come_back(void **state)
{
    (void)state;
    ic_error e = {0};
    ic_buf bytes = {0};
    ic_talk_reading back, r = {.source = "/films/one.mp4",
                               .fps = 2.5,
                               .from_us = 3000000,
                               .to_us = -1,
                               .max_frames = 70,
                               .frame_tokens = 64,
                               .image = true};
    assert_int_equal(ic_talk_reading_encode(&r, &bytes), IC_OK);
    ic_assert_ok(ic_talk_reading_decode(&back, bytes.data, bytes.size, &e), &e);
    assert_string_equal(back.source, r.source);
    assert_true(back.fps == r.fps && back.image);
    assert_int_equal(back.from_us, r.from_us);
    assert_int_equal(back.to_us, r.to_us);
    assert_int_equal(back.max_frames, r.max_frames);
    assert_int_equal(back.frame_tokens, r.frame_tokens);
    ic_talk_reading_fini(&back);
    for (size_t cut = 0; cut < bytes.size; cut++)
        assert_true(ic_talk_reading_decode(&back, bytes.data, cut, &e) < 0);
    bytes.data[0] = 99;
    assert_int_equal(ic_talk_reading_decode(&back, bytes.data, bytes.size, &e), IC_EVERSION);
    ic_buf_fini(&bytes);
}

/* Ensures that what stays of a frame when its pixels go is all but the pixels, and is read as a
 * frame whose pixels are elsewhere. */
static void heads_of_frames_stay(void **state)
{
    (void)state;
    ic_error e = {0};
    ic_buf bytes = {0};
    ic_talk_record back, r = {.kind = IC_RECORD_FRAME,
                              .grid = {.width = 32, .height = 16, .tokens_w = 2, .tokens_h = 1}};
    r.frame = ic_frame_new(32, 16);
    memset(r.frame->rgb, 7, r.frame->bytes);
    r.frame->pts_us = 1500000;
    size_t head = ic_talk_record_head_bytes(r.kind);
    assert_int_equal(ic_talk_record_encode(&r, &bytes), IC_OK);
    assert_int_equal(bytes.size, head + r.frame->bytes);
    assert_memory_equal(bytes.data + head, r.frame->rgb, r.frame->bytes);
    ic_assert_ok(ic_talk_record_decode(&back, IC_RECORD_FRAME, bytes.data, head, &e), &e);
    assert_true(back.detached);
    assert_int_equal(back.frame->pts_us, 1500000);
    assert_int_equal(back.grid.width, 32);
    ic_talk_record_fini(&back);
    ic_talk_record_fini(&r);
    ic_buf_fini(&bytes);
}

/* The head of a build that took no checkpoints in the middle of an answer (version 3). */
static void old_heads_are_read(void **state)
{
    (void)state;
    char *path = ic_strf("%s/tests/data/talk_head_v3/waiting", IC_SOURCE_DIR);
    size_t bytes = 0;
    char *data = ic_test_read_file(path, &bytes);
    ic_talk_head h;
    ic_error e = {0};
    assert_non_null(data);
    assert_int_equal(data[0], 3);
    ic_assert_ok(ic_talk_head_decode(&h, data, bytes, &e), &e);
    assert_int_equal(h.turns, 4);
    assert_int_equal(h.source.pos_us, 4500000);
    assert_true(h.has_held);
    assert_int_equal(h.held.vision, 30);
    assert_int_equal(h.answer.turn, 0);
    assert_int_equal(h.asks.size, 12);
    assert_memory_equal(h.asks.data + 4, "question", 8);
    ic_talk_head_fini(&h);
    ic_free(data);
    ic_free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readings_come_back),
        cmocka_unit_test(heads_of_frames_stay),
        cmocka_unit_test(records_come_back),
        cmocka_unit_test(large_frames_come_in_pieces),
        cmocka_unit_test(strange_records_are_refused),
        cmocka_unit_test(old_ends_are_read),
        cmocka_unit_test(configurations_come_back),
        cmocka_unit_test(old_configurations_are_read),
        cmocka_unit_test(heads_come_back),
        cmocka_unit_test(old_heads_are_read),
    };
    return IC_TEST_RUN(tests);
}
