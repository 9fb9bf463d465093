/* ic_cuda_scan: prefix sums and maxima over the threads of a block, and the rule of positions that
 * they serve. */
#ifndef IC_CUDA_SCAN_H
#define IC_CUDA_SCAN_H

#include "kernels/cuda/ic_cuda.h"
#include "kernels/cuda/ic_cuda_slab.h"

/* The sum of v over the threads before this one, and over all in *total. `room`: an int per warp
 * and one more, shared; it may be used again after the call. Whole warps. */
__device__ __forceinline__ int ic_cuda_block_scan(int v, int *room, int *total)
{
    int lane = threadIdx.x % IC_CUDA_WARP, warp = threadIdx.x / IC_CUDA_WARP;
    int warps = blockDim.x / IC_CUDA_WARP, sum = v;
#pragma unroll
    for (int step = 1; step < IC_CUDA_WARP; step *= 2) {
        int before = __shfl_up_sync(0xffffffffu, sum, step);
        sum += lane >= step ? before : 0;
    }
    if (lane == IC_CUDA_WARP - 1)
        room[warp] = sum;
    __syncthreads();
    int before = 0, all = 0;
    for (int i = 0; i < warps; i++) {
        before += i < warp ? room[i] : 0;
        all += room[i];
    }
    __syncthreads();
    *total = all;
    return before + sum - v;
}

/* The largest v of the threads before this one (0: there is none above it). */
__device__ __forceinline__ uint32_t ic_cuda_block_max_before(uint32_t v, uint32_t *room,
                                                             uint32_t *all)
{
    int lane = threadIdx.x % IC_CUDA_WARP, warp = threadIdx.x / IC_CUDA_WARP;
    int warps = blockDim.x / IC_CUDA_WARP;
    uint32_t top = v;
#pragma unroll
    for (int step = 1; step < IC_CUDA_WARP; step *= 2) {
        uint32_t other = __shfl_up_sync(0xffffffffu, top, step);
        top = lane >= step && other > top ? other : top;
    }
    if (lane == IC_CUDA_WARP - 1)
        room[warp] = top;
    uint32_t before = __shfl_up_sync(0xffffffffu, top, 1), most = 0;
    before = lane ? before : 0;
    __syncthreads();
    for (int i = 0; i < warps; i++) {
        before = i < warp && room[i] > before ? room[i] : before;
        most = room[i] > most ? room[i] : most;
    }
    __syncthreads();
    *all = most;
    return before;
}

/* Where the row behind `last` stands, which stands at t: ic_slab_next_position. */
__device__ __forceinline__ int ic_cuda_base_behind(const ic_row &last, int t, const ic_row &row)
{
    bool vision = last.kind == IC_ROW_VISION;
    bool same = vision && row.kind == IC_ROW_VISION && row.group == last.group;
    return t + (same ? 0 : vision ? last.advance : 1);
}

#endif
