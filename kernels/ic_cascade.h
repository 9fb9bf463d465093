/* ic_cascade: the parts of a budget through which rows go in a plan with cascades (ic_slab.h), the
 * same wherever it is carried out. A part is a ring of places, oldest first. */
#ifndef IC_CASCADE_H
#define IC_CASCADE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __CUDACC__
#define IC_CASCADE_ANYWHERE __host__ __device__
#else
#define IC_CASCADE_ANYWHERE
#endif

enum { IC_CASCADE_MOST = 16 };

typedef struct ic_cascade_part {
    int32_t *at; /* [size + 1] */
    int size, first, count;
} ic_cascade_part;

static inline IC_CASCADE_ANYWHERE void ic_cascade_push(ic_cascade_part *p, int32_t place)
{
    p->at[(p->first + p->count++) % (p->size + 1)] = place;
}

static inline IC_CASCADE_ANYWHERE int32_t ic_cascade_pop(ic_cascade_part *p)
{
    int32_t place = p->at[p->first];
    p->first = (p->first + 1) % (p->size + 1);
    p->count--;
    return place;
}

/* n parts of `room` rows, empty; `at` has room for n more. */
static inline IC_CASCADE_ANYWHERE void ic_cascade_lay(ic_cascade_part *parts, int n, int room,
                                                      int32_t *at)
{
    for (int i = 0; i < n; i++) {
        parts[i].at = at;
        parts[i].size = room / n + (i == 0 ? room % n : 0);
        parts[i].first = parts[i].count = 0;
        at += parts[i].size + 1;
    }
}

/* A row without a score is above all others. */
static inline IC_CASCADE_ANYWHERE bool ic_cascade_is_below(float a, float b)
{
    return a >= 0 && (b < 0 || a < b);
}

/* The row at this place comes to the first part, and what that gives up goes on to the next. */
static inline IC_CASCADE_ANYWHERE void
ic_cascade_enter(ic_cascade_part *parts, int n, const float *score, int32_t place, uint32_t ordinal)
{
    for (int i = 0; i < n; i++) {
        ic_cascade_part *p = &parts[i];
        if (ordinal % (UINT32_C(1) << i) != 0) {
            int newest = (p->first + p->count - 1) % (p->size + 1);
            if (p->count && !ic_cascade_is_below(score[place], score[p->at[newest]]))
                p->at[newest] = place;
            return;
        }
        ic_cascade_push(p, place);
        if (p->count <= p->size)
            return;
        place = ic_cascade_pop(p);
    }
}

#endif
