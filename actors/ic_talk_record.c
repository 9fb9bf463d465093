#include "actors/ic_talk_record.h"

#include <stdio.h>
#include <string.h>

#include "base/ic_mem.h"

enum {
    VERSION = 1,        /* of journal records */
    CONFIG_VERSION = 2, /* version 1 left the settings of the cache's policy to the policy */
    READING_VERSION = 1,
    HEAD_VERSION = 4 /* version 1 did not say what the session was made with, version 2 not what
                        it held and how far an open source had come, version 3 knew no answer in
                        its middle */
};

static void put_text(ic_buf *out, const char *text)
{
    ic_buf_blob(out, text, (uint32_t)strlen(text));
}

/* Caller owns; NULL when the bytes end early. */
static char *get_text(ic_cursor *c)
{
    uint32_t count;
    const char *bytes = ic_cursor_blob(c, &count);
    return bytes ? ic_strf("%.*s", (int)count, bytes) : NULL;
}

static void get_text_into(ic_cursor *c, char *out, size_t size)
{
    char *text = get_text(c);
    snprintf(out, size, "%s", text ? text : "");
    ic_free(text);
}

static void put_sampling(ic_buf *out, const ic_sampling *s)
{
    ic_buf_f32(out, s->temperature);
    ic_buf_u32(out, (uint32_t)s->top_k);
    ic_buf_f32(out, s->top_p);
    ic_buf_f32(out, s->repetition_penalty);
    ic_buf_u64(out, s->seed);
    ic_buf_u32(out, (uint32_t)s->max_tokens);
}

static void get_sampling(ic_cursor *c, ic_sampling *s)
{
    s->temperature = ic_cursor_f32(c);
    s->top_k = (int32_t)ic_cursor_u32(c);
    s->top_p = ic_cursor_f32(c);
    s->repetition_penalty = ic_cursor_f32(c);
    s->seed = ic_cursor_u64(c);
    s->max_tokens = (int32_t)ic_cursor_u32(c);
}

/* Returns the version, 1 to `newest`, or an error. */
static int open_cursor(ic_cursor *c, const void *bytes, size_t size, int newest, const char *what,
                       ic_error *e)
{
    ic_cursor_init(c, bytes, size);
    uint8_t version = ic_cursor_u8(c);
    if (c->status || version < 1 || version > newest)
        return ic_error_set(e, c->status ? IC_EFORMAT : IC_EVERSION,
                            "%s of version %u is not known here", what, version);
    return version;
}

static int close_cursor(const ic_cursor *c, const char *what, ic_error *e)
{
    if (c->status)
        return ic_error_set(e, IC_EFORMAT, "%s ends early", what);
    return IC_OK;
}

/* --- configuration -----------------------------------------------------------------------------
 */

void ic_talk_config_fini(ic_talk_config *c)
{
    ic_free(c->system);
    *c = (ic_talk_config){0};
}

static void put_engine(ic_buf *out, const ic_session_config *s)
{
    put_text(out, s->policy);
    ic_buf_u32(out, (uint32_t)s->cache_tokens);
    ic_buf_u32(out, (uint32_t)s->chunk_max);
    ic_buf_u32(out, (uint32_t)s->slack);
    ic_buf_u32(out, (uint32_t)s->sinks);
    ic_buf_u32(out, (uint32_t)s->pinned_max);
    ic_buf_u32(out, (uint32_t)s->kv_dtype);
    ic_buf_u64(out, s->pending_bytes_max);
    ic_buf_u32(out, (uint32_t)s->group_tokens_max);
    ic_session_config_save_settings(s, out);
}

/* with_settings: they stand there; else they are what they were when they did not. */
static int get_engine(ic_cursor *in, bool with_settings, ic_session_config *s, ic_error *e)
{
    get_text_into(in, s->policy, sizeof s->policy);
    s->cache_tokens = (int)ic_cursor_u32(in);
    s->chunk_max = (int)ic_cursor_u32(in);
    s->slack = (int)ic_cursor_u32(in);
    s->sinks = (int)ic_cursor_u32(in);
    s->pinned_max = (int)ic_cursor_u32(in);
    s->kv_dtype = (ic_dtype)ic_cursor_u32(in);
    s->pending_bytes_max = ic_cursor_u64(in);
    s->group_tokens_max = (int)ic_cursor_u32(in);
    if (with_settings)
        return ic_session_config_load_settings(s, in, e);
    ic_session_config_settle_old(s);
    return IC_OK;
}

int ic_talk_config_encode(const ic_talk_config *c, ic_buf *out)
{
    ic_buf_u8(out, CONFIG_VERSION);
    put_engine(out, &c->engine);
    put_sampling(out, &c->sampling);
    ic_buf_u8(out, c->has_seed);
    put_text(out, c->model);
    ic_buf_u8(out, c->system != NULL);
    put_text(out, c->system ? c->system : "");
    return out->status;
}

int ic_talk_config_decode(ic_talk_config *c, const void *bytes, size_t size, ic_error *e)
{
    ic_cursor in;
    *c = (ic_talk_config){0};
    int rc = open_cursor(&in, bytes, size, CONFIG_VERSION, "the session's configuration", e);
    if (rc > 0)
        rc = get_engine(&in, rc > 1, &c->engine, e);
    if (rc)
        return rc;
    get_sampling(&in, &c->sampling);
    c->has_seed = ic_cursor_u8(&in);
    get_text_into(&in, c->model, sizeof c->model);
    bool has_system = ic_cursor_u8(&in);
    c->system = get_text(&in);
    if (!has_system) {
        ic_free(c->system);
        c->system = NULL;
    }
    rc = close_cursor(&in, "the session's configuration", e);
    if (rc)
        ic_talk_config_fini(c);
    return rc;
}

/* --- the journal -------------------------------------------------------------------------------
 */

void ic_talk_record_fini(ic_talk_record *r)
{
    ic_frame_unref(&r->frame);
    ic_free(r->text);
    ic_free(r->tokens);
    *r = (ic_talk_record){0};
}

static void put_frame(ic_buf *out, const ic_frame *f, const ic_grid *grid, bool detached)
{
    ic_buf_u64(out, (uint64_t)f->pts_us);
    ic_buf_u64(out, f->ordinal);
    ic_buf_u32(out, (uint32_t)grid->width);
    ic_buf_u32(out, (uint32_t)grid->height);
    ic_buf_u32(out, (uint32_t)grid->tokens_w);
    ic_buf_u32(out, (uint32_t)grid->tokens_h);
    if (!detached)
        ic_buf_append(out, f->rgb, f->bytes);
}

static int get_frame(ic_cursor *c, ic_talk_record *r)
{
    uint64_t pts = ic_cursor_u64(c), ordinal = ic_cursor_u64(c);
    r->grid.width = (int)ic_cursor_u32(c);
    r->grid.height = (int)ic_cursor_u32(c);
    r->grid.tokens_w = (int)ic_cursor_u32(c);
    r->grid.tokens_h = (int)ic_cursor_u32(c);
    if (c->status || r->grid.width <= 0 || r->grid.height <= 0)
        return IC_EFORMAT;
    r->frame = ic_frame_new(r->grid.width, r->grid.height);
    if (!r->frame)
        return IC_ENOMEM;
    r->frame->pts_us = (int64_t)pts;
    r->frame->ordinal = ordinal;
    r->detached = ic_cursor_left(c) == 0;
    if (r->detached)
        return IC_OK;
    const void *rgb = ic_cursor_bytes(c, r->frame->bytes);
    if (!rgb)
        return IC_EFORMAT;
    memcpy(r->frame->rgb, rgb, r->frame->bytes);
    return IC_OK;
}

static void put_reach(ic_buf *out, const ic_talk_reach *s)
{
    ic_buf_u64(out, s->given);
    ic_buf_u64(out, s->skipped);
    ic_buf_u64(out, s->deduplicated);
    ic_buf_u64(out, (uint64_t)s->pos_us);
}

static void get_reach(ic_cursor *c, ic_talk_reach *s)
{
    s->given = ic_cursor_u64(c);
    s->skipped = ic_cursor_u64(c);
    s->deduplicated = ic_cursor_u64(c);
    s->pos_us = (int64_t)ic_cursor_u64(c);
}

int ic_talk_record_encode(const ic_talk_record *r, ic_buf *out)
{
    ic_buf_u8(out, VERSION);
    switch (r->kind) {
    case IC_RECORD_FRAME:
    case IC_RECORD_IMAGE:
        put_frame(out, r->frame, &r->grid, r->detached);
        break;
    case IC_RECORD_FRAMES_END:
    case IC_RECORD_FORK:
        break;
    case IC_RECORD_ASK:
        ic_buf_u64(out, r->turn);
        ic_buf_append(out, r->key, sizeof r->key);
        put_sampling(out, &r->sampling);
        put_text(out, r->text);
        break;
    case IC_RECORD_START:
        ic_buf_u64(out, r->turn);
        break;
    case IC_RECORD_TOKENS:
        ic_buf_u64(out, r->turn);
        ic_buf_u32(out, (uint32_t)r->count);
        for (int i = 0; i < r->count; i++)
            ic_buf_u32(out, (uint32_t)r->tokens[i]);
        break;
    case IC_RECORD_END_V1:
        return IC_EVERSION;
    case IC_RECORD_END:
        ic_buf_u64(out, r->turn);
        ic_buf_u32(out, (uint32_t)r->finish);
        ic_buf_u64(out, r->told.evicted);
        ic_buf_u64(out, r->told.skipped);
        ic_buf_u64(out, r->told.deduplicated);
        break;
    case IC_RECORD_MEDIA:
    case IC_RECORD_MEDIA_END:
        ic_buf_u64(out, r->media);
        break;
    case IC_RECORD_PIXELS:
        ic_buf_append(out, r->pixels, r->pixel_bytes);
        break;
    case IC_RECORD_SOURCE:
        ic_buf_u64(out, r->media);
        put_reach(out, &r->source);
        ic_buf_u64(out, r->left_skipped);
        ic_buf_u64(out, r->left_duplicated);
        break;
    }
    return out->status;
}

size_t ic_talk_record_head_bytes(ic_talk_record_kind kind)
{
    enum { FRAME = 1 + 8 + 8 + 4 * 4, PIECE = 1 };
    return kind == IC_RECORD_PIXELS ? PIECE : FRAME;
}

static int get_tokens(ic_cursor *c, ic_talk_record *r)
{
    uint32_t count = ic_cursor_u32(c);
    if (c->status || count > ic_cursor_left(c) / 4)
        return IC_EFORMAT;
    r->count = (int)count;
    r->tokens = ic_calloc(count ? count : 1, sizeof *r->tokens);
    for (uint32_t i = 0; i < count; i++)
        r->tokens[i] = (int32_t)ic_cursor_u32(c);
    return IC_OK;
}

static int get_ask(ic_cursor *c, ic_talk_record *r)
{
    r->turn = ic_cursor_u64(c);
    const void *key = ic_cursor_bytes(c, sizeof r->key);
    if (!key)
        return IC_EFORMAT;
    memcpy(r->key, key, sizeof r->key);
    get_sampling(c, &r->sampling);
    r->text = get_text(c);
    return r->text ? IC_OK : IC_EFORMAT;
}

static int get_content(ic_cursor *c, ic_talk_record *r)
{
    switch (r->kind) {
    case IC_RECORD_FRAME:
    case IC_RECORD_IMAGE:
        return get_frame(c, r);
    case IC_RECORD_FRAMES_END:
    case IC_RECORD_FORK:
        return IC_OK;
    case IC_RECORD_ASK:
        return get_ask(c, r);
    case IC_RECORD_START:
        r->turn = ic_cursor_u64(c);
        return IC_OK;
    case IC_RECORD_TOKENS:
        r->turn = ic_cursor_u64(c);
        return get_tokens(c, r);
    case IC_RECORD_END_V1:
    case IC_RECORD_END:
        r->turn = ic_cursor_u64(c);
        r->finish = (int)ic_cursor_u32(c);
        if (r->kind == IC_RECORD_END_V1)
            return IC_OK;
        r->told.evicted = ic_cursor_u64(c);
        r->told.skipped = ic_cursor_u64(c);
        r->told.deduplicated = ic_cursor_u64(c);
        return IC_OK;
    case IC_RECORD_MEDIA:
    case IC_RECORD_MEDIA_END:
        r->media = ic_cursor_u64(c);
        return IC_OK;
    case IC_RECORD_PIXELS:
        r->pixel_bytes = ic_cursor_left(c);
        r->pixels = ic_cursor_bytes(c, r->pixel_bytes);
        return r->pixel_bytes ? IC_OK : IC_EFORMAT;
    case IC_RECORD_SOURCE:
        r->media = ic_cursor_u64(c);
        get_reach(c, &r->source);
        r->left_skipped = ic_cursor_u64(c);
        r->left_duplicated = ic_cursor_u64(c);
        return IC_OK;
    }
    return IC_EVERSION;
}

int ic_talk_record_decode(ic_talk_record *r, uint32_t kind, const void *bytes, size_t size,
                          ic_error *e)
{
    ic_cursor c;
    *r = (ic_talk_record){.kind = (ic_talk_record_kind)kind};
    int rc = open_cursor(&c, bytes, size, VERSION, "a journal record", e);
    if (rc < 0)
        return rc;
    rc = get_content(&c, r);
    if (rc == IC_OK)
        rc = close_cursor(&c, "a journal record", e);
    else
        ic_error_set(e, rc, "a journal record of kind %u cannot be read", kind);
    if (rc)
        ic_talk_record_fini(r);
    return rc;
}

/* --- how a source was read ---------------------------------------------------------------------
 */

void ic_talk_reading_fini(ic_talk_reading *r)
{
    ic_free(r->source);
    *r = (ic_talk_reading){.source = NULL};
}

int ic_talk_reading_encode(const ic_talk_reading *r, ic_buf *out)
{
    uint64_t fps;
    memcpy(&fps, &r->fps, sizeof fps);
    ic_buf_u8(out, READING_VERSION);
    put_text(out, r->source);
    ic_buf_u64(out, fps);
    ic_buf_u64(out, (uint64_t)r->from_us);
    ic_buf_u64(out, (uint64_t)r->to_us);
    ic_buf_u64(out, r->max_frames);
    ic_buf_u32(out, r->frame_tokens);
    ic_buf_u8(out, r->image);
    return out->status;
}

int ic_talk_reading_decode(ic_talk_reading *r, const void *bytes, size_t size, ic_error *e)
{
    ic_cursor c;
    *r = (ic_talk_reading){.source = NULL};
    int rc = open_cursor(&c, bytes, size, READING_VERSION, "a source's entry", e);
    if (rc < 0)
        return rc;
    r->source = get_text(&c);
    uint64_t fps = ic_cursor_u64(&c);
    memcpy(&r->fps, &fps, sizeof fps);
    r->from_us = (int64_t)ic_cursor_u64(&c);
    r->to_us = (int64_t)ic_cursor_u64(&c);
    r->max_frames = ic_cursor_u64(&c);
    r->frame_tokens = ic_cursor_u32(&c);
    r->image = ic_cursor_u8(&c);
    rc = r->source ? close_cursor(&c, "a source's entry", e) : IC_EFORMAT;
    if (rc)
        ic_talk_reading_fini(r);
    return rc;
}

/* --- the head ----------------------------------------------------------------------------------
 */

/* A head's counters, in the order of the format; all are uint64_t. */
static const size_t numbers[] = {
    offsetof(ic_talk_head, turns),          offsetof(ic_talk_head, medias),
    offsetof(ic_talk_head, open_media),     offsetof(ic_talk_head, evicted_at_end),
    offsetof(ic_talk_head, seen),           offsetof(ic_talk_head, skipped),
    offsetof(ic_talk_head, deduplicated),   offsetof(ic_talk_head, seen_at_end),
    offsetof(ic_talk_head, skipped_at_end), offsetof(ic_talk_head, deduplicated_at_end)};

static void put_answer(ic_buf *out, const ic_talk_answer *a)
{
    ic_buf_u64(out, a->turn);
    if (!a->turn)
        return;
    ic_buf_append(out, a->key, sizeof a->key);
    put_sampling(out, &a->sampling);
    ic_buf_u32(out, a->tokens);
    ic_buf_blob(out, a->held.held, (uint32_t)a->held.count);
    ic_buf_blob(out, a->text.data, (uint32_t)a->text.size);
}

static int get_answer(ic_cursor *c, ic_talk_answer *a, ic_error *e)
{
    enum { HELD_MAX = 3 }; /* bytes of a character that lacks one */
    uint32_t held = 0, count = 0;
    a->turn = ic_cursor_u64(c);
    if (!a->turn)
        return IC_OK;
    const void *key = ic_cursor_bytes(c, sizeof a->key);
    get_sampling(c, &a->sampling);
    a->tokens = ic_cursor_u32(c);
    const void *bytes = ic_cursor_blob(c, &held), *text = ic_cursor_blob(c, &count);
    if (c->status || a->tokens > INT32_MAX || held > HELD_MAX)
        return ic_error_set(e, IC_EFORMAT, "a checkpoint's answer is damaged");
    memcpy(a->key, key, sizeof a->key);
    memcpy(a->held.held, bytes, held);
    a->held.count = (int)held;
    return ic_buf_append(&a->text, text, count);
}

void ic_talk_head_fini(ic_talk_head *h)
{
    ic_buf_fini(&h->answer.text);
    ic_buf_fini(&h->asks);
    *h = (ic_talk_head){0};
}

int ic_talk_head_encode(const ic_talk_head *h, ic_buf *out)
{
    ic_buf_u8(out, HEAD_VERSION);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        ic_buf_u64(out, *(const uint64_t *)((const char *)h + numbers[i]));
    ic_buf_u8(out, h->inexact);
    put_text(out, h->model);
    put_text(out, h->meaning);
    put_engine(out, &h->config);
    ic_buf_u8(out, h->has_held);
    if (h->has_held)
        ic_session_held_save(&h->held, out);
    put_reach(out, &h->source);
    put_answer(out, &h->answer);
    ic_buf_blob(out, h->asks.data, (uint32_t)h->asks.size);
    return out->status;
}

int ic_talk_head_decode(ic_talk_head *h, const void *bytes, size_t size, ic_error *e)
{
    ic_cursor c;
    *h = (ic_talk_head){0};
    int version = open_cursor(&c, bytes, size, HEAD_VERSION, "a checkpoint", e), rc = IC_OK;
    if (version < 0)
        return version;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        *(uint64_t *)((char *)h + numbers[i]) = ic_cursor_u64(&c);
    h->inexact = ic_cursor_u8(&c);
    get_text_into(&c, h->model, sizeof h->model);
    if (version > 1) {
        get_text_into(&c, h->meaning, sizeof h->meaning);
        rc = get_engine(&c, true, &h->config, e);
    }
    h->source.pos_us = -1;
    if (!rc && version > 2) {
        h->has_held = ic_cursor_u8(&c);
        if (h->has_held)
            rc = ic_session_held_load(&h->held, &c, e);
        get_reach(&c, &h->source);
    }
    if (!rc && version > 3)
        rc = get_answer(&c, &h->answer, e);
    uint32_t count = 0;
    const void *asks = rc ? NULL : ic_cursor_blob(&c, &count);
    if (!rc)
        rc = close_cursor(&c, "a checkpoint", e);
    if (!rc)
        rc = ic_buf_append(&h->asks, asks, count);
    if (rc)
        ic_talk_head_fini(h);
    return rc;
}
