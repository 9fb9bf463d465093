/* ic_assert: checks of promises made inside this program, on in release builds too. Never for
 * input: bad input is an error code. */
#ifndef IC_ASSERT_H
#define IC_ASSERT_H

/* Prints the broken promise with its place to stderr and aborts. */
__attribute__((noreturn)) void ic_assert_fail(const char *what, const char *file, int line);

#define IC_ASSERT(cond) ((cond) ? (void)0 : ic_assert_fail(#cond, __FILE__, __LINE__))

/* For hot loops: checked only in debug builds. */
#ifdef NDEBUG
#define IC_DASSERT(cond) ((void)sizeof(cond))
#else
#define IC_DASSERT(cond) IC_ASSERT(cond)
#endif

#endif
