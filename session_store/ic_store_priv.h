/* What the files of this room share: the handle, prepared statements, transactions, errors. */
#ifndef IC_STORE_PRIV_H
#define IC_STORE_PRIV_H

#include "session_store/ic_store.h"

#include <sqlite3.h>

enum {
    IC_STORE_APPLICATION_ID = 0x49436874, /* "ICht" */
    IC_STORE_PAGE_BYTES = 65536,
    IC_STORE_WAL_SOON = 128, /* pages of log after which bulk writers and idle time move it */
    IC_STORE_WAL_MUST = 512  /* pages after which the next commit moves it */
};

extern const char ic_store_schema_v1[];

/* Every statement, by name; the text is in ic_store_sql.h. */
enum ic_store_sql {
#define IC_SQL(name, text) IC_SQL_##name,
#include "session_store/ic_store_sql.h"
#undef IC_SQL
    IC_SQL_COUNT
};

struct ic_store {
    sqlite3 *db;
    int lock_fd; /* holds "<path>.lock"; -1: not held */
    char *path;
    sqlite3_stmt *statements[IC_SQL_COUNT]; /* prepared at first use */
    bool in_batch;
    ic_error doomed; /* code != 0: the open batch can only be rolled back, for this reason */
    uint64_t commits;
    int wal_pages;       /* in the log after the last commit */
    bool shrink_wanted;  /* a deletion left pages that maintain is to give back */
    bool changed;        /* inside an operation that is not in a batch: a transaction is open */
    ic_buf result;       /* backs ic_store_request.result */
    ic_store_writer *writers; /* open ones */
};

/* SQLite's result code -> ours. */
int ic_store_code(int sqlite_rc);
/* Sets e from the handle's last error; what says what was tried. Returns the code. */
int ic_store_fail(ic_store *s, int sqlite_rc, ic_error *e, const char *what);

/* The prepared statement, reset and unbound; NULL with e set when it cannot be had. */
sqlite3_stmt *ic_store_statement(ic_store *s, enum ic_store_sql which, ic_error *e);
/* Runs a bound statement that returns no row, and resets it. */
int ic_store_run(ic_store *s, sqlite3_stmt *statement, ic_error *e, const char *what);
/* One step of a bound statement: 1 a row, 0 no more (reset), negative an error (reset). */
int ic_store_step(ic_store *s, sqlite3_stmt *statement, ic_error *e, const char *what);
/* Runs a statement whose parameters are all integers, `count` of them from 1 on. */
int ic_store_run_ints(ic_store *s, enum ic_store_sql which, ic_error *e, int count, ...);
/* The first column of the first row, or `none` when there is no row or it is NULL. */
int ic_store_get_int(ic_store *s, enum ic_store_sql which, int64_t parameter, int64_t none,
                     int64_t *value, ic_error *e);

/* An operation of several statements: a transaction, or a savepoint inside a batch. end takes the
 * operation's result and commits or undoes; it returns that result or its own error. */
int ic_store_begin(ic_store *s, ic_error *e);
int ic_store_end(ic_store *s, int rc, ic_error *e);
/* 0, or why nothing may be written now (a doomed batch). Single-statement writes ask it first. */
int ic_store_writable(ic_store *s, ic_error *e);
/* 0, or IC_EINVAL when a batch is open. */
int ic_store_no_batch(ic_store *s, const char *what, ic_error *e);
/* Moves the log into the file when it has `pages` or more. */
int ic_store_move_log(ic_store *s, int pages, ic_error *e);

/* The session's row number; IC_ENOTFOUND. */
int ic_store_session_row(ic_store *s, const char *id, int64_t *n, ic_error *e);
/* Drops checkpoints, segments and held media that nothing refers to. In a transaction. */
int ic_store_sweep(ic_store *s, ic_error *e);

#endif
