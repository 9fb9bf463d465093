#include "kernels/cpu/ic_cpu_pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "base/ic_mem.h"

/* How long a thread looks for the next job before it sleeps: longer than the gap between two
 * operations of a layer, far shorter than anybody notices. */
enum { SPIN_NS = 30 * 1000, SPINS_PER_LOOK = 64 };

typedef struct worker {
    struct ic_cpu_pool *pool;
    pthread_t thread;
    int index;
} worker;

struct ic_cpu_pool {
    int threads; /* with the caller */
    int started; /* worker threads that exist */
    worker *workers;

    /* The job. `ticket` is the job's number in the upper half and its next task in the lower. A
     * worker reads ticket, then the job, then takes the task by compare-and-swap: if that succeeds
     * the job it read was the ticket's, since a job is replaced only after all its taken tasks
     * ended and with a new number. */
    _Atomic uint64_t ticket;
    _Atomic(ic_cpu_task_fn) fn;
    _Atomic(void *) job;
    atomic_int count;
    atomic_int ended;

    pthread_mutex_t lock; /* guards the sleep of both sides */
    pthread_cond_t work, done;
    int sleepers;
    bool caller_sleeps;
    atomic_bool stop;
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool has_task(ic_cpu_pool *p, uint64_t *ticket)
{
    *ticket = atomic_load(&p->ticket);
    return (int)(uint32_t)*ticket < atomic_load_explicit(&p->count, memory_order_acquire);
}

/* Takes tasks until none is left. */
static void work_off(ic_cpu_pool *p, int index)
{
    uint64_t ticket;
    while (has_task(p, &ticket)) {
        ic_cpu_task_fn fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
        void *job = atomic_load_explicit(&p->job, memory_order_relaxed);
        int count = atomic_load_explicit(&p->count, memory_order_relaxed);
        if (!atomic_compare_exchange_strong(&p->ticket, &ticket, ticket + 1))
            continue;
        fn(job, (int)(uint32_t)ticket, index);
        if (atomic_fetch_add(&p->ended, 1) + 1 < count)
            continue;
        pthread_mutex_lock(&p->lock);
        if (p->caller_sleeps)
            pthread_cond_signal(&p->done);
        pthread_mutex_unlock(&p->lock);
    }
}

static bool wait_for_work(ic_cpu_pool *p)
{
    uint64_t ticket;
    int64_t until = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (has_task(p, &ticket) || atomic_load_explicit(&p->stop, memory_order_relaxed))
                return !atomic_load(&p->stop);
            relax();
        }
    } while (now_ns() < until);
    pthread_mutex_lock(&p->lock);
    p->sleepers++;
    while (!has_task(p, &ticket) && !atomic_load(&p->stop))
        pthread_cond_wait(&p->work, &p->lock);
    p->sleepers--;
    pthread_mutex_unlock(&p->lock);
    return !atomic_load(&p->stop);
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    while (wait_for_work(w->pool))
        work_off(w->pool, w->index);
    return NULL;
}

int ic_cpu_pool_new(ic_cpu_pool **out, int threads, ic_error *e)
{
    *out = NULL;
    ic_cpu_pool *p = ic_alloc(sizeof *p);
    p->threads = threads;
    p->workers = ic_calloc((size_t)threads, sizeof *p->workers);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    /* Signals are main's business: no worker takes one. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = 0;
    for (int i = 1; i < threads && rc == 0; i++) {
        worker *w = &p->workers[p->started];
        *w = (worker){.pool = p, .index = i};
        rc = pthread_create(&w->thread, NULL, worker_main, w);
        p->started += rc == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        ic_cpu_pool_destroy(&p);
        return ic_error_set(e, IC_ELIMIT, "cannot start %d compute threads: %s", threads,
                            strerror(rc));
    }
    *out = p;
    return 0;
}

void ic_cpu_pool_destroy(ic_cpu_pool **p_p)
{
    ic_cpu_pool *p = *p_p;
    *p_p = NULL;
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->started; i++)
        pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
    ic_free(p->workers);
    ic_free(p);
}

int ic_cpu_pool_threads(const ic_cpu_pool *p)
{
    return p->threads;
}

/* The caller took what it could; the rest is with workers, perhaps on a core that is busy. */
static void wait_for_end(ic_cpu_pool *p, int count)
{
    int64_t until = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (atomic_load(&p->ended) == count)
                return;
            relax();
        }
    } while (now_ns() < until);
    pthread_mutex_lock(&p->lock);
    p->caller_sleeps = true;
    while (atomic_load(&p->ended) < count)
        pthread_cond_wait(&p->done, &p->lock);
    p->caller_sleeps = false;
    pthread_mutex_unlock(&p->lock);
}

void ic_cpu_pool_run(ic_cpu_pool *p, ic_cpu_task_fn fn, void *job, int count)
{
    if (p->started == 0 || count <= 1) {
        for (int i = 0; i < count; i++)
            fn(job, i, 0);
        return;
    }
    /* Old tickets must find no task while the job changes: count 0, then the new number. */
    atomic_store(&p->count, 0);
    uint64_t number = (atomic_load(&p->ticket) >> 32) + 1;
    atomic_store(&p->ticket, number << 32);
    atomic_store(&p->fn, fn);
    atomic_store(&p->job, job);
    atomic_store(&p->ended, 0);
    atomic_store(&p->count, count);
    pthread_mutex_lock(&p->lock);
    if (p->sleepers > 0)
        pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    work_off(p, 0);
    wait_for_end(p, count);
}
