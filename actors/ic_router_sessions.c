/* The router's table of session actors, and who of them may hold memory. */
#include <string.h>

#include "actors/ic_router_priv.h"
#include "base/ic_clock.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

enum {
    START_MS = 5000,
    STOP_MS = 10000,
    ROOM_WAIT_US = 2000000, /* others may be busy with a checkpoint only */
    LEAVE_US = 1000000      /* a session asked to leave has so long to begin */
};

router_entry *router_find(const router *r, const char *session)
{
    for (router_entry *e = r->entries; e; e = e->next) {
        if (strcmp(e->args.session, session) == 0)
            return e;
    }
    return NULL;
}

router_entry *router_start(router *r, const char *session, bool wake, bool owes, ic_error *e)
{
    if (r->draining) {
        ic_error_set(e, IC_EBUSY, "the server is stopping");
        return NULL;
    }
    if (r->entry_count >= r->args->max_active) {
        ic_error_set(e, IC_EBUSY, "%d sessions are in use (session.max_active): try later",
                     r->entry_count);
        return NULL;
    }
    router_entry *entry = ic_alloc(sizeof *entry);
    snprintf(entry->args.session, sizeof entry->args.session, "%s", session);
    entry->args.limits = &r->args->limits;
    entry->args.router = ic_port_open(r->self->inbox);
    entry->args.store = ic_actor_port(r->args->store);
    entry->args.sched = ic_actor_port(r->args->sched);
    entry->args.wake = wake;
    entry->args.owes = owes;
    char name[40];
    snprintf(name, sizeof name, "session-%.8s", session);
    if (ic_actor_start(&entry->actor, name, ic_talk_run, &entry->args, START_MS, e)) {
        ic_port_close(&entry->args.router);
        ic_port_close(&entry->args.store);
        ic_port_close(&entry->args.sched);
        ic_free(entry);
        return NULL;
    }
    entry->port = ic_actor_port(entry->actor);
    entry->state.state = IC_WIRE_STATE_SUSPENDED;
    entry->used_us = ic_clock_mono_us();
    entry->next = r->entries;
    r->entries = entry;
    r->entry_count++;
    return entry;
}

void router_tell(router *r, router_entry *entry, void *mail_p)
{
    if (ic_port_send(&r->self->outbox, entry->port, mail_p) == IC_OK)
        entry->sent++;
}

void router_forward(router *r, router_entry *entry, ic_mail_request **q_p)
{
    entry->used_us = ic_clock_mono_us();
    snprintf((*q_p)->session, sizeof(*q_p)->session, "%s", entry->args.session);
    if (ic_port_try(entry->port, q_p) == IC_OK) {
        entry->sent++;
        return;
    }
    if ((*q_p)->msg.verb == IC_WIRE_DATA || (*q_p)->msg.verb == IC_WIRE_CREDIT) {
        router_tell(r, entry, q_p); /* under credit: it cannot be much */
        return;
    }
    router_error(r, *q_p, IC_WIRE_CODE_BUSY, "the session has too many requests waiting");
}

static void add_cost(ic_talk_cost *sum, const ic_talk_cost *more)
{
    sum->count += more->count;
    sum->failed += more->failed;
    sum->bytes += more->bytes;
    if (more->max_us > sum->max_us)
        sum->max_us = more->max_us;
}

void router_add_costs(ic_talk_costs *sum, const ic_talk_costs *more)
{
    add_cost(&sum->checkpoints, &more->checkpoints);
    add_cost(&sum->restores, &more->restores);
}

static void keep_totals(router *r, const ic_talk_state *s)
{
    r->totals.seen += s->frames_seen;
    r->totals.skipped += s->frames_skipped;
    r->totals.deduplicated += s->frames_deduplicated;
    r->totals.evicted += s->evicted_here;
    r->totals.dropped += s->dropped_here;
    router_add_costs(&r->totals.costs, &s->costs);
}

static void end_entry(router *r, router_entry *entry)
{
    for (router_entry **at = &r->entries; *at; at = &(*at)->next) {
        if (*at == entry) {
            *at = entry->next;
            break;
        }
    }
    r->entry_count--;
    keep_totals(r, &entry->state);
    ic_outbox_forget(&r->self->outbox, entry->port);
    ic_port_close(&entry->port);
    if (ic_actor_stop(&entry->actor, STOP_MS)) /* else it lives on, with its args */
        ic_free(entry);
}

void router_stop_sessions(router *r)
{
    while (r->entries)
        end_entry(r, r->entries);
}

/* --- room in memory ----------------------------------------------------------------------------
 */

static int rooms_taken(const router *r)
{
    int count = 0;
    for (const router_entry *e = r->entries; e; e = e->next)
        count += e->room;
    return count;
}

int router_resident(const router *r)
{
    int count = 0;
    for (const router_entry *e = r->entries; e; e = e->next)
        count += e->state.resident;
    return count;
}

static void answer_room(router *r, router_entry *entry, bool granted)
{
    ic_mail_plain *m = ic_mail_plain_new(IC_MAIL_ROOM, entry->args.session);
    entry->room_wanted = false;
    entry->room = granted;
    if (!granted)
        ic_error_set(&m->error, IC_EBUSY,
                     "all %d sessions that memory holds are busy (session.max_resident): try later",
                     r->args->sched_args->max_resident);
    router_tell(r, entry, &m);
}

static bool is_leaving(const router_entry *e, int64_t now)
{
    return e->room && e->leaving_us
           && (e->state.state == IC_WIRE_STATE_SUSPENDING || now - e->leaving_us < LEAVE_US);
}

/* The idle resident session that was used longest ago. */
static router_entry *pick_victim(const router *r, int64_t now)
{
    router_entry *victim = NULL;
    for (router_entry *e = r->entries; e; e = e->next) {
        bool fit = e->room && !is_leaving(e, now) && e->state.resident && !e->state.busy;
        if (fit && (!victim || e->used_us < victim->used_us))
            victim = e;
    }
    return victim;
}

/* True when somebody goes, or is going, in its favour. */
static bool make_room(router *r, int *leaving, int64_t now)
{
    if (*leaving > 0) {
        (*leaving)--;
        return true;
    }
    router_entry *victim = pick_victim(r, now);
    if (!victim)
        return false;
    victim->leaving_us = now;
    ic_mail_plain *m = ic_mail_plain_new(IC_MAIL_SUSPEND_NOW, victim->args.session);
    router_tell(r, victim, &m);
    return true;
}

void router_rooms(router *r)
{
    int64_t now = ic_clock_mono_us();
    int leaving = 0;
    for (const router_entry *e = r->entries; e; e = e->next)
        leaving += is_leaving(e, now);
    for (router_entry *e = r->entries; e; e = e->next) {
        if (!e->room_wanted)
            continue;
        if (rooms_taken(r) < r->args->sched_args->max_resident)
            answer_room(r, e, true);
        else if (!make_room(r, &leaving, now) && now - e->wanted_us > ROOM_WAIT_US)
            answer_room(r, e, false);
    }
}

/* --- mail from sessions ------------------------------------------------------------------------
 */

static void take_want_end(router *r, router_entry *entry, uint64_t seen)
{
    if (entry->sent != seen)
        return; /* something is on its way to it: it will ask again */
    end_entry(r, entry);
}

static void take_plain(router *r, ic_mail_plain *m)
{
    router_entry *entry = router_find(r, m->session);
    if (!entry)
        return;
    switch (m->head.kind) {
    case IC_MAIL_ROOM_WANTED:
        entry->room_wanted = true;
        entry->wanted_us = ic_clock_mono_us();
        router_rooms(r);
        break;
    case IC_MAIL_ROOM_FREED:
        entry->room = false;
        entry->leaving_us = 0;
        router_rooms(r);
        break;
    case IC_MAIL_WANT_END:
        take_want_end(r, entry, m->number);
        break;
    }
}

void router_session_mail(router *r, ic_mail **m_p)
{
    ic_mail *m = *m_p;
    if (m->kind == IC_MAIL_SESSION_STATE) {
        ic_mail_session_state *s = (ic_mail_session_state *)m;
        router_entry *entry = router_find(r, s->session);
        if (entry && s->state.costs.checkpoints.count != entry->state.costs.checkpoints.count)
            r->last_costs.checkpoints = s->state.costs.checkpoints;
        if (entry && s->state.costs.restores.count != entry->state.costs.restores.count)
            r->last_costs.restores = s->state.costs.restores;
        if (entry)
            entry->state = s->state;
    } else if (m->kind == IC_MAIL_LOOKED) {
        router_looked(r, (ic_mail_looked *)m);
    } else if (m->kind == IC_MAIL_RM_READY) {
        router_delete(r, &((ic_mail_rm_ready *)m)->request);
    } else {
        take_plain(r, (ic_mail_plain *)m);
    }
    ic_mail_discard(m_p);
}

void router_drain_sessions(router *r, int64_t ms)
{
    for (router_entry *e = r->entries; e; e = e->next) {
        ic_mail_plain *m = ic_mail_plain_new(IC_MAIL_DRAIN, e->args.session);
        m->number = (uint64_t)ms;
        router_tell(r, e, &m);
    }
}
