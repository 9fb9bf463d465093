/* Pictures resized, bit for bit as ic_resize.h says: the same tables of integer weights, sums of
 * products in 32 bits, which come to the same in any order. Two passes, 8 bits between them. One
 * picture at a time, on the copies' stream: whoever decodes a film does this beside what computes.
 */
#include "kernels/cuda/ic_cuda.h"

#include <string.h>

extern "C" {
#include "kernels/ic_resize_axis.h"
}

enum { THREADS = 256, TABLE_BYTES = 1 << 20, GRID_Y_MAX = 65535 };

struct ic_cuda_resizer {
    pthread_mutex_t lock;
    size_t bytes;  /* of a picture */
    char *host;    /* page-locked: a picture, then tables */
    char *device;  /* the same, */
    char *between; /* and a picture between the passes */
};

/* A direction's table on the device. By value to kernels. */
typedef struct table {
    const int *first, *count;
    const int16_t *weights;
    int stride, precision;
} table;

static __device__ __forceinline__ uint8_t rounded(int sum, int precision)
{
    int v = (sum + (1 << (precision - 1))) >> precision;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* A thread per output pixel. */
static __global__ void __launch_bounds__(THREADS)
    along_x(table t, const uint8_t *src, int sw, uint8_t *dst, int dw, int rows)
{
    int x = (int)(blockIdx.x * THREADS + threadIdx.x);
    if (x >= dw)
        return;
    const int16_t *w = t.weights + (int64_t)x * t.stride;
    int first = t.first[x], count = t.count[x];
    for (int y = blockIdx.y; y < rows; y += gridDim.y) {
        const uint8_t *p = src + ((int64_t)y * sw + first) * 3;
        int sum[3] = {0, 0, 0};
        for (int j = 0; j < count; j++)
#pragma unroll
            for (int c = 0; c < 3; c++)
                sum[c] += w[j] * p[j * 3 + c];
#pragma unroll
        for (int c = 0; c < 3; c++)
            dst[((int64_t)y * dw + x) * 3 + c] = rounded(sum[c], t.precision);
    }
}

/* A thread per output byte of a row. */
static __global__ void __launch_bounds__(THREADS)
    along_y(table t, const uint8_t *src, int pitch, uint8_t *dst, int dh)
{
    int i = (int)(blockIdx.x * THREADS + threadIdx.x);
    if (i >= pitch)
        return;
    for (int y = blockIdx.y; y < dh; y += gridDim.y) {
        const int16_t *w = t.weights + (int64_t)y * t.stride;
        const uint8_t *p = src + (int64_t)t.first[y] * pitch + i;
        int sum = 0, count = t.count[y];
        for (int j = 0; j < count; j++)
            sum += w[j] * p[(int64_t)j * pitch];
        dst[(int64_t)y * pitch + i] = rounded(sum, t.precision);
    }
}

/* --- tables --- */

/* Lays the axis into the page-locked room behind the picture, from *at on; false: there is no room.
 */
static bool lay_table(struct ic_cuda_resizer *r, const ic_resize_axis *a, size_t *at, table *t)
{
    size_t numbers = (size_t)a->out * sizeof(int);
    size_t weights = (size_t)a->out * a->stride * sizeof *a->weights;
    if (*at + 2 * numbers + weights > TABLE_BYTES)
        return false;
    char *host = r->host + r->bytes + *at, *device = r->device + r->bytes + *at;
    memcpy(host, a->first, numbers);
    memcpy(host + numbers, a->count, numbers);
    memcpy(host + 2 * numbers, a->weights, weights);
    *t = table{(const int *)(void *)device, (const int *)(void *)(device + numbers),
               (const int16_t *)(void *)(device + 2 * numbers), a->stride, a->precision};
    *at += (2 * numbers + weights + 15) & ~(size_t)15;
    return true;
}

static bool make_table(struct ic_cuda_resizer *r, int in, int out, size_t *at, table *t)
{
    ic_resize_axis a = {};
    bool made = in == out || (ic_resize_axis_init(&a, in, out) == 0 && lay_table(r, &a, at, t));
    ic_resize_axis_fini(&a);
    return made;
}

/* --- pictures --- */

static dim3 grid_of(int columns, int rows)
{
    return dim3(ic_cuda_blocks(columns, THREADS),
                (unsigned)(rows < GRID_Y_MAX ? rows : (int)GRID_Y_MAX));
}

static size_t picture_bytes(int width, int height)
{
    return (size_t)width * (size_t)height * 3;
}

/* From the page-locked picture to the page-locked picture. */
static int run_passes(ic_cuda_device *d, const table &x, const table &y, size_t tables, int sw,
                      int sh, int dw, int dh)
{
    struct ic_cuda_resizer *r = d->resizer;
    char *at = r->device, *other = r->between;
    IC_CUDA_TRY(d, cudaMemcpyAsync(r->device, r->host, picture_bytes(sw, sh),
                                   cudaMemcpyHostToDevice, d->copies));
    IC_CUDA_TRY(d, cudaMemcpyAsync(r->device + r->bytes, r->host + r->bytes, tables,
                                   cudaMemcpyHostToDevice, d->copies));
    if (sw != dw) {
        IC_CUDA_LAUNCH(along_x, grid_of(dw, sh), dim3(THREADS), 0, d->copies, x,
                       (const uint8_t *)at, sw, (uint8_t *)other, dw, sh);
        char *old = at;
        at = other;
        other = old;
    }
    if (sh != dh) {
        IC_CUDA_LAUNCH(along_y, grid_of(dw * 3, dh), dim3(THREADS), 0, d->copies, y,
                       (const uint8_t *)at, dw * 3, (uint8_t *)other, dh);
        at = other;
    }
    IC_CUDA_TRY(d, cudaGetLastError());
    IC_CUDA_TRY(
        d, cudaMemcpyAsync(r->host, at, picture_bytes(dw, dh), cudaMemcpyDeviceToHost, d->copies));
    IC_CUDA_TRY(d, cudaStreamSynchronize(d->copies));
    return 0;
}

static int resize_alone(ic_cuda_device *d, const uint8_t *src, int sw, int sh, uint8_t *dst, int dw,
                        int dh)
{
    struct ic_cuda_resizer *r = d->resizer;
    size_t at = 0;
    table x = {}, y = {};
    if (!make_table(r, sw, dw, &at, &x) || !make_table(r, sh, dh, &at, &y))
        return IC_EUNSUPPORTED;
    memcpy(r->host, src, picture_bytes(sw, sh));
    int rc = run_passes(d, x, y, at, sw, sh, dw, dh);
    if (rc == 0)
        memcpy(dst, r->host, picture_bytes(dw, dh));
    return rc;
}

int ic_cuda_resize_rgb(ic_device *base, const uint8_t *src, int sw, int sh, uint8_t *dst, int dw,
                       int dh)
{
    ic_cuda_device *d = ic_cuda_of(base);
    struct ic_cuda_resizer *r = d->resizer;
    bool same = sw == dw && sh == dh;
    if (!r || same || sw < 1 || sh < 1 || dw < 1 || dh < 1 || picture_bytes(sw, sh) > r->bytes
        || picture_bytes(dw, sh) > r->bytes || picture_bytes(dw, dh) > r->bytes)
        return IC_EUNSUPPORTED;
    pthread_mutex_lock(&r->lock);
    int rc = resize_alone(d, src, sw, sh, dst, dw, dh);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

/* --- life --- */

size_t ic_cuda_resizer_cost(const ic_cuda_device *d, size_t bytes)
{
    bool there = bytes == 0 || (d->resizer && d->resizer->bytes >= bytes);
    return there ? 0 : 2 * bytes + TABLE_BYTES + 4096;
}

/* Once, when the engine is opened: no picture is on its way yet. */
int ic_cuda_resizer_reserve(ic_cuda_device *d, size_t bytes)
{
    if (ic_cuda_resizer_cost(d, bytes) == 0)
        return 0;
    ic_cuda_resizer_close(d);
    struct ic_cuda_resizer *r = (struct ic_cuda_resizer *)ic_alloc(sizeof *r);
    pthread_mutex_init(&r->lock, NULL);
    r->bytes = (bytes + 255) & ~(size_t)255;
    r->host = (char *)ic_cuda_alloc_host(&d->base, r->bytes + TABLE_BYTES);
    r->device = (char *)ic_cuda_alloc(&d->base, r->bytes + TABLE_BYTES);
    r->between = (char *)ic_cuda_alloc(&d->base, r->bytes);
    d->resizer = r;
    return r->host && r->device && r->between ? 0 : IC_ENOMEM;
}

void ic_cuda_resizer_close(ic_cuda_device *d)
{
    struct ic_cuda_resizer *r = d->resizer;
    if (!r)
        return;
    ic_cuda_free_host(&d->base, r->host);
    ic_cuda_free(&d->base, r->device);
    ic_cuda_free(&d->base, r->between);
    pthread_mutex_destroy(&r->lock);
    ic_free(r);
    d->resizer = NULL;
}
