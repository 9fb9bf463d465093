/* A session's bits do not depend on how the scheduler cuts its chunks, on who shares the batch, or
 * on the number of threads (DESIGN: "what is bit-exact"). */
#include <stdio.h>
#include <string.h>

#include "ic_test.h"
#include "ic_test_session.h"

enum { SESSIONS = 4, GREEDY = 24, ROUNDS = 6 };

static const struct {
    const char *model;
    const char *cases[SESSIONS];
} groups[] = {
    {"gqa2_tied_f32", {"video_chat_f32", "images_f32", "text_system", "video_f32"}},
    {"gqa4_untied_bf16", {"video_bf16", "text_bf16", "image_bf16", "video_bf16"}},
    {"gqa1_bias_f16", {"video_chat_f16", "text_f16", "image_f16", "video_chat_f16"}},
};

static void open_session(ic_engine *engine, ic_session **s, ic_test_log *log)
{
    ic_session_config config;
    ic_error e = {0};
    ic_session_config_default(engine, 512, &config);
    config.chunk_max = 48; /* so that groups and turns are cut into several chunks */
    ic_assert_ok(ic_session_new(s, engine, &config, &e), &e);
    ic_test_log_init(log, *s, ic_engine_info_of(engine)->vocab);
}

/* Every case alone, whole chunks at a time, on one thread. */
static void run_alone(const char *model, ic_test_case *cases, ic_test_log *logs)
{
    ic_engine *engine = ic_test_engine(model, NULL, 1);
    ic_test_engine_never_stop(engine);
    ic_sampling greedy = ic_test_greedy(GREEDY);
    for (int i = 0; i < SESSIONS; i++) {
        ic_session *s;
        open_session(engine, &s, &logs[i]);
        ic_test_watch(engine, &logs[i], 1);
        ic_test_case_run(&cases[i], engine, &logs[i], 512, &greedy);
        ic_session_destroy(&s);
    }
    ic_test_watch(engine, NULL, 0);
    ic_engine_close(&engine);
}

/* All cases at once, turn by turn, with random slices and random company. */
static void run_together(ic_engine *engine, ic_test_case *cases, ic_test_log *logs, unsigned seed)
{
    ic_session *s[SESSIONS];
    ic_sampling greedy = ic_test_greedy(GREEDY);
    for (int i = 0; i < SESSIONS; i++)
        open_session(engine, &s[i], &logs[i]);
    ic_test_watch(engine, logs, SESSIONS);
    for (int turn = 0; turn < 4; turn++) {
        for (int i = 0; i < SESSIONS; i++) {
            if (turn >= ic_test_case_turns(&cases[i]))
                continue;
            logs[i].answer_count = 0;
            ic_test_case_turn(&cases[i], s[i], turn, &greedy);
        }
        ic_test_pump(engine, logs, SESSIONS, 0, &seed);
    }
    ic_test_watch(engine, NULL, 0);
    for (int i = 0; i < SESSIONS; i++)
        ic_session_destroy(&s[i]);
}

static void expect_same(const ic_test_log *a, const ic_test_log *b, const char *name)
{
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->answer_count, GREEDY);
    assert_memory_equal(a->ids, b->ids, (size_t)a->rows * sizeof *a->ids);
    assert_memory_equal(a->answer, b->answer, GREEDY * sizeof *a->answer);
    for (int row = 0; row < a->rows; row++) {
        size_t at = (size_t)row * (size_t)a->vocab, bytes = (size_t)a->vocab * sizeof *a->logits;
        if (memcmp(a->logits + at, b->logits + at, bytes) != 0)
            fail_msg("%s: logits of row %d of %d differ", name, row, a->rows);
    }
}

/* The logits of every row, prompt and answer, are the same to the bit. */
static void test_bits(void **state)
{
    (void)state;
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        ic_test_case cases[SESSIONS];
        ic_test_log alone[SESSIONS], together[SESSIONS];
        for (int i = 0; i < SESSIONS; i++)
            ic_test_case_load(&cases[i], groups[g].cases[i]);
        run_alone(groups[g].model, cases, alone);
        ic_engine *engine = ic_test_engine(groups[g].model, NULL, 2);
        ic_test_engine_never_stop(engine);
        bool exact = ic_engine_info_of(engine)->exact;
        for (unsigned round = 0; exact && round < ROUNDS; round++) {
            run_together(engine, cases, together, 77 + round);
            for (int i = 0; i < SESSIONS; i++) {
                expect_same(&alone[i], &together[i], groups[g].cases[i]);
                ic_test_log_fini(&together[i]);
            }
        }
        if (!exact)
            print_message("%s: this device does not promise it\n",
                          ic_engine_info_of(engine)->numerics);
        ic_engine_close(&engine);
        for (int i = 0; i < SESSIONS; i++) {
            ic_test_log_fini(&alone[i]);
            ic_test_case_fini(&cases[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bits)};
    return IC_TEST_RUN(tests);
}
