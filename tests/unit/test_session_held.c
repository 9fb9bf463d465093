/* What a session still holds: counts against the slot tables, times against what was shown. */
#include <stdio.h>
#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_session_held.h"
#include "engine/ic_session_priv.h"
#include "ic_test.h"
#include "ic_test_session.h"

enum { BUDGET = 96 };

static ic_engine *engine;
static ic_grid grid;

static int open_engine(void **state)
{
    (void)state;
    ic_error e = {0};
    engine = ic_test_engine("gqa2_tied_f32", NULL, 1);
    return ic_engine_grid(engine, 48, 32, 0, true, &grid, &e);
}

static int close_engine(void **state)
{
    (void)state;
    ic_engine_close(&engine);
    return 0;
}

static void run(ic_session *s)
{
    while (ic_session_is_ready(s)) {
        ic_error e = {0};
        ic_slice slice = {.session = s, .max_rows = 64};
        ic_assert_ok(ic_engine_step(engine, &slice, 1, &e), &e);
        assert_int_not_equal(slice.progress, IC_PROGRESS_FAILED);
    }
}

static ic_session *new_session(const char *policy)
{
    ic_session_config c;
    ic_session *s = NULL;
    ic_error e = {0};
    ic_session_config_default(engine, BUDGET, &c);
    snprintf(c.policy, sizeof c.policy, "%s", policy);
    ic_assert_ok(ic_session_new(&s, engine, &c, &e), &e);
    return s;
}

/* Pairs of frames at 0.5 and 1 s, 2.5 and 3 s, ... */
static void watch(ic_session *s, int pairs, int64_t from_us)
{
    ic_error e = {0};
    for (int i = 0; i < pairs; i++) {
        for (int k = 0; k < 2; k++) {
            int64_t at = from_us + i * 2000000 + 500000 + k * 500000;
            ic_frame *f = ic_test_frame(&grid, 2 * i + k, (int)at);
            ic_assert_ok(ic_session_frame(s, &f, &grid, &e), &e);
        }
        run(s);
    }
}

static void expect_same(const ic_session_held *a, const ic_session_held *b)
{
    assert_memory_equal(a, b, sizeof *a);
}

/* Counts are means of the tables; nothing is counted twice, and nothing is left out. */
static void test_counts(void **state)
{
    (void)state;
    static const char *const policies[] = {"streaming", "saddle", "recent-frames", "window"};
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        ic_error e = {0};
        ic_session *s = new_session(policies[p]);
        ic_sampling greedy = ic_test_greedy(8);
        ic_assert_ok(ic_session_system(s, "Watch.", &e), &e);
        watch(s, 96, 0);
        ic_assert_ok(ic_session_ask(s, "What did you see?", &greedy, &e), &e);
        run(s);
        ic_session_held h;
        ic_assert_ok(ic_session_held_of(s, &h, &e), &e);
        const ic_slab_desc *d = ic_slab_desc_of(s->slab);
        int kinds[3] = {0}, pinned = 0, heads = d->layers * d->kv_heads;
        static ic_row rows[1024];
        for (int head = 0; head < heads; head++) {
            int count = ic_slab_count(s->slab, head / d->kv_heads, head % d->kv_heads);
            ic_slab_rows(s->slab, head / d->kv_heads, head % d->kv_heads, rows, NULL, NULL);
            for (int i = 0; i < count; i++) {
                pinned += rows[i].pinned;
                kinds[rows[i].kind] += !rows[i].pinned;
            }
        }
        assert_int_equal(h.pinned, (pinned + heads / 2) / heads);
        assert_int_equal(h.vision, (kinds[IC_ROW_VISION] + heads / 2) / heads);
        assert_int_equal(h.markers, (kinds[IC_ROW_MARKER] + heads / 2) / heads);
        int text = (kinds[IC_ROW_TEXT] + heads / 2) / heads;
        assert_true(h.text + h.sinks - text <= 1 && text - h.text - h.sinks <= 1);
        assert_int_equal(h.sinks, strcmp(policies[p], "window") == 0 ? 0 : 4);
        assert_int_equal(h.groups_seen, 96);
        int held_rows = (pinned + kinds[0] + kinds[1] + kinds[2] + heads / 2) / heads;
        assert_int_equal(h.evicted_tokens, s->stats.tokens - (uint64_t)held_rows);
        assert_int_equal(h.evicted_groups, 96 - h.groups);
        assert_true(h.evicted_tokens > 0 && h.groups > 0 && h.groups < 96);
        assert_int_equal(h.used, ic_slab_used(s->slab));
        int groups = 0, tokens = 0;
        for (int i = 0; i < h.span_count; i++) {
            groups += h.spans[i].groups;
            tokens += h.spans[i].tokens;
        }
        assert_int_equal(groups, h.groups);
        assert_true(tokens - h.vision <= h.span_count && h.vision - tokens <= h.span_count);
        double share = 0;
        for (int i = 0; i < IC_HELD_BINS; i++)
            share += (double)(h.bins[i].text + h.bins[i].vision);
        double held = share * (double)h.tokens / IC_HELD_BINS;
        assert_true(held > 0.9 * (pinned + kinds[0] + kinds[1] + kinds[2]) / heads
                    && held <= 1.01 * (pinned + kinds[0] + kinds[1] + kinds[2]) / heads);
        ic_session_destroy(&s);
    }
}

/* What a session counts as evicted is what went in and is no longer there, mean over the heads,
 * however the heads differ: never more than it has seen. So it is after the state has been stored
 * and loaded, too, whatever the former count was. */
static void test_evicted_is_what_is_gone(void **state)
{
    (void)state;
    static const char *const policies[] = {"streaming", "saddle", "cascade",       "corm",
                                           "h2o",       "snapkv", "recent-frames", "window"};
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        ic_error e = {0};
        ic_session *s = new_session(policies[p]);
        const ic_slab_desc *d = ic_slab_desc_of(s->slab);
        uint64_t heads = (uint64_t)d->layers * (uint64_t)d->kv_heads, last = 0;
        for (int round = 0; round < 6; round++) {
            ic_sampling greedy = ic_test_greedy(30);
            watch(s, 5, round * 10000000);
            ic_assert_ok(ic_session_ask(s, "What did you see there, and where?", &greedy, &e), &e);
            run(s);
            uint64_t held = 0;
            for (uint64_t head = 0; head < heads; head++)
                held += (uint64_t)ic_slab_count(s->slab, (int)head / d->kv_heads,
                                                (int)head % d->kv_heads);
            uint64_t gone = (s->stats.tokens * heads - held) / heads;
            assert_int_equal(s->stats.evicted_tokens, gone);
            assert_true(gone >= last && gone < s->stats.tokens);
            last = gone;
        }
        assert_true(last > 0);
        ic_buf saved = {0};
        s->stats.evicted_tokens += 1000; /* as a former build may have stored it */
        ic_assert_ok(ic_session_save_state(s, &saved, &e), &e);
        ic_session *t = new_session(policies[p]);
        ic_assert_ok(ic_session_load_state(t, saved.data, saved.size, &e), &e);
        assert_int_equal(t->stats.evicted_tokens, last);
        ic_buf_fini(&saved);
        ic_session_destroy(&s);
        ic_session_destroy(&t);
    }
}

/* Frames stand in the span of the time at which they were shown; window holds the newest. A
 * source that begins again at zero goes behind the one before it. */
static void test_spans(void **state)
{
    (void)state;
    ic_error e = {0};
    ic_session *s = new_session("window");
    ic_session_held h;
    watch(s, 30, 0); /* to 59 s */
    ic_assert_ok(ic_session_held_of(s, &h, &e), &e);
    assert_int_equal(h.stream_us, 58750000);
    assert_int_equal(h.spans[1].from_us - h.spans[0].from_us, 5000000);
    assert_int_equal(h.span_count, 12);
    assert_int_equal(h.spans[0].groups, 0);
    assert_true(h.spans[11].groups >= 2);
    watch(s, 30, 0);
    ic_assert_ok(ic_session_held_of(s, &h, &e), &e);
    assert_int_equal(h.stream_us, 2 * 58750000);
    assert_int_equal(h.spans[0].to_us, 10000000);
    assert_true(h.spans[h.span_count - 1].groups > 0);
    assert_int_equal(h.spans[2].groups, 0);
    ic_session_destroy(&s);
}

/* Times of thousands of groups in bounded room stay within a stride of the truth, saved and loaded
 * they are the same, and damage is refused. */
static void test_clock(void **state)
{
    (void)state;
    ic_stream_clock c = {.stride = 1}, back = {0};
    enum { GROUPS = 5000 };
    for (uint32_t g = 1; g <= GROUPS; g++)
        ic_stream_clock_note(&c, g, (int64_t)g * 700000 + (g % 3) * 1000);
    assert_true(c.count <= IC_CLOCK_KNOTS && c.stride == 32);
    for (uint32_t g = 1; g <= GROUPS; g++) {
        int64_t off = ic_stream_clock_time(&c, GROUPS, g) - (int64_t)g * 700000;
        assert_true(off > -5000 && off < 5000);
    }
    ic_stream_clock_note(&c, GROUPS + 1, 0);
    assert_int_equal(c.base_us + c.last_us, (int64_t)GROUPS * 700000 + (GROUPS % 3) * 1000);
    ic_buf b = {0};
    ic_cursor in;
    assert_int_equal(ic_stream_clock_save(&c, &b), IC_OK);
    ic_cursor_init(&in, b.data, b.size);
    assert_true(ic_stream_clock_load(&back, &in) && ic_cursor_left(&in) == 0);
    assert_int_equal(back.count, c.count);
    assert_memory_equal(&back.knot[0], &c.knot[0], sizeof c.knot[0]);
    for (size_t cut = 0; cut < b.size; cut++) {
        ic_cursor_init(&in, b.data, cut);
        assert_false(ic_stream_clock_load(&back, &in));
    }
    b.data[16] = 3; /* a stride that is no power of two */
    ic_cursor_init(&in, b.data, b.size);
    assert_false(ic_stream_clock_load(&back, &in));
    ic_buf_fini(&b);
}

/* As bytes and back it is the same; cut off, or with a share above one, it is refused. A session
 * saved and loaded holds what it held. */
static void test_bytes(void **state)
{
    (void)state;
    ic_error e = {0};
    ic_session *s = new_session("saddle"), *t = new_session("saddle");
    ic_session_held h, back;
    ic_buf b = {0}, saved = {0}, rows = {0};
    ic_cursor in;
    watch(s, 9, 0);
    ic_assert_ok(ic_session_held_of(s, &h, &e), &e);
    assert_int_equal(ic_session_held_save(&h, &b), IC_OK);
    ic_cursor_init(&in, b.data, b.size);
    ic_assert_ok(ic_session_held_load(&back, &in, &e), &e);
    expect_same(&h, &back);
    for (size_t cut = 0; cut < b.size; cut++) {
        ic_cursor_init(&in, b.data, cut);
        assert_int_equal(ic_session_held_load(&back, &in, &e), IC_EFORMAT);
    }
    float two = 2;
    memcpy(b.data + b.size - sizeof two, &two, sizeof two);
    ic_cursor_init(&in, b.data, b.size);
    assert_int_equal(ic_session_held_load(&back, &in, &e), IC_EFORMAT);
    uint64_t cursor = 0;
    bool more = false;
    ic_assert_ok(ic_session_save_state(s, &saved, &e), &e);
    ic_assert_ok(ic_session_save_rows(s, true, &cursor, 1 << 24, &rows, &more), &e);
    ic_assert_ok(ic_session_load_state(t, saved.data, saved.size, &e), &e);
    ic_assert_ok(ic_session_load_rows(t, rows.data, rows.size, &e), &e);
    ic_assert_ok(ic_session_load_finish(t, &e), &e);
    ic_assert_ok(ic_session_held_of(t, &back, &e), &e);
    expect_same(&h, &back);
    ic_buf_fini(&b), ic_buf_fini(&saved), ic_buf_fini(&rows);
    ic_session_destroy(&s);
    ic_session_destroy(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_counts, open_engine, close_engine),
        cmocka_unit_test_setup_teardown(test_evicted_is_what_is_gone, open_engine, close_engine),
        cmocka_unit_test_setup_teardown(test_spans, open_engine, close_engine),
        cmocka_unit_test(test_clock),
        cmocka_unit_test_setup_teardown(test_bytes, open_engine, close_engine),
    };
    return IC_TEST_RUN(tests);
}
