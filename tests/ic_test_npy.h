/* ic_test_npy: reads the .npy files of tests/golden (NumPy format 1.0 to 3.0, C order,
 * little-endian). */
#ifndef IC_TEST_NPY_H
#define IC_TEST_NPY_H

#include <stddef.h>
#include <stdint.h>

#include "base/ic_err.h"

typedef enum { IC_NPY_F32, IC_NPY_F64, IC_NPY_I32, IC_NPY_I64, IC_NPY_U8 } ic_npy_dtype;

typedef struct ic_npy {
    ic_npy_dtype dtype;
    int ndim;
    int64_t shape[8];
    int64_t count; /* elements: the product of the shape */
    union {        /* the elements, row-major; `data` owns them */
        void *data;
        float *f32;
        double *f64;
        int32_t *i32;
        int64_t *i64;
        uint8_t *u8;
    };
    void *block;
} ic_npy;

/* Caller owns; release with ic_npy_fini, which is safe on zeroed memory. */
int ic_npy_load(const char *path, ic_npy *out, ic_error *e);
void ic_npy_fini(ic_npy *a);

/* tests/golden/<relative> loaded; a failure fails the running test. */
void ic_npy_golden(const char *relative, ic_npy *out);

/* A whole file with a NUL after its last byte; *bytes (may be NULL) gets its length. Caller owns,
 * ic_free. NULL if it cannot be read. */
char *ic_test_read_file(const char *path, size_t *bytes);

#endif
