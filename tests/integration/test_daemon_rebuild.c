/* The daemon: memories that cannot be had are made again from the transcript, when asked to.
 * IC_NEEDS_SERVER */
#include "ic_daemon.h"

#include <sqlite3.h>

#include "actors/ic_talk_record.h"
#include "session_store/ic_store.h"

enum { TOKENS = 30 };

static const char film[] = IC_SOURCE_DIR "/models/demo/eval/clip_00_96_h264.mp4";

static const char *other_model(void)
{
    return IC_SOURCE_DIR "/tests/golden/models/gqa4_untied_bf16";
}

static ic_wire_msg resume_msg(const char *id, bool rebuild)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_RESUME);
    ic_wire_put(&m.resume, resume, session, id);
    if (rebuild)
        ic_wire_put(&m.resume, resume, rebuild, true);
    return m;
}

/* A session that watched a film and answered twice; stored. */
static void make_session(talker *t, char id[64], char *answers[2])
{
    char code[40];
    ic_wire_msg m;
    new_session(t, id);
    assert_true(upload(t, id, film, code) > 0);
    answers[0] = ask(t, id, "One?", TOKENS).text;
    answers[1] = ask(t, id, "Two?", TOKENS).text;
    simple(t, IC_WIRE_SUSPEND, id, &m);
    ic_wire_msg_fini(&m);
}

static bool notices_name(const ic_wire_ok *ok, const char *what)
{
    for (uint32_t i = 0; ic_wire_has(ok, ok, notices) && i < ok->notices.count; i++)
        if (strstr(ok->notices.items[i], what))
            return true;
    return false;
}

static void expect_transcript(talker *t, const char *id, char *answers[2], int turns)
{
    ic_wire_msg m;
    simple(t, IC_WIRE_SHOW, id, &m);
    assert_int_equal(m.ok.turns.count, turns);
    for (int i = 0; i < 2; i++)
        assert_string_equal(m.ok.turns.items[i].answer, answers[i]);
    ic_wire_msg_fini(&m);
}

/* Under another model a session is refused, and stays as it is: its own model still has it. When
 * asked to, it is made again from its words: it says what is gone, and goes on from there through a
 * restart. */
static void another_model_takes_the_words(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "other");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char id[64], twin[64], fork_id[64], *answers[2], *again[2];
    make_session(t, twin, again);
    make_session(t, id, answers);
    char *third = ask(t, twin, "Three?", TOKENS).text;
    disconnect_talker(&t);
    stop_daemon(&d);
    start_daemon(&d, other_model(), NULL);
    t = connect_talker(&d);
    ic_wire_msg m = ask_msg(id, "Three?", TOKENS), reply;
    must_fail(t, &m, "MISMATCH");
    m = resume_msg(id, false);
    must_fail(t, &m, "MISMATCH");
    disconnect_talker(&t);
    stop_daemon(&d);
    start_daemon(&d, tiny_model(), NULL);
    t = connect_talker(&d);
    fork_session(t, id, NULL, fork_id);
    answer a = ask(t, fork_id, "Three?", TOKENS);
    assert_string_equal(a.text, third); /* as if nothing had been tried */
    free(a.text);
    disconnect_talker(&t);
    stop_daemon(&d);
    start_daemon(&d, other_model(), NULL);
    t = connect_talker(&d);
    m = resume_msg(id, true);
    must(t, &m, &reply);
    assert_false(reply.ok.exact);
    assert_true(reply.ok.recomputed_tokens > 20);
    assert_true(notices_name(&reply.ok, "clip_00_96_h264.mp4"));
    assert_true(notices_name(&reply.ok, "gqa2_tied_f32"));
    ic_wire_msg_fini(&reply);
    expect_transcript(t, id, answers, 2);
    fork_session(t, id, NULL, fork_id);
    a = ask(t, id, "Three?", TOKENS);
    assert_false(a.usage.exact);
    assert_true(a.usage.cached_tokens > 20);
    disconnect_talker(&t);
    stop_daemon(&d);
    start_daemon(&d, other_model(), NULL);
    t = connect_talker(&d);
    answer b = ask(t, fork_id, "Three?", TOKENS);
    assert_string_equal(b.text, a.text);
    assert_int_equal(b.usage.recomputed_tokens, 0); /* it was stored */
    expect_transcript(t, id, answers, 3);
    for (int i = 0; i < 2; i++) {
        free(answers[i]);
        free(again[i]);
    }
    free(third);
    free(a.text);
    free(b.text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* --- a store changed behind the daemon's back --------------------------------------------------
 */

static ic_store *open_store(const daemon_process *d)
{
    ic_store *s = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = d->store}, &e), &e);
    return s;
}

/* The session's checkpoint again, with the same segments, under another manifest. */
static void change_manifest(const daemon_process *d, const char *id, const char *meaning,
                            const char *numerics, uint32_t version)
{
    ic_store *s = open_store(d);
    ic_store_reader *r = NULL;
    ic_store_writer *w = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    ic_store_manifest m = *ic_store_checkpoint_manifest(r);
    m.meaning = meaning ? meaning : m.meaning;
    m.meaning_bytes = meaning ? strlen(meaning) : m.meaning_bytes;
    m.numerics = numerics ? numerics : m.numerics;
    m.payload_version = version ? version : m.payload_version;
    ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    ic_assert_ok(ic_store_checkpoint_finish(&w, &m, &e), &e);
    ic_store_checkpoint_close(&r);
    ic_store_close(&s);
}

/* The session's record asks for a cache of other settings than its checkpoint has; thinned: for
 * whole frames that are thinned out, which former builds took. */
static void change_settings(const daemon_process *d, const char *id, bool thinned)
{
    ic_store *s = open_store(d);
    ic_error e = {0};
    uint32_t version;
    ic_buf bytes = {0};
    ic_talk_config c = {.system = NULL};
    ic_assert_ok(ic_store_session_config(s, id, &version, &bytes, &e), &e);
    ic_assert_ok(ic_talk_config_decode(&c, bytes.data, bytes.size, &e), &e);
    if (thinned) {
        c.engine.thin = 1;
        c.engine.frame_unit = IC_FRAME_WHOLE;
    } else {
        c.engine.recent_pct += 8;
    }
    ic_buf_clear(&bytes);
    ic_assert_ok(ic_talk_config_encode(&c, &bytes), &e);
    ic_assert_ok(ic_store_session_set_config(s, id, version, bytes.data, bytes.size, &e), &e);
    ic_talk_config_fini(&c);
    ic_buf_fini(&bytes);
    ic_store_close(&s);
}

static void expect_refused(talker *t, const char *id, const char *code, const char *why)
{
    ic_wire_msg m = resume_msg(id, false), reply;
    request(t, &m, &reply);
    assert_int_equal(reply.verb, IC_WIRE_ERROR);
    assert_string_equal(reply.error.code, code);
    if (!strstr(reply.error.message, why))
        fail_msg("\"%s\" does not say \"%s\"", reply.error.message, why);
    ic_wire_msg_fini(&reply);
}

/* A memory that means something else is refused with what differs: settings of the cache, ones that
 * exclude each other by now, a model of the same shape, a layout of a later version. Under other
 * numerics it is taken, and said. Other sessions go on, and each of the refused ones can be made
 * again from its words. */
static void what_differs_is_said(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "differs");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char settings[64], mixed[64], meaning[64], layout[64], numerics[64], sound[64], *answers[6][2];
    char *ids[] = {settings, mixed, meaning, layout, numerics, sound};
    for (int i = 0; i < 6; i++)
        make_session(t, ids[i], answers[i]);
    disconnect_talker(&t);
    stop_daemon(&d);
    change_settings(&d, settings, false);
    change_settings(&d, mixed, true);
    change_manifest(&d, mixed, "76543210fedcba9876543210fedcba98", NULL, 0); /* what they mean */
    change_manifest(&d, meaning, "0123456789abcdef0123456789abcdef", NULL, 0);
    change_manifest(&d, layout, NULL, NULL, 1000);
    change_manifest(&d, numerics, NULL, "another processor", 0);
    start_daemon(&d, tiny_model(), NULL);
    t = connect_talker(&d);
    expect_refused(t, settings, "MISMATCH", "recent");
    expect_refused(t, mixed, "MISMATCH", "thin 1");
    expect_refused(t, mixed, "MISMATCH", "frame_unit whole");
    expect_refused(t, meaning, "MISMATCH", "0123456789abcdef");
    expect_refused(t, layout, "CORRUPT", "version 1000");
    ic_wire_msg m = resume_msg(numerics, false), reply;
    must(t, &m, &reply);
    assert_false(reply.ok.exact);
    assert_int_equal(reply.ok.recomputed_tokens, 0);
    ic_wire_msg_fini(&reply);
    answer a = ask(t, numerics, "Three?", TOKENS);
    assert_false(a.usage.exact);
    free(a.text);
    a = ask(t, sound, "Three?", TOKENS);
    assert_true(a.usage.exact);
    free(a.text);
    for (int i = 0; i < 4; i++) {
        m = resume_msg(ids[i], true);
        must(t, &m, &reply);
        assert_false(reply.ok.exact);
        assert_int_equal(notices_name(&reply.ok, "thin 1"), ids[i] == mixed);
        ic_wire_msg_fini(&reply);
        free(ask(t, ids[i], "Three?", TOKENS).text);
        expect_transcript(t, ids[i], answers[i], 3);
    }
    for (int i = 0; i < 12; i++)
        free(answers[i / 2][i % 2]);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A damaged memory is refused by name, and made again when asked to; a sound one is left as it is,
 * though a rebuild be allowed. */
static void a_damaged_memory_is_made_again(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "damaged");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char id[64], sound[64], *answers[2], *again[2], sql[300];
    make_session(t, sound, again);
    make_session(t, id, answers);
    ic_wire_msg m = resume_msg(sound, true), reply;
    must(t, &m, &reply);
    assert_true(reply.ok.exact);
    assert_int_equal(reply.ok.recomputed_tokens, 0);
    assert_false(ic_wire_has(&reply.ok, ok, notices));
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t);
    stop_daemon(&d);
    sqlite3 *db = NULL;
    snprintf(sql, sizeof sql,
             "UPDATE segment_data SET data = zeroblob(length(data)) WHERE n = (SELECT max(segment) "
             "FROM checkpoint_segment l JOIN session s ON s.checkpoint = l.checkpoint "
             "WHERE s.id = '%s')",
             id);
    assert_int_equal(sqlite3_open(d.store, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    start_daemon(&d, tiny_model(), NULL);
    t = connect_talker(&d);
    m = resume_msg(id, false);
    must_fail(t, &m, "CORRUPT");
    m = resume_msg(id, true);
    must(t, &m, &reply);
    assert_false(reply.ok.exact);
    assert_true(notices_name(&reply.ok, "damaged"));
    ic_wire_msg_fini(&reply);
    free(ask(t, id, "Three?", TOKENS).text);
    expect_transcript(t, id, answers, 3);
    simple(t, IC_WIRE_SUSPEND, id, &m);
    ic_wire_msg_fini(&m);
    m = resume_msg(id, false);
    must(t, &m, &reply);
    assert_int_equal(reply.ok.recomputed_tokens, 0);
    assert_false(ic_wire_has(&reply.ok, ok, notices)); /* nothing was rebuilt this time */
    ic_wire_msg_fini(&reply);
    for (int i = 0; i < 2; i++) {
        free(answers[i]);
        free(again[i]);
    }
    disconnect_talker(&t);
    stop_daemon(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_model_takes_the_words),
        cmocka_unit_test(what_differs_is_said),
        cmocka_unit_test(a_damaged_memory_is_made_again),
    };
    return IC_DAEMON_RUN(tests);
}
