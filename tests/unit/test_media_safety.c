/* ic_media and hostile media: each promise of the header's first part. A small web server in a
 * thread of this program plays the other end. IC_NEEDS_SERVER */
#include "ic_test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "actors/media/ic_media.h"
#include "actors/media/ic_media_priv.h"
#include "base/ic_mem.h"

#define CLIPS IC_SOURCE_DIR "/tests/data/media/"

/* --- helpers ---------------------------------------------------------------------------------- */

static int open_file(const char *path, const char *root, ic_error *e)
{
    const char *roots[] = {root};
    ic_media_source src = {
        .kind = IC_MEDIA_FILE, .name = path, .roots = roots, .roots_count = root ? 1 : 0};
    ic_media_config cfg;
    ic_media_config_init(&cfg);
    ic_media *m = NULL;
    int rc = ic_media_open(&m, &src, &cfg, e);
    assert_true((rc == IC_OK) == (m != NULL));
    ic_media_close(&m);
    return rc;
}

static int open_url(const char *url, bool network, bool private, ic_error *e)
{
    ic_media_source src = {.kind = IC_MEDIA_URL, .name = url};
    ic_media_config cfg;
    ic_media_config_init(&cfg);
    cfg.allow_network = network;
    cfg.allow_private = private;
    ic_media *m = NULL;
    *e = (ic_error){0};
    int rc = ic_media_open(&m, &src, &cfg, e);
    ic_media_close(&m);
    return rc;
}

static int64_t read_stream(void *user, uint8_t *into, size_t size)
{
    return (int64_t)fread(into, 1, size, user);
}

static int seek_stream(void *user, int64_t offset)
{
    return fseek(user, offset, SEEK_SET) == 0 ? IC_OK : IC_EIO;
}

static int open_upload(const char *path, ic_error *e)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    ic_media_source src = {.kind = IC_MEDIA_BYTES,
                           .name = path,
                           .read = read_stream,
                           .seek = seek_stream,
                           .size = -1,
                           .user = f};
    ic_media_config cfg;
    ic_media_config_init(&cfg);
    cfg.allow_network = cfg.allow_private = cfg.allow_camera = true;
    ic_media *m = NULL;
    int rc = ic_media_open(&m, &src, &cfg, e);
    ic_media_close(&m);
    fclose(f);
    return rc;
}

static char *in_dir(const char *name)
{
    return ic_strf("%s/%s", ic_test_dir(), name);
}

static void copy(const char *from, const char *to)
{
    char buffer[65536];
    FILE *a = fopen(from, "rb"), *b = fopen(to, "wb");
    assert_non_null(a);
    assert_non_null(b);
    size_t n = fread(buffer, 1, sizeof buffer, a);
    assert_int_equal(fwrite(buffer, 1, n, b), n);
    fclose(a);
    fclose(b);
}

/* --- files on the server ---------------------------------------------------------------------- */

typedef struct tree {
    char *root, *beside, *clip, *secret, *link_in, *link_out, *folder_out, *fifo, *empty;
} tree;

static tree make_tree(void)
{
    tree t = {.root = in_dir("root"), .beside = in_dir("root-beside")};
    t.clip = ic_strf("%s/clip.mp4", t.root);
    t.secret = ic_strf("%s/secret.mp4", t.beside);
    t.link_in = ic_strf("%s/link_in.mp4", t.root);
    t.link_out = ic_strf("%s/link_out.mp4", t.root);
    t.folder_out = ic_strf("%s/folder", t.root);
    t.fifo = ic_strf("%s/fifo.mp4", t.root);
    t.empty = ic_strf("%s/empty.mp4", t.root);
    mkdir(t.root, 0700);
    mkdir(t.beside, 0700);
    copy(CLIPS "front.mp4", t.clip);
    copy(CLIPS "front.mp4", t.secret);
    assert_int_equal(symlink("clip.mp4", t.link_in), 0);
    assert_int_equal(symlink(t.secret, t.link_out), 0);
    assert_int_equal(symlink(t.beside, t.folder_out), 0);
    assert_int_equal(mkfifo(t.fifo, 0600), 0);
    fclose(fopen(t.empty, "w"));
    return t;
}

static void free_tree(tree *t)
{
    char *all[] = {t->root,     t->beside,     t->clip, t->secret, t->link_in,
                   t->link_out, t->folder_out, t->fifo, t->empty};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ic_free(all[i]);
}

/* Ensures that a file under a root opens, also by a link that stays inside. */
static void test_inside_roots(void **state)
{
    const tree *t = *state;
    ic_error e = {0};
    ic_assert_ok(open_file(t->clip, t->root, &e), &e);
    ic_assert_ok(open_file(t->link_in, t->root, &e), &e);
    ic_assert_ok(open_file(t->clip, "/", &e), &e);
}

/* Ensures that no way leads out of the roots: links, dots, a folder whose name begins alike; and
 * that what is outside and what does not exist are told apart by nothing. */
static void test_outside_roots(void **state)
{
    const tree *t = *state;
    char *dots = ic_strf("%s/../root-beside/secret.mp4", t->root);
    char *by_folder = ic_strf("%s/secret.mp4", t->folder_out);
    char *missing = ic_strf("%s/none.mp4", t->root);
    char *missing_outside = ic_strf("%s/none.mp4", t->beside);
    const char *paths[] = {t->secret, t->link_out, dots, by_folder, missing, missing_outside};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        ic_error e = {0};
        assert_int_equal(open_file(paths[i], t->root, &e), IC_ENOTFOUND);
        char *want = ic_strf("no file '%s' under the server's media roots", paths[i]);
        assert_memory_equal(e.text, want, strlen(want));
        ic_free(want);
    }
    ic_free(dots);
    ic_free(by_folder);
    ic_free(missing);
    ic_free(missing_outside);
}

/* Ensures that without roots nothing on the server opens, and that relative paths are refused. */
static void test_no_roots(void **state)
{
    const tree *t = *state;
    ic_error e = {0};
    assert_int_equal(open_file(t->clip, NULL, &e), IC_EINVAL);
    assert_non_null(strstr(e.text, "upload"));
    assert_int_equal(open_file("clip.mp4", t->root, &e), IC_EINVAL);
    assert_int_equal(open_file("", t->root, &e), IC_EINVAL);
}

/* Ensures that FIFOs, folders and devices are refused without waiting, and an empty file too. */
static void test_special_files(void **state)
{
    const tree *t = *state;
    ic_error e = {0};
    assert_int_equal(open_file(t->fifo, t->root, &e), IC_EINVAL);
    assert_non_null(strstr(e.text, "regular"));
    assert_int_equal(open_file(t->root, t->root, &e), IC_ENOTFOUND);
    assert_int_equal(open_file("/dev/zero", "/dev", &e), IC_EINVAL);
    assert_int_equal(open_file(t->empty, t->root, &e), IC_EFORMAT);
}

/* --- playlists -------------------------------------------------------------------------------- */

/* Ensures that no playlist opens, uploaded or on the server, though the file that it names is
 * there. */
static void test_playlists(void **state)
{
    (void)state;
    static const char *const lists[] = {CLIPS "playlist.m3u8", CLIPS "list.ffconcat",
                                        CLIPS "session.sdp", CLIPS "manifest.mpd"};
    assert_int_equal(chdir(CLIPS), 0);
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        ic_error e = {0};
        assert_int_equal(open_upload(lists[i], &e), IC_EFORMAT);
        assert_non_null(strstr(e.text, "playlist"));
        assert_int_equal(open_file(lists[i], CLIPS, &e), IC_EFORMAT);
        assert_non_null(strstr(e.text, "playlist"));
    }
}

/* Ensures that formats outside of the list do not open, though FFmpeg knows them: subtitles, text,
 * and its own metadata. */
static void test_other_formats(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "1\n00:00:01,000 --> 00:00:02,000\nhello\n\n2\n00:00:03,000 --> 00:00:04,000\nhello\n",
        ";FFMETADATA1\ntitle=a\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1\n",
        "WEBVTT\n\n00:01.000 --> 00:02.000\nhello\n",
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"9\" height=\"9\"></svg>\n",
    };
    char *path = in_dir("text");
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        FILE *f = fopen(path, "w");
        fputs(texts[i], f);
        fclose(f);
        ic_error e = {0};
        assert_int_equal(open_upload(path, &e), IC_EFORMAT);
    }
    ic_free(path);
}

/* --- cameras ---------------------------------------------------------------------------------- */

/* Ensures that a camera needs permission, and that no other device passes for one. */
static void test_cameras(void **state)
{
    (void)state;
    static const char *const names[] = {"/dev/zero", "/dev/video", "/dev/video0/../zero",
                                        "/dev/video99999", "/tmp/x"};
    ic_media_config cfg;
    ic_media_config_init(&cfg);
    ic_media *m = NULL;
    ic_error e = {0};
    ic_media_source src = {.kind = IC_MEDIA_CAMERA, .name = "/dev/video0"};
    assert_int_equal(ic_media_open(&m, &src, &cfg, &e), IC_EINVAL);
    cfg.allow_camera = true;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        src.name = names[i];
        assert_int_equal(ic_media_open(&m, &src, &cfg, &e), IC_ENOTFOUND);
    }
}

/* --- URLs and addresses ----------------------------------------------------------------------- */

/* Ensures that only http, https and rtsp are URLs here, and that broken ones are refused. */
static void test_url_schemes(void **state)
{
    (void)state;
    static const char *const bad[] = {"file:///etc/passwd",
                                      "ftp://example.org/a.mp4",
                                      "concat:a|b",
                                      "pipe:0",
                                      "data:video/mp4;base64,AAAA",
                                      "hls+http://example.org/",
                                      "http://",
                                      "http:///a",
                                      "http://a:0/",
                                      "http://a:99999/",
                                      "http://a:8x/",
                                      "http://[::1/",
                                      "http://a b/",
                                      "http://a/\r\nX: y",
                                      "http://exa%0d%0ample.org\\@b/",
                                      "",
                                      "/etc/passwd"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ic_error e;
        assert_int_equal(open_url(bad[i], true, true, &e), IC_EINVAL);
        assert_true(strlen(e.text) > 0);
    }
}

/* Ensures that URLs are taken apart as RFC 3986 says, the user's part not taken for the host. */
static void test_url_parts(void **state)
{
    (void)state;
    ic_media_url u;
    ic_error e = {0};
    ic_assert_ok(ic_media_url_parse(&u, "HTTP://me:pw@h.example:81/a/b?c=d#e", &e), &e);
    assert_string_equal(u.scheme, "http");
    assert_string_equal(u.user, "me:pw");
    assert_string_equal(u.host, "h.example");
    assert_int_equal(u.port, 81);
    assert_string_equal(u.target, "/a/b?c=d");
    ic_assert_ok(ic_media_url_parse(&u, "https://[2001:db8::1]?x", &e), &e);
    assert_string_equal(u.host, "2001:db8::1");
    assert_int_equal(u.port, 443);
    assert_string_equal(u.target, "/?x");
    ic_assert_ok(ic_media_url_parse(&u, "rtsp://a@b@127.0.0.1/s", &e), &e);
    assert_string_equal(u.host, "127.0.0.1");
}

static bool is_public(const char *text)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
        return ic_media_address_is_public((struct sockaddr *)&v4);
    assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
    return ic_media_address_is_public((struct sockaddr *)&v6);
}

/* Ensures that every special range is known, in IPv4, IPv6 and IPv4 inside IPv6, and that public
 * addresses beside them pass. */
static void test_addresses(void **state)
{
    (void)state;
    static const char *const special[] = {"0.0.0.0",
                                          "10.1.2.3",
                                          "100.64.0.1",
                                          "127.0.0.1",
                                          "127.255.0.1",
                                          "169.254.169.254",
                                          "172.16.0.1",
                                          "172.31.255.255",
                                          "192.168.1.1",
                                          "192.0.0.8",
                                          "192.0.2.1",
                                          "198.18.0.1",
                                          "198.51.100.7",
                                          "203.0.113.9",
                                          "224.0.0.1",
                                          "239.255.255.250",
                                          "255.255.255.255",
                                          "::",
                                          "::1",
                                          "fe80::1",
                                          "fc00::1",
                                          "fd12::1",
                                          "ff02::1",
                                          "::ffff:10.0.0.1",
                                          "::ffff:127.0.0.1",
                                          "64:ff9b::7f00:1",
                                          "2002:7f00:1::",
                                          "2002:c0a8:1::",
                                          "2001:db8::1",
                                          "2001::1",
                                          "::127.0.0.1"};
    static const char *const public[] = {
        "8.8.8.8",         "9.255.255.255",  "11.0.0.0",
        "100.63.0.1",      "100.128.0.1",    "172.15.0.1",
        "172.32.0.1",      "192.167.0.1",    "192.169.0.1",
        "198.17.0.1",      "198.20.0.1",     "223.255.255.255",
        "2606:4700::1111", "::ffff:8.8.8.8", "2001:4860:4860::8888"};
    for (size_t i = 0; i < sizeof special / sizeof special[0]; i++)
        if (is_public(special[i]))
            fail_msg("%s passes for public", special[i]);
    for (size_t i = 0; i < sizeof public / sizeof public[0]; i++)
        if (!is_public(public[i]))
            fail_msg("%s does not pass for public", public[i]);
}

/* --- a web server ----------------------------------------------------------------------------- */

typedef struct server {
    int fd, port;
    pthread_t thread;
    atomic_int connections;
    uint8_t clip[65536];
    size_t size;
} server;

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void send_bytes(int fd, const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        data += n;
        size -= (size_t)n;
    }
}

static void send_chunked(server *s, int fd)
{
    char line[32];
    say(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (size_t at = 0; at < s->size; at += 700) {
        size_t n = s->size - at < 700 ? s->size - at : 700;
        snprintf(line, sizeof line, "%zx\r\n", n);
        say(fd, line);
        send_bytes(fd, s->clip + at, n);
        say(fd, "\r\n");
    }
    say(fd, "0\r\n\r\n");
}

static void send_range(server *s, int fd, const char *request)
{
    char head[256];
    const char *range = strstr(request, "Range: bytes=");
    size_t from = range ? strtoul(range + 13, NULL, 10) : 0;
    from = from < s->size ? from : s->size - 1;
    snprintf(
        head, sizeof head,
        "HTTP/1.1 206 Partial\r\nContent-Length: %zu\r\nContent-Range: bytes %zu-%zu/%zu\r\n\r\n",
        s->size - from, from, s->size - 1, s->size);
    say(fd, head);
    send_bytes(fd, s->clip + from, s->size - from);
}

/* The path says what kind of answer is wanted. */
static void answer(server *s, int fd, const char *request)
{
    static const char redirect[] = "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: ";
    char line[256];
    char path[64] = "";
    sscanf(request, "GET /%63s", path);
    if (strcmp(path, "range") == 0) {
        send_range(s, fd, request);
    } else if (strcmp(path, "plain") == 0 || strcmp(path, "broken") == 0) {
        snprintf(line, sizeof line, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", s->size);
        say(fd, line);
        send_bytes(fd, s->clip, path[0] == 'b' ? s->size / 2 : s->size);
    } else if (strcmp(path, "chunked") == 0) {
        send_chunked(s, fd);
    } else if (strcmp(path, "playlist") == 0) {
        say(fd, "HTTP/1.0 200 OK\r\n\r\n#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n");
    } else if (strcmp(path, "to-file") == 0) {
        say(fd, redirect);
        say(fd, "file:///etc/passwd\r\n\r\n");
    } else if (strcmp(path, "to-rtsp") == 0) {
        say(fd, redirect);
        say(fd, "rtsp://127.0.0.1/x\r\n\r\n");
    } else if (strcmp(path, "once") == 0) {
        say(fd, redirect);
        say(fd, "/range\r\n\r\n");
    } else if (strcmp(path, "loop") == 0) {
        say(fd, redirect);
        say(fd, "loop\r\n\r\n");
    } else if (strcmp(path, "garbage") == 0) {
        say(fd, "SSH-2.0-x\r\n\r\n");
    } else {
        say(fd, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
    }
}

static void *serve(void *arg)
{
    server *s = arg;
    for (;;) {
        int fd = accept(s->fd, NULL, NULL);
        if (fd < 0)
            return NULL;
        atomic_fetch_add(&s->connections, 1);
        char request[4096];
        size_t n = 0;
        while (n < sizeof request - 1) {
            ssize_t got = recv(fd, request + n, sizeof request - 1 - n, 0);
            if (got <= 0)
                break;
            n += (size_t)got;
            request[n] = '\0';
            if (strstr(request, "\r\n\r\n") || request[0] == 0x16) /* a hello of TLS */
                break;
        }
        request[n] = '\0';
        if (n > 0)
            answer(s, fd, request);
        close(fd);
    }
}

static void server_start(server *s)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    FILE *f = fopen(CLIPS "end.mp4", "rb");
    assert_non_null(f);
    s->size = fread(s->clip, 1, sizeof s->clip, f);
    fclose(f);
    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(s->fd, 16), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&a, &size), 0);
    s->port = ntohs(a.sin_port);
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void server_stop(server *s)
{
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
}

static int get(const server *s, const char *host, const char *path, bool private, ic_error *e)
{
    char url[256];
    snprintf(url, sizeof url, "http://%s:%d/%s", host, s->port, path);
    return open_url(url, true, private, e);
}

/* Ensures that URLs need permission, and private addresses another one, in every spelling, and that
 * nothing is sent to them before. */
static void test_private_addresses(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1",    "localhost",  "127.1",
                                        "2130706433",   "0x7f000001", "0.0.0.0",
                                        "017700000001", "[::1]",      "[::ffff:127.0.0.1]"};
    server s = {0};
    ic_error e;
    server_start(&s);
    char url[128];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/range", s.port);
    assert_int_equal(open_url(url, false, true, &e), IC_EINVAL);
    assert_non_null(strstr(e.text, "network"));
    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
        assert_int_equal(get(&s, hosts[i], "range", false, &e), IC_EINVAL);
        assert_non_null(strstr(e.text, "private"));
    }
    snprintf(url, sizeof url, "https://127.0.0.1:%d/range", s.port);
    assert_int_equal(open_url(url, true, false, &e), IC_EINVAL);
    snprintf(url, sizeof url, "rtsp://127.0.0.1:%d/range", s.port);
    assert_int_equal(open_url(url, true, false, &e), IC_EINVAL);
    assert_int_equal(atomic_load(&s.connections), 0);
    server_stop(&s);
}

/* Ensures that a clip comes over http in all framings, with its index at the end, and through one
 * redirect. */
static void test_http(void **state)
{
    (void)state;
    static const char *const paths[] = {"range", "plain", "chunked", "once"};
    server s = {0};
    server_start(&s);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        ic_error e;
        ic_assert_ok(get(&s, "127.0.0.1", paths[i], true, &e), &e);
    }
    server_stop(&s);
}

/* Ensures that redirects out of http, loops, playlists, garbage and broken answers are refused,
 * each with its code. */
static void test_http_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        int code;
    } cases[] = {{"to-file", IC_EINVAL},   {"to-rtsp", IC_EINVAL},  {"loop", IC_ELIMIT},
                 {"playlist", IC_EFORMAT}, {"garbage", IC_EFORMAT}, {"broken", IC_EIO},
                 {"missing", IC_ENOTFOUND}};
    server s = {0};
    server_start(&s);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ic_error e;
        int rc = get(&s, "127.0.0.1", cases[i].path, true, &e);
        if (rc != cases[i].code)
            fail_msg("%s: %s %s", cases[i].path, ic_err_name(rc), e.text);
    }
    server_stop(&s);
    ic_error e;
    assert_int_equal(get(&s, "127.0.0.1", "range", true, &e), IC_EIO);
}

/* Ensures that a server of secure connections must prove its name: one that does not speak TLS at
 * all, and so has no certificate, gets no request. */
static void test_https_needs_proof(void **state)
{
    (void)state;
    server s = {0};
    server_start(&s);
    char url[128];
    snprintf(url, sizeof url, "https://localhost:%d/range", s.port);
    ic_error e;
    assert_int_equal(open_url(url, true, true, &e), IC_EIO);
    assert_non_null(strstr(e.text, "certificate"));
    server_stop(&s);
}

static int set_up_tree(void **state)
{
    ic_test_group_setup(state);
    tree *t = ic_alloc(sizeof *t);
    *t = make_tree();
    *state = t;
    return 0;
}

static int tear_down_tree(void **state)
{
    free_tree(*state);
    ic_free(*state);
    return ic_test_group_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_playlists),         cmocka_unit_test(test_other_formats),
        cmocka_unit_test(test_cameras),           cmocka_unit_test(test_url_schemes),
        cmocka_unit_test(test_url_parts),         cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_private_addresses), cmocka_unit_test(test_http),
        cmocka_unit_test(test_http_refusals),     cmocka_unit_test(test_https_needs_proof),
    };
    const struct CMUnitTest roots[] = {
        cmocka_unit_test(test_inside_roots),
        cmocka_unit_test(test_outside_roots),
        cmocka_unit_test(test_no_roots),
        cmocka_unit_test(test_special_files),
    };
    int failed = IC_TEST_RUN(tests);
    return cmocka_run_group_tests(roots, set_up_tree, tear_down_tree) || failed;
}
