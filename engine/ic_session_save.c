/* A session as bytes. Little-endian; the cache's rows go apart (ic_slab_save_rows), everything else
 * is here. On load nothing is believed: every number is checked before it is used. */
/* clang-format off */
/* state:    "ICSS" version | config | counters | clock | blob seen (bitmap of the vocabulary) |
 *           blob grammar | answer | u8 has_half, input | u32 count, inputs that wait |
 *           u8 open, input going in, u32 rows, u32 at, rows | blob slot tables | scores |
 *           positions | asked | window
 * config:   blob policy | u32 cache_tokens, chunk_max, slack, pinned_max, kv_dtype,
 *           group_tokens_max | u32 count, settings in the order of ic_setting | u32 vocab
 *           (version 2: u32 cache_tokens, chunk_max, slack, sinks, pinned_max, kv_dtype,
 *           group_tokens_max, window, recent_pct, bias_pct, smooth_pct, pool, per_layer, frames,
 *           vocab)
 * counters: u64 tokens, evicted_tokens, evicted_groups, frames, groups, turn |
 *           u32 prompt_tokens, cached_tokens, pinned | u8 turn_open
 * clock:    u64 base_us, last_us | u32 stride, count | count of: u32 group, u64 at_us
 *           (version 2: nothing)
 * answer:   u8 phase | sampling | u8 cancelled, told | u32 last, entered, tokens, count |
 *           forced u32
 * sampling: f32 temperature | u32 top_k | f32 top_p, repetition_penalty | u64 seed |
 *           u32 max_tokens
 * input:    u8 kind, cancelled, told | u32 tokens_w, tokens_h | sampling | u8 has_text, blob text |
 *           u8 frames (0, 1, 2; 3: one frame twice), each: frame
 * frame:    u32 width, height | u64 pts_us, ordinal | RGB
 * row:      u32 id | u8 kind, pinned | u32 group, patch
 * scores:   of a policy that keeps them: f32 per row of the slot tables, head by head
 * positions: where they are original ones: as in ic_slab_position.c
 * asked:    where questions are remembered: u32 queries of theirs, where the next goes; then per
 *           layer so many times heads * head_dim f32
 * window:   of a policy that has one: u32 queries of it that have come, then those as above */
/* clang-format on */
#include <math.h>
#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_session_priv.h"

enum {
    MAGIC = 0x53534349, /* "ICSS" */
    FRAMES_BYTES_MAX = 16 << 20,
    QUEUE_MAX = 4096,
    ROW_BYTES = 14,
    COUNT_MAX = 1 << 26
};

/* --- writing ------------------------------------------------------------------------------------
 */

static void save_sampling(const ic_sampling *s, ic_buf *b)
{
    ic_buf_f32(b, s->temperature);
    ic_buf_u32(b, (uint32_t)s->top_k);
    ic_buf_f32(b, s->top_p);
    ic_buf_f32(b, s->repetition_penalty);
    ic_buf_u64(b, s->seed);
    ic_buf_u32(b, (uint32_t)s->max_tokens);
}

static void save_frame(const ic_frame *f, ic_buf *b)
{
    ic_buf_u32(b, (uint32_t)f->width);
    ic_buf_u32(b, (uint32_t)f->height);
    ic_buf_u64(b, (uint64_t)f->pts_us);
    ic_buf_u64(b, f->ordinal);
    ic_buf_append(b, f->rgb, f->bytes);
}

/* frames: 0 none, 1 one, 2 two, 3 the same one twice */
static void save_input(const ic_input *in, ic_buf *b)
{
    bool same = in->frame[0] && in->frame[0] == in->frame[1];
    uint8_t frames = same ? 3 : (uint8_t)((in->frame[0] != NULL) + (in->frame[1] != NULL));
    ic_buf_u8(b, (uint8_t)in->kind);
    ic_buf_u8(b, in->cancelled);
    ic_buf_u8(b, in->told);
    ic_buf_u32(b, (uint32_t)in->grid.tokens_w);
    ic_buf_u32(b, (uint32_t)in->grid.tokens_h);
    save_sampling(&in->sampling, b);
    ic_buf_u8(b, in->text != NULL);
    if (in->text)
        ic_buf_blob(b, in->text, (uint32_t)strlen(in->text));
    ic_buf_u8(b, frames);
    if (frames)
        save_frame(in->frame[0], b);
    if (frames == 2)
        save_frame(in->frame[1], b);
}

/* The u64 counters, in the order of the format; all are uint64_t. */
static const size_t wide[] = {
    offsetof(ic_session_stats, tokens),         offsetof(ic_session_stats, evicted_tokens),
    offsetof(ic_session_stats, evicted_groups), offsetof(ic_session_stats, frames),
    offsetof(ic_session_stats, groups),         offsetof(ic_session_stats, turn)};

static void save_counters(const ic_session *s, ic_buf *b)
{
    const ic_session_stats *t = &s->stats;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        ic_buf_u64(b, *(const uint64_t *)((const char *)t + wide[i]));
    ic_buf_u32(b, (uint32_t)t->prompt_tokens);
    ic_buf_u32(b, (uint32_t)t->cached_tokens);
    ic_buf_u32(b, (uint32_t)s->pinned);
    ic_buf_u8(b, s->turn_open);
}

static void save_config(const ic_session *s, ic_buf *b)
{
    const ic_session_config *c = &s->config;
    const int numbers[] = {c->cache_tokens, c->chunk_max,     c->slack,
                           c->pinned_max,   (int)c->kv_dtype, c->group_tokens_max};
    ic_buf_blob(b, c->policy, (uint32_t)strlen(c->policy));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        ic_buf_u32(b, (uint32_t)numbers[i]);
    ic_session_config_save_settings(c, b);
    ic_buf_u32(b, (uint32_t)s->engine->config.text.vocab);
}

static void save_answer(const ic_answer *a, ic_buf *b)
{
    ic_buf_u8(b, (uint8_t)a->phase);
    save_sampling(&a->sampling, b);
    ic_buf_u8(b, a->cancelled);
    ic_buf_u8(b, a->told);
    ic_buf_u32(b, (uint32_t)a->last);
    ic_buf_u32(b, (uint32_t)a->entered);
    ic_buf_u32(b, a->tokens);
    ic_buf_u32(b, (uint32_t)(a->forced_count - a->forced_at));
    for (int i = a->forced_at; i < a->forced_count; i++)
        ic_buf_u32(b, (uint32_t)a->forced[i]);
}

static void save_current(const ic_session *s, ic_buf *b)
{
    ic_buf_u8(b, s->open);
    if (!s->open)
        return;
    save_input(&s->current, b);
    ic_buf_u32(b, (uint32_t)s->rows.count);
    ic_buf_u32(b, (uint32_t)s->at);
    for (int i = 0; i < s->rows.count; i++) {
        const ic_grammar_row *r = &s->rows.row[i];
        ic_buf_u32(b, (uint32_t)r->id);
        ic_buf_u8(b, r->kind);
        ic_buf_u8(b, r->pinned);
        ic_buf_u32(b, r->group);
        ic_buf_u32(b, (uint32_t)r->patch);
    }
}

static void save_queries(const ic_session *s, const ic_mat *layer, int rows, ic_buf *b)
{
    size_t bytes = (size_t)rows * (size_t)layer[0].cols * sizeof(float);
    for (int i = 0; rows && i < s->engine->config.text.layers; i++) {
        if (ic_buf_reserve(b, bytes))
            return;
        int rc = ic_device_download(s->engine->device, b->data + b->size, layer[i].data, bytes);
        if (rc)
            b->status = rc;
        b->size += bytes;
    }
}

static void save_window(const ic_session *s, ic_buf *b)
{
    if (!s->window)
        return;
    if (s->asked) {
        ic_buf_u32(b, (uint32_t)s->asked_rows);
        ic_buf_u32(b, (uint32_t)s->asked_next);
        save_queries(s, s->asked, s->asked_rows, b);
    }
    int held = ic_chunk_window_held(s);
    ic_buf_u32(b, (uint32_t)held);
    save_queries(s, s->window, held, b);
}

static uint64_t frame_bytes(const ic_session *s)
{
    uint64_t bytes = ic_input_bytes(&s->half) + ic_input_bytes(&s->current);
    for (int i = 0; i < s->queue_count; i++)
        bytes += ic_input_bytes(&s->queue[i]);
    return bytes;
}

int ic_session_save_state(const ic_session *s, ic_buf *out, ic_error *e)
{
    if (frame_bytes(s) > FRAMES_BYTES_MAX || s->queue_count > QUEUE_MAX)
        return ic_error_set(e, IC_EBUSY, "%d inputs and %llu bytes of frames still wait to go in",
                            s->queue_count, (unsigned long long)frame_bytes(s));
    ic_buf_u32(out, MAGIC);
    ic_buf_u32(out, IC_SESSION_STATE_VERSION);
    save_config(s, out);
    save_counters(s, out);
    ic_stream_clock_save(&s->clock, out);
    ic_buf_blob(out, s->seen, (uint32_t)((s->engine->config.text.vocab + 7) / 8));
    ic_buf grammar, tables;
    ic_buf_init(&grammar, 0);
    ic_buf_init(&tables, 0);
    ic_grammar_state_save(s->grammar, &grammar);
    ic_slab_save_tables(s->slab, &tables);
    int rc = grammar.status ? grammar.status : tables.status;
    ic_buf_blob(out, grammar.data, (uint32_t)grammar.size);
    save_answer(&s->answer, out);
    ic_buf_u8(out, s->half.frame[0] != NULL);
    if (s->half.frame[0])
        save_input(&s->half, out);
    ic_buf_u32(out, (uint32_t)s->queue_count);
    for (int i = 0; i < s->queue_count; i++)
        save_input(&s->queue[i], out);
    save_current(s, out);
    ic_buf_blob(out, tables.data, (uint32_t)tables.size);
    ic_slab_save_scores(s->slab, out);
    ic_slab_save_positions(s->slab, out);
    save_window(s, out);
    ic_buf_fini(&grammar);
    ic_buf_fini(&tables);
    rc = rc ? rc : out->status;
    return rc ? ic_error_set(e, rc, "the session's state does not fit in memory") : IC_OK;
}

int ic_session_save_rows(const ic_session *s, bool all, uint64_t *cursor, size_t max_bytes,
                         ic_buf *out, bool *more)
{
    return ic_slab_save_rows(s->slab, all, cursor, max_bytes, out, more);
}

void ic_session_begin_save(ic_session *s)
{
    ic_slab_begin_save(s->slab);
}

int ic_session_save_rest(const ic_session *s, bool all, size_t max_bytes, ic_buf *out, bool *more)
{
    return ic_slab_save_rest(s->slab, all, max_bytes, out, more);
}

void ic_session_mark_saved(ic_session *s)
{
    ic_slab_mark_saved(s->slab);
}

uint64_t ic_session_live_bytes(const ic_session *s)
{
    return ic_slab_row_bytes_live(s->slab);
}

/* --- reading ------------------------------------------------------------------------------------
 */

typedef struct reader {
    ic_cursor c;
    ic_error *e;
    int vocab;
    uint32_t version;
} reader;

static int garbled(reader *r, const char *what)
{
    return ic_error_set(r->e, IC_EFORMAT, "a session's state is damaged: %s", what);
}

/* A number in low .. high; anything else makes the cursor fail. */
static int take_int(reader *r, int low, int high)
{
    int32_t v = (int32_t)ic_cursor_u32(&r->c);
    if (v < low || v > high) {
        r->c.status = IC_EFORMAT;
        return low;
    }
    return v;
}

static bool take_bool(reader *r)
{
    uint8_t v = ic_cursor_u8(&r->c);
    if (v > 1)
        r->c.status = IC_EFORMAT;
    return v == 1;
}

static ic_sampling load_sampling(reader *r)
{
    ic_sampling s = {.temperature = ic_cursor_f32(&r->c)};
    s.top_k = (int32_t)ic_cursor_u32(&r->c);
    s.top_p = ic_cursor_f32(&r->c);
    s.repetition_penalty = ic_cursor_f32(&r->c);
    s.seed = ic_cursor_u64(&r->c);
    s.max_tokens = (int32_t)ic_cursor_u32(&r->c);
    return s;
}

static int load_frame(reader *r, const ic_input *in, ic_frame **out)
{
    int width = take_int(r, 1, 16384), height = take_int(r, 1, 16384);
    uint64_t pts = ic_cursor_u64(&r->c), ordinal = ic_cursor_u64(&r->c);
    const void *rgb = ic_cursor_bytes(&r->c, (size_t)3 * (size_t)width * (size_t)height);
    if (r->c.status || !rgb || width != in->grid.width || height != in->grid.height)
        return garbled(r, "a frame");
    if (pts > (uint64_t)1 << 62)
        return garbled(r, "a frame's time");
    *out = ic_frame_new(width, height);
    if (!*out)
        return ic_error_set(r->e, IC_ENOMEM, "no memory for a frame of %d x %d", width, height);
    memcpy((*out)->rgb, rgb, (*out)->bytes);
    (*out)->pts_us = (int64_t)pts;
    (*out)->ordinal = ordinal;
    return IC_OK;
}

static int load_text(reader *r, ic_input *in)
{
    uint32_t bytes = 0;
    const char *text = ic_cursor_blob(&r->c, &bytes);
    if (r->c.status || (bytes && memchr(text, 0, bytes)))
        return garbled(r, "a text");
    in->text = ic_try_calloc((size_t)bytes + 1, 1);
    if (!in->text)
        return ic_error_set(r->e, IC_ENOMEM, "no memory for a text of %u bytes", bytes);
    if (bytes)
        memcpy(in->text, text, bytes);
    return IC_OK;
}

static int load_frames(const ic_session *s, reader *r, ic_input *in)
{
    int frames = ic_cursor_u8(&r->c), side = s->engine->info.patch_pixels;
    bool picture = in->kind == IC_INPUT_GROUP || in->kind == IC_INPUT_IMAGE;
    if (frames > 3 || (frames != 0) != picture || (frames > 1 && s->engine->info.temporal == 1))
        return garbled(r, "frames of an input");
    if (!frames)
        return IC_OK;
    if (in->grid.tokens_w < 1 || in->grid.tokens_h < 1
        || (int64_t)in->grid.tokens_w * in->grid.tokens_h > s->config.group_tokens_max)
        return garbled(r, "a grid");
    in->grid.width = in->grid.tokens_w * side;
    in->grid.height = in->grid.tokens_h * side;
    int rc = load_frame(r, in, &in->frame[0]);
    if (!rc && frames == 2)
        rc = load_frame(r, in, &in->frame[1]);
    if (!rc && frames == 3)
        in->frame[1] = ic_frame_ref(in->frame[0]);
    return rc;
}

/* Fills *in, which the caller finishes whatever happens. */
static int load_input(const ic_session *s, reader *r, ic_input *in)
{
    *in = (ic_input){0};
    uint8_t kind = ic_cursor_u8(&r->c);
    if (kind >= IC_INPUT_KINDS)
        return garbled(r, "an input of unknown kind");
    in->kind = (ic_input_kind)kind;
    in->cancelled = take_bool(r);
    in->told = take_bool(r);
    in->grid.tokens_w = take_int(r, 0, UINT16_MAX);
    in->grid.tokens_h = take_int(r, 0, UINT16_MAX);
    in->sampling = load_sampling(r);
    int rc = take_bool(r) ? load_text(r, in) : IC_OK;
    if (!rc)
        rc = load_frames(s, r, in);
    if (rc)
        return rc;
    bool texts = in->kind == IC_INPUT_SYSTEM || in->kind == IC_INPUT_TEXT
                 || in->kind == IC_INPUT_ASK || in->kind == IC_INPUT_RAW;
    if (r->c.status || texts != (in->text != NULL))
        return garbled(r, "an input");
    if (in->kind == IC_INPUT_ASK
        && (ic_sampling_check(&in->sampling, r->e) || in->sampling.max_tokens < 1))
        return garbled(r, "the settings of an answer");
    return IC_OK;
}

/* Version 2 had its settings without a count, and the sinks among the numbers before them. */
static void load_config_old(reader *r, ic_session_config *was)
{
    int *numbers[] = {&was->cache_tokens, &was->chunk_max, &was->slack, &was->sinks,
                      &was->pinned_max};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        *numbers[i] = (int)ic_cursor_u32(&r->c);
    was->kv_dtype = (ic_dtype)ic_cursor_u32(&r->c);
    int *settings[] = {&was->group_tokens_max, &was->window, &was->recent_pct, &was->bias_pct,
                       &was->smooth_pct,       &was->pool,   &was->per_layer,  &was->frames};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        *settings[i] = (int)ic_cursor_u32(&r->c);
}

static int load_config_new(reader *r, ic_session_config *was)
{
    was->cache_tokens = (int)ic_cursor_u32(&r->c);
    was->chunk_max = (int)ic_cursor_u32(&r->c);
    was->slack = (int)ic_cursor_u32(&r->c);
    was->pinned_max = (int)ic_cursor_u32(&r->c);
    was->kv_dtype = (ic_dtype)ic_cursor_u32(&r->c);
    was->group_tokens_max = (int)ic_cursor_u32(&r->c);
    return ic_session_config_load_settings(was, &r->c, r->e);
}

static int load_config(const ic_session *s, reader *r)
{
    ic_session_config was = {0};
    uint32_t bytes = 0;
    int rc = IC_OK;
    const char *policy = ic_cursor_blob(&r->c, &bytes);
    if (!policy || bytes >= sizeof was.policy)
        return garbled(r, "its configuration");
    memcpy(was.policy, policy, bytes);
    ic_session_config_forget_later(&was);
    if (r->version == IC_SESSION_STATE_OLDEST)
        load_config_old(r, &was);
    else
        rc = load_config_new(r, &was);
    if (rc)
        return rc;
    bool vocab = ic_cursor_u32(&r->c) == (uint32_t)r->vocab;
    if (r->c.status)
        return garbled(r, "its configuration");
    char differs[IC_ERROR_TEXT];
    ic_session_config_differ(&was, &s->config, differs, sizeof differs);
    if (differs[0])
        return ic_error_set(r->e, IC_EMISMATCH, "the state was saved under other settings: %s",
                            differs);
    return vocab ? IC_OK
                 : ic_error_set(r->e, IC_EMISMATCH, "the state was saved under another model");
}

static int load_counters(ic_session *s, reader *r)
{
    ic_session_stats *t = &s->stats;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        *(uint64_t *)((char *)t + wide[i]) = ic_cursor_u64(&r->c);
    t->prompt_tokens = take_int(r, 0, INT32_MAX);
    t->cached_tokens = take_int(r, 0, INT32_MAX);
    s->pinned = take_int(r, 0, s->config.pinned_max);
    s->turn_open = take_bool(r);
    if (t->tokens > UINT32_MAX / 2)
        return garbled(r, "its token count");
    if (r->version > IC_SESSION_STATE_OLDEST && !ic_stream_clock_load(&s->clock, &r->c))
        return garbled(r, "its clock");
    uint32_t bytes = 0;
    const void *seen = ic_cursor_blob(&r->c, &bytes);
    if (r->c.status || bytes != (uint32_t)((r->vocab + 7) / 8))
        return garbled(r, "its counters");
    memcpy(s->seen, seen, bytes);
    return IC_OK;
}

static int load_grammar(ic_session *s, reader *r)
{
    uint32_t bytes = 0;
    const void *data = ic_cursor_blob(&r->c, &bytes);
    if (r->c.status)
        return garbled(r, "its grammar");
    ic_cursor c;
    ic_cursor_init(&c, data, bytes);
    int rc = ic_grammar_state_load(s->grammar, &c, r->e);
    if (!rc && ic_cursor_left(&c))
        rc = garbled(r, "bytes behind its grammar");
    return rc;
}

static int load_answer(ic_session *s, reader *r)
{
    ic_answer *a = &s->answer;
    uint8_t phase = ic_cursor_u8(&r->c);
    if (phase >= IC_ANSWER_PHASES)
        return garbled(r, "an answer's phase");
    a->phase = (ic_answer_phase)phase;
    a->sampling = load_sampling(r);
    a->cancelled = take_bool(r);
    a->told = take_bool(r);
    a->last = take_int(r, -1, r->vocab - 1);
    a->entered = take_int(r, -1, r->vocab - 1);
    a->tokens = (uint32_t)take_int(r, 0, COUNT_MAX);
    int count = take_int(
        r, 0, (int)(ic_cursor_left(&r->c) / 4 < COUNT_MAX ? ic_cursor_left(&r->c) / 4 : COUNT_MAX));
    if (r->c.status)
        return garbled(r, "an answer");
    if (a->phase != IC_ANSWER_NONE
        && (ic_sampling_check(&a->sampling, r->e) || a->sampling.max_tokens < 1))
        return garbled(r, "the settings of an answer");
    a->forced = count ? ic_try_calloc((size_t)count, sizeof *a->forced) : NULL;
    if (count && !a->forced)
        return ic_error_set(r->e, IC_ENOMEM, "no memory for %d forced tokens", count);
    a->forced_count = count;
    for (int i = 0; i < count; i++)
        a->forced[i] = take_int(r, 0, r->vocab - 1);
    return r->c.status ? garbled(r, "a forced token") : IC_OK;
}

static int load_queue(ic_session *s, reader *r)
{
    int asks = 0, rc = IC_OK;
    if (take_bool(r)) {
        rc = load_input(s, r, &s->half);
        if (!rc && (s->half.kind != IC_INPUT_GROUP || s->half.frame[1]))
            rc = garbled(r, "a half pair");
    }
    if (rc)
        return rc;
    int count = take_int(r, 0, QUEUE_MAX);
    if (r->c.status)
        return garbled(r, "its queue");
    s->queue = ic_calloc((size_t)count + 1, sizeof *s->queue);
    s->queue_capacity = count + 1;
    while (!rc && s->queue_count < count) {
        ic_input *in = &s->queue[s->queue_count++];
        rc = load_input(s, r, in);
        if (rc)
            return rc;
        bool half = s->engine->info.temporal == 2 && in->frame[0] && !in->frame[1];
        asks += in->kind == IC_INPUT_ASK && !in->told;
        if (half || asks > 1 || in->kind == IC_INPUT_CLOSE || (in->told && !in->cancelled))
            rc = garbled(r, "an input that waits");
    }
    return rc;
}

static int load_row(reader *r, const ic_input *in, ic_grammar_row *row)
{
    row->id = take_int(r, 0, r->vocab - 1);
    row->kind = ic_cursor_u8(&r->c);
    row->pinned = take_bool(r);
    row->group = ic_cursor_u32(&r->c);
    row->patch = (int32_t)ic_cursor_u32(&r->c);
    bool vision = row->kind == IC_ROW_VISION;
    int32_t tokens = in->grid.tokens_w * in->grid.tokens_h;
    if (r->c.status || row->kind > IC_ROW_MARKER || row->patch >= (vision ? tokens : 0)
        || (vision && (row->patch < 0 || row->group == 0)))
        return garbled(r, "a row that waits");
    return IC_OK;
}

/* A slice takes the vision rows of an input as one run of patches that follow each other. */
static bool is_one_run(const ic_grammar_rows *rows)
{
    int expected = -1;
    for (int i = 0; i < rows->count; i++) {
        if (rows->row[i].kind != IC_ROW_VISION) {
            expected = expected >= 0 ? INT32_MAX : -1;
        } else {
            if (expected >= 0 && rows->row[i].patch != expected)
                return false;
            expected = rows->row[i].patch + 1;
        }
    }
    return true;
}

static int load_current(ic_session *s, reader *r)
{
    s->open = take_bool(r);
    if (!s->open)
        return r->c.status ? garbled(r, "its input") : IC_OK;
    int rc = load_input(s, r, &s->current);
    if (rc)
        return rc;
    if (s->engine->info.temporal == 2 && s->current.frame[0] && !s->current.frame[1])
        return garbled(r, "half a pair that goes in");
    int count = take_int(r, 1, COUNT_MAX);
    s->at = take_int(r, 0, count - 1);
    if (r->c.status || (size_t)count > ic_cursor_left(&r->c) / ROW_BYTES)
        return garbled(r, "its rows");
    s->rows.row = ic_try_calloc((size_t)count, sizeof *s->rows.row);
    if (!s->rows.row)
        return ic_error_set(r->e, IC_ENOMEM, "no memory for %d rows", count);
    s->rows.count = s->rows.capacity = count;
    for (int i = 0; !rc && i < count; i++)
        rc = load_row(r, &s->current, &s->rows.row[i]);
    if (!rc && !is_one_run(&s->rows))
        rc = garbled(r, "the order of its rows");
    return rc;
}

/* What the parts must be to each other. */
static int check_phase(const ic_session *s, reader *r)
{
    const ic_answer *a = &s->answer;
    bool ask = s->open && s->current.kind == IC_INPUT_ASK;
    bool close = s->open && s->current.kind == IC_INPUT_CLOSE;
    bool ok = false;
    if (a->phase == IC_ANSWER_NONE)
        ok = a->last < 0 && !ask && !close;
    else if (a->phase == IC_ANSWER_PROMPT)
        ok = a->last < 0 && ask;
    else if (a->phase == IC_ANSWER_DECODING)
        ok = a->last >= 0 && !s->open;
    else
        ok = a->told && (a->last < 0 || !s->open) && (!s->open || close);
    if (a->told && a->phase == IC_ANSWER_PROMPT)
        ok &= a->cancelled;
    if (a->told && a->phase == IC_ANSWER_DECODING)
        ok = false;
    if (a->phase != IC_ANSWER_NONE && a->phase != IC_ANSWER_CLOSING
        && a->tokens >= (uint32_t)a->sampling.max_tokens)
        ok = false;
    return ok ? IC_OK : garbled(r, "an answer that cannot be");
}

/* One head's rows against what the session says of itself. */
static bool is_plausible_head(const ic_session *s, int layer, int kv_head, ic_row *rows)
{
    int count = ic_slab_count(s->slab, layer, kv_head), pinned = 0;
    ic_slab_rows(s->slab, layer, kv_head, rows, NULL, NULL);
    for (int i = 0; i < count; i++)
        pinned += rows[i].pinned;
    return pinned <= s->pinned && (count == 0 || rows[count - 1].ordinal < s->stats.tokens);
}

static int check_tables(const ic_session *s, reader *r)
{
    const ic_slab_desc *d = ic_slab_desc_of(s->slab);
    ic_row *rows = ic_try_calloc((size_t)d->slots, sizeof *rows);
    if (!rows)
        return ic_error_set(r->e, IC_ENOMEM, "no memory to check %d rows", d->slots);
    bool ok = true;
    for (int head = 0; ok && head < d->layers * d->kv_heads; head++)
        ok = is_plausible_head(s, head / d->kv_heads, head % d->kv_heads, rows);
    ic_free(rows);
    return ok ? IC_OK : garbled(r, "rows that it cannot have");
}

static int load_tables(ic_session *s, reader *r)
{
    uint32_t bytes = 0;
    const void *tables = ic_cursor_blob(&r->c, &bytes);
    if (r->c.status)
        return garbled(r, "its tables");
    ic_cursor c;
    ic_cursor_init(&c, tables, bytes);
    int rc = ic_slab_load_tables(s->slab, &c, r->e);
    if (!rc && ic_cursor_left(&c))
        rc = garbled(r, "bytes behind its tables");
    if (!rc)
        rc = check_tables(s, r);
    if (!rc)
        ic_chunk_count_evicted(s); /* former builds counted otherwise */
    return rc;
}

static int load_queries(const ic_session *s, reader *r, const ic_mat *layer, int rows)
{
    size_t count = (size_t)rows * (size_t)layer[0].cols;
    for (int i = 0; rows && i < s->engine->config.text.layers; i++) {
        const void *queries = ic_cursor_bytes(&r->c, count * sizeof(float));
        if (r->c.status || !queries)
            return garbled(r, "its window");
        for (size_t n = 0; n < count; n++) {
            float q;
            memcpy(&q, (const char *)queries + n * sizeof q, sizeof q);
            if (!isfinite(q))
                return garbled(r, "a query of its window");
        }
        int rc = ic_device_upload(s->engine->device, layer[i].data, queries, count * sizeof(float));
        if (rc)
            return ic_error_set(r->e, rc, "the device refused the queries of a window");
    }
    return IC_OK;
}

static int load_asked(ic_session *s, reader *r)
{
    int most = s->config.window;
    s->asked_rows = take_int(r, 0, most);
    s->asked_next = take_int(r, 0, most - 1);
    if (r->c.status || (s->asked_rows < most && s->asked_next != s->asked_rows))
        return garbled(r, "its questions");
    return load_queries(s, r, s->asked, s->asked_rows);
}

static int load_window(ic_session *s, reader *r)
{
    if (!s->window)
        return IC_OK;
    int rc = s->asked ? load_asked(s, r) : IC_OK; /* the window depends on what was asked */
    if (rc)
        return rc;
    int held = ic_chunk_window_held(s);
    bool ok = take_int(r, held, held) == held && !r->c.status;
    const ic_slab_desc *d = ic_slab_desc_of(s->slab);
    for (int head = 0; head < d->layers * d->kv_heads; head++)
        ok &= ic_slab_count(s->slab, head / d->kv_heads, head % d->kv_heads) >= held;
    if (!ok)
        return garbled(r, "the length of its window");
    return load_queries(s, r, s->window, held);
}

static int load_scores(ic_session *s, reader *r)
{
    int rc = ic_slab_load_scores(s->slab, &r->c, r->e);
    if (!rc)
        rc = ic_slab_load_positions(s->slab, s->engine->info.trained_tokens, &r->c, r->e);
    if (!rc)
        rc = load_window(s, r);
    if (!rc && ic_cursor_left(&r->c))
        rc = garbled(r, "bytes behind its end");
    return rc;
}

int ic_session_load_state(ic_session *s, const void *state, size_t bytes, ic_error *e)
{
    if (s->stats.tokens || s->queue_count || s->open || s->loading)
        return ic_error_set(e, IC_EINVAL, "a state can be loaded into a new session only");
    s->loading = true;
    reader r = {.e = e, .vocab = s->engine->config.text.vocab};
    ic_cursor_init(&r.c, state, bytes);
    if (ic_cursor_u32(&r.c) != MAGIC)
        return garbled(&r, "it does not begin as one");
    r.version = ic_cursor_u32(&r.c);
    if (r.version < IC_SESSION_STATE_OLDEST || r.version > IC_SESSION_STATE_VERSION)
        return ic_error_set(e, IC_EVERSION,
                            "a session's state of version %u; this build reads %d to %d", r.version,
                            IC_SESSION_STATE_OLDEST, IC_SESSION_STATE_VERSION);
    int rc = load_config(s, &r);
    if (!rc)
        rc = load_counters(s, &r);
    if (!rc)
        rc = load_grammar(s, &r);
    if (!rc)
        rc = load_answer(s, &r);
    if (!rc)
        rc = load_queue(s, &r);
    if (!rc)
        rc = load_current(s, &r);
    if (!rc)
        rc = check_phase(s, &r);
    if (!rc)
        rc = load_tables(s, &r);
    return rc ? rc : load_scores(s, &r);
}

int ic_session_load_rows(ic_session *s, const void *piece, size_t bytes, ic_error *e)
{
    return ic_slab_load_rows(s->slab, piece, bytes, e);
}

int ic_session_load_finish(ic_session *s, ic_error *e)
{
    int rc = ic_slab_load_finish(s->slab, e);
    if (!rc)
        s->loading = false;
    return rc;
}
