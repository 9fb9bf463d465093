/* ic_log: one line per event on stderr: time, level, component, text. Thread-safe (the one lock of
 * the house). No prompt text, answer text or file content is logged unless the caller checked
 * ic_log_wants_content(). */
#ifndef IC_LOG_H
#define IC_LOG_H

#include <stdbool.h>

typedef enum ic_log_level {
    IC_LOG_ERROR, /* something was lost or refused because of us or the machine */
    IC_LOG_WARN,  /* degraded, and it goes on */
    IC_LOG_INFO,  /* start, stop, sessions coming and going */
    IC_LOG_DEBUG, /* per request */
    IC_LOG_TRACE  /* per message or frame */
} ic_log_level;

void ic_log_set_level(ic_log_level level);
void ic_log_set_content(bool wanted); /* prompts and answers may be logged at DEBUG */
bool ic_log_wants_content(void);
/* "error", "warn", "info", "debug", "trace" -> level; -1 if none. */
int ic_log_level_parse(const char *name);

void ic_log(ic_log_level level, const char *component, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define ic_log_error(component, ...) ic_log(IC_LOG_ERROR, component, __VA_ARGS__)
#define ic_log_warn(component, ...)  ic_log(IC_LOG_WARN, component, __VA_ARGS__)
#define ic_log_info(component, ...)  ic_log(IC_LOG_INFO, component, __VA_ARGS__)
#define ic_log_debug(component, ...) ic_log(IC_LOG_DEBUG, component, __VA_ARGS__)
#define ic_log_trace(component, ...) ic_log(IC_LOG_TRACE, component, __VA_ARGS__)

#endif
