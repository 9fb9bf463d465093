/* The two numbered logs of a session: the replay journal and the events. Both are clustered by
 * (session, number), so that an append writes one page; the journal's frames lie apart
 * (ic_store_frame.c) and are read in between. a base in the session's row keeps numbers
 * rising when every record has been trimmed. Each record's checksum covers where it stands. */
#include "session_store/ic_store_priv.h"

#include <string.h>

#include <xxhash.h>

#include "base/ic_failpoint.h"

/* What differs between the two. */
struct log_kind {
    const char *name;
    enum ic_store_sql base, last, add, read;
    bool keyed;
};
static const struct log_kind journal = {"journal record",    IC_SQL_JOURNAL_BASE,
                                        IC_SQL_JOURNAL_LAST, IC_SQL_JOURNAL_ADD,
                                        IC_SQL_JOURNAL_READ, true};
static const struct log_kind events = {"event",          IC_SQL_EVENT_BASE, IC_SQL_EVENT_LAST,
                                       IC_SQL_EVENT_ADD, IC_SQL_EVENT_READ, false};

/* Over number, kind, time, key and payload. The session's row number is left out, so that a log
 * can be copied into another session as it is. */
static int64_t record_sum(const ic_store_record *r)
{
    uint8_t head[8 + 8 + 4 + IC_STORE_KEY_BYTES] = {0};
    uint64_t number = (uint64_t)r->number, time = (uint64_t)r->time_us;
    for (int i = 0; i < 8; i++) {
        head[i] = (uint8_t)(number >> 8 * i);
        head[8 + i] = (uint8_t)(time >> 8 * i);
    }
    for (int i = 0; i < 4; i++)
        head[16 + i] = (uint8_t)(r->kind >> 8 * i);
    if (r->key)
        memcpy(head + 20, r->key, IC_STORE_KEY_BYTES);
    uint64_t seed = XXH3_64bits_withSeed(head, sizeof head, r->key != NULL);
    return (int64_t)XXH3_64bits_withSeed(r->bytes, r->size, seed);
}

/* The session's row number and the number of the last record trimmed from one of its logs. */
static int find_log(ic_store *s, const struct log_kind *log, const char *id, int64_t *n,
                    int64_t *base, ic_error *e)
{
    sqlite3_stmt *row = ic_store_query(s, log->base, e, "t", id);
    int rc = ic_store_step(s, row, e);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ic_error_set(e, IC_ENOTFOUND, "there is no session %.40s", id);
    *n = sqlite3_column_int64(row, 0);
    *base = sqlite3_column_int64(row, 1);
    rc = sqlite3_column_int(row, 2) ? IC_OK : ic_store_session_damaged(id, e);
    ic_store_done(row);
    return rc;
}

int ic_store_journal_end(ic_store *s, const char *id, int64_t *n, int64_t *base, int64_t *last,
                         ic_error *e)
{
    int rc = find_log(s, &journal, id, n, base, e);
    if (!rc)
        rc = ic_store_get_int(s, journal.last, *n, 0, last, e);
    if (!rc && *last < *base)
        *last = *base;
    return rc;
}

static int append(ic_store *s, const struct log_kind *log, const char *id, ic_store_record *r,
                  int64_t *number, ic_error *e)
{
    int64_t n = 0, base = 0, last = 0;
    if (r->size > IC_STORE_RECORD_MAX)
        return ic_error_set(e, IC_ELIMIT, "a %s of %zu bytes is too large: at most %d", log->name,
                            r->size, IC_STORE_RECORD_MAX);
    int rc = find_log(s, log, id, &n, &base, e);
    if (!rc)
        rc = ic_store_get_int(s, log->last, n, 0, &last, e);
    if (rc)
        return rc;
    r->number = (last > base ? last : base) + 1;
    int64_t sum = record_sum(r);
    if (log->keyed)
        rc = ic_store_do(s, log->add, e, "iiiiBib", n, r->number, (int64_t)r->kind, r->time_us,
                         r->key, (size_t)IC_STORE_KEY_BYTES, sum, r->bytes, r->size);
    else
        rc = ic_store_do(s, log->add, e, "iiiiib", n, r->number, (int64_t)r->kind, r->time_us, sum,
                         r->bytes, r->size);
    if (!rc && number)
        *number = r->number;
    return rc;
}

static int check_record(const struct log_kind *log, const char *id, sqlite3_stmt *row,
                        ic_store_record *r, ic_error *e)
{
    memset(r, 0, sizeof *r);
    r->number = sqlite3_column_int64(row, 0);
    r->kind = (uint32_t)sqlite3_column_int64(row, 1);
    r->time_us = sqlite3_column_int64(row, 2);
    r->bytes = sqlite3_column_blob(row, 3);
    r->size = (size_t)sqlite3_column_bytes(row, 3);
    if (log->keyed && sqlite3_column_bytes(row, 5) == IC_STORE_KEY_BYTES)
        r->key = sqlite3_column_blob(row, 5);
    if (sqlite3_column_int64(row, 4) != record_sum(r))
        return ic_error_set(e, IC_EFORMAT, "session %s: %s %lld is damaged", id, log->name,
                            (long long)r->number);
    return IC_OK;
}

/* A frame as a record: before a checkpoint covers it, it has its bulk. */
static int check_frame(const char *id, sqlite3_stmt *row, ic_store_record *r, ic_error *e)
{
    ic_store_frame f;
    memset(r, 0, sizeof *r);
    int rc = ic_store_frame_row(id, row, &f, e);
    if (!rc && !f.bulk)
        rc = ic_error_set(e, IC_EFORMAT, "session %s: frame %lld is damaged: its bytes are gone",
                          id, (long long)f.number);
    r->number = f.number;
    r->kind = f.kind;
    r->time_us = f.time_us;
    r->bytes = f.head;
    r->size = f.head_bytes;
    r->bulk = f.bulk;
    r->bulk_size = f.bulk_bytes;
    return rc;
}

/* A log that is being read: rows of its own, and of the journal the frames, by number. */
typedef struct merge {
    const struct log_kind *log;
    const char *id;
    sqlite3_stmt *rows[2];
    int at[2]; /* 1: a row stands there; 0: no more */
} merge;

static int begin_merge(ic_store *s, merge *m, int64_t n, int64_t from, ic_error *e)
{
    m->rows[0] = ic_store_query(s, m->log->read, e, "ii", n, from);
    m->at[0] = ic_store_step(s, m->rows[0], e);
    if (m->at[0] < 0 || !m->log->keyed)
        return m->at[0] < 0 ? m->at[0] : IC_OK;
    m->rows[1] = ic_store_query(s, IC_SQL_FRAME_READ, e, "ii", n, from);
    m->at[1] = ic_store_step(s, m->rows[1], e);
    return m->at[1] < 0 ? m->at[1] : IC_OK;
}

static void end_merge(merge *m)
{
    for (int i = 0; i < 2; i++)
        if (m->at[i] == 1)
            ic_store_done(m->rows[i]);
}

/* 1: *r is the next record, of rows[*which]; 0: none. */
static int next_record(merge *m, int64_t expected, ic_store_record *r, int *which, ic_error *e)
{
    bool frame = m->at[1] == 1
                 && (m->at[0] != 1
                     || sqlite3_column_int64(m->rows[1], 0) < sqlite3_column_int64(m->rows[0], 0));
    *which = frame;
    if (!frame && m->at[0] != 1)
        return 0;
    int64_t number = sqlite3_column_int64(m->rows[*which], 0);
    if (number != expected)
        return ic_error_set(e, IC_EFORMAT, "session %s: %s %lld is missing", m->id, m->log->name,
                            (long long)expected);
    int rc = frame ? check_frame(m->id, m->rows[1], r, e)
                   : check_record(m->log, m->id, m->rows[0], r, e);
    return rc ? rc : 1;
}

static int read_merge(ic_store *s, merge *m, int64_t expected, ic_store_record_fn *fn, void *arg,
                      ic_error *e)
{
    ic_store_record record;
    int which, rc;
    while ((rc = next_record(m, expected++, &record, &which, e)) == 1) {
        rc = fn(arg, &record);
        if (rc)
            return rc < 0 ? rc : IC_OK;
        m->at[which] = ic_store_step(s, m->rows[which], e);
        if (m->at[which] < 0)
            return m->at[which];
    }
    return rc;
}

static int read_log(ic_store *s, const struct log_kind *log, const char *id, int64_t from,
                    ic_store_record_fn *fn, void *arg, ic_error *e)
{
    int64_t n, base;
    int rc = find_log(s, log, id, &n, &base, e);
    if (rc)
        return rc;
    if (from < 0 || (from > 0 && from <= base))
        return ic_error_set(e, IC_ENOTFOUND,
                            "session %s: %s %lld is kept no more; the first is "
                            "%lld",
                            id, log->name, (long long)from, (long long)base + 1);
    merge m = {.log = log, .id = id};
    int64_t first = from ? from : base + 1;
    rc = begin_merge(s, &m, n, first, e);
    if (!rc)
        rc = read_merge(s, &m, first, fn, arg, e);
    end_merge(&m);
    return rc;
}

int ic_store_journal_append(ic_store *s, const char *id, uint32_t kind, int64_t time_us,
                            const uint8_t *key, const void *bytes, size_t size, int64_t *number,
                            ic_error *e)
{
    ic_store_record r = {
        .kind = kind, .time_us = time_us, .key = key, .bytes = bytes, .size = size};
    ic_failpoint(IC_FAIL_journal_before);
    int rc = append(s, &journal, id, &r, number, e);
    ic_failpoint(IC_FAIL_journal_after);
    return rc;
}

int ic_store_journal_read(ic_store *s, const char *id, int64_t from, ic_store_record_fn *fn,
                          void *arg, ic_error *e)
{
    return read_log(s, &journal, id, from, fn, arg, e);
}

int ic_store_event_append(ic_store *s, const char *id, uint32_t kind, int64_t time_us,
                          const void *bytes, size_t size, int64_t *number, ic_error *e)
{
    ic_store_record r = {.kind = kind, .time_us = time_us, .bytes = bytes, .size = size};
    return append(s, &events, id, &r, number, e);
}

int ic_store_event_read(ic_store *s, const char *id, int64_t from, ic_store_record_fn *fn,
                        void *arg, ic_error *e)
{
    return read_log(s, &events, id, from, fn, arg, e);
}

/* The number up to which events may go: old enough, and needed to get below max_bytes. */
static int find_cut(ic_store *s, int64_t n, int64_t max_bytes, int64_t before_us, int64_t *cut,
                    int64_t *count, ic_error *e)
{
    int64_t held;
    *cut = *count = 0;
    int rc = ic_store_get_int(s, IC_SQL_EVENT_BYTES, n, 0, &held, e);
    if (rc || held <= max_bytes)
        return rc;
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_EVENT_SIZES, e, "i", n);
    while ((rc = ic_store_step(s, row, e)) == 1) {
        if (held <= max_bytes || sqlite3_column_int64(row, 2) >= before_us) {
            ic_store_done(row);
            return IC_OK;
        }
        *cut = sqlite3_column_int64(row, 0);
        held -= sqlite3_column_int64(row, 1);
        ++*count;
    }
    return rc;
}

int ic_store_event_trim(ic_store *s, const char *id, int64_t max_bytes, int64_t before_us,
                        int64_t *dropped, ic_error *e)
{
    int64_t n, base, cut = 0, count = 0;
    int rc = find_log(s, &events, id, &n, &base, e);
    if (!rc)
        rc = find_cut(s, n, max_bytes, before_us, &cut, &count, e);
    if (!rc && count > 0) {
        rc = ic_store_begin(s, e);
        if (rc)
            return rc;
        rc = ic_store_do(s, IC_SQL_EVENT_TRIM, e, "ii", n, cut);
        if (!rc)
            rc = ic_store_do(s, IC_SQL_EVENT_SET_BASE, e, "ii", n, cut);
        rc = ic_store_end(s, rc, e);
    }
    if (!rc && dropped)
        *dropped = count;
    return rc;
}
