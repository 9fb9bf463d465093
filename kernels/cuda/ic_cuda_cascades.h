/* ic_cuda_cascades: a plan with cascades, as ic_slab_select.c has it.
 *
 * Where the oldest rows go as long as there is room follows from how many came before them, so the
 * block places them at once. What came since then, a chunk's rows, goes through the parts one after
 * the other, by one thread: each depends on what the one before has displaced. */
#ifndef IC_CUDA_CASCADES_H
#define IC_CUDA_CASCADES_H

#include "kernels/cuda/ic_cuda_selection.h"
#include "kernels/ic_cascade.h"

/* Rows for the parts: what is left of the budget, less the markers that patches may bring. */
static __device__ int cascade_room(const selection &v, int *room)
{
    int markers = 0, total;
    for (int g = threadIdx.x; g < v.groups; g += THREADS)
        markers += v.patches[g] && !v.alive[g] ? v.markers[g] : 0;
    ic_cuda_block_scan(markers, room, &total);
    int left = v.budget - v.kept - total;
    return left > 0 ? left : 0;
}

/* The first `all` open rows fill the parts, the last part first; places and ordinals of the others
 * are put down in `begin` and `end`. Returns how many open rows there are. */
static __device__ int fill_parts(const ic_cuda_view &view, int head, const selection &v,
                                 ic_cascade_part *parts, int n, int all, int *room)
{
    int share = all / n, entered = 0, total;
    for (int first = 0; first < v.count; first += THREADS) {
        int i = first + (int)threadIdx.x;
        bool open = i < v.count && is_open(v, i);
        int rank = entered + ic_cuda_block_scan(open, room, &total);
        entered += total;
        if (open && rank < all) {
            int p = share && rank / share < n ? n - 1 - rank / share : 0;
            parts[p].at[rank - (n - 1 - p) * share] = i;
        } else if (open) {
            v.begin[rank - all] = i;
            v.end[rank - all] = (int32_t)row_at(view, head, i).ordinal;
        }
    }
    __syncthreads();
    return entered;
}

/* One thread: the others, one by one. */
static __device__ void enter_rest(const selection &v, ic_cascade_part *parts, int n, int all,
                                  int entered)
{
    int left = entered < all ? entered : all;
    for (int p = n - 1; p >= 0; p--) {
        parts[p].count = left < parts[p].size ? left : parts[p].size;
        left -= parts[p].count;
    }
    for (int k = 0; k < entered - all; k++)
        ic_cascade_enter(parts, n, v.score, v.begin[k], (uint32_t)v.end[k]);
}

static __device__ void keep_cascades(const ic_cuda_view &view, int head, const selection &v, int n,
                                     int *room)
{
    __shared__ ic_cascade_part parts[IC_CASCADE_MOST];
    int all = cascade_room(v, room);
    if (threadIdx.x == 0)
        ic_cascade_lay(parts, n, all, (int32_t *)(void *)v.keys);
    __syncthreads();
    int entered = fill_parts(view, head, v, parts, n, all, room);
    if (threadIdx.x == 0)
        enter_rest(v, parts, n, all, entered);
    __syncthreads();
    for (int p = 0; p < n; p++)
        for (int i = threadIdx.x; i < parts[p].count; i += THREADS)
            keep_row(v, parts[p].at[(parts[p].first + i) % (parts[p].size + 1)]);
    __syncthreads();
}

#endif
