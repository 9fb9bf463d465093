/* ic_store_retain: what retention asks of the store: who was used longest ago, and its deletion. */
#ifndef IC_STORE_RETAIN_H
#define IC_STORE_RETAIN_H

#include "actors/ic_actor_msgs.h"

typedef enum ic_retain_op {
    IC_RETAIN_PICK,  /* found: the session that was used longest ago, if limit is exceeded */
    IC_RETAIN_DELETE /* found goes, unless it was used since it was picked: then gone is false */
} ic_retain_op;

typedef struct ic_job_retain {
    ic_store_job job;
    ic_retain_op op;
    int64_t limit;                         /* bytes */
    char (*in_use)[IC_STORE_ID_CHARS + 1]; /* PICK: owned; not these */
    int in_use_count;
    int64_t used_bytes; /* PICK: by all that is stored */
    bool has_found, gone;
    ic_store_session found;
} ic_job_retain;
ic_job_retain *ic_job_retain_new(ic_retain_op op, ic_port *reply, int tag);

#endif
