/* A system that refuses the tiles of AMX, which Linux grants on request only. A filter on system
 * calls, in a child, refuses that request; what the child found lies in memory that both see. */
#include <stdio.h>
#include <string.h>

#include "ic_test.h"
#include "ic_test_session.h"
#include "kernels/ic_half.h"
#include "kernels/ic_ops.h"

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* As in ic_cpu_amx.c. */
enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
enum { ROWS = 37, IN = 96, OUT = 130, ANSWER = 8 };

typedef struct products {
    float prefill[ROWS][OUT], decode[ROWS][OUT];
} products;

typedef struct findings {
    int filter_rc, request_rc, request_errno;
    int open_rc;
    char numerics[128];
    int tiles_rc; /* of opening with them by name */
    ic_error tiles_error;
    products computed;
    char engine_numerics[sizeof((ic_engine_info *)0)->numerics];
    int tokens;
} findings;

static int refuse_requests(int error)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, REQUEST_PERMISSION, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof rules / sizeof *rules, .filter = rules};
    int rc = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return rc ? rc : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0);
}

static uint16_t next_number(uint64_t *state)
{
    return ic_f32_to_bf16(((float)ic_test_draw(state, 2001) - 1000.0f) / 1000.0f);
}

static void compute(ic_device *d, products *out)
{
    static uint16_t weights[OUT * IN];
    static float x[ROWS * IN];
    uint64_t state = 7;
    for (int i = 0; i < OUT * IN; i++)
        weights[i] = next_number(&state);
    for (int i = 0; i < ROWS * IN; i++)
        x[i] = ic_bf16_to_f32(next_number(&state));
    ic_weight *w = NULL;
    ic_mat xm = {x, IC_F32, ROWS, IN, IN};
    ic_mat prefill = {out->prefill, IC_F32, ROWS, OUT, OUT};
    ic_mat decode = {out->decode, IC_F32, ROWS, OUT, OUT};
    ic_error e = {0};
    ic_assert_ok(ic_weight_new(&w, d, weights, IC_BF16, IC_BF16, OUT, IN, &e), &e);
    assert_int_equal(ic_op_gemm(d, IC_PREFILL, &xm, w, NULL, false, &prefill), 0);
    assert_int_equal(ic_op_gemm(d, IC_DECODE, &xm, w, NULL, false, &decode), 0);
    ic_weight_destroy(&w);
}

/* What the best device of this process is and gives; instructions NULL: as it comes. */
static int open_and_compute(const char *instructions, char numerics[128], products *out,
                            ic_error *e)
{
    ic_device *d = NULL;
    ic_device_config config = {.kind = "cpu", .threads = 2, .instructions = instructions};
    int rc = ic_device_open(&d, &config, e);
    if (rc)
        return rc;
    snprintf(numerics, 128, "%s", ic_device_info_of(d)->numerics);
    compute(d, out);
    ic_device_close(&d);
    return 0;
}

/* A whole model, too: what runs on tiles besides products of weights would end the process. */
static void answer(findings *f)
{
    ic_error e = {0};
    ic_test_shown shown = {0};
    ic_sampling sampling = ic_test_greedy(ANSWER);
    ic_engine *engine = ic_test_engine("gqa4_untied_bf16", NULL, 2);
    ic_test_engine_never_stop(engine);
    snprintf(f->engine_numerics, sizeof f->engine_numerics, "%s",
             ic_engine_info_of(engine)->numerics);
    ic_session *s = ic_test_session(engine, NULL, 64);
    ic_assert_ok(ic_session_ask(s, "What did you see before all of this began?", &sampling, &e),
                 &e);
    ic_test_steps(engine, s, 100, &shown);
    f->tokens = shown.count;
    ic_session_destroy(&s);
    ic_engine_close(&engine);
}

static void look(findings *f, int error)
{
    f->filter_rc = refuse_requests(error);
    if (f->filter_rc)
        return;
    f->request_rc = (int)syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA);
    f->request_errno = errno;
    products unused;
    f->open_rc = open_and_compute(NULL, f->numerics, &f->computed, NULL);
    f->tiles_rc = open_and_compute("amx-bf16", (char[128]){0}, &unused, &f->tiles_error);
    answer(f);
}

static bool has_tiles(void)
{
    enum { AMX_BF16 = 22, AMX_TILE = 24 };
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> AMX_BF16 & 1 && d >> AMX_TILE & 1;
}

/* What a process finds that is refused the tiles with this error. */
static void look_in_child(findings *f, int error)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        look(f, error);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* Without leave for the tiles the device opens with the vectors of AVX512-BF16, says so, and gives
 * to the bit what a device gives that was opened with these; tiles by name are refused. */
static void a_refusal_leaves_the_vectors(void **state)
{
    (void)state;
    enum { ERRORS = 2 };
    static const int errors[ERRORS] = {EPERM, EINVAL};
    static products vectors;
    if (!has_tiles()) {
        print_message("skipped: this processor has no AMX\n");
        skip();
    }
    findings *f =
        mmap(NULL, ERRORS * sizeof *f, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(f != MAP_FAILED);
    for (int i = 0; i < ERRORS; i++) /* before this process asks: a child inherits what it got */
        look_in_child(&f[i], errors[i]);
    if (f->filter_rc) {
        print_message("skipped: no filter on system calls can be set here\n");
        skip();
    }
    char numerics[128] = "";
    ic_error e = {0};
    ic_assert_ok(open_and_compute("avx512-bf16", numerics, &vectors, &e), &e);
    for (int i = 0; i < ERRORS; i++) {
        assert_int_equal(f[i].request_rc, -1);
        assert_int_equal(f[i].request_errno, errors[i]);
        assert_int_equal(f[i].open_rc, 0);
        assert_non_null(strstr(numerics, "avx512-bf16"));
        assert_string_equal(f[i].numerics, numerics);
        assert_memory_equal(&f[i].computed, &vectors, sizeof vectors);
        assert_int_equal(f[i].tiles_rc, IC_EUNSUPPORTED);
        assert_non_null(strstr(f[i].tiles_error.text, "amx-bf16"));
        assert_non_null(strstr(f[i].engine_numerics, "avx512-bf16"));
        assert_int_equal(f[i].tokens, ANSWER);
    }
    munmap(f, ERRORS * sizeof *f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_refusal_leaves_the_vectors)};
    return IC_TEST_RUN(tests);
}

#else

int main(void)
{
    printf("skipped: AMX is of x86-64, and asked for on Linux\n");
    return IC_TEST_SKIPPED;
}

#endif
