/* ic_fake_server: a small infchatd in a thread, for the tests of the clients: one session that
 * echoes questions, takes uploads, and misbehaves when a question or a knob asks for it.
 *
 *   "busy"    ERROR BUSY                     "slow"  says "one " and waits for CANCEL
 *   "forget"  the request is lost once, and with it the knowledge of who the client is
 *   "restart" after half of the answer the server forgets its clients; the rest waits in the log
 *   else      "echo: <text>" in pieces of at most 100 bytes
 */
#ifndef IC_FAKE_SERVER_H
#define IC_FAKE_SERVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "base/ic_buf.h"
#include "base/ic_mem.h"
#include "wire/ic_wire.h"

#define FAKE_SESSION "3f9a51c07be2"

enum {
    FAKE_EVENTS_MAX = 2000,
    FAKE_PIECE = 1000,
    FAKE_WINDOW = 3000,
    FAKE_CREDIT = 2000,
    FAKE_HEARTBEAT_MS = 2000 /* long, so that a busy machine is not taken for a silent server */
};

typedef struct fake_server {
    char endpoint[300];
    pthread_t thread;
    void *context, *socket;
    atomic_bool stop;
    /* knobs */
    atomic_bool is_mute; /* hears nothing, says nothing */
    atomic_uint heartbeat_ms;
    atomic_uint forget_at; /* forget the client once this many bytes were uploaded; 0: never */
    atomic_uint lose_at;   /* forget an import once this many of its bytes came; 0: never */
    atomic_bool lose_last; /* ... or when it is finished, before its answer */
    /* counts, read by tests */
    atomic_uint imports;
    atomic_uint hellos, asks, repeated, cancels, credits, byes, medias, pings, attaches;
    atomic_uint overdrawn; /* uploads beyond `until` */
    /* the thread's own */
    uint8_t id[32];
    int id_size; /* 0: nobody is known */
    ic_buf log[FAKE_EVENTS_MAX];
    uint64_t last, next_to_send, turn;
    int64_t credit;
    bool is_attached, is_answering, is_forgotten, is_restarted;
    ic_wire_id ask_key, media_key;
    uint64_t ask_n, media, media_n;
    ic_buf upload;
    uint64_t upload_size; /* as told; UINT64_MAX: unknown */
    char uploaded_name[64];
    ic_wire_id import_key;
    bool is_imported;
    uint64_t transfer;
} fake_server;

static inline void fake_send(fake_server *s, const ic_wire_msg *m, const uint8_t *id, int id_size)
{
    uint8_t signature[IC_WIRE_SIGNATURE_MAX];
    ic_buf body;
    ic_buf_init(&body, 0);
    if (ic_wire_encode(m, &body, NULL))
        abort();
    zmq_send(s->socket, id, (size_t)id_size, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(s->socket, signature, ic_wire_signature(m->verb, signature),
             ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(s->socket, body.data, body.size, ZMQ_DONTWAIT);
    ic_buf_fini(&body);
}

/* Sends what credit allows of the log. */
static inline void fake_flush(fake_server *s)
{
    uint8_t signature[IC_WIRE_SIGNATURE_MAX];
    size_t size = ic_wire_signature(IC_WIRE_EVENT, signature);
    while (s->is_attached && s->id_size && s->next_to_send <= s->last && s->credit > 0) {
        const ic_buf *body = &s->log[s->next_to_send++];
        zmq_send(s->socket, s->id, (size_t)s->id_size, ZMQ_SNDMORE | ZMQ_DONTWAIT);
        zmq_send(s->socket, signature, size, ZMQ_SNDMORE | ZMQ_DONTWAIT);
        zmq_send(s->socket, body->data, body->size, ZMQ_DONTWAIT);
        s->credit -= (int64_t)body->size;
    }
}

static inline ic_wire_msg fake_event(fake_server *s, int type)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_EVENT);
    ic_wire_put(&m.event, event, session, FAKE_SESSION);
    ic_wire_put(&m.event, event, n, s->last + 1);
    ic_wire_put(&m.event, event, time_us, 1767225600000000);
    ic_wire_put(&m.event, event, type, type);
    return m;
}

static inline void fake_log(fake_server *s, const ic_wire_msg *m)
{
    if (++s->last == FAKE_EVENTS_MAX || ic_wire_encode(m, &s->log[s->last], NULL))
        abort();
    fake_flush(s);
}

static inline void fake_turn_event(fake_server *s, int type, const char *text, size_t size)
{
    char piece[128];
    ic_wire_msg m = fake_event(s, type);
    snprintf(piece, sizeof piece, "%.*s", (int)size, text ? text : "");
    ic_wire_put(&m.event, event, turn, s->turn);
    if (text)
        ic_wire_put(&m.event, event, text, piece);
    fake_log(s, &m);
}

static inline void fake_answer_end(fake_server *s, int reason)
{
    ic_wire_msg m = fake_event(s, IC_WIRE_EVENT_ANSWER_END);
    ic_wire_usage usage = {0};
    ic_wire_put(&usage, usage, prompt_tokens, 11);
    ic_wire_put(&usage, usage, completion_tokens, 7);
    ic_wire_put(&usage, usage, exact, true);
    ic_wire_put(&usage, usage, tokens_per_second, 12.5);
    ic_wire_put(&m.event, event, turn, s->turn);
    ic_wire_put(&m.event, event, finish_reason, reason);
    ic_wire_put(&m.event, event, usage, usage);
    s->is_answering = false;
    fake_log(s, &m);
}

static inline void fake_media_event(fake_server *s, int type)
{
    ic_wire_msg m = fake_event(s, type);
    ic_wire_media_info info = {0};
    ic_wire_put(&info, media_info, media, s->media);
    ic_wire_put(&info, media_info, name, s->uploaded_name);
    ic_wire_put(&info, media_info, duration_us, 10000000);
    ic_wire_put(&info, media_info, width, 128);
    ic_wire_put(&info, media_info, height, 96);
    ic_wire_put(&info, media_info, fps, 2.0);
    if (type != IC_WIRE_EVENT_MEDIA_BEGIN) {
        ic_wire_put(&info, media_info, frames_seen, 20);
        ic_wire_put(&info, media_info, pos_us, 10000000);
    }
    ic_wire_put(&m.event, event, media, info);
    fake_log(s, &m);
}

static inline ic_wire_msg fake_ok(const ic_wire_msg *request)
{
    ic_wire_msg m;
    uint64_t re = 0;
    ic_wire_msg_init(&m, IC_WIRE_OK);
    ic_wire_msg_get_re(request, &re);
    ic_wire_put(&m.ok, ok, re, re);
    return m;
}

static inline void fake_refuse(fake_server *s, const ic_wire_msg *request, ic_wire_code code,
                               const char *message)
{
    ic_wire_msg m;
    uint64_t re = 0;
    ic_wire_msg_init(&m, IC_WIRE_ERROR);
    if (ic_wire_msg_get_re(request, &re))
        ic_wire_put(&m.error, error, re, re);
    ic_wire_put(&m.error, error, code, ic_wire_code_name(code));
    ic_wire_put(&m.error, error, message, message);
    ic_wire_put(&m.error, error, retryable, ic_wire_code_is_retryable(code));
    fake_send(s, &m, s->id, s->id_size);
}

static inline void fake_attach(fake_server *s, uint64_t from)
{
    s->is_attached = true;
    s->credit = FAKE_CREDIT;
    s->next_to_send = from;
    fake_flush(s);
}

static inline void fake_answer(fake_server *s, const char *text)
{
    char answer[70000];
    s->turn++;
    fake_turn_event(s, IC_WIRE_EVENT_TURN, "(the question)", 100);
    fake_turn_event(s, IC_WIRE_EVENT_ANSWER_BEGIN, NULL, 0);
    s->is_answering = true;
    if (!strcmp(text, "slow")) {
        fake_turn_event(s, IC_WIRE_EVENT_TEXT, "one ", 4);
        return;
    }
    if (!strcmp(text, "restart") && !s->is_restarted) {
        fake_turn_event(s, IC_WIRE_EVENT_TEXT, "half ", 5);
        s->is_restarted = true;
        s->id_size = 0;
        s->is_attached = false;
        fake_turn_event(s, IC_WIRE_EVENT_TEXT, "whole", 5);
        fake_answer_end(s, IC_WIRE_FINISH_STOP);
        return;
    }
    int size = snprintf(answer, sizeof answer, "echo: %s", text);
    for (int at = 0; at < size; at += 100)
        fake_turn_event(s, IC_WIRE_EVENT_TEXT, answer + at, 100);
    fake_answer_end(s, IC_WIRE_FINISH_STOP);
}

static inline void fake_on_ask(fake_server *s, const ic_wire_msg *m)
{
    const char *text = m->ask.text;
    ic_wire_msg ok = fake_ok(m);
    s->asks++;
    if (!strcmp(text, "forget") && !s->is_forgotten) {
        s->is_forgotten = true;
        s->id_size = 0;
        s->ask_key = m->ask.key;
        return;
    }
    if (!strcmp(text, "busy")) {
        fake_refuse(s, m, IC_WIRE_CODE_BUSY, "the session is answering turn 1");
        return;
    }
    bool is_repeated = s->ask_n && !memcmp(&s->ask_key, &m->ask.key, sizeof s->ask_key);
    if (!is_repeated)
        s->ask_n = s->last + 1;
    s->repeated += is_repeated || (s->is_forgotten && !memcmp(&s->ask_key, &m->ask.key, 16));
    s->ask_key = m->ask.key;
    ic_wire_put(&ok.ok, ok, session, FAKE_SESSION);
    ic_wire_put(&ok.ok, ok, turn, s->turn + !is_repeated);
    ic_wire_put(&ok.ok, ok, n, s->ask_n);
    ic_wire_put(&ok.ok, ok, state, IC_WIRE_STATE_ANSWERING);
    if (is_repeated)
        ic_wire_put(&ok.ok, ok, repeated, true);
    fake_send(s, &ok, s->id, s->id_size);
    if (is_repeated || !s->is_attached)
        fake_attach(s, s->ask_n);
    if (!is_repeated)
        fake_answer(s, text);
}

/* Credit never reaches beyond the size that was told. */
static inline uint64_t fake_until(const fake_server *s)
{
    uint64_t until = s->upload.size + FAKE_WINDOW;
    return until < s->upload_size ? until : s->upload_size;
}

static inline void fake_on_media(fake_server *s, const ic_wire_msg *m)
{
    ic_wire_msg ok = fake_ok(m);
    s->medias++;
    if (m->media.kind != IC_WIRE_KIND_UPLOAD) {
        fake_refuse(s, m, IC_WIRE_CODE_NOTFOUND, "no such file on the server");
        return;
    }
    bool is_repeated = s->media && !memcmp(&s->media_key, &m->media.key, 16);
    if (!is_repeated) {
        s->media++;
        s->media_n = s->last + 1;
        s->media_key = m->media.key;
        ic_buf_clear(&s->upload);
        s->upload_size = ic_wire_get(&m->media, media, size, UINT64_MAX);
        snprintf(s->uploaded_name, sizeof s->uploaded_name, "%s",
                 ic_wire_get(&m->media, media, name, ""));
    }
    ic_wire_put(&ok.ok, ok, session, FAKE_SESSION);
    ic_wire_put(&ok.ok, ok, media, s->media);
    ic_wire_put(&ok.ok, ok, n, s->media_n);
    ic_wire_put(&ok.ok, ok, received, s->upload.size);
    ic_wire_put(&ok.ok, ok, until, fake_until(s));
    if (is_repeated)
        ic_wire_put(&ok.ok, ok, repeated, true);
    fake_send(s, &ok, s->id, s->id_size);
    if (!s->is_attached)
        fake_attach(s, s->media_n);
    if (!is_repeated)
        fake_media_event(s, IC_WIRE_EVENT_MEDIA_BEGIN);
}

static inline void fake_on_data(fake_server *s, const ic_wire_msg *m, const uint8_t *bytes,
                                size_t size)
{
    uint64_t until = fake_until(s);
    if (m->data.offset + size > until)
        s->overdrawn++;
    if (m->data.offset != s->upload.size || m->data.media != s->media)
        return;
    ic_buf_append(&s->upload, bytes, size);
    if (s->forget_at && s->upload.size >= s->forget_at) {
        s->forget_at = 0;
        s->id_size = 0;
        s->is_attached = false;
        return;
    }
    ic_wire_msg grant;
    ic_wire_msg_init(&grant, IC_WIRE_GRANT);
    ic_wire_put(&grant.grant, grant, session, FAKE_SESSION);
    ic_wire_put(&grant.grant, grant, media, s->media);
    ic_wire_put(&grant.grant, grant, until, fake_until(s));
    ic_wire_put(&grant.grant, grant, received, s->upload.size);
    fake_send(s, &grant, s->id, s->id_size);
    fake_media_event(s, ic_wire_get(&m->data, data, last, false) ? IC_WIRE_EVENT_MEDIA_END
                                                                 : IC_WIRE_EVENT_MEDIA_PROGRESS);
}

/* The bytes go where those of uploads go. */
static inline void fake_on_import(fake_server *s, const ic_wire_msg *m)
{
    ic_wire_msg ok = fake_ok(m);
    if (s->imports++ && memcmp(&s->import_key, &m->import.key, sizeof s->import_key))
        abort(); /* the same act has the same key */
    s->import_key = m->import.key;
    if (s->is_imported) {
        ic_wire_put(&ok.ok, ok, session, FAKE_SESSION);
        ic_wire_put(&ok.ok, ok, repeated, true);
    } else {
        ic_buf_clear(&s->upload);
        ic_wire_put(&ok.ok, ok, transfer, ++s->transfer);
        ic_wire_put(&ok.ok, ok, received, 0);
        ic_wire_put(&ok.ok, ok, until, FAKE_WINDOW);
    }
    fake_send(s, &ok, s->id, s->id_size);
}

static inline void fake_on_put(fake_server *s, const ic_wire_msg *m, const uint8_t *bytes,
                               size_t size)
{
    bool is_last = ic_wire_get(&m->put, put, last, false);
    ic_wire_msg ok = fake_ok(m);
    if (m->put.offset + size > s->upload.size + FAKE_WINDOW)
        s->overdrawn++;
    if (m->put.transfer == s->transfer && m->put.offset == s->upload.size)
        ic_buf_append(&s->upload, bytes, size);
    s->is_imported = is_last;
    bool is_lost = (s->lose_at && s->upload.size >= s->lose_at) || (is_last && s->lose_last);
    if (m->put.transfer != s->transfer || is_lost) {
        s->lose_at = 0;
        s->lose_last = false;
        fake_refuse(s, m, IC_WIRE_CODE_NOTFOUND, "there is no such transfer");
        return;
    }
    ic_wire_put(&ok.ok, ok, received, s->upload.size);
    ic_wire_put(&ok.ok, ok, until, s->upload.size + FAKE_WINDOW);
    if (is_last)
        ic_wire_put(&ok.ok, ok, session, FAKE_SESSION);
    fake_send(s, &ok, s->id, s->id_size);
}

static inline void fake_on_list(fake_server *s, const ic_wire_msg *m)
{
    ic_wire_msg ok = fake_ok(m);
    ic_wire_session_info items[2] = {{0}};
    ic_wire_put(&items[0], session_info, session, FAKE_SESSION);
    ic_wire_put(&items[0], session_info, title, "the garden");
    ic_wire_put(&items[0], session_info, state, IC_WIRE_STATE_IDLE);
    ic_wire_put(&items[0], session_info, turns, s->turn);
    ic_wire_put(&items[1], session_info, session, "3f00000000aa");
    ic_wire_put(&items[1], session_info, state, IC_WIRE_STATE_SUSPENDED);
    ic_wire_put(&items[1], session_info, turns, 3);
    bool is_second = ic_wire_has(&m->list, list, after);
    ic_wire_put(&ok.ok, ok, sessions,
                ((ic_wire_session_info_list){1, is_second ? &items[1] : &items[0]}));
    ic_wire_put(&ok.ok, ok, more, !is_second);
    fake_send(s, &ok, s->id, s->id_size);
}

static inline void fake_on_show(fake_server *s, const ic_wire_msg *m)
{
    ic_wire_msg ok = fake_ok(m);
    ic_wire_session_info info = {0};
    ic_wire_turn_info turn = {0};
    ic_wire_put(&info, session_info, session, FAKE_SESSION);
    ic_wire_put(&info, session_info, title, "the garden");
    ic_wire_put(&info, session_info, state, IC_WIRE_STATE_IDLE);
    ic_wire_put(&turn, turn_info, turn, 1);
    ic_wire_put(&turn, turn_info, text, "What is red?");
    ic_wire_put(&turn, turn_info, answer, "A ball.");
    ic_wire_put(&ok.ok, ok, session, FAKE_SESSION);
    ic_wire_put(&ok.ok, ok, info, info);
    ic_wire_put(&ok.ok, ok, turns, ((ic_wire_turn_info_list){1, &turn}));
    fake_send(s, &ok, s->id, s->id_size);
}

static inline void fake_on_status(fake_server *s, const ic_wire_msg *m)
{
    ic_wire_msg ok = fake_ok(m);
    ic_wire_status_info info = {0};
    ic_wire_put(&info, status_info, version, "0.1.0");
    ic_wire_put(&info, status_info, sessions, 2);
    ic_wire_put(&ok.ok, ok, status, info);
    fake_send(s, &ok, s->id, s->id_size);
}

static inline void fake_on_other(fake_server *s, const ic_wire_msg *m)
{
    ic_wire_msg ok = fake_ok(m);
    ic_wire_put(&ok.ok, ok, session, FAKE_SESSION);
    if (m->verb == IC_WIRE_CANCEL) {
        s->cancels++;
        ic_wire_put(&ok.ok, ok, state, IC_WIRE_STATE_IDLE);
    }
    if (m->verb == IC_WIRE_ATTACH || m->verb == IC_WIRE_NEW)
        ic_wire_put(&ok.ok, ok, last, s->last);
    if (m->verb == IC_WIRE_SUSPEND)
        ic_wire_put(&ok.ok, ok, state, IC_WIRE_STATE_SUSPENDED);
    if (m->verb == IC_WIRE_RESUME)
        ic_wire_put(&ok.ok, ok, exact, true);
    fake_send(s, &ok, s->id, s->id_size);
    if (m->verb == IC_WIRE_CANCEL && s->is_answering)
        fake_answer_end(s, IC_WIRE_FINISH_CANCEL);
    s->attaches += m->verb == IC_WIRE_ATTACH;
    if (m->verb == IC_WIRE_ATTACH)
        fake_attach(s, ic_wire_get(&m->attach, attach, from, s->last + 1));
    if (m->verb == IC_WIRE_NEW)
        fake_attach(s, s->last + 1);
}

static inline void fake_welcome(fake_server *s, const uint8_t *id, int id_size)
{
    ic_wire_msg m;
    ic_wire_limits limits = {0};
    s->hellos++;
    memcpy(s->id, id, (size_t)id_size);
    s->id_size = id_size;
    s->is_attached = false;
    ic_wire_msg_init(&m, IC_WIRE_WELCOME);
    ic_wire_put(&limits, limits, piece_bytes, FAKE_PIECE);
    ic_wire_put(&limits, limits, event_credit, FAKE_CREDIT);
    ic_wire_put(&m.welcome, welcome, server, (ic_wire_id){{7}});
    ic_wire_put(&m.welcome, welcome, version, "0.1.0");
    ic_wire_put(&m.welcome, welcome, protocol, 1);
    ic_wire_put(&m.welcome, welcome, heartbeat_ms, s->heartbeat_ms);
    ic_wire_put(&m.welcome, welcome, limits, limits);
    fake_send(s, &m, id, id_size);
}

/* A session that is none, or one of several. false: refused. */
static inline bool fake_find(fake_server *s, const ic_wire_msg *m)
{
    const char *session = ic_wire_msg_session(m);
    if (!session || !strncmp(FAKE_SESSION, session, strlen(session) < 3 ? 3 : strlen(session)))
        return true;
    if (!strncmp(FAKE_SESSION, session, strlen(session)))
        fake_refuse(s, m, IC_WIRE_CODE_AMBIGUOUS, "several sessions begin so");
    else
        fake_refuse(s, m, IC_WIRE_CODE_NOTFOUND, "no session begins so");
    return false;
}

static inline void fake_handle(fake_server *s, ic_wire_msg *m, const uint8_t *id, int id_size,
                               const uint8_t *payload, size_t payload_size)
{
    ic_wire_msg reply;
    if (m->verb == IC_WIRE_HELLO) {
        fake_welcome(s, id, id_size);
        return;
    }
    if (id_size != s->id_size || memcmp(id, s->id, (size_t)id_size)) {
        ic_wire_msg_init(&reply, IC_WIRE_HELLO_AGAIN);
        fake_send(s, &reply, id, id_size);
        return;
    }
    if (!fake_find(s, m))
        return;
    switch (m->verb) {
    case IC_WIRE_PING:
        s->pings++;
        ic_wire_msg_init(&reply, IC_WIRE_PONG);
        fake_send(s, &reply, id, id_size);
        break;
    case IC_WIRE_BYE:
        s->byes++;
        s->id_size = 0;
        s->is_attached = false;
        break;
    case IC_WIRE_CREDIT:
        s->credits++;
        s->credit += (int64_t)m->credit.bytes;
        fake_flush(s);
        break;
    case IC_WIRE_ASK:
        fake_on_ask(s, m);
        break;
    case IC_WIRE_MEDIA:
        fake_on_media(s, m);
        break;
    case IC_WIRE_DATA:
        fake_on_data(s, m, payload, payload_size);
        break;
    case IC_WIRE_IMPORT:
        fake_on_import(s, m);
        break;
    case IC_WIRE_PUT:
        fake_on_put(s, m, payload, payload_size);
        break;
    case IC_WIRE_LIST:
        fake_on_list(s, m);
        break;
    case IC_WIRE_SHOW:
        fake_on_show(s, m);
        break;
    case IC_WIRE_STATUS:
        fake_on_status(s, m);
        break;
    default:
        fake_on_other(s, m);
    }
}

static inline void fake_receive(fake_server *s)
{
    zmq_msg_t frames[4];
    int count = 0;
    for (bool more = true; more && count < 4; count++) {
        zmq_msg_init(&frames[count]);
        if (zmq_msg_recv(&frames[count], s->socket, 0) < 0)
            abort();
        more = zmq_msg_more(&frames[count]);
    }
    ic_wire_msg m = {0};
    ic_error e = {0};
    if (count < 3
        || ic_wire_decode(&m, IC_WIRE_FROM_CLIENT, zmq_msg_data(&frames[1]),
                          zmq_msg_size(&frames[1]), zmq_msg_data(&frames[2]),
                          zmq_msg_size(&frames[2]),
                          count == 4 ? (int64_t)zmq_msg_size(&frames[3]) : -1, &e)) {
        fprintf(stderr, "a client sent what does not decode: %s\n", e.text);
        abort();
    }
    if (!s->is_mute)
        fake_handle(s, &m, zmq_msg_data(&frames[0]), (int)zmq_msg_size(&frames[0]),
                    count == 4 ? zmq_msg_data(&frames[3]) : NULL,
                    count == 4 ? zmq_msg_size(&frames[3]) : 0);
    ic_wire_msg_fini(&m);
    for (int i = 0; i < count; i++)
        zmq_msg_close(&frames[i]);
}

static inline void *fake_run(void *arg)
{
    fake_server *s = arg;
    while (!s->stop) {
        zmq_pollitem_t item = {.socket = s->socket, .events = ZMQ_POLLIN};
        if (zmq_poll(&item, 1, 20) > 0)
            fake_receive(s);
    }
    return NULL;
}

/* Binds ipc://<dir>/<name> and runs. Caller owns; fake_server_stop. */
static inline fake_server *fake_server_start(const char *dir, const char *name)
{
    fake_server *s = ic_alloc(sizeof *s);
    int linger = 0;
    s->heartbeat_ms = FAKE_HEARTBEAT_MS;
    snprintf(s->endpoint, sizeof s->endpoint, "ipc://%s/%s", dir, name);
    s->context = zmq_ctx_new();
    s->socket = zmq_socket(s->context, ZMQ_ROUTER);
    zmq_setsockopt(s->socket, ZMQ_LINGER, &linger, sizeof linger);
    if (zmq_bind(s->socket, s->endpoint) || pthread_create(&s->thread, NULL, fake_run, s))
        abort();
    return s;
}

static inline void fake_server_stop(fake_server *s)
{
    s->stop = true;
    pthread_join(s->thread, NULL);
    zmq_close(s->socket);
    zmq_ctx_term(s->context);
    for (int i = 0; i < FAKE_EVENTS_MAX; i++)
        ic_buf_fini(&s->log[i]);
    ic_buf_fini(&s->upload);
    ic_free(s);
}

#endif
