/* streaming: pinned rows, the oldest few ("sinks") and the newest. Source: StreamingLLM (Xiao et
 * al. 2023, arXiv:2309.17453), section 3: keys are kept before RoPE and positions are those inside
 * the cache. Here on policy chunks, and with the system turn pinned besides the sinks. */
#include "engine/ic_policy.h"

static void build_plan(const ic_session_config *c, ic_plan *plan)
{
    *plan = (ic_plan){.budget = c->cache_tokens, .sinks = c->sinks};
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

const ic_policy ic_policy_streaming = {.name = "streaming",
                                       .admit = ic_policy_admit,
                                       .chunk_end = chunk_end,
                                       .answer_row = answer_row};
