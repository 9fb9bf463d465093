/* Products of many rows, through cuBLASLt.
 *
 * The library counts columns first: our y[rows, out] = x[rows, in] w[out, in]^T is its y' = w x'
 * with w transposed, all in the order in which they lie. What it recommends for a shape is asked
 * once and remembered. A shape that it refuses goes through our own loops. */
#include <cublasLt.h>

#include "kernels/cuda/ic_cuda_product.h"

#include <stdio.h>
#include <string.h>

enum {
    WORKSPACE_BYTES = 64 << 20,
    PLANS = 256, /* remembered shapes: more than the products of a model times its usual batches */
    THIN_ROWS = 16 /* up to here the weight's reading is what takes time */
};

/* What a plan depends on. Compared as bytes: no padding inside. */
typedef struct shape {
    int64_t outputs, rows, depth, ldw, ldx, ldy;
    int32_t dtype, y_dtype, bias, add;
    int32_t x_align, y_align; /* bytes */
} shape;

typedef struct plan {
    shape key;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace;
    bool bias_apart; /* the library does not add it to sums of this kind */
    bool refused;    /* by the library: ours, then */
} plan;

struct ic_cuda_plans {
    plan plans[PLANS];
    int count, next; /* next: the one that is forgotten when all places are taken */
};

static int check(ic_cuda_device *d, cublasStatus_t code, const char *what)
{
    if (code == CUBLAS_STATUS_SUCCESS)
        return 0;
    if (!d->trouble[0])
        snprintf(d->trouble, sizeof d->trouble, "%s: %s", cublasLtGetStatusString(code), what);
    return code == CUBLAS_STATUS_ALLOC_FAILED ? IC_ENOMEM : IC_EDEVICE;
}

#define TRY(d, call)                                                                               \
    do {                                                                                           \
        int try_rc = check((d), (call), #call);                                                    \
        if (try_rc)                                                                                \
            return try_rc;                                                                         \
    } while (0)

static cudaDataType_t type_of(ic_dtype dtype)
{
    return dtype == IC_F32 ? CUDA_R_32F : dtype == IC_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

static int32_t alignment(const void *at)
{
    uintptr_t bits = (uintptr_t)at | 256;
    return (int32_t)(bits & (~bits + 1));
}

static shape shape_of(const ic_cuda_product *p)
{
    shape s;
    memset(&s, 0, sizeof s);
    s.outputs = p->w->base.out_dim;
    s.rows = p->rows;
    s.depth = p->w->stride;
    s.ldw = p->w->stride;
    s.ldx = p->ldx;
    s.ldy = p->y->stride;
    s.dtype = p->w->stored;
    s.y_dtype = p->y->dtype;
    s.bias = p->bias != NULL;
    s.add = p->add;
    s.x_align = alignment(p->x);
    s.y_align = alignment(p->y->data);
    return s;
}

/* --- plans --- */

static void plan_fini(plan *p)
{
    if (p->product)
        (void)cublasLtMatmulDescDestroy(p->product);
    cublasLtMatrixLayout_t layouts[] = {p->w, p->x, p->y};
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (layouts[i])
            (void)cublasLtMatrixLayoutDestroy(layouts[i]);
    memset(p, 0, sizeof *p);
}

static int describe(ic_cuda_device *d, plan *p)
{
    const shape *s = &p->key;
    cudaDataType_t type = type_of((ic_dtype)s->dtype), y_type = type_of((ic_dtype)s->y_dtype);
    cublasOperation_t transposed = CUBLAS_OP_T;
    TRY(d, cublasLtMatmulDescCreate(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    TRY(d, cublasLtMatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                          sizeof transposed));
    if (s->bias && !p->bias_apart) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        cudaDataType_t bias_type = CUDA_R_32F;
        TRY(d, cublasLtMatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                              sizeof epilogue));
        TRY(d, cublasLtMatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
                                              &bias_type, sizeof bias_type));
    }
    TRY(d,
        cublasLtMatrixLayoutCreate(&p->w, type, (uint64_t)s->depth, (uint64_t)s->outputs, s->ldw));
    TRY(d, cublasLtMatrixLayoutCreate(&p->x, type, (uint64_t)s->depth, (uint64_t)s->rows, s->ldx));
    TRY(d,
        cublasLtMatrixLayoutCreate(&p->y, y_type, (uint64_t)s->outputs, (uint64_t)s->rows, s->ldy));
    return 0;
}

static cublasStatus_t prefer(cublasLtMatmulPreference_t preference, const shape *s)
{
    uint64_t workspace = WORKSPACE_BYTES;
    uint32_t w_align = 256, x_align = (uint32_t)s->x_align, y_align = (uint32_t)s->y_align;
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        const void *value;
        size_t bytes;
    } wishes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &w_align, sizeof w_align},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &x_align, sizeof x_align},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &y_align, sizeof y_align},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &y_align, sizeof y_align},
    };
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; status == CUBLAS_STATUS_SUCCESS && i < sizeof wishes / sizeof *wishes; i++)
        status = cublasLtMatmulPreferenceSetAttribute(preference, wishes[i].attribute,
                                                      wishes[i].value, wishes[i].bytes);
    return status;
}

/* Asks the library; that it knows no way is an answer, too. */
static int choose(ic_cuda_device *d, plan *p)
{
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    TRY(d, cublasLtMatmulPreferenceCreate(&preference));
    cublasStatus_t status = prefer(preference, &p->key);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulAlgoGetHeuristic(d->library, p->product, p->w, p->x, p->y, p->y,
                                                preference, 1, &result, &found);
    (void)cublasLtMatmulPreferenceDestroy(preference);
    p->refused = found == 0
                 && (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_SUCCESS
                     || status == CUBLAS_STATUS_INVALID_VALUE);
    if (p->refused)
        return 0;
    TRY(d, status);
    p->algorithm = result.algo;
    p->workspace = result.workspaceSize;
    return 0;
}

static int make_plan(ic_cuda_device *d, const shape *s, bool bias_apart, plan *p)
{
    plan_fini(p);
    p->key = *s;
    p->bias_apart = bias_apart;
    int rc = describe(d, p);
    return rc ? rc : choose(d, p);
}

static int find_plan(ic_cuda_device *d, const shape *s, plan **out)
{
    struct ic_cuda_plans *known = d->plans;
    for (int i = 0; i < known->count; i++)
        if (memcmp(&known->plans[i].key, s, sizeof *s) == 0) {
            *out = &known->plans[i];
            return 0;
        }
    int at = known->count < PLANS ? known->count : known->next++ % PLANS;
    plan *p = *out = &known->plans[at];
    int rc = make_plan(d, s, false, p);
    if (rc == 0 && p->refused && s->bias)
        rc = make_plan(d, s, true, p);
    if (rc)
        plan_fini(p);
    else if (known->count < PLANS)
        known->count++;
    return rc;
}

/* --- products --- */

static int multiply(ic_cuda_device *d, plan *plan, const ic_cuda_product *p)
{
    float one = 1, kept = p->add ? 1 : 0;
    void *workspace = ic_cuda_scratch(d, IC_CUDA_ROOM_LIBRARY, WORKSPACE_BYTES);
    if (!workspace)
        return IC_ENOMEM;
    if (p->bias && !plan->bias_apart)
        TRY(d, cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                              &p->bias, sizeof p->bias));
    ic_cuda_busy = true;
    TRY(d, cublasLtMatmul(d->library, plan->product, &one, p->w->data, plan->w, p->x, plan->x,
                          &kept, p->y->data, plan->y, p->y->data, plan->y, &plan->algorithm,
                          workspace, plan->workspace, d->stream));
    return p->bias && plan->bias_apart ? ic_cuda_add_bias(d, p->bias, p->y) : 0;
}

static int run(ic_cuda_device *d, const ic_cuda_product *p)
{
    if (p->rows <= THIN_ROWS)
        return ic_cuda_thin(d, p);
    if (d->replays)
        return 0;
    shape s = shape_of(p);
    plan *plan;
    int rc = find_plan(d, &s, &plan);
    if (rc)
        return rc;
    return plan->refused ? ic_cuda_thin(d, p) : multiply(d, plan, p);
}

/* Rows as both operands want them: in the compute dtype, padded, at 16 bytes. */
static bool serves(const ic_mat *x, const ic_cuda_weight *w)
{
    return x->dtype == w->stored && x->cols == w->stride && x->stride % IC_CUDA_DEPTH == 0
           && (uintptr_t)x->data % 16 == 0;
}

int ic_cuda_gemm(ic_device *base, ic_role role, const ic_mat *x, const ic_weight *weight,
                 const float *bias, bool add, ic_mat *y)
{
    (void)role; /* no promise of equal bits is made here */
    ic_cuda_device *d = ic_cuda_of(base);
    const ic_cuda_weight *w = (const ic_cuda_weight *)(const void *)weight;
    ic_cuda_product p = {w, x->data, x->rows, x->stride, bias, add, y};
    if (!serves(x, w)) {
        size_t bytes = (size_t)(x->rows * w->stride) * ic_dtype_size(w->stored);
        void *room = ic_cuda_scratch(d, IC_CUDA_ROOM_OPERANDS, bytes);
        if (!room)
            return IC_ENOMEM;
        int rc = ic_cuda_convert(d, x->data, x->dtype, x->stride, x->rows, x->cols, room, w->stored,
                                 w->stride);
        if (rc)
            return rc;
        p.x = room;
        p.ldx = w->stride;
    }
    return run(d, &p);
}

/* --- life --- */

int ic_cuda_gemm_open(ic_cuda_device *d)
{
    d->plans = (struct ic_cuda_plans *)ic_alloc(sizeof *d->plans);
    TRY(d, cublasLtCreate(&d->library));
    return ic_cuda_reserve(d, IC_CUDA_ROOM_LIBRARY, WORKSPACE_BYTES);
}

void ic_cuda_gemm_close(ic_cuda_device *d)
{
    for (int i = 0; d->plans && i < d->plans->count; i++)
        plan_fini(&d->plans->plans[i]);
    ic_free(d->plans);
    if (d->library)
        (void)cublasLtDestroy(d->library);
}
