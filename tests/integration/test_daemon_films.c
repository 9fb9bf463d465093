/* The daemon and films that the test makes itself, picture by picture: what is left out is counted
 * and told, and a source that a crash cuts off is closed with what was seen of it. IC_NEEDS_SERVER
 */
#include "ic_daemon.h"

enum { SIDE = 128, FPS = 8 };

/* --- films -------------------------------------------------------------------------------------
 */

/* A picture of one shade of grey, in YUV4MPEG2: header and pictures can be sent as they come. */
static void add_picture(ic_buf *film, int shade)
{
    if (!film->size) {
        char head[80];
        snprintf(head, sizeof head, "YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C420jpeg\n", SIDE, SIDE, FPS);
        ic_buf_append(film, head, strlen(head));
    }
    static uint8_t grey[SIDE * SIDE * 3 / 2];
    memset(grey, shade, SIDE * SIDE);
    memset(grey + SIDE * SIDE, 128, sizeof grey - SIDE * SIDE);
    ic_buf_append(film, "FRAME\n", 6);
    assert_int_equal(ic_buf_append(film, grey, sizeof grey), IC_OK);
}

/* Pairs of pictures, each pair shown `times` times over. */
static void make_film(ic_buf *film, int pairs, int times)
{
    for (int i = 0; i < pairs * times * 2; i++)
        add_picture(film, 16 + i / (2 * times) * 40 % 200);
}

typedef struct feed {
    char id[64];
    uint64_t media, at, until;
} feed;

static void begin_feed(talker *t, feed *f, bool live)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_MEDIA);
    ic_wire_put(&m.media, media, session, f->id);
    ic_wire_put(&m.media, media, kind, IC_WIRE_KIND_UPLOAD);
    ic_wire_put(&m.media, media, name, "film.y4m");
    ic_wire_put(&m.media, media, fps, FPS);
    ic_wire_put(&m.media, media, live, live);
    must(t, &m, &reply);
    f->media = reply.ok.media;
    f->until = reply.ok.until;
    f->at = 0;
    ic_wire_msg_fini(&reply);
}

static void wait_grant(talker *t, feed *f)
{
    ic_wire_msg m;
    await_verb(t, IC_WIRE_GRANT, &m);
    if (m.grant.until > f->until)
        f->until = m.grant.until;
    ic_wire_msg_fini(&m);
}

static void send_film(talker *t, feed *f, const ic_buf *film, bool last)
{
    for (size_t at = 0; at < film->size;) {
        size_t want = film->size - at;
        want = want < IC_WIRE_PIECE_MAX ? want : IC_WIRE_PIECE_MAX;
        while (f->at + want > f->until)
            wait_grant(t, f);
        ic_wire_msg m;
        ic_wire_msg_init(&m, IC_WIRE_DATA);
        ic_wire_put(&m.data, data, session, f->id);
        ic_wire_put(&m.data, data, media, f->media);
        ic_wire_put(&m.data, data, offset, f->at);
        ic_wire_put(&m.data, data, last, last && at + want == film->size);
        send_msg(t, &m, film->data + at, want);
        f->at += want;
        at += want;
    }
}

static void next_end(talker *t, const char *id, ic_wire_msg *m)
{
    if (!next_event(t, id, IC_WIRE_EVENT_MEDIA_END, m, REPLY_S * 1000))
        fail_msg("the source does not end");
}

/* What SHOW says of source number `media` must be this. */
static void check_ledger(talker *t, const char *id, uint32_t media, uint64_t seen, uint64_t skipped,
                         uint64_t deduplicated)
{
    ic_wire_msg m;
    simple(t, IC_WIRE_SHOW, id, &m);
    assert_true(m.ok.medias.count >= media);
    const ic_wire_media_info *entry = &m.ok.medias.items[media - 1];
    assert_int_equal(entry->media, media);
    assert_string_equal(entry->name, "film.y4m");
    assert_true(entry->done);
    assert_int_equal(entry->frames_seen, seen);
    assert_int_equal(entry->frames_skipped, skipped);
    assert_int_equal(entry->frames_deduplicated, deduplicated);
    ic_wire_msg_fini(&m);
}

/* --- tests -------------------------------------------------------------------------------------
 */

/* Pairs that show what the pair before them showed are not given to the model; they are counted in
 * the end of the source, in the next answer's usage and in the ledger, and then no more. */
static void still_pictures_are_counted(void **state)
{
    (void)state;
    static const char *const settings[] = {"media.deduplicate=2", NULL};
    daemon_process d;
    prepare(&d, "still");
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    feed f;
    ic_buf film = {0};
    make_film(&film, 5, 3);
    new_session(t, f.id);
    begin_feed(t, &f, false);
    send_film(t, &f, &film, true);
    ic_wire_msg m;
    next_end(t, f.id, &m);
    assert_false(ic_wire_has(&m.event, event, code));
    assert_int_equal(m.event.media.frames_seen, 10);
    assert_int_equal(m.event.media.frames_deduplicated, 20);
    assert_int_equal(m.event.media.frames_skipped, 0);
    ic_wire_msg_fini(&m);
    answer a = ask(t, f.id, "What was it?", 5), b = ask(t, f.id, "And now?", 5);
    assert_int_equal(a.usage.frames_seen, 10);
    assert_int_equal(a.usage.frames_deduplicated, 20);
    assert_int_equal(b.usage.frames_deduplicated, 0);
    check_ledger(t, f.id, 1, 10, 0, 20);
    free(a.text);
    free(b.text);
    ic_buf_fini(&film);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A live source during an answer: it is neither slowed nor kept whole. Returns how many of its 100
 * frames were dropped, having checked that none is lost count of. */
static uint64_t drop_live_frames(talker *t, int wait_ms)
{
    enum { FRAMES = 100 };
    feed f;
    ic_buf film = {0};
    for (int i = 0; i < FRAMES; i++)
        add_picture(&film, 16 + i * 2);
    new_session(t, f.id);
    uint64_t turn = begin_ask(t, f.id, "Count to a million.", 90000);
    begin_feed(t, &f, true);
    send_film(t, &f, &film, true);
    usleep((useconds_t)wait_ms * 1000);
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_CANCEL);
    ic_wire_put(&m.cancel, cancel, session, f.id);
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
    answer a = read_answer(t, f.id, turn);
    assert_int_equal(a.usage.frames_seen, 0);
    next_end(t, f.id, &m);
    assert_false(ic_wire_has(&m.event, event, code));
    uint64_t seen = m.event.media.frames_seen, skipped = m.event.media.frames_skipped;
    assert_int_equal(seen + skipped, FRAMES);
    assert_int_equal(m.event.media.pos_us, (FRAMES - 1) * 1000000 / FPS); /* the newest is seen */
    ic_wire_msg_fini(&m);
    answer b = ask(t, f.id, "What was it?", 5);
    assert_int_equal(b.usage.frames_seen, seen);
    assert_int_equal(a.usage.frames_skipped + b.usage.frames_skipped, skipped);
    check_ledger(t, f.id, 1, seen, skipped, 0);
    free(a.text);
    free(b.text);
    ic_buf_fini(&film);
    return skipped;
}

/* A live source that is faster than its session loses its oldest frames, keeps its newest, and the
 * loss is told. How long it takes until frames are lost is the machine's business. */
static void a_fast_live_source_drops_and_tells(void **state)
{
    (void)state;
    static const char *const settings[] = {"session.max_answer_tokens=100000", NULL};
    daemon_process d;
    prepare(&d, "live");
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    uint64_t dropped = 0;
    for (int wait_ms = 250; !dropped && wait_ms < 20000; wait_ms *= 2)
        dropped = drop_live_frames(t, wait_ms);
    assert_true(dropped > 0);
    assert_int_equal(dropped % 2, 0); /* whole pairs */
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* Waits until as many frames as this are told to be in the model. */
static void wait_progress(talker *t, const char *id, uint64_t seen)
{
    ic_wire_msg m;
    for (uint64_t so_far = 0; so_far < seen;) {
        if (!next_event(t, id, IC_WIRE_EVENT_MEDIA_PROGRESS, &m, REPLY_S * 1000))
            fail_msg("%llu of %llu frames were seen", (unsigned long long)so_far,
                     (unsigned long long)seen);
        so_far = m.event.media.frames_seen;
        ic_wire_msg_fini(&m);
    }
}

static void cut_off(const char *name, int pairs, const char *const *settings, bool checkpointed)
{
    daemon_process d;
    prepare(&d, name);
    start_daemon(&d, tiny_model(), settings);
    talker *t = connect_talker(&d);
    feed f;
    ic_buf film = {0};
    make_film(&film, pairs, 2);
    new_session(t, f.id);
    begin_feed(t, &f, false);
    send_film(t, &f, &film, false);
    uint64_t seen = 2 * (uint64_t)pairs, repeated = seen - 2; /* of the last pair none is known */
    wait_progress(t, f.id, seen);
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_STATUS);
    must(t, &m, &reply);
    assert_true(!checkpointed || reply.ok.status.checkpoints > 0);
    ic_wire_msg_fini(&reply);
    for (int crash = 0; crash < 2; crash++) {
        crash_daemon(&d, &t, settings);
        simple(t, IC_WIRE_RESUME, f.id, &reply);
        ic_wire_msg_fini(&reply);
        attach(t, f.id, 1, 0);
        next_end(t, f.id, &m);
        assert_string_equal(m.event.code, "SHUTDOWN");
        assert_int_equal(m.event.media.media, 1);
        assert_int_equal(m.event.media.frames_seen, seen);
        assert_int_equal(m.event.media.frames_deduplicated, repeated);
        uint64_t pos_us = (2 * seen - 3) * 1000000 / FPS; /* the last pair that was not repeated */
        char from[40];
        snprintf(from, sizeof from, "(from_us %llu,", (unsigned long long)pos_us);
        assert_int_equal(m.event.media.pos_us, pos_us);
        assert_non_null(strstr(m.event.message, from));
        ic_wire_msg_fini(&m);
        check_ledger(t, f.id, 1, seen, 0, repeated);
    }
    answer a = ask(t, f.id, "What was it?", 5);
    assert_int_equal(a.usage.frames_seen, seen);
    assert_int_equal(a.usage.frames_deduplicated, repeated);
    assert_false(next_event(t, f.id, IC_WIRE_EVENT_MEDIA_END, &m, 0)); /* told once */
    free(a.text);
    ic_buf_fini(&film);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* Killed in the middle of a source: its entry in the ledger is closed when the session comes back,
 * with the frames that were seen and left out, and the end says until when it was seen and how to
 * go on; a second crash changes nothing of it. */
static void a_crash_closes_the_source(void **state)
{
    (void)state;
    static const char *const settings[] = {"media.deduplicate=2", NULL};
    cut_off("cut", 6, settings, false);
}

/* The same when a checkpoint has trimmed the journal in the middle of the source. */
static void a_crash_behind_a_checkpoint(void **state)
{
    (void)state;
    static const char *const settings[] = {"media.deduplicate=2", "session.checkpoint_bytes=1M",
                                           NULL};
    cut_off("trim", 50, settings, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(still_pictures_are_counted),
        cmocka_unit_test(a_fast_live_source_drops_and_tells),
        cmocka_unit_test(a_crash_closes_the_source),
        cmocka_unit_test(a_crash_behind_a_checkpoint),
    };
    return IC_DAEMON_RUN(tests);
}
