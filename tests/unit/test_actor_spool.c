/* The upload spool: pieces in, bytes out, gaps and limits refused. IC_NEEDS_SERVER */
#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

#include "ic_test.h"

#include "actors/ic_spool.h"
#include "base/ic_mem.h"

static void open_spool(ic_spool *s, int64_t size, int64_t limit)
{
    ic_error e = {0};
    ic_assert_ok(ic_spool_open(s, ic_test_dir(), size, limit, &e), &e);
}

static void write_ok(ic_spool *s, uint64_t offset, const char *text, bool last)
{
    ic_error e = {0};
    ic_assert_ok(ic_spool_write(s, offset, text, strlen(text), last, &e), &e);
}

/* Bytes come out as they went in, from anywhere; those to come are awaited, and the end is told. */
static void bytes_come_out_as_they_went_in(void **state)
{
    (void)state;
    ic_spool s;
    char out[16];
    open_spool(&s, 10, 100);
    assert_int_equal(ic_spool_read(&s, out, sizeof out), IC_EAGAIN);
    write_ok(&s, 0, "hello", false);
    assert_int_equal(ic_spool_read(&s, out, 3), 3);
    assert_memory_equal(out, "hel", 3);
    assert_int_equal(ic_spool_seek(&s, 8), IC_OK);
    assert_int_equal(ic_spool_read(&s, out, 1), IC_EAGAIN); /* not there yet */
    write_ok(&s, 5, "world", false);
    assert_int_equal(ic_spool_read(&s, out, sizeof out), 2);
    assert_memory_equal(out, "ld", 2);
    assert_int_equal(ic_spool_read(&s, out, sizeof out), 0);
    assert_int_equal(ic_spool_seek(&s, 0), IC_OK);
    assert_int_equal(ic_spool_read(&s, out, sizeof out), 10);
    assert_memory_equal(out, "helloworld", 10);
    ic_spool_close(&s);
}

/* What is there already is stepped over; a gap is refused and names the expected place. */
static void repeats_are_stepped_over_and_gaps_refused(void **state)
{
    (void)state;
    ic_spool s;
    ic_error e = {0};
    char out[16];
    open_spool(&s, -1, 100);
    write_ok(&s, 0, "abcd", false);
    write_ok(&s, 2, "cdef", false);
    write_ok(&s, 0, "ab", false);
    assert_int_equal(s.received, 6);
    assert_int_equal(ic_spool_read(&s, out, sizeof out), 6);
    assert_memory_equal(out, "abcdef", 6);
    assert_int_equal(ic_spool_write(&s, 9, "x", 1, false, &e), IC_EINVAL);
    assert_non_null(strstr(e.text, "6"));
    write_ok(&s, 6, "", true);
    assert_int_equal(ic_spool_read(&s, out, sizeof out), 0);
    ic_spool_close(&s);
}

/* More than was announced, or than may be, is refused. */
static void limits_hold(void **state)
{
    (void)state;
    ic_spool s;
    ic_error e = {0};
    open_spool(&s, 4, 100);
    assert_int_equal(ic_spool_write(&s, 0, "abcde", 5, false, &e), IC_ELIMIT);
    ic_spool_close(&s);
    open_spool(&s, -1, 4);
    assert_int_equal(ic_spool_write(&s, 0, "abcde", 5, false, &e), IC_ELIMIT);
    ic_spool_close(&s);
    assert_int_equal(ic_spool_open(&s, ic_test_dir(), 101, 100, &e), IC_ELIMIT);
    assert_non_null(strstr(e.text, "media.upload_bytes"));
}

/* A grant is at most a window ahead of what came, never beyond the size; of a stream, never further
 * ahead of the reading than may wait. */
static void grants_are_bounded(void **state)
{
    (void)state;
    ic_spool s;
    char out[16];
    open_spool(&s, 20, 100);
    assert_int_equal(ic_spool_until(&s, 8, 4), 8);
    write_ok(&s, 0, "0123456789", false);
    assert_int_equal(ic_spool_until(&s, 8, 4), 18);
    write_ok(&s, 10, "01234567", false);
    assert_int_equal(ic_spool_until(&s, 8, 4), 20);
    ic_spool_close(&s);
    open_spool(&s, -1, 100);
    assert_int_equal(ic_spool_until(&s, 8, 6), 6);
    write_ok(&s, 0, "012345", false);
    assert_int_equal(ic_spool_until(&s, 8, 6), 6);
    assert_int_equal(ic_spool_read(&s, out, 4), 4);
    assert_int_equal(ic_spool_until(&s, 8, 6), 10);
    ic_spool_close(&s);
}

/* A stream gives back what has been read: its disk space stays bounded, and going back is refused.
 */
static void a_stream_stays_small(void **state)
{
    (void)state;
    enum { PIECE = 1 << 20, PIECES = 24 };
    ic_spool s;
    ic_error e = {0};
    struct stat info;
    char *piece = ic_alloc(PIECE);
    open_spool(&s, -1, 1 << 30);
    for (uint64_t i = 0; i < PIECES; i++) {
        memset(piece, (int)i + 1, PIECE);
        ic_assert_ok(ic_spool_write(&s, i * PIECE, piece, PIECE, false, &e), &e);
        assert_int_equal(ic_spool_read(&s, piece, PIECE), PIECE);
        assert_int_equal(piece[77], (int)i + 1);
    }
    assert_int_equal(fstat(s.fd, &info), 0);
    if (s.dropped) { /* file systems without holes keep it all: then it is only larger */
        assert_true((int64_t)info.st_blocks * 512 < 12 * PIECE);
        assert_int_equal(ic_spool_seek(&s, 0), IC_EUNSUPPORTED);
    }
    ic_free(piece);
    ic_spool_close(&s);
}

/* The file has no name: nothing stays behind, whatever happens to the process. */
static void nothing_stays_behind(void **state)
{
    (void)state;
    ic_spool s;
    open_spool(&s, -1, 100);
    write_ok(&s, 0, "secret", false);
    DIR *dir = opendir(ic_test_dir());
    int files = 0;
    struct dirent *entry;
    while ((entry = readdir(dir)))
        files += entry->d_name[0] != '.';
    closedir(dir);
    assert_int_equal(files, 0);
    ic_spool_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_come_out_as_they_went_in),
        cmocka_unit_test(repeats_are_stepped_over_and_gaps_refused),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(grants_are_bounded),
        cmocka_unit_test(a_stream_stays_small),
        cmocka_unit_test(nothing_stays_behind),
    };
    return IC_TEST_RUN(tests);
}
