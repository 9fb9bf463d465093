/* The conversation: lines from a terminal (edited by libedit, with history) or from a pipe. While a
 * line is awaited the connection lives on, since the waiting is done inside ic_client_wait. */
#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#include "base/ic_mem.h"
#include "clients/ic_cli.h"

enum { WAIT_MS = 500, HISTORY_LINES = 1000, LINE_MAX_BYTES = IC_WIRE_TEXT_MAX };

typedef struct chat {
    ic_cli *cli;
    EditLine *editor; /* NULL: lines from a pipe */
    History *history;
    char *history_path; /* NULL: not kept */
    ic_buf line;        /* of a pipe, growing */
    int rc;             /* why reading ended: 0 at the end of the input */
    ic_error *e;
    bool is_interrupted, is_editing;
} chat;

/* --- reading ---------------------------------------------------------------------------------- */

/* One byte of stdin. 1, or 0 at the end, at an interrupt or at an error: see chat. */
static int read_byte(chat *c, char *byte)
{
    for (;;) {
        bool is_ready = false;
        c->rc = ic_client_wait(c->cli->client, STDIN_FILENO, &is_ready, WAIT_MS, c->e);
        if (c->rc)
            return 0;
        if (ic_cli_take_interrupt(c->cli)) {
            c->is_interrupted = true;
            return 0;
        }
        if (!is_ready)
            continue;
        ssize_t got = read(STDIN_FILENO, byte, 1);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        return got == 1;
    }
}

/* libedit's question for one character. */
static int read_character(EditLine *editor, wchar_t *out)
{
    chat *c = NULL;
    mbstate_t state = {0};
    char byte;
    el_get(editor, EL_CLIENTDATA, &c);
    for (int i = 0; i < 4; i++) {
        if (!read_byte(c, &byte))
            return 0;
        size_t rc = mbrtowc(out, &byte, 1, &state);
        if (rc == 1 || rc == 0)
            return 1;
        if (rc == (size_t)-1)
            break;
    }
    *out = L'?';
    return 1;
}

static char *prompt(EditLine *editor)
{
    static char text[] = "> ";
    (void)editor;
    return text;
}

static void before_line(void *arg)
{
    chat *c = arg;
    if (c->is_editing)
        fputs("\r\033[K", stdout);
    fflush(stdout);
}

static void after_line(void *arg)
{
    chat *c = arg;
    if (c->is_editing)
        el_set(c->editor, EL_REFRESH);
}

/* A line from the terminal, without its newline. NULL: the end, an interrupt or an error. */
static char *read_edited(chat *c)
{
    int count = 0;
    HistEvent event;
    c->is_editing = true;
    c->cli->view.before_line = before_line;
    c->cli->view.after_line = after_line;
    const char *line = el_gets(c->editor, &count);
    c->is_editing = false;
    c->cli->view.before_line = c->cli->view.after_line = NULL;
    if (!line || count <= 0 || c->is_interrupted || c->rc)
        return NULL;
    char *copy = ic_strdup(line);
    copy[strcspn(copy, "\r\n")] = '\0';
    if (*copy)
        history(c->history, &event, H_ENTER, copy);
    return copy;
}

static char *read_piped(chat *c)
{
    char byte;
    ic_buf_clear(&c->line);
    while (read_byte(c, &byte)) {
        if (byte == '\n') {
            ic_buf_u8(&c->line, 0);
            return ic_strdup((char *)c->line.data);
        }
        if (byte && byte != '\r' && c->line.size < LINE_MAX_BYTES)
            ic_buf_u8(&c->line, (uint8_t)byte);
    }
    if (!c->line.size || c->rc || c->is_interrupted)
        return NULL;
    ic_buf_u8(&c->line, 0); /* the last line, without a newline */
    return ic_strdup((char *)c->line.data);
}

/* --- the editor ------------------------------------------------------------------------------- */

static char *history_path(void)
{
    const char *path = getenv("INFCHAT_HISTORY"), *home = getenv("HOME");
    if (path)
        return *path ? ic_strdup(path) : NULL;
    return home && *home ? ic_strf("%s/.infchat_history", home) : NULL;
}

static void open_editor(chat *c)
{
    HistEvent event;
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8"))
        setlocale(LC_CTYPE, "C.UTF-8");
    c->editor = el_init("infchat", stdin, stdout, stderr);
    c->history = history_init();
    c->history_path = history_path();
    history(c->history, &event, H_SETSIZE, HISTORY_LINES);
    history(c->history, &event, H_SETUNIQUE, 1);
    if (c->history_path)
        history(c->history, &event, H_LOAD, c->history_path);
    el_set(c->editor, EL_CLIENTDATA, c);
    el_set(c->editor, EL_PROMPT, prompt);
    el_set(c->editor, EL_EDITOR, "emacs");
    el_set(c->editor, EL_HIST, history, c->history);
    el_set(c->editor, EL_GETCFN, read_character);
    el_set(c->editor, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(c->editor, NULL);
}

static void close_editor(chat *c)
{
    HistEvent event;
    mode_t mask = umask(077);
    if (c->history_path)
        history(c->history, &event, H_SAVE, c->history_path);
    umask(mask);
    ic_free(c->history_path);
    history_end(c->history);
    el_end(c->editor);
}

/* --- commands --------------------------------------------------------------------------------- */

static void help(void)
{
    printf("/watch SRC     feed a file, URL, camera:/dev/... or server:/path into the session\n"
           "/watch SRC &   the same, while the conversation goes on\n"
           "/stop          end the source\n"
           "/image SRC     show it a picture\n"
           "/show          the session, its media and newest turns\n"
           "/memory        what it still holds\n"
           "/status        the server\n"
           "/title TEXT    name the session\n"
           "/suspend       store the session and leave\n"
           "/quit          leave; the session stays\n"
           "Anything else is a question. Ctrl-C stops an answer or a source; at the prompt it\n"
           "clears the line, twice it leaves.\n");
}

/* What failed is told, and the conversation goes on; but not without a server. */
static int tell(chat *c, int rc, const ic_error *e)
{
    if (rc == IC_ECLOSED)
        return ic_error_set(c->e, rc, "%s", e->text);
    if (rc && c->cli->args->json)
        ic_cli_view_json_error(&c->cli->view, c->cli->session,
                               ic_wire_code_name(ic_wire_code_from_err(rc)), e->text);
    else if (rc)
        ic_cli_view_note(&c->cli->view, "%s", e->text);
    return IC_OK;
}

/* A line that begins with "/". *done: the conversation is over. */
static int run_slash(chat *c, char *line, bool *done)
{
    ic_cli *cli = c->cli;
    ic_error e = {0};
    char *argument = line + strcspn(line, " \t");
    if (*argument)
        *argument++ = '\0';
    argument += strspn(argument, " \t");
    if (!strcmp(line, "/quit") || !strcmp(line, "/exit") || !strcmp(line, "/bye")) {
        *done = true;
        return IC_OK;
    }
    if (!strcmp(line, "/help"))
        return help(), IC_OK;
    if (!strcmp(line, "/status"))
        return tell(c, ic_cli_status(cli, &e), &e);
    if (!strcmp(line, "/show"))
        return tell(c, ic_cli_show(cli, cli->args->turns, &e), &e);
    if (!strcmp(line, "/memory"))
        return tell(c, ic_cli_show_memory(cli, &e), &e);
    if (!strcmp(line, "/title"))
        return tell(c, ic_cli_title(cli, argument, NULL, &e), &e);
    size_t size = strlen(argument);
    bool is_behind = size > 1 && argument[size - 1] == '&';
    if (!strcmp(line, "/watch") && is_behind) {
        argument[size - 1] = '\0';
        argument[strcspn(argument, " \t")] = '\0';
        return tell(c, ic_cli_feed_behind(cli, argument, &e), &e);
    }
    if (!strcmp(line, "/stop"))
        return tell(c, ic_cli_stop_feeding(cli, &e), &e);
    if (!strcmp(line, "/watch") && *argument)
        return tell(c, ic_cli_feed(cli, argument, IC_WIRE_AS_VIDEO, NULL, &e), &e);
    if (!strcmp(line, "/image") && *argument)
        return tell(c, ic_cli_feed(cli, argument, IC_WIRE_AS_IMAGE, NULL, &e), &e);
    if (!strcmp(line, "/suspend")) {
        int rc = ic_cli_suspend(cli, NULL, &e);
        *done = !rc;
        return tell(c, rc, &e);
    }
    ic_cli_view_note(&cli->view, "%s: no such command, or a word is missing; /help lists them",
                     line);
    return IC_OK;
}

static int run_line(chat *c, char *line, bool *done)
{
    ic_error e = {0};
    line += strspn(line, " \t");
    if (!*line)
        return IC_OK;
    if (*line == '/')
        return run_slash(c, line, done);
    return tell(c, ic_cli_ask(c->cli, line, NULL, &e), &e);
}

/* An interrupt at the prompt: the first clears the line, the second in a row leaves. */
static bool leaves_after_interrupt(chat *c, int *in_a_row)
{
    c->is_interrupted = false;
    if (!c->editor || ++*in_a_row > 1)
        return true;
    printf("\n");
    el_reset(c->editor);
    ic_cli_view_note(&c->cli->view, "Ctrl-C again leaves; /help tells more");
    return false;
}

int ic_cli_chat(ic_cli *cli, ic_error *e)
{
    bool is_terminal = isatty(STDIN_FILENO) && cli->view.is_out_tty, done = false;
    chat c = {.cli = cli, .e = e};
    int in_a_row = 0, rc = IC_OK;
    ic_buf_init(&c.line, 0);
    if (is_terminal)
        open_editor(&c);
    if (is_terminal)
        ic_cli_view_note(&cli->view, "ask something, or /help");
    cli->view.shows_all = is_terminal;
    cli->view.arg = &c;
    while (!done && !rc) {
        char *line = is_terminal ? read_edited(&c) : read_piped(&c);
        if (!line && c.is_interrupted) {
            done = leaves_after_interrupt(&c, &in_a_row);
            continue;
        }
        if (!line)
            break;
        in_a_row = 0;
        rc = run_line(&c, line, &done);
        ic_free(line);
    }
    if (is_terminal) {
        close_editor(&c);
        printf("\n");
        ic_cli_view_note(&cli->view, "go on with: infchat chat %s", cli->session);
    }
    ic_buf_fini(&c.line);
    return rc ? rc : c.rc;
}
