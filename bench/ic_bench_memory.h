/* ic_bench_memory: the memories that a run compares: sessions' configurations from the command
 * line, how their settings are printed, and what a session still holds. */
#ifndef IC_BENCH_MEMORY_H
#define IC_BENCH_MEMORY_H

#include "engine/ic_session.h"

enum { IC_BENCH_MEMORIES_MAX = 64 };

/* "--policy NAME[:TOKENS][/SETTING=N]...,... --cache-tokens C,...": every name without tokens of
 * its own with every C, in this order; and the settings of IC_BENCH_MEMORY_OPTIONS, which all share
 * that have no own ("saddle:256/bias=-1/pool=1").
 * plain: for plain text, in chunks of 256 rows, without slack, nothing pinned. Each is checked.
 * Returns how many, or a negative code. */
int ic_bench_memories(const ic_engine *engine, int argc, char **argv, bool plain,
                      ic_session_config list[IC_BENCH_MEMORIES_MAX], ic_error *e);
/* clang-format off */
#define IC_BENCH_MEMORY_OPTIONS \
    "--policy", "--cache-tokens", "--chunk", "--slack", "--pinned", "--sinks", "--window", \
    "--recent", "--bias", "--smooth", "--pool", "--per-layer", "--frames", "--positions", "--unit", \
    "--questions", "--thin", "--fade", "--care", "--text-share"
#define IC_BENCH_MEMORY_USAGE \
    "[--policy NAME[:TOKENS][/SETTING=N]...,...]\n" \
    "           [--cache-tokens C,...]\n" \
    "           [--chunk ROWS] [--slack N] [--pinned N] [--sinks N] [--window L] [--recent PCT]\n" \
    "           [--bias PCT] [--smooth PCT] [--pool N] [--per-layer 0|1] [--frames N]\n" \
    "           [--positions 0|1 (original)] [--unit 1|2 (whole frames)]\n" \
    "           [--questions ROWS] [--thin ROWS] [--fade PCT] [--care PCT] [--text-share PCT]"
/* clang-format on */

/* Prints the settings as members of a JSON object, without braces. */
void ic_bench_memory_print(const ic_session_config *c);

/* A map of what a memory keeps: at equal intervals of a stream ("looks"), how many rows are still
 * held of each interval so far, over all layers and heads. */
typedef struct ic_bench_map {
    int looks, looked;
    uint32_t *edges;         /* ordinals at which the intervals begin [looks + 1] */
    uint32_t *frames, *text; /* vision rows with their markers, and the others [looks, looks] */
} ic_bench_map;

void ic_bench_map_init(ic_bench_map *m, int looks);
void ic_bench_map_fini(ic_bench_map *m);
/* The next look; of `looks`, or nothing happens. */
void ic_bench_map_look(ic_bench_map *m, ic_session *s);
/* Prints "map": {looks, `unit`: span of the whole stream, frames: [[...], ...], text}, or nothing
 * of a map without looks. */
void ic_bench_map_print(const ic_bench_map *m, const char *unit, double span);

#endif
