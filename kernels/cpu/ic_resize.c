/* ic_resize on a CPU. Two passes of one idea: a table of integer weights per output position, and
 * sums of products in 32 bits. 255 * 32767 * taps stays below 2^31 since the weights of one
 * position sum to about 1 << precision <= 1 << 22, negative lobes included. */
#include "kernels/ic_resize.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/ic_mem.h"

enum {
    MAX_SIDE = 16384,
    CHANNELS = 3,
    LANES = 8,         /* weights are padded with zeros to this, so that dot products vectorise */
    MAX_PRECISION = 22 /* 8 bits of a pixel and 2 of head-room are left of 32 */
};

/* The weights of one direction. */
typedef struct axis {
    int stride;       /* int16 weights per output position, a multiple of LANES */
    int precision;    /* bits behind the binary point */
    int *first;       /* [out] first input position */
    int *count;       /* [out] input positions used */
    int16_t *weights; /* [out, stride] */
} axis;

static double cubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0)
        return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
    return 0.0;
}

static void axis_fini(axis *t)
{
    ic_free(t->first);
    ic_free(t->count);
    ic_free(t->weights);
    memset(t, 0, sizeof *t);
}

/* Normalised weights of output position i in w; where they begin and how many in the table. */
static void axis_weights(axis *t, int i, int in, double scale, double *w)
{
    double stretch = scale >= 1.0 ? scale : 1.0;
    double support = 2.0 * stretch, centre = scale * (i + 0.5), total = 0.0;
    int first = (int)(centre - support + 0.5), last = (int)(centre + support + 0.5);
    first = first > 0 ? first : 0;
    last = last < in ? last : in;
    int count = last - first;
    count = count > t->stride ? t->stride : count;
    for (int j = 0; j < count; j++) {
        w[j] = cubic((j + first - centre + 0.5) * (1.0 / stretch));
        total += w[j];
    }
    for (int j = 0; j < count && total != 0.0; j++)
        w[j] /= total;
    t->first[i] = first;
    t->count[i] = count;
}

/* The most bits behind the point with which the largest weight still fits 16 bits. */
static int axis_precision(double largest)
{
    int precision = 0;
    while (precision < MAX_PRECISION
           && (int)(0.5 + largest * (double)(1 << (precision + 1))) < (1 << 15))
        precision++;
    return precision;
}

static int axis_init(axis *t, int in, int out)
{
    double scale = (double)in / out;
    double support = 2.0 * (scale >= 1.0 ? scale : 1.0), largest = 0.0;
    int most = (int)ceil(support) * 2 + 1;
    t->stride = (most + LANES - 1) / LANES * LANES;
    t->first = ic_try_alloc((size_t)out * sizeof *t->first);
    t->count = ic_try_alloc((size_t)out * sizeof *t->count);
    t->weights = ic_try_calloc((size_t)out * (size_t)t->stride, sizeof *t->weights);
    double *exact = ic_try_calloc((size_t)out * (size_t)t->stride, sizeof *exact);
    if (!t->first || !t->count || !t->weights || !exact) {
        ic_free(exact);
        return IC_ENOMEM;
    }
    for (int i = 0; i < out; i++) {
        double *w = exact + (size_t)i * (size_t)t->stride;
        axis_weights(t, i, in, scale, w);
        for (int j = 0; j < t->count[i]; j++)
            largest = w[j] > largest ? w[j] : largest;
    }
    t->precision = axis_precision(largest);
    for (size_t k = 0; k < (size_t)out * (size_t)t->stride; k++) {
        double v = exact[k] * (double)(1 << t->precision);
        t->weights[k] = (int16_t)(v < 0 ? v - 0.5 : v + 0.5);
    }
    ic_free(exact);
    return IC_OK;
}

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
static void row_along_x(const axis *t, const uint8_t *src, int sw, int16_t *planes, size_t pitch,
                        uint8_t *dst, int dw)
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
    axis t = {0};
    int rc = axis_init(&t, sw, dw);
    size_t pitch = (size_t)sw + (size_t)(rc == IC_OK ? t.stride : 0);
    int16_t *planes = rc == IC_OK ? ic_try_calloc(CHANNELS * pitch, sizeof *planes) : NULL;
    if (!planes)
        rc = IC_ENOMEM;
    for (int y = 0; rc == IC_OK && y < rows; y++)
        row_along_x(&t, src + (size_t)y * (size_t)sw * CHANNELS, sw, planes, pitch,
                    dst + (size_t)y * (size_t)dw * CHANNELS, dw);
    ic_free(planes);
    axis_fini(&t);
    return rc;
}

static int pass_along_y(const uint8_t *src, int sh, int columns, uint8_t *dst, int dh)
{
    axis t = {0};
    size_t pitch = (size_t)columns * CHANNELS;
    int rc = axis_init(&t, sh, dh);
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
    axis_fini(&t);
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
