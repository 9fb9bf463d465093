#include "actors/ic_router.h"

#include <string.h>
#include <sys/random.h>

#include "actors/ic_router_priv.h"
#include "base/ic_clock.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

enum {
    BUDGET = 64,           /* messages of one socket before the others have their turn */
    TICK_MS = 100,         /* heartbeats, rooms */
    RETRY_MS = 5,          /* while something waits for a slow client */
    SILENT_BEATS = 3,      /* missed heartbeats after which a client is gone */
    LINGER_MS = 500,       /* at the end, for what was sent */
    DRAIN_EXTRA_MS = 20000 /* beyond the answers' deadline, for checkpoints */
};

/* --- to clients --------------------------------------------------------------------------------
 */

/* payload NULL: the message has none. */
static void send_message(router *r, uint64_t peer, ic_wire_msg *m, const void *payload, size_t size)
{
    ic_peer *to = ic_peers_get(&r->peers, peer);
    if (!to)
        return;
    ic_mail_send *out = ic_mail_send_new(peer, m->verb);
    ic_error e = {0};
    out->has_payload = payload != NULL;
    if ((payload && ic_buf_append(&out->payload, payload, size))
        || ic_wire_encode(m, &out->body, &e)) {
        ic_log_error("router", "BUG: %s", e.text);
        ic_mail_discard((ic_mail **)&out);
        return;
    }
    ic_peers_send(&r->peers, to, &out);
}

void router_send(router *r, uint64_t peer, ic_wire_msg *m)
{
    send_message(r, peer, m, NULL, 0);
}

void router_send_bytes(router *r, uint64_t peer, ic_wire_msg *m, const void *bytes, size_t size)
{
    send_message(r, peer, m, size ? bytes : "", size);
}

ic_wire_msg router_ok(const ic_mail_request *q)
{
    ic_wire_msg m;
    uint64_t re = 0;
    ic_wire_msg_init(&m, IC_WIRE_OK);
    ic_wire_msg_get_re(&q->msg, &re);
    ic_wire_put(&m.ok, ok, re, re);
    return m;
}

static void fill_error(ic_wire_msg *m, ic_wire_code code, const char *message)
{
    ic_wire_msg_init(m, IC_WIRE_ERROR);
    ic_wire_put(&m->error, error, code, ic_wire_code_name(code));
    ic_wire_put(&m->error, error, message, message);
    ic_wire_put(&m->error, error, retryable, ic_wire_code_is_retryable(code));
}

void router_error(router *r, const ic_mail_request *q, ic_wire_code code, const char *message)
{
    ic_wire_msg m;
    uint64_t re = 0;
    fill_error(&m, code, message);
    if (ic_wire_msg_get_re(&q->msg, &re))
        ic_wire_put(&m.error, error, re, re);
    const char *session = ic_wire_msg_session(&q->msg);
    if (session)
        ic_wire_put(&m.error, error, session, session);
    router_send(r, q->peer, &m);
}

/* --- clients that come and go ------------------------------------------------------------------
 */

static void peer_gone(router *r, ic_peer *peer)
{
    bool client_gone = !ic_peers_has_client(&r->peers, &peer->client, peer);
    for (router_entry *e = r->entries; e; e = e->next) {
        ic_mail_peer_gone *m = ic_mail_new(IC_MAIL_PEER_GONE, sizeof *m, NULL);
        m->peer = peer->number;
        m->client = peer->client;
        m->client_gone = client_gone;
        router_tell(r, e, &m);
    }
    ic_log_debug("router", "client %llu (%s) is gone", (unsigned long long)peer->number,
                 peer->name);
    ic_peers_remove(&r->peers, peer);
}

static void drop_silent(router *r)
{
    int64_t limit = ic_clock_mono_us() - (int64_t)r->args->heartbeat_ms * SILENT_BEATS * 1000;
    ic_peer *peer = r->peers.first;
    while (peer) {
        ic_peer *next = peer->next;
        if (peer->lost || peer->heard_us < limit)
            peer_gone(r, peer);
        peer = next;
    }
}

static void send_welcome(router *r, const ic_peer *peer)
{
    ic_wire_msg m;
    ic_wire_limits limits = {0};
    const ic_talk_limits *l = &r->args->limits;
    ic_wire_put(&limits, limits, text_bytes, IC_WIRE_TEXT_MAX);
    ic_wire_put(&limits, limits, piece_bytes, IC_WIRE_PIECE_MAX);
    ic_wire_put(&limits, limits, upload_bytes, (uint64_t)l->ingest.upload_bytes);
    ic_wire_put(&limits, limits, event_credit, l->event_credit);
    ic_wire_put(&limits, limits, max_tokens, (uint64_t)l->max_answer_tokens);
    ic_wire_msg_init(&m, IC_WIRE_WELCOME);
    ic_wire_put(&m.welcome, welcome, server, r->server);
    ic_wire_put(&m.welcome, welcome, version, INFCHAT_VERSION);
    ic_wire_put(&m.welcome, welcome, protocol, IC_WIRE_VERSION);
    ic_wire_put(&m.welcome, welcome, heartbeat_ms, (uint64_t)r->args->heartbeat_ms);
    ic_wire_put(&m.welcome, welcome, model, ic_engine_info_of(l->engine)->model_name);
    ic_wire_put(&m.welcome, welcome, device, r->args->sched_args->device);
    ic_wire_put(&m.welcome, welcome, vision, ic_engine_info_of(l->engine)->patch_pixels > 0);
    ic_wire_put(&m.welcome, welcome, limits, limits);
    router_send(r, peer->number, &m);
}

/* --- one message -------------------------------------------------------------------------------
 */

typedef struct incoming {
    int listener;
    zmsg_t *frames;
    zframe_t *rid, *head, *map, *payload; /* borrowed from frames */
    ic_peer *peer;                        /* NULL: unknown */
} incoming;

static void reply_raw(router *r, const incoming *in, ic_wire_msg *m)
{
    if (in->peer)
        router_send(r, in->peer->number, m);
    else
        ic_peers_send_raw(&r->peers, in->listener, zframe_data(in->rid), zframe_size(in->rid), m);
}

static void take_hello(router *r, incoming *in, const ic_wire_hello *h)
{
    ic_wire_msg m;
    if (ic_wire_get(h, hello, protocol_min, IC_WIRE_VERSION) > IC_WIRE_VERSION
        || ic_wire_get(h, hello, protocol_max, IC_WIRE_VERSION) < IC_WIRE_VERSION) {
        fill_error(&m, IC_WIRE_CODE_VERSION, "this server speaks version 1 of the protocol");
        reply_raw(r, in, &m);
        return;
    }
    if (!in->peer && r->peers.count >= r->args->max_clients) {
        fill_error(&m, IC_WIRE_CODE_BUSY, "too many clients (server.max_clients): try later");
        reply_raw(r, in, &m);
        return;
    }
    if (!in->peer)
        in->peer =
            ic_peers_add(&r->peers, in->listener, zframe_data(in->rid), zframe_size(in->rid));
    in->peer->client = h->client;
    in->peer->heard_us = ic_clock_mono_us();
    snprintf(in->peer->name, sizeof in->peer->name, "%s", ic_wire_get(h, hello, name, "?"));
    ic_log_debug("router", "client %llu is %s", (unsigned long long)in->peer->number,
                 in->peer->name);
    send_welcome(r, in->peer);
}

/* What was asked, but for the number of the request: the same act asked twice hashes alike. */
static void hash_content(ic_mail_request *q)
{
    uint64_t re = 0;
    ic_buf bytes = {0};
    const char *verb = ic_wire_verb_name(q->msg.verb);
    bool numbered = ic_wire_msg_get_re(&q->msg, &re);
    if (numbered)
        ic_wire_msg_set_re(&q->msg, 0);
    ic_buf_append(&bytes, "local", sizeof "local");
    ic_buf_append(&bytes, verb, strlen(verb) + 1);
    ic_error e = {0};
    if (ic_wire_encode(&q->msg, &bytes, &e) == IC_OK)
        ic_store_hash(bytes.data, bytes.size, q->content);
    if (numbered)
        ic_wire_msg_set_re(&q->msg, re);
    ic_buf_fini(&bytes);
}

static bool is_new_work(ic_wire_verb verb)
{
    return verb == IC_WIRE_NEW || verb == IC_WIRE_ASK || verb == IC_WIRE_MEDIA
           || verb == IC_WIRE_RESUME || verb == IC_WIRE_RM || verb == IC_WIRE_SUSPEND
           || verb == IC_WIRE_FORK || verb == IC_WIRE_MARK || verb == IC_WIRE_UNMARK
           || verb == IC_WIRE_EXPORT || verb == IC_WIRE_IMPORT;
}

static void route(router *r, ic_mail_request **q_p)
{
    ic_mail_request *q = *q_p;
    if (r->draining && is_new_work(q->msg.verb)) {
        router_error(r, q, IC_WIRE_CODE_SHUTDOWN, "the server is stopping");
        return;
    }
    if (ic_request_key(&q->msg))
        hash_content(q);
    const char *session = ic_wire_msg_session(&q->msg);
    if (session)
        snprintf(q->session, sizeof q->session, "%.26s", session);
    switch (q->msg.verb) {
    case IC_WIRE_NEW:
    case IC_WIRE_LIST:
    case IC_WIRE_SHOW:
    case IC_WIRE_TITLE:
    case IC_WIRE_STATUS:
    case IC_WIRE_MARK:
    case IC_WIRE_UNMARK:
    case IC_WIRE_FORK:
        router_desk(r, q_p);
        return;
    case IC_WIRE_EXPORT:
    case IC_WIRE_FETCH:
    case IC_WIRE_IMPORT:
    case IC_WIRE_PUT:
        router_transfer_request(r, q_p);
        return;
    default:
        break;
    }
    router_entry *entry = session ? router_find(r, session) : NULL;
    if (entry)
        router_forward(r, entry, q_p);
    else if (session && strlen(session) > IC_STORE_ID_CHARS)
        router_error(r, q, IC_WIRE_CODE_NOTFOUND, "there is no such session");
    else
        router_look_for(r, q_p);
}

static void take_known(router *r, incoming *in, ic_mail_request **q_p)
{
    ic_wire_msg m;
    ic_mail_request *q = *q_p;
    in->peer->heard_us = ic_clock_mono_us();
    q->peer = in->peer->number;
    q->client = in->peer->client;
    q->arrived_us = in->peer->heard_us;
    if (q->msg.verb == IC_WIRE_PING) {
        ic_wire_msg_init(&m, IC_WIRE_PONG);
        ic_wire_put(&m.pong, pong, time_us, ic_clock_wall_us());
        reply_raw(r, in, &m);
    } else if (q->msg.verb == IC_WIRE_BYE) {
        peer_gone(r, in->peer);
        in->peer = NULL;
    } else {
        if (in->payload
            && ic_buf_append(&q->payload, zframe_data(in->payload), zframe_size(in->payload))) {
            router_error(r, q, IC_WIRE_CODE_LIMIT, "out of memory for this piece");
            return;
        }
        route(r, q_p);
    }
}

static void take_malformed(router *r, const incoming *in, int rc, const ic_error *e)
{
    ic_wire_msg m;
    uint64_t re = 0;
    r->malformed++;
    ic_log_debug("router", "a message is refused: %s", e->text);
    if (!in->peer && rc != IC_EVERSION) {
        ic_wire_msg_init(&m, IC_WIRE_HELLO_AGAIN);
        reply_raw(r, in, &m);
        return;
    }
    fill_error(&m,
               rc == IC_EVERSION  ? IC_WIRE_CODE_VERSION
               : rc == IC_EFORMAT ? IC_WIRE_CODE_INVALID
                                  : ic_wire_code_from_err(rc),
               e->text);
    if (in->map && ic_wire_peek_re(zframe_data(in->map), zframe_size(in->map), &re))
        ic_wire_put(&m.error, error, re, re);
    reply_raw(r, in, &m);
}

static void take_message(router *r, incoming *in)
{
    ic_wire_msg m;
    ic_error e = {0};
    in->rid = zmsg_first(in->frames);
    in->head = zmsg_next(in->frames);
    in->map = zmsg_next(in->frames);
    in->payload = zmsg_next(in->frames);
    size_t count = zmsg_size(in->frames);
    in->peer = ic_peers_find(&r->peers, in->listener, zframe_data(in->rid), zframe_size(in->rid));
    if (in->peer)
        in->peer->heard_us = ic_clock_mono_us();
    if (count < 3 || count > 4) {
        ic_error_set(&e, IC_EFORMAT, "a message has two or three frames, not %zu", count - 1);
        take_malformed(r, in, IC_EFORMAT, &e);
        return;
    }
    ic_mail_request *q = ic_mail_request_new();
    int rc = ic_wire_decode(&q->msg, IC_WIRE_FROM_CLIENT, zframe_data(in->head),
                            zframe_size(in->head), zframe_data(in->map), zframe_size(in->map),
                            in->payload ? (int64_t)zframe_size(in->payload) : -1, &e);
    if (rc) {
        take_malformed(r, in, rc, &e);
    } else if (q->msg.verb == IC_WIRE_HELLO) {
        take_hello(r, in, &q->msg.hello);
    } else if (!in->peer) {
        ic_wire_msg_init(&m, IC_WIRE_HELLO_AGAIN);
        reply_raw(r, in, &m);
    } else {
        take_known(r, in, &q);
    }
    if (q)
        ic_mail_discard((ic_mail **)&q);
}

static void read_socket(router *r, int listener)
{
    zsock_t *sock = r->listeners[listener].sock;
    for (int i = 0; i < BUDGET && zsock_events(sock) & ZMQ_POLLIN; i++) {
        incoming in = {.listener = listener, .frames = zmsg_recv(sock)};
        if (!in.frames)
            return;
        take_message(r, &in);
        zmsg_destroy(&in.frames);
    }
}

/* --- mail --------------------------------------------------------------------------------------
 */

static void begin_drain(router *r, int64_t ms)
{
    ic_wire_msg m;
    r->draining = true;
    r->drain_until_us = ic_clock_mono_us() + (ms + DRAIN_EXTRA_MS) * 1000;
    ic_log_info("router", "stopping: %d sessions to store", r->entry_count);
    for (ic_peer *p = r->peers.first; p; p = p->next) {
        ic_wire_msg_init(&m, IC_WIRE_GOAWAY);
        ic_wire_put(&m.goaway, goaway, reason, "the server is stopping");
        ic_wire_put(&m.goaway, goaway, deadline_ms, (uint64_t)ms);
        router_send(r, p->number, &m);
    }
    router_drain_sessions(r, ms);
}

static void tell_main(router *r, const ic_error *e)
{
    ic_mail_plain *m = ic_mail_plain_new(IC_MAIL_DRAINED, NULL);
    if (e)
        m->error = *e;
    ic_port_send(&r->self->outbox, r->args->main, &m);
}

static void take_sched_stats(router *r, const ic_mail_sched_stats *m)
{
    r->sched_stats = m->stats;
    if (m->device_failed) {
        r->device_error = m->error;
        tell_main(r, &m->error);
    }
}

static void take_mail(router *r, ic_mail **m_p)
{
    ic_mail *m = *m_p;
    switch (m->kind) {
    case IC_MAIL_SEND: {
        ic_mail_send *s = (ic_mail_send *)m;
        ic_peer *to = ic_peers_get(&r->peers, s->peer);
        if (to) {
            *m_p = NULL;
            ic_peers_send(&r->peers, to, &s);
        }
        break;
    }
    case IC_MAIL_STORE_JOB:
        if (((ic_store_job *)m)->tag == ROUTER_JOB_TRANSFER)
            router_transfer_done(r, m);
        else if (((ic_store_job *)m)->tag == ROUTER_JOB_RETAIN)
            router_retain_done(r, m);
        else
            router_desk_done(r, (ic_job_desk *)m);
        break;
    case IC_MAIL_SCHED_STATS:
        take_sched_stats(r, (ic_mail_sched_stats *)m);
        break;
    case IC_MAIL_DRAIN:
        begin_drain(r, (int64_t)((ic_mail_plain *)m)->number);
        break;
    default:
        router_session_mail(r, m_p);
    }
    ic_mail_discard(m_p);
}

static void check_drained(router *r)
{
    if (!r->draining || r->drained)
        return;
    bool late = ic_clock_mono_us() > r->drain_until_us;
    if (r->entries && !late)
        return;
    ic_error e = {0};
    if (r->entries)
        ic_error_set(&e, IC_ETIMEOUT, "%d sessions were not stored in time; their journals are",
                     r->entry_count);
    r->drained = true;
    tell_main(r, r->entries ? &e : NULL);
}

/* --- life --------------------------------------------------------------------------------------
 */

static int open_sockets(router *r, ic_error *e)
{
    const ic_router_args *a = r->args;
    for (size_t i = 0; i < a->endpoint_count && i < ROUTER_LISTENERS; i++) {
        ic_listener *l = &r->listeners[i];
        int rc = ic_listener_open(l, a->endpoints[i], a->heartbeat_ms, e);
        if (rc)
            return rc;
        r->listener_count++;
        zpoller_add(r->self->poller, l->sock);
        snprintf(r->args->bound[i], sizeof r->args->bound[i], "%s", l->endpoint);
    }
    return IC_OK;
}

static void init(router *r)
{
    if (getrandom(&r->server, sizeof r->server, 0) != sizeof r->server)
        ic_log_warn("router", "no randomness: clients may not see that the server is another one");
    r->started_us = ic_clock_mono_us();
    r->peers.backlog_bytes = (size_t)r->args->backlog_bytes;
    r->peers.listeners = r->listeners;
    r->store = ic_actor_port(r->args->store);
    r->sched = ic_actor_port(r->args->sched);
    r->store_reply = ic_port_open(r->self->inbox);
    router_transfers_begin(r);
    ic_port *watch = ic_port_open(r->self->inbox);
    ic_sched_watch(&r->self->outbox, r->sched, &watch);
    router_pending(r);
}

static void fini(router *r)
{
    router_stop_sessions(r);
    router_transfers_end(r);
    ic_peers_flush(&r->peers);
    while (r->peers.first)
        ic_peers_remove(&r->peers, r->peers.first);
    ic_mail_port *close = ic_mail_port_close_new(&r->store_reply);
    ic_port_send(&r->self->outbox, r->store, &close);
    ic_outbox_flush(&r->self->outbox);
    ic_port **ports[] = {&r->store, &r->sched, &r->args->main};
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++) {
        ic_outbox_forget(&r->self->outbox, *ports[i]);
        ic_port_close(ports[i]);
    }
}

static void close_sockets(router *r)
{
    for (int i = 0; i < r->listener_count; i++) {
        zpoller_remove(r->self->poller, r->listeners[i].sock);
        ic_listener_close(&r->listeners[i], LINGER_MS);
    }
}

static void serve(router *r)
{
    int wait_ms = TICK_MS;
    while (ic_actor_wait(r->self, wait_ms)) {
        ic_mail *m;
        while ((m = ic_inbox_take(r->self->inbox)))
            take_mail(r, &m);
        bool more = false;
        for (int i = 0; i < r->listener_count; i++) {
            read_socket(r, i);
            more |= (zsock_events(r->listeners[i].sock) & ZMQ_POLLIN) != 0;
        }
        bool waits = ic_peers_flush(&r->peers);
        drop_silent(r);
        router_rooms(r);
        router_transfers_tick(r);
        router_retain_tick(r);
        check_drained(r);
        wait_ms = more ? 0 : waits ? RETRY_MS : TICK_MS;
    }
}

void ic_router_run(ic_actor_self *self)
{
    ic_error e = {0};
    router r = {.self = self, .args = self->args};
    e.code = open_sockets(&r, &e);
    if (e.code == IC_OK)
        init(&r);
    ic_actor_ready(self, &e);
    if (e.code == IC_OK) {
        serve(&r);
        fini(&r);
    } else {
        ic_port_close(&r.args->main);
    }
    close_sockets(&r);
}
