/* ic_wire: the messages of the protocol (docs/protocol.md), encoded to and decoded from msgpack.
 *
 * A message is a list of frames: [0] the signature, "ICW", a version byte and the verb's name;
 * [1] one msgpack map; [2] raw bytes, for DATA alone. The routing id that a ROUTER puts before them
 * is none of this room's business. Messages, fields, limits and error codes stand in
 * ic_wire_msgs.def; from it come the structs here, one per record, ic_wire_<record>, with a member
 * per field and `has`, one bit per field that is there.
 *
 *     ic_wire_msg m;
 *     ic_wire_msg_init(&m, IC_WIRE_CANCEL);
 *     ic_wire_put(&m.cancel, cancel, re, 7);
 *     ic_wire_put(&m.cancel, cancel, session, "3f9a");
 *     rc = ic_wire_encode(&m, &body, e);            // strings are borrowed until here
 *
 *     rc = ic_wire_decode(&m, IC_WIRE_FROM_CLIENT, frame0, size0, frame1, size1, size2, e);
 *     if (ic_wire_has(&m.cancel, cancel, turn)) ...
 *     ic_wire_msg_fini(&m);
 *
 * No sockets, no clocks, no state. All functions are thread-safe on different objects.
 */
#ifndef IC_WIRE_H
#define IC_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ic_buf.h"
#include "base/ic_err.h"

enum {
    IC_WIRE_VERSION = 1,
    IC_WIRE_SIGNATURE_MAX = 20,         /* bytes of frame 0: 4 + a verb of up to 16 */
    IC_WIRE_TEXT_MAX = 256 * 1024,      /* bytes of one question, answer or text event */
    IC_WIRE_PIECE_MAX = 256 * 1024,     /* bytes of DATA's payload frame */
    IC_WIRE_LIST_MAX = 256,             /* records in one list */
    IC_WIRE_BODY_MAX = 4 * 1024 * 1024, /* largest map of any verb: what ZMQ_MAXMSGSIZE may be */
    IC_WIRE_CLIENT_FRAME_MAX = 270336,  /* largest frame of any verb that a client sends */
    IC_WIRE_DEPTH_MAX = 8,              /* containers inside one another, unknown fields included */
    IC_WIRE_OBJECTS_MAX = 65536,        /* msgpack objects in one map */
    IC_WIRE_SESSION_MAX = 64            /* bytes of a session id */
};

/* 128 random bits: a client's identity, a server's start, a request's key. */
typedef struct ic_wire_id {
    uint8_t bytes[16];
} ic_wire_id;

typedef struct ic_wire_strs {
    uint32_t count;
    const char **items;
} ic_wire_strs;

/* The words of the enumerations, in the order of IC_WIRE_WORDS; -1: a word of a later version. */
enum { IC_WIRE_IF_BUSY_REFUSE, IC_WIRE_IF_BUSY_QUEUE };
enum { IC_WIRE_ON_VANISH_KEEP, IC_WIRE_ON_VANISH_CANCEL };
enum { IC_WIRE_KIND_UPLOAD, IC_WIRE_KIND_PATH, IC_WIRE_KIND_URL, IC_WIRE_KIND_CAMERA };
enum { IC_WIRE_AS_VIDEO, IC_WIRE_AS_IMAGE };
enum { IC_WIRE_GRANULARITY_HEAD, IC_WIRE_GRANULARITY_LAYER };
enum { IC_WIRE_POSITIONS_COMPACT, IC_WIRE_POSITIONS_ORIGINAL };
enum { IC_WIRE_FRAME_UNIT_TOKENS, IC_WIRE_FRAME_UNIT_WHOLE };
enum { IC_WIRE_FINISH_STOP, IC_WIRE_FINISH_LENGTH, IC_WIRE_FINISH_CANCEL, IC_WIRE_FINISH_ERROR };
enum {
    IC_WIRE_STATE_IDLE,
    IC_WIRE_STATE_INGESTING,
    IC_WIRE_STATE_ANSWERING,
    IC_WIRE_STATE_BOTH,
    IC_WIRE_STATE_SUSPENDING,
    IC_WIRE_STATE_SUSPENDED,
    IC_WIRE_STATE_FAILED
};
enum {
    IC_WIRE_EVENT_TURN,
    IC_WIRE_EVENT_ANSWER_BEGIN,
    IC_WIRE_EVENT_TEXT,
    IC_WIRE_EVENT_ANSWER_END,
    IC_WIRE_EVENT_MEDIA_BEGIN,
    IC_WIRE_EVENT_MEDIA_PROGRESS,
    IC_WIRE_EVENT_MEDIA_END,
    IC_WIRE_EVENT_NOTICE,
    IC_WIRE_EVENT_STATE
};

/* --- made from ic_wire_msgs.def ----------------------------------------------------------------
 */
/* clang-format off */
#define IC_WIRE_C_U64(arg)  uint64_t
#define IC_WIRE_C_I64(arg)  int64_t
#define IC_WIRE_C_F64(arg)  double
#define IC_WIRE_C_BOOL(arg) bool
#define IC_WIRE_C_STR(arg)  const char *
#define IC_WIRE_C_ID(arg)   ic_wire_id
#define IC_WIRE_C_ENUM(arg) int
#define IC_WIRE_C_OPEN(arg) int
#define IC_WIRE_C_STRS(arg) ic_wire_strs
#define IC_WIRE_C_REC(arg)  ic_wire_##arg
#define IC_WIRE_C_LIST(arg) ic_wire_##arg##_list

/* struct ic_wire_<record> and ic_wire_<record>_list */
#define IC_WIRE_BEGIN(r) typedef struct ic_wire_##r { uint64_t has;
#define IC_WIRE_FIELD(r, name, kind, arg, need, lo, hi) IC_WIRE_C_##kind(arg) name;
#define IC_WIRE_END(r) } ic_wire_##r; \
    typedef struct ic_wire_##r##_list { uint32_t count; ic_wire_##r *items; } ic_wire_##r##_list;
#define IC_WIRE_VERB(name, r, from, body_max, payload_max)
#define IC_WIRE_WORDS(name, ...)
#define IC_WIRE_CODE(name, retryable)
#include "wire/ic_wire_msgs.def"

/* IC_WIRE_F_<record>_<field>: the field's bit in `has` */
#define IC_WIRE_BEGIN(r) enum {
#define IC_WIRE_FIELD(r, name, kind, arg, need, lo, hi) IC_WIRE_F_##r##_##name,
#define IC_WIRE_END(r) IC_WIRE_F_##r##_COUNT };
#define IC_WIRE_VERB(name, r, from, body_max, payload_max)
#define IC_WIRE_WORDS(name, ...)
#define IC_WIRE_CODE(name, retryable)
#include "wire/ic_wire_msgs.def"

/* IC_WIRE_<VERB>; 0 is none */
typedef enum ic_wire_verb {
    IC_WIRE_NONE,
#define IC_WIRE_BEGIN(r)
#define IC_WIRE_FIELD(r, name, kind, arg, need, lo, hi)
#define IC_WIRE_END(r)
#define IC_WIRE_VERB(name, r, from, body_max, payload_max) IC_WIRE_##name,
#define IC_WIRE_WORDS(name, ...)
#define IC_WIRE_CODE(name, retryable)
#include "wire/ic_wire_msgs.def"
    IC_WIRE_VERB_COUNT
} ic_wire_verb;

/* IC_WIRE_CODE_<CODE> */
typedef enum ic_wire_code {
#define IC_WIRE_BEGIN(r)
#define IC_WIRE_FIELD(r, name, kind, arg, need, lo, hi)
#define IC_WIRE_END(r)
#define IC_WIRE_VERB(name, r, from, body_max, payload_max)
#define IC_WIRE_WORDS(name, ...)
#define IC_WIRE_CODE(name, retryable) IC_WIRE_CODE_##name,
#include "wire/ic_wire_msgs.def"
    IC_WIRE_CODE_COUNT
} ic_wire_code;

/* A message: its verb, and the record of that verb. */
typedef struct ic_wire_msg {
    ic_wire_verb verb;
    union {
#define IC_WIRE_BEGIN(r)
#define IC_WIRE_FIELD(r, name, kind, arg, need, lo, hi)
#define IC_WIRE_END(r)
#define IC_WIRE_VERB(name, r, from, body_max, payload_max) ic_wire_##r r;
#define IC_WIRE_WORDS(name, ...)
#define IC_WIRE_CODE(name, retryable)
#include "wire/ic_wire_msgs.def"
    };
    void *memory; /* private: what a decoded message's strings and lists point into */
} ic_wire_msg;
/* clang-format on */

/* Whether the record at p (an ic_wire_<rec> *) holds the field; and setting one, bit included. */
#define ic_wire_has(p, rec, field) (((p)->has >> IC_WIRE_F_##rec##_##field & 1u) != 0)
#define ic_wire_put(p, rec, field, value)                                                          \
    ((p)->field = (value), (void)((p)->has |= (uint64_t)1 << IC_WIRE_F_##rec##_##field))
/* The field's value, or fallback when it is absent. */
#define ic_wire_get(p, rec, field, fallback) (ic_wire_has(p, rec, field) ? (p)->field : (fallback))

typedef enum ic_wire_from { IC_WIRE_FROM_CLIENT, IC_WIRE_FROM_SERVER } ic_wire_from;

/* An empty message of this verb. */
void ic_wire_msg_init(ic_wire_msg *m, ic_wire_verb verb);
/* Releases what a decode allocated; safe on zeroed memory and after a failed decode. */
void ic_wire_msg_fini(ic_wire_msg *m);

/* Writes frame 0 of the verb; returns its size. */
size_t ic_wire_signature(ic_wire_verb verb, uint8_t out[IC_WIRE_SIGNATURE_MAX]);

/* Appends frame 1, the map of m's present fields, to body; the caller clears it. IC_EINVAL: a
 * required field is absent or a value is outside its limits (the text names it); IC_ELIMIT: larger
 * than the verb may be; IC_ENOMEM. */
IC_MUST_CHECK int ic_wire_encode(const ic_wire_msg *m, ic_buf *body, ic_error *e);

/* Reads the frames of one message from a peer of the given side into m (which needs no init, and
 * is to be given to ic_wire_msg_fini whatever happens). payload_size: of frame 2, or -1 when there
 * is none. Strings in m end with a zero byte and live until fini; the frames may go.
 * The text of an error names the verb and the field. Codes: IC_EVERSION (another version byte),
 * IC_EUNSUPPORTED (unknown verb), IC_ELIMIT (too large, too deep, too many), IC_EFORMAT (not this
 * protocol, not msgpack, a wrong type), IC_EINVAL (a value outside its limits, a required field
 * absent), IC_ENOMEM. */
IC_MUST_CHECK int ic_wire_decode(ic_wire_msg *m, ic_wire_from from, const void *signature,
                                 size_t signature_size, const void *body, size_t body_size,
                                 int64_t payload_size, ic_error *e);

/* The request number in a map that may be otherwise unreadable, so that the refusal can carry it.
 * false: none. */
bool ic_wire_peek_re(const void *body, size_t body_size, uint64_t *re);

/* Checks msgpack bytes without unpacking: one object, all of it there and nothing behind it, depth
 * and number of objects below the limits, counts that the bytes left can hold. (msgpack-c 4.0.0
 * maps gigabytes for an array header that claims 2^32 elements.) */
IC_MUST_CHECK int ic_wire_scan(const void *body, size_t body_size, ic_error *e);

/* True when the bytes are UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF. */
bool ic_wire_is_utf8(const void *bytes, size_t size);

/* "ASK" for IC_WIRE_ASK; "?" for a value that is none. Borrows: static storage. */
const char *ic_wire_verb_name(ic_wire_verb verb);
/* IC_WIRE_NONE when unknown. */
ic_wire_verb ic_wire_verb_of(const char *name, size_t size);
bool ic_wire_verb_from_client(ic_wire_verb verb);
/* Largest map and largest payload frame (0: none) of the verb. */
size_t ic_wire_body_max(ic_wire_verb verb);
size_t ic_wire_payload_max(ic_wire_verb verb);

/* The fields that many verbs share, whichever verb m is. get: false when the verb has no such field
 * or it is absent. set: false when the verb has no such field. session: NULL likewise; Borrows. */
bool ic_wire_msg_get_re(const ic_wire_msg *m, uint64_t *re);
bool ic_wire_msg_set_re(ic_wire_msg *m, uint64_t re);
bool ic_wire_msg_get_key(const ic_wire_msg *m, ic_wire_id *key);
bool ic_wire_msg_set_key(ic_wire_msg *m, const ic_wire_id *key);
const char *ic_wire_msg_session(const ic_wire_msg *m);

/* Error codes: name; code of a name (INTERNAL when unknown); whether retrying may help; the code
 * for a negative IC_E* of any room. */
const char *ic_wire_code_name(ic_wire_code code);
ic_wire_code ic_wire_code_of(const char *name);
bool ic_wire_code_is_retryable(ic_wire_code code);
ic_wire_code ic_wire_code_from_err(int err);

/* Words of the enumerations by list name: ic_wire_word("state", IC_WIRE_STATE_IDLE) is "idle"; "?"
 * for a value or list that is none. ic_wire_word_of: -1 when unknown. */
const char *ic_wire_word(const char *list, int value);
int ic_wire_word_of(const char *list, const char *word);

#endif
