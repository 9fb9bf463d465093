#include "engine/ic_weights.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/ic_mem.h"

enum {
    LENGTH_BYTES = 8,
    MAX_HEADER = 100 << 20, /* the format's own bound */
    MAX_SHARDS = 1024,
    SAMPLE_BYTES = 64 << 10
};
static const int64_t HASH_WHOLE_UP_TO = (int64_t)1 << 30;

typedef struct tensor {
    char *name;
    char dtype_name[12];
    int dtype; /* ic_dtype, or -1: known to the format, not to us */
    int dims;
    int64_t shape[IC_WEIGHTS_DIMS];
    int64_t elements;
    const uint8_t *data;
    int64_t bytes;
    void *aligned; /* own copy of data that lies unaligned in its file */
} tensor;

typedef struct shard {
    const uint8_t *bytes;
    size_t size;
    bool mapped;
    uint64_t header_bytes;
} shard;

struct ic_weights { /* immutable after open */
    shard shards[MAX_SHARDS];
    int shard_count;
    tensor *tensors; /* sorted by name */
    int count, capacity;
};

/* --- one header
 * ----------------------------------------------------------------------------------- */

static int dtype_size_of(const char *name, int *dtype)
{
    static const struct {
        const char *name;
        int size, dtype;
    } known[] = {{"F32", 4, IC_F32}, {"BF16", 2, IC_BF16}, {"F16", 2, IC_F16}, {"F64", 8, -1},
                 {"I64", 8, -1},     {"I32", 4, -1},       {"I16", 2, -1},     {"I8", 1, -1},
                 {"U64", 8, -1},     {"U32", 4, -1},       {"U16", 2, -1},     {"U8", 1, -1},
                 {"BOOL", 1, -1},    {"F8_E4M3", 1, -1},   {"F8_E5M2", 1, -1}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(name, known[i].name) == 0) {
            *dtype = known[i].dtype;
            return known[i].size;
        }
    }
    return 0;
}

static int read_shape(tensor *t, json_t *shape, ic_error *e)
{
    size_t dims = json_array_size(shape);
    if (!json_is_array(shape) || dims > IC_WEIGHTS_DIMS)
        return ic_error_set(e, IC_EFORMAT,
                            "tensor %.100s: its shape is not a list of at most %d sizes", t->name,
                            IC_WEIGHTS_DIMS);
    t->dims = (int)dims;
    t->elements = 1;
    for (size_t i = 0; i < dims; i++) {
        json_t *side = json_array_get(shape, i);
        t->shape[i] = json_is_integer(side) ? json_integer_value(side) : -1;
        if (t->shape[i] < 0 || __builtin_mul_overflow(t->elements, t->shape[i], &t->elements))
            return ic_error_set(e, IC_EFORMAT, "tensor %.100s: size %zu of its shape is impossible",
                                t->name, i);
    }
    return IC_OK;
}

static int read_extent(tensor *t, json_t *offsets, const shard *s, int element_bytes, ic_error *e)
{
    int64_t room = (int64_t)(s->size - LENGTH_BYTES - s->header_bytes);
    json_t *from = json_array_get(offsets, 0), *to = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(from) || !json_is_integer(to))
        return ic_error_set(e, IC_EFORMAT, "tensor %.100s: data_offsets is not a pair of numbers",
                            t->name);
    int64_t begin = json_integer_value(from), end = json_integer_value(to), bytes;
    if (begin < 0 || end < begin)
        return ic_error_set(e, IC_EFORMAT, "tensor %.100s: data_offsets %lld..%lld are impossible",
                            t->name, (long long)begin, (long long)end);
    if (__builtin_mul_overflow(t->elements, element_bytes, &bytes) || bytes != end - begin)
        return ic_error_set(e, IC_EFORMAT,
                            "tensor %.100s: its shape and dtype do not fit %lld bytes of data",
                            t->name, (long long)(end - begin));
    if (end > room)
        return ic_error_set(
            e, IC_EFORMAT,
            "tensor %.100s ends %lld bytes behind the end of the file: it is truncated; "
            "download it again",
            t->name, (long long)(end - room));
    t->data = s->bytes + LENGTH_BYTES + s->header_bytes + begin;
    t->bytes = bytes;
    return IC_OK;
}

/* A file need not align its tensors; a copy is made of those that are not. */
static int align_data(tensor *t, int element_bytes, ic_error *e)
{
    if ((uintptr_t)t->data % (uintptr_t)element_bytes == 0 || t->dtype < 0)
        return IC_OK;
    t->aligned = ic_try_alloc((size_t)t->bytes);
    if (!t->aligned)
        return ic_error_set(e, IC_ENOMEM, "tensor %.100s: no memory for %lld bytes", t->name,
                            (long long)t->bytes);
    memcpy(t->aligned, t->data, (size_t)t->bytes);
    t->data = t->aligned;
    return IC_OK;
}

static tensor *new_tensor(ic_weights *w, const char *name)
{
    if (w->count == w->capacity) {
        w->capacity = w->capacity ? 2 * w->capacity : 64;
        w->tensors = ic_realloc(w->tensors, (size_t)w->capacity * sizeof *w->tensors);
    }
    tensor *t = &w->tensors[w->count++];
    *t = (tensor){.name = ic_strdup(name)};
    return t;
}

static int read_tensor(ic_weights *w, const shard *s, const char *name, json_t *entry, ic_error *e)
{
    tensor *t = new_tensor(w, name);
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    int element_bytes = dtype ? dtype_size_of(dtype, &t->dtype) : 0;
    if (element_bytes == 0)
        return ic_error_set(e, IC_EFORMAT, "tensor %.100s: dtype %.20s is not known", name,
                            dtype ? dtype : "(missing)");
    memcpy(t->dtype_name, dtype, strlen(dtype) + 1); /* the known names fit */
    int rc = read_shape(t, json_object_get(entry, "shape"), e);
    if (rc == IC_OK)
        rc = read_extent(t, json_object_get(entry, "data_offsets"), s, element_bytes, e);
    return rc == IC_OK ? align_data(t, element_bytes, e) : rc;
}

static int by_file_place(const void *a, const void *b)
{
    const tensor *x = a, *y = b;
    return x->data < y->data   ? -1
           : x->data > y->data ? 1
                               : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int refuse_overlaps(tensor *tensors, int count, ic_error *e)
{
    qsort(tensors, (size_t)count, sizeof *tensors, by_file_place);
    const tensor *former = NULL;
    for (int i = 0; i < count; i++) {
        if (tensors[i].aligned) /* moved out of the file; its extent was inside */
            continue;
        if (former && former->data + former->bytes > tensors[i].data && tensors[i].bytes > 0)
            return ic_error_set(e, IC_EFORMAT, "tensors %.100s and %.100s overlap", former->name,
                                tensors[i].name);
        if (tensors[i].bytes > 0)
            former = &tensors[i];
    }
    return IC_OK;
}

static int read_header(ic_weights *w, shard *s, ic_error *e)
{
    if (s->size < LENGTH_BYTES)
        return ic_error_set(e, IC_EFORMAT, "not a safetensors file: %zu bytes long", s->size);
    for (int i = 0; i < LENGTH_BYTES; i++)
        s->header_bytes |= (uint64_t)s->bytes[i] << (8 * i);
    if (s->header_bytes > MAX_HEADER || s->header_bytes > s->size - LENGTH_BYTES)
        return ic_error_set(
            e, IC_EFORMAT,
            "its header claims %llu bytes and the file has %zu: it is truncated or not a "
            "safetensors file",
            (unsigned long long)s->header_bytes, s->size);
    json_error_t why;
    json_t *header = json_loadb((const char *)s->bytes + LENGTH_BYTES, (size_t)s->header_bytes,
                                JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(header)) {
        json_decref(header);
        return ic_error_set(e, IC_EFORMAT, "its header is not a JSON object: %.120s",
                            header ? "" : why.text);
    }
    int first = w->count, rc = IC_OK;
    const char *name;
    json_t *entry;
    json_object_foreach(header, name, entry)
    {
        if (rc == IC_OK && strcmp(name, "__metadata__") != 0)
            rc = read_tensor(w, s, name, entry, e);
    }
    json_decref(header);
    return rc == IC_OK ? refuse_overlaps(w->tensors + first, w->count - first, e) : rc;
}

/* --- files
 * ------------------------------------------------------------------------------------------ */

static int map_file(ic_weights *w, const char *path, ic_error *e)
{
    if (w->shard_count == MAX_SHARDS)
        return ic_error_set(e, IC_ELIMIT, "%s: more than %d shards", path, MAX_SHARDS);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ic_error_set(e, errno == ENOENT ? IC_ENOTFOUND : IC_EIO, "%s: %s", path,
                            strerror(errno));
    struct stat info;
    void *bytes = MAP_FAILED;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0)
        bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (bytes == MAP_FAILED)
        return ic_error_set(e, IC_EIO, "%s: cannot be mapped: not a regular file, or empty", path);
    shard *s = &w->shards[w->shard_count++];
    *s = (shard){.bytes = bytes, .size = (size_t)info.st_size, .mapped = true};
    int rc = read_header(w, s, e);
    return rc == IC_OK ? IC_OK : ic_error_prefix(e, rc, "%s", path);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const tensor *)a)->name, ((const tensor *)b)->name);
}

static int sort_names(ic_weights *w, ic_error *e)
{
    if (w->count > 0)
        qsort(w->tensors, (size_t)w->count, sizeof *w->tensors, by_name);
    for (int i = 1; i < w->count; i++) {
        if (strcmp(w->tensors[i - 1].name, w->tensors[i].name) == 0)
            return ic_error_set(e, IC_EFORMAT, "tensor %.100s stands in two shards",
                                w->tensors[i].name);
    }
    return IC_OK;
}

static bool is_plain_name(const char *name)
{
    return name && *name && *name != '.' && !strchr(name, '/') && strlen(name) < 256;
}

static int open_shards(ic_weights *w, const char *dir, const char *index_path, ic_error *e)
{
    json_error_t why;
    json_t *index = json_load_file(index_path, JSON_REJECT_DUPLICATES, &why);
    json_t *map = json_object_get(index, "weight_map");
    json_t *opened = json_object(), *file;
    int rc = IC_OK;
    if (!json_is_object(map))
        rc = ic_error_set(e, IC_EFORMAT, "%s: no weight_map in it%s%.100s", index_path,
                          index ? "" : ": ", index ? "" : why.text);
    const char *name;
    json_object_foreach(map, name, file)
    {
        const char *shard_name = json_string_value(file);
        if (rc != IC_OK || (shard_name && json_object_get(opened, shard_name)))
            continue;
        if (!is_plain_name(shard_name)) {
            rc = ic_error_set(e, IC_EFORMAT, "%s: the shard of %.80s is not a plain file name",
                              index_path, name);
            continue;
        }
        char *path = ic_strf("%s/%s", dir, shard_name);
        rc = map_file(w, path, e);
        ic_free(path);
        json_object_set_new(opened, shard_name, json_true());
    }
    json_decref(opened);
    json_decref(index);
    return rc;
}

int ic_weights_open(ic_weights **out, const char *dir, ic_error *e)
{
    char *single = ic_strf("%s/model.safetensors", dir);
    char *index = ic_strf("%s/model.safetensors.index.json", dir);
    ic_weights *w = ic_alloc(sizeof *w);
    int rc;
    if (access(single, F_OK) == 0)
        rc = map_file(w, single, e);
    else if (access(index, F_OK) == 0)
        rc = open_shards(w, dir, index, e);
    else
        rc = ic_error_set(
            e, IC_ENOTFOUND,
            "%s has neither model.safetensors nor model.safetensors.index.json: is it a Hugging "
            "Face model directory?",
            dir);
    if (rc == IC_OK)
        rc = sort_names(w, e);
    if (rc != IC_OK)
        ic_weights_close(&w);
    *out = w;
    ic_free(single);
    ic_free(index);
    return rc;
}

int ic_weights_open_memory(ic_weights **out, const void *bytes, size_t size, ic_error *e)
{
    ic_weights *w = ic_alloc(sizeof *w);
    w->shards[w->shard_count++] = (shard){.bytes = bytes, .size = size};
    int rc = read_header(w, &w->shards[0], e);
    if (rc == IC_OK)
        rc = sort_names(w, e);
    if (rc != IC_OK)
        ic_weights_close(&w);
    *out = w;
    return rc;
}

void ic_weights_close(ic_weights **w_p)
{
    ic_weights *w = *w_p;
    *w_p = NULL;
    if (!w)
        return;
    for (int i = 0; i < w->count; i++) {
        ic_free(w->tensors[i].name);
        ic_free(w->tensors[i].aligned);
    }
    ic_free(w->tensors);
    for (int i = 0; i < w->shard_count; i++) {
        if (w->shards[i].mapped)
            munmap((void *)(uintptr_t)w->shards[i].bytes, w->shards[i].size);
    }
    ic_free(w);
}

/* --- what is in it
 * --------------------------------------------------------------------------------- */

static const tensor *find(const ic_weights *w, const char *name)
{
    tensor key = {.name = (char *)(uintptr_t)name};
    return w->count ? bsearch(&key, w->tensors, (size_t)w->count, sizeof key, by_name) : NULL;
}

bool ic_weights_has(const ic_weights *w, const char *name)
{
    return find(w, name) != NULL;
}

static void print_shape(char *out, size_t room, int dims, const int64_t *shape)
{
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < dims && used < room; i++)
        used +=
            (size_t)snprintf(out + used, room - used, "%s%lld", i ? "," : "", (long long)shape[i]);
}

int ic_weights_get(const ic_weights *w, const char *name, int dims, const int64_t *shape,
                   ic_tensor_view *view, ic_error *e)
{
    const tensor *t = find(w, name);
    if (!t)
        return ic_error_set(e, IC_ENOTFOUND, "the weights have no tensor %s", name);
    if (t->dtype < 0)
        return ic_error_set(e, IC_EUNSUPPORTED, "tensor %s is %s; F32, F16 and BF16 can be used",
                            name, t->dtype_name);
    bool fits = t->dims == dims;
    for (int i = 0; fits && i < dims; i++)
        fits = shape[i] < 0 || shape[i] == t->shape[i];
    if (!fits) {
        char has[100], wants[100];
        print_shape(has, sizeof has, t->dims, t->shape);
        print_shape(wants, sizeof wants, dims, shape);
        return ic_error_set(e, IC_EFORMAT, "tensor %s is [%s], and config.json asks for [%s]", name,
                            has, wants);
    }
    *view = (ic_tensor_view){
        .data = t->data, .dtype = (ic_dtype)t->dtype, .dims = t->dims, .elements = t->elements};
    memcpy(view->shape, t->shape, sizeof view->shape);
    return IC_OK;
}

int64_t ic_weights_bytes(const ic_weights *w)
{
    int64_t bytes = 0;
    for (int i = 0; i < w->count; i++)
        bytes += w->tensors[i].bytes;
    return bytes;
}

static void hash_data(XXH3_state_t *state, const tensor *t, bool whole)
{
    size_t bytes = (size_t)t->bytes, sample = bytes < SAMPLE_BYTES ? bytes : SAMPLE_BYTES;
    if (whole) {
        XXH3_128bits_update(state, t->data, bytes);
    } else {
        XXH3_128bits_update(state, t->data, sample);
        XXH3_128bits_update(state, t->data + bytes - sample, sample);
    }
}

void ic_weights_fingerprint(const ic_weights *w, uint8_t hash[16])
{
    bool whole = ic_weights_bytes(w) <= HASH_WHOLE_UP_TO;
    XXH3_state_t *state = XXH3_createState();
    XXH3_128bits_reset(state);
    for (int i = 0; i < w->count; i++) { /* by name: how a model is sharded does not matter */
        const tensor *t = &w->tensors[i];
        XXH3_128bits_update(state, t->name, strlen(t->name) + 1);
        XXH3_128bits_update(state, t->dtype_name, sizeof t->dtype_name);
        XXH3_128bits_update(state, t->shape, sizeof t->shape);
        hash_data(state, t, whole);
    }
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
    XXH3_freeState(state);
    memcpy(hash, canonical.digest, 16);
}
