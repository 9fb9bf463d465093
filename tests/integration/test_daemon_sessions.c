/* The daemon as its clients see it: sessions, answers, keys, queues, many at once. IC_NEEDS_SERVER
 */
#include "ic_daemon.h"

static const char *const long_answers[] = {"session.max_answer_tokens=100000", NULL};

/* A session is made, answers a question with events that end in usage, and is listed and shown. */
static void a_session_answers(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "answers");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char id[64];
    new_session(t, id);
    assert_int_equal(strlen(id), 26);
    answer a = ask(t, id, "What is red?", 40);
    assert_true(a.finish == IC_WIRE_FINISH_LENGTH || a.finish == IC_WIRE_FINISH_STOP);
    assert_true(a.usage.completion_tokens <= 40);
    assert_true(a.usage.prompt_tokens > 0);
    assert_true(a.usage.exact);
    assert_true(a.usage.ttft_us > 0 && a.usage.ttft_us <= a.usage.duration_us);
    ic_wire_msg m;
    simple(t, IC_WIRE_SHOW, id, &m);
    assert_int_equal(m.ok.turns.count, 1);
    assert_string_equal(m.ok.turns.items[0].text, "What is red?");
    assert_string_equal(m.ok.turns.items[0].answer, a.text);
    assert_string_equal(m.ok.info.session, id);
    ic_wire_msg_fini(&m);
    free(a.text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* Stopped by SIGTERM and started again, a session goes on as if nothing had happened: greedy
 * answers equal those of a session that was never interrupted. */
static void restart_changes_nothing(void **state)
{
    (void)state;
    static const char *const questions[] = {"One?", "And two?", "Then three."};
    enum { TOKENS = 60 };
    daemon_process d;
    prepare(&d, "restart");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char whole[64], broken[64];
    char *expected[3];
    new_session(t, whole);
    for (int i = 0; i < 3; i++)
        expected[i] = ask(t, whole, questions[i], TOKENS).text;
    new_session(t, broken);
    answer a = ask(t, broken, questions[0], TOKENS);
    assert_string_equal(a.text, expected[0]);
    free(a.text);
    disconnect_talker(&t);
    for (int i = 1; i < 3; i++) {
        stop_daemon(&d);
        start_daemon(&d, tiny_model(), NULL);
        t = connect_talker(&d);
        a = ask(t, broken, questions[i], TOKENS);
        assert_string_equal(a.text, expected[i]);
        assert_true(a.usage.exact);
        assert_int_equal(a.usage.recomputed_tokens, 0);
        assert_true(a.usage.cached_tokens > 0);
        free(a.text);
        disconnect_talker(&t);
    }
    for (int i = 0; i < 3; i++)
        free(expected[i]);
    stop_daemon(&d);
}

/* Killed in the middle of an answer, the daemon finishes that answer when it is back: all that was
 * shown before stands, and the whole equals the uninterrupted one. */
static void a_crash_in_mid_answer_loses_nothing(void **state)
{
    (void)state;
    enum { TOKENS = 1500 };
    daemon_process d;
    prepare(&d, "crash");
    start_daemon(&d, tiny_model(), long_answers);
    talker *t = connect_talker(&d);
    char whole[64], broken[64];
    new_session(t, whole);
    answer expected = ask(t, whole, "Tell me all.", TOKENS);
    new_session(t, broken);
    uint64_t turn = begin_ask(t, broken, "Tell me all.", TOKENS);
    ic_wire_msg m;
    char seen[512];
    assert_true(next_event(t, broken, IC_WIRE_EVENT_TEXT, &m, 20000));
    snprintf(seen, sizeof seen, "%s", m.event.text);
    ic_wire_msg_fini(&m);
    crash_daemon(&d, &t, long_answers);
    attach(t, broken, 1, 0);
    answer a = read_answer(t, broken, turn);
    assert_int_equal(a.finish, expected.finish);
    assert_int_equal(strncmp(a.text, seen, strlen(seen)), 0);
    assert_string_equal(a.text, expected.text);
    assert_int_equal(a.usage.completion_tokens, expected.usage.completion_tokens);
    free(a.text);
    free(expected.text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* Two clients talk to two sessions at once and both stream; cancelling one does not disturb the
 * other; a third client that attaches to the other sees the very same events. */
static void sessions_do_not_disturb_each_other(void **state)
{
    (void)state;
    enum { TOKENS = 2500 };
    daemon_process d;
    prepare(&d, "many");
    start_daemon(&d, tiny_model(), long_answers);
    talker *a = connect_talker(&d), *b = connect_talker(&d), *c = connect_talker(&d);
    char quiet[64], one[64], two[64];
    new_session(a, quiet);
    answer expected = ask(a, quiet, "Count to a million.", TOKENS);
    new_session(a, one);
    new_session(b, two);
    uint64_t turn_one = begin_ask(a, one, "Count to a million.", TOKENS);
    uint64_t turn_two = begin_ask(b, two, "Something else.", 90000);
    attach(c, one, 1, 0);
    ic_wire_msg m;
    assert_true(next_event(b, two, IC_WIRE_EVENT_TEXT, &m, 20000)); /* both stream */
    ic_wire_msg_fini(&m);
    assert_true(next_event(a, one, IC_WIRE_EVENT_ANSWER_BEGIN, &m, 20000));
    ic_wire_msg_fini(&m);
    simple(b, IC_WIRE_CANCEL, two, &m);
    assert_int_equal(m.ok.turn, turn_two);
    ic_wire_msg_fini(&m);
    answer cut = read_answer(b, two, turn_two);
    assert_int_equal(cut.finish, IC_WIRE_FINISH_CANCEL);
    answer mine = read_answer(a, one, turn_one), theirs = read_answer(c, one, turn_one);
    assert_string_equal(mine.text, expected.text);
    assert_string_equal(theirs.text, expected.text);
    assert_int_equal(mine.last_n, theirs.last_n);
    free(mine.text);
    free(theirs.text);
    free(cut.text);
    free(expected.text);
    disconnect_talker(&a);
    disconnect_talker(&b);
    disconnect_talker(&c);
    stop_daemon(&d);
}

/* A second question while one is answered gets BUSY, or waits its turn when asked to; a queued one
 * can be taken out again. */
static void a_busy_session_refuses_or_queues(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "busy");
    start_daemon(&d, tiny_model(), long_answers);
    talker *t = connect_talker(&d);
    char id[64];
    new_session(t, id);
    uint64_t first = begin_ask(t, id, "Count to a million.", 90000);
    ic_wire_msg m = ask_msg(id, "Me too?", 5), reply;
    must_fail(t, &m, "BUSY");
    m = ask_msg(id, "Me next?", 5);
    ic_wire_put(&m.ask, ask, if_busy, IC_WIRE_IF_BUSY_QUEUE);
    must(t, &m, &reply);
    uint64_t second = reply.ok.turn;
    ic_wire_msg_fini(&reply);
    m = ask_msg(id, "And me?", 5);
    ic_wire_put(&m.ask, ask, if_busy, IC_WIRE_IF_BUSY_QUEUE);
    must(t, &m, &reply);
    uint64_t third = reply.ok.turn;
    ic_wire_msg_fini(&reply);
    ic_wire_msg_init(&m, IC_WIRE_CANCEL);
    ic_wire_put(&m.cancel, cancel, session, id);
    ic_wire_put(&m.cancel, cancel, turn, third);
    must(t, &m, &reply);
    assert_int_equal(reply.ok.turn, third);
    ic_wire_msg_fini(&reply);
    ic_wire_msg_init(&m, IC_WIRE_CANCEL);
    ic_wire_put(&m.cancel, cancel, session, id);
    ic_wire_put(&m.cancel, cancel, turn, first);
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    answer a = read_answer(t, id, second); /* steps over the ends of the others */
    assert_true(a.finish != IC_WIRE_FINISH_CANCEL);
    free(a.text);
    simple(t, IC_WIRE_SHOW, id, &m);
    assert_int_equal(m.ok.turns.count, 3);
    assert_int_equal(m.ok.turns.items[0].finish_reason, IC_WIRE_FINISH_CANCEL);
    assert_int_equal(m.ok.turns.items[2].finish_reason, IC_WIRE_FINISH_CANCEL);
    ic_wire_msg_fini(&m);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* The same key and content: the former answer's events again, nothing computed twice, also after a
 * restart and while the answer still runs. Another content: CONFLICT. */
static void keys_make_requests_happen_once(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "keys");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char id[64];
    new_session(t, id);
    ic_wire_id key = random_id();
    ic_wire_msg m = ask_msg(id, "Once only?", 30), reply;
    ic_wire_put(&m.ask, ask, key, key);
    must(t, &m, &reply);
    uint64_t turn = reply.ok.turn, n = reply.ok.n;
    assert_false(ic_wire_get(&reply.ok, ok, repeated, false));
    ic_wire_msg_fini(&reply);
    answer a = read_answer(t, id, turn);
    for (int round = 0; round < 2; round++) {
        must(t, &m, &reply);
        assert_true(ic_wire_get(&reply.ok, ok, repeated, false));
        assert_int_equal(reply.ok.turn, turn);
        assert_int_equal(reply.ok.n, n);
        ic_wire_msg_fini(&reply);
        answer again = read_answer(t, id, turn);
        assert_string_equal(again.text, a.text);
        assert_int_equal(again.last_n, a.last_n);
        free(again.text);
        ic_wire_msg other = ask_msg(id, "Something else?", 30);
        ic_wire_put(&other.ask, ask, key, key);
        must_fail(t, &other, "CONFLICT");
        if (round)
            break;
        restart_daemon(&d, &t, NULL);
    }
    simple(t, IC_WIRE_SHOW, id, &reply);
    assert_int_equal(reply.ok.turns.count, 1);
    ic_wire_msg_fini(&reply);
    ic_wire_msg_init(&m, IC_WIRE_NEW);
    ic_wire_put(&m.new, new, key, random_id());
    must(t, &m, &reply);
    char made[64];
    snprintf(made, sizeof made, "%s", reply.ok.session);
    ic_wire_msg_fini(&reply);
    must(t, &m, &reply);
    assert_string_equal(reply.ok.session, made);
    ic_wire_msg_fini(&reply);
    free(a.text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* An answer whose client has vanished runs to its end and is kept; with on_vanish cancel it stops.
 */
static void a_client_vanishes(void **state)
{
    (void)state;
    static const char *const settings[] = {"session.max_answer_tokens=1000000",
                                           "server.heartbeat_ms=500", NULL};
    daemon_process d;
    prepare(&d, "vanish");
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    char kept[64], cut[64];
    new_session(t, kept);
    new_session(t, cut);
    uint64_t kept_turn = begin_ask(t, kept, "Stay.", 2000);
    ic_wire_msg m = ask_msg(cut, "Something else.", 900000), reply;
    ic_wire_put(&m.ask, ask, on_vanish, IC_WIRE_ON_VANISH_CANCEL);
    must(t, &m, &reply);
    uint64_t cut_turn = reply.ok.turn;
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t); /* without a BYE */
    t = connect_talker(&d);
    attach(t, kept, 1, 0);
    answer a = read_answer(t, kept, kept_turn);
    assert_true(a.finish == IC_WIRE_FINISH_LENGTH || a.finish == IC_WIRE_FINISH_STOP);
    free(a.text);
    attach(t, cut, 1, 0);
    a = read_answer(t, cut, cut_turn);
    assert_int_equal(a.finish, IC_WIRE_FINISH_CANCEL);
    free(a.text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A question to a session that needs another's memory: BUSY, which may come while the other is
 * being stored, is no answer, and is asked again. */
static answer ask_until_room(talker *t, const char *id, const char *text, uint64_t tokens)
{
    for (int i = 0; i < REPLY_S * 10; i++) {
        ic_wire_msg m = ask_msg(id, text, tokens), reply;
        request(t, &m, &reply);
        bool busy = reply.verb == IC_WIRE_ERROR && reply.error.retryable
                    && strcmp(reply.error.code, "BUSY") == 0;
        if (!busy && reply.verb == IC_WIRE_ERROR)
            fail_msg("%s: %s", reply.error.code, reply.error.message);
        uint64_t turn = busy ? 0 : reply.ok.turn;
        ic_wire_msg_fini(&reply);
        if (!busy)
            return read_answer(t, id, turn);
        usleep(100000);
    }
    fail_msg("no room came for %s", id);
    return (answer){.text = NULL};
}

/* Suspended and resumed by request, and by being spoken to; more sessions than memory has room for
 * take turns, and each remembers. */
static void sessions_share_the_memory(void **state)
{
    (void)state;
    static const char *const settings[] = {"session.max_resident=1", NULL};
    daemon_process d;
    prepare(&d, "share");
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    char a[64], b[64];
    new_session(t, a);
    answer one = ask(t, a, "First of a.", 20);
    new_session(t, b);
    answer two = ask_until_room(t, b, "First of b.", 20);
    answer three = ask_until_room(t, a, "Second of a.", 20);
    assert_true(three.usage.cached_tokens >= one.usage.completion_tokens);
    assert_int_equal(three.usage.recomputed_tokens, 0);
    ic_wire_msg m;
    simple(t, IC_WIRE_SUSPEND, a, &m);
    assert_int_equal(m.ok.state, IC_WIRE_STATE_SUSPENDED);
    ic_wire_msg_fini(&m);
    ic_wire_msg_init(&m, IC_WIRE_STATUS);
    ic_wire_msg reply;
    must(t, &m, &reply);
    assert_int_equal(reply.ok.status.resident, 0);
    assert_int_equal(reply.ok.status.sessions, 2);
    assert_int_equal(reply.ok.status.resident_max, 1);
    ic_wire_msg_fini(&reply);
    simple(t, IC_WIRE_RESUME, b, &m);
    assert_int_equal(m.ok.state, IC_WIRE_STATE_IDLE);
    assert_true(m.ok.exact);
    ic_wire_msg_fini(&m);
    free(one.text);
    free(two.text);
    free(three.text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A session that nobody speaks to is suspended by itself, tells so, and comes back when spoken to.
 */
static void idle_sessions_are_suspended(void **state)
{
    (void)state;
    static const char *const settings[] = {"session.idle_s=1", NULL};
    daemon_process d;
    prepare(&d, "idle");
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    char id[64];
    new_session(t, id);
    free(ask(t, id, "Hello.", 10).text);
    ic_wire_msg m;
    /* The event alone says it; PINGs keep the client known meanwhile. */
    bool told = false;
    for (int i = 0; i < 40 && !told; i++) {
        ic_wire_msg_init(&m, IC_WIRE_PING);
        send_msg(t, &m, NULL, 0);
        told = next_event(t, id, IC_WIRE_EVENT_STATE, &m, 500);
    }
    assert_true(told);
    assert_int_equal(m.event.state, IC_WIRE_STATE_SUSPENDED);
    ic_wire_msg_fini(&m);
    answer a = ask(t, id, "And again.", 10);
    assert_true(a.usage.cached_tokens > 0);
    free(a.text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A deleted session is gone, also in the middle of an answer; its prefix is free again; the
 * deletion can be repeated with its key. */
static void deleting_is_final(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "delete");
    start_daemon(&d, tiny_model(), long_answers);
    talker *t = connect_talker(&d);
    char id[64];
    new_session(t, id);
    begin_ask(t, id, "Count to a million.", 90000);
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_RM);
    ic_wire_put(&m.rm, rm, session, id);
    ic_wire_put(&m.rm, rm, key, random_id());
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    ic_wire_msg question = ask_msg(id, "Still there?", 5);
    must_fail(t, &question, "NOTFOUND");
    must(t, &m, &reply);
    assert_true(ic_wire_get(&reply.ok, ok, repeated, false));
    ic_wire_msg_fini(&reply);
    question = ask_msg("zzzz", "Nobody?", 5);
    must_fail(t, &question, "NOTFOUND");
    disconnect_talker(&t);
    stop_daemon(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_answers),
        cmocka_unit_test(restart_changes_nothing),
        cmocka_unit_test(a_crash_in_mid_answer_loses_nothing),
        cmocka_unit_test(sessions_do_not_disturb_each_other),
        cmocka_unit_test(a_busy_session_refuses_or_queues),
        cmocka_unit_test(keys_make_requests_happen_once),
        cmocka_unit_test(a_client_vanishes),
        cmocka_unit_test(sessions_share_the_memory),
        cmocka_unit_test(idle_sessions_are_suspended),
        cmocka_unit_test(deleting_is_final),
    };
    return IC_DAEMON_RUN(tests);
}
