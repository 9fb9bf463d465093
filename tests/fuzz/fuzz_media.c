/* fuzz_media: any bytes given as an upload, with and without seeking: no crash, no leak, no hang,
 * and nothing larger than what the config allows. IC_NEEDS_SERVER */
#include <stdlib.h>
#include <string.h>

#include "actors/media/ic_media.h"
#include "base/ic_assert.h"
#include "base/ic_mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct input {
    const uint8_t *data;
    size_t size, at;
} input;

static int64_t input_read(void *user, uint8_t *into, size_t size)
{
    input *in = user;
    size = size < in->size - in->at ? size : in->size - in->at;
    memcpy(into, in->data + in->at, size);
    in->at += size;
    return (int64_t)size;
}

static int input_seek(void *user, int64_t offset)
{
    input *in = user;
    if (offset < 0 || offset > (int64_t)in->size)
        return IC_EINVAL;
    in->at = (size_t)offset;
    return IC_OK;
}

static void run(const uint8_t *data, size_t size, bool can_seek)
{
    input in = {data, size, 0};
    ic_media_source src = {.kind = IC_MEDIA_BYTES,
                           .read = input_read,
                           .seek = can_seek ? input_seek : NULL,
                           .size = can_seek ? (int64_t)size : -1,
                           .user = &in};
    ic_media_config cfg;
    ic_media_config_init(&cfg);
    cfg.open_timeout_ms = cfg.packet_timeout_ms = 2000;
    cfg.max_pixels = 512 * 512;
    cfg.max_frames = 16;
    cfg.threads = 1;
    cfg.fps = 10;
    cfg.from_us = size % 3 == 0 ? 2500000 : 0;
    ic_media *m = NULL;
    ic_frame *f = NULL;
    ic_error e = {0};
    int rc = ic_media_open(&m, &src, &cfg, &e);
    IC_ASSERT((rc == IC_OK) == (m != NULL) && (rc == IC_OK || e.text[0]));
    int64_t last = -1;
    while (m && (rc = ic_media_next(m, &f, &e)) == IC_OK) {
        IC_ASSERT((int64_t)f->width * f->height <= cfg.max_pixels);
        IC_ASSERT(f->pts_us > last || ic_media_get_info(m)->is_image);
        last = f->pts_us;
        ic_frame_unref(&f);
    }
    ic_media_close(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t live = ic_mem_live();
    run(data, size, true);
    run(data, size, false);
    IC_ASSERT(ic_mem_live() == live);
    return 0;
}
