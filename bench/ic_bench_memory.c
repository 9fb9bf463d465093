#include "bench/ic_bench_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "bench/ic_bench.h"

static void read_settings(int argc, char **argv, bool plain, ic_session_config *c)
{
    if (plain) {
        c->chunk_max = 256;
        c->slack = 0;
        c->pinned_max = 0;
    }
    const struct {
        const char *option;
        int *value;
    } settings[] = {
        {"--chunk", &c->chunk_max},     {"--slack", &c->slack},       {"--pinned", &c->pinned_max},
        {"--sinks", &c->sinks},         {"--window", &c->window},     {"--recent", &c->recent_pct},
        {"--bias", &c->bias_pct},       {"--smooth", &c->smooth_pct}, {"--pool", &c->pool},
        {"--per-layer", &c->per_layer}, {"--frames", &c->frames}};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        *settings[i].value =
            (int)ic_bench_number(argc, argv, settings[i].option, *settings[i].value);
}

/* One more of the list; the number of entries then, or a code. */
static int add(const ic_engine *engine, int argc, char **argv, bool plain, const char *name,
               const char *tokens, ic_session_config *list, int count, ic_error *e)
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
    read_settings(argc, argv, plain, c);
    int rc = ic_session_config_check(engine, c, e);
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
        char *colon = strchr(name, ':');
        if (colon)
            *colon = '\0';
        char *caches =
            ic_strdup(colon ? colon + 1 : ic_bench_option(argc, argv, "--cache-tokens", "0"));
        char *rest = NULL;
        for (char *c = strtok_r(caches, ",", &rest); c && count >= 0;
             c = strtok_r(NULL, ",", &rest))
            count = add(engine, argc, argv, plain, name, c, list, count, e);
        ic_free(caches);
    }
    ic_free(policies);
    return count == 0 ? ic_error_set(e, IC_EINVAL, "no policy is named") : count;
}

void ic_bench_memory_print(const ic_session_config *c)
{
    printf("\"policy\":\"%s\",\"cache_tokens\":%d,\"chunk\":%d,\"slack\":%d,\"sinks\":%d,"
           "\"pinned_max\":%d,\"window\":%d,\"recent_pct\":%d,\"bias_pct\":%d,\"smooth_pct\":%d,"
           "\"pool\":%d,\"per_layer\":%d,\"frames\":%d",
           c->policy, c->cache_tokens, c->chunk_max, c->slack, c->sinks, c->pinned_max, c->window,
           c->recent_pct, c->bias_pct, c->smooth_pct, c->pool, c->per_layer, c->frames);
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
