/* Fuzz target of the export's decoder. Input: a zero byte and a stream as it would lie in a file;
 * or a record's kind and its payload, which is decoded alone and as part of a stream whose
 * checksums fit. What decodes must encode to the same bytes, and a stream must read the same
 * however it is cut into pieces. IC_NEEDS_SERVER */
#include <stdlib.h>
#include <string.h>

#include "base/ic_assert.h"
#include "session_store/ic_store_export_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct verdict {
    int rc;
    bool ended;
    uint64_t count;
} verdict;

static verdict read_stream(const uint8_t *data, size_t size, size_t piece)
{
    ic_export_stream x = {.used = 0};
    ic_export_record r;
    ic_error e = {0};
    int rc = IC_OK;
    for (size_t at = 0; at < size && rc == IC_OK; at += piece) {
        rc = ic_export_stream_feed(&x, data + at, size - at < piece ? size - at : piece, &e);
        while (rc == IC_OK && (rc = ic_export_stream_next(&x, &r, &e)) == 1)
            rc = IC_OK;
    }
    IC_ASSERT((rc == IC_OK) == (e.text[0] == '\0'));
    verdict v = {rc, x.ended, x.count};
    ic_export_stream_fini(&x);
    return v;
}

/* Cutting may move the moment at which bytes behind the end are seen, not the verdict. */
static void try_stream(const uint8_t *data, size_t size)
{
    verdict whole = read_stream(data, size, size ? size : 1);
    verdict parts = read_stream(data, size, size > 4000 ? 997 : 7);
    IC_ASSERT(whole.rc == parts.rc && whole.count == parts.count);
}

static void try_record(ic_export_type type, const uint8_t *data, size_t size)
{
    ic_export_record r = {.type = IC_EXPORT_SESSION, .head = {.config = ""}};
    uint8_t sum[IC_EXPORT_SUM];
    ic_buf out = {0};
    ic_error e = {0};
    IC_ASSERT(ic_export_begin(&out, sum, &e) == IC_OK);
    if (type != IC_EXPORT_SESSION)
        IC_ASSERT(ic_export_write(&out, &r, sum, &e) == IC_OK);
    size_t start = out.size;
    if (ic_export_decode(type, data, size, &r, &e) == IC_OK) {
        IC_ASSERT(ic_export_write(&out, &r, sum, &e) == IC_OK);
        size_t written = out.size - start - 8 - IC_EXPORT_SUM;
        IC_ASSERT(written == size && (!size || !memcmp(out.data + start + 8, data, size)));
        try_stream(out.data, out.size);
    }
    ic_buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    if (data[0] == 0)
        try_stream(data + 1, size - 1);
    else
        try_record((ic_export_type)data[0], data + 1, size - 1);
    return 0;
}
