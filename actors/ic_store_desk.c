/* The router's jobs: what the store answers to a client without any session's help. */
#include <string.h>

#include "actors/ic_store_desk_priv.h"
#include "base/ic_clock.h"
#include "base/ic_mem.h"

const char ic_desk_owner[] = "local";

const ic_wire_id *ic_request_key(const ic_wire_msg *m)
{
    switch (m->verb) {
    case IC_WIRE_NEW:
        return &m->new.key;
    case IC_WIRE_ASK:
        return &m->ask.key;
    case IC_WIRE_CANCEL:
        return &m->cancel.key;
    case IC_WIRE_MEDIA:
        return &m->media.key;
    case IC_WIRE_MEDIA_STOP:
        return &m->media_stop.key;
    case IC_WIRE_TITLE:
        return &m->title.key;
    case IC_WIRE_SUSPEND:
        return &m->suspend.key;
    case IC_WIRE_RM:
        return &m->rm.key;
    case IC_WIRE_MARK:
        return &m->mark.key;
    case IC_WIRE_UNMARK:
        return &m->unmark.key;
    case IC_WIRE_FORK:
        return &m->fork.key;
    case IC_WIRE_IMPORT:
        return &m->import.key;
    default:
        return NULL;
    }
}

static void clear_results(ic_job_desk *d)
{
    for (int i = 0; i < d->turn_count; i++) {
        ic_free(d->turns[i].text);
        ic_free(d->turns[i].answer);
    }
    for (int i = 0; i < d->media_count; i++)
        ic_free(d->medias[i].name);
    ic_free(d->turns);
    ic_free(d->medias);
    ic_free(d->sessions);
    d->turns = NULL;
    d->medias = NULL;
    d->sessions = NULL;
    d->turn_count = d->media_count = d->media_capacity = d->count = d->capacity = 0;
    d->mark_count = 0;
    d->more = false;
}

static void discard_desk(ic_mail *m)
{
    ic_job_desk *d = (ic_job_desk *)m;
    clear_results(d);
    ic_buf_fini(&d->config);
    ic_buf_fini(&d->head);
    ic_free(d->held);
    if (d->request)
        d->request->head.discard(&d->request->head);
    ic_free(d);
}

ic_store_session *ic_desk_add(ic_job_desk *d)
{
    if (d->count == d->capacity) {
        d->capacity = d->capacity ? 2 * d->capacity : 4;
        d->sessions = ic_realloc(d->sessions, (size_t)d->capacity * sizeof *d->sessions);
    }
    return &d->sessions[d->count++];
}

int ic_desk_admit(ic_store *s, ic_job_desk *d, const char *session, ic_store_request *known,
                  ic_error *e)
{
    return ic_store_request_admit(s, ic_request_key(&d->request->msg)->bytes, d->request->content,
                                  (uint32_t)d->request->msg.verb, session, ic_clock_wall_us(),
                                  &d->verdict, known, e);
}

int ic_desk_finish(ic_store *s, ic_job_desk *d, const char *session, ic_error *e)
{
    return ic_store_request_update(s, ic_request_key(&d->request->msg)->bytes, IC_STORE_DONE,
                                   session, 0, 0, NULL, 0, e);
}

static int run_new(ic_store *s, ic_job_desk *d, ic_error *e)
{
    const ic_wire_new *m = &d->request->msg.new;
    ic_store_request known;
    int rc = ic_desk_admit(s, d, NULL, &known, e);
    if (rc || d->verdict == IC_STORE_CONFLICT || d->verdict == IC_STORE_EXPIRED)
        return rc;
    char id[IC_STORE_ID_CHARS + 1];
    if (d->verdict == IC_STORE_SAME)
        return ic_store_session_get(s, known.session, ic_desk_add(d), e);
    rc = ic_store_session_create(s, ic_desk_owner, ic_wire_get(m, new, title, ""),
                                 ic_clock_wall_us(), IC_SESSION_CONFIG_VERSION, d->config.data,
                                 d->config.size, id, e);
    if (rc == IC_OK)
        rc = ic_desk_finish(s, d, id, e);
    return rc ? rc : ic_store_session_get(s, id, ic_desk_add(d), e);
}

int ic_desk_find(ic_store *s, ic_job_desk *d, ic_error *e)
{
    ic_store_session *found = ic_desk_add(d);
    int rc = ic_store_session_find(s, ic_desk_owner, d->request->session, found, e);
    d->ambiguous = rc == IC_EINVAL;
    if (rc == IC_OK)
        snprintf(d->request->session, sizeof d->request->session, "%s", found->id);
    return rc;
}

/* A deleted session is found no more, but its deletion's key is still known. */
static int run_find(ic_store *s, ic_job_desk *d, ic_error *e)
{
    int rc = ic_desk_find(s, d, e);
    const ic_wire_id *key = ic_request_key(&d->request->msg);
    if (rc != IC_ENOTFOUND || !key || ic_store_batch_begin(s, NULL))
        return rc;
    if (ic_desk_admit(s, d, NULL, NULL, NULL))
        d->verdict = IC_STORE_NEW;
    ic_store_batch_rollback(s);
    return d->verdict == IC_STORE_NEW ? rc : IC_OK;
}

typedef struct listing {
    ic_job_desk *desk;
    const char *after;
} listing;

static int list_session(void *arg, const ic_store_session *session)
{
    listing *l = arg;
    if (l->after) {
        if (strcmp(session->id, l->after) == 0)
            l->after = NULL;
        return 0;
    }
    if (l->desk->count == l->desk->limit) {
        l->desk->more = true;
        return 1;
    }
    *ic_desk_add(l->desk) = *session;
    return 0;
}

static int run_list(ic_store *s, ic_job_desk *d, ic_error *e)
{
    listing l = {.desk = d, .after = ic_wire_get(&d->request->msg.list, list, after, NULL)};
    return ic_store_session_list(s, ic_desk_owner, list_session, &l, e);
}

/* Rows of the transcript into rounds: the parts begin with the round's number; an answer's go on
 * with its finish reason. */
static int add_turn(void *arg, const ic_store_turn *row)
{
    ic_job_desk *d = arg;
    ic_cursor c;
    ic_cursor_init(&c, row->parts, row->parts_bytes);
    uint64_t number = ic_cursor_u64(&c);
    int finish = row->role == IC_STORE_ASSISTANT ? (int)ic_cursor_u32(&c) : -1;
    if (c.status || (row->role != IC_STORE_USER && row->role != IC_STORE_ASSISTANT))
        return 0;
    char *text = ic_strf("%.*s", (int)row->text_bytes, row->text);
    if (row->role == IC_STORE_ASSISTANT) {
        for (int i = 0; i < d->turn_count; i++) {
            if (d->turns[i].number == number && !d->turns[i].answer) {
                d->turns[i].answer = text;
                d->turns[i].finish = finish;
                return 0;
            }
        }
        ic_free(text);
        return 0;
    }
    if (d->turn_count == d->limit) {
        ic_free(d->turns[0].text);
        ic_free(d->turns[0].answer);
        memmove(d->turns, d->turns + 1, (size_t)--d->turn_count * sizeof *d->turns);
    }
    d->turns[d->turn_count++] =
        (ic_desk_turn){.number = number, .time_us = row->time_us, .text = text, .finish = -1};
    return 0;
}

static int add_media(void *arg, const ic_store_media *m)
{
    ic_job_desk *d = arg;
    if (d->media_count == IC_WIRE_LIST_MAX) {
        ic_free(d->medias[0].name);
        memmove(d->medias, d->medias + 1, (size_t)--d->media_count * sizeof *d->medias);
    }
    if (d->media_count == d->media_capacity) {
        d->media_capacity = d->media_capacity ? 2 * d->media_capacity : 4;
        d->medias = ic_realloc(d->medias, (size_t)d->media_capacity * sizeof *d->medias);
    }
    d->medias[d->media_count++] = (ic_desk_media){
        .number = (uint64_t)m->number,
        .name = ic_strf("%.1000s", m->name ? m->name : ""),
        .kind = (int)(m->kind & 0xff),
        .image = m->kind >> 8 & 1,
        .done = m->state != 0,
        .fps = m->fps,
        .seen = (uint64_t)m->frames_used,
        .skipped = (uint64_t)m->frames_skipped,
        .deduplicated = (uint64_t)(m->frames_seen - m->frames_used - m->frames_skipped),
    };
    return 0;
}

/* What a session held is in the head of its checkpoint: nothing is loaded for it. */
static int read_head(ic_store *s, ic_job_desk *d, ic_error *e)
{
    ic_store_reader *reader = NULL;
    int rc = ic_store_checkpoint_open(s, d->sessions[0].id, &reader, e);
    if (rc)
        return rc;
    const ic_store_manifest *m = ic_store_checkpoint_manifest(reader);
    ic_buf_clear(&d->head);
    rc = ic_buf_append(&d->head, m->state, m->state_bytes);
    d->head_us = m->time_us;
    ic_store_checkpoint_close(&reader);
    return rc;
}

static int run_show(ic_store *s, ic_job_desk *d, ic_error *e)
{
    enum { MARGIN = 160 }; /* rows of queued questions between a question and its answer */
    int rc = ic_desk_find(s, d, e);
    if (rc)
        return rc;
    const ic_store_session *found = &d->sessions[0];
    uint32_t version;
    rc = ic_store_session_config(s, found->id, &version, &d->config, e);
    if (rc == IC_OK)
        rc = ic_store_sizes_session(s, found->id, &d->sizes, e);
    bool memory = ic_wire_get(&d->request->msg.show, show, memory, false);
    if (rc == IC_OK && memory && !d->held && found->has_checkpoint)
        rc = read_head(s, d, e);
    if (rc == IC_OK)
        rc = ic_store_media_list(s, found->id, 0, add_media, d, e);
    if (rc == IC_OK)
        rc = ic_desk_marks(s, d, e);
    if (rc || !d->limit)
        return rc;
    d->turns = ic_calloc((size_t)d->limit, sizeof *d->turns);
    int64_t from = 2 * (found->counters.turns - d->limit) - MARGIN;
    return ic_store_turn_read(s, found->id, from < 1 ? 1 : from, add_turn, d, e);
}

static int run_title(ic_store *s, ic_job_desk *d, ic_error *e)
{
    int rc = ic_desk_find(s, d, e);
    if (rc == IC_OK)
        rc = ic_desk_admit(s, d, d->sessions[0].id, NULL, e);
    if (rc || d->verdict != IC_STORE_NEW)
        return rc;
    rc = ic_store_session_set_title(s, d->sessions[0].id, d->request->msg.title.title, e);
    return rc ? rc : ic_desk_finish(s, d, NULL, e);
}

static int run_delete(ic_store *s, ic_job_desk *d, ic_error *e)
{
    int rc = ic_desk_admit(s, d, NULL, NULL, e);
    if (rc || d->verdict != IC_STORE_NEW)
        return rc;
    rc = ic_store_session_delete(s, d->request->session, e);
    return rc ? rc : ic_desk_finish(s, d, NULL, e);
}

static int note_pending(void *arg, const ic_store_request *r)
{
    ic_job_desk *d = arg;
    for (int i = 0; i < d->count; i++) {
        if (strcmp(d->sessions[i].id, r->session) == 0)
            return 0;
    }
    if (r->session[0] && d->count < d->limit) {
        ic_store_session *found = ic_desk_add(d);
        *found = (ic_store_session){0};
        snprintf(found->id, sizeof found->id, "%s", r->session);
    }
    return 0;
}

static int run_desk(ic_store *s, ic_store_job *job, ic_error *e)
{
    ic_job_desk *d = (ic_job_desk *)job;
    clear_results(d); /* it may run a second time, by itself */
    d->verdict = IC_STORE_NEW;
    switch (d->type) {
    case IC_DESK_NEW:
        return run_new(s, d, e);
    case IC_DESK_FIND:
        return run_find(s, d, e);
    case IC_DESK_LIST:
        return run_list(s, d, e);
    case IC_DESK_SHOW:
        return run_show(s, d, e);
    case IC_DESK_TITLE:
        return run_title(s, d, e);
    case IC_DESK_DELETE:
        return run_delete(s, d, e);
    case IC_DESK_MARK:
        return ic_desk_mark(s, d, e);
    case IC_DESK_UNMARK:
        return ic_desk_unmark(s, d, e);
    case IC_DESK_FORK:
        return ic_desk_fork(s, d, e);
    case IC_DESK_SIZES:
        return ic_store_sizes_all(s, &d->sizes, e);
    case IC_DESK_PENDING:
        return ic_store_request_pending(s, NULL, note_pending, d, e);
    }
    return IC_EBUG;
}

ic_job_desk *ic_job_desk_new(ic_desk_type type, ic_mail_request **request_p, ic_port *reply)
{
    ic_job_desk *d = ic_mail_new(IC_MAIL_STORE_JOB, sizeof *d, discard_desk);
    d->job.run = run_desk;
    d->job.grouped = type == IC_DESK_NEW || type == IC_DESK_TITLE || type == IC_DESK_DELETE
                     || type == IC_DESK_MARK || type == IC_DESK_UNMARK || type == IC_DESK_FORK;
    d->job.reply = reply;
    d->type = type;
    if (request_p) {
        d->request = *request_p;
        *request_p = NULL;
    }
    return d;
}
