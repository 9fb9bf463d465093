#include "actors/ic_identity.h"

#include <string.h>

typedef struct reading {
    ic_identity *id;
    const ic_media_file_info *info;
    const ic_identity *expected;
    ic_identity_tick_fn *tick;
    void *user;
    ic_error why;
    bool begun;
} reading;

static int check_first(reading *r)
{
    const ic_identity *was = r->expected;
    r->begun = true;
    if (was && was->bytes != r->info->bytes)
        return ic_error_set(&r->why, IC_EMISMATCH,
                            "the file has changed since it was watched: it had %lld bytes and has "
                            "%lld",
                            (long long)was->bytes, (long long)r->info->bytes);
    if (was && was->mtime_us != r->info->mtime_us)
        return ic_error_set(&r->why, IC_EMISMATCH,
                            "the file has changed since it was watched: its time of change is "
                            "another");
    return IC_OK;
}

static int take_piece(void *user, const uint8_t *bytes, size_t size)
{
    reading *r = user;
    uint8_t both[2 * IC_STORE_KEY_BYTES];
    int rc = r->begun ? IC_OK : check_first(r);
    if (!rc && r->tick)
        rc = r->tick(r->user);
    memcpy(both, r->id->hash, IC_STORE_KEY_BYTES);
    ic_store_hash(bytes, size, both + IC_STORE_KEY_BYTES);
    ic_store_hash(both, sizeof both, r->id->hash);
    return rc;
}

int ic_identity_read(ic_identity *id, const ic_media_source *src, const ic_identity *expected,
                     ic_identity_tick_fn *tick, void *user, ic_error *e)
{
    ic_media_file_info info = {.bytes = 0};
    reading r = {.id = id, .info = &info, .expected = expected, .tick = tick, .user = user};
    *id = (ic_identity){.known = false};
    int rc = ic_media_file_read(src, &info, take_piece, &r, e);
    if (rc && r.why.code)
        return ic_error_set(e, rc, "%s", r.why.text);
    if (rc)
        return rc;
    id->bytes = info.bytes;
    id->mtime_us = info.mtime_us;
    if (expected && memcmp(id->hash, expected->hash, sizeof id->hash) != 0)
        return ic_error_set(e, IC_EMISMATCH,
                            "the file has changed since it was watched: its content is another");
    id->known = true;
    return IC_OK;
}
