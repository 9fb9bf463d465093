/* ic_vision: the vision tower: a temporal pair of frames becomes rows for the text tower, an
 * embedding and its DeepStack levels each. Patch embedding as a product, learned positions
 * interpolated to the grid, 2-D rotary, blocks, merger. Inside the engine only; owner thread.
 */
#ifndef IC_VISION_H
#define IC_VISION_H

#include "engine/ic_model_config.h"
#include "engine/ic_param.h"
#include "kernels/ic_ops.h"

typedef struct ic_vision ic_vision;

typedef struct ic_vision_job { /* one group of one session */
    const uint8_t *frames[2];  /* borrowed host memory [grid_h * patch, grid_w * patch, 3] */
    int grid_h, grid_w;        /* in patches */
    bool video;                /* which processor's mean and deviation */
    ic_mat *level;             /* out: [1 + deepstack_count] matrices [tokens, out_hidden] */
} ic_vision_job;

/* Room for passes of patches_max patches: all memory is taken here. Borrows config, and the params'
 * device and weights for its life. Caller owns *out. */
IC_MUST_CHECK int ic_vision_new(ic_vision **out, const ic_model_config *config, ic_params *p,
                                int patches_max, ic_error *e);
void ic_vision_destroy(ic_vision **v_p);
/* Encodes the groups, several in a pass as far as there is room; a group's bits do not depend on
 * its company. No group has more than patches_max patches. */
IC_MUST_CHECK int ic_vision_encode(ic_vision *v, const ic_vision_job *jobs, int count);

#endif
