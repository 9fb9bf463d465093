/* A session's source of frames: its ingest actor, its credit, its progress, its end.
 *
 * An upload is admitted at once, since its bytes must be let in; every other source is opened
 * first, so that a refusal is an ERROR and leaves nothing behind. */
#include <string.h>

#include "actors/ic_talk_priv.h"
#include "base/ic_clock.h"
#include "base/ic_failpoint.h"
#include "base/ic_log.h"
#include "base/ic_mem.h"

enum {
    PROGRESS_US = 1000000, /* between two progress events */
    START_MS = 5000,
    STOP_MS = 5000
};

/* --- the end of one ----------------------------------------------------------------------------
 */

void talk_source_free(talk *t)
{
    talk_source *s = t->source;
    if (!s)
        return;
    t->source = NULL;
    atomic_store(&s->args.stop, true);
    if (!ic_actor_stop(&s->actor, STOP_MS)) /* it lives on: what it uses must too */
        return;
    if (s->port) {
        ic_outbox_forget(&t->self->outbox, s->port);
        ic_port_close(&s->port);
    }
    ic_port_close(&s->args.session);
    ic_free(s->args.source);
    ic_free(s->args.name);
    ic_mail_discard((ic_mail **)&s->request);
    ic_mail_discard((ic_mail **)&s->info);
    ic_mail_discard((ic_mail **)&s->ended);
    ic_free(s);
}

void talk_source_stop(talk *t)
{
    if (t->source) {
        t->source->ending = true;
        atomic_store(&t->source->args.stop, true);
    }
}

/* As long as a replay needs them; those of what cannot be read again while the bound of the session
 * allows. */
ic_store_hold talk_source_hold(const talk *t)
{
    bool again = t->source && t->source->identity.known;
    return t->limits->keep_bytes > 0 && !again ? IC_STORE_HOLD_KEEP : IC_STORE_HOLD_REPLAY;
}

/* --- the beginning -----------------------------------------------------------------------------
 */

static const char *forbidden(const talk *t, const ic_wire_media *m)
{
    const ic_ingest_limits *l = &t->limits->ingest;
    if (m->kind == IC_WIRE_KIND_PATH && !l->roots_count)
        return "this server opens no files of its own (media.roots is empty): upload the file";
    if (m->kind == IC_WIRE_KIND_URL && !l->allow_network)
        return "this server opens no network sources (media.allow_network)";
    if (m->kind == IC_WIRE_KIND_CAMERA && !l->allow_camera)
        return "this server opens no cameras (media.allow_camera)";
    return NULL;
}

static void fill_args(talk *t, talk_source *s, const ic_wire_media *m)
{
    ic_ingest_args *a = &s->args;
    a->limits = &t->limits->ingest;
    a->engine = t->limits->engine;
    a->kind = m->kind;
    a->image = ic_wire_get(m, media, as, IC_WIRE_AS_VIDEO) == IC_WIRE_AS_IMAGE;
    a->live = ic_wire_get(m, media, live, false);
    const char *source = ic_wire_get(m, media, source, "");
    a->source = ic_strdup(source);
    a->name = ic_strdup(ic_wire_get(m, media, name, source[0] ? source : "upload"));
    a->size = ic_wire_has(m, media, size) ? (int64_t)m->size : -1;
    a->fps = ic_wire_get(m, media, fps, 0);
    a->from_us = (int64_t)ic_wire_get(m, media, from_us, 0);
    a->to_us = ic_wire_has(m, media, to_us) ? (int64_t)m->to_us : -1;
    a->max_frames = ic_wire_get(m, media, max_frames, 0);
    a->frame_tokens = (int)ic_wire_get(m, media, frame_tokens, 0);
    a->most_tokens = t->config.engine.group_tokens_max;
    s->image = a->image;
}

static int start_actor(talk *t, talk_source *s, ic_error *e)
{
    char name[40];
    snprintf(name, sizeof name, "ingest-%.8s-%llu", t->id, (unsigned long long)s->args.media);
    s->args.session = ic_port_open(t->self->inbox);
    int rc = ic_actor_start(&s->actor, name, ic_ingest_actor_run, &s->args, START_MS, e);
    if (rc == IC_OK)
        s->port = ic_actor_port(s->actor);
    return rc;
}

/* What was left out is in no frame's record: it goes into the journal with what is written next. */
void talk_source_note(talk *t, talk_unit *u)
{
    const talk_source *s = t->source;
    ic_talk_reach *reach = &t->head.source;
    if (!s || !s->media)
        return;
    uint64_t skipped = s->counts.skipped + s->dropped;
    if (reach->skipped == skipped && reach->deduplicated == s->counts.deduplicated)
        return;
    reach->skipped = skipped;
    reach->deduplicated = s->counts.deduplicated;
    ic_talk_record r = {.kind = IC_RECORD_SOURCE,
                        .media = s->media,
                        .source = *reach,
                        .left_skipped = t->head.skipped,
                        .left_duplicated = t->head.deduplicated};
    talk_unit_record(t, u, &r, NULL);
}

/* What a file is known by, and how it was read: enough to read it again. */
static void put_identity(ic_write_op *op, const talk_source *s)
{
    const ic_identity *id = &s->identity;
    const ic_ingest_args *a = &s->args;
    op->media.bytes = id->bytes;
    op->media.mtime_us = id->mtime_us;
    memcpy(op->media.hash, id->hash, sizeof id->hash);
    op->media.hash_bytes = sizeof id->hash;
    ic_talk_reading r = {.source = a->source,
                         .fps = s->info ? s->info->fps : a->fps,
                         .from_us = a->from_us,
                         .to_us = a->to_us,
                         .max_frames = a->max_frames,
                         .frame_tokens = (uint32_t)a->frame_tokens,
                         .image = s->image};
    ic_talk_reading_encode(&r, &op->times);
}

/* number 0: a new entry. */
static void put_ledger(talk_unit *u, const talk_source *s, uint64_t number, bool done)
{
    ic_write_op *op = ic_job_write_add(u->ops, IC_WRITE_MEDIA);
    uint64_t seen = s->given, skipped = s->counts.skipped + s->dropped;
    op->media = (ic_store_media){
        .number = (int64_t)number,
        .time_us = ic_clock_wall_us(),
        .kind = (uint32_t)s->args.kind | (uint32_t)s->image << 8,
        .state = done,
        .bytes = s->args.size,
        .fps = s->info ? s->info->fps : s->args.fps,
        .frames_used = (int64_t)seen,
        .frames_skipped = (int64_t)skipped,
        .frames_seen = (int64_t)(seen + skipped + s->counts.deduplicated),
    };
    ic_buf_append(&op->bytes, s->args.name, strlen(s->args.name));
    if (s->identity.known)
        put_identity(op, s);
}

static void write_identity(talk *t)
{
    talk_unit *u = talk_unit_new(t);
    put_ledger(u, t->source, t->source->media, false);
    talk_unit_add(t, &u);
}

/* The unit that makes the source durable, ledger and all; its OK goes out with it. */
static void admit(talk *t)
{
    talk_source *s = t->source;
    talk_unit *u = talk_unit_new(t);
    s->key = s->request->msg.media.key;
    talk_unit_admit(u, &s->request);
    u->media = s->args.media;
    ic_talk_record r = {.kind = IC_RECORD_MEDIA, .media = u->media};
    talk_unit_record(t, u, &r, NULL);
    put_ledger(u, s, 0, false);
    talk_unit_add(t, &u);
}

void talk_source_start(talk *t, ic_mail_request **request_p)
{
    ic_mail_request *request = *request_p;
    const char *why = forbidden(t, &request->msg.media);
    if (why) {
        talk_send_error(t, request, IC_WIRE_CODE_FORBIDDEN, why);
        return;
    }
    if (request->msg.media.kind != IC_WIRE_KIND_UPLOAD
        && !ic_wire_get(&request->msg.media, media, source, "")[0]) {
        talk_send_error(t, request, IC_WIRE_CODE_INVALID,
                        "a source is wanted: path, URL or device");
        return;
    }
    talk_source *s = ic_alloc(sizeof *s);
    t->source = s;
    fill_args(t, s, &request->msg.media);
    s->args.media = t->head.medias + 1;
    s->counts.pos_us = -1;
    s->request = request;
    *request_p = NULL;
    s->granted = IC_UPLOAD_WINDOW;
    if (s->args.size >= 0 && (uint64_t)s->args.size < s->granted)
        s->granted = (uint64_t)s->args.size;
    if (s->args.kind == IC_WIRE_KIND_UPLOAD) {
        admit(t);
        return;
    }
    ic_error e = {0};
    if (start_actor(t, s, &e)) {
        talk_send_error(t, s->request, IC_WIRE_CODE_INTERNAL, e.text);
        talk_source_free(t);
    }
}

/* --- events ------------------------------------------------------------------------------------
 */

static talk_event *media_event(talk_unit *u, const talk_source *s, int type)
{
    talk_event *ev = talk_unit_event(u, type);
    ic_wire_media_info *m = &ev->media;
    ev->has_media = true;
    ic_wire_put(m, media_info, media, s->media);
    ic_wire_put(m, media_info, frames_seen, s->given);
    ic_wire_put(m, media_info, frames_skipped, s->counts.skipped + s->dropped);
    ic_wire_put(m, media_info, frames_deduplicated, s->counts.deduplicated);
    if (s->counts.pos_us >= 0)
        ic_wire_put(m, media_info, pos_us, (uint64_t)s->counts.pos_us);
    return ev;
}

static void fill_info(const talk_source *s, talk_event *ev)
{
    ic_wire_media_info *m = &ev->media;
    ev->media_name = ic_strf("%.1000s", s->args.name);
    ic_wire_put(m, media_info, kind, s->args.kind);
    ic_wire_put(m, media_info, as, s->image ? IC_WIRE_AS_IMAGE : IC_WIRE_AS_VIDEO);
    const ic_mail_ingest_opened *o = s->info;
    if (!o)
        return;
    ev->container = ic_strdup(o->info.container);
    ev->codec = ic_strdup(o->info.codec);
    ic_wire_put(m, media_info, width, (uint64_t)o->info.width);
    ic_wire_put(m, media_info, height, (uint64_t)o->info.height);
    if (o->info.fps > 0)
        ic_wire_put(m, media_info, frame_rate, o->info.fps);
    int64_t end = o->info.duration_us;
    if (s->args.to_us >= 0 && (end < 0 || s->args.to_us < end))
        end = s->args.to_us;
    if (end > s->args.from_us)
        ic_wire_put(m, media_info, duration_us, (uint64_t)(end - s->args.from_us));
    ic_wire_put(m, media_info, fps, o->fps);
    ic_wire_put(m, media_info, frame_tokens,
                (uint64_t)o->grid.tokens_w * (uint64_t)o->grid.tokens_h);
    ic_wire_put(m, media_info, live, o->live);
}

static void tell_begin(talk *t)
{
    talk_unit *u = talk_unit_new(t);
    fill_info(t->source, media_event(u, t->source, IC_WIRE_EVENT_MEDIA_BEGIN));
    talk_unit_add(t, &u);
}

void talk_source_tick(talk *t)
{
    talk_source *s = t->source;
    int64_t now = ic_clock_mono_us();
    if (!s || !s->media || !s->opened || s->given == s->progress_seen
        || now - s->progress_us < PROGRESS_US || t->in_flight)
        return;
    s->progress_us = now;
    s->progress_seen = s->given;
    talk_unit *u = talk_unit_new(t);
    talk_source_note(t, u);
    media_event(u, s, IC_WIRE_EVENT_MEDIA_PROGRESS);
    talk_unit_add(t, &u);
}

/* --- admitted ----------------------------------------------------------------------------------
 */

ic_mail_send *talk_media_ok(talk *t, const ic_mail_request *r, int64_t first_event, bool repeated)
{
    ic_wire_msg m = talk_ok(t, r);
    talk_source *s = t->source;
    if (first_event)
        ic_wire_put(&m.ok, ok, n, (uint64_t)first_event);
    if (s && s->media) {
        ic_wire_put(&m.ok, ok, media, s->media);
        if (s->args.kind == IC_WIRE_KIND_UPLOAD) {
            ic_wire_put(&m.ok, ok, received, s->received);
            ic_wire_put(&m.ok, ok, until, s->granted);
        }
    }
    if (repeated)
        ic_wire_put(&m.ok, ok, repeated, true);
    ic_mail_send *out = ic_mail_send_new(r->peer, IC_WIRE_OK);
    ic_error e = {0};
    if (ic_wire_encode(&m, &out->body, &e))
        ic_log_error("session", "BUG: %s", e.text);
    return out;
}

void talk_source_admitted(talk *t, const talk_unit *u)
{
    talk_source *s = t->source;
    if (!s)
        return;
    ic_error e = {0};
    ic_failpoint(IC_FAIL_media_admitted);
    s->media = t->head.medias = u->media;
    t->head.open_media = s->media;
    t->head.source = (ic_talk_reach){.pos_us = -1};
    if (s->args.kind == IC_WIRE_KIND_UPLOAD && start_actor(t, s, &e)) {
        s->ended = ic_mail_ingest_ended_new(s->media);
        s->ended->rc = e.code;
        s->ended->error = e;
        s->ended->counts.pos_us = -1;
    }
    ic_log_info("session", "%.8s: source %llu begins: %s", t->id, (unsigned long long)s->media,
                ic_wire_word("kind", s->args.kind));
    if (s->opened)
        tell_begin(t);
    if (s->identity.known)
        write_identity(t);
    talk_source_check_end(t);
}

/* --- mail from ingest --------------------------------------------------------------------------
 */

static void take_opened(talk *t, ic_mail_ingest_opened **m_p)
{
    talk_source *s = t->source;
    s->info = *m_p;
    *m_p = NULL;
    s->opened = true;
    s->image |= s->info->info.is_image;
    if (s->media)
        tell_begin(t);
    else
        admit(t);
}

/* It goes into the ledger as soon as there is an entry, and before the first frame. */
static void take_identity(talk *t, const ic_mail_identity *m)
{
    t->source->identity = m->identity;
    if (t->source->media)
        write_identity(t);
}

/* What the source has left out by now. */
static void take_counts(talk *t, const ic_ingest_counts *now)
{
    ic_ingest_counts *before = &t->source->counts;
    uint64_t skipped = now->skipped - before->skipped;
    uint64_t deduplicated = now->deduplicated - before->deduplicated;
    t->head.skipped += skipped;
    t->skipped_here += skipped;
    t->head.deduplicated += deduplicated;
    t->deduplicated_here += deduplicated;
    *before = *now;
}

static void take_frame(talk *t, ic_mail_frame *m)
{
    talk_source *s = t->source;
    ic_failpoint(IC_FAIL_media_frame);
    take_counts(t, &m->counts);
    talk_item *item = ic_alloc(sizeof *item);
    item->type = TALK_ITEM_FRAME;
    item->frame = m->frame;
    m->frame = NULL;
    item->grid = m->grid;
    item->image = m->image;
    if (s->ending) {
        s->dropped++;
        t->head.skipped++;
        t->skipped_here++;
        ic_frame_unref(&item->frame);
        ic_free(item);
        return;
    }
    talk_line_add(t, &item);
}

static void send_grant(talk *t, const ic_mail_grant *g)
{
    talk_source *s = t->source;
    s->granted = g->until;
    s->received = g->received;
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_GRANT);
    ic_wire_put(&m.grant, grant, session, t->id);
    ic_wire_put(&m.grant, grant, media, s->media);
    ic_wire_put(&m.grant, grant, until, g->until);
    ic_wire_put(&m.grant, grant, received, g->received);
    for (const talk_attachment *a = t->attachments; a; a = a->next)
        talk_send_msg(t, a->peer, &m);
}

static void tell_end(talk *t, talk_source *s, ic_mail_ingest_ended *end)
{
    talk_unit *u = talk_unit_new(t);
    talk_source_note(t, u);
    ic_talk_record r = {.kind = IC_RECORD_MEDIA_END, .media = s->media};
    talk_unit_record(t, u, &r, NULL);
    put_ledger(u, s, s->media, true);
    talk_event *ev = media_event(u, s, IC_WIRE_EVENT_MEDIA_END);
    ic_wire_put(&ev->media, media_info, done, true);
    fill_info(s, ev);
    for (int i = 0; i < IC_INGEST_NOTICES; i++) {
        ev->notices[i] = end->notices[i];
        end->notices[i] = NULL;
    }
    if (end->rc && end->rc != IC_ECANCELED) {
        ev->code = end->rc == IC_EFORMAT || end->rc == IC_EUNSUPPORTED
                       ? ic_wire_code_name(IC_WIRE_CODE_MEDIA)
                       : ic_wire_code_name(ic_wire_code_from_err(end->rc));
        ev->message = ic_strdup(end->error.text);
    }
    u->media = s->media;
    talk_unit_add(t, &u);
}

static ic_wire_code open_code(int rc, const ic_error *e)
{
    if (rc == IC_EFORMAT || rc == IC_EUNSUPPORTED || rc == IC_EIO)
        return IC_WIRE_CODE_MEDIA;
    if (rc == IC_EINVAL && strstr(e->text, "root"))
        return IC_WIRE_CODE_FORBIDDEN;
    return ic_wire_code_from_err(rc);
}

/* The end is told when everything before it is in the model's hands and journalled. */
void talk_source_finish(talk *t)
{
    talk_source *s = t->source;
    ic_mail_ingest_ended *end = s->ended;
    ic_failpoint(IC_FAIL_media_end);
    take_counts(t, &end->counts);
    if (s->request) { /* never opened: it is as if it had not been asked for */
        talk_send_error(t, s->request, open_code(end->rc, &end->error), end->error.text);
    } else {
        tell_end(t, s, end);
        ic_log_info("session", "%.8s: source %llu ended: %llu frames, %s", t->id,
                    (unsigned long long)s->media, (unsigned long long)s->given,
                    end->rc == IC_ECANCELED ? "stopped"
                    : end->rc               ? end->error.text
                                            : "ok");
        t->head.open_media = 0;
    }
    t->spoken_us = ic_clock_mono_us();
    talk_source_free(t);
}

void talk_source_refused(talk *t)
{
    talk_source_free(t);
}

/* An end before the admission's verdict waits for it. */
void talk_source_check_end(talk *t)
{
    talk_source *s = t->source;
    if (!s || !s->ended || s->end_queued)
        return;
    if (s->request) {
        talk_source_finish(t);
    } else if (s->media) {
        s->end_queued = true;
        talk_item *item = ic_alloc(sizeof *item);
        item->type = TALK_ITEM_FRAMES_END;
        talk_line_add(t, &item);
    }
}

/* What has not gone into the model is let go of, and counted. */
void talk_source_drop_frames(talk *t)
{
    uint64_t frames = talk_line_drop_frames(t);
    t->head.skipped += frames;
    t->skipped_here += frames;
    if (t->source)
        t->source->dropped += frames;
}

void talk_source_mail(talk *t, ic_mail **m_p)
{
    talk_source *s = t->source;
    switch ((*m_p)->kind) {
    case IC_MAIL_INGEST_OPENED:
        if (s && ((ic_mail_ingest_opened *)*m_p)->media == s->args.media)
            take_opened(t, (ic_mail_ingest_opened **)m_p);
        break;
    case IC_MAIL_IDENTITY:
        if (s && ((ic_mail_identity *)*m_p)->media == s->args.media)
            take_identity(t, (ic_mail_identity *)*m_p);
        break;
    case IC_MAIL_FRAME:
        if (s && ((ic_mail_frame *)*m_p)->media == s->args.media)
            take_frame(t, (ic_mail_frame *)*m_p);
        break;
    case IC_MAIL_UPLOAD_GRANT:
        if (s && s->media && ((ic_mail_grant *)*m_p)->media == s->media)
            send_grant(t, (ic_mail_grant *)*m_p);
        break;
    case IC_MAIL_INGEST_ENDED:
        if (s && ((ic_mail_ingest_ended *)*m_p)->media == s->args.media) {
            s->ended = (ic_mail_ingest_ended *)*m_p;
            *m_p = NULL;
        }
        break;
    }
    talk_source_check_end(t);
    ic_mail_discard(m_p);
}

void talk_source_credit(talk *t, uint64_t bytes)
{
    talk_source *s = t->source;
    if (!s || !s->port)
        return;
    ic_mail_credit *m = ic_mail_new(IC_MAIL_FRAME_CREDIT, sizeof *m, NULL);
    m->bytes = bytes;
    ic_port_send(&t->self->outbox, s->port, &m);
}

/* --- the client's pieces -----------------------------------------------------------------------
 */

void talk_source_data(talk *t, ic_mail_request *r)
{
    const ic_wire_data *d = &r->msg.data;
    talk_source *s = t->source;
    if (d->media > t->head.medias) {
        talk_send_error(t, r, IC_WIRE_CODE_NOTFOUND, "there is no such source in this session");
        return;
    }
    if (!s || s->media != d->media || !s->port || s->ending)
        return; /* it has ended: pieces were on the way */
    ic_failpoint(IC_FAIL_media_piece);
    ic_mail_upload *m = ic_mail_upload_new(d->offset, ic_wire_get(d, data, last, false));
    m->bytes = r->payload;
    r->payload = (ic_buf){0};
    ic_port_send(&t->self->outbox, s->port, &m);
}
