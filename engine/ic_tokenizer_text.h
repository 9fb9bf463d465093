/* ic_tokenizer_text: characters: UTF-8 made valid, NFC, and the two classes that added tokens ask
 * about. Stateless. */
#ifndef IC_TOKENIZER_TEXT_H
#define IC_TOKENIZER_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ic_err.h"

/* Bytes that belong together. Caller owns; ic_tokenizer_text_fini. */
typedef struct ic_tokenizer_text {
    char *data;
    size_t size;
} ic_tokenizer_text;
void ic_tokenizer_text_fini(ic_tokenizer_text *t);

/* One character of `left` (>= 1) bytes: its length, and its code point in *point, or -1 there for
 * bytes that are no character: then the length is that of the part that one U+FFFD replaces
 * (Unicode 15, section 3.9, "maximal subpart", as Python's decoder does). */
size_t ic_tokenizer_text_next(const char *p, size_t left, int32_t *point);
/* Writes a code point as UTF-8 to out (4 bytes of room); returns the number of bytes. */
size_t ic_tokenizer_text_put(char *out, int32_t point);

bool ic_tokenizer_text_valid(const char *text, size_t bytes);
/* out: the text with U+FFFD in the place of what is not UTF-8. IC_ENOMEM. */
IC_MUST_CHECK int ic_tokenizer_text_repair(const char *text, size_t bytes, ic_tokenizer_text *out,
                                           ic_error *e);
/* out: valid UTF-8 in Unicode's normal form C (UAX #15). Time is linear in the text but for
 * n log n within a run of combining marks. IC_ENOMEM. */
IC_MUST_CHECK int ic_tokenizer_text_nfc(const char *text, size_t bytes, ic_tokenizer_text *out,
                                        ic_error *e);

/* Unicode's White_Space; and letters, marks, digits and connectors: a regular expression's \w. */
bool ic_tokenizer_text_is_space(int32_t point);
bool ic_tokenizer_text_is_word(int32_t point);

#endif
