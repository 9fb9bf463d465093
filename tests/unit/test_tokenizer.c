/* ic_tokenizer: the ids of Hugging Face's tokenizers, on every kind of text; what is refused; what
 * long and hostile texts cost. */
#include "ic_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "engine/ic_tokenizer.h"
#include "ic_test_npy.h"

#define GOLDEN IC_SOURCE_DIR "/tests/golden/"

static ic_tokenizer *open_tiny(void)
{
    ic_error e = {0};
    ic_tokenizer *t = NULL;
    ic_assert_ok(ic_tokenizer_open(&t, GOLDEN "tokenizer", &e), &e);
    return t;
}

/* One string against the list that begins at *at in `want`; moves *at past the list's end. */
static void check_string(const ic_tokenizer *t, const char *text, size_t bytes, bool special,
                         const ic_npy *want, int64_t *at, int nth)
{
    ic_error e = {0};
    int32_t *ids = NULL;
    int count = 0, n = 0;
    ic_assert_ok(ic_tokenizer_encode(t, text, bytes, special, &ids, &count, &e), &e);
    while (want->i32[*at + n] != -1)
        n++;
    int same = 0;
    while (same < count && same < n && ids[same] == want->i32[*at + same])
        same++;
    if (count != n || same != n) {
        print_message("string %d (%.*s): %d ids for %d; the first that differs: %d\n", nth,
                      (int)(bytes < 200 ? bytes : 200), text, count, n, same);
        for (int i = same > 2 ? same - 2 : 0; i < same + 6; i++)
            print_message("  %d %d\n", i < count ? ids[i] : -1, i < n ? want->i32[*at + i] : -1);
        fail();
    }
    *at += n + 1;
    ic_free(ids);
}

/* Every string of <folder>/strings.bin against <folder>/<name>.npy; `plain`: those with "<|",
 * special tokens not parsed. */
static void check_strings(const ic_tokenizer *t, const char *folder, const char *name, bool plain)
{
    size_t size, at = 0;
    char *source = ic_strf(GOLDEN "%s/strings.bin", folder);
    char *strings = ic_test_read_file(source, &size);
    assert_non_null(strings);
    char *path = ic_strf("%s/%s%s.npy", folder, name, plain ? "_plain" : "");
    ic_npy want;
    ic_npy_golden(path, &want);
    int64_t read = 0;
    int nth = 0;
    for (; at < size; nth++) {
        uint32_t n;
        memcpy(&n, strings + at, 4);
        const char *text = strings + at + 4;
        if (!plain || memmem(text, n, "<|", 2))
            check_string(t, text, n, !plain, &want, &read, nth);
        at += 4 + n;
    }
    assert_int_equal(read, want.count);
    assert_true(nth >= 1500);
    ic_npy_fini(&want);
    ic_free(source);
    ic_free(path);
    ic_free(strings);
}

/* Ensures that a few thousand strings, in all scripts, with special tokens inside, and of bytes
 * that are not UTF-8, get the ids that Hugging Face's library gives. */
static void test_equals_tokenizers(void **state)
{
    (void)state;
    ic_tokenizer *t = open_tiny();
    assert_int_equal(ic_tokenizer_vocab(t), 2048);
    check_strings(t, "strings", "tiny", false);
    check_strings(t, "strings", "tiny", true);
    ic_tokenizer_close(&t);
    ic_tokenizer_close(&t);
}

/* Ensures that added tokens with every flag (single_word, lstrip, rstrip, normalized), overlapping
 * ones, ignore_merges, merges spelled "a b" and GPT-2's expression do what they do there. */
static void test_equals_tokenizers_on_flags(void **state)
{
    (void)state;
    ic_error e = {0};
    ic_tokenizer *t = NULL;
    ic_assert_ok(ic_tokenizer_open(&t, GOLDEN "flags", &e), &e);
    check_strings(t, "flags", "flags", false);
    ic_tokenizer_close(&t);
}

/* --- the real vocabularies, where the folder of test data is present ------------------------- */

static void put_json_string(FILE *f, const char *text, size_t n)
{
    fputc('"', f);
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '"' || text[i] == '\\')
            fputc('\\', f);
        fputc(text[i], f);
    }
    fputc('"', f);
}

/* tokenizer.json as Qwen2 has it, from its vocab.json and merges.txt. Returns its folder, or NULL
 * without the data. */
static const char *make_qwen2(void)
{
    size_t n;
    char *vocab = ic_test_read_file(IC_TEST_DATA "/tokenizers/qwen2/vocab.json", &n);
    char *merges = ic_test_read_file(IC_TEST_DATA "/tokenizers/qwen2/merges.txt", NULL);
    char *path = ic_strf("%s/tokenizer.json", ic_test_dir());
    FILE *f = vocab && merges ? fopen(path, "w") : NULL;
    if (f) {
        static const char *const special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
        fputs("{\"added_tokens\":[", f);
        for (int i = 0; i < 3; i++)
            fprintf(f, "%s{\"id\":%d,\"content\":\"%s\",\"normalized\":false,\"special\":true}",
                    i ? "," : "", 151643 + i, special[i]);
        fputs("],\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\","
              "\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\""
              "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}"
              "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
              "\"},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\","
              "\"add_prefix_space\":false,\"use_regex\":false}]},\"decoder\":{\"type\":"
              "\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":",
              f);
        fwrite(vocab, 1, n, f);
        fputs(",\"merges\":[", f);
        bool first = true;
        for (char *save, *line = strtok_r(merges, "\n", &save); line;
             line = strtok_r(NULL, "\n", &save)) {
            if (strncmp(line, "#version", 8) == 0)
                continue;
            if (!first)
                fputc(',', f);
            put_json_string(f, line, strlen(line));
            first = false;
        }
        fputs("]}}", f);
        fclose(f);
    }
    ic_free(vocab);
    ic_free(merges);
    ic_free(path);
    return f ? ic_test_dir() : NULL;
}

/* llama.cpp's vectors: inputs between separators, ids of each on a line of its own. */
static void check_llama_vectors(const ic_tokenizer *t)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char *inputs =
        ic_test_read_file(IC_TEST_DATA "/llama.cpp-vocab/ggml-vocab-qwen2.gguf.inp", NULL);
    char *lines =
        ic_test_read_file(IC_TEST_DATA "/llama.cpp-vocab/ggml-vocab-qwen2.gguf.out", NULL);
    assert_non_null(inputs);
    assert_non_null(lines);
    const char *line = lines;
    int vectors = 0;
    for (char *in = inputs, *end; (end = strstr(in, separator)) != NULL;
         in = end + sizeof separator - 1) {
        int32_t *ids = NULL;
        int count = 0;
        ic_error e = {0};
        ic_assert_ok(ic_tokenizer_encode(t, in, (size_t)(end - in), true, &ids, &count, &e), &e);
        for (int i = 0; i < count; i++) {
            char *next;
            assert_int_equal(strtol(line, &next, 10), ids[i]);
            assert_ptr_not_equal(line, next);
            line = next;
        }
        line += strspn(line, " \r");
        assert_int_equal(*line, '\n');
        line++;
        ic_free(ids);
        vectors++;
    }
    assert_int_equal(vectors, 46);
    ic_free(inputs);
    ic_free(lines);
}

/* Ensures the same for Qwen2's own vocabulary of 151,643 tokens, and llama.cpp's vectors for it. */
static void test_equals_tokenizers_on_qwen2(void **state)
{
    (void)state;
    const char *dir = make_qwen2();
    if (!dir) {
        print_message("skipped: no %s/tokenizers/qwen2\n", IC_TEST_DATA);
        skip();
    }
    ic_error e = {0};
    ic_tokenizer *t = NULL;
    ic_assert_ok(ic_tokenizer_open(&t, dir, &e), &e);
    int32_t *ids = NULL;
    int count = 0;
    ic_assert_ok(ic_tokenizer_encode(t, "## Heading", 10, true, &ids, &count, &e), &e);
    assert_int_equal(count, 2);
    assert_int_equal(ids[0], 565);
    assert_int_equal(ids[1], 51349);
    ic_free(ids);
    check_strings(t, "strings", "qwen2", false);
    check_strings(t, "strings", "qwen2", true);
    check_llama_vectors(t);
    ic_tokenizer_close(&t);
}

/* Ensures the same for another pipeline (Digits, GPT-2's expression, no NFC, bytes missing from the
 * vocabulary): SmolLM2's tokenizer.json. */
static void test_equals_tokenizers_on_smollm2(void **state)
{
    (void)state;
    ic_error e = {0};
    ic_tokenizer *t = NULL;
    int rc = ic_tokenizer_open(&t, IC_TEST_DATA "/tokenizers/smollm2", &e);
    if (rc == IC_ENOTFOUND) {
        print_message("skipped: no %s/tokenizers/smollm2\n", IC_TEST_DATA);
        skip();
    }
    ic_assert_ok(rc, &e);
    check_strings(t, "strings", "smollm2", false);
    check_strings(t, "strings", "smollm2", true);
    ic_tokenizer_close(&t);
}

/* --- pieces and streams ------------------------------------------------------------------------
 */

/* Ensures that the pieces of a text's tokens, put together, are the text. */
static void test_pieces_give_the_text_back(void **state)
{
    (void)state;
    static const char text[] = "It's 42\xC3\xA9\xE4\xBD\xA0 <|im_end|>\n\n  tab\t\xF0\x9F\x98\x80.";
    ic_tokenizer *t = open_tiny();
    ic_error e = {0};
    int32_t *ids = NULL;
    int count = 0;
    char got[256];
    size_t size = 0;
    ic_assert_ok(ic_tokenizer_encode(t, text, sizeof text - 1, true, &ids, &count, &e), &e);
    for (int i = 0; i < count; i++) {
        size_t n;
        const char *piece = ic_tokenizer_piece(t, ids[i], &n);
        assert_non_null(piece);
        memcpy(got + size, piece, n);
        size += n;
    }
    assert_int_equal(size, sizeof text - 1);
    assert_memory_equal(got, text, size);
    size_t n = 1;
    assert_null(ic_tokenizer_piece(t, 2048, &n));
    assert_null(ic_tokenizer_piece(t, -1, &n));
    assert_int_equal(n, 0);
    int32_t end = ic_tokenizer_id(t, "<|im_end|>");
    assert_true(end >= 0 && ic_tokenizer_is_special(t, end));
    assert_false(ic_tokenizer_is_special(t, ids[0]));
    assert_false(ic_tokenizer_is_special(t, ic_tokenizer_id(t, "<think>")));
    assert_int_equal(ic_tokenizer_id(t, "<|nothing|>"), -1);
    ic_free(ids);
    ic_tokenizer_close(&t);
}

/* Ensures that a stream shows whole characters only, whatever the cuts, and U+FFFD for what never
 * becomes one, exactly as for the text in one piece. */
static void test_stream_is_whole_characters(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"a\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x98\x80z", "a\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x98\x80z"},
        {"\xF0\x9F\x98", "\xEF\xBF\xBD"},
        {"\xE2\x28\xA1", "\xEF\xBF\xBD(\xEF\xBF\xBD"},
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xF0\x9F\xC3\xA9", "\xEF\xBF\xBD\xC3\xA9"},
        {"\xC3\xC3\xA9\xFF", "\xEF\xBF\xBD\xC3\xA9\xEF\xBF\xBD"},
        {"\xF0\x90\x80\x80\xF4\x90", "\xF0\x90\x80\x80\xEF\xBF\xBD\xEF\xBF\xBD"},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        size_t n = strlen(cases[c].in);
        for (size_t step = 1; step <= n; step++) {
            ic_utf8_stream s = {{0}, 0};
            char out[64], all[128] = "";
            for (size_t at = 0; at < n; at += step) {
                size_t take = n - at < step ? n - at : step;
                size_t got = ic_utf8_stream_push(&s, cases[c].in + at, take, false, out);
                strncat(all, out, got);
            }
            size_t got = ic_utf8_stream_push(&s, "", 0, true, out);
            strncat(all, out, got);
            assert_string_equal(all, cases[c].out);
        }
    }
    ic_utf8_stream worst = {{0}, 0};
    char room[IC_UTF8_STREAM_ROOM(4)];
    assert_int_equal(ic_utf8_stream_push(&worst, "\xF0\x9F\x98", 3, false, room), 0);
    size_t most = ic_utf8_stream_push(&worst, "\xFF\xFF\xFF\xFF", 4, true, room);
    assert_true(most == 15 && most <= sizeof room);
    ic_utf8_stream s = {{0}, 0};
    char out[64];
    assert_int_equal(ic_utf8_stream_push(&s, "\xE4\xBD", 2, false, out), 0);
    assert_int_equal(ic_utf8_stream_push(&s, "\xA0", 1, false, out), 3);
}

/* --- what is refused ---------------------------------------------------------------------------
 */

/* The smallest tokenizer.json that is accepted, in parts that a case can replace. */
typedef struct parts {
    const char *normalizer, *pre_tokenizer, *decoder, *post, *model, *added;
} parts;

#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"

static int open_parts(const parts *p, ic_error *e)
{
    char *path = ic_strf("%s/tokenizer.json", ic_test_dir());
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f,
            "{\"normalizer\":%s,\"pre_tokenizer\":%s,\"decoder\":%s,\"post_processor\":%s,"
            "\"model\":%s,\"added_tokens\":%s}",
            p->normalizer ? p->normalizer : "null",
            p->pre_tokenizer ? p->pre_tokenizer
                             : "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
            p->decoder ? p->decoder : "{\"type\":\"ByteLevel\"}", p->post ? p->post : "null",
            p->model ? p->model : "{" VOCAB ",\"merges\":[\"a b\"]}", p->added ? p->added : "[]");
    fclose(f);
    ic_free(path);
    ic_tokenizer *t = NULL;
    int rc = ic_tokenizer_open(&t, ic_test_dir(), e);
    assert_true((rc == IC_OK) == (t != NULL));
    ic_tokenizer_close(&t);
    return rc;
}

#define SPLIT(regex, rest)                                                                         \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{" regex "}," rest  \
    "},{\"type\":\"ByteLevel\",\"add_prefix_space\":false}]}"
#define ISOLATED "\"behavior\":\"Isolated\""

/* Ensures that every feature this build does not know is refused, and named. */
static void test_refuses_what_it_does_not_know(void **state)
{
    (void)state;
    static const struct {
        parts parts;
        int code;
        const char *names;
    } cases[] = {
        {{0}, IC_OK, ""},
        {{.normalizer = "{\"type\":\"Lowercase\"}"}, IC_EUNSUPPORTED, "Lowercase"},
        {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"}]}"},
         IC_EUNSUPPORTED,
         "NFKC"},
        {{.pre_tokenizer = "null"}, IC_EUNSUPPORTED, "pre_tokenizer"},
        {{.pre_tokenizer = "{\"type\":\"Metaspace\"}"}, IC_EUNSUPPORTED, "Metaspace"},
        {{.pre_tokenizer = "{\"type\":\"ByteLevel\"}"}, IC_EUNSUPPORTED, "add_prefix_space"},
        {{.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"}]}"},
         IC_EUNSUPPORTED,
         "ByteLevel"},
        {{.pre_tokenizer = SPLIT("\"String\":\"x\"", ISOLATED)}, IC_EUNSUPPORTED, "Regex"},
        {{.pre_tokenizer = SPLIT("\"Regex\":\"x\"", "\"behavior\":\"Removed\"")},
         IC_EUNSUPPORTED,
         "Removed"},
        {{.pre_tokenizer = SPLIT("\"Regex\":\"x\"", ISOLATED ",\"invert\":true")},
         IC_EUNSUPPORTED,
         "invert"},
        {{.pre_tokenizer = SPLIT("\"Regex\":\"(x\"", ISOLATED)}, IC_EUNSUPPORTED, "(x"},
        {{.pre_tokenizer = SPLIT("\"Regex\":\"\\\\h+\"", ISOLATED)}, IC_EUNSUPPORTED, "\\h"},
        {{.pre_tokenizer = SPLIT("\"Regex\":\"^x\"", ISOLATED)}, IC_EUNSUPPORTED, "^x"},
        {{.pre_tokenizer = SPLIT("\"Regex\":\"x\\\\\"", ISOLATED)}, IC_EUNSUPPORTED, "x"},
        {{.pre_tokenizer = SPLIT("\"Regex\":\"[^x\\\\s]+|\\\\S\"", ISOLATED)}, IC_OK, ""},
        {{.decoder = "{\"type\":\"WordPiece\"}"}, IC_EUNSUPPORTED, "WordPiece"},
        {{.post = "{\"type\":\"BertProcessing\"}"}, IC_EUNSUPPORTED, "BertProcessing"},
        {{.model = "{\"type\":\"Unigram\"}"}, IC_EUNSUPPORTED, "Unigram"},
        {{.model = "{\"byte_fallback\":true," VOCAB ",\"merges\":[]}"},
         IC_EUNSUPPORTED,
         "byte_fallback"},
        {{.model = "{\"dropout\":0.1," VOCAB ",\"merges\":[]}"}, IC_EUNSUPPORTED, "dropout"},
        {{.model = "{\"end_of_word_suffix\":\"</w>\"," VOCAB ",\"merges\":[]}"},
         IC_EUNSUPPORTED,
         "end_of_word_suffix"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ic_error e = {0};
        assert_int_equal(open_parts(&cases[i].parts, &e), cases[i].code);
        if (!strstr(e.text, cases[i].names))
            fail_msg("case %zu: \"%s\" does not name %s", i, e.text, cases[i].names);
    }
}

/* Ensures that a garbled file is an error that says where. */
static void test_refuses_garbled_files(void **state)
{
    (void)state;
    static const parts cases[] = {
        {.model = "{}"},
        {.model = "{\"vocab\":{},\"merges\":[]}"},
        {.model = "{\"vocab\":{\"a\":-1},\"merges\":[]}"},
        {.model = "{\"vocab\":{\"a\":4194304},\"merges\":[]}"},
        {.model = "{\"vocab\":{\"a\":\"0\"},\"merges\":[]}"},
        {.model = "{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}"},
        {.model = "{" VOCAB ",\"merges\":[\"a c\"]}"},
        {.model = "{" VOCAB ",\"merges\":[\"b a\"]}"},
        {.model = "{" VOCAB ",\"merges\":[\"ab\"]}"},
        {.model = "{" VOCAB ",\"merges\":[[\"a\"]]}"},
        {.model = "{" VOCAB ",\"merges\":[7]}"},
        {.model = "{" VOCAB ",\"merges\":{}}"},
        {.added = "[{\"id\":3}]"},
        {.added = "[{\"content\":\"x\"}]"},
        {.added = "[{\"id\":3,\"content\":\"\"}]"},
        {.added = "[{\"id\":-3,\"content\":\"x\"}]"},
        {.added = "[7"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ic_error e = {0};
        if (open_parts(&cases[i], &e) != IC_EFORMAT)
            fail_msg("case %zu: %s", i, e.text);
        assert_non_null(strstr(e.text, "tokenizer.json"));
    }
    ic_tokenizer *t = NULL;
    ic_error e = {0};
    assert_int_equal(ic_tokenizer_open(&t, "/nonexistent", &e), IC_ENOTFOUND);
    assert_null(t);
}

/* --- bounds -------------------------------------------------------------------------------- */

/* Ensures that a megabyte of one letter, of spaces, of marks and of noise is read (in time that a
 * quadratic way could not keep), and that more than the limit is refused. */
static void test_long_texts(void **state)
{
    (void)state;
    static const char *const units[] = {"a", " ", "\n", "\xCC\x81\xCC\xA3", "ab ", "\xFF", "<|"};
    ic_tokenizer *t = open_tiny();
    size_t size = IC_TOKENIZER_MAX_TEXT / 2;
    char *text = ic_alloc(2 * size + 1);
    ic_error e = {0};
    int32_t *ids = NULL;
    int count = 0;
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t n = strlen(units[u]);
        for (size_t at = 0; at < size; at++)
            text[at] = units[u][at % n];
        ic_assert_ok(ic_tokenizer_encode(t, text, size / n * n, false, &ids, &count, &e), &e);
        assert_true(count > 0);
        ic_free(ids);
    }
    assert_int_equal(ic_tokenizer_encode(t, text, 2 * size + 1, false, &ids, &count, &e),
                     IC_ELIMIT);
    assert_null(ids);
    ic_free(text);
    ic_tokenizer_close(&t);
}

/* Ensures that whichever allocation fails while a text is read, the answer is IC_ENOMEM and nothing
 * is lost. */
static void test_out_of_memory(void **state)
{
    (void)state;
    ic_tokenizer *t = open_tiny();
    char text[600];
    memset(text, 'a', sizeof text);
    memcpy(text, "e\xCC\x81\xFF<think>", 11);
    int64_t live = ic_mem_live();
    int failures = 0;
    for (int n = 1;; n++) {
        int32_t *ids = NULL;
        int count = 0;
        ic_error e = {0};
        ic_mem_fail_after(n, 0);
        int rc = ic_tokenizer_encode(t, text, sizeof text, true, &ids, &count, &e);
        ic_mem_fail_after(0, 0);
        if (rc == IC_OK) {
            ic_free(ids);
            break;
        }
        assert_int_equal(rc, IC_ENOMEM);
        assert_int_equal(ic_mem_live(), live);
        failures++;
    }
    assert_true(failures >= 4);
    ic_tokenizer_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_tokenizers),
        cmocka_unit_test(test_equals_tokenizers_on_flags),
        cmocka_unit_test(test_equals_tokenizers_on_qwen2),
        cmocka_unit_test(test_equals_tokenizers_on_smollm2),
        cmocka_unit_test(test_pieces_give_the_text_back),
        cmocka_unit_test(test_stream_is_whole_characters),
        cmocka_unit_test(test_refuses_what_it_does_not_know),
        cmocka_unit_test(test_refuses_garbled_files),
        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_out_of_memory),
    };
    return IC_TEST_RUN(tests);
}
