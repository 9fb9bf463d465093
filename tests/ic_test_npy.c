#include "ic_test_npy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "ic_test.h"

static const struct {
    const char *descr;
    ic_npy_dtype dtype;
    size_t size;
} dtypes[] = {{"<f4", IC_NPY_F32, 4},
              {"<f8", IC_NPY_F64, 8},
              {"<i4", IC_NPY_I32, 4},
              {"<i8", IC_NPY_I64, 8},
              {"|u1", IC_NPY_U8, 1}};

char *ic_test_read_file(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    rewind(f);
    char *text = ic_alloc((size_t)size + 1);
    size_t got = fread(text, 1, (size_t)size, f);
    fclose(f);
    if (got != (size_t)size) {
        ic_free(text);
        return NULL;
    }
    if (bytes)
        *bytes = got;
    return text;
}

/* The header is a Python dict literal; only its shape tuple has to be taken apart. */
static int parse_shape(const char *header, ic_npy *out)
{
    const char *p = strstr(header, "'shape': (");
    if (!p)
        return IC_EFORMAT;
    p += strlen("'shape': (");
    out->count = 1;
    while (*p && *p != ')' && out->ndim < 8) {
        char *end;
        int64_t n = strtoll(p, &end, 10);
        if (end == p || n < 0)
            return IC_EFORMAT;
        out->shape[out->ndim++] = n;
        out->count *= n;
        p = end + strspn(end, ", ");
    }
    return *p == ')' ? IC_OK : IC_EFORMAT;
}

static int parse(char *file, size_t bytes, ic_npy *out)
{
    if (bytes < 12 || memcmp(file, "\x93NUMPY", 6) != 0)
        return IC_EFORMAT;
    const uint8_t *u = (const uint8_t *)file;
    size_t start = u[6] == 1 ? 10 : 12;
    size_t length = u[8] | (size_t)u[9] << 8;
    if (start == 12)
        length |= (size_t)u[10] << 16 | (size_t)u[11] << 24;
    if (length == 0 || start + length > bytes)
        return IC_EFORMAT;
    char *header = file + start;
    header[length - 1] = '\0'; /* a newline in every valid file */
    const char *descr = strstr(header, "'descr': '");
    if (!descr || strstr(header, "'fortran_order': True") || parse_shape(header, out))
        return IC_EFORMAT;
    descr += strlen("'descr': '");
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strncmp(descr, dtypes[i].descr, 3) != 0)
            continue;
        out->dtype = dtypes[i].dtype;
        out->data = file + start + length; /* NumPy aligns it to 64 bytes from the file's start */
        return start + length + (size_t)out->count * dtypes[i].size == bytes ? IC_OK : IC_EFORMAT;
    }
    return IC_EFORMAT;
}

int ic_npy_load(const char *path, ic_npy *out, ic_error *e)
{
    memset(out, 0, sizeof *out);
    size_t bytes = 0;
    char *file = ic_test_read_file(path, &bytes);
    if (!file)
        return ic_error_set(e, IC_EIO, "%s cannot be read", path);
    out->block = file;
    if (parse(file, bytes, out) != IC_OK) {
        ic_npy_fini(out);
        return ic_error_set(e, IC_EFORMAT, "%s is not a .npy file this reader knows", path);
    }
    return IC_OK;
}

void ic_npy_fini(ic_npy *a)
{
    ic_free(a->block);
    memset(a, 0, sizeof *a);
}

void ic_npy_golden(const char *relative, ic_npy *out)
{
    ic_error e = {0};
    char *path = ic_strf("%s/tests/golden/%s", IC_SOURCE_DIR, relative);
    ic_assert_ok(ic_npy_load(path, out, &e), &e);
    ic_free(path);
}
