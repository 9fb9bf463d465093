/* ic_cli: infchat's commands over one ic_client: what each sends, what it waits for, how it ends.
 * One owner thread; ic_cli_interrupt alone may be called from a signal handler. */
#ifndef IC_CLI_H
#define IC_CLI_H

#include "clients/ic_cli_args.h"
#include "clients/ic_cli_view.h"
#include "clients/ic_client.h"

typedef struct ic_cli {
    const ic_cli_args *args;
    ic_client *client;
    ic_cli_view view;
    char session[IC_WIRE_SESSION_MAX + 1]; /* the full id, once known */
    uint64_t fed;                          /* number of the newest source; 0: none */
    int behind_fd; /* of an upload that runs behind the conversation; -1: none */
    int handled;   /* interrupts that were acted upon */
} ic_cli;

/* Runs the command of args (not HELP, VERSION) and returns the exit status. What goes wrong is told
 * on stderr, or with --json as an object on stdout. */
int ic_cli_run(const ic_cli_args *args, const char *endpoint);

/* SIGINT came: the first stops the answer or the source, the next the program. */
void ic_cli_interrupt(void);

/* --- shared by the commands and the chat ------------------------------------------------------ */

/* A request about cli->session's answer to it, and the answer's fields in reply. As
 * ic_client_call. */
int ic_cli_call(ic_cli *cli, ic_wire_msg *request, ic_wire_msg *reply, ic_error *e);

/* The last line of most commands with --json: what OK holds, but for the request's number, which is
 * ours. */
void ic_cli_print_ok(ic_cli *cli, const ic_wire_ok *ok);
/* Sends a message; of its OK only --json tells. */
int ic_cli_call_plain(ic_cli *cli, ic_wire_msg *request, ic_error *e);

/* Asks and shows the answer until its end. IC_ECANCELED: it was stopped; IC_EIO: it failed on the
 * server, which e tells. key may be NULL. */
int ic_cli_ask(ic_cli *cli, const char *text, const ic_wire_id *key, ic_error *e);

/* Feeds a source (as the command line writes it) and shows progress until its end. as:
 * IC_WIRE_AS_*. key may be NULL. IC_EFORMAT: it could not be decoded, which e tells. */
int ic_cli_feed(ic_cli *cli, const char *source, int as, const ic_wire_id *key, ic_error *e);

/* Begins to feed a source and leaves it running: its end comes as an event. */
int ic_cli_feed_behind(ic_cli *cli, const char *source, ic_error *e);
/* Ends whatever source the session has. */
int ic_cli_stop_feeding(ic_cli *cli, ic_error *e);

/* True once for each interrupt that nobody has acted upon. */
bool ic_cli_take_interrupt(ic_cli *cli);

/* Suspends cli->session, or tells what it is, as `suspend`, `show` and `status` do. */
int ic_cli_suspend(ic_cli *cli, const ic_wire_id *key, ic_error *e);
int ic_cli_show(ic_cli *cli, uint64_t turns, ic_error *e);
int ic_cli_show_memory(ic_cli *cli, ic_error *e);
int ic_cli_status(ic_cli *cli, ic_error *e);
int ic_cli_title(ic_cli *cli, const char *title, const ic_wire_id *key, ic_error *e);

/* ic_cli_keep.c: `mark`, `unmark`, `fork`, `export` and `import` as the command line says. */
int ic_cli_mark(ic_cli *cli, const ic_wire_id *key, ic_error *e);
int ic_cli_fork(ic_cli *cli, const ic_wire_id *key, ic_error *e);
int ic_cli_export(ic_cli *cli, ic_error *e);
int ic_cli_import(ic_cli *cli, const ic_wire_id *key, ic_error *e);

/* Lines from the terminal or a pipe to cli->session, until the end, /quit or an error (in e). */
int ic_cli_chat(ic_cli *cli, ic_error *e);

#endif
