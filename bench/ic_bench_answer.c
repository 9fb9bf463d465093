#include "bench/ic_bench_answer.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

/* Does the phrase stand in the answer as whole words, in any case? */
static bool has_phrase(const char *answer, const char *phrase, size_t length)
{
    for (const char *at = answer; *at; at++) {
        bool begins = at == answer || (!isalnum((unsigned char)at[-1]) && at[-1] != '_');
        if (begins && strncasecmp(at, phrase, length) == 0 && !isalnum((unsigned char)at[length])
            && at[length] != '_')
            return true;
    }
    return false;
}

bool ic_bench_is_right(const char *answer, const char *accept)
{
    bool found = false;
    for (const char *at = accept;; at++) {
        size_t length = strcspn(at, "&|");
        found = found || has_phrase(answer, at, length);
        at += length;
        if (*at != '|' && !found)
            return false;
        if (*at == '\0')
            return found;
        if (*at == '&')
            found = false;
    }
}
