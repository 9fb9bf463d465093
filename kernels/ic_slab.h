/* ic_slab: a session's KV cache: one piece of device memory of fixed size, and the table that says
 * what lies in each slot.
 *
 * Keys are kept after k-norm and before RoPE; their rotation comes from their position inside the
 * cache when they are read (docs/architecture.md, "One K format"). Memory: K [layers, kv_heads,
 * slots, head_dim], then V of the same shape. A filled row is never moved nor changed until its
 * slot is freed, and every layer and kv head has a table of its own, since selection may differ
 * there.
 *
 * Position rule (compact): a text or marker row stands at the cursor and moves it by 1. A vision
 * group (a run of vision rows of one group number) stands at the cursor with its (h, w) offsets and
 * moves it once by its `advance` = max(grid_h, grid_w). What has been evicted takes no room. With
 * nothing evicted this gives the position ids of transformers' Qwen3-VL get_rope_index exactly.
 * A slab that keeps original positions (ic_slab_keep_positions) leaves each row where it stood when
 * it came: what is evicted leaves a gap, and the cursor never goes back.
 *
 * Owner: whoever holds the session's lease. No lock.
 */
#ifndef IC_SLAB_H
#define IC_SLAB_H

#include "base/ic_buf.h"
#include "kernels/ic_device.h"

typedef enum ic_row_kind { IC_ROW_TEXT, IC_ROW_VISION, IC_ROW_MARKER } ic_row_kind;

/* What is known of one row (token) wherever it is kept. */
typedef struct ic_row {
    uint32_t ordinal; /* number of the token in its session, from 0; rises by 1 */
    uint32_t group;   /* 0: plain text; else the number of the frame group or image, from 1 */
    uint16_t h, w;    /* vision: place in the group's grid of tokens */
    uint16_t advance; /* vision: positions that the whole group takes; else 1 */
    uint8_t kind;   /* ic_row_kind; a marker is a timestamp or bracket that leaves with its group */
    uint8_t pinned; /* never evicted */
} ic_row;

typedef struct ic_pos {
    int32_t t, h, w;
} ic_pos;

typedef struct ic_slab_desc {
    int layers, kv_heads, head_dim;
    int slots; /* budget + chunk_max + slack */
    ic_dtype k_dtype, v_dtype;
} ic_slab_desc;

typedef struct ic_slab ic_slab;

IC_MUST_CHECK int ic_slab_new(ic_slab **out, ic_device *d, const ic_slab_desc *desc, ic_error *e);
void ic_slab_destroy(ic_slab **s_p);
const ic_slab_desc *ic_slab_desc_of(const ic_slab *s);
size_t ic_slab_bytes(
    const ic_slab_desc *desc); /* device memory of a slab with its tables: exact, allocated once */

size_t ic_slab_table_bytes(const ic_slab_desc *desc); /* of that, the tables */
/* Device memory of a slab on a device with memory of its own, scores included; 0 elsewhere. */
size_t ic_slab_device_bytes(const ic_device *d, const ic_slab_desc *desc);

/* Gives a slot to each of the rows in every layer and kv head, in order; lowest free slot first, so
 * that the outcome is a pure function of the history. K and V of the new rows are to be stored
 * (ic_slab_store) before they are read. IC_ELIMIT, nothing changed, when some head lacks free
 * slots. */
IC_MUST_CHECK int ic_slab_append(ic_slab *s, const ic_row *rows, int count, ic_error *e);

/* Writes K and V of rows [first, first + k->rows) counted among the last `appended` appended rows.
 * k, v: [rows, kv_heads * head_dim], converted to the slab's dtypes. */
int ic_slab_store(ic_slab *s, int layer, int appended, int first, const ic_mat *k, const ic_mat *v);
/* The same for the last row of each of n slabs of one shape: row i of k and v is slabs[i]'s. */
int ic_slab_store_each(ic_slab *const *slabs, int n, int layer, const ic_mat *k, const ic_mat *v);

/* Forgets the last `count` appended rows in every head (an aborted slice). */
void ic_slab_drop_last(ic_slab *s, int count);

/* --- scores -------------------------------------------------------------------------------------
 * What attention writes down about each row, per layer and kv head, for plans that choose by it. */
typedef enum ic_score_kind {
    IC_SCORE_NONE,
    IC_SCORE_WINDOW, /* attention that the last scored window paid to the row, mean over the rows
                        that see it and over the query heads; -1: none has seen it yet */
    IC_SCORE_SUM,    /* all attention paid to the row since it came, mean over the query heads */
    IC_SCORE_VOTES,  /* share of the last window's queries that see the row and pay it at least one
                        part in as many as they see, over the query heads; -1: none has seen it yet
                      */
    IC_SCORE_PEAK /* the most that any query of a window ever paid to the row, what came of earlier
                     windows times `smooth` for each window since; -1: none has seen it yet */
} ic_score_kind;

/* Scores that a window of rows makes, at a chunk's end. */
static inline bool ic_score_is_windowed(ic_score_kind kind)
{
    return kind == IC_SCORE_WINDOW || kind == IC_SCORE_VOTES || kind == IC_SCORE_PEAK;
}

/* From now on this (empty) slab keeps scores. smooth in [0, 1): a window's score is that part the
 * row's old score, the rest the new one. IC_ENOMEM. */
IC_MUST_CHECK int ic_slab_keep_scores(ic_slab *s, ic_score_kind kind, float smooth, ic_error *e);
size_t ic_slab_score_bytes(const ic_slab_desc *desc); /* memory that _keep_scores takes */
/* The scores of a head in position order: caller gives room for ic_slab_count entries. */
void ic_slab_scores(const ic_slab *s, int layer, int kv_head, float *scores);
/* Scores beside the tables of a checkpoint: a slab that keeps none writes and reads nothing. Load
 * after ic_slab_load_tables. IC_EFORMAT: cut off, or numbers that no attention gives. */
int ic_slab_save_scores(const ic_slab *s, ic_buf *out);
IC_MUST_CHECK int ic_slab_load_scores(ic_slab *s, ic_cursor *in, ic_error *e);

/* --- original positions -------------------------------------------------------------------------
 */

/* From now on this (empty) slab keeps original positions. */
void ic_slab_keep_positions(ic_slab *s);
/* Where the next row stands that is no part of the group before it; in compact slabs, in the head
 * where that is furthest on. */
int32_t ic_slab_next(const ic_slab *s);
/* Positions beside the tables of a checkpoint: a slab that does not keep them writes and reads
 * nothing. Load after ic_slab_load_tables. IC_EFORMAT: cut off, or positions that do not rise, or
 * are not below `limit`. */
int ic_slab_save_positions(const ic_slab *s, ic_buf *out);
IC_MUST_CHECK int ic_slab_load_positions(ic_slab *s, int32_t limit, ic_cursor *in, ic_error *e);

/* What to keep: carried out per layer and kv head, in this order, as long as rows fit the budget:
 * pinned rows; the `sinks` oldest others; with `frames`, the newest `text` rows that are no frames
 * and the newest `frames` groups, each whole or not at all; else the newest `recent` rows and all
 * that have no score, newest first; then, with `scored`, the others from the highest score down,
 * of equal ones the newer first; else the newest. The first patch of a group costs its markers as
 * well; of the scored, what does not fit is passed over. With `whole`, the patches of a group stay
 * or leave together, wherever one of them would be kept, by the mean of their scores (after pooling
 * and bias).
 * With `cascades`, behind the sinks: the budget that is left (less the markers of all groups) is
 * cut into so many equal parts, the first of them having the remainder. The oldest rows fill them,
 * last part first; those that came later enter the first part one by one. What a full part gives
 * up, its oldest, enters the next if the newcomer's ordinal is a multiple of 2^i for part i; else
 * it takes the place of the newest there if its score is not below that one's, or is dropped. Rows
 * without a score are above all others.
 * With `thin`, behind the sinks: the newest `text` rows that are no frames; the newest `frames`
 * groups whole, markers too, and more while they come to no more than `recent` rows; of every other
 * group its `thin` best rows, whatever they are, and if that is too much, one row after another is
 * given up of which least is lost: the last row of a group is worth the hole that it leaves between
 * its neighbours, in groups, over its age to the power `fade`, times 1 + `care` * the group's best
 * score / the mean of these; each row above the last half as much as the one below. Then as without
 * `thin`, where with `aged` the scores count no further: the newest.
 * Not in one plan: `thin` without `scored` or with `whole`, whose rows it would part; `cascades`
 * with `frames` or `thin`, since each says what stays of all that is no sink. */
typedef struct ic_plan {
    int budget; /* rows that may stay per head */
    int sinks;  /* oldest rows that stay besides the pinned ones */
    int recent;
    bool scored;
    float bias;     /* to each score, bias * mean score * age rank in [0, 1] (1: newest) is added */
    int pool;       /* scores are replaced by means over so many neighbours (odd); 0, 1: not */
    bool per_layer; /* the mean score over a layer's kv heads decides for all of them */
    int frames, text;
    bool whole;
    int cascades; /* at most IC_CASCADE_MOST (ic_cascade.h) */
    int thin;
    float fade, care;
    bool aged;
} ic_plan;

typedef struct ic_evicted {
    int64_t rows; /* evicted over all layers and heads */
    int rows_max; /* evicted in the head that lost most */
    int groups;   /* vision groups that lost their last patch in the first layer's first head */
} ic_evicted;

typedef struct ic_eviction {
    ic_slab *slab;
    ic_plan plan;
    ic_evicted evicted; /* what came of it, and 0 or an error */
    int rc;
} ic_eviction;

/* Frees the slots of the rows that the plan does not keep, and gives survivors their new compact
 * positions. Markers leave with the last patch of their group. Nothing is moved. */
int ic_slab_evict(ic_slab *s, const ic_plan *plan, ic_evicted *evicted);
/* The same for n slabs of one device, none of them twice: it is waited for once. Each by itself
 * succeeds or fails. */
void ic_slab_evict_each(ic_eviction *list, int n);

int ic_slab_used(const ic_slab *s); /* rows held in the fullest head */
int ic_slab_free(const ic_slab *s); /* rows that can be appended now */
int ic_slab_count(const ic_slab *s, int layer, int kv_head);
/* The rows of a head in position order: caller gives room for ic_slab_count entries; any pointer
 * may be NULL. */
void ic_slab_rows(const ic_slab *s, int layer, int kv_head, ic_row *rows, int32_t *slots,
                  ic_pos *positions);
/* One row's K or V as f32 [head_dim], unrotated. For tests and checkpoints. */
void ic_slab_read(const ic_slab *s, int layer, int kv_head, int slot, float *k, float *v);

/* --- checkpoints --------------------------------------------------------------------------------
 * Tables (slot tables of all heads) are written whole. Rows are written once after they were
 * filled: an iterator gives them out in self-describing pieces. To load: the newest tables, then
 * the pieces of all checkpoints, oldest first, then ic_slab_load_finish. Rows that the tables no
 * longer name are passed over. Tables and pieces end with a checksum; ic_slab_save.c has the
 * fields. */
int ic_slab_save_tables(const ic_slab *s, ic_buf *out);
/* Appends to `out` one piece of live rows that are not yet saved, up to about max_bytes (at least
 * one row); *more says whether some are left. *cursor starts at 0. all: rows already saved, too.
 * The slab is not to be changed between the pieces of one checkpoint. */
int ic_slab_save_rows(const ic_slab *s, bool all, uint64_t *cursor, size_t max_bytes, ic_buf *out,
                      bool *more);
/* A checkpoint whose pieces are not taken all at once: rows may come and go between them. begin:
 * what was given out before and not acknowledged is to be given out again. save_rest appends to
 * `out` one piece of what has not been given out since then, as above, and nothing if there is
 * none; *more says whether some is left. When none is, the tables of that moment and the pieces so
 * far belong together. */
void ic_slab_begin_save(ic_slab *s);
int ic_slab_save_rest(const ic_slab *s, bool all, size_t max_bytes, ic_buf *out, bool *more);
/* The store has acknowledged: rows that were given out and still live count as saved. Rows of a
 * checkpoint that is not acknowledged are given out again. */
void ic_slab_mark_saved(ic_slab *s);
uint64_t ic_slab_row_bytes_live(const ic_slab *s); /* bytes of K and V of live rows */
IC_MUST_CHECK int ic_slab_load_tables(ic_slab *s, ic_cursor *in, ic_error *e);
IC_MUST_CHECK int ic_slab_load_rows(ic_slab *s, const void *piece, size_t bytes, ic_error *e);
/* After all pieces: every live row must have been given. IC_EFORMAT otherwise. */
IC_MUST_CHECK int ic_slab_load_finish(ic_slab *s, ic_error *e);

#endif
