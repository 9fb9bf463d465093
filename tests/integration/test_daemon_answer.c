/* The daemon: checkpoints in the middle of an answer. What goes on from one, or is copied with one,
 * is held against sessions whose answers were never disturbed. IC_NEEDS_SERVER */
#include <sqlite3.h>

#include "ic_daemon.h"

enum { LONG = 12000, SHORT = 20 };

/* A cache that evicts in the middle of every answer, and a checkpoint for every second of
 * computing. */
static const char *const settings[] = {"session.checkpoint_s=1", "session.max_answer_tokens=100000",
                                       "session.cache_tokens=200", NULL};
static const char question[] =
    "Tell me a long story about the sea and all that swims in it, slowly.";
static const char next_question[] = "What was it about?";

/* A copy of the tiny model that ends no answer by itself. */
static const char *endless_model(void)
{
    static char folder[300], command[800];
    if (folder[0])
        return folder;
    snprintf(folder, sizeof folder, "%s/endless", ic_test_dir());
    snprintf(command, sizeof command,
             "cp -rT %s %s && echo '{\"eos_token_id\": [], \"do_sample\": false}' > "
             "%s/generation_config.json",
             tiny_model(), folder, folder);
    assert_int_equal(system(command), 0);
    return folder;
}

static void kill_and_restart(daemon_process *d, talker **t_p)
{
    kill(d->pid, SIGKILL);
    wait_daemon(d);
    disconnect_talker(t_p);
    start_daemon(d, endless_model(), settings);
    *t_p = connect_talker(d);
}

typedef struct way { /* of asking */
    const char *policy;
    bool seeded;
} way;

static void make_session(talker *t, const way *w, char id[64])
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_NEW);
    ic_wire_put(&m.new, new, policy, w->policy);
    must(t, &m, &reply);
    snprintf(id, 64, "%s", reply.ok.session);
    ic_wire_msg_fini(&reply);
}

static ic_wire_msg way_msg(const char *id, const way *w, const char *text, uint64_t tokens)
{
    ic_wire_msg m = ask_msg(id, text, tokens);
    ic_wire_sampling s = {0};
    if (!w->seeded)
        return m;
    ic_wire_put(&s, sampling, temperature, 20);
    ic_wire_put(&s, sampling, top_k, 300);
    ic_wire_put(&s, sampling, top_p, 1);
    ic_wire_put(&s, sampling, repetition_penalty, 1.2);
    ic_wire_put(&s, sampling, seed, 77);
    ic_wire_put(&s, sampling, max_tokens, tokens);
    ic_wire_put(&m.ask, ask, sampling, s);
    return m;
}

static uint64_t begin_way(talker *t, const char *id, const way *w, const char *text,
                          uint64_t tokens)
{
    ic_wire_msg m = way_msg(id, w, text, tokens), reply;
    must(t, &m, &reply);
    uint64_t turn = reply.ok.turn;
    ic_wire_msg_fini(&reply);
    return turn;
}

/* What two questions are answered without a disturbance. */
typedef struct whole {
    answer a, b;
} whole;

static whole undisturbed(talker *t, const way *w, uint64_t tokens)
{
    char id[64];
    whole r;
    make_session(t, w, id);
    r.a = read_answer(t, id, begin_way(t, id, w, question, tokens));
    r.b = read_answer(t, id, begin_way(t, id, w, next_question, SHORT));
    return r;
}

static void drop(whole *r)
{
    free(r->a.text);
    free(r->b.text);
}

/* The number behind `word` in the last line of the log that has it and is about an answer of this
 * session; -1: there is none. */
static int last_number(const daemon_process *d, const char *id, const char *word)
{
    FILE *f = fopen(d->log, "r");
    char line[4096], name[24];
    int number = -1;
    snprintf(name, sizeof name, "%.8s: answer", id);
    while (f && fgets(line, sizeof line, f)) {
        const char *at = strstr(line, word);
        if (strstr(line, name) && at)
            number = atoi(at + strlen(word));
    }
    fclose(f);
    return number;
}

/* Waits for a checkpoint of an answer's middle with more than so many tokens; returns how many.
 * Events that come meanwhile are kept. */
static int await_stored(talker *t, const daemon_process *d, const char *id, int more_than)
{
    int64_t until = ic_clock_mono_us() + REPLY_S * 1000000LL;
    while (ic_clock_mono_us() < until) {
        ic_wire_msg m;
        if (receive(t, &m, 20)) {
            if (m.verb == IC_WIRE_EVENT)
                keep(t, &m);
            else
                ic_wire_msg_fini(&m);
        }
        int tokens = last_number(d, id, "is stored up to its ");
        if (tokens > more_than)
            return tokens;
    }
    fail_msg("no checkpoint in the middle of the answer");
    return 0;
}

/* Lets a few more events come, so that the journal has tokens behind the checkpoint. */
static void read_on(talker *t, const char *id, int events)
{
    ic_wire_msg m;
    int seen = t->kept_count;
    for (int64_t until = ic_clock_mono_us() + REPLY_S * 1000000LL;
         t->kept_count < seen + events && ic_clock_mono_us() < until;)
        if (receive(t, &m, 100)) {
            assert_int_equal(m.verb, IC_WIRE_EVENT);
            assert_int_not_equal(m.event.type, IC_WIRE_EVENT_ANSWER_END);
            keep(t, &m);
        }
    assert_string_equal(t->kept[t->kept_count - 1].event.session, id);
}

/* All events of a session from the first one on, to the end of this turn: none is missing, none
 * comes twice. The answer as a client has it that was not there before. */
static answer replay(talker *t, const char *id, uint64_t turn)
{
    attach(t, id, 1, 0);
    uint64_t n = 0;
    answer a = {.text = strdup("")};
    for (bool ends = false; !ends;) {
        ic_wire_msg m;
        assert_true(next_event(t, id, -1, &m, REPLY_S * 1000));
        assert_int_equal(m.event.n, ++n);
        bool own = m.event.turn == turn;
        if (own && m.event.type == IC_WIRE_EVENT_TEXT) {
            a.text = realloc(a.text, strlen(a.text) + strlen(m.event.text) + 1);
            strcat(a.text, m.event.text);
        }
        ends = own && m.event.type == IC_WIRE_EVENT_ANSWER_END;
        if (ends) {
            a.finish = m.event.finish_reason;
            a.usage = m.event.usage;
        }
        ic_wire_msg_fini(&m);
    }
    return a;
}

static void expect_same(const answer *a, const answer *b)
{
    assert_string_equal(a->text, b->text);
    assert_int_equal(a->finish, b->finish);
    assert_int_equal(a->usage.completion_tokens, b->usage.completion_tokens);
    assert_int_equal(a->usage.prompt_tokens, b->usage.prompt_tokens);
    assert_int_equal(a->usage.cached_tokens, b->usage.cached_tokens);
    assert_int_equal(a->usage.cache_tokens, b->usage.cache_tokens);
    assert_int_equal(a->usage.evicted_tokens, b->usage.evicted_tokens);
    assert_true(b->usage.exact);
}

/* The daemon is killed in the middle of an answer, behind a checkpoint that was taken there, again
 * and again. Each time the answer goes on from the checkpoint, not from its question: what was
 * computed again is what came behind it. In the end it is the answer that nobody disturbed, and so
 * is the next one. */
static void an_answer_goes_on_from_its_middle(void **state)
{
    (void)state;
    static const way ways[] = {{"streaming", false}, {"saddle", true}};
    daemon_process d;
    prepare(&d, "middle");
    start_daemon(&d, endless_model(), settings);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        talker *t = connect_talker(&d);
        char id[64];
        whole expected = undisturbed(t, &ways[i], LONG);
        assert_int_equal(expected.a.usage.completion_tokens, LONG);
        assert_true(expected.a.usage.evicted_tokens > LONG / 2);
        make_session(t, &ways[i], id);
        ic_wire_id key = random_id();
        ic_wire_msg m = way_msg(id, &ways[i], question, LONG), reply;
        ic_wire_msg_set_key(&m, &key);
        must(t, &m, &reply);
        uint64_t turn = reply.ok.turn;
        ic_wire_msg_fini(&reply);
        int stored = 0;
        for (int kills = 0; kills < 2; kills++) {
            if (kills)
                attach(t, id, 1, 0);
            stored = await_stored(t, &d, id, kills ? 1000 : 100);
            assert_in_range(stored, 100, LONG - 1);
            read_on(t, id, 3);
            kill_and_restart(&d, &t);
        }
        answer a = replay(t, id, turn);
        expect_same(&expected.a, &a);
        /* There may have been another between that one and the kill. */
        int from = last_number(&d, id, "from the checkpoint's "),
            at = last_number(&d, id, "goes on at ");
        assert_in_range(from, stored, LONG - 1);
        assert_in_range(at, from, LONG - 1);
        assert_in_range(a.usage.recomputed_tokens, at - from,
                        at - 1); /* at + 43, from its question */
        must(t, &m, &reply);     /* the same key: the same answer, not another one */
        assert_true(ic_wire_get(&reply.ok, ok, repeated, false));
        assert_int_equal(reply.ok.turn, turn);
        ic_wire_msg_fini(&reply);
        answer b = read_answer(t, id, begin_way(t, id, &ways[i], next_question, SHORT));
        expect_same(&expected.b, &b);
        free(a.text);
        free(b.text);
        drop(&expected);
        disconnect_talker(&t);
    }
    stop_daemon(&d);
}

static void execute(const daemon_process *d, const char *sql)
{
    sqlite3 *db;
    char *error = NULL;
    assert_int_equal(sqlite3_open(d->store, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 20000);
    if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s: %s", sql, error);
    sqlite3_close(db);
}

/* A checkpoint that the store refuses in the middle of an answer: the log and STATUS say so, and
 * the answer comes to its end as if nothing had been. */
static void one_that_fails_leaves_the_answer_running(void **state)
{
    (void)state;
    static const way w = {"streaming", true};
    daemon_process d;
    char id[64];
    prepare(&d, "refused");
    start_daemon(&d, endless_model(), settings);
    talker *t = connect_talker(&d);
    whole expected = undisturbed(t, &w, LONG);
    execute(&d, "CREATE TRIGGER no_room BEFORE INSERT ON segment BEGIN SELECT RAISE(ABORT, 'no "
                "room'); END");
    make_session(t, &w, id);
    uint64_t turn = begin_way(t, id, &w, question, LONG);
    answer a = read_answer(t, id, turn);
    expect_same(&expected.a, &a);
    assert_true(log_has(&d, "no checkpoint: "));
    assert_true(log_has(&d, "; the answer goes on"));
    ic_wire_status_info s = status(t);
    for (int i = 0; i < 50 && !s.checkpoints_failed; i++) {
        usleep(100000);
        s = status(t);
    }
    assert_true(s.checkpoints_failed > 0);
    execute(&d, "DROP TRIGGER no_room");
    kill_and_restart(&d, &t); /* the journal holds it all */
    answer b = read_answer(t, id, begin_way(t, id, &w, next_question, SHORT));
    expect_same(&expected.b, &b);
    assert_true(b.usage.recomputed_tokens >= LONG);
    free(a.text);
    free(b.text);
    drop(&expected);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* Tokens of the last answer in a session's transcript. */
static int answer_tokens(const daemon_process *d, const char *id)
{
    sqlite3 *db;
    sqlite3_stmt *row;
    assert_int_equal(sqlite3_open(d->store, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 20000);
    assert_int_equal(sqlite3_prepare_v2(db,
                                        "SELECT t.tokens FROM turn t JOIN session s ON t.session = "
                                        "s.n WHERE s.id = ?1 AND t.role = 3 ORDER BY t.number DESC",
                                        -1, &row, NULL),
                     SQLITE_OK);
    sqlite3_bind_text(row, 1, id, -1, SQLITE_STATIC);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    int tokens = sqlite3_column_int(row, 0);
    sqlite3_finalize(row);
    sqlite3_close(db);
    return tokens;
}

/* Where in the journal that answer stands, as its parts say behind the turn and how it ended; 0:
 * they do not. */
static int64_t answer_place(const daemon_process *d, const char *id)
{
    sqlite3 *db;
    sqlite3_stmt *row;
    int64_t place = 0;
    assert_int_equal(sqlite3_open(d->store, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 20000);
    assert_int_equal(
        sqlite3_prepare_v2(db,
                           "SELECT t.parts FROM turn t JOIN session s ON t.session = s.n WHERE "
                           "s.id = ?1 AND t.role = 3 ORDER BY t.number DESC",
                           -1, &row, NULL),
        SQLITE_OK);
    sqlite3_bind_text(row, 1, id, -1, SQLITE_STATIC);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    const uint8_t *parts = sqlite3_column_blob(row, 0);
    for (int i = 19; sqlite3_column_bytes(row, 0) == 20 && i > 11; i--)
        place = place << 8 | parts[i];
    sqlite3_finalize(row);
    sqlite3_close(db);
    return place;
}

/* A copy has the question and the beginning of its answer, closed as a cancel closes it, and goes
 * on as a session does whose answer was no longer than that. */
static void expect_cut(const daemon_process *d, talker *t, const char *id, const way *w,
                       const whole *expected)
{
    ic_wire_msg m;
    simple(t, IC_WIRE_SHOW, id, &m);
    assert_int_equal(m.ok.turns.count, 1);
    assert_string_equal(m.ok.turns.items[0].text, question);
    const char *said = m.ok.turns.items[0].answer;
    size_t length = strlen(said);
    assert_true(length > 100 && length < strlen(expected->a.text));
    assert_int_equal(m.ok.turns.items[0].finish_reason, IC_WIRE_FINISH_CANCEL);
    int tokens = answer_tokens(d, id);
    whole alone = undisturbed(t, w, (uint64_t)tokens);
    assert_string_equal(alone.a.text, said);
    ic_wire_msg_fini(&m);
    answer b = read_answer(t, id, begin_way(t, id, w, next_question, SHORT));
    assert_string_equal(b.text, alone.b.text);
    assert_true(b.usage.exact);
    simple(t, IC_WIRE_SUSPEND, id, &m);
    ic_wire_msg_fini(&m);
    answer c = read_answer(t, id, begin_way(t, id, w, next_question, SHORT));
    assert_int_equal(c.usage.completion_tokens, SHORT);
    free(b.text);
    free(c.text);
    drop(&alone);
}

/* Out of the server and in again, by the client. */
static void export_and_import(const daemon_process *d, const char *id, char out[64])
{
    char command[1200];
    snprintf(command, sizeof command,
             "%s/infchat --server %s export %s %s/answer.icx >&2 && %s/infchat --server %s import "
             "%s/answer.icx",
             IC_BINARY_DIR, d->endpoint, id, ic_test_dir(), IC_BINARY_DIR, d->endpoint,
             ic_test_dir());
    FILE *f = popen(command, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%63s", out), 1);
    assert_int_equal(pclose(f), 0);
    assert_string_not_equal(out, id);
}

/* Forks of now, of a mark and of another fork, and an export that is taken in again, all in the
 * middle of an answer that a checkpoint holds in its middle, through a crash: closed conversations.
 * The answer itself runs on. */
static void copies_of_it_are_closed(void **state)
{
    (void)state;
    static const way w = {"streaming", false};
    daemon_process d;
    char id[64], copies[4][64];
    ic_wire_msg m, reply;
    prepare(&d, "copies");
    start_daemon(&d, endless_model(), settings);
    talker *t = connect_talker(&d);
    whole expected = undisturbed(t, &w, LONG);
    make_session(t, &w, id);
    uint64_t turn = begin_way(t, id, &w, question, LONG);
    m = ask_msg(id, "And this waits.", 5);
    ic_wire_put(&m.ask, ask, if_busy, IC_WIRE_IF_BUSY_QUEUE);
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    await_stored(t, &d, id, 200);
    read_on(t, id, 2);
    fork_session(t, id, NULL, copies[0]);
    ic_wire_msg_init(&m, IC_WIRE_MARK);
    ic_wire_put(&m.mark, mark, session, id);
    ic_wire_put(&m.mark, mark, name, "here");
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    fork_session(t, id, "here", copies[1]);
    fork_session(t, copies[0], NULL, copies[2]);
    export_and_import(&d, id, copies[3]);
    answer a = read_answer(t, id, turn);
    expect_same(&expected.a, &a);
    kill_and_restart(&d, &t);
    for (int i = 0; i < 4; i++) /* behind the question, so that a rebuild knows the order */
        assert_true(answer_place(&d, copies[i]) > 1);
    for (int i = 0; i < 4; i++)
        expect_cut(&d, t, copies[i], &w, &expected);
    free(a.text);
    drop(&expected);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* SUSPEND ends an answer first, also where a checkpoint holds its middle or is being taken; what is
 * asked afterwards finds the answer as far as it came. */
static void suspend_ends_it_first(void **state)
{
    (void)state;
    static const way w = {"streaming", true};
    daemon_process d;
    char id[64];
    ic_wire_msg m;
    prepare(&d, "suspend");
    start_daemon(&d, endless_model(), settings);
    talker *t = connect_talker(&d);
    make_session(t, &w, id);
    uint64_t turn = begin_way(t, id, &w, question, LONG);
    await_stored(t, &d, id, 200);
    simple(t, IC_WIRE_SUSPEND, id, &m);
    ic_wire_msg_fini(&m);
    answer a = read_answer(t, id, turn);
    assert_int_equal(a.finish, IC_WIRE_FINISH_CANCEL);
    kill_and_restart(&d, &t);
    answer b = read_answer(t, id, begin_way(t, id, &w, next_question, SHORT));
    assert_int_equal(b.usage.recomputed_tokens, 0);
    whole alone = undisturbed(t, &w, a.usage.completion_tokens);
    assert_string_equal(alone.a.text, a.text);
    assert_string_equal(alone.b.text, b.text);
    free(a.text);
    free(b.text);
    drop(&alone);
    disconnect_talker(&t);
    stop_daemon(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_goes_on_from_its_middle),
        cmocka_unit_test(one_that_fails_leaves_the_answer_running),
        cmocka_unit_test(copies_of_it_are_closed),
        cmocka_unit_test(suspend_ends_it_first),
    };
    return IC_DAEMON_RUN(tests);
}
