#include "bench/ic_bench_memory.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "bench/ic_bench.h"

/* The settings by the names that they have here, and in the results. */
static const struct {
    const char *option, *key;
    size_t offset;
} settings[] = {
#define SETTING(option, key, member)                                                               \
    {                                                                                              \
        option, key, offsetof(ic_session_config, member)                                           \
    }
    SETTING("chunk", "chunk", chunk_max),
    SETTING("slack", "slack", slack),
    SETTING("sinks", "sinks", sinks),
    SETTING("pinned", "pinned_max", pinned_max),
    SETTING("window", "window", window),
    SETTING("recent", "recent_pct", recent_pct),
    SETTING("bias", "bias_pct", bias_pct),
    SETTING("smooth", "smooth_pct", smooth_pct),
    SETTING("pool", "pool", pool),
    SETTING("per-layer", "per_layer", per_layer),
    SETTING("frames", "frames", frames),
    SETTING("positions", "positions", positions),
    SETTING("unit", "frame_unit", frame_unit),
    SETTING("questions", "questions", questions),
    SETTING("thin", "thin", thin),
    SETTING("fade", "fade_pct", fade_pct),
    SETTING("care", "care_pct", care_pct),
    SETTING("text-share", "text_pct", text_pct),
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static int *value_of(const ic_session_config *c, int i)
{
    return (int *)(void *)((char *)(uintptr_t)c + settings[i].offset);
}

static void read_options(int argc, char **argv, bool plain, ic_session_config *c)
{
    if (plain) {
        c->chunk_max = 256;
        c->slack = 0;
        c->pinned_max = 0;
    }
    for (int i = 0; i < SETTINGS; i++) {
        char option[16];
        snprintf(option, sizeof option, "--%s", settings[i].option);
        *value_of(c, i) = (int)ic_bench_number(argc, argv, option, *value_of(c, i));
    }
}

/* "name=value/name=value": of one memory alone. Cuts the text. */
static int read_own(ic_session_config *c, char *text, ic_error *e)
{
    char *rest = NULL;
    for (char *one = strtok_r(text, "/", &rest); one; one = strtok_r(NULL, "/", &rest)) {
        char *value = strchr(one, '='), *end = NULL;
        long number = value ? strtol(value + 1, &end, 10) : 0;
        int i = 0;
        while (value && i < SETTINGS
               && (strncmp(settings[i].option, one, (size_t)(value - one)) != 0
                   || settings[i].option[value - one]))
            i++;
        if (!value || end == value + 1 || *end || i == SETTINGS)
            return ic_error_set(e, IC_EINVAL, "\"%s\" is no setting with a number", one);
        *value_of(c, i) = (int)number;
    }
    return IC_OK;
}

/* One more of the list; the number of entries then, or a code. */
static int add(const ic_engine *engine, int argc, char **argv, bool plain, const char *name,
               const char *tokens, const char *own, ic_session_config *list, int count, ic_error *e)
{
    char *end = NULL;
    long cache = strtol(tokens, &end, 10);
    if (end == tokens || *end)
        return ic_error_set(e, IC_EINVAL, "\"%s\" is not a number of tokens", tokens);
    if (count == IC_BENCH_MEMORIES_MAX)
        return ic_error_set(e, IC_ELIMIT, "more than %d memories", IC_BENCH_MEMORIES_MAX);
    ic_session_config *c = &list[count];
    ic_session_config_default(engine, (int)cache, c);
    snprintf(c->policy, sizeof c->policy, "%s", name);
    read_options(argc, argv, plain, c);
    char *copy = ic_strdup(own);
    int rc = read_own(c, copy, e);
    ic_free(copy);
    rc = rc ? rc : ic_session_config_check(engine, c, e);
    return rc ? rc : count + 1;
}

int ic_bench_memories(const ic_engine *engine, int argc, char **argv, bool plain,
                      ic_session_config list[IC_BENCH_MEMORIES_MAX], ic_error *e)
{
    char *policies = ic_strdup(ic_bench_option(argc, argv, "--policy", "saddle"));
    int count = 0;
    char *rest_names = NULL;
    for (char *name = strtok_r(policies, ",", &rest_names); name && count >= 0;
         name = strtok_r(NULL, ",", &rest_names)) {
        char *own = strchr(name, '/');
        if (own)
            *own++ = '\0';
        char *colon = strchr(name, ':');
        if (colon)
            *colon = '\0';
        char *caches =
            ic_strdup(colon ? colon + 1 : ic_bench_option(argc, argv, "--cache-tokens", "0"));
        char *rest = NULL;
        for (char *c = strtok_r(caches, ",", &rest); c && count >= 0;
             c = strtok_r(NULL, ",", &rest))
            count = add(engine, argc, argv, plain, name, c, own ? own : "", list, count, e);
        ic_free(caches);
    }
    ic_free(policies);
    return count == 0 ? ic_error_set(e, IC_EINVAL, "no policy is named") : count;
}

void ic_bench_memory_print(const ic_session_config *c)
{
    printf("\"policy\":\"%s\",\"cache_tokens\":%d", c->policy, c->cache_tokens);
    for (int i = 0; i < SETTINGS; i++)
        printf(",\"%s\":%d", settings[i].key, *value_of(c, i));
}

void ic_bench_map_init(ic_bench_map *m, int looks)
{
    size_t n = (size_t)looks;
    *m = (ic_bench_map){.looks = looks};
    m->edges = ic_calloc(n + 1, sizeof *m->edges);
    m->frames = ic_calloc(n * n + 1, sizeof *m->frames);
    m->text = ic_calloc(n * n + 1, sizeof *m->text);
}

void ic_bench_map_fini(ic_bench_map *m)
{
    ic_free(m->edges);
    ic_free(m->frames);
    ic_free(m->text);
    *m = (ic_bench_map){0};
}

/* Rows stand in position order, so their ordinals rise from bin to bin. */
static void count_head(const ic_row *rows, int n, const ic_bench_map *m, int bins, uint32_t *frames,
                       uint32_t *text)
{
    int bin = 0;
    for (int i = 0; i < n; i++) {
        while (bin < bins && rows[i].ordinal >= m->edges[bin + 1])
            bin++;
        if (bin < bins)
            (rows[i].kind == IC_ROW_TEXT ? text : frames)[bin]++;
    }
}

void ic_bench_map_look(ic_bench_map *m, ic_session *s)
{
    if (m->looked >= m->looks)
        return;
    const ic_slab *slab = ic_session_slab(s);
    const ic_slab_desc *d = ic_slab_desc_of(slab);
    ic_row *rows = ic_calloc((size_t)d->slots, sizeof *rows);
    ic_session_stats stats;
    ic_session_stats_of(s, &stats);
    size_t row = (size_t)m->looked * (size_t)m->looks;
    m->edges[++m->looked] = (uint32_t)stats.tokens;
    for (int head = 0; head < d->layers * d->kv_heads; head++) {
        int n = ic_slab_count(slab, head / d->kv_heads, head % d->kv_heads);
        ic_slab_rows(slab, head / d->kv_heads, head % d->kv_heads, rows, NULL, NULL);
        count_head(rows, n, m, m->looked, m->frames + row, m->text + row);
    }
    ic_free(rows);
}

void ic_bench_map_print(const ic_bench_map *m, const char *unit, double span)
{
    const uint32_t *counts[] = {m->frames, m->text};
    static const char *const names[] = {"frames", "text"};
    if (m->looks == 0)
        return;
    printf(",\"map\":{\"looks\":%d,\"%s\":%.1f", m->looked, unit, span);
    for (int k = 0; k < 2; k++) {
        printf(",\"%s\":[", names[k]);
        for (int i = 0; i < m->looked; i++) {
            printf("%s[", i ? "," : "");
            for (int b = 0; b <= i; b++)
                printf("%s%u", b ? "," : "", counts[k][i * m->looks + b]);
            printf("]");
        }
        printf("]");
    }
    printf("}");
}
