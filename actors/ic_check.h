/* ic_check: infchatd --check-store: what is stored is read and verified, without a server. */
#ifndef IC_CHECK_H
#define IC_CHECK_H

#include <stdio.h>

#include "base/ic_err.h"

/* Opens the store as the server would, reads all of it, and prints a line for each session and
 * mark. IC_OK: everything is well; IC_EFORMAT: something is damaged, which was printed; else why
 * the store cannot be checked. */
IC_MUST_CHECK int ic_check_store(const char *path, FILE *out, ic_error *e);

#endif
