/* ic_frame: one decoded video frame or image, RGB, reference-counted, immutable once handed on. */
#ifndef IC_FRAME_H
#define IC_FRAME_H

#include <stddef.h>
#include <stdint.h>

typedef struct ic_frame {
    int width, height; /* pixels, after rotation */
    int64_t pts_us;    /* on the source's own clock, 0 = its start */
    uint64_t ordinal;  /* number of the sampled frame in its source, from 0 */
    size_t bytes;      /* 3 * width * height */
    uint8_t *rgb;      /* [height, width, 3], 8 bits, rows without padding */
} ic_frame;

/* Caller owns one reference. NULL when out of memory or when the size is absurd (sides up to
 * 16384). */
ic_frame *ic_frame_new(int width, int height);
ic_frame *ic_frame_ref(ic_frame *f); /* one more reference to the same frame */
void ic_frame_unref(ic_frame **f_p); /* Takes: gives one reference up; nulls */

#endif
