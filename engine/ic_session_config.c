/* What a session is made with: limits, the settings of policies as one table, and what they mean.
 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "engine/ic_session_priv.h"

enum {
    CACHE_DEFAULT = 8192,
    CACHE_MIN = 32,
    CACHE_MAX = 1 << 22,
    CHUNK_DEFAULT = 512,
    CHUNK_MIN = 16,
    SLACK_DEFAULT = 512,
    SINKS_DEFAULT = 4,
    WINDOW_MAX = 128,
    BIAS_MAX = 100000, /* hundredths */
    POOL_MAX = 63,
    FADE_MAX = 400, /* hundredths */
    CARE_MAX = 100000,
    MEANING_VERSION = 2 /* of the text that is hashed; a new one orphans every checkpoint */
};

/* --- the table of settings ----------------------------------------------------------------------
 */

typedef struct setting_row {
    const char *name;
    size_t offset;
    int low, high; /* high 0: the budget */
    const char *cure;
} setting_row;

#define SETTING(member) offsetof(ic_session_config, member)

/* In the order of ic_setting, in which they are saved too: only ever append. */
static const setting_row settings[IC_SETTINGS] = {
    [IC_SET_SINKS] = {"sinks", SETTING(sinks), 0, 0, "0 keeps none"},
    [IC_SET_WINDOW] = {"window", SETTING(window), 0, WINDOW_MAX, "0 leaves it to the policy"},
    [IC_SET_RECENT] = {"recent_pct", SETTING(recent_pct), -1, 100, "it is a share in percent"},
    [IC_SET_BIAS] = {"bias", SETTING(bias_pct), -1, BIAS_MAX, "0 is none"},
    [IC_SET_SMOOTH] = {"smooth_pct", SETTING(smooth_pct), -1, 99, "0 is none"},
    [IC_SET_POOL] = {"pool", SETTING(pool), 0, POOL_MAX, "1 pools nothing"},
    [IC_SET_PER_LAYER] = {"granularity", SETTING(per_layer), 0, 1, "0 is head, 1 is layer"},
    [IC_SET_FRAMES] = {"frames", SETTING(frames), 0, CACHE_MAX, "0 leaves it to the policy"},
    [IC_SET_POSITIONS] = {"positions", SETTING(positions), 0, 1, "0 is compact, 1 is original"},
    [IC_SET_FRAME_UNIT] = {"frame_unit", SETTING(frame_unit), 0, 2, "1 is tokens, 2 is whole"},
    [IC_SET_QUESTIONS] = {"questions", SETTING(questions), -1, WINDOW_MAX, "0 is none"},
    [IC_SET_THIN] = {"thin", SETTING(thin), -1, CACHE_MAX, "0 thins out nothing"},
    [IC_SET_FADE] = {"fade", SETTING(fade_pct), -1, FADE_MAX, "0 is none"},
    [IC_SET_CARE] = {"care", SETTING(care_pct), -1, CARE_MAX, "0 is none"},
    [IC_SET_TEXT] = {"text_pct", SETTING(text_pct), -1, 100, "it is a share in percent"},
};

static int *value_of(ic_session_config *c, int i)
{
    return (int *)(void *)((char *)c + settings[i].offset);
}

static int get(const ic_session_config *c, int i)
{
    return *(const int *)(const void *)((const char *)c + settings[i].offset);
}

const char *ic_setting_name(ic_setting setting)
{
    return settings[setting].name;
}

/* Thinning keeps single rows of a frame, and whole frames forbid just that. */
static int check_frames(const ic_session_config *c, ic_error *e)
{
    const uint32_t both = IC_USES(IC_SET_THIN) | IC_USES(IC_SET_FRAME_UNIT);
    if (c->thin <= 0 || c->frame_unit != IC_FRAME_WHOLE
        || (ic_session_config_used(c) & both) != both)
        return IC_OK;
    return ic_error_set(e, IC_EINVAL,
                        "thin %d keeps single tokens of older frames, which frame_unit whole "
                        "forbids: set thin to 0, or frame_unit to tokens",
                        c->thin);
}

static int check_settings(const ic_session_config *c, ic_error *e)
{
    for (int i = 0; i < IC_SETTINGS; i++) {
        const setting_row *s = &settings[i];
        int high = s->high ? s->high : c->cache_tokens;
        if (get(c, i) >= s->low && get(c, i) <= high)
            continue;
        if (i == IC_SET_BIAS)
            return ic_error_set(e, IC_EINVAL, "bias %.2f is not in 0 .. %d; 0 is none",
                                get(c, i) / 100.0, high / 100);
        return ic_error_set(e, IC_EINVAL, "%s %d is not in %d .. %d; %s", s->name, get(c, i),
                            s->low > 0 ? s->low : 0, high, s->cure);
    }
    if (c->pool && c->pool % 2 == 0)
        return ic_error_set(e, IC_EINVAL,
                            "pool %d is not odd: a row stands in the middle of its neighbours; "
                            "take %d or %d",
                            c->pool, c->pool - 1, c->pool + 1);
    return check_frames(c, e);
}

uint32_t ic_session_config_used(const ic_session_config *c)
{
    const ic_policy *p = ic_policy_find(c->policy);
    return p ? p->settings | IC_USES(IC_SET_POSITIONS) : 0;
}

int ic_session_config_check_used(const ic_session_config *c, uint32_t given, ic_error *e)
{
    const ic_policy *p = ic_policy_find(c->policy);
    uint32_t unused = given & ~ic_session_config_used(c);
    for (int i = 0; p && i < IC_SETTINGS; i++)
        if (unused >> i & 1)
            return ic_error_set(e, IC_EINVAL,
                                "policy \"%s\" has no use for %s: leave it out, or choose a policy "
                                "that has (docs/policies.md)",
                                p->name, settings[i].name);
    return IC_OK;
}

/* What was not written down yet is as it was then. */
void ic_session_config_forget_later(ic_session_config *c)
{
    c->frame_unit = IC_FRAME_TOKENS;
    c->questions = c->thin = c->fade_pct = c->care_pct = c->text_pct = -1;
}

/* What version 1 of a session's record and version 2 of its state left to the policies, as they
 * were then. */
void ic_session_config_settle_old(ic_session_config *c)
{
    static const struct {
        const char *policy;
        int recent_pct, bias_pct, pool;
    } old[] = {{"saddle", 50, 100, 15},
               {"saddle-paper", 50, 100, 1},
               {"h2o", 50, 0, 1},
               {"snapkv", 0, 0, 5},
               {"recent-frames", 50, 0, 0}};
    c->window = c->window ? c->window : 32;
    c->frames = c->frames ? c->frames : 4;
    ic_session_config_forget_later(c);
    for (size_t i = 0; i < sizeof old / sizeof *old; i++) {
        if (strcmp(old[i].policy, c->policy) != 0)
            continue;
        c->recent_pct = c->recent_pct ? c->recent_pct : old[i].recent_pct;
        c->bias_pct = c->bias_pct ? c->bias_pct : old[i].bias_pct;
        c->pool = c->pool ? c->pool : old[i].pool;
    }
}

void ic_session_config_settle(ic_session_config *c)
{
    ic_policy_settle(c);
}

void ic_session_config_take(ic_session_config *to, const ic_session_config *from, uint32_t given)
{
    for (int i = 0; i < IC_SETTINGS; i++)
        if (given >> i & 1)
            *value_of(to, i) = get(from, i);
}

int ic_session_config_save_settings(const ic_session_config *c, ic_buf *out)
{
    ic_buf_u32(out, IC_SETTINGS);
    for (int i = 0; i < IC_SETTINGS; i++)
        ic_buf_u32(out, (uint32_t)get(c, i));
    return out->status;
}

int ic_session_config_load_settings(ic_session_config *c, ic_cursor *in, ic_error *e)
{
    uint32_t count = ic_cursor_u32(in);
    if (!in->status && count > IC_SETTINGS)
        return ic_error_set(e, IC_EVERSION,
                            "%u settings of the cache where this build knows %d: use the version "
                            "of infchatd that wrote them, or a later one",
                            count, IC_SETTINGS);
    ic_session_config_forget_later(c);
    for (uint32_t i = 0; !in->status && i < count; i++)
        *value_of(c, (int)i) = (int)ic_cursor_u32(in);
    return in->status ? ic_error_set(e, IC_EFORMAT, "settings of the cache end early") : IC_OK;
}

/* --- differences --------------------------------------------------------------------------------
 */

static void tell(char *text, size_t size, const char *name, int was, int is)
{
    size_t at = strlen(text);
    if (was != is)
        snprintf(text + at, size - at, "%s%s %d, now %d", at ? "; " : "", name, was, is);
}

void ic_session_config_differ(const ic_session_config *was, const ic_session_config *is, char *text,
                              size_t size)
{
    text[0] = '\0';
    if (strncmp(was->policy, is->policy, sizeof was->policy) != 0)
        snprintf(text, size, "policy \"%.23s\", now \"%.23s\"", was->policy, is->policy);
    tell(text, size, "cache_tokens", was->cache_tokens, is->cache_tokens);
    tell(text, size, "chunk_max", was->chunk_max, is->chunk_max);
    tell(text, size, "slack", was->slack, is->slack);
    tell(text, size, "pinned_max", was->pinned_max, is->pinned_max);
    tell(text, size, "group_tokens_max", was->group_tokens_max, is->group_tokens_max);
    size_t at = strlen(text);
    if (was->kv_dtype != is->kv_dtype && (unsigned)was->kv_dtype < IC_DTYPE_COUNT)
        snprintf(text + at, size - at, "%sdtype of the cache %s, now %s", at ? "; " : "",
                 ic_dtype_name(was->kv_dtype), ic_dtype_name(is->kv_dtype));
    for (int i = 0; i < IC_SETTINGS; i++)
        tell(text, size, i == IC_SET_BIAS ? "bias (in hundredths)" : settings[i].name, get(was, i),
             get(is, i));
}

/* --- defaults, limits ---------------------------------------------------------------------------
 */

static int at_most(int value, int limit)
{
    return value < limit ? value : limit;
}

void ic_session_config_default(const ic_engine *engine, int cache_tokens, ic_session_config *config)
{
    int budget = cache_tokens;
    if (budget <= 0) {
        budget = at_most(CACHE_DEFAULT, engine->info.trained_tokens / 4 * 3);
        budget = budget > CACHE_MIN ? budget : CACHE_MIN;
    }
    int chunk = at_most(CHUNK_DEFAULT, budget / 4);
    *config = (ic_session_config){
        .policy = "saddle",
        .cache_tokens = budget,
        .chunk_max = chunk > CHUNK_MIN ? chunk : CHUNK_MIN,
        .slack = at_most(SLACK_DEFAULT, budget / 8),
        .sinks = SINKS_DEFAULT,
        .pinned_max = budget / 4,
        .kv_dtype = engine->kv_dtype,
        .pending_bytes_max = 64u << 20,
        .group_tokens_max = at_most(engine->group_tokens_max, budget / 2),
        .window = IC_POLICY_WINDOW,
    };
}

int ic_session_group_tokens(const ic_engine *engine, const ic_session_config *c)
{
    if (c->group_tokens_max > 0)
        return c->group_tokens_max;
    return at_most(engine->group_tokens_max, c->cache_tokens / 2);
}

int ic_session_config_check(const ic_engine *engine, const ic_session_config *c, ic_error *e)
{
    if (!memchr(c->policy, 0, sizeof c->policy) || !ic_policy_find(c->policy))
        return ic_error_set(e, IC_EINVAL, "unknown cache policy \"%.23s\"; known: %s", c->policy,
                            ic_policy_names());
    if (c->cache_tokens < CACHE_MIN || c->cache_tokens > CACHE_MAX)
        return ic_error_set(e, IC_EINVAL, "cache_tokens %d is not in %d .. %d; 0 fits the model",
                            c->cache_tokens, CACHE_MIN, CACHE_MAX);
    if (c->chunk_max < CHUNK_MIN || c->chunk_max > CACHE_MAX)
        return ic_error_set(e, IC_EINVAL, "chunk_max %d is not in %d .. %d", c->chunk_max,
                            CHUNK_MIN, CACHE_MAX);
    if (c->slack < 0 || c->slack > CACHE_MAX)
        return ic_error_set(e, IC_EINVAL, "slack %d is not in 0 .. %d", c->slack, CACHE_MAX);
    int64_t slots = (int64_t)c->cache_tokens + c->chunk_max + c->slack;
    if (slots > engine->info.trained_tokens)
        return ic_error_set(e, IC_EINVAL,
                            "cache_tokens + chunk_max + slack = %lld exceeds the %d positions that "
                            "%s was trained on; make cache_tokens smaller",
                            (long long)slots, engine->info.trained_tokens, engine->info.model_name);
    if (c->sinks < 0 || c->pinned_max < 0 || (int64_t)c->sinks + c->pinned_max >= c->cache_tokens)
        return ic_error_set(e, IC_EINVAL,
                            "sinks %d + pinned_max %d leave nothing of cache_tokens %d; make sinks "
                            "smaller or the cache larger",
                            c->sinks, c->pinned_max, c->cache_tokens);
    if (c->kv_dtype != IC_F32 && c->kv_dtype != IC_BF16)
        return ic_error_set(e, IC_EINVAL, "the cache's dtype must be f32 or bf16");
    if (c->group_tokens_max < 0 || c->group_tokens_max > engine->group_tokens_max)
        return ic_error_set(e, IC_EINVAL, "group_tokens_max %d is not in 0 .. %d",
                            c->group_tokens_max, engine->group_tokens_max);
    return check_settings(c, e);
}

/* --- meaning ------------------------------------------------------------------------------------
 */

void ic_session_meaning(const ic_engine *engine, const ic_session_config *config, char hex[33])
{
    char text[400];
    ic_session_config settled = *config, *c = &settled;
    ic_session_config_settle(c);
    int n = snprintf(text, sizeof text, "%s/%d/%.23s/%d/%d/%d/%d/%d/%s/%d/%d/%d/%d/%d/%d/%d/%d",
                     engine->info.meaning, MEANING_VERSION, c->policy, c->cache_tokens,
                     c->chunk_max, c->slack, c->sinks, c->pinned_max, ic_dtype_name(c->kv_dtype),
                     ic_session_group_tokens(engine, c), c->window, c->recent_pct, c->bias_pct,
                     c->smooth_pct, c->pool, c->per_layer, c->frames);
    if (c->positions) /* later settings only where they are used: who has none keeps his meaning */
        n += snprintf(text + n, sizeof text - (size_t)n, "/original");
    if (c->frame_unit == IC_FRAME_WHOLE)
        n += snprintf(text + n, sizeof text - (size_t)n, "/whole");
    if (c->questions > 0)
        n += snprintf(text + n, sizeof text - (size_t)n, "/questions %d", c->questions);
    if (c->thin > 0)
        n += snprintf(text + n, sizeof text - (size_t)n, "/thin %d %d %d %d", c->thin, c->fade_pct,
                      c->care_pct, c->text_pct);
    XXH128_hash_t h = XXH3_128bits(text, (size_t)n);
    snprintf(hex, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}
