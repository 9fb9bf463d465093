#include "ic_test.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"

static char folder[256];
static int64_t live_before;

int ic_test_group_setup(void **state)
{
    (void)state;
    live_before = ic_mem_live();
    return 0;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info, (void)type, (void)walk;
    return remove(path);
}

int ic_test_group_teardown(void **state)
{
    (void)state;
    if (folder[0])
        nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    folder[0] = '\0';
    if (ic_mem_live() == live_before)
        return 0;
    fprintf(stderr, "%lld blocks leaked\n", (long long)(ic_mem_live() - live_before));
    return -1;
}

const char *ic_test_dir(void)
{
    if (!folder[0]) {
        const char *base = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%s/infchat-test-XXXXXX", base ? base : "/tmp");
        if (!mkdtemp(folder))
            abort();
    }
    return folder;
}

void ic_test_expect_ok(int rc, const ic_error *e, const char *file, int line)
{
    if (rc == 0)
        return;
    fprintf(stderr, "%s:%d: %s: %s\n", file, line, ic_err_name(rc), e ? e->text : "");
    _fail(file, line);
}

static uint64_t shuffle(uint64_t x)
{
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

unsigned ic_test_draw(uint64_t *state, unsigned below)
{
    *state = shuffle(*state);
    return (unsigned)(*state >> 20) % below;
}

void ic_test_noise(void *bytes, size_t size, int64_t seed)
{
    uint64_t x = (uint64_t)seed * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < size; i++) {
        x = shuffle(x);
        ((uint8_t *)bytes)[i] = (uint8_t)x;
    }
}
