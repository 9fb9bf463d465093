/* ic_cli_args: infchat's command line as a struct. Pure: reads no file, opens nothing. */
#ifndef IC_CLI_ARGS_H
#define IC_CLI_ARGS_H

#include <stdbool.h>
#include <stdio.h>

#include "base/ic_err.h"
#include "wire/ic_wire.h"

typedef enum ic_cli_command {
    IC_CLI_NEW,
    IC_CLI_CHAT,
    IC_CLI_RESUME,
    IC_CLI_ASK,
    IC_CLI_WATCH,
    IC_CLI_ATTACH,
    IC_CLI_SESSIONS,
    IC_CLI_SHOW,
    IC_CLI_TITLE,
    IC_CLI_CANCEL,
    IC_CLI_SUSPEND,
    IC_CLI_RM,
    IC_CLI_STATUS,
    IC_CLI_MARK,
    IC_CLI_UNMARK,
    IC_CLI_FORK,
    IC_CLI_EXPORT,
    IC_CLI_IMPORT,
    IC_CLI_COMMANDS,
    IC_CLI_HELP, /* --help and --version stand for commands of their own */
    IC_CLI_VERSION
} ic_cli_command;

/* Exit statuses, for scripts. */
enum {
    IC_CLI_EXIT_OK = 0,
    IC_CLI_EXIT_ERROR = 1,
    IC_CLI_EXIT_USAGE = 2,
    IC_CLI_EXIT_UNREACHABLE = 3,
    IC_CLI_EXIT_NOTFOUND = 4,
    IC_CLI_EXIT_BUSY = 5,
    IC_CLI_EXIT_INTERRUPTED = 130
};

typedef struct ic_cli_args {
    ic_cli_command command;
    const char *server; /* NULL: the default endpoint */
    bool json, has_key;
    ic_wire_id key;
    int timeout_ms;
    const char *session;       /* ID */
    const char *text;          /* TEXT, SRC, TITLE, NAME or FILE */
    const char *at;            /* fork, export: a mark's name; NULL: as it is now */
    bool rebuild;              /* resume, chat */
    bool same_seed;            /* fork */
    const char *video, *image; /* sources for `new` */
    uint64_t from_event;       /* attach: 0 is absent */
    uint64_t turns;            /* show */
    bool memory;
    ic_wire_new create;        /* title, policy, cache_tokens, system as given */
    ic_wire_settings settings; /* of the policy */
    ic_wire_sampling sampling; /* as given */
    ic_wire_media media;       /* fps, from_us, to_us, max_frames, frame_tokens, live as given */
    int if_busy, on_vanish;    /* -1: absent */
} ic_cli_args;

/* Strings point into argv. IC_EINVAL with a sentence for the user. */
IC_MUST_CHECK int ic_cli_args_parse(ic_cli_args *args, int argc, char **argv, ic_error *e);

/* The text of --help. */
void ic_cli_args_help(FILE *out);

/* "12.5", "1:02", "1:02:03.5" -> microseconds. false: it is no time. */
bool ic_cli_args_time(const char *text, uint64_t *us);

/* What a SRC is: sets kind and source (not for an upload) in the record. The upload's name is the
 * file's last part, or "stdin" for "-". Borrows text. */
void ic_cli_args_source(const char *text, ic_wire_media *media);

#endif
