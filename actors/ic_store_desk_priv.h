/* What the files that answer the router's jobs share. The store's thread alone. */
#ifndef IC_STORE_DESK_PRIV_H
#define IC_STORE_DESK_PRIV_H

#include "actors/ic_store_jobs.h"

extern const char ic_desk_owner[]; /* of every session, until there are users */

/* Admits the request's key for a session (NULL: none yet); d->verdict tells. known may be NULL. */
int ic_desk_admit(ic_store *s, ic_job_desk *d, const char *session, ic_store_request *known,
                  ic_error *e);
/* The request is done, in the same transaction. */
int ic_desk_finish(ic_store *s, ic_job_desk *d, const char *session, ic_error *e);
/* The one session that the request names, as the next result; its id becomes the request's. */
int ic_desk_find(ic_store *s, ic_job_desk *d, ic_error *e);
ic_store_session *ic_desk_add(ic_job_desk *d); /* Borrows until the next one */

/* ic_store_fork.c */
int ic_desk_mark(ic_store *s, ic_job_desk *d, ic_error *e);
int ic_desk_unmark(ic_store *s, ic_job_desk *d, ic_error *e);
int ic_desk_fork(ic_store *s, ic_job_desk *d, ic_error *e);
int ic_desk_marks(ic_store *s, ic_job_desk *d, ic_error *e); /* for SHOW */
/* A copy of a session is freed of what was in flight in the session it was copied from. */
int ic_desk_settle_copy(ic_store *s, const char *id, ic_error *e);

#endif
