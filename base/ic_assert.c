#include "base/ic_assert.h"

#include <stdio.h>
#include <stdlib.h>

void ic_assert_fail(const char *what, const char *file, int line)
{
    fprintf(stderr, "BUG: %s does not hold at %s:%d\n", what, file, line);
    abort();
}
