/* Retention: when the store holds more than it may, sessions go, those used longest ago first. Not
 * one that has an actor, nor one that a request on its way may wake: while such a request is at the
 * store nothing is deleted, and what is asked later finds the session gone. */
#include <string.h>
#include <time.h>

#include "actors/ic_router_priv.h"
#include "actors/ic_store_retain.h"
#include "base/ic_clock.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

enum {
    LOOK_US = 2 * 1000 * 1000,      /* between two looks */
    COMPLAIN_US = 600 * 1000 * 1000 /* between two complaints that nothing may go */
};

static void send_pick(router *r)
{
    ic_job_retain *job = ic_job_retain_new(IC_RETAIN_PICK, r->store_reply, ROUTER_JOB_RETAIN);
    job->limit = r->args->retain_bytes;
    job->in_use = ic_calloc((size_t)r->entry_count + 1, sizeof *job->in_use);
    for (const router_entry *e = r->entries; e; e = e->next)
        strcpy(job->in_use[job->in_use_count++], e->args.session);
    r->retain.busy = true;
    ic_port_send(&r->self->outbox, r->store, &job);
}

void router_retain_tick(router *r)
{
    int64_t now = ic_clock_mono_us();
    if (!r->args->retain_bytes || r->retain.busy || r->draining || now < r->retain.next_us)
        return;
    r->retain.next_us = now + LOOK_US;
    send_pick(r);
}

static void complain(router *r, int64_t used)
{
    int64_t now = ic_clock_mono_us();
    if (now < r->retain.complain_us)
        return;
    r->retain.complain_us = now + COMPLAIN_US;
    ic_log_warn(
        "router",
        "the store holds %lld bytes, more than store.retain_bytes (%lld), and every session "
        "is in use: none is deleted",
        (long long)used, (long long)r->args->retain_bytes);
}

/* The line comes first: whatever happens then, nothing goes without it. */
static void retire(router *r, const ic_job_retain *picked)
{
    char date[32] = "?";
    time_t used = (time_t)(picked->found.used_us / 1000000);
    struct tm when;
    if (gmtime_r(&used, &when))
        strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S UTC", &when);
    ic_log_info("router",
                "session %s is deleted: the store holds %lld bytes, more than store.retain_bytes "
                "(%lld), and of those not in use it was used longest ago, %s",
                picked->found.id, (long long)picked->used_bytes, (long long)r->args->retain_bytes,
                date);
    ic_job_retain *job = ic_job_retain_new(IC_RETAIN_DELETE, r->store_reply, ROUTER_JOB_RETAIN);
    job->found = picked->found;
    r->retain.busy = true;
    ic_port_send(&r->self->outbox, r->store, &job);
}

static void picked(router *r, const ic_job_retain *j)
{
    if (j->used_bytes <= r->args->retain_bytes)
        return;
    if (!j->has_found)
        complain(r, j->used_bytes);
    else if (!r->looking && !router_find(r, j->found.id) && !r->draining)
        retire(r, j);
}

void router_retain_done(router *r, ic_mail *done)
{
    const ic_job_retain *j = (ic_job_retain *)done;
    r->retain.busy = false;
    if (j->job.rc) {
        ic_log_warn("router", "retention: %s", j->job.error.text);
    } else if (j->op == IC_RETAIN_PICK) {
        picked(r, j);
    } else {
        r->retain.retired += j->gone;
        if (!j->gone)
            ic_log_info("router", "session %s stays: it was used meanwhile", j->found.id);
        r->retain.next_us = 0; /* is it enough? */
    }
}
