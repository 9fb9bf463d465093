/* Memory of the CUDA device: what is reserved is enough, whatever comes within the bounds; pieces
 * of it go to an image in host memory and back, with their checksum. */
#include <string.h>

#include "base/ic_mem.h"
#include "ic_test_cuda.h"
#include "kernels/cuda/ic_cuda_slab.h"
#include "kernels/ic_sum.h"

static ic_device *cuda;
static uint64_t dice;

static int open_device(void **state)
{
    (void)state;
    dice = 7;
    cuda = ic_test_cuda_open(0);
    return cuda ? 0 : -1;
}

static int close_device(void **state)
{
    (void)state;
    ic_device_close(&cuda);
    return 0;
}

/* --- a little of everything --- */

enum {
    LAYERS = 2,
    KV = 2,
    HEADS = 4,
    DIM = 16,
    HIDDEN = HEADS * DIM,
    SLOTS = 900,
    SESSIONS = 3,
    ROWS = 40, /* of a slice, and of a product */
    VOCAB = 50,
    GRID = 8,
    PATCHES = GRID * GRID,
    PATCH = 4,
    VALUES = 3 * 2 * PATCH * PATCH
};

static const ic_slab_desc desc = {LAYERS, KV, DIM, SLOTS, IC_BF16, IC_BF16};

typedef struct work {
    float inv_freq[DIM / 2];
    uint8_t axis[DIM / 2];
    ic_rope rope;
    ic_weight *weight; /* [HIDDEN, HIDDEN] */
    ic_mat x, y, kv, logits, patches, q[4];
    ic_slab *slabs[SESSIONS];
    uint8_t *pixels;
    uint32_t ordinal;
} work;

static ic_mat room_for(int64_t rows, int64_t cols)
{
    ic_mat m = {ic_device_alloc(cuda, (size_t)(rows * cols) * sizeof(float)), IC_F32, rows, cols,
                cols};
    assert_non_null(m.data);
    return m;
}

static ic_ops_bounds bounds_of(const work *w)
{
    return (ic_ops_bounds){.rows = SESSIONS * ROWS,
                           .drawn = SESSIONS,
                           .patches = PATCHES,
                           .vision_heads = HEADS,
                           .vision_dim = DIM,
                           .vision_theta = 1e4f,
                           .frame_bytes = 2 * (size_t)PATCHES * PATCH * PATCH * 3,
                           .slab = &desc,
                           .score = IC_SCORE_SUM,
                           .heads = HEADS,
                           .slice_rows = SESSIONS * ROWS,
                           .rope = &w->rope};
}

static void begin_work(work *w)
{
    static const ic_score_kind kinds[SESSIONS] = {IC_SCORE_NONE, IC_SCORE_WINDOW, IC_SCORE_SUM};
    ic_error e = {0};
    *w = (work){.pixels = ic_calloc(2 * (size_t)PATCHES * PATCH * PATCH * 3, 1)};
    for (int i = 0; i < DIM / 2; i++)
        w->inv_freq[i] = 1.0f / (float)(i + 1);
    w->rope = (ic_rope){DIM / 2, w->inv_freq, w->axis, 1};
    ic_assert_ok(ic_weight_new(&w->weight, cuda, NULL, IC_BF16, IC_BF16, HIDDEN, HIDDEN, &e), &e);
    w->x = room_for(SESSIONS * ROWS, HIDDEN);
    w->y = room_for(SESSIONS * ROWS, HIDDEN);
    w->kv = room_for(SESSIONS * ROWS, KV * DIM);
    w->logits = room_for(SESSIONS, VOCAB);
    w->patches = room_for(PATCHES, VALUES);
    for (int i = 0; i < 4; i++)
        w->q[i] = room_for(PATCHES, HIDDEN);
    for (int i = 0; i < SESSIONS; i++) {
        ic_assert_ok(ic_slab_new(&w->slabs[i], cuda, &desc, &e), &e);
        ic_assert_ok(ic_slab_keep_scores(w->slabs[i], kinds[i], 0, &e), &e);
    }
}

static void end_work(work *w)
{
    ic_mat *mats[] = {&w->x,    &w->y,    &w->kv,   &w->logits, &w->patches,
                      &w->q[0], &w->q[1], &w->q[2], &w->q[3]};
    for (size_t i = 0; i < sizeof mats / sizeof *mats; i++)
        ic_device_free(cuda, mats[i]->data);
    for (int i = 0; i < SESSIONS; i++)
        ic_slab_destroy(&w->slabs[i]);
    ic_weight_destroy(&w->weight);
    ic_free(w->pixels);
}

static ic_mat first_rows(const ic_mat *m, int rows)
{
    ic_mat part = *m;
    part.rows = rows;
    return part;
}

static void append(work *w, ic_slab *s, int count)
{
    ic_row rows[ROWS];
    ic_error e = {0};
    for (int i = 0; i < count; i++)
        rows[i] = (ic_row){.ordinal = w->ordinal++, .advance = 1};
    ic_assert_ok(ic_slab_append(s, rows, count, &e), &e);
}

/* A slice of each session, all in one call. */
static void prefill(work *w)
{
    ic_attend_slice slices[SESSIONS];
    ic_mat kv = first_rows(&w->kv, ROWS);
    for (int i = 0; i < SESSIONS; i++) {
        append(w, w->slabs[i], ROWS);
        assert_int_equal(ic_slab_store(w->slabs[i], 0, ROWS, 0, &kv, &kv), 0);
        slices[i] = (ic_attend_slice){w->slabs[i], ROWS, 0, i == 1 ? 8 : 0};
    }
    assert_int_equal(ic_op_gemm(cuda, IC_PREFILL, &w->x, w->weight, NULL, false, &w->y), 0);
    assert_int_equal(
        ic_op_attention_slices(cuda, slices, SESSIONS, 0, HEADS, &w->x, &w->rope, 0.1f, &w->y), 0);
}

static void decode(work *w)
{
    ic_mat x = first_rows(&w->x, SESSIONS), y = first_rows(&w->y, SESSIONS);
    ic_mat kv = first_rows(&w->kv, SESSIONS);
    const ic_slab *const *slabs = (const ic_slab *const *)w->slabs;
    ic_draw draws[SESSIONS];
    int32_t tokens[SESSIONS];
    for (int i = 0; i < SESSIONS; i++) {
        append(w, w->slabs[i], 1);
        draws[i] = (ic_draw){.temperature = 1, .top_p = 1, .penalty = 1, .uniform = 0.5};
    }
    int rc = ic_ops_begin(cuda, slabs, SESSIONS, 1);
    rc = rc ? rc : ic_slab_store_each(w->slabs, SESSIONS, 0, &kv, &kv);
    rc = rc ? rc : ic_op_attention_decode(cuda, slabs, SESSIONS, 0, HEADS, &x, &w->rope, 0.1f, &y);
    rc = rc ? rc : ic_op_gemm(cuda, IC_DECODE, &y, w->weight, NULL, false, &x);
    assert_int_equal(ic_ops_end(cuda, rc), 0);
    assert_int_equal(ic_op_sample(cuda, &w->logits, draws, tokens), 0);
}

static void see(work *w)
{
    const ic_patch_layout layout = {GRID, GRID, PATCH, 2, 2, {0.5f, 0.5f, 0.5f}, {1, 1, 1}};
    const uint8_t *const frames[2] = {w->pixels, w->pixels + (size_t)PATCHES * PATCH * PATCH * 3};
    static const int32_t starts[] = {0, PATCHES};
    assert_int_equal(ic_op_patchify(cuda, &layout, frames, &w->patches), 0);
    assert_int_equal(ic_op_vision_rope(cuda, &layout, HEADS, DIM, 1e4f, &w->q[0], &w->q[1]), 0);
    assert_int_equal(
        ic_op_attention_full(cuda, &w->q[0], &w->q[1], &w->q[2], starts, 1, HEADS, 0.2f, &w->q[3]),
        0);
}

/* Caches are filled to their ends, read, and thinned out. Returns how often memory was taken. */
static uint64_t work_through(work *w)
{
    uint64_t before = ic_device_memory_of(cuda).taken;
    static const ic_plan plans[SESSIONS] = {
        {.budget = 100, .sinks = 2},
        {.budget = 100, .sinks = 2, .recent = 20, .scored = true},
        {.budget = 100, .sinks = 2, .recent = 20, .scored = true}};
    for (int i = 0; i < 4; i++) {
        see(w);
        prefill(w);
        decode(w);
    }
    while (ic_slab_free(w->slabs[0]) > ROWS + 4)
        prefill(w);
    for (int i = 0; i < 4; i++)
        decode(w);
    for (int i = 0; i < SESSIONS; i++)
        assert_int_equal(ic_slab_evict(w->slabs[i], &plans[i], NULL), 0);
    prefill(w);
    assert_int_equal(ic_ops_wait(cuda), 0);
    return ic_device_memory_of(cuda).taken - before;
}

/* What has been reserved is enough for all that comes within the bounds: no memory is taken after
 * the start, and none was promised that was not taken. Without a reservation the same work takes
 * memory (else this test would see nothing). */
static void reserved_memory_is_enough(void **state)
{
    (void)state;
    work w;
    begin_work(&w);
    ic_ops_bounds bounds = bounds_of(&w);
    ic_device_memory before = ic_device_memory_of(cuda);
    size_t cost = ic_ops_reserve_bytes(cuda, &bounds);
    assert_int_equal(ic_ops_reserve(cuda, &bounds), 0);
    ic_device_memory after = ic_device_memory_of(cuda);
    printf("  %zu bytes reserved, %zu foretold\n", after.used - before.used, cost);
    assert_true(after.used > before.used && after.scratch > before.scratch);
    assert_true(after.used - before.used <= cost + PATCHES * DIM * 16);
    assert_int_equal(work_through(&w), 0);
    assert_int_equal(ic_ops_reserve(cuda, &bounds), 0);
    assert_int_equal(ic_device_memory_of(cuda).taken, after.taken); /* the second time is free */
    end_work(&w);

    close_device(NULL);
    open_device(NULL);
    begin_work(&w);
    assert_true(work_through(&w) > 3);
    end_work(&w);
}

/* --- recorded steps --- */

/* A step of one session whose new row is `value` all over; whether the cache has got it. */
static void step_with(work *w, ic_slab *s, float value)
{
    float row[KV * DIM], k[DIM], v[DIM];
    int32_t slots[SLOTS];
    ic_mat kv = first_rows(&w->kv, 1), x = first_rows(&w->x, 1), y = first_rows(&w->y, 1);
    const ic_slab *const *one = (const ic_slab *const *)&s;
    for (int i = 0; i < KV * DIM; i++)
        row[i] = value;
    assert_int_equal(ic_device_upload(cuda, kv.data, row, sizeof row), 0);
    append(w, s, 1);
    int rc = ic_ops_begin(cuda, one, 1, 2);
    rc = rc ? rc : ic_slab_store_each(&s, 1, 0, &kv, &kv);
    rc = rc ? rc : ic_op_attention_decode(cuda, one, 1, 0, HEADS, &x, &w->rope, 0.1f, &y);
    assert_int_equal(ic_ops_end(cuda, rc), 0);
    for (int head = 0; head < KV; head++) {
        ic_slab_rows(s, 0, head, NULL, slots, NULL);
        ic_slab_read(s, 0, head, slots[ic_slab_count(s, 0, head) - 1], k, v);
        for (int i = 0; i < DIM; i++)
            assert_true(k[i] == value && v[i] == value);
    }
}

/* What has been recorded with one cache serves that cache alone, be the others of the same shape;
 * and one that comes when another has gone is another, be its memory the same. */
static void a_recording_has_one_cache(void **state)
{
    (void)state;
    enum { CACHES = 3, TURNS = 12 };
    work w;
    ic_error e = {0};
    ic_slab *caches[CACHES];
    uint64_t last = 0;
    begin_work(&w);
    for (int i = 0; i < CACHES; i++)
        ic_assert_ok(ic_slab_new(&caches[i], cuda, &desc, &e), &e);
    for (int turn = 0; turn < TURNS; turn++)
        for (int i = 0; i < CACHES; i++) {
            step_with(&w, caches[i], (float)(turn * CACHES + i));
            if (turn % 4 != 3)
                continue;
            ic_slab_destroy(&caches[i]);
            ic_assert_ok(ic_slab_new(&caches[i], cuda, &desc, &e), &e);
            assert_true(ic_cuda_slab_number(caches[i]) > last);
            last = ic_cuda_slab_number(caches[i]);
        }
    for (int i = 0; i < CACHES; i++)
        ic_slab_destroy(&caches[i]);
    end_work(&w);
}

/* A step whose recording cannot begin fails by itself: the ones behind it run, unrecorded. */
static void a_recording_may_fail(void **state)
{
    (void)state;
    work w;
    ic_error e = {0};
    ic_slab *s;
    const ic_slab *const *one = (const ic_slab *const *)&s;
    if (!IC_TEST_EMULATED) {
        skip();
        return;
    }
    begin_work(&w);
    ic_assert_ok(ic_slab_new(&s, cuda, &desc, &e), &e);
    step_with(&w, s, 1); /* it brings scratch; the next is the first of its kind */
    step_with(&w, s, 2);
    append(&w, s, 1);
    setenv("IC_EMU_NO_CAPTURE", "1", 1);
    assert_int_not_equal(ic_ops_begin(cuda, one, 1, 2), 0);
    unsetenv("IC_EMU_NO_CAPTURE");
    ic_slab_drop_last(s, 1);
    for (int i = 3; i < 7; i++)
        step_with(&w, s, (float)i);
    ic_slab_destroy(&s);
    end_work(&w);
}

/* --- images --- */

enum { BLOCKS = 1500, BYTES_MAX = 24 << 10, HUGE_BYTES = 11 << 20, GAP_MAX = 64 };

typedef struct image {
    ic_block *blocks;
    char *device; /* what the blocks are pieces of */
    uint8_t *bytes, *wanted;
    size_t size;
    uint64_t sum; /* of the blocks */
} image;

/* Blocks of many sizes, one of them larger than two parts of a copy, in another order on the device
 * than in the image; gaps between them. */
static void make_image(image *m, int count, bool huge)
{
    size_t total = 0;
    *m = (image){.blocks = ic_calloc((size_t)count, sizeof *m->blocks)};
    for (int i = 0; i < count; i++) {
        ic_block *b = &m->blocks[i];
        m->size += 4 * (size_t)ic_test_draw(&dice, GAP_MAX / 4);
        b->at = m->size;
        b->bytes = 4 * (size_t)ic_test_draw(&dice, BYTES_MAX / 4);
        b->bytes = huge && i == count / 2 ? 2 * (size_t)HUGE_BYTES : b->bytes;
        m->size += b->bytes;
        total += b->bytes;
    }
    m->device = ic_device_alloc(cuda, total + 4);
    assert_non_null(m->device);
    for (int i = count - 1, at = 0; i >= 0; i--) {
        m->blocks[i].device = m->device + at;
        at += (int)m->blocks[i].bytes;
    }
    m->wanted = ic_alloc(m->size + 1);
    ic_test_noise(m->wanted, m->size, 3);
    for (int i = 0; i < count; i++)
        m->sum += ic_sum_bytes(m->wanted, m->blocks[i].at, m->blocks[i].at + m->blocks[i].bytes);
}

static void drop_image(image *m)
{
    ic_free(m->blocks);
    ic_free(m->wanted);
    ic_device_free(cuda, m->device);
}

/* From the image to the device and back into another: the blocks' bytes and their checksum. locked:
 * the images lie in page-locked memory. */
static void check_image(int count, bool huge, bool locked)
{
    image m;
    uint64_t sum = 1;
    make_image(&m, count, huge);
    uint8_t *to = locked ? ic_device_alloc_host(cuda, m.size + 1) : ic_alloc(m.size + 1);
    assert_non_null(to);
    memcpy(to, m.wanted, m.size);
    assert_int_equal(cuda->backend->scatter_blocks(cuda, m.blocks, count, to, &sum), 0);
    assert_true(sum == m.sum);
    assert_memory_equal(to, m.wanted, m.size);
    memset(to, 0, m.size);
    assert_int_equal(cuda->backend->gather_blocks(cuda, m.blocks, count, to, &sum), 0);
    assert_true(sum == m.sum);
    for (int i = 0; i < count; i++)
        assert_memory_equal(to + m.blocks[i].at, m.wanted + m.blocks[i].at, m.blocks[i].bytes);
    if (locked)
        ic_device_free_host(cuda, to);
    else
        ic_free(to);
    drop_image(&m);
}

/* Pieces go to an image and come back to the bit, through page-locked memory or not, in many parts
 * and in one, with a checksum that is the host's. */
static void images_come_back(void **state)
{
    (void)state;
    for (int locked = 0; locked < 2; locked++) {
        check_image(1, false, locked);
        check_image(7, false, locked);
        check_image(BLOCKS, false, locked);
        check_image(3, true, locked);
    }
}

/* More pieces than one part may have. */
static void many_small_pieces(void **state)
{
    (void)state;
    enum { COUNT = 9000, PIECE = 8 };
    char *device = ic_device_alloc(cuda, (size_t)COUNT * PIECE);
    uint8_t *bytes = ic_alloc((size_t)COUNT * 2 * PIECE),
            *back = ic_calloc((size_t)COUNT * 2, PIECE);
    ic_block *blocks = ic_calloc(COUNT, sizeof *blocks);
    uint64_t sum[2];
    assert_non_null(device);
    ic_test_noise(bytes, (size_t)COUNT * 2 * PIECE, 5);
    for (int i = 0; i < COUNT; i++)
        blocks[i] =
            (ic_block){device + (size_t)(i * 7 % COUNT) * PIECE, (size_t)i * 2 * PIECE, PIECE};
    assert_int_equal(cuda->backend->scatter_blocks(cuda, blocks, COUNT, bytes, &sum[0]), 0);
    assert_int_equal(cuda->backend->gather_blocks(cuda, blocks, COUNT, back, &sum[1]), 0);
    assert_true(sum[0] == sum[1]);
    for (int i = 0; i < COUNT; i++)
        assert_memory_equal(back + blocks[i].at, bytes + blocks[i].at, PIECE);
    ic_device_free(cuda, device);
    ic_free(bytes);
    ic_free(back);
    ic_free(blocks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reserved_memory_is_enough, open_device, close_device),
        cmocka_unit_test_setup_teardown(a_recording_has_one_cache, open_device, close_device),
        cmocka_unit_test_setup_teardown(a_recording_may_fail, open_device, close_device),
        cmocka_unit_test_setup_teardown(images_come_back, open_device, close_device),
        cmocka_unit_test_setup_teardown(many_small_pieces, open_device, close_device),
    };
    return ic_test_cuda_is_there() ? IC_TEST_RUN(tests) : IC_TEST_SKIPPED;
}
