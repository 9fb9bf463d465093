#include "kernels/ic_resize_axis.h"

#include <math.h>
#include <string.h>

#include "base/ic_mem.h"

enum { MAX_PRECISION = 22 }; /* 8 bits of a pixel and 2 of head-room are left of 32 */

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

void ic_resize_axis_fini(ic_resize_axis *t)
{
    ic_free(t->first);
    ic_free(t->count);
    ic_free(t->weights);
    memset(t, 0, sizeof *t);
}

/* Normalised weights of output position i in w; where they begin and how many in the table. */
static void axis_weights(ic_resize_axis *t, int i, int in, double scale, double *w)
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

int ic_resize_axis_init(ic_resize_axis *t, int in, int out)
{
    double scale = (double)in / out;
    double support = 2.0 * (scale >= 1.0 ? scale : 1.0), largest = 0.0;
    int most = (int)ceil(support) * 2 + 1;
    *t = (ic_resize_axis){.out = out};
    t->stride = (most + IC_RESIZE_LANES - 1) / IC_RESIZE_LANES * IC_RESIZE_LANES;
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
