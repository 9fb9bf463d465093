/* One step of the engine: plans every slice, encodes the frames that are due, runs the rows of all
 * sessions through the model in as few passes as they fit, and samples. */
#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_engine_priv.h"
#include "engine/ic_session_priv.h"

enum { ROWS_MAX = IC_STEP_PREFILL + IC_STEP_DECODE };

typedef struct job { /* one slice at work */
    ic_slice *slice;
    ic_work work;
    int first;           /* of its rows in the pass */
    int wanted;          /* its last row among the pass's wanted rows; -1: no logits */
    int eviction, stuck; /* its number, -1: none; why it failed */
} job;

struct ic_step { /* scratch, all of fixed size but `jobs` and `evictions` */
    job *jobs;   /* [count], and as many evictions */
    ic_eviction *evictions;
    int count, capacity;
    int32_t ids[ROWS_MAX];
    ic_row rows[ROWS_MAX];
    ic_model_slice prefill[IC_STEP_PREFILL];
    ic_slab *decode[IC_STEP_DECODE];
    ic_model_visual visual[IC_STEP_PREFILL];
    int32_t wanted[IC_STEP_WANTED];
    float *logits;                  /* [IC_STEP_WANTED, vocab] */
    int32_t tokens[IC_STEP_WANTED]; /* drawn by the device */
    bool drawn;                     /* of the pass: tokens are there, not logits */
    job *members[ROWS_MAX];
};

ic_step *ic_step_new(const ic_engine *engine)
{
    ic_step *s = ic_alloc(sizeof *s);
    s->logits = ic_calloc((size_t)IC_STEP_WANTED * (size_t)engine->info.vocab, sizeof *s->logits);
    return s;
}

void ic_step_destroy(ic_step **s_p)
{
    ic_step *s = *s_p;
    if (!s)
        return;
    *s_p = NULL;
    ic_free(s->jobs);
    ic_free(s->evictions);
    ic_free(s->logits);
    ic_free(s);
}

/* The sentence names what the device itself has said. */
static int device_failed(const ic_engine *engine, int rc, const char *where, ic_error *e)
{
    const char *why = ic_device_trouble(engine->device);
    return ic_error_set(e, rc, "the device failed %s%s%s", where, why[0] ? ": " : "", why);
}

/* --- eviction -----------------------------------------------------------------------------------
 */

/* All plans that have become due at once, so that the device is waited for once. The first failure;
 * each job has its own. */
static int evict_due(ic_step *step)
{
    int n = 0, rc = IC_OK;
    for (int i = 0; i < step->count; i++) {
        job *j = &step->jobs[i];
        j->stuck = IC_OK;
        if (ic_chunk_due(j->slice->session, &step->evictions[n]))
            j->eviction = n++;
        else
            j->eviction = -1;
    }
    ic_slab_evict_each(step->evictions, n);
    for (int i = 0; i < step->count; i++) {
        job *j = &step->jobs[i];
        if (j->eviction < 0)
            continue;
        ic_chunk_evicted(j->slice->session, &step->evictions[j->eviction]);
        j->stuck = step->evictions[j->eviction].rc;
        rc = rc ? rc : j->stuck;
    }
    return rc;
}

/* --- vision -------------------------------------------------------------------------------------
 */

static ic_vision_job vision_job(ic_session *s)
{
    const ic_vision_config *c = &s->engine->config.vision;
    ic_vision_job j = {.grid_h = s->current.grid.tokens_h * c->merge,
                       .grid_w = s->current.grid.tokens_w * c->merge,
                       .video = s->current.kind == IC_INPUT_GROUP,
                       .level = s->level};
    for (int i = 0; i < c->temporal; i++)
        j.frames[i] = s->current.frame[i]->rgb;
    return j;
}

static int encode_all(ic_engine *engine, int count)
{
    enum { AT_ONCE = 16 };
    ic_vision_job jobs[AT_ONCE];
    int n = 0, rc = IC_OK;
    for (int i = 0; !rc && i < count; i++) {
        job *j = &engine->step->jobs[i];
        if (j->work.encode) {
            jobs[n++] = vision_job(j->slice->session);
            j->slice->frames = 1;
            j->slice->frames_in = ic_input_frames(&j->slice->session->current);
            j->slice->progress = IC_PROGRESS_INPUT;
        }
        if (n == AT_ONCE || (i == count - 1 && n > 0)) {
            rc = ic_vision_encode(engine->vision, jobs, n);
            n = 0;
        }
    }
    return rc;
}

/* --- a pass through the model -------------------------------------------------------------------
 */

typedef struct pass {
    ic_engine *engine;
    int members; /* prefilling ones first */
    int prefill_count, decode_count, visual_count, wanted_count;
    int rows;
} pass;

static int rows_of(const job *j)
{
    return j->work.decode ? 1 : j->work.rows;
}

/* Gives the job's rows their slots and notes their tokens. */
static int enter_rows(pass *p, job *j)
{
    ic_step *step = p->engine->step;
    ic_session *s = j->slice->session;
    int count = rows_of(j);
    j->first = p->rows;
    for (int i = 0; i < count; i++)
        ic_chunk_row(s, &j->work, i, &step->rows[j->first + i], &step->ids[j->first + i]);
    int rc = ic_slab_append(s->slab, &step->rows[j->first], count, &j->slice->error);
    if (rc) {
        ic_chunk_abandon(s, j->slice);
        return rc;
    }
    p->rows += count;
    return IC_OK;
}

/* The vision rows of a slice are neighbours: markers stand around them, not between. */
static void note_visual(pass *p, const job *j)
{
    ic_step *step = p->engine->step;
    ic_session *s = j->slice->session;
    ic_model_visual v = {.level = s->level, .levels = ic_session_level_count(s) - 1};
    for (int i = 0; i < j->work.rows; i++) {
        const ic_grammar_row *g = &s->rows.row[s->at + i];
        if (g->kind != IC_ROW_VISION)
            continue;
        if (v.rows++ == 0) {
            v.row = j->first + i;
            v.first = g->patch;
        }
    }
    if (v.rows)
        step->visual[p->visual_count++] = v;
}

static void note_member(pass *p, job *j)
{
    ic_step *step = p->engine->step;
    ic_session *s = j->slice->session;
    step->members[p->members++] = j;
    if (j->work.decode) {
        step->decode[p->decode_count++] = s->slab;
    } else {
        ic_model_slice *slice = &step->prefill[p->prefill_count++];
        *slice = (ic_model_slice){.slab = s->slab, .rows = j->work.rows};
        ic_chunk_window(s, &j->work, slice);
        note_visual(p, j);
    }
    j->wanted = -1;
    if (j->work.logits) {
        j->wanted = p->wanted_count;
        step->wanted[p->wanted_count++] = j->first + rows_of(j) - 1;
    }
}

static void sample(pass *p, job *j)
{
    ic_session *s = j->slice->session;
    int vocab = p->engine->info.vocab;
    int32_t token;
    if (j->wanted < 0)
        token = ic_chunk_forced(s);
    else if (p->engine->step->drawn)
        token = p->engine->step->tokens[j->wanted];
    else
        token = ic_sampler_pick(&s->answer.sampling,
                                p->engine->step->logits + (int64_t)j->wanted * vocab, vocab,
                                s->seen, s->stats.turn, s->answer.tokens);
    ic_chunk_token(s, token, j->slice);
}

/* How the device is to draw the token that ic_sampler_pick would. */
static ic_draw draw_of(const ic_session *s)
{
    const ic_sampling *from = &s->answer.sampling;
    return (ic_draw){.temperature = from->temperature,
                     .top_k = from->top_k,
                     .top_p = from->top_p,
                     .penalty = from->repetition_penalty,
                     .seen = s->seen,
                     .uniform = ic_sampler_uniform(from->seed, s->stats.turn, s->answer.tokens)};
}

/* Tokens of all answers of the pass at once, after all that has been read counts as seen. */
static int draw_tokens(pass *p)
{
    ic_step *step = p->engine->step;
    ic_draw draws[IC_STEP_WANTED];
    for (int m = 0; m < p->members; m++)
        if (step->members[m]->wanted >= 0)
            draws[step->members[m]->wanted] = draw_of(step->members[m]->slice->session);
    return ic_model_draw(p->engine->model, draws, p->wanted_count, step->tokens);
}

static void advance_job(job *j)
{
    j->slice->rows += rows_of(j);
    j->slice->progress = IC_PROGRESS_INPUT;
    ic_chunk_advance(j->slice->session, &j->work);
}

/* Tests and bench see the logits of every row, a few at a time, by extra read-outs. */
static int show_logits(pass *p, ic_model_batch *b)
{
    ic_engine *engine = p->engine;
    int32_t rows[IC_STEP_WANTED];
    int rc = IC_OK;
    for (int m = 0; !rc && m < p->members; m++) {
        const job *j = engine->step->members[m];
        for (int at = 0; !rc && at < rows_of(j); at += IC_STEP_WANTED) {
            int n = rows_of(j) - at < IC_STEP_WANTED ? rows_of(j) - at : IC_STEP_WANTED;
            for (int i = 0; i < n; i++)
                rows[i] = j->first + at + i;
            b->wanted = rows;
            b->wanted_count = n;
            rc = ic_model_read_out(engine->model, b);
            for (int i = 0; !rc && i < n; i++)
                engine->watch(engine->watch_arg, j->slice->session,
                              engine->step->rows[rows[i]].ordinal, engine->step->ids[rows[i]],
                              engine->step->logits + (int64_t)i * engine->info.vocab);
        }
    }
    return rc;
}

static int run_pass(pass *p, ic_error *e)
{
    ic_step *step = p->engine->step;
    ic_model_batch b = {.ids = step->ids,
                        .prefill = step->prefill,
                        .prefill_count = p->prefill_count,
                        .decode = step->decode,
                        .decode_count = p->decode_count,
                        .visual = step->visual,
                        .visual_count = p->visual_count,
                        .wanted = step->wanted,
                        .wanted_count = p->wanted_count,
                        .logits = step->logits};
    b.stay = step->drawn = !p->engine->watch && ic_device_samples(p->engine->device);
    int rc = ic_model_forward(p->engine->model, &b);
    if (!rc && p->engine->watch) {
        ic_model_batch all = b;
        rc = show_logits(p, &all);
        if (!rc)
            rc = ic_model_read_out(p->engine->model, &b);
    }
    for (int i = 0; rc && i < p->members; i++)
        ic_slab_drop_last(step->members[i]->slice->session->slab, rows_of(step->members[i]));
    if (rc)
        return device_failed(p->engine, rc, "in a batch", e);
    for (int i = 0; i < p->members; i++)
        advance_job(step->members[i]);
    rc = evict_due(step);
    if (rc)
        return ic_error_set(e, rc, "eviction failed");
    if (step->drawn && p->wanted_count > 0) {
        rc = draw_tokens(p);
        if (rc)
            return device_failed(p->engine, rc, "at drawing tokens", e);
    }
    for (int i = 0; i < p->members; i++)
        if (step->members[i]->work.token)
            sample(p, step->members[i]);
    return IC_OK;
}

/* Fills the pass with jobs of one role from *next on, as far as they fit. */
static void take_jobs(pass *p, int count, bool decode, int room, int *next)
{
    ic_step *step = p->engine->step;
    for (; *next < count; (*next)++) {
        job *j = &step->jobs[*next];
        if (j->work.decode != decode || rows_of(j) == 0)
            continue;
        if (rows_of(j) > room || (j->work.logits && p->wanted_count == IC_STEP_WANTED))
            return;
        if (enter_rows(p, j))
            continue;
        room -= rows_of(j);
        note_member(p, j);
    }
}

static int run_rows(ic_engine *engine, int count, ic_error *e)
{
    int next_prefill = 0, next_decode = 0, rc = IC_OK;
    while (!rc && (next_prefill < count || next_decode < count)) {
        pass p = {.engine = engine};
        take_jobs(&p, count, false, IC_STEP_PREFILL, &next_prefill);
        take_jobs(&p, count, true, IC_STEP_DECODE, &next_decode);
        if (p.members)
            rc = run_pass(&p, e);
    }
    return rc;
}

static void plan_all(ic_engine *engine, ic_slice *slices, int count)
{
    ic_step *step = engine->step;
    if (count > step->capacity) {
        step->jobs = ic_realloc(step->jobs, (size_t)count * sizeof *step->jobs);
        step->evictions = ic_realloc(step->evictions, (size_t)count * sizeof *step->evictions);
        step->capacity = count;
    }
    step->count = count;
    for (int i = 0; i < count; i++) {
        ic_slice *slice = &slices[i];
        slice->progress = IC_PROGRESS_IDLE;
        slice->rows = slice->frames = slice->frames_in = slice->frames_refused = 0;
        slice->token = -1;
        slice->finish = IC_FINISH_NONE;
        slice->error = (ic_error){0};
        step->jobs[i] = (job){.slice = slice, .wanted = -1};
        ic_chunk_plan(slice->session, slice->max_rows, &step->jobs[i].work, slice);
    }
    (void)evict_due(step); /* each job knows */
    for (int i = 0; i < count; i++) {
        job *j = &step->jobs[i];
        if (j->stuck)
            ic_chunk_stuck(j->slice->session, j->stuck, &j->work, j->slice);
    }
}

int ic_engine_step(ic_engine *engine, ic_slice *slices, int count, ic_error *e)
{
    plan_all(engine, slices, count);
    int rc = encode_all(engine, count);
    if (rc)
        return device_failed(engine, rc, "at encoding frames", e);
    for (int i = 0; i < count; i++) {
        job *j = &engine->step->jobs[i];
        if (j->work.encode && j->work.rows == 0)
            ic_chunk_advance(j->slice->session, &j->work);
    }
    return run_rows(engine, count, e);
}
