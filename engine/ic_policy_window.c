/* window: the newest rows and nothing else (but what is pinned: pinned_max 0 for none): the
 * yardstick that StreamingLLM (arXiv:2309.17453) calls window attention. It is known to break when
 * the first rows leave; it is here to be compared with. */
#include "engine/ic_policy.h"

static void build_plan(const ic_session_config *c, ic_plan *plan)
{
    *plan = (ic_plan){.budget = c->cache_tokens};
}

const ic_policy ic_policy_window = {.name = "window", .plan = build_plan};
