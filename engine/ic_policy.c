#include "engine/ic_policy.h"

#include <string.h>

static const ic_policy *const policies[] = {
    &ic_policy_full,    &ic_policy_streaming, &ic_policy_saddle, &ic_policy_saddle_paper,
    &ic_policy_window,  &ic_policy_h2o,       &ic_policy_snapkv, &ic_policy_recent_frames,
    &ic_policy_cascade, &ic_policy_corm};

const ic_policy *ic_policy_find(const char *name)
{
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        if (strcmp(policies[i]->name, name) == 0)
            return policies[i];
    }
    return NULL;
}

const char *ic_policy_names(void)
{
    return "full, streaming, saddle, saddle-paper, window, h2o, snapkv, recent-frames, "
           "cascade, corm";
}

/* Later settings: none is -1 under every policy. */
static int settled_later(int value, int own)
{
    return value ? value : own ? own : -1;
}

/* "None" where the policy has none anyway is the same setting, and one value. */
static int settled(int value, int own)
{
    return value == 0 || (value < 0 && own == 0) ? own : value;
}

void ic_policy_settle(ic_session_config *c)
{
    const ic_policy *p = ic_policy_find(c->policy);
    c->window = c->window ? c->window : IC_POLICY_WINDOW;
    if (!p) {
        c->frames = c->frames ? c->frames : IC_POLICY_FRAMES;
        return;
    }
    if (p->settle)
        p->settle(c);
    int frames = p->frames ? p->frames : IC_POLICY_FRAMES;
    c->frames = c->frames ? c->frames : frames;
    c->recent_pct = settled(c->recent_pct, p->recent_pct);
    c->bias_pct = settled(c->bias_pct, p->bias_pct);
    c->questions = settled_later(c->questions, p->questions);
    /* What lasts are the scores of questions: without these the policy has nothing to smooth. */
    int smooth = p->questions > 0 && c->questions < 0 ? 0 : p->smooth_pct;
    c->smooth_pct = settled(c->smooth_pct, smooth);
    c->pool = c->pool ? c->pool : p->pool;
    /* Whole frames, where they are asked for, are not thinned out. */
    c->thin = settled_later(c->thin, c->frame_unit == IC_FRAME_WHOLE ? 0 : p->thin);
    c->fade_pct = settled_later(c->fade_pct, p->fade_pct);
    c->care_pct = settled_later(c->care_pct, p->care_pct);
    c->text_pct = settled_later(c->text_pct, p->text_pct);
    if (!c->frame_unit)
        c->frame_unit = p->frame_unit ? p->frame_unit : IC_FRAME_TOKENS;
}

int ic_policy_admit(const ic_policy *p, const ic_session_config *c, int used, int64_t rows,
                    ic_error *e)
{
    return p->refuse ? p->refuse(c, used, rows, e) : IC_OK;
}

bool ic_policy_chunk_end(const ic_policy *p, const ic_session_config *c, int used, ic_plan *plan)
{
    if (!p->plan)
        return false;
    p->plan(c, plan);
    return p->every_chunk ? used > 0 : used > c->cache_tokens;
}

int ic_policy_answer_row(const ic_policy *p, const ic_session_config *c, int used, bool *evict,
                         ic_plan *plan, ic_error *e)
{
    *evict = false;
    if (p->refuse)
        return p->refuse(c, used, 1 + IC_POLICY_CLOSERS, e);
    p->plan(c, plan);
    *evict = p->every_token ? used > c->cache_tokens : used >= c->cache_tokens + c->slack;
    return IC_OK;
}

ic_score_kind ic_policy_score(const ic_session_config *c)
{
    const ic_policy *p = ic_policy_find(c->policy);
    if (!p)
        return IC_SCORE_NONE;
    bool asks = c->questions > 0 || (c->questions == 0 && p->questions > 0);
    return asks && p->score == IC_SCORE_WINDOW ? IC_SCORE_PEAK : p->score;
}

int ic_policy_recent(const ic_session_config *c)
{
    return c->recent_pct > 0 ? (int)((int64_t)c->cache_tokens * c->recent_pct / 100) : 0;
}
