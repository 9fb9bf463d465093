/* session_store on damaged files: bytes of a store are flipped, cut or zeroed all over the file;
 * whatever is still read must be what was written, everything else an error that says so, and
 * nothing may crash. IC_NEEDS_SERVER */
#include "ic_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ic_mem.h"
#include "session_store/ic_store.h"

enum { RECORDS = 40, SEGMENTS = 3, SEGMENT_BYTES = 70000, FLIPS = 700, PAGE = 16384 };

static char path[300], id[IC_STORE_ID_CHARS + 1];
static uint8_t *sound;
static size_t sound_size;
static uint64_t random_state = 521288629u;

static void key_of(int i, uint8_t key[IC_STORE_KEY_BYTES])
{
    char text[32];
    ic_store_hash(text, (size_t)snprintf(text, sizeof text, "key %d", i), key);
}

static void write_rows(ic_store *s)
{
    ic_error e = {0};
    char text[40];
    uint8_t key[IC_STORE_KEY_BYTES];
    ic_store_verdict verdict;
    ic_assert_ok(ic_store_batch_begin(s, &e), &e);
    for (int i = 1; i <= RECORDS; i++) {
        size_t size = (size_t)snprintf(text, sizeof text, "record %d", i);
        ic_store_turn turn = {.role = IC_STORE_USER, .text = text, .text_bytes = size};
        ic_store_media media = {.name = text, .times = text, .times_bytes = size};
        key_of(i, key);
        ic_assert_ok(ic_store_journal_append(s, id, 1, i, key, text, size, NULL, &e), &e);
        ic_assert_ok(ic_store_event_append(s, id, 1, i, text, size, NULL, &e), &e);
        ic_assert_ok(ic_store_turn_append(s, id, &turn, NULL, &e), &e);
        ic_assert_ok(ic_store_media_put(s, id, &media, NULL, &e), &e);
        ic_assert_ok(ic_store_media_append(s, id, i, text, size, &e), &e);
        ic_assert_ok(ic_store_request_admit(s, key, key, 1, id, i, &verdict, NULL, &e), &e);
        ic_assert_ok(ic_store_request_update(s, key, IC_STORE_DONE, NULL, i, i + 1, text, size, &e),
                     &e);
    }
    ic_assert_ok(ic_store_batch_commit(s, &e), &e);
}

static void make_store(void)
{
    ic_error e = {0};
    ic_store *s = NULL;
    ic_store_writer *w = NULL;
    ic_store_segment segments[SEGMENTS];
    struct stat info;
    static uint8_t bytes[SEGMENT_BYTES];
    snprintf(path, sizeof path, "%s/corrupt/store.db", ic_test_dir());
    ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = path}, &e), &e);
    ic_assert_ok(ic_store_session_create(s, "local", "title", 1, 1, "cfg", 3, id, &e), &e);
    write_rows(s);
    ic_assert_ok(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    for (int i = 0; i < SEGMENTS; i++) {
        ic_test_noise(bytes, SEGMENT_BYTES, i);
        ic_assert_ok(ic_store_checkpoint_segment(w, 1, bytes, sizeof bytes, &segments[i], &e), &e);
    }
    ic_store_manifest m = {.meaning = "mean",
                           .meaning_bytes = 4,
                           .numerics = "num",
                           .time_us = 7,
                           .journal_seq = 10,
                           .live_bytes = 3,
                           .state = "state",
                           .state_bytes = 5,
                           .segments = segments,
                           .segment_count = SEGMENTS};
    ic_assert_ok(ic_store_checkpoint_finish(&w, &m, &e), &e);
    ic_store_close(&s);
    FILE *f = fopen(path, "rb");
    assert_int_equal(stat(path, &info), 0);
    sound_size = (size_t)info.st_size;
    sound = malloc(sound_size);
    assert_int_equal(fread(sound, 1, sound_size, f), sound_size);
    fclose(f);
}

static void write_file(const uint8_t *bytes, size_t size)
{
    char name[320];
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s%s", path, i ? "-shm" : "-wal");
        unlink(name);
    }
    FILE *f = fopen(path, "wb");
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
}

/* ---- what is read must be true ----------------------------------------------------------------
 */

static void expect_text(const void *bytes, size_t size, int64_t number)
{
    char text[40];
    assert_int_equal(size, snprintf(text, sizeof text, "record %lld", (long long)number));
    assert_memory_equal(bytes, text, size);
}

static int check_record(void *arg, const ic_store_record *r)
{
    (void)arg;
    expect_text(r->bytes, r->size, r->number);
    assert_int_equal(r->time_us, r->number);
    return 0;
}

static int check_turn(void *arg, const ic_store_turn *t)
{
    (void)arg;
    expect_text(t->text, t->text_bytes, t->number);
    return 0;
}

static int check_media(void *arg, const ic_store_media *m)
{
    (void)arg;
    expect_text(m->times, m->times_bytes, m->number);
    expect_text(m->name, strlen(m->name), m->number);
    return 0;
}

static int check_requests(ic_store *s, ic_error *e)
{
    uint8_t key[IC_STORE_KEY_BYTES];
    int rc = IC_OK;
    for (int i = 1; i <= RECORDS && !rc; i++) {
        ic_store_verdict verdict = IC_STORE_NEW;
        ic_store_request r = {0};
        key_of(i, key);
        rc = ic_store_request_find(s, key, key, &verdict, &r, e);
        if (!rc && verdict != IC_STORE_NEW) { /* not found at all: the full check's business */
            assert_int_equal(verdict, IC_STORE_SAME);
            assert_int_equal(r.first_event, i);
            expect_text(r.result, r.result_bytes, i);
        }
    }
    return rc;
}

static int check_checkpoint(ic_store *s, ic_error *e)
{
    static uint8_t got[SEGMENT_BYTES], expected[SEGMENT_BYTES];
    ic_store_reader *r = NULL;
    int rc = ic_store_checkpoint_open(s, id, &r, e);
    if (rc)
        return rc;
    const ic_store_manifest *m = ic_store_checkpoint_manifest(r);
    assert_int_equal(m->segment_count, SEGMENTS);
    assert_int_equal(m->journal_seq, 10);
    assert_memory_equal(m->state, "state", 5);
    assert_memory_equal(m->meaning, "mean", 4);
    assert_string_equal(m->numerics, "num");
    for (int i = 0; i < SEGMENTS && !rc; i++) {
        ic_test_noise(expected, SEGMENT_BYTES, i);
        rc = ic_store_checkpoint_read(r, (size_t)i, got, e);
        assert_true(rc || memcmp(got, expected, sizeof got) == 0);
    }
    ic_store_checkpoint_close(&r);
    return rc;
}

static int check_media_bytes(ic_store *s, ic_error *e)
{
    ic_buf out;
    int rc = IC_OK;
    ic_buf_init(&out, 0);
    for (int i = 1; i <= RECORDS && !rc; i++) {
        ic_buf_clear(&out);
        rc = ic_store_media_read(s, id, i, 0, &out, e);
        if (!rc)
            expect_text(out.data, out.size, i);
    }
    ic_buf_fini(&out);
    return rc;
}

/* Reads everything; counts what failed. */
static int read_all(void)
{
    ic_error e = {0};
    ic_store *s = NULL;
    ic_store_session session;
    int failed = 0;
    if (ic_store_open(&s, &(ic_store_config){.path = path}, &e) != IC_OK) {
        assert_true(strlen(e.text) > 20);
        return 1;
    }
    failed += ic_store_check(s, &e) != IC_OK;
    if (ic_store_session_get(s, id, &session, &e) == IC_OK) {
        assert_string_equal(session.owner, "local");
        assert_int_equal(session.journal_first, 11);
    }
    failed += ic_store_journal_read(s, id, 0, check_record, NULL, &e) != IC_OK;
    failed += ic_store_event_read(s, id, 0, check_record, NULL, &e) != IC_OK;
    failed += ic_store_turn_read(s, id, 0, check_turn, NULL, &e) != IC_OK;
    failed += ic_store_media_list(s, id, 0, check_media, NULL, &e) != IC_OK;
    failed += check_media_bytes(s, &e) != IC_OK;
    failed += check_requests(s, &e) != IC_OK;
    failed += check_checkpoint(s, &e) != IC_OK;
    ic_store_close(&s);
    return failed;
}

static int setup(void **state)
{
    make_store();
    return ic_test_group_setup(state);
}

static int teardown(void **state)
{
    free(sound);
    return ic_test_group_teardown(state);
}

/* Ensures that one changed byte, wherever something is written, is refused or harmless. */
static void test_flipped_bytes(void **state)
{
    (void)state;
    uint8_t *bytes = malloc(sound_size);
    int found = 0;
    write_file(sound, sound_size);
    assert_int_equal(read_all(), 0);
    for (int i = 0; i < FLIPS; i++) {
        size_t at = i < 100 ? (size_t)i : ic_test_draw(&random_state, (unsigned)sound_size);
        while (i >= 100 && sound[at] == 0) /* most of a page is empty */
            at = ic_test_draw(&random_state, (unsigned)sound_size);
        memcpy(bytes, sound, sound_size);
        bytes[at] = (uint8_t)(bytes[at] ^ (1u << ic_test_draw(&random_state, 8)));
        write_file(bytes, sound_size);
        found += read_all() > 0;
        assert_int_equal(ic_mem_live(), 0);
    }
    free(bytes);
    printf("%d of %d flips were found; the others hit what is not read or not covered\n", found,
           FLIPS);
    assert_true(found > FLIPS / 2);
}

/* Ensures the same for whole pages that are zeroed and stretches that are overwritten. */
static void test_overwritten_stretches(void **state)
{
    (void)state;
    uint8_t *bytes = malloc(sound_size);
    int found = 0;
    for (int i = 0; i < 200; i++) {
        size_t page = PAGE * ic_test_draw(&random_state, (unsigned)(sound_size / PAGE));
        size_t at = page + (i % 2 ? ic_test_draw(&random_state, PAGE - 600) : 0),
               length = i % 2 ? 1 + ic_test_draw(&random_state, 512) : PAGE;
        if (page == 0 && !(i % 2))
            continue;
        memcpy(bytes, sound, sound_size);
        for (size_t k = 0; k < length; k++)
            bytes[at + k] = i % 2 ? (uint8_t)ic_test_draw(&random_state, 256) : 0;
        write_file(bytes, sound_size);
        found += read_all() > 0;
    }
    free(bytes);
    printf("%d of 200 stretches were found\n", found);
    assert_true(found > 60);
}

/* Ensures that a file cut anywhere is refused, or reads true as far as it goes. */
static void test_cut_files(void **state)
{
    (void)state;
    for (size_t size = 1; size < sound_size; size += size < 200 ? 9 : 32768) {
        write_file(sound, size);
        assert_true(read_all() > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flipped_bytes),
        cmocka_unit_test(test_overwritten_stretches),
        cmocka_unit_test(test_cut_files),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
