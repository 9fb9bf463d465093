/* A session saved in the middle of an answer, in pieces, while the answer goes on between them. It
 * is loaded elsewhere and goes on: freely, as it would have without that; or with the tokens that
 * were shown since then forced and the answer ended, as a replay does. To the bit, both. */
#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_session_priv.h"
#include "ic_test.h"
#include "ic_test_session.h"

/* As in test_session_replay: the answer evicts in its middle, several times. */
enum { CACHE = 64, ANSWER = 40, PIECES = 64, PIECE = 16000, STEPS_BETWEEN = 2 };

static ic_engine *engine;

static int open_engine(void **state)
{
    (void)state;
    engine = ic_test_engine_small(NULL);
    return 0;
}

static int close_engine(void **state)
{
    (void)state;
    ic_engine_close(&engine);
    return 0;
}

static ic_sampling sampling_of(bool greedy)
{
    ic_sampling sampling = ic_test_drawn(ANSWER);
    if (greedy)
        sampling.temperature = 0;
    return sampling;
}

/* A session whose cache is full, with a question in front of it. */
static ic_session *begin(const char *policy, bool greedy)
{
    ic_error e = {0};
    ic_sampling sampling = sampling_of(greedy);
    ic_session *s = ic_test_session_answered(engine, policy, CACHE, &sampling);
    ic_assert_ok(ic_session_ask(s, "And now?", &sampling, &e), &e);
    return s;
}

typedef struct checkpoint {
    ic_buf state, pieces[PIECES];
    int count;
    int homecomings; /* moments at which it was taken */
} checkpoint;

static void drop(checkpoint *c)
{
    ic_buf_fini(&c->state);
    for (int i = 0; i < c->count; i++)
        ic_buf_fini(&c->pieces[i]);
    c->count = c->homecomings = 0;
}

/* As a session actor takes it: a piece, some steps, the next piece; the state with the last. */
static void save_in_passing(ic_session *s, checkpoint *c, ic_test_shown *out)
{
    ic_error e = {0};
    ic_session_begin_save(s);
    for (;;) {
        bool more = true;
        assert_true(c->count < PIECES);
        ic_buf *piece = &c->pieces[c->count];
        ic_assert_ok(ic_session_save_rest(s, false, PIECE, piece, &more), &e);
        c->count += piece->size > 0;
        c->homecomings++;
        if (!more)
            break;
        ic_test_steps(engine, s, STEPS_BETWEEN, out);
    }
    ic_buf_fini(&c->state);
    ic_assert_ok(ic_session_save_state(s, &c->state, &e), &e);
}

static ic_session *load(const char *policy, const checkpoint *c)
{
    ic_error e = {0};
    ic_session *s = ic_test_session(engine, policy, CACHE);
    ic_assert_ok(ic_session_load_state(s, c->state.data, c->state.size, &e), &e);
    for (int i = 0; i < c->count; i++)
        ic_assert_ok(ic_session_load_rows(s, c->pieces[i].data, c->pieces[i].size, &e), &e);
    ic_assert_ok(ic_session_load_finish(s, &e), &e);
    return s;
}

/* Saved after `at` steps of the second answer, twice, the second time behind the first; what
 * was shown by then is *known. */
static ic_session *save_at(const char *policy, bool greedy, int at, checkpoint *c,
                           ic_test_shown *known)
{
    ic_session *s = begin(policy, greedy);
    *known = (ic_test_shown){.count = 0};
    ic_test_steps(engine, s, at / 2, known);
    save_in_passing(s, c, known);
    ic_session_mark_saved(s);
    ic_test_steps(engine, s, at - at / 2, known);
    save_in_passing(s, c, known);
    return s;
}

static const char *const policies[] = {"streaming", "saddle", "h2o", "recent-frames", "snapkv"};

/* For every policy, greedy and by a seed, from every moment of an answer: the one that was loaded
 * says what the uninterrupted one says, and is then the same to the bit; so is one whose answer was
 * replayed and ended. */
static void test_every_moment(void **state)
{
    (void)state;
    int in_rounds = 0, evicting = 0, moments = 0;
    for (size_t i = 0; i < 2 * sizeof policies / sizeof *policies; i++) {
        const char *policy = policies[i / 2];
        ic_session *never = begin(policy, i % 2);
        ic_test_shown whole = {0};
        ic_test_steps(engine, never, 1000, &whole);
        assert_int_equal(whole.count, ANSWER);
        bool over = false;
        for (int at = 0; !over; at++) {
            checkpoint c = {0};
            ic_test_shown known, rest, again = {0};
            ic_session *was = save_at(policy, i % 2, at, &c, &known);
            in_rounds += c.homecomings > 2;
            over = known.finish != IC_FINISH_NONE;
            if (over) {
                drop(&c);
                ic_session_destroy(&was);
                continue;
            }
            ic_session *free_one = load(policy, &c), *replayed = load(policy, &c);
            moments++;
            evicting += ic_slab_used(free_one->slab) > CACHE;
            rest = known;
            ic_test_steps(engine, free_one, 1000, &rest);
            assert_int_equal(rest.count, ANSWER);
            assert_int_equal(rest.finish, whole.finish);
            assert_memory_equal(rest.token, whole.token, ANSWER * sizeof *whole.token);
            ic_test_expect_same(free_one, never);
            ic_test_steps(engine, was, 1000, &known); /* who was saved does not notice */
            assert_memory_equal(known.token, whole.token, ANSWER * sizeof *whole.token);
            ic_test_expect_same(was, never);
            ic_error e = {0};
            ic_session_stats stats;
            ic_session_stats_of(replayed, &stats);
            int shown_then = stats.answer_tokens;
            ic_assert_ok(
                ic_session_force(replayed, whole.token + shown_then, ANSWER - shown_then, &e), &e);
            ic_session_cancel(replayed);
            ic_test_steps(engine, replayed, 1000, &again);
            assert_int_equal(again.count, ANSWER - shown_then);
            ic_test_expect_same(replayed, never);
            drop(&c);
            ic_session_destroy(&was);
            ic_session_destroy(&free_one);
            ic_session_destroy(&replayed);
        }
        ic_session_destroy(&never);
    }
    assert_true(moments > 250 && in_rounds > 20
                && evicting > 20); /* else this shows less than it says */
}

/* A fork's copy of such a checkpoint: the answer is cut where it stands, and the next question
 * finds what it finds after a cancel at that token. */
static void test_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        for (int at = 4; at < 24; at += 6) {
            checkpoint c = {0};
            ic_test_shown known, all = {0}, a = {0}, b = {0};
            ic_error e = {0};
            ic_sampling sampling = sampling_of(false);
            ic_session *was = save_at(policies[i], false, at, &c, &known);
            ic_session *cut = load(policies[i], &c), *cancelled = begin(policies[i], false);
            ic_session_stats stats;
            ic_session_stats_of(cut, &stats);
            assert_true(stats.decoding);
            ic_session_cancel(cut);
            ic_test_steps(engine, cut, 1000, &a);
            assert_int_equal(a.count, 0);
            assert_int_equal(a.finish, IC_FINISH_CANCEL);
            while (all.count < stats.answer_tokens)
                ic_test_steps(engine, cancelled, 1, &all);
            ic_session_cancel(cancelled);
            ic_test_steps(engine, cancelled, 1000, &all);
            ic_assert_ok(ic_session_ask(cut, "Next?", &sampling, &e), &e);
            ic_assert_ok(ic_session_ask(cancelled, "Next?", &sampling, &e), &e);
            ic_test_steps(engine, cut, 1000, &a);
            ic_test_steps(engine, cancelled, 1000, &b);
            assert_int_equal(a.count, ANSWER);
            assert_int_equal(b.count, ANSWER);
            assert_memory_equal(a.token, b.token, ANSWER * sizeof *a.token);
            ic_test_expect_same(cut, cancelled);
            drop(&c);
            ic_session_destroy(&was);
            ic_session_destroy(&cut);
            ic_session_destroy(&cancelled);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_moment),
        cmocka_unit_test(test_cut),
    };
    int live = cmocka_run_group_tests_name("session_answer", tests, open_engine, close_engine);
    return live ? live : ic_test_group_teardown(NULL);
}
