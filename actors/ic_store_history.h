/* ic_store_history: what the store's thread reads of a session whose memory is made again: what was
 * said, what was watched, and the frames, some at a time. */
#ifndef IC_STORE_HISTORY_H
#define IC_STORE_HISTORY_H

#include "actors/ic_actor_msgs.h"

typedef struct ic_transcript_turn {
    uint64_t number; /* of the round */
    bool is_answer;
    int64_t at; /* number of its record in the journal; 0: older than what could say so */
    char *text; /* owned */
} ic_transcript_turn;

typedef struct ic_transcript_source {
    uint64_t number;
    char *name;           /* owned */
    int64_t frames;       /* that the model saw of it */
    ic_identity identity; /* known: of a file that can be read again, */
    ic_buf reading;       /* as ic_talk_reading tells */
} ic_transcript_source;

/* The transcript and the ledger. */
typedef struct ic_job_transcript {
    ic_store_job job;
    char session[IC_STORE_ID_CHARS + 1];
    ic_transcript_turn *turns;
    int count, capacity;
    ic_transcript_source *sources;
    int source_count, source_capacity;
} ic_job_transcript;
ic_job_transcript *ic_job_transcript_new(const char *session, ic_port *reply, int tag);

typedef struct ic_history_frame {
    int64_t number, media;
    uint32_t kind;
    bool damaged; /* then there is nothing else of it */
    bool held;    /* the pixels are there */
    ic_buf bytes; /* a record of the journal, as far as it is held */
} ic_history_frame;

/* Frames from number `from` on, until there are max_bytes of them. */
typedef struct ic_job_frames {
    ic_store_job job;
    char session[IC_STORE_ID_CHARS + 1];
    int64_t from;
    size_t max_bytes, bytes;
    ic_history_frame *frames;
    int count, capacity;
    bool over; /* these are the last */
} ic_job_frames;
ic_job_frames *ic_job_frames_new(const char *session, int64_t from, size_t max_bytes,
                                 ic_port *reply, int tag);

#endif
