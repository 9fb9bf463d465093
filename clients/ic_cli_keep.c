/* Commands about what is kept of a session: its marks, its forks, its export. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ic_mem.h"
#include "clients/ic_cli.h"

int ic_cli_mark(ic_cli *cli, const ic_wire_id *key, ic_error *e)
{
    bool adds = cli->args->command == IC_CLI_MARK;
    ic_wire_msg m;
    ic_wire_msg_init(&m, adds ? IC_WIRE_MARK : IC_WIRE_UNMARK);
    if (adds) {
        ic_wire_put(&m.mark, mark, session, cli->session);
        ic_wire_put(&m.mark, mark, name, cli->args->text);
    } else {
        ic_wire_put(&m.unmark, unmark, session, cli->session);
        ic_wire_put(&m.unmark, unmark, name, cli->args->text);
    }
    if (key)
        ic_wire_msg_set_key(&m, key);
    return ic_cli_call_plain(cli, &m, e);
}

/* Prints the new session's id, as `new` does. */
int ic_cli_fork(ic_cli *cli, const ic_wire_id *key, ic_error *e)
{
    const ic_cli_args *args = cli->args;
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_FORK);
    ic_wire_put(&m.fork, fork, session, cli->session);
    if (args->at)
        ic_wire_put(&m.fork, fork, at, args->at);
    if (ic_wire_has(&args->create, new, title))
        ic_wire_put(&m.fork, fork, title, args->create.title);
    if (ic_wire_has(&args->sampling, sampling, seed))
        ic_wire_put(&m.fork, fork, seed, args->sampling.seed);
    if (args->same_seed)
        ic_wire_put(&m.fork, fork, same_seed, true);
    if (key)
        ic_wire_msg_set_key(&m, key);
    int rc = ic_cli_call(cli, &m, &reply, e);
    if (!rc && args->json)
        ic_cli_print_ok(cli, &reply.ok);
    else if (!rc)
        printf("%s\n", cli->session);
    ic_wire_msg_fini(&reply);
    return rc;
}

/* --- export -------------------------------------------------------------------------------------
 */

typedef struct export_file {
    const char *name;
    int fd;
    bool can_empty; /* what was written can be taken back */
    uint64_t bytes;
} export_file;

/* The server has forgotten the transfer: what came so far is void. */
static int begin_again(export_file *f, ic_error *e)
{
    if (f->bytes && !f->can_empty)
        return ic_error_set(e, IC_ECLOSED,
                            "the server was restarted in the middle of the export: what came is of "
                            "no use, begin again");
    if (f->bytes && (ftruncate(f->fd, 0) || lseek(f->fd, 0, SEEK_SET) != 0))
        return ic_error_set(e, IC_EIO, "%s: %s", f->name, strerror(errno));
    f->bytes = 0;
    return IC_OK;
}

static int write_piece(void *arg, const void *bytes, size_t size, ic_error *e)
{
    export_file *f = arg;
    if (!bytes)
        return begin_again(f, e);
    for (size_t at = 0; at < size;) {
        ssize_t n = write(f->fd, (const char *)bytes + at, size - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return ic_error_set(e, IC_EIO, "%s: %s", f->name, strerror(errno));
        at += (size_t)n;
    }
    f->bytes += size;
    return IC_OK;
}

/* The last line with --json; else nothing: the file is the result. */
static void print_moved(ic_cli *cli, const char *session, uint64_t bytes)
{
    ic_wire_ok result = {0};
    ic_wire_put(&result, ok, session, session);
    if (bytes)
        ic_wire_put(&result, ok, received, bytes);
    ic_cli_view_json(&cli->view, "result", "ok", &result);
}

/* A file takes its name when all of it is on the disk: what has the name is whole. */
static int export_to(ic_cli *cli, const char *name, export_file *f, ic_error *e)
{
    char *part = ic_strf("%s.part", name);
    f->can_empty = true;
    f->fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rc = f->fd < 0 ? ic_error_set(e, IC_EIO, "%s: %s", part, strerror(errno)) : IC_OK;
    if (!rc)
        rc = ic_client_export(cli->client, cli->session, cli->args->at, write_piece, f, e);
    if (!rc && (fsync(f->fd) || rename(part, name)))
        rc = ic_error_set(e, IC_EIO, "%s: %s", name, strerror(errno));
    if (rc && f->fd >= 0)
        unlink(part);
    if (f->fd >= 0)
        close(f->fd);
    ic_free(part);
    return rc;
}

int ic_cli_export(ic_cli *cli, ic_error *e)
{
    const char *name = cli->args->text;
    export_file f = {.name = name, .fd = STDOUT_FILENO};
    bool is_stdout = strcmp(name, "-") == 0;
    if (is_stdout && cli->args->json)
        return ic_error_set(e, IC_EINVAL, "the file and --json cannot both go to stdout");
    if (is_stdout && isatty(STDOUT_FILENO))
        return ic_error_set(e, IC_EINVAL, "an export is no text for a terminal: name a file");
    int rc = is_stdout
                 ? ic_client_export(cli->client, cli->session, cli->args->at, write_piece, &f, e)
                 : export_to(cli, name, &f, e);
    if (!rc && cli->args->json)
        print_moved(cli, cli->session, f.bytes);
    return rc;
}

/* --- import -------------------------------------------------------------------------------------
 */

/* Prints the new session's id, as `new` does. */
int ic_cli_import(ic_cli *cli, const ic_wire_id *key, ic_error *e)
{
    const ic_cli_args *args = cli->args;
    ic_wire_msg m, reply;
    bool is_stdin = strcmp(args->text, "-") == 0;
    int fd = is_stdin ? STDIN_FILENO : open(args->text, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ic_error_set(e, errno == ENOENT ? IC_ENOTFOUND : IC_EIO, "%s: %s", args->text,
                            strerror(errno));
    ic_wire_msg_init(&m, IC_WIRE_IMPORT);
    if (ic_wire_has(&args->create, new, title))
        ic_wire_put(&m.import, import, title, args->create.title);
    if (key)
        ic_wire_msg_set_key(&m, key);
    int rc = ic_client_import(cli->client, &m, fd, &reply, e);
    if (!rc) {
        snprintf(cli->session, sizeof cli->session, "%s", ic_wire_get(&reply.ok, ok, session, ""));
        if (args->json)
            print_moved(cli, cli->session, 0);
        else
            printf("%s\n", cli->session);
    }
    ic_wire_msg_fini(&reply);
    if (!is_stdin)
        close(fd);
    return rc;
}
