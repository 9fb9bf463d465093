/* An answer of the past rebuilt from its tokens: ask, force what was shown, cancel. However it
 * ended when it was made, the session must be the same to the bit afterwards: a resume after a
 * crash rests on it. */
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_session_priv.h"
#include "ic_test.h"
#include "ic_test_session.h"

/* 64 tokens of cache and 8 of slack: an answer of more than a few tokens evicts in its middle, at
 * several lengths. */
enum { CACHE = 64, ANSWER = 40 };

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

/* A session whose cache is full, by an answer that ran to its limit. */
static ic_session *begin(const char *policy)
{
    ic_sampling sampling = ic_test_drawn(ANSWER);
    return ic_test_session_answered(engine, policy, CACHE, &sampling);
}

/* The answer is made with a limit and, unless it is -1, a token that stops it; then it is rebuilt.
 */
static void compare(const char *policy, int limit, int32_t stop, const ic_test_shown *expected)
{
    ic_error e = {0};
    ic_sampling sampling = ic_test_drawn(limit);
    ic_session *made = begin(policy), *rebuilt = begin(policy);
    ic_test_shown was = {0}, again = {0};
    ic_assert_ok(ic_session_ask(made, "And now?", &sampling, &e), &e);
    engine->config.stop[0] = stop;
    engine->config.stop_count = stop >= 0;
    ic_test_steps(engine, made, 1000, &was);
    assert_int_equal(was.finish, stop >= 0 ? IC_FINISH_STOP : IC_FINISH_LENGTH);
    if (expected)
        assert_int_equal(was.count, expected->count);
    ic_assert_ok(ic_session_ask(rebuilt, "And now?", &sampling, &e), &e);
    if (was.count)
        ic_assert_ok(ic_session_force(rebuilt, was.token, was.count, &e), &e);
    ic_session_cancel(rebuilt);
    ic_test_steps(engine, rebuilt, 1000, &again);
    engine->config.stop_count = 0;
    assert_int_equal(again.count, was.count);
    ic_test_expect_same(made, rebuilt);
    ic_session_destroy(&made);
    ic_session_destroy(&rebuilt);
}

static const char *const policies[] = {"streaming", "saddle", "h2o", "recent-frames"};

/* Answers of every length, ended by their limit. */
static void test_length(void **state)
{
    (void)state;
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++)
        for (int n = 1; n <= ANSWER; n += 3)
            compare(policies[p], n, -1, NULL);
}

/* Answers of every length that the model ended itself, none at all included: each token that comes
 * for the first time is made the one that stops. */
static void test_stop(void **state)
{
    (void)state;
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        ic_error e = {0};
        ic_sampling sampling = ic_test_drawn(ANSWER);
        ic_test_shown all = {0};
        ic_session *s = begin(policies[p]);
        ic_assert_ok(ic_session_ask(s, "And now?", &sampling, &e), &e);
        ic_test_steps(engine, s, 1000, &all);
        ic_session_destroy(&s);
        int tried = 0;
        for (int n = 0; n < ANSWER; n++) {
            bool first = true;
            for (int i = 0; i < n; i++)
                first &= all.token[i] != all.token[n];
            if (!first)
                continue;
            compare(policies[p], ANSWER, all.token[n], &(ic_test_shown){.count = n});
            tried++;
        }
        assert_true(tried > ANSWER / 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_stop),
    };
    int live = cmocka_run_group_tests_name("session_replay", tests, open_engine, close_engine);
    return live ? live : ic_test_group_teardown(NULL);
}
