/* session_store: opening, locking, refusing, sessions. IC_NEEDS_SERVER */
#include "ic_test_store.h"

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sqlite3.h>

#include "base/ic_mem.h"

static char folder[280]; /* of the path given last */

/* A path of its own for each test. */
static const char *fresh_path(void)
{
    static char path[300];
    static int count;
    snprintf(folder, sizeof folder, "%s/s%d", ic_test_dir(), count++);
    snprintf(path, sizeof path, "%s/store.db", folder);
    return path;
}

static int try_open(const char *path, ic_error *e)
{
    ic_store *s = NULL;
    int rc = ic_store_open(&s, &(ic_store_config){.path = path}, e);
    assert_true((rc == IC_OK) == (s != NULL));
    ic_store_close(&s);
    return rc;
}

/* The whole file; caller frees. */
static char *slurp(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *size = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*size + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *size, f), *size);
    fclose(f);
    return bytes;
}

static void new_session(ic_store *s, const char *owner, const char *title, int64_t at_us,
                        char id[IC_STORE_ID_CHARS + 1])
{
    ic_error e = {0};
    ic_assert_ok(ic_store_session_create(s, owner, title, at_us, 3, "cfg", 3, id, &e), &e);
}

/* Ensures that a new store gets its private folder and file and the settings that can never be
 * changed later, and that an empty one opens again. */
static void test_open_makes_a_private_store(void **state)
{
    (void)state;
    const char *path = fresh_path();
    ic_store *s = ic_test_store_reopen(NULL, path);
    ic_store_close(&s);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_int_equal(stat(folder, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    assert_int_equal(ic_test_sql_number(path, "PRAGMA page_size"), 16384);
    assert_int_equal(ic_test_sql_number(path, "PRAGMA auto_vacuum"), 2);
    assert_int_equal(ic_test_sql_number(path, "PRAGMA application_id"), 0x49436874);
    assert_int_equal(ic_test_sql_number(path, "PRAGMA user_version"), IC_STORE_FORMAT);
    assert_int_equal(
        ic_test_sql_number(path, "SELECT sum(1) FROM pragma_journal_mode WHERE journal_mode='wal'"),
        1);
    s = ic_test_store_reopen(NULL, path);
    ic_error e = {0};
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_store_close(&s);
    ic_store_close(&s);
}

/* Ensures that a second opener, in this process or through a link, is told who has the store. */
static void test_second_opener_is_refused(void **state)
{
    (void)state;
    const char *path = fresh_path();
    ic_store *s = ic_test_store_reopen(NULL, path);
    ic_error e = {0};
    char link[320], pid[32];
    assert_int_equal(try_open(path, &e), IC_EBUSY);
    snprintf(pid, sizeof pid, "process %ld", (long)getpid());
    assert_non_null(strstr(e.text, "store.db"));
    assert_non_null(strstr(e.text, pid));
    snprintf(link, sizeof link, "%s.link", path);
    assert_int_equal(symlink(path, link), 0);
    assert_int_equal(try_open(link, &e), IC_EBUSY);
    ic_store_close(&s);
    ic_assert_ok(try_open(link, &e), &e);
}

/* Ensures that the lock of a killed server does not outlive it, and that what it had been told is
 * durable is there. */
static void test_killed_owner_gives_the_store_free(void **state)
{
    (void)state;
    const char *path = fresh_path();
    int pipe_fd[2];
    char id[IC_STORE_ID_CHARS + 1], byte;
    assert_int_equal(pipe(pipe_fd), 0);
    pid_t child = fork();
    if (child == 0) {
        ic_store *own = NULL;
        if (ic_store_open(&own, &(ic_store_config){.path = path}, NULL)
            || ic_store_session_create(own, "local", "t", 1, 1, "", 0, id, NULL)
            || write(pipe_fd[1], id, sizeof id) < 0)
            _exit(1);
        pause();
    }
    assert_int_equal(read(pipe_fd[0], id, sizeof id), sizeof id);
    ic_error e = {0};
    assert_int_equal(try_open(path, &e), IC_EBUSY);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(pipe_fd[1]);
    assert_int_equal(read(pipe_fd[0], &byte, 1), 0);
    close(pipe_fd[0]);
    ic_store *s = ic_test_store_reopen(NULL, path);
    ic_store_session session;
    ic_assert_ok(ic_store_session_get(s, id, &session, &e), &e);
    ic_store_close(&s);
}

/* Ensures that a store of a newer format is refused by name and that no byte of it changes. */
static void test_newer_store_is_left_alone(void **state)
{
    (void)state;
    const char *path = fresh_path();
    ic_store *s = ic_test_store_reopen(NULL, path);
    ic_store_close(&s);
    char newer[80];
    snprintf(newer, sizeof newer, "PRAGMA user_version=%d; CREATE TABLE later(x);",
             IC_STORE_FORMAT + 1);
    ic_test_sql(path, newer);
    size_t before, after;
    char *was = slurp(path, &before);
    ic_error e = {0};
    assert_int_equal(try_open(path, &e), IC_EVERSION);
    assert_non_null(strstr(e.text, "newer"));
    char *is = slurp(path, &after);
    assert_int_equal(before, after);
    assert_memory_equal(was, is, before);
    free(was);
    free(is);
}

/* Ensures that the same holds when the newer format still stands in the log only, as after a
 * crash: neither the file nor the log changes. */
static void test_newer_log_is_left_alone(void **state)
{
    (void)state;
    const char *path = fresh_path();
    ic_store *s = ic_test_store_reopen(NULL, path);
    ic_store_close(&s);
    pid_t child = fork();
    if (child == 0) { /* dies with the change in the log */
        sqlite3 *db = NULL;
        if (sqlite3_open(path, &db) == SQLITE_OK)
            sqlite3_exec(db, "PRAGMA user_version=7", NULL, NULL, NULL);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    char log[320];
    snprintf(log, sizeof log, "%s-wal", path);
    size_t before[2], after[2];
    char *was[2] = {slurp(path, &before[0]), slurp(log, &before[1])};
    assert_true(before[1] > 0);
    ic_error e = {0};
    assert_int_equal(try_open(path, &e), IC_EVERSION);
    char *is[2] = {slurp(path, &after[0]), slurp(log, &after[1])};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(before[i], after[i]);
        assert_memory_equal(was[i], is[i], before[i]);
        free(was[i]);
        free(is[i]);
    }
}

/* Ensures that files of others (text, another program's database, a cut-off store) are refused
 * with a sentence, and kept as they are. */
static void test_foreign_files_are_refused(void **state)
{
    (void)state;
    ic_error e = {0};
    const char *path = fresh_path();
    ic_store *s = ic_test_store_reopen(NULL, path); /* makes the folder */
    ic_store_close(&s);
    FILE *f = fopen(path, "wb");
    fputs("These are my notes, not a database.\n", f);
    fclose(f);
    assert_int_equal(try_open(path, &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "not a store"));
    size_t size;
    char *text = slurp(path, &size);
    assert_memory_equal(text, "These are my notes", 18);
    free(text);
    unlink(path);
    ic_test_sql(path, "CREATE TABLE bookmarks(url)");
    assert_int_equal(try_open(path, &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "another program"));
    assert_int_equal(ic_test_sql_number(path, "SELECT count(*) FROM sqlite_schema"), 1);
    path = fresh_path();
    s = ic_test_store_reopen(NULL, path);
    ic_store_close(&s);
    assert_int_equal(truncate(path, 70000), 0);
    assert_int_equal(try_open(path, &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "damaged"));
}

/* Ensures that a store whose creation was cut off before its schema is finished the next time. */
static void test_half_made_store_is_finished(void **state)
{
    (void)state;
    const char *path = fresh_path();
    ic_store *s = ic_test_store_reopen(NULL, path);
    ic_store_close(&s);
    unlink(path);
    ic_test_sql(path,
                "PRAGMA page_size=65536; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL");
    s = ic_test_store_reopen(NULL, path);
    char id[IC_STORE_ID_CHARS + 1];
    new_session(s, "local", "", 1, id);
    ic_store_close(&s);
    assert_int_equal(ic_test_sql_number(path, "PRAGMA page_size"), 65536);
}

/* Ensures that a store is made with the pages that are asked for and keeps them, whatever is asked
 * for later, with all that is counted in pages right; sizes that SQLite has not are refused. */
static void test_page_sizes(void **state)
{
    (void)state;
    static const int sizes[] = {4096, 16384, 65536};
    static uint8_t bytes[3 << 20];
    ic_error e = {0};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const char *path = fresh_path();
        ic_store *s = NULL;
        ic_store_config config = {.path = path, .page_bytes = sizes[i]};
        ic_assert_ok(ic_store_open(&s, &config, &e), &e);
        char id[IC_STORE_ID_CHARS + 1];
        int64_t used = 0, after = 0;
        ic_store_sizes all;
        struct stat info;
        new_session(s, "local", "", 1, id);
        ic_assert_ok(ic_store_used_bytes(s, &used, &e), &e);
        ic_assert_ok(ic_store_journal_append(s, id, 1, 1, NULL, bytes, sizeof bytes, NULL, &e), &e);
        ic_assert_ok(ic_store_used_bytes(s, &after, &e), &e);
        assert_in_range(after - used, sizeof bytes, sizeof bytes + 4 * sizes[i] + 65536);
        ic_store_close(&s);
        assert_int_equal(ic_test_sql_number(path, "PRAGMA page_size"), sizes[i]);
        config = (ic_store_config){.path = path, .limit_bytes = 8 << 20};
        ic_assert_ok(ic_store_open(&s, &config, &e), &e);
        ic_assert_ok(ic_store_journal_append(s, id, 1, 1, NULL, bytes, sizeof bytes, NULL, &e), &e);
        assert_int_equal(ic_store_journal_append(s, id, 1, 1, NULL, bytes, sizeof bytes, NULL, &e),
                         IC_ELIMIT);
        ic_assert_ok(ic_store_check(s, &e), &e);
        ic_assert_ok(ic_store_session_delete(s, id, &e), &e);
        ic_assert_ok(ic_store_sizes_all(s, &all, &e), &e);
        assert_true(all.free >= 2 * (int64_t)sizeof bytes);
        ic_assert_ok(ic_store_shrink(s, &e), &e);
        assert_int_equal(stat(path, &info), 0);
        assert_true(info.st_size < 40 * sizes[i]);
        ic_store_close(&s);
        assert_int_equal(ic_test_sql_number(path, "PRAGMA page_size"), sizes[i]);
    }
    ic_store *s = NULL;
    const char *path = fresh_path();
    static const int bad[] = {-1, 512, 5000, 131072};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ic_store_config config = {.path = path, .page_bytes = bad[i]};
        assert_int_equal(ic_store_open(&s, &config, &e), IC_EINVAL);
        assert_null(s);
    }
}

/* Ensures that a store opens though a table of it is damaged so that a row which nothing refers to
 * is met on the way through and cannot be found to be deleted; the full check says so. */
static void test_what_cannot_be_swept_is_left(void **state)
{
    (void)state;
    ic_error e = {0};
    const char *path = fresh_path();
    ic_store *s = ic_test_store_reopen(NULL, path);
    ic_store_close(&s);
    ic_test_sql(path, "INSERT INTO media_held VALUES(100, 0x1122334455667701);"
                      "INSERT INTO media_held VALUES(101, 0x1122334455667702);"
                      "INSERT INTO media_held VALUES(102, 0x1122334455667703);"
                      "PRAGMA wal_checkpoint(TRUNCATE)");
    static const uint8_t row[] = {11, 100, 3, 0, 6, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 1};
    size_t size;
    char *bytes = slurp(path, &size);
    char *at = memmem(bytes, size, row, sizeof row);
    assert_non_null(at);
    at[1] = 127; /* the first of them has the highest number now: 127, 101, 102 */
    FILE *f = fopen(path, "r+b");
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
    free(bytes);
    alarm(30); /* if it goes on for ever */
    s = ic_test_store_reopen(NULL, path);
    alarm(0);
    char id[IC_STORE_ID_CHARS + 1];
    new_session(s, "local", "", 1, id);
    assert_int_equal(ic_store_check(s, &e), IC_EFORMAT);
    ic_store_close(&s);
}

/* Runs try_open as somebody without rights and returns its code. */
static int open_as_nobody(const char *path)
{
    pid_t child = fork();
    if (child == 0) {
        if (geteuid() == 0 && (setgroups(0, NULL) || setgid(65534) || setuid(65534)))
            _exit(100);
        ic_store *s = NULL;
        _exit(-ic_store_open(&s, &(ic_store_config){.path = path}, NULL));
    }
    int status;
    waitpid(child, &status, 0);
    return -WEXITSTATUS(status);
}

/* Ensures that a file or folder that may not be written to is an error, not a read-only store. */
static void test_read_only_is_refused(void **state)
{
    (void)state;
    const char *path = fresh_path();
    ic_store *s = ic_test_store_reopen(NULL, path);
    ic_store_close(&s);
    assert_int_equal(chmod(ic_test_dir(), 0755), 0);
    assert_int_equal(chmod(folder, 0555), 0);
    assert_int_equal(chmod(path, 0444), 0);
    assert_int_equal(open_as_nobody(path), IC_EIO);
    char lock[320];
    snprintf(lock, sizeof lock, "%s.lock", path);
    assert_int_equal(chmod(lock, 0666), 0);
    assert_int_equal(open_as_nobody(path), IC_EIO);
    assert_int_equal(chmod(folder, 0700), 0);
}

/* Ensures that a session comes back as it was made, with a well-formed id, and that every setter
 * sets what it says; unknown ids are told. */
static void test_session_fields(void **state)
{
    (void)state;
    const char *path = fresh_path();
    ic_store *s = ic_test_store_reopen(NULL, path);
    char id[IC_STORE_ID_CHARS + 1];
    ic_error e = {0};
    ic_store_session session;
    new_session(s, "ada", "Fischteich – früh", 1000, id);
    assert_int_equal(strlen(id), IC_STORE_ID_CHARS);
    assert_int_equal(strspn(id, "0123456789abcdefghjkmnpqrstvwxyz"), IC_STORE_ID_CHARS);
    ic_assert_ok(ic_store_session_set_title(s, id, "pond", &e), &e);
    ic_assert_ok(ic_store_session_set_state(s, id, 4, &e), &e);
    ic_store_counters counters = {1, 2, 3, 4, 5};
    ic_assert_ok(ic_store_session_touch(s, id, 2000, &counters, &e), &e);
    ic_assert_ok(ic_store_session_touch(s, id, 3000, NULL, &e), &e);
    ic_store_close(&s);
    s = ic_test_store_reopen(NULL, path);
    ic_assert_ok(ic_store_session_get(s, id, &session, &e), &e);
    assert_string_equal(session.id, id);
    assert_string_equal(session.owner, "ada");
    assert_string_equal(session.title, "pond");
    assert_int_equal(session.state, 4);
    assert_int_equal(session.created_us, 1000);
    assert_int_equal(session.used_us, 3000);
    assert_memory_equal(&session.counters, &counters, sizeof counters);
    assert_false(session.has_checkpoint);
    assert_int_equal(session.journal_first, 1);
    assert_int_equal(session.journal_next, 1);
    assert_int_equal(session.event_next, 1);
    uint32_t version = 0;
    ic_buf config;
    ic_buf_init(&config, 0);
    ic_assert_ok(ic_store_session_config(s, id, &version, &config, &e), &e);
    assert_int_equal(version, 3);
    assert_int_equal(config.size, 3);
    assert_memory_equal(config.data, "cfg", 3);
    ic_assert_ok(ic_store_session_set_config(s, id, 9, "", 0, &e), &e);
    ic_buf_clear(&config);
    ic_assert_ok(ic_store_session_config(s, id, &version, &config, &e), &e);
    assert_int_equal(version, 9);
    assert_int_equal(config.size, 0);
    ic_buf_fini(&config);
    const char *nobody = "00000000000000000000000000";
    assert_int_equal(ic_store_session_get(s, nobody, &session, &e), IC_ENOTFOUND);
    assert_int_equal(ic_store_session_set_title(s, nobody, "x", &e), IC_ENOTFOUND);
    assert_int_equal(ic_store_session_set_state(s, nobody, 1, &e), IC_ENOTFOUND);
    assert_int_equal(ic_store_session_touch(s, nobody, 1, NULL, &e), IC_ENOTFOUND);
    assert_int_equal(ic_store_session_delete(s, nobody, &e), IC_ENOTFOUND);
    assert_non_null(strstr(e.text, nobody));
    ic_store_close(&s);
}

/* Ensures that owners and titles that would not fit, would break a line or are not UTF-8 are
 * refused. */
static void test_session_bad_words(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_reopen(NULL, fresh_path());
    ic_error e = {0};
    char id[IC_STORE_ID_CHARS + 1], lengthy[400];
    memset(lengthy, 'x', sizeof lengthy);
    lengthy[399] = '\0';
    static const char *const bad[] = {"two\nlines",   "\x1b[31m",     "\xff",
                                      "\xc0\x80",     "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                      "cut \xe2\x82", "\x7f"};
    assert_int_equal(ic_store_session_create(s, "", "t", 1, 1, "", 0, id, &e), IC_EINVAL);
    assert_int_equal(ic_store_session_create(s, lengthy, "t", 1, 1, "", 0, id, &e), IC_EINVAL);
    assert_int_equal(ic_store_session_create(s, "a", lengthy, 1, 1, "", 0, id, &e), IC_EINVAL);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(ic_store_session_create(s, "a", bad[i], 1, 1, "", 0, id, &e), IC_EINVAL);
    assert_int_equal(ic_store_session_create(s, "a", "\xf0\x9f\x90\x9f 魚", 1, 1, "", 0, id, &e),
                     IC_OK);
    ic_store_close(&s);
}

struct names {
    char title[16][IC_STORE_TITLE_MAX + 1];
    int count, stop_after;
};

static int note_title(void *arg, const ic_store_session *session)
{
    struct names *n = arg;
    strcpy(n->title[n->count++], session->title);
    return n->count == n->stop_after ? 1 : 0;
}

/* Ensures that lists come newest used first, by owner or for all, and stop when asked to. */
static void test_list(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_reopen(NULL, fresh_path());
    ic_error e = {0};
    char a[IC_STORE_ID_CHARS + 1], b[IC_STORE_ID_CHARS + 1], c[IC_STORE_ID_CHARS + 1];
    new_session(s, "ada", "first", 10, a);
    new_session(s, "bob", "second", 20, b);
    new_session(s, "ada", "third", 30, c);
    ic_assert_ok(ic_store_session_touch(s, a, 40, NULL, &e), &e);
    struct names n = {0};
    ic_assert_ok(ic_store_session_list(s, NULL, note_title, &n, &e), &e);
    assert_int_equal(n.count, 3);
    assert_string_equal(n.title[0], "first");
    assert_string_equal(n.title[1], "third");
    assert_string_equal(n.title[2], "second");
    n = (struct names){0};
    ic_assert_ok(ic_store_session_list(s, "ada", note_title, &n, &e), &e);
    assert_int_equal(n.count, 2);
    assert_string_equal(n.title[0], "first");
    n = (struct names){.stop_after = 1};
    ic_assert_ok(ic_store_session_list(s, NULL, note_title, &n, &e), &e);
    assert_int_equal(n.count, 1);
    ic_assert_ok(ic_store_session_list(s, "eve", note_title, &n, &e), &e);
    assert_int_equal(n.count, 1);
    ic_store_close(&s);
}

/* Ensures that a whole id, a unique prefix and its upper case find the session; that an ambiguous
 * prefix lists candidates; that other owners' sessions are not found. */
static void test_find_by_prefix(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_reopen(NULL, fresh_path());
    ic_error e = {0};
    char ids[40][IC_STORE_ID_CHARS + 1], prefix[IC_STORE_ID_CHARS + 1];
    ic_store_session found;
    for (int i = 0; i < 40; i++) /* more than 32: two share a first character */
        new_session(s, "ada", "", i, ids[i]);
    for (int i = 0; i < 40; i++) {
        ic_assert_ok(ic_store_session_find(s, "ada", ids[i], &found, &e), &e);
        assert_string_equal(found.id, ids[i]);
        for (int k = 0; k < 12; k++)
            prefix[k] = (char)(ids[i][k] >= 'a' ? ids[i][k] - 'a' + 'A' : ids[i][k]);
        prefix[12] = '\0';
        ic_assert_ok(ic_store_session_find(s, NULL, prefix, &found, &e), &e);
        assert_string_equal(found.id, ids[i]);
    }
    int first = -1, second = -1;
    for (int i = 0; i < 40 && second < 0; i++)
        for (int k = i + 1; k < 40; k++)
            if (ids[i][0] == ids[k][0])
                first = i, second = k;
    assert_true(second > 0);
    prefix[0] = ids[first][0];
    prefix[1] = '\0';
    assert_int_equal(ic_store_session_find(s, "ada", prefix, &found, &e), IC_EINVAL);
    int named = 0;
    for (int i = 0; i < 40; i++)
        named += strstr(e.text, ids[i]) != NULL;
    assert_true(named >= 2);
    assert_int_equal(ic_store_session_find(s, "bob", ids[0], &found, &e), IC_ENOTFOUND);
    assert_int_equal(ic_store_session_find(s, "ada", "", &found, &e), IC_EINVAL);
    assert_int_equal(ic_store_session_find(s, "ada", "x'--", &found, &e), IC_ENOTFOUND);
    assert_int_equal(ic_store_session_find(s, "ada", "0123456789012345678901234567890", &found, &e),
                     IC_ENOTFOUND);
    ic_store_close(&s);
}

static int call_back_in(void *arg, const ic_store_session *session)
{
    (void)session;
    ic_error e = {0};
    assert_int_equal(ic_store_session_list(arg, NULL, call_back_in, arg, &e), IC_EBUG);
    return 0;
}

/* Ensures that calling a reading function from its own callback is an error, not a wrong read. */
static void test_callback_may_not_reenter(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_reopen(NULL, fresh_path());
    char id[IC_STORE_ID_CHARS + 1];
    ic_error e = {0};
    new_session(s, "ada", "", 1, id);
    ic_assert_ok(ic_store_session_list(s, NULL, call_back_in, s, &e), &e);
    ic_store_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_makes_a_private_store),
        cmocka_unit_test(test_second_opener_is_refused),
        cmocka_unit_test(test_killed_owner_gives_the_store_free),
        cmocka_unit_test(test_newer_store_is_left_alone),
        cmocka_unit_test(test_newer_log_is_left_alone),
        cmocka_unit_test(test_foreign_files_are_refused),
        cmocka_unit_test(test_half_made_store_is_finished),
        cmocka_unit_test(test_page_sizes),
        cmocka_unit_test(test_what_cannot_be_swept_is_left),
        cmocka_unit_test(test_read_only_is_refused),
        cmocka_unit_test(test_session_fields),
        cmocka_unit_test(test_session_bad_words),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_find_by_prefix),
        cmocka_unit_test(test_callback_may_not_reenter),
    };
    return IC_TEST_RUN(tests);
}
