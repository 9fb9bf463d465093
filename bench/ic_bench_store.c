/* infchat-bench store: how long an append waits, alone and beside a checkpoint, what frames and
 * tokens cost in bytes written, and how fast a checkpoint is written and read back, beside a plain
 * file of the same bytes. Left out of a build
 * without the server's rooms. */
#include "bench/ic_bench.h"

#ifdef IC_HAVE_SERVER

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ic_clock.h"
#include "base/ic_mem.h"
#include "session_store/ic_store.h"

enum {
    APPENDS = 300,
    BATCH = 16,
    READS = 5,
    FRAMES = 600,
    FRAME_BYTES = 96 * 96 * 3, /* as the demo model takes them */
    HEAD_BYTES = 33,           /* of a frame */
    EVENT_BYTES = 120
};

struct latency {
    double p50_ms, p99_ms, max_ms;
};

struct figures {
    int mib, segment_kib, page_kib;
    struct latency alone, batch, beside;
    double write_mibs, cold_mibs, hot_mibs, plain_write_mibs, plain_cold_mibs, plain_hot_mibs;
    double finish_ms, delete_ms, shrink_ms;
    double frames_factor, token_kib; /* bytes written: per byte of frames, per token's commit */
};

struct place {
    char folder[256], store[300], plain[300];
    char id[IC_STORE_ID_CHARS + 1];
    uint8_t *piece;
    size_t piece_bytes; /* a segment, and one read or write of the plain file */
    int pieces;
};

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct latency summarize(double *ms, int count)
{
    struct latency l = {0};
    if (count == 0)
        return l;
    qsort(ms, (size_t)count, sizeof *ms, compare);
    l.p50_ms = ms[count / 2];
    l.p99_ms = ms[(int)(0.99 * (count - 1))];
    l.max_ms = ms[count - 1];
    return l;
}

static double since_ms(int64_t start_us)
{
    return (double)(ic_clock_mono_us() - start_us) / 1000.0;
}

static double rate(const struct place *at, int64_t start_us)
{
    return (double)at->pieces * (double)at->piece_bytes / 1048.576 / since_ms(start_us);
}

/* Bytes that do not repeat within a piece; cheap to make. */
static void fill(uint8_t *piece, size_t bytes, uint64_t seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < bytes; i += sizeof x) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(piece + i, &x, sizeof x);
    }
}

static int append_once(ic_store *s, const struct place *at, double *ms, ic_error *e)
{
    static const uint8_t token_ids[64];
    int64_t start = ic_clock_mono_us();
    int rc =
        ic_store_journal_append(s, at->id, 1, start, NULL, token_ids, sizeof token_ids, NULL, e);
    *ms = since_ms(start);
    return rc;
}

static int measure_appends(ic_store *s, const struct place *at, struct figures *f, ic_error *e)
{
    static double ms[APPENDS];
    double one;
    int rc = IC_OK;
    for (int i = 0; i < APPENDS && !rc; i++)
        rc = append_once(s, at, &ms[i], e);
    f->alone = summarize(ms, APPENDS);
    for (int i = 0; i < APPENDS / 3 && !rc; i++) {
        int64_t start = ic_clock_mono_us();
        rc = ic_store_batch_begin(s, e);
        for (int k = 0; k < BATCH && !rc; k++)
            rc = append_once(s, at, &one, e);
        if (!rc)
            rc = ic_store_batch_commit(s, e);
        ms[i] = since_ms(start);
    }
    f->batch = summarize(ms, APPENDS / 3);
    return rc;
}

/* All bytes that this process has handed to the kernel. */
static int64_t bytes_written(void)
{
    long long bytes = 0;
    char line[100];
    FILE *f = fopen("/proc/self/io", "r");
    while (f && fgets(line, sizeof line, f))
        sscanf(line, "wchar: %lld", &bytes);
    if (f)
        fclose(f);
    return bytes;
}

/* What a server writes at a frame, or at a token: a record, an event, the session's counters. */
static int commit_record(ic_store *s, const char *id, size_t size, ic_error *e)
{
    static const uint8_t bytes[FRAME_BYTES];
    ic_store_counters counters = {.frames = 1};
    int rc = ic_store_batch_begin(s, e);
    ic_store_frame frame = {.kind = 1,
                            .time_us = 1,
                            .media = 1,
                            .hold = IC_STORE_HOLD_KEEP,
                            .head = bytes,
                            .head_bytes = HEAD_BYTES,
                            .bulk = bytes,
                            .bulk_bytes = size};
    if (!rc)
        rc = size == FRAME_BYTES ? ic_store_frame_append(s, id, &frame, NULL, e)
                                 : ic_store_journal_append(s, id, 1, 1, NULL, bytes, size, NULL, e);
    if (!rc)
        rc = ic_store_event_append(s, id, 1, 1, bytes, EVENT_BYTES, NULL, e);
    if (!rc)
        rc = ic_store_session_touch(s, id, 1, &counters, e);
    return rc ? rc : ic_store_batch_commit(s, e);
}

/* The log is in the file before and after. */
static int measure_bytes(ic_store *s, struct figures *f, ic_error *e)
{
    char id[IC_STORE_ID_CHARS + 1];
    int64_t written[3] = {0};
    int rc = ic_store_session_create(s, "bench", "", 1, 1, "", 0, id, e);
    for (int part = 0; part < 3 && !rc; part++) {
        for (int i = 0; i < FRAMES && part > 0 && !rc; i++)
            rc = commit_record(s, id, part == 1 ? FRAME_BYTES : 64, e);
        if (!rc)
            rc = ic_store_shrink(s, e);
        written[part] = bytes_written();
    }
    f->frames_factor = (double)(written[1] - written[0]) / FRAMES / FRAME_BYTES;
    f->token_kib = (double)(written[2] - written[1]) / FRAMES / 1024;
    return rc ? rc : ic_store_session_delete(s, id, e);
}

/* Writes all segments; between two of them an append waits for as long as one takes. */
static int measure_checkpoint(ic_store *s, struct place *at, struct figures *f, ic_error *e)
{
    ic_store_writer *w = NULL;
    ic_store_segment *segments = ic_calloc((size_t)at->pieces, sizeof *segments);
    double *ms = ic_calloc((size_t)at->pieces, sizeof *ms), append_ms = 0;
    double appends_ms = 0, fill_ms = 0;
    int64_t start = ic_clock_mono_us();
    int rc = ic_store_checkpoint_begin(s, at->id, &w, e);
    for (int i = 0; i < at->pieces && !rc; i++) {
        int64_t fill_start = ic_clock_mono_us();
        fill(at->piece, at->piece_bytes, (uint64_t)i);
        fill_ms += since_ms(fill_start);
        int64_t arrived = ic_clock_mono_us(); /* an append that comes as a segment begins */
        rc = ic_store_checkpoint_segment(w, 1, at->piece, at->piece_bytes, &segments[i], e);
        if (!rc)
            rc = append_once(s, at, &append_ms, e);
        ms[i] = since_ms(arrived);
        appends_ms += append_ms = 0;
    }
    int64_t finish = ic_clock_mono_us();
    ic_store_manifest m = {.numerics = "bench",
                           .segments = segments,
                           .segment_count = (size_t)at->pieces,
                           .state = "",
                           .time_us = 1};
    if (!rc)
        rc = ic_store_checkpoint_finish(&w, &m, e);
    f->finish_ms = since_ms(finish);
    f->write_mibs = (double)f->mib * 1000.0 / (since_ms(start) - appends_ms - fill_ms);
    f->beside = summarize(ms, at->pieces);
    ic_store_checkpoint_abort(&w);
    ic_free(segments);
    ic_free(ms);
    return rc;
}

static int fail(ic_error *e, const char *path)
{
    return ic_error_set(e, IC_EIO, "%s: %s", path, strerror(errno));
}

/* Puts a file's pages out of the page cache. Only while nobody has it open through SQLite. */
static int drop_cache(const char *path, ic_error *e)
{
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fsync(fd) != 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
        return fail(e, path);
    close(fd);
    return IC_OK;
}

static int write_plain(struct place *at, struct figures *f, ic_error *e)
{
    double fill_ms = 0;
    int64_t start = ic_clock_mono_us();
    int fd = open(at->plain, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0)
        return fail(e, at->plain);
    for (int i = 0; i < at->pieces; i++) {
        int64_t fill_start = ic_clock_mono_us();
        fill(at->piece, at->piece_bytes, (uint64_t)i);
        fill_ms += since_ms(fill_start);
        if (write(fd, at->piece, at->piece_bytes) != (ssize_t)at->piece_bytes)
            return fail(e, at->plain);
    }
    if (fsync(fd) != 0 || close(fd) != 0)
        return fail(e, at->plain);
    f->plain_write_mibs = (double)f->mib * 1000.0 / (since_ms(start) - fill_ms);
    return IC_OK;
}

static int read_plain(struct place *at, double *mibs, ic_error *e)
{
    int64_t start = ic_clock_mono_us();
    int fd = open(at->plain, O_RDONLY);
    if (fd < 0)
        return fail(e, at->plain);
    for (int i = 0; i < at->pieces; i++)
        if (read(fd, at->piece, at->piece_bytes) != (ssize_t)at->piece_bytes)
            return fail(e, at->plain);
    close(fd);
    *mibs = rate(at, start);
    return IC_OK;
}

/* Opens the store, reads and verifies the whole checkpoint. */
static int read_checkpoint(struct place *at, double *mibs, ic_error *e)
{
    ic_store *s = NULL;
    ic_store_reader *r = NULL;
    int64_t start = ic_clock_mono_us();
    int rc = ic_store_open(&s, &(ic_store_config){.path = at->store}, e);
    if (!rc)
        rc = ic_store_checkpoint_open(s, at->id, &r, e);
    for (int i = 0; i < at->pieces && !rc; i++)
        rc = ic_store_checkpoint_read(r, (size_t)i, at->piece, e);
    *mibs = rate(at, start);
    ic_store_checkpoint_close(&r);
    ic_store_close(&s);
    return rc;
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, compare);
    return values[count / 2];
}

/* Cold and hot, store and file in turns, so that both meet the same moods of the machine; the
 * median of each. */
static int measure_reads(struct place *at, struct figures *f, ic_error *e)
{
    double cold[READS], hot[READS], plain_cold[READS], plain_hot[READS];
    int rc = IC_OK;
    for (int i = 0; i < READS && !rc; i++) {
        rc = drop_cache(at->plain, e);
        if (!rc)
            rc = drop_cache(at->store, e);
        if (!rc)
            rc = read_plain(at, &plain_cold[i], e);
        if (!rc)
            rc = read_checkpoint(at, &cold[i], e);
        if (!rc)
            rc = read_plain(at, &plain_hot[i], e);
        if (!rc)
            rc = read_checkpoint(at, &hot[i], e);
    }
    if (rc)
        return rc;
    f->cold_mibs = median(cold, READS);
    f->hot_mibs = median(hot, READS);
    f->plain_cold_mibs = median(plain_cold, READS);
    f->plain_hot_mibs = median(plain_hot, READS);
    return IC_OK;
}

static int measure_deletion(struct place *at, struct figures *f, ic_error *e)
{
    ic_store *s = NULL;
    int rc = ic_store_open(&s, &(ic_store_config){.path = at->store}, e);
    int64_t start = ic_clock_mono_us();
    if (!rc)
        rc = ic_store_session_delete(s, at->id, e);
    f->delete_ms = since_ms(start);
    start = ic_clock_mono_us();
    if (!rc)
        rc = ic_store_shrink(s, e);
    f->shrink_ms = since_ms(start);
    ic_store_close(&s);
    return rc;
}

static int measure_writes(struct place *at, struct figures *f, ic_error *e)
{
    ic_store *s = NULL;
    ic_store_config config = {.path = at->store, .page_bytes = f->page_kib * 1024};
    int rc = ic_store_open(&s, &config, e);
    if (!rc)
        rc = measure_bytes(s, f, e);
    if (!rc)
        rc = ic_store_session_create(s, "bench", "", 1, 1, "", 0, at->id, e);
    if (!rc)
        rc = measure_appends(s, at, f, e);
    if (!rc)
        rc = measure_checkpoint(s, at, f, e);
    ic_store_close(&s);
    if (!rc)
        rc = write_plain(at, f, e);
    return rc;
}

static void print_json(const struct figures *f)
{
    printf("{\"command\":\"store\",\"mib\":%d,\"segment_bytes\":%d,"
           "\"append_ms\":{\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f},"
           "\"batch_of_%d_ms\":{\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f},"
           "\"append_beside_checkpoint_ms\":{\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f},",
           f->mib, 1024 * f->segment_kib, f->alone.p50_ms, f->alone.p99_ms, f->alone.max_ms, BATCH,
           f->batch.p50_ms, f->batch.p99_ms, f->batch.max_ms, f->beside.p50_ms, f->beside.p99_ms,
           f->beside.max_ms);
    printf("\"written_per_frame_byte\":%.2f,\"written_per_token_kib\":%.1f,", f->frames_factor,
           f->token_kib);
    printf("\"write_mib_s\":%.0f,\"plain_write_mib_s\":%.0f,\"finish_ms\":%.3f,"
           "\"cold_read_mib_s\":%.0f,\"plain_cold_read_mib_s\":%.0f,\"cold_ratio\":%.3f,"
           "\"hot_read_mib_s\":%.0f,\"plain_hot_read_mib_s\":%.0f,\"hot_ratio\":%.3f,"
           "\"delete_ms\":%.1f,\"shrink_ms\":%.1f}\n",
           f->write_mibs, f->plain_write_mibs, f->finish_ms, f->cold_mibs, f->plain_cold_mibs,
           f->cold_mibs / f->plain_cold_mibs, f->hot_mibs, f->plain_hot_mibs,
           f->hot_mibs / f->plain_hot_mibs, f->delete_ms, f->shrink_ms);
}

static void print_latency(const char *name, const struct latency *l)
{
    printf("  %-34s p50 %8.3f  p99 %8.3f  max %8.3f ms\n", name, l->p50_ms, l->p99_ms, l->max_ms);
}

static void print_table(const struct figures *f)
{
    printf("store, a checkpoint of %d MiB in segments of %d KiB\n", f->mib, f->segment_kib);
    print_latency("append alone", &f->alone);
    print_latency("batch of 16 appends", &f->batch);
    print_latency("append beside the checkpoint", &f->beside);
    printf("  %-34s %8.2f bytes for each of theirs\n", "written for frames of 27 KB",
           f->frames_factor);
    printf("  %-34s %8.1f KiB\n", "written for a token of its own", f->token_kib);
    printf("  %-34s %8.0f MiB/s  (plain file %.0f)\n", "checkpoint write", f->write_mibs,
           f->plain_write_mibs);
    printf("  %-34s %8.3f ms\n", "manifest swap", f->finish_ms);
    printf("  %-34s %8.0f MiB/s  (plain file %.0f: %.2f of it)\n", "verified read, cold",
           f->cold_mibs, f->plain_cold_mibs, f->cold_mibs / f->plain_cold_mibs);
    printf("  %-34s %8.0f MiB/s  (plain file %.0f: %.2f of it)\n", "verified read, hot",
           f->hot_mibs, f->plain_hot_mibs, f->hot_mibs / f->plain_hot_mibs);
    printf("  %-34s %8.1f ms, then %.1f ms to shrink the file\n", "deletion", f->delete_ms,
           f->shrink_ms);
}

static void remove_files(const struct place *at)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", ".lock"};
    char name[320];
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        snprintf(name, sizeof name, "%s%s", at->store, suffixes[i]);
        unlink(name);
    }
    unlink(at->plain);
    rmdir(at->folder);
}

static int measure(struct place *at, struct figures *f, ic_error *e)
{
    at->piece_bytes = (size_t)f->segment_kib * 1024;
    at->pieces = f->mib * 1024 / f->segment_kib;
    at->piece = ic_try_alloc(at->piece_bytes);
    if (!at->piece)
        return ic_error_set(e, IC_ENOMEM, "no memory for a segment");
    int rc = measure_writes(at, f, e);
    if (!rc)
        rc = measure_reads(at, f, e);
    if (!rc)
        rc = measure_deletion(at, f, e);
    ic_free(at->piece);
    return rc;
}

static int run(int argc, char **argv)
{
    static const char *const flags[] = {"--json", NULL};
    static const char *const options[] = {"--mib", "--segment-kib", "--page-kib", "--dir", NULL};
    struct place at = {0};
    struct figures f = {0};
    ic_error e = {0};
    if (!ic_bench_check(argc, argv, flags, options))
        return 2;
    f.mib = (int)ic_bench_number(argc, argv, "--mib", 512);
    f.segment_kib = (int)ic_bench_number(argc, argv, "--segment-kib", 1024);
    f.page_kib = (int)ic_bench_number(argc, argv, "--page-kib", 0);
    if (f.mib < 4 || f.mib > 65536 || f.segment_kib < 64
        || f.segment_kib > IC_STORE_SEGMENT_MAX / 1024) {
        fprintf(stderr, "--mib takes 4 to 65536, --segment-kib 64 to %d\n",
                IC_STORE_SEGMENT_MAX / 1024);
        return 2;
    }
    snprintf(at.folder, sizeof at.folder, "%s/infchat-bench-XXXXXX",
             ic_bench_option(argc, argv, "--dir", "."));
    if (!mkdtemp(at.folder)) {
        fprintf(stderr, "%s: %s\n", at.folder, strerror(errno));
        return 1;
    }
    snprintf(at.store, sizeof at.store, "%s/store.db", at.folder);
    snprintf(at.plain, sizeof at.plain, "%s/plain", at.folder);
    int rc = measure(&at, &f, &e);
    remove_files(&at);
    if (rc) {
        fprintf(stderr, "store: %s\n", e.text);
        return 1;
    }
    if (ic_bench_flag(argc, argv, "--json"))
        print_json(&f);
    else
        print_table(&f);
    return 0;
}

const ic_bench_command ic_bench_store = {
    .name = "store",
    .arguments = "[--mib N] [--segment-kib N] [--page-kib N] [--dir FOLDER] [--json]",
    .summary = "latency of appends, rates of checkpoints, beside a plain file",
    .run = run,
};

#endif
