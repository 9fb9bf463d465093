/* ic_device: the compute device, its memory, and matrices prepared for it.
 *
 * One device is opened per engine and driven by one thread (its owner). Pointers returned by
 * ic_device_alloc are device memory: only operations and the copy functions below may touch what
 * they point to, so that the same engine code runs on a backend whose memory the host cannot see.
 * Backends: "cpu" (always built, the reference) and "cuda".
 */
#ifndef IC_DEVICE_H
#define IC_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ic_err.h"

typedef enum ic_dtype { IC_F32, IC_BF16, IC_F16, IC_DTYPE_COUNT } ic_dtype;

size_t ic_dtype_size(ic_dtype dtype);      /* bytes of one element */
const char *ic_dtype_name(ic_dtype dtype); /* "f32", "bf16", "f16". Borrows: static */
int ic_dtype_parse(const char *name);      /* the dtype, or -1 */

typedef struct ic_device ic_device;

typedef struct ic_device_config {
    const char *kind; /* "cpu" or "cuda" */
    /* Of the CPU backend: */
    int threads;      /* compute threads; 0: one per core that this process may use */
    bool plain_loops; /* no GEMM library and no wide instructions: the reference, for tests */
    bool library;     /* prefill products through the GEMM library, not the own loops: the bench's
                         yardstick; IC_EUNSUPPORTED when it is not built in */
    const char *instructions; /* "avx2", "avx512", "avx512-bf16" or "amx-bf16": these, for tests;
                                 NULL: the best of this machine */
} ic_device_config;

typedef struct ic_device_info {
    char kind[16];
    char name[96];      /* of the hardware, for people */
    char numerics[128]; /* identity of the arithmetic: backend, instruction set, library: DESIGN
                           "numerics id" */
    int threads;
    bool batch_exact; /* a row's bits do not depend on the batch, the slice or the thread count */
    bool half_activations; /* x and y of products, norms and activations may be of 16 bits
                              (ic_ops.h) */
    bool joins_weights;    /* weights of one input are best made as one */
    bool f16_matmul;       /* weights may compute in f16 */
    bool bf16_matmul;      /* bf16 products run in bf16 (else they are widened to f32) */
    size_t memory_bytes;   /* memory that slabs and weights may use, all in all */
} ic_device_info;

/* Caller owns *out. IC_EUNSUPPORTED when the backend is not built, IC_EDEVICE when the hardware
 * refuses. */
IC_MUST_CHECK int ic_device_open(ic_device **out, const ic_device_config *config, ic_error *e);
void ic_device_close(ic_device **d_p); /* Takes; after everything made on it is gone */
const ic_device_info *ic_device_info_of(const ic_device *d); /* Borrows: for the device's life */

/* The device's first failure in words, "" while there is none: after an IC_EDEVICE of an operation.
 * A device that has failed stays so. Borrows: for the device's life. */
const char *ic_device_trouble(ic_device *d);

/* Memory of a device that has its own; all 0 where it is the host's. */
typedef struct ic_device_memory {
    size_t limit;   /* what weights, scratch and caches may take, all in all: what was free when the
                       device was opened, less a margin */
    size_t used;    /* what they have taken */
    size_t scratch; /* of that, what operations work in */
    uint64_t taken; /* how often memory was taken, ever */
} ic_device_memory;
ic_device_memory ic_device_memory_of(ic_device *d); /* Any thread */

/* Zeroed and prefaulted: memory that is granted is there. NULL when it is not to be had. Caller
 * owns. */
void *ic_device_alloc(ic_device *d, size_t bytes);
void ic_device_free(ic_device *d, void *memory);
/* Host memory from which and to which copies are fastest (page-locked for a GPU), content
 * undefined. NULL when it is not to be had. Caller owns. Any thread. */
void *ic_device_alloc_host(ic_device *d, size_t bytes);
void ic_device_free_host(ic_device *d, void *memory);
int ic_device_upload(ic_device *d, void *to_device, const void *from_host, size_t bytes);
int ic_device_download(ic_device *d, void *to_host, const void *from_device, size_t bytes);

/* A row-major matrix in device memory. Element [r, c] lies at data[r * stride + c]. Borrowed by
 * operations. */
typedef struct ic_mat {
    void *data;
    ic_dtype dtype;
    int64_t rows, cols;
    int64_t stride; /* elements from one row to the next; >= cols */
} ic_mat;

/* A weight [out, in] in the form in which this device multiplies fastest. Immutable. */
typedef struct ic_weight ic_weight;

/* Prepares a weight from host memory [out, in] of dtype `from`; products run in `compute` (IC_F32,
 * IC_BF16, or IC_F16 where info.f16_matmul). Host memory that is already in the device's form may
 * be kept by reference (`host` must then outlive the weight: weights are memory-mapped). host
 * NULL: made-up numbers, for measuring (IC_EUNSUPPORTED: not here). Caller owns *out. */
IC_MUST_CHECK int ic_weight_new(ic_weight **out, ic_device *d, const void *host, ic_dtype from,
                                ic_dtype compute, int64_t out_dim, int64_t in_dim, ic_error *e);
void ic_weight_destroy(ic_weight **w_p);
ic_dtype ic_weight_compute(const ic_weight *w);  /* the dtype of its products */
int64_t ic_weight_bytes(const ic_weight *w);     /* bytes that one product must read */
int64_t ic_weight_own_bytes(const ic_weight *w); /* device memory held beyond the host's */

#endif
