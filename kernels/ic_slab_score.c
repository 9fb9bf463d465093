/* Scores of a slab's rows: their memory, and their place in a checkpoint: f32 per row, head by head
 * in position order. */
#include <math.h>

#include "base/ic_assert.h"
#include "base/ic_mem.h"
#include "kernels/ic_slab_priv.h"

size_t ic_slab_score_bytes(const ic_slab_desc *desc)
{
    return (size_t)desc->layers * (size_t)desc->kv_heads * (size_t)desc->slots * sizeof(float);
}

int ic_slab_keep_scores(ic_slab *s, ic_score_kind kind, float smooth, ic_error *e)
{
    IC_ASSERT(ic_slab_used(s) == 0 && !s->scores && smooth >= 0 && smooth < 1);
    if (kind == IC_SCORE_NONE)
        return 0;
    s->scores = ic_try_calloc(ic_slab_score_bytes(&s->desc), 1);
    if (!s->scores)
        return ic_error_set(e, IC_ENOMEM, "no memory for the scores of %d rows in %d heads",
                            s->desc.slots, s->heads);
    s->mirror_stale = true;
    s->score_kind = kind;
    s->smooth = smooth;
    return 0;
}

void ic_slab_scores(const ic_slab *s, int layer, int kv_head, float *scores)
{
    int count = ic_slab_count(s, layer, kv_head), head = ic_slab_head(s, layer, kv_head);
    const int32_t *order = ic_slab_order_of(s, head);
    IC_ASSERT(s->scores);
    if (ic_slab_pull(s))
        return;
    for (int i = 0; i < count; i++)
        scores[i] = ic_slab_scores_of(s, head)[order[i]];
}

int ic_slab_save_scores(const ic_slab *s, ic_buf *out)
{
    int rc = s->scores ? ic_slab_pull(s) : 0;
    if (rc)
        return rc;
    for (int head = 0; s->scores && head < s->heads; head++)
        for (int i = 0; i < s->counts[head]; i++)
            ic_buf_f32(out, ic_slab_scores_of(s, head)[ic_slab_order_of(s, head)[i]]);
    return out->status;
}

int ic_slab_load_scores(ic_slab *s, ic_cursor *in, ic_error *e)
{
    if (s->scores && ic_slab_touch(s))
        return ic_error_set(e, IC_EDEVICE, "the device refused the scores of a checkpoint");
    for (int head = 0; s->scores && head < s->heads; head++)
        for (int i = 0; i < s->counts[head]; i++) {
            float score = ic_cursor_f32(in);
            bool none = ic_score_is_windowed(s->score_kind) && score == -1.0f;
            if (in->status || !isfinite(score) || (score < 0 && !none)
                || (signbit(score) != 0) != none)
                return ic_error_set(e, IC_EFORMAT, "scores of head %d in the checkpoint: %s", head,
                                    in->status ? "cut off" : "no attention gives such a number");
            ic_slab_scores_of(s, head)[ic_slab_order_of(s, head)[i]] = score;
        }
    return 0;
}
