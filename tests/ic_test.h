/* ic_test: what every test program needs: cmocka with its includes in the right order, a temporary
 * folder, and a leak check in the group's teardown. */
#ifndef IC_TEST_H
#define IC_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/ic_err.h"

/* Runs a table of tests; afterwards no block of ic_mem may be alive. Returns main's exit status. */
#define IC_TEST_RUN(tests)                                                                         \
    cmocka_run_group_tests(tests, ic_test_group_setup, ic_test_group_teardown)
int ic_test_group_setup(void **state);
int ic_test_group_teardown(void **state);

/* A fresh private folder, removed with its content at the group's teardown. Borrows: valid until
 * then. */
const char *ic_test_dir(void);

/* Fails the test with the text of e unless rc is 0. */
#define ic_assert_ok(rc, e) ic_test_expect_ok((rc), (e), __FILE__, __LINE__)
void ic_test_expect_ok(int rc, const ic_error *e, const char *file, int line);

/* The next of a row of numbers below `below` that begins with *state (not 0). */
unsigned ic_test_draw(uint64_t *state, unsigned below);
/* Bytes that depend on the seed and do not compress. */
void ic_test_noise(void *bytes, size_t size, int64_t seed);

/* Exit status by which a program tells ctest that it was skipped; the reason is printed first. */
enum { IC_TEST_SKIPPED = 77 };

#endif
