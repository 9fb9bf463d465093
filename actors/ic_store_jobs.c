#include "actors/ic_store_jobs.h"

#include <string.h>

#include "base/ic_clock.h"
#include "base/ic_mem.h"

static void *new_job(size_t bytes, ic_store_job_fn *run, bool grouped, ic_port *reply, int tag,
                     void (*discard)(ic_mail *))
{
    ic_store_job *job = ic_mail_new(IC_MAIL_STORE_JOB, bytes, discard);
    job->run = run;
    job->grouped = grouped;
    job->reply = reply;
    job->tag = tag;
    return job;
}

static void copy_id(char to[IC_STORE_ID_CHARS + 1], const char *from)
{
    snprintf(to, IC_STORE_ID_CHARS + 1, "%s", from);
}

/* --- write -------------------------------------------------------------------------------------
 */

static void discard_write(ic_mail *m)
{
    ic_job_write *w = (ic_job_write *)m;
    for (int i = 0; i < w->count; i++) {
        ic_buf_fini(&w->ops[i].bytes);
        ic_buf_fini(&w->ops[i].extra);
        ic_buf_fini(&w->ops[i].times);
    }
    ic_free(w->ops);
    ic_buf_fini(&w->known_result);
    if (w->free_context)
        w->free_context(w->context);
    ic_free(w);
}

static int admit(ic_store *s, ic_job_write *w, ic_write_op *op, ic_error *e)
{
    int rc = ic_store_request_admit(s, op->key, op->content, op->kind, w->session, w->time_us,
                                    &w->verdict, &w->known, e);
    if (rc)
        return rc;
    ic_buf_clear(&w->known_result);
    if (w->verdict == IC_STORE_SAME && w->known.result)
        ic_buf_append(&w->known_result, w->known.result, w->known.result_bytes);
    w->known.result = NULL;
    return w->known_result.status;
}

/* Its parts end with the number of the journal record that it belongs to: an answer's end. */
static int write_turn(ic_store *s, ic_job_write *w, ic_write_op *op, ic_error *e)
{
    ic_buf parts = {0}; /* the job may run again: its own stay as they are */
    ic_buf_append(&parts, op->extra.data, op->extra.size);
    int rc = ic_buf_u64(&parts, (uint64_t)w->journal_at);
    op->turn.text = (const char *)op->bytes.data;
    op->turn.text_bytes = op->bytes.size;
    op->turn.parts_version = IC_TURN_PARTS_VERSION;
    op->turn.parts = parts.data;
    op->turn.parts_bytes = parts.size;
    if (rc)
        ic_error_set(e, rc, "no memory for a turn");
    else
        rc = ic_store_turn_append(s, w->session, &op->turn, &op->number, e);
    ic_buf_fini(&parts);
    return rc;
}

static int write_journal(ic_store *s, ic_job_write *w, ic_write_op *op, ic_error *e)
{
    int rc =
        ic_store_journal_append(s, w->session, op->kind, w->time_us, op->has_key ? op->key : NULL,
                                op->bytes.data, op->bytes.size, &op->number, e);
    w->journal_at = op->number;
    return rc;
}

static int write_frame(ic_store *s, ic_job_write *w, ic_write_op *op, ic_error *e)
{
    ic_store_frame f = {.time_us = w->time_us,
                        .kind = op->kind,
                        .media = op->media.number,
                        .hold = op->hold,
                        .head = op->bytes.data,
                        .head_bytes = op->head_bytes,
                        .bulk = op->bytes.data + op->head_bytes,
                        .bulk_bytes = op->bytes.size - op->head_bytes};
    int rc = ic_store_frame_append(s, w->session, &f, &op->number, e);
    w->journal_at = op->number;
    return rc;
}

static int write_media(ic_store *s, ic_job_write *w, ic_write_op *op, ic_error *e)
{
    char *name = ic_strf("%.*s", (int)op->bytes.size, (char *)op->bytes.data);
    char *notices = ic_strf("%.*s", (int)op->extra.size, (char *)op->extra.data);
    op->media.name = name;
    op->media.notices = notices;
    op->media.times = op->times.data;
    op->media.times_bytes = op->times.size;
    int rc = ic_store_media_put(s, w->session, &op->media, &op->number, e);
    ic_free(name);
    ic_free(notices);
    return rc;
}

typedef struct lost_media {
    ic_store_media media;
    char *name;
    ic_buf times;
} lost_media;

static int take_lost(void *arg, const ic_store_media *m)
{
    lost_media *lost = arg;
    lost->media = *m;
    lost->name = ic_strdup(m->name);
    return ic_buf_append(&lost->times, m->times, m->times_bytes) ? IC_ENOMEM : 1;
}

/* The entry as it was made, with the frames that are known now. */
static int close_lost(ic_store *s, ic_job_write *w, ic_write_op *op, ic_error *e)
{
    lost_media lost = {.name = NULL};
    int rc = ic_store_media_list(s, w->session, op->number, take_lost, &lost, e);
    if (rc || lost.media.number != op->number) {
        ic_free(lost.name);
        ic_buf_fini(&lost.times);
        return rc;
    }
    char *notice = ic_strf("%.*s", (int)op->extra.size, (char *)op->extra.data);
    ic_store_media m = lost.media;
    m.name = lost.name;
    m.notices = notice;
    m.times = lost.times.data;
    m.state = 1;
    m.frames_seen = op->media.frames_seen;
    m.frames_used = op->media.frames_used;
    m.frames_skipped = op->media.frames_skipped;
    rc = ic_store_media_put(s, w->session, &m, &op->number, e);
    ic_free(lost.name);
    ic_free(notice);
    ic_buf_fini(&lost.times);
    return rc;
}

static int write_event(ic_store *s, ic_job_write *w, ic_write_op *op, ic_error *e)
{
    int64_t number = 0;
    int rc = ic_store_event_append(s, w->session, op->kind, w->time_us, op->bytes.data,
                                   op->bytes.size, &number, e);
    if (rc == IC_OK && number != op->number)
        return ic_error_set(e, IC_EBUG, "event %lld was to be %lld", (long long)number,
                            (long long)op->number);
    return rc;
}

static int write_op(ic_store *s, ic_job_write *w, ic_write_op *op, ic_error *e)
{
    switch (op->type) {
    case IC_WRITE_ADMIT:
        return admit(s, w, op, e);
    case IC_WRITE_JOURNAL:
        return write_journal(s, w, op, e);
    case IC_WRITE_FRAME:
        return write_frame(s, w, op, e);
    case IC_WRITE_EVENT:
        return write_event(s, w, op, e);
    case IC_WRITE_TURN:
        return write_turn(s, w, op, e);
    case IC_WRITE_REQUEST:
        return ic_store_request_update(s, op->key, op->state, w->session, op->first, op->last,
                                       op->bytes.size ? op->bytes.data : NULL, op->bytes.size, e);
    case IC_WRITE_TOUCH:
        return ic_store_session_touch(s, w->session, w->time_us, &op->counters, e);
    case IC_WRITE_MEDIA:
        return write_media(s, w, op, e);
    case IC_WRITE_LOST:
        return close_lost(s, w, op, e);
    case IC_WRITE_CONFIG:
        return ic_store_session_set_config(s, w->session, op->kind, op->bytes.data, op->bytes.size,
                                           e);
    case IC_WRITE_TRIM:
        return ic_store_event_trim(s, w->session, op->number, w->time_us, NULL, e);
    case IC_WRITE_KEEP:
        return ic_store_frame_limit(s, w->session, op->number, &op->dropped, e);
    }
    return IC_EBUG;
}

static int run_write(ic_store *s, ic_store_job *job, ic_error *e)
{
    ic_job_write *w = (ic_job_write *)job;
    w->verdict = IC_STORE_NEW;
    for (int i = 0; i < w->count; i++) {
        int rc = write_op(s, w, &w->ops[i], e);
        if (rc)
            return rc;
        if (w->ops[i].type == IC_WRITE_ADMIT && w->verdict != IC_STORE_NEW)
            break;
    }
    return IC_OK;
}

ic_job_write *ic_job_write_new(const char *session, ic_port *reply, int tag)
{
    ic_job_write *w = new_job(sizeof *w, run_write, true, reply, tag, discard_write);
    copy_id(w->session, session);
    w->time_us = ic_clock_wall_us();
    w->verdict = IC_STORE_NEW;
    return w;
}

ic_write_op *ic_job_write_add(ic_job_write *w, ic_write_type type)
{
    if (w->count == w->capacity) {
        w->capacity = w->capacity ? 2 * w->capacity : 8;
        w->ops = ic_realloc(w->ops, (size_t)w->capacity * sizeof *w->ops);
    }
    ic_write_op *op = &w->ops[w->count++];
    *op = (ic_write_op){.type = type};
    return op;
}

/* --- lookup ------------------------------------------------------------------------------------
 */

static void discard_lookup(ic_mail *m)
{
    ic_job_lookup *l = (ic_job_lookup *)m;
    if (l->request)
        l->request->head.discard(&l->request->head);
    ic_free(l);
}

/* Admission that is taken back: the store has no other way to ask. */
static int look_up(ic_store *s, const uint8_t *key, const uint8_t *content,
                   ic_store_verdict *verdict, ic_store_request *known, ic_error *e)
{
    int rc = ic_store_batch_begin(s, e);
    if (rc)
        return rc;
    rc = ic_store_request_admit(s, key, content, 0, NULL, ic_clock_wall_us(), verdict, known, e);
    ic_store_batch_rollback(s);
    if (known) {
        known->result = NULL;
        known->result_bytes = 0;
    }
    return rc;
}

static int run_lookup(ic_store *s, ic_store_job *job, ic_error *e)
{
    ic_job_lookup *l = (ic_job_lookup *)job;
    return look_up(s, l->key, l->content, &l->verdict, &l->known, e);
}

ic_job_lookup *ic_job_lookup_new(ic_mail_request **request_p, const ic_wire_id *key, ic_port *reply,
                                 int tag)
{
    ic_job_lookup *l = new_job(sizeof *l, run_lookup, false, reply, tag, discard_lookup);
    memcpy(l->key, key->bytes, sizeof l->key);
    memcpy(l->content, (*request_p)->content, sizeof l->content);
    l->request = *request_p;
    *request_p = NULL;
    return l;
}

/* --- events ------------------------------------------------------------------------------------
 */

static void discard_events(ic_mail *m)
{
    ic_job_events *j = (ic_job_events *)m;
    for (int i = 0; i < j->count; i++)
        ic_buf_fini(&j->events[i].body);
    ic_free(j->events);
    ic_free(j);
}

static int add_event(void *arg, const ic_store_record *r)
{
    ic_job_events *j = arg;
    if (j->bytes >= j->max_bytes)
        return 1;
    if (j->count == j->capacity) {
        j->capacity = j->capacity ? 2 * j->capacity : 16;
        j->events = ic_realloc(j->events, (size_t)j->capacity * sizeof *j->events);
    }
    ic_stored_event *event = &j->events[j->count++];
    *event = (ic_stored_event){.number = r->number};
    j->bytes += r->size;
    return ic_buf_append(&event->body, r->bytes, r->size);
}

static int run_events(ic_store *s, ic_store_job *job, ic_error *e)
{
    ic_job_events *j = (ic_job_events *)job;
    int rc = ic_store_event_read(s, j->session, j->from, add_event, j, e);
    if (rc == IC_ENOTFOUND) /* dropped by retention: what is left */
        rc = ic_store_event_read(s, j->session, 0, add_event, j, e);
    return rc;
}

ic_job_events *ic_job_events_new(const char *session, int64_t from, size_t max_bytes,
                                 ic_port *reply, int tag)
{
    ic_job_events *j = new_job(sizeof *j, run_events, false, reply, tag, discard_events);
    copy_id(j->session, session);
    j->from = from;
    j->max_bytes = max_bytes;
    return j;
}

/* --- a session ---------------------------------------------------------------------------------
 */

static void discard_session(ic_mail *m)
{
    ic_buf_fini(&((ic_job_session *)m)->config);
    ic_free(m);
}

static int note_media(void *arg, const ic_store_media *m)
{
    ((ic_job_session *)arg)->medias = m->number;
    return 0;
}

static int measure(ic_store *s, const char *id, int64_t *bytes, ic_error *e)
{
    ic_store_sizes sizes;
    int rc = ic_store_sizes_session(s, id, &sizes, e);
    *bytes = rc ? 0 : sizes.total;
    return rc;
}

static int run_session(ic_store *s, ic_store_job *job, ic_error *e)
{
    ic_job_session *j = (ic_job_session *)job;
    int rc = ic_store_session_get(s, j->session, &j->record, e);
    if (rc == IC_OK)
        rc = ic_store_session_config(s, j->session, &j->config_version, &j->config, e);
    if (rc == IC_OK)
        rc = ic_store_media_list(s, j->session, 0, note_media, j, e);
    j->turns = j->record.counters.turns;
    if (rc == IC_OK)
        rc = measure(s, j->session, &j->store_bytes, e);
    return rc;
}

ic_job_session *ic_job_session_new(const char *session, ic_port *reply, int tag)
{
    ic_job_session *j = new_job(sizeof *j, run_session, false, reply, tag, discard_session);
    copy_id(j->session, session);
    return j;
}

/* --- load --------------------------------------------------------------------------------------
 */

static void discard_load(ic_mail *m)
{
    ic_job_load *j = (ic_job_load *)m;
    for (int i = 0; i < j->count; i++)
        ic_buf_fini(&j->records[i].bytes);
    ic_free(j->records);
    ic_free(j); /* the reader is the store thread's: closed by a job of its own */
}

static int add_record(void *arg, const ic_store_record *r)
{
    ic_job_load *j = arg;
    if (j->count == j->capacity) {
        j->capacity = j->capacity ? 2 * j->capacity : 64;
        j->records = ic_realloc(j->records, (size_t)j->capacity * sizeof *j->records);
    }
    ic_journal_record *record = &j->records[j->count++];
    *record = (ic_journal_record){.number = r->number, .kind = r->kind};
    int rc = ic_buf_append(&record->bytes, r->bytes, r->size);
    return rc ? rc : ic_buf_append(&record->bytes, r->bulk, r->bulk_size);
}

static int run_load(ic_store *s, ic_store_job *job, ic_error *e)
{
    ic_job_load *j = (ic_job_load *)job;
    ic_store_session record;
    int rc = ic_store_session_get(s, j->session, &record, e);
    if (rc)
        return rc;
    j->journal_last = record.journal_next - 1;
    if (record.has_checkpoint) {
        rc = ic_store_checkpoint_open(s, j->session, &j->reader, e);
        if (rc)
            return rc;
        j->manifest = *ic_store_checkpoint_manifest(j->reader);
    }
    if (j->reader && j->verify)
        rc = ic_store_checkpoint_verify(j->reader, e);
    if (rc == IC_OK)
        rc = ic_store_journal_read(s, j->session, 0, add_record, j, e);
    if (rc)
        ic_store_checkpoint_close(&j->reader);
    return rc;
}

ic_job_load *ic_job_load_new(const char *session, ic_port *reply, int tag)
{
    ic_job_load *j = new_job(sizeof *j, run_load, false, reply, tag, discard_load);
    copy_id(j->session, session);
    return j;
}

/* --- segments ----------------------------------------------------------------------------------
 */

static void discard_segment(ic_mail *m)
{
    ic_buf_fini(&((ic_job_segment *)m)->bytes);
    ic_free(m);
}

static int run_segment(ic_store *s, ic_store_job *job, ic_error *e)
{
    (void)s;
    ic_job_segment *j = (ic_job_segment *)job;
    size_t bytes = (size_t)ic_store_checkpoint_manifest(j->reader)->segments[j->index].bytes;
    ic_buf_clear(&j->bytes);
    if (ic_buf_reserve(&j->bytes, bytes))
        return ic_error_set(e, IC_ENOMEM, "no memory for a checkpoint's segment");
    j->bytes.size = bytes;
    return ic_store_checkpoint_read(j->reader, j->index, j->bytes.data, e);
}

ic_job_segment *ic_job_segment_new(ic_store_reader *reader, size_t index, ic_port *reply, int tag)
{
    ic_job_segment *j = new_job(sizeof *j, run_segment, false, reply, tag, discard_segment);
    j->reader = reader;
    j->index = index;
    return j;
}

static int run_reader_close(ic_store *s, ic_store_job *job, ic_error *e)
{
    (void)s, (void)e;
    ic_store_checkpoint_close(&((ic_job_segment *)job)->reader);
    return IC_OK;
}

ic_store_job *ic_job_reader_close_new(ic_store_reader **reader_p)
{
    ic_job_segment *j = new_job(sizeof *j, run_reader_close, false, NULL, 0, discard_segment);
    j->reader = *reader_p;
    *reader_p = NULL;
    return &j->job;
}

/* --- checkpoint --------------------------------------------------------------------------------
 */

static void discard_checkpoint(ic_mail *m)
{
    ic_job_checkpoint *j = (ic_job_checkpoint *)m;
    ic_buf_fini(&j->bytes);
    ic_buf_fini(&j->meaning);
    ic_buf_fini(&j->numerics);
    ic_buf_fini(&j->state);
    ic_free(j->segments);
    ic_free(j);
}

static int finish_checkpoint(ic_job_checkpoint *j, ic_error *e)
{
    j->manifest.meaning = j->meaning.data;
    j->manifest.meaning_bytes = j->meaning.size;
    j->manifest.numerics = (const char *)j->numerics.data;
    j->manifest.state = j->state.data;
    j->manifest.state_bytes = j->state.size;
    /* The new segment, if any, is the last of the list; its number is known only now. */
    if (j->bytes.size)
        j->segments[j->manifest.segment_count - 1] = j->segment;
    j->manifest.segments = j->segments;
    return ic_store_checkpoint_finish(&j->writer, &j->manifest, e);
}

static int run_checkpoint(ic_store *s, ic_store_job *job, ic_error *e)
{
    ic_job_checkpoint *j = (ic_job_checkpoint *)job;
    int rc = IC_OK;
    if (!j->writer && !j->abort)
        rc = ic_store_checkpoint_begin(s, j->session, &j->writer, e);
    if (rc == IC_OK && !j->abort && j->bytes.size)
        rc = ic_store_checkpoint_segment(j->writer, j->tag, j->bytes.data, j->bytes.size,
                                         &j->segment, e);
    if (rc == IC_OK && !j->abort && j->finish) {
        rc = finish_checkpoint(j, e);
        if (rc == IC_OK)
            measure(s, j->session, &j->store_bytes, NULL);
        return rc;
    }
    if (rc || j->abort)
        ic_store_checkpoint_abort(&j->writer);
    return rc;
}

ic_job_checkpoint *ic_job_checkpoint_new(const char *session, ic_store_writer *writer,
                                         ic_port *reply, int tag)
{
    ic_job_checkpoint *j =
        new_job(sizeof *j, run_checkpoint, false, reply, tag, discard_checkpoint);
    copy_id(j->session, session);
    j->writer = writer;
    return j;
}
