#include "kernels/cpu/ic_cpu_amx.h"

#include <stddef.h>

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TILES  __attribute__((target("amx-tile,amx-bf16")))
#define INLINE TILES static inline __attribute__((always_inline))

/* A tile has up to 16 rows of 64 bytes: 16 sums, or 16 pairs of bf16. */
enum { SIDE = 16, ROW_BYTES = 64, BLOCK = 2 * SIDE };

bool ic_cpu_amx_ready(void)
{
    enum { AMX_BF16 = 22, AMX_TILE = 24, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> AMX_BF16 & 1) || !(d >> AMX_TILE & 1))
        return false;
    /* The state of the tiles is 8 KiB per thread, which Linux grants on request only. */
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* The format that the processor reads. */
typedef struct shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} shapes;

/* Tiles 0 to 3 are the sums of a block: (top, left), (top, right), (bottom, left), (bottom, right);
 * 4 and 5 are top and bottom of a, 6 and 7 left and right of b. */
TILES static void set_shapes(int top, int bottom, int pairs)
{
    shapes s = {.palette = 1};
    int rows[8] = {top, top, bottom, bottom, top, bottom, pairs, pairs};
    for (int i = 0; i < 8; i++) {
        s.rows[i] = (uint8_t)rows[i];
        s.row_bytes[i] = (uint16_t)(i == 4 || i == 5 ? 4 * pairs : ROW_BYTES);
    }
    /* The compiler believes that the instruction reads a pointer's worth of this. */
    __asm__ volatile("" : : "r"(&s) : "memory");
    _tile_loadconfig(&s);
}

enum { PARTS_MAX = 3 };

/* c (+)= a[0] b[0] + a[1] b[1] + ..., all of one shape; strides in elements. */
typedef struct product {
    const uint16_t *a[PARTS_MAX], *b[PARTS_MAX];
    float *c;
    int64_t lda, ldb, ldc;
    int parts, pairs, n;
    bool add;
} product;

INLINE void load_sums(const float *c, long below, bool add, const int high, const int wide)
{
    const float *bottom = c + SIDE * (below / 4);
    if (!add) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        return;
    }
    _tile_loadd(0, c, below);
    if (wide > 1)
        _tile_loadd(1, c + SIDE, below);
    if (high > 1)
        _tile_loadd(2, bottom, below);
    if (high > 1 && wide > 1)
        _tile_loadd(3, bottom + SIDE, below);
}

INLINE void store_sums(float *c, long below, const int high, const int wide)
{
    float *bottom = c + SIDE * (below / 4);
    _tile_stored(0, c, below);
    if (wide > 1)
        _tile_stored(1, c + SIDE, below);
    if (high > 1)
        _tile_stored(2, bottom, below);
    if (high > 1 && wide > 1)
        _tile_stored(3, bottom + SIDE, below);
}

/* One part's products of a block, added to the sums in the tiles. */
INLINE void add_part(const product *p, int part, int row, int col, int depth, const int high,
                     const int wide)
{
    const uint16_t *top = p->a[part] + row * p->lda, *bottom = top + SIDE * p->lda;
    const uint16_t *left = p->b[part] + 2 * col;
    long a_below = 2 * p->lda, b_below = 2 * p->ldb;
    for (int k = 0; k < p->pairs; k += depth, left += depth * p->ldb) {
        _tile_loadd(6, left, b_below);
        _tile_loadd(4, top + 2 * k, a_below);
        _tile_dpbf16ps(0, 4, 6);
        if (wide > 1) {
            _tile_loadd(7, left + 2 * SIDE, b_below);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (high > 1) {
            _tile_loadd(5, bottom + 2 * k, a_below);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (high > 1 && wide > 1)
            _tile_dpbf16ps(3, 5, 7);
    }
}

/* A block of `high` times `wide` tiles; its sums stay in tiles for all of k. */
INLINE void block(const product *p, int row, int col, int depth, const int high, const int wide)
{
    float *c = p->c + row * p->ldc + col;
    load_sums(c, 4 * p->ldc, p->add, high, wide);
    for (int part = 0; part < p->parts; part++)
        add_part(p, part, row, col, depth, high, wide);
    store_sums(c, 4 * p->ldc, high, wide);
}

/* All columns of `high` tiles of rows: so much of a stays in the nearer caches. */
INLINE void columns(const product *p, int row, int depth, const int high)
{
    int col = 0;
    for (; col + BLOCK <= p->n; col += BLOCK)
        block(p, row, col, depth, high, 2);
    if (col < p->n)
        block(p, row, col, depth, high, 1);
}

/* All of c, with steps of `depth` pairs; p->pairs is a multiple of that. */
TILES static void steps(const product *p, int rows, int depth)
{
    int whole = rows / BLOCK * BLOCK, left = rows - whole;
    if (whole) {
        set_shapes(SIDE, SIDE, depth);
        for (int row = 0; row < whole; row += BLOCK)
            columns(p, row, depth, 2);
    }
    if (left == 0)
        return;
    set_shapes(left < SIDE ? left : SIDE, left > SIDE ? left - SIDE : 1, depth);
    if (left > SIDE)
        columns(p, whole, depth, 2);
    else
        columns(p, whole, depth, 1);
}

TILES static void multiply(product *p, int rows, int pairs)
{
    int whole = pairs / SIDE * SIDE;
    p->pairs = whole;
    if (whole)
        steps(p, rows, SIDE);
    if (whole < pairs) {
        for (int i = 0; i < p->parts; i++) {
            p->a[i] += 2 * whole;
            p->b[i] += whole * p->ldb;
        }
        p->pairs = pairs - whole;
        p->add = p->add || whole > 0;
        steps(p, rows, p->pairs);
    }
    /* Tiles in use would be saved at every switch of threads. */
    _tile_release();
}

void ic_cpu_amx_gemm(const uint16_t *a, int64_t lda, const uint32_t *b, int64_t ldb, float *c,
                     int64_t ldc, int rows, int pairs, int n, bool add)
{
    product p = {.a = {a},
                 .b = {(const uint16_t *)(const void *)b},
                 .c = c,
                 .lda = lda,
                 .ldb = 2 * ldb,
                 .ldc = ldc,
                 .parts = 1,
                 .n = n,
                 .add = add};
    multiply(&p, rows, pairs);
}

void ic_cpu_amx_gemm_halves(const ic_cpu_halves *a, const ic_cpu_halves *b, float *c, int64_t ldc,
                            int rows, int pairs, int n, bool add)
{
    product p = {.a = {a->high, a->low, a->high},
                 .b = {b->high, b->high, b->low},
                 .c = c,
                 .lda = a->stride,
                 .ldb = b->stride,
                 .ldc = ldc,
                 .parts = b->low ? 3 : 2,
                 .n = n,
                 .add = add};
    multiply(&p, rows, pairs);
}

#else

bool ic_cpu_amx_ready(void)
{
    return false;
}

void ic_cpu_amx_gemm(const uint16_t *a, int64_t lda, const uint32_t *b, int64_t ldb, float *c,
                     int64_t ldc, int rows, int pairs, int n, bool add)
{
    (void)a, (void)lda, (void)b, (void)ldb, (void)c, (void)ldc, (void)rows, (void)pairs;
    (void)n, (void)add;
}

void ic_cpu_amx_gemm_halves(const ic_cpu_halves *a, const ic_cpu_halves *b, float *c, int64_t ldc,
                            int rows, int pairs, int n, bool add)
{
    (void)a, (void)b, (void)c, (void)ldc, (void)rows, (void)pairs, (void)n, (void)add;
}

#endif
