/* The safetensors reader on hostile bytes: whatever they are, opening ends with an error or with
 * tensors whose every byte can be read. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/ic_weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1); /* exact size, so that a read past the end is caught */
    if (!copy)
        return 0;
    memcpy(copy, data, size);
    ic_weights *w = NULL;
    ic_error e;
    if (ic_weights_open_memory(&w, copy, size, &e) == IC_OK) {
        uint8_t hash[16];
        ic_weights_fingerprint(w, hash);
    }
    ic_weights_close(&w);
    free(copy);
    return 0;
}
