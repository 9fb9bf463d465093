/* ic_mem: the two ways to allocate.
 *
 * ic_alloc and friends are for small, bounded things: they abort with a message when memory is out,
 * because an untested recovery is worse than none. ic_try_alloc is for everything whose size a
 * peer, a file or a model decides: it returns NULL, the caller returns IC_ENOMEM, and a fault loop
 * tests that path. Every live block is counted, so that tests can require that nothing leaks.
 * Thread-safe.
 */
#ifndef IC_MEM_H
#define IC_MEM_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed. Aborts when out of memory. Caller owns; release with ic_free. */
void *ic_alloc(size_t bytes) __attribute__((malloc, returns_nonnull));
void *ic_calloc(size_t count, size_t size) __attribute__((malloc, returns_nonnull));
/* Grows or shrinks; new bytes are not zeroed. Aborts when out of memory. */
void *ic_realloc(void *block, size_t bytes) __attribute__((returns_nonnull));
char *ic_strdup(const char *text) __attribute__((malloc, returns_nonnull));
/* printf into a new string. Caller owns. */
char *ic_strf(const char *fmt, ...) __attribute__((format(printf, 1, 2), malloc, returns_nonnull));

/* Not zeroed. NULL when out of memory, on overflow, or when a test asked for a failure. Caller
 * owns; ic_free. */
void *ic_try_alloc(size_t bytes) __attribute__((malloc));
void *ic_try_calloc(size_t count, size_t size) __attribute__((malloc));

/* 64-byte aligned, zeroed and touched (prefaulted), for slabs and weights. NULL when out of memory.
 * Release with ic_free. */
void *ic_try_alloc_aligned(size_t bytes) __attribute__((malloc));

/* Releases a block of any function above. NULL is fine. */
void ic_free(void *block);

/* A server's policy, once, before its threads: what is large goes back to the system when it is
 * freed, whatever was freed before it. Without this call the C library's own policy stands. */
void ic_mem_setup(void);

/* Blocks alive now: for leak checks in tests. */
int64_t ic_mem_live(void);

/* For tests: let the n-th ic_try_* from now fail (1 = the next); persistent: and every one after
 * it. 0 switches off. */
void ic_mem_fail_after(int64_t n, int persistent);

#endif
