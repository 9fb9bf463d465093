/* The client library against a small server in a thread, over a real ipc socket. IC_NEEDS_SERVER */
#include "ic_test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "clients/ic_client.h"
#include "ic_fake_server.h"

/* --- what the client told ----------------------------------------------------------------------
 */

typedef struct heard {
    char text[80000];
    size_t text_size;
    int types[16];
    uint64_t last;
    bool is_ordered, is_ended, is_media_ended;
    int finish_reason, lost, found, errors;
    char error[128];
} heard;

static void on_event(const ic_wire_event *event, void *arg)
{
    heard *h = arg;
    h->is_ordered = h->is_ordered && event->n > h->last;
    h->last = event->n;
    h->types[event->type]++;
    if (event->type == IC_WIRE_EVENT_TEXT)
        h->text_size += (size_t)snprintf(h->text + h->text_size, sizeof h->text - h->text_size,
                                         "%s", event->text);
    if (event->type == IC_WIRE_EVENT_ANSWER_END) {
        h->is_ended = true;
        h->finish_reason = event->finish_reason;
    }
    h->is_media_ended |= event->type == IC_WIRE_EVENT_MEDIA_END;
}

static void on_error(const ic_wire_error *error, void *arg)
{
    heard *h = arg;
    h->errors++;
    snprintf(h->error, sizeof h->error, "%s", error->message);
}

static void on_lost(bool is_lost, void *arg)
{
    heard *h = arg;
    *(is_lost ? &h->lost : &h->found) += 1;
}

static heard *news(void)
{
    static heard h;
    memset(&h, 0, sizeof h);
    h.is_ordered = true;
    return &h;
}

static ic_client *open_client(const char *endpoint, heard *h, int timeout_ms)
{
    ic_client *c = NULL;
    ic_error e = {0};
    ic_client_options options = {.endpoint = endpoint,
                                 .name = "test 1",
                                 .timeout_ms = timeout_ms,
                                 .on_event = on_event,
                                 .on_error = on_error,
                                 .on_lost = on_lost,
                                 .arg = h};
    ic_assert_ok(ic_client_open(&c, &options, &e), &e);
    return c;
}

static int ask(ic_client *c, const char *text, ic_wire_msg *reply, ic_error *e)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_ASK);
    ic_wire_put(&m.ask, ask, session, "3f9a");
    ic_wire_put(&m.ask, ask, text, text);
    return ic_client_call(c, &m, reply, e);
}

static void wait_for(ic_client *c, const bool *flag)
{
    ic_error e = {0};
    for (int i = 0; i < 2000 && !*flag; i++)
        ic_assert_ok(ic_client_wait(c, -1, NULL, 50, &e), &e);
    assert_true(*flag);
}

static int simple_call(ic_client *c, ic_wire_verb verb, ic_wire_msg *reply, ic_error *e)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, verb);
    return ic_client_call(c, &m, reply, e);
}

/* --- tests ------------------------------------------------------------------------------------ */

/* Hello, a session, a question: events come in order, once, with the answer's text and end. */
static void a_conversation(void **state)
{
    (void)state;
    fake_server *s = fake_server_start(ic_test_dir(), "talk");
    heard *h = news();
    ic_client *c = open_client(s->endpoint, h, 5000);
    ic_wire_msg reply;
    ic_error e = {0};
    assert_string_equal(ic_client_welcome(c)->version, "0.1.0");
    ic_assert_ok(simple_call(c, IC_WIRE_NEW, &reply, &e), &e);
    assert_string_equal(reply.ok.session, FAKE_SESSION);
    ic_wire_msg_fini(&reply);
    ic_assert_ok(ask(c, "What is red?", &reply, &e), &e);
    assert_int_equal(reply.ok.turn, 1);
    ic_wire_msg_fini(&reply);
    wait_for(c, &h->is_ended);
    assert_string_equal(h->text, "echo: What is red?");
    assert_int_equal(h->finish_reason, IC_WIRE_FINISH_STOP);
    assert_true(h->is_ordered);
    ic_client_close(&c);
    assert_null(c);
    for (int i = 0; i < 200 && !s->byes; i++)
        usleep(10000);
    assert_int_equal(s->byes, 1);
    fake_server_stop(s);
}

/* A long answer flows under credit that the client gives back by itself. */
static void credit_is_given_back(void **state)
{
    (void)state;
    fake_server *s = fake_server_start(ic_test_dir(), "credit");
    heard *h = news();
    ic_client *c = open_client(s->endpoint, h, 5000);
    ic_wire_msg reply;
    ic_error e = {0};
    static char question[40001];
    memset(question, 'q', sizeof question - 1);
    ic_assert_ok(ask(c, question, &reply, &e), &e);
    ic_wire_msg_fini(&reply);
    wait_for(c, &h->is_ended);
    assert_int_equal(h->text_size, 40006);
    assert_true(s->credits >= 40000 / FAKE_CREDIT);
    assert_true(h->is_ordered);
    ic_client_close(&c);
    fake_server_stop(s);
}

/* An ERROR fails the call with its sentence and its code. */
static void errors_fail_the_call(void **state)
{
    (void)state;
    fake_server *s = fake_server_start(ic_test_dir(), "errors");
    heard *h = news();
    ic_client *c = open_client(s->endpoint, h, 5000);
    ic_wire_msg reply;
    ic_error e = {0};
    assert_int_equal(ask(c, "busy", &reply, &e), IC_EBUSY);
    assert_string_equal(ic_client_last_code(c), "BUSY");
    assert_string_equal(e.text, "the session is answering turn 1");
    ic_wire_msg_fini(&reply);
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_SHOW);
    ic_wire_put(&m.show, show, session, "3f");
    assert_int_equal(ic_client_call(c, &m, &reply, &e), IC_ENOTFOUND);
    assert_string_equal(ic_client_last_code(c), "AMBIGUOUS");
    ic_wire_msg_init(&m, IC_WIRE_SHOW);
    assert_int_equal(ic_client_call(c, &m, &reply, &e), IC_EINVAL);
    assert_string_equal(ic_client_last_code(c), "");
    assert_non_null(strstr(e.text, "SHOW.session is missing"));
    ic_wire_msg_init(&m, IC_WIRE_PING);
    assert_int_equal(ic_client_call(c, &m, &reply, &e), IC_EINVAL);
    assert_int_equal(h->errors, 0);
    ic_client_close(&c);
    fake_server_stop(s);
}

/* A request that the server forgot is repeated with the key it had. */
static void forgotten_requests_are_repeated(void **state)
{
    (void)state;
    fake_server *s = fake_server_start(ic_test_dir(), "forget");
    s->heartbeat_ms = 100;
    heard *h = news();
    ic_client *c = open_client(s->endpoint, h, 10000);
    ic_wire_msg reply;
    ic_error e = {0};
    ic_assert_ok(ask(c, "forget", &reply, &e), &e);
    ic_wire_msg_fini(&reply);
    wait_for(c, &h->is_ended);
    assert_string_equal(h->text, "echo: forget");
    assert_true(s->asks >= 2 && s->repeated >= 1 && s->hellos >= 2);
    ic_client_close(&c);
    fake_server_stop(s);
}

/* When the server forgets its clients in mid-answer, the rest is fetched from where it stopped. */
static void events_go_on_after_a_restart(void **state)
{
    (void)state;
    fake_server *s = fake_server_start(ic_test_dir(), "restart");
    s->heartbeat_ms = 100;
    heard *h = news();
    ic_client *c = open_client(s->endpoint, h, 10000);
    ic_wire_msg reply;
    ic_error e = {0};
    ic_assert_ok(ask(c, "restart", &reply, &e), &e);
    ic_wire_msg_fini(&reply);
    wait_for(c, &h->is_ended);
    assert_string_equal(h->text, "half whole");
    assert_true(h->is_ordered);
    assert_true(s->hellos >= 2);
    ic_client_close(&c);
    fake_server_stop(s);
}

/* A silent server is noticed; when it speaks again the client is back, and is told both. */
static void silence_is_noticed(void **state)
{
    (void)state;
    fake_server *s = fake_server_start(ic_test_dir(), "mute");
    s->heartbeat_ms = 100;
    heard *h = news();
    ic_client *c = open_client(s->endpoint, h, 60000);
    ic_error e = {0};
    s->is_mute = true;
    for (int i = 0; i < 400 && !h->lost; i++)
        ic_assert_ok(ic_client_wait(c, -1, NULL, 50, &e), &e);
    assert_true(h->lost >= 1);
    s->is_mute = false;
    for (int i = 0; i < 400 && !h->found; i++)
        ic_assert_ok(ic_client_wait(c, -1, NULL, 50, &e), &e);
    assert_true(h->found >= 1);
    assert_true(s->hellos >= 2);
    ic_client_close(&c);
    fake_server_stop(s);
}

/* A server that ends, and another that begins on the same endpoint: the client finds it, attaches
 * to its session again and goes on. */
static void another_server_is_found(void **state)
{
    (void)state;
    fake_server *s = fake_server_start(ic_test_dir(), "again");
    s->heartbeat_ms = 100;
    heard *h = news();
    ic_client *c = open_client(s->endpoint, h, 60000);
    ic_wire_msg reply;
    ic_error e = {0};
    ic_assert_ok(simple_call(c, IC_WIRE_NEW, &reply, &e), &e);
    ic_wire_msg_fini(&reply);
    fake_server_stop(s);
    s = fake_server_start(ic_test_dir(), "again");
    for (int i = 0; i < 600 && !s->attaches; i++)
        ic_assert_ok(ic_client_wait(c, -1, NULL, 50, &e), &e);
    assert_true(s->attaches > 0 && s->hellos > 0);
    ic_assert_ok(ask(c, "still there?", &reply, &e), &e);
    ic_wire_msg_fini(&reply);
    wait_for(c, &h->is_ended);
    assert_string_equal(h->text, "echo: still there?");
    ic_client_close(&c);
    fake_server_stop(s);
}

/* A server that stays away ends calls and waits with a text that names the endpoint. */
static void absence_ends_calls(void **state)
{
    (void)state;
    fake_server *s = fake_server_start(ic_test_dir(), "away");
    s->heartbeat_ms = 100;
    heard *h = news();
    ic_client *c = open_client(s->endpoint, h, 600);
    ic_wire_msg reply;
    ic_error e = {0};
    s->is_mute = true;
    int rc = simple_call(c, IC_WIRE_STATUS, &reply, &e);
    assert_true(rc == IC_ECLOSED || rc == IC_ETIMEOUT);
    for (int i = 0; i < 400 && !rc; i++)
        rc = ic_client_wait(c, -1, NULL, 50, &e);
    while (rc != IC_ECLOSED)
        rc = ic_client_wait(c, -1, NULL, 50, &e);
    assert_non_null(strstr(e.text, s->endpoint));
    ic_client_close(&c);
    fake_server_stop(s);
}

/* No server: at once where there is no socket, in time where nobody listens behind it. */
static void nobody_there(void **state)
{
    (void)state;
    char endpoint[300];
    ic_client *c = NULL;
    ic_error e = {0};
    snprintf(endpoint, sizeof endpoint, "ipc://%s/none", ic_test_dir());
    ic_client_options options = {.endpoint = endpoint, .timeout_ms = 60000};
    assert_int_equal(ic_client_open(&c, &options, &e), IC_ECLOSED);
    assert_null(c);
    assert_non_null(strstr(e.text, "no infchatd answers"));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.100s/none", ic_test_dir());
    int left = socket(AF_UNIX, SOCK_STREAM, 0); /* a socket that a dead server left behind */
    assert_int_equal(bind(left, (struct sockaddr *)&address, sizeof address), 0);
    close(left);
    assert_int_equal(ic_client_open(&c, &options, &e), IC_ECLOSED);
    options.endpoint = "tcp://127.0.0.1:9";
    options.timeout_ms = 300;
    assert_int_equal(ic_client_open(&c, &options, &e), IC_ECLOSED);
    options.endpoint = "udp://1.2.3.4:5";
    assert_int_equal(ic_client_open(&c, &options, &e), IC_EINVAL);
    ic_client_close(&c);
}

/* --- uploads ---------------------------------------------------------------------------------- */

static int make_file(const char *name, size_t size)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", ic_test_dir(), name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)(i * 7 + i / 251);
        assert_int_equal(write(fd, &byte, 1), 1);
    }
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static void assert_uploaded(const fake_server *s, size_t size)
{
    assert_int_equal(s->upload.size, size);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(s->upload.data[i], (uint8_t)(i * 7 + i / 251));
    assert_int_equal(s->overdrawn, 0);
}

static void upload(ic_client *c, int fd)
{
    ic_wire_msg m, reply;
    ic_error e = {0};
    ic_wire_msg_init(&m, IC_WIRE_MEDIA);
    ic_wire_put(&m.media, media, session, "3f9a");
    ic_wire_put(&m.media, media, name, "clip.mp4");
    ic_assert_ok(ic_client_upload(c, &m, fd, &reply, &e), &e);
    ic_wire_msg_fini(&reply);
}

/* A file goes over in pieces, never beyond the credit, and whole. */
static void a_file_is_uploaded(void **state)
{
    (void)state;
    fake_server *s = fake_server_start(ic_test_dir(), "upload");
    heard *h = news();
    ic_client *c = open_client(s->endpoint, h, 5000);
    int fd = make_file("clip", 20500);
    uint64_t sent, size;
    upload(c, fd);
    ic_wire_msg m, reply;
    ic_error e = {0};
    ic_wire_msg_init(&m, IC_WIRE_MEDIA);
    ic_wire_put(&m.media, media, session, "3f9a");
    assert_int_equal(ic_client_upload(c, &m, fd, &reply, &e), IC_EBUSY);
    wait_for(c, &h->is_media_ended);
    ic_client_upload_progress(c, &sent, &size);
    assert_int_equal(sent, 20500);
    assert_int_equal(size, 20500);
    assert_false(ic_client_is_uploading(c));
    assert_uploaded(s, 20500);
    assert_string_equal(s->uploaded_name, "clip.mp4");
    assert_true(h->types[IC_WIRE_EVENT_MEDIA_BEGIN] == 1 && h->is_ordered);
    close(fd);
    ic_client_close(&c);
    fake_server_stop(s);
}

/* After the server forgot the client, a file's upload goes on where the server stopped. */
static void a_files_upload_goes_on(void **state)
{
    (void)state;
    fake_server *s = fake_server_start(ic_test_dir(), "upload2");
    s->heartbeat_ms = 100;
    heard *h = news();
    ic_client *c = open_client(s->endpoint, h, 10000);
    int fd = make_file("clip2", 20500);
    s->forget_at = 7000;
    upload(c, fd);
    wait_for(c, &h->is_media_ended);
    assert_uploaded(s, 20500);
    assert_true(s->medias >= 2);
    close(fd);
    ic_client_close(&c);
    fake_server_stop(s);
}

/* An import sends every byte once, within the server's window; where the server has forgotten it,
 * in the middle or behind the end, it begins again under its key, and what is finished is not made
 * twice. */
static void an_import_begins_again(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        char name[20];
        snprintf(name, sizeof name, "import%d", i);
        fake_server *s = fake_server_start(ic_test_dir(), name);
        ic_client *c = open_client(s->endpoint, news(), 5000);
        int fd = make_file("export", 20500);
        ic_wire_msg m, reply;
        ic_error e = {0};
        s->lose_at = i == 1 ? 9000 : 0;
        s->lose_last = i == 2;
        ic_wire_msg_init(&m, IC_WIRE_IMPORT);
        ic_assert_ok(ic_client_import(c, &m, fd, &reply, &e), &e);
        assert_string_equal(reply.ok.session, FAKE_SESSION);
        assert_int_equal(ic_wire_get(&reply.ok, ok, repeated, false), i == 2);
        ic_wire_msg_fini(&reply);
        assert_int_equal(s->imports, i ? 2 : 1);
        assert_uploaded(s, 20500);
        close(fd);
        ic_client_close(&c);
        fake_server_stop(s);
    }
}

/* The same for a pipe: bytes that were lost on the way are sent again from memory. */
static void a_pipes_upload_goes_on(void **state)
{
    (void)state;
    fake_server *s = fake_server_start(ic_test_dir(), "upload3");
    s->heartbeat_ms = 100;
    heard *h = news();
    ic_client *c = open_client(s->endpoint, h, 10000);
    int ends[2], fd = make_file("clip3", 20500);
    uint8_t bytes[20500];
    assert_int_equal(read(fd, bytes, sizeof bytes), sizeof bytes);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], bytes, sizeof bytes), sizeof bytes);
    close(ends[1]);
    s->forget_at = 7000;
    upload(c, ends[0]);
    wait_for(c, &h->is_media_ended);
    assert_uploaded(s, 20500);
    close(ends[0]);
    close(fd);
    ic_client_close(&c);
    fake_server_stop(s);
}

/* --- signals and descriptors ------------------------------------------------------------------ */

static void nothing(int number)
{
    (void)number;
}

static bool say_yes(void *arg)
{
    (void)arg;
    return true;
}

/* A wait ends when its descriptor can be read. */
static void waits_watch_a_descriptor(void **state)
{
    (void)state;
    fake_server *s = fake_server_start(ic_test_dir(), "fd");
    ic_client *c = open_client(s->endpoint, news(), 5000);
    ic_error e = {0};
    int ends[2];
    bool is_ready = true;
    assert_int_equal(pipe(ends), 0);
    ic_assert_ok(ic_client_wait(c, ends[0], &is_ready, 0, &e), &e);
    assert_false(is_ready);
    assert_int_equal(write(ends[1], "x", 1), 1);
    ic_assert_ok(ic_client_wait(c, ends[0], &is_ready, 60000, &e), &e);
    assert_true(is_ready);
    close(ends[0]);
    close(ends[1]);
    ic_client_close(&c);
    fake_server_stop(s);
}

/* A signal gives a call up only when the caller says so. */
static void signals_interrupt_when_asked(void **state)
{
    (void)state;
    fake_server *s = fake_server_start(ic_test_dir(), "signal");
    ic_client *c = NULL;
    ic_wire_msg reply;
    ic_error e = {0};
    ic_client_options options = {
        .endpoint = s->endpoint, .timeout_ms = 60000, .is_interrupted = say_yes};
    struct sigaction action = {.sa_handler = nothing}, old;
    sigaction(SIGALRM, &action, &old);
    ic_assert_ok(ic_client_open(&c, &options, &e), &e);
    s->is_mute = true;
    struct itimerval soon = {.it_value.tv_usec = 50000, .it_interval.tv_usec = 50000}, off = {0};
    setitimer(ITIMER_REAL, &soon, NULL);
    assert_int_equal(simple_call(c, IC_WIRE_STATUS, &reply, &e), IC_ECANCELED);
    setitimer(ITIMER_REAL, &off, NULL);
    ic_client_close(&c);
    sigaction(SIGALRM, &old, NULL);
    fake_server_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_conversation),
        cmocka_unit_test(credit_is_given_back),
        cmocka_unit_test(errors_fail_the_call),
        cmocka_unit_test(forgotten_requests_are_repeated),
        cmocka_unit_test(events_go_on_after_a_restart),
        cmocka_unit_test(silence_is_noticed),
        cmocka_unit_test(another_server_is_found),
        cmocka_unit_test(absence_ends_calls),
        cmocka_unit_test(nobody_there),
        cmocka_unit_test(a_file_is_uploaded),
        cmocka_unit_test(a_files_upload_goes_on),
        cmocka_unit_test(an_import_begins_again),
        cmocka_unit_test(a_pipes_upload_goes_on),
        cmocka_unit_test(waits_watch_a_descriptor),
        cmocka_unit_test(signals_interrupt_when_asked),
    };
    return IC_TEST_RUN(tests);
}
