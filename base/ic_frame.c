#include "base/ic_frame.h"

#include <stdatomic.h>

#include "base/ic_mem.h"

enum { MAX_SIDE = 16384 };

/* The count lives behind the public struct, so that readers of a frame see only the frame. */
typedef struct counted_frame {
    ic_frame frame;
    atomic_int references;
} counted_frame;

ic_frame *ic_frame_new(int width, int height)
{
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE)
        return NULL;
    size_t bytes = (size_t)3 * (size_t)width * (size_t)height;
    counted_frame *c = ic_try_calloc(1, sizeof *c);
    uint8_t *rgb = c ? ic_try_alloc(bytes) : NULL;
    if (!rgb) {
        ic_free(c);
        return NULL;
    }
    c->frame = (ic_frame){.width = width, .height = height, .bytes = bytes, .rgb = rgb};
    atomic_init(&c->references, 1);
    return &c->frame;
}

ic_frame *ic_frame_ref(ic_frame *f)
{
    atomic_fetch_add(&((counted_frame *)f)->references, 1);
    return f;
}

void ic_frame_unref(ic_frame **f_p)
{
    counted_frame *c = (counted_frame *)*f_p;
    *f_p = NULL;
    if (!c || atomic_fetch_sub(&c->references, 1) != 1)
        return;
    ic_free(c->frame.rgb);
    ic_free(c);
}
