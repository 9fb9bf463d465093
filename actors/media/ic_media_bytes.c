/* ic_media_guard and ic_media_bytes: how the fence waits, and how FFmpeg is given bytes without
 * being able to open anything. */
#include "actors/media/ic_media_priv.h"

#include <errno.h>
#include <libavutil/mem.h>
#include <string.h>
#include <time.h>

#include "base/ic_clock.h"

enum { BUFFER_BYTES = 64 * 1024 };

void ic_media_guard_begin(ic_media_guard *g)
{
    g->deadline_us = ic_clock_mono_us() + (int64_t)g->packet_timeout_ms * 1000;
    if (g->open_deadline_us && g->open_deadline_us < g->deadline_us)
        g->deadline_us = g->open_deadline_us;
}

int ic_media_guard_check(const ic_media_guard *g)
{
    if (atomic_load(&g->interrupted) || (g->stop && atomic_load(g->stop)))
        return IC_ECANCELED;
    return ic_clock_mono_us() >= g->deadline_us ? IC_ETIMEOUT : IC_OK;
}

int ic_media_guard_callback(void *opaque)
{
    return ic_media_guard_check(opaque) != IC_OK;
}

/* Callbacks that do not wait by themselves must not make us spin. */
static int64_t read_patiently(ic_media_bytes *b, uint8_t *into, size_t size)
{
    int64_t before = ic_clock_mono_us();
    int64_t got = b->read(b->user, into, size);
    if (got == IC_EAGAIN && ic_clock_mono_us() - before < 1000)
        nanosleep(&(struct timespec){.tv_nsec = 5 * 1000 * 1000}, NULL);
    return got;
}

static int avio_read_bytes(void *opaque, uint8_t *into, int size)
{
    ic_media_bytes *b = opaque;
    ic_media_guard_begin(b->guard);
    while (b->status == IC_OK) {
        b->status = ic_media_guard_check(b->guard);
        if (b->status != IC_OK)
            break;
        int64_t got = read_patiently(b, into, (size_t)size);
        if (got > 0) {
            b->at += got;
            b->total += got;
            return (int)got;
        }
        if (got == 0 || got == IC_ECLOSED)
            return AVERROR_EOF;
        if (got != IC_EAGAIN)
            b->status = (int)got;
    }
    return b->status == IC_ETIMEOUT ? AVERROR(ETIMEDOUT)
                                    : (b->status == IC_ECANCELED ? AVERROR_EXIT : AVERROR(EIO));
}

static int64_t avio_seek_bytes(void *opaque, int64_t offset, int whence)
{
    ic_media_bytes *b = opaque;
    whence &= ~AVSEEK_FORCE;
    if (whence == AVSEEK_SIZE)
        return b->size >= 0 ? b->size : AVERROR(ENOSYS);
    if (whence == SEEK_CUR)
        offset += b->at;
    else if (whence == SEEK_END)
        offset = b->size >= 0 ? offset + b->size : -1;
    if (offset < 0 || !b->seek)
        return AVERROR(EINVAL);
    if (offset == b->at)
        return offset;
    ic_media_guard_begin(b->guard);
    int rc = b->seek(b->user, offset);
    if (rc != IC_OK) {
        b->status = rc;
        return AVERROR(EIO);
    }
    b->at = offset;
    return offset;
}

AVIOContext *ic_media_bytes_avio(ic_media_bytes *b)
{
    uint8_t *buffer = av_malloc(BUFFER_BYTES);
    if (!buffer)
        return NULL;
    AVIOContext *pb = avio_alloc_context(buffer, BUFFER_BYTES, 0, b, avio_read_bytes, NULL,
                                         b->seek ? avio_seek_bytes : NULL);
    if (!pb)
        av_free(buffer);
    return pb;
}

void ic_media_bytes_avio_free(AVIOContext **pb_p)
{
    if (*pb_p)
        av_freep(&(*pb_p)->buffer);
    avio_context_free(pb_p);
}

void ic_media_bytes_fini(ic_media_bytes *b)
{
    if (b->close)
        b->close(b->user);
    memset(b, 0, sizeof *b);
}
