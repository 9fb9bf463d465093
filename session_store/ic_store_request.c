/* Requests by key: each is carried out once, however often it is sent. */
#include "session_store/ic_store_priv.h"

#include <string.h>

#include <xxhash.h>

#include "base/ic_clock.h"
#include "base/ic_failpoint.h"

enum { RESULT_MAX = 64 * 1024 };

void ic_store_hash(const void *bytes, size_t size, uint8_t hash[IC_STORE_KEY_BYTES])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, size));
    memcpy(hash, canonical.digest, IC_STORE_KEY_BYTES);
}

/* Fills out from a row; result bytes are copied behind the handle. */
static int read_request(ic_store *s, sqlite3_stmt *row, ic_store_request *out, ic_error *e)
{
    memset(out, 0, sizeof *out);
    if (sqlite3_column_bytes(row, 0) != IC_STORE_KEY_BYTES
        || sqlite3_column_bytes(row, 1) != IC_STORE_KEY_BYTES || !sqlite3_column_int(row, 9))
        return ic_error_set(e, IC_EFORMAT, "store %s: the record of a request is damaged", s->path);
    memcpy(out->key, sqlite3_column_blob(row, 0), IC_STORE_KEY_BYTES);
    memcpy(out->content, sqlite3_column_blob(row, 1), IC_STORE_KEY_BYTES);
    ic_store_copy_text(out->session, sizeof out->session, row, 2);
    out->kind = (uint32_t)sqlite3_column_int64(row, 3);
    out->state = (ic_store_request_state)sqlite3_column_int64(row, 4);
    out->time_us = sqlite3_column_int64(row, 5);
    out->first_event = sqlite3_column_int64(row, 6);
    out->last_event = sqlite3_column_int64(row, 7);
    if (sqlite3_column_type(row, 8) == SQLITE_NULL)
        return IC_OK;
    ic_buf_clear(&s->result);
    out->result_bytes = (size_t)sqlite3_column_bytes(row, 8);
    int rc = ic_buf_append(&s->result, sqlite3_column_blob(row, 8), out->result_bytes);
    out->result = out->result_bytes ? (const void *)s->result.data : "";
    return rc ? ic_error_set(e, rc, "store: no memory for a request's result") : IC_OK;
}

/* 1: found; 0: not; negative: error. */
static int look_up(ic_store *s, const uint8_t *key, ic_store_request *out, ic_error *e)
{
    sqlite3_stmt *row =
        ic_store_query(s, IC_SQL_REQUEST_GET, e, "b", key, (size_t)IC_STORE_KEY_BYTES);
    int rc = ic_store_step(s, row, e);
    if (rc != 1)
        return rc;
    rc = read_request(s, row, out, e);
    ic_store_done(row);
    return rc ? rc : 1;
}

int ic_store_request_find(ic_store *s, const uint8_t key[IC_STORE_KEY_BYTES],
                          const uint8_t content[IC_STORE_KEY_BYTES], ic_store_verdict *verdict,
                          ic_store_request *out, ic_error *e)
{
    ic_store_request known;
    int rc = look_up(s, key, &known, e);
    if (rc < 0)
        return rc;
    *verdict = IC_STORE_NEW;
    if (rc == 1) {
        bool same = memcmp(known.content, content, IC_STORE_KEY_BYTES) == 0;
        bool gone = known.state == IC_STORE_GONE;
        *verdict = !same ? IC_STORE_CONFLICT : gone ? IC_STORE_EXPIRED : IC_STORE_SAME;
        if (out)
            *out = known;
    }
    return IC_OK;
}

int ic_store_request_admit(ic_store *s, const uint8_t key[IC_STORE_KEY_BYTES],
                           const uint8_t content[IC_STORE_KEY_BYTES], uint32_t kind,
                           const char *session, int64_t time_us, ic_store_verdict *verdict,
                           ic_store_request *out, ic_error *e)
{
    int64_t n;
    size_t size = IC_STORE_KEY_BYTES;
    int rc = ic_store_request_find(s, key, content, verdict, out, e);
    if (rc || *verdict != IC_STORE_NEW)
        return rc;
    if (session && session[0])
        rc = ic_store_session_row(s, session, &n, e);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_REQUEST_ADD, e, "bbtiii", key, size, content, size, session,
                         (int64_t)kind, (int64_t)IC_STORE_PENDING, time_us);
    ic_failpoint(IC_FAIL_request_admit);
    if (!rc && out) {
        *out = (ic_store_request){.kind = kind, .state = IC_STORE_PENDING, .time_us = time_us};
        memcpy(out->key, key, size);
        memcpy(out->content, content, size);
        if (session && session[0])
            memcpy(out->session, session, sizeof out->session);
    }
    return rc;
}

int ic_store_request_update(ic_store *s, const uint8_t key[IC_STORE_KEY_BYTES],
                            ic_store_request_state state, const char *session, int64_t first_event,
                            int64_t last_event, const void *result, size_t result_bytes,
                            ic_error *e)
{
    int64_t n;
    if (result_bytes > RESULT_MAX)
        return ic_error_set(e, IC_ELIMIT,
                            "a request's result of %zu bytes is too large: at most "
                            "%d",
                            result_bytes, RESULT_MAX);
    int rc = ic_store_begin(s, e);
    if (rc)
        return rc;
    if (session && session[0])
        rc = ic_store_session_row(s, session, &n, e);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_REQUEST_SET, e, "bitiiB", key, (size_t)IC_STORE_KEY_BYTES,
                         (int64_t)state, session, first_event, last_event, result, result_bytes);
    if (!rc && sqlite3_changes(s->db) == 0)
        rc = ic_error_set(e, IC_ENOTFOUND,
                          "this request key was never admitted, or its record is "
                          "damaged");
    if (!rc)
        rc = ic_store_do(s, IC_SQL_REQUEST_SEAL, e, "b", key, (size_t)IC_STORE_KEY_BYTES);
    return ic_store_end(s, rc, e);
}

int ic_store_request_pending(ic_store *s, const char *session, ic_store_request_fn *fn, void *arg,
                             ic_error *e)
{
    int64_t n = 0;
    ic_store_request request;
    int rc = session ? ic_store_session_row(s, session, &n, e) : IC_OK;
    if (rc)
        return rc;
    sqlite3_stmt *row = session ? ic_store_query(s, IC_SQL_REQUEST_PENDING_SESSION, e, "i", n)
                                : ic_store_query(s, IC_SQL_REQUEST_PENDING, e, "");
    while ((rc = ic_store_step(s, row, e)) == 1) {
        rc = read_request(s, row, &request, e);
        if (!rc)
            rc = fn(arg, &request);
        if (rc) {
            ic_store_done(row);
            return rc < 0 ? rc : IC_OK;
        }
    }
    return rc;
}

int ic_store_request_expire(ic_store *s, int64_t keep_us, int64_t forget_us, ic_error *e)
{
    int64_t now_us = ic_clock_wall_us();
    int rc = ic_store_begin(s, e);
    if (rc)
        return rc;
    rc = ic_store_do(s, IC_SQL_REQUEST_BURY, e, "i", now_us - keep_us);
    if (!rc)
        rc = ic_store_do(s, IC_SQL_REQUEST_FORGET, e, "i", now_us - forget_us);
    return ic_store_end(s, rc, e);
}
