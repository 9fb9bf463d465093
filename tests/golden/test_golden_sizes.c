/* ic_engine_grid, ic_engine_clip_grid: the sizes that transformers' processors choose. */
#include "ic_test.h"

#include "engine/ic_engine.h"
#include "ic_test_npy.h"
#include "ic_test_session.h"

/* Ensures that pictures and clips of any size get the processor's size under four different
 * settings, and that aspect ratios are refused where it refuses them. */
static void test_equals_the_processors(void **state)
{
    (void)state;
    static const char *const models[] = {"gqa1_bias_f16", "gqa2_text_f32", "gqa2_tied_f32",
                                         "gqa4_untied_bf16"};
    ic_npy sizes;
    ic_npy_golden("sizes.npy", &sizes);
    int checked = 0;
    for (int m = 0; m < 4; m++) {
        ic_engine *engine = ic_test_engine(models[m], NULL, 1);
        for (int64_t i = 0; i < sizes.shape[0]; i++) {
            const int32_t *s = sizes.i32 + i * 7;
            if (s[0] != m)
                continue;
            ic_error e = {0};
            ic_grid g;
            int rc = s[1] ? ic_engine_clip_grid(engine, s[4], s[3], s[2], &g, &e)
                          : ic_engine_grid(engine, s[4], s[3], 0, false, &g, &e);
            if (rc != (s[5] < 0 ? IC_EINVAL : IC_OK)
                || (rc == IC_OK && (g.height != s[5] || g.width != s[6])))
                fail_msg("%s, %d frames of %d x %d (w x h): %d x %d for %d x %d (%s)", models[m],
                         s[2], s[4], s[3], rc ? -1 : g.width, rc ? -1 : g.height, s[6], s[5],
                         e.text);
            checked++;
        }
        ic_engine_close(&engine);
    }
    assert_int_equal(checked, sizes.shape[0]);
    ic_npy_fini(&sizes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_equals_the_processors)};
    return IC_TEST_RUN(tests);
}
