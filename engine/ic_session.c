#include "engine/ic_session.h"

#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_session_priv.h"

enum {
    TEXT_MAX = 1 << 20, /* bytes of one text */
    FORCED_MAX = 1 << 20
};

/* --- memory -------------------------------------------------------------------------------------
 */

ic_slab_desc ic_session_slab_desc(const ic_engine *engine, const ic_session_config *c)
{
    const ic_text_config *t = &engine->config.text;
    return (ic_slab_desc){.layers = t->layers,
                          .kv_heads = t->kv_heads,
                          .head_dim = t->head_dim,
                          .slots = c->cache_tokens + c->chunk_max + c->slack,
                          .k_dtype = c->kv_dtype,
                          .v_dtype = c->kv_dtype};
}

static size_t level_bytes(const ic_engine *engine, const ic_session_config *c)
{
    size_t levels = 1 + (size_t)engine->config.vision.deepstack_count;
    return levels * (size_t)ic_session_group_tokens(engine, c) * (size_t)engine->config.text.hidden
           * sizeof(float);
}

static size_t seen_bytes(const ic_engine *engine)
{
    return ((size_t)engine->config.text.vocab + 7) / 8;
}

static ic_score_kind score_kind(const ic_session_config *c)
{
    return ic_policy_score(c);
}

static bool has_questions(const ic_session_config *c)
{
    return ic_policy_score(c) == IC_SCORE_PEAK;
}

/* Queries of a retrieval window that comes in several slices; as many again of questions. */
static size_t window_bytes(const ic_engine *engine, const ic_session_config *c)
{
    const ic_text_config *t = &engine->config.text;
    if (!ic_score_is_windowed(ic_policy_score(c)))
        return 0;
    size_t rows = (size_t)(c->window ? c->window : IC_POLICY_WINDOW) * (has_questions(c) ? 2 : 1);
    return (size_t)t->layers * rows * (size_t)t->heads * (size_t)t->head_dim * sizeof(float);
}

size_t ic_session_memory(const ic_engine *engine, const ic_session_config *config)
{
    ic_slab_desc desc = ic_session_slab_desc(engine, config);
    size_t scores = score_kind(config) ? ic_slab_score_bytes(&desc) : 0;
    return ic_slab_bytes(&desc) + level_bytes(engine, config) + seen_bytes(engine)
           + sizeof(ic_session) + scores + window_bytes(engine, config);
}

size_t ic_session_device_memory(const ic_engine *engine, const ic_session_config *config)
{
    enum { PIECES = 5, UNIT = 512 }; /* so many pieces of device memory, with what rounding adds */
    ic_slab_desc desc = ic_session_slab_desc(engine, config);
    size_t slab = ic_slab_device_bytes(engine->device, &desc);
    return slab ? slab + level_bytes(engine, config) + window_bytes(engine, config) + PIECES * UNIT
                : 0;
}

size_t ic_session_host_memory(const ic_engine *engine, const ic_session_config *config)
{
    ic_slab_desc desc = ic_session_slab_desc(engine, config);
    size_t all = ic_session_memory(engine, config);
    if (ic_session_device_memory(engine, config) == 0)
        return all;
    return all - (ic_slab_bytes(&desc) - ic_slab_table_bytes(&desc)) - level_bytes(engine, config)
           - window_bytes(engine, config);
}

static int reserve(const ic_session *s, const ic_slab_desc *desc, ic_error *e)
{
    ic_ops_bounds bounds = ic_engine_bounds(s->engine, &s->config, desc);
    int rc = ic_ops_reserve(s->engine->device, &bounds);
    return rc ? ic_error_set(e, rc, "no device memory to work on a cache of %d slots", desc->slots)
              : IC_OK;
}

/* --- life ---------------------------------------------------------------------------------------
 */

int ic_session_level_count(const ic_session *s)
{
    return 1 + s->engine->config.vision.deepstack_count;
}

static int make_levels(ic_session *s, ic_error *e)
{
    int64_t tokens = ic_session_group_tokens(s->engine, &s->config),
            hidden = s->engine->config.text.hidden;
    s->level_data = ic_device_alloc(s->engine->device, level_bytes(s->engine, &s->config));
    if (!s->level_data)
        return ic_error_set(e, IC_ENOMEM, "no memory for the embeddings of a frame group of %d",
                            (int)tokens);
    for (int i = 0; i < ic_session_level_count(s); i++)
        s->level[i] = (ic_mat){.data = (float *)s->level_data + i * tokens * hidden,
                               .dtype = IC_F32,
                               .rows = tokens,
                               .cols = hidden,
                               .stride = hidden};
    return IC_OK;
}

static int make_scores(ic_session *s, ic_error *e)
{
    const ic_text_config *t = &s->engine->config.text;
    int64_t rows = s->config.window, cols = (int64_t)t->heads * t->head_dim;
    float smooth = s->config.smooth_pct > 0 ? (float)s->config.smooth_pct / 100.0f : 0.0f;
    ic_score_kind kind = ic_policy_score(&s->config);
    int rc = ic_slab_keep_scores(s->slab, kind, smooth, e);
    if (rc || !ic_score_is_windowed(kind))
        return rc;
    s->window_data = ic_device_alloc(s->engine->device, window_bytes(s->engine, &s->config));
    if (!s->window_data)
        return ic_error_set(e, IC_ENOMEM, "no memory for the queries of a window of %d", (int)rows);
    s->window = ic_calloc(2 * (size_t)t->layers, sizeof *s->window);
    for (int i = 0; i < t->layers * (has_questions(&s->config) ? 2 : 1); i++)
        s->window[i] = (ic_mat){.data = (float *)s->window_data + i * rows * cols,
                                .dtype = IC_F32,
                                .rows = rows,
                                .cols = cols,
                                .stride = cols};
    s->asked = has_questions(&s->config) ? s->window + t->layers : NULL;
    return IC_OK;
}

int ic_session_new(ic_session **out, ic_engine *engine, const ic_session_config *config,
                   ic_error *e)
{
    *out = NULL;
    int rc = ic_session_config_check(engine, config, e);
    if (rc)
        return rc;
    ic_session *s = ic_alloc(sizeof *s);
    s->engine = engine;
    s->config = *config;
    s->config.group_tokens_max = ic_session_group_tokens(engine, config);
    ic_session_config_settle(&s->config);
    s->policy = ic_policy_find(config->policy);
    s->grammar = ic_grammar_state_new(engine->grammar);
    s->seen = ic_alloc(seen_bytes(engine));
    s->answer.last = s->answer.entered = -1;
    s->clock.stride = 1;
    ic_slab_desc desc = ic_session_slab_desc(engine, config);
    rc = ic_slab_new(&s->slab, engine->device, &desc, e);
    if (!rc && s->config.positions == IC_POSITIONS_ORIGINAL)
        ic_slab_keep_positions(s->slab);
    if (!rc)
        rc = make_levels(s, e);
    if (!rc)
        rc = make_scores(s, e);
    if (!rc)
        rc = reserve(s, &desc, e);
    if (rc)
        ic_session_destroy(&s);
    *out = s;
    return rc;
}

void ic_input_fini(ic_input *in)
{
    ic_free(in->text);
    for (int i = 0; i < IC_FRAMES_MAX; i++)
        ic_frame_unref(&in->frame[i]);
    *in = (ic_input){0};
}

/* One that is there twice, to complete a pair, counts once. */
static bool is_own_frame(const ic_input *in, int i)
{
    return in->frame[i] && (i == 0 || in->frame[i] != in->frame[i - 1]);
}

uint64_t ic_input_bytes(const ic_input *in)
{
    uint64_t bytes = 0;
    for (int i = 0; i < IC_FRAMES_MAX; i++)
        bytes += is_own_frame(in, i) ? in->frame[i]->bytes : 0;
    return bytes;
}

int ic_input_frames(const ic_input *in)
{
    int frames = 0;
    for (int i = 0; i < IC_FRAMES_MAX; i++)
        frames += is_own_frame(in, i);
    return frames;
}

void ic_session_destroy(ic_session **s_p)
{
    ic_session *s = *s_p;
    if (!s)
        return;
    *s_p = NULL;
    for (int i = 0; i < s->queue_count; i++)
        ic_input_fini(&s->queue[i]);
    ic_free(s->queue);
    ic_input_fini(&s->half);
    ic_input_fini(&s->current);
    ic_grammar_rows_fini(&s->rows);
    ic_grammar_state_destroy(&s->grammar);
    ic_slab_destroy(&s->slab);
    ic_device_free(s->engine->device, s->level_data);
    ic_device_free(s->engine->device, s->window_data);
    ic_free(s->window);
    ic_free(s->answer.forced);
    ic_free(s->seen);
    ic_free(s);
}

const ic_session_config *ic_session_config_of(const ic_session *s)
{
    return &s->config;
}

ic_slab *ic_session_slab(ic_session *s)
{
    return s->slab;
}

/* --- input --------------------------------------------------------------------------------------
 */

static ic_input *push(ic_session *s, ic_input_kind kind)
{
    if (s->queue_count == s->queue_capacity) {
        s->queue_capacity = s->queue_capacity ? 2 * s->queue_capacity : 8;
        s->queue = ic_realloc(s->queue, (size_t)s->queue_capacity * sizeof *s->queue);
    }
    ic_input *in = &s->queue[s->queue_count++];
    *in = (ic_input){.kind = kind};
    return in;
}

/* A half pair is completed as the processor pads a clip of odd length: with its last frame. */
static void complete_pair(ic_session *s)
{
    if (!s->half.frame[0])
        return;
    *push(s, IC_INPUT_GROUP) = s->half;
    ic_input *in = &s->queue[s->queue_count - 1];
    if (s->engine->info.temporal == 2 && !in->frame[1])
        in->frame[1] = ic_frame_ref(in->frame[0]);
    s->half = (ic_input){0};
}

static int check_text(const char *text, ic_error *e)
{
    if (strnlen(text, TEXT_MAX + 1) > TEXT_MAX)
        return ic_error_set(e, IC_ELIMIT, "a text of more than %d bytes", TEXT_MAX);
    return IC_OK;
}

int ic_session_system(ic_session *s, const char *text, ic_error *e)
{
    int rc = check_text(text, e);
    if (rc)
        return rc;
    if (s->stats.tokens || s->queue_count || s->open || s->half.frame[0])
        return ic_error_set(e, IC_EINVAL, "the system text must come before everything else");
    push(s, IC_INPUT_SYSTEM)->text = ic_strdup(text);
    return IC_OK;
}

int ic_session_text(ic_session *s, const char *text, ic_error *e)
{
    int rc = check_text(text, e);
    if (rc)
        return rc;
    complete_pair(s);
    if (text[0])
        push(s, IC_INPUT_TEXT)->text = ic_strdup(text);
    return IC_OK;
}

static uint64_t waiting_bytes(const ic_session *s)
{
    uint64_t bytes = ic_input_bytes(&s->half) + ic_input_bytes(&s->current);
    for (int i = 0; i < s->queue_count; i++)
        bytes += ic_input_bytes(&s->queue[i]);
    return bytes;
}

static int waiting_groups(const ic_session *s)
{
    int groups = s->half.frame[0] != NULL;
    groups += s->open && s->current.frame[0] && !s->encoded;
    for (int i = 0; i < s->queue_count; i++)
        groups += s->queue[i].frame[0] != NULL;
    return groups;
}

static int check_frame(const ic_session *s, const ic_frame *f, const ic_grid *g, ic_error *e)
{
    int side = s->engine->info.patch_pixels;
    if (g->tokens_w < 1 || g->tokens_h < 1 || g->tokens_w > UINT16_MAX || g->tokens_h > UINT16_MAX
        || g->width != g->tokens_w * side || g->height != g->tokens_h * side)
        return ic_error_set(e, IC_EINVAL, "a grid of %d x %d tokens does not fit %d x %d pixels",
                            g->tokens_w, g->tokens_h, g->width, g->height);
    if (f->width != g->width || f->height != g->height)
        return ic_error_set(e, IC_EINVAL, "a frame of %d x %d for a grid of %d x %d", f->width,
                            f->height, g->width, g->height);
    if ((int64_t)g->tokens_w * g->tokens_h > s->config.group_tokens_max)
        return ic_error_set(e, IC_ELIMIT,
                            "frames of %d x %d tokens: this session takes %d at most; use a "
                            "smaller frame_tokens",
                            g->tokens_w, g->tokens_h, s->config.group_tokens_max);
    return IC_OK;
}

/* The frame is refused for now only if some that came before can make room by being encoded. */
static bool must_wait(const ic_session *s, const ic_frame *f)
{
    bool others = s->queue_count > 0 || s->open;
    return others && waiting_bytes(s) + f->bytes > s->config.pending_bytes_max;
}

/* *out is the frame, if it can be queued. It stays the caller's only if it must wait. */
static int take_in(const ic_session *s, ic_frame **frame, const ic_grid *grid, ic_frame **out,
                   ic_error *e)
{
    int rc = check_frame(s, *frame, grid, e);
    if (!rc && must_wait(s, *frame))
        return ic_error_set(e, IC_EAGAIN, "%llu bytes of frames wait already",
                            (unsigned long long)waiting_bytes(s));
    if (rc) {
        ic_frame_unref(frame);
        return rc;
    }
    *out = *frame;
    *frame = NULL;
    return IC_OK;
}

int ic_session_frame(ic_session *s, ic_frame **frame, const ic_grid *grid, ic_error *e)
{
    ic_frame *f = NULL;
    int rc = take_in(s, frame, grid, &f, e);
    if (rc)
        return rc;
    if (s->half.frame[0] && memcmp(&s->half.grid, grid, sizeof *grid) != 0)
        complete_pair(s); /* another picture size: another source */
    s->stats.frames++;
    if (!s->half.frame[0]) {
        s->half = (ic_input){.kind = IC_INPUT_GROUP, .frame = {f}, .grid = *grid};
        if (s->engine->info.temporal > 1)
            return IC_OK;
    } else {
        s->half.frame[1] = f;
    }
    complete_pair(s);
    return IC_OK;
}

int ic_session_frames_end(ic_session *s, ic_error *e)
{
    (void)e;
    complete_pair(s);
    return IC_OK;
}

int ic_session_image(ic_session *s, ic_frame **frame, const ic_grid *grid, ic_error *e)
{
    ic_frame *f = NULL;
    int rc = take_in(s, frame, grid, &f, e);
    if (rc)
        return rc;
    complete_pair(s);
    s->stats.frames++;
    ic_input *in = push(s, IC_INPUT_IMAGE);
    in->grid = *grid;
    in->frame[0] = f;
    if (s->engine->info.temporal == 2)
        in->frame[1] = ic_frame_ref(f);
    return IC_OK;
}

/* The answer that is going on or waits: an ask in the queue whose end has not been told, or NULL.
 */
static ic_input *waiting_ask(const ic_session *s)
{
    for (int i = 0; i < s->queue_count; i++) {
        if (s->queue[i].kind == IC_INPUT_ASK && !s->queue[i].told)
            return &s->queue[i];
    }
    return NULL;
}

static bool is_answering(const ic_session *s)
{
    bool begun = s->answer.phase == IC_ANSWER_PROMPT || s->answer.phase == IC_ANSWER_DECODING;
    return begun && !s->answer.told;
}

int ic_session_raw(ic_session *s, const char *text, ic_error *e)
{
    int rc = check_text(text, e);
    if (rc)
        return rc;
    if (s->turn_open || s->half.frame[0] || waiting_ask(s))
        return ic_error_set(e, IC_EBUSY, "a turn is open: plain text comes before it or behind it");
    if (text[0])
        push(s, IC_INPUT_RAW)->text = ic_strdup(text);
    return IC_OK;
}

int ic_session_ask(ic_session *s, const char *text, const ic_sampling *sampling, ic_error *e)
{
    int rc = check_text(text, e);
    if (!rc)
        rc = ic_sampling_check(sampling, e);
    if (rc)
        return rc;
    if (is_answering(s) || waiting_ask(s))
        return ic_error_set(e, IC_EBUSY, "an answer is going on; cancel it or wait for its end");
    complete_pair(s);
    ic_input *in = push(s, IC_INPUT_ASK);
    in->text = ic_strdup(text);
    in->sampling = *sampling;
    if (in->sampling.max_tokens == 0)
        in->sampling.max_tokens = s->engine->info.sampling.max_tokens;
    return IC_OK;
}

int ic_session_force(ic_session *s, const int32_t *tokens, int count, ic_error *e)
{
    ic_answer *a = &s->answer;
    if (!is_answering(s) && !waiting_ask(s))
        return ic_error_set(e, IC_EINVAL, "no answer is going on that could have forced tokens");
    if (count < 0 || count > FORCED_MAX - a->forced_count)
        return ic_error_set(e, IC_ELIMIT, "more than %d forced tokens", FORCED_MAX);
    for (int i = 0; i < count; i++) {
        if (tokens[i] < 0 || tokens[i] >= s->engine->config.text.vocab)
            return ic_error_set(e, IC_EINVAL, "forced token %d is not in the vocabulary",
                                tokens[i]);
    }
    if (count == 0)
        return IC_OK;
    a->forced = ic_realloc(a->forced, (size_t)(a->forced_count + count) * sizeof *a->forced);
    memcpy(a->forced + a->forced_count, tokens, (size_t)count * sizeof *tokens);
    a->forced_count += count;
    return IC_OK;
}

int ic_session_cancel(ic_session *s)
{
    ic_input *ask = waiting_ask(s);
    if (is_answering(s))
        s->answer.cancelled = true;
    else if (ask)
        ask->cancelled = true;
    return IC_OK;
}

/* --- what it is doing ---------------------------------------------------------------------------
 */

void ic_session_stats_of(const ic_session *s, ic_session_stats *stats)
{
    *stats = s->stats;
    stats->cache_used = ic_slab_used(s->slab);
    stats->cache_tokens = s->config.cache_tokens;
    stats->cache_slots = ic_slab_desc_of(s->slab)->slots;
    stats->pending_rows = s->open ? s->rows.count - s->at : 0;
    stats->pending_groups = waiting_groups(s);
    stats->pending_bytes = waiting_bytes(s);
    stats->answering = is_answering(s) || waiting_ask(s) != NULL;
    stats->decoding = s->answer.phase == IC_ANSWER_DECODING && !s->answer.told;
    stats->answer_tokens = (int)s->answer.tokens;
}

bool ic_session_is_ready(const ic_session *s)
{
    return s->open || s->answer.last >= 0 || s->answer.phase == IC_ANSWER_CLOSING
           || s->queue_count > 0;
}
