/* Attention and scores of the CUDA backend against the CPU's plain loops: prefill, decode, windows,
 * sums, vision; and that a row's bits depend on its cache alone. */
#include <math.h>
#include <string.h>

#include "base/ic_mem.h"
#include "ic_test_cuda.h"
#include "kernels/ic_ops.h"

enum { MOST = 340, LAYERS = 2, LAYER = 1 };

static ic_device *cpu, *cuda;
static uint32_t seed;

static float next_random(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)((int32_t)seed >> 8) / (float)(1 << 23);
}

static float *random_floats(int64_t n)
{
    float *p = ic_alloc((size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++)
        p[i] = next_random();
    return p;
}

static int open_devices(void **state)
{
    (void)state;
    seed = 5;
    cuda = ic_test_cuda_open(1);
    return ic_device_open(
        &cpu, &(ic_device_config){.kind = "cpu", .threads = 1, .plain_loops = true}, NULL);
}

static int close_devices(void **state)
{
    (void)state;
    ic_device_close(&cpu);
    ic_device_close(&cuda);
    return 0;
}

/* --- device memory --- */

static ic_mat put(ic_device *d, const float *host, int64_t rows, int64_t cols)
{
    ic_mat m = {NULL, IC_F32, rows, cols, cols};
    size_t bytes = (size_t)(rows * cols) * sizeof *host;
    m.data = ic_device_alloc(d, bytes ? bytes : 4);
    assert_non_null(m.data);
    if (host)
        assert_int_equal(ic_device_upload(d, m.data, host, bytes), 0);
    return m;
}

static void get(ic_device *d, const ic_mat *m, float *host)
{
    size_t bytes = (size_t)(m->rows * m->cols) * sizeof *host;
    assert_int_equal(ic_device_download(d, host, m->data, bytes), 0);
}

/* --- a session --- */

typedef struct shape {
    int heads, kv, dim;
    ic_dtype dtype;
    ic_score_kind scores;
} shape;

typedef struct session {
    shape shape;
    ic_device *device;
    ic_slab *slab;
    ic_rope rope;
    float inv_freq[128];
    uint8_t axis[128];
    int count; /* rows fed so far */
} session;

/* Text with groups of 3 x 7 patches and their markers in between. */
static ic_row row_of(int i)
{
    int in_group = i % 40 - 15;
    ic_row row = {.ordinal = (uint32_t)i, .advance = 1};
    if (in_group < 0 || in_group >= 23)
        return row;
    row.group = (uint32_t)(1 + i / 40);
    row.kind = IC_ROW_MARKER;
    if (in_group == 0 || in_group == 22)
        return row;
    row.kind = IC_ROW_VISION;
    row.h = (uint16_t)((in_group - 1) / 7);
    row.w = (uint16_t)((in_group - 1) % 7);
    row.advance = 7;
    return row;
}

static void start(session *s, ic_device *d, shape shape_)
{
    ic_error e = {0};
    *s = (session){.shape = shape_, .device = d};
    int half = shape_.dim / 2;
    for (int i = 0; i < half; i++) {
        s->inv_freq[i] = powf(10000.0f, -(float)i / (float)half);
        s->axis[i] = (uint8_t)(i % 3);
    }
    s->rope = (ic_rope){half, s->inv_freq, s->axis, 1.0f};
    ic_slab_desc desc = {LAYERS, shape_.kv, shape_.dim, MOST + 10, shape_.dtype, shape_.dtype};
    ic_assert_ok(ic_slab_new(&s->slab, d, &desc, &e), &e);
    ic_assert_ok(ic_slab_keep_scores(s->slab, shape_.scores, 0.25f, &e), &e);
}

static void stop(session *s)
{
    ic_slab_destroy(&s->slab);
}

typedef struct feed_data { /* [MOST, .] each */
    float *q, *k, *v;
} feed_data;

static feed_data make_data(shape shape_)
{
    return (feed_data){random_floats((int64_t)MOST * shape_.heads * shape_.dim),
                       random_floats((int64_t)MOST * shape_.kv * shape_.dim),
                       random_floats((int64_t)MOST * shape_.kv * shape_.dim)};
}

static void drop_data(feed_data *data)
{
    ic_free(data->q), ic_free(data->k), ic_free(data->v);
}

/* Appends and stores `rows` rows in the layer under test (the other layer's stay unwritten). */
static void store(session *s, const feed_data *data, int rows)
{
    ic_row list[MOST];
    ic_error e = {0};
    int width = s->shape.kv * s->shape.dim;
    for (int i = 0; i < rows; i++)
        list[i] = row_of(s->count + i);
    ic_assert_ok(ic_slab_append(s->slab, list, rows, &e), &e);
    ic_mat k = put(s->device, data->k + (int64_t)s->count * width, rows, width);
    ic_mat v = put(s->device, data->v + (int64_t)s->count * width, rows, width);
    assert_int_equal(ic_slab_store(s->slab, LAYER, rows, 0, &k, &v), 0);
    ic_device_free(s->device, k.data);
    ic_device_free(s->device, v.data);
    s->count += rows;
}

/* Attention of the last `rows` rows but `behind`; y on the host. */
static void attend(session *s, const feed_data *data, int rows, int behind, int window, float *y)
{
    int width = s->shape.heads * s->shape.dim;
    ic_mat q = put(s->device, data->q + (int64_t)(s->count - behind - rows) * width, rows, width);
    ic_mat out = put(s->device, NULL, rows, width);
    assert_int_equal(ic_op_attention_prefill_scored(s->device, s->slab, LAYER, s->shape.heads, &q,
                                                    behind, &s->rope, 0.3f, window, &out),
                     0);
    get(s->device, &out, y);
    ic_device_free(s->device, q.data);
    ic_device_free(s->device, out.data);
}

static void decode(session *const *list, int n, const feed_data *data, float *y)
{
    const session *s = list[0];
    const ic_slab *slabs[8];
    int width = s->shape.heads * s->shape.dim;
    ic_mat q = put(s->device, NULL, n, width), out = put(s->device, NULL, n, width);
    for (int i = 0; i < n; i++) {
        slabs[i] = list[i]->slab;
        float *to = (float *)q.data + (int64_t)i * width;
        assert_int_equal(ic_device_upload(s->device, to,
                                          data->q + (int64_t)(list[i]->count - 1) * width,
                                          (size_t)width * sizeof *y),
                         0);
    }
    assert_int_equal(ic_op_attention_decode(s->device, slabs, n, LAYER, s->shape.heads, &q,
                                            &s->rope, 0.3f, &out),
                     0);
    get(s->device, &out, y);
    ic_device_free(s->device, q.data);
    ic_device_free(s->device, out.data);
}

static void scores_of(const session *s, int kv, float *scores)
{
    ic_slab_scores(s->slab, LAYER, kv, scores);
}

/* Largest difference, over the largest value. */
static void expect_near(const float *got, const float *want, int64_t n, double tolerance,
                        const char *what)
{
    double worst = 0, largest = 1e-30;
    for (int64_t i = 0; i < n; i++) {
        assert_true(isfinite(got[i]));
        worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
        largest = fmax(largest, fabs((double)want[i]));
    }
    if (worst > tolerance * largest)
        fail_msg("%s: off by %g of %g; allowed is %g of it", what, worst, largest, tolerance);
}

static bool lacks_gpu(void)
{
    if (cuda)
        return false;
    skip();
    return true;
}

/* Sizes that fill tiles and such that do not; groups that divide a tile and such that do not. */
static const shape shapes[] = {
    {4, 1, 128, IC_BF16, IC_SCORE_NONE}, {6, 2, 40, IC_F32, IC_SCORE_NONE},
    {7, 1, 64, IC_F16, IC_SCORE_NONE},   {2, 2, 80, IC_BF16, IC_SCORE_NONE},
    {3, 3, 8, IC_BF16, IC_SCORE_NONE},   {2, 1, 128, IC_F32, IC_SCORE_NONE},
    {4, 2, 160, IC_BF16, IC_SCORE_NONE}, {5, 1, 32, IC_F16, IC_SCORE_NONE},
    {11, 1, 96, IC_BF16, IC_SCORE_NONE}, {6, 2, 40, IC_F16, IC_SCORE_NONE},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* The tensor cores take keys, queries and weights rounded to a 16-bit type. */
static double rounded_tolerance(shape s)
{
    return s.dtype == IC_F32 ? 1e-5 : s.dtype == IC_BF16 ? 2e-2 : 3e-3;
}

static double tile_tolerance(shape s)
{
    return s.dim > 128 ? 1e-5 : rounded_tolerance(s);
}

static double decode_tolerance(shape s)
{
    return s.dim % 16 ? 1e-5 : rounded_tolerance(s);
}

/* --- the tests --- */

static void check_prefill(shape shape_, int first, int rows, int behind)
{
    feed_data data = make_data(shape_);
    int64_t n = (int64_t)rows * shape_.heads * shape_.dim;
    float *y[2] = {random_floats(n), random_floats(n)};
    ic_device *devices[2] = {cpu, cuda};
    for (int d = 0; d < 2; d++) {
        session s;
        start(&s, devices[d], shape_);
        if (first) {
            store(&s, &data, first);
            ic_plan plan = {.budget = first * 3 / 4, .sinks = 5}; /* slots and positions move */
            assert_int_equal(ic_slab_evict(s.slab, &plan, NULL), 0);
        }
        store(&s, &data, rows + behind);
        attend(&s, &data, rows, behind, 0, y[d]);
        stop(&s);
    }
    expect_near(y[1], y[0], n, tile_tolerance(shape_), "prefill");
    ic_free(y[0]), ic_free(y[1]);
    drop_data(&data);
}

/* Prefill agrees for every dtype and shape: one row, a tile and a bit, after an eviction, with rows
 * behind the slice. */
static void test_prefill(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    for (int i = 0; i < SHAPES; i++) {
        check_prefill(shapes[i], 0, 1, 0);
        check_prefill(shapes[i], 0, 70, 0);
        check_prefill(shapes[i], 150, 33, 0);
        check_prefill(shapes[i], 90, 20, 13);
    }
}

/* Decode agrees for every dtype and shape: in caches of 1, 70 and more rows than a split, after an
 * eviction. */
static void test_decode(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    for (int i = 0; i < SHAPES; i++) {
        feed_data data = make_data(shapes[i]);
        int width = shapes[i].heads * shapes[i].dim;
        float *y[2] = {random_floats(4 * width), random_floats(4 * width)};
        ic_device *devices[2] = {cpu, cuda};
        for (int d = 0; d < 2; d++) {
            session s[4], *list[4];
            static const int counts[4] = {1, 70, 300, 256};
            for (int n = 0; n < 4; n++) {
                start(&s[n], devices[d], shapes[i]);
                store(&s[n], &data, counts[n]);
                list[n] = &s[n];
            }
            ic_plan plan = {.budget = 200, .sinks = 9};
            assert_int_equal(ic_slab_evict(s[3].slab, &plan, NULL), 0);
            store(&s[3], &data, 80);
            decode(list, 4, &data, y[d]);
            for (int n = 0; n < 4; n++)
                stop(&s[n]);
        }
        expect_near(y[1], y[0], 4 * width, decode_tolerance(shapes[i]), "decode");
        ic_free(y[0]), ic_free(y[1]);
        drop_data(&data);
    }
}

/* Keys turned by the positions at which `count` rows of text stand. */
static void turn_keys(const session *s, int count, float *k)
{
    int half = s->shape.dim / 2, kv = s->shape.kv;
    ic_pos *at = ic_calloc((size_t)count, sizeof *at);
    ic_slab_rows(s->slab, LAYER, 0, NULL, NULL, at);
    for (int row = 0; row < count; row++)
        for (int n = 0; n < kv * half; n++) {
            float *low = k + ((int64_t)row * kv + n / half) * s->shape.dim + n % half;
            int axis = s->axis[n % half];
            float p = (float)(axis == 0 ? at[row].t : axis == 1 ? at[row].h : at[row].w);
            float angle = p * s->inv_freq[n % half], x = low[0];
            low[0] = x * cosf(angle) - low[half] * sinf(angle);
            low[half] = low[half] * cosf(angle) + x * sinf(angle);
        }
    ic_free(at);
}

/* Decode over keys that lie there rotated gives what rotating them while reading gives. */
static void test_decode_rotated(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    enum { ROWS = 300 };
    for (int i = 0; i < 3; i += 2) {
        shape shape_ = shapes[i];
        feed_data data = make_data(shape_);
        int width = shape_.heads * shape_.dim;
        float *y[2] = {random_floats(width), random_floats(width)};
        session s[2], *first = &s[0];
        start(&s[0], cuda, shape_);
        start(&s[1], cuda, shape_);
        store(&s[0], &data, ROWS);
        decode(&first, 1, &data, y[0]);
        turn_keys(&s[0], ROWS, data.k);
        store(&s[1], &data, ROWS);
        const ic_slab *slab = s[1].slab;
        ic_mat q = put(cuda, data.q + (int64_t)(ROWS - 1) * width, 1, width);
        ic_mat out = put(cuda, NULL, 1, width);
        assert_int_equal(ic_op_attention_decode_rotated(cuda, &slab, 1, LAYER, shape_.heads, &q,
                                                        &s[1].rope, 0.3f, &out),
                         0);
        get(cuda, &out, y[1]);
        expect_near(y[1], y[0], width, decode_tolerance(shape_), "rotated keys");
        ic_device_free(cuda, q.data);
        ic_device_free(cuda, out.data);
        for (int n = 0; n < 2; n++) {
            stop(&s[n]);
            ic_free(y[n]);
        }
        drop_data(&data);
    }
}

/* On the device itself: the same bits whatever the slices. */
static void test_slices(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    enum { ROWS = 150 };
    static const int cuts[] = {1, 7, 64, 100};
    for (int i = 0; i < 2; i++) {
        feed_data data = make_data(shapes[i]);
        int64_t width = (int64_t)shapes[i].heads * shapes[i].dim;
        float *whole = random_floats(ROWS * width), *some = random_floats(ROWS * width);
        session s;
        start(&s, cuda, shapes[i]);
        store(&s, &data, ROWS);
        attend(&s, &data, ROWS, 0, 0, whole);
        stop(&s);
        for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
            if (IC_TEST_EMULATED && cuts[c] == 1)
                continue; /* minutes */
            start(&s, cuda, shapes[i]);
            for (int at = 0, n; at < ROWS; at += n) {
                n = at + cuts[c] < ROWS ? cuts[c] : ROWS - at;
                store(&s, &data, n);
                attend(&s, &data, n, 0, 0, some + at * width);
            }
            assert_memory_equal(some, whole, (size_t)(ROWS * width) * sizeof *some);
            stop(&s);
        }
        ic_free(whole), ic_free(some);
        drop_data(&data);
    }
}

/* On the device itself: a decode row has the same bits alone and in a batch. */
static void test_batch(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    for (int i = 0; i < 3; i++) {
        feed_data data = make_data(shapes[i]);
        int width = shapes[i].heads * shapes[i].dim;
        float *together = random_floats(3 * width), *alone = random_floats(width);
        session s[3], *list[3] = {&s[0], &s[1], &s[2]};
        for (int n = 0; n < 3; n++) {
            start(&s[n], cuda, shapes[i]);
            store(&s[n], &data, 5 + n * 140);
        }
        decode(list, 3, &data, together);
        for (int n = 0; n < 3; n++) {
            decode(&list[n], 1, &data, alone);
            assert_memory_equal(alone, together + n * width, (size_t)width * sizeof *alone);
            stop(&s[n]);
        }
        ic_free(together), ic_free(alone);
        drop_data(&data);
    }
}

/* A window's scores agree, smoothed by a second window, and have the same bits when the window's
 * queries come later (as they do when it came in slices). */
static void test_window(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    for (int i = 0; i < 4; i++) {
        shape shape_ = shapes[i];
        shape_.scores = IC_SCORE_WINDOW;
        feed_data data = make_data(shape_);
        int width = shape_.heads * shape_.dim;
        float *y = random_floats(150 * width), *got = random_floats(3 * MOST);
        ic_device *devices[3] = {cpu, cuda, cuda};
        for (int d = 0; d < 3; d++) {
            session s;
            start(&s, devices[d], shape_);
            store(&s, &data, 100);
            attend(&s, &data, 100, 0, 32, y);
            store(&s, &data, 90);
            attend(&s, &data, 90, 0, d == 2 ? 0 : 21, y);
            if (d == 2) {
                ic_mat q = put(cuda, data.q + (int64_t)(190 - 21) * width, 21, width);
                assert_int_equal(
                    ic_op_attention_score(cuda, s.slab, LAYER, shape_.heads, &q, &s.rope, 0.3f), 0);
                ic_device_free(cuda, q.data);
            }
            scores_of(&s, shape_.kv - 1, got + d * MOST);
            stop(&s);
        }
        expect_near(got + MOST, got, 190, tile_tolerance(shape_), "window");
        assert_memory_equal(got + MOST, got + 2 * MOST, 190 * sizeof *got);
        ic_free(y), ic_free(got);
        drop_data(&data);
    }
}

/* Peaks of a window agree, and so do they when queries that are no rows of the cache look again, in
 * the places of its last rows: what was more before lasts, less what it is smoothed by. */
static void test_peaks(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    for (int i = 0; i < 4; i++) {
        shape shape_ = shapes[i];
        shape_.scores = IC_SCORE_PEAK;
        feed_data data = make_data(shape_);
        int width = shape_.heads * shape_.dim;
        float *y = random_floats(150 * width), *got = random_floats(2 * MOST);
        ic_device *devices[2] = {cpu, cuda};
        for (int d = 0; d < 2; d++) {
            session s;
            start(&s, devices[d], shape_);
            store(&s, &data, 100);
            attend(&s, &data, 100, 0, 32, y);
            store(&s, &data, 90);
            attend(&s, &data, 90, 0, 0, y);
            ic_mat q = put(devices[d], data.q + (int64_t)7 * width, 21, width);
            assert_int_equal(
                ic_op_attention_score(devices[d], s.slab, LAYER, shape_.heads, &q, &s.rope, 0.3f),
                0);
            ic_device_free(devices[d], q.data);
            scores_of(&s, shape_.kv - 1, got + d * MOST);
            stop(&s);
        }
        expect_near(got + MOST, got, 190, tile_tolerance(shape_), "peaks");
        ic_free(y), ic_free(got);
        drop_data(&data);
    }
}

/* A window's votes agree but where a share is on the threshold, to f32's last bits. */
static void test_votes(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    shape shape_ = shapes[1];
    shape_.scores = IC_SCORE_VOTES;
    feed_data data = make_data(shape_);
    float *y = random_floats(150 * shape_.heads * shape_.dim), *got = random_floats(2 * MOST);
    ic_device *devices[2] = {cpu, cuda};
    for (int d = 0; d < 2; d++) {
        session s;
        start(&s, devices[d], shape_);
        store(&s, &data, 150);
        attend(&s, &data, 150, 0, 40, y);
        scores_of(&s, 1, got + d * MOST);
        stop(&s);
    }
    int other = 0, voted = 0;
    for (int i = 0; i < 150; i++) {
        other += fabsf(got[i] - got[MOST + i]) > 1e-6f;
        voted += got[i] > 0.1f && got[i] < 0.9f;
    }
    assert_true(voted > 100 && other <= 2);
    ic_free(y), ic_free(got);
    drop_data(&data);
}

/* Slices of several sessions in one call give what each gives by itself, windows and all; and rows
 * stored for all sessions at once lie where they should. */
static void test_sessions(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    static const int rows[3] = {40, 1, 67}, behind[3] = {0, 3, 0}, window[3] = {20, 0, 0};
    shape shape_ = shapes[0];
    feed_data data = make_data(shape_);
    int width = shape_.heads * shape_.dim, kv = shape_.kv * shape_.dim, row = 0;
    float *together = random_floats(108 * width), *alone = random_floats(108 * width);
    float *scores = random_floats(4 * MOST), *y = random_floats(3 * width);
    session s[3], *list[3] = {&s[0], &s[1], &s[2]};
    ic_attend_slice slices[3];
    ic_slab *slabs[3];
    ic_mat q = put(cuda, NULL, 108, width), out = put(cuda, NULL, 108, width);
    for (int i = 0; i < 3; i++) {
        shape_.scores = i == 0 ? IC_SCORE_WINDOW : i == 1 ? IC_SCORE_NONE : IC_SCORE_SUM;
        start(&s[i], cuda, shape_);
        store(&s[i], &data, 30 * i + rows[i] + behind[i]);
        attend(&s[i], &data, rows[i], behind[i], window[i], alone + row * width);
        if (i != 1)
            scores_of(&s[i], 0, scores + i * MOST);
        slices[i] = (ic_attend_slice){s[i].slab, rows[i], behind[i], window[i]};
        slabs[i] = s[i].slab;
        const float *from = data.q + (int64_t)(s[i].count - behind[i] - rows[i]) * width;
        assert_int_equal(ic_device_upload(cuda, (float *)q.data + (int64_t)row * width, from,
                                          (size_t)(rows[i] * width) * sizeof *y),
                         0);
        row += rows[i];
    }
    assert_int_equal(
        ic_op_attention_slices(cuda, slices, 3, LAYER, shape_.heads, &q, &s[0].rope, 0.3f, &out),
        0);
    get(cuda, &out, together);
    assert_memory_equal(together, alone, (size_t)(108 * width) * sizeof *alone);
    scores_of(&s[0], 0, scores + 3 * MOST); /* smoothed with itself it is the same to rounding */
    expect_near(scores + 3 * MOST, scores, 40, 1e-6, "window in company");
    scores_of(&s[2], 0, scores + 3 * MOST);
    for (int i = 0; i < 127; i++)
        scores[2 * MOST + i] *= 2;
    expect_near(scores + 3 * MOST, scores + 2 * MOST, 127, 1e-5, "sums in company");

    ic_mat last = put(cuda, data.k, 3, kv); /* other keys and values than the last rows have */
    assert_int_equal(ic_slab_store_each(slabs, 3, LAYER, &last, &last), 0);
    decode(list, 3, &data, y);
    for (int i = 0; i < 3; i++) {
        ic_mat one = {(float *)last.data + i * kv, IC_F32, 1, kv, kv};
        assert_int_equal(ic_slab_store(slabs[i], LAYER, 1, 0, &one, &one), 0);
    }
    decode(list, 3, &data, alone);
    assert_memory_equal(y, alone, (size_t)(3 * width) * sizeof *alone);
    ic_mat *mats[] = {&q, &out, &last};
    for (int i = 0; i < 3; i++) {
        ic_device_free(cuda, mats[i]->data);
        stop(&s[i]);
    }
    ic_free(together), ic_free(alone), ic_free(scores), ic_free(y);
    drop_data(&data);
}

/* Sums over prefill and decode agree, and slices leave no trace in them. */
static void test_sums(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    for (int i = 0; i < 4; i++) {
        shape shape_ = shapes[i];
        shape_.scores = IC_SCORE_SUM;
        feed_data data = make_data(shape_);
        int width = shape_.heads * shape_.dim;
        float *y = random_floats(150 * width), *got = random_floats(3 * MOST);
        ic_device *devices[3] = {cpu, cuda, cuda};
        for (int d = 0; d < 3; d++) {
            session s, *one = &s;
            start(&s, devices[d], shape_);
            for (int at = 0; at < 130; at += d == 2 ? 65 : 130) {
                store(&s, &data, d == 2 ? 65 : 130);
                attend(&s, &data, d == 2 ? 65 : 130, 0, 0, y);
            }
            for (int n = 0; n < 3; n++) {
                store(&s, &data, 1);
                decode(&one, 1, &data, y);
            }
            scores_of(&s, 0, got + d * MOST);
            stop(&s);
        }
        expect_near(got + MOST, got, 133, tile_tolerance(shape_), "sums");
        assert_memory_equal(got + MOST, got + 2 * MOST, 133 * sizeof *got);
        ic_free(y), ic_free(got);
        drop_data(&data);
    }
}

/* Full attention agrees inside its segments (empty ones and single patches included), in f32 and in
 * 16-bit tiles. */
static void test_full(void **state)
{
    (void)state;
    if (lacks_gpu())
        return;
    static const int32_t starts[] = {0, 70, 70, 71, 199};
    static const int dims[] = {72, 32, 80, 128, 8};
    enum { HEADS = 2, ROWS = 199 };
    ic_device *rounded = ic_test_cuda_open(0);
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        int width = HEADS * dims[i];
        float *host[3] = {random_floats(ROWS * width), random_floats(ROWS * width),
                          random_floats(ROWS * width)};
        float *y[3] = {random_floats(ROWS * width), random_floats(ROWS * width),
                       random_floats(ROWS * width)};
        ic_device *devices[3] = {cpu, cuda, rounded};
        for (int d = 0; d < 3; d++) {
            ic_mat m[4];
            for (int part = 0; part < 4; part++)
                m[part] = put(devices[d], part < 3 ? host[part] : NULL, ROWS, width);
            assert_int_equal(ic_op_attention_full(devices[d], &m[0], &m[1], &m[2], starts, 4, HEADS,
                                                  0.2f, &m[3]),
                             0);
            get(devices[d], &m[3], y[d]);
            for (int part = 0; part < 4; part++)
                ic_device_free(devices[d], m[part].data);
        }
        expect_near(y[1], y[0], ROWS * width, 1e-5, "full attention in f32");
        expect_near(y[2], y[0], ROWS * width, 3e-3, "full attention in 16 bits");
        for (int part = 0; part < 3; part++) {
            ic_free(host[part]);
            ic_free(y[part]);
        }
    }
    ic_device_close(&rounded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_decode, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_decode_rotated, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_prefill, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_slices, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_batch, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_window, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_peaks, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_votes, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_sessions, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_sums, open_devices, close_devices),
        cmocka_unit_test_setup_teardown(test_full, open_devices, close_devices),
    };
    return ic_test_cuda_is_there() ? IC_TEST_RUN(tests) : IC_TEST_SKIPPED;
}
