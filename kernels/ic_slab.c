#include "kernels/ic_slab.h"

#include <string.h>

#include "base/ic_assert.h"
#include "base/ic_mem.h"
#include "kernels/ic_half.h"
#include "kernels/ic_slab_priv.h"

enum { WORD_BITS = 64 };

static size_t align64(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

static size_t side_bytes(const ic_slab_desc *desc, ic_dtype dtype)
{
    return align64((size_t)desc->layers * (size_t)desc->kv_heads * (size_t)desc->slots
                   * (size_t)desc->head_dim * ic_dtype_size(dtype));
}

/* Lays the tables out from `base` (NULL: only measures); returns their size. */
static size_t lay_tables(ic_slab *s, char *base)
{
    size_t heads = (size_t)s->heads, slots = (size_t)s->desc.slots, at = 0;
    s->free_map = (uint64_t *)(void *)(base + at);
    at += align64(heads * (size_t)s->words * sizeof *s->free_map);
    s->rows = (ic_row *)(void *)(base + at);
    at += align64(heads * slots * sizeof *s->rows);
    s->positions = (ic_pos *)(void *)(base + at);
    at += align64(heads * slots * sizeof *s->positions);
    s->order = (int32_t *)(void *)(base + at);
    at += align64(heads * slots * sizeof *s->order);
    s->counts = (int32_t *)(void *)(base + at);
    at += align64(heads * sizeof *s->counts);
    s->saved = (uint8_t *)(base + at);
    return at + align64(heads * slots);
}

size_t ic_slab_table_bytes(const ic_slab_desc *desc)
{
    size_t heads = (size_t)desc->layers * (size_t)desc->kv_heads, slots = (size_t)desc->slots;
    size_t words = (slots + WORD_BITS - 1) / WORD_BITS;
    return align64(heads * words * sizeof(uint64_t)) + align64(heads * slots * sizeof(ic_row))
           + align64(heads * slots * sizeof(ic_pos)) + align64(heads * slots * sizeof(int32_t))
           + align64(heads * sizeof(int32_t)) + align64(heads * slots);
}

size_t ic_slab_bytes(const ic_slab_desc *desc)
{
    return side_bytes(desc, desc->k_dtype) + side_bytes(desc, desc->v_dtype)
           + ic_slab_table_bytes(desc);
}

size_t ic_slab_device_bytes(const ic_device *d, const ic_slab_desc *desc)
{
    if (!d->backend->slab_open)
        return 0;
    size_t saved = align64((size_t)desc->layers * (size_t)desc->kv_heads * (size_t)desc->slots);
    return ic_slab_bytes(desc) - saved + ic_slab_score_bytes(desc);
}

static int check_desc(const ic_slab_desc *desc, ic_error *e)
{
    bool sane = desc->layers > 0 && desc->layers <= 4096 && desc->kv_heads > 0
                && desc->kv_heads <= 4096 && desc->head_dim > 0 && desc->head_dim <= 4096
                && desc->slots > 0 && desc->slots <= (1 << 24) && desc->k_dtype < IC_DTYPE_COUNT
                && desc->v_dtype < IC_DTYPE_COUNT;
    if (sane)
        return 0;
    return ic_error_set(e, IC_EINVAL,
                        "a cache of %d layers, %d kv heads, head_dim %d and %d slots makes no "
                        "sense",
                        desc->layers, desc->kv_heads, desc->head_dim, desc->slots);
}

int ic_slab_new(ic_slab **out, ic_device *d, const ic_slab_desc *desc, ic_error *e)
{
    *out = NULL;
    int rc = check_desc(desc, e);
    if (rc)
        return rc;
    ic_slab *s = ic_alloc(sizeof *s);
    s->device = d;
    s->desc = *desc;
    s->heads = desc->layers * desc->kv_heads;
    s->words = (desc->slots + WORD_BITS - 1) / WORD_BITS;
    s->v_offset = side_bytes(desc, desc->k_dtype);
    s->kv_bytes = s->v_offset + side_bytes(desc, desc->v_dtype);
    s->table_bytes = ic_slab_table_bytes(desc);
    s->tables = ic_try_alloc_aligned(s->table_bytes);
    s->kv = s->tables ? ic_device_alloc(d, s->kv_bytes) : NULL;
    if (!s->kv) {
        ic_slab_destroy(&s);
        return ic_error_set(e, IC_ENOMEM,
                            "no memory for a cache of %zu MiB: lower the budget or close sessions",
                            ic_slab_bytes(desc) >> 20);
    }
    IC_ASSERT(lay_tables(s, s->tables) == s->table_bytes);
    for (int head = 0; head < s->heads; head++)
        ic_slab_clear_head(s, head);
    s->mirror_stale = true;
    if (d->backend->slab_open)
        rc = d->backend->slab_open(s, e);
    if (rc)
        ic_slab_destroy(&s);
    *out = s;
    return rc;
}

void ic_slab_destroy(ic_slab **s_p)
{
    ic_slab *s = *s_p;
    *s_p = NULL;
    if (!s)
        return;
    if (s->mirror)
        s->device->backend->slab_close(s);
    ic_device_free(s->device, s->kv);
    ic_free(s->tables);
    ic_free(s->scores);
    ic_free(s);
}

const ic_slab_desc *ic_slab_desc_of(const ic_slab *s)
{
    return &s->desc;
}

/* --- slots --- */

void ic_slab_clear_head(ic_slab *s, int head)
{
    uint64_t *map = s->free_map + (int64_t)head * s->words;
    memset(map, 0, (size_t)s->words * sizeof *map);
    for (int slot = 0; slot < s->desc.slots; slot++)
        map[slot / WORD_BITS] |= UINT64_C(1) << (slot % WORD_BITS);
    memset(s->saved + (int64_t)head * s->desc.slots, IC_SLAB_UNSAVED, (size_t)s->desc.slots);
    s->counts[head] = 0;
}

void ic_slab_free_slot(ic_slab *s, int head, int slot)
{
    uint64_t *map = s->free_map + (int64_t)head * s->words;
    map[slot / WORD_BITS] |= UINT64_C(1) << (slot % WORD_BITS);
    s->saved[(int64_t)head * s->desc.slots + slot] = IC_SLAB_UNSAVED;
}

/* Takes the lowest free slot at or above *from, a bound below which none is free. */
static int take_lowest(ic_slab *s, int head, int *word_hint)
{
    uint64_t *map = s->free_map + (int64_t)head * s->words;
    int word = *word_hint;
    while (map[word] == 0)
        word++;
    *word_hint = word;
    int bit = __builtin_ctzll(map[word]);
    map[word] &= map[word] - 1;
    return word * WORD_BITS + bit;
}

ic_pos ic_slab_next_position(const ic_row *last, const ic_pos *last_position, const ic_row *row)
{
    int32_t base = 0;
    if (last && last->kind == IC_ROW_VISION) {
        bool same_group = row->kind == IC_ROW_VISION && row->group == last->group;
        base = last_position->t + (same_group ? 0 : last->advance);
    } else if (last) {
        base = last_position->t + 1;
    }
    if (row->kind != IC_ROW_VISION)
        return (ic_pos){base, base, base};
    return (ic_pos){base, base + row->h, base + row->w};
}

static void note_position(ic_slab *s, ic_pos p)
{
    int32_t end = (p.h > p.w ? p.h : p.w) + 1; /* neither is below t */
    s->position_end = end > s->position_end ? end : s->position_end;
}

void ic_slab_place(ic_slab *s, int head)
{
    const int32_t *order = ic_slab_order_of(s, head);
    const ic_row *rows = ic_slab_rows_of(s, head), *last = NULL;
    ic_pos *positions = ic_slab_positions_of(s, head), *last_position = NULL;
    for (int i = 0; i < s->counts[head]; i++) {
        const ic_row *row = &rows[order[i]];
        positions[i] = ic_slab_next_position(last, last_position, row);
        note_position(s, positions[i]);
        last = row;
        last_position = &positions[i];
    }
}

ic_pos ic_slab_step(ic_slab_cursor *c, const ic_row *row)
{
    if (row->kind != IC_ROW_VISION) {
        int32_t t = c->next++;
        c->group = 0;
        return (ic_pos){t, t, t};
    }
    if (c->group == 0 || c->group != row->group) {
        c->group = row->group;
        c->group_t = c->next;
        c->next += row->advance;
    }
    return (ic_pos){c->group_t, c->group_t + row->h, c->group_t + row->w};
}

/* The cursor as it was before this row came, which stands at t. */
static void step_back(ic_slab *s, const ic_row *row, int32_t t)
{
    s->cursor = (ic_slab_cursor){.next = t};
    if (row->kind == IC_ROW_VISION && (row->h || row->w)) /* the group has begun before it */
        s->cursor = (ic_slab_cursor){t + row->advance, row->group, t};
}

static void append_to_head(ic_slab *s, int head, const ic_row *new_rows, int count)
{
    ic_slab_cursor cursor = s->cursor;
    int32_t *order = s->order + (int64_t)head * s->desc.slots;
    ic_pos *positions = ic_slab_positions_of(s, head);
    ic_row *rows = ic_slab_rows_of(s, head);
    int at = s->counts[head], hint = 0;
    for (int i = 0; i < count; i++, at++) {
        int slot = take_lowest(s, head, &hint);
        const ic_row *last = at ? &rows[order[at - 1]] : NULL;
        ic_pos position =
            s->original ? ic_slab_step(&cursor, &new_rows[i])
                        : ic_slab_next_position(last, at ? &positions[at - 1] : NULL, &new_rows[i]);
        note_position(s, position);
        order[at] = slot;
        positions[at] = position;
        rows[slot] = new_rows[i];
        s->saved[(int64_t)head * s->desc.slots + slot] = IC_SLAB_UNSAVED;
        if (s->scores)
            ic_slab_scores_of(s, head)[slot] = s->score_kind == IC_SCORE_SUM ? 0.0f : -1.0f;
    }
    s->counts[head] = at;
}

int ic_slab_append(ic_slab *s, const ic_row *rows, int count, ic_error *e)
{
    IC_ASSERT(count >= 0 && !s->loading);
    if (count > ic_slab_free(s))
        return ic_error_set(e, IC_ELIMIT,
                            "the cache is full: %d of %d rows are in use and %d more are wanted; "
                            "raise the budget or choose a policy that evicts",
                            ic_slab_used(s), s->desc.slots, count);
    if (s->mirror) {
        int rc = s->device->backend->slab_append(s, rows, count);
        for (int head = 0; rc == 0 && head < s->heads; head++)
            s->counts[head] += count;
        for (int i = 0; rc == 0 && s->original && i < count; i++)
            ic_slab_step(&s->cursor, &rows[i]);
        return rc ? ic_error_set(e, rc, "the device refused %d rows", count) : 0;
    }
    for (int head = 0; head < s->heads; head++)
        append_to_head(s, head, rows, count);
    for (int i = 0; s->original && i < count; i++)
        ic_slab_step(&s->cursor, &rows[i]);
    return 0;
}

/* From the host's tables; the oldest of them in the first head. */
static void drop_here(ic_slab *s, int count, ic_row *row, ic_pos *position)
{
    int place = s->counts[0] - count;
    *row = ic_slab_rows_of(s, 0)[ic_slab_order_of(s, 0)[place]];
    *position = ic_slab_positions_of(s, 0)[place];
    for (int head = 0; head < s->heads; head++)
        for (int i = s->counts[head] - count; i < s->counts[head]; i++)
            ic_slab_free_slot(s, head, ic_slab_order_of(s, head)[i]);
}

void ic_slab_drop_last(ic_slab *s, int count)
{
    ic_row row;
    ic_pos position;
    for (int head = 0; head < s->heads; head++)
        IC_ASSERT(count >= 0 && count <= s->counts[head]);
    if (count == 0)
        return;
    if (!s->mirror)
        drop_here(s, count, &row, &position);
    else if (s->device->backend->slab_drop(s, count, &row, &position))
        return; /* a device that fails has no rows to drop */
    for (int head = 0; head < s->heads; head++)
        s->counts[head] -= count;
    if (s->original)
        step_back(s, &row, position.t);
}

/* --- what is where --- */

int ic_slab_used(const ic_slab *s)
{
    int used = 0;
    for (int head = 0; head < s->heads; head++)
        used = s->counts[head] > used ? s->counts[head] : used;
    return used;
}

int ic_slab_free(const ic_slab *s)
{
    return s->desc.slots - ic_slab_used(s);
}

int ic_slab_count(const ic_slab *s, int layer, int kv_head)
{
    IC_ASSERT(layer >= 0 && layer < s->desc.layers && kv_head >= 0 && kv_head < s->desc.kv_heads);
    return s->counts[ic_slab_head(s, layer, kv_head)];
}

void ic_slab_rows(const ic_slab *s, int layer, int kv_head, ic_row *rows, int32_t *slots,
                  ic_pos *positions)
{
    int count = ic_slab_count(s, layer, kv_head), head = ic_slab_head(s, layer, kv_head);
    const int32_t *order = ic_slab_order_of(s, head);
    if (ic_slab_pull(s))
        return;
    if (slots)
        memcpy(slots, order, (size_t)count * sizeof *slots);
    if (positions)
        memcpy(positions, ic_slab_positions_of(s, head), (size_t)count * sizeof *positions);
    for (int i = 0; rows && i < count; i++)
        rows[i] = ic_slab_rows_of(s, head)[order[i]];
}

static void read_side(const ic_slab *s, const char *at, ic_dtype dtype, float *out)
{
    size_t dim = (size_t)s->desc.head_dim;
    char *raw = ic_alloc(dim * 4);
    int rc = ic_device_download(s->device, raw, at, dim * ic_dtype_size(dtype));
    for (size_t i = 0; i < dim; i++)
        out[i] = rc ? 0.0f : ic_dtype_get(dtype, raw, (int64_t)i);
    ic_free(raw);
}

void ic_slab_read(const ic_slab *s, int layer, int kv_head, int slot, float *k, float *v)
{
    IC_ASSERT(slot >= 0 && slot < s->desc.slots && kv_head >= 0 && kv_head < s->desc.kv_heads);
    int head = ic_slab_head(s, layer, kv_head);
    read_side(s, ic_slab_k_at(s, head, slot), s->desc.k_dtype, k);
    read_side(s, ic_slab_v_at(s, head, slot), s->desc.v_dtype, v);
}
