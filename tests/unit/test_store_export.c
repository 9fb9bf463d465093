/* session_store: exports and imports: whole, damaged, cut, newer. `test_store_export --make FOLDER`
 * writes the fuzz corpus. IC_NEEDS_SERVER */
#include "ic_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/ic_mem.h"
#include "session_store/ic_store_export_priv.h"

enum { TURNS = 5, RECORDS = 6, COVERED = 2, SEGMENTS = 3, SEGMENT_BYTES = 2500, PIECE = 3000 };

static ic_error e;
static char id[IC_STORE_ID_CHARS + 1];

static ic_store *open_store(const char *name)
{
    static char path[300];
    ic_store *s = NULL;
    snprintf(path, sizeof path, "%s/%s.db", ic_test_dir(), name);
    ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = path}, &e), &e);
    return s;
}

static const uint8_t *pattern(int seed, size_t size)
{
    static uint8_t bytes[4096];
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(seed * 37 + (int)(i * 11) + (int)(i >> 8));
    return bytes;
}

static void add_checkpoint(ic_store *s)
{
    ic_store_writer *w = NULL;
    ic_store_segment g[SEGMENTS];
    ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    for (int i = 0; i < SEGMENTS; i++)
        ic_assert_ok(ic_store_checkpoint_segment(w, (uint32_t)i, pattern(i, SEGMENT_BYTES),
                                                 SEGMENT_BYTES, &g[i], &e),
                     &e);
    ic_store_manifest m = {.payload_version = 3,
                           .meaning = "mean",
                           .meaning_bytes = 4,
                           .numerics = "cpu/x",
                           .time_us = 66,
                           .journal_seq = COVERED,
                           .live_bytes = 7000,
                           .state = "state",
                           .state_bytes = 5,
                           .segments = g,
                           .segment_count = SEGMENTS};
    ic_assert_ok(ic_store_checkpoint_finish(&w, &m, &e), &e);
}

/* A session with something of everything. */
static void fill(ic_store *s, bool checkpoint)
{
    ic_store_counters counters = {.turns = 3, .media = 1, .frames = 9, .tokens = 77, .evicted = 5};
    uint8_t key[IC_STORE_KEY_BYTES] = {1, 2, 3};
    int64_t number;
    ic_assert_ok(ic_store_session_create(s, "local", "the film", 1000, 4, "config", 6, id, &e), &e);
    for (int i = 1; i <= TURNS; i++) {
        ic_store_turn t = {.time_us = i,
                           .role = i % 2 ? IC_STORE_USER : IC_STORE_ASSISTANT,
                           .text = "text \xc3\xa9",
                           .text_bytes = 7,
                           .parts = "p",
                           .parts_bytes = (size_t)(i % 2)};
        ic_assert_ok(ic_store_turn_append(s, id, &t, NULL, &e), &e);
    }
    ic_store_media media = {.kind = 2,
                            .state = 1,
                            .name = "clip",
                            .bytes = 2 * PIECE,
                            .hash = {5, 6},
                            .hash_bytes = 2,
                            .fps = 2.5,
                            .frames_seen = 9,
                            .notices = "odd",
                            .times = "tt",
                            .times_bytes = 2};
    for (int i = 0; i < 2; i++) {
        ic_assert_ok(ic_store_media_put(s, id, &media, &number, &e), &e);
        ic_assert_ok(ic_store_media_append(s, id, number, pattern(9 + i, PIECE), PIECE, &e), &e);
        ic_assert_ok(ic_store_media_append(s, id, number, pattern(19, 1), 1, &e), &e);
    }
    for (int i = 1; i <= RECORDS; i++)
        ic_assert_ok(ic_store_journal_append(s, id, (uint32_t)i, i, i == 4 ? key : NULL, "journal",
                                             (size_t)i, NULL, &e),
                     &e);
    ic_assert_ok(ic_store_event_append(s, id, 1, 1, "event", 5, &number, &e), &e);
    if (checkpoint)
        add_checkpoint(s);
    ic_assert_ok(ic_store_session_touch(s, id, 2000, &counters, &e), &e);
}

/* The whole export, read in pieces of at most `piece` bytes. */
static void export_all(ic_store *s, const char *at, size_t piece, ic_buf *out)
{
    ic_store_export *x = NULL;
    bool last = false;
    ic_assert_ok(ic_store_export_begin(s, id, at, NULL, "told", 4, "a model", &x, &e), &e);
    while (!last) {
        size_t before = out->size;
        ic_assert_ok(ic_store_export_read(x, piece, out, &last, &e), &e);
        assert_true(out->size - before <= piece && (out->size > before || last));
    }
    ic_store_export_close(&x);
}

/* The bytes in pieces of `piece`, to the end. What comes of it; id gets the session's. */
static int import_all(ic_store *s, const uint8_t *bytes, size_t size, size_t piece, ic_error *why)
{
    ic_store_import *x = NULL;
    ic_assert_ok(ic_store_import_begin(s, 0, &x, &e), &e);
    int rc = IC_OK;
    for (size_t at = 0; at < size && !rc; at += piece)
        rc = ic_store_import_put(x, bytes + at, size - at < piece ? size - at : piece, why);
    if (!rc)
        rc = ic_store_import_complete(x, why);
    if (!rc)
        rc = ic_store_import_adopt(x, "local", "taken over", id, why);
    ic_store_import_close(&x, rc == IC_OK);
    return rc;
}

static int count_session(void *arg, const ic_store_session *session)
{
    (void)session;
    ++*(int *)arg;
    return 0;
}

static int sessions(ic_store *s)
{
    int count = 0;
    ic_assert_ok(ic_store_session_list(s, NULL, count_session, &count, &e), &e);
    return count;
}

/* --- what must come out -------------------------------------------------------------------------
 */

static int see_turn(void *arg, const ic_store_turn *t)
{
    assert_int_equal(t->time_us, ++*(int *)arg);
    assert_memory_equal(t->text, "text \xc3\xa9", 7);
    assert_int_equal(t->parts_bytes, t->time_us % 2);
    return 0;
}

static int see_record(void *arg, const ic_store_record *r)
{
    ++*(int *)arg;
    assert_int_equal(r->number, r->kind);
    assert_int_equal(r->size, r->kind);
    assert_int_equal(r->key != NULL, r->kind == 4);
    return 0;
}

static int see_media(void *arg, const ic_store_media *m)
{
    ++*(int *)arg;
    assert_string_equal(m->name, "clip");
    assert_string_equal(m->notices, "odd");
    assert_int_equal(m->stored_bytes, PIECE + 1);
    assert_true(m->fps == 2.5 && m->hash[1] == 6 && m->times_bytes == 2);
    return 0;
}

static void see_checkpoint(ic_store *s)
{
    ic_store_reader *r = NULL;
    uint8_t bytes[SEGMENT_BYTES];
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    const ic_store_manifest *m = ic_store_checkpoint_manifest(r);
    assert_int_equal(m->payload_version, 3);
    assert_memory_equal(m->meaning, "mean", 4);
    assert_string_equal(m->numerics, "cpu/x");
    assert_int_equal(m->journal_seq, COVERED);
    assert_int_equal(m->live_bytes, 7000);
    assert_memory_equal(m->state, "state", 5);
    assert_int_equal(m->segment_count, SEGMENTS);
    for (int i = 0; i < SEGMENTS; i++) {
        assert_int_equal(m->segments[i].tag, i);
        ic_assert_ok(ic_store_checkpoint_read(r, (size_t)i, bytes, &e), &e);
        assert_memory_equal(bytes, pattern(i, SEGMENT_BYTES), SEGMENT_BYTES);
    }
    ic_store_checkpoint_close(&r);
}

static void see_all(ic_store *s, bool checkpoint)
{
    int turns = 0, records = 0, medias = 0;
    ic_store_session session;
    uint32_t version;
    ic_buf bytes = {0};
    ic_assert_ok(ic_store_session_get(s, id, &session, &e), &e);
    assert_int_equal(session.counters.tokens, 77);
    assert_int_equal(session.used_us, 2000);
    assert_int_equal(session.event_next, 1);
    assert_int_equal(session.journal_next, RECORDS + 1);
    ic_assert_ok(ic_store_session_config(s, id, &version, &bytes, &e), &e);
    assert_int_equal(version, 4);
    assert_memory_equal(bytes.data, "config", 6);
    ic_assert_ok(ic_store_turn_read(s, id, 1, see_turn, &turns, &e), &e);
    assert_int_equal(turns, TURNS);
    ic_assert_ok(ic_store_journal_read(s, id, 0, see_record, &records, &e), &e);
    assert_int_equal(records, checkpoint ? RECORDS - COVERED : RECORDS);
    ic_assert_ok(ic_store_media_list(s, id, 0, see_media, &medias, &e), &e);
    assert_int_equal(medias, 2);
    ic_buf_clear(&bytes);
    ic_assert_ok(ic_store_media_read(s, id, 2, 0, &bytes, &e), &e);
    assert_memory_equal(bytes.data, pattern(10, PIECE), PIECE);
    ic_buf_fini(&bytes);
    if (checkpoint)
        see_checkpoint(s);
    ic_assert_ok(ic_store_check(s, &e), &e);
}

/* Ensures that a session goes through a file into another store whole, whatever the size of the
 * pieces, with a checkpoint and without; that it can go on there; and that the export leaves
 * nothing behind in the first. */
static void test_round_trip(void **state)
{
    (void)state;
    static const size_t pieces[] = {100, 4096, 1 << 20};
    for (int i = 0; i < 6; i++) {
        bool checkpoint = i % 2;
        char from[20], to[20];
        ic_buf bytes = {0};
        snprintf(from, sizeof from, "from%d", i);
        snprintf(to, sizeof to, "to%d", i);
        ic_store *s = open_store(from);
        ic_store_sizes before, after;
        fill(s, checkpoint);
        ic_assert_ok(ic_store_sizes_all(s, &before, &e), &e);
        export_all(s, NULL, pieces[i / 2], &bytes);
        ic_assert_ok(ic_store_shrink(s, &e), &e);
        ic_assert_ok(ic_store_sizes_all(s, &after, &e), &e);
        assert_int_equal(after.checkpoints, before.checkpoints);
        assert_int_equal(after.journal, before.journal);
        ic_store_close(&s);
        s = open_store(to);
        ic_assert_ok(import_all(s, bytes.data, bytes.size, pieces[2 - i / 2], &e), &e);
        see_all(s, checkpoint);
        assert_int_equal(sessions(s), 1);
        ic_store_close(&s);
        s = open_store(to);
        see_all(s, checkpoint);
        ic_assert_ok(ic_store_journal_append(s, id, 9, 9, NULL, "x", 1, NULL, &e), &e);
        if (checkpoint)
            add_checkpoint(s);
        ic_store_close(&s);
        ic_buf_fini(&bytes);
    }
}

/* Ensures that a file of the former format, made by the build of then with what `fill` makes, comes
 * in whole. */
static void test_former_format(void **state)
{
    (void)state;
    static uint8_t bytes[1 << 16];
    FILE *f = fopen(IC_SOURCE_DIR "/tests/data/store/v1.export", "rb");
    assert_non_null(f);
    size_t size = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_int_equal(bytes[8], 1);
    ic_store *s = open_store("former");
    ic_assert_ok(import_all(s, bytes, size, 1000, &e), &e);
    see_all(s, true);
    ic_store_close(&s);
}

static int leave_a_trace(ic_store *s, const char *copy_id, ic_error *why)
{
    return ic_store_journal_append(s, copy_id, RECORDS + 1, 1, NULL, "0123456", 7, NULL, why);
}

/* Ensures that an export shows the session as it stood when it began, or at a mark; that what is
 * settled in the copy is in it; and that the head can be read before the rest has come. */
static void test_moment_and_head(void **state)
{
    (void)state;
    ic_store *s = open_store("moment"), *to = open_store("moment_to");
    ic_store_export *x = NULL;
    ic_store_import *in = NULL;
    char copy[IC_STORE_ID_CHARS + 1], origin[IC_STORE_ID_CHARS + 1];
    bool last = false;
    ic_buf bytes = {0};
    fill(s, false);
    strcpy(origin, id);
    ic_assert_ok(ic_store_mark_add(s, id, "here", 1, 1, copy, &e), &e);
    for (int i = 0; i < 2; i++) {
        const char *at = i ? "here" : NULL;
        int records = 0;
        ic_buf_clear(&bytes);
        strcpy(id, origin);
        ic_assert_ok(ic_store_export_begin(s, id, at, leave_a_trace, "told", 4, "label", &x, &e),
                     &e);
        ic_assert_ok(ic_store_export_read(x, 40, &bytes, &last, &e), &e);
        ic_assert_ok(ic_store_journal_append(s, id, 50, 1, NULL, "later", 5, NULL, &e), &e);
        add_checkpoint(s);
        for (last = false; !last;)
            ic_assert_ok(ic_store_export_read(x, 1000, &bytes, &last, &e), &e);
        ic_store_export_close(&x);
        ic_assert_ok(ic_store_import_begin(to, 0, &in, &e), &e);
        assert_null(ic_store_import_head(in));
        ic_assert_ok(ic_store_import_put(in, bytes.data, 400, &e), &e);
        const ic_store_export_head *h = ic_store_import_head(in);
        assert_non_null(h);
        assert_string_equal(h->title, "the film");
        assert_string_equal(h->origin, origin);
        assert_string_equal(h->label, "label");
        assert_memory_equal(h->meaning, "told", 4);
        assert_memory_equal(h->config, "config", 6);
        ic_assert_ok(ic_store_import_put(in, bytes.data + 400, bytes.size - 400, &e), &e);
        ic_assert_ok(ic_store_import_complete(in, &e), &e);
        ic_assert_ok(ic_store_import_adopt(in, "local", "t", id, &e), &e);
        ic_store_import_close(&in, true);
        ic_assert_ok(ic_store_journal_read(to, id, 0, see_record, &records, &e), &e);
        assert_int_equal(records, RECORDS + 1);
    }
    assert_int_equal(ic_store_export_begin(s, "nobody", NULL, NULL, "", 0, "", &x, &e),
                     IC_ENOTFOUND);
    strcpy(id, origin);
    assert_int_equal(ic_store_export_begin(s, id, "nowhere", NULL, "", 0, "", &x, &e),
                     IC_ENOTFOUND);
    assert_null(x);
    ic_buf_fini(&bytes);
    ic_store_close(&s);
    ic_store_close(&to);
}

/* --- damage -------------------------------------------------------------------------------------
 */

/* What the decoder alone says: 0 and *ended when all of it is well. */
static int decode_all(const uint8_t *bytes, size_t size, size_t piece, bool *ended, ic_error *why)
{
    ic_export_stream x = {.used = 0};
    ic_export_record r;
    int rc = IC_OK;
    for (size_t at = 0; at < size && rc == IC_OK; at += piece) {
        rc = ic_export_stream_feed(&x, bytes + at, size - at < piece ? size - at : piece, why);
        while (rc == IC_OK && (rc = ic_export_stream_next(&x, &r, why)) == 1)
            rc = IC_OK;
    }
    *ended = x.ended;
    ic_export_stream_fini(&x);
    return rc;
}

/* Ensures that every single byte that is changed, every length the file is cut to, and whatever is
 * hung on, is found, by the decoder alone. */
static void test_every_byte_counts(void **state)
{
    (void)state;
    ic_store *s = open_store("bytes");
    ic_buf bytes = {0};
    bool ended;
    fill(s, true);
    export_all(s, NULL, 5000, &bytes);
    ic_store_close(&s);
    ic_assert_ok(decode_all(bytes.data, bytes.size, bytes.size, &ended, &e), &e);
    assert_true(ended);
    for (size_t at = 16; at < bytes.size; at++) {
        uint8_t was = bytes.data[at];
        bytes.data[at] = (uint8_t)(was ^ (1 << at % 8));
        int rc = decode_all(bytes.data, bytes.size, 4096, &ended, &e);
        if (rc == IC_OK && ended)
            fail_msg("a change of byte %zu is not found", at);
        assert_true(rc == IC_OK || rc == IC_EFORMAT);
        bytes.data[at] = was;
    }
    for (size_t size = 0; size < bytes.size; size++) {
        int rc = decode_all(bytes.data, size, 4096, &ended, &e);
        if (rc || ended)
            fail_msg("a cut at byte %zu is taken for %s", size, ended ? "the end" : e.text);
    }
    ic_buf_u8(&bytes, 0);
    for (size_t piece = bytes.size - 1; piece <= bytes.size; piece++) {
        assert_int_equal(decode_all(bytes.data, bytes.size, piece, &ended, &e), IC_EFORMAT);
        assert_non_null(strstr(e.text, "follows its end"));
    }
    ic_buf_fini(&bytes);
}

/* Ensures that records in an order that no export has, of unknown kinds, or whose content makes no
 * sense, are refused though their checksums fit. */
static void test_wrong_records(void **state)
{
    (void)state;
    static const ic_export_type orders[][5] = {
        {IC_EXPORT_TURN, IC_EXPORT_END},
        {IC_EXPORT_END},
        {IC_EXPORT_SESSION, IC_EXPORT_SESSION, IC_EXPORT_END},
        {IC_EXPORT_SESSION, IC_EXPORT_PIECE, IC_EXPORT_END},
        {IC_EXPORT_SESSION, IC_EXPORT_JOURNAL, IC_EXPORT_TURN, IC_EXPORT_END},
        {IC_EXPORT_SESSION, IC_EXPORT_JOURNAL, IC_EXPORT_PIECE, IC_EXPORT_END},
        {IC_EXPORT_SESSION, IC_EXPORT_SEGMENT, IC_EXPORT_END},
        {IC_EXPORT_SESSION, IC_EXPORT_CHECKPOINT, IC_EXPORT_CHECKPOINT, IC_EXPORT_END},
        {IC_EXPORT_SESSION, IC_EXPORT_CHECKPOINT, IC_EXPORT_SEGMENT, IC_EXPORT_END},
        {IC_EXPORT_FRAME, IC_EXPORT_END},
        {IC_EXPORT_SESSION, IC_EXPORT_FRAME, IC_EXPORT_MEDIA, IC_EXPORT_END},
        {IC_EXPORT_SESSION, IC_EXPORT_SEGMENT, IC_EXPORT_FRAME, IC_EXPORT_CHECKPOINT,
         IC_EXPORT_END},
    };
    ic_export_record r = {.turn = {.text = "t", .parts = ""},
                          .media = {.name = "", .notices = "", .times = ""},
                          .journal = {.bytes = ""},
                          .frame = {.hold = IC_STORE_HOLD_KEEP, .head = "", .bulk = ""},
                          .manifest = {.meaning = "", .numerics = "", .state = ""},
                          .head = {.config = ""},
                          .bytes = "b",
                          .size = 1};
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        uint8_t sum[IC_EXPORT_SUM];
        ic_buf bytes = {0};
        bool ended;
        ic_assert_ok(ic_export_begin(&bytes, sum, &e), &e);
        for (int k = 0; k < 5 && orders[i][k]; k++) {
            r.type = orders[i][k];
            r.count = (uint64_t)k;
            ic_assert_ok(ic_export_write(&bytes, &r, sum, &e), &e);
        }
        if (decode_all(bytes.data, bytes.size, 100, &ended, &e) != IC_EFORMAT)
            fail_msg("order %zu is taken", i);
        ic_buf_fini(&bytes);
    }
    static const uint8_t zeros[200];
    for (int type = 0; type < 12; type++)
        if (type != IC_EXPORT_PIECE && type != IC_EXPORT_SEGMENT && type != IC_EXPORT_JOURNAL)
            assert_int_equal(ic_export_decode((ic_export_type)type, zeros, 200, &r, &e),
                             IC_EFORMAT);
}

/* Ensures that whatever is wrong with a file, the store it was to go into is as before: no session,
 * nothing stored, nothing left after the next start; and that the error names what is wrong. */
static void test_refused_imports_leave_nothing(void **state)
{
    (void)state;
    ic_store *s = open_store("whole"), *to = open_store("refuses");
    ic_buf bytes = {0};
    ic_store_import *x = NULL;
    ic_store_sizes before, after;
    fill(s, true);
    export_all(s, NULL, 5000, &bytes);
    ic_store_close(&s);
    ic_assert_ok(ic_store_sizes_all(to, &before, &e), &e);
    for (size_t i = 0; i < 60; i++) {
        size_t at = 32 + (bytes.size - 32) * i / 60;
        bytes.data[at] ^= 0x10;
        assert_int_equal(import_all(to, bytes.data, bytes.size, 700, &e), IC_EFORMAT);
        assert_true(strstr(e.text, "damaged") || strstr(e.text, "cut"));
        bytes.data[at] ^= 0x10;
        assert_int_equal(import_all(to, bytes.data, at, 700, &e), IC_EFORMAT);
        assert_non_null(strstr(e.text, "cut"));
    }
    bytes.data[8] = IC_STORE_EXPORT_FORMAT + 1;
    assert_int_equal(import_all(to, bytes.data, bytes.size, 700, &e), IC_EVERSION);
    assert_non_null(strstr(e.text, "newer"));
    bytes.data[8] = IC_STORE_EXPORT_FORMAT;
    bytes.data[0] = 'x';
    assert_int_equal(import_all(to, bytes.data, bytes.size, 700, &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "not an export"));
    bytes.data[0] = 0x89;
    ic_assert_ok(ic_store_import_begin(to, 5000, &x, &e), &e);
    assert_int_equal(ic_store_import_put(x, bytes.data, bytes.size, &e), IC_ELIMIT);
    assert_int_equal(ic_store_import_put(x, "", 0, &e), IC_ELIMIT); /* it stays */
    assert_int_equal(ic_store_import_adopt(x, "local", "", id, &e), IC_EINVAL);
    ic_store_import_close(&x, false);
    assert_int_equal(sessions(to), 0);
    ic_assert_ok(ic_store_sizes_all(to, &after, &e), &e);
    assert_int_equal(after.journal + after.checkpoints + after.media + after.transcript, 0);
    /* One that was under way when the server died. */
    ic_assert_ok(ic_store_import_begin(to, 0, &x, &e), &e);
    ic_assert_ok(ic_store_import_put(x, bytes.data, bytes.size - 10, &e), &e);
    ic_store_import_close(&x, true);
    ic_store_close(&to);
    to = open_store("refuses");
    ic_assert_ok(ic_store_sizes_all(to, &after, &e), &e);
    assert_int_equal(after.journal + after.checkpoints + after.media + after.transcript, 0);
    ic_assert_ok(ic_store_check(to, &e), &e);
    ic_assert_ok(import_all(to, bytes.data, bytes.size, 700, &e), &e);
    see_all(to, true);
    ic_store_close(&to);
    ic_buf_fini(&bytes);
}

/* --- the fuzz corpus ----------------------------------------------------------------------------
 */

static void write_file(const char *folder, const char *name, const void *bytes, size_t size)
{
    char path[400];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
}

/* Whole streams (a zero byte before them), and each record's payload behind its type. */
static int make_corpus(const char *folder)
{
    ic_buf bytes = {0}, all = {0};
    mkdir(folder, 0755);
    ic_store *s = open_store("corpus");
    fill(s, true);
    ic_buf_u8(&all, 0);
    export_all(s, NULL, 1 << 20, &all);
    write_file(folder, "whole", all.data, all.size);
    write_file(folder, "cut", all.data, all.size / 2);
    write_file(folder, "damaged", all.data, all.size);
    all.data[5000] ^= 1;
    write_file(folder, "damaged", all.data, all.size);
    all.data[5000] ^= 1;
    size_t at = 1 + IC_EXPORT_HEAD;
    for (int i = 0; at + 8 < all.size && i < 100; i++) {
        char name[40];
        size_t size = (size_t)all.data[at + 4] | (size_t)all.data[at + 5] << 8;
        snprintf(name, sizeof name, "record_%d_%d", all.data[at], i);
        ic_buf_clear(&bytes);
        ic_buf_u8(&bytes, all.data[at]);
        ic_buf_append(&bytes, all.data + at + 8, size < 300 ? size : 300);
        write_file(folder, name, bytes.data, bytes.size);
        at += 8 + size + IC_EXPORT_SUM;
    }
    ic_buf_fini(&bytes);
    ic_buf_fini(&all);
    ic_store_close(&s);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_former_format),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_moment_and_head),
        cmocka_unit_test(test_every_byte_counts),
        cmocka_unit_test(test_wrong_records),
        cmocka_unit_test(test_refused_imports_leave_nothing),
    };
    void *state = NULL;
    if (argc == 3 && strcmp(argv[1], "--make") == 0)
        return ic_test_group_setup(&state) || make_corpus(argv[2])
               || ic_test_group_teardown(&state);
    return IC_TEST_RUN(tests);
}
