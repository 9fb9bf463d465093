/* ic_spool: an upload on its way: bytes come in at the end, and are read anywhere, from a private
 * file that has no name (it is gone when it is closed, whatever happens). Single owner: the ingest
 * actor.
 *
 * Of an upload whose size is unknown (a stream), what has been read is given back to the disk as
 * the reading goes on, so that an endless one stays bounded; then it cannot be read a second time.
 */
#ifndef IC_SPOOL_H
#define IC_SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ic_err.h"

typedef struct ic_spool {
    /* owner thread only */
    int fd;
    int64_t size;     /* of the whole upload; -1: unknown */
    int64_t received; /* bytes that are there, from 0 */
    int64_t at;       /* read position */
    int64_t dropped;  /* bytes before this have been given back */
    int64_t limit;
    bool complete;
} ic_spool;

/* Makes the file in dir (which is made, 0700, if missing). limit: bytes of the upload at most. */
IC_MUST_CHECK int ic_spool_open(ic_spool *s, const char *dir, int64_t size, int64_t limit,
                                ic_error *e);
void ic_spool_close(ic_spool *s);
/* Bytes that belong at `offset`: what is there already is stepped over; a gap is IC_EINVAL, and
 * names the expected position; beyond size or limit: IC_ELIMIT. */
IC_MUST_CHECK int ic_spool_write(ic_spool *s, uint64_t offset, const void *bytes, size_t count,
                                 bool last, ic_error *e);
/* Bytes at the read position: their number; IC_EAGAIN: they are still to come; 0: the end. */
int64_t ic_spool_read(ic_spool *s, void *into, size_t count);
/* IC_EUNSUPPORTED when those bytes have been given back, or of a stream beyond what is there. */
int ic_spool_seek(ic_spool *s, int64_t offset);
/* Bytes that the sender may send in all, so that at most `window` are on the way, and of a stream
 * at most `ahead` wait here unread. */
uint64_t ic_spool_until(const ic_spool *s, int64_t window, int64_t ahead);

#endif
