/* ic_store_transfer: the store's side of exports and imports over the wire: one job begins one,
 * the next moves a piece of it, one closes it. The objects of the store travel with the job: they
 * are the store thread's alone, and whoever holds the job holds them.
 */
#ifndef IC_STORE_TRANSFER_H
#define IC_STORE_TRANSFER_H

#include "actors/ic_actor_msgs.h"
#include "session_store/ic_store_export.h"

typedef enum ic_transfer_op {
    IC_TRANSFER_EXPORT, /* the request: its session, its mark */
    IC_TRANSFER_FETCH,  /* the next bytes, at most max_bytes of them; last */
    IC_TRANSFER_IMPORT, /* the request's key is looked up first; max_bytes of the whole, 0: any */
    IC_TRANSFER_PUT,    /* bytes; last: the session is made, session its id */
    IC_TRANSFER_CLOSE   /* no reply */
} ic_transfer_op;

typedef struct ic_job_transfer {
    ic_store_job job;
    ic_transfer_op op;
    uint64_t number;          /* the sender's, of the transfer */
    ic_mail_request *request; /* owned; NULL for CLOSE */
    ic_store_export *out;
    ic_store_import *in;
    const ic_engine *engine;
    int max_cache_tokens; /* of an imported session */
    int64_t max_bytes;
    ic_buf bytes;
    bool last;
    /* IMPORT, PUT: what the session is made under */
    ic_wire_id key;
    uint8_t content[IC_STORE_KEY_BYTES];
    char title[IC_STORE_TITLE_MAX + 1];
    bool has_title;
    ic_store_verdict verdict;
    bool ambiguous;
    char session[IC_STORE_ID_CHARS + 1];
} ic_job_transfer;
ic_job_transfer *ic_job_transfer_new(ic_transfer_op op, uint64_t number,
                                     ic_mail_request **request_p, ic_port *reply, int tag);

#endif
