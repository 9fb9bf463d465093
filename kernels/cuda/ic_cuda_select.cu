/* Which rows stay: ic_slab_select.c carried out on the device, one block per head. The same rows
 * stay and the same slots become free.
 *
 * The rules there go through the rows one by one (oldest first, newest first, best first) and take
 * what fits the budget, where the first patch of a group also costs the group's markers. Here a
 * block goes through the same sequence in chunks: as long as nothing has been passed over, what a
 * row costs is known from the groups' state before the chunk and from who is the first of its group
 * in it, so that a prefix sum says where the budget ends. Only the best-first rule goes on from
 * there, without what is larger than what is then left. Patches that stay or leave together are one
 * step of a sequence, where the first of them stands. */
#include "kernels/cuda/ic_cuda.h"
#include "kernels/cuda/ic_cuda_cascades.h"
#include "kernels/cuda/ic_cuda_selection.h"
#include "kernels/cuda/ic_cuda_thinning.h"

enum {
    WORD_BITS = 64,
    ALIGN = 256,
    OTHER_SHARED = 8 << 10, /* bytes of shared memory that selection has besides, at most */
    SORT_SHARED = 128 << 10 /* bytes of keys that are sorted in shared memory */
};

/* Plans by frames look even when all fits: the number of frames is a bound of its own. */
static __host__ __device__ bool is_due(const ic_plan &plan, int count)
{
    return count > plan.budget || (plan.frames > 0 && plan.thin == 0);
}

static __device__ void keep_pinned(selection *v, int *room)
{
    int cost = 0, total;
    for (int i = threadIdx.x; i < v->count; i += THREADS)
        if (v->marks[i] & PINNED) {
            keep_row(*v, i);
            cost++;
        }
    __syncthreads();
    for (int g = threadIdx.x; g < v->groups; g += THREADS)
        cost += v->alive[g] ? v->markers[g] : 0;
    ic_cuda_block_scan(cost, room, &total);
    v->kept += total;
}

/* --- sequences --- */

enum sequence { OLDEST, NEWEST, TEXT, BEST };

static __device__ int place_in(const selection &v, sequence s, int i)
{
    return s == OLDEST ? i : s == BEST ? (int)(uint32_t)v.keys[i] : v.count - 1 - i;
}

/* Of patches that stay or leave together, the first that may be taken in a sequence stands for all
 * of them: the rows that this place is for, none (0) if it is not the one. */
static __device__ int rows_for(const selection &v, int i, int place, bool open, bool unscored)
{
    int unit = open ? unit_of(v, place) : -1;
    if (unit >= 0 && (!unscored || v.score[place] < 0))
        atomicMin(&v.first[unit], i);
    __syncthreads();
    return !open ? 0 : unit < 0 ? 1 : v.first[unit] == i ? v.units[unit] : 0;
}

/* What stands for its group has been taken: all of it stays. */
static __device__ void keep_units(const selection &v)
{
    for (int i = threadIdx.x; i < v.count; i += THREADS)
        if (unit_of(v, i) >= 0 && v.units[v.group_of[i]] == 0)
            v.marks[i] |= KEPT;
    __syncthreads();
}

/* Goes through places [from, n) of a sequence and keeps `rows` of those that are open (and with
 * `unscored` all that have no score) until one does not fit. Returns where that one is; n: all did.
 * Of the best, those are passed over that would not fit if they were the next. With units,
 * `unscored` is for a second pass, in which rows is 0. */
static __device__ int keep_in_turn(selection *v, sequence s, int from, int n, int rows,
                                   bool unscored, int *room)
{
    __shared__ int stop;
    int taken = 0, total;
    if (threadIdx.x == 0)
        stop = n;
    for (int g = threadIdx.x; g < v->groups; g += THREADS)
        v->first[g] = NONE;
    __syncthreads();
    for (int first = from; first < n; first += THREADS) {
        int i = first + (int)threadIdx.x, place = i < n ? place_in(*v, s, i) : 0;
        bool open = i < n && is_open(*v, place) && (s != TEXT || !(v->marks[place] & VISION));
        int size = v->wholes ? rows_for(*v, i, place, open, unscored) : open;
        int rank = taken + ic_cuda_block_scan(size, room, &total);
        taken += total;
        bool wanted = size > 0 && (rank < rows || (unscored && v->score[place] < 0));
        bool brings = wanted && brings_markers(*v, place);
        int extra = brings ? v->markers[v->group_of[place]] : 0;
        if (s == BEST && size + extra > v->budget - v->kept)
            wanted = brings = false;
        if (brings)
            atomicMin(&v->first[v->group_of[place]], i);
        __syncthreads();
        int cost = wanted ? size : 0;
        if (brings && v->first[v->group_of[place]] == i)
            cost += extra;
        int kept = v->kept + ic_cuda_block_scan(cost, room, &total) + cost;
        bool fits = kept <= v->budget;
        if (wanted && !fits)
            atomicMin(&stop, i);
        if (wanted && fits) {
            keep_row(*v, place);
            if (unit_of(*v, place) >= 0)
                v->units[v->group_of[place]] = 0;
        }
        ic_cuda_block_scan(wanted && fits ? cost : 0, room, &total);
        v->kept += total;
        __syncthreads();
        if (stop < n || (taken >= rows && !unscored))
            break;
    }
    int at = stop;
    __syncthreads();
    if (v->wholes)
        keep_units(*v);
    return at;
}

/* The newest `rows` and all that have no score. */
static __device__ void keep_newest(selection *v, int rows, int *room)
{
    int n = v->count;
    if (!v->wholes)
        keep_in_turn(v, NEWEST, 0, n, rows, true, room);
    else if (keep_in_turn(v, NEWEST, 0, n, rows, false, room) == n)
        keep_in_turn(v, NEWEST, 0, n, 0, true, room);
}

/* The best, where what does not fit is passed over: from the first that did not, it goes on. */
static __device__ void keep_best(selection *v, int n, int *room)
{
    for (int at = 0; at < n && v->kept < v->budget;)
        at = keep_in_turn(v, BEST, at, n, n, false, room);
}

/* --- scores as the plan wants them --- */

/* Mean scores over the heads that are decided together. */
static __device__ void read_scores(const ic_cuda_view &view, int head, int together,
                                   const selection &v)
{
    for (int i = threadIdx.x; i < v.count; i += THREADS) {
        float sum = 0;
        for (int h = head; h < head + together; h++) {
            int64_t table = (int64_t)h * view.slots;
            float score = view.scores[table + view.order[table + i]];
            sum = score < 0 || sum < 0 ? -1.0f : sum + score;
        }
        v.score[i] = together > 1 && sum >= 0 ? sum / (float)together : sum;
    }
    __syncthreads();
}

/* The mean of the neighbours that have a score. */
static __device__ void pool_scores(const selection &v, int reach)
{
    for (int i = threadIdx.x; i < v.count; i += THREADS)
        v.room[i] = v.score[i];
    __syncthreads();
    for (int i = threadIdx.x; i < v.count; i += THREADS) {
        float sum = 0;
        int n = 0;
        for (int j = i < reach ? 0 : i - reach; j <= i + reach && j < v.count; j++)
            if (v.room[j] >= 0) {
                sum += v.room[j];
                n++;
            }
        if (v.room[i] >= 0)
            v.score[i] = sum / (float)n;
    }
    __syncthreads();
}

/* The newer a row, the more of the mean it gets. A thread is a lane of the sum. */
static_assert((int)THREADS == (int)IC_SLAB_LANES, "the order of the sum");
static __device__ void add_bias(const selection &v, float bias, int *room)
{
    __shared__ double sums[THREADS];
    double sum = 0;
    int n = 0, scored;
    for (int i = threadIdx.x; i < v.count; i += THREADS)
        if (v.score[i] >= 0) {
            sum += (double)v.score[i];
            n++;
        }
    sums[threadIdx.x] = sum;
    ic_cuda_block_scan(n, room, &scored);
    for (int step = THREADS / 2; step > 0; step /= 2) {
        if ((int)threadIdx.x < step)
            sums[threadIdx.x] += sums[threadIdx.x + step];
        __syncthreads();
    }
    if (scored == 0 || v.count < 2)
        return;
    float step = __fmul_rn(bias, (float)(sums[0] / scored)) / (float)(v.count - 1);
    for (int i = threadIdx.x; i < v.count; i += THREADS)
        if (v.score[i] >= 0)
            v.score[i] = __fadd_rn(v.score[i], __fmul_rn(step, (float)i));
    __syncthreads();
}

/* One score for all patches of a group: their mean, summed up in the order of their age. */
static __device__ void average_groups(const selection &v)
{
    for (int g = threadIdx.x; g < v.groups; g += THREADS) {
        v.begin[g] = NONE;
        v.end[g] = 0;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < v.count; i += THREADS)
        if (is_patch(v, i)) {
            atomicMin(&v.begin[v.group_of[i]], i);
            atomicMax(&v.end[v.group_of[i]], i + 1);
        }
    __syncthreads();
    for (int g = threadIdx.x; g < v.groups; g += THREADS) {
        double sum = 0;
        int n = 0;
        for (int i = v.begin[g]; i < v.end[g]; i++)
            if (v.group_of[i] == g && is_patch(v, i) && v.score[i] >= 0) {
                sum += (double)v.score[i];
                n++;
            }
        v.lost[g] = n ? (float)(sum / n) : -1.0f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < v.count; i += THREADS)
        if (is_patch(v, i) && v.lost[v.group_of[i]] >= 0)
            v.score[i] = v.lost[v.group_of[i]];
    __syncthreads();
}

/* The open places that have a score, the best first, of equal ones the newer: as bits and as a
 * number a float that is not negative sorts alike. Returns how many. */
static __device__ int rank_scores(const selection &v, int *room)
{
    int n = 0, total, size = 1;
    for (int first = 0; first < v.count; first += THREADS) {
        int i = first + (int)threadIdx.x;
        bool ranks = i < v.count && is_open(v, i) && v.score[i] >= 0;
        int at = n + ic_cuda_block_scan(ranks, room, &total);
        if (ranks)
            v.keys[at] = (uint64_t)__float_as_uint(v.score[i]) << 32 | (uint32_t)i;
        n += total;
    }
    while (size < n)
        size *= 2;
    for (int i = n + (int)threadIdx.x; i < size; i += THREADS)
        v.keys[i] = 0;
    __syncthreads();
    /* Bitonic: runs of `run` that rise and fall in turn are merged into runs of twice that. */
    for (int run = 2; run <= size; run *= 2)
        for (int step = run / 2; step > 0; step /= 2) {
            for (int i = threadIdx.x; i < size / 2; i += THREADS) {
                int low = i / step * step * 2 + i % step, high = low + step;
                uint64_t a = v.keys[low], b = v.keys[high];
                if ((a < b) == ((low & run) == 0)) {
                    v.keys[low] = b;
                    v.keys[high] = a;
                }
            }
            __syncthreads();
        }
    return n;
}

/* --- choosing --- */

/* Each of the newest frames is kept whole, or not at all beyond what the sinks have of it. */
static __device__ void keep_frames(selection *v, int frames)
{
    __shared__ int kept;
    count_open(*v, VISION | KEPT, VISION, v->first);
    if (threadIdx.x == 0) {
        kept = v->kept;
        for (int g = v->groups - 1; g >= 0; g--) {
            int open = v->first[g], cost = open + (v->alive[g] ? 0 : v->markers[g]);
            v->first[g] = 0; /* from here on: the group is chosen */
            if (v->patches[g] == 0 || frames <= 0)
                continue;
            frames--;
            if (open == 0 || kept + cost > v->budget)
                continue;
            kept += cost;
            v->first[g] = 1;
        }
    }
    __syncthreads();
    v->kept = kept;
    for (int i = threadIdx.x; i < v->count; i += THREADS)
        if (v->group_of[i] >= 0 && (v->marks[i] & (VISION | KEPT)) == VISION
            && v->first[v->group_of[i]])
            keep_row(*v, i);
    __syncthreads();
}

/* The newest, and by score; or the newest alone. */
static __device__ void keep_rest(const ic_plan &plan, selection *v, int *room)
{
    if (!plan.scored || plan.aged) {
        keep_in_turn(v, NEWEST, 0, v->count, v->count, false, room);
        return;
    }
    keep_newest(v, plan.recent, room);
    if (plan.pool > 1)
        pool_scores(*v, plan.pool / 2);
    if (plan.bias > 0)
        add_bias(*v, plan.bias, room);
    if (plan.whole)
        average_groups(*v);
    keep_best(v, rank_scores(*v, room), room);
}

static __device__ void choose(const select_job &j, int head, int together, selection *v, int *room)
{
    const ic_plan &plan = j.plan;
    find_groups(j.view, head, v, room);
    see_rows(j.view, head, *v);
    if (plan.scored || plan.cascades)
        read_scores(j.view, head, together, *v);
    keep_pinned(v, room);
    if (plan.whole)
        count_open(*v, VISION | KEPT, VISION, v->units);
    keep_in_turn(v, OLDEST, 0, v->count, plan.sinks, false, room);
    if (plan.thin > 0) {
        thinning t = thinning_of(*v, plan.care);
        keep_in_turn(v, TEXT, 0, v->count, plan.text, false, room);
        keep_whole_groups(v, t, plan.frames, plan.recent);
        keep_thinned(v, t, plan.thin, plan.fade, room);
        keep_rest(plan, v, room);
    } else if (plan.cascades > 0) {
        keep_cascades(j.view, head, *v, plan.cascades, room);
    } else if (plan.frames > 0) {
        keep_in_turn(v, TEXT, 0, v->count, plan.text, false, room);
        keep_frames(v, plan.frames);
    } else {
        keep_rest(plan, v, room);
    }
    for (int i = threadIdx.x; i < v->count; i += THREADS)
        if (v->marks[i] & BOUND)
            v->marks[i] = (uint8_t)((v->marks[i] & ~KEPT) | (v->alive[v->group_of[i]] ? KEPT : 0));
    __syncthreads();
}

/* Whether the heads of the layer hold rows in the same slots, in the same order. */
static __device__ bool lie_alike(const select_job &j, int first)
{
    int count = j.view.counts[first];
    bool differ = false;
    for (int h = first + 1; h < first + j.kv_heads; h++) {
        differ = differ || j.view.counts[h] != count;
        for (int i = threadIdx.x; !differ && i < count; i += THREADS)
            differ = j.view.order[(int64_t)first * j.view.slots + i]
                     != j.view.order[(int64_t)h * j.view.slots + i];
    }
    return !__syncthreads_or(differ);
}

/* One block per head: marks what stays. Where a layer decides for all of its heads, each of their
 * blocks comes to the same. */
static __global__ void __launch_bounds__(THREADS) choose_kernel(select_job j)
{
    __shared__ int room[THREADS / IC_CUDA_WARP];
    IC_CUDA_SHARED(uint64_t, keys);
    int head = blockIdx.x, first = head, together = 1, total;
    selection v = selection_of(j, head);
    v.keys = v.keys ? v.keys : keys;
    if (!is_due(j.plan, v.count))
        return;
    bool scores = j.plan.scored || j.plan.cascades;
    if (scores && j.plan.per_layer && lie_alike(j, head / j.kv_heads * j.kv_heads)) {
        first = head / j.kv_heads * j.kv_heads;
        together = j.kv_heads;
    }
    choose(j, first, together, &v, room);
    if (head > 0)
        return;
    int lost = 0;
    for (int g = threadIdx.x; g < v.groups; g += THREADS)
        lost += v.patches[g] > 0 && !v.alive[g];
    ic_cuda_block_scan(lost, room, &total);
    if (threadIdx.x == 0)
        j.result[j.view.heads] = total;
}

/* --- carrying out --- */

/* New positions of a head's rows: prefix sums of what each row moves the cursor by. */
static __device__ void place_rows(const ic_cuda_view &v, int head, int count, int *room)
{
    ic_pos *positions = v.positions + (int64_t)head * v.slots;
    int t = 0, total;
    for (int first = 0; first < count; first += THREADS) {
        int i = first + (int)threadIdx.x;
        ic_row row = row_at(v, head, i < count ? i : 0);
        int step = i > 0 && i < count ? ic_cuda_base_behind(row_at(v, head, i - 1), 0, row) : 0;
        int at = t + ic_cuda_block_scan(step, room, &total) + step;
        bool vision = row.kind == IC_ROW_VISION;
        if (i < count)
            positions[i] = ic_pos{at, at + (vision ? row.h : 0), at + (vision ? row.w : 0)};
        t += total;
    }
}

/* One block per head: what is not marked leaves; its slots are free. */
static __global__ void __launch_bounds__(THREADS) carry_out_kernel(select_job j)
{
    __shared__ int room[THREADS / IC_CUDA_WARP];
    int head = blockIdx.x, stay = 0, total;
    selection v = selection_of(j, head);
    int32_t *order = j.view.order + (int64_t)head * j.view.slots;
    ic_pos *positions = j.view.positions + (int64_t)head * j.view.slots;
    unsigned long long *map =
        (unsigned long long *)(void *)(j.view.free_map + (int64_t)head * j.view.words);
    if (!is_due(j.plan, v.count)) {
        if (threadIdx.x == 0)
            j.result[head] = v.count;
        return;
    }
    for (int first = 0; first < v.count; first += THREADS) {
        int i = first + (int)threadIdx.x, slot = i < v.count ? order[i] : 0;
        bool keep = i < v.count && (v.marks[i] & KEPT);
        ic_pos position = j.view.original && keep ? positions[i] : ic_pos{0, 0, 0};
        int at = stay + ic_cuda_block_scan(keep, room, &total); /* all have read their slot */
        if (keep && j.view.original)
            positions[at] = position;
        if (keep)
            order[at] = slot;
        else if (i < v.count)
            atomicOr(&map[slot / WORD_BITS], 1ull << (slot % WORD_BITS));
        stay += total;
    }
    __syncthreads();
    if (stay < v.count && !j.view.original)
        place_rows(j.view, head, stay, room);
    if (threadIdx.x == 0) {
        j.view.counts[head] = stay;
        j.result[head] = stay;
    }
}

/* --- starting it --- */

/* Keys for so many rows: as many as are sorted; and parts of cascades lie there. */
static int sort_room_of(int rows)
{
    int size = IC_CASCADE_MOST;
    while (size < rows)
        size *= 2;
    return size;
}

/* Bytes of the keys that do not fit into shared memory. */
static int64_t key_bytes(const ic_cuda_device *d, int heads, int sort_room)
{
    int64_t one = sort_room * (int64_t)sizeof(uint64_t),
            room = (int64_t)d->shared_max - OTHER_SHARED;
    return one > (room < SORT_SHARED ? room : (int64_t)SORT_SHARED) ? heads * one : 0;
}

static size_t result_bytes(int heads)
{
    return (size_t)(heads + 1) * sizeof(int32_t);
}

/* Scratch of one plan. Several that are carried out together have it one after the other; their
 * results, which come back at once, lie before it. */
static size_t work_bytes(const ic_cuda_device *d, int heads, int slots, int sort_room)
{
    return (size_t)(heads * scratch_bytes(slots) + key_bytes(d, heads, sort_room));
}

size_t ic_cuda_select_room(const ic_cuda_device *d, const ic_slab_desc *desc)
{
    int heads = desc->layers * desc->kv_heads;
    size_t results = result_bytes(heads);
    return (results > IC_CUDA_RESULTS ? results : (size_t)IC_CUDA_RESULTS) + ALIGN
           + work_bytes(d, heads, desc->slots, sort_room_of(desc->slots));
}

/* Rows that are sorted, or lie in the parts of cascades. */
static int sort_room_for(const ic_eviction *e)
{
    return sort_room_of(e->plan.scored || e->plan.cascades ? ic_slab_used(e->slab) : 0);
}

static int start(ic_cuda_device *d, const ic_eviction *e, char *work, int32_t *result)
{
    ic_slab *s = e->slab;
    select_job j = {};
    int rc = ic_cuda_slab_view(s, -1, &j.view);
    if (rc)
        return rc;
    j.plan = e->plan;
    j.kv_heads = s->desc.kv_heads;
    j.sort_room = sort_room_for(e);
    j.scratch = work;
    j.scratch_bytes = scratch_bytes(s->desc.slots);
    if (key_bytes(d, s->heads, j.sort_room))
        j.keys = (uint64_t *)(void *)(work + s->heads * j.scratch_bytes);
    j.result = result;
    s->host_stale = true;
    rc = ic_cuda_launch(d, choose_kernel, s->heads, THREADS,
                        j.keys ? 0 : j.sort_room * sizeof *j.keys, j);
    return rc ? rc : ic_cuda_launch(d, carry_out_kernel, s->heads, THREADS, 0, j);
}

static void take_counts(ic_eviction *e, const int32_t *result)
{
    ic_slab *s = e->slab;
    if (is_due(e->plan, s->counts[0])) /* else nobody has written it */
        e->evicted.groups = result[s->heads];
    for (int head = 0; head < s->heads; head++) {
        int lost = s->counts[head] - result[head];
        e->evicted.rows += lost;
        e->evicted.rows_max = lost > e->evicted.rows_max ? lost : e->evicted.rows_max;
        s->counts[head] = result[head];
    }
}

/* Bytes that it brings back; 0: there is nothing to do. */
static size_t bytes_of(const ic_eviction *e)
{
    for (int head = 0; head < e->slab->heads; head++)
        if (is_due(e->plan, e->slab->counts[head]))
            return result_bytes(e->slab->heads);
    return 0;
}

/* Those whose results come back at once: the first n. */
static void evict_some(ic_cuda_device *d, ic_eviction *list, int n, size_t results, size_t work)
{
    size_t before = (results + ALIGN - 1) / ALIGN * ALIGN, at = 0;
    char *room = results ? (char *)ic_cuda_scratch(d, IC_CUDA_ROOM_SCORES, before + work) : NULL;
    int32_t *found = (int32_t *)ic_alloc(results + 1);
    int rc = results && !room ? IC_ENOMEM : 0;
    for (int i = 0; i < n; i++) {
        size_t bytes = bytes_of(&list[i]);
        list[i].rc = rc;
        if (bytes && rc == 0)
            list[i].rc = start(d, &list[i], room + before, (int32_t *)(void *)(room + at));
        at += bytes;
    }
    if (results && rc == 0)
        rc = ic_cuda_fetch(d, found, room, results);
    at = 0;
    for (int i = 0; i < n; i++) {
        size_t bytes = bytes_of(&list[i]);
        list[i].rc = list[i].rc ? list[i].rc : rc;
        if (bytes && list[i].rc == 0)
            take_counts(&list[i], found + at / sizeof *found);
        at += bytes;
    }
    ic_free(found);
}

/* New counts come back between steps, once for as many evictions as IC_CUDA_RESULTS has room for.
 */
void ic_cuda_slab_evict_each(ic_eviction *list, int n)
{
    ic_cuda_device *d = ic_cuda_of(list->slab->device);
    for (int first = 0, end = 0; first < n; first = end) {
        size_t results = 0, work = 0;
        for (; end < n; end++) {
            const ic_slab *s = list[end].slab;
            size_t bytes = bytes_of(&list[end]);
            if (end > first && results + bytes > IC_CUDA_RESULTS)
                break;
            size_t one = work_bytes(d, s->heads, s->desc.slots, sort_room_for(&list[end]));
            work = one > work ? one : work;
            results += bytes;
        }
        evict_some(d, list + first, end - first, results, work);
    }
}
