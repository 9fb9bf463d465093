/* Patches, position table and rotation of a vision tower. What depends on a coordinate alone is
 * worked out on the host, by the CPU backend's rules, so that it is the same to the last bit. */
#include "kernels/cuda/ic_cuda.h"

#include <math.h>

enum { THREADS = 256, GRID_Y_MAX = 65535 };

static unsigned grid_rows(int64_t rows)
{
    return (unsigned)(rows < GRID_Y_MAX ? rows : (int64_t)GRID_Y_MAX);
}

/* How patches lie: merge blocks row by row, and the patches of a block row by row. */
typedef struct places {
    int merge, blocks_w;
} places;

static places places_of(const ic_patch_layout *l)
{
    return places{l->merge, l->grid_w / l->merge};
}

__device__ __forceinline__ void place_of(const places &p, int64_t i, int *row, int *col)
{
    int64_t block = i / (p.merge * p.merge), inner = i % (p.merge * p.merge);
    *row = (int)(block / p.blocks_w * p.merge + inner / p.merge);
    *col = (int)(block % p.blocks_w * p.merge + inner % p.merge);
}

/* --- patches --- */

typedef struct patching {
    places at;
    int patch, temporal, width; /* width: pixels of a row of the frame */
    int64_t frame_bytes;
    float mean[3], std[3]; /* times 255 */
} patching;

/* A block per patch: its threads go over the pixels of all frames, and write three channels each.
 */
template <class Y>
__global__ void patch_rows(patching p, const uint8_t *frames, Y *y, int64_t ldy, int64_t rows)
{
    int area = p.patch * p.patch;
    for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
        int row, col;
        place_of(p.at, i, &row, &col);
        for (int n = threadIdx.x; n < p.temporal * area; n += blockDim.x) {
            int t = n / area, dy = n % area / p.patch, dx = n % p.patch;
            int64_t at = ((int64_t)row * p.patch + dy) * p.width + (int64_t)col * p.patch + dx;
            const uint8_t *pixel = frames + t * p.frame_bytes + at * 3;
#pragma unroll
            for (int c = 0; c < 3; c++)
                y[i * ldy + (int64_t)c * p.temporal * area + n] =
                    ic_cuda_to<Y>(((float)pixel[c] - p.mean[c]) / p.std[c]);
        }
    }
}

/* The frames one after the other on the device; NULL: the device failed. */
static const uint8_t *bring_frames(ic_cuda_device *d, const uint8_t *const *frames, int count,
                                   size_t bytes)
{
    char *room = (char *)ic_cuda_scratch(d, IC_CUDA_ROOM_FRAMES, (size_t)count * bytes);
    for (int i = 0; room && i < count; i++)
        for (size_t at = 0; at < bytes; at += IC_CUDA_STAGE_MAX) {
            size_t piece = bytes - at < IC_CUDA_STAGE_MAX ? bytes - at : (size_t)IC_CUDA_STAGE_MAX;
            const void *staged = ic_cuda_stage(d, frames[i] + at, piece);
            if (!staged
                || ic_cuda_check(d,
                                 cudaMemcpyAsync(room + (size_t)i * bytes + at, staged, piece,
                                                 cudaMemcpyDeviceToDevice, d->stream),
                                 "bringing a frame"))
                return NULL;
        }
    return (const uint8_t *)room;
}

int ic_cuda_patchify(ic_device *base, const ic_patch_layout *l, const uint8_t *const *frames,
                     ic_mat *y)
{
    ic_cuda_device *d = ic_cuda_of(base);
    patching p = {};
    p.at = places_of(l);
    p.patch = l->patch;
    p.temporal = l->temporal;
    p.width = l->grid_w * l->patch;
    p.frame_bytes = (int64_t)p.width * l->grid_h * l->patch * 3;
    for (int c = 0; c < 3; c++) {
        p.mean[c] = l->mean[c] * 255.0f;
        p.std[c] = l->std[c] * 255.0f;
    }
    const uint8_t *pixels = bring_frames(d, frames, l->temporal, (size_t)p.frame_bytes);
    if (!pixels)
        return IC_EDEVICE;
    return ic_cuda_by_dtype(y->dtype, [&](auto t) {
        using Y = decltype(t);
        return ic_cuda_launch(d, patch_rows<Y>, (unsigned)y->rows, THREADS, 0, p, pixels,
                              (Y *)y->data, y->stride, y->rows);
    });
}

/* --- learned positions --- */

/* A coordinate on the table: between two cells, and how far. */
typedef struct spot {
    int32_t low, high;
    float part;
} spot;

/* torch.linspace(0, side - 1, count) in f32, which counts from both ends. */
static spot spot_of(int i, int count, int side)
{
    float step = count > 1 ? (float)(side - 1) / (float)(count - 1) : 0.0f;
    float offset = step * (float)(i < count / 2 ? i : count - 1 - i);
    float at = count == 1 ? 0.0f : i < count / 2 ? offset : (float)(side - 1) - offset;
    int low = (int)at;
    return spot{low, low + 1 < side ? low + 1 : side - 1, at - (float)low};
}

template <class T>
__global__ void position_rows(places p, const spot *by_row, const spot *by_col, int side,
                              const T *table, int64_t ldt, float *y, int64_t ldy, int64_t rows,
                              int64_t cols)
{
    int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (c >= cols)
        return;
    for (int64_t i = blockIdx.y; i < rows; i += gridDim.y) {
        int row, col;
        place_of(p, i, &row, &col);
        spot h = by_row[row], w = by_col[col];
        const T *low = table + (int64_t)h.low * side * ldt + c;
        const T *high = table + (int64_t)h.high * side * ldt + c;
        float sum = (1 - h.part) * (1 - w.part) * ic_cuda_f32(low[w.low * ldt])
                    + (1 - h.part) * w.part * ic_cuda_f32(low[w.high * ldt])
                    + h.part * (1 - w.part) * ic_cuda_f32(high[w.low * ldt])
                    + h.part * w.part * ic_cuda_f32(high[w.high * ldt]);
        y[i * ldy + c] += sum;
    }
}

int ic_cuda_vision_positions(ic_device *base, const ic_mat *table, int side,
                             const ic_patch_layout *l, ic_mat *y)
{
    ic_cuda_device *d = ic_cuda_of(base);
    int count = l->grid_h + l->grid_w;
    spot *spots = (spot *)ic_calloc((size_t)count, sizeof *spots);
    for (int i = 0; i < l->grid_h; i++)
        spots[i] = spot_of(i, l->grid_h, side);
    for (int i = 0; i < l->grid_w; i++)
        spots[l->grid_h + i] = spot_of(i, l->grid_w, side);
    const spot *staged = (const spot *)ic_cuda_stage(d, spots, (size_t)count * sizeof *spots);
    ic_free(spots);
    if (!staged)
        return IC_EDEVICE;
    dim3 grid(ic_cuda_blocks(y->cols, THREADS), grid_rows(y->rows));
    return ic_cuda_by_dtype(table->dtype, [&](auto t) {
        using T = decltype(t);
        return ic_cuda_launch(d, position_rows<T>, grid, THREADS, 0, places_of(l), staged,
                              staged + l->grid_h, side, (const T *)table->data, table->stride,
                              (float *)y->data, y->stride, y->rows, y->cols);
    });
}

/* --- rotation --- */

/* Cosines and sines by coordinate: [side, half], `quarter` of each, kept from call to call. */
struct ic_cuda_lines {
    float *device;
    int side, half;
    float theta;
};

enum { SIDE_STEP = 128 };

static void fill_lines(float *lines, int side, int half, float theta)
{
    int quarter = half / 2;
    for (int at = 0; at < side; at++)
        for (int f = 0; f < quarter; f++) {
            float inv_freq = 1.0f / powf(theta, (float)(2 * f) / (float)half);
            float angle = (float)at * inv_freq;
            lines[at * half + f] = cosf(angle);
            lines[at * half + quarter + f] = sinf(angle);
        }
}

int ic_cuda_vision_reach(ic_cuda_device *d, int side, int half, float theta)
{
    if (!d->lines)
        d->lines = (struct ic_cuda_lines *)ic_alloc(sizeof *d->lines);
    struct ic_cuda_lines *l = d->lines;
    if (l->device && l->half == half && l->theta == theta && side <= l->side)
        return 0;
    side = (side + SIDE_STEP - 1) / SIDE_STEP * SIDE_STEP;
    size_t bytes = (size_t)side * (size_t)half * sizeof(float);
    float *host = (float *)ic_alloc(bytes), *device = (float *)ic_cuda_alloc(&d->base, bytes);
    fill_lines(host, side, half, theta);
    int rc = device ? ic_cuda_upload(&d->base, device, host, bytes) : IC_ENOMEM;
    ic_free(host);
    if (rc) {
        ic_cuda_free(&d->base, device);
        return rc;
    }
    ic_cuda_free(&d->base, l->device); /* the upload has waited for who used it */
    *l = ic_cuda_lines{device, side, half, theta};
    return 0;
}

/* A thread turns one pair of q and the same of k. */
template <class T>
__global__ void rope_rows(places p, const float *lines, int heads, int half, T *q, int64_t ldq,
                          T *k, int64_t ldk, int64_t rows)
{
    int64_t n = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (n >= (int64_t)heads * half)
        return;
    int quarter = half / 2, f = (int)(n % half);
    int64_t at = n / half * 2 * half + f;
    for (int64_t i = blockIdx.y; i < rows; i += gridDim.y) {
        int row, col;
        place_of(p, i, &row, &col);
        const float *line = lines + (int64_t)(f < quarter ? row : col) * half;
        float cosine = line[f % quarter], sine = line[quarter + f % quarter];
        T *const both[2] = {q + i * ldq + at, k + i * ldk + at};
#pragma unroll
        for (int b = 0; b < 2; b++) {
            float low = ic_cuda_f32(both[b][0]), high = ic_cuda_f32(both[b][half]);
            both[b][0] = ic_cuda_to<T>(low * cosine - high * sine);
            both[b][half] = ic_cuda_to<T>(high * cosine + low * sine);
        }
    }
}

int ic_cuda_vision_rope(ic_device *base, const ic_patch_layout *l, int heads, int head_dim,
                        float theta, ic_mat *q, ic_mat *k)
{
    ic_cuda_device *d = ic_cuda_of(base);
    int half = head_dim / 2;
    int rc = ic_cuda_vision_reach(d, l->grid_h > l->grid_w ? l->grid_h : l->grid_w, half, theta);
    if (rc)
        return rc;
    dim3 grid(ic_cuda_blocks((int64_t)heads * half, THREADS), grid_rows(q->rows));
    return ic_cuda_by_dtype(q->dtype, [&](auto t) {
        using T = decltype(t);
        return ic_cuda_launch(d, rope_rows<T>, grid, THREADS, 0, places_of(l),
                              (const float *)d->lines->device, heads, half, (T *)q->data, q->stride,
                              (T *)k->data, k->stride, q->rows);
    });
}

void ic_cuda_vision_close(ic_cuda_device *d)
{
    if (d->lines)
        ic_cuda_free(&d->base, d->lines->device);
    ic_free(d->lines);
}
