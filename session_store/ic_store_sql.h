/* Every statement of the room: IC_SQL(name, text). Included more than once on purpose. */
IC_SQL(BEGIN, "BEGIN IMMEDIATE")
IC_SQL(COMMIT, "COMMIT")
IC_SQL(ROLLBACK, "ROLLBACK")
