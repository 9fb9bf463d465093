/* ic_session_held: what a session still holds, for people: how many slots for the system turn,
 * sinks, text and frames, frames by the time at which they were shown, and what is left of the
 * session from its first token to its newest.
 *
 * Heads keep different rows. Counts of rows are means over all layers and kv heads, rounded; a
 * group counts as held where some head holds a patch of it. Time runs as the sources' clocks do; a
 * source that begins earlier than the last one ended goes behind it.
 */
#ifndef IC_SESSION_HELD_H
#define IC_SESSION_HELD_H

#include "engine/ic_session.h"

enum { IC_HELD_SPANS = 12, IC_HELD_BINS = 64 };

typedef struct ic_held_span {
    int64_t from_us, to_us; /* to_us not included */
    int groups, tokens;
} ic_held_span;

typedef struct ic_held_bin { /* an equal part of the session's tokens: shares that are held */
    float text, vision;      /* text: markers and pinned rows too */
} ic_held_bin;

typedef struct ic_session_held {
    uint64_t tokens;                         /* that ever went in */
    uint64_t evicted_tokens, evicted_groups; /* tokens: mean over the heads; groups: in all heads */
    uint64_t groups_seen;                    /* frame groups and images */
    int64_t stream_us;                       /* time of the newest group */
    int used, budget, slots;                 /* used: of the fullest head */
    int heads;                               /* layers times kv heads */
    int pinned, sinks, text, vision, markers;
    int groups;
    int span_count; /* 0: no frames, or their times are not known */
    ic_held_span spans[IC_HELD_SPANS];
    ic_held_bin bins[IC_HELD_BINS];
} ic_session_held;

/* Reads all slot tables: a few milliseconds of a large cache. IC_ENOMEM. Owner of the lease. */
IC_MUST_CHECK int ic_session_held_of(const ic_session *s, ic_session_held *held, ic_error *e);
/* As bytes, for a checkpoint's head. Load: IC_EFORMAT, *held empty. */
int ic_session_held_save(const ic_session_held *held, ic_buf *out);
IC_MUST_CHECK int ic_session_held_load(ic_session_held *held, ic_cursor *in, ic_error *e);

#endif
