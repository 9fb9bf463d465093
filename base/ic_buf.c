#include "base/ic_buf.h"

#include <string.h>

#include "base/ic_mem.h"

void ic_buf_init(ic_buf *b, size_t limit)
{
    *b = (ic_buf){.limit = limit};
}

void ic_buf_fini(ic_buf *b)
{
    ic_free(b->data);
    *b = (ic_buf){0};
}

void ic_buf_clear(ic_buf *b)
{
    b->size = 0;
    b->status = IC_OK;
}

int ic_buf_reserve(ic_buf *b, size_t more)
{
    if (b->status)
        return b->status;
    if (more > SIZE_MAX / 2 - b->size || (b->limit && b->size + more > b->limit))
        return b->status = IC_ELIMIT;
    size_t need = b->size + more;
    if (need <= b->capacity)
        return IC_OK;
    size_t capacity = b->capacity ? b->capacity : 256;
    while (capacity < need)
        capacity *= 2;
    uint8_t *moved = ic_try_alloc(capacity);
    if (!moved)
        return b->status = IC_ENOMEM;
    if (b->size)
        memcpy(moved, b->data, b->size);
    ic_free(b->data);
    b->data = moved;
    b->capacity = capacity;
    return IC_OK;
}

int ic_buf_append(ic_buf *b, const void *bytes, size_t count)
{
    int rc = ic_buf_reserve(b, count);
    if (rc == IC_OK && count) {
        memcpy(b->data + b->size, bytes, count);
        b->size += count;
    }
    return rc;
}

int ic_buf_u8(ic_buf *b, uint8_t v)
{
    return ic_buf_append(b, &v, 1);
}

int ic_buf_u32(ic_buf *b, uint32_t v)
{
    uint8_t le[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    return ic_buf_append(b, le, sizeof le);
}

int ic_buf_u64(ic_buf *b, uint64_t v)
{
    ic_buf_u32(b, (uint32_t)v);
    return ic_buf_u32(b, (uint32_t)(v >> 32));
}

int ic_buf_f32(ic_buf *b, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return ic_buf_u32(b, bits);
}

int ic_buf_blob(ic_buf *b, const void *bytes, uint32_t count)
{
    ic_buf_u32(b, count);
    return ic_buf_append(b, bytes, count);
}

void ic_cursor_init(ic_cursor *c, const void *data, size_t size)
{
    *c = (ic_cursor){.data = data, .size = size};
}

size_t ic_cursor_left(const ic_cursor *c)
{
    return c->size - c->at;
}

const void *ic_cursor_bytes(ic_cursor *c, size_t count)
{
    if (c->status || count > ic_cursor_left(c)) {
        c->status = IC_EFORMAT;
        return NULL;
    }
    const void *bytes = c->data + c->at;
    c->at += count;
    return bytes;
}

uint8_t ic_cursor_u8(ic_cursor *c)
{
    const uint8_t *p = ic_cursor_bytes(c, 1);
    return p ? *p : 0;
}

uint32_t ic_cursor_u32(ic_cursor *c)
{
    const uint8_t *p = ic_cursor_bytes(c, 4);
    if (!p)
        return 0;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint64_t ic_cursor_u64(ic_cursor *c)
{
    uint64_t low = ic_cursor_u32(c);
    return low | (uint64_t)ic_cursor_u32(c) << 32;
}

float ic_cursor_f32(ic_cursor *c)
{
    uint32_t bits = ic_cursor_u32(c);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

const void *ic_cursor_blob(ic_cursor *c, uint32_t *count)
{
    *count = ic_cursor_u32(c);
    return ic_cursor_bytes(c, *count);
}
