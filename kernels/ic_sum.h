/* ic_sum: the checksum of a checkpoint's rows. Words of 4 bytes, each mixed with its place, are
 * added up: parts may be summed apart, in any order, and by different devices. Finds damage, is no
 * defence against an author. */
#ifndef IC_SUM_H
#define IC_SUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define IC_SUM_ANYWHERE __host__ __device__
#else
#define IC_SUM_ANYWHERE
#endif

/* What word `word` at place `at` (of 4 bytes each) adds. */
static inline IC_SUM_ANYWHERE uint64_t ic_sum_word(uint32_t word, uint64_t at)
{
    uint64_t x = word + (at + 1) * UINT64_C(0x9e3779b97f4a7c15);
    x ^= x >> 32;
    x *= UINT64_C(0xd6e8feb86659fd93);
    return x ^ (x >> 32);
}

/* What bytes [from, to) of an image add; from is a multiple of 4, a cut-off last word is filled
 * with zeros. */
static inline uint64_t ic_sum_bytes(const uint8_t *image, size_t from, size_t to)
{
    uint64_t sum = 0;
    uint32_t word;
    for (; to - from >= 4 && from < to; from += 4) {
        memcpy(&word, image + from, 4);
        sum += ic_sum_word(word, from / 4);
    }
    if (from < to) {
        word = 0;
        memcpy(&word, image + from, to - from);
        sum += ic_sum_word(word, from / 4);
    }
    return sum;
}

#endif
