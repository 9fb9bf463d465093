/* ic_device_priv: what a backend provides. The public functions check shapes and call through this
 * table; a backend's own struct begins with struct ic_device, its weights with struct ic_weight.
 */
#ifndef IC_DEVICE_PRIV_H
#define IC_DEVICE_PRIV_H

#include "kernels/ic_ops.h"

/* A piece of device memory, and where its bytes stand in an image. Of those in a list, each begins
 * behind the end of the one before. */
typedef struct ic_block {
    char *device;
    size_t at, bytes; /* multiples of 4 where a backend moves them itself */
} ic_block;

typedef struct ic_backend {
    void (*close)(ic_device *d);
    void *(*alloc)(ic_device *d, size_t bytes);
    void (*free)(ic_device *d, void *memory);
    /* Of a backend with memory of its own (all three); NULL: it is the host's. */
    ic_device_memory (*memory)(ic_device *d);
    size_t (*reserve_bytes)(ic_device *d, const ic_ops_bounds *b);
    int (*reserve)(ic_device *d, const ic_ops_bounds *b);
    /* Host memory that copies fastest; NULL: any does. */
    void *(*alloc_host)(ic_device *d, size_t bytes);
    void (*free_host)(ic_device *d, void *memory);
    int (*upload)(ic_device *d, void *to_device, const void *from_host, size_t bytes);
    int (*download)(ic_device *d, void *to_host, const void *from_device, size_t bytes);
    /* Many pieces of device memory to and from one image in host memory, with what their words add
     * to its checksum (ic_sum.h). What lies between the pieces of the image may be overwritten by
     * the first. Any thread, beside what computes. NULL: piece by piece. */
    int (*gather_blocks)(ic_device *d, const ic_block *blocks, int n, uint8_t *image,
                         uint64_t *sum);
    int (*scatter_blocks)(ic_device *d, const ic_block *blocks, int n, const uint8_t *image,
                          uint64_t *sum);
    /* Anything but 0: not here, the host is to do it. NULL: never here. Any thread. */
    int (*resize_rgb)(ic_device *d, const uint8_t *src, int sw, int sh, uint8_t *dst, int dw,
                      int dh);
    int (*weight_new)(ic_weight **out, ic_device *d, const void *host, ic_dtype from,
                      ic_dtype compute, int64_t out_dim, int64_t in_dim, ic_error *e);
    void (*weight_destroy)(ic_weight *w);
    int (*slab_store)(ic_slab *s, int layer, int appended, int first, const ic_mat *k,
                      const ic_mat *v);
    /* NULL: one by one. */
    int (*slab_store_each)(ic_slab *const *slabs, int n, int layer, const ic_mat *k,
                           const ic_mat *v);
    /* Of a backend that keeps its own copy of a slab's tables and carries out what changes them
     * (all six); NULL: the host's tables are the only ones (ic_slab_priv.h). */
    int (*slab_open)(ic_slab *s, ic_error *e);
    void (*slab_close)(ic_slab *s);
    int (*slab_append)(ic_slab *s, const ic_row *rows, int count);
    /* Forgets the last `count` rows of every head; the oldest of them in the first head. */
    int (*slab_drop)(ic_slab *s, int count, ic_row *row, ic_pos *position);
    void (*slab_evict_each)(ic_eviction *list, int n);
    int (*slab_pull)(ic_slab *s);

    int (*gemm)(ic_device *d, ic_role role, const ic_mat *x, const ic_weight *w, const float *bias,
                bool add, ic_mat *y);
    int (*gather)(ic_device *d, const ic_mat *table, const int32_t *ids, ic_mat *y);
    int (*rmsnorm)(ic_device *d, const ic_mat *x, const float *weight, int dim, float eps,
                   ic_mat *y);
    int (*layernorm)(ic_device *d, const ic_mat *x, const float *weight, const float *bias,
                     float eps, ic_mat *y);
    int (*swiglu)(ic_device *d, const ic_mat *gate_up, ic_mat *y);
    int (*gelu)(ic_device *d, const ic_mat *x, bool tanh_form, ic_mat *y);
    int (*add)(ic_device *d, const ic_mat *x, ic_mat *y);
    int (*scatter)(ic_device *d, const ic_mat *x, const int32_t *rows, bool set, ic_mat *y);
    int (*attention_prefill)(ic_device *d, const ic_slab *s, int layer, int heads, const ic_mat *q,
                             int behind, const ic_rope *rope, float scale, int window, ic_mat *y);
    /* NULL: one by one. */
    int (*attention_slices)(ic_device *d, const ic_attend_slice *slices, int n, int layer,
                            int heads, const ic_mat *q, const ic_rope *rope, float scale,
                            ic_mat *y);
    int (*attention_score)(ic_device *d, const ic_slab *s, int layer, int heads, const ic_mat *q,
                           const ic_rope *rope, float scale);
    int (*attention_decode)(ic_device *d, const ic_slab *const *slabs, int n, int layer, int heads,
                            const ic_mat *q, const ic_rope *rope, float scale, ic_mat *y);
    int (*attention_decode_rotated)(ic_device *d, const ic_slab *const *slabs, int n, int layer,
                                    int heads, const ic_mat *q, const ic_rope *rope, float scale,
                                    ic_mat *y); /* NULL: it cannot */
    int (*patchify)(ic_device *d, const ic_patch_layout *layout, const uint8_t *const *frames,
                    ic_mat *y);
    int (*vision_positions)(ic_device *d, const ic_mat *table, int side,
                            const ic_patch_layout *layout, ic_mat *y);
    int (*vision_rope)(ic_device *d, const ic_patch_layout *layout, int heads, int head_dim,
                       float theta, ic_mat *q, ic_mat *k);
    int (*attention_full)(ic_device *d, const ic_mat *q, const ic_mat *k, const ic_mat *v,
                          const int32_t *starts, int n, int heads, float scale, ic_mat *y);
    int (*wait)(ic_device *d);
    /* Of a device that records steps (both), and of one that samples; NULL: it does not. */
    int (*step_begin)(ic_device *d, const ic_slab *const *slabs, int n, uint64_t shape);
    int (*step_end)(ic_device *d, int rc);
    int (*sample)(ic_device *d, const ic_mat *logits, const ic_draw *draws, int32_t *tokens);
    /* Of a device that can be lost (NULL: cannot): its first failure in words, "" for none. */
    const char *(*trouble)(ic_device *d);
    double (*read_rate)(ic_device *d, size_t bytes, double seconds);
    double (*read_time)(ic_device *d, const void *memory, size_t bytes);
    double (*gemm_rate)(ic_device *d, ic_dtype compute, int m, int n, int k, double seconds);
} ic_backend;

struct ic_device {
    const ic_backend *backend; /* immutable after open */
    ic_device_info info;       /* immutable after open */
};

struct ic_weight {
    ic_device *device;
    int64_t out_dim, in_dim;
    ic_dtype compute;
    int64_t bytes, own_bytes;
};

/* The backends' ways in. */
int ic_cpu_device_open(ic_device **out, const ic_device_config *config, ic_error *e);
int ic_cuda_device_open(ic_device **out, const ic_device_config *config, ic_error *e);

#endif
