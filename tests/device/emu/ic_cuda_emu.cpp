/* Fibers that are a block's threads, and what they do together. See ic_cuda_emu.h. */
#include "tests/device/emu/ic_cuda_emu.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <vector>

#include "tests/device/emu/ic_cuda_emu_runtime.h"

namespace
{

enum { WARP = 32, STACK_BYTES = 256 << 10, POISON = 0xff };
enum fiber_state { READY, AT_BARRIER, AT_WARP, DONE };

struct copy {
    void *to;
    const void *from;
    int bytes, given;
};

struct fiber {
    jmp_buf at;
    char *stack;
    bool begun;
    fiber_state state;
    ic_emu_place place;
    unsigned mask;                         /* AT_WARP: whom it waits for, */
    ic_emu_act act;                        /* in what, */
    void *argument;                        /* with what */
    int count;                             /* result of a counting barrier */
    std::vector<std::vector<copy>> groups; /* committed copies, oldest first */
    std::vector<copy> open;
};

struct block {
    std::vector<fiber> fibers;
    const std::function<void()> *kernel;
    jmp_buf scheduler;
    int now; /* index of the fiber that runs */
    int waiting, votes, live;
    std::vector<char> shared;
};
block b;

[[noreturn]] void fail(const char *what)
{
    fprintf(stderr, "emulated kernel: %s (block %u %u %u, thread %u)\n", what, ic_emu_now.block.x,
            ic_emu_now.block.y, ic_emu_now.block.z, ic_emu_now.thread.x);
    abort();
}

fiber &self()
{
    return b.fibers[(size_t)b.now];
}

/* Gives the processor back; returns when this fiber's turn comes again. */
void yield()
{
    if (_setjmp(self().at) == 0)
        _longjmp(b.scheduler, 1);
}

void enter()
{
    (*b.kernel)();
    fiber &f = self();
    f.state = DONE;
    b.live--;
    _longjmp(b.scheduler, 1);
}

void resume(int index)
{
    fiber &f = b.fibers[(size_t)index];
    b.now = index;
    ic_emu_now = f.place;
    if (_setjmp(b.scheduler))
        return;
    if (f.begun)
        _longjmp(f.at, 1);
    f.begun = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = f.stack;
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = NULL;
    makecontext(&context, enter, 0);
    setcontext(&context);
}

/* All threads that have not ended stand at the barrier: they go on. */
void open_barrier()
{
    if (b.live == 0 || b.waiting < b.live)
        return;
    for (fiber &f : b.fibers)
        if (f.state == AT_BARRIER) {
            f.state = READY;
            f.count = b.votes;
        }
    b.waiting = b.votes = 0;
}

uint32_t order_seed()
{
    static const char *text = getenv("IC_EMU_ORDER");
    return !text ? 0 : strcmp(text, "reverse") == 0 ? 1 : (uint32_t)atoi(text) + 2;
}

/* Another order of 0 .. n - 1 for each seed: 0 rising, 1 falling, else shuffled. */
std::vector<int> order_of(int n)
{
    static uint32_t state = order_seed() * 2654435761u + 1;
    std::vector<int> order((size_t)n);
    for (int i = 0; i < n; i++)
        order[(size_t)i] = order_seed() == 1 ? n - 1 - i : i;
    for (int i = n - 1; order_seed() > 1 && i > 0; i--) {
        state = state * 1664525u + 1013904223u;
        std::swap(order[(size_t)i], order[(state >> 8) % (uint32_t)(i + 1)]);
    }
    return order;
}

void run_block()
{
    std::vector<int> order = order_of((int)b.fibers.size());
    while (b.live > 0) {
        bool moved = false;
        for (int index : order)
            if (b.fibers[(size_t)index].state == READY) {
                moved = true;
                resume(index);
                open_barrier();
            }
        if (!moved)
            fail("some threads wait for others that never come");
    }
}

} // namespace

ic_emu_place ic_emu_now;

/* --- graphs --- */

struct ic_emu_graph {
    std::vector<std::function<void()>> calls;
};
static ic_emu_graph *capture; /* what is done now goes there; NULL: it is done */

/* Does it, or notes it down. */
static cudaError_t now_or_later(const std::function<void()> &call)
{
    if (capture)
        capture->calls.push_back(call);
    else
        call();
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode)
{
    capture = new ic_emu_graph;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *out)
{
    *out = capture;
    capture = NULL;
    return *out ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    *out = new ic_emu_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t)
{
    for (const std::function<void()> &call : graph->calls)
        call();
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return capture ? cudaErrorNotSupported : cudaSuccess;
}

/* With IC_EMU_NO_CAPTURE set, copies cannot be recorded. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t)
{
    if (capture && getenv("IC_EMU_NO_CAPTURE"))
        return cudaErrorNotSupported;
    return now_or_later([=] { memmove(to, from, bytes); });
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind, cudaStream_t)
{
    return now_or_later([=] {
        for (size_t i = 0; i < height; i++)
            memmove((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
    });
}

cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t)
{
    return now_or_later([=] { memset(at, value, bytes); });
}

/* --- launches --- */

static void run_grid(dim3 grid, dim3 block_dim, size_t shared_bytes,
                     const std::function<void()> &kernel);

void ic_emu_launch(dim3 grid, dim3 block_dim, size_t shared_bytes,
                   const std::function<void()> &kernel)
{
    now_or_later([=] { run_grid(grid, block_dim, shared_bytes, kernel); });
}

static void run_grid(dim3 grid, dim3 block_dim, size_t shared_bytes,
                     const std::function<void()> &kernel)
{
    int threads = (int)(block_dim.x * block_dim.y * block_dim.z);
    if (threads < 1 || threads > 1024 || shared_bytes > (227u << 10) || grid.y > 65535
        || grid.z > 65535 || (uint64_t)grid.x * grid.y * grid.z == 0)
        fail("a launch that no GPU accepts");
    while ((int)b.fibers.size() < threads) {
        fiber f = {};
        f.stack = (char *)malloc(STACK_BYTES);
        b.fibers.push_back(f);
    }
    while ((int)b.fibers.size() > threads) {
        free(b.fibers.back().stack);
        b.fibers.pop_back();
    }
    b.kernel = &kernel;
    b.shared.resize(shared_bytes + 16);
    for (int at : order_of((int)(grid.x * grid.y * grid.z))) {
        memset(b.shared.data(), POISON, b.shared.size());
        b.live = threads;
        b.waiting = b.votes = 0;
        for (int i = 0; i < threads; i++) {
            fiber &f = b.fibers[(size_t)i];
            unsigned u = (unsigned)i, g = (unsigned)at;
            f.begun = false;
            f.state = READY;
            f.place.thread = uint3{u % block_dim.x, u / block_dim.x % block_dim.y,
                                   u / block_dim.x / block_dim.y};
            f.place.block = uint3{g % grid.x, g / grid.x % grid.y, g / grid.x / grid.y};
            f.place.block_dim = block_dim;
            f.place.grid_dim = grid;
            f.groups.clear();
            f.open.clear();
        }
        run_block();
    }
}

void *ic_emu_shared()
{
    uintptr_t at = (uintptr_t)b.shared.data();
    return (void *)((at + 15) & ~(uintptr_t)15);
}

int ic_emu_sync_count(int predicate)
{
    fiber &f = self();
    f.state = AT_BARRIER;
    b.waiting++;
    b.votes += predicate != 0;
    yield();
    return self().count;
}

void __syncthreads()
{
    ic_emu_sync_count(0);
}

int ic_emu_lane()
{
    return b.now % WARP;
}

void ic_emu_meet(unsigned mask, ic_emu_act act, void *argument)
{
    fiber &f = self();
    int first = b.now - b.now % WARP, last = std::min(first + WARP, (int)b.fibers.size());
    void *arguments[WARP] = {};
    f.state = AT_WARP;
    f.mask = mask;
    f.act = act;
    f.argument = argument;
    if (!(mask >> (b.now - first) & 1))
        fail("a lane meets under a mask without itself");
    for (int i = 0; i < WARP; i++) {
        if (!(mask >> i & 1))
            continue;
        if (first + i >= last || b.fibers[(size_t)(first + i)].state == DONE)
            fail("a warp operation waits for a lane that has ended or never was");
        const fiber &other = b.fibers[(size_t)(first + i)];
        if (other.state != AT_WARP) {
            yield(); /* somebody has yet to come, and will carry it out */
            return;
        }
        if (other.mask != mask || other.act != act)
            fail("lanes of a warp meet in different operations");
        arguments[i] = other.argument;
    }
    act(arguments);
    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1)
            b.fibers[(size_t)(first + i)].state = READY;
}

void ic_emu_act_nothing(void **)
{
}

void ic_emu_act_shuffle(void **arguments)
{
    for (int i = 0; i < WARP; i++) {
        ic_emu_shuffle *s = (ic_emu_shuffle *)arguments[i];
        if (!s)
            continue;
        if (!arguments[s->from])
            fail("a shuffle reads a lane outside its mask");
        s->result = ((ic_emu_shuffle *)arguments[s->from])->value;
    }
}

void ic_emu_act_ballot(void **arguments)
{
    uint64_t votes = 0;
    for (int i = 0; i < WARP; i++)
        if (arguments[i])
            votes |= ((ic_emu_shuffle *)arguments[i])->value << i;
    for (int i = 0; i < WARP; i++)
        if (arguments[i])
            ((ic_emu_shuffle *)arguments[i])->result = votes;
}

/* --- tensor cores: fragment layouts as the PTX manual gives them, 9.7.15 --- */

namespace
{

struct mma_argument {
    bool bf16;
    float *c;
    const unsigned *a, *b;
};

float half_of(bool bf16, unsigned pair, int which)
{
    uint16_t bits = (uint16_t)(pair >> (16 * which));
    return bf16 ? ic_emu_of_bf16(bits) : ic_emu_of_f16(bits);
}

/* Lane l, register r of A (16 x 16, rows): row l / 4 + 8 (r % 2), columns l % 4 * 2 + 8 (r / 2) and
 * the next; of B (16 x 8, columns): rows l % 4 * 2 + 8 r and the next, column l / 4; of C (16 x 8):
 * row l / 4 + 8 (r / 2), column l % 4 * 2 + r % 2. */
void act_mma(void **arguments)
{
    float a[16][16], bm[16][8];
    for (int l = 0; l < WARP; l++) {
        const mma_argument *m = (const mma_argument *)arguments[l];
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < 2; i++)
                a[l / 4 + 8 * (r % 2)][l % 4 * 2 + 8 * (r / 2) + i] = half_of(m->bf16, m->a[r], i);
        for (int r = 0; r < 2; r++)
            for (int i = 0; i < 2; i++)
                bm[l % 4 * 2 + 8 * r + i][l / 4] = half_of(m->bf16, m->b[r], i);
    }
    for (int l = 0; l < WARP; l++)
        for (int r = 0; r < 4; r++) {
            float sum = ((const mma_argument *)arguments[l])->c[r];
            for (int k = 0; k < 16; k++)
                sum += a[l / 4 + 8 * (r / 2)][k] * bm[k][l % 4 * 2 + r % 2];
            ((const mma_argument *)arguments[l])->c[r] = sum;
        }
}

struct ldmatrix_argument {
    bool transposed;
    unsigned *registers;
    const void *row;
};

/* Matrix i is the eight 16-byte rows at the addresses of lanes 8 i .. 8 i + 7; lane l gets elements
 * 2 (l % 4) and the next of row l / 4; transposed: of column l / 4. */
void act_ldmatrix(void **arguments)
{
    for (int i = 0; i < 4; i++) {
        uint16_t m[8][8];
        for (int r = 0; r < 8; r++) {
            const void *row = ((const ldmatrix_argument *)arguments[8 * i + r])->row;
            if ((uintptr_t)row % 16)
                fail("ldmatrix of a row that is not aligned to 16 bytes");
            memcpy(m[r], row, 16);
        }
        for (int l = 0; l < WARP; l++) {
            ldmatrix_argument *a = (ldmatrix_argument *)arguments[l];
            unsigned low = a->transposed ? m[l % 4 * 2][l / 4] : m[l / 4][l % 4 * 2];
            unsigned high = a->transposed ? m[l % 4 * 2 + 1][l / 4] : m[l / 4][l % 4 * 2 + 1];
            a->registers[i] = low | high << 16;
        }
    }
}

/* Lane l brings elements 2 (l % 4) and the next of row l / 4, and gets those of column l / 4. */
void act_movmatrix(void **arguments)
{
    uint16_t m[8][8];
    for (int l = 0; l < WARP; l++) {
        unsigned pair = *(const unsigned *)arguments[l];
        m[l / 4][l % 4 * 2] = (uint16_t)pair;
        m[l / 4][l % 4 * 2 + 1] = (uint16_t)(pair >> 16);
    }
    for (int l = 0; l < WARP; l++)
        *(unsigned *)arguments[l] = m[l % 4 * 2][l / 4] | (unsigned)m[l % 4 * 2 + 1][l / 4] << 16;
}

} // namespace

unsigned ic_emu_movmatrix(unsigned pair)
{
    ic_emu_meet(0xffffffffu, act_movmatrix, &pair);
    return pair;
}

void ic_emu_mma(bool bf16, float *c, const unsigned *a, const unsigned *bf)
{
    mma_argument m = {bf16, c, a, bf};
    ic_emu_meet(0xffffffffu, act_mma, &m);
}

void ic_emu_ldmatrix(bool transposed, unsigned *registers, const void *row)
{
    ldmatrix_argument m = {transposed, registers, row};
    ic_emu_meet(0xffffffffu, act_ldmatrix, &m);
}

/* --- copies that happen when they are waited for --- */

void ic_emu_copy_async(void *shared, const void *global, int bytes, int given)
{
    if ((bytes != 4 && bytes != 8 && bytes != 16) || (uintptr_t)shared % (unsigned)bytes
        || (uintptr_t)global % (unsigned)bytes)
        fail("an asynchronous copy that is not aligned to its size");
    self().open.push_back(copy{shared, global, bytes, given});
}

void ic_emu_copy_commit()
{
    self().groups.push_back(self().open);
    self().open.clear();
}

void ic_emu_copy_wait(int groups_under_way)
{
    fiber &f = self();
    while ((int)f.groups.size() > groups_under_way) {
        for (const copy &c : f.groups.front()) {
            memcpy(c.to, c.from, (size_t)c.given);
            memset((char *)c.to + c.given, 0, (size_t)(c.bytes - c.given));
        }
        f.groups.erase(f.groups.begin());
    }
}

/* --- 16-bit formats: the compiler's own conversions, so as not to repeat ic_half.h --- */

uint16_t ic_emu_f16_of(float v)
{
    _Float16 h = (_Float16)v;
    uint16_t bits;
    memcpy(&bits, &h, sizeof bits);
    return bits;
}

float ic_emu_of_f16(uint16_t bits)
{
    _Float16 h;
    memcpy(&h, &bits, sizeof bits);
    return (float)h;
}

float ic_emu_of_bf16(uint16_t bits)
{
    return __uint_as_float((unsigned)bits << 16);
}

uint16_t ic_emu_bf16_of(float v)
{
    unsigned bits = __float_as_uint(v);
    if (v != v)
        return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* --- the runtime --- */

namespace
{

struct allocation {
    void *user;
    char *map;
    size_t bytes;
};
std::vector<allocation> allocations;
std::vector<allocation> locked; /* page-locked host memory */

/* IC_EMU_MIB, or 2 GiB. */
size_t memory_bytes()
{
    const char *mib = getenv("IC_EMU_MIB");
    return (size_t)(mib ? atoi(mib) : 2048) << 20;
}

} // namespace

/* The end lies at a page that may not be touched; the content is NaN. */
cudaError_t cudaMalloc(void **out, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), rounded = (bytes + 15) & ~(size_t)15;
    size_t whole = (rounded + page - 1) / page * page + page;
    char *map =
        (char *)mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *out = NULL;
    if (map == MAP_FAILED)
        return cudaErrorMemoryAllocation;
    mprotect(map + whole - page, page, PROT_NONE);
    *out = map + whole - page - rounded;
    memset(*out, POISON, rounded);
    allocations.push_back(allocation{*out, map, whole});
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    for (size_t i = 0; memory && i < allocations.size(); i++)
        if (allocations[i].user == memory) {
            munmap(allocations[i].map, allocations[i].bytes);
            allocations.erase(allocations.begin() + (long)i);
            return cudaSuccess;
        }
    return memory ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    *out = malloc(bytes ? bytes : 1);
    if (*out)
        locked.push_back(allocation{*out, (char *)*out, bytes});
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *memory)
{
    for (size_t i = 0; i < locked.size(); i++)
        if (locked[i].user == memory) {
            locked.erase(locked.begin() + (long)i);
            break;
        }
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *out, const void *at)
{
    out->type = cudaMemoryTypeUnregistered;
    for (const allocation &a : locked)
        if ((const char *)at >= a.map && (const char *)at < a.map + a.bytes)
            out->type = cudaMemoryTypeHost;
    return cudaSuccess;
}

size_t ic_emu_shared_max(void)
{
    const char *kib = getenv("IC_EMU_SHARED_KIB");
    return (size_t)(kib ? atoi(kib) : 227) << 10;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int)
{
    memset(out, 0, sizeof *out);
    strcpy(out->name, "none: kernels are emulated on the CPU");
    out->totalGlobalMem = memory_bytes();
    out->sharedMemPerBlockOptin = ic_emu_shared_max();
    out->major = 9;
    out->multiProcessorCount = 4;
    out->l2CacheSize = 32 << 20;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *free_bytes = *total = memory_bytes();
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaSuccess                 ? "no error"
           : error == cudaErrorMemoryAllocation ? "out of memory"
                                                : "not supported by the emulation";
}

const char *cudaGetErrorName(cudaError_t error)
{
    return cudaGetErrorString(error);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t)
{
    *ms = 1;
    return cudaSuccess;
}
