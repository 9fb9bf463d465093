#include "actors/ic_store_actor.h"

#include "base/ic_clock.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

enum {
    GROUP_MAX = 64,              /* jobs of one commit */
    MAINTAIN_MS = 200,           /* quiet time before housekeeping */
    EXPIRE_EVERY_MS = 60 * 1000, /* retention of request keys is looked at this often */
    FORGET_FACTOR = 30           /* tombstones live this many times longer than answers */
};

typedef struct keeper {
    ic_actor_self *self;
    const ic_store_actor_args *args;
    ic_store *store;
    ic_store_job *group[GROUP_MAX];
    int grouped;
    int64_t expired_us;
} keeper;

static void send_back(keeper *k, ic_store_job *job)
{
    if (job->reply)
        ic_port_send(&k->self->outbox, job->reply, &job);
    else
        ic_mail_discard((ic_mail **)&job);
}

static void run_alone(keeper *k, ic_store_job *job)
{
    job->error = (ic_error){0};
    job->rc = job->run(k->store, job, &job->error);
    send_back(k, job);
}

/* All in one transaction; false: nothing of it stayed. */
static bool run_together(keeper *k)
{
    ic_error e = {0};
    if (ic_store_batch_begin(k->store, &e))
        return false;
    for (int i = 0; i < k->grouped; i++) {
        ic_store_job *job = k->group[i];
        job->error = (ic_error){0};
        job->rc = job->run(k->store, job, &job->error);
        if (job->rc) {
            ic_store_batch_rollback(k->store);
            return false;
        }
    }
    return ic_store_batch_commit(k->store, &e) == IC_OK;
}

/* One job in a transaction of its own, since it may make several changes. */
static void run_single(keeper *k, ic_store_job *job)
{
    job->error = (ic_error){0};
    job->rc = ic_store_batch_begin(k->store, &job->error);
    if (job->rc == IC_OK) {
        job->rc = job->run(k->store, job, &job->error);
        if (job->rc)
            ic_store_batch_rollback(k->store);
        else
            job->rc = ic_store_batch_commit(k->store, &job->error);
    }
    send_back(k, job);
}

static void commit_group(keeper *k)
{
    if (!k->grouped)
        return;
    bool together = k->grouped > 1 && run_together(k);
    for (int i = 0; i < k->grouped; i++) {
        if (together)
            send_back(k, k->group[i]);
        else
            run_single(k, k->group[i]);
    }
    k->grouped = 0;
}

static void close_port(keeper *k, ic_mail *m)
{
    ic_outbox_forget(&k->self->outbox, ((ic_mail_port *)m)->port);
    ic_mail_discard(&m);
}

static void take_job(keeper *k, ic_store_job *job)
{
    if (!job->grouped) {
        commit_group(k);
        run_alone(k, job);
        return;
    }
    k->group[k->grouped++] = job;
    if (k->grouped == GROUP_MAX)
        commit_group(k);
}

static void drain(keeper *k)
{
    ic_mail *m;
    while ((m = ic_inbox_take(k->self->inbox))) {
        if (m->kind == IC_MAIL_STORE_JOB) {
            take_job(k, (ic_store_job *)m);
        } else if (m->kind == IC_MAIL_PORT_CLOSE) {
            commit_group(k);
            close_port(k, m);
        } else {
            ic_log_error("store", "BUG: mail of kind %d", m->kind);
            ic_mail_discard(&m);
        }
    }
    commit_group(k);
}

/* Returns whether there is more to do at once. */
static bool keep_house(keeper *k)
{
    ic_error e = {0};
    int64_t now = ic_clock_mono_us();
    if (now - k->expired_us > EXPIRE_EVERY_MS * 1000LL) {
        k->expired_us = now;
        int64_t keep = k->args->request_keep_us;
        if (ic_store_request_expire(k->store, keep, keep * FORGET_FACTOR, &e))
            ic_log_warn("store", "expiring request keys: %s", e.text);
    }
    bool more = false;
    if (ic_store_maintain(k->store, &more, &e)) {
        ic_log_warn("store", "housekeeping: %s", e.text);
        return false;
    }
    return more;
}

void ic_store_actor_run(ic_actor_self *self)
{
    ic_error e = {0};
    keeper k = {.self = self, .args = self->args, .expired_us = ic_clock_mono_us()};
    ic_store_open(&k.store, &k.args->config, &e);
    ic_actor_ready(self, &e);
    if (!k.store)
        return;
    ic_log_info("store", "open: %s", k.args->config.path);
    int wait_ms = MAINTAIN_MS;
    while (ic_actor_wait(self, wait_ms)) {
        uint64_t before = ic_store_commits(k.store);
        bool quiet = !(zsock_events(ic_inbox_sock(self->inbox)) & ZMQ_POLLIN);
        drain(&k);
        if (quiet)
            wait_ms = keep_house(&k) ? 0 : EXPIRE_EVERY_MS;
        else if (ic_store_commits(k.store) != before)
            wait_ms = MAINTAIN_MS;
    }
    drain(&k);
    ic_outbox_flush(&self->outbox);
    ic_store_close(&k.store);
}
