/* ic_daemon: the real infchatd in a folder of its own, and a client that speaks the protocol by
 * hand. Included by the integration tests alone. */
#ifndef IC_DAEMON_H
#define IC_DAEMON_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <czmq.h>

#include "ic_test.h"

#include "base/ic_clock.h"
#include "base/ic_mem.h"
#include "wire/ic_wire.h"

#define IC_UNUSED __attribute__((unused))

enum { START_S = 90, REPLY_S = 60, ARGS_MAX = 40 };

/* --- the daemon --------------------------------------------------------------------------------
 */

typedef struct daemon_process {
    pid_t pid;
    char endpoint[160], store[200], log[200];
} daemon_process;

/* A model of random weights: long answers, quick. */
IC_UNUSED static const char *tiny_model(void)
{
    return IC_SOURCE_DIR "/tests/golden/models/gqa2_tied_f32";
}

IC_UNUSED static bool log_has(const daemon_process *d, const char *text)
{
    FILE *f = fopen(d->log, "r");
    char line[4096];
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f))
        found = strstr(line, text) != NULL;
    if (f)
        fclose(f);
    return found;
}

IC_UNUSED static void print_log(const daemon_process *d)
{
    char command[300];
    snprintf(command, sizeof command, "tail -n 60 %s >&2", d->log);
    if (system(command))
        return;
}

static void prepare(daemon_process *d, const char *name)
{
    *d = (daemon_process){.pid = -1};
    snprintf(d->endpoint, sizeof d->endpoint, "ipc://%s/%s.s", ic_test_dir(), name);
    snprintf(d->store, sizeof d->store, "%s/%s.db", ic_test_dir(), name);
    snprintf(d->log, sizeof d->log, "%s/%s.log", ic_test_dir(), name);
}

/* Starts the daemon in the folder of the test; overrides: NULL-terminated "section.name=value". The
 * log is appended to. */
IC_UNUSED static void spawn(daemon_process *d, const char *model, const char *const *overrides)
{
    /* This client says nothing while it waits: hence the long heartbeat. */
    const char *argv[ARGS_MAX] = {IC_BINARY_DIR "/infchatd",
                                  "--model",
                                  model,
                                  "--listen",
                                  d->endpoint,
                                  "--store",
                                  d->store,
                                  "--log-level",
                                  "debug",
                                  "--set",
                                  "server.heartbeat_ms=60000"};
    int argc = 11;
    for (; overrides && *overrides && argc < ARGS_MAX - 3; overrides++) {
        argv[argc++] = "--set";
        argv[argc++] = *overrides;
    }
    d->pid = fork();
    assert_true(d->pid >= 0);
    if (d->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves no daemon behind */
        int fd = open(d->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(fd, STDERR_FILENO);
        dup2(fd, STDOUT_FILENO);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
}

static int count_ready(const daemon_process *d)
{
    FILE *f = fopen(d->log, "r");
    char line[4096];
    int count = 0;
    while (f && fgets(line, sizeof line, f))
        count += strstr(line, ": ready on ") != NULL;
    if (f)
        fclose(f);
    return count;
}

IC_UNUSED static void start_daemon(daemon_process *d, const char *model,
                                   const char *const *overrides)
{
    int before = count_ready(d);
    spawn(d, model, overrides);
    for (int i = 0; i < START_S * 50; i++) {
        if (count_ready(d) > before)
            return;
        int status;
        if (waitpid(d->pid, &status, WNOHANG) == d->pid) {
            d->pid = -1;
            break;
        }
        usleep(20000);
    }
    print_log(d);
    fail_msg("the daemon did not start");
}

/* Waits for the end: its exit status, or -1 after a signal or too long a time. */
IC_UNUSED static int wait_daemon(daemon_process *d)
{
    int status = 0;
    for (int i = 0; i < 60 * 50; i++) {
        if (waitpid(d->pid, &status, WNOHANG) == d->pid) {
            d->pid = -1;
            return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        }
        usleep(20000);
    }
    print_log(d);
    kill(d->pid, SIGKILL);
    waitpid(d->pid, &status, 0);
    d->pid = -1;
    return -1;
}

/* The log must hold no word of a sanitizer and none of a broken promise. */
IC_UNUSED static void check_log(const daemon_process *d)
{
    static const char *const bad[] = {"Sanitizer", "runtime error:", "BUG"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (log_has(d, bad[i])) {
            print_log(d);
            fail_msg("the log holds \"%s\"", bad[i]);
        }
    }
}

IC_UNUSED static void stop_daemon(daemon_process *d)
{
    kill(d->pid, SIGTERM);
    int status = wait_daemon(d);
    if (status)
        print_log(d);
    assert_int_equal(status, 0);
    check_log(d);
}

/* --- a client ----------------------------------------------------------------------------------
 */

typedef struct talker {
    zsock_t *sock;
    uint64_t re;
    ic_wire_msg kept[4096]; /* events that came while something else was awaited */
    int kept_count;
    bool silent;    /* grants no credit by itself */
    ic_buf payload; /* third frame of the newest message that had one */
} talker;

IC_UNUSED static ic_wire_id random_id(void)
{
    ic_wire_id id;
    assert_int_equal(getrandom(&id, sizeof id, 0), sizeof id);
    return id;
}

IC_UNUSED static void send_msg(talker *t, ic_wire_msg *m, const void *payload, size_t bytes)
{
    uint8_t head[IC_WIRE_SIGNATURE_MAX];
    ic_buf body = {0};
    ic_error e = {0};
    ic_assert_ok(ic_wire_encode(m, &body, &e), &e);
    zmsg_t *out = zmsg_new();
    size_t size = ic_wire_signature(m->verb, head);
    zmsg_addmem(out, head, size);
    zmsg_addmem(out, body.data, body.size);
    if (payload)
        zmsg_addmem(out, payload, bytes);
    assert_int_equal(zmsg_send(&out, t->sock), 0);
    ic_buf_fini(&body);
}

/* The next message within timeout_ms; false: none. The caller releases it. */
IC_UNUSED static bool receive(talker *t, ic_wire_msg *m, int timeout_ms)
{
    zsock_set_rcvtimeo(t->sock, timeout_ms);
    zmsg_t *in = zmsg_recv(t->sock);
    if (!in)
        return false;
    zframe_t *head = zmsg_first(in), *body = zmsg_next(in), *payload = zmsg_next(in);
    assert_non_null(body);
    ic_error e = {0};
    ic_assert_ok(ic_wire_decode(m, IC_WIRE_FROM_SERVER, zframe_data(head), zframe_size(head),
                                zframe_data(body), zframe_size(body),
                                payload ? (int64_t)zframe_size(payload) : -1, &e),
                 &e);
    size_t size = zframe_size(body);
    if (payload) {
        ic_buf_clear(&t->payload);
        ic_buf_append(&t->payload, zframe_data(payload), zframe_size(payload));
    }
    zmsg_destroy(&in);
    if (m->verb == IC_WIRE_EVENT && !t->silent) {
        ic_wire_msg credit;
        ic_wire_msg_init(&credit, IC_WIRE_CREDIT);
        ic_wire_put(&credit.credit, credit, session, m->event.session);
        ic_wire_put(&credit.credit, credit, bytes, size);
        send_msg(t, &credit, NULL, 0);
    }
    return true;
}

static void keep(talker *t, ic_wire_msg *m)
{
    assert_true(t->kept_count < 4096);
    t->kept[t->kept_count++] = *m;
}

/* The next message of this verb; events are kept, the rest is let go of. */
IC_UNUSED static void await_verb(talker *t, ic_wire_verb verb, ic_wire_msg *m)
{
    int64_t until = ic_clock_mono_us() + REPLY_S * 1000000LL;
    while (ic_clock_mono_us() < until) {
        if (!receive(t, m, 1000))
            continue;
        if (m->verb == verb)
            return;
        if (m->verb == IC_WIRE_EVENT)
            keep(t, m);
        else
            ic_wire_msg_fini(m);
    }
    fail_msg("no %s came", ic_wire_verb_name(verb));
}

IC_UNUSED static void say_hello(talker *t, const ic_wire_id *client)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_HELLO);
    ic_wire_put(&m.hello, hello, client, *client);
    ic_wire_put(&m.hello, hello, name, "test");
    send_msg(t, &m, NULL, 0);
    await_verb(t, IC_WIRE_WELCOME, &m);
    ic_wire_msg_fini(&m);
}

IC_UNUSED static talker *connect_talker(const daemon_process *d)
{
    talker *t = calloc(1, sizeof *t);
    t->sock = zsock_new(ZMQ_DEALER);
    assert_non_null(t->sock);
    zsock_set_linger(t->sock, 0);
    assert_int_equal(zsock_connect(t->sock, "%s", d->endpoint), 0);
    ic_wire_id client = random_id();
    say_hello(t, &client);
    return t;
}

IC_UNUSED static void disconnect_talker(talker **t_p)
{
    talker *t = *t_p;
    *t_p = NULL;
    for (int i = 0; i < t->kept_count; i++)
        ic_wire_msg_fini(&t->kept[i]);
    zsock_destroy(&t->sock);
    ic_buf_fini(&t->payload);
    free(t);
}

/* The daemon is stopped in order and started again; the client with it. */
IC_UNUSED static void restart_daemon(daemon_process *d, talker **t_p, const char *const *overrides)
{
    disconnect_talker(t_p);
    stop_daemon(d);
    start_daemon(d, tiny_model(), overrides);
    *t_p = connect_talker(d);
}

/* The same, but it is killed. */
IC_UNUSED static void crash_daemon(daemon_process *d, talker **t_p, const char *const *overrides)
{
    kill(d->pid, SIGKILL);
    wait_daemon(d);
    disconnect_talker(t_p);
    start_daemon(d, tiny_model(), overrides);
    *t_p = connect_talker(d);
}

/* Sends a request with a fresh number (and a fresh key, unless it has one) and waits for its OK,
 * CHUNK or ERROR, which the caller releases. payload may be NULL. */
IC_UNUSED static void request_with(talker *t, ic_wire_msg *m, const void *payload, size_t bytes,
                                   ic_wire_msg *reply)
{
    ic_wire_id key;
    uint64_t re = 0;
    ic_wire_msg_set_re(m, ++t->re);
    if (!ic_wire_msg_get_key(m, &key)) {
        key = random_id();
        ic_wire_msg_set_key(m, &key);
    }
    send_msg(t, m, payload, bytes);
    int64_t until = ic_clock_mono_us() + REPLY_S * 1000000LL;
    while (ic_clock_mono_us() < until) {
        if (!receive(t, reply, 1000))
            continue;
        if ((reply->verb == IC_WIRE_OK || reply->verb == IC_WIRE_ERROR
             || reply->verb == IC_WIRE_CHUNK)
            && ic_wire_msg_get_re(reply, &re) && re == t->re)
            return;
        if (reply->verb == IC_WIRE_EVENT)
            keep(t, reply);
        else
            ic_wire_msg_fini(reply);
    }
    fail_msg("no answer to %s", ic_wire_verb_name(m->verb));
}

IC_UNUSED static void request(talker *t, ic_wire_msg *m, ic_wire_msg *reply)
{
    request_with(t, m, NULL, 0, reply);
}

/* The same, and it must succeed. */
IC_UNUSED static void must(talker *t, ic_wire_msg *m, ic_wire_msg *reply)
{
    request(t, m, reply);
    if (reply->verb == IC_WIRE_ERROR)
        fail_msg("%s: %s: %s", ic_wire_verb_name(m->verb), reply->error.code, reply->error.message);
}

/* The same, and it must be refused with this code. */
IC_UNUSED static void must_fail(talker *t, ic_wire_msg *m, const char *code)
{
    ic_wire_msg reply;
    request(t, m, &reply);
    if (reply.verb != IC_WIRE_ERROR)
        fail_msg("%s was not refused", ic_wire_verb_name(m->verb));
    assert_string_equal(reply.error.code, code);
    ic_wire_msg_fini(&reply);
}

/* --- what tests do often -----------------------------------------------------------------------
 */

/* A new session: its id into the 64 bytes of id. */
IC_UNUSED static void new_session(talker *t, char id[64])
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_NEW);
    must(t, &m, &reply);
    snprintf(id, 64, "%s", reply.ok.session);
    ic_wire_msg_fini(&reply);
}

IC_UNUSED static ic_wire_msg ask_msg(const char *id, const char *text, uint64_t tokens)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_ASK);
    ic_wire_put(&m.ask, ask, session, id);
    ic_wire_put(&m.ask, ask, text, text);
    ic_wire_sampling s = {0};
    ic_wire_put(&s, sampling, temperature, 0);
    ic_wire_put(&s, sampling, max_tokens, tokens);
    ic_wire_put(&m.ask, ask, sampling, s);
    return m;
}

IC_UNUSED static uint64_t begin_ask(talker *t, const char *id, const char *text, uint64_t tokens)
{
    ic_wire_msg m = ask_msg(id, text, tokens), reply;
    must(t, &m, &reply);
    uint64_t turn = reply.ok.turn;
    ic_wire_msg_fini(&reply);
    return turn;
}

/* The next event of this session and type, kept ones first; others of the session before it are
 * dropped. The caller releases it. false: not within the time. */
IC_UNUSED static bool next_event(talker *t, const char *id, int type, ic_wire_msg *m,
                                 int timeout_ms)
{
    int64_t until = ic_clock_mono_us() + timeout_ms * 1000LL;
    for (;;) {
        for (int i = 0; i < t->kept_count; i++) {
            if (strcmp(t->kept[i].event.session, id) != 0)
                continue;
            *m = t->kept[i];
            memmove(t->kept + i, t->kept + i + 1, (size_t)(--t->kept_count - i) * sizeof *t->kept);
            if (type < 0 || m->event.type == type)
                return true;
            ic_wire_msg_fini(m);
            i--;
        }
        if (ic_clock_mono_us() > until)
            return false;
        if (!receive(t, m, 100)) {
            ic_wire_msg ping;
            ic_wire_msg_init(&ping, IC_WIRE_PING);
            send_msg(t, &ping, NULL, 0);
        } else {
            if (m->verb == IC_WIRE_EVENT)
                keep(t, m);
            else
                ic_wire_msg_fini(m);
        }
    }
}

/* Gathers an answer up to its end. Caller frees the text. */
typedef struct answer {
    char *text;
    int finish;
    ic_wire_usage usage;
    uint64_t first_n, last_n;
} answer;

IC_UNUSED static answer read_answer(talker *t, const char *id, uint64_t turn)
{
    answer a = {.text = strdup("")};
    ic_wire_msg m;
    for (;;) {
        if (!next_event(t, id, -1, &m, REPLY_S * 1000))
            fail_msg("the answer does not end; so far \"%s\"", a.text);
        const ic_wire_event *ev = &m.event;
        if (ev->turn == turn && ev->type == IC_WIRE_EVENT_TEXT) {
            size_t have = strlen(a.text);
            a.text = realloc(a.text, have + strlen(ev->text) + 1);
            strcpy(a.text + have, ev->text);
        }
        if (!a.first_n)
            a.first_n = ev->n;
        assert_true(ev->n > a.last_n);
        a.last_n = ev->n;
        bool ends = ev->turn == turn && ev->type == IC_WIRE_EVENT_ANSWER_END;
        if (ends) {
            a.finish = ev->finish_reason;
            a.usage = ev->usage;
        }
        ic_wire_msg_fini(&m);
        if (ends)
            return a;
    }
}

IC_UNUSED static answer ask(talker *t, const char *id, const char *text, uint64_t tokens)
{
    return read_answer(t, id, begin_ask(t, id, text, tokens));
}

/* A request that has nothing but a session. */
IC_UNUSED static void simple(talker *t, ic_wire_verb verb, const char *id, ic_wire_msg *reply)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, verb);
    switch (verb) {
    case IC_WIRE_SUSPEND:
        ic_wire_put(&m.suspend, suspend, session, id);
        break;
    case IC_WIRE_RESUME:
        ic_wire_put(&m.resume, resume, session, id);
        break;
    case IC_WIRE_RM:
        ic_wire_put(&m.rm, rm, session, id);
        break;
    case IC_WIRE_CANCEL:
        ic_wire_put(&m.cancel, cancel, session, id);
        break;
    case IC_WIRE_SHOW:
        ic_wire_put(&m.show, show, session, id);
        ic_wire_put(&m.show, show, turns, 100);
        break;
    default:
        fail_msg("not a simple request");
    }
    must(t, &m, reply);
}

IC_UNUSED static void attach(talker *t, const char *id, uint64_t from, uint64_t credit)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_ATTACH);
    ic_wire_put(&m.attach, attach, session, id);
    ic_wire_put(&m.attach, attach, from, from);
    if (credit)
        ic_wire_put(&m.attach, attach, credit, credit);
    must(t, &m, &reply);
    ic_wire_msg_fini(&reply);
}

/* Uploads a file into a session and waits for the source's end. Returns its frames_seen; *code gets
 * the code of a failure ("" for none). */
IC_UNUSED static uint64_t upload(talker *t, const char *id, const char *path, char code[40])
{
    ic_wire_msg m, reply;
    struct stat info;
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &info) == 0);
    ic_wire_msg_init(&m, IC_WIRE_MEDIA);
    ic_wire_put(&m.media, media, session, id);
    ic_wire_put(&m.media, media, kind, IC_WIRE_KIND_UPLOAD);
    ic_wire_put(&m.media, media, name, strrchr(path, '/') + 1);
    ic_wire_put(&m.media, media, size, (uint64_t)info.st_size);
    must(t, &m, &reply);
    uint64_t media = reply.ok.media, until = reply.ok.until, at = 0, seen = 0;
    ic_wire_msg_fini(&reply);
    static uint8_t piece[IC_WIRE_PIECE_MAX];
    code[0] = '\0';
    for (bool ended = false; !ended;) {
        while (at < until && at < (uint64_t)info.st_size) {
            size_t want = until - at < sizeof piece ? (size_t)(until - at) : sizeof piece;
            ssize_t n = pread(fd, piece, want, (off_t)at);
            assert_true(n > 0);
            ic_wire_msg_init(&m, IC_WIRE_DATA);
            ic_wire_put(&m.data, data, session, id);
            ic_wire_put(&m.data, data, media, media);
            ic_wire_put(&m.data, data, offset, at);
            at += (uint64_t)n;
            ic_wire_put(&m.data, data, last, at == (uint64_t)info.st_size);
            send_msg(t, &m, piece, (size_t)n);
        }
        if (!receive(t, &m, REPLY_S * 1000))
            fail_msg("the upload of %s does not end", path);
        if (m.verb == IC_WIRE_GRANT)
            until = m.grant.until;
        if (m.verb == IC_WIRE_EVENT && m.event.type == IC_WIRE_EVENT_MEDIA_END) {
            ended = true;
            seen = m.event.media.frames_seen;
            snprintf(code, 40, "%s", ic_wire_get(&m.event, event, code, ""));
        }
        ic_wire_msg_fini(&m);
    }
    close(fd);
    return seen;
}

IC_UNUSED static ic_wire_status_info status(talker *t)
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_STATUS);
    must(t, &m, &reply);
    ic_wire_status_info s = reply.ok.status;
    ic_wire_msg_fini(&reply);
    return s;
}

/* The latest state of a session, or what was marked `at`, as a session of its own. */
IC_UNUSED static ic_wire_msg fork_msg(const char *id, const char *at)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_FORK);
    ic_wire_put(&m.fork, fork, session, id);
    if (at)
        ic_wire_put(&m.fork, fork, at, at);
    return m;
}

IC_UNUSED static void fork_session(talker *t, const char *id, const char *at, char out[64])
{
    ic_wire_msg m = fork_msg(id, at), reply;
    must(t, &m, &reply);
    snprintf(out, 64, "%s", reply.ok.session);
    assert_string_not_equal(out, id);
    ic_wire_msg_fini(&reply);
}

/* A film of the demo's, which is always there. */
static const char demo_film[] IC_UNUSED = IC_SOURCE_DIR "/models/demo/eval/clip_00_96_h264.mp4";

IC_UNUSED static void watch_film(talker *t, const char *id)
{
    char code[40];
    assert_true(upload(t, id, demo_film, code) > 0);
    assert_string_equal(code, "");
}

/* A greedy answer of so many tokens must say this. */
IC_UNUSED static void expect_answer(talker *t, const char *id, const char *question,
                                    uint64_t tokens, const char *expected)
{
    answer a = ask(t, id, question, tokens);
    assert_string_equal(a.text, expected);
    free(a.text);
}

static int daemon_setup(void **state)
{
    zsys_handler_set(NULL);
    zsys_init();
    return ic_test_group_setup(state);
}

static int daemon_teardown(void **state)
{
    zsys_shutdown();
    return ic_test_group_teardown(state);
}

#define IC_DAEMON_RUN(tests) cmocka_run_group_tests(tests, daemon_setup, daemon_teardown)

#endif
