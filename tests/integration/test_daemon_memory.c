/* What a session still holds, through the real daemon: while it is in memory, suspended, after a
 * restart and after a crash, and as `infchat show --memory` prints it. IC_NEEDS_SERVER */
#include "ic_daemon.h"

static const char film[] = IC_SOURCE_DIR "/models/demo/eval/clip_00_96_h264.mp4";

static void look(talker *t, const char *id, ic_wire_msg *reply)
{
    ic_wire_msg m;
    ic_wire_msg_init(&m, IC_WIRE_SHOW);
    ic_wire_put(&m.show, show, session, id);
    ic_wire_put(&m.show, show, memory, true);
    must(t, &m, reply);
}

static void begin(talker *t, uint64_t cache_tokens, char id[64])
{
    ic_wire_msg m, reply;
    ic_wire_msg_init(&m, IC_WIRE_NEW);
    ic_wire_put(&m.new, new, policy, "saddle");
    ic_wire_put(&m.new, new, cache_tokens, cache_tokens);
    must(t, &m, &reply);
    snprintf(id, 64, "%s", reply.ok.session);
    ic_wire_msg_fini(&reply);
}

/* What must hold of any such reply. */
static void expect_sound(const ic_wire_memory_info *m)
{
    uint64_t held =
        m->pinned_tokens + m->sink_tokens + m->text_tokens + m->frame_tokens + m->marker_tokens;
    uint64_t groups = 0;
    double share = 0;
    assert_true(held <= m->used + 3 && held > 0);
    assert_true(m->used <= m->slots && m->budget < m->slots);
    assert_true(m->used + m->evicted_tokens >= m->tokens);
    for (uint32_t i = 0; i < m->spans.count; i++)
        groups += m->spans.items[i].groups;
    assert_int_equal(groups, m->held_groups);
    assert_true(m->strip.count > 0);
    for (uint32_t i = 0; i < m->strip.count; i++)
        share += m->strip.items[i].text + m->strip.items[i].frames;
    double tokens = share / m->strip.count * (double)m->tokens;
    assert_true(tokens > 0.85 * (double)held && tokens < 1.15 * (double)held + 4);
}

/* The same numbers while it is in memory, suspended, and after a restart; the answer's usage and
 * the server's status tell of them too. */
static void memory_is_told(void **state)
{
    (void)state;
    daemon_process d;
    ic_wire_msg reply, before;
    char id[64], code[40];
    prepare(&d, "memory");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    begin(t, 128, id);
    look(t, id, &reply);
    assert_false(ic_wire_get(&reply.ok.memory, memory_info, stored, false));
    ic_wire_msg_fini(&reply);
    upload(t, id, film, code);
    answer a = ask(t, id, "What is this?", 20);
    assert_true(a.usage.text_tokens > 0 && a.usage.frame_tokens > 0);
    assert_true(a.usage.text_tokens + a.usage.frame_tokens <= a.usage.cache_tokens + 3);
    free(a.text);
    look(t, id, &before);
    const ic_wire_memory_info *m = &before.ok.memory;
    expect_sound(m);
    assert_false(ic_wire_get(m, memory_info, stored, false));
    assert_int_equal(m->budget, 128);
    assert_true(m->evicted_tokens > 0 && m->groups > 5 && m->held_groups > 0
                && m->sink_tokens == 4);
    assert_true(m->spans.count > 1 && m->stream_us > 1000000);
    ic_wire_msg status;
    ic_wire_msg_init(&reply, IC_WIRE_STATUS);
    must(t, &reply, &status);
    assert_true(status.ok.status.text_tokens > 0 && status.ok.status.frame_tokens > 0);
    assert_true(status.ok.status.cache_tokens >= m->used);
    ic_wire_msg_fini(&status);
    simple(t, IC_WIRE_SUSPEND, id, &reply);
    ic_wire_msg_fini(&reply);
    for (int round = 0; round < 2; round++) {
        look(t, id, &reply);
        const ic_wire_memory_info *now = &reply.ok.memory;
        assert_int_equal(reply.ok.state, IC_WIRE_STATE_SUSPENDED);
        assert_true(now->stored && now->time_us > 0);
        expect_sound(now);
        assert_int_equal(now->tokens, m->tokens);
        assert_int_equal(now->evicted_tokens, m->evicted_tokens);
        assert_int_equal(now->frame_tokens, m->frame_tokens);
        assert_int_equal(now->text_tokens, m->text_tokens);
        assert_int_equal(now->held_groups, m->held_groups);
        assert_memory_equal(now->spans.items, m->spans.items,
                            m->spans.count * sizeof *m->spans.items);
        ic_wire_msg_fini(&reply);
        if (round)
            break;
        restart_daemon(&d, &t, NULL);
    }
    ic_wire_msg_fini(&before);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* A session that answers and watches is looked at in between: every reply is sound, and the answer
 * is what it would have been. */
static void looking_disturbs_nothing(void **state)
{
    (void)state;
    daemon_process d;
    ic_wire_msg reply;
    char id[2][64], code[40];
    answer a[2];
    prepare(&d, "looking");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    for (int i = 0; i < 2; i++) {
        begin(t, 128, id[i]);
        upload(t, id[i], film, code);
        uint64_t turn = begin_ask(t, id[i], "Go on.", 200);
        for (int k = 0; i == 1 && k < 10; k++) {
            look(t, id[i], &reply);
            expect_sound(&reply.ok.memory);
            ic_wire_msg_fini(&reply);
        }
        a[i] = read_answer(t, id[i], turn);
    }
    assert_string_equal(a[0].text, a[1].text);
    free(a[0].text), free(a[1].text);
    disconnect_talker(&t);
    stop_daemon(&d);
}

/* Of a session without a checkpoint nothing is known once the server has been killed, until it is
 * resumed. */
static void nothing_is_made_up(void **state)
{
    (void)state;
    daemon_process d;
    ic_wire_msg reply;
    char id[64];
    prepare(&d, "unknown");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    begin(t, 128, id);
    disconnect_talker(&t);
    kill(d.pid, SIGKILL);
    wait_daemon(&d);
    start_daemon(&d, tiny_model(), NULL);
    t = connect_talker(&d);
    look(t, id, &reply);
    assert_false(ic_wire_has(&reply.ok, ok, memory));
    ic_wire_msg_fini(&reply);
    simple(t, IC_WIRE_RESUME, id, &reply);
    ic_wire_msg_fini(&reply);
    look(t, id, &reply);
    assert_true(ic_wire_has(&reply.ok, ok, memory));
    ic_wire_msg_fini(&reply);
    disconnect_talker(&t);
    stop_daemon(&d);
}

static char *run_client(const daemon_process *d, const char *id, const char *options)
{
    char *command =
        ic_strf(IC_BINARY_DIR "/infchat --server %s show %s --memory %s", d->endpoint, id, options);
    char *out = ic_calloc(1, 1 << 16);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t size = fread(out, 1, (1 << 16) - 1, f);
    assert_true(size > 0);
    assert_int_equal(pclose(f), 0);
    ic_free(command);
    return out;
}

/* infchat prints counts, the strip and the spans; with --json one object that has them all. */
static void infchat_shows_it(void **state)
{
    (void)state;
    daemon_process d;
    char id[64], code[40];
    prepare(&d, "shown");
    start_daemon(&d, tiny_model(), NULL);
    talker *t = connect_talker(&d);
    begin(t, 128, id);
    upload(t, id, film, code);
    answer a = ask(t, id, "What is this?", 5);
    free(a.text);
    static const char *const lines[] = {"policy saddle",    "tokens of a budget of 128",
                                        "4 sinks",          "strip     [",
                                        "oldest to newest", "frame groups"};
    static const char *const fields[] = {"\"memory\":{", "\"spans\":[{\"from_us\":0",
                                         "\"strip\":[{", "\"evicted_tokens\":"};
    char *text = run_client(&d, id, ""), *json = run_client(&d, id, "--json");
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        assert_non_null(strstr(text, lines[i]));
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        assert_non_null(strstr(json, fields[i]));
    assert_null(strstr(json, "}\n{"));
    print_message("%s", text);
    ic_free(text), ic_free(json);
    disconnect_talker(&t);
    stop_daemon(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_told),
        cmocka_unit_test(looking_disturbs_nothing),
        cmocka_unit_test(nothing_is_made_up),
        cmocka_unit_test(infchat_shows_it),
    };
    return IC_DAEMON_RUN(tests);
}
