/* ic_talk_rebuild: what the two files of a rebuild share. Inside the session actor; one thread. */
#ifndef IC_TALK_REBUILD_H
#define IC_TALK_REBUILD_H

#include "actors/ic_store_history.h"
#include "actors/ic_talk_priv.h"

/* Frames that are not in the new memory. */
typedef struct rebuild_gap {
    int64_t frames;
    bool timed; /* some of them: */
    int64_t from_us, to_us;
    char *why; /* owned: the first reason; NULL: there are none */
} rebuild_gap;

/* A source of the ledger on its way in again. */
typedef struct rebuild_source {
    const ic_transcript_source *told; /* borrowed */
    bool readable;                    /* its file may be read again: not tried yet, or it is */
    ic_talk_reading reading;
    int64_t found, shown; /* frames whose records are there; of these, given to the model again */
    int64_t read;         /* of these, read again */
    bool refitted;
    rebuild_gap missing; /* not to be had */
    rebuild_gap refused; /* by the model, of those that were given to it */
} rebuild_source;

/* ic_talk_reread.c: a file that is read again. */
typedef enum reread_verdict { REREAD_WAIT, REREAD_FRAME, REREAD_NONE } reread_verdict;

/* The frame of source s at that time, fitted to the grid; NONE: *why (valid until the next call)
 * says why there is none. Starts the reading, and ends that of another source. */
reread_verdict talk_reread_frame(talk *t, rebuild_source *s, int64_t pts_us, const ic_grid *grid,
                                 bool image, ic_frame **frame, const char **why);
void talk_reread_free(talk *t);

#endif
