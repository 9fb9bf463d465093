/* Checkpoints: the rows filled since the last one, in pieces, the engine's state, then the
 * manifest. Everything before them is durable.
 *
 * Between answers the lease is at home the whole time. In the middle of one it comes home for each
 * piece and goes out again as soon as that is copied: a row never changes until it is evicted, and
 * pieces of rows that have left by the time of the state are passed over when it is read. The state
 * is taken with the last rows, so that the two fit each other; what comes later is in the journal
 * behind it. */
#include <string.h>

#include "actors/ic_talk_priv.h"
#include "base/ic_assert.h"
#include "base/ic_clock.h"
#include "base/ic_failpoint.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

enum {
    QUIET_US = 300000,          /* after an answer, a follow-up question may come first */
    RETRY_US = 10 * 1000 * 1000 /* after a failed one */
};

/* What a replay would take is bounded in the middle of an answer, too; what merely is not stored
 * yet waits for its end. */
bool talk_checkpoint_due(const talk *t)
{
    int64_t now = ic_clock_mono_us();
    if (t->checkpointing || !t->touched || now < t->checkpoint_after_us)
        return false;
    bool over = t->journal_bytes >= (uint64_t)t->limits->checkpoint_bytes
                || t->replay_us >= t->limits->checkpoint_us;
    if (talk_is_answering(t)) /* by the engine, whose frames before the question are in */
        return over && t->turn && !t->turn->cancelled && t->stats.answering
               && !t->stats.pending_groups;
    bool quiet = !t->line && !t->source && talk_is_written(t);
    return over || (quiet && now - t->spoken_us >= QUIET_US);
}

/* Everything that has gone into the cache, and every token out of it, is in the journal. */
static bool is_journalled(const talk *t)
{
    return talk_is_written(t) && (!t->turn || t->turn->written == t->turn->count);
}

bool talk_checkpoint_fits(const talk *t)
{
    return t->turn ? !t->turn->cancelled : !ic_session_is_ready(t->session);
}

bool talk_checkpoint_spares(const talk *t)
{
    return !t->checkpointing || (t->checkpoint_passing && !t->checkpoint_takes);
}

void talk_checkpoint_fini(talk *t)
{
    ic_talk_head_fini(&t->saved_head);
    ic_buf_fini(&t->checkpoint_state);
    ic_buf_fini(&t->checkpoint_rows);
    ic_free(t->fresh);
    t->fresh = NULL;
    t->fresh_count = 0;
    t->checkpointing = t->checkpoint_takes = t->checkpoint_passing = false;
}

static void send_piece(talk *t, uint32_t tag, ic_buf *bytes)
{
    ic_job_checkpoint *job =
        ic_job_checkpoint_new(t->id, t->writer, t->store_reply, TALK_JOB_CHECKPOINT);
    job->tag = tag;
    job->bytes = *bytes;
    *bytes = (ic_buf){0};
    ic_port_send(&t->self->outbox, t->args->store, &job);
}

/* Live bytes decide whether the former rows are carried on or everything is written anew. */
static bool should_consolidate(const talk *t)
{
    enum { SLACK = 4 << 20 };
    uint64_t held = 0;
    for (int i = 0; i < t->segment_count; i++)
        held += (uint64_t)t->segments[i].bytes;
    return held > 2 * ic_session_live_bytes(t->session) + SLACK;
}

/* What it has stored so far goes; nothing of it is on its way. */
static void abandon(talk *t)
{
    if (t->writer) {
        ic_job_checkpoint *job = ic_job_checkpoint_new(t->id, t->writer, NULL, TALK_JOB_CHECKPOINT);
        job->abort = true;
        t->writer = NULL;
        ic_port_send(&t->self->outbox, t->args->store, &job);
    }
    talk_checkpoint_fini(t);
}

static void give_up(talk *t, const ic_error *e)
{
    ic_log_error("session", "%.8s: no checkpoint: %s%s", t->id, e->text,
                 t->turn ? "; the answer goes on" : "");
    t->costs.checkpoints.failed++;
    t->checkpoint_error = *e;
    t->checkpoint_after_us = ic_clock_mono_us() + RETRY_US;
    abandon(t);
}

static void send_manifest(talk *t)
{
    ic_job_checkpoint *job =
        ic_job_checkpoint_new(t->id, t->writer, t->store_reply, TALK_JOB_CHECKPOINT);
    int kept = t->checkpoint_all ? 0 : t->segment_count, count = kept + t->fresh_count;
    char meaning[33];
    ic_session_meaning(t->limits->engine, &t->config.engine, meaning);
    ic_buf_append(&job->meaning, meaning, strlen(meaning));
    const char *numerics = ic_engine_info_of(t->limits->engine)->numerics;
    size_t length = strnlen(numerics, IC_STORE_NUMERICS_MAX);
    ic_buf_append(&job->numerics, numerics, length);
    ic_buf_u8(&job->numerics, 0);
    ic_talk_head_encode(&t->saved_head, &job->state);
    job->segments = ic_calloc((size_t)count + 1, sizeof *job->segments);
    /* State first, so that a load knows the tables before the rows. */
    int at = 0;
    for (int i = 0; i < t->fresh_count; i++) {
        if (t->fresh[i].tag == TALK_TAG_STATE)
            job->segments[at++] = t->fresh[i];
    }
    for (int i = 0; i < kept; i++)
        job->segments[at++] = t->segments[i];
    for (int i = 0; i < t->fresh_count; i++) {
        if (t->fresh[i].tag == TALK_TAG_ROWS)
            job->segments[at++] = t->fresh[i];
    }
    job->manifest = (ic_store_manifest){.payload_version = IC_SESSION_STATE_VERSION,
                                        .time_us = ic_clock_wall_us(),
                                        .journal_seq = t->checkpoint_journal,
                                        .live_bytes = (int64_t)t->checkpoint_live,
                                        .segment_count = (size_t)count};
    job->finish = true;
    ic_port_send(&t->self->outbox, t->args->store, &job);
}

/* The next piece: rows, then the state, then the manifest. */
static void go_on(talk *t)
{
    if (t->checkpoint_rows.size) {
        send_piece(t, TALK_TAG_ROWS, &t->checkpoint_rows);
        return;
    }
    if (!t->checkpoint_state.size) {
        t->checkpoint_takes = true;
        talk_checkpoint_advance(t);
        return;
    }
    size_t left = t->checkpoint_state.size - t->state_at;
    if (left) {
        ic_buf piece = {0};
        size_t count = left < TALK_SEGMENT_BYTES ? left : TALK_SEGMENT_BYTES;
        ic_buf_append(&piece, t->checkpoint_state.data + t->state_at, count);
        t->state_at += count;
        send_piece(t, TALK_TAG_STATE, &piece);
        return;
    }
    send_manifest(t);
}

static void save_head(talk *t)
{
    ic_error e = {0};
    ic_talk_head *h = &t->saved_head;
    const ic_engine_info *info = ic_engine_info_of(t->limits->engine);
    *h = t->head; /* which owns nothing while the session lives */
    h->inexact |= !t->exact;
    talk_line_save(t, &h->asks);
    if (t->turn)
        talk_answer_save(t->turn, &h->answer);
    snprintf(h->model, sizeof h->model, "%s", info->model_name);
    snprintf(h->meaning, sizeof h->meaning, "%s", info->meaning);
    h->config = t->config.engine;
    h->has_held = ic_session_held_of(t->session, &h->held, &e) == IC_OK;
    t->text = h->held.pinned + h->held.sinks + h->held.text;
    t->vision = h->held.vision + h->held.markers;
}

/* With the last rows, at the same moment: only together are they a memory. */
static int take_state(talk *t, ic_error *e)
{
    int rc = ic_session_save_state(t->session, &t->checkpoint_state, e);
    if (rc)
        return rc;
    t->checkpoint_journal = t->journal_last;
    t->checkpoint_journal_bytes = t->journal_bytes;
    t->checkpoint_replay_us = t->replay_us;
    t->checkpoint_live = ic_session_live_bytes(t->session);
    save_head(t);
    if (t->turn)
        ic_failpoint(IC_FAIL_answer_taken);
    return IC_OK;
}

/* The lease is at home. A piece of rows; and if none are left, the state, once all that it knows is
 * durable: until then it stays at home, and nothing changes. */
static void take(talk *t)
{
    ic_error e = {0};
    int rc = IC_OK;
    if (t->rows_left && !t->checkpoint_rows.size)
        rc = ic_session_save_rest(t->session, t->checkpoint_all, TALK_SEGMENT_BYTES,
                                  &t->checkpoint_rows, &t->rows_left);
    if (rc)
        ic_error_set(&e, rc, "the cache's rows cannot be saved");
    if (!rc && !t->rows_left) {
        if (!is_journalled(t))
            return;
        rc = take_state(t, &e);
    }
    if (rc) {
        give_up(t, &e);
        return;
    }
    t->checkpoint_takes = false;
    go_on(t);
}

/* The engine is where the head will say: between answers, or in the middle of the one that is told.
 * It is not while a question goes in, which may have come since the checkpoint fell due, nor when
 * an answer has ended, but not its closers or the writing of its end. */
static bool state_matches(talk *t)
{
    if (!t->turn)
        return !ic_session_is_ready(t->session);
    ic_session_stats_of(t->session, &t->stats);
    return t->stats.answering && t->stats.answer_tokens == t->turn->count;
}

void talk_checkpoint_advance(talk *t)
{
    if (!t->checkpointing || !t->checkpoint_takes)
        return;
    if (t->phase == TALK_STOPPING && (t->why == TALK_WHY_FAIL || t->why == TALK_WHY_RM)) {
        abandon(t);
        return;
    }
    if (t->lease == TALK_LEASE_OUT && (t->turn || !t->model_busy))
        talk_recall(t);
    if (t->lease != TALK_LEASE_HOME)
        return;
    if (!state_matches(t)) {
        if (ic_session_is_ready(t->session)) {
            t->model_busy = true;
            talk_lease_out(t);
        }
        return;
    }
    take(t);
}

void talk_checkpoint_begin(talk *t)
{
    IC_ASSERT(t->lease == TALK_LEASE_HOME && talk_is_written(t) && !t->checkpointing);
    t->checkpointing = t->checkpoint_takes = t->rows_left = true;
    t->checkpoint_passing = t->turn != NULL;
    t->checkpoint_began_us = ic_clock_mono_us();
    t->checkpoint_pause_us = 0;
    t->checkpoint_all = !t->turn && should_consolidate(t);
    t->state_at = 0;
    t->writer = NULL;
    ic_session_begin_save(t->session);
    talk_checkpoint_advance(t);
}

void talk_count_cost(ic_talk_cost *cost, int64_t began_us, uint64_t bytes)
{
    cost->count++;
    cost->last_us = (uint64_t)(ic_clock_mono_us() - began_us);
    cost->bytes += bytes;
    if (cost->last_us > cost->max_us)
        cost->max_us = cost->last_us;
}

void talk_checkpoint_mark(talk *t)
{
    if (t->rows_given)
        ic_session_mark_saved(t->session);
    t->rows_given = false;
}

static void tell_passing(const talk *t, uint64_t bytes)
{
    const ic_talk_answer *a = &t->saved_head.answer;
    if (!a->turn)
        return;
    ic_log_debug(
        "session",
        "%.8s: answer %llu is stored up to its %uth token: %llu bytes in %d pieces, %lld us "
        "away from the model at most",
        t->id, (unsigned long long)a->turn, a->tokens, (unsigned long long)bytes, t->fresh_count,
        (long long)t->checkpoint_pause_us);
}

/* The rows of the new manifest are what the next checkpoint may carry on. */
static void adopt(talk *t)
{
    int kept = t->checkpoint_all ? 0 : t->segment_count;
    ic_store_segment *now = ic_calloc((size_t)(kept + t->fresh_count) + 1, sizeof *now);
    int count = 0;
    for (int i = 0; i < kept; i++)
        now[count++] = t->segments[i];
    for (int i = 0; i < t->fresh_count; i++) {
        if (t->fresh[i].tag == TALK_TAG_ROWS)
            now[count++] = t->fresh[i];
    }
    ic_free(t->segments);
    t->segments = now;
    t->segment_count = count;
    t->rows_given = true;
    if (t->lease == TALK_LEASE_HOME)
        talk_checkpoint_mark(t);
    t->rebuilding = t->rebuild = false;
    t->touched = t->journal_last > t->checkpoint_journal; /* in mid-answer it has gone on since */
    t->journal_bytes -= t->checkpoint_journal_bytes;
    t->replay_us -= t->checkpoint_replay_us;
    uint64_t bytes = 0;
    for (int i = 0; i < t->fresh_count; i++)
        bytes += (uint64_t)t->fresh[i].bytes;
    talk_count_cost(&t->costs.checkpoints, t->checkpoint_began_us, bytes);
    tell_passing(t, bytes);
    ic_failpoint(IC_FAIL_checkpoint_adopted);
    if (t->turn && t->checkpoint_passing)
        ic_failpoint(IC_FAIL_answer_stored);
    talk_checkpoint_fini(t);
    talk_unit *u = talk_unit_new(t);
    ic_job_write_add(u->ops, IC_WRITE_TRIM)->number = t->limits->event_log_bytes;
    ic_job_write_add(u->ops, IC_WRITE_KEEP)->number = t->limits->keep_bytes;
    talk_unit_add(t, &u);
}

void talk_checkpoint_done(talk *t, ic_job_checkpoint *done)
{
    if (!t->checkpointing)
        return; /* of one that was given up */
    t->writer = done->writer;
    if (done->job.rc) {
        give_up(t, &done->job.error);
        return;
    }
    if (done->finish) {
        t->writer = NULL;
        t->store_bytes = done->store_bytes;
        t->grown_bytes = 0;
        adopt(t);
        return;
    }
    t->fresh = ic_realloc(t->fresh, (size_t)(t->fresh_count + 1) * sizeof *t->fresh);
    t->fresh[t->fresh_count++] = done->segment;
    go_on(t);
}
