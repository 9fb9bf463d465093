/* ic_sampler: from logits to one token.
 *
 * Order as in transformers: repetition penalty, temperature, top-k, top-p, then the draw. The
 * random number is a pure function of (seed, turn, index of the token in its answer), so that a
 * resumed answer goes on as the uninterrupted one.
 */
#ifndef IC_SAMPLER_H
#define IC_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/ic_err.h"

typedef struct ic_sampling {
    float temperature;        /* 0: greedy */
    int32_t top_k;            /* 0: off */
    float top_p;              /* 1: off */
    float repetition_penalty; /* 1: off; remembers every token the session has seen, evicted ones
                                 too */
    uint64_t seed;
    int32_t max_tokens; /* of one answer; 0: the model's default */
} ic_sampling;

/* IC_EINVAL names the field that is out of range. */
IC_MUST_CHECK int ic_sampling_check(const ic_sampling *s, ic_error *e);

/* A number in [0, 1) that depends on nothing but (seed, turn, index). */
double ic_sampler_uniform(uint64_t seed, uint64_t turn, uint64_t index);

/* logits [vocab] are changed in place. seen: bitmap of vocab bits, or NULL. */
int32_t ic_sampler_pick(const ic_sampling *s, float *logits, int vocab, const uint8_t *seen,
                        uint64_t turn, uint64_t index);

#endif
