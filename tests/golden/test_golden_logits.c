/* The engine against transformers: token ids, positions, logits and greedy answers of the golden
 * cases (tests/golden/README.md). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ic_test.h"
#include "ic_test_session.h"

static const char *const cases[] = {
    "text_short", "text_system", "text_bf16", "text_f16",   "image_f32",      "images_f32",
    "image_bf16", "image_f16",   "video_f32", "video_bf16", "video_chat_f32", "video_chat_f16",
};
enum { CASES = sizeof cases / sizeof *cases, GREEDY = 64, BUDGET = 1024 };

/* INFCHAT_TEST_CASES, where it is set, names those that are run: a device that is emulated is slow.
 */
static bool is_wanted(const char *name)
{
    const char *wanted = getenv("INFCHAT_TEST_CASES");
    return !wanted || strstr(wanted, name);
}

#define FOR_CASES(i)                                                                               \
    for (int i = 0; i < CASES; i++)                                                                \
        if (is_wanted(cases[i]))

/* One case from the first turn to its last greedy token. */
typedef struct run {
    ic_test_case c;
    ic_engine *engine;
    ic_session *session;
    ic_test_log log;
} run;

static void run_case(run *r, const char *name, const char *dtype)
{
    ic_test_case_load(&r->c, name);
    r->engine = ic_test_engine(r->c.model, dtype, 1);
    ic_test_engine_never_stop(r->engine);
    r->session = ic_test_session(r->engine, NULL, BUDGET);
    ic_test_log_init(&r->log, r->session, ic_engine_info_of(r->engine)->vocab);
    ic_test_watch(r->engine, &r->log, 1);
    ic_sampling greedy = ic_test_greedy(GREEDY);
    ic_test_case_run(&r->c, r->engine, &r->log, 512, &greedy);
}

static void end_case(run *r)
{
    ic_test_watch(r->engine, NULL, 0);
    ic_test_log_fini(&r->log);
    ic_session_destroy(&r->session);
    ic_engine_close(&r->engine);
    ic_test_case_fini(&r->c);
}

/* Largest difference to the golden logits, and the largest of these, over the rows kept. */
static double largest_error(const run *r, double *largest)
{
    double worst = 0;
    int vocab = r->log.vocab;
    *largest = 0;
    for (int64_t i = 0; i < r->c.logits.count; i++) {
        int64_t row = r->c.logit_rows.i32[i / vocab];
        assert_true(row < r->log.rows);
        worst =
            fmax(worst, fabs((double)r->log.logits[row * vocab + i % vocab] - r->c.logits.f32[i]));
        *largest = fmax(*largest, fabs((double)r->c.logits.f32[i]));
    }
    return worst;
}

/* The prompt that a session appends, turn by turn, is to the token what the template and the
 * processor give for the whole conversation. */
static void test_token_ids(void **state)
{
    (void)state;
    FOR_CASES(i)
    {
        run r;
        run_case(&r, cases[i], NULL);
        print_message("%s\n", cases[i]);
        assert_true(r.log.rows >= r.c.input_ids.count);
        assert_memory_equal(r.log.ids, r.c.input_ids.data,
                            (size_t)r.c.input_ids.count * sizeof(int32_t));
        end_case(&r);
    }
}

/* With nothing evicted, the positions inside the cache are those of get_rope_index, in every layer
 * and head. */
static void test_positions(void **state)
{
    (void)state;
    FOR_CASES(i)
    {
        run r;
        run_case(&r, cases[i], NULL);
        const ic_slab *slab = ic_session_slab(r.session);
        const ic_slab_desc *d = ic_slab_desc_of(slab);
        int n = (int)r.c.input_ids.count;
        for (int head = 0; head < d->layers * d->kv_heads; head++) {
            int count = ic_slab_count(slab, head / d->kv_heads, head % d->kv_heads);
            assert_true(count >= n);
            ic_pos *pos = calloc((size_t)count, sizeof *pos);
            ic_slab_rows(slab, head / d->kv_heads, head % d->kv_heads, NULL, NULL, pos);
            for (int k = 0; k < n; k++) {
                assert_int_equal(pos[k].t, r.c.position_ids.i32[k]);
                assert_int_equal(pos[k].h, r.c.position_ids.i32[n + k]);
                assert_int_equal(pos[k].w, r.c.position_ids.i32[2 * n + k]);
            }
            free(pos);
        }
        end_case(&r);
    }
}

/* Single precision: logits of text, image and video prompts within 1e-4 of the largest. */
static void test_logits_f32(void **state)
{
    (void)state;
    FOR_CASES(i)
    {
        run r;
        double largest;
        run_case(&r, cases[i], "f32");
        double worst = largest_error(&r, &largest);
        print_message("%s: error %.1e of the largest logit\n", cases[i], worst / largest);
        assert_true(worst <= 1e-4 * largest);
        end_case(&r);
    }
}

/* bf16 products: the error against single precision is at most 1.5 times that of transformers' own
 * bf16 run. */
static void test_logits_bf16(void **state)
{
    (void)state;
    int seen = 0;
    FOR_CASES(i)
    {
        run r;
        double largest;
        run_case(&r, cases[i], NULL);
        json_t *theirs = json_object_get(r.c.json, "bf16_error_of_transformers");
        if (theirs) {
            double worst = largest_error(&r, &largest);
            print_message("%s: error %.3f, theirs %.3f\n", cases[i], worst,
                          json_number_value(theirs));
            assert_true(worst <= 1.5 * json_number_value(theirs));
            seen++;
        }
        end_case(&r);
    }
    assert_true(seen >= 3 || getenv("INFCHAT_TEST_CASES"));
}

/* How far the best logit of a row is above the second. */
static double gap_of(const run *r, int64_t row)
{
    const float *logits = r->log.logits + row * r->log.vocab;
    double best = -INFINITY, second = -INFINITY;
    for (int i = 0; i < r->log.vocab; i++) {
        double v = logits[i];
        second = v > best ? best : v > second ? v : second;
        best = v > best ? v : best;
    }
    return best - second;
}

/* Another device may choose another token where the best logit is no further ahead than 20 times
 * what it may be off by; what comes behind is another text. */
static void expect_excused(const run *r, int at)
{
    double largest, gap = gap_of(r, r->c.input_ids.count - 1 + at);
    largest_error(r, &largest);
    print_message("%s: another token at %d, where the best is %.1e ahead\n", r->c.name, at,
                  gap / largest);
    assert_string_not_equal(ic_test_device(), "cpu");
    assert_true(gap <= 20 * 1e-4 * largest);
}

/* 64 greedy tokens are the same tokens, in single precision. */
static void test_greedy(void **state)
{
    (void)state;
    FOR_CASES(i)
    {
        run r;
        run_case(&r, cases[i], "f32");
        assert_int_equal(r.log.finish, IC_FINISH_LENGTH);
        assert_int_equal(r.log.answer_count, GREEDY);
        int same = 0;
        while (same < GREEDY && r.log.answer[same] == r.c.greedy.i32[same])
            same++;
        if (same < GREEDY)
            expect_excused(&r, same);
        end_case(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token_ids),  cmocka_unit_test(test_positions),
        cmocka_unit_test(test_logits_f32), cmocka_unit_test(test_logits_bf16),
        cmocka_unit_test(test_greedy),
    };
    return ic_test_device_is_there() ? IC_TEST_RUN(tests) : IC_TEST_SKIPPED;
}
