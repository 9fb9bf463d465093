/* ic_half: the two 16-bit formats, one value at a time; for tables, tests and tails. Inside
 * kernels/ only. */
#ifndef IC_HALF_H
#define IC_HALF_H

#include <stdint.h>
#include <string.h>

#include "kernels/ic_device.h"

static inline uint32_t ic_f32_bits(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

static inline float ic_f32_of_bits(uint32_t bits)
{
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline float ic_bf16_to_f32(uint16_t v)
{
    return ic_f32_of_bits((uint32_t)v << 16);
}

/* Round to nearest even; a NaN stays one. */
static inline uint16_t ic_f32_to_bf16(float v)
{
    uint32_t bits = ic_f32_bits(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float ic_f16_to_f32(uint16_t v)
{
    uint32_t sign = (uint32_t)(v & 0x8000) << 16;
    uint32_t exponent = (v >> 10) & 31, mantissa = v & 1023;
    if (exponent == 31)
        return ic_f32_of_bits(sign | 0x7f800000u | (mantissa << 13));
    if (exponent)
        return ic_f32_of_bits(sign | ((exponent + 112) << 23) | (mantissa << 13));
    float tiny = (float)mantissa * 0x1p-24f; /* subnormal: exact in f32 */
    return sign ? -tiny : tiny;
}

/* Round to nearest even; beyond the range: infinity. */
static inline uint16_t ic_f32_to_f16(float v)
{
    uint32_t bits = ic_f32_bits(v), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000u) {
        /* Adding 0.5 puts the last bit of a half subnormal at the last bit of the float. */
        float shifted = ic_f32_of_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (ic_f32_bits(shifted) - 0x3f000000u));
    }
    uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

/* Element i of an array of any dtype. */
static inline float ic_dtype_get(ic_dtype dtype, const void *data, int64_t i)
{
    uint16_t half;
    if (dtype == IC_F32) {
        float v;
        memcpy(&v, (const char *)data + i * 4, 4);
        return v;
    }
    memcpy(&half, (const char *)data + i * 2, 2);
    return dtype == IC_BF16 ? ic_bf16_to_f32(half) : ic_f16_to_f32(half);
}

static inline void ic_dtype_put(ic_dtype dtype, void *data, int64_t i, float v)
{
    if (dtype == IC_F32) {
        memcpy((char *)data + i * 4, &v, 4);
        return;
    }
    uint16_t half = dtype == IC_BF16 ? ic_f32_to_bf16(v) : ic_f32_to_f16(v);
    memcpy((char *)data + i * 2, &half, 2);
}

#endif
