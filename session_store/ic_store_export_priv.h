/* The records of an export, as bytes and back. Pure: neither a store nor a file is needed. */
#ifndef IC_STORE_EXPORT_PRIV_H
#define IC_STORE_EXPORT_PRIV_H

#include "session_store/ic_store_export.h"

enum {
    IC_EXPORT_HEAD = 32, /* bytes before the first record */
    IC_EXPORT_SUM = IC_STORE_KEY_BYTES,
    IC_EXPORT_RECORD_MAX = 2 * IC_STORE_RECORD_MAX + 65536 /* a turn's text and its parts */
};

typedef enum ic_export_type { /* in this order, FRAME beside JOURNAL; MEDIA and its PIECEs alternate
                               */
                              IC_EXPORT_SESSION = 1,
                              IC_EXPORT_TURN = 2,
                              IC_EXPORT_MEDIA = 3,
                              IC_EXPORT_PIECE = 4,
                              IC_EXPORT_JOURNAL = 5,
                              IC_EXPORT_SEGMENT = 6,
                              IC_EXPORT_CHECKPOINT = 7,
                              IC_EXPORT_END = 8,
                              IC_EXPORT_FRAME = 9
} ic_export_type;

typedef struct ic_export_record {
    ic_export_type type;
    ic_store_export_head head;  /* SESSION */
    int64_t journal_base;       /* SESSION: number of the record before the first JOURNAL */
    ic_store_turn turn;         /* TURN */
    ic_store_media media;       /* MEDIA */
    ic_store_record journal;    /* JOURNAL */
    ic_store_frame frame;       /* FRAME */
    ic_store_manifest manifest; /* CHECKPOINT; its segments are the SEGMENT records */
    uint32_t tag;               /* SEGMENT */
    const void *bytes;          /* PIECE, SEGMENT */
    size_t size;
    uint64_t count; /* END: records before it */
} ic_export_record;

/* Starts a stream: writes its head, and the checksum that the first record goes on from. */
int ic_export_begin(ic_buf *out, uint8_t sum[IC_EXPORT_SUM], ic_error *e);
/* Appends one record; sum goes on with it. */
int ic_export_write(ic_buf *out, const ic_export_record *r, uint8_t sum[IC_EXPORT_SUM],
                    ic_error *e);
/* A record from its payload alone. Borrows from the payload. IC_EFORMAT, IC_EVERSION. */
int ic_export_decode(ic_export_type type, const void *payload, size_t size, ic_export_record *r,
                     ic_error *e);

/* Reads a stream as it comes. */
typedef struct ic_export_stream {
    ic_buf in;
    size_t used;    /* of `in` */
    uint64_t at;    /* bytes of the stream before in.data */
    uint64_t count; /* records */
    uint8_t sum[IC_EXPORT_SUM];
    ic_export_type last;
    uint32_t format;
    bool has_head, ended;
    bool has_segments; /* that want a CHECKPOINT */
} ic_export_stream;
void ic_export_stream_fini(ic_export_stream *x);
int ic_export_stream_feed(ic_export_stream *x, const void *bytes, size_t size, ic_error *e);
/* 1: *r is the next record (Borrows: until the next call); 0: more bytes are needed, or, where
 * x->ended, it is over; negative: what is wrong, and where. */
int ic_export_stream_next(ic_export_stream *x, ic_export_record *r, ic_error *e);

#endif
