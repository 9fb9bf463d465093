/* ic_cpu_score: what a tile of attention keeps so that its rows can score the keys they saw.
 *
 * The tile's softmax runs block by block under a rising maximum. Instead of being overwritten by
 * the next block, the weights of each block stay, with the maxima they were made under; when the
 * last block is done, exp(max then - max now) / sum makes them probabilities, and one product per
 * block adds them up over the rows, in the order of the rows. Scratch: rows x keys, per worker. */
#ifndef IC_CPU_SCORE_H
#define IC_CPU_SCORE_H

#include "kernels/cpu/ic_cpu.h"

enum { IC_CPU_SCORE_KEYS = 64 }; /* keys of a block, as in attention */

typedef struct ic_cpu_kept {
    float *weights; /* [blocks, rows, IC_CPU_SCORE_KEYS] */
    float *max;     /* [blocks, rows] */
    float *factor;  /* [rows] */
    float *column;  /* [IC_CPU_SCORE_KEYS] */
    int rows;
} ic_cpu_kept;

size_t ic_cpu_kept_bytes(int rows, int keys);
ic_cpu_kept ic_cpu_kept_in(void *memory, int rows, int keys);
/* Room for the weights of one block; rows that stand before the block get zeros. */
float *ic_cpu_kept_block(const ic_cpu_kept *k, int block, int blind);
void ic_cpu_kept_max(const ic_cpu_kept *k, int block, const float *max);

typedef struct ic_cpu_scored { /* who has looked at what */
    const ic_cpu_vec *vec;
    const ic_slab *slab;
    int head;               /* of the slab */
    int place, rows;        /* the first of the rows in the head's order, and how many */
    int group;              /* query heads: row r of the tile is row r / group */
    const float *max, *sum; /* [rows * group], after the last block */
} ic_cpu_scored;

/* Writes the scores of the keys 0 .. place + rows - 1 into the slab, as its score_kind says. */
void ic_cpu_score(const ic_cpu_kept *k, const ic_cpu_scored *by);

#endif
