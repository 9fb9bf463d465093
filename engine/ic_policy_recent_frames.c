/* recent-frames: sinks, the newest text within a share of the budget, and the newest few frame
 * groups, each whole or not at all. Source: SimpleStream, the baseline that shows a model nothing
 * but the last frames and the dialogue, and beats many memories. The number of groups (4) and the
 * share of the text are ours. */
#include "engine/ic_policy.h"

static void build_plan(const ic_session_config *c, ic_plan *plan)
{
    *plan = (ic_plan){.budget = c->cache_tokens,
                      .sinks = c->sinks,
                      .frames = c->frames,
                      .text = ic_policy_recent(c)};
}

static bool chunk_end(const ic_session_config *c, int used, ic_plan *plan)
{
    build_plan(c, plan);
    return used > 0;
}

static int answer_row(const ic_session_config *c, int used, bool *evict, ic_plan *plan, ic_error *e)
{
    (void)e;
    build_plan(c, plan);
    *evict = ic_policy_slack_is_gone(c, used);
    return IC_OK;
}

const ic_policy ic_policy_recent_frames = {.name = "recent-frames",
                                           .recent_pct = 50,
                                           .admit = ic_policy_admit,
                                           .chunk_end = chunk_end,
                                           .answer_row = answer_row};
