#include "engine/ic_grammar.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/ic_mem.h"
#include "kernels/ic_slab.h"

/* --- families: data ----------------------------------------------------------------------------
 */

/* A chat format of the ChatML kind with pictures between markers. */
typedef struct chat_family {
    const char *name;
    const char *turn_start, *turn_end, *after_turn; /* token, token, text */
    const char *system, *user, *assistant;          /* text after turn_start */
    const char *vision_start, *vision_end, *image_pad, *video_pad;
    uint64_t templates[4]; /* hash_template of the templates that write this; 0: no more */
} chat_family;

static const chat_family families[] = {
    {
        .name = "qwen3-vl",
        .turn_start = "<|im_start|>",
        .turn_end = "<|im_end|>",
        .after_turn = "\n",
        .system = "system\n",
        .user = "user\n",
        .assistant = "assistant\n",
        .vision_start = "<|vision_start|>",
        .vision_end = "<|vision_end|>",
        .image_pad = "<|image_pad|>",
        .video_pad = "<|video_pad|>",
        .templates =
            {
                0x9843d50cdbd8efb7ULL, /* Qwen3-VL-*-Instruct */
                0x04b764a338808d8eULL, /* models/demo: the same without tools */
            },
    },
};
enum { FAMILIES = sizeof families / sizeof *families };

struct ic_grammar {
    const chat_family *family;
    const ic_tokenizer *tokenizer;
    int32_t turn_start, turn_end, vision_start, vision_end, image_pad, video_pad;
};

typedef enum turn_kind { TURN_START, TURN_NONE, TURN_USER, TURN_ASSISTANT, TURN_COUNT } turn_kind;

struct ic_grammar_state {
    const ic_grammar *grammar;
    turn_kind turn;
    uint32_t groups;      /* given out so far */
    uint32_t pinned_head; /* of `held`: so many bytes at its front are pinned */
    ic_buf held;          /* the text since the last special token */
};

/* --- which family ------------------------------------------------------------------------------
 */

/* FNV-1a over the template with every run of white space as one space and none at the ends, so that
 * a copy that was only reflowed is the same template. */
static uint64_t hash_template(const char *text)
{
    uint64_t h = 0xCBF29CE484222325ULL;
    bool space = false, begun = false;
    for (const char *p = text; *p; p++) {
        if (strchr(" \t\r\n", *p)) {
            space = begun;
            continue;
        }
        if (space)
            h = (h ^ ' ') * 0x100000001B3ULL;
        h = (h ^ (uint8_t)*p) * 0x100000001B3ULL;
        space = false;
        begun = true;
    }
    return h;
}

/* The string `chat_template` of a JSON file, or its template "default" where there are several. */
static char *template_in_json(const char *path)
{
    json_t *root = json_load_file(path, 0, NULL);
    const json_t *v = json_object_get(root, "chat_template");
    const char *text = json_string_value(v);
    size_t i;
    const json_t *part;
    json_array_foreach(v, i, part)
    {
        const char *name = json_string_value(json_object_get(part, "name"));
        if (name && strcmp(name, "default") == 0)
            text = json_string_value(json_object_get(part, "template"));
    }
    char *copy = text ? ic_strdup(text) : NULL;
    json_decref(root);
    return copy;
}

static char *template_in_file(const char *path)
{
    enum { MOST = 1 << 20 };
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    char *text = ic_alloc(MOST + 1);
    text[fread(text, 1, MOST, f)] = '\0';
    fclose(f);
    return text;
}

/* The directory's template, where the versions of transformers put it, newest first. Caller owns.
 */
static char *read_template(const char *dir)
{
    static const char *const names[] = {"chat_template.jinja", "chat_template.json",
                                        "tokenizer_config.json"};
    char *text = NULL;
    for (int i = 0; i < 3 && !text; i++) {
        char *path = ic_strf("%s/%s", dir, names[i]);
        text = i == 0 ? template_in_file(path) : template_in_json(path);
        ic_free(path);
    }
    return text;
}

static const chat_family *family_by_template(const char *dir, ic_error *e)
{
    char *text = read_template(dir);
    uint64_t hash = text ? hash_template(text) : 0;
    ic_free(text);
    if (!hash) {
        ic_error_set(e, IC_EUNSUPPORTED,
                     "%s has no chat template; name the prompt grammar (for example %s)", dir,
                     families[0].name);
        return NULL;
    }
    for (int i = 0; i < FAMILIES; i++)
        for (int k = 0; k < 4 && families[i].templates[k]; k++)
            if (families[i].templates[k] == hash)
                return &families[i];
    ic_error_set(e, IC_EUNSUPPORTED,
                 "%s: the chat template (hash %016llx) is not known to this build; if it writes "
                 "conversations as a known family does, name that (for example %s)",
                 dir, (unsigned long long)hash, families[0].name);
    return NULL;
}

static const chat_family *family_by_name(const char *name, ic_error *e)
{
    for (int i = 0; i < FAMILIES; i++)
        if (strcmp(families[i].name, name) == 0)
            return &families[i];
    ic_error_set(e, IC_EUNSUPPORTED, "the prompt grammar %s is not known; known is %s", name,
                 families[0].name);
    return NULL;
}

static int find_tokens(ic_grammar *g, ic_error *e)
{
    const chat_family *f = g->family;
    const struct {
        const char *text;
        int32_t *id;
    } tokens[] = {
        {f->turn_start, &g->turn_start},     {f->turn_end, &g->turn_end},
        {f->vision_start, &g->vision_start}, {f->vision_end, &g->vision_end},
        {f->image_pad, &g->image_pad},       {f->video_pad, &g->video_pad},
    };
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        *tokens[i].id = ic_tokenizer_id(g->tokenizer, tokens[i].text);
        if (*tokens[i].id < 0)
            return ic_error_set(e, IC_EFORMAT,
                                "tokenizer.json has no token %s, which the prompt grammar %s needs",
                                tokens[i].text, f->name);
    }
    return IC_OK;
}

int ic_grammar_open(ic_grammar **out, const char *dir, const char *family, const ic_tokenizer *t,
                    ic_error *e)
{
    *out = NULL;
    ic_grammar g = {.tokenizer = t};
    g.family = family ? family_by_name(family, e) : family_by_template(dir, e);
    if (!g.family)
        return IC_EUNSUPPORTED;
    int rc = find_tokens(&g, e);
    if (rc != IC_OK)
        return rc;
    *out = ic_alloc(sizeof g);
    **out = g;
    return IC_OK;
}

void ic_grammar_close(ic_grammar **g_p)
{
    ic_free(*g_p);
    *g_p = NULL;
}

const char *ic_grammar_family(const ic_grammar *g)
{
    return g->family->name;
}

int32_t ic_grammar_turn_end(const ic_grammar *g)
{
    return g->turn_end;
}

/* --- rows --------------------------------------------------------------------------------------
 */

void ic_grammar_rows_fini(ic_grammar_rows *r)
{
    ic_free(r->row);
    *r = (ic_grammar_rows){0};
}

static int push(ic_grammar_rows *r, ic_grammar_row row, ic_error *e)
{
    if (r->count == r->capacity) {
        int capacity = r->capacity ? r->capacity * 2 : 64;
        ic_grammar_row *more = ic_try_calloc((size_t)capacity, sizeof *more);
        if (!more)
            return ic_error_set(e, IC_ENOMEM, "no memory for %d rows", capacity);
        if (r->count)
            memcpy(more, r->row, (size_t)r->count * sizeof *more);
        ic_free(r->row);
        r->row = more;
        r->capacity = capacity;
    }
    r->row[r->count++] = row;
    return IC_OK;
}

static int push_token(ic_grammar_rows *r, int32_t id, bool pinned, ic_error *e)
{
    return push(r, (ic_grammar_row){.id = id, .kind = IC_ROW_TEXT, .pinned = pinned, .patch = -1},
                e);
}

static int push_marker(ic_grammar_rows *r, int32_t id, uint32_t group, ic_error *e)
{
    return push(r, (ic_grammar_row){.id = id, .kind = IC_ROW_MARKER, .group = group, .patch = -1},
                e);
}

static int hold(ic_grammar_state *s, const char *text, ic_error *e)
{
    size_t n = strlen(text);
    if (n > IC_TOKENIZER_MAX_TEXT - s->held.size)
        return ic_error_set(
            e, IC_ELIMIT,
            "%zu more bytes of text would make more than %d in one stretch: ask, or "
            "send them in another turn",
            n, IC_TOKENIZER_MAX_TEXT);
    return ic_buf_append(&s->held, text, n) == IC_OK
               ? IC_OK
               : ic_error_set(e, s->held.status, "no memory to hold %zu bytes of text", n);
}

/* The stretch is complete: its rows. The tokens that lie wholly within its last `tail` bytes belong
 * to the group; those wholly within its pinned head, or all of it, are pinned. Bytes are counted
 * from the ends, where the template wrote ASCII: between them NFC may have changed the length. */
static int settle(ic_grammar_state *s, size_t tail, uint32_t group, bool pinned,
                  ic_grammar_rows *out, ic_error *e)
{
    int32_t *ids = NULL;
    int count = 0, first = out->count;
    const ic_tokenizer *t = s->grammar->tokenizer;
    int rc =
        ic_tokenizer_encode(t, (const char *)s->held.data, s->held.size, false, &ids, &count, e);
    size_t head = 0;
    for (int i = 0; i < count && rc == IC_OK; i++) {
        size_t bytes;
        ic_tokenizer_piece(t, ids[i], &bytes);
        head += bytes;
        rc = push_token(out, ids[i], pinned || head <= s->pinned_head, e);
    }
    size_t end = 0;
    for (int i = count - 1; i >= 0 && rc == IC_OK; i--) {
        size_t bytes;
        ic_tokenizer_piece(t, ids[i], &bytes);
        end += bytes;
        if (end > tail)
            break;
        out->row[first + i].kind = IC_ROW_MARKER;
        out->row[first + i].group = group;
    }
    ic_free(ids);
    ic_buf_clear(&s->held);
    s->pinned_head = 0;
    return rc;
}

/* --- the state -----------------------------------------------------------------------------------
 */

ic_grammar_state *ic_grammar_state_new(const ic_grammar *g)
{
    ic_grammar_state *s = ic_alloc(sizeof *s);
    s->grammar = g;
    ic_buf_init(&s->held, IC_TOKENIZER_MAX_TEXT);
    return s;
}

void ic_grammar_state_destroy(ic_grammar_state **s_p)
{
    if (!*s_p)
        return;
    ic_buf_fini(&(*s_p)->held);
    ic_free(*s_p);
    *s_p = NULL;
}

int ic_grammar_state_save(const ic_grammar_state *s, ic_buf *out)
{
    ic_buf_u8(out, (uint8_t)s->turn);
    ic_buf_u32(out, s->groups);
    ic_buf_u32(out, s->pinned_head);
    return ic_buf_blob(out, s->held.data, (uint32_t)s->held.size);
}

int ic_grammar_state_load(ic_grammar_state *s, ic_cursor *in, ic_error *e)
{
    uint8_t turn = ic_cursor_u8(in);
    uint32_t groups = ic_cursor_u32(in), pinned_head = ic_cursor_u32(in), bytes = 0;
    const void *held = ic_cursor_blob(in, &bytes);
    if (in->status != IC_OK || turn >= TURN_COUNT || bytes > IC_TOKENIZER_MAX_TEXT
        || pinned_head > bytes)
        return ic_error_set(e, IC_EFORMAT, "the prompt grammar's saved state is garbled");
    ic_buf_clear(&s->held);
    if (bytes && ic_buf_append(&s->held, held, bytes) != IC_OK)
        return ic_error_set(e, s->held.status, "no memory to hold %u bytes of text", bytes);
    s->turn = (turn_kind)turn;
    s->groups = groups;
    s->pinned_head = pinned_head;
    return IC_OK;
}

/* --- turns
 * ----------------------------------------------------------------------------------------- */

/* Between an ended turn and the next special token there is nothing but this text. */
static int end_turn(ic_grammar_state *s, bool pinned, ic_grammar_rows *out, ic_error *e)
{
    int rc = hold(s, s->grammar->family->after_turn, e);
    return rc == IC_OK ? settle(s, 0, 0, pinned, out, e) : rc;
}

static int open_user(ic_grammar_state *s, ic_grammar_rows *out, ic_error *e)
{
    if (s->turn == TURN_USER)
        return IC_OK;
    if (s->turn == TURN_ASSISTANT)
        return ic_error_set(e, IC_EBUSY, "an answer is being given: what comes now has to wait");
    bool first = s->turn == TURN_START;
    s->turn = TURN_USER;
    int rc = push_token(out, s->grammar->turn_start, first, e);
    if (rc == IC_OK)
        rc = hold(s, s->grammar->family->user, e);
    s->pinned_head = first ? (uint32_t)s->held.size : 0;
    return rc;
}

int ic_grammar_system(ic_grammar_state *s, const char *text, ic_grammar_rows *out, ic_error *e)
{
    if (s->turn != TURN_START)
        return ic_error_set(e, IC_EINVAL, "the system turn comes before everything else, once");
    s->turn = TURN_NONE;
    int rc = push_token(out, s->grammar->turn_start, true, e);
    if (rc == IC_OK)
        rc = hold(s, s->grammar->family->system, e);
    if (rc == IC_OK)
        rc = hold(s, text, e);
    if (rc == IC_OK)
        rc = settle(s, 0, 0, true, out, e);
    if (rc == IC_OK)
        rc = push_token(out, s->grammar->turn_end, true, e);
    return rc == IC_OK ? end_turn(s, true, out, e) : rc;
}

/* A group after its text, if it has one, of `tail` bytes: the stretch, the markers, the vision
 * rows. */
static int push_group(ic_grammar_state *s, int32_t pad, int tokens, size_t tail, uint32_t *group,
                      ic_grammar_rows *out, ic_error *e)
{
    const ic_grammar *g = s->grammar;
    *group = ++s->groups;
    int rc = settle(s, tail, *group, false, out, e);
    if (rc == IC_OK)
        rc = push_marker(out, g->vision_start, *group, e);
    for (int32_t i = 0; i < tokens && rc == IC_OK; i++)
        rc = push(out,
                  (ic_grammar_row){.id = pad, .kind = IC_ROW_VISION, .group = *group, .patch = i},
                  e);
    return rc == IC_OK ? push_marker(out, g->vision_end, *group, e) : rc;
}

static int check_grid(int grid_h, int grid_w, ic_error *e)
{
    enum { MOST = 1 << 15 };
    if (grid_h < 1 || grid_w < 1 || grid_h > MOST || grid_w > MOST || grid_h * grid_w > 16 * MOST)
        return ic_error_set(e, IC_EINVAL, "a picture of %d x %d tokens", grid_h, grid_w);
    return IC_OK;
}

int ic_grammar_frames(ic_grammar_state *s, double seconds, int grid_h, int grid_w, uint32_t *group,
                      ic_grammar_rows *out, ic_error *e)
{
    char stamp[48];
    int rc = check_grid(grid_h, grid_w, e);
    if (rc == IC_OK && !(seconds >= 0.0 && seconds < 1e9))
        rc = ic_error_set(e, IC_EINVAL, "a frame at %g seconds", seconds);
    if (rc == IC_OK)
        rc = open_user(s, out, e);
    if (rc != IC_OK)
        return rc;
    /* Half of a tenth is rounded as Python does it: by the exact binary value, ties to even. */
    int n = snprintf(stamp, sizeof stamp, "<%.1f seconds>", seconds);
    stamp[1 + strspn(stamp + 1, "0123456789")] = '.'; /* in every locale */
    rc = hold(s, stamp, e);
    return rc == IC_OK
               ? push_group(s, s->grammar->video_pad, grid_h * grid_w, (size_t)n, group, out, e)
               : rc;
}

int ic_grammar_image(ic_grammar_state *s, int grid_h, int grid_w, uint32_t *group,
                     ic_grammar_rows *out, ic_error *e)
{
    int rc = check_grid(grid_h, grid_w, e);
    if (rc == IC_OK)
        rc = open_user(s, out, e);
    return rc == IC_OK ? push_group(s, s->grammar->image_pad, grid_h * grid_w, 0, group, out, e)
                       : rc;
}

int ic_grammar_text(ic_grammar_state *s, const char *text, ic_grammar_rows *out, ic_error *e)
{
    int rc = open_user(s, out, e);
    return rc == IC_OK ? hold(s, text, e) : rc;
}

int ic_grammar_raw(ic_grammar_state *s, const char *text, ic_grammar_rows *out, ic_error *e)
{
    if (s->turn == TURN_USER || s->turn == TURN_ASSISTANT)
        return ic_error_set(e, IC_EBUSY, "plain text cannot come within a turn");
    int rc = hold(s, text, e);
    return rc == IC_OK ? settle(s, 0, 0, false, out, e) : rc;
}

int ic_grammar_ask(ic_grammar_state *s, ic_grammar_rows *out, ic_error *e)
{
    const ic_grammar *g = s->grammar;
    int rc = open_user(s, out, e);
    if (rc == IC_OK)
        rc = settle(s, 0, 0, false, out, e);
    if (rc == IC_OK)
        rc = push_token(out, g->turn_end, false, e);
    if (rc == IC_OK)
        rc = end_turn(s, false, out, e);
    if (rc == IC_OK)
        rc = push_token(out, g->turn_start, false, e);
    if (rc == IC_OK)
        rc = hold(s, g->family->assistant, e);
    if (rc == IC_OK)
        rc = settle(s, 0, 0, false, out, e);
    s->turn = TURN_ASSISTANT;
    return rc;
}

int ic_grammar_answered(ic_grammar_state *s, int32_t last, ic_grammar_rows *out, ic_error *e)
{
    if (s->turn != TURN_ASSISTANT)
        return ic_error_set(e, IC_EINVAL, "no answer is open");
    s->turn = TURN_NONE;
    int rc = last == s->grammar->turn_end ? IC_OK : push_token(out, s->grammar->turn_end, false, e);
    return rc == IC_OK ? end_turn(s, false, out, e) : rc;
}
