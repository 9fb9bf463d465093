/* Checkpoints: segments enter unreferenced, each in a transaction of its own; the manifest's swap
 * is one small transaction that also trims the journal and drops what nothing refers to any more.
 * Segments belong to whichever checkpoints list them, checkpoints to whichever sessions and marks
 * point at them: so a fork is a row, not a copy. */
#include "session_store/ic_store_priv.h"

#include <string.h>

#include "base/ic_assert.h"
#include "base/ic_failpoint.h"
#include "base/ic_mem.h"

enum { MANIFEST_FORMAT = 1, CODEC_RAW = 0, SUM_BYTES = IC_STORE_KEY_BYTES };

struct ic_store_writer {
    ic_store *store;
    ic_store_writer *next;
    char id[IC_STORE_ID_CHARS + 1];
    int64_t n;
    ic_buf added; /* numbers of the segments that entered, as int64 */
};

struct ic_store_reader {
    ic_store *store;
    char id[IC_STORE_ID_CHARS + 1];
    int64_t n; /* of the checkpoint */
    ic_store_manifest manifest;
    char numerics[IC_STORE_NUMERICS_MAX + 1];
    uint8_t meaning[IC_STORE_FINGERPRINT_MAX];
    uint8_t *state;
    ic_store_segment *segments;
    uint8_t (*sums)[SUM_BYTES]; /* beside segments */
};

/* ---- what a manifest's checksum covers ------------------------------------------------------ */

static void hash_head(ic_buf *b, const ic_store_manifest *m)
{
    uint8_t state[SUM_BYTES];
    ic_buf_u32(b, MANIFEST_FORMAT);
    ic_buf_u32(b, m->payload_version);
    ic_buf_u64(b, (uint64_t)m->time_us);
    ic_buf_u64(b, (uint64_t)m->journal_seq);
    ic_buf_u64(b, (uint64_t)m->live_bytes);
    ic_buf_blob(b, m->meaning, (uint32_t)m->meaning_bytes);
    ic_buf_blob(b, m->numerics, (uint32_t)strlen(m->numerics));
    ic_buf_u64(b, m->state_bytes);
    ic_store_hash(m->state, m->state_bytes, state);
    ic_buf_append(b, state, sizeof state);
}

static void hash_segment(ic_buf *b, const ic_store_segment *g, const uint8_t sum[SUM_BYTES])
{
    ic_buf_u64(b, (uint64_t)g->number);
    ic_buf_u32(b, g->tag);
    ic_buf_u32(b, CODEC_RAW);
    ic_buf_u64(b, (uint64_t)g->bytes);
    ic_buf_append(b, sum, SUM_BYTES);
}

/* ---- writing ----------------------------------------------------------------------------------
 */

int ic_store_checkpoint_begin(ic_store *s, const char *id, ic_store_writer **w_p, ic_error *e)
{
    int64_t n;
    *w_p = NULL;
    int rc = ic_store_no_batch(s, "a checkpoint", e);
    if (!rc)
        rc = ic_store_session_row(s, id, &n, e);
    if (rc)
        return rc;
    for (const ic_store_writer *w = s->writers; w; w = w->next)
        if (w->n == n)
            return ic_error_set(e, IC_EBUSY, "session %s: a checkpoint is being written already",
                                id);
    ic_failpoint(IC_FAIL_checkpoint_begin);
    ic_store_writer *w = ic_alloc(sizeof *w);
    w->store = s;
    w->n = n;
    memcpy(w->id, id, sizeof w->id);
    ic_buf_init(&w->added, 0);
    w->next = s->writers;
    s->writers = w;
    *w_p = w;
    return IC_OK;
}

static int add_segment(ic_store *s, uint32_t tag, const void *bytes, size_t size, int64_t *number,
                       ic_error *e)
{
    uint8_t sum[SUM_BYTES];
    ic_store_hash(bytes, size, sum);
    int rc =
        ic_store_do(s, IC_SQL_SEGMENT_ADD, e, "iib", (int64_t)tag, (int64_t)size, sum, sizeof sum);
    *number = sqlite3_last_insert_rowid(s->db);
    return rc ? rc : ic_store_do(s, IC_SQL_SEGMENT_ADD_DATA, e, "ib", *number, bytes, size);
}

int ic_store_checkpoint_segment(ic_store_writer *w, uint32_t tag, const void *bytes, size_t size,
                                ic_store_segment *out, ic_error *e)
{
    ic_store *s = w->store;
    int64_t number = 0;
    if (size == 0 || size > IC_STORE_SEGMENT_MAX)
        return ic_error_set(e, IC_ELIMIT, "a segment of %zu bytes: 1 to %d are allowed", size,
                            IC_STORE_SEGMENT_MAX);
    int rc = ic_store_no_batch(s, "adding a segment", e);
    if (!rc && ic_buf_reserve(&w->added, sizeof number) != IC_OK)
        rc = ic_error_set(e, IC_ENOMEM, "store: no memory for a checkpoint's list");
    if (!rc)
        rc = ic_store_begin(s, e);
    if (rc)
        return rc;
    rc = add_segment(s, tag, bytes, size, &number, e);
    rc = ic_store_end(s, rc, e);
    if (rc)
        return rc;
    ic_failpoint(IC_FAIL_checkpoint_segment);
    ic_buf_u64(&w->added, (uint64_t)number);
    if (out)
        *out = (ic_store_segment){.number = number, .tag = tag, .bytes = (int64_t)size};
    ic_store_move_log(s, IC_STORE_WAL_SOON, NULL);
    return IC_OK;
}

static void unlink_writer(ic_store_writer *w)
{
    ic_store_writer **at = &w->store->writers;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    ic_buf_fini(&w->added);
    ic_free(w);
}

void ic_store_forget_writers(ic_store *s)
{
    while (s->writers)
        unlink_writer(s->writers);
}

static bool is_added(const ic_store_writer *w, int64_t number)
{
    ic_cursor c;
    ic_cursor_init(&c, w->added.data, w->added.size);
    while (ic_cursor_left(&c) > 0)
        if ((int64_t)ic_cursor_u64(&c) == number)
            return true;
    return false;
}

/* Drops the writer's segments that no checkpoint lists (all of them after an abort). */
static int drop_added(ic_store_writer *w, int64_t checkpoint, ic_error *e)
{
    ic_store *s = w->store;
    ic_cursor c;
    int rc = IC_OK;
    ic_cursor_init(&c, w->added.data, w->added.size);
    while (!rc && ic_cursor_left(&c) > 0) {
        int64_t number = (int64_t)ic_cursor_u64(&c);
        sqlite3_stmt *row = ic_store_query(s, IC_SQL_SEGMENT_IN, e, "ii", number, checkpoint);
        rc = ic_store_step(s, row, e);
        if (rc == 1) {
            ic_store_done(row);
            rc = IC_OK;
        } else if (rc == 0) {
            rc = ic_store_do(s, IC_SQL_SEGMENT_DELETE_DATA, e, "i", number);
            if (!rc)
                rc = ic_store_do(s, IC_SQL_SEGMENT_DELETE, e, "i", number);
        }
    }
    return rc;
}

void ic_store_checkpoint_abort(ic_store_writer **w_p)
{
    ic_store_writer *w = *w_p;
    if (!w)
        return;
    *w_p = NULL;
    ic_store *s = w->store;
    /* Whatever fails to go now is swept when the store is opened next. */
    if (!s->in_batch && ic_store_begin(s, NULL) == IC_OK)
        ic_store_end(s, drop_added(w, 0, NULL), NULL);
    unlink_writer(w);
}

static int check_manifest(const ic_store_manifest *m, ic_error *e)
{
    if (m->meaning_bytes > IC_STORE_FINGERPRINT_MAX || !m->numerics
        || strlen(m->numerics) > IC_STORE_NUMERICS_MAX)
        return ic_error_set(e, IC_EINVAL,
                            "a checkpoint's fingerprint (%zu bytes) or numerics id "
                            "is too long or missing",
                            m->meaning_bytes);
    if (m->state_bytes > IC_STORE_SEGMENT_MAX)
        return ic_error_set(e, IC_ELIMIT,
                            "a checkpoint's state of %zu bytes: at most %d; put "
                            "larger tables into segments",
                            m->state_bytes, IC_STORE_SEGMENT_MAX);
    if (m->journal_seq < 0 || m->live_bytes < 0)
        return ic_error_set(e, IC_EINVAL, "a checkpoint's counts may not be negative");
    return IC_OK;
}

/* Looks a listed segment up; it must be the writer's own or kept of the former checkpoint. */
static int take_segment(const ic_store_writer *w, int64_t former, int64_t number,
                        ic_store_segment *g, uint8_t sum[SUM_BYTES], ic_error *e)
{
    ic_store *s = w->store;
    bool known = is_added(w, number);
    if (!known && former) {
        sqlite3_stmt *row = ic_store_query(s, IC_SQL_SEGMENT_IN, e, "ii", number, former);
        int rc = ic_store_step(s, row, e);
        if (rc < 0)
            return rc;
        known = rc == 1;
        if (rc == 1)
            ic_store_done(row);
    }
    if (!known)
        return ic_error_set(e, IC_EINVAL,
                            "session %s: segment %lld is neither new nor of its "
                            "present checkpoint",
                            w->id, (long long)number);
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_SEGMENT_GET, e, "i", number);
    int rc = ic_store_step(s, row, e);
    if (rc < 0)
        return rc;
    if (rc == 0 || sqlite3_column_bytes(row, 3) != SUM_BYTES) {
        ic_store_done(row);
        return ic_error_set(e, IC_EFORMAT, "session %s: segment %lld is missing or damaged", w->id,
                            (long long)number);
    }
    g->number = number;
    g->tag = (uint32_t)sqlite3_column_int64(row, 0);
    g->bytes = sqlite3_column_int64(row, 2);
    memcpy(sum, sqlite3_column_blob(row, 3), SUM_BYTES);
    ic_store_done(row);
    return IC_OK;
}

/* The checksum over the whole manifest, and each listed segment's place in it. */
static int sum_manifest(const ic_store_writer *w, const ic_store_manifest *m, int64_t former,
                        uint8_t sum[SUM_BYTES], ic_error *e)
{
    ic_buf b;
    ic_store_segment g = {0};
    uint8_t own[SUM_BYTES];
    int rc = IC_OK;
    ic_buf_init(&b, 0);
    hash_head(&b, m);
    for (size_t i = 0; i < m->segment_count && !rc; i++) {
        rc = take_segment(w, former, m->segments[i].number, &g, own, e);
        if (!rc)
            hash_segment(&b, &g, own);
    }
    if (!rc && b.status)
        rc = ic_error_set(e, b.status, "store: no memory for a checkpoint's manifest");
    if (!rc)
        ic_store_hash(b.data, b.size, sum);
    ic_buf_fini(&b);
    return rc;
}

static int write_manifest(ic_store *s, const ic_store_manifest *m, const uint8_t sum[SUM_BYTES],
                          int64_t *checkpoint, ic_error *e)
{
    int rc = ic_store_do(s, IC_SQL_CHECKPOINT_ADD, e, "iiibtiibb", (int64_t)MANIFEST_FORMAT,
                         (int64_t)m->payload_version, m->time_us, m->meaning, m->meaning_bytes,
                         m->numerics, m->journal_seq, m->live_bytes, sum, (size_t)SUM_BYTES,
                         m->state, m->state_bytes);
    *checkpoint = sqlite3_last_insert_rowid(s->db);
    for (size_t i = 0; i < m->segment_count && !rc; i++)
        rc = ic_store_do(s, IC_SQL_CHECKPOINT_ADD_SEGMENT, e, "iii", *checkpoint, (int64_t)i,
                         m->segments[i].number);
    return rc;
}

/* The swap, inside its transaction. */
static int swap_manifest(ic_store_writer *w, const ic_store_manifest *m, ic_error *e)
{
    ic_store *s = w->store;
    int64_t n, former, last, checkpoint;
    uint8_t sum[SUM_BYTES];
    int rc = ic_store_session_row(s, w->id, &n, e);
    if (!rc)
        rc = ic_store_get_int(s, IC_SQL_SESSION_CHECKPOINT, n, 0, &former, e);
    if (!rc)
        rc = ic_store_get_int(s, IC_SQL_JOURNAL_LAST, n, 0, &last, e);
    if (!rc && m->journal_seq > last) {
        /* Everything may have been trimmed already: then the base is the last number. */
        ic_store_session session;
        rc = ic_store_session_get(s, w->id, &session, e);
        if (!rc && m->journal_seq >= session.journal_next)
            rc =
                ic_error_set(e, IC_EINVAL,
                             "session %s: a checkpoint up to journal record %lld, "
                             "but the last one is %lld",
                             w->id, (long long)m->journal_seq, (long long)session.journal_next - 1);
    }
    if (!rc)
        rc = sum_manifest(w, m, former, sum, e);
    if (!rc)
        rc = write_manifest(s, m, sum, &checkpoint, e);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_SESSION_SET_CHECKPOINT, e, "iii", n, checkpoint, m->journal_seq);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_JOURNAL_TRIM, e, "ii", n, m->journal_seq);
    if (!rc)
        rc = ic_store_frame_trim(s, n, m->journal_seq, e);
    if (!rc)
        rc = drop_added(w, checkpoint, e);
    if (!rc)
        rc = ic_store_checkpoint_release(s, former, e);
    return rc;
}

int ic_store_checkpoint_finish(ic_store_writer **w_p, const ic_store_manifest *manifest,
                               ic_error *e)
{
    ic_store_writer *w = *w_p;
    ic_store *s = w->store;
    int rc = ic_store_no_batch(s, "finishing a checkpoint", e);
    if (!rc)
        rc = check_manifest(manifest, e);
    if (!rc)
        rc = ic_store_begin(s, e);
    if (!rc) {
        rc = swap_manifest(w, manifest, e);
        ic_failpoint(IC_FAIL_checkpoint_manifest);
        rc = ic_store_end(s, rc, e);
        ic_failpoint(IC_FAIL_checkpoint_commit);
    }
    if (rc) {
        ic_store_checkpoint_abort(w_p);
        return rc;
    }
    *w_p = NULL;
    unlink_writer(w);
    ic_store_move_log(s, IC_STORE_WAL_SOON, NULL);
    return IC_OK;
}

int ic_store_checkpoint_release(ic_store *s, int64_t checkpoint, ic_error *e)
{
    static const enum ic_store_sql steps[] = {IC_SQL_CHECKPOINT_DROP_DATA,
                                              IC_SQL_CHECKPOINT_DROP_SEGMENTS,
                                              IC_SQL_CHECKPOINT_DROP_LINKS, IC_SQL_CHECKPOINT_DROP};
    int64_t uses;
    if (checkpoint == 0)
        return IC_OK;
    int rc = ic_store_get_int(s, IC_SQL_CHECKPOINT_USES, checkpoint, 0, &uses, e);
    if (rc || uses > 0)
        return rc;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && !rc; i++)
        rc = ic_store_do(s, steps[i], e, "i", checkpoint);
    return rc;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static int bad_manifest(const ic_store_reader *r, const char *why, ic_error *e)
{
    return ic_error_set(e, IC_EFORMAT, "session %s: its checkpoint is damaged: %s", r->id, why);
}

static int copy_state(ic_store_reader *r, sqlite3_stmt *row, int column, ic_error *e)
{
    size_t size = (size_t)sqlite3_column_bytes(row, column);
    r->state = ic_try_alloc(size);
    if (!r->state)
        return ic_error_set(e, IC_ENOMEM, "session %s: no memory for %zu bytes of state", r->id,
                            size);
    if (size)
        memcpy(r->state, sqlite3_column_blob(row, column), size);
    r->manifest.state = r->state;
    r->manifest.state_bytes = size;
    return IC_OK;
}

/* Reads the manifest's own row; sum gets the checksum that was stored. */
static int read_head(ic_store_reader *r, uint8_t sum[SUM_BYTES], ic_error *e)
{
    ic_store *s = r->store;
    ic_store_manifest *m = &r->manifest;
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_CHECKPOINT_GET, e, "i", r->n);
    int rc = ic_store_step(s, row, e);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return bad_manifest(r, "its manifest is missing", e);
    int64_t format = sqlite3_column_int64(row, 0);
    m->payload_version = (uint32_t)sqlite3_column_int64(row, 1);
    m->time_us = sqlite3_column_int64(row, 2);
    m->meaning_bytes = (size_t)sqlite3_column_bytes(row, 3);
    ic_store_copy_text(r->numerics, sizeof r->numerics, row, 4);
    m->numerics = r->numerics;
    m->meaning = r->meaning;
    m->journal_seq = sqlite3_column_int64(row, 5);
    m->live_bytes = sqlite3_column_int64(row, 6);
    if (format > MANIFEST_FORMAT) {
        rc = ic_error_set(e, IC_EVERSION,
                          "session %s: its checkpoint has format %lld, this build "
                          "reads up to %d; run the newer infchat",
                          r->id, (long long)format, MANIFEST_FORMAT);
    } else if (format < MANIFEST_FORMAT || m->meaning_bytes > sizeof r->meaning
               || sqlite3_column_bytes(row, 7) != SUM_BYTES) {
        rc = bad_manifest(r, "its manifest does not verify", e);
    } else {
        if (m->meaning_bytes)
            memcpy(r->meaning, sqlite3_column_blob(row, 3), m->meaning_bytes);
        memcpy(sum, sqlite3_column_blob(row, 7), SUM_BYTES);
        rc = copy_state(r, row, 8, e);
    }
    ic_store_done(row);
    return rc;
}

static int grow_segments(ic_store_reader *r, size_t capacity, ic_error *e)
{
    ic_store_segment *segments = ic_try_calloc(capacity, sizeof *segments);
    uint8_t(*sums)[SUM_BYTES] = ic_try_calloc(capacity, SUM_BYTES);
    if (!segments || !sums) {
        ic_free(segments);
        ic_free(sums);
        return ic_error_set(e, IC_ENOMEM, "session %s: no memory for a list of segments", r->id);
    }
    if (r->manifest.segment_count) {
        memcpy(segments, r->segments, r->manifest.segment_count * sizeof *segments);
        memcpy(sums, r->sums, r->manifest.segment_count * SUM_BYTES);
    }
    ic_free(r->segments);
    ic_free(r->sums);
    r->segments = segments;
    r->sums = sums;
    r->manifest.segments = segments;
    return IC_OK;
}

static int read_link(ic_store_reader *r, sqlite3_stmt *row, ic_error *e)
{
    size_t i = r->manifest.segment_count;
    int64_t codec = sqlite3_column_int64(row, 3);
    int64_t bytes = sqlite3_column_int64(row, 4);
    if (sqlite3_column_int64(row, 0) != (int64_t)i || sqlite3_column_bytes(row, 5) != SUM_BYTES
        || bytes < 1 || bytes > IC_STORE_SEGMENT_MAX)
        return bad_manifest(r, "a segment is missing from its list", e);
    if (codec != CODEC_RAW)
        return ic_error_set(e, IC_EVERSION,
                            "session %s: a segment is encoded in way %lld, which "
                            "this build does not read; run the newer infchat",
                            r->id, (long long)codec);
    r->segments[i].number = sqlite3_column_int64(row, 1);
    r->segments[i].tag = (uint32_t)sqlite3_column_int64(row, 2);
    r->segments[i].bytes = bytes;
    memcpy(r->sums[i], sqlite3_column_blob(row, 5), SUM_BYTES);
    r->manifest.segment_count++;
    r->manifest.segment_bytes += bytes;
    return IC_OK;
}

static int read_links(ic_store_reader *r, ic_error *e)
{
    ic_store *s = r->store;
    size_t capacity = 0;
    sqlite3_stmt *row = ic_store_query(s, IC_SQL_CHECKPOINT_SEGMENTS, e, "i", r->n);
    int rc;
    while ((rc = ic_store_step(s, row, e)) == 1) {
        rc = IC_OK;
        if (r->manifest.segment_count == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            rc = grow_segments(r, capacity, e);
        }
        if (!rc)
            rc = read_link(r, row, e);
        if (rc) {
            ic_store_done(row);
            return rc;
        }
    }
    return rc;
}

static int verify_manifest(const ic_store_reader *r, const uint8_t stored[SUM_BYTES], ic_error *e)
{
    ic_buf b;
    uint8_t sum[SUM_BYTES];
    ic_buf_init(&b, 0);
    hash_head(&b, &r->manifest);
    for (size_t i = 0; i < r->manifest.segment_count; i++)
        hash_segment(&b, &r->segments[i], r->sums[i]);
    int rc = b.status;
    if (rc) {
        ic_error_set(e, rc, "session %s: no memory to verify its checkpoint", r->id);
    } else {
        ic_store_hash(b.data, b.size, sum);
        if (memcmp(sum, stored, SUM_BYTES) != 0)
            rc = bad_manifest(r, "its manifest does not verify", e);
    }
    ic_buf_fini(&b);
    return rc;
}

int ic_store_checkpoint_open(ic_store *s, const char *id, ic_store_reader **r_p, ic_error *e)
{
    int64_t n, checkpoint;
    uint8_t sum[SUM_BYTES];
    *r_p = NULL;
    int rc = ic_store_session_row(s, id, &n, e);
    if (!rc)
        rc = ic_store_get_int(s, IC_SQL_SESSION_CHECKPOINT, n, 0, &checkpoint, e);
    if (!rc && checkpoint == 0)
        rc = ic_error_set(e, IC_ENOTFOUND, "session %s has no checkpoint", id);
    if (rc)
        return rc;
    ic_store_reader *r = ic_alloc(sizeof *r);
    r->store = s;
    r->n = checkpoint;
    memcpy(r->id, id, sizeof r->id);
    rc = read_head(r, sum, e);
    if (!rc)
        rc = read_links(r, e);
    if (!rc)
        rc = verify_manifest(r, sum, e);
    if (rc)
        ic_store_checkpoint_close(&r);
    *r_p = r;
    return rc;
}

const ic_store_manifest *ic_store_checkpoint_manifest(const ic_store_reader *r)
{
    return &r->manifest;
}

/* The blob is closed at once: one that stays open would keep the log from being reused. */
static int read_data(ic_store_reader *r, const ic_store_segment *g, void *buffer, ic_error *e)
{
    ic_store *s = r->store;
    sqlite3_blob *blob = NULL;
    int rc = sqlite3_blob_open(s->db, "main", "segment_data", "data", g->number, 0, &blob);
    if (rc == SQLITE_ERROR) { /* no such row */
        sqlite3_blob_close(blob);
        return ic_error_set(e, IC_ENOTFOUND,
                            "session %s: segment %lld is gone: a newer checkpoint "
                            "took its place",
                            r->id, (long long)g->number);
    }
    if (rc == SQLITE_OK && sqlite3_blob_bytes(blob) != g->bytes) {
        sqlite3_blob_close(blob);
        return bad_manifest(r, "a segment has another length", e);
    }
    if (rc == SQLITE_OK)
        rc = sqlite3_blob_read(blob, buffer, (int)g->bytes, 0);
    rc = rc == SQLITE_OK ? IC_OK : ic_store_fail(s, rc, e, "read a segment");
    sqlite3_blob_close(blob);
    return rc;
}

int ic_store_checkpoint_read(ic_store_reader *r, size_t index, void *buffer, ic_error *e)
{
    uint8_t sum[SUM_BYTES];
    IC_ASSERT(index < r->manifest.segment_count);
    const ic_store_segment *g = &r->segments[index];
    int rc = read_data(r, g, buffer, e);
    if (rc)
        return rc;
    ic_store_hash(buffer, (size_t)g->bytes, sum);
    if (memcmp(sum, r->sums[index], SUM_BYTES) == 0)
        return IC_OK;
    return ic_error_set(e, IC_EFORMAT,
                        "session %s: segment %lld (%zu of %zu) of its checkpoint is "
                        "damaged",
                        r->id, (long long)g->number, index + 1, r->manifest.segment_count);
}

int ic_store_checkpoint_verify(ic_store_reader *r, ic_error *e)
{
    int rc = IC_OK;
    void *buffer = ic_try_alloc(IC_STORE_SEGMENT_MAX);
    if (!buffer)
        return ic_error_set(e, IC_ENOMEM, "store: no memory to verify a checkpoint");
    for (size_t i = 0; i < r->manifest.segment_count && !rc; i++)
        rc = ic_store_checkpoint_read(r, i, buffer, e);
    ic_free(buffer);
    return rc;
}

void ic_store_checkpoint_close(ic_store_reader **r_p)
{
    ic_store_reader *r = *r_p;
    if (!r)
        return;
    *r_p = NULL;
    ic_free(r->state);
    ic_free(r->segments);
    ic_free(r->sums);
    ic_free(r);
}
