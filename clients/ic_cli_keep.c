/* Commands about what is kept of a session: its marks, its forks. */
#include <stdio.h>
#include <stdlib.h>

#include "clients/ic_cli.h"

int ic_cli_mark(ic_cli *cli, const ic_wire_id *key, ic_error *e)
{
    bool adds = cli->args->command == IC_CLI_MARK;
    ic_wire_msg m;
    ic_wire_msg_init(&m, adds ? IC_WIRE_MARK : IC_WIRE_UNMARK);
    if (adds) {
        ic_wire_put(&m.mark, mark, session, cli->session);
        ic_wire_put(&m.mark, mark, name, cli->args->text);
    } else {
        ic_wire_put(&m.unmark, unmark, session, cli->session);
        ic_wire_put(&m.unmark, unmark, name, cli->args->text);
    }
    if (key)
        ic_wire_msg_set_key(&m, key);
    return ic_cli_call_plain(cli, &m, e);
}

/* Prints the new session's id, as `new` does. */
int ic_cli_fork(ic_cli *cli, const ic_wire_id *key, ic_error *e)
{
    const ic_cli_args *args = cli->args;
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_FORK);
    ic_wire_put(&m.fork, fork, session, cli->session);
    if (args->at)
        ic_wire_put(&m.fork, fork, at, args->at);
    if (ic_wire_has(&args->create, new, title))
        ic_wire_put(&m.fork, fork, title, args->create.title);
    if (ic_wire_has(&args->sampling, sampling, seed))
        ic_wire_put(&m.fork, fork, seed, args->sampling.seed);
    if (args->same_seed)
        ic_wire_put(&m.fork, fork, same_seed, true);
    if (key)
        ic_wire_msg_set_key(&m, key);
    int rc = ic_cli_call(cli, &m, &reply, e);
    if (!rc && args->json)
        ic_cli_print_ok(cli, &reply.ok);
    else if (!rc)
        printf("%s\n", cli->session);
    ic_wire_msg_fini(&reply);
    return rc;
}
