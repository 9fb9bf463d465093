/* The tables made from ic_wire_msgs.def, the look-ups by name, and the check of one value. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "wire/ic_wire_priv.h"

/* clang-format off */

/* words_<list>[] */
#define IC_WIRE_BEGIN(r)
#define IC_WIRE_FIELD(r, name, kind, arg, need, lo, hi)
#define IC_WIRE_END(r)
#define IC_WIRE_VERB(name, r, from, body_max, payload_max)
#define IC_WIRE_WORDS(name, ...) static const char *const words_##name[] = {__VA_ARGS__, NULL};
#define IC_WIRE_CODE(name, retryable)
#include "wire/ic_wire_msgs.def"

#define WORDS_U64(arg)   NULL
#define WORDS_I64(arg)   NULL
#define WORDS_F64(arg)   NULL
#define WORDS_BOOL(arg)  NULL
#define WORDS_STR(arg)   NULL
#define WORDS_ID(arg)    NULL
#define WORDS_ENUM(arg)  words_##arg
#define WORDS_OPEN(arg)  words_##arg
#define WORDS_STRS(arg)  NULL
#define WORDS_REC(arg)   NULL
#define WORDS_LIST(arg)  NULL
#define RECORD_U64(arg)  NULL
#define RECORD_I64(arg)  NULL
#define RECORD_F64(arg)  NULL
#define RECORD_BOOL(arg) NULL
#define RECORD_STR(arg)  NULL
#define RECORD_ID(arg)   NULL
#define RECORD_ENUM(arg) NULL
#define RECORD_OPEN(arg) NULL
#define RECORD_STRS(arg) NULL
#define RECORD_REC(arg)  &record_##arg
#define RECORD_LIST(arg) &record_##arg
#define REQ true
#define OPT false

/* record_<record> */
#define IC_WIRE_BEGIN(r) static const ic_wire_field fields_##r[IC_WIRE_F_##r##_COUNT + 1] = {
#define IC_WIRE_FIELD(r, name, kind, arg, need, lo, hi) \
    {#name, IC_WIRE_T_##kind, need, offsetof(ic_wire_##r, name), lo, hi, WORDS_##kind(arg), RECORD_##kind(arg)},
#define IC_WIRE_END(r) {0}}; \
    _Static_assert(IC_WIRE_F_##r##_COUNT <= 64, "one bit per field"); \
    _Static_assert(offsetof(ic_wire_##r, has) == 0, "ic_wire_head"); \
    static const ic_wire_record record_##r = {#r, sizeof(ic_wire_##r), IC_WIRE_F_##r##_COUNT, fields_##r};
#define IC_WIRE_VERB(name, r, from, body_max, payload_max)
#define IC_WIRE_WORDS(name, ...)
#define IC_WIRE_CODE(name, retryable)
#include "wire/ic_wire_msgs.def"

static const ic_wire_record *const records[] = {
#define IC_WIRE_BEGIN(r) &record_##r,
#define IC_WIRE_FIELD(r, name, kind, arg, need, lo, hi)
#define IC_WIRE_END(r)
#define IC_WIRE_VERB(name, r, from, body_max, payload_max)
#define IC_WIRE_WORDS(name, ...)
#define IC_WIRE_CODE(name, retryable)
#include "wire/ic_wire_msgs.def"
};

typedef struct verb_row {
    const char *name;
    const ic_wire_record *record;
    ic_wire_from from;
    size_t body_max, payload_max;
} verb_row;

static const verb_row verbs[IC_WIRE_VERB_COUNT] = {
#define IC_WIRE_BEGIN(r)
#define IC_WIRE_FIELD(r, name, kind, arg, need, lo, hi)
#define IC_WIRE_END(r)
#define IC_WIRE_VERB(name, r, from, body_max, payload_max) \
    [IC_WIRE_##name] = {#name, &record_##r, IC_WIRE_FROM_##from, body_max, payload_max},
#define IC_WIRE_WORDS(name, ...)
#define IC_WIRE_CODE(name, retryable)
#include "wire/ic_wire_msgs.def"
};

static const struct {
    const char *name;
    const char *const *words;
} word_lists[] = {
#define IC_WIRE_BEGIN(r)
#define IC_WIRE_FIELD(r, name, kind, arg, need, lo, hi)
#define IC_WIRE_END(r)
#define IC_WIRE_VERB(name, r, from, body_max, payload_max)
#define IC_WIRE_WORDS(name, ...) {#name, words_##name},
#define IC_WIRE_CODE(name, retryable)
#include "wire/ic_wire_msgs.def"
};

static const struct {
    const char *name;
    bool retryable;
} codes[IC_WIRE_CODE_COUNT] = {
#define IC_WIRE_BEGIN(r)
#define IC_WIRE_FIELD(r, name, kind, arg, need, lo, hi)
#define IC_WIRE_END(r)
#define IC_WIRE_VERB(name, r, from, body_max, payload_max)
#define IC_WIRE_WORDS(name, ...)
#define IC_WIRE_CODE(name, retryable) {#name, retryable},
#include "wire/ic_wire_msgs.def"
};
/* clang-format on */

static const verb_row *verb_at(ic_wire_verb verb)
{
    return verb > IC_WIRE_NONE && verb < IC_WIRE_VERB_COUNT ? &verbs[verb] : NULL;
}

const ic_wire_record *ic_wire_verb_record(ic_wire_verb verb)
{
    const verb_row *v = verb_at(verb);
    return v ? v->record : NULL;
}

const ic_wire_record *ic_wire_record_of(const char *name)
{
    for (size_t i = 0; i < sizeof records / sizeof *records; i++)
        if (!strcmp(records[i]->name, name))
            return records[i];
    return NULL;
}

const char *ic_wire_verb_name(ic_wire_verb verb)
{
    const verb_row *v = verb_at(verb);
    return v ? v->name : "?";
}

ic_wire_verb ic_wire_verb_of(const char *name, size_t size)
{
    for (int v = IC_WIRE_NONE + 1; v < IC_WIRE_VERB_COUNT; v++)
        if (strlen(verbs[v].name) == size && !memcmp(verbs[v].name, name, size))
            return (ic_wire_verb)v;
    return IC_WIRE_NONE;
}

bool ic_wire_verb_from_client(ic_wire_verb verb)
{
    const verb_row *v = verb_at(verb);
    return v && v->from == IC_WIRE_FROM_CLIENT;
}

size_t ic_wire_body_max(ic_wire_verb verb)
{
    const verb_row *v = verb_at(verb);
    return v ? v->body_max : 0;
}

size_t ic_wire_payload_max(ic_wire_verb verb)
{
    const verb_row *v = verb_at(verb);
    return v ? v->payload_max : 0;
}

size_t ic_wire_signature(ic_wire_verb verb, uint8_t out[IC_WIRE_SIGNATURE_MAX])
{
    const char *name = ic_wire_verb_name(verb);
    size_t size = strlen(name);
    memcpy(out, "ICW", 3);
    out[3] = IC_WIRE_VERSION;
    memcpy(out + 4, name, size);
    return 4 + size;
}

const char *ic_wire_code_name(ic_wire_code code)
{
    return (unsigned)code < IC_WIRE_CODE_COUNT ? codes[code].name : "INTERNAL";
}

ic_wire_code ic_wire_code_of(const char *name)
{
    for (int i = 0; i < IC_WIRE_CODE_COUNT; i++)
        if (!strcmp(codes[i].name, name))
            return (ic_wire_code)i;
    return IC_WIRE_CODE_INTERNAL;
}

bool ic_wire_code_is_retryable(ic_wire_code code)
{
    return (unsigned)code < IC_WIRE_CODE_COUNT && codes[code].retryable;
}

ic_wire_code ic_wire_code_from_err(int err)
{
    switch (err) {
    case IC_EINVAL:
    case IC_EFORMAT:
        return IC_WIRE_CODE_INVALID;
    case IC_ELIMIT:
        return IC_WIRE_CODE_LIMIT;
    case IC_ENOMEM:
    case IC_EAGAIN:
    case IC_EBUSY:
        return IC_WIRE_CODE_BUSY;
    case IC_EIO:
        return IC_WIRE_CODE_STORE;
    case IC_ECLOSED:
    case IC_ECANCELED:
        return IC_WIRE_CODE_SHUTDOWN;
    case IC_ETIMEOUT:
        return IC_WIRE_CODE_TIMEOUT;
    case IC_EVERSION:
        return IC_WIRE_CODE_VERSION;
    case IC_EDEVICE:
        return IC_WIRE_CODE_DEVICE;
    case IC_ENOTFOUND:
        return IC_WIRE_CODE_NOTFOUND;
    case IC_EEXIST:
    case IC_ECONFLICT:
        return IC_WIRE_CODE_CONFLICT;
    case IC_EMISMATCH:
        return IC_WIRE_CODE_MISMATCH;
    case IC_EUNSUPPORTED:
        return IC_WIRE_CODE_UNSUPPORTED;
    default:
        return IC_WIRE_CODE_INTERNAL;
    }
}

static const char *const *words_of(const char *list)
{
    for (size_t i = 0; i < sizeof word_lists / sizeof *word_lists; i++)
        if (!strcmp(word_lists[i].name, list))
            return word_lists[i].words;
    return NULL;
}

size_t ic_wire_words_count(const char *const *words)
{
    size_t count = 0;
    while (words && words[count])
        count++;
    return count;
}

const char *ic_wire_word(const char *list, int value)
{
    const char *const *words = words_of(list);
    return value >= 0 && (size_t)value < ic_wire_words_count(words) ? words[value] : "?";
}

int ic_wire_word_of(const char *list, const char *word)
{
    const char *const *words = words_of(list);
    for (size_t i = 0; i < ic_wire_words_count(words); i++)
        if (!strcmp(words[i], word))
            return (int)i;
    return -1;
}

/* The place of a field that many verbs have, or NULL; its bit in `has`. */
static void *shared_field(const ic_wire_msg *m, const char *name, uint64_t *bit)
{
    const ic_wire_record *r = ic_wire_verb_record(m->verb);
    for (size_t i = 0; r && i < r->count; i++)
        if (!strcmp(r->fields[i].name, name)) {
            *bit = (uint64_t)1 << i;
            return (char *)&m->hello + r->fields[i].offset;
        }
    return NULL;
}

static bool get_shared(const ic_wire_msg *m, const char *name, void *value, size_t size)
{
    uint64_t bit;
    const void *field = shared_field(m, name, &bit);
    if (!field || !(m->hello.has & bit))
        return false;
    memcpy(value, field, size);
    return true;
}

static bool set_shared(ic_wire_msg *m, const char *name, const void *value, size_t size)
{
    uint64_t bit;
    void *field = shared_field(m, name, &bit);
    if (!field)
        return false;
    memcpy(field, value, size);
    m->hello.has |= bit;
    return true;
}

bool ic_wire_msg_get_re(const ic_wire_msg *m, uint64_t *re)
{
    return get_shared(m, "re", re, sizeof *re);
}

bool ic_wire_msg_set_re(ic_wire_msg *m, uint64_t re)
{
    return set_shared(m, "re", &re, sizeof re);
}

bool ic_wire_msg_get_key(const ic_wire_msg *m, ic_wire_id *key)
{
    return get_shared(m, "key", key, sizeof *key);
}

bool ic_wire_msg_set_key(ic_wire_msg *m, const ic_wire_id *key)
{
    return set_shared(m, "key", key, sizeof *key);
}

const char *ic_wire_msg_session(const ic_wire_msg *m)
{
    const char *session = NULL;
    return get_shared(m, "session", &session, sizeof session) ? session : NULL;
}

const char *ic_wire_path_text(const ic_wire_path *path, char out[IC_WIRE_PATH_MAX])
{
    char up[IC_WIRE_PATH_MAX];
    if (path->up)
        snprintf(out, IC_WIRE_PATH_MAX, "%.100s.%.24s", ic_wire_path_text(path->up, up),
                 path->name);
    else
        snprintf(out, IC_WIRE_PATH_MAX, "%.100s", path->name);
    return out;
}

int ic_wire_check_str(const char *s, size_t size, int64_t lo, uint64_t hi, const ic_wire_path *path,
                      ic_error *e)
{
    char where[IC_WIRE_PATH_MAX];
    if (size < (uint64_t)lo || size > hi)
        return ic_error_set(e, IC_EINVAL, "%s has %zu bytes; %lld to %llu are allowed",
                            ic_wire_path_text(path, where), size, (long long)lo,
                            (unsigned long long)hi);
    if (memchr(s, 0, size))
        return ic_error_set(e, IC_EINVAL, "%s contains a zero byte",
                            ic_wire_path_text(path, where));
    if (!ic_wire_is_utf8(s, size))
        return ic_error_set(e, IC_EINVAL, "%s is not UTF-8", ic_wire_path_text(path, where));
    return IC_OK;
}

static int check_u64(const ic_wire_field *f, uint64_t v, const ic_wire_path *path, ic_error *e)
{
    char where[IC_WIRE_PATH_MAX];
    if (v >= (uint64_t)f->lo && v <= f->hi)
        return IC_OK;
    return ic_error_set(e, IC_EINVAL, "%s is %llu; %lld to %llu is allowed",
                        ic_wire_path_text(path, where), (unsigned long long)v, (long long)f->lo,
                        (unsigned long long)f->hi);
}

static int check_i64(const ic_wire_field *f, int64_t v, const ic_wire_path *path, ic_error *e)
{
    char where[IC_WIRE_PATH_MAX];
    if (v >= f->lo && v <= (int64_t)f->hi)
        return IC_OK;
    return ic_error_set(e, IC_EINVAL, "%s is %lld; %lld to %lld is allowed",
                        ic_wire_path_text(path, where), (long long)v, (long long)f->lo,
                        (long long)f->hi);
}

static int check_f64(const ic_wire_field *f, double v, const ic_wire_path *path, ic_error *e)
{
    char where[IC_WIRE_PATH_MAX];
    if (isfinite(v) && v >= (double)f->lo && v <= (double)f->hi)
        return IC_OK;
    return ic_error_set(e, IC_EINVAL, "%s is %g; %lld to %llu is allowed",
                        ic_wire_path_text(path, where), v, (long long)f->lo,
                        (unsigned long long)f->hi);
}

int ic_wire_check(const ic_wire_field *f, const void *value, const ic_wire_path *path, ic_error *e)
{
    char where[IC_WIRE_PATH_MAX];
    switch (f->kind) {
    case IC_WIRE_T_U64:
        return check_u64(f, *(const uint64_t *)value, path, e);
    case IC_WIRE_T_I64:
        return check_i64(f, *(const int64_t *)value, path, e);
    case IC_WIRE_T_F64:
        return check_f64(f, *(const double *)value, path, e);
    case IC_WIRE_T_STR: {
        const char *s = *(const char *const *)value;
        if (!s)
            return ic_error_set(e, IC_EINVAL, "%s is a null pointer",
                                ic_wire_path_text(path, where));
        return ic_wire_check_str(s, strlen(s), f->lo, f->hi, path, e);
    }
    case IC_WIRE_T_ENUM:
    case IC_WIRE_T_OPEN: {
        int v = *(const int *)value;
        if (v < 0 || (size_t)v >= ic_wire_words_count(f->words))
            return ic_error_set(e, IC_EINVAL, "%s has no word for %d",
                                ic_wire_path_text(path, where), v);
        return IC_OK;
    }
    default:
        return IC_OK;
    }
}
