#include "base/ic_clock.h"

#include <stdatomic.h>
#include <time.h>

static atomic_int faked;
static atomic_int_fast64_t fake_mono, fake_wall;

static int64_t read_clock(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t ic_clock_mono_us(void)
{
    return atomic_load(&faked) ? atomic_load(&fake_mono) : read_clock(CLOCK_MONOTONIC);
}

int64_t ic_clock_wall_us(void)
{
    return atomic_load(&faked) ? atomic_load(&fake_wall) : read_clock(CLOCK_REALTIME);
}

void ic_clock_fake(int64_t mono_us, int64_t wall_us)
{
    atomic_store(&fake_mono, mono_us);
    atomic_store(&fake_wall, wall_us);
    atomic_store(&faked, 1);
}

void ic_clock_fake_off(void)
{
    atomic_store(&faked, 0);
}
