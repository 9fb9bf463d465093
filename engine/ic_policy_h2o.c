/* h2o: half of the budget for the newest rows, half for the rows that have drawn most attention
 * since they came, summed and not normalised; after every decoded token one row leaves. Source: H2O
 * (Zhang et al. 2023, arXiv:2306.14048), algorithm 1, with the usual equal shares. Differences:
 * positions are those inside the cache; a prompt goes in by chunks, each of which evicts at its
 * end; what is pinned stays. */
#include "engine/ic_policy.h"

static void build_plan(const ic_session_config *c, ic_plan *plan)
{
    *plan = (ic_plan){.budget = c->cache_tokens,
                      .recent = ic_policy_recent(c),
                      .scored = true,
                      .per_layer = c->per_layer};
}

const ic_policy ic_policy_h2o = {.name = "h2o",
                                 .score = IC_SCORE_SUM,
                                 .recent_pct = 50,
                                 .pool = 1,
                                 .settings = IC_USES_RECENT | IC_USES(IC_SET_PER_LAYER),
                                 .plan = build_plan,
                                 .every_token = true};
