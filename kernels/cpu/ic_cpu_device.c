/* The CPU backend's device: threads, instruction set, memory, scratch. */
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/ic_mem.h"
#include "kernels/cpu/ic_cpu.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* --- scratch --- */

static void *grown(ic_cpu_scratch *s, size_t bytes)
{
    if (bytes <= s->bytes)
        return s->memory;
    ic_free(s->memory);
    *s = (ic_cpu_scratch){.memory = ic_try_alloc_aligned(bytes)};
    s->bytes = s->memory ? bytes : 0;
    return s->memory;
}

void *ic_cpu_shared_scratch(ic_cpu_device *d, size_t bytes)
{
    return grown(&d->shared, bytes);
}

int ic_cpu_reserve_workers(ic_cpu_device *d, size_t bytes)
{
    for (int i = 0; i < ic_cpu_pool_threads(d->pool); i++)
        if (!grown(&d->workers[i], bytes))
            return IC_ENOMEM;
    return 0;
}

/* --- rows in parallel --- */

typedef struct rows_job {
    ic_cpu_rows_fn fn;
    void *job;
    int64_t rows, grain;
} rows_job;

static void run_rows(void *arg, int task, int worker)
{
    (void)worker;
    rows_job *j = arg;
    int64_t first = task * j->grain, end = first + j->grain;
    j->fn(j->job, first, end < j->rows ? end : j->rows);
}

void ic_cpu_for_rows(ic_cpu_device *d, ic_cpu_rows_fn fn, void *job, int64_t rows, int64_t grain)
{
    rows_job j = {fn, job, rows, grain > 0 ? grain : 1};
    ic_cpu_pool_run(d->pool, run_rows, &j, (int)((rows + j.grain - 1) / j.grain));
}

/* --- memory --- */

static void *device_alloc(ic_device *d, size_t bytes)
{
    (void)d;
    return ic_try_alloc_aligned(bytes);
}

static void device_free(ic_device *d, void *memory)
{
    (void)d;
    ic_free(memory);
}

static int device_copy(ic_device *d, void *to, const void *from, size_t bytes)
{
    (void)d;
    if (bytes)
        memcpy(to, from, bytes);
    return 0;
}

static int device_wait(ic_device *d)
{
    (void)d;
    return 0;
}

/* --- measuring --- */

enum { READ_PIECE = 1 << 20 };

typedef struct read_job {
    const ic_cpu_vec *vec;
    const char *data;
    size_t bytes;
    float *results; /* [threads]: stored, so that the reading is not left out */
} read_job;

static void read_piece(void *arg, int task, int worker)
{
    const read_job *j = arg;
    size_t first = (size_t)task * READ_PIECE, left = j->bytes - first;
    size_t bytes = left < READ_PIECE ? left : READ_PIECE;
    j->results[worker] += j->vec->read(j->data + first, (int64_t)bytes);
}

double ic_cpu_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double ic_cpu_read_time(ic_device *base, const void *memory, size_t bytes)
{
    ic_cpu_device *d = ic_cpu_of(base);
    float *results = ic_calloc((size_t)ic_cpu_pool_threads(d->pool), sizeof *results);
    read_job job = {d->vec, memory, bytes, results};
    double before = ic_cpu_now();
    ic_cpu_pool_run(d->pool, read_piece, &job, (int)((bytes + READ_PIECE - 1) / READ_PIECE));
    double after = ic_cpu_now();
    ic_free(results);
    return after - before;
}

/* The best of windows of 64 MiB, each long out of the caches when its turn comes again: what the
 * memory gives when nobody else reads. */
double ic_cpu_read_rate(ic_device *base, size_t bytes, double seconds)
{
    enum { WINDOW = 64 << 20 };
    char *data = ic_try_alloc_aligned(bytes);
    if (!data)
        return 0;
    size_t at = 0;
    double best = 0, start = ic_cpu_now();
    do {
        size_t window = bytes - at < WINDOW ? bytes - at : WINDOW;
        double rate = (double)window / ic_cpu_read_time(base, data + at, window);
        best = rate > best ? rate : best;
        at = at + WINDOW < bytes ? at + WINDOW : 0;
    } while (ic_cpu_now() - start < seconds);
    ic_free(data);
    return best;
}

/* --- open and close --- */

static int usable_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    return 1;
}

static size_t usable_memory(void)
{
    size_t all = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "re");
    unsigned long long limit = 0;
    if (f && fscanf(f, "%llu", &limit) == 1 && limit > 0 && limit < all)
        all = (size_t)limit;
    if (f)
        fclose(f);
    return all;
}

static void name_cpu(char *name, size_t bytes)
{
    snprintf(name, bytes, "CPU");
#if defined(__x86_64__)
    unsigned regs[12] = {0};
    for (unsigned i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, &regs[i * 4], &regs[i * 4 + 1], &regs[i * 4 + 2],
                         &regs[i * 4 + 3]))
            return;
    char brand[sizeof regs + 1] = {0};
    memcpy(brand, regs, sizeof regs);
    snprintf(name, bytes, "%s", brand + strspn(brand, " "));
    for (size_t end = strlen(name); end > 0 && name[end - 1] == ' '; end--)
        name[end - 1] = '\0';
#endif
}

/* The widest table that this machine has and the configuration allows. */
static const ic_cpu_vec *choose_vec(const ic_device_config *config, ic_error *e)
{
    if (config->plain_loops)
        return &ic_cpu_vec_plain;
    const ic_cpu_vec *vecs[] = {ic_cpu_vec_amx(), ic_cpu_vec_avx512_bf16(), ic_cpu_vec_avx512(),
                                ic_cpu_vec_avx2(), &ic_cpu_vec_plain};
    for (size_t i = 0; i < sizeof vecs / sizeof *vecs; i++)
        if (vecs[i] && (!config->instructions || strcmp(config->instructions, vecs[i]->name) == 0))
            return vecs[i];
    ic_error_set(e, IC_EUNSUPPORTED, "this machine has no \"%s\" instructions",
                 config->instructions);
    return NULL;
}

static void fill_info(ic_cpu_device *d)
{
    ic_device_info *info = &d->base.info;
    snprintf(info->kind, sizeof info->kind, "cpu");
    name_cpu(info->name, sizeof info->name);
    snprintf(info->numerics, sizeof info->numerics, "cpu-1/%s%s", d->vec->name,
             d->library ? "/dnnl" : "");
    info->threads = ic_cpu_pool_threads(d->pool);
    info->batch_exact = !d->library; /* the library promises nothing */
    info->bf16_matmul = d->vec->gemm_bf16 != NULL;
    info->memory_bytes = usable_memory();
}

static void device_close(ic_device *base)
{
    ic_cpu_device *d = ic_cpu_of(base);
    for (int i = 0; d->workers && i < ic_cpu_pool_threads(d->pool); i++)
        ic_free(d->workers[i].memory);
    ic_free(d->workers);
    ic_free(d->shared.memory);
    ic_free(d->angles.inv_freq);
    ic_free(d->angles.axis);
    ic_free(d->angles.cosine);
    ic_free(d->angles.sine);
    ic_cpu_library_destroy(&d->library);
    ic_cpu_pool_destroy(&d->pool);
    ic_free(d);
}

static const ic_backend backend = {
    .close = device_close,
    .alloc = device_alloc,
    .free = device_free,
    .upload = device_copy,
    .download = device_copy,
    .weight_new = ic_cpu_weight_new,
    .weight_destroy = ic_cpu_weight_destroy,
    .slab_store = ic_cpu_slab_store,
    .gemm = ic_cpu_gemm,
    .gather = ic_cpu_gather,
    .rmsnorm = ic_cpu_rmsnorm,
    .layernorm = ic_cpu_layernorm,
    .swiglu = ic_cpu_swiglu,
    .gelu = ic_cpu_gelu,
    .add = ic_cpu_add,
    .scatter = ic_cpu_scatter,
    .attention_prefill = ic_cpu_attention_prefill,
    .attention_score = ic_cpu_attention_score,
    .attention_decode = ic_cpu_attention_decode,
    .attention_full = ic_cpu_attention_full,
    .patchify = ic_cpu_patchify,
    .vision_positions = ic_cpu_vision_positions,
    .vision_rope = ic_cpu_vision_rope,
    .wait = device_wait,
    .read_rate = ic_cpu_read_rate,
    .read_time = ic_cpu_read_time,
    .gemm_rate = ic_cpu_gemm_rate,
};

int ic_cpu_device_open(ic_device **out, const ic_device_config *config, ic_error *e)
{
    const ic_cpu_vec *vec = choose_vec(config, e);
    if (!vec)
        return IC_EUNSUPPORTED;
    ic_cpu_device *d = ic_alloc(sizeof *d);
    int threads = config->threads ? config->threads : usable_cores();
    int rc = ic_cpu_pool_new(&d->pool, threads, e);
    if (rc) {
        ic_free(d);
        return rc;
    }
    d->base.backend = &backend;
    d->vec = vec;
    d->workers = ic_calloc((size_t)threads, sizeof *d->workers);
    if (config->library)
        rc = ic_cpu_library_new(&d->library, threads, e);
    if (rc) {
        device_close(&d->base);
        return rc;
    }
    fill_info(d);
    *out = &d->base;
    return 0;
}
