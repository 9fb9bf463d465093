/* The session actor with a real store, while the test is its router and its scheduler: the engine
 * moves by one step when the test says so, so what is in the cache when a checkpoint is taken is
 * known. A first life runs in a process of its own, this program again, which ends by SIGKILL; the
 * second goes on from what the first has stored. IC_NEEDS_SERVER */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ic_test.h"
#include "ic_test_session.h"

#include "actors/ic_store_actor.h"
#include "actors/ic_store_jobs.h"
#include "actors/ic_talk.h"
#include "actors/ic_talk_record.h"
#include "base/ic_clock.h"
#include "base/ic_mem.h"

enum {
    CACHE = 400,
    ANSWER = 6,
    FRAMES = 8,
    SLICE = 5,
    WAIT_S = 30,
    TURNS = 80,
    QUEUE = 64,
    PEER = 1,
    TEXT_MAX = 4000
};

static const char first_question[] = "What is this?";
static const char long_question[] =
    "Tell me of each picture in the order in which they came, first of the oldest, then of the one "
    "that came behind it, and so on until you have told me of the newest of them, and then say "
    "which of all of them you would like to see again, and why that one and not another.";

struct ic_seat { /* the scheduler's: this one has one session */
    int unused;
};

typedef enum moment { /* at which the model stands still until the session asks for its lease */
                      NEVER,
                      BEFORE_THE_QUESTION, /* frames are encoded, their rows go in, the question
                                              waits behind them */
                      IN_THE_QUESTION,     /* its first slice is in */
                      ALL_THE_TIME         /* never, and it does nothing */
} moment;

typedef struct bench {
    ic_engine *engine;
    ic_grid grid;
    ic_store_actor_args store_args;
    ic_talk_limits limits;
    ic_talk_args args;
    char path[300], dir[300], session[IC_STORE_ID_CHARS + 1];
    ic_actor *store, *talk;
    ic_inbox *router, *sched;
    ic_port *to, *reply; /* into the actor: of the router, of the scheduler */
    ic_outbox out;
    ic_inbox *home; /* for the test's own jobs at the store */
    ic_port *to_store, *home_port;
    bool looking;
    /* the scheduler */
    struct ic_seat seat;
    ic_session *model; /* NULL: the lease is out of its hands */
    ic_mail_input *first, *last;
    moment hold;
    bool held;         /* it stands still */
    int held_leases;   /* times that the lease came home while it did */
    int asks;          /* questions that came in */
    int recalls_early; /* with frames that were not encoded */
    bool steps;        /* it may move at all */
    /* the router */
    uint64_t oks;       /* answers to requests */
    int64_t last_event; /* numbers rise by one */
    uint64_t turn_ended;
    bool freed;                 /* the session holds no memory any more */
    bool no_room, asks_room;    /* it gets none for the time being; it has asked for some */
    char text[TURNS][TEXT_MAX]; /* by turn */
    ic_wire_usage usage[TURNS];
} bench;

/* --- the scheduler ------------------------------------------------------------------------------
 */

static void send_progress(bench *b, ic_mail_progress *p)
{
    ic_session_stats_of(b->model, &p->stats);
    p->ready = b->first || ic_session_is_ready(b->model);
    ic_port_send(&b->out, b->reply, &p);
}

static void apply(bench *b, ic_mail_input *in)
{
    ic_error e = {0};
    int rc = IC_OK;
    if (in->type == IC_INPUT_FRAME)
        rc = ic_session_frame(b->model, &in->frame, &in->grid, &e);
    else if (in->type == IC_INPUT_FRAMES_END)
        rc = ic_session_frames_end(b->model, &e);
    else if (in->type == IC_INPUT_CANCEL)
        rc = ic_session_cancel(b->model);
    else if (in->type == IC_INPUT_ASK)
        rc = ic_session_ask(b->model, in->text, &in->sampling, &e);
    if (!rc && in->forced_count)
        rc = ic_session_force(b->model, in->forced, in->forced_count, &e);
    ic_assert_ok(rc, &e);
    b->asks += in->type == IC_INPUT_ASK;
}

/* A question waits while another is answered, or cancelled and not ended yet. */
static void feed(bench *b)
{
    while (b->first) {
        ic_session_stats stats;
        ic_mail_input *in = b->first;
        ic_session_stats_of(b->model, &stats);
        if (in->type == IC_INPUT_ASK && stats.answering)
            return;
        apply(b, in);
        b->first = (ic_mail_input *)in->head.next;
        if (!b->first)
            b->last = NULL;
        ic_mail_discard((ic_mail **)&in);
    }
}

static void take_input(bench *b, ic_mail_input *in)
{
    in->head.next = NULL;
    if (b->last)
        b->last->head.next = &in->head;
    else
        b->first = in;
    b->last = in;
    feed(b);
    if (!b->first && !ic_session_is_ready(b->model)) {
        ic_mail_progress *p = ic_mail_new(IC_MAIL_PROGRESS, sizeof *p, NULL);
        p->progress = IC_PROGRESS_IDLE;
        send_progress(b, p);
    }
}

static void give_back(bench *b)
{
    ic_session_stats stats;
    ic_session_stats_of(b->model, &stats);
    b->recalls_early += stats.answering && stats.pending_groups > 0;
    b->held_leases += b->held;
    ic_mail_lease *m = ic_mail_lease_new(IC_MAIL_RETURNED, &b->seat, b->model);
    b->model = NULL;
    ic_port_send(&b->out, b->reply, &m);
}

static void open_model(bench *b, ic_mail_open *m)
{
    ic_mail_lease *answer = ic_mail_lease_new(IC_MAIL_OPENED, &b->seat, NULL);
    answer->rc = ic_session_new(&answer->session, b->engine, &m->config, &answer->error);
    ic_assert_ok(answer->rc, &answer->error);
    b->reply = m->reply;
    ic_port_send(&b->out, b->reply, &answer);
}

static void close_model(bench *b, ic_mail_lease *m)
{
    ic_mail_lease *answer = ic_mail_lease_new(IC_MAIL_CLOSED, NULL, NULL);
    ic_session_destroy(&m->session);
    ic_port_send(&b->out, b->reply, &answer);
    ic_outbox_flush(&b->out);
    ic_outbox_forget(&b->out, b->reply);
    ic_port_close(&b->reply);
}

static void take_sched(bench *b, ic_mail *m)
{
    ic_mail_lease *lease = (ic_mail_lease *)m;
    switch (m->kind) {
    case IC_MAIL_OPEN:
        open_model(b, (ic_mail_open *)m);
        break;
    case IC_MAIL_LEASE:
        assert_null(b->model);
        b->model = lease->session;
        break;
    case IC_MAIL_INPUT:
        take_input(b, (ic_mail_input *)m);
        return;
    case IC_MAIL_RECALL:
        assert_non_null(b->model);
        assert_null(b->first);
        give_back(b);
        break;
    case IC_MAIL_CLOSE:
        close_model(b, lease);
        break;
    default:
        fail_msg("the scheduler got mail of kind %d", m->kind);
    }
    ic_mail_discard(&m);
}

/* Whether the model has come to the moment that is waited for. */
static bool is_there(const bench *b)
{
    ic_session_stats stats;
    ic_session_stats_of(b->model, &stats);
    bool asked = b->asks == 2 && stats.answering && !stats.decoding && !stats.pending_groups;
    if (b->hold == BEFORE_THE_QUESTION)
        return asked && stats.turn == 1;
    return b->hold == IN_THE_QUESTION && asked && stats.turn == 2;
}

static void step(bench *b)
{
    ic_error e = {0};
    ic_slice slice = {.session = b->model, .max_rows = SLICE};
    ic_assert_ok(ic_engine_step(b->engine, &slice, 1, &e), &e);
    ic_mail_progress *p = ic_mail_new(IC_MAIL_PROGRESS, sizeof *p, NULL);
    p->progress = slice.progress;
    p->rows = slice.rows;
    p->frames_in = slice.frames_in;
    p->token = slice.token;
    p->finish = slice.finish;
    p->error = slice.error;
    assert_int_not_equal(slice.progress, IC_PROGRESS_FAILED);
    feed(b);
    send_progress(b, p);
    if (b->hold && is_there(b)) {
        b->hold = NEVER;
        b->held = true;
    }
}

/* --- the router ---------------------------------------------------------------------------------
 */

static void take_event(bench *b, const ic_wire_event *ev)
{
    assert_int_equal(ev->n, ++b->last_event);
    if (ev->type == IC_WIRE_EVENT_TEXT) {
        char *text = b->text[ev->turn % TURNS];
        assert_true(strlen(text) + strlen(ev->text) < TEXT_MAX);
        strcat(text, ev->text);
    }
    if (ev->type == IC_WIRE_EVENT_ANSWER_END) {
        b->turn_ended = ev->turn;
        b->usage[ev->turn % TURNS] = ev->usage;
    }
}

static void take_send(bench *b, const ic_mail_send *out)
{
    uint8_t head[IC_WIRE_SIGNATURE_MAX];
    ic_wire_msg m;
    ic_error e = {0};
    size_t size = ic_wire_signature(out->verb, head);
    ic_assert_ok(
        ic_wire_decode(&m, IC_WIRE_FROM_SERVER, head, size, out->body.data, out->body.size, -1, &e),
        &e);
    if (m.verb == IC_WIRE_ERROR)
        fail_msg("%s: %s", m.error.code, m.error.message);
    b->oks += m.verb == IC_WIRE_OK;
    if (m.verb == IC_WIRE_EVENT)
        take_event(b, &m.event);
    ic_wire_msg_fini(&m);
}

static void give_room(bench *b)
{
    ic_mail_plain *room = ic_mail_plain_new(IC_MAIL_ROOM, b->session);
    ic_port_send(&b->out, b->to, &room);
}

static void take_router(bench *b, ic_mail *m)
{
    if (m->kind == IC_MAIL_SEND)
        take_send(b, (ic_mail_send *)m);
    if (m->kind == IC_MAIL_SESSION_STATE)
        assert_int_equal(((ic_mail_session_state *)m)->state.costs.checkpoints.failed, 0);
    b->freed |= m->kind == IC_MAIL_ROOM_FREED;
    b->asks_room |= m->kind == IC_MAIL_ROOM_WANTED;
    if (m->kind == IC_MAIL_ROOM_WANTED && !b->no_room)
        give_room(b);
    ic_mail_discard(&m);
}

/* --- both ---------------------------------------------------------------------------------------
 */

typedef bool until(bench *b);

static void serve(bench *b, until *over)
{
    int64_t end_us = ic_clock_mono_us() + WAIT_S * 1000000LL;
    while (!over(b)) {
        if (ic_clock_mono_us() > end_us)
            fail_msg("the session does not come to where the test waits for it");
        ic_outbox_flush(&b->out);
        ic_mail *m = ic_inbox_take(b->sched);
        if (m) {
            take_sched(b, m);
            continue;
        }
        m = ic_inbox_take(b->router);
        if (m) {
            take_router(b, m);
            continue;
        }
        if (b->model && b->steps && !b->held && ic_session_is_ready(b->model))
            step(b);
        usleep(1000); /* a step, and time for what the session makes of it */
    }
}

static void send_request(bench *b, ic_mail_request *q)
{
    static uint8_t keys;
    ic_wire_id key = {.bytes = {++keys, (uint8_t)getpid(), (uint8_t)(getpid() >> 8)}};
    q->peer = PEER;
    q->arrived_us = ic_clock_mono_us();
    snprintf(q->session, sizeof q->session, "%s", b->session);
    ic_wire_msg_set_re(&q->msg, 1);
    ic_wire_msg_set_key(&q->msg, &key);
    ic_port_send(&b->out, b->to, &q);
}

static ic_mail_request *new_request(ic_wire_verb verb)
{
    ic_mail_request *q = ic_mail_request_new();
    ic_wire_msg_init(&q->msg, verb);
    return q;
}

static bool is_answered_by_ok(bench *b)
{
    return b->oks > 0;
}

/* Sends it and waits until it is admitted. */
static void must(bench *b, ic_mail_request *q)
{
    b->oks = 0;
    send_request(b, q);
    serve(b, is_answered_by_ok);
}

/* As a decoded message would: what it points to is its own. */
static void ask(bench *b, const char *text)
{
    ic_mail_request *q = new_request(IC_WIRE_ASK);
    ic_wire_sampling s = {0};
    ic_wire_put(&s, sampling, temperature, 0);
    ic_wire_put(&s, sampling, max_tokens, ANSWER);
    ic_wire_put(&q->msg.ask, ask, session, b->session);
    ic_wire_put(&q->msg.ask, ask, text, text);
    ic_wire_put(&q->msg.ask, ask, sampling, s);
    ic_wire_put(&q->msg.ask, ask, if_busy, IC_WIRE_IF_BUSY_QUEUE);
    must(b, q);
}

/* --- life ---------------------------------------------------------------------------------------
 */

static void start(bench *b)
{
    ic_error e = {0};
    ic_assert_ok(ic_actor_start(&b->store, "store", ic_store_actor_run, &b->store_args, 10000, &e),
                 &e);
    ic_assert_ok(ic_inbox_open(&b->router, "router", 0, &e), &e);
    ic_assert_ok(ic_inbox_open(&b->sched, "sched", 0, &e), &e);
    ic_assert_ok(ic_inbox_open(&b->home, "home", 0, &e), &e);
    b->to_store = ic_actor_port(b->store);
    b->home_port = ic_port_open(b->home);
    b->looking = false;
}

static void start_talk(bench *b)
{
    ic_error e = {0};
    b->args = (ic_talk_args){.limits = &b->limits,
                             .router = ic_port_open(b->router),
                             .store = ic_actor_port(b->store),
                             .sched = ic_port_open(b->sched),
                             .wake = true};
    strcpy(b->args.session, b->session);
    ic_assert_ok(ic_actor_start(&b->talk, "talk", ic_talk_run, &b->args, 10000, &e), &e);
    b->to = ic_actor_port(b->talk);
}

static bool is_suspended(bench *b)
{
    return b->freed;
}

static void stop(bench *b)
{
    if (b->talk) {
        ic_mail_plain *drain = ic_mail_plain_new(IC_MAIL_DRAIN, b->session);
        ic_port_send(&b->out, b->to, &drain);
        b->steps = true;
        b->held = b->freed = false;
        serve(b, is_suspended);
        ic_outbox_forget(&b->out, b->to);
        ic_port_close(&b->to);
        assert_true(ic_actor_stop(&b->talk, 10000));
    }
    ic_mail_port *close = ic_mail_port_close_new(&b->home_port);
    ic_port_send(&b->out, b->to_store, &close);
    ic_outbox_forget(&b->out, b->to_store);
    ic_port_close(&b->to_store);
    assert_true(ic_actor_stop(&b->store, 10000));
    ic_inbox_close(&b->home);
    ic_inbox_close(&b->router);
    ic_inbox_close(&b->sched);
    ic_engine_close(&b->engine);
}

static void make_session(bench *b)
{
    ic_talk_config c = {.sampling = ic_test_greedy(ANSWER)};
    ic_session_config_default(b->engine, CACHE, &c.engine);
    ic_mail_request *q = new_request(IC_WIRE_NEW);
    q->msg.new.key.bytes[15] = 1;
    ic_job_desk *job = ic_job_desk_new(IC_DESK_NEW, &q, b->home_port);
    assert_int_equal(ic_talk_config_encode(&c, &job->config), IC_OK);
    ic_port_send(&b->out, b->to_store, &job);
    for (int i = 0; i < WAIT_S * 1000 && !job; i++) {
        usleep(1000);
        job = (ic_job_desk *)ic_inbox_take(b->home);
    }
    assert_non_null(job);
    ic_assert_ok(job->job.rc, &job->job.error);
    strcpy(b->session, job->sessions[0].id);
    ic_mail_discard((ic_mail **)&job);
}

/* A store in this folder; session NULL: a new one. */
static void open_bench(bench *b, const char *path, const char *session, int64_t checkpoint_bytes)
{
    *b = (bench){.steps = true};
    b->engine = ic_test_engine_small(&b->grid);
    snprintf(b->path, sizeof b->path, "%s", path);
    snprintf(b->dir, sizeof b->dir, "%.*s", (int)(strrchr(path, '/') - path), path);
    b->store_args =
        (ic_store_actor_args){.config = {.path = b->path}, .request_keep_us = 3600000000LL};
    b->limits = (ic_talk_limits){.engine = b->engine,
                                 .ingest = {.frame_bytes = 1 << 20,
                                            .upload_bytes = 1 << 20,
                                            .spool_dir = b->dir,
                                            .open_ms = 1000 * WAIT_S,
                                            .packet_ms = 1000 * WAIT_S,
                                            .threads = 1},
                                 .event_credit = 1 << 20,
                                 .event_log_bytes = 1 << 24,
                                 .checkpoint_bytes = checkpoint_bytes,
                                 .checkpoint_us = INT64_MAX / 4,
                                 .idle_us = INT64_MAX / 4,
                                 .queue = QUEUE,
                                 .max_answer_tokens = 100};
    start(b);
    if (session)
        strcpy(b->session, session);
    else
        make_session(b);
}

/* --- what they live through ---------------------------------------------------------------------
 */

/* What the source's reader would send; the real one waits for bytes that never come. */
static void send_frames(bench *b, int count)
{
    for (int i = 0; i < count; i++) {
        ic_frame *f = ic_test_frame(&b->grid, i, 500000 * i);
        ic_mail_frame *m = ic_mail_frame_new(&f);
        m->media = 1;
        m->grid = b->grid;
        m->counts = (ic_ingest_counts){.seen = (uint64_t)i + 1, .pos_us = 500000 * i};
        ic_port_send(&b->out, b->to, &m);
    }
    ic_mail_ingest_ended *end = ic_mail_ingest_ended_new(1);
    end->opened = true;
    end->counts = (ic_ingest_counts){.seen = (uint64_t)count, .pos_us = 500000 * (count - 1)};
    ic_port_send(&b->out, b->to, &end);
}

static bool first_decodes(bench *b)
{
    ic_session_stats stats;
    if (b->model)
        ic_session_stats_of(b->model, &stats);
    return b->model && stats.decoding && stats.answer_tokens > 0;
}

static bool second_has_ended(bench *b)
{
    return b->turn_ended == 2;
}

static bool stands_still(bench *b)
{
    return b->held;
}

static void begin_source(bench *b)
{
    ic_mail_request *q = new_request(IC_WIRE_MEDIA);
    ic_wire_put(&q->msg.media, media, session, b->session);
    ic_wire_put(&q->msg.media, media, kind, IC_WIRE_KIND_UPLOAD);
    must(b, q);
}

/* A question; frames and another question that come while it is answered, so that they go into the
 * model together when its answer has ended. */
static void live_through(bench *b)
{
    ask(b, first_question);
    serve(b, first_decodes);
    b->steps = false;
    begin_source(b);
    send_frames(b, FRAMES);
    ask(b, long_question);
    b->steps = true;
}

static const char *path_of(const char *name)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/%s.db", ic_test_dir(), name);
    return path;
}

/* The same to whom nothing happens. */
static bench undisturbed(const char *name)
{
    bench b;
    open_bench(&b, path_of(name), NULL, INT64_MAX / 4);
    start_talk(&b);
    live_through(&b);
    serve(&b, second_has_ended);
    stop(&b);
    return b;
}

static void expect_same(const bench *a, const bench *b)
{
    for (int turn = 1; turn <= 2; turn++) {
        const ic_wire_usage *u = &a->usage[turn], *v = &b->usage[turn];
        assert_true(strlen(a->text[turn]) > 0);
        assert_string_equal(a->text[turn], b->text[turn]);
        assert_int_equal(u->completion_tokens, v->completion_tokens);
        assert_int_equal(u->prompt_tokens, v->prompt_tokens);
        assert_int_equal(u->cached_tokens, v->cached_tokens);
        assert_int_equal(u->cache_tokens, v->cache_tokens);
        assert_int_equal(u->evicted_tokens, v->evicted_tokens);
        assert_int_equal(u->frames_seen, v->frames_seen);
    }
}

typedef struct look_job {
    ic_store_job job;
    char session[IC_STORE_ID_CHARS + 1];
    ic_talk_head head;
} look_job;

static int run_look(ic_store *s, ic_store_job *job, ic_error *e)
{
    look_job *j = (look_job *)job;
    ic_store_reader *r = NULL;
    int rc = ic_store_checkpoint_open(s, j->session, &r, e);
    if (rc == IC_ENOTFOUND)
        return IC_OK;
    if (rc == IC_OK) {
        const ic_store_manifest *m = ic_store_checkpoint_manifest(r);
        rc = ic_talk_head_decode(&j->head, m->state, m->state_bytes, e);
    }
    ic_store_checkpoint_close(&r);
    return rc;
}

static void discard_look(ic_mail *m)
{
    ic_talk_head_fini(&((look_job *)m)->head);
    ic_free(m);
}

/* Whether the checkpoint that the store has is of the second answer's middle. */
static bool second_is_stored(bench *b)
{
    look_job *j;
    if (!b->looking) {
        j = ic_mail_new(IC_MAIL_STORE_JOB, sizeof *j, discard_look);
        j->job.run = run_look;
        j->job.reply = b->home_port;
        strcpy(j->session, b->session);
        ic_port_send(&b->out, b->to_store, &j);
        b->looking = true;
    }
    j = (look_job *)ic_inbox_take(b->home);
    if (!j)
        return false;
    b->looking = false;
    ic_assert_ok(j->job.rc, &j->job.error);
    bool found = j->head.answer.turn == 2;
    ic_mail_discard((ic_mail **)&j);
    return found;
}

static bool lease_is_home(bench *b)
{
    return b->held_leases > 0;
}

static bool lease_is_out(bench *b)
{
    return b->model != NULL;
}

/* --- two lives ----------------------------------------------------------------------------------
 */

/* The first: a checkpoint is due all the time. Where the model stands still it is taken, or it must
 * wait; the end comes when the store has one of the second answer. */
static void live_and_die(moment hold, const char *path, const char *session)
{
    bench b;
    ic_session_stats stats;
    ic_actor_setup();
    open_bench(&b, path, session, 1);
    start_talk(&b);
    live_through(&b);
    b.hold = hold;
    serve(&b, stands_still);
    serve(&b, lease_is_home);
    b.held = hold != BEFORE_THE_QUESTION;
    serve(&b, second_is_stored);
    serve(&b, lease_is_out);
    ic_session_stats_of(b.model, &stats);
    assert_true(stats.answering && b.turn_ended == 1);
    assert_true(hold == BEFORE_THE_QUESTION || (stats.pending_rows && !stats.decoding));
    assert_int_equal(b.recalls_early, 0);
    raise(SIGKILL);
}

/* Frames that the model does not look at, more than it is given at once, and behind them as many
 * questions as may wait. */
static void ask_all_and_die(const char *path, const char *session)
{
    bench b;
    ic_actor_setup();
    open_bench(&b, path, session, INT64_MAX / 4);
    b.steps = false;
    start_talk(&b);
    begin_source(&b);
    send_frames(&b, 5 * FRAMES);
    for (int i = 0; i <= QUEUE; i++)
        ask(&b, first_question);
    raise(SIGKILL);
}

static bool all_have_ended(bench *b)
{
    return b->turn_ended == QUEUE + 1;
}

static void run_first_life(moment hold, const char *path, const char *session)
{
    char number[2] = {(char)('0' + hold)};
    int status = 0;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        execl("/proc/self/exe", "test_talk", number, path, session, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void follow_from_the_first(bench *b)
{
    ic_mail_request *q = new_request(IC_WIRE_ATTACH);
    ic_wire_put(&q->msg.attach, attach, session, b->session);
    ic_wire_put(&q->msg.attach, attach, from, 1);
    must(b, q);
}

/* The second goes on, and must give the answers of the one to whom nothing happened. */
static bench live_twice(moment hold, const char *name)
{
    bench calm = undisturbed(hold == IN_THE_QUESTION ? "calm" : "quiet"), b;
    open_bench(&b, path_of(name), NULL, INT64_MAX / 4);
    stop(&b);
    run_first_life(hold, b.path, b.session);
    char session[sizeof b.session];
    strcpy(session, b.session);
    open_bench(&b, path_of(name), session, INT64_MAX / 4);
    start_talk(&b);
    follow_from_the_first(&b);
    serve(&b, second_has_ended);
    expect_same(&calm, &b);
    stop(&b);
    return b;
}

/* --- tests --------------------------------------------------------------------------------------
 */

/* A checkpoint falls due while frames are encoded whose rows, and the question behind them, have
 * not gone in: the engine still tells of the answer before. It is not taken there; it waits until
 * the engine is in the answer that the checkpoint's head tells, and what resumes from it answers as
 * if nothing had been. */
static void one_waits_for_the_answer_that_it_tells(void **state)
{
    (void)state;
    live_twice(BEFORE_THE_QUESTION, "waits");
}

/* A checkpoint that falls due while a long question goes in by slices holds the rows that are in
 * and the rest of the question, which goes in after the kill; no more than that. */
static void one_is_taken_in_the_middle_of_a_question(void **state)
{
    (void)state;
    bench b = live_twice(IN_THE_QUESTION, "middle");
    assert_in_range(b.usage[2].recomputed_tokens, 1, b.usage[2].prompt_tokens - SLICE);
}

static bool first_has_ended(bench *b)
{
    return b->turn_ended == 1;
}

static bool waits_for_room(bench *b)
{
    return b->asks_room;
}

/* Its checkpoint is of another model from now on. */
static void lose_memory(const bench *b)
{
    ic_store *s = NULL;
    ic_store_reader *r = NULL;
    ic_store_writer *w = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = b->path}, &e), &e);
    ic_assert_ok(ic_store_checkpoint_open(s, b->session, &r, &e), &e);
    ic_store_manifest m = *ic_store_checkpoint_manifest(r);
    m.meaning = "another";
    m.meaning_bytes = 7;
    ic_assert_ok(ic_store_checkpoint_begin(s, b->session, &w, &e), &e);
    ic_assert_ok(ic_store_checkpoint_finish(&w, &m, &e), &e);
    ic_store_checkpoint_close(&r);
    ic_store_close(&s);
}

/* A rebuild is wished for while the session wakes up for another reason, without one: that fails,
 * and is tried again with it. */
static void a_rebuild_that_is_wished_for_late_is_made(void **state)
{
    (void)state;
    bench b;
    char session[IC_STORE_ID_CHARS + 1];
    open_bench(&b, path_of("late"), NULL, INT64_MAX / 4);
    start_talk(&b);
    ask(&b, first_question);
    serve(&b, first_has_ended);
    stop(&b);
    lose_memory(&b);
    strcpy(session, b.session);
    open_bench(&b, path_of("late"), session, INT64_MAX / 4);
    b.no_room = true;
    start_talk(&b);
    serve(&b, waits_for_room);
    ic_mail_request *q = new_request(IC_WIRE_RESUME);
    ic_wire_put(&q->msg.resume, resume, session, b.session);
    ic_wire_put(&q->msg.resume, resume, rebuild, true);
    b.oks = 0;
    send_request(&b, q);
    b.no_room = false;
    give_room(&b); /* behind the wish, which found it waiting */
    serve(&b, is_answered_by_ok);
    follow_from_the_first(&b);
    ask(&b, first_question);
    serve(&b, second_has_ended);
    stop(&b);
}

/* As many questions as may wait do so when the process is killed: none of them is lost. */
static void a_full_queue_is_answered(void **state)
{
    (void)state;
    bench b;
    char session[IC_STORE_ID_CHARS + 1];
    open_bench(&b, path_of("queue"), NULL, INT64_MAX / 4);
    stop(&b);
    strcpy(session, b.session);
    run_first_life(ALL_THE_TIME, b.path, session);
    open_bench(&b, path_of("queue"), session, INT64_MAX / 4);
    start_talk(&b);
    follow_from_the_first(&b);
    serve(&b, all_have_ended);
    stop(&b);
}

static int setup(void **state)
{
    ic_actor_setup();
    return ic_test_group_setup(state);
}

static int teardown(void **state)
{
    ic_actor_teardown();
    return ic_test_group_teardown(state);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_waits_for_the_answer_that_it_tells),
        cmocka_unit_test(one_is_taken_in_the_middle_of_a_question),
        cmocka_unit_test(a_rebuild_that_is_wished_for_late_is_made),
        cmocka_unit_test(a_full_queue_is_answered),
    };
    if (argc == 4 && argv[1][0] == '0' + ALL_THE_TIME)
        ask_all_and_die(argv[2], argv[3]);
    if (argc == 4)
        live_and_die((moment)(argv[1][0] - '0'), argv[2], argv[3]);
    return argc == 1 ? cmocka_run_group_tests(tests, setup, teardown) : EXIT_FAILURE;
}
