/* From logits to tokens on the device: a block per row.
 *
 * Nothing is sorted. A candidate's rank is one number: its logit's bits, made to rise with it, and
 * behind them its id, falling. To find who stands at a place of the falling order, by count or by
 * probability, eight bits of the rank are settled at a time: a histogram over the next eight bits
 * of those that agree so far, then the digit in which the place falls. Probabilities are fixed
 * point, so that the sum does not depend on the order of addition: the same draw every time. */
#include "kernels/cuda/ic_cuda.h"

enum {
    THREADS = 1024,
    DIGIT = 8,
    DIGITS = 1 << DIGIT,
    ID_BITS = 24,
    RANK_BITS = 32 + ID_BITS,
    LIST = 1024 /* so many candidates are copied together before they are searched */
};

typedef struct row_draw { /* ic_draw for the device */
    float temperature, top_p, penalty;
    int32_t k;
    const uint8_t *seen;
    double uniform;
} row_draw;

/* The candidates of a row: a list, or all of a row from `least` on. */
typedef struct pool {
    const float *logits;
    int32_t vocab;
    const uint64_t *list; /* shared; NULL: the logits themselves */
    int32_t listed;
    uint64_t least;   /* lowest rank that still counts */
    double top, unit; /* the highest logit; temperature */
    double scale;     /* of fixed point */
} pool;

static __device__ uint64_t rank_of(float logit, int32_t id)
{
    union {
        float value;
        uint32_t bits;
    } u = {logit + 0.0f}; /* -0 becomes 0 */
    uint32_t rising = u.bits ^ (u.bits >> 31 ? 0xffffffffu : 0x80000000u);
    return (uint64_t)rising << ID_BITS | (uint64_t)((1 << ID_BITS) - 1 - id);
}

static __device__ int32_t id_of(uint64_t rank)
{
    return (1 << ID_BITS) - 1 - (int32_t)(rank & ((1 << ID_BITS) - 1));
}

static __device__ float logit_of(uint64_t rank)
{
    uint32_t rising = (uint32_t)(rank >> ID_BITS);
    union {
        uint32_t bits;
        float value;
    } u = {rising ^ (rising >> 31 ? 0x80000000u : 0xffffffffu)};
    return u.value;
}

static __device__ uint64_t mass_of(const pool &p, uint64_t rank)
{
    double power = ((double)logit_of(rank) - p.top) / p.unit;
    return power < -44 ? 0 : (uint64_t)(exp(power) * p.scale + 0.5);
}

/* Calls f(rank) for each of this thread's candidates. */
template <class F> static __device__ void for_mine(const pool &p, F f)
{
    if (p.list) {
        for (int i = threadIdx.x; i < p.listed; i += THREADS)
            f(p.list[i]);
        return;
    }
    for (int i = threadIdx.x; i < p.vocab; i += THREADS) {
        uint64_t rank = rank_of(p.logits[i], i);
        if (rank >= p.least)
            f(rank);
    }
}

/* What a search leaves in shared memory. */
typedef struct found {
    uint64_t rank;   /* settled bits, the others 0; at the end the whole rank */
    uint64_t before; /* weight of all that stand before it */
    uint64_t weight; /* its own, or of all that agree so far */
    int32_t alike;   /* candidates that agree so far */
} found;

/* Finds the candidate at which the weights, added up from the highest rank down, first pass `past`.
 * Weights are masses, or 1 each. All threads; the answer is in *f. */
static __device__ void search(const pool &p, bool by_mass, uint64_t past, found *f)
{
    __shared__ unsigned long long weights[DIGITS];
    __shared__ int32_t counts[DIGITS];
    if (threadIdx.x == 0)
        *f = found{0, 0, 0, 0};
    int shift = RANK_BITS;
    do {
        shift -= DIGIT;
        for (int i = threadIdx.x; i < DIGITS; i += THREADS) {
            weights[i] = 0;
            counts[i] = 0;
        }
        __syncthreads();
        uint64_t settled = f->rank >> (shift + DIGIT);
        for_mine(p, [&](uint64_t rank) {
            if (rank >> (shift + DIGIT) != settled)
                return;
            int digit = (int)((rank >> shift) & (DIGITS - 1));
            atomicAdd(&counts[digit], 1);
            if (by_mass)
                atomicAdd(&weights[digit], (unsigned long long)mass_of(p, rank));
        });
        __syncthreads();
        if (threadIdx.x == 0) {
            int digit = DIGITS - 1, last = 0; /* last: of those that hold somebody */
            uint64_t before = f->before, weight = 0;
            for (; digit >= 0; digit--) {
                if (counts[digit] == 0)
                    continue;
                last = digit;
                weight = by_mass ? weights[digit] : (uint64_t)counts[digit];
                if (before + weight > past)
                    break;
                before += weight;
            }
            if (digit < 0)
                before -= weight; /* past the end: the last candidate */
            f->rank |= (uint64_t)last << shift;
            f->before = before;
            f->weight = weight;
            f->alike = counts[last];
        }
        __syncthreads();
    } while (shift > 0 && f->alike > 1);
    if (shift > 0) { /* one is left: whole */
        uint64_t settled = f->rank >> shift;
        __syncthreads();
        for_mine(p, [&](uint64_t rank) {
            if (rank >> shift == settled)
                f->rank = rank;
        });
        __syncthreads();
    }
}

static __device__ uint64_t total_mass(const pool &p)
{
    __shared__ unsigned long long sum;
    if (threadIdx.x == 0)
        sum = 0;
    __syncthreads();
    unsigned long long mine = 0;
    for_mine(p, [&](uint64_t rank) { mine += mass_of(p, rank); });
    atomicAdd(&sum, mine);
    __syncthreads();
    return sum;
}

static __device__ void penalise(float *logits, int32_t vocab, const row_draw &draw)
{
    for (int i = threadIdx.x; draw.seen && i < vocab; i += THREADS)
        if (draw.seen[i / 8] >> (i % 8) & 1) {
            float v = logits[i];
            logits[i] = v > 0 ? v / draw.penalty : v * draw.penalty;
        }
    __syncthreads();
}

/* The candidates from p->least on, copied together if they are few. */
static __device__ void collect(pool *p, int32_t k, uint64_t *list)
{
    __shared__ int32_t listed;
    if (k > LIST)
        return;
    if (threadIdx.x == 0)
        listed = 0;
    __syncthreads();
    for_mine(*p, [&](uint64_t rank) {
        int at = atomicAdd(&listed, 1);
        if (at < LIST)
            list[at] = rank;
    });
    __syncthreads();
    p->list = list;
    p->listed = listed < LIST ? listed : (int32_t)LIST;
}

static __global__ void __launch_bounds__(THREADS)
    sample_rows(float *logits, int64_t stride, int32_t vocab, double scale, const row_draw *draws,
                int32_t *tokens)
{
    __shared__ found f;
    __shared__ uint64_t list[LIST];
    const row_draw draw = draws[blockIdx.x];
    float *row = logits + (int64_t)blockIdx.x * stride;
    penalise(row, vocab, draw);
    pool p = {row, vocab, NULL, 0, 0, 0, (double)draw.temperature, scale};
    search(p, false, 0, &f); /* the best */
    if (draw.temperature != 0 && draw.k != 1) {
        p.top = (double)logit_of(f.rank);
        __syncthreads();
        if (draw.k < vocab) {
            search(p, false, (uint64_t)draw.k - 1, &f);
            p.least = f.rank;
            __syncthreads();
            collect(&p, draw.k, list);
        }
        uint64_t kept = total_mass(p);
        if (draw.top_p < 1) {
            double wanted = ceil((double)draw.top_p * (double)kept);
            search(p, true, wanted < 1 ? 0 : (uint64_t)wanted - 1, &f);
            kept = f.before + f.weight;
            __syncthreads();
        }
        uint64_t past = (uint64_t)(draw.uniform * (double)kept);
        search(p, true, past < kept ? past : kept - 1, &f);
    }
    if (threadIdx.x == 0)
        tokens[blockIdx.x] = id_of(f.rank);
}

/* What one row's sum may hold: 62 bits for the sum, and as many as it takes to count to vocab less
 * for each of its parts. */
static double scale_for(int64_t vocab)
{
    int bits = 62;
    for (int64_t n = 1; n < vocab; n *= 2)
        bits--;
    return (double)(UINT64_C(1) << bits);
}

/* The draws with their bitmaps on the device. NULL: the device failed. */
static const row_draw *bring_draws(ic_cuda_device *d, const ic_draw *draws, int64_t n,
                                   int64_t vocab)
{
    row_draw *rows = (row_draw *)ic_calloc((size_t)n, sizeof *rows);
    bool ok = true;
    for (int64_t i = 0; ok && i < n; i++) {
        const ic_draw *from = &draws[i];
        rows[i] = row_draw{from->temperature,
                           from->top_p,
                           from->penalty,
                           from->top_k > 0 && from->top_k < vocab ? from->top_k : (int32_t)vocab,
                           NULL,
                           from->uniform};
        if (from->seen && from->penalty != 1) {
            rows[i].seen = (const uint8_t *)ic_cuda_stage(d, from->seen, (size_t)(vocab + 7) / 8);
            ok = rows[i].seen != NULL;
        }
    }
    void *staged = ok ? ic_cuda_stage(d, rows, (size_t)n * sizeof *rows) : NULL;
    ic_free(rows);
    return (const row_draw *)staged;
}

int ic_cuda_sample(ic_device *base, const ic_mat *logits, const ic_draw *draws, int32_t *tokens)
{
    ic_cuda_device *d = ic_cuda_of(base);
    size_t bytes = (size_t)logits->rows * sizeof *tokens;
    IC_ASSERT(logits->cols < 1 << ID_BITS && !d->in_step);
    int32_t *room = (int32_t *)ic_cuda_scratch(d, IC_CUDA_ROOM_SAMPLING, bytes);
    if (!room)
        return IC_ENOMEM;
    const row_draw *staged = bring_draws(d, draws, logits->rows, logits->cols);
    if (!staged)
        return IC_EDEVICE;
    int rc = ic_cuda_launch(d, sample_rows, (unsigned)logits->rows, THREADS, 0,
                            (float *)logits->data, logits->stride, (int32_t)logits->cols,
                            scale_for(logits->cols), staged, room);
    return rc ? rc : ic_cuda_fetch(d, tokens, room, bytes);
}
