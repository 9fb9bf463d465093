#include "engine/ic_policy.h"

#include <string.h>

static const ic_policy *const policies[] = {&ic_policy_full, &ic_policy_streaming};

const ic_policy *ic_policy_find(const char *name)
{
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        if (strcmp(policies[i]->name, name) == 0)
            return policies[i];
    }
    return NULL;
}

const char *ic_policy_names(void)
{
    return "full, streaming";
}
