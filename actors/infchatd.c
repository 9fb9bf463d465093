/* infchatd: flags, settings, the order of start and stop, signals. No logic. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "actors/ic_check.h"
#include "actors/ic_router.h"
#include "actors/ic_store_actor.h"
#include "base/ic_failpoint.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"
#include "config/ic_config.h"
#include "wire/ic_endpoint.h"

enum {
    START_MS = 600000, /* a large model takes its time to load */
    STOP_MS = 30000,
    STORE_CACHE = 4 << 20, /* what a transaction writes; the system's own cache has the rest */
    EXIT_FAILED = 1,
    EXIT_USAGE = 2
};

/* --- signals -----------------------------------------------------------------------------------
 */

static volatile sig_atomic_t signal_count;

/* The first asks for an orderly end, the second ends at once. */
static void on_signal(int number)
{
    (void)number;
    signal_count = signal_count + 1;
    if (signal_count > 1)
        _exit(EXIT_FAILED);
}

static int catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGTERM, &action, NULL) || sigaction(SIGINT, &action, NULL))
        return -1;
    signal(SIGPIPE, SIG_IGN);
    return 0;
}

/* --- flags -------------------------------------------------------------------------------------
 */

static void print_help(void)
{
    ic_buf settings = {0};
    ic_config_help(&settings);
    printf("usage: infchatd --model DIR [option]...\n"
           "\n"
           "Holds conversations about video. Clients: infchat, or anything that speaks\n"
           "docs/protocol.md.\n"
           "\n"
           "  --model DIR        model directory in the Hugging Face format (model.dir)\n"
           "  --config FILE      settings; infchatd.conf is the manual\n"
           "  --listen ENDPOINT  ipc:///path or tcp://127.0.0.1:port; may be repeated\n"
           "  --store FILE       database file (store.path)\n"
           "  --device NAME      cpu or cuda (model.device)\n"
           "  --threads N        compute threads (model.threads)\n"
           "  --log-level LEVEL  error, warn, info, debug, trace (log.level)\n"
           "  --set NAME=VALUE   any setting, as section.name=value; may be repeated\n"
           "  --check-store      verify all that is stored, print it, and end: status 0 if all is\n"
           "                     well, 1 if not; needs no model, and no server on the store\n"
           "  --help, --version\n"
           "\n"
           "settings, with their defaults:\n"
           "%.*s",
           (int)settings.size, (const char *)settings.data);
    ic_buf_fini(&settings);
}

typedef struct flag {
    const char *section, *name, *value;
} flag;

static int apply_set(ic_config *c, const char *text, ic_error *e)
{
    char section[32], name[64];
    int end = 0;
    if (sscanf(text, "%31[a-z].%63[a-z_]=%n", section, name, &end) < 2 || !end)
        return ic_error_set(e, IC_EINVAL, "--set %.60s: section.name=value is wanted", text);
    return ic_config_set(c, section, name, text + end, e);
}

/* The file first, then the flags over it, wherever they stand. Returns -1 to go on, else the exit
 * status. */
static int read_settings(ic_config *c, bool *check_store, int argc, char **argv)
{
    enum { HELP = 1, VERSION, CHECK, CONFIG, SET, LISTEN, FIRST };
    static const struct option options[] = {{"help", no_argument, NULL, HELP},
                                            {"version", no_argument, NULL, VERSION},
                                            {"check-store", no_argument, NULL, CHECK},
                                            {"config", required_argument, NULL, CONFIG},
                                            {"set", required_argument, NULL, SET},
                                            {"listen", required_argument, NULL, LISTEN},
                                            {"model", required_argument, NULL, FIRST},
                                            {"store", required_argument, NULL, FIRST + 1},
                                            {"device", required_argument, NULL, FIRST + 2},
                                            {"threads", required_argument, NULL, FIRST + 3},
                                            {"log-level", required_argument, NULL, FIRST + 4},
                                            {NULL, 0, NULL, 0}};
    static const char *const settings[][2] = {{"model", "dir"},
                                              {"store", "path"},
                                              {"model", "device"},
                                              {"model", "threads"},
                                              {"log", "level"}};
    ic_error e = {0};
    int rc = IC_OK, option;
    bool listens = false;
    for (int round = 0; rc == IC_OK && round < 2; round++) {
        optind = 1;
        while (rc == IC_OK && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
            if (option == '?')
                return EXIT_USAGE;
            if (option == HELP || option == VERSION) {
                if (option == HELP)
                    print_help();
                else
                    printf("infchatd %s\n", INFCHAT_VERSION);
                return EXIT_SUCCESS;
            }
            if (option == CHECK) {
                *check_store = true;
                continue;
            }
            if (round == 0 && option == CONFIG)
                rc = ic_config_load(c, optarg, &e);
            if (round == 0 || option == CONFIG)
                continue;
            if (option == LISTEN && !listens) { /* the command line replaces the file's list */
                while (c->server_listen.count)
                    ic_free(c->server_listen.items[--c->server_listen.count]);
                listens = true;
            }
            rc = option == SET      ? apply_set(c, optarg, &e)
                 : option == LISTEN ? ic_config_set(c, "server", "listen", optarg, &e)
                                    : ic_config_set(c, settings[option - FIRST][0],
                                                    settings[option - FIRST][1], optarg, &e);
        }
    }
    if (rc == IC_OK && optind < argc)
        rc = ic_error_set(&e, IC_EINVAL, "\"%s\" is not an option; see --help", argv[optind]);
    if (rc == IC_OK)
        rc = ic_config_check(c, &e);
    if (rc == IC_OK && !c->model_dir[0] && !*check_store)
        rc =
            ic_error_set(&e, IC_EINVAL, "no model: say --model DIR (or model.dir in the settings)");
    if (rc) {
        fprintf(stderr, "infchatd: %s\n", e.text);
        return EXIT_USAGE;
    }
    return -1;
}

/* --- settings into plain structs ---------------------------------------------------------------
 */

typedef struct server {
    ic_config config;
    ic_store_actor_args store_args;
    ic_sched_args sched_args;
    ic_router_args router_args;
    char *store_path, *spool_dir, *runtime_dir;
    char default_endpoint[IC_ENDPOINT_MAX];
    const char *endpoints[8];
    ic_actor *store, *sched, *router;
    ic_inbox *inbox;
} server;

static int fill_endpoints(server *s, ic_error *e)
{
    const ic_config_list *list = &s->config.server_listen;
    s->router_args.endpoints = s->endpoints;
    for (size_t i = 0; i < list->count && i < 8; i++)
        s->endpoints[s->router_args.endpoint_count++] = list->items[i];
    if (list->count)
        return IC_OK;
    s->runtime_dir = ic_config_runtime_dir();
    int rc = ic_endpoint_default(s->default_endpoint, s->runtime_dir, (unsigned long)getuid(), e);
    s->endpoints[0] = s->default_endpoint;
    s->router_args.endpoint_count = 1;
    return rc;
}

static void fill_paths(server *s)
{
    const ic_config *c = &s->config;
    s->store_path = c->store_path[0] ? ic_strdup(c->store_path) : ic_config_default_store();
    s->spool_dir =
        c->media_spool_dir[0] ? ic_strdup(c->media_spool_dir) : ic_strf("%s.spool", s->store_path);
}

/* A setting whose "none" is -1 in the engine, where 0 leaves it to the policy. */
static int none_if_0(int64_t value)
{
    return value ? (int)value : -1;
}

/* What stands there beside the defaults is a setting of the policy. */
static void fill_settings(const ic_config *c, ic_sched_args *a)
{
    enum { SINKS = 4 };
    bool layer = strcmp(c->session_granularity, "layer") == 0;
    bool original = strcmp(c->session_positions, "original") == 0;
    int unit = strcmp(c->session_frame_unit, "whole") == 0    ? IC_FRAME_WHOLE
               : strcmp(c->session_frame_unit, "tokens") == 0 ? IC_FRAME_TOKENS
                                                              : 0;
    int bias = (int)(c->session_bias * 100 + 0.5);
    a->settings = (ic_session_config){.sinks = (int)c->session_sinks,
                                      .window = (int)c->session_window,
                                      .recent_pct = none_if_0(c->session_recent_pct),
                                      .bias_pct = bias ? bias : -1,
                                      .smooth_pct = none_if_0(c->session_smooth_pct),
                                      .pool = (int)c->session_pool,
                                      .per_layer = layer,
                                      .frames = (int)c->session_frames,
                                      .positions = original,
                                      .frame_unit = unit,
                                      .questions = none_if_0(c->session_questions),
                                      .thin = none_if_0(c->session_thin),
                                      .fade_pct = none_if_0(c->session_fade_pct),
                                      .care_pct = none_if_0(c->session_care_pct),
                                      .text_pct = none_if_0(c->session_text_pct)};
    const bool given[IC_SETTINGS] = {[IC_SET_SINKS] = c->session_sinks != SINKS,
                                     [IC_SET_WINDOW] = c->session_window > 0,
                                     [IC_SET_RECENT] = c->session_recent_pct >= 0,
                                     [IC_SET_BIAS] = c->session_bias >= 0,
                                     [IC_SET_SMOOTH] = c->session_smooth_pct >= 0,
                                     [IC_SET_POOL] = c->session_pool > 0,
                                     [IC_SET_PER_LAYER] = layer,
                                     [IC_SET_FRAMES] = c->session_frames > 0,
                                     [IC_SET_POSITIONS] = original,
                                     [IC_SET_FRAME_UNIT] = unit,
                                     [IC_SET_QUESTIONS] = c->session_questions >= 0,
                                     [IC_SET_THIN] = c->session_thin >= 0,
                                     [IC_SET_FADE] = c->session_fade_pct >= 0,
                                     [IC_SET_CARE] = c->session_care_pct >= 0,
                                     [IC_SET_TEXT] = c->session_text_pct >= 0};
    for (int i = 0; i < IC_SETTINGS; i++)
        a->given |= (uint32_t)given[i] << i;
}

static void fill_engine(server *s)
{
    const ic_config *c = &s->config;
    ic_sched_args *a = &s->sched_args;
    a->engine = (ic_engine_config){.model_dir = c->model_dir,
                                   .device = c->model_device,
                                   .threads = (int)c->model_threads,
                                   .dtype = c->model_dtype,
                                   .family = c->model_family[0] ? c->model_family : NULL};
    a->step_ms = (int)c->model_step_ms;
    a->max_resident = (int)c->session_max_resident;
    a->cache_tokens = (int)c->session_cache_tokens;
    snprintf(a->policy, sizeof a->policy, "%s", c->session_policy);
    fill_settings(c, a);
}

static ic_ingest_limits ingest_limits(const server *s)
{
    const ic_config *c = &s->config;
    return (ic_ingest_limits){.roots = (const char *const *)c->media_roots.items,
                              .roots_count = c->media_roots.count,
                              .allow_network = c->media_allow_network,
                              .allow_private = c->media_allow_private,
                              .allow_camera = c->media_allow_camera,
                              .ca_file = c->media_ca_file[0] ? c->media_ca_file : NULL,
                              .fps = c->media_fps,
                              .frame_tokens = (int)c->media_frame_tokens,
                              .deduplicate = c->media_deduplicate,
                              .frame_bytes = c->media_frame_bytes,
                              .upload_bytes = c->media_upload_bytes,
                              .spool_dir = s->spool_dir,
                              .open_ms = (int)c->media_open_ms,
                              .packet_ms = (int)c->media_packet_ms,
                              .threads = (int)c->media_threads};
}

static void fill_router(server *s)
{
    const ic_config *c = &s->config;
    ic_router_args *a = &s->router_args;
    a->heartbeat_ms = (int)c->server_heartbeat_ms;
    a->max_clients = (int)c->server_max_clients;
    a->backlog_bytes = c->server_client_backlog_bytes;
    a->max_active = (int)c->session_max_active;
    a->import_bytes = c->store_session_bytes;
    a->transfer_us = c->server_transfer_s * 1000000;
    a->retain_bytes = c->store_retain_bytes;
    a->max_cache_tokens = (int)c->session_max_cache_tokens;
    a->sched_args = &s->sched_args;
    a->limits = (ic_talk_limits){.engine = s->sched_args.opened,
                                 .ingest = ingest_limits(s),
                                 .event_credit = (uint64_t)c->server_event_credit_bytes,
                                 .event_log_bytes = c->session_event_log_bytes,
                                 .checkpoint_bytes = c->session_checkpoint_bytes,
                                 .checkpoint_us = c->session_checkpoint_s * 1000000,
                                 .keep_bytes = c->media_keep_bytes,
                                 .session_bytes = c->store_session_bytes,
                                 .idle_us = c->session_idle_s * 1000000,
                                 .queue = (int)c->session_queue,
                                 .max_answer_tokens = (int)c->session_max_answer_tokens};
    a->store = s->store;
    a->sched = s->sched;
    a->main = ic_port_open(s->inbox);
}

/* --- start, serve, stop ------------------------------------------------------------------------
 */

static int start(server *s, ic_error *e)
{
    const ic_config *c = &s->config;
    int rc = fill_endpoints(s, e);
    if (rc)
        return rc;
    fill_paths(s);
    s->store_args.config = (ic_store_config){
        .path = s->store_path, .cache_bytes = STORE_CACHE, .limit_bytes = c->store_limit_bytes};
    s->store_args.request_keep_us = c->store_request_keep_s * 1000000;
    fill_engine(s);
    rc = ic_inbox_open(&s->inbox, "main", 0, e);
    if (rc == IC_OK)
        rc = ic_actor_start(&s->store, "store", ic_store_actor_run, &s->store_args, START_MS, e);
    if (rc == IC_OK)
        rc =
            ic_actor_start(&s->sched, "scheduler", ic_sched_actor_run, &s->sched_args, START_MS, e);
    if (rc)
        return rc;
    fill_router(s);
    return ic_actor_start(&s->router, "router", ic_router_run, &s->router_args, START_MS, e);
}

/* Waits for a signal, drains, and waits for the router to have done so. Returns the exit status. */
static int serve(server *s)
{
    int status = EXIT_SUCCESS;
    bool draining = false, drained = false;
    ic_port *router = ic_actor_port(s->router);
    ic_outbox out = {0};
    /* Signals are looked at ten times a second: a poller of this CZMQ takes a file descriptor for a
     * socket, and reads what lies behind it. */
    enum { LOOK_MS = 100 };
    zpoller_t *poller = zpoller_new(ic_inbox_sock(s->inbox), NULL);
    zpoller_set_nonstop(poller, true);
    while (!drained) {
        zpoller_wait(poller, LOOK_MS);
        ic_mail *m;
        while ((m = ic_inbox_take(s->inbox))) {
            const ic_error *e = &((ic_mail_plain *)m)->error;
            drained = true;
            if (e->code) {
                ic_log_error("main", "%s", e->text);
                status = EXIT_FAILED;
            }
            ic_mail_discard(&m);
        }
        if (signal_count && !draining) {
            draining = true;
            ic_log_info("main", "asked to stop");
            ic_mail_plain *drain = ic_mail_plain_new(IC_MAIL_DRAIN, NULL);
            drain->number = (uint64_t)s->config.server_drain_ms;
            ic_port_send(&out, router, &drain);
        }
    }
    zpoller_destroy(&poller);
    ic_outbox_forget(&out, router);
    ic_port_close(&router);
    return status;
}

static bool stop(server *s)
{
    bool all = ic_actor_stop(&s->router, STOP_MS);
    all &= ic_actor_stop(&s->sched, STOP_MS);
    all &= ic_actor_stop(&s->store, STOP_MS);
    ic_inbox_close(&s->inbox);
    ic_free(s->store_path);
    ic_free(s->spool_dir);
    ic_free(s->runtime_dir);
    ic_config_fini(&s->config);
    return all;
}

/* --check-store instead of a server. */
static int check(server *s)
{
    ic_error e = {0};
    fill_paths(s);
    int rc = ic_check_store(s->store_path, stdout, &e);
    if (rc)
        fprintf(stderr, "infchatd: %s\n", e.text);
    ic_free(s->store_path);
    ic_free(s->spool_dir);
    ic_config_fini(&s->config);
    return rc ? EXIT_FAILED : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    server s = {.store = NULL};
    ic_error e = {0};
    ic_mem_setup();
    ic_config_init(&s.config);
    bool check_store = false;
    int status = read_settings(&s.config, &check_store, argc, argv);
    if (status >= 0) {
        ic_config_fini(&s.config);
        return status;
    }
    ic_log_set_level((ic_log_level)ic_log_level_parse(s.config.log_level));
    ic_log_set_content(s.config.log_content);
    if (check_store)
        return check(&s);
    const char *failpoint = getenv("INFCHAT_FAILPOINT"); /* tests/crash */
    if (failpoint && ic_failpoint_arm(failpoint, &e)) {
        fprintf(stderr, "infchatd: INFCHAT_FAILPOINT: %s\n", e.text);
        ic_config_fini(&s.config);
        return EXIT_USAGE;
    }
    ic_actor_setup();
    if (catch_signals()) {
        fprintf(stderr, "infchatd: signals: %s\n", strerror(errno));
        return EXIT_FAILED;
    }
    if (start(&s, &e)) {
        fprintf(stderr, "infchatd: %s\n", e.text);
        stop(&s);
        return EXIT_FAILED;
    }
    for (size_t i = 0; i < s.router_args.endpoint_count; i++)
        ic_log_info("main", "ready on %s", s.router_args.bound[i]);
    status = serve(&s);
    if (!stop(&s))
        _exit(EXIT_FAILED); /* a thread is still there: nothing may be taken from under it */
    ic_actor_teardown();
    ic_log_info("main", "stopped");
    return status;
}
