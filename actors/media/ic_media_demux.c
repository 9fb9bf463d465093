/* Opening: which formats are let in, and what FFmpeg may do while it opens them. Only formats and
 * decoders of the lists below; FFmpeg gets our bytes and may open nothing else. */
#include "actors/media/ic_media_priv.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <libavdevice/avdevice.h>
#include <libavutil/avstring.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Formats that carry their own bytes. Those of sound are here so that the refusal can say why. */
static const char formats[] =
    "mov,mp4,matroska,webm,avi,asf,flv,mpeg,mpegts,mpegvideo,m4v,h264,hevc,"
    "h263,av1,obu,ivf,ogg,gif,apng,mjpeg,nut,yuv4mpegpipe,vc1,"
    "png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,ppm_pipe,pgm_pipe,"
    "mp3,wav,flac,aac";
/* Formats that name other files or machines. */
static const char playlists[] = "hls,dash,concat,sdp,imf,image2,webm_dash_manifest,rtsp,rtp,sap";

static const char decoders[] =
    "h264,hevc,vp8,vp9,libdav1d,av1,mpeg4,mpeg2video,mpeg1video,mpegvideo,msmpeg4v1,msmpeg4v2,"
    "msmpeg4,wmv1,wmv2,wmv3,vc1,flv,h263,h263p,theora,mjpeg,mjpegb,gif,apng,png,webp,bmp,tiff,ppm,"
    "pgm,prores,dnxhd,ffv1,huffyuv,ffvhuff,utvideo,rawvideo,rv30,rv40,dvvideo,svq1,svq3,cinepak,"
    "qtrle,zlib,wrapped_avframe";

enum {
    PROBE_BYTES = 1 << 20,
    MAX_STREAMS = 64,
    MAX_BLOCK = 1 << 30 /* one allocation of FFmpeg; a 16-bit picture of max_pixels fits */
};

/* FFmpeg's log is not printed. One fact is only in it: that a picture was refused for its size (in
 * the probing decoders, which run in the caller's thread). If the words change, the answer is a
 * plain "cannot be decoded". */
static _Thread_local bool too_large;

static void listen_to_log(void *who, int level, const char *fmt, va_list args)
{
    (void)who, (void)level, (void)args;
    if (strncmp(fmt, "Picture size ", 13) == 0)
        too_large = true;
}

static void quiet_once(void)
{
    av_log_set_level(AV_LOG_QUIET);
    av_log_set_callback(listen_to_log);
    av_max_alloc(MAX_BLOCK);
    avdevice_register_all();
}

static int refuse_open(AVFormatContext *s, AVIOContext **pb, const char *url, int flags,
                       AVDictionary **options)
{
    (void)s, (void)pb, (void)url, (void)flags, (void)options;
    return AVERROR(EPERM);
}

static const char *shown_name(const ic_media_source *src)
{
    return src->name && src->name[0] ? src->name : "the data";
}

/* Why FFmpeg stopped, in our codes: first what our own side knows. */
static int reason(const ic_media_input *in, int av)
{
    if (in->bytes.status != IC_OK)
        return in->bytes.status;
    int rc = ic_media_guard_check(in->guard);
    if (rc != IC_OK && (rc == IC_ECANCELED || av == AVERROR_EXIT || av == AVERROR(ETIMEDOUT)))
        return rc;
    if (av == AVERROR(ENOMEM))
        return IC_ENOMEM;
    if (av == AVERROR(ETIMEDOUT))
        return IC_ETIMEOUT;
    return av == AVERROR(EIO) || av == AVERROR_EXIT ? IC_EIO : IC_EFORMAT;
}

static int fail_open(const ic_media_input *in, const ic_media_source *src, int av,
                     const char *otherwise, ic_error *e)
{
    int rc = reason(in, av);
    switch (rc) {
    case IC_ETIMEOUT:
        return ic_error_set(e, rc, "%s: nothing came in time", shown_name(src));
    case IC_ECANCELED:
        return ic_error_set(e, rc, "%s: stopped while opening", shown_name(src));
    case IC_ENOMEM:
        return ic_error_set(e, rc, "%s: no memory to open it", shown_name(src));
    case IC_EFORMAT:
        return ic_error_set(e, rc, "%s: %s", shown_name(src), otherwise);
    default:
        return ic_error_set(e, rc, "%s: reading failed", shown_name(src));
    }
}

/* --- what kind of bytes ----------------------------------------------------------------------- */

/* Playlists begin so; FFmpeg's own probes look for more and would miss some. */
static bool begins_like_playlist(const uint8_t *head, size_t size)
{
    static const char *const marks[] = {"#EXTM3U", "ffconcat", "[playlist]",  "<MPD", "<smil",
                                        "v=0\r\n", "v=0\n",    "[Reference]", "<asx", "<ASX"};
    if (size >= 3 && memcmp(head, "\xef\xbb\xbf", 3) == 0) {
        head += 3;
        size -= 3;
    }
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        if (size >= strlen(marks[i]) && memcmp(head, marks[i], strlen(marks[i])) == 0)
            return true;
    char text[256];
    size_t n = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, head, n);
    text[n] = '\0';
    return strncmp(text, "<?xml", 5) == 0 && strstr(text, "<MPD");
}

static int refuse_playlist(const ic_media_source *src, ic_error *e)
{
    return ic_error_set(e, IC_EFORMAT,
                        "%s is a playlist: it names other files, which are not opened; give the "
                        "media file itself",
                        shown_name(src));
}

static int probe(ic_media_input *in, const ic_media_source *src, const AVInputFormat **out,
                 ic_error *e)
{
    uint8_t head[512];
    int n = avio_read(in->pb, head, sizeof head);
    if (n <= 0)
        return fail_open(in, src, n, "there are no bytes", e);
    if (begins_like_playlist(head, (size_t)n))
        return refuse_playlist(src, e);
    if (avio_seek(in->pb, 0, SEEK_SET) < 0)
        return ic_error_set(e, IC_EIO, "%s: reading failed", shown_name(src));
    int av = av_probe_input_buffer2(in->pb, out, "", NULL, 0, PROBE_BYTES);
    if (av < 0)
        return fail_open(in, src, av, "this is not a video or picture that is known here", e);
    const char *name = (*out)->name;
    if (av_match_list(name, playlists, ',') > 0)
        return refuse_playlist(src, e);
    if (av_match_list(name, formats, ',') <= 0)
        return ic_error_set(e, IC_EFORMAT, "%s: the format '%s' is not one of those accepted here",
                            shown_name(src), name);
    return IC_OK;
}

/* --- the demuxer ------------------------------------------------------------------------------ */

static AVFormatContext *new_format(ic_media_input *in, const char *protocols)
{
    AVFormatContext *s = avformat_alloc_context();
    if (!s)
        return NULL;
    s->interrupt_callback = (AVIOInterruptCB){ic_media_guard_callback, in->guard};
    s->max_streams = MAX_STREAMS;
    s->protocol_whitelist = av_strdup(protocols);
    s->codec_whitelist = av_strdup(decoders);
    if (in->is_live) { /* what is looked at to learn about the streams delays all that follows */
        s->max_analyze_duration = AV_TIME_BASE;
        s->fps_probe_size = 2;
    }
    return s;
}

static int open_bytes(ic_media_input *in, const ic_media_source *src, ic_error *e)
{
    const AVInputFormat *kind = NULL;
    in->pb = ic_media_bytes_avio(&in->bytes);
    if (!in->pb)
        return ic_error_set(e, IC_ENOMEM, "no memory to read %s", shown_name(src));
    int rc = probe(in, src, &kind, e);
    if (rc != IC_OK)
        return rc;
    const char *name = kind->name;
    size_t length = strlen(name);
    in->is_image = length > 5 && strcmp(name + length - 5, "_pipe") == 0;
    in->counted = (kind->flags & AVFMT_NOTIMESTAMPS) != 0;
    in->format = new_format(in, "none");
    if (!in->format)
        return ic_error_set(e, IC_ENOMEM, "no memory to open %s", shown_name(src));
    in->format->pb = in->pb;
    in->format->io_open = refuse_open;
    in->format->format_whitelist = av_strdup(formats);
    int av = avformat_open_input(&in->format, "", kind, NULL);
    if (av >= 0)
        return IC_OK;
    bool mp4 = strncmp(name, "mov", 3) == 0;
    if (!in->pb->seekable && reason(in, av) == IC_EIO && in->bytes.status == IC_OK)
        return ic_error_set(e, IC_EUNSUPPORTED,
                            "%s: the format '%s' needs a source that can seek: give it as a file",
                            shown_name(src), name);
    return fail_open(in, src, av,
                     mp4 && !in->pb->seekable
                         ? "its index (moov) is not at the front, and this source cannot seek: "
                           "give it as a file, or write it with -movflags +faststart"
                     : mp4 ? "its index (moov) is missing, probably because the file was cut off: "
                             "without it nothing can be decoded"
                           : "it cannot be read: it is damaged or cut off at the front",
                     e);
}

/* --- rtsp and cameras: libavformat reads by itself
 * ------------------------------------------------ */

static int open_rtsp(ic_media_input *in, const char *url, ic_error *e)
{
    ic_media_url u;
    ic_media_address list[IC_MEDIA_MAX_ADDRESSES];
    size_t count = 0;
    int probe_fd = -1;
    int rc = ic_media_url_parse(&u, url, e);
    if (rc == IC_OK)
        rc = ic_media_resolve(&u, in->cfg->allow_private, in->guard, list, &count, e);
    for (size_t i = 0; rc == IC_OK && i < count && probe_fd < 0; i++) {
        /* Find the address that answers, then name it to libavformat in place of the host. */
        rc = ic_media_connect(&list[i], 1, &u, in->guard, &probe_fd, e);
        if (rc == IC_EIO && i + 1 < count)
            rc = IC_OK;
        else if (rc == IC_OK)
            list[0] = list[i];
    }
    if (rc != IC_OK)
        return rc;
    close(probe_fd);
    char host[64], pinned[sizeof u.target + sizeof u.user + 128];
    ic_media_address_text(&list[0], host, sizeof host);
    snprintf(pinned, sizeof pinned, "rtsp://%s%s%s:%d%s", u.user, u.user[0] ? "@" : "", host,
             u.port, u.target);
    in->is_live = true;
    in->format = new_format(in, "rtsp,tcp");
    if (!in->format)
        return ic_error_set(e, IC_ENOMEM, "no memory to open %s", u.host);
    in->format->format_whitelist = av_strdup("rtsp");
    in->format->io_open = refuse_open;
    AVDictionary *options = NULL;
    av_dict_set(&options, "rtsp_transport", "tcp", 0);
    av_dict_set(&options, "allowed_media_types", "video", 0);
    int av = avformat_open_input(&in->format, pinned, av_find_input_format("rtsp"), &options);
    av_dict_free(&options);
    ic_media_source named = {.name = u.host};
    if (av < 0)
        return fail_open(in, &named, av, "the RTSP server gives no stream at this address", e);
    if (strcmp(in->format->url, pinned) != 0)
        return ic_error_set(e, IC_EINVAL, "%s redirects to another RTSP address: give that one",
                            u.host);
    return IC_OK;
}

static bool is_camera_path(const char *path)
{
    struct stat st;
    static const char head[] = "/dev/video";
    size_t n = strlen(head);
    if (!path || strncmp(path, head, n) != 0 || !path[n])
        return false;
    if (strspn(path + n, "0123456789") != strlen(path + n))
        return false;
    return stat(path, &st) == 0 && S_ISCHR(st.st_mode);
}

static int open_camera(ic_media_input *in, const ic_media_source *src, ic_error *e)
{
    if (!in->cfg->allow_camera)
        return ic_error_set(e, IC_EINVAL,
                            "cameras are not open to clients: the server's "
                            "configuration must allow them");
    if (!is_camera_path(src->name))
        return ic_error_set(e, IC_ENOTFOUND,
                            "there is no camera '%s': they are named /dev/video0, "
                            "/dev/video1, ...",
                            src->name ? src->name : "");
    in->is_live = true;
    in->format = new_format(in, "none");
    if (!in->format)
        return ic_error_set(e, IC_ENOMEM, "no memory to open %s", src->name);
    in->format->flags |= AVFMT_FLAG_NONBLOCK; /* waiting is ours */
    int av = avformat_open_input(&in->format, src->name, av_find_input_format("v4l2"), NULL);
    return av >= 0 ? IC_OK : fail_open(in, src, av, "the camera gives no pictures", e);
}

static int open_url(ic_media_input *in, const ic_media_source *src, ic_error *e)
{
    if (!in->cfg->allow_network)
        return ic_error_set(e, IC_EINVAL,
                            "URLs are not open to clients: the server's "
                            "configuration must allow the network to media");
    ic_media_url u;
    int rc = ic_media_url_parse(&u, src->name ? src->name : "", e);
    if (rc != IC_OK)
        return rc;
    if (strcmp(u.scheme, "rtsp") == 0)
        return open_rtsp(in, src->name, e);
    rc = ic_media_http_open(&in->bytes, src->name, in->cfg, e);
    return rc == IC_OK ? open_bytes(in, src, e) : rc;
}

static int open_source(ic_media_input *in, const ic_media_source *src, ic_error *e)
{
    int rc;
    switch (src->kind) {
    case IC_MEDIA_FILE:
        rc = ic_media_file_open(&in->bytes, src, e);
        return rc == IC_OK ? open_bytes(in, src, e) : rc;
    case IC_MEDIA_BYTES:
        if (!src->read)
            return ic_error_set(e, IC_EINVAL, "a byte source without a read function");
        in->bytes.read = src->read;
        in->bytes.seek = src->seek;
        in->bytes.size = src->size;
        in->bytes.user = src->user;
        return open_bytes(in, src, e);
    case IC_MEDIA_URL:
        return open_url(in, src, e);
    case IC_MEDIA_CAMERA:
        return open_camera(in, src, e);
    }
    return ic_error_set(e, IC_EINVAL, "an unknown kind of source");
}

/* --- the stream and its decoder --------------------------------------------------------------- */

static int find_stream_info(ic_media_input *in)
{
    /* It decodes pictures too: the same bounds for its decoders. */
    unsigned count = in->format->nb_streams;
    AVDictionary *options[MAX_STREAMS] = {0};
    for (unsigned i = 0; i < count && i < MAX_STREAMS; i++) {
        av_dict_set_int(&options[i], "max_pixels", in->cfg->max_pixels, 0);
        av_dict_set(&options[i], "threads", "1", 0);
    }
    int av = avformat_find_stream_info(in->format, count && count <= MAX_STREAMS ? options : NULL);
    for (unsigned i = 0; i < count && i < MAX_STREAMS; i++)
        av_dict_free(&options[i]);
    return av;
}

/* Why there is no video: said, since audio files with covers are a common mistake. */
static int no_video(const ic_media_input *in, const ic_media_source *src, ic_error *e)
{
    bool sound = false, cover = false;
    for (unsigned i = 0; i < in->format->nb_streams; i++) {
        const AVStream *st = in->format->streams[i];
        sound |= st->codecpar->codec_type == AVMEDIA_TYPE_AUDIO;
        cover |= (st->disposition & AV_DISPOSITION_ATTACHED_PIC) != 0;
    }
    return ic_error_set(e, IC_EFORMAT, "%s has no video%s", shown_name(src),
                        cover   ? ": it is sound with a cover picture"
                        : sound ? ": it is only sound"
                                : "");
}

/* The best stream of pictures that is not a cover; all others are thrown away unread. */
static int choose_stream(ic_media_input *in, const ic_media_source *src, ic_error *e)
{
    AVFormatContext *s = in->format;
    int64_t best = -1;
    for (unsigned i = 0; i < s->nb_streams; i++) {
        AVStream *st = s->streams[i];
        st->discard = AVDISCARD_ALL;
        if (st->codecpar->codec_type != AVMEDIA_TYPE_VIDEO
            || (st->disposition & (AV_DISPOSITION_ATTACHED_PIC | AV_DISPOSITION_TIMED_THUMBNAILS)))
            continue;
        int64_t worth = (int64_t)st->codecpar->width * st->codecpar->height
                        + ((st->disposition & AV_DISPOSITION_DEFAULT) ? (int64_t)1 << 40 : 0);
        if (worth > best) {
            best = worth;
            in->stream = st;
        }
    }
    if (!in->stream)
        return no_video(in, src, e);
    in->stream->discard = AVDISCARD_DEFAULT;
    return IC_OK;
}

static int open_decoder(ic_media_input *in, const ic_media_source *src, ic_error *e)
{
    const AVCodecParameters *par = in->stream->codecpar;
    if ((int64_t)par->width * par->height > in->cfg->max_pixels || (too_large && !par->width))
        return ic_error_set(e, IC_ELIMIT,
                            "%s: its pictures are larger than the %" PRId64
                            " pixels that are allowed",
                            shown_name(src), in->cfg->max_pixels);
    if (par->codec_id == AV_CODEC_ID_NONE)
        return ic_error_set(
            e, IC_EFORMAT, "%s: the kind of its video is not known: its head is damaged or cut off",
            shown_name(src));
    const AVCodec *codec = avcodec_find_decoder(par->codec_id);
    if (!codec || av_match_list(codec->name, decoders, ',') <= 0)
        return ic_error_set(e, IC_EUNSUPPORTED, "%s: there is no decoder here for '%s' video",
                            shown_name(src), avcodec_get_name(par->codec_id));
    in->decoder = avcodec_alloc_context3(codec);
    if (!in->decoder || avcodec_parameters_to_context(in->decoder, par) < 0)
        return ic_error_set(e, IC_ENOMEM, "no memory to decode %s", shown_name(src));
    in->decoder->max_pixels = in->cfg->max_pixels;
    in->decoder->pkt_timebase = in->stream->time_base;
    in->decoder->thread_count = in->is_image ? 1 : in->cfg->threads;
    int av = avcodec_open2(in->decoder, codec, NULL);
    return av >= 0 ? IC_OK
                   : ic_error_set(e, IC_EFORMAT, "%s: its '%s' video cannot be decoded",
                                  shown_name(src), codec->name);
}

int ic_media_input_open(ic_media_input *in, const ic_media_source *src, ic_error *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, quiet_once);
    in->is_live = in->cfg->live;
    in->bytes.guard = in->guard;
    in->bytes.size = -1;
    in->stats.last_pts_us = -1;
    ic_media_guard_begin(in->guard);
    int rc = open_source(in, src, e);
    if (rc != IC_OK)
        return rc;
    in->packet = av_packet_alloc();
    in->raw = av_frame_alloc();
    if (!in->packet || !in->raw)
        return ic_error_set(e, IC_ENOMEM, "no memory to open %s", shown_name(src));
    ic_media_guard_begin(in->guard);
    too_large = false;
    int av = find_stream_info(in);
    rc = ic_media_guard_check(in->guard);
    if (in->bytes.status != IC_OK || rc == IC_ECANCELED)
        return fail_open(in, src, av, "it cannot be read", e);
    /* A failure to learn all about all streams is no failure yet: there may be pictures. */
    rc = choose_stream(in, src, e);
    return rc == IC_OK ? open_decoder(in, src, e) : rc;
}

void ic_media_input_fini(ic_media_input *in)
{
    avcodec_free_context(&in->decoder);
    avformat_close_input(&in->format);
    ic_media_bytes_avio_free(&in->pb);
    ic_media_bytes_fini(&in->bytes);
    av_packet_free(&in->packet);
    av_frame_free(&in->raw);
}
