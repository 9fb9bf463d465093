#include "clients/ic_cli_view.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/ic_clock.h"
#include "base/ic_mem.h"
#include "wire/ic_wire_json.h"

enum { DRAW_EVERY_US = 100 * 1000, BAR_MAX = 30, ANSWER_KEPT_MAX = 8 * 1024 * 1024 };

void ic_cli_view_init(ic_cli_view *v, bool is_json)
{
    memset(v, 0, sizeof *v);
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    v->is_json = is_json;
    v->is_out_tty = isatty(STDOUT_FILENO);
    v->is_err_tty = isatty(STDERR_FILENO);
    v->has_colours = v->is_out_tty && v->is_err_tty && !(no_color && *no_color)
                     && !(term && !strcmp(term, "dumb"));
    ic_buf_init(&v->answer, ANSWER_KEPT_MAX);
}

void ic_cli_view_fini(ic_cli_view *v)
{
    ic_buf_fini(&v->answer);
}

void ic_cli_view_clean(char *text)
{
    char *out = text;
    for (const unsigned char *in = (unsigned char *)text; *in; in++) {
        bool is_c1 = in[0] == 0xc2 && in[1] >= 0x80 && in[1] < 0xa0;
        bool is_control = (*in < 0x20 && *in != '\n' && *in != '\t') || *in == 0x7f || is_c1;
        *out++ = is_control ? '?' : (char)*in;
        in += is_c1;
    }
    *out = '\0';
}

/* For a terminal: to stdout, cleaned. */
static void print_clean(const char *text)
{
    char *copy = ic_strdup(text);
    ic_cli_view_clean(copy);
    fputs(copy, stdout);
    ic_free(copy);
}

/* --- lines ------------------------------------------------------------------------------------ */

static void erase_bar(ic_cli_view *v)
{
    if (v->drawn_us)
        fprintf(stderr, "\r\033[K");
    v->drawn_us = 0;
}

static void end_line(ic_cli_view *v)
{
    if (v->is_line_open)
        putchar('\n');
    v->is_line_open = false;
    fflush(stdout);
}

void ic_cli_view_note(ic_cli_view *v, const char *fmt, ...)
{
    char text[1400];
    va_list args;
    if (v->is_json)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    ic_cli_view_clean(text);
    erase_bar(v);
    end_line(v);
    if (v->before_line)
        v->before_line(v->arg);
    fprintf(stderr, v->has_colours ? "\033[2m%s\033[0m\n" : "%s\n", text);
    if (v->after_line)
        v->after_line(v->arg);
}

void ic_cli_view_time(uint64_t us, char out[32])
{
    unsigned long long s = us / 1000000;
    if (s >= 3600)
        snprintf(out, 32, "%llu:%02llu:%02llu", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, 32, "%llu:%02llu", s / 60, s % 60);
}

/* --- the bar ---------------------------------------------------------------------------------- */

/* How much of the source is done, 0 to 1; below 0: unknown. */
static double fraction_done(const ic_cli_view *v)
{
    if (v->duration_us) {
        uint64_t at = v->pos_us > v->from_us ? v->pos_us - v->from_us : 0;
        return at < v->duration_us ? (double)at / (double)v->duration_us : 1;
    }
    if (v->size && !v->frames)
        return (double)v->sent / (double)v->size;
    return -1;
}

void ic_cli_view_bar(const ic_cli_view *v, int64_t elapsed_us, int columns, char *out, size_t size)
{
    double done = fraction_done(v);
    char bar[BAR_MAX + 3] = "", left[32] = "", tail[160], name[sizeof v->name];
    int wide = columns < 80 ? 10 : BAR_MAX;
    if (done >= 0) {
        int filled = (int)(done * wide + 0.5);
        bar[0] = '[';
        memset(bar + 1, '#', (size_t)filled);
        memset(bar + 1 + filled, '.', (size_t)(wide - filled));
        bar[1 + wide] = ']';
    }
    if (v->duration_us && done >= 0) {
        ic_cli_view_time((uint64_t)((1 - done) * (double)v->duration_us), left);
        strcat(left, " left");
    }
    snprintf(tail, sizeof tail, " %s%s%.0f frames  %.1f frames/s  %s", bar, *bar ? " " : "",
             (double)v->frames, elapsed_us > 0 ? (double)v->frames * 1e6 / (double)elapsed_us : 0.0,
             left);
    size_t tail_size = strlen(tail);
    while (tail_size && tail[tail_size - 1] == ' ')
        tail[--tail_size] = '\0';
    int room = columns - 1 - (int)tail_size;
    snprintf(name, sizeof name, "%s", v->name);
    size_t fit = strlen(name);
    while (room < (int)fit && fit) /* whole characters: continuation bytes go with their head */
        do
            fit--;
        while (fit && ((unsigned char)name[fit] & 0xc0) == 0x80);
    name[fit] = '\0';
    snprintf(out, size, "%s%s", name, tail);
}

void ic_cli_view_tick(ic_cli_view *v, int64_t now_us)
{
    struct winsize window = {0};
    char text[400];
    if (v->is_json || !v->is_err_tty || !v->media || v->is_fed || v->before_line
        || now_us - v->drawn_us < DRAW_EVERY_US)
        return;
    ioctl(STDERR_FILENO, TIOCGWINSZ, &window);
    ic_cli_view_bar(v, now_us - v->begun_us, window.ws_col ? window.ws_col : 80, text, sizeof text);
    fprintf(stderr, "\r%s\033[K", text);
    v->drawn_us = now_us;
}

/* --- events ----------------------------------------------------------------------------------- */

void ic_cli_view_begin_turn(ic_cli_view *v, uint64_t turn)
{
    ic_buf_clear(&v->answer);
    v->turn = turn;
    v->is_answered = false;
    v->finish_reason = -1;
    v->usage = (ic_wire_usage){0};
    v->code[0] = v->message[0] = '\0';
}

void ic_cli_view_begin_media(ic_cli_view *v, uint64_t media, const char *name)
{
    v->media = media;
    v->is_fed = false;
    v->begun_us = ic_clock_mono_us();
    v->drawn_us = 0;
    v->from_us = v->duration_us = v->pos_us = v->frames = v->sent = v->size = 0;
    v->frames_skipped = v->frames_deduplicated = 0;
    v->code[0] = v->message[0] = '\0';
    snprintf(v->name, sizeof v->name, "%s", name);
    ic_cli_view_clean(v->name);
}

void ic_cli_view_end(ic_cli_view *v)
{
    erase_bar(v);
    end_line(v);
    v->turn = v->media = 0;
}

static void note_failure(ic_cli_view *v, const ic_wire_event *event)
{
    if (!ic_wire_has(event, event, code))
        return;
    snprintf(v->code, sizeof v->code, "%s", event->code);
    snprintf(v->message, sizeof v->message, "%s", ic_wire_get(event, event, message, event->code));
}

static void on_text(ic_cli_view *v, const ic_wire_event *event, bool is_mine)
{
    const char *text = ic_wire_get(event, event, text, "");
    if (is_mine)
        ic_buf_append(&v->answer, text, strlen(text));
    if (v->is_json || !(is_mine || v->shows_all) || !*text)
        return;
    erase_bar(v);
    if (v->before_line && !v->is_line_open)
        v->before_line(v->arg);
    if (v->is_out_tty)
        print_clean(text);
    else
        fputs(text, stdout);
    fflush(stdout);
    v->is_line_open = text[strlen(text) - 1] != '\n';
}

static void on_answer_end(ic_cli_view *v, const ic_wire_event *event, bool is_mine)
{
    if (!v->is_json)
        end_line(v);
    if (is_mine) {
        v->finish_reason = ic_wire_get(event, event, finish_reason, -1);
        v->usage = event->usage;
        note_failure(v, event);
        v->is_answered = true;
    } else if (v->after_line) {
        v->after_line(v->arg);
    }
}

static void on_media(ic_cli_view *v, const ic_wire_event *event)
{
    const ic_wire_media_info *info = &event->media;
    bool is_mine = v->media && info->media == v->media;
    if (is_mine) {
        v->duration_us = ic_wire_get(info, media_info, duration_us, v->duration_us);
        v->pos_us = ic_wire_get(info, media_info, pos_us, v->pos_us);
        v->frames = ic_wire_get(info, media_info, frames_seen, v->frames);
        v->frames_skipped = ic_wire_get(info, media_info, frames_skipped, v->frames_skipped);
        v->frames_deduplicated =
            ic_wire_get(info, media_info, frames_deduplicated, v->frames_deduplicated);
    }
    if (event->type != IC_WIRE_EVENT_MEDIA_END) {
        if (!is_mine && v->shows_all && event->type == IC_WIRE_EVENT_MEDIA_BEGIN)
            ic_cli_view_note(v, "watching %s", ic_wire_get(info, media_info, name, "a source"));
        return;
    }
    erase_bar(v);
    for (uint32_t i = 0; i < event->notices.count; i++)
        if (is_mine || v->shows_all)
            ic_cli_view_note(v, "note: %s", event->notices.items[i]);
    if (is_mine) {
        note_failure(v, event);
        v->is_fed = true;
    } else if (v->shows_all) {
        ic_cli_view_note(
            v, "%s has ended: %llu frames%s%s", ic_wire_get(info, media_info, name, "the source"),
            (unsigned long long)ic_wire_get(info, media_info, frames_seen, 0),
            ic_wire_has(event, event, message) ? ": " : "", ic_wire_get(event, event, message, ""));
    }
}

void ic_cli_view_event(ic_cli_view *v, const ic_wire_event *event)
{
    bool is_mine = v->turn && ic_wire_get(event, event, turn, 0) == v->turn;
    if (v->is_json)
        ic_cli_view_json(v, NULL, "event", event);
    switch (event->type) {
    case IC_WIRE_EVENT_TURN:
        if (!is_mine && v->shows_all)
            ic_cli_view_note(v, "> %s", ic_wire_get(event, event, text, ""));
        break;
    case IC_WIRE_EVENT_TEXT:
        on_text(v, event, is_mine);
        break;
    case IC_WIRE_EVENT_ANSWER_END:
        on_answer_end(v, event, is_mine);
        break;
    case IC_WIRE_EVENT_MEDIA_BEGIN:
    case IC_WIRE_EVENT_MEDIA_PROGRESS:
    case IC_WIRE_EVENT_MEDIA_END:
        on_media(v, event);
        break;
    case IC_WIRE_EVENT_NOTICE:
        ic_cli_view_note(v, "note: %s", ic_wire_get(event, event, message, ""));
        break;
    case IC_WIRE_EVENT_STATE:
        if (v->shows_all)
            ic_cli_view_note(v, "the session is %s%s%s",
                             ic_wire_word("state", ic_wire_get(event, event, state, -1)),
                             ic_wire_has(event, event, message) ? ": " : "",
                             ic_wire_get(event, event, message, ""));
        break;
    default:
        break;
    }
}

void ic_cli_view_usage(ic_cli_view *v)
{
    const ic_wire_usage *u = &v->usage;
    if (!v->is_out_tty || !v->is_err_tty)
        return;
    ic_cli_view_note(
        v,
        "[%llu tokens, %.1f/s, first after %.2f s; memory %llu of %llu, %llu of them of frames; "
        "%llu evicted%s]",
        (unsigned long long)u->completion_tokens, u->tokens_per_second, (double)u->ttft_us / 1e6,
        (unsigned long long)u->cache_tokens, (unsigned long long)u->cache_slots,
        (unsigned long long)u->frame_tokens, (unsigned long long)u->evicted_tokens,
        ic_wire_has(u, usage, exact) && !u->exact ? "; resumed under other numerics" : "");
}

/* --- JSON lines ------------------------------------------------------------------------------- */

static void print_json(ic_buf *line)
{
    fwrite(line->data, 1, line->size, stdout);
    putchar('\n');
    fflush(stdout);
    ic_buf_fini(line);
}

static void append(ic_buf *out, const char *text)
{
    ic_buf_append(out, text, strlen(text));
}

void ic_cli_view_json(ic_cli_view *v, const char *type, const char *record, const void *p)
{
    ic_buf line;
    (void)v;
    ic_buf_init(&line, 0);
    append(&line, "{");
    if (type) {
        append(&line, "\"type\":");
        ic_wire_json_str(&line, type);
    }
    ic_wire_json_fields(&line, record, p, type != NULL);
    append(&line, "}");
    print_json(&line);
}

void ic_cli_view_json_answer(ic_cli_view *v, const char *session)
{
    ic_buf line;
    char number[64];
    ic_buf_init(&line, 0);
    append(&line, "{\"type\":\"result\",\"session\":");
    ic_wire_json_str(&line, session);
    snprintf(number, sizeof number, ",\"turn\":%llu,\"text\":", (unsigned long long)v->turn);
    append(&line, number);
    ic_buf_u8(&v->answer, 0);
    ic_wire_json_str(&line, v->answer.data ? (const char *)v->answer.data : "");
    append(&line, ",\"finish_reason\":");
    ic_wire_json_str(&line, ic_wire_word("finish", v->finish_reason));
    append(&line, ",\"usage\":");
    ic_wire_json(&line, "usage", &v->usage);
    if (v->code[0]) {
        append(&line, ",\"code\":");
        ic_wire_json_str(&line, v->code);
        append(&line, ",\"message\":");
        ic_wire_json_str(&line, v->message);
    }
    append(&line, "}");
    print_json(&line);
}

void ic_cli_view_json_error(ic_cli_view *v, const char *session, const char *code,
                            const char *message)
{
    ic_wire_error error = {0};
    if (*session)
        ic_wire_put(&error, error, session, session);
    ic_wire_put(&error, error, code, code);
    ic_wire_put(&error, error, message, message);
    ic_wire_put(&error, error, retryable, ic_wire_code_is_retryable(ic_wire_code_of(code)));
    ic_cli_view_json(v, "error", "error", &error);
}

/* --- tables for people ------------------------------------------------------------------------ */

static void print_date(int64_t us, char out[32])
{
    time_t seconds = us / 1000000;
    struct tm parts;
    strcpy(out, "-");
    if (us > 0 && localtime_r(&seconds, &parts))
        strftime(out, 32, "%Y-%m-%d %H:%M", &parts);
}

void ic_cli_view_sessions(const ic_wire_session_info_list *list, bool with_head)
{
    int width = list->count ? (int)strlen(list->items[0].session) : 2; /* all are alike */
    if (with_head)
        printf("%-*s  %-10s %5s  %-16s  %s\n", width, "ID", "STATE", "TURNS", "LAST USED", "TITLE");
    for (uint32_t i = 0; i < list->count; i++) {
        const ic_wire_session_info *info = &list->items[i];
        char date[32];
        print_date(ic_wire_get(info, session_info, updated_us, 0), date);
        printf("%-*s  %-10s %5llu  %-16s  ", width, info->session,
               ic_wire_word("state", ic_wire_get(info, session_info, state, -1)),
               (unsigned long long)ic_wire_get(info, session_info, turns, 0), date);
        print_clean(ic_wire_get(info, session_info, title, ""));
        putchar('\n');
    }
}

static void show_media(const ic_wire_media_info *m)
{
    char duration[32];
    ic_cli_view_time(m->duration_us, duration);
    printf("media %llu   ", (unsigned long long)m->media);
    print_clean(ic_wire_get(m, media_info, name, "(no name)"));
    if (m->width)
        printf("  %llux%llu", (unsigned long long)m->width, (unsigned long long)m->height);
    if (m->codec)
        printf("  %s", m->codec);
    if (m->duration_us)
        printf("  %s", duration);
    printf("  %llu frames seen, %llu skipped, %llu deduplicated\n",
           (unsigned long long)m->frames_seen, (unsigned long long)m->frames_skipped,
           (unsigned long long)m->frames_deduplicated);
}

/* A label and a text of somebody's; nothing when there is none. */
static void show_line(const char *label, const char *text)
{
    if (!text || !*text)
        return;
    fputs(label, stdout);
    print_clean(text);
    putchar('\n');
}

void ic_cli_view_show(const ic_wire_ok *ok)
{
    const ic_wire_session_info *info = &ok->info;
    char created[32], updated[32];
    print_date(info->created_us, created);
    print_date(info->updated_us, updated);
    printf("session   %s\n", ic_wire_get(info, session_info, session, "?"));
    show_line("title     ", info->title);
    printf("state     %s%s%s\n", ic_wire_word("state", ic_wire_get(info, session_info, state, -1)),
           info->reason ? ": " : "", info->reason ? info->reason : "");
    show_line("fork of   ", info->parent);
    printf("created   %s\nlast used %s\n", created, updated);
    printf("memory    %llu of %llu tokens%s%s, %llu evicted, %.1f MB, %.1f MB stored\n",
           (unsigned long long)info->cache_tokens, (unsigned long long)info->cache_slots,
           info->policy ? ", policy " : "", info->policy ? info->policy : "",
           (unsigned long long)info->evicted_tokens, (double)info->cache_bytes / 1e6,
           (double)info->store_bytes / 1e6);
    show_line("system    ", info->system);
    for (uint32_t i = 0; i < ok->medias.count; i++)
        show_media(&ok->medias.items[i]);
    for (uint32_t i = 0; i < ok->marks.count; i++)
        printf("mark      %s (after turn %llu)\n", ok->marks.items[i].name,
               (unsigned long long)ok->marks.items[i].turn);
    for (uint32_t i = 0; i < ok->turns.count; i++) {
        show_line("\n> ", ic_wire_get(&ok->turns.items[i], turn_info, text, ""));
        show_line("", ic_wire_get(&ok->turns.items[i], turn_info, answer, "(no answer yet)"));
    }
}

/* --- what a session still holds --- */

void ic_cli_view_strip(const ic_wire_memory_bin_list *strip, char *out)
{
    static const char ramp[] = " .:-=+*#%@";
    for (uint32_t i = 0; i < strip->count; i++) {
        double share = strip->items[i].text + strip->items[i].frames;
        int level = share <= 0 ? 0 : 1 + (int)(share * 8.999);
        out[i] = ramp[level < 9 ? level : 9];
    }
    out[strip->count] = '\0';
}

/* With colours, frames are cyan and text is yellow. */
static void print_strip(const ic_cli_view *v, const ic_wire_memory_bin_list *strip)
{
    char text[IC_WIRE_LIST_MAX + 1];
    ic_cli_view_strip(strip, text);
    fputs("strip     [", stdout);
    for (uint32_t i = 0; i < strip->count; i++) {
        bool frames = strip->items[i].frames > strip->items[i].text;
        if (v->has_colours)
            printf("\033[%dm%c\033[0m", frames ? 36 : 33, text[i]);
        else
            putchar(text[i]);
    }
    puts("] oldest to newest");
}

static void print_spans(const ic_wire_memory_info *m)
{
    for (uint32_t i = 0; i < m->spans.count; i++) {
        const ic_wire_memory_span *s = &m->spans.items[i];
        char from[32], to[32];
        ic_cli_view_time(s->from_us, from);
        ic_cli_view_time(s->to_us, to);
        printf("  %7s to %7s  %5llu tokens in %llu frame groups\n", from, to,
               (unsigned long long)s->tokens, (unsigned long long)s->groups);
    }
}

void ic_cli_view_memory(const ic_cli_view *v, const ic_wire_ok *ok)
{
    const ic_wire_memory_info *m = &ok->memory;
    char date[32];
    printf("session   %s, %s\n", ic_wire_get(&ok->info, session_info, session, "?"),
           ic_wire_word("state", ic_wire_get(&ok->info, session_info, state, -1)));
    if (!ic_wire_has(ok, ok, memory)) {
        puts("memory    not known: nothing of it has been stored yet, or by an earlier version; "
             "`infchat resume` it, then ask again");
        return;
    }
    print_date(m->time_us, date);
    printf("memory    %llu tokens of a budget of %llu, policy %s%s%s\n",
           (unsigned long long)m->used, (unsigned long long)m->budget,
           ic_wire_get(&ok->info, session_info, policy, "?"),
           ic_wire_get(m, memory_info, stored, false) ? ", as stored at " : "",
           ic_wire_get(m, memory_info, stored, false) ? date : "");
    printf("seen      %llu tokens, %llu evicted; %llu frame groups, %llu evicted\n",
           (unsigned long long)m->tokens, (unsigned long long)m->evicted_tokens,
           (unsigned long long)m->groups, (unsigned long long)m->evicted_groups);
    printf("held      %llu pinned, %llu sinks, %llu text, %llu of frames, %llu of their "
           "timestamps (means over %llu heads)\n",
           (unsigned long long)m->pinned_tokens, (unsigned long long)m->sink_tokens,
           (unsigned long long)m->text_tokens, (unsigned long long)m->frame_tokens,
           (unsigned long long)m->marker_tokens, (unsigned long long)m->heads);
    if (m->strip.count)
        print_strip(v, &m->strip);
    if (m->spans.count)
        puts("frames");
    print_spans(m);
}

static void show_cost(const char *label, uint64_t count, uint64_t failed, uint64_t bytes,
                      uint64_t last_us, uint64_t max_us)
{
    printf("%s %llu times, %.1f MB, the last in %.1f ms, at most %.1f ms", label,
           (unsigned long long)count, (double)bytes / 1e6, (double)last_us / 1e3,
           (double)max_us / 1e3);
    if (failed)
        printf("; %llu FAILED", (unsigned long long)failed);
    putchar('\n');
}

void ic_cli_view_status(const ic_wire_status_info *s)
{
    char uptime[32];
    ic_cli_view_time(s->uptime_us, uptime);
    printf("infchatd  %s, up %s\n", ic_wire_get(s, status_info, version, "?"), uptime);
    printf("model     %s on %s\n", ic_wire_get(s, status_info, model, "?"),
           ic_wire_get(s, status_info, device, "?"));
    printf("sessions  %llu, %llu of %llu in memory, %llu answering, %llu watching; %llu clients\n",
           (unsigned long long)s->sessions, (unsigned long long)s->resident,
           (unsigned long long)s->resident_max, (unsigned long long)s->answering,
           (unsigned long long)s->ingesting, (unsigned long long)s->clients);
    printf("memory    %.1f MB of caches (%.1f MB a session, %llu slots), %.1f MB in all, "
           "%.1f MB stored\n",
           (double)s->cache_bytes / 1e6, (double)s->cache_session_bytes / 1e6,
           (unsigned long long)s->cache_slots, (double)s->rss_bytes / 1e6,
           (double)s->store_bytes / 1e6);
    printf("held      %llu tokens: %llu of text, %llu of frames (means over the heads)\n",
           (unsigned long long)s->cache_tokens, (unsigned long long)s->text_tokens,
           (unsigned long long)s->frame_tokens);
    printf("tokens    %llu in, %llu out, %llu evicted; %.1f/s in, %.1f/s out\n",
           (unsigned long long)s->prompt_tokens, (unsigned long long)s->completion_tokens,
           (unsigned long long)s->evicted_tokens, s->prefill_tokens_per_second,
           s->decode_tokens_per_second);
    printf("frames    %llu seen, %llu skipped, %llu deduplicated\n",
           (unsigned long long)s->frames_seen, (unsigned long long)s->frames_skipped,
           (unsigned long long)s->frames_deduplicated);
    show_cost("stored   ", s->checkpoints, s->checkpoints_failed, s->checkpoint_bytes,
              s->checkpoint_us, s->checkpoint_max_us);
    show_cost("restored ", s->restores, s->restores_failed, s->restore_bytes, s->restore_us,
              s->restore_max_us);
    if (s->sessions_retired)
        printf("retention %llu sessions deleted\n", (unsigned long long)s->sessions_retired);
    if (s->frames_dropped)
        printf("kept      %llu of the oldest frames are kept no more\n",
               (unsigned long long)s->frames_dropped);
}
