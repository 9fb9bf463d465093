/* session_store over a disk that fails: a shim VFS lets the N-th operation fail (once, or from then
 * on), cuts writes short, counts syncs, and can lose what was not synced, as a power failure does.
 * After each fault the store is opened on a sound disk and must hold the old or the new state,
 * never something between. IC_NEEDS_SERVER */
#include "ic_test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sqlite3.h>

#include "base/ic_mem.h"
#include "session_store/ic_store.h"

/* ---- the shim ------------------------------------------------------------------------------- */

enum fault { FAULT_ERROR, FAULT_SHORT_WRITE, FAULT_FULL };

/* A write since the file's last sync, so that losing power can take it back. */
struct unsynced {
    char path[320];
    sqlite3_int64 at, old_size;
    int count, old_count;
    uint8_t *old_bytes, *new_bytes; /* new_bytes NULL: a truncation to `at` */
    struct unsynced *next;          /* the one before */
};

static struct {
    sqlite3_vfs *real;
    int64_t countdown; /* operations until the fault; 0: none planned */
    bool persistent, failing;
    enum fault kind;
    int64_t operations, syncs;
    bool record;
    struct unsynced *last;
} disk;

struct shim_file {
    sqlite3_file base;
    char path[320];
    sqlite3_file *real;
};

static sqlite3_file *real_of(sqlite3_file *f)
{
    return ((struct shim_file *)f)->real;
}

/* Whether this operation is the one to fail. */
static bool fails(void)
{
    disk.operations++;
    if (disk.failing)
        return disk.persistent;
    if (disk.countdown == 0 || --disk.countdown > 0)
        return false;
    disk.failing = true;
    return true;
}

static int shim_close(sqlite3_file *f)
{
    int rc = real_of(f)->pMethods->xClose(real_of(f));
    free(real_of(f));
    return rc;
}

static int shim_read(sqlite3_file *f, void *to, int count, sqlite3_int64 at)
{
    return fails() ? SQLITE_IOERR_READ : real_of(f)->pMethods->xRead(real_of(f), to, count, at);
}

/* Notes what a write or a truncation is about to replace. */
static void note_change(sqlite3_file *f, const void *bytes, int count, sqlite3_int64 at)
{
    sqlite3_file *real = real_of(f);
    struct unsynced *u = calloc(1, sizeof *u);
    strcpy(u->path, ((struct shim_file *)f)->path);
    real->pMethods->xFileSize(real, &u->old_size);
    u->at = at;
    u->count = count;
    u->old_count = (int)(bytes ? count : u->old_size - at);
    if (at + u->old_count > u->old_size)
        u->old_count = at < u->old_size ? (int)(u->old_size - at) : 0;
    if (u->old_count > 0) {
        u->old_bytes = malloc((size_t)u->old_count);
        real->pMethods->xRead(real, u->old_bytes, u->old_count, at);
    }
    if (bytes)
        u->new_bytes = memcpy(malloc((size_t)count), bytes, (size_t)count);
    u->next = disk.last;
    disk.last = u;
}

static void free_change(struct unsynced *u)
{
    free(u->old_bytes);
    free(u->new_bytes);
    free(u);
}

static void forget_changes(const char *path)
{
    for (struct unsynced **at = &disk.last; *at;) {
        struct unsynced *u = *at;
        if (path && strcmp(u->path, path) != 0) {
            at = &u->next;
        } else {
            *at = u->next;
            free_change(u);
        }
    }
}

static int shim_write(sqlite3_file *f, const void *bytes, int count, sqlite3_int64 at)
{
    sqlite3_file *real = real_of(f);
    if (fails()) {
        if (disk.kind == FAULT_SHORT_WRITE)
            real->pMethods->xWrite(real, bytes, count / 2, at);
        return disk.kind == FAULT_FULL ? SQLITE_FULL : SQLITE_IOERR_WRITE;
    }
    if (disk.record)
        note_change(f, bytes, count, at);
    return real->pMethods->xWrite(real, bytes, count, at);
}

static int shim_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    if (fails())
        return SQLITE_IOERR_TRUNCATE;
    if (disk.record)
        note_change(f, NULL, 0, size);
    return real_of(f)->pMethods->xTruncate(real_of(f), size);
}

static int shim_sync(sqlite3_file *f, int flags)
{
    disk.syncs++;
    if (fails())
        return SQLITE_IOERR_FSYNC;
    forget_changes(((struct shim_file *)f)->path);
    (void)flags; /* a process that dies keeps what it wrote: the test need not wait for the disk */
    return SQLITE_OK;
}

static int shim_size(sqlite3_file *f, sqlite3_int64 *size)
{
    return fails() ? SQLITE_IOERR_FSTAT : real_of(f)->pMethods->xFileSize(real_of(f), size);
}

static int shim_lock(sqlite3_file *f, int level)
{
    return real_of(f)->pMethods->xLock(real_of(f), level);
}

static int shim_unlock(sqlite3_file *f, int level)
{
    return real_of(f)->pMethods->xUnlock(real_of(f), level);
}

static int shim_check_lock(sqlite3_file *f, int *held)
{
    return real_of(f)->pMethods->xCheckReservedLock(real_of(f), held);
}

static int shim_control(sqlite3_file *f, int what, void *arg)
{
    return real_of(f)->pMethods->xFileControl(real_of(f), what, arg);
}

static int shim_sector(sqlite3_file *f)
{
    return real_of(f)->pMethods->xSectorSize(real_of(f));
}

/* Promises nothing: no atomic writes, no safe overwrite. */
static int shim_traits(sqlite3_file *f)
{
    (void)f;
    return 0;
}

static int shim_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **at)
{
    return fails() ? SQLITE_IOERR_SHMMAP
                   : real_of(f)->pMethods->xShmMap(real_of(f), page, size, extend, at);
}

static int shim_shm_lock(sqlite3_file *f, int offset, int count, int flags)
{
    return real_of(f)->pMethods->xShmLock(real_of(f), offset, count, flags);
}

static void shim_shm_barrier(sqlite3_file *f)
{
    real_of(f)->pMethods->xShmBarrier(real_of(f));
}

static int shim_shm_unmap(sqlite3_file *f, int remove_it)
{
    return real_of(f)->pMethods->xShmUnmap(real_of(f), remove_it);
}

static const sqlite3_io_methods shim_methods = {
    .iVersion = 2,
    .xClose = shim_close,
    .xRead = shim_read,
    .xWrite = shim_write,
    .xTruncate = shim_truncate,
    .xSync = shim_sync,
    .xFileSize = shim_size,
    .xLock = shim_lock,
    .xUnlock = shim_unlock,
    .xCheckReservedLock = shim_check_lock,
    .xFileControl = shim_control,
    .xSectorSize = shim_sector,
    .xDeviceCharacteristics = shim_traits,
    .xShmMap = shim_shm_map,
    .xShmLock = shim_shm_lock,
    .xShmBarrier = shim_shm_barrier,
    .xShmUnmap = shim_shm_unmap,
};

static int shim_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *f, int flags, int *out)
{
    (void)vfs;
    struct shim_file *shim = (struct shim_file *)f;
    f->pMethods = NULL;
    if (fails())
        return SQLITE_CANTOPEN;
    shim->real = calloc(1, (size_t)disk.real->szOsFile);
    snprintf(shim->path, sizeof shim->path, "%s", name ? name : "");
    int rc = disk.real->xOpen(disk.real, name, shim->real, flags, out);
    if (rc == SQLITE_OK)
        f->pMethods = &shim_methods;
    else
        free(shim->real);
    return rc;
}

static int shim_delete(sqlite3_vfs *vfs, const char *name, int sync_folder)
{
    (void)vfs;
    if (fails())
        return SQLITE_IOERR_DELETE;
    forget_changes(name);
    return disk.real->xDelete(disk.real, name, sync_folder);
}

static int shim_access(sqlite3_vfs *vfs, const char *name, int flags, int *result)
{
    (void)vfs;
    return disk.real->xAccess(disk.real, name, flags, result);
}

static int shim_full_name(sqlite3_vfs *vfs, const char *name, int size, char *out)
{
    (void)vfs;
    return disk.real->xFullPathname(disk.real, name, size, out);
}

static void register_shim(void)
{
    static sqlite3_vfs shim;
    disk.real = sqlite3_vfs_find(NULL);
    shim = *disk.real;
    shim.zName = "shim";
    shim.pNext = NULL;
    shim.szOsFile = sizeof(struct shim_file);
    shim.xOpen = shim_open;
    shim.xDelete = shim_delete;
    shim.xAccess = shim_access;
    shim.xFullPathname = shim_full_name;
    assert_int_equal(sqlite3_vfs_register(&shim, 0), SQLITE_OK);
}

static void plan(int64_t n, bool persistent, enum fault kind)
{
    disk.countdown = n;
    disk.failing = false;
    disk.persistent = persistent;
    disk.kind = kind;
}

/* ---- losing power ------------------------------------------------------------------------------
 */

static uint64_t random_state = 362436069u;

static void put_back(const struct unsynced *u)
{
    int fd = open(u->path, O_RDWR);
    if (fd < 0)
        return;
    if (u->old_count > 0)
        assert_int_equal(pwrite(fd, u->old_bytes, (size_t)u->old_count, u->at), u->old_count);
    assert_int_equal(ftruncate(fd, u->old_size), 0);
    close(fd);
}

static void apply_again(const struct unsynced *u)
{
    int fd = open(u->path, O_RDWR);
    if (fd < 0)
        return;
    int count =
        ic_test_draw(&random_state, 4) ? u->count : u->count / 2 / 512 * 512; /* some are torn */
    if (u->new_bytes)
        assert_int_equal(pwrite(fd, u->new_bytes, (size_t)count, u->at), count);
    else
        assert_int_equal(ftruncate(fd, u->at), 0);
    close(fd);
}

/* Takes every unsynced change back, newest first, then lets a random part of them have happened
 * after all: the disk wrote them in another order. The files must be closed. */
static void lose_power(void)
{
    struct unsynced *list[4096];
    int count = 0;
    for (struct unsynced *u = disk.last; u; u = u->next) {
        assert_true(count < 4096);
        list[count++] = u;
        put_back(u);
    }
    for (int i = count - 1; i >= 0; i--)
        if (ic_test_draw(&random_state, 2))
            apply_again(list[i]);
    forget_changes(NULL);
}

/* ---- the work, and what must hold after it ------------------------------------------------------
 */

static char path[300], id[IC_STORE_ID_CHARS + 1];
static uint8_t bytes[150000];

/* What the work was told is done. */
struct told {
    int64_t journal, checkpoint;
    bool deleted;
};

/* The base from which each run starts: a session with 3 records, two of them frames that are kept,
 * and a checkpoint of 2 segments that covers the first; a second session that is to be deleted.
 * Kept as the files' bytes. */
static char victim[IC_STORE_ID_CHARS + 1];
static uint8_t *base_bytes;
static size_t base_size;

static int write_checkpoint(ic_store *s, int seed, int64_t seq, ic_error *e)
{
    ic_store_writer *w = NULL;
    ic_store_segment segments[2];
    int64_t seeds[2] = {seed, seed + 1};
    int rc = ic_store_checkpoint_begin(s, id, &w, e);
    for (int i = 0; i < 2 && !rc; i++) {
        memset(bytes, seed + i, sizeof bytes);
        rc = ic_store_checkpoint_segment(w, 1, bytes, sizeof bytes, &segments[i], e);
    }
    ic_store_manifest m = {.numerics = "n",
                           .time_us = seed,
                           .journal_seq = seq,
                           .state = seeds,
                           .state_bytes = sizeof seeds,
                           .segments = segments,
                           .segment_count = 2};
    if (!rc)
        rc = ic_store_checkpoint_finish(&w, &m, e);
    ic_store_checkpoint_abort(&w);
    return rc;
}

static int append_frame(ic_store *s, ic_store_hold hold, int64_t *number, ic_error *e)
{
    static const uint8_t pixels[40000];
    ic_store_frame f = {.kind = 1,
                        .time_us = 1,
                        .media = 1,
                        .hold = hold,
                        .head = "abc",
                        .head_bytes = 3,
                        .bulk = pixels,
                        .bulk_bytes = sizeof pixels};
    return ic_store_frame_append(s, id, &f, number, e);
}

static void restore_base(void)
{
    char name[320];
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(base_bytes, 1, base_size, f), base_size);
    fclose(f);
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s%s", path, i ? "-shm" : "-wal");
        unlink(name);
    }
}

static void make_base(void)
{
    ic_error e = {0};
    ic_store *s = NULL;
    struct stat info;
    snprintf(path, sizeof path, "%s/faults/store.db", ic_test_dir());
    ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = path}, &e), &e);
    ic_assert_ok(ic_store_session_create(s, "local", "", 1, 1, "", 0, id, &e), &e);
    ic_assert_ok(ic_store_session_create(s, "local", "", 1, 1, "", 0, victim, &e), &e);
    for (int i = 0; i < 2; i++)
        ic_assert_ok(append_frame(s, IC_STORE_HOLD_KEEP, NULL, &e), &e);
    ic_assert_ok(ic_store_journal_append(s, id, 1, 1, NULL, "abc", 3, NULL, &e), &e);
    ic_assert_ok(ic_store_journal_append(s, victim, 1, 1, NULL, bytes, sizeof bytes, NULL, &e), &e);
    ic_assert_ok(write_checkpoint(s, 1, 1, &e), &e);
    ic_assert_ok(ic_store_shrink(s, &e), &e);
    ic_store_close(&s);
    FILE *f = fopen(path, "rb");
    assert_int_equal(stat(path, &info), 0);
    base_size = (size_t)info.st_size;
    base_bytes = malloc(base_size);
    assert_int_equal(fread(base_bytes, 1, base_size, f), base_size);
    fclose(f);
}

/* Opens, appends alone and in a batch, frames too, writes a checkpoint, drops frames, deletes,
 * shrinks, closes; goes on after
 * failures, as a server does. Returns whether everything succeeded. */
static bool work(struct told *told)
{
    ic_error e = {0};
    ic_store *s = NULL;
    bool all = true;
    *told = (struct told){.journal = 3, .checkpoint = 1};
    if (ic_store_open(&s, &(ic_store_config){.path = path, .vfs = "shim"}, &e) != IC_OK) {
        assert_int_equal(e.code == IC_OK, 0);
        assert_true(strlen(e.text) > 0);
        return false;
    }
    int64_t number = 0;
    if (ic_store_journal_append(s, id, 1, 1, NULL, "abc", 3, &number, &e) == IC_OK)
        told->journal = number;
    else
        all = false;
    int64_t last = told->journal;
    int rc = ic_store_batch_begin(s, &e);
    for (int i = 0; i < 4 && !rc; i++)
        rc = i % 2 ? append_frame(s, IC_STORE_HOLD_REPLAY, &last, &e)
                   : ic_store_journal_append(s, id, 1, 1, NULL, "abc", 3, &last, &e);
    if (!rc)
        rc = ic_store_batch_commit(s, &e);
    ic_store_batch_rollback(s);
    if (!rc)
        told->journal = last;
    all = all && !rc;
    rc = write_checkpoint(s, 5, 2, &e);
    if (!rc)
        told->checkpoint = 5;
    all = all && !rc;
    ic_store_dropped dropped;
    rc = ic_store_frame_limit(s, id, 0, &dropped, &e);
    all = all && !rc;
    rc = ic_store_session_delete(s, victim, &e);
    told->deleted = rc == IC_OK;
    all = all && !rc;
    rc = ic_store_shrink(s, &e);
    all = all && !rc;
    ic_store_close(&s);
    return all;
}

static int check_record(void *arg, const ic_store_record *r)
{
    assert_int_equal(r->size, 3);
    *(int64_t *)arg = r->number;
    return 0;
}

/* Opens on the sound disk: what was acknowledged is there; the rest whole or not at all. */
static void check(const struct told *told)
{
    static uint8_t got[sizeof bytes];
    ic_error e = {0};
    ic_store *s = NULL;
    ic_store_reader *r = NULL;
    ic_store_session session;
    ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = path}, &e), &e);
    ic_assert_ok(ic_store_check(s, &e), &e);
    ic_assert_ok(ic_store_session_get(s, id, &session, &e), &e);
    int64_t last = session.journal_first - 1;
    ic_assert_ok(ic_store_journal_read(s, id, 0, check_record, &last, &e), &e);
    assert_in_range(last, told->journal, told->journal + 5);
    ic_assert_ok(ic_store_checkpoint_open(s, id, &r, &e), &e);
    const ic_store_manifest *m = ic_store_checkpoint_manifest(r);
    assert_true(m->time_us == 5 || (m->time_us == 1 && told->checkpoint == 1));
    assert_int_equal(session.journal_first, m->time_us == 5 ? 3 : 2);
    for (size_t i = 0; i < 2; i++) {
        ic_assert_ok(ic_store_checkpoint_read(r, i, got, &e), &e);
        assert_int_equal(got[0], m->time_us + (int64_t)i);
        assert_memory_equal(got, got + 1, sizeof got - 1);
    }
    ic_store_checkpoint_close(&r);
    int rc = ic_store_session_get(s, victim, &session, &e);
    assert_true(rc == IC_ENOTFOUND || (rc == IC_OK && !told->deleted));
    ic_store_close(&s);
}

static int setup(void **state)
{
    register_shim();
    make_base();
    return ic_test_group_setup(state);
}

static int teardown(void **state)
{
    free(base_bytes);
    sqlite3_vfs_unregister(sqlite3_vfs_find("shim"));
    return ic_test_group_teardown(state);
}

/* Lets the N-th operation fail, N = 1, 2, ... until the work is not touched by it any more. */
static void loop(const char *name, bool persistent, enum fault kind)
{
    struct told told;
    int n = 1;
    for (bool untouched = false; !untouched; n++) {
        restore_base();
        plan(n, persistent, kind);
        bool all = work(&told);
        untouched = !disk.failing;
        assert_true(all || !untouched);
        plan(0, false, FAULT_ERROR);
        check(&told);
        assert_int_equal(ic_mem_live(), 0);
    }
    printf("%s: %d places\n", name, n - 2);
    assert_true(n > 50);
}

/* Ensures that a single failed operation, wherever, leaves the old or the new state, is told, and
 * that the store goes on afterwards. */
static void test_one_error(void **state)
{
    (void)state;
    loop("one error", false, FAULT_ERROR);
}

/* Ensures the same for a disk that fails from some operation on. */
static void test_errors_from_then_on(void **state)
{
    (void)state;
    loop("errors from then on", true, FAULT_ERROR);
}

/* Ensures the same for a write that is cut short, and a disk that is full from then on. */
static void test_short_writes_and_full_disk(void **state)
{
    (void)state;
    loop("short write", false, FAULT_SHORT_WRITE);
    loop("disk full", true, FAULT_FULL);
}

/* Ensures that after a power failure at any operation, with unsynced writes lost, torn or
 * reordered, everything acknowledged is there. */
static void test_power_loss(void **state)
{
    (void)state;
    struct told told;
    int n = 1;
    for (bool untouched = false; !untouched; n++) {
        restore_base();
        disk.record = true;
        plan(n, true, FAULT_ERROR);
        work(&told);
        untouched = !disk.failing;
        plan(0, false, FAULT_ERROR);
        disk.record = false;
        lose_power();
        check(&told);
    }
    printf("power loss: %d places\n", n - 2);
    assert_true(n > 50);
}

/* Ensures that every large allocation that fails is told and changes nothing. */
static void test_allocations(void **state)
{
    (void)state;
    ic_error e = {0};
    int n = 1;
    for (int rc = IC_ENOMEM; rc != IC_OK; n++) {
        restore_base();
        ic_store *s = NULL;
        ic_store_reader *r = NULL;
        ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = path}, &e), &e);
        ic_mem_fail_after(n, 0);
        rc = write_checkpoint(s, 5, 2, &e);
        if (!rc)
            rc = ic_store_checkpoint_open(s, id, &r, &e);
        if (!rc)
            rc = ic_store_checkpoint_verify(r, &e);
        ic_mem_fail_after(0, 0);
        assert_true(rc == IC_OK || rc == IC_ENOMEM);
        assert_true(n < 100);
        ic_store_checkpoint_close(&r);
        ic_store_close(&s);
        check(&(struct told){.journal = 3, .checkpoint = 1});
    }
    printf("failed allocation: %d places\n", n - 2);
}

/* Ensures that a batch of many appends waits for the disk once, and each append alone once too. */
static void test_batch_shares_one_sync(void **state)
{
    (void)state;
    ic_error e = {0};
    ic_store *s = NULL;
    restore_base();
    plan(0, false, FAULT_ERROR);
    ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = path, .vfs = "shim"}, &e), &e);
    for (int i = 0; i < 2; i++) /* a new log's header costs a sync of its own */
        ic_assert_ok(ic_store_journal_append(s, id, 1, 1, NULL, "x", 1, NULL, &e), &e);
    int64_t before = disk.syncs;
    ic_assert_ok(ic_store_batch_begin(s, &e), &e);
    for (int i = 0; i < 100; i++) {
        ic_assert_ok(ic_store_journal_append(s, id, 1, 1, NULL, "abc", 3, NULL, &e), &e);
        ic_assert_ok(ic_store_event_append(s, victim, 1, 1, "abc", 3, NULL, &e), &e);
    }
    assert_int_equal(disk.syncs, before);
    ic_assert_ok(ic_store_batch_commit(s, &e), &e);
    assert_int_equal(disk.syncs, before + 1);
    for (int i = 0; i < 5; i++)
        ic_assert_ok(ic_store_journal_append(s, id, 1, 1, NULL, "abc", 3, NULL, &e), &e);
    assert_int_equal(disk.syncs, before + 6);
    ic_store_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_shares_one_sync),
        cmocka_unit_test(test_one_error),
        cmocka_unit_test(test_errors_from_then_on),
        cmocka_unit_test(test_short_writes_and_full_disk),
        cmocka_unit_test(test_power_loss),
        cmocka_unit_test(test_allocations),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
