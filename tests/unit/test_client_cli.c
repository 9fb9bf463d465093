/* The program infchat against a small server: what it prints, how it exits, how it takes Ctrl-C.
 * IC_NEEDS_SERVER */
#include "ic_test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/ic_clock.h"
#include "ic_fake_server.h"

static fake_server *server;

static int start(void **state)
{
    (void)state;
    static int number;
    char name[32];
    snprintf(name, sizeof name, "cli%d", number++);
    server = fake_server_start(ic_test_dir(), name);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    fake_server_stop(server);
    return 0;
}

/* --- running the program ---------------------------------------------------------------------- */

typedef struct program {
    pid_t pid;
    int in, out, err; /* our ends; in: -1 when closed */
    char text[100000], errors[4000];
} program;

static program last;

static void run_child(char **words)
{
    setenv("INFCHAT_SERVER", server->endpoint, 1);
    setenv("INFCHAT_HISTORY", "", 1);
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    execv(IC_BINARY_DIR "/infchat", words);
    _exit(99);
}

static void begin(program *p, char **words)
{
    int in[2], out[2], err[2];
    assert_true(!pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC) && !pipe2(err, O_CLOEXEC));
    p->pid = fork();
    if (!p->pid) {
        dup2(in[0], 0), dup2(out[1], 1), dup2(err[1], 2);
        run_child(words);
    }
    close(in[0]), close(out[1]), close(err[1]);
    p->in = in[1], p->out = out[0], p->err = err[0];
    p->text[0] = p->errors[0] = '\0';
}

/* Appends what fd has to text; false at its end. */
static bool take(int fd, char *text, size_t size)
{
    size_t at = strlen(text);
    ssize_t got = read(fd, text + at, size - 1 - at);
    if (got > 0)
        text[at + (size_t)got] = '\0';
    return got > 0;
}

static int finish(program *p)
{
    int status = 0;
    close(p->in);
    bool has_out = true, has_err = true;
    while (has_out || has_err) {
        struct pollfd fds[] = {{has_out ? p->out : -1, POLLIN, 0},
                               {has_err ? p->err : -1, POLLIN, 0}};
        if (poll(fds, 2, 30000) <= 0)
            fail_msg("infchat hangs; so far: %s%s", p->text, p->errors);
        if (fds[0].revents)
            has_out = take(p->out, p->text, sizeof p->text);
        if (fds[1].revents)
            has_err = take(p->err, p->errors, sizeof p->errors);
    }
    close(p->out), close(p->err);
    waitpid(p->pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Runs infchat with these words (the last NULL) and gives the exit status; output in `last`. */
#define RUN(...)             run_words((char *[]){"infchat", __VA_ARGS__, NULL}, "")
#define RUN_WITH(input, ...) run_words((char *[]){"infchat", __VA_ARGS__, NULL}, input)

static int run_words(char **words, const char *input)
{
    begin(&last, words);
    assert_int_equal(write(last.in, input, strlen(input)), strlen(input));
    return finish(&last);
}

/* Reads the program's output until it holds the text. */
static void expect(program *p, const char *text)
{
    while (!strstr(p->text, text)) {
        struct pollfd fd = {p->out, POLLIN, 0};
        if (poll(&fd, 1, 20000) <= 0 || !take(p->out, p->text, sizeof p->text))
            fail_msg("no \"%s\" in: %s", text, p->text);
    }
}

static const char *last_line(void)
{
    size_t size = strlen(last.text);
    if (size && last.text[size - 1] == '\n')
        last.text[--size] = '\0';
    const char *line = strrchr(last.text, '\n');
    return line ? line + 1 : last.text;
}

/* --- tests ------------------------------------------------------------------------------------ */

/* In a pipe: the answer and nothing else on stdout, nothing on stderr. */
static void quiet_in_a_pipe(void **state)
{
    (void)state;
    assert_int_equal(RUN("new", "--title", "t"), 0);
    assert_string_equal(last.text, FAKE_SESSION "\n");
    assert_int_equal(RUN("ask", "3f9a", "What is red?"), 0);
    assert_string_equal(last.text, "echo: What is red?\n");
    assert_string_equal(last.errors, "");
    assert_int_equal(RUN_WITH("from stdin\n", "ask", "3f9a", "-"), 0);
    assert_string_equal(last.text, "echo: from stdin\n");
    assert_int_equal(RUN_WITH("", "ask", "3f9a", "-"), 1);
    assert_int_equal(RUN_WITH("one\n\ntwo", "chat", "3f9a"), 0);
    assert_string_equal(last.text, "echo: one\necho: two\n");
}

/* With --json: one object per line; the last one holds what a script wants. */
static void json_lines(void **state)
{
    (void)state;
    assert_int_equal(RUN("new", "--json"), 0);
    assert_string_equal(last_line(), "{\"type\":\"result\",\"session\":\"" FAKE_SESSION "\"}");
    assert_int_equal(RUN("ask", "3f9a", "say \"x\"", "--json"), 0);
    assert_string_equal(
        last_line(),
        "{\"type\":\"result\",\"session\":\"" FAKE_SESSION
        "\",\"turn\":1,\"text\":\"echo: say \\\"x\\\"\",\"finish_reason\":\"stop\",\"usage\":{"
        "\"prompt_tokens\":11,\"completion_tokens\":7,\"exact\":true,\"tokens_per_second\":12.5}}");
    assert_non_null(strstr(last.text, "\"type\":\"text\",\"turn\":1,\"text\":\"echo: say"));
    assert_int_equal(RUN("sessions", "--json"), 0);
    assert_non_null(strstr(last.text, "{\"type\":\"session\",\"session\":\"" FAKE_SESSION "\""));
    assert_non_null(strstr(last_line(), "\"session\":\"3f00000000aa\",\"state\":\"suspended\""));
    assert_int_equal(RUN("show", "3f9a", "--json"), 0);
    assert_non_null(strstr(last_line(), "\"answer\":\"A ball.\""));
    assert_int_equal(RUN("status", "--json"), 0);
    assert_string_equal(last_line(), "{\"type\":\"result\",\"version\":\"0.1.0\",\"sessions\":2}");
    assert_int_equal(RUN("suspend", "3f9a", "--json"), 0);
    assert_string_equal(last_line(), "{\"type\":\"result\",\"session\":\"" FAKE_SESSION
                                     "\",\"state\":\"suspended\"}");
    assert_int_equal(RUN("ask", "3f9a", "busy", "--json"), 5);
    assert_non_null(strstr(last_line(), "{\"type\":\"error\""));
    assert_non_null(strstr(last_line(), "\"code\":\"BUSY\""));
    assert_non_null(strstr(last_line(), "\"retryable\":true"));
}

/* Each way to fail has its exit status, and a sentence on stderr. */
static void exit_statuses(void **state)
{
    (void)state;
    assert_int_equal(RUN("--help"), 0);
    assert_non_null(strstr(last.text, "usage: infchat"));
    assert_int_equal(RUN("--version"), 0);
    assert_string_equal(last.text, "infchat " INFCHAT_VERSION "\n");
    assert_int_equal(RUN("dance"), 2);
    assert_non_null(strstr(last.errors, "unknown command dance"));
    assert_int_equal(RUN("--server", "udp://1.2.3.4:5", "status"), 2);
    assert_int_equal(RUN("--server", "ipc:///nowhere/at/all", "status"), 3);
    assert_non_null(strstr(last.errors, "no infchatd answers at ipc:///nowhere/at/all"));
    assert_int_equal(RUN("--server", "tcp://127.0.0.1:9", "--timeout", "0.3", "status", "--json"),
                     3);
    assert_non_null(strstr(last_line(), "\"code\":\"UNREACHABLE\""));
    assert_int_equal(RUN("show", "zz"), 4);
    assert_non_null(strstr(last.errors, "no session begins so"));
    assert_int_equal(RUN("show", "3f"), 4);
    assert_int_equal(RUN("ask", "3f9a", "busy"), 5);
    assert_int_equal(RUN("watch", "3f9a", "server:/none"), 4);
    assert_int_equal(RUN("new", "--video", "/no/such/file"), 4);
    assert_non_null(strstr(last.errors, "/no/such/file"));
    assert_int_equal(server->medias, 1); /* the last one was refused before anything was asked */
}

/* The same --key is the same request: the second time the answer is replayed, not made. */
static void keys_repeat_requests(void **state)
{
    (void)state;
    char *key = "000102030405060708090a0b0c0d0e0f";
    assert_int_equal(RUN("ask", "3f9a", "once", "--key", key), 0);
    assert_string_equal(last.text, "echo: once\n");
    assert_int_equal(RUN("ask", "3f9a", "once", "--key", key), 0);
    assert_string_equal(last.text, "echo: once\n");
    assert_int_equal(server->repeated, 1);
    assert_int_equal(server->turn, 1);
}

/* A file, and stdin, are uploaded whole. */
static void uploads(void **state)
{
    (void)state;
    char path[300], bytes[9000];
    snprintf(path, sizeof path, "%s/clip.bin", ic_test_dir());
    memset(bytes, 'v', sizeof bytes);
    FILE *f = fopen(path, "wb");
    fwrite(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_int_equal(RUN("new", "--video", path, "--json"), 0);
    assert_non_null(strstr(last_line(), "\"session\":\"" FAKE_SESSION "\",\"media\":1"));
    assert_int_equal(server->upload.size, sizeof bytes);
    assert_string_equal(server->uploaded_name, "clip.bin");
    bytes[7000] = '\0';
    assert_int_equal(RUN_WITH(bytes, "watch", "3f9a", "-"), 0);
    assert_string_equal(last.text, "");
    assert_int_equal(server->upload.size, 7000);
    assert_string_equal(server->uploaded_name, "stdin");
}

/* Ctrl-C stops the answer, and the program says by its status that it was stopped. */
static void interrupt_stops_the_answer(void **state)
{
    (void)state;
    begin(&last, (char *[]){"infchat", "ask", "3f9a", "slow", NULL});
    expect(&last, "one");
    kill(last.pid, SIGINT);
    assert_int_equal(finish(&last), 130);
    assert_int_equal(server->cancels, 1);
    assert_string_equal(last.text, "one \n");
}

/* A second client attached to the session sees the same answer. */
static void attached_clients_see_all(void **state)
{
    (void)state;
    assert_int_equal(RUN("ask", "3f9a", "before"), 0);
    begin(&last, (char *[]){"infchat", "attach", "3f9a", "--from-event", "1", NULL});
    expect(&last, "echo: before\n");
    kill(last.pid, SIGINT);
    assert_int_equal(finish(&last), 130);
    assert_non_null(strstr(last.errors, "> (the question)"));
}

/* --- on a terminal ---------------------------------------------------------------------------- */

static int end_terminal(program *p)
{
    int status = 0;
    while (take(p->out, p->text, sizeof p->text))
        ;
    close(p->out);
    waitpid(p->pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Waits for the text, then types; the text is looked for behind what was seen before. */
static void type_after(program *p, const char *text, const char *keys)
{
    expect(p, text);
    p->text[0] = '\0';
    usleep(100000); /* libedit discards what is typed before it sets the terminal up */
    assert_int_equal(write(p->out, keys, strlen(keys)), strlen(keys));
}

/* A conversation on a terminal: edited lines, an answer stopped by Ctrl-C, /commands, and two
 * Ctrl-C at the prompt to leave. */
static void a_terminal_conversation(void **state)
{
    (void)state;
    program *p = &last;
    p->text[0] = '\0';
    struct winsize window = {.ws_row = 24, .ws_col = 90};
    p->pid = forkpty(&p->out, NULL, NULL, &window);
    if (!p->pid)
        run_child((char *[]){"infchat", "chat", "3f9a", NULL});
    type_after(p, "> ", "hellox\b w\xc3\xb6rld\r");
    expect(p, "echo: hello w\xc3\xb6rld");
    type_after(p, "evicted]", "slow\r");
    type_after(p, "one", "\x03");
    expect(p, "the answer was stopped");
    type_after(p, "> ", "/help\r");
    type_after(p, "/suspend", "/nonsense\r");
    type_after(p, "no such command", "ab\x03");
    type_after(p, "Ctrl-C again leaves", "\x03");
    assert_int_equal(end_terminal(p), 0);
    assert_non_null(strstr(p->text, "infchat chat " FAKE_SESSION));
    assert_int_equal(server->cancels, 1);
}

/* A source fed behind the conversation: the prompt is there at once, and its end is told. */
static void a_source_behind_the_conversation(void **state)
{
    (void)state;
    program *p = &last;
    char line[400];
    p->text[0] = '\0';
    struct winsize window = {.ws_row = 24, .ws_col = 90};
    p->pid = forkpty(&p->out, NULL, NULL, &window);
    if (!p->pid)
        run_child((char *[]){"infchat", "chat", "3f9a", NULL});
    snprintf(line, sizeof line, "/watch %s &\r", IC_SOURCE_DIR "/docs/protocol.md");
    type_after(p, "> ", line);
    expect(p, "protocol.md has ended: 20 frames");
    type_after(p, "> ", "/stop\r");
    type_after(p, "> ", "and now?\r");
    expect(p, "echo: and now?");
    type_after(p, "evicted]", "/quit\r");
    assert_int_equal(end_terminal(p), 0);
    assert_true(server->upload.size > 10000);
}

/* Waiting at the prompt keeps the connection alive: the client does not fall silent. */
static void the_prompt_keeps_alive(void **state)
{
    (void)state;
    program *p = &last;
    p->text[0] = '\0';
    server->heartbeat_ms = 100;
    p->pid = forkpty(&p->out, NULL, NULL, NULL);
    if (!p->pid)
        run_child((char *[]){"infchat", "chat", "3f9a", NULL});
    expect(p, "> ");
    unsigned before = server->pings;
    for (int i = 0; i < 500 && server->pings < before + 3; i++)
        usleep(20000);
    assert_true(server->pings >= before + 3);
    type_after(p, "> ", "/quit\r");
    assert_int_equal(end_terminal(p), 0);
}

#define CLI_TEST(f) cmocka_unit_test_setup_teardown(f, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLI_TEST(quiet_in_a_pipe),
        CLI_TEST(json_lines),
        CLI_TEST(exit_statuses),
        CLI_TEST(keys_repeat_requests),
        CLI_TEST(uploads),
        CLI_TEST(interrupt_stops_the_answer),
        CLI_TEST(attached_clients_see_all),
        CLI_TEST(a_terminal_conversation),
        CLI_TEST(a_source_behind_the_conversation),
        CLI_TEST(the_prompt_keeps_alive),
    };
    signal(SIGPIPE, SIG_IGN);
    return IC_TEST_RUN(tests);
}
