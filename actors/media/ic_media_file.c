/* Server files: only regular files under the permitted roots. The path is resolved before and the
 * opened descriptor asked again after, so that a link swapped in between is seen. What lies outside
 * and what does not exist get the same answer: nobody learns about files outside of the roots. */
#include "actors/media/ic_media_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ic_mem.h"

static int64_t file_read(void *user, uint8_t *into, size_t size)
{
    ssize_t got = read((int)(intptr_t)user, into, size);
    return got >= 0 ? got : (errno == EINTR || errno == EAGAIN ? IC_EAGAIN : IC_EIO);
}

static int file_seek(void *user, int64_t offset)
{
    return lseek((int)(intptr_t)user, offset, SEEK_SET) >= 0 ? IC_OK : IC_EIO;
}

static void file_close(void *user)
{
    close((int)(intptr_t)user);
}

/* path is resolved; so is the root made here. "/a/b" holds "/a/b/c", not "/a/bc". */
static bool lies_under(const char *path, const char *root)
{
    char resolved[PATH_MAX];
    if (!realpath(root, resolved))
        return false;
    size_t n = strlen(resolved);
    if (n == 1)
        return true;
    return strncmp(path, resolved, n) == 0 && path[n] == '/';
}

static bool lies_under_roots(const char *path, const ic_media_source *src)
{
    for (size_t i = 0; i < src->roots_count; i++)
        if (lies_under(path, src->roots[i]))
            return true;
    return false;
}

/* Where the kernel says that the descriptor is. */
static bool descriptor_path(int fd, char path[PATH_MAX])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n <= 0)
        return false;
    path[n] = '\0';
    return true;
}

static int refuse(const ic_media_source *src, ic_error *e)
{
    if (src->roots_count == 0)
        return ic_error_set(e, IC_EINVAL,
                            "files on the server are not open to clients: upload '%s' instead, or "
                            "name its folder in the server's media roots",
                            src->name);
    return ic_error_set(e, IC_ENOTFOUND,
                        "no file '%s' under the server's media roots; upload it instead, or add "
                        "its folder to them",
                        src->name);
}

/* The file behind a source's name, if it may be read. */
static int open_file(const ic_media_source *src, int *fd_out, struct stat *st, ic_error *e)
{
    char path[PATH_MAX], opened[PATH_MAX];
    if (!src->name || src->name[0] != '/')
        return ic_error_set(e, IC_EINVAL, "a file on the server needs its absolute path, not '%s'",
                            src->name ? src->name : "");
    if (!realpath(src->name, path) || !lies_under_roots(path, src))
        return refuse(src, e);
    /* O_NONBLOCK: a FIFO put in the place would hold us here. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && (errno == EACCES || errno == EPERM))
        return ic_error_set(e, IC_EIO, "the server may not read '%s': check its permissions",
                            src->name);
    if (fd < 0)
        return refuse(src, e);
    int rc = IC_OK;
    if (!descriptor_path(fd, opened) || !lies_under_roots(opened, src))
        rc = refuse(src, e);
    else if (fstat(fd, st) != 0 || !S_ISREG(st->st_mode))
        rc = ic_error_set(e, IC_EINVAL, "'%s' is not a regular file", src->name);
    else if (st->st_size == 0)
        rc = ic_error_set(e, IC_EFORMAT, "'%s' is empty", src->name);
    if (rc != IC_OK) {
        close(fd);
        return rc;
    }
    *fd_out = fd;
    return IC_OK;
}

int ic_media_file_open(ic_media_bytes *b, const ic_media_source *src, ic_error *e)
{
    int fd;
    struct stat st;
    int rc = open_file(src, &fd, &st, e);
    if (rc)
        return rc;
    b->read = file_read;
    b->seek = file_seek;
    b->close = file_close;
    b->size = st.st_size;
    b->user = (void *)(intptr_t)fd;
    return IC_OK;
}

static ic_media_file_info info_of(const struct stat *st)
{
    return (ic_media_file_info){.bytes = st->st_size,
                                .mtime_us = (int64_t)st->st_mtim.tv_sec * 1000000
                                            + st->st_mtim.tv_nsec / 1000};
}

int ic_media_file_look(const ic_media_source *src, ic_media_file_info *info, ic_error *e)
{
    int fd;
    struct stat st;
    int rc = open_file(src, &fd, &st, e);
    if (rc)
        return rc;
    close(fd);
    *info = info_of(&st);
    return IC_OK;
}

/* A whole piece, or what is left of the file; negative: it cannot be read. */
static ssize_t read_piece(int fd, uint8_t *into, size_t size)
{
    size_t got = 0;
    while (got < size) {
        ssize_t n = read(fd, into + got, size - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? n : (ssize_t)got;
        got += (size_t)n;
    }
    return (ssize_t)got;
}

static int read_all(int fd, const ic_media_source *src, ic_media_piece_fn *fn, void *user,
                    ic_error *e)
{
    enum { PIECE = 1 << 20 };
    ssize_t n = 0;
    int rc = IC_OK;
    uint8_t *piece = ic_try_alloc(PIECE);
    if (!piece)
        return ic_error_set(e, IC_ENOMEM, "no memory to read '%s'", src->name);
    while (!rc && (n = read_piece(fd, piece, PIECE)) > 0)
        rc = fn(user, piece, (size_t)n);
    ic_free(piece);
    return rc      ? ic_error_set(e, rc, "'%s' was not read to its end", src->name)
           : n < 0 ? ic_error_set(e, IC_EIO, "'%s' cannot be read: %s", src->name, strerror(errno))
                   : IC_OK;
}

int ic_media_file_read(const ic_media_source *src, ic_media_file_info *info, ic_media_piece_fn *fn,
                       void *user, ic_error *e)
{
    int fd;
    struct stat st, after;
    int rc = open_file(src, &fd, &st, e);
    if (rc)
        return rc;
    *info = info_of(&st);
    rc = read_all(fd, src, fn, user, e);
    if (!rc && fstat(fd, &after) == 0) {
        ic_media_file_info now = info_of(&after);
        if (now.bytes != info->bytes || now.mtime_us != info->mtime_us)
            rc = ic_error_set(e, IC_EMISMATCH, "'%s' changed while it was read", src->name);
    }
    close(fd);
    return rc;
}
