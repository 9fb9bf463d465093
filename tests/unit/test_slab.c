/* The session's cache: slots, compact positions, eviction and checkpoints. */
#include <stdio.h>
#include <string.h>

#include "base/ic_mem.h"
#include "ic_test.h"
#include "kernels/ic_ops.h"

enum { LAYERS = 2, KV = 3, DIM = 8, SLOTS = 70, HEADS = LAYERS * KV };

static ic_device *device;
static uint32_t seed, next_ordinal;

static uint32_t next_random(uint32_t below)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % below;
}

static int open_device(void **state)
{
    (void)state;
    seed = 7;
    next_ordinal = 0;
    return ic_device_open(&device, &(ic_device_config){.kind = "cpu", .threads = 1}, NULL);
}

static int close_device(void **state)
{
    (void)state;
    ic_device_close(&device);
    return 0;
}

static ic_slab *new_slab(int slots, ic_dtype k, ic_dtype v)
{
    ic_slab *s = NULL;
    ic_error e = {0};
    ic_slab_desc desc = {LAYERS, KV, DIM, slots, k, v};
    ic_assert_ok(ic_slab_new(&s, device, &desc, &e), &e);
    return s;
}

static ic_row text_row(void)
{
    return (ic_row){.ordinal = next_ordinal++, .advance = 1};
}

static ic_row group_row(uint32_t group, int kind, int h, int w, int advance)
{
    return (ic_row){next_ordinal++, group, (uint16_t)h, (uint16_t)w, (uint16_t)advance,
                    (uint8_t)kind,  0};
}

/* What row `ordinal` holds in a head, so that a test can tell rows apart later. */
static float value_of(uint32_t ordinal, int head, int i, bool is_v)
{
    return (float)(ordinal % 97) + (float)head * 0.5f + (float)i * 0.0625f + (is_v ? 128 : 0);
}

static void store(ic_slab *s, const ic_row *rows, int count)
{
    for (int layer = 0; layer < LAYERS; layer++) {
        float *k = ic_calloc((size_t)count * KV * DIM, sizeof *k);
        float *v = ic_calloc((size_t)count * KV * DIM, sizeof *v);
        for (int r = 0; r < count; r++)
            for (int i = 0; i < KV * DIM; i++) {
                int head = layer * KV + i / DIM;
                k[r * KV * DIM + i] = value_of(rows[r].ordinal, head, i % DIM, false);
                v[r * KV * DIM + i] = value_of(rows[r].ordinal, head, i % DIM, true);
            }
        /* In two pieces, as slices do. */
        int first = count / 3;
        ic_mat km = {k, IC_F32, first, KV * DIM, KV * DIM},
               vm = {v, IC_F32, first, KV * DIM, KV * DIM};
        assert_int_equal(ic_slab_store(s, layer, count, 0, &km, &vm), 0);
        km.data = k + first * KV * DIM, vm.data = v + first * KV * DIM;
        km.rows = vm.rows = count - first;
        assert_int_equal(ic_slab_store(s, layer, count, first, &km, &vm), 0);
        ic_free(k), ic_free(v);
    }
}

static void append(ic_slab *s, const ic_row *rows, int count)
{
    ic_error e = {0};
    ic_assert_ok(ic_slab_append(s, rows, count, &e), &e);
    store(s, rows, count);
}

static void append_text(ic_slab *s, int count)
{
    ic_row rows[SLOTS];
    for (int i = 0; i < count; i++)
        rows[i] = text_row();
    append(s, rows, count);
}

/* A timestamp of `markers` rows before, h x w patches, one marker behind. */
static int make_group(ic_row *rows, uint32_t group, int markers, int h, int w)
{
    int n = 0, advance = h > w ? h : w;
    for (int i = 0; i < markers; i++)
        rows[n++] = group_row(group, IC_ROW_MARKER, 0, 0, 1);
    for (int i = 0; i < h * w; i++)
        rows[n++] = group_row(group, IC_ROW_VISION, i / w, i % w, advance);
    rows[n++] = group_row(group, IC_ROW_MARKER, 0, 0, 1);
    return n;
}

typedef struct view {
    int count;
    ic_row rows[SLOTS];
    int32_t slots[SLOTS];
    ic_pos positions[SLOTS];
} view;

static view look(const ic_slab *s, int layer, int kv)
{
    view v = {.count = ic_slab_count(s, layer, kv)};
    ic_slab_rows(s, layer, kv, v.rows, v.slots, v.positions);
    return v;
}

/* Every live row of every head still holds what was stored for it, bit for bit. */
static void check_values(const ic_slab *s)
{
    for (int head = 0; head < HEADS; head++) {
        view v = look(s, head / KV, head % KV);
        for (int r = 0; r < v.count; r++) {
            float kv[2][DIM];
            ic_slab_read(s, head / KV, head % KV, v.slots[r], kv[0], kv[1]);
            for (int i = 0; i < DIM; i++) {
                assert_true(kv[0][i] == value_of(v.rows[r].ordinal, head, i, false));
                assert_true(kv[1][i] == value_of(v.rows[r].ordinal, head, i, true));
            }
        }
    }
}

/* Slots are distinct, ordinals rise, and positions follow the rule from one row to the next. */
static void check_tables(const ic_slab *s)
{
    for (int head = 0; head < HEADS; head++) {
        view v = look(s, head / KV, head % KV);
        bool taken[SLOTS] = {false};
        int cursor = 0, base = 0;
        for (int r = 0; r < v.count; r++) {
            assert_in_range(v.slots[r], 0, ic_slab_desc_of(s)->slots - 1);
            assert_false(taken[v.slots[r]]);
            taken[v.slots[r]] = true;
            if (r)
                assert_true(v.rows[r].ordinal > v.rows[r - 1].ordinal);
            bool vision = v.rows[r].kind == IC_ROW_VISION;
            bool goes_on = vision && r && v.rows[r - 1].kind == IC_ROW_VISION
                           && v.rows[r - 1].group == v.rows[r].group;
            if (!goes_on) {
                base = cursor;
                cursor += vision ? v.rows[r].advance : 1;
            }
            assert_int_equal(v.positions[r].t, base);
            assert_int_equal(v.positions[r].h, base + (vision ? v.rows[r].h : 0));
            assert_int_equal(v.positions[r].w, base + (vision ? v.rows[r].w : 0));
        }
    }
}

/* Text counts 0, 1, 2 ...; a 2 x 3 group stands at its start with offsets and moves the cursor by
 * 3: the position ids of Qwen3-VL. */
static void test_positions(void **state)
{
    (void)state;
    ic_slab *s = new_slab(SLOTS, IC_F32, IC_F32);
    ic_row rows[SLOTS];
    append_text(s, 4);
    int n = make_group(rows, 1, 2, 2, 3);
    append(s, rows, 5); /* a slice may end inside a group */
    append(s, rows + 5, n - 5);
    append_text(s, 1);
    static const ic_pos want[] = {{0, 0, 0}, {1, 1, 1}, {2, 2, 2}, {3, 3, 3},   {4, 4, 4},
                                  {5, 5, 5}, {6, 6, 6}, {6, 6, 7}, {6, 6, 8},   {6, 7, 6},
                                  {6, 7, 7}, {6, 7, 8}, {9, 9, 9}, {10, 10, 10}};
    view v = look(s, 1, 2);
    assert_int_equal(v.count, 14);
    assert_memory_equal(v.positions, want, sizeof want);
    check_tables(s);
    ic_slab_destroy(&s);
}

/* Two groups that touch stand behind each other; a one-row group of one patch advances by 1. */
static void test_positions_adjacent_groups(void **state)
{
    (void)state;
    ic_slab *s = new_slab(SLOTS, IC_F32, IC_F32);
    ic_row rows[5] = {group_row(1, IC_ROW_VISION, 0, 0, 2), group_row(1, IC_ROW_VISION, 0, 1, 2),
                      group_row(2, IC_ROW_VISION, 0, 0, 1), group_row(3, IC_ROW_VISION, 0, 0, 4),
                      group_row(0, IC_ROW_TEXT, 0, 0, 1)};
    append(s, rows, 5);
    view v = look(s, 0, 0);
    assert_int_equal(v.positions[2].t, 2);
    assert_int_equal(v.positions[3].t, 3);
    assert_int_equal(v.positions[4].t, 7);
    ic_slab_destroy(&s);
}

/* The lowest free slots are given first, after evictions too, so that history decides all. */
static void test_lowest_slot_first(void **state)
{
    (void)state;
    ic_slab *s = new_slab(SLOTS, IC_F32, IC_F32);
    append_text(s, 66);
    view v = look(s, 0, 0);
    for (int i = 0; i < 66; i++)
        assert_int_equal(v.slots[i], i);
    assert_int_equal(ic_slab_evict(s, &(ic_plan){.budget = 10, .sinks = 2}, NULL), 0);
    v = look(s, 1, 1);
    static const int32_t kept[] = {0, 1, 58, 59, 60, 61, 62, 63, 64, 65};
    assert_memory_equal(v.slots, kept, sizeof kept);
    append_text(s, 3);
    v = look(s, 1, 1);
    assert_int_equal(v.slots[10], 2);
    assert_int_equal(v.slots[12], 4);
    check_tables(s);
    check_values(s);
    ic_slab_destroy(&s);
}

/* A full slab refuses with IC_ELIMIT and is unchanged. */
static void test_limit(void **state)
{
    (void)state;
    ic_slab *s = new_slab(10, IC_F32, IC_F32);
    append_text(s, 8);
    view before = look(s, 0, 1);
    ic_row rows[3] = {text_row(), text_row(), text_row()};
    ic_error e = {0};
    assert_int_equal(ic_slab_append(s, rows, 3, &e), IC_ELIMIT);
    assert_int_equal(e.code, IC_ELIMIT);
    assert_non_null(strstr(e.text, "full"));
    view after = look(s, 0, 1);
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(ic_slab_used(s), 8);
    assert_int_equal(ic_slab_free(s), 2);
    append(s, rows, 2);
    assert_int_equal(ic_slab_free(s), 0);
    check_values(s);
    ic_slab_destroy(&s);
}

/* Dropping the last rows gives their slots and positions back, also inside a group. */
static void test_drop_last(void **state)
{
    (void)state;
    ic_slab *s = new_slab(SLOTS, IC_F32, IC_F32);
    ic_row rows[SLOTS];
    append_text(s, 3);
    int n = make_group(rows, 1, 1, 3, 2);
    append(s, rows, n);
    view before = look(s, 1, 0);
    ic_slab_drop_last(s, 4);
    assert_int_equal(ic_slab_used(s), 3 + n - 4);
    append(s, rows + n - 4, 4);
    view after = look(s, 1, 0);
    assert_memory_equal(before.positions, after.positions, (size_t)before.count * sizeof(ic_pos));
    assert_memory_equal(before.slots, after.slots, (size_t)before.count * sizeof(int32_t));
    ic_slab_drop_last(s, before.count);
    assert_int_equal(ic_slab_used(s), 0);
    ic_slab_destroy(&s);
}

static bool has_ordinal(const view *v, uint32_t ordinal)
{
    for (int i = 0; i < v->count; i++)
        if (v->rows[i].ordinal == ordinal)
            return true;
    return false;
}

/* Pinned rows and sinks stay, the newest fill the budget, and what is freed is counted. */
static void test_evict_text(void **state)
{
    (void)state;
    ic_slab *s = new_slab(SLOTS, IC_BF16, IC_F32);
    ic_row rows[40];
    for (int i = 0; i < 40; i++) {
        rows[i] = text_row();
        rows[i].pinned = i < 3 || i == 20;
    }
    append(s, rows, 40);
    ic_evicted evicted;
    assert_int_equal(ic_slab_evict(s, &(ic_plan){.budget = 15, .sinks = 4}, &evicted), 0);
    assert_int_equal(evicted.rows, 25 * HEADS);
    assert_int_equal(evicted.rows_max, 25);
    assert_int_equal(evicted.groups, 0);
    view v = look(s, 1, 2);
    static const uint32_t want[] = {0, 1, 2, 3, 4, 5, 6, 20, 33, 34, 35, 36, 37, 38, 39};
    assert_int_equal(v.count, 15);
    for (int i = 0; i < 15; i++) {
        assert_int_equal(v.rows[i].ordinal, want[i]);
        assert_int_equal(v.positions[i].t, i);
    }
    /* The same again has nothing to do. */
    assert_int_equal(ic_slab_evict(s, &(ic_plan){.budget = 15, .sinks = 4}, &evicted), 0);
    assert_int_equal(evicted.rows, 0);
    ic_slab_destroy(&s);
}

/* A group's markers stay while a patch of it stays and leave with the last one; its survivors keep
 * their offsets and the group its full advance. */
static void test_evict_groups(void **state)
{
    (void)state;
    ic_slab *s = new_slab(SLOTS, IC_F32, IC_F32);
    ic_row rows[SLOTS];
    int n = 0;
    rows[n++] = text_row();
    rows[0].pinned = 1;
    n += make_group(rows + n, 1, 2, 2, 3); /* 9 rows: ordinals 1..9 */
    n += make_group(rows + n, 2, 2, 2, 3); /* 9 rows: ordinals 10..18 */
    rows[n++] = text_row();                /* 19 */
    append(s, rows, n);
    ic_evicted evicted;
    /* Room for the pinned row, the text, group 2's three markers and two of its patches. */
    assert_int_equal(ic_slab_evict(s, &(ic_plan){.budget = 7}, &evicted), 0);
    assert_int_equal(evicted.groups, 1);
    view v = look(s, 0, 0);
    static const uint32_t want[] = {0, 10, 11, 16, 17, 18, 19};
    assert_int_equal(v.count, 7);
    for (int i = 0; i < 7; i++)
        assert_int_equal(v.rows[i].ordinal, want[i]);
    /* Patches (1, 1) and (1, 2) of a grid of 2 x 3, which advances by 3. */
    assert_int_equal(v.positions[3].t, 3);
    assert_int_equal(v.positions[3].h, 4);
    assert_int_equal(v.positions[3].w, 4);
    assert_int_equal(v.positions[5].t, 6);
    /* Its first patch would bring three markers: with room for three rows in all, the group goes.
     */
    assert_int_equal(ic_slab_evict(s, &(ic_plan){.budget = 3}, &evicted), 0);
    assert_int_equal(evicted.groups, 1);
    v = look(s, 0, 0);
    assert_int_equal(v.count, 2);
    assert_true(has_ordinal(&v, 0) && has_ordinal(&v, 19));
    ic_slab_destroy(&s);
}

/* A timestamp whose patches have not come yet is kept as the newest rows are. */
static void test_evict_waiting_marker(void **state)
{
    (void)state;
    ic_slab *s = new_slab(SLOTS, IC_F32, IC_F32);
    append_text(s, 20);
    ic_row rows[SLOTS];
    int n = make_group(rows, 5, 2, 2, 2);
    append(s, rows, 2);
    assert_int_equal(ic_slab_evict(s, &(ic_plan){.budget = 6}, NULL), 0);
    append(s, rows + 2, n - 2);
    view v = look(s, 0, 0);
    assert_int_equal(v.count, 6 + n - 2);
    assert_int_equal(v.rows[4].kind, IC_ROW_MARKER);
    check_tables(s);
    ic_slab_destroy(&s);
}

/* Over a long random history the budget holds after each eviction, tables stay sound, and no live
 * row is ever moved or changed. */
static void test_random_history(void **state)
{
    (void)state;
    ic_slab *s = new_slab(SLOTS, IC_F32, IC_F32);
    uint32_t group = 1;
    for (int step = 0; step < 400; step++) {
        ic_row rows[SLOTS];
        int n = 0, budget = 20 + (int)next_random(20);
        if (next_random(2)) {
            n = make_group(rows, group++, (int)next_random(3), 1 + (int)next_random(3),
                           1 + (int)next_random(3));
        } else {
            for (int wanted = 1 + (int)next_random(12); n < wanted; n++)
                rows[n] = text_row();
        }
        rows[0].pinned = step < 3;
        if (n > ic_slab_free(s)) {
            view before = look(s, 1, 1);
            assert_int_equal(ic_slab_append(s, rows, n, NULL), IC_ELIMIT);
            view after = look(s, 1, 1);
            assert_memory_equal(&before, &after, sizeof before);
        } else {
            append(s, rows, n);
        }
        check_tables(s);
        if (next_random(3) == 0 || ic_slab_free(s) < 16) {
            view before = look(s, 0, 2);
            ic_plan plan = {.budget = budget, .sinks = (int)next_random(5)};
            assert_int_equal(ic_slab_evict(s, &plan, NULL), 0);
            assert_true(ic_slab_used(s) <= budget);
            view after = look(s, 0, 2);
            for (int i = 0, j = 0; i < after.count; i++) { /* survivors keep slot and content */
                while (before.rows[j].ordinal != after.rows[i].ordinal)
                    j++;
                assert_int_equal(before.slots[j], after.slots[i]);
            }
            for (int i = 0; i < before.count; i++)
                if (before.rows[i].pinned)
                    assert_true(has_ordinal(&after, before.rows[i].ordinal));
        }
        check_tables(s);
        check_values(s);
    }
    ic_slab_destroy(&s);
}

/* What a slab takes is known beforehand and is what it takes; absurd shapes are refused. */
static void test_memory(void **state)
{
    (void)state;
    ic_slab_desc desc = {LAYERS, KV, DIM, SLOTS, IC_BF16, IC_F32};
    size_t rows = (size_t)HEADS * SLOTS;
    assert_true(ic_slab_bytes(&desc) >= rows * DIM * 6);
    desc.slots = 0;
    ic_slab *s = NULL;
    ic_error e = {0};
    assert_int_equal(ic_slab_new(&s, device, &desc, &e), IC_EINVAL);
    assert_null(s);
    desc.slots = SLOTS;
    for (int n = 1; n <= 2; n++) {
        ic_mem_fail_after(n, 0);
        assert_int_equal(ic_slab_new(&s, device, &desc, &e), IC_ENOMEM);
        assert_null(s);
        ic_mem_fail_after(0, 0);
    }
}

/* --- checkpoints --- */

enum { PIECES = 400 };
typedef struct checkpoint {
    ic_buf tables, pieces[PIECES];
    int count;
} checkpoint;

static void save(ic_slab *s, bool all, size_t max_bytes, checkpoint *c)
{
    ic_buf_clear(&c->tables);
    assert_int_equal(ic_slab_save_tables(s, &c->tables), 0);
    uint64_t cursor = 0;
    bool more = true;
    while (more) {
        assert_in_range(c->count, 0, PIECES - 1);
        ic_buf *b = &c->pieces[c->count++];
        assert_int_equal(ic_slab_save_rows(s, all, &cursor, max_bytes, b, &more), 0);
    }
}

static int load(ic_slab *s, const checkpoint *c, ic_error *e)
{
    ic_cursor in;
    ic_cursor_init(&in, c->tables.data, c->tables.size);
    int rc = ic_slab_load_tables(s, &in, e);
    for (int i = 0; i < c->count && rc == 0; i++)
        if (c->pieces[i].size > 0)
            rc = ic_slab_load_rows(s, c->pieces[i].data, c->pieces[i].size, e);
    return rc ? rc : ic_slab_load_finish(s, e);
}

static void forget(checkpoint *c)
{
    ic_buf_fini(&c->tables);
    for (int i = 0; i < c->count; i++)
        ic_buf_fini(&c->pieces[i]);
    c->count = 0;
}

static void expect_equal_slabs(const ic_slab *a, const ic_slab *b)
{
    for (int head = 0; head < HEADS; head++) {
        view va = look(a, head / KV, head % KV), vb = look(b, head / KV, head % KV);
        assert_int_equal(va.count, vb.count);
        size_t n = (size_t)va.count;
        assert_memory_equal(va.rows, vb.rows, n * sizeof *va.rows);
        assert_memory_equal(va.slots, vb.slots, n * sizeof *va.slots);
        assert_memory_equal(va.positions, vb.positions, n * sizeof *va.positions);
        for (int i = 0; i < va.count; i++) {
            float ka[DIM], kb[DIM], xa[DIM], xb[DIM];
            ic_slab_read(a, head / KV, head % KV, va.slots[i], ka, xa);
            ic_slab_read(b, head / KV, head % KV, va.slots[i], kb, xb);
            assert_memory_equal(ka, kb, sizeof ka);
            assert_memory_equal(xa, xb, sizeof xa);
        }
    }
}

/* Checkpoints that append only new rows, with evictions between them and in pieces of every size,
 * restore every table and every row; afterwards both slabs go on alike. */
static void test_save_incremental(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 300, 1 << 20};
    static const ic_dtype dtypes[] = {IC_F32, IC_BF16, IC_F16};
    for (int n = 0; n < 3; n++) {
        ic_slab *s = new_slab(SLOTS, dtypes[n], dtypes[(n + 1) % 3]), *t = NULL;
        checkpoint c = {0};
        ic_error e = {0};
        ic_row rows[SLOTS];
        append_text(s, 9);
        save(s, false, sizes[n], &c);
        ic_slab_mark_saved(s);
        append(s, rows, make_group(rows, 1, 2, 3, 3));
        assert_int_equal(ic_slab_evict(s, &(ic_plan){.budget = 17, .sinks = 2}, NULL), 0);
        save(s, false, sizes[n], &c);
        /* That checkpoint was not acknowledged: its rows come again. */
        append_text(s, 5);
        save(s, false, sizes[n], &c);
        ic_slab_mark_saved(s);
        append_text(s, 2);
        ic_slab_drop_last(s, 2);
        next_ordinal -= 2; /* an aborted slice: the same ordinals come with other content */
        append_text(s, 1);
        save(s, false, sizes[n], &c);
        ic_slab_mark_saved(s);
        t = new_slab(SLOTS, dtypes[n], dtypes[(n + 1) % 3]);
        ic_assert_ok(load(t, &c, &e), &e);
        expect_equal_slabs(s, t);
        ic_row row = text_row();
        append(s, &row, 1);
        append(t, &row, 1);
        expect_equal_slabs(s, t);
        forget(&c);
        ic_slab_destroy(&s);
        ic_slab_destroy(&t);
    }
}

/* Takes a checkpoint piece by piece; rows come and go between the first few. Returns the pieces. */
static int save_in_passing(ic_slab *s, bool all, checkpoint *c)
{
    int taken = 0;
    ic_slab_begin_save(s);
    for (bool more = true; more; taken++) {
        assert_in_range(c->count, 0, PIECES - 1);
        ic_buf *b = &c->pieces[c->count++];
        assert_int_equal(ic_slab_save_rest(s, all, 700, b, &more), 0);
        assert_true(b->size > 0 || !more);
        if (taken < 4) { /* so there is more again */
            append_text(s, 3);
            assert_int_equal(ic_slab_evict(s, &(ic_plan){.budget = 15, .sinks = 2}, NULL), 0);
            more = true;
        }
    }
    ic_buf_clear(&c->tables);
    assert_int_equal(ic_slab_save_tables(s, &c->tables), 0);
    return taken;
}

/* A checkpoint is taken in pieces while rows come and leave: those that stay are given out once,
 * slots that change hands are not mistaken, and what it was not acknowledged for comes again. */
static void test_save_in_passing(void **state)
{
    (void)state;
    ic_slab *s = new_slab(SLOTS, IC_BF16, IC_F32), *t = NULL;
    checkpoint c = {0}, failed = {0};
    ic_error e = {0};
    for (int round = 0; round < 4; round++) {
        append_text(s, 14);
        assert_int_equal(ic_slab_evict(s, &(ic_plan){.budget = 15, .sinks = 2}, NULL), 0);
        if (round == 2) { /* one that came to nothing */
            save_in_passing(s, false, &failed);
            forget(&failed);
        }
        bool all = round == 3;
        if (all)
            forget(&c); /* it stands alone */
        assert_true(save_in_passing(s, all, &c) > 5);
        ic_slab_mark_saved(s);
        t = new_slab(SLOTS, IC_BF16, IC_F32);
        ic_assert_ok(load(t, &c, &e), &e);
        expect_equal_slabs(s, t);
        ic_slab_destroy(&t);
        ic_buf none = {0};
        bool more = true;
        ic_slab_begin_save(s);
        assert_int_equal(ic_slab_save_rest(s, false, 1 << 20, &none, &more), 0);
        assert_true(none.size == 0 && !more);
    }
    forget(&c);
    ic_slab_destroy(&s);
}

/* After an acknowledged save, or a load, only new rows are given out; with `all`, all live ones. */
static void test_save_only_new(void **state)
{
    (void)state;
    ic_slab *s = new_slab(SLOTS, IC_F32, IC_F32), *t = new_slab(SLOTS, IC_F32, IC_F32);
    checkpoint c = {0}, again = {0}, all = {0};
    ic_error e = {0};
    append_text(s, 30);
    assert_int_equal(ic_slab_row_bytes_live(s), 30 * HEADS * DIM * 8);
    save(s, false, 1 << 20, &c);
    assert_true(c.pieces[0].size > 30 * HEADS * DIM * 8);
    ic_slab_mark_saved(s);
    save(s, false, 1 << 20, &again);
    assert_true(again.pieces[0].size < 100);
    save(s, true, 1 << 20, &all);
    assert_int_equal(all.pieces[0].size, c.pieces[0].size);
    ic_assert_ok(load(t, &c, &e), &e);
    forget(&again);
    save(t, false, 1 << 20, &again);
    assert_true(again.pieces[0].size < 100);
    forget(&c), forget(&again), forget(&all);
    ic_slab_destroy(&s), ic_slab_destroy(&t);
}

/* Every truncation and every flipped byte of tables or rows is refused, and the slab left empty or
 * as far as it was, never with wrong content taken for right. */
static void test_load_damaged(void **state)
{
    (void)state;
    ic_slab *s = new_slab(SLOTS, IC_F16, IC_F16), *t = new_slab(SLOTS, IC_F16, IC_F16);
    checkpoint c = {0};
    ic_error e = {0};
    ic_row rows[SLOTS];
    append(s, rows, make_group(rows, 1, 2, 2, 2));
    save(s, false, 1 << 20, &c);
    ic_buf *damaged[] = {&c.tables, &c.pieces[0]};
    for (int which = 0; which < 2; which++) {
        ic_buf *b = damaged[which];
        size_t size = b->size;
        for (size_t i = 0; i < size; i++) {
            b->data[i] ^= 0x10;
            assert_int_not_equal(load(t, &c, &e), 0);
            b->data[i] ^= 0x10;
            b->size = i;
            assert_int_not_equal(load(t, &c, &e), 0);
            b->size = size;
        }
    }
    ic_assert_ok(load(t, &c, &e), &e);
    expect_equal_slabs(s, t);
    forget(&c);
    ic_slab_destroy(&s), ic_slab_destroy(&t);
}

/* The checksum that rows had in version 1: FNV-1a over 8-byte words, with a mix. */
static uint64_t old_checksum(const uint8_t *data, size_t size)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325), word;
    for (; size >= 8; data += 8, size -= 8) {
        memcpy(&word, data, 8);
        hash = (hash ^ word) * UINT64_C(0x100000001b3);
        hash ^= hash >> 29;
    }
    for (; size > 0; data++, size--)
        hash = (hash ^ *data) * UINT64_C(0x100000001b3);
    return hash ^ (hash >> 32);
}

/* Rows as version 1 wrote them are read, and refused when they are damaged. */
static void test_load_old(void **state)
{
    (void)state;
    ic_slab *s = new_slab(SLOTS, IC_BF16, IC_BF16), *t = new_slab(SLOTS, IC_BF16, IC_BF16);
    checkpoint c = {0};
    ic_error e = {0};
    append_text(s, 20);
    save(s, false, 1 << 20, &c);
    ic_buf *b = &c.pieces[0];
    size_t size = b->size - 8;
    b->data[4] = 1; /* the version */
    b->size = size;
    assert_int_equal(ic_buf_u64(b, old_checksum(b->data, size)), 0);
    b->data[size / 2] ^= 1;
    assert_int_equal(load(t, &c, &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "checksum"));
    b->data[size / 2] ^= 1;
    ic_assert_ok(load(t, &c, &e), &e);
    expect_equal_slabs(s, t);
    forget(&c);
    ic_slab_destroy(&s), ic_slab_destroy(&t);
}

/* A missing piece, rows without tables, and a slab of another shape are told apart and refused. */
static void test_load_refusals(void **state)
{
    (void)state;
    ic_slab *s = new_slab(SLOTS, IC_F32, IC_F32), *t = new_slab(SLOTS, IC_F32, IC_F32);
    ic_slab *other = new_slab(SLOTS - 1, IC_F32, IC_F32);
    checkpoint c = {0};
    ic_error e = {0};
    append_text(s, 20);
    save(s, false, 2000, &c);
    assert_true(c.count > 2);
    assert_int_equal(ic_slab_load_rows(t, c.pieces[0].data, c.pieces[0].size, &e), IC_EINVAL);
    assert_int_equal(ic_slab_load_finish(t, &e), IC_EINVAL);
    assert_int_equal(load(other, &c, &e), IC_EMISMATCH);
    ic_buf last = c.pieces[--c.count];
    assert_int_equal(load(t, &c, &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "lacks"));
    assert_int_equal(ic_slab_used(t), 0);
    ic_buf_fini(&last);
    forget(&c);
    ic_slab_destroy(&s), ic_slab_destroy(&t), ic_slab_destroy(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_positions, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_positions_adjacent_groups, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_lowest_slot_first, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_limit, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_drop_last, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_evict_text, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_evict_groups, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_evict_waiting_marker, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_random_history, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_memory, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_save_incremental, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_save_in_passing, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_save_only_new, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_load_damaged, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_load_old, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_load_refusals, open_device, close_device),
    };
    return IC_TEST_RUN(tests);
}
