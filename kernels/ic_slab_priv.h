/* ic_slab_priv: the insides of a slab, for backends and for the checkpoint code. */
#ifndef IC_SLAB_PRIV_H
#define IC_SLAB_PRIV_H

#include "kernels/ic_device_priv.h"

/* Sums over a head's rows whose last bit decides what stays are made in lanes, the row at place i
 * in lane i % lanes, and these are added half to half: an order that a backend with many threads
 * can keep. */
enum { IC_SLAB_LANES = 512 };

/* What the store knows of a row's K and V. */
enum { IC_SLAB_UNSAVED, IC_SLAB_GIVEN, IC_SLAB_SAVED, IC_SLAB_TAKEN /* being loaded */ };

/* Where rows go on, in a slab that keeps original positions. */
typedef struct ic_slab_cursor {
    int32_t next;    /* for a row that is no part of `group` */
    uint32_t group;  /* the last row is a patch of it; 0: it is none */
    int32_t group_t; /* where that group stands */
} ic_slab_cursor;

struct ic_slab {
    ic_device *device; /* borrowed */
    ic_slab_desc desc;
    int heads; /* layers * kv_heads: every table below has one line per (layer, kv_head) */
    int words; /* 64-bit words of a free map */
    char *kv;  /* device: K [heads, slots, head_dim], then V; V begins at v_offset */
    size_t v_offset, kv_bytes;
    /* Host tables, one allocation: */
    char *tables;
    size_t table_bytes;
    uint64_t *free_map; /* [heads, words]: bit set: slot is free */
    ic_row *rows;       /* [heads, slots] by slot */
    ic_pos *positions;  /* [heads, slots] by place in the order */
    int32_t *order;     /* [heads, slots]: the slot at each place, oldest first */
    int32_t *counts;    /* [heads] */
    uint8_t *saved;     /* [heads, slots] by slot: IC_SLAB_UNSAVED ... */
    ic_score_kind score_kind;
    float smooth;
    float *scores;        /* [heads, slots] by slot; NULL: none are kept */
    int32_t position_end; /* above every position any head has had: how far angles are needed */
    bool original;        /* positions stay what they were when the row came */
    ic_slab_cursor cursor;
    bool loading; /* between load_tables and load_finish */
    /* A backend with memory of its own keeps the tables and the scores there too, and appends,
     * drops, scores and evicts in its copy. Then `counts` alone is always right on the host; before
     * the host reads another table it pulls, and what it changes is copied back before the backend
     * looks. */
    void *mirror;      /* the backend's copy; NULL: there is none */
    bool host_stale;   /* the backend has changed its copy since the last pull */
    bool mirror_stale; /* the host has changed its tables since the backend looked */
};

/* Before the host reads the tables. IC_EDEVICE: they could not be had. */
static inline int ic_slab_pull(const ic_slab *s)
{
    return s->host_stale ? s->device->backend->slab_pull((ic_slab *)(uintptr_t)s) : 0;
}

/* Before the host changes the tables. */
static inline int ic_slab_touch(ic_slab *s)
{
    int rc = ic_slab_pull(s);
    s->mirror_stale = true;
    return rc;
}

static inline int ic_slab_head(const ic_slab *s, int layer, int kv_head)
{
    return layer * s->desc.kv_heads + kv_head;
}

static inline char *ic_slab_k_at(const ic_slab *s, int head, int slot)
{
    int64_t row = (int64_t)head * s->desc.slots + slot;
    return s->kv + row * s->desc.head_dim * (int64_t)ic_dtype_size(s->desc.k_dtype);
}

static inline char *ic_slab_v_at(const ic_slab *s, int head, int slot)
{
    int64_t row = (int64_t)head * s->desc.slots + slot;
    return s->kv + s->v_offset + row * s->desc.head_dim * (int64_t)ic_dtype_size(s->desc.v_dtype);
}

static inline const int32_t *ic_slab_order_of(const ic_slab *s, int head)
{
    return s->order + (int64_t)head * s->desc.slots;
}

static inline ic_pos *ic_slab_positions_of(const ic_slab *s, int head)
{
    return s->positions + (int64_t)head * s->desc.slots;
}

static inline ic_row *ic_slab_rows_of(const ic_slab *s, int head)
{
    return s->rows + (int64_t)head * s->desc.slots;
}

static inline float *ic_slab_scores_of(const ic_slab *s, int head)
{
    return s->scores + (int64_t)head * s->desc.slots;
}

/* The slot is free; what lay there is forgotten. */
void ic_slab_free_slot(ic_slab *s, int head, int slot);
/* The position that `row` takes behind `last` (NULL: an empty head). */
ic_pos ic_slab_next_position(const ic_row *last, const ic_pos *last_position, const ic_row *row);
/* Recomputes all positions of a head from its rows. */
void ic_slab_place(ic_slab *s, int head);
/* The position of a row that goes on at the cursor, which it moves. */
ic_pos ic_slab_step(ic_slab_cursor *c, const ic_row *row);
/* Empties a head. */
void ic_slab_clear_head(ic_slab *s, int head);

#endif
