/* ic_wire_json: messages and records as JSON text, for logs and for clients that print them. Keys
 * are the protocol's field names, absent fields are left out, 16 raw bytes are 32 hexadecimal
 * digits, words are strings. Integers are written whole; readers with doubles alone lose those
 * above 2^53. */
#ifndef IC_WIRE_JSON_H
#define IC_WIRE_JSON_H

#include "base/ic_buf.h"
#include "wire/ic_wire.h"

/* Appends "{...}" with the fields of a record by its name in ic_wire_msgs.def: of a
 * `const ic_wire_usage *`, ic_wire_json(out, "usage", p). IC_EINVAL: no such record; IC_ENOMEM. */
int ic_wire_json(ic_buf *out, const char *record, const void *p);

/* Appends the fields alone, `"a":1,"b":2`, to an object that the caller began; with a comma before
 * them when `more` and there are any. */
int ic_wire_json_fields(ic_buf *out, const char *record, const void *p, bool more);

/* Appends a string with its quotes. What is not UTF-8 becomes U+FFFD. */
int ic_wire_json_str(ic_buf *out, const char *s);

#endif
