/* What the memory holds, for who asks: seen while the lease is at home, for which a live session
 * calls it back; of one that is not live the store tells. */
#include "actors/ic_talk_priv.h"

void talk_look_add(talk *t, ic_mail_request **request_p)
{
    (*request_p)->head.next = (ic_mail *)t->looks;
    t->looks = *request_p;
    *request_p = NULL;
}

static ic_mail_request *take_look(talk *t)
{
    ic_mail_request *r = t->looks;
    t->looks = (ic_mail_request *)r->head.next;
    r->head.next = NULL;
    return r;
}

void talk_looks(talk *t)
{
    if (!t->looks || (t->phase == TALK_LIVE && t->lease == TALK_LEASE_RECALLED))
        return;
    if (t->phase == TALK_LIVE && t->lease == TALK_LEASE_OUT) {
        talk_recall(t);
        return;
    }
    bool here = t->lease == TALK_LEASE_HOME && (t->phase == TALK_LIVE || t->phase == TALK_STOPPING)
                && t->why != TALK_WHY_FAIL;
    while (t->looks) {
        ic_error e = {0};
        ic_mail_request *r = take_look(t);
        ic_mail_looked *m = ic_mail_looked_new(&r);
        m->known = here && ic_session_held_of(t->session, &m->held, &e) == IC_OK;
        ic_port_send(&t->self->outbox, t->args->router, &m);
    }
}

void talk_looks_drop(talk *t)
{
    while (t->looks) {
        ic_mail_request *r = take_look(t);
        ic_mail_discard((ic_mail **)&r);
    }
}
