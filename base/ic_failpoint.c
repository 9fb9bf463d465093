#include "base/ic_failpoint.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_log.h"

static const char *const names[IC_FAILPOINTS] = {
#define IC_FAILPOINT(name, where) #name,
#include "base/ic_failpoint.def"
#undef IC_FAILPOINT
};

bool ic_failpoint_armed;
static ic_failpoint_name armed_name;
static atomic_long left;

int ic_failpoint_arm(const char *text, ic_error *e)
{
    const char *colon = strchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : strlen(text);
    char *end = "";
    long count = colon ? strtol(colon + 1, &end, 10) : 0;
    for (int i = 0; i < IC_FAILPOINTS && count > 0 && !*end; i++) {
        if (strlen(names[i]) == length && memcmp(names[i], text, length) == 0) {
            armed_name = (ic_failpoint_name)i;
            atomic_store(&left, count);
            ic_failpoint_armed = true;
            return IC_OK;
        }
    }
    return ic_error_set(e, IC_EINVAL,
                        "failpoint \"%.60s\": NAME:N is wanted, of a name that "
                        "base/ic_failpoint.def lists",
                        text);
}

void ic_failpoint_pass(ic_failpoint_name name)
{
    if (name != armed_name || atomic_fetch_sub(&left, 1) != 1)
        return;
    ic_log_error("failpoint", "%s: the end", names[name]);
    raise(SIGKILL);
}
