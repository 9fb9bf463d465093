/* The media ledger (what was shown, when, which frames) and the media bytes that cannot be read
 * again. Stored bytes hang on a number of their own, so that sessions can share them. */
#include "session_store/ic_store_priv.h"

#include <string.h>

#include <xxhash.h>

static int64_t media_sum(const ic_store_media *m)
{
    uint64_t fps;
    memcpy(&fps, &m->fps, sizeof fps);
    const uint64_t fields[] = {
        (uint64_t)m->number,
        m->kind,
        m->state,
        (uint64_t)m->time_us,
        (uint64_t)m->bytes,
        (uint64_t)m->mtime_us,
        fps,
        (uint64_t)m->frames_seen,
        (uint64_t)m->frames_used,
        (uint64_t)m->frames_skipped,
        m->retain ? 1u : 0u,
        m->hash_bytes,
    };
    uint8_t head[sizeof fields];
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        for (int b = 0; b < 8; b++)
            head[8 * i + (size_t)b] = (uint8_t)(fields[i] >> 8 * b);
    uint64_t sum = XXH3_64bits(head, sizeof head);
    sum = XXH3_64bits_withSeed(m->hash, m->hash_bytes, sum);
    sum = XXH3_64bits_withSeed(m->name, strlen(m->name), sum);
    sum = XXH3_64bits_withSeed(m->notices, strlen(m->notices), sum);
    return (int64_t)XXH3_64bits_withSeed(m->times, m->times_bytes, sum);
}

static int check_entry(const ic_store_media *m, ic_error *e)
{
    if (m->hash_bytes > sizeof m->hash)
        return ic_error_set(e, IC_EINVAL, "a content hash of %u bytes is too long", m->hash_bytes);
    if (strlen(m->name) > 4096)
        return ic_error_set(e, IC_EINVAL, "a media name of %zu bytes is too long: at most 4096",
                            strlen(m->name));
    if (m->times_bytes > IC_STORE_RECORD_MAX || strlen(m->notices) > IC_STORE_RECORD_MAX)
        return ic_error_set(e, IC_ELIMIT,
                            "the timestamps or notices of %.80s are too long: at "
                            "most %d bytes",
                            m->name, IC_STORE_RECORD_MAX);
    return IC_OK;
}

static int write_entry(ic_store *s, enum ic_store_sql which, int64_t n, const ic_store_media *m,
                       ic_error *e)
{
    return ic_store_do(s, which, e, "iiiiitiibdiiiitbi", n, m->number, (int64_t)m->kind,
                       (int64_t)m->state, m->time_us, m->name, m->bytes, m->mtime_us, m->hash,
                       (size_t)m->hash_bytes, m->fps, m->frames_seen, m->frames_used,
                       m->frames_skipped, (int64_t)m->retain, m->notices, m->times, m->times_bytes,
                       media_sum(m));
}

int ic_store_media_put(ic_store *s, const char *id, const ic_store_media *media, int64_t *number,
                       ic_error *e)
{
    int64_t n, last;
    ic_store_media m = *media;
    m.name = m.name ? m.name : "";
    m.notices = m.notices ? m.notices : "";
    int rc = check_entry(&m, e);
    if (!rc)
        rc = ic_store_session_row(s, id, &n, e);
    if (rc)
        return rc;
    if (m.number != 0) {
        rc = write_entry(s, IC_SQL_MEDIA_SET, n, &m, e);
        if (!rc && sqlite3_changes(s->db) == 0)
            rc = ic_error_set(e, IC_ENOTFOUND, "session %s has no media entry %lld", id,
                              (long long)m.number);
    } else {
        rc = ic_store_get_int(s, IC_SQL_MEDIA_LAST, n, 0, &last, e);
        m.number = last + 1;
        if (!rc)
            rc = write_entry(s, IC_SQL_MEDIA_ADD, n, &m, e);
    }
    if (!rc && number)
        *number = m.number;
    return rc;
}

static int read_entry(const char *id, sqlite3_stmt *row, ic_store_media *m, ic_error *e)
{
    memset(m, 0, sizeof *m);
    m->number = sqlite3_column_int64(row, 0);
    m->kind = (uint32_t)sqlite3_column_int64(row, 1);
    m->state = (uint32_t)sqlite3_column_int64(row, 2);
    m->time_us = sqlite3_column_int64(row, 3);
    m->name = (const char *)sqlite3_column_text(row, 4);
    m->bytes = sqlite3_column_int64(row, 5);
    m->mtime_us = sqlite3_column_int64(row, 6);
    m->hash_bytes = (uint32_t)sqlite3_column_bytes(row, 7);
    m->fps = sqlite3_column_double(row, 8);
    m->frames_seen = sqlite3_column_int64(row, 9);
    m->frames_used = sqlite3_column_int64(row, 10);
    m->frames_skipped = sqlite3_column_int64(row, 11);
    m->retain = sqlite3_column_int64(row, 12) != 0;
    m->notices = (const char *)sqlite3_column_text(row, 13);
    m->times = sqlite3_column_blob(row, 14);
    m->times_bytes = (size_t)sqlite3_column_bytes(row, 14);
    m->stored_bytes = sqlite3_column_int64(row, 16);
    m->pieces = sqlite3_column_int64(row, 17);
    bool fits = m->hash_bytes <= sizeof m->hash && m->name && m->notices;
    if (fits && m->hash_bytes)
        memcpy(m->hash, sqlite3_column_blob(row, 7), m->hash_bytes);
    if (fits && sqlite3_column_int64(row, 15) == media_sum(m))
        return IC_OK;
    return ic_error_set(e, IC_EFORMAT, "session %s: media entry %lld is damaged", id,
                        (long long)m->number);
}

int ic_store_media_list(ic_store *s, const char *id, int64_t from, ic_store_media_fn *fn, void *arg,
                        ic_error *e)
{
    int64_t n;
    ic_store_media media;
    int rc = ic_store_session_row(s, id, &n, e);
    if (rc)
        return rc;
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_MEDIA_LIST, e, "ii", n, from);
    while ((rc = ic_store_step(s, row, e)) == 1) {
        rc = read_entry(id, row, &media, e);
        if (!rc)
            rc = fn(arg, &media);
        if (rc) {
            ic_store_done(row);
            return rc < 0 ? rc : IC_OK;
        }
    }
    return rc;
}

/* The number under which an entry's bytes are held, 0: none. IC_ENOTFOUND: no such entry. */
static int find_held(ic_store *s, const char *id, int64_t media, int64_t *n, int64_t *held,
                     ic_error *e)
{
    int rc = ic_store_session_row(s, id, n, e);
    if (rc)
        return rc;
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_MEDIA_HELD, e, "ii", *n, media);
    rc = ic_store_step(s, row, e);
    if (rc == 1) {
        *held = sqlite3_column_int64(row, 0);
        rc = sqlite3_column_int(row, 1)
                 ? IC_OK
                 : ic_error_set(e, IC_EFORMAT, "session %s: media entry %lld is damaged", id,
                                (long long)media);
        ic_store_done(row);
        return rc;
    }
    return rc ? rc
              : ic_error_set(e, IC_ENOTFOUND, "session %s has no media entry %lld", id,
                             (long long)media);
}

static int append_piece(ic_store *s, const char *id, int64_t media, const void *bytes, size_t size,
                        ic_error *e)
{
    int64_t n = 0, held = 0, count = 0;
    uint8_t sum[IC_STORE_KEY_BYTES];
    int rc = find_held(s, id, media, &n, &held, e);
    if (!rc && held == 0) {
        rc = ic_store_do(s, IC_SQL_HELD_ADD, e, "i", (int64_t)0);
        held = sqlite3_last_insert_rowid(s->db);
        if (!rc)
            rc = ic_store_do(s, IC_SQL_MEDIA_SET_HELD, e, "iii", n, media, held);
    }
    if (!rc)
        rc = ic_store_get_int(s, IC_SQL_PIECE_COUNT, held, 0, &count, e);
    if (rc)
        return rc;
    ic_store_hash(bytes, size, sum);
    return ic_store_do(s, IC_SQL_PIECE_ADD, e, "iiibb", held, count, (int64_t)size, sum, sizeof sum,
                       bytes, size);
}

int ic_store_media_append(ic_store *s, const char *id, int64_t media, const void *bytes,
                          size_t size, ic_error *e)
{
    if (size == 0 || size > IC_STORE_SEGMENT_MAX)
        return ic_error_set(e, IC_ELIMIT, "a media piece of %zu bytes: 1 to %d are allowed", size,
                            IC_STORE_SEGMENT_MAX);
    int rc = ic_store_begin(s, e);
    if (rc)
        return rc;
    rc = append_piece(s, id, media, bytes, size, e);
    return ic_store_end(s, rc, e);
}

int ic_store_media_read(ic_store *s, const char *id, int64_t media, int64_t piece, ic_buf *out,
                        ic_error *e)
{
    int64_t n, held = 0;
    uint8_t sum[IC_STORE_KEY_BYTES];
    int rc = find_held(s, id, media, &n, &held, e);
    if (rc)
        return rc;
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_PIECE_READ, e, "ii", held, piece);
    rc = ic_store_step(s, row, e);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ic_error_set(e, IC_ENOTFOUND, "session %s: media entry %lld has no piece %lld", id,
                            (long long)media, (long long)piece);
    const void *bytes = sqlite3_column_blob(row, 2);
    size_t size = (size_t)sqlite3_column_bytes(row, 2);
    ic_store_hash(bytes, size, sum);
    if (sqlite3_column_int64(row, 0) != (int64_t)size || sqlite3_column_bytes(row, 1) != sizeof sum
        || memcmp(sum, sqlite3_column_blob(row, 1), sizeof sum) != 0) {
        rc = ic_error_set(e, IC_EFORMAT, "session %s: piece %lld of media entry %lld is damaged",
                          id, (long long)piece, (long long)media);
    } else {
        rc = ic_buf_append(out, bytes, size);
        if (rc)
            ic_error_set(e, rc, "store: no room for a media piece of %zu bytes", size);
    }
    ic_store_done(row);
    return rc;
}

int ic_store_media_release(ic_store *s, int64_t held, ic_error *e)
{
    int64_t uses;
    int rc = held ? ic_store_get_int(s, IC_SQL_HELD_USES, held, 0, &uses, e) : IC_OK;
    if (rc || held == 0 || uses > 0)
        return rc;
    rc = ic_store_do(s, IC_SQL_PIECE_DELETE, e, "i", held);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_HELD_DELETE, e, "i", held);
    s->shrink_wanted = s->shrink_wanted || rc == IC_OK;
    return rc;
}

int ic_store_media_drop(ic_store *s, const char *id, int64_t media, ic_error *e)
{
    int64_t n, held = 0;
    int rc = ic_store_begin(s, e);
    if (rc)
        return rc;
    rc = find_held(s, id, media, &n, &held, e);
    if (!rc && held) {
        rc = ic_store_do(s, IC_SQL_MEDIA_SET_HELD, e, "iiB", n, media, NULL, (size_t)0);
        if (!rc)
            rc = ic_store_media_release(s, held, e);
    }
    return ic_store_end(s, rc, e);
}
