/* Exports and imports on their way between a client and the store: a few at a time, one piece of
 * each at the store at a time, each piece asked for or answered. A transfer belongs to a client,
 * not to a connection; one that nobody touches is given up. */
#include <string.h>

#include "actors/ic_router_priv.h"
#include "actors/ic_store_transfer.h"
#include "base/ic_clock.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

enum {
    END_US = 5 * 1000 * 1000 /* at the server's end, for a piece that is at the store */
};

struct router_transfer {
    uint64_t number; /* 0: free */
    ic_wire_id client;
    bool importing;
    bool busy; /* a job is at the store, with the object */
    bool over; /* all of it has gone out; the last piece may be asked for again */
    int64_t touched_us;
    ic_store_export *out; /* the store thread's alone, while not at the store kept here */
    ic_store_import *in;
    uint64_t at;       /* bytes given or taken so far */
    ic_buf piece;      /* export: the newest, */
    uint64_t piece_at; /* which begins here */
    /* import: what the session is to be made under */
    ic_wire_id key;
    uint8_t content[IC_STORE_KEY_BYTES];
    char title[IC_STORE_TITLE_MAX + 1];
    bool has_title;
};

static void send_job(router *r, ic_job_transfer *job)
{
    ic_port_send(&r->self->outbox, r->store, &job);
}

static void free_transfer(router *r, router_transfer *t)
{
    if (t->out || t->in) {
        ic_job_transfer *job = ic_job_transfer_new(IC_TRANSFER_CLOSE, t->number, NULL, NULL, 0);
        job->out = t->out;
        job->in = t->in;
        send_job(r, job);
    }
    ic_buf_fini(&t->piece);
    *t = (router_transfer){.number = 0};
}

static router_transfer *find_transfer(router *r, uint64_t number)
{
    for (int i = 0; i < ROUTER_TRANSFERS; i++)
        if (number && r->transfers[i].number == number)
            return &r->transfers[i];
    return NULL;
}

/* A free place, or that of an export that is over. */
static router_transfer *take_place(router *r, const ic_mail_request *q)
{
    router_transfer *place = NULL;
    for (int i = 0; i < ROUTER_TRANSFERS; i++) {
        router_transfer *t = &r->transfers[i];
        if (!t->number || (t->over && !place))
            place = t;
    }
    if (!place)
        return NULL;
    free_transfer(r, place);
    place->number = ++r->last_transfer;
    place->client = q->client;
    place->touched_us = ic_clock_mono_us();
    return place;
}

static ic_job_transfer *new_job(router *r, router_transfer *t, ic_transfer_op op,
                                ic_mail_request **q_p)
{
    const ic_router_args *a = r->args;
    ic_job_transfer *job =
        ic_job_transfer_new(op, t->number, q_p, r->store_reply, ROUTER_JOB_TRANSFER);
    job->out = t->out;
    job->in = t->in;
    t->out = NULL;
    t->in = NULL;
    t->busy = true;
    t->touched_us = ic_clock_mono_us();
    job->engine = a->limits.engine;
    job->max_cache_tokens =
        a->max_cache_tokens ? a->max_cache_tokens : 4 * a->sched_args->session.cache_tokens;
    job->key = t->key;
    memcpy(job->content, t->content, sizeof job->content);
    memcpy(job->title, t->title, sizeof job->title);
    job->has_title = t->has_title;
    return job;
}

/* --- requests -----------------------------------------------------------------------------------
 */

static void begin(router *r, ic_mail_request **q_p)
{
    const ic_mail_request *q = *q_p;
    bool importing = q->msg.verb == IC_WIRE_IMPORT;
    for (int i = 0; importing && i < ROUTER_TRANSFERS; i++) {
        router_transfer *old = &r->transfers[i];
        bool same = old->number && old->importing && !old->busy
                    && memcmp(&old->key, &q->msg.import.key, sizeof old->key) == 0;
        if (same) /* the client begins again */
            free_transfer(r, old);
    }
    router_transfer *t = take_place(r, q);
    if (!t) {
        router_error(r, q, IC_WIRE_CODE_BUSY, "too many exports and imports at once: try later");
        return;
    }
    t->importing = importing;
    if (importing) {
        t->key = q->msg.import.key;
        memcpy(t->content, q->content, sizeof t->content);
        t->has_title = ic_wire_has(&q->msg.import, import, title);
        snprintf(t->title, sizeof t->title, "%s", ic_wire_get(&q->msg.import, import, title, ""));
    }
    int64_t size = (int64_t)ic_wire_get(&q->msg.import, import, size, 0);
    if (importing && r->args->import_bytes && size > r->args->import_bytes) {
        router_error(r, q, IC_WIRE_CODE_LIMIT,
                     "the file is larger than a session may be here (store.session_bytes)");
        free_transfer(r, t);
        return;
    }
    ic_job_transfer *job = new_job(r, t, importing ? IC_TRANSFER_IMPORT : IC_TRANSFER_EXPORT, q_p);
    job->max_bytes = importing ? r->args->import_bytes : 0;
    send_job(r, job);
}

static void send_piece(router *r, const router_transfer *t, const ic_mail_request *q)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_CHUNK);
    ic_wire_put(&m.chunk, chunk, re, q->msg.fetch.re);
    ic_wire_put(&m.chunk, chunk, transfer, t->number);
    ic_wire_put(&m.chunk, chunk, offset, t->piece_at);
    if (t->over)
        ic_wire_put(&m.chunk, chunk, last, true);
    router_send_bytes(r, q->peer, &m, t->piece.data, t->piece.size);
}

static void fetch(router *r, router_transfer *t, ic_mail_request **q_p)
{
    uint64_t offset = (*q_p)->msg.fetch.offset;
    t->touched_us = ic_clock_mono_us();
    if (t->piece.size && offset == t->piece_at) {
        send_piece(r, t, *q_p);
    } else if (offset != t->at || t->over) {
        router_error(r, *q_p, IC_WIRE_CODE_INVALID,
                     "these bytes are not kept: go on behind the newest piece");
    } else {
        ic_job_transfer *job = new_job(r, t, IC_TRANSFER_FETCH, q_p);
        job->max_bytes = IC_WIRE_PIECE_MAX;
        send_job(r, job);
    }
}

static void answer_put(router *r, const router_transfer *t, const ic_mail_request *q)
{
    ic_wire_msg m = router_ok(q);
    ic_wire_put(&m.ok, ok, transfer, t->number);
    ic_wire_put(&m.ok, ok, received, t->at);
    ic_wire_put(&m.ok, ok, until, t->at + IC_WIRE_PIECE_MAX);
    router_send(r, q->peer, &m);
}

/* Bytes that are there already are stepped over. */
static void put(router *r, router_transfer *t, ic_mail_request **q_p)
{
    ic_mail_request *q = *q_p;
    uint64_t offset = q->msg.put.offset, size = q->payload.size;
    bool last = ic_wire_get(&q->msg.put, put, last, false);
    t->touched_us = ic_clock_mono_us();
    if (offset > t->at || size > IC_WIRE_PIECE_MAX) {
        char text[80];
        snprintf(text, sizeof text, "bytes from %llu on are expected", (unsigned long long)t->at);
        router_error(r, q, IC_WIRE_CODE_INVALID, text);
        return;
    }
    size_t known = t->at - offset < size ? (size_t)(t->at - offset) : (size_t)size;
    if (known == size && !last) {
        answer_put(r, t, q);
        return;
    }
    ic_buf bytes = {0};
    if (ic_buf_append(&bytes, q->payload.data + known, size - known)) {
        router_error(r, q, IC_WIRE_CODE_BUSY, "out of memory for this piece: try again");
        return;
    }
    ic_job_transfer *job = new_job(r, t, IC_TRANSFER_PUT, q_p);
    job->last = last;
    job->bytes = bytes;
    t->at += size - known;
    send_job(r, job);
}

void router_transfer_request(router *r, ic_mail_request **q_p)
{
    ic_mail_request *q = *q_p;
    ic_wire_verb verb = q->msg.verb;
    if (verb == IC_WIRE_EXPORT || verb == IC_WIRE_IMPORT) {
        begin(r, q_p);
        return;
    }
    bool puts = verb == IC_WIRE_PUT;
    router_transfer *t = find_transfer(r, puts ? q->msg.put.transfer : q->msg.fetch.transfer);
    if (!t || t->importing != puts || memcmp(&t->client, &q->client, sizeof q->client) != 0)
        router_error(r, q, IC_WIRE_CODE_NOTFOUND,
                     "there is no such transfer (any more): begin again");
    else if (t->busy)
        router_error(r, q, IC_WIRE_CODE_INVALID, "one piece at a time: wait for the last answer");
    else if (puts)
        put(r, t, q_p);
    else
        fetch(r, t, q_p);
}

/* --- replies ------------------------------------------------------------------------------------
 */

static ic_wire_code code_of(const ic_job_transfer *j)
{
    if (j->ambiguous)
        return IC_WIRE_CODE_AMBIGUOUS;
    if (j->job.rc == IC_EFORMAT)
        return IC_WIRE_CODE_CORRUPT;
    return ic_wire_code_from_err(j->job.rc);
}

static void answer_import(router *r, const router_transfer *t, const ic_job_transfer *j)
{
    const ic_mail_request *q = j->request;
    if (j->verdict == IC_STORE_CONFLICT) {
        router_error(r, q, IC_WIRE_CODE_CONFLICT, "this key was used for another request");
    } else if (j->verdict == IC_STORE_EXPIRED) {
        router_error(r, q, IC_WIRE_CODE_EXPIRED, "this key is no longer kept");
    } else if (j->session[0]) {
        ic_wire_msg m = router_ok(q);
        ic_wire_put(&m.ok, ok, session, j->session);
        ic_wire_put(&m.ok, ok, state, IC_WIRE_STATE_SUSPENDED);
        if (j->verdict == IC_STORE_SAME)
            ic_wire_put(&m.ok, ok, repeated, true);
        else
            ic_log_info("router", "session %.8s was imported", j->session);
        router_send(r, q->peer, &m);
    } else {
        answer_put(r, t, q);
    }
}

static void answer_export(router *r, const router_transfer *t, const ic_job_transfer *j)
{
    ic_wire_msg m = router_ok(j->request);
    ic_wire_put(&m.ok, ok, session, j->session);
    ic_wire_put(&m.ok, ok, transfer, t->number);
    router_send(r, j->request->peer, &m);
    ic_log_info("router", "session %.8s is being exported", j->session);
}

void router_transfer_done(router *r, ic_mail *mail)
{
    ic_job_transfer *j = (ic_job_transfer *)mail;
    router_transfer *t = find_transfer(r, j->number);
    if (!t)
        return; /* of none that is left: every busy one is waited for */
    t->busy = false;
    t->out = j->out;
    t->in = j->in;
    j->out = NULL;
    j->in = NULL;
    if (j->job.rc) {
        router_error(r, j->request, code_of(j), j->job.error.text);
        free_transfer(r, t);
        return;
    }
    switch (j->op) {
    case IC_TRANSFER_EXPORT:
        answer_export(r, t, j);
        return;
    case IC_TRANSFER_FETCH:
        t->piece_at = t->at;
        t->at += j->bytes.size;
        t->over = j->last;
        ic_buf_fini(&t->piece);
        t->piece = j->bytes;
        j->bytes = (ic_buf){0};
        send_piece(r, t, j->request);
        return;
    default:
        answer_import(r, t, j);
        if (!t->in)
            free_transfer(r, t);
    }
}

void router_transfers_tick(router *r)
{
    int64_t now = ic_clock_mono_us();
    for (int i = 0; i < ROUTER_TRANSFERS; i++) {
        router_transfer *t = &r->transfers[i];
        if (!t->number || t->busy || now - t->touched_us < r->args->transfer_us)
            continue;
        if (!t->over)
            ic_log_info("router", "%s that nobody went on with is given up",
                        t->importing ? "an import" : "an export");
        free_transfer(r, t);
    }
}

static bool is_any_busy(const router *r)
{
    for (int i = 0; i < ROUTER_TRANSFERS; i++)
        if (r->transfers[i].busy)
            return true;
    return false;
}

/* What is at the store comes back first: its objects are closed there, by a job. */
void router_transfers_end(router *r)
{
    int64_t until = ic_clock_mono_us() + END_US;
    while (is_any_busy(r) && ic_clock_mono_us() < until) {
        ic_outbox_flush(&r->self->outbox);
        ic_mail *m = ic_inbox_take(r->self->inbox);
        if (!m)
            zclock_sleep(5);
        else if (m->kind == IC_MAIL_STORE_JOB && ((ic_store_job *)m)->tag == ROUTER_JOB_TRANSFER)
            router_transfer_done(r, m);
        ic_mail_discard(&m);
    }
    for (int i = 0; i < ROUTER_TRANSFERS; i++)
        free_transfer(r, &r->transfers[i]);
    ic_free(r->transfers);
}

void router_transfers_begin(router *r)
{
    r->transfers = ic_calloc(ROUTER_TRANSFERS, sizeof *r->transfers);
}
