/* Sessions as bytes: saved anywhere, loaded elsewhere, they go on as if nothing had been. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_session_priv.h"
#include "ic_test.h"
#include "ic_test_session.h"

enum { ANSWER = 20, PIECE = 3000 };

static ic_grid grid;

/* A checkpoint as a store keeps it: the last state, and all pieces so far. */
typedef struct checkpoint {
    ic_buf state;
    ic_buf pieces[64];
    int count;
} checkpoint;

static void save(ic_session *s, checkpoint *c)
{
    ic_error e = {0};
    ic_buf_fini(&c->state);
    ic_buf_init(&c->state, 0);
    ic_assert_ok(ic_session_save_state(s, &c->state, &e), &e);
    uint64_t cursor = 0;
    bool more = true;
    while (more) {
        assert_true(c->count < 64);
        ic_buf *piece = &c->pieces[c->count++];
        ic_buf_init(piece, 0);
        ic_assert_ok(ic_session_save_rows(s, false, &cursor, PIECE, piece, &more), &e);
    }
    ic_session_mark_saved(s);
}

static ic_session *load(ic_engine *engine, int cache_tokens, const checkpoint *c)
{
    ic_error e = {0};
    ic_session *s = ic_test_session(engine, NULL, cache_tokens);
    ic_assert_ok(ic_session_load_state(s, c->state.data, c->state.size, &e), &e);
    for (int i = 0; i < c->count; i++)
        ic_assert_ok(ic_session_load_rows(s, c->pieces[i].data, c->pieces[i].size, &e), &e);
    ic_assert_ok(ic_session_load_finish(s, &e), &e);
    return s;
}

static void drop(checkpoint *c)
{
    ic_buf_fini(&c->state);
    for (int i = 0; i < c->count; i++)
        ic_buf_fini(&c->pieces[i]);
    c->count = 0;
}

/* Two rounds about a short clip, all queued by this function as far as `round` says. */
static void queue_round(ic_session *s, int round)
{
    ic_error e = {0};
    ic_sampling sampling = {.temperature = 0.8f,
                            .top_k = 20,
                            .top_p = 0.9f,
                            .seed = 5,
                            .repetition_penalty = 1.1f,
                            .max_tokens = ANSWER};
    if (round == 0)
        ic_assert_ok(ic_session_system(s, "You are a careful observer.", &e), &e);
    for (int i = 0; i < 5; i++) {
        ic_frame *f = ic_test_frame(&grid, 5 * round + i, (5 * round + i) * 500000);
        ic_assert_ok(ic_session_frame(s, &f, &grid, &e), &e);
    }
    ic_assert_ok(ic_session_ask(s, round ? "And now?" : "What did you see?", &sampling, &e), &e);
    const int32_t said[3] = {70, 71, 72};
    if (round == 1)
        ic_assert_ok(ic_session_force(s, said, 3, &e), &e);
}

typedef struct history { /* tokens of both answers */
    int32_t token[2 * ANSWER];
    int count;
    ic_session_stats end;
} history;

/* Goes on until both rounds are over, or until `steps` steps have been made; returns those made. */
static int go_on(ic_engine *engine, ic_session *s, history *h, int *round, int steps)
{
    int made = 0;
    while (made < steps) {
        if (!ic_session_is_ready(s)) {
            if (++*round == 2)
                break;
            queue_round(s, *round);
        }
        ic_error e = {0};
        ic_slice slice = {.session = s, .max_rows = 9};
        ic_assert_ok(ic_engine_step(engine, &slice, 1, &e), &e);
        assert_int_not_equal(slice.progress, IC_PROGRESS_FAILED);
        if (slice.progress == IC_PROGRESS_TOKEN)
            h->token[h->count++] = slice.token;
        made++;
    }
    return made;
}

static void run_whole(ic_engine *engine, int cache_tokens, history *h, int *steps)
{
    ic_session *s = ic_test_session(engine, NULL, cache_tokens);
    int round = 0;
    h->count = 0;
    queue_round(s, 0);
    *steps = go_on(engine, s, h, &round, 100000);
    assert_int_equal(h->count, 2 * ANSWER);
    ic_session_stats_of(s, &h->end);
    ic_session_destroy(&s);
}

static void expect_same_end(const ic_session_stats *a, const ic_session_stats *b)
{
    assert_int_equal(a->tokens, b->tokens);
    assert_int_equal(a->evicted_tokens, b->evicted_tokens);
    assert_int_equal(a->evicted_groups, b->evicted_groups);
    assert_int_equal(a->groups, b->groups);
    assert_int_equal(a->turn, b->turn);
    assert_int_equal(a->prompt_tokens, b->prompt_tokens);
    assert_int_equal(a->cached_tokens, b->cached_tokens);
    assert_int_equal(a->cache_used, b->cache_used);
}

/* Saved after any number of steps (in the middle of a group, a prompt, an answer) and loaded into
 * another engine, the conversation goes on token for token, with and without evictions. */
static void test_anywhere(void **state)
{
    (void)state;
    ic_engine *first = ic_test_engine_small(&grid), *second = ic_test_engine_small(&grid);
    const int budgets[] = {512, 64};
    for (int b = 0; b < 2; b++) {
        history whole, parts;
        int steps;
        run_whole(first, budgets[b], &whole, &steps);
        for (int at = 0; at <= steps; at++) {
            ic_session *s = ic_test_session(first, NULL, budgets[b]);
            checkpoint c = {0};
            int round = 0;
            parts.count = 0;
            queue_round(s, 0);
            go_on(first, s, &parts, &round, at / 2);
            save(s, &c); /* a checkpoint that the next one adds to */
            go_on(first, s, &parts, &round, at - at / 2);
            save(s, &c);
            ic_session_destroy(&s);
            s = load(second, budgets[b], &c);
            go_on(second, s, &parts, &round, 100000);
            assert_int_equal(parts.count, whole.count);
            assert_memory_equal(parts.token, whole.token, sizeof whole.token);
            ic_session_stats_of(s, &parts.end);
            expect_same_end(&parts.end, &whole.end);
            ic_session_destroy(&s);
            drop(&c);
        }
    }
    ic_engine_close(&first);
    ic_engine_close(&second);
}

/* Counters, and what still waits, come back too. */
static void test_stats(void **state)
{
    (void)state;
    ic_engine *engine = ic_test_engine_small(&grid);
    ic_session *s = ic_test_session(engine, NULL, 256);
    history h = {.count = 0};
    checkpoint c = {0};
    int round = 0;
    queue_round(s, 0);
    go_on(engine, s, &h, &round, 6);
    ic_frame *f = ic_test_frame(&grid, 9, 9000000);
    ic_error e = {0};
    ic_assert_ok(ic_session_frame(s, &f, &grid, &e), &e);
    save(s, &c);
    ic_session *t = load(engine, 256, &c);
    ic_session_stats a, b;
    ic_session_stats_of(s, &a);
    ic_session_stats_of(t, &b);
    assert_int_equal(a.tokens, b.tokens);
    assert_int_equal(a.frames, b.frames);
    assert_int_equal(a.groups, b.groups);
    assert_int_equal(a.turn, b.turn);
    assert_int_equal(a.cache_used, b.cache_used);
    assert_int_equal(a.pending_rows, b.pending_rows);
    assert_int_equal(a.pending_bytes, b.pending_bytes);
    assert_int_equal(a.answering, b.answering);
    assert_int_equal(a.prompt_tokens, b.prompt_tokens);
    assert_int_equal(ic_session_live_bytes(s), ic_session_live_bytes(t));
    ic_session_destroy(&s);
    ic_session_destroy(&t);
    drop(&c);
    ic_engine_close(&engine);
}

/* The meaning of a session's bytes changes with every setting, and with nothing else. */
static void test_meaning(void **state)
{
    (void)state;
    ic_engine *engine = ic_test_engine_small(&grid), *again = ic_test_engine_small(&grid);
    ic_session_config c;
    char a[33], b[33];
    ic_session_config_default(engine, 256, &c);
    ic_session_meaning(engine, &c, a);
    ic_session_meaning(again, &c, b);
    assert_string_equal(a, b);
    c.pending_bytes_max++;
    ic_session_meaning(engine, &c, b);
    assert_string_equal(a, b);
    int *settings[] = {&c.cache_tokens, &c.chunk_max, &c.slack, &c.sinks, &c.pinned_max};
    for (int i = 0; i < 5; i++) {
        ++*settings[i];
        ic_session_meaning(engine, &c, b);
        assert_string_not_equal(a, b);
        --*settings[i];
    }
    snprintf(c.policy, sizeof c.policy, "saddle");
    ic_session_meaning(engine, &c, a);
    int *own[] = {&c.window, &c.recent_pct, &c.bias_pct, &c.smooth_pct,
                  &c.pool,   &c.per_layer,  &c.frames};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        int before = *own[i];
        *own[i] = before ? before + 2 : 1;
        ic_session_meaning(engine, &c, b);
        assert_string_not_equal(a, b);
        *own[i] = before;
    }
    ic_session_config settled = c;
    ic_session_config_settle(&settled);
    ic_session_meaning(engine, &settled, b);
    assert_string_equal(a, b);
    ic_engine *other = ic_test_engine("gqa2_text_f32", NULL, 1);
    ic_session_meaning(other, &c, b);
    assert_string_not_equal(a, b);
    ic_engine_close(&other);
    ic_engine_close(&engine);
    ic_engine_close(&again);
}

/* Another version, another configuration, a used session, missing rows: each is refused with its
 * reason. */
static void test_refusals(void **state)
{
    (void)state;
    ic_engine *engine = ic_test_engine_small(&grid);
    ic_session *s = ic_test_session(engine, NULL, 256);
    history h = {.count = 0};
    checkpoint c = {0};
    ic_error e = {0};
    int round = 0;
    queue_round(s, 0);
    go_on(engine, s, &h, &round, 8);
    save(s, &c);
    assert_int_equal(ic_session_load_state(s, c.state.data, c.state.size, &e), IC_EINVAL);
    ic_session_destroy(&s);

    s = ic_test_session(engine, NULL, 300);
    assert_int_equal(ic_session_load_state(s, c.state.data, c.state.size, &e), IC_EMISMATCH);
    assert_non_null(strstr(e.text, "cache_tokens 256, now 300"));
    assert_null(strstr(e.text, "sinks"));
    ic_session_destroy(&s);

    s = ic_test_session(engine, NULL, 256);
    c.state.data[4]++;
    assert_int_equal(ic_session_load_state(s, c.state.data, c.state.size, &e), IC_EVERSION);
    c.state.data[4]--;
    ic_session_destroy(&s);

    s = ic_test_session(engine, NULL, 256);
    ic_assert_ok(ic_session_load_state(s, c.state.data, c.state.size, &e), &e);
    assert_int_equal(ic_session_load_finish(s, &e), IC_EFORMAT);
    ic_session_destroy(&s);
    drop(&c);
    ic_engine_close(&engine);
}

/* More bytes of waiting frames than a state may hold: IC_EBUSY, later it can be saved. */
static void test_too_much_waits(void **state)
{
    (void)state;
    ic_engine *engine = ic_test_engine_small(&grid);
    ic_session *s = ic_test_session(engine, NULL, 512);
    ic_error e = {0};
    ic_grid large;
    ic_assert_ok(ic_engine_grid(engine, 120, 120, 0, true, &large, &e), &e);
    ic_buf state_bytes;
    ic_buf_init(&state_bytes, 0);
    for (int i = 0; i < 500; i++) {
        ic_frame *f = ic_test_frame(&large, i, i * 500000);
        ic_assert_ok(ic_session_frame(s, &f, &large, &e), &e);
    }
    assert_int_equal(ic_session_save_state(s, &state_bytes, &e), IC_EBUSY);
    assert_int_equal(state_bytes.size, 0);
    ic_buf_fini(&state_bytes);
    ic_session_destroy(&s);
    ic_engine_close(&engine);
}

/* A state cut off anywhere is refused; one with any byte changed is refused or harmless: whatever
 * loads can be destroyed. */
static void test_damage(void **state)
{
    (void)state;
    ic_engine *engine = ic_test_engine_small(&grid);
    ic_session *s = ic_test_session(engine, NULL, 256);
    history h = {.count = 0};
    checkpoint c = {0};
    int round = 0;
    queue_round(s, 0);
    go_on(engine, s, &h, &round, 5);
    save(s, &c);
    ic_session_destroy(&s);
    ic_error e;
    for (size_t cut = 0; cut < c.state.size; cut += 1 + cut / 40) {
        s = ic_test_session(engine, NULL, 256);
        assert_int_not_equal(ic_session_load_state(s, c.state.data, cut, &e), IC_OK);
        ic_session_destroy(&s);
    }
    for (size_t at = 0; at < c.state.size; at += 1 + at / 60) {
        s = ic_test_session(engine, NULL, 256);
        c.state.data[at] ^= 0x55;
        (void)!ic_session_load_state(s, c.state.data, c.state.size, &e);
        c.state.data[at] ^= 0x55;
        ic_session_destroy(&s);
    }
    drop(&c);
    ic_engine_close(&engine);
}

/* --- seeds of the fuzz target -------------------------------------------------------------------
 */

static const char *const seed_policies[] = {"streaming", "saddle"};
static const char *const seed_names[] = {"empty", "queued", "asked",  "step1",
                                         "step4", "step8",  "step20", "cancelled"};
enum { SEED_BUDGET = 64 };

/* A session of the smallest model at the moment of that name. */
static ic_session *seed_session(ic_engine *engine, const char *policy, const char *name)
{
    ic_error e = {0};
    ic_grid small = {.width = 16, .height = 8, .tokens_w = 2, .tokens_h = 1};
    ic_session *s = ic_test_session(engine, policy, SEED_BUDGET);
    ic_sampling greedy = ic_test_greedy(30);
    const int32_t said[2] = {40, 41};
    if (strcmp(name, "empty") == 0)
        return s;
    ic_assert_ok(ic_session_system(s, "Hi.", &e), &e);
    for (int i = 0; i < 3; i++) {
        ic_frame *f = ic_test_frame(&small, i, i * 500000);
        ic_assert_ok(ic_session_frame(s, &f, &small, &e), &e);
    }
    if (strcmp(name, "queued") == 0)
        return s;
    ic_assert_ok(ic_session_ask(s, "What do you see in these frames?", &greedy, &e), &e);
    ic_assert_ok(ic_session_force(s, said, 2, &e), &e);
    int steps = strncmp(name, "step", 4) == 0 ? atoi(name + 4) : 0;
    for (int i = 0; i < steps; i++) {
        ic_slice slice = {.session = s, .max_rows = 3};
        ic_assert_ok(ic_engine_step(engine, &slice, 1, &e), &e);
    }
    if (strcmp(name, "cancelled") == 0)
        ic_session_cancel(s);
    return s;
}

static char *seed_path(const char *dir, size_t policy, size_t name)
{
    return ic_strf("%s/%s_%s", dir, seed_policies[policy], seed_names[name]);
}

/* Every seed in the fuzz target's corpus is a state that this build reads: seeds of another version
 * would fuzz nothing. "test_session_save tests/fuzz/corpus/session_state" writes them anew. */
static void test_fuzz_seeds(void **state)
{
    (void)state;
    ic_engine *engine = ic_test_engine("gqa2_text_f32", NULL, 1);
    char *dir = ic_strf("%s/tests/fuzz/corpus/session_state", IC_SOURCE_DIR);
    for (size_t p = 0; p < sizeof seed_policies / sizeof *seed_policies; p++) {
        for (size_t n = 0; n < sizeof seed_names / sizeof *seed_names; n++) {
            ic_error e = {0};
            size_t bytes = 0;
            char *path = seed_path(dir, p, n), *data = ic_test_read_file(path, &bytes);
            assert_non_null(data);
            ic_session *s = ic_test_session(engine, seed_policies[p], SEED_BUDGET);
            ic_assert_ok(ic_session_load_state(s, data, bytes, &e), &e);
            ic_session_destroy(&s);
            ic_free(data);
            ic_free(path);
        }
    }
    ic_free(dir);
    ic_engine_close(&engine);
}

/* States of earlier builds are read, and go on, in sessions with the settings of then: of version
 * 2, and of version 3 when there were fewer settings. */
static void test_old_states(void **state)
{
    (void)state;
    static const char *const names[] = {"v2/saddle_step20",    "v2/saddle_step8",
                                        "v2/streaming_step20", "v2/streaming_queued",
                                        "v3/saddle_step20",    "v3/streaming_step8"};
    ic_engine *engine = ic_test_engine("gqa2_text_f32", NULL, 1);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        ic_error e = {0};
        size_t bytes = 0;
        ic_session *s;
        ic_session_config c;
        char *path = ic_strf("%s/tests/data/session_state_%s", IC_SOURCE_DIR, names[i]);
        char *data = ic_test_read_file(path, &bytes);
        assert_non_null(data);
        assert_int_equal(data[4], names[i][1] - '0');
        ic_session_config_default(engine, SEED_BUDGET, &c);
        sscanf(names[i] + 3, "%15[a-z]", c.policy);
        ic_session_config_settle_old(&c);
        ic_assert_ok(ic_session_new(&s, engine, &c, &e), &e);
        ic_assert_ok(ic_session_load_state(s, data, bytes, &e), &e);
        ic_session_destroy(&s);
        c.window = 16;
        ic_assert_ok(ic_session_new(&s, engine, &c, &e), &e);
        assert_int_equal(ic_session_load_state(s, data, bytes, &e), IC_EMISMATCH);
        assert_non_null(strstr(e.text, "window 32, now 16"));
        ic_session_destroy(&s);
        ic_free(data);
        ic_free(path);
    }
    ic_engine_close(&engine);
}

/* What a checkpoint of an earlier build is known by has not changed: of what were default settings
 * then, these; today's of saddle are others. */
static void test_old_meanings(void **state)
{
    (void)state;
    ic_engine *engine = ic_test_engine("gqa2_text_f32", NULL, 1);
    static const char *const rows[][2] = {{"streaming", "52070c6c374dab528d3e8fa6271297f5"},
                                          {"saddle", "a97c6d33695c1c6cd51df814e9ba7994"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ic_session_config c;
        char hex[33];
        ic_session_config_default(engine, SEED_BUDGET, &c);
        snprintf(c.policy, sizeof c.policy, "%s", rows[i][0]);
        ic_session_meaning(engine, &c, hex);
        assert_int_equal(strcmp(hex, rows[i][1]) == 0, i == 0);
        ic_session_config_settle_old(&c);
        ic_session_meaning(engine, &c, hex);
        assert_string_equal(hex, rows[i][1]);
        c.bias_pct = -1;
        ic_session_meaning(engine, &c, hex); /* of a policy without a bias, that is no change */
        assert_int_equal(strcmp(hex, rows[i][1]) == 0, i == 0);
    }
    ic_engine_close(&engine);
}

static int write_seeds(const char *dir)
{
    ic_engine *engine = ic_test_engine("gqa2_text_f32", NULL, 1);
    int rc = 0;
    for (size_t p = 0; p < sizeof seed_policies / sizeof *seed_policies; p++) {
        for (size_t n = 0; !rc && n < sizeof seed_names / sizeof *seed_names; n++) {
            ic_session *s = seed_session(engine, seed_policies[p], seed_names[n]);
            ic_buf b;
            ic_buf_init(&b, 0);
            rc = ic_session_save_state(s, &b, NULL);
            char *path = seed_path(dir, p, n);
            FILE *f = rc ? NULL : fopen(path, "wb");
            rc = !f || fwrite(b.data, 1, b.size, f) != b.size;
            if (f)
                fclose(f);
            ic_free(path);
            ic_buf_fini(&b);
            ic_session_destroy(&s);
        }
    }
    ic_engine_close(&engine);
    return rc;
}

/* Bytes of K and V of the rows with this ordinal or a later one that the cache holds. */
static uint64_t live_since(const ic_session *s, uint64_t ordinal)
{
    static ic_row rows[8192];
    const ic_slab_desc *d = ic_slab_desc_of(s->slab);
    uint64_t held = 0, young = 0;
    for (int head = 0; head < d->layers * d->kv_heads; head++) {
        int count = ic_slab_count(s->slab, head / d->kv_heads, head % d->kv_heads);
        assert_true(count <= 8192);
        ic_slab_rows(s->slab, head / d->kv_heads, head % d->kv_heads, rows, NULL, NULL);
        for (int i = 0; i < count; i++)
            young += rows[i].ordinal >= ordinal;
        held += (uint64_t)count;
    }
    return ic_session_live_bytes(s) / held * young;
}

/* Four frames, a question of some hundred tokens, an answer. */
static void take_turn(ic_engine *engine, ic_session *s, int turn)
{
    ic_error e = {0};
    char text[1500] = "";
    size_t length = 0;
    for (int i = 0; i < 180; i++)
        length +=
            (size_t)snprintf(text + length, sizeof text - length, " %d", (turn * 181 + i) % 97);
    ic_sampling greedy = ic_test_greedy(ANSWER);
    for (int i = 0; i < 4; i++) {
        ic_frame *f = ic_test_frame(&grid, 4 * turn + i, (4 * turn + i) * 500000);
        ic_assert_ok(ic_session_frame(s, &f, &grid, &e), &e);
    }
    ic_assert_ok(ic_session_ask(s, text, &greedy, &e), &e);
    while (ic_session_is_ready(s)) {
        ic_slice slice = {.session = s, .max_rows = 256};
        ic_assert_ok(ic_engine_step(engine, &slice, 1, &e), &e);
        assert_int_not_equal(slice.progress, IC_PROGRESS_FAILED);
    }
}

/* A checkpoint after a turn writes at most 1.5 times the rows that the turn added and that are
 * still there, beside the tables: with a cache of 4k slots, while it fills and when it is full.
 */
static void test_a_turn_writes_its_rows(void **state)
{
    (void)state;
    enum { BUDGET = 3180, TURNS = 22 };
    ic_error e = {0};
    ic_engine *engine = ic_test_engine("gqa2_tied_f32", NULL, 1);
    ic_assert_ok(ic_engine_grid(engine, 48, 32, 0, true, &grid, &e), &e);
    ic_session *s = ic_test_session(engine, NULL, BUDGET);
    assert_in_range(ic_slab_desc_of(s->slab)->slots, 4000, 4096);
    uint64_t all_rows = 0, all_live = 0, tables = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        uint64_t before = s->stats.tokens, cursor = 0;
        take_turn(engine, s, turn);
        ic_buf saved = {0}, rows = {0};
        ic_assert_ok(ic_session_save_state(s, &saved, &e), &e);
        uint64_t live = live_since(s, before);
        for (bool more = true; more;)
            ic_assert_ok(ic_session_save_rows(s, false, &cursor, 2 << 20, &rows, &more), &e);
        ic_session_mark_saved(s);
        assert_true(live > 0 && rows.size >= live && rows.size <= live + live / 2);
        all_rows += rows.size;
        all_live += live;
        tables = saved.size;
        ic_buf_fini(&saved);
        ic_buf_fini(&rows);
    }
    assert_true(s->stats.evicted_tokens > 0);
    printf(
        "%d turns, %llu tokens: %.3f bytes written for each of a live row; tables %llu KiB beside "
        "%llu KiB of cache\n",
        TURNS, (unsigned long long)s->stats.tokens, (double)all_rows / (double)all_live,
        (unsigned long long)tables >> 10, (unsigned long long)ic_session_live_bytes(s) >> 10);
    ic_session_destroy(&s);
    ic_engine_close(&engine);
}

int main(int argc, char **argv)
{
    if (argc == 2)
        return write_seeds(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_anywhere),       cmocka_unit_test(test_stats),
        cmocka_unit_test(test_meaning),        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_too_much_waits), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_fuzz_seeds),     cmocka_unit_test(test_old_states),
        cmocka_unit_test(test_old_meanings),   cmocka_unit_test(test_a_turn_writes_its_rows),
    };
    return IC_TEST_RUN(tests);
}
