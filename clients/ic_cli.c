#include "clients/ic_cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ic_clock.h"
#include "base/ic_mem.h"

enum { TICK_MS = 100, STDIN_TEXT_MAX = IC_WIRE_TEXT_MAX };

static volatile sig_atomic_t interrupts;

void ic_cli_interrupt(void)
{
    interrupts++;
}

bool ic_cli_take_interrupt(ic_cli *cli)
{
    if (interrupts == cli->handled)
        return false;
    cli->handled++;
    return true;
}

/* --- what the client library tells --------------------------------------------------------------
 */

static void on_event(const ic_wire_event *event, void *arg)
{
    ic_cli *cli = arg;
    if (!cli->session[0] || !strcmp(cli->session, event->session))
        ic_cli_view_event(&cli->view, event);
}

static void on_error(const ic_wire_error *error, void *arg)
{
    ic_cli *cli = arg;
    ic_cli_view *v = &cli->view;
    if (v->media && ic_wire_get(error, error, media, 0) == v->media && !v->is_fed) {
        snprintf(v->code, sizeof v->code, "%s", error->code);
        snprintf(v->message, sizeof v->message, "%s", error->message);
        v->is_fed = true;
        return;
    }
    if (v->is_json)
        ic_cli_view_json(v, "error", "error", error);
    ic_cli_view_note(v, "the server says: %s", error->message);
}

static void on_lost(bool is_lost, void *arg)
{
    ic_cli *cli = arg;
    ic_cli_view_note(&cli->view, is_lost ? "the server does not answer; trying again ..."
                                         : "the server is back");
}

static void on_goaway(const ic_wire_goaway *goaway, void *arg)
{
    ic_cli *cli = arg;
    ic_cli_view_note(&cli->view, "the server is stopping: %s", goaway->reason);
}

static bool is_interrupted(void *arg)
{
    const ic_cli *cli = arg;
    return interrupts != cli->handled;
}

/* --- requests --------------------------------------------------------------------------------- */

int ic_cli_call(ic_cli *cli, ic_wire_msg *request, ic_wire_msg *reply, ic_error *e)
{
    int rc = ic_client_call(cli->client, request, reply, e);
    if (!rc && ic_wire_has(&reply->ok, ok, session))
        snprintf(cli->session, sizeof cli->session, "%s", reply->ok.session);
    return rc;
}

void ic_cli_print_ok(ic_cli *cli, const ic_wire_ok *ok)
{
    ic_wire_ok result = *ok;
    result.has &= ~((uint64_t)1 << IC_WIRE_F_ok_re);
    ic_cli_view_json(&cli->view, "result", "ok", &result);
}

int ic_cli_call_plain(ic_cli *cli, ic_wire_msg *request, ic_error *e)
{
    ic_wire_msg reply;
    int rc = ic_cli_call(cli, request, &reply, e);
    if (!rc && cli->args->json)
        ic_cli_print_ok(cli, &reply.ok);
    ic_wire_msg_fini(&reply);
    return rc;
}

static void set_key(ic_wire_msg *m, const ic_wire_id *key)
{
    if (key)
        ic_wire_msg_set_key(m, key);
}

static void send_cancel(ic_cli *cli)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_CANCEL);
    ic_wire_put(&m.cancel, cancel, session, cli->session);
    ic_wire_put(&m.cancel, cancel, turn, cli->view.turn);
    if (ic_client_call(cli->client, &m, &reply, NULL) == IC_OK)
        ic_wire_msg_fini(&reply);
}

static void send_media_stop(ic_cli *cli)
{
    ic_wire_msg m, reply;
    ic_client_upload_abort(cli->client);
    ic_wire_msg_init(&m, IC_WIRE_MEDIA_STOP);
    ic_wire_put(&m.media_stop, media_stop, session, cli->session);
    ic_wire_put(&m.media_stop, media_stop, media, cli->view.media);
    if (ic_client_call(cli->client, &m, &reply, NULL) == IC_OK)
        ic_wire_msg_fini(&reply);
}

/* Waits until *done. The first interrupt calls stop and goes on waiting; the next gives up. */
static int follow(ic_cli *cli, const bool *done, void (*stop)(ic_cli *), ic_error *e)
{
    bool is_stopping = false;
    while (!*done) {
        int rc = ic_client_wait(cli->client, -1, NULL, TICK_MS, e);
        if (rc)
            return rc;
        if (ic_cli_take_interrupt(cli)) {
            if (is_stopping || !stop)
                return ic_error_set(e, IC_ECANCELED, "interrupted");
            is_stopping = true;
            stop(cli);
        }
        ic_client_upload_progress(cli->client, &cli->view.sent, &cli->view.size);
        ic_cli_view_tick(&cli->view, ic_clock_mono_us());
    }
    return IC_OK;
}

/* --- ask -------------------------------------------------------------------------------------- */

static int answer_result(ic_cli *cli, ic_error *e)
{
    const ic_cli_view *v = &cli->view;
    if (v->finish_reason == IC_WIRE_FINISH_CANCEL)
        return ic_error_set(e, IC_ECANCELED, "the answer was stopped");
    if (v->finish_reason == IC_WIRE_FINISH_ERROR)
        return ic_error_set(e, IC_EIO, "%s", v->message[0] ? v->message : "the answer failed");
    return IC_OK;
}

int ic_cli_ask(ic_cli *cli, const char *text, const ic_wire_id *key, ic_error *e)
{
    const ic_cli_args *args = cli->args;
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_ASK);
    ic_wire_put(&m.ask, ask, session, cli->session);
    ic_wire_put(&m.ask, ask, text, text);
    if (args->command == IC_CLI_ASK && args->sampling.has)
        ic_wire_put(&m.ask, ask, sampling, args->sampling);
    if (args->if_busy >= 0)
        ic_wire_put(&m.ask, ask, if_busy, args->if_busy);
    if (args->on_vanish >= 0)
        ic_wire_put(&m.ask, ask, on_vanish, args->on_vanish);
    set_key(&m, key);
    int rc = ic_cli_call(cli, &m, &reply, e);
    if (rc)
        return rc;
    ic_cli_view_begin_turn(&cli->view, reply.ok.turn);
    ic_wire_msg_fini(&reply);
    rc = follow(cli, &cli->view.is_answered, send_cancel, e);
    if (!rc && args->json)
        ic_cli_view_json_answer(&cli->view, cli->session);
    ic_cli_view_end(&cli->view);
    if (rc)
        return rc;
    rc = answer_result(cli, e);
    if (!args->json)
        ic_cli_view_usage(&cli->view);
    return rc;
}

/* --- media ------------------------------------------------------------------------------------ */

/* Opens what is to be uploaded. */
static int open_upload(const char *source, int *fd, ic_error *e)
{
    *fd = strcmp(source, "-") ? open(source, O_RDONLY | O_CLOEXEC) : dup(STDIN_FILENO);
    if (*fd < 0)
        return ic_error_set(e, errno == ENOENT ? IC_ENOTFOUND : IC_EIO,
                            "%s: %s (a file on the server is written server:/path)", source,
                            strerror(errno));
    return IC_OK;
}

static int start_media(ic_cli *cli, const char *source, ic_wire_msg *m, int *fd, ic_error *e)
{
    ic_wire_msg reply;
    int rc;
    if (m->media.kind == IC_WIRE_KIND_UPLOAD) {
        rc = open_upload(source, fd, e);
        if (!rc)
            rc = ic_client_upload(cli->client, m, *fd, &reply, e);
    } else {
        rc = ic_cli_call(cli, m, &reply, e);
    }
    if (rc)
        return rc;
    snprintf(cli->session, sizeof cli->session, "%s", reply.ok.session);
    ic_cli_view_begin_media(&cli->view, ic_wire_get(&reply.ok, ok, media, 0), m->media.name);
    cli->view.is_fed = !ic_wire_has(&reply.ok, ok, media); /* repeated, and over already */
    cli->fed = ic_wire_get(&reply.ok, ok, media, 0);
    cli->view.from_us = ic_wire_get(&m->media, media, from_us, 0);
    ic_wire_msg_fini(&reply);
    return IC_OK;
}

static int media_result(const ic_cli *cli, ic_error *e)
{
    const ic_cli_view *v = &cli->view;
    if (!v->code[0])
        return IC_OK;
    bool is_named = !strncmp(v->message, v->name, strlen(v->name));
    return ic_error_set(e, IC_EFORMAT, "%s%s%s", is_named ? "" : v->name, is_named ? "" : ": ",
                        v->message);
}

/* The MEDIA message of a source as the command line writes it. */
static void fill_media(const ic_cli *cli, const char *source, int as, ic_wire_msg *m)
{
    ic_wire_msg_init(m, IC_WIRE_MEDIA);
    m->media = cli->args->media; /* fps and the like */
    ic_wire_put(&m->media, media, session, cli->session);
    ic_cli_args_source(source, &m->media);
    if (as != IC_WIRE_AS_VIDEO)
        ic_wire_put(&m->media, media, as, as);
}

int ic_cli_feed(ic_cli *cli, const char *source, int as, const ic_wire_id *key, ic_error *e)
{
    ic_wire_msg m;
    int fd = -1;
    if (ic_client_is_uploading(cli->client))
        return ic_error_set(e, IC_EBUSY, "a source is being uploaded already");
    fill_media(cli, source, as, &m);
    set_key(&m, key);
    int rc = start_media(cli, source, &m, &fd, e);
    if (!rc)
        rc = follow(cli, &cli->view.is_fed, send_media_stop, e);
    ic_client_upload_abort(cli->client);
    if (fd >= 0)
        close(fd);
    ic_cli_view_end(&cli->view);
    if (rc)
        return rc;
    rc = media_result(cli, e);
    if (!rc && cli->view.is_err_tty)
        ic_cli_view_note(&cli->view, "%s: %llu frames seen, %llu skipped, %llu deduplicated",
                         cli->view.name, (unsigned long long)cli->view.frames,
                         (unsigned long long)cli->view.frames_skipped,
                         (unsigned long long)cli->view.frames_deduplicated);
    return rc;
}

/* The descriptor of an upload that has ended is given back; of one that runs, when asked. */
static void close_behind(ic_cli *cli, bool by_force)
{
    if (cli->behind_fd < 0 || (ic_client_is_uploading(cli->client) && !by_force))
        return;
    ic_client_upload_abort(cli->client);
    close(cli->behind_fd);
    cli->behind_fd = -1;
}

int ic_cli_feed_behind(ic_cli *cli, const char *source, ic_error *e)
{
    ic_wire_msg m;
    if (ic_client_is_uploading(cli->client))
        return ic_error_set(e, IC_EBUSY, "a source is being uploaded already; /stop ends it");
    close_behind(cli, true);
    fill_media(cli, source, IC_WIRE_AS_VIDEO, &m);
    int rc = start_media(cli, source, &m, &cli->behind_fd, e);
    ic_cli_view_end(&cli->view); /* its events are told like those of others */
    return rc;
}

int ic_cli_stop_feeding(ic_cli *cli, ic_error *e)
{
    ic_wire_msg m, reply;
    close_behind(cli, true);
    ic_wire_msg_init(&m, IC_WIRE_MEDIA_STOP);
    ic_wire_put(&m.media_stop, media_stop, session, cli->session);
    int rc = ic_cli_call(cli, &m, &reply, e);
    ic_wire_msg_fini(&reply);
    return rc;
}

/* --- the small commands ------------------------------------------------------------------------
 */

int ic_cli_suspend(ic_cli *cli, const ic_wire_id *key, ic_error *e)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_SUSPEND);
    ic_wire_put(&m.suspend, suspend, session, cli->session);
    set_key(&m, key);
    return ic_cli_call_plain(cli, &m, e);
}

int ic_cli_title(ic_cli *cli, const char *title, const ic_wire_id *key, ic_error *e)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_TITLE);
    ic_wire_put(&m.title, title, session, cli->session);
    ic_wire_put(&m.title, title, title, title);
    set_key(&m, key);
    return ic_cli_call_plain(cli, &m, e);
}

static int run_rm(ic_cli *cli, const ic_wire_id *key, ic_error *e)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_RM);
    ic_wire_put(&m.rm, rm, session, cli->session);
    set_key(&m, key);
    return ic_cli_call_plain(cli, &m, e);
}

static int run_cancel(ic_cli *cli, const ic_wire_id *key, ic_error *e)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_CANCEL);
    ic_wire_put(&m.cancel, cancel, session, cli->session);
    set_key(&m, key);
    return ic_cli_call_plain(cli, &m, e);
}

int ic_cli_show(ic_cli *cli, uint64_t turns, ic_error *e)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_SHOW);
    ic_wire_put(&m.show, show, session, cli->session);
    ic_wire_put(&m.show, show, turns, turns);
    int rc = ic_cli_call(cli, &m, &reply, e);
    if (!rc && cli->args->json)
        ic_cli_print_ok(cli, &reply.ok);
    else if (!rc)
        ic_cli_view_show(&reply.ok);
    ic_wire_msg_fini(&reply);
    return rc;
}

int ic_cli_show_memory(ic_cli *cli, ic_error *e)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_SHOW);
    ic_wire_put(&m.show, show, session, cli->session);
    ic_wire_put(&m.show, show, memory, true);
    int rc = ic_cli_call(cli, &m, &reply, e);
    if (!rc && cli->args->json)
        ic_cli_print_ok(cli, &reply.ok);
    else if (!rc)
        ic_cli_view_memory(&cli->view, &reply.ok);
    ic_wire_msg_fini(&reply);
    return rc;
}

int ic_cli_status(ic_cli *cli, ic_error *e)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_STATUS);
    int rc = ic_cli_call(cli, &m, &reply, e);
    if (!rc && cli->args->json)
        ic_cli_view_json(&cli->view, "result", "status_info", &reply.ok.status);
    else if (!rc)
        ic_cli_view_status(&reply.ok.status);
    ic_wire_msg_fini(&reply);
    return rc;
}

static int run_sessions(ic_cli *cli, ic_error *e)
{
    char after[IC_WIRE_SESSION_MAX + 1] = "";
    bool more = true;
    for (int page = 0; more; page++) {
        ic_wire_msg m, reply;
        ic_wire_msg_init(&m, IC_WIRE_LIST);
        if (after[0])
            ic_wire_put(&m.list, list, after, after);
        int rc = ic_cli_call(cli, &m, &reply, e);
        if (rc)
            return rc;
        const ic_wire_session_info_list *list = &reply.ok.sessions;
        if (!cli->args->json)
            ic_cli_view_sessions(list, page == 0);
        for (uint32_t i = 0; cli->args->json && i < list->count; i++)
            ic_cli_view_json(&cli->view, "session", "session_info", &list->items[i]);
        more = list->count && ic_wire_get(&reply.ok, ok, more, false);
        if (list->count)
            snprintf(after, sizeof after, "%s", list->items[list->count - 1].session);
        ic_wire_msg_fini(&reply);
    }
    return IC_OK;
}

static int run_attach(ic_cli *cli, ic_error *e)
{
    ic_wire_msg m, reply;
    const bool never = false;
    ic_wire_msg_init(&m, IC_WIRE_ATTACH);
    ic_wire_put(&m.attach, attach, session, cli->session);
    if (cli->args->from_event)
        ic_wire_put(&m.attach, attach, from, cli->args->from_event);
    cli->view.shows_all = true;
    int rc = ic_cli_call(cli, &m, &reply, e);
    ic_wire_msg_fini(&reply);
    if (!rc)
        rc = follow(cli, &never, NULL, e);
    ic_cli_view_end(&cli->view);
    return rc;
}

/* --- new, resume, ask, watch --------------------------------------------------------------------
 */

static bool is_conversation(const ic_cli *cli)
{
    return !cli->args->json && cli->view.is_out_tty && isatty(STDIN_FILENO);
}

/* A key for the n-th request of a command, so that the command repeated repeats them all. */
static const ic_wire_id *derived_key(const ic_cli_args *args, uint8_t n, ic_wire_id *key)
{
    *key = args->key;
    key->bytes[15] ^= n;
    return args->has_key ? key : NULL;
}

static int feed_first(ic_cli *cli, ic_error *e)
{
    const ic_cli_args *args = cli->args;
    ic_wire_id key;
    int rc = IC_OK;
    if (args->image)
        rc = ic_cli_feed(cli, args->image, IC_WIRE_AS_IMAGE, derived_key(args, 2, &key), e);
    if (!rc && args->video)
        rc = ic_cli_feed(cli, args->video, IC_WIRE_AS_VIDEO, derived_key(args, 1, &key), e);
    return rc;
}

/* A source that is not there is found out before the session is made. */
static int check_sources(const ic_cli_args *args, ic_error *e)
{
    const char *sources[] = {args->image, args->video};
    for (int i = 0; i < 2; i++) {
        ic_wire_media media = {0};
        int fd;
        if (!sources[i])
            continue;
        ic_cli_args_source(sources[i], &media);
        if (media.kind != IC_WIRE_KIND_UPLOAD)
            continue;
        int rc = open_upload(sources[i], &fd, e);
        if (rc)
            return rc;
        close(fd);
    }
    return IC_OK;
}

/* The last line of `new` and `watch`: the session, and what it was fed. */
static void print_fed(ic_cli *cli)
{
    const ic_cli_view *v = &cli->view;
    ic_wire_ok result = {0};
    ic_wire_media_info info = {0};
    ic_wire_put(&result, ok, session, cli->session);
    if (cli->fed) {
        ic_wire_put(&info, media_info, media, cli->fed);
        ic_wire_put(&info, media_info, name, v->name);
        ic_wire_put(&info, media_info, frames_seen, v->frames);
        ic_wire_put(&info, media_info, frames_skipped, v->frames_skipped);
        ic_wire_put(&info, media_info, frames_deduplicated, v->frames_deduplicated);
        ic_wire_put(&result, ok, media, cli->fed);
        ic_wire_put(&result, ok, medias, ((ic_wire_media_info_list){1, &info}));
    }
    ic_cli_view_json(&cli->view, "result", "ok", &result);
}

static int run_new(ic_cli *cli, ic_error *e)
{
    const ic_cli_args *args = cli->args;
    ic_wire_msg m, reply;
    int rc = check_sources(args, e);
    if (rc)
        return rc;
    ic_wire_msg_init(&m, IC_WIRE_NEW);
    m.new = args->create;
    if (args->sampling.has)
        ic_wire_put(&m.new, new, sampling, args->sampling);
    if (args->settings.has)
        ic_wire_put(&m.new, new, settings, args->settings);
    set_key(&m, args->has_key ? &args->key : NULL);
    rc = ic_cli_call(cli, &m, &reply, e);
    ic_wire_msg_fini(&reply);
    if (rc)
        return rc;
    if (is_conversation(cli))
        ic_cli_view_note(&cli->view, "session %s", cli->session);
    rc = feed_first(cli, e);
    if (args->json && !rc)
        print_fed(cli);
    else if (!args->json && !is_conversation(cli))
        printf("%s\n", cli->session);
    return !rc && is_conversation(cli) ? ic_cli_chat(cli, e) : rc;
}

static int run_resume(ic_cli *cli, ic_error *e)
{
    bool is_chat = cli->args->command == IC_CLI_CHAT;
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_RESUME);
    ic_wire_put(&m.resume, resume, session, cli->session);
    bool rebuild = cli->args->rebuild;
    if (rebuild)
        ic_wire_put(&m.resume, resume, rebuild, true);
    int rc = ic_cli_call(cli, &m, &reply, e);
    while (rc == IC_ETIMEOUT && rebuild) { /* hours of film take their time */
        ic_cli_view_note(&cli->view, "the memory is being made again");
        rc = ic_cli_call(cli, &m, &reply, e);
    }
    if (rc)
        return rc;
    if (cli->args->json && !is_chat)
        ic_cli_print_ok(cli, &reply.ok);
    uint64_t again = ic_wire_get(&reply.ok, ok, recomputed_tokens, 0);
    if (again)
        ic_cli_view_note(&cli->view, "resumed; %llu tokens were computed again",
                         (unsigned long long)again);
    for (uint32_t i = 0; ic_wire_has(&reply.ok, ok, notices) && i < reply.ok.notices.count; i++)
        ic_cli_view_note(&cli->view, "%s", reply.ok.notices.items[i]);
    if (!ic_wire_get(&reply.ok, ok, exact, true))
        ic_cli_view_note(&cli->view, "resumed under other numerics than before");
    ic_wire_msg_fini(&reply);
    return is_chat || is_conversation(cli) ? ic_cli_chat(cli, e) : IC_OK;
}

/* TEXT, or all of stdin for "-". Caller owns. */
static char *question(const char *text, ic_error *e)
{
    if (strcmp(text, "-"))
        return ic_strdup(text);
    char *all = ic_calloc(1, STDIN_TEXT_MAX + 2);
    size_t size = fread(all, 1, STDIN_TEXT_MAX + 1, stdin);
    while (size && (all[size - 1] == '\n' || all[size - 1] == '\r'))
        all[--size] = '\0';
    if (!size)
        ic_error_set(e, IC_EINVAL, "no question on stdin");
    return all;
}

static int run_ask(ic_cli *cli, ic_error *e)
{
    char *text = question(cli->args->text, e);
    int rc = *text ? ic_cli_ask(cli, text, cli->args->has_key ? &cli->args->key : NULL, e)
                   : ic_error_set(e, IC_EINVAL, "there is no question");
    ic_free(text);
    return rc;
}

static int run_watch(ic_cli *cli, ic_error *e)
{
    const ic_cli_args *args = cli->args;
    int rc = ic_cli_feed(cli, args->text, IC_WIRE_AS_VIDEO, args->has_key ? &args->key : NULL, e);
    if (!rc && args->json)
        print_fed(cli);
    return rc;
}

/* --- running ---------------------------------------------------------------------------------- */

static int run_command(ic_cli *cli, ic_error *e)
{
    const ic_cli_args *args = cli->args;
    const ic_wire_id *key = args->has_key ? &args->key : NULL;
    switch (args->command) {
    case IC_CLI_NEW:
        return run_new(cli, e);
    case IC_CLI_CHAT:
    case IC_CLI_RESUME:
        return run_resume(cli, e);
    case IC_CLI_ASK:
        return run_ask(cli, e);
    case IC_CLI_WATCH:
        return run_watch(cli, e);
    case IC_CLI_ATTACH:
        return run_attach(cli, e);
    case IC_CLI_SESSIONS:
        return run_sessions(cli, e);
    case IC_CLI_SHOW:
        return args->memory ? ic_cli_show_memory(cli, e) : ic_cli_show(cli, args->turns, e);
    case IC_CLI_TITLE:
        return ic_cli_title(cli, args->text, key, e);
    case IC_CLI_CANCEL:
        return run_cancel(cli, key, e);
    case IC_CLI_SUSPEND:
        return ic_cli_suspend(cli, key, e);
    case IC_CLI_RM:
        return run_rm(cli, key, e);
    case IC_CLI_MARK:
    case IC_CLI_UNMARK:
        return ic_cli_mark(cli, key, e);
    case IC_CLI_FORK:
        return ic_cli_fork(cli, key, e);
    case IC_CLI_EXPORT:
        return ic_cli_export(cli, e);
    case IC_CLI_IMPORT:
        return ic_cli_import(cli, key, e);
    default:
        return ic_cli_status(cli, e);
    }
}

static int exit_status(int rc)
{
    switch (rc) {
    case IC_OK:
        return IC_CLI_EXIT_OK;
    case IC_ECLOSED:
    case IC_ETIMEOUT:
        return IC_CLI_EXIT_UNREACHABLE;
    case IC_ENOTFOUND:
        return IC_CLI_EXIT_NOTFOUND;
    case IC_EBUSY:
        return IC_CLI_EXIT_BUSY;
    case IC_ECANCELED:
        return IC_CLI_EXIT_INTERRUPTED;
    default:
        return IC_CLI_EXIT_ERROR;
    }
}

/* The protocol's word for what went wrong: the server's own where it was an ERROR. */
static const char *code_of(const ic_cli *cli, int rc)
{
    if (cli->client && *ic_client_last_code(cli->client))
        return ic_client_last_code(cli->client);
    if (cli->view.code[0])
        return cli->view.code;
    if (rc == IC_ECLOSED)
        return "UNREACHABLE";
    return rc == IC_ECANCELED ? "INTERRUPTED" : ic_wire_code_name(ic_wire_code_from_err(rc));
}

static void tell_failure(ic_cli *cli, int rc, const ic_error *e)
{
    bool was_told = cli->args->json && cli->args->command == IC_CLI_ASK && cli->view.is_answered;
    ic_cli_view_end(&cli->view);
    if (cli->args->json && !was_told)
        ic_cli_view_json_error(&cli->view, cli->session, code_of(cli, rc), e->text);
    if (!cli->args->json && rc != IC_ECANCELED)
        fprintf(stderr, "infchat: %s\n", e->text);
}

int ic_cli_run(const ic_cli_args *args, const char *endpoint)
{
    ic_cli cli = {.args = args, .behind_fd = -1};
    ic_error e = {0};
    ic_client_options options = {.endpoint = endpoint,
                                 .name = "infchat " INFCHAT_VERSION,
                                 .timeout_ms = args->timeout_ms,
                                 .on_event = on_event,
                                 .on_error = on_error,
                                 .on_lost = on_lost,
                                 .on_goaway = on_goaway,
                                 .is_interrupted = is_interrupted,
                                 .arg = &cli};
    ic_cli_view_init(&cli.view, args->json);
    if (args->session)
        snprintf(cli.session, sizeof cli.session, "%s", args->session);
    int rc = ic_client_open(&cli.client, &options, &e);
    if (!rc)
        rc = run_command(&cli, &e);
    if (rc)
        tell_failure(&cli, rc, &e);
    if (cli.client)
        close_behind(&cli, true);
    ic_client_close(&cli.client);
    ic_cli_view_fini(&cli.view);
    return exit_status(rc);
}
