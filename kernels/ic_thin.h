/* ic_thin: what is lost when frames are thinned out (ic_plan.thin), as arithmetic that comes to the
 * same bits wherever a plan is carried out. The C library's powf does not: its last bit is the
 * library's and the processor's affair, and a GPU's is another. Here there are only IEEE's four
 * operations, each rounded by itself. */
#ifndef IC_THIN_H
#define IC_THIN_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define IC_THIN_ANYWHERE __host__ __device__
#else
#define IC_THIN_ANYWHERE
#endif

/* a * b, and a * b + c rounded twice: a GPU's compiler would make one operation of them. */
static inline IC_THIN_ANYWHERE double ic_thin_times(double a, double b)
{
#ifdef __CUDA_ARCH__
    return __dmul_rn(a, b);
#else
    return a * b;
#endif
}

static inline IC_THIN_ANYWHERE double ic_thin_times_add(double a, double b, double c)
{
#ifdef __CUDA_ARCH__
    return __dadd_rn(__dmul_rn(a, b), c);
#else
    return a * b + c;
#endif
}

/* Of x >= 1. 2^e m with m near 1, and log m as the series of 2 atanh((m - 1) / (m + 1)), to some
 * 1e-16. */
static inline IC_THIN_ANYWHERE double ic_thin_log2(double x)
{
    uint64_t bits;
    double m, sum = 0;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & UINT64_C(0x000fffffffffffff)) | UINT64_C(0x3ff0000000000000);
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e++;
    }
    double t = (m - 1) / (m + 1), square = ic_thin_times(t, t);
    for (int k = 21; k > 0; k -= 2)
        sum = ic_thin_times_add(sum, square, 1.0 / k);
    return ic_thin_times_add(ic_thin_times(t, sum), 2.8853900817779268, e);
}

/* 2^n, n in [-1022, 1023]. */
static inline IC_THIN_ANYWHERE double ic_thin_power2(int n)
{
    uint64_t bits = (uint64_t)(1023 + n) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* Of z in [0, 1000]: 2^n e^y with |y| below 0.35, by Taylor's series. */
static inline IC_THIN_ANYWHERE double ic_thin_exp2(double z)
{
    int n = (int)(z + 0.5);
    double y = ic_thin_times(z - n, 0.69314718055994531), sum = 1;
    for (int k = 14; k > 0; k--)
        sum = ic_thin_times_add(y / k, sum, 1);
    return sum * ic_thin_power2(n);
}

/* age to the power fade; nothing is younger than 1. */
static inline IC_THIN_ANYWHERE float ic_thin_fade(float age, float fade)
{
    double z = ic_thin_times((double)fade, ic_thin_log2(age > 1 ? (double)age : 1));
    return (float)ic_thin_exp2(z < 1000 ? z : 1000);
}

/* What a group counts for by its best score, beside others: `mean` is that of their best. */
static inline IC_THIN_ANYWHERE float ic_thin_worth(float score, float mean, float care)
{
    return 1 + (mean > 0 && score > 0 ? care * score / mean : 0);
}

/* With the last of `rows` rows that a group still has: the hole between its neighbours over its
 * faded age, times its worth; and half as much for each row below that one. */
static inline IC_THIN_ANYWHERE float ic_thin_lost(float hole, float faded, float worth, int rows)
{
    return (float)((double)(hole / faded * worth) * ic_thin_power2(rows < 1000 ? 1 - rows : -999));
}

#endif
