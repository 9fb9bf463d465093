/* ic_ingest_actor: reads one source through the media fence and sends its frames to its session.
 *
 * Lives from MEDIA to the source's end. Its thread waits inside the fence (which has deadlines) or
 * in its poller; while an upload's bytes are awaited, the fence's read callback serves the mailbox.
 *
 * Mail in:  UPLOAD        a piece of the bytes
 *           FRAME_CREDIT  so many more bytes of frames may be sent
 * Mail out: INGEST_OPENED once, when the first picture has been decoded
 *           IDENTITY      of a file on the server: what it will be known by, should it be read
 * again FRAME         fitted to the grid that was fixed when the source was opened. Never more
 *                         bytes than credit. Without credit a file waits; a live source keeps a few
 *                         frames, drops the oldest of them, and counts
 *           UPLOAD_GRANT  so far the client may send
 *           INGEST_ENDED  the last mail, always sent: how it went
 * `stop` in the args may be set by the session at any time: everything ends within about 100 ms.
 */
#ifndef IC_INGEST_ACTOR_H
#define IC_INGEST_ACTOR_H

#include <stdatomic.h>

#include "actors/ic_actor_msgs.h"

/* What all sources share: from the configuration. Immutable. */
typedef struct ic_ingest_limits {
    const char *const *roots; /* permitted folders */
    size_t roots_count;
    bool allow_network, allow_private, allow_camera;
    const char *ca_file; /* NULL: the system's */
    double fps;          /* 0: the model's */
    int frame_tokens;    /* 0: the processor's */
    double deduplicate;  /* 0: off */
    int64_t frame_bytes; /* that may wait */
    int64_t upload_bytes;
    const char *spool_dir;
    int open_ms, packet_ms, threads;
} ic_ingest_limits;

enum {
    IC_UPLOAD_WINDOW = 1 << 20, /* bytes of an upload on the way to us */
    IC_UPLOAD_AHEAD = 64 << 20  /* of a stream: bytes that may wait unread */
};

typedef struct ic_ingest_args { /* the session's, for the actor's life */
    const ic_ingest_limits *limits;
    const ic_engine *engine;
    uint64_t media; /* number in the session */
    int kind;       /* IC_WIRE_KIND_... */
    bool image, live;
    char *source, *name; /* owned by the session */
    int64_t size;        /* of an upload, -1: unknown */
    double fps;
    int64_t from_us, to_us; /* to_us -1: to the end */
    uint64_t max_frames;
    int frame_tokens;
    ic_identity expected; /* known: a file that is read again, once it is found to be that one */
    ic_grid grid;         /* that its frames are fitted to; no width: the source's own */
    int most_tokens;      /* of a frame pair, that the session's cache takes; 0: no such bound */
    ic_port *session; /* taken over by the actor's thread; the session closes it after the stop */
    atomic_bool stop;
} ic_ingest_args;

/* For ic_actor_start: ready at once; whether the source opens is told by mail. */
void ic_ingest_actor_run(ic_actor_self *self);

#endif
