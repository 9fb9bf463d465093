/* ic_engine_priv: what the files of the engine know of an open engine. */
#ifndef IC_ENGINE_PRIV_H
#define IC_ENGINE_PRIV_H

#include "engine/ic_engine.h"
#include "engine/ic_model.h"
#include "engine/ic_vision.h"

enum {
    IC_STEP_PREFILL = 512,  /* prefill rows of one pass through the model */
    IC_STEP_DECODE = 64,    /* decode rows of one pass */
    IC_STEP_WANTED = 64,    /* rows of one pass whose logits are wanted */
    IC_GROUP_TOKENS = 2048, /* default of the largest frame group, in tokens */
    IC_FRAMES_MAX = 2       /* frames in one group */
};

typedef struct ic_step ic_step;

struct ic_engine {
    /* immutable after open */
    ic_engine_info info;
    ic_model_config config;
    ic_device *device;
    ic_weights *weights;
    ic_tokenizer *tokenizer;
    ic_grammar *grammar;
    ic_model *model;
    ic_vision *vision;
    ic_dtype kv_dtype; /* default of sessions */
    int group_tokens_max;
    /* owner thread only */
    ic_step *step;
    ic_logits_fn *watch;
    void *watch_arg;
};

/* Device scratch of what both towers do, whatever sessions there are. */
IC_MUST_CHECK int ic_engine_reserve(ic_engine *engine, ic_error *e);
/* What operations on a session's cache will be asked for; desc is kept by reference. */
ic_ops_bounds ic_engine_bounds(const ic_engine *engine, const struct ic_session_config *config,
                               const ic_slab_desc *desc);

ic_step *ic_step_new(const ic_engine *engine);
void ic_step_destroy(ic_step **s_p);

#endif
