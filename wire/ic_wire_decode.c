/* msgpack to records: scanned first, unpacked by msgpack-c, then one walk over the table. */
#include <msgpack.h>
#include <string.h>

#include "base/ic_mem.h"
#include "wire/ic_wire_priv.h"

/* A decoded message's strings and lists, in one chain that fini walks. */
typedef struct block {
    struct block *next;
    max_align_t bytes[];
} block;

typedef struct decoder {
    block **memory;
    ic_error *e;
} decoder;

static void *keep(decoder *d, size_t bytes)
{
    block *b = ic_try_alloc(sizeof *b + bytes);
    if (!b) {
        ic_error_set(d->e, IC_ENOMEM, "no memory for %zu bytes of a message", bytes);
        return NULL;
    }
    b->next = *d->memory;
    *d->memory = b;
    return memset(b->bytes, 0, bytes);
}

void ic_wire_msg_fini(ic_wire_msg *m)
{
    for (block *b = m->memory, *next; b; b = next) {
        next = b->next;
        ic_free(b);
    }
    memset(m, 0, sizeof *m);
}

static int wrong_type(decoder *d, const ic_wire_path *path, const char *wanted)
{
    char where[IC_WIRE_PATH_MAX];
    return ic_error_set(d->e, IC_EFORMAT, "%s must be %s", ic_wire_path_text(path, where), wanted);
}

static int decode_record(decoder *d, const ic_wire_record *r, void *base, const msgpack_object *o,
                         const ic_wire_path *path);

static int decode_number(decoder *d, const ic_wire_field *f, void *value, const msgpack_object *o,
                         const ic_wire_path *path)
{
    bool is_positive = o->type == MSGPACK_OBJECT_POSITIVE_INTEGER;
    bool is_negative = o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER;
    if (f->kind == IC_WIRE_T_U64) {
        if (!is_positive)
            return wrong_type(d, path, "an integer, not negative");
        *(uint64_t *)value = o->via.u64;
    } else if (f->kind == IC_WIRE_T_I64) {
        if (!is_negative && !(is_positive && o->via.u64 <= INT64_MAX))
            return wrong_type(d, path, "an integer of 64 bits");
        *(int64_t *)value = o->via.i64;
    } else if (o->type == MSGPACK_OBJECT_FLOAT32 || o->type == MSGPACK_OBJECT_FLOAT64) {
        *(double *)value = o->via.f64;
    } else if (is_positive || is_negative) {
        *(double *)value = is_positive ? (double)o->via.u64 : (double)o->via.i64;
    } else {
        return wrong_type(d, path, "a number");
    }
    return ic_wire_check(f, value, path, d->e);
}

static int decode_str(decoder *d, const char **value, const msgpack_object *o, int64_t lo,
                      uint64_t hi, const ic_wire_path *path)
{
    if (o->type != MSGPACK_OBJECT_STR)
        return wrong_type(d, path, "a string");
    size_t size = o->via.str.size;
    int rc = ic_wire_check_str(o->via.str.ptr, size, lo, hi, path, d->e);
    if (rc)
        return rc;
    char *copy = keep(d, size + 1);
    if (!copy)
        return IC_ENOMEM;
    memcpy(copy, o->via.str.ptr, size);
    *value = copy;
    return IC_OK;
}

static int decode_word(decoder *d, const ic_wire_field *f, int *value, const msgpack_object *o,
                       const ic_wire_path *path)
{
    char where[IC_WIRE_PATH_MAX];
    if (o->type != MSGPACK_OBJECT_STR)
        return wrong_type(d, path, "a string");
    for (size_t i = 0; f->words[i]; i++)
        if (strlen(f->words[i]) == o->via.str.size
            && !memcmp(f->words[i], o->via.str.ptr, o->via.str.size)) {
            *value = (int)i;
            return IC_OK;
        }
    *value = -1;
    if (f->kind == IC_WIRE_T_OPEN)
        return IC_OK;
    return ic_error_set(d->e, IC_EINVAL, "%s has none of its words (the first is \"%s\")",
                        ic_wire_path_text(path, where), f->words[0]);
}

/* The array behind a STRS or LIST field: its type, its length, and room for the items. */
static int decode_array(decoder *d, const ic_wire_field *f, const msgpack_object *o, size_t item,
                        void **items, const ic_wire_path *path)
{
    char where[IC_WIRE_PATH_MAX];
    *items = NULL;
    if (o->type != MSGPACK_OBJECT_ARRAY)
        return wrong_type(d, path, "an array");
    if (o->via.array.size > f->hi)
        return ic_error_set(d->e, IC_EINVAL, "%s has %u items; up to %llu are allowed",
                            ic_wire_path_text(path, where), o->via.array.size,
                            (unsigned long long)f->hi);
    if (!o->via.array.size)
        return IC_OK;
    *items = keep(d, o->via.array.size * item);
    return *items ? IC_OK : IC_ENOMEM;
}

static int decode_strs(decoder *d, const ic_wire_field *f, ic_wire_strs *value,
                       const msgpack_object *o, const ic_wire_path *path)
{
    void *items;
    int rc = decode_array(d, f, o, sizeof(char *), &items, path);
    value->items = items;
    for (uint32_t i = 0; !rc && i < o->via.array.size; i++, value->count++)
        rc = decode_str(d, &value->items[i], &o->via.array.ptr[i], 0, IC_WIRE_NOTICE_MAX, path);
    return rc;
}

static int decode_list(decoder *d, const ic_wire_field *f, ic_wire_any_list *value,
                       const msgpack_object *o, const ic_wire_path *path)
{
    int rc = decode_array(d, f, o, f->record->size, &value->items, path);
    for (uint32_t i = 0; !rc && i < o->via.array.size; i++, value->count++)
        rc = decode_record(d, f->record, (char *)value->items + i * f->record->size,
                           &o->via.array.ptr[i], path);
    return rc;
}

static int decode_value(decoder *d, const ic_wire_field *f, void *value, const msgpack_object *o,
                        const ic_wire_path *path)
{
    switch (f->kind) {
    case IC_WIRE_T_U64:
    case IC_WIRE_T_I64:
    case IC_WIRE_T_F64:
        return decode_number(d, f, value, o, path);
    case IC_WIRE_T_BOOL:
        if (o->type != MSGPACK_OBJECT_BOOLEAN)
            return wrong_type(d, path, "true or false");
        *(bool *)value = o->via.boolean;
        return IC_OK;
    case IC_WIRE_T_STR:
        return decode_str(d, value, o, f->lo, f->hi, path);
    case IC_WIRE_T_ID:
        if (o->type != MSGPACK_OBJECT_BIN || o->via.bin.size != sizeof(ic_wire_id))
            return wrong_type(d, path, "16 raw bytes");
        memcpy(value, o->via.bin.ptr, sizeof(ic_wire_id));
        return IC_OK;
    case IC_WIRE_T_ENUM:
    case IC_WIRE_T_OPEN:
        return decode_word(d, f, value, o, path);
    case IC_WIRE_T_STRS:
        return decode_strs(d, f, value, o, path);
    case IC_WIRE_T_REC:
        return decode_record(d, f->record, value, o, path);
    case IC_WIRE_T_LIST:
        return decode_list(d, f, value, o, path);
    }
    return IC_EBUG;
}

static const ic_wire_field *field_of(const ic_wire_record *r, const msgpack_object_str *key)
{
    for (size_t i = 0; i < r->count; i++)
        if (strlen(r->fields[i].name) == key->size
            && !memcmp(r->fields[i].name, key->ptr, key->size))
            return &r->fields[i];
    return NULL;
}

static int decode_pair(decoder *d, const ic_wire_record *r, void *base,
                       const msgpack_object_kv *pair, const ic_wire_path *path)
{
    ic_wire_head *record = base;
    char where[IC_WIRE_PATH_MAX];
    if (pair->key.type != MSGPACK_OBJECT_STR)
        return ic_error_set(d->e, IC_EFORMAT, "a key in %s is not a string",
                            ic_wire_path_text(path, where));
    const ic_wire_field *f = field_of(r, &pair->key.via.str);
    if (!f || pair->val.type == MSGPACK_OBJECT_NIL)
        return IC_OK; /* of a later version; or absent in other words */
    const ic_wire_path here = {path, f->name};
    uint64_t bit = (uint64_t)1 << (f - r->fields);
    if (record->has & bit)
        return ic_error_set(d->e, IC_EFORMAT, "%s stands there twice",
                            ic_wire_path_text(&here, where));
    record->has |= bit;
    return decode_value(d, f, (char *)base + f->offset, &pair->val, &here);
}

static int decode_record(decoder *d, const ic_wire_record *r, void *base, const msgpack_object *o,
                         const ic_wire_path *path)
{
    if (o->type != MSGPACK_OBJECT_MAP)
        return wrong_type(d, path, "a map");
    for (uint32_t i = 0; i < o->via.map.size; i++) {
        int rc = decode_pair(d, r, base, &o->via.map.ptr[i], path);
        if (rc)
            return rc;
    }
    for (size_t i = 0; i < r->count; i++) {
        const ic_wire_path here = {path, r->fields[i].name};
        char where[IC_WIRE_PATH_MAX];
        if (r->fields[i].required && !(((ic_wire_head *)base)->has >> i & 1))
            return ic_error_set(d->e, IC_EINVAL, "%s is missing", ic_wire_path_text(&here, where));
    }
    return IC_OK;
}

static int decode_signature(ic_wire_msg *m, ic_wire_from from, const uint8_t *s, size_t size,
                            ic_error *e)
{
    if (size < 5 || size > IC_WIRE_SIGNATURE_MAX || memcmp(s, "ICW", 3))
        return ic_error_set(e, IC_EFORMAT, "the first frame is not \"ICW\", a version and a verb");
    if (s[3] != IC_WIRE_VERSION)
        return ic_error_set(e, IC_EVERSION, "protocol version %d; this side speaks %d", s[3],
                            IC_WIRE_VERSION);
    m->verb = ic_wire_verb_of((const char *)s + 4, size - 4);
    if (m->verb == IC_WIRE_NONE) {
        char verb[IC_WIRE_SIGNATURE_MAX - 3] = "";
        for (size_t i = 0; i < sizeof verb - 1 && i + 4 < size; i++)
            verb[i] = s[i + 4] > ' ' && s[i + 4] < 127 ? (char)s[i + 4] : '?';
        return ic_error_set(e, IC_EUNSUPPORTED, "unknown verb %s", verb);
    }
    if (ic_wire_verb_from_client(m->verb) != (from == IC_WIRE_FROM_CLIENT))
        return ic_error_set(e, IC_EUNSUPPORTED, "%s is not for this side to send",
                            ic_wire_verb_name(m->verb));
    return IC_OK;
}

static int check_sizes(ic_wire_verb verb, size_t body_size, int64_t payload_size, ic_error *e)
{
    const char *name = ic_wire_verb_name(verb);
    size_t payload_max = ic_wire_payload_max(verb);
    if (body_size > ic_wire_body_max(verb))
        return ic_error_set(e, IC_ELIMIT, "%s has a map of %zu bytes; %zu are allowed", name,
                            body_size, ic_wire_body_max(verb));
    if (payload_size >= 0 && !payload_max)
        return ic_error_set(e, IC_EFORMAT, "%s has no third frame", name);
    if (payload_size < 0 && payload_max)
        return ic_error_set(e, IC_EFORMAT, "%s needs a third frame", name);
    if (payload_size > (int64_t)payload_max)
        return ic_error_set(e, IC_ELIMIT, "%s has a payload of %lld bytes; %zu are allowed", name,
                            (long long)payload_size, payload_max);
    return IC_OK;
}

static int decode_body(ic_wire_msg *m, const void *body, size_t size, ic_error *e)
{
    const char *name = ic_wire_verb_name(m->verb);
    const ic_wire_path path = {NULL, name};
    block *memory = NULL;
    decoder d = {&memory, e};
    msgpack_unpacked unpacked;
    size_t offset = 0;
    int rc = ic_wire_scan(body, size, e);
    if (rc)
        return ic_error_prefix(e, rc, "%s", name);
    msgpack_unpacked_init(&unpacked);
    switch (msgpack_unpack_next(&unpacked, body, size, &offset)) {
    case MSGPACK_UNPACK_SUCCESS:
        rc = decode_record(&d, ic_wire_verb_record(m->verb), &m->hello, &unpacked.data, &path);
        break;
    case MSGPACK_UNPACK_NOMEM_ERROR:
        rc = ic_error_set(e, IC_ENOMEM, "no memory to unpack %s", name);
        break;
    default:
        rc = ic_error_set(e, IC_EFORMAT, "%s: the map is not msgpack", name);
    }
    msgpack_unpacked_destroy(&unpacked);
    m->memory = memory;
    return rc;
}

int ic_wire_decode(ic_wire_msg *m, ic_wire_from from, const void *signature, size_t signature_size,
                   const void *body, size_t body_size, int64_t payload_size, ic_error *e)
{
    ic_wire_msg_init(m, IC_WIRE_NONE);
    int rc = decode_signature(m, from, signature, signature_size, e);
    if (!rc)
        rc = check_sizes(m->verb, body_size, payload_size, e);
    if (!rc)
        rc = decode_body(m, body, body_size, e);
    return rc;
}
