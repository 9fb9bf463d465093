/* ic_err: result codes and the error text that travels with them.
 *
 * Every function that can fail returns an int: 0, or one negative code below. At a room's boundary
 * the last parameter is `ic_error *e` (may be NULL): the deepest frame that knows what went wrong
 * writes the sentence; callers may prepend with ic_error_prefix. Nobody logs on the way: the caller
 * who decides what happens logs it, once. The sentence names the thing and, where there is one, the
 * cure.
 */
#ifndef IC_ERR_H
#define IC_ERR_H

#include <stdarg.h>

#define IC_MUST_CHECK        __attribute__((warn_unused_result))
#define IC_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

enum {
    IC_OK = 0,
    IC_EINVAL = -1,       /* an argument or a request that makes no sense */
    IC_ENOMEM = -2,       /* a large allocation failed */
    IC_EIO = -3,          /* the operating system refused a read or a write */
    IC_EAGAIN = -4,       /* nothing now; later perhaps */
    IC_ECLOSED = -5,      /* the other end is gone */
    IC_ETIMEOUT = -6,     /* a deadline passed */
    IC_ELIMIT = -7,       /* a configured bound would be exceeded */
    IC_EFORMAT = -8,      /* bytes that are not what they claim to be */
    IC_EVERSION = -9,     /* known, but of a version this build does not read */
    IC_EDEVICE = -10,     /* the compute device failed */
    IC_ECANCELED = -11,   /* somebody asked to stop */
    IC_EBUG = -12,        /* a broken promise inside this program */
    IC_ENOTFOUND = -13,   /* the named thing does not exist */
    IC_EEXIST = -14,      /* the named thing exists already */
    IC_EBUSY = -15,       /* in use; retryable */
    IC_ECONFLICT = -16,   /* same key, other content */
    IC_EMISMATCH = -17,   /* a fingerprint differs */
    IC_EUNSUPPORTED = -18 /* understood, but not built */
};

enum { IC_ERROR_TEXT = 320 };

typedef struct ic_error {
    int code;                 /* IC_OK or one of the codes above */
    char text[IC_ERROR_TEXT]; /* one sentence, UTF-8, no newline */
} ic_error;

/* Writes code and sentence to e (if not NULL) and returns code, so that `return ic_error_set(...)`
 * reads well. */
int ic_error_set(ic_error *e, int code, const char *fmt, ...) IC_PRINTF(3, 4);

/* Puts "<prefix>: " before the text of e (if not NULL); returns e's code, or code when e is NULL.
 */
int ic_error_prefix(ic_error *e, int code, const char *fmt, ...) IC_PRINTF(3, 4);

/* The stable upper-case name of a code: "OK", "INVAL", ... Borrows: static storage. */
const char *ic_err_name(int code);

#endif
