/* ic_cuda_decode: one row for each of several sessions, keys rotated as they are read.
 *
 * A cache is split into pieces of 256 places, a block each (Dao et al., Flash-Decoding, 2023); a
 * second kernel joins the pieces in their order. Keys and values are copied asynchronously, so that
 * enough bytes are under way without holding them in registers; angles are computed in registers
 * from the key's position. Which lane has which key is a matter of its place, and everything is
 * joined in a fixed order: a row's bits depend on its cache alone, never on who shares the launch.
 *
 * f32 caches take plain multiply-adds (ic_cuda_decode.cu), 16-bit ones the tensor cores
 * (ic_cuda_decode_tensor.cu). */
#ifndef IC_CUDA_DECODE_H
#define IC_CUDA_DECODE_H

#include "kernels/cuda/ic_cuda_attention.h"

enum {
    IC_CUDA_DECODE_SPLIT = 256, /* places that a block has */
    IC_CUDA_DECODE_WARPS = 4,
    IC_CUDA_DECODE_THREADS = IC_CUDA_DECODE_WARPS * IC_CUDA_WARP,
    IC_CUDA_DECODE_SESSIONS = 32 /* in one launch */
};

typedef struct ic_cuda_decode_job {
    ic_cuda_view views[IC_CUDA_DECODE_SESSIONS];
    const float *q;
    float *y;
    int64_t q_stride, y_stride;
    ic_cuda_stat *stats; /* [sessions, heads, splits] */
    float *parts;        /* [sessions, heads, splits, dim], weighed under the stat's maximum */
    float *scores;       /* [sessions, heads, places]: where sums are kept; or NULL */
    int32_t heads, kv_heads, group, dim, splits, places;
    float scale;  /* of scores, in powers of two; the rope's own scale is in it */
    bool rotated; /* keys are already: for measuring, and on the tensor cores alone */
} ic_cuda_decode_job;

/* Scratch in IC_CUDA_ROOM_PARTS for as many sessions as one launch takes. */
size_t ic_cuda_decode_room(const ic_slab_desc *desc, int heads, bool sums);

/* The pieces of n sessions of a 16-bit dtype, heads of a multiple of 16: stats and parts. */
int ic_cuda_decode_tensor(ic_cuda_device *d, ic_dtype dtype, const ic_cuda_decode_job *j, int n,
                          const ic_cuda_rope *rope);

/* Whether the device has the shared memory for that. */
bool ic_cuda_decode_tensor_fits(const ic_cuda_device *d, int dim);

/* Joins what the groups of a block found, and writes the block's piece at j.stats[to + h * splits]
 * and j.parts: stats [GROUPS, HEADS], parts [GROUPS, HEADS, dim], in shared memory. */
template <int HEADS, int GROUPS>
static __device__ void ic_cuda_decode_join(const ic_cuda_decode_job &j, const ic_cuda_stat *stats,
                                           const float *parts, int heads, int64_t to)
{
    for (int h = 0; h < heads; h++) {
        float max = -INFINITY, sum = 0, factor[GROUPS];
        for (int g = 0; g < GROUPS; g++)
            max = fmaxf(max, stats[g * HEADS + h].max);
        for (int g = 0; g < GROUPS; g++) {
            factor[g] = exp2f(stats[g * HEADS + h].max - max);
            sum += stats[g * HEADS + h].sum * factor[g];
        }
        int64_t at = to + (int64_t)h * j.splits;
        for (int d = threadIdx.x; d < j.dim; d += IC_CUDA_DECODE_THREADS) {
            float all = 0;
            for (int g = 0; g < GROUPS; g++)
                all += parts[(g * HEADS + h) * j.dim + d] * factor[g];
            j.parts[at * j.dim + d] = all;
        }
        if (threadIdx.x == 0)
            j.stats[at] = ic_cuda_stat{max, sum};
    }
}

#endif
