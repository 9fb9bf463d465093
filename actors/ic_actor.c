#include "actors/ic_actor.h"

#include <stdatomic.h>

#include "base/ic_assert.h"
#include "base/ic_clock.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

/* libzmq is not instrumented: ThreadSanitizer is told that a pointer sent through it is handed over
 * with all that it points to. */
#if defined(__SANITIZE_THREAD__)
#define IC_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IC_TSAN 1
#endif
#endif
#ifdef IC_TSAN
void __tsan_acquire(void *);
void __tsan_release(void *);
#define hand_over(p)  __tsan_release(p)
#define taken_over(p) __tsan_acquire(p)
#else
#define hand_over(p)  (void)(p)
#define taken_over(p) (void)(p)
#endif

/* --- mail --------------------------------------------------------------------------------------
 */

static void free_mail(ic_mail *m)
{
    ic_free(m);
}

void *ic_mail_new(int kind, size_t bytes, void (*discard)(ic_mail *))
{
    ic_mail *m = ic_alloc(bytes);
    m->kind = kind;
    m->discard = discard ? discard : free_mail;
    return m;
}

void ic_mail_discard(ic_mail **m_p)
{
    ic_mail *m = *m_p;
    *m_p = NULL;
    if (m)
        m->discard(m);
}

/* --- inbox -------------------------------------------------------------------------------------
 */

struct ic_inbox {
    zsock_t *sock; /* PULL, bound; owner thread only after open */
    char endpoint[80];
    int depth;
};

struct ic_port {
    zsock_t *sock; /* PUSH, connected */
    char endpoint[80];
    int depth;
    ic_mail *first, *last; /* backlog */
    int backlog;
    bool listed; /* in the outbox */
    ic_port *next;
};

int ic_inbox_open(ic_inbox **out, const char *name, int depth, ic_error *e)
{
    static atomic_uint_fast64_t serial; /* endpoints are unique in the process */
    ic_inbox *b = ic_alloc(sizeof *b);
    b->depth = depth ? depth : IC_INBOX_DEPTH;
    snprintf(b->endpoint, sizeof b->endpoint, "inproc://ic-%.40s-%llu", name,
             (unsigned long long)atomic_fetch_add(&serial, 1));
    b->sock = zsock_new(ZMQ_PULL);
    if (b->sock) {
        zsock_set_rcvhwm(b->sock, b->depth);
        zsock_set_rcvtimeo(b->sock, 0);
        zsock_set_linger(b->sock, 0);
    }
    if (!b->sock || zsock_bind(b->sock, "%s", b->endpoint) < 0) {
        zsock_destroy(&b->sock);
        ic_free(b);
        return ic_error_set(e, IC_EIO,
                            "no socket for %s: raise the limit of open files (ulimit -n)", name);
    }
    *out = b;
    return IC_OK;
}

zsock_t *ic_inbox_sock(ic_inbox *b)
{
    return b->sock;
}

ic_mail *ic_inbox_take(ic_inbox *b)
{
    void *mail = NULL;
    if (!(zsock_events(b->sock) & ZMQ_POLLIN) || zsock_brecv(b->sock, "p", &mail) < 0 || !mail)
        return NULL;
    taken_over(mail);
    return mail;
}

void ic_inbox_close(ic_inbox **b_p)
{
    ic_inbox *b = *b_p;
    *b_p = NULL;
    if (!b)
        return;
    ic_mail *m;
    while ((m = ic_inbox_take(b)))
        ic_mail_discard(&m);
    zsock_destroy(&b->sock);
    ic_free(b);
}

/* --- port --------------------------------------------------------------------------------------
 */

static ic_port *connect_port(const char *endpoint, int depth)
{
    ic_port *p = ic_alloc(sizeof *p);
    snprintf(p->endpoint, sizeof p->endpoint, "%s", endpoint);
    p->depth = depth;
    p->sock = zsock_new(ZMQ_PUSH);
    IC_ASSERT(p->sock); /* ic_actor_setup has seen to the limit of sockets */
    zsock_set_sndhwm(p->sock, depth);
    zsock_set_sndtimeo(p->sock, 0);
    zsock_set_linger(p->sock, 0);
    int rc = zsock_connect(p->sock, "%s", endpoint);
    IC_ASSERT(rc == 0);
    return p;
}

ic_port *ic_port_open(ic_inbox *b)
{
    return connect_port(b->endpoint, b->depth);
}

ic_port *ic_port_fork(const ic_port *port)
{
    return connect_port(port->endpoint, port->depth);
}

void ic_port_close(ic_port **p_p)
{
    ic_port *p = *p_p;
    *p_p = NULL;
    if (!p)
        return;
    IC_ASSERT(!p->listed);
    zsock_destroy(&p->sock);
    ic_free(p);
}

static bool push(ic_port *p, ic_mail *m)
{
    hand_over(m);
    return zsock_bsend(p->sock, "p", m) == 0;
}

int ic_port_try(ic_port *port, void *mail_p)
{
    ic_mail **m_p = mail_p;
    if (port->backlog || !push(port, *m_p))
        return IC_EAGAIN;
    *m_p = NULL;
    return IC_OK;
}

int ic_port_send(ic_outbox *o, ic_port *port, void *mail_p)
{
    if (ic_port_try(port, mail_p) == IC_OK)
        return IC_OK;
    ic_mail **m_p = mail_p, *m = *m_p;
    if (port->backlog >= IC_PORT_BACKLOG_MAX) {
        ic_log_error("actor", "BUG: %s takes no mail: one of kind %d is lost", port->endpoint,
                     m->kind);
        ic_mail_discard(m_p);
        return IC_ELIMIT;
    }
    *m_p = NULL;
    m->next = NULL;
    if (port->last)
        port->last->next = m;
    else
        port->first = m;
    port->last = m;
    port->backlog++;
    if (!port->listed) {
        port->listed = true;
        port->next = o->waiting;
        o->waiting = port;
    }
    return IC_OK;
}

static void flush_port(ic_port *p)
{
    while (p->first) {
        ic_mail *m = p->first;
        ic_mail *next = m->next;
        if (!push(p, m))
            return;
        p->first = next;
        p->backlog--;
    }
    p->last = NULL;
}

bool ic_outbox_flush(ic_outbox *o)
{
    ic_port **at = &o->waiting;
    while (*at) {
        ic_port *p = *at;
        flush_port(p);
        if (p->first) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        p->listed = false;
    }
    return o->waiting != NULL;
}

void ic_outbox_forget(ic_outbox *o, ic_port *port)
{
    for (ic_port **at = &o->waiting; *at; at = &(*at)->next) {
        if (*at == port) {
            *at = port->next;
            break;
        }
    }
    port->listed = false;
    while (port->first) {
        ic_mail *m = port->first;
        port->first = m->next;
        ic_mail_discard(&m);
    }
    port->last = NULL;
    port->backlog = 0;
}

/* --- the actor itself --------------------------------------------------------------------------
 */

struct ic_actor {
    char name[48];
    zactor_t *zactor;
    ic_actor_fn *fn;
    void *args;
    ic_inbox *inbox;
};

/* The thread. The ready signal comes first (zactor_new waits for it); the verdict follows as a
 * message. */
static void run_actor(zsock_t *pipe, void *arg)
{
    ic_actor *a = arg;
    taken_over(a);
    zsock_set_rcvhwm(pipe, 16);
    zsock_set_sndhwm(pipe, 16);
    zsock_signal(pipe, 0);
    ic_actor_self self = {.pipe = pipe, .inbox = a->inbox, .args = a->args, .actor = a};
    self.poller = zpoller_new(pipe, ic_inbox_sock(a->inbox), NULL);
    IC_ASSERT(self.poller);
    zpoller_set_nonstop(self.poller, true);
    a->fn(&self);
    while (self.outbox.waiting)
        ic_outbox_forget(&self.outbox, self.outbox.waiting);
    zpoller_destroy(&self.poller);
    hand_over(a);
}

void ic_actor_ready(ic_actor_self *self, const ic_error *verdict)
{
    hand_over(self->actor);
    zsock_send(self->pipe, "is", verdict ? verdict->code : IC_OK, verdict ? verdict->text : "");
}

static void read_pipe(ic_actor_self *self)
{
    while (zsock_events(self->pipe) & ZMQ_POLLIN) {
        char *word = zstr_recv(self->pipe);
        if (!word)
            return;
        if (streq(word, "$TERM")) {
            taken_over(self->actor);
            self->stopping = true;
        }
        zstr_free(&word);
    }
}

bool ic_actor_wait(ic_actor_self *self, int timeout_ms)
{
    enum { RETRY_MS = 2 };
    if (self->stopping) { /* $TERM comes once: nobody else would end this wait */
        ic_outbox_flush(&self->outbox);
        return false;
    }
    if (ic_outbox_flush(&self->outbox) && (timeout_ms < 0 || timeout_ms > RETRY_MS))
        timeout_ms = RETRY_MS;
    zpoller_wait(self->poller, timeout_ms);
    read_pipe(self);
    return !self->stopping;
}

static int wait_verdict(ic_actor *a, int deadline_ms, ic_error *e)
{
    int code = 0;
    char *text = NULL;
    zsock_set_rcvtimeo(a->zactor, deadline_ms);
    if (zsock_recv(a->zactor, "is", &code, &text) < 0)
        code = ic_error_set(e, IC_ETIMEOUT, "%s did not start within %d s", a->name,
                            deadline_ms / 1000);
    else if (code)
        ic_error_set(e, code, "%s", text);
    taken_over(a);
    zstr_free(&text);
    return code;
}

int ic_actor_start(ic_actor **out, const char *name, ic_actor_fn *fn, void *args, int deadline_ms,
                   ic_error *e)
{
    ic_actor *a = ic_alloc(sizeof *a);
    snprintf(a->name, sizeof a->name, "%s", name);
    a->fn = fn;
    a->args = args;
    int rc = ic_inbox_open(&a->inbox, name, 0, e);
    if (rc) {
        ic_free(a);
        return rc;
    }
    hand_over(a);
    a->zactor = zactor_new(run_actor, a);
    if (!a->zactor) {
        ic_inbox_close(&a->inbox);
        ic_free(a);
        return ic_error_set(e, IC_EIO, "no thread for %s", name);
    }
    zsock_set_rcvhwm(zactor_sock(a->zactor), 16);
    zsock_set_sndhwm(zactor_sock(a->zactor), 16);
    rc = wait_verdict(a, deadline_ms, e);
    if (rc)
        ic_actor_stop(&a, deadline_ms);
    else
        *out = a;
    return rc;
}

ic_port *ic_actor_port(const ic_actor *a)
{
    return ic_port_open(a->inbox);
}

const char *ic_actor_name(const ic_actor *a)
{
    return a->name;
}

bool ic_actor_stop(ic_actor **a_p, int deadline_ms)
{
    ic_actor *a = *a_p;
    *a_p = NULL;
    if (!a)
        return true;
    zsock_t *pipe = zactor_sock(a->zactor);
    zsock_set_sndtimeo(pipe, 0); /* the pipe never carries data: this finds room */
    hand_over(a);
    zstr_send(pipe, "$TERM");
    zsock_set_rcvtimeo(pipe, deadline_ms);
    bool ended = zsock_wait(pipe) == 0;
    if (!ended) {
        ic_log_error("actor", "BUG: %s did not stop within %d ms", a->name, deadline_ms);
        return false; /* its thread lives: nothing it uses may be freed */
    }
    taken_over(a);
    zsock_set_rcvtimeo(pipe, 0);
    zactor_destroy(&a->zactor);
    ic_inbox_close(&a->inbox);
    ic_free(a);
    return true;
}

void ic_actor_setup(void)
{
    enum { SOCKETS = 8192 };
    zsys_handler_set(NULL);
    zsys_init();
    zsys_set_max_sockets(SOCKETS);
    zsys_set_linger(0);
    zsys_set_logstream(stderr);
}

void ic_actor_teardown(void)
{
    zsys_shutdown();
}
