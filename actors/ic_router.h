/* ic_router: the front of the daemon. It owns the sockets and the table of session actors.
 *
 * Messages are decoded here and go on as structs. What needs no running session (NEW, LIST,
 * SHOW, TITLE, STATUS, MARK, UNMARK, FORK) the store answers; everything else goes to the session's
 * actor, which is started when there is none. At most max_resident sessions hold a cache: one that
 * wants it asks for room, and an idle one is suspended for it. A client that does not read fills
 * its own backlog and nobody else's.
 *
 * Mail: ic_actor_msgs.h. From main DRAIN {milliseconds}: no new work, GOAWAY to all clients, every
 * session finishes or stops its answer and is stored; then DRAINED goes to main. Main also gets
 * DRAINED, with an error, when the device has failed and the server must end.
 */
#ifndef IC_ROUTER_H
#define IC_ROUTER_H

#include "actors/ic_sched_actor.h"
#include "actors/ic_talk.h"

typedef struct ic_router_args { /* borrowed for the actor's life */
    const char *const *endpoints;
    size_t endpoint_count;
    int heartbeat_ms;
    int max_clients;
    int64_t backlog_bytes;
    int max_active;
    int max_cache_tokens;            /* that a client may ask for; 0: four times the default */
    const ic_sched_args *sched_args; /* what the scheduler found when it opened */
    int64_t import_bytes;            /* of one imported session; 0: any */
    int64_t transfer_us;  /* an export or import that nobody touches is given up after this */
    int64_t retain_bytes; /* beyond, sessions not in use are deleted, oldest first; 0: never */
    ic_talk_limits limits;
    const ic_actor *store, *sched;
    ic_port *main; /* taken over by the router's thread, which closes it */
    /* out: the endpoints as bound, one line each for the log; before the verdict */
    char bound[8][300];
} ic_router_args;

/* For ic_actor_start. The verdict carries what is wrong with an endpoint. */
void ic_router_run(ic_actor_self *self);

#endif
