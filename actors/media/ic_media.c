/* The public face: options, information, and which picture is sample k. */
#include "actors/media/ic_media.h"

#include <inttypes.h>
#include <libavutil/display.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "actors/media/ic_media_priv.h"
#include "base/ic_clock.h"
#include "base/ic_mem.h"

enum { MAX_FPS = 1000 };

static const int64_t SECOND = 1000000;

struct ic_media {
    ic_media_guard guard; /* its interrupted flag: any thread; all else: owner thread */
    ic_media_config cfg;
    ic_media_info info;
    ic_media_input input;
    ic_media_painter *painter;
    ic_media_picture shown, ahead; /* the picture for now, and the one after it */
    uint64_t ordinal;              /* of the next sample */
    bool shown_given;              /* shown was a sample already */
    int end;                       /* why no more pictures come */
    int final;                     /* what ic_media_next answers from now on */
    ic_error end_error, final_error;
};

void ic_media_config_init(ic_media_config *cfg)
{
    *cfg = (ic_media_config){.fps = 2.0,
                             .to_us = -1,
                             .open_timeout_ms = 15000,
                             .packet_timeout_ms = 15000,
                             .max_pixels = 8192 * 8192,
                             .threads = 2};
}

static int check_config(const ic_media_config *cfg, ic_error *e)
{
    if (!(cfg->fps >= 0.0) || cfg->fps > MAX_FPS)
        return ic_error_set(e, IC_EINVAL, "fps must lie between 0 and %d", MAX_FPS);
    if (cfg->from_us < 0 || cfg->from_us > INT64_MAX / 4)
        return ic_error_set(e, IC_EINVAL, "the start of the range must not lie before 0");
    if (cfg->to_us >= 0 && cfg->to_us <= cfg->from_us)
        return ic_error_set(e, IC_EINVAL, "the range ends before it begins");
    if (cfg->open_timeout_ms < 1 || cfg->packet_timeout_ms < 1)
        return ic_error_set(e, IC_EINVAL, "deadlines must be at least 1 ms");
    if (cfg->max_pixels < 1 || cfg->threads < 1 || cfg->threads > 64)
        return ic_error_set(e, IC_EINVAL, "max_pixels and threads (up to 64) must be at least 1");
    return IC_OK;
}

/* --- information ------------------------------------------------------------------------------ */

/* A picture's own matrix (JPEG) goes before the stream's (MP4). */
static ic_media_orientation orientation(const ic_media *m, const AVFrame *f)
{
    const AVFrameSideData *own = av_frame_get_side_data(f, AV_FRAME_DATA_DISPLAYMATRIX);
    size_t size = 0;
    const uint8_t *data =
        av_stream_get_side_data(m->input.stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
    int32_t matrix[9];
    if (own && own->size >= sizeof matrix)
        memcpy(matrix, own->data, sizeof matrix);
    else if (data && size >= sizeof matrix)
        memcpy(matrix, data, sizeof matrix);
    else
        return (ic_media_orientation){0};
    return ic_media_orientation_of(matrix);
}

static void fill_shape(ic_media *m, const AVFrame *f)
{
    ic_media_info *i = &m->info;
    ic_media_orientation o = orientation(m, f);
    AVRational sar = av_guess_sample_aspect_ratio(m->input.format, m->input.stream, (AVFrame *)f);
    if (sar.num <= 0 || sar.den <= 0)
        sar = (AVRational){1, 1};
    i->rotation = ic_media_orientation_degrees(o, &i->mirrored);
    i->width = o.transpose ? f->height : f->width;
    i->height = o.transpose ? f->width : f->height;
    i->sar_num = o.transpose ? sar.den : sar.num;
    i->sar_den = o.transpose ? sar.num : sar.den;
}

static void fill_info(ic_media *m)
{
    const ic_media_input *in = &m->input;
    ic_media_info *i = &m->info;
    AVRational rate = in->stream->avg_frame_rate;
    fill_shape(m, m->ahead.frame);
    i->is_live = in->is_live;
    i->is_image = in->is_image;
    i->is_seekable = in->pb && in->pb->seekable && !in->is_image;
    i->fps = rate.num > 0 && rate.den > 0 && !in->is_image ? av_q2d(rate) : 0.0;
    bool timed = !in->is_live && !in->is_image && in->format->duration != AV_NOPTS_VALUE
                 && in->format->duration > 0;
    i->duration_us = timed ? in->format->duration : -1;
    /* Matroska counts its length from 0, also when its clock starts later. */
    int64_t late =
        in->has_origin ? av_rescale_q(in->origin, in->stream->time_base, AV_TIME_BASE_Q) : 0;
    if (timed && late > 0 && late < i->duration_us
        && strncmp(in->format->iformat->name, "matroska", 8) == 0)
        i->duration_us -= late;
    snprintf(i->codec, sizeof i->codec, "%s", avcodec_get_name(in->stream->codecpar->codec_id));
    snprintf(i->container, sizeof i->container, "%s", in->format->iformat->name);
}

/* --- opening ---------------------------------------------------------------------------------- */

/* The next picture into m->ahead, unless it is there. */
static int look_ahead(ic_media *m)
{
    if (m->ahead.valid || m->end != IC_OK)
        return m->ahead.valid ? IC_OK : m->end;
    int rc = ic_media_input_next(&m->input, &m->ahead, &m->end_error);
    if (rc != IC_OK) {
        bool silent = rc == IC_ETIMEOUT && m->input.is_live; /* it may speak again */
        m->end = silent ? IC_OK : rc;
        if (rc == IC_ECLOSED)
            ic_media_input_note_end(&m->input);
    }
    return rc;
}

static int first_picture(ic_media *m, const char *name, ic_error *e)
{
    int rc = look_ahead(m);
    if (rc == IC_OK)
        return IC_OK;
    if (rc != IC_ECLOSED)
        return ic_error_set(e, rc, "%s: %s before the first picture", name, m->end_error.text);
    bool mp4 = strncmp(m->input.format->iformat->name, "mov", 3) == 0;
    if (mp4 && m->input.pb && !m->input.pb->seekable)
        return ic_error_set(e, IC_EUNSUPPORTED,
                            "%s: its index is at the end and this source cannot seek: give it as a "
                            "file, or write it with -movflags +faststart",
                            name);
    return ic_error_set(e, IC_EFORMAT, "%s: no picture of its '%s' video can be decoded", name,
                        avcodec_get_name(m->input.stream->codecpar->codec_id));
}

/* Goes near `from` by the index where there is one. Formats whose seeks are coarse may land behind
 * it: then from further back, at last from the start. */
static int reach_from(ic_media *m, ic_error *e)
{
    const int64_t from = m->cfg.from_us;
    const int64_t back[] = {0, 5 * SECOND, 30 * SECOND, from};
    ic_media_input *in = &m->input;
    if (from < 2 * SECOND || in->is_image || in->is_live || !in->has_origin || !m->info.is_seekable)
        return IC_OK;
    for (size_t i = 0; i < sizeof back / sizeof back[0]; i++) {
        int64_t target = back[i] < from ? from - back[i] : 0;
        if (ic_media_input_seek(in, target) != IC_OK)
            continue;
        m->ahead.valid = false;
        m->end = IC_OK;
        in->notes.count = 0;
        int rc = look_ahead(m);
        if (rc != IC_OK && rc != IC_ECLOSED)
            return ic_error_set(e, rc, "while seeking: %s", m->end_error.text);
        /* What was decoded without its key picture is not what the file shows. */
        if (rc == IC_OK && m->ahead.frame->key_frame && m->ahead.pts_us <= from)
            return IC_OK;
    }
    return ic_error_set(e, IC_EIO, "cannot go to %.1f s in this file", (double)from / 1e6);
}

static int open_parts(ic_media *m, const ic_media_source *src, ic_error *e)
{
    const char *name = src->name && src->name[0] ? src->name : "the data";
    m->shown.frame = av_frame_alloc();
    m->ahead.frame = av_frame_alloc();
    m->painter = ic_media_painter_new();
    if (!m->shown.frame || !m->ahead.frame)
        return ic_error_set(e, IC_ENOMEM, "no memory to open %s", name);
    int rc = ic_media_input_open(&m->input, src, e);
    if (rc == IC_OK)
        rc = first_picture(m, name, e);
    if (rc != IC_OK)
        return rc;
    fill_info(m);
    m->guard.open_deadline_us = 0;
    return reach_from(m, e);
}

int ic_media_open(ic_media **out, const ic_media_source *src, const ic_media_config *cfg,
                  ic_error *e)
{
    *out = NULL;
    int rc = check_config(cfg, e);
    if (rc != IC_OK)
        return rc;
    ic_media *m = ic_alloc(sizeof *m);
    m->cfg = *cfg;
    m->guard.stop = cfg->stop;
    m->guard.packet_timeout_ms = cfg->packet_timeout_ms;
    m->guard.open_deadline_us = ic_clock_mono_us() + (int64_t)cfg->open_timeout_ms * 1000;
    m->input.cfg = &m->cfg;
    m->input.guard = &m->guard;
    rc = open_parts(m, src, e);
    m->cfg.ca_file = NULL; /* borrowed for the call only */
    if (rc != IC_OK)
        ic_media_close(&m);
    *out = m;
    return rc;
}

void ic_media_close(ic_media **m_p)
{
    ic_media *m = *m_p;
    *m_p = NULL;
    if (!m)
        return;
    atomic_store(&m->guard.interrupted, true); /* closing says no goodbyes that could block */
    ic_media_input_fini(&m->input);
    av_frame_free(&m->shown.frame);
    av_frame_free(&m->ahead.frame);
    ic_media_painter_destroy(&m->painter);
    ic_free(m);
}

/* --- sampling --------------------------------------------------------------------------------- */

static void show_ahead(ic_media *m)
{
    ic_media_picture t = m->shown;
    m->shown = m->ahead;
    m->ahead = t;
    m->ahead.valid = false;
    m->shown_given = false;
}

/* Every picture in the range; t is its time. */
static int next_picture(ic_media *m, int64_t *t)
{
    for (;;) {
        int rc = look_ahead(m);
        if (rc != IC_OK)
            return rc;
        show_ahead(m);
        *t = m->shown.pts_us;
        if (m->input.is_image || *t >= m->cfg.from_us)
            break;
    }
    bool behind = m->cfg.to_us >= 0 && *t >= m->cfg.to_us && !m->input.is_image;
    return behind ? IC_ECLOSED : IC_OK;
}

/* The last picture with pts <= t, t being the time of sample k. One microsecond is forgiven: both
 * times were rounded to it. */
static int next_on_grid(ic_media *m, int64_t *t)
{
    *t = m->cfg.from_us + llround((double)m->ordinal * 1e6 / m->cfg.fps);
    if (m->cfg.to_us >= 0 && *t >= m->cfg.to_us)
        return IC_ECLOSED;
    for (;;) {
        int rc = look_ahead(m);
        if (rc == IC_ECANCELED || (rc == IC_ETIMEOUT && m->input.is_live))
            return rc;
        if (rc == IC_OK && m->shown.valid && m->ahead.pts_us > *t + 1)
            return IC_OK;
        if (rc != IC_OK) {
            bool lasts = m->shown.valid && *t < m->shown.pts_us + m->shown.duration_us;
            return lasts ? IC_OK : rc;
        }
        show_ahead(m);
    }
}

static int give(ic_media *m, int64_t t, ic_frame **out, ic_error *e)
{
    ic_media_stats *s = &m->input.stats;
    const AVFrame *f = m->shown.frame;
    int rc = ic_media_painter_paint(m->painter, f, orientation(m, f), out, e);
    if (rc != IC_OK)
        return rc;
    (*out)->pts_us = m->input.is_image ? 0 : t;
    (*out)->ordinal = m->ordinal++;
    s->sampled++;
    s->repeated += m->shown_given;
    s->last_pts_us = m->shown.pts_us;
    m->shown_given = true;
    return IC_OK;
}

static int finish(ic_media *m, int rc, ic_error *e)
{
    if (rc == IC_ETIMEOUT && m->input.is_live)
        return ic_error_set(e, rc, "%s", m->end_error.text);
    m->final = rc;
    if (rc == IC_ECLOSED && m->ordinal == 0 && m->cfg.from_us > 0 && m->end == IC_ECLOSED)
        m->final = ic_error_set(
            &m->final_error, IC_EINVAL, "the range begins at %.1f s, but the source ends at %.1f s",
            (double)m->cfg.from_us / 1e6, (double)(m->input.last_us + m->input.last_step_us) / 1e6);
    else if (rc == IC_ECLOSED)
        ic_error_set(&m->final_error, rc, "the end of the source");
    else
        m->final_error = e->code == rc ? *e : m->end_error;
    *e = m->final_error;
    return m->final;
}

int ic_media_next(ic_media *m, ic_frame **out, ic_error *e)
{
    ic_error local = {0};
    int64_t t = 0;
    int rc = m->final;
    *out = NULL;
    e = e ? e : &local;
    *e = local;
    if (rc != IC_OK) {
        *e = m->final_error;
        return rc;
    }
    bool enough = (m->cfg.max_frames && m->ordinal >= m->cfg.max_frames)
                  || (m->input.is_image && m->ordinal > 0);
    if (atomic_load(&m->guard.interrupted) || (m->cfg.stop && atomic_load(m->cfg.stop)))
        rc = ic_error_set(e, IC_ECANCELED, "stopped");
    else if (enough)
        rc = IC_ECLOSED;
    else if (m->cfg.fps == 0.0 || m->input.is_image)
        rc = next_picture(m, &t);
    else
        rc = next_on_grid(m, &t);
    if (rc == IC_OK)
        rc = give(m, t, out, e);
    return rc == IC_OK ? IC_OK : finish(m, rc, e);
}

void ic_media_interrupt(ic_media *m)
{
    atomic_store(&m->guard.interrupted, true);
}

const ic_media_info *ic_media_get_info(const ic_media *m)
{
    return &m->info;
}

void ic_media_get_stats(const ic_media *m, ic_media_stats *out)
{
    *out = m->input.stats;
}

const char *ic_media_notice(const ic_media *m, size_t i)
{
    return i < m->input.notes.count ? m->input.notes.text[i] : NULL;
}
