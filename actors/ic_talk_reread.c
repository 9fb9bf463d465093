/* A file of the server that is read again, for a memory that is made again. An ingest actor checks
 * that it is the file of then, and samples it as then; its frames wait here until their time comes.
 */
#include "actors/ic_talk_rebuild.h"

#include <string.h>

#include "base/ic_log.h"
#include "base/ic_mem.h"

enum { START_MS = 5000, STOP_MS = 5000 };

struct talk_reread {
    uint64_t media;
    ic_actor *actor;
    ic_port *port;
    ic_ingest_args args;
    ic_mail_frame *first, *last; /* linked by head.next */
    bool ended;
    ic_error why; /* code 0: it was read to its end */
};

static void drop_first(talk_reread *r)
{
    ic_mail_frame *m = r->first;
    r->first = (ic_mail_frame *)m->head.next;
    if (!r->first)
        r->last = NULL;
    m->head.next = NULL;
    ic_mail_discard((ic_mail **)&m);
}

void talk_reread_free(talk *t)
{
    talk_reread *r = t->reread;
    if (!r)
        return;
    t->reread = NULL;
    while (r->first)
        drop_first(r);
    atomic_store(&r->args.stop, true);
    if (r->actor && !ic_actor_stop(&r->actor, STOP_MS)) /* it lives on: what it uses must too */
        return;
    if (r->port) {
        ic_outbox_forget(&t->self->outbox, r->port);
        ic_port_close(&r->port);
    }
    ic_port_close(&r->args.session);
    ic_free(r->args.source);
    ic_free(r->args.name);
    ic_free(r);
}

static void start(talk *t, const rebuild_source *s, const ic_grid *grid, bool image)
{
    char name[40];
    talk_reread *r = ic_alloc(sizeof *r);
    ic_ingest_args *a = &r->args;
    t->reread = r;
    r->media = s->told->number;
    a->limits = &t->limits->ingest;
    a->engine = t->limits->engine;
    a->media = r->media;
    a->kind = IC_WIRE_KIND_PATH;
    a->image = image;
    a->source = ic_strdup(s->reading.source);
    a->name = ic_strdup(s->told->name);
    a->size = -1;
    a->fps = s->reading.fps;
    a->from_us = s->reading.from_us;
    a->to_us = s->reading.to_us;
    a->max_frames = s->reading.max_frames;
    a->expected = s->told->identity;
    a->grid = *grid;
    a->session = ic_port_open(t->self->inbox);
    snprintf(name, sizeof name, "reread-%.8s-%llu", t->id, (unsigned long long)r->media);
    int rc = ic_actor_start(&r->actor, name, ic_ingest_actor_run, a, START_MS, &r->why);
    r->ended = rc != IC_OK;
    if (rc == IC_OK)
        r->port = ic_actor_port(r->actor);
    ic_log_info("session", "%.8s: source %llu is read again: %s", t->id,
                (unsigned long long)r->media, a->source);
}

static void give_credit(talk *t, uint64_t bytes)
{
    ic_mail_credit *m = ic_mail_new(IC_MAIL_FRAME_CREDIT, sizeof *m, NULL);
    m->bytes = bytes;
    ic_port_send(&t->self->outbox, t->reread->port, &m);
}

reread_verdict talk_reread_frame(talk *t, rebuild_source *s, int64_t pts_us, const ic_grid *grid,
                                 bool image, ic_frame **frame, const char **why)
{
    if (t->reread && t->reread->media != s->told->number)
        talk_reread_free(t);
    if (!t->reread)
        start(t, s, grid, image);
    talk_reread *r = t->reread;
    while (r->first && r->first->frame->pts_us < pts_us) { /* not shown then either */
        give_credit(t, r->first->frame->bytes);
        drop_first(r);
    }
    if (!r->first && !r->ended)
        return REREAD_WAIT;
    if (!r->first || r->first->frame->pts_us != pts_us) {
        *why = r->why.code ? r->why.text : "the file has no picture there any more";
        return REREAD_NONE;
    }
    *frame = ic_frame_ref(r->first->frame);
    give_credit(t, (*frame)->bytes);
    drop_first(r);
    return REREAD_FRAME;
}

void talk_reread_mail(talk *t, ic_mail **m_p)
{
    talk_reread *r = t->reread;
    ic_mail *m = *m_p;
    if (r && m->kind == IC_MAIL_FRAME && ((ic_mail_frame *)m)->media == r->media) {
        *m_p = NULL;
        m->next = NULL;
        if (r->last)
            r->last->head.next = m;
        else
            r->first = (ic_mail_frame *)m;
        r->last = (ic_mail_frame *)m;
    } else if (r && m->kind == IC_MAIL_INGEST_ENDED
               && ((ic_mail_ingest_ended *)m)->media == r->media) {
        const ic_mail_ingest_ended *end = (const ic_mail_ingest_ended *)m;
        r->ended = true;
        r->why = end->error;
        r->why.code = end->rc;
    }
    ic_mail_discard(m_p);
}
