#include "wire/ic_wire_json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "wire/ic_wire_priv.h"

static void put(ic_buf *out, const char *s)
{
    ic_buf_append(out, s, strlen(s));
}

/* Bytes of the UTF-8 character that s begins with; 0: it is none. */
static size_t character(const char *s, size_t left)
{
    for (size_t size = 1; size <= 4 && size <= left; size++)
        if (ic_wire_is_utf8(s, size))
            return size;
    return 0;
}

int ic_wire_json_str(ic_buf *out, const char *s)
{
    static const char specials[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    size_t left = strlen(s);
    put(out, "\"");
    while (left) {
        const char *special = strchr(specials, *s);
        size_t size = character(s, left);
        char escape[8];
        if (special) {
            snprintf(escape, sizeof escape, "\\%c", letters[special - specials]);
            put(out, escape);
        } else if ((unsigned char)*s < 0x20 || *s == 0x7f) {
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)*s);
            put(out, escape);
        } else if (!size) {
            put(out, "\\ufffd");
        } else {
            ic_buf_append(out, s, size);
        }
        s += size ? size : 1;
        left -= size ? size : 1;
    }
    put(out, "\"");
    return out->status;
}

static void put_id(ic_buf *out, const ic_wire_id *id)
{
    char text[2 * sizeof id->bytes + 3] = "\"";
    for (size_t i = 0; i < sizeof id->bytes; i++)
        snprintf(text + 1 + 2 * i, 3, "%02x", id->bytes[i]);
    put(out, text);
    put(out, "\"");
}

static void put_f64(ic_buf *out, double v)
{
    char text[40];
    snprintf(text, sizeof text, "%.10g", v);
    put(out, isfinite(v) ? text : "null");
}

static void put_record(ic_buf *out, const ic_wire_record *r, const void *p);

static void put_items(ic_buf *out, const ic_wire_field *f, const void *value)
{
    const ic_wire_strs *strs = value;
    const ic_wire_any_list *list = value;
    uint32_t count = f->kind == IC_WIRE_T_STRS ? strs->count : list->count;
    put(out, "[");
    for (uint32_t i = 0; i < count; i++) {
        put(out, i ? "," : "");
        if (f->kind == IC_WIRE_T_STRS)
            ic_wire_json_str(out, strs->items[i]);
        else
            put_record(out, f->record, (const char *)list->items + i * f->record->size);
    }
    put(out, "]");
}

static void put_value(ic_buf *out, const ic_wire_field *f, const void *value)
{
    char text[32];
    switch (f->kind) {
    case IC_WIRE_T_U64:
        snprintf(text, sizeof text, "%llu", (unsigned long long)*(const uint64_t *)value);
        put(out, text);
        break;
    case IC_WIRE_T_I64:
        snprintf(text, sizeof text, "%lld", (long long)*(const int64_t *)value);
        put(out, text);
        break;
    case IC_WIRE_T_F64:
        put_f64(out, *(const double *)value);
        break;
    case IC_WIRE_T_BOOL:
        put(out, *(const bool *)value ? "true" : "false");
        break;
    case IC_WIRE_T_STR:
        ic_wire_json_str(out, *(const char *const *)value);
        break;
    case IC_WIRE_T_ID:
        put_id(out, value);
        break;
    case IC_WIRE_T_ENUM:
    case IC_WIRE_T_OPEN: {
        int v = *(const int *)value;
        bool is_known = v >= 0 && (size_t)v < ic_wire_words_count(f->words);
        ic_wire_json_str(out, is_known ? f->words[v] : "?");
        break;
    }
    case IC_WIRE_T_REC:
        put_record(out, f->record, value);
        break;
    case IC_WIRE_T_STRS:
    case IC_WIRE_T_LIST:
        put_items(out, f, value);
        break;
    }
}

static void put_fields(ic_buf *out, const ic_wire_record *r, const void *p, bool more)
{
    for (size_t i = 0; i < r->count; i++) {
        if (!(((const ic_wire_head *)p)->has >> i & 1))
            continue;
        put(out, more ? "," : "");
        more = true;
        ic_wire_json_str(out, r->fields[i].name);
        put(out, ":");
        put_value(out, &r->fields[i], (const char *)p + r->fields[i].offset);
    }
}

static void put_record(ic_buf *out, const ic_wire_record *r, const void *p)
{
    put(out, "{");
    put_fields(out, r, p, false);
    put(out, "}");
}

int ic_wire_json_fields(ic_buf *out, const char *record, const void *p, bool more)
{
    const ic_wire_record *r = ic_wire_record_of(record);
    if (!r)
        return IC_EINVAL;
    put_fields(out, r, p, more);
    return out->status;
}

int ic_wire_json(ic_buf *out, const char *record, const void *p)
{
    const ic_wire_record *r = ic_wire_record_of(record);
    if (!r)
        return IC_EINVAL;
    put_record(out, r, p);
    return out->status;
}
