#include "engine/ic_tokenizer_text.h"

#include <string.h>
#include <utf8proc.h>

#include "base/ic_mem.h"
#include "engine/ic_tokenizer.h"

enum { REPLACEMENT = 0xFFFD };

void ic_tokenizer_text_fini(ic_tokenizer_text *t)
{
    ic_free(t->data);
    *t = (ic_tokenizer_text){0};
}

/* The number of bytes of the character that begins with `lead`, and the range of its second byte;
 * 0 for a byte that begins none (Unicode 15, table 3-7). */
static size_t character_length(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xBF;
    if (lead < 0x80)
        return 1;
    if (lead < 0xC2 || lead > 0xF4)
        return 0;
    if (lead < 0xE0)
        return 2;
    if (lead == 0xE0)
        *low = 0xA0; /* shorter spellings of the same character are not allowed */
    if (lead == 0xED)
        *high = 0x9F; /* surrogates */
    if (lead == 0xF0)
        *low = 0x90;
    if (lead == 0xF4)
        *high = 0x8F; /* beyond U+10FFFF */
    return lead < 0xF0 ? 3 : 4;
}

/* As ic_tokenizer_text_next; *cut tells that the bytes end inside a character that is right so
 * far. */
static size_t next_character(const char *p, size_t left, int32_t *point, bool *cut)
{
    static const uint8_t lead_bits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    const uint8_t *u = (const uint8_t *)p;
    uint8_t low, high;
    size_t n = character_length(u[0], &low, &high), i = 1;
    *cut = false;
    *point = -1;
    if (n == 0)
        return 1;
    int32_t value = u[0] & lead_bits[n];
    for (; i < n && i < left; i++) {
        if (u[i] < low || u[i] > high)
            return i;
        value = value << 6 | (u[i] & 0x3F);
        low = 0x80;
        high = 0xBF;
    }
    if (i < n)
        *cut = true;
    else
        *point = value;
    return i;
}

size_t ic_tokenizer_text_next(const char *p, size_t left, int32_t *point)
{
    bool cut;
    return next_character(p, left, point, &cut);
}

size_t ic_tokenizer_text_put(char *out, int32_t point)
{
    return (size_t)utf8proc_encode_char(point, (utf8proc_uint8_t *)out);
}

bool ic_tokenizer_text_valid(const char *text, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        if ((uint8_t)text[at] < 0x80) {
            at++;
            continue;
        }
        int32_t point;
        at += ic_tokenizer_text_next(text + at, bytes - at, &point);
        if (point < 0)
            return false;
    }
    return true;
}

int ic_tokenizer_text_repair(const char *text, size_t bytes, ic_tokenizer_text *out, ic_error *e)
{
    *out = (ic_tokenizer_text){0};
    /* One wrong byte becomes three at most. */
    out->data = ic_try_alloc(bytes * 3 + 1);
    if (!out->data)
        return ic_error_set(e, IC_ENOMEM, "no memory to read %zu bytes of text", bytes);
    for (size_t at = 0; at < bytes;) {
        int32_t point;
        size_t n = ic_tokenizer_text_next(text + at, bytes - at, &point);
        out->size += ic_tokenizer_text_put(out->data + out->size, point < 0 ? REPLACEMENT : point);
        at += n;
    }
    return IC_OK;
}

/* Sorts the marks of a run by combining class and leaves equal ones in their order: by insertion
 * while it is short, else by counting, because a text may be nothing but marks. */
static void sort_marks(utf8proc_int32_t *run, size_t n, utf8proc_int32_t *spare)
{
    if (n <= 16) {
        for (size_t i = 1; i < n; i++) {
            utf8proc_int32_t c = run[i];
            int class = utf8proc_get_property(c)->combining_class;
            size_t j = i;
            for (; j > 0 && utf8proc_get_property(run[j - 1])->combining_class > class; j--)
                run[j] = run[j - 1];
            run[j] = c;
        }
        return;
    }
    size_t start[256] = {0};
    for (size_t i = 0; i < n; i++)
        start[utf8proc_get_property(run[i])->combining_class & 255]++;
    for (size_t i = 0, sum = 0; i < 256; i++) {
        size_t count = start[i];
        start[i] = sum;
        sum += count;
    }
    for (size_t i = 0; i < n; i++)
        spare[start[utf8proc_get_property(run[i])->combining_class & 255]++] = run[i];
    memcpy(run, spare, n * sizeof *run);
}

static void order_marks(utf8proc_int32_t *points, size_t n, utf8proc_int32_t *spare)
{
    for (size_t i = 0; i < n;) {
        size_t from = i;
        while (i < n && utf8proc_get_property(points[i])->combining_class > 0)
            i++;
        if (i - from > 1)
            sort_marks(points + from, i - from, spare);
        if (i == from)
            i++;
    }
}

int ic_tokenizer_text_nfc(const char *text, size_t bytes, ic_tokenizer_text *out, ic_error *e)
{
    /* A byte becomes 1.5 code points at most (U+0390: two bytes, three points), a character four.
     * utf8proc_map would do all of this, but sorts marks in quadratic time. */
    enum { GROWTH = 2, MARGIN = 16 };
    *out = (ic_tokenizer_text){0};
    size_t room = bytes * GROWTH + MARGIN, n = 0;
    utf8proc_int32_t *points = ic_try_calloc(room * 2, sizeof *points);
    if (!points)
        return ic_error_set(e, IC_ENOMEM, "no memory to normalize %zu bytes of text", bytes);
    int rc = IC_OK, boundary = 0;
    for (size_t at = 0; at < bytes && rc == IC_OK;) {
        int32_t point;
        at += ic_tokenizer_text_next(text + at, bytes - at, &point);
        utf8proc_ssize_t got =
            utf8proc_decompose_char(point, points + n, (utf8proc_ssize_t)(room - n),
                                    UTF8PROC_STABLE | UTF8PROC_COMPOSE, &boundary);
        if (got < 0 || (size_t)got > room - n)
            rc = ic_error_set(e, IC_EBUG, "U+%04X cannot be normalized", (unsigned)point);
        else
            n += (size_t)got;
    }
    if (rc == IC_OK) {
        order_marks(points, n, points + room);
        utf8proc_ssize_t left = utf8proc_normalize_utf32(points, (utf8proc_ssize_t)n,
                                                         UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        n = left < 0 ? 0 : (size_t)left;
        out->data = ic_try_alloc(n * 4 + 1);
        if (!out->data)
            rc = ic_error_set(e, IC_ENOMEM, "no memory to normalize %zu bytes of text", bytes);
        for (size_t i = 0; rc == IC_OK && i < n; i++)
            out->size += ic_tokenizer_text_put(out->data + out->size, points[i]);
    }
    ic_free(points);
    return rc;
}

bool ic_tokenizer_text_is_space(int32_t point)
{
    if (point < 0x80)
        return point == ' ' || (point >= '\t' && point <= '\r');
    utf8proc_category_t c = utf8proc_category(point);
    return point == 0x85 || c == UTF8PROC_CATEGORY_ZS || c == UTF8PROC_CATEGORY_ZL
           || c == UTF8PROC_CATEGORY_ZP;
}

bool ic_tokenizer_text_is_word(int32_t point)
{
    utf8proc_category_t c = utf8proc_category(point);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_ME) || c == UTF8PROC_CATEGORY_ND
           || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_PC;
}

/* Appends one character or U+FFFD to out. */
static size_t emit(char *out, const char *bytes, size_t n, int32_t point)
{
    if (point < 0)
        return ic_tokenizer_text_put(out, REPLACEMENT);
    memcpy(out, bytes, n);
    return n;
}

size_t ic_utf8_stream_push(ic_utf8_stream *s, const char *piece, size_t bytes, bool flush,
                           char *out)
{
    size_t written = 0, at = 0;
    int32_t point;
    bool cut;
    /* At most three bytes are held: complete or break what they begin, byte by byte. */
    while (s->count > 0 && at < bytes) {
        s->held[s->count++] = piece[at++];
        size_t n = next_character(s->held, (size_t)s->count, &point, &cut);
        if (cut)
            continue;
        written += emit(out + written, s->held, n, point);
        /* What broke the character may begin another one; only its last byte can be left over. */
        at -= (size_t)s->count - n;
        s->count = 0;
    }
    while (at < bytes) {
        size_t n = next_character(piece + at, bytes - at, &point, &cut);
        if (cut) {
            memcpy(s->held, piece + at, n);
            s->count = (int)n;
        } else {
            written += emit(out + written, piece + at, n, point);
        }
        at += n;
    }
    if (flush && s->count > 0) {
        written += ic_tokenizer_text_put(out + written, REPLACEMENT);
        s->count = 0;
    }
    return written;
}
