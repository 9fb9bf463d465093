/* Messages as JSON text. IC_NEEDS_SERVER */
#include "ic_test.h"

#include <string.h>

#include "wire/ic_wire_json.h"

static const char *text_of(ic_buf *out)
{
    ic_buf_u8(out, 0);
    return (const char *)out->data;
}

/* Every kind of field is written under its own name; absent ones are not. */
static void fields_are_written(void **state)
{
    (void)state;
    ic_buf out;
    ic_wire_event event = {0};
    ic_wire_usage usage = {0};
    const char *notices[] = {"a", "b"};
    ic_buf_init(&out, 0);
    ic_wire_put(&usage, usage, exact, true);
    ic_wire_put(&usage, usage, tokens_per_second, 12.5);
    ic_wire_put(&usage, usage, seed, UINT64_MAX);
    ic_wire_put(&event, event, session, "3f");
    ic_wire_put(&event, event, n, 4);
    ic_wire_put(&event, event, type, IC_WIRE_EVENT_ANSWER_END);
    ic_wire_put(&event, event, usage, usage);
    ic_wire_put(&event, event, state, -1);
    ic_wire_put(&event, event, notices, ((ic_wire_strs){2, notices}));
    assert_int_equal(ic_wire_json(&out, "event", &event), 0);
    assert_string_equal(
        text_of(&out),
        "{\"session\":\"3f\",\"n\":4,\"type\":\"answer_end\",\"usage\":{\"exact\":true,"
        "\"tokens_per_second\":12.5,\"seed\":18446744073709551615},\"state\":\"?\","
        "\"notices\":[\"a\",\"b\"]}");
    ic_buf_fini(&out);
    ic_wire_hello hello = {0};
    ic_wire_put(&hello, hello, client, ((ic_wire_id){{0xab, 1}}));
    assert_int_equal(ic_wire_json_fields(&out, "hello", &hello, true), 0);
    assert_string_equal(text_of(&out), ",\"client\":\"ab010000000000000000000000000000\"");
    assert_int_equal(ic_wire_json(&out, "none", &hello), IC_EINVAL);
    ic_buf_fini(&out);
}

/* Lists of records are arrays of objects. */
static void lists_are_arrays(void **state)
{
    (void)state;
    ic_buf out;
    ic_wire_ok ok = {0};
    ic_wire_turn_info turns[2] = {{0}};
    ic_buf_init(&out, 0);
    ic_wire_put(&turns[0], turn_info, turn, 1);
    ic_wire_put(&turns[1], turn_info, turn, 2);
    ic_wire_put(&ok, ok, turns, ((ic_wire_turn_info_list){2, turns}));
    assert_int_equal(ic_wire_json(&out, "ok", &ok), 0);
    assert_string_equal(text_of(&out), "{\"turns\":[{\"turn\":1},{\"turn\":2}]}");
    ic_buf_fini(&out);
}

/* Strings come out as valid JSON whatever is in them. */
static void strings_are_escaped(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"", "\"\""},
        {"a\"b\\c/d", "\"a\\\"b\\\\c/d\""},
        {"\n\r\t\b\f", "\"\\n\\r\\t\\b\\f\""},
        {"\x01\x1f\x7f", "\"\\u0001\\u001f\\u007f\""},
        {"ß語😀", "\"ß語😀\""},
        {"a\xff\xc3z", "\"a\\ufffd\\ufffdz\""},
        {"\xe2\x82", "\"\\ufffd\\ufffd\""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ic_buf out;
        ic_buf_init(&out, 0);
        assert_int_equal(ic_wire_json_str(&out, rows[i].in), 0);
        assert_string_equal(text_of(&out), rows[i].out);
        ic_buf_fini(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_written),
        cmocka_unit_test(lists_are_arrays),
        cmocka_unit_test(strings_are_escaped),
    };
    return IC_TEST_RUN(tests);
}
