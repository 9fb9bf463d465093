/* Instants to die at: only the one that was armed, only when its time has come. */
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ic_test.h"

#include "base/ic_failpoint.h"
#include "base/ic_log.h"

/* How a child ends that arms this and passes two failpoints `times` times. */
static int end_of_child(const char *text, int times)
{
    int status = 0;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        ic_error e = {0};
        ic_log_set_level(IC_LOG_ERROR);
        if (ic_failpoint_arm(text, &e))
            _exit(2);
        for (int i = 0; i < times; i++) {
            ic_failpoint(IC_FAIL_commit_before);
            ic_failpoint(IC_FAIL_commit_after);
        }
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* The N-th passing of the armed name kills; those before it and other names do not. */
static void dies_at_the_nth(void **state)
{
    (void)state;
    assert_int_equal(end_of_child("commit_after:1", 0), 0);
    assert_int_equal(end_of_child("commit_after:1", 1), -SIGKILL);
    assert_int_equal(end_of_child("commit_after:3", 2), 0);
    assert_int_equal(end_of_child("commit_after:3", 3), -SIGKILL);
    assert_int_equal(end_of_child("journal_before:1", 10), 0);
}

/* What is not armed does nothing, and what cannot be armed is refused and named. */
static void refuses_what_is_no_failpoint(void **state)
{
    (void)state;
    static const char *const bad[] = {"",   "commit_after",   "commit_after:", "commit_after:0",
                                      ":1", "commit_after:x", "commit:1",      "commit_after:1x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ic_error e = {0};
        assert_int_equal(ic_failpoint_arm(bad[i], &e), IC_EINVAL);
        assert_non_null(strstr(e.text, "ic_failpoint.def"));
    }
    assert_false(ic_failpoint_armed);
    ic_failpoint(IC_FAIL_commit_after);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dies_at_the_nth),
        cmocka_unit_test(refuses_what_is_no_failpoint),
    };
    return IC_TEST_RUN(tests);
}
