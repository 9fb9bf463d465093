#include "kernels/ic_device.h"

#include <string.h>

#include "base/ic_assert.h"
#include "base/ic_mem.h"
#include "kernels/ic_device_priv.h"
#include "kernels/ic_resize.h"

static const struct {
    const char *name;
    size_t size;
} dtypes[IC_DTYPE_COUNT] = {
    [IC_F32] = {"f32", 4},
    [IC_BF16] = {"bf16", 2},
    [IC_F16] = {"f16", 2},
};

size_t ic_dtype_size(ic_dtype dtype)
{
    IC_ASSERT(dtype < IC_DTYPE_COUNT);
    return dtypes[dtype].size;
}

const char *ic_dtype_name(ic_dtype dtype)
{
    IC_ASSERT(dtype < IC_DTYPE_COUNT);
    return dtypes[dtype].name;
}

int ic_dtype_parse(const char *name)
{
    for (int i = 0; name && i < IC_DTYPE_COUNT; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return i;
    return -1;
}

static int open_cuda(ic_device **out, const ic_device_config *config, ic_error *e)
{
#ifdef IC_HAVE_CUDA
    return ic_cuda_device_open(out, config, e);
#else
    (void)out;
    (void)config;
    return ic_error_set(e, IC_EUNSUPPORTED, "this build has no cuda backend: use device \"cpu\"");
#endif
}

int ic_device_open(ic_device **out, const ic_device_config *config, ic_error *e)
{
    *out = NULL;
    const char *kind = config->kind ? config->kind : "cpu";
    if (config->threads < 0 || config->threads > 1024)
        return ic_error_set(e, IC_EINVAL, "%d compute threads make no sense: use 0 to 1024",
                            config->threads);
    if (strcmp(kind, "cpu") == 0)
        return ic_cpu_device_open(out, config, e);
    if (strcmp(kind, "cuda") == 0)
        return open_cuda(out, config, e);
    return ic_error_set(e, IC_EINVAL, "no device is called \"%s\": use \"cpu\" or \"cuda\"", kind);
}

void ic_device_close(ic_device **d_p)
{
    if (*d_p)
        (*d_p)->backend->close(*d_p);
    *d_p = NULL;
}

const ic_device_info *ic_device_info_of(const ic_device *d)
{
    return &d->info;
}

const char *ic_device_trouble(ic_device *d)
{
    return d->backend->trouble ? d->backend->trouble(d) : "";
}

ic_device_memory ic_device_memory_of(ic_device *d)
{
    return d->backend->memory ? d->backend->memory(d) : (ic_device_memory){0};
}

void *ic_device_alloc(ic_device *d, size_t bytes)
{
    return d->backend->alloc(d, bytes);
}

void ic_device_free(ic_device *d, void *memory)
{
    if (memory)
        d->backend->free(d, memory);
}

int ic_device_resize_rgb(ic_device *d, const uint8_t *src, int sw, int sh, uint8_t *dst, int dw,
                         int dh, ic_error *e)
{
    if (d->backend->resize_rgb && d->backend->resize_rgb(d, src, sw, sh, dst, dw, dh) == 0)
        return 0;
    return ic_resize_rgb(src, sw, sh, dst, dw, dh, e);
}

void *ic_device_alloc_host(ic_device *d, size_t bytes)
{
    return d->backend->alloc_host ? d->backend->alloc_host(d, bytes) : ic_try_alloc(bytes);
}

void ic_device_free_host(ic_device *d, void *memory)
{
    if (memory && d->backend->free_host)
        d->backend->free_host(d, memory);
    else
        ic_free(memory);
}

int ic_device_upload(ic_device *d, void *to_device, const void *from_host, size_t bytes)
{
    return d->backend->upload(d, to_device, from_host, bytes);
}

int ic_device_download(ic_device *d, void *to_host, const void *from_device, size_t bytes)
{
    return d->backend->download(d, to_host, from_device, bytes);
}

int ic_weight_new(ic_weight **out, ic_device *d, const void *host, ic_dtype from, ic_dtype compute,
                  int64_t out_dim, int64_t in_dim, ic_error *e)
{
    IC_ASSERT(from < IC_DTYPE_COUNT && compute < IC_DTYPE_COUNT);
    IC_ASSERT(compute != IC_F16 || d->info.f16_matmul);
    IC_ASSERT(out_dim > 0 && in_dim > 0);
    *out = NULL;
    return d->backend->weight_new(out, d, host, from, compute, out_dim, in_dim, e);
}

void ic_weight_destroy(ic_weight **w_p)
{
    if (*w_p)
        (*w_p)->device->backend->weight_destroy(*w_p);
    *w_p = NULL;
}

ic_dtype ic_weight_compute(const ic_weight *w)
{
    return w->compute;
}

int64_t ic_weight_bytes(const ic_weight *w)
{
    return w->bytes;
}

int64_t ic_weight_own_bytes(const ic_weight *w)
{
    return w->own_bytes;
}
