/* Records to msgpack: one walk over the table, whatever the message. */
#include <msgpack.h>
#include <string.h>

#include "wire/ic_wire_priv.h"

void ic_wire_msg_init(ic_wire_msg *m, ic_wire_verb verb)
{
    memset(m, 0, sizeof *m);
    m->verb = verb;
}

static int append(void *body, const char *bytes, size_t count)
{
    return ic_buf_append(body, bytes, count);
}

static void pack_str(msgpack_packer *pk, const char *s, size_t size)
{
    msgpack_pack_str(pk, size);
    msgpack_pack_str_body(pk, s, size);
}

static int encode_record(msgpack_packer *pk, const ic_wire_record *r, const void *base,
                         const ic_wire_path *path, ic_error *e);

static int encode_strs(msgpack_packer *pk, const ic_wire_field *f, const ic_wire_strs *strs,
                       const ic_wire_path *path, ic_error *e)
{
    char where[IC_WIRE_PATH_MAX];
    if (strs->count > f->hi)
        return ic_error_set(e, IC_EINVAL, "%s has %u strings; up to %llu are allowed",
                            ic_wire_path_text(path, where), strs->count, (unsigned long long)f->hi);
    msgpack_pack_array(pk, strs->count);
    for (uint32_t i = 0; i < strs->count; i++) {
        size_t size = strlen(strs->items[i]);
        int rc = ic_wire_check_str(strs->items[i], size, 0, IC_WIRE_NOTICE_MAX, path, e);
        if (rc)
            return rc;
        pack_str(pk, strs->items[i], size);
    }
    return IC_OK;
}

static int encode_list(msgpack_packer *pk, const ic_wire_field *f, const ic_wire_any_list *list,
                       const ic_wire_path *path, ic_error *e)
{
    char where[IC_WIRE_PATH_MAX];
    if (list->count > f->hi)
        return ic_error_set(e, IC_EINVAL, "%s has %u records; up to %llu are allowed",
                            ic_wire_path_text(path, where), list->count, (unsigned long long)f->hi);
    msgpack_pack_array(pk, list->count);
    for (uint32_t i = 0; i < list->count; i++) {
        const char *item = (const char *)list->items + i * f->record->size;
        int rc = encode_record(pk, f->record, item, path, e);
        if (rc)
            return rc;
    }
    return IC_OK;
}

static int encode_value(msgpack_packer *pk, const ic_wire_field *f, const void *value,
                        const ic_wire_path *path, ic_error *e)
{
    int rc = ic_wire_check(f, value, path, e);
    if (rc)
        return rc;
    switch (f->kind) {
    case IC_WIRE_T_U64:
        msgpack_pack_uint64(pk, *(const uint64_t *)value);
        return IC_OK;
    case IC_WIRE_T_I64:
        msgpack_pack_int64(pk, *(const int64_t *)value);
        return IC_OK;
    case IC_WIRE_T_F64:
        msgpack_pack_double(pk, *(const double *)value);
        return IC_OK;
    case IC_WIRE_T_BOOL:
        *(const bool *)value ? msgpack_pack_true(pk) : msgpack_pack_false(pk);
        return IC_OK;
    case IC_WIRE_T_STR: {
        const char *s = *(const char *const *)value;
        pack_str(pk, s, strlen(s));
        return IC_OK;
    }
    case IC_WIRE_T_ID:
        msgpack_pack_bin(pk, sizeof(ic_wire_id));
        msgpack_pack_bin_body(pk, value, sizeof(ic_wire_id));
        return IC_OK;
    case IC_WIRE_T_ENUM:
    case IC_WIRE_T_OPEN: {
        const char *word = f->words[*(const int *)value];
        pack_str(pk, word, strlen(word));
        return IC_OK;
    }
    case IC_WIRE_T_STRS:
        return encode_strs(pk, f, value, path, e);
    case IC_WIRE_T_REC:
        return encode_record(pk, f->record, value, path, e);
    case IC_WIRE_T_LIST:
        return encode_list(pk, f, value, path, e);
    }
    return IC_EBUG;
}

static int encode_record(msgpack_packer *pk, const ic_wire_record *r, const void *base,
                         const ic_wire_path *path, ic_error *e)
{
    uint64_t has = ((const ic_wire_head *)base)->has;
    msgpack_pack_map(pk, (size_t)__builtin_popcountll(has));
    for (size_t i = 0; i < r->count; i++) {
        const ic_wire_field *f = &r->fields[i];
        const ic_wire_path here = {path, f->name};
        char where[IC_WIRE_PATH_MAX];
        if (!(has >> i & 1)) {
            if (f->required)
                return ic_error_set(e, IC_EINVAL, "%s is missing", ic_wire_path_text(&here, where));
            continue;
        }
        pack_str(pk, f->name, strlen(f->name));
        int rc = encode_value(pk, f, (const char *)base + f->offset, &here, e);
        if (rc)
            return rc;
    }
    return IC_OK;
}

int ic_wire_encode(const ic_wire_msg *m, ic_buf *body, ic_error *e)
{
    const ic_wire_record *r = ic_wire_verb_record(m->verb);
    if (!r)
        return ic_error_set(e, IC_EINVAL, "no verb has the number %d", (int)m->verb);
    const ic_wire_path path = {NULL, ic_wire_verb_name(m->verb)};
    size_t before = body->size;
    msgpack_packer pk;
    msgpack_packer_init(&pk, body, append);
    int rc = encode_record(&pk, r, &m->hello, &path, e);
    if (!rc && body->status)
        rc = ic_error_set(e, body->status, "%s: the message does not fit its buffer", path.name);
    if (!rc && body->size - before > ic_wire_body_max(m->verb))
        rc = ic_error_set(e, IC_ELIMIT, "%s has %zu bytes; %zu are allowed", path.name,
                          body->size - before, ic_wire_body_max(m->verb));
    if (rc)
        body->size = before;
    return rc;
}
