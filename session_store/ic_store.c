/* Opening and closing: the lock, the checks before anything is written, the settings, the schema.
 *
 * Order matters: the lock first (so that no other server and no other handle of this process has
 * the file: closing any descriptor of it would drop SQLite's own locks), then a look at the raw
 * header, then SQLite. A file that is not ours, or is newer, is closed as it was found. */
#include "session_store/ic_store_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/ic_clock.h"
#include "base/ic_mem.h"

/* Of linux/magic.h's newer editions. */
#define MAGIC_CIFS 0xff534d42
#define MAGIC_SMB2 0xfe534d42
#define MAGIC_CEPH 0x00c36400

static const char *network_name(uint32_t magic)
{
    switch (magic) {
    case NFS_SUPER_MAGIC:
        return "NFS";
    case SMB_SUPER_MAGIC:
    case MAGIC_CIFS:
    case MAGIC_SMB2:
        return "SMB";
    case V9FS_MAGIC:
        return "9p";
    case AFS_SUPER_MAGIC:
        return "AFS";
    case CODA_SUPER_MAGIC:
        return "Coda";
    case MAGIC_CEPH:
        return "Ceph";
    default:
        return NULL;
    }
}

/* Makes the folder of path and its missing parents, private. */
static int make_folder(const char *path, ic_error *e)
{
    char part[PATH_MAX];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return ic_error_set(e, IC_EINVAL, "store: the path is too long");
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST)
            return ic_error_set(e, IC_EIO,
                                "store: cannot make the folder %s: %s; make it, or name "
                                "another place for the store",
                                part, strerror(errno));
        *slash = '/';
    }
    return IC_OK;
}

/* The one name of the file whatever links lead to it, so that two servers meet at one lock. */
static int settle_path(ic_store *s, const char *path, ic_error *e)
{
    char whole[PATH_MAX], folder[PATH_MAX];
    int rc = make_folder(path, e);
    if (rc)
        return rc;
    if (realpath(path, whole)) {
        s->path = ic_strdup(whole);
    } else {
        const char *slash = strrchr(path, '/');
        int length = slash ? (int)(slash - path) + 1 : 0;
        snprintf(folder, sizeof folder, "%.*s", length, path);
        if (errno != ENOENT || !realpath(slash ? folder : ".", whole))
            return ic_error_set(e, IC_EIO, "store: cannot reach %s: %s", path, strerror(errno));
        s->path = ic_strf("%s/%s", strcmp(whole, "/") ? whole : "", slash ? slash + 1 : path);
    }
    struct statfs fs;
    snprintf(folder, sizeof folder, "%s", s->path);
    *strrchr(folder, '/') = '\0';
    if (statfs(folder[0] ? folder : "/", &fs) != 0)
        return ic_error_set(e, IC_EIO, "store: cannot look at %s: %s", folder, strerror(errno));
    const char *network = network_name((uint32_t)fs.f_type);
    if (network)
        return ic_error_set(e, IC_EUNSUPPORTED,
                            "store: %s lies on a network file system (%s), whose locks and syncs "
                            "cannot be trusted; put it on a local disk",
                            s->path, network);
    return IC_OK;
}

static int say_who_has_it(const ic_store *s, int fd, ic_error *e)
{
    char text[32] = "";
    ssize_t count = pread(fd, text, sizeof text - 1, 0);
    long pid = count > 0 ? strtol(text, NULL, 10) : 0;
    return ic_error_set(e, IC_EBUSY,
                        "store: %s is in use by process %ld; stop that server or name "
                        "another store",
                        s->path, pid);
}

/* The lock belongs to the open file, not to the process: a second handle in the same process meets
 * it too, and the kernel drops it however the process ends. The file stays, since removing it
 * would let two servers lock two files of one name. */
static int take_lock(ic_store *s, ic_error *e)
{
    char *name = ic_strf("%s.lock", s->path);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char pid[32];
    int rc = IC_OK;
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        rc = ic_error_set(e, IC_EIO,
                          "store: cannot make %s: %s; the store needs a folder it may "
                          "write to",
                          name, strerror(errno));
    } else if (fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        rc = errno == EAGAIN || errno == EACCES
                 ? say_who_has_it(s, fd, e)
                 : ic_error_set(e, IC_EIO, "store: cannot lock %s: %s", name, strerror(errno));
        close(fd);
    } else {
        s->lock_fd = fd;
        int length = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
        if (ftruncate(fd, 0) != 0 || pwrite(fd, pid, (size_t)length, 0) != length)
            rc = ic_error_set(e, IC_EIO, "store: cannot write %s: %s", name, strerror(errno));
    }
    ic_free(name);
    return rc;
}

/* Makes an empty private file, or looks at the first bytes of the one that is there. */
static int check_header(ic_store *s, ic_error *e)
{
    static const char magic[16] = "SQLite format 3";
    char header[16];
    int fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return ic_error_set(e, IC_EIO, "store: cannot open %s for writing: %s; check its rights",
                            s->path, strerror(errno));
    ssize_t count = pread(fd, header, sizeof header, 0);
    close(fd);
    if (count < 0)
        return ic_error_set(e, IC_EIO, "store: cannot read %s: %s", s->path, strerror(errno));
    if (count > 0 && (count < (ssize_t)sizeof header || memcmp(header, magic, sizeof magic) != 0))
        return ic_error_set(e, IC_EFORMAT,
                            "store: %s is not a store of infchat; it was left as it "
                            "is: name another file, or restore a backup",
                            s->path);
    return IC_OK;
}

static int pragma_get(ic_store *s, const char *text, int64_t *value, ic_error *e)
{
    sqlite3_stmt *row = NULL;
    int rc = sqlite3_prepare_v2(s->db, text, -1, &row, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(row);
    *value = rc == SQLITE_ROW ? sqlite3_column_int64(row, 0) : 0;
    rc = rc == SQLITE_ROW || rc == SQLITE_DONE ? IC_OK : ic_store_fail(s, rc, e, "open it");
    sqlite3_finalize(row);
    return rc;
}

static int execute(ic_store *s, const char *text, ic_error *e)
{
    int rc = sqlite3_exec(s->db, text, NULL, NULL, NULL);
    return rc == SQLITE_OK ? IC_OK : ic_store_fail(s, rc, e, "set it up");
}

/* Whether the file is new (nothing in it yet), ours, or something to refuse. Reads only. */
static int identify(ic_store *s, bool *is_new, int *format, ic_error *e)
{
    int64_t application = 0, version = 0, tables = 0, page = 0;
    int rc = pragma_get(s, "PRAGMA application_id", &application, e);
    if (!rc)
        rc = pragma_get(s, "PRAGMA user_version", &version, e);
    if (!rc)
        rc = pragma_get(s, "SELECT count(*) FROM sqlite_schema", &tables, e);
    if (!rc)
        rc = pragma_get(s, "PRAGMA page_size", &page, e);
    if (rc)
        return rc;
    s->page_bytes = (int)page;
    *is_new = application == 0 && version == 0 && tables == 0;
    *format = (int)(version > 0 && version <= IC_STORE_FORMAT ? version : 0);
    if (*is_new)
        return IC_OK;
    if (application != IC_STORE_APPLICATION_ID)
        return ic_error_set(e, IC_EFORMAT,
                            "store: %s is a database of another program; it was left "
                            "as it is: name another file",
                            s->path);
    if (version > IC_STORE_FORMAT)
        return ic_error_set(e, IC_EVERSION,
                            "store: %s has format %lld, made by a newer infchat; this one reads up "
                            "to %d. It was left as it is: run the newer one",
                            s->path, (long long)version, IC_STORE_FORMAT);
    if (version < 1 || page < IC_STORE_PAGE_LEAST)
        return ic_error_set(e, IC_EFORMAT,
                            "store: %s has format %lld and pages of %lld bytes, "
                            "which no infchat made; restore a backup",
                            s->path, (long long)version, (long long)page);
    return IC_OK;
}

static int connect_file(ic_store *s, const ic_store_config *config, ic_error *e)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
    int rc = sqlite3_open_v2(s->path, &s->db, flags, config->vfs);
    if (rc == SQLITE_OK) /* until it is known to be ours, closing must not touch the file */
        rc = sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_extended_result_codes(s->db, 1);
    if (rc == SQLITE_OK)
        rc = ic_store_add_functions(s);
    if (rc == SQLITE_OK)
        rc = sqlite3_busy_timeout(s->db, s->busy_timeout_ms);
    if (rc != SQLITE_OK)
        return ic_store_fail(s, rc, e, "open it");
    if (sqlite3_db_readonly(s->db, "main") == 1)
        return ic_error_set(e, IC_EIO, "store: %s can only be read; check its rights", s->path);
    return IC_OK;
}

static int on_commit(void *arg, sqlite3 *db, const char *name, int pages)
{
    (void)db, (void)name;
    ic_store *s = arg;
    s->commits++;
    s->wal_bytes = (int64_t)pages * s->page_bytes;
    return SQLITE_OK;
}

/* What is settled before the first table; the file of a creation that was cut off may have its page
 * size already. */
static int settle_page_size(ic_store *s, const ic_store_config *config, ic_error *e)
{
    int64_t page = 0;
    char text[96];
    snprintf(text, sizeof text, "PRAGMA page_size=%d; PRAGMA auto_vacuum=INCREMENTAL;",
             config->page_bytes ? config->page_bytes : IC_STORE_PAGE_BYTES);
    int rc = execute(s, text, e);
    if (!rc)
        rc = pragma_get(s, "PRAGMA page_size", &page, e);
    s->page_bytes = (int)page;
    return rc;
}

static int apply_settings(ic_store *s, const ic_store_config *config, bool is_new, ic_error *e)
{
    int64_t cache = (int64_t)(config->cache_bytes ? config->cache_bytes : (16u << 20)) / 1024;
    char text[256];
    int rc = is_new ? settle_page_size(s, config, e) : IC_OK;
    int64_t pages = config->limit_bytes / (s->page_bytes ? s->page_bytes : 1);
    if (!rc)
        rc = execute(s,
                     "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=FAST;"
                     "PRAGMA temp_store=MEMORY; PRAGMA trusted_schema=OFF;"
                     "PRAGMA cell_size_check=ON; PRAGMA journal_size_limit=67108864;",
                     e);
    snprintf(text, sizeof text, "PRAGMA cache_size=-%lld; PRAGMA max_page_count=%lld;",
             (long long)cache, pages > 0 ? (long long)pages : 4294967294LL);
    if (!rc)
        rc = execute(s, text, e);
    sqlite3_wal_hook(s->db, on_commit, s); /* in the place of SQLite's own checkpointing */
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
    return rc;
}

static int set_format(ic_store *s, int format, ic_error *e)
{
    char text[128];
    snprintf(text, sizeof text, "PRAGMA application_id=%d; PRAGMA user_version=%d;",
             IC_STORE_APPLICATION_ID, format);
    return execute(s, text, e);
}

static int create_first(ic_store *s, ic_error *e)
{
    char text[128];
    int rc = execute(s, ic_store_schema_v1, e);
    snprintf(text, sizeof text,
             "INSERT INTO store_meta(key, value) VALUES('created_us', %lld),"
             "('id', lower(hex(randomblob(16))));",
             (long long)ic_clock_wall_us());
    return rc ? rc : execute(s, text, e);
}

/* From whichever format, or from nothing (0), to today's: in one transaction, so that a store is
 * of the one or of the other. */
static int bring_forward(ic_store *s, int format, ic_error *e)
{
    int rc = ic_store_begin(s, e);
    if (rc)
        return rc;
    if (format == 0)
        rc = create_first(s, e);
    for (int from = format ? format : 1; from < IC_STORE_FORMAT && !rc; from++)
        rc = execute(s, ic_store_migrations[from], e);
    if (!rc)
        rc = set_format(s, IC_STORE_FORMAT, e);
    return ic_store_end(s, rc, e);
}

/* The settings that later depend on how the file was born. */
static int check_settings(ic_store *s, ic_error *e)
{
    int64_t vacuum = 0;
    int rc = pragma_get(s, "PRAGMA auto_vacuum", &vacuum, e);
    if (!rc && vacuum != 2)
        rc = ic_error_set(e, IC_EFORMAT, "store: %s was not made by infchat (auto_vacuum is %lld)",
                          s->path, (long long)vacuum);
    return rc;
}

int ic_store_open(ic_store **s_p, const ic_store_config *config, ic_error *e)
{
    bool is_new = false;
    int format = 0;
    *s_p = NULL;
    if (!config->path || !config->path[0])
        return ic_error_set(e, IC_EINVAL, "store: no file was named");
    if (config->page_bytes
        && (config->page_bytes < IC_STORE_PAGE_LEAST || config->page_bytes > IC_STORE_PAGE_MOST
            || (config->page_bytes & (config->page_bytes - 1))))
        return ic_error_set(e, IC_EINVAL, "store: pages of %d bytes: a power of two from %d to %d",
                            config->page_bytes, IC_STORE_PAGE_LEAST, IC_STORE_PAGE_MOST);
    ic_store *s = ic_alloc(sizeof *s);
    s->lock_fd = -1;
    s->busy_timeout_ms = config->busy_timeout_ms ? config->busy_timeout_ms : 5000;
    ic_buf_init(&s->result, 0);
    int rc = config->must_exist && access(config->path, F_OK) != 0
                 ? ic_error_set(e, IC_ENOTFOUND, "store: there is no file %s", config->path)
                 : settle_path(s, config->path, e);
    if (!rc)
        rc = take_lock(s, e);
    if (!rc)
        rc = check_header(s, e);
    if (!rc)
        rc = connect_file(s, config, e);
    if (!rc)
        rc = identify(s, &is_new, &format, e);
    if (!rc)
        rc = apply_settings(s, config, is_new, e);
    if (!rc && format < IC_STORE_FORMAT)
        rc = bring_forward(s, format, e);
    if (!rc)
        rc = check_settings(s, e);
    if (!rc)
        rc = ic_store_sweep(s, e);
    if (rc)
        ic_store_close(&s);
    *s_p = s;
    return rc;
}

void ic_store_close(ic_store **s_p)
{
    ic_store *s = *s_p;
    if (!s)
        return;
    *s_p = NULL;
    ic_store_forget_writers(s);
    if (s->db)
        ic_store_batch_rollback(s);
    for (int i = 0; i < IC_SQL_COUNT; i++)
        sqlite3_finalize(s->statements[i]);
    sqlite3_close_v2(s->db);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    ic_buf_fini(&s->result);
    ic_free(s->path);
    ic_free(s);
}
