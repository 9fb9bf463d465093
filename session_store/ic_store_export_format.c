/* An export's bytes: a head, then records, each with a checksum that covers it and all before it,
 * so that nothing can be changed, left out, moved or cut without being seen. */
#include "session_store/ic_store_export_priv.h"

#include <string.h>
#include <sys/random.h>

#include "base/ic_mem.h"

/* As PNG's: a transfer that takes bytes for text breaks it at once. */
static const uint8_t magic[8] = {0x89, 'I', 'C', 'X', '\r', '\n', 0x1a, '\n'};

enum { FRAME = 8 /* type and length */ };

/* --- writing ------------------------------------------------------------------------------------
 */

int ic_export_begin(ic_buf *out, uint8_t sum[IC_EXPORT_SUM], ic_error *e)
{
    uint8_t name[16];
    size_t start = out->size;
    if (getrandom(name, sizeof name, 0) != (ssize_t)sizeof name)
        return ic_error_set(e, IC_EIO, "export: the system gives no random numbers");
    ic_buf_append(out, magic, sizeof magic);
    ic_buf_u32(out, IC_STORE_EXPORT_FORMAT);
    ic_buf_u32(out, 0);
    ic_buf_append(out, name, sizeof name);
    if (out->status)
        return ic_error_set(e, out->status, "export: no memory");
    ic_store_hash(out->data + start, IC_EXPORT_HEAD, sum);
    return IC_OK;
}

/* A text with its final zero, so that it can be used where it lies. */
static void put_text(ic_buf *b, const char *text)
{
    text = text ? text : "";
    ic_buf_blob(b, text, (uint32_t)strlen(text) + 1);
}

static void put_i64(ic_buf *b, int64_t v)
{
    ic_buf_u64(b, (uint64_t)v);
}

static void put_session(ic_buf *b, const ic_export_record *r)
{
    const ic_store_export_head *h = &r->head;
    const int64_t numbers[] = {h->created_us,       h->used_us,         h->counters.turns,
                               h->counters.media,   h->counters.frames, h->counters.tokens,
                               h->counters.evicted, r->journal_base};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        put_i64(b, numbers[i]);
    put_text(b, h->title);
    put_text(b, h->origin);
    put_text(b, h->label);
    ic_buf_blob(b, h->meaning, (uint32_t)h->meaning_bytes);
    ic_buf_u32(b, h->config_version);
    ic_buf_blob(b, h->config, (uint32_t)h->config_bytes);
}

static void put_turn(ic_buf *b, const ic_store_turn *t)
{
    ic_buf_u32(b, (uint32_t)t->role);
    put_i64(b, t->time_us);
    put_i64(b, t->took_us);
    put_i64(b, t->tokens);
    put_i64(b, t->media);
    ic_buf_u32(b, t->parts_version);
    ic_buf_blob(b, t->text, (uint32_t)t->text_bytes);
    ic_buf_blob(b, t->parts, (uint32_t)t->parts_bytes);
}

static void put_media(ic_buf *b, const ic_store_media *m)
{
    uint64_t fps;
    memcpy(&fps, &m->fps, sizeof fps);
    put_i64(b, m->number);
    ic_buf_u32(b, m->kind);
    ic_buf_u32(b, m->state);
    put_i64(b, m->time_us);
    put_i64(b, m->bytes);
    put_i64(b, m->mtime_us);
    ic_buf_u64(b, fps);
    put_i64(b, m->frames_seen);
    put_i64(b, m->frames_used);
    put_i64(b, m->frames_skipped);
    ic_buf_u8(b, m->retain);
    ic_buf_blob(b, m->hash, m->hash_bytes);
    put_text(b, m->name);
    put_text(b, m->notices);
    ic_buf_blob(b, m->times, (uint32_t)m->times_bytes);
}

static void put_journal(ic_buf *b, const ic_store_record *j)
{
    put_i64(b, j->number);
    put_i64(b, j->time_us);
    ic_buf_u32(b, j->kind);
    ic_buf_u8(b, j->key != NULL);
    if (j->key)
        ic_buf_append(b, j->key, IC_STORE_KEY_BYTES);
    ic_buf_append(b, j->bytes, j->size);
}

static void put_frame(ic_buf *b, const ic_store_frame *f)
{
    put_i64(b, f->number);
    put_i64(b, f->time_us);
    ic_buf_u32(b, f->kind);
    put_i64(b, f->media);
    ic_buf_u8(b, (uint8_t)f->hold);
    put_i64(b, (int64_t)f->bulk_bytes);
    ic_buf_blob(b, f->head, (uint32_t)f->head_bytes);
    if (f->bulk)
        ic_buf_append(b, f->bulk, f->bulk_bytes);
}

static void put_manifest(ic_buf *b, const ic_store_manifest *m)
{
    ic_buf_u32(b, m->payload_version);
    put_i64(b, m->time_us);
    put_i64(b, m->journal_seq);
    put_i64(b, m->live_bytes);
    ic_buf_blob(b, m->meaning, (uint32_t)m->meaning_bytes);
    put_text(b, m->numerics);
    ic_buf_blob(b, m->state, (uint32_t)m->state_bytes);
}

static void put_payload(ic_buf *b, const ic_export_record *r)
{
    switch (r->type) {
    case IC_EXPORT_SESSION:
        put_session(b, r);
        break;
    case IC_EXPORT_TURN:
        put_turn(b, &r->turn);
        break;
    case IC_EXPORT_MEDIA:
        put_media(b, &r->media);
        break;
    case IC_EXPORT_PIECE:
        ic_buf_append(b, r->bytes, r->size);
        break;
    case IC_EXPORT_JOURNAL:
        put_journal(b, &r->journal);
        break;
    case IC_EXPORT_FRAME:
        put_frame(b, &r->frame);
        break;
    case IC_EXPORT_SEGMENT:
        ic_buf_u32(b, r->tag);
        ic_buf_append(b, r->bytes, r->size);
        break;
    case IC_EXPORT_CHECKPOINT:
        put_manifest(b, &r->manifest);
        break;
    case IC_EXPORT_END:
        ic_buf_u64(b, r->count);
        break;
    }
}

/* sum := hash of (sum, type and length, hash of the payload). */
static void go_on(uint8_t sum[IC_EXPORT_SUM], const uint8_t frame[FRAME], const void *payload,
                  size_t size)
{
    uint8_t all[IC_EXPORT_SUM + FRAME + IC_EXPORT_SUM];
    memcpy(all, sum, IC_EXPORT_SUM);
    memcpy(all + IC_EXPORT_SUM, frame, FRAME);
    ic_store_hash(payload, size, all + IC_EXPORT_SUM + FRAME);
    ic_store_hash(all, sizeof all, sum);
}

int ic_export_write(ic_buf *out, const ic_export_record *r, uint8_t sum[IC_EXPORT_SUM], ic_error *e)
{
    size_t start = out->size;
    ic_buf_u32(out, (uint32_t)r->type);
    ic_buf_u32(out, 0); /* the length, known below */
    put_payload(out, r);
    size_t size = out->size - start - FRAME;
    if (!out->status && size > IC_EXPORT_RECORD_MAX)
        return ic_error_set(e, IC_ELIMIT, "export: a record of %zu bytes is too large", size);
    if (!out->status) {
        for (int i = 0; i < 4; i++)
            out->data[start + 4 + (size_t)i] = (uint8_t)(size >> 8 * i);
        go_on(sum, out->data + start, out->data + start + FRAME, size);
    }
    if (ic_buf_append(out, sum, IC_EXPORT_SUM))
        return ic_error_set(e, out->status, "export: no memory");
    return IC_OK;
}

/* --- one record ---------------------------------------------------------------------------------
 */

static int64_t get_i64(ic_cursor *c)
{
    return (int64_t)ic_cursor_u64(c);
}

/* A number that counts something. */
static int64_t get_count(ic_cursor *c)
{
    int64_t v = get_i64(c);
    if (v < 0)
        c->status = IC_EFORMAT;
    return v;
}

static bool get_bool(ic_cursor *c)
{
    uint8_t v = ic_cursor_u8(c);
    if (v > 1)
        c->status = IC_EFORMAT;
    return v == 1;
}

static const char *get_text(ic_cursor *c, size_t limit)
{
    uint32_t size;
    const char *text = ic_cursor_blob(c, &size);
    if (!text || size == 0 || size - 1 > limit || strnlen(text, size) != size - 1) {
        c->status = IC_EFORMAT;
        return "";
    }
    return text;
}

static const void *get_blob(ic_cursor *c, size_t limit, size_t *size)
{
    uint32_t count = 0;
    const void *bytes = ic_cursor_blob(c, &count);
    if (!bytes || count > limit) {
        c->status = IC_EFORMAT;
        count = 0;
    }
    *size = count;
    return count ? bytes : "";
}

static const void *get_rest(ic_cursor *c, size_t least, size_t limit, size_t *size)
{
    *size = c->status ? 0 : ic_cursor_left(c);
    if (*size < least || *size > limit) {
        c->status = IC_EFORMAT;
        *size = 0;
    }
    return *size ? ic_cursor_bytes(c, *size) : "";
}

static void get_session(ic_cursor *c, ic_export_record *r)
{
    ic_store_export_head *h = &r->head;
    int64_t *numbers[] = {&h->created_us,       &h->used_us,         &h->counters.turns,
                          &h->counters.media,   &h->counters.frames, &h->counters.tokens,
                          &h->counters.evicted, &r->journal_base};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        *numbers[i] = get_count(c);
    if (r->journal_base > INT64_MAX / 2)
        c->status = IC_EFORMAT;
    strcpy(h->title, get_text(c, IC_STORE_TITLE_MAX));
    strcpy(h->origin, get_text(c, IC_STORE_ID_CHARS));
    strcpy(h->label, get_text(c, IC_STORE_LABEL_MAX));
    const void *meaning = get_blob(c, IC_STORE_FINGERPRINT_MAX, &h->meaning_bytes);
    memcpy(h->meaning, meaning, h->meaning_bytes);
    h->config_version = ic_cursor_u32(c);
    h->config = get_blob(c, IC_STORE_RECORD_MAX, &h->config_bytes);
}

static void get_turn(ic_cursor *c, ic_store_turn *t)
{
    t->role = (ic_store_role)ic_cursor_u32(c);
    t->time_us = get_i64(c);
    t->took_us = get_i64(c);
    t->tokens = get_i64(c);
    t->media = get_i64(c);
    t->parts_version = ic_cursor_u32(c);
    t->text = get_blob(c, IC_STORE_RECORD_MAX, &t->text_bytes);
    t->parts = get_blob(c, IC_STORE_RECORD_MAX, &t->parts_bytes);
}

static void get_media(ic_cursor *c, ic_store_media *m)
{
    size_t hash_bytes;
    m->number = get_count(c);
    m->kind = ic_cursor_u32(c);
    m->state = ic_cursor_u32(c);
    m->time_us = get_i64(c);
    m->bytes = get_i64(c);
    m->mtime_us = get_i64(c);
    uint64_t fps = ic_cursor_u64(c);
    memcpy(&m->fps, &fps, sizeof fps);
    if (!(m->fps >= 0 && m->fps <= 1e9)) /* not a number is none */
        c->status = IC_EFORMAT;
    m->frames_seen = get_count(c);
    m->frames_used = get_count(c);
    m->frames_skipped = get_count(c);
    m->retain = get_bool(c);
    const void *hash = get_blob(c, sizeof m->hash, &hash_bytes);
    memcpy(m->hash, hash, hash_bytes);
    m->hash_bytes = (uint32_t)hash_bytes;
    m->name = get_text(c, 4096);
    m->notices = get_text(c, IC_STORE_RECORD_MAX);
    m->times = get_blob(c, IC_STORE_RECORD_MAX, &m->times_bytes);
}

static void get_journal(ic_cursor *c, ic_store_record *j)
{
    j->number = get_count(c);
    j->time_us = get_i64(c);
    j->kind = ic_cursor_u32(c);
    if (get_bool(c))
        j->key = ic_cursor_bytes(c, IC_STORE_KEY_BYTES);
    j->bytes = get_rest(c, 0, IC_STORE_RECORD_MAX, &j->size);
}

/* Of what is not held any more the bulk is missing. */
static void get_frame(ic_cursor *c, ic_store_frame *f)
{
    size_t size;
    f->number = get_count(c);
    f->time_us = get_i64(c);
    f->kind = ic_cursor_u32(c);
    f->media = get_count(c);
    uint8_t hold = ic_cursor_u8(c);
    f->hold = (ic_store_hold)hold;
    int64_t bytes = get_count(c);
    f->bulk_bytes = (size_t)bytes;
    f->head = get_blob(c, IC_STORE_FRAME_HEAD_MAX, &f->head_bytes);
    f->bulk = get_rest(c, 0, IC_STORE_RECORD_MAX, &size);
    if (hold > IC_STORE_HOLD_KEEP || bytes > IC_STORE_RECORD_MAX || f->number > INT64_MAX / 2
        || size != (hold == IC_STORE_HOLD_NONE ? 0 : f->bulk_bytes))
        c->status = IC_EFORMAT;
    if (hold == IC_STORE_HOLD_NONE)
        f->bulk = NULL;
}

static void get_manifest(ic_cursor *c, ic_store_manifest *m)
{
    m->payload_version = ic_cursor_u32(c);
    m->time_us = get_i64(c);
    m->journal_seq = get_count(c);
    m->live_bytes = get_count(c);
    m->meaning = get_blob(c, IC_STORE_FINGERPRINT_MAX, &m->meaning_bytes);
    m->numerics = get_text(c, IC_STORE_NUMERICS_MAX);
    m->state = get_blob(c, IC_STORE_SEGMENT_MAX, &m->state_bytes);
}

int ic_export_decode(ic_export_type type, const void *payload, size_t size, ic_export_record *r,
                     ic_error *e)
{
    ic_cursor c;
    memset(r, 0, sizeof *r);
    r->type = type;
    ic_cursor_init(&c, payload, size);
    switch (type) {
    case IC_EXPORT_SESSION:
        get_session(&c, r);
        break;
    case IC_EXPORT_TURN:
        get_turn(&c, &r->turn);
        break;
    case IC_EXPORT_MEDIA:
        get_media(&c, &r->media);
        break;
    case IC_EXPORT_PIECE:
        r->bytes = get_rest(&c, 1, IC_STORE_SEGMENT_MAX, &r->size);
        break;
    case IC_EXPORT_JOURNAL:
        get_journal(&c, &r->journal);
        break;
    case IC_EXPORT_FRAME:
        get_frame(&c, &r->frame);
        break;
    case IC_EXPORT_SEGMENT:
        r->tag = ic_cursor_u32(&c);
        r->bytes = get_rest(&c, 1, IC_STORE_SEGMENT_MAX, &r->size);
        break;
    case IC_EXPORT_CHECKPOINT:
        get_manifest(&c, &r->manifest);
        break;
    case IC_EXPORT_END:
        r->count = ic_cursor_u64(&c);
        break;
    default:
        return ic_error_set(e, IC_EFORMAT, "a record of kind %u is not known", (unsigned)type);
    }
    if (c.status || ic_cursor_left(&c))
        return ic_error_set(e, IC_EFORMAT, "a record of kind %u makes no sense", (unsigned)type);
    return IC_OK;
}

/* --- the stream ---------------------------------------------------------------------------------
 */

void ic_export_stream_fini(ic_export_stream *x)
{
    ic_buf_fini(&x->in);
    memset(x, 0, sizeof *x);
}

static int damaged(const ic_export_stream *x, const char *what, ic_error *e)
{
    return ic_error_set(e, IC_EFORMAT,
                        "the file is damaged: %s (record %llu, at byte %llu); export it again, or "
                        "copy it again",
                        what, (unsigned long long)x->count + 1,
                        (unsigned long long)(x->at + x->used));
}

int ic_export_stream_feed(ic_export_stream *x, const void *bytes, size_t size, ic_error *e)
{
    if (x->ended && size)
        return damaged(x, "something follows its end", e);
    if (x->used) { /* at most a record's beginning is left */
        memmove(x->in.data, x->in.data + x->used, x->in.size - x->used);
        x->in.size -= x->used;
        x->at += x->used;
        x->used = 0;
    }
    int rc = ic_buf_append(&x->in, bytes, size);
    return rc ? ic_error_set(e, rc, "no memory for %zu bytes of an import", size) : IC_OK;
}

static uint32_t u32_at(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* 1: the head is there and ours. */
static int take_head(ic_export_stream *x, ic_error *e)
{
    size_t known = x->in.size < sizeof magic ? x->in.size : sizeof magic;
    if (memcmp(x->in.data, magic, known) != 0)
        return ic_error_set(e, IC_EFORMAT, "this is not an export of infchat");
    if (x->in.size < IC_EXPORT_HEAD)
        return 0;
    uint32_t format = u32_at(x->in.data + 8), flags = u32_at(x->in.data + 12);
    if (format < 1 || format > IC_STORE_EXPORT_FORMAT || flags)
        return ic_error_set(e, format ? IC_EVERSION : IC_EFORMAT,
                            "the file has format %u, made by a newer infchat; this one reads "
                            "up to %d: import it there",
                            format, IC_STORE_EXPORT_FORMAT);
    x->format = format;
    ic_store_hash(x->in.data, IC_EXPORT_HEAD, x->sum);
    x->used = IC_EXPORT_HEAD;
    x->has_head = true;
    return 1;
}

/* Where a record may stand: frames beside the journal. */
static int place_of(ic_export_type type)
{
    return type == IC_EXPORT_FRAME ? IC_EXPORT_JOURNAL : (int)type;
}

static bool may_follow(const ic_export_stream *x, ic_export_type type)
{
    int last = place_of(x->last);
    switch (type) {
    case IC_EXPORT_SESSION:
        return last == 0;
    case IC_EXPORT_MEDIA:
        return last && last <= IC_EXPORT_PIECE;
    case IC_EXPORT_PIECE:
        return last == IC_EXPORT_MEDIA || last == IC_EXPORT_PIECE;
    case IC_EXPORT_FRAME:
        return x->format > 1 && last && last <= IC_EXPORT_JOURNAL;
    case IC_EXPORT_CHECKPOINT:
        return last && last < IC_EXPORT_CHECKPOINT;
    case IC_EXPORT_END:
        return last && (!x->has_segments || last == IC_EXPORT_CHECKPOINT);
    default:
        return last && last <= (int)type;
    }
}

static int take_record(ic_export_stream *x, const uint8_t *frame, size_t size, ic_export_record *r,
                       ic_error *e)
{
    ic_export_type type = (ic_export_type)u32_at(frame);
    go_on(x->sum, frame, frame + FRAME, size);
    if (memcmp(x->sum, frame + FRAME + size, IC_EXPORT_SUM) != 0)
        return damaged(x, "a checksum does not fit", e);
    if (ic_export_decode(type, frame + FRAME, size, r, NULL))
        return damaged(x, "a record makes no sense", e);
    if (!may_follow(x, type))
        return damaged(x, "a record stands where it cannot", e);
    if (type == IC_EXPORT_END && r->count != x->count)
        return damaged(x, "records are missing", e);
    x->last = type;
    x->has_segments |= type == IC_EXPORT_SEGMENT;
    x->used += FRAME + size + IC_EXPORT_SUM;
    x->count++;
    x->ended = type == IC_EXPORT_END;
    if (x->ended && x->used < x->in.size)
        return damaged(x, "something follows its end", e);
    return 1;
}

int ic_export_stream_next(ic_export_stream *x, ic_export_record *r, ic_error *e)
{
    if (!x->has_head) {
        int rc = x->in.size ? take_head(x, e) : 0;
        if (rc != 1)
            return rc;
    }
    size_t left = x->in.size - x->used;
    if (x->ended || left < FRAME)
        return 0;
    const uint8_t *frame = x->in.data + x->used;
    size_t size = u32_at(frame + 4);
    if (size > IC_EXPORT_RECORD_MAX)
        return damaged(x, "a length makes no sense", e);
    return left < FRAME + size + IC_EXPORT_SUM ? 0 : take_record(x, frame, size, r, e);
}
