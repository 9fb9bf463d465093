/* Scratch, taken before it is needed: how much operations within bounds want of each room. Each
 * file knows its own (the _room functions). */
#include "kernels/cuda/ic_cuda.h"

#include "kernels/cuda/ic_cuda_decode.h"
#include "kernels/cuda/ic_cuda_slab.h"

enum { SMALL = 4096 }; /* bytes of a rope's tables, which may be there already */

typedef struct rooms {
    size_t bytes[IC_CUDA_ROOM_COUNT];
} rooms;

static void want(rooms *r, enum ic_cuda_room room, size_t bytes)
{
    r->bytes[room] = bytes > r->bytes[room] ? bytes : r->bytes[room];
}

static rooms rooms_of(const ic_cuda_device *d, const ic_ops_bounds *b)
{
    rooms r = {};
    want(&r, IC_CUDA_ROOM_OPERANDS, (size_t)b->rows * d->deepest);
    want(&r, IC_CUDA_ROOM_SAMPLING, (size_t)b->drawn * sizeof(int32_t));
    want(&r, IC_CUDA_ROOM_FRAMES, b->frame_bytes);
    if (b->patches > 0)
        want(&r, IC_CUDA_ROOM_KEYS,
             ic_cuda_full_room(d, b->patches, b->vision_heads, b->vision_dim));
    if (!b->slab)
        return r;
    want(&r, IC_CUDA_ROOM_KEYS, ic_cuda_attend_room(d, b->slab, b->heads, b->slice_rows));
    want(&r, IC_CUDA_ROOM_PARTS, ic_cuda_decode_room(b->slab, b->heads, b->score == IC_SCORE_SUM));
    want(&r, IC_CUDA_ROOM_SCORES, ic_cuda_select_room(d, b->slab));
    return r;
}

size_t ic_cuda_ops_reserve_bytes(ic_device *base, const ic_ops_bounds *b)
{
    ic_cuda_device *d = ic_cuda_of(base);
    rooms r = rooms_of(d, b);
    size_t sum = (b->rope ? SMALL : 0) + ic_cuda_resizer_cost(d, b->picture_bytes);
    for (int i = 0; i < IC_CUDA_ROOM_COUNT; i++)
        sum += ic_cuda_reserve_cost(d, (enum ic_cuda_room)i, r.bytes[i]);
    return sum;
}

int ic_cuda_ops_reserve(ic_device *base, const ic_ops_bounds *b)
{
    ic_cuda_device *d = ic_cuda_of(base);
    rooms r = rooms_of(d, b);
    ic_cuda_rope rope;
    int rc = 0;
    for (int i = 0; rc == 0 && i < IC_CUDA_ROOM_COUNT; i++)
        rc = ic_cuda_reserve(d, (enum ic_cuda_room)i, r.bytes[i]);
    if (rc == 0 && b->rope)
        rc = ic_cuda_rope_of(d, b->rope, &rope);
    if (rc == 0 && b->patches > 0)
        rc = ic_cuda_vision_reach(d, b->patches, b->vision_dim / 2, b->vision_theta);
    return rc ? rc : ic_cuda_resizer_reserve(d, b->picture_bytes);
}
