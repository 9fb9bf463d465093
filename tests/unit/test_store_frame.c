/* session_store: frames: one journal with the other records, a life of their own behind the
 * checkpoint, bounded, shared by copies, carried by exports. IC_NEEDS_SERVER */
#include "ic_test_store.h"

#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "session_store/ic_store_export.h"

enum { BULK = 100000 };

static ic_error e;

static const uint8_t *bulk_of(int seed)
{
    static uint8_t bytes[BULK];
    for (size_t i = 0; i < BULK; i++)
        bytes[i] = (uint8_t)((uint32_t)seed * 2654435761u + i * 7 + (i >> 8) * 13);
    return bytes;
}

/* A frame whose head is its seed. */
static int64_t add_frame(ic_store *s, const char *id, int64_t media, ic_store_hold hold, int seed)
{
    int64_t number = 0;
    ic_store_frame f = {.kind = 7,
                        .time_us = seed,
                        .media = media,
                        .hold = hold,
                        .head = &seed,
                        .head_bytes = sizeof seed,
                        .bulk = bulk_of(seed),
                        .bulk_bytes = BULK};
    ic_assert_ok(ic_store_frame_append(s, id, &f, &number, &e), &e);
    return number;
}

static int64_t add_record(ic_store *s, const char *id)
{
    int64_t number = 0;
    ic_assert_ok(ic_store_journal_append(s, id, 1, 1, NULL, "record", 6, &number, &e), &e);
    return number;
}

/* Everything up to record seq is covered. */
static void checkpoint(ic_store *s, const char *id, int64_t seq)
{
    ic_store_writer *w = NULL;
    ic_store_manifest m = {.meaning = "m",
                           .meaning_bytes = 1,
                           .numerics = "n",
                           .journal_seq = seq,
                           .state = "s",
                           .state_bytes = 1};
    ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    ic_assert_ok(ic_store_checkpoint_finish(&w, &m, &e), &e);
}

typedef struct seen {
    int frames, held, damaged;
    int first_held; /* its seed */
    int64_t numbers[400];
} seen;

static int see_frame(void *arg, const ic_store_frame *f)
{
    seen *n = arg;
    n->numbers[n->frames++] = f->number;
    n->damaged += f->damaged;
    if (f->damaged)
        return 0;
    int seed;
    assert_int_equal(f->head_bytes, sizeof seed);
    memcpy(&seed, f->head, sizeof seed);
    assert_int_equal(f->bulk_bytes, BULK);
    if (f->bulk) {
        assert_memory_equal(f->bulk, bulk_of(seed), BULK);
        n->first_held = n->held++ ? n->first_held : seed;
    }
    return 0;
}

static seen look(ic_store *s, const char *id)
{
    seen n = {.frames = 0};
    ic_assert_ok(ic_store_frame_read(s, id, 0, see_frame, &n, &e), &e);
    return n;
}

static int count_record(void *arg, const ic_store_record *r)
{
    int64_t *next = arg;
    assert_int_equal(r->number, (*next)++);
    assert_int_equal(r->kind, r->bulk ? 7 : 1);
    if (r->bulk)
        assert_memory_equal(r->bulk, bulk_of((int)r->time_us), BULK);
    else
        assert_int_equal(r->size, 6);
    return 0;
}

static int64_t media_bytes(ic_store *s, const char *id)
{
    ic_store_sizes sizes;
    ic_assert_ok(ic_store_sizes_session(s, id, &sizes, &e), &e);
    return sizes.media;
}

/* Ensures that frames and other records have one numbering and are read in order, from anywhere;
 * and that a checkpoint takes along what is held for a replay, leaves what is kept, and leaves of
 * each frame what it was. */
static void test_one_journal_two_lives(void **state)
{
    (void)state;
    char path[300], id[IC_STORE_ID_CHARS + 1];
    ic_store *s = ic_test_store_start(path, id);
    for (int i = 1; i <= 20; i++) {
        int64_t number = i % 5 == 0 ? add_record(s, id)
                         : i <= 10  ? add_frame(s, id, 1, IC_STORE_HOLD_REPLAY, i)
                                    : add_frame(s, id, 2, IC_STORE_HOLD_KEEP, i);
        assert_int_equal(number, i);
    }
    for (int64_t from = 1; from <= 20; from += 6) {
        int64_t next = from;
        ic_assert_ok(ic_store_journal_read(s, id, from, count_record, &next, &e), &e);
        assert_int_equal(next, 21);
    }
    assert_int_equal(media_bytes(s, id), 16 * BULK);
    checkpoint(s, id, 14);
    int64_t next = 15;
    ic_assert_ok(ic_store_journal_read(s, id, 0, count_record, &next, &e), &e);
    assert_int_equal(next, 21);
    seen n = look(s, id);
    assert_int_equal(n.frames, 16);
    assert_int_equal(n.held, 8);
    assert_int_equal(n.first_held, 11);
    assert_int_equal(media_bytes(s, id), 8 * BULK);
    s = ic_test_store_reopen(s, path);
    assert_int_equal(add_record(s, id), 21);
    checkpoint(s, id, 21);
    assert_int_equal(add_frame(s, id, 2, IC_STORE_HOLD_KEEP, 22), 22);
    s = ic_test_store_reopen(s, path);
    assert_int_equal(look(s, id).held, 9);
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_store_close(&s);
}

/* Ensures that a frame is written once: what its commit writes is no more than a record of its
 * size costs, and no checkpoint writes it again. */
static void test_written_once(void **state)
{
    (void)state;
    char path[300], id[IC_STORE_ID_CHARS + 1];
    ic_store *s = ic_test_store_start(path, id);
    ic_store_sizes before, after;
    int64_t grown[2];
    for (int way = 0; way < 2; way++) {
        ic_assert_ok(ic_store_shrink(s, &e), &e); /* the log is empty */
        ic_assert_ok(ic_store_sizes_all(s, &before, &e), &e);
        for (int i = 0; i < 20; i++) {
            if (way)
                add_frame(s, id, 1, IC_STORE_HOLD_KEEP, i);
            else
                ic_assert_ok(ic_store_journal_append(s, id, 7, i, NULL, bulk_of(i), BULK, NULL, &e),
                             &e);
        }
        ic_assert_ok(ic_store_sizes_all(s, &after, &e), &e);
        grown[way] = after.total - before.total;
    }
    if (grown[1] > grown[0] + grown[0] / 5)
        fail_msg("20 frames write %lld bytes, 20 records of their size %lld", (long long)grown[1],
                 (long long)grown[0]);
    ic_assert_ok(ic_store_shrink(s, &e), &e);
    ic_assert_ok(ic_store_sizes_all(s, &before, &e), &e);
    checkpoint(s, id, 40);
    ic_assert_ok(ic_store_sizes_all(s, &after, &e), &e);
    assert_true(after.total - before.total < 10 * BULK);
    ic_store_close(&s);
}

/* Ensures that the bound takes the oldest first, is kept to within a reel, counts what goes, never
 * touches what a replay needs, and gives the room back. */
static void test_limit(void **state)
{
    (void)state;
    char path[300], id[IC_STORE_ID_CHARS + 1];
    ic_store *s = ic_test_store_start(path, id);
    ic_store_dropped gone;
    ic_store_sizes before, after;
    for (int i = 1; i <= 200; i++)
        add_frame(s, id, 1 + i / 100, IC_STORE_HOLD_KEEP, i);
    ic_assert_ok(ic_store_frame_limit(s, id, 0, &gone, &e), &e);
    assert_int_equal(gone.frames, 0);
    checkpoint(s, id, 200);
    ic_assert_ok(ic_store_frame_limit(s, id, 200LL * BULK, &gone, &e), &e);
    assert_int_equal(gone.frames, 0);
    ic_assert_ok(ic_store_shrink(s, &e), &e);
    ic_assert_ok(ic_store_sizes_all(s, &before, &e), &e);
    ic_assert_ok(ic_store_frame_limit(s, id, 10 << 20, &gone, &e), &e);
    seen n = look(s, id);
    assert_int_equal(n.frames, 200);
    assert_int_equal(n.held, 200 - gone.frames);
    assert_int_equal(n.first_held, 201 - n.held); /* the newest */
    assert_int_equal(gone.bytes, gone.frames * BULK);
    assert_true(media_bytes(s, id) <= 10 << 20);
    assert_true(media_bytes(s, id) > (10 << 20) - 5 * (1 << 20));
    ic_assert_ok(ic_store_shrink(s, &e), &e);
    ic_assert_ok(ic_store_sizes_all(s, &after, &e), &e);
    assert_true(before.total - after.total > gone.bytes * 9 / 10);
    ic_assert_ok(ic_store_frame_limit(s, id, 0, &gone, &e), &e);
    assert_int_equal(look(s, id).held, 0);
    assert_int_equal(media_bytes(s, id), 0);
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_store_close(&s);
}

/* Ensures that a session's list stays bounded however many reels it had. */
static void test_old_records_go(void **state)
{
    (void)state;
    char path[300], id[IC_STORE_ID_CHARS + 1];
    ic_store *s = ic_test_store_start(path, id);
    ic_store_dropped gone;
    ic_assert_ok(ic_store_batch_begin(s, &e), &e);
    for (int i = 1; i <= 1100; i++) {
        ic_store_frame f = {.media = i,
                            .hold = IC_STORE_HOLD_KEEP,
                            .head = "h",
                            .head_bytes = 1,
                            .bulk = "b",
                            .bulk_bytes = 1};
        ic_assert_ok(ic_store_frame_append(s, id, &f, NULL, &e), &e);
    }
    ic_assert_ok(ic_store_batch_commit(s, &e), &e);
    checkpoint(s, id, 1100);
    ic_assert_ok(ic_store_frame_limit(s, id, 0, &gone, &e), &e);
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_store_close(&s);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM reel_use"), 1024);
    assert_int_equal(ic_test_sql_number(path, "SELECT min(number) FROM frame"), 77);
}

/* Ensures that forks and marks share frames: nothing is copied, what one lets go of the others
 * keep, what is added later is one's own, and the last one gives the room back. */
static void test_copies_share(void **state)
{
    (void)state;
    char path[300], id[IC_STORE_ID_CHARS + 1], fork[IC_STORE_ID_CHARS + 1];
    char copy[IC_STORE_ID_CHARS + 1];
    ic_store *s = ic_test_store_start(path, id);
    ic_store_dropped gone;
    ic_store_sizes sizes;
    int64_t used, used_after;
    for (int i = 1; i <= 100; i++)
        add_frame(s, id, 1, i <= 60 ? IC_STORE_HOLD_KEEP : IC_STORE_HOLD_REPLAY, i);
    checkpoint(s, id, 40);
    ic_assert_ok(ic_store_used_bytes(s, &used, &e), &e);
    ic_assert_ok(ic_store_session_fork(s, id, NULL, "fork", 1, fork, &e), &e);
    ic_assert_ok(ic_store_mark_add(s, id, "here", 1, 1, copy, &e), &e);
    ic_assert_ok(ic_store_used_bytes(s, &used_after, &e), &e);
    assert_true(used_after - used < 20 * 16384);
    assert_int_equal(add_frame(s, id, 1, IC_STORE_HOLD_KEEP, 500), 101);
    assert_int_equal(add_frame(s, fork, 1, IC_STORE_HOLD_KEEP, 600), 101);
    checkpoint(s, id, 101);
    ic_assert_ok(ic_store_frame_limit(s, id, 0, &gone, &e), &e);
    assert_int_equal(look(s, id).held, 0);
    seen n = look(s, fork);
    assert_int_equal(n.frames, 101);
    assert_int_equal(n.held, 101); /* what its replay needs, too */
    int64_t next = 41;
    ic_assert_ok(ic_store_journal_read(s, fork, 0, count_record, &next, &e), &e);
    assert_int_equal(next, 102);
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_assert_ok(ic_store_session_delete(s, id, &e), &e);
    assert_int_equal(look(s, fork).held, 101);
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_assert_ok(ic_store_session_delete(s, fork, &e), &e);
    ic_assert_ok(ic_store_shrink(s, &e), &e);
    ic_assert_ok(ic_store_sizes_all(s, &sizes, &e), &e);
    assert_true(sizes.total < 40 * 16384);
    ic_store_close(&s);
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM frame"), 0);
}

/* Ensures that an export carries what is kept, what is left of the rest and what the journal needs,
 * each as it was; and that the session goes on there as it would here. */
static void test_export(void **state)
{
    (void)state;
    char path[300], id[IC_STORE_ID_CHARS + 1], other_path[300], other[IC_STORE_ID_CHARS + 1];
    ic_store *s = ic_test_store_start(path, id), *to = ic_test_store_start(other_path, other);
    ic_store_export *x = NULL;
    ic_store_import *in = NULL;
    bool last = false;
    for (int i = 1; i <= 30; i++) {
        if (i % 10 == 0)
            add_record(s, id);
        else
            add_frame(s, id, 1 + i / 10, i < 10 ? IC_STORE_HOLD_REPLAY : IC_STORE_HOLD_KEEP, i);
    }
    checkpoint(s, id, 15);
    ic_assert_ok(ic_store_export_begin(s, id, NULL, NULL, "m", 1, "l", &x, &e), &e);
    ic_assert_ok(ic_store_import_begin(to, 0, &in, &e), &e);
    while (!last) {
        ic_buf bytes = {0};
        ic_assert_ok(ic_store_export_read(x, 300000, &bytes, &last, &e), &e);
        ic_assert_ok(ic_store_import_put(in, bytes.data, bytes.size, &e), &e);
        ic_buf_fini(&bytes);
    }
    ic_store_export_close(&x);
    ic_assert_ok(ic_store_import_complete(in, &e), &e);
    ic_assert_ok(ic_store_import_adopt(in, "local", "t", other, &e), &e);
    ic_store_import_close(&in, true);
    seen here = look(s, id), there = look(to, other);
    assert_int_equal(here.held, 18);
    assert_memory_equal(&here, &there, sizeof here);
    int64_t next = 16;
    ic_assert_ok(ic_store_journal_read(to, other, 0, count_record, &next, &e), &e);
    assert_int_equal(next, 31);
    assert_int_equal(add_frame(to, other, 3, IC_STORE_HOLD_KEEP, 31), 31);
    ic_assert_ok(ic_store_check(to, &e), &e);
    ic_store_close(&s);
    ic_store_close(&to);
}

/* Ensures that a damaged frame is told and the others are read; that a kept one does not keep the
 * session from its journal, and one that a replay needs does. */
static void test_damage(void **state)
{
    (void)state;
    char path[300], id[IC_STORE_ID_CHARS + 1];
    ic_store *s = ic_test_store_start(path, id);
    for (int i = 1; i <= 6; i++)
        add_frame(s, id, 1, IC_STORE_HOLD_KEEP, i);
    checkpoint(s, id, 4);
    ic_store_close(&s);
    ic_test_sql(path, "UPDATE frame SET bulk = zeroblob(length(bulk)) WHERE number = 2");
    s = ic_test_store_reopen(NULL, path);
    seen n = look(s, id);
    assert_int_equal(n.frames, 6);
    assert_int_equal(n.damaged, 1);
    assert_int_equal(n.held, 5);
    int64_t next = 5;
    ic_assert_ok(ic_store_journal_read(s, id, 0, count_record, &next, &e), &e);
    assert_int_equal(ic_store_check(s, &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "frame 2"));
    ic_store_close(&s);
    ic_test_sql(path, "UPDATE frame SET bulk = NULL WHERE number = 6");
    s = ic_test_store_reopen(NULL, path);
    next = 5;
    assert_int_equal(ic_store_journal_read(s, id, 0, count_record, &next, &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "frame 6"));
    ic_store_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_journal_two_lives),
        cmocka_unit_test(test_written_once),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_old_records_go),
        cmocka_unit_test(test_copies_share),
        cmocka_unit_test(test_export),
        cmocka_unit_test(test_damage),
    };
    return IC_TEST_RUN(tests);
}
