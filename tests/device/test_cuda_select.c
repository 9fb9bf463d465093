/* Slabs on the CUDA device against the CPU's: the same history gives the same rows in the same
 * slots at the same positions, whatever is evicted by whatever plan; and checkpoints go either way.
 */
#include <math.h>
#include <string.h>

#include "base/ic_mem.h"
#include "ic_test_cuda.h"
#include "kernels/ic_slab_priv.h"

enum { LAYERS = 2, KV = 3, DIM = 8, HEADS = LAYERS * KV, MOST = 1300 };

static ic_device *devices[2]; /* cpu, cuda */
static uint32_t seed, next_ordinal, next_group;

static uint32_t next_random(uint32_t below)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % below;
}

static int open_devices(void **state)
{
    (void)state;
    seed = 11;
    devices[1] = ic_test_cuda_open(0);
    return ic_device_open(&devices[0], &(ic_device_config){.kind = "cpu", .threads = 1}, NULL);
}

static int close_devices(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++)
        ic_device_close(&devices[d]);
    return 0;
}

static bool lacks_gpu(void)
{
    if (devices[1])
        return false;
    skip();
    return true;
}

/* --- two slabs with one history --- */

static ic_slab *slabs[2];
static bool original; /* the next ones keep the positions at which rows come */

static void make_slabs(int slots, ic_score_kind kind)
{
    ic_error e = {0};
    ic_slab_desc desc = {LAYERS, KV, DIM, slots, IC_BF16, IC_BF16};
    next_ordinal = next_group = 0;
    for (int d = 0; d < 2; d++) {
        ic_assert_ok(ic_slab_new(&slabs[d], devices[d], &desc, &e), &e);
        ic_assert_ok(ic_slab_keep_scores(slabs[d], kind, 0, &e), &e);
        if (original)
            ic_slab_keep_positions(slabs[d]);
    }
}

static void drop_slabs(void)
{
    for (int d = 0; d < 2; d++)
        ic_slab_destroy(&slabs[d]);
}

static ic_row new_row(int kind, uint32_t group, int advance)
{
    return (ic_row){.ordinal = next_ordinal++,
                    .group = group,
                    .h = kind == IC_ROW_VISION ? (uint16_t)next_random(4) : 0,
                    .w = kind == IC_ROW_VISION ? (uint16_t)next_random(5) : 0,
                    .advance = (uint16_t)advance,
                    .kind = (uint8_t)kind,
                    .pinned = next_random(40) == 0};
}

/* Text, and groups of up to 30 patches with markers before and behind. */
static int make_rows(ic_row *rows, int count, bool groups)
{
    int n = 0;
    while (n < count) {
        for (int text = (int)next_random(20); n < count && text > 0; text--)
            rows[n++] = new_row(IC_ROW_TEXT, 0, 1);
        if (!groups)
            continue;
        uint32_t group = ++next_group;
        int advance = 1 + (int)next_random(9);
        for (int m = (int)next_random(4); n < count && m > 0; m--)
            rows[n++] = new_row(IC_ROW_MARKER, group, 1);
        for (int p = (int)next_random(30); n < count && p > 0; p--)
            rows[n++] = new_row(IC_ROW_VISION, group, advance);
        if (n < count)
            rows[n++] = new_row(IC_ROW_MARKER, group, 1);
    }
    return n;
}

static void append(const ic_row *rows, int count)
{
    ic_error e = {0};
    float *values = ic_calloc((size_t)count * KV * DIM, sizeof *values);
    for (int i = 0; i < count * KV * DIM; i++)
        values[i] = (float)next_random(256);
    for (int d = 0; d < 2; d++) {
        ic_assert_ok(ic_slab_append(slabs[d], rows, count, &e), &e);
        size_t bytes = (size_t)count * KV * DIM * sizeof *values;
        void *memory = ic_device_alloc(devices[d], bytes);
        assert_int_equal(ic_device_upload(devices[d], memory, values, bytes), 0);
        ic_mat m = {memory, IC_F32, count, KV * DIM, KV * DIM};
        for (int layer = 0; layer < LAYERS; layer++)
            assert_int_equal(ic_slab_store(slabs[d], layer, count, 0, &m, &m), 0);
        ic_device_free(devices[d], memory);
    }
    ic_free(values);
}

static void append_random(int count, bool groups)
{
    ic_row rows[MOST];
    append(rows, make_rows(rows, count, groups));
}

/* Few steps make ties; with none, scores lie as far apart as those that fade. */
static float random_score(uint32_t steps)
{
    if (steps)
        return (float)next_random(steps) / (float)steps;
    return ldexpf((float)(1 + next_random(1 << 20)), -20 - (int)next_random(70));
}

/* The same scores to both, `missing` percent of them none. */
static void give_scores(int missing, uint32_t steps)
{
    ic_buf buf = {0};
    for (int head = 0; head < HEADS; head++)
        for (int i = 0; i < ic_slab_count(slabs[0], head / KV, head % KV); i++)
            ic_buf_f32(&buf, next_random(100) < (uint32_t)missing ? -1.0f : random_score(steps));
    for (int d = 0; d < 2; d++) {
        ic_cursor in;
        ic_error e = {0};
        ic_cursor_init(&in, buf.data, buf.size);
        ic_assert_ok(ic_slab_load_scores(slabs[d], &in, &e), &e);
    }
    ic_buf_fini(&buf);
}

typedef struct view {
    ic_row rows[MOST];
    int32_t slots[MOST];
    ic_pos positions[MOST];
} view;

static void expect_same(const char *what)
{
    view *v = ic_calloc(2, sizeof *v);
    assert_int_equal(ic_slab_used(slabs[0]), ic_slab_used(slabs[1]));
    assert_int_equal(ic_slab_next(slabs[0]), ic_slab_next(slabs[1]));
    for (int head = 0; head < HEADS; head++) {
        int count = ic_slab_count(slabs[0], head / KV, head % KV);
        if (count != ic_slab_count(slabs[1], head / KV, head % KV))
            fail_msg("%s: head %d holds %d rows, and %d are right", what, head,
                     ic_slab_count(slabs[1], head / KV, head % KV), count);
        for (int d = 0; d < 2; d++)
            ic_slab_rows(slabs[d], head / KV, head % KV, v[d].rows, v[d].slots, v[d].positions);
        for (int i = 0; i < count; i++)
            if (v[0].slots[i] != v[1].slots[i])
                fail_msg("%s: head %d, place %d: slot %d, and %d is right", what, head, i,
                         v[1].slots[i], v[0].slots[i]);
        assert_memory_equal(v[0].rows, v[1].rows, (size_t)count * sizeof *v->rows);
        assert_memory_equal(v[0].positions, v[1].positions, (size_t)count * sizeof *v->positions);
    }
    ic_free(v);
}

/* K and V of every row that lives. */
static void expect_same_values(void)
{
    int32_t slots[MOST];
    float k[2][DIM], v[2][DIM];
    for (int head = 0; head < HEADS; head++) {
        ic_slab_rows(slabs[0], head / KV, head % KV, NULL, slots, NULL);
        for (int i = 0; i < ic_slab_count(slabs[0], head / KV, head % KV); i += 7) {
            for (int d = 0; d < 2; d++)
                ic_slab_read(slabs[d], head / KV, head % KV, slots[i], k[d], v[d]);
            assert_memory_equal(k[0], k[1], sizeof k[0]);
            assert_memory_equal(v[0], v[1], sizeof v[0]);
        }
    }
}

/* The device has carried it out in its own tables: the host's know nothing of it. */
static void evict(const ic_plan *plan, const char *what)
{
    ic_evicted evicted[2];
    for (int d = 0; d < 2; d++)
        assert_int_equal(ic_slab_evict(slabs[d], plan, &evicted[d]), 0);
    assert_true(evicted[1].rows == 0 || slabs[1]->host_stale);
    expect_same(what);
    assert_int_equal(evicted[0].rows, evicted[1].rows);
    assert_int_equal(evicted[0].rows_max, evicted[1].rows_max);
    assert_int_equal(evicted[0].groups, evicted[1].groups);
}

/* The last rows are dropped by the device, too: no table has come to the host for it. */
static void drop(int count)
{
    for (int d = 0; d < 2; d++)
        ic_slab_drop_last(slabs[d], count);
    assert_true(slabs[1]->host_stale && !slabs[1]->mirror_stale);
}

/* --- the tests --- */

/* Appending, evicting the oldest, filling the holes and dropping the last rows, again and again. */
static void test_history(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    make_slabs(700, IC_SCORE_NONE);
    for (int round = 0; round < 8; round++) {
        append_random(1 + (int)next_random(200), true);
        if (round % 3 == 1)
            drop(1 + round);
        append_random(1, false);
        expect_same("append");
        evict(&(ic_plan){.budget = 150 + (int)next_random(300), .sinks = (int)next_random(9)},
              "oldest");
    }
    expect_same_values();
    drop_slabs();
}

/* The same where rows keep their positions, and gaps remain. */
static void test_original(void **state)
{
    original = true;
    test_history(state);
    original = false;
}

/* Single rows of more caches than one launch takes, some of them twice before anyone looks. */
static void test_single_rows(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    enum { PAIRS = 37 };
    ic_slab *pairs[PAIRS][2];
    ic_error e = {0};
    for (int i = 0; i < PAIRS; i++) {
        original = i % 4 > 1;
        make_slabs(70, i % 2 ? IC_SCORE_SUM : IC_SCORE_NONE);
        original = false;
        if (i % 3)
            append_random(1 + i, true);
        for (int d = 0; d < 2; d++)
            pairs[i][d] = slabs[d];
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < PAIRS * 4 / 3; i++) {
            ic_row row = new_row(IC_ROW_TEXT, 0, 1);
            for (int d = 0; d < 2; d++)
                ic_assert_ok(ic_slab_append(pairs[i % PAIRS][d], &row, 1, &e), &e);
        }
        for (int i = 0; i < PAIRS; i++) {
            for (int d = 0; d < 2; d++)
                slabs[d] = pairs[i][d];
            expect_same("single rows");
            if (round && i % 2)
                evict(&(ic_plan){.budget = 2}, "after single rows");
        }
    }
    for (int i = 0; i < PAIRS; i++)
        for (int d = 0; d < 2; d++)
            ic_slab_destroy(&pairs[i][d]);
}

/* A plan of every kind, over text alone and over groups, with scores that tie and rows that have
 * none. */
static void check_plan(ic_plan plan, const char *what)
{
    for (int groups = 0; groups < 2; groups++) {
        make_slabs(MOST, IC_SCORE_WINDOW);
        append_random(300 + (int)next_random(900), groups);
        for (int round = 0; round < 3; round++) {
            give_scores(round * 10, round == 1 ? 7 : 100000);
            plan.budget = ic_slab_used(slabs[0]) * (60 + (int)next_random(45)) / 100;
            evict(&plan, what);
            append_random(1 + (int)next_random(60), groups);
        }
        expect_same_values();
        drop_slabs();
    }
}

static void test_scored(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    check_plan((ic_plan){.sinks = 4, .recent = 50, .scored = true}, "scored");
    check_plan((ic_plan){.sinks = 4, .recent = 50, .scored = true, .bias = 0.5f, .pool = 7},
               "pooled");
    check_plan((ic_plan){.recent = 900, .scored = true}, "more recent rows than fit");
    check_plan((ic_plan){.sinks = 2, .recent = 30, .scored = true, .per_layer = true}, "per layer");
}

/* Of the last rows that fit, some are passed over because of their group's markers. */
static void test_markers(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    for (int round = 0; round < 12; round++) {
        make_slabs(200, IC_SCORE_SUM);
        ic_row rows[150];
        int n = 0;
        for (uint32_t g = 1; n < 130; g++) { /* one patch each, and many markers */
            for (int m = 0; m < 6; m++)
                rows[n++] = new_row(IC_ROW_MARKER, g, 1);
            rows[n++] = new_row(IC_ROW_VISION, g, 3);
            rows[n++] = new_row(IC_ROW_TEXT, 0, 1);
        }
        append(rows, n);
        give_scores(0, 50);
        evict(&(ic_plan){.budget = 20 + round * 7, .sinks = 1, .recent = 5, .scored = true},
              "markers");
        drop_slabs();
    }
}

static void test_frames(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    check_plan((ic_plan){.sinks = 3, .frames = 6, .text = 60}, "frames");
    check_plan((ic_plan){.frames = 100, .text = 1000}, "all frames");
}

/* --- streams: what a session's chunks do to a cache --- */

/* A frame group as the grammar makes it: markers, patches, a marker. */
static void append_frame(int patches)
{
    ic_row rows[MOST];
    uint32_t group = ++next_group;
    int n = 0, advance = 1 + (int)next_random(6);
    for (int m = 1 + (int)next_random(3); m > 0; m--)
        rows[n++] = new_row(IC_ROW_MARKER, group, 1);
    for (int p = 0; p < patches; p++)
        rows[n++] = new_row(IC_ROW_VISION, group, advance);
    rows[n++] = new_row(IC_ROW_MARKER, group, 1);
    append(rows, n);
}

/* Frames, now and then text, and answers whose rows have no score; the plan is carried out at the
 * end of each, with scores that tie on some rounds and with half of them missing on others. The
 * budget stays what it is or moves about. */
static void check_stream(ic_plan plan, int rounds, int patches, bool text, const char *what)
{
    int budget = plan.budget, slots = 2 * budget + 100;
    make_slabs(slots < MOST ? slots : MOST, IC_SCORE_PEAK);
    for (int round = 0; round < rounds; round++) {
        int room = ic_slab_free(slabs[0]);
        for (int frames = 1 + (int)next_random(3); frames > 0 && room > patches + 60; frames--) {
            append_frame(1 + (int)next_random((uint32_t)patches));
            room = ic_slab_free(slabs[0]);
        }
        if (text && round % 3 == 1)
            append_random(1 + (int)next_random(40), false);
        give_scores(round % 4 == 3 ? 50 : round % 4 == 2 ? 5 : 0, round % 2 ? 0 : 3);
        for (int answer = (int)next_random(4); text && answer > 0; answer--)
            append_random(1, false);
        plan.aged = round % 5 == 4;
        plan.budget = round % 6 == 5 ? (int)next_random((uint32_t)budget) : budget;
        evict(&plan, what);
    }
    expect_same_values();
    drop_slabs();
}

/* What saddle makes of its settings, and what lies at their edges. */
static void test_thinned(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    ic_plan saddle = {.budget = 200,
                      .sinks = 4,
                      .recent = 90,
                      .scored = true,
                      .bias = 1,
                      .pool = 15,
                      .frames = 4,
                      .text = 20,
                      .thin = 1,
                      .fade = 1.5f};
    ic_plan plan = saddle;
    check_stream(plan, 30, 12, true, "saddle");
    check_stream(plan, 10, 12, false, "no text");
    plan.per_layer = true;
    check_stream(plan, 12, 12, true, "per layer");
    plan = saddle;
    plan.thin = 5;
    plan.fade = 0.33f;
    check_stream(plan, 12, 40, true, "several rows of a group");
    plan.thin = 1000;
    check_stream(plan, 8, 40, true, "as many rows as there are");
    plan = saddle;
    original = true;
    check_stream(plan, 12, 12, true, "original positions");
    original = false;
    plan.care = 2.5f;
    check_stream(plan, 12, 9, true, "with care");
    plan.thin = 3;
    plan.fade = 0;
    check_stream(plan, 12, 9, true, "with care, without fade");
    plan = saddle;
    plan.frames = 100;
    check_stream(plan, 6, 9, true, "all whole");
    plan.frames = 5;
    plan.budget = 37;
    check_stream(plan, 10, 30, true, "whole frames that do not fit");
    plan.frames = plan.text = plan.recent = plan.sinks = 0;
    check_stream(plan, 10, 30, true, "nothing but thinned ones");
}

/* Thinned: one group alone; budgets of nothing, of one, and above what there is; more pinned rows
 * than fit; groups in no order; and the states of test_scored. */
static void test_thinned_edges(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    ic_plan plan = {.sinks = 1, .recent = 8, .scored = true, .frames = 1, .text = 5, .thin = 2};
    plan.fade = 2;
    make_slabs(400, IC_SCORE_WINDOW);
    evict(&plan, "empty");
    append_frame(20);
    for (plan.budget = 30; plan.budget >= 0; plan.budget -= 10) {
        give_scores(30, 5);
        evict(&plan, "one group");
        append_frame(3);
    }
    ic_row rows[60];
    for (int i = 0; i < 60; i++) {
        rows[i] = new_row(i % 4 ? IC_ROW_VISION : IC_ROW_MARKER, 3 + (uint32_t)(i / 7 * 5 % 8), 2);
        rows[i].pinned = i % 3 == 0;
    }
    append(rows, 60);
    give_scores(0, 1000);
    plan.budget = 45;
    evict(&plan, "groups in no order");
    plan.budget = 6;
    evict(&plan, "more pinned rows than fit");
    drop_slabs();
    plan = (ic_plan){.sinks = 4, .recent = 100, .scored = true, .frames = 2, .text = 30, .thin = 1};
    check_plan(plan, "thinned");
    plan.fade = 1;
    plan.care = 1;
    check_plan(plan, "thinned with care");
}

/* Frames that stay or leave as a whole: by age, by score, beside text and rows without a score. */
static void test_whole(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    ic_plan plan = {.budget = 150, .sinks = 4, .recent = 60, .scored = true, .whole = true};
    check_stream(plan, 20, 30, true, "whole");
    check_stream(plan, 10, 30, false, "whole, no text");
    plan.per_layer = true;
    plan.bias = 1;
    plan.pool = 15;
    check_stream(plan, 20, 12, true, "whole, as saddle");
    plan.recent = plan.sinks = 0;
    check_stream(plan, 10, 60, true, "whole, by score alone");
    plan.recent = plan.sinks = 300;
    check_stream(plan, 10, 12, true, "whole, by age alone");
    plan.scored = plan.per_layer = false;
    check_stream(plan, 10, 12, true, "whole, without scores");
    plan = (ic_plan){.sinks = 2, .recent = 40, .scored = true, .whole = true};
    check_plan(plan, "whole");
    plan = (ic_plan){.sinks = 2, .frames = 3, .text = 30, .whole = true};
    check_plan(plan, "whole frames by number");
}

/* Cascades: of few rows and of many parts, over text, frames and both, by head and by layer. */
static void test_cascades(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    ic_plan plan = {.budget = 150, .sinks = 4, .cascades = 4};
    check_stream(plan, 20, 12, true, "cascades");
    plan.per_layer = true;
    check_stream(plan, 10, 30, false, "cascades, by layer");
    plan.cascades = 16;
    plan.budget = 40;
    check_stream(plan, 10, 12, true, "many parts");
    plan.cascades = 1;
    check_stream(plan, 6, 12, true, "one part");
    plan = (ic_plan){.sinks = 2, .cascades = 3};
    check_plan(plan, "cascades");
}

/* Evictions that are carried out together: caches of several sizes, kinds of scores and positions,
 * under all kinds of plans, some of them with nothing to do. Each comes to what it would alone. */
static void test_together(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    static const ic_plan plans[] = {
        {.budget = 70, .sinks = 4},
        {.budget = 1000, .sinks = 4},
        {.budget = 60, .recent = 20, .scored = true, .pool = 5, .bias = 1},
        {.budget = 80, .sinks = 2, .frames = 2, .text = 20},
        {.budget = 90, .recent = 20, .scored = true, .frames = 2, .thin = 1, .fade = 1},
        {.budget = 50, .sinks = 2, .cascades = 3},
        {.budget = 60, .recent = 10, .scored = true, .whole = true},
    };
    enum { PLANS = sizeof plans / sizeof *plans };
    ic_slab *pairs[PLANS][2];
    for (int i = 0; i < PLANS; i++) {
        original = i % 2;
        make_slabs(150 + 40 * (i % 3), IC_SCORE_WINDOW);
        for (int d = 0; d < 2; d++)
            pairs[i][d] = slabs[d];
    }
    original = false;
    for (int round = 0; round < 3; round++) {
        ic_eviction lists[2][PLANS];
        for (int i = 0; i < PLANS; i++) {
            for (int d = 0; d < 2; d++) {
                slabs[d] = pairs[i][d];
                lists[d][i] = (ic_eviction){.slab = slabs[d], .plan = plans[i], .rc = -1};
            }
            next_ordinal = (uint32_t)(round * MOST);
            next_group = next_ordinal;
            if (ic_slab_free(slabs[0]) > 60)
                append_random(60 + (int)next_random((uint32_t)ic_slab_free(slabs[0]) - 60), true);
            give_scores(10, 1000);
        }
        for (int d = 0; d < 2; d++)
            ic_slab_evict_each(lists[d], PLANS);
        for (int i = 0; i < PLANS; i++) {
            const ic_eviction *host = &lists[0][i], *device = &lists[1][i];
            for (int d = 0; d < 2; d++)
                slabs[d] = pairs[i][d];
            assert_int_equal(host->rc, 0);
            assert_int_equal(device->rc, 0);
            assert_int_equal(host->evicted.rows > 0, plans[i].budget < 1000);
            assert_int_equal(host->evicted.rows, device->evicted.rows);
            assert_int_equal(host->evicted.rows_max, device->evicted.rows_max);
            assert_int_equal(host->evicted.groups, device->evicted.groups);
            expect_same("together");
        }
    }
    ic_slab_evict_each(NULL, 0);
    for (int i = 0; i < PLANS; i++)
        for (int d = 0; d < 2; d++)
            ic_slab_destroy(&pairs[i][d]);
}

/* More heads in all than results come back at once, emulated, and one cache that has more alone. */
static void test_many_heads(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    enum { SLABS = 5, COUNT = 3 };
    static const int wide[SLABS] = {100, 110, 120, 300, 100};
    ic_row rows[COUNT];
    ic_error e = {0};
    ic_eviction list[SLABS];
    for (int i = 0; i < SLABS; i++) {
        const ic_slab_desc desc = {1, wide[i], DIM, COUNT, IC_BF16, IC_BF16};
        list[i] = (ic_eviction){.plan = {.budget = i % COUNT}};
        ic_assert_ok(ic_slab_new(&list[i].slab, devices[1], &desc, &e), &e);
        for (int r = 0; r < COUNT; r++)
            rows[r] = new_row(IC_ROW_TEXT, 0, 1);
        ic_assert_ok(ic_slab_append(list[i].slab, rows, COUNT, &e), &e);
    }
    ic_slab_evict_each(list, SLABS);
    for (int i = 0; i < SLABS; i++) {
        assert_int_equal(list[i].rc, 0);
        assert_int_equal(list[i].evicted.rows, wide[i] * (COUNT - i % COUNT));
        for (int head = 0; head < wide[i]; head++)
            assert_int_equal(ic_slab_count(list[i].slab, 0, head), i % COUNT);
        ic_slab_destroy(&list[i].slab);
    }
}

/* Groups that come in no order of their numbers are found all the same. */
static void test_unordered_groups(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    static const uint32_t groups[] = {7, 3, 7, 0, 12, 3, 5};
    make_slabs(400, IC_SCORE_NONE);
    ic_row rows[350];
    for (int i = 0; i < 350; i++) {
        uint32_t g = groups[i / 11 % 7];
        rows[i] = new_row(!g ? IC_ROW_TEXT : i % 11 < 2 ? IC_ROW_MARKER : IC_ROW_VISION, g, 2);
    }
    append(rows, 350);
    evict(&(ic_plan){.budget = 300, .sinks = 3, .frames = 2, .text = 40}, "unordered");
    evict(&(ic_plan){.budget = 40, .sinks = 3}, "unordered");
    drop_slabs();
}

/* A budget that all rows fit, one of nothing, and an empty slab. */
static void test_edges(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    make_slabs(100, IC_SCORE_WINDOW);
    evict(&(ic_plan){.budget = 10, .scored = true}, "empty");
    append_random(80, true);
    give_scores(20, 9);
    evict(&(ic_plan){.budget = 80, .scored = true}, "all fit");
    evict(&(ic_plan){.budget = 0, .scored = true}, "nothing fits");
    append_random(1, false);
    evict(&(ic_plan){.budget = 1, .sinks = 1}, "one");
    drop_slabs();
}

/* All live rows of a slab in pieces of at most max_bytes; locked: into page-locked memory. */
static ic_buf image_of(int d, size_t max_bytes, bool locked)
{
    enum { ROOM = 1 << 20 };
    ic_buf all = {0}, piece = {0};
    uint64_t cursor = 0;
    bool more = true;
    if (locked)
        piece = (ic_buf){.data = ic_device_alloc_host(devices[d], ROOM), .capacity = ROOM};
    while (more) {
        piece.size = 0;
        assert_int_equal(ic_slab_save_rows(slabs[d], true, &cursor, max_bytes, &piece, &more), 0);
        assert_int_equal(ic_buf_append(&all, piece.data, piece.size), 0);
    }
    if (locked)
        ic_device_free_host(devices[d], piece.data);
    else
        ic_buf_fini(&piece);
    return all;
}

/* The same rows are the same bytes whichever device saves them, in pieces of every size, into
 * page-locked memory or not; holes between the rows or none. */
static void test_images(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    static const size_t sizes[] = {1, 3000, 1 << 19};
    make_slabs(MOST, IC_SCORE_WINDOW);
    for (int round = 0; round < 2; round++) {
        append_random(round ? 40 : 300, true);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            if (sizes[i] == 1 && round)
                continue;
            ic_buf host = image_of(0, sizes[i], false);
            for (int locked = 0; locked < 2; locked++) {
                ic_buf device = image_of(1, sizes[i], locked);
                assert_int_equal(device.size, host.size);
                assert_memory_equal(device.data, host.data, host.size);
                ic_buf_fini(&device);
            }
            ic_buf_fini(&host);
        }
        give_scores(5, 1000); /* scattered ones leave */
        evict(&(ic_plan){.budget = 150, .sinks = 2, .recent = 20, .scored = true}, "holes");
    }
    drop_slabs();
}

/* A piece that was damaged on its way, in any part of it, is refused by the device. */
static void test_damage(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    make_slabs(100, IC_SCORE_NONE);
    append_random(40, true);
    ic_buf tables = {0}, rows = image_of(1, 1 << 19, false);
    assert_int_equal(ic_slab_save_tables(slabs[1], &tables), 0);
    for (size_t at = 0; at <= rows.size; at += 97) {
        ic_slab *to = NULL;
        ic_slab_desc desc = *ic_slab_desc_of(slabs[1]);
        ic_error e = {0};
        ic_cursor in;
        ic_assert_ok(ic_slab_new(&to, devices[1], &desc, &e), &e);
        ic_cursor_init(&in, tables.data, tables.size);
        ic_assert_ok(ic_slab_load_tables(to, &in, &e), &e);
        if (at)
            rows.data[rows.size - at] ^= 4;
        int rc = ic_slab_load_rows(to, rows.data, rows.size, &e);
        if (at)
            rows.data[rows.size - at] ^= 4;
        assert_int_equal(rc != 0, at > 0);
        ic_slab_destroy(&to);
    }
    ic_buf_fini(&rows);
    ic_buf_fini(&tables);
    drop_slabs();
}

/* All that has not been saved yet, in one piece; it counts as saved then. */
static ic_buf save_new(int d)
{
    ic_buf piece = {0};
    uint64_t cursor = 0;
    bool more;
    assert_int_equal(ic_slab_save_rows(slabs[d], false, &cursor, 1 << 24, &piece, &more), 0);
    assert_false(more);
    ic_slab_mark_saved(slabs[d]);
    return piece;
}

static void save_the_same(size_t least)
{
    ic_buf pieces[2] = {save_new(0), save_new(1)};
    assert_true(pieces[0].size >= least);
    assert_int_equal(pieces[0].size, pieces[1].size);
    assert_memory_equal(pieces[0].data, pieces[1].data, pieces[0].size);
    for (int d = 0; d < 2; d++)
        ic_buf_fini(&pieces[d]);
}

/* Rows that were dropped give their slots, their positions and their ordinals to others, which are
 * saved although their like have been; at either kind of positions, from within a group on, and
 * beyond the last append, where heads hold different rows. */
static void test_dropped(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    enum { COUNT = 40 };
    ic_row rows[COUNT];
    for (int round = 0; round < 12; round++) {
        original = round % 2;
        make_slabs(300, IC_SCORE_WINDOW);
        append_random(200, true);
        give_scores(0, 1000);
        evict(&(ic_plan){.budget = 120, .recent = 20, .scored = true}, "before dropping");
        make_rows(rows, COUNT, true);
        append(rows, COUNT);
        save_the_same(1000);
        int gone = round < 6 ? 1 + (int)next_random(COUNT) : COUNT + round, again = gone;
        again = again < COUNT ? again : (int)COUNT;
        drop(gone);
        append(rows + COUNT - again, again);
        save_the_same((size_t)again * HEADS * DIM);
        expect_same("dropped");
        expect_same_values();
        drop_slabs();
    }
    original = false;
}

/* A slab that one device has saved, piece by piece between changes, the other one loads. */
static void test_checkpoints(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    for (int from = 0; from < 2; from++) {
        make_slabs(MOST, IC_SCORE_WINDOW);
        ic_buf pieces[3] = {{0}}, tables = {0}, scores = {0};
        for (int round = 0; round < 3; round++) {
            uint64_t cursor = 0;
            bool more;
            append_random(200, true);
            give_scores(5, 1000);
            evict(&(ic_plan){.budget = 250, .sinks = 2, .recent = 20, .scored = true}, "saved");
            assert_int_equal(
                ic_slab_save_rows(slabs[from], false, &cursor, 1 << 24, &pieces[round], &more), 0);
            assert_false(more);
            ic_slab_mark_saved(slabs[from]);
        }
        assert_true(pieces[2].size
                    < pieces[0].size * 3 / 2); /* what was saved is not given again */
        assert_int_equal(ic_slab_save_tables(slabs[from], &tables), 0);
        assert_int_equal(ic_slab_save_scores(slabs[from], &scores), 0);
        ic_slab *kept = slabs[from], *loaded = NULL;
        ic_slab_desc desc = *ic_slab_desc_of(kept);
        ic_error e = {0};
        ic_cursor in;
        ic_assert_ok(ic_slab_new(&loaded, devices[!from], &desc, &e), &e);
        ic_assert_ok(ic_slab_keep_scores(loaded, IC_SCORE_WINDOW, 0, &e), &e);
        ic_cursor_init(&in, tables.data, tables.size);
        ic_assert_ok(ic_slab_load_tables(loaded, &in, &e), &e);
        for (int round = 0; round < 3; round++)
            ic_assert_ok(ic_slab_load_rows(loaded, pieces[round].data, pieces[round].size, &e), &e);
        ic_assert_ok(ic_slab_load_finish(loaded, &e), &e);
        ic_cursor_init(&in, scores.data, scores.size);
        ic_assert_ok(ic_slab_load_scores(loaded, &in, &e), &e);
        ic_slab_destroy(&slabs[!from]);
        slabs[!from] = loaded;
        expect_same("loaded");
        expect_same_values();
        append_random(30, true);
        evict(&(ic_plan){.budget = 200, .sinks = 2, .recent = 40, .scored = true}, "after loading");
        drop_slabs();
        for (int round = 0; round < 3; round++)
            ic_buf_fini(&pieces[round]);
        ic_buf_fini(&tables);
        ic_buf_fini(&scores);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_history, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_original, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_single_rows, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_scored, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_markers, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_frames, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_thinned, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_thinned_edges, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_whole, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_cascades, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_together, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_many_heads, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_unordered_groups, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_edges, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_images, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_damage, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_dropped, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_checkpoints, open_devices, close_devices),
    };
    return ic_test_cuda_is_there() ? IC_TEST_RUN(tests) : IC_TEST_SKIPPED;
}
