/* The daemon against bad input: garbage, strangers, slow readers, wrong starts. IC_NEEDS_SERVER */
#include "ic_daemon.h"

static void send_raw(talker *t, const void *const *frames, const size_t *sizes, int count)
{
    zmsg_t *out = zmsg_new();
    for (int i = 0; i < count; i++)
        zmsg_addmem(out, frames[i], sizes[i]);
    assert_int_equal(zmsg_send(&out, t->sock), 0);
}

static void expect_error(talker *t, const char *code)
{
    ic_wire_msg m;
    await_verb(t, IC_WIRE_ERROR, &m);
    assert_string_equal(m.error.code, code);
    assert_true(strlen(m.error.message) > 0);
    ic_wire_msg_fini(&m);
}

/* Whatever arrives, the answer is an ERROR that says why, and the server goes on. */
static void garbage_is_answered(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "garbage");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char deep[200];
    memset(deep, 0x91, sizeof deep); /* arrays within arrays */
    struct {
        const char *head, *body;
        size_t head_size, body_size;
        const char *code;
    } cases[] = {
        {"", "", 0, 0, "INVALID"},
        {"hello", "\x80", 5, 1, "INVALID"},
        {"ICW\x01NONSENSE", "\x80", 12, 1, "UNSUPPORTED"},
        {"ICW\x07PING", "\x80", 8, 1, "VERSION"},
        {"ICW\x01PING", "", 8, 0, "INVALID"},
        {"ICW\x01PING", "\xc1", 8, 1, "INVALID"},
        {"ICW\x01STATUS", "\xdf\xff\xff\xff\xff", 10, 5, "INVALID"},
        {"ICW\x01STATUS", deep, 10, sizeof deep, "LIMIT"},
        {"ICW\x01STATUS", "\x81\xa2re\xa3you", 10, 8, "INVALID"},
        {"ICW\x01STATUS", "\x80", 10, 1, "INVALID"},
        {"ICW\x01WELCOME", "\x80", 11, 1, "INVALID"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const void *frames[] = {cases[i].head, cases[i].body};
        size_t sizes[] = {cases[i].head_size, cases[i].body_size};
        ic_wire_msg m;
        send_raw(t, frames, sizes, 2);
        await_verb(t, IC_WIRE_ERROR, &m);
        if (i == 10) /* a server's verb from a client: refused, by whichever name */
            assert_true(strlen(m.error.code) > 0);
        else
            assert_string_equal(m.error.code, cases[i].code);
        ic_wire_msg_fini(&m);
    }
    const void *one[] = {"alone"};
    size_t one_size[] = {5};
    send_raw(t, one, one_size, 1);
    expect_error(t, "INVALID");
    const void *five[] = {"ICW\x01PING", "\x80", "x", "y", "z"};
    size_t five_sizes[] = {8, 1, 1, 1, 1};
    send_raw(t, five, five_sizes, 5);
    expect_error(t, "INVALID");
    ic_wire_msg m, reply; /* and it goes on */
    ic_wire_msg_init(&m, IC_WIRE_STATUS);
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* Who has not said HELLO is told to, whatever he says; an oversized message ends his connection
 * alone. */
static void strangers_are_told_to_say_hello(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "stranger");
    start_daemon(&d, tiny_model(), NULL);
    talker *friendly = connect_talker(&d);
    talker t = {.sock = zsock_new(ZMQ_DEALER)};
    zsock_set_linger(t.sock, 0);
    assert_int_equal(zsock_connect(t.sock, "%s", d.endpoint), 0);
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_STATUS);
    ic_wire_put(&m.status, status, re, 1);
    send_msg(&t, &m, NULL, 0);
    await_verb(&t, IC_WIRE_HELLO_AGAIN, &reply);
    ic_wire_msg_fini(&reply);
    char *huge = calloc(1, 1 << 20);
    const void *frames[] = {huge, huge};
    size_t sizes[] = {1 << 20, 1 << 20};
    send_raw(&t, frames, sizes, 2);
    free(huge);
    assert_false(receive(&t, &reply, 500));
    zsock_destroy(&t.sock);
    must(friendly, &m, &reply);
    ic_wire_msg_fini(&reply);
    disconnect_talker(&friendly);
    stop_daemon(&d);
}

/* A client that is silent for three heartbeats is forgotten and told so when it speaks again. */
static void silent_clients_are_forgotten(void **state)
{
    (void)state;
    static const char *const settings[] = {"server.heartbeat_ms=100", NULL};
    daemon_process d;
    prepare(&d, "silent");
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    usleep(800000);
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_PING);
    send_msg(t, &m, NULL, 0);
    await_verb(t, IC_WIRE_HELLO_AGAIN, &reply);
    ic_wire_msg_fini(&reply);
    ic_wire_id client = random_id();
    say_hello(t, &client);
    send_msg(t, &m, NULL, 0);
    await_verb(t, IC_WIRE_PONG, &reply);
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A reader that gives no credit gets no more than it was promised, hinders nobody, and loses
 * nothing: with credit the rest comes, in order. */
static void slow_readers_lose_nothing(void **state)
{
    (void)state;
    static const char *const settings[] = {"session.max_answer_tokens=100000", NULL};
    enum { CREDIT = 3000, TOKENS = 2500 };
    daemon_process d;
    prepare(&d, "slow");
    start_daemon(&d, tiny_model(), settings);
    talker *quick = connect_talker(&d), *slow = connect_talker(&d);
    char id[64];
    new_session(quick, id);
    slow->silent = true;
    attach(slow, id, 1, CREDIT);
    answer a = ask(quick, id, "Count to a million.", TOKENS);
    size_t bytes = 0;
    ic_wire_msg m;
    while (receive(slow, &m, 500)) {
        ic_buf body = {0};
        ic_error e = {0};
        assert_int_equal(m.verb, IC_WIRE_EVENT);
        ic_assert_ok(ic_wire_encode(&m, &body, &e), &e);
        assert_true(bytes < CREDIT); /* overdrawn by one event at most */
        bytes += body.size;
        ic_buf_fini(&body);
        keep(slow, &m);
    }
    assert_true(bytes >= CREDIT);
    slow->silent = false;
    ic_wire_msg_init(&m, IC_WIRE_CREDIT);
    ic_wire_put(&m.credit, credit, session, id);
    ic_wire_put(&m.credit, credit, bytes, 100000);
    send_msg(slow, &m, NULL, 0);
    answer b = read_answer(slow, id, 1);
    assert_string_equal(a.text, b.text);
    assert_int_equal(a.last_n, b.last_n);
    free(a.text);
    free(b.text);
    disconnect_talker(&quick);
    disconnect_talker(&slow);
    stop_daemon(&d);
}

/* Starts a daemon that must refuse, and requires these words in its last line. */
static void refused_start(const daemon_process *like, const char *model,
                          const char *const *settings, const char *words)
{
    daemon_process d = *like;
    snprintf(d.log, sizeof d.log, "%s/refused-%ld.log", ic_test_dir(), random());
    spawn(&d, model, settings);
    int status = wait_daemon(&d);
    if (status <= 0 || !log_has(&d, words))
        print_log(&d);
    assert_true(status > 0);
    assert_true(log_has(&d, words));
}

/* What cannot start says what is wrong and what to do about it. */
static void wrong_starts_are_explained(void **state)
{
    (void)state;
    daemon_process d, other;
    prepare(&d, "first");
    prepare(&other, "second");
    start_daemon(&d, tiny_model(), NULL);
    daemon_process same_store = other, same_endpoint = other;
    snprintf(same_store.store, sizeof same_store.store, "%s", d.store);
    snprintf(same_endpoint.endpoint, sizeof same_endpoint.endpoint, "%s", d.endpoint);
    refused_start(&same_store, tiny_model(), NULL, d.store);
    refused_start(&same_endpoint, tiny_model(), NULL, "another infchatd listens on");
    refused_start(&other, "/nowhere/model", NULL, "/nowhere/model");
    refused_start(&other, ic_test_dir(), NULL, "config.json");
    static const char *const bad_value[] = {"model.threads=many", NULL};
    refused_start(&other, tiny_model(), bad_value, "model.threads = many");
    static const char *const no_setting[] = {"model.colour=red", NULL};
    refused_start(&other, tiny_model(), no_setting, "no setting model.colour");
    static const char *const open_port[] = {"server.listen=tcp://0.0.0.0:17917", NULL};
    refused_start(&other, tiny_model(), open_port, "CURVE");
    static const char *const bad_policy[] = {"session.policy=magic", NULL};
    refused_start(&other, tiny_model(), bad_policy, "magic");
    static const char *const even_pool[] = {"session.policy=saddle", "session.pool=4", NULL};
    refused_start(&other, tiny_model(), even_pool, "take 3 or 5");
    static const char *const no_use[] = {"session.policy=streaming", "session.bias=0.5", NULL};
    refused_start(&other, tiny_model(), no_use, "has no use for bias");
    daemon_process public_folder = other;
    snprintf(public_folder.endpoint, sizeof public_folder.endpoint, "ipc:///tmp/infchat-x.s");
    refused_start(&public_folder, tiny_model(), NULL, "not private");
    ic_wire_msg m, reply; /* the first one never noticed */
    talker *t = connect_talker(&d);
    ic_wire_msg_init(&m, IC_WIRE_STATUS);
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A session's settings of its policy: what is given, what the server's configuration says for its
 * own policy, and the policy's own values for the rest; they survive a restart under other
 * defaults. What is out of range or of no use is refused with the cure. */
static void policies_have_settings(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "policies");
    static const char *const defaults[] = {"session.policy=saddle", "session.window=16",
                                           "session.bias=0", NULL};
    start_daemon(&d, tiny_model(), defaults);
    talker *t = connect_talker(&d);
    ic_wire_msg m, reply;
    char id[2][64];
    for (int i = 0; i < 2; i++) {
        ic_wire_settings wish = {0};
        ic_wire_put(&wish, settings, pool, 5);
        ic_wire_put(&wish, settings, granularity, IC_WIRE_GRANULARITY_LAYER);
        ic_wire_put(&wish, settings, positions, i);
        ic_wire_msg_init(&m, IC_WIRE_NEW);
        ic_wire_put(&m.new, new, settings, wish);
        if (i == 1) {
            ic_wire_put(&m.new, new, policy, "snapkv");
        } else {
            ic_wire_put(&m.new.settings, settings, frame_unit, IC_WIRE_FRAME_UNIT_WHOLE);
            ic_wire_put(&m.new.settings, settings, questions, 3);
        }
        must(t, &m, &reply);
        snprintf(id[i], sizeof id[i], "%s", reply.ok.session);
        ic_wire_msg_fini(&reply);
    }
    static const struct {
        const char *policy, *names;
        uint64_t sinks, pool, window, thin;
    } wrong[] = {{"saddle", "take 3 or 5", 0, 4, 0, 0},
                 {"saddle", "window 500 is not in 0 .. 128", 0, 0, 500, 0},
                 {"saddle", "sinks", 1000000, 0, 0, 0},
                 {"saddle", "set thin to 0, or frame_unit to tokens", 0, 0, 0, 2},
                 {"streaming", "has no use for pool", 0, 3, 0, 0}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ic_wire_settings wish = {0};
        if (wrong[i].sinks)
            ic_wire_put(&wish, settings, sinks, wrong[i].sinks);
        if (wrong[i].pool)
            ic_wire_put(&wish, settings, pool, wrong[i].pool);
        if (wrong[i].window)
            ic_wire_put(&wish, settings, window, wrong[i].window);
        if (wrong[i].thin) {
            ic_wire_put(&wish, settings, thin, wrong[i].thin);
            ic_wire_put(&wish, settings, frame_unit, IC_WIRE_FRAME_UNIT_WHOLE);
        }
        ic_wire_msg_init(&m, IC_WIRE_NEW);
        ic_wire_put(&m.new, new, policy, wrong[i].policy);
        ic_wire_put(&m.new, new, settings, wish);
        request(t, &m, &reply);
        assert_int_equal(reply.verb, IC_WIRE_ERROR);
        assert_string_equal(reply.error.code, "INVALID");
        assert_non_null(strstr(reply.error.message, wrong[i].names));
        ic_wire_msg_fini(&reply);
    }
    answer a = ask(t, id[0], "What is this?", 20);
    free(a.text);
    disconnect_talker(&t);
    stop_daemon(&d);
    start_daemon(&d, tiny_model(), NULL);
    t = connect_talker(&d);
    for (int i = 0; i < 2; i++) {
        simple(t, IC_WIRE_SHOW, id[i], &reply);
        const ic_wire_settings *s = &reply.ok.info.settings;
        assert_string_equal(reply.ok.info.policy, i ? "snapkv" : "saddle");
        assert_int_equal(s->pool, 5);
        assert_int_equal(s->granularity, IC_WIRE_GRANULARITY_LAYER);
        assert_int_equal(s->positions, i);
        assert_int_equal(s->window, i ? 32 : 16);
        assert_int_equal(ic_wire_has(s, settings, bias), i == 0);
        assert_int_equal(ic_wire_has(s, settings, recent_pct), i == 0);
        assert_int_equal(ic_wire_has(s, settings, thin), i == 0);
        assert_int_equal(ic_wire_has(s, settings, questions), i == 0);
        assert_int_equal(ic_wire_has(s, settings, sinks), i == 0);
        if (i == 0) {
            assert_int_equal(s->frame_unit, IC_WIRE_FRAME_UNIT_WHOLE);
            assert_true(s->bias == 0);
            assert_int_equal(s->recent_pct, 45);
            assert_int_equal(s->questions, 3);
            assert_int_equal(s->thin, 0); /* whole frames are not thinned out */
        }
        ic_wire_msg_fini(&reply);
    }
    simple(t, IC_WIRE_RESUME, id[0], &reply);
    assert_int_equal(reply.verb, IC_WIRE_OK);
    ic_wire_msg_fini(&reply);
    ic_wire_msg_init(&m, IC_WIRE_NEW);
    ic_wire_put(&m.new, new, policy, "streaming");
    must(t, &m, &reply);
    snprintf(id[0], sizeof id[0], "%s", reply.ok.session);
    ic_wire_msg_fini(&reply);
    simple(t, IC_WIRE_SHOW, id[0], &reply);
    assert_int_equal(reply.ok.info.settings.has, UINT64_C(1) << IC_WIRE_F_settings_sinks
                                                     | UINT64_C(1) << IC_WIRE_F_settings_positions);
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A session can be asked for with settings of its own; ones that cannot be are refused at once. */
static void sessions_with_settings(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "settings");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_NEW);
    ic_wire_put(&m.new, new, title, "A title");
    ic_wire_put(&m.new, new, policy, "full");
    ic_wire_put(&m.new, new, cache_tokens, 256);
    ic_wire_put(&m.new, new, system, "Be brief.");
    must(t, &m, &reply);
    char id[64];
    snprintf(id, sizeof id, "%s", reply.ok.session);
    ic_wire_msg_fini(&reply);
    simple(t, IC_WIRE_SHOW, id, &reply);
    assert_string_equal(reply.ok.info.title, "A title");
    assert_string_equal(reply.ok.info.policy, "full");
    assert_string_equal(reply.ok.info.system, "Be brief.");
    ic_wire_msg_fini(&reply);
    answer a = ask(t, id, "Go on until it is full.", 2000);
    assert_int_equal(a.finish, IC_WIRE_FINISH_ERROR); /* full refuses; the session lives on */
    free(a.text);
    simple(t, IC_WIRE_SHOW, id, &reply);
    assert_int_equal(reply.ok.state, IC_WIRE_STATE_IDLE);
    ic_wire_msg_fini(&reply);
    ic_wire_msg_init(&m, IC_WIRE_NEW);
    ic_wire_put(&m.new, new, policy, "magic");
    must_fail(t, &m, "INVALID");
    ic_wire_msg_init(&m, IC_WIRE_NEW);
    ic_wire_put(&m.new, new, cache_tokens, 100000000);
    must_fail(t, &m, "LIMIT");
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* While the server stops, clients are told, and new work is refused; a second signal ends it at
 * once. */
static void stopping_is_told(void **state)
{
    (void)state;
    static const char *const settings[] = {"session.max_answer_tokens=1000000",
                                           "server.drain_ms=1500", NULL};
    daemon_process d;
    prepare(&d, "stopping");
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    char id[64];
    new_session(t, id);
    uint64_t turn = begin_ask(t, id, "Count to a million.", 900000);
    ic_wire_msg m;
    assert_true(next_event(t, id, IC_WIRE_EVENT_TEXT, &m, 20000));
    ic_wire_msg_fini(&m);
    kill(d.pid, SIGTERM);
    await_verb(t, IC_WIRE_GOAWAY, &m);
    ic_wire_msg_fini(&m);
    ic_wire_msg_init(&m, IC_WIRE_NEW);
    must_fail(t, &m, "SHUTDOWN");
    answer a = read_answer(t, id, turn);
    assert_int_equal(a.finish, IC_WIRE_FINISH_CANCEL);
    free(a.text);
    assert_int_equal(wait_daemon(&d), 0);
    check_log(&d);
    start_daemon(&d, tiny_model(), settings);
    disconnect_talker(&t);
    t = connect_talker(&d);
    begin_ask(t, id, "Count to a million.", 900000);
    assert_true(next_event(t, id, IC_WIRE_EVENT_TEXT, &m, 20000));
    ic_wire_msg_fini(&m);
    kill(d.pid, SIGTERM);
    usleep(300000);
    kill(d.pid, SIGTERM);
    assert_int_equal(wait_daemon(&d), 1);
    disconnect_talker(&t);
}

/* tcp on loopback works, with a port of the system's choice that the log tells. */
static void tcp_on_loopback(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "tcp");
    snprintf(d.endpoint, sizeof d.endpoint, "tcp://127.0.0.1:*");
    start_daemon(&d, tiny_model(), NULL);
    FILE *f = fopen(d.log, "r");
    char line[1024];
    bool found = false;
    while (!found && fgets(line, sizeof line, f))
        found = sscanf(line, "%*s info main: ready on %150s", d.endpoint) == 1;
    fclose(f);
    assert_true(found);
    talker *t = connect_talker(&d);
    char id[64];
    new_session(t, id);
    disconnect_talker(&t);
    stop_daemon(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(garbage_is_answered),
        cmocka_unit_test(strangers_are_told_to_say_hello),
        cmocka_unit_test(silent_clients_are_forgotten),
        cmocka_unit_test(slow_readers_lose_nothing),
        cmocka_unit_test(wrong_starts_are_explained),
        cmocka_unit_test(policies_have_settings),
        cmocka_unit_test(sessions_with_settings),
        cmocka_unit_test(stopping_is_told),
        cmocka_unit_test(tcp_on_loopback),
    };
    return IC_DAEMON_RUN(tests);
}
