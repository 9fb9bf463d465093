/* The engine's door: what it says of a model, what it refuses, and the grids of pictures. */
#include <stdio.h>
#include <string.h>

#include "base/ic_mem.h"
#include "ic_test.h"
#include "ic_test_session.h"

static int try_open(const char *dir, const char *dtype, ic_error *e)
{
    ic_engine_config config = {.model_dir = dir, .device = "cpu", .threads = 1, .dtype = dtype};
    ic_engine *engine = NULL;
    int rc = ic_engine_open(&engine, &config, e);
    if (rc)
        assert_null(engine);
    ic_engine_close(&engine);
    return rc;
}

/* What a model is can be read off the engine. */
static void test_info(void **state)
{
    (void)state;
    ic_engine *engine = ic_test_engine("gqa4_untied_bf16", NULL, 1);
    const ic_engine_info *i = ic_engine_info_of(engine);
    assert_string_equal(i->model_name, "gqa4_untied_bf16");
    assert_string_equal(i->architecture, "Qwen3VLForConditionalGeneration");
    assert_string_equal(i->family, "qwen3-vl");
    assert_int_equal(i->layers, 3);
    assert_int_equal(i->heads, 4);
    assert_int_equal(i->kv_heads, 1);
    assert_int_equal(i->head_dim, 32);
    assert_int_equal(i->temporal, 2);
    assert_int_equal(i->patch_pixels, 32);
    assert_int_equal(i->kv_bytes_per_token, 2 * 3 * 1 * 32 * 2);
    assert_int_equal(strlen(i->meaning), 32);
    assert_true(i->weight_bytes > 500000);
    assert_true(i->sampling.max_tokens > 0);
    assert_int_equal(i->sampling.top_k, 20);
    ic_engine_close(&engine);
}

/* The fingerprint tells models apart and is the same at every opening. */
static void test_meaning(void **state)
{
    (void)state;
    ic_engine *a = ic_test_engine("gqa2_tied_f32", NULL, 1);
    ic_engine *b = ic_test_engine("gqa2_tied_f32", "bf16", 1);
    ic_engine *c = ic_test_engine("gqa2_text_f32", NULL, 1);
    assert_string_equal(ic_engine_info_of(a)->meaning, ic_engine_info_of(b)->meaning);
    assert_string_not_equal(ic_engine_info_of(a)->meaning, ic_engine_info_of(c)->meaning);
    assert_string_not_equal(ic_engine_info_of(a)->numerics, ic_engine_info_of(b)->numerics);
    ic_engine_close(&a);
    ic_engine_close(&b);
    ic_engine_close(&c);
}

/* A directory that is none, an unknown dtype or device: the sentence names it. */
static void test_refusals(void **state)
{
    (void)state;
    ic_error e = {0};
    assert_int_equal(try_open("/nonexistent/model", NULL, &e), IC_ENOTFOUND);
    assert_non_null(strstr(e.text, "/nonexistent/model"));
    assert_int_equal(try_open("", NULL, &e), IC_EINVAL);
    char *dir = ic_strf("%s/tests/golden/models/gqa2_tied_f32", IC_SOURCE_DIR);
    assert_int_equal(try_open(dir, "int3", &e), IC_EINVAL);
    assert_non_null(strstr(e.text, "int3"));
    ic_engine_config config = {.model_dir = dir, .device = "tpu"};
    ic_engine *engine;
    assert_int_not_equal(ic_engine_open(&engine, &config, &e), IC_OK);
    assert_null(engine);
    ic_free(dir);
}

static void copy_file(const char *from_dir, const char *to_dir, const char *name, size_t keep)
{
    char *from = ic_strf("%s/%s", from_dir, name), *to = ic_strf("%s/%s", to_dir, name);
    size_t bytes = 0;
    char *data = ic_test_read_file(from, &bytes);
    if (data) {
        FILE *f = fopen(to, "wb");
        assert_non_null(f);
        fwrite(data, 1, keep && keep < bytes ? keep : bytes, f);
        fclose(f);
    }
    ic_free(data);
    ic_free(from);
    ic_free(to);
}

/* A model of which a part is missing or cut short is refused, whichever part, and nothing leaks. */
static void test_broken_models(void **state)
{
    (void)state;
    static const char *const files[] = {"config.json",
                                        "model.safetensors",
                                        "tokenizer.json",
                                        "chat_template.jinja",
                                        "generation_config.json",
                                        "preprocessor_config.json",
                                        "video_preprocessor_config.json",
                                        "tokenizer_config.json"};
    char *from = ic_strf("%s/tests/golden/models/gqa2_tied_f32", IC_SOURCE_DIR);
    const char *to = ic_test_dir();
    for (int broken = 0; broken < 6; broken++) {
        ic_error e = {0};
        for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
            char *path = ic_strf("%s/%s", to, files[i]);
            remove(path);
            ic_free(path);
            if (broken < 3 && (int)i == broken)
                continue;
            copy_file(from, to, files[i], broken - 3 == (int)i ? 100 : 0);
        }
        assert_int_not_equal(try_open(to, NULL, &e), IC_OK);
        assert_true(strlen(e.text) > 10);
    }
    ic_free(from);
}

/* A failing allocation at any point of opening is IC_ENOMEM, without a leak. */
static void test_no_memory(void **state)
{
    (void)state;
    char *dir = ic_strf("%s/tests/golden/models/gqa2_tied_f32", IC_SOURCE_DIR);
    int refused = 0;
    for (int n = 1; n < 2000; n += 1 + n / 8) {
        ic_error e = {0};
        int64_t live = ic_mem_live();
        ic_mem_fail_after(n, 1);
        int rc = try_open(dir, NULL, &e);
        ic_mem_fail_after(0, 0);
        assert_int_equal(ic_mem_live(), live);
        if (rc == IC_OK)
            break;
        assert_int_equal(rc, IC_ENOMEM);
        refused++;
    }
    assert_true(refused > 5);
    ic_free(dir);
}

/* A stream's grid keeps the shape of the picture, holds the budget of tokens, and is a fixed point:
 * a frame of that size stays as it is. */
static void test_grid_budget(void **state)
{
    (void)state;
    ic_engine *engine = ic_test_engine("gqa4_untied_bf16", NULL, 1);
    const int sizes[][2] = {{640, 360}, {360, 640}, {128, 128}, {1920, 1080}, {33, 400}, {1, 1}};
    const int budgets[] = {1, 4, 9, 16, 60};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (size_t b = 0; b < sizeof budgets / sizeof *budgets; b++) {
            ic_grid g, again;
            ic_error e = {0};
            ic_assert_ok(ic_engine_grid(engine, sizes[i][0], sizes[i][1], budgets[b], true, &g, &e),
                         &e);
            assert_true(g.tokens_w * g.tokens_h <= budgets[b]);
            assert_int_equal(g.width, g.tokens_w * 32);
            assert_int_equal(g.height, g.tokens_h * 32);
            ic_assert_ok(ic_engine_grid(engine, g.width, g.height, budgets[b], true, &again, &e),
                         &e);
            assert_memory_equal(&g, &again, sizeof g);
        }
    }
    ic_engine_close(&engine);
}

/* Sizes and aspect ratios that the processor refuses are refused. */
static void test_grid_refusals(void **state)
{
    (void)state;
    ic_engine *engine = ic_test_engine("gqa2_tied_f32", NULL, 1);
    ic_grid g;
    ic_error e = {0};
    assert_int_equal(ic_engine_grid(engine, 0, 10, 0, false, &g, &e), IC_EINVAL);
    assert_int_equal(ic_engine_grid(engine, 20000, 10000, 0, false, &g, &e), IC_EINVAL);
    assert_int_equal(ic_engine_grid(engine, 4000, 10, 0, true, &g, &e), IC_EINVAL);
    assert_int_equal(ic_engine_grid(engine, 64, 64, -1, true, &g, &e), IC_EINVAL);
    assert_int_equal(ic_engine_clip_grid(engine, 64, 64, 0, &g, &e), IC_EINVAL);
    ic_engine_close(&engine);
}

/* Images and closed clips get the processors' size: the goldens' pictures, and their pixels. */
static void test_grid_of_processor(void **state)
{
    (void)state;
    static const char *const cases[] = {"image_f32", "images_f32", "image_bf16",    "image_f16",
                                        "video_f32", "video_bf16", "video_chat_f16"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ic_test_case c;
        ic_test_case_load(&c, cases[i]);
        ic_engine *engine = ic_test_engine(c.model, NULL, 1);
        for (int n = 0; n < 16; n++) {
            bool video = n >= 8;
            const ic_npy *a = video ? &c.videos[n - 8] : &c.images[n];
            if (!a->data)
                continue;
            char path[128];
            ic_npy resized;
            ic_grid g;
            ic_error e = {0};
            snprintf(path, sizeof path, "cases/%s/%s_%d_resized.npy", cases[i],
                     video ? "video" : "image", n % 8);
            ic_npy_golden(path, &resized);
            int h = (int)a->shape[video], w = (int)a->shape[video + 1];
            int rc = video ? ic_engine_clip_grid(engine, w, h, (int)a->shape[0], &g, &e)
                           : ic_engine_grid(engine, w, h, 0, false, &g, &e);
            ic_assert_ok(rc, &e);
            assert_int_equal(g.height, resized.shape[video]);
            assert_int_equal(g.width, resized.shape[video + 1]);
            ic_frame *f = ic_frame_new(w, h), *fitted;
            memcpy(f->rgb, a->u8, f->bytes);
            ic_assert_ok(ic_engine_fit_frame(engine, f, &g, &fitted, &e), &e);
            assert_memory_equal(fitted->rgb, resized.u8, fitted->bytes);
            ic_frame_unref(&f);
            ic_frame_unref(&fitted);
            ic_npy_fini(&resized);
        }
        ic_engine_close(&engine);
        ic_test_case_fini(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info),          cmocka_unit_test(test_meaning),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_broken_models),
        cmocka_unit_test(test_no_memory),     cmocka_unit_test(test_grid_budget),
        cmocka_unit_test(test_grid_refusals), cmocka_unit_test(test_grid_of_processor),
    };
    return IC_TEST_RUN(tests);
}
