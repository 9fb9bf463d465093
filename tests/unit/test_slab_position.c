/* Original positions of a slab: rows stay where they stood when they came, whatever leaves, however
 * they are sliced, taken back, saved and loaded. */
#include <string.h>

#include "base/ic_mem.h"
#include "ic_test.h"
#include "kernels/ic_slab.h"

enum { LAYERS = 2, HEADS = 2, DIM = 8, SLOTS = 160, ROWS = 120, LIMIT = 4096 };

static ic_device *device;

static int open_device(void **state)
{
    (void)state;
    return ic_device_open(&device, &(ic_device_config){.kind = "cpu", .threads = 1}, NULL);
}

static int close_device(void **state)
{
    (void)state;
    ic_device_close(&device);
    return 0;
}

static ic_slab *new_slab(void)
{
    ic_slab *s;
    ic_error e = {0};
    ic_slab_desc desc = {LAYERS, HEADS, DIM, SLOTS, IC_F32, IC_F32};
    ic_assert_ok(ic_slab_new(&s, device, &desc, &e), &e);
    ic_slab_keep_positions(s);
    return s;
}

/* Text, a timestamp, twelve patches (3 x 4), a marker, and so on; what transformers would say of
 * their positions beside them. */
static void make_rows(ic_row *rows, ic_pos *positions)
{
    int32_t at = 0;
    for (int i = 0; i < ROWS; i++) {
        int phase = i % 20;
        uint32_t group = (uint32_t)(i / 20) + 1;
        rows[i] = (ic_row){.ordinal = (uint32_t)i, .advance = 1};
        positions[i] = (ic_pos){at, at, at};
        if (phase == 4 || phase == 17)
            rows[i] = (ic_row){(uint32_t)i, group, 0, 0, 1, IC_ROW_MARKER, 0};
        if (phase < 5 || phase >= 17) {
            at++;
            continue;
        }
        int patch = phase - 5;
        rows[i] = (ic_row){(uint32_t)i,   group, (uint16_t)(patch / 4), (uint16_t)(patch % 4), 4,
                           IC_ROW_VISION, 0};
        positions[i] = (ic_pos){at, at + patch / 4, at + patch % 4};
        at += patch == 11 ? 4 : 0;
    }
}

static void expect(const ic_slab *s, const ic_pos *positions)
{
    ic_row rows[SLOTS];
    ic_pos got[SLOTS];
    for (int head = 0; head < LAYERS * HEADS; head++) {
        int count = ic_slab_count(s, head / HEADS, head % HEADS);
        ic_slab_rows(s, head / HEADS, head % HEADS, rows, NULL, got);
        for (int i = 0; i < count; i++)
            assert_memory_equal(&got[i], &positions[rows[i].ordinal], sizeof *got);
    }
}

/* In slices of any length, with evictions between them and slices that are taken back, every row
 * stands where it would in one piece with nothing evicted. */
static void test_slices(void **state)
{
    (void)state;
    ic_row rows[ROWS];
    ic_pos positions[ROWS];
    make_rows(rows, positions);
    for (int slice = 1; slice < 30; slice++) {
        ic_slab *s = new_slab();
        ic_error e = {0};
        for (int at = 0; at < ROWS; at += slice) {
            int n = at + slice < ROWS ? slice : ROWS - at;
            int32_t before = ic_slab_next(s);
            ic_assert_ok(ic_slab_append(s, rows + at, n, &e), &e);
            ic_slab_drop_last(s, n);
            assert_true(ic_slab_next(s) >= before && ic_slab_next(s) <= before + 4);
            ic_assert_ok(ic_slab_append(s, rows + at, n, &e), &e);
            ic_plan plan = {.budget = 50, .sinks = 3};
            assert_int_equal(ic_slab_evict(s, &plan, NULL), 0);
            expect(s, positions);
        }
        assert_true(ic_slab_used(s) <= 50);
        assert_int_equal(ic_slab_next(s), positions[ROWS - 1].t + 1);
        ic_slab_destroy(&s);
    }
}

static void save(const ic_slab *s, ic_buf *tables, ic_buf *positions)
{
    assert_int_equal(ic_slab_save_tables(s, tables), 0);
    assert_int_equal(ic_slab_save_positions(s, positions), 0);
}

static ic_slab *load(const ic_buf *tables, const void *bytes, size_t size, int32_t limit, int *rc)
{
    ic_slab *s = new_slab();
    ic_cursor c;
    ic_error e = {0};
    ic_cursor_init(&c, tables->data, tables->size);
    ic_assert_ok(ic_slab_load_tables(s, &c, &e), &e);
    ic_cursor_init(&c, bytes, size);
    *rc = ic_slab_load_positions(s, limit, &c, &e);
    return s;
}

/* Loaded, rows stand where they stood, and the next goes on there. Cut off, beyond the limit or out
 * of order, positions are refused; whatever bytes are changed, none comes in beyond the limit. */
static void test_bytes(void **state)
{
    (void)state;
    ic_row rows[ROWS];
    ic_pos positions[ROWS], got[SLOTS];
    make_rows(rows, positions);
    ic_slab *s = new_slab();
    ic_error e = {0};
    ic_buf tables = {0}, bytes = {0};
    int rc;
    ic_assert_ok(ic_slab_append(s, rows, 90, &e), &e);
    ic_plan plan = {.budget = 40, .sinks = 3};
    assert_int_equal(ic_slab_evict(s, &plan, NULL), 0);
    save(s, &tables, &bytes);
    ic_slab *t = load(&tables, bytes.data, bytes.size, LIMIT, &rc);
    assert_int_equal(rc, 0);
    expect(t, positions);
    assert_int_equal(ic_slab_next(t), ic_slab_next(s));
    ic_slab_destroy(&t);
    t = load(&tables, bytes.data, bytes.size, ic_slab_next(s) - 1, &rc);
    assert_int_equal(rc, IC_EFORMAT);
    ic_slab_destroy(&t);
    for (size_t cut = 0; cut < bytes.size; cut++) {
        t = load(&tables, bytes.data, cut, LIMIT, &rc);
        assert_int_equal(rc, IC_EFORMAT);
        ic_slab_destroy(&t);
    }
    int refused = 0;
    for (size_t at = 0; at < bytes.size; at++) {
        bytes.data[at] ^= 0x41;
        t = load(&tables, bytes.data, bytes.size, LIMIT, &rc);
        refused += rc == IC_EFORMAT;
        int count = rc ? 0 : ic_slab_count(t, 0, 0);
        ic_slab_rows(t, 0, 0, NULL, NULL, got);
        for (int i = 0; i < count; i++)
            assert_true(got[i].t >= 0 && got[i].t < LIMIT && (i == 0 || got[i].t >= got[i - 1].t));
        bytes.data[at] ^= 0x41;
        ic_slab_destroy(&t);
    }
    assert_true(refused > (int)bytes.size / 2);
    ic_buf_fini(&tables), ic_buf_fini(&bytes);
    ic_slab_destroy(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_slices, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_bytes, open_device, close_device),
    };
    return IC_TEST_RUN(tests);
}
