/* ic_model_config: a Hugging Face model directory's settings as one plain struct.
 *
 * Reads config.json (as transformers 4.57 and 5.x spell it), preprocessor_config.json,
 * video_preprocessor_config.json or processor_config.json, and generation_config.json. A model is
 * data: the shared decoder reads this, and nothing else, to know what it is. Everything is
 * range-checked here, so that the engine may trust it.
 */
#ifndef IC_MODEL_CONFIG_H
#define IC_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/ic_err.h"
#include "engine/ic_sampler.h"

enum { IC_DEEPSTACK_MAX = 8, IC_STOP_MAX = 8 };

typedef struct ic_text_config {
    int hidden, layers, heads, kv_heads, head_dim, intermediate, vocab, max_positions;
    float rms_eps;
    double rope_theta;
    int mrope_section[3]; /* frequencies of t, h, w; they sum to head_dim / 2; {head_dim / 2, 0, 0}:
                             plain RoPE */
    bool mrope_interleaved;
    bool attention_bias; /* q, k, v and o carry biases */
    bool tied_head;      /* the output head is the embedding table */
} ic_text_config;

typedef struct ic_vision_config {
    int depth, hidden, heads, intermediate, patch, temporal, merge, channels, out_hidden;
    int positions; /* rows of the learned position table: side * side */
    int deepstack[IC_DEEPSTACK_MAX], deepstack_count; /* blocks after which a level is taken */
    double rope_theta;
    bool gelu_tanh; /* of the blocks: tanh form, else erf */
} ic_vision_config;

typedef struct ic_processor_config {
    int64_t image_min_pixels, image_max_pixels;
    int64_t video_min_pixels, video_max_pixels; /* over all frames of a clip */
    int64_t video_frame_max_tokens;             /* cap of one frame's tokens; 0: none */
    float image_mean[3], image_std[3], video_mean[3], video_std[3];
    double fps;
    int min_frames, max_frames;
} ic_processor_config;

typedef struct ic_model_config {
    char architecture[64];
    ic_text_config text;
    ic_vision_config vision;
    ic_processor_config processor;
    int32_t image_token, video_token, vision_start, vision_end;
    int32_t stop[IC_STOP_MAX];
    int stop_count;
    ic_sampling sampling; /* of generation_config.json; greedy where it says do_sample: false */
    char dtype[12];       /* of the stored weights as config.json tells, or "" */
} ic_model_config;

/* IC_ENOTFOUND (no directory, no config.json), IC_EUNSUPPORTED (names the architecture or feature),
 * IC_EFORMAT (names file and key). */
IC_MUST_CHECK int ic_model_config_load(ic_model_config *config, const char *dir, ic_error *e);

#endif
