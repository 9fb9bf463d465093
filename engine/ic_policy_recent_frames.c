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

const ic_policy ic_policy_recent_frames = {.name = "recent-frames",
                                           .recent_pct = 50,
                                           .settings = IC_USES_SINKS | IC_USES_RECENT
                                                       | IC_USES(IC_SET_FRAMES),
                                           .plan = build_plan,
                                           .every_chunk = true};
