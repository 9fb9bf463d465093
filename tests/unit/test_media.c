/* ic_media on small clips: which picture is which sample, colours, rotation, ends, notices, errors.
 * IC_NEEDS_SERVER */
#include "ic_test.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "actors/media/ic_media.h"
#include "base/ic_mem.h"

#define CLIPS IC_SOURCE_DIR "/tests/data/media/"

static const char *const clip_roots[] = {CLIPS};

/* --- helpers ---------------------------------------------------------------------------------- */

static ic_media_source file_source(const char *path)
{
    return (ic_media_source){
        .kind = IC_MEDIA_FILE, .name = path, .roots = clip_roots, .roots_count = 1, .size = -1};
}

static ic_media_config config_at(double fps)
{
    ic_media_config cfg;
    ic_media_config_init(&cfg);
    cfg.fps = fps;
    return cfg;
}

static ic_media *open_clip(const char *path, const ic_media_config *cfg)
{
    ic_media_source src = file_source(path);
    ic_media *m = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_media_open(&m, &src, cfg, &e), &e);
    return m;
}

/* Number of the picture, from its grey: picture n of the clips has luma 20 + 7 n. */
static int number_of(const ic_frame *f)
{
    const uint8_t *p = f->rgb + 3 * ((size_t)f->width * (size_t)(f->height / 2) + 5);
    return (int)lround((p[1] * 219.0 / 255.0 + 16.0 - 20.0) / 7.0);
}

typedef struct seen {
    int count;
    int number[128];
    int64_t pts_us[128];
    int end;
    ic_error e;
    ic_media_stats stats;
    ic_media_info info;
    char notices[1024];
} seen;

/* Reads m to its end and closes it. */
static seen see(ic_media *m)
{
    seen s = {0};
    ic_frame *f = NULL;
    s.info = *ic_media_get_info(m);
    while ((s.end = ic_media_next(m, &f, &s.e)) == IC_OK && s.count < 128) {
        assert_int_equal(f->ordinal, s.count);
        s.number[s.count] = number_of(f);
        s.pts_us[s.count++] = f->pts_us;
        ic_frame_unref(&f);
    }
    ic_media_get_stats(m, &s.stats);
    for (size_t i = 0; ic_media_notice(m, i); i++) {
        strcat(s.notices, ic_media_notice(m, i));
        strcat(s.notices, "\n");
    }
    ic_media_close(&m);
    return s;
}

static seen see_clip(const char *path, const ic_media_config *cfg)
{
    return see(open_clip(path, cfg));
}

/* A byte source over a file's content; `stall_at`: from there on it has nothing, for ever. */
typedef struct bytes {
    uint8_t *data;
    size_t size, at, stall_at;
    size_t piece; /* most bytes of one read */
    int fail;     /* code of the read at stall_at instead of IC_EAGAIN */
} bytes;

static int64_t bytes_read(void *user, uint8_t *into, size_t size)
{
    bytes *b = user;
    if (b->stall_at && b->at >= b->stall_at)
        return b->fail ? b->fail : IC_EAGAIN;
    size_t end = b->stall_at ? b->stall_at : b->size;
    size = size < end - b->at ? size : end - b->at;
    size = size < b->piece ? size : b->piece;
    memcpy(into, b->data + b->at, size);
    b->at += size;
    return (int64_t)size;
}

static int bytes_seek(void *user, int64_t offset)
{
    bytes *b = user;
    if (offset > (int64_t)b->size)
        return IC_EINVAL;
    b->at = (size_t)offset;
    return IC_OK;
}

static bytes load(const char *path)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    bytes b = {.data = ic_alloc(1 << 20), .piece = 1000};
    b.size = fread(b.data, 1, 1 << 20, f);
    fclose(f);
    return b;
}

static ic_media_source byte_source(bytes *b, bool can_seek)
{
    return (ic_media_source){.kind = IC_MEDIA_BYTES,
                             .name = "upload",
                             .read = bytes_read,
                             .seek = can_seek ? bytes_seek : NULL,
                             .size = can_seek ? (int64_t)b->size : -1,
                             .user = b};
}

/* --- which picture is which sample ------------------------------------------------------------ */

/* Ensures that with fps 0 every picture comes once, in the order of showing, those at the end that
 * the decoder holds back too. */
static void test_every_picture(void **state)
{
    (void)state;
    static const char *const clips[] = {CLIPS "front.mp4", CLIPS "end.mp4"};
    ic_media_config cfg = config_at(0);
    for (size_t c = 0; c < 2; c++) {
        seen s = see_clip(clips[c], &cfg);
        assert_int_equal(s.end, IC_ECLOSED);
        assert_int_equal(s.count, 30);
        for (int i = 0; i < 30; i++) {
            assert_int_equal(s.number[i], i);
            assert_int_equal(s.pts_us[i], i * 100000);
        }
        assert_int_equal(s.stats.decoded, 30);
        assert_int_equal(s.stats.corrupt, 0);
        assert_string_equal(s.notices, "");
    }
}

/* Ensures the rule: sample k is the last picture with pts <= k/fps, for fps below and above the
 * clip's own. */
static void test_sampling_rule(void **state)
{
    (void)state;
    static const double rates[] = {1, 2, 3, 4, 7, 10, 12.5, 25};
    for (size_t r = 0; r < sizeof rates / sizeof rates[0]; r++) {
        ic_media_config cfg = config_at(rates[r]);
        seen s = see_clip(CLIPS "front.mp4", &cfg);
        assert_int_equal(s.end, IC_ECLOSED);
        assert_int_equal(s.count, (int)ceil(3.0 * rates[r] - 1e-9));
        for (int k = 0; k < s.count; k++) {
            assert_int_equal(s.pts_us[k], llround(k * 1e6 / rates[r]));
            assert_int_equal(s.number[k], (int)floor(k / rates[r] * 10.0 + 1e-4));
        }
    }
}

/* Ensures that a picture shown twice is counted as repeated and that max_frames ends the source. */
static void test_repeats_and_max_frames(void **state)
{
    (void)state;
    ic_media_config cfg = config_at(20);
    cfg.max_frames = 7;
    seen s = see_clip(CLIPS "front.mp4", &cfg);
    assert_int_equal(s.count, 7);
    assert_int_equal(s.end, IC_ECLOSED);
    assert_int_equal(s.stats.sampled, 7);
    assert_int_equal(s.stats.repeated, 3);
    assert_int_equal(s.stats.last_pts_us, 300000);
}

/* Ensures that pictures of varying length are placed by their stamps, on a clock that starts at 0
 * though the file's starts at 5 s. */
static void test_variable_rate(void **state)
{
    (void)state;
    ic_media_config cfg = config_at(0);
    seen all = see_clip(CLIPS "vfr.mkv", &cfg);
    assert_int_equal(all.count, 20);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(all.number[i], i);
        assert_int_equal(all.pts_us[i], i < 10 ? i * 100000 : 2000000 + (i - 10) * 250000);
    }
    cfg.fps = 4;
    seen s = see_clip(CLIPS "vfr.mkv", &cfg);
    /* 0, .25, .5, .75, then picture 9 until 2 s, then one picture a quarter of a second */
    static const int want[] = {0, 2, 5, 7, 9, 9, 9, 9, 10, 11, 12};
    for (int k = 0; k < 11; k++)
        assert_int_equal(s.number[k], want[k]);
    assert_int_equal(s.number[s.count - 1], 19);
    assert_string_equal(s.notices, "");
}

/* Ensures that a range begins exactly at `from`, ends before `to`, and that seeking changes no
 * sample. */
static void test_range(void **state)
{
    (void)state;
    static const char *const clips[] = {CLIPS "front.mp4", CLIPS "end.mp4"};
    for (size_t c = 0; c < 2; c++)
        for (int from = 0; from <= 2800; from += 350) {
            ic_media_config cfg = config_at(5);
            cfg.from_us = from * 1000;
            cfg.to_us = cfg.from_us + 500000;
            seen s = see_clip(clips[c], &cfg);
            int left = (3000 - from + 199) / 200;
            assert_int_equal(s.count, left < 3 ? left : 3);
            for (int k = 0; k < s.count; k++) {
                assert_int_equal(s.pts_us[k], (from + k * 200) * 1000);
                assert_int_equal(s.number[k], (from + k * 200) / 100);
            }
        }
}

/* Ensures that a range behind the end is an error that tells where the end is. */
static void test_range_behind_the_end(void **state)
{
    (void)state;
    ic_media_config cfg = config_at(2);
    cfg.from_us = 60 * 1000000;
    seen s = see_clip(CLIPS "front.mp4", &cfg);
    assert_int_equal(s.count, 0);
    assert_int_equal(s.end, IC_EINVAL);
    assert_non_null(strstr(s.e.text, "3.0 s"));
}

/* Ensures that a raw stream without stamps is counted at its own rate. */
static void test_no_stamps(void **state)
{
    (void)state;
    ic_media_config cfg = config_at(5);
    seen s = see_clip(CLIPS "raw.264", &cfg);
    assert_int_equal(s.count, 5);
    for (int k = 0; k < 5; k++)
        assert_int_equal(s.number[k], 2 * k);
    assert_int_equal(s.info.duration_us, -1);
}

/* Ensures that VP9 and AV1 are decoded to the same pictures. */
static void test_other_codecs(void **state)
{
    (void)state;
    static const char *const clips[] = {CLIPS "vp9.webm", CLIPS "av1.mp4"};
    static const char *const codecs[] = {"vp9", "av1"};
    ic_media_config cfg = config_at(10);
    for (size_t c = 0; c < 2; c++) {
        seen s = see_clip(clips[c], &cfg);
        assert_string_equal(s.info.codec, codecs[c]);
        assert_int_equal(s.count, 10);
        for (int k = 0; k < 10; k++)
            assert_int_equal(s.number[k], k);
    }
}

/* --- pixels ----------------------------------------------------------------------------------- */

static void assert_pixel(const ic_frame *f, int x, int y, int r, int g, int b, int within)
{
    const uint8_t *p = f->rgb + 3 * ((size_t)y * (size_t)f->width + (size_t)x);
    if (abs(p[0] - r) > within || abs(p[1] - g) > within || abs(p[2] - b) > within)
        fail_msg("pixel %d,%d is %d %d %d, not %d %d %d", x, y, p[0], p[1], p[2], r, g, b);
}

static ic_frame *first_frame(const char *path)
{
    ic_media_config cfg = config_at(2);
    ic_media *m = open_clip(path, &cfg);
    ic_frame *f = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_media_next(m, &f, &e), &e);
    assert_int_equal(f->width, ic_media_get_info(m)->width);
    assert_int_equal(f->height, ic_media_get_info(m)->height);
    ic_media_close(&m);
    return f;
}

/* Ensures that matrix and range follow the file's tags: the same red in three codings. */
static void test_colour_tags(void **state)
{
    (void)state;
    static const char *const clips[] = {CLIPS "red_709.mp4", CLIPS "red_601.mp4",
                                        CLIPS "red_601_full.mp4"};
    for (size_t c = 0; c < 3; c++) {
        ic_frame *f = first_frame(clips[c]);
        assert_pixel(f, 3, 3, 255, 0, 0, 2);
        assert_pixel(f, 31, 31, 255, 0, 0, 2);
        ic_frame_unref(&f);
    }
}

/* Ensures that pictures are opened as sources of one frame at time 0, and that their pixels are
 * right. */
static void test_still_images(void **state)
{
    (void)state;
    static const char *const clips[] = {CLIPS "halves.png", CLIPS "halves.webp",
                                        CLIPS "halves.jpg"};
    for (size_t c = 0; c < 3; c++) {
        ic_media_config cfg = config_at(2);
        cfg.from_us = 5000000; /* means nothing for a picture */
        ic_media *m = open_clip(clips[c], &cfg);
        assert_true(ic_media_get_info(m)->is_image);
        ic_frame *f = NULL;
        ic_error e = {0};
        ic_assert_ok(ic_media_next(m, &f, &e), &e);
        assert_int_equal(f->width, 24);
        assert_int_equal(f->height, 16);
        assert_int_equal(f->pts_us, 0);
        assert_pixel(f, 2, 8, 255, 0, 0, c == 2 ? 6 : 0);
        assert_pixel(f, 21, 8, 0, 0, 255, c == 2 ? 6 : 0);
        ic_frame_unref(&f);
        assert_int_equal(ic_media_next(m, &f, &e), IC_ECLOSED);
        assert_null(f);
        ic_media_close(&m);
    }
}

/* Ensures that the rotation of the metadata is applied: of a JPEG (what was left is at the top
 * after a quarter turn clockwise) and of an MP4. */
static void test_rotation(void **state)
{
    (void)state;
    ic_frame *f = first_frame(CLIPS "turned.jpg");
    assert_int_equal(f->width, 16);
    assert_int_equal(f->height, 24);
    assert_pixel(f, 8, 2, 255, 0, 0, 6);
    assert_pixel(f, 8, 21, 0, 0, 255, 6);
    ic_frame_unref(&f);
    ic_media_config cfg = config_at(2);
    ic_media *m = open_clip(CLIPS "turned.mp4", &cfg);
    assert_int_equal(ic_media_get_info(m)->rotation, 90);
    assert_int_equal(ic_media_get_info(m)->width, 48);
    assert_int_equal(ic_media_get_info(m)->height, 64);
    ic_media_close(&m);
}

/* --- information and notices ------------------------------------------------------------------ */

/* Ensures that the information tells sizes, rate, length, codec and container. */
static void test_info(void **state)
{
    (void)state;
    ic_media_config cfg = config_at(2);
    seen s = see_clip(CLIPS "front.mp4", &cfg);
    assert_int_equal(s.info.width, 64);
    assert_int_equal(s.info.height, 48);
    assert_int_equal(s.info.duration_us, 3000000);
    assert_true(fabs(s.info.fps - 10.0) < 1e-9);
    assert_string_equal(s.info.codec, "h264");
    assert_non_null(strstr(s.info.container, "mp4"));
    assert_true(s.info.is_seekable);
    assert_false(s.info.is_live);
    assert_false(s.info.is_image);
    assert_int_equal(s.info.sar_num, s.info.sar_den);
    assert_true(s.stats.bytes > 1000);
}

/* Ensures that a file cut off behind its index gives its pictures and a notice. */
static void test_truncated(void **state)
{
    (void)state;
    ic_media_config cfg = config_at(10);
    seen s = see_clip(CLIPS "cut.mp4", &cfg);
    assert_int_equal(s.end, IC_ECLOSED);
    assert_true(s.count >= 20 && s.count < 50);
    assert_non_null(strstr(s.notices, "truncated"));
}

static void assert_refused(const char *path, int code, const char *word)
{
    ic_media_source src = file_source(path);
    ic_media_config cfg = config_at(2);
    ic_media *m = (ic_media *)&src;
    ic_error e = {0};
    int rc = ic_media_open(&m, &src, &cfg, &e);
    if (rc != code || !strstr(e.text, word))
        fail_msg("%s: %s \"%s\" instead of %s \"%s\"", path, ic_err_name(rc), e.text,
                 ic_err_name(code), word);
    assert_null(m);
}

/* Ensures that what is no video, or cannot be decoded, is refused with its reason. */
static void test_refusals(void **state)
{
    (void)state;
    assert_refused(CLIPS "sound.mp3", IC_EFORMAT, "only sound");
    assert_refused(CLIPS "cover.mp3", IC_EFORMAT, "cover picture");
    assert_refused(CLIPS "lost.mp4", IC_EFORMAT, "moov");
    assert_refused(CLIPS "make_media.sh", IC_EFORMAT, "not a video");
    assert_refused(CLIPS "bomb.png", IC_ELIMIT, "larger");
}

/* Ensures that settings that make no sense are refused before anything is opened. */
static void test_senseless_config(void **state)
{
    (void)state;
    ic_media_config bad[6];
    for (int i = 0; i < 6; i++)
        bad[i] = config_at(2);
    bad[0].fps = NAN;
    bad[1].fps = -1;
    bad[2].from_us = -1;
    bad[3].from_us = bad[3].to_us = 7;
    bad[4].packet_timeout_ms = 0;
    bad[5].threads = 0;
    ic_media_source src = file_source(CLIPS "front.mp4");
    for (int i = 0; i < 6; i++) {
        ic_media *m = NULL;
        ic_error e = {0};
        assert_int_equal(ic_media_open(&m, &src, &bad[i], &e), IC_EINVAL);
        assert_null(m);
    }
}

/* Ensures that a video whose pictures are too large for the config is refused by its head alone. */
static void test_max_pixels(void **state)
{
    (void)state;
    ic_media_source src = file_source(CLIPS "front.mp4");
    ic_media_config cfg = config_at(2);
    cfg.max_pixels = 64 * 48;
    ic_media *m = open_clip(src.name, &cfg);
    ic_media_close(&m);
    cfg.max_pixels--;
    ic_error e = {0};
    assert_int_equal(ic_media_open(&m, &src, &cfg, &e), IC_ELIMIT);
}

/* --- bytes ------------------------------------------------------------------------------------ */

/* Ensures that uploads give the same pictures as files, in small pieces, with and without
 * seeking. */
static void test_bytes(void **state)
{
    (void)state;
    for (int can_seek = 0; can_seek < 2; can_seek++) {
        bytes b = load(CLIPS "front.mp4");
        b.piece = 7;
        ic_media_source src = byte_source(&b, can_seek);
        ic_media_config cfg = config_at(10);
        ic_media *m = NULL;
        ic_error e = {0};
        ic_assert_ok(ic_media_open(&m, &src, &cfg, &e), &e);
        assert_int_equal(ic_media_get_info(m)->is_seekable, can_seek);
        seen s = see(m);
        assert_int_equal(s.count, 30);
        for (int k = 0; k < 30; k++)
            assert_int_equal(s.number[k], k);
        ic_free(b.data);
    }
}

/* Puts a box that means nothing before the index, so large that going back is no longer a matter of
 * the reader's buffer. */
static void push_index_back(bytes *b)
{
    enum { PAD = 200000 };
    static const uint8_t box[8] = {0, PAD >> 16, (PAD >> 8) & 255, PAD & 255, 'f', 'r', 'e', 'e'};
    uint8_t *moov = memmem(b->data, b->size, "moov", 4);
    assert_non_null(moov);
    uint8_t *at = moov - 4;
    memmove(at + PAD, at, b->size - (size_t)(at - b->data));
    memset(at, 0, PAD);
    memcpy(at, box, sizeof box);
    b->size += PAD;
}

/* Ensures that an index at the end works over a source that seeks, and that one that cannot is
 * told the cure. */
static void test_bytes_index_at_end(void **state)
{
    (void)state;
    bytes b = load(CLIPS "end.mp4");
    b.piece = 4096;
    push_index_back(&b);
    ic_media_source src = byte_source(&b, true);
    ic_media_config cfg = config_at(10);
    ic_media *m = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_media_open(&m, &src, &cfg, &e), &e);
    assert_int_equal(see(m).count, 30);
    b.at = 0;
    src = byte_source(&b, false);
    assert_int_equal(ic_media_open(&m, &src, &cfg, &e), IC_EUNSUPPORTED);
    assert_non_null(strstr(e.text, "faststart"));
    ic_free(b.data);
}

/* Ensures that nothing coming is a timeout, in opening and in reading on, and that it is final. */
static void test_stalled_bytes(void **state)
{
    (void)state;
    bytes b = load(CLIPS "vfr.mkv");
    ic_media_config cfg = config_at(0);
    cfg.packet_timeout_ms = 60;
    cfg.open_timeout_ms = 10000;
    ic_media_source src = byte_source(&b, false);
    ic_media *m = NULL;
    ic_error e = {0};
    b.stall_at = 100;
    assert_int_equal(ic_media_open(&m, &src, &cfg, &e), IC_ETIMEOUT);
    assert_null(m);
    b.at = 0;
    b.fail = IC_ENOTFOUND;
    assert_int_equal(ic_media_open(&m, &src, &cfg, &e), IC_ENOTFOUND);
    ic_free(b.data);
}

static void *interrupt_later(void *m)
{
    nanosleep(&(struct timespec){.tv_nsec = 50 * 1000000L}, NULL);
    ic_media_interrupt(m);
    return NULL;
}

/* Endless: the same transport of bytes again and again, then nothing. */
static int64_t stalling_read(void *user, uint8_t *into, size_t size)
{
    bytes *b = user;
    if (b->at >= b->size)
        return IC_EAGAIN;
    return bytes_read(user, into, size);
}

/* Ensures that an interrupt from another thread ends a read that waits, and all later ones. */
static void test_interrupt(void **state)
{
    (void)state;
    bytes b = load(CLIPS "raw.264");
    ic_media_source src = byte_source(&b, false);
    src.read = stalling_read;
    ic_media_config cfg = config_at(0);
    cfg.live = true;
    cfg.packet_timeout_ms = 600000;
    cfg.open_timeout_ms = 600000;
    /* Opening needs more bytes than the clip has: let it have them many times over. */
    bytes many = {.data = ic_alloc(b.size * 400), .piece = 4096};
    for (int i = 0; i < 400; i++)
        memcpy(many.data + (size_t)i * b.size, b.data, b.size);
    many.size = b.size * 400;
    src.user = &many;
    ic_media *m = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_media_open(&m, &src, &cfg, &e), &e);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, interrupt_later, m), 0);
    ic_frame *f = NULL;
    int rc;
    while ((rc = ic_media_next(m, &f, &e)) == IC_OK)
        ic_frame_unref(&f);
    assert_int_equal(rc, IC_ECANCELED);
    pthread_join(t, NULL);
    assert_int_equal(ic_media_next(m, &f, &e), IC_ECANCELED);
    assert_null(f);
    ic_media_close(&m);
    ic_free(many.data);
    ic_free(b.data);
}

/* A live source in two halves: the second one comes when the test lets it. */
static int64_t halting_read(void *user, uint8_t *into, size_t size)
{
    bytes *b = user;
    if (b->stall_at && b->at >= b->stall_at)
        return IC_EAGAIN;
    return bytes_read(user, into, size);
}

/* Ensures that a live source that is silent for a while is a timeout each time it is asked, and
 * goes on when it speaks again, without a picture lost. */
static void test_live_silence(void **state)
{
    (void)state;
    bytes b = load(CLIPS "front.ts");
    b.stall_at = b.size - b.size / 4;
    ic_media_source src = byte_source(&b, false);
    src.read = halting_read;
    ic_media_config cfg = config_at(0);
    cfg.live = true;
    cfg.threads = 1;
    cfg.packet_timeout_ms = 40;
    ic_media *m = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_media_open(&m, &src, &cfg, &e), &e);
    ic_frame *f = NULL;
    int count = 0, rc;
    while ((rc = ic_media_next(m, &f, &e)) == IC_OK) {
        assert_int_equal(number_of(f), count++);
        ic_frame_unref(&f);
    }
    assert_int_equal(rc, IC_ETIMEOUT);
    assert_int_equal(ic_media_next(m, &f, &e), IC_ETIMEOUT);
    assert_true(count > 3 && count < 30);
    b.stall_at = 0;
    while ((rc = ic_media_next(m, &f, &e)) == IC_OK) {
        assert_int_equal(number_of(f), count++);
        ic_frame_unref(&f);
    }
    assert_int_equal(rc, IC_ECLOSED);
    assert_int_equal(count, 30);
    ic_media_close(&m);
    ic_free(b.data);
}

/* Ensures that a clock that jumps back (one recording behind another) is joined up: all pictures
 * come, each a tenth of a second after the one before, and the user is told. */
static void test_clock_jumps(void **state)
{
    (void)state;
    bytes b = load(CLIPS "front.ts");
    memcpy(b.data + b.size, b.data, b.size);
    b.size *= 2;
    ic_media_source src = byte_source(&b, false);
    ic_media_config cfg = config_at(0);
    ic_media *m = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_media_open(&m, &src, &cfg, &e), &e);
    seen s = see(m);
    assert_int_equal(s.count, 60);
    for (int i = 0; i < 60; i++) {
        assert_int_equal(s.number[i], i % 30);
        assert_int_equal(s.pts_us[i], i * 100000);
    }
    assert_int_equal(s.stats.jumps, 1);
    assert_non_null(strstr(s.notices, "jumps"));
    ic_free(b.data);
}

static void *stop_later(void *flag)
{
    nanosleep(&(struct timespec){.tv_nsec = 50 * 1000000L}, NULL);
    atomic_store((atomic_bool *)flag, true);
    return NULL;
}

/* Ensures that the stop flag ends an open that waits for its first bytes. */
static void test_stop_while_opening(void **state)
{
    (void)state;
    atomic_bool stop = false;
    bytes b = {.data = ic_alloc(1), .size = 1, .at = 1, .stall_at = 1};
    ic_media_source src = byte_source(&b, false);
    ic_media_config cfg = config_at(2);
    cfg.packet_timeout_ms = cfg.open_timeout_ms = 600000;
    cfg.stop = &stop;
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, stop_later, &stop), 0);
    ic_media *m = NULL;
    ic_error e = {0};
    assert_int_equal(ic_media_open(&m, &src, &cfg, &e), IC_ECANCELED);
    pthread_join(t, NULL);
    ic_free(b.data);
}

/* Ensures that a source that breaks in the middle first gives what was decoded, then its code,
 * again and again. */
static void test_source_breaks(void **state)
{
    (void)state;
    bytes b = load(CLIPS "cut.mp4");
    b.stall_at = b.size - 2000;
    b.fail = IC_EIO;
    ic_media_source src = byte_source(&b, false);
    ic_media_config cfg = config_at(10);
    ic_media *m = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_media_open(&m, &src, &cfg, &e), &e);
    ic_frame *f = NULL;
    int count = 0, rc;
    while ((rc = ic_media_next(m, &f, &e)) == IC_OK) {
        count++;
        ic_frame_unref(&f);
    }
    assert_true(count >= 5);
    assert_int_equal(rc, IC_EIO);
    assert_int_equal(ic_media_next(m, &f, &e), IC_EIO);
    assert_true(strlen(e.text) > 0);
    ic_media_close(&m);
    ic_free(b.data);
}

/* Ensures that no memory for a frame is an error and no crash. */
static void test_out_of_memory(void **state)
{
    (void)state;
    for (int n = 1; n <= 2; n++) {
        ic_media_config cfg = config_at(2);
        ic_media *m = open_clip(CLIPS "front.mp4", &cfg);
        ic_frame *f = NULL;
        ic_error e = {0};
        ic_mem_fail_after(n, 0);
        assert_int_equal(ic_media_next(m, &f, &e), IC_ENOMEM);
        ic_mem_fail_after(0, 0);
        assert_null(f);
        ic_media_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_picture),
        cmocka_unit_test(test_sampling_rule),
        cmocka_unit_test(test_repeats_and_max_frames),
        cmocka_unit_test(test_variable_rate),
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_range_behind_the_end),
        cmocka_unit_test(test_no_stamps),
        cmocka_unit_test(test_other_codecs),
        cmocka_unit_test(test_colour_tags),
        cmocka_unit_test(test_still_images),
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_senseless_config),
        cmocka_unit_test(test_max_pixels),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_bytes_index_at_end),
        cmocka_unit_test(test_stalled_bytes),
        cmocka_unit_test(test_interrupt),
        cmocka_unit_test(test_live_silence),
        cmocka_unit_test(test_clock_jumps),
        cmocka_unit_test(test_stop_while_opening),
        cmocka_unit_test(test_source_breaks),
        cmocka_unit_test(test_out_of_memory),
    };
    return IC_TEST_RUN(tests);
}
