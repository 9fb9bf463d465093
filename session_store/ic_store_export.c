/* A session on its way out: a hidden copy of it, by reference, is read record by record. Whatever
 * happens to the session meanwhile, the copy stays as it was; a crash leaves it to the sweep. */
#include "session_store/ic_store_export.h"

#include <string.h>

#include "base/ic_mem.h"
#include "session_store/ic_store_export_priv.h"
#include "session_store/ic_store_priv.h"

typedef enum part {
    PART_TURNS,
    PART_MEDIA,
    PART_PIECES,
    PART_FRAMES, /* that the checkpoint covers */
    PART_JOURNAL,
    PART_ROWS,
    PART_OVER
} part;

struct ic_store_export {
    ic_store *store;
    char id[IC_STORE_ID_CHARS + 1]; /* of the copy */
    int64_t n;
    ic_store_session session;
    int64_t used_us;         /* of what it is a copy of */
    ic_store_reader *reader; /* NULL: there is no checkpoint */
    uint8_t sum[IC_EXPORT_SUM];
    ic_buf out; /* written and not handed out: from `given` on */
    size_t given;
    uint64_t count;
    part part;
    int64_t next;                 /* turn, media, journal record or segment */
    int64_t media, piece, pieces; /* the source whose bytes go out, and where in them */
    ic_buf bytes;                 /* one piece or segment */
    ic_error failed;
};

static int write_record(ic_store_export *x, const ic_export_record *r, ic_error *e)
{
    x->count++;
    return ic_export_write(&x->out, r, x->sum, e);
}

/* --- the beginning ------------------------------------------------------------------------------
 */

static int make_copy(ic_store_export *x, const char *id, const char *at, ic_store_settle_fn *settle,
                     ic_error *e)
{
    ic_store *s = x->store;
    int64_t n, from;
    ic_store_session session;
    int rc = ic_store_session_get(s, id, &session, e);
    if (!rc)
        rc = ic_store_session_row(s, id, &n, e);
    if (rc)
        return rc;
    from = n;
    x->used_us = session.used_us;
    if (at)
        rc = ic_store_mark_row(s, id, n, at, &from, e);
    if (!rc)
        rc = ic_store_session_copy(s, from, "", session.title, session.created_us, x->id, e);
    if (!rc && settle)
        rc = settle(s, x->id, e);
    if (!rc)
        rc = ic_store_session_row(s, x->id, &x->n, e);
    return rc;
}

static int open_copy(ic_store_export *x, const char *id, const char *at, ic_store_settle_fn *settle,
                     ic_error *e)
{
    ic_store *s = x->store;
    int rc = ic_store_no_batch(s, "an export", e);
    if (!rc)
        rc = ic_store_begin(s, e);
    if (rc)
        return rc;
    rc = make_copy(x, id, at, settle, e);
    rc = ic_store_end(s, rc, e);
    if (rc)
        x->n = 0;
    if (!rc)
        rc = ic_store_session_get(s, x->id, &x->session, e);
    if (!rc && x->session.has_checkpoint)
        rc = ic_store_checkpoint_open(s, x->id, &x->reader, e);
    return rc;
}

static int write_session(ic_store_export *x, const char *origin, const void *meaning,
                         size_t meaning_bytes, const char *label, ic_error *e)
{
    ic_buf config;
    ic_export_record r = {.type = IC_EXPORT_SESSION};
    ic_store_export_head *h = &r.head;
    ic_buf_init(&config, 0);
    int rc = ic_store_session_config(x->store, x->id, &h->config_version, &config, e);
    if (x->reader) {
        meaning = ic_store_checkpoint_manifest(x->reader)->meaning;
        meaning_bytes = ic_store_checkpoint_manifest(x->reader)->meaning_bytes;
    }
    h->meaning_bytes = meaning_bytes < sizeof h->meaning ? meaning_bytes : sizeof h->meaning;
    if (h->meaning_bytes)
        memcpy(h->meaning, meaning, h->meaning_bytes);
    strcpy(h->title, x->session.title);
    strcpy(h->origin, origin);
    size_t length = strnlen(label, IC_STORE_LABEL_MAX);
    memcpy(h->label, label, length);
    h->created_us = x->session.created_us;
    h->used_us = x->used_us;
    h->counters = x->session.counters;
    h->config = config.data;
    h->config_bytes = config.size;
    r.journal_base = x->session.journal_first - 1;
    if (!rc)
        rc = write_record(x, &r, e);
    ic_buf_fini(&config);
    return rc;
}

int ic_store_export_begin(ic_store *s, const char *id, const char *at, ic_store_settle_fn *settle,
                          const void *meaning, size_t meaning_bytes, const char *label,
                          ic_store_export **x_p, ic_error *e)
{
    ic_store_export *x = ic_alloc(sizeof *x);
    x->store = s;
    ic_buf_init(&x->out, 0);
    ic_buf_init(&x->bytes, 0);
    int rc = open_copy(x, id, at, settle, e);
    if (!rc)
        rc = ic_export_begin(&x->out, x->sum, e);
    if (!rc)
        rc = write_session(x, id, meaning, meaning_bytes, label, e);
    if (rc)
        ic_store_export_close(&x);
    *x_p = x;
    return rc;
}

void ic_store_export_close(ic_store_export **x_p)
{
    ic_store_export *x = *x_p;
    if (!x)
        return;
    *x_p = NULL;
    ic_store_checkpoint_close(&x->reader);
    /* What fails to go now is swept when the store is opened next. */
    if (x->n && !x->store->in_batch && ic_store_begin(x->store, NULL) == IC_OK)
        ic_store_end(x->store, ic_store_session_drop(x->store, x->n, NULL), NULL);
    ic_buf_fini(&x->out);
    ic_buf_fini(&x->bytes);
    ic_free(x);
}

/* --- record by record ---------------------------------------------------------------------------
 */

/* What a reading of one row leaves: 0, or why it could not be written. */
typedef struct one {
    ic_store_export *x;
    bool found;
    bool is_frame; /* a record of the journal that lies among the frames */
    int rc;
    ic_error e;
} one;

static void next_part(ic_store_export *x, part to)
{
    x->part = to;
    x->next = 0;
}

static int take_turn(void *arg, const ic_store_turn *turn)
{
    one *o = arg;
    ic_export_record r = {.type = IC_EXPORT_TURN, .turn = *turn};
    o->found = true;
    o->x->next = turn->number + 1;
    o->rc = write_record(o->x, &r, &o->e);
    return 1;
}

static int take_media(void *arg, const ic_store_media *media)
{
    one *o = arg;
    ic_export_record r = {.type = IC_EXPORT_MEDIA, .media = *media};
    o->found = true;
    o->x->next = media->number + 1;
    o->x->media = media->number;
    o->x->piece = 0;
    o->x->pieces = media->pieces;
    o->rc = write_record(o->x, &r, &o->e);
    return 1;
}

static int take_frame(void *arg, const ic_store_frame *frame)
{
    one *o = arg;
    ic_export_record r = {.type = IC_EXPORT_FRAME, .frame = *frame};
    if (o->x->part == PART_FRAMES && frame->number >= o->x->session.journal_first)
        return 1; /* the journal's */
    o->found = true;
    o->x->next = frame->number + 1;
    o->rc = frame->damaged ? ic_error_set(&o->e, IC_EFORMAT, "session %s: frame %lld is damaged",
                                          o->x->id, (long long)frame->number)
                           : write_record(o->x, &r, &o->e);
    return 1;
}

static int take_journal(void *arg, const ic_store_record *record)
{
    one *o = arg;
    ic_export_record r = {.type = IC_EXPORT_JOURNAL, .journal = *record};
    o->is_frame = record->bulk != NULL;
    if (o->is_frame)
        return 1;
    o->found = true;
    o->x->next = record->number + 1;
    o->rc = write_record(o->x, &r, &o->e);
    return 1;
}

/* The next row of a table, or the next table. */
static int write_row(ic_store_export *x, ic_error *e)
{
    one o = {.x = x};
    ic_store *s = x->store;
    int rc = x->part == PART_TURNS   ? ic_store_turn_read(s, x->id, x->next, take_turn, &o, e)
             : x->part == PART_MEDIA ? ic_store_media_list(s, x->id, x->next, take_media, &o, e)
             : x->part == PART_FRAMES
                 ? ic_store_frame_read(s, x->id, x->next, take_frame, &o, e)
                 : ic_store_journal_read(s, x->id, x->next, take_journal, &o, e);
    if (!rc && o.is_frame)
        rc = ic_store_frame_read(s, x->id, x->next ? x->next : x->session.journal_first, take_frame,
                                 &o, e);
    if (!rc && o.rc)
        rc = ic_error_set(e, o.rc, "%s", o.e.text);
    if (rc)
        return rc;
    if (!o.found)
        next_part(x, x->part == PART_TURNS    ? PART_MEDIA
                     : x->part == PART_MEDIA  ? PART_FRAMES
                     : x->part == PART_FRAMES ? PART_JOURNAL
                                              : PART_ROWS);
    else if (x->part == PART_MEDIA)
        x->part = PART_PIECES; /* and back, to the source after this one */
    return IC_OK;
}

/* The next piece of the source's bytes, or the next source. */
static int write_piece(ic_store_export *x, ic_error *e)
{
    if (x->piece == x->pieces) {
        x->part = PART_MEDIA;
        return IC_OK;
    }
    ic_buf_clear(&x->bytes);
    int rc = ic_store_media_read(x->store, x->id, x->media, x->piece++, &x->bytes, e);
    ic_export_record r = {.type = IC_EXPORT_PIECE, .bytes = x->bytes.data, .size = x->bytes.size};
    return rc ? rc : write_record(x, &r, e);
}

static int write_segment(ic_store_export *x, ic_error *e)
{
    const ic_store_segment *g = &ic_store_checkpoint_manifest(x->reader)->segments[x->next];
    ic_buf_clear(&x->bytes);
    if (ic_buf_reserve(&x->bytes, (size_t)g->bytes))
        return ic_error_set(e, IC_ENOMEM, "export: no memory for a segment");
    int rc = ic_store_checkpoint_read(x->reader, (size_t)x->next, x->bytes.data, e);
    ic_export_record r = {
        .type = IC_EXPORT_SEGMENT, .tag = g->tag, .bytes = x->bytes.data, .size = (size_t)g->bytes};
    x->next++;
    return rc ? rc : write_record(x, &r, e);
}

static int write_end(ic_store_export *x, ic_error *e)
{
    int rc = IC_OK;
    if (x->reader) {
        ic_export_record r = {.type = IC_EXPORT_CHECKPOINT,
                              .manifest = *ic_store_checkpoint_manifest(x->reader)};
        rc = write_record(x, &r, e);
    }
    ic_export_record end = {.type = IC_EXPORT_END, .count = x->count};
    x->part = PART_OVER;
    return rc ? rc : write_record(x, &end, e);
}

static int write_next(ic_store_export *x, ic_error *e)
{
    switch (x->part) {
    case PART_PIECES:
        return write_piece(x, e);
    case PART_ROWS:
        if (x->reader && (size_t)x->next < ic_store_checkpoint_manifest(x->reader)->segment_count)
            return write_segment(x, e);
        return write_end(x, e);
    default:
        return write_row(x, e);
    }
}

int ic_store_export_read(ic_store_export *x, size_t max, ic_buf *out, bool *last, ic_error *e)
{
    int rc = x->failed.code;
    if (rc)
        return ic_error_set(e, rc, "%s", x->failed.text);
    *last = false;
    while (!rc && x->part != PART_OVER && x->out.size - x->given < max) {
        if (x->given == x->out.size) {
            ic_buf_clear(&x->out);
            x->given = 0;
        }
        rc = write_next(x, &x->failed);
    }
    size_t size = x->out.size - x->given;
    size = size < max ? size : max;
    if (!rc && ic_buf_append(out, x->out.data + x->given, size))
        rc = ic_error_set(&x->failed, IC_ENOMEM, "export: no memory");
    if (rc) {
        x->failed.code = rc;
        return ic_error_set(e, rc, "%s", x->failed.text);
    }
    x->given += size;
    *last = x->part == PART_OVER && x->given == x->out.size;
    return IC_OK;
}
