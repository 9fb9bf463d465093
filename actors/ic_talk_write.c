/* Writing: units of operations go to the store in order, one job at a time; units that come
 * meanwhile go together in the next. Events get their numbers when their job is sent, so that an
 * admission that turns out to be a repetition leaves no gap. */
#include <stdlib.h>
#include <string.h>

#include "actors/ic_talk_priv.h"
#include "base/ic_assert.h"
#include "base/ic_clock.h"
#include "base/ic_failpoint.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

/* --- units -------------------------------------------------------------------------------------
 */

talk_unit *talk_unit_new(talk *t)
{
    talk_unit *u = ic_alloc(sizeof *u);
    u->ops = ic_job_write_new(t->id, NULL, TALK_JOB_WRITE);
    return u;
}

static void free_event(talk_event *ev)
{
    ic_free(ev->text);
    ic_free(ev->media_name);
    ic_free(ev->container);
    ic_free(ev->codec);
    ic_free(ev->message);
    for (int i = 0; i < IC_INGEST_NOTICES; i++)
        ic_free(ev->notices[i]);
}

static void free_unit(talk_unit **u_p)
{
    talk_unit *u = *u_p;
    *u_p = NULL;
    for (int i = 0; i < u->event_count; i++)
        free_event(&u->events[i]);
    ic_free(u->events);
    ic_mail_discard((ic_mail **)&u->ops);
    ic_mail_discard((ic_mail **)&u->request);
    ic_mail_discard((ic_mail **)&u->reply);
    ic_free(u);
}

talk_event *talk_unit_event(talk_unit *u, int type)
{
    u->events = ic_realloc(u->events, (size_t)(u->event_count + 1) * sizeof *u->events);
    talk_event *ev = &u->events[u->event_count++];
    *ev = (talk_event){.type = type, .finish = -1, .state = -1};
    return ev;
}

void talk_unit_frame(talk *t, talk_unit *u, const ic_talk_record *r, uint64_t media,
                     ic_store_hold hold)
{
    ic_write_op *op = ic_job_write_add(u->ops, IC_WRITE_FRAME);
    op->kind = (uint32_t)r->kind;
    op->media.number = (int64_t)media;
    op->hold = hold;
    op->head_bytes = ic_talk_record_head_bytes(r->kind);
    if (ic_talk_record_encode(r, &op->bytes))
        ic_log_error("session", "%.8s: out of memory for a frame's record", t->id);
    u->bytes += op->bytes.size;
}

void talk_unit_record(talk *t, talk_unit *u, const ic_talk_record *r, const ic_wire_id *key)
{
    ic_write_op *op = ic_job_write_add(u->ops, IC_WRITE_JOURNAL);
    op->kind = (uint32_t)r->kind;
    op->has_key = key != NULL;
    if (key)
        memcpy(op->key, key->bytes, sizeof op->key);
    if (ic_talk_record_encode(r, &op->bytes))
        ic_log_error("session", "%.8s: out of memory for a journal record", t->id);
    u->bytes += op->bytes.size;
}

/* The unit stands or falls with this request being new. Its other operations come after. */
void talk_unit_admit(talk_unit *u, ic_mail_request **request_p)
{
    IC_ASSERT(u->ops->count == 0);
    ic_write_op *op = ic_job_write_add(u->ops, IC_WRITE_ADMIT);
    memcpy(op->key, ic_request_key(&(*request_p)->msg)->bytes, sizeof op->key);
    memcpy(op->content, (*request_p)->content, sizeof op->content);
    op->kind = (uint32_t)(*request_p)->msg.verb;
    u->request = *request_p;
    *request_p = NULL;
}

void talk_unit_add(talk *t, talk_unit **u_p)
{
    talk_unit *u = *u_p;
    *u_p = NULL;
    u->next = NULL;
    if (t->units_end)
        t->units_end->next = u;
    else
        t->units = u;
    t->units_end = u;
    t->unit_bytes += u->bytes;
}

void talk_unit_drop_all(talk *t)
{
    while (t->units) {
        talk_unit *u = t->units;
        t->units = u->next;
        free_unit(&u);
    }
    t->units_end = NULL;
    while (t->in_flight) {
        talk_unit *u = t->in_flight;
        t->in_flight = u->next;
        free_unit(&u);
    }
    t->unit_bytes = 0;
}

bool talk_is_written(const talk *t)
{
    return !t->units && !t->in_flight;
}

void talk_notice(talk *t, const char *code, const char *fmt, ...)
{
    char text[IC_ERROR_TEXT];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    talk_unit *u = talk_unit_new(t);
    talk_event *ev = talk_unit_event(u, IC_WIRE_EVENT_NOTICE);
    ev->code = code;
    ev->message = ic_strdup(text);
    talk_unit_add(t, &u);
}

/* --- events as bytes ---------------------------------------------------------------------------
 */

static void fill_media(ic_wire_event *out, const talk_event *ev)
{
    ic_wire_media_info media = ev->media;
    if (ev->media_name)
        ic_wire_put(&media, media_info, name, ev->media_name);
    if (ev->container)
        ic_wire_put(&media, media_info, container, ev->container);
    if (ev->codec)
        ic_wire_put(&media, media_info, codec, ev->codec);
    ic_wire_put(out, event, media, media);
}

static int encode_event(talk *t, const talk_event *ev, int64_t number, ic_buf *body, ic_error *e)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_EVENT);
    ic_wire_event *out = &m.event;
    ic_wire_put(out, event, session, t->id);
    ic_wire_put(out, event, n, (uint64_t)number);
    ic_wire_put(out, event, time_us, ic_clock_wall_us());
    ic_wire_put(out, event, type, ev->type);
    if (ev->turn)
        ic_wire_put(out, event, turn, ev->turn);
    if (ev->text)
        ic_wire_put(out, event, text, ev->text);
    if (ev->finish >= 0)
        ic_wire_put(out, event, finish_reason, ev->finish);
    if (ev->has_usage)
        ic_wire_put(out, event, usage, ev->usage);
    if (ev->has_media)
        fill_media(out, ev);
    if (ev->state >= 0)
        ic_wire_put(out, event, state, ev->state);
    if (ev->code)
        ic_wire_put(out, event, code, ev->code);
    if (ev->message)
        ic_wire_put(out, event, message, ev->message);
    const char *notices[IC_INGEST_NOTICES];
    uint32_t count = 0;
    for (int i = 0; i < IC_INGEST_NOTICES; i++) {
        if (ev->notices[i])
            notices[count++] = ev->notices[i];
    }
    if (count)
        ic_wire_put(out, event, notices, ((ic_wire_strs){.count = count, .items = notices}));
    return ic_wire_encode(&m, body, e);
}

/* --- the job -----------------------------------------------------------------------------------
 */

static void move_ops(ic_job_write *to, ic_job_write *from)
{
    for (int i = 0; i < from->count; i++) {
        *ic_job_write_add(to, from->ops[i].type) = from->ops[i];
        from->ops[i] = (ic_write_op){0};
    }
    from->count = 0;
}

static void add_event_ops(talk *t, ic_job_write *job, talk_unit *u, int64_t *next)
{
    u->first_event = *next;
    for (int i = 0; i < u->event_count; i++) {
        ic_error e = {0};
        ic_buf body = {0};
        if (encode_event(t, &u->events[i], *next, &body, &e)) {
            ic_log_error("session", "BUG: %.8s: an event cannot be written: %s", t->id, e.text);
            ic_buf_fini(&body);
            continue;
        }
        ic_write_op *op = ic_job_write_add(job, IC_WRITE_EVENT);
        op->kind = (uint32_t)u->events[i].type;
        op->number = (*next)++;
        op->bytes = body;
    }
}

/* What a request's record needs to answer its repetition. */
static void add_request_op(ic_job_write *job, const talk_unit *u, int64_t next)
{
    ic_write_op *op = ic_job_write_add(job, IC_WRITE_REQUEST);
    const ic_wire_id *key = u->request ? ic_request_key(&u->request->msg) : &u->key;
    memcpy(op->key, key->bytes, sizeof op->key);
    if (u->request) {
        bool open = u->is_turn;
        op->state = open ? IC_STORE_PENDING : IC_STORE_DONE;
        op->first = u->first_event;
        op->last = open ? 0 : next > u->first_event ? next - 1 : 0;
        ic_buf_u64(&op->bytes, u->turn);
        ic_buf_u64(&op->bytes, u->media);
    } else {
        op->state = IC_STORE_DONE;
        op->first = u->turn_first_event;
        op->last = next - 1;
    }
}

static void add_touch_op(talk *t, ic_job_write *job)
{
    ic_write_op *op = ic_job_write_add(job, IC_WRITE_TOUCH);
    op->counters = (ic_store_counters){.turns = (int64_t)t->head.turns,
                                       .media = (int64_t)t->head.medias,
                                       .frames = (int64_t)t->head.seen,
                                       .tokens = (int64_t)t->stats.tokens,
                                       .evicted = (int64_t)t->stats.evicted_tokens};
}

void talk_flush(talk *t)
{
    if (t->in_flight || !t->units)
        return;
    ic_job_write *job = ic_job_write_new(t->id, t->store_reply, TALK_JOB_WRITE);
    int64_t next = t->event_next;
    talk_unit *last = NULL;
    bool touch = false;
    for (talk_unit *u = t->units; u; u = u->next) {
        move_ops(job, u->ops);
        add_event_ops(t, job, u, &next);
        if (u->request || u->finishes_turn)
            add_request_op(job, u, next);
        touch |= u->finishes_turn || u->media;
        t->unit_bytes -= u->bytes;
        last = u;
        if (u->request)
            break;
    }
    if (touch)
        add_touch_op(t, job);
    t->in_flight = t->units;
    t->units = last->next;
    last->next = NULL;
    if (!t->units)
        t->units_end = NULL;
    ic_port_send(&t->self->outbox, t->args->store, &job);
}

/* --- when it is durable ------------------------------------------------------------------------
 */

/* Frames that a rebuild could have shown again: the bound of the session took them. */
static void tell_dropped(talk *t, const ic_store_dropped *dropped)
{
    t->dropped_here += (uint64_t)dropped->frames;
    ic_log_info("session",
                "%.8s: %lld frames (%lld bytes), the oldest, are kept no more: media.keep_bytes",
                t->id, (long long)dropped->frames, (long long)dropped->bytes);
}

static void count_written(talk *t, const ic_job_write *done)
{
    for (int i = 0; i < done->count; i++) {
        const ic_write_op *op = &done->ops[i];
        bool journal = op->type == IC_WRITE_JOURNAL || op->type == IC_WRITE_FRAME;
        t->grown_bytes += (int64_t)(op->bytes.size + op->extra.size);
        if (op->dropped.frames)
            tell_dropped(t, &op->dropped);
        if (journal && op->number) {
            t->journal_last = op->number;
            t->journal_bytes += op->bytes.size;
            t->touched = true;
        }
    }
}

static void publish_events(talk *t, const ic_job_write *done)
{
    for (int i = 0; i < done->count; i++) {
        const ic_write_op *op = &done->ops[i];
        if (op->type == IC_WRITE_EVENT) {
            if (op->kind == IC_WIRE_EVENT_TEXT)
                ic_failpoint(IC_FAIL_answer_shown);
            t->event_next = op->number + 1;
            talk_keep_event(t, op->number, &op->bytes);
        }
    }
}

/* Events behind an admission that was none were not written. */
static void forget_unwritten(ic_job_write *done)
{
    bool behind = false;
    for (int i = 0; i < done->count; i++) {
        if (behind)
            done->ops[i].type = IC_WRITE_TOUCH;
        behind |= done->ops[i].type == IC_WRITE_ADMIT && done->verdict != IC_STORE_NEW;
    }
}

static void refuse_units(talk *t, const ic_error *e)
{
    for (talk_unit *u = t->in_flight; u; u = u->next) {
        if (u->request)
            talk_send_error(t, u->request, IC_WIRE_CODE_STORE, e->text);
    }
    for (talk_unit *u = t->units; u; u = u->next) {
        if (u->request)
            talk_send_error(t, u->request, IC_WIRE_CODE_STORE, e->text);
    }
}

void talk_written(talk *t, ic_job_write *done)
{
    if (done->job.rc) {
        refuse_units(t, &done->job.error);
        talk_unit_drop_all(t);
        talk_fail(t,
                  ic_wire_code_from_err(done->job.rc) == IC_WIRE_CODE_LIMIT ? IC_WIRE_CODE_LIMIT
                                                                            : IC_WIRE_CODE_STORE,
                  &done->job.error);
        return;
    }
    forget_unwritten(done);
    count_written(t, done);
    publish_events(t, done);
    talk_unit *units = t->in_flight;
    t->in_flight = NULL;
    while (units) {
        talk_unit *u = units;
        units = u->next;
        if (u->request)
            talk_verdict(t, u, done);
        if (u->reply)
            ic_port_send(&t->self->outbox, t->args->router, &u->reply);
        free_unit(&u);
    }
    talk_follow(t);
}
