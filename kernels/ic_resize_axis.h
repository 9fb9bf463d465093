/* ic_resize_axis: the weights of one direction of a resize (ic_resize.h), the same for every
 * backend: a table of integers per output position. */
#ifndef IC_RESIZE_AXIS_H
#define IC_RESIZE_AXIS_H

#include <stdint.h>

#include "base/ic_err.h"

enum {
    IC_RESIZE_CHANNELS = 3,
    IC_RESIZE_LANES = 8 /* weights are padded with zeros to this, so that dot products vectorise */
};

typedef struct ic_resize_axis {
    int out;          /* output positions */
    int stride;       /* int16 weights per output position, a multiple of IC_RESIZE_LANES */
    int precision;    /* bits behind the binary point */
    int *first;       /* [out] first input position */
    int *count;       /* [out] input positions used */
    int16_t *weights; /* [out, stride] */
} ic_resize_axis;

/* From `in` positions to `out`. IC_ENOMEM; to be finished whatever comes. */
IC_MUST_CHECK int ic_resize_axis_init(ic_resize_axis *t, int in, int out);
void ic_resize_axis_fini(ic_resize_axis *t);

#endif
