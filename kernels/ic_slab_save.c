/* Checkpoints of a slab: tables whole, rows in pieces. All numbers are little-endian, u32 if
 * nothing is said; both forms end with a u64 checksum over all bytes before it.
 *
 * - shape: layers, kv_heads, head_dim, slots, k_dtype, v_dtype
 *
 * - tables: "ICST", version, shape; per head a u8 same_as_previous_head, and if that is 0: count,
 *   then count rows of 5 numbers: slot; ordinal; group; h | w << 16; advance | kind << 16 |
 *   pinned << 24
 *
 * - rows: "ICSR", version, shape; then runs up to the checksum: head, first slot, count; count
 *   ordinals; count rows of K; count rows of V. The checksum of version 2 is ic_sum.h's, so that a
 *   device can add up the bytes that it moves; version 1, which is read, had that of the tables.
 *
 * A row in a piece counts only if the tables have that ordinal in that slot: what has been evicted
 * since is passed over, and a later piece's copy replaces an earlier one's. */
#include <string.h>

#include "base/ic_assert.h"
#include "base/ic_mem.h"
#include "kernels/ic_slab_priv.h"
#include "kernels/ic_sum.h"

enum {
    MAGIC_TABLES = 0x54534349,
    MAGIC_ROWS = 0x52534349,
    TABLES_VERSION = 1,
    ROWS_VERSION = 2,
    ROWS_OLDEST = 1,
    HEADER_BYTES = 8 * 4,
    CHECKSUM_BYTES = 8,
    RUN_BYTES = 3 * 4
};

/* FNV-1a over 8-byte words with a final mix: finds damage, is no defence against an author. */
static uint64_t checksum(const uint8_t *data, size_t size)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325), word;
    for (; size >= 8; data += 8, size -= 8) {
        memcpy(&word, data, 8);
        hash = (hash ^ word) * UINT64_C(0x100000001b3);
        hash ^= hash >> 29;
    }
    for (; size > 0; data++, size--)
        hash = (hash ^ *data) * UINT64_C(0x100000001b3);
    return hash ^ (hash >> 32);
}

static void put_header(const ic_slab *s, uint32_t magic, ic_buf *out)
{
    const ic_slab_desc *desc = &s->desc;
    uint32_t version = magic == MAGIC_ROWS ? ROWS_VERSION : TABLES_VERSION;
    const uint32_t fields[] = {magic,
                               version,
                               (uint32_t)desc->layers,
                               (uint32_t)desc->kv_heads,
                               (uint32_t)desc->head_dim,
                               (uint32_t)desc->slots,
                               (uint32_t)desc->k_dtype,
                               (uint32_t)desc->v_dtype};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        ic_buf_u32(out, fields[i]);
}

/* *version: of the bytes. */
static int check_header(const ic_slab *s, uint32_t magic, ic_cursor *in, uint32_t *version,
                        ic_error *e)
{
    uint32_t newest = magic == MAGIC_ROWS ? ROWS_VERSION : TABLES_VERSION;
    uint32_t oldest = magic == MAGIC_ROWS ? ROWS_OLDEST : TABLES_VERSION;
    uint32_t got[8];
    for (int i = 0; i < 8; i++)
        got[i] = ic_cursor_u32(in);
    if (in->status || got[0] != magic)
        return ic_error_set(e, IC_EFORMAT, "these bytes are no part of a cache checkpoint");
    *version = got[1];
    if (got[1] < oldest || got[1] > newest)
        return ic_error_set(e, IC_EVERSION,
                            "cache checkpoint of format %u; this build reads format %u", got[1],
                            newest);
    const ic_slab_desc *d = &s->desc;
    if (got[2] != (uint32_t)d->layers || got[3] != (uint32_t)d->kv_heads
        || got[4] != (uint32_t)d->head_dim || got[5] != (uint32_t)d->slots
        || got[6] != (uint32_t)d->k_dtype || got[7] != (uint32_t)d->v_dtype)
        return ic_error_set(e, IC_EMISMATCH,
                            "the checkpoint's cache is %u x %u x %u x %u, dtypes %u and %u; this "
                            "one is %d x %d x %d x %d, dtypes %d and %d",
                            got[2], got[3], got[5], got[4], got[6], got[7], d->layers, d->kv_heads,
                            d->slots, d->head_dim, d->k_dtype, d->v_dtype);
    return 0;
}

static size_t row_bytes(const ic_slab *s)
{
    return (size_t)s->desc.head_dim
           * (ic_dtype_size(s->desc.k_dtype) + ic_dtype_size(s->desc.v_dtype));
}

static bool is_live(const ic_slab *s, int head, int slot)
{
    const uint64_t *map = s->free_map + (int64_t)head * s->words;
    return (map[slot / 64] >> (slot % 64) & 1) == 0;
}

/* --- tables --- */

static bool same_as_previous(const ic_slab *s, int head)
{
    if (head == 0 || s->counts[head] != s->counts[head - 1])
        return false;
    const int32_t *order = ic_slab_order_of(s, head), *before = ic_slab_order_of(s, head - 1);
    const ic_row *rows = ic_slab_rows_of(s, head), *rows_before = ic_slab_rows_of(s, head - 1);
    for (int i = 0; i < s->counts[head]; i++)
        if (order[i] != before[i]
            || memcmp(&rows[order[i]], &rows_before[order[i]], sizeof(ic_row)) != 0)
            return false;
    return true;
}

static void put_row(const ic_row *row, int slot, ic_buf *out)
{
    ic_buf_u32(out, (uint32_t)slot);
    ic_buf_u32(out, row->ordinal);
    ic_buf_u32(out, row->group);
    ic_buf_u32(out, row->h | (uint32_t)row->w << 16);
    ic_buf_u32(out, row->advance | (uint32_t)row->kind << 16 | (uint32_t)row->pinned << 24);
}

int ic_slab_save_tables(const ic_slab *s, ic_buf *out)
{
    size_t start = out->size;
    int rc = ic_slab_pull(s);
    if (rc)
        return rc;
    put_header(s, MAGIC_TABLES, out);
    for (int head = 0; head < s->heads; head++) {
        bool same = same_as_previous(s, head);
        ic_buf_u8(out, same);
        if (same)
            continue;
        ic_buf_u32(out, (uint32_t)s->counts[head]);
        for (int i = 0; i < s->counts[head]; i++) {
            int slot = ic_slab_order_of(s, head)[i];
            put_row(&ic_slab_rows_of(s, head)[slot], slot, out);
        }
    }
    if (out->status)
        return out->status;
    return ic_buf_u64(out, checksum(out->data + start, out->size - start));
}

static int bad_tables(ic_error *e, int head, const char *what)
{
    return ic_error_set(e, IC_EFORMAT, "slot table of head %d in the checkpoint: %s", head, what);
}

static int take_row(ic_slab *s, int head, ic_cursor *in, ic_error *e)
{
    uint32_t slot = ic_cursor_u32(in);
    ic_row row = {.ordinal = ic_cursor_u32(in)};
    row.group = ic_cursor_u32(in);
    uint32_t place = ic_cursor_u32(in), rest = ic_cursor_u32(in);
    row.h = (uint16_t)place;
    row.w = (uint16_t)(place >> 16);
    row.advance = (uint16_t)rest;
    row.kind = (uint8_t)(rest >> 16);
    row.pinned = (uint8_t)(rest >> 24);
    if (in->status)
        return bad_tables(e, head, "cut off");
    if (slot >= (uint32_t)s->desc.slots
        || !(s->free_map[(int64_t)head * s->words + slot / 64] >> (slot % 64) & 1))
        return bad_tables(e, head, "a slot is out of range or taken twice");
    if (row.kind > IC_ROW_MARKER || row.pinned > 1)
        return bad_tables(e, head, "an unknown kind of row");
    int at = s->counts[head];
    int32_t *order = s->order + (int64_t)head * s->desc.slots;
    if (at > 0 && ic_slab_rows_of(s, head)[order[at - 1]].ordinal >= row.ordinal)
        return bad_tables(e, head, "rows are not in the order of their ordinals");
    s->free_map[(int64_t)head * s->words + slot / 64] &= ~(UINT64_C(1) << (slot % 64));
    ic_slab_rows_of(s, head)[slot] = row;
    order[at] = (int32_t)slot;
    s->counts[head] = at + 1;
    return 0;
}

static void copy_head(ic_slab *s, int from, int to)
{
    size_t slots = (size_t)s->desc.slots, words = (size_t)s->words;
    memcpy(s->free_map + (size_t)to * words, s->free_map + (size_t)from * words,
           words * sizeof *s->free_map);
    memcpy(ic_slab_rows_of(s, to), ic_slab_rows_of(s, from), slots * sizeof(ic_row));
    memcpy(s->order + (size_t)to * slots, s->order + (size_t)from * slots,
           slots * sizeof *s->order);
    s->counts[to] = s->counts[from];
}

static int load_heads(ic_slab *s, ic_cursor *in, ic_error *e)
{
    for (int head = 0; head < s->heads; head++) {
        ic_slab_clear_head(s, head);
        uint8_t same = ic_cursor_u8(in);
        if (in->status || same > 1 || (same && head == 0))
            return bad_tables(e, head, "garbled");
        if (same) {
            copy_head(s, head - 1, head);
        } else {
            uint32_t count = ic_cursor_u32(in);
            if (in->status || count > (uint32_t)s->desc.slots)
                return bad_tables(e, head, "more rows than slots");
            for (uint32_t i = 0; i < count; i++) {
                int rc = take_row(s, head, in, e);
                if (rc)
                    return rc;
            }
        }
        ic_slab_place(s, head);
    }
    return 0;
}

int ic_slab_load_tables(ic_slab *s, ic_cursor *in, ic_error *e)
{
    size_t start = in->at;
    uint32_t version;
    int rc = check_header(s, MAGIC_TABLES, in, &version, e);
    if (rc)
        return rc;
    rc = ic_slab_touch(s) ? ic_error_set(e, IC_EDEVICE, "the device refused the slot tables")
                          : load_heads(s, in, e);
    if (rc == 0) {
        uint64_t want = checksum(in->data + start, in->at - start);
        if (ic_cursor_u64(in) != want || in->status)
            rc = ic_error_set(e, IC_EFORMAT, "slot tables of the checkpoint: wrong checksum");
    }
    for (int head = 0; rc && head < s->heads; head++)
        ic_slab_clear_head(s, head);
    s->loading = rc == 0;
    return rc;
}

/* --- rows --- */

/* Which live rows a piece takes. */
typedef struct choice {
    bool all;  /* saved ones, too */
    bool rest; /* but none that was given out since the checkpoint began */
} choice;

/* Live rows wanted from `slot` on without a gap, at most `most`; 0: none at this slot. */
static int run_length(const ic_slab *s, int head, int slot, choice c, int most)
{
    const uint8_t *saved = s->saved + (int64_t)head * s->desc.slots;
    int length = 0;
    while (length < most && slot + length < s->desc.slots && is_live(s, head, slot + length)
           && (c.all || saved[slot + length] != IC_SLAB_SAVED)
           && !(c.rest && saved[slot + length] == IC_SLAB_GIVEN))
        length++;
    return length;
}

/* Neighbouring slots of one head, and where their rows begin in the piece. */
typedef struct run {
    int head, slot, count;
} run;

typedef struct run_list {
    run *runs;
    int count, room;
} run_list;

static void add_run(run_list *l, run r)
{
    if (l->count == l->room) {
        l->room = l->room ? 2 * l->room : 64;
        l->runs = ic_realloc(l->runs, (size_t)l->room * sizeof *l->runs);
    }
    l->runs[l->count++] = r;
}

static size_t k_bytes(const ic_slab *s)
{
    return (size_t)s->desc.head_dim * ic_dtype_size(s->desc.k_dtype);
}

static size_t v_bytes(const ic_slab *s)
{
    return (size_t)s->desc.head_dim * ic_dtype_size(s->desc.v_dtype);
}

static size_t run_bytes(const ic_slab *s, const run *r)
{
    return RUN_BYTES + (size_t)r->count * (4 + row_bytes(s));
}

/* The runs of one piece of up to max_bytes; returns its size. */
static size_t choose_runs(const ic_slab *s, choice c, uint64_t *cursor, size_t max_bytes,
                          run_list *l)
{
    uint64_t slots = (uint64_t)s->desc.slots, end = (uint64_t)s->heads * slots;
    size_t size = HEADER_BYTES, each = row_bytes(s) + 4;
    while (*cursor < end) {
        int head = (int)(*cursor / slots), slot = (int)(*cursor % slots);
        size_t room = max_bytes > size ? max_bytes - size : 0;
        if (run_length(s, head, slot, c, 1) == 0) {
            ++*cursor;
            continue;
        }
        size_t most = room > RUN_BYTES ? (room - RUN_BYTES) / each : 0;
        if (most == 0 && l->count > 0)
            break;
        most = most == 0 ? 1 : most > slots ? slots : most;
        run r = {head, slot, run_length(s, head, slot, c, (int)most)};
        add_run(l, r);
        size += run_bytes(s, &r);
        *cursor += (uint64_t)r.count;
    }
    return size;
}

/* K and V of the runs to their places in the image; *sum: what they add to its checksum. */
static int bring_rows(const ic_slab *s, const run_list *l, uint8_t *image, uint64_t *sum)
{
    ic_block *blocks = ic_calloc(2 * (size_t)l->count + 1, sizeof *blocks);
    size_t at = HEADER_BYTES;
    int rc = 0, n = 0;
    for (int i = 0; i < l->count; i++) {
        const run *r = &l->runs[i];
        size_t count = (size_t)r->count;
        at += RUN_BYTES + 4 * count;
        blocks[n++] = (ic_block){ic_slab_k_at(s, r->head, r->slot), at, count * k_bytes(s)};
        at += count * k_bytes(s);
        blocks[n++] = (ic_block){ic_slab_v_at(s, r->head, r->slot), at, count * v_bytes(s)};
        at += count * v_bytes(s);
    }
    if (s->device->backend->gather_blocks)
        rc = s->device->backend->gather_blocks(s->device, blocks, n, image, sum);
    else
        for (int i = 0; rc == 0 && i < n; i++)
            rc = ic_device_download(s->device, image + blocks[i].at, blocks[i].device,
                                    blocks[i].bytes);
    ic_free(blocks);
    return rc;
}

/* All but K and V, around them; returns what it adds to the checksum, K and V too if no device has
 * added them up. `out` has room for it. */
static uint64_t put_heads(const ic_slab *s, const run_list *l, ic_buf *out)
{
    bool apart = s->device->backend->gather_blocks != NULL;
    size_t start = out->size;
    put_header(s, MAGIC_ROWS, out);
    uint64_t sum = ic_sum_bytes(out->data + start, 0, HEADER_BYTES);
    for (int i = 0; i < l->count; i++) {
        const run *r = &l->runs[i];
        size_t first = out->size - start, kv = (size_t)r->count * row_bytes(s);
        ic_buf_u32(out, (uint32_t)r->head);
        ic_buf_u32(out, (uint32_t)r->slot);
        ic_buf_u32(out, (uint32_t)r->count);
        for (int n = 0; n < r->count; n++)
            ic_buf_u32(out, ic_slab_rows_of(s, r->head)[r->slot + n].ordinal);
        if (apart)
            sum += ic_sum_bytes(out->data + start, first, out->size - start);
        out->size += kv;
        memset(s->saved + (int64_t)r->head * s->desc.slots + r->slot, IC_SLAB_GIVEN,
               (size_t)r->count);
    }
    return apart ? sum : ic_sum_bytes(out->data + start, 0, out->size - start);
}

/* The image of these runs, of `size` bytes but for the checksum. */
static int put_piece(const ic_slab *s, const run_list *l, size_t size, ic_buf *out)
{
    uint64_t sum = 0;
    int rc = ic_buf_reserve(out, size + CHECKSUM_BYTES);
    if (rc == 0)
        rc = bring_rows(s, l, out->data + out->size, &sum);
    if (rc)
        return rc;
    sum += put_heads(s, l, out);
    return ic_buf_u64(out, sum);
}

int ic_slab_save_rows(const ic_slab *s, bool all, uint64_t *cursor, size_t max_bytes, ic_buf *out,
                      bool *more)
{
    run_list l = {0};
    int rc = ic_slab_pull(s);
    size_t size = rc ? 0 : choose_runs(s, (choice){.all = all}, cursor, max_bytes, &l);
    *more = *cursor < (uint64_t)s->heads * (uint64_t)s->desc.slots;
    if (rc == 0)
        rc = put_piece(s, &l, size, out);
    ic_free(l.runs);
    return rc;
}

void ic_slab_begin_save(ic_slab *s)
{
    size_t total = (size_t)s->heads * (size_t)s->desc.slots;
    for (size_t i = 0; i < total; i++)
        if (s->saved[i] == IC_SLAB_GIVEN)
            s->saved[i] = IC_SLAB_UNSAVED;
}

int ic_slab_save_rest(const ic_slab *s, bool all, size_t max_bytes, ic_buf *out, bool *more)
{
    run_list l = {0};
    uint64_t cursor = 0;
    int rc = ic_slab_pull(s);
    size_t size =
        rc ? 0 : choose_runs(s, (choice){.all = all, .rest = true}, &cursor, max_bytes, &l);
    *more = cursor < (uint64_t)s->heads * (uint64_t)s->desc.slots;
    if (rc == 0 && l.count > 0)
        rc = put_piece(s, &l, size, out);
    ic_free(l.runs);
    return rc;
}

void ic_slab_mark_saved(ic_slab *s)
{
    size_t total = (size_t)s->heads * (size_t)s->desc.slots;
    for (size_t i = 0; i < total; i++)
        if (s->saved[i] == IC_SLAB_GIVEN)
            s->saved[i] = IC_SLAB_SAVED;
}

uint64_t ic_slab_row_bytes_live(const ic_slab *s)
{
    uint64_t rows = 0;
    for (int head = 0; head < s->heads; head++)
        rows += (uint64_t)s->counts[head];
    return rows * row_bytes(s);
}

/* Pieces of an image that the tables want. */
typedef struct block_list {
    ic_block *blocks;
    int count, room;
} block_list;

/* Behind the block before, in memory as in the image, it is one with that. */
static void add_block(block_list *l, char *device, size_t at, size_t bytes)
{
    ic_block *last = l->count ? &l->blocks[l->count - 1] : NULL;
    if (last && last->device + last->bytes == device && last->at + last->bytes == at) {
        last->bytes += bytes;
        return;
    }
    if (l->count == l->room) {
        l->room = l->room ? 2 * l->room : 64;
        l->blocks = ic_realloc(l->blocks, (size_t)l->room * sizeof *l->blocks);
    }
    l->blocks[l->count++] = (ic_block){device, at, bytes};
}

/* The rows of a run that the tables still want. */
static int take_run(ic_slab *s, ic_cursor *in, block_list *l, ic_error *e)
{
    uint32_t head = ic_cursor_u32(in), first = ic_cursor_u32(in), count = ic_cursor_u32(in);
    uint32_t slots = (uint32_t)s->desc.slots;
    if (in->status || head >= (uint32_t)s->heads || first >= slots || count == 0
        || count > slots - first)
        return ic_error_set(e, IC_EFORMAT, "cache rows of the checkpoint: a run out of range");
    const uint8_t *ordinals = ic_cursor_bytes(in, (size_t)count * 4);
    size_t k = in->at, v = k + count * k_bytes(s);
    ic_cursor_bytes(in, count * row_bytes(s));
    if (in->status)
        return ic_error_set(e, IC_EFORMAT, "cache rows of the checkpoint: cut off");
    uint8_t *saved = s->saved + (int64_t)head * slots + first;
    for (uint32_t i = 0; i < count; i++) {
        ic_cursor one;
        ic_cursor_init(&one, ordinals + 4 * (size_t)i, 4);
        int slot = (int)(first + i);
        bool wanted = is_live(s, (int)head, slot)
                      && ic_slab_rows_of(s, (int)head)[slot].ordinal == ic_cursor_u32(&one);
        saved[i] = wanted ? IC_SLAB_TAKEN : saved[i];
        if (wanted)
            add_block(l, ic_slab_k_at(s, (int)head, slot), k + i * k_bytes(s), k_bytes(s));
    }
    for (uint32_t i = 0; i < count; i++) {
        if (saved[i] != IC_SLAB_TAKEN)
            continue;
        saved[i] = IC_SLAB_GIVEN;
        add_block(l, ic_slab_v_at(s, (int)head, (int)(first + i)), v + i * v_bytes(s), v_bytes(s));
    }
    return 0;
}

/* The blocks of an image to their places; *sum: its checksum. */
static int place_rows(ic_slab *s, const block_list *l, const uint8_t *image, size_t size,
                      uint64_t *sum)
{
    int rc = 0;
    size_t at = 0;
    if (!s->device->backend->scatter_blocks) {
        for (int i = 0; rc == 0 && i < l->count; i++)
            rc = ic_device_upload(s->device, l->blocks[i].device, image + l->blocks[i].at,
                                  l->blocks[i].bytes);
        *sum = ic_sum_bytes(image, 0, size);
        return rc;
    }
    rc = s->device->backend->scatter_blocks(s->device, l->blocks, l->count, image, sum);
    for (int i = 0; i < l->count; i++) {
        *sum += ic_sum_bytes(image, at, l->blocks[i].at);
        at = l->blocks[i].at + l->blocks[i].bytes;
    }
    *sum += ic_sum_bytes(image, at, size);
    return rc;
}

static int load_piece(ic_slab *s, ic_cursor *in, uint64_t want, ic_error *e)
{
    block_list l = {0};
    uint32_t version;
    uint64_t sum = 0;
    int rc = check_header(s, MAGIC_ROWS, in, &version, e);
    if (rc)
        return rc;
    bool damaged = version == 1 && checksum(in->data, in->size) != want;
    while (rc == 0 && !damaged && ic_cursor_left(in) > 0)
        rc = take_run(s, in, &l, e);
    if (rc == 0 && !damaged && place_rows(s, &l, in->data, in->size, &sum))
        rc = ic_error_set(e, IC_EDEVICE, "the device refused the rows of a checkpoint");
    damaged = damaged || (version > 1 && sum != want);
    ic_free(l.blocks);
    if (rc == 0 && damaged)
        rc = ic_error_set(e, IC_EFORMAT, "cache rows of the checkpoint: wrong checksum");
    return rc;
}

int ic_slab_load_rows(ic_slab *s, const void *piece, size_t bytes, ic_error *e)
{
    if (!s->loading)
        return ic_error_set(e, IC_EINVAL, "cache rows before the tables of their checkpoint");
    if (bytes < HEADER_BYTES + CHECKSUM_BYTES)
        return ic_error_set(e, IC_EFORMAT, "cache rows of the checkpoint: cut off");
    ic_cursor in, tail;
    ic_cursor_init(&in, piece, bytes - CHECKSUM_BYTES);
    ic_cursor_init(&tail, (const uint8_t *)piece + bytes - CHECKSUM_BYTES, CHECKSUM_BYTES);
    return load_piece(s, &in, ic_cursor_u64(&tail), e);
}

int ic_slab_load_finish(ic_slab *s, ic_error *e)
{
    if (!s->loading)
        return ic_error_set(e, IC_EINVAL, "no checkpoint is being loaded into this cache");
    int64_t missing = 0;
    for (int head = 0; head < s->heads; head++)
        for (int slot = 0; slot < s->desc.slots; slot++)
            missing += is_live(s, head, slot)
                       && s->saved[(int64_t)head * s->desc.slots + slot] != IC_SLAB_GIVEN;
    s->loading = false;
    if (missing) {
        s->mirror_stale = true;
        for (int head = 0; head < s->heads; head++)
            ic_slab_clear_head(s, head);
        return ic_error_set(e, IC_EFORMAT,
                            "the checkpoint lacks K and V of %lld rows that its tables name",
                            (long long)missing);
    }
    ic_slab_mark_saved(s);
    return 0;
}
