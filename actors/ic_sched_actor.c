#include "actors/ic_sched_actor.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ic_assert.h"
#include "base/ic_clock.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

enum {
    ROWS_FIRST = 32,    /* prefill rows of a step before anything has been measured */
    ROWS_MAX = 4096,    /* of one step */
    STATS_US = 1000000, /* between two reports */
    STEP_SAMPLES = 256  /* steps that the median is taken over */
};

struct ic_seat {
    ic_seat *next;
    ic_session *session; /* NULL: the lease is out */
    ic_port *reply;
    ic_mail_input *first, *last; /* inputs that wait, in order */
    bool recalled;
    bool seen_ready; /* what the last PROGRESS said */
};

typedef struct sched {
    ic_actor_self *self;
    ic_sched_args *args;
    ic_engine *engine;
    ic_seat *seats;
    int seat_count;
    ic_port *router;
    double rows_per_us; /* of prefill and vision, smoothed */
    bool device_failed;
    ic_error failure;
    ic_sched_stats stats;
    uint32_t samples[STEP_SAMPLES];
    int64_t reported_us;
    double prefill_us, decode_us; /* busy time since the last report */
    uint64_t prefill_rows, decode_rows;
} sched;

/* --- opening -----------------------------------------------------------------------------------
 */

/* How many sessions the host's memory holds: three quarters of what is available now. */
static int fit_host(size_t session_bytes, int wanted)
{
    long pages = sysconf(_SC_AVPHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages <= 0 || page <= 0 || !session_bytes)
        return wanted;
    double room = 0.75 * (double)pages * (double)page / (double)session_bytes;
    return room >= wanted ? wanted : room < 1 ? 1 : (int)room;
}

/* How many sessions memory holds: the device's, where it has its own, and the host's. */
static int fit_memory(const ic_engine *engine, ic_sched_args *a, ic_error *e)
{
    const double mib = 1 << 20;
    int wanted = a->max_resident;
    ic_engine_room room;
    ic_engine_fit(engine, &a->session, wanted, &room);
    if (room.limit)
        ic_log_info("scheduler",
                    "device memory, MiB: %.0f to use: %.1f weights, %.1f work, %.1f scratch, and "
                    "%d sessions of %.1f",
                    (double)room.limit / mib, (double)room.weights / mib, (double)room.work / mib,
                    (double)room.scratch / mib, room.sessions, (double)room.session / mib);
    if (room.sessions < 1)
        return ic_error_set(e, IC_ENOMEM,
                            "the device holds no session of %d tokens (%.0f MiB beside the model): "
                            "lower session.cache_tokens",
                            a->session.cache_tokens, (double)room.session / mib);
    a->max_resident = fit_host(room.host, room.sessions);
    if (a->max_resident < wanted)
        ic_log_warn("scheduler", "memory holds %d sessions, not session.max_resident = %d",
                    a->max_resident, wanted);
    return IC_OK;
}

static int open_engine(sched *s, ic_error *e)
{
    ic_sched_args *a = s->args;
    int rc = ic_engine_open(&s->engine, &a->engine, e);
    if (rc)
        return rc;
    a->opened = s->engine;
    ic_session_config_default(s->engine, a->cache_tokens, &a->session);
    snprintf(a->session.policy, sizeof a->session.policy, "%s", a->policy);
    ic_session_config_take(&a->session, &a->settings, a->given);
    rc = ic_session_config_check_used(&a->session, a->given, e);
    if (!rc)
        rc = ic_session_config_check(s->engine, &a->session, e);
    if (rc)
        return rc;
    a->session_bytes = ic_session_memory(s->engine, &a->session);
    rc = fit_memory(s->engine, a, e);
    if (rc)
        return rc;
    const ic_engine_info *info = ic_engine_info_of(s->engine);
    snprintf(a->device, sizeof a->device, "%s %.100s", a->engine.device, info->numerics);
    ic_log_info("scheduler", "model %s (%s, %d layers, %.1f MiB), %s", info->model_name,
                info->architecture, info->layers, (double)info->weight_bytes / (1 << 20),
                info->numerics);
    ic_log_info("scheduler", "at most %d sessions in memory, %.1f MiB each: policy %s, %d tokens",
                a->max_resident, (double)a->session_bytes / (1 << 20), a->session.policy,
                a->session.cache_tokens);
    return IC_OK;
}

/* --- seats -------------------------------------------------------------------------------------
 */

static void drop_inputs(ic_seat *seat)
{
    while (seat->first) {
        ic_mail_input *input = seat->first;
        seat->first = (ic_mail_input *)input->head.next;
        ic_mail_discard((ic_mail **)&input);
    }
    seat->last = NULL;
}

static void free_seat(sched *s, ic_seat *seat)
{
    for (ic_seat **at = &s->seats; *at; at = &(*at)->next) {
        if (*at == seat) {
            *at = seat->next;
            break;
        }
    }
    s->seat_count--;
    drop_inputs(seat);
    ic_session_destroy(&seat->session);
    ic_outbox_forget(&s->self->outbox, seat->reply);
    ic_port_close(&seat->reply);
    ic_free(seat);
}

static void open_seat(sched *s, ic_mail_open *m)
{
    ic_mail_lease *answer = ic_mail_lease_new(IC_MAIL_OPENED, NULL, NULL);
    ic_port *reply = m->reply;
    if (s->device_failed) {
        answer->rc = s->failure.code;
        answer->error = s->failure;
    } else {
        answer->rc = ic_session_new(&answer->session, s->engine, &m->config, &answer->error);
    }
    if (answer->rc == IC_OK) {
        ic_seat *seat = ic_alloc(sizeof *seat);
        seat->reply = reply;
        seat->next = s->seats;
        s->seats = seat;
        s->seat_count++;
        answer->seat = seat;
        ic_port_send(&s->self->outbox, reply, &answer);
    } else {
        ic_port_send(&s->self->outbox, reply, &answer);
        ic_outbox_forget(&s->self->outbox, reply);
        ic_port_close(&reply);
    }
    ic_mail_discard((ic_mail **)&m);
}

static void send_progress(sched *s, ic_seat *seat, ic_mail_progress *p)
{
    ic_session_stats_of(seat->session, &p->stats);
    p->ready = seat->first || ic_session_is_ready(seat->session);
    seat->seen_ready = p->ready;
    ic_port_send(&s->self->outbox, seat->reply, &p);
}

/* --- inputs ------------------------------------------------------------------------------------
 */

static int apply_input(ic_seat *seat, ic_mail_input *in, ic_error *e)
{
    switch (in->type) {
    case IC_INPUT_FRAME:
        return ic_session_frame(seat->session, &in->frame, &in->grid, e);
    case IC_INPUT_IMAGE:
        return ic_session_image(seat->session, &in->frame, &in->grid, e);
    case IC_INPUT_FRAMES_END:
        return ic_session_frames_end(seat->session, e);
    case IC_INPUT_CANCEL:
        return ic_session_cancel(seat->session);
    case IC_INPUT_ASK: {
        int rc = ic_session_ask(seat->session, in->text, &in->sampling, e);
        if (rc == IC_OK && in->forced_count)
            rc = ic_session_force(seat->session, in->forced, in->forced_count, e);
        return rc;
    }
    }
    return IC_EBUG;
}

static void report_refusal(sched *s, ic_seat *seat, ic_input_type type, const ic_error *e)
{
    ic_mail_progress *p = ic_mail_new(IC_MAIL_PROGRESS, sizeof *p, NULL);
    p->progress = IC_PROGRESS_IDLE;
    p->error = *e;
    p->input_refused = true;
    p->refused = type;
    send_progress(s, seat, p);
}

/* Gives the session what it takes now; EAGAIN and EBUSY wait for the next step. */
static void feed(sched *s, ic_seat *seat)
{
    while (seat->first) {
        ic_mail_input *in = seat->first;
        ic_error e = {0};
        int rc = apply_input(seat, in, &e);
        if ((rc == IC_EAGAIN || rc == IC_EBUSY) && ic_session_is_ready(seat->session))
            return;
        seat->first = (ic_mail_input *)in->head.next;
        if (!seat->first)
            seat->last = NULL;
        ic_input_type type = in->type;
        ic_mail_discard((ic_mail **)&in);
        if (rc) {
            e.code = rc;
            report_refusal(s, seat, type, &e);
        }
    }
}

/* An input that gives no work, such as half a pair, is told too: else its sender would wait for a
 * step that never comes. */
static void settle_input(sched *s, ic_seat *seat)
{
    feed(s, seat);
    if (seat->first || !seat->session || ic_session_is_ready(seat->session))
        return;
    ic_mail_progress *p = ic_mail_new(IC_MAIL_PROGRESS, sizeof *p, NULL);
    p->progress = IC_PROGRESS_IDLE;
    send_progress(s, seat, p);
}

/* At a step boundary, once the inputs that came before the recall are in. */
static void give_back(sched *s, ic_seat *seat)
{
    feed(s, seat);
    if (seat->first) {
        seat->recalled = true;
        return;
    }
    ic_mail_lease *m = ic_mail_lease_new(IC_MAIL_RETURNED, seat, seat->session);
    seat->session = NULL;
    seat->recalled = false;
    ic_port_send(&s->self->outbox, seat->reply, &m);
}

/* --- the step ----------------------------------------------------------------------------------
 */

static bool is_ready(const ic_seat *seat)
{
    return seat->session && ic_session_is_ready(seat->session);
}

static bool is_decoding(const ic_seat *seat)
{
    ic_session_stats stats;
    ic_session_stats_of(seat->session, &stats);
    return stats.decoding;
}

/* Rows that prefill may take in a step beside what decoding needs. */
static int row_budget(const sched *s)
{
    if (s->rows_per_us <= 0)
        return ROWS_FIRST;
    double aim_us = 750.0 * s->args->step_ms; /* some room for what was not foreseen */
    double rows = s->rows_per_us * aim_us;
    return rows < 1 ? 1 : rows > ROWS_MAX ? ROWS_MAX : (int)rows;
}

/* All decoding sessions, and the ones with input that share the budget, in turns. */
static int plan_step(sched *s, ic_slice *slices, ic_seat **seats)
{
    int count = 0, waiting = 0;
    for (ic_seat *seat = s->seats; seat; seat = seat->next) {
        if (!is_ready(seat))
            continue;
        bool decoding = is_decoding(seat);
        waiting += !decoding;
        slices[count] = (ic_slice){.session = seat->session, .max_rows = decoding ? 1 : 0};
        seats[count++] = seat;
    }
    int share = waiting ? row_budget(s) / waiting : 0;
    for (int i = 0; i < count; i++) {
        if (slices[i].max_rows == 0)
            slices[i].max_rows = share < 1 ? 1 : share;
    }
    return count;
}

/* What an answer leaves in the cache, for its usage. */
static void count_kinds(const ic_session *session, ic_mail_progress *p)
{
    ic_session_held held;
    ic_error e = {0};
    if (ic_session_held_of(session, &held, &e))
        return;
    p->text = held.pinned + held.sinks + held.text;
    p->vision = held.vision + held.markers;
}

static void measure(sched *s, const ic_slice *slices, int count, int64_t took_us)
{
    int prefill = 0, decode = 0;
    for (int i = 0; i < count; i++) {
        prefill += slices[i].progress == IC_PROGRESS_INPUT ? slices[i].rows : 0;
        decode += slices[i].progress == IC_PROGRESS_TOKEN;
        s->stats.prompt_tokens +=
            slices[i].progress == IC_PROGRESS_INPUT ? (uint64_t)slices[i].rows : 0;
    }
    s->stats.completion_tokens += (uint64_t)decode;
    if (took_us < 1)
        took_us = 1;
    if (prefill >= 8) { /* smaller ones say more about the overhead than about rows */
        double rate = (double)prefill / (double)took_us;
        s->rows_per_us = s->rows_per_us > 0 ? 0.7 * s->rows_per_us + 0.3 * rate : rate;
    } else if (prefill && took_us > 1000LL * s->args->step_ms && s->rows_per_us > 0) {
        s->rows_per_us *= 0.7;
    }
    s->prefill_rows += (uint64_t)prefill;
    s->decode_rows += (uint64_t)decode;
    (prefill ? &s->prefill_us : &s->decode_us)[0] += (double)took_us;
    if (s->stats.step_max_us < (uint64_t)took_us)
        s->stats.step_max_us = (uint64_t)took_us;
    s->samples[s->stats.steps++ % STEP_SAMPLES] = (uint32_t)took_us;
}

static void fail_device(sched *s, const ic_error *e)
{
    s->device_failed = true;
    s->failure = *e;
    ic_log_error("scheduler", "the device failed: %s", e->text);
    for (ic_seat *seat = s->seats; seat; seat = seat->next) {
        if (!seat->session)
            continue;
        ic_mail_progress *p = ic_mail_new(IC_MAIL_PROGRESS, sizeof *p, NULL);
        p->progress = IC_PROGRESS_FAILED;
        p->error = *e;
        p->device_failed = true;
        send_progress(s, seat, p);
    }
    if (s->router) {
        ic_mail_sched_stats *m = ic_mail_new(IC_MAIL_SCHED_STATS, sizeof *m, NULL);
        m->stats = s->stats;
        m->device_failed = true;
        m->error = *e;
        ic_port_send(&s->self->outbox, s->router, &m);
    }
}

static void step(sched *s, ic_slice *slices, ic_seat **seats, int count)
{
    ic_error e = {0};
    int64_t began = ic_clock_mono_us();
    int rc = ic_engine_step(s->engine, slices, count, &e);
    if (rc) {
        fail_device(s, &e);
        return;
    }
    measure(s, slices, count, ic_clock_mono_us() - began);
    for (int i = 0; i < count; i++) {
        ic_mail_progress *p = ic_mail_new(IC_MAIL_PROGRESS, sizeof *p, NULL);
        p->progress = slices[i].progress;
        p->rows = slices[i].rows;
        p->frames_in = slices[i].frames_in;
        p->frames_refused = slices[i].frames_refused;
        p->token = slices[i].token;
        p->finish = slices[i].finish;
        if (p->finish)
            count_kinds(slices[i].session, p);
        p->error = slices[i].error;
        feed(s, seats[i]);
        send_progress(s, seats[i], p);
        if (seats[i]->recalled)
            give_back(s, seats[i]);
    }
}

static bool has_work(const sched *s)
{
    for (const ic_seat *seat = s->seats; seat; seat = seat->next) {
        if (!s->device_failed && is_ready(seat))
            return true;
    }
    return false;
}

static void step_all(sched *s)
{
    if (!s->seat_count || s->device_failed)
        return;
    ic_slice *slices = ic_calloc((size_t)s->seat_count, sizeof *slices);
    ic_seat **seats = ic_calloc((size_t)s->seat_count, sizeof *seats);
    int count = plan_step(s, slices, seats);
    if (count)
        step(s, slices, seats, count);
    ic_free(slices);
    ic_free(seats);
}

/* --- reports -----------------------------------------------------------------------------------
 */

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void report(sched *s, bool now)
{
    int64_t t = ic_clock_mono_us();
    if (!s->router || (!now && t - s->reported_us < STATS_US))
        return;
    s->reported_us = t;
    uint32_t sorted[STEP_SAMPLES];
    size_t n = s->stats.steps < STEP_SAMPLES ? (size_t)s->stats.steps : STEP_SAMPLES;
    memcpy(sorted, s->samples, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_size);
    s->stats.step_p50_us = n ? sorted[n / 2] : 0;
    if (s->prefill_rows)
        s->stats.prefill_per_second = (double)s->prefill_rows * 1e6 / s->prefill_us;
    if (s->decode_rows && s->decode_us > 0)
        s->stats.decode_per_second = (double)s->decode_rows * 1e6 / s->decode_us;
    s->prefill_rows = s->decode_rows = 0;
    s->prefill_us = s->decode_us = 0;
    ic_mail_sched_stats *m = ic_mail_new(IC_MAIL_SCHED_STATS, sizeof *m, NULL);
    m->stats = s->stats;
    ic_port_send(&s->self->outbox, s->router, &m);
}

/* --- mail --------------------------------------------------------------------------------------
 */

static void take_input(ic_seat *seat, ic_mail_input *in)
{
    in->head.next = NULL;
    if (seat->last)
        seat->last->head.next = &in->head;
    else
        seat->first = in;
    seat->last = in;
}

static void take_lease_mail(sched *s, ic_mail_lease *m)
{
    ic_seat *seat = m->seat;
    if (m->head.kind == IC_MAIL_LEASE) {
        IC_ASSERT(!seat->session && m->session);
        seat->session = m->session;
        if (s->device_failed) {
            ic_mail_progress *p = ic_mail_new(IC_MAIL_PROGRESS, sizeof *p, NULL);
            p->progress = IC_PROGRESS_FAILED;
            p->error = s->failure;
            p->device_failed = true;
            send_progress(s, seat, p);
        }
    } else if (m->head.kind == IC_MAIL_RECALL) {
        if (seat->session)
            give_back(s, seat);
    } else { /* CLOSE */
        if (m->session)
            seat->session = m->session;
        ic_session_destroy(&seat->session);
        drop_inputs(seat);
        ic_mail_lease *answer = ic_mail_lease_new(IC_MAIL_CLOSED, NULL, NULL);
        ic_port_send(&s->self->outbox, seat->reply, &answer);
        ic_outbox_flush(&s->self->outbox);
        free_seat(s, seat);
    }
}

typedef struct watch {
    ic_mail head;
    ic_port *router;
} watch;

static void discard_watch(ic_mail *m)
{
    ic_port_close(&((watch *)m)->router);
    ic_free(m);
}

void ic_sched_watch(ic_outbox *o, ic_port *to, ic_port **router_p)
{
    watch *w = ic_mail_new(IC_MAIL_SCHED_STATS, sizeof *w, discard_watch);
    w->router = *router_p;
    *router_p = NULL;
    ic_port_send(o, to, &w);
}

static void take_mail(sched *s, ic_mail *m)
{
    switch (m->kind) {
    case IC_MAIL_OPEN:
        open_seat(s, (ic_mail_open *)m);
        return;
    case IC_MAIL_INPUT: {
        ic_mail_input *in = (ic_mail_input *)m;
        take_input(in->seat, in);
        settle_input(s, in->seat);
        return;
    }
    case IC_MAIL_LEASE:
    case IC_MAIL_RECALL:
    case IC_MAIL_CLOSE:
        take_lease_mail(s, (ic_mail_lease *)m);
        break;
    case IC_MAIL_SCHED_STATS:
        s->router = ((watch *)m)->router;
        ((watch *)m)->router = NULL;
        break;
    default:
        ic_log_error("scheduler", "BUG: mail of kind %d", m->kind);
    }
    ic_mail_discard(&m);
}

static void drain(sched *s)
{
    ic_mail *m;
    while ((m = ic_inbox_take(s->self->inbox)))
        take_mail(s, m);
}

static void run(sched *s)
{
    bool worked = false;
    for (;;) {
        bool work = has_work(s);
        if (worked && !work)
            report(s, true);
        worked = work;
        if (!ic_actor_wait(s->self, work ? 0 : -1))
            return;
        drain(s);
        if (has_work(s)) {
            step_all(s);
            report(s, false);
        }
    }
}

void ic_sched_actor_run(ic_actor_self *self)
{
    ic_error e = {0};
    sched s = {.self = self, .args = self->args};
    int rc = open_engine(&s, &e);
    e.code = rc;
    ic_actor_ready(self, &e);
    if (rc) {
        if (s.engine)
            ic_engine_close(&s.engine);
        return;
    }
    run(&s);
    drain(&s);
    while (s.seats)
        free_seat(&s, s.seats);
    if (s.router) {
        ic_outbox_forget(&self->outbox, s.router);
        ic_port_close(&s.router);
    }
    ic_engine_close(&s.engine);
}
