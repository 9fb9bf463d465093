/* ic_tokenizer: text <-> token ids, as a model directory's tokenizer.json says (byte-level BPE).
 *
 * Known: model BPE (merges as "a b" or ["a","b"], ignore_merges); normalizer none or NFC;
 * pre_tokenizer ByteLevel, or a Sequence of Split (a regular expression, Isolated), Digits and one
 * ByteLevel at its end; added tokens with all their flags; decoder ByteLevel. Anything else is
 * refused by name. A post_processor is not carried out: which tokens frame a conversation is the
 * grammar's business. Checked against Hugging Face's tokenizers on some thousand strings
 * (tests/golden/strings). Characters newer than the tables of PCRE2 and utf8proc are taken as
 * unassigned.
 *
 * Read-only after open: any thread may use it at the same time.
 */
#ifndef IC_TOKENIZER_H
#define IC_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ic_err.h"

typedef struct ic_tokenizer ic_tokenizer;

/* Reads <dir>/tokenizer.json. IC_EUNSUPPORTED names a feature that this build does not know. Caller
 * owns *out. */
IC_MUST_CHECK int ic_tokenizer_open(ic_tokenizer **out, const char *dir, ic_error *e);
void ic_tokenizer_close(ic_tokenizer **t_p);

/* Longer texts are refused with IC_ELIMIT: some tens of megabytes of scratch are needed for this.
 */
enum { IC_TOKENIZER_MAX_TEXT = 2 << 20 };

/* Token ids of UTF-8 text, `bytes` long (it may hold NULs; what is not UTF-8 becomes U+FFFD).
 * parse_special: the text of special added tokens becomes their ids (for templates); without it, it
 * is plain text (for what a user types). *ids: Caller owns, ic_free. */
IC_MUST_CHECK int ic_tokenizer_encode(const ic_tokenizer *t, const char *text, size_t bytes,
                                      bool parse_special, int32_t **ids, int *count, ic_error *e);

int ic_tokenizer_vocab(const ic_tokenizer *t); /* ids are 0 .. vocab - 1 */
int32_t ic_tokenizer_id(const ic_tokenizer *t,
                        const char *token); /* of an added token's text; -1 if none */
bool ic_tokenizer_is_special(const ic_tokenizer *t, int32_t id);
/* The bytes of one token (special ones: their text). Borrows; *bytes gets their number; NULL for an
 * unknown id. */
const char *ic_tokenizer_piece(const ic_tokenizer *t, int32_t id, size_t *bytes);

/* Streams of tokens as whole UTF-8: bytes of a character that is not complete are held back. */
typedef struct ic_utf8_stream {
    char held[8];
    int count;
} ic_utf8_stream;
/* The room that a push of so many bytes may need: an invalid byte becomes U+FFFD, three bytes. */
#define IC_UTF8_STREAM_ROOM(bytes) (3 * (size_t)(bytes) + 12)
/* Takes a piece's bytes and writes what is whole now to out (IC_UTF8_STREAM_ROOM(bytes) of room);
 * invalid bytes become U+FFFD. Returns the number of bytes written. flush: nothing more will come.
 */
size_t ic_utf8_stream_push(ic_utf8_stream *s, const char *piece, size_t bytes, bool flush,
                           char *out);

#endif
