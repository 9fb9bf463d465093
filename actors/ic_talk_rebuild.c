/* A memory that cannot be had (another model, other settings, damage) is made again from what
 * people said: every question with its answer goes in as text, through this model's own tokens. The
 * frames of sources are not kept, so what was seen is gone, and said to be. Until the new memory is
 * stored the old one stands untouched, and nobody is answered. */
#include <string.h>

#include "actors/ic_talk_priv.h"
#include "base/ic_clock.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

static void say(talk *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(talk *t, const char *fmt, ...)
{
    char text[512];
    va_list args;
    if (t->rebuild_notice_count == IC_WIRE_LIST_MAX)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (!t->rebuild_notices)
        t->rebuild_notices = ic_calloc(IC_WIRE_LIST_MAX, sizeof *t->rebuild_notices);
    t->rebuild_notices[t->rebuild_notice_count++] = ic_strdup(text);
}

void talk_rebuild_forget(talk *t)
{
    for (uint32_t i = 0; i < t->rebuild_notice_count; i++)
        ic_free(t->rebuild_notices[i]);
    ic_free(t->rebuild_notices);
    t->rebuild_notices = NULL;
    t->rebuild_notice_count = 0;
}

/* Settings that this model does not have give way to its defaults, before a cache is asked for. */
void talk_rebuild_config(talk *t)
{
    ic_error e = {0};
    ic_session_config fresh;
    if (!t->rebuild || ic_session_config_check(t->limits->engine, &t->config.engine, &e) == IC_OK)
        return;
    ic_session_config_default(t->limits->engine, 0, &fresh);
    memcpy(fresh.policy, t->config.engine.policy, sizeof fresh.policy);
    if (ic_session_config_check(t->limits->engine, &fresh, NULL))
        ic_session_config_default(t->limits->engine, 0, &fresh);
    t->config.engine = fresh;
    say(t, "settings of the memory are this model's defaults now: %s", e.text);
}

void talk_rebuild_begin(talk *t, const ic_error *why)
{
    ic_log_warn("session", "%.8s: its memory is rebuilt from the transcript: %s", t->id, why->text);
    say(t, "rebuilt from the transcript: %s", why->text);
    if (t->load->count)
        say(t,
            "what had happened since the last checkpoint (%d records of the journal) is known from "
            "the transcript alone",
            t->load->count);
    talk_load_abort(t);
    ic_job_transcript *job = ic_job_transcript_new(t->id, t->store_reply, TALK_JOB_TRANSCRIPT);
    ic_port_send(&t->self->outbox, t->args->store, &job);
}

/* One round as it was: the question, and the answer as if it had just been given. */
static int send_round(talk *t, const ic_transcript_turn *q, const ic_transcript_turn *a,
                      ic_error *e)
{
    ic_mail_input *in = ic_mail_input_new(t->seat, IC_INPUT_ASK);
    in->text = ic_strdup(q->text);
    in->sampling = t->config.sampling;
    int rc = ic_tokenizer_encode(ic_engine_tokenizer(t->limits->engine), a->text, strlen(a->text),
                                 false, &in->forced, &in->forced_count, e);
    if (rc) {
        ic_mail_discard((ic_mail **)&in);
        return rc;
    }
    talk_send_input(t, &in);
    in = ic_mail_input_new(t->seat, IC_INPUT_CANCEL);
    talk_send_input(t, &in);
    t->replay_answers++;
    return IC_OK;
}

static const ic_transcript_turn *answer_of(const ic_job_transcript *job, int question)
{
    for (int i = question + 1; i < job->count; i++)
        if (job->turns[i].is_answer && job->turns[i].number == job->turns[question].number)
            return &job->turns[i];
    return NULL;
}

static void send_rounds(talk *t, const ic_job_transcript *job)
{
    int rounds = 0;
    for (int i = 0; i < job->count; i++) {
        ic_error e = {0};
        const ic_transcript_turn *q = &job->turns[i];
        const ic_transcript_turn *a = q->is_answer ? NULL : answer_of(job, i);
        if (q->is_answer)
            continue;
        if (!a)
            say(t, "turn %llu has no answer: it is left out", (unsigned long long)q->number);
        else if (send_round(t, q, a, &e))
            say(t, "turn %llu is left out: %s", (unsigned long long)q->number, e.text);
        else
            rounds++;
    }
    for (int i = 0; i < job->source_count; i++)
        say(t, "source %d (%s): its frames are not kept; feed it again, where you have it", i + 1,
            job->sources[i]);
    ic_log_info("session", "%.8s: %d rounds of the transcript go in again, %d sources cannot",
                t->id, rounds, job->source_count);
}

void talk_rebuild_read(talk *t, const ic_job_transcript *job)
{
    ic_error e = job->job.error;
    int rc = job->job.rc;
    if (t->phase != TALK_LOADING)
        return;
    t->head = (ic_talk_head){.turns = (uint64_t)t->record.counters.turns,
                             .medias = (uint64_t)job->source_count,
                             .seen = (uint64_t)t->record.counters.frames,
                             .seen_at_end = (uint64_t)t->record.counters.frames,
                             .inexact = true};
    t->segment_count = 0;
    if (rc == IC_OK && t->config.system)
        rc = ic_session_system(t->session, t->config.system, &e);
    if (rc) {
        e.code = rc;
        talk_fail(t, ic_wire_code_from_err(rc), &e);
        return;
    }
    ic_session_stats_of(t->session, &t->stats);
    t->tokens_loaded = t->stats.tokens;
    t->frames_sent = t->stats.frames;
    t->model_busy = ic_session_is_ready(t->session);
    t->rebuilding = t->touched = true;
    t->phase = TALK_REPLAY;
    talk_lease_out(t);
    send_rounds(t, job);
    talk_unit *u = talk_unit_new(t);
    ic_write_op *op = ic_job_write_add(u->ops, IC_WRITE_CONFIG);
    op->kind = IC_SESSION_CONFIG_VERSION;
    ic_talk_config_encode(&t->config, &op->bytes);
    talk_event *ev = talk_unit_event(u, IC_WIRE_EVENT_NOTICE);
    ev->code = "REBUILT";
    ev->message = ic_strdup("the memory was made again from the transcript: what was seen is gone");
    talk_unit_add(t, &u);
}
