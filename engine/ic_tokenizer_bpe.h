/* ic_tokenizer_bpe: the vocabulary and the merges of a byte-level BPE (Sennrich et al. 2016,
 * section 3.2; bytes written as printable characters as in GPT-2). Read-only after it is built.
 */
#ifndef IC_TOKENIZER_BPE_H
#define IC_TOKENIZER_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ic_err.h"

typedef struct ic_tokenizer_bpe ic_tokenizer_bpe;

/* Room for ids 0 .. vocab - 1 and for the merges. IC_ENOMEM. Caller owns *out. */
IC_MUST_CHECK int ic_tokenizer_bpe_new(ic_tokenizer_bpe **out, int vocab, size_t merges,
                                       ic_error *e);
void ic_tokenizer_bpe_destroy(ic_tokenizer_bpe **b_p);

/* A token as tokenizer.json spells it (one character for each byte). IC_EFORMAT: id out of range or
 * given twice. */
IC_MUST_CHECK int ic_tokenizer_bpe_add(ic_tokenizer_bpe *b, int32_t id, const char *spelling,
                                       size_t bytes, ic_error *e);
/* A token whose bytes are its text; it replaces what the id was before and is never the result of a
 * merge. */
IC_MUST_CHECK int ic_tokenizer_bpe_add_literal(ic_tokenizer_bpe *b, int32_t id, const char *text,
                                               size_t bytes, ic_error *e);
/* To be called when every token has been added, before the first merge. */
void ic_tokenizer_bpe_index(ic_tokenizer_bpe *b);
/* The next merge in order of rank, both parts spelled as above. IC_EFORMAT: a part or the result is
 * no token. */
IC_MUST_CHECK int ic_tokenizer_bpe_add_merge(ic_tokenizer_bpe *b, const char *left,
                                             size_t left_bytes, const char *right,
                                             size_t right_bytes, ic_error *e);

/* The bytes of a token; NULL for an id that is none. Borrows. */
const char *ic_tokenizer_bpe_piece(const ic_tokenizer_bpe *b, int32_t id, size_t *bytes);

/* Ids, growable up to what memory gives. Zero it to start; release id with ic_free. */
typedef struct ic_tokenizer_ids {
    int32_t *id;
    size_t count, capacity;
} ic_tokenizer_ids;
IC_MUST_CHECK int ic_tokenizer_ids_push(ic_tokenizer_ids *ids, int32_t id, ic_error *e);

/* Scratch of one run, grown as needed. Zero it to start; ic_tokenizer_bpe_scratch_fini. */
typedef struct ic_tokenizer_bpe_scratch {
    void *symbols, *heap;
    size_t room;
} ic_tokenizer_bpe_scratch;
void ic_tokenizer_bpe_scratch_fini(ic_tokenizer_bpe_scratch *s);

/* Appends the ids of one piece: its bytes, merged lowest rank first, leftmost first among equals.
 * n log n in the piece's length. whole: a piece that is a token is that token ("ignore_merges").
 * A byte that the vocabulary lacks gives nothing, as in Hugging Face's library. */
IC_MUST_CHECK int ic_tokenizer_bpe_encode(const ic_tokenizer_bpe *b, const char *piece,
                                          size_t bytes, bool whole, ic_tokenizer_bpe_scratch *s,
                                          ic_tokenizer_ids *out, ic_error *e);

#endif
