/* session_store: stores of every former format are opened, brought forward, and hold what they
 * held. The fixtures tests/data/store/v<N>.db were made by the build of format N, with
 * `test_store_migration --make FILE`; they are never made again. IC_NEEDS_SERVER */
#include "ic_test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sqlite3.h>

#include "base/ic_mem.h"
#include "session_store/ic_store.h"

enum {
    SEGMENTS = 3,
    SEGMENT_BYTES = 3000,
    TURNS = 4,
    RECORDS = 7,
    COVERED = 4,
    EVENTS = 5,
    FRAMES = 3 /* from format 4 on */
};

static ic_error e;

/* --- what a fixture holds: a pure function of its numbers ----------------------------------------
 */

static const uint8_t *pattern(int seed, size_t size)
{
    static uint8_t bytes[SEGMENT_BYTES];
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(seed * 31 + (int)(i * 7) + (int)(i >> 8));
    return bytes;
}

static void key_of(int n, uint8_t key[IC_STORE_KEY_BYTES])
{
    memset(key, 0x40 + n, IC_STORE_KEY_BYTES);
}

static void make_records(ic_store *s, const char *id)
{
    uint8_t key[IC_STORE_KEY_BYTES];
    char text[40];
    key_of(1, key);
    for (int i = 1; i <= RECORDS; i++) {
        int size = snprintf(text, sizeof text, "record %d", i);
        ic_assert_ok(ic_store_journal_append(s, id, (uint32_t)i, 100 + i, i == 6 ? key : NULL, text,
                                             (size_t)size, NULL, &e),
                     &e);
    }
    for (int i = 1; i <= EVENTS; i++) {
        int size = snprintf(text, sizeof text, "event %d", i);
        ic_assert_ok(ic_store_event_append(s, id, 3, 200 + i, text, (size_t)size, NULL, &e), &e);
    }
    for (int i = 1; i <= TURNS; i++) {
        int size = snprintf(text, sizeof text, "turn %d, \xc3\xa9", i);
        ic_store_turn turn = {.time_us = 300 + i,
                              .role = i % 2 ? IC_STORE_USER : IC_STORE_ASSISTANT,
                              .tokens = i,
                              .text = text,
                              .text_bytes = (size_t)size,
                              .parts_version = 1,
                              .parts = "parts",
                              .parts_bytes = 5};
        ic_assert_ok(ic_store_turn_append(s, id, &turn, NULL, &e), &e);
    }
}

/* They follow the records: one for a replay, then two that are kept. */
static void make_frames(ic_store *s, const char *id)
{
    for (int i = 1; i <= FRAMES; i++) {
        ic_store_frame f = {.kind = 70,
                            .time_us = 600 + i,
                            .media = 1,
                            .hold = i == 1 ? IC_STORE_HOLD_REPLAY : IC_STORE_HOLD_KEEP,
                            .head = "head",
                            .head_bytes = 4,
                            .bulk = pattern(60 + i, 2000),
                            .bulk_bytes = 2000};
        ic_assert_ok(ic_store_frame_append(s, id, &f, NULL, &e), &e);
    }
}

static void make_media(ic_store *s, const char *id)
{
    int64_t number;
    ic_store_media media = {.kind = 1,
                            .state = 1,
                            .name = "clip.mp4",
                            .bytes = 5000,
                            .hash = {9, 8, 7},
                            .hash_bytes = 3,
                            .fps = 2.5,
                            .frames_seen = 10,
                            .frames_used = 8,
                            .frames_skipped = 1,
                            .notices = "one\ntwo",
                            .times = "tttt",
                            .times_bytes = 4};
    ic_assert_ok(ic_store_media_put(s, id, &media, &number, &e), &e);
    for (int i = 0; i < 2; i++)
        ic_assert_ok(ic_store_media_append(s, id, number, pattern(50 + i, 2500), 2500, &e), &e);
}

static void make_checkpoint(ic_store *s, const char *id)
{
    ic_store_writer *w = NULL;
    ic_store_segment g[SEGMENTS];
    ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    for (int i = 0; i < SEGMENTS; i++)
        ic_assert_ok(ic_store_checkpoint_segment(w, (uint32_t)(i + 1), pattern(i, SEGMENT_BYTES),
                                                 SEGMENT_BYTES, &g[i], &e),
                     &e);
    ic_store_manifest m = {.payload_version = 7,
                           .meaning = "meaning",
                           .meaning_bytes = 7,
                           .numerics = "cpu",
                           .time_us = 400,
                           .journal_seq = COVERED,
                           .live_bytes = 8000,
                           .state = "the state",
                           .state_bytes = 9,
                           .segments = g,
                           .segment_count = SEGMENTS};
    ic_assert_ok(ic_store_checkpoint_finish(&w, &m, &e), &e);
}

static void make_requests(ic_store *s, const char *id)
{
    uint8_t key[IC_STORE_KEY_BYTES];
    ic_store_verdict verdict;
    for (int i = 1; i <= 2; i++) {
        key_of(i, key);
        ic_assert_ok(ic_store_request_admit(s, key, key, 4, id, 500, &verdict, NULL, &e), &e);
    }
    key_of(1, key);
    ic_assert_ok(ic_store_request_update(s, key, IC_STORE_DONE, id, 2, 3, "result", 6, &e), &e);
}

/* A parent with everything and a mark, a fork of it, and room where a third session was. */
static int make_fixture(const char *path)
{
    ic_store *s = NULL;
    char id[IC_STORE_ID_CHARS + 1], other[IC_STORE_ID_CHARS + 1];
    ic_store_counters counters = {.turns = 2, .media = 1, .frames = 8, .tokens = 99, .evicted = 3};
    ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = path}, &e), &e);
    ic_assert_ok(ic_store_session_create(s, "local", "the parent", 1000, 1, "config", 6, id, &e),
                 &e);
    make_records(s, id);
    make_frames(s, id);
    make_media(s, id);
    make_checkpoint(s, id);
    make_requests(s, id);
    ic_assert_ok(ic_store_session_touch(s, id, 2000, &counters, &e), &e);
    ic_assert_ok(ic_store_session_fork(s, id, NULL, "the fork", 3000, other, &e), &e);
    ic_assert_ok(ic_store_mark_add(s, id, "here", 2, 3500, other, &e), &e);
    ic_assert_ok(ic_store_session_create(s, "local", "gone", 4000, 1, "", 0, other, &e), &e);
    ic_assert_ok(ic_store_session_delete(s, other, &e), &e);
    ic_assert_ok(ic_store_shrink(s, &e), &e);
    ic_store_close(&s);
    return 0;
}

/* --- what must be found ------------------------------------------------------------------------
 */

static int check_record(void *arg, const ic_store_record *r)
{
    char text[40];
    int size = snprintf(text, sizeof text, "record %d", (int)r->number);
    assert_int_equal(r->number, COVERED + ++*(int *)arg);
    if (r->number > RECORDS) {
        assert_int_equal(r->kind, 70);
        assert_memory_equal(r->bytes, "head", r->size);
        assert_memory_equal(r->bulk, pattern(60 + (int)r->number - RECORDS, 2000), r->bulk_size);
        return 0;
    }
    assert_int_equal(r->kind, r->number);
    assert_int_equal(r->size, size);
    assert_memory_equal(r->bytes, text, (size_t)size);
    assert_int_equal(r->key != NULL, r->number == 6);
    return 0;
}

static int check_event(void *arg, const ic_store_record *r)
{
    char text[40];
    int size = snprintf(text, sizeof text, "event %d", (int)r->number);
    assert_int_equal(r->number, ++*(int *)arg);
    assert_int_equal(r->size, size);
    assert_memory_equal(r->bytes, text, (size_t)size);
    return 0;
}

static int check_turn(void *arg, const ic_store_turn *t)
{
    char text[40];
    int size = snprintf(text, sizeof text, "turn %d, \xc3\xa9", (int)t->number);
    assert_int_equal(t->number, ++*(int *)arg);
    assert_int_equal(t->role, t->number % 2 ? IC_STORE_USER : IC_STORE_ASSISTANT);
    assert_int_equal(t->text_bytes, size);
    assert_memory_equal(t->text, text, (size_t)size);
    assert_int_equal(t->parts_bytes, 5);
    return 0;
}

static int check_media(void *arg, const ic_store_media *m)
{
    ++*(int *)arg;
    assert_string_equal(m->name, "clip.mp4");
    assert_int_equal(m->frames_used, 8);
    assert_int_equal(m->stored_bytes, 5000);
    assert_int_equal(m->pieces, 2);
    return 0;
}

static void check_checkpoint(ic_store *s, const char *id)
{
    ic_store_reader *r = NULL;
    uint8_t bytes[SEGMENT_BYTES];
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    const ic_store_manifest *m = ic_store_checkpoint_manifest(r);
    assert_int_equal(m->journal_seq, COVERED);
    assert_int_equal(m->segment_count, SEGMENTS);
    assert_int_equal(m->state_bytes, 9);
    assert_memory_equal(m->state, "the state", 9);
    assert_string_equal(m->numerics, "cpu");
    for (int i = 0; i < SEGMENTS; i++) {
        ic_assert_ok(ic_store_checkpoint_read(r, (size_t)i, bytes, &e), &e);
        assert_memory_equal(bytes, pattern(i, SEGMENT_BYTES), SEGMENT_BYTES);
    }
    ic_store_checkpoint_close(&r);
}

static int check_frame(void *arg, const ic_store_frame *f)
{
    int i = ++*(int *)arg;
    assert_int_equal(f->number, RECORDS + i);
    assert_int_equal(f->media, 1);
    assert_int_equal(f->hold, i == 1 ? IC_STORE_HOLD_REPLAY : IC_STORE_HOLD_KEEP);
    assert_int_equal(f->bulk_bytes, 2000);
    assert_memory_equal(f->bulk, pattern(60 + i, 2000), 2000);
    return 0;
}

static void check_session(ic_store *s, const ic_store_session *session, int made_as)
{
    int frames = 0, frames_then = made_as >= 4 ? FRAMES : 0;
    ic_assert_ok(ic_store_frame_read(s, session->id, 0, check_frame, &frames, &e), &e);
    assert_int_equal(frames, frames_then);
    int records = 0, turns = 0, medias = 0;
    uint32_t version;
    ic_buf bytes = {0};
    ic_assert_ok(ic_store_session_config(s, session->id, &version, &bytes, &e), &e);
    assert_int_equal(version, 1);
    assert_int_equal(bytes.size, 6);
    assert_memory_equal(bytes.data, "config", 6);
    assert_int_equal(session->counters.tokens, 99);
    ic_assert_ok(ic_store_journal_read(s, session->id, 0, check_record, &records, &e), &e);
    assert_int_equal(records, RECORDS - COVERED + frames_then);
    ic_assert_ok(ic_store_turn_read(s, session->id, 1, check_turn, &turns, &e), &e);
    assert_int_equal(turns, TURNS);
    ic_assert_ok(ic_store_media_list(s, session->id, 0, check_media, &medias, &e), &e);
    assert_int_equal(medias, 1);
    ic_buf_clear(&bytes);
    ic_assert_ok(ic_store_media_read(s, session->id, 1, 1, &bytes, &e), &e);
    assert_memory_equal(bytes.data, pattern(51, 2500), 2500);
    ic_buf_fini(&bytes);
    check_checkpoint(s, session->id);
}

static void check_requests(ic_store *s, const char *id)
{
    uint8_t key[IC_STORE_KEY_BYTES];
    ic_store_verdict verdict;
    ic_store_request known;
    key_of(1, key);
    ic_assert_ok(ic_store_request_find(s, key, key, &verdict, &known, &e), &e);
    assert_int_equal(verdict, IC_STORE_SAME);
    assert_int_equal(known.state, IC_STORE_DONE);
    assert_string_equal(known.session, id);
    assert_int_equal(known.result_bytes, 6);
    key_of(2, key);
    ic_assert_ok(ic_store_request_find(s, key, key, &verdict, &known, &e), &e);
    assert_int_equal(known.state, IC_STORE_PENDING);
}

typedef struct found {
    ic_store_session parent, fork;
    int count;
} found;

static int note_session(void *arg, const ic_store_session *session)
{
    found *f = arg;
    f->count++;
    *(strcmp(session->title, "the parent") == 0 ? &f->parent : &f->fork) = *session;
    return 0;
}

static int check_mark(void *arg, const ic_store_mark *m)
{
    ++*(int *)arg;
    assert_string_equal(m->name, "here");
    assert_int_equal(m->turn, 2);
    return 0;
}

static void check_store(ic_store *s, int made_as)
{
    int marks = 0;
    found f = {.count = 0};
    int events = 0;
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_assert_ok(ic_store_session_list(s, "local", note_session, &f, &e), &e);
    assert_int_equal(f.count, 2);
    assert_string_equal(f.fork.title, "the fork");
    check_session(s, &f.parent, made_as);
    check_session(s, &f.fork, made_as);
    ic_assert_ok(ic_store_event_read(s, f.parent.id, 0, check_event, &events, &e), &e);
    assert_int_equal(events, EVENTS);
    check_requests(s, f.parent.id);
    ic_assert_ok(ic_store_mark_list(s, f.parent.id, check_mark, &marks, &e), &e);
    assert_int_equal(marks, made_as >= 2); /* format 1 had none */
}

static void copy_file(const char *from, const char *to)
{
    static uint8_t bytes[1 << 16];
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(in >= 0 && out >= 0);
    for (ssize_t n; (n = read(in, bytes, sizeof bytes)) > 0;)
        assert_int_equal(write(out, bytes, (size_t)n), n);
    close(in);
    close(out);
}

static int64_t format_of(const char *path)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *row = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA user_version", -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    int64_t version = sqlite3_column_int64(row, 0);
    sqlite3_finalize(row);
    sqlite3_close(db);
    return version;
}

/* Ensures that a store of every former format opens, holds all it held, is of today's format from
 * then on, can be written to, and opens again. */
static void test_former_formats(void **state)
{
    (void)state;
    for (int version = 1; version <= IC_STORE_FORMAT; version++) {
        char fixture[300], path[300], id[IC_STORE_ID_CHARS + 1];
        ic_store *s = NULL;
        snprintf(fixture, sizeof fixture, IC_SOURCE_DIR "/tests/data/store/v%d.db", version);
        snprintf(path, sizeof path, "%s/v%d.db", ic_test_dir(), version);
        copy_file(fixture, path);
        assert_int_equal(format_of(path), version);
        ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = path}, &e), &e);
        check_store(s, version);
        ic_assert_ok(ic_store_session_create(s, "local", "the fork", 1, 1, "", 0, id, &e), &e);
        ic_assert_ok(ic_store_session_delete(s, id, &e), &e);
        ic_store_close(&s);
        assert_int_equal(format_of(path), IC_STORE_FORMAT);
        ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = path}, &e), &e);
        check_store(s, version);
        ic_store_close(&s);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_former_formats)};
    if (argc == 3 && strcmp(argv[1], "--make") == 0)
        return make_fixture(argv[2]);
    return IC_TEST_RUN(tests);
}
