/* Marks and forks: the store copies a session as it stands, whatever it is doing; here the copy is
 * freed of what was in flight, or, as far as its checkpoint holds that, it is closed. The session
 * itself is not asked and not disturbed. */
#include <string.h>
#include <sys/random.h>

#include "actors/ic_store_desk_priv.h"
#include "actors/ic_talk_record.h"
#include "base/ic_clock.h"
#include "base/ic_mem.h"

/* --- what was in flight ------------------------------------------------------------------------
 */

typedef struct open_turn {
    int64_t row;     /* of its question, */
    uint64_t number; /* which is this one */
} open_turn;

typedef struct open_turns {
    open_turn *items;
    int count, capacity;
} open_turns;

static void add_open(open_turns *o, int64_t row, uint64_t number)
{
    if (o->count == o->capacity) {
        o->capacity = o->capacity ? 2 * o->capacity : 16;
        o->items = ic_realloc(o->items, (size_t)o->capacity * sizeof *o->items);
    }
    o->items[o->count++] = (open_turn){.row = row, .number = number};
}

/* A question is open until the answer of its number comes. */
static int note_turn(void *arg, const ic_store_turn *row)
{
    open_turns *o = arg;
    ic_cursor c;
    ic_cursor_init(&c, row->parts, row->parts_bytes);
    uint64_t number = ic_cursor_u64(&c);
    if (row->role == IC_STORE_USER && !c.status)
        add_open(o, row->number, number);
    for (int i = 0; row->role == IC_STORE_ASSISTANT && i < o->count; i++) {
        if (o->items[i].number == number) {
            o->items[i] = o->items[--o->count];
            break;
        }
    }
    return 0;
}

/* The head of the session's checkpoint. A damaged one is told of when the session is loaded: here
 * it is as good as none. */
static int read_head(ic_store *s, const char *id, ic_talk_head *h, ic_error *e)
{
    ic_store_reader *reader = NULL;
    *h = (ic_talk_head){0};
    int rc = ic_store_checkpoint_open(s, id, &reader, e);
    if (rc == IC_OK) {
        const ic_store_manifest *m = ic_store_checkpoint_manifest(reader);
        rc = ic_talk_head_decode(h, m->state, m->state_bytes, e);
        ic_store_checkpoint_close(&reader);
    }
    return rc == IC_ENOTFOUND || rc == IC_EFORMAT || rc == IC_EVERSION ? IC_OK : rc;
}

/* An answer that the checkpoint holds in its middle cannot be taken out of it: the copy has it as
 * far as it is there, as if it had been cancelled at that token, at this place in its journal. */
static int close_answer(ic_store *s, const char *id, ic_talk_answer *a, int64_t place, ic_error *e)
{
    ic_buf parts = {0};
    ic_store_turn row = {.time_us = ic_clock_wall_us(),
                         .role = IC_STORE_ASSISTANT,
                         .tokens = a->tokens,
                         .parts_version = IC_TURN_PARTS_VERSION};
    int rc = ic_buf_reserve(&a->text, IC_UTF8_STREAM_ROOM(0));
    if (rc == IC_OK)
        a->text.size +=
            ic_utf8_stream_push(&a->held, "", 0, true, (char *)a->text.data + a->text.size);
    ic_buf_u64(&parts, a->turn);
    ic_buf_u32(&parts, IC_WIRE_FINISH_CANCEL);
    ic_buf_u64(&parts, (uint64_t)place);
    rc = rc ? rc : parts.status;
    row.text = (const char *)a->text.data;
    row.text_bytes = a->text.size;
    row.parts = parts.data;
    row.parts_bytes = parts.size;
    rc = rc ? ic_error_set(e, rc, "no memory to copy an answer")
            : ic_store_turn_append(s, id, &row, NULL, e);
    ic_buf_fini(&parts);
    return rc;
}

static int settle_open_turns(ic_store *s, const char *id, int64_t place, ic_error *e)
{
    open_turns o = {.items = NULL};
    ic_talk_head head;
    int rc = read_head(s, id, &head, e);
    if (rc == IC_OK)
        rc = ic_store_turn_read(s, id, 1, note_turn, &o, e);
    for (int i = 0; i < o.count && rc == IC_OK; i++) {
        if (o.items[i].number == head.answer.turn)
            rc = close_answer(s, id, &head.answer, place, e);
        else
            rc = ic_store_turn_remove(s, id, o.items[i].row, e);
    }
    ic_talk_head_fini(&head);
    ic_free(o.items);
    return rc;
}

int ic_desk_settle_copy(ic_store *s, const char *id, ic_error *e)
{
    ic_buf bytes = {0};
    int64_t place = 0;
    ic_talk_record r = {.kind = IC_RECORD_FORK};
    int rc = ic_talk_record_encode(&r, &bytes);
    if (rc == IC_OK)
        rc = ic_store_journal_append(s, id, (uint32_t)r.kind, ic_clock_wall_us(), NULL, bytes.data,
                                     bytes.size, &place, e);
    ic_buf_fini(&bytes);
    return rc ? rc : settle_open_turns(s, id, place, e);
}

/* --- marks -------------------------------------------------------------------------------------
 */

/* The request's session, and its key admitted. */
static int begin(ic_store *s, ic_job_desk *d, ic_error *e)
{
    int rc = ic_desk_find(s, d, e);
    return rc ? rc : ic_desk_admit(s, d, d->sessions[0].id, NULL, e);
}

int ic_desk_mark(ic_store *s, ic_job_desk *d, ic_error *e)
{
    char copy[IC_STORE_ID_CHARS + 1];
    int rc = begin(s, d, e);
    if (rc || d->verdict != IC_STORE_NEW)
        return rc;
    const ic_store_session *found = &d->sessions[0];
    rc = ic_store_mark_add(s, found->id, d->request->msg.mark.name, found->counters.turns,
                           ic_clock_wall_us(), copy, e);
    if (rc == IC_OK)
        rc = ic_desk_settle_copy(s, copy, e);
    return rc ? rc : ic_desk_finish(s, d, NULL, e);
}

int ic_desk_unmark(ic_store *s, ic_job_desk *d, ic_error *e)
{
    int rc = begin(s, d, e);
    if (rc || d->verdict != IC_STORE_NEW)
        return rc;
    rc = ic_store_mark_remove(s, d->sessions[0].id, d->request->msg.unmark.name, e);
    return rc ? rc : ic_desk_finish(s, d, NULL, e);
}

static int add_mark(void *arg, const ic_store_mark *mark)
{
    ic_job_desk *d = arg;
    if (d->mark_count == IC_STORE_MARKS)
        return 1;
    d->marks[d->mark_count++] = *mark;
    return 0;
}

int ic_desk_marks(ic_store *s, ic_job_desk *d, ic_error *e)
{
    return ic_store_mark_list(s, d->sessions[0].id, add_mark, d, e);
}

/* --- forks -------------------------------------------------------------------------------------
 */

/* A session that was made with a seed has one of its own, so that ten forks of it do not all draw
 * the same; others draw one for each turn. */
static int give_seed(ic_store *s, const char *id, const ic_wire_fork *m, ic_error *e)
{
    uint32_t version;
    ic_buf bytes = {0};
    ic_talk_config c = {.system = NULL};
    if (ic_wire_get(m, fork, same_seed, false))
        return IC_OK;
    int rc = ic_store_session_config(s, id, &version, &bytes, e);
    if (rc == IC_OK && version != IC_SESSION_CONFIG_VERSION)
        rc = ic_error_set(e, IC_EVERSION, "the session's configuration is of version %u", version);
    if (rc == IC_OK)
        rc = ic_talk_config_decode(&c, bytes.data, bytes.size, e);
    if (rc == IC_OK && (c.has_seed || ic_wire_has(m, fork, seed))) {
        uint64_t drawn = 0;
        if (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn)
            drawn = (uint64_t)ic_clock_wall_us();
        c.sampling.seed = ic_wire_get(m, fork, seed, drawn);
        c.has_seed = true;
        ic_buf_clear(&bytes);
        rc = ic_talk_config_encode(&c, &bytes);
        if (rc == IC_OK)
            rc = ic_store_session_set_config(s, id, version, bytes.data, bytes.size, e);
    }
    ic_talk_config_fini(&c);
    ic_buf_fini(&bytes);
    return rc;
}

static int make_fork(ic_store *s, ic_job_desk *d, char id[IC_STORE_ID_CHARS + 1], ic_error *e)
{
    const ic_wire_fork *m = &d->request->msg.fork;
    int rc = ic_desk_find(s, d, e);
    if (rc)
        return rc;
    const ic_store_session *from = &d->sessions[0];
    rc = ic_store_session_fork(s, from->id, ic_wire_get(m, fork, at, NULL),
                               ic_wire_get(m, fork, title, from->title), ic_clock_wall_us(), id, e);
    if (rc == IC_OK)
        rc = ic_desk_settle_copy(s, id, e);
    return rc ? rc : give_seed(s, id, m, e);
}

/* The key comes first: a fork that was made is told again, though its parent be gone since. */
int ic_desk_fork(ic_store *s, ic_job_desk *d, ic_error *e)
{
    char id[IC_STORE_ID_CHARS + 1];
    ic_store_request known;
    int rc = ic_desk_admit(s, d, NULL, &known, e);
    if (rc || d->verdict == IC_STORE_CONFLICT || d->verdict == IC_STORE_EXPIRED)
        return rc;
    if (d->verdict == IC_STORE_SAME)
        return ic_store_session_get(s, known.session, ic_desk_add(d), e);
    rc = make_fork(s, d, id, e);
    if (rc == IC_OK)
        rc = ic_desk_finish(s, d, id, e);
    d->count = 0;
    return rc ? rc : ic_store_session_get(s, id, ic_desk_add(d), e);
}
