/* ic_identity: what tells that a file of the server is the one that was watched: its size, its time
 * of change and a hash of its content.
 *
 * The hash: h = 16 zeros; for each MiB of the file, the last one shorter, h = XXH3-128 of h and the
 * XXH3-128 of the piece.
 */
#ifndef IC_IDENTITY_H
#define IC_IDENTITY_H

#include "actors/media/ic_media.h"
#include "session_store/ic_store.h"

typedef struct ic_identity {
    bool known;
    int64_t bytes, mtime_us;
    uint8_t hash[IC_STORE_KEY_BYTES];
} ic_identity;

/* Called between pieces; a negative code ends the reading with it. */
typedef int ic_identity_tick_fn(void *user);

/* Reads the whole of a FILE source. IC_EMISMATCH: it changed meanwhile, or is not what `expected`
 * says (NULL: anything will do), and the text tells by what; size and time are compared first. */
IC_MUST_CHECK int ic_identity_read(ic_identity *id, const ic_media_source *src,
                                   const ic_identity *expected, ic_identity_tick_fn *tick,
                                   void *user, ic_error *e);

#endif
