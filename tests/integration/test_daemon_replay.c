/* A daemon that comes back: to what it has told already, to clients that ask again, to a store that
 * was damaged meanwhile. IC_NEEDS_SERVER */
#include <sqlite3.h>

#include "ic_daemon.h"

/* A small cache, so that every answer evicts. */
static const char *const small_cache[] = {"session.cache_tokens=64",
                                          "session.max_answer_tokens=10000", NULL};
static const char first[] = "Tell me a long story about the sea and all that swims in it, slowly.";
static const char second[] = "Why is the whale so sad, and where does it want to go?";
static const char last[] = "What was it about?";

static void run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *fmt, ...)
{
    char command[800];
    va_list args;
    va_start(args, fmt);
    vsnprintf(command, sizeof command, fmt, args);
    va_end(args);
    if (system(command))
        fail_msg("%s", command);
}

static void kill_daemon(daemon_process *d, talker **t_p)
{
    kill(d->pid, SIGKILL);
    wait_daemon(d);
    disconnect_talker(t_p);
}

/* An answer whose tokens depend on the seed. */
static answer ask_seeded(talker *t, const char *id, const char *text, uint64_t tokens,
                         uint64_t seed)
{
    ic_wire_msg m = ask_msg(id, text, tokens), reply;
    ic_wire_sampling s = {0};
    ic_wire_put(&s, sampling, temperature, 20);
    ic_wire_put(&s, sampling, top_k, 300);
    ic_wire_put(&s, sampling, top_p, 1);
    ic_wire_put(&s, sampling, seed, seed);
    ic_wire_put(&s, sampling, max_tokens, tokens);
    ic_wire_put(&m.ask, ask, sampling, s);
    must(t, &m, &reply);
    uint64_t turn = reply.ok.turn;
    ic_wire_msg_fini(&reply);
    return read_answer(t, id, turn);
}

/* The first shown tokens of the answers in the journal of the only session; returns how many. */
static int journal_tokens(const daemon_process *d, int32_t *out, int max)
{
    sqlite3 *db;
    sqlite3_stmt *row;
    int count = 0;
    assert_int_equal(sqlite3_open(d->store, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_prepare_v2(db, "SELECT payload FROM journal WHERE kind = 6 ORDER BY number", -1,
                           &row, NULL),
        SQLITE_OK);
    while (count < max && sqlite3_step(row) == SQLITE_ROW) {
        assert_true(sqlite3_column_bytes(row, 0) >= 17);
        memcpy(&out[count++], (const char *)sqlite3_column_blob(row, 0) + 13, sizeof *out);
    }
    sqlite3_finalize(row);
    sqlite3_close(db);
    return count;
}

/* The token that the answer to `second` begins with, after an answer of one token to `first`. Read
 * from the journal, unless a checkpoint was quicker. */
static int32_t learn_token(void)
{
    daemon_process d;
    int32_t shown[2];
    char id[64];
    for (int i = 0; i < 10; i++) {
        run("rm -f %s/learn.db*", ic_test_dir());
        prepare(&d, "learn");
        start_daemon(&d, tiny_model(), small_cache);
        talker *t = connect_talker(&d);
        new_session(t, id);
        free(ask_seeded(t, id, first, 1, 1).text);
        free(ask_seeded(t, id, second, 1, 2).text);
        kill_daemon(&d, &t);
        if (journal_tokens(&d, shown, 2) == 2) {
            assert_int_not_equal(shown[0], shown[1]); /* else: other seeds */
            return shown[1];
        }
    }
    fail_msg("the journal was trimmed before it could be read, ten times");
    return -1;
}

/* A copy of the tiny model that ends an answer at this token. */
static void make_model(const char *folder, int32_t token)
{
    char path[300];
    run("cp -rT %s %s", tiny_model(), folder);
    snprintf(path, sizeof path, "%s/generation_config.json", folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "{\"eos_token_id\": [494, 492, %d], \"do_sample\": false}\n", (int)token);
    assert_int_equal(fclose(f), 0);
}

/* An answer of no tokens, whose end was told, counts its evictions once, though the daemon is
 * killed behind it and computes it again: the next answer tells what the next answer tells without
 * a kill. */
static void an_empty_answer_is_counted_once(void **state)
{
    (void)state;
    char model[200], id[64];
    snprintf(model, sizeof model, "%s/stopper", ic_test_dir());
    make_model(model, learn_token());
    daemon_process d;
    prepare(&d, "empty");
    start_daemon(&d, model, small_cache);
    talker *t = connect_talker(&d);
    uint64_t expected = 0;
    bool replayed = false;
    for (int i = 0; i < 11 && !replayed; i++) { /* the first one is not interrupted */
        new_session(t, id);
        free(ask_seeded(t, id, first, 1, 1).text);
        answer empty = ask_seeded(t, id, second, 50, 2);
        assert_int_equal(empty.finish, IC_WIRE_FINISH_STOP);
        assert_int_equal(empty.usage.completion_tokens, 0);
        assert_true(empty.usage.evicted_tokens > 0);
        free(empty.text);
        if (i > 0) {
            kill_daemon(&d, &t);
            start_daemon(&d, model, small_cache);
            t = connect_talker(&d);
        }
        answer a = ask(t, id, last, 3);
        if (i == 0)
            expected = a.usage.evicted_tokens;
        assert_int_equal(a.usage.evicted_tokens, expected);
        replayed = a.usage.recomputed_tokens > 0;
        free(a.text);
    }
    assert_true(replayed);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A question that was taken back before it reached the model tells of nothing that happened to
 * others meanwhile: what left the cache is told once, by the answer that it left for. */
static void a_question_taken_back_counts_nothing(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "queued");
    start_daemon(&d, tiny_model(), small_cache);
    talker *t = connect_talker(&d);
    char whole[64], broken[64];
    ic_wire_msg m, reply;
    new_session(t, whole);
    answer expected = ask(t, whole, first, 6000), expected_last = ask(t, whole, last, 3);
    new_session(t, broken);
    uint64_t turn = begin_ask(t, broken, first, 6000);
    m = ask_msg(broken, "Never mind?", 5);
    ic_wire_put(&m.ask, ask, if_busy, IC_WIRE_IF_BUSY_QUEUE);
    must(t, &m, &reply);
    uint64_t queued = reply.ok.turn;
    ic_wire_msg_fini(&reply);
    ic_wire_msg_init(&m, IC_WIRE_CANCEL);
    ic_wire_put(&m.cancel, cancel, session, broken);
    ic_wire_put(&m.cancel, cancel, turn, queued);
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    answer back = read_answer(t, broken, queued);
    assert_int_equal(back.finish, IC_WIRE_FINISH_CANCEL);
    assert_int_equal(back.usage.evicted_tokens, 0);
    assert_int_equal(back.usage.prompt_tokens, 0);
    assert_int_equal(back.usage.cached_tokens, 0);
    answer a = read_answer(t, broken, turn), b = ask(t, broken, last, 3);
    assert_string_equal(a.text, expected.text + strlen(expected.text) - strlen(a.text));
    assert_int_equal(a.usage.evicted_tokens, expected.usage.evicted_tokens);
    assert_int_equal(b.usage.evicted_tokens, expected_last.usage.evicted_tokens);
    free(expected.text), free(expected_last.text), free(back.text), free(a.text), free(b.text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* One piece of an upload: all of it. */
static void send_clip(talker *t, const char *id, uint64_t media, const uint8_t *bytes, size_t size)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_DATA);
    ic_wire_put(&m.data, data, session, id);
    ic_wire_put(&m.data, data, media, media);
    ic_wire_put(&m.data, data, offset, 0);
    ic_wire_put(&m.data, data, last, true);
    send_msg(t, &m, bytes, size);
}

/* A client that lost its connection repeats its MEDIA while the server reads that source: it is
 * told how far the source is, and the source goes on to its end. */
static void a_repeated_source_goes_on(void **state)
{
    (void)state;
    static uint8_t clip[IC_WIRE_PIECE_MAX];
    FILE *f = fopen(IC_SOURCE_DIR "/models/demo/eval/demo_a.mp4", "rb");
    assert_non_null(f);
    size_t size = fread(clip, 1, sizeof clip, f);
    assert_true(feof(f) && size > 1000);
    fclose(f);
    daemon_process d;
    prepare(&d, "media");
    start_daemon(&d, tiny_model(), NULL);
    talker *first_client = connect_talker(&d), *t = connect_talker(&d);
    char id[64];
    new_session(t, id);
    ic_wire_id key = random_id();
    uint64_t media = 0;
    for (int i = 0; i < 3; i++) {
        ic_wire_msg m, reply;
        ic_wire_msg_init(&m, IC_WIRE_MEDIA);
        ic_wire_put(&m.media, media, session, id);
        ic_wire_put(&m.media, media, kind, IC_WIRE_KIND_UPLOAD);
        ic_wire_put(&m.media, media, name, "demo_a.mp4");
        ic_wire_put(&m.media, media, size, (uint64_t)size);
        ic_wire_msg_set_key(&m, &key);
        must(i ? t : first_client, &m, &reply);
        media = media ? media : reply.ok.media;
        assert_int_equal(reply.ok.media, media);
        assert_int_equal(ic_wire_get(&reply.ok, ok, repeated, false), i > 0);
        assert_true(ic_wire_get(&reply.ok, ok, until, 0) > 0);
        ic_wire_msg_fini(&reply);
        if (i == 0)
            disconnect_talker(&first_client);
    }
    attach(t, id, 1, 0);
    send_clip(t, id, media, clip, size);
    ic_wire_msg m;
    assert_true(next_event(t, id, IC_WIRE_EVENT_MEDIA_END, &m, 20000));
    assert_true(m.event.media.frames_seen > 10);
    ic_wire_msg_fini(&m);
    disconnect_talker(&t);
    stop_daemon(&d);
}

static void execute(const daemon_process *d, const char *fmt, const char *id)
{
    sqlite3 *db;
    char *text = sqlite3_mprintf(fmt, id), *error = NULL;
    assert_int_equal(sqlite3_open(d->store, &db), SQLITE_OK);
    if (sqlite3_exec(db, text, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s: %s", text, error);
    assert_true(sqlite3_changes(db) > 0);
    sqlite3_free(text);
    sqlite3_close(db);
}

/* A session whose checkpoint or journal is damaged is refused by name, as often as it is asked for;
 * the others are served meanwhile, and the damaged one can be deleted. */
static void damage_is_named_and_stays_where_it_is(void **state)
{
    (void)state;
    static const char *const damages[] = {
        "UPDATE segment_data SET data = zeroblob(length(data)) WHERE n = (SELECT max(l.segment) "
        "FROM "
        "checkpoint_segment l JOIN session s ON s.checkpoint = l.checkpoint WHERE s.id = %Q)",
        "UPDATE checkpoint SET state = state || x'00' WHERE n = (SELECT checkpoint FROM session "
        "WHERE id = %Q)",
        "INSERT INTO journal(session, number, kind, time_us, sum, payload) SELECT n, journal_base "
        "+ "
        "1, 5, 1, 77, x'0107' FROM session WHERE id = %Q"};
    daemon_process d;
    prepare(&d, "damage");
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        char sound[64], broken[64], name[16];
        ic_wire_msg m, reply;
        start_daemon(&d, tiny_model(), small_cache);
        talker *t = connect_talker(&d);
        new_session(t, broken);
        new_session(t, sound);
        free(ask(t, broken, first, 20).text);
        free(ask(t, sound, first, 20).text);
        simple(t, IC_WIRE_SUSPEND, broken, &reply);
        ic_wire_msg_fini(&reply);
        disconnect_talker(&t);
        stop_daemon(&d);
        execute(&d, damages[i], broken);
        start_daemon(&d, tiny_model(), small_cache);
        t = connect_talker(&d);
        snprintf(name, sizeof name, "%.8s", broken);
        for (int again = 0; again < 2; again++) {
            ic_wire_msg_init(&m, IC_WIRE_RESUME);
            ic_wire_put(&m.resume, resume, session, broken);
            request(t, &m, &reply);
            assert_int_equal(reply.verb, IC_WIRE_ERROR);
            assert_string_equal(reply.error.code, "CORRUPT");
            assert_non_null(strstr(reply.error.message, name));
            assert_non_null(strstr(reply.error.message, "damaged"));
            ic_wire_msg_fini(&reply);
            free(ask(t, sound, last, 5).text);
        }
        simple(t, IC_WIRE_RM, broken, &reply);
        ic_wire_msg_fini(&reply);
        free(ask(t, sound, last, 5).text);
        disconnect_talker(&t);
        stop_daemon(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_answer_is_counted_once),
        cmocka_unit_test(a_question_taken_back_counts_nothing),
        cmocka_unit_test(a_repeated_source_goes_on),
        cmocka_unit_test(damage_is_named_and_stays_where_it_is),
    };
    return cmocka_run_group_tests(tests, daemon_setup, daemon_teardown);
}
