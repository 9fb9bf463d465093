/* A slab on the device: its tables, appended and stored rows. See ic_cuda_slab.h. */
#include "kernels/cuda/ic_cuda_slab.h"

#include <stddef.h>

#include "kernels/cuda/ic_cuda.h"
#include "kernels/cuda/ic_cuda_scan.h"

enum { THREADS = 256, WORD_BITS = 64, APPEND_MOST = 16384 };

struct mirror {
    char *tables; /* laid out as the host's, without `saved` */
    float *scores;
    uint64_t number;
    uint32_t dropped; /* the lowest ordinal that has been dropped since the last pull */
};

static mirror *mirror_of(const ic_slab *s)
{
    return (mirror *)s->mirror;
}

uint64_t ic_cuda_slab_number(const ic_slab *s)
{
    return mirror_of(s)->number;
}

static size_t shared_table_bytes(const ic_slab *s)
{
    return (size_t)((char *)s->saved - s->tables); /* what is saved is the host's affair */
}

template <class T> static T *on_device(const ic_slab *s, T *host_table)
{
    return (T *)(void *)(mirror_of(s)->tables + ((char *)host_table - s->tables));
}

/* --- life --- */

static int check_shape(const ic_slab *s, ic_error *e)
{
    const ic_slab_desc *desc = &s->desc;
    if (desc->k_dtype == desc->v_dtype && desc->head_dim % 8 == 0
        && desc->head_dim <= IC_CUDA_DIM_MAX)
        return 0;
    return ic_error_set(
        e, IC_EUNSUPPORTED,
        "the cuda device keeps K and V in one dtype and heads of 8, 16 ... %d; this "
        "cache is %s and %s, of %d",
        IC_CUDA_DIM_MAX, ic_dtype_name(desc->k_dtype), ic_dtype_name(desc->v_dtype),
        desc->head_dim);
}

static uint64_t next_number(ic_cuda_device *d)
{
    pthread_mutex_lock(&d->lock);
    uint64_t number = ++d->slabs;
    pthread_mutex_unlock(&d->lock);
    return number;
}

int ic_cuda_slab_open(ic_slab *s, ic_error *e)
{
    int rc = check_shape(s, e);
    if (rc)
        return rc;
    size_t scores = ic_slab_score_bytes(&s->desc);
    mirror *m = (mirror *)ic_alloc(sizeof *m);
    m->dropped = UINT32_MAX;
    m->number = next_number(ic_cuda_of(s->device));
    s->mirror = m;
    m->tables = (char *)ic_device_alloc(s->device, shared_table_bytes(s) + scores);
    m->scores = (float *)(void *)(m->tables + shared_table_bytes(s));
    if (!m->tables)
        return ic_error_set(e, IC_ENOMEM, "no device memory for the tables of a cache of %d slots",
                            s->desc.slots);
    return 0;
}

void ic_cuda_slab_close(ic_slab *s)
{
    if (ic_cuda_busy) /* else nothing of this thread waits */
        (void)ic_cuda_settle(ic_cuda_of(s->device));
    ic_device_free(s->device, mirror_of(s)->tables);
    ic_free(s->mirror);
    s->mirror = NULL;
}

/* --- the two copies of the tables --- */

static int push(const ic_slab *s)
{
    if (!s->mirror_stale)
        return 0;
    int rc = ic_device_upload(s->device, mirror_of(s)->tables, s->tables, shared_table_bytes(s));
    if (rc == 0 && s->scores)
        rc = ic_device_upload(s->device, mirror_of(s)->scores, s->scores,
                              ic_slab_score_bytes(&s->desc));
    if (rc == 0)
        ((ic_slab *)s)->mirror_stale = false; /* a cache of what the host has: not its content */
    return rc;
}

/* Slots that were given to other rows meanwhile hold nothing that is saved; where rows were
 * dropped, others may have come by the same ordinals. */
static void forget_saved(ic_slab *s, const uint32_t *before)
{
    for (int head = 0; head < s->heads; head++)
        for (int slot = 0; slot < s->desc.slots; slot++) {
            int64_t i = (int64_t)head * s->desc.slots + slot;
            uint64_t word = s->free_map[(int64_t)head * s->words + slot / WORD_BITS];
            if ((word >> (slot % WORD_BITS) & 1) || s->rows[i].ordinal != before[i]
                || before[i] >= mirror_of(s)->dropped)
                s->saved[i] = IC_SLAB_UNSAVED;
        }
    mirror_of(s)->dropped = UINT32_MAX;
}

int ic_cuda_slab_pull(ic_slab *s)
{
    size_t rows = (size_t)s->heads * (size_t)s->desc.slots;
    uint32_t *before = (uint32_t *)ic_try_alloc(rows * sizeof *before);
    if (!before)
        return IC_ENOMEM;
    for (size_t i = 0; i < rows; i++)
        before[i] = s->rows[i].ordinal;
    int rc = ic_device_download(s->device, s->tables, mirror_of(s)->tables, shared_table_bytes(s));
    if (rc == 0 && s->scores)
        rc = ic_device_download(s->device, s->scores, mirror_of(s)->scores,
                                ic_slab_score_bytes(&s->desc));
    if (rc == 0) {
        forget_saved(s, before);
        s->host_stale = false;
    }
    ic_free(before);
    return rc;
}

static int view_of(const ic_slab *s, int layer, ic_cuda_view *view)
{
    int first = layer < 0 ? 0 : layer * s->desc.kv_heads;
    int64_t rows = (int64_t)first * s->desc.slots;
    *view = ic_cuda_view();
    view->k = ic_slab_k_at(s, first, 0);
    view->v = ic_slab_v_at(s, first, 0);
    view->free_map = on_device(s, s->free_map) + (int64_t)first * s->words;
    view->rows = on_device(s, s->rows) + rows;
    view->positions = on_device(s, s->positions) + rows;
    view->order = on_device(s, s->order) + rows;
    view->counts = on_device(s, s->counts) + first;
    view->scores = s->scores ? mirror_of(s)->scores + rows : NULL;
    view->heads = layer < 0 ? s->heads : s->desc.kv_heads;
    view->slots = s->desc.slots;
    view->words = s->words;
    view->dim = s->desc.head_dim;
    view->score_kind = s->score_kind;
    view->smooth = s->smooth;
    view->original = s->original;
    for (int h = 0; h < view->heads; h++)
        view->count = s->counts[first + h] > view->count ? s->counts[first + h] : view->count;
    return push(s);
}

/* --- appending --- */

struct new_row {
    ic_row row;
    ic_pos position; /* if the first of them stood at 0; in a cache of original ones, its own */
};

/* One block: the lowest free slots of a head, in order. Each thread looks at one word of the map.
 */
static __device__ void append_rows(const ic_cuda_view &v, int head, const new_row *rows, int count)
{
    __shared__ int room[THREADS / IC_CUDA_WARP + 1];
    int at = v.counts[head], taken = 0, base = 0;
    int64_t table = (int64_t)head * v.slots;
    uint64_t *map = v.free_map + (int64_t)head * v.words;
    int32_t *order = v.order + table + at;
    ic_pos *positions = v.positions + table + at;
    if (at > 0 && !v.original)
        base = ic_cuda_base_behind(v.rows[table + order[-1]], positions[-1].t, rows[0].row);
    __syncthreads(); /* all have seen the last row and the count */
    for (int first = 0; first < v.words && taken < count; first += THREADS) {
        int word = first + (int)threadIdx.x, total;
        uint64_t bits = word < v.words ? map[word] : 0, left = bits;
        int i = taken + ic_cuda_block_scan(__popcll(bits), room, &total);
        for (; left && i < count; left &= left - 1, i++) {
            int slot = word * WORD_BITS + __ffsll((long long)left) - 1;
            ic_pos p = rows[i].position;
            order[i] = slot;
            positions[i] = ic_pos{base + p.t, base + p.h, base + p.w};
            v.rows[table + slot] = rows[i].row;
            if (v.scores)
                v.scores[table + slot] = v.score_kind == IC_SCORE_SUM ? 0.0f : -1.0f;
        }
        if (left != bits)
            map[word] = left;
        taken += total;
    }
    if (threadIdx.x == 0)
        v.counts[head] = at + count;
}

/* One block per head. */
static __global__ void __launch_bounds__(THREADS)
    append_kernel(ic_cuda_view v, const new_row *rows, int count)
{
    append_rows(v, blockIdx.x, rows, count);
}

/* --- single rows of several sessions ---
 * A step of decode appends one row to each of its caches. They wait until something looks at a
 * cache (ic_cuda_slab_view), and go in one launch. */

enum { TOGETHER = 32 };

struct row_batch {
    ic_cuda_view views[TOGETHER];
    new_row rows[TOGETHER];
};
static_assert(sizeof(row_batch) <= 4096, "parameters of a kernel");

struct ic_cuda_waiting {
    row_batch batch;
    const ic_slab *slabs[TOGETHER];
    int count, heads; /* heads: the most of a cache */
};

/* blockIdx: the head; the cache. */
static __global__ void __launch_bounds__(THREADS) append_each_kernel(row_batch b)
{
    if (blockIdx.x < b.views[blockIdx.y].heads)
        append_rows(b.views[blockIdx.y], blockIdx.x, &b.rows[blockIdx.y], 1);
}

int ic_cuda_slab_flush(ic_cuda_device *d)
{
    struct ic_cuda_waiting *w = d->waiting;
    if (!w || w->count == 0)
        return 0;
    dim3 grid((unsigned)w->heads, (unsigned)w->count);
    w->count = w->heads = 0;
    return ic_cuda_launch(d, append_each_kernel, grid, THREADS, 0, w->batch);
}

static bool waits(const struct ic_cuda_waiting *w, const ic_slab *s)
{
    for (int i = 0; i < w->count; i++)
        if (w->slabs[i] == s)
            return true;
    return false;
}

static int append_later(ic_slab *s, const ic_row *row)
{
    ic_cuda_device *d = ic_cuda_of(s->device);
    if (!d->waiting)
        d->waiting = (struct ic_cuda_waiting *)ic_alloc(sizeof *d->waiting);
    struct ic_cuda_waiting *w = d->waiting;
    ic_cuda_view view;
    int rc = w->count == TOGETHER || waits(w, s) ? ic_cuda_slab_flush(d) : 0;
    rc = rc ? rc : view_of(s, -1, &view); /* may copy tables, and then nothing waits any more */
    if (rc)
        return rc;
    w->batch.views[w->count] = view;
    ic_slab_cursor cursor = s->cursor;
    ic_pos position =
        s->original ? ic_slab_step(&cursor, row) : ic_slab_next_position(NULL, NULL, row);
    w->batch.rows[w->count] = new_row{*row, position};
    w->heads = s->heads > w->heads ? s->heads : w->heads;
    w->slabs[w->count++] = s;
    ic_cuda_busy = true; /* what this thread copies from now on comes behind it */
    return 0;
}

int ic_cuda_slab_view(const ic_slab *s, int layer, ic_cuda_view *view)
{
    int rc = ic_cuda_slab_flush(ic_cuda_of(s->device));
    return rc ? rc : view_of(s, layer, view);
}

/* `cursor` goes on to the rows behind these. */
static int append_some(ic_slab *s, const ic_cuda_view *view, ic_slab_cursor *cursor,
                       const ic_row *rows, int count)
{
    ic_cuda_device *d = ic_cuda_of(s->device);
    new_row *packed = (new_row *)ic_try_alloc((size_t)count * sizeof *packed);
    if (!packed)
        return IC_ENOMEM;
    for (int i = 0; i < count; i++) {
        packed[i].row = rows[i];
        packed[i].position =
            s->original ? ic_slab_step(cursor, &rows[i])
                        : ic_slab_next_position(i ? &rows[i - 1] : NULL,
                                                i ? &packed[i - 1].position : NULL, &rows[i]);
    }
    void *staged = ic_cuda_stage(d, packed, (size_t)count * sizeof *packed);
    ic_free(packed);
    if (!staged)
        return IC_EDEVICE;
    return ic_cuda_launch(d, append_kernel, view->heads, THREADS, 0, *view, (const new_row *)staged,
                          count);
}

int ic_cuda_slab_append(ic_slab *s, const ic_row *rows, int count)
{
    ic_cuda_view view;
    if (count == 1) {
        s->host_stale = true;
        return append_later(s, rows);
    }
    ic_slab_cursor cursor = s->cursor;
    int rc = ic_cuda_slab_view(s, -1, &view);
    s->host_stale = true;
    for (int first = 0; rc == 0 && first < count; first += APPEND_MOST)
        rc = append_some(s, &view, &cursor, rows + first,
                         count - first < APPEND_MOST ? count - first : APPEND_MOST);
    return rc;
}

/* --- dropping --- */

struct first_row { /* of those that a head drops */
    ic_row row;
    ic_pos position;
};

/* One block per head: the slots of its last `count` rows are free. */
static __global__ void __launch_bounds__(THREADS)
    drop_kernel(ic_cuda_view v, int count, first_row *firsts)
{
    int head = blockIdx.x, stay = v.counts[head] - count;
    int64_t table = (int64_t)head * v.slots;
    const int32_t *order = v.order + table + stay;
    unsigned long long *map = (unsigned long long *)(void *)(v.free_map + (int64_t)head * v.words);
    __syncthreads(); /* all have read the count */
    for (int i = threadIdx.x; i < count; i += THREADS)
        atomicOr(&map[order[i] / WORD_BITS], 1ull << (order[i] % WORD_BITS));
    if (threadIdx.x > 0)
        return;
    firsts[head] = first_row{v.rows[table + order[0]], v.positions[table + stay]};
    v.counts[head] = stay;
}

int ic_cuda_slab_drop(ic_slab *s, int count, ic_row *row, ic_pos *position)
{
    ic_cuda_device *d = ic_cuda_of(s->device);
    ic_cuda_view view;
    size_t bytes = (size_t)s->heads * sizeof(first_row); /* less than selection has reserved */
    first_row *firsts = (first_row *)ic_cuda_scratch(d, IC_CUDA_ROOM_SCORES, bytes);
    int rc = firsts ? ic_cuda_slab_view(s, -1, &view) : IC_ENOMEM;
    if (rc)
        return rc;
    s->host_stale = true;
    rc = ic_cuda_launch(d, drop_kernel, s->heads, THREADS, 0, view, count, firsts);
    first_row *found = (first_row *)ic_alloc(bytes);
    rc = rc ? rc : ic_cuda_fetch(d, found, firsts, bytes);
    uint32_t *lowest = &mirror_of(s)->dropped;
    for (int head = 0; rc == 0 && head < s->heads; head++)
        *lowest = found[head].row.ordinal < *lowest ? found[head].row.ordinal : *lowest;
    *row = found[0].row;
    *position = found[0].position;
    ic_free(found);
    return rc;
}

/* --- storing --- */

enum { SLABS = 32 }; /* in one launch */

struct store_job {
    ic_cuda_view views[SLABS];
    const float *k, *v; /* rows of one slab behind those of another */
    int64_t k_stride, v_stride;
    int32_t rows, behind; /* of each slab; rows appended since the first of them, itself counted */
};

/* A thread per 16 bytes of K and of V; blockIdx.y is the kv head, blockIdx.z the slab. */
template <class T> static __global__ void __launch_bounds__(THREADS) store_kernel(store_job j)
{
    const int n = ic_cuda_pack<T>::N;
    const ic_cuda_view &v = j.views[blockIdx.z];
    int packs = v.dim / n, head = blockIdx.y;
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = at / packs;
    if (row >= j.rows)
        return;
    int column = (int)(at % packs) * n;
    int64_t table = (int64_t)head * v.slots, source = (int64_t)blockIdx.z * j.rows + row;
    int slot = v.order[table + v.counts[head] - j.behind + row];
    int64_t to = (table + slot) * v.dim + column, from = (int64_t)head * v.dim + column;
    float values[n];
    for (int i = 0; i < n; i++)
        values[i] = j.k[source * j.k_stride + from + i];
    ic_cuda_store((T *)(void *)v.k + to, values);
    for (int i = 0; i < n; i++)
        values[i] = j.v[source * j.v_stride + from + i];
    ic_cuda_store((T *)(void *)v.v + to, values);
}

/* rows of each of n slabs of one shape and dtype. */
static int store_rows(ic_slab *const *slabs, int n, int layer, int rows, int behind,
                      const ic_mat *k, const ic_mat *v, int64_t first)
{
    store_job j = {};
    int rc = 0;
    for (int i = 0; rc == 0 && i < n; i++)
        rc = ic_cuda_slab_view(slabs[i], layer, &j.views[i]);
    if (rc || rows == 0)
        return rc;
    j.k = (const float *)k->data + first * k->stride;
    j.v = (const float *)v->data + first * v->stride;
    j.k_stride = k->stride;
    j.v_stride = v->stride;
    j.rows = rows;
    j.behind = behind;
    return ic_cuda_by_dtype(slabs[0]->desc.k_dtype, [&](auto t) {
        using T = decltype(t);
        int64_t packs = (int64_t)rows * (j.views[0].dim / ic_cuda_pack<T>::N);
        dim3 grid(ic_cuda_blocks(packs, THREADS), j.views[0].heads, n);
        return ic_cuda_launch(ic_cuda_of(slabs[0]->device), store_kernel<T>, grid, THREADS, 0, j);
    });
}

int ic_cuda_slab_store(ic_slab *s, int layer, int appended, int first, const ic_mat *k,
                       const ic_mat *v)
{
    return store_rows(&s, 1, layer, (int)k->rows, appended - first, k, v, 0);
}

int ic_cuda_slab_store_each(ic_slab *const *slabs, int n, int layer, const ic_mat *k,
                            const ic_mat *v)
{
    int rc = 0;
    for (int first = 0, some; rc == 0 && first < n; first += some) {
        some = 1;
        while (first + some < n && some < SLABS
               && slabs[first + some]->desc.k_dtype == slabs[first]->desc.k_dtype)
            some++;
        rc = store_rows(slabs + first, some, layer, 1, 1, k, v, first);
    }
    return rc;
}
