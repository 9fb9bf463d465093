/* ic_test_store: what the store's tests do alike: a fresh store with a session, opening anew, and
 * SQL behind a closed store's back. Included by tests that need the server's rooms alone. */
#ifndef IC_TEST_STORE_H
#define IC_TEST_STORE_H

#include <stdio.h>

#include <sqlite3.h>

#include "ic_test.h"

#include "session_store/ic_store.h"

#define IC_UNUSED __attribute__((unused))

/* A path of its own for each call, in a folder that is not there yet. */
IC_UNUSED static void ic_test_store_path(char path[300])
{
    static int count;
    snprintf(path, 300, "%s/s%d/store.db", ic_test_dir(), count++);
}

/* Closes s (NULL: nothing) and opens the store at path. */
IC_UNUSED static ic_store *ic_test_store_reopen(ic_store *s, const char *path)
{
    ic_error e = {0};
    ic_store_close(&s);
    ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = path}, &e), &e);
    return s;
}

/* A fresh store with one session. */
IC_UNUSED static ic_store *ic_test_store_start(char path[300], char id[IC_STORE_ID_CHARS + 1])
{
    ic_error e = {0};
    ic_test_store_path(path);
    ic_store *s = ic_test_store_reopen(NULL, path);
    ic_assert_ok(ic_store_session_create(s, "local", "t", 1, 1, "", 0, id, &e), &e);
    return s;
}

/* Statements on a file that no store holds. Returns the rows changed by the last one. */
IC_UNUSED static int ic_test_sql(const char *path, const char *text)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
    int changed = sqlite3_changes(db);
    sqlite3_close(db);
    return changed;
}

/* A query's one number. */
IC_UNUSED static int64_t ic_test_sql_number(const char *path, const char *text)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *row = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, text, -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    int64_t value = sqlite3_column_int64(row, 0);
    sqlite3_finalize(row);
    sqlite3_close(db);
    return value;
}

#endif
