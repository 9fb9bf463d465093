/* The line of inputs, the lease, and the answer that comes back. */
#include <string.h>

#include "actors/ic_talk_priv.h"
#include "base/ic_assert.h"
#include "base/ic_clock.h"
#include "base/ic_failpoint.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

/* --- turns -------------------------------------------------------------------------------------
 */

void talk_turn_free(talk_turn **turn_p)
{
    talk_turn *turn = *turn_p;
    *turn_p = NULL;
    if (!turn)
        return;
    ic_free(turn->text);
    ic_free(turn->tokens);
    ic_buf_fini(&turn->answer);
    ic_free(turn);
}

/* --- the line ----------------------------------------------------------------------------------
 */

void talk_line_add(talk *t, talk_item **item_p)
{
    talk_item *item = *item_p;
    *item_p = NULL;
    item->next = NULL;
    if (t->line_end)
        t->line_end->next = item;
    else
        t->line = item;
    t->line_end = item;
    t->line_turns += item->type == TALK_ITEM_TURN;
}

static talk_item *unlink_item(talk *t, talk_item *prev, talk_item *item)
{
    if (prev)
        prev->next = item->next;
    else
        t->line = item->next;
    if (t->line_end == item)
        t->line_end = prev;
    t->line_turns -= item->type == TALK_ITEM_TURN;
    return item;
}

static void free_item(talk_item *item)
{
    ic_frame_unref(&item->frame);
    talk_turn_free(&item->turn);
    ic_free(item);
}

void talk_line_clear(talk *t)
{
    while (t->line)
        free_item(unlink_item(t, NULL, t->line));
}

void talk_line_save(const talk *t, ic_buf *out)
{
    for (const talk_item *i = t->line; i; i = i->next) {
        if (!i->turn || !i->turn->admitted)
            continue;
        ic_talk_record r = {.kind = IC_RECORD_ASK,
                            .turn = i->turn->number,
                            .text = i->turn->text,
                            .sampling = i->turn->sampling};
        memcpy(r.key, i->turn->key.bytes, sizeof r.key);
        ic_buf one = {0};
        ic_talk_record_encode(&r, &one);
        ic_buf_blob(out, one.data, (uint32_t)one.size);
        ic_buf_fini(&one);
    }
}

uint64_t talk_line_drop_frames(talk *t)
{
    uint64_t count = 0;
    talk_item *prev = NULL, *item = t->line;
    while (item) {
        talk_item *next = item->next;
        if (item->type == TALK_ITEM_FRAME) {
            free_item(unlink_item(t, prev, item));
            count++;
        } else {
            prev = item;
        }
        item = next;
    }
    return count;
}

talk_turn *talk_line_turn(const talk *t, uint64_t number)
{
    for (const talk_item *i = t->line; i; i = i->next) {
        if (i->turn && i->turn->number == number)
            return i->turn;
    }
    return NULL;
}

uint64_t talk_line_first_admitted(const talk *t)
{
    for (const talk_item *i = t->line; i; i = i->next) {
        if (i->turn && i->turn->admitted)
            return i->turn->number;
    }
    return 0;
}

talk_turn *talk_line_take(talk *t, uint64_t number)
{
    talk_item *prev = NULL;
    for (talk_item *i = t->line; i; prev = i, i = i->next) {
        if (i->turn && i->turn->number == number) {
            talk_turn *turn = i->turn;
            i->turn = NULL;
            free_item(unlink_item(t, prev, i));
            return turn;
        }
    }
    return NULL;
}

/* --- the lease ---------------------------------------------------------------------------------
 */

void talk_lease_out(talk *t)
{
    IC_ASSERT(t->lease == TALK_LEASE_HOME);
    int64_t pause_us = ic_clock_mono_us() - t->home_us;
    if (t->checkpoint_passing && pause_us > t->checkpoint_pause_us)
        t->checkpoint_pause_us = pause_us;
    ic_mail_lease *m = ic_mail_lease_new(IC_MAIL_LEASE, t->seat, t->session);
    t->session = NULL;
    t->lease = TALK_LEASE_OUT;
    t->progress_us = ic_clock_mono_us();
    ic_port_send(&t->self->outbox, t->args->sched, &m);
    if (t->turn && t->turn->cancelled)
        talk_cancel_turn(t); /* it could not be told while the lease was at home */
}

void talk_recall(talk *t)
{
    if (t->lease != TALK_LEASE_OUT)
        return;
    ic_mail_lease *m = ic_mail_lease_new(IC_MAIL_RECALL, t->seat, NULL);
    t->lease = TALK_LEASE_RECALLED;
    ic_port_send(&t->self->outbox, t->args->sched, &m);
}

void talk_send_input(talk *t, ic_mail_input **in_p)
{
    IC_ASSERT(t->lease == TALK_LEASE_OUT);
    if (!t->model_busy)
        t->progress_us = ic_clock_mono_us();
    t->model_busy = true;
    ic_port_send(&t->self->outbox, t->args->sched, in_p);
}

/* --- pumping: from the line into journal and model -----------------------------------------------
 */

/* A frame that is too large for one record goes ahead of it in pieces. */
static void record_frame(talk *t, const talk_item *item)
{
    enum { PIECE = 3 << 20 };
    const ic_frame *f = item->frame;
    uint64_t media = t->source ? t->source->args.media : t->head.medias;
    ic_store_hold hold = talk_source_hold(t);
    ic_talk_record r = {.kind = item->image ? IC_RECORD_IMAGE : IC_RECORD_FRAME,
                        .frame = item->frame,
                        .grid = item->grid,
                        .detached = f->bytes > PIECE};
    talk_unit *u = talk_unit_new(t);
    talk_source_note(t, u);
    for (size_t at = 0; r.detached && at < f->bytes; at += PIECE) {
        ic_talk_record piece = {.kind = IC_RECORD_PIXELS, .pixels = f->rgb + at};
        piece.pixel_bytes = f->bytes - at < PIECE ? f->bytes - at : PIECE;
        talk_unit_frame(t, u, &piece, media, hold);
    }
    talk_unit_frame(t, u, &r, media, hold);
    talk_unit_add(t, &u);
}

static void pump_frame(talk *t, talk_item *item)
{
    record_frame(t, item);
    ic_mail_input *in = ic_mail_input_new(t->seat, item->image ? IC_INPUT_IMAGE : IC_INPUT_FRAME);
    talk_source_credit(t, item->frame->bytes);
    in->frame = item->frame;
    in->grid = item->grid;
    item->frame = NULL;
    t->frames_sent++;
    t->head.seen++;
    t->head.source.given++;
    t->head.source.pos_us = in->frame->pts_us;
    t->seen_here++;
    if (t->source)
        t->source->given++;
    talk_send_input(t, &in);
}

void talk_end_frames(talk *t)
{
    ic_talk_record r = {.kind = IC_RECORD_FRAMES_END};
    talk_unit *u = talk_unit_new(t);
    talk_unit_record(t, u, &r, NULL);
    talk_unit_add(t, &u);
    ic_mail_input *in = ic_mail_input_new(t->seat, IC_INPUT_FRAMES_END);
    talk_send_input(t, &in);
    if (t->source && t->source->end_queued)
        talk_source_finish(t);
}

static void pump_turn(talk *t, talk_item *item)
{
    ic_failpoint(IC_FAIL_answer_start);
    t->turn = item->turn;
    item->turn = NULL;
    ic_talk_record r = {.kind = IC_RECORD_START, .turn = t->turn->number};
    talk_unit *u = talk_unit_new(t);
    talk_unit_record(t, u, &r, NULL);
    talk_unit_event(u, IC_WIRE_EVENT_ANSWER_BEGIN)->turn = t->turn->number;
    talk_unit_add(t, &u);
    ic_mail_input *in = ic_mail_input_new(t->seat, IC_INPUT_ASK);
    in->text = ic_strdup(t->turn->text);
    in->sampling = t->turn->sampling;
    talk_send_input(t, &in);
    if (t->turn->cancelled)
        talk_cancel_turn(t);
}

uint64_t talk_frames_ahead(const talk *t)
{
    uint64_t unseen = t->frames_sent - t->stats.frames;
    return unseen + 2 * (uint64_t)t->stats.pending_groups;
}

static bool may_pump(const talk *t, const talk_item *item)
{
    if (item->type == TALK_ITEM_TURN)
        return item->turn->admitted && !(t->phase == TALK_STOPPING);
    return talk_frames_ahead(t) < TALK_FRAMES_AHEAD && t->unit_bytes < TALK_UNITS_BYTES;
}

void talk_pump(talk *t)
{
    while (t->line && t->lease == TALK_LEASE_OUT && !talk_is_answering(t) && !t->home_wanted
           && !t->checkpointing && may_pump(t, t->line)) {
        talk_item *item = unlink_item(t, NULL, t->line);
        if (item->type == TALK_ITEM_FRAME)
            pump_frame(t, item);
        else if (item->type == TALK_ITEM_FRAMES_END)
            talk_end_frames(t);
        else
            pump_turn(t, item);
        free_item(item);
    }
}

/* --- the answer --------------------------------------------------------------------------------
 */

bool talk_is_answering(const talk *t)
{
    return t->turn || t->replay_answers;
}

void talk_cancel_turn(talk *t)
{
    t->turn->cancelled = true;
    if (t->lease != TALK_LEASE_OUT)
        return; /* sent when the lease is out again */
    ic_mail_input *in = ic_mail_input_new(t->seat, IC_INPUT_CANCEL);
    talk_send_input(t, &in);
}

enum { SUBSTITUTE = 0x1a }; /* Unicode's, for a character that cannot be shown */

static void add_text(talk *t, talk_turn *turn, int32_t token, bool flush)
{
    size_t bytes = 0;
    const char *piece = "";
    if (!flush)
        piece = ic_tokenizer_piece(ic_engine_tokenizer(t->limits->engine), token, &bytes);
    if (ic_buf_reserve(&turn->answer, IC_UTF8_STREAM_ROOM(piece ? bytes : 0)))
        return;
    size_t at = turn->answer.size;
    turn->answer.size += ic_utf8_stream_push(&turn->utf8, piece ? piece : "", piece ? bytes : 0,
                                             flush, (char *)turn->answer.data + at);
    /* A zero would end the text of the event that carries it: what of the answer is lost would
     * depend on how many tokens that is. */
    for (; at < turn->answer.size; at++) {
        if (!turn->answer.data[at])
            turn->answer.data[at] = SUBSTITUTE;
    }
}

void talk_add_token(talk *t, talk_turn *turn, int32_t token)
{
    int at = turn->count - turn->stored;
    if (at == turn->capacity) {
        turn->capacity = turn->capacity ? 2 * turn->capacity : 64;
        turn->tokens = ic_realloc(turn->tokens, (size_t)turn->capacity * sizeof *turn->tokens);
    }
    turn->tokens[at] = token;
    turn->count++;
    add_text(t, turn, token, false);
}

/* Everything shown is journalled and told by now. Its question is in the engine's state. */
void talk_answer_save(const talk_turn *turn, ic_talk_answer *out)
{
    IC_ASSERT(turn->written == turn->count && turn->told == turn->answer.size);
    out->turn = turn->number;
    memcpy(out->key, turn->key.bytes, sizeof out->key);
    out->sampling = turn->sampling;
    out->tokens = (uint32_t)turn->count;
    out->held = turn->utf8;
    ic_buf_append(&out->text, turn->answer.data, turn->answer.size);
}

talk_turn *talk_answer_load(ic_talk_answer *a)
{
    talk_turn *turn = ic_alloc(sizeof *turn);
    turn->number = a->turn;
    memcpy(turn->key.bytes, a->key, sizeof turn->key.bytes);
    turn->has_key = turn->admitted = true;
    turn->sampling = a->sampling;
    turn->count = turn->stored = (int)a->tokens;
    turn->utf8 = a->held;
    turn->answer = a->text;
    *a = (ic_talk_answer){0};
    return turn;
}

/* Text that no event has carried yet, cut to whole characters and an event's size. Caller owns;
 * NULL: none. */
static char *take_text(talk_turn *turn)
{
    size_t left = turn->answer.size - turn->told;
    if (!left)
        return NULL;
    if (left > IC_WIRE_TEXT_MAX) {
        left = IC_WIRE_TEXT_MAX;
        while (left && (turn->answer.data[turn->told + left] & 0xc0) == 0x80)
            left--;
    }
    char *text = ic_strf("%.*s", (int)left, (const char *)turn->answer.data + turn->told);
    turn->told += left;
    return text;
}

static void record_tokens(talk *t, talk_unit *u, talk_turn *turn)
{
    if (turn->written == turn->count)
        return;
    ic_talk_record r = {.kind = IC_RECORD_TOKENS,
                        .turn = turn->number,
                        .tokens = turn->tokens + (turn->written - turn->stored),
                        .count = turn->count - turn->written};
    talk_unit_record(t, u, &r, NULL);
    turn->written = turn->count;
}

static void say(talk *t, talk_unit *u, talk_turn *turn)
{
    record_tokens(t, u, turn);
    char *text;
    while ((text = take_text(turn))) {
        talk_event *ev = talk_unit_event(u, IC_WIRE_EVENT_TEXT);
        ev->turn = turn->number;
        ev->text = text;
    }
}

/* While the store is busy with the last tokens, further ones gather. */
void talk_tell_tokens(talk *t)
{
    talk_turn *turn = t->turn;
    if (!turn || turn->finish || t->in_flight || t->units || turn->written == turn->count)
        return;
    talk_unit *u = talk_unit_new(t);
    say(t, u, turn);
    talk_unit_add(t, &u);
}

static void fill_usage(talk *t, const talk_turn *turn, ic_wire_usage *u)
{
    const ic_session_stats *s = &t->stats;
    int64_t now = ic_clock_mono_us();
    const ic_talk_head *h = &t->head;
    bool began = turn == t->turn; /* else it has nothing to do with what happened meanwhile */
    *u = (ic_wire_usage){0};
    ic_wire_put(u, usage, prompt_tokens, began ? (uint64_t)s->prompt_tokens : 0);
    ic_wire_put(u, usage, cached_tokens, began ? (uint64_t)s->cached_tokens : 0);
    ic_wire_put(u, usage, completion_tokens, (uint64_t)turn->count);
    uint64_t told = h->evicted_at_end; /* former builds told more than there were */
    ic_wire_put(u, usage, evicted_tokens,
                began && s->evicted_tokens > told ? s->evicted_tokens - told : 0);
    ic_wire_put(u, usage, cache_tokens, (uint64_t)s->cache_used);
    ic_wire_put(u, usage, cache_slots, (uint64_t)s->cache_slots);
    ic_wire_put(u, usage, text_tokens, (uint64_t)t->text);
    ic_wire_put(u, usage, frame_tokens, (uint64_t)t->vision);
    ic_wire_put(u, usage, frames_seen, began ? h->seen - h->seen_at_end : 0);
    ic_wire_put(u, usage, frames_skipped, began ? h->skipped - h->skipped_at_end : 0);
    ic_wire_put(u, usage, frames_deduplicated,
                began ? h->deduplicated - h->deduplicated_at_end : 0);
    ic_wire_put(u, usage, recomputed_tokens, began ? t->recomputed : 0);
    ic_wire_put(u, usage, exact, t->exact && !t->head.inexact);
    if (turn->first_us && turn->arrived_us)
        ic_wire_put(u, usage, ttft_us, (uint64_t)(turn->first_us - turn->arrived_us));
    if (turn->arrived_us)
        ic_wire_put(u, usage, duration_us, (uint64_t)(now - turn->arrived_us));
    int decoded = turn->count - turn->replayed;
    if (decoded > 1 && turn->last_us > turn->first_us)
        ic_wire_put(u, usage, tokens_per_second,
                    (double)(decoded - 1) * 1e6 / (double)(turn->last_us - turn->first_us));
    ic_wire_put(u, usage, seed, turn->sampling.seed);
}

static int wire_finish(ic_finish finish)
{
    switch (finish) {
    case IC_FINISH_STOP:
        return IC_WIRE_FINISH_STOP;
    case IC_FINISH_LENGTH:
        return IC_WIRE_FINISH_LENGTH;
    case IC_FINISH_CANCEL:
        return IC_WIRE_FINISH_CANCEL;
    default:
        return IC_WIRE_FINISH_ERROR;
    }
}

/* The assistant's row of the transcript. Its parts: the turn's number, then how it ended. */
static void add_transcript(talk_unit *u, const talk_turn *turn, int finish)
{
    ic_write_op *op = ic_job_write_add(u->ops, IC_WRITE_TURN);
    int64_t now = ic_clock_wall_us();
    op->turn = (ic_store_turn){.time_us = now,
                               .took_us = turn->arrived_wall_us ? now - turn->arrived_wall_us : 0,
                               .role = IC_STORE_ASSISTANT,
                               .tokens = turn->count};
    ic_buf_append(&op->bytes, turn->answer.data, turn->answer.size);
    ic_buf_u64(&op->extra, turn->number);
    ic_buf_u32(&op->extra, (uint32_t)finish);
}

/* What the usage tells is told: the head's marks stand behind it. */
static talk_unit *end_unit(talk *t, talk_turn *turn, ic_finish finish, const ic_wire_usage *usage)
{
    talk_unit *u = talk_unit_new(t);
    say(t, u, turn);
    ic_talk_record r = {.kind = IC_RECORD_END,
                        .turn = turn->number,
                        .finish = (int)finish,
                        .told = {.evicted = t->head.evicted_at_end,
                                 .skipped = t->head.skipped_at_end,
                                 .deduplicated = t->head.deduplicated_at_end}};
    talk_unit_record(t, u, &r, NULL);
    add_transcript(u, turn, wire_finish(finish));
    talk_event *ev = talk_unit_event(u, IC_WIRE_EVENT_ANSWER_END);
    ev->turn = turn->number;
    ev->finish = wire_finish(finish);
    ev->has_usage = true;
    ev->usage = *usage;
    if (finish == IC_FINISH_ERROR) {
        ev->code = ic_wire_code_name(ic_wire_code_from_err(turn->error.code));
        ev->message = ic_strdup(turn->error.text);
    }
    u->finishes_turn = turn->has_key;
    u->key = turn->key;
    u->turn_first_event = turn->first_event;
    return u;
}

static void end_turn(talk *t, ic_finish finish)
{
    talk_turn *turn = t->turn;
    ic_failpoint(IC_FAIL_answer_end);
    turn->finish = finish;
    add_text(t, turn, -1, true);
    if (!turn->first_us)
        turn->first_us = turn->last_us = ic_clock_mono_us();
    ic_wire_usage usage;
    fill_usage(t, turn, &usage);
    t->head.evicted_at_end = t->stats.evicted_tokens;
    t->head.seen_at_end = t->head.seen;
    t->head.skipped_at_end = t->head.skipped;
    t->head.deduplicated_at_end = t->head.deduplicated;
    t->recomputed = 0;
    talk_unit *u = end_unit(t, turn, finish, &usage);
    talk_unit_add(t, &u);
    t->spoken_us = ic_clock_mono_us();
    ic_log_debug("session", "%.8s: turn %llu ended: %s, %d tokens", t->id,
                 (unsigned long long)turn->number, ic_wire_word("finish", wire_finish(finish)),
                 turn->count);
    talk_turn_free(&t->turn);
}

/* A question that never reached the model. */
void talk_end_queued(talk *t, talk_turn **turn_p, ic_finish finish)
{
    ic_wire_usage usage;
    fill_usage(t, *turn_p, &usage);
    talk_unit *u = end_unit(t, *turn_p, finish, &usage);
    talk_unit_add(t, &u);
    talk_turn_free(turn_p);
}

/* --- progress ----------------------------------------------------------------------------------
 */

/* Ends of replayed answers are known already. Tokens likewise: they are forced. */
static bool swallow_replay(talk *t, const ic_mail_progress *p)
{
    if (!t->replay_answers)
        return false;
    if (p->finish || (p->input_refused && p->refused == IC_INPUT_ASK))
        t->replay_answers--;
    return true;
}

static void take_token(talk *t, const ic_mail_progress *p)
{
    talk_turn *turn = t->turn;
    if (t->stats.answer_tokens <= turn->replayed)
        return; /* shown before the resume */
    turn->last_us = ic_clock_mono_us();
    if (!turn->first_us)
        turn->first_us = turn->last_us;
    ic_failpoint(IC_FAIL_answer_token);
    talk_add_token(t, turn, p->token);
}

static void take_failure(talk *t, const ic_mail_progress *p)
{
    if (p->device_failed) {
        talk_fail(t, IC_WIRE_CODE_DEVICE, &p->error);
        return;
    }
    ic_log_warn("session", "%.8s: %s", t->id, p->error.text);
    if (t->turn && (p->finish || (p->input_refused && p->refused == IC_INPUT_ASK)))
        t->turn->error = p->error;
    else
        talk_notice(t, ic_wire_code_name(ic_wire_code_from_err(p->error.code)), "%s",
                    p->error.text);
}

/* Steps of other sessions in between are counted in; a pause is not, nor the time at home. */
static void count_replay(talk *t)
{
    enum { STEP_US = 1000000 }; /* longer is none */
    int64_t now = ic_clock_mono_us(), gap = now - t->progress_us;
    if (t->model_busy)
        t->replay_us += gap < STEP_US ? gap : STEP_US;
    t->progress_us = now;
}

void talk_progress(talk *t, const ic_mail_progress *p)
{
    count_replay(t);
    uint64_t evicted = t->stats.evicted_tokens;
    t->stats = p->stats;
    t->model_busy = p->ready;
    if (p->finish) {
        t->text = p->text;
        t->vision = p->vision;
    }
    if (t->stats.evicted_tokens > evicted)
        t->evicted_here += t->stats.evicted_tokens - evicted;
    if (p->input_refused && (p->refused == IC_INPUT_FRAME || p->refused == IC_INPUT_IMAGE))
        t->frames_sent--; /* the engine does not count it */
    if (!talk_rebuild_progress(t, p) && (p->progress == IC_PROGRESS_FAILED || p->input_refused))
        take_failure(t, p);
    if (t->phase == TALK_FAILED || swallow_replay(t, p))
        return;
    if (t->turn && p->progress == IC_PROGRESS_TOKEN)
        take_token(t, p);
    if (t->turn && p->finish)
        end_turn(t, p->finish);
    else if (t->turn && p->input_refused && p->refused == IC_INPUT_ASK)
        end_turn(t, IC_FINISH_ERROR);
    talk_tell_tokens(t);
}
