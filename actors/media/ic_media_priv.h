/* What the files of the media room share: waiting, byte sources, addresses, pictures. FFmpeg's
 * types may be named here, and nowhere outside of the room. */
#ifndef IC_MEDIA_PRIV_H
#define IC_MEDIA_PRIV_H

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <sys/socket.h>

#include "actors/media/ic_media.h"

/* --- waiting: every blocking call asks the guard, at least each 50 ms ---------------------------
 */

enum { IC_MEDIA_SLICE_MS = 50 };

typedef struct ic_media_guard {
    atomic_bool interrupted;  /* any thread */
    const atomic_bool *stop;  /* may be NULL */
    int packet_timeout_ms;    /* owner thread from here on */
    int64_t open_deadline_us; /* 0: not opening any more */
    int64_t deadline_us;      /* of the wait that goes on */
} ic_media_guard;

/* A new wait for bytes begins now. */
void ic_media_guard_begin(ic_media_guard *g);
/* IC_OK, IC_ECANCELED or IC_ETIMEOUT. */
int ic_media_guard_check(const ic_media_guard *g);
/* The same as FFmpeg wants it: opaque is a guard. */
int ic_media_guard_callback(void *opaque);

/* --- byte sources -------------------------------------------------------------------------------
 */

typedef struct ic_media_bytes {
    /* As in ic_media_source; called until the guard says stop. */
    int64_t (*read)(void *user, uint8_t *into, size_t size);
    int (*seek)(void *user, int64_t offset); /* NULL: cannot */
    void (*close)(void *user);               /* may be NULL */
    int64_t size;                            /* -1 if unknown */
    void *user;
    ic_media_guard *guard; /* borrowed */
    int64_t at, total;     /* offset now; bytes read in all */
    int status;            /* why reading ended; IC_OK at a plain end */
} ic_media_bytes;

/* An AVIOContext over b (borrowed, must outlive it). NULL: no memory. */
AVIOContext *ic_media_bytes_avio(ic_media_bytes *b);
void ic_media_bytes_avio_free(AVIOContext **pb_p);
void ic_media_bytes_fini(ic_media_bytes *b);

/* Fills in read, seek, close, size, user of b. The guard of b is set already. */
int ic_media_file_open(ic_media_bytes *b, const ic_media_source *src, ic_error *e);
int ic_media_http_open(ic_media_bytes *b, const char *url, const ic_media_config *cfg, ic_error *e);

/* --- addresses ----------------------------------------------------------------------------------
 */

typedef struct ic_media_url {
    char scheme[8];
    char user[256];    /* "user:password" or empty */
    char host[256];    /* without brackets */
    char target[4096]; /* path and query, begins with '/' */
    int port;
} ic_media_url;

typedef struct ic_media_address {
    struct sockaddr_storage sa;
    socklen_t length;
} ic_media_address;

enum { IC_MEDIA_MAX_ADDRESSES = 16 };

/* IC_EINVAL for other schemes than http, https, rtsp, for spaces and control characters. */
int ic_media_url_parse(ic_media_url *u, const char *text, ic_error *e);
/* Is the address a public unicast one? */
bool ic_media_address_is_public(const struct sockaddr *sa);
/* All addresses of host; refuses with IC_EINVAL if one of them is not public and private ones are
 * not allowed. *count gets how many. */
int ic_media_resolve(const ic_media_url *u, bool allow_private, const ic_media_guard *g,
                     ic_media_address *out, size_t *count, ic_error *e);
/* A connected non-blocking socket, or an error. */
int ic_media_connect(const ic_media_address *list, size_t count, const ic_media_url *u,
                     const ic_media_guard *g, int *fd, ic_error *e);
/* "1.2.3.4" or "[2001:db8::1]". */
void ic_media_address_text(const ic_media_address *a, char *text, size_t size);
/* Waits until fd is ready for `events` of poll. */
int ic_media_wait_fd(int fd, short events, const ic_media_guard *g);

/* --- the input: demuxer, decoder and the source's clock ------------------------------------------
 */

enum { IC_MEDIA_MAX_NOTES = 8 };

typedef struct ic_media_notes {
    char text[IC_MEDIA_MAX_NOTES][256];
    size_t count;
} ic_media_notes;

void ic_media_note(ic_media_notes *n, const char *fmt, ...) IC_PRINTF(2, 3);

typedef struct ic_media_input {
    /* set by open, constant after */
    const ic_media_config *cfg;
    ic_media_guard *guard;
    AVFormatContext *format;
    AVStream *stream;
    AVCodecContext *decoder;
    bool is_image, is_live;
    bool counted; /* no time stamps: pictures are counted */
    /* reading */
    ic_media_bytes bytes; /* not used by rtsp and cameras */
    AVIOContext *pb;
    AVPacket *packet;
    AVFrame *raw;
    bool draining;
    int end; /* why reading packets ended */
    /* the clock, us */
    bool has_origin, has_last;
    int64_t origin; /* of the stream, in its time base */
    int64_t offset_us, last_us, last_step_us;
    /* for the user */
    ic_media_stats stats;
    ic_media_notes notes;
} ic_media_input;

typedef struct ic_media_picture {
    AVFrame *frame;
    bool valid;
    int64_t pts_us, duration_us;
} ic_media_picture;

/* Opens source, demuxer and decoder; in is zeroed but for cfg and guard. After a failure too:
 * ic_media_input_fini. */
int ic_media_input_open(ic_media_input *in, const ic_media_source *src, ic_error *e);
void ic_media_input_fini(ic_media_input *in);
/* The next picture in the order of showing. IC_ECLOSED: the end. */
int ic_media_input_next(ic_media_input *in, ic_media_picture *out, ic_error *e);
/* To a key picture at or before the time, as far as the format knows. */
int ic_media_input_seek(ic_media_input *in, int64_t to_us);
/* "video ends early" and its kin, once the end is reached. */
void ic_media_input_note_end(ic_media_input *in);

/* --- pictures ------------------------------------------------------------------------------------
 */

/* dst = src, transposed first, then flipped. */
typedef struct ic_media_orientation {
    bool transpose, flip_x, flip_y;
} ic_media_orientation;

ic_media_orientation ic_media_orientation_of(const int32_t *display_matrix);
/* Degrees clockwise, and whether a left-right mirror follows. */
int ic_media_orientation_degrees(ic_media_orientation o, bool *mirrored);

typedef struct ic_media_painter ic_media_painter; /* converts pictures to RGB; keeps its scaler */

ic_media_painter *ic_media_painter_new(void);
void ic_media_painter_destroy(ic_media_painter **p_p);
/* Caller owns *out. */
int ic_media_painter_paint(ic_media_painter *p, const AVFrame *picture, ic_media_orientation o,
                           ic_frame **out, ic_error *e);

#endif
