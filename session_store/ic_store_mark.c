/* Marks: places in a session that are given a name. A mark is a copy of its session as it stood
 * then, under an id that no list shows: it holds checkpoint, journal, transcript and ledger as any
 * session does, so nothing that happens to the session later takes them away. */
#include "session_store/ic_store_priv.h"

#include <string.h>

static int check_name(const char *name, ic_error *e)
{
    if (!name[0])
        return ic_error_set(e, IC_EINVAL, "a mark needs a name");
    return ic_store_check_line("the mark's name", name, IC_STORE_MARK_MAX, e);
}

static int damaged(const char *id, const char *name, ic_error *e)
{
    return ic_error_set(e, IC_EFORMAT, "session %s: its mark %s is damaged: remove the mark", id,
                        name);
}

/* 1: found, *good tells whether it verifies; 0: not; negative: error. */
static int look_up(ic_store *s, int64_t n, const char *name, int64_t *copy, bool *good, ic_error *e)
{
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_MARK_GET, e, "it", n, name);
    int rc = ic_store_step(s, row, e);
    if (rc != 1)
        return rc;
    *copy = sqlite3_column_int64(row, 0);
    *good = sqlite3_column_int(row, 1) != 0;
    ic_store_done(row);
    return 1;
}

static int not_found(const char *id, const char *name, ic_error *e)
{
    return ic_error_set(e, IC_ENOTFOUND, "session %.8s has no mark \"%s\"", id, name);
}

int ic_store_mark_row(ic_store *s, const char *id, int64_t n, const char *name, int64_t *copy,
                      ic_error *e)
{
    bool good = false;
    int rc = look_up(s, n, name, copy, &good, e);
    if (rc == 0)
        return not_found(id, name, e);
    return rc < 0 ? rc : good ? IC_OK : damaged(id, name, e);
}

/* Whether another mark may be made under this name. */
static int check_place(ic_store *s, const char *id, int64_t n, const char *name, ic_error *e)
{
    int64_t copy, count;
    bool good;
    int rc = look_up(s, n, name, &copy, &good, e);
    if (rc == 1)
        return ic_error_set(e, IC_EEXIST, "session %.8s has a mark \"%s\" already: remove it first",
                            id, name);
    if (!rc)
        rc = ic_store_get_int(s, IC_SQL_MARK_COUNT, n, 0, &count, e);
    if (!rc && count >= IC_STORE_MARKS)
        rc = ic_error_set(e, IC_ELIMIT, "session %.8s has %d marks: remove one first", id,
                          IC_STORE_MARKS);
    return rc;
}

static int add(ic_store *s, const char *id, const char *name, int64_t turn, int64_t time_us,
               char copy_id[IC_STORE_ID_CHARS + 1], ic_error *e)
{
    int64_t n, copy;
    int rc = ic_store_session_row(s, id, &n, e);
    if (!rc)
        rc = check_place(s, id, n, name, e);
    if (!rc)
        rc = ic_store_session_copy(s, n, "", name, time_us, copy_id, e);
    if (!rc)
        rc = ic_store_session_row(s, copy_id, &copy, e);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_MARK_ADD, e, "itiii", n, name, copy, time_us, turn);
    return rc;
}

int ic_store_mark_add(ic_store *s, const char *id, const char *name, int64_t turn, int64_t time_us,
                      char copy_id[IC_STORE_ID_CHARS + 1], ic_error *e)
{
    int rc = check_name(name, e);
    if (!rc)
        rc = ic_store_begin(s, e);
    if (rc)
        return rc;
    rc = add(s, id, name, turn, time_us, copy_id, e);
    return ic_store_end(s, rc, e);
}

/* A damaged mark can be removed; what it should have named is swept at the next start. */
static int take_away(ic_store *s, const char *id, const char *name, ic_error *e)
{
    int64_t n, copy = 0;
    bool good = false;
    int rc = ic_store_session_row(s, id, &n, e);
    if (rc)
        return rc;
    rc = look_up(s, n, name, &copy, &good, e);
    if (rc == 0)
        return not_found(id, name, e);
    if (rc < 0)
        return rc;
    rc = ic_store_do(s, IC_SQL_MARK_REMOVE, e, "it", n, name);
    if (!rc && good)
        rc = ic_store_session_drop(s, copy, e);
    return rc;
}

int ic_store_mark_remove(ic_store *s, const char *id, const char *name, ic_error *e)
{
    int rc = ic_store_begin(s, e);
    if (rc)
        return rc;
    rc = take_away(s, id, name, e);
    return ic_store_end(s, rc, e);
}

int ic_store_mark_list(ic_store *s, const char *id, ic_store_mark_fn *fn, void *arg, ic_error *e)
{
    int64_t n;
    ic_store_mark mark;
    int rc = ic_store_session_row(s, id, &n, e);
    if (rc)
        return rc;
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_MARK_LIST, e, "i", n);
    while ((rc = ic_store_step(s, row, e)) == 1) {
        memset(&mark, 0, sizeof mark);
        ic_store_copy_text(mark.name, sizeof mark.name, row, 0);
        mark.time_us = sqlite3_column_int64(row, 1);
        mark.turn = sqlite3_column_int64(row, 2);
        rc = sqlite3_column_int(row, 3) ? fn(arg, &mark) : damaged(id, mark.name, e);
        if (rc) {
            ic_store_done(row);
            return rc < 0 ? rc : IC_OK;
        }
    }
    return rc;
}
