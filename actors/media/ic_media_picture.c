/* Decoded pictures to RGB: colours by the tags, then rotation and mirroring. */
#include "actors/media/ic_media_priv.h"

#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"

struct ic_media_painter {
    struct SwsContext *scaler; /* for exactly the picture described below */
    int width, height, format, colorspace, range;
    uint8_t *rows[4]; /* RGB before rotation, rows padded: the scaler may write behind a row */
    int pitch[4];
};

/* The matrix maps a point (x, y) to (a x + c y, b x + d y). */
ic_media_orientation ic_media_orientation_of(const int32_t *m)
{
    int64_t a = m[0], b = m[1], c = m[3], d = m[4];
    if (llabs(a) >= llabs(b))
        return (ic_media_orientation){.flip_x = a < 0, .flip_y = d < 0};
    return (ic_media_orientation){.transpose = true, .flip_x = c < 0, .flip_y = b < 0};
}

int ic_media_orientation_degrees(ic_media_orientation o, bool *mirrored)
{
    *mirrored = (o.transpose + o.flip_x + o.flip_y) % 2 != 0;
    bool unmirrored_flip_x = o.flip_x != *mirrored;
    if (o.transpose)
        return unmirrored_flip_x ? 90 : 270;
    return unmirrored_flip_x ? 180 : 0;
}

ic_media_painter *ic_media_painter_new(void)
{
    return ic_alloc(sizeof(ic_media_painter));
}

void ic_media_painter_destroy(ic_media_painter **p_p)
{
    ic_media_painter *p = *p_p;
    *p_p = NULL;
    if (!p)
        return;
    sws_freeContext(p->scaler);
    av_freep(&p->rows[0]);
    ic_free(p);
}

/* Full-range twins of the YUV formats are an old way to tag the range. */
static enum AVPixelFormat plain_format(int format, int *full)
{
    switch (format) {
    case AV_PIX_FMT_YUVJ420P:
        *full = 1;
        return AV_PIX_FMT_YUV420P;
    case AV_PIX_FMT_YUVJ422P:
        *full = 1;
        return AV_PIX_FMT_YUV422P;
    case AV_PIX_FMT_YUVJ444P:
        *full = 1;
        return AV_PIX_FMT_YUV444P;
    case AV_PIX_FMT_YUVJ440P:
        *full = 1;
        return AV_PIX_FMT_YUV440P;
    case AV_PIX_FMT_YUVJ411P:
        *full = 1;
        return AV_PIX_FMT_YUV411P;
    default:
        return (enum AVPixelFormat)format;
    }
}

static int matrix_of(const AVFrame *f)
{
    switch (f->colorspace) {
    case AVCOL_SPC_BT709:
        return SWS_CS_ITU709;
    case AVCOL_SPC_BT470BG:
    case AVCOL_SPC_SMPTE170M:
        return SWS_CS_ITU601;
    case AVCOL_SPC_FCC:
        return SWS_CS_FCC;
    case AVCOL_SPC_SMPTE240M:
        return SWS_CS_SMPTE240M;
    case AVCOL_SPC_BT2020_NCL:
    case AVCOL_SPC_BT2020_CL:
        return SWS_CS_BT2020;
    default:
        return f->width >= 1280 || f->height > 576 ? SWS_CS_ITU709 : SWS_CS_ITU601;
    }
}

/* Grey and RGB pictures have full range unless they say otherwise; JPEG's YUV comes tagged. */
static int full_range(const AVFrame *f, int full)
{
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(f->format);
    if (f->color_range != AVCOL_RANGE_UNSPECIFIED)
        return f->color_range == AVCOL_RANGE_JPEG;
    return full || (d && (d->nb_components < 3 || (d->flags & AV_PIX_FMT_FLAG_RGB)));
}

static int prepare(ic_media_painter *p, const AVFrame *f, ic_error *e)
{
    int full = 0;
    enum AVPixelFormat format = plain_format(f->format, &full);
    int range = full_range(f, full), matrix = matrix_of(f);
    if (p->scaler && p->width == f->width && p->height == f->height && p->format == f->format
        && p->colorspace == matrix && p->range == range)
        return IC_OK;
    sws_freeContext(p->scaler);
    av_freep(&p->rows[0]);
    /* Exact on every CPU: what was seen must look the same when it is decoded again. */
    p->scaler = sws_getContext(f->width, f->height, format, f->width, f->height, AV_PIX_FMT_RGB24,
                               SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT
                                   | SWS_FULL_CHR_H_INP | SWS_BITEXACT,
                               NULL, NULL, NULL);
    if (!p->scaler) {
        const char *name = av_get_pix_fmt_name(f->format);
        return ic_error_set(e, IC_EUNSUPPORTED, "pictures of the kind '%s' cannot be shown",
                            name ? name : "unknown");
    }
    /* Has no meaning for RGB sources and then fails: nothing to do about it. */
    (void)sws_setColorspaceDetails(p->scaler, sws_getCoefficients(matrix), range,
                                   sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
    /* 64 columns more than the picture: room for what vector code writes behind a row. */
    if (av_image_alloc(p->rows, p->pitch, f->width + 64, f->height, AV_PIX_FMT_RGB24, 64) < 0) {
        sws_freeContext(p->scaler);
        p->scaler = NULL;
        return ic_error_set(e, IC_ENOMEM, "no memory for a picture of %dx%d", f->width, f->height);
    }
    p->width = f->width;
    p->height = f->height;
    p->format = f->format;
    p->colorspace = matrix;
    p->range = range;
    return IC_OK;
}

/* Row y of dst from the unrotated rows. */
static void orient_row(const ic_media_painter *p, ic_media_orientation o, ic_frame *dst, int y)
{
    uint8_t *to = dst->rgb + (size_t)y * (size_t)dst->width * 3;
    int v = o.flip_y ? dst->height - 1 - y : y;
    for (int x = 0; x < dst->width; x++) {
        int u = o.flip_x ? dst->width - 1 - x : x;
        int column = o.transpose ? v : u, row = o.transpose ? u : v;
        memcpy(to + (size_t)x * 3,
               p->rows[0] + (ptrdiff_t)row * p->pitch[0] + (ptrdiff_t)column * 3, 3);
    }
}

static void orient(const ic_media_painter *p, ic_media_orientation o, ic_frame *dst)
{
    bool plain = !o.transpose && !o.flip_x && !o.flip_y;
    size_t row_bytes = (size_t)dst->width * 3;
    for (int y = 0; y < dst->height; y++) {
        if (plain)
            memcpy(dst->rgb + (size_t)y * row_bytes, p->rows[0] + (ptrdiff_t)y * p->pitch[0],
                   row_bytes);
        else
            orient_row(p, o, dst, y);
    }
}

int ic_media_painter_paint(ic_media_painter *p, const AVFrame *f, ic_media_orientation o,
                           ic_frame **out, ic_error *e)
{
    *out = NULL;
    int rc = prepare(p, f, e);
    if (rc != IC_OK)
        return rc;
    if (sws_scale(p->scaler, (const uint8_t *const *)f->data, f->linesize, 0, f->height, p->rows,
                  p->pitch)
        != f->height)
        return ic_error_set(e, IC_EFORMAT, "a picture of %dx%d could not be converted", f->width,
                            f->height);
    ic_frame *dst =
        o.transpose ? ic_frame_new(f->height, f->width) : ic_frame_new(f->width, f->height);
    if (!dst)
        return ic_error_set(e, IC_ENOMEM, "no memory for a picture of %dx%d", f->width, f->height);
    orient(p, o, dst);
    *out = dst;
    return IC_OK;
}
