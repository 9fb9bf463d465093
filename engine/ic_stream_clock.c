#include "engine/ic_stream_clock.h"

void ic_stream_clock_note(ic_stream_clock *c, uint32_t group, int64_t pts_us)
{
    if (pts_us < c->last_us)
        c->base_us += c->last_us; /* another source, or a jump back: it goes behind what was */
    c->last_us = pts_us < 0 ? 0 : pts_us;
    while (c->count > 0 && c->knot[c->count - 1].group >= group)
        c->count--; /* of a group that was refused */
    if ((group - 1) % c->stride != 0)
        return;
    if (c->count == IC_CLOCK_KNOTS) {
        int kept = 0;
        c->stride *= 2;
        for (int i = 0; i < c->count; i++)
            if ((c->knot[i].group - 1) % c->stride == 0)
                c->knot[kept++] = c->knot[i];
        c->count = kept;
        if ((group - 1) % c->stride != 0)
            return;
    }
    c->knot[c->count++] = (ic_clock_knot){.group = group, .at_us = c->base_us + c->last_us};
}

/* Between two knots, in proportion; behind the last, towards `groups`, the newest. */
int64_t ic_stream_clock_time(const ic_stream_clock *c, uint32_t groups, uint32_t group)
{
    int at = c->count - 1;
    while (at > 0 && c->knot[at].group > group)
        at--;
    ic_clock_knot a = c->knot[at], b = {.group = groups, .at_us = c->base_us + c->last_us};
    if (at + 1 < c->count)
        b = c->knot[at + 1];
    if (b.group <= a.group || group <= a.group)
        return a.at_us;
    double part = (double)(group - a.group) / (double)(b.group - a.group);
    return a.at_us + (int64_t)((double)(b.at_us - a.at_us) * part);
}

int ic_stream_clock_save(const ic_stream_clock *c, ic_buf *out)
{
    ic_buf_u64(out, (uint64_t)c->base_us);
    ic_buf_u64(out, (uint64_t)c->last_us);
    ic_buf_u32(out, c->stride);
    ic_buf_u32(out, (uint32_t)c->count);
    for (int i = 0; i < c->count; i++) {
        ic_buf_u32(out, c->knot[i].group);
        ic_buf_u64(out, (uint64_t)c->knot[i].at_us);
    }
    return out->status;
}

bool ic_stream_clock_load(ic_stream_clock *c, ic_cursor *in)
{
    const uint64_t most = (uint64_t)1 << 52; /* a century */
    uint64_t base = ic_cursor_u64(in), last = ic_cursor_u64(in);
    c->stride = ic_cursor_u32(in);
    uint32_t count = ic_cursor_u32(in);
    bool ok = !in->status && base < most && last < most && count <= IC_CLOCK_KNOTS && c->stride
              && (c->stride & (c->stride - 1)) == 0;
    c->base_us = (int64_t)base;
    c->last_us = (int64_t)last;
    c->count = ok ? (int)count : 0;
    for (int i = 0; ok && i < c->count; i++) {
        c->knot[i].group = ic_cursor_u32(in);
        uint64_t at = ic_cursor_u64(in);
        c->knot[i].at_us = (int64_t)at;
        ok = !in->status && at <= base + last && c->knot[i].group
             && (i == 0
                 || (c->knot[i].group > c->knot[i - 1].group
                     && c->knot[i].at_us >= c->knot[i - 1].at_us));
    }
    return ok;
}
