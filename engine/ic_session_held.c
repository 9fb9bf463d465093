/* What a session still holds, counted from its slot tables: for people, and for a checkpoint's
 * head.
 */
#include "engine/ic_session_held.h"

#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_session_priv.h"

/* --- counting -----------------------------------------------------------------------------------
 */

typedef struct counting {
    const ic_session *s;
    ic_session_held *held;
    ic_row *rows;                                 /* [slots] of one head */
    uint64_t *seen;                               /* bitmap: groups that some head holds */
    uint32_t groups;                              /* numbers in it: below that */
    int64_t pinned, sinks, text, vision, markers; /* over all heads */
    int64_t span[IC_HELD_SPANS];
    int64_t bin_text[IC_HELD_BINS], bin_vision[IC_HELD_BINS];
    int64_t width_us; /* of a span; 0: there are none */
} counting;

/* The narrowest of these widths that needs no more spans than there are. */
static int64_t span_width(int64_t end_us)
{
    static const int seconds[] = {1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600};
    const int64_t second = 1000000;
    for (size_t i = 0; i < sizeof seconds / sizeof *seconds; i++)
        if (end_us / (seconds[i] * second) < IC_HELD_SPANS)
            return seconds[i] * second;
    return (end_us / IC_HELD_SPANS / (3600 * second) + 1) * 3600 * second;
}

static int bin_of(const counting *n, uint32_t ordinal)
{
    uint64_t bin = (uint64_t)ordinal * IC_HELD_BINS / (n->s->stats.tokens ? n->s->stats.tokens : 1);
    return bin < IC_HELD_BINS ? (int)bin : IC_HELD_BINS - 1;
}

/* A patch or, where frames are thinned out, a marker that stands for its group. */
static void count_group(counting *n, const ic_row *row)
{
    const ic_session *s = n->s;
    uint32_t bit = row->group;
    if (bit == 0 || bit >= n->groups)
        return;
    bool first = !(n->seen[bit / 64] >> (bit % 64) & 1);
    n->seen[bit / 64] |= UINT64_C(1) << (bit % 64);
    n->held->groups += first;
    if (!n->width_us || row->group < s->clock.knot[0].group)
        return; /* shown before the session had a clock */
    int64_t span =
        ic_stream_clock_time(&s->clock, (uint32_t)s->stats.groups, row->group) / n->width_us;
    span = span < IC_HELD_SPANS ? span : IC_HELD_SPANS - 1;
    n->held->spans[span].groups += first;
    n->span[span] += row->kind == IC_ROW_VISION;
}

static void count_head(counting *n, int layer, int kv_head)
{
    const ic_session_config *c = &n->s->config;
    bool has_sinks = n->s->policy->settings & IC_USES_SINKS;
    int count = ic_slab_count(n->s->slab, layer, kv_head), sinks = has_sinks ? c->sinks : 0;
    ic_slab_rows(n->s->slab, layer, kv_head, n->rows, NULL, NULL);
    for (int i = 0; i < count; i++) {
        const ic_row *row = &n->rows[i];
        if (row->kind == IC_ROW_VISION || (row->kind == IC_ROW_MARKER && n->s->config.thin > 0))
            count_group(n, row);
        if (row->kind == IC_ROW_VISION) {
            n->vision++;
            n->bin_vision[bin_of(n, row->ordinal)]++;
            continue;
        }
        n->bin_text[bin_of(n, row->ordinal)]++;
        if (row->pinned)
            n->pinned++;
        else if (row->kind == IC_ROW_MARKER)
            n->markers++;
        else if (sinks-- > 0)
            n->sinks++;
        else
            n->text++;
    }
}

static int mean(int64_t sum, int heads)
{
    return (int)((sum + heads / 2) / heads);
}

static void tell(const counting *n)
{
    ic_session_held *h = n->held;
    double rows = (double)n->s->stats.tokens / IC_HELD_BINS * h->heads;
    h->pinned = mean(n->pinned, h->heads);
    h->sinks = mean(n->sinks, h->heads);
    h->text = mean(n->text, h->heads);
    h->vision = mean(n->vision, h->heads);
    h->markers = mean(n->markers, h->heads);
    int held = mean(n->pinned + n->sinks + n->text + n->vision + n->markers, h->heads);
    h->evicted_tokens = h->tokens - (uint64_t)held;
    if (h->groups_seen > (uint64_t)h->groups) /* else one is going in */
        h->evicted_groups = h->groups_seen - (uint64_t)h->groups;
    for (int i = 0; i < h->span_count; i++) {
        h->spans[i].from_us = i * n->width_us;
        h->spans[i].to_us = (i + 1) * n->width_us;
        h->spans[i].tokens = mean(n->span[i], h->heads);
    }
    for (int i = 0; rows > 0 && i < IC_HELD_BINS; i++) {
        double text = (double)n->bin_text[i] / rows, vision = (double)n->bin_vision[i] / rows;
        h->bins[i].text = (float)(text < 1 ? text : 1);
        h->bins[i].vision = (float)(vision < 1 ? vision : 1);
    }
}

int ic_session_held_of(const ic_session *s, ic_session_held *held, ic_error *e)
{
    const ic_slab_desc *d = ic_slab_desc_of(s->slab);
    enum { GOING_IN = 1 }; /* a group that is not counted yet */
    counting n = {.s = s, .held = held, .groups = (uint32_t)s->stats.groups + GOING_IN + 1};
    n.rows = ic_try_calloc((size_t)d->slots, sizeof *n.rows);
    n.seen = ic_try_calloc((size_t)n.groups / 64 + 1, sizeof *n.seen);
    *held = (ic_session_held){.tokens = s->stats.tokens,
                              .groups_seen = s->stats.groups,
                              .stream_us = s->clock.base_us + s->clock.last_us,
                              .used = ic_slab_used(s->slab),
                              .budget = s->config.cache_tokens,
                              .slots = d->slots,
                              .heads = d->layers * d->kv_heads};
    int rc = n.rows && n.seen ? IC_OK
                              : ic_error_set(e, IC_ENOMEM, "no memory to count %d rows", d->slots);
    if (!rc && s->clock.count) {
        n.width_us = span_width(held->stream_us);
        held->span_count = (int)(held->stream_us / n.width_us) + 1;
    }
    for (int head = 0; !rc && head < held->heads; head++)
        count_head(&n, head / d->kv_heads, head % d->kv_heads);
    if (!rc)
        tell(&n);
    ic_free(n.rows);
    ic_free(n.seen);
    return rc;
}

/* --- as bytes -----------------------------------------------------------------------------------
 */

/* The numbers of the struct in the order in which they are written. */
enum { WIDE = 5, NARROW = 10 };

static void numbers_of(ic_session_held *h, uint64_t *wide[WIDE], int *narrow[NARROW])
{
    uint64_t *w[WIDE] = {&h->tokens, &h->evicted_tokens, &h->evicted_groups, &h->groups_seen,
                         (uint64_t *)(void *)&h->stream_us};
    int *n[NARROW] = {&h->used,  &h->budget, &h->slots,  &h->heads,   &h->pinned,
                      &h->sinks, &h->text,   &h->vision, &h->markers, &h->groups};
    memcpy(wide, w, sizeof w);
    memcpy(narrow, n, sizeof n);
}

int ic_session_held_save(const ic_session_held *held, ic_buf *out)
{
    ic_session_held h = *held;
    uint64_t *wide[WIDE];
    int *narrow[NARROW];
    numbers_of(&h, wide, narrow);
    for (int i = 0; i < WIDE; i++)
        ic_buf_u64(out, *wide[i]);
    for (int i = 0; i < NARROW; i++)
        ic_buf_u32(out, (uint32_t)*narrow[i]);
    ic_buf_u32(out, (uint32_t)h.span_count);
    for (int i = 0; i < h.span_count; i++) {
        ic_buf_u64(out, (uint64_t)h.spans[i].from_us);
        ic_buf_u64(out, (uint64_t)h.spans[i].to_us);
        ic_buf_u32(out, (uint32_t)h.spans[i].groups);
        ic_buf_u32(out, (uint32_t)h.spans[i].tokens);
    }
    for (int i = 0; i < IC_HELD_BINS; i++) {
        ic_buf_f32(out, h.bins[i].text);
        ic_buf_f32(out, h.bins[i].vision);
    }
    return out->status;
}

static bool is_share(float x)
{
    return x >= 0 && x <= 1;
}

int ic_session_held_load(ic_session_held *h, ic_cursor *in, ic_error *e)
{
    uint64_t *wide[WIDE];
    int *narrow[NARROW];
    bool ok = true;
    *h = (ic_session_held){.tokens = 0};
    numbers_of(h, wide, narrow);
    for (int i = 0; i < WIDE; i++) {
        *wide[i] = ic_cursor_u64(in);
        ok &= *wide[i] <= INT64_MAX;
    }
    for (int i = 0; i < NARROW; i++) {
        *narrow[i] = (int)ic_cursor_u32(in);
        ok &= *narrow[i] >= 0;
    }
    uint32_t spans = ic_cursor_u32(in);
    ok = ok && !in->status && spans <= IC_HELD_SPANS;
    h->span_count = ok ? (int)spans : 0;
    for (int i = 0; i < h->span_count; i++) {
        uint64_t from = ic_cursor_u64(in), to = ic_cursor_u64(in);
        h->spans[i] = (ic_held_span){.from_us = (int64_t)from, .to_us = (int64_t)to};
        h->spans[i].groups = (int)ic_cursor_u32(in);
        h->spans[i].tokens = (int)ic_cursor_u32(in);
        ok &= from < to && to <= INT64_MAX && h->spans[i].groups >= 0 && h->spans[i].tokens >= 0;
    }
    for (int i = 0; ok && i < IC_HELD_BINS; i++) {
        h->bins[i].text = ic_cursor_f32(in);
        h->bins[i].vision = ic_cursor_f32(in);
        ok = is_share(h->bins[i].text) && is_share(h->bins[i].vision);
    }
    if (ok && !in->status)
        return IC_OK;
    *h = (ic_session_held){.tokens = 0};
    return ic_error_set(e, IC_EFORMAT, "what a checkpoint says of its memory is damaged");
}
