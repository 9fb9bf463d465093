/* Original positions of a slab's rows, and their place in a checkpoint: u32 next, group, group_t of
 * the cursor, then u32 t per row, head by head in order; h and w follow from the row. */
#include "base/ic_assert.h"
#include "kernels/ic_slab_priv.h"

void ic_slab_keep_positions(ic_slab *s)
{
    IC_ASSERT(ic_slab_used(s) == 0);
    s->original = true;
}

int32_t ic_slab_next(const ic_slab *s)
{
    int32_t next = s->cursor.next;
    for (int head = 0; !s->original && !ic_slab_pull(s) && head < s->heads; head++) {
        int last = s->counts[head] - 1;
        if (last < 0)
            continue;
        const ic_row *row = &ic_slab_rows_of(s, head)[ic_slab_order_of(s, head)[last]];
        int32_t end = ic_slab_positions_of(s, head)[last].t + row->advance;
        next = end > next ? end : next;
    }
    return next;
}

int ic_slab_save_positions(const ic_slab *s, ic_buf *out)
{
    int rc = s->original ? ic_slab_pull(s) : 0;
    if (rc || !s->original)
        return rc;
    ic_buf_u32(out, (uint32_t)s->cursor.next);
    ic_buf_u32(out, s->cursor.group);
    ic_buf_u32(out, (uint32_t)s->cursor.group_t);
    for (int head = 0; head < s->heads; head++)
        for (int i = 0; i < s->counts[head]; i++)
            ic_buf_u32(out, (uint32_t)ic_slab_positions_of(s, head)[i].t);
    return out->status;
}

/* Rows stand behind each other; patches of a group stand together. */
static bool may_follow(const ic_row *last, int32_t last_t, const ic_row *row, int32_t t)
{
    bool together = last && last->kind == IC_ROW_VISION && row->kind == IC_ROW_VISION
                    && row->group == last->group;
    if (!last)
        return t >= 0;
    return together ? t == last_t : t >= last_t + last->advance;
}

static bool load_head(ic_slab *s, int head, int32_t limit, ic_cursor *in)
{
    ic_pos *positions = ic_slab_positions_of(s, head);
    const ic_row *last = NULL;
    for (int i = 0; i < s->counts[head]; i++) {
        const ic_row *row = &ic_slab_rows_of(s, head)[ic_slab_order_of(s, head)[i]];
        int32_t t = (int32_t)ic_cursor_u32(in);
        bool vision = row->kind == IC_ROW_VISION;
        if (in->status || t < 0 || t >= limit || s->cursor.next < t
            || !may_follow(last, last ? positions[i - 1].t : 0, row, t))
            return false;
        positions[i] = (ic_pos){t, t + (vision ? row->h : 0), t + (vision ? row->w : 0)};
        int32_t end = (positions[i].h > positions[i].w ? positions[i].h : positions[i].w) + 1;
        s->position_end = end > s->position_end ? end : s->position_end;
        last = row;
    }
    return true;
}

int ic_slab_load_positions(ic_slab *s, int32_t limit, ic_cursor *in, ic_error *e)
{
    if (!s->original)
        return 0;
    if (ic_slab_touch(s))
        return ic_error_set(e, IC_EDEVICE, "the device refused the positions of a checkpoint");
    ic_slab_cursor c = {.next = (int32_t)ic_cursor_u32(in), .group = ic_cursor_u32(in)};
    c.group_t = (int32_t)ic_cursor_u32(in);
    bool ok =
        !in->status && c.next >= 0 && c.next <= limit && c.group_t >= 0 && c.group_t <= c.next;
    s->cursor = c;
    s->position_end = 0;
    for (int head = 0; ok && head < s->heads; head++)
        ok = load_head(s, head, limit, in);
    return ok ? 0
              : ic_error_set(e, IC_EFORMAT,
                             "positions of the checkpoint: cut off, or not as rows come");
}
