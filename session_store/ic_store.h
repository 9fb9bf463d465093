/* ic_store: durable sessions in one SQLite file. It knows ids, numbered records and opaque bytes
 * with a version; it knows nothing of models. The format is docs/store-format.md, version 4.
 *
 * One handle, one owner thread (the store actor's); nothing here locks. All SQL text is inside.
 * Every call that changes something is durable when it returns (WAL, synchronous=FULL), except
 * between ic_store_batch_begin and ic_store_batch_commit: those share the commit's one fsync.
 *
 * Errors beside what a call says: IC_EIO (the disk refused), IC_ELIMIT (disk or store full),
 * IC_EBUSY (another process holds the database), IC_EFORMAT (damage, named), IC_ENOTFOUND (no such
 * session). A call that fails has changed nothing; a failed write inside a batch may doom the whole
 * batch: then every later call of it, the commit too, returns that error and nothing of it stays.
 *
 * Rows are handed to callbacks as borrowed views, valid for that call only; a callback returns 0 to
 * go on, > 0 to stop there, or a negative code that the reading call returns. A callback must not
 * call the store.
 */
#ifndef IC_STORE_H
#define IC_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ic_buf.h"
#include "base/ic_err.h"

enum {
    IC_STORE_FORMAT = 4,                   /* the schema this build writes (user_version) */
    IC_STORE_ID_CHARS = 26,                /* a session id: 128 random bits, base32 lower case */
    IC_STORE_OWNER_MAX = 63,               /* bytes */
    IC_STORE_TITLE_MAX = 255,              /* bytes */
    IC_STORE_MARK_MAX = 63,                /* bytes of a mark's name */
    IC_STORE_MARKS = 100,                  /* marks of one session */
    IC_STORE_KEY_BYTES = 16,               /* a request key, a content hash */
    IC_STORE_FINGERPRINT_MAX = 64,         /* bytes of a meaning fingerprint */
    IC_STORE_NUMERICS_MAX = 127,           /* bytes of a numerics id */
    IC_STORE_RECORD_MAX = 4 * 1024 * 1024, /* bytes of a journal record, event, turn, blob */
    IC_STORE_FRAME_HEAD_MAX = 1024,        /* bytes of what stays of a frame */
    IC_STORE_SEGMENT_MAX = 4 * 1024 * 1024 /* bytes of a checkpoint segment or a media piece */
};

typedef struct ic_store ic_store;

/* ---- the store ------------------------------------------------------------------------------ */

typedef struct ic_store_config {
    const char *path;    /* the database file; its folder is made (0700) if missing, itself 0600 */
    int busy_timeout_ms; /* 0: 5000 */
    size_t cache_bytes;  /* page cache; 0: 16 MiB */
    int64_t limit_bytes; /* size the file may grow to; 0: none */
    bool must_exist;     /* a store that is not there is not made: IC_ENOTFOUND */
    int page_bytes;      /* of a store that is made: 4096 to 65536; 0: 16384 */
    const char *vfs;     /* name of a SQLite VFS, for tests; NULL: the system's */
} ic_store_config;

/* Opens or makes the store, brings one of a former format forward, and holds "<path>.lock" until
 * closed or killed. Sweeps what a crash left unreferenced. Caller owns *s_p. Errors: IC_EBUSY
 * (another server has it; names file and pid), IC_EVERSION (made by a newer build; not a byte is
 * touched), IC_EFORMAT (not a store of ours, or damaged), IC_EIO (folder or file cannot be
 * written), IC_EUNSUPPORTED (network file system). */
int ic_store_open(ic_store **s_p, const ic_store_config *config, ic_error *e);
/* Rolls an open batch back, gives open writers up (their segments are swept at the next start),
 * closes, releases the lock. Readers must be closed before. */
void ic_store_close(ic_store **s_p);

/* PRAGMA integrity_check plus every checksum of ours. IC_EFORMAT names the first damage. Reads the
 * whole file: minutes for a large one. */
int ic_store_check(ic_store *s, ic_error *e);

/* Group commit: writes between begin and commit become durable together, or not at all. Not
 * allowed inside: ic_store_checkpoint_begin/_segment/_finish/_abort, ic_store_maintain,
 * ic_store_shrink, ic_store_check (IC_EINVAL). */
int ic_store_batch_begin(ic_store *s, ic_error *e);
int ic_store_batch_commit(ic_store *s, ic_error *e); /* on error nothing of the batch is kept */
void ic_store_batch_rollback(ic_store *s);           /* fine without a batch */
uint64_t ic_store_commits(const ic_store *s); /* commits that reached the disk, since opened */

/* Bounded housekeeping (moves the log into the file, gives free pages back, at most about 8 MiB of
 * work). Call when idle; *more says whether another call at once would get further: not while
 * another program reads the database, a backup say. Never waits for one. */
int ic_store_maintain(ic_store *s, bool *more, ic_error *e);
/* Gives every free page back to the disk now: the file and its log shrink before it returns. */
int ic_store_shrink(ic_store *s, ic_error *e);

typedef struct ic_store_sizes {
    int64_t journal, events, transcript, media, checkpoints, requests; /* payload bytes */
    int64_t total; /* their sum; of the whole store: the file and its log on disk */
    int64_t free;  /* whole store only: bytes in free pages */
    int64_t sessions;
} ic_store_sizes;
int ic_store_sizes_all(ic_store *s, ic_store_sizes *sizes, ic_error *e);
/* What all that is stored takes of the file: its pages but the free ones. Takes no time. */
int ic_store_used_bytes(ic_store *s, int64_t *bytes, ic_error *e);
int ic_store_sizes_owner(ic_store *s, const char *owner, ic_store_sizes *sizes, ic_error *e);
/* With its marks. What forks share is counted in each of them. */
int ic_store_sizes_session(ic_store *s, const char *id, ic_store_sizes *sizes, ic_error *e);

/* ---- sessions ------------------------------------------------------------------------------- */

typedef struct ic_store_counters {
    int64_t turns, media, frames, tokens, evicted;
} ic_store_counters;

typedef struct ic_store_session {
    char id[IC_STORE_ID_CHARS + 1];
    char owner[IC_STORE_OWNER_MAX + 1];
    char title[IC_STORE_TITLE_MAX + 1]; /* UTF-8 */
    char parent[IC_STORE_ID_CHARS + 1]; /* it was forked from; "": from none */
    uint32_t state;                     /* the caller's */
    int64_t created_us, used_us;        /* wall clock */
    ic_store_counters counters;
    uint32_t config_version;
    bool has_checkpoint;
    int64_t checkpoint_us; /* when it was taken; 0: none */
    int64_t journal_first; /* replay starts at this record */
    int64_t journal_next;  /* the next record's number */
    int64_t event_first;   /* the oldest event kept */
    int64_t event_next;    /* the next event's number */
} ic_store_session;

/* Makes a session with a fresh random id (random first, so that short prefixes are unique). config:
 * opaque bytes with their version. IC_EINVAL: owner empty or too long, title too long or not UTF-8
 * text of one line. Numbers of journal records, events and turns start at 1. */
int ic_store_session_create(ic_store *s, const char *owner, const char *title, int64_t created_us,
                            uint32_t config_version, const void *config, size_t config_bytes,
                            char id[IC_STORE_ID_CHARS + 1], ic_error *e);
int ic_store_session_get(ic_store *s, const char *id, ic_store_session *out, ic_error *e);
/* Appends the config bytes to out. */
int ic_store_session_config(ic_store *s, const char *id, uint32_t *version, ic_buf *out,
                            ic_error *e);
/* Replaces the config bytes. */
int ic_store_session_set_config(ic_store *s, const char *id, uint32_t version, const void *config,
                                size_t config_bytes, ic_error *e);

/* A whole id or a unique prefix of one (upper case is fine), among owner's sessions (NULL: all).
 * IC_ENOTFOUND; IC_EINVAL: several match, the text lists the first of them. */
int ic_store_session_find(ic_store *s, const char *owner, const char *prefix, ic_store_session *out,
                          ic_error *e);

typedef int ic_store_session_fn(void *arg, const ic_store_session *session);
/* Newest used first; owner NULL: all. */
int ic_store_session_list(ic_store *s, const char *owner, ic_store_session_fn *fn, void *arg,
                          ic_error *e);
/* ic_store_check, session by session: each is told with what is wrong with it (IC_OK: nothing), the
 * file as a whole first, with session NULL. Marks are told as sessions without an owner. Returns
 * fn's result, or why the list of sessions could not be read. */
typedef int ic_store_check_fn(void *arg, const ic_store_session *session, int rc,
                              const ic_error *e);
int ic_store_check_each(ic_store *s, ic_store_check_fn *fn, void *arg, ic_error *e);

int ic_store_session_set_title(ic_store *s, const char *id, const char *title, ic_error *e);
int ic_store_session_set_state(ic_store *s, const char *id, uint32_t state, ic_error *e);
/* used_us and, unless NULL, the counters (absolute values). */
int ic_store_session_touch(ic_store *s, const char *id, int64_t used_us,
                           const ic_store_counters *counters, ic_error *e);
/* Makes a session that goes on from where this one stands, or stood when its mark `at` was made
 * (NULL: now): its config, counters, transcript, media ledger and the journal behind the checkpoint
 * are copied; the checkpoint and the media bytes are shared, so it costs the same whatever their
 * size. Events, marks and request keys stay behind. What the copied journal holds of answers in
 * flight is the caller's to end (in the same batch). IC_ENOTFOUND: no such mark. */
int ic_store_session_fork(ic_store *s, const char *id, const char *at, const char *title,
                          int64_t created_us, char fork_id[IC_STORE_ID_CHARS + 1], ic_error *e);
/* Everything of the session goes, its marks and a damaged one too; its request keys answer EXPIRED
 * from then on. The space is given back by ic_store_maintain or at once by ic_store_shrink. */
int ic_store_session_delete(ic_store *s, const char *id, ic_error *e);

/* ---- marks ----------------------------------------------------------------------------------- */

typedef struct ic_store_mark {
    char name[IC_STORE_MARK_MAX + 1];
    int64_t time_us;
    int64_t turn; /* the caller's: questions so far */
} ic_store_mark;
typedef int ic_store_mark_fn(void *arg, const ic_store_mark *mark);

/* Names the session as it stands now: what a fork of it would copy is copied and held, whatever
 * becomes of the session, until the mark is removed or the session deleted. copy_id gets the id of
 * the copy, which no list shows and which the caller may still write to as to any session. Name:
 * one line. IC_EEXIST; IC_ELIMIT: too many. */
int ic_store_mark_add(ic_store *s, const char *id, const char *name, int64_t turn, int64_t time_us,
                      char copy_id[IC_STORE_ID_CHARS + 1], ic_error *e);
/* IC_ENOTFOUND. What only the mark held is given back. */
int ic_store_mark_remove(ic_store *s, const char *id, const char *name, ic_error *e);
/* Oldest first. */
int ic_store_mark_list(ic_store *s, const char *id, ic_store_mark_fn *fn, void *arg, ic_error *e);

/* ---- the replay journal and the event log -----------------------------------------------------
 */

typedef struct ic_store_record {
    int64_t number; /* rises by 1 */
    int64_t time_us;
    uint32_t kind;      /* the caller's */
    const uint8_t *key; /* journal only: the request's key, or NULL */
    const void *bytes;
    size_t size;
    const void *bulk; /* of a frame: what goes on behind `bytes`; else NULL */
    size_t bulk_size;
} ic_store_record;
typedef int ic_store_record_fn(void *arg, const ic_store_record *record);

/* key may be NULL. *number (may be NULL) gets the record's number. */
int ic_store_journal_append(ic_store *s, const char *id, uint32_t kind, int64_t time_us,
                            const uint8_t *key, const void *bytes, size_t size, int64_t *number,
                            ic_error *e);
/* Records from number `from` on, frames among them, in order, each verified (IC_EFORMAT: damaged or
 * missing). 0: from where replay starts. IC_ENOTFOUND: `from` was trimmed. */
int ic_store_journal_read(ic_store *s, const char *id, int64_t from, ic_store_record_fn *fn,
                          void *arg, ic_error *e);

int ic_store_event_append(ic_store *s, const char *id, uint32_t kind, int64_t time_us,
                          const void *bytes, size_t size, int64_t *number, ic_error *e);
/* Events from number `from` on, in order, verified. 0: from the oldest kept. IC_ENOTFOUND: `from`
 * has been dropped by retention, the text says what is left. Past the end: none, IC_OK. */
int ic_store_event_read(ic_store *s, const char *id, int64_t from, ic_store_record_fn *fn,
                        void *arg, ic_error *e);
/* Retention: drops the oldest events while more than max_bytes of payload are held, but none that
 * is of before_us or younger. *dropped (may be NULL) gets their number. */
int ic_store_event_trim(ic_store *s, const char *id, int64_t max_bytes, int64_t before_us,
                        int64_t *dropped, ic_error *e);

/* ---- requests: exactly once -------------------------------------------------------------------
 */

typedef enum ic_store_verdict {
    IC_STORE_NEW,      /* never seen: recorded as pending, go and do it */
    IC_STORE_SAME,     /* seen with this content: replay its events, or its result */
    IC_STORE_CONFLICT, /* seen with another content: refuse */
    IC_STORE_EXPIRED   /* seen, and past its retention: refuse, never compute again */
} ic_store_verdict;

typedef enum ic_store_request_state {
    IC_STORE_PENDING = 1, /* admitted; after a crash: to be finished by replay, or failed */
    IC_STORE_DONE = 2,    /* finished: its events and result are complete */
    IC_STORE_GONE = 3     /* a tombstone */
} ic_store_request_state;

typedef struct ic_store_request {
    uint8_t key[IC_STORE_KEY_BYTES];
    uint8_t content[IC_STORE_KEY_BYTES]; /* hash of what was asked */
    char session[IC_STORE_ID_CHARS + 1]; /* "": none (yet) */
    uint32_t kind;                       /* the caller's: which verb */
    ic_store_request_state state;
    int64_t time_us;
    int64_t first_event, last_event; /* 0: none; last_event 0 while pending */
    const void *result; /* opaque, up to 64 KiB; NULL: none. Valid until the next call */
    size_t result_bytes;
} ic_store_request;

/* The hash to put into `content`: XXH3-128. Callers put owner and verb into the bytes, so that
 * another owner's key is a CONFLICT and tells nothing. */
void ic_store_hash(const void *bytes, size_t size, uint8_t hash[IC_STORE_KEY_BYTES]);

/* Looks key up; NEW records it as pending. session may be NULL. *out (may be NULL) is filled for
 * SAME, and for NEW with what was recorded. Meant to share a batch with the journal append. */
int ic_store_request_admit(ic_store *s, const uint8_t key[IC_STORE_KEY_BYTES],
                           const uint8_t content[IC_STORE_KEY_BYTES], uint32_t kind,
                           const char *session, int64_t time_us, ic_store_verdict *verdict,
                           ic_store_request *out, ic_error *e);
/* The same question without recording anything: NEW when the key is unknown. */
int ic_store_request_find(ic_store *s, const uint8_t key[IC_STORE_KEY_BYTES],
                          const uint8_t content[IC_STORE_KEY_BYTES], ic_store_verdict *verdict,
                          ic_store_request *out, ic_error *e);
/* Sets state, session (NULL: as it is), event numbers (0: as they are) and result (NULL: as it is)
 * of a key that was admitted. */
int ic_store_request_update(ic_store *s, const uint8_t key[IC_STORE_KEY_BYTES],
                            ic_store_request_state state, const char *session, int64_t first_event,
                            int64_t last_event, const void *result, size_t result_bytes,
                            ic_error *e);
typedef int ic_store_request_fn(void *arg, const ic_store_request *request);
/* Pending ones, oldest first; session NULL: of the whole store. For start and resume. */
int ic_store_request_pending(ic_store *s, const char *session, ic_store_request_fn *fn, void *arg,
                             ic_error *e);
/* Retention, by age on the wall clock: finished requests admitted more than keep_us ago become
 * tombstones (EXPIRED), tombstones older than forget_us vanish. Keep tombstones far longer than
 * any client retries. */
int ic_store_request_expire(ic_store *s, int64_t keep_us, int64_t forget_us, ic_error *e);

/* ---- the transcript ---------------------------------------------------------------------------
 */

typedef enum ic_store_role {
    IC_STORE_SYSTEM = 1,
    IC_STORE_USER = 2,
    IC_STORE_ASSISTANT = 3,
    IC_STORE_MEDIA = 4 /* media joined here: `media` names it */
} ic_store_role;

typedef struct ic_store_turn {
    int64_t number;  /* from 1; set by append */
    int64_t time_us; /* when it was said, or began */
    int64_t took_us; /* an answer's duration */
    ic_store_role role;
    int64_t tokens;   /* of its own text */
    int64_t media;    /* the ledger's number, or 0 */
    const char *text; /* UTF-8, text_bytes long; not terminated */
    size_t text_bytes;
    uint32_t parts_version; /* opaque extras (finish reason, usage): bytes and their version */
    const void *parts;
    size_t parts_bytes;
} ic_store_turn;
typedef int ic_store_turn_fn(void *arg, const ic_store_turn *turn);

int ic_store_turn_append(ic_store *s, const char *id, const ic_store_turn *turn, int64_t *number,
                         ic_error *e);
int ic_store_turn_read(ic_store *s, const char *id, int64_t from, ic_store_turn_fn *fn, void *arg,
                       ic_error *e);
/* Takes one turn out; the others keep their numbers. */
int ic_store_turn_remove(ic_store *s, const char *id, int64_t number, ic_error *e);

/* ---- media: the ledger and the bytes ----------------------------------------------------------
 */

typedef struct ic_store_media {
    int64_t number; /* from 1 in its session; 0 in put: a new one */
    int64_t time_us;
    uint32_t kind;       /* the caller's: upload, server path, URL, stdin, image */
    uint32_t state;      /* the caller's */
    const char *name;    /* UTF-8: file name or URL; up to 4 KiB */
    int64_t bytes;       /* size of the source; -1: unknown */
    int64_t mtime_us;    /* of a file that is read again; 0: none */
    uint8_t hash[32];    /* of the content; zeros: not known */
    uint32_t hash_bytes; /* 0..32 */
    double fps;
    int64_t frames_seen, frames_used, frames_skipped;
    bool retain;         /* keep stored bytes when nothing needs them for a replay any more */
    const char *notices; /* UTF-8, one per line */
    const void *times;   /* opaque: timestamps used, up to IC_STORE_RECORD_MAX */
    size_t times_bytes;
    int64_t stored_bytes; /* read only: bytes held here */
    int64_t pieces;       /* read only */
} ic_store_media;
typedef int ic_store_media_fn(void *arg, const ic_store_media *media);

/* number 0: adds an entry and sets *number; else replaces that entry's fields. */
int ic_store_media_put(ic_store *s, const char *id, const ic_store_media *media, int64_t *number,
                       ic_error *e);
/* All entries from number `from` on. */
int ic_store_media_list(ic_store *s, const char *id, int64_t from, ic_store_media_fn *fn, void *arg,
                        ic_error *e);
/* Appends one piece (1..IC_STORE_SEGMENT_MAX bytes) to the entry's stored bytes. */
int ic_store_media_append(ic_store *s, const char *id, int64_t media, const void *bytes,
                          size_t size, ic_error *e);
/* Appends piece `piece` (from 0), verified, to out. IC_ENOTFOUND past the last. */
int ic_store_media_read(ic_store *s, const char *id, int64_t media, int64_t piece, ic_buf *out,
                        ic_error *e);
/* Drops the stored bytes; the ledger's entry stays. */
int ic_store_media_drop(ic_store *s, const char *id, int64_t media, ic_error *e);

/* ---- frames: what was seen ---------------------------------------------------------------------
 *
 * A frame is a record of the journal, numbered with the others and read with them, whose bulk (the
 * pixels) has a life of its own: it is written once, and the checkpoint that covers the record
 * takes it along or leaves it. The record itself stays either way, without its bulk: it says what
 * was shown, and where between the others. Frames that follow one another lie in reels of some
 * megabytes, which copies of a session share.
 */

typedef enum ic_store_hold {                           /* of a frame's bulk */
                             IC_STORE_HOLD_NONE = 0,   /* no more (read only) */
                             IC_STORE_HOLD_REPLAY = 1, /* until a checkpoint covers it */
                             IC_STORE_HOLD_KEEP = 2    /* until ic_store_frame_limit drops it */
} ic_store_hold;

typedef struct ic_store_frame {
    int64_t number; /* in the journal; set by append */
    int64_t time_us;
    uint32_t kind;      /* the caller's */
    int64_t media;      /* the ledger's number of its source */
    ic_store_hold hold; /* append: REPLAY or KEEP */
    const void *head;   /* stays as long as the session: up to IC_STORE_FRAME_HEAD_MAX */
    size_t head_bytes;
    const void *bulk; /* up to IC_STORE_RECORD_MAX; read: NULL when it is not held any more */
    size_t bulk_bytes;
    bool damaged; /* read only: nothing but number and media is to be believed */
} ic_store_frame;
typedef int ic_store_frame_fn(void *arg, const ic_store_frame *frame);

/* As ic_store_journal_append. */
int ic_store_frame_append(ic_store *s, const char *id, const ic_store_frame *frame, int64_t *number,
                          ic_error *e);
/* Every frame from number `from` on, covered by a checkpoint or not, in order. Damage of one is
 * told with it (damaged), and the others follow. */
int ic_store_frame_read(ic_store *s, const char *id, int64_t from, ic_store_frame_fn *fn, void *arg,
                        ic_error *e);
typedef struct ic_store_dropped {
    int64_t frames, bytes;
} ic_store_dropped;
/* Retention: while the session holds more than max_bytes of bulk, the oldest goes, a reel at a
 * time, as far as a checkpoint covers it. What a fork or a mark holds too stays on the disk for
 * them. */
int ic_store_frame_limit(ic_store *s, const char *id, int64_t max_bytes, ic_store_dropped *dropped,
                         ic_error *e);

/* ---- checkpoints ------------------------------------------------------------------------------
 */

typedef struct ic_store_segment {
    int64_t number; /* unique in the store, never used again */
    uint32_t tag;   /* the caller's: rows, tables, ... */
    int64_t bytes;
} ic_store_segment;

typedef struct ic_store_manifest {
    uint32_t payload_version; /* the caller's format of state and segments */
    const void *meaning;      /* fingerprint: a mismatch refuses (caller compares) */
    size_t meaning_bytes;
    const char *numerics; /* id: a mismatch is accepted and said (caller compares) */
    int64_t time_us;
    int64_t journal_seq; /* the last journal record it covers; 0: none */
    int64_t live_bytes;  /* of the segments' bytes, those still in use: the caller's count */
    const void *state;   /* opaque, up to IC_STORE_SEGMENT_MAX; larger tables are segments */
    size_t state_bytes;
    const ic_store_segment *segments; /* in the order they are to be read */
    size_t segment_count;
    int64_t segment_bytes; /* their sum; set by the store */
} ic_store_manifest;

typedef struct ic_store_writer ic_store_writer;

/* One writer per session at a time (IC_EBUSY). Caller owns; ends in _finish or _abort. */
int ic_store_checkpoint_begin(ic_store *s, const char *id, ic_store_writer **w_p, ic_error *e);
/* Adds one segment of 1..IC_STORE_SEGMENT_MAX bytes in a transaction of its own, unreferenced until
 * _finish: journal appends may go between. out (may be NULL) is what to list in the manifest. */
int ic_store_checkpoint_segment(ic_store_writer *w, uint32_t tag, const void *bytes, size_t size,
                                ic_store_segment *out, ic_error *e);
/* Takes the writer, success or failure. manifest->segments names, by number, the segments that make
 * the checkpoint: this writer's and those kept of the session's present one (IC_EINVAL: any other).
 * In one transaction the manifest becomes the session's, the journal is trimmed up to journal_seq,
 * and segments that nothing refers to any more are dropped. On failure the former checkpoint and
 * the whole journal stand. */
int ic_store_checkpoint_finish(ic_store_writer **w_p, const ic_store_manifest *manifest,
                               ic_error *e);
/* Takes the writer; its segments are dropped. NULL is fine. */
void ic_store_checkpoint_abort(ic_store_writer **w_p);

typedef struct ic_store_reader ic_store_reader;

/* The session's present checkpoint. The manifest is verified before it returns. IC_ENOTFOUND: none
 * was taken; IC_EFORMAT: damaged; IC_EVERSION. Caller owns *r_p; close it before the session's next
 * checkpoint is finished (later reads say IC_ENOTFOUND). */
int ic_store_checkpoint_open(ic_store *s, const char *id, ic_store_reader **r_p, ic_error *e);
/* Borrows: valid until closed. */
const ic_store_manifest *ic_store_checkpoint_manifest(const ic_store_reader *r);
/* Reads segment `index` of the manifest into buffer (its bytes long) and verifies its checksum;
 * IC_EFORMAT names the damaged segment, and then buffer's content means nothing. */
int ic_store_checkpoint_read(ic_store_reader *r, size_t index, void *buffer, ic_error *e);
/* Verifies every segment without returning any. */
int ic_store_checkpoint_verify(ic_store_reader *r, ic_error *e);
void ic_store_checkpoint_close(ic_store_reader **r_p);

#endif
