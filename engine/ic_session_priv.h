/* ic_session_priv: what the files of the engine know of a session. */
#ifndef IC_SESSION_PRIV_H
#define IC_SESSION_PRIV_H

#include "engine/ic_engine_priv.h"
#include "engine/ic_policy.h"
#include "engine/ic_session.h"
#include "engine/ic_stream_clock.h"

typedef enum ic_input_kind {
    IC_INPUT_SYSTEM,
    IC_INPUT_TEXT,
    IC_INPUT_GROUP, /* a temporal pair of a video */
    IC_INPUT_IMAGE,
    IC_INPUT_ASK,
    IC_INPUT_CLOSE, /* what the template wants after an answer */
    IC_INPUT_RAW,   /* text outside of all turns */
    IC_INPUT_KINDS
} ic_input_kind;

typedef struct ic_input {
    ic_input_kind kind;
    char *text;                     /* or NULL */
    ic_frame *frame[IC_FRAMES_MAX]; /* or NULL; both may be the same frame */
    ic_grid grid;
    ic_sampling sampling; /* of an ask */
    bool cancelled, told; /* of an ask: before it began; its end has been told */
} ic_input;

void ic_input_fini(ic_input *in);
uint64_t ic_input_bytes(const ic_input *in); /* of frames, each counted once */
int ic_input_frames(const ic_input *in);     /* the same */

typedef enum ic_answer_phase {
    IC_ANSWER_NONE,
    IC_ANSWER_PROMPT,   /* the ask's rows are going in */
    IC_ANSWER_DECODING, /* tokens come */
    IC_ANSWER_CLOSING,  /* it has ended: its last token and the closers go in */
    IC_ANSWER_PHASES
} ic_answer_phase;

typedef struct ic_answer {
    ic_answer_phase phase;
    ic_sampling sampling;
    bool cancelled;  /* it ends after the tokens shown and forced so far */
    bool told;       /* its end has been told */
    int32_t last;    /* shown and not yet in the cache; -1: none */
    int32_t entered; /* the last of its tokens that is in the cache; -1: none */
    uint32_t tokens; /* shown so far */
    int32_t *forced; /* the next tokens, instead of sampled ones */
    int forced_count, forced_at;
} ic_answer;

struct ic_session {
    /* immutable after new */
    ic_engine *engine;
    ic_session_config config;
    const ic_policy *policy;
    /* the cache and what has gone in */
    ic_slab *slab;
    ic_grammar_state *grammar;
    uint8_t *seen; /* bitmap of vocab tokens */
    int pinned;    /* rows pinned so far */
    bool turn_open;
    ic_session_stats stats; /* counters only; the rest is computed when asked for */
    ic_stream_clock clock;
    /* what waits, in order */
    ic_input *queue;
    int queue_count, queue_capacity;
    ic_input half; /* the first frame of a pair; half.frame[0] NULL: none */
    /* the input that is going in */
    bool open;
    ic_input current;
    ic_grammar_rows rows;
    int at;       /* rows of it that are in the cache */
    bool encoded; /* its group's rows are in level */
    void *level_data;
    ic_mat level[IC_EMBED_LEVELS]; /* [group_tokens_max, hidden] each */
    void *window_data;
    ic_mat *window; /* [layers], each [config.window, heads * head_dim]: queries of the retrieval
                       window as far as it has come; NULL: the policy has none */
    /* The last queries of questions, the oldest replaced first: what looks at every eviction. */
    ic_mat *asked;              /* as window; NULL: the policy keeps none */
    int asked_rows, asked_next; /* rows there are; where the next goes */
    ic_answer answer;
    bool evicts;  /* within a step: `plan` is due */
    ic_plan plan; /* what is to stay then */
    bool loading; /* between load_state and load_finish */
};

ic_slab_desc ic_session_slab_desc(const ic_engine *engine, const ic_session_config *c);
/* Bytes that a session takes of a device's own memory; 0: it has none. */
size_t ic_session_device_memory(const ic_engine *engine, const ic_session_config *config);
/* Bytes that it takes of the host's. */
size_t ic_session_host_memory(const ic_engine *engine, const ic_session_config *config);
int ic_session_level_count(const ic_session *s);
int ic_session_group_tokens(const ic_engine *engine, const ic_session_config *c);

/* Gives settings that were once unknown the values that they stood for then. */
void ic_session_config_forget_later(ic_session_config *c);

/* --- one slice, ic_chunk.c ----------------------------------------------------------------------
 */

typedef struct ic_work { /* what a slice does in this step; zero: nothing */
    bool encode;         /* the current input's group goes through the vision tower first */
    int rows;            /* prefill rows of the current chunk, from s->at */
    bool decode;         /* one decode row: answer.last */
    bool token;          /* a token of the answer comes after these rows */
    bool logits;         /* it is sampled, not forced */
} ic_work;

/* Decides what this slice does; tells the end of a cancelled or refused answer. Opens the next
 * input when nothing is going in. A failure is told in the slice. A plan may be due then, to be
 * carried out before the work begins. */
void ic_chunk_plan(ic_session *s, int max_rows, ic_work *work, ic_slice *slice);
/* Row number i of the work as the cache is to know it, and its token. */
void ic_chunk_row(const ic_session *s, const ic_work *work, int i, ic_row *row, int32_t *id);
/* Which of the work's rows belong to the retrieval window of their chunk. */
void ic_chunk_window(const ic_session *s, const ic_work *work, ic_model_slice *slice);
/* Rows of the window that earlier slices have left in s->window. */
int ic_chunk_window_held(const ic_session *s);
/* The work's rows are in the cache: counts them. At a chunk's end a plan may be due. */
void ic_chunk_advance(ic_session *s, const ic_work *work);
/* Hands out the plan that is due, for ic_slab_evict_each; false: none is. */
bool ic_chunk_due(ic_session *s, ic_eviction *due);
/* It has been carried out. */
void ic_chunk_evicted(ic_session *s, const ic_eviction *done);
/* It could not be, and was to make room for this work of ic_chunk_plan: an answer that goes on ends
 * here. */
void ic_chunk_stuck(ic_session *s, int rc, ic_work *work, ic_slice *slice);
/* What is no longer held of all rows that went in: mean over the heads. */
void ic_chunk_count_evicted(ic_session *s);
/* The work's rows found no slots: drops the input that is going in, and the answer. */
void ic_chunk_abandon(ic_session *s, ic_slice *slice);
/* The answer's next token is this one. */
void ic_chunk_token(ic_session *s, int32_t token, ic_slice *slice);
/* The next forced token, taken from the list. */
int32_t ic_chunk_forced(ic_session *s);

#endif
