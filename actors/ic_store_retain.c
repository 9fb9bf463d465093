#include "actors/ic_store_retain.h"

#include <string.h>

#include "base/ic_mem.h"

static void discard_retain(ic_mail *m)
{
    ic_free(((ic_job_retain *)m)->in_use);
    ic_free(m);
}

/* Lists come newest first: the last that may go is it. */
static int note_oldest(void *arg, const ic_store_session *session)
{
    ic_job_retain *j = arg;
    for (int i = 0; i < j->in_use_count; i++)
        if (strcmp(j->in_use[i], session->id) == 0)
            return 0;
    j->found = *session;
    j->has_found = true;
    return 0;
}

static int pick(ic_store *s, ic_job_retain *j, ic_error *e)
{
    j->has_found = false;
    int rc = ic_store_used_bytes(s, &j->used_bytes, e);
    if (rc || j->used_bytes <= j->limit)
        return rc;
    return ic_store_session_list(s, NULL, note_oldest, j, e);
}

static int delete_found(ic_store *s, ic_job_retain *j, ic_error *e)
{
    ic_store_session now;
    int rc = ic_store_session_get(s, j->found.id, &now, e);
    if (rc == IC_ENOTFOUND)
        return IC_OK;
    if (rc == IC_OK && now.used_us != j->found.used_us)
        return IC_OK;
    /* A damaged one can be deleted, too. */
    rc = ic_store_session_delete(s, j->found.id, e);
    j->gone = rc == IC_OK;
    return rc;
}

static int run_retain(ic_store *s, ic_store_job *job, ic_error *e)
{
    ic_job_retain *j = (ic_job_retain *)job;
    return j->op == IC_RETAIN_PICK ? pick(s, j, e) : delete_found(s, j, e);
}

ic_job_retain *ic_job_retain_new(ic_retain_op op, ic_port *reply, int tag)
{
    ic_job_retain *j = ic_mail_new(IC_MAIL_STORE_JOB, sizeof *j, discard_retain);
    j->job.run = run_retain;
    j->job.reply = reply;
    j->job.tag = tag;
    j->op = op;
    return j;
}
