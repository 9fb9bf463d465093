#include "actors/ic_peers.h"

#include <errno.h>
#include <string.h>

#include "base/ic_clock.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

ic_peer *ic_peers_find(const ic_peers *p, int listener, const void *rid, size_t bytes)
{
    for (ic_peer *peer = p->first; peer; peer = peer->next) {
        if (peer->listener == listener && peer->rid_bytes == bytes
            && memcmp(peer->rid, rid, bytes) == 0)
            return peer;
    }
    return NULL;
}

ic_peer *ic_peers_get(const ic_peers *p, uint64_t number)
{
    for (ic_peer *peer = p->first; peer; peer = peer->next) {
        if (peer->number == number)
            return peer;
    }
    return NULL;
}

ic_peer *ic_peers_add(ic_peers *p, int listener, const void *rid, size_t bytes)
{
    ic_peer *peer = ic_alloc(sizeof *peer);
    peer->number = ++p->last_number;
    peer->listener = listener;
    peer->rid_bytes = bytes < IC_ROUTING_ID_MAX ? bytes : IC_ROUTING_ID_MAX;
    memcpy(peer->rid, rid, peer->rid_bytes);
    peer->next = p->first;
    p->first = peer;
    p->count++;
    return peer;
}

bool ic_peers_has_client(const ic_peers *p, const ic_wire_id *client, const ic_peer *but)
{
    for (const ic_peer *peer = p->first; peer; peer = peer->next) {
        if (peer != but && memcmp(&peer->client, client, sizeof *client) == 0)
            return true;
    }
    return false;
}

static void drop_waiting(ic_peer *peer)
{
    while (peer->first) {
        ic_mail_send *m = peer->first;
        peer->first = (ic_mail_send *)m->head.next;
        ic_mail_discard((ic_mail **)&m);
    }
    peer->last = NULL;
    peer->waiting_bytes = 0;
}

void ic_peers_remove(ic_peers *p, ic_peer *peer)
{
    for (ic_peer **at = &p->first; *at; at = &(*at)->next) {
        if (*at == peer) {
            *at = peer->next;
            break;
        }
    }
    p->count--;
    drop_waiting(peer);
    ic_free(peer);
}

/* 0, or an errno: EAGAIN (its queue is full), EHOSTUNREACH (it is gone). */
static int send_frames(zsock_t *sock, const void *rid, size_t rid_bytes, ic_wire_verb verb,
                       const ic_buf *body, const ic_buf *payload)
{
    uint8_t signature[IC_WIRE_SIGNATURE_MAX];
    zframe_t *address = zframe_new(rid, rid_bytes);
    if (zframe_send(&address, sock, ZFRAME_MORE | ZFRAME_DONTWAIT)) {
        int error = errno;
        zframe_destroy(&address);
        return error == EAGAIN ? EAGAIN : EHOSTUNREACH;
    }
    zframe_t *head = zframe_new(signature, ic_wire_signature(verb, signature));
    zframe_t *map = zframe_new(body->data, body->size);
    zframe_t *bytes = payload ? zframe_new(payload->data, payload->size) : NULL;
    if (zframe_send(&head, sock, ZFRAME_MORE | ZFRAME_DONTWAIT)
        || zframe_send(&map, sock, (bytes ? ZFRAME_MORE : 0) | ZFRAME_DONTWAIT)
        || (bytes && zframe_send(&bytes, sock, ZFRAME_DONTWAIT)))
        ic_log_warn("router", "a message was cut: %s", strerror(errno));
    zframe_destroy(&head);
    zframe_destroy(&map);
    zframe_destroy(&bytes);
    return 0;
}

/* True when the peer can take nothing more now. */
static bool flush_peer(ic_peers *p, ic_peer *peer)
{
    while (peer->first) {
        ic_mail_send *m = peer->first;
        int error = send_frames(p->listeners[peer->listener].sock, peer->rid, peer->rid_bytes,
                                m->verb, &m->body, m->has_payload ? &m->payload : NULL);
        if (error == EAGAIN)
            return true;
        if (error) {
            peer->lost = true;
            drop_waiting(peer);
            return false;
        }
        peer->first = (ic_mail_send *)m->head.next;
        peer->waiting_bytes -= m->body.size + m->payload.size;
        ic_mail_discard((ic_mail **)&m);
    }
    peer->last = NULL;
    return false;
}

bool ic_peers_flush(ic_peers *p)
{
    bool waits = false;
    for (ic_peer *peer = p->first; peer; peer = peer->next)
        waits |= !peer->lost && flush_peer(p, peer);
    return waits;
}

void ic_peers_send(ic_peers *p, ic_peer *peer, ic_mail_send **m_p)
{
    ic_mail_send *m = *m_p;
    *m_p = NULL;
    size_t size = m->body.size + m->payload.size;
    if (peer->lost || peer->waiting_bytes + size > p->backlog_bytes) {
        if (!peer->lost) {
            ic_log_warn("router", "client %s does not read: let go", peer->name);
            p->slow++;
        }
        peer->lost = true;
        ic_mail_discard((ic_mail **)&m);
        return;
    }
    m->head.next = NULL;
    if (peer->last)
        peer->last->head.next = &m->head;
    else
        peer->first = m;
    peer->last = m;
    peer->waiting_bytes += size;
    flush_peer(p, peer);
}

void ic_peers_send_raw(ic_peers *p, int listener, const void *rid, size_t bytes, ic_wire_msg *m)
{
    ic_buf body = {0};
    ic_error e = {0};
    if (ic_wire_encode(m, &body, &e))
        ic_log_error("router", "BUG: %s", e.text);
    else
        send_frames(p->listeners[listener].sock, rid, bytes, m->verb, &body, NULL);
    ic_buf_fini(&body);
}
