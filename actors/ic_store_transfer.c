#include "actors/ic_store_transfer.h"

#include <string.h>

#include "actors/ic_store_desk_priv.h"
#include "actors/ic_talk_record.h"
#include "base/ic_clock.h"
#include "base/ic_mem.h"

static void discard_transfer(ic_mail *m)
{
    ic_job_transfer *j = (ic_job_transfer *)m;
    ic_mail_discard((ic_mail **)&j->request);
    ic_buf_fini(&j->bytes);
    ic_free(j);
}

/* --- export -------------------------------------------------------------------------------------
 */

/* What the session's bytes would mean here: for one that has no checkpoint to say so. Nothing where
 * its settings are not known here. */
static void meaning_of(ic_store *s, const ic_job_transfer *j, char meaning[33], char label[96],
                       const char *id)
{
    ic_buf bytes = {0};
    ic_talk_config c = {.system = NULL};
    const ic_engine_info *info = ic_engine_info_of(j->engine);
    uint32_t version;
    meaning[0] = label[0] = '\0';
    if (ic_store_session_config(s, id, &version, &bytes, NULL) == IC_OK
        && version == IC_SESSION_CONFIG_VERSION
        && ic_talk_config_decode(&c, bytes.data, bytes.size, NULL) == IC_OK) {
        snprintf(label, 96, "%s", c.model);
        if (strncmp(c.model, info->model_name, sizeof c.model - 1) == 0
            && ic_session_config_check(j->engine, &c.engine, NULL) == IC_OK)
            ic_session_meaning(j->engine, &c.engine, meaning);
    }
    ic_talk_config_fini(&c);
    ic_buf_fini(&bytes);
}

static int begin_export(ic_store *s, ic_job_transfer *j, ic_error *e)
{
    ic_store_session found;
    char meaning[33], label[96];
    const ic_wire_export *m = &j->request->msg.export;
    int rc = ic_store_session_find(s, ic_desk_owner, m->session, &found, e);
    j->ambiguous = rc == IC_EINVAL;
    if (rc)
        return rc;
    memcpy(j->session, found.id, sizeof j->session);
    meaning_of(s, j, meaning, label, found.id);
    return ic_store_export_begin(s, found.id, ic_wire_get(m, export, at, NULL), ic_desk_settle_copy,
                                 meaning, strlen(meaning), label, &j->out, e);
}

static int read_export(ic_job_transfer *j, ic_error *e)
{
    int rc = ic_store_export_read(j->out, (size_t)j->max_bytes, &j->bytes, &j->last, e);
    if (rc || j->last)
        ic_store_export_close(&j->out);
    return rc;
}

/* --- import -------------------------------------------------------------------------------------
 */

static int begin_import(ic_store *s, ic_job_transfer *j, ic_error *e)
{
    ic_store_request known;
    int rc = ic_store_request_find(s, j->key.bytes, j->content, &j->verdict, &known, e);
    if (rc || j->verdict == IC_STORE_CONFLICT || j->verdict == IC_STORE_EXPIRED)
        return rc;
    if (j->verdict == IC_STORE_SAME) {
        memcpy(j->session, known.session, sizeof j->session);
        return IC_OK;
    }
    return ic_store_import_begin(s, j->max_bytes, &j->in, e);
}

/* Whether the session could live here: its settings, and the model its memory is of. */
static int check_head(const ic_job_transfer *j, const ic_store_export_head *h, ic_error *e)
{
    char meaning[33];
    ic_talk_config c = {.system = NULL};
    const ic_engine_info *info = ic_engine_info_of(j->engine);
    bool same_name = strncmp(h->label, info->model_name, sizeof c.model - 1) == 0;
    if (h->config_version != IC_SESSION_CONFIG_VERSION)
        return ic_error_set(e, IC_EVERSION, "the file's session has settings of version %u",
                            h->config_version);
    int rc = ic_talk_config_decode(&c, h->config, h->config_bytes, e);
    if (rc == IC_OK && c.engine.cache_tokens > j->max_cache_tokens)
        rc = ic_error_set(e, IC_ELIMIT,
                          "the file's session remembers %d tokens, which is more than this server "
                          "gives: %d (session.max_cache_tokens)",
                          c.engine.cache_tokens, j->max_cache_tokens);
    if (rc == IC_OK && ic_session_config_check(j->engine, &c.engine, e))
        rc = same_name ? e->code : IC_EMISMATCH;
    if (rc == IC_OK)
        ic_session_meaning(j->engine, &c.engine, meaning);
    bool fits = rc == IC_OK
                && (h->meaning_bytes ? h->meaning_bytes == strlen(meaning)
                                           && memcmp(h->meaning, meaning, h->meaning_bytes) == 0
                                     : same_name);
    if ((rc == IC_OK && !fits) || rc == IC_EMISMATCH)
        rc = ic_error_set(
            e, IC_EMISMATCH,
            "the file's session belongs to model %s (%.*s), this server runs %s (%s): "
            "import it where that model runs with these settings",
            h->label[0] ? h->label : "?", (int)h->meaning_bytes, (const char *)h->meaning,
            info->model_name, rc == IC_OK ? meaning : "other settings");
    ic_talk_config_fini(&c);
    return rc;
}

/* The session and its key in one commit. */
static int adopt(ic_store *s, ic_job_transfer *j, ic_error *e)
{
    ic_store_request known;
    const char *title = j->has_title ? j->title : ic_store_import_head(j->in)->title;
    int rc = ic_store_batch_begin(s, e);
    if (rc)
        return rc;
    rc = ic_store_request_admit(s, j->key.bytes, j->content, IC_WIRE_IMPORT, NULL,
                                ic_clock_wall_us(), &j->verdict, &known, e);
    if (rc == IC_OK && j->verdict == IC_STORE_SAME) /* another transfer came first */
        memcpy(j->session, known.session, sizeof j->session);
    if (rc == IC_OK && j->verdict == IC_STORE_NEW) {
        rc = ic_store_import_adopt(j->in, ic_desk_owner, title, j->session, e);
        if (rc == IC_OK)
            rc = ic_store_request_update(s, j->key.bytes, IC_STORE_DONE, j->session, 0, 0, NULL, 0,
                                         e);
        if (rc == IC_OK)
            return ic_store_batch_commit(s, e);
    }
    ic_store_batch_rollback(s);
    return rc;
}

static int put_import(ic_store *s, ic_job_transfer *j, ic_error *e)
{
    bool had_head = ic_store_import_head(j->in) != NULL;
    int rc = ic_store_import_put(j->in, j->bytes.data, j->bytes.size, e);
    const ic_store_export_head *head = rc ? NULL : ic_store_import_head(j->in);
    if (head && !had_head)
        rc = check_head(j, head, e);
    if (rc == IC_OK && j->last)
        rc = ic_store_import_complete(j->in, e);
    if (rc == IC_OK && j->last)
        rc = adopt(s, j, e);
    if (rc || j->last)
        ic_store_import_close(&j->in, rc == IC_OK && j->verdict == IC_STORE_NEW);
    return rc;
}

/* --- the job ------------------------------------------------------------------------------------
 */

static int run_transfer(ic_store *s, ic_store_job *job, ic_error *e)
{
    ic_job_transfer *j = (ic_job_transfer *)job;
    switch (j->op) {
    case IC_TRANSFER_EXPORT:
        return begin_export(s, j, e);
    case IC_TRANSFER_FETCH:
        return read_export(j, e);
    case IC_TRANSFER_IMPORT:
        return begin_import(s, j, e);
    case IC_TRANSFER_PUT:
        return put_import(s, j, e);
    case IC_TRANSFER_CLOSE:
        ic_store_export_close(&j->out);
        ic_store_import_close(&j->in, false);
        return IC_OK;
    }
    return IC_EBUG;
}

ic_job_transfer *ic_job_transfer_new(ic_transfer_op op, uint64_t number,
                                     ic_mail_request **request_p, ic_port *reply, int tag)
{
    ic_job_transfer *j = ic_mail_new(IC_MAIL_STORE_JOB, sizeof *j, discard_transfer);
    j->job.run = run_transfer;
    j->job.reply = reply;
    j->job.tag = tag;
    j->op = op;
    j->number = number;
    j->verdict = IC_STORE_NEW;
    if (request_p) {
        j->request = *request_p;
        *request_p = NULL;
    }
    return j;
}
