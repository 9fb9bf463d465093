/* ic_cpu: what the files of the CPU backend share. */
#ifndef IC_CPU_H
#define IC_CPU_H

#include "kernels/cpu/ic_cpu_library.h"
#include "kernels/cpu/ic_cpu_pool.h"
#include "kernels/cpu/ic_cpu_vec.h"
#include "kernels/ic_device_priv.h"
#include "kernels/ic_half.h"

/* Cosines and sines of position * inv_freq, by position: shared by all layers and sessions. */
typedef struct ic_cpu_angles {
    int half, positions; /* rows in use */
    float scale;
    float *inv_freq;      /* [half], a copy: what the table was made of */
    float *cosine, *sine; /* [positions, half] */
    uint8_t *axis;        /* [half], a copy */
    bool one_axis;        /* all frequencies by t */
} ic_cpu_angles;

typedef struct ic_cpu_scratch {
    char *memory;
    size_t bytes;
} ic_cpu_scratch;

typedef struct ic_cpu_device {
    ic_device base;
    ic_cpu_pool *pool;
    const ic_cpu_vec *vec;
    ic_cpu_library *library; /* prefill products go through it; NULL: the own loops */
    ic_cpu_scratch shared;   /* of the operation in progress */
    ic_cpu_scratch *workers; /* [threads]: of the task in progress */
    ic_cpu_angles angles;
} ic_cpu_device;

typedef struct ic_cpu_weight {
    ic_weight base;
    ic_dtype stored;
    const void *data; /* [out, in], rows without gaps */
    void *own;        /* data, when it is ours */
} ic_cpu_weight;

static inline ic_cpu_device *ic_cpu_of(ic_device *d)
{
    return (ic_cpu_device *)(void *)d;
}

static inline float *ic_cpu_row(const ic_mat *m, int64_t row)
{
    return (float *)m->data + row * m->stride;
}

static inline float ic_cpu_at(const ic_mat *m, int64_t row, int64_t col)
{
    return ic_dtype_get(m->dtype, m->data, row * m->stride + col);
}

static inline int64_t ic_cpu_round_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

/* At least `bytes`, 64-byte aligned, content undefined. NULL: out of memory. */
void *ic_cpu_shared_scratch(ic_cpu_device *d, size_t bytes);
/* The same for every worker before a job; then each task takes its worker's. */
int ic_cpu_reserve_workers(ic_cpu_device *d, size_t bytes);
static inline void *ic_cpu_worker_scratch(ic_cpu_device *d, int worker)
{
    return d->workers[worker].memory;
}

double ic_cpu_now(void); /* seconds, monotonic */

/* Runs fn over rows [first, end) in pieces of about `grain` rows. */
typedef void (*ic_cpu_rows_fn)(void *job, int64_t first, int64_t end);
void ic_cpu_for_rows(ic_cpu_device *d, ic_cpu_rows_fn fn, void *job, int64_t rows, int64_t grain);

int ic_cpu_weight_new(ic_weight **out, ic_device *d, const void *host, ic_dtype from,
                      ic_dtype compute, int64_t out_dim, int64_t in_dim, ic_error *e);
void ic_cpu_weight_destroy(ic_weight *w);
int ic_cpu_gemm(ic_device *d, ic_role role, const ic_mat *x, const ic_weight *w, const float *bias,
                bool add, ic_mat *y);
double ic_cpu_gemm_rate(ic_device *d, ic_dtype compute, int m, int n, int k, double seconds);
double ic_cpu_read_time(ic_device *d, const void *memory, size_t bytes);
double ic_cpu_read_rate(ic_device *d, size_t bytes, double seconds);

int ic_cpu_gather(ic_device *d, const ic_mat *table, const int32_t *ids, ic_mat *y);
int ic_cpu_rmsnorm(ic_device *d, const ic_mat *x, const float *weight, int dim, float eps,
                   ic_mat *y);
int ic_cpu_layernorm(ic_device *d, const ic_mat *x, const float *weight, const float *bias,
                     float eps, ic_mat *y);
int ic_cpu_swiglu(ic_device *d, const ic_mat *gate_up, ic_mat *y);
int ic_cpu_gelu(ic_device *d, const ic_mat *x, bool tanh_form, ic_mat *y);
int ic_cpu_add(ic_device *d, const ic_mat *x, ic_mat *y);
int ic_cpu_scatter(ic_device *d, const ic_mat *x, const int32_t *rows, bool set, ic_mat *y);

int ic_cpu_slab_store(ic_slab *s, int layer, int appended, int first, const ic_mat *k,
                      const ic_mat *v);
int ic_cpu_attention_prefill(ic_device *d, const ic_slab *s, int layer, int heads, const ic_mat *q,
                             int behind, const ic_rope *rope, float scale, int window, ic_mat *y);
int ic_cpu_attention_score(ic_device *d, const ic_slab *s, int layer, int heads, const ic_mat *q,
                           const ic_rope *rope, float scale);
int ic_cpu_attention_decode(ic_device *d, const ic_slab *const *slabs, int n, int layer, int heads,
                            const ic_mat *q, const ic_rope *rope, float scale, ic_mat *y);
int ic_cpu_attention_full(ic_device *d, const ic_mat *q, const ic_mat *k, const ic_mat *v,
                          const int32_t *starts, int n, int heads, float scale, ic_mat *y);

int ic_cpu_patchify(ic_device *d, const ic_patch_layout *layout, const uint8_t *const *frames,
                    ic_mat *y);
int ic_cpu_vision_positions(ic_device *d, const ic_mat *table, int side,
                            const ic_patch_layout *layout, ic_mat *y);
int ic_cpu_vision_rope(ic_device *d, const ic_patch_layout *layout, int heads, int head_dim,
                       float theta, ic_mat *q, ic_mat *k);

#endif
