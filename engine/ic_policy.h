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
/* Rows of the retrieval window, and newest frame groups that stay, where nothing is said. */
enum { IC_POLICY_WINDOW = 32, IC_POLICY_FRAMES = 4 };

/* Settings that a policy can have a use for, as sets. */
#define IC_USES(setting) (UINT32_C(1) << (setting))
#define IC_USES_SINKS    IC_USES(IC_SET_SINKS)
#define IC_USES_RECENT   IC_USES(IC_SET_RECENT)
#define IC_USES_SCORES                                                                             \
    (IC_USES(IC_SET_WINDOW) | IC_USES(IC_SET_SMOOTH) | IC_USES(IC_SET_POOL)                        \
     | IC_USES(IC_SET_PER_LAYER))

typedef struct ic_policy {
    const char *name;
    ic_score_kind score; /* what its plans choose by */
    /* Its own values of the settings of that name (ic_session_config), where nothing else is said.
     */
    int recent_pct, bias_pct, smooth_pct, pool;
    int frame_unit;                                    /* 0: tokens */
    int frames;                                        /* 0: IC_POLICY_FRAMES */
    int questions, thin, fade_pct, care_pct, text_pct; /* 0: none */
    /* Those of its values that go by the budget, where nothing else is said. NULL: none do. */
    void (*settle)(ic_session_config *c);
    uint32_t settings; /* that it has a use for: IC_USES */
    /* What is to stay. NULL: everything; then `refuse` says what does not fit. */
    void (*plan)(const ic_session_config *c, ic_plan *plan);
    /* IC_ELIMIT when `rows` more rows do not fit beside `used`. NULL: room is made. */
    int (*refuse)(const ic_session_config *c, int used, int64_t rows, ic_error *e);
    bool every_chunk; /* the plan is carried out at each chunk's end, not only above the budget */
    bool every_token; /* an answer evicts at the budget, not when its slack is gone */
} ic_policy;

extern const ic_policy ic_policy_full;
extern const ic_policy ic_policy_streaming;
extern const ic_policy ic_policy_saddle;
extern const ic_policy ic_policy_saddle_paper;
extern const ic_policy ic_policy_window;
extern const ic_policy ic_policy_h2o;
extern const ic_policy ic_policy_snapkv;
extern const ic_policy ic_policy_recent_frames;
extern const ic_policy ic_policy_cascade;
extern const ic_policy ic_policy_corm;

/* The policy of that name; NULL if none. Borrows: static. */
const ic_policy *ic_policy_find(const char *name);
/* "full, streaming, ...": for error messages. Borrows: static. */
const char *ic_policy_names(void);
/* Replaces what is left to the policy by its own values. Settled settings stay as they are. */
void ic_policy_settle(ic_session_config *c);

/* May `rows` more rows go in, all of one input, when `used` are held? */
int ic_policy_admit(const ic_policy *p, const ic_session_config *c, int used, int64_t rows,
                    ic_error *e);
/* A chunk has ended with `used` rows held: true, and the plan, when it is to be carried out. */
bool ic_policy_chunk_end(const ic_policy *p, const ic_session_config *c, int used, ic_plan *plan);
/* An answer wants one more row. *evict: carry out the plan first. An error ends the answer. */
int ic_policy_answer_row(const ic_policy *p, const ic_session_config *c, int used, bool *evict,
                         ic_plan *plan, ic_error *e);
/* What the session's scores are: its policy's, or, where questions look again, peaks. */
ic_score_kind ic_policy_score(const ic_session_config *c);
/* Rows of the budget that recent_pct is. */
int ic_policy_recent(const ic_session_config *c);

#endif
