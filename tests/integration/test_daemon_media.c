/* The daemon and real media: uploads, server paths, refusals, questions meanwhile, restarts. Clips
 * come from the folder of test data where it is there. IC_NEEDS_SERVER */
#include <dirent.h>

#include "ic_daemon.h"

/* A clip of the test data; NULL (with a printed reason) when the folder is not there. */
static const char *clip(const char *name)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/video/%s", IC_TEST_DATA, name);
    if (access(path, R_OK) == 0)
        return path;
    print_message("skipped: %s is not there\n", path);
    return NULL;
}

/* A setting: the server may read clips by their paths. */
static const char *clip_roots(void)
{
    static char text[700];
    snprintf(text, sizeof text, "media.roots=%s/video/clips", IC_TEST_DATA);
    return text;
}

static ic_wire_msg media_msg(const char *id, int kind, const char *source)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_MEDIA);
    ic_wire_put(&m.media, media, session, id);
    ic_wire_put(&m.media, media, kind, kind);
    if (source)
        ic_wire_put(&m.media, media, source, source);
    return m;
}

/* An uploaded clip is seen, a question about it counts its frames, and after a restart the session
 * goes on with what it saw, token for token as one that was never interrupted. */
static void a_clip_is_seen_and_remembered(void **state)
{
    (void)state;
    const char *path = clip("clips/asl_yes.mkv");
    if (!path)
        skip();
    daemon_process d;
    prepare(&d, "seen");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char whole[64], broken[64], code[40];
    new_session(t, whole);
    uint64_t seen = upload(t, whole, path, code);
    assert_string_equal(code, "");
    assert_true(seen >= 4 && seen <= 6); /* 2.2 s at 2 a second */
    answer a1 = ask(t, whole, "What is it?", 30), a2 = ask(t, whole, "And then?", 30);
    assert_int_equal(a1.usage.frames_seen, seen);
    assert_int_equal(a2.usage.frames_seen, 0);
    new_session(t, broken);
    assert_int_equal(upload(t, broken, path, code), seen);
    restart_daemon(&d, &t, NULL);
    answer b1 = ask(t, broken, "What is it?", 30);
    restart_daemon(&d, &t, NULL);
    answer b2 = ask(t, broken, "And then?", 30);
    assert_string_equal(b1.text, a1.text);
    assert_string_equal(b2.text, a2.text);
    assert_int_equal(b1.usage.frames_seen, seen);
    free(a1.text);
    free(a2.text);
    free(b1.text);
    free(b2.text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* Killed after a clip went in, without any checkpoint of it: the journal's frames are computed
 * again, and the answer is the same. */
static void frames_survive_a_crash(void **state)
{
    (void)state;
    const char *path = clip("clips/asl_no.mkv");
    if (!path)
        skip();
    daemon_process d;
    prepare(&d, "frames");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    char whole[64], broken[64], code[40];
    new_session(t, whole);
    upload(t, whole, path, code);
    answer a = ask(t, whole, "What is it?", 30);
    new_session(t, broken);
    upload(t, broken, path, code);
    crash_daemon(&d, &t, NULL);
    answer b = ask(t, broken, "What is it?", 30);
    assert_string_equal(a.text, b.text);
    assert_true(b.usage.recomputed_tokens > 0);
    free(a.text);
    free(b.text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A question in the middle of a long source is answered with what was accepted until then, and the
 * source goes on afterwards to its end. */
static void a_question_during_ingest(void **state)
{
    (void)state;
    const char *path = clip("clips/bbb_720p_30s_vp8_vorbis.webm");
    if (!path)
        skip();
    const char *const settings[] = {clip_roots(), "media.fps=4", NULL};
    daemon_process d;
    prepare(&d, "during");
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    char id[64];
    new_session(t, id);
    ic_wire_msg m = media_msg(id, IC_WIRE_KIND_PATH, path), reply;
    must(t, &m, &reply);
    assert_int_equal(reply.ok.media, 1);
    ic_wire_msg_fini(&reply);
    m = media_msg(id, IC_WIRE_KIND_PATH, path);
    must_fail(t, &m, "BUSY");
    assert_true(next_event(t, id, IC_WIRE_EVENT_MEDIA_BEGIN, &m, 20000));
    assert_int_equal(m.event.media.width, 1280);
    ic_wire_msg_fini(&m);
    uint64_t turn = begin_ask(t, id, "So far?", 20);
    answer a = read_answer(t, id, turn);
    assert_true(a.usage.frames_seen < 120);
    free(a.text);
    assert_true(next_event(t, id, IC_WIRE_EVENT_MEDIA_END, &m, 60000));
    assert_false(ic_wire_has(&m.event, event, code));
    assert_int_equal(m.event.media.frames_seen, 120);
    ic_wire_msg_fini(&m);
    answer b = ask(t, id, "And now?", 20);
    assert_int_equal(a.usage.frames_seen + b.usage.frames_seen, 120);
    free(b.text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* However far a source could run ahead while an answer goes on, a question that is asked then
 * stands behind at most 32 of its frames and the one that was on its way; the file is slowed, and
 * nothing of it is lost. */
static void a_question_waits_for_few_frames(void **state)
{
    (void)state;
    const char *path = clip("clips/h265_128px_10fps.mp4");
    if (!path)
        skip();
    const char *const settings[] = {clip_roots(), "media.fps=100",
                                    "session.max_answer_tokens=100000", NULL};
    daemon_process d;
    prepare(&d, "few");
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    char id[64];
    new_session(t, id);
    uint64_t first = begin_ask(t, id, "Count to a million.", 90000);
    ic_wire_msg m = media_msg(id, IC_WIRE_KIND_PATH, path), reply;
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    assert_true(next_event(t, id, IC_WIRE_EVENT_MEDIA_BEGIN, &m, 20000));
    ic_wire_msg_fini(&m);
    usleep(500000); /* time to run ahead, if it may */
    m = ask_msg(id, "What is it?", 5);
    ic_wire_put(&m.ask, ask, if_busy, IC_WIRE_IF_BUSY_QUEUE);
    must(t, &m, &reply);
    uint64_t second = reply.ok.turn;
    ic_wire_msg_fini(&reply);
    ic_wire_msg_init(&m, IC_WIRE_CANCEL);
    ic_wire_put(&m.cancel, cancel, session, id);
    ic_wire_put(&m.cancel, cancel, turn, first);
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    answer a = read_answer(t, id, second);
    assert_true(a.usage.frames_seen <= 33);
    free(a.text);
    assert_true(next_event(t, id, IC_WIRE_EVENT_MEDIA_END, &m, 60000));
    assert_int_equal(m.event.media.frames_skipped, 0);
    assert_int_equal(m.event.media.frames_seen, 100);
    ic_wire_msg_fini(&m);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* Stopping a source, and stopping the server while one is read: what was seen stays, the end is
 * told. */
static void sources_are_stopped(void **state)
{
    (void)state;
    const char *path = clip("clips/bbb_720p_30s_vp8_vorbis.webm");
    if (!path)
        skip();
    const char *const settings[] = {clip_roots(), "media.fps=10", NULL};
    daemon_process d;
    prepare(&d, "stopped");
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    char id[64];
    new_session(t, id);
    ic_wire_msg m = media_msg(id, IC_WIRE_KIND_PATH, path), reply;
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    ic_wire_msg_init(&m, IC_WIRE_MEDIA_STOP);
    ic_wire_put(&m.media_stop, media_stop, session, id);
    must(t, &m, &reply);
    assert_int_equal(reply.ok.media, 1);
    ic_wire_msg_fini(&reply);
    assert_true(next_event(t, id, IC_WIRE_EVENT_MEDIA_END, &m, 20000));
    assert_true(m.event.media.frames_seen < 300);
    ic_wire_msg_fini(&m);
    m = media_msg(id, IC_WIRE_KIND_PATH, path);
    must(t, &m, &reply);
    assert_int_equal(reply.ok.media, 2);
    ic_wire_msg_fini(&reply);
    stop_daemon(&d); /* while the source is read, and followed */
    disconnect_talker(&t);
    start_daemon(&d, tiny_model(), settings);
    t = connect_talker(&d);
    simple(t, IC_WIRE_SHOW, id, &reply);
    assert_int_equal(reply.ok.medias.count, 2);
    assert_true(reply.ok.medias.items[1].done);
    ic_wire_msg_fini(&reply);
    free(ask(t, id, "What was it?", 10).text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* What may not or cannot be watched is refused with the right code, and the session goes on. */
static void wrong_media_are_refused(void **state)
{
    (void)state;
    char outside[300], junk[300], root[300], code[40];
    snprintf(root, sizeof root, "media.roots=%s", ic_test_dir());
    snprintf(junk, sizeof junk, "%s/junk.mp4", ic_test_dir());
    snprintf(outside, sizeof outside, "/etc/hostname");
    FILE *f = fopen(junk, "w");
    for (int i = 0; i < 100000; i++)
        fputc(i * 7919 >> 3 & 255, f);
    fclose(f);
    const char *const settings[] = {root, NULL};
    daemon_process d;
    prepare(&d, "wrong");
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    char id[64];
    new_session(t, id);
    ic_wire_msg m = media_msg(id, IC_WIRE_KIND_URL, "http://127.0.0.1:1/x.mp4");
    must_fail(t, &m, "FORBIDDEN");
    m = media_msg(id, IC_WIRE_KIND_CAMERA, "/dev/video0");
    must_fail(t, &m, "FORBIDDEN");
    m = media_msg(id, IC_WIRE_KIND_PATH, junk);
    must_fail(t, &m, "MEDIA");
    char missing[320];
    snprintf(missing, sizeof missing, "%s/missing.mp4", ic_test_dir());
    m = media_msg(id, IC_WIRE_KIND_PATH, missing);
    must_fail(t, &m, "NOTFOUND");
    m = media_msg(id, IC_WIRE_KIND_PATH, outside);
    ic_wire_msg reply;
    request(t, &m, &reply);
    assert_int_equal(reply.verb,
                     IC_WIRE_ERROR); /* whether it exists is not told apart from forbidden */
    ic_wire_msg_fini(&reply);
    upload(t, id, junk, code);
    assert_string_equal(code, "MEDIA");
    ic_wire_msg_init(&m, IC_WIRE_DATA);
    ic_wire_put(&m.data, data, session, id);
    ic_wire_put(&m.data, data, media, 77);
    ic_wire_put(&m.data, data, offset, 0);
    send_msg(t, &m, "x", 1);
    await_verb(t, IC_WIRE_ERROR, &reply);
    assert_string_equal(reply.error.code, "NOTFOUND");
    ic_wire_msg_fini(&reply);
    free(ask(t, id, "Still there?", 10).text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A store that is full ends the source with a clear error to its client; what was stored before
 * stands, and the session comes back with it. */
static void a_full_store_is_told(void **state)
{
    (void)state;
    const char *path = clip("clips/bbb_720p_30s_vp8_vorbis.webm");
    if (!path)
        skip();
    const char *const settings[] = {clip_roots(), "media.fps=24", "store.limit_bytes=8M", NULL};
    daemon_process d;
    prepare(&d, "full");
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    char id[64];
    new_session(t, id);
    ic_wire_msg m = media_msg(id, IC_WIRE_KIND_PATH, path), reply;
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    await_verb(t, IC_WIRE_ERROR, &reply);
    assert_string_equal(reply.error.code, "LIMIT");
    assert_string_equal(reply.error.session, id);
    ic_wire_msg_fini(&reply);
    bool failed = false;
    for (int i = 0; i < 100 && !failed; i++) { /* it lets go of its cache first */
        simple(t, IC_WIRE_SHOW, id, &reply);
        failed = reply.ok.state == IC_WIRE_STATE_FAILED;
        assert_true(!failed || strlen(reply.ok.info.reason) > 0);
        ic_wire_msg_fini(&reply);
        usleep(50000);
    }
    assert_true(failed);
    simple(t, IC_WIRE_RESUME, id, &reply);
    assert_int_equal(reply.ok.state, IC_WIRE_STATE_IDLE);
    assert_true(reply.ok.recomputed_tokens > 0);
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* Every real clip goes through ingest: it is seen, or refused with a reason; the server outlives
 * them all. */
static void every_real_clip_goes_through(void **state)
{
    (void)state;
    static const char *const folders[] = {"clips", "damaged", "derived"};
    daemon_process d;
    char path[1000], folder[600], id[64], code[40];
    int seen = 0, refused = 0;
    if (!clip("clips"))
        skip();
    prepare(&d, "clips");
    static const char *const settings[] = {"media.frame_tokens=16", NULL};
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    new_session(t, id);
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(folder, sizeof folder, "%s/video/%s", IC_TEST_DATA, folders[i]);
        DIR *dir = opendir(folder);
        struct dirent *entry;
        struct stat info;
        while (dir && (entry = readdir(dir))) {
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
            if (stat(path, &info) || !S_ISREG(info.st_mode) || strstr(path, ".md")
                || strstr(path, ".txt"))
                continue;
            uint64_t frames = upload(t, id, path, code);
            seen += frames > 0;
            refused += code[0] != '\0';
            assert_true(frames > 0 || code[0]);
        }
        if (dir)
            closedir(dir);
    }
    print_message("%d clips seen, %d refused\n", seen, refused);
    assert_true(seen > 0);
    free(ask(t, id, "What was all that?", 10).text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_clip_is_seen_and_remembered),
        cmocka_unit_test(frames_survive_a_crash),
        cmocka_unit_test(a_question_during_ingest),
        cmocka_unit_test(a_question_waits_for_few_frames),
        cmocka_unit_test(sources_are_stopped),
        cmocka_unit_test(wrong_media_are_refused),
        cmocka_unit_test(a_full_store_is_told),
        cmocka_unit_test(every_real_clip_goes_through),
    };
    return IC_DAEMON_RUN(tests);
}
