/* ic_client: a client of infchatd: one connection, its requests, its sessions' events, one upload.
 *
 * One owner thread. Nothing happens behind the caller's back: the socket, heartbeats, reconnects,
 * credit and uploads move while he is inside ic_client_call or ic_client_wait, so he must be in one
 * of them most of the time. Callbacks run there too; they must not call the client again, except
 * for ic_client_last_code.
 *
 * When the server goes away and comes back, the client says HELLO again, attaches to its sessions
 * from the event after the last one seen, repeats the request that waits for its answer with the
 * key it had, and goes on with the upload. The caller sees each event once.
 */
#ifndef IC_CLIENT_H
#define IC_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/ic_err.h"
#include "wire/ic_wire.h"

typedef struct ic_client ic_client;

typedef struct ic_client_options {
    const char *endpoint; /* ipc:///path or tcp://host:port */
    const char *name;     /* program and version, told to the server; may be NULL */
    int timeout_ms;       /* how long a connection, a reconnection or a request may take */
    /* Borrows its arguments for the call; any may be NULL. */
    void (*on_event)(const ic_wire_event *event, void *arg);
    void (*on_error)(const ic_wire_error *error, void *arg); /* errors that answer no request */
    void (*on_lost)(bool is_lost, void *arg);                /* the server is away; is back */
    void (*on_goaway)(const ic_wire_goaway *goaway, void *arg);
    bool (*is_interrupted)(void *arg); /* asked after a signal: true gives the call up */
    void *arg;
} ic_client_options;

/* Connects and says HELLO. IC_ECLOSED: nobody answers there; IC_EVERSION; IC_EINVAL: no endpoint.
 */
IC_MUST_CHECK int ic_client_open(ic_client **c_p, const ic_client_options *options, ic_error *e);
/* Says BYE and closes; safe on NULL inside. */
void ic_client_close(ic_client **c_p);

/* What the server said of itself. Borrows: until the next call on c. */
const ic_wire_welcome *ic_client_welcome(const ic_client *c);

/* Sends a request (any client verb whose OK is wanted) and waits for its answer. Fills in `re`, and
 * a random `key` where the verb has one and the caller gave none. reply is the OK, to be released
 * by ic_wire_msg_fini; empty after an error. Events that the server sent behind its answer are
 * handed out by later calls, not by this one. An ERROR from the server becomes the nearest IC_E*
 * with the server's sentence; ic_client_last_code tells the exact code. IC_ETIMEOUT: no answer in
 * time; IC_ECLOSED: the server is away; IC_ECANCELED: is_interrupted said so. */
IC_MUST_CHECK int ic_client_call(ic_client *c, ic_wire_msg *request, ic_wire_msg *reply,
                                 ic_error *e);

/* Moves everything on for up to timeout_ms: returns when something was received, when fd (or -1)
 * can be read (*fd_ready, may be NULL), at a signal, or at the end of the time; 0 in all these
 * cases. IC_ECLOSED: the server has been away for longer than options.timeout_ms. */
IC_MUST_CHECK int ic_client_wait(ic_client *c, int fd, bool *fd_ready, int timeout_ms, ic_error *e);

/* Starts an upload: sends MEDIA (kind upload; what else is set stays) and, once it is accepted, the
 * bytes of fd as far as credit goes, inside later calls. One upload at a time (IC_EBUSY). reply as
 * in ic_client_call. The caller keeps fd open until ic_client_is_uploading turns false: when the
 * session's media_end came, or an error to on_error. After a reconnect a file goes on where the
 * server says; of a pipe the newest 4 MiB are kept for that. */
IC_MUST_CHECK int ic_client_upload(ic_client *c, ic_wire_msg *media, int fd, ic_wire_msg *reply,
                                   ic_error *e);
bool ic_client_is_uploading(const ic_client *c);
/* Stops sending, for instance before MEDIA_STOP. */
void ic_client_upload_abort(ic_client *c);
/* Bytes sent so far; of how many, 0 when unknown. */
void ic_client_upload_progress(const ic_client *c, uint64_t *sent, uint64_t *size);

/* Fetches the session (at its mark, or as it is now: NULL) as an export, piece by piece: write is
 * called with each, in order; a negative result of it ends the transfer and comes back. After a
 * reconnect it goes on; a server that has forgotten the transfer is asked anew: then write is
 * called with bytes NULL, which says that what it got is void (it may refuse). IC_ENOTFOUND,
 * IC_EBUSY, IC_EFORMAT (what is stored is damaged) and so on, as ic_client_call. */
typedef int ic_client_write_fn(void *arg, const void *bytes, size_t size, ic_error *e);
IC_MUST_CHECK int ic_client_export(ic_client *c, const char *session, const char *at,
                                   ic_client_write_fn *write, void *arg, ic_error *e);
/* Sends an export's bytes from fd to its end. import: the IMPORT request, with title and key as
 * wished; reply: the OK with the new session. */
IC_MUST_CHECK int ic_client_import(ic_client *c, ic_wire_msg *import, int fd, ic_wire_msg *reply,
                                   ic_error *e);

/* The code of the last ERROR that failed a call ("BUSY"), or "" when it was not an ERROR. Borrows:
 * until the next call. */
const char *ic_client_last_code(const ic_client *c);

#endif
