/* ic_bench: commands of infchat-bench. A command is a file bench/ic_bench_<name>.c that defines
 * `const ic_bench_command ic_bench_<name>`, and one line in the list below. Commands measure and
 * print; they assert nothing. */
#ifndef IC_BENCH_H
#define IC_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ic_bench_command {
    const char *name, *arguments, *summary;
    int (*run)(int argc, char **argv); /* arguments after the command's name; exit status */
} ic_bench_command;

/* clang-format off */
#ifdef IC_HAVE_SERVER /* commands that need the server's rooms */
#define IC_BENCH_SERVER_COMMANDS(X) \
    X(recall) \
    X(store)
#else
#define IC_BENCH_SERVER_COMMANDS(X)
#endif
#define IC_BENCH_COMMANDS(X) \
    X(engine) \
    X(eval) \
    X(logits) \
    X(policy) \
    X(stream) \
    IC_BENCH_SERVER_COMMANDS(X)
/* clang-format on */

#define IC_BENCH_DECLARE(name) extern const ic_bench_command ic_bench_##name;
IC_BENCH_COMMANDS(IC_BENCH_DECLARE)
#undef IC_BENCH_DECLARE

/* The value after `option`, or `fallback`. Borrows from argv. */
const char *ic_bench_option(int argc, char **argv, const char *option, const char *fallback);
long ic_bench_number(int argc, char **argv, const char *option, long fallback);
bool ic_bench_flag(int argc, char **argv, const char *flag);
/* True when every argument is one of `flags` or one of `options` with its value (both lists end
 * with NULL); else says on stderr which is not. */
bool ic_bench_check(int argc, char **argv, const char *const *flags, const char *const *options);

void ic_bench_print_string(const char *text); /* as a JSON string, with its quotes */

size_t ic_bench_peak_memory(void); /* bytes: the most this process has had resident */
/* Bytes resident now. *anonymous (NULL: not asked for): those that are no mapped file's (weights,
 * program), of which the kernel takes and brings pages as it likes. */
size_t ic_bench_resident(size_t *anonymous);
double ic_bench_now(void); /* seconds of a clock that never jumps */

#endif
