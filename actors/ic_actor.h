/* ic_actor: the shape that every actor of the daemon has, and the only caller of zactor.
 *
 * An actor is a thread with two ways in. Its pipe carries commands only, small and rare: the start
 * verdict and $TERM. Everything else comes as *mail*: pointers to plain C structs, sent through
 * bounded inproc queues. Sending a mail hands over its ownership; nothing is shared, nothing is
 * locked.
 *
 *   inbox   the actor's own queue (one PULL socket). Its owner alone receives.
 *   port    one sender's end, connected to an inbox. Made by anybody, used by one thread at a time;
 *           a port may itself travel inside a mail (that is how a reply address is given).
 *   outbox  what an actor's ports could not deliver at once, in order, bounded. Sending never
 * blocks; the actor flushes its outbox in each turn of its loop.
 *
 * Traps of the packaged CZMQ 4.2.1 that this file deals with: a pipe is far deeper than its send
 * high-water mark (both ends are set here); zactor_destroy returns at once without waiting when the
 * pipe is full (so no data ever goes there); stopping by hand and then destroying can hang (the
 * receive timeout is set to 0 in between); the ready signal's status is ignored (so the verdict is
 * a message of its own); a poller ends for good when CZMQ's signal handler fired (nonstop, and the
 * handler is off).
 */
#ifndef IC_ACTOR_H
#define IC_ACTOR_H

#include <stdbool.h>
#include <stdint.h>

#include <czmq.h>

#include "base/ic_err.h"

/* --- mail --------------------------------------------------------------------------------------
 */

/* First member of every mail struct. */
typedef struct ic_mail {
    int kind;                           /* ic_actor_msgs.h */
    void (*discard)(struct ic_mail *m); /* frees the struct and all it owns */
    struct ic_mail *next;               /* while it waits in an outbox */
} ic_mail;

/* A zeroed mail of `bytes`; discard NULL: ic_free. Caller owns. */
void *ic_mail_new(int kind, size_t bytes, void (*discard)(ic_mail *));
void ic_mail_discard(ic_mail **m_p); /* Takes; NULL is fine */

/* --- inbox, port, outbox -----------------------------------------------------------------------
 */

enum { IC_INBOX_DEPTH = 256 }; /* mails in one port's queue: this at each end */

typedef struct ic_inbox ic_inbox;
typedef struct ic_port ic_port;

/* name: for people and for the endpoint, need not be unique. depth 0: IC_INBOX_DEPTH. Caller owns.
 */
IC_MUST_CHECK int ic_inbox_open(ic_inbox **out, const char *name, int depth, ic_error *e);
/* Discards what has not been received. All ports should have been closed before. */
void ic_inbox_close(ic_inbox **b_p);
zsock_t *ic_inbox_sock(ic_inbox *b); /* for a poller; borrows */
ic_mail *ic_inbox_take(ic_inbox *b); /* the next mail or NULL; never blocks. Caller owns */

/* A port into that inbox. Any thread; the inbox must be open. Caller owns. */
ic_port *ic_port_open(ic_inbox *b);
/* The same from another port: a second sender to the same inbox. */
ic_port *ic_port_fork(const ic_port *port);
void ic_port_close(ic_port **p_p); /* Takes; what waits in its queue is discarded */

typedef struct ic_outbox {
    ic_port *waiting; /* ports with undelivered mail, linked */
} ic_outbox;

enum { IC_PORT_BACKLOG_MAX = 8192 }; /* mails; beyond it the receiver is given up on */

/* Sends a mail (Takes, success or failure; nulls). IC_OK: delivered, or waits in order. IC_ELIMIT:
 * the backlog is full: the mail has been discarded; the caller tells whoever waits for it. */
int ic_port_send(ic_outbox *o, ic_port *port, void *mail_p);
/* As ic_port_send, but refuses at once with IC_EAGAIN (mail kept by the caller) when the queue is
 * full or others wait: for what a peer may be told to send later. */
IC_MUST_CHECK int ic_port_try(ic_port *port, void *mail_p);
/* Tries again. Returns whether something still waits: then the loop polls with a short timeout. */
bool ic_outbox_flush(ic_outbox *o);
/* A port that is about to be closed leaves the list. */
void ic_outbox_forget(ic_outbox *o, ic_port *port);

/* --- actors ------------------------------------------------------------------------------------
 */

typedef struct ic_actor ic_actor;

/* What runs in the thread. It opens its things, calls ic_actor_ready exactly once (with the reason
 * when that failed: then it returns), and serves until ic_actor_should_stop. */
typedef struct ic_actor_self {
    zsock_t *pipe;
    ic_inbox *inbox; /* made before the thread, closed after it */
    void *args;      /* what ic_actor_start was given */
    void *actor;     /* names the hand-over at start and stop to the sanitizer */
    ic_outbox outbox;
    zpoller_t *poller; /* pipe and inbox; the actor may add */
    bool stopping;
} ic_actor_self;
typedef void ic_actor_fn(ic_actor_self *self);

/* The start verdict: code IC_OK, or what failed (its text travels). */
void ic_actor_ready(ic_actor_self *self, const ic_error *verdict);
/* Waits in the poller for at most timeout_ms (-1: until something comes; shortened while the outbox
 * holds something) and looks at the pipe. Afterwards the inbox may be drained. Returns false when
 * the actor has been told to stop. */
bool ic_actor_wait(ic_actor_self *self, int timeout_ms);

/* Starts an actor and waits for its verdict: IC_ETIMEOUT after deadline_ms; or the verdict's code.
 * On failure nothing stays. args are borrowed by the thread for its life. Caller owns *out. */
IC_MUST_CHECK int ic_actor_start(ic_actor **out, const char *name, ic_actor_fn *fn, void *args,
                                 int deadline_ms, ic_error *e);
ic_port *ic_actor_port(const ic_actor *a); /* a new port into its inbox. Caller owns */
const char *ic_actor_name(const ic_actor *a);
/* Tells it to stop and waits. false: it had not ended after deadline_ms; its name is logged and it
 * is left behind (its memory too, since it may still use it). Takes. NULL is fine. */
bool ic_actor_stop(ic_actor **a_p, int deadline_ms);

/* Once, before the first socket: CZMQ's signal handler off, socket limit, no linger. */
void ic_actor_setup(void);
/* After the last actor: closes the ZeroMQ context, so that tests see what leaks. */
void ic_actor_teardown(void);

#endif
