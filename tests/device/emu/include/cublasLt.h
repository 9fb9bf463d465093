/* In place of the toolkit's header where kernels are emulated: the products that the backend asks
 * for, as three loops over host memory: transposed w times x, sums in f32, y in f32 or 16 bits. */
#ifndef IC_EMU_CUBLASLT_H
#define IC_EMU_CUBLASLT_H

#include "tests/device/emu/include/cuda_runtime.h"

typedef enum cublasStatus_t {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_ALLOC_FAILED = 3,
    CUBLAS_STATUS_INVALID_VALUE = 7,
    CUBLAS_STATUS_NOT_SUPPORTED = 15
} cublasStatus_t;
typedef enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_16F = 2, CUDA_R_16BF = 14 } cudaDataType_t;
typedef enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68 } cublasComputeType_t;
typedef enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 } cublasOperation_t;
typedef enum cublasLtEpilogue_t {
    CUBLASLT_EPILOGUE_DEFAULT = 1,
    CUBLASLT_EPILOGUE_BIAS = 4
} cublasLtEpilogue_t;
typedef enum cublasLtMatmulDescAttributes_t {
    CUBLASLT_MATMUL_DESC_TRANSA = 3,
    CUBLASLT_MATMUL_DESC_EPILOGUE = 7,
    CUBLASLT_MATMUL_DESC_BIAS_POINTER = 8,
    CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE = 26
} cublasLtMatmulDescAttributes_t;
typedef enum cublasLtMatmulPreferenceAttributes_t {
    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8
} cublasLtMatmulPreferenceAttributes_t;

typedef struct cublasLtContext {
    int unused;
} * cublasLtHandle_t;
typedef struct ic_emu_product {
    cublasOperation_t transposed;
    cublasLtEpilogue_t epilogue;
    const float *bias;
    cudaDataType_t bias_type;
} * cublasLtMatmulDesc_t;
typedef struct ic_emu_layout {
    cudaDataType_t type;
    uint64_t rows, cols; /* columns lie one after the other */
    int64_t stride;
} * cublasLtMatrixLayout_t;
typedef struct ic_emu_preference {
    int unused;
} * cublasLtMatmulPreference_t;
typedef struct cublasLtMatmulAlgo_t {
    int unused;
} cublasLtMatmulAlgo_t;
typedef struct cublasLtMatmulHeuristicResult_t {
    cublasLtMatmulAlgo_t algo;
    size_t workspaceSize;
} cublasLtMatmulHeuristicResult_t;

template <class T, class... Args> static inline cublasStatus_t ic_emu_new(T **out, Args... args)
{
    *out = new T{args...};
    return CUBLAS_STATUS_SUCCESS;
}
template <class T> static inline cublasStatus_t ic_emu_delete(T *at)
{
    delete at;
    return CUBLAS_STATUS_SUCCESS;
}
#define cublasLtCreate(out)                       ic_emu_new(out)
#define cublasLtDestroy(at)                       ic_emu_delete(at)
#define cublasLtMatmulDescCreate(out, c, s)       ic_emu_new(out)
#define cublasLtMatmulDescDestroy(at)             ic_emu_delete(at)
#define cublasLtMatrixLayoutCreate(out, t, ...)   ic_emu_new_layout(out, t, __VA_ARGS__)
#define cublasLtMatrixLayoutDestroy(at)           ic_emu_delete(at)
#define cublasLtMatmulPreferenceCreate(out)       ic_emu_new(out)
#define cublasLtMatmulPreferenceDestroy(at)       ic_emu_delete(at)
#define cublasLtMatmulPreferenceSetAttribute(...) (CUBLAS_STATUS_SUCCESS)

static inline cublasStatus_t ic_emu_new_layout(cublasLtMatrixLayout_t *out, cudaDataType_t type,
                                               uint64_t rows, uint64_t cols, int64_t stride)
{
    *out = new ic_emu_layout{type, rows, cols, stride};
    return CUBLAS_STATUS_SUCCESS;
}

static inline const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "a failure of the emulated library";
}

static inline cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t p,
                                                            cublasLtMatmulDescAttributes_t what,
                                                            const void *value, size_t bytes)
{
    void *to = what == CUBLASLT_MATMUL_DESC_TRANSA         ? (void *)&p->transposed
               : what == CUBLASLT_MATMUL_DESC_EPILOGUE     ? (void *)&p->epilogue
               : what == CUBLASLT_MATMUL_DESC_BIAS_POINTER ? (void *)&p->bias
                                                           : (void *)&p->bias_type;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

/* It refuses what the library's documentation does not list: an f32 bias beside 16-bit results. */
static inline cublasStatus_t
cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t p, cublasLtMatrixLayout_t,
                               cublasLtMatrixLayout_t, cublasLtMatrixLayout_t y,
                               cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                               cublasLtMatmulHeuristicResult_t *result, int *found)
{
    memset(result, 0, sizeof *result);
    *found = p->epilogue != CUBLASLT_EPILOGUE_BIAS || y->type == p->bias_type;
    return *found ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

static inline float ic_emu_element(cudaDataType_t type, const void *at, int64_t i)
{
    if (type == CUDA_R_32F)
        return ((const float *)at)[i];
    uint16_t bits = ((const uint16_t *)at)[i];
    return type == CUDA_R_16BF ? ic_emu_of_bf16(bits) : ic_emu_of_f16(bits);
}

static inline void ic_emu_set_element(cudaDataType_t type, void *at, int64_t i, float v)
{
    if (type == CUDA_R_32F)
        ((float *)at)[i] = v;
    else
        ((uint16_t *)at)[i] = type == CUDA_R_16BF ? ic_emu_bf16_of(v) : ic_emu_f16_of(v);
}

static inline cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t p,
                                            const void *alpha, const void *w,
                                            cublasLtMatrixLayout_t wl, const void *x,
                                            cublasLtMatrixLayout_t xl, const void *beta,
                                            const void *c, cublasLtMatrixLayout_t, void *y,
                                            cublasLtMatrixLayout_t yl, const cublasLtMatmulAlgo_t *,
                                            void *, size_t, cudaStream_t)
{
    float kept = *(const float *)beta;
    if (p->transposed != CUBLAS_OP_T || *(const float *)alpha != 1 || wl->rows != xl->rows
        || wl->cols != yl->rows || xl->cols != yl->cols || wl->type != xl->type)
        return CUBLAS_STATUS_INVALID_VALUE;
    for (uint64_t col = 0; col < yl->cols; col++)
        for (uint64_t row = 0; row < yl->rows; row++) {
            float sum = 0;
            for (uint64_t i = 0; i < wl->rows; i++)
                sum += ic_emu_element(wl->type, w, (int64_t)(row * (uint64_t)wl->stride + i))
                       * ic_emu_element(xl->type, x, (int64_t)(col * (uint64_t)xl->stride + i));
            int64_t at = (int64_t)(col * (uint64_t)yl->stride + row);
            if (p->epilogue == CUBLASLT_EPILOGUE_BIAS)
                sum += p->bias[row];
            if (kept != 0)
                sum += kept * ic_emu_element(yl->type, c, at);
            ic_emu_set_element(yl->type, y, at, sum);
        }
    return CUBLAS_STATUS_SUCCESS;
}

#endif
