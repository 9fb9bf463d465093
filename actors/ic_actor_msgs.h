/* ic_actor_msgs: every kind of mail between the actors, with who owns what.
 *
 * A mail belongs to its sender until it is sent and to its receiver from then on, with all that it
 * points to, unless a field says *Borrows*. A reply port (`ic_port *reply`) is used by the receiver
 * alone once it has been sent; who made it gives it up and sends no mail through it any more.
 *
 *   router  -> session    REQUEST, PEER_GONE, ATTACH_PEER, ROOM, SUSPEND_NOW, DRAIN
 *   session -> router     SEND, SESSION_STATE, ROOM_WANTED, ROOM_FREED, WANT_END, RM_READY, LOOKED
 *   session, router -> store   STORE_JOB, which comes back as itself, done; PORT_CLOSE
 *   session -> scheduler  OPEN, LEASE, INPUT, RECALL, CLOSE
 *   scheduler -> session  OPENED, PROGRESS, RETURNED, CLOSED
 *   scheduler -> router   SCHED_STATS
 *   session -> ingest     UPLOAD, FRAME_CREDIT
 *   ingest  -> session    INGEST_OPENED, IDENTITY, FRAME, UPLOAD_GRANT, INGEST_ENDED
 *   main    -> router     DRAIN;   router -> main   DRAINED
 */
#ifndef IC_ACTOR_MSGS_H
#define IC_ACTOR_MSGS_H

#include "actors/ic_actor.h"
#include "actors/ic_identity.h"
#include "actors/media/ic_media.h"
#include "base/ic_frame.h"
#include "engine/ic_session_held.h"
#include "session_store/ic_store.h"
#include "wire/ic_wire.h"

typedef enum ic_mail_kind {
    IC_MAIL_STORE_JOB = 1,
    IC_MAIL_PORT_CLOSE,
    IC_MAIL_OPEN,
    IC_MAIL_OPENED,
    IC_MAIL_LEASE,
    IC_MAIL_INPUT,
    IC_MAIL_PROGRESS,
    IC_MAIL_RECALL,
    IC_MAIL_RETURNED,
    IC_MAIL_CLOSE,
    IC_MAIL_CLOSED,
    IC_MAIL_SCHED_STATS,
    IC_MAIL_UPLOAD,
    IC_MAIL_FRAME_CREDIT,
    IC_MAIL_INGEST_OPENED,
    IC_MAIL_IDENTITY,
    IC_MAIL_FRAME,
    IC_MAIL_UPLOAD_GRANT,
    IC_MAIL_INGEST_ENDED,
    IC_MAIL_REQUEST,
    IC_MAIL_SEND,
    IC_MAIL_PEER_GONE,
    IC_MAIL_ATTACH_PEER,
    IC_MAIL_SESSION_STATE,
    IC_MAIL_ROOM_WANTED,
    IC_MAIL_ROOM,
    IC_MAIL_ROOM_FREED,
    IC_MAIL_SUSPEND_NOW,
    IC_MAIL_WANT_END,
    IC_MAIL_RM_READY,
    IC_MAIL_LOOKED,
    IC_MAIL_DRAIN,
    IC_MAIL_DRAINED
} ic_mail_kind;

/* Mails without content: ROOM_WANTED, ROOM_FREED and so on need only to say whose they are. */
typedef struct ic_mail_plain {
    ic_mail head;
    char session[IC_STORE_ID_CHARS + 1];
    uint64_t
        number;     /* WANT_END: mails received so far; DRAIN: milliseconds; ROOM: IC_OK or -code */
    ic_error error; /* ROOM: why not */
} ic_mail_plain;
ic_mail_plain *ic_mail_plain_new(ic_mail_kind kind, const char *session);

/* --- store -------------------------------------------------------------------------------------
 */

/* Something for the store's thread to do with the store; it comes back through `reply` when it is
 * durable, with rc and error. Kinds of jobs: ic_store_jobs.h, each with this as its first member.
 */
typedef struct ic_store_job ic_store_job;
typedef int ic_store_job_fn(ic_store *s, ic_store_job *job, ic_error *e);
struct ic_store_job {
    ic_mail head;
    ic_store_job_fn *run;
    bool grouped;   /* may share a commit with its neighbours; else it runs by itself */
    int tag;        /* the sender's, to know it again */
    ic_port *reply; /* Borrows: of the sender's, until PORT_CLOSE; NULL: discarded when done */
    int rc;
    ic_error error;
};

/* The receiver closes this port: nothing more will come from its maker. */
typedef struct ic_mail_port {
    ic_mail head;
    ic_port *port;
} ic_mail_port;
ic_mail_port *ic_mail_port_close_new(ic_port **port_p); /* Takes */

/* --- scheduler ---------------------------------------------------------------------------------
 */

typedef struct ic_seat ic_seat; /* the scheduler's own record of one resident session */

typedef struct ic_mail_open { /* make an engine session; answered by OPENED */
    ic_mail head;
    ic_session_config config;
    ic_port *reply; /* kept by the scheduler until CLOSE */
} ic_mail_open;

typedef struct ic_mail_lease { /* OPENED, LEASE, RETURNED, CLOSE, CLOSED, RECALL */
    ic_mail head;
    ic_seat *seat;       /* names the session to the scheduler; only it looks inside */
    ic_session *session; /* OPENED, RETURNED: the lease is the receiver's. LEASE, CLOSE: handed
                            over. RECALL, CLOSED: NULL */
    int rc;              /* OPENED: then seat and session are NULL */
    ic_error error;
} ic_mail_lease;
ic_mail_lease *ic_mail_lease_new(ic_mail_kind kind, ic_seat *seat, ic_session *session);

typedef enum ic_input_type {
    IC_INPUT_FRAME,
    IC_INPUT_IMAGE,
    IC_INPUT_FRAMES_END,
    IC_INPUT_ASK,
    IC_INPUT_CANCEL
} ic_input_type;

/* Goes into the session in order; while the lease is out. */
typedef struct ic_mail_input {
    ic_mail head;
    ic_seat *seat;
    ic_input_type type;
    ic_frame *frame;
    ic_grid grid;
    char *text; /* ASK; owned */
    ic_sampling sampling;
    int32_t *forced; /* ASK: tokens that were shown before; owned */
    int forced_count;
} ic_mail_input;
ic_mail_input *ic_mail_input_new(ic_seat *seat, ic_input_type type);

/* What a step did for one session. */
typedef struct ic_mail_progress {
    ic_mail head;
    ic_progress progress;
    int rows;
    int frames_in, frames_refused; /* that are encoded now; of an input that the model refused */
    int32_t token;
    ic_finish finish;
    ic_error error;         /* IC_PROGRESS_FAILED, or an input that was refused */
    bool input_refused;     /* `error` is about an input that was dropped, */
    ic_input_type refused;  /* of this type */
    bool device_failed;     /* the device is gone: nothing more will come */
    bool ready;             /* a further step would move it on, or inputs wait */
    int text, vision;       /* with `finish`: tokens held, means over heads */
    ic_session_stats stats; /* after the step */
} ic_mail_progress;

typedef struct ic_sched_stats {
    uint64_t steps, step_p50_us, step_max_us;
    uint64_t prompt_tokens, completion_tokens;
    double prefill_per_second, decode_per_second; /* over the busy time of the last seconds */
} ic_sched_stats;
typedef struct ic_mail_sched_stats {
    ic_mail head;
    ic_sched_stats stats;
    bool device_failed;
    ic_error error;
} ic_mail_sched_stats;

/* --- ingest ------------------------------------------------------------------------------------
 */

typedef struct ic_mail_upload { /* a piece of the source's bytes, in order */
    ic_mail head;
    uint64_t offset;
    ic_buf bytes;
    bool last;
} ic_mail_upload;
ic_mail_upload *ic_mail_upload_new(uint64_t offset, bool last);

typedef struct ic_mail_credit {
    ic_mail head;
    uint64_t bytes;
} ic_mail_credit;

typedef struct ic_ingest_counts {
    uint64_t seen, skipped, deduplicated;
    int64_t pos_us; /* of the newest frame seen; -1: none */
} ic_ingest_counts;

typedef struct ic_mail_ingest_opened {
    ic_mail head;
    uint64_t media;
    ic_media_info info;
    ic_grid grid;
    double fps;
    bool live;
} ic_mail_ingest_opened;

/* Of a file that can be read again; before its first frame. */
typedef struct ic_mail_identity {
    ic_mail head;
    uint64_t media;
    ic_identity identity;
} ic_mail_identity;

typedef struct ic_mail_frame {
    ic_mail head;
    uint64_t media;
    ic_frame *frame; /* fitted to the grid */
    ic_grid grid;
    ic_ingest_counts counts;
    bool image;
} ic_mail_frame;
ic_mail_frame *ic_mail_frame_new(ic_frame **frame_p); /* Takes */

typedef struct ic_mail_grant {
    ic_mail head;
    uint64_t media, until, received;
} ic_mail_grant;

enum { IC_INGEST_NOTICES = 8 };
typedef struct ic_mail_ingest_ended { /* the ingest actor's last mail */
    ic_mail head;
    uint64_t media;
    int rc; /* IC_OK: to the end; IC_ECANCELED: was told to stop; else `error` */
    bool opened;
    ic_error error;
    ic_ingest_counts counts;
    uint64_t corrupt;
    char *notices[IC_INGEST_NOTICES]; /* owned */
} ic_mail_ingest_ended;
ic_mail_ingest_ended *ic_mail_ingest_ended_new(uint64_t media);

/* --- router and session ------------------------------------------------------------------------
 */

/* A client's request, decoded. `session` is the full id. */
typedef struct ic_mail_request {
    ic_mail head;
    uint64_t peer; /* the router's number of this connection */
    ic_wire_id client;
    int64_t arrived_us; /* monotonic */
    ic_wire_msg msg;
    uint8_t content[IC_STORE_KEY_BYTES]; /* hash of what was asked, for keys */
    ic_buf payload;                      /* DATA */
    char session[IC_STORE_ID_CHARS + 1];
} ic_mail_request;
ic_mail_request *ic_mail_request_new(void);

/* A message for a client: the router adds address and signature. */
typedef struct ic_mail_send {
    ic_mail head;
    uint64_t peer;
    ic_wire_verb verb;
    ic_buf body;
    bool has_payload;
    ic_buf payload; /* CHUNK */
} ic_mail_send;
ic_mail_send *ic_mail_send_new(uint64_t peer, ic_wire_verb verb);

typedef struct ic_mail_peer_gone {
    ic_mail head;
    uint64_t peer;
    ic_wire_id client;
    bool client_gone; /* no other connection of this client is known */
} ic_mail_peer_gone;

/* What checkpoints or restores have cost, in this process. */
typedef struct ic_talk_cost {
    uint64_t count, failed, last_us, max_us, bytes;
} ic_talk_cost;
typedef struct ic_talk_costs {
    ic_talk_cost checkpoints, restores;
} ic_talk_costs;

/* What `show` and `status` tell of a session with an actor. Sent whenever it changes. */
typedef struct ic_talk_state {
    int state;     /* IC_WIRE_STATE_... */
    bool resident; /* holds cache memory */
    bool busy;     /* answering, reading a source, or on its way somewhere: no victim */
    uint64_t cache_bytes, cache_tokens, cache_slots, evicted_tokens;
    uint64_t text_tokens, frame_tokens; /* held at the last answer's end or checkpoint */
    uint64_t attached, last_event;
    uint64_t frames_seen, frames_skipped, frames_deduplicated; /* by this process */
    uint64_t evicted_here, dropped_here;                       /* by this process */
    ic_talk_costs costs;
    char reason[IC_ERROR_TEXT]; /* of failed */
} ic_talk_state;
typedef struct ic_mail_session_state {
    ic_mail head;
    char session[IC_STORE_ID_CHARS + 1];
    ic_talk_state state;
} ic_mail_session_state;

/* A SHOW that asked for the memory, with what the session holds. */
typedef struct ic_mail_looked {
    ic_mail head;
    ic_mail_request *request;
    bool known; /* false: it is not in memory, or on its way; the store may know */
    ic_session_held held;
} ic_mail_looked;
ic_mail_looked *ic_mail_looked_new(ic_mail_request **request_p); /* Takes */

/* The session has let go of everything; the router deletes it and answers the request. */
typedef struct ic_mail_rm_ready {
    ic_mail head;
    ic_mail_request *request;
} ic_mail_rm_ready;
ic_mail_rm_ready *ic_mail_rm_ready_new(ic_mail_request **request_p); /* Takes */

#endif
