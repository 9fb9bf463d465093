/* session_store with one field damaged behind its back: bits of every column that a checksum covers
 * are flipped, bytes cut off, added, or replaced by nothing. Reading must refuse what was damaged,
 * by name, and the other session must read as it was written. A sample here; every byte in
 * tests/full/test_store_damage_dense.c, which includes this file. IC_NEEDS_SERVER */
#include "ic_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqlite3.h>

#include "base/ic_mem.h"
#include "session_store/ic_store.h"

#ifndef DAMAGE_DENSE
#define DAMAGE_DENSE 0
#endif

enum {
    FRAMES = 2, /* before the records, and behind them */
    RECORDS = 6,
    COVERED = 3,
    SEGMENTS = 2,
    SEGMENT_BYTES = 900,
    SAMPLES = 6,
    SHORT = 1
};

typedef struct subject {
    char id[IC_STORE_ID_CHARS + 1];
    int seed;
    int marks;
} subject;

static ic_store *store;
static sqlite3 *behind; /* its back */
static subject victim = {.seed = 1}, other = {.seed = 2};

/* --- two sessions ------------------------------------------------------------------------------
 */

static size_t text_of(const subject *x, const char *what, int64_t i, char out[64])
{
    return (size_t)snprintf(out, 64, "%s %lld of %d, a few words", what, (long long)i, x->seed);
}

static void key_of(const subject *x, int64_t i, uint8_t key[IC_STORE_KEY_BYTES])
{
    char text[64];
    ic_store_hash(text, text_of(x, "key", i, text), key);
}

static void fill_segment(const subject *x, int i, uint8_t *bytes)
{
    for (int k = 0; k < SEGMENT_BYTES; k++)
        bytes[k] = (uint8_t)(k * 31 + i * 7 + x->seed);
}

static void write_row(const subject *x, int i)
{
    ic_error e = {0};
    char text[64];
    uint8_t key[IC_STORE_KEY_BYTES];
    ic_store_verdict verdict;
    size_t size = text_of(x, "record", i, text);
    ic_store_turn turn = {.role = IC_STORE_USER,
                          .text = text,
                          .text_bytes = size,
                          .parts = text,
                          .parts_bytes = size,
                          .time_us = i,
                          .took_us = 5,
                          .tokens = 6};
    ic_store_media media = {.name = text,
                            .times = text,
                            .times_bytes = size,
                            .notices = text,
                            .fps = 2.5,
                            .bytes = 77,
                            .frames_seen = 9,
                            .frames_used = 8,
                            .hash_bytes = 4,
                            .hash = {1, 2, 3, 4}};
    key_of(x, i, key);
    ic_assert_ok(ic_store_journal_append(store, x->id, 1, i, key, text, size, NULL, &e), &e);
    ic_assert_ok(ic_store_event_append(store, x->id, 1, i, text, size, NULL, &e), &e);
    ic_assert_ok(ic_store_turn_append(store, x->id, &turn, NULL, &e), &e);
    ic_assert_ok(ic_store_media_put(store, x->id, &media, NULL, &e), &e);
    ic_assert_ok(ic_store_media_append(store, x->id, i, text, size, &e), &e);
    ic_assert_ok(ic_store_request_admit(store, key, key, 1, x->id, 1000 * i, &verdict, NULL, &e),
                 &e);
    ic_assert_ok(ic_store_request_update(store, key, IC_STORE_DONE, NULL, i, i + 1, text, size, &e),
                 &e);
}

/* Numbers 1 and 2 of the journal, which the checkpoint covers, or those behind the records. */
static void write_frames(const subject *x, int first, int64_t media, ic_store_hold hold)
{
    for (int i = first; i < first + FRAMES; i++) {
        ic_error e = {0};
        char text[64];
        int64_t number = 0;
        size_t size = text_of(x, "record", i, text);
        ic_store_frame f = {.kind = 1,
                            .time_us = i,
                            .media = media,
                            .hold = hold,
                            .head = text,
                            .head_bytes = size,
                            .bulk = text,
                            .bulk_bytes = size};
        ic_assert_ok(ic_store_frame_append(store, x->id, &f, &number, &e), &e);
        assert_int_equal(number, i + FRAMES);
    }
}

static void write_subject(subject *x)
{
    ic_error e = {0};
    ic_store_writer *w = NULL;
    ic_store_segment segments[SEGMENTS];
    uint8_t bytes[SEGMENT_BYTES];
    ic_assert_ok(ic_store_session_create(store, "local", "title", 1, 1, "cfg", 3, x->id, &e), &e);
    ic_assert_ok(ic_store_batch_begin(store, &e), &e);
    write_frames(x, 1 - FRAMES, 1, IC_STORE_HOLD_KEEP);
    for (int i = 1; i <= RECORDS; i++)
        write_row(x, i);
    write_frames(x, RECORDS + 1, 2, IC_STORE_HOLD_REPLAY);
    ic_assert_ok(ic_store_batch_commit(store, &e), &e);
    ic_assert_ok(ic_store_checkpoint_begin(store, x->id, &w, &e), &e);
    for (int i = 0; i < SEGMENTS; i++) {
        fill_segment(x, i, bytes);
        ic_assert_ok(ic_store_checkpoint_segment(w, 1, bytes, sizeof bytes, &segments[i], &e), &e);
    }
    ic_store_manifest m = {.meaning = "meaning",
                           .meaning_bytes = 7,
                           .numerics = "numerics",
                           .time_us = 7,
                           .journal_seq = FRAMES + COVERED,
                           .live_bytes = 1800,
                           .state = "the state",
                           .state_bytes = 9,
                           .segments = segments,
                           .segment_count = SEGMENTS};
    ic_assert_ok(ic_store_checkpoint_finish(&w, &m, &e), &e);
}

static int open_store(void **state)
{
    (void)state;
    ic_error e = {0};
    char path[300];
    snprintf(path, sizeof path, "%s/damage.db", ic_test_dir());
    ic_assert_ok(ic_store_open(&store, &(ic_store_config){.path = path}, &e), &e);
    write_subject(&victim);
    write_subject(&other);
    char copy[IC_STORE_ID_CHARS + 1];
    ic_assert_ok(ic_store_mark_add(store, victim.id, "here", 3, 9, copy, &e), &e);
    victim.marks = 1;
    assert_int_equal(sqlite3_open(path, &behind), SQLITE_OK);
    assert_int_equal(sqlite3_exec(behind, "PRAGMA synchronous=OFF", NULL, NULL, NULL), SQLITE_OK);
    return 0;
}

static int close_store(void **state)
{
    sqlite3_close(behind);
    ic_store_close(&store);
    return ic_test_group_teardown(state);
}

/* --- what is read must be true, or refused -----------------------------------------------------
 */

static void expect_text(const subject *x, int64_t i, const void *bytes, size_t size)
{
    char text[64];
    assert_int_equal(size, text_of(x, "record", i, text));
    assert_memory_equal(bytes, text, size);
}

typedef struct reading {
    const subject *of;
    int count;
    bool events;
} reading;

static int take_record(void *arg, const ic_store_record *r)
{
    reading *g = arg;
    int64_t i = g->events ? r->number : r->number - FRAMES;
    expect_text(g->of, i, r->bytes, r->size);
    if (r->bulk)
        expect_text(g->of, i, r->bulk, r->bulk_size);
    assert_int_equal(r->time_us, i);
    assert_int_equal(r->kind, 1);
    g->count++;
    return 0;
}

/* A damaged one is told, not refused; here that is a refusal. */
static int take_frame(void *arg, const ic_store_frame *f)
{
    reading *g = arg;
    if (f->damaged)
        return IC_EFORMAT;
    expect_text(g->of, f->number - FRAMES, f->head, f->head_bytes);
    expect_text(g->of, f->number - FRAMES, f->bulk, f->bulk_bytes);
    assert_int_equal(f->media, f->number <= FRAMES ? 1 : 2);
    assert_int_equal(f->hold, f->number <= FRAMES ? IC_STORE_HOLD_KEEP : IC_STORE_HOLD_REPLAY);
    g->count++;
    return 0;
}

static int read_frames(const subject *x, reading *g, ic_error *e)
{
    int rc = ic_store_frame_read(store, x->id, 0, take_frame, g, e);
    return rc == IC_EFORMAT ? ic_error_set(e, rc, "a frame of %s is damaged", x->id) : rc;
}

static int take_turn(void *arg, const ic_store_turn *t)
{
    reading *g = arg;
    expect_text(g->of, t->number, t->text, t->text_bytes);
    expect_text(g->of, t->number, t->parts, t->parts_bytes);
    assert_int_equal(t->role, IC_STORE_USER);
    g->count++;
    return 0;
}

static int take_media(void *arg, const ic_store_media *m)
{
    reading *g = arg;
    expect_text(g->of, m->number, m->times, m->times_bytes);
    expect_text(g->of, m->number, m->name, strlen(m->name));
    assert_true(m->fps == 2.5);
    g->count++;
    return 0;
}

static int take_mark(void *arg, const ic_store_mark *m)
{
    reading *g = arg;
    assert_string_equal(m->name, "here");
    assert_int_equal(m->turn, 3);
    assert_int_equal(m->time_us, 9);
    g->count++;
    return 0;
}

static int read_checkpoint(const subject *x, ic_error *e)
{
    uint8_t got[SEGMENT_BYTES], expected[SEGMENT_BYTES];
    ic_store_reader *r = NULL;
    int rc = ic_store_checkpoint_open(store, x->id, &r, e);
    if (rc)
        return rc;
    const ic_store_manifest *m = ic_store_checkpoint_manifest(r);
    assert_int_equal(m->segment_count, SEGMENTS);
    assert_int_equal(m->journal_seq, FRAMES + COVERED);
    assert_int_equal(m->live_bytes, 1800);
    assert_memory_equal(m->state, "the state", 9);
    for (int i = 0; i < SEGMENTS && !rc; i++) {
        fill_segment(x, i, expected);
        rc = ic_store_checkpoint_read(r, (size_t)i, got, e);
        assert_true(rc || memcmp(got, expected, sizeof got) == 0);
    }
    ic_store_checkpoint_close(&r);
    return rc;
}

static int read_media(const subject *x, reading *g, ic_error *e)
{
    int rc = ic_store_media_list(store, x->id, 0, take_media, g, e);
    for (int i = 1; i <= RECORDS && !rc; i++) {
        ic_buf out = {0};
        rc = ic_store_media_read(store, x->id, i, 0, &out, e);
        if (!rc)
            expect_text(x, i, out.data, out.size);
        ic_buf_fini(&out);
    }
    return rc;
}

static int read_requests(const subject *x, ic_error *e)
{
    int rc = IC_OK;
    for (int i = 1; i <= RECORDS && !rc; i++) {
        uint8_t key[IC_STORE_KEY_BYTES];
        ic_store_verdict verdict = IC_STORE_NEW;
        ic_store_request r = {0};
        key_of(x, i, key);
        rc = ic_store_request_find(store, key, key, &verdict, &r, e);
        if (!rc && verdict == IC_STORE_NEW)
            return ic_error_set(e, IC_ENOTFOUND, "request %d of %s is unknown", i, x->id);
        if (!rc) {
            assert_int_equal(verdict, IC_STORE_SAME);
            assert_int_equal(r.first_event, i);
            expect_text(x, i, r.result, r.result_bytes);
        }
    }
    return rc;
}

/* Reads everything of a session: the first refusal, or SHORT: all is true, and some rows are not
 * there. What is read must be what was written. */
static int read_all(const subject *x, ic_error *e)
{
    ic_store_session session;
    ic_buf config = {0};
    uint32_t version = 0;
    reading journal = {x, 0, false}, events = {x, 0, true}, turns = {x, 0, false};
    reading media = {x, 0, false}, marks = {x, 0, false}, frames = {x, 0, false};
    int rc = ic_store_session_get(store, x->id, &session, e);
    if (!rc)
        rc = ic_store_session_config(store, x->id, &version, &config, e);
    assert_true(rc || (config.size == 3 && memcmp(config.data, "cfg", 3) == 0));
    ic_buf_fini(&config);
    if (!rc)
        rc = read_checkpoint(x, e);
    if (!rc)
        rc = ic_store_journal_read(store, x->id, 0, take_record, &journal, e);
    if (!rc)
        rc = ic_store_event_read(store, x->id, 0, take_record, &events, e);
    if (!rc)
        rc = ic_store_turn_read(store, x->id, 0, take_turn, &turns, e);
    if (!rc)
        rc = read_media(x, &media, e);
    if (!rc)
        rc = read_requests(x, e);
    if (!rc)
        rc = read_frames(x, &frames, e);
    if (!rc)
        rc = ic_store_mark_list(store, x->id, take_mark, &marks, e);
    bool whole = marks.count == x->marks && journal.count == RECORDS - COVERED + FRAMES
                 && frames.count == 2 * FRAMES && events.count == RECORDS && turns.count == RECORDS
                 && media.count == RECORDS;
    return rc || whole ? rc : SHORT;
}

/* --- the damage --------------------------------------------------------------------------------
 */

typedef struct table {
    const char *name;
    const char *columns; /* that a checksum covers, or that say where the row belongs */
    struct {
        const char *column;
        int value;
    } place[2]; /* one row of the victim */
} table;

/* Row 5 of 6, number 7 of the journal: the checkpoint covers records 1 to 3, and two frames; how
 * long a log is, nothing but SQLite's own structure says (docs/store-format.md, "Not covered"). */
static const table tables[] = {
    {"session",
     "n id owner title created_us journal_base event_base checkpoint parent config_version "
     "config_sum config sum",
     {{"n", 1}}},
    {"journal", "session number kind time_us key sum payload", {{"session", 1}, {"number", 7}}},
    {"frame",
     "reel number kind time_us sum head bulk_bytes bulk_sum bulk",
     {{"reel", 1}, {"number", 2}}},
    {"frame",
     "reel number kind time_us sum head bulk_bytes bulk_sum bulk",
     {{"reel", 2}, {"number", 9}}},
    {"reel_use", "session first last reel media hold bytes sum", {{"session", 1}, {"reel", 1}}},
    {"reel_use", "session first last reel media hold bytes sum", {{"session", 1}, {"reel", 2}}},
    {"event", "session number kind time_us sum payload", {{"session", 1}, {"number", 5}}},
    {"turn",
     "session number role time_us took_us tokens media parts_version sum text parts",
     {{"session", 1}, {"number", 5}}},
    {"media",
     "session number kind state time_us name bytes mtime_us hash fps frames_seen frames_used "
     "frames_skipped retain notices held held_sum sum times",
     {{"session", 1}, {"number", 5}}},
    {"media_piece", "held piece bytes sum data", {{"n", 5}}},
    {"request",
     "key content session kind state time_us first_event last_event sum result",
     {{"session", 1}, {"time_us", 5000}}},
    {"checkpoint",
     "n format payload_version time_us meaning numerics journal_seq live_bytes sum state",
     {{"n", 1}}},
    {"checkpoint_segment", "checkpoint position segment", {{"checkpoint", 1}, {"position", 1}}},
    {"segment", "n tag codec bytes sum", {{"n", 2}}},
    {"segment_data", "n data", {{"n", 2}}},
    {"mark", "session name copy time_us turn sum", {{"session", 1}, {"turn", 3}}},
};

typedef struct field {
    const table *table;
    char column[32];
    sqlite3_value *sound;
} field;

/* impossible: SQLite itself does not let it in. by_check: a row is gone from where it was looked
 * for; that it was there is what the full check finds out. unread: bits that nobody reads. */
typedef struct tally {
    int tried, impossible, unread, by_check;
} tally;

/* "a = 1 AND b = 5", and for the column that was changed: what it is now (?2). */
static void place_of(const field *f, bool changed, char out[120])
{
    size_t at = 0;
    for (int i = 0; i < 2 && f->table->place[i].column; i++) {
        const char *column = f->table->place[i].column;
        bool now = changed && strcmp(column, f->column) == 0;
        at += (size_t)snprintf(out + at, 120 - at, "%s%s IS ", i ? " AND " : "", column);
        at += now ? (size_t)snprintf(out + at, 120 - at, "?2")
                  : (size_t)snprintf(out + at, 120 - at, "%d", f->table->place[i].value);
    }
}

/* Sets the column; false when SQLite refuses. `now`: what it was changed to before, or NULL. */
static bool set(const field *f, sqlite3_value *value, sqlite3_value *now)
{
    char text[300], place[120];
    sqlite3_stmt *row = NULL;
    place_of(f, now != NULL, place);
    snprintf(text, sizeof text, "UPDATE %s SET %s = ?1 WHERE %s", f->table->name, f->column, place);
    if (sqlite3_prepare_v2(behind, text, -1, &row, NULL) != SQLITE_OK)
        fail_msg("%s: %s", text, sqlite3_errmsg(behind));
    sqlite3_bind_value(row, 1, value);
    if (now && sqlite3_bind_parameter_count(row) > 1)
        sqlite3_bind_value(row, 2, now);
    int rc = sqlite3_step(row);
    sqlite3_finalize(row);
    if (rc == SQLITE_DONE)
        assert_int_equal(sqlite3_changes(behind), 1);
    return rc == SQLITE_DONE;
}

/* A request has a key, and may have no session. */
static bool is_named(const field *f, const char *text)
{
    bool request = strcmp(f->table->name, "request") == 0;
    return strstr(text, victim.id) || (request && strstr(text, "request"));
}

static void try_value(const field *f, sqlite3_value *value, const char *how, int at, tally *t)
{
    ic_error e = {0};
    t->tried++;
    if (!set(f, value, NULL)) {
        t->impossible++;
        return;
    }
    int rc = read_all(&victim, &e);
    if (rc == IC_OK) { /* a number of 32 bits is kept in 64, of which the upper ones are not read */
        t->unread++;
        if (strcmp(how, "bit") != 0 || at < 32)
            fail_msg("%s.%s, %s %d: nothing is said", f->table->name, f->column, how, at);
    } else if (rc == SHORT || rc == IC_ENOTFOUND) { /* it is not where it is looked for */
        ic_error found = {0};
        t->by_check++;
        if (ic_store_check(store, &found) == IC_OK)
            fail_msg("%s.%s, %s %d: the check finds nothing", f->table->name, f->column, how, at);
    } else if ((rc != IC_EFORMAT && rc != IC_EVERSION) || !is_named(f, e.text)) {
        fail_msg("%s.%s, %s %d: %d, %s", f->table->name, f->column, how, at, rc, e.text);
    }
    e = (ic_error){0};
    ic_assert_ok(read_all(&other, &e), &e);
    if (!set(f, f->sound, value))
        fail_msg("%s.%s, %s %d: cannot be taken back: %s", f->table->name, f->column, how, at,
                 sqlite3_errmsg(behind));
}

/* A value of the same type with these bytes, as a column would give it. */
static void try_bytes(const field *f, const void *bytes, size_t size, const char *how, int at,
                      tally *t)
{
    sqlite3_stmt *row = NULL;
    bool text = sqlite3_value_type(f->sound) == SQLITE_TEXT;
    assert_int_equal(sqlite3_prepare_v2(behind, "SELECT ?1", -1, &row, NULL), SQLITE_OK);
    if (text)
        sqlite3_bind_text(row, 1, size ? bytes : "", (int)size, SQLITE_TRANSIENT);
    else
        sqlite3_bind_blob(row, 1, size ? bytes : "", (int)size, SQLITE_TRANSIENT);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    sqlite3_value *value = sqlite3_value_dup(sqlite3_column_value(row, 0));
    sqlite3_finalize(row);
    try_value(f, value, how, at, t);
    sqlite3_value_free(value);
}

static void try_number(const field *f, int64_t bits, int at, tally *t)
{
    sqlite3_stmt *row = NULL;
    double real;
    memcpy(&real, &bits, sizeof real);
    assert_int_equal(sqlite3_prepare_v2(behind, "SELECT ?1", -1, &row, NULL), SQLITE_OK);
    if (sqlite3_value_type(f->sound) == SQLITE_FLOAT)
        sqlite3_bind_double(row, 1, real);
    else
        sqlite3_bind_int64(row, 1, bits);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    sqlite3_value *value = sqlite3_value_dup(sqlite3_column_value(row, 0));
    sqlite3_finalize(row);
    try_value(f, value, "bit", at, t);
    sqlite3_value_free(value);
}

static void damage_bytes(const field *f, tally *t)
{
    size_t size = (size_t)sqlite3_value_bytes(f->sound);
    uint8_t *bytes = malloc(size + 1);
    if (size)
        memcpy(bytes, sqlite3_value_blob(f->sound), size);
    bytes[size] = 'x';
    size_t stride = DAMAGE_DENSE || size < SAMPLES ? 1 : size / SAMPLES;
    for (size_t i = 0; i < size; i += stride) {
        for (int bit = (int)(i % 8); bit < 8; bit += DAMAGE_DENSE ? 1 : 8) {
            bytes[i] ^= (uint8_t)(1u << bit);
            try_bytes(f, bytes, size, "a bit of byte", (int)i, t);
            bytes[i] ^= (uint8_t)(1u << bit);
        }
        try_bytes(f, bytes, i, "cut to", (int)i, t);
    }
    try_bytes(f, bytes, size + 1, "longer by one than", (int)size, t);
    free(bytes);
}

static void damage_number(const field *f, tally *t)
{
    int64_t bits = sqlite3_value_int64(f->sound);
    double real = sqlite3_value_double(f->sound);
    if (sqlite3_value_type(f->sound) == SQLITE_FLOAT)
        memcpy(&bits, &real, sizeof bits);
    for (int bit = 0; bit < 64; bit += DAMAGE_DENSE ? 1 : 9)
        try_number(f, (int64_t)((uint64_t)bits ^ (uint64_t)1 << bit), bit, t);
}

static void damage_field(field *f, tally *t)
{
    char text[300], place[120];
    sqlite3_stmt *row = NULL;
    place_of(f, false, place);
    snprintf(text, sizeof text, "SELECT %s FROM %s WHERE %s", f->column, f->table->name, place);
    assert_int_equal(sqlite3_prepare_v2(behind, text, -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    f->sound = sqlite3_value_dup(sqlite3_column_value(row, 0));
    sqlite3_finalize(row);
    int type = sqlite3_value_type(f->sound);
    if (type == SQLITE_INTEGER || type == SQLITE_FLOAT)
        damage_number(f, t);
    else if (type != SQLITE_NULL)
        damage_bytes(f, t);
    if (type != SQLITE_NULL) {
        sqlite3_value *none = NULL;
        assert_int_equal(sqlite3_prepare_v2(behind, "SELECT NULL", -1, &row, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_step(row), SQLITE_ROW);
        none = sqlite3_value_dup(sqlite3_column_value(row, 0));
        sqlite3_finalize(row);
        try_value(f, none, "nothing in place of", 0, t);
        sqlite3_value_free(none);
    }
    sqlite3_value_free(f->sound);
}

/* Ensures that a damaged field of any table is refused with the name of its session, and that the
 * other session reads as it was written. */
static void test_every_field(void **state)
{
    (void)state;
    ic_error e = {0};
    tally t = {0};
    int count = 0;
    ic_assert_ok(read_all(&victim, &e), &e);
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        field f = {.table = &tables[i]};
        for (const char *at = tables[i].columns; *at; at += strspn(at, " ")) {
            size_t length = strcspn(at, " ");
            snprintf(f.column, sizeof f.column, "%.*s", (int)length, at);
            at += length;
            damage_field(&f, &t);
            count++;
        }
    }
    ic_assert_ok(read_all(&victim, &e), &e);
    ic_assert_ok(ic_store_check(store, &e), &e);
    int read = t.tried - t.impossible - t.unread - t.by_check;
    printf("%d fields, %d damages: %d refused by name when read, %d found by the full check, %d in "
           "bits that nobody reads, %d not let in by SQLite\n",
           count, t.tried, read, t.by_check, t.unread, t.impossible);
    assert_true(t.impossible < t.tried / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_field)};
    return cmocka_run_group_tests(tests, open_store, close_store);
}
