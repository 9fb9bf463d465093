#include "engine/ic_tokenizer.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <unistd.h>

#include "base/ic_mem.h"
#include "engine/ic_tokenizer_bpe.h"
#include "engine/ic_tokenizer_split.h"
#include "engine/ic_tokenizer_text.h"

enum { MAX_ID = 1 << 22, MAX_ADDED = 1 << 16 };

/* An added token: found in the text before anything else happens to it. */
typedef struct added {
    char *content;
    size_t size;
    int32_t id;
    bool single_word, left_strip, right_strip, normalized, special;
} added;

struct ic_tokenizer {
    ic_tokenizer_bpe *bpe;
    ic_tokenizer_split *split;
    bool nfc, ignore_merges;
    int vocab;
    added *added; /* by first byte, the longest first */
    int added_count;
    int first[257]; /* added[first[b]] .. added[first[b + 1] - 1] begin with the byte b */
    bool *special;  /* [vocab] */
};

/* The regular expression of ByteLevel's use_regex: GPT-2's. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* --- reading tokenizer.json ------------------------------------------------------------------ */

static int refuse(ic_error *e, const char *what, const char *name)
{
    return ic_error_set(e, IC_EUNSUPPORTED, "tokenizer.json: %s %s is not known to this build",
                        what, name ? name : "(without a type)");
}

static const char *type_of(const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    return type ? type : "";
}

static bool flag(const json_t *v, const char *key, bool fallback)
{
    const json_t *f = json_object_get(v, key);
    return json_is_boolean(f) ? json_is_true(f) : fallback;
}

/* Absent, null, false, 0 and "" mean the same here: the feature is not used. */
static bool unused(const json_t *v, const char *key)
{
    const json_t *f = json_object_get(v, key);
    return !f || json_is_null(f) || json_is_false(f)
           || (json_is_number(f) && json_number_value(f) == 0.0)
           || (json_is_string(f) && json_string_length(f) == 0);
}

static int read_normalizer(ic_tokenizer *t, const json_t *v, ic_error *e)
{
    if (!v || json_is_null(v))
        return IC_OK;
    if (strcmp(type_of(v), "NFC") == 0) {
        t->nfc = true;
        return IC_OK;
    }
    if (strcmp(type_of(v), "Sequence") != 0)
        return refuse(e, "the normalizer", type_of(v));
    size_t i;
    const json_t *part;
    int rc = IC_OK;
    json_array_foreach(json_object_get(v, "normalizers"), i, part)
    {
        rc = strcmp(type_of(part), "NFC") == 0 ? IC_OK : refuse(e, "the normalizer", type_of(part));
        if (rc != IC_OK)
            break;
        t->nfc = true;
    }
    return rc;
}

static int read_split(ic_tokenizer *t, const json_t *v, ic_error *e)
{
    const json_t *pattern = json_object_get(v, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *behavior = json_string_value(json_object_get(v, "behavior"));
    if (!regex)
        return refuse(e, "the pre_tokenizer Split with a pattern that is not a", "Regex");
    if (!behavior || strcmp(behavior, "Isolated") != 0)
        return refuse(e, "the pre_tokenizer Split with the behavior", behavior);
    if (flag(v, "invert", false))
        return refuse(e, "the pre_tokenizer Split with", "invert");
    return ic_tokenizer_split_add(t->split, regex, e);
}

/* One step; *done after ByteLevel, which has to be the last one. */
static int read_step(ic_tokenizer *t, const json_t *v, bool *done, ic_error *e)
{
    const char *type = type_of(v);
    if (*done)
        return refuse(e, "a pre_tokenizer after ByteLevel:", type);
    if (strcmp(type, "Split") == 0)
        return read_split(t, v, e);
    if (strcmp(type, "Digits") == 0)
        return ic_tokenizer_split_add(
            t->split, flag(v, "individual_digits", false) ? "\\p{N}" : "\\p{N}+", e);
    if (strcmp(type, "ByteLevel") != 0)
        return refuse(e, "the pre_tokenizer", type);
    if (flag(v, "add_prefix_space", true))
        return refuse(e, "the pre_tokenizer ByteLevel with", "add_prefix_space");
    *done = true;
    return flag(v, "use_regex", true) ? ic_tokenizer_split_add(t->split, gpt2_pattern, e) : IC_OK;
}

static int read_pre_tokenizer(ic_tokenizer *t, const json_t *v, ic_error *e)
{
    bool done = false;
    int rc = IC_OK;
    if (strcmp(type_of(v), "Sequence") == 0) {
        size_t i;
        const json_t *part;
        json_array_foreach(json_object_get(v, "pretokenizers"), i, part)
        {
            rc = read_step(t, part, &done, e);
            if (rc != IC_OK)
                return rc;
        }
    } else {
        rc = read_step(t, v, &done, e);
    }
    if (rc == IC_OK && !done)
        rc = refuse(e, "a pre_tokenizer that ends without", "ByteLevel");
    return rc;
}

static int check_rest(const json_t *root, ic_error *e)
{
    const json_t *decoder = json_object_get(root, "decoder");
    const json_t *post = json_object_get(root, "post_processor");
    if (strcmp(type_of(decoder), "ByteLevel") != 0)
        return refuse(e, "the decoder", type_of(decoder));
    if (post && !json_is_null(post) && strcmp(type_of(post), "ByteLevel") != 0
        && strcmp(type_of(post), "TemplateProcessing") != 0
        && strcmp(type_of(post), "Sequence") != 0)
        return refuse(e, "the post_processor", type_of(post));
    const json_t *model = json_object_get(root, "model");
    const char *type = type_of(model);
    if (!json_is_object(model) || (*type && strcmp(type, "BPE") != 0))
        return refuse(e, "the model", type);
    static const char *const features[] = {"dropout", "continuing_subword_prefix",
                                           "end_of_word_suffix", "byte_fallback"};
    for (size_t i = 0; i < sizeof features / sizeof *features; i++)
        if (!unused(model, features[i]))
            return refuse(e, "BPE with", features[i]);
    if (!json_is_object(json_object_get(model, "vocab"))
        || !json_is_array(json_object_get(model, "merges")))
        return ic_error_set(e, IC_EFORMAT, "tokenizer.json: model has no vocab or no merges");
    return IC_OK;
}

/* ids are 0 .. the largest one of vocab and added_tokens. */
static int count_ids(ic_tokenizer *t, const json_t *vocab, const json_t *added_tokens, ic_error *e)
{
    json_int_t largest = -1;
    const char *key;
    json_t *v;
    size_t i;
    json_object_foreach((json_t *)vocab, key, v)
    {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= MAX_ID)
            return ic_error_set(e, IC_EFORMAT, "tokenizer.json: the id of \"%.40s\" is no id", key);
        if (json_integer_value(v) > largest)
            largest = json_integer_value(v);
    }
    json_array_foreach(added_tokens, i, v)
    {
        const json_t *id = json_object_get(v, "id");
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= MAX_ID)
            return ic_error_set(e, IC_EFORMAT, "tokenizer.json: added token %zu has no valid id",
                                i);
        if (json_integer_value(id) > largest)
            largest = json_integer_value(id);
    }
    t->vocab = (int)largest + 1;
    return t->vocab > 0 ? IC_OK : ic_error_set(e, IC_EFORMAT, "tokenizer.json: no tokens");
}

/* A merge is "left right" or ["left", "right"]; a token holds no space, its alphabet has none. */
static int read_merge(ic_tokenizer *t, const json_t *v, size_t nth, ic_error *e)
{
    const json_t *left = json_array_get(v, 0), *right = json_array_get(v, 1);
    if (json_is_string(left) && json_is_string(right) && json_array_size(v) == 2)
        return ic_tokenizer_bpe_add_merge(t->bpe, json_string_value(left), json_string_length(left),
                                          json_string_value(right), json_string_length(right), e);
    const char *both = json_string_value(v);
    const char *space = both ? strchr(both, ' ') : NULL;
    if (!space || strchr(space + 1, ' '))
        return ic_error_set(e, IC_EFORMAT,
                            "tokenizer.json: merge %zu is neither \"a b\" nor [\"a\", \"b\"]", nth);
    return ic_tokenizer_bpe_add_merge(t->bpe, both, (size_t)(space - both), space + 1,
                                      strlen(space + 1), e);
}

static int read_model(ic_tokenizer *t, const json_t *root, ic_error *e)
{
    const json_t *model = json_object_get(root, "model");
    json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    t->ignore_merges = flag(model, "ignore_merges", false);
    int rc = count_ids(t, vocab, json_object_get(root, "added_tokens"), e);
    if (rc == IC_OK)
        rc = ic_tokenizer_bpe_new(&t->bpe, t->vocab, json_array_size(merges), e);
    if (rc != IC_OK)
        return rc;
    const char *key;
    json_t *v;
    size_t i;
    json_object_foreach(vocab, key, v)
    {
        rc = ic_tokenizer_bpe_add(t->bpe, (int32_t)json_integer_value(v), key, strlen(key), e);
        if (rc != IC_OK)
            return rc;
    }
    ic_tokenizer_bpe_index(t->bpe);
    json_array_foreach(merges, i, v)
    {
        rc = read_merge(t, v, i, e);
        if (rc != IC_OK)
            return rc;
    }
    return IC_OK;
}

static int by_first_byte(const void *a, const void *b)
{
    const added *x = a, *y = b;
    uint8_t p = (uint8_t)x->content[0], q = (uint8_t)y->content[0];
    if (p != q)
        return p < q ? -1 : 1;
    if (x->size != y->size)
        return x->size > y->size ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int read_added_token(ic_tokenizer *t, const json_t *v, ic_error *e)
{
    const json_t *text = json_object_get(v, "content");
    if (!json_is_string(text) || json_string_length(text) == 0)
        return ic_error_set(e, IC_EFORMAT, "tokenizer.json: an added token has no content");
    added *a = &t->added[t->added_count++];
    *a = (added){.size = json_string_length(text),
                 .id = (int32_t)json_integer_value(json_object_get(v, "id")),
                 .single_word = flag(v, "single_word", false),
                 .left_strip = flag(v, "lstrip", false),
                 .right_strip = flag(v, "rstrip", false),
                 .special = flag(v, "special", false)};
    a->normalized = flag(v, "normalized", !a->special) && t->nfc;
    int rc = IC_OK;
    if (a->normalized) { /* it is sought in normalized text, so it is normalized itself */
        ic_tokenizer_text nfc;
        rc = ic_tokenizer_text_nfc(json_string_value(text), a->size, &nfc, e);
        a->content = nfc.data;
        a->size = nfc.size;
    } else {
        a->content = ic_alloc(a->size + 1);
        memcpy(a->content, json_string_value(text), a->size);
    }
    if (rc != IC_OK)
        return rc;
    t->special[a->id] = a->special;
    return ic_tokenizer_bpe_add_literal(t->bpe, a->id, json_string_value(text),
                                        json_string_length(text), e);
}

static int read_added(ic_tokenizer *t, const json_t *list, ic_error *e)
{
    size_t n = json_array_size(list), i;
    const json_t *v;
    if (n > MAX_ADDED)
        return ic_error_set(e, IC_EFORMAT, "tokenizer.json: %zu added tokens are too many", n);
    t->added = ic_calloc(n + 1, sizeof *t->added);
    t->special = ic_try_calloc((size_t)t->vocab, sizeof *t->special);
    if (!t->special)
        return ic_error_set(e, IC_ENOMEM, "no memory for a vocabulary of %d tokens", t->vocab);
    memset(t->special, 0, (size_t)t->vocab * sizeof *t->special);
    json_array_foreach(list, i, v)
    {
        int rc = read_added_token(t, v, e);
        if (rc != IC_OK)
            return rc;
    }
    qsort(t->added, n, sizeof *t->added, by_first_byte);
    for (int b = 0, at = 0; b <= 256; b++) {
        while (at < t->added_count && (uint8_t)t->added[at].content[0] < b)
            at++;
        t->first[b] = at;
    }
    return IC_OK;
}

static int read_tokenizer(ic_tokenizer *t, const json_t *root, ic_error *e)
{
    int rc = check_rest(root, e);
    if (rc == IC_OK)
        rc = read_normalizer(t, json_object_get(root, "normalizer"), e);
    if (rc == IC_OK)
        rc = read_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), e);
    if (rc == IC_OK)
        rc = read_model(t, root, e);
    if (rc == IC_OK)
        rc = read_added(t, json_object_get(root, "added_tokens"), e);
    return rc;
}

int ic_tokenizer_open(ic_tokenizer **out, const char *dir, ic_error *e)
{
    char *path = ic_strf("%s/tokenizer.json", dir);
    json_error_t why;
    json_t *root = NULL;
    ic_tokenizer *t = NULL;
    int rc = IC_OK;
    *out = NULL;
    if (access(path, R_OK) != 0) {
        rc = ic_error_set(e, errno == ENOENT ? IC_ENOTFOUND : IC_EIO,
                          "%s: %s (a model directory in the Hugging Face format has this file)",
                          path, strerror(errno));
        goto done;
    }
    root = json_load_file(path, 0, &why);
    if (!root) {
        rc = ic_error_set(e, IC_EFORMAT, "%s: line %d: %s", path, why.line, why.text);
        goto done;
    }
    t = ic_alloc(sizeof *t);
    t->split = ic_tokenizer_split_new();
    rc = read_tokenizer(t, root, e);
    if (rc == IC_OK) {
        *out = t;
        t = NULL;
    }
done:
    json_decref(root);
    ic_tokenizer_close(&t);
    ic_free(path);
    return rc;
}

void ic_tokenizer_close(ic_tokenizer **t_p)
{
    ic_tokenizer *t = *t_p;
    if (!t)
        return;
    for (int i = 0; i < t->added_count; i++)
        ic_free(t->added[i].content);
    ic_free(t->added);
    ic_free(t->special);
    ic_tokenizer_split_destroy(&t->split);
    ic_tokenizer_bpe_destroy(&t->bpe);
    ic_free(t);
    *t_p = NULL;
}

/* --- encoding ----------------------------------------------------------------------------------
 */

typedef struct encoding {
    const ic_tokenizer *t;
    bool parse_special;
    ic_tokenizer_bpe_scratch scratch;
    ic_tokenizer_ids ids;
} encoding;

typedef int segment_fn(encoding *n, const char *text, size_t bytes, ic_error *e);

/* The longest added token that begins here. */
static const added *added_at(const ic_tokenizer *t, const char *p, size_t left, bool normalized)
{
    uint8_t b = (uint8_t)p[0];
    for (int i = t->first[b]; i < t->first[b + 1]; i++) {
        const added *a = &t->added[i];
        if (a->normalized == normalized && a->size <= left && memcmp(a->content, p, a->size) == 0)
            return a;
    }
    return NULL;
}

/* The character before `at` (which is > 0) begins here. */
static size_t step_back(const char *text, size_t at)
{
    at--;
    while (at > 0 && ((uint8_t)text[at] & 0xC0) == 0x80)
        at--;
    return at;
}

static bool is_inside_word(const char *text, size_t bytes, size_t from, size_t to)
{
    int32_t before = 0, after = 0;
    if (from > 0) {
        size_t at = step_back(text, from);
        ic_tokenizer_text_next(text + at, from - at, &before);
    }
    if (to < bytes)
        ic_tokenizer_text_next(text + to, bytes - to, &after);
    return (from > 0 && ic_tokenizer_text_is_word(before))
           || (to < bytes && ic_tokenizer_text_is_word(after));
}

/* Widens a match over the space at its sides, as its flags ask; not to the left of `low`. */
static void strip(const added *a, const char *text, size_t bytes, size_t low, size_t *from,
                  size_t *to)
{
    int32_t point;
    while (a->left_strip && *from > low) {
        size_t at = step_back(text, *from);
        ic_tokenizer_text_next(text + at, *from - at, &point);
        if (!ic_tokenizer_text_is_space(point))
            break;
        *from = at;
    }
    while (a->right_strip && *to < bytes) {
        size_t n = ic_tokenizer_text_next(text + *to, bytes - *to, &point);
        if (!ic_tokenizer_text_is_space(point))
            break;
        *to += n;
    }
}

/* Cuts the text at the added tokens of one kind and gives what lies between to fn. */
static int cut_added(encoding *n, const char *text, size_t bytes, bool normalized, segment_fn *fn,
                     ic_error *e)
{
    size_t done = 0, at = 0;
    int rc = IC_OK;
    while (at < bytes && rc == IC_OK) {
        const added *a = added_at(n->t, text + at, bytes - at, normalized);
        if (!a) {
            at++;
            continue;
        }
        size_t from = at, to = at + a->size;
        at = to; /* a match that is passed over hides what it overlaps all the same */
        if ((a->special && !n->parse_special) || from < done
            || (a->single_word && is_inside_word(text, bytes, from, to)))
            continue;
        strip(a, text, bytes, done, &from, &to);
        if (from > done)
            rc = fn(n, text + done, from - done, e);
        if (rc == IC_OK)
            rc = ic_tokenizer_ids_push(&n->ids, a->id, e);
        done = to;
        at = to > at ? to : at;
    }
    return rc == IC_OK && bytes > done ? fn(n, text + done, bytes - done, e) : rc;
}

static int encode_piece(void *arg, const char *piece, size_t bytes, ic_error *e)
{
    encoding *n = arg;
    return ic_tokenizer_bpe_encode(n->t->bpe, piece, bytes, n->t->ignore_merges, &n->scratch,
                                   &n->ids, e);
}

static int encode_plain(encoding *n, const char *text, size_t bytes, ic_error *e)
{
    return ic_tokenizer_split_run(n->t->split, text, bytes, encode_piece, n, e);
}

static bool is_ascii(const char *text, size_t bytes)
{
    uint8_t any = 0;
    for (size_t i = 0; i < bytes; i++)
        any |= (uint8_t)text[i];
    return any < 0x80;
}

/* A segment without added tokens of the first kind. */
static int encode_segment(encoding *n, const char *text, size_t bytes, ic_error *e)
{
    if (!n->t->nfc || is_ascii(text, bytes))
        return cut_added(n, text, bytes, true, encode_plain, e);
    ic_tokenizer_text nfc;
    int rc = ic_tokenizer_text_nfc(text, bytes, &nfc, e);
    if (rc == IC_OK)
        rc = cut_added(n, nfc.data, nfc.size, true, encode_plain, e);
    ic_tokenizer_text_fini(&nfc);
    return rc;
}

int ic_tokenizer_encode(const ic_tokenizer *t, const char *text, size_t bytes, bool parse_special,
                        int32_t **ids, int *count, ic_error *e)
{
    encoding n = {.t = t, .parse_special = parse_special};
    ic_tokenizer_text repaired = {0};
    int rc = IC_OK;
    *ids = NULL;
    *count = 0;
    if (bytes > IC_TOKENIZER_MAX_TEXT)
        return ic_error_set(e, IC_ELIMIT, "a text of %zu bytes is longer than %d: send it in parts",
                            bytes, IC_TOKENIZER_MAX_TEXT);
    if (!ic_tokenizer_text_valid(text, bytes)) {
        rc = ic_tokenizer_text_repair(text, bytes, &repaired, e);
        text = repaired.data;
        bytes = repaired.size;
    }
    if (rc == IC_OK)
        rc = cut_added(&n, text, bytes, false, encode_segment, e);
    if (rc == IC_OK) {
        *ids = n.ids.id;
        *count = (int)n.ids.count;
    } else {
        ic_free(n.ids.id);
    }
    ic_tokenizer_bpe_scratch_fini(&n.scratch);
    ic_tokenizer_text_fini(&repaired);
    return rc;
}

/* --- looking things up --------------------------------------------------------------------- */

int ic_tokenizer_vocab(const ic_tokenizer *t)
{
    return t->vocab;
}

int32_t ic_tokenizer_id(const ic_tokenizer *t, const char *token)
{
    size_t n = strlen(token);
    for (int i = 0; i < t->added_count; i++)
        if (t->added[i].size == n && memcmp(t->added[i].content, token, n) == 0)
            return t->added[i].id;
    return -1;
}

bool ic_tokenizer_is_special(const ic_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab && t->special[id];
}

const char *ic_tokenizer_piece(const ic_tokenizer *t, int32_t id, size_t *bytes)
{
    return ic_tokenizer_bpe_piece(t->bpe, id, bytes);
}
