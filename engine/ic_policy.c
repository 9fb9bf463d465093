#include "engine/ic_policy.h"

#include <string.h>

static const ic_policy *const policies[] = {
    &ic_policy_full,   &ic_policy_streaming, &ic_policy_saddle, &ic_policy_saddle_paper,
    &ic_policy_window, &ic_policy_h2o,       &ic_policy_snapkv, &ic_policy_recent_frames};

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
    return "full, streaming, saddle, saddle-paper, window, h2o, snapkv, recent-frames";
}

void ic_policy_settle(ic_session_config *c)
{
    const ic_policy *p = ic_policy_find(c->policy);
    c->window = c->window ? c->window : IC_POLICY_WINDOW;
    c->frames = c->frames ? c->frames : IC_POLICY_FRAMES;
    if (!p)
        return;
    c->recent_pct = c->recent_pct ? c->recent_pct : p->recent_pct;
    c->bias_pct = c->bias_pct ? c->bias_pct : p->bias_pct;
    c->pool = c->pool ? c->pool : p->pool;
}

int ic_policy_admit(const ic_session_config *c, int used, int64_t rows, ic_error *e)
{
    (void)c, (void)used, (void)rows, (void)e;
    return IC_OK;
}

bool ic_policy_slack_is_gone(const ic_session_config *c, int used)
{
    return used >= c->cache_tokens + c->slack;
}

int ic_policy_recent(const ic_session_config *c)
{
    return (int)((int64_t)c->cache_tokens * c->recent_pct / 100);
}
