/* ic_endpoint: where the daemon listens and its clients look, as strings. Pure: the caller reads
 * the environment and makes the folder. */
#ifndef IC_ENDPOINT_H
#define IC_ENDPOINT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/ic_err.h"

enum { IC_ENDPOINT_MAX = 256 };

/* The private folder of the default endpoint: <xdg_runtime_dir>/infchat, or /tmp/infchat-<uid> when
 * xdg_runtime_dir is NULL, empty or not absolute. The daemon makes it with mode 0700. */
IC_MUST_CHECK int ic_endpoint_default_dir(char out[IC_ENDPOINT_MAX], const char *xdg_runtime_dir,
                                          unsigned long uid, ic_error *e);

/* "ipc://<that folder>/infchatd.sock". IC_ELIMIT when the path is longer than a socket's may be. */
IC_MUST_CHECK int ic_endpoint_default(char out[IC_ENDPOINT_MAX], const char *xdg_runtime_dir,
                                      unsigned long uid, ic_error *e);

/* What an endpoint is. IC_EINVAL for anything but ipc:///absolute/path, tcp://host:port and
 * inproc://name. */
typedef struct ic_endpoint {
    enum { IC_ENDPOINT_IPC, IC_ENDPOINT_TCP, IC_ENDPOINT_INPROC } kind;
    char host[IC_ENDPOINT_MAX]; /* tcp: as written, IPv6 without its brackets; "*" for all */
    int port;                   /* tcp: 1 to 65535, or 0 for "*" (any free one) */
    char path[IC_ENDPOINT_MAX]; /* ipc: the socket's path; inproc: the name */
    bool is_private; /* reachable from this machine alone: ipc, inproc, tcp on loopback */
} ic_endpoint;

IC_MUST_CHECK int ic_endpoint_parse(ic_endpoint *ep, const char *text, ic_error *e);

#endif
