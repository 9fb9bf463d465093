/* Exports and imports: a piece is asked for, or sent, when the last one has been dealt with. A call
 * that a reconnect interrupts is repeated; the server steps over what it has already. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ic_mem.h"
#include "clients/ic_client_priv.h"

enum { TRIES = 3 }; /* of a transfer that the server has forgotten */

/* --- export -------------------------------------------------------------------------------------
 */

static int begin_export(ic_client *c, const char *session, const char *at, uint64_t *transfer,
                        ic_error *e)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_EXPORT);
    ic_wire_put(&m.export, export, session, session);
    if (at)
        ic_wire_put(&m.export, export, at, at);
    int rc = ic_client_call(c, &m, &reply, e);
    if (!rc)
        *transfer = ic_wire_get(&reply.ok, ok, transfer, 0);
    ic_wire_msg_fini(&reply);
    return rc;
}

static int fetch(ic_client *c, uint64_t transfer, uint64_t offset, ic_buf *bytes, bool *last,
                 ic_error *e)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_FETCH);
    ic_wire_put(&m.fetch, fetch, transfer, transfer);
    ic_wire_put(&m.fetch, fetch, offset, offset);
    int rc = ic_client_call_bytes(c, &m, NULL, 0, &reply, bytes, e);
    if (!rc && (reply.verb != IC_WIRE_CHUNK || reply.chunk.offset != offset))
        rc = ic_error_set(e, IC_EFORMAT, "the server sent other bytes than were asked for");
    if (!rc && bytes->status)
        rc = ic_error_set(e, bytes->status, "no memory for a piece of the export");
    if (!rc)
        *last = ic_wire_get(&reply.chunk, chunk, last, false);
    ic_wire_msg_fini(&reply);
    return rc;
}

/* One attempt. *forgotten: the server knows nothing of the transfer that it began. */
static int export_once(ic_client *c, const char *session, const char *at, ic_client_write_fn *write,
                       void *arg, bool *forgotten, ic_error *e)
{
    uint64_t transfer = 0, offset = 0;
    bool last = false;
    ic_buf bytes;
    ic_buf_init(&bytes, 0);
    int rc = begin_export(c, session, at, &transfer, e);
    *forgotten = false;
    while (!rc && !last) {
        rc = fetch(c, transfer, offset, &bytes, &last, e);
        *forgotten = rc == IC_ENOTFOUND;
        if (!rc)
            rc = write(arg, bytes.data, bytes.size, e);
        offset += bytes.size;
    }
    ic_buf_fini(&bytes);
    return rc;
}

int ic_client_export(ic_client *c, const char *session, const char *at, ic_client_write_fn *write,
                     void *arg, ic_error *e)
{
    bool forgotten = true;
    int rc = IC_OK;
    for (int i = 0; i < TRIES && forgotten && !rc; i++) {
        rc = export_once(c, session, at, write, arg, &forgotten, e);
        if (forgotten && i + 1 < TRIES)
            rc = write(arg, NULL, 0, e);
    }
    return rc;
}

/* --- import -------------------------------------------------------------------------------------
 */

/* Reads until the piece is full or the file is over. */
static int read_piece(int fd, uint8_t *bytes, size_t size, size_t *got, ic_error *e)
{
    *got = 0;
    while (*got < size) {
        ssize_t n = read(fd, bytes + *got, size - *got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ic_error_set(e, IC_EIO, "reading the import: %s", strerror(errno));
        if (n == 0)
            break;
        *got += (size_t)n;
    }
    return IC_OK;
}

static int put(ic_client *c, uint64_t transfer, uint64_t offset, const void *bytes, size_t size,
               bool last, ic_wire_msg *reply, ic_error *e)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_PUT);
    ic_wire_put(&m.put, put, transfer, transfer);
    ic_wire_put(&m.put, put, offset, offset);
    if (last)
        ic_wire_put(&m.put, put, last, true);
    return ic_client_call_bytes(c, &m, size ? bytes : "", size, reply, NULL, e);
}

static int put_all(ic_client *c, uint64_t transfer, uint64_t until, int fd, ic_wire_msg *reply,
                   ic_error *e)
{
    uint8_t *bytes = ic_alloc(IC_WIRE_PIECE_MAX);
    uint64_t offset = 0;
    bool last = false;
    int rc = IC_OK;
    while (!rc && !last) {
        uint64_t credit = until - offset;
        size_t want = credit < IC_WIRE_PIECE_MAX ? (size_t)credit : IC_WIRE_PIECE_MAX, got = 0;
        ic_wire_msg_fini(reply);
        rc = read_piece(fd, bytes, want, &got, e);
        last = got < want;
        if (!rc)
            rc = put(c, transfer, offset, bytes, got, last, reply, e);
        offset += got;
        if (!rc && !last)
            until = ic_wire_get(&reply->ok, ok, until, 0);
        if (!rc && !last && until <= offset)
            rc =
                ic_error_set(e, IC_EFORMAT, "the server takes no more bytes, and does not say why");
    }
    ic_free(bytes);
    return rc;
}

/* One attempt, from the beginning of the bytes. */
static int import_once(ic_client *c, ic_wire_msg *import, int fd, ic_wire_msg *reply, ic_error *e)
{
    memset(reply, 0, sizeof *reply);
    int rc = ic_client_call(c, import, reply, e);
    uint64_t transfer = rc ? 0 : ic_wire_get(&reply->ok, ok, transfer, 0);
    uint64_t until = rc ? 0 : ic_wire_get(&reply->ok, ok, until, 0);
    return transfer ? put_all(c, transfer, until, fd, reply, e) : rc;
}

/* A server that was restarted has forgotten the transfer, or has finished it and lost its answer:
 * the same key begins again, or gets the session. */
int ic_client_import(ic_client *c, ic_wire_msg *import, int fd, ic_wire_msg *reply, ic_error *e)
{
    struct stat info;
    off_t start = lseek(fd, 0, SEEK_CUR);
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode))
        ic_wire_put(&import->import, import, size, (uint64_t)(info.st_size - start));
    int rc = ic_client_fill_key(import, e);
    if (rc)
        return rc;
    for (int i = 0; i < TRIES; i++) {
        rc = import_once(c, import, fd, reply, e);
        if (rc != IC_ENOTFOUND || start < 0 || lseek(fd, start, SEEK_SET) != start)
            break;
        ic_wire_msg_fini(reply);
    }
    return rc;
}
