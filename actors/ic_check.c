#include "actors/ic_check.h"

#include "session_store/ic_store.h"

typedef struct tally {
    ic_store *store;
    FILE *out;
    int sessions, marks, damaged;
} tally;

static int tell(void *arg, const ic_store_session *session, int rc, const ic_error *e)
{
    tally *t = arg;
    t->damaged += rc != IC_OK;
    if (!session) {
        if (rc)
            fprintf(t->out, "damaged  the file: %s\n", e->text);
        return 0;
    }
    bool is_mark = !session->owner[0] && session->parent[0] && !rc;
    t->marks += is_mark;
    t->sessions += !is_mark;
    if (rc)
        fprintf(t->out, "damaged  %s: %s\n", session->id, e->text);
    else if (is_mark)
        fprintf(t->out, "ok       %s, mark \"%s\"\n", session->parent, session->title);
    else
        fprintf(t->out, "ok       %s, %lld turns, \"%s\"\n", session->id,
                (long long)session->counters.turns, session->title);
    return 0;
}

int ic_check_store(const char *path, FILE *out, ic_error *e)
{
    tally t = {.out = out};
    int64_t bytes = 0;
    int rc = ic_store_open(&t.store, &(ic_store_config){.path = path, .must_exist = true}, e);
    if (rc)
        return rc;
    rc = ic_store_check_each(t.store, tell, &t, e);
    if (rc == IC_OK)
        rc = ic_store_used_bytes(t.store, &bytes, e);
    ic_store_close(&t.store);
    if (rc)
        return rc;
    fprintf(out, "%s: %d sessions, %d marks, %.1f MB: %s\n", path, t.sessions, t.marks,
            (double)bytes / 1e6, t.damaged ? "DAMAGED" : "ok");
    if (!t.damaged)
        return IC_OK;
    return ic_error_set(e, IC_EFORMAT,
                        "%s is damaged in %d places; docs/operations.md tells the cure", path,
                        t.damaged);
}
