/* How a session's inputs become rows, chunk by chunk: a pure function of the inputs, of the
 * configuration and of the tokens shown; slices only decide when. */
#include <string.h>

#include "base/ic_assert.h"
#include "base/ic_mem.h"
#include "engine/ic_session_priv.h"

static bool has_forced(const ic_session *s)
{
    return s->answer.forced_at < s->answer.forced_count;
}

/* A cancelled answer says nothing more, except what has been shown once (forced) and not told as
 * ended: tokens forced later belong to the ask after it. */
static bool is_silent(const ic_session *s)
{
    return s->answer.cancelled && (s->answer.told || !has_forced(s));
}

/* --- from input to rows -------------------------------------------------------------------------
 */

static int rows_of_frames(ic_session *s, const ic_input *in, ic_error *e)
{
    uint32_t group = 0;
    int rc;
    if (in->kind == IC_INPUT_IMAGE) { /* it has no time of its own */
        rc =
            ic_grammar_image(s->grammar, in->grid.tokens_h, in->grid.tokens_w, &group, &s->rows, e);
        if (!rc)
            ic_stream_clock_note(&s->clock, group, s->clock.last_us);
        return rc;
    }
    int last = s->engine->info.temporal - 1;
    int64_t sum = in->frame[0]->pts_us + in->frame[last]->pts_us;
    rc = ic_grammar_frames(s->grammar, (double)sum / 2e6, in->grid.tokens_h, in->grid.tokens_w,
                           &group, &s->rows, e);
    if (!rc)
        ic_stream_clock_note(&s->clock, group, sum / 2);
    return rc;
}

static int rows_of(ic_session *s, const ic_input *in, ic_error *e)
{
    switch (in->kind) {
    case IC_INPUT_SYSTEM:
        return ic_grammar_system(s->grammar, in->text, &s->rows, e);
    case IC_INPUT_TEXT:
        return ic_grammar_text(s->grammar, in->text, &s->rows, e);
    case IC_INPUT_GROUP:
    case IC_INPUT_IMAGE:
        return rows_of_frames(s, in, e);
    case IC_INPUT_RAW:
        return ic_grammar_raw(s->grammar, in->text, &s->rows, e);
    case IC_INPUT_ASK: {
        int rc = in->text[0] ? ic_grammar_text(s->grammar, in->text, &s->rows, e) : IC_OK;
        return rc ? rc : ic_grammar_ask(s->grammar, &s->rows, e);
    }
    case IC_INPUT_CLOSE:
        return ic_grammar_answered(s->grammar, s->answer.entered, &s->rows, e);
    default:
        return ic_error_set(e, IC_EBUG, "input of kind %d", in->kind);
    }
}

/* Original positions end where the model's training does; compact ones never get there. */
static int check_positions(const ic_session *s, int rows, ic_error *e)
{
    int trained = s->engine->info.trained_tokens;
    if (s->config.positions != IC_POSITIONS_ORIGINAL
        || rows + IC_POLICY_CLOSERS <= trained - ic_slab_next(s->slab))
        return IC_OK;
    return ic_error_set(e, IC_ELIMIT,
                        "the session's positions have come to %d of the %d that the model was "
                        "trained on, and %d more do not fit: start a new session, with positions "
                        "compact",
                        (int)ic_slab_next(s->slab), trained, rows);
}

/* Rows of the input, or, when it is refused, the grammar as it was before. */
static int make_rows(ic_session *s, const ic_input *in, ic_error *e)
{
    ic_buf before;
    ic_buf_init(&before, 0);
    int rc = ic_grammar_state_save(s->grammar, &before);
    s->rows.count = 0;
    if (!rc)
        rc = rows_of(s, in, e);
    if (!rc && in->kind != IC_INPUT_CLOSE)
        rc = ic_policy_admit(s->policy, &s->config, ic_slab_used(s->slab), s->rows.count, e);
    if (!rc && in->kind != IC_INPUT_CLOSE)
        rc = check_positions(s, s->rows.count, e);
    if (rc) {
        ic_cursor back;
        ic_cursor_init(&back, before.data, before.size);
        int undone = ic_grammar_state_load(s->grammar, &back, NULL);
        IC_ASSERT(undone == IC_OK);
        s->rows.count = 0;
    }
    ic_buf_fini(&before);
    return rc;
}

static void begin_turn(ic_session *s, const ic_input *in)
{
    if (s->turn_open || in->kind == IC_INPUT_RAW)
        return;
    s->turn_open = true;
    s->stats.prompt_tokens = 0;
    s->stats.cached_tokens = ic_slab_used(s->slab);
}

static void begin_answer(ic_session *s, const ic_input *ask)
{
    IC_ASSERT(s->answer.phase == IC_ANSWER_NONE);
    s->answer.phase = IC_ANSWER_PROMPT;
    s->answer.sampling = ask->sampling;
    s->answer.cancelled = ask->cancelled;
    s->answer.told = ask->told;
    s->answer.last = s->answer.entered = -1;
    s->answer.tokens = 0;
    s->stats.turn++;
}

static void refuse(ic_session *s, ic_input *in, ic_slice *slice)
{
    slice->progress = IC_PROGRESS_FAILED;
    if (in->kind == IC_INPUT_ASK && !in->told)
        slice->finish = IC_FINISH_ERROR;
    if (in->kind == IC_INPUT_ASK)
        s->answer.forced_count = s->answer.forced_at = 0;
    slice->frames_refused = ic_input_frames(in);
    ic_input_fini(in);
}

/* Opens inputs until one has rows to give or is refused. */
static void open_next(ic_session *s, ic_slice *slice)
{
    while (!s->open) {
        ic_input in = {.kind = IC_INPUT_CLOSE};
        if (s->answer.phase != IC_ANSWER_CLOSING) {
            if (s->queue_count == 0)
                return;
            in = s->queue[0];
            memmove(s->queue, s->queue + 1, (size_t)--s->queue_count * sizeof *s->queue);
        }
        int rc = make_rows(s, &in, &slice->error);
        if (rc) {
            refuse(s, &in, slice);
            return;
        }
        if (in.kind == IC_INPUT_ASK)
            begin_answer(s, &in);
        if (in.kind == IC_INPUT_CLOSE)
            s->turn_open = false;
        else
            begin_turn(s, &in);
        s->current = in;
        s->open = true;
        s->encoded = false;
        s->at = 0;
        if (s->rows.count == 0) { /* nothing to wait for: text held back */
            ic_eviction due;
            ic_chunk_advance(s, &(ic_work){0});
            if (ic_chunk_due(s, &due)) {
                ic_slab_evict_each(&due, 1);
                ic_chunk_evicted(s, &due);
            }
        }
    }
}

/* --- planning -----------------------------------------------------------------------------------
 */

static void end_answer(ic_session *s, ic_finish finish, ic_slice *slice)
{
    s->answer.phase = IC_ANSWER_CLOSING;
    if (!s->answer.told)
        slice->finish = finish;
    s->answer.told = true;
}

/* A cancelled answer's end is told at once, even if its prompt is still waiting or going in. */
static void tell_cancels(ic_session *s, ic_slice *slice)
{
    if (has_forced(s))
        return; /* what has been shown once is shown again first */
    if (s->answer.cancelled && s->answer.phase == IC_ANSWER_DECODING) {
        end_answer(s, IC_FINISH_CANCEL, slice);
    } else if (s->answer.cancelled && s->answer.phase == IC_ANSWER_PROMPT && !s->answer.told) {
        s->answer.told = true;
        slice->finish = IC_FINISH_CANCEL;
    }
    for (int i = 0; i < s->queue_count; i++) {
        ic_input *in = &s->queue[i];
        if (in->cancelled && !in->told) {
            in->told = true;
            slice->finish = IC_FINISH_CANCEL;
        }
    }
}

void ic_chunk_count_evicted(ic_session *s)
{
    const ic_slab_desc *d = ic_slab_desc_of(s->slab);
    uint64_t heads = (uint64_t)d->layers * (uint64_t)d->kv_heads, held = 0;
    for (int layer = 0; layer < d->layers; layer++)
        for (int head = 0; head < d->kv_heads; head++)
            held += (uint64_t)ic_slab_count(s->slab, layer, head);
    s->stats.evicted_tokens = (s->stats.tokens * heads - held) / heads;
}

bool ic_chunk_due(ic_session *s, ic_eviction *due)
{
    if (!s->evicts)
        return false;
    *due = (ic_eviction){.slab = s->slab, .plan = s->plan};
    s->evicts = false;
    return true;
}

void ic_chunk_evicted(ic_session *s, const ic_eviction *done)
{
    ic_chunk_count_evicted(s);
    s->stats.evicted_groups += (uint64_t)done->evicted.groups;
}

static void fail_answer(ic_session *s, const ic_error *e, ic_slice *slice)
{
    slice->error = *e;
    slice->progress = IC_PROGRESS_FAILED;
    end_answer(s, IC_FINISH_ERROR, slice);
}

void ic_chunk_stuck(ic_session *s, int rc, ic_work *work, ic_slice *slice)
{
    ic_error e = {0};
    if (!work->decode || !work->token)
        return;
    *work = (ic_work){0};
    ic_error_set(&e, rc, "eviction failed");
    fail_answer(s, &e, slice);
}

/* One more row of the answer; false when the policy ends it here. The last token of an answer that
 * has ended goes in like those before it, so that it finds the same rows whether the model, a
 * limit, a cancel or a replay ended it; it can be refused no more. */
static bool admit_answer_row(ic_session *s, bool goes_on, ic_slice *slice)
{
    ic_error e = {0};
    int rc = ic_policy_answer_row(s->policy, &s->config, ic_slab_used(s->slab), &s->evicts,
                                  &s->plan, &e);
    s->evicts = s->evicts && !rc;
    s->plan.aged = s->asked && s->asked_rows == 0;
    if (!rc)
        rc = check_positions(s, 1, &e); /* which no eviction changes */
    if (!rc || !goes_on)
        return true;
    fail_answer(s, &e, slice);
    return false;
}

static void plan_decode(ic_session *s, ic_work *work, ic_slice *slice)
{
    bool goes_on = s->answer.phase == IC_ANSWER_DECODING;
    if (!admit_answer_row(s, goes_on, slice))
        return;
    work->decode = true;
    work->token = goes_on;
    work->logits = goes_on && !has_forced(s);
}

static void plan_prefill(ic_session *s, int max_rows, ic_work *work)
{
    int room = max_rows < IC_STEP_PREFILL ? max_rows : IC_STEP_PREFILL;
    bool group = s->current.kind == IC_INPUT_GROUP || s->current.kind == IC_INPUT_IMAGE;
    if (group && !s->encoded) {
        work->encode = true;
        room -= s->current.grid.tokens_h * s->current.grid.tokens_w;
        if (room <= 0)
            return;
    }
    int chunk_end = (s->at / s->config.chunk_max + 1) * s->config.chunk_max;
    int end = chunk_end < s->rows.count ? chunk_end : s->rows.count;
    work->rows = room < end - s->at ? room : end - s->at;
    if (s->current.kind == IC_INPUT_ASK && s->at + work->rows == s->rows.count) {
        work->token = !is_silent(s);
        work->logits = work->token && !has_forced(s);
    }
}

void ic_chunk_plan(ic_session *s, int max_rows, ic_work *work, ic_slice *slice)
{
    *work = (ic_work){0};
    tell_cancels(s, slice);
    if (!s->open && s->answer.last >= 0) {
        plan_decode(s, work, slice);
        return;
    }
    if (!s->open)
        open_next(s, slice);
    if (s->open)
        plan_prefill(s, max_rows < 1 ? 1 : max_rows, work);
}

/* --- the retrieval window -----------------------------------------------------------------------
 */

typedef struct chunk { /* the policy chunk that row s->at belongs to: rows of the input */
    int first, end;
    int window;    /* its last rows that score, or are kept of a question; 0: none do */
    bool question; /* it ends one that is to be remembered */
    bool asked;    /* questions of before score, and not the chunk's own rows */
} chunk;

/* A window scores when its scores are used: at this chunk's end if something must leave then, or by
 * the answer that follows. What closes an answer asks nothing, and leaves the scores as they are.
 * `entered`: rows of this chunk that are in the cache. */
static chunk chunk_of(const ic_session *s, int entered)
{
    chunk c = {.first = s->at / s->config.chunk_max * s->config.chunk_max};
    c.end = c.first + s->config.chunk_max;
    c.end = c.end < s->rows.count ? c.end : s->rows.count;
    int rows = c.end - c.first, before = ic_slab_used(s->slab) - entered;
    bool needed = s->config.smooth_pct > 0 || s->current.kind == IC_INPUT_ASK
                  || before + rows > s->config.cache_tokens;
    if (!ic_score_is_windowed(s->policy->score) || s->current.kind == IC_INPUT_CLOSE || !needed)
        return c;
    c.question = s->asked && s->current.kind == IC_INPUT_ASK && c.end == s->rows.count;
    c.asked = s->asked && (s->asked_rows > 0 || c.question);
    int most = c.question ? s->config.questions : c.asked ? 0 : s->config.window;
    most = most < s->config.window ? most : s->config.window;
    c.window = rows < most ? rows : most;
    return c;
}

static int held_of(const ic_session *s, const chunk *c)
{
    int held = s->at - (c->end - c->window);
    return c->window && held > 0 ? held : 0;
}

int ic_chunk_window_held(const ic_session *s)
{
    if (!s->open)
        return 0;
    chunk c = chunk_of(s, s->at % s->config.chunk_max);
    return held_of(s, &c);
}

/* Of the remembered queries, `more` of them new: no more than any head has rows for them to stand
 * at. */
static int asked_rows(const ic_session *s, int more)
{
    const ic_slab_desc *d = ic_slab_desc_of(s->slab);
    int rows = s->asked_rows + more;
    rows = rows < s->config.window ? rows : s->config.window;
    for (int head = 0; head < d->layers * d->kv_heads; head++) {
        int count = ic_slab_count(s->slab, head / d->kv_heads, head % d->kv_heads);
        rows = rows < count ? rows : count;
    }
    return rows;
}

/* The work's rows have their slots already. */
void ic_chunk_window(const ic_session *s, const ic_work *work, ic_model_slice *slice)
{
    chunk c = chunk_of(s, s->at % s->config.chunk_max + work->rows);
    if (c.window == 0 && !c.asked)
        return;
    int rows = s->at + work->rows - (c.end - c.window);
    slice->window = s->window;
    slice->window_held = held_of(s, &c);
    slice->window_rows = rows - slice->window_held;
    slice->window_rows = slice->window_rows > 0 ? slice->window_rows : 0;
    slice->score = s->at + work->rows == c.end;
    if (!c.asked)
        return;
    slice->asked = s->asked;
    slice->asked_next = c.question ? s->asked_next : -1;
    slice->asked_rows = asked_rows(s, c.question ? c.window : 0);
}

/* --- rows into the cache ------------------------------------------------------------------------
 */

static void fill_row(const ic_session *s, const ic_grammar_row *g, ic_row *row)
{
    *row = (ic_row){.group = g->group, .kind = g->kind, .advance = 1};
    if (g->kind != IC_ROW_VISION)
        return;
    const ic_grid *grid = &s->current.grid;
    row->h = (uint16_t)(g->patch / grid->tokens_w);
    row->w = (uint16_t)(g->patch % grid->tokens_w);
    row->advance = (uint16_t)(grid->tokens_h > grid->tokens_w ? grid->tokens_h : grid->tokens_w);
}

/* The cap on pins counts rows in order, so a long system turn keeps its beginning. */
static bool may_pin(const ic_session *s, int i)
{
    int before = s->pinned;
    for (int n = 0; n < i; n++)
        before += s->rows.row[s->at + n].pinned != 0;
    return before < s->config.pinned_max;
}

void ic_chunk_row(const ic_session *s, const ic_work *work, int i, ic_row *row, int32_t *id)
{
    if (work->decode) {
        *row = (ic_row){.kind = IC_ROW_TEXT, .advance = 1};
        *id = s->answer.last;
    } else {
        const ic_grammar_row *g = &s->rows.row[s->at + i];
        fill_row(s, g, row);
        row->pinned = g->pinned && may_pin(s, i);
        *id = g->id;
    }
    row->ordinal = (uint32_t)s->stats.tokens + (uint32_t)i;
}

static void remember(ic_session *s, int32_t id)
{
    s->seen[id / 8] |= (uint8_t)(1u << (id % 8));
}

static void count_rows(ic_session *s, const ic_work *work)
{
    for (int i = 0; i < work->rows; i++) {
        const ic_grammar_row *g = &s->rows.row[s->at + i];
        remember(s, g->id);
        s->pinned += g->pinned && s->pinned < s->config.pinned_max;
    }
    s->at += work->rows;
    s->stats.tokens += (uint64_t)work->rows;
    if (s->current.kind != IC_INPUT_CLOSE && s->current.kind != IC_INPUT_RAW)
        s->stats.prompt_tokens += work->rows;
}

/* A question that is complete counts among those that look at later evictions. */
static void note_question(ic_session *s, const ic_work *work)
{
    chunk c = chunk_of(s, s->at % s->config.chunk_max + work->rows);
    if (!c.question || work->rows == 0 || s->at + work->rows != c.end)
        return;
    s->asked_next = (s->asked_next + c.window) % s->config.window;
    s->asked_rows += c.window;
    s->asked_rows = s->asked_rows < s->config.window ? s->asked_rows : s->config.window;
}

static void end_chunk(ic_session *s)
{
    s->evicts = ic_policy_chunk_end(s->policy, &s->config, ic_slab_used(s->slab), &s->plan);
    s->plan.aged = s->asked && s->asked_rows == 0; /* nothing has been asked for by then */
}

static void end_input(ic_session *s)
{
    if (s->current.kind == IC_INPUT_CLOSE) {
        s->answer.phase = IC_ANSWER_NONE;
        s->answer.told = s->answer.cancelled = false;
    } else if (s->current.kind == IC_INPUT_GROUP || s->current.kind == IC_INPUT_IMAGE) {
        s->stats.groups++;
    } else if (s->current.kind == IC_INPUT_ASK) {
        s->answer.phase = is_silent(s) ? IC_ANSWER_CLOSING : IC_ANSWER_DECODING;
    }
    ic_input_fini(&s->current);
    s->open = false;
    s->rows.count = s->at = 0;
}

void ic_chunk_advance(ic_session *s, const ic_work *work)
{
    s->encoded |= work->encode;
    if (work->decode) {
        remember(s, s->answer.last);
        s->answer.entered = s->answer.last;
        s->answer.last = -1;
        s->stats.tokens++;
        return;
    }
    if (!s->open)
        return;
    note_question(s, work);
    count_rows(s, work);
    bool all = s->at == s->rows.count, answered = s->current.kind == IC_INPUT_CLOSE;
    bool cut = work->rows && (all || s->at % s->config.chunk_max == 0);
    if (cut || (all && answered)) /* an answer's rows are a chunk even if nothing closes it */
        end_chunk(s);
    if (all)
        end_input(s);
}

/* The policies keep room for every chunk, so this is for a policy that does not. */
void ic_chunk_abandon(ic_session *s, ic_slice *slice)
{
    bool answers = s->answer.phase != IC_ANSWER_NONE;
    slice->progress = IC_PROGRESS_FAILED;
    if (answers && !s->answer.told)
        slice->finish = IC_FINISH_ERROR;
    if (s->open)
        ic_input_fini(&s->current);
    s->open = false;
    s->rows.count = s->at = 0;
    s->answer.phase = IC_ANSWER_NONE;
    s->answer.last = -1;
    s->answer.told = s->answer.cancelled = false;
    s->answer.forced_at = s->answer.forced_count = 0;
}

/* --- tokens of the answer -----------------------------------------------------------------------
 */

int32_t ic_chunk_forced(ic_session *s)
{
    IC_ASSERT(has_forced(s));
    int32_t token = s->answer.forced[s->answer.forced_at++];
    if (!has_forced(s))
        s->answer.forced_at = s->answer.forced_count = 0;
    return token;
}

static bool is_stop(const ic_model_config *c, int32_t token)
{
    for (int i = 0; i < c->stop_count; i++) {
        if (c->stop[i] == token)
            return true;
    }
    return false;
}

void ic_chunk_token(ic_session *s, int32_t token, ic_slice *slice)
{
    slice->token = token;
    if (is_stop(&s->engine->config, token)) {
        s->answer.forced_at = s->answer.forced_count = 0;
        end_answer(s, IC_FINISH_STOP, slice);
        return;
    }
    slice->progress = IC_PROGRESS_TOKEN;
    s->answer.last = token;
    s->answer.tokens++;
    if (s->answer.tokens >= (uint32_t)s->answer.sampling.max_tokens) {
        s->answer.forced_at = s->answer.forced_count = 0;
        end_answer(s, IC_FINISH_LENGTH, slice);
    }
}
