/* What the files of this room share: the handle, prepared statements, transactions, errors. */
#ifndef IC_STORE_PRIV_H
#define IC_STORE_PRIV_H

#include "session_store/ic_store.h"

#include <sqlite3.h>

enum {
    IC_STORE_APPLICATION_ID = 0x49436874, /* "ICht" */
    IC_STORE_PAGE_BYTES = 16384,          /* of new stores; those of formats 1 and 2 have 65536 */
    IC_STORE_PAGE_LEAST = 4096,           /* smaller ones no infchat makes */
    IC_STORE_PAGE_MOST = 65536,           /* SQLite's largest */
    IC_STORE_WAL_SOON = 8 << 20,          /* bytes of log that bulk writers and idle time move */
    IC_STORE_WAL_MUST = 32 << 20,         /* bytes that the next commit moves */
    IC_STORE_REEL_BYTES = 4 << 20,        /* of a reel, after which the next begins, */
    IC_STORE_REEL_RECORDS = 1024,         /* or so many records */
    IC_STORE_REELS = 1024                 /* of one session: of older ones not even heads stay */
};

extern const char ic_store_schema_v1[];
/* [n]: what brings a store of format n to n + 1. */
extern const char *const ic_store_migrations[IC_STORE_FORMAT];

/* Every statement by name; the texts are in ic_store_sql.h. */
enum ic_store_sql {
#define IC_SQL(name, text) IC_SQL_##name,
#include "session_store/ic_store_sql.h"
#undef IC_SQL
    IC_SQL_COUNT
};

struct ic_store {
    sqlite3 *db;
    char *path;
    int page_bytes;                         /* this file's */
    int lock_fd;                            /* holds "<path>.lock"; -1: not held */
    sqlite3_stmt *statements[IC_SQL_COUNT]; /* prepared at first use */
    int busy_timeout_ms;
    bool in_batch;
    ic_error doomed; /* code != 0: the open batch can only be rolled back, for this reason */
    uint64_t commits;
    int query_code;           /* why the last ic_store_query gave NULL */
    int64_t wal_bytes;        /* in the log after the last commit */
    bool shrink_wanted;       /* a deletion left pages that maintain is to give back */
    ic_buf result;            /* backs ic_store_request.result */
    ic_store_writer *writers; /* open ones */
};

/* Sets e from the handle's last error; doing says what was tried. Returns our code. A failure that
 * made SQLite roll back an open batch dooms it. */
int ic_store_fail(ic_store *s, int sqlite_rc, ic_error *e, const char *doing);
/* Our code for a result code of SQLite. */
int ic_store_code(int sqlite_rc);

/* The prepared statement with its parameters bound from 1 on, ready to step; NULL with e set when
 * it cannot be had (the step then returns the error's code). types, one letter per parameter:
 *   i int64_t   d double   t const char * (NULL: null)   s const char *, size_t
 *   b const void *, size_t (empty: x'')   B the same (NULL pointer: null)
 * Borrows texts and bytes until the statement is reset. */
sqlite3_stmt *ic_store_query(ic_store *s, enum ic_store_sql which, ic_error *e, const char *types,
                             ...);
/* 1: a row stands; 0: no more (reset); negative: error (reset). */
int ic_store_step(ic_store *s, sqlite3_stmt *row, ic_error *e);
/* Gives a statement back before its end. NULL is fine. */
void ic_store_done(sqlite3_stmt *row);
/* Runs a statement that gives no rows. */
int ic_store_do(ic_store *s, enum ic_store_sql which, ic_error *e, const char *types, ...);
/* The first column of the row that parameter n selects; `none` without a row. */
int ic_store_get_int(ic_store *s, enum ic_store_sql which, int64_t n, int64_t none, int64_t *value,
                     ic_error *e);

/* An operation of several statements: a transaction, or a savepoint inside a batch. end takes the
 * operation's result so far, keeps or undoes, and returns that result or its own error. */
int ic_store_begin(ic_store *s, ic_error *e);
int ic_store_end(ic_store *s, int rc, ic_error *e);
/* IC_EINVAL when a batch is open. */
int ic_store_no_batch(ic_store *s, const char *what, ic_error *e);
/* Moves the log into the file when it has `bytes` or more. */
int ic_store_move_log(ic_store *s, int64_t bytes, ic_error *e);

/* Registers ic_sum(), by which statements make and compare row checksums. SQLite's result. */
int ic_store_add_functions(ic_store *s);
/* IC_EFORMAT: the session's row does not verify. */
int ic_store_session_damaged(const char *id, ic_error *e);
/* The session's row number; IC_ENOTFOUND. */
int ic_store_session_row(ic_store *s, const char *id, int64_t *n, ic_error *e);
/* In a transaction: a session that goes on from where row `from` stands; owner "": a hidden one,
 * which no list shows. IC_EINVAL: the title. */
int ic_store_session_copy(ic_store *s, int64_t from, const char *owner, const char *title,
                          int64_t created_us, char copy_id[IC_STORE_ID_CHARS + 1], ic_error *e);
/* A hidden session that is to grow: its journal goes on after record journal_base. */
int ic_store_session_create_hidden(ic_store *s, const char *title, int64_t created_us,
                                   uint32_t config_version, const void *config, size_t config_bytes,
                                   int64_t journal_base, char id[IC_STORE_ID_CHARS + 1],
                                   ic_error *e);
/* Makes a hidden session owner's. */
int ic_store_session_give(ic_store *s, const char *id, const char *owner, const char *title,
                          ic_error *e);
/* In a transaction: everything of session row n goes, its marks too. */
int ic_store_session_drop(ic_store *s, int64_t n, ic_error *e);
/* Row number of the copy that a mark names; IC_ENOTFOUND names the mark. */
int ic_store_mark_row(ic_store *s, const char *id, int64_t n, const char *name, int64_t *copy,
                      ic_error *e);
/* Row and numbers of the last record that was trimmed from the journal and of the last there is. */
int ic_store_journal_end(ic_store *s, const char *id, int64_t *n, int64_t *base, int64_t *last,
                         ic_error *e);
/* A row of FRAME_READ. IC_EFORMAT: damaged; then frame has number and media alone. */
int ic_store_frame_row(const char *id, sqlite3_stmt *row, ic_store_frame *frame, ic_error *e);
/* A frame of an import: number is given; at or before the journal's base it may have no bulk. */
int ic_store_frame_put(ic_store *s, const char *id, const ic_store_frame *frame, ic_error *e);
/* In a transaction: what a checkpoint up to record seq of session row n leaves of its frames. */
int ic_store_frame_trim(ic_store *s, int64_t n, int64_t seq, ic_error *e);
/* In a transaction: the newest reel takes no more, so that a copy may share it. */
int ic_store_frame_close(ic_store *s, int64_t n, ic_error *e);
/* In a transaction: the session's hold on its frames goes. */
int ic_store_frame_delete(ic_store *s, int64_t n, ic_error *e);
/* Verifies every frame. */
int ic_store_frame_check(ic_store *s, const char *id, ic_error *e);
/* One line of UTF-8 of at most limit bytes, or IC_EINVAL. */
int ic_store_check_line(const char *what, const char *text, size_t limit, ic_error *e);
/* In a transaction: drops a checkpoint that no session refers to, with the segments
 * that only it held; held media that no ledger refers to. 0: none, does nothing. */
int ic_store_checkpoint_release(ic_store *s, int64_t checkpoint, ic_error *e);
int ic_store_media_release(ic_store *s, int64_t held, ic_error *e);
/* Frees writers that are still open; their segments stay behind, unreferenced. */
void ic_store_forget_writers(ic_store *s);
/* Drops what a crash left unreferenced. Only while no writer is open. */
int ic_store_sweep(ic_store *s, ic_error *e);
/* Copies a text column into a fixed array. */
void ic_store_copy_text(char *to, size_t capacity, sqlite3_stmt *row, int column);

#endif
