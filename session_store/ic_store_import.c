/* A session on its way in: it grows as a hidden one, which the sweep takes away unless it is
 * adopted at the end. Rows of one piece share a commit; segments have each their own, as in any
 * checkpoint. */
#include <string.h>

#include "base/ic_mem.h"
#include "session_store/ic_store_export_priv.h"
#include "session_store/ic_store_priv.h"

struct ic_store_import {
    ic_store *store;
    ic_export_stream stream;
    int64_t max_bytes, bytes;
    char id[IC_STORE_ID_CHARS + 1]; /* of the hidden session; "": there is none yet */
    ic_store_export_head head;
    ic_buf config;
    int64_t media;           /* number here of the newest source */
    ic_store_writer *writer; /* from the first segment on */
    ic_buf segments;         /* ic_store_segment, one after the other */
    bool has_manifest, complete;
    ic_store_manifest manifest;
    ic_buf meaning, numerics, state;
    ic_error failed;
};

int ic_store_import_begin(ic_store *s, int64_t max_bytes, ic_store_import **x_p, ic_error *e)
{
    *x_p = NULL;
    int rc = ic_store_no_batch(s, "an import", e);
    if (rc)
        return rc;
    ic_store_import *x = ic_alloc(sizeof *x);
    x->store = s;
    x->max_bytes = max_bytes;
    *x_p = x;
    return IC_OK;
}

void ic_store_import_close(ic_store_import **x_p, bool kept)
{
    ic_store_import *x = *x_p;
    if (!x)
        return;
    *x_p = NULL;
    ic_store *s = x->store;
    int64_t n;
    ic_store_checkpoint_abort(&x->writer);
    if (!kept && x->id[0] && !s->in_batch && ic_store_begin(s, NULL) == IC_OK) {
        int rc = ic_store_session_row(s, x->id, &n, NULL);
        ic_store_end(s, rc ? rc : ic_store_session_drop(s, n, NULL), NULL);
    }
    ic_export_stream_fini(&x->stream);
    ic_buf_fini(&x->config);
    ic_buf_fini(&x->segments);
    ic_buf_fini(&x->meaning);
    ic_buf_fini(&x->numerics);
    ic_buf_fini(&x->state);
    ic_free(x);
}

/* --- records into rows --------------------------------------------------------------------------
 */

static int take_session(ic_store_import *x, const ic_export_record *r, ic_error *e)
{
    x->head = r->head;
    int rc = ic_buf_append(&x->config, r->head.config, r->head.config_bytes);
    if (rc)
        return ic_error_set(e, rc, "import: no memory");
    x->head.config = x->config.data;
    const ic_store_export_head *h = &x->head;
    rc = ic_store_session_create_hidden(x->store, h->title, h->created_us, h->config_version,
                                        h->config, h->config_bytes, r->journal_base, x->id, e);
    return rc ? rc : ic_store_session_touch(x->store, x->id, h->used_us, &h->counters, e);
}

static int take_journal(ic_store_import *x, const ic_store_record *j, ic_error *e)
{
    int64_t number = 0;
    int rc = ic_store_journal_append(x->store, x->id, j->kind, j->time_us, j->key, j->bytes,
                                     j->size, &number, e);
    if (!rc && number != j->number)
        rc = ic_error_set(e, IC_EFORMAT,
                          "the file is damaged: journal record %lld stands where %lld should",
                          (long long)j->number, (long long)number);
    return rc;
}

static int take_media(ic_store_import *x, const ic_store_media *media, ic_error *e)
{
    ic_store_media m = *media;
    m.number = 0;
    int rc = ic_store_media_put(x->store, x->id, &m, &x->media, e);
    if (!rc && x->media != media->number)
        rc =
            ic_error_set(e, IC_EFORMAT, "the file is damaged: source %lld stands where %lld should",
                         (long long)media->number, (long long)x->media);
    return rc;
}

/* A checkpoint's parts live longer than the record they came in. */
static int take_manifest(ic_store_import *x, const ic_store_manifest *m, ic_error *e)
{
    ic_buf_append(&x->meaning, m->meaning, m->meaning_bytes);
    ic_buf_append(&x->numerics, m->numerics, strlen(m->numerics) + 1);
    ic_buf_append(&x->state, m->state, m->state_bytes);
    if (x->meaning.status || x->numerics.status || x->state.status)
        return ic_error_set(e, IC_ENOMEM, "import: no memory for a checkpoint's state");
    x->manifest = *m;
    x->has_manifest = true;
    return IC_OK;
}

static int take_segment(ic_store_import *x, const ic_export_record *r, ic_error *e)
{
    ic_store_segment g;
    int rc = x->writer ? IC_OK : ic_store_checkpoint_begin(x->store, x->id, &x->writer, e);
    if (!rc)
        rc = ic_store_checkpoint_segment(x->writer, r->tag, r->bytes, r->size, &g, e);
    if (!rc && ic_buf_append(&x->segments, &g, sizeof g))
        rc = ic_error_set(e, IC_ENOMEM, "import: no memory for a list of segments");
    return rc;
}

static int take_row(ic_store_import *x, const ic_export_record *r, ic_error *e)
{
    switch (r->type) {
    case IC_EXPORT_SESSION:
        return take_session(x, r, e);
    case IC_EXPORT_TURN:
        return ic_store_turn_append(x->store, x->id, &r->turn, NULL, e);
    case IC_EXPORT_MEDIA:
        return take_media(x, &r->media, e);
    case IC_EXPORT_PIECE:
        return ic_store_media_append(x->store, x->id, x->media, r->bytes, r->size, e);
    case IC_EXPORT_JOURNAL:
        return take_journal(x, &r->journal, e);
    case IC_EXPORT_FRAME:
        return ic_store_frame_put(x->store, x->id, &r->frame, e);
    case IC_EXPORT_CHECKPOINT:
        return take_manifest(x, &r->manifest, e);
    default:
        return IC_OK;
    }
}

/* --- the stream ---------------------------------------------------------------------------------
 */

/* Every whole record that is there; rows in one batch, which a segment interrupts. */
static int take_records(ic_store_import *x, ic_error *e)
{
    ic_store *s = x->store;
    ic_export_record r;
    int rc;
    while ((rc = ic_export_stream_next(&x->stream, &r, e)) == 1) {
        bool alone = r.type == IC_EXPORT_SEGMENT;
        rc = IC_OK;
        if (s->in_batch && alone)
            rc = ic_store_batch_commit(s, e);
        if (!rc && !s->in_batch && !alone)
            rc = ic_store_batch_begin(s, e);
        if (!rc)
            rc = alone ? take_segment(x, &r, e) : take_row(x, &r, e);
        if (rc)
            break;
    }
    if (!rc && s->in_batch)
        rc = ic_store_batch_commit(s, e);
    ic_store_batch_rollback(s);
    return rc;
}

int ic_store_import_put(ic_store_import *x, const void *bytes, size_t size, ic_error *e)
{
    if (x->failed.code)
        return ic_error_set(e, x->failed.code, "%s", x->failed.text);
    x->bytes += (int64_t)size;
    ic_error *f = &x->failed;
    int rc = ic_store_no_batch(x->store, "an import", f);
    if (!rc && x->max_bytes && x->bytes > x->max_bytes)
        rc = ic_error_set(f, IC_ELIMIT, "the import is larger than %lld bytes, which are allowed",
                          (long long)x->max_bytes);
    if (!rc)
        rc = ic_export_stream_feed(&x->stream, bytes, size, f);
    if (!rc)
        rc = take_records(x, f);
    if (!rc)
        return IC_OK;
    f->code = rc;
    return ic_error_set(e, rc, "%s", f->text);
}

const ic_store_export_head *ic_store_import_head(const ic_store_import *x)
{
    return x->id[0] ? &x->head : NULL;
}

static int write_manifest(ic_store_import *x, ic_error *e)
{
    int rc = x->writer ? IC_OK : ic_store_checkpoint_begin(x->store, x->id, &x->writer, e);
    if (rc)
        return rc;
    ic_store_manifest *m = &x->manifest;
    m->meaning = x->meaning.data;
    m->numerics = (const char *)x->numerics.data;
    m->state = x->state.data;
    m->segments = (const ic_store_segment *)(const void *)x->segments.data;
    m->segment_count = x->segments.size / sizeof *m->segments;
    return ic_store_checkpoint_finish(&x->writer, m, e);
}

int ic_store_import_complete(ic_store_import *x, ic_error *e)
{
    if (x->failed.code)
        return ic_error_set(e, x->failed.code, "%s", x->failed.text);
    int rc = IC_OK;
    ic_error *f = &x->failed;
    if (!x->stream.ended)
        rc = ic_error_set(f, IC_EFORMAT,
                          "the file is cut: it ends at byte %lld, before its end; export it again, "
                          "or copy it again",
                          (long long)x->bytes);
    if (!rc && x->has_manifest)
        rc = write_manifest(x, f);
    x->complete = rc == IC_OK;
    if (!rc)
        return IC_OK;
    f->code = rc;
    return ic_error_set(e, rc, "%s", f->text);
}

int ic_store_import_adopt(ic_store_import *x, const char *owner, const char *title,
                          char id[IC_STORE_ID_CHARS + 1], ic_error *e)
{
    if (!x->complete)
        return ic_error_set(e, IC_EINVAL, "the import is not complete");
    int rc = ic_store_session_give(x->store, x->id, owner, title, e);
    if (!rc)
        memcpy(id, x->id, sizeof x->id);
    return rc;
}
