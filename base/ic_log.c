#include "base/ic_log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/ic_clock.h"

static const char *const level_names[] = {"error", "warn", "info", "debug", "trace"};
static atomic_int threshold = IC_LOG_INFO;
static atomic_bool content_wanted;
static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER; /* keeps lines whole */

void ic_log_set_level(ic_log_level level)
{
    atomic_store(&threshold, (int)level);
}

void ic_log_set_content(bool wanted)
{
    atomic_store(&content_wanted, wanted);
}

bool ic_log_wants_content(void)
{
    return atomic_load(&content_wanted);
}

int ic_log_level_parse(const char *name)
{
    for (int i = 0; i <= IC_LOG_TRACE; i++) {
        if (strcmp(name, level_names[i]) == 0)
            return i;
    }
    return -1;
}

void ic_log(ic_log_level level, const char *component, const char *fmt, ...)
{
    if ((int)level > atomic_load_explicit(&threshold, memory_order_relaxed))
        return;
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    for (char *c = text; *c; c++) { /* one event, one line, whatever a peer put into a name */
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = ' ';
    }
    int64_t now_us = ic_clock_wall_us();
    time_t seconds = (time_t)(now_us / 1000000);
    struct tm utc;
    char stamp[32];
    gmtime_r(&seconds, &utc);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    pthread_mutex_lock(&sink_lock);
    fprintf(stderr, "%s.%03dZ %-5s %s: %s\n", stamp, (int)(now_us / 1000 % 1000),
            level_names[level], component, text);
    pthread_mutex_unlock(&sink_lock);
}
