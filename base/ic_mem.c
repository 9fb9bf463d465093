#include "base/ic_mem.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_assert.h"

static atomic_int_fast64_t live_blocks;
static atomic_int_fast64_t fail_countdown; /* 0: off */
static atomic_int fail_persistent;

static void *counted(void *block)
{
    if (block)
        atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
    return block;
}

static void *counted_or_abort(void *block, size_t bytes)
{
    if (!block) {
        fprintf(stderr, "out of memory: %zu bytes\n", bytes);
        abort();
    }
    return counted(block);
}

static int must_fail(void)
{
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) == 0)
        return 0;
    int_fast64_t left = atomic_fetch_sub(&fail_countdown, 1) - 1;
    if (left > 0)
        return 0;
    if (atomic_load(&fail_persistent))
        atomic_store(&fail_countdown, 1);
    else
        atomic_store(&fail_countdown, 0);
    return 1;
}

void *ic_alloc(size_t bytes)
{
    return counted_or_abort(calloc(1, bytes ? bytes : 1), bytes);
}

void *ic_calloc(size_t count, size_t size)
{
    return counted_or_abort(calloc(count ? count : 1, size ? size : 1), count * size);
}

void *ic_realloc(void *block, size_t bytes)
{
    void *moved = realloc(block, bytes ? bytes : 1);
    if (!moved) {
        fprintf(stderr, "out of memory: %zu bytes\n", bytes);
        abort();
    }
    return block ? moved : counted(moved);
}

char *ic_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    return memcpy(ic_alloc(bytes), text, bytes);
}

char *ic_strf(const char *fmt, ...)
{
    IC_ASSERT(fmt);
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *text = ic_alloc((size_t)(length < 0 ? 0 : length) + 1);
    vsnprintf(text, (size_t)(length < 0 ? 0 : length) + 1, fmt, again);
    va_end(again);
    return text;
}

void *ic_try_alloc(size_t bytes)
{
    return must_fail() ? NULL : counted(malloc(bytes ? bytes : 1));
}

void *ic_try_calloc(size_t count, size_t size)
{
    return must_fail() ? NULL : counted(calloc(count ? count : 1, size ? size : 1));
}

void *ic_try_alloc_aligned(size_t bytes)
{
    if (must_fail() || bytes > SIZE_MAX - 63)
        return NULL;
    size_t rounded = (bytes + 63) & ~(size_t)63;
    void *block = aligned_alloc(64, rounded ? rounded : 64);
    if (block)
        memset(block, 0, rounded); /* touches every page: memory that is promised is there */
    return counted(block);
}

void ic_free(void *block)
{
    if (block)
        atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
    free(block);
}

/* glibc raises its threshold for mapped blocks to the largest that was ever freed, up to 32 MiB.
 * The 2 MiB pieces of a checkpoint and the pictures of a video then come from the arenas of the
 * threads, and whether their memory ever goes back depends on what happens to lie above it: the
 * resident size of a server crept and jumped by chance. Thresholds that are set stand still. */
void ic_mem_setup(void)
{
#ifdef __GLIBC__
    enum { MAPPED = 256 << 10, TRIMMED = 1 << 20 };
    mallopt(M_MMAP_THRESHOLD, MAPPED);
    mallopt(M_TRIM_THRESHOLD, TRIMMED);
#endif
}

int64_t ic_mem_live(void)
{
    return atomic_load(&live_blocks);
}

void ic_mem_fail_after(int64_t n, int persistent)
{
    atomic_store(&fail_persistent, persistent);
    atomic_store(&fail_countdown, n);
}
