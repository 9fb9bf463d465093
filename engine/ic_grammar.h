/* ic_grammar: how a model family writes down a conversation. It only appends.
 *
 * A family is known by the hash of its chat template; an unknown template is refused unless one is
 * named. No Jinja. The rows given out, one after the other, are at every moment what the template
 * and processor of the family give for the equivalent conversation (tested against
 * apply_chat_template: tests/golden/chats).
 *
 * Text between two special tokens is one stretch for the tokenizer: "user\n<0.2 seconds>" or "And
 * now? <3.0 seconds>" are cut into tokens as a whole, and " <" may be one token of both parts. So
 * the grammar holds the text of a stretch back, and its rows come out with the special token that
 * ends it (of an image, a frame group, the turn's end). What is held back is never more than the
 * text of the open user turn since its last picture. A special token that a person types is plain
 * text: nobody can forge a turn.
 *
 * Turns: start -> [system] -> user open <-> (frames, image, text) -> ask -> assistant open ->
 * answered -> user open ... A call out of turn is IC_EINVAL (IC_EBUSY while an answer is open) and
 * changes nothing. After any other failure the state is undefined until it is loaded again.
 *
 * One ic_grammar_state per session (single owner); the ic_grammar is read-only and shared.
 */
#ifndef IC_GRAMMAR_H
#define IC_GRAMMAR_H

#include "base/ic_buf.h"
#include "engine/ic_tokenizer.h"

typedef struct ic_grammar ic_grammar;

/* family: NULL to know it by the template in <dir> (chat_template.jinja, chat_template.json or
 * tokenizer_config.json), or a name such as "qwen3-vl". Borrows the tokenizer for the grammar's
 * life. Caller owns *out. */
IC_MUST_CHECK int ic_grammar_open(ic_grammar **out, const char *dir, const char *family,
                                  const ic_tokenizer *t, ic_error *e);
void ic_grammar_close(ic_grammar **g_p);
const char *ic_grammar_family(const ic_grammar *g); /* Borrows */
/* The token that ends a turn, which the model itself writes as a rule. */
int32_t ic_grammar_turn_end(const ic_grammar *g);

/* One row to be: its token id, and what the cache needs to know of it. */
typedef struct ic_grammar_row {
    int32_t id;
    uint8_t kind;   /* IC_ROW_TEXT, IC_ROW_VISION, IC_ROW_MARKER (kernels/ic_slab.h) */
    uint8_t pinned; /* the first turn's opening tokens and the system turn */
    uint32_t group; /* vision and markers: number of the frame group or image in the session, from
                       1; else 0. Markers: the timestamp's tokens (not one shared with the text
                       before it) and the two tokens around the vision rows */
    int32_t patch;  /* vision: index of the token inside its group, row-major over the group's grid;
                       else -1 */
} ic_grammar_row;

typedef struct ic_grammar_rows { /* growable; zero it to start; Caller owns, ic_grammar_rows_fini */
    ic_grammar_row *row;
    int count, capacity;
} ic_grammar_rows;
void ic_grammar_rows_fini(ic_grammar_rows *r);

typedef struct ic_grammar_state ic_grammar_state;
ic_grammar_state *ic_grammar_state_new(const ic_grammar *g);
void ic_grammar_state_destroy(ic_grammar_state **s_p);
/* A copy of everything that has been held back and counted, for checkpoints. IC_EFORMAT when
 * loading bytes that are no such copy. */
int ic_grammar_state_save(const ic_grammar_state *s, ic_buf *out);
IC_MUST_CHECK int ic_grammar_state_load(ic_grammar_state *s, ic_cursor *in, ic_error *e);

/* Each appends the rows that are settled by it to `out` (maybe none: text is held back). */
IC_MUST_CHECK int ic_grammar_system(ic_grammar_state *s, const char *text, ic_grammar_rows *out,
                                    ic_error *e);
/* A temporal pair of a video at `seconds` on the source's clock (the mean of the pair; written with
 * one decimal), grid of tokens h x w. Opens the user turn if none is open. *group gets its number.
 */
IC_MUST_CHECK int ic_grammar_frames(ic_grammar_state *s, double seconds, int grid_h, int grid_w,
                                    uint32_t *group, ic_grammar_rows *out, ic_error *e);
IC_MUST_CHECK int ic_grammar_image(ic_grammar_state *s, int grid_h, int grid_w, uint32_t *group,
                                   ic_grammar_rows *out, ic_error *e);
/* UTF-8; together at most IC_TOKENIZER_MAX_TEXT in one stretch, else IC_ELIMIT. */
IC_MUST_CHECK int ic_grammar_text(ic_grammar_state *s, const char *text, ic_grammar_rows *out,
                                  ic_error *e);
/* Text outside of all turns, tokenised by itself. IC_EBUSY in a turn. */
IC_MUST_CHECK int ic_grammar_raw(ic_grammar_state *s, const char *text, ic_grammar_rows *out,
                                 ic_error *e);
/* Closes the user turn and opens the assistant's: afterwards the model may speak. */
IC_MUST_CHECK int ic_grammar_ask(ic_grammar_state *s, ic_grammar_rows *out, ic_error *e);
/* The answer has ended; `last` is the last token that went into the cache (a stop token or not; -1
 * for none). Gives the missing closers, so that the cache holds what the template would. */
IC_MUST_CHECK int ic_grammar_answered(ic_grammar_state *s, int32_t last, ic_grammar_rows *out,
                                      ic_error *e);

#endif
