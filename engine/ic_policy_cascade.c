/* cascade: sinks, and the rest of the budget in parts of equal size that take ever fewer of the
 * rows that the part before gives up: the first is a window of the newest, the next takes every
 * second, the one after it every fourth. Where a part does not take, the higher score keeps the
 * place. Source: Cascading KV Cache (Willette et al. 2024, arXiv:2406.17808), sections 3.2 and 3.3
 * and the authors' code: parts fill eagerly, positions are those inside the cache, scores are
 * moving averages of attention, per head. Differences: scores are a window's, averaged chunk by
 * chunk and not token by token, with a decay that is ours (smooth_pct 90); all that came since the
 * last eviction cascades with the scores of this one; four parts. */
#include "engine/ic_policy.h"

enum { PARTS = 4 };

static void build_plan(const ic_session_config *c, ic_plan *plan)
{
    *plan = (ic_plan){
        .budget = c->cache_tokens, .sinks = c->sinks, .cascades = PARTS, .per_layer = c->per_layer};
}

const ic_policy ic_policy_cascade = {.name = "cascade",
                                     .score = IC_SCORE_WINDOW,
                                     .smooth_pct = 90,
                                     .pool = 1,
                                     .settings =
                                         IC_USES_SINKS | (IC_USES_SCORES & ~IC_USES(IC_SET_POOL)),
                                     .plan = build_plan};
