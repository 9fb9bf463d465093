/* ic_cuda_thinning: how a plan thins frames out (ic_plan.thin), as ic_slab_select.c has it: newest
 * groups whole, and of the older ones ever fewer rows.
 *
 * Groups are few, so what is given up is found one after the other by the whole block: the least
 * of what each group would lose. Only the group that lost it, or its two neighbours, are counted
 * anew. All of it is IEEE's operations in one order (ic_thin.h), so the same groups remain as on
 * the host, and, as long as no head cares for scores, in all heads. */
#ifndef IC_CUDA_THINNING_H
#define IC_CUDA_THINNING_H

#include "kernels/cuda/ic_cuda_selection.h"
#include "kernels/ic_thin.h"

/* Neighbours in the chain of groups that still have rows to give; -1: none. They lie where scores
 * are sorted later. */
struct thin_link {
    int32_t before, behind;
};

struct thinning {
    int32_t *open; /* [groups]: rows of it that are open */
    int32_t *rows; /* [groups]: that it would keep; TAKEN: it is whole */
    float *faded;  /* [groups] */
    thin_link *links;
    float now, mean, care;
};

enum { TAKEN = -1 };

static __device__ thinning thinning_of(const selection &v, float care)
{
    thinning t;
    t.open = v.first;
    t.rows = v.markers; /* nothing brings markers along here */
    t.faded = v.room;
    t.links = (thin_link *)(void *)v.keys;
    t.now = v.groups ? (float)v.ids[v.groups - 1] + 1 : 0;
    t.mean = 0;
    t.care = care;
    return t;
}

/* Scores in an order of whole numbers; none (-1) is the lowest. */
static __device__ uint32_t rank_of_score(float score)
{
    return score < 0 ? 0 : __float_as_uint(score) + 1;
}

static __device__ float score_of_rank(uint32_t rank)
{
    return rank ? __uint_as_float(rank - 1) : -1.0f;
}

/* The newest groups, with all that is still there of each: so many, and more while they come to no
 * more than `rows`. */
static __device__ void keep_whole_groups(selection *v, const thinning &t, int groups, int rows)
{
    __shared__ int kept;
    count_open(*v, KEPT, 0, t.open);
    for (int g = threadIdx.x; g < v->groups; g += THREADS)
        t.rows[g] = 0;
    __syncthreads();
    if (threadIdx.x == 0) {
        kept = v->kept;
        for (int g = v->groups - 1; g >= 0; g--, groups--) {
            int cost = t.open[g];
            rows -= cost;
            if (groups <= 0 && rows < 0)
                break;
            if (kept + cost > v->budget)
                continue;
            kept += cost;
            t.rows[g] = TAKEN;
        }
    }
    __syncthreads();
    v->kept = kept;
    for (int i = threadIdx.x; i < v->count; i += THREADS)
        if (v->group_of[i] >= 0 && t.rows[v->group_of[i]] == TAKEN && !(v->marks[i] & KEPT))
            keep_row(*v, i);
    __syncthreads();
}

/* Where the open rows of each older group lie, and the best score among them. */
static __device__ void see_older(const selection &v, const thinning &t)
{
    for (int g = threadIdx.x; g < v.groups; g += THREADS) {
        v.begin[g] = NONE;
        v.end[g] = 0;
        v.best[g] = 0;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < v.count; i += THREADS) {
        int g = v.group_of[i];
        if (g < 0 || t.rows[g] == TAKEN || (v.marks[i] & KEPT))
            continue;
        atomicMin(&v.begin[g], i);
        atomicMax(&v.end[g], i + 1);
        atomicMax(&v.best[g], rank_of_score(v.score[i]));
    }
    __syncthreads();
}

/* Links the older groups that have open rows, `thin` of them each at most; returns how many rows
 * that is. */
static __device__ int link_groups(const selection &v, const thinning &t, int thin, int *room)
{
    uint32_t carried = 0, top;
    int sum = 0, total;
    for (int first = 0; first < v.groups; first += THREADS) {
        int g = first + (int)threadIdx.x;
        int open = g < v.groups && t.rows[g] != TAKEN ? t.open[g] : 0;
        int keep = open < thin ? open : thin;
        uint32_t last = ic_cuda_block_max_before(keep > 0 ? g + 1 : 0, (uint32_t *)room, &top);
        last = last > carried ? last : carried;
        carried = top > carried ? top : carried;
        ic_cuda_block_scan(keep, room, &total);
        sum += total;
        if (g < v.groups) {
            t.rows[g] = keep;
            t.links[g] = thin_link{(int)last - 1, -1};
        }
    }
    __syncthreads();
    for (int g = threadIdx.x; g < v.groups; g += THREADS)
        if (t.rows[g] > 0 && t.links[g].before >= 0)
            t.links[t.links[g].before].behind = g;
    __syncthreads();
    return sum;
}

/* The mean of the best scores, summed up in the order of the groups, as the host does: it matters
 * to those alone who care for scores. */
static __device__ void average_best(const selection &v, thinning *t)
{
    __shared__ float mean;
    if (!(t->care > 0))
        return;
    if (threadIdx.x == 0) {
        double sum = 0;
        int n = 0;
        for (int g = 0; g < v.groups; g++) {
            float score = score_of_rank(v.best[g]);
            if (t->rows[g] <= 0)
                continue;
            sum += (double)(score > 0 ? score : 0);
            n++;
        }
        mean = n ? (float)(sum / n) : 0;
    }
    __syncthreads();
    t->mean = mean;
    __syncthreads();
}

static __device__ float lost_with(const selection &v, const thinning &t, int g)
{
    thin_link link = t.links[g];
    float next = link.behind >= 0 ? (float)v.ids[link.behind] : t.now;
    float last = link.before >= 0 ? (float)v.ids[link.before] : 0;
    float worth = ic_thin_worth(score_of_rank(v.best[g]), t.mean, t.care);
    return ic_thin_lost(next - last, t.faded[g], worth, t.rows[g]);
}

/* The group that would lose least, the older of equals; -1: none has rows left. */
static __device__ int find_least(const selection &v, const thinning &t, uint64_t *least)
{
    uint64_t mine = ~(uint64_t)0;
    for (int g = threadIdx.x; g < v.groups; g += THREADS) {
        uint32_t bits = __float_as_uint(v.lost[g]);
        bits = bits >> 31 ? ~bits : bits | 0x80000000u; /* in the order of the numbers */
        uint64_t key = (uint64_t)bits << 32 | (uint32_t)g;
        if (t.rows[g] > 0 && key < mine)
            mine = key;
    }
    for (int step = IC_CUDA_WARP / 2; step > 0; step /= 2) {
        uint64_t other = __shfl_xor_sync(0xffffffffu, mine, step);
        mine = other < mine ? other : mine;
    }
    if (threadIdx.x % IC_CUDA_WARP == 0)
        least[threadIdx.x / IC_CUDA_WARP] = mine;
    __syncthreads();
    for (int w = 0; w < THREADS / IC_CUDA_WARP; w++)
        mine = least[w] < mine ? least[w] : mine;
    __syncthreads();
    return mine == ~(uint64_t)0 ? -1 : (int)(uint32_t)mine;
}

/* One thread: takes a row from the group; its last one takes it out of the chain. */
static __device__ void give_up(const selection &v, const thinning &t, int g)
{
    thin_link link = t.links[g];
    if (--t.rows[g] > 0) {
        v.lost[g] = lost_with(v, t, g);
        return;
    }
    if (link.before >= 0)
        t.links[link.before].behind = link.behind;
    if (link.behind >= 0)
        t.links[link.behind].before = link.before;
    if (link.before >= 0)
        v.lost[link.before] = lost_with(v, t, link.before);
    if (link.behind >= 0)
        v.lost[link.behind] = lost_with(v, t, link.behind);
}

/* Whether fewer rows of the group are better, or as good and newer, than it may keep. */
static __device__ bool is_among_best(const selection &v, const thinning &t, int place)
{
    int g = v.group_of[place], better = 0;
    if (g < 0 || t.rows[g] <= 0 || (v.marks[place] & KEPT))
        return false;
    float score = v.score[place];
    for (int j = v.begin[g]; j < v.end[g] && better < t.rows[g]; j++)
        better += v.group_of[j] == g && !(v.marks[j] & KEPT)
                  && (v.score[j] > score || (v.score[j] == score && j > place));
    return better < t.rows[g];
}

static __device__ void keep_thinned(selection *v, thinning t, int thin, float fade, int *room)
{
    __shared__ uint64_t least[THREADS / IC_CUDA_WARP];
    see_older(*v, t);
    int rows = link_groups(*v, t, thin, room), left = v->budget - v->kept;
    average_best(*v, &t);
    for (int g = threadIdx.x; g < v->groups; g += THREADS)
        if (t.rows[g] > 0) {
            t.faded[g] = ic_thin_fade(t.now - (float)v->ids[g], fade);
            v->lost[g] = lost_with(*v, t, g);
        }
    __syncthreads();
    while (rows > left) {
        int g = find_least(*v, t, least);
        if (g < 0)
            break;
        if (threadIdx.x == 0)
            give_up(*v, t, g);
        __syncthreads();
        rows--;
    }
    float *chosen = v->room; /* ages are no longer needed */
    for (int i = threadIdx.x; i < v->count; i += THREADS)
        chosen[i] = is_among_best(*v, t, i) ? 1.0f : 0.0f;
    __syncthreads();
    for (int i = threadIdx.x; i < v->count; i += THREADS)
        if (chosen[i] > 0)
            keep_row(*v, i);
    v->kept += rows;
    __syncthreads();
}

#endif
