/* The connection: HELLO, heartbeats, reconnects, one request at a time, events and their credit. */
#include "clients/ic_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include "base/ic_clock.h"
#include "base/ic_mem.h"
#include "clients/ic_client_priv.h"
#include "wire/ic_endpoint.h"

enum {
    FIRST_BACKOFF_US = 250 * 1000,
    MAX_BACKOFF_US = 8 * 1000 * 1000,
    DRAIN_MAX = 64, /* messages handled before the caller gets his turn */
    GRANT_PART = 4, /* credit goes back when this part of it is spent */
    DEFAULT_CREDIT = 65536,
    TICK_MS = 100 /* longest sleep, so that deadlines and heartbeats are kept */
};

/* --- sending ---------------------------------------------------------------------------------- */

static int send_frames(ic_client *c, const void *signature, size_t signature_size,
                       const ic_buf *body, const void *payload, size_t payload_size)
{
    int more = payload ? ZMQ_SNDMORE : 0;
    if (zmq_send(c->socket, signature, signature_size, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
        return IC_EAGAIN;
    zmq_send(c->socket, body->data, body->size, ZMQ_DONTWAIT | more);
    if (payload)
        zmq_send(c->socket, payload, payload_size, ZMQ_DONTWAIT);
    c->sent_us = ic_clock_mono_us();
    return IC_OK;
}

int ic_client_send(ic_client *c, const ic_wire_msg *m, const void *payload, size_t payload_size)
{
    uint8_t signature[IC_WIRE_SIGNATURE_MAX];
    ic_buf body;
    ic_buf_init(&body, 0);
    int rc = ic_wire_encode(m, &body, NULL);
    if (!rc)
        rc = send_frames(c, signature, ic_wire_signature(m->verb, signature), &body, payload,
                         payload_size);
    ic_buf_fini(&body);
    return rc;
}

static void send_hello(ic_client *c)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_HELLO);
    ic_wire_put(&m.hello, hello, client, c->id);
    if (c->name)
        ic_wire_put(&m.hello, hello, name, c->name);
    c->is_welcome = false;
    c->hello_us = ic_clock_mono_us();
    ic_client_send(c, &m, NULL, 0);
}

static void send_empty(ic_client *c, ic_wire_verb verb)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, verb);
    ic_client_send(c, &m, NULL, 0);
}

static void send_call(ic_client *c)
{
    send_frames(c, c->call_signature, c->call_signature_size, &c->call_body, c->call_payload,
                c->call_payload_size);
}

/* --- the connection --------------------------------------------------------------------------- */

static void close_socket(ic_client *c, int linger_ms)
{
    if (!c->socket)
        return;
    zmq_setsockopt(c->socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_close(c->socket);
    c->socket = NULL;
}

/* A new socket, so that what waits in the old one is not delivered to a server of another time. */
static int connect_anew(ic_client *c, ic_error *e)
{
    int64_t frame_max = IC_WIRE_BODY_MAX;
    close_socket(c, 0);
    c->socket = zmq_socket(c->context, ZMQ_DEALER);
    if (!c->socket)
        return ic_error_set(e, IC_ENOMEM, "no socket: %s", zmq_strerror(errno));
    zmq_setsockopt(c->socket, ZMQ_MAXMSGSIZE, &frame_max, sizeof frame_max);
    if (zmq_connect(c->socket, c->endpoint))
        return ic_error_set(e, IC_EINVAL, "%s: %s", c->endpoint, zmq_strerror(errno));
    c->ping_us = 0;
    send_hello(c);
    return IC_OK;
}

static void set_lost(ic_client *c, bool is_lost)
{
    if (c->is_lost == is_lost)
        return;
    c->is_lost = is_lost;
    c->lost_us = ic_clock_mono_us();
    if (c->options.on_lost)
        c->options.on_lost(is_lost, c->options.arg);
}

static int64_t heartbeat_us(const ic_client *c)
{
    return (int64_t)ic_wire_get(&c->welcome.welcome, welcome, heartbeat_ms, 2000) * 1000;
}

/* Heartbeats and new attempts; called after the socket was drained. */
static void keep_alive(ic_client *c)
{
    int64_t now = ic_clock_mono_us(), beat = heartbeat_us(c);
    if (!c->is_welcome) {
        if (now - c->hello_us < c->backoff_us)
            return;
        c->backoff_us = c->backoff_us * 2 < MAX_BACKOFF_US ? c->backoff_us * 2 : MAX_BACKOFF_US;
        connect_anew(c, NULL);
        return;
    }
    if (c->ping_us && now - c->ping_us > 2 * beat) {
        set_lost(c, true);
        c->backoff_us = FIRST_BACKOFF_US;
        connect_anew(c, NULL);
        return;
    }
    if (now - c->sent_us >= beat || (now - c->heard_us >= beat && !c->ping_us)) {
        send_empty(c, IC_WIRE_PING);
        c->ping_us = c->ping_us ? c->ping_us : now;
    }
}

/* --- attachments ------------------------------------------------------------------------------ */

static ic_client_attachment *attachment_of(ic_client *c, const char *session)
{
    for (int i = 0; i < c->attachment_count; i++)
        if (!strcmp(c->attachments[i].session, session))
            return &c->attachments[i];
    return NULL;
}

/* The session's attachment, made when there is none; NULL when there are too many. */
static ic_client_attachment *attach(ic_client *c, const char *session, uint64_t last)
{
    ic_client_attachment *a = attachment_of(c, session);
    if (a || c->attachment_count == IC_CLIENT_ATTACHMENTS_MAX)
        return a;
    a = &c->attachments[c->attachment_count++];
    memset(a, 0, sizeof *a);
    snprintf(a->session, sizeof a->session, "%s", session);
    a->last = last;
    return a;
}

static void forget_attachment(ic_client *c, const char *session)
{
    ic_client_attachment *a = attachment_of(c, session);
    if (a)
        *a = c->attachments[--c->attachment_count];
}

static void attach_again(ic_client *c)
{
    for (int i = 0; i < c->attachment_count; i++) {
        ic_client_attachment *a = &c->attachments[i];
        ic_wire_msg m;
        ic_wire_msg_init(&m, IC_WIRE_ATTACH);
        ic_wire_put(&m.attach, attach, re, c->next_re++);
        ic_wire_put(&m.attach, attach, session, a->session);
        ic_wire_put(&m.attach, attach, from, a->last + 1);
        a->spent = 0;
        ic_client_send(c, &m, NULL, 0);
    }
}

/* What an OK says about who is attached to what. */
static void note_attachment(ic_client *c, const ic_wire_ok *ok)
{
    if (!ic_wire_has(ok, ok, session))
        return;
    switch (c->call_verb) {
    case IC_WIRE_DETACH:
    case IC_WIRE_RM:
        forget_attachment(c, ok->session);
        break;
    case IC_WIRE_ATTACH:
        forget_attachment(c, ok->session);
        attach(c, ok->session, c->call_from ? c->call_from - 1 : ic_wire_get(ok, ok, last, 0));
        break;
    case IC_WIRE_NEW:
    case IC_WIRE_ASK:
    case IC_WIRE_MEDIA:
        attach(c, ok->session, ic_wire_get(ok, ok, n, 1) - 1);
        break;
    default:
        break;
    }
}

/* --- receiving -------------------------------------------------------------------------------- */

static void grant_back(ic_client *c, ic_client_attachment *a, size_t bytes)
{
    uint64_t credit = ic_wire_get(&c->welcome.welcome.limits, limits, event_credit, DEFAULT_CREDIT);
    a->spent += bytes;
    if (a->spent < credit / GRANT_PART)
        return;
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_CREDIT);
    ic_wire_put(&m.credit, credit, session, a->session);
    ic_wire_put(&m.credit, credit, bytes, a->spent);
    if (!ic_client_send(c, &m, NULL, 0))
        a->spent = 0;
}

static void on_event(ic_client *c, const ic_wire_event *event, size_t bytes)
{
    ic_client_attachment *a = attach(c, event->session, event->n - 1);
    if (a) {
        grant_back(c, a, bytes);
        if (event->n <= a->last)
            return; /* sent again after a reconnect or a repeated request */
        a->last = event->n;
    }
    ic_client_upload_on_event(c, event);
    if (c->options.on_event && event->type >= 0)
        c->options.on_event(event, c->options.arg);
}

static void on_welcome(ic_client *c, ic_wire_msg *m)
{
    ic_wire_msg_fini(&c->welcome);
    c->welcome = *m;
    memset(m, 0, sizeof *m);
    if (c->is_welcome)
        return;
    c->is_welcome = true;
    c->backoff_us = FIRST_BACKOFF_US;
    set_lost(c, false);
    attach_again(c);
    if (c->is_calling && !c->is_answered)
        send_call(c);
    ic_client_upload_rejoin(c);
}

static void on_error(ic_client *c, ic_wire_msg *m)
{
    const ic_wire_error *error = &m->error;
    ic_wire_code code = ic_wire_code_of(error->code);
    if (c->is_calling && ic_wire_has(error, error, re) && error->re == c->call_re) {
        *c->call_reply = *m;
        memset(m, 0, sizeof *m);
        c->is_answered = true;
        return;
    }
    if (!c->is_welcome && code == IC_WIRE_CODE_VERSION) {
        c->fatal = ic_error_set(&c->fatal_text, IC_EVERSION, "%s", error->message);
        return;
    }
    ic_client_upload_on_error(c, error);
    if (c->options.on_error)
        c->options.on_error(error, c->options.arg);
}

static void on_ok(ic_client *c, ic_wire_msg *m)
{
    if (c->is_calling && !c->is_answered && m->ok.re == c->call_re) {
        note_attachment(c, &m->ok);
        if (c->upload.is_starting)
            ic_client_upload_on_started(c, &m->ok);
        *c->call_reply = *m;
        memset(m, 0, sizeof *m);
        c->is_answered = true;
    } else {
        ic_client_upload_on_ok(c, &m->ok);
    }
}

static void on_chunk(ic_client *c, ic_wire_msg *m, const void *payload, size_t size)
{
    if (!c->is_calling || c->is_answered || m->chunk.re != c->call_re || !c->call_bytes)
        return;
    ic_buf_clear(c->call_bytes);
    ic_buf_append(c->call_bytes, payload, size); /* a failure stays in it, for its owner */
    *c->call_reply = *m;
    memset(m, 0, sizeof *m);
    c->is_answered = true;
}

static void dispatch(ic_client *c, ic_wire_msg *m, size_t bytes, const void *payload, size_t size)
{
    switch (m->verb) {
    case IC_WIRE_CHUNK:
        on_chunk(c, m, payload, size);
        break;
    case IC_WIRE_WELCOME:
        on_welcome(c, m);
        break;
    case IC_WIRE_HELLO_AGAIN:
        if (c->is_welcome)
            send_hello(c);
        break;
    case IC_WIRE_OK:
        on_ok(c, m);
        break;
    case IC_WIRE_ERROR:
        on_error(c, m);
        break;
    case IC_WIRE_EVENT:
        on_event(c, &m->event, bytes);
        break;
    case IC_WIRE_GRANT:
        ic_client_upload_on_grant(c, &m->grant);
        break;
    case IC_WIRE_GOAWAY:
        if (c->options.on_goaway)
            c->options.on_goaway(&m->goaway, c->options.arg);
        break;
    default: /* PONG: being heard was all */
        break;
    }
}

/* One message, all its frames; what is not of this protocol is dropped. false: none was there. */
static bool receive(ic_client *c)
{
    enum { FRAMES = 3 };
    zmq_msg_t frames[FRAMES + 1]; /* the last one takes what is too much */
    int count = 0;
    for (bool more = true; more; count++) {
        zmq_msg_t *frame = &frames[count < FRAMES ? count : FRAMES];
        zmq_msg_init(frame);
        if (zmq_msg_recv(frame, c->socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(frame);
            break; /* only before the first frame: messages arrive whole */
        }
        more = zmq_msg_more(frame);
        if (count >= FRAMES)
            zmq_msg_close(frame);
    }
    if (count == 2 || count == FRAMES) {
        ic_wire_msg m;
        size_t bytes = zmq_msg_size(&frames[1]);
        const void *payload = count == FRAMES ? zmq_msg_data(&frames[2]) : NULL;
        size_t size = payload ? zmq_msg_size(&frames[2]) : 0;
        int rc = ic_wire_decode(&m, IC_WIRE_FROM_SERVER, zmq_msg_data(&frames[0]),
                                zmq_msg_size(&frames[0]), zmq_msg_data(&frames[1]), bytes,
                                payload ? (int64_t)size : -1, NULL);
        c->heard_us = ic_clock_mono_us();
        c->ping_us = 0;
        if (!rc)
            dispatch(c, &m, bytes, payload, size);
        ic_wire_msg_fini(&m);
    }
    for (int i = 0; i < count && i < FRAMES; i++)
        zmq_msg_close(&frames[i]);
    return count > 0;
}

/* Sleeps until there is something to do; receives; keeps alive; sends the upload's next pieces.
 * IC_EAGAIN: a signal came. *received and *fd_ready are set; fd_ready may be NULL. */
static int turn_once(ic_client *c, int fd, bool *fd_ready, int timeout_ms, bool *received,
                     ic_error *e)
{
    bool wants_upload = ic_client_upload_wants_fd(c);
    zmq_pollitem_t items[3] = {{.socket = c->socket, .events = ZMQ_POLLIN}};
    int count = 1, at_fd = 0, at_upload = 0;
    if (!c->socket)
        return ic_error_set(e, IC_ENOMEM, "no socket for a new connection to %s", c->endpoint);
    if (fd >= 0)
        items[at_fd = count++] = (zmq_pollitem_t){.fd = fd, .events = ZMQ_POLLIN};
    if (wants_upload)
        items[at_upload = count++] = (zmq_pollitem_t){.fd = c->upload.fd, .events = ZMQ_POLLIN};
    if (zmq_poll(items, count, timeout_ms < TICK_MS ? timeout_ms : TICK_MS) < 0)
        return errno == EINTR ? IC_EAGAIN
                              : ic_error_set(e, IC_EIO, "polling: %s", zmq_strerror(errno));
    /* Behind the answer of a call come events that its caller takes with other eyes. */
    for (int i = 0; i < DRAIN_MAX && !(c->is_calling && c->is_answered) && receive(c); i++)
        *received = true;
    if (c->fatal)
        return ic_error_set(e, c->fatal, "%s", c->fatal_text.text);
    keep_alive(c);
    if (c->is_welcome)
        ic_client_upload_pump(c, at_upload && items[at_upload].revents);
    if (fd_ready)
        *fd_ready = at_fd && items[at_fd].revents;
    return IC_OK;
}

/* --- public ----------------------------------------------------------------------------------- */

static int unreachable(const ic_client *c, ic_error *e)
{
    return ic_error_set(e, IC_ECLOSED,
                        "no infchatd answers at %s; start it, or name another endpoint",
                        c->endpoint);
}

/* Whether somebody listens on a socket file: libzmq would try for ever, without a word. */
static bool is_listening(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%.107s", path); /* as parsed: no longer */
    int rc = connect(fd, (struct sockaddr *)&address, sizeof address);
    bool is_there = rc == 0 || errno == EAGAIN; /* EAGAIN: its queue is full */
    if (fd >= 0)
        close(fd);
    return is_there;
}

static int check_endpoint(const ic_client *c, ic_error *e)
{
    ic_endpoint ep;
    int rc = ic_endpoint_parse(&ep, c->endpoint, e);
    if (!rc && ep.kind == IC_ENDPOINT_IPC && !is_listening(ep.path))
        rc = unreachable(c, e);
    return rc;
}

/* A signal that asks to stop; others (a resized window) are nothing. */
static bool is_interrupted(const ic_client *c)
{
    return c->options.is_interrupted && c->options.is_interrupted(c->options.arg);
}

static int await_welcome(ic_client *c, ic_error *e)
{
    int64_t deadline = ic_clock_mono_us() + (int64_t)c->options.timeout_ms * 1000;
    int rc = connect_anew(c, e);
    while (!rc && !c->is_welcome) {
        bool received = false;
        int64_t left = (deadline - ic_clock_mono_us()) / 1000;
        if (left <= 0)
            return unreachable(c, e);
        rc = turn_once(c, -1, NULL, (int)left, &received, e);
        if (rc == IC_EAGAIN)
            rc = is_interrupted(c) ? ic_error_set(e, IC_ECANCELED, "interrupted") : IC_OK;
    }
    return rc;
}

int ic_client_open(ic_client **c_p, const ic_client_options *options, ic_error *e)
{
    ic_client *c = ic_alloc(sizeof *c);
    c->options = *options;
    c->endpoint = ic_strdup(options->endpoint);
    c->name = options->name ? ic_strdup(options->name) : NULL;
    c->backoff_us = FIRST_BACKOFF_US;
    c->next_re = 1;
    c->heard_us = ic_clock_mono_us();
    ic_buf_init(&c->call_body, 0);
    ic_buf_init(&c->upload.window, 0);
    int rc = IC_OK;
    if (getrandom(&c->id, sizeof c->id, 0) != sizeof c->id)
        rc = ic_error_set(e, IC_EIO, "no random bytes");
    if (!rc)
        rc = check_endpoint(c, e);
    c->context = zmq_ctx_new();
    if (!rc)
        rc = await_welcome(c, e);
    if (rc)
        ic_client_close(&c);
    *c_p = c;
    return rc;
}

void ic_client_close(ic_client **c_p)
{
    ic_client *c = *c_p;
    if (!c)
        return;
    if (c->socket && c->is_welcome)
        send_empty(c, IC_WIRE_BYE);
    close_socket(c, c->is_welcome ? 200 : 0);
    if (c->context)
        zmq_ctx_term(c->context);
    ic_client_upload_abort(c);
    ic_wire_msg_fini(&c->welcome);
    ic_buf_fini(&c->call_body);
    ic_free(c->endpoint);
    ic_free(c->name);
    ic_free(c);
    *c_p = NULL;
}

const ic_wire_welcome *ic_client_welcome(const ic_client *c)
{
    return &c->welcome.welcome;
}

const char *ic_client_last_code(const ic_client *c)
{
    return c->last_code;
}

/* The IC_E* nearest to an error code of the protocol. */
static int err_of(ic_wire_code code)
{
    switch (code) {
    case IC_WIRE_CODE_BUSY:
        return IC_EBUSY;
    case IC_WIRE_CODE_CONFLICT:
    case IC_WIRE_CODE_EXPIRED:
        return IC_ECONFLICT;
    case IC_WIRE_CODE_NOTFOUND:
    case IC_WIRE_CODE_AMBIGUOUS:
        return IC_ENOTFOUND;
    case IC_WIRE_CODE_LIMIT:
        return IC_ELIMIT;
    case IC_WIRE_CODE_VERSION:
        return IC_EVERSION;
    case IC_WIRE_CODE_UNSUPPORTED:
        return IC_EUNSUPPORTED;
    case IC_WIRE_CODE_MEDIA:
    case IC_WIRE_CODE_CORRUPT:
        return IC_EFORMAT;
    case IC_WIRE_CODE_MISMATCH:
        return IC_EMISMATCH;
    case IC_WIRE_CODE_STORE:
        return IC_EIO;
    case IC_WIRE_CODE_DEVICE:
        return IC_EDEVICE;
    case IC_WIRE_CODE_SHUTDOWN:
        return IC_ECLOSED;
    case IC_WIRE_CODE_TIMEOUT:
        return IC_ETIMEOUT;
    case IC_WIRE_CODE_INTERNAL:
        return IC_EBUG;
    default:
        return IC_EINVAL;
    }
}

int ic_client_fill_key(ic_wire_msg *request, ic_error *e)
{
    ic_wire_id key;
    if (ic_wire_msg_get_key(request, &key))
        return IC_OK;
    if (getrandom(&key, sizeof key, 0) != sizeof key)
        return ic_error_set(e, IC_EIO, "no random bytes for a key");
    ic_wire_msg_set_key(request, &key);
    return IC_OK;
}

static int prepare_call(ic_client *c, ic_wire_msg *request, ic_wire_msg *reply, ic_error *e)
{
    memset(reply, 0, sizeof *reply);
    c->last_code[0] = '\0';
    c->call_re = c->next_re++;
    if (!ic_wire_msg_set_re(request, c->call_re))
        return ic_error_set(e, IC_EINVAL, "%s gets no answer", ic_wire_verb_name(request->verb));
    ic_buf_clear(&c->call_body);
    int rc = ic_client_fill_key(request, e);
    if (!rc)
        rc = ic_wire_encode(request, &c->call_body, e);
    if (rc)
        return rc;
    c->call_signature_size = ic_wire_signature(request->verb, c->call_signature);
    c->call_verb = request->verb;
    c->call_from =
        request->verb == IC_WIRE_ATTACH ? ic_wire_get(&request->attach, attach, from, 0) : 0;
    c->call_reply = reply;
    c->is_answered = false;
    c->is_calling = true;
    return IC_OK;
}

static int await_answer(ic_client *c, ic_error *e)
{
    int64_t deadline = ic_clock_mono_us() + (int64_t)c->options.timeout_ms * 1000;
    if (c->is_welcome)
        send_call(c);
    while (!c->is_answered) {
        bool received = false;
        int64_t left = (deadline - ic_clock_mono_us()) / 1000;
        if (left <= 0 && c->is_welcome)
            return ic_error_set(e, IC_ETIMEOUT,
                                "no answer to %s within %d ms; the server may still "
                                "carry it out",
                                ic_wire_verb_name(c->call_verb), c->options.timeout_ms);
        if (left <= 0)
            return unreachable(c, e);
        int rc = turn_once(c, -1, NULL, (int)left, &received, e);
        if (rc == IC_EAGAIN)
            rc = is_interrupted(c) ? ic_error_set(e, IC_ECANCELED, "interrupted") : IC_OK;
        if (rc)
            return rc;
    }
    return IC_OK;
}

int ic_client_call(ic_client *c, ic_wire_msg *request, ic_wire_msg *reply, ic_error *e)
{
    return ic_client_call_bytes(c, request, NULL, 0, reply, NULL, e);
}

int ic_client_call_bytes(ic_client *c, ic_wire_msg *request, const void *payload,
                         size_t payload_size, ic_wire_msg *reply, ic_buf *bytes, ic_error *e)
{
    int rc = prepare_call(c, request, reply, e);
    if (rc)
        return rc;
    c->call_payload = payload;
    c->call_payload_size = payload_size;
    c->call_bytes = bytes;
    rc = await_answer(c, e);
    c->call_payload = NULL;
    c->call_bytes = NULL;
    c->is_calling = false;
    if (!rc && reply->verb == IC_WIRE_ERROR) {
        snprintf(c->last_code, sizeof c->last_code, "%s", reply->error.code);
        rc =
            ic_error_set(e, err_of(ic_wire_code_of(reply->error.code)), "%s", reply->error.message);
        ic_wire_msg_fini(reply);
    }
    return rc;
}

int ic_client_wait(ic_client *c, int fd, bool *fd_ready, int timeout_ms, ic_error *e)
{
    int64_t deadline = ic_clock_mono_us() + (int64_t)timeout_ms * 1000;
    bool received = false, is_ready = false;
    for (;;) {
        int64_t left = (deadline - ic_clock_mono_us()) / 1000;
        int rc = turn_once(c, fd, &is_ready, left > 0 ? (int)left : 0, &received, e);
        if (fd_ready)
            *fd_ready = is_ready;
        if (rc)
            return rc == IC_EAGAIN ? IC_OK : rc;
        if (c->is_lost && ic_clock_mono_us() - c->lost_us > (int64_t)c->options.timeout_ms * 1000)
            return unreachable(c, e);
        if (received || is_ready || left <= 0)
            return IC_OK;
    }
}
