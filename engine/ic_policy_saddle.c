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
 * saddle-paper is that. saddle differs, and in all of this it is ours (docs/memory.md has what was
 * measured):
 * - The window is not the chunk's, which on a film is a frame and knows nothing of what will be
 *   asked, but the last queries of the newest questions: they look again whenever something must
 *   leave, standing where the newest rows do. As long as nothing has been asked the chunk's own
 *   queries look.
 * - A row's score is the most that any one of them pays, and fades from chunk to chunk, so that
 *   what mattered once stays for a while.
 * - Frames are thinned out: the newest few stay whole, of each older one some best rows, with age
 *   ever fewer, of ever fewer frames. (That the best of a bucket of time should stay is LiveVLM's
 *   idea, too.)
 * - Newest text has a share of its own, so that frames do not crowd it out, nor it them.
 * - Where nothing has been asked, the rest is the newest: on prose saddle is streaming. */
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

/* A memory of many lone rows, from many frames, misleads about the present: the demo model never
 * saw more than some hundred. So older frames get no larger a part of a large budget, but two rows
 * each, and the newest get the rest; in a small one text needs some 20 rows of its own. Measured:
 * docs/memory.md. */
enum { SMALL = 256, LARGE = 512, OLDER_AND_PINS = 160 };

static void settle(ic_session_config *c)
{
    bool small = c->cache_tokens < SMALL;
    if (c->frame_unit == IC_FRAME_WHOLE || c->thin < 0)
        return;
    if (!c->thin && c->cache_tokens >= LARGE)
        c->thin = 2;
    if (!c->text_pct && small)
        c->text_pct = 15;
    if (c->recent_pct || !c->cache_tokens)
        return;
    int most = 90 - 100 * OLDER_AND_PINS / c->cache_tokens;
    c->recent_pct = small ? 40 : most > ic_policy_saddle.recent_pct ? most : 0;
}

enum {
    USES = IC_USES_SINKS | IC_USES_RECENT | IC_USES_SCORES | IC_USES(IC_SET_BIAS)
           | IC_USES(IC_SET_FRAME_UNIT) | IC_USES(IC_SET_FRAMES) | IC_USES(IC_SET_QUESTIONS)
           | IC_USES(IC_SET_THIN) | IC_USES(IC_SET_FADE) | IC_USES(IC_SET_CARE)
           | IC_USES(IC_SET_TEXT)
};

const ic_policy ic_policy_saddle = {.name = "saddle",
                                    .score = IC_SCORE_WINDOW,
                                    .recent_pct = 45,
                                    .bias_pct = 100,
                                    .smooth_pct = 95,
                                    .pool = 15,
                                    .questions = 8,
                                    .frames = 2,
                                    .thin = 1,
                                    .fade_pct = 150,
                                    .text_pct = 10,
                                    .settle = settle,
                                    .settings = USES,
                                    .plan = build_plan};

const ic_policy ic_policy_saddle_paper = {.name = "saddle-paper",
                                          .score = IC_SCORE_WINDOW,
                                          .recent_pct = 50,
                                          .bias_pct = 100,
                                          .pool = 1,
                                          .settings = USES,
                                          .plan = build_plan};
