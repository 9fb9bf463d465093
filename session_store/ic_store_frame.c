/* Frames: records of the journal whose bulk has a life of its own. They lie in reels, clustered by
 * (reel, number); a session's list of reels (reel_use) says which numbers of which reel are its
 * own, whose source they show and how long their bulk is wanted. A copy of a session copies that
 * list. The newest reel is open, to its session alone: it is closed before anything shares it, so
 * all that use a reel use all of it. */
#include "session_store/ic_store_priv.h"

#include <string.h>

#include <xxhash.h>

#include "base/ic_failpoint.h"

static void put_u64(uint8_t *at, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        at[i] = (uint8_t)(v >> 8 * i);
}

/* Over all but the bulk itself, so that it holds without it. */
static int64_t frame_sum(int64_t reel, const ic_store_frame *f, int64_t bulk_sum)
{
    const uint64_t fields[] = {(uint64_t)reel, (uint64_t)f->number, (uint64_t)f->time_us,
                               f->kind,        f->bulk_bytes,       (uint64_t)bulk_sum};
    uint8_t fixed[sizeof fields];
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        put_u64(fixed + 8 * i, fields[i]);
    return (int64_t)XXH3_64bits_withSeed(f->head, f->head_bytes, XXH3_64bits(fixed, sizeof fixed));
}

/* ---- writing ----------------------------------------------------------------------------------
 */

typedef struct reel_use {
    int64_t first, last, reel, media, hold;
} reel_use;

/* The newest reel, if any. A damaged one counts for none: reading says so, and the session goes on
 * in the next. */
static int read_newest(ic_store *s, int64_t n, reel_use *u, ic_error *e)
{
    *u = (reel_use){.first = 0};
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_USE_NEWEST, e, "i", n);
    int rc = ic_store_step(s, row, e);
    if (rc != 1)
        return rc;
    *u = (reel_use){.first = sqlite3_column_int64(row, 0),
                    .last = sqlite3_column_int64(row, 1),
                    .reel = sqlite3_column_int64(row, 2),
                    .media = sqlite3_column_int64(row, 3),
                    .hold = sqlite3_column_int64(row, 4)};
    if (sqlite3_column_int(row, 5) == 0)
        *u = (reel_use){.first = 0};
    ic_store_done(row);
    return IC_OK;
}

typedef struct measure {
    int64_t last, bytes, frames;
} measure;

static int measure_reel(ic_store *s, int64_t reel, measure *m, ic_error *e)
{
    *m = (measure){.last = 0};
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_REEL_MEASURE, e, "i", reel);
    int rc = ic_store_step(s, row, e);
    if (rc != 1)
        return rc;
    *m = (measure){.last = sqlite3_column_int64(row, 0),
                   .bytes = sqlite3_column_int64(row, 1),
                   .frames = sqlite3_column_int64(row, 2)};
    ic_store_done(row);
    return IC_OK;
}

static int close_reel(ic_store *s, int64_t n, const reel_use *u, const measure *m, ic_error *e)
{
    int64_t last = m->last > u->first ? m->last : u->first;
    return ic_store_do(s, IC_SQL_USE_CLOSE, e, "iiii", n, u->first, last, m->bytes);
}

/* Whether the newest reel takes this frame. Its size is an estimate: what lies between two frames
 * of one source is small, and they are as large as one another. */
static bool fits(const reel_use *u, int64_t number, const ic_store_frame *f)
{
    int64_t records = number - u->first;
    return u->reel && u->last == INT64_MAX && u->media == f->media && u->hold == (int64_t)f->hold
           && records < IC_STORE_REEL_RECORDS
           && records * (int64_t)f->bulk_bytes < IC_STORE_REEL_BYTES;
}

static int next_reel(ic_store *s, int64_t *reel, ic_error *e)
{
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_REEL_NEXT, e, "");
    int rc = ic_store_step(s, row, e);
    if (rc != 1)
        return rc;
    *reel = sqlite3_column_int64(row, 0);
    ic_store_done(row);
    return IC_OK;
}

/* The reel that the frame goes into. */
static int find_reel(ic_store *s, int64_t n, const ic_store_frame *f, int64_t *reel, ic_error *e)
{
    reel_use u;
    measure m;
    int rc = read_newest(s, n, &u, e);
    *reel = u.reel;
    if (rc || fits(&u, f->number, f))
        return rc;
    if (u.reel && u.last == INT64_MAX) {
        rc = measure_reel(s, u.reel, &m, e);
        if (!rc)
            rc = close_reel(s, n, &u, &m, e);
    }
    if (!rc)
        rc = next_reel(s, reel, e);
    return rc ? rc
              : ic_store_do(s, IC_SQL_USE_ADD, e, "iiiii", n, f->number, *reel, f->media,
                            (int64_t)f->hold);
}

static int add_frame(ic_store *s, int64_t n, const ic_store_frame *f, ic_error *e)
{
    int64_t reel = 0;
    int rc = find_reel(s, n, f, &reel, e);
    if (rc)
        return rc;
    int64_t bulk_sum = f->bulk ? (int64_t)XXH3_64bits(f->bulk, f->bulk_bytes) : 0;
    return ic_store_do(s, IC_SQL_FRAME_ADD, e, "iiiiibiiB", reel, f->number, (int64_t)f->kind,
                       f->time_us, frame_sum(reel, f, bulk_sum), f->head, f->head_bytes,
                       (int64_t)f->bulk_bytes, bulk_sum, f->bulk, f->bulk ? f->bulk_bytes : 0);
}

static int check_sizes(const ic_store_frame *f, ic_error *e)
{
    if (f->head_bytes > IC_STORE_FRAME_HEAD_MAX || f->bulk_bytes > IC_STORE_RECORD_MAX)
        return ic_error_set(e, IC_ELIMIT, "a frame of %zu + %zu bytes is too large: at most %d, %d",
                            f->head_bytes, f->bulk_bytes, IC_STORE_FRAME_HEAD_MAX,
                            IC_STORE_RECORD_MAX);
    return IC_OK;
}

int ic_store_frame_append(ic_store *s, const char *id, const ic_store_frame *frame, int64_t *number,
                          ic_error *e)
{
    int64_t n, base, last;
    ic_store_frame f = *frame;
    f.bulk = f.bulk ? f.bulk : "";
    int rc = check_sizes(&f, e);
    if (!rc && f.hold != IC_STORE_HOLD_REPLAY && f.hold != IC_STORE_HOLD_KEEP)
        rc = ic_error_set(e, IC_EINVAL, "a frame is held for a replay, or kept");
    if (rc)
        return rc;
    ic_failpoint(IC_FAIL_journal_before);
    rc = ic_store_begin(s, e);
    if (rc)
        return rc;
    rc = ic_store_journal_end(s, id, &n, &base, &last, e);
    f.number = last + 1;
    if (!rc)
        rc = add_frame(s, n, &f, e);
    rc = ic_store_end(s, rc, e);
    ic_failpoint(IC_FAIL_journal_after);
    if (!rc && number)
        *number = f.number;
    return rc;
}

int ic_store_frame_put(ic_store *s, const char *id, const ic_store_frame *frame, ic_error *e)
{
    int64_t n, base, last;
    reel_use u;
    measure m = {.last = 0};
    int rc = check_sizes(frame, e);
    if (!rc)
        rc = ic_store_journal_end(s, id, &n, &base, &last, e);
    if (!rc)
        rc = read_newest(s, n, &u, e);
    if (!rc && u.reel)
        rc = measure_reel(s, u.reel, &m, e);
    if (rc)
        return rc;
    bool covered = frame->number <= base;
    if (covered ? frame->number <= m.last : frame->number != last + 1 || !frame->bulk)
        return ic_error_set(e, IC_EFORMAT, "the file is damaged: frame %lld stands where it cannot",
                            (long long)frame->number);
    return add_frame(s, n, frame, e);
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static int damaged(const char *id, const ic_store_frame *f, const char *what, ic_error *e)
{
    return ic_error_set(e, IC_EFORMAT, "session %s: %s %lld is damaged", id, what,
                        (long long)f->number);
}

int ic_store_frame_row(const char *id, sqlite3_stmt *row, ic_store_frame *frame, ic_error *e)
{
    ic_store_frame f = {.number = sqlite3_column_int64(row, 0),
                        .kind = (uint32_t)sqlite3_column_int64(row, 1),
                        .time_us = sqlite3_column_int64(row, 2),
                        .head = sqlite3_column_blob(row, 4),
                        .head_bytes = (size_t)sqlite3_column_bytes(row, 4),
                        .bulk_bytes = (size_t)sqlite3_column_int64(row, 5),
                        .media = sqlite3_column_int64(row, 9),
                        .hold = (ic_store_hold)sqlite3_column_int64(row, 10)};
    int64_t reel = sqlite3_column_int64(row, 8), bulk_sum = sqlite3_column_int64(row, 6);
    bool there = sqlite3_column_type(row, 7) != SQLITE_NULL;
    size_t size = (size_t)sqlite3_column_bytes(row, 7);
    const void *bulk = sqlite3_column_blob(row, 7);
    *frame = (ic_store_frame){.number = f.number, .media = f.media, .damaged = true};
    if (sqlite3_column_int(row, 11) == 0)
        return damaged(id, &f, "its list of frames at", e);
    if (sqlite3_column_int64(row, 3) != frame_sum(reel, &f, bulk_sum))
        return damaged(id, &f, "frame", e);
    if (f.hold != IC_STORE_HOLD_NONE) {
        f.bulk = size ? bulk : "";
        if (!there || size != f.bulk_bytes || (int64_t)XXH3_64bits(f.bulk, size) != bulk_sum)
            return damaged(id, &f, "frame", e);
    }
    *frame = f;
    return IC_OK;
}

int ic_store_frame_read(ic_store *s, const char *id, int64_t from, ic_store_frame_fn *fn, void *arg,
                        ic_error *e)
{
    int64_t n;
    ic_store_frame frame;
    int rc = ic_store_session_row(s, id, &n, e);
    if (rc)
        return rc;
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_FRAME_READ, e, "ii", n, from);
    while ((rc = ic_store_step(s, row, e)) == 1) {
        ic_store_frame_row(id, row, &frame, NULL); /* says it in the frame */
        rc = fn(arg, &frame);
        if (rc) {
            ic_store_done(row);
            return rc < 0 ? rc : IC_OK;
        }
    }
    return rc;
}

int ic_store_frame_check(ic_store *s, const char *id, ic_error *e)
{
    int64_t n;
    ic_store_frame frame;
    int rc = ic_store_session_row(s, id, &n, e);
    if (rc)
        return rc;
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_FRAME_READ, e, "ii", n, (int64_t)0);
    while ((rc = ic_store_step(s, row, e)) == 1) {
        rc = ic_store_frame_row(id, row, &frame, e);
        if (rc) {
            ic_store_done(row);
            return rc;
        }
    }
    return rc;
}

/* ---- letting go -------------------------------------------------------------------------------
 */

/* A reel without users goes; one whose bulk nobody wants any more keeps its records alone. */
static int release_reel(ic_store *s, int64_t reel, ic_error *e)
{
    int64_t uses, holds;
    int rc = ic_store_get_int(s, IC_SQL_REEL_USES, reel, 0, &uses, e);
    if (!rc)
        rc = ic_store_get_int(s, IC_SQL_REEL_HOLDS, reel, 0, &holds, e);
    if (rc || holds)
        return rc;
    s->shrink_wanted = true;
    return ic_store_do(s, uses ? IC_SQL_REEL_EMPTY : IC_SQL_REEL_DELETE, e, "i", reel);
}

static int let_go(ic_store *s, int64_t n, int64_t first, int64_t reel, ic_error *e)
{
    int rc = ic_store_do(s, IC_SQL_USE_LET_GO, e, "ii", n, first);
    return rc ? rc : release_reel(s, reel, e);
}

/* Rows of (number, number, ...) that are to be changed while they would be read: read first. */
static int gather(ic_store *s, sqlite3_stmt *row, int columns, ic_buf *out, ic_error *e)
{
    int rc;
    while ((rc = ic_store_step(s, row, e)) == 1) {
        for (int i = 0; i < columns; i++)
            ic_buf_u64(out, (uint64_t)sqlite3_column_int64(row, i));
        if (out->status) {
            ic_store_done(row);
            return ic_error_set(e, out->status, "store: no memory for a list of numbers");
        }
    }
    return rc;
}

int ic_store_frame_close(ic_store *s, int64_t n, ic_error *e)
{
    reel_use u;
    measure m;
    int rc = read_newest(s, n, &u, e);
    if (rc || !u.reel || u.last != INT64_MAX)
        return rc;
    rc = measure_reel(s, u.reel, &m, e);
    return rc ? rc : close_reel(s, n, &u, &m, e);
}

static int trim_covered(ic_store *s, int64_t n, int64_t seq, ic_error *e)
{
    ic_buf list;
    ic_cursor c;
    ic_buf_init(&list, 0);
    int rc = gather(s, ic_store_query(s, IC_SQL_USE_COVERED, e, "ii", n, seq), 2, &list, e);
    ic_cursor_init(&c, list.data, list.size);
    while (!rc && ic_cursor_left(&c) > 0) {
        int64_t first = (int64_t)ic_cursor_u64(&c);
        rc = let_go(s, n, first, (int64_t)ic_cursor_u64(&c), e);
    }
    ic_buf_fini(&list);
    return rc;
}

int ic_store_frame_trim(ic_store *s, int64_t n, int64_t seq, ic_error *e)
{
    reel_use u;
    measure m;
    int rc = read_newest(s, n, &u, e);
    if (!rc && u.reel && u.last == INT64_MAX) {
        rc = measure_reel(s, u.reel, &m, e);
        if (!rc && m.last <= seq)
            rc = close_reel(s, n, &u, &m, e);
    }
    return rc ? rc : trim_covered(s, n, seq, e);
}

/* Of so many reels nobody wants even the records: the oldest go for good. */
static int forget_oldest(ic_store *s, int64_t n, ic_error *e)
{
    int64_t count;
    ic_buf list;
    ic_cursor c;
    int rc = ic_store_get_int(s, IC_SQL_USE_COUNT, n, 0, &count, e);
    if (rc || count <= IC_STORE_REELS)
        return rc;
    ic_buf_init(&list, 0);
    rc = gather(s, ic_store_query(s, IC_SQL_USE_OLDEST, e, "i", n), 2, &list, e);
    ic_cursor_init(&c, list.data, list.size);
    for (; !rc && count > IC_STORE_REELS && ic_cursor_left(&c) > 0; count--) {
        rc = ic_store_do(s, IC_SQL_USE_REMOVE, e, "ii", n, (int64_t)ic_cursor_u64(&c));
        if (!rc)
            rc = release_reel(s, (int64_t)ic_cursor_u64(&c), e);
    }
    ic_buf_fini(&list);
    return rc;
}

typedef struct held_reel {
    int64_t first, reel, bytes, last;
} held_reel;

static held_reel next_held(ic_cursor *c)
{
    held_reel h;
    h.first = (int64_t)ic_cursor_u64(c);
    h.reel = (int64_t)ic_cursor_u64(c);
    h.bytes = (int64_t)ic_cursor_u64(c);
    h.last = (int64_t)ic_cursor_u64(c);
    return h;
}

static int drop_held(ic_store *s, int64_t n, const held_reel *h, ic_store_dropped *dropped,
                     ic_error *e)
{
    measure m;
    int rc = measure_reel(s, h->reel, &m, e);
    if (!rc)
        rc = let_go(s, n, h->first, h->reel, e);
    dropped->frames += m.frames;
    dropped->bytes += h->bytes;
    return rc;
}

static int limit(ic_store *s, const char *id, int64_t max_bytes, ic_store_dropped *dropped,
                 ic_error *e)
{
    int64_t n, base, last, total = 0;
    ic_buf list;
    ic_cursor c;
    ic_buf_init(&list, 0);
    int rc = ic_store_journal_end(s, id, &n, &base, &last, e);
    if (!rc)
        rc = gather(s, ic_store_query(s, IC_SQL_USE_HELD, e, "i", n), 4, &list, e);
    ic_cursor_init(&c, list.data, list.size);
    while (!rc && ic_cursor_left(&c) > 0)
        total += next_held(&c).bytes;
    ic_cursor_init(&c, list.data, list.size);
    while (!rc && total > max_bytes && ic_cursor_left(&c) > 0) {
        held_reel h = next_held(&c);
        if (h.last > base)
            break;
        rc = drop_held(s, n, &h, dropped, e);
        total -= h.bytes;
    }
    ic_buf_fini(&list);
    return rc ? rc : forget_oldest(s, n, e);
}

int ic_store_frame_limit(ic_store *s, const char *id, int64_t max_bytes, ic_store_dropped *dropped,
                         ic_error *e)
{
    *dropped = (ic_store_dropped){.frames = 0};
    int rc = ic_store_begin(s, e);
    if (rc)
        return rc;
    rc = limit(s, id, max_bytes, dropped, e);
    return ic_store_end(s, rc, e);
}

int ic_store_frame_delete(ic_store *s, int64_t n, ic_error *e)
{
    ic_buf list;
    ic_cursor c;
    ic_buf_init(&list, 0);
    int rc = gather(s, ic_store_query(s, IC_SQL_USE_REELS, e, "i", n), 1, &list, e);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_USE_DELETE, e, "i", n);
    ic_cursor_init(&c, list.data, list.size);
    while (!rc && ic_cursor_left(&c) > 0)
        rc = release_reel(s, (int64_t)ic_cursor_u64(&c), e);
    ic_buf_fini(&list);
    return rc;
}
