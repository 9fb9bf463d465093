/* Room on the disk: sizes, giving free pages back, sweeping what a crash left, the whole check. */
#include "session_store/ic_store_priv.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/ic_failpoint.h"
#include "base/ic_mem.h"

enum {
    VACUUM_BYTES = 4 << 20,      /* at a time: about as long as an append may wait */
    FREE_KEPT = 64 * 1024 * 1024 /* bytes of free pages that are kept for what comes next */
};

static int pragma_int(ic_store *s, const char *text, int64_t *value, ic_error *e)
{
    sqlite3_stmt *row = NULL;
    int rc = sqlite3_prepare_v2(s->db, text, -1, &row, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(row);
    *value = rc == SQLITE_ROW ? sqlite3_column_int64(row, 0) : 0;
    rc = rc == SQLITE_ROW ? IC_OK : ic_store_fail(s, rc, e, "measure it");
    sqlite3_finalize(row);
    return rc;
}

static int64_t log_bytes(const ic_store *s)
{
    struct stat info;
    char *name = ic_strf("%s-wal", s->path);
    int64_t bytes = stat(name, &info) == 0 ? (int64_t)info.st_size : 0;
    ic_free(name);
    return bytes;
}

/* ---- sizes ------------------------------------------------------------------------------------
 */

static int read_sizes(ic_store *s, sqlite3_stmt *row, ic_store_sizes *sizes, ic_error *e)
{
    int rc = ic_store_step(s, row, e);
    memset(sizes, 0, sizeof *sizes);
    if (rc != 1)
        return rc;
    sizes->journal = sqlite3_column_int64(row, 0);
    sizes->events = sqlite3_column_int64(row, 1);
    sizes->transcript = sqlite3_column_int64(row, 2);
    sizes->media = sqlite3_column_int64(row, 3);
    sizes->checkpoints = sqlite3_column_int64(row, 4);
    sizes->requests = sqlite3_column_int64(row, 5);
    sizes->sessions = sqlite3_column_int64(row, 6);
    sizes->total = sizes->journal + sizes->events + sizes->transcript + sizes->media
                   + sizes->checkpoints + sizes->requests;
    ic_store_done(row);
    return IC_OK;
}

int ic_store_sizes_all(ic_store *s, ic_store_sizes *sizes, ic_error *e)
{
    int64_t pages = 0, unused = 0;
    int rc = read_sizes(s, ic_store_query(s, IC_SQL_SIZES_ALL, e, ""), sizes, e);
    if (!rc)
        rc = pragma_int(s, "PRAGMA page_count", &pages, e);
    if (!rc)
        rc = pragma_int(s, "PRAGMA freelist_count", &unused, e);
    sizes->total = pages * s->page_bytes + log_bytes(s);
    sizes->free = unused * s->page_bytes;
    return rc;
}

int ic_store_used_bytes(ic_store *s, int64_t *bytes, ic_error *e)
{
    int64_t pages = 0, unused = 0;
    int rc = pragma_int(s, "PRAGMA page_count", &pages, e);
    if (!rc)
        rc = pragma_int(s, "PRAGMA freelist_count", &unused, e);
    *bytes = (pages - unused) * s->page_bytes;
    return rc;
}

int ic_store_sizes_owner(ic_store *s, const char *owner, ic_store_sizes *sizes, ic_error *e)
{
    return read_sizes(s, ic_store_query(s, IC_SQL_SIZES_OWNER, e, "t", owner), sizes, e);
}

int ic_store_sizes_session(ic_store *s, const char *id, ic_store_sizes *sizes, ic_error *e)
{
    int64_t n;
    int rc = ic_store_session_row(s, id, &n, e);
    return rc ? rc : read_sizes(s, ic_store_query(s, IC_SQL_SIZES_SESSION, e, "i", n), sizes, e);
}

/* ---- giving room back -------------------------------------------------------------------------
 */

static int vacuum(ic_store *s, int pages, ic_error *e)
{
    char text[64];
    snprintf(text, sizeof text, "PRAGMA incremental_vacuum(%d)", pages);
    int rc = sqlite3_exec(s->db, text, NULL, NULL, NULL);
    return rc == SQLITE_OK ? IC_OK : ic_store_fail(s, rc, e, "give free pages back");
}

/* Does not wait for another program that reads: appends would wait with it. */
static int truncate_log(ic_store *s, ic_error *e)
{
    sqlite3_busy_timeout(s->db, 0);
    int rc = sqlite3_wal_checkpoint_v2(s->db, "main", SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    sqlite3_busy_timeout(s->db, s->busy_timeout_ms);
    if (rc != SQLITE_OK)
        return ic_store_fail(s, rc, e, "truncate the log");
    s->wal_bytes = 0;
    return IC_OK;
}

/* How many free pages should go: all after a deletion, else what exceeds a reserve. */
static int excess_pages(ic_store *s, int64_t *excess, ic_error *e)
{
    int64_t pages = 0, unused = 0;
    int rc = pragma_int(s, "PRAGMA page_count", &pages, e);
    if (!rc)
        rc = pragma_int(s, "PRAGMA freelist_count", &unused, e);
    int64_t kept = FREE_KEPT / s->page_bytes;
    if (pages / 4 > kept)
        kept = pages / 4;
    *excess = s->shrink_wanted ? unused : unused > kept ? unused - kept : 0;
    return rc;
}

int ic_store_maintain(ic_store *s, bool *more, ic_error *e)
{
    int64_t excess = 0;
    int most = VACUUM_BYTES / s->page_bytes;
    *more = true;
    int rc = ic_store_no_batch(s, "maintenance", e);
    if (rc)
        return rc;
    if (s->wal_bytes >= IC_STORE_WAL_SOON) {
        rc = ic_store_move_log(s, IC_STORE_WAL_SOON, e);
        *more = s->wal_bytes < IC_STORE_WAL_SOON;
        return rc;
    }
    rc = excess_pages(s, &excess, e);
    if (rc)
        return rc;
    if (excess > 0)
        ic_failpoint(IC_FAIL_vacuum);
    if (excess > 0)
        return vacuum(s, excess < most ? (int)excess : most, e);
    *more = false;
    if (s->shrink_wanted) {
        s->shrink_wanted = false;
        rc = truncate_log(s, e);
    }
    return rc == IC_EBUSY ? IC_OK : rc; /* the log is cut another time */
}

int ic_store_shrink(ic_store *s, ic_error *e)
{
    int64_t excess = 0, before = INT64_MAX;
    int rc = ic_store_no_batch(s, "shrinking", e);
    s->shrink_wanted = true;
    while (!rc) {
        rc = excess_pages(s, &excess, e);
        if (rc || excess == 0 || excess >= before)
            break;
        before = excess;
        rc = vacuum(s, 16 * (VACUUM_BYTES / s->page_bytes), e);
        if (!rc)
            rc = ic_store_move_log(s, 1, e);
    }
    if (!rc)
        rc = truncate_log(s, e);
    s->shrink_wanted = s->shrink_wanted && rc != IC_OK;
    return rc;
}

/* ---- sweeping ---------------------------------------------------------------------------------
 *
 * In a damaged table a row can be met on the way through and yet not be found by its number: it
 * cannot be deleted. Such a one is left where it is, for the full check to name. */

/* What was swept last of each kind. */
typedef struct swept {
    int64_t session, checkpoint, held, segment;
} swept;

/* Segments that no manifest lists, a few at a time. *found: how many went. */
static int sweep_segments(ic_store *s, int64_t *last, int *found, ic_error *e)
{
    int64_t numbers[64];
    int rc;
    *found = 0;
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_SEGMENT_ORPHAN, e, "");
    while ((rc = ic_store_step(s, row, e)) == 1)
        numbers[(*found)++] = sqlite3_column_int64(row, 0);
    if (!rc && *found && numbers[0] == *last)
        *found = 0;
    if (*found)
        *last = numbers[0];
    for (int i = 0; i < *found && !rc; i++) {
        rc = ic_store_do(s, IC_SQL_SEGMENT_DELETE_DATA, e, "i", numbers[i]);
        if (!rc)
            rc = ic_store_do(s, IC_SQL_SEGMENT_DELETE, e, "i", numbers[i]);
    }
    return rc;
}

typedef int release_fn(ic_store *s, int64_t n, ic_error *e);

static int sweep_one(ic_store *s, enum ic_store_sql which, release_fn *release, int64_t *last,
                     int *found, ic_error *e)
{
    int64_t number = 0;
    sqlite3_stmt *row = ic_store_query(s, which, e, "");
    int rc = ic_store_step(s, row, e);
    *found = rc == 1;
    if (rc != 1)
        return rc;
    number = sqlite3_column_int64(row, 0);
    ic_store_done(row);
    *found = number != *last;
    *last = number;
    return *found ? release(s, number, e) : IC_OK;
}

static int sweep_some(ic_store *s, swept *last, int *found, ic_error *e)
{
    int rc = sweep_one(s, IC_SQL_SESSION_ORPHAN, ic_store_session_drop, &last->session, found, e);
    if (!rc && *found == 0)
        rc = sweep_one(s, IC_SQL_CHECKPOINT_ORPHAN, ic_store_checkpoint_release, &last->checkpoint,
                       found, e);
    if (!rc && *found == 0)
        rc = sweep_one(s, IC_SQL_HELD_ORPHAN, ic_store_media_release, &last->held, found, e);
    if (!rc && *found == 0)
        rc = sweep_segments(s, &last->segment, found, e);
    return rc;
}

int ic_store_sweep(ic_store *s, ic_error *e)
{
    int rc = IC_OK;
    swept last = {0};
    for (int found = 1; found > 0 && !rc;) {
        rc = ic_store_begin(s, e);
        if (rc)
            return rc;
        rc = sweep_some(s, &last, &found, e);
        ic_failpoint(IC_FAIL_sweep);
        rc = ic_store_end(s, rc, e);
    }
    return rc;
}

/* ---- the whole check --------------------------------------------------------------------------
 */

static int check_pages(ic_store *s, ic_error *e)
{
    sqlite3_stmt *row = NULL;
    int rc = sqlite3_prepare_v2(s->db, "PRAGMA integrity_check(1)", -1, &row, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(row);
    const char *text = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(row, 0) : NULL;
    if (rc != SQLITE_ROW || !text)
        rc = ic_store_fail(s, rc, e, "check it");
    else if (strcmp(text, "ok") != 0)
        rc = ic_error_set(e, IC_EFORMAT, "store %s is damaged: %.200s; restore a backup", s->path,
                          text);
    else
        rc = IC_OK;
    sqlite3_finalize(row);
    return rc;
}

static int ignore_record(void *arg, const ic_store_record *record)
{
    (void)arg, (void)record;
    return 0;
}

static int ignore_turn(void *arg, const ic_store_turn *turn)
{
    (void)arg, (void)turn;
    return 0;
}

/* Media entries are noted while the list is read and their bytes read afterwards. */
static int note_media(void *arg, const ic_store_media *media)
{
    ic_buf *pieces = arg;
    ic_buf_u64(pieces, (uint64_t)media->number);
    return ic_buf_u64(pieces, (uint64_t)media->pieces);
}

static int check_media(ic_store *s, const char *id, ic_error *e)
{
    ic_buf pieces, bytes;
    ic_cursor c;
    ic_buf_init(&pieces, 0);
    ic_buf_init(&bytes, 0);
    int rc = ic_store_media_list(s, id, 0, note_media, &pieces, e);
    ic_cursor_init(&c, pieces.data, pieces.size);
    while (!rc && ic_cursor_left(&c) > 0) {
        int64_t number = (int64_t)ic_cursor_u64(&c);
        int64_t count = (int64_t)ic_cursor_u64(&c);
        for (int64_t i = 0; i < count && !rc; i++) {
            ic_buf_clear(&bytes);
            rc = ic_store_media_read(s, id, number, i, &bytes, e);
        }
    }
    ic_buf_fini(&pieces);
    ic_buf_fini(&bytes);
    return rc;
}

static int check_checkpoint(ic_store *s, const char *id, ic_error *e)
{
    ic_store_reader *r = NULL;
    ic_store_session session;
    int rc = ic_store_session_get(s, id, &session, e);
    if (rc || !session.has_checkpoint)
        return rc;
    rc = ic_store_checkpoint_open(s, id, &r, e);
    if (!rc)
        rc = ic_store_checkpoint_verify(r, e);
    ic_store_checkpoint_close(&r);
    return rc;
}

static int check_session(ic_store *s, const char *id, ic_error *e)
{
    ic_buf config;
    uint32_t version;
    ic_buf_init(&config, 0);
    int rc = ic_store_session_config(s, id, &version, &config, e);
    ic_buf_fini(&config);
    if (!rc)
        rc = ic_store_journal_read(s, id, 0, ignore_record, NULL, e);
    if (!rc)
        rc = ic_store_event_read(s, id, 0, ignore_record, NULL, e);
    if (!rc)
        rc = ic_store_turn_read(s, id, 0, ignore_turn, NULL, e);
    if (!rc)
        rc = check_media(s, id, e);
    if (!rc)
        rc = ic_store_frame_check(s, id, e);
    if (!rc)
        rc = check_checkpoint(s, id, e);
    return rc;
}

static int check_table(ic_store *s, enum ic_store_sql which, const char *what, ic_error *e)
{
    sqlite3_stmt *row = ic_store_query(s, which, e, "");
    int rc = ic_store_step(s, row, e);
    if (rc != 1)
        return rc;
    long long damaged = sqlite3_column_int64(row, 0);
    ic_store_done(row);
    return damaged == 0
               ? IC_OK
               : ic_error_set(e, IC_EFORMAT, "store %s: the records of %lld %s are damaged",
                              s->path, damaged, what);
}

static int check_whole(ic_store *s, ic_error *e)
{
    int rc = ic_store_no_batch(s, "a check", e);
    if (!rc)
        rc = check_pages(s, e);
    if (!rc)
        rc = check_table(s, IC_SQL_REQUEST_DAMAGED, "requests", e);
    if (!rc)
        rc = check_table(s, IC_SQL_MARKS_DAMAGED, "marks", e);
    if (!rc)
        rc = check_table(s, IC_SQL_USES_DAMAGED, "lists of frames", e);
    if (!rc)
        rc = check_table(s, IC_SQL_STRAYS, "rows that belong to nothing", e);
    return rc;
}

int ic_store_check_each(ic_store *s, ic_store_check_fn *fn, void *arg, ic_error *e)
{
    char id[IC_STORE_ID_CHARS + 1];
    ic_error found = {0};
    int rc = check_whole(s, &found);
    rc = fn(arg, NULL, rc, &found);
    if (rc)
        return rc;
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_SESSION_IDS, e, "");
    while ((rc = ic_store_step(s, row, e)) == 1) {
        ic_store_session session = {.created_us = 0};
        ic_store_copy_text(id, sizeof id, row, 0);
        found = (ic_error){0};
        rc = ic_store_session_get(s, id, &session, &found);
        memcpy(session.id, id, sizeof session.id);
        if (!rc)
            rc = check_session(s, id, &found);
        rc = fn(arg, &session, rc, &found);
        if (rc) {
            ic_store_done(row);
            return rc;
        }
    }
    return rc;
}

/* The first damage ends it. */
static int stop_at_damage(void *arg, const ic_store_session *session, int rc, const ic_error *e)
{
    (void)session;
    if (rc)
        ic_error_set(arg, rc, "%s", e->text);
    return rc;
}

int ic_store_check(ic_store *s, ic_error *e)
{
    ic_error found = {0};
    int rc = ic_store_check_each(s, stop_at_damage, &found, &found);
    return rc ? ic_error_set(e, rc, "%s", found.text) : IC_OK;
}
