/* infchat-bench: figures of the parts of infchat. Results are read by people or, with --json, by
 * programs; nothing here is a pass condition. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/ic_mem.h"
#include "bench/ic_bench.h"

#define ENTRY(name) &ic_bench_##name,
static const ic_bench_command *const commands[] = {IC_BENCH_COMMANDS(ENTRY)};
#undef ENTRY
enum { COMMANDS = sizeof commands / sizeof *commands };

const char *ic_bench_option(int argc, char **argv, const char *option, const char *fallback)
{
    for (int i = 0; i + 1 < argc; i++)
        if (strcmp(argv[i], option) == 0)
            return argv[i + 1];
    return fallback;
}

long ic_bench_number(int argc, char **argv, const char *option, long fallback)
{
    const char *text = ic_bench_option(argc, argv, option, NULL);
    char *end = NULL;
    long value = text ? strtol(text, &end, 10) : fallback;
    if (text && (end == text || *end)) {
        fprintf(stderr, "%s needs a number, not \"%s\"\n", option, text);
        exit(2);
    }
    return value;
}

bool ic_bench_flag(int argc, char **argv, const char *flag)
{
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], flag) == 0)
            return true;
    return false;
}

static bool is_in(const char *text, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(text, *list) == 0)
            return true;
    return false;
}

bool ic_bench_check(int argc, char **argv, const char *const *flags, const char *const *options)
{
    for (int i = 0; i < argc; i++) {
        if (is_in(argv[i], flags))
            continue;
        if (is_in(argv[i], options) && i + 1 < argc) {
            i++;
            continue;
        }
        fprintf(stderr, "unknown or unfinished argument: %s\n", argv[i]);
        return false;
    }
    return true;
}

void ic_bench_print_string(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if ((unsigned char)*text < ' ')
            printf("\\u%04x", *text);
        else
            printf(*text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
    }
    putchar('"');
}

size_t ic_bench_peak_memory(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (size_t)usage.ru_maxrss * 1024 : 0;
}

size_t ic_bench_resident(size_t *anonymous)
{
    unsigned long pages = 0, held = 0, shared = 0;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%lu %lu %lu", &pages, &held, &shared) != 3)
        held = shared = 0;
    if (f)
        fclose(f);
    if (anonymous)
        *anonymous = (held - shared) * page;
    return held * page;
}

double ic_bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int print_help(FILE *to)
{
    fprintf(to, "usage: infchat-bench COMMAND [ARGUMENTS]\n");
    for (int i = 0; i < COMMANDS; i++)
        fprintf(to, "  %-8s %s\n           %s\n", commands[i]->name, commands[i]->arguments,
                commands[i]->summary);
    return to == stdout ? 0 : 2;
}

static bool asks_for_help(const char *argument)
{
    return strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0;
}

/* Help instead of the command wherever it is asked for: no option has such a value. */
static int run_command(const ic_bench_command *c, int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        if (asks_for_help(argv[i])) {
            printf("usage: infchat-bench %s %s\n%s\n", c->name, c->arguments, c->summary);
            return 0;
        }
    return c->run(argc, argv);
}

int main(int argc, char **argv)
{
    ic_mem_setup(); /* as in the server: what is resident is measured here */
    if (argc < 2)
        return print_help(stderr);
    if (asks_for_help(argv[1]))
        return print_help(stdout);
    if (strcmp(argv[1], "--version") == 0) {
        printf("infchat-bench %s\n", INFCHAT_VERSION);
        return 0;
    }
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(argv[1], commands[i]->name) == 0)
            return run_command(commands[i], argc - 2, argv + 2);
    fprintf(stderr, "no command is called \"%s\"\n", argv[1]);
    return print_help(stderr);
}
