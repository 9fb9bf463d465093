/* Inside the session actor: its state, and what its files call of one another. One thread. */
#ifndef IC_TALK_PRIV_H
#define IC_TALK_PRIV_H

#include "actors/ic_store_history.h"
#include "actors/ic_store_jobs.h"
#include "actors/ic_talk.h"
#include "actors/ic_talk_record.h"

/* --- where it stands ---------------------------------------------------------------------------
 */

typedef enum talk_phase {
    TALK_COLD,      /* its record is being read */
    TALK_SUSPENDED, /* no cache */
    TALK_WAIT_ROOM, /* asked the router for room */
    TALK_OPENING,   /* asked the scheduler for a cache */
    TALK_LOADING,   /* reading checkpoint and journal */
    TALK_REPLAY,    /* the journal's inputs are going in again */
    TALK_LIVE,
    TALK_STOPPING, /* on its way to suspended: see `why` */
    TALK_CLOSING,  /* the cache is being given back */
    TALK_FAILED,
    TALK_GONE /* deleted */
} talk_phase;

typedef enum talk_why { /* why it stops; a later, stronger reason replaces a weaker one */
                        TALK_WHY_NONE,
                        TALK_WHY_IDLE,  /* nobody spoke to it */
                        TALK_WHY_ROOM,  /* another session needs its memory */
                        TALK_WHY_ASKED, /* SUSPEND */
                        TALK_WHY_DRAIN, /* the server stops */
                        TALK_WHY_FAIL,  /* what is in memory cannot be trusted any more */
                        TALK_WHY_RM
} talk_why;

typedef enum talk_lease {
    TALK_LEASE_NONE,
    TALK_LEASE_HOME,
    TALK_LEASE_OUT,
    TALK_LEASE_RECALLED
} talk_lease;

enum { /* tags of store jobs */
       TALK_JOB_RECORD = 1,
       TALK_JOB_WRITE,
       TALK_JOB_LOOKUP,
       TALK_JOB_EVENTS,
       TALK_JOB_LOAD,
       TALK_JOB_SEGMENT,
       TALK_JOB_CHECKPOINT,
       TALK_JOB_TRANSCRIPT,
       TALK_JOB_FRAMES
};

/* --- one question ------------------------------------------------------------------------------
 */

typedef struct talk_turn {
    uint64_t number;
    ic_wire_id key, client;
    bool has_key, cancel_on_vanish;
    char *text;
    ic_sampling sampling;
    int64_t arrived_us, first_us, last_us; /* monotonic */
    int64_t arrived_wall_us, first_event;
    bool admitted; /* durable */
    bool cancelled;
    int32_t *tokens; /* shown, but for those that the checkpoint holds */
    int capacity;
    int count;    /* shown, */
    int stored;   /* of these, in the checkpoint that this process began with */
    int replayed; /* of these, shown before this process: not written again */
    int written;  /* of these, journalled */
    ic_utf8_stream utf8;
    ic_buf answer;    /* text so far */
    size_t told;      /* bytes of it that events have carried */
    ic_finish finish; /* once ended */
    ic_error error;
} talk_turn;
void talk_turn_free(talk_turn **t_p);

/* --- the line of inputs ------------------------------------------------------------------------
 */

typedef enum talk_item_type {
    TALK_ITEM_FRAME,
    TALK_ITEM_FRAMES_END,
    TALK_ITEM_TURN
} talk_item_type;
typedef struct talk_item {
    struct talk_item *next;
    talk_item_type type;
    ic_frame *frame;
    ic_grid grid;
    bool image;
    talk_turn *turn;
} talk_item;

/* --- what is to be written ---------------------------------------------------------------------
 */

/* An event before it has a number. */
typedef struct talk_event {
    int type; /* IC_WIRE_EVENT_... */
    uint64_t turn;
    char *text; /* owned, as all below */
    int finish; /* -1: none */
    bool has_usage, has_media;
    ic_wire_usage usage;
    ic_wire_media_info media;
    char *media_name, *container, *codec;
    int state; /* -1: none */
    const char *code;
    char *message;
    char *notices[IC_INGEST_NOTICES];
} talk_event;

/* A few operations that belong together, and what follows when they are durable. */
typedef struct talk_unit {
    struct talk_unit *next;
    ic_job_write *ops; /* without events */
    talk_event *events;
    int event_count;
    int64_t first_event; /* set when it is sent */
    /* admission of a request; then it is the last unit of its job */
    ic_mail_request *request;
    uint64_t turn, media; /* for its OK */
    bool is_turn;         /* item of the line that waits for the verdict */
    ic_mail_send *reply;  /* sent when durable */
    bool finishes_turn;   /* update the request's record with its events */
    ic_wire_id key;
    int64_t turn_first_event;
    size_t bytes;
} talk_unit;

typedef struct talk_attachment {
    struct talk_attachment *next;
    uint64_t peer;
    int64_t want; /* number of the next event it gets */
    int64_t credit;
    bool reading; /* events are being read for it */
} talk_attachment;

typedef struct talk_kept_event { /* the newest events, so that followers need no disk */
    struct talk_kept_event *next;
    int64_t number;
    ic_buf body;
} talk_kept_event;

typedef struct talk_source {
    ic_actor *actor;
    ic_ingest_args args;
    ic_port *port;
    uint64_t media; /* 0: not admitted yet */
    bool opened, image;
    ic_mail_request *request; /* a MEDIA that is answered once the source opens */
    ic_mail_ingest_opened *info;
    ic_identity identity; /* of a file that can be read again */
    ic_ingest_counts counts;
    uint64_t given;   /* frames that went into the model: what events may tell */
    uint64_t dropped; /* frames that were thrown away at the stop */
    uint64_t granted, received;
    int64_t progress_us;
    uint64_t progress_seen;
    bool ending;
    ic_mail_ingest_ended *ended; /* waits until the line before it is in, */
    bool end_queued;             /* where it stands as FRAMES_END */
    ic_wire_id key;
} talk_source;

typedef struct talk_rebuild talk_rebuild; /* a memory that is being made again */
typedef struct talk_reread talk_reread;   /* a file that is read again for it */

typedef struct talk {
    ic_actor_self *self;
    ic_talk_args *args;
    const ic_talk_limits *limits;
    ic_port *store_reply; /* NULL once the store has it (it is used in every job) */
    char id[IC_STORE_ID_CHARS + 1];

    talk_phase phase;
    talk_why why;
    ic_error failure; /* of TALK_FAILED */
    ic_wire_code failure_code;
    bool draining, end_wanted;
    bool owes; /* a suspended session has a question to answer */
    int64_t owed_again_us;
    uint64_t end_asked; /* mails seen when the end was wanted last */
    int64_t drain_until_us;
    uint64_t mails; /* received from the router */
    ic_mail_request
        *waiting; /* requests that need it live, or in another phase; linked by head.next */
    ic_mail_request *looks;        /* SHOW with the memory: answered as soon as it can be seen */
    ic_mail_request *stop_replies; /* SUSPEND requests to be answered, RM last */
    ic_mail_request *rm;
    int64_t spoken_us;          /* when somebody last spoke to it */
    ic_mail_session_state told; /* what the router knows */
    int64_t told_us;

    /* from the store */
    ic_store_session record;
    ic_talk_config config;
    ic_talk_head head;

    /* the cache */
    talk_lease lease;
    ic_seat *seat;
    ic_session *session; /* while the lease is at home */
    ic_session_stats stats;
    bool model_busy;  /* the last progress said that there is more to do */
    bool home_wanted; /* for a checkpoint to begin */
    bool exact;
    uint64_t recomputed;  /* tokens, by the resume */
    int text, vision;     /* tokens held when it was last counted */
    uint64_t frames_sent; /* into the engine, as the engine counts them */

    /* loading */
    ic_job_load *load;
    size_t segment_at;
    ic_buf state;
    bool state_loaded;
    int replay_answers; /* ends of answers that are still to come back */
    uint64_t tokens_loaded;
    uint64_t cut_media; /* a source that the session which this one is a copy of was reading */

    /* the line */
    talk_item *line, *line_end;
    int line_turns;
    talk_turn *turn; /* the one in the model */

    /* writing */
    talk_unit *units, *units_end;
    talk_unit *in_flight; /* the units of the job at the store */
    size_t unit_bytes;
    int64_t event_next;
    int64_t journal_last;   /* durable */
    uint64_t journal_bytes; /* since the last checkpoint */
    int64_t replay_us;      /* computing since then: what a replay would take */
    int64_t progress_us;    /* when the model was heard of last, or began */
    bool touched;           /* since the last checkpoint */
    int64_t store_bytes;    /* that it took when it was looked at last */
    int64_t grown_bytes;    /* written since then */

    /* events */
    talk_attachment *attachments;
    talk_kept_event *kept, *kept_end;
    size_t kept_bytes;

    /* checkpoint in progress */
    bool checkpointing;
    bool checkpoint_all;
    bool checkpoint_passing; /* began in mid-answer: the lease goes out between its pieces */
    bool checkpoint_takes;   /* waits for the cache, to take more out of it; no job is on its way */
    ic_store_writer *writer;
    bool rows_left;
    ic_buf checkpoint_rows;     /* taken out of the cache and not sent */
    size_t state_at;            /* bytes of the state that are written */
    ic_buf checkpoint_state;    /* empty: not taken yet */
    bool rows_given;            /* stored, and the cache, which was out, has not been told yet */
    ic_store_segment *segments; /* of the present checkpoint: rows only */
    int segment_count;
    ic_store_segment *fresh; /* of the one in progress, state and rows */
    int fresh_count;
    int64_t checkpoint_journal; /* these as they were with the state: */
    uint64_t checkpoint_journal_bytes, checkpoint_live;
    int64_t checkpoint_replay_us;
    int64_t checkpoint_after_us; /* not before that */
    int64_t checkpoint_began_us, restore_began_us;
    int64_t home_us;             /* when the lease came home */
    int64_t checkpoint_pause_us; /* the longest that it stayed there for it */
    uint64_t restore_bytes;
    bool restoring;         /* something was stored */
    bool rebuild;           /* a client wishes the memory made again, where it cannot be had */
    bool rebuilding;        /* it is being made again, or not yet stored: nobody is answered */
    char **rebuild_notices; /* what could not be had; owned */
    uint32_t rebuild_notice_count;
    talk_rebuild *rebuild_run; /* NULL: what came of it is told */
    talk_reread *reread;
    ic_session_config rebuild_former; /* settings of the memory that could not be had */
    char rebuild_told[160];           /* how it went */
    bool has_former;                  /* they come back if it is given up */
    bool unfinished; /* what is in memory is half of a rebuild: it is not stored when it stops */
    ic_talk_costs costs;
    ic_error checkpoint_error;
    ic_talk_head saved_head;

    talk_source *source;
    uint64_t skipped_here, deduplicated_here, seen_here, evicted_here;
    uint64_t dropped_here; /* frames that were kept and are not any more */
} talk;

enum {
    TALK_SEGMENT_BYTES = 2 << 20, /* pieces of a checkpoint */
    TALK_UNITS_BYTES = 8 << 20,   /* journal that waits for the store before the line waits */
    TALK_KEPT_BYTES = 1 << 20,
    TALK_FRAMES_AHEAD = 16, /* frames in the model that are not computed */
    TALK_TAG_STATE = 1,
    TALK_TAG_ROWS = 2
};

/* ic_talk.c */
void talk_send_error(talk *t, const ic_mail_request *r, ic_wire_code code, const char *message);
void talk_send_ok(talk *t, const ic_mail_request *r, ic_wire_msg *ok);
ic_wire_msg talk_ok(const talk *t, const ic_mail_request *r);
void talk_send_msg(talk *t, uint64_t peer, ic_wire_msg *m);
bool talk_is_answering(const talk *t);
void talk_fail(talk *t, ic_wire_code code, const ic_error *e);
void talk_begin_stop(talk *t, talk_why why);
void talk_verdict(talk *t, talk_unit *u, const ic_job_write *done);
void talk_wake(talk *t);

/* ic_talk_report.c */
int talk_state(const talk *t);    /* IC_WIRE_STATE_... */
bool talk_is_busy(const talk *t); /* not to be suspended for another's sake */
void talk_tell_router(talk *t);   /* if there is news */

/* ic_talk_write.c */
talk_unit *talk_unit_new(talk *t);
talk_event *talk_unit_event(talk_unit *u, int type); /* Borrows until the next one */
void talk_unit_record(talk *t, talk_unit *u, const ic_talk_record *r, const ic_wire_id *key);
/* A frame's record, or a piece of one: of source number media. */
void talk_unit_frame(talk *t, talk_unit *u, const ic_talk_record *r, uint64_t media,
                     ic_store_hold hold);
void talk_unit_admit(talk_unit *u, ic_mail_request **request_p);
void talk_unit_add(talk *t, talk_unit **u_p); /* Takes: to be written */
void talk_unit_drop_all(talk *t);
void talk_flush(talk *t);
bool talk_is_written(const talk *t); /* nothing waits or is on the way */
void talk_written(talk *t, ic_job_write *done);
void talk_notice(talk *t, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* ic_talk_follow.c */
void talk_attach(talk *t, uint64_t peer, int64_t from, int64_t credit, bool replace);
void talk_detach(talk *t, uint64_t peer);
void talk_take_attach(talk *t, const ic_mail_request *r); /* ATTACH */
void talk_credit(talk *t, uint64_t peer, uint64_t bytes);
void talk_keep_event(talk *t, int64_t number, const ic_buf *body);
void talk_follow(talk *t); /* sends what credit allows */
void talk_events_read(talk *t, ic_job_events *done);
int talk_follower_count(const talk *t);
void talk_follow_fini(talk *t);

/* ic_talk_model.c */
void talk_line_add(talk *t, talk_item **item_p);
void talk_line_clear(talk *t);
void talk_line_save(const talk *t, ic_buf *out);           /* its admitted questions, as blobs */
uint64_t talk_line_drop_frames(talk *t);                   /* their number */
talk_turn *talk_line_turn(const talk *t, uint64_t number); /* waiting in the line */
uint64_t talk_line_first_admitted(const talk *t);          /* 0: none */
talk_turn *talk_line_take(talk *t, uint64_t number);       /* Caller owns */
void talk_pump(talk *t);
uint64_t talk_frames_ahead(const talk *t); /* in the model, not computed yet */
void talk_end_frames(talk *t); /* half a pair is completed; a source that has ended is told */
void talk_tell_tokens(talk *t);
void talk_add_token(talk *t, talk_turn *turn, int32_t token);
void talk_answer_save(const talk_turn *turn, ic_talk_answer *out); /* out: empty */
talk_turn *talk_answer_load(ic_talk_answer *a);                    /* empties a; Caller owns */
void talk_progress(talk *t, const ic_mail_progress *p);
void talk_send_input(talk *t, ic_mail_input **in_p);
void talk_cancel_turn(talk *t);
void talk_end_queued(talk *t, talk_turn **turn_p, ic_finish finish);
void talk_lease_out(talk *t);
void talk_recall(talk *t);

/* ic_talk_look.c: SHOW with the memory */
void talk_look_add(talk *t, ic_mail_request **request_p); /* Takes */
void talk_looks(talk *t);                                 /* answers them as far as it can */
void talk_looks_drop(talk *t);

/* ic_talk_load.c: waking up */
void talk_opened(talk *t, ic_mail_lease *m);
void talk_loaded(talk *t, ic_job_load **done_p);
void talk_segment(talk *t, ic_job_segment *done);
void talk_replay_done(talk *t);
void talk_load_abort(talk *t);

/* ic_talk_rebuild.c */
void talk_rebuild_config(talk *t);
void talk_rebuild_begin(talk *t, const ic_error *why);      /* in the place of a load that failed */
void talk_rebuild_read(talk *t, ic_job_transcript **job_p); /* Takes, if it goes on with it */
void talk_rebuild_frames(talk *t, ic_job_frames **done_p);  /* Takes */
void talk_rebuild_pump(talk *t);
bool talk_rebuild_is_feeding(const talk *t); /* not everything has gone to the model */
/* What became of what went in. true: there is a rebuild, which tells it in the end. */
bool talk_rebuild_progress(talk *t, const ic_mail_progress *p);
void talk_rebuild_settle(talk *t); /* before it is stored */
void talk_rebuild_drop(talk *t);
void talk_rebuild_cancel(talk *t);
void talk_rebuild_forget(talk *t);

/* ic_talk_reread.c */
void talk_reread_mail(talk *t, ic_mail **m_p); /* Takes */

/* ic_talk_checkpoint.c */
void talk_count_cost(ic_talk_cost *cost, int64_t began_us, uint64_t bytes);
bool talk_checkpoint_due(const talk *t);
bool talk_checkpoint_fits(const talk *t); /* the lease at home: whether one may begin */
void talk_checkpoint_begin(talk *t);
void talk_checkpoint_advance(talk *t);      /* takes more out of the cache, once that is at home */
void talk_checkpoint_mark(talk *t);         /* the lease at home: rows that were stored meanwhile */
bool talk_checkpoint_spares(const talk *t); /* the lease is not kept at home for it */
void talk_checkpoint_done(talk *t, ic_job_checkpoint *done);
void talk_checkpoint_fini(talk *t);

/* ic_talk_source.c */
void talk_source_start(talk *t, ic_mail_request **request_p);
void talk_source_admitted(talk *t, const talk_unit *u);
void talk_source_refused(talk *t);
void talk_source_data(talk *t, ic_mail_request *r);
void talk_source_stop(talk *t);
void talk_source_mail(talk *t, ic_mail **m_p);
void talk_source_tick(talk *t);
void talk_source_check_end(talk *t);
void talk_source_finish(talk *t);
void talk_source_note(talk *t, talk_unit *u); /* what was left out since the last time */
void talk_source_drop_frames(talk *t);
void talk_source_free(talk *t);
ic_store_hold talk_source_hold(const talk *t); /* what becomes of its frames' pixels */
void talk_source_credit(talk *t, uint64_t bytes);
ic_mail_send *talk_media_ok(talk *t, const ic_mail_request *r, int64_t first_event, bool repeated);

#endif
