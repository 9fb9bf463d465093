/* What the store answers to clients by the router's hand, and the search for a request's session.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "actors/ic_router_priv.h"
#include "base/ic_clock.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

enum { SHOW_BYTES = 3 << 20 }; /* of turns in one reply: it must stay a message */

static bool may_start(ic_desk_type type)
{
    return type == IC_DESK_FIND || type == IC_DESK_NEW || type == IC_DESK_PENDING;
}

static void send_desk(router *r, ic_job_desk *job)
{
    r->looking += may_start(job->type);
    ic_port_send(&r->self->outbox, r->store, &job);
}

/* --- NEW ---------------------------------------------------------------------------------------
 */

static int at_most_int(uint64_t n)
{
    return n > INT32_MAX ? INT32_MAX : (int)n;
}

/* For settings whose "none" is -1 in the engine, where 0 leaves them to the policy. */
static int or_none(int value)
{
    return value ? value : -1;
}

static uint64_t none_or(int value)
{
    return value > 0 ? (uint64_t)value : 0;
}

/* Settings as a client writes them; returns the set of those it gave. What is left to the policy (0
 * in a few of them) is as if it had not been given. */
static uint32_t read_settings(const ic_wire_settings *w, ic_session_config *c)
{
    double bias = ic_wire_get(w, settings, bias, 0.0) * 100 + 0.5;
    *c = (ic_session_config){
        .sinks = at_most_int(ic_wire_get(w, settings, sinks, 0)),
        .window = at_most_int(ic_wire_get(w, settings, window, 0)),
        .recent_pct = or_none(at_most_int(ic_wire_get(w, settings, recent_pct, 0))),
        .bias_pct = or_none(bias < INT32_MAX ? (int)bias : INT32_MAX),
        .smooth_pct = or_none(at_most_int(ic_wire_get(w, settings, smooth_pct, 0))),
        .pool = at_most_int(ic_wire_get(w, settings, pool, 0)),
        .per_layer = ic_wire_get(w, settings, granularity, 0),
        .frames = at_most_int(ic_wire_get(w, settings, frames, 0)),
        .positions = ic_wire_get(w, settings, positions, 0),
        .frame_unit = IC_FRAME_TOKENS + ic_wire_get(w, settings, frame_unit, 0),
        .questions = or_none(at_most_int(ic_wire_get(w, settings, questions, 0))),
        .thin = or_none(at_most_int(ic_wire_get(w, settings, thin, 0))),
        .fade_pct = or_none(at_most_int(ic_wire_get(w, settings, fade_pct, 0))),
        .care_pct = or_none(at_most_int(ic_wire_get(w, settings, care_pct, 0))),
        .text_pct = or_none(at_most_int(ic_wire_get(w, settings, text_pct, 0)))};
    const bool given[IC_SETTINGS] = {
        [IC_SET_SINKS] = ic_wire_has(w, settings, sinks),
        [IC_SET_WINDOW] = c->window,
        [IC_SET_RECENT] = ic_wire_has(w, settings, recent_pct),
        [IC_SET_BIAS] = ic_wire_has(w, settings, bias),
        [IC_SET_SMOOTH] = ic_wire_has(w, settings, smooth_pct),
        [IC_SET_POOL] = c->pool,
        [IC_SET_PER_LAYER] = ic_wire_has(w, settings, granularity),
        [IC_SET_FRAMES] = c->frames,
        [IC_SET_POSITIONS] = ic_wire_has(w, settings, positions),
        [IC_SET_FRAME_UNIT] = ic_wire_has(w, settings, frame_unit),
        [IC_SET_QUESTIONS] = ic_wire_has(w, settings, questions),
        [IC_SET_THIN] = ic_wire_has(w, settings, thin),
        [IC_SET_FADE] = ic_wire_has(w, settings, fade_pct),
        [IC_SET_CARE] = ic_wire_has(w, settings, care_pct),
        [IC_SET_TEXT] = ic_wire_has(w, settings, text_pct),
    };
    uint32_t set = 0;
    for (int i = 0; i < IC_SETTINGS; i++)
        set |= (uint32_t)given[i] << i;
    return set;
}

/* The settings of a session that its policy has a use for, settled. */
static void write_settings(const ic_session_config *config, ic_wire_settings *w)
{
    ic_session_config c = *config;
    ic_session_config_settle(&c);
    uint32_t used = ic_session_config_used(&c);
    ic_wire_settings all = {0};
    ic_wire_put(&all, settings, sinks, (uint64_t)c.sinks);
    ic_wire_put(&all, settings, window, (uint64_t)c.window);
    ic_wire_put(&all, settings, recent_pct, none_or(c.recent_pct));
    ic_wire_put(&all, settings, bias, c.bias_pct > 0 ? c.bias_pct / 100.0 : 0);
    ic_wire_put(&all, settings, smooth_pct, none_or(c.smooth_pct));
    ic_wire_put(&all, settings, pool, (uint64_t)c.pool);
    ic_wire_put(&all, settings, granularity, c.per_layer);
    ic_wire_put(&all, settings, frames, (uint64_t)c.frames);
    ic_wire_put(&all, settings, positions, c.positions);
    ic_wire_put(&all, settings, frame_unit, c.frame_unit - IC_FRAME_TOKENS);
    ic_wire_put(&all, settings, questions, none_or(c.questions));
    ic_wire_put(&all, settings, thin, none_or(c.thin));
    ic_wire_put(&all, settings, fade_pct, none_or(c.fade_pct));
    ic_wire_put(&all, settings, care_pct, none_or(c.care_pct));
    ic_wire_put(&all, settings, text_pct, none_or(c.text_pct));
    static const int field[IC_SETTINGS] = {[IC_SET_SINKS] = IC_WIRE_F_settings_sinks,
                                           [IC_SET_WINDOW] = IC_WIRE_F_settings_window,
                                           [IC_SET_RECENT] = IC_WIRE_F_settings_recent_pct,
                                           [IC_SET_BIAS] = IC_WIRE_F_settings_bias,
                                           [IC_SET_SMOOTH] = IC_WIRE_F_settings_smooth_pct,
                                           [IC_SET_POOL] = IC_WIRE_F_settings_pool,
                                           [IC_SET_PER_LAYER] = IC_WIRE_F_settings_granularity,
                                           [IC_SET_FRAMES] = IC_WIRE_F_settings_frames,
                                           [IC_SET_POSITIONS] = IC_WIRE_F_settings_positions,
                                           [IC_SET_FRAME_UNIT] = IC_WIRE_F_settings_frame_unit,
                                           [IC_SET_QUESTIONS] = IC_WIRE_F_settings_questions,
                                           [IC_SET_THIN] = IC_WIRE_F_settings_thin,
                                           [IC_SET_FADE] = IC_WIRE_F_settings_fade_pct,
                                           [IC_SET_CARE] = IC_WIRE_F_settings_care_pct,
                                           [IC_SET_TEXT] = IC_WIRE_F_settings_text_pct};
    _Static_assert(IC_SETTINGS == 15, "a new setting has a field here and in read_settings");
    for (int i = 0; i < IC_SETTINGS; i++)
        if (!(used >> i & 1))
            all.has &= ~(UINT64_C(1) << field[i]);
    *w = all;
}

static int make_cache(router *r, const ic_wire_new *m, ic_session_config *c, ic_error *e)
{
    const ic_sched_args *a = r->args->sched_args;
    int most = r->args->max_cache_tokens ? r->args->max_cache_tokens : 4 * a->session.cache_tokens;
    uint64_t wanted = ic_wire_get(m, new, cache_tokens, (uint64_t)a->session.cache_tokens);
    if (wanted > (uint64_t)most)
        return ic_error_set(e, IC_ELIMIT,
                            "cache_tokens %llu is more than this server gives: %d "
                            "(session.max_cache_tokens)",
                            (unsigned long long)wanted, most);
    ic_session_config_default(r->args->limits.engine, (int)wanted, c);
    const char *policy = ic_wire_get(m, new, policy, a->policy);
    snprintf(c->policy, sizeof c->policy, "%s", policy);
    if (strcmp(policy, a->policy) == 0)
        ic_session_config_take(c, &a->settings, a->given);
    ic_session_config wish;
    uint32_t given = ic_wire_has(m, new, settings) ? read_settings(&m->settings, &wish) : 0;
    if (given >> IC_SET_PER_LAYER & 1 && wish.per_layer < 0)
        return ic_error_set(e, IC_EINVAL, "granularity is head or layer");
    if (given >> IC_SET_POSITIONS & 1 && wish.positions < 0)
        return ic_error_set(e, IC_EINVAL, "positions are compact or original");
    if (given >> IC_SET_FRAME_UNIT & 1 && wish.frame_unit < IC_FRAME_TOKENS)
        return ic_error_set(e, IC_EINVAL, "frame_unit is tokens or whole");
    ic_session_config_take(c, &wish, given);
    int rc = ic_session_config_check(r->args->limits.engine, c, e);
    if (rc == IC_OK)
        rc = ic_session_config_check_used(c, given, e);
    ic_session_config_settle(c); /* so that it stays what it is when defaults change */
    return rc;
}

static int make_config(router *r, const ic_wire_new *m, ic_buf *out, ic_error *e)
{
    const ic_engine *engine = r->args->limits.engine;
    const ic_engine_info *info = ic_engine_info_of(engine);
    ic_talk_config c = {.sampling = info->sampling};
    if (ic_wire_has(m, new, sampling))
        c.has_seed = ic_talk_take_sampling(&c.sampling, &m->sampling);
    int rc = ic_sampling_check(&c.sampling, e);
    if (rc == IC_OK)
        rc = make_cache(r, m, &c.engine, e);
    if (rc)
        return rc;
    const char *system = ic_wire_get(m, new, system, NULL);
    c.system = system && system[0] ? ic_strdup(system) : NULL;
    snprintf(c.model, sizeof c.model, "%s", info->model_name);
    rc = ic_talk_config_encode(&c, out);
    ic_talk_config_fini(&c);
    return rc;
}

static void begin_new(router *r, ic_mail_request **q_p)
{
    ic_buf config = {0};
    ic_error e = {0};
    if (make_config(r, &(*q_p)->msg.new, &config, &e)) {
        router_error(r, *q_p, ic_wire_code_from_err(e.code), e.text);
        ic_buf_fini(&config);
        return;
    }
    ic_job_desk *job = ic_job_desk_new(IC_DESK_NEW, q_p, r->store_reply);
    job->config = config;
    send_desk(r, job);
}

static void answer_new(router *r, ic_job_desk *d)
{
    const ic_store_session *s = &d->sessions[0];
    ic_mail_request *q = d->request;
    const router_entry *entry = router_find(r, s->id);
    ic_wire_msg m = router_ok(q);
    ic_wire_put(&m.ok, ok, session, s->id);
    ic_wire_put(&m.ok, ok, state, entry ? entry->state.state : IC_WIRE_STATE_IDLE);
    ic_wire_put(&m.ok, ok, last, (uint64_t)(s->event_next - 1));
    if (d->verdict == IC_STORE_SAME)
        ic_wire_put(&m.ok, ok, repeated, true);
    router_send(r, q->peer, &m);
    ic_log_info("router", "session %.8s is new", s->id);
    /* NEW attaches its sender: the session's actor is told as if the client had said so. */
    ic_error e = {0};
    router_entry *started = router_find(r, s->id);
    if (!started)
        started = router_start(r, s->id, true, false, &e);
    if (!started)
        return;
    ic_mail_plain *attach = ic_mail_plain_new(IC_MAIL_ATTACH_PEER, s->id);
    attach->number = q->peer;
    router_tell(r, started, &attach);
}

/* --- LIST, SHOW --------------------------------------------------------------------------------
 */

static void fill_session(const router *r, const ic_store_session *s, ic_wire_session_info *i)
{
    const router_entry *entry = router_find(r, s->id);
    *i = (ic_wire_session_info){0};
    ic_wire_put(i, session_info, session, s->id);
    ic_wire_put(i, session_info, title, s->title);
    ic_wire_put(i, session_info, owner, s->owner);
    if (s->parent[0])
        ic_wire_put(i, session_info, parent, s->parent);
    ic_wire_put(i, session_info, state, entry ? entry->state.state : IC_WIRE_STATE_SUSPENDED);
    ic_wire_put(i, session_info, created_us, s->created_us);
    ic_wire_put(i, session_info, updated_us, s->used_us);
    ic_wire_put(i, session_info, turns, (uint64_t)s->counters.turns);
    ic_wire_put(i, session_info, last, (uint64_t)(s->event_next - 1));
    ic_wire_put(i, session_info, frames_seen, (uint64_t)s->counters.frames);
    ic_wire_put(i, session_info, evicted_tokens, (uint64_t)s->counters.evicted);
    ic_wire_put(i, session_info, cache_bytes, entry ? entry->state.cache_bytes : 0);
    if (!entry)
        return;
    if (entry->state.resident) {
        ic_wire_put(i, session_info, cache_tokens, entry->state.cache_tokens);
        ic_wire_put(i, session_info, cache_slots, entry->state.cache_slots);
        ic_wire_put(i, session_info, evicted_tokens, entry->state.evicted_tokens);
    }
    ic_wire_put(i, session_info, attached, entry->state.attached);
    if (entry->state.last_event)
        ic_wire_put(i, session_info, last, entry->state.last_event);
    if (entry->state.state == IC_WIRE_STATE_FAILED)
        ic_wire_put(i, session_info, reason, entry->state.reason);
}

static void answer_list(router *r, ic_job_desk *d)
{
    ic_wire_msg m = router_ok(d->request);
    ic_wire_session_info *items = ic_calloc((size_t)d->count + 1, sizeof *items);
    for (int i = 0; i < d->count; i++)
        fill_session(r, &d->sessions[i], &items[i]);
    ic_wire_put(&m.ok, ok, sessions,
                ((ic_wire_session_info_list){.count = (uint32_t)d->count, .items = items}));
    ic_wire_put(&m.ok, ok, more, d->more);
    router_send(r, d->request->peer, &m);
    ic_free(items);
}

static uint32_t fill_turns(const ic_job_desk *d, ic_wire_turn_info *items)
{
    size_t bytes = 0;
    int first = d->turn_count;
    while (first > 0) { /* from the newest back, as many as fit */
        const ic_desk_turn *t = &d->turns[first - 1];
        bytes += strlen(t->text) + (t->answer ? strlen(t->answer) : 0) + 64;
        if (bytes > SHOW_BYTES)
            break;
        first--;
    }
    uint32_t count = 0;
    for (int i = first; i < d->turn_count; i++) {
        const ic_desk_turn *t = &d->turns[i];
        ic_wire_turn_info *out = &items[count++];
        ic_wire_put(out, turn_info, turn, t->number);
        ic_wire_put(out, turn_info, time_us, t->time_us);
        ic_wire_put(out, turn_info, text, t->text);
        if (t->answer)
            ic_wire_put(out, turn_info, answer, t->answer);
        if (t->finish >= 0)
            ic_wire_put(out, turn_info, finish_reason, t->finish);
    }
    return count;
}

static void fill_medias(const ic_job_desk *d, ic_wire_media_info *items)
{
    for (int i = 0; i < d->media_count; i++) {
        const ic_desk_media *m = &d->medias[i];
        ic_wire_media_info *out = &items[i];
        ic_wire_put(out, media_info, media, m->number);
        ic_wire_put(out, media_info, name, m->name);
        ic_wire_put(out, media_info, kind, m->kind);
        ic_wire_put(out, media_info, as, m->image ? IC_WIRE_AS_IMAGE : IC_WIRE_AS_VIDEO);
        ic_wire_put(out, media_info, done, m->done);
        if (m->fps > 0)
            ic_wire_put(out, media_info, fps, m->fps);
        ic_wire_put(out, media_info, frames_seen, m->seen);
        ic_wire_put(out, media_info, frames_skipped, m->skipped);
        ic_wire_put(out, media_info, frames_deduplicated, m->deduplicated);
    }
}

static uint32_t fill_marks(const ic_job_desk *d, ic_wire_mark_info *items)
{
    for (int i = 0; i < d->mark_count; i++) {
        ic_wire_put(&items[i], mark_info, name, d->marks[i].name);
        ic_wire_put(&items[i], mark_info, time_us, d->marks[i].time_us);
        ic_wire_put(&items[i], mark_info, turn, (uint64_t)d->marks[i].turn);
    }
    return (uint32_t)d->mark_count;
}

static void fill_memory(const ic_session_held *h, ic_wire_memory_info *i,
                        ic_wire_memory_span *spans, ic_wire_memory_bin *bins)
{
    *i = (ic_wire_memory_info){0};
    ic_wire_put(i, memory_info, tokens, h->tokens);
    ic_wire_put(i, memory_info, evicted_tokens, h->evicted_tokens);
    ic_wire_put(i, memory_info, groups, h->groups_seen);
    ic_wire_put(i, memory_info, evicted_groups, h->evicted_groups);
    ic_wire_put(i, memory_info, used, (uint64_t)h->used);
    ic_wire_put(i, memory_info, budget, (uint64_t)h->budget);
    ic_wire_put(i, memory_info, slots, (uint64_t)h->slots);
    ic_wire_put(i, memory_info, heads, (uint64_t)h->heads);
    ic_wire_put(i, memory_info, pinned_tokens, (uint64_t)h->pinned);
    ic_wire_put(i, memory_info, sink_tokens, (uint64_t)h->sinks);
    ic_wire_put(i, memory_info, text_tokens, (uint64_t)h->text);
    ic_wire_put(i, memory_info, frame_tokens, (uint64_t)h->vision);
    ic_wire_put(i, memory_info, marker_tokens, (uint64_t)h->markers);
    ic_wire_put(i, memory_info, held_groups, (uint64_t)h->groups);
    ic_wire_put(i, memory_info, stream_us, (uint64_t)h->stream_us);
    for (int k = 0; k < h->span_count; k++) {
        ic_wire_put(&spans[k], memory_span, from_us, (uint64_t)h->spans[k].from_us);
        ic_wire_put(&spans[k], memory_span, to_us, (uint64_t)h->spans[k].to_us);
        ic_wire_put(&spans[k], memory_span, groups, (uint64_t)h->spans[k].groups);
        ic_wire_put(&spans[k], memory_span, tokens, (uint64_t)h->spans[k].tokens);
    }
    for (int k = 0; k < IC_HELD_BINS; k++) {
        ic_wire_put(&bins[k], memory_bin, text, (double)h->bins[k].text);
        ic_wire_put(&bins[k], memory_bin, frames, (double)h->bins[k].vision);
    }
    ic_wire_put(i, memory_info, spans,
                ((ic_wire_memory_span_list){.count = (uint32_t)h->span_count, .items = spans}));
    ic_wire_put(i, memory_info, strip,
                ((ic_wire_memory_bin_list){.count = IC_HELD_BINS, .items = bins}));
}

/* What the session holds now or, when it is not in memory, held at its checkpoint. false: nothing
 * is known: it has none, or one of an earlier version. */
static bool find_memory(const ic_job_desk *d, ic_talk_head *head, ic_session_held *held)
{
    ic_error e = {0};
    if (d->held)
        *held = *d->held;
    else if (!d->head.size || ic_talk_head_decode(head, d->head.data, d->head.size, &e))
        return false;
    else
        *held = head->held;
    return d->held || head->has_held;
}

static void answer_show(router *r, ic_job_desk *d)
{
    ic_wire_msg m = router_ok(d->request);
    ic_wire_session_info info;
    ic_talk_config config = {.system = NULL};
    ic_error e = {0};
    fill_session(r, &d->sessions[0], &info);
    ic_wire_put(&info, session_info, store_bytes, (uint64_t)d->sizes.total);
    if (ic_talk_config_decode(&config, d->config.data, d->config.size, &e) == IC_OK) {
        ic_wire_settings settings;
        write_settings(&config.engine, &settings);
        ic_wire_put(&info, session_info, policy, config.engine.policy);
        ic_wire_put(&info, session_info, settings, settings);
        ic_wire_put(&info, session_info, model, config.model);
        if (config.system)
            ic_wire_put(&info, session_info, system, config.system);
    }
    ic_wire_turn_info *turns = ic_calloc((size_t)d->turn_count + 1, sizeof *turns);
    ic_wire_media_info *medias = ic_calloc((size_t)d->media_count + 1, sizeof *medias);
    uint32_t count = fill_turns(d, turns);
    fill_medias(d, medias);
    ic_wire_memory_span spans[IC_HELD_SPANS] = {0};
    ic_wire_memory_bin bins[IC_HELD_BINS] = {0};
    ic_wire_memory_info memory;
    ic_session_held held;
    ic_talk_head head = {0};
    if (ic_wire_get(&d->request->msg.show, show, memory, false) && find_memory(d, &head, &held)) {
        fill_memory(&held, &memory, spans, bins);
        if (!d->held) {
            ic_wire_put(&memory, memory_info, stored, true);
            ic_wire_put(&memory, memory_info, time_us, d->head_us);
        }
        ic_wire_put(&m.ok, ok, memory, memory);
    }
    ic_talk_head_fini(&head);
    ic_wire_put(&m.ok, ok, session, d->sessions[0].id);
    ic_wire_put(&m.ok, ok, state, info.state);
    ic_wire_put(&m.ok, ok, info, info);
    ic_wire_put(&m.ok, ok, turns, ((ic_wire_turn_info_list){.count = count, .items = turns}));
    ic_wire_put(&m.ok, ok, medias,
                ((ic_wire_media_info_list){.count = (uint32_t)d->media_count, .items = medias}));
    ic_wire_mark_info *marks = ic_calloc((size_t)d->mark_count + 1, sizeof *marks);
    ic_wire_put(&m.ok, ok, marks,
                ((ic_wire_mark_info_list){.count = fill_marks(d, marks), .items = marks}));
    router_send(r, d->request->peer, &m);
    ic_free(marks);
    ic_free(turns);
    ic_free(medias);
    ic_talk_config_fini(&config);
}

/* --- STATUS ------------------------------------------------------------------------------------
 */

static uint64_t own_memory(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f)
        return 0;
    if (fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    fclose(f);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void add_costs(const router *r, const ic_talk_costs *c, ic_wire_status_info *s)
{
    ic_wire_put(s, status_info, checkpoints, c->checkpoints.count);
    ic_wire_put(s, status_info, checkpoints_failed, c->checkpoints.failed);
    ic_wire_put(s, status_info, checkpoint_us, r->last_costs.checkpoints.last_us);
    ic_wire_put(s, status_info, checkpoint_max_us, c->checkpoints.max_us);
    ic_wire_put(s, status_info, checkpoint_bytes, c->checkpoints.bytes);
    ic_wire_put(s, status_info, restores, c->restores.count);
    ic_wire_put(s, status_info, restores_failed, c->restores.failed);
    ic_wire_put(s, status_info, restore_us, r->last_costs.restores.last_us);
    ic_wire_put(s, status_info, restore_max_us, c->restores.max_us);
    ic_wire_put(s, status_info, restore_bytes, c->restores.bytes);
    ic_wire_put(s, status_info, sessions_retired, r->retain.retired);
}

static void add_sessions(const router *r, ic_wire_status_info *s)
{
    router_totals sum = r->totals;
    uint64_t answering = 0, ingesting = 0, bytes = 0, tokens = 0, text = 0, frames = 0;
    for (const router_entry *e = r->entries; e; e = e->next) {
        int state = e->state.state;
        answering += state == IC_WIRE_STATE_ANSWERING || state == IC_WIRE_STATE_BOTH;
        ingesting += state == IC_WIRE_STATE_INGESTING || state == IC_WIRE_STATE_BOTH;
        bytes += e->state.cache_bytes;
        tokens += e->state.cache_tokens;
        text += e->state.text_tokens;
        frames += e->state.frame_tokens;
        sum.seen += e->state.frames_seen;
        sum.skipped += e->state.frames_skipped;
        sum.deduplicated += e->state.frames_deduplicated;
        sum.evicted += e->state.evicted_here;
        sum.dropped += e->state.dropped_here;
        router_add_costs(&sum.costs, &e->state.costs);
    }
    ic_wire_put(s, status_info, resident, (uint64_t)router_resident(r));
    ic_wire_put(s, status_info, answering, answering);
    ic_wire_put(s, status_info, ingesting, ingesting);
    ic_wire_put(s, status_info, cache_bytes, bytes);
    ic_wire_put(s, status_info, cache_tokens, tokens);
    ic_wire_put(s, status_info, text_tokens, text);
    ic_wire_put(s, status_info, frame_tokens, frames);
    ic_wire_put(s, status_info, evicted_tokens, sum.evicted);
    ic_wire_put(s, status_info, frames_seen, sum.seen);
    ic_wire_put(s, status_info, frames_skipped, sum.skipped);
    ic_wire_put(s, status_info, frames_deduplicated, sum.deduplicated);
    ic_wire_put(s, status_info, frames_dropped, sum.dropped);
    add_costs(r, &sum.costs, s);
}

static void answer_status(router *r, ic_job_desk *d)
{
    const ic_sched_args *a = r->args->sched_args;
    const ic_sched_stats *t = &r->sched_stats;
    ic_wire_msg m = router_ok(d->request);
    ic_wire_status_info s = {0};
    ic_wire_put(&s, status_info, version, INFCHAT_VERSION);
    ic_wire_put(&s, status_info, model, ic_engine_info_of(a->opened)->model_name);
    ic_wire_put(&s, status_info, device, a->device);
    ic_wire_put(&s, status_info, policy, a->session.policy);
    ic_wire_put(&s, status_info, uptime_us, (uint64_t)(ic_clock_mono_us() - r->started_us));
    ic_wire_put(&s, status_info, clients, (uint64_t)r->peers.count);
    ic_wire_put(&s, status_info, sessions, (uint64_t)d->sizes.sessions);
    ic_wire_put(&s, status_info, resident_max, (uint64_t)a->max_resident);
    ic_wire_put(&s, status_info, cache_slots,
                (uint64_t)(a->session.cache_tokens + a->session.chunk_max + a->session.slack));
    ic_wire_put(&s, status_info, cache_session_bytes, (uint64_t)a->session_bytes);
    ic_wire_put(&s, status_info, rss_bytes, own_memory());
    ic_wire_put(&s, status_info, store_bytes, (uint64_t)d->sizes.total);
    ic_wire_put(&s, status_info, prompt_tokens, t->prompt_tokens);
    ic_wire_put(&s, status_info, completion_tokens, t->completion_tokens);
    ic_wire_put(&s, status_info, steps, t->steps);
    ic_wire_put(&s, status_info, step_p50_us, t->step_p50_us);
    ic_wire_put(&s, status_info, step_max_us, t->step_max_us);
    ic_wire_put(&s, status_info, prefill_tokens_per_second, t->prefill_per_second);
    ic_wire_put(&s, status_info, decode_tokens_per_second, t->decode_per_second);
    add_sessions(r, &s);
    ic_wire_put(&m.ok, ok, status, s);
    router_send(r, d->request->peer, &m);
}

/* --- the search --------------------------------------------------------------------------------
 */

void router_look_for(router *r, ic_mail_request **q_p)
{
    send_desk(r, ic_job_desk_new(IC_DESK_FIND, q_p, r->store_reply));
}

/* The turns to come are read when what it holds is known. */
static void show(router *r, ic_mail_request **q_p, ic_session_held *held)
{
    int limit = (int)ic_wire_get(&(*q_p)->msg.show, show, turns, 0);
    ic_job_desk *job = ic_job_desk_new(IC_DESK_SHOW, q_p, r->store_reply);
    job->limit = limit;
    job->held = held;
    send_desk(r, job);
}

void router_looked(router *r, ic_mail_looked *m)
{
    ic_session_held *held = m->known ? ic_alloc(sizeof *held) : NULL;
    if (held)
        *held = m->held;
    show(r, &m->request, held);
}

void router_delete(router *r, ic_mail_request **q_p)
{
    send_desk(r, ic_job_desk_new(IC_DESK_DELETE, q_p, r->store_reply));
}

void router_pending(router *r)
{
    ic_job_desk *job = ic_job_desk_new(IC_DESK_PENDING, NULL, r->store_reply);
    job->limit = r->args->max_active;
    send_desk(r, job);
}

static void answer_plain(router *r, const ic_mail_request *q, const char *session, bool repeated)
{
    ic_wire_msg m = router_ok(q);
    ic_wire_put(&m.ok, ok, session, session);
    ic_wire_verb verb = q->msg.verb;
    if (verb == IC_WIRE_SUSPEND || verb == IC_WIRE_CANCEL || verb == IC_WIRE_MEDIA_STOP
        || verb == IC_WIRE_FORK)
        ic_wire_put(&m.ok, ok, state, IC_WIRE_STATE_SUSPENDED);
    if (repeated)
        ic_wire_put(&m.ok, ok, repeated, true);
    router_send(r, q->peer, &m);
}

static void found(router *r, ic_job_desk *d)
{
    ic_mail_request *q = d->request;
    const char *id = d->sessions[0].id;
    if (d->verdict == IC_STORE_SAME) { /* a deletion that has been done */
        answer_plain(r, q, q->session, true);
        return;
    }
    router_entry *entry = router_find(r, id);
    ic_wire_verb verb = q->msg.verb;
    if (!entry && verb == IC_WIRE_RM) {
        router_delete(r, &d->request);
        return;
    }
    if (!entry && verb == IC_WIRE_SHOW) {
        show(r, &d->request, NULL);
        return;
    }
    if (!entry
        && (verb == IC_WIRE_SUSPEND || verb == IC_WIRE_CANCEL || verb == IC_WIRE_MEDIA_STOP
            || verb == IC_WIRE_DETACH)) {
        answer_plain(r, q, id, false);
        return;
    }
    if (!entry && (verb == IC_WIRE_DATA || verb == IC_WIRE_CREDIT))
        return; /* for what has ended */
    ic_error e = {0};
    if (!entry)
        entry = router_start(r, id, false, false, &e);
    if (entry)
        router_forward(r, entry, &d->request);
    else
        router_error(r, q, ic_wire_code_from_err(e.code), e.text);
}

/* --- replies -----------------------------------------------------------------------------------
 */

static void refuse(router *r, const ic_job_desk *d)
{
    ic_wire_code code = ic_wire_code_from_err(d->job.rc);
    if (d->ambiguous)
        code = IC_WIRE_CODE_AMBIGUOUS;
    else if (d->job.rc == IC_EEXIST)
        code = IC_WIRE_CODE_INVALID;
    else if (d->job.rc == IC_EIO || d->job.rc == IC_EFORMAT)
        code = IC_WIRE_CODE_STORE;
    router_error(r, d->request, code, d->job.error.text);
}

static void wake_pending(router *r, const ic_job_desk *d)
{
    for (int i = 0; i < d->count; i++) {
        ic_error e = {0};
        ic_log_info("router", "session %.8s has an answer to finish", d->sessions[i].id);
        if (!router_find(r, d->sessions[i].id)
            && !router_start(r, d->sessions[i].id, false, true, &e))
            ic_log_warn("router", "session %.8s: %s", d->sessions[i].id, e.text);
    }
}

static bool is_refused_key(router *r, const ic_job_desk *d)
{
    if (d->verdict == IC_STORE_CONFLICT)
        router_error(r, d->request, IC_WIRE_CODE_CONFLICT, "this key was used for another request");
    else if (d->verdict == IC_STORE_EXPIRED)
        router_error(r, d->request, IC_WIRE_CODE_EXPIRED, "this key is no longer kept");
    else
        return false;
    return true;
}

void router_desk_done(router *r, ic_job_desk *d)
{
    r->looking -= may_start(d->type);
    if (d->type == IC_DESK_PENDING) {
        wake_pending(r, d);
        return;
    }
    if (d->job.rc) {
        refuse(r, d);
        return;
    }
    if (is_refused_key(r, d))
        return;
    bool same = d->verdict == IC_STORE_SAME;
    switch (d->type) {
    case IC_DESK_NEW:
        answer_new(r, d);
        break;
    case IC_DESK_FIND:
        found(r, d);
        break;
    case IC_DESK_LIST:
        answer_list(r, d);
        break;
    case IC_DESK_SHOW:
        answer_show(r, d);
        break;
    case IC_DESK_TITLE:
    case IC_DESK_MARK:
    case IC_DESK_UNMARK:
        answer_plain(r, d->request, d->sessions[0].id, same);
        break;
    case IC_DESK_FORK:
        answer_plain(r, d->request, d->sessions[0].id, same);
        ic_log_info("router", "session %.8s is a fork of %.8s", d->sessions[0].id,
                    d->sessions[0].parent);
        break;
    case IC_DESK_DELETE:
        ic_log_info("router", "session %.8s is deleted", d->request->session);
        answer_plain(r, d->request, d->request->session, same);
        break;
    case IC_DESK_SIZES:
        answer_status(r, d);
        break;
    case IC_DESK_PENDING:
        break;
    }
}

void router_desk(router *r, ic_mail_request **q_p)
{
    enum { LIST_DEFAULT = 100 };
    const ic_wire_msg *m = &(*q_p)->msg;
    int limit = 0;
    ic_desk_type type = IC_DESK_SIZES;
    switch (m->verb) {
    case IC_WIRE_NEW:
        begin_new(r, q_p);
        return;
    case IC_WIRE_LIST:
        type = IC_DESK_LIST;
        limit = (int)ic_wire_get(&m->list, list, limit, LIST_DEFAULT);
        break;
    case IC_WIRE_SHOW:
        if (ic_wire_get(&m->show, show, memory, false))
            router_look_for(r, q_p); /* its actor, if it has one, knows what it holds */
        else
            show(r, q_p, NULL);
        return;
    case IC_WIRE_TITLE:
        type = IC_DESK_TITLE;
        break;
    case IC_WIRE_MARK:
        type = IC_DESK_MARK;
        break;
    case IC_WIRE_UNMARK:
        type = IC_DESK_UNMARK;
        break;
    case IC_WIRE_FORK:
        type = IC_DESK_FORK;
        break;
    default:
        break;
    }
    ic_job_desk *job = ic_job_desk_new(type, q_p, r->store_reply);
    job->limit = limit;
    send_desk(r, job);
}
