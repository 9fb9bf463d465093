/* ic_media on real clips: every file of the test data's video folders goes through, with the
 * pictures that ffmpeg counts; seeking shows what decoding from the start shows. Skipped where the
 * folder is not there. IC_NEEDS_SERVER */
#include "ic_test.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "actors/media/ic_media.h"
#include "base/ic_mem.h"

static const char *data_folder(void)
{
    const char *folder = getenv("INFCHAT_TEST_DATA");
    return folder && folder[0] ? folder : IC_TEST_DATA;
}

typedef struct expected {
    const char *path;
    int pictures; /* 0: does not open */
    int width, height;
    int64_t duration_ms; /* -1: unknown */
} expected;

/* Counts by ffmpeg 5.1; sizes after rotation. */
static const expected clips[] = {
    {"clips/asl_again.mkv", 77, 640, 480, 2600},
    {"clips/asl_book.mkv", 109, 640, 480, 3670},
    {"clips/asl_help.mkv", 58, 640, 480, 1930},
    {"clips/asl_learn.mkv", 61, 640, 480, 2030},
    {"clips/asl_no.mkv", 66, 640, 480, 2200},
    {"clips/asl_thanks.mkv", 51, 640, 480, 1700},
    {"clips/asl_walk.mkv", 89, 640, 480, 2970},
    {"clips/asl_yes.mkv", 65, 640, 480, 2200},
    {"clips/bbb_1080p_hevc_aac.ts", 120, 1920, 1080, 5010},
    {"clips/bbb_1s_vp8_vorbis.webm", 24, 1280, 720, 1000},
    {"clips/bbb_2s_h264_mp3.mp4", 48, 1280, 720, 2040},
    {"clips/bbb_720p60_h264_aac.ts", 600, 1280, 720, 10020},
    {"clips/bbb_720p_30s_vp8_vorbis.webm", 720, 1280, 720, 30000},
    {"clips/bbb_720p_h264_aac.mp4", 132, 1280, 720, 5310},
    {"clips/bbb_h264_aac_short.mkv", 1, 640, 356, 90},
    {"clips/bbb_imovie.mp4", 1, 640, 356, 70},
    {"clips/bbb_mpeg1_mp2.mpg", 1, 640, 356, 40},
    {"clips/bbb_msmpeg4v2_adpcm.avi", 1, 640, 356, 40},
    {"clips/bbb_rotated90.mp4", 45, 1080, 1920, 2010},
    {"clips/bbb_vp8_vorbis_short.webm", 1, 640, 356, 70},
    {"clips/bbb_wmv2_wmav2.asf", 1, 640, 356, 140},
    {"clips/bottle-detection.mp4", 1189, 640, 360, 39850},
    {"clips/bt709_full_range.mp4", 30, 1280, 720, 1000},
    {"clips/car-detection.mp4", 377, 768, 432, 30210},
    {"clips/flv1.flv", 25, 268, 156, 720},
    {"clips/foreman_qcif_BA_MW_D.264", 100, 176, 144, -1},
    {"clips/h264_10bit.mp4", 30, 200, 200, 1000},
    {"clips/h265_10bit.mp4", 30, 200, 200, 1000},
    {"clips/h265_128px_10fps.mp4", 10, 128, 128, 1000},
    {"clips/men_whisper_640x320.264", 9, 640, 320, -1},
    {"clips/numbered_frames_vp9.webm", 100, 1080, 1080, 3330},
    {"clips/office_woman_1280x720.264", 19, 1280, 720, -1},
    {"clips/one_pixel_1fps_yuv444.mp4", 5, 1, 1, 5000},
    {"clips/people-detection.gif", 23, 480, 270, 1910},
    {"clips/rotate_0.mov", 3, 568, 320, 100},
    {"clips/rotate_180.mov", 3, 568, 320, 100},
    {"clips/rotate_90.mov", 3, 320, 568, 100},
    {"clips/sar_2x1_h264.mp4", 150, 640, 360, 5000},
    {"clips/sintel_2s_h264_mp3.mp4", 48, 854, 480, 2040},
    {"clips/testsrc_av1.mkv", 125, 640, 360, 5000},
    {"clips/timecode_1080p_h264_aac.mp4", 251, 1920, 1080, 10050},
    {"clips/transparent_vp9.webm", 150, 200, 200, 5000},
    {"clips/two_people_320x192.264", 9, 320, 192, -1},
    {"clips/two_people_320x192_12fps.yuv", 0, 0, 0, 0},
    {"clips/unordered_pts.mov", 4, 50, 50, 120},
    {"damaged/Error_I_P.264", 6, 352, 288, -1},
    {"damaged/alpha_faulty.webm", 300, 1920, 1080, 5000},
    {"damaged/annexb_in_mp4_cut100000.mp4", 6, 1920, 1080, 35230},
    {"damaged/corrupt_ebml.mkv", 0, 0, 0, 0},
    {"damaged/decord_corrupted.mp4", 49, 1280, 720, 5000},
    {"damaged/foreman_IDR_LOST.264", 70, 176, 144, -1},
    {"damaged/foreman_P_LOST.264", 99, 176, 144, -1},
    {"damaged/stub_fixture-dash.mp4", 0, 0, 0, 0},
    {"damaged/stub_fixture-isom.mp4", 0, 0, 0, 0},
    {"damaged/stub_fixture-isomv2.mp4", 0, 0, 0, 0},
    {"damaged/stub_fixture-moov.mov", 0, 0, 0, 0},
    {"damaged/stub_fixture-mp4v2.mp4", 0, 0, 0, 0},
    {"damaged/stub_fixture.ogv", 0, 0, 0, 0},
    {"derived/bbb_4s_av1_aac.mp4", 96, 640, 360, 4000},
    {"derived/bbb_8s_mpeg4_mp3.avi", 192, 640, 360, 8050},
    {"derived/bbb_8s_vp9_opus.webm", 192, 640, 360, 8010},
    {"derived/bbb_cut600000.mp4", 0, 0, 0, 0},
    {"derived/bbb_zeroed4k_cut700000.webm", 302, 1280, 720, 30000},
    {"derived/car_vfr.mp4", 109, 512, 288, 14960},
};

enum { CLIP_COUNT = sizeof clips / sizeof clips[0] };

static int open_path(ic_media **m, const char *path, double fps, int64_t from_us, ic_error *e)
{
    const char *roots[] = {data_folder()};
    ic_media_source src = {
        .kind = IC_MEDIA_FILE, .name = path, .roots = roots, .roots_count = 1, .size = -1};
    char resolved[4096];
    src.name = realpath(path, resolved) ? resolved : path;
    ic_media_config cfg;
    ic_media_config_init(&cfg);
    cfg.fps = fps;
    cfg.from_us = from_us;
    return ic_media_open(m, &src, &cfg, e);
}

static char *clip_path(const char *name)
{
    return ic_strf("%s/video/%s", data_folder(), name);
}

/* Runs a clip to its end at 2 fps; the counts are of decoded pictures, not of samples. */
static void check_clip(const expected *x)
{
    ic_media *m = NULL;
    ic_frame *f = NULL;
    ic_error e = {0};
    char *path = clip_path(x->path);
    int rc = open_path(&m, path, 2.0, 0, &e);
    ic_free(path);
    if (!x->pictures) {
        assert_int_equal(rc, IC_EFORMAT);
        assert_true(strlen(e.text) > 20);
        return;
    }
    ic_assert_ok(rc, &e);
    const ic_media_info *info = ic_media_get_info(m);
    assert_int_equal(info->width, x->width);
    assert_int_equal(info->height, x->height);
    assert_true(x->duration_ms < 0 ? info->duration_us == -1
                                   : llabs(info->duration_us - x->duration_ms * 1000) <= 100000);
    int64_t last = -1;
    while ((rc = ic_media_next(m, &f, &e)) == IC_OK) {
        assert_int_equal(f->width, x->width);
        assert_int_equal(f->height, x->height);
        assert_true(f->pts_us == last + 500000 || (last == -1 && f->pts_us == 0));
        last = f->pts_us;
        ic_frame_unref(&f);
    }
    assert_int_equal(rc, IC_ECLOSED);
    ic_media_stats stats;
    ic_media_get_stats(m, &stats);
    if (stats.decoded != (uint64_t)x->pictures)
        fail_msg("%s: %d pictures instead of %d", x->path, (int)stats.decoded, x->pictures);
    bool cut = strstr(x->path, "cut") != NULL;
    assert_true((ic_media_notice(m, 0) && strstr(ic_media_notice(m, 0), "truncated")) == cut);
    ic_media_close(&m);
}

/* Ensures that every clip gives the pictures that ffmpeg gives, sizes and lengths right, and that
 * what is cut off is noticed; what cannot be opened is refused with a sentence. */
static void test_every_clip(void **state)
{
    (void)state;
    for (int i = 0; i < CLIP_COUNT; i++)
        check_clip(&clips[i]);
}

static int count_files(const char *folder)
{
    char *path = clip_path(folder);
    DIR *d = opendir(path);
    ic_free(path);
    assert_non_null(d);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(d)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(d);
    return n;
}

/* Ensures that no clip of the folders is left out of the table above. */
static void test_table_is_whole(void **state)
{
    (void)state;
    assert_int_equal(count_files("clips") + count_files("damaged") + count_files("derived"),
                     CLIP_COUNT);
}

static uint64_t hash(const ic_frame *f)
{
    uint64_t h = 1469598103934665603ULL;
    for (size_t i = 0; i < f->bytes; i++)
        h = (h ^ f->rgb[i]) * 1099511628211ULL;
    return h;
}

/* Hashes of the samples at 1 fps from from_s on; returns how many. */
static int samples(const char *name, int from_s, uint64_t *hashes, int most)
{
    ic_media *m = NULL;
    ic_frame *f = NULL;
    ic_error e = {0};
    char *path = clip_path(name);
    ic_assert_ok(open_path(&m, path, 1.0, from_s * 1000000LL, &e), &e);
    ic_free(path);
    int n = 0;
    while (n < most && ic_media_next(m, &f, &e) == IC_OK) {
        assert_int_equal(f->pts_us, (from_s + n) * 1000000LL);
        hashes[n++] = hash(f);
        ic_frame_unref(&f);
    }
    ic_media_close(&m);
    return n;
}

/* Ensures that beginning later shows the very pixels that decoding from the start shows, in each
 * kind of container, also in transport streams whose key pictures are not marked. */
static void test_seeks_are_exact(void **state)
{
    (void)state;
    static const char *const names[] = {
        "clips/bottle-detection.mp4",   "clips/bbb_720p60_h264_aac.ts",
        "clips/bbb_1080p_hevc_aac.ts",  "clips/bbb_720p_30s_vp8_vorbis.webm",
        "clips/testsrc_av1.mkv",        "clips/timecode_1080p_h264_aac.mp4",
        "derived/bbb_8s_mpeg4_mp3.avi", "derived/bbb_8s_vp9_opus.webm",
        "derived/bbb_4s_av1_aac.mp4",   "derived/car_vfr.mp4",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        uint64_t all[64], part[64];
        int n = samples(names[i], 0, all, 64);
        for (int from = 2; from<n; from += n> 12 ? 9 : 3) {
            assert_int_equal(samples(names[i], from, part, 64), n - from);
            assert_memory_equal(part, all + from, (size_t)(n - from) * sizeof part[0]);
        }
    }
}

/* Ensures that decoded pixels are those of the raw pictures that the stream was coded from: the
 * same scene as H.264 and as plain I420, compared by the mean difference of green. */
static void test_against_raw_pictures(void **state)
{
    (void)state;
    enum { W = 320, H = 192, PLANES = W * H * 3 / 2 };
    static uint8_t raw[PLANES];
    char *path = clip_path("clips/two_people_320x192_12fps.yuv");
    FILE *file = fopen(path, "rb");
    ic_free(path);
    assert_non_null(file);
    assert_int_equal(fread(raw, 1, PLANES, file), PLANES);
    fclose(file);
    ic_media *m = NULL;
    ic_frame *f = NULL;
    ic_error e = {0};
    path = clip_path("clips/two_people_320x192.264");
    ic_assert_ok(open_path(&m, path, 0, 0, &e), &e);
    ic_free(path);
    ic_assert_ok(ic_media_next(m, &f, &e), &e);
    double off = 0;
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++) {
            int c = (y / 2) * (W / 2) + x / 2;
            double luma = (raw[y * W + x] - 16) * 255.0 / 219.0;
            double u = raw[W * H + c] - 128, v = raw[W * H + W * H / 4 + c] - 128;
            double green = luma - 0.391762 * u - 0.812968 * v;
            green = green < 0 ? 0 : green > 255 ? 255 : green;
            off += fabs(green - f->rgb[3 * (y * W + x) + 1]);
        }
    if (off / (W * H) > 3.0)
        fail_msg("green is off by %.2f on average", off / (W * H));
    ic_frame_unref(&f);
    ic_media_close(&m);
}

int main(void)
{
    char *probe = clip_path("clips");
    struct stat st;
    bool there = stat(probe, &st) == 0;
    if (!there)
        printf("skipped: no folder %s (set INFCHAT_TEST_DATA)\n", probe);
    ic_free(probe);
    if (!there)
        return IC_TEST_SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_is_whole),
        cmocka_unit_test(test_every_clip),
        cmocka_unit_test(test_seeks_are_exact),
        cmocka_unit_test(test_against_raw_pictures),
    };
    return IC_TEST_RUN(tests);
}
