/* corm: the newest rows, and those that the queries of the window would miss: a row is minor to a
 * query that sees t rows and pays it less than 1/t; who is minor to fewest stays. Source: CORM (Dai
 * et al. 2024, arXiv:2404.15949), sections 3 and 4: a row leaves when it is minor to all of the
 * last w queries and not among the newest. Differences: the paper has no budget and lets the cache
 * grow with the text; here rows are ranked by how many queries they are not minor to, under a fixed
 * one. The queries are those of a chunk's window, per kv head with all its query heads. The share
 * of the newest is ours. */
#include "engine/ic_policy.h"

static void build_plan(const ic_session_config *c, ic_plan *plan)
{
    *plan = (ic_plan){.budget = c->cache_tokens,
                      .recent = ic_policy_recent(c),
                      .scored = true,
                      .per_layer = c->per_layer};
}

const ic_policy ic_policy_corm = {.name = "corm",
                                  .score = IC_SCORE_VOTES,
                                  .recent_pct = 50,
                                  .pool = 1,
                                  .settings =
                                      IC_USES_RECENT | (IC_USES_SCORES & ~IC_USES(IC_SET_POOL)),
                                  .plan = build_plan};
