/* ic_config: the settings of infchatd: defaults, then a file, then the command line.
 *
 * The table is ic_config.def; infchatd.conf, where every setting stands with its default, is the
 * manual. A file has sections, one setting a line, comments behind '#':
 *
 *     server
 *         listen = tcp://127.0.0.1:7010
 *
 * Values are plain; nothing else of the program reads files or the environment for settings.
 */
#ifndef IC_CONFIG_H
#define IC_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ic_buf.h"
#include "base/ic_err.h"

typedef struct ic_config_list {
    char **items; /* NULL-terminated when count > 0 */
    size_t count;
} ic_config_list;

#define IC_CONFIG_INT   int64_t
#define IC_CONFIG_BYTES int64_t
#define IC_CONFIG_REAL  double
#define IC_CONFIG_BOOL  bool
#define IC_CONFIG_STR   char *
#define IC_CONFIG_LIST  ic_config_list

/* A member <section>_<name> per row. Text is owned by the struct. */
typedef struct ic_config {
#define IC_CONFIG(section, name, kind, preset, lo, hi, help) IC_CONFIG_##kind section##_##name;
#include "config/ic_config.def"
} ic_config;

/* One row of the table, for --help and tests. Borrows: static. */
typedef struct ic_config_row {
    const char *section, *name, *kind, *preset, *help;
    double lo, hi;
} ic_config_row;
const ic_config_row *ic_config_rows(size_t *count);

void ic_config_init(ic_config *c); /* all defaults */
void ic_config_fini(ic_config *c);

/* Sets "section", "name" from text. A LIST gets one more item. IC_EINVAL names setting, value and
 * range; IC_ENOTFOUND: no such setting. */
IC_MUST_CHECK int ic_config_set(ic_config *c, const char *section, const char *name,
                                const char *value, ic_error *e);
/* Reads a file over what is set. Errors carry file and line; nothing half-set is to be used. A list
 * named in the file replaces the former one. */
IC_MUST_CHECK int ic_config_load(ic_config *c, const char *path, ic_error *e);
/* What does not show in one row alone: IC_EINVAL. */
IC_MUST_CHECK int ic_config_check(const ic_config *c, ic_error *e);
/* All settings with their help, as text for --help. */
void ic_config_help(ic_buf *out);

/* The environment, read here only. Caller owns the strings. */
char *ic_config_default_store(void); /* <data folder>/infchat/infchat.db */
char *ic_config_runtime_dir(void);   /* XDG_RUNTIME_DIR, or NULL */

#endif
