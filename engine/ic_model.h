/* ic_model: the text tower: one decoder that reads what a model is from ic_model_config and from
 * the tensors that are there (norms of q and k, biases, tied head), and runs it over a batch of
 * rows of several sessions. Inside the engine only; owner thread.
 */
#ifndef IC_MODEL_H
#define IC_MODEL_H

#include "engine/ic_model_config.h"
#include "engine/ic_param.h"
#include "kernels/ic_ops.h"

enum { IC_EMBED_LEVELS = 1 + IC_DEEPSTACK_MAX };

typedef struct ic_model ic_model;

/* Rows of one session in a batch. Prefill slices come first, one after the other from row 0; then
 * the decode rows, one each. K and V of the rows have their slots already (ic_slab_append). */
typedef struct ic_model_slice {
    ic_slab *slab;
    int rows;
    /* The chunk's retrieval window, for policies that score: */
    const ic_mat *window; /* [layers] of [L, heads * head_dim]: queries of earlier slices */
    int window_held;      /* rows that are there */
    int window_rows;      /* last rows of this slice that belong to the window */
    bool score;           /* with them it is complete, and scores the cache */
    /* Where questions look again at every eviction, they score, and not the window: */
    const ic_mat *asked; /* [layers]; as window; NULL: the window scores */
    int asked_rows;      /* rows of it that score */
    int asked_next;      /* the complete window is a question's: its rows go there first, round and
                            round; -1: it is none */
} ic_model_slice;

/* Rows whose input does not come from the embedding table alone: batch row `row` + i takes row
 * `first` + i of level 0 as its embedding, and has level 1 + n added after layer n (DeepStack). */
typedef struct ic_model_visual {
    int row, rows;
    const ic_mat *level; /* [1 + levels] matrices [tokens, hidden]; borrowed */
    int levels;          /* DeepStack levels */
    int first;
} ic_model_visual;

typedef struct ic_model_batch { /* all borrowed; host memory */
    const int32_t *ids;         /* [rows] */
    const ic_model_slice *prefill;
    int prefill_count;
    ic_slab *const *decode; /* one row each */
    int decode_count;
    const ic_model_visual *visual;
    int visual_count;
    const int32_t *wanted; /* rows whose logits are wanted */
    int wanted_count;
    float *logits; /* [wanted_count, vocab] */
    bool stay;     /* they stay on the device, for ic_model_draw */
} ic_model_batch;

/* Room for batches of rows_max rows, wanted_max of them with logits: all memory is taken here.
 * Borrows config, and the params' device and weights for its life. Caller owns *out. */
IC_MUST_CHECK int ic_model_new(ic_model **out, const ic_model_config *config, ic_params *p,
                               int rows_max, int wanted_max, ic_error *e);
void ic_model_destroy(ic_model **m_p);
const ic_rope *ic_model_rope(const ic_model *m); /* Borrows */
/* IC_EDEVICE, or another failure of an operation. */
IC_MUST_CHECK int ic_model_forward(ic_model *m, const ic_model_batch *batch);
/* One token for each wanted row of the batch that has just gone forward with `stay`, on a device
 * that samples. */
IC_MUST_CHECK int ic_model_draw(ic_model *m, const ic_draw *draws, int n, int32_t *tokens);
/* Logits of other wanted rows of the batch that has just gone forward. */
IC_MUST_CHECK int ic_model_read_out(ic_model *m, const ic_model_batch *batch);

#endif
