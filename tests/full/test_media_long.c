/* ic_media over an hour of video: the count of its frames, and memory that does not grow.
 * IC_NEEDS_SERVER */
#include "ic_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "actors/media/ic_media.h"

#define CLIP IC_SOURCE_DIR "/tests/data/media/raw.264"

enum { CLIP_PICTURES = 10, HOUR_PICTURES = 36000, HOUR_SAMPLES = 7200 };

/* The clip again and again: one second of video each time. */
typedef struct loop {
    uint8_t clip[8192];
    size_t size, at;
    int rounds;
} loop;

static int64_t loop_read(void *user, uint8_t *into, size_t size)
{
    loop *l = user;
    if (l->at == l->size) {
        l->at = 0;
        l->rounds--;
    }
    if (l->rounds == 0)
        return 0;
    size = size < l->size - l->at ? size : l->size - l->at;
    memcpy(into, l->clip + l->at, size);
    l->at += size;
    return (int64_t)size;
}

static long resident_kb(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*d %ld", &pages), 1);
    fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Ensures that an hour of video gives its 7,200 frames at 2 fps, each at its time, and that the
 * resident memory after a tenth of it and at its end differ by at most 5 percent. */
static void test_an_hour(void **state)
{
    (void)state;
    static loop l = {.rounds = HOUR_PICTURES / CLIP_PICTURES};
    FILE *f = fopen(CLIP, "rb");
    assert_non_null(f);
    l.size = fread(l.clip, 1, sizeof l.clip, f);
    fclose(f);
    ic_media_source src = {.kind = IC_MEDIA_BYTES, .read = loop_read, .size = -1, .user = &l};
    ic_media_config cfg;
    ic_media_config_init(&cfg);
    ic_media *m = NULL;
    ic_frame *frame = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_media_open(&m, &src, &cfg, &e), &e);
    long early_kb = 0;
    int count = 0, rc;
    while ((rc = ic_media_next(m, &frame, &e)) == IC_OK) {
        assert_int_equal(frame->pts_us, count * 500000LL);
        ic_frame_unref(&frame);
        if (++count == HOUR_SAMPLES / 10)
            early_kb = resident_kb();
    }
    long late_kb = resident_kb();
    assert_int_equal(rc, IC_ECLOSED);
    assert_int_equal(count, HOUR_SAMPLES);
    ic_media_stats stats;
    ic_media_get_stats(m, &stats);
    assert_int_equal(stats.decoded, HOUR_PICTURES);
    ic_media_close(&m);
    printf("resident: %ld KiB after six minutes, %ld KiB after an hour\n", early_kb, late_kb);
#ifndef __SANITIZE_ADDRESS__ /* which keeps freed memory for a while */
    assert_true(late_kb <= early_kb + early_kb / 20);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_an_hour)};
    return IC_TEST_RUN(tests);
}
