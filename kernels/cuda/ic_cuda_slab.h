/* ic_cuda_slab: a slab's tables in device memory, and what the CUDA backend does with slabs.
 *
 * The copy of the tables (free map, rows, order, positions, counts, scores) lies beside K and V, in
 * one allocation laid out as the host's. Appending, dropping, scoring and evicting change it there;
 * the host pulls it only to look (a checkpoint, a test). So a step needs no table from the host,
 * and a step of decode no copy at all beyond the appended row itself, which travels as a kernel's
 * parameter.
 */
#ifndef IC_CUDA_SLAB_H
#define IC_CUDA_SLAB_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/ic_slab_priv.h"

enum { IC_CUDA_DIM_MAX = 256 }; /* of a head; a multiple of 8 */

struct ic_cuda_device;

/* What a kernel knows of one layer of a slab: passed by value. Heads below are the layer's. */
typedef struct ic_cuda_view {
    char *k, *v;        /* [kv_heads, slots, dim] */
    uint64_t *free_map; /* [kv_heads, words] */
    ic_row *rows;       /* [kv_heads, slots] by slot */
    ic_pos *positions;  /* [kv_heads, slots] by place */
    int32_t *order;     /* [kv_heads, slots]: slot at each place */
    int32_t *counts;    /* [kv_heads] */
    float *scores;      /* [kv_heads, slots] by slot; NULL: none */
    int32_t heads, slots, words, dim;
    int32_t count; /* of the layer's fullest head, as the host knows it; kernels read `counts` */
    int32_t score_kind;
    float smooth;
    int32_t original; /* rows stay at the positions at which they came */
} ic_cuda_view;

/* The layer's view, after what the host has changed has been copied. layer -1: of all heads. */
int ic_cuda_slab_view(const ic_slab *s, int layer, ic_cuda_view *view);

/* No other slab of the device has this number, or had it: its memory may come again. */
uint64_t ic_cuda_slab_number(const ic_slab *s);

/* Scratch in IC_CUDA_ROOM_SCORES for any plan over slabs of this shape. */
size_t ic_cuda_select_room(const struct ic_cuda_device *d, const ic_slab_desc *desc);

/* Entries of the backend's table (ic_device_priv.h). */
int ic_cuda_slab_open(ic_slab *s, ic_error *e);
void ic_cuda_slab_close(ic_slab *s);
int ic_cuda_slab_append(ic_slab *s, const ic_row *rows, int count);
int ic_cuda_slab_drop(ic_slab *s, int count, ic_row *row, ic_pos *position);
void ic_cuda_slab_evict_each(ic_eviction *list, int n);
int ic_cuda_slab_pull(ic_slab *s);
int ic_cuda_slab_store(ic_slab *s, int layer, int appended, int first, const ic_mat *k,
                       const ic_mat *v);
int ic_cuda_slab_store_each(ic_slab *const *slabs, int n, int layer, const ic_mat *k,
                            const ic_mat *v);
int ic_cuda_attention_slices(ic_device *d, const ic_attend_slice *slices, int n, int layer,
                             int heads, const ic_mat *q, const ic_rope *rope, float scale,
                             ic_mat *y);
int ic_cuda_attention_prefill(ic_device *d, const ic_slab *s, int layer, int heads, const ic_mat *q,
                              int behind, const ic_rope *rope, float scale, int window, ic_mat *y);
int ic_cuda_attention_score(ic_device *d, const ic_slab *s, int layer, int heads, const ic_mat *q,
                            const ic_rope *rope, float scale);
int ic_cuda_attention_decode(ic_device *d, const ic_slab *const *slabs, int n, int layer, int heads,
                             const ic_mat *q, const ic_rope *rope, float scale, ic_mat *y);
int ic_cuda_attention_decode_rotated(ic_device *d, const ic_slab *const *slabs, int n, int layer,
                                     int heads, const ic_mat *q, const ic_rope *rope, float scale,
                                     ic_mat *y);
int ic_cuda_attention_full(ic_device *d, const ic_mat *q, const ic_mat *k, const ic_mat *v,
                           const int32_t *starts, int n, int heads, float scale, ic_mat *y);

#ifdef __cplusplus
}
#endif

#endif
