/* ic_failpoint: named instants at which a process dies if it was told to, for the crash campaign
 * (tests/crash). They are in every build; one that is not armed costs the test of a bool.
 *
 * Armed once, before the first thread is started; afterwards any thread may pass. */
#ifndef IC_FAILPOINT_H
#define IC_FAILPOINT_H

#include <stdbool.h>

#include "base/ic_err.h"

typedef enum ic_failpoint_name {
#define IC_FAILPOINT(name, where) IC_FAIL_##name,
#include "base/ic_failpoint.def"
#undef IC_FAILPOINT
    IC_FAILPOINTS
} ic_failpoint_name;

/* text: "NAME:N": the process ends by SIGKILL when this instant is reached for the N-th time, after
 * one line on stderr. IC_EINVAL: no such instant, or no such number. */
IC_MUST_CHECK int ic_failpoint_arm(const char *text, ic_error *e);

extern bool ic_failpoint_armed; /* private */
void ic_failpoint_pass(ic_failpoint_name name);

static inline void ic_failpoint(ic_failpoint_name name)
{
    if (ic_failpoint_armed)
        ic_failpoint_pass(name);
}

#endif
