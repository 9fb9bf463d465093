/* What the daemon keeps, and for how long: retention, the limit of one session, what `status` tells
 * of checkpoints and restores, and infchatd --check-store. IC_NEEDS_SERVER */
#include "ic_daemon.h"

#include <sqlite3.h>

static const char film[] = IC_SOURCE_DIR "/models/demo/eval/clip_00_96_h264.mp4";

/* A session that takes some room, stored and let go of. */
static void make_session(talker *t, char id[64])
{
    char code[40];
    ic_wire_msg m;
    new_session(t, id);
    assert_true(upload(t, id, film, code) > 0);
    simple(t, IC_WIRE_SUSPEND, id, &m);
    ic_wire_msg_fini(&m);
}

static bool is_there(talker *t, const char *id)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_SHOW);
    ic_wire_put(&m.show, show, session, id);
    request(t, &m, &reply);
    bool there = reply.verb == IC_WIRE_OK;
    ic_wire_msg_fini(&reply);
    return there;
}

/* Waits until the session is gone, or the time is over. */
static bool goes(talker *t, const char *id, int seconds)
{
    for (int i = 0; i < 10 * seconds; i++) {
        if (!is_there(t, id))
            return true;
        usleep(100000);
    }
    return false;
}

/* Bytes of the file's pages that hold something; no server has it. */
static long long stored_bytes(const daemon_process *d)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *row = NULL;
    assert_int_equal(sqlite3_open(d->store, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_prepare_v2(db,
                           "SELECT (page_count - freelist_count) * page_size FROM "
                           "pragma_page_count, pragma_freelist_count, pragma_page_size",
                           -1, &row, NULL),
        SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    long long bytes = sqlite3_column_int64(row, 0);
    sqlite3_finalize(row);
    sqlite3_close(db);
    return bytes;
}

/* Beyond store.retain_bytes the session that was used longest ago goes, with a line in the log that
 * names it; one that is in use stays though it is older, and so do the newest. */
static void the_oldest_idle_session_goes(void **state)
{
    (void)state;
    daemon_process d;
    char ids[4][64], limit[60];
    prepare(&d, "retain");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    for (int i = 0; i < 4; i++)
        make_session(t, ids[i]);
    disconnect_talker(&t);
    stop_daemon(&d);
    long long used = stored_bytes(&d);
    snprintf(limit, sizeof limit, "store.retain_bytes=%lld", used - (1 << 18));
    const char *const overrides[] = {limit, NULL};
    start_daemon(&d, tiny_model(), NULL);
    t = connect_talker(&d);
    attach(t, ids[0], 1, 0); /* nothing goes without a limit */
    sleep(3);
    assert_true(is_there(t, ids[1]));
    disconnect_talker(&t);
    stop_daemon(&d);
    spawn(&d, tiny_model(), overrides);
    for (int i = 0; i < 3000 && !log_has(&d, "retain_bytes"); i++)
        usleep(20000);
    t = connect_talker(&d);
    assert_true(goes(t, ids[0], 20));
    assert_true(log_has(&d, ids[0]));
    assert_true(is_there(t, ids[3]));
    assert_true(status(t).sessions_retired >= 1);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* While somebody follows the oldest session it stays, and the next one goes. */
static void a_session_in_use_stays(void **state)
{
    (void)state;
    static const char *const overrides[] = {"store.retain_bytes=300000", NULL};
    daemon_process d;
    char ids[2][64];
    prepare(&d, "inuse");
    start_daemon(&d, tiny_model(), overrides);
    talker *t = connect_talker(&d);
    new_session(t, ids[0]);
    attach(t, ids[0], 1, 0);
    new_session(t, ids[1]); /* and its maker follows it too */
    for (int i = 0; i < 2; i++) {
        char code[40];
        assert_true(upload(t, ids[i], film, code) > 0);
    }
    sleep(4);
    assert_true(is_there(t, ids[0]) && is_there(t, ids[1]));
    assert_true(log_has(&d, "every session is in use"));
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_DETACH);
    ic_wire_put(&m.detach, detach, session, ids[1]);
    ic_wire_msg reply;
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    simple(t, IC_WIRE_SUSPEND, ids[1], &m);
    ic_wire_msg_fini(&m);
    assert_true(goes(t, ids[1], 20)); /* newer, and alone without a user */
    assert_true(log_has(&d, ids[1]));
    assert_true(is_there(t, ids[0]));
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A session beyond store.session_bytes takes no questions and no sources, and says why; a repeated
 * question is still answered. */
static void a_full_session_takes_nothing_in(void **state)
{
    (void)state;
    static const char *const overrides[] = {"store.session_bytes=60000", NULL};
    daemon_process d;
    char id[64], code[40];
    prepare(&d, "full");
    start_daemon(&d, tiny_model(), overrides);
    talker *t = connect_talker(&d);
    ic_wire_msg m, reply;
    new_session(t, id);
    m = ask_msg(id, "One?", 10);
    ic_wire_id key = random_id();
    ic_wire_put(&m.ask, ask, key, key);
    must(t, &m, &reply);
    free(read_answer(t, id, reply.ok.turn).text);
    ic_wire_msg_fini(&reply);
    assert_true(upload(t, id, film, code) > 0);
    simple(t, IC_WIRE_SUSPEND, id, &m);
    ic_wire_msg_fini(&m);
    m = ask_msg(id, "Two?", 10);
    must_fail(t, &m, "LIMIT");
    ic_wire_msg_init(&m, IC_WIRE_MEDIA);
    ic_wire_put(&m.media, media, session, id);
    ic_wire_put(&m.media, media, kind, IC_WIRE_KIND_UPLOAD);
    must_fail(t, &m, "LIMIT");
    m = ask_msg(id, "One?", 10);
    ic_wire_put(&m.ask, ask, key, key);
    must(t, &m, &reply);
    assert_true(reply.ok.repeated);
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* The limit holds between checkpoints, too: what was written since the last one counts. Questions
 * that follow one upon the other leave no time for one. */
static void a_session_is_full_before_its_checkpoint(void **state)
{
    (void)state;
    static const char *const overrides[] = {"store.session_bytes=40000", NULL};
    daemon_process d;
    char id[64], text[3000];
    ic_wire_msg m, reply;
    prepare(&d, "filled");
    start_daemon(&d, tiny_model(), overrides);
    talker *t = connect_talker(&d);
    new_session(t, id);
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    int asked = 0;
    for (bool full = false; !full && asked < 12;
         asked += !full) { /* each takes three times its text */
        m = ask_msg(id, text, 1);
        request(t, &m, &reply);
        full = reply.verb == IC_WIRE_ERROR;
        if (full)
            assert_string_equal(reply.error.code, "LIMIT");
        else
            free(read_answer(t, id, reply.ok.turn).text);
        ic_wire_msg_fini(&reply);
    }
    assert_in_range(asked, 2, 8);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* What a replay would take is bounded: a session that is never quiet is stored between two answers
 * when it has computed for long enough, however little stands in its journal. */
static void computing_calls_for_a_checkpoint(void **state)
{
    (void)state;
    static const char *const overrides[] = {"session.checkpoint_s=1", NULL};
    daemon_process d;
    char id[64];
    prepare(&d, "computing");
    start_daemon(&d, tiny_model(), overrides);
    talker *t = connect_talker(&d);
    new_session(t, id);
    uint64_t stored = 0, turn = begin_ask(t, id, "One?", 60);
    for (int i = 0; i < 400 && !stored;
         i++) { /* the next question waits before this one's answer ends */
        ic_wire_msg m = ask_msg(id, "And then?", 60), reply;
        ic_wire_put(&m.ask, ask, if_busy, IC_WIRE_IF_BUSY_QUEUE);
        must(t, &m, &reply);
        free(read_answer(t, id, turn).text);
        turn = reply.ok.turn;
        ic_wire_msg_fini(&reply);
        stored = status(t).checkpoints;
    }
    assert_int_equal(stored, 1);
    free(read_answer(t, id, turn).text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* Checkpoints and restores are counted and timed. */
static void status_tells_what_storing_costs(void **state)
{
    (void)state;
    daemon_process d;
    char id[64];
    ic_wire_msg m;
    prepare(&d, "costs");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    ic_wire_status_info s = status(t);
    assert_int_equal(s.checkpoints + s.restores, 0);
    make_session(t, id);
    simple(t, IC_WIRE_RESUME, id, &m);
    ic_wire_msg_fini(&m);
    for (int i = 0; i < 50 && !status(t).restores; i++)
        usleep(50000);
    s = status(t);
    assert_true(s.checkpoints >= 1 && s.checkpoint_us > 0);
    assert_true(s.checkpoint_max_us >= s.checkpoint_us && s.checkpoint_bytes > 10000);
    assert_int_equal(s.restores, 1);
    assert_true(s.restore_us > 0 && s.restore_max_us == s.restore_us && s.restore_bytes > 10000);
    assert_int_equal(s.checkpoints_failed + s.restores_failed, 0);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* Runs infchatd --check-store; the exit status, and what it printed in `out`. */
static int check_store(const daemon_process *d, char out[4000])
{
    char command[700];
    snprintf(command, sizeof command, "%s/infchatd --check-store --store %s 2>&1", IC_BINARY_DIR,
             d->store);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t size = fread(out, 1, 3999, f);
    out[size] = '\0';
    return WEXITSTATUS(pclose(f));
}

/* --check-store needs no model, names every session and mark, finds one damaged byte in a segment,
 * and is refused while a server has the store; a store that is not there is not made. */
static void the_store_is_checked(void **state)
{
    (void)state;
    daemon_process d;
    char id[64], second[64], out[4000];
    ic_wire_msg m, reply;
    prepare(&d, "check");
    assert_int_equal(check_store(&d, out), 1);
    assert_non_null(strstr(out, "there is no file"));
    assert_int_not_equal(access(d.store, F_OK), 0);
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    make_session(t, id);
    make_session(t, second);
    ic_wire_msg_init(&m, IC_WIRE_MARK);
    ic_wire_put(&m.mark, mark, session, id);
    ic_wire_put(&m.mark, mark, name, "here");
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    assert_int_equal(check_store(&d, out), 1);
    assert_non_null(strstr(out, "in use"));
    disconnect_talker(&t);
    stop_daemon(&d);
    assert_int_equal(check_store(&d, out), 0);
    assert_non_null(strstr(out, id));
    assert_non_null(strstr(out, second));
    assert_non_null(strstr(out, "mark \"here\""));
    assert_non_null(strstr(out, "2 sessions, 1 marks"));
    sqlite3 *db = NULL;
    char sql[300];
    snprintf(sql, sizeof sql,
             "UPDATE segment_data SET data = zeroblob(length(data)) WHERE n = (SELECT max(segment) "
             "FROM checkpoint_segment l JOIN session s ON s.checkpoint = l.checkpoint "
             "WHERE s.id = '%s')",
             second);
    assert_int_equal(sqlite3_open(d.store, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(check_store(&d, out), 1);
    char line[100];
    snprintf(line, sizeof line, "damaged  %s", second);
    assert_non_null(strstr(out, line));
    snprintf(line, sizeof line, "ok       %s", id);
    assert_non_null(strstr(out, line));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_idle_session_goes),
        cmocka_unit_test(a_session_in_use_stays),
        cmocka_unit_test(a_full_session_takes_nothing_in),
        cmocka_unit_test(a_session_is_full_before_its_checkpoint),
        cmocka_unit_test(computing_calls_for_a_checkpoint),
        cmocka_unit_test(status_tells_what_storing_costs),
        cmocka_unit_test(the_store_is_checked),
    };
    return IC_DAEMON_RUN(tests);
}
