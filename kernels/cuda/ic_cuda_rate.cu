/* What this card gives, measured: the yardsticks of the bench. */
#include "kernels/cuda/ic_cuda_product.h"

#include <time.h>

enum { THREADS = 512, UNDER_WAY = 4 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* --- numbers made up on the device --- */

/* Of either sign, magnitudes 2^-8 to 2^-7 and every bit of the mantissa in use: a product of zeros
 * or of few bits is faster than real ones, since it needs less power. */
template <class T> __global__ void fill_rows(T *to, int64_t n, uint32_t seed)
{
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * THREADS) {
        uint32_t h = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 32) ^ seed;
        h = (h ^ h >> 16) * 2246822519u;
        h = (h ^ h >> 13) * 3266489917u;
        h ^= h >> 16;
        union {
            uint32_t bits;
            float value;
        } u = {(h & 0x807fffffu) | 0x3b800000u};
        to[i] = ic_cuda_to<T>(u.value);
    }
}

int ic_cuda_fill(ic_cuda_device *d, void *to, ic_dtype dtype, int64_t n, uint32_t seed)
{
    unsigned blocks = ic_cuda_blocks(n, THREADS), most = (unsigned)d->multiprocessors * 16;
    return ic_cuda_by_dtype(dtype, [&](auto t) {
        using T = decltype(t);
        return ic_cuda_launch(d, fill_rows<T>, blocks < most ? blocks : most, THREADS, 0, (T *)to,
                              n, seed);
    });
}

/* --- time on the device --- */

typedef struct stopwatch {
    cudaEvent_t from, to;
} stopwatch;

static bool start_watch(ic_cuda_device *d, stopwatch *w)
{
    w->from = w->to = NULL;
    return cudaEventCreate(&w->from) == cudaSuccess && cudaEventCreate(&w->to) == cudaSuccess
           && cudaEventRecord(w->from, d->stream) == cudaSuccess;
}

/* Seconds since the start; 0: the device failed. */
static double stop_watch(ic_cuda_device *d, stopwatch *w, bool started)
{
    float ms = 0;
    if (!started || cudaEventRecord(w->to, d->stream) != cudaSuccess
        || cudaEventSynchronize(w->to) != cudaSuccess
        || cudaEventElapsedTime(&ms, w->from, w->to) != cudaSuccess)
        ms = 0;
    if (w->from)
        (void)cudaEventDestroy(w->from);
    if (w->to)
        (void)cudaEventDestroy(w->to);
    return (double)ms * 1e-3;
}

/* --- reading --- */

__global__ void __launch_bounds__(THREADS) read_all(const uint4 *from, int64_t n, uint32_t *result)
{
    uint32_t sum = 0;
    int64_t step = (int64_t)gridDim.x * THREADS, i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    for (; i + (UNDER_WAY - 1) * step < n; i += UNDER_WAY * step) {
        uint4 v[UNDER_WAY];
#pragma unroll
        for (int u = 0; u < UNDER_WAY; u++)
            v[u] = __ldcs(from + i + u * step);
#pragma unroll
        for (int u = 0; u < UNDER_WAY; u++)
            sum ^= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
    }
    for (; i < n; i += step)
        sum ^= from[i].x;
    if (sum == 0x9e3779b9u) /* never in practice: so that the reading is not left out */
        *result = sum;
}

double ic_cuda_read_time(ic_device *base, const void *memory, size_t bytes)
{
    ic_cuda_device *d = ic_cuda_of(base);
    uint32_t *result = (uint32_t *)ic_cuda_scratch(d, IC_CUDA_ROOM_SAMPLING, sizeof *result);
    stopwatch w;
    if (!result || bytes < sizeof(uint4))
        return 0;
    bool started = start_watch(d, &w);
    started = started
              && ic_cuda_launch(d, read_all, (unsigned)d->multiprocessors * 4, THREADS, 0,
                                (const uint4 *)memory, (int64_t)(bytes / sizeof(uint4)), result)
                     == 0;
    return stop_watch(d, &w, started);
}

/* The best of copies of one half to the other, for so long: bytes read and written. */
double ic_cuda_read_rate(ic_device *base, size_t bytes, double seconds)
{
    ic_cuda_device *d = ic_cuda_of(base);
    size_t half = bytes / 2;
    char *memory = (char *)ic_cuda_alloc(base, bytes);
    double best = 0, begin = now();
    bool ok = memory && ic_cuda_fill(d, memory, IC_F32, (int64_t)(half / 4), 1) == 0;
    while (ok) {
        stopwatch w;
        bool started = start_watch(d, &w);
        started =
            started
            && cudaMemcpyAsync(memory + half, memory, half, cudaMemcpyDeviceToDevice, d->stream)
                   == cudaSuccess;
        double took = stop_watch(d, &w, started);
        ok = took > 0 && now() - begin < seconds;
        double rate = took > 0 ? 2 * (double)half / took : 0;
        best = rate > best ? rate : best;
    }
    ic_cuda_free(base, memory);
    return best;
}

/* --- products --- */

static double best_product(ic_cuda_device *d, const ic_mat *x, const ic_weight *w, ic_mat *y,
                           double seconds)
{
    enum { TIMES = 8 };
    double best = 0, begin = now(), took;
    do {
        stopwatch watch;
        bool started = start_watch(d, &watch);
        for (int i = 0; started && i < TIMES; i++)
            started = ic_cuda_gemm(&d->base, IC_PREFILL, x, w, NULL, false, y) == 0;
        took = stop_watch(d, &watch, started);
        double flops = 2.0 * (double)x->rows * (double)x->cols * (double)y->cols * (double)TIMES;
        best = took > 0 && flops / took > best ? flops / took : best;
    } while (took > 0 && now() - begin < seconds);
    return best;
}

double ic_cuda_gemm_rate(ic_device *base, ic_dtype compute, int m, int n, int k, double seconds)
{
    ic_cuda_device *d = ic_cuda_of(base);
    size_t unit = ic_dtype_size(compute);
    ic_mat x = {ic_cuda_alloc(base, (size_t)m * (size_t)k * unit), compute, m, k, k};
    ic_mat y = {ic_cuda_alloc(base, (size_t)m * (size_t)n * unit), compute, m, n, n};
    ic_weight *w = NULL;
    double best = 0;
    if (x.data && y.data && ic_cuda_fill(d, x.data, compute, (int64_t)m * k, 2) == 0
        && ic_cuda_weight_new(&w, base, NULL, compute, compute, n, k, NULL) == 0)
        best = best_product(d, &x, w, &y, seconds);
    (void)ic_cuda_wait(base);
    if (w)
        ic_cuda_weight_destroy(w);
    ic_cuda_free(base, x.data);
    ic_cuda_free(base, y.data);
    return best;
}
