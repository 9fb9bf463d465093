/* session_store: journal, events, group commit, requests, transcript, media. IC_NEEDS_SERVER */
#include "ic_test_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqlite3.h>

#include "base/ic_clock.h"
#include "base/ic_mem.h"

static char path[300];
static char id[IC_STORE_ID_CHARS + 1];
static ic_error e;

struct seen {
    int count;
    int64_t first, last;
    size_t bytes;
    uint32_t kind;
    char text[64]; /* of the last record */
    uint8_t key[IC_STORE_KEY_BYTES];
    bool keyed;
};

static int note(void *arg, const ic_store_record *r)
{
    struct seen *seen = arg;
    seen->first = seen->count++ ? seen->first : r->number;
    seen->last = r->number;
    seen->bytes += r->size;
    seen->kind = r->kind;
    seen->keyed = r->key != NULL;
    if (r->key)
        memcpy(seen->key, r->key, sizeof seen->key);
    snprintf(seen->text, sizeof seen->text, "%.*s", (int)r->size, (const char *)r->bytes);
    return 0;
}

static struct seen journal(ic_store *s, int64_t from)
{
    struct seen seen = {0};
    ic_assert_ok(ic_store_journal_read(s, id, from, note, &seen, &e), &e);
    return seen;
}

static struct seen events(ic_store *s, int64_t from)
{
    struct seen seen = {0};
    ic_assert_ok(ic_store_event_read(s, id, from, note, &seen, &e), &e);
    return seen;
}

static int64_t log_text(ic_store *s, const char *text)
{
    int64_t number = 0;
    ic_assert_ok(ic_store_journal_append(s, id, 7, 99, NULL, text, strlen(text), &number, &e), &e);
    return number;
}

static int64_t emit(ic_store *s, int64_t time_us, const char *text)
{
    int64_t number = 0;
    ic_assert_ok(ic_store_event_append(s, id, 5, time_us, text, strlen(text), &number, &e), &e);
    return number;
}

/* Ensures that journal records keep their order, number, kind, key and bytes, empty and large
 * ones too, and can be read from any number on, after a restart as well. */
static void test_journal(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    static char large[300000];
    memset(large, 'x', sizeof large);
    uint8_t key[IC_STORE_KEY_BYTES] = "0123456789abcde";
    int64_t number;
    assert_int_equal(log_text(s, "one"), 1);
    assert_int_equal(log_text(s, ""), 2);
    ic_assert_ok(ic_store_journal_append(s, id, 1, 5, NULL, large, sizeof large, &number, &e), &e);
    ic_assert_ok(ic_store_journal_append(s, id, 9, 5, key, "keyed", 5, &number, &e), &e);
    assert_int_equal(number, 4);
    s = ic_test_store_reopen(s, path);
    struct seen seen = journal(s, 0);
    assert_int_equal(seen.count, 4);
    assert_int_equal(seen.first, 1);
    assert_int_equal(seen.bytes, 3 + sizeof large + 5);
    assert_string_equal(seen.text, "keyed");
    assert_int_equal(seen.kind, 9);
    assert_true(seen.keyed);
    assert_memory_equal(seen.key, key, sizeof key);
    assert_int_equal(journal(s, 2).count, 3);
    assert_int_equal(journal(s, 4).count, 1);
    assert_int_equal(journal(s, 5).count, 0);
    ic_store_session session;
    ic_assert_ok(ic_store_session_get(s, id, &session, &e), &e);
    assert_int_equal(session.journal_next, 5);
    assert_int_equal(ic_store_journal_append(s, "nobody", 1, 1, NULL, "", 0, NULL, &e),
                     IC_ENOTFOUND);
    assert_int_equal(
        ic_store_journal_append(s, id, 1, 1, NULL, large, IC_STORE_RECORD_MAX + 1, NULL, &e),
        IC_ELIMIT);
    ic_store_close(&s);
}

/* Ensures that a changed byte, kind, number or a hole in the journal or the events is found and
 * named. */
static void test_damaged_records_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *damage, *says;
    } cases[] = {
        {"UPDATE journal SET payload = CAST('twa' AS BLOB) WHERE number = 2",
         "record 2 is damaged"},
        {"UPDATE journal SET kind = 8 WHERE number = 3", "record 3 is damaged"},
        {"UPDATE journal SET time_us = 98 WHERE number = 1", "record 1 is damaged"},
        {"UPDATE journal SET key = zeroblob(16) WHERE number = 1", "record 1 is damaged"},
        {"DELETE FROM journal WHERE number = 2", "record 2 is missing"},
        {"UPDATE journal SET number = 4 WHERE number = 3", "record 3 is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ic_store *s = ic_test_store_start(path, id);
        log_text(s, "one");
        log_text(s, "two");
        log_text(s, "three");
        ic_store_close(&s);
        assert_true(ic_test_sql(path, cases[i].damage) > 0);
        s = ic_test_store_reopen(NULL, path);
        struct seen seen = {0};
        assert_int_equal(ic_store_journal_read(s, id, 0, note, &seen, &e), IC_EFORMAT);
        assert_non_null(strstr(e.text, cases[i].says));
        assert_int_equal(ic_store_check(s, &e), IC_EFORMAT);
        ic_store_close(&s);
    }
    ic_store *s = ic_test_store_start(path, id);
    emit(s, 1, "event");
    ic_store_close(&s);
    assert_true(ic_test_sql(path, "UPDATE event SET payload = CAST('Event' AS BLOB)") > 0);
    s = ic_test_store_reopen(NULL, path);
    struct seen seen = {0};
    assert_int_equal(ic_store_event_read(s, id, 0, note, &seen, &e), IC_EFORMAT);
    assert_int_equal(seen.count, 0);
    ic_store_close(&s);
}

/* Ensures that a callback can stop a reading, and that its error comes back. */
static int stop_at_two(void *arg, const ic_store_record *r)
{
    ++*(int *)arg;
    return r->number == 2 ? 1 : 0;
}

static int refuse(void *arg, const ic_store_record *r)
{
    (void)arg, (void)r;
    return IC_ECANCELED;
}

static void test_reading_stops(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    for (int i = 0; i < 5; i++)
        log_text(s, "x");
    int count = 0;
    ic_assert_ok(ic_store_journal_read(s, id, 0, stop_at_two, &count, &e), &e);
    assert_int_equal(count, 2);
    assert_int_equal(ic_store_journal_read(s, id, 0, refuse, NULL, &e), IC_ECANCELED);
    assert_int_equal(journal(s, 0).count, 5);
    ic_store_close(&s);
}

/* Ensures that events are numbered on their own, and that retention drops the oldest only: as many
 * as needed, none that is young, and says so to who asks for one that is gone. */
static void test_events_and_retention(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    int64_t dropped = -1;
    log_text(s, "journal numbers are others");
    for (int i = 1; i <= 10; i++)
        assert_int_equal(emit(s, i * 10, "0123456789"), i);
    ic_assert_ok(ic_store_event_trim(s, id, 100, 1000, &dropped, &e), &e);
    assert_int_equal(dropped, 0);
    ic_assert_ok(ic_store_event_trim(s, id, 55, 1000, &dropped, &e), &e);
    assert_int_equal(dropped, 5);
    ic_assert_ok(ic_store_event_trim(s, id, 0, 80, &dropped, &e), &e);
    assert_int_equal(dropped, 2); /* the event of time 80 is too young */
    s = ic_test_store_reopen(s, path);
    struct seen seen = {0};
    assert_int_equal(ic_store_event_read(s, id, 7, note, &seen, &e), IC_ENOTFOUND);
    assert_non_null(strstr(e.text, "the first is 8"));
    assert_int_equal(events(s, 8).count, 3);
    assert_int_equal(events(s, 0).first, 8);
    ic_assert_ok(ic_store_event_trim(s, id, 0, 1000, &dropped, &e), &e);
    assert_int_equal(dropped, 3);
    assert_int_equal(emit(s, 200, "later"), 11); /* numbers go on though nothing is left */
    ic_store_session session;
    ic_assert_ok(ic_store_session_get(s, id, &session, &e), &e);
    assert_int_equal(session.event_first, 11);
    assert_int_equal(session.event_next, 12);
    assert_int_equal(events(s, 12).count, 0);
    ic_store_close(&s);
}

/* Ensures that a batch is one commit however much is in it, that it is all there after it, and
 * none of it after a rollback or a close. */
static void test_batch_is_one_commit(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    uint64_t before = ic_store_commits(s);
    ic_assert_ok(ic_store_batch_begin(s, &e), &e);
    for (int i = 0; i < 50; i++) {
        log_text(s, "token");
        emit(s, 1, "token");
    }
    ic_assert_ok(ic_store_session_set_title(s, id, "in a batch", &e), &e);
    assert_true(ic_store_commits(s) == before);
    ic_assert_ok(ic_store_batch_commit(s, &e), &e);
    assert_true(ic_store_commits(s) == before + 1);
    log_text(s, "alone");
    log_text(s, "alone");
    assert_true(ic_store_commits(s) == before + 3);
    ic_assert_ok(ic_store_batch_begin(s, &e), &e);
    assert_int_equal(ic_store_batch_begin(s, &e), IC_EINVAL);
    log_text(s, "undone");
    ic_store_batch_rollback(s);
    ic_store_batch_rollback(s);
    assert_int_equal(ic_store_batch_commit(s, &e), IC_EINVAL);
    assert_int_equal(journal(s, 0).count, 52);
    ic_assert_ok(ic_store_batch_begin(s, &e), &e);
    log_text(s, "undone too");
    s = ic_test_store_reopen(s, path);
    assert_int_equal(journal(s, 0).count, 52);
    assert_int_equal(events(s, 0).count, 50);
    ic_store_close(&s);
}

/* Ensures that a refused call inside a batch takes nothing else of the batch with it, and that
 * what must not be in a batch is refused. */
static void test_batch_survives_a_refusal(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    bool more;
    ic_store_writer *w = NULL;
    ic_assert_ok(ic_store_batch_begin(s, &e), &e);
    log_text(s, "before");
    assert_int_equal(ic_store_session_delete(s, "nobody", &e), IC_ENOTFOUND);
    assert_int_equal(ic_store_media_append(s, id, 3, "x", 1, &e), IC_ENOTFOUND);
    assert_int_equal(ic_store_checkpoint_begin(s, id, &w, &e), IC_EINVAL);
    assert_int_equal(ic_store_maintain(s, &more, &e), IC_EINVAL);
    assert_int_equal(ic_store_shrink(s, &e), IC_EINVAL);
    assert_int_equal(ic_store_check(s, &e), IC_EINVAL);
    log_text(s, "after");
    ic_assert_ok(ic_store_batch_commit(s, &e), &e);
    s = ic_test_store_reopen(s, path);
    assert_int_equal(journal(s, 0).count, 2);
    ic_store_close(&s);
}

/* Ensures that a full store says so, keeps what it acknowledged, and works again when there is
 * room: alone and in a batch, whose other members are then lost together, and told so. */
static void test_full_store(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_close(&s);
    ic_store_config config = {.path = path, .limit_bytes = 6 << 20};
    ic_assert_ok(ic_store_open(&s, &config, &e), &e);
    char *bytes = calloc(1, 1 << 20);
    int rc, kept = 0;
    while ((rc = ic_store_journal_append(s, id, 1, 1, NULL, bytes, 1 << 20, NULL, &e)) == IC_OK)
        kept++;
    assert_int_equal(rc, IC_ELIMIT);
    assert_non_null(strstr(e.text, "full"));
    assert_true(kept >= 2);
    assert_int_equal(journal(s, 0).count, kept);
    ic_assert_ok(ic_store_batch_begin(s, &e), &e);
    log_text(s, "small");
    assert_int_equal(ic_store_journal_append(s, id, 1, 1, NULL, bytes, 1 << 20, NULL, &e),
                     IC_ELIMIT);
    rc = ic_store_journal_append(s, id, 1, 1, NULL, "y", 1, NULL, &e);
    int committed = ic_store_batch_commit(s, &e);
    assert_int_equal(committed, rc); /* kept or lost together */
    assert_int_equal(journal(s, 0).count, kept + (committed == IC_OK ? 2 : 0));
    ic_store_close(&s);
    s = ic_test_store_reopen(NULL, path);
    ic_assert_ok(ic_store_journal_append(s, id, 1, 1, NULL, bytes, 1 << 20, NULL, &e), &e);
    free(bytes);
    ic_store_close(&s);
}

struct requests {
    int count;
    uint32_t kinds;
};

static int note_request(void *arg, const ic_store_request *r)
{
    struct requests *seen = arg;
    seen->count++;
    seen->kinds = seen->kinds * 10 + r->kind;
    return 0;
}

static ic_store_verdict admit(ic_store *s, const char *key, const char *content, uint32_t kind,
                              const char *session, ic_store_request *out)
{
    uint8_t k[IC_STORE_KEY_BYTES] = {0}, c[IC_STORE_KEY_BYTES];
    ic_store_verdict verdict;
    memcpy(k, key, strlen(key));
    ic_store_hash(content, strlen(content), c);
    ic_assert_ok(ic_store_request_admit(s, k, c, kind, session, 50, &verdict, out, &e), &e);
    return verdict;
}

/* What a look-up without recording says. */
static ic_store_verdict find(ic_store *s, const char *key, const char *content)
{
    uint8_t k[IC_STORE_KEY_BYTES] = {0}, c[IC_STORE_KEY_BYTES];
    ic_store_verdict verdict;
    memcpy(k, key, strlen(key));
    ic_store_hash(content, strlen(content), c);
    ic_assert_ok(ic_store_request_find(s, k, c, &verdict, NULL, &e), &e);
    return verdict;
}

static int update(ic_store *s, const char *key, const char *session, int64_t first, int64_t last,
                  const char *result)
{
    uint8_t k[IC_STORE_KEY_BYTES] = {0};
    memcpy(k, key, strlen(key));
    return ic_store_request_update(s, k, IC_STORE_DONE, session, first, last, result,
                                   result ? strlen(result) : 0, &e);
}

/* Ensures that a key is new once; then the same content finds its events and result, another
 * content is a conflict, after its retention it is expired, and only when forgotten new again. */
static void test_requests_exactly_once(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_request r;
    assert_int_equal(find(s, "k1", "ask what"), IC_STORE_NEW);
    assert_int_equal(find(s, "k1", "ask what"), IC_STORE_NEW);
    assert_int_equal(admit(s, "k1", "ask what", 3, id, &r), IC_STORE_NEW);
    assert_int_equal(find(s, "k1", "ask what"), IC_STORE_SAME);
    assert_int_equal(find(s, "k1", "ask whom"), IC_STORE_CONFLICT);
    assert_int_equal(r.state, IC_STORE_PENDING);
    assert_string_equal(r.session, id);
    assert_int_equal(admit(s, "k1", "ask what", 3, id, &r), IC_STORE_SAME);
    assert_int_equal(r.state, IC_STORE_PENDING);
    ic_assert_ok(update(s, "k1", NULL, 4, 0, NULL), &e);
    ic_assert_ok(update(s, "k1", NULL, 0, 9, "fine"), &e);
    s = ic_test_store_reopen(s, path);
    assert_int_equal(admit(s, "k1", "ask what", 3, id, &r), IC_STORE_SAME);
    assert_int_equal(r.state, IC_STORE_DONE);
    assert_int_equal(r.first_event, 4);
    assert_int_equal(r.last_event, 9);
    assert_int_equal(r.result_bytes, 4);
    assert_memory_equal(r.result, "fine", 4);
    assert_int_equal(r.time_us, 50);
    assert_int_equal(admit(s, "k1", "ask whom", 3, id, NULL), IC_STORE_CONFLICT);
    ic_clock_fake(0, 1050); /* the request is 1000 us old */
    ic_assert_ok(ic_store_request_expire(s, 1000, 0, &e), &e);
    assert_int_equal(admit(s, "k1", "ask what", 3, id, NULL), IC_STORE_SAME);
    ic_assert_ok(ic_store_request_expire(s, 999, 1000, &e), &e);
    assert_int_equal(admit(s, "k1", "ask what", 3, id, NULL), IC_STORE_EXPIRED);
    assert_int_equal(admit(s, "k1", "ask whom", 3, id, NULL), IC_STORE_CONFLICT);
    ic_assert_ok(ic_store_request_expire(s, 999, 999, &e), &e);
    ic_clock_fake_off();
    assert_int_equal(admit(s, "k1", "ask what", 3, id, NULL), IC_STORE_NEW);
    assert_int_equal(update(s, "k9", NULL, 1, 1, NULL), IC_ENOTFOUND);
    ic_store_close(&s);
}

/* Ensures that pending requests are listed for a restart, survive retention, and that the keys of a
 * deleted session answer EXPIRED, but for the one that deleted it, which keeps its result. */
static void test_requests_pending_and_deleted(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    struct requests seen = {0};
    ic_store_request r;
    admit(s, "a", "1", 1, id, NULL);
    admit(s, "b", "2", 2, NULL, NULL);
    admit(s, "c", "3", 3, id, NULL);
    ic_assert_ok(update(s, "c", NULL, 1, 1, NULL), &e);
    ic_assert_ok(ic_store_request_expire(s, 0, INT64_MAX / 2, &e), &e);
    ic_assert_ok(ic_store_request_pending(s, NULL, note_request, &seen, &e), &e);
    assert_int_equal(seen.kinds, 12);
    seen = (struct requests){0};
    ic_assert_ok(ic_store_request_pending(s, id, note_request, &seen, &e), &e);
    assert_int_equal(seen.kinds, 1);
    ic_assert_ok(update(s, "b", id, 0, 0, NULL), &e); /* a session made by the request */
    assert_int_equal(admit(s, "b", "2", 2, NULL, &r), IC_STORE_SAME);
    assert_string_equal(r.session, id);
    assert_int_equal(admit(s, "d", "rm", 4, id, NULL), IC_STORE_NEW);
    ic_assert_ok(ic_store_batch_begin(s, &e), &e);
    ic_assert_ok(ic_store_session_delete(s, id, &e), &e);
    ic_assert_ok(update(s, "d", NULL, 0, 0, "gone"), &e);
    ic_assert_ok(ic_store_batch_commit(s, &e), &e);
    assert_int_equal(admit(s, "a", "1", 1, NULL, NULL), IC_STORE_EXPIRED);
    assert_int_equal(admit(s, "b", "2", 2, NULL, NULL), IC_STORE_EXPIRED);
    assert_int_equal(admit(s, "d", "rm", 4, NULL, &r), IC_STORE_SAME);
    assert_string_equal(r.session, "");
    assert_memory_equal(r.result, "gone", 4);
    ic_store_close(&s);
}

/* Ensures that a changed request is an error, whatever was asked: it must not be computed again nor
 * answer with another's events. */
static void test_changed_request_is_refused(void **state)
{
    (void)state;
    static const char *const damage[] = {
        "UPDATE request SET state = 1",
        "UPDATE request SET first_event = 1",
        "UPDATE request SET session = NULL",
        "UPDATE request SET result = CAST('f' AS BLOB)",
        "UPDATE request SET content = zeroblob(16)",
        "UPDATE request SET content = x''",
        "UPDATE request SET time_us = 1",
    };
    for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        ic_store *s = ic_test_store_start(path, id);
        uint8_t key[IC_STORE_KEY_BYTES] = "k", content[IC_STORE_KEY_BYTES];
        ic_store_verdict verdict;
        ic_store_hash("x", 1, content);
        admit(s, "k", "x", 1, id, NULL);
        ic_assert_ok(update(s, "k", NULL, 3, 4, "fine"), &e);
        ic_store_close(&s);
        assert_true(ic_test_sql(path, damage[i]) > 0);
        s = ic_test_store_reopen(NULL, path);
        assert_int_equal(ic_store_request_admit(s, key, content, 1, id, 1, &verdict, NULL, &e),
                         IC_EFORMAT);
        ic_assert_ok(ic_store_request_expire(s, 0, INT64_MAX / 2, &e), &e);
        assert_int_equal(ic_store_request_find(s, key, content, &verdict, NULL, &e), IC_EFORMAT);
        assert_int_equal(ic_store_check(s, &e), IC_EFORMAT);
        ic_store_close(&s);
    }
}

static int note_turn(void *arg, const ic_store_turn *t)
{
    char *text = arg;
    char one[128];
    snprintf(one, sizeof one, "%lld:%d:%.*s:%.*s:%lld ", (long long)t->number, (int)t->role,
             (int)t->text_bytes, t->text, (int)t->parts_bytes, (const char *)t->parts,
             (long long)(t->time_us + t->took_us + t->tokens + t->media + t->parts_version));
    strcat(text, one);
    return 0;
}

/* Ensures that turns come back whole and in order, and that a changed one is named. */
static void test_transcript(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    char text[256] = "";
    ic_store_turn user = {.role = IC_STORE_USER, .text = "Was ist das?", .text_bytes = 12};
    ic_store_turn answer = {.role = IC_STORE_ASSISTANT,
                            .time_us = 1,
                            .took_us = 2,
                            .tokens = 4,
                            .media = 8,
                            .parts_version = 16,
                            .text = "Ein Fisch.",
                            .text_bytes = 10,
                            .parts = "{}",
                            .parts_bytes = 2};
    int64_t number = 0;
    ic_assert_ok(ic_store_turn_append(s, id, &user, &number, &e), &e);
    ic_assert_ok(ic_store_turn_append(s, id, &answer, &number, &e), &e);
    assert_int_equal(number, 2);
    s = ic_test_store_reopen(s, path);
    ic_assert_ok(ic_store_turn_read(s, id, 0, note_turn, text, &e), &e);
    assert_string_equal(text, "1:2:Was ist das?::0 2:3:Ein Fisch.:{}:31 ");
    text[0] = '\0';
    ic_assert_ok(ic_store_turn_read(s, id, 2, note_turn, text, &e), &e);
    assert_string_equal(text, "2:3:Ein Fisch.:{}:31 ");
    assert_int_equal(ic_store_turn_append(s, "nobody", &user, NULL, &e), IC_ENOTFOUND);
    ic_store_close(&s);
    assert_true(ic_test_sql(path, "UPDATE turn SET text = 'Ein Fasch.' WHERE number = 2") > 0);
    s = ic_test_store_reopen(NULL, path);
    assert_int_equal(ic_store_turn_read(s, id, 0, note_turn, text, &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "turn 2 is damaged"));
    ic_store_close(&s);
}

static int copy_media(void *arg, const ic_store_media *m)
{
    ic_store_media *out = arg;
    assert_string_equal(m->name, "pond.mp4");
    assert_memory_equal(m->times, "0.0 0.5", m->times_bytes);
    *out = *m;
    return 0;
}

/* Ensures that a ledger entry keeps its fields through an update, and its stored pieces; that
 * pieces come back verified, and go when dropped while the entry stays. */
static void test_media(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    ic_store_media m = {.kind = 2,
                        .time_us = 3,
                        .name = "pond.mp4",
                        .bytes = 1000,
                        .fps = 2.5,
                        .hash = {1, 2, 3},
                        .hash_bytes = 32,
                        .notices = "cut off",
                        .times = "0.0 ",
                        .times_bytes = 0,
                        .retain = true};
    int64_t number = 0;
    ic_buf out;
    ic_buf_init(&out, 0);
    ic_assert_ok(ic_store_media_put(s, id, &m, &number, &e), &e);
    assert_int_equal(number, 1);
    char *piece = malloc(1 << 20);
    for (int i = 0; i < 3; i++) {
        memset(piece, 'a' + i, 1 << 20);
        ic_assert_ok(ic_store_media_append(s, id, number, piece, (1u << 20) - (unsigned)i, &e), &e);
    }
    m.number = number;
    m.frames_used = 12;
    m.times = "0.0 0.5";
    m.times_bytes = 7;
    ic_assert_ok(ic_store_media_put(s, id, &m, NULL, &e), &e);
    s = ic_test_store_reopen(s, path);
    ic_store_media got = {0};
    ic_assert_ok(ic_store_media_list(s, id, 1, copy_media, &got, &e), &e);
    assert_int_equal(got.number, 1);
    assert_int_equal(got.frames_used, 12);
    assert_int_equal(got.hash[2], 3);
    assert_int_equal(got.hash_bytes, 32);
    assert_true(got.fps == 2.5 && got.retain);
    assert_int_equal(got.pieces, 3);
    assert_int_equal(got.stored_bytes, 3 * (1 << 20) - 3);
    ic_assert_ok(ic_store_media_read(s, id, 1, 2, &out, &e), &e);
    assert_int_equal(out.size, (1 << 20) - 2);
    assert_memory_equal(out.data, piece, out.size);
    assert_int_equal(ic_store_media_read(s, id, 1, 3, &out, &e), IC_ENOTFOUND);
    assert_int_equal(ic_store_media_read(s, id, 2, 0, &out, &e), IC_ENOTFOUND);
    assert_int_equal(ic_store_media_append(s, id, 1, piece, 0, &e), IC_ELIMIT);
    assert_int_equal(ic_store_media_append(s, id, 1, piece, IC_STORE_SEGMENT_MAX + 1, &e),
                     IC_ELIMIT);
    m.number = 5;
    assert_int_equal(ic_store_media_put(s, id, &m, NULL, &e), IC_ENOTFOUND);
    ic_store_close(&s);
    assert_true(ic_test_sql(path, "UPDATE media_piece SET data = zeroblob(bytes) WHERE piece = 1")
                > 0);
    s = ic_test_store_reopen(NULL, path);
    assert_int_equal(ic_store_media_read(s, id, 1, 1, &out, &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "piece 1 of media entry 1"));
    ic_assert_ok(ic_store_media_drop(s, id, 1, &e), &e);
    ic_assert_ok(ic_store_media_drop(s, id, 1, &e), &e);
    ic_assert_ok(ic_store_media_list(s, id, 1, copy_media, &got, &e), &e);
    assert_int_equal(got.pieces, 0);
    assert_int_equal(ic_store_media_read(s, id, 1, 0, &out, &e), IC_ENOTFOUND);
    ic_buf_fini(&out);
    free(piece);
    ic_store_close(&s);
}

/* Ensures that sizes add up per session, per owner and for the whole store. */
static void test_sizes(void **state)
{
    (void)state;
    ic_store *s = ic_test_store_start(path, id);
    char other[IC_STORE_ID_CHARS + 1];
    ic_store_sizes sizes;
    ic_assert_ok(ic_store_session_create(s, "bob", "", 1, 1, "", 0, other, &e), &e);
    log_text(s, "12345");
    emit(s, 1, "123");
    ic_store_turn turn = {
        .role = IC_STORE_USER, .text = "é", .text_bytes = 2, .parts = "ab", .parts_bytes = 2};
    ic_assert_ok(ic_store_turn_append(s, id, &turn, NULL, &e), &e);
    ic_assert_ok(ic_store_journal_append(s, other, 1, 1, NULL, "1234567", 7, NULL, &e), &e);
    ic_assert_ok(ic_store_sizes_session(s, id, &sizes, &e), &e);
    assert_int_equal(sizes.journal, 5);
    assert_int_equal(sizes.events, 3);
    assert_int_equal(sizes.transcript, 4);
    assert_int_equal(sizes.total, 12);
    ic_assert_ok(ic_store_sizes_owner(s, "bob", &sizes, &e), &e);
    assert_int_equal(sizes.total, 7);
    assert_int_equal(sizes.sessions, 1);
    ic_assert_ok(ic_store_sizes_all(s, &sizes, &e), &e);
    assert_int_equal(sizes.journal, 12);
    assert_int_equal(sizes.sessions, 2);
    assert_true(sizes.total >= 16384);
    assert_int_equal(ic_store_sizes_session(s, "nobody", &sizes, &e), IC_ENOTFOUND);
    ic_store_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_journal),
        cmocka_unit_test(test_damaged_records_are_named),
        cmocka_unit_test(test_reading_stops),
        cmocka_unit_test(test_events_and_retention),
        cmocka_unit_test(test_batch_is_one_commit),
        cmocka_unit_test(test_batch_survives_a_refusal),
        cmocka_unit_test(test_full_store),
        cmocka_unit_test(test_requests_exactly_once),
        cmocka_unit_test(test_requests_pending_and_deleted),
        cmocka_unit_test(test_changed_request_is_refused),
        cmocka_unit_test(test_transcript),
        cmocka_unit_test(test_media),
        cmocka_unit_test(test_sizes),
    };
    return IC_TEST_RUN(tests);
}
