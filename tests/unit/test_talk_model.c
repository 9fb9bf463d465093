/* What a session's actor makes of tokens and of its model's progress, without an actor: the test
 * holds its struct, and an inbox in the scheduler's place. IC_NEEDS_SERVER */
#include <string.h>

#include "actors/ic_talk_priv.h"
#include "base/ic_clock.h"
#include "base/ic_mem.h"
#include "ic_test.h"
#include "ic_test_session.h"

static ic_engine *engine;

static int open_engine(void **state)
{
    (void)state;
    engine = ic_test_engine("gqa2_tied_f32", NULL, 1);
    return 0;
}

static int close_engine(void **state)
{
    (void)state;
    ic_engine_close(&engine);
    return 0;
}

/* The token that is one byte. */
static int32_t token_of(char byte)
{
    const ic_tokenizer *t = ic_engine_tokenizer(engine);
    for (int32_t id = 0; id < ic_tokenizer_vocab(t); id++) {
        size_t bytes = 0;
        const char *piece = ic_tokenizer_piece(t, id, &bytes);
        if (piece && bytes == 1 && piece[0] == byte)
            return id;
    }
    fail_msg("no token is the byte %d", byte);
    return -1;
}

/* A zero byte is told as U+001A, and what comes behind it in the same event is told, too. */
static void a_zero_byte_ends_no_text(void **state)
{
    (void)state;
    const ic_talk_limits limits = {.engine = engine};
    talk t = {.limits = &limits, .turn = ic_alloc(sizeof *t.turn)};
    const char bytes[] = {'a', '\0', 'b', '\0', '\0', 'c'};
    for (size_t i = 0; i < sizeof bytes; i++)
        talk_add_token(&t, t.turn, token_of(bytes[i]));
    talk_tell_tokens(&t);
    assert_non_null(t.units);
    assert_int_equal(t.units->event_count, 1);
    assert_string_equal(t.units->events[0].text, "a\x1a"
                                                 "b\x1a\x1a"
                                                 "c");
    talk_unit_drop_all(&t);
    talk_turn_free(&t.turn);
}

enum { SECOND = 1000000 };

/* A step is over, so many microseconds later. */
static void step(talk *t, int64_t us, bool ready)
{
    ic_clock_fake(ic_clock_mono_us() + us, 0);
    talk_progress(t, &(ic_mail_progress){.ready = ready});
}

static void ask(talk *t)
{
    ic_mail_input *in = ic_mail_input_new(NULL, IC_INPUT_ASK);
    talk_send_input(t, &in);
}

/* What a replay would take is what was computed: neither the time before a session's first step,
 * nor that between its questions, nor that of a lease at home. */
static void pauses_are_no_computing(void **state)
{
    (void)state;
    ic_error e = {0};
    ic_inbox *sched = NULL;
    ic_assert_ok(ic_inbox_open(&sched, "sched", 0, &e), &e);
    ic_talk_args args = {.sched = ic_port_open(sched)};
    ic_actor_self self = {0};
    talk t = {.self = &self, .args = &args, .lease = TALK_LEASE_HOME};
    ic_clock_fake(1000LL * SECOND, 0);
    talk_lease_out(&t);
    ask(&t);
    step(&t, 2000, true);
    step(&t, 3000, false);
    assert_int_equal(t.replay_us, 5000);
    ic_clock_fake(1100LL * SECOND, 0);
    ask(&t);
    ic_clock_fake(1100LL * SECOND + 1000, 0);
    ask(&t); /* does not begin anew */
    step(&t, 3000, true);
    assert_int_equal(t.replay_us, 9000);
    t.lease = TALK_LEASE_HOME; /* in the middle of an answer, for a checkpoint */
    ic_clock_fake(1200LL * SECOND, 0);
    talk_lease_out(&t);
    step(&t, 5000, false);
    assert_int_equal(t.replay_us, 14000);
    ic_clock_fake_off();
    ic_port_close(&args.sched);
    ic_inbox_close(&sched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_zero_byte_ends_no_text, open_engine, close_engine),
        cmocka_unit_test(pauses_are_no_computing),
    };
    return IC_TEST_RUN(tests);
}
