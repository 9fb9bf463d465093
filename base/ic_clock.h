/* ic_clock: monotonic and wall time in microseconds; a test can take the hands of the monotonic
 * clock. */
#ifndef IC_CLOCK_H
#define IC_CLOCK_H

#include <stdint.h>

int64_t ic_clock_mono_us(void); /* since an arbitrary start; never goes back */
int64_t ic_clock_wall_us(void); /* since 1970-01-01 UTC */

/* For tests: freezes both clocks at the given values; ic_clock_fake_off lets them run again. */
void ic_clock_fake(int64_t mono_us, int64_t wall_us);
void ic_clock_fake_off(void);

#endif
