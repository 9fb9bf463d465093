#include "engine/ic_tokenizer_bpe.h"

#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_tokenizer_text.h"

/* Up to this many symbols a scan for the best pair beats the heap. */
enum { SHORT_PIECE = 48 };
#define NO_RANK UINT32_MAX

typedef struct token {
    char *bytes; /* NULL: no token has this id */
    uint32_t size;
    bool literal;
} token;

typedef struct merge {
    uint64_t pair; /* left id << 32 | right id; all ones: an empty place */
    uint32_t rank;
    int32_t result;
} merge;

struct ic_tokenizer_bpe {
    token *tokens;
    int vocab;
    int32_t *by_bytes; /* open addressing over the tokens' bytes; -1: empty */
    size_t by_bytes_mask;
    merge *merges; /* open addressing */
    size_t merges_mask, merges_room;
    uint32_t merge_count;
    int32_t byte_id[256]; /* the token of one byte, or -1 */
};

typedef struct symbol {
    int32_t id; /* -1: merged into the one before */
    int32_t previous, next;
} symbol;

typedef struct candidate {
    uint32_t rank;
    int32_t at; /* symbol on the left */
} candidate;

static size_t power_of_two(size_t n)
{
    size_t p = 16;
    while (p < n)
        p *= 2;
    return p;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9E3779B97F4A7C15ULL;
    return x ^ x >> 29;
}

static uint64_t hash_bytes(const char *p, size_t n)
{
    uint64_t h = 0xCBF29CE484222325ULL; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)p[i]) * 0x100000001B3ULL;
    return mix(h);
}

int ic_tokenizer_bpe_new(ic_tokenizer_bpe **out, int vocab, size_t merges, ic_error *e)
{
    ic_tokenizer_bpe *b = ic_alloc(sizeof *b);
    *out = b;
    b->vocab = vocab;
    b->merges_room = merges;
    size_t by_bytes = power_of_two((size_t)vocab * 2), places = power_of_two(merges * 2);
    b->tokens = ic_try_calloc((size_t)vocab + 1, sizeof *b->tokens);
    b->by_bytes = ic_try_calloc(by_bytes, sizeof *b->by_bytes);
    b->merges = ic_try_calloc(places, sizeof *b->merges);
    if (!b->tokens || !b->by_bytes || !b->merges) {
        ic_tokenizer_bpe_destroy(out);
        return ic_error_set(e, IC_ENOMEM, "no memory for a vocabulary of %d tokens", vocab);
    }
    memset(b->tokens, 0, ((size_t)vocab + 1) * sizeof *b->tokens);
    memset(b->by_bytes, 0xFF, by_bytes * sizeof *b->by_bytes);
    memset(b->merges, 0xFF, places * sizeof *b->merges);
    b->by_bytes_mask = by_bytes - 1;
    b->merges_mask = places - 1;
    return IC_OK;
}

void ic_tokenizer_bpe_destroy(ic_tokenizer_bpe **b_p)
{
    ic_tokenizer_bpe *b = *b_p;
    if (!b)
        return;
    for (int i = 0; b->tokens && i < b->vocab; i++)
        ic_free(b->tokens[i].bytes);
    ic_free(b->tokens);
    ic_free(b->by_bytes);
    ic_free(b->merges);
    ic_free(b);
    *b_p = NULL;
}

/* The byte that a character of the byte-level alphabet stands for, or -1. GPT-2 writes the
 * printable bytes as themselves and the 68 others as U+0100 and on, in order. */
static int byte_of(int32_t point)
{
    if ((point >= 33 && point <= 126) || (point >= 161 && point <= 172)
        || (point >= 174 && point <= 255))
        return point;
    if (point < 256 || point > 256 + 67)
        return -1;
    int nth = point - 256;
    if (nth <= 32)
        return nth;
    if (nth <= 66)
        return 127 + nth - 33;
    return 173;
}

/* Turns a spelling into bytes (out: as long as the spelling); false if it uses another alphabet. */
static bool spell(const char *spelling, size_t bytes, char *out, size_t *size)
{
    *size = 0;
    for (size_t at = 0; at < bytes;) {
        int32_t point;
        at += ic_tokenizer_text_next(spelling + at, bytes - at, &point);
        int byte = byte_of(point);
        if (byte < 0)
            return false;
        out[(*size)++] = (char)byte;
    }
    return true;
}

static int put_token(ic_tokenizer_bpe *b, int32_t id, const char *text, size_t bytes, bool literal,
                     ic_error *e)
{
    if (id < 0 || id >= b->vocab)
        return ic_error_set(e, IC_EFORMAT, "tokenizer.json: id %d is out of range", (int)id);
    token *t = &b->tokens[id];
    if (t->bytes && !literal)
        return ic_error_set(e, IC_EFORMAT, "tokenizer.json: two tokens have the id %d", (int)id);
    ic_free(t->bytes);
    t->bytes = ic_try_alloc(bytes + 1);
    if (!t->bytes)
        return ic_error_set(e, IC_ENOMEM, "no memory for the vocabulary");
    t->size = (uint32_t)bytes;
    t->literal = literal;
    if (literal || !spell(text, bytes, t->bytes, &bytes)) {
        memcpy(t->bytes, text, t->size); /* what no byte spells is its own text */
        t->literal = true;
    } else {
        t->size = (uint32_t)bytes;
    }
    t->bytes[t->size] = '\0';
    return IC_OK;
}

int ic_tokenizer_bpe_add(ic_tokenizer_bpe *b, int32_t id, const char *spelling, size_t bytes,
                         ic_error *e)
{
    return put_token(b, id, spelling, bytes, false, e);
}

int ic_tokenizer_bpe_add_literal(ic_tokenizer_bpe *b, int32_t id, const char *text, size_t bytes,
                                 ic_error *e)
{
    return put_token(b, id, text, bytes, true, e);
}

/* The place of these bytes in the table, or the empty one where they would go. */
static size_t place_of(const ic_tokenizer_bpe *b, const char *bytes, size_t size)
{
    size_t at = hash_bytes(bytes, size) & b->by_bytes_mask;
    for (; b->by_bytes[at] >= 0; at = (at + 1) & b->by_bytes_mask) {
        const token *t = &b->tokens[b->by_bytes[at]];
        if (t->size == size && memcmp(t->bytes, bytes, size) == 0)
            break;
    }
    return at;
}

void ic_tokenizer_bpe_index(ic_tokenizer_bpe *b)
{
    for (int32_t id = 0; id < b->vocab; id++) {
        const token *t = &b->tokens[id];
        if (!t->bytes || t->literal)
            continue;
        size_t at = place_of(b, t->bytes, t->size);
        if (b->by_bytes[at] < 0)
            b->by_bytes[at] = id;
    }
    for (int i = 0; i < 256; i++) {
        char byte = (char)i;
        b->byte_id[i] = b->by_bytes[place_of(b, &byte, 1)];
    }
}

static merge *find_merge(const ic_tokenizer_bpe *b, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t at = mix(pair) & b->merges_mask;
    while (b->merges[at].pair != pair && b->merges[at].pair != UINT64_MAX)
        at = (at + 1) & b->merges_mask;
    return &b->merges[at];
}

int ic_tokenizer_bpe_add_merge(ic_tokenizer_bpe *b, const char *left, size_t left_bytes,
                               const char *right, size_t right_bytes, ic_error *e)
{
    if (b->merge_count >= b->merges_room)
        return ic_error_set(e, IC_EBUG, "more merges than were announced");
    char *joined = ic_try_alloc(left_bytes + right_bytes + 1);
    if (!joined)
        return ic_error_set(e, IC_ENOMEM, "no memory for the merges");
    size_t l = 0, r = 0;
    int32_t a = -1, z = -1, result = -1;
    if (spell(left, left_bytes, joined, &l) && spell(right, right_bytes, joined + l, &r)) {
        a = b->by_bytes[place_of(b, joined, l)];
        z = b->by_bytes[place_of(b, joined + l, r)];
        result = b->by_bytes[place_of(b, joined, l + r)];
    }
    ic_free(joined);
    uint32_t rank = b->merge_count++;
    if (a < 0 || z < 0 || result < 0)
        return ic_error_set(e, IC_EFORMAT,
                            "tokenizer.json: merge %u (\"%.*s\" and \"%.*s\") is not about tokens "
                            "of its vocabulary",
                            rank, (int)left_bytes, left, (int)right_bytes, right);
    merge *m = find_merge(b, a, z);
    if (m->pair == UINT64_MAX) {
        m->pair = (uint64_t)(uint32_t)a << 32 | (uint32_t)z;
        m->rank = rank;
        m->result = result;
    } else {
        m->rank = rank; /* a pair given twice counts where it comes last */
    }
    return IC_OK;
}

const char *ic_tokenizer_bpe_piece(const ic_tokenizer_bpe *b, int32_t id, size_t *bytes)
{
    const token *t = id >= 0 && id < b->vocab ? &b->tokens[id] : NULL;
    *bytes = t && t->bytes ? t->size : 0;
    return t ? t->bytes : NULL;
}

int ic_tokenizer_ids_push(ic_tokenizer_ids *ids, int32_t id, ic_error *e)
{
    if (ids->count == ids->capacity) {
        size_t capacity = ids->capacity ? ids->capacity * 2 : 64;
        int32_t *more = ic_try_calloc(capacity, sizeof *more);
        if (!more)
            return ic_error_set(e, IC_ENOMEM, "no memory for %zu token ids", capacity);
        if (ids->count)
            memcpy(more, ids->id, ids->count * sizeof *more);
        ic_free(ids->id);
        ids->id = more;
        ids->capacity = capacity;
    }
    ids->id[ids->count++] = id;
    return IC_OK;
}

void ic_tokenizer_bpe_scratch_fini(ic_tokenizer_bpe_scratch *s)
{
    ic_free(s->symbols);
    ic_free(s->heap);
    *s = (ic_tokenizer_bpe_scratch){0};
}

static int reserve(ic_tokenizer_bpe_scratch *s, size_t symbols, ic_error *e)
{
    if (s->room >= symbols)
        return IC_OK;
    ic_tokenizer_bpe_scratch_fini(s);
    size_t room = power_of_two(symbols);
    s->symbols = ic_try_calloc(room, sizeof(symbol));
    /* n - 1 candidates at first; each of the n - 1 merges takes one and adds two at most. */
    s->heap = ic_try_calloc(room * 2, sizeof(candidate));
    if (!s->symbols || !s->heap) {
        ic_tokenizer_bpe_scratch_fini(s);
        return ic_error_set(e, IC_ENOMEM, "no memory to merge %zu bytes", symbols);
    }
    s->room = room;
    return IC_OK;
}

/* Few symbols: the best pair is looked for each time. Returns how many are left. */
static size_t merge_short(const ic_tokenizer_bpe *b, int32_t *ids, size_t n)
{
    uint32_t rank[SHORT_PIECE];
    for (size_t i = 0; i + 1 < n; i++) {
        const merge *m = find_merge(b, ids[i], ids[i + 1]);
        rank[i] = m->pair == UINT64_MAX ? NO_RANK : m->rank;
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == NO_RANK)
            break;
        ids[best] = find_merge(b, ids[best], ids[best + 1])->result;
        memmove(&ids[best + 1], &ids[best + 2], (n - best - 2) * sizeof *ids);
        memmove(&rank[best], &rank[best + 1], (n - best - 2) * sizeof *rank);
        n--;
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const merge *m = find_merge(b, ids[i], ids[i + 1]);
            rank[i] = m->pair == UINT64_MAX ? NO_RANK : m->rank;
        }
    }
    return n;
}

static bool is_before(candidate a, candidate z)
{
    return a.rank != z.rank ? a.rank < z.rank : a.at < z.at;
}

static void heap_push(candidate *heap, size_t *n, candidate c)
{
    size_t i = (*n)++;
    for (; i > 0 && is_before(c, heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = c;
}

static candidate heap_pop(candidate *heap, size_t *n)
{
    candidate top = heap[0], last = heap[--*n];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= *n)
            break;
        if (child + 1 < *n && is_before(heap[child + 1], heap[child]))
            child++;
        if (!is_before(heap[child], last))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

static void consider(const ic_tokenizer_bpe *b, const symbol *s, int32_t at, candidate *heap,
                     size_t *n)
{
    if (at < 0 || s[at].next < 0)
        return;
    const merge *m = find_merge(b, s[at].id, s[s[at].next].id);
    if (m->pair != UINT64_MAX)
        heap_push(heap, n, (candidate){m->rank, at});
}

/* Many symbols: a linked list and a heap of pairs; a pair that has changed since it went in is
 * recognised when it comes out, because its rank is another one. */
static void merge_long(const ic_tokenizer_bpe *b, symbol *s, candidate *heap, size_t symbols)
{
    size_t n = 0;
    for (size_t i = 0; i + 1 < symbols; i++)
        consider(b, s, (int32_t)i, heap, &n);
    while (n > 0) {
        candidate c = heap_pop(heap, &n);
        symbol *left = &s[c.at];
        if (left->id < 0 || left->next < 0)
            continue;
        const merge *m = find_merge(b, left->id, s[left->next].id);
        if (m->pair == UINT64_MAX || m->rank != c.rank)
            continue;
        symbol *right = &s[left->next];
        left->id = m->result;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0)
            s[left->next].previous = c.at;
        consider(b, s, left->previous, heap, &n);
        consider(b, s, c.at, heap, &n);
    }
}

static int encode_short(const ic_tokenizer_bpe *b, const char *piece, size_t bytes,
                        ic_tokenizer_ids *out, ic_error *e)
{
    int32_t ids[SHORT_PIECE];
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++)
        if (b->byte_id[(uint8_t)piece[i]] >= 0)
            ids[n++] = b->byte_id[(uint8_t)piece[i]];
    n = merge_short(b, ids, n);
    int rc = IC_OK;
    for (size_t i = 0; i < n && rc == IC_OK; i++)
        rc = ic_tokenizer_ids_push(out, ids[i], e);
    return rc;
}

int ic_tokenizer_bpe_encode(const ic_tokenizer_bpe *b, const char *piece, size_t bytes, bool whole,
                            ic_tokenizer_bpe_scratch *s, ic_tokenizer_ids *out, ic_error *e)
{
    int32_t id = whole ? b->by_bytes[place_of(b, piece, bytes)] : -1;
    if (id >= 0)
        return ic_tokenizer_ids_push(out, id, e);
    if (bytes <= SHORT_PIECE)
        return encode_short(b, piece, bytes, out, e);
    if (bytes > INT32_MAX / 2)
        return ic_error_set(e, IC_ELIMIT, "a piece of %zu bytes is too long", bytes);
    int rc = reserve(s, bytes, e);
    if (rc != IC_OK)
        return rc;
    symbol *symbols = s->symbols;
    int32_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (b->byte_id[(uint8_t)piece[i]] < 0)
            continue;
        symbols[n] = (symbol){b->byte_id[(uint8_t)piece[i]], n - 1, n + 1};
        n++;
    }
    if (n == 0)
        return IC_OK;
    symbols[n - 1].next = -1;
    merge_long(b, symbols, s->heap, (size_t)n);
    for (int32_t i = 0; i >= 0 && rc == IC_OK; i = symbols[i].next)
        rc = ic_tokenizer_ids_push(out, symbols[i].id, e);
    return rc;
}
