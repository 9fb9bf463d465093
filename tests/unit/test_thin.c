/* The arithmetic by which frames are thinned out. */
#include "kernels/ic_thin.h"

#include <math.h>

#include "ic_test.h"

/* Ages to a power are those of the library, but for what the last bit leaves open. */
static void powers_are_right(void **state)
{
    (void)state;
    for (int hundredths = 0; hundredths <= 1000; hundredths += hundredths < 200 ? 25 : 133)
        for (int age = 1; age < 100000; age += 1 + age / 300) {
            float fade = (float)hundredths / 100, mine = ic_thin_fade((float)age, fade);
            double right = pow(age, (double)fade);
            if (right > 3.41e38)
                assert_true(isinf(mine));
            else if (fabs((double)mine - right) > right * 6e-8)
                fail_msg("%d to the power %g is %.9g", age, (double)fade, (double)mine);
        }
}

/* What is not old is 1 old, and what overflows is infinite. */
static void bounds_hold(void **state)
{
    (void)state;
    static const float young[] = {1, 0.5f, 0, -7};
    for (int i = 0; i < 4; i++)
        assert_true(ic_thin_fade(young[i], 1.5f) == 1.0f);
    assert_true(ic_thin_fade(12345, 0) == 1.0f);
    assert_true(isinf(ic_thin_fade(1e9f, 1000)));
}

/* Each further row of a group counts half, down to nothing. */
static void rows_count_by_halves(void **state)
{
    (void)state;
    for (int rows = 1; rows < 4000; rows++)
        assert_true(ic_thin_lost(6, 4, 1.5f, rows) == ldexpf(2.25f, 1 - rows));
    assert_true(ic_thin_worth(2, 4, 3) == 2.5f);
    assert_true(ic_thin_worth(-1, 4, 3) == 1 && ic_thin_worth(2, 0, 3) == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(powers_are_right),
        cmocka_unit_test(bounds_hold),
        cmocka_unit_test(rows_count_by_halves),
    };
    return IC_TEST_RUN(tests);
}
