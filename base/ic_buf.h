/* ic_buf: growable bytes with a hard limit chosen by the owner. Single owner, no lock. */
#ifndef IC_BUF_H
#define IC_BUF_H

#include <stddef.h>
#include <stdint.h>

#include "base/ic_err.h"

typedef struct ic_buf {
    uint8_t *data;
    size_t size, capacity;
    size_t limit; /* 0: none; else appending beyond it fails with IC_ELIMIT */
    int status;   /* sticky: the first failure of an append; later appends do nothing */
} ic_buf;

void ic_buf_init(ic_buf *b, size_t limit);
void ic_buf_fini(ic_buf *b);  /* safe on zeroed memory */
void ic_buf_clear(ic_buf *b); /* keeps the memory, forgets bytes and status */
int ic_buf_reserve(ic_buf *b, size_t more);
int ic_buf_append(ic_buf *b, const void *bytes, size_t count);
/* Little-endian numbers, for formats that live on disk. */
int ic_buf_u8(ic_buf *b, uint8_t v);
int ic_buf_u32(ic_buf *b, uint32_t v);
int ic_buf_u64(ic_buf *b, uint64_t v);
int ic_buf_f32(ic_buf *b, float v);
/* u32 length, then the bytes. */
int ic_buf_blob(ic_buf *b, const void *bytes, uint32_t count);

/* A reader over borrowed bytes; sticky status; reads past the end give zeros and IC_EFORMAT. */
typedef struct ic_cursor {
    const uint8_t *data;
    size_t size, at;
    int status;
} ic_cursor;

void ic_cursor_init(ic_cursor *c, const void *data, size_t size);
uint8_t ic_cursor_u8(ic_cursor *c);
uint32_t ic_cursor_u32(ic_cursor *c);
uint64_t ic_cursor_u64(ic_cursor *c);
float ic_cursor_f32(ic_cursor *c);
/* Borrows count bytes inside the data; NULL at the end. */
const void *ic_cursor_bytes(ic_cursor *c, size_t count);
/* A blob as ic_buf_blob wrote it; *count gets its length. */
const void *ic_cursor_blob(ic_cursor *c, uint32_t *count);
size_t ic_cursor_left(const ic_cursor *c);

#endif
