/* ic_bench_memory: the memories that a run compares: sessions' configurations from the command
 * line, how their settings are printed, and what a session still holds. */
#ifndef IC_BENCH_MEMORY_H
#define IC_BENCH_MEMORY_H

#include "engine/ic_session.h"

enum { IC_BENCH_MEMORIES_MAX = 64 };

/* "--policy NAME[:TOKENS],... --cache-tokens C,...": every name without tokens of its own with
 * every C, in this order; and the settings of IC_BENCH_MEMORY_OPTIONS, which all of them share.
 * plain: for plain text, in chunks of 256 rows, without slack, nothing pinned. Each is checked.
 * Returns how many, or a negative code. */
int ic_bench_memories(const ic_engine *engine, int argc, char **argv, bool plain,
                      ic_session_config list[IC_BENCH_MEMORIES_MAX], ic_error *e);
/* clang-format off */
#define IC_BENCH_MEMORY_OPTIONS \
    "--policy", "--cache-tokens", "--chunk", "--slack", "--pinned", "--sinks", "--window", \
    "--recent", "--bias", "--smooth", "--pool", "--per-layer", "--frames"
#define IC_BENCH_MEMORY_USAGE \
    "[--policy NAME[:TOKENS],...] [--cache-tokens C,...]\n" \
    "           [--chunk ROWS] [--slack N] [--pinned N] [--sinks N] [--window L] [--recent PCT]\n" \
    "           [--bias PCT] [--smooth PCT] [--pool N] [--per-layer 0|1] [--frames N]"
/* clang-format on */

/* Prints the settings as members of a JSON object, without braces. */
void ic_bench_memory_print(const ic_session_config *c);

/* Counts the rows that are held, over all layers and heads, by the bin of their ordinal: bin b has
 * those from edges[b] up to edges[b + 1] (edges: bins + 1, rising). Adds to frames (vision rows and
 * their markers) and text, [bins] each. */
void ic_bench_memory_count(ic_session *s, const uint32_t *edges, int bins, uint32_t *frames,
                           uint32_t *text);

#endif
