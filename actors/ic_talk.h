/* ic_talk: the session actor: one conversation, from its first event to its suspension and back.
 *
 * It owns what belongs to one session outside the engine: the order of its inputs, its journal, its
 * numbered events and who follows them, its media source, and (between leases) its cache. It is a
 * thread of its own as long as clients talk to it or follow it; a suspended session that nobody
 * follows is rows in the store and costs nothing else.
 *
 * Order of what happens, whatever the load:
 *   - inputs (frames, questions) stand in one line in order of arrival; while an answer runs, the
 * line waits, under credit;
 *   - what goes into the model is journalled in that order. A client hears of nothing that is not
 *     durable: events and OKs leave when the store has said so;
 *   - a checkpoint is taken between answers, with the lease at home, or in the middle of one, for
 * which it comes home for a moment each time; the journal behind it is replayed on resume, tokens
 * that were shown are forced.
 *
 * Mail: ic_actor_msgs.h. From the router REQUEST, PEER_GONE, ROOM, SUSPEND_NOW, DRAIN; to it SEND,
 * SESSION_STATE, ROOM_WANTED, ROOM_FREED, RM_READY, and WANT_END: "I have seen n mails of yours and
 * have nothing left to do"; the router stops the actor if n is all it has sent.
 */
#ifndef IC_TALK_H
#define IC_TALK_H

#include "actors/ic_actor_msgs.h"
#include "actors/ic_ingest_actor.h"

/* What all sessions share. Immutable. */
typedef struct ic_talk_limits {
    const ic_engine *engine; /* functions marked "any thread" alone */
    ic_ingest_limits ingest;
    uint64_t event_credit;
    int64_t event_log_bytes, checkpoint_bytes;
    int64_t checkpoint_us; /* of computing since the last one, before the next is taken */
    int64_t keep_bytes;    /* of frames that cannot be read again, kept of one session; 0: none */
    int64_t session_bytes; /* on disk; a session that takes more takes no more in; 0: any */
    int64_t idle_us;
    int queue; /* questions that may wait */
    int max_answer_tokens;
} ic_talk_limits;

typedef struct ic_talk_args { /* for the actor's life; owned by the router */
    const ic_talk_limits *limits;
    char session[IC_STORE_ID_CHARS + 1];
    /* Taken over by the actor's thread, which closes them. */
    ic_port *router, *store, *sched;
    bool wake; /* resume at once, if there is room */
    bool owes; /* resume as soon as there is: a crash left an answer unfinished */
} ic_talk_args;

/* For ic_actor_start: ready at once; what cannot be loaded is told to who asks. */
void ic_talk_run(ic_actor_self *self);

/* What a client says of sampling over what stands in s. Returns whether it named a seed. Any
 * thread. */
bool ic_talk_take_sampling(ic_sampling *s, const ic_wire_sampling *w);

#endif
