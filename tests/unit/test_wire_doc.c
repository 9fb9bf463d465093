/* docs/protocol.md against the code: its tables are the code's own, its examples decode to what it
 * says. IC_NEEDS_SERVER */
#include "ic_test.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "wire/ic_wire_priv.h"

enum { LINES_MAX = 2000, FRAMES_MAX = 3 };

static char *text;
static char *lines[LINES_MAX];
static size_t line_count;

static void read_document(void)
{
    FILE *f = fopen(IC_SOURCE_DIR "/docs/protocol.md", "rb");
    if (!f)
        abort();
    text = ic_calloc(1, 1 << 20);
    size_t size = fread(text, 1, (1 << 20) - 1, f);
    fclose(f);
    if (size < 1000)
        abort();
    for (char *at = text, *end; (end = strchr(at, '\n')); at = end + 1) {
        if (line_count == LINES_MAX)
            abort();
        *end = '\0';
        lines[line_count++] = at;
    }
}

static void forget_document(void)
{
    ic_free(text);
}

/* --- tables ----------------------------------------------------------------------------------- */

static void print_words(char *out, size_t size, const char *const *words)
{
    out[0] = '\0';
    for (size_t i = 0; words[i]; i++)
        snprintf(out + strlen(out), size - strlen(out), "%s%s", i ? ", " : "", words[i]);
}

static const char *bound(uint64_t v, char out[32])
{
    if (v == INT64_MAX)
        return "2^63-1";
    if (v == UINT64_MAX)
        return "2^64-1";
    snprintf(out, 32, "%llu", (unsigned long long)v);
    return out;
}

/* The first four columns of a field's row, as the document must have them. */
static void print_row(const ic_wire_field *f, char *out, size_t size)
{
    static const char *const types[] = {"uint", "int",  "float", "bool",        "str",
                                        "bin",  "word", "word",  "array of str"};
    char type[64], limits[256] = "", hi[32];
    if (f->kind == IC_WIRE_T_REC)
        snprintf(type, sizeof type, "map `%s`", f->record->name);
    else if (f->kind == IC_WIRE_T_LIST)
        snprintf(type, sizeof type, "array of `%s`", f->record->name);
    else
        snprintf(type, sizeof type, "%s", types[f->kind]);
    const char *unit = f->kind == IC_WIRE_T_STR                                 ? " bytes"
                       : f->kind == IC_WIRE_T_STRS || f->kind == IC_WIRE_T_LIST ? " items"
                                                                                : "";
    if (f->words)
        print_words(limits, sizeof limits, f->words);
    else if (f->kind == IC_WIRE_T_ID)
        snprintf(limits, sizeof limits, "16 bytes");
    else if (f->kind != IC_WIRE_T_BOOL && f->kind != IC_WIRE_T_REC)
        snprintf(limits, sizeof limits, "%lld to %s%s", (long long)f->lo, bound(f->hi, hi), unit);
    snprintf(out, size, "| %s | %s | %s | %s |", f->name, type,
             f->required ? "required" : "optional", limits);
}

static void check_table(const ic_wire_record *r, size_t at)
{
    for (size_t i = 0; i < r->count; i++) {
        char row[512];
        print_row(&r->fields[i], row, sizeof row);
        if (strncmp(lines[at + 2 + i], row, strlen(row)))
            fail_msg("line %zu of docs/protocol.md is\n%s\nwanted, for %s:\n%s", at + 3 + i,
                     lines[at + 2 + i], r->name, row);
    }
    if (lines[at + 2 + r->count][0] == '|')
        fail_msg("docs/protocol.md has a field that %s has not: %s", r->name,
                 lines[at + 2 + r->count]);
}

/* The record that a heading "### VERB..." or a line "Record `name`..." announces. */
static const ic_wire_record *announced(const char *line)
{
    char name[64];
    if (sscanf(line, "### %63[A-Z_]", name) == 1)
        return ic_wire_verb_record(ic_wire_verb_of(name, strlen(name)));
    if (sscanf(line, "Record `%63[a-z_]`", name) == 1)
        return ic_wire_record_of(name);
    return NULL;
}

/* Every field of every message stands in the document with its type, need and limits, and no other
 * does. */
static void field_tables_are_the_code(void **state)
{
    (void)state;
    const ic_wire_record *seen[128];
    size_t seen_count = 0;
    const ic_wire_record *r = NULL;
    for (size_t i = 0; i < line_count; i++) {
        const ic_wire_record *next = announced(lines[i]);
        r = next ? next : r;
        bool is_table = !strncmp(lines[i], "| field | type |", 16);
        if (!is_table && strcmp(lines[i], "An empty map."))
            continue;
        assert_non_null(r);
        for (size_t k = 0; k < seen_count; k++)
            assert_ptr_not_equal(seen[k], r);
        seen[seen_count++] = r;
        if (is_table)
            check_table(r, i);
        else
            assert_int_equal(r->count, 0);
    }
    for (int v = IC_WIRE_NONE + 1; v < IC_WIRE_VERB_COUNT; v++) {
        bool found = false;
        for (size_t k = 0; k < seen_count; k++)
            found |= seen[k] == ic_wire_verb_record(v);
        if (!found)
            fail_msg("docs/protocol.md has no table for %s", ic_wire_verb_name(v));
    }
    static const char *const parts[] = {"sampling",     "usage",       "media_info",  "turn_info",
                                        "session_info", "status_info", "limits",      "settings",
                                        "mark_info",    "memory_info", "memory_span", "memory_bin"};
    assert_int_equal(seen_count, IC_WIRE_VERB_COUNT - 1 + sizeof parts / sizeof *parts);
}

static bool document_has(const char *line)
{
    for (size_t i = 0; i < line_count; i++)
        if (!strncmp(lines[i], line, strlen(line)))
            return true;
    return false;
}

/* Verbs with their sizes, error codes, states and event types stand in the document. */
static void other_tables_are_the_code(void **state)
{
    (void)state;
    char row[256];
    for (int v = IC_WIRE_NONE + 1; v < IC_WIRE_VERB_COUNT; v++) {
        char third[32] = "none";
        if (ic_wire_payload_max(v))
            snprintf(third, sizeof third, "up to %zu", ic_wire_payload_max(v));
        snprintf(row, sizeof row, "| %s | %s | %zu | %s |", ic_wire_verb_name(v),
                 ic_wire_verb_from_client(v) ? "client" : "server", ic_wire_body_max(v), third);
        if (!document_has(row))
            fail_msg("docs/protocol.md has no row %s", row);
    }
    for (int c = 0; c < IC_WIRE_CODE_COUNT; c++) {
        snprintf(row, sizeof row, "| %s | %s |", ic_wire_code_name(c),
                 ic_wire_code_is_retryable(c) ? "yes" : "no");
        if (!document_has(row))
            fail_msg("docs/protocol.md has no row %s", row);
    }
    snprintf(row, sizeof row, "| request |");
    for (int s = IC_WIRE_STATE_IDLE; s <= IC_WIRE_STATE_FAILED; s++)
        snprintf(row + strlen(row), sizeof row - strlen(row), " %s |", ic_wire_word("state", s));
    assert_true(document_has(row));
    for (int t = IC_WIRE_EVENT_TURN; t <= IC_WIRE_EVENT_STATE; t++) {
        snprintf(row, sizeof row, "| %s |", ic_wire_word("event", t));
        assert_true(document_has(row));
    }
    for (int k = IC_WIRE_KIND_UPLOAD; k <= IC_WIRE_KIND_CAMERA; k++) {
        snprintf(row, sizeof row, "| %s |", ic_wire_word("kind", k));
        assert_true(document_has(row));
    }
}

/* --- examples --------------------------------------------------------------------------------- */

typedef struct frame {
    uint8_t bytes[512];
    size_t size;
} frame;

static void read_hex(frame *f, const char *hex)
{
    unsigned byte;
    for (; *hex; hex += hex[0] == ' ' ? 1 : 2) {
        if (hex[0] == ' ')
            continue;
        assert_true(isxdigit(hex[0]) && isxdigit(hex[1]) && sscanf(hex, "%2x", &byte) == 1);
        assert_true(f->size < sizeof f->bytes);
        f->bytes[f->size++] = (uint8_t)byte;
    }
}

static void print_record(ic_buf *out, const ic_wire_record *r, const void *base);

static void print_text(ic_buf *out, const char *s)
{
    ic_buf_append(out, s, strlen(s));
}

static void print_value(ic_buf *out, const ic_wire_field *f, const void *value)
{
    char number[64];
    switch (f->kind) {
    case IC_WIRE_T_U64:
    case IC_WIRE_T_I64:
        snprintf(number, sizeof number, "%llu", (unsigned long long)*(const uint64_t *)value);
        print_text(out, number);
        break;
    case IC_WIRE_T_F64:
        snprintf(number, sizeof number, "%g", *(const double *)value);
        print_text(out, number);
        break;
    case IC_WIRE_T_BOOL:
        print_text(out, *(const bool *)value ? "true" : "false");
        break;
    case IC_WIRE_T_STR:
        print_text(out, "\"");
        print_text(out, *(const char *const *)value);
        print_text(out, "\"");
        break;
    case IC_WIRE_T_ID:
        for (int i = 0; i < 16; i++) {
            snprintf(number, sizeof number, "%02x", ((const ic_wire_id *)value)->bytes[i]);
            print_text(out, number);
        }
        break;
    case IC_WIRE_T_ENUM:
    case IC_WIRE_T_OPEN:
        print_text(out, f->words[*(const int *)value]);
        break;
    case IC_WIRE_T_REC:
        print_record(out, f->record, value);
        break;
    case IC_WIRE_T_STRS:
    case IC_WIRE_T_LIST: {
        const ic_wire_any_list *list = value; /* ic_wire_strs has the same shape */
        print_text(out, "[");
        for (uint32_t i = 0; i < list->count; i++) {
            print_text(out, i ? ", " : "");
            if (f->kind == IC_WIRE_T_LIST) {
                print_record(out, f->record, (char *)list->items + i * f->record->size);
            } else {
                print_text(out, "\"");
                print_text(out, ((const ic_wire_strs *)value)->items[i]);
                print_text(out, "\"");
            }
        }
        print_text(out, "]");
        break;
    }
    }
}

static void print_record(ic_buf *out, const ic_wire_record *r, const void *base)
{
    bool is_first = true;
    print_text(out, "{");
    for (size_t i = 0; i < r->count; i++) {
        if (!(((const ic_wire_head *)base)->has >> i & 1))
            continue;
        print_text(out, is_first ? "" : ", ");
        print_text(out, r->fields[i].name);
        print_text(out, ": ");
        print_value(out, &r->fields[i], (const char *)base + r->fields[i].offset);
        is_first = false;
    }
    print_text(out, "}");
}

/* One ```hex block from line `at` on: decodes it and compares with its "means" line. */
static ic_wire_verb check_example(size_t at)
{
    frame frames[FRAMES_MAX] = {{.size = 0}};
    int count = 0;
    for (; strncmp(lines[at], "means  ", 7); at++) {
        if (!strncmp(lines[at], "frame  ", 7))
            count++;
        assert_true(count >= 1 && count <= FRAMES_MAX && strlen(lines[at]) > 7);
        read_hex(&frames[count - 1], lines[at] + 7);
    }
    const char *means = lines[at] + 7;
    ic_wire_verb verb = ic_wire_verb_of(means, strcspn(means, " "));
    assert_int_not_equal(verb, IC_WIRE_NONE);
    ic_wire_msg m;
    ic_error e = {0};
    ic_buf out;
    ic_buf_init(&out, 0);
    ic_assert_ok(ic_wire_decode(
                     &m, ic_wire_verb_from_client(verb) ? IC_WIRE_FROM_CLIENT : IC_WIRE_FROM_SERVER,
                     frames[0].bytes, frames[0].size, frames[1].bytes, frames[1].size,
                     count == 3 ? (int64_t)frames[2].size : -1, &e),
                 &e);
    print_text(&out, ic_wire_verb_name(m.verb));
    print_text(&out, " ");
    print_record(&out, ic_wire_verb_record(m.verb), &m.hello);
    ic_buf_u8(&out, 0);
    assert_string_equal((char *)out.data, means);
    ic_wire_msg_fini(&m);
    ic_buf_fini(&out);
    return verb;
}

/* Every example in hex decodes to what the document says it means; the main verbs have one. */
static void examples_decode(void **state)
{
    (void)state;
    bool seen[IC_WIRE_VERB_COUNT] = {false};
    for (size_t i = 0; i < line_count; i++)
        if (!strcmp(lines[i], "```hex"))
            seen[check_example(i + 1)] = true;
    static const ic_wire_verb wanted[] = {
        IC_WIRE_HELLO, IC_WIRE_NEW,   IC_WIRE_ASK,   IC_WIRE_MEDIA, IC_WIRE_DATA,   IC_WIRE_ATTACH,
        IC_WIRE_OK,    IC_WIRE_ERROR, IC_WIRE_EVENT, IC_WIRE_GRANT, IC_WIRE_WELCOME};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!seen[wanted[i]])
            fail_msg("docs/protocol.md has no example of %s", ic_wire_verb_name(wanted[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(field_tables_are_the_code),
        cmocka_unit_test(other_tables_are_the_code),
        cmocka_unit_test(examples_decode),
    };
    read_document();
    int rc = IC_TEST_RUN(tests);
    forget_document();
    return rc;
}
