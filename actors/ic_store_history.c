#include "actors/ic_store_history.h"

#include <stdio.h>
#include <string.h>

#include "base/ic_mem.h"

static void *new_job(size_t bytes, ic_store_job_fn *run, ic_port *reply, int tag,
                     void (*discard)(ic_mail *))
{
    ic_store_job *job = ic_mail_new(IC_MAIL_STORE_JOB, bytes, discard);
    job->run = run;
    job->reply = reply;
    job->tag = tag;
    return job;
}

/* --- transcript and ledger ---------------------------------------------------------------------
 */

static void discard_transcript(ic_mail *m)
{
    ic_job_transcript *j = (ic_job_transcript *)m;
    for (int i = 0; i < j->count; i++)
        ic_free(j->turns[i].text);
    for (int i = 0; i < j->source_count; i++) {
        ic_free(j->sources[i].name);
        ic_buf_fini(&j->sources[i].reading);
    }
    ic_free(j->turns);
    ic_free(j->sources);
    ic_free(j);
}

/* The parts of a row begin with the round's number; an answer's go on with its finish reason; from
 * version 2 on the place in the journal follows. */
static int add_turn(void *arg, const ic_store_turn *row)
{
    ic_job_transcript *j = arg;
    ic_cursor c;
    ic_cursor_init(&c, row->parts, row->parts_bytes);
    uint64_t number = ic_cursor_u64(&c);
    if (c.status || (row->role != IC_STORE_USER && row->role != IC_STORE_ASSISTANT))
        return 0;
    if (row->role == IC_STORE_ASSISTANT)
        ic_cursor_u32(&c);
    int64_t at = row->parts_version > 1 ? (int64_t)ic_cursor_u64(&c) : 0;
    if (j->count == j->capacity) {
        j->capacity = j->capacity ? 2 * j->capacity : 16;
        j->turns = ic_realloc(j->turns, (size_t)j->capacity * sizeof *j->turns);
    }
    j->turns[j->count++] =
        (ic_transcript_turn){.number = number,
                             .is_answer = row->role == IC_STORE_ASSISTANT,
                             .at = c.status ? 0 : at,
                             .text = ic_strf("%.*s", (int)row->text_bytes, row->text)};
    return 0;
}

static int add_source(void *arg, const ic_store_media *m)
{
    ic_job_transcript *j = arg;
    if (j->source_count == j->source_capacity) {
        j->source_capacity = j->source_capacity ? 2 * j->source_capacity : 4;
        j->sources = ic_realloc(j->sources, (size_t)j->source_capacity * sizeof *j->sources);
    }
    ic_transcript_source *s = &j->sources[j->source_count++];
    *s = (ic_transcript_source){.number = (uint64_t)m->number,
                                .name = ic_strf("%.200s", m->name ? m->name : ""),
                                .frames = m->frames_used};
    if (m->hash_bytes != sizeof s->identity.hash || !m->times_bytes)
        return 0;
    s->identity = (ic_identity){.known = true, .bytes = m->bytes, .mtime_us = m->mtime_us};
    memcpy(s->identity.hash, m->hash, sizeof s->identity.hash);
    return ic_buf_append(&s->reading, m->times, m->times_bytes);
}

static int run_transcript(ic_store *s, ic_store_job *job, ic_error *e)
{
    ic_job_transcript *j = (ic_job_transcript *)job;
    int rc = ic_store_turn_read(s, j->session, 1, add_turn, j, e);
    return rc ? rc : ic_store_media_list(s, j->session, 0, add_source, j, e);
}

ic_job_transcript *ic_job_transcript_new(const char *session, ic_port *reply, int tag)
{
    ic_job_transcript *j = new_job(sizeof *j, run_transcript, reply, tag, discard_transcript);
    snprintf(j->session, sizeof j->session, "%s", session);
    return j;
}

/* --- frames ------------------------------------------------------------------------------------
 */

static void discard_frames(ic_mail *m)
{
    ic_job_frames *j = (ic_job_frames *)m;
    for (int i = 0; i < j->count; i++)
        ic_buf_fini(&j->frames[i].bytes);
    ic_free(j->frames);
    ic_free(j);
}

static int add_frame(void *arg, const ic_store_frame *f)
{
    enum { AT_MOST = 4096 };
    ic_job_frames *j = arg;
    if (j->bytes >= j->max_bytes || j->count == AT_MOST) {
        j->over = false;
        return 1;
    }
    if (j->count == j->capacity) {
        j->capacity = j->capacity ? 2 * j->capacity : 64;
        j->frames = ic_realloc(j->frames, (size_t)j->capacity * sizeof *j->frames);
    }
    ic_history_frame *to = &j->frames[j->count++];
    *to = (ic_history_frame){.number = f->number,
                             .media = f->media,
                             .kind = f->kind,
                             .damaged = f->damaged,
                             .held = f->bulk != NULL};
    int rc = f->damaged ? IC_OK : ic_buf_append(&to->bytes, f->head, f->head_bytes);
    if (rc == IC_OK && to->held)
        rc = ic_buf_append(&to->bytes, f->bulk, f->bulk_bytes);
    j->bytes += to->bytes.size;
    return rc;
}

static int run_frames(ic_store *s, ic_store_job *job, ic_error *e)
{
    ic_job_frames *j = (ic_job_frames *)job;
    j->over = true;
    return ic_store_frame_read(s, j->session, j->from, add_frame, j, e);
}

ic_job_frames *ic_job_frames_new(const char *session, int64_t from, size_t max_bytes,
                                 ic_port *reply, int tag)
{
    ic_job_frames *j = new_job(sizeof *j, run_frames, reply, tag, discard_frames);
    snprintf(j->session, sizeof j->session, "%s", session);
    j->from = from;
    j->max_bytes = max_bytes;
    return j;
}
