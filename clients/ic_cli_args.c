#include "clients/ic_cli_args.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_TIMEOUT_MS = 30000 };

#define BIT(command) (1u << (command))
#define ALL          (BIT(IC_CLI_COMMANDS) - 1)
#define SAMPLING     (BIT(IC_CLI_NEW) | BIT(IC_CLI_ASK))
#define SEEDED       (SAMPLING | BIT(IC_CLI_FORK))
#define TITLED       (BIT(IC_CLI_NEW) | BIT(IC_CLI_FORK) | BIT(IC_CLI_IMPORT))
#define FEEDING      (BIT(IC_CLI_NEW) | BIT(IC_CLI_WATCH))
#define WITH_KEY                                                                                   \
    (BIT(IC_CLI_NEW) | BIT(IC_CLI_ASK) | BIT(IC_CLI_WATCH) | BIT(IC_CLI_TITLE)                     \
     | BIT(IC_CLI_CANCEL) | BIT(IC_CLI_SUSPEND) | BIT(IC_CLI_RM) | BIT(IC_CLI_MARK)                \
     | BIT(IC_CLI_UNMARK) | BIT(IC_CLI_FORK) | BIT(IC_CLI_IMPORT))

/* --- commands --------------------------------------------------------------------------------- */

static const struct {
    const char *name, *arguments, *help;
    int least, most; /* arguments */
} commands[IC_CLI_COMMANDS] = {
    [IC_CLI_NEW] = {"new", "", "start a session; on a terminal, stay in it", 0, 0},
    [IC_CLI_CHAT] = {"chat", "ID", "go on with a session; in a pipe, one question per line", 1, 1},
    [IC_CLI_RESUME] = {"resume", "ID", "bring a session back; on a terminal, stay in it", 1, 1},
    [IC_CLI_ASK] = {"ask", "ID TEXT", "one question, the answer on stdout (TEXT -: from stdin)", 2,
                    2},
    [IC_CLI_WATCH] = {"watch", "ID SRC", "feed a source into a session, until its end", 2, 2},
    [IC_CLI_ATTACH] = {"attach", "ID", "follow what happens in a session, until Ctrl-C", 1, 1},
    [IC_CLI_SESSIONS] = {"sessions", "", "list the sessions, newest activity first", 0, 0},
    [IC_CLI_SHOW] = {"show", "ID", "one session, its media and its newest turns", 1, 1},
    [IC_CLI_TITLE] = {"title", "ID TEXT", "name a session", 2, 2},
    [IC_CLI_CANCEL] = {"cancel", "ID", "stop the answer that runs", 1, 1},
    [IC_CLI_SUSPEND] = {"suspend", "ID", "store a session and give its memory back", 1, 1},
    [IC_CLI_RM] = {"rm", "ID", "delete a session and all that is stored of it", 1, 1},
    [IC_CLI_MARK] = {"mark", "ID NAME", "name where a session stands now", 2, 2},
    [IC_CLI_UNMARK] = {"unmark", "ID NAME", "forget a mark and what only it holds", 2, 2},
    [IC_CLI_FORK] = {"fork", "ID", "a new session that goes on from there", 1, 1},
    [IC_CLI_EXPORT] = {"export", "ID FILE", "a session as one file (-: stdout)", 2, 2},
    [IC_CLI_IMPORT] = {"import", "FILE", "a session from such a file (-: stdin)", 1, 1},
    [IC_CLI_STATUS] = {"status", "", "the server: model, memory, figures", 0, 0},
};

static int command_of(const char *name)
{
    for (int i = 0; i < IC_CLI_COMMANDS; i++)
        if (!strcmp(commands[i].name, name))
            return i;
    return -1;
}

/* --- options ---------------------------------------------------------------------------------- */

typedef enum option {
    O_SERVER,
    O_JSON,
    O_KEY,
    O_TIMEOUT,
    O_HELP,
    O_VERSION,
    O_VIDEO,
    O_IMAGE,
    O_TITLE,
    O_POLICY,
    O_CACHE_TOKENS,
    O_SINKS,
    O_WINDOW,
    O_RECENT,
    O_BIAS,
    O_SMOOTH,
    O_POOL,
    O_GRANULARITY,
    O_FRAMES,
    O_POSITIONS,
    O_FRAME_UNIT,
    O_QUESTIONS,
    O_THIN,
    O_FADE,
    O_CARE,
    O_TEXT,
    O_SYSTEM,
    O_FPS,
    O_FROM,
    O_TO,
    O_MAX_FRAMES,
    O_FRAME_TOKENS,
    O_LIVE,
    O_TEMPERATURE,
    O_TOP_K,
    O_TOP_P,
    O_REPETITION_PENALTY,
    O_SEED,
    O_MAX_TOKENS,
    O_IF_BUSY,
    O_ON_VANISH,
    O_FROM_EVENT,
    O_TURNS,
    O_MEMORY,
    O_AT,
    O_REBUILD,
    O_COUNT
} option;

static const struct {
    const char *name, *argument, *help;
    unsigned commands; /* that take it */
} options[O_COUNT] = {
    [O_SERVER] = {"server", "ENDPOINT", "ipc:///path or tcp://host:port", ALL},
    [O_JSON] = {"json", NULL, "one JSON object per line on stdout", ALL},
    [O_KEY] = {"key", "HEX", "32 hex digits: the same request again does nothing twice", WITH_KEY},
    [O_TIMEOUT] = {"timeout", "S", "seconds to wait for the server (30)", ALL},
    [O_HELP] = {"help", NULL, "this text", ALL},
    [O_VERSION] = {"version", NULL, "the version", ALL},
    [O_VIDEO] = {"video", "SRC", "feed this first", BIT(IC_CLI_NEW)},
    [O_IMAGE] = {"image", "SRC", "show this picture first", BIT(IC_CLI_NEW)},
    [O_TITLE] = {"title", "TEXT", "the session's name", TITLED},
    [O_POLICY] = {"policy", "NAME", "what its memory keeps", BIT(IC_CLI_NEW)},
    [O_CACHE_TOKENS] = {"cache-tokens", "N", "the size of its memory", BIT(IC_CLI_NEW)},
    [O_SINKS] = {"sinks", "N", "oldest tokens that stay", BIT(IC_CLI_NEW)},
    [O_WINDOW] = {"window", "N", "newest tokens that score the others", BIT(IC_CLI_NEW)},
    [O_RECENT] = {"recent-pct", "N", "share of its memory for the newest", BIT(IC_CLI_NEW)},
    [O_BIAS] = {"bias", "X", "how much scores favour newer tokens", BIT(IC_CLI_NEW)},
    [O_SMOOTH] = {"smooth-pct", "N", "part of the old score in a new one", BIT(IC_CLI_NEW)},
    [O_POOL] = {"pool", "N", "neighbours that share a score (odd)", BIT(IC_CLI_NEW)},
    [O_GRANULARITY] = {"granularity", "head|layer", "what decides for itself", BIT(IC_CLI_NEW)},
    [O_FRAMES] = {"frames", "N", "newest frame groups that stay whole", BIT(IC_CLI_NEW)},
    [O_POSITIONS] = {"positions", "compact|original", "of what it keeps", BIT(IC_CLI_NEW)},
    [O_FRAME_UNIT] = {"frame-unit", "tokens|whole", "what of a frame stays or leaves together",
                      BIT(IC_CLI_NEW)},
    [O_QUESTIONS] = {"questions", "N", "tokens of a question that look again", BIT(IC_CLI_NEW)},
    [O_THIN] = {"thin", "N", "tokens that stay of an older frame group; 0 beside whole",
                BIT(IC_CLI_NEW)},
    [O_FADE] = {"fade-pct", "N", "older frame groups the fewer", BIT(IC_CLI_NEW)},
    [O_CARE] = {"care-pct", "N", "weight of scores in choosing these", BIT(IC_CLI_NEW)},
    [O_TEXT] = {"text-pct", "N", "share of its memory for the newest text", BIT(IC_CLI_NEW)},
    [O_SYSTEM] = {"system", "TEXT", "the system prompt", BIT(IC_CLI_NEW)},
    [O_FPS] = {"fps", "N", "frames sampled per second", FEEDING},
    [O_FROM] = {"from", "TIME", "begin there (seconds or H:MM:SS)", FEEDING},
    [O_TO] = {"to", "TIME", "end there", FEEDING},
    [O_MAX_FRAMES] = {"max-frames", "N", "no more frames than this", FEEDING},
    [O_FRAME_TOKENS] = {"frame-tokens", "N", "tokens that a frame may cost", FEEDING},
    [O_LIVE] = {"live", NULL, "drop old frames rather than fall behind", FEEDING},
    [O_TEMPERATURE] = {"temperature", "X", "0 is greedy", SAMPLING},
    [O_TOP_K] = {"top-k", "N", "draw from the N most likely", SAMPLING},
    [O_TOP_P] = {"top-p", "X", "draw from the most likely with this mass", SAMPLING},
    [O_REPETITION_PENALTY] = {"repetition-penalty", "X", "above 1: say less twice", SAMPLING},
    [O_SEED] = {"seed", "N", "of the random numbers (fork: also \"same\")", SEEDED},
    [O_MAX_TOKENS] = {"max-tokens", "N", "of an answer", SAMPLING},
    [O_IF_BUSY] = {"if-busy", "refuse|queue", "when an answer runs already", BIT(IC_CLI_ASK)},
    [O_ON_VANISH] = {"on-vanish", "keep|cancel", "when this client is gone", BIT(IC_CLI_ASK)},
    [O_FROM_EVENT] = {"from-event", "N", "also what came before, from this event on",
                      BIT(IC_CLI_ATTACH)},
    [O_AT] = {"at", "NAME", "not as it is now but as it was at this mark",
              BIT(IC_CLI_FORK) | BIT(IC_CLI_EXPORT)},
    [O_REBUILD] = {"rebuild", NULL, "from the transcript, where the memory cannot be had",
                   BIT(IC_CLI_RESUME) | BIT(IC_CLI_CHAT)},
    [O_TURNS] = {"turns", "N", "how many turns to show (10)", BIT(IC_CLI_SHOW)},
    [O_MEMORY] = {"memory", NULL, "what it still holds, instead of turns", BIT(IC_CLI_SHOW)},
};

static bool parse_uint(const char *text, uint64_t *value)
{
    char *end;
    errno = 0;
    *value = strtoull(text, &end, 10);
    return isdigit((unsigned char)text[0]) && !*end && !errno;
}

static bool parse_float(const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    return *text && !*end && isfinite(*value);
}

bool ic_cli_args_time(const char *text, uint64_t *us)
{
    double total = 0, part = 0;
    for (int parts = 0;; parts++) {
        size_t size = strcspn(text, ":");
        char number[32];
        if (!size || size >= sizeof number || parts == 3)
            return false;
        memcpy(number, text, size);
        number[size] = '\0';
        if (strspn(number, "0123456789.") != size || !parse_float(number, &part))
            return false;
        total = total * 60 + part;
        if (!text[size])
            break;
        text += size + 1;
    }
    if (total > 1e12)
        return false;
    *us = (uint64_t)(total * 1e6 + 0.5);
    return true;
}

static bool parse_key(const char *text, ic_wire_id *key)
{
    if (strlen(text) != 32 || strspn(text, "0123456789abcdefABCDEF") != 32)
        return false;
    for (int i = 0; i < 16; i++) {
        char digits[3] = {text[2 * i], text[2 * i + 1], '\0'};
        key->bytes[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
    return true;
}

static bool set_number(ic_cli_args *a, option o, const char *value)
{
    uint64_t n = 0;
    double x = 0;
    bool is_uint = parse_uint(value, &n), is_float = parse_float(value, &x);
    switch (o) {
    case O_CACHE_TOKENS:
        ic_wire_put(&a->create, new, cache_tokens, n);
        return is_uint && n;
    case O_SINKS:
        ic_wire_put(&a->settings, settings, sinks, n);
        return is_uint;
    case O_WINDOW:
        ic_wire_put(&a->settings, settings, window, n);
        return is_uint && n;
    case O_RECENT:
        ic_wire_put(&a->settings, settings, recent_pct, n);
        return is_uint;
    case O_BIAS:
        ic_wire_put(&a->settings, settings, bias, x);
        return is_float && x >= 0;
    case O_SMOOTH:
        ic_wire_put(&a->settings, settings, smooth_pct, n);
        return is_uint;
    case O_POOL:
        ic_wire_put(&a->settings, settings, pool, n);
        return is_uint && n;
    case O_FRAMES:
        ic_wire_put(&a->settings, settings, frames, n);
        return is_uint && n;
    case O_QUESTIONS:
        ic_wire_put(&a->settings, settings, questions, n);
        return is_uint;
    case O_THIN:
        ic_wire_put(&a->settings, settings, thin, n);
        return is_uint;
    case O_FADE:
        ic_wire_put(&a->settings, settings, fade_pct, n);
        return is_uint;
    case O_CARE:
        ic_wire_put(&a->settings, settings, care_pct, n);
        return is_uint;
    case O_TEXT:
        ic_wire_put(&a->settings, settings, text_pct, n);
        return is_uint;
    case O_MAX_FRAMES:
        ic_wire_put(&a->media, media, max_frames, n);
        return is_uint && n;
    case O_FRAME_TOKENS:
        ic_wire_put(&a->media, media, frame_tokens, n);
        return is_uint && n;
    case O_TOP_K:
        ic_wire_put(&a->sampling, sampling, top_k, n);
        return is_uint;
    case O_SEED:
        ic_wire_put(&a->sampling, sampling, seed, n);
        return is_uint;
    case O_MAX_TOKENS:
        ic_wire_put(&a->sampling, sampling, max_tokens, n);
        return is_uint && n;
    case O_FROM_EVENT:
        a->from_event = n;
        return is_uint && n;
    case O_TURNS:
        a->turns = n;
        return is_uint && n <= IC_WIRE_LIST_MAX;
    case O_FPS:
        ic_wire_put(&a->media, media, fps, x);
        return is_float && x > 0 && x <= 240;
    case O_TEMPERATURE:
        ic_wire_put(&a->sampling, sampling, temperature, x);
        return is_float && x >= 0 && x <= 100;
    case O_TOP_P:
        ic_wire_put(&a->sampling, sampling, top_p, x);
        return is_float && x >= 0 && x <= 1;
    case O_REPETITION_PENALTY:
        ic_wire_put(&a->sampling, sampling, repetition_penalty, x);
        return is_float && x > 0 && x <= 100;
    case O_TIMEOUT:
        a->timeout_ms = is_float && x <= 1e6 ? (int)(x * 1000) : 0;
        return is_float && a->timeout_ms > 0;
    default:
        return false;
    }
}

/* Stores an option's value; false: it makes no sense. */
static bool set_option(ic_cli_args *a, option o, const char *value)
{
    uint64_t us = 0;
    bool is_time = false;
    switch (o) {
    case O_SERVER:
        a->server = value;
        return true;
    case O_JSON:
        return a->json = true;
    case O_MEMORY:
        return a->memory = true;
    case O_LIVE:
        ic_wire_put(&a->media, media, live, true);
        return true;
    case O_HELP:
    case O_VERSION:
        a->command = o == O_HELP ? IC_CLI_HELP : IC_CLI_VERSION;
        return true;
    case O_KEY:
        return a->has_key = parse_key(value, &a->key);
    case O_VIDEO:
        a->video = value;
        return value[0];
    case O_IMAGE:
        a->image = value;
        return value[0];
    case O_TITLE:
        ic_wire_put(&a->create, new, title, value);
        return true;
    case O_POLICY:
        ic_wire_put(&a->create, new, policy, value);
        return value[0];
    case O_REBUILD:
        return a->rebuild = true;
    case O_AT:
        a->at = value;
        return value[0];
    case O_SEED:
        a->same_seed = !strcmp(value, "same");
        return a->same_seed || set_number(a, o, value);
    case O_SYSTEM:
        ic_wire_put(&a->create, new, system, value);
        return true;
    case O_GRANULARITY:
        ic_wire_put(&a->settings, settings, granularity, ic_wire_word_of("granularity", value));
        return a->settings.granularity >= 0;
    case O_POSITIONS:
        ic_wire_put(&a->settings, settings, positions, ic_wire_word_of("positions", value));
        return a->settings.positions >= 0;
    case O_FRAME_UNIT:
        ic_wire_put(&a->settings, settings, frame_unit, ic_wire_word_of("frame_unit", value));
        return a->settings.frame_unit >= 0;
    case O_FROM:
        is_time = ic_cli_args_time(value, &us);
        ic_wire_put(&a->media, media, from_us, us);
        return is_time;
    case O_TO:
        is_time = ic_cli_args_time(value, &us);
        ic_wire_put(&a->media, media, to_us, us);
        return is_time;
    case O_IF_BUSY:
        return (a->if_busy = ic_wire_word_of("if_busy", value)) >= 0;
    case O_ON_VANISH:
        return (a->on_vanish = ic_wire_word_of("on_vanish", value)) >= 0;
    default:
        return set_number(a, o, value);
    }
}

/* One "--name", "--name=value" or "--name value"; *i moves over what it takes. given collects the
 * options seen. */
static int parse_option(ic_cli_args *a, int argc, char **argv, int *i, uint64_t *given, ic_error *e)
{
    const char *name = argv[*i] + 2, *equals = strchr(name, '=');
    size_t size = equals ? (size_t)(equals - name) : strlen(name);
    option o = 0;
    while (o < O_COUNT && (strlen(options[o].name) != size || strncmp(options[o].name, name, size)))
        o++;
    if (o == O_COUNT)
        return ic_error_set(e, IC_EINVAL, "unknown option %s", argv[*i]);
    const char *value = equals ? equals + 1 : NULL;
    if (!options[o].argument && value)
        return ic_error_set(e, IC_EINVAL, "--%s takes no value", options[o].name);
    if (options[o].argument && !value && ++*i == argc)
        return ic_error_set(e, IC_EINVAL, "--%s needs %s", options[o].name, options[o].argument);
    if (options[o].argument && !value)
        value = argv[*i];
    if (!set_option(a, o, value))
        return ic_error_set(e, IC_EINVAL, "--%s %s: not a %s that makes sense", options[o].name,
                            value, options[o].argument);
    *given |= (uint64_t)1 << o;
    return IC_OK;
}

static int check_options(const ic_cli_args *a, uint64_t given, ic_error *e)
{
    for (int o = 0; o < O_COUNT; o++)
        if (given >> o & 1 && !(options[o].commands & BIT(a->command)))
            return ic_error_set(e, IC_EINVAL, "%s takes no --%s", commands[a->command].name,
                                options[o].name);
    if (a->same_seed && a->command != IC_CLI_FORK)
        return ic_error_set(e, IC_EINVAL, "--seed same: fork alone takes it");
    bool has_both = ic_wire_has(&a->media, media, from_us) && ic_wire_has(&a->media, media, to_us);
    if (has_both && a->media.to_us <= a->media.from_us)
        return ic_error_set(e, IC_EINVAL, "--to must lie behind --from");
    return IC_OK;
}

static int set_positionals(ic_cli_args *a, char **words, int count, ic_error *e)
{
    if (!count)
        return ic_error_set(e, IC_EINVAL, "no command; infchat --help lists them");
    int command = command_of(words[0]);
    if (command < 0)
        return ic_error_set(e, IC_EINVAL, "unknown command %s; infchat --help lists them",
                            words[0]);
    a->command = (ic_cli_command)command;
    if (count - 1 < commands[command].least || count - 1 > commands[command].most)
        return ic_error_set(e, IC_EINVAL, "usage: infchat %s %s", commands[command].name,
                            commands[command].arguments);
    bool has_id = command != IC_CLI_IMPORT;
    a->session = has_id && count > 1 ? words[1] : NULL;
    a->text = !has_id ? words[1] : count > 2 ? words[2] : NULL;
    if (a->session && (!a->session[0] || strlen(a->session) > IC_WIRE_SESSION_MAX))
        return ic_error_set(e, IC_EINVAL, "ID must have 1 to %d characters", IC_WIRE_SESSION_MAX);
    return IC_OK;
}

int ic_cli_args_parse(ic_cli_args *args, int argc, char **argv, ic_error *e)
{
    char *words[4];
    int count = 0;
    uint64_t given = 0;
    bool only_words = false;
    *args = (ic_cli_args){.command = IC_CLI_COMMANDS,
                          .timeout_ms = DEFAULT_TIMEOUT_MS,
                          .turns = 10,
                          .if_busy = -1,
                          .on_vanish = -1};
    for (int i = 1; i < argc; i++) {
        if (!only_words && !strcmp(argv[i], "--")) {
            only_words = true;
        } else if (!only_words && !strncmp(argv[i], "--", 2)) {
            int rc = parse_option(args, argc, argv, &i, &given, e);
            if (rc)
                return rc;
        } else if (!only_words && argv[i][0] == '-' && argv[i][1] && !isdigit(argv[i][1])) {
            return ic_error_set(e, IC_EINVAL, "unknown option %s", argv[i]);
        } else if (count == 4) {
            return ic_error_set(e, IC_EINVAL, "too many words; a text of several goes in quotes");
        } else {
            words[count++] = argv[i];
        }
        if (args->command > IC_CLI_COMMANDS) /* --help, --version: whatever else is there */
            return IC_OK;
    }
    int rc = set_positionals(args, words, count, e);
    return rc ? rc : check_options(args, given, e);
}

/* --- sources ---------------------------------------------------------------------------------- */

static bool is_url(const char *text)
{
    const char *colon = strstr(text, "://");
    for (const char *c = text; c < colon; c++)
        if (!isalnum((unsigned char)*c))
            return false;
    return colon > text;
}

void ic_cli_args_source(const char *text, ic_wire_media *media)
{
    const char *slash = strrchr(text, '/');
    const char *name = slash && slash[1] ? slash + 1 : text;
    int kind = IC_WIRE_KIND_UPLOAD;
    const char *source = text;
    if (!strncmp(text, "server:", 7)) {
        kind = IC_WIRE_KIND_PATH;
        source = text + 7;
    } else if (!strncmp(text, "camera:", 7)) {
        kind = IC_WIRE_KIND_CAMERA;
        source = text + 7;
    } else if (is_url(text)) {
        kind = IC_WIRE_KIND_URL;
        name = text; /* its last part alone says little */
    }
    ic_wire_put(media, media, kind, kind);
    ic_wire_put(media, media, name, strcmp(text, "-") ? name : "stdin");
    if (kind != IC_WIRE_KIND_UPLOAD)
        ic_wire_put(media, media, source, source);
}

/* --- help ------------------------------------------------------------------------------------- */

static void help_options(FILE *out, const char *title, unsigned mask)
{
    fprintf(out, "\n%s\n", title);
    for (int o = 0; o < O_COUNT; o++) {
        char left[48];
        if (options[o].commands != mask)
            continue;
        snprintf(left, sizeof left, "--%s %s", options[o].name,
                 options[o].argument ? options[o].argument : "");
        fprintf(out, "  %-26s %s\n", left, options[o].help);
    }
}

void ic_cli_args_help(FILE *out)
{
    fprintf(out, "infchat: hour-long conversations about video, with a service that remembers\n\n"
                 "usage: infchat [options] COMMAND ...\n\ncommands\n");
    for (int i = 0; i < IC_CLI_COMMANDS; i++) {
        char left[32];
        snprintf(left, sizeof left, "%s %s", commands[i].name, commands[i].arguments);
        fprintf(out, "  %-26s %s\n", left, commands[i].help);
    }
    fprintf(out, "\nID is a session's id, or a beginning of it that fits one session only.\n"
                 "SRC is a file (uploaded), - (stdin), an http, https or rtsp URL, server:/path\n"
                 "(a file on the server) or camera:/dev/video0 (a camera of the server).\n");
    help_options(out, "options of every command", ALL);
    help_options(out, "new", BIT(IC_CLI_NEW));
    help_options(out, "new, fork, import", TITLED);
    help_options(out, "fork, export", BIT(IC_CLI_FORK) | BIT(IC_CLI_EXPORT));
    help_options(out, "new, watch", FEEDING);
    help_options(out, "new (for the whole session), ask", SAMPLING);
    help_options(out, "new, ask, fork", SEEDED);
    help_options(out, "ask", BIT(IC_CLI_ASK));
    help_options(out, "resume, chat", BIT(IC_CLI_RESUME) | BIT(IC_CLI_CHAT));
    help_options(out, "show", BIT(IC_CLI_SHOW));
    help_options(out, "attach", BIT(IC_CLI_ATTACH));
    help_options(out, "new, ask, watch, title, cancel, suspend, rm, mark, unmark, fork, import",
                 WITH_KEY);
    fprintf(out,
            "\nenvironment\n"
            "  INFCHAT_SERVER             the endpoint when --server is not given\n"
            "  XDG_RUNTIME_DIR            the default endpoint is a socket in its infchat/\n"
            "  INFCHAT_HISTORY            file of typed lines (~/.infchat_history); empty: none\n"
            "  NO_COLOR                   when set, no colours\n"
            "\nexit status\n"
            "  0 done   1 error   2 wrong usage   3 server unreachable   4 not found or\n"
            "  ambiguous   5 busy, try again   130 interrupted\n");
}
