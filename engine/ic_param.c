#include "engine/ic_param.h"

#include <stdio.h>
#include <string.h>

#include "base/ic_assert.h"
#include "base/ic_mem.h"

enum { NAME_MAX_BYTES = 192 };

static ic_dtype compute_dtype(const ic_params *p, ic_dtype stored)
{
    if (p->compute >= 0)
        return (ic_dtype)p->compute;
    return stored == IC_BF16 ? IC_BF16 : IC_F32;
}

static float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023;
    float value;
    if (exponent == 31) {
        uint32_t bits = sign | 0x7f800000u | fraction << 13;
        memcpy(&value, &bits, sizeof value);
    } else if (exponent == 0) { /* subnormal: exact in f32 */
        value = (float)fraction * 0x1.0p-24f;
        value = sign ? -value : value;
    } else {
        uint32_t bits = sign | (exponent + 112) << 23 | fraction << 13;
        memcpy(&value, &bits, sizeof value);
    }
    return value;
}

static float element(const ic_tensor_view *v, int64_t i)
{
    if (v->dtype == IC_F32)
        return ((const float *)v->data)[i];
    uint16_t raw = ((const uint16_t *)v->data)[i];
    if (v->dtype == IC_F16)
        return half_to_float(raw);
    uint32_t bits = (uint32_t)raw << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int take_floats(ic_params *p, const char *name, int dims, const int64_t *shape, float **out,
                       ic_error *e)
{
    *out = NULL;
    ic_tensor_view v;
    int rc = ic_weights_get(p->weights, name, dims, shape, &v, e);
    if (rc)
        return rc;
    size_t count = (size_t)v.elements;
    float *host = ic_try_calloc(count, sizeof *host);
    float *device = ic_device_alloc(p->device, count * sizeof *host);
    if (host && device) {
        for (size_t i = 0; i < count; i++)
            host[i] = element(&v, (int64_t)i);
        rc = ic_device_upload(p->device, device, host, count * sizeof *host);
    }
    if (!host || !device)
        rc = ic_error_set(e, IC_ENOMEM, "no memory for tensor %s", name);
    else if (rc)
        ic_error_set(e, rc, "the device refused tensor %s", name);
    ic_free(host);
    if (rc) {
        ic_device_free(p->device, device);
        return rc;
    }
    p->bytes += v.elements * (int64_t)ic_dtype_size(v.dtype);
    *out = device;
    return IC_OK;
}

int ic_params_vector(ic_params *p, const char *name, int64_t count, float **out, ic_error *e)
{
    return take_floats(p, name, 1, &count, out, e);
}

int ic_params_matrix(ic_params *p, const char *name, int64_t rows, int64_t cols, float **out,
                     ic_error *e)
{
    return take_floats(p, name, 2, (const int64_t[]){rows, cols}, out, e);
}

int ic_params_linear(ic_params *p, const char *name, int64_t out_dim, int64_t in_dim, bool biased,
                     ic_linear *linear, ic_error *e)
{
    return ic_params_kernel(p, name, 2, (const int64_t[]){out_dim, in_dim}, biased, linear, e);
}

int ic_params_kernel(ic_params *p, const char *name, int dims, const int64_t *shape, bool biased,
                     ic_linear *linear, ic_error *e)
{
    char full[NAME_MAX_BYTES];
    ic_tensor_view v;
    *linear = (ic_linear){0};
    snprintf(full, sizeof full, "%s.weight", name);
    int rc = ic_weights_get(p->weights, full, dims, shape, &v, e);
    if (rc)
        return rc;
    int64_t out_dim = shape[0], in_dim = v.elements / out_dim;
    rc = ic_weight_new(&linear->weight, p->device, v.data, v.dtype, compute_dtype(p, v.dtype),
                       out_dim, in_dim, e);
    if (rc)
        return ic_error_prefix(e, rc, "tensor %s", full);
    p->bytes += v.elements * (int64_t)ic_dtype_size(v.dtype);
    snprintf(full, sizeof full, "%s.bias", name);
    if (biased || ic_weights_has(p->weights, full))
        rc = ic_params_vector(p, full, out_dim, &linear->bias, e);
    if (rc)
        ic_linear_fini(p->device, linear);
    return rc;
}

enum { JOINED_MAX = 4 };

int ic_params_joined(ic_params *p, const char *const *names, const int64_t *out_dims, int n,
                     int64_t in_dim, ic_linear *linear, ic_error *e)
{
    char full[NAME_MAX_BYTES];
    ic_tensor_view views[JOINED_MAX];
    int64_t out_dim = 0;
    IC_ASSERT(n > 0 && n <= JOINED_MAX);
    *linear = (ic_linear){0};
    for (int i = 0; i < n; i++) {
        snprintf(full, sizeof full, "%s.bias", names[i]);
        if (ic_weights_has(p->weights, full))
            return IC_EUNSUPPORTED;
        snprintf(full, sizeof full, "%s.weight", names[i]);
        int rc = ic_weights_get(p->weights, full, 2, (const int64_t[]){out_dims[i], in_dim},
                                &views[i], e);
        if (rc)
            return rc;
        if (views[i].dtype != views[0].dtype)
            return IC_EUNSUPPORTED;
        out_dim += out_dims[i];
    }
    size_t unit = ic_dtype_size(views[0].dtype), at = 0;
    char *host = ic_try_alloc((size_t)(out_dim * in_dim) * unit);
    if (!host)
        return ic_error_set(e, IC_ENOMEM, "no memory to join tensor %s", full);
    for (int i = 0; i < n; i++) {
        memcpy(host + at, views[i].data, (size_t)views[i].elements * unit);
        at += (size_t)views[i].elements * unit;
    }
    int rc = ic_weight_new(&linear->weight, p->device, host, views[0].dtype,
                           compute_dtype(p, views[0].dtype), out_dim, in_dim, e);
    ic_free(host);
    if (rc)
        return ic_error_prefix(e, rc, "tensor %s", full);
    p->bytes += (int64_t)at;
    return IC_OK;
}

void ic_linear_fini(ic_device *d, ic_linear *linear)
{
    ic_weight_destroy(&linear->weight);
    ic_device_free(d, linear->bias);
    linear->bias = NULL;
}

int ic_params_table(ic_params *p, const char *name, int64_t rows, int64_t cols, ic_mat *table,
                    void **owned, ic_error *e)
{
    *owned = NULL;
    ic_tensor_view v;
    int rc = ic_weights_get(p->weights, name, 2, (const int64_t[]){rows, cols}, &v, e);
    if (rc)
        return rc;
    size_t bytes = (size_t)v.elements * ic_dtype_size(v.dtype);
    *table = (ic_mat){
        .data = (void *)v.data, .dtype = v.dtype, .rows = rows, .cols = cols, .stride = cols};
    p->bytes += (int64_t)bytes;
    if (strcmp(ic_device_info_of(p->device)->kind, "cpu") == 0)
        return IC_OK;
    table->data = *owned = ic_device_alloc(p->device, bytes);
    if (!table->data)
        return ic_error_set(e, IC_ENOMEM, "no device memory for tensor %s", name);
    rc = ic_device_upload(p->device, table->data, v.data, bytes);
    if (rc) {
        ic_device_free(p->device, *owned);
        *owned = NULL;
        return ic_error_set(e, rc, "the device refused tensor %s", name);
    }
    return IC_OK;
}

ic_mat ic_mat_view(const ic_mat *m, int64_t first, int64_t rows, int64_t col, int64_t cols)
{
    IC_ASSERT(first >= 0 && rows >= 0 && first + rows <= m->rows);
    IC_ASSERT(col >= 0 && cols >= 0 && col + cols <= m->cols);
    ic_mat view = *m;
    view.data = (char *)m->data + (size_t)(first * m->stride + col) * ic_dtype_size(m->dtype);
    view.rows = rows;
    view.cols = cols;
    return view;
}
