/* Which rows stay: plans of ic_slab.h carried out, head by head, on the slot tables alone. K and V
 * are not touched: a slot is freed or it is not. */
#include <string.h>

#include "base/ic_assert.h"
#include "base/ic_mem.h"
#include "kernels/ic_cascade.h"
#include "kernels/ic_half.h"
#include "kernels/ic_slab_priv.h"
#include "kernels/ic_thin.h"

/* A vision group as one head sees it while a plan is carried out. */
typedef struct seen_group {
    uint32_t id;
    int patches;     /* vision rows present */
    int markers;     /* unpinned marker rows present */
    int first, last; /* places of its patches lie from here to there */
    int begin, end;  /* and those of all its rows */
    bool alive;      /* some patch stays; its markers stay, then */
    bool passed;     /* as a whole it did not fit */
} seen_group;

/* A group that has still to be thinned out: a link of a chain in the order of time. */
typedef struct thinned {
    int group, rows;    /* that it would keep */
    float at, score;    /* when it came; its best row's */
    float faded, worth; /* what its rows count for: ic_thin.h */
    int before, behind; /* links; -1: none */
} thinned;

/* Scratch of one eviction, for one head at a time. */
typedef struct eviction {
    const ic_slab *slab;
    const ic_plan *plan;
    int head, count, kept;
    int together;       /* heads from `head` on that are decided as one */
    bool *keep;         /* [count] by place */
    int32_t *group_of;  /* [count]: index into groups, or -1 */
    seen_group *groups; /* [group_count] */
    int group_count;
    float *score;     /* [count] by place, as the plan wants it; -1: none */
    float *room;      /* [count] */
    int32_t *ranked;  /* [count]: places, from the lowest score up */
    int32_t *spare;   /* [count] */
    thinned *thinned; /* [group_count] */
} eviction;

static const ic_row *row_at(const eviction *v, int place)
{
    return &ic_slab_rows_of(v->slab, v->head)[ic_slab_order_of(v->slab, v->head)[place]];
}

static int find_group(eviction *v, uint32_t id)
{
    /* Rows of a group stand close together: the search almost always ends at once. */
    for (int i = v->group_count - 1; i >= 0; i--)
        if (v->groups[i].id == id)
            return i;
    v->groups[v->group_count] = (seen_group){.id = id};
    return v->group_count++;
}

static void see_groups(eviction *v)
{
    v->group_count = 0;
    for (int i = 0; i < v->count; i++) {
        const ic_row *row = row_at(v, i);
        v->keep[i] = false;
        v->group_of[i] = row->group ? find_group(v, row->group) : -1;
        if (!row->group)
            continue;
        seen_group *group = &v->groups[v->group_of[i]];
        group->begin = group->end ? group->begin : i;
        group->end = i + 1;
        if (row->kind == IC_ROW_VISION) {
            group->first = group->patches++ ? group->first : i;
            group->last = i;
        }
        group->markers += row->kind == IC_ROW_MARKER && !row->pinned;
    }
}

/* A marker whose patches have come stays and leaves with them, whatever its own age. */
static bool is_bound(const eviction *v, int place)
{
    const ic_row *row = row_at(v, place);
    return !v->plan->thin && row->kind == IC_ROW_MARKER && !row->pinned && row->group
           && v->groups[v->group_of[place]].patches > 0;
}

/* Rows by which keeping this row raises the count: the first patch of a group brings its markers.
 */
static int cost_of(const eviction *v, int place)
{
    const ic_row *row = row_at(v, place);
    if (row->kind != IC_ROW_VISION || !row->group || v->plan->thin)
        return 1;
    const seen_group *group = &v->groups[v->group_of[place]];
    return group->alive ? 1 : 1 + group->markers;
}

static void keep_row(eviction *v, int place)
{
    v->kept += cost_of(v, place);
    v->keep[place] = true;
    const ic_row *row = row_at(v, place);
    if (row->kind == IC_ROW_VISION && row->group)
        v->groups[v->group_of[place]].alive = true;
}

static bool is_open(const eviction *v, int place)
{
    return !v->keep[place] && !is_bound(v, place);
}

/* Patches of a group that are not kept yet. */
static int open_patches(const eviction *v, int group)
{
    int patches = 0;
    for (int i = v->groups[group].first; i <= v->groups[group].last; i++)
        patches += v->group_of[i] == group && row_at(v, i)->kind == IC_ROW_VISION && !v->keep[i];
    return patches;
}

/* A patch that stays or leaves with all others of its group: the group's number, else -1. */
static int whole_of(const eviction *v, int place)
{
    const ic_row *row = row_at(v, place);
    return v->plan->whole && row->group && row->kind == IC_ROW_VISION ? v->group_of[place] : -1;
}

static bool fits(const eviction *v, int place)
{
    int group = whole_of(v, place);
    if (group < 0)
        return v->kept + cost_of(v, place) <= v->plan->budget;
    seen_group *g = &v->groups[group];
    if (!g->passed) {
        int cost = open_patches(v, group) + (g->alive ? 0 : g->markers);
        g->passed = v->kept + cost > v->plan->budget;
    }
    return !g->passed;
}

/* Keeps the row, or its whole group; returns how many rows that are. */
static int keep_unit(eviction *v, int place)
{
    int group = whole_of(v, place), rows = 0;
    if (group < 0) {
        keep_row(v, place);
        return 1;
    }
    for (int i = v->groups[group].first; i <= v->groups[group].last; i++)
        if (v->group_of[i] == group && row_at(v, i)->kind == IC_ROW_VISION && !v->keep[i]) {
            keep_row(v, i);
            rows++;
        }
    return rows;
}

/* --- scores as the plan wants them --- */

static void add_head(eviction *v, int head)
{
    const float *scores = ic_slab_scores_of(v->slab, head);
    const int32_t *order = ic_slab_order_of(v->slab, head);
    for (int i = 0; i < v->count; i++) {
        float score = scores[order[i]];
        v->score[i] = score < 0 || v->score[i] < 0 ? -1.0f : v->score[i] + score;
    }
}

/* Mean scores over the heads that are decided together. */
static void read_scores(eviction *v)
{
    memset(v->score, 0, (size_t)v->count * sizeof *v->score);
    for (int h = 0; h < v->together; h++)
        add_head(v, v->head + h);
    for (int i = 0; v->together > 1 && i < v->count; i++)
        v->score[i] = v->score[i] < 0 ? -1.0f : v->score[i] / (float)v->together;
}

/* The mean of the neighbours that have a score. */
static void pool_scores(eviction *v)
{
    int reach = v->plan->pool / 2;
    memcpy(v->room, v->score, (size_t)v->count * sizeof *v->room);
    for (int i = 0; i < v->count; i++) {
        float sum = 0;
        int n = 0;
        for (int j = i < reach ? 0 : i - reach; j <= i + reach && j < v->count; j++)
            if (v->room[j] >= 0) {
                sum += v->room[j];
                n++;
            }
        if (v->room[i] >= 0)
            v->score[i] = sum / (float)n;
    }
}

/* The sum of the scores that there are, in lanes (IC_SLAB_LANES). */
static double sum_scores(const eviction *v, int *n)
{
    double lanes[IC_SLAB_LANES] = {0};
    *n = 0;
    for (int i = 0; i < v->count; i++)
        if (v->score[i] >= 0) {
            lanes[i % IC_SLAB_LANES] += (double)v->score[i];
            ++*n;
        }
    for (int half = IC_SLAB_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

/* Score-side bias (papers: the formula is ours): the newer a row, the more of the mean it gets. */
static void add_bias(eviction *v)
{
    int n;
    double sum = sum_scores(v, &n);
    if (n == 0 || v->count < 2)
        return;
    float step = v->plan->bias * (float)(sum / n) / (float)(v->count - 1);
    for (int i = 0; i < v->count; i++)
        if (v->score[i] >= 0)
            v->score[i] += step * (float)i;
}

/* One score for all patches of a group: their mean. */
static void average_groups(eviction *v)
{
    for (int g = 0; g < v->group_count; g++) {
        const seen_group *group = &v->groups[g];
        double sum = 0;
        int n = 0;
        for (int i = group->first; group->patches && i <= group->last; i++)
            if (v->group_of[i] == g && row_at(v, i)->kind == IC_ROW_VISION && v->score[i] >= 0) {
                sum += (double)v->score[i];
                n++;
            }
        for (int i = group->first; n && i <= group->last; i++)
            if (v->group_of[i] == g && row_at(v, i)->kind == IC_ROW_VISION)
                v->score[i] = (float)(sum / n);
    }
}

/* Sorts the open places that have a score: bytes of the (never negative) float from the lowest up,
 * each pass stable, so that equal scores stay in the order of their age. */
static int rank_scores(eviction *v)
{
    int n = 0;
    for (int i = 0; i < v->count; i++)
        if (is_open(v, i) && v->score[i] >= 0)
            v->ranked[n++] = i;
    for (int shift = 0; shift < 32; shift += 8) {
        int start[257] = {0};
        for (int i = 0; i < n; i++)
            start[(ic_f32_bits(v->score[v->ranked[i]]) >> shift & 255) + 1]++;
        for (int b = 0; b < 256; b++)
            start[b + 1] += start[b];
        for (int i = 0; i < n; i++)
            v->spare[start[ic_f32_bits(v->score[v->ranked[i]]) >> shift & 255]++] = v->ranked[i];
        int32_t *swap = v->ranked;
        v->ranked = v->spare;
        v->spare = swap;
    }
    return n;
}

/* --- choosing --- */

static void keep_oldest(eviction *v, int rows)
{
    for (int i = 0; i < v->count && rows > 0; i++) {
        if (!is_open(v, i))
            continue;
        if (!fits(v, i))
            return;
        rows -= keep_unit(v, i);
    }
}

/* Newest first: `rows` of them and, with `unscored`, all that have no score. */
static void keep_newest(eviction *v, int rows, bool unscored)
{
    for (int i = v->count - 1; i >= 0; i--) {
        if (!is_open(v, i) || (rows <= 0 && !(unscored && v->score[i] < 0)))
            continue;
        if (!fits(v, i))
            return;
        rows -= keep_unit(v, i);
    }
}

/* Where all rows cost the same and few must go (h2o: one in every step), the worst are found
 * without sorting. The same choice. */
static bool drop_worst(eviction *v)
{
    enum { FEW = 4 };
    int n = 0;
    for (int i = 0; i < v->count; i++)
        if (is_open(v, i) && v->score[i] >= 0)
            v->ranked[n++] = i;
    int drop = n - (v->plan->budget - v->kept);
    if (v->group_count > 0 || drop > FEW || drop < 0)
        return false;
    for (; drop > 0; drop--) {
        int worst = 0;
        for (int i = 1; i < n; i++)
            if (v->score[v->ranked[i]] < v->score[v->ranked[worst]])
                worst = i;
        memmove(v->ranked + worst, v->ranked + worst + 1,
                (size_t)(--n - worst) * sizeof *v->ranked);
    }
    for (int i = 0; i < n; i++)
        keep_row(v, v->ranked[i]);
    return true;
}

static void keep_best(eviction *v)
{
    if (drop_worst(v))
        return;
    int n = rank_scores(v);
    for (int i = n - 1; i >= 0 && v->kept < v->plan->budget; i--)
        if (is_open(v, v->ranked[i]) && fits(v, v->ranked[i]))
            keep_unit(v, v->ranked[i]);
}

static void keep_text(eviction *v, int rows)
{
    for (int i = v->count - 1; i >= 0 && rows > 0; i--) {
        if (!is_open(v, i) || row_at(v, i)->kind == IC_ROW_VISION)
            continue;
        if (!fits(v, i))
            return;
        keep_row(v, i);
        rows--;
    }
}

/* Groups are numbered as they come, so the last ones seen are the newest. Each is kept whole, or
 * not at all beyond what the sinks have of it. */
static void keep_frames(eviction *v, int frames)
{
    for (int g = v->group_count - 1; g >= 0 && frames > 0; g--) {
        const seen_group *group = &v->groups[g];
        if (group->patches == 0)
            continue;
        frames--;
        int cost = open_patches(v, g) + (group->alive ? 0 : group->markers);
        if (v->kept + cost > v->plan->budget)
            continue;
        for (int i = 0; i < v->count; i++)
            if (v->group_of[i] == g && row_at(v, i)->kind == IC_ROW_VISION && !v->keep[i])
                keep_row(v, i);
    }
}

/* --- thinning --- */

static int open_rows(const eviction *v, const seen_group *group, int g)
{
    int rows = 0;
    for (int i = group->begin; i < group->end; i++)
        rows += v->group_of[i] == g && !v->keep[i];
    return rows;
}

/* The newest groups, with all that is still there of each: so many, and more while they come to no
 * more than `rows`. */
static void keep_whole_groups(eviction *v, int groups, int rows)
{
    for (int g = v->group_count - 1; g >= 0; g--, groups--) {
        seen_group *group = &v->groups[g];
        int cost = open_rows(v, group, g);
        rows -= cost;
        if (groups <= 0 && rows < 0)
            return;
        if (v->kept + cost > v->plan->budget)
            continue;
        for (int i = group->begin; i < group->end; i++)
            if (v->group_of[i] == g && !v->keep[i])
                keep_row(v, i);
        group->passed = true;
    }
}

/* The best open row of a group, the newer of equals; -1: it has none. */
static int best_row(const eviction *v, int g)
{
    int best = -1;
    for (int i = v->groups[g].begin; i < v->groups[g].end; i++)
        if (v->group_of[i] == g && !v->keep[i] && (best < 0 || v->score[i] >= v->score[best]))
            best = i;
    return best;
}

static float lost_with(const thinned *list, int i, float now)
{
    const thinned *t = &list[i];
    float next = t->behind >= 0 ? list[t->behind].at : now;
    float last = t->before >= 0 ? list[t->before].at : 0;
    return ic_thin_lost(next - last, t->faded, t->worth, t->rows);
}

static int list_groups(const eviction *v, thinned *list, float now, int *rows)
{
    int n = 0;
    double sum = 0;
    *rows = 0;
    for (int g = 0; g < v->group_count; g++) {
        int best = v->groups[g].passed ? -1 : best_row(v, g);
        if (best < 0)
            continue;
        int open = open_rows(v, &v->groups[g], g);
        int keep = open < v->plan->thin ? open : v->plan->thin;
        *rows += keep;
        sum += (double)(v->score[best] > 0 ? v->score[best] : 0);
        list[n] = (thinned){.group = g,
                            .rows = keep,
                            .at = (float)v->groups[g].id,
                            .score = v->score[best],
                            .before = n - 1,
                            .behind = n + 1};
        n++;
    }
    for (int i = 0; i < n; i++) {
        list[i].faded = ic_thin_fade(now - list[i].at, v->plan->fade);
        list[i].worth = ic_thin_worth(list[i].score, (float)(sum / n), v->plan->care);
    }
    if (n)
        list[n - 1].behind = -1;
    return n;
}

/* Takes the row of which least is lost from its group, the older of equals; the last one takes the
 * link out of the chain. */
static void give_up(thinned *list, int *head, float now)
{
    int least = -1;
    float lowest = 0;
    for (int i = *head; i >= 0; i = list[i].behind) {
        float lost = lost_with(list, i, now);
        if (least < 0 || lost < lowest) {
            least = i;
            lowest = lost;
        }
    }
    thinned *t = &list[least];
    if (--t->rows > 0)
        return;
    if (t->before >= 0)
        list[t->before].behind = t->behind;
    else
        *head = t->behind;
    if (t->behind >= 0)
        list[t->behind].before = t->before;
}

static void keep_thinned(eviction *v)
{
    thinned *list = v->thinned;
    int rows, head = 0, room = v->plan->budget - v->kept;
    float now = v->group_count ? (float)v->groups[v->group_count - 1].id + 1 : 0;
    if (list_groups(v, list, now, &rows) == 0)
        return;
    for (; rows > room && head >= 0; rows--)
        give_up(list, &head, now);
    for (int i = head; i >= 0; i = list[i].behind)
        for (int n = 0; n < list[i].rows; n++)
            keep_row(v, best_row(v, list[i].group));
}

/* --- cascades --- */

static void keep_cascades(eviction *v)
{
    int room = v->plan->budget - v->kept, n = v->plan->cascades, entered = 0;
    ic_cascade_part parts[IC_CASCADE_MOST];
    for (int g = 0; g < v->group_count; g++)
        room -= v->groups[g].patches && !v->groups[g].alive ? v->groups[g].markers : 0;
    room = room > 0 ? room : 0;
    ic_cascade_lay(parts, n, room, v->ranked);
    int fill = n - 1;
    for (int i = 0; i < v->count; i++) {
        if (!is_open(v, i))
            continue;
        while (fill > 0 && entered < room && parts[fill].count == parts[fill].size)
            fill--;
        if (entered++ < room)
            ic_cascade_push(&parts[fill], i);
        else
            ic_cascade_enter(parts, n, v->score, i, row_at(v, i)->ordinal);
    }
    for (int i = 0; i < n; i++)
        while (parts[i].count)
            keep_row(v, ic_cascade_pop(&parts[i]));
}

/* The newest, and by score; or the newest alone. */
static void keep_rest(eviction *v)
{
    const ic_plan *plan = v->plan;
    if (!plan->scored || plan->aged) {
        keep_newest(v, v->count, false);
        return;
    }
    keep_newest(v, plan->recent, true);
    if (plan->pool > 1)
        pool_scores(v);
    if (plan->bias > 0)
        add_bias(v);
    if (plan->whole)
        average_groups(v);
    keep_best(v);
}

static void choose(eviction *v)
{
    const ic_plan *plan = v->plan;
    v->kept = 0;
    see_groups(v);
    for (int i = 0; i < v->count; i++)
        if (row_at(v, i)->pinned)
            keep_row(v, i);
    keep_oldest(v, plan->sinks);
    if (plan->thin > 0) {
        read_scores(v);
        keep_text(v, plan->text);
        keep_whole_groups(v, plan->frames, plan->recent);
        keep_thinned(v);
        keep_rest(v);
    } else if (plan->cascades > 0) {
        read_scores(v);
        keep_cascades(v);
    } else if (plan->frames > 0) {
        keep_text(v, plan->text);
        keep_frames(v, plan->frames);
    } else {
        if (plan->scored)
            read_scores(v);
        keep_rest(v);
    }
    for (int i = 0; i < v->count; i++)
        if (is_bound(v, i))
            v->keep[i] = v->groups[v->group_of[i]].alive;
}

/* Frees what was not chosen; returns the number of rows that left. */
static int carry_out(ic_slab *s, const eviction *v)
{
    int32_t *order = s->order + (int64_t)v->head * s->desc.slots;
    ic_pos *positions = ic_slab_positions_of(s, v->head);
    int stay = 0;
    for (int i = 0; i < v->count; i++) {
        int slot = order[i];
        if (!v->keep[i]) {
            ic_slab_free_slot(s, v->head, slot);
            continue;
        }
        order[stay] = slot;
        positions[stay++] = positions[i];
    }
    s->counts[v->head] = stay;
    if (stay < v->count && !s->original)
        ic_slab_place(s, v->head);
    return v->count - stay;
}

static int make_room(eviction *v, bool scored)
{
    size_t room = (size_t)v->slab->desc.slots + IC_CASCADE_MOST;
    v->keep = ic_try_calloc(room, sizeof *v->keep);
    v->group_of = ic_try_calloc(room, sizeof *v->group_of);
    v->groups = ic_try_calloc(room, sizeof *v->groups);
    bool ok = v->keep && v->group_of && v->groups;
    if (scored) {
        v->score = ic_try_calloc(room, sizeof *v->score);
        v->room = ic_try_calloc(room, sizeof *v->room);
        v->ranked = ic_try_calloc(room, sizeof *v->ranked);
        v->spare = ic_try_calloc(room, sizeof *v->spare);
        ok = ok && v->score && v->room && v->ranked && v->spare;
    }
    if (v->plan->thin)
        v->thinned = ic_try_calloc(room, sizeof *v->thinned);
    return ok && (v->thinned || !v->plan->thin) ? 0 : IC_ENOMEM;
}

static void free_room(eviction *v)
{
    void *parts[] = {v->keep, v->group_of, v->groups, v->score,
                     v->room, v->ranked,   v->spare,  v->thinned};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        ic_free(parts[i]);
}

/* Plans by frames look even when all fits: the number of frames is a bound of its own. */
static bool is_due(const ic_plan *plan, int count)
{
    return count > plan->budget || (plan->frames > 0 && !plan->thin);
}

/* Heads of a layer that are to be decided together, and can be: their rows lie alike. */
static int count_together(const ic_slab *s, const ic_plan *plan, int head)
{
    int heads = s->desc.kv_heads;
    if (!(plan->scored || plan->cascades) || !plan->per_layer || head % heads)
        return 1;
    for (int h = head + 1; h < head + heads; h++)
        if (s->counts[h] != s->counts[head]
            || memcmp(ic_slab_order_of(s, head), ic_slab_order_of(s, h),
                      (size_t)s->counts[h] * sizeof(int32_t))
                   != 0)
            return 1;
    return heads;
}

static void evict_heads(ic_slab *s, eviction *v, ic_evicted *sum)
{
    choose(v);
    for (int g = 0; v->head == 0 && g < v->group_count; g++)
        sum->groups += v->groups[g].patches > 0 && !v->groups[g].alive;
    for (int h = 0; h < v->together; h++, v->head++) {
        int lost = carry_out(s, v);
        sum->rows += lost;
        sum->rows_max = lost > sum->rows_max ? lost : sum->rows_max;
    }
}

/* What ic_slab.h says a plan may not be. */
static bool is_sound(const ic_slab *s, const ic_plan *plan)
{
    bool scores = plan->scored || plan->cascades, alone = !plan->frames && !plan->thin;
    return plan->budget >= 0 && plan->sinks >= 0 && (!scores || s->scores) && plan->cascades >= 0
           && plan->cascades <= IC_CASCADE_MOST && (!plan->cascades || alone)
           && (!plan->thin || (plan->scored && !plan->whole));
}

/* In the host's tables. */
static int evict_here(ic_slab *s, const ic_plan *plan, ic_evicted *sum)
{
    eviction v = {.slab = s, .plan = plan};
    int rc = make_room(&v, plan->scored || plan->cascades);
    for (int head = 0; rc == 0 && head < s->heads; head += v.together) {
        v.head = head;
        v.count = s->counts[head];
        v.together = count_together(s, plan, head);
        if (is_due(plan, v.count))
            evict_heads(s, &v, sum);
    }
    free_room(&v);
    return rc;
}

void ic_slab_evict_each(ic_eviction *list, int n)
{
    for (int i = 0; i < n; i++) {
        ic_eviction *one = &list[i];
        IC_ASSERT(!one->slab->loading && is_sound(one->slab, &one->plan));
        IC_ASSERT(one->slab->device == list->slab->device);
        one->evicted = (ic_evicted){0};
        one->rc = one->slab->mirror ? 0 : evict_here(one->slab, &one->plan, &one->evicted);
    }
    if (n > 0 && list->slab->mirror)
        list->slab->device->backend->slab_evict_each(list, n);
}

int ic_slab_evict(ic_slab *s, const ic_plan *plan, ic_evicted *evicted)
{
    ic_eviction one = {.slab = s, .plan = *plan};
    ic_slab_evict_each(&one, 1);
    if (evicted)
        *evicted = one.evicted;
    return one.rc;
}
