/* The upload: bytes of a file or a pipe, as DATA under the server's credit, and how it goes on
 * after a reconnect. A file is read again from where the server says; of a pipe the newest bytes
 * are kept. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ic_mem.h"
#include "clients/ic_client_priv.h"

enum { PIECES_PER_TURN = 4 };

static void fail(ic_client *c, const char *code, const char *message)
{
    ic_client_upload_state *u = &c->upload;
    ic_wire_error error = {0};
    ic_wire_put(&error, error, code, code);
    ic_wire_put(&error, error, message, message);
    ic_wire_put(&error, error, session, u->session);
    ic_wire_put(&error, error, media, u->number);
    u->is_active = false;
    if (c->options.on_error)
        c->options.on_error(&error, c->options.arg);
}

static bool is_mine(const ic_client_upload_state *u, const char *session, uint64_t number)
{
    return u->is_active && number == u->number && !strcmp(session, u->session);
}

/* --- the window of a pipe --------------------------------------------------------------------- */

static void drop_front(ic_client_upload_state *u, uint64_t until)
{
    size_t count = until > u->window_at ? (size_t)(until - u->window_at) : 0;
    count = count < u->window.size ? count : u->window.size;
    if (!count)
        return;
    memmove(u->window.data, u->window.data + count, u->window.size - count);
    u->window.size -= count;
    u->window_at += count;
}

static void keep(ic_client_upload_state *u, const uint8_t *bytes, size_t count)
{
    if (u->window.size + count > IC_CLIENT_WINDOW_MAX)
        drop_front(u, u->window_at + IC_CLIENT_WINDOW_MAX / 2);
    ic_buf_append(&u->window, bytes, count);
}

/* --- sending ---------------------------------------------------------------------------------- */

static int send_piece(ic_client *c, uint64_t offset, const void *bytes, size_t count, bool is_last)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_DATA);
    ic_wire_put(&m.data, data, session, c->upload.session);
    ic_wire_put(&m.data, data, media, c->upload.number);
    ic_wire_put(&m.data, data, offset, offset);
    if (is_last)
        ic_wire_put(&m.data, data, last, true);
    return ic_client_send(c, &m, bytes, count);
}

/* The next piece's size: no larger than the server takes, than credit allows, and, of a file, than
 * was told in MEDIA, should it have grown since. */
static size_t piece_size(const ic_client *c, uint64_t from)
{
    uint64_t end = c->upload.can_seek ? c->upload.size : UINT64_MAX;
    uint64_t size = ic_wire_get(&c->welcome.welcome.limits, limits, piece_bytes, IC_WIRE_PIECE_MAX);
    end = end < c->upload.until ? end : c->upload.until;
    uint64_t credit = end > from ? end - from : 0;
    size = size < IC_WIRE_PIECE_MAX ? size : IC_WIRE_PIECE_MAX;
    return (size_t)(size < credit ? size : credit);
}

/* Again what was sent before a reconnect and never arrived. */
static bool send_again(ic_client *c)
{
    ic_client_upload_state *u = &c->upload;
    size_t size = piece_size(c, u->resend);
    size = size < u->sent - u->resend ? size : (size_t)(u->sent - u->resend);
    if (!size || send_piece(c, u->resend, u->window.data + (u->resend - u->window_at), size, false))
        return false;
    u->resend += size;
    return true;
}

/* The next bytes of fd. false: nothing more now. */
static bool send_next(ic_client *c)
{
    static uint8_t bytes[IC_WIRE_PIECE_MAX];
    ic_client_upload_state *u = &c->upload;
    size_t size = piece_size(c, u->sent);
    if (u->can_seek && u->sent >= u->size)
        return u->is_at_end = true; /* credit ends there too: nothing to wait for */
    if (!size)
        return false;
    ssize_t got = u->can_seek ? pread(u->fd, bytes, size, (off_t)(u->start + (int64_t)u->sent))
                              : read(u->fd, bytes, size);
    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return false;
    if (got < 0) {
        char text[128];
        snprintf(text, sizeof text, "reading the upload: %s", strerror(errno));
        send_piece(c, u->sent, "", 0, true);
        fail(c, "MEDIA", text);
        return false;
    }
    if (!got) {
        u->is_at_end = true;
        return true;
    }
    bool is_sent = !send_piece(c, u->sent, bytes, (size_t)got, false);
    if (u->can_seek && !is_sent)
        return false; /* the same bytes are read again */
    if (!u->can_seek)
        keep(u, bytes, (size_t)got);
    u->sent += (uint64_t)got;
    if (is_sent)
        u->resend = u->sent;
    return is_sent;
}

bool ic_client_upload_wants_fd(const ic_client *c)
{
    const ic_client_upload_state *u = &c->upload;
    return c->is_welcome && u->is_active && !u->is_paused && !u->is_at_end && u->resend == u->sent
           && u->sent < u->until;
}

void ic_client_upload_pump(ic_client *c, bool fd_ready)
{
    ic_client_upload_state *u = &c->upload;
    for (int i = 0; i < PIECES_PER_TURN && u->is_active && !u->is_paused; i++) {
        if (u->resend < u->sent) {
            if (!send_again(c))
                return;
        } else if (u->is_at_end) {
            if (!u->is_last_sent)
                u->is_last_sent = !send_piece(c, u->sent, "", 0, true);
            return;
        } else if (!(u->can_seek || fd_ready) || !send_next(c)) {
            return;
        } else if (!u->can_seek) {
            return; /* a second read might block */
        }
    }
}

/* --- news ------------------------------------------------------------------------------------- */

void ic_client_upload_on_started(ic_client *c, const ic_wire_ok *ok)
{
    ic_client_upload_state *u = &c->upload;
    u->is_starting = false;
    if (!ic_wire_has(ok, ok, media) || !ic_wire_has(ok, ok, session))
        return;
    ic_free(u->session);
    u->session = ic_strdup(ok->session);
    u->media.session = u->session;
    u->number = ok->media;
    u->until = ic_wire_get(ok, ok, until, 0);
    if (u->can_seek)
        u->sent = u->resend = ic_wire_get(ok, ok, received, 0);
    u->is_active = true;
}

void ic_client_upload_rejoin(ic_client *c)
{
    ic_client_upload_state *u = &c->upload;
    if (!u->is_active)
        return;
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_MEDIA);
    m.media = u->media;
    u->re = c->next_re++;
    ic_wire_put(&m.media, media, re, u->re);
    u->is_paused = true;
    ic_client_send(c, &m, NULL, 0);
}

void ic_client_upload_on_ok(ic_client *c, const ic_wire_ok *ok)
{
    ic_client_upload_state *u = &c->upload;
    if (!u->is_active || !u->is_paused || ok->re != u->re)
        return;
    uint64_t received = ic_wire_get(ok, ok, received, 0);
    u->is_paused = u->is_last_sent = false;
    u->until = ic_wire_get(ok, ok, until, 0);
    if (u->can_seek) {
        u->sent = u->resend = received;
        u->is_at_end = false;
    } else if (received >= u->window_at && received <= u->sent) {
        u->resend = received;
    } else {
        fail(c, "MEDIA", "the pipe's bytes that the server lost are no longer kept");
    }
}

void ic_client_upload_on_grant(ic_client *c, const ic_wire_grant *grant)
{
    ic_client_upload_state *u = &c->upload;
    if (!is_mine(u, grant->session, grant->media))
        return;
    u->until = grant->until > u->until ? grant->until : u->until;
    if (ic_wire_has(grant, grant, received) && grant->received <= u->resend)
        drop_front(u, grant->received);
}

void ic_client_upload_on_event(ic_client *c, const ic_wire_event *event)
{
    if (event->type == IC_WIRE_EVENT_MEDIA_END && ic_wire_has(event, event, media)
        && is_mine(&c->upload, event->session, event->media.media))
        c->upload.is_active = false;
}

void ic_client_upload_on_error(ic_client *c, const ic_wire_error *error)
{
    ic_client_upload_state *u = &c->upload;
    bool is_repeat =
        u->is_active && u->is_paused && ic_wire_has(error, error, re) && error->re == u->re;
    bool is_data = ic_wire_has(error, error, session) && ic_wire_has(error, error, media)
                   && is_mine(u, error->session, error->media);
    if (is_repeat || is_data)
        u->is_active = false;
}

/* --- public ----------------------------------------------------------------------------------- */

/* Our own copy of the request: the caller's strings live no longer than his call. */
static void copy_request(ic_client_upload_state *u, const ic_wire_media *media)
{
    u->media = *media;
    u->session = ic_strdup(media->session);
    u->media.session = u->session;
    if (ic_wire_has(media, media, name)) {
        u->name = ic_strdup(media->name);
        u->media.name = u->name;
    }
}

int ic_client_upload(ic_client *c, ic_wire_msg *media, int fd, ic_wire_msg *reply, ic_error *e)
{
    ic_client_upload_state *u = &c->upload;
    struct stat info;
    memset(reply, 0, sizeof *reply);
    if (u->is_active)
        return ic_error_set(e, IC_EBUSY, "an upload is running");
    if (fstat(fd, &info))
        return ic_error_set(e, IC_EIO, "the upload: %s", strerror(errno));
    ic_client_upload_abort(c);
    u->fd = fd;
    u->can_seek = S_ISREG(info.st_mode);
    u->start = u->can_seek ? (int64_t)lseek(fd, 0, SEEK_CUR) : 0;
    if (u->can_seek) {
        u->size = (uint64_t)(info.st_size > u->start ? info.st_size - u->start : 0);
        ic_wire_put(&media->media, media, size, u->size);
    }
    ic_wire_put(&media->media, media, kind, IC_WIRE_KIND_UPLOAD);
    int rc = ic_client_fill_key(media, e);
    if (rc)
        return rc;
    copy_request(u, &media->media);
    u->is_starting = true;
    rc = ic_client_call(c, media, reply, e);
    u->is_starting = false;
    return rc;
}

bool ic_client_is_uploading(const ic_client *c)
{
    return c->upload.is_active;
}

void ic_client_upload_abort(ic_client *c)
{
    ic_client_upload_state *u = &c->upload;
    ic_free(u->session);
    ic_free(u->name);
    ic_buf_fini(&u->window);
    memset(u, 0, sizeof *u);
    ic_buf_init(&u->window, 0);
    u->fd = -1;
}

void ic_client_upload_progress(const ic_client *c, uint64_t *sent, uint64_t *size)
{
    *sent = c->upload.sent;
    *size = c->upload.size;
}
