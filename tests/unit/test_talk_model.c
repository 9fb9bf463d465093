/* What a session's actor makes of tokens and of its model's progress, without an actor: the test
 * holds its struct, and an inbox in the scheduler's place. IC_NEEDS_SERVER */
#include <string.h>

#include "actors/ic_talk_priv.h"
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_zero_byte_ends_no_text, open_engine, close_engine),
    };
    return IC_TEST_RUN(tests);
}
