/* ic_bench_towers: a text tower and a vision tower of a known shape, with weights that the device
 * makes up, run as the engine runs them; for measuring a device without a model's files. */
#ifndef IC_BENCH_TOWERS_H
#define IC_BENCH_TOWERS_H

#include "kernels/ic_ops.h"

typedef struct ic_bench_shape {
    const char *name;
    int layers, hidden, heads, kv_heads, head_dim, inter, vocab;
    int depth, vision_hidden, vision_heads, vision_inter; /* of the vision tower */
    int grid;   /* patches on a side of a frame: 28 of 448 pixels */
    int shrink; /* everything is so many times less: to try the figures out */
} ic_bench_shape;

enum { IC_BENCH_DEEPSTACK = 3 };

typedef struct ic_bench_layer {
    ic_weight *qkv, *o, *gate_up, *down;
} ic_bench_layer;

typedef struct ic_bench_text {
    ic_device *d;
    ic_bench_shape s;
    ic_bench_layer *layers;
    ic_weight *head;
    int64_t weight_bytes; /* read by one step of decode */
    double product_flops; /* of one row through the layers */
    float *ones, *inv_freq;
    uint8_t *axis;
    ic_mat table, x, normed, qkv, attended, gate_up, gated, logits; /* [rows_max, ...] */
    int rows_max, wanted_max;
    uint32_t ordinal;
    bool rotated; /* decode takes the keys as rotated already: for comparison */
} ic_bench_text;

/* Room for passes of rows_max rows, of decode for wanted_max sessions. IC_ENOMEM. */
IC_MUST_CHECK int ic_bench_text_new(ic_bench_text *t, ic_device *d, const ic_bench_shape *s,
                                    int rows_max, int wanted_max, ic_error *e);
void ic_bench_text_fini(ic_bench_text *t);
/* A cache for it. */
IC_MUST_CHECK int ic_bench_text_slab(const ic_bench_text *t, int slots, ic_score_kind score,
                                     ic_slab **out, ic_error *e);
/* One slice of new rows through all layers; the last `window` of them score. Rows are patches of
 * group `group`, or text (0). Ends when the device has begun it. */
IC_MUST_CHECK int ic_bench_text_prefill(ic_bench_text *t, ic_slab *slab, int rows, uint32_t group,
                                        int window, ic_error *e);
/* One row for each slab, as a step that may be recorded, and a greedy token for each. */
IC_MUST_CHECK int ic_bench_text_decode(ic_bench_text *t, ic_slab *const *slabs, int n,
                                       int32_t *tokens, ic_error *e);

typedef struct ic_bench_vision {
    ic_device *d;
    ic_bench_shape s;
    ic_weight *patch, *fc1[1 + IC_BENCH_DEEPSTACK], *fc2[1 + IC_BENCH_DEEPSTACK];
    ic_bench_layer *blocks;
    double product_flops; /* of one pair of frames */
    float *ones, *zeros, *positions;
    ic_mat x, normed, wide, attended, middle, tokens;
    uint8_t *pixels;
    int pairs_max;
} ic_bench_vision;

IC_MUST_CHECK int ic_bench_vision_new(ic_bench_vision *v, ic_device *d, const ic_bench_shape *s,
                                      int pairs_max, ic_error *e);
void ic_bench_vision_fini(ic_bench_vision *v);
/* `pairs` pairs of frames from pixels in host memory to rows of v->tokens. */
IC_MUST_CHECK int ic_bench_vision_encode(ic_bench_vision *v, int pairs, ic_error *e);

#endif
