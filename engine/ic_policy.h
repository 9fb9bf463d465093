/* ic_policy: what a session keeps when its cache is full.
 *
 * A policy is a name, a few decisions and a plan; kernels carry the plan out (ic_slab_evict). Its
 * decisions are pure functions of the configuration and of how many rows lie in the cache, so that
 * the kept set depends on the session's input alone. One small file each builds its plan and names
 * its source.
 */
#ifndef IC_POLICY_H
#define IC_POLICY_H

#include "engine/ic_session.h"

/* Rows that an answer leaves free for the closers of its turn, under a policy that cannot evict. */
enum { IC_POLICY_CLOSERS = 8 };

typedef struct ic_policy {
    const char *name;
    /* May `rows` more rows go in, all of one input, when `used` are held? */
    int (*admit)(const ic_session_config *c, int used, int64_t rows, ic_error *e);
    /* A chunk has ended with `used` rows held: true, and the plan, when some must go. */
    bool (*chunk_end)(const ic_session_config *c, int used, ic_plan *plan);
    /* An answer wants one more row. *evict: carry out the plan first. An error ends the answer. */
    int (*answer_row)(const ic_session_config *c, int used, bool *evict, ic_plan *plan,
                      ic_error *e);
} ic_policy;

extern const ic_policy ic_policy_full;
extern const ic_policy ic_policy_streaming;

/* The policy of that name; NULL if none. Borrows: static. */
const ic_policy *ic_policy_find(const char *name);
/* "full, streaming": for error messages. Borrows: static. */
const char *ic_policy_names(void);

#endif
