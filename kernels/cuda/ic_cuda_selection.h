/* ic_cuda_selection: what one block knows of its head while a plan is carried out there
 * (ic_cuda_select.cu): its rows' marks, its groups, and what keeping a row does to them. */
#ifndef IC_CUDA_SELECTION_H
#define IC_CUDA_SELECTION_H

#include "kernels/cuda/ic_cuda_scan.h"

enum {
    THREADS = 512, /* of a block */
    NONE = 0x7fffffff
};

/* Of a place. */
enum { KEPT = 1, PINNED = 2, VISION = 4, BOUND = 8, OF_GROUP = 16 };

/* What one head's block works with, in device memory. */
struct selection {
    int32_t *group_of;          /* [count]: index of the group; -1: none */
    float *score, *room;        /* [count] */
    uint32_t *ids;              /* [groups] */
    int32_t *patches, *markers; /* [groups] */
    int32_t *alive;             /* [groups]: some patch stays */
    int32_t *first;             /* [groups]: the first of it in a sequence; open rows */
    int32_t *begin, *end;       /* [groups]: where its rows lie; [count]: rows of cascades */
    uint32_t *best;             /* [groups]: its best score */
    float *lost;                /* [groups]: with its last row; the mean of its patches */
    int32_t *units;             /* [groups]: patches that stay or leave together; 0: they stay */
    uint64_t *keys;             /* sorted: score and place, the best first; links and parts */
    uint8_t *marks;             /* [count] */
    int count, groups, kept, budget; /* the same in all threads */
    bool thins;                      /* markers are rows as others: no patch brings them along */
    bool wholes;                     /* patches of a group stay or leave together */
};

/* What the kernels of a plan are given. */
struct select_job {
    ic_cuda_view view; /* of all heads */
    ic_plan plan;
    char *scratch; /* [heads, scratch_bytes] */
    int64_t scratch_bytes;
    uint64_t *keys; /* [heads, sort_room], where they do not fit into shared memory; or NULL */
    int32_t kv_heads, sort_room;
    int32_t *result; /* [heads + 1]: rows that stay; groups that lost their last patch in head 0 */
};

static int64_t scratch_bytes(int64_t slots)
{
    return (13 * slots * (int64_t)sizeof(int32_t) + slots + 255) & ~(int64_t)255;
}

static __device__ selection selection_of(const select_job &j, int head)
{
    selection v;
    int64_t slots = j.view.slots;
    int32_t *at = (int32_t *)(void *)(j.scratch + head * j.scratch_bytes);
    v.group_of = at;
    v.score = (float *)(void *)(at + slots);
    v.room = (float *)(void *)(at + 2 * slots);
    v.ids = (uint32_t *)(void *)(at + 3 * slots);
    v.patches = at + 4 * slots;
    v.markers = at + 5 * slots;
    v.alive = at + 6 * slots;
    v.first = at + 7 * slots;
    v.begin = at + 8 * slots;
    v.end = at + 9 * slots;
    v.best = (uint32_t *)(void *)(at + 10 * slots);
    v.lost = (float *)(void *)(at + 11 * slots);
    v.units = at + 12 * slots;
    v.marks = (uint8_t *)(void *)(at + 13 * slots);
    v.keys = j.keys ? j.keys + (int64_t)head * j.sort_room : NULL;
    v.count = j.view.counts[head];
    v.budget = j.plan.budget;
    v.groups = v.kept = 0;
    v.thins = j.plan.thin > 0;
    v.wholes = j.plan.whole;
    return v;
}

static __device__ const ic_row &row_at(const ic_cuda_view &v, int head, int place)
{
    int64_t table = (int64_t)head * v.slots;
    return v.rows[table + v.order[table + place]];
}

/* --- groups --- */

/* Groups are numbered as they come; if some table says otherwise, one thread looks them up. */
static __device__ int find_groups_slowly(const ic_cuda_view &view, int head, const selection &v)
{
    int groups = 0;
    for (int i = 0; i < v.count; i++) {
        uint32_t id = row_at(view, head, i).group;
        int g = groups - 1;
        while (id && g >= 0 && v.ids[g] != id)
            g--;
        if (id && g < 0)
            v.ids[g = groups++] = id;
        v.group_of[i] = id ? g : -1;
    }
    return groups;
}

static __device__ void find_groups(const ic_cuda_view &view, int head, selection *v, int *room)
{
    __shared__ int slow;
    uint32_t before = 0, top;
    int tid = threadIdx.x, total;
    bool falls = false;
    for (int first = 0; first < v->count; first += THREADS) {
        int i = first + tid;
        uint32_t id = i < v->count ? row_at(view, head, i).group : 0;
        uint32_t last = ic_cuda_block_max_before(id, (uint32_t *)(void *)room, &top);
        last = last > before ? last : before;
        bool leads = id > last;
        falls = falls || (id && id < last);
        int g = v->groups + ic_cuda_block_scan(leads, room, &total) + leads - 1;
        if (leads)
            v->ids[g] = id;
        if (i < v->count)
            v->group_of[i] = id ? g : -1;
        v->groups += total;
        before = top > before ? top : before;
    }
    if (__syncthreads_or(falls)) {
        if (tid == 0)
            slow = find_groups_slowly(view, head, *v);
        __syncthreads();
        v->groups = slow;
    }
    __syncthreads();
}

/* Marks of all rows, and what each group has. */
static __device__ void see_rows(const ic_cuda_view &view, int head, const selection &v)
{
    for (int g = threadIdx.x; g < v.groups; g += THREADS)
        v.patches[g] = v.markers[g] = v.alive[g] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < v.count; i += THREADS) {
        const ic_row &row = row_at(view, head, i);
        int g = v.group_of[i];
        bool vision = row.kind == IC_ROW_VISION;
        bool bound = row.kind == IC_ROW_MARKER && !row.pinned && g >= 0 && !v.thins;
        v.marks[i] = (uint8_t)((row.pinned ? PINNED : 0) | (vision ? VISION : 0)
                               | (g >= 0 ? OF_GROUP : 0) | (bound ? BOUND : 0));
        if (g >= 0 && vision)
            atomicAdd(&v.patches[g], 1);
        if (v.marks[i] & BOUND)
            atomicAdd(&v.markers[g], 1);
    }
    __syncthreads();
    /* A marker whose patches have come stays and leaves with them; before, it is like text. */
    for (int i = threadIdx.x; i < v.count; i += THREADS)
        if ((v.marks[i] & BOUND) && v.patches[v.group_of[i]] == 0)
            v.marks[i] &= (uint8_t)~BOUND;
    __syncthreads();
}

static __device__ bool is_patch(const selection &v, int place)
{
    const int both = VISION | OF_GROUP;
    return (v.marks[place] & both) == both;
}

static __device__ bool brings_markers(const selection &v, int place)
{
    return is_patch(v, place) && !v.thins && !v.alive[v.group_of[place]];
}

static __device__ void keep_row(const selection &v, int place)
{
    v.marks[place] |= KEPT;
    if (is_patch(v, place))
        v.alive[v.group_of[place]] = 1;
}

/* A patch that stays or leaves with all others of its group: the group, else -1. */
static __device__ int unit_of(const selection &v, int place)
{
    return v.wholes && is_patch(v, place) ? v.group_of[place] : -1;
}

static __device__ bool is_open(const selection &v, int place)
{
    int unit = unit_of(v, place);
    return !(v.marks[place] & (KEPT | BOUND)) && (unit < 0 || v.units[unit] > 0);
}

/* Of each group, the rows whose marks are `want` under `mask`. */
static __device__ void count_open(const selection &v, int mask, int want, int32_t *open)
{
    for (int g = threadIdx.x; g < v.groups; g += THREADS)
        open[g] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < v.count; i += THREADS)
        if (v.group_of[i] >= 0 && (v.marks[i] & mask) == want)
            atomicAdd(&open[v.group_of[i]], 1);
    __syncthreads();
}

#endif
