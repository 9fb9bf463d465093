/* Inside the router: its state, and what its files call of one another. One thread. */
#ifndef IC_ROUTER_PRIV_H
#define IC_ROUTER_PRIV_H

#include "actors/ic_peers.h"
#include "actors/ic_router.h"
#include "actors/ic_store_jobs.h"
#include "actors/ic_talk_record.h"

enum {
    ROUTER_LISTENERS = 8,
    ROUTER_TRANSFERS = 4,    /* exports and imports at a time */
    ROUTER_JOB_TRANSFER = 1, /* tags of store jobs; the desk's have none */
    ROUTER_JOB_RETAIN = 2
};
typedef struct router_transfer router_transfer;

/* A session with an actor. */
typedef struct router_entry {
    struct router_entry *next;
    ic_talk_args args;
    ic_actor *actor;
    ic_port *port;
    uint64_t sent; /* mails, to be compared with what it has seen */
    ic_talk_state state;
    bool room;          /* holds a place in memory, or has been promised one */
    bool room_wanted;   /* waits for one, */
    int64_t wanted_us;  /* since then */
    int64_t leaving_us; /* was asked to leave then; 0: was not */
    int64_t used_us;
} router_entry;

typedef struct router_totals { /* of sessions whose actors have ended */
    uint64_t seen, skipped, deduplicated, evicted, dropped;
    ic_talk_costs costs;
} router_totals;

typedef struct router {
    ic_actor_self *self;
    ic_router_args *args;
    ic_listener listeners[ROUTER_LISTENERS];
    int listener_count;
    ic_peers peers;
    router_entry *entries;
    int entry_count;
    ic_port *store, *sched, *store_reply;
    ic_wire_id server; /* another one after each start */
    int64_t started_us;
    ic_sched_stats sched_stats;
    router_totals totals;
    uint64_t malformed;
    router_transfer *transfers;
    uint64_t last_transfer;
    int looking; /* desk jobs on their way that may start a session's actor */
    struct {
        bool busy;
        int64_t next_us, complain_us;
        uint64_t retired;
    } retain;
    bool draining, drained;
    int64_t drain_until_us;
    ic_error device_error;
    ic_talk_costs last_costs; /* of whoever reported last */
} router;

/* ic_router.c */
void router_send(router *r, uint64_t peer, ic_wire_msg *m);
void router_send_bytes(router *r, uint64_t peer, ic_wire_msg *m, const void *bytes, size_t size);
void router_error(router *r, const ic_mail_request *q, ic_wire_code code, const char *message);
ic_wire_msg router_ok(const ic_mail_request *q);

/* ic_router_sessions.c: the table of session actors */
router_entry *router_find(const router *r, const char *session);
/* wake: resume if there is room; owes: as soon as there is. */
router_entry *router_start(router *r, const char *session, bool wake, bool owes, ic_error *e);
void router_forward(router *r, router_entry *entry, ic_mail_request **q_p);
void router_tell(router *r, router_entry *entry, void *mail_p);
void router_session_mail(router *r, ic_mail **m_p);
void router_rooms(router *r); /* gives room to who waits for it */
void router_drain_sessions(router *r, int64_t ms);
void router_stop_sessions(router *r);
int router_resident(const router *r);
void router_add_costs(ic_talk_costs *sum, const ic_talk_costs *more);

/* ic_router_desk.c: what the store answers */
void router_desk(router *r,
                 ic_mail_request **q_p); /* NEW, LIST, SHOW, TITLE, STATUS, MARK, UNMARK, FORK */
void router_look_for(router *r, ic_mail_request **q_p); /* finds the session of a request */
void router_looked(router *r, ic_mail_looked *m);       /* a SHOW goes on */
void router_delete(router *r, ic_mail_request **q_p);
void router_pending(router *r);
void router_desk_done(router *r, ic_job_desk *done);

/* ic_router_transfer.c: EXPORT, FETCH, IMPORT, PUT */
void router_transfers_begin(router *r);
void router_transfer_request(router *r, ic_mail_request **q_p);
void router_transfer_done(router *r, ic_mail *done);
void router_transfers_tick(router *r);
void router_transfers_end(router *r);

/* ic_router_retain.c */
void router_retain_tick(router *r);
void router_retain_done(router *r, ic_mail *done);

#endif
