/* ic_session: one conversation inside the engine: its cache, what waits to go in, and the answer
 * being made.
 *
 * Single owner: whoever holds the lease. Functions here never compute; ic_engine_step does. Inputs
 * wait in order of arrival and are cut into policy chunks (a turn, a frame group, or chunk_max rows
 * of one): a pure function of the inputs and the configuration, never of the scheduling. At a
 * chunk's end the policy evicts.
 */
#ifndef IC_SESSION_H
#define IC_SESSION_H

#include "engine/ic_engine.h"
#include "kernels/ic_slab.h"

typedef enum ic_positions {
    IC_POSITIONS_COMPACT, /* counted inside the cache: what is evicted takes no room */
    IC_POSITIONS_ORIGINAL /* as the rows came, with gaps; ends at the trained length */
} ic_positions;

typedef enum ic_frame_unit {
    IC_FRAME_TOKENS = 1, /* patches stay and leave one by one */
    IC_FRAME_WHOLE       /* the patches of a frame group stay or leave together */
} ic_frame_unit;

struct ic_session_config {
    char policy[24];            /* a name that ic_policy_names lists */
    int cache_tokens;           /* budget between chunks */
    int chunk_max;              /* rows of one chunk at most */
    int slack;                  /* rows that an answer may add before it evicts */
    int sinks;                  /* oldest rows that streaming keeps besides the pinned ones */
    int pinned_max;             /* cap of pinned rows, within the budget */
    ic_dtype kv_dtype;          /* IC_F32 or IC_BF16 */
    uint64_t pending_bytes_max; /* frames that wait; IC_EAGAIN beyond */
    int group_tokens_max; /* of one frame group or image: room for its embeddings is kept; 0: as the
                             default */
    /* Settings of policies; 0 leaves a setting to the policy (docs/policies.md). Ours, all. */
    int window;     /* last rows of a chunk whose attention scores the others: L; 0: 32 */
    int recent_pct; /* of the budget, for the newest rows (recent-frames: for text); -1: none */
    int bias_pct;   /* lambda of the age bias in hundredths; -1: none */
    int smooth_pct; /* of the old score in a row's new one; -1: none */
    int pool;       /* scores are means over so many neighbours; odd; 1: none */
    int per_layer;  /* 1: all kv heads of a layer keep the same rows; 0: each its own */
    int questions;  /* last rows of each question that look again at every eviction; -1: none */
    int thin;       /* rows that stay of a frame group when it is not among the newest; -1: any */
    int fade_pct;   /* of older frame groups the fewer: the power of age in hundredths; -1: 0 */
    int care_pct;   /* weight of the scores in choosing older frame groups; -1: none */
    int text_pct;   /* of the budget, for the newest text before older frame groups; -1: none */
    int frames;     /* newest groups that stay whole; 0 leaves it to the policy */
    int positions;  /* ic_positions */
    int frame_unit; /* ic_frame_unit; 0 leaves it to the policy */
};

/* Sensible values for this model: budget cache_tokens (0: a default within the trained length). */
void ic_session_config_default(const ic_engine *engine, int cache_tokens,
                               ic_session_config *config);

/* The settings of policies by number: bits of a set are 1 << IC_SET_... */
typedef enum ic_setting {
    IC_SET_SINKS,
    IC_SET_WINDOW,
    IC_SET_RECENT,
    IC_SET_BIAS,
    IC_SET_SMOOTH,
    IC_SET_POOL,
    IC_SET_PER_LAYER,
    IC_SET_FRAMES,
    IC_SET_POSITIONS,
    IC_SET_FRAME_UNIT,
    IC_SET_QUESTIONS,
    IC_SET_THIN,
    IC_SET_FADE,
    IC_SET_CARE,
    IC_SET_TEXT,
    IC_SETTINGS
} ic_setting;
const char *ic_setting_name(ic_setting setting); /* Borrows: static */
/* Replaces what is left to the policy by the policy's own values. Settled ones stay. */
void ic_session_config_settle(ic_session_config *c);
/* The same with the values that policies had when these settings were not written down yet. */
void ic_session_config_settle_old(ic_session_config *c);
/* Copies the settings of the set `given`. */
void ic_session_config_take(ic_session_config *to, const ic_session_config *from, uint32_t given);
/* IC_EINVAL names the first setting of the set that the policy has no use for. */
IC_MUST_CHECK int ic_session_config_check_used(const ic_session_config *c, uint32_t given,
                                               ic_error *e);
/* The set of settings that its policy has a use for. */
uint32_t ic_session_config_used(const ic_session_config *c);
/* Settings as bytes, a count first: a later build reads what an earlier one wrote; what that did
 * not know is as it was then. IC_EVERSION: more than this build knows; IC_EFORMAT. */
int ic_session_config_save_settings(const ic_session_config *c, ic_buf *out);
IC_MUST_CHECK int ic_session_config_load_settings(ic_session_config *c, ic_cursor *in, ic_error *e);
/* What differs, as text: "window 32, now 16; pool 15, now 1"; empty: nothing does. */
void ic_session_config_differ(const ic_session_config *was, const ic_session_config *is, char *text,
                              size_t size);

/* IC_EINVAL names what is out of range, as ic_session_new would. Any thread. */
IC_MUST_CHECK int ic_session_config_check(const ic_engine *engine, const ic_session_config *config,
                                          ic_error *e);

/* Allocates the whole cache, prefaulted. IC_EINVAL names what is out of range; IC_ENOMEM. Caller
 * owns *out. Owner thread of the engine (device memory). */
IC_MUST_CHECK int ic_session_new(ic_session **out, ic_engine *engine,
                                 const ic_session_config *config, ic_error *e);
void ic_session_destroy(ic_session **s_p);
size_t ic_session_memory(const ic_engine *engine,
                         const ic_session_config *config); /* bytes that _new takes; exact */
const ic_session_config *ic_session_config_of(const ic_session *s);

/* --- input
 * ------------------------------------------------------------------------------------------------
 */

IC_MUST_CHECK int ic_session_system(ic_session *s, const char *text,
                                    ic_error *e); /* first of all, or IC_EINVAL */
/* A fitted frame (ic_engine_fit_frame) at pts_us of its source; two make a group. Takes the frame,
 * success or failure. IC_EAGAIN, nothing taken in, when pending_bytes_max is reached: step first
 * (the frame is given back: *frame stays). */
IC_MUST_CHECK int ic_session_frame(ic_session *s, ic_frame **frame, const ic_grid *grid,
                                   ic_error *e);
/* The source has ended or jumped: a half pair is completed by repeating its frame. */
IC_MUST_CHECK int ic_session_frames_end(ic_session *s, ic_error *e);
IC_MUST_CHECK int ic_session_image(ic_session *s, ic_frame **frame, const ic_grid *grid,
                                   ic_error *e);
/* Text of the user turn, which stays open. */
IC_MUST_CHECK int ic_session_text(ic_session *s, const char *text, ic_error *e);
/* Text as it is, outside of all turns and templates, tokenised by itself: a plain stream for a
 * language model (bench). IC_EBUSY in a turn that is open. */
IC_MUST_CHECK int ic_session_raw(ic_session *s, const char *text, ic_error *e);
/* Closes the user turn with this text and lets the model answer. IC_EBUSY while an answer is going
 * on or waits. */
IC_MUST_CHECK int ic_session_ask(ic_session *s, const char *text, const ic_sampling *sampling,
                                 ic_error *e);
/* The next tokens of the answer are these, not sampled (replay of what was shown). Copied. */
IC_MUST_CHECK int ic_session_force(ic_session *s, const int32_t *tokens, int count, ic_error *e);
/* Ends the answer after the tokens shown and forced so far; the closers are appended. No answer:
 * nothing. Every token shown enters the cache in the same way, whatever ended its answer: so ask,
 * force (the tokens shown) and cancel rebuild any turn of the past to the bit. */
int ic_session_cancel(ic_session *s);

/* --- what it is doing
 * ----------------------------------------------------------------------------------- */

typedef struct ic_session_stats {
    uint64_t tokens;         /* rows that ever went in: next ordinal */
    uint64_t evicted_tokens; /* of these, no longer held: mean over the heads, rounded down */
    uint64_t evicted_groups;
    uint64_t frames; /* frames taken in */
    uint64_t groups; /* frame groups and images encoded */
    uint64_t turn;   /* answers begun */
    int cache_used, cache_tokens, cache_slots;
    int pending_rows, pending_groups; /* not computed yet */
    uint64_t pending_bytes;
    bool answering;    /* asked, and the answer has not ended */
    bool decoding;     /* its prompt is in; tokens come */
    int answer_tokens; /* of the current or last answer */
    int prompt_tokens; /* rows of the current or last turn's input */
    int cached_tokens; /* rows of the cache when that turn began */
} ic_session_stats;
void ic_session_stats_of(const ic_session *s, ic_session_stats *stats);
bool ic_session_is_ready(const ic_session *s); /* a step would move it on */
ic_slab *ic_session_slab(ic_session *s);       /* Borrows; tests and bench */

/* --- checkpoints
 * ------------------------------------------------------------------------------------------- The
 * state (tables, grammar, sampler, answer in progress, counters; frames and rows that wait are
 * saved too if small, else IC_EBUSY: see pending_groups) is written whole; cache rows only once.
 * The bytes carry a version. A session in mid-answer may be saved: between steps everything is
 * consistent. */
enum { IC_SESSION_STATE_VERSION = 3, IC_SESSION_STATE_OLDEST = 2 }; /* read */
IC_MUST_CHECK int ic_session_save_state(const ic_session *s, ic_buf *out, ic_error *e);
/* As ic_slab_save_rows: pieces of at most about max_bytes; *cursor starts at 0. */
IC_MUST_CHECK int ic_session_save_rows(const ic_session *s, bool all, uint64_t *cursor,
                                       size_t max_bytes, ic_buf *out, bool *more);
/* As ic_slab_begin_save and ic_slab_save_rest: the session may be stepped between the pieces; the
 * state is saved when no rows are left, before the next step. */
void ic_session_begin_save(ic_session *s);
IC_MUST_CHECK int ic_session_save_rest(const ic_session *s, bool all, size_t max_bytes, ic_buf *out,
                                       bool *more);
void ic_session_mark_saved(ic_session *s);
uint64_t ic_session_live_bytes(const ic_session *s);
/* Meaning of this session's bytes, hex: the engine's meaning, policy, settings and layout. A
 * checkpoint of another meaning is refused by the caller before loading. */
void ic_session_meaning(const ic_engine *engine, const ic_session_config *config, char hex[33]);
/* Rebuilds a session from a state and its pieces: new from config, load_state, load_rows for each
 * piece in order, load_finish. Until finish has returned IC_OK the session may only be destroyed.
 */
IC_MUST_CHECK int ic_session_load_state(ic_session *s, const void *state, size_t bytes,
                                        ic_error *e);
IC_MUST_CHECK int ic_session_load_rows(ic_session *s, const void *piece, size_t bytes, ic_error *e);
IC_MUST_CHECK int ic_session_load_finish(ic_session *s, ic_error *e);

#endif
