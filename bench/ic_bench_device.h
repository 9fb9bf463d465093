/* ic_bench_device: the figures of a device with memory of its own (infchat-bench engine --device).
 */
#ifndef IC_BENCH_DEVICE_H
#define IC_BENCH_DEVICE_H

#include <stdbool.h>

#include "base/ic_err.h"

/* Prints the table, or a JSON object per line. `seconds` per figure. Errors: of the device, or a
 * shape that is not known. */
int ic_bench_device(const char *kind, const char *shape, double seconds, bool json, ic_error *e);

#endif
