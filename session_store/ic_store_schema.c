/* The schema as it was made first, and what later formats changed: docs/store-format.md tells what
 * each column means. Clustered tables (WITHOUT ROWID) keep a session's records side by side, so
 * that an append touches one page. Bulk bytes (segment_data, media_piece, frame) live apart from
 * what is scanned. A new store is made by the same steps as an old one is brought forward: what
 * stands here is never changed again. */
#include "session_store/ic_store_priv.h"

const char ic_store_schema_v1[] =
    "CREATE TABLE store_meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"

    "CREATE TABLE session("
    "  n INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  id TEXT NOT NULL UNIQUE,"
    "  owner TEXT NOT NULL,"
    "  title TEXT NOT NULL,"
    "  state INTEGER NOT NULL DEFAULT 0,"
    "  created_us INTEGER NOT NULL,"
    "  used_us INTEGER NOT NULL,"
    "  turns INTEGER NOT NULL DEFAULT 0,"
    "  media INTEGER NOT NULL DEFAULT 0,"
    "  frames INTEGER NOT NULL DEFAULT 0,"
    "  tokens INTEGER NOT NULL DEFAULT 0,"
    "  evicted INTEGER NOT NULL DEFAULT 0,"
    "  journal_base INTEGER NOT NULL DEFAULT 0,"
    "  event_base INTEGER NOT NULL DEFAULT 0,"
    "  checkpoint INTEGER,"
    "  parent TEXT,"
    "  config_version INTEGER NOT NULL,"
    "  config_sum INTEGER NOT NULL,"
    "  sum INTEGER NOT NULL,"
    "  config BLOB NOT NULL);"
    "CREATE INDEX session_by_owner ON session(owner, used_us);"
    "CREATE INDEX session_by_checkpoint ON session(checkpoint) WHERE checkpoint IS NOT NULL;"

    "CREATE TABLE journal("
    "  session INTEGER NOT NULL, number INTEGER NOT NULL,"
    "  kind INTEGER NOT NULL, time_us INTEGER NOT NULL, key BLOB, sum INTEGER NOT NULL,"
    "  payload BLOB NOT NULL, PRIMARY KEY(session, number)) WITHOUT ROWID;"

    "CREATE TABLE event("
    "  session INTEGER NOT NULL, number INTEGER NOT NULL,"
    "  kind INTEGER NOT NULL, time_us INTEGER NOT NULL, sum INTEGER NOT NULL,"
    "  payload BLOB NOT NULL, PRIMARY KEY(session, number)) WITHOUT ROWID;"

    "CREATE TABLE request("
    "  key BLOB PRIMARY KEY, content BLOB NOT NULL, session INTEGER, kind INTEGER NOT NULL,"
    "  state INTEGER NOT NULL, time_us INTEGER NOT NULL,"
    "  first_event INTEGER NOT NULL DEFAULT 0, last_event INTEGER NOT NULL DEFAULT 0,"
    "  sum INTEGER NOT NULL, result BLOB) WITHOUT ROWID;"
    "CREATE INDEX request_by_session ON request(session) WHERE session IS NOT NULL;"
    "CREATE INDEX request_by_state ON request(state, time_us);"

    "CREATE TABLE turn("
    "  session INTEGER NOT NULL, number INTEGER NOT NULL, role INTEGER NOT NULL,"
    "  time_us INTEGER NOT NULL, took_us INTEGER NOT NULL, tokens INTEGER NOT NULL,"
    "  media INTEGER NOT NULL, parts_version INTEGER NOT NULL, sum INTEGER NOT NULL,"
    "  text TEXT NOT NULL, parts BLOB NOT NULL, PRIMARY KEY(session, number)) WITHOUT ROWID;"

    "CREATE TABLE media("
    "  session INTEGER NOT NULL, number INTEGER NOT NULL, kind INTEGER NOT NULL,"
    "  state INTEGER NOT NULL, time_us INTEGER NOT NULL, name TEXT NOT NULL,"
    "  bytes INTEGER NOT NULL, mtime_us INTEGER NOT NULL, hash BLOB NOT NULL, fps REAL NOT NULL,"
    "  frames_seen INTEGER NOT NULL, frames_used INTEGER NOT NULL,"
    "  frames_skipped INTEGER NOT NULL, retain INTEGER NOT NULL, notices TEXT NOT NULL,"
    "  held INTEGER, held_sum INTEGER, sum INTEGER NOT NULL, times BLOB NOT NULL, PRIMARY "
    "KEY(session, number)) "
    "WITHOUT ROWID;"
    "CREATE INDEX media_by_held ON media(held) WHERE held IS NOT NULL;"
    "CREATE TABLE media_held(n INTEGER PRIMARY KEY AUTOINCREMENT, time_us INTEGER NOT NULL);"
    "CREATE TABLE media_piece("
    "  n INTEGER PRIMARY KEY, held INTEGER NOT NULL, piece INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL, sum BLOB NOT NULL, data BLOB NOT NULL);"
    "CREATE UNIQUE INDEX media_piece_by_held ON media_piece(held, piece, bytes);"

    "CREATE TABLE checkpoint("
    "  n INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  format INTEGER NOT NULL, payload_version INTEGER NOT NULL, time_us INTEGER NOT NULL,"
    "  meaning BLOB NOT NULL, numerics TEXT NOT NULL, journal_seq INTEGER NOT NULL,"
    "  live_bytes INTEGER NOT NULL, sum BLOB NOT NULL, state BLOB NOT NULL);"
    "CREATE TABLE checkpoint_segment("
    "  checkpoint INTEGER NOT NULL, position INTEGER NOT NULL, segment INTEGER NOT NULL,"
    "  PRIMARY KEY(checkpoint, position)) WITHOUT ROWID;"
    "CREATE INDEX checkpoint_by_segment ON checkpoint_segment(segment);"
    "CREATE TABLE segment("
    "  n INTEGER PRIMARY KEY AUTOINCREMENT, tag INTEGER NOT NULL, codec INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL, sum BLOB NOT NULL);"
    "CREATE TABLE segment_data(n INTEGER PRIMARY KEY, data BLOB NOT NULL);"

    "CREATE TABLE mark("
    "  session INTEGER NOT NULL, name TEXT NOT NULL, checkpoint INTEGER NOT NULL,"
    "  time_us INTEGER NOT NULL, turn INTEGER NOT NULL, PRIMARY KEY(session, name)) WITHOUT ROWID;"
    "CREATE INDEX mark_by_checkpoint ON mark(checkpoint);";

const char *const ic_store_migrations[IC_STORE_FORMAT] = {
    NULL, /* there is no format 0 */
    /* 1 to 2: a mark names a copy of its session. Nothing wrote marks before. */
    "DROP TABLE mark;"
    "CREATE TABLE mark("
    "  session INTEGER NOT NULL, name TEXT NOT NULL, copy INTEGER NOT NULL,"
    "  time_us INTEGER NOT NULL, turn INTEGER NOT NULL, sum INTEGER NOT NULL,"
    "  PRIMARY KEY(session, name)) WITHOUT ROWID;"
    "CREATE UNIQUE INDEX mark_by_copy ON mark(copy);",
    /* 2 to 3: pages may have another size than 65536 bytes; a file keeps what it has. */
    "",
    /* 3 to 4: frames have tables of their own. Those that a journal holds stay there until a
     * checkpoint covers them. */
    "CREATE TABLE frame("
    "  reel INTEGER NOT NULL, number INTEGER NOT NULL, kind INTEGER NOT NULL,"
    "  time_us INTEGER NOT NULL, sum INTEGER NOT NULL, head BLOB NOT NULL,"
    "  bulk_bytes INTEGER NOT NULL, bulk_sum INTEGER NOT NULL, bulk BLOB,"
    "  PRIMARY KEY(reel, number)) WITHOUT ROWID;"
    "CREATE TABLE reel_use("
    "  session INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,"
    "  reel INTEGER NOT NULL, media INTEGER NOT NULL, hold INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL, sum INTEGER NOT NULL, PRIMARY KEY(session, first)) WITHOUT ROWID;"
    "CREATE INDEX reel_use_by_reel ON reel_use(reel);",
};
