/* The daemon: a memory that is made again shows the model again what the session had seen: frames
 * that are kept, files that have not changed; and says what it cannot. IC_NEEDS_SERVER */
#include "ic_daemon.h"

#include <sqlite3.h>
#include <sys/time.h>

#include "session_store/ic_store.h"

enum { TOKENS = 30 };

static const char *demo_model(void)
{
    return IC_SOURCE_DIR "/models/demo";
}

static const char first_film[] = IC_SOURCE_DIR "/models/demo/eval/clip_00_96_h264.mp4";
static const char second_film[] = IC_SOURCE_DIR "/models/demo/eval/clip_05_96_av1.mkv";

/* --- a store changed behind the daemon's back --------------------------------------------------
 */

static void run_sql(const daemon_process *d, const char *sql)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(d->store, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_close(db);
}

static int64_t read_number(const daemon_process *d, const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *row = NULL;
    assert_int_equal(sqlite3_open(d->store, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    int64_t value = sqlite3_column_int64(row, 0);
    sqlite3_finalize(row);
    sqlite3_close(db);
    return value;
}

/* The session's checkpoint is of another model from now on. */
static void lose_memory(const daemon_process *d, const char *id)
{
    ic_store *s = NULL;
    ic_store_reader *r = NULL;
    ic_store_writer *w = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = d->store}, &e), &e);
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    ic_store_manifest m = *ic_store_checkpoint_manifest(r);
    m.meaning = "0123456789abcdef0123456789abcdef";
    m.meaning_bytes = 32;
    ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    ic_assert_ok(ic_store_checkpoint_finish(&w, &m, &e), &e);
    ic_store_checkpoint_close(&r);
    ic_store_close(&s);
}

/* --- sessions ----------------------------------------------------------------------------------
 */

static ic_wire_msg rebuild_msg(const char *id)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_RESUME);
    ic_wire_put(&m.resume, resume, session, id);
    ic_wire_put(&m.resume, resume, rebuild, true);
    return m;
}

static bool says(const ic_wire_ok *ok, const char *what, const char *too)
{
    for (uint32_t i = 0; ic_wire_has(ok, ok, notices) && i < ok->notices.count; i++)
        if (strstr(ok->notices.items[i], what) && strstr(ok->notices.items[i], too))
            return true;
    return false;
}

static void expect_said(const ic_wire_ok *ok, const char *what, const char *too)
{
    if (says(ok, what, too))
        return;
    for (uint32_t i = 0; ic_wire_has(ok, ok, notices) && i < ok->notices.count; i++)
        print_message("notice: %s\n", ok->notices.items[i]);
    fail_msg("no notice says \"%s\" and \"%s\"", what, too);
}

static void suspend(talker *t, const char *id)
{
    ic_wire_msg m;
    simple(t, IC_WIRE_SUSPEND, id, &m);
    ic_wire_msg_fini(&m);
}

/* Words, a film, a question about it, another film, a question: in that order. */
static void live_through(talker *t, char id[64])
{
    char code[40];
    new_session(t, id);
    free(ask(t, id, "What do you see?", TOKENS).text);
    assert_true(upload(t, id, first_film, code) > 40);
    free(ask(t, id, "Which shapes came one after the other?", TOKENS).text);
    assert_true(upload(t, id, second_film, code) > 40);
    free(ask(t, id, "When did the yellow cross appear?", TOKENS).text);
    suspend(t, id);
}

/* Both sessions, each of its server, must give the same answer, in which the word stands. */
static void expect_alike_at(talker *t, const char *id, talker *u, const char *twin,
                            const char *question, const char *word)
{
    answer a = ask(t, id, question, TOKENS), b = ask(u, twin, question, TOKENS);
    assert_string_equal(a.text, b.text);
    if (!strstr(a.text, word))
        fail_msg("\"%s\": \"%s\"", question, a.text);
    assert_false(a.usage.exact);
    assert_true(b.usage.exact);
    free(a.text);
    free(b.text);
}

static void expect_alike(talker *t, const char *id, const char *twin, const char *question,
                         const char *word)
{
    expect_alike_at(t, id, t, twin, question, word);
}

/* --- tests -------------------------------------------------------------------------------------
 */

/* What was uploaded is kept, goes in again in its order between the words, and is known as before,
 * through a restart too; a fork of the session has it as well. */
static void kept_films_are_seen_again(void **state)
{
    (void)state;
    daemon_process d;
    char id[64], twin[64], fork_id[64];
    ic_wire_msg m, reply;
    prepare(&d, "kept");
    start_daemon(&d, demo_model(), NULL);
    talker *t = connect_talker(&d);
    live_through(t, twin);
    live_through(t, id);
    fork_session(t, id, NULL, fork_id);
    simple(t, IC_WIRE_RESUME, fork_id, &reply);
    ic_wire_msg_fini(&reply);
    suspend(t, fork_id);
    disconnect_talker(&t);
    stop_daemon(&d);
    lose_memory(&d, id);
    lose_memory(&d, fork_id);
    start_daemon(&d, demo_model(), NULL);
    t = connect_talker(&d);
    simple(t, IC_WIRE_SHOW, id, &reply);
    uint64_t evicted = reply.ok.info.evicted_tokens;
    ic_wire_msg_fini(&reply);
    m = rebuild_msg(id);
    must(t, &m, &reply);
    assert_false(reply.ok.exact);
    assert_true(reply.ok.recomputed_tokens > 500);
    expect_said(&reply.ok, "clip_00_96_h264.mp4", "shown again");
    expect_said(&reply.ok, "clip_05_96_av1.mkv", "shown again");
    assert_false(says(&reply.ok, "could not", ""));
    ic_wire_msg_fini(&reply);
    simple(t, IC_WIRE_SHOW, id, &reply);
    assert_int_equal(reply.ok.info.evicted_tokens, evicted); /* its policy did as it had done */
    ic_wire_msg_fini(&reply);
    expect_alike(t, id, twin, "Did you see a green ring?", "Yes");
    expect_alike(t, id, twin, "When did the yellow cross appear?", "7 seconds");
    m = rebuild_msg(fork_id);
    must(t, &m, &reply);
    assert_false(says(&reply.ok, "could not", ""));
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t);
    stop_daemon(&d);
    lose_memory(&d, id); /* and once more, from what was kept all along */
    start_daemon(&d, demo_model(), NULL);
    t = connect_talker(&d);
    m = rebuild_msg(id);
    must(t, &m, &reply);
    assert_false(says(&reply.ok, "could not", ""));
    ic_wire_msg_fini(&reply);
    expect_alike(t, id, twin, "When was the yellow cross last seen?", "seconds");
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* By the client, as a file. */
static void move_session(const daemon_process *from, const char *id, const daemon_process *to,
                         char moved[64])
{
    char command[1600];
    snprintf(command, sizeof command,
             "%s/infchat --server %s export %s %s/moved.icx >&2 && %s/infchat --server %s import "
             "%s/moved.icx",
             IC_BINARY_DIR, from->endpoint, id, ic_test_dir(), IC_BINARY_DIR, to->endpoint,
             ic_test_dir());
    FILE *f = popen(command, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%63s", moved), 1);
    assert_int_equal(pclose(f), 0);
}

static void rebuild_all(talker *t, const char *id)
{
    ic_wire_msg m = rebuild_msg(id), reply;
    must(t, &m, &reply);
    expect_said(&reply.ok, "clip_00_96_h264.mp4", "shown again");
    expect_said(&reply.ok, "clip_05_96_av1.mkv", "shown again");
    assert_false(says(&reply.ok, "could not", ""));
    ic_wire_msg_fini(&reply);
}

/* What is kept goes with a session into another server's store, and from there into a third. In
 * both its memory is lost and made again: it knows what the session does that never moved and lost
 * nothing. The server that it came from has nothing of it any more. */
static void kept_films_move_with_their_session(void **state)
{
    (void)state;
    daemon_process d, others[2];
    char id[64], twin[64], moved[2][64];
    ic_wire_msg reply;
    prepare(&d, "here");
    prepare(&others[0], "there");
    prepare(&others[1], "yonder");
    start_daemon(&d, demo_model(), NULL);
    talker *t = connect_talker(&d);
    live_through(t, twin);
    live_through(t, id);
    for (int i = 0; i < 2; i++)
        start_daemon(&others[i], demo_model(), NULL);
    move_session(&d, id, &others[0], moved[0]);
    move_session(&others[0], moved[0], &others[1], moved[1]);
    simple(t, IC_WIRE_RM, id, &reply);
    ic_wire_msg_fini(&reply);
    for (int i = 0; i < 2; i++) {
        stop_daemon(&others[i]);
        lose_memory(&others[i], moved[i]);
        start_daemon(&others[i], demo_model(), NULL);
        talker *u = connect_talker(&others[i]);
        rebuild_all(u, moved[i]);
        char copy[64]; /* the twin answers each of them as if it were the first */
        fork_session(t, twin, NULL, copy);
        expect_alike_at(u, moved[i], t, copy, "Did you see a green ring?", "Yes");
        expect_alike_at(u, moved[i], t, copy, "When did the yellow cross appear?", "7 seconds");
        disconnect_talker(&u);
        stop_daemon(&others[i]);
    }
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* Where nothing is kept, the words go in, and each source is named with what is missing of it, and
 * when that was. */
static void what_is_not_kept_is_said(void **state)
{
    (void)state;
    static const char *const none[] = {"media.keep_bytes=0", NULL};
    daemon_process d;
    char id[64];
    ic_wire_msg m, reply;
    prepare(&d, "none");
    start_daemon(&d, tiny_model(), none);
    talker *t = connect_talker(&d);
    live_through(t, id);
    disconnect_talker(&t);
    stop_daemon(&d);
    assert_int_equal(read_number(&d, "SELECT count(*) FROM frame WHERE bulk IS NOT NULL"), 0);
    lose_memory(&d, id);
    start_daemon(&d, tiny_model(), none);
    t = connect_talker(&d);
    m = rebuild_msg(id);
    must(t, &m, &reply);
    assert_false(says(&reply.ok, "shown again, ", ""));
    expect_said(&reply.ok, "source 1 (clip_00_96_h264.mp4)", "could not be shown again");
    expect_said(&reply.ok, "source 2 (clip_05_96_av1.mkv)", "of 0.000 s to ");
    expect_said(&reply.ok, "source 2 (clip_05_96_av1.mkv)", "media.keep_bytes");
    ic_wire_msg_fini(&reply);
    free(ask(t, id, "Still there?", TOKENS).text);
    simple(t, IC_WIRE_SHOW, id, &reply);
    assert_int_equal(reply.ok.turns.count, 4);
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* The bound takes the oldest frames, says and counts it; the newest are shown again, and what is
 * missing is told by its time. */
static void the_bound_takes_the_oldest(void **state)
{
    (void)state;
    static const char *const little[] = {"media.keep_bytes=2M", "session.checkpoint_bytes=1M",
                                         NULL};
    daemon_process d;
    char id[64], code[40];
    ic_wire_msg m, reply;
    prepare(&d, "bound");
    start_daemon(&d, tiny_model(), little);
    talker *t = connect_talker(&d);
    new_session(t, id);
    for (int i = 0; i < 4; i++)
        upload(t, id, i % 2 ? first_film : second_film, code);
    free(ask(t, id, "One?", TOKENS).text);
    suspend(t, id);
    ic_wire_msg_init(&m, IC_WIRE_STATUS);
    must(t, &m, &reply);
    uint64_t dropped = ic_wire_get(&reply.ok.status, status_info, frames_dropped, 0);
    ic_wire_msg_fini(&reply);
    assert_true(dropped > 0);
    disconnect_talker(&t);
    stop_daemon(&d);
    assert_true(log_has(&d, "are kept no more: media.keep_bytes"));
    assert_true(read_number(&d, "SELECT sum(length(bulk)) FROM frame") <= 2 << 20);
    assert_int_equal(read_number(&d, "SELECT count(*) FROM frame WHERE bulk IS NULL"), dropped);
    lose_memory(&d, id);
    start_daemon(&d, tiny_model(), little);
    t = connect_talker(&d);
    m = rebuild_msg(id);
    must(t, &m, &reply);
    expect_said(&reply.ok, "source 1 (", "could not be shown again");
    expect_said(&reply.ok, "source 4 (", "were shown again");
    assert_false(says(&reply.ok, "source 4 (", "could not"));
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A session of the policy that keeps everything and refuses what does not fit. */
static void live_in_a_full_cache(talker *t, char id[64])
{
    char code[40];
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_NEW);
    ic_wire_put(&m.new, new, policy, "full");
    ic_wire_put(&m.new, new, cache_tokens, 400);
    must(t, &m, &reply);
    snprintf(id, 64, "%s", reply.ok.session);
    ic_wire_msg_fini(&reply);
    free(ask(t, id, "What do you see?", TOKENS).text);
    assert_true(upload(t, id, first_film, code) > 40);
    free(ask(t, id,
             "Which shapes came one after the other, and which of them came last of all, "
             "and which of them did you like best?",
             TOKENS)
             .text);
    suspend(t, id);
}

/* The numbers of the first notice that names both, if they are as in "source 1 (x): 3 of its 5". */
static void read_said(const ic_wire_ok *ok, const char *what, const char *too, const char *form,
                      int *a, int *b)
{
    for (uint32_t i = 0; ic_wire_has(ok, ok, notices) && i < ok->notices.count; i++) {
        const char *text = ok->notices.items[i];
        const char *numbers = strstr(text, "): ");
        if (strstr(text, what) && strstr(text, too) && numbers && sscanf(numbers, form, a, b) > 0)
            return;
    }
    expect_said(ok, what, too);
    fail_msg("\"%s\" has no numbers", too);
}

/* Both memories are as large as one another when another question comes. */
static void expect_as_large(talker *t, const char *id, const char *twin)
{
    answer a = ask(t, id, "And?", 1), b = ask(t, twin, "And?", 1);
    assert_int_equal(a.finish, b.finish);
    assert_int_equal(a.usage.cached_tokens, b.usage.cached_tokens);
    assert_int_equal(a.usage.cache_tokens, b.usage.cache_tokens);
    assert_true(a.usage.cache_tokens > 100);
    free(a.text);
    free(b.text);
}

/* What the model refuses in a rebuild, frames and a question for which there is no room, is not
 * counted as shown: it is named, with the reason and the time. The new memory is as the old one
 * was, which had refused the same. */
static void what_is_refused_is_not_shown(void **state)
{
    (void)state;
    daemon_process d;
    char id[64], twin[64];
    ic_wire_msg m, reply;
    int shown = 0, all = 0, refused = 0, unused = 0;
    prepare(&d, "full");
    start_daemon(&d, demo_model(), NULL);
    talker *t = connect_talker(&d);
    live_in_a_full_cache(t, twin);
    live_in_a_full_cache(t, id);
    disconnect_talker(&t);
    stop_daemon(&d);
    lose_memory(&d, id);
    int64_t events = read_number(&d, "SELECT count(*) FROM event");
    start_daemon(&d, demo_model(), NULL);
    t = connect_talker(&d);
    m = rebuild_msg(id);
    must(t, &m, &reply);
    read_said(&reply.ok, "source 1 (", "were shown again", "): %d of its %d", &shown, &all);
    read_said(&reply.ok, "source 1 (", "were refused: the cache is full", "): %d frames, of %d",
              &refused, &unused);
    assert_true(shown > 4 && refused > 4);
    assert_int_equal(shown + refused, all);
    expect_said(&reply.ok, "turn 2 ", "was refused: the cache is full");
    assert_false(says(&reply.ok, "could not be shown", ""));
    ic_wire_msg_fini(&reply);
    /* Told once, by the one notice of the rebuild. */
    assert_in_range(read_number(&d, "SELECT count(*) FROM event"), events + 1, events + 3);
    expect_as_large(t, id, twin);
    disconnect_talker(&t);
    stop_daemon(&d);
    char told[80];
    snprintf(told, sizeof told, "1 of 2 turns and %d of %d frames went in again", shown, all);
    assert_true(log_has(&d, told));
}

/* --- words -------------------------------------------------------------------------------------
 */

/* An answer that was longer than the session's answers are when nobody says how long goes in again
 * as long as it was. */
static void a_long_answer_goes_in_whole(void **state)
{
    (void)state;
    daemon_process d;
    char id[64], twin[64], *ids[] = {id, twin};
    ic_wire_msg m, reply;
    prepare(&d, "long");
    start_daemon(&d, demo_model(), NULL);
    talker *t = connect_talker(&d);
    for (int i = 0; i < 2; i++) {
        ic_wire_sampling s = {0};
        ic_wire_msg_init(&m, IC_WIRE_NEW);
        ic_wire_put(&s, sampling, max_tokens, 2);
        ic_wire_put(&m.new, new, sampling, s);
        must(t, &m, &reply);
        snprintf(ids[i], 64, "%s", reply.ok.session);
        ic_wire_msg_fini(&reply);
        watch_film(t, ids[i]);
        answer a = ask(t, ids[i], "Which shapes came one after the other?", TOKENS);
        assert_true(a.usage.completion_tokens > 5);
        free(a.text);
        suspend(t, ids[i]);
    }
    disconnect_talker(&t);
    stop_daemon(&d);
    lose_memory(&d, id);
    start_daemon(&d, demo_model(), NULL);
    t = connect_talker(&d);
    m = rebuild_msg(id);
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    expect_as_large(t, id, twin);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A question that the server died over, before a word of its answer, keeps its number: the next one
 * behind a rebuild has another. */
static void numbers_of_turns_are_not_used_again(void **state)
{
    (void)state;
    daemon_process d;
    char id[64];
    ic_wire_msg m, reply;
    prepare(&d, "numbers");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    new_session(t, id);
    free(ask(t, id, "One?", TOKENS).text);
    suspend(t, id);
    disconnect_talker(&t);
    stop_daemon(&d);
    setenv("INFCHAT_FAILPOINT", "answer_start:1", 1);
    start_daemon(&d, tiny_model(), NULL);
    unsetenv("INFCHAT_FAILPOINT");
    t = connect_talker(&d);
    m = ask_msg(id, "Two?", TOKENS);
    ic_wire_id key = random_id();
    ic_wire_msg_set_key(&m, &key);
    ic_wire_msg_set_re(&m, ++t->re);
    send_msg(t, &m, NULL, 0);
    wait_daemon(&d);
    disconnect_talker(&t);
    assert_int_equal(read_number(&d, "SELECT count(*) FROM turn"), 3);
    lose_memory(&d, id);
    start_daemon(&d, tiny_model(), NULL);
    t = connect_talker(&d);
    m = rebuild_msg(id);
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    uint64_t turn = begin_ask(t, id, "Three?", TOKENS);
    free(read_answer(t, id, turn).text);
    assert_int_equal(turn, 3);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* --- files of the server -----------------------------------------------------------------------
 */

static void copy_film(const char *path)
{
    static uint8_t bytes[1 << 20];
    FILE *in = fopen(first_film, "rb"), *out = fopen(path, "wb");
    assert_non_null(in);
    assert_non_null(out);
    size_t size = fread(bytes, 1, sizeof bytes, in);
    assert_int_equal(fwrite(bytes, 1, size, out), size);
    fclose(in);
    fclose(out);
}

static void watch_path(talker *t, const char *id, const char *path)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_MEDIA);
    ic_wire_put(&m.media, media, session, id);
    ic_wire_put(&m.media, media, kind, IC_WIRE_KIND_PATH);
    ic_wire_put(&m.media, media, source, path);
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    if (!next_event(t, id, IC_WIRE_EVENT_MEDIA_END, &m, REPLY_S * 1000))
        fail_msg("the source does not end");
    assert_true(m.event.media.frames_seen > 40);
    ic_wire_msg_fini(&m);
}

/* One byte in the middle, or at the end; and its time of change as it was, if so wished. */
static void change_file(const char *path, long at, bool quietly)
{
    struct stat was;
    assert_int_equal(stat(path, &was), 0);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, at < 0 ? was.st_size : at, SEEK_SET);
    fputc('x', f);
    fclose(f);
    struct timespec times[2] = {was.st_atim, was.st_mtim};
    if (quietly)
        assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* A file that has not changed is read again and known as before; nothing of it is kept. */
static void a_file_is_read_again(void **state)
{
    (void)state;
    daemon_process d;
    char id[64], twin[64], path[300], roots[300];
    ic_wire_msg m, reply;
    snprintf(roots, sizeof roots, "media.roots=%s", ic_test_dir());
    const char *const settings[] = {roots, NULL};
    snprintf(path, sizeof path, "%s/film.mp4", ic_test_dir());
    copy_film(path);
    prepare(&d, "file");
    start_daemon(&d, demo_model(), settings);
    talker *t = connect_talker(&d);
    char *ids[] = {twin, id};
    for (int i = 0; i < 2; i++) {
        new_session(t, ids[i]);
        watch_path(t, ids[i], path);
        free(ask(t, ids[i], "Which shapes came one after the other?", TOKENS).text);
        suspend(t, ids[i]);
    }
    disconnect_talker(&t);
    stop_daemon(&d);
    assert_int_equal(read_number(&d, "SELECT count(*) FROM frame WHERE bulk IS NOT NULL"), 0);
    lose_memory(&d, id);
    start_daemon(&d, demo_model(), settings);
    t = connect_talker(&d);
    m = rebuild_msg(id);
    must(t, &m, &reply);
    expect_said(&reply.ok, "film.mp4", "read from the file");
    assert_false(says(&reply.ok, "could not", ""));
    ic_wire_msg_fini(&reply);
    expect_alike(t, id, twin, "Did you see a green ring?", "Yes");
    expect_alike(t, id, twin, "When did the red ring disappear?", "seconds");
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A file that has changed, by its size, its time or its content alone, is named and not shown; so
 * is one that is gone. */
static void a_changed_file_is_refused(void **state)
{
    (void)state;
    static const char *const why[] = {"had ", "time of change", "its content is another",
                                      "no file"};
    daemon_process d;
    char ids[4][64], paths[4][300], roots[300];
    ic_wire_msg m, reply;
    snprintf(roots, sizeof roots, "media.roots=%s", ic_test_dir());
    const char *const settings[] = {roots, NULL};
    prepare(&d, "changed");
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    for (int i = 0; i < 4; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/changed%d.mp4", ic_test_dir(), i);
        copy_film(paths[i]);
        new_session(t, ids[i]);
        watch_path(t, ids[i], paths[i]);
        free(ask(t, ids[i], "One?", TOKENS).text);
        suspend(t, ids[i]);
    }
    disconnect_talker(&t);
    stop_daemon(&d);
    for (int i = 0; i < 4; i++)
        lose_memory(&d, ids[i]);
    change_file(paths[0], -1, true);
    usleep(20000);
    change_file(paths[1], 5000, false);
    change_file(paths[2], 5000, true);
    unlink(paths[3]);
    start_daemon(&d, tiny_model(), settings);
    t = connect_talker(&d);
    for (int i = 0; i < 4; i++) {
        m = rebuild_msg(ids[i]);
        must(t, &m, &reply);
        char name[20];
        snprintf(name, sizeof name, "changed%d.mp4", i);
        expect_said(&reply.ok, name, why[i]);
        assert_false(says(&reply.ok, name, "were shown again"));
        ic_wire_msg_fini(&reply);
        free(ask(t, ids[i], "Two?", TOKENS).text);
    }
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* --- damage, and others -------------------------------------------------------------------------
 */

/* A damaged frame is said, and the others are shown; the full check names it before. */
static void a_damaged_frame_is_said(void **state)
{
    (void)state;
    daemon_process d;
    char id[64];
    ic_wire_msg m, reply;
    prepare(&d, "damage");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    live_through(t, id);
    disconnect_talker(&t);
    stop_daemon(&d);
    run_sql(&d, "UPDATE frame SET bulk = zeroblob(length(bulk)) WHERE number = (SELECT min(number) "
                "+ 5 FROM frame)");
    start_daemon(&d, tiny_model(), NULL);
    t = connect_talker(&d);
    free(ask(t, id, "Does it matter?", TOKENS).text); /* its memory is sound */
    suspend(t, id);
    disconnect_talker(&t);
    stop_daemon(&d);
    lose_memory(&d, id);
    start_daemon(&d, tiny_model(), NULL);
    t = connect_talker(&d);
    m = rebuild_msg(id);
    must(t, &m, &reply);
    expect_said(&reply.ok, "source 1 (", "were shown again");
    expect_said(&reply.ok, "source 1 (", "1 frames could not be shown again: their records");
    assert_false(says(&reply.ok, "source 2 (", "could not"));
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t);
    stop_daemon(&d);
}

static void watch_fast(talker *t, const char *id, double fps)
{
    ic_wire_msg m, reply;
    char path[300];
    snprintf(path, sizeof path, "%s/fast.mp4", ic_test_dir());
    copy_film(path);
    ic_wire_msg_init(&m, IC_WIRE_MEDIA);
    ic_wire_put(&m.media, media, session, id);
    ic_wire_put(&m.media, media, kind, IC_WIRE_KIND_PATH);
    ic_wire_put(&m.media, media, source, path);
    ic_wire_put(&m.media, media, fps, fps);
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    if (!next_event(t, id, IC_WIRE_EVENT_MEDIA_END, &m, 5 * REPLY_S * 1000))
        fail_msg("the source does not end");
    ic_wire_msg_fini(&m);
}

/* While a long memory is made again another session is answered; it can be given up, and then all
 * is as it was, whatever had gone in already; so it is when the server stops, or is killed. */
static void a_rebuild_can_be_given_up(void **state)
{
    (void)state;
    daemon_process d;
    char id[64], other[64], roots[300];
    ic_wire_msg m, reply;
    snprintf(roots, sizeof roots, "media.roots=%s", ic_test_dir());
    const char *const settings[] = {roots, NULL};
    prepare(&d, "given_up");
    start_daemon(&d, demo_model(), settings);
    talker *t = connect_talker(&d), *u = connect_talker(&d);
    new_session(t, other);
    free(ask(t, other, "What do you see?", TOKENS).text);
    new_session(t, id);
    watch_fast(t, id, 20);
    free(ask(t, id, "What do you see?", TOKENS).text);
    suspend(t, id);
    disconnect_talker(&t);
    disconnect_talker(&u);
    stop_daemon(&d);
    lose_memory(&d, id);
    char sql[120];
    snprintf(sql, sizeof sql, "SELECT checkpoint FROM session WHERE id = '%s'", id);
    int64_t checkpoint = read_number(&d, sql);
    start_daemon(&d, demo_model(), settings);
    t = connect_talker(&d);
    u = connect_talker(&d);
    m = rebuild_msg(id);
    ic_wire_msg_set_re(&m, ++t->re);
    send_msg(t, &m, NULL, 0);
    usleep(300000);
    answer a = ask(u, other, "And now?", TOKENS);
    free(a.text);
    assert_false(receive(t, &reply, 10)); /* it has not ended yet */
    suspend(u, id);
    await_verb(t, IC_WIRE_ERROR, &reply);
    assert_string_equal(reply.error.code, "BUSY");
    assert_non_null(strstr(reply.error.message, "as it was before"));
    ic_wire_msg_fini(&reply);
    ic_wire_msg_init(&m, IC_WIRE_RESUME);
    ic_wire_put(&m.resume, resume, session, id);
    must_fail(u, &m, "MISMATCH"); /* nothing was made of it, and nobody wishes it any more */
    for (int i = 0; i < 2; i++) {
        m = rebuild_msg(id);
        ic_wire_msg_set_re(&m, ++t->re);
        send_msg(t, &m, NULL, 0);
        usleep(300000);
        disconnect_talker(&t);
        disconnect_talker(&u);
        if (i)
            kill(d.pid, SIGKILL), wait_daemon(&d);
        else
            stop_daemon(&d);
        assert_int_equal(read_number(&d, sql), checkpoint);
        start_daemon(&d, demo_model(), settings);
        t = connect_talker(&d);
        u = connect_talker(&d);
    }
    m = rebuild_msg(id);
    ic_wire_msg_set_re(&m, ++t->re);
    send_msg(t, &m, NULL, 0);
    usleep(300000);
    simple(u, IC_WIRE_RM, id, &reply);
    ic_wire_msg_fini(&reply);
    await_verb(t, IC_WIRE_ERROR, &reply);
    assert_string_equal(reply.error.code, "NOTFOUND");
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t);
    disconnect_talker(&u);
    stop_daemon(&d);
    assert_int_equal(read_number(&d, "SELECT count(*) FROM frame"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_films_are_seen_again),
        cmocka_unit_test(kept_films_move_with_their_session),
        cmocka_unit_test(what_is_not_kept_is_said),
        cmocka_unit_test(the_bound_takes_the_oldest),
        cmocka_unit_test(what_is_refused_is_not_shown),
        cmocka_unit_test(a_long_answer_goes_in_whole),
        cmocka_unit_test(numbers_of_turns_are_not_used_again),
        cmocka_unit_test(a_file_is_read_again),
        cmocka_unit_test(a_changed_file_is_refused),
        cmocka_unit_test(a_damaged_frame_is_said),
        cmocka_unit_test(a_rebuild_can_be_given_up),
    };
    return IC_DAEMON_RUN(tests);
}
