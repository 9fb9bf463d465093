/* session_store: checkpoints, their damage, and the space that deletion gives back.
 * IC_NEEDS_SERVER */
#include "ic_test_store.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sqlite3.h>

#include "base/ic_mem.h"

enum { MIB = 1 << 20 };

static char path[300];
static char id[IC_STORE_ID_CHARS + 1];
static ic_error e;
static uint8_t big[4 * MIB];

static int64_t file_size(const char *suffix)
{
    char name[320];
    struct stat info;
    snprintf(name, sizeof name, "%s%s", path, suffix);
    return stat(name, &info) == 0 ? (int64_t)info.st_size : 0;
}

/* Bytes that tell which segment they are of. */
static const uint8_t *pattern(int seed, size_t size)
{
    uint32_t x = 2463534242u + (uint32_t)seed * 7919u;
    for (size_t i = 0; i < size; i++) {
        x ^= x << 13, x ^= x >> 17, x ^= x << 5;
        big[i] = (uint8_t)x;
    }
    return big;
}

static ic_store_segment put(ic_store_writer *w, uint32_t tag, int seed, size_t size)
{
    ic_store_segment g = {0};
    ic_assert_ok(ic_store_checkpoint_segment(w, tag, pattern(seed, size), size, &g, &e), &e);
    assert_int_equal(g.bytes, size);
    return g;
}

static ic_store_manifest manifest_of(const ic_store_segment *segments, size_t count, int64_t seq)
{
    return (ic_store_manifest){.payload_version = 11,
                               .meaning = "mean",
                               .meaning_bytes = 4,
                               .numerics = "cpu/avx512",
                               .time_us = 77,
                               .journal_seq = seq,
                               .live_bytes = 5,
                               .state = "slots",
                               .state_bytes = 5,
                               .segments = segments,
                               .segment_count = count};
}

/* A finished checkpoint of `count` segments of 100000 bytes, seeds from `seed` on. */
static void checkpoint(ic_store *s, int seed, int count, int64_t seq, ic_store_segment *out)
{
    ic_store_writer *w = NULL;
    ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    for (int i = 0; i < count; i++)
        out[i] = put(w, 1, seed + i, 100000);
    ic_store_manifest m = manifest_of(out, (size_t)count, seq);
    ic_assert_ok(ic_store_checkpoint_finish(&w, &m, &e), &e);
    assert_null(w);
}

static void journal(ic_store *s, int count)
{
    for (int i = 0; i < count; i++)
        ic_assert_ok(ic_store_journal_append(s, id, 1, 1, NULL, "x", 1, NULL, &e), &e);
}

static int count_record(void *arg, const ic_store_record *r)
{
    (void)r;
    ++*(int *)arg;
    return 0;
}

static int journal_count(ic_store *s)
{
    int count = 0;
    ic_assert_ok(ic_store_journal_read(s, id, 0, count_record, &count, &e), &e);
    return count;
}

static void expect_segment(ic_store_reader *r, size_t index, int seed, size_t size)
{
    static uint8_t got[4 * MIB];
    assert_int_equal(ic_store_checkpoint_manifest(r)->segments[index].bytes, size);
    ic_assert_ok(ic_store_checkpoint_read(r, index, got, &e), &e);
    assert_memory_equal(got, pattern(seed, size), size);
}

/* Ensures that a checkpoint comes back whole after a restart: every field, every segment in order,
 * sizes from one byte to the largest; and that the journal it covers is gone, the rest kept, with
 * numbers that go on. */
static void test_round_trip(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_writer *w = NULL;
    ic_store_reader *r = NULL;
    journal(s, 5);
    assert_int_equal(ic_store_checkpoint_open(s, id, &r, &e), IC_ENOTFOUND);
    ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    ic_store_segment g[4] = {put(w, 3, 1, 1), put(w, 4, 2, IC_STORE_SEGMENT_MAX)};
    journal(s, 2); /* goes between */
    g[2] = put(w, 4, 3, 70001);
    g[3] = g[0];
    g[0] = g[2];
    g[2] = g[3];
    ic_store_manifest m = manifest_of(g, 3, 6);
    ic_assert_ok(ic_store_checkpoint_finish(&w, &m, &e), &e);
    s = ic_test_store_reopen(s, path);
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    const ic_store_manifest *got = ic_store_checkpoint_manifest(r);
    assert_int_equal(got->payload_version, 11);
    assert_int_equal(got->meaning_bytes, 4);
    assert_memory_equal(got->meaning, "mean", 4);
    assert_string_equal(got->numerics, "cpu/avx512");
    assert_int_equal(got->time_us, 77);
    assert_int_equal(got->journal_seq, 6);
    assert_int_equal(got->live_bytes, 5);
    assert_int_equal(got->state_bytes, 5);
    assert_memory_equal(got->state, "slots", 5);
    assert_int_equal(got->segment_count, 3);
    assert_int_equal(got->segment_bytes, 1 + IC_STORE_SEGMENT_MAX + 70001);
    assert_int_equal(got->segments[2].tag, 3);
    expect_segment(r, 0, 3, 70001);
    expect_segment(r, 1, 2, IC_STORE_SEGMENT_MAX);
    expect_segment(r, 2, 1, 1);
    ic_assert_ok(ic_store_checkpoint_verify(r, &e), &e);
    ic_store_checkpoint_close(&r);
    ic_store_checkpoint_close(&r);
    assert_int_equal(journal_count(s), 1);
    ic_store_session session;
    ic_assert_ok(ic_store_session_get(s, id, &session, &e), &e);
    assert_true(session.has_checkpoint);
    assert_int_equal(session.checkpoint_us, 77);
    assert_int_equal(session.journal_first, 7);
    assert_int_equal(session.journal_next, 8);
    int count = 0;
    assert_int_equal(ic_store_journal_read(s, id, 6, count_record, &count, &e), IC_ENOTFOUND);
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_store_close(&s);
}

/* Ensures that the second checkpoint keeps segments of the first without writing them again, drops
 * the others, and that numbers rise though the whole journal was trimmed. */
static void test_kept_segments(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_segment g[5];
    journal(s, 3);
    checkpoint(s, 10, 3, 3, g);
    ic_store_writer *w = NULL;
    ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    g[3] = put(w, 1, 20, 100000);
    put(w, 1, 21, 100000); /* entered and not listed: goes */
    ic_store_segment list[3] = {g[0], g[2], g[3]};
    ic_store_manifest m = manifest_of(list, 3, 3);
    ic_assert_ok(ic_store_checkpoint_finish(&w, &m, &e), &e);
    s = ic_test_store_reopen(s, path);
    ic_store_reader *r = NULL;
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    assert_int_equal(ic_store_checkpoint_manifest(r)->segment_count, 3);
    expect_segment(r, 0, 10, 100000);
    expect_segment(r, 1, 12, 100000);
    expect_segment(r, 2, 20, 100000);
    ic_store_checkpoint_close(&r);
    journal(s, 1);
    ic_store_session session;
    ic_assert_ok(ic_store_session_get(s, id, &session, &e), &e);
    assert_int_equal(session.journal_next, 5);
    ic_store_close(&s);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM segment"), 3);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM segment_data"), 3);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM checkpoint"), 1);
}

/* Ensures that what is refused (foreign segments, numbers beyond the journal, oversized parts, a
 * second writer, an open batch) leaves the former checkpoint and the journal as they were. */
static void test_refused_checkpoints_change_nothing(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    char first[IC_STORE_ID_CHARS + 1];
    ic_store_segment g[2], other[1];
    journal(s, 3);
    checkpoint(s, 1, 2, 1, g);
    strcpy(first, id);
    ic_assert_ok(ic_store_session_create(s, "local", "t", 1, 1, "", 0, id, &e), &e);
    checkpoint(s, 5, 1, 0, other);
    strcpy(id, first);
    static const struct {
        int what, code;
    } cases[] = {{0, IC_EINVAL}, {1, IC_EINVAL}, {2, IC_ELIMIT}, {3, IC_EINVAL},
                 {4, IC_EINVAL}, {5, IC_EINVAL}, {6, IC_EINVAL}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ic_store_writer *w = NULL, *second = NULL;
        ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
        assert_int_equal(ic_store_checkpoint_begin(s, id, &second, &e), IC_EBUSY);
        put(w, 1, 9, 1000);
        ic_store_manifest m = manifest_of(cases[i].what == 0 ? other : g, 1, 2);
        m.journal_seq = cases[i].what == 1 ? 4 : cases[i].what == 6 ? -1 : 2;
        m.state_bytes = cases[i].what == 2 ? IC_STORE_SEGMENT_MAX + 1 : m.state_bytes;
        m.meaning_bytes = cases[i].what == 3 ? 65 : m.meaning_bytes;
        m.numerics = cases[i].what == 4 ? NULL : m.numerics;
        if (cases[i].what == 5)
            ic_assert_ok(ic_store_batch_begin(s, &e), &e);
        assert_int_equal(ic_store_checkpoint_finish(&w, &m, &e), cases[i].code);
        assert_null(w);
        ic_store_batch_rollback(s);
        assert_int_equal(journal_count(s), 2);
    }
    ic_store_writer *w = NULL;
    ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    assert_int_equal(ic_store_checkpoint_segment(w, 0, big, 0, NULL, &e), IC_ELIMIT);
    assert_int_equal(ic_store_checkpoint_segment(w, 0, big, IC_STORE_SEGMENT_MAX + 1, NULL, &e),
                     IC_ELIMIT);
    ic_store_checkpoint_abort(&w);
    ic_store_checkpoint_abort(&w);
    s = ic_test_store_reopen(s, path);
    ic_store_reader *r = NULL;
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    expect_segment(r, 1, 2, 100000);
    ic_store_checkpoint_close(&r);
    assert_int_equal(ic_store_checkpoint_begin(s, "nobody", &w, &e), IC_ENOTFOUND);
    ic_store_close(&s);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM segment"), 3);
}

/* Ensures that segments left by a process that died before its manifest was swapped are gone after
 * the next start, and those of finished checkpoints are not. */
static void test_orphans_are_swept(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_segment g[2];
    checkpoint(s, 1, 2, 0, g);
    ic_store_close(&s);
    pid_t child = fork();
    if (child == 0) {
        ic_store_writer *w = NULL;
        if (ic_store_open(&s, &(ic_store_config){.path = path}, NULL)
            || ic_store_checkpoint_begin(s, id, &w, NULL))
            _exit(1);
        for (int i = 0; i < 70; i++)
            if (ic_store_checkpoint_segment(w, 1, big, 1000, NULL, NULL))
                _exit(1);
        raise(SIGKILL);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM segment"), 72);
    s = ic_test_store_reopen(NULL, path);
    ic_store_reader *r = NULL;
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    ic_assert_ok(ic_store_checkpoint_verify(r, &e), &e);
    ic_store_checkpoint_close(&r);
    ic_store_close(&s);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM segment"), 2);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM segment_data"), 2);
}

/* Ensures that closing the store gives up a checkpoint that was being written, and the former one
 * stands. */
static void test_close_gives_writers_up(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_segment g[2];
    ic_store_writer *w = NULL;
    checkpoint(s, 1, 2, 0, g);
    ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    put(w, 1, 3, 1000);
    s = ic_test_store_reopen(s, path);
    ic_store_reader *r = NULL;
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    expect_segment(r, 1, 2, 100000);
    ic_store_checkpoint_close(&r);
    ic_store_close(&s);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM segment"), 2);
}

/* Ensures that one flipped byte of a segment in the file is found when it is read, with the
 * segment's number, and that other segments and other sessions are still good. */
static void test_flipped_byte_is_found(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_segment g[3], other[1];
    char first[IC_STORE_ID_CHARS + 1], needle[24];
    checkpoint(s, 1, 3, 0, g);
    strcpy(first, id);
    ic_assert_ok(ic_store_session_create(s, "local", "t", 1, 1, "", 0, id, &e), &e);
    checkpoint(s, 5, 1, 0, other);
    ic_store_close(&s);
    /* Where segment 2 lies in the file: look for its bytes. */
    memcpy(needle, pattern(2, 100000) + 50000, sizeof needle);
    FILE *f = fopen(path, "r+b");
    char *bytes = malloc((size_t)file_size(""));
    size_t size = fread(bytes, 1, (size_t)file_size(""), f);
    char *at = memmem(bytes, size, needle, sizeof needle);
    assert_non_null(at);
    fseek(f, at - bytes, SEEK_SET);
    fputc(*at ^ 0x10, f);
    fclose(f);
    free(bytes);
    s = ic_test_store_reopen(NULL, path);
    ic_store_reader *r = NULL;
    ic_assert_ok(ic_store_checkpoint_open(s, first, &r, &e), &e);
    expect_segment(r, 0, 1, 100000);
    assert_int_equal(ic_store_checkpoint_read(r, 1, big, &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "(2 of 3)"));
    expect_segment(r, 2, 3, 100000);
    assert_int_equal(ic_store_checkpoint_verify(r, &e), IC_EFORMAT);
    ic_store_checkpoint_close(&r);
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    ic_assert_ok(ic_store_checkpoint_verify(r, &e), &e);
    ic_store_checkpoint_close(&r);
    assert_int_equal(ic_store_check(s, &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, first));
    ic_store_close(&s);
}

/* Ensures that a changed manifest, whichever field, is refused before anything of it is returned,
 * and that a manifest or encoding of a later version is told apart from damage. */
static void test_changed_manifest_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *damage;
        int code;
    } cases[] = {
        {"UPDATE checkpoint SET payload_version = 12", IC_EFORMAT},
        {"UPDATE checkpoint SET time_us = 1", IC_EFORMAT},
        {"UPDATE checkpoint SET meaning = CAST('neam' AS BLOB)", IC_EFORMAT},
        {"UPDATE checkpoint SET meaning = zeroblob(100)", IC_EFORMAT},
        {"UPDATE checkpoint SET numerics = 'cuda'", IC_EFORMAT},
        {"UPDATE checkpoint SET journal_seq = 2", IC_EFORMAT},
        {"UPDATE checkpoint SET live_bytes = 6", IC_EFORMAT},
        {"UPDATE checkpoint SET state = CAST('slotz' AS BLOB)", IC_EFORMAT},
        {"UPDATE checkpoint SET sum = zeroblob(16)", IC_EFORMAT},
        {"UPDATE checkpoint SET sum = x''", IC_EFORMAT},
        {"UPDATE checkpoint SET format = 2", IC_EVERSION},
        {"UPDATE segment SET codec = 1 WHERE n = 1", IC_EVERSION},
        {"UPDATE segment SET tag = 9 WHERE n = 1", IC_EFORMAT},
        {"UPDATE segment SET sum = zeroblob(16) WHERE n = 2", IC_EFORMAT},
        {"UPDATE segment SET bytes = 2000000000 WHERE n = 2", IC_EFORMAT},
        {"DELETE FROM segment WHERE n = 2", IC_EFORMAT},
        {"DELETE FROM checkpoint_segment WHERE position = 0", IC_EFORMAT},
        {"DELETE FROM checkpoint_segment WHERE position = 2", IC_EFORMAT},
        {"UPDATE checkpoint_segment SET segment = 3 WHERE position = 0", IC_EFORMAT},
        {"DELETE FROM checkpoint", IC_EFORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ic_store *s = ic_test_store_start(path, id);
        ic_store_segment g[3];
        ic_store_reader *r = NULL;
        checkpoint(s, 1, 3, 0, g);
        ic_store_close(&s);
        ic_test_sql(path, cases[i].damage);
        s = ic_test_store_reopen(NULL, path);
        assert_int_equal(ic_store_checkpoint_open(s, id, &r, &e), cases[i].code);
        assert_null(r);
        assert_non_null(strstr(e.text, id));
        ic_store_close(&s);
    }
}

/* Ensures that a segment whose bytes were cut or taken away is refused by its length. */
static void test_cut_segment_is_refused(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_segment g[2];
    checkpoint(s, 1, 2, 0, g);
    ic_store_close(&s);
    ic_test_sql(path, "UPDATE segment_data SET data = substr(data, 1, 99999) WHERE n = 1");
    ic_test_sql(path, "DELETE FROM segment_data WHERE n = 2");
    s = ic_test_store_reopen(NULL, path);
    ic_store_reader *r = NULL;
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    assert_int_equal(ic_store_checkpoint_read(r, 0, big, &e), IC_EFORMAT);
    assert_int_equal(ic_store_checkpoint_read(r, 1, big, &e), IC_ENOTFOUND);
    ic_store_checkpoint_close(&r);
    ic_store_close(&s);
}

/* Ensures that a checkpoint without segments works, that a reader of one that was replaced is told
 * so, and that a writer whose session is deleted meanwhile fails without a trace. */
static void test_replaced_and_deleted_meanwhile(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_segment g[1];
    ic_store_reader *r = NULL;
    ic_store_writer *w = NULL;
    checkpoint(s, 1, 0, 0, NULL);
    checkpoint(s, 1, 1, 0, g);
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    checkpoint(s, 2, 1, 0, g);
    assert_int_equal(ic_store_checkpoint_read(r, 0, big, &e), IC_ENOTFOUND);
    ic_store_checkpoint_close(&r);
    ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    g[0] = put(w, 1, 3, 1000);
    ic_assert_ok(ic_store_session_delete(s, id, &e), &e);
    ic_store_manifest m = manifest_of(g, 1, 0);
    assert_int_equal(ic_store_checkpoint_finish(&w, &m, &e), IC_ENOTFOUND);
    ic_store_close(&s);
    assert_int_equal(ic_test_sql_number(
                         path,
                         "SELECT (SELECT count(*) FROM segment) + (SELECT count(*) FROM checkpoint)"
                         " + (SELECT count(*) FROM segment_data)"),
                     0);
}

/* Ensures that a segment enters in a transaction of at most 4 MiB and a little: what the log grows
 * by is bounded, and that the log is moved along on the way instead of piling up. */
static void test_log_stays_bounded(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_writer *w = NULL;
    ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    int64_t before = file_size("-wal");
    put(w, 1, 1, IC_STORE_SEGMENT_MAX);
    assert_true(file_size("-wal") - before <= IC_STORE_SEGMENT_MAX + 10 * 16384);
    for (int i = 0; i < 15; i++)
        put(w, 1, i, IC_STORE_SEGMENT_MAX);
    assert_true(file_size("-wal") <= 20 * MIB);
    ic_store_checkpoint_abort(&w);
    ic_store_close(&s);
}

/* Ensures that deleting a session gives its space back to the disk: step by step through maintain,
 * and at once through shrink; the other session is still whole, and the log is cut too. */
static void test_deletion_frees_disk(void **state)
{
    (void)state;
    for (int at_once = 0; at_once < 2; at_once++) {
        ic_store *s = ic_test_store_start(path, id);
        char victim[IC_STORE_ID_CHARS + 1];
        ic_store_segment g[8];
        ic_store_media media = {.name = "m"};
        int64_t number;
        strcpy(victim, id);
        ic_assert_ok(ic_store_media_put(s, id, &media, &number, &e), &e);
        ic_store_writer *w = NULL;
        ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
        for (int i = 0; i < 8; i++) {
            g[i] = put(w, 1, i, 2 * MIB);
            ic_assert_ok(ic_store_media_append(s, id, number, big, MIB, &e), &e);
        }
        ic_store_manifest m = manifest_of(g, 8, 0);
        ic_assert_ok(ic_store_checkpoint_finish(&w, &m, &e), &e);
        ic_assert_ok(ic_store_session_create(s, "local", "t", 1, 1, "", 0, id, &e), &e);
        checkpoint(s, 50, 3, 0, g); /* lies behind what goes */
        ic_assert_ok(ic_store_shrink(s, &e), &e);
        int64_t full = file_size("");
        assert_true(full > 24 * MIB);
        ic_assert_ok(ic_store_session_delete(s, victim, &e), &e);
        bool more = true;
        if (at_once)
            ic_assert_ok(ic_store_shrink(s, &e), &e);
        for (int i = 0; !at_once && more; i++) {
            assert_true(i < 100);
            ic_assert_ok(ic_store_maintain(s, &more, &e), &e);
        }
        assert_true(file_size("") < full - 23 * MIB);
        assert_int_equal(file_size("-wal"), 0);
        ic_store_sizes sizes;
        ic_assert_ok(ic_store_sizes_all(s, &sizes, &e), &e);
        assert_int_equal(sizes.free, 0);
        assert_int_equal(sizes.checkpoints, 300005);
        assert_int_equal(sizes.media, 0);
        ic_assert_ok(ic_store_check(s, &e), &e);
        ic_store_close(&s);
    }
}

/* Ensures that housekeeping neither waits nor spins while another program reads the database, and
 * gets on when that has ended. */
static void test_foreign_reader(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    sqlite3 *db = NULL;
    bool more = false;
    ic_store_segment g[4];
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    const char *begin = "BEGIN; SELECT count(*) FROM session";
    assert_int_equal(sqlite3_exec(db, begin, NULL, NULL, NULL), SQLITE_OK);
    for (int i = 0; i < 30; i++)
        checkpoint(s, i, 4, 0, g);
    assert_true(file_size("-wal") > 12 * MIB);
    ic_assert_ok(ic_store_maintain(s, &more, &e), &e);
    assert_false(more);
    assert_int_equal(ic_store_shrink(s, &e), IC_EBUSY);
    assert_int_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    journal(s, 1);
    more = true;
    for (int i = 0; more; i++) {
        assert_true(i < 50);
        ic_assert_ok(ic_store_maintain(s, &more, &e), &e);
    }
    ic_assert_ok(ic_store_shrink(s, &e), &e);
    assert_int_equal(file_size("-wal"), 0);
    ic_store_close(&s);
}

static int count_media(void *arg, const ic_store_media *m)
{
    *(int64_t *)arg = m->stored_bytes;
    return 0;
}

/* Ensures that a fork goes on from checkpoint and journal with bytes that are shared, that both
 * sides then live on their own, and that what is shared lives until both are gone. */
static void test_fork_shares(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_segment g[2];
    ic_store_media media = {.name = "m"};
    ic_store_sizes before, after;
    char fork_id[IC_STORE_ID_CHARS + 1], first[IC_STORE_ID_CHARS + 1];
    int64_t number, stored = 0;
    journal(s, 3);
    checkpoint(s, 1, 2, 2, g);
    ic_assert_ok(ic_store_media_put(s, id, &media, &number, &e), &e);
    ic_assert_ok(ic_store_media_append(s, id, number, big, MIB, &e), &e);
    ic_assert_ok(ic_store_shrink(s, &e), &e);
    ic_assert_ok(ic_store_sizes_all(s, &before, &e), &e);
    ic_assert_ok(ic_store_session_fork(s, id, NULL, "fork", 5, fork_id, &e), &e);
    ic_assert_ok(ic_store_shrink(s, &e), &e);
    ic_assert_ok(ic_store_sizes_all(s, &after, &e), &e);
    assert_true(after.total <= before.total);
    strcpy(first, id);
    strcpy(id, fork_id);
    assert_int_equal(journal_count(s), 1);
    journal(s, 1);
    checkpoint(s, 5, 1, 4, g); /* the fork's own now; the other's stays */
    strcpy(id, first);
    assert_int_equal(journal_count(s), 1);
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_assert_ok(ic_store_session_fork(s, id, NULL, "second", 5, fork_id, &e), &e);
    ic_assert_ok(ic_store_session_delete(s, id, &e), &e);
    strcpy(id, fork_id);
    ic_store_reader *r = NULL;
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    expect_segment(r, 1, 2, 100000);
    ic_store_checkpoint_close(&r);
    ic_assert_ok(ic_store_media_list(s, id, 0, count_media, &stored, &e), &e);
    assert_int_equal(stored, MIB);
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_assert_ok(ic_store_session_delete(s, id, &e), &e);
    assert_int_equal(ic_store_session_fork(s, id, NULL, "", 5, fork_id, &e), IC_ENOTFOUND);
    ic_store_close(&s);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM segment_data"), 1);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM media_piece"), 1);
}

static int64_t stored_segments(ic_store *s)
{
    ic_store_sizes sizes;
    ic_assert_ok(ic_store_sizes_session(s, id, &sizes, &e), &e);
    return sizes.checkpoints;
}

static int note_mark(void *arg, const ic_store_mark *m)
{
    char *names = arg;
    size_t length = strlen(names);
    snprintf(names + length, 200 - length, "%s@%d ", m->name, (int)m->turn);
    return 0;
}

/* Ensures that what a mark holds lives through later checkpoints, that a fork goes on from there
 * with the journal of then, and that the mark's removal gives back what only it held. */
static void test_mark_holds(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_segment g[4];
    char copy[IC_STORE_ID_CHARS + 1], fork_id[IC_STORE_ID_CHARS + 1], whole[IC_STORE_ID_CHARS + 1];
    char names[200] = "";
    journal(s, 3);
    checkpoint(s, 1, 2, 2, g);
    ic_assert_ok(ic_store_mark_add(s, id, "the film", 7, 50, copy, &e), &e);
    assert_int_equal(ic_store_mark_add(s, id, "the film", 8, 51, fork_id, &e), IC_EEXIST);
    assert_int_equal(ic_store_mark_add(s, id, "", 8, 51, fork_id, &e), IC_EINVAL);
    assert_int_equal(ic_store_mark_add(s, id, "a\nb", 8, 51, fork_id, &e), IC_EINVAL);
    journal(s, 4);
    checkpoint(s, 10, 3, 7, g); /* nothing of the first is kept by the session itself */
    ic_assert_ok(ic_store_mark_list(s, id, note_mark, names, &e), &e);
    assert_string_equal(names, "the film@7 ");
    assert_int_equal(stored_segments(s), 500010);
    s = ic_test_store_reopen(s, path); /* the sweep leaves it */
    assert_int_equal(ic_store_session_fork(s, id, "no such", "", 5, fork_id, &e), IC_ENOTFOUND);
    ic_assert_ok(ic_store_session_fork(s, id, "the film", "then", 5, fork_id, &e), &e);
    strcpy(whole, id);
    strcpy(id, fork_id);
    assert_int_equal(journal_count(s), 1);
    ic_store_reader *r = NULL;
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    assert_int_equal(ic_store_checkpoint_manifest(r)->segment_count, 2);
    expect_segment(r, 1, 2, 100000);
    ic_store_checkpoint_close(&r);
    ic_store_session session;
    ic_assert_ok(ic_store_session_get(s, id, &session, &e), &e);
    assert_string_equal(session.owner, "local");
    assert_string_equal(session.parent, whole);
    ic_assert_ok(ic_store_session_delete(s, id, &e), &e);
    strcpy(id, whole);
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_assert_ok(ic_store_mark_remove(s, id, "the film", &e), &e);
    assert_int_equal(ic_store_mark_remove(s, id, "the film", &e), IC_ENOTFOUND);
    assert_int_equal(stored_segments(s), 300005);
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_store_close(&s);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM segment_data"), 3);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM session"), 1);
}

static int count_session(void *arg, const ic_store_session *session)
{
    (void)session;
    ++*(int *)arg;
    return 0;
}

/* Ensures that the copies behind marks are in no list and found by no prefix, that they go with
 * their session and give the file's room back, and that a copy no mark names is swept. */
static void test_marks_are_hidden_and_go(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_segment g[4];
    ic_store_session found;
    char copy[IC_STORE_ID_CHARS + 1], name[20];
    int count = 0;
    for (int i = 0; i < 5; i++) {
        checkpoint(s, 10 * i, 4, 0, g);
        snprintf(name, sizeof name, "mark %d", i);
        ic_assert_ok(ic_store_mark_add(s, id, name, i, i, copy, &e), &e);
    }
    ic_assert_ok(ic_store_session_list(s, NULL, count_session, &count, &e), &e);
    assert_int_equal(count, 1);
    assert_int_equal(ic_store_session_find(s, NULL, copy, &found, &e), IC_ENOTFOUND);
    ic_store_close(&s);
    int64_t full = file_size("");
    ic_test_sql(path,
                "DELETE FROM mark WHERE name = 'mark 1'"); /* as if a crash had come between */
    s = ic_test_store_reopen(NULL, path);
    assert_int_equal(stored_segments(s), 4 * 400005);
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_assert_ok(ic_store_session_delete(s, id, &e), &e);
    ic_assert_ok(ic_store_shrink(s, &e), &e);
    ic_store_close(&s);
    assert_true(file_size("") < full - 1900000);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM session"), 0);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM segment_data"), 0);
}

/* Ensures that a mark that was changed leads nowhere, and is found by the check. */
static void test_changed_mark_is_refused(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    char copy[IC_STORE_ID_CHARS + 1], names[200] = "";
    ic_assert_ok(ic_store_mark_add(s, id, "m", 1, 1, copy, &e), &e);
    ic_store_close(&s);
    ic_test_sql(path, "UPDATE mark SET copy = session");
    s = ic_test_store_reopen(NULL, path);
    assert_int_equal(ic_store_session_fork(s, id, "m", "", 5, copy, &e), IC_EFORMAT);
    assert_int_equal(ic_store_mark_list(s, id, note_mark, names, &e), IC_EFORMAT);
    assert_int_equal(ic_store_check(s, &e), IC_EFORMAT);
    ic_assert_ok(ic_store_mark_remove(s, id, "m", &e), &e);
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_store_close(&s);
}

/* Ensures that a record that was changed where it does harm (whose it is, where its journal begins,
 * which checkpoint it points at) is refused, and can still be deleted. */
static void test_changed_session_is_refused(void **state)
{
    (void)state;
    static const char *const damage[] = {
        "UPDATE session SET owner = 'eve'",    "UPDATE session SET title = 'T'",
        "UPDATE session SET journal_base = 2", "UPDATE session SET event_base = 1",
        "UPDATE session SET checkpoint = 2",   "UPDATE session SET checkpoint = NULL",
        "UPDATE session SET config_sum = 0",   "UPDATE session SET parent = ''",
    };
    for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        ic_store *s = ic_test_store_start(path, id);
        ic_store_segment g[1];
        ic_store_reader *r = NULL;
        ic_store_session session;
        journal(s, 3);
        checkpoint(s, 1, 1, 1, g);
        ic_store_close(&s);
        ic_test_sql(path, damage[i]);
        s = ic_test_store_reopen(NULL, path);
        assert_int_equal(ic_store_session_get(s, id, &session, &e), IC_EFORMAT);
        assert_non_null(strstr(e.text, id));
        assert_int_equal(ic_store_session_find(s, NULL, id, &session, &e), IC_EFORMAT);
        assert_int_equal(ic_store_checkpoint_open(s, id, &r, &e), IC_EFORMAT);
        int count = 0;
        assert_int_equal(ic_store_journal_read(s, id, 0, count_record, &count, &e), IC_EFORMAT);
        assert_int_equal(ic_store_check(s, &e), IC_EFORMAT);
        ic_assert_ok(ic_store_session_delete(s, id, &e), &e);
        s = ic_test_store_reopen(s, path);
        ic_assert_ok(ic_store_check(s, &e), &e);
        ic_store_close(&s);
        assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM segment"), 0);
    }
}

/* Ensures that media bytes are not read through a pointer that was changed. */
static void test_changed_media_pointer_is_refused(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_media media = {.name = "m"};
    int64_t number;
    ic_buf out;
    for (int i = 0; i < 2; i++) {
        ic_assert_ok(ic_store_media_put(s, id, &media, &number, &e), &e);
        ic_assert_ok(ic_store_media_append(s, id, number, "abc", 3, &e), &e);
    }
    ic_store_close(&s);
    ic_test_sql(path, "UPDATE media SET held = 2 WHERE number = 1");
    s = ic_test_store_reopen(NULL, path);
    ic_buf_init(&out, 0);
    assert_int_equal(ic_store_media_read(s, id, 1, 0, &out, &e), IC_EFORMAT);
    ic_assert_ok(ic_store_media_read(s, id, 2, 0, &out, &e), &e);
    ic_buf_fini(&out);
    ic_store_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_kept_segments),
        cmocka_unit_test(test_refused_checkpoints_change_nothing),
        cmocka_unit_test(test_orphans_are_swept),
        cmocka_unit_test(test_close_gives_writers_up),
        cmocka_unit_test(test_flipped_byte_is_found),
        cmocka_unit_test(test_changed_manifest_is_refused),
        cmocka_unit_test(test_cut_segment_is_refused),
        cmocka_unit_test(test_replaced_and_deleted_meanwhile),
        cmocka_unit_test(test_log_stays_bounded),
        cmocka_unit_test(test_deletion_frees_disk),
        cmocka_unit_test(test_foreign_reader),
        cmocka_unit_test(test_fork_shares),
        cmocka_unit_test(test_mark_holds),
        cmocka_unit_test(test_marks_are_hidden_and_go),
        cmocka_unit_test(test_changed_mark_is_refused),
        cmocka_unit_test(test_changed_session_is_refused),
        cmocka_unit_test(test_changed_media_pointer_is_refused),
    };
    return IC_TEST_RUN(tests);
}
