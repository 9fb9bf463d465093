/* infchat: the terminal client of infchatd. Only what a process needs: arguments, environment,
 * signals; the commands are in ic_cli. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clients/ic_cli.h"
#include "wire/ic_endpoint.h"

static void on_signal(int number)
{
    (void)number;
    ic_cli_interrupt();
}

/* SIGINT wakes whoever waits: no SA_RESTART. A pipe that nobody reads ends us like any filter. */
static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

static int find_endpoint(const ic_cli_args *args, char out[IC_ENDPOINT_MAX], ic_error *e)
{
    const char *named = args->server ? args->server : getenv("INFCHAT_SERVER");
    if (!named || !*named)
        return ic_endpoint_default(out, getenv("XDG_RUNTIME_DIR"), getuid(), e);
    ic_endpoint parsed;
    snprintf(out, IC_ENDPOINT_MAX, "%s", named);
    return ic_endpoint_parse(&parsed, named, e);
}

int main(int argc, char **argv)
{
    ic_cli_args args;
    char endpoint[IC_ENDPOINT_MAX];
    ic_error e = {0};
    if (ic_cli_args_parse(&args, argc, argv, &e)) {
        fprintf(stderr, "infchat: %s\n", e.text);
        return IC_CLI_EXIT_USAGE;
    }
    if (args.command == IC_CLI_HELP) {
        ic_cli_args_help(stdout);
        return IC_CLI_EXIT_OK;
    }
    if (args.command == IC_CLI_VERSION) {
        printf("infchat %s\n", INFCHAT_VERSION);
        return IC_CLI_EXIT_OK;
    }
    if (find_endpoint(&args, endpoint, &e)) {
        fprintf(stderr, "infchat: %s\n", e.text);
        return IC_CLI_EXIT_USAGE;
    }
    catch_signals();
    return ic_cli_run(&args, endpoint);
}
