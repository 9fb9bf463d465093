/* A session's state from hostile bytes: it is refused, or it is a session that can be stepped and
 * destroyed. The engine is the smallest golden model. */
#include <stdio.h>
#include <stdlib.h>

#include "ic_test_session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS = 6 };

static void try_policy(ic_engine *engine, const char *policy, const uint8_t *data, size_t size)
{
    ic_session_config config;
    ic_session *s;
    ic_error e;
    ic_session_config_default(engine, 64, &config);
    snprintf(config.policy, sizeof config.policy, "%s", policy);
    if (ic_session_new(&s, engine, &config, &e))
        abort();
    if (ic_session_load_state(s, data, size, &e) == IC_OK
        && ic_session_load_finish(s, &e) == IC_OK) {
        for (int i = 0; i < STEPS && ic_session_is_ready(s); i++) {
            ic_slice slice = {.session = s, .max_rows = 16};
            if (ic_engine_step(engine, &slice, 1, &e))
                abort();
        }
    }
    ic_session_destroy(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ic_engine *engine;
    if (!engine)
        engine = ic_test_engine("gqa2_text_f32", NULL, 1);
    try_policy(engine, "streaming", data, size);
    try_policy(engine, "saddle", data, size);
    return 0;
}
