/* Reading: packets to pictures, in the order of showing, on a clock that starts at 0 and runs on
 * whatever the file's time stamps do. */
#include "actors/media/ic_media_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <libavutil/common.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const int64_t SECOND = 1000000;

void ic_media_note(ic_media_notes *n, const char *fmt, ...)
{
    if (n->count == IC_MEDIA_MAX_NOTES)
        return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(n->text[n->count++], sizeof n->text[0], fmt, args);
    va_end(args);
}

/* --- packets ---------------------------------------------------------------------------------- */

static int end_of(ic_media_input *in, int av)
{
    int rc = ic_media_guard_check(in->guard);
    if (in->bytes.status != IC_OK)
        return in->bytes.status;
    if (rc == IC_ECANCELED || (av == AVERROR_EXIT && rc != IC_OK))
        return rc;
    if (av == AVERROR(ENOMEM))
        return IC_ENOMEM;
    if (av == AVERROR(ETIMEDOUT))
        return IC_ETIMEOUT;
    if (av != AVERROR_EOF && in->is_live)
        return IC_EIO;
    if (av != AVERROR_EOF)
        ic_media_note(&in->notes, "the file is damaged: reading ended early");
    return IC_ECLOSED;
}

/* The next packet of the video into in->packet; at the end in->end is set and IC_ECLOSED comes. */
static int read_packet(ic_media_input *in)
{
    ic_media_guard_begin(in->guard);
    for (;;) {
        int av = av_read_frame(in->format, in->packet);
        if (av == AVERROR(EAGAIN)) { /* cameras */
            nanosleep(&(struct timespec){.tv_nsec = 5 * 1000000L}, NULL);
            int rc = ic_media_guard_check(in->guard);
            if (rc == IC_OK)
                continue;
            in->end = rc;
            return IC_ECLOSED;
        }
        if (av < 0) {
            in->end = end_of(in, av);
            return IC_ECLOSED;
        }
        if (in->packet->stream_index == in->stream->index) {
            in->stats.packets++;
            in->stats.bytes = in->bytes.total;
            return IC_OK;
        }
        av_packet_unref(in->packet);
        int rc = ic_media_guard_check(in->guard);
        if (rc == IC_ECANCELED) {
            in->end = rc;
            return IC_ECLOSED;
        }
    }
}

/* A live source that is silent may speak again: forget the silence, keep the rest. */
static bool only_silent(ic_media_input *in)
{
    if (!in->is_live || in->end != IC_ETIMEOUT)
        return false;
    in->end = in->bytes.status = IC_OK;
    if (in->pb)
        in->pb->eof_reached = in->pb->error = 0;
    return true;
}

/* Gives the decoder one packet, or tells it that there are no more. IC_ETIMEOUT: a live source is
 * silent. */
static int feed(ic_media_input *in)
{
    if (read_packet(in) != IC_OK) {
        if (only_silent(in))
            return IC_ETIMEOUT;
        in->draining = true;
        avcodec_send_packet(in->decoder, NULL);
        return IC_OK;
    }
    bool marked = (in->packet->flags & AV_PKT_FLAG_CORRUPT) != 0;
    int av = avcodec_send_packet(in->decoder, in->packet);
    av_packet_unref(in->packet);
    in->stats.corrupt += marked || (av < 0 && av != AVERROR(EAGAIN) && av != AVERROR_EOF);
    return IC_OK;
}

/* --- the clock -------------------------------------------------------------------------------- */

static int64_t frame_step(const ic_media_input *in, const AVFrame *f)
{
    int64_t step = 0;
    if (f->pkt_duration > 0 && !in->counted)
        step = av_rescale_q(f->pkt_duration, in->stream->time_base, AV_TIME_BASE_Q);
    AVRational rate = in->stream->avg_frame_rate;
    if (rate.num <= 0 || rate.den <= 0)
        rate = in->stream->r_frame_rate;
    if ((step <= 0 || step > 3600 * SECOND) && rate.num > 0 && rate.den > 0)
        step = av_rescale_q(1, av_inv_q(rate), AV_TIME_BASE_Q);
    return step > 0 && step <= 3600 * SECOND ? step : SECOND / 25;
}

/* The picture's time by its stamp, before any joining; false: it has none. */
static bool stamped_time(ic_media_input *in, const AVFrame *f, int64_t *t)
{
    int64_t stamp = f->best_effort_timestamp;
    if (in->counted || stamp == AV_NOPTS_VALUE)
        return false;
    if (!in->has_origin) {
        in->has_origin = true;
        in->origin = stamp;
        in->offset_us = in->has_last ? in->last_us + in->last_step_us : 0;
    }
    int64_t since = av_sat_sub64(stamp, in->origin);
    *t = av_sat_add64(av_rescale_q(since, in->stream->time_base, AV_TIME_BASE_Q), in->offset_us);
    return true;
}

/* How far ahead a stamp may jump and be believed. */
static int64_t believable(const ic_media_input *in)
{
    int64_t gap = in->is_live ? 10 * SECOND : 3600 * SECOND;
    int64_t duration = in->format->duration;
    if (!in->is_live && duration != AV_NOPTS_VALUE && duration > gap)
        gap = duration;
    return gap;
}

/* Places the picture on the clock. false: it comes after a later one and is dropped. */
static bool place(ic_media_input *in, const AVFrame *f, ic_media_picture *out)
{
    int64_t t, step = frame_step(in, f);
    int64_t expected = in->has_last ? in->last_us + in->last_step_us : 0;
    if (!stamped_time(in, f, &t))
        t = expected;
    if (in->has_last && (t < in->last_us - SECOND || t - in->last_us > believable(in))) {
        in->stats.jumps++;
        ic_media_note(&in->notes, "the clock of the source jumps at %.1f s: joined up",
                      (double)in->last_us / 1e6);
        in->offset_us = av_sat_add64(in->offset_us, av_sat_sub64(expected, t));
        t = expected;
    }
    if (in->has_last && t < in->last_us) {
        in->stats.disordered++;
        return false;
    }
    if (!(f->pkt_duration > 0) && in->has_last && !in->counted && t > in->last_us)
        step = t - in->last_us < 3600 * SECOND ? t - in->last_us : step;
    in->has_last = true;
    in->last_us = t;
    in->last_step_us = step;
    out->pts_us = t;
    out->duration_us = step;
    return true;
}

/* --- pictures --------------------------------------------------------------------------------- */

static const char *end_text(int code)
{
    switch (code) {
    case IC_ECLOSED:
        return "the end of the source";
    case IC_ETIMEOUT:
        return "the source sent nothing in time";
    case IC_ECANCELED:
        return "stopped";
    case IC_ENOMEM:
        return "no memory to read on";
    default:
        return "reading the source failed";
    }
}

/* A picture that the decoder gave is in in->raw. */
static bool take_picture(ic_media_input *in, ic_media_picture *out)
{
    in->stats.decoded++;
    in->stats.corrupt +=
        in->raw->decode_error_flags != 0 || (in->raw->flags & AV_FRAME_FLAG_CORRUPT) != 0;
    bool kept = place(in, in->raw, out);
    if (kept) {
        av_frame_unref(out->frame);
        av_frame_move_ref(out->frame, in->raw);
        out->valid = true;
    }
    av_frame_unref(in->raw);
    return kept;
}

int ic_media_input_next(ic_media_input *in, ic_media_picture *out, ic_error *e)
{
    out->valid = false;
    for (;;) {
        int av = avcodec_receive_frame(in->decoder, in->raw);
        if (av == 0 && take_picture(in, out))
            return IC_OK;
        if (ic_media_guard_check(in->guard) == IC_ECANCELED)
            return ic_error_set(e, IC_ECANCELED, "stopped");
        if (av == AVERROR_EOF || (in->draining && av == AVERROR(EAGAIN)))
            return ic_error_set(e, in->end, "%s", end_text(in->end));
        if (av == AVERROR(EAGAIN) && feed(in) != IC_OK)
            return ic_error_set(e, IC_ETIMEOUT, "%s", end_text(IC_ETIMEOUT));
        if (av < 0 && av != AVERROR(EAGAIN))
            in->stats.corrupt++;
    }
}

int ic_media_input_seek(ic_media_input *in, int64_t to_us)
{
    AVRational base = in->stream->time_base;
    int64_t stamp = av_sat_add64(in->origin, av_rescale_q(to_us, AV_TIME_BASE_Q, base));
    /* The first key picture is decoded before it is shown: its packet may be stamped earlier. */
    int64_t before = av_sat_sub64(in->origin, av_rescale_q(SECOND, AV_TIME_BASE_Q, base));
    int av = -1;
    ic_media_guard_begin(in->guard);
    if (to_us == 0)
        av = av_seek_frame(in->format, in->stream->index, before, AVSEEK_FLAG_BACKWARD);
    if (av < 0)
        av = av_seek_frame(in->format, in->stream->index, stamp, AVSEEK_FLAG_BACKWARD);
    if (av < 0)
        return IC_EIO;
    avcodec_flush_buffers(in->decoder);
    in->draining = in->has_last = false;
    in->end = IC_OK;
    in->offset_us = 0;
    return IC_OK;
}

static int64_t promised_us(const ic_media_input *in)
{
    const AVStream *st = in->stream;
    if (st->duration != AV_NOPTS_VALUE && st->duration > 0)
        return av_rescale_q(st->duration, st->time_base, AV_TIME_BASE_Q);
    return in->format->duration != AV_NOPTS_VALUE ? in->format->duration : -1;
}

void ic_media_input_note_end(ic_media_input *in)
{
    int64_t promised = promised_us(in), got = in->last_us + in->last_step_us;
    /* Some writers count the length from 0, though their clock starts later. */
    if (in->has_origin && in->origin > 0)
        promised -= av_rescale_q(in->origin, in->stream->time_base, AV_TIME_BASE_Q);
    if (!in->is_live && !in->is_image && promised - got > SECOND + promised / 20)
        ic_media_note(&in->notes,
                      "the pictures end at %.1f s of %.1f s: the file is truncated or damaged",
                      (double)got / 1e6, (double)promised / 1e6);
    if (in->stats.corrupt > 0)
        ic_media_note(&in->notes, "%" PRIu64 " damaged pieces of video were skipped or repaired",
                      in->stats.corrupt);
}
