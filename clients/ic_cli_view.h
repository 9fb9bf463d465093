/* ic_cli_view: what infchat prints. Text for people, quiet when nobody looks; or one JSON object
 * per line. It hears the session's events and remembers how the answer and the source under way
 * stand. */
#ifndef IC_CLI_VIEW_H
#define IC_CLI_VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/ic_buf.h"
#include "wire/ic_wire.h"

typedef struct ic_cli_view {
    bool is_json;
    bool is_out_tty, is_err_tty, has_colours;
    bool shows_all;              /* attach and chat: also what others ask and feed */
    void (*before_line)(void *); /* clears a line being edited; NULL: there is none */
    void (*after_line)(void *);  /* ... and draws it again */
    void *arg;

    /* the answer under way; turn 0: none */
    uint64_t turn;
    bool is_answered, is_line_open; /* is_line_open: text was printed and no newline after it */
    ic_buf answer;
    int finish_reason;
    ic_wire_usage usage;
    char code[33], message[512]; /* why it, or the source, failed; "" when it did not */

    /* the source under way; media 0: none */
    uint64_t media;
    bool is_fed;
    char name[128];
    int64_t begun_us, drawn_us; /* drawn_us: when the bar was last drawn; 0: it is not there */
    uint64_t from_us, duration_us, pos_us, frames, frames_skipped, frames_deduplicated;
    uint64_t sent, size; /* bytes of the upload */
} ic_cli_view;

void ic_cli_view_init(ic_cli_view *v, bool is_json);
void ic_cli_view_fini(ic_cli_view *v);

/* An answer, or a source, begins: what is remembered of the former is forgotten. */
void ic_cli_view_begin_turn(ic_cli_view *v, uint64_t turn);
void ic_cli_view_begin_media(ic_cli_view *v, uint64_t media, const char *name);
/* It is over, or nobody waits any more: ends an open line, takes the bar away. */
void ic_cli_view_end(ic_cli_view *v);

/* One event of the session. */
void ic_cli_view_event(ic_cli_view *v, const ic_wire_event *event);

/* Draws the bar again, a few times a second; on a terminal only. now_us: the monotonic clock. */
void ic_cli_view_tick(ic_cli_view *v, int64_t now_us);

/* The bar's text, at most `columns` wide, without newline. Pure. elapsed_us: since the beginning.
 */
void ic_cli_view_bar(const ic_cli_view *v, int64_t elapsed_us, int columns, char *out, size_t size);

/* A line that is an aside (dim, on stderr); nothing with --json. */
void ic_cli_view_note(ic_cli_view *v, const char *fmt, ...) IC_PRINTF(2, 3);
/* After an answer, on a terminal: what it cost. */
void ic_cli_view_usage(ic_cli_view *v);

/* --- JSON lines ------------------------------------------------------------------------------- */

/* {"type": type, fields of the record...}, and the answer's or the source's when wanted. */
void ic_cli_view_json(ic_cli_view *v, const char *type, const char *record, const void *p);
/* The last line of `ask`. */
void ic_cli_view_json_answer(ic_cli_view *v, const char *session);
/* {"type": "error", ...}. */
void ic_cli_view_json_error(ic_cli_view *v, const char *session, const char *code,
                            const char *message);

/* --- tables for people ------------------------------------------------------------------------ */

void ic_cli_view_sessions(const ic_wire_session_info_list *list, bool with_head);
void ic_cli_view_show(const ic_wire_ok *ok);
/* What a session still holds: counts, a strip from its first token to its newest, frames by time.
 */
void ic_cli_view_memory(const ic_cli_view *v, const ic_wire_ok *ok);
/* One character per part of the strip, the denser the more of it is held; out: count + 1 bytes. */
void ic_cli_view_strip(const ic_wire_memory_bin_list *strip, char *out);
void ic_cli_view_status(const ic_wire_status_info *status);

/* Makes a text harmless to a terminal, in place: control characters but newline and tab (escape
 * sequences, C1 codes) become "?". What models, files and other people wrote may hold anything. */
void ic_cli_view_clean(char *text);

/* "0:07", "12:03", "1:02:03". */
void ic_cli_view_time(uint64_t us, char out[32]);

#endif
