/* A memory that cannot be had (another model, other settings, damage) is made again from what was
 * said and seen, in its order: every question with its answer goes in as text, through this model's
 * own tokens; frames as they are kept, or read again from files that have not changed; what can be
 * had of neither is said. It goes in as a source would, a little at a time. Until the new memory is
 * stored the old one stands untouched, and nobody is answered. */
#include "actors/ic_talk_rebuild.h"

#include <string.h>

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
    t->has_former = t->rebuild;
    t->rebuild_former = t->config.engine;
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
    ic_log_warn("session", "%.8s: its memory is rebuilt from transcript and media: %s", t->id,
                why->text);
    say(t, "rebuilt from transcript and media: %s", why->text);
    talk_load_abort(t);
    ic_job_transcript *job = ic_job_transcript_new(t->id, t->store_reply, TALK_JOB_TRANSCRIPT);
    ic_port_send(&t->self->outbox, t->args->store, &job);
}

/* --- the plan ----------------------------------------------------------------------------------
 */

struct talk_rebuild {
    ic_job_transcript *told; /* owned */
    int turn;                /* row of the next question */
    int rounds, rounds_in;   /* of the transcript; gone in again */
    ic_job_frames *chunk;    /* owned; NULL: none is here */
    int at;                  /* in it */
    int64_t next;            /* number that the next chunk begins with */
    bool asked;              /* for a chunk */
    ic_buf pixels;           /* of a frame to come */
    bool pixels_lost;
    uint64_t open; /* source that showed the last frame; 0: none */
    rebuild_source *sources;
    int64_t frames;  /* of all sources, as the ledger counts them */
    int64_t told_us; /* when progress was told last */
};

static rebuild_source *find_source(talk_rebuild *r, int64_t media)
{
    for (int i = 0; i < r->told->source_count; i++)
        if (r->sources[i].told->number == (uint64_t)media)
            return &r->sources[i];
    return NULL;
}

static void plan_sources(talk *t, talk_rebuild *r)
{
    r->sources = ic_calloc((size_t)r->told->source_count + 1, sizeof *r->sources);
    for (int i = 0; i < r->told->source_count; i++) {
        rebuild_source *s = &r->sources[i];
        ic_error e = {0};
        s->told = &r->told->sources[i];
        r->frames += s->told->frames;
        if (!s->told->identity.known)
            continue;
        if (ic_talk_reading_decode(&s->reading, s->told->reading.data, s->told->reading.size, &e))
            ic_log_warn("session", "%.8s: source %d: %s", t->id, i + 1, e.text);
        s->readable = s->reading.source != NULL;
    }
}

static const ic_transcript_turn *answer_of(const ic_job_transcript *job, int question)
{
    for (int i = question + 1; i < job->count; i++)
        if (job->turns[i].is_answer && job->turns[i].number == job->turns[question].number)
            return &job->turns[i];
    return NULL;
}

static void count_rounds(talk_rebuild *r)
{
    for (int i = 0; i < r->told->count; i++)
        r->rounds += !r->told->turns[i].is_answer;
}

void talk_rebuild_drop(talk *t)
{
    talk_rebuild *r = t->rebuild_run;
    talk_reread_free(t);
    if (!r)
        return;
    t->rebuild_run = NULL;
    for (int i = 0; i < r->told->source_count; i++) {
        ic_talk_reading_fini(&r->sources[i].reading);
        ic_free(r->sources[i].why);
    }
    ic_free(r->sources);
    ic_buf_fini(&r->pixels);
    ic_mail_discard((ic_mail **)&r->told);
    ic_mail_discard((ic_mail **)&r->chunk);
    ic_free(r);
}

/* Given up before its end: the old memory, and the settings that it has, stand. */
void talk_rebuild_cancel(talk *t)
{
    if (t->has_former)
        t->config.engine = t->rebuild_former;
    t->has_former = t->rebuilding = t->rebuild = false;
    talk_rebuild_drop(t);
}

/* --- rounds ------------------------------------------------------------------------------------
 */

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

/* The next question that has an answer, and that answer; those without are said. NULL: none. */
static const ic_transcript_turn *next_round(talk *t, talk_rebuild *r, const ic_transcript_turn **a)
{
    for (; r->turn < r->told->count; r->turn++) {
        const ic_transcript_turn *q = &r->told->turns[r->turn];
        *a = q->is_answer ? NULL : answer_of(r->told, r->turn);
        if (*a)
            return q;
        if (!q->is_answer)
            say(t, "turn %llu has no answer: it is left out", (unsigned long long)q->number);
    }
    return NULL;
}

static void take_round(talk *t, talk_rebuild *r, const ic_transcript_turn *q,
                       const ic_transcript_turn *a)
{
    ic_error e = {0};
    r->turn++;
    if (send_round(t, q, a, &e))
        say(t, "turn %llu is left out: %s", (unsigned long long)q->number, e.text);
    else
        r->rounds_in++;
}

/* --- frames ------------------------------------------------------------------------------------
 */

static void miss(rebuild_source *s, int64_t pts_us, const char *why)
{
    if (!s->why)
        s->why = ic_strdup(why);
    if (pts_us < 0)
        return;
    s->gap_from_us = !s->has_gap || pts_us < s->gap_from_us ? pts_us : s->gap_from_us;
    s->gap_to_us = !s->has_gap || pts_us > s->gap_to_us ? pts_us : s->gap_to_us;
    s->has_gap = true;
}

/* The grid that this model gives a picture of that size: the same, unless the model is another. */
static int fit_grid(const talk *t, const ic_grid *was, bool image, ic_grid *grid, ic_error *e)
{
    return ic_engine_grid(t->limits->engine, was->width, was->height,
                          t->config.engine.group_tokens_max, !image, grid, e);
}

static void show(talk *t, talk_rebuild *r, rebuild_source *s, ic_frame **frame, const ic_grid *grid,
                 bool image)
{
    if (r->open && r->open != s->told->number) {
        ic_mail_input *end = ic_mail_input_new(t->seat, IC_INPUT_FRAMES_END);
        talk_send_input(t, &end);
    }
    r->open = s->told->number;
    ic_mail_input *in = ic_mail_input_new(t->seat, image ? IC_INPUT_IMAGE : IC_INPUT_FRAME);
    in->frame = *frame;
    in->grid = *grid;
    *frame = NULL;
    t->frames_sent++;
    s->shown++;
    talk_send_input(t, &in);
}

/* Its pixels as they are held, in the size of this model's grid. */
static int held_frame(talk *t, talk_rebuild *r, rebuild_source *s, ic_talk_record *rec,
                      const ic_grid *grid, ic_frame **frame, ic_error *e)
{
    if (rec->detached && (r->pixels_lost || r->pixels.size != rec->frame->bytes))
        return ic_error_set(e, IC_EFORMAT, "pieces of it are missing or damaged");
    if (rec->detached)
        memcpy(rec->frame->rgb, r->pixels.data, r->pixels.size);
    s->refitted |= memcmp(grid, &rec->grid, sizeof *grid) != 0;
    return ic_engine_fit_frame(t->limits->engine, rec->frame, grid, frame, e);
}

/* false: it is on its way, and this is to be tried again. */
static bool take_picture(talk *t, talk_rebuild *r, const ic_history_frame *f, rebuild_source *s,
                         ic_talk_record *rec)
{
    ic_error e = {0};
    ic_grid grid;
    ic_frame *frame = NULL;
    const char *why = e.text;
    bool image = rec->kind == IC_RECORD_IMAGE, reread = !f->held && s->readable;
    int64_t pts_us = rec->frame->pts_us;
    int rc = fit_grid(t, &rec->grid, image, &grid, &e);
    if (rc == IC_OK && f->held) {
        rc = held_frame(t, r, s, rec, &grid, &frame, &e);
    } else if (rc == IC_OK && reread) {
        reread_verdict verdict = talk_reread_frame(t, s, pts_us, &grid, image, &frame, &why);
        if (verdict == REREAD_WAIT)
            return false;
        s->read += verdict == REREAD_FRAME;
    } else if (rc == IC_OK) {
        why = "they are not kept any more (media.keep_bytes)";
    }
    if (frame)
        show(t, r, s, &frame, &grid, image);
    else
        miss(s, pts_us, why);
    s->found++;
    ic_buf_clear(&r->pixels);
    r->pixels_lost = false;
    return true;
}

/* false: wait, and try this one again. */
static bool take_frame(talk *t, talk_rebuild *r, const ic_history_frame *f)
{
    rebuild_source *s = find_source(r, f->media);
    ic_talk_record rec;
    ic_error e = {0};
    if (!s)
        return true; /* its source is not in the ledger */
    if (!f->damaged && f->kind == IC_RECORD_PIXELS && !f->held) {
        r->pixels_lost = true;
        return true;
    }
    if (f->damaged || ic_talk_record_decode(&rec, f->kind, f->bytes.data, f->bytes.size, &e)) {
        ic_log_warn("session", "%.8s: frame %lld is damaged", t->id, (long long)f->number);
        miss(s, -1, "their records are damaged");
        r->pixels_lost = true;
        return true;
    }
    bool done = true;
    if (rec.kind == IC_RECORD_PIXELS)
        r->pixels_lost |= ic_buf_append(&r->pixels, rec.pixels, rec.pixel_bytes) != IC_OK;
    else if (rec.frame)
        done = take_picture(t, r, f, s, &rec);
    ic_talk_record_fini(&rec);
    return done;
}

static void ask_for_chunk(talk *t, talk_rebuild *r)
{
    enum { CHUNK = 4 << 20 };
    ic_job_frames *job = ic_job_frames_new(t->id, r->next, CHUNK, t->store_reply, TALK_JOB_FRAMES);
    r->asked = true;
    ic_port_send(&t->self->outbox, t->args->store, &job);
}

void talk_rebuild_frames(talk *t, ic_job_frames **done_p)
{
    talk_rebuild *r = t->rebuild_run;
    if (!r || !r->asked) {
        ic_mail_discard((ic_mail **)done_p);
        return;
    }
    ic_error e = (*done_p)->job.error;
    int rc = (*done_p)->job.rc;
    r->asked = false;
    r->at = 0;
    r->chunk = *done_p;
    *done_p = NULL;
    if (rc) {
        e.code = rc;
        talk_fail(t, ic_wire_code_from_err(rc), &e);
    }
}

/* The next frame; NULL: it has not been read yet, or there is none: then *over. */
static const ic_history_frame *next_frame(talk *t, talk_rebuild *r, bool *over)
{
    *over = false;
    if (r->chunk && r->at == r->chunk->count) {
        *over = r->chunk->over;
        if (*over)
            return NULL;
        r->next = r->chunk->frames[r->chunk->count - 1].number + 1;
        ic_mail_discard((ic_mail **)&r->chunk);
    }
    if (r->chunk)
        return &r->chunk->frames[r->at];
    if (!r->asked)
        ask_for_chunk(t, r);
    return NULL;
}

/* --- what came of it ---------------------------------------------------------------------------
 */

static void say_source(talk *t, const rebuild_source *s)
{
    int64_t all = s->told->frames > s->found ? s->told->frames : s->found;
    int64_t missing = all - s->shown;
    unsigned long long n = (unsigned long long)s->told->number;
    char span[80] = "";
    if (!all)
        return;
    if (s->shown)
        say(t, "source %llu (%s): %lld of its %lld frames were shown again%s%s", n, s->told->name,
            (long long)s->shown, (long long)all, s->read ? ", read from the file" : "",
            s->refitted ? ", fitted to this model" : "");
    if (!missing)
        return;
    if (s->has_gap)
        snprintf(span, sizeof span, ", of %.3f s to %.3f s", (double)s->gap_from_us / 1e6,
                 (double)s->gap_to_us / 1e6);
    say(t,
        "source %llu (%s): %lld frames%s could not be shown again: %s; feed it again, where you "
        "have it",
        n, s->told->name, (long long)missing, span, s->why ? s->why : "they are not kept any more");
}

/* Everything is in the model's hands: what is left is its computing. */
static void finish(talk *t, talk_rebuild *r)
{
    int64_t shown = 0, all = 0;
    if (r->open) {
        ic_mail_input *end = ic_mail_input_new(t->seat, IC_INPUT_FRAMES_END);
        talk_send_input(t, &end);
    }
    for (int i = 0; i < r->told->source_count; i++) {
        const rebuild_source *s = &r->sources[i];
        say_source(t, s);
        shown += s->shown;
        all += s->told->frames > s->found ? s->told->frames : s->found;
    }
    ic_log_info("session", "%.8s: %d of %d turns and %lld of %lld frames went in again", t->id,
                r->rounds_in, r->rounds, (long long)shown, (long long)all);
    snprintf(t->rebuild_told, sizeof t->rebuild_told,
             "the memory was made again: %d of %d turns, %lld of %lld frames", r->rounds_in,
             r->rounds, (long long)shown, (long long)all);
    talk_rebuild_drop(t);
}

/* The new memory is whole: its settings become the session's, just before it is stored. */
void talk_rebuild_settle(talk *t)
{
    t->has_former = false;
    talk_unit *u = talk_unit_new(t);
    ic_write_op *op = ic_job_write_add(u->ops, IC_WRITE_CONFIG);
    op->kind = IC_SESSION_CONFIG_VERSION;
    ic_talk_config_encode(&t->config, &op->bytes);
    talk_event *ev = talk_unit_event(u, IC_WIRE_EVENT_NOTICE);
    ev->code = "REBUILT";
    ev->message = ic_strdup(t->rebuild_told);
    talk_unit_add(t, &u);
}

static void tell_progress(talk *t, talk_rebuild *r)
{
    enum { EVERY_US = 2000000 };
    int64_t now = ic_clock_mono_us(), shown = 0;
    if (now - r->told_us < EVERY_US)
        return;
    r->told_us = now;
    for (int i = 0; i < r->told->source_count; i++)
        shown += r->sources[i].shown;
    talk_notice(t, "REBUILDING", "%d of %d turns, %lld of %lld frames", r->rounds_in, r->rounds,
                (long long)shown, (long long)r->frames);
}

/* One turn or frame, in their order; false: nothing is to be done now. */
static bool step(talk *t, talk_rebuild *r)
{
    bool over;
    const ic_transcript_turn *a = NULL, *q = next_round(t, r, &a);
    const ic_history_frame *f = next_frame(t, r, &over);
    if (!f && !over)
        return false;
    if (q && (!f || a->at < f->number)) {
        take_round(t, r, q, a);
        return true;
    }
    if (!f) {
        finish(t, r);
        return false;
    }
    if (!take_frame(t, r, f))
        return false;
    r->at++;
    return true;
}

/* Feeds what the model has room for, as a source would: other sessions take their turns. */
void talk_rebuild_pump(talk *t)
{
    enum { ANSWERS_AHEAD = 2 };
    while (t->rebuild_run && t->phase == TALK_REPLAY && t->lease == TALK_LEASE_OUT
           && t->replay_answers < ANSWERS_AHEAD && talk_frames_ahead(t) < TALK_FRAMES_AHEAD
           && step(t, t->rebuild_run))
        ;
    if (t->rebuild_run)
        tell_progress(t, t->rebuild_run);
}

void talk_rebuild_read(talk *t, ic_job_transcript **job_p)
{
    ic_job_transcript *job = *job_p;
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
    talk_rebuild *r = ic_alloc(sizeof *r);
    r->told = job;
    *job_p = NULL;
    r->told_us = ic_clock_mono_us();
    plan_sources(t, r);
    count_rounds(r);
    t->rebuild_run = r;
    talk_lease_out(t);
    talk_rebuild_pump(t);
}
