/* Reading msgpack bytes without unpacking them: the check before msgpack-c sees a byte, and the
 * request number of a map that is otherwise refused. */
#include <string.h>

#include "wire/ic_wire.h"

/* What stands before an object's content. */
typedef struct head {
    bool is_container;
    uint64_t count; /* container: objects inside; else: bytes of content */
} head;

typedef struct reader {
    const uint8_t *data;
    size_t size, at;
} reader;

static bool read_be(reader *r, int bytes, uint64_t *value)
{
    if (r->size - r->at < (size_t)bytes)
        return false;
    *value = 0;
    for (int i = 0; i < bytes; i++)
        *value = *value << 8 | r->data[r->at++];
    return true;
}

/* A length of `bytes` bytes, then count * per content (objects or bytes) plus extra. */
static bool read_length(reader *r, int bytes, unsigned per, unsigned extra, head *h)
{
    if (!read_be(r, bytes, &h->count))
        return false;
    h->count = h->count * per + extra;
    return true;
}

/* The msgpack specification's table of first bytes, from 0xc0 on. */
static bool read_head_c0(reader *r, uint8_t first, head *h)
{
    static const uint8_t scalar_bytes[] = {4, 8, 1, 2, 4, 8, 1, 2, 4, 8}; /* 0xca to 0xd3 */
    switch (first) {
    case 0xc0: /* nil */
    case 0xc2: /* false */
    case 0xc3: /* true */
        return true;
    case 0xc4:
    case 0xc5:
    case 0xc6: /* bin */
        return read_length(r, 1 << (first - 0xc4), 1, 0, h);
    case 0xc7:
    case 0xc8:
    case 0xc9: /* ext: a type byte more */
        return read_length(r, 1 << (first - 0xc7), 1, 1, h);
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8: /* fixext */
        h->count = 1u + (1u << (first - 0xd4));
        return true;
    case 0xd9:
    case 0xda:
    case 0xdb: /* str */
        return read_length(r, 1 << (first - 0xd9), 1, 0, h);
    case 0xdc:
    case 0xdd: /* array */
        h->is_container = true;
        return read_length(r, 2 << (first - 0xdc), 1, 0, h);
    case 0xde:
    case 0xdf: /* map */
        h->is_container = true;
        return read_length(r, 2 << (first - 0xde), 2, 0, h);
    default:
        if (first < 0xca || first > 0xd3)
            return false; /* 0xc1 is never used */
        h->count = scalar_bytes[first - 0xca];
        return true;
    }
}

static bool read_head(reader *r, head *h)
{
    *h = (head){0};
    if (r->at == r->size)
        return false;
    uint8_t first = r->data[r->at++];
    if (first < 0x80 || first >= 0xe0) /* small integers */
        return true;
    if (first < 0xa0) { /* fixmap, fixarray */
        h->is_container = true;
        h->count = first < 0x90 ? (first & 15u) * 2u : first & 15u;
        return true;
    }
    if (first < 0xc0) { /* fixstr */
        h->count = first & 31u;
        return true;
    }
    return read_head_c0(r, first, h);
}

/* Steps over one object with all it contains. */
static int skip_object(reader *r, size_t *objects, ic_error *e)
{
    uint64_t left[IC_WIRE_DEPTH_MAX + 1] = {1}; /* objects still to come at each depth */
    for (int depth = 0; depth >= 0;) {
        head h;
        if (!left[depth]) {
            depth--;
            continue;
        }
        left[depth]--;
        if (++*objects > IC_WIRE_OBJECTS_MAX)
            return ic_error_set(e, IC_ELIMIT, "more than %d msgpack objects in one message",
                                IC_WIRE_OBJECTS_MAX);
        size_t start = r->at;
        if (!read_head(r, &h))
            return ic_error_set(e, IC_EFORMAT, "no msgpack object at byte %zu of %zu", start,
                                r->size);
        if (h.count > r->size - r->at) /* an object is one byte at least */
            return ic_error_set(e, IC_EFORMAT,
                                "the msgpack object at byte %zu claims %llu %s, %zu bytes are left",
                                start, (unsigned long long)h.count,
                                h.is_container ? "objects" : "bytes", r->size - r->at);
        if (!h.is_container) {
            r->at += (size_t)h.count;
            continue;
        }
        if (depth == IC_WIRE_DEPTH_MAX)
            return ic_error_set(e, IC_ELIMIT, "msgpack containers nested deeper than %d",
                                IC_WIRE_DEPTH_MAX);
        left[++depth] = h.count;
    }
    return IC_OK;
}

int ic_wire_scan(const void *body, size_t body_size, ic_error *e)
{
    reader r = {body, body_size, 0};
    size_t objects = 0;
    int rc = skip_object(&r, &objects, e);
    if (rc)
        return rc;
    if (r.at != r.size)
        return ic_error_set(e, IC_EFORMAT, "%zu bytes behind the msgpack object", r.size - r.at);
    return IC_OK;
}

/* An unsigned integer at the reader's place, whatever its width. */
static bool read_uint(reader *r, uint64_t *value)
{
    if (r->at == r->size)
        return false;
    uint8_t first = r->data[r->at++];
    *value = first;
    if (first < 0x80)
        return true;
    return first >= 0xcc && first <= 0xcf && read_be(r, 1 << (first - 0xcc), value);
}

bool ic_wire_peek_re(const void *body, size_t body_size, uint64_t *re)
{
    reader r = {body, body_size, 0};
    size_t objects = 0;
    head h;
    if (!body_size || !read_head(&r, &h) || !h.is_container)
        return false;
    if ((r.data[0] & 0xf0) != 0x80 && r.data[0] != 0xde && r.data[0] != 0xdf)
        return false; /* an array */
    for (uint64_t pairs = h.count / 2; pairs; pairs--) {
        bool found = r.size - r.at >= 3 && !memcmp(r.data + r.at, "\xa2re", 3);
        if (skip_object(&r, &objects, NULL))
            return false;
        if (found)
            return read_uint(&r, re) && *re <= INT64_MAX;
        if (skip_object(&r, &objects, NULL))
            return false;
    }
    return false;
}

bool ic_wire_is_utf8(const void *bytes, size_t size)
{
    const uint8_t *s = bytes, *end = s + size;
    while (s < end) {
        unsigned c = *s++;
        if (c < 0x80)
            continue;
        int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
        static const uint32_t smallest[] = {0, 0x80, 0x800, 0x10000};
        if (c < 0xc2 || c > 0xf4 || end - s < more)
            return false;
        uint32_t point = c & (0x3fu >> more);
        for (int i = 0; i < more; i++, s++) {
            if ((*s & 0xc0) != 0x80)
                return false;
            point = point << 6 | (*s & 0x3fu);
        }
        if (point < smallest[more] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
            return false;
    }
    return true;
}
