/* full: keeps everything and refuses what does not fit. The yardstick for the other policies: as
 * long as it admits, the model sees what plain transformers would show it. */
#include "engine/ic_policy.h"

static int refuse(const ic_session_config *c, int used, int64_t rows, ic_error *e)
{
    if (used + rows <= c->cache_tokens)
        return IC_OK;
    return ic_error_set(e, IC_ELIMIT,
                        "the cache is full: it holds %d of %d tokens, %lld more do not fit, and "
                        "policy \"full\" evicts nothing; use a larger cache or policy "
                        "\"streaming\", or start a new session",
                        used, c->cache_tokens, (long long)rows);
}

const ic_policy ic_policy_full = {.name = "full", .refuse = refuse};
