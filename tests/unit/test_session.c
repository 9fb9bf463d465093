/* Sessions: what they take in and refuse, answers and their ends, and what stays in the cache. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_session_priv.h"
#include "ic_test.h"
#include "ic_test_session.h"

static ic_engine *engine;
static ic_grid grid;

static int open_engine(void **state)
{
    (void)state;
    engine = ic_test_engine_small(&grid);
    return 0;
}

static int close_engine(void **state)
{
    (void)state;
    ic_engine_close(&engine);
    return 0;
}

typedef struct fixture {
    ic_session *s;
    ic_test_log log;
} fixture;

static void begin(fixture *f, const char *policy, int cache_tokens)
{
    f->s = ic_test_session(engine, policy, cache_tokens);
    ic_test_log_init(&f->log, f->s, ic_engine_info_of(engine)->vocab);
}

static void end(fixture *f)
{
    ic_session_destroy(&f->s);
    ic_test_log_fini(&f->log);
}

static void pump(fixture *f)
{
    ic_test_pump(engine, &f->log, 1, 64, NULL);
}

static ic_slice step(fixture *f, int rows)
{
    ic_error e = {0};
    ic_slice slice = {.session = f->s, .max_rows = rows};
    ic_assert_ok(ic_engine_step(engine, &slice, 1, &e), &e);
    return slice;
}

static ic_session_stats stats_of(const fixture *f)
{
    ic_session_stats stats;
    ic_session_stats_of(f->s, &stats);
    return stats;
}

static void ask(fixture *f, const char *text, int max_tokens)
{
    ic_error e = {0};
    ic_sampling greedy = ic_test_greedy(max_tokens);
    ic_assert_ok(ic_session_ask(f->s, text, &greedy, &e), &e);
}

static void add_frame(fixture *f, int n)
{
    ic_error e = {0};
    ic_frame *frame = ic_test_frame(&grid, n, n * 500000);
    ic_assert_ok(ic_session_frame(f->s, &frame, &grid, &e), &e);
}

/* All K and V of both caches, head by head in order, are the same bits. */
static void expect_same_cache(ic_session *a, ic_session *b)
{
    const ic_slab *x = ic_session_slab(a), *y = ic_session_slab(b);
    const ic_slab_desc *d = ic_slab_desc_of(x);
    for (int head = 0; head < d->layers * d->kv_heads; head++) {
        int layer = head / d->kv_heads, kv = head % d->kv_heads;
        int n = ic_slab_count(x, layer, kv);
        assert_int_equal(n, ic_slab_count(y, layer, kv));
        int32_t *sx = calloc((size_t)n, sizeof *sx), *sy = calloc((size_t)n, sizeof *sy);
        ic_slab_rows(x, layer, kv, NULL, sx, NULL);
        ic_slab_rows(y, layer, kv, NULL, sy, NULL);
        for (int i = 0; i < n; i++) {
            float kx[64], vx[64], ky[64], vy[64];
            ic_slab_read(x, layer, kv, sx[i], kx, vx);
            ic_slab_read(y, layer, kv, sy[i], ky, vy);
            assert_memory_equal(kx, ky, (size_t)d->head_dim * sizeof(float));
            assert_memory_equal(vx, vy, (size_t)d->head_dim * sizeof(float));
        }
        free(sx);
        free(sy);
    }
}

/* Settings out of range are refused by name. */
static void test_config(void **state)
{
    (void)state;
    ic_session_config good;
    ic_session_config_default(engine, 256, &good);
    struct {
        ic_session_config c;
        const char *name;
    } bad[8];
    for (int i = 0; i < 8; i++)
        bad[i].c = good;
    snprintf(bad[0].c.policy, sizeof bad[0].c.policy, "lru"), bad[0].name = "lru";
    bad[1].c.cache_tokens = 8, bad[1].name = "cache_tokens";
    bad[2].c.chunk_max = 1, bad[2].name = "chunk_max";
    bad[3].c.slack = -1, bad[3].name = "slack";
    bad[4].c.pinned_max = 256, bad[4].name = "pinned_max";
    bad[5].c.kv_dtype = IC_F16, bad[5].name = "dtype";
    bad[6].c.cache_tokens = 1 << 20, bad[6].name = "trained";
    bad[7].c.group_tokens_max = 1 << 20, bad[7].name = "group_tokens_max";
    for (int i = 0; i < 8; i++) {
        ic_session *s;
        ic_error e = {0};
        assert_int_equal(ic_session_new(&s, engine, &bad[i].c, &e), IC_EINVAL);
        assert_null(s);
        assert_non_null(strstr(e.text, bad[i].name));
    }
}

/* The default settings fit the model's trained length, at any budget that fits, and make a session
 * that takes the memory that was told. */
static void test_defaults(void **state)
{
    (void)state;
    const int budgets[] = {0, 32, 100, 1024, 2900};
    for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++) {
        ic_session_config c;
        ic_session *s;
        ic_error e = {0};
        ic_session_config_default(engine, budgets[i], &c);
        ic_assert_ok(ic_session_new(&s, engine, &c, &e), &e);
        assert_true(ic_session_memory(engine, &c)
                    > (size_t)c.cache_tokens
                          * (size_t)ic_engine_info_of(engine)->kv_bytes_per_token);
        ic_session_destroy(&s);
    }
}

/* A failing allocation at any point of making a session is IC_ENOMEM, without a leak. */
static void test_no_memory(void **state)
{
    (void)state;
    ic_session_config c;
    ic_session_config_default(engine, 256, &c);
    int refused = 0;
    for (int n = 1; n < 200; n++) {
        ic_session *s;
        ic_error e = {0};
        int64_t live = ic_mem_live();
        ic_mem_fail_after(n, 1);
        int rc = ic_session_new(&s, engine, &c, &e);
        ic_mem_fail_after(0, 0);
        ic_session_destroy(&s);
        assert_int_equal(ic_mem_live(), live);
        if (rc == IC_OK)
            break;
        assert_int_equal(rc, IC_ENOMEM);
        refused++;
    }
    assert_true(refused >= 2);
}

/* The system text comes before everything else or not at all. */
static void test_system_first(void **state)
{
    (void)state;
    fixture f;
    ic_error e = {0};
    begin(&f, NULL, 256);
    ic_assert_ok(ic_session_system(f.s, "Be brief.", &e), &e);
    assert_int_equal(ic_session_system(f.s, "Be long.", &e), IC_EINVAL);
    end(&f);
    begin(&f, NULL, 256);
    add_frame(&f, 0);
    assert_int_equal(ic_session_system(f.s, "Be brief.", &e), IC_EINVAL);
    end(&f);
}

/* Two frames make a group; half a pair waits for the other half, or for the end of the source, or
 * for a question. */
static void test_pairs(void **state)
{
    (void)state;
    fixture f;
    ic_error e = {0};
    begin(&f, NULL, 256);
    add_frame(&f, 0);
    assert_false(ic_session_is_ready(f.s));
    add_frame(&f, 1);
    assert_true(ic_session_is_ready(f.s));
    add_frame(&f, 2);
    pump(&f);
    assert_int_equal(stats_of(&f).groups, 1);
    assert_int_equal(stats_of(&f).pending_groups, 1);
    ic_assert_ok(ic_session_frames_end(f.s, &e), &e);
    pump(&f);
    assert_int_equal(stats_of(&f).groups, 2);
    add_frame(&f, 3);
    ask(&f, "What?", 3);
    pump(&f);
    assert_int_equal(stats_of(&f).groups, 3);
    assert_int_equal(stats_of(&f).frames, 4);
    assert_int_equal(stats_of(&f).pending_bytes, 0);
    end(&f);
}

/* A repeated last frame is what the processor pads with: the same bits as two equal frames. */
static void test_half_pair_is_repeated(void **state)
{
    (void)state;
    fixture a, b;
    ic_error e = {0};
    begin(&a, NULL, 256);
    begin(&b, NULL, 256);
    add_frame(&a, 4);
    ic_assert_ok(ic_session_frames_end(a.s, &e), &e);
    add_frame(&b, 4);
    add_frame(&b, 4);
    pump(&a);
    pump(&b);
    expect_same_cache(a.s, b.s);
    end(&a);
    end(&b);
}

/* Beyond the bound on waiting bytes a frame is given back, and is taken after a step. */
static void test_again(void **state)
{
    (void)state;
    fixture f;
    ic_error e = {0};
    ic_session_config c;
    ic_session_config_default(engine, 256, &c);
    c.pending_bytes_max = 4 * 3u * (unsigned)(grid.width * grid.height);
    ic_assert_ok(ic_session_new(&f.s, engine, &c, &e), &e);
    ic_test_log_init(&f.log, f.s, ic_engine_info_of(engine)->vocab);
    for (int i = 0; i < 4; i++)
        add_frame(&f, i);
    ic_frame *frame = ic_test_frame(&grid, 4, 2000000);
    assert_int_equal(ic_session_frame(f.s, &frame, &grid, &e), IC_EAGAIN);
    assert_non_null(frame);
    pump(&f);
    ic_assert_ok(ic_session_frame(f.s, &frame, &grid, &e), &e);
    assert_null(frame);
    end(&f);
}

/* A frame that is not of its grid's size, or too many tokens for the session, is refused, and is
 * taken nevertheless. */
static void test_bad_frames(void **state)
{
    (void)state;
    fixture f;
    ic_error e = {0};
    begin(&f, NULL, 256);
    ic_frame *frame = ic_frame_new(16, 16);
    assert_int_equal(ic_session_frame(f.s, &frame, &grid, &e), IC_EINVAL);
    assert_null(frame);
    ic_grid large = {.width = 16 * 100, .height = 16 * 100, .tokens_w = 100, .tokens_h = 100};
    frame = ic_test_frame(&large, 0, 0);
    assert_int_equal(ic_session_image(f.s, &frame, &large, &e), IC_ELIMIT);
    assert_null(frame);
    ic_grid wrong = {.width = 48, .height = 32, .tokens_w = 0, .tokens_h = 2};
    frame = ic_test_frame(&wrong, 0, 0);
    assert_int_equal(ic_session_image(f.s, &frame, &wrong, &e), IC_EINVAL);
    assert_false(ic_session_is_ready(f.s));
    end(&f);
}

/* One answer at a time: a second question is refused until the first answer's end has been told. */
static void test_busy(void **state)
{
    (void)state;
    fixture f;
    ic_error e = {0};
    begin(&f, NULL, 256);
    ask(&f, "Hello", 40);
    ic_sampling greedy = ic_test_greedy(4);
    assert_int_equal(ic_session_ask(f.s, "And?", &greedy, &e), IC_EBUSY);
    while (stats_of(&f).answer_tokens < 3)
        step(&f, 64);
    assert_int_equal(ic_session_ask(f.s, "And?", &greedy, &e), IC_EBUSY);
    pump(&f);
    assert_int_equal(f.log.finish, IC_FINISH_LENGTH);
    ic_assert_ok(ic_session_ask(f.s, "And?", &greedy, &e), &e);
    pump(&f);
    assert_int_equal(stats_of(&f).turn, 2);
    end(&f);
}

/* A sampled answer is what the sampler picks from the row's logits for (seed, turn, index), with
 * every token that has gone in before counted as seen. */
static void test_sampled(void **state)
{
    (void)state;
    fixture f;
    ic_error e = {0};
    ic_sampling s = {.temperature = 1,
                     .top_k = 50,
                     .top_p = 0.95f,
                     .repetition_penalty = 1.2f,
                     .seed = 99,
                     .max_tokens = 20};
    begin(&f, NULL, 256);
    ic_test_watch(engine, &f.log, 1);
    ask(&f, "Hello", 4);
    pump(&f);
    f.log.answer_count = 0;
    ic_assert_ok(ic_session_ask(f.s, "Say more.", &s, &e), &e);
    pump(&f);
    ic_test_watch(engine, NULL, 0);
    int vocab = f.log.vocab, first = 0;
    while (memcmp(f.log.ids + first, f.log.answer, 20 * sizeof(int32_t)) != 0)
        first++;
    for (int i = 0; i < 20; i++) {
        uint8_t seen[64] = {0};
        for (int row = 0; row < first + i; row++)
            seen[f.log.ids[row] / 8] |= (uint8_t)(1u << (f.log.ids[row] % 8));
        float *logits = f.log.logits + (size_t)(first + i - 1) * (size_t)vocab;
        assert_int_equal(ic_sampler_pick(&s, logits, vocab, seen, 2, (unsigned)i), f.log.answer[i]);
    }
    end(&f);
}

/* max_tokens 0 means the model's default, which is finite. */
static void test_default_length(void **state)
{
    (void)state;
    fixture f;
    begin(&f, NULL, 256);
    ask(&f, "Hello", 0);
    pump(&f);
    assert_int_equal(f.log.finish, IC_FINISH_LENGTH);
    assert_int_equal(f.log.answer_count, ic_engine_info_of(engine)->sampling.max_tokens);
    end(&f);
}

/* A stop token ends the answer, comes alone, and is no part of it. */
static void test_stop(void **state)
{
    (void)state;
    fixture f;
    begin(&f, NULL, 256);
    ask(&f, "Hello", 8);
    pump(&f);
    int32_t stop = f.log.answer[5];
    int before = 0;
    while (f.log.answer[before] != stop)
        before++;
    end(&f);
    engine->config.stop[0] = stop;
    engine->config.stop_count = 1;
    begin(&f, NULL, 256);
    ask(&f, "Hello", 8);
    ic_slice last;
    do {
        last = step(&f, 64);
        f.log.answer_count += last.progress == IC_PROGRESS_TOKEN;
    } while (!last.finish);
    assert_int_equal(last.finish, IC_FINISH_STOP);
    assert_int_equal(last.progress, IC_PROGRESS_INPUT);
    assert_int_equal(last.token, stop);
    assert_int_equal(f.log.answer_count, before);
    assert_false(stats_of(&f).answering);
    pump(&f);
    end(&f);
    engine->config.stop_count = 0;
}

/* Cancel in mid-answer ends it within one step, and leaves the bits that the same answer leaves
 * when its tokens are forced (the replay of a journal). */
static void test_cancel_and_force(void **state)
{
    (void)state;
    fixture a, b;
    ic_error e = {0};
    begin(&a, NULL, 256);
    begin(&b, NULL, 256);
    ask(&a, "Tell me of the sea.", 40);
    int32_t shown[16];
    int count = 0;
    while (count < 9) {
        ic_slice slice = step(&a, 64);
        if (slice.progress == IC_PROGRESS_TOKEN)
            shown[count++] = slice.token;
    }
    ic_session_cancel(a.s);
    assert_int_equal(step(&a, 64).finish, IC_FINISH_CANCEL);
    assert_false(stats_of(&a).answering);
    pump(&a);
    ask(&b, "Tell me of the sea.", 40);
    ic_assert_ok(ic_session_force(b.s, shown, count, &e), &e);
    ic_session_cancel(b.s);
    pump(&b);
    assert_int_equal(b.log.answer_count, count);
    assert_memory_equal(b.log.answer, shown, (size_t)count * sizeof *shown);
    assert_int_equal(b.log.finish, IC_FINISH_CANCEL);
    expect_same_cache(a.s, b.s);
    ask(&a, "And then?", 12);
    ask(&b, "And then?", 12);
    a.log.answer_count = b.log.answer_count = 0;
    pump(&a);
    pump(&b);
    assert_int_equal(a.log.answer_count, 12);
    assert_memory_equal(a.log.answer, b.log.answer, 12 * sizeof(int32_t));
    end(&a);
    end(&b);
}

/* An answer that goes on after forced tokens is the uninterrupted one. */
static void test_force_then_go_on(void **state)
{
    (void)state;
    fixture a, b;
    ic_error e = {0};
    begin(&a, NULL, 256);
    begin(&b, NULL, 256);
    ask(&a, "Tell me of the sea.", 30);
    pump(&a);
    ask(&b, "Tell me of the sea.", 30);
    ic_assert_ok(ic_session_force(b.s, a.log.answer, 11, &e), &e);
    pump(&b);
    assert_int_equal(b.log.answer_count, 30);
    assert_memory_equal(a.log.answer, b.log.answer, 30 * sizeof(int32_t));
    const int32_t outside = ic_engine_info_of(engine)->vocab;
    assert_int_equal(ic_session_force(b.s, &outside, 1, &e), IC_EINVAL);
    ask(&b, "More", 3);
    assert_int_equal(ic_session_force(b.s, &outside, 1, &e), IC_EINVAL);
    end(&a);
    end(&b);
}

/* Cancelled before its prompt is in: the end is told at the next step, nothing is said, and the
 * question stays in the conversation. */
static void test_cancel_early(void **state)
{
    (void)state;
    fixture a, b;
    begin(&a, NULL, 256);
    begin(&b, NULL, 256);
    add_frame(&a, 0);
    add_frame(&a, 1);
    ask(&a, "What do you see in this picture?", 5);
    ic_session_cancel(a.s);
    assert_int_equal(step(&a, 4).finish, IC_FINISH_CANCEL);
    ask(&a, "Hello?", 5);
    pump(&a);
    assert_int_equal(a.log.finish, IC_FINISH_LENGTH);
    assert_int_equal(a.log.answer_count, 5);
    add_frame(&b, 0);
    add_frame(&b, 1);
    ask(&b, "What do you see in this picture?", 5);
    step(&b, 10);
    step(&b, 3);
    ic_session_cancel(b.s);
    pump(&b);
    assert_int_equal(b.log.answer_count, 0);
    ask(&b, "Hello?", 5);
    pump(&b);
    expect_same_cache(a.s, b.s);
    end(&a);
    end(&b);
}

/* Frames that come during an answer wait for its end. */
static void test_frames_wait(void **state)
{
    (void)state;
    fixture f;
    begin(&f, NULL, 256);
    ask(&f, "Hello", 6);
    step(&f, 64);
    add_frame(&f, 0);
    add_frame(&f, 1);
    while (stats_of(&f).answering) {
        step(&f, 64);
        assert_int_equal(stats_of(&f).groups, 0);
    }
    pump(&f);
    assert_int_equal(stats_of(&f).groups, 1);
    end(&f);
}

/* Every frame that was taken in is told of once, as encoded or as refused: pairs, and a frame that
 * is repeated to make one as the one that it is. */
static void test_frames_are_accounted_for(void **state)
{
    (void)state;
    fixture f;
    ic_error e = {0};
    begin(&f, "full", 64);
    for (int i = 0; i < 11; i++)
        add_frame(&f, i);
    ic_assert_ok(ic_session_frames_end(f.s, &e), &e);
    int in = 0, refused = 0, last = 0;
    while (ic_session_is_ready(f.s)) {
        ic_slice slice = {.session = f.s, .max_rows = 7};
        ic_assert_ok(ic_engine_step(engine, &slice, 1, &e), &e);
        assert_int_equal(slice.frames_in, 2 * slice.frames);
        assert_true(!slice.frames_refused || slice.progress == IC_PROGRESS_FAILED);
        in += slice.frames_in;
        refused += slice.frames_refused;
        last = slice.frames_refused ? slice.frames_refused : last;
    }
    assert_true(in > 0 && refused > 2);
    assert_int_equal(in + refused, 11);
    assert_int_equal(stats_of(&f).frames, 11);
    assert_int_equal(last, 1); /* that was completed by itself */
    end(&f);
}

/* full refuses a question that does not fit, says so, and leaves everything as it was: a shorter
 * question is answered as if the long one had never been asked. */
static void test_full_refuses(void **state)
{
    (void)state;
    fixture a, b;
    begin(&a, "full", 96);
    begin(&b, "full", 96);
    char *text = ic_alloc(2000);
    memset(text, 'x', 1999);
    int used = ic_slab_used(ic_session_slab(a.s));
    ask(&a, text, 5);
    pump(&a);
    assert_int_equal(a.log.failures, 1);
    assert_int_equal(a.log.failure.code, IC_ELIMIT);
    assert_non_null(strstr(a.log.failure.text, "full"));
    assert_int_equal(a.log.finish, IC_FINISH_ERROR);
    assert_int_equal(ic_slab_used(ic_session_slab(a.s)), used);
    assert_false(stats_of(&a).answering);
    ask(&a, "Hello", 5);
    ask(&b, "Hello", 5);
    pump(&a);
    pump(&b);
    assert_int_equal(a.log.answer_count, 5);
    expect_same_cache(a.s, b.s);
    ic_free(text);
    end(&a);
    end(&b);
}

/* full ends an answer that reaches the bound, with a clear error, and the cache stays within the
 * budget, closers and all. */
static void test_full_ends_answer(void **state)
{
    (void)state;
    fixture f;
    begin(&f, "full", 64);
    ask(&f, "Hello", 500);
    pump(&f);
    assert_int_equal(f.log.finish, IC_FINISH_ERROR);
    assert_int_equal(f.log.failure.code, IC_ELIMIT);
    assert_true(f.log.answer_count > 5);
    assert_true(ic_slab_used(ic_session_slab(f.s)) <= 64);
    assert_int_equal(stats_of(&f).evicted_tokens, 0);
    end(&f);
}

/* streaming: between chunks the budget holds, the slots always do, however long the stream; pinned
 * rows and sinks stay, and the newest rows. */
static void test_streaming_bounds(void **state)
{
    (void)state;
    fixture f;
    ic_error e = {0};
    begin(&f, "streaming", 96);
    ic_assert_ok(ic_session_system(f.s, "Be brief.", &e), &e);
    const ic_slab *slab = ic_session_slab(f.s);
    const ic_session_config *c = ic_session_config_of(f.s);
    for (int i = 0; i < 60; i++) {
        add_frame(&f, i);
        if (i % 10 == 9)
            ask(&f, "What is there?", 8);
        while (ic_session_is_ready(f.s)) {
            ic_slice slice = step(&f, 7);
            assert_int_not_equal(slice.progress, IC_PROGRESS_FAILED);
            ic_session_stats stats = stats_of(&f);
            assert_true(stats.cache_used <= stats.cache_slots);
            if (stats.pending_rows == 0 && !stats.answering && f.s->answer.phase == IC_ANSWER_NONE)
                assert_true(stats.cache_used <= c->cache_tokens);
        }
    }
    ic_session_stats stats = stats_of(&f);
    assert_true(stats.evicted_tokens > 300 && stats.evicted_groups > 10);
    uint64_t held = 0, heads = 0; /* evicted and held make up what went in, over all heads */
    for (int layer = 0; layer < ic_slab_desc_of(slab)->layers; layer++)
        for (int head = 0; head < ic_slab_desc_of(slab)->kv_heads; head++, heads++)
            held += (uint64_t)ic_slab_count(slab, layer, head);
    assert_int_equal(stats.evicted_tokens, (stats.tokens * heads - held) / heads);
    int n = ic_slab_count(slab, 1, 1);
    ic_row *rows = calloc((size_t)n, sizeof *rows);
    ic_pos *pos = calloc((size_t)n, sizeof *pos);
    ic_slab_rows(slab, 1, 1, rows, NULL, pos);
    for (int i = 0; i < f.s->pinned; i++)
        assert_true(rows[i].pinned && rows[i].ordinal == (unsigned)i);
    assert_true(f.s->pinned > 0);
    assert_int_equal(rows[n - 1].ordinal, stats.tokens - 1);
    assert_true(pos[n - 1].t < c->cache_tokens + c->chunk_max + c->slack);
    free(rows);
    free(pos);
    end(&f);
}

/* A very long answer under streaming evicts when its slack is gone, never passes the slots, and is
 * the same however it is sliced. */
static void test_streaming_long_answer(void **state)
{
    (void)state;
    fixture a, b;
    begin(&a, "streaming", 64);
    begin(&b, "streaming", 64);
    ask(&a, "Tell me everything.", 300);
    ask(&b, "Tell me everything.", 300);
    const ic_session_config *c = ic_session_config_of(a.s);
    while (ic_session_is_ready(a.s)) {
        ic_slice slice = step(&a, 64);
        if (slice.progress == IC_PROGRESS_TOKEN)
            a.log.answer[a.log.answer_count++] = slice.token;
        assert_true(ic_slab_used(ic_session_slab(a.s))
                    <= c->cache_tokens + c->slack + c->chunk_max);
    }
    ic_test_pump(engine, &b.log, 1, 3, NULL);
    assert_int_equal(a.log.answer_count, 300);
    assert_memory_equal(a.log.answer, b.log.answer, 300 * sizeof(int32_t));
    assert_true(stats_of(&a).evicted_tokens > 150);
    assert_true(ic_slab_used(ic_session_slab(a.s)) <= c->cache_tokens);
    expect_same_cache(a.s, b.s);
    end(&a);
    end(&b);
}

/* What is evicted does not depend on the slices either: a stream with questions, cut two ways. */
static void test_streaming_slices(void **state)
{
    (void)state;
    fixture f[2];
    for (int i = 0; i < 2; i++) {
        begin(&f[i], "streaming", 80);
        for (int n = 0; n < 24; n++) {
            add_frame(&f[i], n);
            if (n % 8 == 7) {
                ask(&f[i], "What has changed since the last time that I asked you?", 9);
                ic_test_pump(engine, &f[i].log, 1, i ? 5 : 512, NULL);
            }
        }
    }
    assert_int_equal(f[0].log.answer_count, 27);
    assert_memory_equal(f[0].log.answer, f[1].log.answer, 27 * sizeof(int32_t));
    expect_same_cache(f[0].s, f[1].s);
    end(&f[0]);
    end(&f[1]);
}

/* The counters of a turn: its rows, and what the cache held before it. */
static void test_turn_stats(void **state)
{
    (void)state;
    fixture f;
    begin(&f, NULL, 256);
    ask(&f, "Hello", 5);
    pump(&f);
    ic_session_stats first = stats_of(&f);
    assert_int_equal(first.cached_tokens, 0);
    assert_int_equal(first.answer_tokens, 5);
    assert_true(first.prompt_tokens > 3);
    add_frame(&f, 0);
    add_frame(&f, 1);
    ask(&f, "And now?", 3);
    pump(&f);
    ic_session_stats second = stats_of(&f);
    assert_int_equal(second.cached_tokens, first.cache_used);
    assert_true(second.prompt_tokens > grid.tokens_w * grid.tokens_h);
    assert_int_equal(second.tokens, (unsigned)second.cache_used);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_system_first),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_half_pair_is_repeated),
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_bad_frames),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_sampled),
        cmocka_unit_test(test_default_length),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_cancel_and_force),
        cmocka_unit_test(test_force_then_go_on),
        cmocka_unit_test(test_cancel_early),
        cmocka_unit_test(test_frames_wait),
        cmocka_unit_test(test_full_refuses),
        cmocka_unit_test(test_frames_are_accounted_for),
        cmocka_unit_test(test_full_ends_answer),
        cmocka_unit_test(test_streaming_bounds),
        cmocka_unit_test(test_streaming_long_answer),
        cmocka_unit_test(test_streaming_slices),
        cmocka_unit_test(test_turn_stats),
    };
    int live = cmocka_run_group_tests_name("session", tests, open_engine, close_engine);
    return live ? live : ic_test_group_teardown(NULL);
}
