/* streaming: pinned rows, the oldest few ("sinks") and the newest. Source: StreamingLLM (Xiao et
 * al. 2023, arXiv:2309.17453), section 3: keys are kept before RoPE and positions are those inside
 * the cache. Here on policy chunks, and with the system turn pinned besides the sinks. */
#include "engine/ic_policy.h"

static void build_plan(const ic_session_config *c, ic_plan *plan)
{
    *plan = (ic_plan){.budget = c->cache_tokens, .sinks = c->sinks};
}

const ic_policy ic_policy_streaming = {
    .name = "streaming", .settings = IC_USES_SINKS, .plan = build_plan};
