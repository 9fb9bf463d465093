#include "kernels/cpu/ic_cpu_library.h"

#include "base/ic_mem.h"

int ic_cpu_library_rows(int rows)
{
    int step = rows <= 64 ? 16 : rows <= 128 ? 32 : 64;
    return (rows + step - 1) / step * step;
}

#if defined(IC_HAVE_ONEDNN)

#include <dlfcn.h>
#include <dnnl.h>
#include <string.h>

enum { CODES_MAX = 256 };

/* The code of one kind of product, made once. */
typedef struct code {
    ic_cpu_product product;
    dnnl_primitive_t primitive;
    dnnl_memory_desc_t a, w, c, room;
    dnnl_memory_t packed; /* weights of a packed product */
} code;

typedef struct helper {
    dnnl_stream_t stream;
    void *room;
    size_t room_bytes;
    bool alone; /* this thread's parallel regions have one thread */
} helper;

struct ic_cpu_library {
    dnnl_engine_t engine;
    int workers;
    helper *helpers; /* [workers] */
    code codes[CODES_MAX];
    int code_count;
    void (*set_threads)(int); /* of the OpenMP runtime that the library brings; NULL: none */
};

int ic_cpu_library_new(ic_cpu_library **out, int workers, ic_error *e)
{
    ic_cpu_library *l = ic_alloc(sizeof *l);
    l->workers = workers;
    l->helpers = ic_calloc((size_t)workers, sizeof *l->helpers);
    void *symbol = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    memcpy(&l->set_threads, &symbol, sizeof symbol);
    bool good = dnnl_engine_create(&l->engine, dnnl_cpu, 0) == dnnl_success;
    for (int i = 0; i < workers && good; i++)
        good = dnnl_stream_create(&l->helpers[i].stream, l->engine, dnnl_stream_default_flags)
               == dnnl_success;
    if (!good) {
        ic_cpu_library_destroy(&l);
        return ic_error_set(e, IC_EDEVICE, "the GEMM library does not start");
    }
    *out = l;
    return 0;
}

void ic_cpu_library_destroy(ic_cpu_library **l_p)
{
    ic_cpu_library *l = *l_p;
    *l_p = NULL;
    if (!l)
        return;
    for (int i = 0; i < l->code_count; i++) {
        dnnl_primitive_destroy(l->codes[i].primitive);
        if (l->codes[i].packed)
            dnnl_memory_destroy(l->codes[i].packed);
    }
    for (int i = 0; i < l->workers; i++) {
        if (l->helpers[i].stream)
            dnnl_stream_destroy(l->helpers[i].stream);
        ic_free(l->helpers[i].room);
    }
    if (l->engine)
        dnnl_engine_destroy(l->engine);
    ic_free(l->helpers);
    ic_free(l);
}

static bool same_product(const ic_cpu_product *a, const ic_cpu_product *b)
{
    return a->dtype == b->dtype && a->rows == b->rows && a->cols == b->cols && a->k == b->k
           && a->lda == b->lda && a->packed == b->packed;
}

static code *find(ic_cpu_library *l, const ic_cpu_product *p)
{
    for (int i = 0; i < l->code_count; i++)
        if (same_product(&l->codes[i].product, p))
            return &l->codes[i];
    return NULL;
}

static bool describe(code *c, const ic_cpu_product *p)
{
    dnnl_data_type_t type = p->dtype == IC_BF16 ? dnnl_bf16 : dnnl_f32;
    dnnl_dims_t a = {p->rows, p->k}, w = {p->k, p->cols}, y = {p->rows, p->cols};
    dnnl_dims_t a_strides = {p->lda, 1}, w_strides = {1, p->k};
    dnnl_status_t weights =
        p->packed ? dnnl_memory_desc_init_by_tag(&c->w, 2, w, type, dnnl_format_tag_any)
                  : dnnl_memory_desc_init_by_strides(&c->w, 2, w, type, w_strides);
    return weights == dnnl_success
           && dnnl_memory_desc_init_by_strides(&c->a, 2, a, type, a_strides) == dnnl_success
           && dnnl_memory_desc_init_by_tag(&c->c, 2, y, dnnl_f32, dnnl_ab) == dnnl_success;
}

static bool make_primitive(ic_cpu_library *l, code *c)
{
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t desc = NULL;
    /* Scratch is ours, by worker: only so may several threads run one primitive. */
    bool good =
        dnnl_matmul_desc_init(&matmul, &c->a, &c->w, NULL, &c->c) == dnnl_success
        && dnnl_primitive_attr_create(&attr) == dnnl_success
        && dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user) == dnnl_success
        && dnnl_primitive_desc_create(&desc, &matmul, attr, l->engine, NULL) == dnnl_success
        && dnnl_primitive_create(&c->primitive, desc) == dnnl_success;
    if (good) {
        c->room = *dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
        c->w = *dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    }
    if (desc)
        dnnl_primitive_desc_destroy(desc);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return good;
}

static int make_packed(ic_cpu_library *l, code *c)
{
    void *handle = NULL;
    if (dnnl_memory_create(&c->packed, &c->w, l->engine, DNNL_MEMORY_ALLOCATE) != dnnl_success
        || dnnl_memory_get_data_handle(c->packed, &handle) != dnnl_success)
        return IC_ENOMEM;
    memset(handle, 0, dnnl_memory_desc_get_size(&c->w));
    return 0;
}

int ic_cpu_library_prepare(ic_cpu_library *l, const ic_cpu_product *p)
{
    if (find(l, p))
        return 0;
    if (l->code_count == CODES_MAX)
        return IC_EDEVICE;
    code c = {.product = *p};
    if (l->set_threads)
        l->set_threads(1); /* the number of threads is part of the code */
    if (!describe(&c, p) || !make_primitive(l, &c))
        return IC_EDEVICE;
    int rc = p->packed ? make_packed(l, &c) : 0;
    size_t room = dnnl_memory_desc_get_size(&c.room);
    for (int i = 0; i < l->workers && rc == 0; i++) {
        helper *h = &l->helpers[i];
        if (room <= h->room_bytes)
            continue;
        ic_free(h->room);
        h->room = ic_try_alloc_aligned(room);
        h->room_bytes = h->room ? room : 0;
        rc = h->room ? 0 : IC_ENOMEM;
    }
    if (rc) {
        dnnl_primitive_destroy(c.primitive);
        if (c.packed)
            dnnl_memory_destroy(c.packed);
        return rc;
    }
    l->codes[l->code_count++] = c;
    return 0;
}

int ic_cpu_library_run(ic_cpu_library *l, int worker, const ic_cpu_product *p, const void *a,
                       const void *w, float *y)
{
    const code *c = find(l, p);
    helper *h = &l->helpers[worker];
    if (!h->alone && l->set_threads)
        l->set_threads(1);
    h->alone = true;
    const dnnl_memory_desc_t *descs[4] = {&c->a, &c->w, &c->c, &c->room};
    void *handles[4] = {(void *)(uintptr_t)a, (void *)(uintptr_t)w, y, h->room};
    static const int kinds[4] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
    dnnl_exec_arg_t args[4];
    int made = 0;
    bool good = true;
    for (int i = 0; i < 4 && good; i++, made += good) {
        args[i].arg = kinds[i];
        if (i == 1 && c->packed)
            args[i].memory = c->packed;
        else
            good = dnnl_memory_create(&args[i].memory, descs[i], l->engine, handles[i])
                   == dnnl_success;
    }
    good = good && dnnl_primitive_execute(c->primitive, h->stream, 4, args) == dnnl_success
           && dnnl_stream_wait(h->stream) == dnnl_success;
    for (int i = 0; i < made; i++)
        if (args[i].memory != c->packed)
            dnnl_memory_destroy(args[i].memory);
    return good ? 0 : IC_EDEVICE;
}

#else

int ic_cpu_library_new(ic_cpu_library **out, int workers, ic_error *e)
{
    (void)workers;
    *out = NULL;
    return ic_error_set(e, IC_EUNSUPPORTED, "this build has no GEMM library");
}

void ic_cpu_library_destroy(ic_cpu_library **l_p)
{
    *l_p = NULL;
}

int ic_cpu_library_prepare(ic_cpu_library *l, const ic_cpu_product *p)
{
    (void)l, (void)p;
    return IC_EUNSUPPORTED;
}

int ic_cpu_library_run(ic_cpu_library *l, int worker, const ic_cpu_product *p, const void *a,
                       const void *w, float *c)
{
    (void)l, (void)worker, (void)p, (void)a, (void)w, (void)c;
    return IC_EUNSUPPORTED;
}

#endif
