/* Sessions: ids, listing, finding, deleting. */
#include "session_store/ic_store_priv.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include <xxhash.h>

#include "base/ic_failpoint.h"
#include "base/ic_mem.h"

/* No i, l, o, u: nothing that is misread or spells a word by accident. */
static const char alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";

static int make_id(char id[IC_STORE_ID_CHARS + 1], ic_error *e)
{
    uint8_t random[16];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return ic_error_set(e, IC_EIO, "store: the system gives no random numbers");
    unsigned bits = 0, held = 0;
    for (int i = 0, at = 0; i < IC_STORE_ID_CHARS; i++) {
        if (held < 5) { /* the last character carries the 3 bits that remain */
            bits = bits << 8 | (at < 16 ? random[at++] : 0);
            held += 8;
        }
        held -= 5;
        id[i] = alphabet[bits >> held & 31];
    }
    id[IC_STORE_ID_CHARS] = '\0';
    return IC_OK;
}

/* Length of the UTF-8 character at p, or 0: malformed, or a control character. */
static int character(const uint8_t *p)
{
    if (p[0] < 0x80)
        return p[0] >= 0x20 && p[0] != 0x7f;
    int length = p[0] >= 0xc2 && p[0] < 0xe0   ? 2
                 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3
                 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
                                               : 0;
    for (int i = 1; i < length; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
    bool surrogate = p[0] == 0xed && p[1] >= 0xa0;
    bool beyond = p[0] == 0xf4 && p[1] >= 0x90;
    bool control = p[0] == 0xc2 && p[1] < 0xa0;
    return overlong || surrogate || beyond || control ? 0 : length;
}

int ic_store_check_line(const char *what, const char *text, size_t limit, ic_error *e)
{
    size_t size = strlen(text);
    if (size > limit)
        return ic_error_set(e, IC_EINVAL, "%s is %zu bytes long; at most %zu are kept", what, size,
                            limit);
    for (const uint8_t *p = (const uint8_t *)text; *p;) {
        int length = character(p);
        if (length == 0)
            return ic_error_set(e, IC_EINVAL, "%s must be one line of UTF-8 text", what);
        p += length;
    }
    return IC_OK;
}

static int64_t config_sum(uint32_t version, const void *config, size_t size)
{
    return (int64_t)XXH3_64bits_withSeed(config, size, version);
}

static int check_config(size_t size, ic_error *e)
{
    if (size <= IC_STORE_RECORD_MAX)
        return IC_OK;
    return ic_error_set(e, IC_ELIMIT, "a session's config of %zu bytes is too large", size);
}

/* What every new session needs; the owner may be empty here. */
static int add_session(ic_store *s, const char *owner, const char *title, int64_t created_us,
                       uint32_t config_version, const void *config, size_t config_bytes,
                       char id[IC_STORE_ID_CHARS + 1], ic_error *e)
{
    char fresh[IC_STORE_ID_CHARS + 1];
    int rc = ic_store_check_line("the title", title, IC_STORE_TITLE_MAX, e);
    if (!rc)
        rc = check_config(config_bytes, e);
    if (!rc)
        rc = make_id(fresh, e);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_SESSION_ADD, e, "tttiiib", fresh, owner, title, created_us,
                         (int64_t)config_version, config_sum(config_version, config, config_bytes),
                         config, config_bytes);
    if (!rc)
        memcpy(id, fresh, sizeof fresh);
    return rc;
}

static int check_owner(const char *owner, ic_error *e)
{
    if (!owner[0])
        return ic_error_set(e, IC_EINVAL, "a session needs an owner");
    return ic_store_check_line("the owner", owner, IC_STORE_OWNER_MAX, e);
}

int ic_store_session_create(ic_store *s, const char *owner, const char *title, int64_t created_us,
                            uint32_t config_version, const void *config, size_t config_bytes,
                            char id[IC_STORE_ID_CHARS + 1], ic_error *e)
{
    int rc = check_owner(owner, e);
    if (!rc)
        rc = add_session(s, owner, title, created_us, config_version, config, config_bytes, id, e);
    ic_failpoint(IC_FAIL_session_create);
    return rc;
}

static int not_found(const char *id, ic_error *e)
{
    return ic_error_set(e, IC_ENOTFOUND, "there is no session %.40s", id);
}

int ic_store_session_damaged(const char *id, ic_error *e)
{
    return ic_error_set(e, IC_EFORMAT, "session %.40s: its record is damaged; restore a backup",
                        id);
}

/* The row number, and whether the row verifies. */
static int find_row(ic_store *s, const char *id, int64_t *n, bool *good, ic_error *e)
{
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_SESSION_ROW, e, "t", id);
    int rc = ic_store_step(s, row, e);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return not_found(id, e);
    *n = sqlite3_column_int64(row, 0);
    *good = sqlite3_column_int(row, 1) != 0;
    ic_store_done(row);
    return IC_OK;
}

int ic_store_session_row(ic_store *s, const char *id, int64_t *n, ic_error *e)
{
    bool good = false;
    int rc = find_row(s, id, n, &good, e);
    return rc || good ? rc : ic_store_session_damaged(id, e);
}

static int read_session(sqlite3_stmt *row, ic_store_session *out, ic_error *e)
{
    memset(out, 0, sizeof *out);
    ic_store_copy_text(out->id, sizeof out->id, row, 0);
    ic_store_copy_text(out->owner, sizeof out->owner, row, 1);
    ic_store_copy_text(out->title, sizeof out->title, row, 2);
    ic_store_copy_text(out->parent, sizeof out->parent, row, 19);
    out->state = (uint32_t)sqlite3_column_int64(row, 3);
    out->created_us = sqlite3_column_int64(row, 4);
    out->used_us = sqlite3_column_int64(row, 5);
    out->counters.turns = sqlite3_column_int64(row, 6);
    out->counters.media = sqlite3_column_int64(row, 7);
    out->counters.frames = sqlite3_column_int64(row, 8);
    out->counters.tokens = sqlite3_column_int64(row, 9);
    out->counters.evicted = sqlite3_column_int64(row, 10);
    out->config_version = (uint32_t)sqlite3_column_int64(row, 11);
    out->has_checkpoint = sqlite3_column_int64(row, 12) != 0;
    out->checkpoint_us = sqlite3_column_int64(row, 13);
    out->journal_first = sqlite3_column_int64(row, 14) + 1;
    out->journal_next = sqlite3_column_int64(row, 15) + 1;
    out->event_first = sqlite3_column_int64(row, 16) + 1;
    out->event_next = sqlite3_column_int64(row, 17) + 1;
    return sqlite3_column_int(row, 18) ? IC_OK : ic_store_session_damaged(out->id, e);
}

int ic_store_session_get(ic_store *s, const char *id, ic_store_session *out, ic_error *e)
{
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_SESSION_GET, e, "t", id);
    int rc = ic_store_step(s, row, e);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return not_found(id, e);
    rc = read_session(row, out, e);
    ic_store_done(row);
    return rc;
}

int ic_store_session_config(ic_store *s, const char *id, uint32_t *version, ic_buf *out,
                            ic_error *e)
{
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_SESSION_CONFIG, e, "t", id);
    int rc = ic_store_step(s, row, e);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return not_found(id, e);
    const void *config = sqlite3_column_blob(row, 2);
    size_t size = (size_t)sqlite3_column_bytes(row, 2);
    *version = (uint32_t)sqlite3_column_int64(row, 0);
    if (sqlite3_column_int64(row, 1) != config_sum(*version, config, size))
        rc = ic_error_set(e, IC_EFORMAT, "session %s: its config is damaged", id);
    else
        rc = ic_buf_append(out, config, size);
    if (rc == IC_ENOMEM || rc == IC_ELIMIT)
        ic_error_set(e, rc, "session %s: no room for a config of %zu bytes", id, size);
    ic_store_done(row);
    return rc > 0 ? IC_OK : rc;
}

/* Runs an UPDATE of one session and says so when there was none. */
static int updated(ic_store *s, const char *id, int rc, ic_error *e)
{
    if (rc == IC_OK && sqlite3_changes(s->db) == 0)
        return not_found(id, e);
    return rc;
}

int ic_store_session_set_config(ic_store *s, const char *id, uint32_t version, const void *config,
                                size_t config_bytes, ic_error *e)
{
    int rc = check_config(config_bytes, e);
    if (rc)
        return rc;
    rc = ic_store_do(s, IC_SQL_SESSION_SET_CONFIG, e, "tiib", id, (int64_t)version,
                     config_sum(version, config, config_bytes), config, config_bytes);
    return updated(s, id, rc, e);
}

int ic_store_session_set_title(ic_store *s, const char *id, const char *title, ic_error *e)
{
    int rc = ic_store_check_line("the title", title, IC_STORE_TITLE_MAX, e);
    if (rc)
        return rc;
    return updated(s, id, ic_store_do(s, IC_SQL_SESSION_SET_TITLE, e, "tt", id, title), e);
}

int ic_store_session_set_state(ic_store *s, const char *id, uint32_t state, ic_error *e)
{
    int rc = ic_store_do(s, IC_SQL_SESSION_SET_STATE, e, "ti", id, (int64_t)state);
    return updated(s, id, rc, e);
}

int ic_store_session_touch(ic_store *s, const char *id, int64_t used_us,
                           const ic_store_counters *counters, ic_error *e)
{
    const ic_store_counters *c = counters;
    int rc = c ? ic_store_do(s, IC_SQL_SESSION_SET_COUNTERS, e, "tiiiiii", id, used_us, c->turns,
                             c->media, c->frames, c->tokens, c->evicted)
               : ic_store_do(s, IC_SQL_SESSION_SET_USED, e, "ti", id, used_us);
    return updated(s, id, rc, e);
}

/* Folds a prefix to our alphabet; IC_EINVAL when it cannot begin an id. */
static int fold_prefix(const char *prefix, char folded[IC_STORE_ID_CHARS + 1], ic_error *e)
{
    size_t size = strlen(prefix);
    if (size == 0 || size > IC_STORE_ID_CHARS)
        return ic_error_set(e, size ? IC_ENOTFOUND : IC_EINVAL,
                            size ? "there is no session %.40s: an id has %d characters"
                                 : "no session was named%.0s (an id has %d characters)",
                            prefix, IC_STORE_ID_CHARS);
    for (size_t i = 0; i < size; i++) {
        char c = prefix[i];
        folded[i] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
        if (!strchr(alphabet, folded[i]))
            return not_found(prefix, e);
    }
    folded[size] = '\0';
    return IC_OK;
}

int ic_store_session_find(ic_store *s, const char *owner, const char *prefix, ic_store_session *out,
                          ic_error *e)
{
    char folded[IC_STORE_ID_CHARS + 1], names[160] = "";
    int rc = fold_prefix(prefix, folded, e);
    if (rc)
        return rc;
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_SESSION_FIND, e, "tt", folded, owner);
    int found = 0;
    ic_store_session first = {0}, other;
    while ((rc = ic_store_step(s, row, e)) == 1) {
        rc = read_session(row, found ? &other : &first, e);
        if (rc) {
            ic_store_done(row);
            return rc;
        }
        size_t length = strlen(names);
        if (found < 4)
            snprintf(names + length, sizeof names - length, "%s%s", found ? ", " : "",
                     found ? other.id : first.id);
        found++;
    }
    if (rc < 0)
        return rc;
    if (found == 0)
        return not_found(prefix, e);
    if (found > 1)
        return ic_error_set(e, IC_EINVAL, "%s begins several session ids: %s%s; give more of it",
                            prefix, names, found > 4 ? ", ..." : "");
    *out = first;
    return IC_OK;
}

int ic_store_session_list(ic_store *s, const char *owner, ic_store_session_fn *fn, void *arg,
                          ic_error *e)
{
    sqlite3_stmt *row = owner ? ic_store_query(s, IC_SQL_SESSION_LIST_OWNER, e, "t", owner)
                              : ic_store_query(s, IC_SQL_SESSION_LIST, e, "");
    ic_store_session session;
    int rc;
    while ((rc = ic_store_step(s, row, e)) == 1) {
        /* One damaged record must not hide the others: it is listed as far as it reads. */
        read_session(row, &session, NULL);
        int wish = fn(arg, &session);
        if (wish) {
            ic_store_done(row);
            return wish < 0 ? wish : IC_OK;
        }
    }
    return rc;
}

/* Appends the numbers that a query gives to a list. */
static int collect(ic_store *s, enum ic_store_sql which, int64_t n, ic_buf *numbers, ic_error *e)
{
    sqlite3_stmt *row = ic_store_query(s, which, e, "i", n);
    int rc;
    while ((rc = ic_store_step(s, row, e)) == 1) {
        rc = ic_buf_u64(numbers, (uint64_t)sqlite3_column_int64(row, 0));
        if (rc) {
            ic_store_done(row);
            return ic_error_set(e, rc, "store: no memory for a list of numbers");
        }
    }
    return rc;
}

static int delete_rows(ic_store *s, int64_t n, ic_error *e)
{
    static const enum ic_store_sql all[] = {IC_SQL_JOURNAL_TRIM, IC_SQL_EVENT_TRIM};
    static const enum ic_store_sql rest[] = {IC_SQL_TURN_DELETE, IC_SQL_REQUEST_ORPHAN};
    int rc = IC_OK;
    for (size_t i = 0; i < sizeof all / sizeof all[0] && !rc; i++)
        rc = ic_store_do(s, all[i], e, "ii", n, INT64_MAX);
    for (size_t i = 0; i < sizeof rest / sizeof rest[0] && !rc; i++)
        rc = ic_store_do(s, rest[i], e, "i", n);
    return rc;
}

typedef int release_fn(ic_store *s, int64_t n, ic_error *e);

static int release_all(ic_store *s, const ic_buf *numbers, release_fn *release, ic_error *e)
{
    ic_cursor c;
    ic_cursor_init(&c, numbers->data, numbers->size);
    int rc = IC_OK;
    while (!rc && ic_cursor_left(&c) > 0)
        rc = release(s, (int64_t)ic_cursor_u64(&c), e);
    return rc;
}

/* Takes the session's hold off its checkpoints and stored media, and drops what is free then. */
static int delete_bulk(ic_store *s, int64_t n, ic_error *e)
{
    ic_buf points, held;
    ic_buf_init(&points, 0);
    ic_buf_init(&held, 0);
    int rc = collect(s, IC_SQL_SESSION_HOLDS, n, &points, e);
    if (!rc)
        rc = collect(s, IC_SQL_MEDIA_HELD_OF, n, &held, e);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_MARK_DELETE, e, "i", n);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_MEDIA_DELETE, e, "i", n);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_SESSION_DELETE, e, "i", n);
    if (!rc)
        rc = release_all(s, &points, ic_store_checkpoint_release, e);
    if (!rc)
        rc = release_all(s, &held, ic_store_media_release, e);
    if (!rc)
        rc = ic_store_frame_delete(s, n, e);
    ic_buf_fini(&points);
    ic_buf_fini(&held);
    return rc;
}

int ic_store_session_create_hidden(ic_store *s, const char *title, int64_t created_us,
                                   uint32_t config_version, const void *config, size_t config_bytes,
                                   int64_t journal_base, char id[IC_STORE_ID_CHARS + 1],
                                   ic_error *e)
{
    int rc = add_session(s, "", title, created_us, config_version, config, config_bytes, id, e);
    return rc ? rc : ic_store_do(s, IC_SQL_SESSION_SET_BASE, e, "ti", id, journal_base);
}

int ic_store_session_give(ic_store *s, const char *id, const char *owner, const char *title,
                          ic_error *e)
{
    int rc = check_owner(owner, e);
    if (!rc)
        rc = ic_store_check_line("the title", title, IC_STORE_TITLE_MAX, e);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_SESSION_GIVE, e, "ttt", id, owner, title);
    return updated(s, id, rc, e);
}

static int drop_copies(ic_store *s, int64_t n, ic_error *e)
{
    ic_buf copies;
    ic_buf_init(&copies, 0);
    int rc = collect(s, IC_SQL_MARK_COPIES, n, &copies, e);
    if (!rc)
        rc = release_all(s, &copies, ic_store_session_drop, e); /* a copy has no marks */
    ic_buf_fini(&copies);
    return rc;
}

int ic_store_session_drop(ic_store *s, int64_t n, ic_error *e)
{
    int rc = drop_copies(s, n, e);
    if (!rc)
        rc = delete_rows(s, n, e);
    if (!rc)
        rc = delete_bulk(s, n, e);
    s->shrink_wanted = s->shrink_wanted || rc == IC_OK;
    return rc;
}

int ic_store_session_delete(ic_store *s, const char *id, ic_error *e)
{
    int64_t n = 0;
    /* A damaged session can be deleted: what its record names wrongly is in use elsewhere and
     * stays, what it should have named is swept at the next start. */
    bool good;
    int rc = ic_store_begin(s, e);
    if (rc)
        return rc;
    rc = find_row(s, id, &n, &good, e);
    if (!rc)
        rc = ic_store_session_drop(s, n, e);
    ic_failpoint(IC_FAIL_session_delete);
    return ic_store_end(s, rc, e);
}

/* Everything but the events and the request keys. */
static int fork_rows(ic_store *s, int64_t from, const char *id, ic_error *e)
{
    static const enum ic_store_sql copies[] = {IC_SQL_FORK_JOURNAL, IC_SQL_FORK_TURNS,
                                               IC_SQL_FORK_MEDIA, IC_SQL_FORK_USES};
    int64_t n;
    int rc = ic_store_session_row(s, id, &n, e);
    if (!rc)
        rc = ic_store_frame_close(s, from, e);
    for (size_t i = 0; i < sizeof copies / sizeof copies[0] && !rc; i++)
        rc = ic_store_do(s, copies[i], e, "ii", from, n);
    return rc;
}

int ic_store_session_copy(ic_store *s, int64_t from, const char *owner, const char *title,
                          int64_t created_us, char copy_id[IC_STORE_ID_CHARS + 1], ic_error *e)
{
    char fresh[IC_STORE_ID_CHARS + 1];
    int rc = ic_store_check_line("the title", title, IC_STORE_TITLE_MAX, e);
    if (!rc)
        rc = make_id(fresh, e);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_SESSION_FORK, e, "ittti", from, fresh, owner, title, created_us);
    if (!rc)
        rc = fork_rows(s, from, fresh, e);
    if (!rc)
        memcpy(copy_id, fresh, sizeof fresh);
    ic_failpoint(IC_FAIL_session_copy);
    return rc;
}

static int read_owner(ic_store *s, int64_t n, char owner[IC_STORE_OWNER_MAX + 1], ic_error *e)
{
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_SESSION_OWNER, e, "i", n);
    int rc = ic_store_step(s, row, e);
    owner[0] = '\0';
    if (rc != 1)
        return rc;
    ic_store_copy_text(owner, IC_STORE_OWNER_MAX + 1, row, 0);
    ic_store_done(row);
    return IC_OK;
}

int ic_store_session_fork(ic_store *s, const char *id, const char *at, const char *title,
                          int64_t created_us, char fork_id[IC_STORE_ID_CHARS + 1], ic_error *e)
{
    char owner[IC_STORE_OWNER_MAX + 1];
    int64_t n, from;
    int rc = ic_store_begin(s, e);
    if (rc)
        return rc;
    rc = ic_store_session_row(s, id, &n, e);
    from = n;
    if (!rc)
        rc = read_owner(s, n, owner, e);
    if (!rc && at)
        rc = ic_store_mark_row(s, id, n, at, &from, e);
    if (!rc)
        rc = ic_store_session_copy(s, from, owner, title, created_us, fork_id, e);
    return ic_store_end(s, rc, e);
}
