#include "actors/ic_talk.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "actors/ic_talk_priv.h"
#include "base/ic_clock.h"
#include "base/ic_failpoint.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

enum {
    OWED_US = 500000,   /* between two tries to come back for an answer */
    TICK_MS = 50,       /* while something has a deadline */
    LINGER_US = 1000000 /* a suspended session that nobody follows goes after this */
};

/* --- answers to clients ------------------------------------------------------------------------
 */

void talk_send_msg(talk *t, uint64_t peer, ic_wire_msg *m)
{
    ic_mail_send *out = ic_mail_send_new(peer, m->verb);
    ic_error e = {0};
    if (ic_wire_encode(m, &out->body, &e)) {
        ic_log_error("session", "BUG: %.8s: %s", t->id, e.text);
        ic_mail_discard((ic_mail **)&out);
        return;
    }
    ic_port_send(&t->self->outbox, t->args->router, &out);
}

ic_wire_msg talk_ok(const talk *t, const ic_mail_request *r)
{
    ic_wire_msg m;
    uint64_t re = 0;
    ic_wire_msg_init(&m, IC_WIRE_OK);
    ic_wire_msg_get_re(&r->msg, &re);
    ic_wire_put(&m.ok, ok, re, re);
    ic_wire_put(&m.ok, ok, session, t->id);
    ic_wire_put(&m.ok, ok, state, talk_state(t));
    return m;
}

void talk_send_ok(talk *t, const ic_mail_request *r, ic_wire_msg *ok)
{
    talk_send_msg(t, r->peer, ok);
}

void talk_send_error(talk *t, const ic_mail_request *r, ic_wire_code code, const char *message)
{
    ic_wire_msg m;
    uint64_t re = 0;
    ic_wire_msg_init(&m, IC_WIRE_ERROR);
    if (ic_wire_msg_get_re(&r->msg, &re))
        ic_wire_put(&m.error, error, re, re);
    ic_wire_put(&m.error, error, session, t->id);
    if (r->msg.verb == IC_WIRE_DATA)
        ic_wire_put(&m.error, error, media, r->msg.data.media);
    ic_wire_put(&m.error, error, code, ic_wire_code_name(code));
    ic_wire_put(&m.error, error, message, message);
    ic_wire_put(&m.error, error, retryable, ic_wire_code_is_retryable(code));
    talk_send_msg(t, r->peer, &m);
}

static void free_request(ic_mail_request **r_p)
{
    ic_mail_discard((ic_mail **)r_p);
}

static void send_plain_ok(talk *t, const ic_mail_request *r)
{
    ic_wire_msg ok = talk_ok(t, r);
    talk_send_ok(t, r, &ok);
}

static void send_plain(talk *t, ic_mail_kind kind, uint64_t number)
{
    ic_mail_plain *m = ic_mail_plain_new(kind, t->id);
    m->number = number;
    ic_port_send(&t->self->outbox, t->args->router, &m);
}

/* --- requests that wait ------------------------------------------------------------------------
 */

static void wait_for(ic_mail_request **list, ic_mail_request **r_p)
{
    ic_mail **at = (ic_mail **)list;
    while (*at)
        at = &(*at)->next;
    (*r_p)->head.next = NULL;
    *at = &(*r_p)->head;
    *r_p = NULL;
}

static ic_mail_request *next_waiting(ic_mail_request **list)
{
    ic_mail_request *r = *list;
    if (r)
        *list = (ic_mail_request *)r->head.next;
    return r;
}

static void refuse_waiting(talk *t, ic_wire_code code, const char *message)
{
    ic_mail_request *r;
    while ((r = next_waiting(&t->waiting))) {
        talk_send_error(t, r, code, message);
        free_request(&r);
    }
}

static bool wishes_rebuild(const ic_mail_request *r)
{
    return r->msg.verb == IC_WIRE_RESUME && ic_wire_get(&r->msg.resume, resume, rebuild, false);
}

/* A rebuild that was wished for while the memory was on its way without one is for the next try. */
static void refuse_load(talk *t, ic_wire_code code, const char *message)
{
    ic_mail_request *list = t->waiting, *r;
    t->waiting = NULL;
    while ((r = next_waiting(&list))) {
        if (wishes_rebuild(r)) {
            wait_for(&t->waiting, &r);
            continue;
        }
        talk_send_error(t, r, code, message);
        free_request(&r);
    }
}

/* --- waking, failing, stopping -----------------------------------------------------------------
 */

void talk_wake(talk *t)
{
    t->phase = TALK_WAIT_ROOM;
    send_plain(t, IC_MAIL_ROOM_WANTED, 0);
}

static void close_cache(talk *t)
{
    ic_failpoint(IC_FAIL_suspend_close);
    t->phase = TALK_CLOSING;
    ic_mail_lease *m = ic_mail_lease_new(IC_MAIL_CLOSE, t->seat, t->session);
    t->session = NULL;
    t->seat = NULL;
    t->lease = TALK_LEASE_NONE;
    ic_port_send(&t->self->outbox, t->args->sched, &m);
}

/* Who follows the session hears of its failure at once: an event could not be written. */
static void tell_failure(talk *t, ic_wire_code code, const ic_error *e)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_ERROR);
    ic_wire_put(&m.error, error, session, t->id);
    if (t->source && t->source->media)
        ic_wire_put(&m.error, error, media, t->source->media);
    ic_wire_put(&m.error, error, code, ic_wire_code_name(code));
    ic_wire_put(&m.error, error, message, e->text);
    ic_wire_put(&m.error, error, retryable, ic_wire_code_is_retryable(code));
    for (const talk_attachment *a = t->attachments; a; a = a->next)
        talk_send_msg(t, a->peer, &m);
}

/* What is in memory is given up; what is stored stands, and RESUME tries again. */
void talk_fail(talk *t, ic_wire_code code, const ic_error *e)
{
    if (t->phase == TALK_FAILED || t->phase == TALK_GONE)
        return;
    ic_log_error("session", "%.8s: failed: %s", t->id, e->text);
    t->failure = *e;
    t->failure_code = code;
    tell_failure(t, code, e);
    bool plain = t->phase >= TALK_OPENING && t->phase <= TALK_LOADING && !t->rebuild;
    talk_load_abort(t);
    talk_rebuild_cancel(t);
    if (plain)
        refuse_load(t, code, e->text);
    else
        refuse_waiting(t, code, e->text);
    ic_mail_request *r;
    while ((r = next_waiting(&t->stop_replies))) {
        talk_send_error(t, r, code, e->text);
        free_request(&r);
    }
    talk_turn_free(&t->turn);
    talk_line_clear(t);
    talk_unit_drop_all(t);
    talk_source_free(t);
    t->replay_answers = 0;
    if (t->why < TALK_WHY_FAIL)
        t->why = TALK_WHY_FAIL;
    if (t->lease == TALK_LEASE_NONE) {
        bool room = t->phase >= TALK_OPENING;
        t->why = TALK_WHY_NONE;
        t->phase = TALK_FAILED;
        if (room)
            send_plain(t, IC_MAIL_ROOM_FREED, 0);
        return;
    }
    t->phase = TALK_STOPPING;
}

void talk_begin_stop(talk *t, talk_why why)
{
    bool nothing = t->phase == TALK_COLD || t->phase == TALK_SUSPENDED || t->phase == TALK_FAILED
                   || t->phase == TALK_GONE;
    if (t->why >= why || nothing)
        return;
    t->why = why;
    ic_failpoint(IC_FAIL_suspend_begin);
    if (t->phase == TALK_LIVE) {
        ic_log_debug("session", "%.8s: stopping", t->id);
        t->phase = TALK_STOPPING;
    }
    t->home_wanted = false;
    t->checkpoint_error = (ic_error){0};
    talk_source_stop(t);
}

/* SUSPEND and RM cancel what is asked. */
static void cancel_all(talk *t)
{
    if (t->turn && !t->turn->cancelled)
        talk_cancel_turn(t);
    uint64_t number;
    while ((number = talk_line_first_admitted(t))) {
        talk_turn *queued = talk_line_take(t, number);
        talk_end_queued(t, &queued, IC_FINISH_CANCEL);
    }
}

static void stopped(talk *t)
{
    ic_failpoint(IC_FAIL_suspend_done);
    talk_why why = t->why;
    bool asked = t->line_turns > 0; /* admitted on the way here: the checkpoint holds it */
    t->why = TALK_WHY_NONE;
    talk_line_clear(t);
    talk_turn_free(&t->turn);
    t->frames_sent = t->journal_bytes = 0;
    t->replay_us = 0;
    t->model_busy = t->touched = t->home_wanted = t->unfinished = false;
    send_plain(t, IC_MAIL_ROOM_FREED, 0);
    if (why == TALK_WHY_FAIL) {
        t->phase = TALK_FAILED;
        return;
    }
    t->phase = TALK_SUSPENDED;
    ic_log_info("session", "%.8s: %s", t->id, why == TALK_WHY_RM ? "let go" : "suspended");
    talk_tell_router(t); /* first: a STATUS behind the OK must not count it as resident */
    ic_mail_request *r;
    while ((r = next_waiting(&t->stop_replies))) {
        send_plain_ok(t, r);
        free_request(&r);
    }
    if (asked && !t->rm) {
        t->owes = true;
        return;
    }
    if (why == TALK_WHY_IDLE || why == TALK_WHY_ROOM) {
        talk_unit *u = talk_unit_new(t);
        talk_event *ev = talk_unit_event(u, IC_WIRE_EVENT_STATE);
        ev->state = IC_WIRE_STATE_SUSPENDED;
        ev->message = ic_strdup(why == TALK_WHY_IDLE
                                    ? "nobody spoke to the session for a while: it is suspended"
                                    : "another session needs the memory: this one is suspended");
        talk_unit_add(t, &u);
    }
}

/* The source is let go of: it must not wait for a line that stands still. */
static void end_source(talk *t, bool keep)
{
    if (!t->source)
        return;
    if (!keep) {
        talk_source_free(t);
        return;
    }
    if (!t->source->ended || !(t->source->media || t->source->request))
        return;
    if (t->lease == TALK_LEASE_OUT && !talk_is_answering(t))
        talk_end_frames(t);
    if (t->source)
        talk_source_finish(t);
}

/* The checkpoint did not succeed: better resident than half stored; at the server's end the journal
 * holds it all. */
static bool keep_resident(talk *t)
{
    ic_mail_request *r;
    while ((r = next_waiting(&t->stop_replies))) {
        talk_send_error(t, r, IC_WIRE_CODE_STORE, t->checkpoint_error.text);
        free_request(&r);
    }
    bool drain = t->why == TALK_WHY_DRAIN;
    t->checkpoint_error = (ic_error){0};
    if (drain)
        return false;
    t->why = TALK_WHY_NONE;
    t->phase = TALK_LIVE;
    t->spoken_us = ic_clock_mono_us();
    return true;
}

/* One step towards suspended, as far as nothing is to be waited for. */
static void advance_stop(talk *t)
{
    bool keep = t->why != TALK_WHY_FAIL && t->why != TALK_WHY_RM && !t->unfinished;
    talk_checkpoint_advance(t);
    talk_source_drop_frames(t);
    if (t->why == TALK_WHY_ASKED || t->why == TALK_WHY_RM)
        cancel_all(t);
    if (t->why == TALK_WHY_DRAIN && t->turn && !t->turn->cancelled
        && ic_clock_mono_us() >= t->drain_until_us)
        talk_cancel_turn(t);
    end_source(t, keep);
    if (t->source)
        return;
    if (keep && t->turn && t->lease == TALK_LEASE_HOME && talk_checkpoint_spares(t))
        talk_lease_out(t);
    if (keep && t->replay_answers)
        return;
    if (keep && (t->turn || !talk_is_written(t)))
        return;
    if (t->lease == TALK_LEASE_OUT) {
        if (!keep || !t->model_busy)
            talk_recall(t);
        return;
    }
    if (t->lease != TALK_LEASE_HOME || t->checkpointing)
        return;
    if (keep && ic_session_is_ready(t->session)) {
        t->model_busy = true;
        talk_lease_out(t);
        return;
    }
    if (keep && t->touched) {
        if (!t->checkpoint_error.code) {
            talk_checkpoint_begin(t);
            return;
        }
        if (keep_resident(t))
            return;
    }
    close_cache(t);
}

/* --- requests ----------------------------------------------------------------------------------
 */

static void draw_seed(uint64_t *seed)
{
    if (getrandom(seed, sizeof *seed, 0) != sizeof *seed)
        *seed = (uint64_t)ic_clock_wall_us();
}

bool ic_talk_take_sampling(ic_sampling *s, const ic_wire_sampling *w)
{
    s->temperature = (float)ic_wire_get(w, sampling, temperature, (double)s->temperature);
    s->top_k = (int32_t)ic_wire_get(w, sampling, top_k, (uint64_t)s->top_k);
    s->top_p = (float)ic_wire_get(w, sampling, top_p, (double)s->top_p);
    s->repetition_penalty =
        (float)ic_wire_get(w, sampling, repetition_penalty, (double)s->repetition_penalty);
    s->max_tokens = (int32_t)ic_wire_get(w, sampling, max_tokens, (uint64_t)s->max_tokens);
    s->seed = ic_wire_get(w, sampling, seed, s->seed);
    return ic_wire_has(w, sampling, seed);
}

static void ask_sampling(const talk *t, const ic_wire_ask *m, ic_sampling *s)
{
    *s = t->config.sampling;
    bool seeded = t->config.has_seed;
    if (ic_wire_has(m, ask, sampling) && ic_talk_take_sampling(s, &m->sampling))
        seeded = true;
    if (!seeded)
        draw_seed(&s->seed);
    if (s->max_tokens <= 0 || s->max_tokens > t->limits->max_answer_tokens)
        s->max_tokens = t->limits->max_answer_tokens;
}

static talk_turn *new_turn(talk *t, const ic_mail_request *r)
{
    const ic_wire_ask *m = &r->msg.ask;
    talk_turn *turn = ic_alloc(sizeof *turn);
    turn->number = ++t->head.turns;
    turn->key = m->key;
    turn->has_key = true;
    turn->client = r->client;
    turn->cancel_on_vanish =
        ic_wire_get(m, ask, on_vanish, IC_WIRE_ON_VANISH_KEEP) == IC_WIRE_ON_VANISH_CANCEL;
    turn->text = ic_strdup(m->text);
    turn->arrived_us = r->arrived_us;
    turn->arrived_wall_us = ic_clock_wall_us();
    ask_sampling(t, m, &turn->sampling);
    return turn;
}

/* Journal, transcript and event of a question, together with its admission. */
static void admit_turn(talk *t, ic_mail_request **r_p)
{
    talk_turn *turn = new_turn(t, *r_p);
    ic_error e = {0};
    if (ic_sampling_check(&turn->sampling, &e)) {
        talk_send_error(t, *r_p, IC_WIRE_CODE_INVALID, e.text);
        t->head.turns--;
        talk_turn_free(&turn);
        return;
    }
    talk_unit *u = talk_unit_new(t);
    talk_unit_admit(u, r_p);
    u->turn = turn->number;
    u->is_turn = true;
    ic_talk_record r = {.kind = IC_RECORD_ASK,
                        .turn = turn->number,
                        .text = turn->text,
                        .sampling = turn->sampling};
    memcpy(r.key, turn->key.bytes, sizeof r.key);
    talk_unit_record(t, u, &r, &turn->key);
    ic_write_op *op = ic_job_write_add(u->ops, IC_WRITE_TURN);
    op->turn = (ic_store_turn){.time_us = turn->arrived_wall_us, .role = IC_STORE_USER};
    ic_buf_append(&op->bytes, turn->text, strlen(turn->text));
    ic_buf_u64(&op->extra, turn->number);
    talk_event *ev = talk_unit_event(u, IC_WIRE_EVENT_TURN);
    ev->turn = turn->number;
    ev->text = ic_strdup(turn->text);
    talk_unit_add(t, &u);
    talk_item *item = ic_alloc(sizeof *item);
    item->type = TALK_ITEM_TURN;
    item->turn = turn;
    talk_line_add(t, &item);
}

/* A key that may be known is looked up before a busy session refuses. */
static void look_up(talk *t, ic_mail_request **r_p)
{
    const ic_wire_id *key = ic_request_key(&(*r_p)->msg);
    ic_job_lookup *job = ic_job_lookup_new(r_p, key, t->store_reply, TALK_JOB_LOOKUP);
    ic_port_send(&t->self->outbox, t->args->store, &job);
}

/* It takes all the room on disk that it may: nothing new goes in. */
static bool is_full(const talk *t)
{
    int64_t bytes = t->store_bytes + t->grown_bytes;
    return t->limits->session_bytes && bytes > t->limits->session_bytes;
}

static void take_ask(talk *t, ic_mail_request **r_p)
{
    const ic_wire_ask *m = &(*r_p)->msg.ask;
    bool busy = talk_is_answering(t) || t->line_turns;
    bool queue = ic_wire_get(m, ask, if_busy, IC_WIRE_IF_BUSY_REFUSE) == IC_WIRE_IF_BUSY_QUEUE;
    int waiting = t->line_turns - (talk_is_answering(t) ? 0 : 1);
    if (is_full(t) || (busy && (!queue || waiting >= t->limits->queue)))
        look_up(t, r_p);
    else
        admit_turn(t, r_p);
}

static void take_media(talk *t, ic_mail_request **r_p)
{
    if (t->source || is_full(t))
        look_up(t, r_p);
    else
        talk_source_start(t, r_p);
}

/* CANCEL and MEDIA_STOP do nothing before their key is known to be new. */
static void admit_simple(talk *t, ic_mail_request **r_p)
{
    talk_unit *u = talk_unit_new(t);
    talk_unit_admit(u, r_p);
    talk_unit_add(t, &u);
}

static void do_cancel(talk *t, const ic_mail_request *r)
{
    const ic_wire_cancel *m = &r->msg.cancel;
    uint64_t wanted = ic_wire_get(m, cancel, turn, 0);
    uint64_t found = 0;
    ic_failpoint(IC_FAIL_cancel);
    if (t->turn && (!wanted || t->turn->number == wanted)) {
        found = t->turn->number;
        if (!t->turn->cancelled)
            talk_cancel_turn(t);
    } else if (!t->turn && !wanted && t->line_turns) {
        for (const talk_item *i = t->line; i && !found; i = i->next)
            found = i->turn && i->turn->admitted ? i->turn->number : 0;
    } else if (wanted) {
        found = talk_line_turn(t, wanted) ? wanted : 0;
    }
    if (found && !(t->turn && t->turn->number == found)) {
        talk_turn *queued = talk_line_turn(t, found);
        if (queued && queued->admitted) {
            queued = talk_line_take(t, found);
            talk_end_queued(t, &queued, IC_FINISH_CANCEL);
        }
    }
    ic_wire_msg ok = talk_ok(t, r);
    if (found)
        ic_wire_put(&ok.ok, ok, turn, found);
    talk_send_ok(t, r, &ok);
}

static void do_media_stop(talk *t, const ic_mail_request *r)
{
    uint64_t wanted = ic_wire_get(&r->msg.media_stop, media_stop, media, 0);
    ic_wire_msg ok = talk_ok(t, r);
    if (t->source && t->source->media && (!wanted || t->source->media == wanted)) {
        ic_wire_put(&ok.ok, ok, media, t->source->media);
        atomic_store(&t->source->args.stop, true);
    }
    talk_send_ok(t, r, &ok);
}

static void attach_sender(talk *t, const ic_mail_request *r, int64_t from)
{
    talk_attach(t, r->peer, from, (int64_t)t->limits->event_credit, false);
}

/* The former answer to a repeated request; its events are sent again. */
static void repeat(talk *t, const ic_mail_request *r, const ic_job_write *done)
{
    ic_cursor c;
    ic_cursor_init(&c, done->known_result.data, done->known_result.size);
    uint64_t turn = ic_cursor_u64(&c), media = ic_cursor_u64(&c);
    int64_t first = done->known.first_event;
    ic_wire_msg ok = talk_ok(t, r);
    ic_wire_put(&ok.ok, ok, repeated, true);
    if (first)
        ic_wire_put(&ok.ok, ok, n, (uint64_t)first);
    if (turn)
        ic_wire_put(&ok.ok, ok, turn, turn);
    if (media) {
        bool open = t->source && t->source->media == media;
        ic_wire_put(&ok.ok, ok, media, media);
        if (open && t->source->args.kind == IC_WIRE_KIND_UPLOAD) {
            ic_wire_put(&ok.ok, ok, received, t->source->received);
            ic_wire_put(&ok.ok, ok, until, t->source->granted);
        }
    }
    talk_send_ok(t, r, &ok);
    if (first)
        talk_attach(t, r->peer, first, (int64_t)t->limits->event_credit, true);
}

static void refuse_key(talk *t, const ic_mail_request *r, ic_store_verdict verdict)
{
    if (verdict == IC_STORE_CONFLICT)
        talk_send_error(t, r, IC_WIRE_CODE_CONFLICT, "this key was used for another request");
    else
        talk_send_error(t, r, IC_WIRE_CODE_EXPIRED, "this key is no longer kept");
}

static void admitted(talk *t, talk_unit *u)
{
    ic_mail_request *r = u->request;
    ic_wire_msg ok = talk_ok(t, r);
    switch (r->msg.verb) {
    case IC_WIRE_ASK: {
        talk_turn *turn = talk_line_turn(t, u->turn);
        if (turn) {
            turn->admitted = true;
            turn->first_event = u->first_event;
        }
        attach_sender(t, r, u->first_event);
        ic_wire_put(&ok.ok, ok, turn, u->turn);
        ic_wire_put(&ok.ok, ok, n, (uint64_t)u->first_event);
        talk_send_ok(t, r, &ok);
        return;
    }
    case IC_WIRE_MEDIA: {
        attach_sender(t, r, u->first_event);
        talk_source_admitted(t, u);
        ic_mail_send *reply = talk_media_ok(t, r, u->first_event, false);
        ic_port_send(&t->self->outbox, t->args->router, &reply);
        return;
    }
    case IC_WIRE_CANCEL:
        do_cancel(t, r);
        return;
    case IC_WIRE_MEDIA_STOP:
        do_media_stop(t, r);
        return;
    default:
        return;
    }
}

void talk_verdict(talk *t, talk_unit *u, const ic_job_write *done)
{
    if (done->verdict == IC_STORE_NEW) {
        admitted(t, u);
        return;
    }
    if (u->is_turn) { /* it was none: its place in the line is given up */
        talk_turn *turn = talk_line_take(t, u->turn);
        if (turn && turn->number == t->head.turns)
            t->head.turns--;
        talk_turn_free(&turn);
    }
    if (u->media) /* it was to begin a source. A repetition that finds the source there does not */
        talk_source_refused(t);
    if (done->verdict == IC_STORE_SAME)
        repeat(t, u->request, done);
    else
        refuse_key(t, u->request, done->verdict);
}

static void looked_up(talk *t, ic_job_lookup *done)
{
    ic_mail_request *r = done->request;
    if (done->job.rc) {
        talk_send_error(t, r, IC_WIRE_CODE_STORE, done->job.error.text);
    } else if (done->verdict == IC_STORE_NEW && is_full(t)) {
        char text[160];
        snprintf(text, sizeof text,
                 "the session takes %lld bytes on disk, more than it may (store.session_bytes): "
                 "remove its marks, or go on in another session",
                 (long long)(t->store_bytes + t->grown_bytes));
        talk_send_error(t, r, IC_WIRE_CODE_LIMIT, text);
    } else if (done->verdict == IC_STORE_NEW) {
        bool media = r->msg.verb == IC_WIRE_MEDIA;
        talk_send_error(t, r, IC_WIRE_CODE_BUSY,
                        media ? "the session is reading another source"
                              : "the session is answering: wait for the end, cancel, or queue");
    } else if (done->verdict == IC_STORE_SAME) {
        /* Admitting it again gives the recorded answer, and changes nothing. */
        done->request = NULL;
        admit_simple(t, &r);
    } else {
        refuse_key(t, r, done->verdict);
    }
}

/* --- dispatch ----------------------------------------------------------------------------------
 */

static bool needs_life(ic_wire_verb verb)
{
    return verb == IC_WIRE_ASK || verb == IC_WIRE_MEDIA || verb == IC_WIRE_RESUME;
}

static void do_suspend(talk *t, ic_mail_request **r_p)
{
    if (t->phase == TALK_SUSPENDED) {
        send_plain_ok(t, *r_p);
        return;
    }
    wait_for(&t->stop_replies, r_p);
    talk_begin_stop(t, TALK_WHY_ASKED);
}

static void do_resume(talk *t, const ic_mail_request *r)
{
    ic_wire_msg ok = talk_ok(t, r);
    ic_wire_put(&ok.ok, ok, exact, t->exact && !t->head.inexact);
    ic_wire_put(&ok.ok, ok, recomputed_tokens, t->recomputed);
    if (t->rebuild_notice_count)
        ic_wire_put(&ok.ok, ok, notices,
                    ((ic_wire_strs){.count = t->rebuild_notice_count,
                                    .items = (const char **)t->rebuild_notices}));
    talk_send_ok(t, r, &ok);
}

static void do_rm(talk *t, ic_mail_request **r_p)
{
    if (t->rm) {
        talk_send_error(t, *r_p, IC_WIRE_CODE_BUSY, "the session is being deleted already");
        return;
    }
    t->rm = *r_p;
    *r_p = NULL;
    talk_begin_stop(t, TALK_WHY_RM);
}

/* Nothing of it is in memory any more: the router deletes it. */
static void let_go(talk *t)
{
    t->why = TALK_WHY_NONE;
    t->phase = TALK_GONE;
    refuse_waiting(t, IC_WIRE_CODE_NOTFOUND, "the session has been deleted");
    ic_mail_rm_ready *m = ic_mail_rm_ready_new(&t->rm);
    ic_port_send(&t->self->outbox, t->args->router, &m);
}

static void take_live(talk *t, ic_mail_request **r_p)
{
    switch ((*r_p)->msg.verb) {
    case IC_WIRE_ASK:
        take_ask(t, r_p);
        break;
    case IC_WIRE_MEDIA:
        take_media(t, r_p);
        break;
    case IC_WIRE_RESUME:
        do_resume(t, *r_p);
        break;
    default:
        break;
    }
}

/* A request that needs the cache, by phase. */
static void take_life(talk *t, ic_mail_request **r_p)
{
    bool resume = (*r_p)->msg.verb == IC_WIRE_RESUME;
    if (wishes_rebuild(*r_p) && (t->phase == TALK_SUSPENDED || t->phase == TALK_FAILED))
        t->rebuild = true;
    t->spoken_us = ic_clock_mono_us();
    switch (t->phase) {
    case TALK_LIVE:
        if (t->rebuilding)
            break;
        take_live(t, r_p);
        return;
    case TALK_STOPPING:
    case TALK_CLOSING:
        if (t->why == TALK_WHY_IDLE || t->why == TALK_WHY_ROOM || t->why == TALK_WHY_FAIL)
            break; /* not the client's doing: it comes back for this, or says why not */
        talk_send_error(t, *r_p, IC_WIRE_CODE_BUSY, "the session is being suspended: try again");
        return;
    case TALK_FAILED:
        if (!resume) {
            talk_send_error(t, *r_p, t->failure_code, t->failure.text);
            return;
        }
        t->phase = TALK_SUSPENDED;
        break;
    case TALK_GONE:
        talk_send_error(t, *r_p, IC_WIRE_CODE_NOTFOUND, "the session has been deleted");
        return;
    default:
        break;
    }
    wait_for(&t->waiting, r_p);
    if (t->phase == TALK_SUSPENDED)
        talk_wake(t);
}

static void dispatch(talk *t, ic_mail_request **r_p)
{
    ic_mail_request *r = *r_p;
    ic_wire_verb verb = r->msg.verb;
    bool failed = t->phase == TALK_FAILED;
    if (needs_life(verb)) {
        take_life(t, r_p);
        return;
    }
    switch (verb) {
    case IC_WIRE_ATTACH:
        talk_take_attach(t, r);
        return;
    case IC_WIRE_DETACH:
        talk_detach(t, r->peer);
        send_plain_ok(t, r);
        return;
    case IC_WIRE_CREDIT:
        talk_credit(t, r->peer, r->msg.credit.bytes);
        return;
    case IC_WIRE_DATA:
        talk_source_data(t, r);
        return;
    case IC_WIRE_CANCEL:
    case IC_WIRE_MEDIA_STOP:
        if (failed || t->phase == TALK_GONE)
            send_plain_ok(t, r);
        else
            admit_simple(t, r_p);
        return;
    case IC_WIRE_SUSPEND:
        if (failed)
            talk_send_error(t, r, t->failure_code, t->failure.text);
        else if (t->rebuild_run) /* it may take long: the session is as it was before */
            do_suspend(t, r_p);
        else if (t->phase == TALK_WAIT_ROOM || (t->phase >= TALK_OPENING && t->phase < TALK_LIVE))
            talk_send_error(t, r, IC_WIRE_CODE_BUSY, "the session is being resumed: try again");
        else
            do_suspend(t, r_p);
        return;
    case IC_WIRE_RM:
        do_rm(t, r_p);
        return;
    case IC_WIRE_SHOW:
        talk_look_add(t, r_p);
        return;
    default:
        talk_send_error(t, r, IC_WIRE_CODE_INTERNAL, "the router sent what is not a session's");
    }
}

static void take_request(talk *t, ic_mail_request **r_p)
{
    if (t->phase == TALK_COLD)
        wait_for(&t->waiting, r_p);
    else
        dispatch(t, r_p);
    if (*r_p)
        free_request(r_p);
}

static void take_waiting(talk *t)
{
    ic_mail_request *list = t->waiting, *r;
    t->waiting = NULL;
    while ((r = next_waiting(&list)))
        take_request(t, &r);
}

/* --- mail --------------------------------------------------------------------------------------
 */

static void take_record(talk *t, ic_job_session *done)
{
    ic_error e = done->job.error;
    int rc = done->job.rc;
    if (rc == IC_OK && done->config_version != IC_SESSION_CONFIG_VERSION)
        rc = ic_error_set(&e, IC_EVERSION, "the session's configuration is of version %u",
                          done->config_version);
    if (rc == IC_OK)
        rc = ic_talk_config_decode(&t->config, done->config.data, done->config.size, &e);
    t->record = done->record;
    t->event_next = rc ? 1 : done->record.event_next;
    t->head.turns = (uint64_t)done->turns;
    t->head.medias = (uint64_t)done->medias;
    t->store_bytes = done->store_bytes;
    t->grown_bytes = 0;
    t->phase = TALK_SUSPENDED;
    if (rc) {
        t->phase = TALK_COLD;
        talk_fail(t, rc == IC_ENOTFOUND ? IC_WIRE_CODE_NOTFOUND : IC_WIRE_CODE_CORRUPT, &e);
        return;
    }
    take_waiting(t);
    t->owes = t->args->owes;
    if (t->phase == TALK_SUSPENDED && t->args->wake && !t->owes && !t->draining)
        talk_wake(t);
}

static void take_job(talk *t, ic_mail **m_p)
{
    ic_store_job *job = (ic_store_job *)*m_p;
    switch (job->tag) {
    case TALK_JOB_RECORD:
        take_record(t, (ic_job_session *)job);
        break;
    case TALK_JOB_WRITE:
        if (t->in_flight)
            talk_written(t, (ic_job_write *)job);
        break;
    case TALK_JOB_LOOKUP:
        looked_up(t, (ic_job_lookup *)job);
        break;
    case TALK_JOB_EVENTS:
        talk_events_read(t, (ic_job_events *)job);
        break;
    case TALK_JOB_LOAD:
        if (t->phase == TALK_LOADING)
            talk_loaded(t, (ic_job_load **)m_p);
        break;
    case TALK_JOB_SEGMENT:
        talk_segment(t, (ic_job_segment *)job);
        break;
    case TALK_JOB_TRANSCRIPT:
        talk_rebuild_read(t, (ic_job_transcript **)m_p);
        break;
    case TALK_JOB_FRAMES:
        talk_rebuild_frames(t, (ic_job_frames **)m_p);
        break;
    case TALK_JOB_CHECKPOINT:
        talk_checkpoint_done(t, (ic_job_checkpoint *)job);
        break;
    }
}

static void take_room(talk *t, const ic_mail_plain *m)
{
    if (t->phase != TALK_WAIT_ROOM) {
        if (!m->error.code)
            send_plain(t, IC_MAIL_ROOM_FREED, 0);
        return;
    }
    if (m->error.code) {
        t->phase = TALK_SUSPENDED;
        refuse_waiting(t, IC_WIRE_CODE_BUSY, m->error.text);
        return;
    }
    t->phase = TALK_OPENING;
    talk_rebuild_config(t);
    ic_mail_open *open = ic_mail_new(IC_MAIL_OPEN, sizeof *open, NULL);
    open->config = t->config.engine;
    open->reply = ic_port_open(t->self->inbox);
    ic_port_send(&t->self->outbox, t->args->sched, &open);
}

static void take_returned(talk *t, const ic_mail_lease *m)
{
    t->session = m->session;
    t->lease = TALK_LEASE_HOME;
    t->home_us = ic_clock_mono_us();
    talk_checkpoint_mark(t);
    ic_session_stats_of(t->session, &t->stats);
    t->model_busy = ic_session_is_ready(t->session);
}

static void take_closed(talk *t)
{
    if (t->phase == TALK_FAILED)
        return; /* of a cache that was given up before it came */
    stopped(t);
    if (t->phase == TALK_SUSPENDED || t->phase == TALK_FAILED)
        take_waiting(t);
}

static void take_vanish(talk *t, const ic_mail_peer_gone *m)
{
    talk_detach(t, m->peer);
    if (!m->client_gone)
        return;
    talk_turn *turn = t->turn;
    if (turn && turn->cancel_on_vanish && !turn->cancelled
        && memcmp(&turn->client, &m->client, sizeof m->client) == 0)
        talk_cancel_turn(t);
    for (talk_item *i = t->line; i; i = i->next) {
        if (i->turn && i->turn->cancel_on_vanish
            && memcmp(&i->turn->client, &m->client, sizeof m->client) == 0)
            i->turn->cancelled = true; /* ends as soon as it begins */
    }
}

static void take_drain(talk *t, const ic_mail_plain *m)
{
    t->draining = true;
    t->drain_until_us = ic_clock_mono_us() + (int64_t)m->number * 1000;
    refuse_waiting(t, IC_WIRE_CODE_SHUTDOWN, "the server is stopping");
    if (t->phase == TALK_WAIT_ROOM)
        t->phase = TALK_SUSPENDED;
    talk_begin_stop(t, TALK_WHY_DRAIN);
}

static void take_mail(talk *t, ic_mail **m_p)
{
    ic_mail *m = *m_p;
    switch (m->kind) {
    case IC_MAIL_REQUEST:
        t->mails++;
        take_request(t, (ic_mail_request **)m_p);
        return;
    case IC_MAIL_PEER_GONE:
        t->mails++;
        take_vanish(t, (ic_mail_peer_gone *)m);
        break;
    case IC_MAIL_ATTACH_PEER:
        t->mails++;
        talk_attach(t, ((ic_mail_plain *)m)->number, t->event_next,
                    (int64_t)t->limits->event_credit, false);
        break;
    case IC_MAIL_ROOM:
        t->mails++;
        take_room(t, (ic_mail_plain *)m);
        break;
    case IC_MAIL_SUSPEND_NOW:
        t->mails++;
        if (t->phase == TALK_LIVE && !talk_is_busy(t)) /* as it is now, not as the router saw it */
            talk_begin_stop(t, TALK_WHY_ROOM);
        break;
    case IC_MAIL_DRAIN:
        t->mails++;
        take_drain(t, (ic_mail_plain *)m);
        break;
    case IC_MAIL_STORE_JOB:
        take_job(t, m_p);
        break;
    case IC_MAIL_OPENED:
        talk_opened(t, (ic_mail_lease *)m);
        break;
    case IC_MAIL_RETURNED:
        take_returned(t, (ic_mail_lease *)m);
        break;
    case IC_MAIL_CLOSED:
        take_closed(t);
        break;
    case IC_MAIL_PROGRESS:
        talk_progress(t, (ic_mail_progress *)m);
        break;
    default:
        if (t->rebuild_run)
            talk_reread_mail(t, m_p);
        else
            talk_source_mail(t, m_p);
    }
    ic_mail_discard(m_p);
}

/* An admitted question is owed an answer: the session wakes for it, again and again while others
 * hold the memory. */
static void advance_owed(talk *t)
{
    int64_t now = ic_clock_mono_us();
    if (t->phase != TALK_SUSPENDED || !t->owes || t->draining || t->rm || now < t->owed_again_us)
        return;
    t->owed_again_us = now + OWED_US;
    talk_wake(t);
}

/* --- what follows from what has come -----------------------------------------------------------
 */

static bool replay_is_in(const talk *t)
{
    if (talk_rebuild_is_feeding(t) || t->replay_answers || t->frames_sent > t->stats.frames)
        return false;
    return t->turn ? t->stats.answer_tokens >= t->turn->replayed && t->stats.decoding
                   : !t->model_busy;
}

static void advance_live(talk *t)
{
    int64_t now = ic_clock_mono_us();
    if (t->home_wanted && t->lease == TALK_LEASE_HOME && talk_is_written(t) && !t->checkpointing) {
        t->home_wanted = false;
        if (talk_checkpoint_fits(t))
            talk_checkpoint_begin(t);
    }
    talk_checkpoint_advance(t);
    if (t->lease == TALK_LEASE_HOME && !t->home_wanted && talk_checkpoint_spares(t))
        talk_lease_out(t);
    /* Before the next question begins, which may be there already. */
    if (talk_checkpoint_due(t) || (t->rebuilding && !t->checkpointing && !t->checkpoint_error.code))
        t->home_wanted = true;
    talk_pump(t);
    talk_source_tick(t);
    if (t->home_wanted && t->lease == TALK_LEASE_OUT && (t->turn || !t->model_busy))
        talk_recall(t);
    bool idle = !t->turn && !t->line && !t->source && talk_is_written(t) && !t->checkpointing;
    if (idle && now - t->spoken_us > t->limits->idle_us)
        talk_begin_stop(t, TALK_WHY_IDLE);
}

static void want_end(talk *t)
{
    bool owes = t->owes && t->phase == TALK_SUSPENDED && !t->draining;
    bool quiet = (t->phase == TALK_SUSPENDED || t->phase == TALK_FAILED || t->phase == TALK_GONE)
                 && !owes && !t->waiting && !t->looks && talk_is_written(t);
    bool left = !t->attachments || t->draining || t->phase == TALK_GONE;
    if (!quiet || !left)
        return;
    int64_t now = ic_clock_mono_us();
    if (!t->draining && t->phase != TALK_GONE && now - t->spoken_us < LINGER_US)
        return;
    if (t->end_wanted && t->end_asked == t->mails)
        return; /* the router knows; if it did not end this, mail is on its way */
    t->end_wanted = true;
    t->end_asked = t->mails;
    send_plain(t, IC_MAIL_WANT_END, t->mails);
}

/* A memory that is half made is not waited for, and not stored. */
static void stop_rebuild(talk *t)
{
    ic_wire_code code = t->why == TALK_WHY_DRAIN ? IC_WIRE_CODE_SHUTDOWN
                        : t->why == TALK_WHY_RM  ? IC_WIRE_CODE_NOTFOUND
                                                 : IC_WIRE_CODE_BUSY;
    ic_log_info("session", "%.8s: its rebuild is given up", t->id);
    refuse_waiting(t, code,
                   t->why == TALK_WHY_RM
                       ? "the session has been deleted"
                       : "the rebuild was given up: the session is stored as it was before");
    talk_rebuild_cancel(t);
    t->replay_answers = 0;
    t->unfinished = true;
    t->phase = TALK_STOPPING;
}

static void advance(talk *t)
{
    if (t->rebuild_run && t->why != TALK_WHY_NONE)
        stop_rebuild(t);
    talk_rebuild_pump(t);
    if (t->phase == TALK_REPLAY && replay_is_in(t)) {
        talk_replay_done(t);
        if (t->rebuilding)
            talk_rebuild_settle(t);
        t->owes = false;
        take_waiting(t);
    }
    if (t->phase == TALK_LIVE && t->why != TALK_WHY_NONE) /* told while it woke up */
        t->phase = TALK_STOPPING;
    if (t->rm && talk_is_written(t) && (t->phase == TALK_SUSPENDED || t->phase == TALK_FAILED))
        let_go(t);
    advance_owed(t);
    talk_looks(t);
    if ((t->phase == TALK_LIVE || t->phase == TALK_FAILED) && t->waiting)
        take_waiting(t);
    if (t->phase == TALK_LIVE)
        advance_live(t);
    talk_tell_tokens(t);
    talk_flush(t);
    if (t->phase == TALK_STOPPING) {
        talk_pump(t);
        advance_stop(t);
        talk_flush(t);
    }
    talk_follow(t);
    talk_tell_router(t);
    want_end(t);
}

static int wait_ms(const talk *t)
{
    bool ticking = t->source || t->touched || t->phase == TALK_STOPPING || t->draining;
    bool resting = t->phase == TALK_SUSPENDED || t->phase == TALK_FAILED || t->phase == TALK_GONE;
    return ticking ? TICK_MS : resting ? 250 : 1000;
}

/* --- life --------------------------------------------------------------------------------------
 */

static void fini(talk *t)
{
    talk_source_free(t);
    talk_load_abort(t);
    talk_follow_fini(t);
    talk_line_clear(t);
    talk_turn_free(&t->turn);
    talk_unit_drop_all(t);
    talk_checkpoint_fini(t);
    talk_rebuild_drop(t);
    talk_rebuild_forget(t);
    refuse_waiting(t, IC_WIRE_CODE_SHUTDOWN, "the server is stopping");
    ic_mail_request *r;
    while ((r = next_waiting(&t->stop_replies)))
        free_request(&r);
    talk_looks_drop(t);
    if (t->rm)
        free_request(&t->rm);
    ic_talk_head_fini(&t->head);
    ic_free(t->segments);
    ic_talk_config_fini(&t->config);
    ic_mail_port *close = ic_mail_port_close_new(&t->store_reply);
    ic_port_send(&t->self->outbox, t->args->store, &close);
    ic_outbox_flush(&t->self->outbox);
    ic_port **ports[] = {&t->args->router, &t->args->store, &t->args->sched};
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++) {
        ic_outbox_forget(&t->self->outbox, *ports[i]);
        ic_port_close(ports[i]);
    }
}

void ic_talk_run(ic_actor_self *self)
{
    talk t = {.self = self, .args = self->args, .event_next = 1, .exact = true};
    t.limits = t.args->limits;
    snprintf(t.id, sizeof t.id, "%s", t.args->session);
    t.told.state.state = -1;
    t.spoken_us = ic_clock_mono_us();
    ic_actor_ready(self, NULL);
    t.store_reply = ic_port_open(self->inbox);
    ic_job_session *job = ic_job_session_new(t.id, t.store_reply, TALK_JOB_RECORD);
    ic_port_send(&self->outbox, t.args->store, &job);
    while (ic_actor_wait(self, wait_ms(&t))) {
        ic_mail *m;
        while ((m = ic_inbox_take(self->inbox)))
            take_mail(&t, &m);
        advance(&t);
    }
    fini(&t);
}
