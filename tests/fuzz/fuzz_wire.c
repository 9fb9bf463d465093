/* Fuzz target of the wire decoder. Input: one byte that picks the verb (0: the next byte is the
 * length of a raw signature, which follows), then the map. What decodes must encode again, and the
 * encoding is a fixed point. IC_NEEDS_SERVER */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_assert.h"
#include "wire/ic_wire_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Encodes m; false when it holds what only a later version can say, or grew beyond its limit. */
static int encode(const ic_wire_msg *m, ic_buf *body)
{
    ic_error e = {0};
    int rc = ic_wire_encode(m, body, &e);
    IC_ASSERT(!rc || rc == IC_ELIMIT || (rc == IC_EINVAL && strstr(e.text, "no word for -1")));
    return rc;
}

static void must_be_fixed_point(const ic_wire_msg *m, ic_wire_from from, const uint8_t *signature,
                                size_t signature_size, int64_t payload_size)
{
    ic_buf first, second;
    ic_wire_msg again = {0};
    ic_buf_init(&first, 0);
    ic_buf_init(&second, 0);
    if (!encode(m, &first)) {
        int rc = ic_wire_decode(&again, from, signature, signature_size, first.data, first.size,
                                payload_size, NULL);
        IC_ASSERT(rc == 0);
        IC_ASSERT(encode(&again, &second) == 0);
        IC_ASSERT(first.size == second.size && !memcmp(first.data, second.data, first.size));
    }
    ic_wire_msg_fini(&again);
    ic_buf_fini(&first);
    ic_buf_fini(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t signature[IC_WIRE_SIGNATURE_MAX];
    ic_wire_from from = IC_WIRE_FROM_CLIENT;
    size_t signature_size = 0;
    int64_t payload_size = -1;
    if (size < 2)
        return 0;
    uint8_t pick = *data++;
    size--;
    if (pick == 0) {
        signature_size = *data % (IC_WIRE_SIGNATURE_MAX + 1);
        data++, size--;
        signature_size = signature_size < size ? signature_size : size;
        memcpy(signature, data, signature_size);
        data += signature_size, size -= signature_size;
    } else {
        ic_wire_verb verb = (ic_wire_verb)(1 + pick % (IC_WIRE_VERB_COUNT - 1));
        from = ic_wire_verb_from_client(verb) ? IC_WIRE_FROM_CLIENT : IC_WIRE_FROM_SERVER;
        payload_size = ic_wire_payload_max(verb) ? 0 : -1;
        signature_size = ic_wire_signature(verb, signature);
    }
    uint64_t re;
    (void)ic_wire_peek_re(data, size, &re);
    ic_wire_msg m;
    ic_error e = {0};
    int rc = ic_wire_decode(&m, from, signature, signature_size, data, size, payload_size, &e);
    IC_ASSERT(rc == e.code && (rc == 0) == (e.text[0] == '\0'));
    if (!rc)
        must_be_fixed_point(&m, from, signature, signature_size, payload_size);
    ic_wire_msg_fini(&m);
    return 0;
}
