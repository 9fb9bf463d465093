/* Recorded steps: a step of decode is many short kernels, and starting each by itself leaves gaps.
 * The first time that a step comes it runs as it is, so that all scratch and tables are there; the
 * second time it is captured into a graph; from then on one call starts all of it. See the rules in
 * ic_cuda.h. */
#include "kernels/cuda/ic_cuda.h"

#include <string.h>

#include "kernels/cuda/ic_cuda_slab.h"

enum { STEPS = 64, MAIL_SLACK = 4096 };

typedef enum step_state { STEP_SEEN, STEP_RECORDED, STEP_REFUSED } step_state;

typedef struct step {
    uint64_t key;
    step_state state;
    size_t mail_bytes; /* staged in it */
    cudaGraphExec_t graph;
} step;

struct ic_cuda_steps {
    step steps[STEPS];
    int count, next;  /* next: the one that is forgotten when all places are taken */
    step *now;        /* between begin and end */
    cudaEvent_t done; /* the step that was started last */
    bool captures;
    size_t staged_before;
};

static uint64_t mix(uint64_t key, uint64_t value)
{
    key = (key ^ value) * UINT64_C(0xff51afd7ed558ccd);
    return key ^ (key >> 32);
}

/* All that the step's parameters and grids may depend on. A slab goes by its number: where its
 * memory was, another's may be by now. */
static uint64_t key_of(const ic_slab *const *slabs, int n, uint64_t shape)
{
    uint64_t key = mix(shape, (uint64_t)n);
    for (int i = 0; i < n; i++) {
        const ic_slab *s = slabs[i];
        const uint64_t facts[] = {ic_cuda_slab_number(s),
                                  (uint64_t)s->score_kind << 2 | (s->scores ? 2 : 0) | s->original,
                                  (uint64_t)ic_slab_used(s) / IC_CUDA_COUNT_STEP};
        for (size_t f = 0; f < sizeof facts / sizeof *facts; f++)
            key = mix(key, facts[f]);
    }
    return key;
}

static void forget(step *s)
{
    if (s->graph)
        (void)cudaGraphExecDestroy(s->graph);
    memset(s, 0, sizeof *s);
}

static step *find(struct ic_cuda_steps *steps, uint64_t key)
{
    for (int i = 0; i < steps->count; i++)
        if (steps->steps[i].key == key)
            return &steps->steps[i];
    return NULL;
}

static void learn(struct ic_cuda_steps *steps, uint64_t key)
{
    int at = steps->count < STEPS ? steps->count++ : steps->next++ % STEPS;
    forget(&steps->steps[at]);
    steps->steps[at].key = key;
    steps->now = &steps->steps[at];
}

static void enter(ic_cuda_device *d, bool replays)
{
    d->in_step = true;
    d->replays = replays;
    d->step_mail.at = 0;
}

static void leave(ic_cuda_device *d)
{
    d->in_step = d->replays = d->steps->captures = false;
    d->steps->now = NULL;
}

/* One copy brings all that the step stages: its bytes are known from the first time. */
static int begin_capture(ic_cuda_device *d, step *s)
{
    if (cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeRelaxed) != cudaSuccess) {
        (void)cudaGetLastError();
        s->state = STEP_REFUSED;
        return 0;
    }
    d->steps->captures = true;
    enter(d, false);
    IC_CUDA_TRY(d, cudaMemcpyAsync(d->step_mail.device, d->step_mail.host, s->mail_bytes,
                                   cudaMemcpyHostToDevice, d->stream));
    return 0;
}

int ic_cuda_step_begin(ic_device *base, const ic_slab *const *slabs, int n, uint64_t shape)
{
    ic_cuda_device *d = ic_cuda_of(base);
    if (!d->steps)
        d->steps = (struct ic_cuda_steps *)ic_alloc(sizeof *d->steps);
    if (!d->steps->done)
        IC_CUDA_TRY(d, cudaEventCreateWithFlags(&d->steps->done, cudaEventDisableTiming));
    IC_ASSERT(!d->steps->now);
    /* The last step's mail has been read. */
    int rc = ic_cuda_check(d, cudaEventSynchronize(d->steps->done), "a step");
    for (int i = 0; rc == 0 && i < n; i++) {
        ic_cuda_view view; /* brings over what the host has changed, before anything is recorded */
        rc = ic_cuda_slab_view(slabs[i], -1, &view);
    }
    if (rc)
        return rc;
    uint64_t key = key_of(slabs, n, shape);
    d->steps->now = find(d->steps, key);
    d->steps->staged_before = d->staged_bytes;
    if (!d->steps->now) {
        learn(d->steps, key);
    } else if (d->steps->now->state == STEP_RECORDED) {
        enter(d, true);
    } else if (d->steps->now->state == STEP_SEEN) {
        rc = begin_capture(d, d->steps->now);
        rc = rc ? ic_cuda_step_end(base, rc) : 0; /* who is told that it failed ends nothing */
    }
    return rc;
}

static int start(ic_cuda_device *d, const step *s)
{
    IC_CUDA_TRY(d, cudaGraphLaunch(s->graph, d->stream));
    IC_CUDA_TRY(d, cudaEventRecord(d->steps->done, d->stream));
    return 0;
}

/* What was captured becomes a graph that can be started. Refused: it runs as it is from now on. */
static int end_capture(ic_cuda_device *d, step *s, int failed)
{
    cudaGraph_t graph = NULL;
    cudaError_t code = cudaStreamEndCapture(d->stream, &graph);
    s->state = STEP_REFUSED;
    if (code == cudaSuccess && failed == 0)
        code = cudaGraphInstantiate(&s->graph, graph, 0);
    if (graph)
        (void)cudaGraphDestroy(graph);
    if (failed || code != cudaSuccess)
        return failed ? failed : ic_cuda_check(d, code, "recording a step");
    s->state = STEP_RECORDED;
    return start(d, s);
}

int ic_cuda_step_end(ic_device *base, int rc)
{
    ic_cuda_device *d = ic_cuda_of(base);
    struct ic_cuda_steps *steps = d->steps;
    step *s = steps ? steps->now : NULL;
    if (!s)
        return rc;
    ic_cuda_busy = true;
    if (steps->captures) {
        rc = end_capture(d, s, rc);
    } else if (d->replays) {
        if (rc == 0)
            rc = start(d, s);
    } else if (s->state == STEP_SEEN) {
        s->mail_bytes = d->staged_bytes - steps->staged_before + MAIL_SLACK;
        if (s->mail_bytes > d->step_mail.bytes)
            s->state = STEP_REFUSED;
    }
    leave(d);
    return rc;
}

void ic_cuda_step_forget(ic_cuda_device *d)
{
    for (int i = 0; d->steps && i < d->steps->count; i++)
        forget(&d->steps->steps[i]);
    if (!d->steps)
        return;
    d->steps->count = d->steps->next = 0;
    d->steps->now = NULL; /* a step that makes scratch grow is a first one, and is learnt again */
}

void ic_cuda_step_close(ic_cuda_device *d)
{
    ic_cuda_step_forget(d);
    if (d->steps && d->steps->done)
        (void)cudaEventDestroy(d->steps->done);
    ic_free(d->steps);
}
