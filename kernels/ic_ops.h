/* ic_ops: the arithmetic of a transformer with vision, as operations on device memory.
 *
 * Shapes are [rows, cols], row-major, rows first. Activations are f32 unless said otherwise; where
 * ic_device_info.half_activations is set, x and y of products (there: f32 or the compute dtype),
 * norms, swiglu and gelu, patches, and q and k of the vision rotation may be bf16 or f16 too;
 * products run in the weight's compute dtype with f32 accumulation. Every function returns 0 or
 * IC_EDEVICE / IC_ENOMEM (scratch); wrong shapes are a bug of the caller (asserted). Operations run
 * in the order of calls; ic_ops_wait ends when they have.
 *
 * Bit rule of the CPU backend (ic_device_info.batch_exact): a row's result depends on the row, its
 * weights and its role, never on the other rows of the call or on the number of threads. IC_DECODE
 * rows take the one-row kernel whatever the batch; IC_PREFILL rows take the GEMM whatever the
 * slice.
 */
#ifndef IC_OPS_H
#define IC_OPS_H

#include "kernels/ic_slab.h"

typedef enum ic_role { IC_PREFILL, IC_DECODE } ic_role;

/* y[rows, out] = x[rows, in] W^T + bias (bias [out] f32 or NULL); with add, y += that. x is f32. */
int ic_op_gemm(ic_device *d, ic_role role, const ic_mat *x, const ic_weight *w, const float *bias,
               bool add, ic_mat *y);
/* y[i, :] = table[ids[i], :]; table [vocab, dim] of any dtype in device memory; ids in host memory.
 */
int ic_op_gather(ic_device *d, const ic_mat *table, const int32_t *ids, ic_mat *y);
/* y = x / sqrt(mean(x^2) + eps) * weight, over groups of `dim` columns (dim = cols, or head_dim for
 * q/k norm). y may be x. */
int ic_op_rmsnorm(ic_device *d, const ic_mat *x, const float *weight, int dim, float eps,
                  ic_mat *y);
int ic_op_layernorm(ic_device *d, const ic_mat *x, const float *weight, const float *bias,
                    float eps, ic_mat *y);
/* y = silu(gate) * up; gate_up is [rows, 2 * cols]: gate first. */
int ic_op_swiglu(ic_device *d, const ic_mat *gate_up, ic_mat *y);
/* y = gelu(x), tanh form or erf form; y may be x. */
int ic_op_gelu(ic_device *d, const ic_mat *x, bool tanh_form, ic_mat *y);
/* y += x. */
int ic_op_add(ic_device *d, const ic_mat *x, ic_mat *y);
/* y[rows[i], :] += x[i, :]; rows in host memory, distinct. (DeepStack levels; also visual rows with
 * set = true: =.) */
int ic_op_scatter(ic_device *d, const ic_mat *x, const int32_t *rows, bool set, ic_mat *y);

/* How angles come from positions: frequency i (of head_dim/2) turns by inv_freq[i] *
 * position[axis[i]]; rotation is of the pairs (i, i + head_dim/2) ("rotate half"). Host memory,
 * kept by reference. */
typedef struct ic_rope {
    int half;              /* head_dim / 2 */
    const float *inv_freq; /* [half] */
    const uint8_t *axis;   /* [half]: 0 t, 1 h, 2 w */
    float scale;           /* of cos and sin (attention factor); 1 normally */
} ic_rope;

/* Causal attention of a slice against its session's cache. The slice's rows are among the last
 * appended rows of the slab and K and V are stored already: row i of q is the row at place (count -
 * behind - q->rows + i) of each head's order, and sees all rows up to and including itself. q
 * [rows, heads * head_dim] after q-norm, not rotated: each head is rotated by the position that its
 * row has in the kv head it meets. One layer's K and V are gathered in position order and rotated
 * into scratch; blocks are aligned to the cache, so that the slicing does not show. y [rows, heads
 * * head_dim]. */
int ic_op_attention_prefill(ic_device *d, const ic_slab *s, int layer, int heads, const ic_mat *q,
                            int behind, const ic_rope *rope, float scale, ic_mat *y);
/* The same; besides, the slice's last `window` rows (none: 0) score the rows that they see, as
 * IC_SCORE_WINDOW says (Inf-MLLM's retrieval window). Nothing else of the result changes. The
 * softmax is the one that attention makes anyway, so this costs little. A slab that keeps
 * IC_SCORE_SUM gets the attention of all rows added, by this and by the decode operation; of a slab
 * that keeps no scores, window must be 0. */
int ic_op_attention_prefill_scored(ic_device *d, ic_slab *s, int layer, int heads, const ic_mat *q,
                                   int behind, const ic_rope *rope, float scale, int window,
                                   ic_mat *y);
/* Slices of several sessions, as _prefill_scored for each: the rows of q and y are the slices' one
 * after another. The same bits as one by one. */
typedef struct ic_attend_slice {
    ic_slab *slab; /* all of one model */
    int rows, behind, window;
} ic_attend_slice;
int ic_op_attention_slices(ic_device *d, const ic_attend_slice *slices, int n, int layer, int heads,
                           const ic_mat *q, const ic_rope *rope, float scale, ic_mat *y);
/* Scores alone, for a window that came in several slices: q are the queries (as above) of the last
 * q->rows rows. The same bits as when the window comes in one slice. */
int ic_op_attention_score(ic_device *d, ic_slab *s, int layer, int heads, const ic_mat *q,
                          const ic_rope *rope, float scale);
/* One row for each of n sessions: row i of q is the last row of slabs[i]. Keys are rotated as they
 * are read. */
int ic_op_attention_decode(ic_device *d, const ic_slab *const *slabs, int n, int layer, int heads,
                           const ic_mat *q, const ic_rope *rope, float scale, ic_mat *y);

/* For measuring: as ic_op_attention_decode, of caches whose keys lie there rotated already.
 * IC_EUNSUPPORTED: not by this device, or not for such heads. */
int ic_op_attention_decode_rotated(ic_device *d, const ic_slab *const *slabs, int n, int layer,
                                   int heads, const ic_mat *q, const ic_rope *rope, float scale,
                                   ic_mat *y);

/* --- vision
 * ---------------------------------------------------------------------------------------------- */

/* Patches of a temporal pair of frames of one size, in the order and layout of the Qwen-VL
 * processors: y[(grid_h/merge) * (grid_w/merge) * merge * merge, channels * temporal * patch *
 * patch], value (rgb / 255 - mean) / std; frames: `temporal` host pointers to [grid_h * patch,
 * grid_w * patch, 3] uint8. */
typedef struct ic_patch_layout {
    int grid_h, grid_w; /* in patches */
    int patch, temporal, merge;
    float mean[3], std[3];
} ic_patch_layout;
int ic_op_patchify(ic_device *d, const ic_patch_layout *layout, const uint8_t *const *frames,
                   ic_mat *y);

/* y[patches, dim] += the learned position table [side * side, dim] interpolated bilinearly to the
 * grid, in patch order with merge blocks (Qwen3-VL fast_pos_embed_interpolate). */
int ic_op_vision_positions(ic_device *d, const ic_mat *table, int side,
                           const ic_patch_layout *layout, ic_mat *y);

/* Rotates q and k (in place, [patches, heads * head_dim], any stride) by 2-D positions (h, w) of
 * each patch in merge-block order: first quarter of frequencies by h, second by w, rotate half
 * (Qwen-VL vision rotary, theta 10000). */
int ic_op_vision_rope(ic_device *d, const ic_patch_layout *layout, int heads, int head_dim,
                      float theta, ic_mat *q, ic_mat *k);
/* Full attention among the patches of each of n segments (one frame pair each): starts[n + 1] rows,
 * host memory. q, k, v, y [patches, heads * head_dim]. Blocked: no n x n matrix. */
int ic_op_attention_full(ic_device *d, const ic_mat *q, const ic_mat *k, const ic_mat *v,
                         const int32_t *starts, int n, int heads, float scale, ic_mat *y);

/* --- scratch
 * ----------------------------------------------------------------------------------------------
 */

/* The most that operations will be asked for; what is 0 or NULL is never asked for. */
typedef struct ic_ops_bounds {
    int rows;  /* of one product, whatever weights there are */
    int drawn; /* rows of logits that one ic_op_sample draws from */
    /* The vision tower: patches of one ic_op_attention_full, bytes of the frames of one
     * ic_op_patchify. */
    int patches, vision_heads, vision_dim;
    float vision_theta;
    size_t frame_bytes;
    size_t picture_bytes; /* of a picture that the device resizes, before and after */
    /* Attention over caches of this shape, many at once, and plans carried out in them. */
    const ic_slab_desc *slab;
    ic_score_kind score;
    int heads;      /* query heads */
    int slice_rows; /* of all slices of one call */
    const ic_rope *rope;
} ic_ops_bounds;
/* Takes all scratch that operations within the bounds need, beside what earlier calls have taken,
 * so that none of them lacks memory later. When a model is opened and when a cache is made. A
 * device without scratch of its own does nothing. IC_ENOMEM, IC_EDEVICE. */
IC_MUST_CHECK int ic_ops_reserve(ic_device *d, const ic_ops_bounds *b);
/* Device memory that ic_ops_reserve would take now, at most. */
size_t ic_ops_reserve_bytes(ic_device *d, const ic_ops_bounds *b);

/* --- results
 * -----------------------------------------------------------------------------------------------
 */

int ic_ops_wait(ic_device *d);

/* How one row of logits becomes a token: engine/ic_sampler.h says what the numbers mean. */
typedef struct ic_draw {
    float temperature;   /* 0: the best */
    int32_t top_k;       /* 0: off */
    float top_p;         /* 1: off */
    float penalty;       /* 1: off */
    const uint8_t *seen; /* bitmap of vocab bits, for the penalty; NULL: none. Host memory */
    double uniform;      /* in [0, 1): decides the draw */
} ic_draw;

/* Whether ic_op_sample is there; else the caller samples from downloaded logits. */
bool ic_device_samples(const ic_device *d);
/* One token per row of logits [n, vocab], f32, which are spoilt: penalty, then the best k in order,
 * then of those the smallest set that reaches top_p, then the draw; equal logits by rising id. The
 * same tokens as ic_sampler_pick gives (where u falls within 1e-9 of a boundary between two tokens,
 * either). Ends when the tokens are there: in host memory, draws too. */
int ic_op_sample(ic_device *d, const ic_mat *logits, const ic_draw *draws, int32_t *tokens);

/* Marks off a step of decode that comes again and again, so that a device may record it and play
 * it back. Between begin and end come the same operations in the same order, on the same memory,
 * with the same parameters, as whenever `shape` and the slabs were the same; ids, and what lies in
 * the slabs and in memory, differ. No wait and no transfer between them. To end belongs what came
 * out so far; it passes that on, or its own failure. (After a failure of begin, there is no end.)
 */
int ic_ops_begin(ic_device *d, const ic_slab *const *slabs, int n, uint64_t shape);
int ic_ops_end(ic_device *d, int rc);

/* Measured on the spot, for bench and for the fit at start: bytes/s of a plain read of device
 * memory by all threads, and flop/s of the device's own best GEMM [m, k] x [n, k]^T in that dtype.
 */
double ic_device_read_rate(ic_device *d, size_t bytes, double seconds);
/* Seconds that one plain read of device memory by all threads takes. */
double ic_device_read_time(ic_device *d, const void *memory, size_t bytes);
double ic_device_gemm_rate(ic_device *d, ic_dtype compute, int m, int n, int k, double seconds);

#endif
