/* infchat's command line, sources, times and the progress bar: what needs no server.
 * IC_NEEDS_SERVER */
#include "ic_test.h"

#include <string.h>

#include "clients/ic_cli_args.h"
#include "clients/ic_cli_view.h"

enum { WORDS_MAX = 40 };

/* Splits a line at blanks and parses it; "_" stands for a blank inside a word. */
static int parse(ic_cli_args *args, const char *line, ic_error *e)
{
    static char copy[512];
    char *argv[WORDS_MAX] = {"infchat"};
    int argc = 1;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
        for (char *c = word; *c; c++)
            if (*c == '_')
                *c = ' ';
        argv[argc++] = word;
    }
    return ic_cli_args_parse(args, argc, argv, e);
}

/* Options may stand anywhere, with = or without, and end up in the message's records. */
static void options_are_read(void **state)
{
    (void)state;
    ic_cli_args a;
    ic_error e = {0};
    ic_assert_ok(parse(&a,
                       "--json new --video clip.mp4 --fps=2.5 --from 1:02 --to 1:02:03.5 --title "
                       "the_garden --cache-tokens 512 --policy saddle --temperature 0 --seed "
                       "18446744073709551615 --max-frames 9 --frame-tokens 16 --live --server "
                       "ipc:///x --timeout 2.5 --key 000102030405060708090a0b0c0d0eFF",
                       &e),
                 &e);
    assert_int_equal(a.command, IC_CLI_NEW);
    assert_true(a.json);
    assert_string_equal(a.video, "clip.mp4");
    assert_string_equal(a.server, "ipc:///x");
    assert_int_equal(a.timeout_ms, 2500);
    assert_true(a.has_key && a.key.bytes[1] == 1 && a.key.bytes[15] == 0xff);
    assert_string_equal(a.create.title, "the garden");
    assert_string_equal(a.create.policy, "saddle");
    assert_int_equal(a.create.cache_tokens, 512);
    assert_true(ic_wire_has(&a.sampling, sampling, temperature) && a.sampling.temperature == 0);
    assert_true(a.sampling.seed == UINT64_MAX && !ic_wire_has(&a.sampling, sampling, top_p));
    assert_true(a.media.fps == 2.5 && a.media.live);
    assert_int_equal(a.media.from_us, 62000000);
    assert_int_equal(a.media.to_us, 3723500000);
    assert_int_equal(a.media.max_frames, 9);
    assert_int_equal(a.media.frame_tokens, 16);
    assert_false(ic_wire_has(&a.media, media, size));
}

/* Settings of the policy come into their own record; none of them is there unless it is given. */
static void settings_are_read(void **state)
{
    (void)state;
    ic_cli_args a;
    ic_error e = {0};
    ic_assert_ok(parse(&a,
                       "new --policy saddle --sinks 0 --window 16 --recent-pct 40 --bias 0.25 "
                       "--smooth-pct 10 --pool 7 --granularity layer --positions original "
                       "--frame-unit whole --questions 0 --thin 2 --fade-pct 100 --care-pct 30 "
                       "--text-pct 20",
                       &e),
                 &e);
    assert_true(ic_wire_has(&a.settings, settings, sinks) && a.settings.sinks == 0);
    assert_int_equal(a.settings.window, 16);
    assert_int_equal(a.settings.recent_pct, 40);
    assert_true(a.settings.bias == 0.25);
    assert_int_equal(a.settings.smooth_pct, 10);
    assert_int_equal(a.settings.pool, 7);
    assert_int_equal(a.settings.granularity, IC_WIRE_GRANULARITY_LAYER);
    assert_int_equal(a.settings.positions, IC_WIRE_POSITIONS_ORIGINAL);
    assert_int_equal(a.settings.frame_unit, IC_WIRE_FRAME_UNIT_WHOLE);
    assert_true(ic_wire_has(&a.settings, settings, questions) && a.settings.questions == 0);
    assert_int_equal(a.settings.thin, 2);
    assert_int_equal(a.settings.fade_pct, 100);
    assert_int_equal(a.settings.care_pct, 30);
    assert_int_equal(a.settings.text_pct, 20);
    assert_false(ic_wire_has(&a.settings, settings, frames));
    ic_assert_ok(parse(&a, "new --frames 3", &e), &e);
    assert_int_equal(a.settings.frames, 3);
    ic_assert_ok(parse(&a, "new", &e), &e);
    assert_int_equal(a.settings.has, 0);
}

/* Words go to their places; what follows -- is a word whatever it looks like. */
static void words_are_read(void **state)
{
    (void)state;
    ic_cli_args a;
    ic_error e = {0};
    ic_assert_ok(parse(&a, "ask 3f9a What_is_red? --if-busy queue --on-vanish cancel", &e), &e);
    assert_int_equal(a.command, IC_CLI_ASK);
    assert_string_equal(a.session, "3f9a");
    assert_string_equal(a.text, "What is red?");
    assert_int_equal(a.if_busy, IC_WIRE_IF_BUSY_QUEUE);
    assert_int_equal(a.on_vanish, IC_WIRE_ON_VANISH_CANCEL);
    ic_assert_ok(parse(&a, "ask 3f9a -- --why", &e), &e);
    assert_string_equal(a.text, "--why");
    ic_assert_ok(parse(&a, "watch 3f9a -", &e), &e);
    assert_string_equal(a.text, "-");
    ic_assert_ok(parse(&a, "bogus --help", &e), &e);
    assert_int_equal(a.command, IC_CLI_HELP);
    ic_assert_ok(parse(&a, "--version", &e), &e);
    assert_int_equal(a.command, IC_CLI_VERSION);
}

/* Marks, forks, exports: names, titles, files and the two ways of giving a seed. */
static void forks_are_read(void **state)
{
    (void)state;
    ic_cli_args a;
    ic_error e = {0};
    ic_assert_ok(parse(&a, "mark 3f9a the_film", &e), &e);
    assert_int_equal(a.command, IC_CLI_MARK);
    assert_string_equal(a.text, "the film");
    ic_assert_ok(parse(&a, "fork 3f9a --at the_film --title mine --seed same", &e), &e);
    assert_int_equal(a.command, IC_CLI_FORK);
    assert_string_equal(a.at, "the film");
    assert_string_equal(a.create.title, "mine");
    assert_true(a.same_seed && !ic_wire_has(&a.sampling, sampling, seed));
    ic_assert_ok(parse(&a, "fork 3f9a --seed 7", &e), &e);
    assert_true(!a.same_seed && a.sampling.seed == 7 && !a.at);
    ic_assert_ok(parse(&a, "resume 3f9a --rebuild", &e), &e);
    assert_true(a.rebuild);
    ic_assert_ok(parse(&a, "export 3f9a film.icx --at the_film", &e), &e);
    assert_int_equal(a.command, IC_CLI_EXPORT);
    assert_string_equal(a.session, "3f9a");
    assert_string_equal(a.text, "film.icx");
    ic_assert_ok(parse(&a, "import a_file_name.icx --title mine", &e), &e);
    assert_int_equal(a.command, IC_CLI_IMPORT);
    assert_null(a.session);
    assert_string_equal(a.text, "a file name.icx");
}

/* Wrong usage is refused with a sentence that names what is wrong. */
static void wrong_usage_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *line, *names;
    } rows[] = {
        {"", "no command"},
        {"dance", "unknown command dance"},
        {"fork", "usage: infchat fork ID"},
        {"mark 3f9a", "usage: infchat mark ID NAME"},
        {"fork 3f9a --at", "--at needs NAME"},
        {"fork 3f9a --seed often", "--seed often"},
        {"ask 3f9a x --seed same", "--seed same"},
        {"ask 3f9a x --rebuild", "ask takes no --rebuild"},
        {"sessions --at x", "sessions takes no --at"},
        {"ask 3f9a", "usage: infchat ask ID TEXT"},
        {"ask 3f9a What is red", "too many words"},
        {"status now", "usage: infchat status"},
        {"sessions --fps 2", "sessions takes no --fps"},
        {"ask 3f9a x --video y", "ask takes no --video"},
        {"status --key 000102030405060708090a0b0c0d0e0f", "status takes no --key"},
        {"new --fps", "--fps needs N"},
        {"new --fps fast", "--fps fast"},
        {"new --fps 0", "--fps 0"},
        {"new --fps 1e400", "--fps"},
        {"new --top-p 1.5", "--top-p 1.5"},
        {"new --seed -1", "--seed -1"},
        {"new --bias -1", "--bias -1"},
        {"new --granularity row", "--granularity row"},
        {"ask 3f9a x --memory", "ask takes no --memory"},
        {"ask 3f9a x --pool 3", "ask takes no --pool"},
        {"new --seed 18446744073709551616", "--seed"},
        {"new --cache-tokens 0", "--cache-tokens 0"},
        {"new --from 1:2:3:4", "--from 1:2:3:4"},
        {"new --from 10 --to 5", "--to must lie behind"},
        {"new --json=yes", "--json takes no value"},
        {"new --key 12", "--key 12"},
        {"new --key 000102030405060708090a0b0c0d0e0g", "--key"},
        {"new --timeout 0", "--timeout 0"},
        {"new --frobnicate", "unknown option --frobnicate"},
        {"new -x", "unknown option -x"},
        {"ask 3f9a x --if-busy wait", "--if-busy wait"},
        {"show aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ID must have"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ic_cli_args a;
        ic_error e = {0};
        assert_int_equal(parse(&a, rows[i].line, &e), IC_EINVAL);
        if (!strstr(e.text, rows[i].names))
            fail_msg("\"%s\" says \"%s\", not \"%s\"", rows[i].line, e.text, rows[i].names);
    }
}

/* Times in seconds, minutes and hours. */
static void times_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool is_time;
        uint64_t us;
    } rows[] = {{"0", true, 0},
                {"12.5", true, 12500000},
                {"1:02", true, 62000000},
                {"1:02:03.25", true, 3723250000},
                {"90:00", true, 5400000000},
                {"", false, 0},
                {":", false, 0},
                {"1:", false, 0},
                {"-1", false, 0},
                {"1.2.3", false, 0},
                {"abc", false, 0},
                {"1e3", false, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t us = 0;
        assert_int_equal(ic_cli_args_time(rows[i].text, &us), rows[i].is_time);
        if (rows[i].is_time)
            assert_int_equal(us, rows[i].us);
    }
}

/* A local path is an upload; servers' paths, cameras and URLs are told apart. */
static void sources_are_told_apart(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int kind;
        const char *source, *name;
    } rows[] = {
        {"clip.mp4", IC_WIRE_KIND_UPLOAD, NULL, "clip.mp4"},
        {"/home/a/b c.mkv", IC_WIRE_KIND_UPLOAD, NULL, "b c.mkv"},
        {"-", IC_WIRE_KIND_UPLOAD, NULL, "stdin"},
        {"server:/srv/x.mp4", IC_WIRE_KIND_PATH, "/srv/x.mp4", "x.mp4"},
        {"camera:/dev/video0", IC_WIRE_KIND_CAMERA, "/dev/video0", "video0"},
        {"rtsp://h/live", IC_WIRE_KIND_URL, "rtsp://h/live", "rtsp://h/live"},
        {"https://h/a/b.mp4", IC_WIRE_KIND_URL, "https://h/a/b.mp4", "https://h/a/b.mp4"},
        {"./a://b", IC_WIRE_KIND_UPLOAD, NULL, "b"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ic_wire_media m = {0};
        ic_cli_args_source(rows[i].text, &m);
        assert_int_equal(m.kind, rows[i].kind);
        assert_string_equal(m.name, rows[i].name);
        assert_int_equal(ic_wire_has(&m, media, source), rows[i].source != NULL);
        if (rows[i].source)
            assert_string_equal(m.source, rows[i].source);
    }
}

/* The bar tells how much is done, how fast, and how much of the source is left; it fits the window.
 */
static void the_bar_tells(void **state)
{
    (void)state;
    ic_cli_view v = {.media = 1, .from_us = 10000000, .duration_us = 120000000, .pos_us = 40000000};
    char text[400];
    v.frames = 60;
    snprintf(v.name, sizeof v.name, "clip.mp4");
    ic_cli_view_bar(&v, 2000000, 100, text, sizeof text);
    assert_string_equal(text, "clip.mp4 [########......................] 60 frames  30.0 frames/s  "
                              "1:30 left");
    v.pos_us = 999000000;
    ic_cli_view_bar(&v, 2000000, 100, text, sizeof text);
    assert_non_null(strstr(text, "[##############################]"));
    assert_non_null(strstr(text, "0:00 left"));
    v.duration_us = 0;
    ic_cli_view_bar(&v, 2000000, 100, text, sizeof text);
    assert_string_equal(text, "clip.mp4 60 frames  30.0 frames/s");
    v.frames = 0, v.sent = 50, v.size = 100;
    ic_cli_view_bar(&v, 0, 60, text, sizeof text);
    assert_string_equal(text, "clip.mp4 [#####.....] 0 frames  0.0 frames/s");
    snprintf(v.name, sizeof v.name, "ääääääääääääääääääääääääääääääää.mp4");
    ic_cli_view_bar(&v, 0, 60, text, sizeof text);
    assert_true(ic_wire_is_utf8(text, strlen(text)));
    assert_true(strlen(text) < 60);
}

/* What could command a terminal is taken out of texts; letters of all scripts stay. */
static void texts_are_made_harmless(void **state)
{
    (void)state;
    char text[] = "a\x1b]0;title\x07 \xc2\x9b"
                  "2J \xc2\xa0\t\n\x7f\r ß語😀";
    ic_cli_view_clean(text);
    assert_string_equal(text, "a?]0;title? ?2J \xc2\xa0\t\n?? ß語😀");
}

/* Times for people. */
static void times_are_written(void **state)
{
    (void)state;
    char out[32];
    ic_cli_view_time(7400000, out);
    assert_string_equal(out, "0:07");
    ic_cli_view_time(723000000, out);
    assert_string_equal(out, "12:03");
    ic_cli_view_time(3723000000, out);
    assert_string_equal(out, "1:02:03");
}

/* The strip has one character per part, the denser the more of it is held; nothing held is blank,
 * and the least that is held is not. */
static void the_strip_tells(void **state)
{
    (void)state;
    ic_wire_memory_bin bins[] = {
        {.text = 1}, {.text = 0.001}, {0}, {.text = 0.25, .frames = 0.25}, {.frames = 1}};
    char text[6];
    ic_cli_view_strip(&(ic_wire_memory_bin_list){.count = 5, .items = bins}, text);
    assert_string_equal(text, "@. +@");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_read),       cmocka_unit_test(settings_are_read),
        cmocka_unit_test(forks_are_read),         cmocka_unit_test(words_are_read),
        cmocka_unit_test(wrong_usage_is_named),   cmocka_unit_test(times_are_read),
        cmocka_unit_test(sources_are_told_apart), cmocka_unit_test(the_bar_tells),
        cmocka_unit_test(the_strip_tells),        cmocka_unit_test(texts_are_made_harmless),
        cmocka_unit_test(times_are_written),
    };
    return IC_TEST_RUN(tests);
}
