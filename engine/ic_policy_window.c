/* window: the newest rows and nothing else (but what is pinned: pinned_max 0 for none): the
 * yardstick that StreamingLLM (arXiv:2309.17453) calls window attention. It is known to break when
 * the first rows leave; it is here to be compared with. */
#include "engine/ic_policy.h"

static void build_plan(const ic_session_config *c, ic_plan *plan)
{
    *plan = (ic_plan){.budget = c->cache_tokens};
}

static bool chunk_end(const ic_session_config *c, int used, ic_plan *plan)
{
    build_plan(c, plan);
    return used > c->cache_tokens;
}

static int answer_row(const ic_session_config *c, int used, bool *evict, ic_plan *plan, ic_error *e)
{
    (void)e;
    build_plan(c, plan);
    *evict = ic_policy_slack_is_gone(c, used);
    return IC_OK;
}

const ic_policy ic_policy_window = {
    .name = "window", .admit = ic_policy_admit, .chunk_end = chunk_end, .answer_row = answer_row};
