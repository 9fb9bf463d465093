#include <math.h>
#include <string.h>

#include "engine/ic_sampler.h"
#include "ic_test.h"

enum { VOCAB = 8 };
static const float base[VOCAB] = {0.5f, 2.0f, -1.0f, 1.5f, 2.0f, 0.0f, -3.0f, 1.0f};

static ic_sampling plain(float temperature)
{
    return (ic_sampling){
        .temperature = temperature, .top_p = 1, .repetition_penalty = 1, .seed = 11};
}

static int32_t pick(const ic_sampling *s, const uint8_t *seen, uint64_t turn, uint64_t index)
{
    float logits[VOCAB];
    memcpy(logits, base, sizeof base);
    return ic_sampler_pick(s, logits, VOCAB, seen, turn, index);
}

/* How often each token comes in n draws. */
static void count_draws(const ic_sampling *s, int n, int counts[VOCAB])
{
    memset(counts, 0, VOCAB * sizeof *counts);
    for (int i = 0; i < n; i++)
        counts[pick(s, NULL, 3, (uint64_t)i)]++;
}

/* Temperature 0 takes the best logit, the lower id of two equal ones. */
static void test_greedy(void **state)
{
    (void)state;
    ic_sampling s = plain(0);
    assert_int_equal(pick(&s, NULL, 0, 0), 1);
}

/* A draw is a function of (seed, turn, index) and of nothing else: any order, same tokens; another
 * seed, turn or index, other tokens. */
static void test_draw_is_a_counter(void **state)
{
    (void)state;
    ic_sampling s = plain(1), other = plain(1);
    int32_t forward[64];
    other.seed = 12;
    int seeds = 0, turns = 0;
    for (int i = 0; i < 64; i++)
        forward[i] = pick(&s, NULL, 5, (uint64_t)i);
    for (int i = 63; i >= 0; i--) {
        assert_int_equal(pick(&s, NULL, 5, (uint64_t)i), forward[i]);
        seeds += pick(&other, NULL, 5, (uint64_t)i) != forward[i];
        turns += pick(&s, NULL, 6, (uint64_t)i) != forward[i];
    }
    assert_true(seeds > 20 && turns > 20);
}

/* Draws follow the softmax of logits / temperature. */
static void test_frequencies(void **state)
{
    (void)state;
    enum { N = 40000 };
    const float temperatures[] = {0.5f, 1.0f, 2.0f};
    for (int t = 0; t < 3; t++) {
        ic_sampling s = plain(temperatures[t]);
        int counts[VOCAB];
        double sum = 0;
        count_draws(&s, N, counts);
        for (int i = 0; i < VOCAB; i++)
            sum += exp(base[i] / temperatures[t]);
        for (int i = 0; i < VOCAB; i++) {
            double p = exp(base[i] / temperatures[t]) / sum;
            assert_true(fabs(counts[i] - N * p) <= 5 * sqrt(N * p * (1 - p)) + 1);
        }
    }
}

/* top_k leaves the k best, and of equal logits the lower id. */
static void test_top_k(void **state)
{
    (void)state;
    ic_sampling s = plain(5);
    int counts[VOCAB];
    s.top_k = 3;
    count_draws(&s, 2000, counts);
    for (int i = 0; i < VOCAB; i++)
        assert_true((counts[i] > 0) == (i == 1 || i == 3 || i == 4));
    s.top_k = 1;
    count_draws(&s, 100, counts);
    assert_int_equal(counts[1], 100);
}

/* top_p leaves the smallest set of best tokens whose probability reaches p. */
static void test_top_p(void **state)
{
    (void)state;
    ic_sampling s = plain(1);
    int counts[VOCAB];
    s.top_p = 0.5f; /* tokens 1 and 4 have 0.307 each */
    count_draws(&s, 2000, counts);
    for (int i = 0; i < VOCAB; i++)
        assert_true((counts[i] > 0) == (i == 1 || i == 4));
    s.top_p = 0.01f;
    count_draws(&s, 100, counts);
    assert_int_equal(counts[1], 100);
}

/* The repetition penalty divides positive logits and multiplies negative ones of seen tokens. */
static void test_penalty(void **state)
{
    (void)state;
    ic_sampling s = plain(0);
    s.repetition_penalty = 1.5f;
    uint8_t seen[1] = {1u << 1 | 1u << 4};
    assert_int_equal(pick(&s, seen, 0, 0), 3);
    float logits[VOCAB];
    memcpy(logits, base, sizeof base);
    seen[0] = 0xff;
    ic_sampler_pick(&s, logits, VOCAB, seen, 0, 0);
    for (int i = 0; i < VOCAB; i++)
        assert_float_equal(logits[i], base[i] > 0 ? base[i] / 1.5f : base[i] * 1.5f, 1e-6);
}

/* A field out of range is refused by name. */
static void test_check(void **state)
{
    (void)state;
    ic_error e;
    ic_sampling s = plain(0.7f);
    assert_int_equal(ic_sampling_check(&s, &e), IC_OK);
    const struct {
        ic_sampling s;
        const char *name;
    } bad[] = {
        {{.temperature = -1, .top_p = 1, .repetition_penalty = 1}, "temperature"},
        {{.temperature = NAN, .top_p = 1, .repetition_penalty = 1}, "temperature"},
        {{.top_k = -1, .top_p = 1, .repetition_penalty = 1}, "top_k"},
        {{.top_p = 0, .repetition_penalty = 1}, "top_p"},
        {{.top_p = NAN, .repetition_penalty = 1}, "top_p"},
        {{.top_p = 1, .repetition_penalty = 0}, "repetition_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .max_tokens = -1}, "max_tokens"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(ic_sampling_check(&bad[i].s, &e), IC_EINVAL);
        assert_non_null(strstr(e.text, bad[i].name));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),      cmocka_unit_test(test_draw_is_a_counter),
        cmocka_unit_test(test_frequencies), cmocka_unit_test(test_top_k),
        cmocka_unit_test(test_top_p),       cmocka_unit_test(test_penalty),
        cmocka_unit_test(test_check),
    };
    return IC_TEST_RUN(tests);
}
