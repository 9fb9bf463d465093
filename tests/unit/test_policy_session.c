/* Policies in sessions: bounds, answers longer than the slack, and a memory that does not depend on
 * slicing, on the batch, or on where a session was saved. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_session_priv.h"
#include "ic_test.h"
#include "ic_test_session.h"

enum { BUDGET = 96, ANSWER = 30, ROUNDS = 4, SLOTS_MAX = 512 };

static const char *const policies[] = {"saddle", "snapkv",        "h2o",     "saddle-paper",
                                       "window", "recent-frames", "cascade", "corm"};
enum { POLICIES = sizeof policies / sizeof *policies };

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

static int positions_wanted, unit_wanted;
/* Of saddle, where they are not what it has by itself. */
enum { THIN = 2, QUESTIONS = 6, WINDOW = 16 };

static ic_session *new_session(const char *policy, int cache_tokens)
{
    ic_session_config c;
    ic_session *s = NULL;
    ic_error e = {0};
    ic_session_config_default(engine, cache_tokens, &c);
    snprintf(c.policy, sizeof c.policy, "%s", policy);
    c.chunk_max = 40;
    c.slack = 12;
    c.positions = positions_wanted;
    c.frame_unit = unit_wanted;
    if (strcmp(policy, "saddle") == 0 && !unit_wanted) {
        c.window = WINDOW;
        c.thin = THIN;
        c.questions = QUESTIONS;
        c.frames = 2;
        c.smooth_pct = 90;
    }
    ic_assert_ok(ic_session_new(&s, engine, &c, &e), &e);
    return s;
}

/* Frames, a text of several chunks, a question. */
static void queue_round(ic_session *s, int round)
{
    static const char text[] = "The old harbour lay quiet in the morning; two boats came in, a red "
                               "one and a green one, and nobody on the quay looked up from work.";
    ic_error e = {0};
    ic_sampling greedy = ic_test_greedy(ANSWER);
    if (round == 0)
        ic_assert_ok(ic_session_system(s, "Watch.", &e), &e);
    for (int i = 0; i < 4; i++) {
        ic_frame *f = ic_test_frame(&grid, 4 * round + i, (4 * round + i) * 500000);
        ic_assert_ok(ic_session_frame(s, &f, &grid, &e), &e);
    }
    if (round % 2 == 0)
        ic_assert_ok(ic_session_text(s, text, &e), &e);
    ic_assert_ok(ic_session_ask(s, round % 2 ? "And?" : text, &greedy, &e), &e);
}

static void expect_bounds(ic_session *s)
{
    const ic_session_config *c = ic_session_config_of(s);
    int used = ic_slab_used(ic_session_slab(s));
    assert_true(used <= c->cache_tokens + c->chunk_max + c->slack);
    if (!s->open && s->answer.phase == IC_ANSWER_NONE)
        assert_true(used <= c->cache_tokens);
}

typedef struct history {
    int32_t token[ROUNDS * ANSWER];
    int count;
} history;

/* Steps until all rounds are over or `steps` have been made. rows 0: random slices. */
static int go_on(ic_session *s, history *h, int *round, int rows, int steps)
{
    static unsigned seed = 3;
    int made = 0;
    for (; made < steps; made++) {
        if (!ic_session_is_ready(s)) {
            if (++*round == ROUNDS)
                break;
            queue_round(s, *round);
        }
        ic_error e = {0};
        seed = seed * 1664525u + 1013904223u;
        ic_slice slice = {.session = s, .max_rows = rows ? rows : 1 + (int)(seed >> 16) % 50};
        ic_assert_ok(ic_engine_step(engine, &slice, 1, &e), &e);
        assert_int_not_equal(slice.progress, IC_PROGRESS_FAILED);
        if (slice.progress == IC_PROGRESS_TOKEN)
            h->token[h->count++] = slice.token;
        expect_bounds(s);
    }
    return made;
}

static ic_session *run(const char *policy, int cache_tokens, int rows, history *h)
{
    ic_session *s = new_session(policy, cache_tokens);
    int round = 0;
    h->count = 0;
    queue_round(s, 0);
    go_on(s, h, &round, rows, 100000);
    assert_int_equal(h->count, ROUNDS * ANSWER);
    return s;
}

/* The same rows at the same places with the same bits and scores, head by head. */
static void expect_same(ic_session *a, ic_session *b)
{
    const ic_slab *x = ic_session_slab(a), *y = ic_session_slab(b);
    const ic_slab_desc *d = ic_slab_desc_of(x);
    static ic_row rx[SLOTS_MAX], ry[SLOTS_MAX];
    static int32_t sx[SLOTS_MAX], sy[SLOTS_MAX];
    static ic_pos px[SLOTS_MAX], py[SLOTS_MAX];
    static float fx[SLOTS_MAX], fy[SLOTS_MAX];
    float k[2][64], v[2][64];
    for (int head = 0; head < d->layers * d->kv_heads; head++) {
        int layer = head / d->kv_heads, kv = head % d->kv_heads;
        int n = ic_slab_count(x, layer, kv);
        assert_true(n <= SLOTS_MAX);
        assert_int_equal(n, ic_slab_count(y, layer, kv));
        ic_slab_rows(x, layer, kv, rx, sx, px);
        ic_slab_rows(y, layer, kv, ry, sy, py);
        assert_memory_equal(rx, ry, (size_t)n * sizeof *rx);
        assert_memory_equal(px, py, (size_t)n * sizeof *px);
        if (a->policy->score) {
            ic_slab_scores(x, layer, kv, fx);
            ic_slab_scores(y, layer, kv, fy);
            assert_memory_equal(fx, fy, (size_t)n * sizeof *fx);
        }
        for (int i = 0; i < n; i++) {
            ic_slab_read(x, layer, kv, sx[i], k[0], v[0]);
            ic_slab_read(y, layer, kv, sy[i], k[1], v[1]);
            assert_memory_equal(k[0], k[1], (size_t)d->head_dim * sizeof(float));
            assert_memory_equal(v[0], v[1], (size_t)d->head_dim * sizeof(float));
        }
    }
}

/* With a budget that holds everything, every scored policy is full to the bit: scores change
 * nothing but what leaves. */
static void test_equals_full(void **state)
{
    (void)state;
    static const char *const scored[] = {"saddle", "snapkv", "h2o", "cascade", "corm"};
    history want, got;
    ic_session *full = run("full", 1500, 64, &want);
    assert_int_equal(full->stats.evicted_tokens, 0);
    full->policy = &ic_policy_full;
    for (int i = 0; i < 5; i++) {
        ic_session *s = run(scored[i], 1500, 64, &got);
        assert_int_equal(s->stats.evicted_tokens, 0);
        assert_memory_equal(want.token, got.token, sizeof want.token);
        assert_int_equal(ic_slab_used(full->slab), ic_slab_used(s->slab));
        for (int head = 0; head < 2; head++) {
            float k[2][64], v[2][64];
            for (int slot = 0; slot < ic_slab_used(s->slab); slot++) {
                ic_slab_read(full->slab, head, 0, slot, k[0], v[0]);
                ic_slab_read(s->slab, head, 0, slot, k[1], v[1]);
                assert_memory_equal(k[0], k[1],
                                    (size_t)ic_slab_desc_of(s->slab)->head_dim * sizeof(float));
                assert_memory_equal(v[0], v[1],
                                    (size_t)ic_slab_desc_of(s->slab)->head_dim * sizeof(float));
            }
        }
        ic_session_destroy(&s);
    }
    ic_session_destroy(&full);
}

/* However the rows are sliced, the same rows stay with the same scores, and the answers are the
 * same; bounds hold at every step. */
static void test_slicing(void **state)
{
    (void)state;
    for (int p = 0; p < POLICIES; p++) {
        history want, got;
        ic_session *whole = run(policies[p], BUDGET, 512, &want);
        assert_true(whole->stats.evicted_tokens > 100);
        const int rows[] = {1, 7, 33, 0};
        for (int i = 0; i < 4; i++) {
            ic_session *s = run(policies[p], BUDGET, rows[i], &got);
            assert_memory_equal(want.token, got.token, sizeof want.token);
            expect_same(whole, s);
            ic_session_destroy(&s);
        }
        ic_session_destroy(&whole);
    }
}

/* Whoever else is served in the same steps, a session keeps what it keeps alone. */
static void test_batch(void **state)
{
    (void)state;
    history want[POLICIES];
    ic_session *alone[POLICIES];
    ic_test_log logs[POLICIES];
    unsigned seed = 9;
    for (int p = 0; p < POLICIES; p++) {
        alone[p] = run(policies[p], BUDGET, 64, &want[p]);
        ic_test_log_init(&logs[p], new_session(policies[p], BUDGET), engine->info.vocab);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int p = 0; p < POLICIES; p++)
            queue_round((ic_session *)logs[p].session, round);
        ic_test_pump(engine, logs, POLICIES, 0, &seed);
    }
    for (int p = 0; p < POLICIES; p++) {
        ic_session *s = (ic_session *)logs[p].session;
        assert_memory_equal(logs[p].answer, want[p].token, sizeof want[p].token);
        expect_same(alone[p], s);
        ic_session_destroy(&s);
        ic_session_destroy(&alone[p]);
        ic_test_log_fini(&logs[p]);
    }
}

static ic_session *moved(ic_session **from)
{
    ic_error e = {0};
    ic_buf state, rows;
    uint64_t cursor = 0;
    bool more = true;
    ic_session_config config = *ic_session_config_of(*from);
    ic_buf_init(&state, 0);
    ic_buf_init(&rows, 0);
    ic_assert_ok(ic_session_save_state(*from, &state, &e), &e);
    ic_assert_ok(ic_session_save_rows(*from, true, &cursor, 1 << 24, &rows, &more), &e);
    assert_false(more);
    ic_session_destroy(from);
    ic_session *s = NULL;
    ic_assert_ok(ic_session_new(&s, engine, &config, &e), &e);
    ic_assert_ok(ic_session_load_state(s, state.data, state.size, &e), &e);
    ic_assert_ok(ic_session_load_rows(s, rows.data, rows.size, &e), &e);
    ic_assert_ok(ic_session_load_finish(s, &e), &e);
    ic_buf_fini(&state);
    ic_buf_fini(&rows);
    return s;
}

/* Saved and loaded after any step (in the middle of a window, a group, an answer), a session goes
 * on as if nothing had been: tokens, rows and scores. */
static void test_saved_anywhere(void **state)
{
    (void)state;
    for (int p = 0; p < POLICIES; p++) {
        history want, got = {.count = 0};
        if (!ic_policy_find(policies[p])->score)
            continue;
        ic_session *whole = run(policies[p], BUDGET, 11, &want);
        ic_session *s = new_session(policies[p], BUDGET);
        int round = 0, steps;
        queue_round(s, 0);
        do {
            steps = go_on(s, &got, &round, 11, 1);
            if (round < ROUNDS)
                s = moved(&s);
        } while (steps == 1);
        assert_int_equal(got.count, want.count);
        assert_memory_equal(want.token, got.token, sizeof want.token);
        expect_same(whole, s);
        ic_session_destroy(&s);
        ic_session_destroy(&whole);
    }
}

/* With original positions a session is full to the bit as long as nothing leaves; then it goes on
 * alike however it is sliced and wherever it is saved, with gaps that a compact one has not; and
 * where the trained length ends it refuses, with the cure. */
static void test_original_positions(void **state)
{
    (void)state;
    history want, got;
    const int trained = engine->info.trained_tokens;
    positions_wanted = IC_POSITIONS_ORIGINAL;
    ic_session *full = run("full", 1500, 64, &want), *s = run("saddle", 1500, 64, &got);
    assert_memory_equal(want.token, got.token, sizeof want.token);
    ic_session_destroy(&s);
    ic_session_destroy(&full);
    ic_session *whole = run("saddle", BUDGET, 512, &want);
    assert_true(whole->stats.evicted_tokens > 100);
    assert_true(ic_slab_next(whole->slab) > whole->config.cache_tokens + 100);
    s = run("saddle", BUDGET, 7, &got);
    assert_memory_equal(want.token, got.token, sizeof want.token);
    expect_same(whole, s);
    ic_session_destroy(&s);
    s = new_session("saddle", BUDGET);
    int round = 0, steps;
    got.count = 0;
    queue_round(s, 0);
    do {
        steps = go_on(s, &got, &round, 11, 1);
        if (round < ROUNDS)
            s = moved(&s);
    } while (steps == 1);
    assert_memory_equal(want.token, got.token, sizeof want.token);
    expect_same(whole, s);
    ic_session_destroy(&whole);
    ic_slice slice = {.session = s};
    ic_error e = {0};
    for (int i = 0; slice.progress != IC_PROGRESS_FAILED; i++) {
        assert_true(i < trained);
        ic_assert_ok(ic_session_raw(s, "Again and again the boats went out and came in.", &e), &e);
        while (ic_session_is_ready(s) && slice.progress != IC_PROGRESS_FAILED) {
            slice = (ic_slice){.session = s, .max_rows = 64};
            ic_assert_ok(ic_engine_step(engine, &slice, 1, &e), &e);
        }
    }
    assert_int_equal(slice.error.code, IC_ELIMIT);
    assert_non_null(strstr(slice.error.text, "positions compact"));
    assert_true(ic_slab_next(s->slab) <= trained);
    ic_session_destroy(&s);
    positions_wanted = IC_POSITIONS_COMPACT;
}

/* With whole frames no head ever holds a part of a frame, however the rows are sliced. */
static void test_whole_frames(void **state)
{
    (void)state;
    history want, got;
    unit_wanted = IC_FRAME_WHOLE;
    ic_session *whole = run("saddle", BUDGET, 512, &want), *s = run("saddle", BUDGET, 9, &got);
    unit_wanted = 0;
    assert_memory_equal(want.token, got.token, sizeof want.token);
    expect_same(whole, s);
    const ic_slab_desc *d = ic_slab_desc_of(s->slab);
    int groups = 0, patches = grid.tokens_h * grid.tokens_w;
    for (int head = 0; head < d->layers * d->kv_heads; head++) {
        static ic_row rows[SLOTS_MAX];
        int count = ic_slab_count(s->slab, head / d->kv_heads, head % d->kv_heads), run_length = 0;
        ic_slab_rows(s->slab, head / d->kv_heads, head % d->kv_heads, rows, NULL, NULL);
        for (int i = 0; i < count; i++) {
            if (rows[i].kind != IC_ROW_VISION)
                continue;
            run_length++;
            bool last = i + 1 == count || rows[i + 1].group != rows[i].group
                        || rows[i + 1].kind != IC_ROW_VISION;
            assert_true(!last || run_length == patches);
            groups += last;
            run_length = last ? 0 : run_length;
        }
    }
    assert_true(groups > 0 && whole->stats.evicted_groups > 0);
    ic_session_destroy(&whole);
    ic_session_destroy(&s);
}

/* Of the rows that had a score and were neither pinned, sinks nor recent, none that left had more
 * than one that stayed; rows without a score, which came since the last chunk, all stayed. */
static void expect_lowest_left(const ic_session_config *c, const float *score, const ic_row *before,
                               int count, const ic_row *after, int left)
{
    float mean = 0, lowest = 1e9f, highest = 0;
    int scored = 0, open = 0;
    for (int i = 0; i < count; i++) {
        mean += score[i] >= 0 ? score[i] : 0;
        scored += score[i] >= 0;
    }
    mean /= (float)(scored ? scored : 1);
    for (int i = 0, j = 0; i < count; i++) {
        bool stays = j < left && after[j].ordinal == before[i].ordinal;
        float bias = mean * (float)i / (float)(count - 1) * (float)c->bias_pct / 100.0f;
        j += stays;
        open += !before[i].pinned;
        if (!stays)
            highest = score[i] + bias > highest ? score[i] + bias : highest;
        else if (score[i] >= 0 && open > c->sinks && i < count - ic_policy_recent(c))
            lowest = score[i] + bias < lowest ? score[i] + bias : lowest;
        assert_true(stays || score[i] >= 0);
    }
    assert_true(highest > 0 && highest <= lowest * 1.0001f);
}

/* An answer much longer than the slack: the cache never holds more than budget and slack; the
 * lowest scores of the last chunk leave first; what the answer says stays while it is new. */
static void test_long_answer(void **state)
{
    (void)state;
    ic_error e = {0};
    ic_session *s = new_session("saddle-paper", BUDGET);
    const ic_session_config *c = ic_session_config_of(s);
    ic_sampling greedy = ic_test_greedy(3 * BUDGET);
    static float before[SLOTS_MAX];
    static ic_row rows[2][SLOTS_MAX];
    ic_assert_ok(ic_session_text(s,
                                 "Once there were three brothers and a mill by the water; the "
                                 "eldest had a horse, the second a cow and the third a cat.",
                                 &e),
                 &e);
    ic_assert_ok(ic_session_ask(s, "Tell it.", &greedy, &e), &e);
    int evictions = 0, tokens = 0;
    while (ic_session_is_ready(s)) {
        int used = ic_slab_used(s->slab);
        bool answering = s->answer.phase == IC_ANSWER_DECODING;
        ic_slab_scores(s->slab, 1, 1, before);
        ic_slab_rows(s->slab, 1, 1, rows[0], NULL, NULL);
        ic_slice slice = {.session = s, .max_rows = 64};
        ic_assert_ok(ic_engine_step(engine, &slice, 1, &e), &e);
        tokens += slice.progress == IC_PROGRESS_TOKEN;
        int now = ic_slab_used(s->slab);
        if (answering)
            assert_true(now <= c->cache_tokens + c->slack);
        if (!answering || now >= used)
            continue;
        evictions++;
        ic_slab_rows(s->slab, 1, 1, rows[1], NULL, NULL);
        if (evictions == 1)
            expect_lowest_left(c, before, rows[0], used, rows[1], now);
    }
    assert_int_equal(tokens, 3 * BUDGET);
    assert_true(evictions >= 10);
    assert_true(ic_slab_used(s->slab) <= c->cache_tokens);
    ic_session_destroy(&s);
}

/* h2o evicts after every decoded row: an answer in the making never holds more than one row above
 * the budget, and its end none. */
static void test_h2o_per_step(void **state)
{
    (void)state;
    ic_error e = {0};
    ic_session *s = new_session("h2o", BUDGET);
    ic_sampling greedy = ic_test_greedy(2 * BUDGET);
    ic_assert_ok(ic_session_ask(s, "Tell it.", &greedy, &e), &e);
    while (ic_session_is_ready(s)) {
        ic_slice slice = {.session = s, .max_rows = 64};
        ic_assert_ok(ic_engine_step(engine, &slice, 1, &e), &e);
        if (s->answer.phase == IC_ANSWER_DECODING)
            assert_true(ic_slab_used(s->slab) <= BUDGET + 1);
    }
    assert_true(ic_slab_used(s->slab) <= BUDGET);
    assert_true(s->stats.evicted_tokens >= BUDGET);
    ic_session_destroy(&s);
}

/* Settings out of range are refused by name; each one that counts makes another meaning, whether it
 * is said or left to the policy. */
static void test_settings(void **state)
{
    (void)state;
    ic_session_config good, c;
    ic_session *s;
    ic_error e = {0};
    char one[33], other[33];
    ic_session_config_default(engine, 256, &good);
    snprintf(good.policy, sizeof good.policy, "saddle");
    ic_session_meaning(engine, &good, one);
    int *settings[] = {&c.window,    &c.recent_pct, &c.bias_pct,  &c.smooth_pct, &c.pool,
                       &c.per_layer, &c.frames,     &c.positions, &c.frame_unit, &c.questions,
                       &c.thin,      &c.fade_pct,   &c.care_pct,  &c.text_pct};
    static const char *const names[] = {
        "window",    "recent_pct", "bias",      "smooth_pct", "pool", "granularity", "frames",
        "positions", "frame_unit", "questions", "thin",       "fade", "care",        "text_pct"};
    static const int other_values[] = {16, 33, 77, 9, 5, 1, 2, 1, 2, 5, 7, 55, 44, 66};
    for (int i = 0; i < 14; i++) {
        c = good;
        *settings[i] = -2;
        assert_int_equal(ic_session_new(&s, engine, &c, &e), IC_EINVAL);
        assert_non_null(strstr(e.text, names[i]));
        *settings[i] = other_values[i];
        ic_session_meaning(engine, &c, other);
        assert_string_not_equal(one, other);
    }
    c = good;
    c.pool = 4;
    assert_int_equal(ic_session_new(&s, engine, &c, &e), IC_EINVAL);
    c = good;
    ic_policy_settle(&c);
    ic_session_meaning(engine, &c, other);
    assert_string_equal(one, other);
}

/* Whole frames are not thinned out: who asks for both is told how to have one of them. Where the
 * policy has no use for them, or thinning is left to it, they are no contradiction. */
static void test_whole_or_thinned(void **state)
{
    (void)state;
    static const char *const thinning[] = {"saddle", "saddle-paper"};
    ic_session_config good, c;
    ic_session *s;
    ic_error e = {0};
    ic_session_config_default(engine, 256, &good);
    good.frame_unit = IC_FRAME_WHOLE;
    for (int i = 0; i < 2; i++) {
        c = good;
        snprintf(c.policy, sizeof c.policy, "%s", thinning[i]);
        c.thin = 3;
        assert_int_equal(ic_session_new(&s, engine, &c, &e), IC_EINVAL);
        assert_null(s);
        assert_non_null(strstr(e.text, "thin 3"));
        assert_non_null(strstr(e.text, "frame_unit whole"));
        assert_non_null(strstr(e.text, "set thin to 0, or frame_unit to tokens"));
        c.thin = -1;
        ic_assert_ok(ic_session_config_check(engine, &c, &e), &e);
        c.thin = 0;
        ic_assert_ok(ic_session_config_check(engine, &c, &e), &e);
        ic_session_config_settle(&c);
        assert_int_equal(c.thin, -1);
        c.thin = 3;
        c.frame_unit = IC_FRAME_TOKENS;
        ic_assert_ok(ic_session_config_check(engine, &c, &e), &e);
    }
    c = good;
    snprintf(c.policy, sizeof c.policy, "streaming");
    c.thin = 3;
    ic_assert_ok(ic_session_config_check(engine, &c, &e), &e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_equals_full, open_engine, close_engine),
        cmocka_unit_test_setup_teardown(test_slicing, open_engine, close_engine),
        cmocka_unit_test_setup_teardown(test_batch, open_engine, close_engine),
        cmocka_unit_test_setup_teardown(test_saved_anywhere, open_engine, close_engine),
        cmocka_unit_test_setup_teardown(test_original_positions, open_engine, close_engine),
        cmocka_unit_test_setup_teardown(test_whole_frames, open_engine, close_engine),
        cmocka_unit_test_setup_teardown(test_long_answer, open_engine, close_engine),
        cmocka_unit_test_setup_teardown(test_h2o_per_step, open_engine, close_engine),
        cmocka_unit_test_setup_teardown(test_settings, open_engine, close_engine),
        cmocka_unit_test_setup_teardown(test_whole_or_thinned, open_engine, close_engine),
    };
    return IC_TEST_RUN(tests);
}
