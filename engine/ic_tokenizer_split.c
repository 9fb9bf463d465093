#include "engine/ic_tokenizer_split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <string.h>

#include "base/ic_buf.h"
#include "base/ic_mem.h"

enum { MAX_STAGES = 8, MAX_PATTERN = 1 << 16 };

struct ic_tokenizer_split {
    int count;
    pcre2_code *code[MAX_STAGES];
};

/* One run: its own match data for each stage, since a stage is left and entered again. */
typedef struct split_run {
    const ic_tokenizer_split *split;
    pcre2_match_data *match[MAX_STAGES];
    pcre2_match_context *context;
    ic_tokenizer_piece_fn *fn;
    void *arg;
    ic_error *e;
} split_run;

ic_tokenizer_split *ic_tokenizer_split_new(void)
{
    return ic_alloc(sizeof(ic_tokenizer_split));
}

void ic_tokenizer_split_destroy(ic_tokenizer_split **s_p)
{
    if (!*s_p)
        return;
    for (int i = 0; i < (*s_p)->count; i++)
        pcre2_code_free((*s_p)->code[i]);
    ic_free(*s_p);
    *s_p = NULL;
}

/* One escape of the pattern. PCRE2's \s has U+180E beside Unicode's White_Space, so it is written
 * out; what the two languages may read differently is refused. */
static int translate_escape(char c, bool class, ic_buf *out)
{
    static const char spaces[] = "\\t-\\r\\x{85}\\p{Z}";
    if ((c >= '0' && c <= '9') || (class && c == 'S')
        || (((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) && !strchr("rntsSpPdD", c)))
        return IC_EUNSUPPORTED;
    if (c != 's' && c != 'S') {
        ic_buf_append(out, "\\", 1);
        ic_buf_append(out, &c, 1);
        return IC_OK;
    }
    if (!class)
        ic_buf_append(out, c == 's' ? "[" : "[^", c == 's' ? 1 : 2);
    ic_buf_append(out, spaces, sizeof spaces - 1);
    if (!class)
        ic_buf_append(out, "]", 1);
    return IC_OK;
}

static int translate(const char *pattern, ic_buf *out, ic_error *e)
{
    bool class = false;
    for (const char *p = pattern; *p; p++) {
        int rc = IC_OK;
        if (*p == '\\') {
            rc = translate_escape(*++p, class, out);
        } else if (class ? *p == '[' : *p == '$' || *p == '^') {
            rc = IC_EUNSUPPORTED;
        } else {
            bool opens = !class && *p == '[';
            class = opens || (class && *p != ']');
            ic_buf_append(out, p, 1);
            if (opens && p[1] == '^')
                ic_buf_append(out, ++p, 1);
        }
        if (rc != IC_OK || *p == '\0')
            return ic_error_set(e, IC_EUNSUPPORTED,
                                "tokenizer.json: the expression %s uses what this build does not "
                                "read, at \"%s\"",
                                pattern, p);
    }
    return out->status == IC_OK ? IC_OK : ic_error_set(e, out->status, "a very long expression");
}

int ic_tokenizer_split_add(ic_tokenizer_split *s, const char *pattern, ic_error *e)
{
    if (s->count == MAX_STAGES)
        return ic_error_set(e, IC_EUNSUPPORTED,
                            "tokenizer.json: more than %d expressions in pre_tokenizer",
                            MAX_STAGES);
    ic_buf text;
    ic_buf_init(&text, MAX_PATTERN);
    int rc = translate(pattern, &text, e);
    if (rc == IC_OK) {
        int code;
        size_t at;
        s->code[s->count] =
            pcre2_compile(text.data, text.size, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
        if (s->code[s->count]) {
            /* Without JIT it is slower and just as right, so a refusal is no failure. */
            pcre2_jit_compile(s->code[s->count++], PCRE2_JIT_COMPLETE);
        } else {
            char why[128] = "";
            pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
            rc = ic_error_set(e, IC_EUNSUPPORTED, "tokenizer.json: the expression %s: %s", pattern,
                              why);
        }
    }
    ic_buf_fini(&text);
    return rc;
}

/* The next match at or after `at`; 0 when there is none. */
static int find(split_run *r, int stage, const char *text, size_t bytes, size_t at, size_t *from,
                size_t *to)
{
    const pcre2_code *code = r->split->code[stage];
    /* The text is known to be valid; checking it again for each match would be quadratic. */
    uint32_t flags = PCRE2_NO_UTF_CHECK;
    int rc = pcre2_match(code, (PCRE2_SPTR)text, bytes, at, flags, r->match[stage], r->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(code, (PCRE2_SPTR)text, bytes, at, flags | PCRE2_NO_JIT, r->match[stage],
                         r->context);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0)
        return ic_error_set(r->e, rc == PCRE2_ERROR_NOMEMORY ? IC_ENOMEM : IC_ELIMIT,
                            "the tokenizer's expression gave up on this text (PCRE2 error %d)", rc);
    const size_t *span = pcre2_get_ovector_pointer(r->match[stage]);
    *from = span[0];
    *to = span[1];
    return 1;
}

static int run_stage(split_run *r, int stage, const char *text, size_t bytes)
{
    if (bytes == 0)
        return IC_OK;
    if (stage == r->split->count)
        return r->fn(r->arg, text, bytes, r->e);
    size_t done = 0, at = 0;
    while (at < bytes) {
        size_t from = at, to = at;
        int rc = find(r, stage, text, bytes, at, &from, &to);
        if (rc < 0)
            return rc;
        if (rc == 0)
            break;
        if (to == from) { /* an empty match cuts nothing: look from the next character on */
            at = from + 1;
            while (at < bytes && ((uint8_t)text[at] & 0xC0) == 0x80)
                at++;
            continue;
        }
        rc = run_stage(r, stage + 1, text + done, from - done);
        if (rc == IC_OK)
            rc = run_stage(r, stage + 1, text + from, to - from);
        if (rc != IC_OK)
            return rc;
        done = at = to;
    }
    return run_stage(r, stage + 1, text + done, bytes - done);
}

int ic_tokenizer_split_run(const ic_tokenizer_split *s, const char *text, size_t bytes,
                           ic_tokenizer_piece_fn *fn, void *arg, ic_error *e)
{
    split_run r = {.split = s, .fn = fn, .arg = arg, .e = e};
    int rc = IC_OK;
    r.context = pcre2_match_context_create(NULL);
    if (r.context) /* a run of spaces is gone through once per space; the text's size is bounded */
        pcre2_set_match_limit(r.context, UINT32_MAX);
    else
        rc = IC_ENOMEM;
    for (int i = 0; i < s->count && rc == IC_OK; i++) {
        r.match[i] = pcre2_match_data_create(1, NULL);
        if (!r.match[i])
            rc = IC_ENOMEM;
    }
    rc = rc == IC_OK ? run_stage(&r, 0, text, bytes)
                     : ic_error_set(e, rc, "no memory to cut a text into pieces");
    for (int i = 0; i < s->count; i++)
        pcre2_match_data_free(r.match[i]);
    pcre2_match_context_free(r.context);
    return rc;
}
