/* Every statement of the room: IC_SQL(name, text). Included more than once on purpose. */

/* clang-format off */
IC_SQL(BEGIN, "BEGIN IMMEDIATE")
IC_SQL(COMMIT, "COMMIT")
IC_SQL(ROLLBACK, "ROLLBACK")
IC_SQL(SAVEPOINT, "SAVEPOINT operation")
IC_SQL(ROLLBACK_TO, "ROLLBACK TO operation")
IC_SQL(RELEASE, "RELEASE operation")

/* Row checksums: ic_sum() hashes its arguments. A session's covers what would do harm if it
 * changed in silence; a statement that changes one of these gives the new value here. */
#define IC_SESSION_SUM(owner, title, journal_base, event_base, checkpoint, version, config_sum) \
    "ic_sum(id, " owner ", " title ", created_us, " journal_base ", " event_base ", " checkpoint \
    ", parent, " version ", " config_sum ")"
#define IC_SESSION_SUM_AS_IS \
    IC_SESSION_SUM("owner", "title", "journal_base", "event_base", "checkpoint", \
                   "config_version", "config_sum")
/* A reel that takes more frames has an end beyond all numbers. */
#define IC_REEL_OPEN "9223372036854775807"
/* Number of the newest frame of a session. */
#define IC_FRAME_LAST(n) "coalesce((SELECT f.number FROM reel_use u CROSS JOIN frame f" \
    " WHERE u.session = " n " AND f.reel = u.reel AND f.number >= u.first AND f.number <= u.last" \
    " ORDER BY u.first DESC, f.number DESC LIMIT 1), 0)"
#define IC_JOURNAL_LAST(n) "max(coalesce((SELECT max(number) FROM journal j" \
    " WHERE j.session = " n "), 0), " IC_FRAME_LAST(n) ")"
#define IC_SESSION_COLUMNS \
    "SELECT s.id, s.owner, s.title, s.state, s.created_us, s.used_us," \
    " s.turns, s.media, s.frames, s.tokens, s.evicted, s.config_version," \
    " coalesce(s.checkpoint, 0)," \
    " coalesce((SELECT c.time_us FROM checkpoint c WHERE c.n = s.checkpoint), 0)," \
    " s.journal_base," \
    " max(s.journal_base, " IC_JOURNAL_LAST("s.n") ")," \
    " s.event_base," \
    " max(s.event_base, coalesce((SELECT max(number) FROM event v WHERE v.session = s.n), 0))," \
    " s.sum = " IC_SESSION_SUM_AS_IS ", s.parent" \
    " FROM session s "
IC_SQL(SESSION_ADD, "INSERT INTO session(id, owner, title, created_us, used_us, config_version,"
    " config_sum, config, sum) VALUES(?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7,"
    " ic_sum(?1, ?2, ?3, ?4, 0, 0, NULL, NULL, ?5, ?6))")
IC_SQL(SESSION_ROW, "SELECT n, sum = " IC_SESSION_SUM_AS_IS " FROM session WHERE id = ?1")
IC_SQL(SESSION_GET, IC_SESSION_COLUMNS "WHERE s.id = ?1")
IC_SQL(SESSION_FIND, IC_SESSION_COLUMNS
    "WHERE s.id >= ?1 AND s.id < ?1 || '{' AND (?2 IS NULL OR s.owner = ?2) AND s.owner <> ''"
    " ORDER BY s.id LIMIT 5")
IC_SQL(SESSION_LIST, IC_SESSION_COLUMNS "WHERE s.owner <> '' ORDER BY s.used_us DESC, s.n DESC")
IC_SQL(SESSION_LIST_OWNER, IC_SESSION_COLUMNS
    "WHERE s.owner = ?1 ORDER BY s.used_us DESC, s.n DESC")
IC_SQL(SESSION_CONFIG, "SELECT config_version, config_sum, config FROM session WHERE id = ?1")
IC_SQL(SESSION_SET_CONFIG,
    "UPDATE session SET config_version = ?2, config_sum = ?3, config = ?4, sum = "
    IC_SESSION_SUM("owner", "title", "journal_base", "event_base", "checkpoint", "?2", "?3")
    " WHERE id = ?1")
IC_SQL(SESSION_SET_TITLE, "UPDATE session SET title = ?2, sum = "
    IC_SESSION_SUM("owner", "?2", "journal_base", "event_base", "checkpoint", "config_version",
                   "config_sum") " WHERE id = ?1")
IC_SQL(SESSION_SET_BASE, "UPDATE session SET journal_base = ?2, sum = "
    IC_SESSION_SUM("owner", "title", "?2", "event_base", "checkpoint", "config_version",
                   "config_sum") " WHERE id = ?1")
IC_SQL(SESSION_GIVE, "UPDATE session SET owner = ?2, title = ?3, sum = "
    IC_SESSION_SUM("?2", "?3", "journal_base", "event_base", "checkpoint", "config_version",
                   "config_sum") " WHERE id = ?1 AND owner = ''")
IC_SQL(SESSION_SET_STATE, "UPDATE session SET state = ?2 WHERE id = ?1")
IC_SQL(SESSION_SET_USED, "UPDATE session SET used_us = ?2 WHERE id = ?1")
IC_SQL(SESSION_SET_COUNTERS, "UPDATE session SET used_us = ?2, turns = ?3, media = ?4, frames = ?5,"
    " tokens = ?6, evicted = ?7 WHERE id = ?1")
/* A copy of a hidden session (a mark's) is a child of the session that the hidden one is of. */
IC_SQL(SESSION_FORK, "INSERT INTO session(id, owner, title, created_us, used_us, turns, media,"
    " frames, tokens, evicted, journal_base, checkpoint, parent, config_version, config_sum, config,"
    " sum) SELECT ?2, ?3, ?4, ?5, ?5, turns, media, frames, tokens, evicted, journal_base,"
    " checkpoint, CASE WHEN owner = '' THEN parent ELSE id END, config_version, config_sum, config,"
    " ic_sum(?2, ?3, ?4, ?5, journal_base, 0, checkpoint,"
    " CASE WHEN owner = '' THEN parent ELSE id END, config_version, config_sum)"
    " FROM session WHERE n = ?1")
IC_SQL(FORK_JOURNAL, "INSERT INTO journal(session, number, kind, time_us, key, sum, payload)"
    " SELECT ?2, number, kind, time_us, key, sum, payload FROM journal WHERE session = ?1")
IC_SQL(FORK_TURNS, "INSERT INTO turn(session, number, role, time_us, took_us, tokens, media,"
    " parts_version, sum, text, parts) SELECT ?2, number, role, time_us, took_us, tokens, media,"
    " parts_version, sum, text, parts FROM turn WHERE session = ?1")
IC_SQL(FORK_MEDIA, "INSERT INTO media(session, number, kind, state, time_us, name, bytes, mtime_us,"
    " hash, fps, frames_seen, frames_used, frames_skipped, retain, notices, held, held_sum, sum,"
    " times) SELECT ?2, number, kind, state, time_us, name, bytes, mtime_us, hash, fps,"
    " frames_seen, frames_used, frames_skipped, retain, notices, held,"
    " CASE WHEN held IS NULL THEN NULL ELSE ic_sum(?2, number, held) END, sum, times"
    " FROM media WHERE session = ?1")
IC_SQL(SESSION_CHECKPOINT, "SELECT checkpoint FROM session WHERE n = ?1")
IC_SQL(SESSION_SET_CHECKPOINT,
    "UPDATE session SET checkpoint = ?2, journal_base = max(journal_base, ?3), sum = "
    IC_SESSION_SUM("owner", "title", "max(journal_base, ?3)", "event_base", "?2",
                   "config_version", "config_sum") " WHERE n = ?1")
IC_SQL(SESSION_DELETE, "DELETE FROM session WHERE n = ?1")
IC_SQL(SESSION_IDS, "SELECT id FROM session ORDER BY n")
IC_SQL(SESSION_HOLDS, "SELECT checkpoint FROM session WHERE n = ?1 AND checkpoint IS NOT NULL")
IC_SQL(SESSION_OWNER, "SELECT owner FROM session WHERE n = ?1")
/* Hidden sessions that no mark names: copies that a crash left behind. */
IC_SQL(SESSION_ORPHAN, "SELECT n FROM session WHERE owner = '' AND sum = " IC_SESSION_SUM_AS_IS
    " AND NOT EXISTS(SELECT 1 FROM mark m WHERE m.copy = session.n) LIMIT 1")

IC_SQL(JOURNAL_BASE, "SELECT n, journal_base, sum = " IC_SESSION_SUM_AS_IS
    " FROM session WHERE id = ?1")
IC_SQL(JOURNAL_LAST, "SELECT " IC_JOURNAL_LAST("?1"))
IC_SQL(JOURNAL_ADD, "INSERT INTO journal(session, number, kind, time_us, key, sum, payload)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)")
IC_SQL(JOURNAL_READ, "SELECT number, kind, time_us, payload, sum, key FROM journal"
    " WHERE session = ?1 AND number >= ?2 ORDER BY number")
IC_SQL(JOURNAL_TRIM, "DELETE FROM journal WHERE session = ?1 AND number <= ?2")

#define IC_USE_SUM(last, hold, bytes) \
    "ic_sum(session, first, " last ", reel, media, " hold ", " bytes ")"
#define IC_USE_SUM_AS_IS IC_USE_SUM("last", "hold", "bytes")
IC_SQL(FRAME_ADD, "INSERT INTO frame(reel, number, kind, time_us, sum, head, bulk_bytes, bulk_sum,"
    " bulk) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")
IC_SQL(FRAME_READ, "SELECT f.number, f.kind, f.time_us, f.sum, f.head, f.bulk_bytes, f.bulk_sum,"
    " f.bulk, f.reel, u.media, u.hold, u.sum = ic_sum(u.session, u.first, u.last, u.reel, u.media,"
    " u.hold, u.bytes) FROM reel_use u CROSS JOIN frame f"
    " WHERE u.session = ?1 AND u.last >= ?2 AND f.reel = u.reel AND f.number >= u.first"
    " AND f.number <= u.last AND f.number >= ?2 ORDER BY u.first, f.number")
IC_SQL(REEL_NEXT, "SELECT 1 + max(coalesce((SELECT max(reel) FROM reel_use), 0),"
    " coalesce((SELECT max(reel) FROM frame), 0))")
IC_SQL(REEL_MEASURE, "SELECT coalesce(max(number), 0), coalesce(sum(bulk_bytes), 0), count(*)"
    " FROM frame WHERE reel = ?1")
IC_SQL(REEL_HOLDS, "SELECT count(*) FROM reel_use WHERE reel = ?1 AND hold > 0")
IC_SQL(REEL_USES, "SELECT count(*) FROM reel_use WHERE reel = ?1")
IC_SQL(REEL_EMPTY, "UPDATE frame SET bulk = NULL WHERE reel = ?1")
IC_SQL(REEL_DELETE, "DELETE FROM frame WHERE reel = ?1")
IC_SQL(USE_ADD, "INSERT INTO reel_use(session, first, last, reel, media, hold, bytes, sum)"
    " VALUES(?1, ?2, " IC_REEL_OPEN ", ?3, ?4, ?5, 0,"
    " ic_sum(?1, ?2, " IC_REEL_OPEN ", ?3, ?4, ?5, 0))")
IC_SQL(USE_NEWEST, "SELECT first, last, reel, media, hold, sum = " IC_USE_SUM_AS_IS
    " FROM reel_use WHERE session = ?1 ORDER BY first DESC LIMIT 1")
IC_SQL(USE_CLOSE, "UPDATE reel_use SET last = ?3, bytes = ?4, sum = "
    IC_USE_SUM("?3", "hold", "?4") " WHERE session = ?1 AND first = ?2 AND sum = "
    IC_USE_SUM_AS_IS)
IC_SQL(USE_LET_GO, "UPDATE reel_use SET hold = 0, sum = " IC_USE_SUM("last", "0", "bytes")
    " WHERE session = ?1 AND first = ?2 AND sum = " IC_USE_SUM_AS_IS)
IC_SQL(USE_COVERED, "SELECT first, reel FROM reel_use WHERE session = ?1 AND hold = 1"
    " AND last <= ?2")
IC_SQL(USE_HELD, "SELECT first, reel, bytes, last FROM reel_use WHERE session = ?1 AND hold > 0"
    " ORDER BY first")
IC_SQL(USE_OLDEST, "SELECT first, reel FROM reel_use WHERE session = ?1 AND hold = 0"
    " ORDER BY first")
IC_SQL(USE_COUNT, "SELECT count(*) FROM reel_use WHERE session = ?1")
IC_SQL(USE_REELS, "SELECT reel FROM reel_use WHERE session = ?1")
IC_SQL(USE_REMOVE, "DELETE FROM reel_use WHERE session = ?1 AND first = ?2")
IC_SQL(USE_DELETE, "DELETE FROM reel_use WHERE session = ?1")
/* What is damaged stays so in the copy. */
IC_SQL(FORK_USES, "INSERT INTO reel_use(session, first, last, reel, media, hold, bytes, sum)"
    " SELECT ?2, first, last, reel, media, hold, bytes, CASE WHEN sum = " IC_USE_SUM_AS_IS
    " THEN ic_sum(?2, first, last, reel, media, hold, bytes) ELSE sum END"
    " FROM reel_use WHERE session = ?1")
IC_SQL(USES_DAMAGED, "SELECT count(*) FROM reel_use WHERE sum <> " IC_USE_SUM_AS_IS)

IC_SQL(EVENT_BASE, "SELECT n, event_base, sum = " IC_SESSION_SUM_AS_IS
    " FROM session WHERE id = ?1")
IC_SQL(EVENT_LAST, "SELECT max(number) FROM event WHERE session = ?1")
IC_SQL(EVENT_ADD, "INSERT INTO event(session, number, kind, time_us, sum, payload)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?6)")
IC_SQL(EVENT_READ, "SELECT number, kind, time_us, payload, sum FROM event"
    " WHERE session = ?1 AND number >= ?2 ORDER BY number")
IC_SQL(EVENT_SIZES, "SELECT number, length(payload), time_us FROM event WHERE session = ?1"
    " ORDER BY number")
IC_SQL(EVENT_BYTES, "SELECT coalesce(sum(length(payload)), 0) FROM event WHERE session = ?1")
IC_SQL(EVENT_TRIM, "DELETE FROM event WHERE session = ?1 AND number <= ?2")
IC_SQL(EVENT_SET_BASE, "UPDATE session SET event_base = ?2, sum = "
    IC_SESSION_SUM("owner", "title", "journal_base", "?2", "checkpoint", "config_version",
                   "config_sum") " WHERE n = ?1")

#define IC_REQUEST_SUM(session, state, result) \
    "ic_sum(key, content, " session ", kind, " state ", time_us, first_event, last_event, " \
    result ")"
#define IC_REQUEST_COLUMNS \
    "SELECT r.key, r.content, s.id, r.kind, r.state, r.time_us, r.first_event, r.last_event," \
    " r.result, r.sum = ic_sum(r.key, r.content, r.session, r.kind, r.state, r.time_us," \
    " r.first_event, r.last_event, r.result)" \
    " FROM request r LEFT JOIN session s ON s.n = r.session "
IC_SQL(REQUEST_GET, IC_REQUEST_COLUMNS "WHERE r.key = ?1")
IC_SQL(REQUEST_ADD, "INSERT INTO request(key, content, session, kind, state, time_us, sum)"
    " SELECT ?1, ?2, x.n, ?4, ?5, ?6, ic_sum(?1, ?2, x.n, ?4, ?5, ?6, 0, 0, NULL)"
    " FROM (SELECT (SELECT n FROM session WHERE id = ?3) AS n) x")
IC_SQL(REQUEST_SET, "UPDATE request SET state = ?2,"
    " session = coalesce((SELECT n FROM session WHERE id = ?3), session),"
    " first_event = CASE WHEN ?4 = 0 THEN first_event ELSE ?4 END,"
    " last_event = CASE WHEN ?5 = 0 THEN last_event ELSE ?5 END,"
    " result = coalesce(?6, result) WHERE key = ?1 AND sum = "
    IC_REQUEST_SUM("session", "state", "result"))
IC_SQL(REQUEST_SEAL, "UPDATE request SET sum = " IC_REQUEST_SUM("session", "state", "result")
    " WHERE key = ?1")
IC_SQL(REQUEST_PENDING, IC_REQUEST_COLUMNS "WHERE r.state = 1 ORDER BY r.time_us, r.key")
IC_SQL(REQUEST_PENDING_SESSION, IC_REQUEST_COLUMNS
    "WHERE r.session = ?1 AND r.state = 1 ORDER BY r.time_us, r.key")
IC_SQL(REQUEST_BURY, "UPDATE request SET state = 3, session = NULL, result = NULL, sum = "
    IC_REQUEST_SUM("NULL", "3", "NULL") " WHERE state = 2 AND time_us < ?1 AND sum = "
    IC_REQUEST_SUM("session", "state", "result"))
IC_SQL(REQUEST_FORGET, "DELETE FROM request WHERE state = 3 AND time_us < ?1")
IC_SQL(REQUEST_ORPHAN, "UPDATE request SET state = 3, session = NULL, result = NULL, sum = "
    IC_REQUEST_SUM("NULL", "3", "NULL") " WHERE session = ?1")
IC_SQL(REQUEST_DAMAGED, "SELECT count(*) FROM request WHERE sum <> "
    IC_REQUEST_SUM("session", "state", "result"))

IC_SQL(TURN_LAST, "SELECT max(number) FROM turn WHERE session = ?1")
IC_SQL(TURN_ADD, "INSERT INTO turn(session, number, role, time_us, took_us, tokens, media,"
    " parts_version, sum, text, parts) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")
IC_SQL(TURN_READ, "SELECT number, role, time_us, took_us, tokens, media, parts_version, sum, text,"
    " parts FROM turn WHERE session = ?1 AND number >= ?2 ORDER BY number")
IC_SQL(TURN_REMOVE, "DELETE FROM turn WHERE session = ?1 AND number = ?2")
IC_SQL(TURN_DELETE, "DELETE FROM turn WHERE session = ?1")

IC_SQL(MEDIA_LAST, "SELECT max(number) FROM media WHERE session = ?1")
IC_SQL(MEDIA_ADD, "INSERT INTO media(session, number, kind, state, time_us, name, bytes, mtime_us,"
    " hash, fps, frames_seen, frames_used, frames_skipped, retain, notices, times, sum)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)")
IC_SQL(MEDIA_SET, "UPDATE media SET kind = ?3, state = ?4, time_us = ?5, name = ?6, bytes = ?7,"
    " mtime_us = ?8, hash = ?9, fps = ?10, frames_seen = ?11, frames_used = ?12,"
    " frames_skipped = ?13, retain = ?14, notices = ?15, times = ?16, sum = ?17"
    " WHERE session = ?1 AND number = ?2")
IC_SQL(MEDIA_LIST, "SELECT number, kind, state, time_us, name, bytes, mtime_us, hash, fps,"
    " frames_seen, frames_used, frames_skipped, retain, notices, times, sum,"
    " (SELECT coalesce(sum(p.bytes), 0) FROM media_piece p WHERE p.held = media.held),"
    " (SELECT count(*) FROM media_piece p WHERE p.held = media.held)"
    " FROM media WHERE session = ?1 AND number >= ?2 ORDER BY number")
IC_SQL(MEDIA_HELD, "SELECT held, held_sum IS CASE WHEN held IS NULL THEN NULL"
    " ELSE ic_sum(session, number, held) END FROM media WHERE session = ?1 AND number = ?2")
IC_SQL(MEDIA_SET_HELD, "UPDATE media SET held = ?3,"
    " held_sum = CASE WHEN ?3 IS NULL THEN NULL ELSE ic_sum(?1, ?2, ?3) END"
    " WHERE session = ?1 AND number = ?2")
IC_SQL(MEDIA_HELD_OF, "SELECT DISTINCT held FROM media WHERE session = ?1 AND held IS NOT NULL")
IC_SQL(MEDIA_DELETE, "DELETE FROM media WHERE session = ?1")
IC_SQL(HELD_ADD, "INSERT INTO media_held(time_us) VALUES(?1)")
IC_SQL(HELD_USES, "SELECT count(*) FROM media WHERE held = ?1")
IC_SQL(HELD_DELETE, "DELETE FROM media_held WHERE n = ?1")
IC_SQL(HELD_ORPHAN, "SELECT h.n FROM media_held h"
    " WHERE NOT EXISTS(SELECT 1 FROM media m WHERE m.held = h.n) LIMIT 1")
IC_SQL(PIECE_COUNT, "SELECT count(*) FROM media_piece WHERE held = ?1")
IC_SQL(PIECE_ADD, "INSERT INTO media_piece(held, piece, bytes, sum, data)"
    " VALUES(?1, ?2, ?3, ?4, ?5)")
IC_SQL(PIECE_READ, "SELECT bytes, sum, data FROM media_piece WHERE held = ?1 AND piece = ?2")
IC_SQL(PIECE_DELETE, "DELETE FROM media_piece WHERE held = ?1")

IC_SQL(SEGMENT_ADD, "INSERT INTO segment(tag, codec, bytes, sum) VALUES(?1, 0, ?2, ?3)")
IC_SQL(SEGMENT_ADD_DATA, "INSERT INTO segment_data(n, data) VALUES(?1, ?2)")
IC_SQL(SEGMENT_DELETE, "DELETE FROM segment WHERE n = ?1")
IC_SQL(SEGMENT_DELETE_DATA, "DELETE FROM segment_data WHERE n = ?1")
IC_SQL(SEGMENT_GET, "SELECT tag, codec, bytes, sum FROM segment WHERE n = ?1")
IC_SQL(SEGMENT_IN, "SELECT 1 FROM checkpoint_segment WHERE segment = ?1 AND checkpoint = ?2")
IC_SQL(SEGMENT_ORPHAN, "SELECT g.n FROM segment g"
    " WHERE NOT EXISTS(SELECT 1 FROM checkpoint_segment l WHERE l.segment = g.n) LIMIT 64")
IC_SQL(CHECKPOINT_ADD, "INSERT INTO checkpoint(format, payload_version, time_us, meaning, numerics,"
    " journal_seq, live_bytes, sum, state) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")
IC_SQL(CHECKPOINT_GET, "SELECT format, payload_version, time_us, meaning, numerics, journal_seq,"
    " live_bytes, sum, state FROM checkpoint WHERE n = ?1")
IC_SQL(CHECKPOINT_ADD_SEGMENT,
    "INSERT INTO checkpoint_segment(checkpoint, position, segment) VALUES(?1, ?2, ?3)")
IC_SQL(CHECKPOINT_SEGMENTS, "SELECT l.position, l.segment, g.tag, g.codec, g.bytes, g.sum"
    " FROM checkpoint_segment l LEFT JOIN segment g ON g.n = l.segment"
    " WHERE l.checkpoint = ?1 ORDER BY l.position")
IC_SQL(CHECKPOINT_USES, "SELECT count(*) FROM session WHERE checkpoint = ?1")
IC_SQL(CHECKPOINT_ORPHAN, "SELECT c.n FROM checkpoint c"
    " WHERE NOT EXISTS(SELECT 1 FROM session s WHERE s.checkpoint = c.n) LIMIT 1")
#define IC_ONLY_OF "IN (SELECT l.segment FROM checkpoint_segment l WHERE l.checkpoint = ?1" \
    " AND NOT EXISTS(SELECT 1 FROM checkpoint_segment o" \
    " WHERE o.segment = l.segment AND o.checkpoint <> ?1))"
IC_SQL(CHECKPOINT_DROP_DATA, "DELETE FROM segment_data WHERE n " IC_ONLY_OF)
IC_SQL(CHECKPOINT_DROP_SEGMENTS, "DELETE FROM segment WHERE n " IC_ONLY_OF)
IC_SQL(CHECKPOINT_DROP_LINKS, "DELETE FROM checkpoint_segment WHERE checkpoint = ?1")
IC_SQL(CHECKPOINT_DROP, "DELETE FROM checkpoint WHERE n = ?1")

#define IC_MARK_SUM "ic_sum(m.session, m.name, m.copy, m.time_us, m.turn)"
IC_SQL(MARK_ADD, "INSERT INTO mark(session, name, copy, time_us, turn, sum)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ic_sum(?1, ?2, ?3, ?4, ?5))")
IC_SQL(MARK_GET, "SELECT m.copy, m.sum = " IC_MARK_SUM " FROM mark m"
    " WHERE m.session = ?1 AND m.name = ?2")
IC_SQL(MARK_LIST, "SELECT m.name, m.time_us, m.turn, m.sum = " IC_MARK_SUM " FROM mark m"
    " WHERE m.session = ?1 ORDER BY m.time_us, m.name")
IC_SQL(MARK_COUNT, "SELECT count(*) FROM mark WHERE session = ?1")
IC_SQL(MARK_COPIES, "SELECT copy FROM mark WHERE session = ?1")
IC_SQL(MARK_REMOVE, "DELETE FROM mark WHERE session = ?1 AND name = ?2")
IC_SQL(MARK_DELETE, "DELETE FROM mark WHERE session = ?1")
IC_SQL(MARKS_DAMAGED, "SELECT count(*) FROM mark m WHERE m.sum <> " IC_MARK_SUM
    " OR NOT EXISTS(SELECT 1 FROM session s WHERE s.n = m.copy)")

/* What several of the sessions share counts once. */
#define IC_SIZES(own) \
    "WITH own(n) AS (" own ")," \
    " point(n) AS (SELECT DISTINCT checkpoint FROM session" \
    "   WHERE n IN own AND checkpoint IS NOT NULL)" \
    "SELECT coalesce((SELECT sum(length(payload)) FROM journal WHERE session IN own), 0)," \
    " coalesce((SELECT sum(length(payload)) FROM event WHERE session IN own), 0)," \
    " coalesce((SELECT sum(length(CAST(text AS BLOB)) + length(parts)) FROM turn" \
    "   WHERE session IN own), 0)," \
    " coalesce((SELECT sum(bytes) FROM media_piece WHERE held IN (SELECT held FROM media" \
    "   WHERE session IN own AND held IS NOT NULL)), 0)" \
    "   + coalesce((SELECT sum(b) FROM (SELECT max(bytes) AS b FROM reel_use" \
    "   WHERE session IN own AND hold > 0 GROUP BY reel)), 0)" \
    "   + coalesce((SELECT sum(f.bulk_bytes) FROM reel_use u CROSS JOIN frame f" \
    "   WHERE u.session IN own AND u.last = " IC_REEL_OPEN " AND f.reel = u.reel), 0)," \
    " coalesce((SELECT sum(length(state)) FROM checkpoint WHERE n IN point), 0)" \
    "   + coalesce((SELECT sum(bytes) FROM segment WHERE n IN (SELECT segment" \
    "   FROM checkpoint_segment WHERE checkpoint IN point)), 0)," \
    " coalesce((SELECT sum(length(result)) FROM request WHERE session IN own), 0)," \
    " (SELECT count(*) FROM session WHERE n IN own AND owner <> '')"
IC_SQL(SIZES_SESSION, IC_SIZES("SELECT ?1 UNION SELECT copy FROM mark WHERE session = ?1"))
IC_SQL(SIZES_OWNER, IC_SIZES("SELECT n FROM session WHERE owner = ?1 UNION SELECT m.copy FROM mark m"
    " JOIN session s ON s.n = m.session WHERE s.owner = ?1"))
/* Rows that no reading meets, since what says where they belong is damaged. */
IC_SQL(STRAYS,
    "SELECT (SELECT count(*) FROM journal WHERE session NOT IN (SELECT n FROM session))"
    " + (SELECT count(*) FROM event WHERE session NOT IN (SELECT n FROM session))"
    " + (SELECT count(*) FROM turn WHERE session NOT IN (SELECT n FROM session) OR number < 1)"
    " + (SELECT count(*) FROM media WHERE session NOT IN (SELECT n FROM session) OR number < 1)"
    " + (SELECT count(*) FROM media WHERE held IS NOT NULL AND NOT EXISTS"
    "    (SELECT 1 FROM media_piece p WHERE p.held = media.held AND p.piece = 0))"
    " + (SELECT count(*) FROM media_piece WHERE held NOT IN (SELECT n FROM media_held))"
    " + (SELECT count(*) FROM checkpoint_segment"
    "    WHERE checkpoint NOT IN (SELECT n FROM checkpoint))"
    " + (SELECT count(*) FROM reel_use WHERE session NOT IN (SELECT n FROM session))"
    " + (SELECT count(*) FROM frame f WHERE NOT EXISTS(SELECT 1 FROM reel_use u"
    "    WHERE u.reel = f.reel AND u.first <= f.number AND u.last >= f.number))")
IC_SQL(SIZES_ALL, IC_SIZES("SELECT n FROM session"))
/* clang-format on */
