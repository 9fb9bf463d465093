/* full: keeps everything and refuses what does not fit. The yardstick for the other policies: as
 * long as it admits, the model sees what plain transformers would show it. */
#include "engine/ic_policy.h"

static int full_error(const ic_session_config *c, int used, int64_t rows, ic_error *e)
{
    return ic_error_set(e, IC_ELIMIT,
                        "the cache is full: it holds %d of %d tokens, %lld more do not fit, and "
                        "policy \"full\" evicts nothing; use a larger cache or policy "
                        "\"streaming\", or start a new session",
                        used, c->cache_tokens, (long long)rows);
}

static int admit(const ic_session_config *c, int used, int64_t rows, ic_error *e)
{
    return used + rows <= c->cache_tokens ? IC_OK : full_error(c, used, rows, e);
}

static bool chunk_end(const ic_session_config *c, int used, ic_plan *plan)
{
    (void)c, (void)used, (void)plan;
    return false;
}

static int answer_row(const ic_session_config *c, int used, bool *evict, ic_plan *plan, ic_error *e)
{
    (void)plan;
    *evict = false;
    return used + 1 + IC_POLICY_CLOSERS <= c->cache_tokens ? IC_OK : full_error(c, used, 1, e);
}

const ic_policy ic_policy_full = {
    .name = "full", .admit = admit, .chunk_end = chunk_end, .answer_row = answer_row};
