#include "actors/ic_listen.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wire/ic_endpoint.h"
#include "wire/ic_wire.h"

enum { QUEUE = 256 }; /* messages in one client's queue, each way */

/* The folder must be ours and closed to others: who can write there can take the socket's place. */
static int check_folder(const char *path, ic_error *e)
{
    char dir[IC_ENDPOINT_MAX];
    snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    if (!slash || slash == dir)
        return ic_error_set(e, IC_EINVAL, "ipc://%s: the socket needs a folder of its own", path);
    *slash = '\0';
    if (mkdir(dir, 0700) && errno != EEXIST)
        return ic_error_set(e, IC_EIO, "the folder %s cannot be made: %s", dir, strerror(errno));
    struct stat info;
    if (lstat(dir, &info) || !S_ISDIR(info.st_mode))
        return ic_error_set(e, IC_EINVAL, "%s is not a folder", dir);
    if (info.st_uid != geteuid() || (info.st_mode & 077))
        return ic_error_set(e, IC_EINVAL,
                            "%s is not private (mode %03o): chmod 700 it, or choose another folder "
                            "for the socket",
                            dir, info.st_mode & 0777);
    return IC_OK;
}

static int take_lock(ic_listener *l, const char *path, ic_error *e)
{
    char name[IC_ENDPOINT_MAX + 8];
    snprintf(name, sizeof name, "%s.lock", path);
    l->lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (l->lock < 0)
        return ic_error_set(e, IC_EIO, "%s: %s", name, strerror(errno));
    if (flock(l->lock, LOCK_EX | LOCK_NB))
        return ic_error_set(e, IC_EBUSY,
                            "another infchatd listens on ipc://%s: stop it, or choose another "
                            "endpoint with --listen",
                            path);
    return IC_OK;
}

static int make_socket(ic_listener *l, int heartbeat_ms, ic_error *e)
{
    l->sock = zsock_new(ZMQ_ROUTER);
    if (!l->sock)
        return ic_error_set(e, IC_EIO, "no socket: raise the limit of open files (ulimit -n)");
    zsock_set_router_mandatory(l->sock, 1);
    zsock_set_sndhwm(l->sock, QUEUE);
    zsock_set_rcvhwm(l->sock, QUEUE);
    zsock_set_sndtimeo(l->sock, 0);
    zsock_set_rcvtimeo(l->sock, 0);
    zsock_set_linger(l->sock, 0);
    zsock_set_maxmsgsize(l->sock, IC_WIRE_CLIENT_FRAME_MAX);
    zsock_set_heartbeat_ivl(l->sock, heartbeat_ms);
    zsock_set_heartbeat_timeout(l->sock, 3 * heartbeat_ms);
    zsock_set_handshake_ivl(l->sock, 5000);
    return IC_OK;
}

static int open_listener(ic_listener *l, const char *endpoint, int heartbeat_ms, ic_error *e)
{
    ic_endpoint ep;
    int rc = ic_endpoint_parse(&ep, endpoint, e);
    if (rc)
        return rc;
    if (!ep.is_private)
        return ic_error_set(e, IC_EINVAL,
                            "%s can be reached from other machines: that needs CURVE keys, which "
                            "this version does not have; use 127.0.0.1 or an ipc endpoint",
                            endpoint);
    if (ep.kind == IC_ENDPOINT_IPC) {
        rc = check_folder(ep.path, e);
        if (rc == IC_OK)
            rc = take_lock(l, ep.path, e);
    }
    if (rc == IC_OK)
        rc = make_socket(l, heartbeat_ms, e);
    if (rc)
        return rc;
    if (zsock_bind(l->sock, "%s", endpoint) < 0)
        return ic_error_set(e, errno == EADDRINUSE ? IC_EBUSY : IC_EIO,
                            "cannot listen on %s: %s; choose another endpoint with --listen",
                            endpoint, strerror(errno));
    if (ep.kind == IC_ENDPOINT_IPC)
        chmod(ep.path, 0600);
    snprintf(l->endpoint, sizeof l->endpoint, "%s", zsock_endpoint(l->sock));
    return IC_OK;
}

int ic_listener_open(ic_listener *l, const char *endpoint, int heartbeat_ms, ic_error *e)
{
    *l = (ic_listener){.lock = -1};
    int rc = open_listener(l, endpoint, heartbeat_ms, e);
    if (rc)
        ic_listener_close(l, 0);
    return rc;
}

void ic_listener_close(ic_listener *l, int linger_ms)
{
    if (l->sock)
        zsock_set_linger(l->sock, linger_ms);
    zsock_destroy(&l->sock);
    if (l->lock >= 0)
        close(l->lock);
    l->lock = -1;
}
