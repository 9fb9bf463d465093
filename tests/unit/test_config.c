/* The settings table, its file, and the manual. IC_NEEDS_SERVER */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ic_test.h"

#include "base/ic_mem.h"
#include "config/ic_config.h"

static const char *write_file(const char *text)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/test.conf", ic_test_dir());
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

/* The value that the manual shows for a setting; NULL when it is not there. Borrows: static. */
static const char *manual_value(const char *section, const char *name)
{
    static char value[256];
    FILE *f = fopen(IC_SOURCE_DIR "/config/infchatd.conf", "r");
    assert_non_null(f);
    char line[512], here[64] = "", found[64];
    const char *result = NULL;
    while (!result && fgets(line, sizeof line, f)) {
        value[0] = '\0';
        if (line[0] >= 'a' && line[0] <= 'z')
            sscanf(line, "%63s", here);
        else if (sscanf(line, " %63[a-z_] = %255[^\n]", found, value) >= 1
                 && strcmp(found, name) == 0 && strcmp(here, section) == 0 && strchr(line, '='))
            result = value;
    }
    fclose(f);
    return result;
}

/* The manual shows every setting of the table with the table's default. */
static void manual_shows_every_default(void **state)
{
    (void)state;
    size_t count = 0;
    const ic_config_row *rows = ic_config_rows(&count);
    for (size_t i = 0; i < count; i++) {
        const char *value = manual_value(rows[i].section, rows[i].name);
        if (!value)
            print_error("%s.%s is missing\n", rows[i].section, rows[i].name);
        assert_non_null(value);
        assert_string_equal(value, rows[i].preset);
    }
}

/* The manual is itself a file that loads (so it names nothing the table lacks) and changes nothing.
 */
static void manual_loads(void **state)
{
    (void)state;
    ic_config c, preset;
    ic_error e = {0};
    ic_config_init(&c);
    ic_config_init(&preset);
    ic_assert_ok(ic_config_load(&c, IC_SOURCE_DIR "/config/infchatd.conf", &e), &e);
    ic_assert_ok(ic_config_check(&c, &e), &e);
    assert_int_equal(c.server_heartbeat_ms, preset.server_heartbeat_ms);
    assert_int_equal(c.media_upload_bytes, preset.media_upload_bytes);
    assert_string_equal(c.session_policy, preset.session_policy);
    assert_int_equal(c.server_listen.count, 0);
    ic_config_fini(&c);
    ic_config_fini(&preset);
}

/* Values of each kind are read, with units, quotes, comments and lists. */
static void file_sets_values(void **state)
{
    (void)state;
    ic_config c;
    ic_error e = {0};
    ic_config_init(&c);
    ic_assert_ok(ic_config_set(&c, "server", "listen", "tcp://127.0.0.1:1", &e), &e);
    const char *path = write_file("# a comment\nserver\n  listen = ipc:///a b/s # here\n"
                                  "  listen = \"tcp://127.0.0.1:7#0\"\n"
                                  "media\n  upload_bytes = 3M\n  fps = 2.5\n"
                                  "  allow_network=true\nlog\n  level = debug\n");
    ic_assert_ok(ic_config_load(&c, path, &e), &e);
    assert_int_equal(c.server_listen.count, 2);
    assert_string_equal(c.server_listen.items[0], "ipc:///a b/s");
    assert_string_equal(c.server_listen.items[1], "tcp://127.0.0.1:7#0");
    assert_null(c.server_listen.items[2]);
    assert_int_equal(c.media_upload_bytes, 3 << 20);
    assert_true(c.media_fps == 2.5);
    assert_true(c.media_allow_network);
    assert_string_equal(c.log_level, "debug");
    ic_config_fini(&c);
}

/* Each kind of mistake names file, line and what is wrong. */
static void mistakes_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *in_message;
    } cases[] = {
        {"server\n\n  heartbeat_ms = soon\n", "line 3: server.heartbeat_ms = soon"},
        {"server\n  heartbeat_ms = 5\n", "from 100 to 600000"},
        {"server\n  heartbeat_ms = 500K\n", "heartbeat_ms"},
        {"media\n  upload_bytes = 9999999999999G\n", "upload_bytes"},
        {"media\n  upload_bytes = 3X\n", "upload_bytes"},
        {"media\n  fps = nan\n", "media.fps"},
        {"media\n  allow_network = yes\n", "true or false"},
        {"media\n  colour = red\n", "no setting colour in section media"},
        {"dir = /x\n", "section (none)"},
        {"sevrer\n", "\"sevrer\" is neither"},
        {"log\n  level = in\n", "from 4 to 5 bytes long"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ic_config c;
        ic_error e = {0};
        ic_config_init(&c);
        assert_int_equal(ic_config_load(&c, write_file(cases[i].text), &e), IC_EINVAL);
        if (!strstr(e.text, cases[i].in_message))
            print_error("%s\n", e.text);
        assert_non_null(strstr(e.text, cases[i].in_message));
        assert_non_null(strstr(e.text, "test.conf line "));
        ic_config_fini(&c);
    }
}

/* A file that is not there is said to be so. */
static void missing_file_is_named(void **state)
{
    (void)state;
    ic_config c;
    ic_error e = {0};
    ic_config_init(&c);
    assert_int_equal(ic_config_load(&c, "/nowhere/x.conf", &e), IC_ENOTFOUND);
    assert_non_null(strstr(e.text, "/nowhere/x.conf"));
    ic_config_fini(&c);
}

/* Settings that contradict each other are refused. */
static void contradictions_are_refused(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"session", "max_active", "2"},
        {"log", "level", "loud"},
        {"model", "device", "tpu"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ic_config c;
        ic_error e = {0};
        ic_config_init(&c);
        ic_assert_ok(ic_config_set(&c, cases[i][0], cases[i][1], cases[i][2], &e), &e);
        assert_int_equal(ic_config_check(&c, &e), IC_EINVAL);
        assert_non_null(strstr(e.text, cases[i][1]));
        ic_config_fini(&c);
    }
}

/* --help holds every setting. */
static void help_holds_every_setting(void **state)
{
    (void)state;
    ic_buf out = {0};
    ic_config_help(&out);
    ic_buf_u8(&out, 0);
    size_t count = 0;
    const ic_config_row *rows = ic_config_rows(&count);
    for (size_t i = 0; i < count; i++)
        assert_non_null(strstr((char *)out.data, rows[i].help));
    ic_buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(manual_shows_every_default), cmocka_unit_test(manual_loads),
        cmocka_unit_test(file_sets_values),           cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(missing_file_is_named),      cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(help_holds_every_setting),
    };
    return IC_TEST_RUN(tests);
}
