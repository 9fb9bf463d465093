/* Waking up: a cache from the scheduler, the checkpoint into it, the journal's inputs behind it.
 * Nothing is believed before it is verified, and nothing live is touched: the cache is a new one.
 */
#include <string.h>

#include "actors/ic_talk_priv.h"
#include "base/ic_clock.h"
#include "base/ic_failpoint.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

void talk_load_abort(talk *t)
{
    if (t->load && t->load->reader) {
        ic_store_job *job = ic_job_reader_close_new(&t->load->reader);
        ic_port_send(&t->self->outbox, t->args->store, &job);
    }
    ic_mail_discard((ic_mail **)&t->load);
    ic_buf_fini(&t->state);
}

static ic_wire_code load_code(int rc)
{
    switch (rc) {
    case IC_EMISMATCH:
        return IC_WIRE_CODE_MISMATCH;
    case IC_EFORMAT:
    case IC_EVERSION:
        return IC_WIRE_CODE_CORRUPT;
    case IC_ENOMEM:
    case IC_ELIMIT:
    case IC_EDEVICE:
        return ic_wire_code_from_err(rc);
    default:
        return IC_WIRE_CODE_STORE;
    }
}

static void refuse(talk *t, int rc, ic_error *e)
{
    e->code = rc;
    t->costs.restores.failed++;
    talk_load_abort(t);
    talk_fail(t, load_code(rc), e);
}

/* --- the checkpoint ----------------------------------------------------------------------------
 */

/* The checkpoint means something else than this session would: the model is another, or settings
 * of its cache are. */
static int refuse_meaning(const talk *t, ic_error *e)
{
    const ic_store_manifest *m = &t->load->manifest;
    const ic_engine_info *info = ic_engine_info_of(t->limits->engine);
    char differs[200] = "", meaning[33];
    if (strcmp(t->head.meaning, info->meaning) == 0)
        ic_session_config_differ(&t->head.config, &t->config.engine, differs, sizeof differs);
    if (differs[0])
        return ic_error_set(e, IC_EMISMATCH,
                            "the checkpoint was made with other settings: %s; the session's record "
                            "has been changed",
                            differs);
    ic_session_meaning(t->limits->engine, &t->config.engine, meaning);
    return ic_error_set(e, IC_EMISMATCH,
                        "the session belongs to model %s (%.*s), this server runs %s (%s): "
                        "weights, tokenizer, preprocessing or policy differ; start infchatd "
                        "with the model it was made with",
                        t->head.model, (int)m->meaning_bytes, (const char *)m->meaning,
                        info->model_name, meaning);
}

static int check_manifest(talk *t, ic_error *e)
{
    const ic_store_manifest *m = &t->load->manifest;
    const ic_engine_info *info = ic_engine_info_of(t->limits->engine);
    ic_talk_head_fini(&t->head); /* of a load that was given up */
    int rc = ic_talk_head_decode(&t->head, m->state, m->state_bytes, e);
    if (rc)
        return rc;
    if (m->payload_version < IC_SESSION_STATE_OLDEST
        || m->payload_version > IC_SESSION_STATE_VERSION)
        return ic_error_set(e, IC_EVERSION,
                            "its checkpoint is of version %u, this build reads %d to %d",
                            m->payload_version, IC_SESSION_STATE_OLDEST, IC_SESSION_STATE_VERSION);
    char meaning[33];
    ic_session_meaning(t->limits->engine, &t->config.engine, meaning);
    if (m->meaning_bytes != strlen(meaning) || memcmp(m->meaning, meaning, m->meaning_bytes) != 0)
        return refuse_meaning(t, e);
    size_t length = strnlen(info->numerics, IC_STORE_NUMERICS_MAX);
    t->exact = strlen(m->numerics) == length && strncmp(m->numerics, info->numerics, length) == 0;
    if (!t->exact)
        ic_log_warn("session", "%.8s: resumed under other numerics: was \"%s\", is \"%s\"", t->id,
                    m->numerics, info->numerics);
    return IC_OK;
}

static void begin_replay(talk *t);

static void next_segment(talk *t)
{
    ic_error e = {0};
    int rc = IC_OK;
    if (t->segment_at < t->load->manifest.segment_count) {
        ic_job_segment *job =
            ic_job_segment_new(t->load->reader, t->segment_at, t->store_reply, TALK_JOB_SEGMENT);
        ic_port_send(&t->self->outbox, t->args->store, &job);
        return;
    }
    if (!t->state_loaded)
        rc = ic_session_load_state(t->session, t->state.data, t->state.size, &e);
    if (rc == IC_OK)
        rc = ic_session_load_finish(t->session, &e);
    if (rc)
        refuse(t, rc, &e);
    else
        begin_replay(t);
}

/* Row segments are kept for the next checkpoint to carry on. */
static void note_segment(talk *t, const ic_store_segment *s)
{
    t->segments = ic_realloc(t->segments, (size_t)(t->segment_count + 1) * sizeof *t->segments);
    t->segments[t->segment_count++] = *s;
}

void talk_segment(talk *t, ic_job_segment *done)
{
    if (t->phase != TALK_LOADING || !t->load)
        return;
    ic_error e = done->job.error;
    int rc = done->job.rc;
    const ic_store_segment *s = &t->load->manifest.segments[t->segment_at];
    if (rc == IC_OK && s->tag == TALK_TAG_STATE) {
        rc = ic_buf_append(&t->state, done->bytes.data, done->bytes.size);
    } else if (rc == IC_OK) {
        if (!t->state_loaded)
            rc = ic_session_load_state(t->session, t->state.data, t->state.size, &e);
        t->state_loaded = true;
        if (rc == IC_OK)
            rc = ic_session_load_rows(t->session, done->bytes.data, done->bytes.size, &e);
        note_segment(t, s);
    }
    t->restore_bytes += (uint64_t)s->bytes;
    t->segment_at++;
    ic_failpoint(IC_FAIL_load_segment);
    if (rc)
        refuse(t, rc, &e);
    else
        next_segment(t);
}

/* Nothing has been loaded yet: the cache is as it came. */
static void give_up_memory(talk *t, int rc, ic_error *e)
{
    bool helps = rc == IC_EMISMATCH || rc == IC_EFORMAT || rc == IC_EVERSION;
    if (t->rebuild && helps) {
        ic_talk_head_fini(&t->head);
        talk_rebuild_begin(t, e);
        return;
    }
    refuse(t, rc, e);
}

void talk_loaded(talk *t, ic_job_load **done_p)
{
    ic_error e = {0};
    t->load = *done_p;
    *done_p = NULL;
    int rc = t->load->job.rc;
    t->journal_last = t->load->journal_last;
    if (rc) {
        e = t->load->job.error;
        give_up_memory(t, rc, &e);
        return;
    }
    t->restoring = t->journal_last > 0;
    t->segment_at = 0;
    t->state_loaded = false;
    t->exact = true;
    t->segment_count = 0;
    if (t->load->reader) {
        rc = check_manifest(t, &e);
        if (rc)
            give_up_memory(t, rc, &e);
        else
            next_segment(t);
        return;
    }
    ic_talk_head_fini(&t->head);
    if (t->config.system)
        rc = ic_session_system(t->session, t->config.system, &e);
    if (rc)
        refuse(t, rc, &e);
    else
        begin_replay(t);
}

void talk_opened(talk *t, ic_mail_lease *m)
{
    if (m->rc) {
        talk_fail(t, load_code(m->rc == IC_EINVAL ? IC_EMISMATCH : m->rc), &m->error);
        return;
    }
    if (t->phase != TALK_OPENING) { /* given up meanwhile */
        ic_mail_lease *close = ic_mail_lease_new(IC_MAIL_CLOSE, m->seat, m->session);
        ic_port_send(&t->self->outbox, t->args->sched, &close);
        return;
    }
    t->seat = m->seat;
    t->session = m->session;
    t->lease = TALK_LEASE_HOME;
    t->rows_given = false;
    t->phase = TALK_LOADING;
    t->restore_began_us = ic_clock_mono_us();
    t->restore_bytes = 0;
    ic_job_load *job = ic_job_load_new(t->id, t->store_reply, TALK_JOB_LOAD);
    job->verify = t->rebuild;
    ic_port_send(&t->self->outbox, t->args->store, &job);
}

/* --- the journal behind it ---------------------------------------------------------------------
 */

typedef struct replay {
    talk *t;
    talk_turn **asked; /* admitted and not begun, in order; as many as there are */
    int count, capacity;
    talk_turn *now; /* begun and not ended */
    uint64_t held;  /* the answer whose middle the checkpoint holds; 0: none */
    ic_buf pixels;  /* of a frame to come */
} replay;

static int replay_ask(replay *r, ic_talk_record *rec)
{
    if (r->count == r->capacity) {
        r->capacity = r->capacity ? 2 * r->capacity : 8;
        r->asked = ic_realloc(r->asked, (size_t)r->capacity * sizeof(talk_turn *));
    }
    talk_turn *turn = ic_alloc(sizeof *turn);
    turn->number = rec->turn;
    turn->text = rec->text;
    rec->text = NULL;
    turn->sampling = rec->sampling;
    memcpy(turn->key.bytes, rec->key, sizeof turn->key.bytes);
    turn->has_key = turn->admitted = true;
    r->asked[r->count++] = turn;
    if (r->t->head.turns < turn->number)
        r->t->head.turns = turn->number;
    return IC_OK;
}

static talk_turn *take_asked(replay *r, uint64_t number)
{
    for (int i = 0; i < r->count; i++) {
        talk_turn *turn = r->asked[i];
        if (turn->number == number) {
            memmove(r->asked + i, r->asked + i + 1, (size_t)(r->count - i - 1) * sizeof *r->asked);
            r->count--;
            return turn;
        }
    }
    return NULL;
}

/* A question goes in with the tokens that were shown; one that has ended is cancelled behind them,
 * which rebuilds it to the bit. */
static void send_ask(replay *r, bool ended)
{
    talk *t = r->t;
    talk_turn *turn = r->now;
    ic_mail_input *in = ic_mail_input_new(t->seat, IC_INPUT_ASK);
    in->text = ic_strdup(turn->text);
    in->sampling = turn->sampling;
    in->forced = ic_calloc((size_t)turn->count + 1, sizeof *in->forced);
    in->forced_count = turn->count;
    if (turn->count)
        memcpy(in->forced, turn->tokens, (size_t)turn->count * sizeof *in->forced);
    talk_send_input(t, &in);
    if (ended) {
        in = ic_mail_input_new(t->seat, IC_INPUT_CANCEL);
        talk_send_input(t, &in);
    }
    t->replay_answers += ended;
}

/* Frames that were left out are in no record: those that an answer told of are known from it. */
static void replay_told(ic_talk_head *h, const ic_talk_told *told)
{
    h->evicted_at_end = told->evicted;
    h->skipped_at_end = told->skipped;
    h->deduplicated_at_end = told->deduplicated;
    if (h->skipped < told->skipped)
        h->skipped = told->skipped;
    if (h->deduplicated < told->deduplicated)
        h->deduplicated = told->deduplicated;
}

static int replay_end(replay *r, const ic_talk_record *rec)
{
    if (rec->kind == IC_RECORD_END)
        replay_told(&r->t->head, &rec->told);
    if (r->held && r->held == rec->turn) {
        r->t->head.seen_at_end = r->t->head.seen;
        return IC_OK;
    }
    if (r->now && r->now->number == rec->turn) {
        if (rec->finish != IC_FINISH_ERROR || r->now->count)
            send_ask(r, true);
        talk_turn_free(&r->now);
        r->t->head.seen_at_end = r->t->head.seen; /* told in that answer's usage */
        return IC_OK;
    }
    talk_turn *queued = take_asked(r, rec->turn);
    if (queued)
        talk_turn_free(&queued);
    return IC_OK; /* of a turn that the checkpoint holds already */
}

static int replay_frame(replay *r, ic_talk_record *rec)
{
    talk *t = r->t;
    if (rec->detached) {
        if (r->pixels.size != rec->frame->bytes)
            return IC_EFORMAT;
        memcpy(rec->frame->rgb, r->pixels.data, r->pixels.size);
        ic_buf_clear(&r->pixels);
    }
    ic_mail_input *in =
        ic_mail_input_new(t->seat, rec->kind == IC_RECORD_IMAGE ? IC_INPUT_IMAGE : IC_INPUT_FRAME);
    in->frame = rec->frame;
    rec->frame = NULL;
    in->grid = rec->grid;
    t->frames_sent++;
    t->head.seen++;
    t->head.source.given++;
    t->head.source.pos_us = in->frame->pts_us;
    talk_send_input(t, &in);
    return IC_OK;
}

static void replay_source(ic_talk_head *h, const ic_talk_record *rec)
{
    h->source = rec->source;
    if (h->skipped < rec->left_skipped)
        h->skipped = rec->left_skipped;
    if (h->deduplicated < rec->left_duplicated)
        h->deduplicated = rec->left_duplicated;
}

/* Questions without an answer stay with the session that this one is a copy of; so does the rest of
 * a source that was being read there. */
static void replay_fork(replay *r)
{
    talk *t = r->t;
    talk_turn_free(&r->now);
    while (r->count)
        talk_turn_free(&r->asked[--r->count]);
    if (!t->head.open_media)
        return;
    t->cut_media = t->head.open_media;
    t->head.open_media = 0;
    ic_mail_input *in = ic_mail_input_new(t->seat, IC_INPUT_FRAMES_END);
    talk_send_input(t, &in);
}

static int replay_record(replay *r, ic_talk_record *rec)
{
    talk *t = r->t;
    ic_mail_input *in;
    switch (rec->kind) {
    case IC_RECORD_PIXELS:
        return ic_buf_append(&r->pixels, rec->pixels, rec->pixel_bytes);
    case IC_RECORD_FRAME:
    case IC_RECORD_IMAGE:
        return replay_frame(r, rec);
    case IC_RECORD_FRAMES_END:
        in = ic_mail_input_new(t->seat, IC_INPUT_FRAMES_END);
        talk_send_input(t, &in);
        return IC_OK;
    case IC_RECORD_ASK:
        return replay_ask(r, rec);
    case IC_RECORD_START:
        if (!r->now)
            r->now = take_asked(r, rec->turn);
        return r->now ? IC_OK : IC_EFORMAT;
    case IC_RECORD_TOKENS:
        if (r->held && r->held == rec->turn)
            return IC_OK;
        for (int i = 0; r->now && i < rec->count; i++)
            talk_add_token(t, r->now, rec->tokens[i]);
        return r->now ? IC_OK : IC_EFORMAT;
    case IC_RECORD_END_V1:
    case IC_RECORD_END:
        return replay_end(r, rec);
    case IC_RECORD_MEDIA:
        t->head.open_media = t->head.medias = rec->media;
        t->head.source = (ic_talk_reach){.pos_us = -1};
        return IC_OK;
    case IC_RECORD_SOURCE:
        replay_source(&t->head, rec);
        return IC_OK;
    case IC_RECORD_MEDIA_END:
        t->head.open_media = 0;
        return IC_OK;
    case IC_RECORD_FORK:
        replay_fork(r);
        return IC_OK;
    }
    return IC_EVERSION;
}

/* The answer that was going on goes on; questions that waited stand in the line again. */
static void take_up(replay *r)
{
    talk *t = r->t;
    if (r->now) {
        talk_turn *turn = r->now;
        if (turn->number == r->held)
            ic_log_info("session",
                        "%.8s: answer %llu goes on at %d tokens, from the checkpoint's %d", t->id,
                        (unsigned long long)turn->number, turn->count, turn->stored);
        else
            send_ask(r, false);
        turn->replayed = turn->written = turn->count;
        turn->told = turn->answer.size;
        t->turn = turn;
        r->now = NULL;
    }
    for (int i = 0; i < r->count; i++) {
        talk_item *item = ic_alloc(sizeof *item);
        item->type = TALK_ITEM_TURN;
        item->turn = r->asked[i];
        talk_line_add(t, &item);
    }
    r->count = 0;
}

/* Questions that waited when the checkpoint was taken. */
static int replay_waiting(replay *r, ic_error *e)
{
    ic_cursor c;
    ic_cursor_init(&c, r->t->head.asks.data, r->t->head.asks.size);
    int rc = IC_OK;
    while (rc == IC_OK && ic_cursor_left(&c)) {
        uint32_t size;
        ic_talk_record rec;
        const void *bytes = ic_cursor_blob(&c, &size);
        if (!bytes)
            return ic_error_set(e, IC_EFORMAT, "the checkpoint's waiting questions end early");
        rc = ic_talk_record_decode(&rec, IC_RECORD_ASK, bytes, size, e);
        if (rc == IC_OK)
            rc = replay_ask(r, &rec);
        ic_talk_record_fini(&rec);
    }
    ic_buf_fini(&r->t->head.asks);
    return rc;
}

/* What the journal behind the checkpoint says of the answer that it holds: its tokens; and whether
 * it has ended there (1), or the session is a copy, which has it up to the checkpoint (2). */
static int read_answer(replay *r, int *over, ic_error *e)
{
    const ic_job_load *load = r->t->load;
    int rc = IC_OK;
    *over = 0;
    for (int i = 0; rc == IC_OK && !*over && i < load->count; i++) {
        ic_talk_record rec;
        const ic_journal_record *raw = &load->records[i];
        if (raw->kind == IC_RECORD_FRAME || raw->kind == IC_RECORD_IMAGE)
            continue;
        rc = ic_talk_record_decode(&rec, raw->kind, raw->bytes.data, raw->bytes.size, e);
        if (rc)
            break;
        bool own = rec.turn == r->held;
        for (int n = 0; own && rec.kind == IC_RECORD_TOKENS && n < rec.count; n++)
            talk_add_token(r->t, r->now, rec.tokens[n]);
        if (own && (rec.kind == IC_RECORD_END || rec.kind == IC_RECORD_END_V1))
            *over = 1;
        if (rec.kind == IC_RECORD_FORK)
            *over = 2;
        ic_talk_record_fini(&rec);
    }
    return rc;
}

/* Before the lease goes out: the model would go on with the answer at once. */
static int force_answer(replay *r, ic_error *e)
{
    talk *t = r->t;
    int over, rc = read_answer(r, &over, e);
    int count = r->now->count - r->now->stored;
    if (rc == IC_OK && over < 2 && count)
        rc = ic_session_force(t->session, r->now->tokens, count, e);
    if (rc || !over)
        return rc;
    t->replay_answers++;
    talk_turn_free(&r->now);
    return ic_session_cancel(t->session);
}

/* The answer that was going on when the checkpoint was taken. */
static int replay_answer(replay *r, ic_error *e)
{
    talk *t = r->t;
    ic_talk_answer *a = &t->head.answer;
    bool going_on = a->turn != 0;
    if (t->stats.answering != going_on
        || (going_on && (uint32_t)t->stats.answer_tokens != a->tokens))
        return ic_error_set(e, IC_EFORMAT, "the checkpoint's answer is not that of its state");
    if (!going_on)
        return IC_OK;
    r->held = a->turn;
    r->now = talk_answer_load(a);
    return force_answer(r, e);
}

static void begin_replay(talk *t)
{
    replay r = {.t = t};
    ic_error e = {0};
    ic_session_stats_of(t->session, &t->stats);
    int rc = replay_answer(&r, &e);
    if (rc == IC_OK)
        rc = replay_waiting(&r, &e);
    t->tokens_loaded = t->stats.tokens;
    t->frames_sent = t->stats.frames;
    t->model_busy = ic_session_is_ready(t->session);
    t->phase = TALK_REPLAY;
    talk_lease_out(t);
    for (int i = 0; rc == IC_OK && i < t->load->count; i++) {
        ic_talk_record rec;
        const ic_journal_record *raw = &t->load->records[i];
        rc = ic_talk_record_decode(&rec, raw->kind, raw->bytes.data, raw->bytes.size, &e);
        if (rc == IC_OK) {
            t->journal_bytes += raw->bytes.size;
            t->touched = true;
            rc = replay_record(&r, &rec);
            ic_failpoint(IC_FAIL_replay_record);
            if (rc)
                ic_error_set(&e, rc, "journal record %lld does not follow from those before it",
                             (long long)raw->number);
            ic_talk_record_fini(&rec);
        }
    }
    if (rc == IC_OK)
        take_up(&r);
    ic_buf_fini(&r.pixels);
    talk_turn_free(&r.now);
    for (int i = 0; i < r.count; i++)
        talk_turn_free(&r.asked[i]);
    ic_free(r.asked);
    if (rc)
        refuse(t, rc, &e);
    else
        talk_load_abort(t); /* no longer needed */
}

/* How far it was read, and what to do. Caller owns. */
static char *tell_lost(const ic_talk_reach *reach)
{
    if (reach->pos_us < 0)
        return ic_strdup("the server went away before anything of the source was seen: feed it "
                         "again");
    double seconds = (double)reach->pos_us / 1e6;
    return ic_strf("the server went away while the source was being read: it was seen up to "
                   "%.3f s; feed it again from there (from_us %lld, watch --from %.3f)",
                   seconds, (long long)reach->pos_us, seconds);
}

/* Closes an entry of the ledger with the frames that are known. */
static void put_lost(talk *t, talk_unit *u, uint64_t media, const char *notice)
{
    const ic_talk_reach *reach = &t->head.source;
    ic_write_op *op = ic_job_write_add(u->ops, IC_WRITE_LOST);
    op->number = (int64_t)media;
    op->media.frames_used = (int64_t)reach->given;
    op->media.frames_skipped = (int64_t)reach->skipped;
    op->media.frames_seen = (int64_t)(reach->given + reach->skipped + reach->deduplicated);
    ic_buf_append(&op->extra, notice, strlen(notice));
}

/* The source goes on where this session was copied from: nothing began here, and nothing ends. */
static void close_cut_media(talk *t)
{
    if (!t->cut_media)
        return;
    talk_unit *u = talk_unit_new(t);
    put_lost(t, u, t->cut_media, "the session was copied while the source was being read");
    talk_unit_add(t, &u);
    t->cut_media = 0;
}

/* A source that was open when the server went away does not come back by itself: its entry in the
 * ledger is closed with what is known of it. */
static void close_lost_media(talk *t)
{
    const ic_talk_reach *reach = &t->head.source;
    if (!t->head.open_media)
        return;
    talk_unit *u = talk_unit_new(t);
    ic_talk_record r = {.kind = IC_RECORD_MEDIA_END, .media = t->head.open_media};
    talk_unit_record(t, u, &r, NULL);
    talk_event *ev = talk_unit_event(u, IC_WIRE_EVENT_MEDIA_END);
    ev->has_media = true;
    ic_wire_put(&ev->media, media_info, media, t->head.open_media);
    ic_wire_put(&ev->media, media_info, done, true);
    ic_wire_put(&ev->media, media_info, frames_seen, reach->given);
    ic_wire_put(&ev->media, media_info, frames_skipped, reach->skipped);
    ic_wire_put(&ev->media, media_info, frames_deduplicated, reach->deduplicated);
    if (reach->pos_us >= 0)
        ic_wire_put(&ev->media, media_info, pos_us, (uint64_t)reach->pos_us);
    ev->code = ic_wire_code_name(IC_WIRE_CODE_SHUTDOWN);
    ev->message = tell_lost(reach);
    put_lost(t, u, t->head.open_media, ev->message);
    t->head.open_media = 0;
    talk_unit_add(t, &u);
    talk_item *item = ic_alloc(sizeof *item);
    item->type = TALK_ITEM_FRAMES_END;
    talk_line_add(t, &item);
}

void talk_replay_done(talk *t)
{
    ic_failpoint(IC_FAIL_replay_done);
    t->recomputed = t->stats.tokens - t->tokens_loaded;
    t->phase = TALK_LIVE;
    t->spoken_us = ic_clock_mono_us();
    if (t->restoring) /* else it is new: there was nothing to restore */
        talk_count_cost(&t->costs.restores, t->restore_began_us, t->restore_bytes);
    close_cut_media(t);
    close_lost_media(t);
    ic_log_info("session", "%.8s: resident: %llu tokens seen, %d in the cache, %llu recomputed%s",
                t->id, (unsigned long long)t->stats.tokens, t->stats.cache_used,
                (unsigned long long)t->recomputed, t->exact ? "" : ", inexact");
}
