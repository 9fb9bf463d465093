/* ic_weights: the tensors of a model directory's *.safetensors, memory-mapped, single file or
 * sharded.
 *
 * Every header is checked whole before a tensor is given out: lengths, dtypes, shapes against byte
 * counts, overlaps, the file's own end. The mapped file must not be cut short by others while it is
 * open.
 */
#ifndef IC_WEIGHTS_H
#define IC_WEIGHTS_H

#include "kernels/ic_device.h"

enum { IC_WEIGHTS_DIMS = 8 };

typedef struct ic_weights ic_weights;

typedef struct ic_tensor_view { /* borrowed from the ic_weights */
    const void *data;           /* aligned to its dtype */
    ic_dtype dtype;
    int dims;
    int64_t shape[IC_WEIGHTS_DIMS];
    int64_t elements;
} ic_tensor_view;

/* <dir>/model.safetensors, or the shards that <dir>/model.safetensors.index.json names. Caller owns
 * *out. IC_ENOTFOUND, IC_EFORMAT, IC_EIO: the sentence names the file. */
IC_MUST_CHECK int ic_weights_open(ic_weights **out, const char *dir, ic_error *e);
/* One safetensors file in memory (tests, fuzzing). Borrows the bytes for the life of *out. */
IC_MUST_CHECK int ic_weights_open_memory(ic_weights **out, const void *bytes, size_t size,
                                         ic_error *e);
void ic_weights_close(ic_weights **w_p);

bool ic_weights_has(const ic_weights *w, const char *name);
/* The tensor of that name and shape (dims entries of shape; -1 fits any size). IC_ENOTFOUND,
 * IC_EUNSUPPORTED (a dtype that this build does not compute with), IC_EFORMAT (another shape). */
IC_MUST_CHECK int ic_weights_get(const ic_weights *w, const char *name, int dims,
                                 const int64_t *shape, ic_tensor_view *view, ic_error *e);
int64_t ic_weights_bytes(const ic_weights *w); /* of all tensors */
/* Identity of the content, 16 bytes: a hash of every header and of the data (all of it up to 1 GiB
 * in total; beyond, the first and last 64 KiB of each tensor, so that opening a large model does
 * not read it twice). */
void ic_weights_fingerprint(const ic_weights *w, uint8_t hash[16]);

#endif
