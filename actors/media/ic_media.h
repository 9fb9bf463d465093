/* ic_media: the fence around FFmpeg. A source of pixels goes in (a file, somebody's bytes, a URL, a
 * camera), sampled RGB frames come out. No FFmpeg type is seen outside of this folder, and the
 * interface is such that the fence could run in a process of its own.
 *
 * Threads: one owner thread per ic_media; ic_media_interrupt alone may be called from any thread.
 * Calls block, within the deadlines of the config; nothing is printed.
 *
 * Media are hostile. What holds:
 * - Only the formats of a fixed list are opened, whatever the source; playlists and everything else
 *   that names other files (hls, dash, concat, sdp, image sequences, mov external references ...)
 *   are refused. FILE, BYTES and http(s) are read through this room's own I/O, and libavformat may
 *   open nothing by itself there.
 * - FILE: the path is resolved (symbolic links too), must lie under one of the roots, and must be a
 *   regular file; the opened descriptor is checked again, so that swapping a link in between is
 *   seen.
 * - URL http, https: an HTTP client of our own. Each host, also that of every redirect, is resolved
 *   once and all of its addresses are checked; the connection goes to the checked address (http),
 *   or, for https, where libavformat resolves the name again, to a server that must prove the name
 *   by certificate before anything is sent. https never falls back to http in a redirect.
 * - URL rtsp: over TCP only, to the checked address. What does not hold: libavformat follows an
 *   RTSP redirect by itself; we see it afterwards and refuse, but its opening requests have then
 *   been sent to the other place.
 * - CAMERA: only /dev/video*, only if allowed.
 * - Picture size, number of streams, probing, and each deadline are bounded.
 *
 * Time. All times are microseconds on the source's own clock, which starts at 0 with its first
 * picture. With fps > 0, sample k (k = 0, 1, ...) is the last picture with pts <= from + k/fps; it
 * exists while from + k/fps lies before the end of the source (last pts plus that picture's
 * duration) and before `to`. With fps = 0 every picture is given, with its own pts. A clock that
 * jumps back, or ahead by more than an hour (live: 10 s), is joined up, counted and noticed.
 *
 * Pixels. RGB24, rotation and mirroring of the metadata applied, matrix (BT.601/709/2020) and range
 * by the file's tags; without a tag BT.709 from 1280 columns or 577 rows on, else BT.601. Pixels
 * stay as stored when they are not square (as transformers' video readers do); the ratio is in the
 * info. Alpha is dropped. Later pictures may differ in size from the info if the stream changes.
 */
#ifndef IC_MEDIA_H
#define IC_MEDIA_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ic_err.h"
#include "base/ic_frame.h"

typedef struct ic_media ic_media;

typedef enum ic_media_kind {
    IC_MEDIA_FILE,  /* a path on this machine, under one of the roots */
    IC_MEDIA_BYTES, /* uploads and stdin, through callbacks */
    IC_MEDIA_URL,   /* http://, https://, rtsp:// */
    IC_MEDIA_CAMERA /* /dev/videoN */
} ic_media_kind;

/* Everything is borrowed for the call of ic_media_open, but `user`, which must live as long as the
 * ic_media. */
typedef struct ic_media_source {
    ic_media_kind kind;
    const char *name; /* path, URL or device; for BYTES a word for the messages, may be NULL */
    const char *const *roots; /* FILE: permitted folders; none permits nothing */
    size_t roots_count;

    /* BYTES. Gives 1..size bytes, waiting for them at most 50 ms or so; IC_EAGAIN: nothing yet (it
     * is called again until the deadline); 0 or IC_ECLOSED: the end; IC_ETIMEOUT, IC_ECANCELED and
     * every other code ends the source with that code. */
    int64_t (*read)(void *user, uint8_t *into, size_t size);
    /* Moves to an absolute offset; 0 or a code. NULL when the source cannot seek: then an MP4 with
     * its index at the end cannot be read, and `from` is reached by decoding up to it. */
    int (*seek)(void *user, int64_t offset);
    int64_t size; /* bytes, -1 if unknown */
    void *user;
} ic_media_source;

typedef struct ic_media_config {
    double fps;            /* samples a second; 0: every picture */
    int64_t from_us;       /* first sample's time */
    int64_t to_us;         /* samples come before it; -1: to the end */
    uint64_t max_frames;   /* 0: no bound */
    int open_timeout_ms;   /* from open to the first decoded picture */
    int packet_timeout_ms; /* longest wait for the next bytes */
    int64_t max_pixels;    /* width * height of a picture */
    /* More than one may show the damaged parts of a damaged file differently each time. */
    int threads;        /* of the decoder */
    bool live;          /* also set by rtsp and cameras */
    bool allow_network; /* URL at all */
    bool allow_private; /* URL: also private, loopback and link-local addresses */
    bool allow_camera;
    const char
        *ca_file; /* https: certificates trusted instead of the system's; NULL: the system's */
    /* Borrowed for the life of the ic_media, may be NULL: when it becomes true, all waiting ends as
     * by ic_media_interrupt. It is the way to end an ic_media_open. */
    const atomic_bool *stop;
} ic_media_config;

/* fps 2, no range, 15 s to open, 15 s per packet, 8192 * 8192 pixels, 2 threads, nothing allowed.
 */
void ic_media_config_init(ic_media_config *cfg);

typedef struct ic_media_info {
    int width, height;    /* after rotation */
    int sar_num, sar_den; /* shape of a pixel after rotation; 1:1 unless tagged */
    int rotation;         /* degrees clockwise that were applied: 0, 90, 180, 270 */
    bool mirrored;        /* flipped left to right after the rotation */
    int64_t duration_us;  /* -1 if unknown */
    double fps;           /* average of the source; 0 if unknown */
    bool is_live;
    bool is_seekable;
    bool is_image;      /* one picture: gives one frame at time 0, whatever fps says */
    char codec[32];     /* "h264" */
    char container[64]; /* "mov,mp4,m4a,3gp,3g2,mj2" */
} ic_media_info;

typedef struct ic_media_stats {
    uint64_t packets;    /* of the video stream, read */
    uint64_t decoded;    /* pictures */
    uint64_t corrupt;    /* packets or pictures that the decoder refused or marked damaged */
    uint64_t disordered; /* pictures dropped since they came after a later one */
    uint64_t jumps;      /* of the source's clock, joined up */
    uint64_t sampled;    /* frames given */
    uint64_t repeated;   /* of these, the same picture as the frame before */
    int64_t bytes;       /* read from the source; 0 where libavformat reads by itself */
    int64_t last_pts_us; /* own pts of the picture that the last frame shows; -1 before it */
} ic_media_stats;

/* Opens and decodes up to the first picture, so that what opens has a picture. Caller owns *out,
 * NULL on failure. Errors: IC_ENOTFOUND (no such file under the roots, no such host), IC_EINVAL
 * (senseless or forbidden by config: the text says which setting), IC_EFORMAT (not media, no video,
 * a playlist, nothing that can be decoded), IC_EUNSUPPORTED (a codec that is not built in, or that
 * needs seeking), IC_ELIMIT (too large), IC_EIO, IC_ETIMEOUT, IC_ECANCELED, IC_ENOMEM. */
IC_MUST_CHECK int ic_media_open(ic_media **out, const ic_media_source *src,
                                const ic_media_config *cfg, ic_error *e);

/* Releases all; nulls. NULL inside is fine. */
void ic_media_close(ic_media **m_p);

/* The next sample. Caller owns *out: pts_us = from + k/fps (with fps = 0 the picture's pts),
 * ordinal = k. IC_ECLOSED at the end (also of to_us and max_frames); IC_ETIMEOUT when
 * packet_timeout_ms passed without a byte; IC_ECANCELED after an interrupt; IC_EINVAL when `from`
 * is behind the end; IC_EIO when the connection broke; IC_ELIMIT, IC_ENOMEM. Every code other than
 * IC_OK is final, later calls give it again; but a live source may be asked again after
 * IC_ETIMEOUT, and waits again. */
IC_MUST_CHECK int ic_media_next(ic_media *m, ic_frame **out, ic_error *e);

/* From any thread: the waiting call and all later ones return IC_ECANCELED, within about 100 ms
 * (one picture's decoding cannot be cut short). */
void ic_media_interrupt(ic_media *m);

/* Borrows: valid until close. */
const ic_media_info *ic_media_get_info(const ic_media *m);
void ic_media_get_stats(const ic_media *m, ic_media_stats *out);

/* --- a file as it lies there: to tell whether it is still the same --- */

typedef struct ic_media_file_info {
    int64_t bytes, mtime_us; /* size, time of its last change */
} ic_media_file_info;

/* Takes the next piece of a file: a MiB, the last one less. A negative code ends the reading. */
typedef int ic_media_piece_fn(void *user, const uint8_t *bytes, size_t size);

/* Of a FILE source, with the rules and errors of ic_media_open. */
IC_MUST_CHECK int ic_media_file_look(const ic_media_source *src, ic_media_file_info *info,
                                     ic_error *e);
/* Gives all of a FILE source away; info is set before the first piece. IC_EMISMATCH: the file
 * changed while it was read. */
IC_MUST_CHECK int ic_media_file_read(const ic_media_source *src, ic_media_file_info *info,
                                     ic_media_piece_fn *fn, void *user, ic_error *e);

/* Sentences for the user, in the order they came up ("the file is truncated: ..."): the i-th, or
 * NULL. New ones may appear with each ic_media_next. Borrows: valid until close. At most 8. */
const char *ic_media_notice(const ic_media *m, size_t i);

#endif
