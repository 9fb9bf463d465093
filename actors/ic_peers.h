/* ic_peers: the router's table of connections: who is there, since when they were last heard, and
 * what could not be sent to them yet. A routing id names a connection; HELLO says who it is. */
#ifndef IC_PEERS_H
#define IC_PEERS_H

#include "actors/ic_actor_msgs.h"
#include "actors/ic_listen.h"

enum { IC_ROUTING_ID_MAX = 255 };

typedef struct ic_peer {
    uint64_t number; /* names the connection to everybody else; never used again */
    int listener;
    uint8_t rid[IC_ROUTING_ID_MAX];
    size_t rid_bytes;
    ic_wire_id client;
    char name[65];
    int64_t heard_us;
    ic_mail_send *first, *last; /* what waits, in order */
    size_t waiting_bytes;
    bool lost; /* to be forgotten: cannot be reached, or does not read */
    struct ic_peer *next;
} ic_peer;

typedef struct ic_peers {
    ic_peer *first;
    int count;
    uint64_t last_number;
    size_t backlog_bytes; /* that one peer may have waiting */
    ic_listener *listeners;
    uint64_t slow; /* peers that were let go of since they did not read */
} ic_peers;

ic_peer *ic_peers_find(const ic_peers *p, int listener, const void *rid, size_t bytes);
ic_peer *ic_peers_get(const ic_peers *p, uint64_t number);
ic_peer *ic_peers_add(ic_peers *p, int listener, const void *rid, size_t bytes);
bool ic_peers_has_client(const ic_peers *p, const ic_wire_id *client, const ic_peer *but);
void ic_peers_remove(ic_peers *p, ic_peer *peer);

/* Sends or queues. Takes the mail. A peer whose backlog is full, or who is gone, is marked lost. */
void ic_peers_send(ic_peers *p, ic_peer *peer, ic_mail_send **m_p);
/* Tries again for all; true: something still waits. */
bool ic_peers_flush(ic_peers *p);
/* A message for a routing id that is not in the table; dropped when it cannot be sent now. */
void ic_peers_send_raw(ic_peers *p, int listener, const void *rid, size_t bytes, ic_wire_msg *m);

#endif
