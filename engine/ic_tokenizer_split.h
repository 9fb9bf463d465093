/* ic_tokenizer_split: the regular expressions that cut text into the pieces within which tokens are
 * merged (tokenizer.json's pre_tokenizer). Read-only after it is built; a run's scratch is apart.
 */
#ifndef IC_TOKENIZER_SPLIT_H
#define IC_TOKENIZER_SPLIT_H

#include <stddef.h>

#include "base/ic_err.h"

typedef struct ic_tokenizer_split ic_tokenizer_split;

/* No expression yet: the whole text is one piece. Caller owns. */
ic_tokenizer_split *ic_tokenizer_split_new(void);
void ic_tokenizer_split_destroy(ic_tokenizer_split **s_p);

/* Adds one expression; it cuts the pieces that the ones before it left: what it matches and what
 * lies between are pieces ("Isolated"). It is read as Oniguruma reads it (which Hugging Face's
 * library uses): Unicode classes, \s is White_Space. IC_EUNSUPPORTED says what PCRE2 has against
 * it. */
IC_MUST_CHECK int ic_tokenizer_split_add(ic_tokenizer_split *s, const char *pattern, ic_error *e);

typedef int ic_tokenizer_piece_fn(void *arg, const char *piece, size_t bytes, ic_error *e);
/* Hands each piece of valid UTF-8 to fn, in order; its first failure ends the run. */
IC_MUST_CHECK int ic_tokenizer_split_run(const ic_tokenizer_split *s, const char *text,
                                         size_t bytes, ic_tokenizer_piece_fn *fn, void *arg,
                                         ic_error *e);

#endif
