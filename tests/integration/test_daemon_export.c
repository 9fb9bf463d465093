/* Sessions that go from one daemon to another as a file, by the protocol and by the terminal
 * client. IC_NEEDS_SERVER */
#include "ic_daemon.h"

#include "clients/ic_client.h"

enum { TOKENS = 30 };

/* --- by hand ------------------------------------------------------------------------------------
 */

static uint64_t begin_export(talker *t, const char *id, const char *at)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_EXPORT);
    ic_wire_put(&m.export, export, session, id);
    if (at)
        ic_wire_put(&m.export, export, at, at);
    must(t, &m, &reply);
    assert_string_equal(reply.ok.session, id);
    uint64_t transfer = reply.ok.transfer;
    ic_wire_msg_fini(&reply);
    return transfer;
}

static ic_wire_msg fetch_msg(uint64_t transfer, uint64_t offset)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_FETCH);
    ic_wire_put(&m.fetch, fetch, transfer, transfer);
    ic_wire_put(&m.fetch, fetch, offset, offset);
    return m;
}

/* One piece behind those in bytes; true: it was the last. */
static bool fetch(talker *t, uint64_t transfer, ic_buf *bytes)
{
    ic_wire_msg m = fetch_msg(transfer, bytes->size), reply;
    must(t, &m, &reply);
    assert_int_equal(reply.verb, IC_WIRE_CHUNK);
    assert_int_equal(reply.chunk.offset, bytes->size);
    bool last = ic_wire_get(&reply.chunk, chunk, last, false);
    ic_wire_msg_fini(&reply);
    assert_true(t->payload.size <= IC_WIRE_PIECE_MAX);
    ic_buf_append(bytes, t->payload.data, t->payload.size);
    return last;
}

static void export_session(talker *t, const char *id, const char *at, ic_buf *bytes)
{
    uint64_t transfer = begin_export(t, id, at);
    while (!fetch(t, transfer, bytes))
        continue;
}

static uint64_t begin_import(talker *t, const ic_wire_id *key)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_IMPORT);
    if (key)
        ic_wire_put(&m.import, import, key, *key);
    must(t, &m, &reply);
    uint64_t transfer = reply.ok.transfer;
    assert_int_equal(reply.ok.received, 0);
    assert_true(reply.ok.until > 0);
    ic_wire_msg_fini(&reply);
    return transfer;
}

static void put(talker *t, uint64_t transfer, uint64_t at, const void *bytes, size_t size,
                bool last, ic_wire_msg *reply)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_PUT);
    ic_wire_put(&m.put, put, transfer, transfer);
    ic_wire_put(&m.put, put, offset, at);
    ic_wire_put(&m.put, put, last, last);
    request_with(t, &m, size ? bytes : "", size, reply);
}

/* All of it; the last answer is reply. */
static void import_bytes(talker *t, const ic_wire_id *key, const uint8_t *bytes, size_t size,
                         ic_wire_msg *reply)
{
    uint64_t transfer = begin_import(t, key);
    for (size_t at = 0;;) {
        size_t piece = size - at < 100000 ? size - at : 100000;
        bool last = at + piece == size;
        put(t, transfer, at, bytes + at, piece, last, reply);
        at += piece;
        if (last || reply->verb == IC_WIRE_ERROR)
            return;
        assert_int_equal(reply->ok.received, at);
        ic_wire_msg_fini(reply);
    }
}

static void import_session(talker *t, const uint8_t *bytes, size_t size, char id[64])
{
    ic_wire_msg reply;
    import_bytes(t, NULL, bytes, size, &reply);
    if (reply.verb == IC_WIRE_ERROR)
        fail_msg("%s: %s", reply.error.code, reply.error.message);
    snprintf(id, 64, "%s", reply.ok.session);
    ic_wire_msg_fini(&reply);
}

static void refuse_bytes(talker *t, const uint8_t *bytes, size_t size, const char *code,
                         const char *text)
{
    ic_wire_msg reply;
    import_bytes(t, NULL, bytes, size, &reply);
    assert_int_equal(reply.verb, IC_WIRE_ERROR);
    assert_string_equal(reply.error.code, code);
    if (!strstr(reply.error.message, text))
        fail_msg("\"%s\" does not name \"%s\"", reply.error.message, text);
    ic_wire_msg_fini(&reply);
}

static int session_count(talker *t)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_LIST);
    must(t, &m, &reply);
    int count = (int)reply.ok.sessions.count;
    ic_wire_msg_fini(&reply);
    return count;
}

/* --- tests --------------------------------------------------------------------------------------
 */

/* A session that watched a film and answered is exported idle, suspended, in mid-answer and from a
 * mark; on another server it goes on as it would have, again and again; the first does not notice.
 */
static void a_session_moves(void **state)
{
    (void)state;
    static const char *const long_answers[] = {"session.max_answer_tokens=100000", NULL};
    daemon_process d, other;
    prepare(&d, "from");
    prepare(&other, "to");
    start_daemon(&d, tiny_model(), long_answers);
    start_daemon(&other, tiny_model(), NULL);
    talker *t = connect_talker(&d), *u = connect_talker(&other);
    char parent[64], moved[64];
    ic_buf bytes[4] = {{0}};
    ic_wire_msg m, reply;
    new_session(t, parent);
    watch_film(t, parent);
    char *one = ask(t, parent, "One?", TOKENS).text;
    export_session(t, parent, NULL, &bytes[0]);
    simple(t, IC_WIRE_SUSPEND, parent, &m);
    ic_wire_msg_fini(&m);
    export_session(t, parent, NULL, &bytes[1]);
    ic_wire_msg_init(&m, IC_WIRE_MARK);
    ic_wire_put(&m.mark, mark, session, parent);
    ic_wire_put(&m.mark, mark, name, "then");
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    char *two = ask(t, parent, "Two?", TOKENS).text, *three = ask(t, parent, "Three?", TOKENS).text;
    export_session(t, parent, "then", &bytes[2]);
    char fork_id[64];
    fork_session(t, parent, "then", fork_id);
    uint64_t turn = begin_ask(t, fork_id, "Tell me all.", 1500);
    assert_true(next_event(t, fork_id, IC_WIRE_EVENT_ANSWER_BEGIN, &m, 20000));
    ic_wire_msg_fini(&m);
    export_session(t, fork_id, NULL, &bytes[3]);
    free(read_answer(t, fork_id, turn).text);
    for (int i = 0; i < 4; i++) {
        import_session(u, bytes[i].data, bytes[i].size, moved);
        expect_answer(u, moved, "Two?", TOKENS, two);
        simple(u, IC_WIRE_SHOW, moved, &m);
        assert_int_equal(m.ok.turns.count, 2);
        assert_string_equal(m.ok.turns.items[0].answer, one);
        assert_int_equal(m.ok.medias.count, 1);
        ic_wire_msg_fini(&m);
        ic_buf_fini(&bytes[i]);
    }
    disconnect_talker(&u);
    stop_daemon(&other);
    start_daemon(&other, tiny_model(), NULL);
    u = connect_talker(&other);
    expect_answer(u, moved, "Three?", TOKENS, three);
    free(one);
    free(two);
    free(three);
    disconnect_talker(&t);
    disconnect_talker(&u);
    stop_daemon(&d);
    stop_daemon(&other);
}

/* What cannot be taken is refused with its cause, and the store is as before: damage, a cut, a
 * newer format, another program's file, another model. */
static void what_cannot_be_taken_is_refused(void **state)
{
    (void)state;
    daemon_process d, other;
    prepare(&d, "whole");
    prepare(&other, "another");
    start_daemon(&d, tiny_model(), NULL);
    start_daemon(&other, IC_SOURCE_DIR "/tests/golden/models/gqa2_text_f32", NULL);
    talker *t = connect_talker(&d), *u = connect_talker(&other);
    char parent[64], never[64], moved[64];
    ic_buf bytes = {0}, bare = {0};
    new_session(t, parent);
    watch_film(t, parent);
    free(ask(t, parent, "One?", TOKENS).text);
    export_session(t, parent, NULL, &bytes);
    assert_true(bytes.size > IC_WIRE_PIECE_MAX);
    new_session(t, never);
    export_session(t, never, NULL, &bare); /* no checkpoint tells what it means */
    refuse_bytes(u, bytes.data, bytes.size, "MISMATCH", "gqa2_text_f32");
    refuse_bytes(u, bare.data, bare.size, "MISMATCH", "gqa2_tied_f32");
    assert_int_equal(session_count(u), 0);
    static const size_t places[] = {40, 3000, 150000, 250001};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        bytes.data[places[i]] ^= 4;
        refuse_bytes(t, bytes.data, bytes.size, "CORRUPT", "damaged");
        bytes.data[places[i]] ^= 4;
        refuse_bytes(t, bytes.data, places[i], "CORRUPT", "cut");
    }
    refuse_bytes(t, bytes.data, bytes.size - 1, "CORRUPT", "cut");
    refuse_bytes(t, (const uint8_t *)"{\"a\": 1}", 8, "CORRUPT", "not an export");
    uint8_t format = bytes.data[8];
    bytes.data[8] = 9;
    refuse_bytes(t, bytes.data, bytes.size, "VERSION", "newer");
    bytes.data[8] = format;
    assert_int_equal(session_count(t), 2);
    import_session(t, bytes.data, bytes.size, moved);
    import_session(t, bare.data, bare.size, moved);
    assert_int_equal(session_count(t), 4);
    ic_buf_fini(&bytes);
    ic_buf_fini(&bare);
    disconnect_talker(&t);
    disconnect_talker(&u);
    stop_daemon(&d);
    stop_daemon(&other);
}

/* Pieces can be asked for and sent again; gaps, other clients' transfers and too many at once are
 * refused; a key makes one session; and what is begun and left is gone with the server. */
static void transfers_keep_their_rules(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "rules");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d), *stranger = connect_talker(&d);
    char parent[64], first[64];
    ic_buf bytes = {0};
    ic_wire_msg m, reply;
    new_session(t, parent);
    watch_film(t, parent);
    uint64_t transfer = begin_export(t, parent, NULL);
    m = fetch_msg(transfer, 5);
    must_fail(t, &m, "INVALID");
    assert_false(fetch(t, transfer, &bytes));
    m = fetch_msg(transfer, 0); /* again */
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    assert_int_equal(t->payload.size, bytes.size);
    assert_memory_equal(t->payload.data, bytes.data, bytes.size);
    m = fetch_msg(transfer, bytes.size);
    must_fail(stranger, &m, "NOTFOUND");
    while (!fetch(t, transfer, &bytes))
        continue;
    ic_wire_id key = random_id();
    transfer = begin_import(t, &key);
    transfer = begin_import(t, &key); /* from the beginning */
    put(t, transfer, 10, bytes.data, 10, false, &reply);
    assert_string_equal(reply.error.code, "INVALID");
    ic_wire_msg_fini(&reply);
    for (int i = 0; i < 2; i++) { /* stepped over the second time */
        put(t, transfer, 0, bytes.data, 5000, false, &reply);
        assert_int_equal(reply.ok.received, 5000);
        ic_wire_msg_fini(&reply);
    }
    size_t at = 4000; /* overlapping */
    while (at < bytes.size) {
        size_t size = bytes.size - at < 200000 ? bytes.size - at : 200000;
        put(t, transfer, at, bytes.data + at, size, at + size == bytes.size, &reply);
        assert_int_equal(reply.verb, IC_WIRE_OK);
        snprintf(first, sizeof first, "%s", ic_wire_get(&reply.ok, ok, session, ""));
        ic_wire_msg_fini(&reply);
        at += size;
    }
    ic_wire_msg_init(&m, IC_WIRE_IMPORT);
    ic_wire_put(&m.import, import, key, key);
    must(t, &m, &reply);
    assert_string_equal(reply.ok.session, first);
    assert_true(reply.ok.repeated);
    ic_wire_msg_fini(&reply);
    for (int i = 0; i < 4; i++)
        begin_export(t, parent, NULL);
    ic_wire_msg_init(&m, IC_WIRE_EXPORT);
    ic_wire_put(&m.export, export, session, parent);
    must_fail(stranger, &m, "BUSY");
    assert_int_equal(session_count(t), 2);
    ic_buf_fini(&bytes);
    disconnect_talker(&t);
    disconnect_talker(&stranger);
    stop_daemon(&d); /* with four exports begun */
}

/* A transfer belongs to a client, not to a connection: on another one it goes on behind the newest
 * piece, or with that piece again. */
static void a_transfer_goes_on_after_a_reconnect(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "reconnect");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char parent[64], id[64];
    ic_wire_id client = random_id();
    ic_buf bytes = {0};
    new_session(t, parent);
    watch_film(t, parent);
    say_hello(t, &client);
    uint64_t transfer = begin_export(t, parent, NULL);
    bool last = fetch(t, transfer, &bytes);
    while (!last) {
        disconnect_talker(&t);
        t = connect_talker(&d);
        say_hello(t, &client);
        size_t before = bytes.size;
        last = fetch(t, transfer, &bytes);
        if (last)
            break;
        bytes.size = before; /* the answer was lost: again */
        disconnect_talker(&t);
        t = connect_talker(&d);
        say_hello(t, &client);
        last = fetch(t, transfer, &bytes);
    }
    assert_true(bytes.size > 2 * IC_WIRE_PIECE_MAX);
    import_session(t, bytes.data, bytes.size, id);
    assert_int_equal(session_count(t), 2);
    ic_buf_fini(&bytes);
    disconnect_talker(&t);
    stop_daemon(&d);
}

typedef struct broken_export {
    daemon_process *d;
    ic_buf bytes;
    int begun, deaths; /* times it began again; times the server is to be killed after a piece */
} broken_export;

static int take_piece(void *arg, const void *bytes, size_t size, ic_error *error)
{
    broken_export *b = arg;
    (void)error;
    if (!bytes) {
        ic_buf_clear(&b->bytes);
        b->begun++;
        return IC_OK;
    }
    ic_buf_append(&b->bytes, bytes, size);
    if (b->deaths > 0) {
        b->deaths--;
        kill(b->d->pid, SIGKILL);
        wait_daemon(b->d);
        start_daemon(b->d, tiny_model(), NULL);
    }
    return IC_OK;
}

/* An export whose server is killed in the middle is begun again and whole in the end; one whose
 * server dies each time ends with an error. */
static void an_export_survives_the_server(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "survives");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char parent[64], id[64];
    ic_error error = {0};
    ic_client *c = NULL;
    new_session(t, parent);
    watch_film(t, parent);
    disconnect_talker(&t);
    ic_client_options options = {.endpoint = d.endpoint, .name = "test", .timeout_ms = 20000};
    ic_assert_ok(ic_client_open(&c, &options, &error), &error);
    broken_export b = {.d = &d, .deaths = 2};
    ic_assert_ok(ic_client_export(c, parent, NULL, take_piece, &b, &error), &error);
    assert_int_equal(b.begun, 2);
    t = connect_talker(&d);
    import_session(t, b.bytes.data, b.bytes.size, id);
    disconnect_talker(&t);
    b.deaths = 3;
    assert_int_equal(ic_client_export(c, parent, NULL, take_piece, &b, &error), IC_ENOTFOUND);
    ic_client_close(&c);
    ic_buf_fini(&b.bytes);
    stop_daemon(&d);
}

/* A transfer that nobody goes on with is given up after its time, and its place is free; one that
 * is gone on with is not. */
static void a_forgotten_transfer_is_given_up(void **state)
{
    (void)state;
    static const char *const overrides[] = {"server.transfer_s=2", NULL};
    daemon_process d;
    prepare(&d, "idle");
    start_daemon(&d, tiny_model(), overrides);
    talker *t = connect_talker(&d);
    char parent[64];
    ic_buf bytes = {0};
    ic_wire_msg m;
    new_session(t, parent);
    watch_film(t, parent);
    uint64_t kept = begin_export(t, parent, NULL), left[3];
    for (int i = 0; i < 2; i++)
        left[i] = begin_export(t, parent, NULL);
    left[2] = begin_import(t, NULL);
    assert_false(fetch(t, kept, &bytes));
    for (int i = 0; i < 8; i++) { /* the newest piece again and again */
        sleep(1);
        m = fetch_msg(kept, 0);
        ic_wire_msg reply;
        must(t, &m, &reply);
        ic_wire_msg_fini(&reply);
    }
    for (int i = 0; i < 2; i++) {
        m = fetch_msg(left[i], 0);
        must_fail(t, &m, "NOTFOUND");
    }
    ic_wire_msg reply;
    put(t, left[2], 0, "x", 1, false, &reply);
    assert_string_equal(reply.error.code, "NOTFOUND");
    ic_wire_msg_fini(&reply);
    assert_true(log_has(&d, "given up"));
    for (int i = 0; i < 3; i++)
        begin_export(t, parent, NULL);
    while (!fetch(t, kept, &bytes))
        continue;
    ic_buf_fini(&bytes);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* By the terminal client: to a file and from it, through a pipe, with titles; and its exit status
 * where that cannot be. */
static void the_terminal_client_moves_sessions(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "cli");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char parent[64], moved[64], command[1200];
    ic_wire_msg m;
    new_session(t, parent);
    watch_film(t, parent);
    char *one = ask(t, parent, "One?", TOKENS).text;
    snprintf(
        command, sizeof command,
        "cd %s && export INFCHAT_SERVER=%s && I=%s/infchat && $I export %.8s film.icx && "
        "$I import film.icx > moved && ! test -e film.icx.part && "
        "$I export %.8s - | $I import - --title piped --json | grep -q '\"result\"' && "
        "{ head -c 70000 film.icx > short.icx; $I import short.icx 2> why; test $? = 1; } && "
        "grep -q cut why && { $I export nothing x.icx 2> why; test $? = 4; } && ! test -e x.icx "
        "&& { $I import x.icx 2> why; test $? = 4; }",
        ic_test_dir(), d.endpoint, IC_BINARY_DIR, parent, parent);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof command, "%s/moved", ic_test_dir());
    FILE *f = fopen(command, "r");
    assert_int_equal(fscanf(f, "%63s", moved), 1);
    fclose(f);
    assert_int_equal(session_count(t), 3);
    simple(t, IC_WIRE_SHOW, moved, &m);
    assert_int_equal(m.ok.turns.count, 1);
    assert_string_equal(m.ok.turns.items[0].answer, one);
    ic_wire_msg_fini(&m);
    free(one);
    disconnect_talker(&t);
    stop_daemon(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_moves),
        cmocka_unit_test(what_cannot_be_taken_is_refused),
        cmocka_unit_test(transfers_keep_their_rules),
        cmocka_unit_test(a_transfer_goes_on_after_a_reconnect),
        cmocka_unit_test(an_export_survives_the_server),
        cmocka_unit_test(a_forgotten_transfer_is_given_up),
        cmocka_unit_test(the_terminal_client_moves_sessions),
    };
    return IC_DAEMON_RUN(tests);
}
