/* ic_talk_record: what a conversation writes into the store, as bytes and back: its configuration,
 * its journal records, and the head of a checkpoint's state. Little-endian (base/ic_buf.h); a
 * number of the version stands first. docs/store-format.md calls these opaque; they are told here.
 */
#ifndef IC_TALK_RECORD_H
#define IC_TALK_RECORD_H

#include "base/ic_buf.h"
#include "base/ic_frame.h"
#include "engine/ic_session_held.h"
#include "engine/ic_tokenizer.h"

/* --- configuration: fixed when the session is made ---------------------------------------------
 */

typedef struct ic_talk_config {
    ic_session_config engine;
    ic_sampling sampling; /* defaults of its turns */
    bool has_seed;        /* else each turn draws its own */
    char *system;         /* owned; NULL: none */
    char model[96];       /* that it was made for; for people */
} ic_talk_config;
void ic_talk_config_fini(ic_talk_config *c);
int ic_talk_config_encode(const ic_talk_config *c, ic_buf *out);
IC_MUST_CHECK int ic_talk_config_decode(ic_talk_config *c, const void *bytes, size_t size,
                                        ic_error *e);

/* --- the journal -------------------------------------------------------------------------------
 */

typedef enum ic_talk_record_kind {
    IC_RECORD_FRAME = 1, /* frame, grid */
    IC_RECORD_IMAGE = 2, /* frame, grid */
    IC_RECORD_FRAMES_END = 3,
    IC_RECORD_ASK = 4,       /* turn, key, text, sampling: admitted */
    IC_RECORD_START = 5,     /* turn: its question goes into the model now */
    IC_RECORD_TOKENS = 6,    /* turn, tokens: shown */
    IC_RECORD_END_V1 = 7,    /* turn, finish: how earlier builds wrote END; never written now */
    IC_RECORD_END = 12,      /* turn, finish, told */
    IC_RECORD_MEDIA = 8,     /* media: a source is being read */
    IC_RECORD_MEDIA_END = 9, /* media */
    IC_RECORD_SOURCE = 13,   /* media, source, left_*: what was not shown is in no other record */
    IC_RECORD_PIXELS =
        10,             /* pixels: a piece of the next frame, which is too large for one record */
    IC_RECORD_FORK = 11 /* the session is a copy of another from here on: what was in flight there,
                           a question or a source, is not this one's */
} ic_talk_record_kind;

/* How far a source has come. */
typedef struct ic_talk_reach {
    uint64_t given, skipped, deduplicated; /* frames of it; given: shown to the model */
    int64_t pos_us;                        /* of the last one given; -1: none */
} ic_talk_reach;

/* What the usage of all answers together has told of the session so far. A replay cannot count it
 * again: an answer may have ended while the rows before it were still going in. */
typedef struct ic_talk_told {
    uint64_t evicted, skipped, deduplicated;
} ic_talk_told;

typedef struct ic_talk_record {
    ic_talk_record_kind kind;
    uint64_t turn, media;
    int finish; /* ic_finish */
    ic_talk_told told;
    ic_talk_reach source;                   /* SOURCE: of the one that is being read */
    uint64_t left_skipped, left_duplicated; /* SOURCE: since the session began, as in the head */
    uint8_t key[16];                        /* of the request */
    ic_grid grid;
    ic_frame *frame;       /* owned */
    bool detached;         /* the frame's pixels came before it, in PIXELS */
    const uint8_t *pixels; /* PIXELS; Borrows: from the bytes that were decoded */
    size_t pixel_bytes;
    char *text; /* owned */
    ic_sampling sampling;
    int32_t *tokens; /* owned */
    int count;
} ic_talk_record;
void ic_talk_record_fini(ic_talk_record *r);
int ic_talk_record_encode(const ic_talk_record *r, ic_buf *out);
/* Of the bytes of a FRAME, IMAGE or PIXELS those before the pixels, which stay when these go. */
size_t ic_talk_record_head_bytes(ic_talk_record_kind kind);
IC_MUST_CHECK int ic_talk_record_decode(ic_talk_record *r, uint32_t kind, const void *bytes,
                                        size_t size, ic_error *e);

/* --- how a source was read: the ledger's `times` of a file that can be read again ----------------
 */

typedef struct ic_talk_reading {
    char *source; /* owned: its path */
    double fps;
    int64_t from_us, to_us; /* to_us -1: to the end */
    uint64_t max_frames;
    uint32_t frame_tokens;
    bool image;
} ic_talk_reading;
void ic_talk_reading_fini(ic_talk_reading *r);
int ic_talk_reading_encode(const ic_talk_reading *r, ic_buf *out);
IC_MUST_CHECK int ic_talk_reading_decode(ic_talk_reading *r, const void *bytes, size_t size,
                                         ic_error *e);

/* --- the head of a checkpoint ------------------------------------------------------------------
 */

/* An answer in its middle: what the session actor knows of it beside the engine's state. All of it
 * is in the journal and in events already. */
typedef struct ic_talk_answer {
    uint64_t turn;   /* its question's; 0: none was going on */
    uint8_t key[16]; /* of the request */
    ic_sampling sampling;
    uint32_t tokens;     /* shown so far */
    ic_utf8_stream held; /* bytes of a character that has not come to its end */
    ic_buf text;         /* before those; owned */
} ic_talk_answer;

typedef struct ic_talk_head {
    uint64_t turns;                       /* questions so far */
    uint64_t medias;                      /* sources so far */
    uint64_t open_media;                  /* being read when the checkpoint was taken; 0: none */
    ic_talk_reach source;                 /* of that one */
    uint64_t evicted_at_end;              /* tokens evicted up to the end of the last answer */
    uint64_t seen, skipped, deduplicated; /* frames, since it began */
    uint64_t seen_at_end, skipped_at_end, deduplicated_at_end; /* at the end of the last answer */
    bool inexact; /* some of it was computed under other numerics */
    char model[96];
    char meaning[33];         /* the engine's; "": of a version that did not say */
    ic_session_config config; /* what the session was made with, as far as `meaning` is there */
    bool has_held;
    ic_session_held held; /* what the session held then */
    ic_talk_answer answer;
    ic_buf asks; /* ASK records of questions that wait, each a blob; owned */
} ic_talk_head;
void ic_talk_head_fini(ic_talk_head *h);
int ic_talk_head_encode(const ic_talk_head *h, ic_buf *out);
/* Takes the place of what *h was. Caller owns its contents; after a failure it is empty. */
IC_MUST_CHECK int ic_talk_head_decode(ic_talk_head *h, const void *bytes, size_t size, ic_error *e);

#endif
