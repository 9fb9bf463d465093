/* ic_wire_priv: the tables of ic_wire_msgs.def as data, for this room and its tests. */
#ifndef IC_WIRE_PRIV_H
#define IC_WIRE_PRIV_H

#include "wire/ic_wire.h"

typedef enum ic_wire_kind {
    IC_WIRE_T_U64,
    IC_WIRE_T_I64,
    IC_WIRE_T_F64,
    IC_WIRE_T_BOOL,
    IC_WIRE_T_STR,
    IC_WIRE_T_ID,
    IC_WIRE_T_ENUM,
    IC_WIRE_T_OPEN,
    IC_WIRE_T_STRS,
    IC_WIRE_T_REC,
    IC_WIRE_T_LIST
} ic_wire_kind;

typedef struct ic_wire_record ic_wire_record;

typedef struct ic_wire_field {
    const char *name;
    ic_wire_kind kind;
    bool required;
    size_t offset; /* in the record's struct */
    int64_t lo;
    uint64_t hi;
    const char *const *words;     /* ENUM, OPEN: ends with NULL */
    const ic_wire_record *record; /* REC, LIST */
} ic_wire_field;

struct ic_wire_record {
    const char *name;
    size_t size; /* of the struct */
    size_t count;
    const ic_wire_field *fields;
};

/* Any ic_wire_<record> begins with its bits; a list of any record looks like this. */
typedef struct ic_wire_head {
    uint64_t has;
} ic_wire_head;

typedef struct ic_wire_any_list {
    uint32_t count;
    void *items;
} ic_wire_any_list;

/* The record of a verb, and where the message keeps it. NULL for a value that is no verb. */
const ic_wire_record *ic_wire_verb_record(ic_wire_verb verb);
/* A record by name, parts included; NULL when there is none. */
const ic_wire_record *ic_wire_record_of(const char *name);
/* Number of words in a list. */
size_t ic_wire_words_count(const char *const *words);

/* Where in a message a value stands, for error texts: "ASK.sampling.top_p". */
typedef struct ic_wire_path {
    const struct ic_wire_path *up;
    const char *name;
} ic_wire_path;

enum { IC_WIRE_PATH_MAX = 128 };
/* Writes the path's text; returns out. */
const char *ic_wire_path_text(const ic_wire_path *path, char out[IC_WIRE_PATH_MAX]);

/* Checks a value of the field, at its place in a record, against the field's limits; scalars and
 * strings alone. IC_EINVAL with the path in the text. */
int ic_wire_check(const ic_wire_field *f, const void *value, const ic_wire_path *path, ic_error *e);
/* The same for one string of a STRS field. */
int ic_wire_check_str(const char *s, size_t size, int64_t lo, uint64_t hi, const ic_wire_path *path,
                      ic_error *e);

enum { IC_WIRE_NOTICE_MAX = 1024 }; /* bytes of one string in a STRS field */

#endif
