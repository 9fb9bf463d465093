/* A device's memory: what the model's work takes of it, and how many sessions the rest holds. */
#include "engine/ic_session_priv.h"

enum { PICTURE_BYTES = 3840 * 2160 * 3 }; /* larger ones are resized by the host */

int ic_engine_reserve(ic_engine *engine, ic_error *e)
{
    const ic_vision_config *v = &engine->config.vision;
    int patches = engine->group_tokens_max * v->merge * v->merge;
    int rows = IC_STEP_PREFILL + IC_STEP_DECODE;
    ic_ops_bounds bounds = {.rows = patches > rows ? patches : rows,
                            .drawn = IC_STEP_WANTED,
                            .patches = patches,
                            .vision_heads = v->heads,
                            .vision_dim = v->hidden / v->heads,
                            .vision_theta = (float)v->rope_theta,
                            .frame_bytes = (size_t)v->temporal * (size_t)patches * (size_t)v->patch
                                           * (size_t)v->patch * 3,
                            .picture_bytes = PICTURE_BYTES};
    int rc = ic_ops_reserve(engine->device, &bounds);
    return rc ? ic_error_set(e, rc, "no device memory for frames of %d patches", patches) : IC_OK;
}

ic_ops_bounds ic_engine_bounds(const ic_engine *engine, const ic_session_config *config,
                               const ic_slab_desc *desc)
{
    const ic_policy *policy = ic_policy_find(config->policy);
    int window = config->window ? config->window : IC_POLICY_WINDOW;
    return (ic_ops_bounds){.slab = desc,
                           .score = policy ? policy->score : IC_SCORE_NONE,
                           .heads = engine->config.text.heads,
                           .slice_rows = window > IC_STEP_PREFILL ? window : IC_STEP_PREFILL,
                           .rope = ic_model_rope(engine->model)};
}

void ic_engine_fit(const ic_engine *engine, const ic_session_config *config, int wanted,
                   ic_engine_room *room)
{
    ic_device_memory m = ic_device_memory_of(engine->device);
    ic_slab_desc desc = ic_session_slab_desc(engine, config);
    ic_ops_bounds bounds = ic_engine_bounds(engine, config, &desc);
    size_t more = ic_ops_reserve_bytes(engine->device, &bounds), taken = m.used + more;
    size_t fixed = m.scratch + (size_t)engine->info.weight_bytes;
    *room = (ic_engine_room){.limit = m.limit,
                             .weights = (size_t)engine->info.weight_bytes,
                             .work = m.used > fixed ? m.used - fixed : 0,
                             .scratch = m.scratch + more,
                             .session = ic_session_device_memory(engine, config),
                             .sessions = wanted};
    room->host = ic_session_host_memory(engine, config);
    if (room->session == 0)
        return;
    size_t fits = taken < m.limit ? (m.limit - taken) / room->session : 0;
    room->sessions = fits < (size_t)wanted ? (int)fits : wanted;
}
