/* ic_engine: a loaded model on a device, and the one call that does the work: a step over a batch
 * of slices.
 *
 * The engine owns weights, tokenizer, grammar and scratch. Opening and stepping belong to one
 * thread (the scheduler's); functions marked "any thread" read only what is immutable after open.
 *
 * A session (ic_session.h) holds a cache and inputs that wait. Each slice of a step moves one
 * session on by at most `max_rows` rows: encodes a frame pair, prefills rows of a policy chunk, or
 * decodes one token. All decode rows of a step run as one batch; matrix products run over all rows,
 * attention per session. However the slices are cut and batched, a session's tokens are the same
 * (ic_device_info.batch_exact).
 */
#ifndef IC_ENGINE_H
#define IC_ENGINE_H

#include "base/ic_frame.h"
#include "engine/ic_grammar.h"
#include "engine/ic_sampler.h"
#include "engine/ic_tokenizer.h"
#include "kernels/ic_device.h"

typedef struct ic_engine ic_engine;
typedef struct ic_session ic_session;

typedef struct ic_engine_config {
    const char *model_dir;
    const char *device;   /* "cpu" or "cuda" */
    int threads;          /* CPU: 0 = one per core */
    const char *dtype;    /* "auto" (as stored; f16 computes as f32 on a CPU), "f32", "bf16" */
    const char *family;   /* prompt grammar by name; NULL: known by the template's hash */
    bool plain_loops;     /* the reference arithmetic; tests */
    int group_tokens_max; /* largest frame group or image, in tokens; 0: a default. Larger pictures
                             get a smaller grid */
} ic_engine_config;

typedef struct ic_engine_info { /* immutable after open */
    char architecture[64];
    char family[32];
    char model_name[96]; /* last part of the directory, for people */
    char meaning[33];    /* hex: weights, tokenizer, preprocessing, layout: DESIGN "meaning" without
                            the session's policy */
    char numerics[160];  /* device numerics and compute dtype */
    int layers, heads, kv_heads, head_dim, hidden, vocab;
    int trained_tokens; /* max_position_embeddings */
    int temporal;       /* frames in one group (2) */
    int patch_pixels;   /* side of one token's square of pixels (patch * merge) */
    double default_fps; /* of the video processor */
    int64_t weight_bytes;
    int64_t kv_bytes_per_token;
    ic_sampling sampling; /* defaults from generation_config.json */
    bool exact;           /* a session's tokens do not depend on batch or slicing */
} ic_engine_info;

IC_MUST_CHECK int ic_engine_open(ic_engine **out, const ic_engine_config *config, ic_error *e);
void ic_engine_close(ic_engine **e_p); /* Takes; after all sessions are destroyed */
const ic_engine_info *ic_engine_info_of(const ic_engine *engine); /* any thread; borrows */
const ic_tokenizer *ic_engine_tokenizer(const ic_engine *engine); /* any thread; borrows */

/* --- memory
 * -------------------------------------------------------------------------------------------- */

typedef struct ic_session_config ic_session_config;

/* Where a device's memory goes, in bytes; of a device that works in the host's: host alone. */
typedef struct ic_engine_room {
    size_t limit;   /* that may be used, all in all */
    size_t weights; /* as the model's files have them */
    size_t work;    /* what a step works in */
    size_t scratch; /* of operations, with sessions like these */
    size_t session; /* of each session: its cache with its tables, its frame's embeddings */
    size_t host;    /* of each session in the host's memory */
    int sessions;   /* that fit; at most as many as wanted */
} ic_engine_room;
/* How many sessions of this configuration the device holds beside what is there, up to `wanted`; a
 * session that has been counted is not refused later. Owner thread, before the first session. */
void ic_engine_fit(const ic_engine *engine, const ic_session_config *config, int wanted,
                   ic_engine_room *room);

/* --- frames: any thread
 * ------------------------------------------------------------------------------- */

typedef struct ic_grid { /* fixed when a source is opened */
    int width, height;   /* pixels after resizing, multiples of patch_pixels */
    int tokens_w, tokens_h;
} ic_grid;
/* The grid for frames of width x height under a budget of tokens per frame group (0: the
 * processor's own limits). IC_EINVAL for sizes or aspect ratios that the processor refuses. */
IC_MUST_CHECK int ic_engine_grid(const ic_engine *engine, int width, int height, int frame_tokens,
                                 bool video, ic_grid *grid, ic_error *e);
/* The grid that the processor gives a closed clip of `frames` frames: its limits are for the clip
 * as a whole. */
IC_MUST_CHECK int ic_engine_clip_grid(const ic_engine *engine, int width, int height, int frames,
                                      ic_grid *grid, ic_error *e);
/* The frame resized to the grid as the processor does (bicubic, antialias). Caller owns *out; the
 * frame is borrowed. Keeps pts and ordinal. A frame of that size already is returned with one more
 * reference. */
IC_MUST_CHECK int ic_engine_fit_frame(const ic_engine *engine, ic_frame *frame, const ic_grid *grid,
                                      ic_frame **out, ic_error *e);

/* --- the step: owner thread
 * --------------------------------------------------------------------------- */

typedef enum ic_progress {
    IC_PROGRESS_IDLE,  /* nothing waits in this session */
    IC_PROGRESS_INPUT, /* rows of input went in, or a frame pair was encoded */
    IC_PROGRESS_TOKEN, /* one token of the answer: `token` */
    IC_PROGRESS_FAILED /* `error`; the session's cache is as before the slice; the slice's input is
                          dropped */
} ic_progress;

typedef enum ic_finish {
    IC_FINISH_NONE,
    IC_FINISH_STOP,
    IC_FINISH_LENGTH,
    IC_FINISH_CANCEL,
    IC_FINISH_ERROR
} ic_finish;

typedef struct ic_slice {
    ic_session *session;
    int max_rows; /* of prefill, at least 1; a decode slice takes one row */
    /* results */
    ic_progress progress;
    int rows;                      /* text and vision rows computed */
    int frames;                    /* frame pairs encoded */
    int frames_in, frames_refused; /* frames of these; frames of an input that was dropped whole */
    int32_t token; /* IC_PROGRESS_TOKEN: the token now shown; it enters the cache at the next slice.
                      IC_FINISH_STOP comes with the stop token here and without IC_PROGRESS_TOKEN.
                      Else -1 */
    ic_finish finish; /* with a token or alone: the answer has ended; a stop token itself is not
                         part of the text */
    ic_error error;
} ic_slice;

/* Moves each slice's session on. A failing session is told in its slice; the return value speaks of
 * the device (IC_EDEVICE: all sessions are to be failed). Sessions are distinct. */
IC_MUST_CHECK int ic_engine_step(ic_engine *engine, ic_slice *slices, int count, ic_error *e);

/* For tests and bench: fn sees token and logits [vocab] of every row that is computed from now on,
 * prompt and answer, in the order of its session's rows. NULL: off. They are then computed for all
 * rows, which is slow. */
typedef void ic_logits_fn(void *arg, const ic_session *s, uint32_t ordinal, int32_t id,
                          const float *logits);
void ic_engine_watch_logits(ic_engine *engine, ic_logits_fn *fn, void *arg);

#endif
