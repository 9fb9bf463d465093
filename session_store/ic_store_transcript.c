/* What people read again: the turns of a conversation. */
#include "session_store/ic_store_priv.h"

#include <string.h>

#include <xxhash.h>

#include "base/ic_mem.h"

/* Over every field. The numbers are hashed as little-endian 64-bit words. */
static int64_t turn_sum(const ic_store_turn *t)
{
    const int64_t fields[] = {t->number,
                              (int64_t)t->role,
                              t->time_us,
                              t->took_us,
                              t->tokens,
                              t->media,
                              (int64_t)t->parts_version,
                              (int64_t)t->text_bytes};
    uint8_t head[sizeof fields];
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        for (int b = 0; b < 8; b++)
            head[8 * i + (size_t)b] = (uint8_t)((uint64_t)fields[i] >> 8 * b);
    uint64_t sum = XXH3_64bits(head, sizeof head);
    sum = XXH3_64bits_withSeed(t->text, t->text_bytes, sum);
    return (int64_t)XXH3_64bits_withSeed(t->parts, t->parts_bytes, sum);
}

int ic_store_turn_append(ic_store *s, const char *id, const ic_store_turn *turn, int64_t *number,
                         ic_error *e)
{
    int64_t n, last;
    ic_store_turn t = *turn;
    if (t.text_bytes > IC_STORE_RECORD_MAX || t.parts_bytes > IC_STORE_RECORD_MAX)
        return ic_error_set(e, IC_ELIMIT, "a turn of %zu + %zu bytes is too large: at most %d each",
                            t.text_bytes, t.parts_bytes, IC_STORE_RECORD_MAX);
    int rc = ic_store_session_row(s, id, &n, e);
    if (!rc)
        rc = ic_store_get_int(s, IC_SQL_TURN_LAST, n, 0, &last, e);
    if (rc)
        return rc;
    t.number = last + 1;
    rc = ic_store_do(s, IC_SQL_TURN_ADD, e, "iiiiiiiiisb", n, t.number, (int64_t)t.role, t.time_us,
                     t.took_us, t.tokens, t.media, (int64_t)t.parts_version, turn_sum(&t), t.text,
                     t.text_bytes, t.parts, t.parts_bytes);
    if (!rc && number)
        *number = t.number;
    return rc;
}

static int read_turn(const char *id, sqlite3_stmt *row, ic_store_turn *t, ic_error *e)
{
    memset(t, 0, sizeof *t);
    t->number = sqlite3_column_int64(row, 0);
    t->role = (ic_store_role)sqlite3_column_int64(row, 1);
    t->time_us = sqlite3_column_int64(row, 2);
    t->took_us = sqlite3_column_int64(row, 3);
    t->tokens = sqlite3_column_int64(row, 4);
    t->media = sqlite3_column_int64(row, 5);
    t->parts_version = (uint32_t)sqlite3_column_int64(row, 6);
    t->text = (const char *)sqlite3_column_text(row, 8);
    t->text_bytes = (size_t)sqlite3_column_bytes(row, 8);
    t->parts = sqlite3_column_blob(row, 9);
    t->parts_bytes = (size_t)sqlite3_column_bytes(row, 9);
    if (sqlite3_column_int64(row, 7) == turn_sum(t))
        return IC_OK;
    return ic_error_set(e, IC_EFORMAT, "session %s: turn %lld is damaged", id,
                        (long long)t->number);
}

int ic_store_turn_read(ic_store *s, const char *id, int64_t from, ic_store_turn_fn *fn, void *arg,
                       ic_error *e)
{
    int64_t n;
    ic_store_turn turn;
    int rc = ic_store_session_row(s, id, &n, e);
    if (rc)
        return rc;
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_TURN_READ, e, "ii", n, from);
    while ((rc = ic_store_step(s, row, e)) == 1) {
        rc = read_turn(id, row, &turn, e);
        if (!rc)
            rc = fn(arg, &turn);
        if (rc) {
            ic_store_done(row);
            return rc < 0 ? rc : IC_OK;
        }
    }
    return rc;
}

int ic_store_turn_remove(ic_store *s, const char *id, int64_t number, ic_error *e)
{
    int64_t n;
    int rc = ic_store_session_row(s, id, &n, e);
    return rc ? rc : ic_store_do(s, IC_SQL_TURN_REMOVE, e, "ii", n, number);
}
