/* Checkpoints: the engine's state and the rows filled since the last one, in pieces, then the
 * manifest. The lease is at home the whole time; everything before it is durable. */
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

bool talk_checkpoint_due(const talk *t)
{
    int64_t now = ic_clock_mono_us();
    if (t->checkpointing || !t->touched || now < t->checkpoint_after_us || talk_is_answering(t))
        return false;
    if (t->journal_bytes >= (uint64_t)t->limits->checkpoint_bytes
        || t->replay_us >= t->limits->checkpoint_us)
        return true;
    bool quiet = !t->line && !t->source && talk_is_written(t);
    return quiet && now - t->spoken_us >= QUIET_US;
}

void talk_checkpoint_fini(talk *t)
{
    ic_talk_head_fini(&t->saved_head);
    ic_buf_fini(&t->checkpoint_state);
    ic_free(t->fresh);
    t->fresh = NULL;
    t->fresh_count = 0;
    t->checkpointing = false;
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

static void give_up(talk *t, const ic_error *e)
{
    ic_log_error("session", "%.8s: no checkpoint: %s", t->id, e->text);
    t->costs.checkpoints.failed++;
    t->checkpoint_error = *e;
    t->checkpoint_after_us = ic_clock_mono_us() + RETRY_US;
    if (t->writer) {
        ic_job_checkpoint *job = ic_job_checkpoint_new(t->id, t->writer, NULL, TALK_JOB_CHECKPOINT);
        job->abort = true;
        t->writer = NULL;
        ic_port_send(&t->self->outbox, t->args->store, &job);
    }
    talk_checkpoint_fini(t);
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
                                        .live_bytes = (int64_t)ic_session_live_bytes(t->session),
                                        .segment_count = (size_t)count};
    job->finish = true;
    ic_port_send(&t->self->outbox, t->args->store, &job);
}

/* The next piece: state, then rows, then the manifest. */
static void go_on(talk *t)
{
    ic_buf piece = {0};
    size_t left = t->checkpoint_state.size - t->state_at;
    if (left) {
        size_t count = left < TALK_SEGMENT_BYTES ? left : TALK_SEGMENT_BYTES;
        ic_buf_append(&piece, t->checkpoint_state.data + t->state_at, count);
        t->state_at += count;
        send_piece(t, TALK_TAG_STATE, &piece);
        return;
    }
    ic_error e = {0};
    while (t->rows_left && !piece.size) {
        int rc = ic_session_save_rows(t->session, t->checkpoint_all, &t->cursor, TALK_SEGMENT_BYTES,
                                      &piece, &t->rows_left);
        if (rc) {
            ic_buf_fini(&piece);
            ic_error_set(&e, rc, "the cache's rows cannot be saved");
            give_up(t, &e);
            return;
        }
    }
    if (piece.size) {
        send_piece(t, TALK_TAG_ROWS, &piece);
        return;
    }
    ic_buf_fini(&piece);
    send_manifest(t);
}

void talk_checkpoint_begin(talk *t)
{
    IC_ASSERT(t->lease == TALK_LEASE_HOME && talk_is_written(t) && !t->checkpointing);
    ic_error e = {0};
    ic_buf_fini(&t->checkpoint_state);
    int rc = ic_session_save_state(t->session, &t->checkpoint_state, &e);
    if (rc) {
        give_up(t, &e);
        return;
    }
    t->checkpointing = true;
    t->checkpoint_began_us = ic_clock_mono_us();
    t->checkpoint_all = should_consolidate(t);
    t->checkpoint_journal = t->journal_last;
    t->saved_head = t->head;
    t->saved_head.inexact |= !t->exact;
    t->saved_head.asks = (ic_buf){0};
    talk_line_save(t, &t->saved_head.asks);
    snprintf(t->saved_head.model, sizeof t->saved_head.model, "%s",
             ic_engine_info_of(t->limits->engine)->model_name);
    snprintf(t->saved_head.meaning, sizeof t->saved_head.meaning, "%s",
             ic_engine_info_of(t->limits->engine)->meaning);
    t->saved_head.config = t->config.engine;
    t->saved_head.has_held = ic_session_held_of(t->session, &t->saved_head.held, &e) == IC_OK;
    t->text = t->saved_head.held.pinned + t->saved_head.held.sinks + t->saved_head.held.text;
    t->vision = t->saved_head.held.vision + t->saved_head.held.markers;
    t->state_at = 0;
    t->cursor = 0;
    t->rows_left = true;
    t->writer = NULL;
    go_on(t);
}

void talk_count_cost(ic_talk_cost *cost, int64_t began_us, uint64_t bytes)
{
    cost->count++;
    cost->last_us = (uint64_t)(ic_clock_mono_us() - began_us);
    cost->bytes += bytes;
    if (cost->last_us > cost->max_us)
        cost->max_us = cost->last_us;
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
    ic_session_mark_saved(t->session);
    t->touched = t->rebuilding = t->rebuild = false;
    t->journal_bytes = 0;
    t->replay_us = 0;
    uint64_t bytes = 0;
    for (int i = 0; i < t->fresh_count; i++)
        bytes += (uint64_t)t->fresh[i].bytes;
    talk_count_cost(&t->costs.checkpoints, t->checkpoint_began_us, bytes);
    ic_failpoint(IC_FAIL_checkpoint_adopted);
    talk_checkpoint_fini(t);
    talk_unit *u = talk_unit_new(t);
    ic_job_write_add(u->ops, IC_WRITE_TRIM)->number = t->limits->event_log_bytes;
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
