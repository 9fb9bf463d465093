/* The inner loops for AVX-512, and the bf16 products of AVX512-BF16. */
#include <stddef.h>

#include "kernels/cpu/ic_cpu_amx.h"
#include "kernels/cpu/ic_cpu_vec.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define BF16_TARGET                                                                                \
    __attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define VECTOR TARGET static inline __attribute__((always_inline))
typedef __m512 V;
enum { W = 16, TILE_VECTORS = 4, GEMV_X = 2 };

VECTOR V v_load(const void *p)
{
    return _mm512_loadu_ps(p);
}
VECTOR void v_store(float *p, V v)
{
    _mm512_storeu_ps(p, v);
}
VECTOR V v_zero(void)
{
    return _mm512_setzero_ps();
}
VECTOR V v_set(float x)
{
    return _mm512_set1_ps(x);
}
VECTOR V v_add(V a, V b)
{
    return _mm512_add_ps(a, b);
}
VECTOR V v_sub(V a, V b)
{
    return _mm512_sub_ps(a, b);
}
VECTOR V v_mul(V a, V b)
{
    return _mm512_mul_ps(a, b);
}
VECTOR V v_div(V a, V b)
{
    return _mm512_div_ps(a, b);
}
VECTOR V v_max(V a, V b)
{
    return _mm512_max_ps(a, b);
}
VECTOR V v_min(V a, V b)
{
    return _mm512_min_ps(a, b);
}
VECTOR V v_fma(V a, V b, V c)
{
    return _mm512_fmadd_ps(a, b, c);
}
VECTOR V v_round(V a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
VECTOR V v_scale2(V a, V n)
{
    return _mm512_scalef_ps(a, n);
}
VECTOR V v_zero_below(V a, V x, V low)
{
    return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(x, low, _CMP_LT_OQ), _mm512_setzero_ps());
}
/* The order of these additions is part of every result: halves, quarters, eighths. */
VECTOR float v_sum(V a)
{
    __m256 low = _mm512_castps512_ps256(a);
    __m256 high = _mm512_extractf32x8_ps(a, 1), eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
VECTOR float v_top(V a)
{
    return _mm512_reduce_max_ps(a);
}
VECTOR V v_load_bf16(const void *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
VECTOR V v_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
VECTOR void v_store_bf16(uint16_t *p, V v)
{
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
}
VECTOR void v_store_f16(uint16_t *p, V v)
{
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
VECTOR V v_pick(V t, V h, V w, const uint8_t *axis)
{
    __m128i which = _mm_loadu_si128((const void *)axis);
    V y = _mm512_mask_mov_ps(t, _mm_cmpeq_epi8_mask(which, _mm_set1_epi8(1)), h);
    return _mm512_mask_mov_ps(y, _mm_cmpeq_epi8_mask(which, _mm_set1_epi8(2)), w);
}
/* 16 x 16; strides in bytes */
VECTOR void v_transpose(const char *from, int64_t from_stride, char *to, int64_t to_stride)
{
    __m512 r[16], s[16];
    for (int i = 0; i < 16; i++)
        r[i] = _mm512_loadu_ps((const void *)(from + i * from_stride));
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_shuffle_ps(s[i + j], s[i + j + 2], 0x44);
            r[i + 2 * j + 1] = _mm512_shuffle_ps(s[i + j], s[i + j + 2], 0xee);
        }
    /* r[4 q + c] has, in lane l, column 4 l + c of rows 4 q ... 4 q + 3. */
    for (int c = 0; c < 4; c++) {
        __m512 a = _mm512_shuffle_f32x4(r[c], r[c + 4], 0x88);
        __m512 b = _mm512_shuffle_f32x4(r[c + 8], r[c + 12], 0x88);
        __m512 x = _mm512_shuffle_f32x4(r[c], r[c + 4], 0xdd);
        __m512 y = _mm512_shuffle_f32x4(r[c + 8], r[c + 12], 0xdd);
        _mm512_storeu_ps((void *)(to + c * to_stride), _mm512_shuffle_f32x4(a, b, 0x88));
        _mm512_storeu_ps((void *)(to + (c + 4) * to_stride), _mm512_shuffle_f32x4(x, y, 0x88));
        _mm512_storeu_ps((void *)(to + (c + 8) * to_stride), _mm512_shuffle_f32x4(a, b, 0xdd));
        _mm512_storeu_ps((void *)(to + (c + 12) * to_stride), _mm512_shuffle_f32x4(x, y, 0xdd));
    }
}

#include "kernels/cpu/ic_cpu_vec_wide.h"

/* --- bf16 products --- */

#define BF16_INLINE BF16_TARGET static inline __attribute__((always_inline))

BF16_INLINE void pairs_tile(const uint16_t *a, int64_t lda, const uint32_t *b, int64_t ldb,
                            float *c, int64_t ldc, int pairs, bool add, const int rows)
{
    V sum[TILE_ROWS][TILE_VECTORS];
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int j = 0; j < TILE_VECTORS; j++) sum[r][j] =
            add ? v_load(c + r * ldc + j * W) : v_zero();
    }
    for (int i = 0; i < pairs; i++) {
        __m512bh line[TILE_VECTORS];
        UNROLL for (int j = 0; j < TILE_VECTORS; j++) line[j] =
            (__m512bh)_mm512_loadu_si512(b + i * ldb + j * W);
        UNROLL for (int r = 0; r < rows; r++)
        {
            int pair;
            memcpy(&pair, a + r * lda + 2 * i, sizeof pair);
            __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
            UNROLL for (int j = 0; j < TILE_VECTORS; j++) sum[r][j] =
                _mm512_dpbf16_ps(sum[r][j], line[j], x);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int j = 0; j < TILE_VECTORS; j++) v_store(c + r * ldc + j * W, sum[r][j]);
    }
}

BF16_INLINE void pairs_rows(const uint16_t *a, int64_t lda, const uint32_t *b, int64_t ldb,
                            float *c, int64_t ldc, int pairs, int n, bool add, const int rows)
{
    for (int j = 0; j < n; j += TILE_VECTORS * W)
        pairs_tile(a, lda, b + j, ldb, c + j, ldc, pairs, add, rows);
}

/* n is a multiple of the panel's 64 columns here. */
BF16_TARGET static void gemm_bf16(const uint16_t *a, int64_t lda, const uint32_t *b, int64_t ldb,
                                  float *c, int64_t ldc, int rows, int pairs, int n, bool add)
{
    int r = 0;
    for (; r + TILE_ROWS <= rows; r += TILE_ROWS)
        pairs_rows(a + r * lda, lda, b, ldb, c + r * ldc, ldc, pairs, n, add, TILE_ROWS);
    for (; r + 2 <= rows; r += 2)
        pairs_rows(a + r * lda, lda, b, ldb, c + r * ldc, ldc, pairs, n, add, 2);
    for (; r < rows; r++)
        pairs_rows(a + r * lda, lda, b, ldb, c + r * ldc, ldc, pairs, n, add, 1);
}

enum { PAIR_STEP = 2 * W };

BF16_INLINE __m512bh load_halves(const uint16_t *p)
{
    return (__m512bh)_mm512_loadu_si512(p);
}

/* As gemv_tile. x is padded with zeros to whole vectors; w is not. */
BF16_INLINE void gemv_bf16_tile(const uint16_t *w, int64_t in, const uint16_t *x, int64_t ldx,
                                float *y, int64_t ldy, const int outs, const int xs)
{
    V sum[2][GEMV_X][CHAINS];
    UNROLL for (int o = 0; o < outs; o++)
    {
        UNROLL for (int i = 0; i < xs; i++)
        {
            UNROLL for (int c = 0; c < CHAINS; c++) sum[o][i][c] = v_zero();
        }
    }
    int64_t k = 0;
    for (; k + CHAINS * PAIR_STEP <= in; k += CHAINS * PAIR_STEP) {
        UNROLL for (int c = 0; c < CHAINS; c++)
        {
            __m512bh line[2];
            UNROLL for (int o = 0; o < outs; o++)
            {
                const uint16_t *from = w + o * in + k + c * PAIR_STEP;
                __builtin_prefetch((const char *)from + PREFETCH_BYTES);
                line[o] = load_halves(from);
            }
            UNROLL for (int i = 0; i < xs; i++)
            {
                __m512bh other = load_halves(x + i * ldx + k + c * PAIR_STEP);
                UNROLL for (int o = 0; o < outs; o++) sum[o][i][c] =
                    _mm512_dpbf16_ps(sum[o][i][c], line[o], other);
            }
        }
    }
    UNROLL for (int c = 0; c < CHAINS; c++)
    {
        int64_t at = k + c * PAIR_STEP, left = in - at < PAIR_STEP ? in - at : PAIR_STEP;
        if (left <= 0)
            continue;
        __mmask32 part = (__mmask32)((UINT64_C(1) << left) - 1);
        UNROLL for (int i = 0; i < xs; i++)
        {
            __m512bh other = load_halves(x + i * ldx + at);
            UNROLL for (int o = 0; o < outs; o++)
            {
                __m512bh line = (__m512bh)_mm512_maskz_loadu_epi16(part, w + o * in + at);
                sum[o][i][c] = _mm512_dpbf16_ps(sum[o][i][c], line, other);
            }
        }
    }
    UNROLL for (int o = 0; o < outs; o++)
    {
        UNROLL for (int i = 0; i < xs; i++) y[i * ldy + o] =
            v_sum(v_add(sum[o][i][0], sum[o][i][1]));
    }
}

BF16_TARGET static void gemv_bf16(const uint16_t *w, int out, int64_t in, const uint16_t *x,
                                  int64_t ldx, int n, float *y, int64_t ldy)
{
    int o = 0;
    for (; n >= GEMV_X && o + 2 <= out; o += 2)
        for (int i = 0; i + GEMV_X <= n; i += GEMV_X)
            gemv_bf16_tile(w + o * in, in, x + i * ldx, ldx, y + o + i * ldy, ldy, 2, GEMV_X);
    int done = n / GEMV_X * GEMV_X;
    for (int i = 0; i < n; i++)
        for (int r = i < done ? o : 0; r < out; r++)
            gemv_bf16_tile(w + r * in, in, x + i * ldx, ldx, y + r + i * ldy, ldy, 1, 1);
}

/* --- halves --- */

BF16_TARGET static void halve(const float *x, uint16_t *high, uint16_t *low, int n)
{
    int i = 0;
    for (; i + W <= n; i += W) {
        V v = v_load(x + i);
        __m256i top = (__m256i)_mm512_cvtneps_pbh(v);
        V rest = v_sub(v, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(top), 16)));
        _mm256_storeu_si256((void *)(high + i), top);
        _mm256_storeu_si256((void *)(low + i), (__m256i)_mm512_cvtneps_pbh(rest));
    }
    for (; i < n; i++) {
        high[i] = ic_f32_to_bf16(x[i]);
        low[i] = ic_f32_to_bf16(x[i] - ic_bf16_to_f32(high[i]));
    }
}

TARGET static void pair(const void *evens, const void *odds, uint32_t *pairs, int n)
{
    const uint16_t *even = evens, *odd = odds;
    int i = 0;
    for (; i + W <= n; i += W) {
        __m512i a = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(even + i)));
        __m512i b = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(odd + i)));
        _mm512_storeu_si512(pairs + i, _mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
    }
    for (; i < n; i++)
        pairs[i] = even[i] | (uint32_t)odd[i] << 16;
}

static const ic_cpu_vec table = {.name = "avx512", WIDE_TABLE};
static const ic_cpu_vec bf16_table = {
    .name = "avx512-bf16", WIDE_TABLE, .gemm_bf16 = gemm_bf16, .gemv_bf16 = gemv_bf16};
static const ic_cpu_vec amx_table = {.name = "amx-bf16",
                                     WIDE_TABLE,
                                     .gemm_bf16 = ic_cpu_amx_gemm,
                                     .panel_cols = 256,
                                     .gemv_bf16 = gemv_bf16,
                                     .gemm_halves = ic_cpu_amx_gemm_halves,
                                     .halve = halve,
                                     .pair = pair};

const ic_cpu_vec *ic_cpu_vec_avx512(void)
{
    bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
               && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
               && __builtin_cpu_supports("fma");
    return has ? &table : NULL;
}

const ic_cpu_vec *ic_cpu_vec_avx512_bf16(void)
{
    return ic_cpu_vec_avx512() && __builtin_cpu_supports("avx512bf16") ? &bf16_table : NULL;
}

const ic_cpu_vec *ic_cpu_vec_amx(void)
{
    return ic_cpu_vec_avx512_bf16() && ic_cpu_amx_ready() ? &amx_table : NULL;
}

#else

const ic_cpu_vec *ic_cpu_vec_avx512(void)
{
    return NULL;
}

const ic_cpu_vec *ic_cpu_vec_avx512_bf16(void)
{
    return NULL;
}

const ic_cpu_vec *ic_cpu_vec_amx(void)
{
    return NULL;
}

#endif
