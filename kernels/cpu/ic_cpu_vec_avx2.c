/* The inner loops for AVX2 with FMA and F16C. bf16 is widened: there is no such product. */
#include <stddef.h>

#include "kernels/cpu/ic_cpu_vec.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define VECTOR TARGET static inline __attribute__((always_inline))
typedef __m256 V;
enum { W = 8, TILE_VECTORS = 2, GEMV_X = 2 };

VECTOR V v_load(const void *p)
{
    return _mm256_loadu_ps(p);
}
VECTOR void v_store(float *p, V v)
{
    _mm256_storeu_ps(p, v);
}
VECTOR V v_zero(void)
{
    return _mm256_setzero_ps();
}
VECTOR V v_set(float x)
{
    return _mm256_set1_ps(x);
}
VECTOR V v_add(V a, V b)
{
    return _mm256_add_ps(a, b);
}
VECTOR V v_sub(V a, V b)
{
    return _mm256_sub_ps(a, b);
}
VECTOR V v_mul(V a, V b)
{
    return _mm256_mul_ps(a, b);
}
VECTOR V v_div(V a, V b)
{
    return _mm256_div_ps(a, b);
}
VECTOR V v_max(V a, V b)
{
    return _mm256_max_ps(a, b);
}
VECTOR V v_min(V a, V b)
{
    return _mm256_min_ps(a, b);
}
VECTOR V v_fma(V a, V b, V c)
{
    return _mm256_fmadd_ps(a, b, c);
}
VECTOR V v_round(V a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a * 2^n for whole n in the range of exponents */
VECTOR V v_scale2(V a, V n)
{
    __m256i shift = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), shift));
}
VECTOR V v_zero_below(V a, V x, V low)
{
    return _mm256_andnot_ps(_mm256_cmp_ps(x, low, _CMP_LT_OQ), a);
}
VECTOR float v_sum(V a)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
VECTOR float v_top(V a)
{
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
VECTOR V v_load_bf16(const void *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
VECTOR V v_load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}
VECTOR void v_store_bf16(uint16_t *p, V v)
{
    __m256i bits = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    up = _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(up), _mm256_castsi256_ps(nan),
                                              _mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
    up = _mm256_srli_epi32(up, 16);
    up = _mm256_permute4x64_epi64(_mm256_packus_epi32(up, up), 0xd8);
    _mm_storeu_si128((void *)p, _mm256_castsi256_si128(up));
}
VECTOR void v_store_f16(uint16_t *p, V v)
{
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
VECTOR V v_pick(V t, V h, V w, const uint8_t *axis)
{
    __m256i which = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)axis));
    __m256i is_h = _mm256_cmpeq_epi32(which, _mm256_set1_epi32(1));
    __m256i is_w = _mm256_cmpeq_epi32(which, _mm256_set1_epi32(2));
    V y = _mm256_blendv_ps(t, h, _mm256_castsi256_ps(is_h));
    return _mm256_blendv_ps(y, w, _mm256_castsi256_ps(is_w));
}
/* 8 x 8; strides in bytes */
VECTOR void v_transpose(const char *from, int64_t from_stride, char *to, int64_t to_stride)
{
    __m256 r[8], s[8];
    for (int i = 0; i < 8; i++)
        r[i] = _mm256_loadu_ps((const void *)(from + i * from_stride));
    for (int i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm256_shuffle_ps(s[i + j], s[i + j + 2], 0x44);
            r[i + 2 * j + 1] = _mm256_shuffle_ps(s[i + j], s[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps((void *)(to + i * to_stride),
                         _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps((void *)(to + (i + 4) * to_stride),
                         _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

#include "kernels/cpu/ic_cpu_vec_wide.h"

static const ic_cpu_vec table = {.name = "avx2", WIDE_TABLE};

const ic_cpu_vec *ic_cpu_vec_avx2(void)
{
    unsigned a, b, c, d;
    bool has_f16c = __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
    bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c;
    return has ? &table : NULL;
}

#else

const ic_cpu_vec *ic_cpu_vec_avx2(void)
{
    return NULL;
}

#endif
