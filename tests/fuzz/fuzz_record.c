/* What the session actor writes into the store, from hostile bytes: journal records, a session's
 * configuration, the head of a checkpoint's manifest. The first byte says which (a record's kind,
 * or one of the two below). It is refused, or what was read can be written and read again.
 * IC_NEEDS_SERVER */
#include <stdlib.h>

#include "actors/ic_talk_record.h"
#include "base/ic_mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CONFIG = 200, HEAD = 201 };

static void expect(bool ok)
{
    if (!ok)
        abort();
}

static void try_record(uint32_t kind, const uint8_t *data, size_t size)
{
    ic_talk_record r, again;
    ic_buf out = {0};
    ic_error e = {0};
    if (ic_talk_record_decode(&r, kind, data, size, &e)) {
        expect(e.text[0]);
        return;
    }
    if (kind != IC_RECORD_END_V1) { /* is read only */
        expect(ic_talk_record_encode(&r, &out) == IC_OK);
        expect(ic_talk_record_decode(&again, kind, out.data, out.size, &e) == IC_OK);
        ic_talk_record_fini(&again);
    }
    ic_talk_record_fini(&r);
    ic_buf_fini(&out);
}

static void try_config(const uint8_t *data, size_t size)
{
    ic_talk_config c, again;
    ic_buf out = {0};
    ic_error e = {0};
    if (ic_talk_config_decode(&c, data, size, &e)) {
        expect(e.text[0]);
        return;
    }
    expect(ic_talk_config_encode(&c, &out) == IC_OK);
    expect(ic_talk_config_decode(&again, out.data, out.size, &e) == IC_OK);
    ic_talk_config_fini(&c);
    ic_talk_config_fini(&again);
    ic_buf_fini(&out);
}

static void try_head(const uint8_t *data, size_t size)
{
    ic_talk_head h, again;
    ic_buf out = {0};
    ic_error e = {0};
    if (ic_talk_head_decode(&h, data, size, &e)) {
        expect(e.text[0]);
        return;
    }
    expect(ic_talk_head_encode(&h, &out) == IC_OK);
    expect(ic_talk_head_decode(&again, out.data, out.size, &e) == IC_OK);
    ic_talk_head_fini(&h);
    ic_talk_head_fini(&again);
    ic_buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] == CONFIG)
        try_config(data + 1, size - 1);
    else if (data[0] == HEAD)
        try_head(data + 1, size - 1);
    else
        try_record(data[0], data + 1, size - 1);
    expect(ic_mem_live() == 0);
    return 0;
}
