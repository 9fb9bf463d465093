/* Endpoints as strings: the default that daemon and client share, and what a text means.
 * IC_NEEDS_SERVER */
#include "ic_test.h"

#include <string.h>

#include "wire/ic_endpoint.h"

/* The default lies in the user's runtime folder, or in a folder of the user's own under /tmp. */
static void default_is_in_a_private_folder(void **state)
{
    (void)state;
    char out[IC_ENDPOINT_MAX];
    assert_int_equal(ic_endpoint_default(out, "/run/user/1000", 1000, NULL), 0);
    assert_string_equal(out, "ipc:///run/user/1000/infchat/infchatd.sock");
    assert_int_equal(ic_endpoint_default(out, NULL, 0, NULL), 0);
    assert_string_equal(out, "ipc:///tmp/infchat-0/infchatd.sock");
    assert_int_equal(ic_endpoint_default(out, "", 1000, NULL), 0);
    assert_string_equal(out, "ipc:///tmp/infchat-1000/infchatd.sock");
    assert_int_equal(ic_endpoint_default(out, "relative", 7, NULL), 0);
    assert_string_equal(out, "ipc:///tmp/infchat-7/infchatd.sock");
    assert_int_equal(ic_endpoint_default_dir(out, "/run/user/1", 1, NULL), 0);
    assert_string_equal(out, "/run/user/1/infchat");
}

/* A folder whose socket path would be cut off by the system is refused, not cut. */
static void long_folders_are_refused(void **state)
{
    (void)state;
    char out[IC_ENDPOINT_MAX], dir[400] = "/";
    ic_error e = {0};
    memset(dir + 1, 'd', sizeof dir - 2);
    assert_int_equal(ic_endpoint_default(out, dir, 0, &e), IC_ELIMIT);
    dir[107 - strlen("/infchat/infchatd.sock")] = '\0'; /* the longest that fits */
    assert_int_equal(ic_endpoint_default(out, dir, 0, &e), 0);
    assert_int_equal(strlen(out), 6 + 107);
    strcat(dir, "d");
    assert_int_equal(ic_endpoint_default(out, dir, 0, &e), IC_ELIMIT);
    assert_non_null(strstr(e.text, "another endpoint"));
}

/* Endpoints are taken apart; only those that other machines reach are not private. */
static void endpoints_are_parsed(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int kind;
        const char *host, *path;
        int port;
        bool is_private;
    } rows[] = {
        {"ipc:///tmp/x.sock", IC_ENDPOINT_IPC, "", "/tmp/x.sock", 0, true},
        {"inproc://test", IC_ENDPOINT_INPROC, "", "test", 0, true},
        {"tcp://127.0.0.1:5555", IC_ENDPOINT_TCP, "127.0.0.1", "", 5555, true},
        {"tcp://localhost:1", IC_ENDPOINT_TCP, "localhost", "", 1, true},
        {"tcp://[::1]:65535", IC_ENDPOINT_TCP, "::1", "", 65535, true},
        {"tcp://127.0.0.1:*", IC_ENDPOINT_TCP, "127.0.0.1", "", 0, true},
        {"tcp://*:5555", IC_ENDPOINT_TCP, "*", "", 5555, false},
        {"tcp://0.0.0.0:5555", IC_ENDPOINT_TCP, "0.0.0.0", "", 5555, false},
        {"tcp://10.1.2.3:5555", IC_ENDPOINT_TCP, "10.1.2.3", "", 5555, false},
        {"tcp://[::]:5555", IC_ENDPOINT_TCP, "::", "", 5555, false},
        {"tcp://127.example.org:80", IC_ENDPOINT_TCP, "127.example.org", "", 80, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ic_endpoint ep;
        ic_error e = {0};
        ic_assert_ok(ic_endpoint_parse(&ep, rows[i].text, &e), &e);
        assert_int_equal(ep.kind, rows[i].kind);
        assert_string_equal(ep.host, rows[i].host);
        assert_string_equal(ep.path, rows[i].path);
        assert_int_equal(ep.port, rows[i].port);
        assert_int_equal(ep.is_private, rows[i].is_private);
    }
}

/* What is no endpoint is refused with a text that names it. */
static void nonsense_is_refused(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "",          "tcp://",     "tcp://host",     "tcp://:5", "tcp://h:0",       "tcp://h:70000",
        "tcp://h:x", "tcp://h:5x", "ipc://relative", "ipc://",   "udp://1.2.3.4:5", "/tmp/x.sock"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ic_endpoint ep;
        ic_error e = {0};
        assert_int_equal(ic_endpoint_parse(&ep, rows[i], &e), IC_EINVAL);
        assert_non_null(strstr(e.text, rows[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(default_is_in_a_private_folder),
        cmocka_unit_test(long_folders_are_refused),
        cmocka_unit_test(endpoints_are_parsed),
        cmocka_unit_test(nonsense_is_refused),
    };
    return IC_TEST_RUN(tests);
}
