#include "actors/ic_actor_msgs.h"

#include <string.h>

#include "base/ic_mem.h"

ic_mail_plain *ic_mail_plain_new(ic_mail_kind kind, const char *session)
{
    ic_mail_plain *m = ic_mail_new((int)kind, sizeof *m, NULL);
    if (session)
        snprintf(m->session, sizeof m->session, "%s", session);
    return m;
}

static void discard_port(ic_mail *m)
{
    ic_port_close(&((ic_mail_port *)m)->port);
    ic_free(m);
}

ic_mail_port *ic_mail_port_close_new(ic_port **port_p)
{
    ic_mail_port *m = ic_mail_new(IC_MAIL_PORT_CLOSE, sizeof *m, discard_port);
    m->port = *port_p;
    *port_p = NULL;
    return m;
}

ic_mail_lease *ic_mail_lease_new(ic_mail_kind kind, ic_seat *seat, ic_session *session)
{
    ic_mail_lease *m = ic_mail_new((int)kind, sizeof *m, NULL);
    m->seat = seat;
    m->session = session;
    return m;
}

static void discard_input(ic_mail *mail)
{
    ic_mail_input *m = (ic_mail_input *)mail;
    ic_frame_unref(&m->frame);
    ic_free(m->text);
    ic_free(m->forced);
    ic_free(m);
}

ic_mail_input *ic_mail_input_new(ic_seat *seat, ic_input_type type)
{
    ic_mail_input *m = ic_mail_new(IC_MAIL_INPUT, sizeof *m, discard_input);
    m->seat = seat;
    m->type = type;
    return m;
}

static void discard_upload(ic_mail *m)
{
    ic_buf_fini(&((ic_mail_upload *)m)->bytes);
    ic_free(m);
}

ic_mail_upload *ic_mail_upload_new(uint64_t offset, bool last)
{
    ic_mail_upload *m = ic_mail_new(IC_MAIL_UPLOAD, sizeof *m, discard_upload);
    m->offset = offset;
    m->last = last;
    return m;
}

static void discard_frame(ic_mail *m)
{
    ic_frame_unref(&((ic_mail_frame *)m)->frame);
    ic_free(m);
}

ic_mail_frame *ic_mail_frame_new(ic_frame **frame_p)
{
    ic_mail_frame *m = ic_mail_new(IC_MAIL_FRAME, sizeof *m, discard_frame);
    m->frame = *frame_p;
    *frame_p = NULL;
    return m;
}

static void discard_ended(ic_mail *m)
{
    for (int i = 0; i < IC_INGEST_NOTICES; i++)
        ic_free(((ic_mail_ingest_ended *)m)->notices[i]);
    ic_free(m);
}

ic_mail_ingest_ended *ic_mail_ingest_ended_new(uint64_t media)
{
    ic_mail_ingest_ended *m = ic_mail_new(IC_MAIL_INGEST_ENDED, sizeof *m, discard_ended);
    m->media = media;
    return m;
}

static void discard_request(ic_mail *mail)
{
    ic_mail_request *m = (ic_mail_request *)mail;
    ic_wire_msg_fini(&m->msg);
    ic_buf_fini(&m->payload);
    ic_free(m);
}

ic_mail_request *ic_mail_request_new(void)
{
    return ic_mail_new(IC_MAIL_REQUEST, sizeof(ic_mail_request), discard_request);
}

static void discard_send(ic_mail *m)
{
    ic_buf_fini(&((ic_mail_send *)m)->body);
    ic_buf_fini(&((ic_mail_send *)m)->payload);
    ic_free(m);
}

ic_mail_send *ic_mail_send_new(uint64_t peer, ic_wire_verb verb)
{
    ic_mail_send *m = ic_mail_new(IC_MAIL_SEND, sizeof *m, discard_send);
    m->peer = peer;
    m->verb = verb;
    return m;
}

static void discard_looked(ic_mail *mail)
{
    ic_mail_discard((ic_mail **)&((ic_mail_looked *)mail)->request);
    ic_free(mail);
}

ic_mail_looked *ic_mail_looked_new(ic_mail_request **request_p)
{
    ic_mail_looked *m = ic_mail_new(IC_MAIL_LOOKED, sizeof *m, discard_looked);
    m->request = *request_p;
    *request_p = NULL;
    return m;
}

static void discard_rm_ready(ic_mail *mail)
{
    ic_mail_discard((ic_mail **)&((ic_mail_rm_ready *)mail)->request);
    ic_free(mail);
}

ic_mail_rm_ready *ic_mail_rm_ready_new(ic_mail_request **request_p)
{
    ic_mail_rm_ready *m = ic_mail_new(IC_MAIL_RM_READY, sizeof *m, discard_rm_ready);
    m->request = *request_p;
    *request_p = NULL;
    return m;
}
