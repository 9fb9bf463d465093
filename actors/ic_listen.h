/* ic_listen: the endpoints that clients connect to: checked, locked, bound.
 *
 * ipc: the socket's folder is made (0700) if missing and must be private; a lock file beside the
 * socket is held for life, since a second bind of an ipc path succeeds and steals the clients.
 * tcp: only addresses of this machine; what others can reach needs CURVE keys and is refused.
 */
#ifndef IC_LISTEN_H
#define IC_LISTEN_H

#include <czmq.h>

#include "base/ic_err.h"

typedef struct ic_listener {
    zsock_t *sock;      /* ROUTER: mandatory, bounded queues and messages */
    char endpoint[300]; /* as bound: a wildcard port is told */
    int lock;           /* -1: none */
} ic_listener;

/* Caller owns; ic_listener_close. IC_EBUSY: another server is there. */
IC_MUST_CHECK int ic_listener_open(ic_listener *l, const char *endpoint, int heartbeat_ms,
                                   ic_error *e);
/* linger_ms: what was sent has so long to leave. */
void ic_listener_close(ic_listener *l, int linger_ms);

#endif
