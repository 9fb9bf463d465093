/* The protocol's encoder and decoder against the table itself: every message, every field, every
 * limit. IC_NEEDS_SERVER */
#include "ic_test.h"

#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ic_mem.h"
#include "wire/ic_wire_priv.h"

static uint64_t random_state = 88172645463325252u;

static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* --- filling a record by its table ----------------------------------------------------------- */

/* Memory of the values a test made; freed by forget(). */
static void *made[4096];
static size_t made_count;

static void *make(size_t bytes)
{
    assert_true(made_count < sizeof made / sizeof *made);
    return made[made_count++] = ic_alloc(bytes);
}

static void forget(void)
{
    while (made_count)
        ic_free(made[--made_count]);
}

static char *make_text(size_t size)
{
    static const char *const pieces[] = {"a", "ß", "語", "😀"};
    char *text = make(size + 1);
    size_t at = 0;
    while (at < size) {
        const char *piece = pieces[random_u64() % 4];
        if (strlen(piece) > size - at)
            piece = "z";
        memcpy(text + at, piece, strlen(piece));
        at += strlen(piece);
    }
    return text;
}

static size_t random_size(int64_t lo, uint64_t hi)
{
    uint64_t span = hi - (uint64_t)lo;
    return (size_t)lo + (size_t)(random_u64() % ((span < 40 ? span : 40) + 1));
}

static void fill_record(const ic_wire_record *r, void *base, bool all);

static void fill_value(const ic_wire_field *f, void *value, bool all)
{
    uint64_t span = f->hi - (uint64_t)f->lo;
    switch (f->kind) {
    case IC_WIRE_T_U64:
    case IC_WIRE_T_I64:
        *(uint64_t *)value =
            (uint64_t)f->lo + (span + 1 ? random_u64() % (span + 1) : random_u64());
        break;
    case IC_WIRE_T_F64:
        *(double *)value = (double)f->lo + (double)span * (double)(random_u64() >> 11) / 0x1p53;
        break;
    case IC_WIRE_T_BOOL:
        *(bool *)value = random_u64() & 1;
        break;
    case IC_WIRE_T_STR:
        *(const char **)value = make_text(random_size(f->lo, f->hi));
        break;
    case IC_WIRE_T_ID:
        for (int i = 0; i < 16; i++)
            ((ic_wire_id *)value)->bytes[i] = (uint8_t)random_u64();
        break;
    case IC_WIRE_T_ENUM:
    case IC_WIRE_T_OPEN:
        *(int *)value = (int)(random_u64() % ic_wire_words_count(f->words));
        break;
    case IC_WIRE_T_STRS: {
        ic_wire_strs *strs = value;
        strs->count = (uint32_t)random_size(0, f->hi);
        strs->items = make(strs->count * sizeof(char *));
        for (uint32_t i = 0; i < strs->count; i++)
            strs->items[i] = make_text(random_size(0, 40));
        break;
    }
    case IC_WIRE_T_REC:
        fill_record(f->record, value, all);
        break;
    case IC_WIRE_T_LIST: {
        ic_wire_any_list *list = value;
        list->count = (uint32_t)(random_u64() % 4);
        list->items = make(list->count * f->record->size);
        for (uint32_t i = 0; i < list->count; i++)
            fill_record(f->record, (char *)list->items + i * f->record->size, all);
        break;
    }
    }
}

static void fill_record(const ic_wire_record *r, void *base, bool all)
{
    for (size_t i = 0; i < r->count; i++) {
        const ic_wire_field *f = &r->fields[i];
        if (!all && !f->required && random_u64() & 1)
            continue;
        ((ic_wire_head *)base)->has |= (uint64_t)1 << i;
        fill_value(f, (char *)base + f->offset, all);
    }
}

static void assert_records_equal(const ic_wire_record *r, const void *a, const void *b);

static void assert_values_equal(const ic_wire_field *f, const void *a, const void *b)
{
    switch (f->kind) {
    case IC_WIRE_T_U64:
    case IC_WIRE_T_I64:
    case IC_WIRE_T_F64:
        assert_memory_equal(a, b, 8);
        break;
    case IC_WIRE_T_BOOL:
        assert_int_equal(*(const bool *)a, *(const bool *)b);
        break;
    case IC_WIRE_T_STR:
        assert_string_equal(*(const char *const *)a, *(const char *const *)b);
        break;
    case IC_WIRE_T_ID:
        assert_memory_equal(a, b, 16);
        break;
    case IC_WIRE_T_ENUM:
    case IC_WIRE_T_OPEN:
        assert_int_equal(*(const int *)a, *(const int *)b);
        break;
    case IC_WIRE_T_STRS: {
        const ic_wire_strs *x = a, *y = b;
        assert_int_equal(x->count, y->count);
        for (uint32_t i = 0; i < x->count; i++)
            assert_string_equal(x->items[i], y->items[i]);
        break;
    }
    case IC_WIRE_T_REC:
        assert_records_equal(f->record, a, b);
        break;
    case IC_WIRE_T_LIST: {
        const ic_wire_any_list *x = a, *y = b;
        assert_int_equal(x->count, y->count);
        for (uint32_t i = 0; i < x->count; i++)
            assert_records_equal(f->record, (char *)x->items + i * f->record->size,
                                 (char *)y->items + i * f->record->size);
        break;
    }
    }
}

static void assert_records_equal(const ic_wire_record *r, const void *a, const void *b)
{
    uint64_t has = ((const ic_wire_head *)a)->has;
    assert_true(has == ((const ic_wire_head *)b)->has);
    for (size_t i = 0; i < r->count; i++)
        if (has >> i & 1)
            assert_values_equal(&r->fields[i], (const char *)a + r->fields[i].offset,
                                (const char *)b + r->fields[i].offset);
}

/* --- helpers around decode ------------------------------------------------------------------- */

static ic_wire_from side_of(ic_wire_verb verb)
{
    return ic_wire_verb_from_client(verb) ? IC_WIRE_FROM_CLIENT : IC_WIRE_FROM_SERVER;
}

static int decode_as(ic_wire_verb verb, ic_wire_msg *m, const void *body, size_t size, ic_error *e)
{
    uint8_t signature[IC_WIRE_SIGNATURE_MAX];
    size_t signature_size = ic_wire_signature(verb, signature);
    return ic_wire_decode(m, side_of(verb), signature, signature_size, body, size,
                          ic_wire_payload_max(verb) ? 0 : -1, e);
}

/* Decodes bytes that must be refused; returns the code, and checks that the text says `names`. */
static int refused(ic_wire_verb verb, const void *body, size_t size, const char *names)
{
    ic_wire_msg m;
    ic_error e = {0};
    int rc = decode_as(verb, &m, body, size, &e);
    ic_wire_msg_fini(&m);
    assert_int_not_equal(rc, 0);
    assert_int_equal(rc, e.code);
    if (!strstr(e.text, names))
        fail_msg("\"%s\" does not name \"%s\"", e.text, names);
    return rc;
}

static void fill_msg(ic_wire_msg *m, ic_wire_verb verb, bool all)
{
    ic_wire_msg_init(m, verb);
    fill_record(ic_wire_verb_record(verb), &m->hello, all);
}

/* --- tests ------------------------------------------------------------------------------------ */

/* Every message, with all its fields and with random ones, comes back as it went. */
static void every_message_round_trips(void **state)
{
    (void)state;
    for (int verb = IC_WIRE_NONE + 1; verb < IC_WIRE_VERB_COUNT; verb++)
        for (int round = 0; round < 20; round++) {
            ic_wire_msg m, back;
            ic_buf body;
            ic_error e = {0};
            ic_buf_init(&body, 0);
            fill_msg(&m, verb, round == 0);
            ic_assert_ok(ic_wire_encode(&m, &body, &e), &e);
            ic_assert_ok(ic_wire_scan(body.data, body.size, &e), &e);
            ic_assert_ok(decode_as(verb, &back, body.data, body.size, &e), &e);
            assert_int_equal(back.verb, verb);
            assert_records_equal(ic_wire_verb_record(verb), &m.hello, &back.hello);
            ic_wire_msg_fini(&back);
            ic_buf_fini(&body);
            forget();
        }
}

/* A message cut at any byte, or with any byte behind it, is refused and never read beyond its
 * end. */
static void truncated_messages_are_refused(void **state)
{
    (void)state;
    for (int verb = IC_WIRE_NONE + 1; verb < IC_WIRE_VERB_COUNT; verb++) {
        ic_wire_msg m;
        ic_buf body;
        ic_error e = {0};
        ic_buf_init(&body, 0);
        fill_msg(&m, verb, true);
        ic_assert_ok(ic_wire_encode(&m, &body, &e), &e);
        for (size_t size = 0; size < body.size; size++) {
            uint8_t *exact = malloc(size ? size : 1); /* its own block, so that ASan sees its end */
            memcpy(exact, body.data, size);
            assert_int_equal(refused(verb, exact, size, ic_wire_verb_name(verb)), IC_EFORMAT);
            free(exact);
        }
        ic_buf_u8(&body, 0xc0);
        assert_int_equal(refused(verb, body.data, body.size, "behind"), IC_EFORMAT);
        ic_buf_fini(&body);
        forget();
    }
}

/* Changed bytes are decoded or refused with a text, nothing else. */
static void changed_bytes_do_no_harm(void **state)
{
    (void)state;
    int accepted = 0, denied = 0;
    for (int verb = IC_WIRE_NONE + 1; verb < IC_WIRE_VERB_COUNT; verb++) {
        ic_wire_msg m;
        ic_buf body;
        ic_buf_init(&body, 0);
        fill_msg(&m, verb, true);
        assert_int_equal(ic_wire_encode(&m, &body, NULL), 0);
        for (size_t at = 0; at < body.size && at < 400; at++) {
            uint8_t kept = body.data[at];
            for (int round = 0; round < 8; round++) {
                ic_wire_msg back;
                ic_error e = {0};
                body.data[at] = (uint8_t)random_u64();
                int rc = decode_as(verb, &back, body.data, body.size, &e);
                assert_true(rc == 0 || e.text[0]);
                *(rc ? &denied : &accepted) += 1;
                ic_wire_msg_fini(&back);
            }
            body.data[at] = kept;
        }
        ic_buf_fini(&body);
        forget();
    }
    assert_true(accepted > 100 && denied > 100);
}

/* A required field that is not there is named, by the encoder and by the decoder. */
static void missing_fields_are_named(void **state)
{
    (void)state;
    for (int verb = IC_WIRE_NONE + 1; verb < IC_WIRE_VERB_COUNT; verb++) {
        const ic_wire_record *r = ic_wire_verb_record(verb);
        const ic_wire_field *first = r->fields;
        if (!r->count || !first->required)
            continue;
        ic_wire_msg m;
        ic_buf body;
        ic_error e = {0};
        char where[64];
        snprintf(where, sizeof where, "%s.%s is missing", ic_wire_verb_name(verb), first->name);
        ic_buf_init(&body, 0);
        fill_msg(&m, verb, true);
        m.hello.has &= ~(uint64_t)1;
        assert_int_equal(ic_wire_encode(&m, &body, &e), IC_EINVAL);
        assert_string_equal(e.text, where);
        assert_int_equal(body.size, 0);
        assert_int_equal(refused(verb, "\x80", 1, where), IC_EINVAL);
        ic_buf_fini(&body);
        forget();
    }
}

static void pack_key(msgpack_packer *pk, const char *key)
{
    msgpack_pack_str(pk, strlen(key));
    msgpack_pack_str_body(pk, key, strlen(key));
}

/* A map with one field, whose value the caller packs next. */
static void begin_map(msgpack_sbuffer *buffer, msgpack_packer *pk, const char *key)
{
    msgpack_sbuffer_init(buffer);
    msgpack_packer_init(pk, buffer, msgpack_sbuffer_write);
    msgpack_pack_map(pk, 1);
    pack_key(pk, key);
}

/* The value of a type that no field of this kind takes. */
static void pack_wrong(msgpack_packer *pk, ic_wire_kind kind, int which)
{
    bool wants_str = kind == IC_WIRE_T_STR || kind == IC_WIRE_T_ENUM || kind == IC_WIRE_T_OPEN;
    bool wants_array = kind == IC_WIRE_T_STRS || kind == IC_WIRE_T_LIST;
    if (which == 0)
        wants_str ? msgpack_pack_int(pk, 7) : pack_key(pk, "seven");
    else if (which == 1)
        wants_array ? msgpack_pack_map(pk, 0) : msgpack_pack_array(pk, 0);
    else if (kind == IC_WIRE_T_ID)
        msgpack_pack_bin(pk, 0);
    else if (kind == IC_WIRE_T_U64)
        msgpack_pack_int(pk, -1);
    else if (kind == IC_WIRE_T_BOOL)
        msgpack_pack_int(pk, 1);
    else
        msgpack_pack_ext(pk, 0, 3), msgpack_pack_ext_body(pk, "", 0);
}

/* Every field refuses values of other types, and the refusal names it. */
static void wrong_types_are_named(void **state)
{
    (void)state;
    int tried = 0;
    for (int verb = IC_WIRE_NONE + 1; verb < IC_WIRE_VERB_COUNT; verb++) {
        const ic_wire_record *r = ic_wire_verb_record(verb);
        for (size_t i = 0; i < r->count; i++)
            for (int which = 0; which < 3; which++, tried++) {
                msgpack_sbuffer buffer;
                msgpack_packer pk;
                char where[64];
                snprintf(where, sizeof where, "%s.%s must be", ic_wire_verb_name(verb),
                         r->fields[i].name);
                begin_map(&buffer, &pk, r->fields[i].name);
                pack_wrong(&pk, r->fields[i].kind, which);
                assert_int_equal(refused(verb, buffer.data, buffer.size, where), IC_EFORMAT);
                msgpack_sbuffer_destroy(&buffer);
            }
    }
    assert_true(tried > 300);
}

static void set_length(const ic_wire_field *f, void *value, size_t length)
{
    if (f->kind == IC_WIRE_T_STR)
        *(const char **)value = make_text(length);
    else if (f->kind == IC_WIRE_T_LIST) {
        ic_wire_any_list *list = value;
        list->count = (uint32_t)length;
        list->items = make(length * f->record->size);
        for (size_t i = 0; i < length; i++)
            fill_record(f->record, (char *)list->items + i * f->record->size, false);
    }
}

/* Puts a value just outside (or, with over 0, just inside) the field's upper or lower bound. */
static bool set_bound(const ic_wire_field *f, void *value, bool upper, uint64_t over)
{
    switch (f->kind) {
    case IC_WIRE_T_U64:
        if ((upper && f->hi == UINT64_MAX) || (!upper && f->lo == 0))
            return false;
        *(uint64_t *)value = upper ? f->hi + over : (uint64_t)f->lo - over;
        return true;
    case IC_WIRE_T_I64:
        if (upper)
            return false; /* INT64_MAX everywhere */
        *(int64_t *)value = f->lo - (int64_t)over;
        return true;
    case IC_WIRE_T_F64:
        *(double *)value =
            upper ? (double)f->hi + 0.5 * (double)over : (double)f->lo - 0.5 * (double)over;
        return true;
    case IC_WIRE_T_STR:
        if (!upper && f->lo == 0)
            return false;
        set_length(f, value, upper ? f->hi + over : (size_t)f->lo - over);
        return true;
    case IC_WIRE_T_LIST:
        if (!upper)
            return false;
        set_length(f, value, f->hi + over);
        return true;
    default:
        return false;
    }
}

/* Limits hold at the very bound, in the encoder and (by bytes of its own making) the decoder. */
static void limits_hold_at_the_bound(void **state)
{
    (void)state;
    int tried = 0;
    for (int verb = IC_WIRE_NONE + 1; verb < IC_WIRE_VERB_COUNT; verb++) {
        const ic_wire_record *r = ic_wire_verb_record(verb);
        for (size_t i = 0; i < r->count; i++)
            for (int upper = 0; upper < 2; upper++) {
                ic_wire_msg m;
                ic_buf body;
                ic_error e = {0};
                char where[64];
                snprintf(where, sizeof where, "%s.%s", ic_wire_verb_name(verb), r->fields[i].name);
                ic_buf_init(&body, 0);
                fill_msg(&m, verb, false);
                m.hello.has |= (uint64_t)1 << i;
                fill_value(&r->fields[i], (char *)&m.hello + r->fields[i].offset, false);
                if (set_bound(&r->fields[i], (char *)&m.hello + r->fields[i].offset, upper, 0)) {
                    ic_assert_ok(ic_wire_encode(&m, &body, &e), &e);
                    ic_wire_msg back;
                    ic_assert_ok(decode_as(verb, &back, body.data, body.size, &e), &e);
                    ic_wire_msg_fini(&back);
                    set_bound(&r->fields[i], (char *)&m.hello + r->fields[i].offset, upper, 1);
                    assert_int_equal(ic_wire_encode(&m, &body, &e), IC_EINVAL);
                    assert_non_null(strstr(e.text, where));
                    tried++;
                }
                ic_buf_fini(&body);
                forget();
            }
    }
    assert_true(tried > 100);
}

/* The decoder holds the limits by itself, whatever encoder the peer has. */
static void decoder_holds_limits(void **state)
{
    (void)state;
    msgpack_sbuffer buffer;
    msgpack_packer pk;
    begin_map(&buffer, &pk, "turns");
    msgpack_pack_uint64(&pk, IC_WIRE_LIST_MAX + 1);
    assert_int_equal(refused(IC_WIRE_SHOW, buffer.data, buffer.size, "SHOW.turns is 257"),
                     IC_EINVAL);
    msgpack_sbuffer_destroy(&buffer);
    begin_map(&buffer, &pk, "fps");
    msgpack_pack_double(&pk, 0.0 / 0.0);
    assert_int_equal(refused(IC_WIRE_MEDIA, buffer.data, buffer.size, "MEDIA.fps"), IC_EINVAL);
    msgpack_sbuffer_destroy(&buffer);
    begin_map(&buffer, &pk, "sampling");
    msgpack_pack_map(&pk, 1);
    pack_key(&pk, "top_p");
    msgpack_pack_double(&pk, 1.5);
    assert_int_equal(refused(IC_WIRE_ASK, buffer.data, buffer.size, "ASK.sampling.top_p is 1.5"),
                     IC_EINVAL);
    msgpack_sbuffer_destroy(&buffer);
    begin_map(&buffer, &pk, "sessions");
    msgpack_pack_array(&pk, IC_WIRE_LIST_MAX + 1);
    for (int i = 0; i <= IC_WIRE_LIST_MAX; i++)
        msgpack_pack_map(&pk, 0);
    assert_int_equal(refused(IC_WIRE_OK, buffer.data, buffer.size, "OK.sessions"), IC_EINVAL);
    msgpack_sbuffer_destroy(&buffer);
    begin_map(&buffer, &pk, "if_busy");
    pack_key(&pk, "explode");
    assert_int_equal(refused(IC_WIRE_ASK, buffer.data, buffer.size, "ASK.if_busy"), IC_EINVAL);
    msgpack_sbuffer_destroy(&buffer);
    begin_map(&buffer, &pk, "session");
    msgpack_pack_str(&pk, 3);
    msgpack_pack_str_body(&pk, "a\0b", 3);
    assert_int_equal(refused(IC_WIRE_ASK, buffer.data, buffer.size, "zero byte"), IC_EINVAL);
    msgpack_sbuffer_destroy(&buffer);
    begin_map(&buffer, &pk, "session");
    msgpack_pack_str(&pk, 2);
    msgpack_pack_str_body(&pk, "\xc0\xaf", 2);
    assert_int_equal(refused(IC_WIRE_ASK, buffer.data, buffer.size, "ASK.session is not UTF-8"),
                     IC_EINVAL);
    msgpack_sbuffer_destroy(&buffer);
}

/* Bytes that would make an unpacker allocate without end are refused before it sees them. */
static void bombs_are_refused(void **state)
{
    (void)state;
    uint8_t deep[64];
    memset(deep, 0x91, sizeof deep);
    assert_int_equal(refused(IC_WIRE_PING, "\xdd\xff\xff\xff\xff\xc0", 6, "claims"), IC_EFORMAT);
    assert_int_equal(refused(IC_WIRE_PING, "\xdf\xff\xff\xff\xff\xc0", 6, "claims"), IC_EFORMAT);
    assert_int_equal(refused(IC_WIRE_PING, "\xc6\xff\xff\xff\xff\xc0", 6, "claims"), IC_EFORMAT);
    assert_int_equal(refused(IC_WIRE_PING, "\xdb\xff\xff\xff\xff\xc0", 6, "claims"), IC_EFORMAT);
    assert_int_equal(refused(IC_WIRE_PING, "\xc9\xff\xff\xff\xff\xc0", 6, "claims"), IC_EFORMAT);
    assert_int_equal(refused(IC_WIRE_PING, deep, sizeof deep, "nested deeper"), IC_ELIMIT);
    assert_int_equal(refused(IC_WIRE_PING, "\xc1", 1, "no msgpack object"), IC_EFORMAT);
    assert_int_equal(refused(IC_WIRE_PING, "", 0, "no msgpack object"), IC_EFORMAT);

    size_t size = IC_WIRE_OBJECTS_MAX + 64;
    uint8_t *wide = ic_alloc(size); /* {"x": [0, 0, ...]} with too many zeros */
    size_t count = size - 8;
    memcpy(wide, "\x81\xa1x\xdd\0\0\0\0", 8);
    for (int i = 0; i < 4; i++)
        wide[4 + i] = (uint8_t)(count >> (24 - 8 * i));
    assert_int_equal(refused(IC_WIRE_OK, wide, size, "more than 65536"), IC_ELIMIT);
    ic_free(wide);
}

/* Depth up to the limit is read; one more is not. */
static void depth_limit_is_exact(void **state)
{
    (void)state;
    uint8_t body[IC_WIRE_DEPTH_MAX + 8] = {0x81, 0xa1, 'x'};
    memset(body + 3, 0x91, IC_WIRE_DEPTH_MAX);
    body[3 + IC_WIRE_DEPTH_MAX - 1] = 0x01; /* the map and seven arrays */
    assert_int_equal(ic_wire_scan(body, 3 + IC_WIRE_DEPTH_MAX, NULL), IC_OK);
    body[3 + IC_WIRE_DEPTH_MAX - 1] = 0x91;
    body[3 + IC_WIRE_DEPTH_MAX] = 0x01;
    assert_int_equal(ic_wire_scan(body, 4 + IC_WIRE_DEPTH_MAX, NULL), IC_ELIMIT);
}

/* Frame 0: magic, version, verb and direction are checked, each with its own code. */
static void signatures_are_checked(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        int rc;
    } rows[] = {
        {"ICW\x01PING", 8, IC_OK},
        {"ICW\x01PIN", 7, IC_EUNSUPPORTED},
        {"ICW\x01PINGS", 9, IC_EUNSUPPORTED},
        {"ICW\x01ping", 8, IC_EUNSUPPORTED},
        {"ICW\x01PONG", 8, IC_EUNSUPPORTED},
        {"ICW\x01\x00\xff\x1b", 7, IC_EUNSUPPORTED},
        {"ICW\x02PING", 8, IC_EVERSION},
        {"ICX\x01PING", 8, IC_EFORMAT},
        {"ICW\x01", 4, IC_EFORMAT},
        {"", 0, IC_EFORMAT},
        {"ICW\x01PINGPINGPINGPINGPING", 24, IC_EFORMAT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ic_wire_msg m;
        ic_error e = {0};
        int rc =
            ic_wire_decode(&m, IC_WIRE_FROM_CLIENT, rows[i].bytes, rows[i].size, "\x80", 1, -1, &e);
        assert_int_equal(rc, rows[i].rc);
        assert_true(ic_wire_is_utf8(e.text, strlen(e.text)));
        ic_wire_msg_fini(&m);
    }
}

/* Payload frames: where a verb has one it is needed and bounded, elsewhere refused; maps are
 * bounded per verb. */
static void frame_sizes_are_checked(void **state)
{
    (void)state;
    ic_wire_msg m;
    ic_buf body;
    uint8_t big[300] = {0x80};
    ic_buf_init(&body, 0);
    fill_msg(&m, IC_WIRE_DATA, true);
    assert_int_equal(ic_wire_encode(&m, &body, NULL), 0);
    static const struct {
        int64_t payload;
        int rc;
    } rows[] = {
        {0, 0}, {IC_WIRE_PIECE_MAX, 0}, {IC_WIRE_PIECE_MAX + 1, IC_ELIMIT}, {-1, IC_EFORMAT}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ic_wire_msg back;
        assert_int_equal(ic_wire_decode(&back, IC_WIRE_FROM_CLIENT,
                                        "ICW\x01"
                                        "DATA",
                                        8, body.data, body.size, rows[i].payload, NULL),
                         rows[i].rc);
        ic_wire_msg_fini(&back);
    }
    forget();
    ic_buf_fini(&body);
    assert_int_equal(ic_wire_decode(&m, IC_WIRE_FROM_CLIENT, "ICW\x01PING", 8, "\x80", 1, 0, NULL),
                     IC_EFORMAT);
    ic_wire_msg_fini(&m);
    assert_int_equal(
        ic_wire_decode(&m, IC_WIRE_FROM_CLIENT, "ICW\x01PING", 8, big, sizeof big, -1, NULL),
        IC_ELIMIT);
    ic_wire_msg_fini(&m);
}

/* Keys of a later version are stepped over, nil is absence, a field given twice is refused. */
static void unknown_keys_are_ignored(void **state)
{
    (void)state;
    ic_wire_msg m;
    ic_error e = {0};
    static const char body[] = "\x84\xa2re\x07\xa6"
                               "future\x92\xc4\x02zz\x81\x01\xd6\x05yyyy\xa5"
                               "after\xc0\xa5limit\x03";
    ic_assert_ok(decode_as(IC_WIRE_LIST, &m, body, sizeof body - 1, &e), &e);
    assert_int_equal(m.list.re, 7);
    assert_int_equal(m.list.limit, 3);
    assert_false(ic_wire_has(&m.list, list, after));
    assert_string_equal(ic_wire_get(&m.list, list, after, "none"), "none");
    ic_wire_msg_fini(&m);
    assert_int_equal(
        refused(IC_WIRE_LIST, "\x82\xa2re\x07\xa2re\x08", 9, "LIST.re stands there twice"),
        IC_EFORMAT);
    assert_int_equal(refused(IC_WIRE_LIST, "\x82\xa2re\x07\x01\x08", 7, "not a string"),
                     IC_EFORMAT);
    assert_int_equal(refused(IC_WIRE_LIST, "\x91\x01", 2, "LIST must be a map"), IC_EFORMAT);
}

/* Words of a later server are read as -1, so that an old client goes on. */
static void later_words_are_open(void **state)
{
    (void)state;
    ic_wire_msg m;
    ic_error e = {0};
    static const char body[] = "\x84\xa7session\xa1x\xa1n\x01\xa7time_us\x02\xa4type\xa6mark_1";
    ic_assert_ok(decode_as(IC_WIRE_EVENT, &m, body, sizeof body - 1, &e), &e);
    assert_int_equal(m.event.type, -1);
    assert_int_equal(m.event.n, 1);
    ic_wire_msg_fini(&m);
}

/* Integers of any width are taken, and integers where a float is meant. */
static void numbers_of_any_width(void **state)
{
    (void)state;
    ic_wire_msg m;
    ic_error e = {0};
    static const char *const bodies[] = {"\x81\xa2re\x07",
                                         "\x81\xa2re\xcc\x07",
                                         "\x81\xa2re\xcd\x00\x07",
                                         "\x81\xa2re\xce\x00\x00\x00\x07",
                                         "\x81\xa2re\xcf\x00\x00\x00\x00\x00\x00\x00\x07",
                                         "\x81\xa2re\xd0\x07",
                                         "\x81\xa2re\xd3\0\0\0\0\0\0\0\x07"};
    static const size_t sizes[] = {5, 6, 7, 9, 13, 6, 13};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t re = 0;
        ic_assert_ok(decode_as(IC_WIRE_STATUS, &m, bodies[i], sizes[i], &e), &e);
        assert_int_equal(m.status.re, 7);
        ic_wire_msg_fini(&m);
        if ((uint8_t)bodies[i][4] < 0xd0) {
            assert_true(ic_wire_peek_re(bodies[i], sizes[i], &re));
            assert_int_equal(re, 7);
        }
    }
}

/* The request number is found in a map that is refused for another reason, and only there. */
static void request_number_is_peeked(void **state)
{
    (void)state;
    uint64_t re = 99;
    static const char cut[] = "\x83\xa1x\x92\x01\x02\xa2re\xcd\x01\x00\xa4text\xd9\xffoops";
    assert_true(ic_wire_peek_re(cut, sizeof cut - 1, &re));
    assert_int_equal(re, 256);
    assert_false(ic_wire_peek_re("", 0, &re));
    assert_false(ic_wire_peek_re("\x81", 1, &re));
    assert_false(ic_wire_peek_re("\x81\xa2re", 4, &re));
    assert_false(ic_wire_peek_re("\x81\xa2re\xa1x", 6, &re));
    assert_false(ic_wire_peek_re("\x92\xa2re\x07", 5, &re));
    assert_false(ic_wire_peek_re("\x81\xa3red\x07", 6, &re));
    assert_false(ic_wire_peek_re("\x81\xa2re\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 13, &re));
}

/* Whichever allocation of a decode fails, it says so and leaks nothing. */
static void allocation_failures_are_survived(void **state)
{
    (void)state;
    ic_wire_msg m;
    ic_buf body;
    ic_buf_init(&body, 0);
    fill_msg(&m, IC_WIRE_OK, true);
    ic_wire_session_info items[3] = {{0}};
    for (int i = 0; i < 3; i++)
        fill_record(ic_wire_record_of("session_info"), &items[i], true);
    ic_wire_put(&m.ok, ok, sessions, ((ic_wire_session_info_list){3, items}));
    assert_int_equal(ic_wire_encode(&m, &body, NULL), 0);
    int failures = 0;
    for (int n = 1;; n++) {
        ic_wire_msg back;
        ic_error e = {0};
        ic_mem_fail_after(n, 0);
        int rc = decode_as(IC_WIRE_OK, &back, body.data, body.size, &e);
        ic_mem_fail_after(0, 0);
        ic_wire_msg_fini(&back);
        if (!rc)
            break;
        assert_int_equal(rc, IC_ENOMEM);
        failures++;
    }
    assert_true(failures > 10);
    ic_buf_fini(&body);
    forget();
}

/* The fields that many verbs share are found in each that has them, and in no other. */
static void shared_fields_are_found(void **state)
{
    (void)state;
    int with_key = 0, with_session = 0;
    for (int verb = IC_WIRE_NONE + 1; verb < IC_WIRE_VERB_COUNT; verb++) {
        ic_wire_msg m;
        ic_wire_id key = {{1, 2, 3}}, found = {{0}};
        uint64_t re = 0;
        ic_wire_msg_init(&m, verb);
        assert_false(ic_wire_msg_get_re(&m, &re));
        assert_null(ic_wire_msg_session(&m));
        bool has_re = ic_wire_msg_set_re(&m, 42), has_key = ic_wire_msg_set_key(&m, &key);
        assert_int_equal(ic_wire_msg_get_re(&m, &re), has_re);
        assert_int_equal(ic_wire_msg_get_key(&m, &found), has_key);
        if (has_re)
            assert_int_equal(re, 42);
        if (has_key)
            assert_memory_equal(&key, &found, sizeof key);
        ic_wire_msg_fini(&m);
        fill_msg(&m, verb, true);
        with_key += has_key;
        with_session += ic_wire_msg_session(&m) != NULL;
        forget();
    }
    assert_int_equal(with_key, 12);
    assert_int_equal(with_session, 21);
    ic_wire_msg ask;
    ic_wire_msg_init(&ask, IC_WIRE_ASK);
    ic_wire_put(&ask.ask, ask, session, "3f");
    assert_string_equal(ic_wire_msg_session(&ask), "3f");
}

/* UTF-8 by its definition: shortest forms, no surrogates, up to U+10FFFF. */
static void utf8_is_strict(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        bool is_valid;
    } rows[] = {{"", true},
                {"plain", true},
                {"\xc2\x80", true},
                {"\xdf\xbf", true},
                {"\xe0\xa0\x80", true},
                {"\xed\x9f\xbf", true},
                {"\xee\x80\x80", true},
                {"\xf0\x90\x80\x80", true},
                {"\xf4\x8f\xbf\xbf", true},
                {"\x80", false},
                {"\xc1\xbf", false},
                {"\xc3", false},
                {"\xe0\x9f\xbf", false},
                {"\xed\xa0\x80", false},
                {"\xed\xbf\xbf", false},
                {"\xf0\x8f\xbf\xbf", false},
                {"\xf4\x90\x80\x80", false},
                {"\xf5\x80\x80\x80", false},
                {"\xe2\x82", false},
                {"\xff", false},
                {"a\xe2\x28\xa1", false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(ic_wire_is_utf8(rows[i].bytes, strlen(rows[i].bytes)), rows[i].is_valid);
}

/* Names, words and codes find their numbers and back; strangers get the fallback. */
static void names_find_their_numbers(void **state)
{
    (void)state;
    for (int v = IC_WIRE_NONE + 1; v < IC_WIRE_VERB_COUNT; v++) {
        const char *name = ic_wire_verb_name(v);
        assert_int_equal(ic_wire_verb_of(name, strlen(name)), v);
        assert_true(strlen(name) <= IC_WIRE_SIGNATURE_MAX - 4);
        assert_true(ic_wire_body_max(v) <= IC_WIRE_BODY_MAX);
        if (ic_wire_verb_from_client(v))
            assert_true(ic_wire_body_max(v) <= IC_WIRE_CLIENT_FRAME_MAX);
    }
    for (int c = 0; c < IC_WIRE_CODE_COUNT; c++)
        assert_int_equal(ic_wire_code_of(ic_wire_code_name(c)), c);
    assert_int_equal(ic_wire_code_of("LATER"), IC_WIRE_CODE_INTERNAL);
    assert_string_equal(ic_wire_verb_name(IC_WIRE_VERB_COUNT), "?");
    assert_string_equal(ic_wire_word("state", IC_WIRE_STATE_FAILED), "failed");
    assert_string_equal(ic_wire_word("event", IC_WIRE_EVENT_STATE), "state");
    assert_string_equal(ic_wire_word("finish", IC_WIRE_FINISH_ERROR), "error");
    assert_string_equal(ic_wire_word("kind", IC_WIRE_KIND_CAMERA), "camera");
    assert_string_equal(ic_wire_word("as", IC_WIRE_AS_IMAGE), "image");
    assert_string_equal(ic_wire_word("if_busy", IC_WIRE_IF_BUSY_QUEUE), "queue");
    assert_string_equal(ic_wire_word("on_vanish", IC_WIRE_ON_VANISH_CANCEL), "cancel");
    assert_string_equal(ic_wire_word("state", 7), "?");
    assert_string_equal(ic_wire_word("none", 0), "?");
    assert_int_equal(ic_wire_word_of("state", "both"), IC_WIRE_STATE_BOTH);
    assert_int_equal(ic_wire_word_of("state", "asleep"), -1);
}

/* Every code of the house has a code on the wire, and what may be retried says so. */
static void house_codes_are_mapped(void **state)
{
    (void)state;
    for (int err = IC_EINVAL; err >= IC_EUNSUPPORTED; err--)
        if (err != IC_EBUG)
            assert_int_not_equal(ic_wire_code_from_err(err), IC_WIRE_CODE_INTERNAL);
    assert_int_equal(ic_wire_code_from_err(IC_EBUG), IC_WIRE_CODE_INTERNAL);
    assert_true(ic_wire_code_is_retryable(ic_wire_code_from_err(IC_EBUSY)));
    assert_false(ic_wire_code_is_retryable(ic_wire_code_from_err(IC_EINVAL)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_round_trips),
        cmocka_unit_test(truncated_messages_are_refused),
        cmocka_unit_test(changed_bytes_do_no_harm),
        cmocka_unit_test(missing_fields_are_named),
        cmocka_unit_test(wrong_types_are_named),
        cmocka_unit_test(limits_hold_at_the_bound),
        cmocka_unit_test(decoder_holds_limits),
        cmocka_unit_test(bombs_are_refused),
        cmocka_unit_test(depth_limit_is_exact),
        cmocka_unit_test(signatures_are_checked),
        cmocka_unit_test(frame_sizes_are_checked),
        cmocka_unit_test(unknown_keys_are_ignored),
        cmocka_unit_test(later_words_are_open),
        cmocka_unit_test(numbers_of_any_width),
        cmocka_unit_test(request_number_is_peeked),
        cmocka_unit_test(allocation_failures_are_survived),
        cmocka_unit_test(shared_fields_are_found),
        cmocka_unit_test(utf8_is_strict),
        cmocka_unit_test(names_find_their_numbers),
        cmocka_unit_test(house_codes_are_mapped),
    };
    return IC_TEST_RUN(tests);
}
