#include "config/ic_config.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_log.h"
#include "base/ic_mem.h"

typedef enum kind { KIND_INT, KIND_BYTES, KIND_REAL, KIND_BOOL, KIND_STR, KIND_LIST } kind;

static const ic_config_row rows[] = {
#define IC_CONFIG(section, name, kind, preset, lo, hi, help)                                       \
    {#section, #name, #kind, preset, help, lo, hi},
#include "config/ic_config.def"
};

static const struct place {
    kind kind;
    size_t offset;
} places[] = {
#define IC_CONFIG(section, name, kind, preset, lo, hi, help)                                       \
    {KIND_##kind, offsetof(ic_config, section##_##name)},
#include "config/ic_config.def"
};

enum { ROWS = sizeof rows / sizeof *rows };

const ic_config_row *ic_config_rows(size_t *count)
{
    *count = ROWS;
    return rows;
}

static void *member(ic_config *c, size_t row)
{
    return (char *)c + places[row].offset;
}

static void clear_list(ic_config_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        ic_free(list->items[i]);
    ic_free(list->items);
    *list = (ic_config_list){0};
}

static void add_item(ic_config_list *list, const char *text)
{
    list->items = ic_realloc(list->items, (list->count + 2) * sizeof *list->items);
    list->items[list->count++] = ic_strdup(text);
    list->items[list->count] = NULL;
}

static int bad_value(size_t row, const char *value, ic_error *e)
{
    const ic_config_row *r = &rows[row];
    if (places[row].kind == KIND_BOOL)
        return ic_error_set(e, IC_EINVAL, "%s.%s = %.60s: true or false is wanted", r->section,
                            r->name, value);
    bool text = places[row].kind == KIND_STR;
    return ic_error_set(e, IC_EINVAL, "%s.%s = %.60s: %s from %.17g to %.17g%s wanted", r->section,
                        r->name, value, text ? "text" : "a number", r->lo, r->hi,
                        text ? " bytes long is" : " is");
}

static bool in_range(size_t row, double v)
{
    return v >= rows[row].lo && v <= rows[row].hi;
}

/* A whole number, with K, M or G behind it where the row allows that. */
static bool parse_whole(size_t row, const char *value, int64_t *out)
{
    char *end = NULL;
    errno = 0;
    long long v = strtoll(value, &end, 10);
    if (end == value || errno)
        return false;
    int shift = 0;
    if (places[row].kind == KIND_BYTES && *end) {
        const char *units = "KMG", *unit = strchr(units, toupper((unsigned char)*end));
        if (!unit)
            return false;
        shift = 10 * (int)(unit - units + 1);
        end++;
    }
    int64_t unit = INT64_C(1) << shift;
    if (*end || v < -1 || v > INT64_MAX / unit || !in_range(row, (double)(v * unit)))
        return false;
    *out = v * unit;
    return true;
}

static bool parse_real(size_t row, const char *value, double *out)
{
    char *end = NULL;
    *out = strtod(value, &end);
    return end != value && !*end && isfinite(*out) && in_range(row, *out);
}

static int set_row(ic_config *c, size_t row, const char *value, ic_error *e)
{
    void *at = member(c, row);
    bool good = true;
    switch (places[row].kind) {
    case KIND_INT:
    case KIND_BYTES:
        good = parse_whole(row, value, at);
        break;
    case KIND_REAL:
        good = parse_real(row, value, at);
        break;
    case KIND_BOOL:
        good = strcmp(value, "true") == 0 || strcmp(value, "false") == 0;
        if (good)
            *(bool *)at = value[0] == 't';
        break;
    case KIND_STR:
        good = in_range(row, (double)strlen(value));
        if (good) {
            ic_free(*(char **)at);
            *(char **)at = ic_strdup(value);
        }
        break;
    case KIND_LIST:
        if ((double)((ic_config_list *)at)->count >= rows[row].hi)
            return ic_error_set(e, IC_EINVAL, "%s.%s: more than %g are not possible",
                                rows[row].section, rows[row].name, rows[row].hi);
        if (*value)
            add_item(at, value);
        break;
    }
    return good ? IC_OK : bad_value(row, value, e);
}

static int find_row(const char *section, const char *name)
{
    for (int i = 0; i < ROWS; i++) {
        if (strcmp(rows[i].section, section) == 0 && strcmp(rows[i].name, name) == 0)
            return i;
    }
    return -1;
}

int ic_config_set(ic_config *c, const char *section, const char *name, const char *value,
                  ic_error *e)
{
    int row = find_row(section, name);
    if (row < 0)
        return ic_error_set(e, IC_ENOTFOUND, "there is no setting %.40s.%.40s", section, name);
    return set_row(c, (size_t)row, value, e);
}

void ic_config_init(ic_config *c)
{
    *c = (ic_config){0};
    for (size_t i = 0; i < ROWS; i++) {
        if (places[i].kind == KIND_STR)
            *(char **)member(c, i) = ic_strdup(rows[i].preset);
        else if (set_row(c, i, rows[i].preset, NULL))
            ic_log_error("config", "BUG: the default of %s.%s", rows[i].section, rows[i].name);
    }
}

void ic_config_fini(ic_config *c)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (places[i].kind == KIND_STR)
            ic_free(*(char **)member(c, i));
        else if (places[i].kind == KIND_LIST)
            clear_list(member(c, i));
    }
    *c = (ic_config){0};
}

/* --- the file ----------------------------------------------------------------------------------
 */

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = '\0';
    return text;
}

/* A '#' opens a comment at the start of a line or after a space: values may hold one inside. */
static void cut_comment(char *line)
{
    for (char *at = line; *at; at++) {
        if (*at == '#' && (at == line || isspace((unsigned char)at[-1]))) {
            *at = '\0';
            return;
        }
    }
}

static char *unquote(char *value)
{
    size_t length = strlen(value);
    if (length < 2 || value[0] != '"' || value[length - 1] != '"')
        return value;
    value[length - 1] = '\0';
    return value + 1;
}

typedef struct reading {
    ic_config *config;
    char section[32];
    bool cleared[ROWS]; /* lists whose former items have been dropped */
} reading;

static int read_setting(reading *r, char *name, char *value, ic_error *e)
{
    int row = find_row(r->section, name);
    if (row < 0)
        return ic_error_set(e, IC_EINVAL, "there is no setting %.40s in section %s", name,
                            r->section[0] ? r->section : "(none)");
    if (places[row].kind == KIND_LIST && !r->cleared[row]) {
        clear_list(member(r->config, (size_t)row));
        r->cleared[row] = true;
    }
    return set_row(r->config, (size_t)row, value, e);
}

static int read_line(reading *r, char *line, ic_error *e)
{
    cut_comment(line);
    char *text = trim(line);
    if (!*text)
        return IC_OK;
    char *equals = strchr(text, '=');
    if (equals) {
        *equals = '\0';
        return read_setting(r, trim(text), unquote(trim(equals + 1)), e);
    }
    for (size_t i = 0; i < ROWS; i++) {
        if (strcmp(rows[i].section, text) == 0) {
            snprintf(r->section, sizeof r->section, "%s", text);
            return IC_OK;
        }
    }
    return ic_error_set(e, IC_EINVAL, "\"%.60s\" is neither a section nor \"name = value\"", text);
}

int ic_config_load(ic_config *c, const char *path, ic_error *e)
{
    FILE *f = fopen(path, "r");
    if (!f)
        return ic_error_set(e, IC_ENOTFOUND, "%s cannot be read: %s", path, strerror(errno));
    reading r = {.config = c};
    char line[8192];
    int rc = IC_OK, number = 0;
    while (rc == IC_OK && fgets(line, sizeof line, f)) {
        number++;
        if (!strchr(line, '\n') && !feof(f))
            rc = ic_error_set(e, IC_EINVAL, "the line is too long");
        else
            rc = read_line(&r, line, e);
        if (rc)
            ic_error_prefix(e, rc, "%s line %d", path, number);
    }
    if (rc == IC_OK && ferror(f))
        rc = ic_error_set(e, IC_EIO, "%s: %s", path, strerror(errno));
    fclose(f);
    return rc;
}

int ic_config_check(const ic_config *c, ic_error *e)
{
    if (ic_log_level_parse(c->log_level) < 0)
        return ic_error_set(e, IC_EINVAL, "log.level = %s: error, warn, info, debug or trace",
                            c->log_level);
    if (strcmp(c->model_device, "cpu") != 0 && strcmp(c->model_device, "cuda") != 0)
        return ic_error_set(e, IC_EINVAL, "model.device = %s: cpu or cuda", c->model_device);
    if (strcmp(c->session_granularity, "head") != 0 && strcmp(c->session_granularity, "layer") != 0)
        return ic_error_set(e, IC_EINVAL, "session.granularity = %s: head or layer",
                            c->session_granularity);
    if (strcmp(c->session_positions, "compact") != 0
        && strcmp(c->session_positions, "original") != 0)
        return ic_error_set(e, IC_EINVAL, "session.positions = %s: compact or original",
                            c->session_positions);
    if (strcmp(c->session_frame_unit, "auto") != 0 && strcmp(c->session_frame_unit, "tokens") != 0
        && strcmp(c->session_frame_unit, "whole") != 0)
        return ic_error_set(e, IC_EINVAL, "session.frame_unit = %s: auto, tokens or whole",
                            c->session_frame_unit);
    if (c->session_max_resident > c->session_max_active)
        return ic_error_set(e, IC_EINVAL,
                            "session.max_resident (%lld) is more than session.max_active (%lld)",
                            (long long)c->session_max_resident, (long long)c->session_max_active);
    if (c->session_max_cache_tokens && c->session_max_cache_tokens < c->session_cache_tokens)
        return ic_error_set(e, IC_EINVAL,
                            "session.max_cache_tokens is less than session.cache_tokens");
    return IC_OK;
}

void ic_config_help(ic_buf *out)
{
    const char *section = "";
    char line[512];
    for (size_t i = 0; i < ROWS; i++) {
        const ic_config_row *r = &rows[i];
        if (strcmp(section, r->section) != 0) {
            section = r->section;
            ic_buf_append(out, line, (size_t)snprintf(line, sizeof line, "  %s\n", section));
        }
        bool list = places[i].kind == KIND_LIST;
        int n = snprintf(line, sizeof line, "    %-22s %s%s%s%s\n", r->name, r->help,
                         list ? "" : " [", list ? "" : r->preset, list ? "" : "]");
        ic_buf_append(out, line, (size_t)n);
    }
}

/* --- the environment ---------------------------------------------------------------------------
 */

char *ic_config_default_store(void)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    if (data && data[0] == '/')
        return ic_strf("%s/infchat/infchat.db", data);
    return ic_strf("%s/.local/share/infchat/infchat.db", home && home[0] == '/' ? home : "/tmp");
}

char *ic_config_runtime_dir(void)
{
    const char *dir = getenv("XDG_RUNTIME_DIR");
    return dir && dir[0] == '/' ? ic_strdup(dir) : NULL;
}
