/* Tokens that the device draws against those of the engine's sampler, from the same logits. */
#include <stdio.h>
#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_sampler.h"
#include "ic_test_cuda.h"
#include "kernels/ic_ops.h"

enum { ROWS = 6 };

static ic_device *cuda;
static uint32_t seed = 11;

static float next_random(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)((int32_t)seed >> 8) / (float)(1 << 23);
}

/* Logits as models give them: a few stand out. With ties: many are alike. */
static void fill(float *logits, int vocab, bool ties)
{
    for (int i = 0; i < vocab; i++) {
        float v = next_random() * 4;
        logits[i] = ties ? (float)(int)v : v;
    }
    for (int i = 0; i < 8 && vocab > 8; i++)
        logits[(seed >> 7) % (uint32_t)vocab] += 6 + next_random() * 3;
}

/* The device's tokens for ROWS rows are the sampler's. Returns how many different ones there were.
 */
static int check(const ic_sampling *s, int vocab, bool ties)
{
    size_t row_bytes = (size_t)vocab * sizeof(float), gap = 3 * sizeof(float);
    float *host = ic_alloc(ROWS * row_bytes), *one = ic_alloc(row_bytes);
    uint8_t *seen = ic_alloc((size_t)vocab / 8 + 1);
    for (int i = 0; i < vocab; i += 3)
        seen[i / 8] |= (uint8_t)(1u << (i % 8));
    ic_mat logits = {ic_device_alloc(cuda, ROWS * (row_bytes + gap)), IC_F32, ROWS, vocab,
                     vocab + 3};
    assert_non_null(logits.data);
    ic_draw draws[ROWS];
    int32_t tokens[ROWS], wanted[ROWS];
    for (int i = 0; i < ROWS; i++) {
        float *row = host + (size_t)i * (size_t)vocab;
        fill(row, vocab, ties);
        char *to = (char *)logits.data + (size_t)i * (row_bytes + gap);
        assert_int_equal(ic_device_upload(cuda, to, row, row_bytes), 0);
        draws[i] =
            (ic_draw){s->temperature,        s->top_k, s->top_p,
                      s->repetition_penalty, seen,     ic_sampler_uniform(s->seed, 2, (uint64_t)i)};
        memcpy(one, row, row_bytes);
        wanted[i] = ic_sampler_pick(s, one, vocab, seen, 2, (uint64_t)i);
    }
    assert_int_equal(ic_op_sample(cuda, &logits, draws, tokens), 0);
    int different = 0;
    for (int i = 0; i < ROWS; i++) {
        assert_int_equal(tokens[i], wanted[i]);
        different += i == 0 || tokens[i] != tokens[i - 1];
    }
    ic_device_free(cuda, logits.data);
    ic_free(host);
    ic_free(one);
    ic_free(seen);
    return different;
}

/* Greedy, top-k, top-p and penalty, each alone and together, over small and large vocabularies,
 * with ties and without: the same tokens. */
static void draws_are_the_samplers(void **state)
{
    (void)state;
    static const ic_sampling samplings[] = {
        {.temperature = 0, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 0, .top_p = 1, .repetition_penalty = 1.3f},
        {.temperature = 1, .top_k = 1, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 1},
        {.temperature = 0.7f, .top_k = 20, .top_p = 0.8f, .repetition_penalty = 1.05f, .seed = 2},
        {.temperature = 2, .top_k = 1500, .top_p = 0.95f, .repetition_penalty = 1, .seed = 3},
        {.temperature = 5, .top_p = 0.5f, .repetition_penalty = 0.8f, .seed = 4},
        {.temperature = 0.05f, .top_k = 3, .top_p = 0.01f, .repetition_penalty = 1, .seed = 5},
    };
    static const int vocabs[] = {1, 7, 300, 2048, 5000};
    int different = 0;
    for (size_t s = 0; s < sizeof samplings / sizeof *samplings; s++)
        for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++)
            for (int ties = 0; ties < 2; ties++)
                different += check(&samplings[s], vocabs[v], ties);
    printf("  %d rows, %d changes of token\n",
           (int)(sizeof samplings / sizeof *samplings * sizeof vocabs / sizeof *vocabs * 2 * ROWS),
           different);
    assert_true(different > 200); /* else the draws decided nothing */
}

/* A vocabulary of a real model, with everything of equal chance: the draw is where the sum says. */
static void flat_logits_draw_by_place(void **state)
{
    (void)state;
    enum { VOCAB = 151936 };
    ic_mat logits = {ic_device_alloc(cuda, VOCAB * sizeof(float)), IC_F32, 1, VOCAB, VOCAB};
    assert_non_null(logits.data);
    static const double places[] = {0, 0.25, 0.5, 0.999999};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        ic_draw draw = {.temperature = 1, .top_p = 1, .penalty = 1, .uniform = places[i]};
        int32_t token = -1;
        assert_int_equal(ic_op_sample(cuda, &logits, &draw, &token), 0);
        assert_int_equal(token, (int32_t)(places[i] * VOCAB));
    }
    ic_device_free(cuda, logits.data);
}

static int open_device(void **state)
{
    if (ic_test_group_setup(state))
        return -1;
    cuda = ic_test_cuda_open(0);
    return cuda ? 0 : -1;
}

static int close_device(void **state)
{
    ic_device_close(&cuda);
    return ic_test_group_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_are_the_samplers),
        cmocka_unit_test(flat_logits_draw_by_place),
    };
    return ic_test_cuda_is_there() ? cmocka_run_group_tests(tests, open_device, close_device)
                                   : IC_TEST_SKIPPED;
}
