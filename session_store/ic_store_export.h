/* ic_store_export: a session as one stream of bytes, and a session from such bytes. The layout is
 * in docs/store-format.md, "Export files"; a reader of it needs no store.
 *
 * Both sides work in bounded pieces between which the store does other things, and hold no more
 * than a few megabytes. Owner thread: the store's. Errors as in ic_store.h.
 */
#ifndef IC_STORE_EXPORT_H
#define IC_STORE_EXPORT_H

#include "session_store/ic_store.h"

enum {
    IC_STORE_EXPORT_FORMAT = 2, /* 1, which is read too, had no frames beside the journal */
    IC_STORE_LABEL_MAX = 127    /* bytes of a label */
};

/* What an export says of itself before anything else. */
typedef struct ic_store_export_head {
    char title[IC_STORE_TITLE_MAX + 1];
    char origin[IC_STORE_ID_CHARS + 1]; /* id of the session it was made from */
    char label[IC_STORE_LABEL_MAX + 1]; /* the caller's, for people: the model's name */
    uint8_t meaning[IC_STORE_FINGERPRINT_MAX];
    size_t meaning_bytes; /* 0: the session has no checkpoint, and nobody told */
    int64_t created_us, used_us;
    ic_store_counters counters;
    uint32_t config_version;
    const void *config; /* Borrows: until the import is closed */
    size_t config_bytes;
} ic_store_export_head;

typedef struct ic_store_export ic_store_export;
/* Frees a copy of what was in flight in the session it was made from; may write to it. */
typedef int ic_store_settle_fn(ic_store *s, const char *copy_id, ic_error *e);

/* Begins an export of the session as it stands now, or stood at its mark `at` (NULL: now). A hidden
 * copy keeps that state until the export is closed; settle (may be NULL) is called on it. meaning:
 * used where the session has no checkpoint, which has one of its own. Caller owns *x_p. */
int ic_store_export_begin(ic_store *s, const char *id, const char *at, ic_store_settle_fn *settle,
                          const void *meaning, size_t meaning_bytes, const char *label,
                          ic_store_export **x_p, ic_error *e);
/* Appends the next bytes, at most max, to out; each row is verified as it is read. *last: these
 * were the last. An error stays. */
int ic_store_export_read(ic_store_export *x, size_t max, ic_buf *out, bool *last, ic_error *e);
void ic_store_export_close(ic_store_export **x_p); /* NULL is fine */

typedef struct ic_store_import ic_store_import;

/* Begins a session from an export's bytes. Nothing of it is to be seen before it is adopted.
 * max_bytes: of the whole stream; 0: no limit. Caller owns *x_p. */
int ic_store_import_begin(ic_store *s, int64_t max_bytes, ic_store_import **x_p, ic_error *e);
/* Takes the next bytes in. IC_EFORMAT: damaged, not an export, or more than one (the text says
 * where); IC_EVERSION: made by a newer build; IC_ELIMIT. An error stays. */
int ic_store_import_put(ic_store_import *x, const void *bytes, size_t size, ic_error *e);
/* NULL before its bytes have come. Borrows: until closed. */
const ic_store_export_head *ic_store_import_head(const ic_store_import *x);
/* The stream has ended: IC_EFORMAT when it was cut. Everything is written and verified then. */
int ic_store_import_complete(ic_store_import *x, ic_error *e);
/* Makes the completed session owner's, under the title; id gets its id. May be in a batch: until
 * that is committed nothing is to be seen. */
int ic_store_import_adopt(ic_store_import *x, const char *owner, const char *title,
                          char id[IC_STORE_ID_CHARS + 1], ic_error *e);
/* What was adopted stays, if kept; else nothing does. NULL is fine. */
void ic_store_import_close(ic_store_import **x_p, bool kept);

#endif
