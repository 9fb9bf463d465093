/* What a session tells the router of itself: its state, whether it may be suspended for another's
 * sake, its figures. */
#include <string.h>

#include "actors/ic_talk_priv.h"
#include "base/ic_clock.h"

enum { TELL_US = 200000 }; /* between two reports of figures */

static bool is_ingesting(const talk *t)
{
    return t->source && t->source->media;
}

int talk_state(const talk *t)
{
    switch (t->phase) {
    case TALK_FAILED:
        return IC_WIRE_STATE_FAILED;
    case TALK_COLD:
    case TALK_SUSPENDED:
    case TALK_GONE:
    case TALK_WAIT_ROOM:
    case TALK_OPENING:
    case TALK_LOADING:
        return IC_WIRE_STATE_SUSPENDED;
    case TALK_STOPPING:
    case TALK_CLOSING:
        return IC_WIRE_STATE_SUSPENDING;
    default:
        break;
    }
    bool answering = talk_is_answering(t) || t->line_turns;
    if (answering && is_ingesting(t))
        return IC_WIRE_STATE_BOTH;
    return answering         ? IC_WIRE_STATE_ANSWERING
           : is_ingesting(t) ? IC_WIRE_STATE_INGESTING
                             : IC_WIRE_STATE_IDLE;
}

static bool is_resident(const talk *t)
{
    return t->phase >= TALK_OPENING && t->phase <= TALK_CLOSING;
}

/* Not to be suspended for another's sake. */
bool talk_is_busy(const talk *t)
{
    return t->phase != TALK_LIVE || talk_is_answering(t) || t->source || t->line || t->checkpointing
           || !talk_is_written(t);
}

static void fill_state(const talk *t, ic_talk_state *s)
{
    *s = (ic_talk_state){.state = talk_state(t),
                         .resident = is_resident(t),
                         .attached = (uint64_t)talk_follower_count(t),
                         .last_event = t->event_next ? (uint64_t)t->event_next - 1 : 0,
                         .frames_seen = t->seen_here,
                         .frames_skipped = t->skipped_here,
                         .frames_deduplicated = t->deduplicated_here,
                         .evicted_here = t->evicted_here,
                         .dropped_here = t->dropped_here,
                         .costs = t->costs};
    s->busy = talk_is_busy(t);
    if (s->resident) {
        s->cache_bytes = ic_session_memory(t->limits->engine, &t->config.engine);
        s->cache_tokens = (uint64_t)t->stats.cache_used;
        s->cache_slots = (uint64_t)t->stats.cache_slots;
    }
    if (s->resident) {
        s->text_tokens = (uint64_t)t->text;
        s->frame_tokens = (uint64_t)t->vision;
    }
    s->evicted_tokens = t->stats.evicted_tokens;
    if (t->phase == TALK_FAILED)
        snprintf(s->reason, sizeof s->reason, "%s", t->failure.text);
}

void talk_tell_router(talk *t)
{
    ic_talk_state now;
    memset(&now, 0, sizeof now);
    fill_state(t, &now);
    if (memcmp(&now, &t->told.state, sizeof now) == 0)
        return;
    /* Figures that only grow are told a few times a second; what decides about it, at once. */
    const ic_talk_state *last = &t->told.state;
    bool urgent = now.state != last->state || now.resident != last->resident
                  || now.busy != last->busy || now.attached != last->attached;
    int64_t time = ic_clock_mono_us();
    if (!urgent && time - t->told_us < TELL_US)
        return;
    t->told_us = time;
    t->told.state = now;
    ic_mail_session_state *m = ic_mail_new(IC_MAIL_SESSION_STATE, sizeof *m, NULL);
    snprintf(m->session, sizeof m->session, "%s", t->id);
    m->state = now;
    ic_port_send(&t->self->outbox, t->args->router, &m);
}
