/* A small HTTP/1.1 client: GET with ranges, one connection per request. It is ours and not
 * libavformat's so that every host, also behind a redirect or after a seek, passes the address
 * check and plain connections go to the address that was checked (RFC 9110, 9112). */
#include "actors/media/ic_media_priv.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/ic_mem.h"

enum {
    MAX_REDIRECTS = 5,
    MAX_LINE = 8192,
    MAX_HEADERS = 200,
    SKIP_BYTES = 512 * 1024 /* a seek ahead by less reads on instead of asking anew */
};

typedef struct http {
    /* of the source */
    ic_media_url url; /* after redirects */
    bool allow_private;
    char *ca_file;
    ic_media_guard *guard;
    bool ranges; /* the server honours ranges */
    int64_t size;
    /* of the connection */
    int fd;           /* plain; -1: none */
    AVIOContext *tls; /* NULL: none */
    uint8_t buffer[16384];
    size_t at, filled;
    /* of the answer */
    int status;
    bool chunked, accepts_ranges;
    bool after_chunk;    /* the line end behind a chunk's bytes is still to be read */
    int64_t range_start; /* -1: no Content-Range */
    int64_t left;        /* bytes of the body, or of the chunk, to come; -1: until the end */
    bool ended;
    int64_t offset; /* in the source, of the next byte */
    char location[4096];
} http;

static void hang_up(http *h)
{
    if (h->fd >= 0)
        close(h->fd);
    h->fd = -1;
    avio_closep(&h->tls);
    h->at = h->filled = 0;
}

/* --- the connection --------------------------------------------------------------------------- */

static int dial_tls(http *h, ic_error *e)
{
    char address[320];
    bool v6 = strchr(h->url.host, ':') != NULL;
    snprintf(address, sizeof address, v6 ? "tls://[%s]:%d" : "tls://%s:%d", h->url.host,
             h->url.port);
    AVDictionary *options = NULL;
    av_dict_set(&options, "tls_verify", "1", 0);
    av_dict_set(&options, "protocol_whitelist", "tls,tcp", 0);
    if (h->ca_file)
        av_dict_set(&options, "ca_file", h->ca_file, 0);
    AVIOInterruptCB stop = {ic_media_guard_callback, h->guard};
    int rc = avio_open2(&h->tls, address, AVIO_FLAG_READ_WRITE | AVIO_FLAG_DIRECT, &stop, &options);
    av_dict_free(&options);
    if (rc >= 0)
        return IC_OK;
    int why = ic_media_guard_check(h->guard);
    return ic_error_set(e, why != IC_OK ? why : IC_EIO,
                        "no secure connection to %s port %d: it does not answer, or its "
                        "certificate is not for this name",
                        h->url.host, h->url.port);
}

static int dial(http *h, ic_error *e)
{
    ic_media_address list[IC_MEDIA_MAX_ADDRESSES];
    size_t count = 0;
    int rc = ic_media_resolve(&h->url, h->allow_private, h->guard, list, &count, e);
    if (rc != IC_OK)
        return rc;
    if (strcmp(h->url.scheme, "https") == 0)
        return dial_tls(h, e);
    return ic_media_connect(list, count, &h->url, h->guard, &h->fd, e);
}

static int send_all(http *h, const char *text, size_t size)
{
    if (h->tls) {
        avio_write(h->tls, (const uint8_t *)text, (int)size);
        avio_flush(h->tls);
        return h->tls->error ? IC_EIO : IC_OK;
    }
    while (size > 0) {
        ssize_t n = send(h->fd, text, size, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return IC_EIO;
        if (n < 0) {
            int rc = ic_media_wait_fd(h->fd, POLLOUT, h->guard);
            if (rc != IC_OK)
                return rc;
            continue;
        }
        text += n;
        size -= (size_t)n;
    }
    return IC_OK;
}

/* 1..size bytes, 0 at the end of the connection, or a code. TLS gives all of `size` or the rest. */
static int64_t receive(http *h, uint8_t *into, size_t size)
{
    if (h->tls) {
        int n = avio_read(h->tls, into, (int)size);
        if (n >= 0 || n == AVERROR_EOF)
            return n > 0 ? n : 0;
        int why = ic_media_guard_check(h->guard);
        return why != IC_OK ? why : IC_EIO;
    }
    for (;;) {
        ssize_t n = recv(h->fd, into, size, 0);
        if (n >= 0)
            return n;
        if (errno != EAGAIN && errno != EINTR)
            return IC_EIO;
        int rc = ic_media_wait_fd(h->fd, POLLIN, h->guard);
        if (rc != IC_OK)
            return rc;
    }
}

/* The next byte of head or framing; negative: a code. */
static int next_byte(http *h)
{
    if (h->at == h->filled) {
        int64_t n = receive(h, h->buffer, h->tls ? 1 : sizeof h->buffer);
        if (n <= 0)
            return n < 0 ? (int)n : IC_ECLOSED;
        h->at = 0;
        h->filled = (size_t)n;
    }
    return h->buffer[h->at++];
}

/* A line without its end; IC_ELIMIT when it is too long. */
static int read_line(http *h, char *line, size_t size)
{
    size_t n = 0;
    for (;;) {
        int c = next_byte(h);
        if (c < 0)
            return c;
        if (c == '\n')
            break;
        if (n + 1 >= size)
            return IC_ELIMIT;
        line[n++] = (char)c;
    }
    if (n > 0 && line[n - 1] == '\r')
        n--;
    line[n] = '\0';
    return memchr(line, '\0', n) ? IC_EFORMAT : IC_OK;
}

/* --- the answer's head ------------------------------------------------------------------------ */

/* A decimal number that fills the text up to `stop`; -1 if there is none. */
static int64_t number(const char *text, char stop)
{
    char *rest;
    errno = 0;
    if (!isdigit((unsigned char)text[0]))
        return -1;
    long long v = strtoll(text, &rest, 10);
    return errno || *rest != stop ? -1 : v;
}

static void content_range(http *h, const char *value)
{
    const char *slash = strchr(value, '/');
    if (strncasecmp(value, "bytes ", 6) != 0 || !slash)
        return;
    h->range_start = number(value + 6, '-');
    int64_t size = number(slash + 1, '\0');
    if (size >= 0)
        h->size = size;
}

static int header(http *h, char *line)
{
    char *value = strchr(line, ':');
    if (!value)
        return IC_EFORMAT;
    *value++ = '\0';
    value += strspn(value, " \t");
    for (size_t n = strlen(value); n > 0 && (value[n - 1] == ' ' || value[n - 1] == '\t'); n--)
        value[n - 1] = '\0';
    if (strcasecmp(line, "Content-Length") == 0) {
        h->left = number(value, '\0');
        return h->left < 0 ? IC_EFORMAT : IC_OK;
    }
    if (strcasecmp(line, "Transfer-Encoding") == 0) {
        h->chunked = strcasecmp(value, "chunked") == 0;
        return h->chunked ? IC_OK : IC_EUNSUPPORTED;
    }
    if (strcasecmp(line, "Content-Encoding") == 0 && strcasecmp(value, "identity") != 0)
        return IC_EUNSUPPORTED;
    if (strcasecmp(line, "Content-Range") == 0)
        content_range(h, value);
    if (strcasecmp(line, "Accept-Ranges") == 0)
        h->accepts_ranges = strcasecmp(value, "bytes") == 0;
    if (strcasecmp(line, "Location") == 0)
        snprintf(h->location, sizeof h->location, "%s", value);
    return IC_OK;
}

static int read_head(http *h)
{
    char line[MAX_LINE];
    h->chunked = h->accepts_ranges = h->after_chunk = h->ended = false;
    h->left = h->range_start = -1;
    h->location[0] = '\0';
    int rc = read_line(h, line, sizeof line);
    if (rc != IC_OK)
        return rc;
    if (strncmp(line, "HTTP/1.", 7) != 0 || strlen(line) < 12 || line[8] != ' ')
        return IC_EFORMAT;
    h->status = atoi(line + 9);
    for (int i = 0; i < MAX_HEADERS; i++) {
        rc = read_line(h, line, sizeof line);
        if (rc != IC_OK || line[0] == '\0')
            break;
        rc = header(h, line);
        if (rc != IC_OK)
            return rc;
    }
    if (rc == IC_OK && line[0] != '\0')
        rc = IC_ELIMIT;
    if (h->chunked)
        h->left = 0; /* of a chunk that has not begun */
    return rc;
}

/* --- requests --------------------------------------------------------------------------------- */

static int ask(http *h, int64_t offset, ic_error *e)
{
    hang_up(h);
    int rc = dial(h, e);
    if (rc != IC_OK)
        return rc;
    char request[MAX_LINE], port[16] = "";
    bool usual = h->url.port == (strcmp(h->url.scheme, "https") == 0 ? 443 : 80);
    bool v6 = strchr(h->url.host, ':') != NULL;
    if (!usual)
        snprintf(port, sizeof port, ":%d", h->url.port);
    int n = snprintf(
        request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: %s%s%s%s\r\nUser-Agent: infchat/%s\r\nAccept: */*\r\n"
        "Accept-Encoding: identity\r\nRange: bytes=%" PRId64 "-\r\nConnection: close\r\n\r\n",
        h->url.target, v6 ? "[" : "", h->url.host, v6 ? "]" : "", port, INFCHAT_VERSION, offset);
    rc = send_all(h, request, (size_t)n);
    for (int informational = 0; rc == IC_OK && informational < 5; informational++) {
        rc = read_head(h);
        if (h->status / 100 != 1)
            break;
    }
    if (rc == IC_ECLOSED)
        rc = IC_EIO;
    if (rc != IC_OK)
        return ic_error_set(e, rc, "%s port %d: %s", h->url.host, h->url.port,
                            rc == IC_ETIMEOUT    ? "no answer in time"
                            : rc == IC_ECANCELED ? "stopped"
                            : rc == IC_EIO       ? "the connection broke before an answer"
                                                 : "the answer is not HTTP that we can read");
    return IC_OK;
}

/* h->url becomes where the redirect points. */
static int follow(http *h, ic_error *e)
{
    char text[sizeof h->location + sizeof h->url.target + 600], path[sizeof h->url.target];
    const ic_media_url *u = &h->url;
    const char *open = strchr(u->host, ':') ? "[" : "", *shut = open[0] ? "]" : "";
    if (strstr(h->location, "://"))
        snprintf(text, sizeof text, "%s", h->location);
    else if (strncmp(h->location, "//", 2) == 0)
        snprintf(text, sizeof text, "%s:%s", u->scheme, h->location);
    else if (h->location[0] == '/')
        snprintf(text, sizeof text, "%s://%s%s%s:%d%s", u->scheme, open, u->host, shut, u->port,
                 h->location);
    else {
        memcpy(path, u->target, sizeof path);
        path[strcspn(path, "?")] = '\0';
        *(strrchr(path, '/') + 1) = '\0';
        snprintf(text, sizeof text, "%s://%s%s%s:%d%s%s", u->scheme, open, u->host, shut, u->port,
                 path, h->location);
    }
    ic_media_url next;
    int rc = h->location[0] ? ic_media_url_parse(&next, text, e)
                            : ic_error_set(e, IC_EFORMAT, "a redirect without a place to go");
    if (rc == IC_OK && strcmp(next.scheme, "rtsp") == 0)
        rc = ic_error_set(e, IC_EINVAL, "a redirect may not leave http and https");
    if (rc == IC_OK && strcmp(u->scheme, "https") == 0 && strcmp(next.scheme, "https") != 0)
        rc = ic_error_set(e, IC_EINVAL, "a redirect may not fall back from https to http");
    if (rc != IC_OK)
        return ic_error_prefix(e, rc, "%s redirects", u->host);
    h->url = next;
    return IC_OK;
}

static int refused(const http *h, ic_error *e)
{
    int code = h->status == 404 || h->status == 410 ? IC_ENOTFOUND : IC_EIO;
    const char *why = h->status == 401 || h->status == 403 ? "it wants an authorisation"
                      : code == IC_ENOTFOUND               ? "there is nothing at this address"
                      : h->status == 416                   ? "it has no such range of bytes"
                                                           : "it refuses";
    return ic_error_set(e, code, "%s answers %d: %s", h->url.host, h->status, why);
}

/* Asks for the bytes from offset on, through redirects, until a body is there to read. */
static int request(http *h, int64_t offset, ic_error *e)
{
    for (int hops = 0;; hops++) {
        int rc = ask(h, offset, e);
        if (rc != IC_OK)
            return rc;
        if (h->status < 300 || h->status > 399 || h->status == 304)
            break;
        if (hops == MAX_REDIRECTS)
            return ic_error_set(e, IC_ELIMIT, "%s: more than %d redirects", h->url.host,
                                MAX_REDIRECTS);
        rc = follow(h, e);
        if (rc != IC_OK)
            return rc;
    }
    if (h->status != 200 && h->status != 206)
        return refused(h, e);
    int64_t start = h->status == 206 ? h->range_start : 0;
    if (start != offset)
        return ic_error_set(e, IC_EIO, "%s does not give the bytes that were asked for",
                            h->url.host);
    h->offset = offset;
    return IC_OK;
}

/* --- the body --------------------------------------------------------------------------------- */

static int next_chunk(http *h)
{
    char line[64], *rest;
    int rc = IC_OK;
    if (h->after_chunk)
        rc = read_line(h, line, sizeof line);
    if (rc == IC_OK)
        rc = read_line(h, line, sizeof line);
    if (rc != IC_OK)
        return rc;
    unsigned long long n = strtoull(line, &rest, 16);
    if (!isxdigit((unsigned char)line[0]) || n > INT64_MAX / 2)
        return IC_EFORMAT;
    h->left = (int64_t)n;
    h->after_chunk = true;
    h->ended = n == 0;
    return IC_OK;
}

static int64_t http_read(void *user, uint8_t *into, size_t size)
{
    http *h = user;
    if (!h->ended && h->chunked && h->left == 0) {
        int rc = next_chunk(h);
        if (rc != IC_OK)
            return rc == IC_ECLOSED ? IC_EIO : rc;
    }
    if (h->ended || h->left == 0)
        return 0;
    if (h->left > 0 && (int64_t)size > h->left)
        size = (size_t)h->left;
    int64_t n;
    if (h->at < h->filled) {
        size_t have = h->filled - h->at;
        n = (int64_t)(size < have ? size : have);
        memcpy(into, h->buffer + h->at, (size_t)n);
        h->at += (size_t)n;
    } else {
        n = receive(h, into, size);
    }
    if (n == 0 && h->left > 0)
        return IC_EIO; /* the connection broke in the middle of the body */
    if (n > 0 && h->left > 0)
        h->left -= n;
    h->offset += n > 0 ? n : 0;
    return n;
}

static int http_seek(void *user, int64_t offset)
{
    http *h = user;
    uint8_t skipped[4096];
    bool near = offset >= h->offset && offset - h->offset <= SKIP_BYTES;
    while (near && h->offset < offset) {
        int64_t left = offset - h->offset;
        int64_t n =
            http_read(h, skipped, left < (int64_t)sizeof skipped ? (size_t)left : sizeof skipped);
        if (n <= 0)
            return n < 0 ? (int)n : IC_EIO;
    }
    return near ? IC_OK : request(h, offset, NULL);
}

static void http_close(void *user)
{
    http *h = user;
    hang_up(h);
    ic_free(h->ca_file);
    ic_free(h);
}

int ic_media_http_open(ic_media_bytes *b, const char *url, const ic_media_config *cfg, ic_error *e)
{
    http *h = ic_alloc(sizeof *h);
    h->fd = -1;
    h->size = -1;
    h->allow_private = cfg->allow_private;
    h->ca_file = cfg->ca_file ? ic_strdup(cfg->ca_file) : NULL;
    h->guard = b->guard;
    ic_media_guard_begin(b->guard);
    int rc = ic_media_url_parse(&h->url, url, e);
    if (rc == IC_OK && h->url.user[0])
        rc = ic_error_set(e, IC_EINVAL, "a name and password inside an http URL are not sent");
    if (rc == IC_OK)
        rc = request(h, 0, e);
    if (rc != IC_OK) {
        http_close(h);
        return rc;
    }
    h->ranges = h->status == 206 || h->accepts_ranges;
    if (h->status == 200 && !h->chunked)
        h->size = h->left;
    b->read = http_read;
    b->seek = h->ranges ? http_seek : NULL;
    b->close = http_close;
    b->size = h->size;
    b->user = h;
    return IC_OK;
}
