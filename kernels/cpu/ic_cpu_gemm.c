/* Weights and products.
 *
 * A weight stays as it lies in the model's file, rows [out, in]: decode reads it row by row, and
 * prefill turns a block of columns of W^T into a panel just before it is used, which costs little
 * beside the product. One copy serves both, and memory-mapped files need none at all. */
#include <stdatomic.h>
#include <string.h>

#include "base/ic_mem.h"
#include "kernels/cpu/ic_cpu.h"

enum {
    PANEL_COLS = 64,            /* outputs of a task come in multiples of this */
    PANEL_K = 1024,             /* of the sum at a time: panel and rows stay in the L2 cache */
    TILE_ROWS = 512,            /* rows of x at a time */
    DECODE_TASKS = 8,           /* per thread, if the weight is large enough: so that a slow core */
    DECODE_BYTES_MIN = 1 << 16, /* holds up little, and a stream is long beside its start */
    DECODE_BYTES_MAX = 1 << 19
};

/* --- weights --- */

static bool can_borrow(const void *host, ic_dtype from, ic_dtype compute)
{
    bool same_form = compute == IC_F32 || from == IC_BF16;
    return same_form && (uintptr_t)host % ic_dtype_size(from) == 0;
}

typedef struct convert_job {
    const ic_cpu_vec *vec;
    const char *from;
    char *to;
    ic_dtype from_dtype, to_dtype;
    int64_t in;
} convert_job;

static void convert_rows(void *arg, int64_t first, int64_t end)
{
    const convert_job *j = arg;
    size_t from_bytes = ic_dtype_size(j->from_dtype), to_bytes = ic_dtype_size(j->to_dtype);
    float piece[256];
    for (int64_t at = first * j->in; at < end * j->in; at += 256) {
        int64_t n = end * j->in - at < 256 ? end * j->in - at : 256;
        j->vec->widen(j->from_dtype, j->from + (size_t)at * from_bytes, piece, n);
        j->vec->narrow(j->to_dtype, piece, j->to + (size_t)at * to_bytes, n);
    }
}

int ic_cpu_weight_new(ic_weight **out, ic_device *base, const void *host, ic_dtype from,
                      ic_dtype compute, int64_t out_dim, int64_t in_dim, ic_error *e)
{
    ic_cpu_device *d = ic_cpu_of(base);
    if (!host)
        return ic_error_set(e, IC_EUNSUPPORTED, "the CPU makes up no weights");
    ic_cpu_weight *w = ic_alloc(sizeof *w);
    bool borrow = can_borrow(host, from, compute);
    /* f32 products of a bf16 or f16 weight widen it as they read: exact, and half the memory. */
    w->stored = compute == IC_BF16 ? IC_BF16 : from;
    int64_t bytes = out_dim * in_dim * (int64_t)ic_dtype_size(w->stored);
    w->base = (ic_weight){.device = base,
                          .out_dim = out_dim,
                          .in_dim = in_dim,
                          .compute = compute,
                          .bytes = bytes,
                          .own_bytes = borrow ? 0 : bytes};
    w->data = host;
    if (!borrow) {
        w->data = w->own = ic_try_alloc_aligned((size_t)bytes);
        if (!w->own) {
            ic_free(w);
            return ic_error_set(e, IC_ENOMEM, "no memory for a weight of %lld MiB",
                                (long long)(bytes >> 20));
        }
        convert_job job = {d->vec, host, w->own, from, w->stored, in_dim};
        ic_cpu_for_rows(d, convert_rows, &job, out_dim, (1 << 18) / (in_dim + 1) + 1);
    }
    *out = &w->base;
    return 0;
}

void ic_cpu_weight_destroy(ic_weight *base)
{
    ic_cpu_weight *w = (ic_cpu_weight *)(void *)base;
    ic_free(w->own);
    ic_free(w);
}

/* --- the job of one product --- */

typedef struct gemm_job {
    ic_cpu_device *d;
    const ic_cpu_weight *w;
    const ic_mat *x;
    const uint16_t *half; /* x in bf16 [rows, half_stride], when products run in bf16 */
    int64_t half_stride;
    const float *bias;
    bool add;
    ic_mat *y;
    int64_t block; /* outputs of a task; in prefill, columns of a panel */
} gemm_job;

/* y[row, first ...] = sums (+ bias) (+ y). */
static void finish_row(const gemm_job *j, int64_t row, int64_t first, int cols, float *sums)
{
    float *y = ic_cpu_row(j->y, row) + first;
    if (j->bias)
        j->d->vec->add(j->bias + first, sums, cols);
    if (j->add)
        j->d->vec->add(sums, y, cols);
    else
        memcpy(y, sums, (size_t)cols * sizeof *y);
}

static void halve_rows(void *arg, int64_t first, int64_t end)
{
    const gemm_job *j = arg;
    for (int64_t i = first; i < end; i++) {
        uint16_t *half = (uint16_t *)(void *)(uintptr_t)j->half + i * j->half_stride;
        j->d->vec->narrow(IC_BF16, ic_cpu_row(j->x, i), half, j->x->cols);
        for (int64_t c = j->x->cols; c < j->half_stride; c++)
            half[c] = 0;
    }
}

/* Whether this product runs in bf16 on this machine. */
static bool in_bf16(const ic_cpu_device *d, const ic_cpu_weight *w)
{
    return w->base.compute == IC_BF16 && d->vec->gemm_bf16 != NULL;
}

static int halve_x(gemm_job *j)
{
    /* The library pads rows: room behind the last; whatever numbers stand there fall on rows of the
     * product that nobody reads. */
    int64_t rows = j->d->library ? ic_cpu_round_up(j->x->rows, TILE_ROWS) : j->x->rows;
    /* A line more than needed: rows of 2^n bytes would share few sets of the caches. */
    j->half_stride = ic_cpu_round_up(j->x->cols, 32) + 32;
    j->half = ic_cpu_shared_scratch(j->d, (size_t)(rows * j->half_stride) * sizeof *j->half);
    if (!j->half)
        return IC_ENOMEM;
    ic_cpu_for_rows(j->d, halve_rows, j, j->x->rows, (1 << 15) / (j->x->cols + 1) + 1);
    return 0;
}

/* --- decode: every row of x by itself, weights read once --- */

static void decode_task(void *arg, int task, int worker)
{
    const gemm_job *j = arg;
    const ic_cpu_weight *w = j->w;
    const ic_cpu_vec *vec = j->d->vec;
    int64_t first = task * j->block, in = w->base.in_dim, left = w->base.out_dim - first;
    int cols = (int)(left < j->block ? left : j->block), rows = (int)j->x->rows;
    float *sums = ic_cpu_worker_scratch(j->d, worker);
    const char *from = (const char *)w->data + first * in * (int64_t)ic_dtype_size(w->stored);
    if (j->half)
        vec->gemv_bf16((const uint16_t *)(const void *)from, cols, in, j->half, j->half_stride,
                       rows, sums, j->block);
    else
        vec->gemv(w->stored, from, cols, in, j->x->data, j->x->stride, rows, sums, j->block);
    for (int i = 0; i < rows; i++)
        finish_row(j, i, first, cols, sums + i * j->block);
}

static int run_decode(gemm_job *j)
{
    int64_t in = j->w->base.in_dim, out = j->w->base.out_dim;
    int64_t bytes = j->w->base.bytes / (ic_cpu_pool_threads(j->d->pool) * DECODE_TASKS);
    bytes = bytes < DECODE_BYTES_MIN ? DECODE_BYTES_MIN : bytes;
    bytes = bytes > DECODE_BYTES_MAX ? DECODE_BYTES_MAX : bytes;
    int64_t rows = bytes / (in * (int64_t)ic_dtype_size(j->w->stored));
    j->block = ic_cpu_round_up(rows > 0 ? rows : 1, IC_CPU_LANES);
    if (ic_cpu_reserve_workers(j->d, (size_t)(j->x->rows * j->block) * sizeof(float)))
        return IC_ENOMEM;
    ic_cpu_pool_run(j->d->pool, decode_task, j, (int)((out + j->block - 1) / j->block));
    return 0;
}

/* --- prefill: panels of W^T --- */

/* A worker's room. */
typedef struct panel_room {
    float *sums;  /* [TILE_ROWS, block] */
    void *panel;  /* [PANEL_K, block], or half as many lines of pairs */
    float *lines; /* [block, PANEL_K]: weight rows on their way to the panel */
} panel_room;

enum { ROOM_ROWS = TILE_ROWS + 2 * PANEL_K };

static panel_room room_of(void *memory, int64_t block)
{
    float *at = memory;
    return (panel_room){at, at + TILE_ROWS * block, at + (TILE_ROWS + PANEL_K) * block};
}

/* Wide panels where the vectors like them, but enough of them that no thread waits long. */
static int64_t panel_cols(const gemm_job *j)
{
    int64_t cols = j->half ? j->d->vec->panel_cols : PANEL_COLS;
    int64_t each = j->w->base.out_dim / (2 * ic_cpu_pool_threads(j->d->pool));
    while (cols > PANEL_COLS && cols > each)
        cols /= 2;
    return cols < PANEL_COLS ? PANEL_COLS : cols;
}

/* panel[k, o] = W[first + o, k0 + k] as f32. */
static void pack_f32(const gemm_job *j, int64_t first, int cols, int64_t k0, int k,
                     const panel_room *room)
{
    const ic_cpu_weight *w = j->w;
    int64_t in = w->base.in_dim, at = first * in + k0;
    const char *from = (const char *)w->data + at * (int64_t)ic_dtype_size(w->stored);
    if (w->stored == IC_F32) {
        j->d->vec->transpose(from, in, cols, k, room->panel, j->block);
        return;
    }
    for (int o = 0; o < cols; o++)
        j->d->vec->widen(w->stored, from + o * in * 2, room->lines + (int64_t)o * k, k);
    j->d->vec->transpose(room->lines, k, cols, k, room->panel, j->block);
}

/* panel[p, o] = the pair W[first + o, k0 + 2p], W[first + o, k0 + 2p + 1]. */
static void pack_pairs(const gemm_job *j, int64_t first, int cols, int64_t k0, int k,
                       const panel_room *room)
{
    int64_t in = j->w->base.in_dim;
    const uint16_t *from = (const uint16_t *)j->w->data + first * in + k0;
    if (in % 2 == 0) {
        j->d->vec->transpose(from, in / 2, cols, k / 2, room->panel, j->block);
        return;
    }
    int64_t even = k + k % 2;
    uint16_t *lines = (uint16_t *)(void *)room->lines;
    for (int o = 0; o < cols; o++) {
        memcpy(lines + o * even, from + o * in, (size_t)k * sizeof *lines);
        lines[o * even + even - 1] = k % 2 ? 0 : lines[o * even + even - 1];
    }
    j->d->vec->transpose(lines, even / 2, cols, (int)(even / 2), room->panel, j->block);
}

/* Where the sums of `rows` rows and one panel go: there are ldc elements between rows. */
typedef struct panel_sums {
    float *at;
    int64_t ldc, row, first;
    int rows, cols; /* cols: outputs that exist */
} panel_sums;

static void multiply_panel(const gemm_job *j, const panel_sums *to, const panel_room *room)
{
    const ic_cpu_vec *vec = j->d->vec;
    int64_t in = j->w->base.in_dim;
    int n = (int)ic_cpu_round_up(to->cols, PANEL_COLS);
    for (int64_t k0 = 0; k0 < in; k0 += PANEL_K) {
        int k = (int)(in - k0 < PANEL_K ? in - k0 : PANEL_K);
        if (j->half) {
            pack_pairs(j, to->first, to->cols, k0, k, room);
            vec->gemm_bf16(j->half + to->row * j->half_stride + k0, j->half_stride, room->panel,
                           j->block, to->at, to->ldc, to->rows, (k + 1) / 2, n, k0 > 0);
        } else {
            pack_f32(j, to->first, to->cols, k0, k, room);
            vec->gemm(ic_cpu_row(j->x, to->row) + k0, j->x->stride, room->panel, j->block, to->at,
                      to->ldc, to->rows, k, n, k0 > 0);
        }
    }
}

/* Whether a panel's sums can go where they belong at once. */
static bool written_once(const gemm_job *j, int cols)
{
    return cols % PANEL_COLS == 0 && j->w->base.in_dim <= PANEL_K && !j->bias && !j->add;
}

static void prefill_task(void *arg, int task, int worker)
{
    const gemm_job *j = arg;
    panel_room room = room_of(ic_cpu_worker_scratch(j->d, worker), j->block);
    int64_t first = task * j->block, left = j->w->base.out_dim - first;
    int cols = (int)(left < j->block ? left : j->block);
    if (cols % PANEL_COLS) /* columns that do not exist must still be numbers */
        memset(room.panel, 0, (size_t)(PANEL_K * j->block) * sizeof(float));
    for (int64_t row = 0; row < j->x->rows; row += TILE_ROWS) {
        int rows = (int)(j->x->rows - row < TILE_ROWS ? j->x->rows - row : TILE_ROWS);
        panel_sums to = {room.sums, j->block, row, first, rows, cols};
        if (written_once(j, cols)) {
            to.at = ic_cpu_row(j->y, row) + first;
            to.ldc = j->y->stride;
            multiply_panel(j, &to, &room);
            continue;
        }
        multiply_panel(j, &to, &room);
        for (int i = 0; i < rows; i++)
            finish_row(j, row + i, first, cols, room.sums + i * j->block);
    }
}

static int run_prefill(gemm_job *j)
{
    j->block = panel_cols(j);
    if (ic_cpu_reserve_workers(j->d, (size_t)(ROOM_ROWS * j->block) * sizeof(float)))
        return IC_ENOMEM;
    int64_t tasks = (j->w->base.out_dim + j->block - 1) / j->block;
    ic_cpu_pool_run(j->d->pool, prefill_task, j, (int)tasks);
    return 0;
}

/* --- prefill: through the library --- */

enum { LIBRARY_COLS = 256 };

typedef struct library_job {
    const gemm_job *gemm;
    ic_cpu_product whole, last; /* a full block of columns, and the rest */
    const char *a;              /* rows of x in the product's dtype, padded with zero rows */
    int64_t row;                /* first row of y */
    int rows;                   /* that exist */
    _Atomic int status;
} library_job;

static void library_task(void *arg, int task, int worker)
{
    library_job *j = arg;
    const ic_cpu_weight *w = j->gemm->w;
    int64_t first = (int64_t)task * LIBRARY_COLS, left = w->base.out_dim - first;
    const ic_cpu_product *p = left < LIBRARY_COLS ? &j->last : &j->whole;
    const char *from =
        (const char *)w->data + first * w->base.in_dim * (int64_t)ic_dtype_size(w->stored);
    float *sums = ic_cpu_worker_scratch(j->gemm->d, worker);
    int rc = ic_cpu_library_run(j->gemm->d->library, worker, p, j->a, from, sums);
    if (rc)
        j->status = rc;
    for (int i = 0; i < j->rows && rc == 0; i++)
        finish_row(j->gemm, j->row + i, first, p->cols, sums + (int64_t)i * p->cols);
}

static bool library_takes(const gemm_job *j)
{
    return j->d->library && (j->half || j->w->stored == IC_F32);
}

/* Rows [row, row + rows) in the form of the library: bf16 rows are padded in place behind the last
 * (halve_x keeps room), f32 rows are copied. */
static const char *library_rows(const gemm_job *j, int64_t row, int rows, int padded)
{
    if (j->half && row + padded <= ic_cpu_round_up(j->x->rows, TILE_ROWS))
        return (const char *)(j->half + row * j->half_stride);
    float *copy = ic_cpu_shared_scratch(j->d, (size_t)(padded * j->x->cols) * sizeof *copy);
    for (int i = 0; copy && i < padded; i++) {
        float *to = copy + i * j->x->cols;
        if (i < rows)
            memcpy(to, ic_cpu_row(j->x, row + i), (size_t)j->x->cols * sizeof *to);
        else
            memset(to, 0, (size_t)j->x->cols * sizeof *to);
    }
    return (const char *)copy;
}

static int run_library(gemm_job *j)
{
    int64_t out = j->w->base.out_dim;
    ic_cpu_product p = {.dtype = j->half ? IC_BF16 : IC_F32,
                        .cols = LIBRARY_COLS,
                        .k = (int)j->x->cols,
                        .lda = j->half ? j->half_stride : j->x->cols};
    if (ic_cpu_reserve_workers(j->d, TILE_ROWS * LIBRARY_COLS * sizeof(float)))
        return IC_ENOMEM;
    int rc = 0;
    for (int64_t row = 0; row < j->x->rows && rc == 0; row += TILE_ROWS) {
        int rows = (int)(j->x->rows - row < TILE_ROWS ? j->x->rows - row : TILE_ROWS);
        p.rows = ic_cpu_library_rows(rows);
        library_job job = {.gemm = j, .whole = p, .last = p, .row = row, .rows = rows};
        job.last.cols = (int)(out % LIBRARY_COLS);
        if (out >= LIBRARY_COLS)
            rc = ic_cpu_library_prepare(j->d->library, &job.whole);
        if (rc == 0 && job.last.cols)
            rc = ic_cpu_library_prepare(j->d->library, &job.last);
        job.a = rc ? NULL : library_rows(j, row, rows, p.rows);
        if (!job.a)
            return rc ? rc : IC_ENOMEM;
        ic_cpu_pool_run(j->d->pool, library_task, &job,
                        (int)((out + LIBRARY_COLS - 1) / LIBRARY_COLS));
        rc = job.status;
    }
    return rc;
}

int ic_cpu_gemm(ic_device *base, ic_role role, const ic_mat *x, const ic_weight *w,
                const float *bias, bool add, ic_mat *y)
{
    gemm_job job = {.d = ic_cpu_of(base),
                    .w = (const ic_cpu_weight *)(const void *)w,
                    .x = x,
                    .bias = bias,
                    .add = add,
                    .y = y};
    int rc = in_bf16(job.d, job.w) ? halve_x(&job) : 0;
    if (rc)
        return rc;
    if (role == IC_DECODE)
        return run_decode(&job);
    return library_takes(&job) ? run_library(&job) : run_prefill(&job);
}

/* --- measuring --- */

typedef struct packed_job {
    ic_cpu_library *library;
    ic_cpu_product product;
    const void *a;
    ic_cpu_scratch *rooms;
} packed_job;

static void packed_task(void *arg, int task, int worker)
{
    (void)task;
    packed_job *j = arg;
    if (ic_cpu_library_run(j->library, worker, &j->product, j->a, NULL,
                           (float *)(void *)j->rooms[worker].memory))
        j->product.rows = 0; /* such a rate is 0 */
}

/* One library product of packed weights per thread at once: as fast as the library goes. */
static double packed_pass(ic_cpu_device *d, ic_dtype compute, int m, int n, int k, const void *a)
{
    int threads = ic_cpu_pool_threads(d->pool);
    packed_job j = {.library = d->library,
                    .product = {compute, m, n / threads, k, k, true},
                    .a = a,
                    .rooms = d->workers};
    if (ic_cpu_library_prepare(d->library, &j.product)
        || ic_cpu_reserve_workers(d, (size_t)m * (size_t)j.product.cols * sizeof(float)))
        return 0;
    double before = ic_cpu_now();
    ic_cpu_pool_run(d->pool, packed_task, &j, threads);
    return 2.0 * j.product.rows * j.product.cols * threads * k / (ic_cpu_now() - before);
}

/* The best of the products that fit into the time: with the library, of both its forms; else of the
 * own loops, through the same way that the engine's products take. */
double ic_cpu_gemm_rate(ic_device *base, ic_dtype compute, int m, int n, int k, double seconds)
{
    ic_cpu_device *d = ic_cpu_of(base);
    int64_t elements = (int64_t)n * k;
    void *host = ic_try_alloc_aligned((size_t)elements * ic_dtype_size(compute));
    ic_mat x = {ic_try_alloc_aligned((size_t)m * (size_t)k * 4), IC_F32, m, k, k};
    ic_mat y = {ic_try_alloc_aligned((size_t)m * (size_t)n * 4), IC_F32, m, n, n};
    ic_weight *w = NULL;
    double best = 0;
    if (host && x.data && y.data
        && ic_cpu_weight_new(&w, base, host, compute, compute, n, k, NULL) == 0) {
        double start = ic_cpu_now();
        do {
            double before = ic_cpu_now();
            if (ic_cpu_gemm(base, IC_PREFILL, &x, w, NULL, false, &y))
                break;
            double rate = 2.0 * m * n * k / (ic_cpu_now() - before);
            double packed = d->library ? packed_pass(d, compute, m, n, k, x.data) : 0;
            rate = packed > rate ? packed : rate;
            best = rate > best ? rate : best;
        } while (ic_cpu_now() - start < seconds);
        ic_cpu_weight_destroy(w);
    }
    ic_free(host);
    ic_free(x.data);
    ic_free(y.data);
    return best;
}
