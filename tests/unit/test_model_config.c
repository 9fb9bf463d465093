/* ic_model_config: both spellings of config.json, and every wrong value told by file and key. */
#include "ic_test.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/ic_model_config.h"

static const char good_57[] =
    "{\"architectures\":[\"Qwen3VLForConditionalGeneration\"],\"torch_dtype\":\"bfloat16\","
    "\"image_token_id\":500,\"video_token_id\":501,\"vision_start_token_id\":502,"
    "\"vision_end_token_id\":503,\"tie_word_embeddings\":true,"
    "\"text_config\":{\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
    "\"num_key_value_heads\":2,\"head_dim\":16,\"intermediate_size\":100,\"vocab_size\":512,"
    "\"max_position_embeddings\":2048,\"rms_norm_eps\":1e-06,\"rope_theta\":5000000,"
    "\"rope_scaling\":{\"mrope_interleaved\":true,\"mrope_section\":[4,2,2],\"rope_type\":"
    "\"default\"}},"
    "\"vision_config\":{\"depth\":3,\"hidden_size\":32,\"num_heads\":2,\"intermediate_size\":64,"
    "\"out_hidden_size\":64,\"patch_size\":16,\"spatial_merge_size\":2,\"temporal_patch_size\":2,"
    "\"num_position_embeddings\":64,\"deepstack_visual_indexes\":[0,2]}}";

static const char good_5x[] =
    "{\"architectures\":[\"Qwen3VLForConditionalGeneration\"],\"dtype\":\"float32\","
    "\"image_token_id\":500,\"video_token_id\":501,\"vision_start_token_id\":502,"
    "\"vision_end_token_id\":503,"
    "\"text_config\":{\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
    "\"num_key_value_heads\":2,\"head_dim\":16,\"intermediate_size\":100,\"vocab_size\":512,"
    "\"max_position_embeddings\":2048,\"tie_word_embeddings\":true,"
    "\"rope_parameters\":{\"rope_theta\":5000000.0,\"mrope_section\":[4,2,2],\"rope_type\":"
    "\"default\"}},"
    "\"vision_config\":{\"depth\":3,\"hidden_size\":32,\"num_heads\":2,\"intermediate_size\":64,"
    "\"out_hidden_size\":64,\"num_position_embeddings\":64,\"deepstack_visual_indexes\":[0,2]}}";

static void write_text(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", ic_test_dir(), name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void remove_file(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", ic_test_dir(), name);
    unlink(path);
}

/* config.json with `from` replaced by `to` must be refused with `code` and a sentence that holds
 * `words`. */
static void expect_refusal(const char *from, const char *to, int code, const char *words)
{
    char text[sizeof good_57 + 200];
    const char *at = strstr(good_57, from);
    assert_non_null(at);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - good_57), good_57, to, at + strlen(from));
    write_text("config.json", text);
    ic_model_config c;
    ic_error e = {0};
    assert_int_equal(ic_model_config_load(&c, ic_test_dir(), &e), code);
    if (!strstr(e.text, words) || !strstr(e.text, ic_test_dir()))
        fail_msg("\"%s\" does not say \"%s\" and the directory", e.text, words);
}

/* Ensures that the spellings of transformers 4.57 and 5.x give the same model. */
static void test_both_spellings(void **state)
{
    (void)state;
    ic_model_config a, b;
    ic_error e;
    write_text("config.json", good_57);
    ic_assert_ok(ic_model_config_load(&a, ic_test_dir(), &e), &e);
    write_text("config.json", good_5x);
    ic_assert_ok(ic_model_config_load(&b, ic_test_dir(), &e), &e);
    assert_true(a.text.rope_theta == 5000000 && a.text.tied_head);
    assert_int_equal(a.text.mrope_section[0], 4);
    assert_int_equal(a.vision.deepstack[1], 2);
    assert_string_equal(a.dtype, "bfloat16");
    assert_string_equal(b.dtype, "float32");
    memset(a.dtype, 0, sizeof a.dtype);
    memset(b.dtype, 0, sizeof b.dtype);
    assert_memory_equal(&a, &b, sizeof a);
}

/* Ensures that what is missing or foreign is named. */
static void test_refusals(void **state)
{
    (void)state;
    ic_model_config c;
    ic_error e = {0};
    assert_int_equal(ic_model_config_load(&c, "/nonexistent/model", &e), IC_ENOTFOUND);
    assert_non_null(strstr(e.text, "/nonexistent/model"));
    remove_file("config.json");
    assert_int_equal(ic_model_config_load(&c, ic_test_dir(), &e), IC_ENOTFOUND);
    assert_non_null(strstr(e.text, "config.json"));
    expect_refusal("Qwen3VLForConditionalGeneration", "LlamaForCausalLM", IC_EUNSUPPORTED,
                   "LlamaForCausalLM");
    expect_refusal("\"hidden_size\":64", "\"hidden_size\":-1", IC_EFORMAT, "hidden_size");
    expect_refusal("\"head_dim\":16", "\"head_dim\":15", IC_EFORMAT, "head_dim");
    expect_refusal("\"num_hidden_layers\":2,", "", IC_EFORMAT, "num_hidden_layers is missing");
    expect_refusal("\"num_key_value_heads\":2", "\"num_key_value_heads\":3", IC_EFORMAT,
                   "num_attention_heads");
    expect_refusal("\"vocab_size\":512", "\"vocab_size\":400", IC_EFORMAT, "image_token_id");
    expect_refusal("\"rope_type\":\"default\"", "\"rope_type\":\"yarn\"", IC_EUNSUPPORTED, "yarn");
    expect_refusal("[4,2,2]", "[4,2]", IC_EFORMAT, "mrope_section");
    expect_refusal("[0,2]", "[0,3]", IC_EFORMAT, "deepstack");
    expect_refusal("\"out_hidden_size\":64", "\"out_hidden_size\":72", IC_EFORMAT,
                   "out_hidden_size");
    expect_refusal("\"num_position_embeddings\":64", "\"num_position_embeddings\":63", IC_EFORMAT,
                   "square");
    expect_refusal("\"text_config\":", "\"other\":", IC_EFORMAT, "text_config");
    expect_refusal("}}", "}", IC_EFORMAT, "line");
}

/* Ensures that processor and generation settings are read from their files, in the new and the
 * older spelling, and that wrong ones are refused by file and key. */
static void test_processor_and_generation(void **state)
{
    (void)state;
    ic_model_config c;
    ic_error e = {0};
    write_text("config.json", good_57);
    write_text("preprocessor_config.json",
               "{\"min_pixels\":1024,\"max_pixels\":4096,\"image_mean\":[0.1,0.2,0.3]}");
    write_text(
        "video_preprocessor_config.json",
        "{\"size\":{\"shortest_edge\":2048,\"longest_edge\":65536},\"fps\":1,\"max_frames\":8}");
    write_text("generation_config.json", "{\"do_sample\":true,\"temperature\":0.7,\"top_k\":20,"
                                         "\"top_p\":0.8,\"eos_token_id\":[7,8]}");
    ic_assert_ok(ic_model_config_load(&c, ic_test_dir(), &e), &e);
    assert_int_equal(c.processor.image_min_pixels, 1024);
    assert_int_equal(c.processor.image_max_pixels, 4096);
    assert_int_equal(c.processor.video_max_pixels, 65536);
    assert_true(c.processor.image_mean[2] == 0.3f && c.processor.image_std[0] == 0.5f);
    assert_true(c.processor.fps == 1 && c.processor.max_frames == 8);
    assert_int_equal(c.stop_count, 2);
    assert_int_equal(c.stop[1], 8);
    assert_true(c.sampling.temperature == 0.7f && c.sampling.top_k == 20);
    write_text("generation_config.json", "{\"eos_token_id\":9}");
    ic_assert_ok(ic_model_config_load(&c, ic_test_dir(), &e), &e);
    assert_int_equal(c.stop[0], 9);
    assert_true(c.sampling.temperature == 0);
    write_text("generation_config.json", "{\"eos_token_id\":99999}");
    assert_int_equal(ic_model_config_load(&c, ic_test_dir(), &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "eos_token_id"));
    remove_file("generation_config.json");
    write_text("preprocessor_config.json", "{\"patch_size\":14}");
    assert_int_equal(ic_model_config_load(&c, ic_test_dir(), &e), IC_EFORMAT);
    assert_non_null(strstr(e.text, "patch_size"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_spellings),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_processor_and_generation),
    };
    return IC_TEST_RUN(tests);
}
