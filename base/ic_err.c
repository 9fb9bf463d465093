#include "base/ic_err.h"

#include <stdio.h>
#include <string.h>

int ic_error_set(ic_error *e, int code, const char *fmt, ...)
{
    if (e) {
        va_list args;
        va_start(args, fmt);
        e->code = code;
        vsnprintf(e->text, sizeof e->text, fmt, args);
        va_end(args);
    }
    return code;
}

int ic_error_prefix(ic_error *e, int code, const char *fmt, ...)
{
    if (!e)
        return code;
    char head[IC_ERROR_TEXT];
    char whole[2 * IC_ERROR_TEXT + 3];
    va_list args;
    va_start(args, fmt);
    vsnprintf(head, sizeof head, fmt, args);
    va_end(args);
    snprintf(whole, sizeof whole, "%s: %s", head, e->text);
    memcpy(e->text, whole, sizeof e->text);
    e->text[sizeof e->text - 1] = '\0';
    if (e->code == IC_OK)
        e->code = code;
    return e->code;
}

const char *ic_err_name(int code)
{
    static const char *const names[] = {"OK",     "INVAL",    "NOMEM",    "IO",         "AGAIN",
                                        "CLOSED", "TIMEOUT",  "LIMIT",    "FORMAT",     "VERSION",
                                        "DEVICE", "CANCELED", "BUG",      "NOTFOUND",   "EXIST",
                                        "BUSY",   "CONFLICT", "MISMATCH", "UNSUPPORTED"};
    int index = -code;
    if (index < 0 || index >= (int)(sizeof names / sizeof names[0]))
        return "UNKNOWN";
    return names[index];
}
