/* A page of a checkpoint (rows of the cache) that was changed, behind a state that is sound: it is
 * refused, or the session goes on. The engine is the smallest golden model.
 *
 * The input says what to change in a sound page, so that it stays of use when the format changes: a
 * byte of flags (1: the checksum is made right again, 2: cut to the length that follows in 2
 * bytes), then changes of 3 bytes each: offset (2), what to add to the byte there. No input: no
 * change. */
#include <stdlib.h>
#include <string.h>

#include "base/ic_buf.h"
#include "ic_test_session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CACHE = 64, STEPS = 4 };

static ic_engine *engine;
static ic_buf state, page;

static void expect(bool ok)
{
    if (!ok)
        abort();
}

static ic_session *fresh(void)
{
    ic_session_config config;
    ic_session *s;
    ic_session_config_default(engine, CACHE, &config);
    expect(ic_session_new(&s, engine, &config, NULL) == IC_OK);
    return s;
}

/* A session in mid-answer: its state, and all its rows as one page. */
static void prepare(void)
{
    engine = ic_test_engine("gqa2_text_f32", NULL, 1);
    ic_sampling greedy = ic_test_greedy(50);
    ic_session *s = fresh();
    uint64_t cursor = 0;
    bool more = true;
    expect(ic_session_ask(s, "What is it?", &greedy, NULL) == IC_OK);
    for (int i = 0; i < 8; i++) {
        ic_slice slice = {.session = s, .max_rows = 16};
        expect(ic_engine_step(engine, &slice, 1, NULL) == IC_OK);
    }
    expect(ic_session_save_state(s, &state, NULL) == IC_OK);
    while (more)
        expect(ic_session_save_rows(s, true, &cursor, 1 << 20, &page, &more) == IC_OK);
    ic_session_destroy(&s);
}

/* As kernels/ic_slab_save.c has it, told once more: FNV-1a over words, mixed. */
static void make_checksum_right(uint8_t *bytes, size_t size)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325), word;
    size_t body = size - 8, at = 0;
    for (; at + 8 <= body; at += 8) {
        memcpy(&word, bytes + at, 8);
        hash = (hash ^ word) * UINT64_C(0x100000001b3);
        hash ^= hash >> 29;
    }
    for (; at < body; at++)
        hash = (hash ^ bytes[at]) * UINT64_C(0x100000001b3);
    hash ^= hash >> 32;
    memcpy(bytes + body, &hash, 8);
}

/* The changed page; no input at all is the page as it was. Caller frees. */
static uint8_t *change(const uint8_t *data, size_t size, size_t *bytes)
{
    uint8_t *out = malloc(page.size);
    memcpy(out, page.data, page.size);
    *bytes = page.size;
    if (size == 0)
        return out;
    uint8_t flags = *data++;
    size--;
    if (flags & 2 && size >= 2) {
        *bytes = ((size_t)data[0] | (size_t)data[1] << 8) % page.size;
        data += 2, size -= 2;
    }
    for (; size >= 3 && *bytes; data += 3, size -= 3) {
        size_t at = ((size_t)data[0] | (size_t)data[1] << 8) % *bytes;
        out[at] = (uint8_t)(out[at] + data[2]);
    }
    if (flags & 1 && *bytes >= 8)
        make_checksum_right(out, *bytes);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ic_error e = {0};
    if (!engine)
        prepare();
    size_t bytes;
    uint8_t *piece = change(data, size, &bytes);
    ic_session *s = fresh();
    expect(ic_session_load_state(s, state.data, state.size, &e) == IC_OK);
    int rc = ic_session_load_rows(s, piece, bytes, &e);
    if (!rc)
        rc = ic_session_load_finish(s, &e);
    bool changed = bytes != page.size || memcmp(piece, page.data, page.size) != 0;
    bool right = size && data[0] & 1;
    expect(changed ? right || rc != IC_OK : rc == IC_OK);
    expect(rc == IC_OK || e.text[0]);
    for (int i = 0; !rc && i < STEPS; i++) {
        ic_slice slice = {.session = s, .max_rows = 16};
        expect(ic_engine_step(engine, &slice, 1, &e) == IC_OK);
    }
    ic_session_destroy(&s);
    free(piece);
    return 0;
}
