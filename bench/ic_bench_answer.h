/* ic_bench_answer: is an answer right? The rule of models/demo/eval. */
#ifndef IC_BENCH_ANSWER_H
#define IC_BENCH_ANSWER_H

#include <stdbool.h>

/* accept: "a&b|c": a, and b or c, stand in the answer as whole words, in any case. */
bool ic_bench_is_right(const char *answer, const char *accept);

#endif
