/* ic_test_session: golden models, golden cases fed turn by turn as a service would feed them, and
 * sessions stepped in batches; every row's token and logits are written down. */
#ifndef IC_TEST_SESSION_H
#define IC_TEST_SESSION_H

#include <jansson.h>

#include "engine/ic_session.h"
#include "ic_test_npy.h"

/* What went through a session: rows in order of their ordinals. */
typedef struct ic_test_log {
    const ic_session *session;
    int vocab, rows, capacity;
    int32_t *ids;  /* [rows] */
    float *logits; /* [rows, vocab] */
    int32_t answer[4096];
    int answer_count; /* tokens shown, of all answers that were not forced */
    ic_finish finish; /* the last one */
    int failures;
    ic_error failure;
} ic_test_log;

/* The device that engines of tests run on: "cpu", or what INFCHAT_TEST_DEVICE names. */
const char *ic_test_device(void);
int ic_test_device_is_there(void); /* prints which it is, or why not */

/* tests/golden/models/<model>, on one thread unless said; dtype NULL: auto. Fails the test. */
ic_engine *ic_test_engine(const char *model, const char *dtype, int threads);
/* The small one that most tests of sessions use: one that never stops, and (grid not NULL) the grid
 * of 48 x 32 pixels for its frames. */
ic_engine *ic_test_engine_small(ic_grid *grid);
/* Stop tokens end no answer any more, as in the goldens' greedy runs. */
void ic_test_engine_never_stop(ic_engine *engine);
/* A session of this budget; policy NULL: the default. */
ic_session *ic_test_session(ic_engine *engine, const char *policy, int cache_tokens);
ic_sampling ic_test_greedy(int max_tokens);
ic_sampling ic_test_drawn(int max_tokens); /* from a seed, far from what is likeliest */

void ic_test_log_init(ic_test_log *log, const ic_session *s, int vocab);
void ic_test_log_fini(ic_test_log *log);
/* From now on the engine writes to the log of each session. NULL: off. */
void ic_test_watch(ic_engine *engine, ic_test_log *logs, int count);

/* Steps all sessions until none is ready. rows: prefill rows of a slice, or 0: random ones from
 * *seed, with a random choice of sessions in each step. */
void ic_test_pump(ic_engine *engine, ic_test_log *logs, int count, int rows, unsigned *seed);

/* What one session says, without a log. */
typedef struct ic_test_shown {
    int32_t token[128];
    int count;
    ic_finish finish; /* the last one */
} ic_test_shown;
/* At most so many steps of 9 rows, while there is something to do; returns how many. */
int ic_test_steps(ic_engine *engine, ic_session *s, int steps, ic_test_shown *out);
/* A session that an answer with this sampling has gone through, up to its limit. */
ic_session *ic_test_session_answered(ic_engine *engine, const char *policy, int cache_tokens,
                                     const ic_sampling *sampling);
/* Fails the test unless both, saved, are the same to the bit: slots included. */
void ic_test_expect_same(ic_session *a, ic_session *b);

typedef struct ic_test_case {
    char name[64];
    json_t *json; /* case.json */
    char model[64];
    ic_npy input_ids, position_ids, mm_types, logit_rows, logits, greedy;
    ic_npy images[8], videos[8];
} ic_test_case;

void ic_test_case_load(ic_test_case *c, const char *name);
void ic_test_case_fini(ic_test_case *c);
int ic_test_case_turns(const ic_test_case *c); /* answers, the last one is open */
/* Queues what belongs to one turn: the user's parts and the ask; a turn of the past with its answer
 * forced and ended. */
void ic_test_case_turn(const ic_test_case *c, ic_session *s, int turn, const ic_sampling *last);
/* All turns, pumped with slices of `rows`. */
void ic_test_case_run(const ic_test_case *c, ic_engine *engine, ic_test_log *log, int rows,
                      const ic_sampling *last);

/* A frame of one colour with a mark that depends on n, at pts_us; fitted to the grid. */
ic_frame *ic_test_frame(const ic_grid *grid, int n, int64_t pts_us);

#endif
