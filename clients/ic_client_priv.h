/* ic_client_priv: what the connection and the upload share. */
#ifndef IC_CLIENT_PRIV_H
#define IC_CLIENT_PRIV_H

#include "base/ic_buf.h"
#include "clients/ic_client.h"

enum {
    IC_CLIENT_ATTACHMENTS_MAX = 64,
    IC_CLIENT_WINDOW_MAX = 4 * 1024 * 1024 /* bytes of a pipe kept to be sent again */
};

/* A session whose events come here. */
typedef struct ic_client_attachment {
    char session[IC_WIRE_SESSION_MAX + 1];
    uint64_t last;  /* number of the newest event handed to the caller */
    uint64_t spent; /* bytes of events not yet granted back */
} ic_client_attachment;

typedef struct ic_client_upload_state {
    bool is_starting; /* MEDIA is sent; its OK makes it active */
    bool is_active;
    bool is_paused; /* MEDIA was repeated after a reconnect; its OK tells where to go on */
    int fd;
    bool can_seek;
    int64_t start;        /* fd's position where the upload began */
    uint64_t size;        /* as told in MEDIA; 0: unknown */
    ic_wire_media media;  /* the request, to be repeated: numbers and key */
    char *session, *name; /* ... and its strings, ours; the session's full id once known */
    uint64_t re;          /* of the repetition */
    uint64_t number;      /* of the media in its session */
    uint64_t sent, until;
    bool is_at_end; /* fd had no more bytes; only `last` is to be sent */
    bool is_last_sent;
    ic_buf window; /* a pipe's newest bytes, from window_at on, up to `sent` */
    uint64_t window_at;
    uint64_t resend; /* position in the window from which to send again; == sent: nothing */
} ic_client_upload_state;

struct ic_client {
    /* immutable after open */
    char *endpoint, *name;
    ic_client_options options;
    ic_wire_id id;
    void *context;

    /* the connection */
    void *socket;
    bool is_welcome, is_lost;
    int64_t heard_us, sent_us, ping_us, hello_us, lost_us; /* ping_us: 0 when none is unanswered */
    int64_t backoff_us;
    ic_wire_msg welcome; /* the newest, with its memory */
    int fatal;           /* no use in going on: the code, with its text */
    ic_error fatal_text;
    uint64_t next_re;

    /* the request that waits for its answer */
    bool is_calling, is_answered;
    uint64_t call_re, call_from; /* call_from: of an ATTACH; 0: absent */
    uint8_t call_signature[IC_WIRE_SIGNATURE_MAX];
    size_t call_signature_size;
    ic_buf call_body;
    const void *call_payload; /* the third frame; NULL: none. The caller's */
    size_t call_payload_size;
    ic_buf *call_bytes; /* gets the third frame of the answer; NULL: it is not wanted */
    ic_wire_msg *call_reply;
    ic_wire_verb call_verb;
    char last_code[40];

    ic_client_attachment attachments[IC_CLIENT_ATTACHMENTS_MAX];
    int attachment_count;
    ic_client_upload_state upload;
};

/* Encodes and sends without blocking; what cannot be sent now is lost with its connection and
 * repeated by the caller's rules. payload may be NULL. IC_EAGAIN: the socket takes nothing now. */
int ic_client_send(ic_client *c, const ic_wire_msg *m, const void *payload, size_t payload_size);

/* ic_client_call for requests and answers with a third frame: payload may be NULL, bytes (cleared
 * first) too. */
int ic_client_call_bytes(ic_client *c, ic_wire_msg *request, const void *payload,
                         size_t payload_size, ic_wire_msg *reply, ic_buf *bytes, ic_error *e);

/* Gives a request that has a key, and none yet, a random one. */
int ic_client_fill_key(ic_wire_msg *request, ic_error *e);

/* Bytes may be sent: reads fd and sends pieces, a few per call. fd_ready: a read will not block. */
void ic_client_upload_pump(ic_client *c, bool fd_ready);
/* Whether the upload waits for its fd alone; then it is worth polling. */
bool ic_client_upload_wants_fd(const ic_client *c);
/* A new connection: repeats MEDIA with its key. */
void ic_client_upload_rejoin(ic_client *c);
/* Answers and news about the upload. */
void ic_client_upload_on_started(ic_client *c, const ic_wire_ok *ok);
void ic_client_upload_on_ok(ic_client *c, const ic_wire_ok *ok);
void ic_client_upload_on_grant(ic_client *c, const ic_wire_grant *grant);
void ic_client_upload_on_event(ic_client *c, const ic_wire_event *event);
void ic_client_upload_on_error(ic_client *c, const ic_wire_error *error);

#endif
