/* The actor template: start verdicts, stopping, mail in order, bounded queues. IC_NEEDS_SERVER */
#include <unistd.h>

#include "ic_test.h"

#include "actors/ic_actor.h"
#include "base/ic_clock.h"
#include "base/ic_mem.h"

enum { PING = 1, PONG, HOLD };

typedef struct numbered {
    ic_mail head;
    int number;
    ic_port *reply; /* not owned */
} numbered;

typedef struct plan {
    ic_error verdict;
    int start_ms; /* sleeps before its verdict */
    int hang_ms;  /* sleeps before it ends */
    bool deaf;    /* never reads its inbox */
} plan;

static void serve(ic_actor_self *self)
{
    plan *p = self->args;
    usleep((useconds_t)p->start_ms * 1000);
    ic_actor_ready(self, &p->verdict);
    if (p->verdict.code)
        return;
    while (ic_actor_wait(self, -1)) {
        ic_mail *m;
        while (!p->deaf && (m = ic_inbox_take(self->inbox))) {
            numbered *n = (numbered *)m;
            if (m->kind == PING) {
                numbered *answer = ic_mail_new(PONG, sizeof *answer, NULL);
                answer->number = n->number;
                ic_port_send(&self->outbox, n->reply, &answer);
            }
            ic_mail_discard(&m);
        }
        if (p->deaf)
            usleep(1000);
    }
    usleep((useconds_t)p->hang_ms * 1000);
}

static numbered *ping(int number, ic_port *reply)
{
    numbered *n = ic_mail_new(PING, sizeof *n, NULL);
    n->number = number;
    n->reply = reply;
    return n;
}

/* The next mail within five seconds, or NULL; meanwhile the sender tries again, as its loop would.
 */
static numbered *receive(ic_inbox *b, ic_outbox *sender)
{
    for (int i = 0; i < 5000; i++) {
        ic_outbox_flush(sender);
        ic_mail *m = ic_inbox_take(b);
        if (m)
            return (numbered *)m;
        usleep(1000);
    }
    return NULL;
}

/* A failed start gives the actor's own code and sentence, and leaves nothing. */
static void start_verdict_carries_the_error(void **state)
{
    (void)state;
    plan p = {.verdict = {.code = IC_ENOTFOUND, .text = "no model there"}};
    ic_actor *a = NULL;
    ic_error e = {0};
    assert_int_equal(ic_actor_start(&a, "broken", serve, &p, 2000, &e), IC_ENOTFOUND);
    assert_null(a);
    assert_string_equal(e.text, "no model there");
}

/* An actor that takes too long to start is given up on with its name. */
static void start_has_a_deadline(void **state)
{
    (void)state;
    plan p = {.start_ms = 400};
    ic_actor *a = NULL;
    ic_error e = {0};
    /* The deadline passes first; the stop that follows has as long again, twice. */
    assert_int_equal(ic_actor_start(&a, "sluggish", serve, &p, 300, &e), IC_ETIMEOUT);
    assert_non_null(strstr(e.text, "sluggish"));
}

/* Mail arrives in order and each is answered, far more of it than the queues hold. */
static void mail_keeps_its_order(void **state)
{
    (void)state;
    enum { COUNT = 5000 };
    plan p = {0};
    ic_actor *a = NULL;
    ic_error e = {0};
    ic_inbox *home = NULL;
    ic_assert_ok(ic_inbox_open(&home, "home", 0, &e), &e);
    ic_assert_ok(ic_actor_start(&a, "echo", serve, &p, 2000, &e), &e);
    ic_port *to = ic_actor_port(a), *reply = ic_port_open(home);
    ic_outbox out = {0};
    for (int i = 0; i < COUNT; i++) {
        numbered *n = ping(i, reply);
        assert_int_equal(ic_port_send(&out, to, &n), IC_OK);
        assert_null(n);
    }
    for (int i = 0; i < COUNT; i++) {
        ic_outbox_flush(&out);
        ic_mail *m = ic_inbox_take(home);
        if (!m) {
            usleep(100);
            i--;
            continue;
        }
        assert_int_equal(((numbered *)m)->number, i);
        ic_mail_discard(&m);
    }
    assert_true(ic_actor_stop(&a, 2000));
    ic_port_close(&to);
    ic_port_close(&reply);
    ic_inbox_close(&home);
}

/* A queue nobody reads takes exactly its depth at both ends; then `try` refuses and keeps the mail
 * with its sender, and `send` keeps order behind it. */
static void a_full_queue_refuses(void **state)
{
    (void)state;
    enum { DEPTH = 4 };
    ic_error e = {0};
    ic_inbox *b = NULL;
    ic_assert_ok(ic_inbox_open(&b, "small", DEPTH, &e), &e);
    ic_port *p = ic_port_open(b);
    ic_outbox out = {0};
    int taken = 0;
    numbered *n = ping(0, NULL);
    while (ic_port_try(p, &n) == IC_OK) {
        taken++;
        assert_true(taken <= 2 * DEPTH);
        n = ping(taken, NULL);
    }
    assert_int_equal(taken, 2 * DEPTH);
    assert_non_null(n);
    assert_int_equal(ic_port_send(&out, p, &n), IC_OK);
    assert_true(ic_outbox_flush(&out));
    for (int i = 0; i <= taken; i++) {
        numbered *got = receive(b, &out);
        assert_non_null(got);
        assert_int_equal(got->number, i);
        ic_mail *m = &got->head;
        ic_mail_discard(&m);
    }
    assert_false(ic_outbox_flush(&out));
    ic_port_close(&p);
    ic_inbox_close(&b);
}

/* A backlog has an end: what does not fit is discarded and said. */
static void a_backlog_is_bounded(void **state)
{
    (void)state;
    ic_error e = {0};
    ic_inbox *b = NULL;
    ic_assert_ok(ic_inbox_open(&b, "never", 1, &e), &e);
    ic_port *p = ic_port_open(b);
    ic_outbox out = {0};
    int rc = IC_OK, sent = 0;
    while (rc == IC_OK) {
        numbered *n = ping(0, NULL);
        rc = ic_port_send(&out, p, &n);
        assert_null(n);
        sent++;
    }
    assert_int_equal(rc, IC_ELIMIT);
    assert_int_equal(sent, IC_PORT_BACKLOG_MAX + 2 + 1);
    ic_outbox_forget(&out, p);
    ic_port_close(&p);
    ic_inbox_close(&b);
}

/* An actor whose mailbox is full and unread still stops at once. */
static void a_full_mailbox_does_not_hinder_the_stop(void **state)
{
    (void)state;
    plan p = {.deaf = true};
    ic_actor *a = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_actor_start(&a, "deaf", serve, &p, 2000, &e), &e);
    ic_port *to = ic_actor_port(a);
    numbered *n = ping(0, NULL);
    while (ic_port_try(to, &n) == IC_OK)
        n = ping(0, NULL);
    ic_mail *left = &n->head;
    ic_mail_discard(&left);
    assert_true(ic_actor_stop(&a, 5000));
    assert_null(a);
    ic_port_close(&to);
}

/* Stopping waits for the thread: what it does at its end has been done. */
static void stop_waits(void **state)
{
    (void)state;
    plan p = {.hang_ms = 100};
    ic_actor *a = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_actor_start(&a, "slow", serve, &p, 2000, &e), &e);
    int64_t before = ic_clock_mono_us();
    assert_true(ic_actor_stop(&a, 5000));
    assert_true(ic_clock_mono_us() - before >= 100000);
}

static void serve_twice(ic_actor_self *self)
{
    ic_actor_ready(self, NULL);
    while (ic_actor_wait(self, -1))
        continue;
    while (ic_actor_wait(self, -1)) /* an actor may wait again after it was told */
        continue;
}

/* An actor that was told to stop in one place does not wait for ever in the next. */
static void stop_is_remembered(void **state)
{
    (void)state;
    ic_actor *a = NULL;
    ic_error e = {0};
    ic_assert_ok(ic_actor_start(&a, "twice", serve_twice, NULL, 2000, &e), &e);
    assert_true(ic_actor_stop(&a, 5000));
}

/* Many starts and stops in a row leave no block, and none of them hangs. */
static void start_and_stop_many_times(void **state)
{
    (void)state;
    plan p = {0};
    int64_t live = ic_mem_live();
    for (int i = 0; i < 100; i++) {
        ic_actor *a = NULL;
        ic_error e = {0};
        ic_assert_ok(ic_actor_start(&a, "again", serve, &p, 2000, &e), &e);
        assert_true(ic_actor_stop(&a, 5000));
    }
    assert_int_equal(ic_mem_live(), live);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_verdict_carries_the_error),
        cmocka_unit_test(start_has_a_deadline),
        cmocka_unit_test(mail_keeps_its_order),
        cmocka_unit_test(a_full_queue_refuses),
        cmocka_unit_test(a_backlog_is_bounded),
        cmocka_unit_test(a_full_mailbox_does_not_hinder_the_stop),
        cmocka_unit_test(stop_waits),
        cmocka_unit_test(stop_is_remembered),
        cmocka_unit_test(start_and_stop_many_times),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
