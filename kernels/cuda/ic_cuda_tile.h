/* ic_cuda_tile: the two products of attention on a tile of 64 rows (queries times the heads that
 * share a kv head) and 64 keys, for four warps of 16 rows each.
 *
 * A warp's part of the scores, s[n][r], lies as C fragments do (ic_cuda_mma.h): row l / 4 + 8 (r /
 * 2) of the warp's 16, key 8 n + 2 (l % 4) + r % 2; its part of the output, o[n][r], the same with
 * dimensions for keys. 16-bit types go through the tensor cores, f32 through plain chains of
 * multiply-adds, for exactness. Either way an element is added up in an order that depends on its
 * own row and column alone. */
#ifndef IC_CUDA_TILE_H
#define IC_CUDA_TILE_H

#include "kernels/cuda/ic_cuda_mma.h"

constexpr int IC_CUDA_TILE = 64; /* rows, and keys */
constexpr int IC_CUDA_TILE_THREADS = 128;
constexpr int IC_CUDA_TILE_PARTS = IC_CUDA_TILE / 8; /* fragments of a warp's scores */
constexpr int IC_CUDA_TILE_ROOM = IC_CUDA_TILE + 1;  /* row of f32 weights in shared memory */

/* A tile's row in shared memory: 16 bytes more than it needs, which puts the rows that ldmatrix
 * reads together into different banks. */
template <class T, int DIM> struct ic_cuda_row {
    static constexpr int N = DIM + 16 / sizeof(T);
};

/* Begins to copy rows first .. first + 63 of [limit, DIM] into a tile; rows beyond become 0. */
template <class T, int DIM>
__device__ __forceinline__ void ic_cuda_tile_copy(T *tile, const T *from, int first, int limit)
{
    const int n = 16 / sizeof(T), packs = DIM / n;
    for (int i = threadIdx.x; i < IC_CUDA_TILE * packs; i += IC_CUDA_TILE_THREADS) {
        int row = i / packs, column = i % packs * n;
        bool inside = first + row < limit;
        const T *at = from + (int64_t)(inside ? first + row : 0) * DIM + column;
        ic_cuda_copy_async<16>(tile + row * ic_cuda_row<T, DIM>::N + column, at, inside ? 16 : 0);
    }
}

/* One warp's 16 queries, kept for all keys. */
template <class T, int DIM> struct ic_cuda_queries {
    static constexpr int STEPS = DIM / 16;
    static constexpr int ROW = ic_cuda_row<T, DIM>::N;
    uint32_t a[STEPS][4];

    /* tile: the warp's first row, in shared memory. */
    __device__ __forceinline__ void take(const T *tile)
    {
        int lane = threadIdx.x % IC_CUDA_WARP, matrix = lane / 8;
        const T *row = tile + (matrix % 2 * 8 + lane % 8) * ROW + matrix / 2 * 8;
#pragma unroll
        for (int k = 0; k < STEPS; k++)
            ic_cuda_ldmatrix<false>(a[k], row + k * 16);
    }

    /* s = queries times keys */
    __device__ __forceinline__ void scores(const T *keys, float (&s)[IC_CUDA_TILE_PARTS][4]) const
    {
        int lane = threadIdx.x % IC_CUDA_WARP, matrix = lane / 8;
        const T *row = keys + (matrix / 2 * 8 + lane % 8) * ROW + matrix % 2 * 8;
#pragma unroll
        for (int n = 0; n < IC_CUDA_TILE_PARTS; n++)
            s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
        for (int k = 0; k < STEPS; k++)
#pragma unroll
            for (int n = 0; n < IC_CUDA_TILE_PARTS; n += 2) {
                uint32_t b[4];
                ic_cuda_ldmatrix<false>(b, row + n * 8 * ROW + k * 16);
                ic_cuda_mma<T>(s[n], a[k], b[0], b[1]);
                ic_cuda_mma<T>(s[n + 1], a[k], b[2], b[3]);
            }
    }

    /* o += weights times values. The weights' C fragments are A fragments already. */
    __device__ __forceinline__ void values(const float (&p)[IC_CUDA_TILE_PARTS][4],
                                           const T *values_, float *, float (&o)[DIM / 8][4]) const
    {
        int lane = threadIdx.x % IC_CUDA_WARP, matrix = lane / 8;
        const T *row = values_ + (matrix % 2 * 8 + lane % 8) * ROW + matrix / 2 * 8;
#pragma unroll
        for (int k = 0; k < IC_CUDA_TILE / 16; k++) {
            const float(&low)[4] = p[2 * k], (&high)[4] = p[2 * k + 1];
            const uint32_t w[4] = {ic_cuda_pair<T>(low[0], low[1]), ic_cuda_pair<T>(low[2], low[3]),
                                   ic_cuda_pair<T>(high[0], high[1]),
                                   ic_cuda_pair<T>(high[2], high[3])};
#pragma unroll
            for (int n = 0; n < DIM / 8; n += 2) {
                uint32_t b[4];
                ic_cuda_ldmatrix<true>(b, row + k * 16 * ROW + n * 8);
                ic_cuda_mma<T>(o[n], w, b[0], b[1]);
                ic_cuda_mma<T>(o[n + 1], w, b[2], b[3]);
            }
        }
    }
};

template <int DIM> struct ic_cuda_queries<float, DIM> {
    static constexpr int ROW = ic_cuda_row<float, DIM>::N;
    const float *q[2]; /* of the lane's two rows */

    __device__ __forceinline__ void take(const float *tile)
    {
        q[0] = tile + threadIdx.x % IC_CUDA_WARP / 4 * ROW;
        q[1] = q[0] + 8 * ROW;
    }

    /* The same from device memory, [limit, DIM]: where shared memory has no room for queries. The
     * warp's first row is `row`; rows beyond the limit are somebody's, and of no use. */
    __device__ __forceinline__ void take_there(const float *from, int row, int limit)
    {
        row += threadIdx.x % IC_CUDA_WARP / 4;
        q[0] = from + (int64_t)min(row, limit - 1) * DIM;
        q[1] = from + (int64_t)min(row + 8, limit - 1) * DIM;
    }

    __device__ __forceinline__ void scores(const float *keys,
                                           float (&s)[IC_CUDA_TILE_PARTS][4]) const
    {
        const float *k = keys + threadIdx.x % 4 * 2 * ROW;
#pragma unroll
        for (int n = 0; n < IC_CUDA_TILE_PARTS; n++)
            s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
        for (int d = 0; d < DIM; d++)
#pragma unroll
            for (int n = 0; n < IC_CUDA_TILE_PARTS; n++)
#pragma unroll
                for (int r = 0; r < 4; r++)
                    s[n][r] = fmaf(q[r / 2][d], k[(n * 8 + r % 2) * ROW + d], s[n][r]);
    }

    /* room: f32 [16, IC_CUDA_TILE_ROOM] of this warp. */
    __device__ __forceinline__ void values(const float (&p)[IC_CUDA_TILE_PARTS][4],
                                           const float *values_, float *room,
                                           float (&o)[DIM / 8][4]) const
    {
        int lane = threadIdx.x % IC_CUDA_WARP, row = lane / 4, column = lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < IC_CUDA_TILE_PARTS; n++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                room[(row + r / 2 * 8) * IC_CUDA_TILE_ROOM + n * 8 + column + r % 2] = p[n][r];
        __syncwarp();
        for (int j = 0; j < IC_CUDA_TILE; j++)
#pragma unroll
            for (int n = 0; n < DIM / 8; n++)
#pragma unroll
                for (int r = 0; r < 4; r++)
                    o[n][r] = fmaf(room[(row + r / 2 * 8) * IC_CUDA_TILE_ROOM + j],
                                   values_[j * ROW + n * 8 + column + r % 2], o[n][r]);
        __syncwarp();
    }
};

#endif
