/* Norms, activations and row moves: everything that treats a row by itself. */
#include <math.h>
#include <string.h>

#include "base/ic_assert.h"
#include "kernels/cpu/ic_cpu.h"

/* Elements that are worth a task of their own: some ten microseconds of work. */
enum { GRAIN_ELEMENTS = 1 << 15 };

typedef struct row_job {
    const ic_cpu_vec *vec;
    const ic_mat *x;
    ic_mat *y;
    const float *weight, *bias;
    const int32_t *rows;
    float eps;
    int dim;
    bool flag;
} row_job;

static int run(ic_device *base, ic_cpu_rows_fn fn, row_job *job, const ic_mat *shape)
{
    ic_cpu_device *d = ic_cpu_of(base);
    job->vec = d->vec;
    if (shape->rows)
        ic_cpu_for_rows(d, fn, job, shape->rows, GRAIN_ELEMENTS / (shape->cols + 1) + 1);
    return 0;
}

static void gather_rows(void *arg, int64_t first, int64_t end)
{
    const row_job *j = arg;
    int64_t bytes = j->x->stride * (int64_t)ic_dtype_size(j->x->dtype);
    for (int64_t i = first; i < end; i++)
        j->vec->widen(j->x->dtype, (const char *)j->x->data + j->rows[i] * bytes,
                      ic_cpu_row(j->y, i), j->y->cols);
}

int ic_cpu_gather(ic_device *d, const ic_mat *table, const int32_t *ids, ic_mat *y)
{
    for (int64_t i = 0; i < y->rows; i++)
        IC_ASSERT(ids[i] >= 0 && ids[i] < table->rows);
    return run(d, gather_rows, &(row_job){.x = table, .y = y, .rows = ids}, y);
}

static void rmsnorm_rows(void *arg, int64_t first, int64_t end)
{
    const row_job *j = arg;
    for (int64_t i = first; i < end; i++)
        for (int64_t at = 0; at < j->x->cols; at += j->dim)
            j->vec->rmsnorm(ic_cpu_row(j->x, i) + at, j->weight, j->eps, ic_cpu_row(j->y, i) + at,
                            j->dim);
}

int ic_cpu_rmsnorm(ic_device *d, const ic_mat *x, const float *weight, int dim, float eps,
                   ic_mat *y)
{
    row_job job = {.x = x, .y = y, .weight = weight, .dim = dim, .eps = eps};
    return run(d, rmsnorm_rows, &job, x);
}

static void layernorm_rows(void *arg, int64_t first, int64_t end)
{
    const row_job *j = arg;
    for (int64_t i = first; i < end; i++)
        j->vec->layernorm(ic_cpu_row(j->x, i), j->weight, j->bias, j->eps, ic_cpu_row(j->y, i),
                          (int)j->x->cols);
}

int ic_cpu_layernorm(ic_device *d, const ic_mat *x, const float *weight, const float *bias,
                     float eps, ic_mat *y)
{
    row_job job = {.x = x, .y = y, .weight = weight, .bias = bias, .eps = eps};
    return run(d, layernorm_rows, &job, x);
}

static void swiglu_rows(void *arg, int64_t first, int64_t end)
{
    const row_job *j = arg;
    for (int64_t i = first; i < end; i++) {
        const float *gate = ic_cpu_row(j->x, i);
        j->vec->swiglu(gate, gate + j->y->cols, ic_cpu_row(j->y, i), (int)j->y->cols);
    }
}

int ic_cpu_swiglu(ic_device *d, const ic_mat *gate_up, ic_mat *y)
{
    return run(d, swiglu_rows, &(row_job){.x = gate_up, .y = y}, gate_up);
}

static void gelu_rows(void *arg, int64_t first, int64_t end)
{
    const row_job *j = arg;
    for (int64_t i = first; i < end; i++) {
        const float *x = ic_cpu_row(j->x, i);
        float *y = ic_cpu_row(j->y, i);
        if (j->flag) {
            j->vec->gelu_tanh(x, y, (int)j->x->cols);
            continue;
        }
        for (int64_t c = 0; c < j->x->cols; c++)
            y[c] = 0.5f * x[c] * (1.0f + erff(x[c] * 0.70710678118654752f));
    }
}

int ic_cpu_gelu(ic_device *d, const ic_mat *x, bool tanh_form, ic_mat *y)
{
    return run(d, gelu_rows, &(row_job){.x = x, .y = y, .flag = tanh_form}, x);
}

static void add_rows(void *arg, int64_t first, int64_t end)
{
    const row_job *j = arg;
    for (int64_t i = first; i < end; i++)
        j->vec->add(ic_cpu_row(j->x, i), ic_cpu_row(j->y, i), (int)j->x->cols);
}

int ic_cpu_add(ic_device *d, const ic_mat *x, ic_mat *y)
{
    return run(d, add_rows, &(row_job){.x = x, .y = y}, x);
}

static void scatter_rows(void *arg, int64_t first, int64_t end)
{
    const row_job *j = arg;
    for (int64_t i = first; i < end; i++) {
        float *y = ic_cpu_row(j->y, j->rows[i]);
        if (j->flag)
            memcpy(y, ic_cpu_row(j->x, i), (size_t)j->x->cols * sizeof *y);
        else
            j->vec->add(ic_cpu_row(j->x, i), y, (int)j->x->cols);
    }
}

int ic_cpu_scatter(ic_device *d, const ic_mat *x, const int32_t *rows, bool set, ic_mat *y)
{
    return run(d, scatter_rows, &(row_job){.x = x, .y = y, .rows = rows, .flag = set}, x);
}
