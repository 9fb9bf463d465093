#include "kernels/cpu/ic_cpu_score.h"

#include <math.h>
#include <string.h>

#include "kernels/ic_slab_priv.h"

static int blocks_of(int keys)
{
    return (keys + IC_CPU_SCORE_KEYS - 1) / IC_CPU_SCORE_KEYS;
}

static size_t padded(int rows)
{
    return (size_t)ic_cpu_round_up(rows, IC_CPU_LANES);
}

size_t ic_cpu_kept_bytes(int rows, int keys)
{
    size_t blocks = (size_t)blocks_of(keys), r = padded(rows);
    return sizeof(float) * (blocks * r * IC_CPU_SCORE_KEYS + blocks * r + r + IC_CPU_SCORE_KEYS);
}

ic_cpu_kept ic_cpu_kept_in(void *memory, int rows, int keys)
{
    size_t blocks = (size_t)blocks_of(keys), r = padded(rows);
    ic_cpu_kept k = {.weights = memory, .rows = rows};
    k.max = k.weights + blocks * r * IC_CPU_SCORE_KEYS;
    k.factor = k.max + blocks * r;
    k.column = k.factor + r;
    return k;
}

float *ic_cpu_kept_block(const ic_cpu_kept *k, int block, int blind)
{
    float *weights = k->weights + (size_t)block * padded(k->rows) * IC_CPU_SCORE_KEYS;
    memset(weights, 0, (size_t)blind * IC_CPU_SCORE_KEYS * sizeof *weights);
    return weights;
}

void ic_cpu_kept_max(const ic_cpu_kept *k, int block, const float *max)
{
    memcpy(k->max + (size_t)block * padded(k->rows), max, (size_t)k->rows * sizeof *max);
}

/* What turns a block's weights into a row's share of the score. */
static void fill_factors(const ic_cpu_kept *k, int block, const ic_cpu_scored *by)
{
    const float *then = k->max + (size_t)block * padded(k->rows);
    for (int r = 0; r < k->rows; r++) {
        float now = by->max[r], part = 1.0f / (by->sum[r] * (float)by->group);
        k->factor[r] = then[r] == now ? part : expf(then[r] - now) * part;
    }
}

/* How many of the rows gave each key of the block at least one part in as many as they see. */
static void count_votes(const ic_cpu_kept *k, int block, const ic_cpu_scored *by)
{
    const float *weights = k->weights + (size_t)block * padded(k->rows) * IC_CPU_SCORE_KEYS;
    memset(k->column, 0, IC_CPU_SCORE_KEYS * sizeof *k->column);
    for (int r = 0; r < k->rows; r++) {
        float share = 1.0f / (float)by->group; /* of a row's vote; factors have it already */
        float least = share / (float)(by->place + r / by->group + 1);
        const float *row = weights + (size_t)r * IC_CPU_SCORE_KEYS;
        for (int j = 0; j < IC_CPU_SCORE_KEYS; j++)
            k->column[j] += row[j] * k->factor[r] >= least ? share : 0.0f;
    }
}

/* The most that one query paid to each key of the block. */
static void find_peaks(const ic_cpu_kept *k, int block, const ic_cpu_scored *by)
{
    const float *weights = k->weights + (size_t)block * padded(k->rows) * IC_CPU_SCORE_KEYS;
    memset(k->column, 0, IC_CPU_SCORE_KEYS * sizeof *k->column);
    for (int r = 0; r < k->rows; r++) {
        float whole = k->factor[r] * (float)by->group; /* factors are shares of the group's mean */
        const float *row = weights + (size_t)r * IC_CPU_SCORE_KEYS;
        for (int j = 0; j < IC_CPU_SCORE_KEYS; j++) {
            float paid = row[j] * whole;
            k->column[j] = paid > k->column[j] ? paid : k->column[j];
        }
    }
}

static void put_peak(const ic_cpu_scored *by, float column, float *score)
{
    float before = by->slab->smooth * *score;
    *score = before > column ? before : column;
}

/* The window's mean at a key: only the rows at or behind the key's place have seen it. */
static void put_window(const ic_cpu_scored *by, int at, float column, float *score)
{
    int seen = at <= by->place ? by->rows : by->rows - (at - by->place);
    float smooth = by->slab->smooth, mean = column / (float)seen;
    *score = *score >= 0 && smooth > 0 ? smooth * *score + (1 - smooth) * mean : mean;
}

void ic_cpu_score(const ic_cpu_kept *k, const ic_cpu_scored *by)
{
    const int32_t *order = ic_slab_order_of(by->slab, by->head);
    float *scores = ic_slab_scores_of(by->slab, by->head);
    bool sum = by->slab->score_kind == IC_SCORE_SUM;
    bool votes = by->slab->score_kind == IC_SCORE_VOTES;
    bool peak = by->slab->score_kind == IC_SCORE_PEAK;
    int end = by->place + by->rows;
    for (int first = 0; first < end; first += IC_CPU_SCORE_KEYS) {
        int block = first / IC_CPU_SCORE_KEYS;
        int keys = end - first < IC_CPU_SCORE_KEYS ? end - first : IC_CPU_SCORE_KEYS;
        fill_factors(k, block, by);
        /* A sum goes on from where it was, row after row: slices leave no trace. */
        for (int j = 0; sum && j < keys; j++)
            k->column[j] = scores[order[first + j]];
        if (votes)
            count_votes(k, block, by);
        else if (peak)
            find_peaks(k, block, by);
        else
            by->vec->gemm(k->factor, k->rows, ic_cpu_kept_block(k, block, 0), IC_CPU_SCORE_KEYS,
                          k->column, IC_CPU_SCORE_KEYS, 1, k->rows, IC_CPU_SCORE_KEYS, sum);
        for (int j = 0; j < keys; j++) {
            if (sum)
                scores[order[first + j]] = k->column[j];
            else if (peak)
                put_peak(by, k->column[j], &scores[order[first + j]]);
            else
                put_window(by, first + j, k->column[j], &scores[order[first + j]]);
        }
    }
}
