/* ic_stream_clock: when a session's frame groups were shown, in bounded room: the times of every
 * stride-th group, and more rarely as they become many. Time runs as the sources' clocks do; a
 * source that begins earlier than the last one ended goes behind it. Plain data; copied freely.
 */
#ifndef IC_STREAM_CLOCK_H
#define IC_STREAM_CLOCK_H

#include <stdbool.h>

#include "base/ic_buf.h"

enum { IC_CLOCK_KNOTS = 256 };

typedef struct ic_clock_knot {
    uint32_t group;
    int64_t at_us;
} ic_clock_knot;

typedef struct ic_stream_clock {
    int64_t base_us, last_us; /* of the newest group: their sum */
    uint32_t stride;          /* a power of two */
    int count;
    ic_clock_knot knot[IC_CLOCK_KNOTS];
} ic_stream_clock;

/* Group number `group` (from 1) is shown at pts_us of its source. */
void ic_stream_clock_note(ic_stream_clock *c, uint32_t group, int64_t pts_us);
/* When a group was shown, of `groups` so far: between two knots in proportion. There must be some.
 */
int64_t ic_stream_clock_time(const ic_stream_clock *c, uint32_t groups, uint32_t group);
int ic_stream_clock_save(const ic_stream_clock *c, ic_buf *out);
bool ic_stream_clock_load(ic_stream_clock *c, ic_cursor *in); /* false: damaged */

#endif
