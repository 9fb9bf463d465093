/* The CUDA backend's device: what it is, what it can do, and its life. */
#include "kernels/cuda/ic_cuda.h"

#include <stdio.h>
#include <string.h>

extern "C" {
#include "base/ic_log.h"
}
#include "kernels/cuda/ic_cuda_slab.h"

enum {
    MARGIN_PART = 32,       /* of the free memory is left alone, */
    MARGIN_MIN = 512 << 20, /* and at least so much: modules, the library, the display */
    KEYS_PART = 64,         /* of the limit are for keys and values of the slices of one launch, */
    KEYS_MAX = 512 << 20,
    RING_BYTES = 64 << 20,
    CAPABILITY_MIN = 80 /* asynchronous copies and bf16 tensor cores */
};

thread_local bool ic_cuda_busy;

/* --- errors --- */

static int note(ic_cuda_device *d, int rc, const char *what, const char *why)
{
    if (!d->trouble[0])
        snprintf(d->trouble, sizeof d->trouble, "%s: %s", why, what);
    return rc;
}

int ic_cuda_check(ic_cuda_device *d, cudaError_t code, const char *what)
{
    if (code == cudaSuccess)
        return 0;
    if (code == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* it does not stay: the device goes on */
        return IC_ENOMEM;
    }
    return note(d, IC_EDEVICE, what, cudaGetErrorString(code));
}

static const char *trouble(ic_device *base)
{
    return ic_cuda_of(base)->trouble;
}

/* --- rotary tables --- */

enum { ROPES_MAX = 8 };

typedef struct known_rope {
    int half;
    float *inv_freq; /* host copy, [half], and the axes behind it */
    char *device;
} known_rope;

struct ic_cuda_ropes {
    known_rope known[ROPES_MAX];
    int count;
};

static bool is_rope(const known_rope *k, const ic_rope *rope)
{
    size_t half = (size_t)rope->half;
    return k->half == rope->half && memcmp(k->inv_freq, rope->inv_freq, half * sizeof(float)) == 0
           && memcmp(k->inv_freq + half, rope->axis, half) == 0;
}

static int learn_rope(ic_cuda_device *d, const ic_rope *rope, known_rope *k)
{
    size_t half = (size_t)rope->half, bytes = half * (sizeof(float) + 1);
    char *host = (char *)ic_alloc(bytes);
    memcpy(host, rope->inv_freq, half * sizeof(float));
    memcpy(host + half * sizeof(float), rope->axis, half);
    char *device = (char *)ic_cuda_alloc(&d->base, bytes);
    int rc = device ? ic_cuda_upload(&d->base, device, host, bytes) : IC_ENOMEM;
    if (rc) {
        ic_cuda_free(&d->base, device);
        ic_free(host);
        return rc;
    }
    *k = known_rope{rope->half, (float *)(void *)host, device};
    return 0;
}

int ic_cuda_rope_of(ic_cuda_device *d, const ic_rope *rope, ic_cuda_rope *out)
{
    struct ic_cuda_ropes *r = d->ropes;
    int at = 0;
    while (at < r->count && !is_rope(&r->known[at], rope))
        at++;
    IC_ASSERT(at < ROPES_MAX); /* a model has one */
    if (at == r->count) {
        int rc = learn_rope(d, rope, &r->known[at]);
        if (rc)
            return rc;
        r->count++;
    }
    const float *inv_freq = (const float *)(void *)r->known[at].device;
    *out =
        ic_cuda_rope{rope->half, inv_freq, (const uint8_t *)(inv_freq + rope->half), rope->scale};
    return 0;
}

static void forget_ropes(ic_cuda_device *d)
{
    for (int i = 0; d->ropes && i < d->ropes->count; i++) {
        ic_cuda_free(&d->base, d->ropes->known[i].device);
        ic_free(d->ropes->known[i].inv_freq);
    }
    ic_free(d->ropes);
}

/* --- open and close --- */

static void device_close(ic_device *base)
{
    ic_cuda_device *d = ic_cuda_of(base);
    (void)cudaSetDevice(d->ordinal);
    if (d->stream)
        (void)cudaStreamSynchronize(d->stream);
    ic_cuda_gemm_close(d);
    ic_cuda_vision_close(d);
    ic_cuda_step_close(d);
    ic_free(d->waiting);
    ic_cuda_mover_close(d);
    ic_cuda_resizer_close(d);
    forget_ropes(d);
    ic_cuda_memory_close(d);
    if (d->stream)
        (void)cudaStreamDestroy(d->stream);
    if (d->copies)
        (void)cudaStreamDestroy(d->copies);
    pthread_mutex_destroy(&d->lock);
    ic_free(d);
}

static const ic_backend backend = {
    .close = device_close,
    .alloc = ic_cuda_alloc,
    .free = ic_cuda_free,
    .memory = ic_cuda_memory_of,
    .reserve_bytes = ic_cuda_ops_reserve_bytes,
    .reserve = ic_cuda_ops_reserve,
    .alloc_host = ic_cuda_alloc_host,
    .free_host = ic_cuda_free_host,
    .upload = ic_cuda_upload,
    .download = ic_cuda_download,
    .gather_blocks = ic_cuda_gather_blocks,
    .scatter_blocks = ic_cuda_scatter_blocks,
    .resize_rgb = ic_cuda_resize_rgb,
    .weight_new = ic_cuda_weight_new,
    .weight_destroy = ic_cuda_weight_destroy,
    .slab_store = ic_cuda_slab_store,
    .slab_store_each = ic_cuda_slab_store_each,
    .slab_open = ic_cuda_slab_open,
    .slab_close = ic_cuda_slab_close,
    .slab_append = ic_cuda_slab_append,
    .slab_drop = ic_cuda_slab_drop,
    .slab_evict_each = ic_cuda_slab_evict_each,
    .slab_pull = ic_cuda_slab_pull,
    .gemm = ic_cuda_gemm,
    .gather = ic_cuda_gather,
    .rmsnorm = ic_cuda_rmsnorm,
    .layernorm = ic_cuda_layernorm,
    .swiglu = ic_cuda_swiglu,
    .gelu = ic_cuda_gelu,
    .add = ic_cuda_add,
    .scatter = ic_cuda_scatter,
    .attention_prefill = ic_cuda_attention_prefill,
    .attention_slices = ic_cuda_attention_slices,
    .attention_score = ic_cuda_attention_score,
    .attention_decode = ic_cuda_attention_decode,
    .attention_decode_rotated = ic_cuda_attention_decode_rotated,
    .patchify = ic_cuda_patchify,
    .vision_positions = ic_cuda_vision_positions,
    .vision_rope = ic_cuda_vision_rope,
    .attention_full = ic_cuda_attention_full,
    .wait = ic_cuda_wait,
    .step_begin = ic_cuda_step_begin,
    .step_end = ic_cuda_step_end,
    .sample = ic_cuda_sample,
    .trouble = trouble,
    .read_rate = ic_cuda_read_rate,
    .read_time = ic_cuda_read_time,
    .gemm_rate = ic_cuda_gemm_rate,
};

static void fill_info(ic_cuda_device *d, const cudaDeviceProp *p)
{
    ic_device_info *info = &d->base.info;
    int version = 0;
    (void)cudaRuntimeGetVersion(&version);
    snprintf(info->kind, sizeof info->kind, "cuda");
    snprintf(info->name, sizeof info->name, "%.95s", p->name);
    snprintf(info->numerics, sizeof info->numerics, "cuda-1/sm_%d%d/%d.%d", p->major, p->minor,
             version / 1000, version % 1000 / 10);
    info->threads = d->multiprocessors;
    info->batch_exact = false;
    info->bf16_matmul = info->f16_matmul = true;
    info->half_activations = info->joins_weights = true;
    info->memory_bytes = d->limit;
}

static int choose_hardware(ic_cuda_device *d, cudaDeviceProp *p, ic_error *e)
{
    int count = 0;
    cudaError_t code = cudaGetDeviceCount(&count);
    if (code != cudaSuccess || count == 0)
        return ic_error_set(e, IC_EDEVICE, "no CUDA device can be used (%s): use device \"cpu\"",
                            code == cudaSuccess ? "there is none" : cudaGetErrorString(code));
    code = cudaSetDevice(d->ordinal);
    if (code == cudaSuccess)
        code = cudaGetDeviceProperties(p, d->ordinal);
    if (code != cudaSuccess)
        return ic_error_set(e, IC_EDEVICE, "the CUDA device cannot be used: %s",
                            cudaGetErrorString(code));
    if (p->major * 10 + p->minor < CAPABILITY_MIN)
        return ic_error_set(e, IC_EDEVICE,
                            "%.64s has compute capability %d.%d, and 8.0 is needed: use device "
                            "\"cpu\"",
                            p->name, p->major, p->minor);
    d->multiprocessors = p->multiProcessorCount;
    d->shared_max = p->sharedMemPerBlockOptin;
    return 0;
}

/* What is free now, less a margin, is what weights, scratch and slabs may take, all in all. */
static int fit_memory(ic_cuda_device *d, ic_error *e)
{
    size_t free_bytes = 0, total = 0;
    cudaError_t code = cudaMemGetInfo(&free_bytes, &total);
    size_t margin = free_bytes / MARGIN_PART;
    margin = margin > (size_t)MARGIN_MIN ? margin : (size_t)MARGIN_MIN;
    if (code != cudaSuccess || free_bytes <= 2 * margin)
        return ic_error_set(e, IC_ENOMEM, "%zu of %zu MiB of device memory are free: too little",
                            free_bytes >> 20, total >> 20);
    d->limit = free_bytes - margin;
    d->launch_keys =
        d->limit / KEYS_PART < (size_t)KEYS_MAX ? d->limit / KEYS_PART : (size_t)KEYS_MAX;
    return 0;
}

static int start(ic_cuda_device *d)
{
    IC_CUDA_TRY(d, cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking));
    IC_CUDA_TRY(d, cudaStreamCreateWithFlags(&d->copies, cudaStreamNonBlocking));
    int rc = ic_cuda_memory_open(d, RING_BYTES);
    rc = rc ? rc : ic_cuda_mover_open(d);
    return rc ? rc : ic_cuda_gemm_open(d);
}

int ic_cuda_device_open(ic_device **out, const ic_device_config *config, ic_error *e)
{
    cudaDeviceProp properties;
    ic_cuda_device *d = (ic_cuda_device *)ic_alloc(sizeof *d);
    d->exact = config->plain_loops;
    d->base.backend = &backend;
    d->ropes = (struct ic_cuda_ropes *)ic_alloc(sizeof *d->ropes);
    pthread_mutex_init(&d->lock, NULL);
    int rc = choose_hardware(d, &properties, e);
    if (rc == 0)
        rc = fit_memory(d, e);
    if (rc == 0) {
        rc = start(d);
        if (rc)
            ic_error_set(e, rc, "the CUDA device does not start: %s",
                         rc == IC_ENOMEM ? "out of memory" : d->trouble);
    }
    if (rc) {
        device_close(&d->base);
        return rc;
    }
    fill_info(d, &properties);
    ic_log_info("cuda", "%s: %zu MiB for weights, work and sessions; the rest is margin",
                d->base.info.name, d->limit >> 20);
    *out = &d->base;
    return 0;
}
