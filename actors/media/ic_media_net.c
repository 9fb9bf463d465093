/* URLs, names and addresses. A host is resolved once, all of its addresses are judged, and the
 * connection goes to an address that was judged: a name that changes its answer in between (DNS
 * rebinding) gains nothing. */
#include "actors/media/ic_media_priv.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/ic_mem.h"

/* --- URLs ------------------------------------------------------------------------------------- */

static int default_port(const char *scheme)
{
    if (strcmp(scheme, "http") == 0)
        return 80;
    if (strcmp(scheme, "https") == 0)
        return 443;
    return strcmp(scheme, "rtsp") == 0 ? 554 : 0;
}

/* Copies [from, to) into a field of `size`; false if it does not fit. */
static bool take(char *field, size_t size, const char *from, const char *to)
{
    size_t n = (size_t)(to - from);
    if (n >= size)
        return false;
    memcpy(field, from, n);
    field[n] = '\0';
    return true;
}

/* "host", "host:port", "[v6]", "[v6]:port" in [from, to). */
static bool parse_authority(ic_media_url *u, const char *from, const char *to)
{
    const char *end = to, *port = NULL;
    if (from < to && *from == '[') {
        end = memchr(from, ']', (size_t)(to - from));
        if (!end || !take(u->host, sizeof u->host, from + 1, end))
            return false;
        port = end + 1;
        if (port != to && *port != ':')
            return false;
    } else {
        port = memchr(from, ':', (size_t)(to - from));
        end = port ? port : to;
        if (!take(u->host, sizeof u->host, from, end))
            return false;
    }
    if (port && port != to) {
        char *rest;
        long n = strtol(port + 1, &rest, 10);
        if (!isdigit((unsigned char)port[1]) || rest != to || n < 1 || n > 65535)
            return false;
        u->port = (int)n;
    }
    for (const char *p = u->host; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("-._:%", *p))
            return false;
    return u->host[0] != '\0';
}

int ic_media_url_parse(ic_media_url *u, const char *text, ic_error *e)
{
    memset(u, 0, sizeof *u);
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p <= ' ' || *p == 0x7f || *p == '\\')
            return ic_error_set(e, IC_EINVAL, "the URL holds a space or a control character");
    const char *colon = strstr(text, "://");
    if (!colon || !take(u->scheme, sizeof u->scheme, text, colon))
        return ic_error_set(e, IC_EINVAL, "'%.80s' is not a URL of http, https or rtsp", text);
    for (char *p = u->scheme; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    u->port = default_port(u->scheme);
    if (!u->port)
        return ic_error_set(e, IC_EINVAL,
                            "the scheme '%s' is not open to media: use http, https or rtsp",
                            u->scheme);
    const char *authority = colon + 3, *path = authority + strcspn(authority, "/?#");
    const char *at = NULL;
    for (const char *p = authority; p < path; p++)
        if (*p == '@')
            at = p;
    bool ok = !at || take(u->user, sizeof u->user, authority, at);
    ok = ok && parse_authority(u, at ? at + 1 : authority, path);
    const char *fragment = path + strcspn(path, "#");
    if (ok && *path == '/') {
        ok = take(u->target, sizeof u->target, path, fragment);
    } else if (ok) {
        u->target[0] = '/';
        ok = take(u->target + 1, sizeof u->target - 1, path, fragment);
    }
    return ok ? IC_OK : ic_error_set(e, IC_EINVAL, "the URL '%.120s' cannot be read", text);
}

/* --- addresses -------------------------------------------------------------------------------- */

typedef struct net4 {
    uint32_t base;
    int bits;
} net4;

static bool is_public_v4(uint32_t a)
{
    /* IANA's special-purpose registry, and multicast and above. */
    static const net4 special[] = {
        {0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},  {0xa9fe0000, 16},
        {0xac100000, 12}, {0xc0000000, 24}, {0xc0000200, 24}, {0xc0586300, 24}, {0xc0a80000, 16},
        {0xc6120000, 15}, {0xc6336400, 24}, {0xcb007100, 24}, {0xe0000000, 3},
    };
    for (size_t i = 0; i < sizeof special / sizeof special[0]; i++)
        if ((a ^ special[i].base) >> (32 - special[i].bits) == 0)
            return false;
    return true;
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool is_public_v6(const uint8_t a[16])
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    static const uint8_t nat64[12] = {0, 0x64, 0xff, 0x9b};
    if (memcmp(a, mapped, 12) == 0 || memcmp(a, nat64, 12) == 0)
        return is_public_v4(be32(a + 12));
    if (a[0] == 0x20 && a[1] == 0x02) /* 6to4 carries an IPv4 address */
        return is_public_v4(be32(a + 2));
    if ((a[0] & 0xe0) != 0x20) /* global unicast is 2000::/3; ::1, fc00, fe80, ff00 are not in it */
        return false;
    bool teredo_or_orchid = a[0] == 0x20 && a[1] == 0x01 && a[2] < 0x02;
    bool documentation = a[0] == 0x20 && a[1] == 0x01 && a[2] == 0x0d && a[3] == 0xb8;
    return !teredo_or_orchid && !documentation;
}

bool ic_media_address_is_public(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return is_public_v4(ntohl(((const struct sockaddr_in *)(const void *)sa)->sin_addr.s_addr));
    if (sa->sa_family == AF_INET6)
        return is_public_v6(((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr.s6_addr);
    return false;
}

void ic_media_address_text(const ic_media_address *a, char *text, size_t size)
{
    char host[NI_MAXHOST] = "";
    if (getnameinfo((const struct sockaddr *)&a->sa, a->length, host, sizeof host, NULL, 0,
                    NI_NUMERICHOST)
        != 0)
        host[0] = '\0';
    snprintf(text, size, a->sa.ss_family == AF_INET6 ? "[%.*s]" : "%.*s", (int)size - 3, host);
}

/* --- resolving: getaddrinfo cannot be interrupted, so it runs in a thread of its own -----------
 */

typedef struct lookup {
    char host[256], port[8];
    atomic_int references; /* the asker and the thread; the last one frees */
    atomic_bool done;
    int rc;
    struct addrinfo *list;
} lookup;

static void lookup_unref(lookup *l)
{
    if (atomic_fetch_sub(&l->references, 1) != 1)
        return;
    if (l->list)
        freeaddrinfo(l->list);
    ic_free(l);
}

static void *lookup_run(void *arg)
{
    lookup *l = arg;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    l->rc = getaddrinfo(l->host, l->port, &hints, &l->list);
    if (l->rc != 0)
        l->list = NULL;
    atomic_store(&l->done, true);
    lookup_unref(l);
    return NULL;
}

static int lookup_start(const ic_media_url *u, lookup **out)
{
    lookup *l = ic_alloc(sizeof *l);
    snprintf(l->host, sizeof l->host, "%s", u->host);
    snprintf(l->port, sizeof l->port, "%d", u->port);
    atomic_init(&l->references, 2);
    pthread_t thread;
    if (pthread_create(&thread, NULL, lookup_run, l) != 0) {
        ic_free(l);
        return IC_ENOMEM;
    }
    pthread_detach(thread);
    *out = l;
    return IC_OK;
}

static int judge(const ic_media_url *u, bool allow_private, const struct addrinfo *list,
                 ic_media_address *out, size_t *count, ic_error *e)
{
    *count = 0;
    for (const struct addrinfo *a = list; a; a = a->ai_next) {
        if (!allow_private && !ic_media_address_is_public(a->ai_addr))
            return ic_error_set(e, IC_EINVAL,
                                "'%s' has a private, loopback or special address: the server does "
                                "not open those unless its configuration allows them",
                                u->host);
        if (*count < IC_MEDIA_MAX_ADDRESSES && a->ai_addrlen <= sizeof out[0].sa) {
            memset(&out[*count], 0, sizeof out[0]);
            memcpy(&out[*count].sa, a->ai_addr, a->ai_addrlen);
            out[(*count)++].length = a->ai_addrlen;
        }
    }
    return *count ? IC_OK : ic_error_set(e, IC_ENOTFOUND, "no address for '%s'", u->host);
}

int ic_media_resolve(const ic_media_url *u, bool allow_private, const ic_media_guard *g,
                     ic_media_address *out, size_t *count, ic_error *e)
{
    lookup *l = NULL;
    int rc = lookup_start(u, &l);
    if (rc != IC_OK)
        return ic_error_set(e, rc, "no thread to look up '%s'", u->host);
    for (int waited_ms = 0; rc == IC_OK && !atomic_load(&l->done); waited_ms++) {
        nanosleep(&(struct timespec){.tv_nsec = (waited_ms < 5 ? 1 : 20) * 1000000L}, NULL);
        rc = ic_media_guard_check(g);
    }
    if (rc != IC_OK)
        ic_error_set(e, rc, "looking up '%s' %s", u->host,
                     rc == IC_ETIMEOUT ? "took too long" : "was stopped");
    else if (l->rc != 0)
        rc = ic_error_set(e, IC_ENOTFOUND, "no host '%s': %s", u->host, gai_strerror(l->rc));
    else
        rc = judge(u, allow_private, l->list, out, count, e);
    lookup_unref(l);
    return rc;
}

/* --- connecting ------------------------------------------------------------------------------- */

int ic_media_wait_fd(int fd, short events, const ic_media_guard *g)
{
    for (;;) {
        int rc = ic_media_guard_check(g);
        if (rc != IC_OK)
            return rc;
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, IC_MEDIA_SLICE_MS);
        if (n > 0)
            return IC_OK;
        if (n < 0 && errno != EINTR)
            return IC_EIO;
    }
}

static int connect_one(const ic_media_address *a, const ic_media_guard *g, int *out)
{
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return IC_EIO;
    int rc = IC_OK, problem = 0;
    socklen_t size = sizeof problem;
    if (connect(fd, (const struct sockaddr *)&a->sa, a->length) != 0) {
        rc = errno == EINPROGRESS ? ic_media_wait_fd(fd, POLLOUT, g) : IC_EIO;
        if (rc == IC_OK
            && (getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &size) != 0 || problem != 0))
            rc = IC_EIO;
    }
    if (rc != IC_OK)
        close(fd);
    else
        *out = fd;
    return rc;
}

int ic_media_connect(const ic_media_address *list, size_t count, const ic_media_url *u,
                     const ic_media_guard *g, int *fd, ic_error *e)
{
    int rc = IC_EIO;
    for (size_t i = 0; i < count && rc == IC_EIO; i++)
        rc = connect_one(&list[i], g, fd);
    if (rc != IC_OK)
        ic_error_set(e, rc, "%s port %d: %s", u->host, u->port,
                     rc == IC_ETIMEOUT    ? "no connection in time"
                     : rc == IC_ECANCELED ? "stopped"
                                          : "cannot connect");
    return rc;
}
