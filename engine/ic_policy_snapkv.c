/* snapkv: the window's own rows, and the rows before it to which the window paid most attention,
 * pooled over neighbours. Source: SnapKV (Li et al. 2024, arXiv:2404.14469), section 4: sum over
 * the last queries, 1-D mean pooling of width 5, per head. Differences: positions are those inside
 * the cache; published for one prompt that fits the memory, it is here carried out at the end of
 * every chunk that overruns the budget. Sum and mean of a window's attention rank the rows before
 * it alike. An answer that uses up its slack is cut back as in saddle. */
#include "engine/ic_policy.h"

static void build_plan(const ic_session_config *c, ic_plan *plan)
{
    *plan = (ic_plan){.budget = c->cache_tokens,
                      .recent = c->window,
                      .scored = true,
                      .pool = c->pool,
                      .per_layer = c->per_layer};
}

const ic_policy ic_policy_snapkv = {.name = "snapkv",
                                    .score = IC_SCORE_WINDOW,
                                    .pool = 5,
                                    .settings = IC_USES_SCORES,
                                    .plan = build_plan};
