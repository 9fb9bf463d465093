/* Many pieces of device memory to and from one image in host memory: how sessions are suspended and
 * resumed. A kernel gathers the pieces of 8 MiB into a buffer on the device, adding up their
 * checksum as it goes, and one copy takes that over the link: so the pieces may be as small as they
 * like. Two buffers take turns. An image in page-locked memory (ic_device_alloc_host) is read and
 * written by the link itself; any other goes through two page-locked buffers, so that the host's
 * copy of one part overlaps with the link's of the other. All of it is on the copies' stream,
 * beside what computes. */
#include "kernels/cuda/ic_cuda.h"

#include <string.h>

extern "C" {
#include "kernels/ic_sum.h"
}

enum {
    PART = IC_CUDA_BOUNCE,
    UNIT_WORDS = 4096, /* that one block of threads moves at most */
    UNITS = 4096,      /* of one part */
    THREADS = 256
};

/* Neighbouring words. */
typedef struct unit {
    uint32_t *device;
    uint64_t place; /* of the first in the image, which its sum depends on */
    uint32_t at;    /* of the first in the buffer */
    uint32_t words;
} unit;

struct ic_cuda_mover {
    pthread_mutex_t lock; /* one at a time */
    char *buffer[2];      /* on the device, PART */
    char *host[2];        /* page-locked, PART */
    unit *units[2];       /* page-locked, UNITS; then on the device */
    unit *device_units[2];
    unsigned long long *sum, *device_sum;
    cudaEvent_t done[2]; /* the part that took this side last */
};

/* --- kernels --- */

static __global__ void __launch_bounds__(THREADS)
    move_kernel(const unit *units, uint32_t *buffer, bool gathers, unsigned long long *sum)
{
    __shared__ unsigned long long total;
    const unit u = units[blockIdx.x];
    unsigned long long mine = 0;
    if (threadIdx.x == 0)
        total = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < u.words; i += THREADS) {
        uint32_t *in_buffer = buffer + u.at + i;
        uint32_t word = gathers ? u.device[i] : *in_buffer;
        *(gathers ? in_buffer : u.device + i) = word;
        mine += ic_sum_word(word, u.place + i);
    }
    atomicAdd(&total, mine);
    __syncthreads();
    if (threadIdx.x == 0)
        atomicAdd(sum, total);
}

/* --- cutting a list into parts --- */

typedef struct part {
    size_t first, end; /* of the image */
    int units;
} part;

/* Where a list has been cut. */
typedef struct cut {
    const ic_block *blocks;
    int n, block;
    size_t taken; /* bytes of that block */
} cut;

/* The units of the next part; 0 of them: there is none. */
static part next_part(cut *c, unit *units)
{
    part p = {};
    while (c->block < c->n && p.units < UNITS) {
        const ic_block *b = &c->blocks[c->block];
        size_t at = b->at + c->taken, left = b->bytes - c->taken;
        if (p.units == 0)
            p.first = p.end = at;
        if (left > 0 && at - p.first + sizeof(uint32_t) > PART)
            break;
        size_t room = PART - (at - p.first), most = UNIT_WORDS * sizeof(uint32_t);
        size_t bytes = left < most ? left : most;
        bytes = bytes < room ? bytes : room;
        if (bytes) {
            units[p.units++] = unit{(uint32_t *)(void *)(b->device + c->taken), at / 4,
                                    (uint32_t)((at - p.first) / 4), (uint32_t)(bytes / 4)};
            p.end = at + bytes;
        }
        c->taken += bytes;
        if (c->taken == b->bytes) {
            c->block++;
            c->taken = 0;
        }
    }
    return p;
}

/* --- moving --- */

static int start_kernel(ic_cuda_device *d, int side, const part *p, bool gathers)
{
    struct ic_cuda_mover *m = d->mover;
    IC_CUDA_TRY(d, cudaMemcpyAsync(m->device_units[side], m->units[side],
                                   (size_t)p->units * sizeof(unit), cudaMemcpyHostToDevice,
                                   d->copies));
    IC_CUDA_LAUNCH(move_kernel, dim3((unsigned)p->units), dim3(THREADS), 0, d->copies,
                   m->device_units[side], (uint32_t *)(void *)m->buffer[side], gathers,
                   m->device_sum);
    IC_CUDA_TRY(d, cudaGetLastError());
    return 0;
}

/* A part that is on its way to the host's buffer of its side goes to the image. */
static int land(ic_cuda_device *d, int side, part *p, uint8_t *image)
{
    if (p->units == 0)
        return 0;
    IC_CUDA_TRY(d, cudaEventSynchronize(d->mover->done[side]));
    memcpy(image + p->first, d->mover->host[side], p->end - p->first);
    p->units = 0;
    return 0;
}

static int gather_parts(ic_cuda_device *d, cut c, uint8_t *image, bool locked)
{
    struct ic_cuda_mover *m = d->mover;
    part under_way[2] = {};
    int side = 0, rc = 0;
    for (;; side = !side) {
        rc = rc ? rc : land(d, side, &under_way[side], image);
        if (rc == 0)
            rc = ic_cuda_check(d, cudaEventSynchronize(m->done[side]), "moving rows");
        part p = rc ? part() : next_part(&c, m->units[side]);
        if (p.units == 0)
            break;
        void *to = locked ? (void *)(image + p.first) : m->host[side];
        rc = start_kernel(d, side, &p, true);
        IC_CUDA_TRY(d, cudaMemcpyAsync(to, m->buffer[side], p.end - p.first, cudaMemcpyDeviceToHost,
                                       d->copies));
        IC_CUDA_TRY(d, cudaEventRecord(m->done[side], d->copies));
        under_way[side] = locked ? part() : p;
    }
    return rc ? rc : land(d, !side, &under_way[!side], image);
}

static int scatter_parts(ic_cuda_device *d, cut c, const uint8_t *image, bool locked)
{
    struct ic_cuda_mover *m = d->mover;
    for (int side = 0;; side = !side) {
        IC_CUDA_TRY(d, cudaEventSynchronize(m->done[side]));
        part p = next_part(&c, m->units[side]);
        if (p.units == 0)
            return 0;
        const void *from = image + p.first;
        if (!locked)
            from = memcpy(m->host[side], from, p.end - p.first);
        IC_CUDA_TRY(d, cudaMemcpyAsync(m->buffer[side], from, p.end - p.first,
                                       cudaMemcpyHostToDevice, d->copies));
        int rc = start_kernel(d, side, &p, false);
        if (rc)
            return rc;
        IC_CUDA_TRY(d, cudaEventRecord(m->done[side], d->copies));
    }
}

/* One of the two ways, and the sum when it is done. */
static int move(ic_cuda_device *d, const ic_block *blocks, int n, uint8_t *image, bool gathers,
                uint64_t *sum)
{
    struct ic_cuda_mover *m = d->mover;
    cut c = {blocks, n, 0, 0};
    bool locked = ic_cuda_is_locked(image);
    IC_CUDA_TRY(d, cudaMemsetAsync(m->device_sum, 0, sizeof *m->sum, d->copies));
    int rc = gathers ? gather_parts(d, c, image, locked) : scatter_parts(d, c, image, locked);
    if (rc)
        return rc;
    IC_CUDA_TRY(d, cudaMemcpyAsync(m->sum, m->device_sum, sizeof *m->sum, cudaMemcpyDeviceToHost,
                                   d->copies));
    IC_CUDA_TRY(d, cudaEventRecord(m->done[0], d->copies));
    IC_CUDA_TRY(d, cudaEventSynchronize(m->done[0]));
    *sum = *m->sum;
    return 0;
}

static int move_alone(ic_device *base, const ic_block *blocks, int n, uint8_t *image, bool gathers,
                      uint64_t *sum)
{
    ic_cuda_device *d = ic_cuda_of(base);
    *sum = 0;
    int rc = ic_cuda_settle(d);
    if (rc || n == 0)
        return rc;
    pthread_mutex_lock(&d->mover->lock);
    rc = move(d, blocks, n, image, gathers, sum);
    pthread_mutex_unlock(&d->mover->lock);
    return rc;
}

int ic_cuda_gather_blocks(ic_device *d, const ic_block *blocks, int n, uint8_t *image,
                          uint64_t *sum)
{
    return move_alone(d, blocks, n, image, true, sum);
}

int ic_cuda_scatter_blocks(ic_device *d, const ic_block *blocks, int n, const uint8_t *image,
                           uint64_t *sum)
{
    return move_alone(d, blocks, n, (uint8_t *)(uintptr_t)image, false, sum); /* it is only read */
}

/* --- life --- */

static void *alloc_host(ic_cuda_device *d, size_t bytes)
{
    return ic_cuda_alloc_host(&d->base, bytes);
}

int ic_cuda_mover_open(ic_cuda_device *d)
{
    struct ic_cuda_mover *m = (struct ic_cuda_mover *)ic_alloc(sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
    d->mover = m;
    bool there = true;
    for (int i = 0; i < 2; i++) {
        m->buffer[i] = (char *)ic_cuda_alloc(&d->base, PART);
        m->device_units[i] = (unit *)ic_cuda_alloc(&d->base, UNITS * sizeof(unit));
        m->host[i] = (char *)alloc_host(d, PART);
        m->units[i] = (unit *)alloc_host(d, UNITS * sizeof(unit));
        there = there && m->buffer[i] && m->device_units[i] && m->host[i] && m->units[i];
        IC_CUDA_TRY(d, cudaEventCreateWithFlags(&m->done[i], cudaEventDisableTiming));
    }
    m->sum = (unsigned long long *)alloc_host(d, sizeof *m->sum);
    m->device_sum = (unsigned long long *)ic_cuda_alloc(&d->base, sizeof *m->sum);
    return there && m->sum && m->device_sum ? 0 : IC_ENOMEM;
}

void ic_cuda_mover_close(ic_cuda_device *d)
{
    struct ic_cuda_mover *m = d->mover;
    if (!m)
        return;
    for (int i = 0; i < 2; i++) {
        ic_cuda_free(&d->base, m->buffer[i]);
        ic_cuda_free(&d->base, m->device_units[i]);
        ic_cuda_free_host(&d->base, m->host[i]);
        ic_cuda_free_host(&d->base, m->units[i]);
        if (m->done[i])
            (void)cudaEventDestroy(m->done[i]);
    }
    ic_cuda_free_host(&d->base, m->sum);
    ic_cuda_free(&d->base, m->device_sum);
    pthread_mutex_destroy(&m->lock);
    ic_free(m);
}
