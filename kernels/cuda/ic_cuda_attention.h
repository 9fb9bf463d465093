/* ic_cuda_attention: what the steps of a blocked attention hand to one another.
 *
 * First queries, keys and values are brought into scratch in the form that tiles want (gathered in
 * position order, rotated, in one dtype, dimensions padded with zeros); then tiles of 64 rows by 64
 * keys attend (ic_cuda_attention.cu) or score (ic_cuda_score.cu). A row here is a query of one
 * head: row r of a slice's kv head is query r / group, head r % group of the group. Blocks of keys
 * are aligned to the order of the cache, and a row's sums see nothing of its neighbours, so that
 * its bits depend neither on the slice nor on the launch. */
#ifndef IC_CUDA_ATTENTION_H
#define IC_CUDA_ATTENTION_H

#include "kernels/cuda/ic_cuda.h"
#include "kernels/cuda/ic_cuda_slab.h"

/* A row's softmax: the largest score (in powers of two) and the sum of 2^(score - max). */
typedef struct ic_cuda_stat {
    float max, sum;
} ic_cuda_stat;

/* One session's slice, or one segment, with all its kv heads. */
typedef struct ic_cuda_slice {
    const void *q;           /* [kv_heads, rows * group, wide], rotated and scaled */
    const void *k, *v;       /* [kv_heads, ., wide] in position order, rotated */
    int64_t q_head, kv_head; /* elements from one kv head to the next */
    float *y;                /* [rows, heads * dim]; NULL: statistics alone are wanted */
    int64_t y_stride;
    ic_cuda_stat *stats; /* [kv_heads, stat_rows * group], of the last stat_rows rows; or NULL */
    int32_t stat_rows;
    const int32_t *counts; /* [kv_heads] on the device: rows held; NULL: `keys`, and all are seen */
    int32_t keys;
    int32_t rows, behind; /* the slice's queries; rows appended after them */
} ic_cuda_slice;

enum { IC_CUDA_SLICES = 16 }; /* in one launch */

typedef struct ic_cuda_batch {
    ic_cuda_slice slices[IC_CUDA_SLICES];
    int32_t n, kv_heads, group, dim, rows_max;
} ic_cuda_batch;

/* The width that tiles are compiled for, at least dim; 0: none. */
int ic_cuda_tile_width(ic_dtype dtype, int dim);
/* The dtype in which tiles compute over a cache of `dtype` with heads of dim. */
ic_dtype ic_cuda_tile_dtype(ic_dtype dtype, int dim);

/* Queries [rows, heads * dim] f32 to [kv_heads, rows * group, wide] of dtype, times `scale`; with
 * a view, rotated by the position of the row in the kv head that it meets. */
int ic_cuda_pack_queries(ic_cuda_device *d, const ic_mat *q, int kv_heads, int dim, float scale,
                         const ic_cuda_view *view, int behind, const ic_cuda_rope *rope,
                         ic_dtype dtype, int wide, void *out);
/* One layer's K and V in position order, K rotated: [kv_heads, places, wide] each. */
int ic_cuda_pack_slab(ic_cuda_device *d, const ic_cuda_view *view, ic_dtype stored,
                      const ic_cuda_rope *rope, int places, ic_dtype dtype, int wide, void *k,
                      void *v);

int ic_cuda_attend(ic_cuda_device *d, const ic_cuda_batch *batch, ic_dtype dtype, int wide);

/* Scratch in IC_CUDA_ROOM_KEYS: for slices of `rows` rows in all over caches of this shape, as many
 * at once as d->launch_keys allows; and for full attention over so many patches. */
size_t ic_cuda_attend_room(const ic_cuda_device *d, const ic_slab_desc *desc, int heads, int rows);
size_t ic_cuda_full_room(const ic_cuda_device *d, int64_t rows, int heads, int dim);

/* Scores of the keys that the slice's last stat_rows rows see, into the view's scores as its
 * score_kind says. */
int ic_cuda_score_slice(ic_cuda_device *d, const ic_cuda_slice *slice, const ic_cuda_view *view,
                        int group, ic_dtype dtype, int wide);

/* Calls f<T, WIDE> with T and WIDE as types: f(T(), std::integral_constant<int, WIDE>()). */
template <class F> int ic_cuda_by_tile(ic_dtype dtype, int wide, F f)
{
#define IC_CUDA_TILE_CASE(T, width)                                                                \
    case width:                                                                                    \
        return f(T(), std::integral_constant<int, width>())
#define IC_CUDA_TILE_CASES(T)                                                                      \
    IC_CUDA_TILE_CASE(T, 32);                                                                      \
    IC_CUDA_TILE_CASE(T, 64);                                                                      \
    IC_CUDA_TILE_CASE(T, 80);                                                                      \
    IC_CUDA_TILE_CASE(T, 128)
    if (dtype == IC_BF16)
        switch (wide) {
            IC_CUDA_TILE_CASES(__nv_bfloat16);
        }
    else if (dtype == IC_F16)
        switch (wide) {
            IC_CUDA_TILE_CASES(__half);
        }
    else
        switch (wide) {
            IC_CUDA_TILE_CASE(float, 64);
            IC_CUDA_TILE_CASE(float, 128);
            IC_CUDA_TILE_CASE(float, 256);
        }
    return IC_EBUG;
#undef IC_CUDA_TILE_CASES
#undef IC_CUDA_TILE_CASE
}

#endif
