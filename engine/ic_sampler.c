#include "engine/ic_sampler.h"

#include <math.h>
#include <stdlib.h>

#include "base/ic_mem.h"

/* splitmix64's finaliser: every bit of the input reaches every bit of the output. */
static uint64_t mix64(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

/* A counter, not a stream, so that an answer goes on after a restart as if there had been none. */
double ic_sampler_uniform(uint64_t seed, uint64_t turn, uint64_t index)
{
    const uint64_t golden = 0x9e3779b97f4a7c15ULL;
    uint64_t z = mix64(seed + golden);
    z = mix64(z ^ (turn + 1) * golden);
    z = mix64(z ^ (index + 1) * golden);
    return (double)(z >> 11) * 0x1.0p-53;
}

int ic_sampling_check(const ic_sampling *s, ic_error *e)
{
    if (!isfinite(s->temperature) || s->temperature < 0 || s->temperature > 100)
        return ic_error_set(e, IC_EINVAL, "temperature %g is not in 0 .. 100", s->temperature);
    if (s->top_k < 0)
        return ic_error_set(e, IC_EINVAL, "top_k %d is negative (0 switches it off)", s->top_k);
    if (!(s->top_p > 0 && s->top_p <= 1))
        return ic_error_set(e, IC_EINVAL, "top_p %g is not in (0, 1] (1 switches it off)",
                            s->top_p);
    if (!(s->repetition_penalty > 0 && s->repetition_penalty <= 100))
        return ic_error_set(e, IC_EINVAL,
                            "repetition_penalty %g is not in (0, 100] (1 switches it off)",
                            s->repetition_penalty);
    if (s->max_tokens < 0)
        return ic_error_set(e, IC_EINVAL, "max_tokens %d is negative (0: the model's default)",
                            s->max_tokens);
    return IC_OK;
}

static void penalise(float *logits, int vocab, const uint8_t *seen, float penalty)
{
    for (int i = 0; i < vocab; i++) {
        if (seen[i / 8] & (1u << (i % 8)))
            logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
    }
}

static int32_t best_of(const float *logits, int vocab)
{
    int32_t best = 0;
    for (int i = 1; i < vocab; i++) {
        if (logits[i] > logits[best])
            best = i;
    }
    return best;
}

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

/* Falling logits; equal ones by id, so that the order is one order. */
static int by_logit(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static void sift_down(candidate *heap, int count, int at)
{
    for (;;) {
        int worst = at;
        for (int child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++) {
            if (by_logit(&heap[child], &heap[worst]) > 0)
                worst = child;
        }
        if (worst == at)
            return;
        candidate t = heap[at];
        heap[at] = heap[worst];
        heap[worst] = t;
        at = worst;
    }
}

/* The k best in falling order: a heap of k with the worst on top, then sorted. */
static int take_best(candidate *out, int k, const float *logits, int vocab)
{
    int count = 0;
    for (int i = 0; i < vocab; i++) {
        candidate c = {logits[i], i};
        if (count < k) {
            out[count++] = c;
            if (count == k) {
                for (int at = k / 2 - 1; at >= 0; at--)
                    sift_down(out, k, at);
            }
        } else if (by_logit(&c, &out[0]) < 0) {
            out[0] = c;
            sift_down(out, k, 0);
        }
    }
    qsort(out, (size_t)count, sizeof *out, by_logit);
    return count;
}

/* Keeps the smallest set of best candidates whose probability reaches top_p, then draws. */
static int32_t draw(const candidate *c, int count, float temperature, float top_p, double u)
{
    double total = 0;
    for (int i = 0; i < count; i++)
        total += exp(((double)c[i].logit - c[0].logit) / temperature);
    int kept = 0;
    double mass = 0;
    do
        mass += exp(((double)c[kept++].logit - c[0].logit) / temperature);
    while (kept < count && mass < (double)top_p * total);
    double target = u * mass, sum = 0;
    for (int i = 0; i < kept; i++) {
        sum += exp(((double)c[i].logit - c[0].logit) / temperature);
        if (target < sum)
            return c[i].id;
    }
    return c[kept - 1].id;
}

int32_t ic_sampler_pick(const ic_sampling *s, float *logits, int vocab, const uint8_t *seen,
                        uint64_t turn, uint64_t index)
{
    if (seen && s->repetition_penalty != 1)
        penalise(logits, vocab, seen, s->repetition_penalty);
    if (s->temperature == 0 || s->top_k == 1)
        return best_of(logits, vocab);
    int k = s->top_k > 0 && s->top_k < vocab ? s->top_k : vocab;
    candidate *c = ic_alloc((size_t)k * sizeof *c);
    int count = take_best(c, k, logits, vocab);
    int32_t id = draw(c, count, s->temperature, s->top_p, ic_sampler_uniform(s->seed, turn, index));
    ic_free(c);
    return id;
}
