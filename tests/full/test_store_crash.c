/* session_store under SIGKILL: a child works on a store and acknowledges each step through a pipe;
 * it is killed at random instants; what it acknowledged must be there once, what it did not must be
 * there whole or not at all. IC_NEEDS_SERVER */
#include "ic_test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/ic_mem.h"
#include "session_store/ic_store.h"

enum { SEGMENTS_MAX = 12, SEGMENT_BYTES = 90000, KILLS = 40 };

/* What the child has been told is durable. */
struct acknowledged {
    int64_t journal, events, checkpoints, turns;
};

static char path[300];
static uint64_t random_state = 88172645463325252u;

/* The workload leaves by this when anything is refused: the parent sees the exit status. */
static void must(int rc, const ic_error *e)
{
    if (rc == 0)
        return;
    fprintf(stderr, "child: %s\n", e->text);
    _exit(3);
}

static void append_some(ic_store *s, const char *id, struct acknowledged *told)
{
    ic_error e = {0};
    char text[32];
    int64_t number = 0, event = 0;
    bool batch = ic_test_draw(&random_state, 4) > 0;
    int count = batch ? 1 + (int)ic_test_draw(&random_state, 20) : 1;
    if (batch)
        must(ic_store_batch_begin(s, &e), &e);
    for (int i = 0; i < count; i++) {
        int size = snprintf(text, sizeof text, "record %lld", (long long)told->journal + i + 1);
        must(ic_store_journal_append(s, id, 1, 1, NULL, text, (size_t)size, &number, &e), &e);
        if (batch)
            must(ic_store_event_append(s, id, 1, 1, text, (size_t)size, &event, &e), &e);
    }
    if (batch)
        must(ic_store_batch_commit(s, &e), &e);
    told->journal = number;
    told->events = event ? event : told->events;
}

/* One checkpoint: keeps some of the former segments, adds some. Its state lists the seeds. */
static void checkpoint(ic_store *s, const char *id, struct acknowledged *told)
{
    static uint8_t bytes[SEGMENT_BYTES];
    ic_error e = {0};
    ic_store_segment segments[SEGMENTS_MAX];
    int64_t seeds[SEGMENTS_MAX];
    size_t count = 0;
    ic_store_reader *r = NULL;
    if (told->checkpoints > 0) {
        must(ic_store_checkpoint_open(s, id, &r, &e), &e);
        const ic_store_manifest *m = ic_store_checkpoint_manifest(r);
        for (size_t i = 0; i < m->segment_count && count < SEGMENTS_MAX - 3; i++)
            if (ic_test_draw(&random_state, 3) > 0) {
                segments[count] = m->segments[i];
                memcpy(&seeds[count++], (const int64_t *)m->state + i, sizeof seeds[0]);
            }
        ic_store_checkpoint_close(&r);
    }
    ic_store_writer *w = NULL;
    must(ic_store_checkpoint_begin(s, id, &w, &e), &e);
    for (unsigned i = 0, more = 1 + ic_test_draw(&random_state, 3); i < more; i++) {
        seeds[count] = told->checkpoints * 10 + i;
        ic_test_noise(bytes, SEGMENT_BYTES, seeds[count]);
        must(ic_store_checkpoint_segment(w, 1, bytes, sizeof bytes, &segments[count++], &e), &e);
    }
    if (ic_test_draw(&random_state, 8) == 0) {
        ic_store_checkpoint_abort(&w);
        return;
    }
    ic_store_manifest m = {.meaning = "m",
                           .meaning_bytes = 1,
                           .numerics = "n",
                           .time_us = told->checkpoints + 1,
                           .journal_seq = told->journal,
                           .state = seeds,
                           .state_bytes = count * sizeof seeds[0],
                           .segments = segments,
                           .segment_count = count};
    must(ic_store_checkpoint_finish(&w, &m, &e), &e);
    told->checkpoints++;
}

static void say_turn(ic_store *s, const char *id, struct acknowledged *told)
{
    ic_error e = {0};
    ic_store_turn turn = {.role = IC_STORE_USER, .text = "hello", .text_bytes = 5};
    must(ic_store_turn_append(s, id, &turn, &told->turns, &e), &e);
}

/* Somebody else's session, made and deleted, so that pages move under the one that is watched. */
static void disturb(ic_store *s)
{
    ic_error e = {0};
    char id[IC_STORE_ID_CHARS + 1];
    bool more = true;
    static const uint8_t bytes[200000];
    must(ic_store_session_create(s, "other", "", 1, 1, "", 0, id, &e), &e);
    must(ic_store_journal_append(s, id, 1, 1, NULL, bytes, sizeof bytes, NULL, &e), &e);
    must(ic_store_session_delete(s, id, &e), &e);
    must(ic_store_maintain(s, &more, &e), &e);
}

static void work(const char *id, struct acknowledged told, int pipe_fd)
{
    ic_error e = {0};
    ic_store *s = NULL;
    must(ic_store_open(&s, &(ic_store_config){.path = path}, &e), &e);
    for (;;) {
        switch (ic_test_draw(&random_state, 8)) {
        case 0:
        case 1:
            checkpoint(s, id, &told);
            break;
        case 2:
            disturb(s);
            break;
        case 3:
            say_turn(s, id, &told);
            break;
        default:
            append_some(s, id, &told);
        }
        if (write(pipe_fd, &told, sizeof told) != (ssize_t)sizeof told)
            _exit(4);
    }
}

static int check_record(void *arg, const ic_store_record *r)
{
    char text[32];
    int size = snprintf(text, sizeof text, "record %lld", (long long)r->number);
    assert_int_equal(r->size, size);
    assert_memory_equal(r->bytes, text, r->size);
    *(int64_t *)arg = r->number;
    return 0;
}

/* Events carry the text of their journal record; here only their number and form matter. */
static int check_event(void *arg, const ic_store_record *r)
{
    assert_memory_equal(r->bytes, "record ", 7);
    *(int64_t *)arg = r->number;
    return 0;
}

static int count_turn(void *arg, const ic_store_turn *turn)
{
    *(int64_t *)arg = turn->number;
    return 0;
}

static void check_checkpoint(ic_store *s, const char *id, const struct acknowledged *told,
                             struct acknowledged *found)
{
    static uint8_t got[SEGMENT_BYTES], expected[SEGMENT_BYTES];
    ic_error e = {0};
    ic_store_reader *r = NULL;
    if (ic_store_checkpoint_open(s, id, &r, &e) == IC_ENOTFOUND) {
        assert_int_equal(told->checkpoints, 0);
        return;
    }
    ic_assert_ok(r ? 0 : -1, &e);
    const ic_store_manifest *m = ic_store_checkpoint_manifest(r);
    found->checkpoints = m->time_us;
    for (size_t i = 0; i < m->segment_count; i++) {
        int64_t seed;
        memcpy(&seed, (const int64_t *)m->state + i, sizeof seed);
        ic_assert_ok(ic_store_checkpoint_read(r, i, got, &e), &e);
        ic_test_noise(expected, SEGMENT_BYTES, seed);
        assert_memory_equal(got, expected, sizeof got);
    }
    ic_store_checkpoint_close(&r);
}

/* Opens what the kill left and holds it against what was acknowledged; found gets what is there. */
static void check_store(const char *id, const struct acknowledged *told, struct acknowledged *found,
                        bool thorough)
{
    ic_error e = {0};
    ic_store *s = NULL;
    ic_store_session session;
    ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = path}, &e), &e);
    ic_assert_ok(ic_store_session_get(s, id, &session, &e), &e);
    *found = (struct acknowledged){.journal = session.journal_first - 1};
    ic_assert_ok(ic_store_journal_read(s, id, 0, check_record, &found->journal, &e), &e);
    ic_assert_ok(ic_store_event_read(s, id, 0, check_event, &found->events, &e), &e);
    ic_assert_ok(ic_store_turn_read(s, id, 0, count_turn, &found->turns, &e), &e);
    check_checkpoint(s, id, told, found);
    assert_in_range(found->journal, told->journal, told->journal + 20);
    assert_in_range(found->events, told->events, told->events + 20);
    assert_in_range(found->checkpoints, told->checkpoints, told->checkpoints + 1);
    assert_in_range(found->turns, told->turns, told->turns + 1);
    assert_true(session.journal_first <= session.journal_next);
    if (thorough)
        ic_assert_ok(ic_store_check(s, &e), &e);
    ic_store_close(&s);
}

/* Runs the workload for some steps and a random while, kills it, and returns the last thing it
 * acknowledged. Steps are waited for, so that a slow machine gets as far as a quick one. */
static struct acknowledged run_and_kill(const char *id, struct acknowledged told, int *steps)
{
    int ends[2], status;
    struct acknowledged next;
    assert_int_equal(pipe(ends), 0);
    ic_test_draw(&random_state, 2); /* another course each time */
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        work(id, told, ends[1]);
    }
    close(ends[1]);
    for (unsigned wanted = ic_test_draw(&random_state, 8); wanted > 0; wanted--, ++*steps) {
        assert_int_equal(read(ends[0], &next, sizeof next), sizeof next);
        told = next;
    }
    usleep(ic_test_draw(&random_state, 40000));
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    while (read(ends[0], &next, sizeof next) == (ssize_t)sizeof next) {
        told = next;
        ++*steps;
    }
    close(ends[0]);
    return told;
}

/* Ensures that whatever instant the process dies at, nothing acknowledged is lost, doubled or
 * changed, and the file stays whole. */
static void test_kills(void **state)
{
    (void)state;
    ic_error e = {0};
    ic_store *s = NULL;
    char id[IC_STORE_ID_CHARS + 1];
    int steps = 0;
    snprintf(path, sizeof path, "%s/crash/store.db", ic_test_dir());
    ic_assert_ok(ic_store_open(&s, &(ic_store_config){.path = path}, &e), &e);
    ic_assert_ok(ic_store_session_create(s, "local", "", 1, 1, "", 0, id, &e), &e);
    ic_store_close(&s);
    struct acknowledged told = {0}, found;
    for (int i = 0; i < KILLS; i++) {
        told = run_and_kill(id, told, &steps);
        check_store(id, &told, &found, i % 8 == 7);
        told = found; /* what is there beyond the acknowledgement stays from now on */
    }
    printf("%d kills over %d steps, %lld checkpoints, %lld records\n", KILLS, steps,
           (long long)told.checkpoints, (long long)told.journal);
    assert_true(steps > KILLS && told.checkpoints > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kills)};
    return IC_TEST_RUN(tests);
}
