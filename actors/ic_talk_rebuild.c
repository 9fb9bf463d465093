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

enum { ANSWERS_AHEAD = 2, SPAN_CHARS = 80 };

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

/* Settings that this model does not have give way to its defaults, before a cache is asked for.
 * What was said of an earlier rebuild is over. */
void talk_rebuild_config(talk *t)
{
    ic_error e = {0};
    ic_session_config fresh;
    talk_rebuild_forget(t);
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

typedef struct rebuild_frame { /* given to the model, and not known yet to be taken */
    rebuild_source *source;
    int64_t pts_us;
} rebuild_frame;

struct talk_rebuild {
    ic_job_transcript *told; /* owned */
    int turn;                /* row of the next question */
    int rounds, rounds_in;   /* of the transcript; gone in again */
    bool fed;                /* everything has been given to the model */
    rebuild_frame *frames_on;
    int frames_on_count, frames_on_capacity;
    uint64_t frames_before; /* that the model had taken in before, */
    uint64_t frames_over;   /* and those since then of which it is known what became */
    uint64_t *given;        /* [rounds] numbers of the questions given to it: */
    int given_count;
    int ended;            /* of these */
    int settled;          /* of these, begun or refused */
    uint64_t turns_begun; /* by the model, by the last that was heard of it */
    ic_job_frames *chunk; /* owned; NULL: none is here */
    int at;               /* in it */
    int64_t next;         /* number that the next chunk begins with */
    bool asked;           /* for a chunk */
    ic_buf pixels;        /* of a frame to come */
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
    r->given = ic_calloc((size_t)r->rounds + 1, sizeof *r->given);
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
        ic_free(r->sources[i].missing.why);
        ic_free(r->sources[i].refused.why);
    }
    ic_free(r->sources);
    ic_free(r->frames_on);
    ic_free(r->given);
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
    in->sampling.max_tokens = INT32_MAX; /* it ends where it ended */
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
    if (send_round(t, q, a, &e)) {
        say(t, "turn %llu is left out: %s", (unsigned long long)q->number, e.text);
        return;
    }
    r->given[r->given_count++] = q->number;
    r->rounds_in++;
}

static void refuse_turn(talk *t, talk_rebuild *r, const ic_mail_progress *p)
{
    if (r->settled == r->given_count) {
        say(t, "the system text was refused: %s", p->error.text);
        return;
    }
    say(t, "turn %llu was refused: %s", (unsigned long long)r->given[r->settled], p->error.text);
    r->settled++;
    r->rounds_in--;
}

/* Questions are begun, or refused, in their order, and so they end; but one without a word of an
 * answer ends while it waits, before that. */
static void follow_rounds(talk *t, talk_rebuild *r, const ic_mail_progress *p)
{
    bool ask_refused = p->input_refused && p->refused == IC_INPUT_ASK;
    r->settled += (int)(p->stats.turn - r->turns_begun);
    r->turns_begun = p->stats.turn;
    if (p->finish || ask_refused)
        r->ended++;
    bool begun = r->settled >= r->ended;
    if (p->finish == IC_FINISH_ERROR && begun)
        say(t, "the answer of turn %llu went in again in part: %s",
            (unsigned long long)r->given[r->ended - 1], p->error.text);
    else if (p->finish == IC_FINISH_ERROR || ask_refused
             || (p->progress == IC_PROGRESS_FAILED && !p->finish && !p->frames_refused))
        refuse_turn(t, r, p);
}

/* --- frames ------------------------------------------------------------------------------------
 */

/* pts_us -1: its time is not known. */
static void miss(rebuild_gap *gap, int64_t pts_us, const char *why)
{
    if (!gap->why)
        gap->why = ic_strdup(why);
    gap->frames++;
    if (pts_us < 0)
        return;
    gap->from_us = !gap->timed || pts_us < gap->from_us ? pts_us : gap->from_us;
    gap->to_us = !gap->timed || pts_us > gap->to_us ? pts_us : gap->to_us;
    gap->timed = true;
}

/* The grid that this model gives a picture of that size: the same, unless the model is another. */
static int fit_grid(const talk *t, const ic_grid *was, bool image, ic_grid *grid, ic_error *e)
{
    return ic_engine_grid(t->limits->engine, was->width, was->height,
                          t->config.engine.group_tokens_max, !image, grid, e);
}

static void note_frame(talk_rebuild *r, rebuild_source *s, int64_t pts_us)
{
    if (r->frames_on_count == r->frames_on_capacity) {
        r->frames_on_capacity = r->frames_on_capacity ? 2 * r->frames_on_capacity : 32;
        r->frames_on =
            ic_realloc(r->frames_on, (size_t)r->frames_on_capacity * sizeof *r->frames_on);
    }
    r->frames_on[r->frames_on_count++] = (rebuild_frame){.source = s, .pts_us = pts_us};
}

/* What became of so many frames on their way, from this one on. why: they were refused; NULL: they
 * are in. */
static void end_frames(talk_rebuild *r, int at, int count, const char *why)
{
    count = count < r->frames_on_count - at ? count : r->frames_on_count - at;
    if (count <= 0)
        return;
    for (int i = at; why && i < at + count; i++)
        miss(&r->frames_on[i].source->refused, r->frames_on[i].pts_us, why);
    r->frames_on_count -= count;
    memmove(r->frames_on + at, r->frames_on + at + count,
            (size_t)(r->frames_on_count - at) * sizeof *r->frames_on);
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
    note_frame(r, s, (*frame)->pts_us);
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
        miss(&s->missing, pts_us, why);
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
        miss(&s->missing, -1, "their records are damaged");
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

static void tell_span(char text[SPAN_CHARS], const rebuild_gap *gap)
{
    text[0] = '\0';
    if (gap->timed)
        snprintf(text, SPAN_CHARS, ", of %.3f s to %.3f s", (double)gap->from_us / 1e6,
                 (double)gap->to_us / 1e6);
}

static int64_t frames_in(const rebuild_source *s)
{
    return s->shown - s->refused.frames;
}

static int64_t frames_of(const rebuild_source *s)
{
    return s->told->frames > s->found ? s->told->frames : s->found;
}

static void say_source(talk *t, const rebuild_source *s)
{
    int64_t all = frames_of(s), missing = all - s->shown;
    unsigned long long n = (unsigned long long)s->told->number;
    char span[SPAN_CHARS];
    if (frames_in(s) > 0)
        say(t, "source %llu (%s): %lld of its %lld frames were shown again%s%s", n, s->told->name,
            (long long)frames_in(s), (long long)all, s->read ? ", read from the file" : "",
            s->refitted ? ", fitted to this model" : "");
    tell_span(span, &s->refused);
    if (s->refused.why)
        say(t, "source %llu (%s): %lld frames%s were refused: %s", n, s->told->name,
            (long long)s->refused.frames, span, s->refused.why);
    tell_span(span, &s->missing);
    if (missing > 0)
        say(t,
            "source %llu (%s): %lld frames%s could not be shown again: %s; feed it again, where "
            "you have it",
            n, s->told->name, (long long)missing, span,
            s->missing.why ? s->missing.why : "they are not kept any more");
}

/* Everything has been computed. */
static void tell_all(talk *t, talk_rebuild *r)
{
    int64_t in = 0, all = 0;
    for (int i = 0; i < r->told->source_count; i++) {
        const rebuild_source *s = &r->sources[i];
        say_source(t, s);
        in += frames_in(s);
        all += frames_of(s);
    }
    ic_log_info("session", "%.8s: %d of %d turns and %lld of %lld frames went in again", t->id,
                r->rounds_in, r->rounds, (long long)in, (long long)all);
    snprintf(t->rebuild_told, sizeof t->rebuild_told,
             "the memory was made again: %d of %d turns, %lld of %lld frames", r->rounds_in,
             r->rounds, (long long)in, (long long)all);
}

/* Everything is in the model's hands: what is left is its computing. */
static void end_feeding(talk *t, talk_rebuild *r)
{
    if (r->open) {
        ic_mail_input *end = ic_mail_input_new(t->seat, IC_INPUT_FRAMES_END);
        talk_send_input(t, &end);
    }
    talk_reread_free(t);
    r->fed = true;
}

bool talk_rebuild_is_feeding(const talk *t)
{
    return t->rebuild_run && !t->rebuild_run->fed;
}

/* Frames and questions end in the order in which they went in, each kind for itself; a frame may be
 * refused as it comes, before those that wait. */
bool talk_rebuild_progress(talk *t, const ic_mail_progress *p)
{
    talk_rebuild *r = t->rebuild_run;
    if (!r || p->device_failed)
        return false;
    bool frame = p->refused == IC_INPUT_FRAME || p->refused == IC_INPUT_IMAGE;
    if (p->input_refused && frame)
        end_frames(r, (int)(p->stats.frames - r->frames_before - r->frames_over), 1, p->error.text);
    end_frames(r, 0, p->frames_in, NULL);
    end_frames(r, 0, p->frames_refused, p->error.text);
    r->frames_over += (uint64_t)(p->frames_in + p->frames_refused);
    follow_rounds(t, r, p);
    return true;
}

/* The new memory is whole: its settings become the session's, just before it is stored. */
void talk_rebuild_settle(talk *t)
{
    if (t->rebuild_run)
        tell_all(t, t->rebuild_run);
    talk_rebuild_drop(t);
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
        end_feeding(t, r);
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
    while (talk_rebuild_is_feeding(t) && t->phase == TALK_REPLAY && t->lease == TALK_LEASE_OUT
           && t->replay_answers < ANSWERS_AHEAD && talk_frames_ahead(t) < TALK_FRAMES_AHEAD
           && step(t, t->rebuild_run))
        ;
    if (talk_rebuild_is_feeding(t))
        tell_progress(t, t->rebuild_run);
}

/* As many as the store knows of, who has counted since this session's record was read: a number is
 * not used again, nor does a count fall. */
static void take_counts(talk *t, const ic_job_transcript *job)
{
    ic_talk_head *h = &t->head;
    uint64_t frames = 0;
    for (int i = 0; i < job->count; i++)
        h->turns = job->turns[i].number > h->turns ? job->turns[i].number : h->turns;
    for (int i = 0; i < job->source_count; i++)
        frames += (uint64_t)job->sources[i].frames;
    h->seen = h->seen_at_end = frames > h->seen ? frames : h->seen;
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
                             .inexact = true};
    take_counts(t, job);
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
    r->frames_before = t->stats.frames;
    r->turns_begun = t->stats.turn;
    plan_sources(t, r);
    count_rounds(r);
    t->rebuild_run = r;
    talk_lease_out(t);
    talk_rebuild_pump(t);
}
