/* Journal records, configurations and checkpoint heads: what is written is read; damage is refused.
 * IC_NEEDS_SERVER */
#include <stdio.h>
#include <string.h>

#include "ic_test.h"

#include "actors/ic_talk_record.h"
#include "base/ic_mem.h"

static ic_talk_record sample(ic_talk_record_kind kind)
{
    ic_talk_record r = {.kind = kind, .turn = 7, .media = 3, .finish = 2};
    r.sampling = (ic_sampling){.temperature = 0.5f,
                               .top_k = 9,
                               .top_p = 0.25f,
                               .repetition_penalty = 1.5f,
                               .seed = 1234567890123ULL,
                               .max_tokens = 77};
    memset(r.key, 0xa5, sizeof r.key);
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
    bool turn = a->kind >= IC_RECORD_ASK && a->kind <= IC_RECORD_END;
    assert_int_equal(a->kind, b->kind);
    if (turn)
        assert_int_equal(a->turn, b->turn);
    if (a->kind == IC_RECORD_MEDIA || a->kind == IC_RECORD_MEDIA_END)
        assert_int_equal(a->media, b->media);
    if (a->kind == IC_RECORD_END)
        assert_int_equal(a->finish, b->finish);
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
    for (int kind = IC_RECORD_FRAME; kind <= IC_RECORD_PIXELS; kind++) {
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
                                       .group_tokens_max = 36};
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

/* A checkpoint's head comes back with the questions that waited. */
static void heads_come_back(void **state)
{
    (void)state;
    ic_talk_head h = {.turns = 4,
                      .medias = 2,
                      .open_media = 2,
                      .evicted_at_end = 1000,
                      .seen = 50,
                      .skipped = 3,
                      .deduplicated = 2,
                      .seen_at_end = 40,
                      .skipped_at_end = 1,
                      .deduplicated_at_end = 2,
                      .inexact = true},
                 back;
    ic_buf bytes = {0};
    ic_error e = {0};
    ic_buf_blob(&h.asks, "question", 8);
    assert_int_equal(ic_talk_head_encode(&h, &bytes), IC_OK);
    ic_assert_ok(ic_talk_head_decode(&back, bytes.data, bytes.size, &e), &e);
    assert_int_equal(back.turns, 4);
    assert_int_equal(back.open_media, 2);
    assert_int_equal(back.evicted_at_end, 1000);
    assert_int_equal(back.deduplicated_at_end, 2);
    assert_true(back.inexact);
    assert_int_equal(back.asks.size, h.asks.size);
    assert_memory_equal(back.asks.data, h.asks.data, h.asks.size);
    ic_buf_fini(&back.asks);
    for (size_t cut = 0; cut < bytes.size; cut++)
        assert_true(ic_talk_head_decode(&back, bytes.data, cut, &e) < 0);
    ic_buf_fini(&h.asks);
    ic_buf_fini(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_come_back),
        cmocka_unit_test(large_frames_come_in_pieces),
        cmocka_unit_test(strange_records_are_refused),
        cmocka_unit_test(configurations_come_back),
        cmocka_unit_test(heads_come_back),
    };
    return IC_TEST_RUN(tests);
}
