/* ic_cpu_pool: persistent threads that work off numbered tasks together with the caller.
 *
 * Which thread takes a task is left to chance, so that a core that is busy elsewhere holds nobody
 * up; results must not depend on it. Idle threads sleep; they spin for some microseconds only
 * right after work, while more is likely. One owner thread calls.
 */
#ifndef IC_CPU_POOL_H
#define IC_CPU_POOL_H

#include "base/ic_err.h"

typedef struct ic_cpu_pool ic_cpu_pool;

/* Runs task `task` of a job; worker is in [0, threads) and names scratch that no other running
 * task uses. */
typedef void (*ic_cpu_task_fn)(void *job, int task, int worker);

IC_MUST_CHECK int ic_cpu_pool_new(ic_cpu_pool **out, int threads, ic_error *e);
void ic_cpu_pool_destroy(ic_cpu_pool **p_p);
int ic_cpu_pool_threads(const ic_cpu_pool *p);

/* Runs tasks 0 .. count - 1 and returns when all have ended. */
void ic_cpu_pool_run(ic_cpu_pool *p, ic_cpu_task_fn fn, void *job, int count);

#endif
