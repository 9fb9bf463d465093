/* saddle: pinned rows, sinks, the newest l rows, and the r rows to which the newest queries paid
 * most attention. Source: Inf-MLLM (Ning et al. 2024, arXiv:2409.09086), figure 3 and abstract:
 * when a chunk has come, its last L queries form a retrieval window; columns of their softmax
 * attention are summed and averaged; rows of the chunk itself may leave too; between chunks
 * decoding only appends.
 *
 * Ours, since the paper's body could not be had: the values of L, l, lambda and the sinks; the mean
 * over those rows of the window that see a column, and over the query heads that share a kv head;
 * selection per kv head; the bias S + lambda * mean(S) * rank / (n - 1), rank by age. Rows that
 * came since the last window (an answer) count as recent; when an answer uses up its slack, the
 * lowest scores of the last chunk leave first, then the oldest rows.
 *
 * saddle-paper is that. saddle differs in one thing, which is ours too: scores are means over 15
 * neighbours, so that stretches stay and not lone tokens, whose neighbours in the cache would then
 * be strangers (docs/policies.md has the measurement). */
#include "engine/ic_policy.h"

static float hundredths(int value)
{
    return value > 0 ? (float)value / 100.0f : 0;
}

static void build_plan(const ic_session_config *c, ic_plan *plan)
{
    *plan = (ic_plan){.budget = c->cache_tokens,
                      .sinks = c->sinks,
                      .recent = ic_policy_recent(c),
                      .scored = true,
                      .bias = hundredths(c->bias_pct),
                      .pool = c->pool,
                      .per_layer = c->per_layer,
                      .whole = c->frame_unit == IC_FRAME_WHOLE};
    if (c->thin <= 0)
        return;
    plan->thin = c->thin;
    plan->frames = c->frames;
    plan->text = c->text_pct > 0 ? (int)((int64_t)c->cache_tokens * c->text_pct / 100) : 0;
    plan->fade = hundredths(c->fade_pct);
    plan->care = hundredths(c->care_pct);
}

enum {
    USES = IC_USES_SINKS | IC_USES_RECENT | IC_USES_SCORES | IC_USES(IC_SET_BIAS)
           | IC_USES(IC_SET_FRAME_UNIT) | IC_USES(IC_SET_FRAMES) | IC_USES(IC_SET_QUESTIONS)
           | IC_USES(IC_SET_THIN) | IC_USES(IC_SET_FADE) | IC_USES(IC_SET_CARE)
           | IC_USES(IC_SET_TEXT)
};

const ic_policy ic_policy_saddle = {.name = "saddle",
                                    .score = IC_SCORE_WINDOW,
                                    .recent_pct = 50,
                                    .bias_pct = 100,
                                    .pool = 15,
                                    .settings = USES,
                                    .plan = build_plan};

const ic_policy ic_policy_saddle_paper = {.name = "saddle-paper",
                                          .score = IC_SCORE_WINDOW,
                                          .recent_pct = 50,
                                          .bias_pct = 100,
                                          .pool = 1,
                                          .settings = USES,
                                          .plan = build_plan};
