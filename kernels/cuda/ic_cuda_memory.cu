/* Device memory, scratch, and the ways between host and device. */
#include "kernels/cuda/ic_cuda.h"

#include <string.h>

enum { ALIGN = 256, STEP_MAIL_BYTES = 1 << 20, BESIDE_MIN = 64 << 10 };

static size_t rounded(size_t bytes)
{
    return (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

/* --- memory ---
 * Each block begins with its size, in a unit of its own, so that what is given back is counted. */

static char *take(ic_cuda_device *d, size_t bytes)
{
    size_t all = rounded(bytes) + ALIGN;
    char *memory = NULL;
    pthread_mutex_lock(&d->lock);
    bool fits = bytes <= d->limit && all <= d->limit - d->used;
    d->used += fits ? all : 0;
    d->taken += fits;
    pthread_mutex_unlock(&d->lock);
    if (!fits)
        return NULL;
    if (ic_cuda_check(d, cudaMalloc((void **)&memory, all), "taking memory") == 0
        && ic_cuda_check(d, cudaMemcpy(memory, &all, sizeof all, cudaMemcpyHostToDevice),
                         "counting memory")
               == 0)
        return memory + ALIGN;
    (void)cudaFree(memory);
    pthread_mutex_lock(&d->lock);
    d->used -= all;
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

static void give_back(ic_cuda_device *d, char *memory)
{
    size_t all = 0;
    if (!memory)
        return;
    if (cudaMemcpy(&all, memory - ALIGN, sizeof all, cudaMemcpyDeviceToHost) != cudaSuccess)
        all = 0; /* the device is lost; so is its count */
    (void)cudaFree(memory - ALIGN);
    pthread_mutex_lock(&d->lock);
    d->used -= all;
    pthread_mutex_unlock(&d->lock);
}

void *ic_cuda_alloc(ic_device *base, size_t bytes)
{
    ic_cuda_device *d = ic_cuda_of(base);
    char *memory = take(d, bytes);
    if (memory
        && (ic_cuda_check(d, cudaMemsetAsync(memory, 0, rounded(bytes), d->copies), "clearing")
            || ic_cuda_check(d, cudaStreamSynchronize(d->copies), "clearing memory"))) {
        give_back(d, memory);
        return NULL;
    }
    return memory;
}

void ic_cuda_free(ic_device *d, void *memory)
{
    give_back(ic_cuda_of(d), (char *)memory);
}

void *ic_cuda_alloc_host(ic_device *base, size_t bytes)
{
    void *memory = NULL;
    return ic_cuda_check(ic_cuda_of(base), cudaMallocHost(&memory, bytes), "locking memory")
               ? NULL
               : memory;
}

void ic_cuda_free_host(ic_device *d, void *memory)
{
    (void)d;
    (void)cudaFreeHost(memory);
}

/* --- scratch --- */

size_t ic_cuda_reserve_cost(ic_cuda_device *d, enum ic_cuda_room room, size_t bytes)
{
    const ic_cuda_region *r = &d->rooms[room];
    pthread_mutex_lock(&d->lock);
    bool enough = bytes <= r->bytes || bytes <= r->spare_bytes;
    pthread_mutex_unlock(&d->lock);
    return enough ? 0 : rounded(bytes) + ALIGN;
}

ic_device_memory ic_cuda_memory_of(ic_device *base)
{
    ic_cuda_device *d = ic_cuda_of(base);
    ic_device_memory m = {};
    pthread_mutex_lock(&d->lock);
    m.limit = d->limit;
    m.used = d->used;
    m.taken = d->taken;
    for (int i = 0; i < IC_CUDA_ROOM_COUNT; i++)
        m.scratch += d->rooms[i].bytes + d->rooms[i].spare_bytes;
    m.scratch += d->ring.bytes + d->step_mail.bytes;
    pthread_mutex_unlock(&d->lock);
    return m;
}

int ic_cuda_reserve(ic_cuda_device *d, enum ic_cuda_room room, size_t bytes)
{
    ic_cuda_region *r = &d->rooms[room];
    if (ic_cuda_reserve_cost(d, room, bytes) == 0)
        return 0;
    char *memory = take(d, bytes), *old = memory;
    if (!memory)
        return IC_ENOMEM;
    pthread_mutex_lock(&d->lock);
    if (bytes > r->spare_bytes) {
        old = r->spare;
        r->spare = memory;
        r->spare_bytes = bytes;
    }
    pthread_mutex_unlock(&d->lock);
    give_back(d, old);
    return 0;
}

/* The spare takes the region's place; nothing that runs or is recorded may still use the old one.
 */
static int swap_in(ic_cuda_device *d, ic_cuda_region *r)
{
    IC_CUDA_TRY(d, cudaStreamSynchronize(d->stream));
    ic_cuda_step_forget(d);
    pthread_mutex_lock(&d->lock);
    char *old = r->memory;
    r->memory = r->spare;
    r->bytes = r->spare_bytes;
    r->spare = NULL;
    r->spare_bytes = 0;
    pthread_mutex_unlock(&d->lock);
    give_back(d, old);
    return 0;
}

void *ic_cuda_scratch(ic_cuda_device *d, enum ic_cuda_room room, size_t bytes)
{
    ic_cuda_region *r = &d->rooms[room];
    if (bytes <= r->bytes && r->memory)
        return r->memory;
    if (d->in_step) /* a recorded step runs once unrecorded, and so has all it needs */
        return NULL;
    if (ic_cuda_reserve(d, room, bytes) || swap_in(d, r))
        return NULL;
    return r->memory;
}

/* --- copies ---
 * Between page-locked memory and the device directly; pageable memory goes through two page-locked
 * buffers in turn, so that the host's copy of one piece overlaps with the device's of the other. */

bool ic_cuda_is_locked(const void *host)
{
    cudaPointerAttributes a;
    if (cudaPointerGetAttributes(&a, host) != cudaSuccess) {
        (void)cudaGetLastError();
        return false;
    }
    return a.type == cudaMemoryTypeHost;
}

/* Kernels that this thread has started come before its copies. */
int ic_cuda_settle(ic_cuda_device *d)
{
    if (!ic_cuda_busy)
        return 0;
    return ic_cuda_wait(&d->base);
}

static int copy_at_once(ic_cuda_device *d, void *to, const void *from, size_t bytes,
                        cudaMemcpyKind kind)
{
    cudaEvent_t done;
    IC_CUDA_TRY(d, cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
    int rc = ic_cuda_check(d, cudaMemcpyAsync(to, from, bytes, kind, d->copies), "copying");
    if (rc == 0)
        rc = ic_cuda_check(d, cudaEventRecord(done, d->copies), "copying");
    if (rc == 0)
        rc = ic_cuda_check(d, cudaEventSynchronize(done), "copying");
    (void)cudaEventDestroy(done);
    return rc;
}

static size_t piece_of(size_t bytes, size_t at)
{
    return bytes - at < IC_CUDA_BOUNCE ? bytes - at : (size_t)IC_CUDA_BOUNCE;
}

static int start_piece(ic_cuda_device *d, void *to, const void *from, size_t bytes, int side,
                       cudaMemcpyKind kind)
{
    IC_CUDA_TRY(d, cudaMemcpyAsync(to, from, bytes, kind, d->copies));
    IC_CUDA_TRY(d, cudaEventRecord(d->bounced[side], d->copies));
    return 0;
}

static int upload_pieces(ic_cuda_device *d, char *to, const char *from, size_t bytes)
{
    int side = 0;
    for (size_t at = 0; at < bytes; at += IC_CUDA_BOUNCE, side = !side) {
        size_t piece = piece_of(bytes, at);
        IC_CUDA_TRY(d, cudaEventSynchronize(d->bounced[side]));
        memcpy(d->bounce[side], from + at, piece);
        int rc = start_piece(d, to + at, d->bounce[side], piece, side, cudaMemcpyHostToDevice);
        if (rc)
            return rc;
    }
    IC_CUDA_TRY(d, cudaEventSynchronize(d->bounced[!side]));
    return 0;
}

static int download_pieces(ic_cuda_device *d, char *to, const char *from, size_t bytes)
{
    int side = 0;
    int rc = start_piece(d, d->bounce[0], from, piece_of(bytes, 0), 0, cudaMemcpyDeviceToHost);
    for (size_t at = 0; rc == 0 && at < bytes; at += IC_CUDA_BOUNCE, side = !side) {
        size_t next = at + IC_CUDA_BOUNCE;
        if (next < bytes)
            rc = start_piece(d, d->bounce[!side], from + next, piece_of(bytes, next), !side,
                             cudaMemcpyDeviceToHost);
        if (rc)
            break;
        rc = ic_cuda_check(d, cudaEventSynchronize(d->bounced[side]), "downloading");
        if (rc == 0)
            memcpy(to + at, d->bounce[side], piece_of(bytes, at));
    }
    return rc;
}

int ic_cuda_upload(ic_device *base, void *to_device, const void *from_host, size_t bytes)
{
    ic_cuda_device *d = ic_cuda_of(base);
    int rc = ic_cuda_settle(d);
    if (rc || bytes == 0)
        return rc;
    if (ic_cuda_is_locked(from_host))
        return copy_at_once(d, to_device, from_host, bytes, cudaMemcpyHostToDevice);
    pthread_mutex_lock(&d->lock);
    rc = upload_pieces(d, (char *)to_device, (const char *)from_host, bytes);
    pthread_mutex_unlock(&d->lock);
    return rc;
}

int ic_cuda_download(ic_device *base, void *to_host, const void *from_device, size_t bytes)
{
    ic_cuda_device *d = ic_cuda_of(base);
    int rc = ic_cuda_settle(d);
    if (rc || bytes == 0)
        return rc;
    if (ic_cuda_is_locked(to_host))
        return copy_at_once(d, to_host, from_device, bytes, cudaMemcpyDeviceToHost);
    pthread_mutex_lock(&d->lock);
    rc = download_pieces(d, (char *)to_host, (const char *)from_device, bytes);
    pthread_mutex_unlock(&d->lock);
    return rc;
}

int ic_cuda_fetch(ic_cuda_device *d, void *to_host, const void *from_device, size_t bytes)
{
    if (bytes > IC_CUDA_RESULTS)
        return ic_cuda_download(&d->base, to_host, from_device, bytes);
    IC_CUDA_TRY(d,
                cudaMemcpyAsync(d->results, from_device, bytes, cudaMemcpyDeviceToHost, d->stream));
    int rc = ic_cuda_wait(&d->base);
    if (rc == 0)
        memcpy(to_host, d->results, bytes);
    return rc;
}

int ic_cuda_wait(ic_device *base)
{
    ic_cuda_device *d = ic_cuda_of(base);
    int rc = ic_cuda_slab_flush(d);
    if (rc)
        return rc;
    IC_CUDA_TRY(d, cudaStreamSynchronize(d->stream));
    ic_cuda_busy = false;
    return 0;
}

/* --- staging --- */

/* Large pieces go on the copies' stream, beside what computes; kernels started later wait. */
static int mail(ic_cuda_device *d, char *to, const char *from, size_t bytes)
{
    cudaStream_t by = bytes >= BESIDE_MIN ? d->copies : d->stream;
    IC_CUDA_TRY(d, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, by));
    if (by == d->stream)
        return 0;
    IC_CUDA_TRY(d, cudaEventRecord(d->staged, by));
    IC_CUDA_TRY(d, cudaStreamWaitEvent(d->stream, d->staged, 0));
    return 0;
}

void *ic_cuda_stage(ic_cuda_device *d, const void *host, size_t bytes)
{
    ic_cuda_mail *m = d->in_step ? &d->step_mail : &d->ring;
    size_t room = rounded(bytes);
    if (bytes > IC_CUDA_STAGE_MAX)
        return NULL;
    if (m->at + room > m->bytes) {
        if (d->in_step || ic_cuda_wait(&d->base))
            return NULL;
        m->at = 0;
    }
    char *device = m->device + m->at;
    memcpy(m->host + m->at, host, bytes);
    if (!d->in_step && mail(d, device, m->host + m->at, bytes))
        return NULL; /* within a step one copy carries all of it */
    ic_cuda_busy = true;
    m->at += room;
    d->staged_bytes += room;
    return device;
}

static int open_mail(ic_cuda_device *d, ic_cuda_mail *m, size_t bytes)
{
    m->bytes = bytes;
    IC_CUDA_TRY(d, cudaMallocHost((void **)&m->host, bytes));
    m->device = take(d, bytes);
    return m->device ? 0 : IC_ENOMEM;
}

static void close_mail(ic_cuda_device *d, ic_cuda_mail *m)
{
    give_back(d, m->device);
    if (m->host)
        (void)cudaFreeHost(m->host);
}

/* --- life --- */

int ic_cuda_memory_open(ic_cuda_device *d, size_t ring_bytes)
{
    int rc = open_mail(d, &d->ring, ring_bytes);
    if (rc == 0)
        rc = open_mail(d, &d->step_mail, STEP_MAIL_BYTES);
    if (rc == 0)
        rc =
            ic_cuda_check(d, cudaEventCreateWithFlags(&d->staged, cudaEventDisableTiming), "event");
    if (rc == 0)
        IC_CUDA_TRY(d, cudaMallocHost((void **)&d->results, IC_CUDA_RESULTS));
    for (int i = 0; rc == 0 && i < 2; i++) {
        IC_CUDA_TRY(d, cudaMallocHost((void **)&d->bounce[i], IC_CUDA_BOUNCE));
        IC_CUDA_TRY(d, cudaEventCreateWithFlags(&d->bounced[i], cudaEventDisableTiming));
    }
    return rc;
}

void ic_cuda_memory_close(ic_cuda_device *d)
{
    for (int i = 0; i < IC_CUDA_ROOM_COUNT; i++) {
        give_back(d, d->rooms[i].memory);
        give_back(d, d->rooms[i].spare);
    }
    close_mail(d, &d->ring);
    close_mail(d, &d->step_mail);
    if (d->results)
        (void)cudaFreeHost(d->results);
    if (d->staged)
        (void)cudaEventDestroy(d->staged);
    for (int i = 0; i < 2; i++) {
        if (d->bounce[i])
            (void)cudaFreeHost(d->bounce[i]);
        if (d->bounced[i])
            (void)cudaEventDestroy(d->bounced[i]);
    }
}
