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

int ic_media_file_open(ic_media_bytes *b, const ic_media_source *src, ic_error *e)
{
    char path[PATH_MAX], opened[PATH_MAX];
    struct stat st;
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
    else if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        rc = ic_error_set(e, IC_EINVAL, "'%s' is not a regular file", src->name);
    else if (st.st_size == 0)
        rc = ic_error_set(e, IC_EFORMAT, "'%s' is empty", src->name);
    if (rc != IC_OK) {
        close(fd);
        return rc;
    }
    b->read = file_read;
    b->seek = file_seek;
    b->close = file_close;
    b->size = st.st_size;
    b->user = (void *)(intptr_t)fd;
    return IC_OK;
}
