/* The daemon: marks and forks. What a fork answers is held against sessions that never were
 * forked. IC_NEEDS_SERVER */
#include "ic_daemon.h"

enum { FORKS = 10, TOKENS = 30 };

static const char *const long_answers[] = {"session.max_answer_tokens=100000", NULL};

static void mark(talker *t, const char *id, const char *name)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_MARK);
    ic_wire_put(&m.mark, mark, session, id);
    ic_wire_put(&m.mark, mark, name, name);
    must(t, &m, &reply);
    assert_string_equal(reply.ok.session, id);
    ic_wire_msg_fini(&reply);
}

static ic_wire_msg unmark_msg(const char *id, const char *name)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_UNMARK);
    ic_wire_put(&m.unmark, unmark, session, id);
    ic_wire_put(&m.unmark, unmark, name, name);
    return m;
}

static int turn_count(talker *t, const char *id)
{
    ic_wire_msg m;
    simple(t, IC_WIRE_SHOW, id, &m);
    int count = (int)m.ok.turns.count;
    ic_wire_msg_fini(&m);
    return count;
}

static void remove_session(talker *t, const char *id)
{
    ic_wire_msg m;
    simple(t, IC_WIRE_RM, id, &m);
    ic_wire_msg_fini(&m);
}

/* Ten forks of one session that watched a film each answer a question of their own as the parent
 * would have, by turns from the parent's memory, its disk, and through a restart; the parent does
 * not notice. */
static void ten_forks_answer_as_the_parent_would(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "ten");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char parent[64], forks[FORKS][64], question[FORKS][40], *expected[FORKS];
    for (int i = 0; i < FORKS; i++) {
        char alone[64];
        snprintf(question[i], sizeof question[i], "Question %d of %d?", i * i, FORKS - i);
        new_session(t, alone);
        watch_film(t, alone);
        expected[i] = ask(t, alone, question[i], TOKENS).text;
        remove_session(t, alone);
    }
    new_session(t, parent);
    watch_film(t, parent);
    for (int i = 0; i < FORKS; i++) {
        ic_wire_msg m;
        if (i == FORKS / 2) {
            simple(t, IC_WIRE_SUSPEND, parent, &m);
            ic_wire_msg_fini(&m);
        }
        fork_session(t, parent, NULL, forks[i]);
    }
    for (int i = 0; i < FORKS; i++) {
        if (i == 3) {
            restart_daemon(&d, &t, NULL);
        }
        expect_answer(t, forks[i], question[i], TOKENS, expected[i]);
        assert_int_equal(turn_count(t, forks[i]), 1);
    }
    assert_int_equal(turn_count(t, parent), 0);
    expect_answer(t, parent, question[7], TOKENS, expected[7]);
    ic_wire_msg m;
    simple(t, IC_WIRE_SHOW, forks[1], &m);
    assert_string_equal(m.ok.info.parent, parent);
    assert_int_equal(m.ok.medias.count, 1);
    ic_wire_msg_fini(&m);
    for (int i = 0; i < FORKS; i++)
        free(expected[i]);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A session in mid-answer is forked: the fork stands before that question, without it and the one
 * that waits behind it; the answer runs on to what it would have been. */
static void a_fork_in_mid_answer_leaves_it_out(void **state)
{
    (void)state;
    enum { LONG = 1500 };
    daemon_process d;
    prepare(&d, "mid");
    start_daemon(&d, tiny_model(), long_answers);
    talker *t = connect_talker(&d);
    char alone[64], parent[64], fork_id[64], second[64];
    new_session(t, alone);
    watch_film(t, alone);
    char *first = ask(t, alone, "One?", TOKENS).text;
    char *whole = ask(t, alone, "Tell me all.", LONG).text;
    new_session(t, second);
    watch_film(t, second);
    expect_answer(t, second, "One?", TOKENS, first);
    char *two = ask(t, second, "Two?", TOKENS).text;
    new_session(t, parent);
    watch_film(t, parent);
    expect_answer(t, parent, "One?", TOKENS, first);
    uint64_t turn = begin_ask(t, parent, "Tell me all.", LONG);
    ic_wire_msg m = ask_msg(parent, "And this waits.", 5), reply;
    ic_wire_put(&m.ask, ask, if_busy, IC_WIRE_IF_BUSY_QUEUE);
    must(t, &m, &reply);
    uint64_t queued = reply.ok.turn;
    ic_wire_msg_fini(&reply);
    assert_true(next_event(t, parent, IC_WIRE_EVENT_ANSWER_BEGIN, &m, 20000));
    ic_wire_msg_fini(&m);
    fork_session(t, parent, NULL, fork_id);
    mark(t, parent, "here");
    assert_int_equal(turn_count(t, fork_id), 1);
    expect_answer(t, fork_id, "Two?", TOKENS, two);
    answer a = read_answer(t, parent, turn);
    assert_string_equal(a.text, whole);
    free(a.text);
    a = read_answer(t, parent, queued);
    free(a.text);
    fork_session(t, parent, "here", fork_id);
    expect_answer(t, fork_id, "Two?", TOKENS, two);
    assert_int_equal(turn_count(t, fork_id), 2);
    free(first);
    free(whole);
    free(two);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A source that is being read when the session is forked ends there for the fork, which can be
 * asked at once and goes through a restart; the session reads on to the end. */
static void a_fork_cuts_a_source(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "cut");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char parent[64], fork_id[64], bytes[16 << 10];
    ic_wire_msg m, reply;
    new_session(t, parent);
    int fd = open(demo_film, O_RDONLY);
    ssize_t size = read(fd, bytes, sizeof bytes);
    close(fd);
    assert_true(size > 1000 && size < (ssize_t)sizeof bytes);
    ic_wire_msg_init(&m, IC_WIRE_MEDIA);
    ic_wire_put(&m.media, media, session, parent);
    ic_wire_put(&m.media, media, kind, IC_WIRE_KIND_UPLOAD);
    must(t, &m, &reply);
    uint64_t media = reply.ok.media;
    ic_wire_msg_fini(&reply);
    ic_wire_msg_init(&m, IC_WIRE_DATA);
    ic_wire_put(&m.data, data, session, parent);
    ic_wire_put(&m.data, data, media, media);
    ic_wire_put(&m.data, data, offset, 0);
    send_msg(t, &m, bytes, (size_t)size); /* and not yet `last`: the source stays open */
    assert_true(next_event(t, parent, IC_WIRE_EVENT_MEDIA_BEGIN, &m, 20000));
    ic_wire_msg_fini(&m);
    fork_session(t, parent, NULL, fork_id);
    char *said = ask(t, fork_id, "What?", TOKENS).text;
    simple(t, IC_WIRE_SUSPEND, fork_id, &m);
    ic_wire_msg_fini(&m);
    simple(t, IC_WIRE_SHOW, fork_id, &m);
    assert_true(m.ok.medias.count == 1 && m.ok.medias.items[0].done);
    ic_wire_msg_fini(&m);
    simple(t, IC_WIRE_SHOW, parent, &m);
    assert_true(m.ok.medias.count == 1 && !m.ok.medias.items[0].done);
    ic_wire_msg_fini(&m);
    ic_wire_msg_init(&m, IC_WIRE_DATA);
    ic_wire_put(&m.data, data, session, parent);
    ic_wire_put(&m.data, data, media, media);
    ic_wire_put(&m.data, data, offset, (uint64_t)size);
    ic_wire_put(&m.data, data, last, true);
    send_msg(t, &m, "", 0);
    assert_true(next_event(t, parent, IC_WIRE_EVENT_MEDIA_END, &m, 20000));
    assert_false(ic_wire_has(&m.event, event, code));
    ic_wire_msg_fini(&m);
    restart_daemon(&d, &t, NULL);
    free(ask(t, fork_id, "And?", TOKENS).text);
    attach(t, fork_id, 1, 0);
    assert_false(
        next_event(t, fork_id, IC_WIRE_EVENT_MEDIA_END, &m, 300)); /* it never began here */
    free(said);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A mark outlives what the session does after it: many turns, suspensions, a restart; and what was
 * forked from it outlives session and mark. A key makes one fork, however often it is sent. */
static void a_mark_holds_and_a_fork_outlives_it(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "mark");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char alone[64], parent[64], fork_id[64];
    ic_wire_msg m, reply;
    new_session(t, alone);
    watch_film(t, alone);
    char *one = ask(t, alone, "One?", TOKENS).text, *two = ask(t, alone, "Two?", TOKENS).text;
    new_session(t, parent);
    watch_film(t, parent);
    mark(t, parent, "the film");
    m = unmark_msg(parent, "no such");
    must_fail(t, &m, "NOTFOUND");
    ic_wire_msg_init(&m, IC_WIRE_MARK);
    ic_wire_put(&m.mark, mark, session, parent);
    ic_wire_put(&m.mark, mark, name, "the film");
    must_fail(t, &m, "INVALID");
    for (int i = 0; i < 5; i++) {
        free(ask(t, parent, "Go on.", 200).text);
        simple(t, IC_WIRE_SUSPEND, parent, &m);
        ic_wire_msg_fini(&m);
    }
    restart_daemon(&d, &t, NULL);
    simple(t, IC_WIRE_SHOW, parent, &m);
    assert_int_equal(m.ok.marks.count, 1);
    assert_string_equal(m.ok.marks.items[0].name, "the film");
    assert_int_equal(m.ok.marks.items[0].turn, 0);
    ic_wire_msg_fini(&m);
    ic_wire_id key = random_id();
    for (int i = 0; i < 2; i++) {
        m = fork_msg(parent, "the film");
        ic_wire_put(&m.fork, fork, key, key);
        ic_wire_put(&m.fork, fork, title, "of the film");
        must(t, &m, &reply);
        if (i)
            assert_string_equal(reply.ok.session, fork_id);
        assert_int_equal(ic_wire_get(&reply.ok, ok, repeated, false), i == 1);
        snprintf(fork_id, sizeof fork_id, "%s", reply.ok.session);
        ic_wire_msg_fini(&reply);
    }
    m = fork_msg(parent, NULL);
    ic_wire_put(&m.fork, fork, key, key);
    must_fail(t, &m, "CONFLICT");
    m = fork_msg(parent, "no such");
    must_fail(t, &m, "NOTFOUND");
    expect_answer(t, fork_id, "One?", TOKENS, one);
    m = unmark_msg(parent, "the film");
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    remove_session(t, parent);
    m = fork_msg(parent, "the film"); /* the same key is told again, though the parent is gone */
    ic_wire_put(&m.fork, fork, key, key);
    ic_wire_put(&m.fork, fork, title, "of the film");
    must(t, &m, &reply);
    assert_string_equal(reply.ok.session, fork_id);
    ic_wire_msg_fini(&reply);
    restart_daemon(&d, &t, NULL);
    expect_answer(t, fork_id, "Two?", TOKENS, two);
    simple(t, IC_WIRE_SHOW, fork_id, &m);
    assert_string_equal(m.ok.info.title, "of the film");
    ic_wire_msg_fini(&m);
    free(one);
    free(two);
    disconnect_talker(&t);
    stop_daemon(&d);
}

static uint64_t sampled(talker *t, const char *id, char **text)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_ASK);
    ic_wire_put(&m.ask, ask, session, id);
    ic_wire_put(&m.ask, ask, text, "Anything?");
    must(t, &m, &reply);
    answer a = read_answer(t, id, reply.ok.turn);
    ic_wire_msg_fini(&reply);
    *text = a.text;
    return a.usage.seed;
}

/* A session made with a seed: its forks draw other answers, unless they are told to keep the seed,
 * or which to take. */
static void forks_draw_for_themselves(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "seed");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char parent[64], same[64], other[64], given[64];
    char *texts[4];
    ic_wire_msg m, reply;
    ic_wire_sampling s = {0};
    ic_wire_put(&s, sampling, temperature, 1.0);
    ic_wire_put(&s, sampling, max_tokens, 40);
    ic_wire_put(&s, sampling, seed, 5);
    ic_wire_msg_init(&m, IC_WIRE_NEW);
    ic_wire_put(&m.new, new, sampling, s);
    must(t, &m, &reply);
    snprintf(parent, sizeof parent, "%s", reply.ok.session);
    ic_wire_msg_fini(&reply);
    fork_session(t, parent, NULL, other);
    m = fork_msg(parent, NULL);
    ic_wire_put(&m.fork, fork, same_seed, true);
    must(t, &m, &reply);
    snprintf(same, sizeof same, "%s", reply.ok.session);
    ic_wire_msg_fini(&reply);
    m = fork_msg(parent, NULL);
    ic_wire_put(&m.fork, fork, seed, 77);
    must(t, &m, &reply);
    snprintf(given, sizeof given, "%s", reply.ok.session);
    ic_wire_msg_fini(&reply);
    assert_int_equal(sampled(t, parent, &texts[0]), 5);
    assert_int_equal(sampled(t, same, &texts[1]), 5);
    assert_int_not_equal(sampled(t, other, &texts[2]), 5);
    assert_int_equal(sampled(t, given, &texts[3]), 77);
    assert_string_equal(texts[0], texts[1]);
    assert_string_not_equal(texts[0], texts[2]);
    assert_string_not_equal(texts[0], texts[3]);
    for (int i = 0; i < 4; i++)
        free(texts[i]);
    disconnect_talker(&t);
    stop_daemon(&d);
}

static int64_t store_bytes(const daemon_process *d)
{
    char name[220];
    struct stat info;
    int64_t bytes = 0;
    if (stat(d->store, &info) == 0)
        bytes = info.st_size;
    snprintf(name, sizeof name, "%s-wal", d->store);
    return stat(name, &info) == 0 ? bytes + info.st_size : bytes;
}

/* rm gives the room back to the disk while the server runs: not before the last session that shares
 * it is gone, and then all of it. */
static void rm_gives_the_disk_back(void **state)
{
    (void)state;
    daemon_process d;
    prepare(&d, "room");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char parent[64], fork_id[64];
    ic_wire_msg m;
    sleep(1);
    int64_t empty = store_bytes(&d);
    new_session(t, parent);
    for (int i = 0; i < 3; i++)
        watch_film(t, parent);
    simple(t, IC_WIRE_SUSPEND, parent, &m);
    ic_wire_msg_fini(&m);
    mark(t, parent, "m");
    fork_session(t, parent, NULL, fork_id);
    int64_t full = store_bytes(&d);
    assert_true(full > empty + (1 << 20));
    remove_session(t, parent);
    simple(t, IC_WIRE_RESUME, fork_id, &m); /* still whole */
    ic_wire_msg_fini(&m);
    remove_session(t, fork_id);
    for (int i = 0; i < 100 && store_bytes(&d) > empty + (1 << 19); i++)
        usleep(100000);
    if (store_bytes(&d) > empty + (1 << 19))
        fail_msg("empty %lld, full %lld, now %lld", (long long)empty, (long long)full,
                 (long long)store_bytes(&d));
    disconnect_talker(&t);
    stop_daemon(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_forks_answer_as_the_parent_would),
        cmocka_unit_test(a_fork_in_mid_answer_leaves_it_out),
        cmocka_unit_test(a_fork_cuts_a_source),
        cmocka_unit_test(a_mark_holds_and_a_fork_outlives_it),
        cmocka_unit_test(forks_draw_for_themselves),
        cmocka_unit_test(rm_gives_the_disk_back),
    };
    return IC_DAEMON_RUN(tests);
}
