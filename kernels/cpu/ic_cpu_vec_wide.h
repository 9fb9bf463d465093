/* ic_cpu_vec_wide: the inner loops on vectors, written once and compiled once per instruction set.
 *
 * The including file defines: V (a vector of floats), W (its lanes), TARGET (the function attribute
 * that allows the instructions), TILE_VECTORS (columns of a block product in vectors), GEMV_X (rows
 * of x a decode kernel takes together) and the v_* functions used below. Everything is static; the
 * file ends with a table of it all. */

#include <math.h>
#include <string.h>

#include "kernels/cpu/ic_cpu_vec.h"
#include "kernels/ic_half.h"

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE TARGET static inline __attribute__((always_inline))

/* PREFETCH_BYTES: measured best of 1 to 16 KiB (the own prefetcher stops at a page's end). */
enum { TILE_ROWS = 6, CHAINS = 2, PREFETCH_BYTES = 8192 };

/* --- loading any dtype --- */

INLINE V v_load_as(ic_dtype dtype, const void *p)
{
    if (dtype == IC_F32)
        return v_load(p);
    return dtype == IC_BF16 ? v_load_bf16(p) : v_load_f16(p);
}

/* The first n < W elements, then zeros. */
INLINE V v_load_part(ic_dtype dtype, const void *p, int64_t n)
{
    _Alignas(64) char room[64] = {0};
    memcpy(room, p, (size_t)n * (dtype == IC_F32 ? 4 : 2));
    return v_load_as(dtype, room);
}

INLINE void v_store_part(float *p, V v, int64_t n)
{
    _Alignas(64) float room[W];
    v_store(room, v);
    memcpy(p, room, (size_t)n * sizeof *p);
}

/* --- exp --- */

/* Cody & Waite reduction, polynomial of Cephes' expf; about 1 ulp. Below -87.3: 0. */
INLINE V v_exp(V x)
{
    V low = v_set(-87.33654f), kept = v_min(v_set(88.37626f), v_max(low, x));
    V n = v_round(v_mul(kept, v_set(1.44269504088896341f)));
    V r = v_fma(n, v_set(-0.693359375f), kept);
    r = v_fma(n, v_set(2.12194440e-4f), r);
    V p = v_set(1.9875691500e-4f);
    p = v_fma(p, r, v_set(1.3981999507e-3f));
    p = v_fma(p, r, v_set(8.3334519073e-3f));
    p = v_fma(p, r, v_set(4.1665795894e-2f));
    p = v_fma(p, r, v_set(1.6666665459e-1f));
    p = v_fma(p, r, v_set(5.0000001201e-1f));
    p = v_add(v_fma(p, v_mul(r, r), r), v_set(1.0f));
    return v_zero_below(v_scale2(p, n), x, low);
}

/* --- conversions --- */

INLINE void widen_as(ic_dtype from, const char *src, float *dst, int64_t n)
{
    int64_t size = from == IC_F32 ? 4 : 2, i = 0;
    for (; i + W <= n; i += W)
        v_store(dst + i, v_load_as(from, src + i * size));
    if (i < n)
        v_store_part(dst + i, v_load_part(from, src + i * size, n - i), n - i);
}

TARGET static void widen(ic_dtype from, const void *src, float *dst, int64_t n)
{
    if (from == IC_F32)
        memcpy(dst, src, (size_t)n * sizeof *dst);
    else if (from == IC_BF16)
        widen_as(IC_BF16, src, dst, n);
    else
        widen_as(IC_F16, src, dst, n);
}

TARGET static void narrow(ic_dtype to, const float *src, void *dst, int64_t n)
{
    if (to == IC_F32) {
        memcpy(dst, src, (size_t)n * sizeof *src);
        return;
    }
    uint16_t *half = dst;
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        if (to == IC_BF16)
            v_store_bf16(half + i, v_load(src + i));
        else
            v_store_f16(half + i, v_load(src + i));
    }
    for (; i < n; i++)
        ic_dtype_put(to, half, i, src[i]);
}

/* --- block product --- */

INLINE void gemm_tile(const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                      int64_t ldc, int k, bool add, const int rows, const int vectors)
{
    V sum[TILE_ROWS][TILE_VECTORS];
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int j = 0; j < vectors; j++) sum[r][j] =
            add ? v_load(c + r * ldc + j * W) : v_zero();
    }
    for (int i = 0; i < k; i++) {
        V line[TILE_VECTORS];
        UNROLL for (int j = 0; j < vectors; j++) line[j] = v_load(b + i * ldb + j * W);
        UNROLL for (int r = 0; r < rows; r++)
        {
            V x = v_set(a[r * lda + i]);
            UNROLL for (int j = 0; j < vectors; j++) sum[r][j] = v_fma(x, line[j], sum[r][j]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int j = 0; j < vectors; j++) v_store(c + r * ldc + j * W, sum[r][j]);
    }
}

INLINE void gemm_rows(const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                      int64_t ldc, int k, int n, bool add, const int rows)
{
    int j = 0;
    for (; j + TILE_VECTORS * W <= n; j += TILE_VECTORS * W)
        gemm_tile(a, lda, b + j, ldb, c + j, ldc, k, add, rows, TILE_VECTORS);
    for (; j < n; j += W)
        gemm_tile(a, lda, b + j, ldb, c + j, ldc, k, add, rows, 1);
}

TARGET static void gemm(const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                        int64_t ldc, int rows, int k, int n, bool add)
{
    int r = 0;
    for (; r + TILE_ROWS <= rows; r += TILE_ROWS)
        gemm_rows(a + r * lda, lda, b, ldb, c + r * ldc, ldc, k, n, add, TILE_ROWS);
    for (; r + 2 <= rows; r += 2)
        gemm_rows(a + r * lda, lda, b, ldb, c + r * ldc, ldc, k, n, add, 2);
    for (; r < rows; r++)
        gemm_rows(a + r * lda, lda, b, ldb, c + r * ldc, ldc, k, n, add, 1);
}

/* --- decode product --- */

/* `outs` rows of w with `xs` rows of x. One row of w at a time is one stream, which is what the
 * memory likes best; with several rows of x, two rows of w share their loads. A sum runs in CHAINS
 * chains, vector by vector in turn, whatever the tile. */
INLINE void gemv_tile(ic_dtype dtype, const char *w, int64_t in, const float *x, int64_t ldx,
                      float *y, int64_t ldy, const int outs, const int xs)
{
    const int64_t size = dtype == IC_F32 ? 4 : 2, stride = in * size;
    V sum[2][GEMV_X][CHAINS];
    UNROLL for (int o = 0; o < outs; o++)
    {
        UNROLL for (int i = 0; i < xs; i++)
        {
            UNROLL for (int c = 0; c < CHAINS; c++) sum[o][i][c] = v_zero();
        }
    }
    int64_t k = 0;
    for (; k + CHAINS * W <= in; k += CHAINS * W) {
        UNROLL for (int c = 0; c < CHAINS; c++)
        {
            V line[2];
            UNROLL for (int o = 0; o < outs; o++)
            {
                const char *from = w + o * stride + (k + c * W) * size;
                __builtin_prefetch(from + PREFETCH_BYTES);
                line[o] = v_load_as(dtype, from);
            }
            UNROLL for (int i = 0; i < xs; i++)
            {
                V other = v_load(x + i * ldx + k + c * W);
                UNROLL for (int o = 0; o < outs; o++) sum[o][i][c] =
                    v_fma(line[o], other, sum[o][i][c]);
            }
        }
    }
    UNROLL for (int c = 0; c < CHAINS; c++)
    {
        int64_t left = in - k - c * W, part = left < W ? left : W;
        if (part <= 0)
            continue;
        UNROLL for (int i = 0; i < xs; i++)
        {
            V other = v_load_part(IC_F32, x + i * ldx + k + c * W, part);
            UNROLL for (int o = 0; o < outs; o++) sum[o][i][c] = v_fma(
                v_load_part(dtype, w + o * stride + (k + c * W) * size, part), other, sum[o][i][c]);
        }
    }
    UNROLL for (int o = 0; o < outs; o++)
    {
        UNROLL for (int i = 0; i < xs; i++) y[i * ldy + o] =
            v_sum(v_add(sum[o][i][0], sum[o][i][1]));
    }
}

INLINE void gemv_as(ic_dtype dtype, const char *w, int out, int64_t in, const float *x, int64_t ldx,
                    int n, float *y, int64_t ldy)
{
    const int64_t size = dtype == IC_F32 ? 4 : 2;
    int o = 0;
    for (; n >= GEMV_X && o + 2 <= out; o += 2)
        for (int i = 0; i + GEMV_X <= n; i += GEMV_X)
            gemv_tile(dtype, w + o * in * size, in, x + i * ldx, ldx, y + o + i * ldy, ldy, 2,
                      GEMV_X);
    int done = n / GEMV_X * GEMV_X; /* rows of x that have all but the last of an odd `out` */
    for (int i = 0; i < n; i++)
        for (int r = i < done ? o : 0; r < out; r++)
            gemv_tile(dtype, w + r * in * size, in, x + i * ldx, ldx, y + r + i * ldy, ldy, 1, 1);
}

TARGET static void gemv(ic_dtype dtype, const void *w, int out, int64_t in, const float *x,
                        int64_t ldx, int n, float *y, int64_t ldy)
{
    if (dtype == IC_F32)
        gemv_as(IC_F32, w, out, in, x, ldx, n, y, ldy);
    else if (dtype == IC_BF16)
        gemv_as(IC_BF16, w, out, in, x, ldx, n, y, ldy);
    else
        gemv_as(IC_F16, w, out, in, x, ldx, n, y, ldy);
}

/* Reads as a decode product reads, and does nothing else. */
TARGET static float read_all(const void *data, int64_t bytes)
{
    const char *from = data;
    V top = v_zero(), other = v_zero();
    for (int64_t at = 0; at + 2 * W * 4 <= bytes; at += 2 * W * 4) {
        __builtin_prefetch(from + at + PREFETCH_BYTES);
        __builtin_prefetch(from + at + W * 4 + PREFETCH_BYTES);
        top = v_max(top, v_load(from + at));
        other = v_max(other, v_load(from + at + W * 4));
    }
    return v_top(v_max(top, other));
}

/* --- rows --- */

/* Calls body with i and, for the last piece, part < W. */
#define EACH_VECTOR(n, body)                                                                       \
    do {                                                                                           \
        int i = 0;                                                                                 \
        for (; i + W <= (n); i += W)                                                               \
            body(v_load, v_store, i);                                                              \
        if (i < (n))                                                                               \
            body(LOAD_PART, STORE_PART, i);                                                        \
    } while (0)
#define LOAD_PART(p)     v_load_part(IC_F32, p, n - i)
#define STORE_PART(p, v) v_store_part(p, v, n - i)

TARGET static void rmsnorm(const float *x, const float *weight, float eps, float *y, int n)
{
    V squares = v_zero();
#define SQUARE(load, store, at) squares = v_fma(load(x + (at)), load(x + (at)), squares)
    EACH_VECTOR(n, SQUARE);
#undef SQUARE
    V factor = v_set(1.0f / sqrtf(v_sum(squares) / (float)n + eps));
#define SCALE(load, store, at)                                                                     \
    store(y + (at), v_mul(v_mul(load(x + (at)), factor), load(weight + (at))))
    EACH_VECTOR(n, SCALE);
#undef SCALE
}

TARGET static void layernorm(const float *x, const float *weight, const float *bias, float eps,
                             float *y, int n)
{
    V sum = v_zero(), squares = v_zero();
#define SUM(load, store, at) sum = v_add(load(x + (at)), sum)
    EACH_VECTOR(n, SUM);
#undef SUM
    float mean = v_sum(sum) / (float)n;
    V middle = v_set(mean);
    int full = n / W * W;
    for (int i = 0; i < full; i += W) {
        V apart = v_sub(v_load(x + i), middle);
        squares = v_fma(apart, apart, squares);
    }
    float rest = 0;
    for (int i = full; i < n; i++)
        rest += (x[i] - mean) * (x[i] - mean);
    V factor = v_set(1.0f / sqrtf((v_sum(squares) + rest) / (float)n + eps));
#define SCALE(load, store, at)                                                                     \
    store(y + (at), v_fma(v_mul(v_sub(load(x + (at)), middle), factor), load(weight + (at)),       \
                          load(bias + (at))))
    EACH_VECTOR(n, SCALE);
#undef SCALE
}

TARGET static void swiglu(const float *gate, const float *up, float *y, int n)
{
    V one = v_set(1.0f);
#define GATE(load, store, at)                                                                      \
    do {                                                                                           \
        V g = load(gate + (at));                                                                   \
        V part = v_div(g, v_add(one, v_exp(v_sub(v_zero(), g))));                                  \
        store(y + (at), v_mul(part, load(up + (at))));                                             \
    } while (0)
    EACH_VECTOR(n, GATE);
#undef GATE
}

TARGET static void gelu_tanh(const float *x, float *y, int n)
{
    /* x / (1 + exp(-2u)): see the plain form. */
    V one = v_set(1.0f), cubic = v_set(0.044715f), minus_two = v_set(-2.0f * 0.7978845608028654f);
#define GELU(load, store, at)                                                                      \
    do {                                                                                           \
        V v = load(x + (at));                                                                      \
        V u = v_mul(minus_two, v_fma(v_mul(cubic, v_mul(v, v)), v, v));                            \
        store(y + (at), v_div(v, v_add(one, v_exp(u))));                                           \
    } while (0)
    EACH_VECTOR(n, GELU);
#undef GELU
}

TARGET static void add_to(const float *x, float *y, int n)
{
#define ADD(load, store, at) store(y + (at), v_add(load(y + (at)), load(x + (at))))
    EACH_VECTOR(n, ADD);
#undef ADD
}

TARGET static void scale_by(float factor, float *y, int n)
{
    V by = v_set(factor);
#define SCALE(load, store, at) store(y + (at), v_mul(by, load(y + (at))))
    EACH_VECTOR(n, SCALE);
#undef SCALE
}

TARGET static float softmax(float *s, int n, float *max, float *sum)
{
    V top = v_set(*max), total = v_zero();
    for (int i = 0; i < n; i += W)
        top = v_max(top, v_load(s + i));
    float before = *max, now = v_top(top);
    V shift = v_set(now);
    for (int i = 0; i < n; i += W) {
        V p = v_exp(v_sub(v_load(s + i), shift));
        v_store(s + i, p);
        total = v_add(total, p);
    }
    float factor = before == now ? 1.0f : expf(before - now);
    *max = now;
    *sum = *sum * factor + v_sum(total);
    return factor;
}

TARGET static void rotate(const float *x, const float *cosine, const float *sine, int half,
                          float *y)
{
    int i = 0;
    for (; i + W <= half; i += W) {
        V a = v_load(x + i), b = v_load(x + i + half);
        V c = v_load(cosine + i), s = v_load(sine + i);
        v_store(y + i, v_fma(a, c, v_sub(v_zero(), v_mul(b, s))));
        v_store(y + i + half, v_fma(b, c, v_mul(a, s)));
    }
    if (i < half) {
        int part = half - i;
        V a = v_load_part(IC_F32, x + i, part), b = v_load_part(IC_F32, x + i + half, part);
        V c = v_load_part(IC_F32, cosine + i, part), s = v_load_part(IC_F32, sine + i, part);
        v_store_part(y + i, v_fma(a, c, v_sub(v_zero(), v_mul(b, s))), part);
        v_store_part(y + i + half, v_fma(b, c, v_mul(a, s)), part);
    }
}

TARGET static void pick(const float *t, const float *h, const float *w, const uint8_t *axis,
                        float *y, int n)
{
    int i = 0;
    for (; i + W <= n; i += W)
        v_store(y + i, v_pick(v_load(t + i), v_load(h + i), v_load(w + i), axis + i));
    for (; i < n; i++)
        y[i] = axis[i] == 0 ? t[i] : axis[i] == 1 ? h[i] : w[i];
}

/* --- decode attention --- */

enum { HEADS_AT_ONCE = 4, AHEAD = 4 }; /* AHEAD: keys, of prefetch */

/* `heads` scores of one key: rotated in registers and used at once. */
INLINE void score_key(ic_dtype dtype, const char *k, const float *cosine, const float *sine,
                      int half, const float *q, float *s, int lds, const int heads)
{
    const int64_t size = dtype == IC_F32 ? 4 : 2;
    V sum[HEADS_AT_ONCE];
    UNROLL for (int g = 0; g < heads; g++) sum[g] = v_zero();
    int i = 0;
    for (; i + W <= half; i += W) {
        V a = v_load_as(dtype, k + i * size), b = v_load_as(dtype, k + (i + half) * size);
        V c = v_load(cosine + i), d = v_load(sine + i);
        V x = v_fma(a, c, v_sub(v_zero(), v_mul(b, d))), y = v_fma(b, c, v_mul(a, d));
        UNROLL for (int g = 0; g < heads; g++)
        {
            sum[g] = v_fma(x, v_load(q + g * 2 * half + i), sum[g]);
            sum[g] = v_fma(y, v_load(q + g * 2 * half + half + i), sum[g]);
        }
    }
    if (i < half) {
        int part = half - i;
        V a = v_load_part(dtype, k + i * size, part);
        V b = v_load_part(dtype, k + (i + half) * size, part);
        V c = v_load_part(IC_F32, cosine + i, part), d = v_load_part(IC_F32, sine + i, part);
        V x = v_fma(a, c, v_sub(v_zero(), v_mul(b, d))), y = v_fma(b, c, v_mul(a, d));
        UNROLL for (int g = 0; g < heads; g++)
        {
            sum[g] = v_fma(x, v_load_part(IC_F32, q + g * 2 * half + i, part), sum[g]);
            sum[g] = v_fma(y, v_load_part(IC_F32, q + g * 2 * half + half + i, part), sum[g]);
        }
    }
    UNROLL for (int g = 0; g < heads; g++) s[g * lds] = v_sum(sum[g]);
}

INLINE void scores_as(ic_dtype dtype, const void *const *k, const float *const *cosine,
                      const float *const *sine, int keys, int half, const float *q, int group,
                      float *s, int lds)
{
    for (int j = 0; j < keys; j++) {
        int g = 0;
        if (j + AHEAD < keys)
            for (int at = 0; at < 2 * half * (dtype == IC_F32 ? 4 : 2); at += 64)
                __builtin_prefetch((const char *)k[j + AHEAD] + at);
        for (; g + 4 <= group; g += 4)
            score_key(dtype, k[j], cosine[j], sine[j], half, q + (int64_t)g * 2 * half,
                      s + g * lds + j, lds, 4);
        for (; g + 2 <= group; g += 2)
            score_key(dtype, k[j], cosine[j], sine[j], half, q + (int64_t)g * 2 * half,
                      s + g * lds + j, lds, 2);
        for (; g < group; g++)
            score_key(dtype, k[j], cosine[j], sine[j], half, q + (int64_t)g * 2 * half,
                      s + g * lds + j, lds, 1);
    }
}

TARGET static void decode_scores(ic_dtype dtype, const void *const *k, const float *const *cosine,
                                 const float *const *sine, int keys, int half, const float *q,
                                 int group, float *s, int lds)
{
    if (dtype == IC_F32)
        scores_as(IC_F32, k, cosine, sine, keys, half, q, group, s, lds);
    else if (dtype == IC_BF16)
        scores_as(IC_BF16, k, cosine, sine, keys, half, q, group, s, lds);
    else
        scores_as(IC_F16, k, cosine, sine, keys, half, q, group, s, lds);
}

/* `vectors` columns of `heads` sums; with part < W the one vector is an incomplete one. */
INLINE void values_tile(ic_dtype dtype, const void *const *v, int keys, int column, const float *p,
                        int ldp, float *o, int64_t ldo, int part, const int heads,
                        const int vectors)
{
    const int64_t size = dtype == IC_F32 ? 4 : 2;
    V sum[2][TILE_VECTORS];
    UNROLL for (int g = 0; g < heads; g++)
    {
        UNROLL for (int c = 0; c < vectors; c++) sum[g][c] =
            part < W ? v_load_part(IC_F32, o + g * ldo + c * W, part) : v_load(o + g * ldo + c * W);
    }
    for (int j = 0; j < keys; j++) {
        const char *from = (const char *)v[j] + column * size;
        V line[TILE_VECTORS];
        UNROLL for (int c = 0; c < vectors; c++) line[c] =
            part < W ? v_load_part(dtype, from, part) : v_load_as(dtype, from + c * W * size);
        UNROLL for (int g = 0; g < heads; g++)
        {
            V weight = v_set(p[g * ldp + j]);
            UNROLL for (int c = 0; c < vectors; c++) sum[g][c] = v_fma(weight, line[c], sum[g][c]);
        }
    }
    UNROLL for (int g = 0; g < heads; g++)
    {
        UNROLL for (int c = 0; c < vectors; c++)
        {
            if (part < W)
                v_store_part(o + g * ldo + c * W, sum[g][c], part);
            else
                v_store(o + g * ldo + c * W, sum[g][c]);
        }
    }
}

INLINE void values_heads(ic_dtype dtype, const void *const *v, int keys, int dim, const float *p,
                         int ldp, float *o, int64_t ldo, const int heads)
{
    int c = 0;
    for (; c + TILE_VECTORS * W <= dim; c += TILE_VECTORS * W)
        values_tile(dtype, v, keys, c, p, ldp, o + c, ldo, W, heads, TILE_VECTORS);
    for (; c < dim; c += W)
        values_tile(dtype, v, keys, c, p, ldp, o + c, ldo, dim - c < W ? dim - c : W, heads, 1);
}

INLINE void values_as(ic_dtype dtype, const void *const *v, int keys, int dim, const float *p,
                      int ldp, int group, float *o, int64_t ldo)
{
    int g = 0;
    for (; g + 2 <= group; g += 2)
        values_heads(dtype, v, keys, dim, p + g * ldp, ldp, o + g * ldo, ldo, 2);
    for (; g < group; g++)
        values_heads(dtype, v, keys, dim, p + g * ldp, ldp, o + g * ldo, ldo, 1);
}

TARGET static void decode_values(ic_dtype dtype, const void *const *v, int keys, int dim,
                                 const float *p, int ldp, int group, float *o, int64_t ldo)
{
    if (dtype == IC_F32)
        values_as(IC_F32, v, keys, dim, p, ldp, group, o, ldo);
    else if (dtype == IC_BF16)
        values_as(IC_BF16, v, keys, dim, p, ldp, group, o, ldo);
    else
        values_as(IC_F16, v, keys, dim, p, ldp, group, o, ldo);
}

/* --- transposing --- */

TARGET static void transpose(const void *src, int64_t lds, int rows, int cols, void *dst,
                             int64_t ldd)
{
    const char *from = src;
    char *to = dst;
    int full_rows = rows / W * W, full_cols = cols / W * W;
    for (int r = 0; r < full_rows; r += W)
        for (int c = 0; c < full_cols; c += W)
            v_transpose(from + (r * lds + c) * 4, lds * 4, to + (c * ldd + r) * 4, ldd * 4);
    for (int r = 0; r < rows; r++)
        for (int c = r < full_rows ? full_cols : 0; c < cols; c++)
            memcpy(to + (c * ldd + r) * 4, from + (r * lds + c) * 4, 4);
}

#define WIDE_TABLE                                                                                 \
    .widen = widen, .narrow = narrow, .gemm = gemm, .transpose = transpose, .gemv = gemv,          \
    .rmsnorm = rmsnorm, .layernorm = layernorm, .swiglu = swiglu, .gelu_tanh = gelu_tanh,          \
    .read = read_all, .add = add_to, .scale = scale_by, .softmax = softmax, .pick = pick,          \
    .rotate = rotate, .decode_scores = decode_scores, .decode_values = decode_values
