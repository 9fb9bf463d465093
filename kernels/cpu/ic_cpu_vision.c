/* Patches, position table and rotation of a vision tower. */
#include <math.h>
#include <string.h>

#include "base/ic_mem.h"
#include "kernels/cpu/ic_cpu.h"

/* Row and column in the grid of the patch at place i: merge blocks row by row, and the patches of a
 * block row by row. */
static void place_of(const ic_patch_layout *l, int64_t i, int *row, int *col)
{
    int64_t block = i / (l->merge * l->merge), inner = i % (l->merge * l->merge);
    int64_t blocks_w = l->grid_w / l->merge;
    *row = (int)(block / blocks_w * l->merge + inner / l->merge);
    *col = (int)(block % blocks_w * l->merge + inner % l->merge);
}

typedef struct vision_job {
    const ic_cpu_vec *vec;
    const ic_patch_layout *layout;
    const uint8_t *const *frames;
    const ic_mat *table;
    ic_mat *y, *k;
    int side, heads, head_dim;
    const float *values; /* normalised byte values, or cosines and sines by coordinate */
} vision_job;

static void patchify_rows(void *arg, int64_t first, int64_t end)
{
    const vision_job *j = arg;
    const ic_patch_layout *l = j->layout;
    int64_t width = (int64_t)l->grid_w * l->patch;
    for (int64_t i = first; i < end; i++) {
        float *y = ic_cpu_row(j->y, i);
        int row, col;
        place_of(l, i, &row, &col);
        for (int channel = 0; channel < 3; channel++)
            for (int t = 0; t < l->temporal; t++)
                for (int dy = 0; dy < l->patch; dy++) {
                    int64_t at = ((int64_t)row * l->patch + dy) * width + (int64_t)col * l->patch;
                    const uint8_t *pixel = j->frames[t] + at * 3 + channel;
                    for (int dx = 0; dx < l->patch; dx++)
                        *y++ = j->values[channel * 256 + pixel[dx * 3]];
                }
    }
}

int ic_cpu_patchify(ic_device *base, const ic_patch_layout *layout, const uint8_t *const *frames,
                    ic_mat *y)
{
    ic_cpu_device *d = ic_cpu_of(base);
    float values[3 * 256];
    /* (v / 255 - mean) / std as the processors fold it: (v - mean * 255) / (std * 255). */
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            values[c * 256 + v] = ((float)v - layout->mean[c] * 255.0f) / (layout->std[c] * 255.0f);
    vision_job job = {.layout = layout, .frames = frames, .y = y, .values = values};
    ic_cpu_for_rows(d, patchify_rows, &job, y->rows, 16);
    return 0;
}

/* Where coordinate i of `count` falls on a table of `side` cells: torch.linspace(0, side - 1,
 * count) in f32, which counts from both ends. */
static float spread(int i, int count, int side)
{
    if (count == 1)
        return 0;
    float step = (float)(side - 1) / (float)(count - 1);
    if (i < count / 2)
        return step * (float)i;
    return (float)(side - 1) - step * (float)(count - 1 - i);
}

static void position_rows(void *arg, int64_t first, int64_t end)
{
    const vision_job *j = arg;
    const ic_patch_layout *l = j->layout;
    for (int64_t i = first; i < end; i++) {
        int row, col;
        place_of(l, i, &row, &col);
        float h = spread(row, l->grid_h, j->side), w = spread(col, l->grid_w, j->side);
        int h0 = (int)h, w0 = (int)w;
        int h1 = h0 + 1 < j->side ? h0 + 1 : j->side - 1;
        int w1 = w0 + 1 < j->side ? w0 + 1 : j->side - 1;
        float dh = h - (float)h0, dw = w - (float)w0;
        const int64_t cells[4] = {(int64_t)h0 * j->side + w0, (int64_t)h0 * j->side + w1,
                                  (int64_t)h1 * j->side + w0, (int64_t)h1 * j->side + w1};
        const float parts[4] = {(1 - dh) * (1 - dw), (1 - dh) * dw, dh * (1 - dw), dh * dw};
        float *y = ic_cpu_row(j->y, i);
        for (int64_t c = 0; c < j->y->cols; c++) {
            float sum = 0;
            for (int n = 0; n < 4; n++)
                sum += parts[n] * ic_cpu_at(j->table, cells[n], c);
            y[c] += sum;
        }
    }
}

int ic_cpu_vision_positions(ic_device *base, const ic_mat *table, int side,
                            const ic_patch_layout *layout, ic_mat *y)
{
    vision_job job = {.layout = layout, .table = table, .side = side, .y = y};
    ic_cpu_for_rows(ic_cpu_of(base), position_rows, &job, y->rows, 16);
    return 0;
}

static void rope_rows(void *arg, int64_t first, int64_t end)
{
    const vision_job *j = arg;
    int half = j->head_dim / 2, quarter = half / 2;
    float *turned = ic_alloc((size_t)half * 2 * sizeof *turned);
    for (int64_t i = first; i < end; i++) {
        int at[2];
        place_of(j->layout, i, &at[0], &at[1]);
        for (int f = 0; f < half; f++) {
            const float *line = j->values + (int64_t)at[f >= quarter] * half;
            turned[f] = line[f % quarter];
            turned[half + f] = line[quarter + f % quarter];
        }
        for (int h = 0; h < j->heads; h++) {
            float *q = ic_cpu_row(j->y, i) + (int64_t)h * j->head_dim;
            float *k = ic_cpu_row(j->k, i) + (int64_t)h * j->head_dim;
            j->vec->rotate(q, turned, turned + half, half, q);
            j->vec->rotate(k, turned, turned + half, half, k);
        }
    }
    ic_free(turned);
}

int ic_cpu_vision_rope(ic_device *base, const ic_patch_layout *layout, int heads, int head_dim,
                       float theta, ic_mat *q, ic_mat *k)
{
    ic_cpu_device *d = ic_cpu_of(base);
    int half = head_dim / 2, quarter = half / 2;
    int side = layout->grid_h > layout->grid_w ? layout->grid_h : layout->grid_w;
    /* By coordinate: `quarter` cosines, then as many sines. */
    float *lines = ic_cpu_shared_scratch(d, (size_t)side * (size_t)half * sizeof *lines);
    if (!lines)
        return IC_ENOMEM;
    for (int at = 0; at < side; at++)
        for (int f = 0; f < quarter; f++) {
            float inv_freq = 1.0f / powf(theta, (float)(2 * f) / (float)half);
            float angle = (float)at * inv_freq;
            lines[at * half + f] = cosf(angle);
            lines[at * half + quarter + f] = sinf(angle);
        }
    vision_job job = {.vec = d->vec,
                      .layout = layout,
                      .heads = heads,
                      .head_dim = head_dim,
                      .values = lines,
                      .y = q,
                      .k = k};
    ic_cpu_for_rows(d, rope_rows, &job, q->rows, 16);
    return 0;
}
