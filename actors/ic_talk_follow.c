/* Who follows a session's events, and how far each has come. Credit gates the sending alone: what a
 * slow follower has not taken stands in the store's event log. */
#include <string.h>

#include "actors/ic_talk_priv.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

enum { READ_BYTES = 256 << 10 }; /* events read from the store at a time */

static talk_attachment *find(const talk *t, uint64_t peer)
{
    for (talk_attachment *a = t->attachments; a; a = a->next) {
        if (a->peer == peer)
            return a;
    }
    return NULL;
}

void talk_attach(talk *t, uint64_t peer, int64_t from, int64_t credit, bool replace)
{
    talk_attachment *a = find(t, peer);
    if (a && !replace)
        return;
    if (!a) {
        a = ic_alloc(sizeof *a);
        a->peer = peer;
        a->next = t->attachments;
        t->attachments = a;
    }
    a->want = from;
    a->credit = credit;
}

void talk_detach(talk *t, uint64_t peer)
{
    for (talk_attachment **at = &t->attachments; *at; at = &(*at)->next) {
        talk_attachment *a = *at;
        if (a->peer == peer) {
            *at = a->next;
            ic_free(a);
            return;
        }
    }
}

void talk_credit(talk *t, uint64_t peer, uint64_t bytes)
{
    talk_attachment *a = find(t, peer);
    if (a && a->credit < INT64_MAX / 2)
        a->credit += (int64_t)bytes;
}

int talk_follower_count(const talk *t)
{
    int count = 0;
    for (const talk_attachment *a = t->attachments; a; a = a->next)
        count++;
    return count;
}

static void drop_oldest(talk *t)
{
    talk_kept_event *k = t->kept;
    t->kept = k->next;
    if (!t->kept)
        t->kept_end = NULL;
    t->kept_bytes -= k->body.size;
    ic_buf_fini(&k->body);
    ic_free(k);
}

void talk_keep_event(talk *t, int64_t number, const ic_buf *body)
{
    talk_kept_event *k = ic_alloc(sizeof *k);
    k->number = number;
    ic_buf_append(&k->body, body->data, body->size);
    if (t->kept_end)
        t->kept_end->next = k;
    else
        t->kept = k;
    t->kept_end = k;
    t->kept_bytes += k->body.size;
    while (t->kept_bytes > TALK_KEPT_BYTES && t->kept != t->kept_end)
        drop_oldest(t);
}

static void send_event(talk *t, talk_attachment *a, int64_t number, const ic_buf *body)
{
    ic_mail_send *m = ic_mail_send_new(a->peer, IC_WIRE_EVENT);
    ic_buf_append(&m->body, body->data, body->size);
    a->credit -= (int64_t)body->size;
    a->want = number + 1;
    ic_port_send(&t->self->outbox, t->args->router, &m);
}

static void follow_one(talk *t, talk_attachment *a)
{
    if (a->reading || a->credit <= 0 || a->want >= t->event_next)
        return;
    if (!t->kept || a->want < t->kept->number) {
        a->reading = true;
        ic_job_events *job =
            ic_job_events_new(t->id, a->want, READ_BYTES, t->store_reply, TALK_JOB_EVENTS);
        ic_port_send(&t->self->outbox, t->args->store, &job);
        return;
    }
    for (const talk_kept_event *k = t->kept; k && a->credit > 0; k = k->next) {
        if (k->number >= a->want)
            send_event(t, a, k->number, &k->body);
    }
}

void talk_follow(talk *t)
{
    for (talk_attachment *a = t->attachments; a; a = a->next)
        follow_one(t, a);
}

/* One reading serves every attachment that waits for it; who wanted other events asks again. */
void talk_events_read(talk *t, ic_job_events *done)
{
    if (done->job.rc)
        ic_log_warn("session", "%.8s: reading events: %s", t->id, done->job.error.text);
    for (talk_attachment *a = t->attachments; a; a = a->next) {
        if (!a->reading || a->want < done->from)
            continue;
        a->reading = false;
        bool useful = done->count && done->events[done->count - 1].number >= a->want;
        for (int i = 0; i < done->count && a->credit > 0; i++) {
            if (done->events[i].number >= a->want)
                send_event(t, a, done->events[i].number, &done->events[i].body);
        }
        if (!useful && a->want < t->event_next) /* gone, or unreadable: go on with what is there */
            a->want = t->kept ? t->kept->number : t->event_next;
    }
    talk_follow(t);
}

void talk_follow_fini(talk *t)
{
    while (t->attachments)
        talk_detach(t, t->attachments->peer);
    while (t->kept)
        drop_oldest(t);
}

void talk_take_attach(talk *t, const ic_mail_request *r)
{
    const ic_wire_attach *m = &r->msg.attach;
    int64_t from = ic_wire_has(m, attach, from) ? (int64_t)m->from : t->event_next;
    int64_t first = t->record.event_first > 0 ? t->record.event_first : 1;
    if (from < first)
        from = first;
    ic_wire_msg ok = talk_ok(t, r);
    ic_wire_put(&ok.ok, ok, first, (uint64_t)first);
    ic_wire_put(&ok.ok, ok, last, (uint64_t)t->event_next - 1);
    talk_send_ok(t, r, &ok);
    uint64_t credit = ic_wire_get(m, attach, credit, t->limits->event_credit);
    talk_attach(t, r->peer, from, (int64_t)(credit > INT64_MAX / 2 ? INT64_MAX / 2 : credit), true);
}
