/* The inner loops in plain C: the reference for the others, and all there is on other machines. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/ic_cpu_vec.h"
#include "kernels/ic_half.h"

static void widen(ic_dtype from, const void *src, float *dst, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] = ic_dtype_get(from, src, i);
}

static void narrow(ic_dtype to, const float *src, void *dst, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        ic_dtype_put(to, dst, i, src[i]);
}

static void gemm(const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc,
                 int rows, int k, int n, bool add)
{
    for (int r = 0; r < rows; r++) {
        float *out = c + r * ldc;
        if (!add)
            memset(out, 0, (size_t)n * sizeof *out);
        for (int i = 0; i < k; i++)
            for (int j = 0; j < n; j++)
                out[j] += a[r * lda + i] * b[i * ldb + j];
    }
}

static void transpose(const void *src, int64_t lds, int rows, int cols, void *dst, int64_t ldd)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            memcpy((char *)dst + (c * ldd + r) * 4, (const char *)src + (r * lds + c) * 4, 4);
}

static void gemv(ic_dtype dtype, const void *w, int out, int64_t in, const float *x, int64_t ldx,
                 int n, float *y, int64_t ldy)
{
    for (int o = 0; o < out; o++) {
        const char *row = (const char *)w + o * in * (int64_t)ic_dtype_size(dtype);
        for (int i = 0; i < n; i++) {
            float sum = 0;
            for (int64_t k = 0; k < in; k++)
                sum += ic_dtype_get(dtype, row, k) * x[i * ldx + k];
            y[i * ldy + o] = sum;
        }
    }
}

static float read_all(const void *data, int64_t bytes)
{
    uint64_t sum = 0, word;
    for (int64_t at = 0; at + 8 <= bytes; at += 8) {
        memcpy(&word, (const char *)data + at, 8);
        sum += word;
    }
    return (float)sum;
}

static void rmsnorm(const float *x, const float *weight, float eps, float *y, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    float factor = 1.0f / sqrtf((float)(sum / n) + eps);
    for (int i = 0; i < n; i++)
        y[i] = x[i] * factor * weight[i];
}

static void layernorm(const float *x, const float *weight, const float *bias, float eps, float *y,
                      int n)
{
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++)
        sum += x[i];
    float mean = (float)(sum / n);
    for (int i = 0; i < n; i++)
        squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    float factor = 1.0f / sqrtf((float)(squares / n) + eps);
    for (int i = 0; i < n; i++)
        y[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

static void swiglu(const float *gate, const float *up, float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

/* 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3). */
static void gelu_tanh(const float *x, float *y, int n)
{
    for (int i = 0; i < n; i++) {
        float u = 0.7978845608028654f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        y[i] = x[i] / (1.0f + expf(-2.0f * u));
    }
}

static void add_to(const float *x, float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] += x[i];
}

static void scale_by(float factor, float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] *= factor;
}

static float softmax(float *s, int n, float *max, float *sum)
{
    float before = *max, now = before;
    for (int i = 0; i < n; i++)
        now = s[i] > now ? s[i] : now;
    float factor = before == now ? 1.0f : expf(before - now);
    float total = 0;
    for (int i = 0; i < n; i++) {
        s[i] = expf(s[i] - now);
        total += s[i];
    }
    *max = now;
    *sum = *sum * factor + total;
    return factor;
}

static void pick(const float *t, const float *h, const float *w, const uint8_t *axis, float *y,
                 int n)
{
    for (int i = 0; i < n; i++)
        y[i] = axis[i] == 0 ? t[i] : axis[i] == 1 ? h[i] : w[i];
}

static void rotate(const float *x, const float *cosine, const float *sine, int half, float *y)
{
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        y[i] = a * cosine[i] - b * sine[i];
        y[i + half] = b * cosine[i] + a * sine[i];
    }
}

static void decode_scores(ic_dtype dtype, const void *const *k, const float *const *cosine,
                          const float *const *sine, int keys, int half, const float *q, int group,
                          float *s, int lds)
{
    for (int j = 0; j < keys; j++)
        for (int g = 0; g < group; g++) {
            const float *head = q + (int64_t)g * 2 * half;
            float sum = 0;
            for (int i = 0; i < half; i++) {
                float a = ic_dtype_get(dtype, k[j], i), b = ic_dtype_get(dtype, k[j], i + half);
                sum += head[i] * (a * cosine[j][i] - b * sine[j][i]);
                sum += head[i + half] * (b * cosine[j][i] + a * sine[j][i]);
            }
            s[g * lds + j] = sum;
        }
}

static void decode_values(ic_dtype dtype, const void *const *v, int keys, int dim, const float *p,
                          int ldp, int group, float *o, int64_t ldo)
{
    for (int g = 0; g < group; g++)
        for (int j = 0; j < keys; j++)
            for (int i = 0; i < dim; i++)
                o[g * ldo + i] += p[g * ldp + j] * ic_dtype_get(dtype, v[j], i);
}

const ic_cpu_vec ic_cpu_vec_plain = {
    .name = "plain",
    .widen = widen,
    .narrow = narrow,
    .gemm = gemm,
    .transpose = transpose,
    .gemv = gemv,
    .read = read_all,
    .rmsnorm = rmsnorm,
    .layernorm = layernorm,
    .swiglu = swiglu,
    .gelu_tanh = gelu_tanh,
    .add = add_to,
    .scale = scale_by,
    .softmax = softmax,
    .pick = pick,
    .rotate = rotate,
    .decode_scores = decode_scores,
    .decode_values = decode_values,
};
