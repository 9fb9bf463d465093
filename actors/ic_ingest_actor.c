#include "actors/ic_ingest_actor.h"

#include <stdlib.h>
#include <string.h>

#include "actors/ic_spool.h"
#include "base/ic_clock.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

enum {
    LIVE_QUEUE = 16, /* frames of a live source that wait for credit; even: pairs leave together */
    FRAMES_AHEAD = 32, /* frames at most that wait in the session: a question stands behind them */
    POLL_MS = 20,      /* looks at `stop` this often while it waits */
    GRANT_STEP = 1 << 18 /* bytes of further grant that are worth a message */
};

typedef struct waiting_frame {
    ic_frame *frame;
    int64_t pts_us;
} waiting_frame;

typedef struct ingest {
    ic_actor_self *self;
    ic_ingest_args *args;
    ic_media *media;
    ic_spool spool;
    ic_error upload_error;
    uint64_t granted;
    int64_t heard_us; /* when the last byte of an upload came */
    ic_grid grid;
    bool live, image, opened;
    ic_media_file_info before; /* PATH: as it was when it was opened */
    int64_t credit;
    ic_ingest_counts counts;
    waiting_frame queue[LIVE_QUEUE]; /* fitted, oldest first */
    int queued;
    ic_frame *last_kept[2]; /* deduplication: the last pair that was sent */
    ic_frame *pair[2];      /* deduplication: the pair being collected */
    int paired;
} ingest;

static bool stopped(const ingest *in)
{
    return in->self->stopping || atomic_load(&in->args->stop);
}

/* --- mail --------------------------------------------------------------------------------------
 */

static void send_grant(ingest *in)
{
    uint64_t until = ic_spool_until(&in->spool, IC_UPLOAD_WINDOW, IC_UPLOAD_AHEAD);
    bool all = in->spool.size >= 0 && until == (uint64_t)in->spool.size;
    if (in->spool.complete || until <= in->granted || (!all && until < in->granted + GRANT_STEP))
        return;
    in->granted = until;
    ic_mail_grant *m = ic_mail_new(IC_MAIL_UPLOAD_GRANT, sizeof *m, NULL);
    m->media = in->args->media;
    m->until = until;
    m->received = (uint64_t)in->spool.received;
    ic_port_send(&in->self->outbox, in->args->session, &m);
}

static void take_upload(ingest *in, ic_mail_upload *m)
{
    in->heard_us = ic_clock_mono_us();
    if (in->upload_error.code)
        return;
    int rc = IC_OK;
    if (m->offset + m->bytes.size > in->granted && m->bytes.size)
        rc = ic_error_set(&in->upload_error, IC_ELIMIT, "data beyond what was granted (%llu)",
                          (unsigned long long)in->granted);
    else
        rc = ic_spool_write(&in->spool, m->offset, m->bytes.data, m->bytes.size, m->last,
                            &in->upload_error);
    if (rc == IC_OK)
        send_grant(in);
}

static void take_mail(ingest *in)
{
    ic_mail *m;
    while ((m = ic_inbox_take(in->self->inbox))) {
        if (m->kind == IC_MAIL_UPLOAD)
            take_upload(in, (ic_mail_upload *)m);
        else if (m->kind == IC_MAIL_FRAME_CREDIT)
            in->credit += (int64_t)((ic_mail_credit *)m)->bytes;
        else
            ic_log_error("ingest", "BUG: mail of kind %d", m->kind);
        ic_mail_discard(&m);
    }
}

static void serve(ingest *in, int wait_ms)
{
    ic_actor_wait(in->self, wait_ms);
    take_mail(in);
}

/* --- the bytes of an upload --------------------------------------------------------------------
 */

static int64_t read_upload(void *user, uint8_t *into, size_t size)
{
    ingest *in = user;
    serve(in, 0);
    if (stopped(in))
        return IC_ECANCELED;
    int64_t n =
        in->upload_error.code ? in->upload_error.code : ic_spool_read(&in->spool, into, size);
    if (n != IC_EAGAIN) {
        send_grant(in);
        return n;
    }
    serve(in, POLL_MS);
    if (stopped(in))
        return IC_ECANCELED;
    int64_t silent_ms = (ic_clock_mono_us() - in->heard_us) / 1000;
    return silent_ms > in->args->limits->packet_ms ? IC_ETIMEOUT : IC_EAGAIN;
}

static int seek_upload(void *user, int64_t offset)
{
    return ic_spool_seek(&((ingest *)user)->spool, offset);
}

/* --- opening -----------------------------------------------------------------------------------
 */

static void fill_config(const ingest *in, ic_media_config *cfg)
{
    const ic_ingest_args *a = in->args;
    const ic_ingest_limits *l = a->limits;
    ic_media_config_init(cfg);
    cfg->fps = a->fps > 0   ? a->fps
               : l->fps > 0 ? l->fps
                            : ic_engine_info_of(a->engine)->default_fps;
    cfg->from_us = a->from_us;
    cfg->to_us = a->to_us;
    cfg->max_frames = a->image ? 1 : a->max_frames;
    cfg->packet_timeout_ms = l->packet_ms;
    /* An upload's bytes come as fast as its client sends them: its own silence is the deadline. */
    cfg->open_timeout_ms = a->kind == IC_WIRE_KIND_UPLOAD ? 24 * 3600 * 1000 : l->open_ms;
    cfg->threads = l->threads;
    cfg->live = a->live;
    cfg->allow_network = l->allow_network;
    cfg->allow_private = l->allow_private;
    cfg->allow_camera = l->allow_camera;
    cfg->ca_file = l->ca_file;
    cfg->stop = &a->stop;
}

static void fill_source(ingest *in, ic_media_source *src)
{
    static const ic_media_kind kinds[] = {IC_MEDIA_BYTES, IC_MEDIA_FILE, IC_MEDIA_URL,
                                          IC_MEDIA_CAMERA};
    const ic_ingest_args *a = in->args;
    *src = (ic_media_source){.kind = kinds[a->kind],
                             .name = a->source,
                             .roots = a->limits->roots,
                             .roots_count = a->limits->roots_count,
                             .size = -1};
    if (a->kind != IC_WIRE_KIND_UPLOAD)
        return;
    src->name = a->name;
    src->read = read_upload;
    src->seek = a->size >= 0 ? seek_upload : NULL;
    src->size = a->size;
    src->user = in;
}

/* --- what a file is known by -------------------------------------------------------------------
 */

static int tick(void *user)
{
    ingest *in = user;
    serve(in, 0);
    return stopped(in) ? IC_ECANCELED : IC_OK;
}

/* A file that changes while it is watched has no identity: its frames are kept like a stream's. */
static void identify(ingest *in)
{
    ic_error e = {0};
    ic_identity id;
    ic_media_source src;
    fill_source(in, &src);
    int rc = ic_identity_read(&id, &src, NULL, tick, in, &e);
    if (!rc && (id.bytes != in->before.bytes || id.mtime_us != in->before.mtime_us))
        rc = ic_error_set(&e, IC_EMISMATCH, "it changed while it was opened");
    if (rc) {
        if (rc != IC_ECANCELED)
            ic_log_warn("ingest", "%s will not be read again: %s", src.name, e.text);
        return;
    }
    ic_mail_identity *m = ic_mail_new(IC_MAIL_IDENTITY, sizeof *m, NULL);
    m->media = in->args->media;
    m->identity = id;
    ic_port_send(&in->self->outbox, in->args->session, &m);
}

/* Before it is opened, so that what is decoded is at least as new as what was looked at. */
static int recognise(ingest *in, ic_error *e)
{
    ic_identity id;
    ic_media_source src;
    fill_source(in, &src);
    return ic_identity_read(&id, &src, &in->args->expected, tick, in, e);
}

/* The size that all frames are shrunk to: as asked for, and such that the session's cache takes it.
 */
static int fix_grid(ingest *in, const ic_media_info *info, ic_error *e)
{
    const ic_ingest_args *a = in->args;
    if (a->grid.width) {
        in->grid = a->grid;
        return IC_OK;
    }
    int budget = a->frame_tokens > 0 ? a->frame_tokens : a->limits->frame_tokens;
    if (a->most_tokens > 0 && budget > a->most_tokens)
        budget = a->most_tokens;
    int rc = ic_engine_grid(a->engine, info->width, info->height, budget, !in->image, &in->grid, e);
    if (rc == IC_OK && a->most_tokens > 0
        && (int64_t)in->grid.tokens_w * in->grid.tokens_h > a->most_tokens)
        rc = ic_engine_grid(a->engine, info->width, info->height, a->most_tokens, !in->image,
                            &in->grid, e);
    return rc;
}

/* Small frames are limited by their number: megabytes of them would be minutes of film that a
 * question had to wait for. */
static void limit_credit(ingest *in)
{
    int64_t ahead = (int64_t)FRAMES_AHEAD * 3 * in->grid.width * in->grid.height;
    if (in->credit > ahead)
        in->credit = ahead;
}

static int open_source(ingest *in, ic_error *e)
{
    const ic_ingest_args *a = in->args;
    ic_media_source src;
    ic_media_config cfg;
    fill_config(in, &cfg);
    fill_source(in, &src);
    in->heard_us = ic_clock_mono_us();
    int rc = a->kind == IC_WIRE_KIND_PATH ? ic_media_file_look(&src, &in->before, e) : IC_OK;
    if (rc == IC_OK)
        rc = ic_media_open(&in->media, &src, &cfg, e);
    if (rc)
        return in->upload_error.code ? (*e = in->upload_error).code : rc;
    const ic_media_info *info = ic_media_get_info(in->media);
    in->live = info->is_live || a->live;
    in->image = a->image || info->is_image;
    rc = fix_grid(in, info, e);
    if (rc)
        return rc;
    limit_credit(in);
    ic_mail_ingest_opened *m = ic_mail_new(IC_MAIL_INGEST_OPENED, sizeof *m, NULL);
    m->media = a->media;
    m->info = *info;
    m->grid = in->grid;
    m->fps = cfg.fps;
    m->live = in->live;
    in->opened = true;
    ic_port_send(&in->self->outbox, a->session, &m);
    return IC_OK;
}

/* --- frames out --------------------------------------------------------------------------------
 */

static void send_frame(ingest *in, ic_frame **frame)
{
    in->credit -= (int64_t)(*frame)->bytes;
    in->counts.seen++;
    ic_mail_frame *m = ic_mail_frame_new(frame);
    m->media = in->args->media;
    m->grid = in->grid;
    m->counts = in->counts;
    m->image = in->image;
    ic_port_send(&in->self->outbox, in->args->session, &m);
}

static void flush_queue(ingest *in)
{
    int sent = 0;
    while (sent < in->queued && in->credit > 0)
        send_frame(in, &in->queue[sent++].frame);
    memmove(in->queue, in->queue + sent, (size_t)(in->queued - sent) * sizeof *in->queue);
    in->queued -= sent;
}

/* A live source must not wait: the oldest pair makes room. */
static void drop_oldest(ingest *in)
{
    for (int i = 0; i < 2; i++)
        ic_frame_unref(&in->queue[i].frame);
    in->counts.skipped += 2;
    in->queued -= 2;
    memmove(in->queue, in->queue + 2, (size_t)in->queued * sizeof *in->queue);
}

static void offer_frame(ingest *in, ic_frame **frame)
{
    if (in->queued == LIVE_QUEUE)
        drop_oldest(in);
    in->queue[in->queued++].frame = *frame;
    *frame = NULL;
    flush_queue(in);
    while (!in->live && in->queued && !stopped(in)) {
        serve(in, POLL_MS);
        flush_queue(in);
    }
}

/* --- deduplication: pairs that show the same as the last one
 * --------------------------------------- */

static double difference(const ic_frame *a, const ic_frame *b)
{
    if (a->bytes != b->bytes)
        return 255;
    uint64_t sum = 0;
    for (size_t i = 0; i < a->bytes; i++)
        sum += (uint64_t)abs((int)a->rgb[i] - (int)b->rgb[i]);
    return (double)sum / (double)a->bytes;
}

static bool is_repeated(const ingest *in)
{
    for (int i = 0; i < 2; i++) {
        if (!in->last_kept[i]
            || difference(in->last_kept[i], in->pair[i]) >= in->args->limits->deduplicate)
            return false;
    }
    return true;
}

static void finish_pair(ingest *in)
{
    if (in->paired == 2 && is_repeated(in)) {
        in->counts.deduplicated += 2;
        for (int i = 0; i < 2; i++)
            ic_frame_unref(&in->pair[i]);
    } else {
        for (int i = 0; i < in->paired; i++) {
            ic_frame_unref(&in->last_kept[i]);
            in->last_kept[i] = ic_frame_ref(in->pair[i]);
            offer_frame(in, &in->pair[i]);
        }
    }
    in->paired = 0;
}

static void give_frame(ingest *in, ic_frame **frame)
{
    in->counts.pos_us = (*frame)->pts_us;
    if (in->args->limits->deduplicate <= 0 || in->image || in->args->expected.known) {
        offer_frame(in, frame);
        return;
    }
    in->pair[in->paired++] = *frame;
    *frame = NULL;
    if (in->paired == 2)
        finish_pair(in);
}

/* --- the whole ---------------------------------------------------------------------------------
 */

static int read_frames(ingest *in, ic_error *e)
{
    while (!stopped(in)) {
        ic_frame *raw = NULL, *fitted = NULL;
        int rc = ic_media_next(in->media, &raw, e);
        serve(in, 0);
        if (rc == IC_ETIMEOUT && in->live)
            continue;
        if (rc)
            return rc;
        rc = ic_engine_fit_frame(in->args->engine, raw, &in->grid, &fitted, e);
        ic_frame_unref(&raw);
        if (rc)
            return rc;
        give_frame(in, &fitted);
        ic_frame_unref(&fitted);
    }
    return IC_ECANCELED;
}

static int ingest_all(ingest *in, ic_error *e)
{
    const ic_ingest_args *a = in->args;
    int rc = IC_OK;
    if (a->kind == IC_WIRE_KIND_UPLOAD) {
        rc = ic_spool_open(&in->spool, a->limits->spool_dir, a->size, a->limits->upload_bytes, e);
        in->granted = ic_spool_until(&in->spool, IC_UPLOAD_WINDOW, IC_UPLOAD_AHEAD);
    }
    if (rc == IC_OK && a->expected.known)
        rc = recognise(in, e);
    if (rc == IC_OK)
        rc = open_source(in, e);
    if (rc == IC_OK && a->kind == IC_WIRE_KIND_PATH && !a->expected.known)
        identify(in);
    if (rc == IC_OK)
        rc = read_frames(in, e);
    if (rc == IC_ECLOSED && !in->upload_error.code) {
        finish_pair(in);
        return stopped(in) ? IC_ECANCELED : IC_OK;
    }
    if (in->upload_error.code)
        *e = in->upload_error;
    return stopped(in) ? IC_ECANCELED : e->code ? e->code : rc;
}

static void report_end(ingest *in, int rc, const ic_error *e)
{
    ic_mail_ingest_ended *m = ic_mail_ingest_ended_new(in->args->media);
    m->rc = rc;
    m->error = *e;
    m->opened = in->opened;
    in->counts.skipped += (uint64_t)in->queued;
    m->counts = in->counts;
    if (in->media) {
        ic_media_stats stats;
        ic_media_get_stats(in->media, &stats);
        m->corrupt = stats.corrupt;
        for (int i = 0; i < IC_INGEST_NOTICES; i++) {
            const char *notice = ic_media_notice(in->media, (size_t)i);
            m->notices[i] = notice ? ic_strf("%.1000s", notice) : NULL;
        }
    }
    ic_port_send(&in->self->outbox, in->args->session, &m);
}

void ic_ingest_actor_run(ic_actor_self *self)
{
    ic_actor_ready(self, NULL);
    ic_error e = {0};
    ingest in = {.self = self, .args = self->args, .spool = {.fd = -1}};
    in.credit = in.args->limits->frame_bytes;
    in.counts.pos_us = -1;
    int rc = ingest_all(&in, &e);
    while (in.queued && !stopped(&in) && rc == IC_OK) {
        serve(&in, POLL_MS);
        flush_queue(&in);
    }
    report_end(&in, rc, &e);
    ic_media_close(&in.media);
    ic_spool_close(&in.spool);
    for (int i = 0; i < in.queued; i++)
        ic_frame_unref(&in.queue[i].frame);
    for (int i = 0; i < 2; i++) {
        ic_frame_unref(&in.last_kept[i]);
        ic_frame_unref(&in.pair[i]);
    }
    while (ic_actor_wait(self, -1))
        take_mail(&in); /* pieces that were on the way */
}
