/* ic_store_jobs: what the other actors have the store's thread do: each job is one transaction.
 *
 * A job is made by _new, filled by its maker, sent, and comes back with rc, error and its results.
 * The functions that run are called by the store actor alone.
 */
#ifndef IC_STORE_JOBS_H
#define IC_STORE_JOBS_H

#include "actors/ic_actor_msgs.h"

/* --- write: a list of operations on one session ------------------------------------------------
 */

typedef enum ic_write_type {
    IC_WRITE_ADMIT,   /* key, content, kind. Unless the verdict is NEW, the rest is left out */
    IC_WRITE_JOURNAL, /* kind, key if has_key, bytes; number comes back */
    IC_WRITE_FRAME, /* kind, bytes, of which the first head_bytes are the frame's head; media.number
                       its source, hold; number comes back */
    IC_WRITE_EVENT, /* kind, bytes; number is the expected one */
    IC_WRITE_TURN,  /* turn; its text and parts are `bytes` and `extra` */
    IC_WRITE_REQUEST, /* key, state, first, last, bytes: the request's record */
    IC_WRITE_TOUCH,   /* counters */
    IC_WRITE_LOST,    /* number: an open media entry that nothing else ends; its frames: media; its
                         notice: `extra` */
    IC_WRITE_MEDIA,   /* media (its number 0: a new entry): name is `bytes`, notices `extra`, times
                         `times`; number comes back */
    IC_WRITE_CONFIG,  /* kind is its version, bytes the session's configuration */
    IC_WRITE_TRIM,    /* number: bytes of events to keep */
    IC_WRITE_KEEP     /* number: bytes of frames to keep; dropped comes back */
} ic_write_type;

typedef struct ic_write_op {
    ic_write_type type;
    uint32_t kind;
    bool has_key;
    uint8_t key[IC_STORE_KEY_BYTES], content[IC_STORE_KEY_BYTES];
    int64_t number, first, last;
    ic_store_request_state state;
    ic_store_counters counters;
    ic_store_turn turn;
    ic_store_media media;
    ic_store_hold hold;
    size_t head_bytes;
    ic_store_dropped dropped;
    ic_buf bytes, extra, times;
} ic_write_op;

typedef struct ic_job_write {
    ic_store_job job;
    char session[IC_STORE_ID_CHARS + 1];
    int64_t time_us;
    ic_write_op *ops;
    int count, capacity;
    int64_t journal_at;       /* number of the journal record that was written last */
    ic_store_verdict verdict; /* of its ADMIT; NEW when there is none */
    ic_store_request known;   /* SAME: what was recorded; result is NULL, see known_result */
    ic_buf known_result;
    void *context; /* the maker's; freed by free_context */
    void (*free_context)(void *);
} ic_job_write;
ic_job_write *ic_job_write_new(const char *session, ic_port *reply, int tag);
ic_write_op *ic_job_write_add(ic_job_write *w, ic_write_type type); /* Borrows until the next add */

/* --- reading and the rest ----------------------------------------------------------------------
 */

/* Is this key known? Nothing is recorded. `request` travels along. */
typedef struct ic_job_lookup {
    ic_store_job job;
    uint8_t key[IC_STORE_KEY_BYTES], content[IC_STORE_KEY_BYTES];
    ic_mail_request *request; /* owned */
    ic_store_verdict verdict;
    ic_store_request known;
} ic_job_lookup;
ic_job_lookup *ic_job_lookup_new(ic_mail_request **request_p, const ic_wire_id *key, ic_port *reply,
                                 int tag);

/* Events from `from` on, until max_bytes have been read. */
typedef struct ic_stored_event {
    int64_t number;
    ic_buf body;
} ic_stored_event;
typedef struct ic_job_events {
    ic_store_job job;
    char session[IC_STORE_ID_CHARS + 1];
    int64_t from;
    size_t max_bytes, bytes;
    ic_stored_event *events;
    int count, capacity;
} ic_job_events;
ic_job_events *ic_job_events_new(const char *session, int64_t from, size_t max_bytes,
                                 ic_port *reply, int tag);

/* A session's record and configuration. */
typedef struct ic_job_session {
    ic_store_job job;
    char session[IC_STORE_ID_CHARS + 1];
    ic_store_session record;
    uint32_t config_version;
    ic_buf config;
    int64_t turns, medias; /* numbers of the newest */
    int64_t store_bytes;
} ic_job_session;
ic_job_session *ic_job_session_new(const char *session, ic_port *reply, int tag);

/* The checkpoint's manifest and the journal behind it. The reader stays open: hand it on to
 * ic_job_segment, and close it with ic_job_reader_close. */
typedef struct ic_journal_record {
    int64_t number;
    uint32_t kind;
    ic_buf bytes;
} ic_journal_record;
typedef struct ic_job_load {
    ic_store_job job;
    char session[IC_STORE_ID_CHARS + 1];
    ic_store_reader *reader;    /* the store thread's alone; NULL: there is no checkpoint */
    ic_store_manifest manifest; /* its pointers go into the reader: valid until that is closed */
    bool verify;                /* in: every segment, too */
    ic_journal_record *records;
    int count, capacity;
    int64_t journal_last;
} ic_job_load;
ic_job_load *ic_job_load_new(const char *session, ic_port *reply, int tag);

typedef struct ic_job_segment { /* reads one segment of an open reader */
    ic_store_job job;
    ic_store_reader *reader;
    size_t index;
    ic_buf bytes;
} ic_job_segment;
ic_job_segment *ic_job_segment_new(ic_store_reader *reader, size_t index, ic_port *reply, int tag);
ic_store_job *ic_job_reader_close_new(ic_store_reader **reader_p); /* Takes; no reply */

/* One piece of a checkpoint; the first begins it, the last finishes it, with the manifest. */
typedef struct ic_job_checkpoint {
    ic_store_job job;
    char session[IC_STORE_ID_CHARS + 1];
    ic_store_writer *writer; /* the store thread's alone; NULL before the first piece */
    uint32_t tag;
    ic_buf bytes; /* a segment; empty: none */
    ic_store_segment segment;
    bool finish, abort;
    ic_store_manifest manifest;
    ic_buf meaning, numerics, state;
    ic_store_segment *segments; /* owned */
    int64_t store_bytes;        /* of the session when it is finished */
} ic_job_checkpoint;
ic_job_checkpoint *ic_job_checkpoint_new(const char *session, ic_store_writer *writer,
                                         ic_port *reply, int tag);

/* --- the router's ------------------------------------------------------------------------------
 */

enum {
    IC_TURN_PARTS_VERSION = 2, /* version 1 did not say where in the journal the turn was written */
    IC_SESSION_CONFIG_VERSION = 1
};

typedef enum ic_desk_type {
    IC_DESK_NEW,  /* config: opaque bytes of the session */
    IC_DESK_FIND, /* request.session becomes the full id */
    IC_DESK_LIST,
    IC_DESK_SHOW,
    IC_DESK_TITLE,
    IC_DESK_DELETE,
    IC_DESK_MARK,
    IC_DESK_UNMARK,
    IC_DESK_FORK,
    IC_DESK_SIZES,  /* for status */
    IC_DESK_PENDING /* sessions with requests that a crash left unfinished */
} ic_desk_type;

typedef struct ic_desk_turn {
    uint64_t number;
    int64_t time_us;
    char *text, *answer; /* owned */
    int finish;          /* IC_WIRE_FINISH_..., -1: none */
} ic_desk_turn;

typedef struct ic_desk_media {
    uint64_t number;
    char *name;
    int kind;
    bool done, image;
    double fps;
    uint64_t seen, skipped, deduplicated;
} ic_desk_media;

/* A client's request that the store answers; the request travels along. */
typedef struct ic_job_desk {
    ic_store_job job;
    ic_desk_type type;
    ic_mail_request *request; /* owned; NULL for PENDING */
    ic_store_verdict verdict; /* of those with a key */
    bool ambiguous;
    ic_buf config;              /* NEW: in; SHOW: out */
    ic_store_session *sessions; /* results; one for NEW, FIND, SHOW, FORK */
    int count, capacity;
    int limit; /* LIST, SHOW: at most this many sessions or turns */
    bool more;
    ic_desk_turn *turns;
    int turn_count;
    ic_desk_media *medias;
    int media_count, media_capacity;
    ic_store_mark marks[IC_STORE_MARKS];
    int mark_count;
    ic_store_sizes sizes;
    ic_session_held *held; /* SHOW: in: what the session holds; NULL: it is not in memory. Owned */
    ic_buf head;           /* SHOW, without held: the head of its checkpoint; empty: it has none */
    int64_t head_us;       /* when that was taken */
} ic_job_desk;
ic_job_desk *ic_job_desk_new(ic_desk_type type, ic_mail_request **request_p, ic_port *reply);

/* The key of a request that has one, else NULL. Borrows from the message. */
const ic_wire_id *ic_request_key(const ic_wire_msg *m);

#endif
