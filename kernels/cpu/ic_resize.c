/* ic_resize on a CPU. Two passes of one idea: a table of integer weights per output position, and
 * sums of products in 32 bits. 255 * 32767 * taps stays below 2^31 since the weights of one
 * position sum to about 1 << precision <= 1 << 22, negative lobes included. */
#include "kernels/ic_resize.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/ic_mem.h"
#include "kernels/ic_resize_axis.h"

enum { MAX_SIDE = 16384, CHANNELS = IC_RESIZE_CHANNELS, LANES = IC_RESIZE_LANES };

static uint8_t rounded(int32_t sum, int precision)
{
    int32_t v = (sum + (1 << (precision - 1))) >> precision;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static int32_t dot(const int16_t *restrict a, const int16_t *restrict b, int count)
{
    int32_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += (int32_t)a[i] * b[i];
    return sum;
}

/* One row along x. planes holds the row as 3 planes of `pitch` int16, zeros behind the picture,
 * where the zero weights of the padding fall. */
static void row_along_x(const ic_resize_axis *t, const uint8_t *src, int sw, int16_t *planes,
                        size_t pitch, uint8_t *dst, int dw)
{
    for (int x = 0; x < sw; x++)
        for (int c = 0; c < CHANNELS; c++)
            planes[(size_t)c * pitch + (size_t)x] = src[x * CHANNELS + c];
    for (int x = 0; x < dw; x++) {
        const int16_t *w = t->weights + (size_t)x * (size_t)t->stride;
        const int16_t *p = planes + t->first[x];
        int taps = (t->count[x] + LANES - 1) / LANES * LANES;
        for (int c = 0; c < CHANNELS; c++)
            dst[x * CHANNELS + c] = rounded(dot(w, p + (size_t)c * pitch, taps), t->precision);
    }
}

static int pass_along_x(const uint8_t *src, int sw, int rows, uint8_t *dst, int dw)
{
    ic_resize_axis t = {0};
    int rc = ic_resize_axis_init(&t, sw, dw);
    size_t pitch = (size_t)sw + (size_t)(rc == IC_OK ? t.stride : 0);
    int16_t *planes = rc == IC_OK ? ic_try_calloc(CHANNELS * pitch, sizeof *planes) : NULL;
    if (!planes)
        rc = IC_ENOMEM;
    for (int y = 0; rc == IC_OK && y < rows; y++)
        row_along_x(&t, src + (size_t)y * (size_t)sw * CHANNELS, sw, planes, pitch,
                    dst + (size_t)y * (size_t)dw * CHANNELS, dw);
    ic_free(planes);
    ic_resize_axis_fini(&t);
    return rc;
}

static int pass_along_y(const uint8_t *src, int sh, int columns, uint8_t *dst, int dh)
{
    ic_resize_axis t = {0};
    size_t pitch = (size_t)columns * CHANNELS;
    int rc = ic_resize_axis_init(&t, sh, dh);
    int32_t *restrict sums = rc == IC_OK ? ic_try_alloc(pitch * sizeof *sums) : NULL;
    if (!sums)
        rc = IC_ENOMEM;
    for (int y = 0; rc == IC_OK && y < dh; y++) {
        memset(sums, 0, pitch * sizeof *sums);
        for (int j = 0; j < t.count[y]; j++) {
            int32_t w = t.weights[(size_t)y * (size_t)t.stride + (size_t)j];
            const uint8_t *restrict row = src + (size_t)(t.first[y] + j) * pitch;
            for (size_t i = 0; i < pitch; i++)
                sums[i] += w * row[i];
        }
        for (size_t i = 0; i < pitch; i++)
            dst[(size_t)y * pitch + i] = rounded(sums[i], t.precision);
    }
    ic_free(sums);
    ic_resize_axis_fini(&t);
    return rc;
}

static bool side_ok(int side)
{
    return side >= 1 && side <= MAX_SIDE;
}

int ic_resize_rgb(const uint8_t *src, int sw, int sh, uint8_t *dst, int dw, int dh, ic_error *e)
{
    if (!side_ok(sw) || !side_ok(sh) || !side_ok(dw) || !side_ok(dh))
        return ic_error_set(e, IC_EINVAL, "cannot resize %dx%d to %dx%d: sides are 1 to %d", sw, sh,
                            dw, dh, MAX_SIDE);
    int rc = IC_OK;
    uint8_t *between = NULL;
    if (sw == dw && sh == dh) {
        memcpy(dst, src, (size_t)sw * (size_t)sh * CHANNELS);
    } else if (sw == dw) {
        rc = pass_along_y(src, sh, dw, dst, dh);
    } else if (sh == dh) {
        rc = pass_along_x(src, sw, sh, dst, dw);
    } else {
        between = ic_try_alloc((size_t)dw * (size_t)sh * CHANNELS);
        rc = between ? pass_along_x(src, sw, sh, between, dw) : IC_ENOMEM;
        if (rc == IC_OK)
            rc = pass_along_y(between, sh, dw, dst, dh);
    }
    ic_free(between);
    if (rc != IC_OK)
        ic_error_set(e, rc, "no memory to resize %dx%d to %dx%d", sw, sh, dw, dh);
    return rc;
}
