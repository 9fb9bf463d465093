#include "actors/ic_spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HOLE_STEP = 4 << 20 }; /* what has been read is given back in pieces of this size */

/* A file without a name; where the file system has no such thing, one whose name is taken away. */
static int open_nameless(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    char path[4200];
    snprintf(path, sizeof path, "%s/upload-XXXXXX", dir);
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

int ic_spool_open(ic_spool *s, const char *dir, int64_t size, int64_t limit, ic_error *e)
{
    *s = (ic_spool){.fd = -1, .size = size, .limit = limit};
    if (size > limit)
        return ic_error_set(e, IC_ELIMIT, "the upload has %lld bytes; media.upload_bytes is %lld",
                            (long long)size, (long long)limit);
    if (mkdir(dir, 0700) && errno != EEXIST)
        return ic_error_set(e, IC_EIO, "the spool folder %s cannot be made: %s", dir,
                            strerror(errno));
    s->fd = open_nameless(dir);
    if (s->fd < 0)
        return ic_error_set(e, IC_EIO, "no upload can be kept in %s: %s (see media.spool_dir)", dir,
                            strerror(errno));
    return IC_OK;
}

void ic_spool_close(ic_spool *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

static int write_all(int fd, const char *bytes, size_t count, int64_t at, ic_error *e)
{
    while (count) {
        ssize_t n = pwrite(fd, bytes, count, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return ic_error_set(e, IC_EIO, "the upload cannot be written: %s", strerror(errno));
        bytes += n;
        at += n;
        count -= (size_t)n;
    }
    return IC_OK;
}

int ic_spool_write(ic_spool *s, uint64_t offset, const void *bytes, size_t count, bool last,
                   ic_error *e)
{
    int64_t start = (int64_t)offset;
    if (start < 0 || start > s->received)
        return ic_error_set(e, IC_EINVAL, "a gap in the upload: expected the bytes from %lld on",
                            (long long)s->received);
    int64_t end = start + (int64_t)count;
    if (end > s->limit || (s->size >= 0 && end > s->size))
        return ic_error_set(e, IC_ELIMIT, "the upload is longer than its %lld bytes",
                            (long long)(s->size >= 0 ? s->size : s->limit));
    int64_t known = s->received - start;
    if (known < (int64_t)count) {
        int rc =
            write_all(s->fd, (const char *)bytes + known, count - (size_t)known, s->received, e);
        if (rc)
            return rc;
        s->received = end;
    }
    s->complete |= last || (s->size >= 0 && s->received == s->size);
    return IC_OK;
}

static void give_back(ic_spool *s)
{
    if (s->size >= 0 || s->at - s->dropped < HOLE_STEP)
        return;
    int64_t end = s->at / HOLE_STEP * HOLE_STEP;
    if (fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, s->dropped, end - s->dropped)
        == 0)
        s->dropped = end;
}

int64_t ic_spool_read(ic_spool *s, void *into, size_t count)
{
    int64_t there = s->received - s->at;
    if (there <= 0)
        return s->complete ? 0 : IC_EAGAIN;
    if ((int64_t)count > there)
        count = (size_t)there;
    ssize_t n;
    do
        n = pread(s->fd, into, count, s->at);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return IC_EIO;
    s->at += n;
    give_back(s);
    return n;
}

int ic_spool_seek(ic_spool *s, int64_t offset)
{
    if (offset < s->dropped || (s->size < 0 && offset > s->received))
        return IC_EUNSUPPORTED;
    s->at = offset;
    return IC_OK;
}

uint64_t ic_spool_until(const ic_spool *s, int64_t window, int64_t ahead)
{
    int64_t until = s->received + window;
    if (s->size < 0 && until > s->at + ahead)
        until = s->at + ahead > s->received ? s->at + ahead : s->received;
    int64_t most = s->size >= 0 ? s->size : s->limit;
    return (uint64_t)(until > most ? most : until);
}
