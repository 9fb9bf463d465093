/* Prepared statements, transactions, batches and the mapping of SQLite's errors. */
#include "session_store/ic_store_priv.h"

#include <errno.h>
#include <string.h>

#include <xxhash.h>

#include "base/ic_failpoint.h"

static const char *const texts[IC_SQL_COUNT] = {
#define IC_SQL(name, text) text,
#include "session_store/ic_store_sql.h"
#undef IC_SQL
};

int ic_store_code(int rc)
{
    if (rc == SQLITE_IOERR_NOMEM)
        return IC_ENOMEM;
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return IC_OK;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return IC_EBUSY;
    case SQLITE_NOMEM:
        return IC_ENOMEM;
    case SQLITE_FULL:
    case SQLITE_TOOBIG:
        return IC_ELIMIT;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_ERROR: /* our texts are right; so a table or a column is not */
    case SQLITE_CONSTRAINT:
        return IC_EFORMAT;
    case SQLITE_READONLY:
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return IC_EIO;
    default:
        return IC_EBUG;
    }
}

/* What to do about it, for the errors an operator can cure. */
static const char *cure(int code)
{
    switch (code) {
    case IC_EBUSY:
        return "; another program has the database open: end it";
    case IC_ELIMIT:
        return "; the disk or the store's size limit is full: delete sessions or make room";
    case IC_EFORMAT:
        return "; the file is damaged: restore a backup";
    case IC_EIO:
        return "; check the disk and the rights of the store's folder";
    default:
        return "";
    }
}

static void doom(ic_store *s, int code, const char *text)
{
    if (s->doomed.code == IC_OK)
        ic_error_set(&s->doomed, code, "%s", text);
}

int ic_store_fail(ic_store *s, int sqlite_rc, ic_error *e, const char *doing)
{
    ic_error own;
    int code = ic_store_code(sqlite_rc);
    int system = sqlite3_system_errno(s->db);
    bool tell_system = code == IC_EIO && system != 0;
    ic_error_set(&own, code, "store %s: cannot %s: %s%s%s%s", s->path, doing, sqlite3_errmsg(s->db),
                 tell_system ? ": " : "", tell_system ? strerror(system) : "", cure(code));
    if (s->in_batch && sqlite3_get_autocommit(s->db))
        doom(s, code, own.text);
    if (e)
        *e = own;
    return code;
}

/* ic_sum(...): XXH3-64 over its arguments, each as its type and its bytes, one seeding the next. */
static void row_sum(sqlite3_context *context, int count, sqlite3_value **values)
{
    uint64_t sum = 0;
    for (int i = 0; i < count; i++) {
        uint8_t head[9] = {(uint8_t)sqlite3_value_type(values[i])};
        bool is_int = head[0] == SQLITE_INTEGER;
        const void *bytes = is_int ? NULL : sqlite3_value_blob(values[i]);
        uint64_t word = is_int ? (uint64_t)sqlite3_value_int64(values[i])
                               : (uint64_t)sqlite3_value_bytes(values[i]);
        for (int b = 0; b < 8; b++)
            head[1 + b] = (uint8_t)(word >> 8 * b);
        sum = XXH3_64bits_withSeed(head, sizeof head, sum);
        if (!is_int && word > 0 && bytes)
            sum = XXH3_64bits_withSeed(bytes, (size_t)word, sum);
    }
    sqlite3_result_int64(context, (int64_t)sum);
}

int ic_store_add_functions(ic_store *s)
{
    return sqlite3_create_function_v2(s->db, "ic_sum", -1,
                                      SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_DIRECTONLY, NULL,
                                      row_sum, NULL, NULL, NULL);
}

static int bind_one(sqlite3_stmt *row, int index, char type, va_list *args)
{
    const void *bytes;
    size_t size;
    switch (type) {
    case 'i':
        return sqlite3_bind_int64(row, index, va_arg(*args, int64_t));
    case 'd':
        return sqlite3_bind_double(row, index, va_arg(*args, double));
    case 't':
        return sqlite3_bind_text(row, index, va_arg(*args, const char *), -1, SQLITE_STATIC);
    case 's':
        bytes = va_arg(*args, const void *);
        size = va_arg(*args, size_t);
        return sqlite3_bind_text64(row, index, size ? bytes : "", size, SQLITE_STATIC, SQLITE_UTF8);
    case 'b':
    case 'B':
        bytes = va_arg(*args, const void *);
        size = va_arg(*args, size_t);
        if (type == 'B' && !bytes)
            return sqlite3_bind_null(row, index);
        return size ? sqlite3_bind_blob64(row, index, bytes, size, SQLITE_STATIC)
                    : sqlite3_bind_zeroblob(row, index, 0);
    default:
        return SQLITE_MISUSE;
    }
}

static sqlite3_stmt *query(ic_store *s, enum ic_store_sql which, ic_error *e, const char *types,
                           va_list *args)
{
    sqlite3_stmt *row = s->statements[which];
    if (!row) {
        int rc = sqlite3_prepare_v3(s->db, texts[which], -1, SQLITE_PREPARE_PERSISTENT, &row, NULL);
        if (rc != SQLITE_OK) {
            s->query_code = ic_store_fail(s, rc, e, "prepare a statement");
            return NULL;
        }
        s->statements[which] = row;
    }
    if (sqlite3_stmt_busy(row)) {
        s->query_code = ic_error_set(e, IC_EBUG, "store: called from inside one of its callbacks");
        return NULL;
    }
    for (int i = 0; types[i]; i++) {
        int rc = bind_one(row, i + 1, types[i], args);
        if (rc != SQLITE_OK) {
            s->query_code = ic_store_fail(s, rc, e, "bind a value");
            ic_store_done(row);
            return NULL;
        }
    }
    return row;
}

sqlite3_stmt *ic_store_query(ic_store *s, enum ic_store_sql which, ic_error *e, const char *types,
                             ...)
{
    va_list args;
    va_start(args, types);
    sqlite3_stmt *row = query(s, which, e, types, &args);
    va_end(args);
    return row;
}

/* The first words of a statement tell what was being done. */
static const char *verb(sqlite3_stmt *row)
{
    const char *text = sqlite3_sql(row);
    switch (text ? text[0] : 'S') {
    case 'I':
    case 'U':
        return "write";
    case 'D':
        return "delete";
    case 'B':
        return "begin a transaction";
    case 'C':
        return "commit";
    default:
        return "read";
    }
}

int ic_store_step(ic_store *s, sqlite3_stmt *row, ic_error *e)
{
    if (!row)
        return s->query_code;
    int rc = sqlite3_step(row);
    if (rc == SQLITE_ROW)
        return 1;
    int result = rc == SQLITE_DONE ? 0 : ic_store_fail(s, rc, e, verb(row));
    ic_store_done(row);
    return result;
}

void ic_store_done(sqlite3_stmt *row)
{
    if (!row)
        return;
    sqlite3_reset(row);
    sqlite3_clear_bindings(row);
}

/* 0, or why the open batch takes no more writes. */
static int writable(const ic_store *s, ic_error *e)
{
    if (!s->in_batch || s->doomed.code == IC_OK)
        return IC_OK;
    return ic_error_set(e, s->doomed.code, "%s", s->doomed.text);
}

int ic_store_do(ic_store *s, enum ic_store_sql which, ic_error *e, const char *types, ...)
{
    int rc = writable(s, e);
    if (rc)
        return rc;
    va_list args;
    va_start(args, types);
    sqlite3_stmt *row = query(s, which, e, types, &args);
    va_end(args);
    return ic_store_step(s, row, e);
}

int ic_store_get_int(ic_store *s, enum ic_store_sql which, int64_t n, int64_t none, int64_t *value,
                     ic_error *e)
{
    sqlite3_stmt *row = ic_store_query(s, which, e, "i", n);
    int rc = ic_store_step(s, row, e);
    *value = none;
    if (rc == 1) {
        if (sqlite3_column_type(row, 0) != SQLITE_NULL)
            *value = sqlite3_column_int64(row, 0);
        ic_store_done(row);
        return IC_OK;
    }
    return rc;
}

int ic_store_begin(ic_store *s, ic_error *e)
{
    return ic_store_do(s, s->in_batch ? IC_SQL_SAVEPOINT : IC_SQL_BEGIN, e, "");
}

/* Undoes whatever is open; what fails here has nothing left to undo. */
static void roll_back(ic_store *s)
{
    ic_error ignored;
    if (!sqlite3_get_autocommit(s->db)) {
        ic_store_step(s, ic_store_query(s, IC_SQL_ROLLBACK, &ignored, ""), &ignored);
    }
}

static int end_in_batch(ic_store *s, int rc, ic_error *e)
{
    if (rc == IC_OK)
        return ic_store_do(s, IC_SQL_RELEASE, e, "");
    if (s->doomed.code == IC_OK) {
        ic_error own = {0};
        int undo = ic_store_do(s, IC_SQL_ROLLBACK_TO, &own, "");
        if (undo == IC_OK)
            undo = ic_store_do(s, IC_SQL_RELEASE, &own, "");
        if (undo)
            doom(s, undo, own.text);
    }
    return rc;
}

int ic_store_end(ic_store *s, int rc, ic_error *e)
{
    if (s->in_batch)
        return end_in_batch(s, rc, e);
    if (rc == IC_OK)
        rc = ic_store_do(s, IC_SQL_COMMIT, e, "");
    if (rc != IC_OK)
        roll_back(s);
    else
        ic_store_move_log(s, IC_STORE_WAL_MUST, NULL);
    return rc;
}

int ic_store_no_batch(ic_store *s, const char *what, ic_error *e)
{
    if (!s->in_batch)
        return IC_OK;
    return ic_error_set(e, IC_EINVAL, "store: %s is not allowed while a batch is open", what);
}

int ic_store_move_log(ic_store *s, int64_t bytes, ic_error *e)
{
    if (s->wal_bytes < bytes || s->wal_bytes == 0)
        return IC_OK;
    int log = 0, moved = 0;
    ic_failpoint(IC_FAIL_log_move);
    int rc = sqlite3_wal_checkpoint_v2(s->db, "main", SQLITE_CHECKPOINT_PASSIVE, &log, &moved);
    if (rc != SQLITE_OK)
        return ic_store_fail(s, rc, e, "move the log into the file");
    s->wal_bytes = (int64_t)(log - moved) * s->page_bytes;
    return IC_OK;
}

int ic_store_batch_begin(ic_store *s, ic_error *e)
{
    int rc = ic_store_no_batch(s, "a batch", e);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_BEGIN, e, "");
    s->in_batch = s->in_batch || rc == IC_OK;
    return rc;
}

int ic_store_batch_commit(ic_store *s, ic_error *e)
{
    if (!s->in_batch)
        return ic_error_set(e, IC_EINVAL, "store: no batch is open");
    ic_failpoint(IC_FAIL_commit_before);
    int rc = ic_store_do(s, IC_SQL_COMMIT, e, "");
    ic_failpoint(IC_FAIL_commit_after);
    ic_store_batch_rollback(s);
    if (rc == IC_OK)
        ic_store_move_log(s, IC_STORE_WAL_MUST, NULL);
    return rc;
}

void ic_store_batch_rollback(ic_store *s)
{
    if (!s->in_batch)
        return;
    s->in_batch = false;
    memset(&s->doomed, 0, sizeof s->doomed);
    roll_back(s);
}

uint64_t ic_store_commits(const ic_store *s)
{
    return s->commits;
}

void ic_store_copy_text(char *to, size_t capacity, sqlite3_stmt *row, int column)
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    size_t size = text ? (size_t)sqlite3_column_bytes(row, column) : 0;
    if (size >= capacity)
        size = capacity - 1;
    if (size)
        memcpy(to, text, size);
    to[size] = '\0';
}
