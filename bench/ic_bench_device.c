/* infchat-bench engine --device cuda: every figure as a fraction of what the card gives in the same
 * run: bytes over its copy bandwidth, operations over its rate of products. Weights are made up on
 * the device; times are medians of whole steps, from the call to the end of the device's work. */
#include "bench/ic_bench_device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "bench/ic_bench.h"
#include "bench/ic_bench_towers.h"
#include "kernels/ic_resize.h"

static const ic_bench_shape shapes[] = {
    {"smoke", 2, 64, 4, 2, 16, 64, 96, 4, 64, 4, 64, 4,
     128}, /* tries all of it, measures nothing */
    {"demo", 6, 192, 6, 2, 32, 512, 2048, 4, 128, 4, 256, 28, 1},
    {"qwen3-vl-2b", 28, 2048, 16, 8, 128, 6144, 151936, 24, 1024, 16, 4096, 28, 1},
    {"qwen3-vl-8b", 36, 4096, 32, 8, 128, 12288, 151936, 27, 1152, 16, 4304, 28, 1},
};

enum {
    CHUNK = 4096,
    SCORED_ROWS = 256,
    WINDOW = 32,
    VISION_PAIRS = 8,
    STREAM_SLOTS = 4096,
    STREAM_ROWS = 204, /* of a pair: 196 tokens, markers and a timestamp */
    SESSIONS_MAX = 64,
    LAPS_MAX = 4096,
    PAIRS_A_MINUTE = 60, /* of stream time, at 2 sampled frames a second */
    PICTURE_W = 1920,
    PICTURE_H = 1080,
    SIDE = 448
};

typedef struct run {
    ic_device *d;
    const ic_bench_shape *s;
    double seconds; /* per figure */
    bool json;
    double copy_rate, product_rate;
    ic_bench_text text;
    ic_bench_vision vision;
} run;

/* --- time --- */

typedef struct laps {
    double took[LAPS_MAX], begin;
    int count;
} laps;

/* So many of something, of a shape that is measured in earnest. */
static int some(const run *r, int n)
{
    return n / r->s->shrink > 2 ? n / r->s->shrink : 2;
}

static bool goes_on(const run *r, const laps *l)
{
    int least = r->s->shrink > 1 ? 2 : 5;
    return l->count < least || (l->count < LAPS_MAX && ic_bench_now() - l->begin < r->seconds);
}

static int lap(run *r, laps *l, double start, int rc)
{
    rc = rc ? rc : ic_ops_wait(r->d);
    if (l->count < LAPS_MAX)
        l->took[l->count++] = ic_bench_now() - start;
    return rc;
}

static int by_time(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(laps *l)
{
    qsort(l->took, (size_t)l->count, sizeof *l->took, by_time);
    return l->count ? l->took[l->count / 2] : 0;
}

/* --- lines of the table --- */

static void show(const run *r, const char *name, double fraction, double required, double goal,
                 const char *what, double value, const char *unit)
{
    if (r->json)
        printf(
            "{\"figure\":\"%s\",\"fraction\":%.4f,\"required\":%.3f,\"goal\":%.3f,\"%s\":%.6g}\n",
            name, fraction, required, goal, what, value);
    else
        printf("%-46s %7.2f %%   %4.4g %%  %4.4g %%   %10.5g %s\n", name, fraction * 100,
               required * 100, goal * 100, value, unit);
    fflush(stdout);
}

static void show_value(const run *r, const char *name, double value, const char *unit)
{
    if (r->json)
        printf("{\"figure\":\"%s\",\"value\":%.6g,\"unit\":\"%s\"}\n", name, value, unit);
    else
        printf("%-46s                             %10.5g %s\n", name, value, unit);
    fflush(stdout);
}

/* --- decode --- */

static void drop_slabs(ic_slab **slabs, int n)
{
    for (int i = 0; i < n; i++)
        ic_slab_destroy(&slabs[i]);
}

static int fill(run *r, ic_slab *slab, int held, ic_error *e)
{
    int rc = 0, n;
    for (int at = 0; rc == 0 && at < held; at += n) {
        n = held - at < some(r, CHUNK) ? held - at : some(r, CHUNK);
        rc = ic_bench_text_prefill(&r->text, slab, n, 0, 0, e);
    }
    return rc;
}

/* n caches with `held` rows each, and room for some thousands of steps. */
static int hold(run *r, ic_slab **slabs, int n, int held, ic_score_kind score, ic_error *e)
{
    int rc = 0;
    for (int i = 0; rc == 0 && i < n; i++) {
        rc = ic_bench_text_slab(&r->text, held + some(r, LAPS_MAX) + 64, score, &slabs[i], e);
        rc = rc ? rc : fill(r, slabs[i], held, e);
    }
    return rc;
}

/* As the engine does it: all at once. */
static int evict_all(ic_slab **slabs, int n, const ic_plan *plan)
{
    ic_eviction list[SESSIONS_MAX];
    int rc = 0;
    for (int i = 0; i < n; i++)
        list[i] = (ic_eviction){.slab = slabs[i], .plan = *plan};
    ic_slab_evict_each(list, n);
    for (int i = 0; rc == 0 && i < n; i++)
        rc = list[i].rc;
    return rc;
}

/* Seconds of a step of decode; plan: what is evicted after each (NULL: nothing). */
static int time_decode(run *r, ic_slab **slabs, int n, const ic_plan *plan, double *seconds,
                       double *bytes, ic_error *e)
{
    int32_t tokens[SESSIONS_MAX];
    laps *l = ic_alloc(sizeof *l);
    int rc = 0;
    for (int i = 0; rc == 0 && i < 4; i++) /* the first ones bring scratch and are recorded */
        rc = ic_bench_text_decode(&r->text, slabs, n, tokens, e);
    l->begin = ic_bench_now();
    while (rc == 0 && goes_on(r, l) && l->count < some(r, LAPS_MAX) - 8) {
        double start = ic_bench_now();
        rc = ic_bench_text_decode(&r->text, slabs, n, tokens, e);
        if (plan && rc == 0)
            rc = evict_all(slabs, n, plan);
        rc = lap(r, l, start, rc);
    }
    *bytes = (double)r->text.weight_bytes;
    for (int i = 0; i < n; i++)
        *bytes += (double)ic_slab_row_bytes_live(slabs[i]);
    *seconds = median(l);
    ic_free(l);
    return rc;
}

static int measure_decode(run *r, ic_error *e)
{
    static const struct {
        const char *name;
        int sessions, held;
        double required, goal;
    } cases[] = {
        {"decode, 1 session of 8k slots", 1, 8192, 0.75, 0.88},
        {"decode, 8 sessions of 8k slots", 8, 8192, 0.70, 0.85},
        {"decode, 64 sessions of 2k slots", SESSIONS_MAX, 2048, 0.60, 0.80},
    };
    double single = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof cases / sizeof *cases; i++) {
        ic_slab *slabs[SESSIONS_MAX] = {NULL};
        double seconds = 0, bytes = 0;
        rc = hold(r, slabs, cases[i].sessions, some(r, cases[i].held), IC_SCORE_NONE, e);
        rc = rc ? rc : time_decode(r, slabs, cases[i].sessions, NULL, &seconds, &bytes, e);
        drop_slabs(slabs, cases[i].sessions);
        if (rc)
            break;
        double rate = cases[i].sessions / seconds;
        show(r, cases[i].name, bytes / seconds / r->copy_rate, cases[i].required, cases[i].goal,
             "tokens_per_s", rate, "tokens/s");
        if (i == 0)
            single = rate;
        else if (single > 0)
            show_value(r, "  over one session", rate / single, "times");
    }
    return rc;
}

/* The same step over keys that lie there rotated: what the rotation costs. */
static int measure_rotation(run *r, ic_error *e)
{
    enum { TOGETHER = 8, HELD = 8192 };
    ic_slab *slabs[TOGETHER] = {NULL};
    double reading = 0, rotated = 0, bytes;
    int rc = hold(r, slabs, TOGETHER, some(r, HELD), IC_SCORE_NONE, e);
    rc = rc ? rc : time_decode(r, slabs, TOGETHER, NULL, &reading, &bytes, e);
    for (int i = 0; rc == 0 && i < TOGETHER; i++) /* as many rows for the second as for the first */
        ic_slab_drop_last(slabs[i], ic_slab_used(slabs[i]) - some(r, HELD));
    r->text.rotated = true;
    rc = rc ? rc : time_decode(r, slabs, TOGETHER, NULL, &rotated, &bytes, e);
    r->text.rotated = false;
    drop_slabs(slabs, TOGETHER);
    if (rc == 0)
        show(r, "rotation while reading, against rotated keys", reading / rotated - 1, 0.05, 0.02,
             "step_s", reading, "s a step, 8 of 8k");
    return rc;
}

/* A row leaves after every step, by what all attention has paid to it, against saddle's steps. */
static int measure_h2o(run *r, ic_error *e)
{
    int budget = some(r, 4096);
    const ic_plan h2o = {.budget = budget, .sinks = 4, .recent = budget / 2, .scored = true};
    double saddle = 0, other = 0, bytes;
    ic_slab *slab = NULL;
    int rc = hold(r, &slab, 1, budget, IC_SCORE_WINDOW, e);
    rc = rc ? rc : time_decode(r, &slab, 1, NULL, &saddle, &bytes, e);
    ic_slab_destroy(&slab);
    rc = rc ? rc : hold(r, &slab, 1, budget, IC_SCORE_SUM, e);
    rc = rc ? rc : time_decode(r, &slab, 1, &h2o, &other, &bytes, e);
    ic_slab_destroy(&slab);
    if (rc == 0)
        show_value(r, "h2o's decode over saddle's, same budget", other / saddle, "times");
    return rc;
}

/* --- prefill --- */

/* Seconds of a slice of `rows` behind `held` rows; window: of them score; plan: carried out then.
 */
static int time_prefill(run *r, int held, int rows, int window, const ic_plan *plan,
                        double *seconds, ic_error *e)
{
    ic_slab *slab = NULL;
    laps *l = ic_alloc(sizeof *l);
    int rc = ic_bench_text_slab(&r->text, held + rows + 16, IC_SCORE_WINDOW, &slab, e);
    rc = rc ? rc : fill(r, slab, held, e);
    l->begin = ic_bench_now();
    for (int i = 0; rc == 0 && goes_on(r, l); i++) {
        double start = ic_bench_now();
        rc = ic_bench_text_prefill(&r->text, slab, rows, 0, window, e);
        if (rc == 0 && plan)
            rc = ic_slab_evict(slab, plan, NULL);
        rc = lap(r, l, start, rc);
        if (i == 0)
            l->count = 0; /* it brought scratch */
        if (rc == 0 && !plan)
            ic_slab_drop_last(slab, rows);
    }
    *seconds = median(l);
    ic_free(l);
    ic_slab_destroy(&slab);
    return rc;
}

static int measure_prefill(run *r, ic_error *e)
{
    double seconds;
    int rows = some(r, CHUNK), rc = time_prefill(r, 0, rows, 0, NULL, &seconds, e);
    if (rc == 0)
        show(r, "prefill, chunk of 4k (products alone)",
             r->text.product_flops * rows / seconds / r->product_rate, 0.55, 0.70, "tokens_per_s",
             rows / seconds, "tokens/s");
    return rc;
}

/* saddle over `budget` rows, as it is by default. */
static ic_plan saddle_plan(int budget)
{
    return (ic_plan){.budget = budget,
                     .sinks = 4,
                     .recent = budget * 45 / 100,
                     .scored = true,
                     .bias = 1,
                     .pool = 15,
                     .frames = 4,
                     .text = budget / 10,
                     .thin = 1,
                     .fade = 1.5f};
}

static int window_of(int rows)
{
    return rows < WINDOW ? rows : (int)WINDOW;
}

static int measure_scoring(run *r, ic_error *e)
{
    int held = some(r, 4096), rows = some(r, SCORED_ROWS), window = window_of(rows);
    const ic_plan saddle = saddle_plan(held);
    double plain, scored, evicting;
    int rc = time_prefill(r, held, rows, 0, NULL, &plain, e);
    rc = rc ? rc : time_prefill(r, held, rows, window, NULL, &scored, e);
    rc = rc ? rc : time_prefill(r, held, rows, window, &saddle, &evicting, e);
    if (rc)
        return rc;
    show(r, "saddle scoring, share of a 256-row chunk", (scored - plain) / scored, 0.04, 0.015,
         "chunk_s", scored, "s a chunk");
    show_value(r, "  selection and hole-filling beside it", (evicting - scored) / scored * 100,
               "%");
    return rc;
}

/* --- vision --- */

static int measure_vision(run *r, ic_error *e)
{
    laps *l = ic_alloc(sizeof *l);
    int pairs = r->vision.pairs_max, rc = ic_bench_vision_encode(&r->vision, pairs, e);
    rc = rc ? rc : ic_ops_wait(r->d);
    l->begin = ic_bench_now();
    while (rc == 0 && goes_on(r, l)) {
        double start = ic_bench_now();
        rc = lap(r, l, start, ic_bench_vision_encode(&r->vision, pairs, e));
    }
    double seconds = median(l);
    ic_free(l);
    if (rc == 0)
        show(r, "vision tower, 8 pairs of 448x448 at once",
             r->vision.product_flops * pairs / seconds / r->product_rate, 0.40, 0.60,
             "frames_per_s", 2 * pairs / seconds, "frames/s");
    return rc;
}

/* The rows of a pair, their scores, and what leaves. */
static int stream_pair(run *r, ic_slab *slab, int pair, int rows, const ic_plan *plan, ic_error *e)
{
    int rc = ic_bench_text_prefill(&r->text, slab, rows, (uint32_t)pair + 1, window_of(rows), e);
    return rc ? rc : ic_slab_evict(slab, plan, NULL);
}

/* Pairs of frames into one session, one after the other: tower, chunk, scores, selection. */
static int measure_stream(run *r, ic_error *e)
{
    int slots = some(r, STREAM_SLOTS), rows = some(r, STREAM_ROWS), full = slots / rows + 10;
    const ic_plan saddle = saddle_plan(slots);
    ic_slab *slab = NULL;
    laps *l = ic_alloc(sizeof *l);
    int rc = ic_bench_text_slab(&r->text, slots + rows + 16, IC_SCORE_WINDOW, &slab, e);
    for (int pair = 0; rc == 0 && (pair < full + 10 || goes_on(r, l)); pair++) {
        double start = ic_bench_now();
        rc = ic_bench_vision_encode(&r->vision, 1, e);
        rc = rc ? rc : stream_pair(r, slab, pair, rows, &saddle, e);
        rc = lap(r, l, start, rc);
        if (pair == full) { /* the cache is, too */
            l->count = 0;
            l->begin = ic_bench_now();
        }
    }
    double rate = 2 / median(l);
    ic_free(l);
    ic_slab_destroy(&slab);
    if (rc == 0 && r->json)
        show_value(r, "sampled frames/s into one session", rate, "frames/s");
    else if (rc == 0)
        printf("%-46s                60     134   %10.5g frames/s\n",
               "sampled frames/s into one session, saddle, 4k", rate);
    return rc;
}

/* Time of a token at minute 10 and at minute 60 of a stream (its rows without their tower, which
 * leaves nothing in the cache). When time is up before, the last minute that was reached says so.
 */
static int measure_minutes(run *r, ic_error *e)
{
    enum { BEGIN = 10, END = 60, PATIENCE = 20 };
    int slots = some(r, STREAM_SLOTS), rows = some(r, STREAM_ROWS), minute = 0, pair = 0;
    int a_minute = r->s->shrink > 1 ? 1 : PAIRS_A_MINUTE;
    const ic_plan saddle = saddle_plan(slots);
    double took[2] = {0, 0}, bytes, start = ic_bench_now();
    ic_slab *slab = NULL;
    int rc = ic_bench_text_slab(&r->text, slots + rows + some(r, LAPS_MAX) + 64, IC_SCORE_WINDOW,
                                &slab, e);
    while (rc == 0 && minute < END) {
        for (int i = 0; rc == 0 && i < a_minute; i++)
            rc = stream_pair(r, slab, pair++, rows, &saddle, e);
        minute++;
        bool last = minute == END || ic_bench_now() - start > PATIENCE * r->seconds;
        if (rc == 0 && (minute == BEGIN || (last && minute > BEGIN)))
            rc = time_decode(r, &slab, 1, NULL, &took[minute > BEGIN], &bytes, e);
        if (last && minute > BEGIN)
            break;
    }
    ic_slab_destroy(&slab);
    if (rc)
        return rc;
    char name[64];
    snprintf(name, sizeof name, "time per token at minute %d over minute %d", minute, (int)BEGIN);
    show(r, name, fabs(took[1] / took[0] - 1), 0.02, 0.02, "step_s", took[1], "s a token");
    return 0;
}

/* --- pictures --- */

/* A decoder's picture of 1920 x 1080 to a frame of 448 x 448, from host memory to host memory. */
static int measure_resize(run *r, ic_error *e)
{
    int part = r->s->shrink > 1 ? 16 : 1, w = PICTURE_W / part, h = PICTURE_H / part;
    int side = SIDE / part;
    size_t bytes = (size_t)w * (size_t)h * 3;
    uint8_t *from = ic_alloc(bytes), *to = ic_alloc((size_t)SIDE * SIDE * 3);
    double took[2];
    int rc = 0;
    for (size_t i = 0; i < bytes; i++)
        from[i] = (uint8_t)(i * 7 + i / 5760 * 3);
    for (int host = 0; rc == 0 && host < 2; host++) {
        laps *l = ic_alloc(sizeof *l);
        l->begin = ic_bench_now();
        while (rc == 0 && goes_on(r, l)) {
            double start = ic_bench_now();
            rc = host ? ic_resize_rgb(from, w, h, to, side, side, e)
                      : ic_device_resize_rgb(r->d, from, w, h, to, side, side, e);
            rc = lap(r, l, start, rc);
        }
        took[host] = median(l);
        ic_free(l);
    }
    ic_free(from);
    ic_free(to);
    if (rc)
        return rc;
    show_value(r, "1920x1080 to 448x448 on the device", took[0] * 1e3, "ms");
    show_value(r, "  by one thread of the host", took[1] * 1e3, "ms");
    return 0;
}

/* --- suspend and resume --- */

/* Bytes/s between page-locked host memory and the device, there and back. */
static double link_rate(run *r)
{
    const size_t bytes = ((size_t)512 << 20) / (size_t)r->s->shrink;
    char *host = ic_device_alloc_host(r->d, bytes), *device = ic_device_alloc(r->d, bytes);
    double best = 0;
    for (int i = 0; host && device && i < 5; i++) {
        double start = ic_bench_now();
        if (ic_device_download(r->d, host, device, bytes)
            || ic_device_upload(r->d, device, host, bytes))
            break;
        double rate = 2.0 * (double)bytes / (ic_bench_now() - start);
        best = rate > best ? rate : best;
    }
    ic_device_free_host(r->d, host);
    ic_device_free(r->d, device);
    return best;
}

/* A cache to page-locked memory and back, by the calls with which sessions are suspended and
 * resumed. */
static int save_and_load(const run *r, ic_slab *from, ic_slab *to, double *bytes, ic_error *e)
{
    enum { PIECE = 64 << 20 };
    ic_buf tables = {0}, rows = {.capacity = PIECE + 4096};
    uint64_t at = 0;
    bool more = true;
    rows.data = ic_device_alloc_host(r->d, rows.capacity);
    if (!rows.data)
        return ic_error_set(e, IC_ENOMEM, "no page-locked memory");
    int rc = ic_slab_save_tables(from, &tables);
    ic_cursor in;
    ic_cursor_init(&in, tables.data, tables.size);
    rc = rc ? rc : ic_slab_load_tables(to, &in, e);
    while (rc == 0 && more) {
        rows.size = 0;
        rc = ic_slab_save_rows(from, true, &at, PIECE, &rows, &more);
        rc = rc ? rc : ic_slab_load_rows(to, rows.data, rows.size, e);
        *bytes += 2 * (double)rows.size;
    }
    ic_buf_fini(&tables);
    ic_device_free_host(r->d, rows.data);
    return rc ? rc : ic_slab_load_finish(to, e);
}

static int measure_suspend(run *r, ic_error *e)
{
    int held = some(r, 8192);
    ic_slab *slabs[2] = {NULL};
    double rate = link_rate(r), bytes = 0, start = 0, took = 0;
    int rc = hold(r, slabs, 1, held, IC_SCORE_NONE, e);
    rc = rc ? rc : ic_ops_wait(r->d);
    rc = rc ? rc
            : ic_bench_text_slab(&r->text, held + some(r, LAPS_MAX) + 64, IC_SCORE_NONE, &slabs[1],
                                 e);
    start = ic_bench_now();
    rc = rc ? rc : save_and_load(r, slabs[0], slabs[1], &bytes, e);
    took = ic_bench_now() - start;
    drop_slabs(slabs, 2);
    if (rc)
        return rc;
    show_value(r, "link to host memory, there and back", rate * 1e-9, "GB/s");
    show(r, "suspend and resume of 8k slots", bytes / took / rate, 0.70, 0.90, "seconds", took,
         "s");
    return 0;
}

/* --- all of it --- */

static int measure_card(run *r, ic_error *e)
{
    bool small = r->s->hidden < 1024;
    int side = r->s->shrink > 1 ? 32 : small ? 256 : 8192;
    r->copy_rate = ic_device_read_rate(r->d, small ? 1 << 20 : (size_t)4 << 30, r->seconds);
    r->product_rate = ic_device_gemm_rate(r->d, IC_BF16, side, side, side, r->seconds);
    if (r->copy_rate <= 0 || r->product_rate <= 0)
        return ic_error_set(e, IC_EDEVICE, "the card could not be measured: %s",
                            ic_device_trouble(r->d));
    show_value(r, "copy bandwidth (read and written)", r->copy_rate * 1e-9, "GB/s");
    show_value(r, "bf16 products, 8192 x 8192 x 8192", r->product_rate * 1e-12, "TFLOP/s");
    return 0;
}

/* Room for products and pictures, as an engine takes it; caches bring their own as they come. */
static int reserve(run *r, ic_error *e)
{
    const ic_ops_bounds bounds = {.rows = some(r, CHUNK),
                                  .picture_bytes = (size_t)PICTURE_W * PICTURE_H * 3};
    int rc = ic_ops_reserve(r->d, &bounds);
    return rc ? ic_error_set(e, rc, "no memory to work in") : 0;
}

static int measure_all(run *r, ic_error *e)
{
    static int (*const parts[])(run *, ic_error *) = {
        measure_decode,   measure_prefill, measure_scoring, measure_vision, measure_stream,
        measure_rotation, measure_suspend, measure_resize,  measure_h2o,    measure_minutes};
    int rc = measure_card(r, e), pairs = r->s->shrink > 1 ? 1 : (int)VISION_PAIRS;
    int rows = some(r, CHUNK) > SESSIONS_MAX ? some(r, CHUNK) : (int)SESSIONS_MAX;
    rc = rc ? rc : ic_bench_text_new(&r->text, r->d, r->s, rows, SESSIONS_MAX, e);
    rc = rc ? rc : ic_bench_vision_new(&r->vision, r->d, r->s, pairs, e);
    rc = rc ? rc : reserve(r, e);
    for (size_t i = 0; rc == 0 && i < sizeof parts / sizeof *parts; i++)
        rc = parts[i](r, e);
    return rc;
}

int ic_bench_device(const char *kind, const char *shape, double seconds, bool json, ic_error *e)
{
    run r = {.seconds = seconds, .json = json};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, shape) == 0)
            r.s = &shapes[i];
    if (!r.s)
        return ic_error_set(e, IC_EINVAL,
                            "no shape \"%s\" for a device: smoke, demo, qwen3-vl-2b or "
                            "qwen3-vl-8b",
                            shape);
    int rc = ic_device_open(&r.d, &(ic_device_config){.kind = kind}, e);
    if (rc)
        return rc;
    const ic_device_info *info = ic_device_info_of(r.d);
    if (json)
        printf("{\"device\":\"%s\",\"numerics\":\"%s\",\"shape\":\"%s\"}\n", info->name,
               info->numerics, r.s->name);
    else
        printf("%s, %s, %s in bf16\n%-46s fraction  required  goal\n", info->name, info->numerics,
               r.s->name, "");
    rc = measure_all(&r, e);
    ic_bench_vision_fini(&r.vision);
    ic_bench_text_fini(&r.text);
    ic_device_close(&r.d);
    return rc;
}
