/* Every policy against a plain reference in double precision, with the whole attention matrix
 * written out: the same rows stay, where they were and as they were, at compact positions. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_policy.h"
#include "ic_test.h"
#include "kernels/ic_ops.h"

enum {
    LAYERS = 2,
    KV = 2,
    GROUP = 2,
    HEADS = KV * GROUP,
    DIM = 16,
    HALF = DIM / 2,
    BUDGET = 150,
    CHUNK = 64,
    SLACK = 12,
    SLOTS = BUDGET + CHUNK + SLACK,
    CHUNKS = 14
};

static const float scale = 0.6f; /* larger than usual: attention that has something to choose */
static float inv_freq[HALF];
static const uint8_t axis[HALF] = {0, 1, 2, 0, 1, 2, 0, 0};
static const ic_rope rope = {HALF, inv_freq, axis, 1};
static ic_device *device;
static uint32_t seed;
static bool votes; /* scores are counts: often equal, and exact */
static double gap; /* smallest relative distance between a score that stayed and one that left */

static uint32_t next_random(uint32_t below)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % below;
}

static float next_float(void)
{
    return (float)next_random(1 << 20) / (1 << 19) - 1;
}

static int open_device(void **state)
{
    (void)state;
    seed = 11;
    for (int i = 0; i < HALF; i++)
        inv_freq[i] = powf(100, -(float)i / HALF);
    return ic_device_open(&device, &(ic_device_config){.kind = "cpu", .threads = 2}, NULL);
}

static int open_plain(void **state)
{
    int rc = open_device(state);
    ic_device_close(&device);
    ic_device_config config = {.kind = "cpu", .threads = 2, .plain_loops = true};
    return rc ? rc : ic_device_open(&device, &config, NULL);
}

static int close_device(void **state)
{
    (void)state;
    ic_device_close(&device);
    return 0;
}

/* --- the reference ------------------------------------------------------------------------------
 */

typedef struct entry { /* one row in one head */
    ic_row row;
    float k[DIM], v[DIM];
    double pos[3], score; /* -1: none */
    double doubt;         /* of the votes, as many as rounding could turn */
    bool placed;
    int slot;
    bool keep;
} entry;

typedef struct head {
    entry e[SLOTS];
    int count;
    double cursor, group_at; /* of original positions */
    uint32_t group;
} head;

typedef struct world {
    ic_slab *slab;
    ic_session_config config;
    const ic_policy *policy;
    head heads[LAYERS * KV];
    uint32_t ordinal, group;
    bool original;        /* positions stay */
    bool plain;           /* text alone, most of it row by row, as an answer comes */
    bool aged;            /* nothing has been asked: scores count for frames alone */
    float *asked[LAYERS]; /* queries of questions [window, HEADS * DIM] */
    int asked_rows, asked_next;
} world;

static void place(head *h)
{
    double at = 0;
    for (int i = 0; i < h->count; i++) {
        entry *e = &h->e[i];
        const entry *last = i ? &h->e[i - 1] : NULL;
        bool vision = e->row.kind == IC_ROW_VISION;
        if (last && last->row.kind != IC_ROW_VISION)
            at += 1;
        else if (last && !(vision && e->row.group == last->row.group))
            at += last->row.advance;
        e->pos[0] = at;
        e->pos[1] = at + (vision ? e->row.h : 0);
        e->pos[2] = at + (vision ? e->row.w : 0);
    }
}

static void rotate(const float *x, const double *pos, double *y)
{
    for (int i = 0; i < HALF; i++) {
        double angle = pos[axis[i]] * (double)inv_freq[i], c = cos(angle), s = sin(angle);
        y[i] = (double)x[i] * c - (double)x[i + HALF] * s;
        y[i + HALF] = (double)x[i + HALF] * c + (double)x[i] * s;
    }
}

/* One row of the attention matrix: what query q at place `at` pays to places 0 .. at. */
static void attend(const head *h, const float *q, int at, double *a)
{
    double rq[DIM], rk[DIM], sum = 0;
    rotate(q, h->e[at].pos, rq);
    for (int j = 0; j <= at; j++) {
        double dot = 0;
        rotate(h->e[j].k, h->e[j].pos, rk);
        for (int i = 0; i < DIM; i++)
            dot += rq[i] * rk[i];
        a[j] = exp(dot * (double)scale);
        sum += a[j];
    }
    for (int j = 0; j <= at; j++)
        a[j] /= sum;
}

/* Original positions: those of the whole stream, as if nothing had ever left. */
static void place_original(head *h, double *cursor, uint32_t *group, double *group_at)
{
    for (int i = 0; i < h->count; i++) {
        entry *e = &h->e[i];
        bool vision = e->row.kind == IC_ROW_VISION;
        if (e->placed)
            continue;
        bool goes_on = vision && e->row.group == *group;
        double at = goes_on ? *group_at : *cursor;
        if (!goes_on)
            *cursor += e->row.advance;
        *group = vision ? e->row.group : 0;
        *group_at = at;
        e->pos[0] = at;
        e->pos[1] = at + (vision ? e->row.h : 0);
        e->pos[2] = at + (vision ? e->row.w : 0);
        e->placed = true;
    }
}

/* q [rows, HEADS * DIM]: queries that stand where the head's last rows do. */
static void peak_head(const world *w, head *h, int kv, const float *q, int rows)
{
    double a[SLOTS], most[SLOTS] = {0};
    double smooth = w->config.smooth_pct > 0 ? w->config.smooth_pct / 100.0 : 0;
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < GROUP; g++) {
            int at = h->count - rows + r;
            attend(h, q + (size_t)r * HEADS * DIM + (kv * GROUP + g) * DIM, at, a);
            for (int j = 0; j <= at; j++)
                most[j] = a[j] > most[j] ? a[j] : most[j];
        }
    for (int j = 0; j < h->count; j++) {
        entry *e = &h->e[j];
        e->score = e->score >= 0 && smooth * e->score > most[j] ? smooth * e->score : most[j];
    }
}

/* q [rows, HEADS * DIM]: the head's last rows. */
static void score_head(const world *w, head *h, int kv, const float *q, int rows, int window)
{
    double a[SLOTS], sum[SLOTS] = {0};
    bool sums = w->policy->score == IC_SCORE_SUM;
    for (int r = sums ? 0 : rows - window; r < rows; r++)
        for (int g = 0; g < GROUP; g++) {
            int at = h->count - rows + r;
            attend(h, q + (size_t)r * HEADS * DIM + (kv * GROUP + g) * DIM, at, a);
            for (int j = 0; j <= at && !votes; j++)
                sum[j] += a[j] / GROUP;
            for (int j = 0; j <= at && votes; j++) {
                sum[j] += a[j] * (at + 1) >= 1 ? 1.0 / GROUP : 0;
                h->e[j].doubt += fabs(a[j] * (at + 1) - 1) < 1e-5 ? 1.0 / GROUP : 0;
            }
        }
    double smooth = w->config.smooth_pct > 0 ? w->config.smooth_pct / 100.0 : 0;
    for (int j = 0; j < h->count; j++) {
        entry *e = &h->e[j];
        int blind = j - (h->count - window), seen = blind > 0 ? window - blind : window;
        if (sums)
            e->score += sum[j];
        else if (e->score < 0)
            e->score = sum[j] / seen;
        else
            e->score = smooth * e->score + (1 - smooth) * sum[j] / seen;
    }
}

static bool has_patch(const head *h, uint32_t group, bool kept)
{
    for (int i = 0; i < h->count; i++)
        if (h->e[i].row.kind == IC_ROW_VISION && h->e[i].row.group == group
            && (h->e[i].keep || !kept))
            return true;
    return false;
}

static bool by_frames; /* frames stay or leave whole */
static bool thinned;   /* every row of a frame by itself */

/* A marker that stays or leaves with the patches of its group. */
static bool is_bound(const head *h, const entry *e)
{
    return !thinned && e->row.kind == IC_ROW_MARKER && !e->row.pinned
           && has_patch(h, e->row.group, false);
}

static int size_of_kept(const head *h)
{
    int n = 0;
    for (int i = 0; i < h->count; i++) {
        const entry *e = &h->e[i];
        n += is_bound(h, e) ? has_patch(h, e->row.group, true) : e->keep;
    }
    return n;
}

/* Keeps the row, or its whole frame, if the budget allows; returns the rows, 0 if it does not. */
static int try_keep(head *h, entry *e)
{
    bool before[SLOTS];
    int rows = 0;
    for (int i = 0; i < h->count; i++) {
        entry *o = &h->e[i];
        bool mate = by_frames && e->row.kind == IC_ROW_VISION && o->row.kind == IC_ROW_VISION
                    && o->row.group == e->row.group;
        before[i] = o->keep;
        rows += (mate || o == e) && !o->keep;
        o->keep |= mate || o == e;
    }
    if (size_of_kept(h) <= BUDGET)
        return rows;
    for (int i = 0; i < h->count; i++)
        h->e[i].keep = before[i];
    return 0;
}

static bool is_open(const head *h, const entry *e)
{
    return !e->keep && !is_bound(h, e);
}

static void keep_oldest(head *h, int rows)
{
    for (int i = 0; i < h->count && rows > 0; i++)
        if (is_open(h, &h->e[i])) {
            int kept = try_keep(h, &h->e[i]);
            if (!kept)
                return;
            rows -= kept;
        }
}

static void keep_newest(head *h, int rows, bool text, const double *score)
{
    for (int i = h->count - 1; i >= 0; i--) {
        entry *e = &h->e[i];
        if (!is_open(h, e) || (text && e->row.kind == IC_ROW_VISION))
            continue;
        if (rows <= 0 && !(score && score[i] < 0))
            continue;
        int kept = try_keep(h, e);
        if (!kept)
            return;
        rows -= kept;
    }
}

static void keep_frames(head *h, int frames)
{
    uint32_t next = UINT32_MAX;
    for (; frames > 0; frames--) {
        uint32_t newest = 0;
        for (int i = 0; i < h->count; i++)
            if (h->e[i].row.kind == IC_ROW_VISION && h->e[i].row.group < next
                && h->e[i].row.group > newest)
                newest = h->e[i].row.group;
        if (!newest)
            return;
        next = newest;
        bool before[SLOTS];
        for (int i = 0; i < h->count; i++) {
            before[i] = h->e[i].keep;
            h->e[i].keep |= h->e[i].row.kind == IC_ROW_VISION && h->e[i].row.group == newest;
        }
        bool whole = size_of_kept(h) <= BUDGET; /* or not at all */
        for (int i = 0; !whole && i < h->count; i++)
            h->e[i].keep = before[i];
    }
}

/* own: before pooling and bias. */
static void wanted_scores(const world *w, int index, double *own, double *score)
{
    const head *h = &w->heads[index], *first = &w->heads[index / KV * KV];
    double pooled[SLOTS], mean = 0;
    int n = 0, reach = w->config.pool / 2;
    for (int i = 0; i < h->count; i++) {
        score[i] = h->e[i].score;
        if (w->config.per_layer && score[i] >= 0)
            score[i] = (first[0].e[i].score + first[1].e[i].score) / KV;
    }
    memcpy(own, score, (size_t)h->count * sizeof *own);
    for (int i = 0; i < h->count; i++) {
        double sum = 0;
        int count = 0;
        for (int j = i - reach; j <= i + reach; j++)
            if (j >= 0 && j < h->count && score[j] >= 0)
                sum += score[j], count++;
        pooled[i] = score[i] < 0 ? -1 : sum / count;
    }
    for (int i = 0; i < h->count; i++)
        if (pooled[i] >= 0)
            mean += pooled[i], n++;
    double lambda = w->config.bias_pct > 0 ? w->config.bias_pct / 100.0 : 0;
    for (int i = 0; i < h->count; i++)
        score[i] = pooled[i] < 0 ? -1 : pooled[i] + lambda * mean / n * i / (h->count - 1);
}

/* Whole frames: each patch has the mean of its group's. */
static void average_frames(const head *h, double *score)
{
    double mean[SLOTS];
    for (int i = 0; i < h->count; i++) {
        double sum = 0;
        int n = 0;
        for (int j = 0; j < h->count; j++)
            if (h->e[j].row.kind == IC_ROW_VISION && h->e[j].row.group == h->e[i].row.group
                && score[j] >= 0)
                sum += score[j], n++;
        mean[i] = h->e[i].row.kind == IC_ROW_VISION && n ? sum / n : score[i];
    }
    memcpy(score, mean, (size_t)h->count * sizeof *score);
}

/* Sub-caches as lists of places, written as the paper's figure reads: the oldest rows fill them
 * from the last on, the others come one at a time. */
static void keep_cascades(head *h, const double *score)
{
    enum { PARTS = 4 };
    int list[PARTS][SLOTS], count[PARTS] = {0}, size[PARTS], room = BUDGET, part = PARTS - 1;
    for (int i = 0; i < h->count; i++)
        room -= h->e[i].keep || is_bound(h, &h->e[i]);
    room = room > 0 ? room : 0;
    for (int i = 0; i < PARTS; i++)
        size[i] = room / PARTS + (i ? 0 : room % PARTS);
    for (int i = 0; i < h->count; i++) {
        if (!is_open(h, &h->e[i]))
            continue;
        if (room > 0) {
            while (count[part] == size[part])
                part--;
            list[part][count[part]++] = i;
            room--;
            continue;
        }
        int comes = i;
        for (int p = 0; p < PARTS && comes >= 0; p++) {
            if (h->e[i].row.ordinal % (1u << p)) { /* it does not take */
                int last = count[p] - 1;
                double mine = score[comes] < 0 ? INFINITY : score[comes];
                double there =
                    last < 0 || score[list[p][last]] < 0 ? INFINITY : score[list[p][last]];
                if (last >= 0 && mine >= there)
                    list[p][last] = comes;
                if (isfinite(mine) && isfinite(there) && fabs(mine / there - 1) < gap)
                    gap = fabs(mine / there - 1);
                comes = -1;
                break;
            }
            list[p][count[p]++] = comes;
            comes = -1;
            if (count[p] > size[p]) {
                comes = list[p][0];
                memmove(list[p], list[p] + 1, (size_t)--count[p] * sizeof **list);
            }
        }
    }
    for (int p = 0; p < PARTS; p++)
        for (int i = 0; i < count[p]; i++)
            h->e[list[p][i]].keep = true;
}

/* A frame group that is older than the newest few. */
typedef struct old_frame {
    uint32_t group;
    double at, best;
    int rows;
} old_frame;

static double lost_with(const world *w, const old_frame *f, int n, int i, double now)
{
    double next = i + 1 < n ? f[i + 1].at : now;
    double last = i > 0 ? f[i - 1].at : 0;
    double fade = w->config.fade_pct > 0 ? w->config.fade_pct / 100.0 : 0;
    return (next - last) / pow(now - f[i].at, fade);
}

/* Thinning as docs/policies.md tells it: of each frame that is not whole some rows, then row after
 * row less until they fit. */
static void keep_thinned(const world *w, head *h, const double *score)
{
    static old_frame list[SLOTS];
    const ic_session_config *c = &w->config;
    int n = 0, rows = 0, room = BUDGET - size_of_kept(h);
    double now = 0, mean = 0;
    for (int i = 0; i < h->count; i++) {
        entry *e = &h->e[i];
        now = e->row.group ? e->row.group + 1 : now;
        if (!e->row.group || e->keep)
            continue;
        if (n == 0 || list[n - 1].group != e->row.group)
            list[n++] = (old_frame){.group = e->row.group, .best = -1};
        old_frame *f = &list[n - 1];
        f->rows += f->rows < c->thin;
        f->best = score[i] > f->best ? score[i] : f->best;
    }
    for (int i = 0; i < n; i++) {
        list[i].at = list[i].group;
        rows += list[i].rows;
        mean += (list[i].best > 0 ? list[i].best : 0) / n;
    }
    double care = c->care_pct > 0 ? c->care_pct / 100.0 : 0;
    while (rows > room && n > 0) {
        int least = 0;
        double lowest = INFINITY, second = INFINITY;
        for (int i = 0; i < n; i++) {
            double part = mean > 0 && list[i].best > 0 ? care * list[i].best / mean : 0;
            double lost = lost_with(w, list, n, i, now) * (1 + part) * pow(0.5, list[i].rows - 1);
            if (lost < lowest) {
                second = lowest;
                lowest = lost;
                least = i;
            } else if (lost < second) {
                second = lost;
            }
        }
        if (care > 0 && second / lowest - 1 < gap)
            gap = second / lowest - 1;
        rows--;
        if (--list[least].rows > 0)
            continue;
        memmove(list + least, list + least + 1, (size_t)(--n - least) * sizeof *list);
    }
    for (int i = 0; i < n; i++)
        for (int r = 0; r < list[i].rows; r++) {
            int best = -1;
            for (int j = 0; j < h->count; j++)
                if (h->e[j].row.group == list[i].group && !h->e[j].keep
                    && (best < 0 || score[j] >= score[best]))
                    best = j;
            h->e[best].keep = true;
        }
}

/* The newest groups with all their rows, each if it fits: so many, and more while there is room. */
static void keep_newest_groups(head *h, int frames, int room)
{
    uint32_t next = UINT32_MAX;
    for (;; frames--) {
        uint32_t newest = 0;
        bool before[SLOTS];
        for (int i = 0; i < h->count; i++)
            if (h->e[i].row.group < next && h->e[i].row.group > newest)
                newest = h->e[i].row.group;
        if (!newest)
            return;
        next = newest;
        for (int i = 0; i < h->count; i++)
            room -= h->e[i].row.group == newest && !h->e[i].keep;
        if (frames <= 0 && room < 0)
            return;
        for (int i = 0; i < h->count; i++) {
            before[i] = h->e[i].keep;
            h->e[i].keep |= h->e[i].row.group == newest;
        }
        bool fits = size_of_kept(h) <= BUDGET;
        for (int i = 0; !fits && i < h->count; i++)
            h->e[i].keep = before[i];
    }
}

static void keep_best(head *h, const double *score)
{
    bool passed[SLOTS] = {0};
    double lowest = INFINITY, best_left = 0;
    for (;;) {
        int best = -1;
        for (int i = 0; i < h->count; i++)
            if (is_open(h, &h->e[i]) && !passed[i] && score[i] >= 0
                && (best < 0 || score[i] >= score[best]))
                best = i;
        if (best < 0)
            break;
        passed[best] = true;
        if (try_keep(h, &h->e[best]))
            lowest = score[best];
        else if (best_left == 0 && h->e[best].row.group == 0)
            best_left = score[best];
    }
    if (!votes && best_left > 0 && isfinite(lowest) && fabs(lowest / best_left - 1) < gap)
        gap = fabs(lowest / best_left - 1);
}

/* What each policy keeps, as its paper and its file say. */
static void choose(const world *w, int index)
{
    head *h = (head *)&w->heads[index];
    const ic_session_config *c = &w->config;
    const char *name = w->policy->name;
    double score[SLOTS], own[SLOTS];
    int recent = c->recent_pct > 0 ? BUDGET * c->recent_pct / 100 : 0;
    for (int i = 0; i < h->count; i++)
        h->e[i].keep = h->e[i].row.pinned;
    if (w->policy->score)
        wanted_scores(w, index, own, score);
    if (strcmp(name, "window") == 0) {
        keep_newest(h, BUDGET, false, NULL);
    } else if (strcmp(name, "streaming") == 0) {
        keep_oldest(h, c->sinks);
        keep_newest(h, BUDGET, false, NULL);
    } else if (strcmp(name, "recent-frames") == 0) {
        keep_oldest(h, c->sinks);
        keep_newest(h, recent, true, NULL);
        keep_frames(h, c->frames);
    } else if (strcmp(name, "cascade") == 0) {
        keep_oldest(h, c->sinks);
        keep_cascades(h, score);
    } else {
        if (strncmp(name, "saddle", 6) == 0)
            keep_oldest(h, c->sinks);
        if (thinned) {
            keep_newest(h, c->text_pct > 0 ? BUDGET * c->text_pct / 100 : 0, true, NULL);
            keep_newest_groups(h, c->frames, recent);
            keep_thinned(w, h, own);
        }
        if (w->aged)
            keep_newest(h, BUDGET, false, NULL);
        keep_newest(h, strcmp(name, "snapkv") == 0 ? c->window : recent, false, score);
        if (by_frames)
            average_frames(h, score);
        keep_best(h, score);
    }
    for (int i = 0; i < h->count; i++)
        if (is_bound(h, &h->e[i]))
            h->e[i].keep = has_patch(h, h->e[i].row.group, true);
}

static void evict_reference(world *w)
{
    bool due = w->policy == &ic_policy_recent_frames;
    for (int i = 0; i < LAYERS * KV; i++)
        due |= w->heads[i].count > BUDGET;
    for (int i = 0; due && i < LAYERS * KV; i++)
        choose(w, i);
    for (int i = 0; due && i < LAYERS * KV; i++) {
        head *h = &w->heads[i];
        int stay = 0;
        for (int j = 0; j < h->count; j++)
            if (h->e[j].keep)
                h->e[stay++] = h->e[j];
        h->count = stay;
        if (!w->original)
            place(h);
    }
}

/* --- the same on a slab -------------------------------------------------------------------------
 */

static int make_rows(world *w, ic_row *rows)
{
    int n = 0;
    if (!w->plain && next_random(2)) { /* a frame group: timestamp, patches, closing marker */
        int gh = 2 + (int)next_random(3), gw = 3 + (int)next_random(4);
        uint16_t advance = (uint16_t)(gh > gw ? gh : gw);
        w->group++;
        for (int i = 0; i < 3; i++)
            rows[n++] = (ic_row){.group = w->group, .kind = IC_ROW_MARKER, .advance = 1};
        for (int i = 0; i < gh * gw; i++)
            rows[n++] = (ic_row){.group = w->group,
                                 .kind = IC_ROW_VISION,
                                 .h = (uint16_t)(i / gw),
                                 .w = (uint16_t)(i % gw),
                                 .advance = advance};
        rows[n++] = (ic_row){.group = w->group, .kind = IC_ROW_MARKER, .advance = 1};
    }
    int text = n ? (int)next_random(20) : 1 + (int)next_random(CHUNK);
    if (w->plain && next_random(4))
        text = 1;
    for (int i = 0; i < text; i++)
        rows[n++] = (ic_row){.kind = IC_ROW_TEXT, .advance = 1};
    for (int i = 0; i < n; i++) {
        rows[i].pinned = w->ordinal < 5;
        rows[i].ordinal = w->ordinal++;
    }
    return n;
}

static float *random_rows(int rows, int cols)
{
    float *x = ic_calloc((size_t)rows * (size_t)cols, sizeof *x);
    for (int i = 0; i < rows * cols; i++)
        x[i] = next_float();
    return x;
}

static ic_mat mat(float *data, int rows, int cols)
{
    return (ic_mat){data, IC_F32, rows, cols, cols};
}

/* The chunk's rows enter slab and reference alike; q [LAYERS][rows, HEADS * DIM]. */
static void enter(world *w, const ic_row *rows, int n, float **q)
{
    ic_error e = {0};
    ic_assert_ok(ic_slab_append(w->slab, rows, n, &e), &e);
    for (int layer = 0; layer < LAYERS; layer++) {
        float *k = random_rows(n, KV * DIM), *v = random_rows(n, KV * DIM);
        ic_mat km = mat(k, n, KV * DIM), vm = mat(v, n, KV * DIM);
        assert_int_equal(ic_slab_store(w->slab, layer, n, 0, &km, &vm), 0);
        q[layer] = random_rows(n, HEADS * DIM);
        for (int kv = 0; kv < KV; kv++) {
            head *h = &w->heads[layer * KV + kv];
            int32_t slots[SLOTS];
            ic_slab_rows(w->slab, layer, kv, NULL, slots, NULL);
            for (int i = 0; i < n; i++) {
                entry *to = &h->e[h->count];
                *to = (entry){.row = rows[i], .slot = slots[h->count], .score = -1};
                if (w->policy->score == IC_SCORE_SUM)
                    to->score = 0;
                memcpy(to->k, k + (i * KV + kv) * DIM, sizeof to->k);
                memcpy(to->v, v + (i * KV + kv) * DIM, sizeof to->v);
                h->count++;
            }
            if (w->original)
                place_original(h, &h->cursor, &h->group, &h->group_at);
            else
                place(h);
        }
        ic_free(k), ic_free(v);
    }
}

/* What attention gives, of a few of the rows. */
static void expect_attention(const head *h, int kv, const float *q, const float *y, int n)
{
    double a[SLOTS];
    for (int r = 0; r < n; r += n < 8 ? 1 : n / 4)
        for (int g = 0; g < GROUP; g++) {
            int at = h->count - n + r, column = (kv * GROUP + g) * DIM;
            attend(h, q + (size_t)r * HEADS * DIM + column, at, a);
            for (int i = 0; i < DIM; i++) {
                double want = 0;
                for (int j = 0; j <= at; j++)
                    want += a[j] * (double)h->e[j].v[i];
                assert_true(fabs(want - (double)y[(size_t)r * HEADS * DIM + column + i]) < 2e-5);
            }
        }
}

/* A vote that rounding could turn is taken as the slab has it. */
static void settle_votes(world *w, int layer, int kv, int window)
{
    head *h = &w->heads[layer * KV + kv];
    float scores[SLOTS];
    ic_slab_scores(w->slab, layer, kv, scores);
    for (int j = 0; j < h->count; j++) {
        int blind = j - (h->count - window), seen = blind > 0 ? window - blind : window;
        double off = fabs((double)scores[j] - h->e[j].score);
        assert_true(off < h->e[j].doubt / seen + 1e-6);
        if (h->e[j].doubt > 0)
            h->e[j].score = (double)scores[j];
        h->e[j].doubt = 0;
    }
}

static void score(world *w, int n, float **q)
{
    int window = n < w->config.window ? n : w->config.window;
    bool windows = ic_score_is_windowed(w->policy->score);
    for (int layer = 0; layer < LAYERS; layer++) {
        float *y = ic_calloc((size_t)n * HEADS * DIM, sizeof *y);
        ic_mat qm = mat(q[layer], n, HEADS * DIM), ym = mat(y, n, HEADS * DIM);
        assert_int_equal(ic_op_attention_prefill_scored(device, w->slab, layer, HEADS, &qm, 0,
                                                        &rope, scale, windows ? window : 0, &ym),
                         0);
        for (int kv = 0; kv < KV && w->policy->score; kv++)
            score_head(w, &w->heads[layer * KV + kv], kv, q[layer], n, window);
        for (int kv = 0; kv < KV && votes; kv++)
            settle_votes(w, layer, kv, window);
        for (int kv = 0; kv < KV; kv++)
            expect_attention(&w->heads[layer * KV + kv], kv, q[layer], y, n);
        ic_free(y);
    }
}

/* The chunk's last queries are a question's, and take the place of the oldest remembered. */
static void remember(world *w, int n, float **q)
{
    int rows = n < w->config.questions ? n : w->config.questions, width = HEADS * DIM;
    for (int layer = 0; layer < LAYERS; layer++)
        for (int i = 0; i < rows; i++)
            memcpy(w->asked[layer] + (w->asked_next + i) % w->config.window * width,
                   q[layer] + (n - rows + i) * width, (size_t)width * sizeof(float));
    w->asked_next = (w->asked_next + rows) % w->config.window;
    w->asked_rows += rows;
    w->asked_rows = w->asked_rows < w->config.window ? w->asked_rows : w->config.window;
}

/* What is remembered looks again, or, if nothing is, the chunk's last rows do. */
static void look_again(world *w, int n, float **q)
{
    int own = n < w->config.window ? n : w->config.window;
    int rows = w->asked_rows ? w->asked_rows : own;
    for (int i = 0; i < LAYERS * KV; i++)
        rows = rows < w->heads[i].count ? rows : w->heads[i].count;
    for (int layer = 0; layer < LAYERS; layer++) {
        float *from = w->asked_rows ? w->asked[layer] : q[layer] + (n - own) * HEADS * DIM;
        ic_mat m = mat(from, rows, HEADS * DIM);
        assert_int_equal(ic_op_attention_score(device, w->slab, layer, HEADS, &m, &rope, scale), 0);
        for (int kv = 0; kv < KV; kv++)
            peak_head(w, &w->heads[layer * KV + kv], kv, from, rows);
    }
}

static void expect_same(const world *w)
{
    /* Far from the origin f32 knows angles less well, which shows where nothing is averaged. */
    double exact = w->original ? 3e-4 : 1e-5;
    for (int i = 0; i < LAYERS * KV; i++) {
        const head *h = &w->heads[i];
        ic_row rows[SLOTS];
        int32_t slots[SLOTS];
        ic_pos positions[SLOTS];
        float k[DIM], v[DIM], scores[SLOTS];
        assert_int_equal(ic_slab_count(w->slab, i / KV, i % KV), h->count);
        ic_slab_rows(w->slab, i / KV, i % KV, rows, slots, positions);
        if (w->policy->score)
            ic_slab_scores(w->slab, i / KV, i % KV, scores);
        for (int j = 0; j < h->count; j++) {
            const entry *e = &h->e[j];
            assert_int_equal(rows[j].ordinal, e->row.ordinal);
            assert_int_equal(slots[j], e->slot);
            assert_int_equal(positions[j].t, (int)e->pos[0]);
            assert_int_equal(positions[j].h, (int)e->pos[1]);
            assert_int_equal(positions[j].w, (int)e->pos[2]);
            ic_slab_read(w->slab, i / KV, i % KV, slots[j], k, v);
            assert_memory_equal(k, e->k, sizeof k);
            assert_memory_equal(v, e->v, sizeof v);
            if (w->policy->score)
                assert_true(fabs((double)scores[j] - e->score) < exact * fabs(e->score) + 1e-9);
        }
    }
}

static void evict(world *w)
{
    ic_plan plan = {0};
    bool due = ic_policy_chunk_end(w->policy, &w->config, ic_slab_used(w->slab), &plan);
    plan.aged = w->aged = ic_policy_score(&w->config) == IC_SCORE_PEAK && w->asked_rows == 0;
    if (due)
        assert_int_equal(ic_slab_evict(w->slab, &plan, NULL), 0);
    assert_true(ic_slab_used(w->slab) <= BUDGET);
    evict_reference(w);
}

static void run_stream(const ic_session_config *config, bool plain)
{
    world *w = ic_alloc(sizeof *w);
    ic_error e = {0};
    ic_slab_desc desc = {LAYERS, KV, DIM, SLOTS, IC_F32, IC_F32};
    w->config = *config;
    w->plain = plain;
    w->config.cache_tokens = BUDGET;
    w->config.slack = SLACK;
    w->config.sinks = 3;
    ic_policy_settle(&w->config);
    w->policy = ic_policy_find(config->policy);
    ic_assert_ok(ic_slab_new(&w->slab, device, &desc, &e), &e);
    w->original = config->positions == IC_POSITIONS_ORIGINAL;
    if (w->original)
        ic_slab_keep_positions(w->slab);
    ic_score_kind kind = ic_policy_score(&w->config);
    ic_assert_ok(
        ic_slab_keep_scores(
            w->slab, kind, w->config.smooth_pct > 0 ? (float)w->config.smooth_pct / 100.0f : 0, &e),
        &e);
    gap = INFINITY;
    votes = w->policy->score == IC_SCORE_VOTES;
    by_frames = w->config.frame_unit == IC_FRAME_WHOLE;
    thinned = w->config.thin > 0;
    for (int i = 0; i < LAYERS; i++)
        w->asked[i] = ic_calloc((size_t)w->config.window * HEADS * DIM, sizeof(float));
    for (int chunk = 0; chunk < (plain ? 4 * CHUNKS : CHUNKS); chunk++) {
        ic_row rows[2 * CHUNK];
        float *q[LAYERS];
        int n = make_rows(w, rows);
        n = n < CHUNK ? n : CHUNK;
        w->ordinal = rows[n - 1].ordinal + 1;
        enter(w, rows, n, q);
        bool answer = chunk % 5 == 4; /* rows that nothing scores, as an answer's */
        if (kind == IC_SCORE_PEAK && chunk > 3 && chunk % 3 == 0)
            remember(w, n, q);
        if (kind == IC_SCORE_PEAK && !answer)
            look_again(w, n, q);
        else if (!answer || w->policy->score == IC_SCORE_SUM)
            score(w, n, q);
        evict(w);
        expect_same(w);
        for (int i = 0; i < LAYERS; i++)
            ic_free(q[i]);
    }
    assert_true(gap > 1e-5); /* else rounding could decide, and the seed is to be another */
    by_frames = thinned = false;
    for (int i = 0; i < LAYERS; i++)
        ic_free(w->asked[i]);
    ic_slab_destroy(&w->slab);
    ic_free(w);
}

static void run(const ic_session_config *config)
{
    run_stream(config, false);
}

/* streaming keeps sinks and the newest rows. */
static void test_streaming(void **state)
{
    (void)state;
    run(&(ic_session_config){.policy = "streaming"});
}

/* window keeps the newest rows alone. */
static void test_window(void **state)
{
    (void)state;
    run(&(ic_session_config){.policy = "window"});
}

/* saddle keeps sinks, the newest rows and what the window looked at; with every setting. */
static void test_saddle(void **state)
{
    (void)state;
    run(&(ic_session_config){.policy = "saddle"});
    run_stream(&(ic_session_config){.policy = "saddle"}, true);
    run(&(ic_session_config){.policy = "saddle-paper", .recent_pct = 30});
    run(&(ic_session_config){
        .policy = "saddle-paper", .window = 7, .bias_pct = -1, .recent_pct = 20});
    run(&(ic_session_config){.policy = "saddle", .smooth_pct = 60, .pool = 3, .bias_pct = 200});
    run(&(ic_session_config){.policy = "saddle-paper", .per_layer = 1, .recent_pct = 10});
}

/* h2o keeps the newest rows and the largest sums over all rows that ever came. */
static void test_h2o(void **state)
{
    (void)state;
    run(&(ic_session_config){.policy = "h2o"});
    run(&(ic_session_config){.policy = "h2o", .recent_pct = 20, .per_layer = 1});
    run_stream(&(ic_session_config){.policy = "h2o"}, true);
}

/* snapkv keeps the window and the largest pooled attention of it. */
static void test_snapkv(void **state)
{
    (void)state;
    run(&(ic_session_config){.policy = "snapkv", .window = 16});
}

/* With whole frames, saddle keeps a frame or leaves it, by the mean of its patches' scores. */
static void test_whole_frames(void **state)
{
    (void)state;
    run(&(ic_session_config){.policy = "saddle", .questions = -1, .frame_unit = IC_FRAME_WHOLE});
    run(&(ic_session_config){.policy = "saddle",
                             .questions = -1,
                             .frame_unit = IC_FRAME_WHOLE,
                             .recent_pct = 20,
                             .bias_pct = -1});
    run(&(ic_session_config){
        .policy = "saddle-paper", .frame_unit = IC_FRAME_WHOLE, .recent_pct = -1, .per_layer = 1});
    run_stream(
        &(ic_session_config){.policy = "saddle", .questions = -1, .frame_unit = IC_FRAME_WHOLE},
        true);
}

/* With thinning, saddle keeps the newest frames whole, of each older one the rows that questions
 * looked at most, of the oldest frames ever fewer, and for the rest what questions looked at; the
 * last queries of several questions look, as if asked now. Before any question it is the newest. */
static void test_thinned(void **state)
{
    (void)state;
    const ic_session_config base = {.policy = "saddle",
                                    .questions = 5,
                                    .thin = 2,
                                    .frames = 2,
                                    .text_pct = 10,
                                    .fade_pct = 100,
                                    .care_pct = 100};
    ic_session_config c = base;
    run(&c);
    run_stream(&c, true);
    c.window = 12;
    c.questions = 9;
    c.thin = 1;
    c.care_pct = -1;
    run(&c);
    c = base;
    c.per_layer = 1;
    c.smooth_pct = 90;
    c.fade_pct = -1;
    c.thin = 4;
    run(&c);
    c = base;
    c.questions = -1;
    c.recent_pct = 20;
    c.pool = 5;
    c.bias_pct = 50;
    c.text_pct = -1;
    run(&c);
    c = base;
    c.thin = -1;
    c.window = 20;
    c.pool = 1;
    run(&c);
}

/* cascade keeps sinks, and sub-caches that take every row, every second, every fourth ... */
static void test_cascade(void **state)
{
    (void)state;
    run(&(ic_session_config){.policy = "cascade"});
    run_stream(&(ic_session_config){.policy = "cascade"}, true);
    run(&(ic_session_config){.policy = "cascade", .smooth_pct = -1, .per_layer = 1, .window = 9});
}

/* corm keeps the newest, and the rows that most of the window's queries would miss. */
static void test_corm(void **state)
{
    (void)state;
    run(&(ic_session_config){.policy = "corm"});
    run(&(ic_session_config){.policy = "corm", .recent_pct = 20, .window = 60, .smooth_pct = 50});
    run_stream(&(ic_session_config){.policy = "corm"}, true);
}

/* recent-frames keeps sinks, some newest text and the newest whole groups. */
static void test_recent_frames(void **state)
{
    (void)state;
    run(&(ic_session_config){.policy = "recent-frames", .frames = 3});
    run(&(ic_session_config){.policy = "recent-frames", .recent_pct = 10, .frames = 2});
}

/* Original positions: rows stay where they stood when they came, gaps and all, and attention and
 * scores are those of the rows at these places. */
static void test_original_positions(void **state)
{
    (void)state;
    static const char *const policies[] = {"streaming", "saddle", "h2o", "recent-frames"};
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        ic_session_config c = {.positions = IC_POSITIONS_ORIGINAL};
        snprintf(c.policy, sizeof c.policy, "%s", policies[i]);
        run_stream(&c, false);
        run_stream(&c, true);
    }
}

/* --- scores: bits -------------------------------------------------------------------------------
 */

/* Attention over 200 rows, of which the last n are the chunk, cut into slices of `slice` rows (the
 * window's queries put together as a session does) or decoded one by one; scores of every head. */
static void score_in_slices(ic_score_kind kind, int slice, bool decode, float *scores, float *y)
{
    enum { N = 200, OLD = 90, WINDOW = 32 };
    ic_error e = {0};
    ic_slab *s;
    ic_slab_desc desc = {1, KV, DIM, N + 20, IC_F32, IC_F32};
    ic_row rows[N];
    seed = 5;
    ic_assert_ok(ic_slab_new(&s, device, &desc, &e), &e);
    ic_assert_ok(ic_slab_keep_scores(s, kind, 0, &e), &e);
    float *k = random_rows(N, KV * DIM), *v = random_rows(N, KV * DIM);
    float *q = random_rows(N, HEADS * DIM);
    for (int at = 0; at < N;) {
        int n = at < OLD ? OLD : at + slice < N ? slice : N - at;
        int held = at > N - WINDOW ? at - (N - WINDOW) : 0;
        int window = at + n == N && kind == IC_SCORE_WINDOW && held == 0 ? WINDOW : 0;
        for (int i = 0; i < n; i++)
            rows[i] = (ic_row){.ordinal = (uint32_t)(at + i), .advance = 1};
        ic_assert_ok(ic_slab_append(s, rows, n, &e), &e);
        ic_mat km = mat(k + at * KV * DIM, n, KV * DIM), vm = mat(v + at * KV * DIM, n, KV * DIM);
        ic_mat qm = mat(q + at * HEADS * DIM, n, HEADS * DIM);
        ic_mat ym = mat(y + at * HEADS * DIM, n, HEADS * DIM);
        ic_mat last = mat(q + (N - WINDOW) * HEADS * DIM, WINDOW, HEADS * DIM);
        assert_int_equal(ic_slab_store(s, 0, n, 0, &km, &vm), 0);
        if (decode && at >= OLD)
            assert_int_equal(ic_op_attention_decode(device, (const ic_slab *const *)&s, 1, 0, HEADS,
                                                    &qm, &rope, scale, &ym),
                             0);
        else
            assert_int_equal(ic_op_attention_prefill_scored(device, s, 0, HEADS, &qm, 0, &rope,
                                                            scale, window, &ym),
                             0);
        if (at + n == N && kind == IC_SCORE_WINDOW && held > 0)
            assert_int_equal(ic_op_attention_score(device, s, 0, HEADS, &last, &rope, scale), 0);
        at += n;
    }
    for (int kv = 0; kv < KV && kind; kv++)
        ic_slab_scores(s, 0, kv, scores + kv * N);
    ic_slab_destroy(&s);
    ic_free(k), ic_free(v), ic_free(q);
}

/* Scores are the same bits however the chunk is sliced, and attention is what it is without them.
 */
static void test_bits(void **state)
{
    (void)state;
    enum { N = 200 };
    static float whole[2][KV * N], cut[KV * N], y[3][N * HEADS * DIM];
    static const int slices[] = {110, 78, 64, 33, 17, 1};
    score_in_slices(IC_SCORE_NONE, 110, false, NULL, y[0]);
    score_in_slices(IC_SCORE_WINDOW, 110, false, whole[0], y[1]);
    score_in_slices(IC_SCORE_SUM, 110, false, whole[1], y[2]);
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    assert_memory_equal(y[0], y[2], sizeof y[0]);
    for (size_t i = 0; i < sizeof slices / sizeof *slices; i++) {
        score_in_slices(IC_SCORE_WINDOW, slices[i], false, cut, y[1]);
        assert_memory_equal(cut, whole[0], sizeof cut);
        score_in_slices(IC_SCORE_SUM, slices[i], false, cut, y[1]);
        assert_memory_equal(cut, whole[1], sizeof cut);
        assert_memory_equal(y[0], y[1], sizeof y[0]);
    }
    score_in_slices(IC_SCORE_SUM, 1, true, cut, y[1]); /* another role, other roundings */
    for (int i = 0; i < KV * N; i++)
        assert_true(fabsf(cut[i] - whole[1][i]) <= 1e-5f * whole[1][i]);
}

/* A name that is no policy is none; all others are found, and their list names them. */
static void test_names(void **state)
{
    (void)state;
    static const char *const names[] = {"full",    "streaming", "saddle", "saddle-paper",
                                        "window",  "h2o",       "snapkv", "recent-frames",
                                        "cascade", "corm"};
    assert_null(ic_policy_find("lru"));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_string_equal(ic_policy_find(names[i])->name, names[i]);
        assert_non_null(strstr(ic_policy_names(), names[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test_setup_teardown(test_streaming, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_window, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_saddle, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_h2o, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_snapkv, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_recent_frames, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_whole_frames, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_thinned, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_cascade, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_corm, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_original_positions, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_bits, open_device, close_device),
        cmocka_unit_test_setup_teardown(test_saddle, open_plain, close_device),
        cmocka_unit_test_setup_teardown(test_h2o, open_plain, close_device),
        cmocka_unit_test_setup_teardown(test_corm, open_plain, close_device),
        cmocka_unit_test_setup_teardown(test_thinned, open_plain, close_device),
        cmocka_unit_test_setup_teardown(test_bits, open_plain, close_device),
    };
    return IC_TEST_RUN(tests);
}
