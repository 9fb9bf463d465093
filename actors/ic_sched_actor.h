/* ic_sched_actor: the scheduler. It owns the engine and the one device, and makes every step.
 *
 * A session's cache belongs to whoever holds its lease: the session actor after OPENED and
 * RETURNED, the scheduler from LEASE on. While it holds leases it steps them together: all decoding
 * sessions in every step, and prefill and vision in slices, sized so that a step takes about
 * step_ms.
 *
 * Mail in:  OPEN    -> OPENED, with the lease, or the reason why not
 *           LEASE   the session may be stepped from now on
 *           INPUT   goes into the session in order, as soon as it takes it (while leased)
 *           RECALL  -> RETURNED at the next step boundary, inputs before it included
 *           CLOSE   hands the lease over for the last time: the session is destroyed -> CLOSED
 * Mail out: PROGRESS to the session's actor for each step that moved it; SCHED_STATS to the router
 *           about once a second while there is work.
 * Between steps the mailbox is looked at without waiting; without work the actor sleeps in its
 * poller. A device that failed fails every session with its reason; the router is told, main ends
 * the server.
 */
#ifndef IC_SCHED_ACTOR_H
#define IC_SCHED_ACTOR_H

#include "actors/ic_actor_msgs.h"

typedef struct ic_sched_args { /* borrowed for the actor's life */
    ic_engine_config engine;
    int step_ms;
    int max_resident; /* in: wanted; out: what memory holds */
    int cache_tokens; /* of one session by default; 0: fits the model */
    char policy[24];
    ic_session_config settings; /* of the policy: those of the set `given` count */
    uint32_t given;
    /* out, before the start verdict; read-only from then on */
    ic_engine *opened; /* for the functions of ic_engine.h marked "any thread" */
    ic_session_config session;
    size_t session_bytes;
    char device[128];
} ic_sched_args;

/* For ic_actor_start. The verdict carries the engine's error. */
void ic_sched_actor_run(ic_actor_self *self);

/* SCHED_STATS goes there. Sent once, before anything else (Takes the port). */
void ic_sched_watch(ic_outbox *o, ic_port *to, ic_port **router_p);

#endif
