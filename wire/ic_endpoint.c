#include "wire/ic_endpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SOCKET_PATH_MAX = 107 }; /* sun_path without its zero byte */

int ic_endpoint_default_dir(char out[IC_ENDPOINT_MAX], const char *xdg_runtime_dir,
                            unsigned long uid, ic_error *e)
{
    bool is_usable = xdg_runtime_dir && xdg_runtime_dir[0] == '/';
    int size = is_usable ? snprintf(out, IC_ENDPOINT_MAX, "%s/infchat", xdg_runtime_dir)
                         : snprintf(out, IC_ENDPOINT_MAX, "/tmp/infchat-%lu", uid);
    if (size >= IC_ENDPOINT_MAX)
        return ic_error_set(e, IC_ELIMIT, "XDG_RUNTIME_DIR is too long for a socket's path");
    return IC_OK;
}

int ic_endpoint_default(char out[IC_ENDPOINT_MAX], const char *xdg_runtime_dir, unsigned long uid,
                        ic_error *e)
{
    char dir[IC_ENDPOINT_MAX];
    int rc = ic_endpoint_default_dir(dir, xdg_runtime_dir, uid, e);
    if (rc)
        return rc;
    if (strlen(dir) + strlen("/infchatd.sock") > SOCKET_PATH_MAX)
        return ic_error_set(e, IC_ELIMIT,
                            "%.128s/infchatd.sock is longer than the %d bytes of a socket's path; "
                            "name another endpoint",
                            dir, SOCKET_PATH_MAX);
    snprintf(out, IC_ENDPOINT_MAX, "ipc://%.128s/infchatd.sock", dir);
    return IC_OK;
}

/* 127.0.0.0/8 in numbers: a name that merely begins so is somebody else's. */
static bool is_loopback(const char *host)
{
    bool is_numeric = strspn(host, "0123456789.") == strlen(host);
    return (is_numeric && !strncmp(host, "127.", 4)) || !strcmp(host, "::1")
           || !strcmp(host, "localhost");
}

static int parse_tcp(ic_endpoint *ep, const char *rest, const char *text, ic_error *e)
{
    const char *colon = strrchr(rest, ':');
    char *end = NULL;
    if (!colon || colon == rest)
        return ic_error_set(e, IC_EINVAL, "%.200s: tcp needs tcp://host:port", text);
    size_t size = (size_t)(colon - rest);
    if (rest[0] == '[' && rest[size - 1] == ']')
        rest++, size -= 2;
    memcpy(ep->host, rest, size);
    if (strcmp(colon + 1, "*")) {
        long port = strtol(colon + 1, &end, 10);
        if (end == colon + 1 || *end || port < 1 || port > 65535)
            return ic_error_set(e, IC_EINVAL, "%.200s: the port must be 1 to 65535", text);
        ep->port = (int)port;
    }
    ep->kind = IC_ENDPOINT_TCP;
    ep->is_private = is_loopback(ep->host);
    return IC_OK;
}

int ic_endpoint_parse(ic_endpoint *ep, const char *text, ic_error *e)
{
    memset(ep, 0, sizeof *ep);
    if (strlen(text) >= IC_ENDPOINT_MAX)
        return ic_error_set(e, IC_EINVAL, "an endpoint of %zu bytes; %d are allowed", strlen(text),
                            IC_ENDPOINT_MAX - 1);
    if (!strncmp(text, "tcp://", 6))
        return parse_tcp(ep, text + 6, text, e);
    bool is_ipc = !strncmp(text, "ipc://", 6), is_inproc = !strncmp(text, "inproc://", 9);
    const char *rest = text + (is_ipc ? 6 : 9);
    if (!is_ipc && !is_inproc)
        return ic_error_set(
            e, IC_EINVAL, "%.200s: an endpoint is ipc:///path/of/socket or tcp://host:port", text);
    if (!rest[0] || (is_ipc && rest[0] != '/'))
        return ic_error_set(e, IC_EINVAL, "%.200s: ipc needs an absolute path", text);
    if (is_ipc && strlen(rest) > SOCKET_PATH_MAX)
        return ic_error_set(e, IC_ELIMIT, "%.200s: a socket's path has at most %d bytes", text,
                            SOCKET_PATH_MAX);
    snprintf(ep->path, sizeof ep->path, "%s", rest);
    ep->kind = is_ipc ? IC_ENDPOINT_IPC : IC_ENDPOINT_INPROC;
    ep->is_private = true;
    return IC_OK;
}
