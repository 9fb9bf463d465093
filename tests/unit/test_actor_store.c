/* The store actor: jobs in order, durable when answered, sharing commits, failing alone.
 * IC_NEEDS_SERVER */
#include <string.h>
#include <unistd.h>

#include "ic_test.h"

#include "actors/ic_store_actor.h"
#include "actors/ic_store_jobs.h"
#include "base/ic_mem.h"

typedef struct bench {
    ic_store_actor_args args;
    char path[300];
    ic_actor *actor;
    ic_inbox *home;
    ic_port *to, *reply;
    ic_outbox out;
    char session[IC_STORE_ID_CHARS + 1];
} bench;

static ic_store_job *receive(bench *b)
{
    for (int i = 0; i < 20000; i++) {
        ic_outbox_flush(&b->out);
        ic_mail *m = ic_inbox_take(b->home);
        if (m)
            return (ic_store_job *)m;
        usleep(1000);
    }
    return NULL;
}

static ic_mail_request *new_request(ic_wire_verb verb)
{
    ic_mail_request *q = ic_mail_request_new();
    ic_wire_msg_init(&q->msg, verb);
    return q;
}

static void open_bench(bench *b, const char *name)
{
    ic_error e = {0};
    *b = (bench){.actor = NULL};
    snprintf(b->path, sizeof b->path, "%s/%s.db", ic_test_dir(), name);
    b->args = (ic_store_actor_args){.config = {.path = b->path}, .request_keep_us = 3600000000LL};
    ic_assert_ok(ic_inbox_open(&b->home, "home", 0, &e), &e);
    ic_assert_ok(ic_actor_start(&b->actor, "store", ic_store_actor_run, &b->args, 10000, &e), &e);
    b->to = ic_actor_port(b->actor);
    b->reply = ic_port_open(b->home);
    ic_mail_request *q = new_request(IC_WIRE_NEW);
    q->msg.new.key.bytes[0] = 1;
    ic_job_desk *job = ic_job_desk_new(IC_DESK_NEW, &q, b->reply);
    ic_port_send(&b->out, b->to, &job);
    job = (ic_job_desk *)receive(b);
    assert_non_null(job);
    ic_assert_ok(job->job.rc, &job->job.error);
    assert_int_equal(job->verdict, IC_STORE_NEW);
    strcpy(b->session, job->sessions[0].id);
    ic_mail_discard((ic_mail **)&job);
}

static void close_bench(bench *b)
{
    ic_mail_port *m = ic_mail_port_close_new(&b->reply);
    ic_port_send(&b->out, b->to, &m);
    assert_true(ic_actor_stop(&b->actor, 10000));
    ic_port_close(&b->to);
    ic_inbox_close(&b->home);
}

static ic_job_write *record_job(bench *b, const char *text, int tag)
{
    ic_job_write *w = ic_job_write_new(b->session, b->reply, tag);
    ic_write_op *op = ic_job_write_add(w, IC_WRITE_JOURNAL);
    op->kind = 1;
    ic_buf_append(&op->bytes, text, strlen(text));
    return w;
}

/* Holds the store's thread up, so that what is sent meanwhile waits together. */
static int sleep_job(ic_store *s, ic_store_job *job, ic_error *e)
{
    (void)s, (void)job, (void)e;
    usleep(100000);
    return IC_OK;
}

static int count_job(ic_store *s, ic_store_job *job, ic_error *e)
{
    (void)e;
    job->tag = (int)ic_store_commits(s);
    return IC_OK;
}

static int run_now(bench *b, ic_store_job_fn *run)
{
    ic_store_job *job = ic_mail_new(IC_MAIL_STORE_JOB, sizeof *job, NULL);
    job->run = run;
    job->reply = b->reply;
    ic_port_send(&b->out, b->to, &job);
    job = receive(b);
    assert_non_null(job);
    int tag = job->tag;
    ic_mail_discard((ic_mail **)&job);
    return tag;
}

/* Appends that wait share a commit, and come back in order with rising numbers. */
static void waiting_appends_share_a_commit(void **state)
{
    (void)state;
    enum { JOBS = 50 };
    bench b;
    open_bench(&b, "group");
    int before = run_now(&b, count_job);
    ic_store_job *hold = ic_mail_new(IC_MAIL_STORE_JOB, sizeof *hold, NULL);
    hold->run = sleep_job;
    ic_port_send(&b.out, b.to, &hold);
    for (int i = 0; i < JOBS; i++) {
        ic_job_write *w = record_job(&b, "x", i);
        ic_port_send(&b.out, b.to, &w);
    }
    for (int i = 0; i < JOBS; i++) {
        ic_job_write *w = (ic_job_write *)receive(&b);
        assert_non_null(w);
        assert_int_equal(w->job.rc, IC_OK);
        assert_int_equal(w->job.tag, i);
        assert_int_equal(w->ops[0].number, i + 1);
        ic_mail_discard((ic_mail **)&w);
    }
    int after = run_now(&b, count_job);
    assert_true(after > before);
    assert_true(after - before <= JOBS / 10);
    close_bench(&b);
}

/* One bad job among good ones fails alone: the others are written as if it had not been there. */
static void a_bad_job_fails_alone(void **state)
{
    (void)state;
    bench b;
    open_bench(&b, "alone");
    ic_store_job *hold = ic_mail_new(IC_MAIL_STORE_JOB, sizeof *hold, NULL);
    hold->run = sleep_job;
    ic_port_send(&b.out, b.to, &hold);
    for (int i = 0; i < 3; i++) {
        ic_job_write *w = record_job(&b, "y", i);
        if (i == 1)
            snprintf(w->session, sizeof w->session, "no such session");
        ic_port_send(&b.out, b.to, &w);
    }
    for (int i = 0; i < 3; i++) {
        ic_job_write *w = (ic_job_write *)receive(&b);
        assert_non_null(w);
        assert_int_equal(w->job.tag, i);
        assert_int_equal(w->job.rc, i == 1 ? IC_ENOTFOUND : IC_OK);
        if (i != 1)
            assert_int_equal(w->ops[0].number, i == 0 ? 1 : 2);
        ic_mail_discard((ic_mail **)&w);
    }
    close_bench(&b);
}

/* New entries of the ledger that shared a transaction with a bad job are new entries still when
 * they are written without it, and one that is there already is changed, not made twice. */
static void a_bad_job_leaves_ledger_entries_new(void **state)
{
    (void)state;
    bench b;
    open_bench(&b, "ledger");
    ic_store_job *hold = ic_mail_new(IC_MAIL_STORE_JOB, sizeof *hold, NULL);
    hold->run = sleep_job;
    ic_port_send(&b.out, b.to, &hold);
    for (int i = 0; i < 4; i++) {
        ic_job_write *w = ic_job_write_new(b.session, b.reply, i);
        ic_write_op *op = ic_job_write_add(w, IC_WRITE_MEDIA);
        op->media = (ic_store_media){.number = i == 3 ? 1 : 0, .kind = 1, .bytes = 10 + i};
        ic_buf_append(&op->bytes, "clip", 4);
        if (i == 1)
            snprintf(w->session, sizeof w->session, "no such session");
        ic_port_send(&b.out, b.to, &w);
    }
    static const int64_t number[] = {1, 0, 2, 1};
    for (int i = 0; i < 4; i++) {
        ic_job_write *w = (ic_job_write *)receive(&b);
        assert_non_null(w);
        assert_int_equal(w->job.tag, i);
        if (i != 1)
            ic_assert_ok(w->job.rc, &w->job.error);
        assert_int_equal(w->job.rc, i == 1 ? IC_ENOTFOUND : IC_OK);
        assert_int_equal(w->ops[0].number, number[i]);
        ic_mail_discard((ic_mail **)&w);
    }
    close_bench(&b);
}

/* A repeated key writes nothing of its job; looking a key up records nothing. */
static void a_known_key_writes_nothing(void **state)
{
    (void)state;
    bench b;
    open_bench(&b, "keys");
    uint8_t key[IC_STORE_KEY_BYTES] = {9}, content[IC_STORE_KEY_BYTES] = {8};
    for (int round = 0; round < 3; round++) {
        if (round == 0) {
            ic_mail_request *q = new_request(IC_WIRE_ASK);
            memcpy(q->content, content, sizeof content);
            ic_wire_id id;
            memcpy(id.bytes, key, sizeof key);
            ic_job_lookup *l = ic_job_lookup_new(&q, &id, b.reply, 0);
            ic_port_send(&b.out, b.to, &l);
            l = (ic_job_lookup *)receive(&b);
            assert_int_equal(l->job.rc, IC_OK);
            assert_int_equal(l->verdict, IC_STORE_NEW);
            ic_mail_discard((ic_mail **)&l);
        }
        ic_job_write *w = ic_job_write_new(b.session, b.reply, round);
        ic_write_op *op = ic_job_write_add(w, IC_WRITE_ADMIT);
        memcpy(op->key, key, sizeof key);
        memcpy(op->content, content, sizeof content);
        op->content[0] = round == 2 ? 1 : content[0];
        op = ic_job_write_add(w, IC_WRITE_JOURNAL);
        op->kind = 1;
        ic_buf_append(&op->bytes, "z", 1);
        ic_port_send(&b.out, b.to, &w);
        w = (ic_job_write *)receive(&b);
        assert_int_equal(w->job.rc, IC_OK);
        static const ic_store_verdict expected[] = {IC_STORE_NEW, IC_STORE_SAME, IC_STORE_CONFLICT};
        assert_int_equal(w->verdict, expected[round]);
        assert_int_equal(w->ops[1].number, round ? 0 : 1);
        ic_mail_discard((ic_mail **)&w);
    }
    close_bench(&b);
}

/* A store that cannot be opened is told in the start verdict. */
static void a_store_in_use_is_told(void **state)
{
    (void)state;
    bench b;
    open_bench(&b, "busy");
    ic_actor *second = NULL;
    ic_error e = {0};
    assert_int_equal(ic_actor_start(&second, "second", ic_store_actor_run, &b.args, 10000, &e),
                     IC_EBUSY);
    assert_non_null(strstr(e.text, b.path));
    close_bench(&b);
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
        cmocka_unit_test(waiting_appends_share_a_commit),
        cmocka_unit_test(a_bad_job_fails_alone),
        cmocka_unit_test(a_bad_job_leaves_ledger_entries_new),
        cmocka_unit_test(a_known_key_writes_nothing),
        cmocka_unit_test(a_store_in_use_is_told),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
