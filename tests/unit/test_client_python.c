/* The example client in Python, as it stands in clients/python, against a small server.
 * IC_NEEDS_SERVER */
#include "ic_test.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ic_fake_server.h"

/* Where the distribution's pyzmq and msgpack are. */
#define PYTHON "/usr/bin/python3"

static int run(char *out, size_t size, const char *fmt, const char *endpoint, const char *clip)
{
    char command[1200];
    snprintf(command, sizeof command, fmt, endpoint, clip);
    FILE *pipe = popen(command, "r");
    size_t got = fread(out, 1, size - 1, pipe);
    out[got] = '\0';
    return WEXITSTATUS(pclose(pipe));
}

/* It uploads a clip under credit, and prints the answer it was streamed. */
static void the_example_works(void **state)
{
    (void)state;
    char out[4000], clip[300];
    static uint8_t bytes[20000];
    fake_server *s = fake_server_start(ic_test_dir(), "python");
    snprintf(clip, sizeof clip, "%s/clip.mp4", ic_test_dir());
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 31);
    FILE *f = fopen(clip, "wb");
    assert_int_equal(fwrite(bytes, 1, sizeof bytes, f), sizeof bytes);
    fclose(f);
    int rc =
        run(out, sizeof out,
            PYTHON " " IC_SOURCE_DIR "/clients/python/infchat_ask.py %s %s 'What is red?' 2>&1",
            s->endpoint, clip);
    assert_string_equal(out, "session " FAKE_SESSION ": 20 frames seen\necho: What is red?\n");
    assert_int_equal(rc, 0);
    for (int i = 0; i < 200 && !s->byes; i++)
        usleep(10000);
    assert_int_equal(s->byes, 1);
    assert_int_equal(s->upload.size, sizeof bytes);
    assert_memory_equal(s->upload.data, bytes, sizeof bytes);
    assert_int_equal(s->overdrawn, 0);
    rc = run(out, sizeof out,
             PYTHON " " IC_SOURCE_DIR "/clients/python/infchat_ask.py %s %s busy 2>&1", s->endpoint,
             clip);
    assert_int_equal(rc, 1);
    assert_non_null(strstr(out, "infchatd: BUSY: the session is answering"));
    fake_server_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_example_works),
    };
    if (system(PYTHON " -c 'import zmq, msgpack' 2>/dev/null")) {
        printf("skipped: " PYTHON " has no zmq or no msgpack (python3-zmq, python3-msgpack)\n");
        return IC_TEST_SKIPPED;
    }
    return IC_TEST_RUN(tests);
}
