/* sql/prompt_stats--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION prompt_stats" to load this file. \quit

/*
 * Functions of the names that applications call, and not ours: the application's
 * own, most likely, which these replace.
 */
DO $$
DECLARE
	drops text;
BEGIN
	SELECT pg_catalog.string_agg(
			pg_catalog.format('DROP %s %s;',
				CASE p.prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END,
				pg_catalog.format('%I.%I(%s)', n.nspname, p.proname,
								  pg_catalog.pg_get_function_identity_arguments(p.oid))), E'\n'
			ORDER BY p.proname, p.oid)
	INTO drops
	FROM pg_catalog.pg_proc p
	JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
	WHERE n.nspname OPERATOR(pg_catalog.=) pg_catalog.current_schema()
	AND p.proname OPERATOR(pg_catalog.=) ANY (ARRAY[
			'increment_prompt_views', 'increment_prompt_copies', 'increment_fork_count',
			'track_prompt_fork', 'track_compare_add', 'get_prompt_stats',
			'prompt_stats_setup', 'prompt_stats_teardown', 'prompt_stats_enable_compat',
			'prompt_stats_migrate', 'prompt_stats_migrate_batch', 'prompt_stats_migrate_finish',
			'prompt_stats_recount_forks', 'prompt_stats_verify', 'prompt_stats_tables',
			'prompt_stats_flush']::pg_catalog.name[]);

	IF drops IS NOT NULL THEN
		RAISE EXCEPTION USING
			ERRCODE = 'duplicate_function',
			MESSAGE = pg_catalog.format('functions of extension prompt_stats exist already in schema "%s"',
										pg_catalog.current_schema()),
			DETAIL = 'They are not the extension''s own, which would replace them.',
			HINT = E'Drop them, then create the extension again:\n' OPERATOR(pg_catalog.||) drops;
	END IF;
END $$;

-- ---------------------------------------------------------------------------
-- What the extension keeps for itself
-- ---------------------------------------------------------------------------

/* Which tables count, where they are not the usual ones; one row or none */
CREATE TABLE @extschema@.prompt_stats_config (
	events regclass NOT NULL,
	stats regclass NOT NULL
);
CREATE UNIQUE INDEX prompt_stats_config_one_row ON @extschema@.prompt_stats_config ((true));

/* The last run of the migration; one row or none */
CREATE TABLE @extschema@.prompt_stats_migration (
	mode text NOT NULL,
	position tid NOT NULL DEFAULT '(0,0)',
	blocks_done bigint NOT NULL DEFAULT 0,
	blocks_total bigint NOT NULL,
	rows_moved bigint NOT NULL DEFAULT 0,
	views_moved bigint NOT NULL DEFAULT 0,
	copies_moved bigint NOT NULL DEFAULT 0,
	started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	finished_at timestamptz
);
CREATE UNIQUE INDEX prompt_stats_migration_one_row ON @extschema@.prompt_stats_migration ((true));

/* Counters as a run with mode => 'discard' found them, until they are taken off */
CREATE TABLE @extschema@.prompt_stats_baseline (
	prompt_id text PRIMARY KEY,
	views bigint NOT NULL,
	copies bigint NOT NULL
);

/* A dump of a half-done migration goes on from there; a new database starts clean */
SELECT pg_catalog.pg_extension_config_dump('@extschema@.prompt_stats_config', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.prompt_stats_migration', 'WHERE finished_at IS NULL');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.prompt_stats_baseline', '');

CREATE VIEW @extschema@.prompt_stats_migration_progress AS
	SELECT CASE WHEN m.finished_at IS NULL THEN 'moving' ELSE 'finished' END AS phase,
		   m.mode,
		   m.rows_moved, m.views_moved, m.copies_moved,
		   CASE WHEN m.finished_at IS NOT NULL OR m.blocks_total = 0 THEN 100.0
				ELSE pg_catalog.round(100.0 * LEAST(m.blocks_done, m.blocks_total) / m.blocks_total, 1)
		   END AS percent,
		   m.started_at, m.updated_at, m.finished_at
	FROM @extschema@.prompt_stats_migration m
	LIMIT 1;
COMMENT ON VIEW @extschema@.prompt_stats_migration_progress IS
	'the last run of prompt_stats_migrate(): rows moved so far; percent is of the pages of prompt_events';

-- ---------------------------------------------------------------------------
-- Counting
--
-- uuid, bigint and text forms, so that every way a driver sends an argument
-- finds one: an untyped argument is taken as text, and parsed.  The names of the
-- arguments differ, so that a call by name means one function only.
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.increment_prompt_views(prompt_id uuid, n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_prompt_views'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_prompt_views(uuid, bigint) IS
	'count n views of a prompt';

CREATE FUNCTION @extschema@.increment_prompt_views(prompt_no bigint, n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_prompt_views'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_prompt_views(bigint, bigint) IS
	'count n views of a prompt';

CREATE FUNCTION @extschema@.increment_prompt_views(id text, n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_prompt_views'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_prompt_views(text, bigint) IS
	'count n views of a prompt';

CREATE FUNCTION @extschema@.increment_prompt_views(prompt_ids uuid[], n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_prompt_views'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_prompt_views(uuid[], bigint) IS
	'count n views of each element of an array of prompts';

CREATE FUNCTION @extschema@.increment_prompt_views(prompt_nos bigint[], n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_prompt_views'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_prompt_views(bigint[], bigint) IS
	'count n views of each element of an array of prompts';

CREATE FUNCTION @extschema@.increment_prompt_views(ids text[], n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_prompt_views'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_prompt_views(text[], bigint) IS
	'count n views of each element of an array of prompts';

CREATE FUNCTION @extschema@.increment_prompt_copies(prompt_id uuid, n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_prompt_copies'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_prompt_copies(uuid, bigint) IS
	'count n copies of a prompt';

CREATE FUNCTION @extschema@.increment_prompt_copies(prompt_no bigint, n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_prompt_copies'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_prompt_copies(bigint, bigint) IS
	'count n copies of a prompt';

CREATE FUNCTION @extschema@.increment_prompt_copies(id text, n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_prompt_copies'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_prompt_copies(text, bigint) IS
	'count n copies of a prompt';

CREATE FUNCTION @extschema@.increment_prompt_copies(prompt_ids uuid[], n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_prompt_copies'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_prompt_copies(uuid[], bigint) IS
	'count n copies of each element of an array of prompts';

CREATE FUNCTION @extschema@.increment_prompt_copies(prompt_nos bigint[], n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_prompt_copies'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_prompt_copies(bigint[], bigint) IS
	'count n copies of each element of an array of prompts';

CREATE FUNCTION @extschema@.increment_prompt_copies(ids text[], n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_prompt_copies'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_prompt_copies(text[], bigint) IS
	'count n copies of each element of an array of prompts';

CREATE FUNCTION @extschema@.increment_fork_count(prompt_id uuid, n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_fork_count'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_fork_count(uuid, bigint) IS
	'count n forks of a prompt';

CREATE FUNCTION @extschema@.increment_fork_count(prompt_no bigint, n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_fork_count'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_fork_count(bigint, bigint) IS
	'count n forks of a prompt';

CREATE FUNCTION @extschema@.increment_fork_count(id text, n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_fork_count'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_fork_count(text, bigint) IS
	'count n forks of a prompt';

CREATE FUNCTION @extschema@.increment_fork_count(prompt_ids uuid[], n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_fork_count'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_fork_count(uuid[], bigint) IS
	'count n forks of each element of an array of prompts';

CREATE FUNCTION @extschema@.increment_fork_count(prompt_nos bigint[], n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_fork_count'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_fork_count(bigint[], bigint) IS
	'count n forks of each element of an array of prompts';

CREATE FUNCTION @extschema@.increment_fork_count(ids text[], n bigint DEFAULT 1) RETURNS void
	AS 'MODULE_PATHNAME', 'increment_fork_count'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.increment_fork_count(text[], bigint) IS
	'count n forks of each element of an array of prompts';

CREATE FUNCTION @extschema@.track_prompt_fork(prompt_id uuid, user_id uuid) RETURNS void
	AS 'MODULE_PATHNAME', 'track_prompt_fork'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_prompt_fork(uuid, uuid) IS
	'log that a user forked a prompt, and count it';

CREATE FUNCTION @extschema@.track_prompt_fork(prompt_id uuid, user_no bigint) RETURNS void
	AS 'MODULE_PATHNAME', 'track_prompt_fork'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_prompt_fork(uuid, bigint) IS
	'log that a user forked a prompt, and count it';

CREATE FUNCTION @extschema@.track_prompt_fork(prompt_id uuid, user_key text) RETURNS void
	AS 'MODULE_PATHNAME', 'track_prompt_fork'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_prompt_fork(uuid, text) IS
	'log that a user forked a prompt, and count it';

CREATE FUNCTION @extschema@.track_prompt_fork(prompt_no bigint, user_id uuid) RETURNS void
	AS 'MODULE_PATHNAME', 'track_prompt_fork'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_prompt_fork(bigint, uuid) IS
	'log that a user forked a prompt, and count it';

CREATE FUNCTION @extschema@.track_prompt_fork(prompt_no bigint, user_no bigint) RETURNS void
	AS 'MODULE_PATHNAME', 'track_prompt_fork'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_prompt_fork(bigint, bigint) IS
	'log that a user forked a prompt, and count it';

CREATE FUNCTION @extschema@.track_prompt_fork(prompt_no bigint, user_key text) RETURNS void
	AS 'MODULE_PATHNAME', 'track_prompt_fork'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_prompt_fork(bigint, text) IS
	'log that a user forked a prompt, and count it';

CREATE FUNCTION @extschema@.track_prompt_fork(id text, user_uuid uuid) RETURNS void
	AS 'MODULE_PATHNAME', 'track_prompt_fork'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_prompt_fork(text, uuid) IS
	'log that a user forked a prompt, and count it';

CREATE FUNCTION @extschema@.track_prompt_fork(id text, user_no bigint) RETURNS void
	AS 'MODULE_PATHNAME', 'track_prompt_fork'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_prompt_fork(text, bigint) IS
	'log that a user forked a prompt, and count it';

CREATE FUNCTION @extschema@.track_prompt_fork(id text, user_id text) RETURNS void
	AS 'MODULE_PATHNAME', 'track_prompt_fork'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_prompt_fork(text, text) IS
	'log that a user forked a prompt, and count it';

CREATE FUNCTION @extschema@.track_compare_add(prompt_id uuid, user_id uuid) RETURNS void
	AS 'MODULE_PATHNAME', 'track_compare_add'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_compare_add(uuid, uuid) IS
	'log that a user added a prompt to a comparison';

CREATE FUNCTION @extschema@.track_compare_add(prompt_id uuid, user_no bigint) RETURNS void
	AS 'MODULE_PATHNAME', 'track_compare_add'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_compare_add(uuid, bigint) IS
	'log that a user added a prompt to a comparison';

CREATE FUNCTION @extschema@.track_compare_add(prompt_id uuid, user_key text) RETURNS void
	AS 'MODULE_PATHNAME', 'track_compare_add'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_compare_add(uuid, text) IS
	'log that a user added a prompt to a comparison';

CREATE FUNCTION @extschema@.track_compare_add(prompt_no bigint, user_id uuid) RETURNS void
	AS 'MODULE_PATHNAME', 'track_compare_add'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_compare_add(bigint, uuid) IS
	'log that a user added a prompt to a comparison';

CREATE FUNCTION @extschema@.track_compare_add(prompt_no bigint, user_no bigint) RETURNS void
	AS 'MODULE_PATHNAME', 'track_compare_add'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_compare_add(bigint, bigint) IS
	'log that a user added a prompt to a comparison';

CREATE FUNCTION @extschema@.track_compare_add(prompt_no bigint, user_key text) RETURNS void
	AS 'MODULE_PATHNAME', 'track_compare_add'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_compare_add(bigint, text) IS
	'log that a user added a prompt to a comparison';

CREATE FUNCTION @extschema@.track_compare_add(id text, user_uuid uuid) RETURNS void
	AS 'MODULE_PATHNAME', 'track_compare_add'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_compare_add(text, uuid) IS
	'log that a user added a prompt to a comparison';

CREATE FUNCTION @extschema@.track_compare_add(id text, user_no bigint) RETURNS void
	AS 'MODULE_PATHNAME', 'track_compare_add'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_compare_add(text, bigint) IS
	'log that a user added a prompt to a comparison';

CREATE FUNCTION @extschema@.track_compare_add(id text, user_id text) RETURNS void
	AS 'MODULE_PATHNAME', 'track_compare_add'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.track_compare_add(text, text) IS
	'log that a user added a prompt to a comparison';

-- ---------------------------------------------------------------------------
-- Reading
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.get_prompt_stats(prompt_id uuid,
		OUT view_count bigint, OUT copy_count bigint, OUT fork_count bigint,
		OUT pending bigint, OUT as_of timestamptz)
	AS 'MODULE_PATHNAME', 'get_prompt_stats'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.get_prompt_stats(uuid) IS
	'the counts of a prompt that the caller may see; zeros where there is no row';

CREATE FUNCTION @extschema@.get_prompt_stats(prompt_no bigint,
		OUT view_count bigint, OUT copy_count bigint, OUT fork_count bigint,
		OUT pending bigint, OUT as_of timestamptz)
	AS 'MODULE_PATHNAME', 'get_prompt_stats'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.get_prompt_stats(bigint) IS
	'the counts of a prompt that the caller may see; zeros where there is no row';

CREATE FUNCTION @extschema@.get_prompt_stats(id text,
		OUT view_count bigint, OUT copy_count bigint, OUT fork_count bigint,
		OUT pending bigint, OUT as_of timestamptz)
	AS 'MODULE_PATHNAME', 'get_prompt_stats'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.get_prompt_stats(text) IS
	'the counts of a prompt that the caller may see; zeros where there is no row';

CREATE FUNCTION @extschema@.prompt_stats_live_rows(
		OUT prompt_id text, OUT view_count bigint, OUT copy_count bigint, OUT fork_count bigint,
		OUT pending bigint, OUT as_of timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'prompt_stats_live_rows'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.prompt_stats_live_rows() IS
	'the rows of view prompt_stats_live';

CREATE VIEW @extschema@.prompt_stats_live AS
	SELECT r.prompt_id, r.view_count, r.copy_count, r.fork_count, r.pending, r.as_of
	FROM @extschema@.prompt_stats_live_rows() r;
COMMENT ON VIEW @extschema@.prompt_stats_live IS
	'counts of all prompts that the reader may see; pending is how much of them is not in prompt_stats yet';

CREATE FUNCTION @extschema@.prompt_stats_status_row(
		OUT accepted bigint, OUT flushed bigint, OUT pending bigint, OUT rejected bigint,
		OUT ledger_since timestamptz, OUT last_rejected_at timestamptz, OUT last_rejected text,
		OUT oldest_pending timestamptz, OUT own_folds bigint, OUT own_fold_reasons jsonb,
		OUT groups bigint, OUT grouped_transactions bigint, OUT largest_group bigint, OUT flushes bigint,
		OUT flusher text, OUT flusher_pid integer, OUT entries bigint, OUT max_entries bigint)
	AS 'MODULE_PATHNAME', 'prompt_stats_status_row'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.prompt_stats_status_row() IS
	'the row of view prompt_stats_status';

CREATE VIEW @extschema@.prompt_stats_status AS
	SELECT s.accepted, s.flushed, s.pending, s.rejected, s.ledger_since, s.last_rejected_at, s.last_rejected,
		pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) s.oldest_pending AS lag,
		s.own_folds, s.own_fold_reasons, s.groups, s.grouped_transactions, s.largest_group, s.flushes,
		s.flusher, s.flusher_pid, s.entries, s.max_entries
	FROM @extschema@.prompt_stats_status_row() s;
COMMENT ON VIEW @extschema@.prompt_stats_status IS
	'what was handed over to the flusher in this database: accepted = flushed + pending + rejected, in counts';

CREATE FUNCTION @extschema@.prompt_stats_flush() RETURNS void
	AS 'MODULE_PATHNAME', 'prompt_stats_flush'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.prompt_stats_flush() IS
	'return when all counts that were accepted before are in prompt_stats, or rejected';

/* Default privileges may have given rights to anybody */
DO $$
DECLARE
	rel regclass;
	grantee text;
BEGIN
	FOR rel, grantee IN
		SELECT DISTINCT c.oid,
			CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::text END
		FROM pg_catalog.pg_class c, LATERAL pg_catalog.aclexplode(c.relacl) a
		WHERE c.oid OPERATOR(pg_catalog.=) ANY (ARRAY[
				'@extschema@.prompt_stats_config',
				'@extschema@.prompt_stats_migration',
				'@extschema@.prompt_stats_baseline',
				'@extschema@.prompt_stats_migration_progress',
				'@extschema@.prompt_stats_live',
				'@extschema@.prompt_stats_status']::pg_catalog.regclass[])
		AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
	LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', rel, grantee);
	END LOOP;
END $$;

/* Of counters, the rights on prompt_stats are what matters: its rows are read as the reader */
GRANT SELECT ON @extschema@.prompt_stats_live, @extschema@.prompt_stats_migration_progress,
	@extschema@.prompt_stats_status TO PUBLIC;

-- ---------------------------------------------------------------------------
-- Administration, by the owner of the tables.  Nothing here is SECURITY DEFINER:
-- what is done to the tables is done with the rights of the caller, or as their
-- owner.
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.prompt_stats_tables(
		OUT events regclass, OUT stats regclass, OUT prompts regclass)
	AS 'MODULE_PATHNAME', 'prompt_stats_tables'
	LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.prompt_stats_tables() IS
	'the tables in use: of events, of counters, and the one that the counters reference; null where there is none';

CREATE FUNCTION @extschema@.prompt_stats_remember(events regclass, stats regclass) RETURNS void
	AS 'MODULE_PATHNAME', 'prompt_stats_remember'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.prompt_stats_remember(regclass, regclass) IS
	'internal: use these tables from now on';

CREATE FUNCTION @extschema@.prompt_stats_check_owner() RETURNS void
	AS 'MODULE_PATHNAME', 'prompt_stats_check_owner'
	LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.prompt_stats_check_owner() IS
	'internal: an error unless the caller owns the tables';

CREATE FUNCTION @extschema@.prompt_stats_check_adoptable(tab regclass, ours name[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	col record;
	rel record;
BEGIN
	/* Columns that we don't write need a default */
	SELECT a.attname, a.atttypid::regtype AS type INTO col
	FROM pg_attribute a
	WHERE a.attrelid = tab AND a.attnum > 0 AND NOT a.attisdropped
	AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
	AND a.attname <> ALL (ours)
	ORDER BY a.attnum LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'not_null_violation',
			MESSAGE = format('column "%s" of table %s is NOT NULL and has no default', col.attname, tab),
			DETAIL = 'The extension inserts rows without it.',
			HINT = format('Give it one, with ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s;', tab, col.attname,
						  CASE WHEN col.type = 'uuid'::regtype THEN 'gen_random_uuid()'
						  WHEN col.type IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype) THEN 'now()'
						  ELSE '''...''' END);
	END IF;

	SELECT c.relowner, c.relowner::regrole AS owner INTO rel
	FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
	WHERE c.oid = tab AND c.relrowsecurity AND c.relforcerowsecurity
	AND NOT r.rolsuper AND NOT r.rolbypassrls;
	IF FOUND AND NOT @extschema@.prompt_stats_policies_admit(tab, rel.relowner) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = format('FORCE ROW LEVEL SECURITY on table %s stops its owner %s', tab, rel.owner),
			DETAIL = 'Rows are counted as the owner of the table.',
			HINT = format('Exempt the owner, with ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;', tab);
	END IF;
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_check_adoptable(regclass, name[]) IS
	'internal: an error where rows of the table can''t be written';

CREATE FUNCTION @extschema@.prompt_stats_policies_admit(tab regclass, role oid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	/* Each command needs a permissive policy that admits every row, and no restrictive one */
	SELECT bool_and(EXISTS (
			SELECT FROM pg_policy p
			WHERE p.polrelid = tab AND p.polpermissive AND p.polcmd IN ('*', cmd)
			AND (0 = ANY (p.polroles) OR EXISTS (
				SELECT FROM unnest(p.polroles) r WHERE r <> 0 AND pg_has_role(role, r, 'USAGE')))
			AND COALESCE(pg_get_expr(p.polqual, tab), 'true') = 'true'
			AND COALESCE(pg_get_expr(p.polwithcheck, tab), 'true') = 'true'))
		AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = tab AND NOT p.polpermissive)
	FROM unnest(ARRAY['r', 'a', 'w', 'd']::"char"[]) cmd
$$;
COMMENT ON FUNCTION @extschema@.prompt_stats_policies_admit(regclass, oid) IS
	'internal: do the policies of a table let a role do everything?';

/* ---- creating ---- */

CREATE FUNCTION @extschema@.prompt_stats_key_type(tab regclass) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format_type(a.atttypid, a.atttypmod)
	FROM pg_index i
	JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
	WHERE i.indrelid = tab AND i.indisprimary AND i.indnkeyatts = 1
$$;
COMMENT ON FUNCTION @extschema@.prompt_stats_key_type(regclass) IS
	'internal: the type of a table''s primary key, if that is one column';

/* A table that was created in the install script belongs to the application */
CREATE FUNCTION @extschema@.prompt_stats_disown(tab regclass, prompts regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	owner regrole := (SELECT c.relowner FROM pg_class c WHERE c.oid = prompts);
BEGIN
	IF EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
			   AND d.objid = tab AND d.deptype = 'e') THEN
		EXECUTE format('ALTER EXTENSION prompt_stats DROP TABLE %s', tab);
	END IF;
	IF owner <> (SELECT c.relowner FROM pg_class c WHERE c.oid = tab) THEN
		EXECUTE format('ALTER TABLE %s OWNER TO %s', tab, owner);
	END IF;
	RAISE NOTICE 'created table %', tab;
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_disown(regclass, regclass) IS
	'internal: give a new table to the application';

CREATE FUNCTION @extschema@.prompt_stats_create_events(home regnamespace, id_type text, user_type text, prompts regclass)
RETURNS regclass
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tab text := format('%s.prompt_events', home);
BEGIN
	EXECUTE format($sql$
		CREATE TABLE %s (
			id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
			prompt_id %s NOT NULL %s,
			user_id %s,
			event_type text NOT NULL,
			created_at timestamptz NOT NULL DEFAULT now(),
			CONSTRAINT prompt_events_event_type_check
				CHECK (event_type IS NOT NULL AND event_type IN ('fork', 'compare_add'))
		)$sql$, tab, id_type,
		CASE WHEN prompts IS NOT NULL THEN format('REFERENCES %s ON DELETE CASCADE', prompts) END,
		user_type);
	EXECUTE format('CREATE INDEX ON %s (prompt_id)', tab);
	PERFORM @extschema@.prompt_stats_disown(tab::regclass, prompts);
	RETURN tab::regclass;
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_create_events(regnamespace, text, text, regclass) IS
	'internal: create prompt_events';

CREATE FUNCTION @extschema@.prompt_stats_create_stats(home regnamespace, id_type text, prompts regclass)
RETURNS regclass
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tab text := format('%s.prompt_stats', home);
BEGIN
	/* Room on each page for the next version of its rows: updates stay HOT */
	EXECUTE format($sql$
		CREATE TABLE %s (
			prompt_id %s PRIMARY KEY %s,
			view_count bigint NOT NULL DEFAULT 0,
			copy_count bigint NOT NULL DEFAULT 0,
			fork_count bigint NOT NULL DEFAULT 0,
			updated_at timestamptz
		) WITH (fillfactor = 70)$sql$, tab, id_type,
		CASE WHEN prompts IS NOT NULL THEN format('REFERENCES %s ON DELETE CASCADE', prompts) END);
	/* tables.c knows by this comment that updated_at is ours to set */
	EXECUTE format('COMMENT ON COLUMN %s.updated_at IS %L', tab,
				   'time of the last count, set by extension prompt_stats');
	PERFORM @extschema@.prompt_stats_disown(tab::regclass, prompts);
	RETURN tab::regclass;
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_create_stats(regnamespace, text, regclass) IS
	'internal: create prompt_stats';

CREATE FUNCTION @extschema@.prompt_stats_type_of(tab regclass, col name) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
	WHERE a.attrelid = tab AND a.attname = col AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION @extschema@.prompt_stats_type_of(regclass, name) IS
	'internal: the declared type of a column';

CREATE FUNCTION @extschema@.prompt_stats_find_home(tab regclass) RETURNS regnamespace
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	/* Beside a table that is given; else where the tables are, else where table prompts is */
	SELECT COALESCE(
		(SELECT c.relnamespace::regnamespace FROM pg_class c WHERE c.oid = tab),
		(SELECT c.relnamespace::regnamespace
		 FROM pg_class c
		 WHERE c.relname IN ('prompt_stats', 'prompt_events', 'prompts')
		 AND c.relnamespace IN ('@extschema@'::regnamespace, to_regnamespace('public'))
		 ORDER BY c.relname = 'prompts', c.relnamespace <> '@extschema@'::regnamespace
		 LIMIT 1),
		'@extschema@'::regnamespace)
$$;
COMMENT ON FUNCTION @extschema@.prompt_stats_find_home(regclass) IS
	'internal: the schema of the application''s tables';

CREATE FUNCTION @extschema@.prompt_stats_find_or_create(INOUT events regclass, INOUT stats regclass)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	home regnamespace := @extschema@.prompt_stats_find_home(COALESCE(stats, events));
	prompts regclass := to_regclass(format('%s.prompts', home));
	users regclass := to_regclass(format('%s.users', home));
	id_type text;
	user_type text;
BEGIN
	events := COALESCE(events, to_regclass(format('%s.prompt_events', home)));
	stats := COALESCE(stats, to_regclass(format('%s.prompt_stats', home)));
	IF events IS NOT NULL AND stats IS NOT NULL THEN
		RETURN;
	END IF;

	IF prompts IS NOT NULL AND @extschema@.prompt_stats_key_type(prompts) IS NULL THEN
		RAISE EXCEPTION USING
			ERRCODE = 'undefined_object',
			MESSAGE = format('table %s has no primary key of one column', prompts),
			DETAIL = 'The tables to be created would hold its ids.',
			HINT = format('Add one, with ALTER TABLE %s ADD PRIMARY KEY (id); or create the tables'
				' prompt_events and prompt_stats yourself.', prompts);
	END IF;
	IF split_part(@extschema@.prompt_stats_key_type(prompts), '(', 1)
	NOT IN ('uuid', 'bigint', 'integer', 'text', 'character varying') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'datatype_mismatch',
			MESSAGE = format('the key of table %s is of type %s, not uuid, bigint, integer, text or varchar',
							 prompts, @extschema@.prompt_stats_key_type(prompts)),
			HINT = 'Create the tables prompt_events and prompt_stats yourself, with ids of one of these types.';
	END IF;
	id_type := COALESCE(@extschema@.prompt_stats_type_of(COALESCE(stats, events), 'prompt_id'),
						@extschema@.prompt_stats_key_type(prompts), 'uuid');
	IF stats IS NULL THEN
		stats := @extschema@.prompt_stats_create_stats(home, id_type, prompts);
	END IF;
	IF events IS NULL THEN
		user_type := COALESCE(@extschema@.prompt_stats_key_type(users), id_type);
		events := @extschema@.prompt_stats_create_events(home, id_type, user_type, prompts);
	END IF;
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_find_or_create(regclass, regclass) IS
	'internal: the two tables, created where they are missing';

/* ---- the check constraint ---- */

CREATE FUNCTION @extschema@.prompt_stats_is_clean(events regclass) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	clean boolean;
BEGIN
	EXECUTE format('SELECT NOT EXISTS (SELECT FROM ONLY %s'
		' WHERE event_type IS NULL OR event_type NOT IN (''fork'', ''compare_add''))', events) INTO clean;
	RETURN clean;
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_is_clean(regclass) IS
	'internal: are there none but the two kinds of event?';

/*
 * The checks on event_type alone.  Ours is known by its text, casts aside: nothing
 * that users wrote is evaluated.  Every other one is superfluous beside ours, or
 * forbids what ours admits.
 */
CREATE FUNCTION @extschema@.prompt_stats_checks(events regclass)
RETURNS TABLE (name name, valid boolean, is_ours boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.conname, c.convalidated,
		regexp_replace(pg_get_expr(c.conbin, c.conrelid),
					   '::(text|character varying(\(\d+\))?)(\[\])?|[() ]', '', 'g')
		= 'event_typeISNOTNULLANDevent_type=ANYARRAY[''fork'',''compare_add'']'
	FROM pg_constraint c
	JOIN pg_attribute a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
	WHERE c.conrelid = events AND c.contype = 'c' AND a.attname = 'event_type'
	ORDER BY c.oid
$$;
COMMENT ON FUNCTION @extschema@.prompt_stats_checks(regclass) IS
	'internal: the checks on event_type';

/* Returns whether there are none but the two kinds, looked at before any lock is taken */
CREATE FUNCTION @extschema@.prompt_stats_guard_events(events regclass) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '3s'
AS $$
DECLARE
	clean boolean := @extschema@.prompt_stats_is_clean(events);
	old name[];
	new_name name;
BEGIN
	SELECT array_agg(c.name) INTO old
	FROM @extschema@.prompt_stats_checks(events) c WHERE NOT c.is_ours;
	IF old IS NULL AND EXISTS (SELECT FROM @extschema@.prompt_stats_checks(events) c WHERE c.is_ours) THEN
		RETURN clean;
	END IF;

	/* Validating scans the table under an exclusive lock: only where that is quick */
	new_name := COALESCE(old[1], (
		SELECT n::name
		FROM unnest(ARRAY['prompt_events_event_type_check', 'prompt_stats_event_type_check']) WITH ORDINALITY u(n, o)
		WHERE NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = events AND c.conname = n)
		ORDER BY o LIMIT 1));
	EXECUTE format('ALTER TABLE %s %s ADD CONSTRAINT %I CHECK (event_type IS NOT NULL'
		' AND event_type IN (''fork'', ''compare_add'')) %s', events,
		(SELECT string_agg(format('DROP CONSTRAINT %I, ', o), '') FROM unnest(old) o),
		new_name,
		CASE WHEN NOT clean OR pg_relation_size(events) > 64 * 1024 * 1024 THEN 'NOT VALID' END);
	RAISE NOTICE 'check % of table % now admits only fork and compare_add', quote_ident(new_name), events;
	RETURN clean;
EXCEPTION
	WHEN lock_not_available THEN
		RAISE EXCEPTION USING
			ERRCODE = 'lock_not_available',
			MESSAGE = format('could not lock table %s to change its check', events),
			DETAIL = 'Another transaction has used the table for longer than 3 seconds.',
			HINT = 'Try again when it has ended.';
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_guard_events(regclass) IS
	'internal: make the check on event_type admit only fork and compare_add';

/* ---- setting up ---- */

CREATE FUNCTION @extschema@.prompt_stats_setup(events regclass DEFAULT NULL, stats regclass DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '3s'
AS $$
DECLARE
	tabs record;
	usual boolean;
	clean boolean;
BEGIN
	SELECT * INTO tabs FROM @extschema@.prompt_stats_find_or_create(events, stats);
	usual := tabs.events IS NOT DISTINCT FROM to_regclass('@extschema@.prompt_events')
		AND tabs.stats IS NOT DISTINCT FROM to_regclass('@extschema@.prompt_stats');
	PERFORM @extschema@.prompt_stats_remember(CASE WHEN NOT usual THEN tabs.events END,
											  CASE WHEN NOT usual THEN tabs.stats END);

	/* Reads the shape of both: an error where they can't be used */
	PERFORM @extschema@.prompt_stats_check_owner();
	PERFORM @extschema@.prompt_stats_check_adoptable(tabs.stats,
		'{prompt_id, view_count, copy_count, fork_count}');
	PERFORM @extschema@.prompt_stats_check_adoptable(tabs.events,
		'{prompt_id, user_id, event_type, created_at}');
	clean := @extschema@.prompt_stats_guard_events(tabs.events);

	RAISE NOTICE 'counting into table %, events in table %', tabs.stats, tabs.events;
	IF NOT clean THEN
		RAISE NOTICE 'table % holds rows of other kinds than fork and compare_add', tabs.events
			USING HINT = 'Move views and copies into the counters with CALL @extschema@.prompt_stats_migrate();';
	END IF;
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_setup(regclass, regclass) IS
	'create prompt_events and prompt_stats, or adopt those that are there';

CREATE FUNCTION @extschema@.prompt_stats_reroute() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NEW.event_type = 'view' THEN
		PERFORM @extschema@.increment_prompt_views(NEW.prompt_id);
	ELSE
		PERFORM @extschema@.increment_prompt_copies(NEW.prompt_id);
	END IF;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_reroute() IS
	'trigger function: counts a legacy view or copy instead of inserting its row';

CREATE FUNCTION @extschema@.prompt_stats_enable_compat() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '3s'
AS $$
DECLARE
	tab regclass := (@extschema@.prompt_stats_tables()).events;
BEGIN
	PERFORM @extschema@.prompt_stats_check_owner();
	EXECUTE format('CREATE OR REPLACE TRIGGER prompt_stats_reroute BEFORE INSERT ON %s FOR EACH ROW'
		' WHEN (NEW.event_type = ''view'' OR NEW.event_type = ''copy'') EXECUTE FUNCTION @extschema@.prompt_stats_reroute()', tab);
	RAISE NOTICE 'inserting a view or copy into table % now counts it', tab
		USING HINT = 'When every application calls the functions, SELECT @extschema@.prompt_stats_teardown();';
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_enable_compat() IS
	'for a rolling deployment: a legacy INSERT of a view or copy counts it, and inserts no row';

CREATE FUNCTION @extschema@.prompt_stats_teardown() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '3s'
AS $$
BEGIN
	PERFORM @extschema@.prompt_stats_check_owner();
	EXECUTE format('DROP TRIGGER IF EXISTS prompt_stats_reroute ON %s', (@extschema@.prompt_stats_tables()).events);
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_teardown() IS
	'drop the trigger of prompt_stats_enable_compat(), and nothing else';

-- ---------------------------------------------------------------------------
-- Migrating
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.prompt_stats_migrate_batch(n integer DEFAULT 500000,
		mode text DEFAULT 'add', unmovable text DEFAULT 'keep')
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'prompt_stats_migrate_batch'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.prompt_stats_migrate_batch(integer, text, text) IS
	'move at most n view and copy rows into the counters, in this transaction; returns how many rows left: 0 at the end';

CREATE FUNCTION @extschema@.prompt_stats_check_arguments(n integer, mode text, unmovable text) RETURNS void
	AS 'MODULE_PATHNAME', 'prompt_stats_check_arguments'
	LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.prompt_stats_check_arguments(integer, text, text) IS
	'internal: an error unless prompt_stats_migrate_batch() takes these arguments';

CREATE FUNCTION @extschema@.prompt_stats_end_run() RETURNS void
	AS 'MODULE_PATHNAME', 'prompt_stats_end_run'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.prompt_stats_end_run() IS
	'internal: the run of the migration has ended';

CREATE FUNCTION @extschema@.prompt_stats_recount_forks(lower boolean DEFAULT false, n integer DEFAULT NULL)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'prompt_stats_recount_forks'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.prompt_stats_recount_forks(boolean, integer) IS
	'raise fork_count of at most n prompts to the number of fork events, or with lower => true make them equal; returns of how many';

CREATE FUNCTION @extschema@.prompt_stats_missing_prompts(kinds text[] DEFAULT '{view,copy}') RETURNS SETOF text
	AS 'MODULE_PATHNAME', 'prompt_stats_missing_prompts'
	LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.prompt_stats_missing_prompts(text[]) IS
	'the prompts of events of these kinds that can''t be counted because they don''t exist';

CREATE FUNCTION @extschema@.prompt_stats_check_top_level() RETURNS void
	AS 'MODULE_PATHNAME', 'prompt_stats_check_top_level'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.prompt_stats_check_top_level() IS
	'internal: an error in a transaction block, where nothing can be committed';

CREATE FUNCTION @extschema@.prompt_stats_migrate_report()
RETURNS TABLE (item text, amount bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t record;
BEGIN
	PERFORM @extschema@.prompt_stats_check_owner();
	SELECT * INTO t FROM @extschema@.prompt_stats_tables();
	RETURN QUERY EXECUTE format($sql$
		WITH missing AS MATERIALIZED (
			SELECT m FROM @extschema@.prompt_stats_missing_prompts() m
		), e AS (
			SELECT e.event_type, e.prompt_id,
				e.event_type IN ('view', 'copy') AND e.prompt_id IS NOT NULL AS named,
				count(*) AS rows
			FROM ONLY %1$s e GROUP BY 1, 2, 3
		), f AS (
			SELECT e.*, e.named AND e.prompt_id::text NOT IN (SELECT m FROM missing) AS movable FROM e
		)
		SELECT v.item, v.amount::bigint FROM (
			SELECT
				COALESCE(sum(f.rows) FILTER (WHERE f.movable AND f.event_type = 'view'), 0),
				COALESCE(sum(f.rows) FILTER (WHERE f.movable AND f.event_type = 'copy'), 0),
				count(DISTINCT f.prompt_id) FILTER (WHERE f.movable),
				COALESCE(sum(f.rows) FILTER (WHERE f.event_type IS NULL), 0),
				COALESCE(sum(f.rows) FILTER (WHERE f.event_type NOT IN ('view', 'copy', 'fork', 'compare_add')), 0),
				COALESCE(sum(f.rows) FILTER (WHERE f.event_type IN ('view', 'copy') AND f.prompt_id IS NULL), 0),
				COALESCE(sum(f.rows) FILTER (WHERE f.named AND NOT f.movable), 0)
			FROM f
		) AS c(views, copies, prompts, no_kind, other_kind, no_prompt_id, no_prompt),
		LATERAL (VALUES
			(1, 'views to move', c.views),
			(2, 'copies to move', c.copies),
			(3, 'prompts they belong to', c.prompts),
			(4, 'prompts whose counters hold something already',
				(SELECT count(*) FROM ONLY %2$s s WHERE s.view_count <> 0 OR s.copy_count <> 0)),
			(5, 'rows that can''t move: without event_type', c.no_kind),
			(6, 'rows that can''t move: of another event_type', c.other_kind),
			(7, 'rows that can''t move: without prompt_id', c.no_prompt_id),
			(8, 'rows that can''t move: of prompts that don''t exist', c.no_prompt)
		) AS v(o, item, amount) ORDER BY v.o$sql$, t.events, t.stats);
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_migrate_report() IS
	'what prompt_stats_migrate() would do now, and what it could not do';

CREATE FUNCTION @extschema@.prompt_stats_migrate_begin(batch_size integer, mode text, unmovable text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t record;
	views bigint;
	copies bigint;
BEGIN
	PERFORM @extschema@.prompt_stats_check_arguments(batch_size, mode, unmovable);
	PERFORM @extschema@.prompt_stats_check_owner();
	SELECT * INTO t FROM @extschema@.prompt_stats_tables();
	IF mode = 'add'
	AND NOT EXISTS (SELECT FROM @extschema@.prompt_stats_migration_progress p WHERE p.phase = 'moving') THEN
		EXECUTE format('SELECT COALESCE(sum(view_count), 0), COALESCE(sum(copy_count), 0) FROM ONLY %s', t.stats)
		INTO views, copies;
	END IF;
	IF NOT @extschema@.prompt_stats_guard_events(t.events) AND (views <> 0 OR copies <> 0) THEN
		RAISE NOTICE 'the counters hold % views and % copies already; what is moved is added to them', views, copies
			USING HINT = 'If they count the same rows, use mode => ''discard'' instead.';
	END IF;
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_migrate_begin(integer, text, text) IS
	'internal: the first step of prompt_stats_migrate()';

/*
 * A batch that meets a prompt which is being deleted at that moment can fail on
 * its foreign key, or in a deadlock with the cascade.  Nothing is lost: again.
 */
CREATE FUNCTION @extschema@.prompt_stats_migrate_step(n integer, mode text, unmovable text) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	FOR attempt IN 1 .. 10 LOOP
		BEGIN
			RETURN @extschema@.prompt_stats_migrate_batch(n, mode, unmovable) > 0;
		EXCEPTION
			WHEN deadlock_detected OR foreign_key_violation THEN
				IF attempt = 10 THEN
					RAISE;
				END IF;
		END;
	END LOOP;
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_migrate_step(integer, text, text) IS
	'internal: one batch of prompt_stats_migrate(); false at the end';

CREATE FUNCTION @extschema@.prompt_stats_recount_step(n integer) RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT @extschema@.prompt_stats_recount_forks(false, n) >= n $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_recount_step(integer) IS
	'internal: raise some fork counts; false at the end';

CREATE FUNCTION @extschema@.prompt_stats_validate(events regclass) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '3s'
AS $$
DECLARE
	con name;
BEGIN
	FOR con IN SELECT c.name FROM @extschema@.prompt_stats_checks(events) c WHERE c.is_ours AND NOT c.valid LOOP
		EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT %I', events, con);
		RAISE NOTICE 'check % of table % is valid', quote_ident(con), events;
	END LOOP;
	RETURN EXISTS (SELECT FROM @extschema@.prompt_stats_checks(events) c WHERE c.is_ours AND c.valid);
EXCEPTION
	WHEN check_violation THEN
		RETURN false;
	WHEN lock_not_available THEN
		RAISE EXCEPTION USING
			ERRCODE = 'lock_not_available',
			MESSAGE = format('could not lock table %s to validate its check', events),
			DETAIL = 'Every row has been moved; only the validation is missing.',
			HINT = 'CALL @extschema@.prompt_stats_migrate(); again when the table is not being altered or vacuumed.';
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_validate(regclass) IS
	'internal: validate the check on event_type; false where rows violate it';

CREATE FUNCTION @extschema@.prompt_stats_migrate_finish() RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tab regclass := (@extschema@.prompt_stats_tables()).events;
	left_over bigint;
	reasons text;
BEGIN
	PERFORM @extschema@.prompt_stats_check_owner();
	IF @extschema@.prompt_stats_validate(tab) THEN
		PERFORM @extschema@.prompt_stats_end_run();
		RETURN true;
	END IF;

	IF EXISTS (SELECT FROM @extschema@.prompt_stats_migrate_report() r
			   WHERE r.item IN ('views to move', 'copies to move') AND r.amount > 0) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'object_not_in_prerequisite_state',
			MESSAGE = format('table %s still has view and copy rows to move', tab),
			HINT = 'Call SELECT @extschema@.prompt_stats_migrate_batch(); until it returns 0.';
	END IF;
	SELECT sum(r.amount), string_agg(format('%s %s', r.amount, substr(r.item, length('rows that can''t move: ') + 1)), ', ')
	INTO left_over, reasons
	FROM @extschema@.prompt_stats_migrate_report() r
	WHERE r.item LIKE 'rows that can''t move: %' AND r.amount > 0;
	PERFORM @extschema@.prompt_stats_end_run();
	RAISE WARNING '% rows of table % could not be moved', left_over, tab
		USING DETAIL = format('They are %s.', reasons),
			HINT = format('Mend them, or delete them with DELETE FROM %s WHERE event_type IS NULL'
				' OR event_type NOT IN (''fork'', ''compare_add''); then CALL @extschema@.prompt_stats_migrate(); again.', tab);
	RETURN false;
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_migrate_finish() IS
	'after the last batch: validate the check; false, with a warning, where rows that can''t move forbid it';

/*
 * Commits as it goes, so it can have no SET clause, and names everything in full.
 */
CREATE PROCEDURE @extschema@.prompt_stats_migrate(batch_size integer DEFAULT 500000,
		mode text DEFAULT 'add', unmovable text DEFAULT 'keep', dry_run boolean DEFAULT false)
LANGUAGE plpgsql
AS $$
DECLARE
	line record;
BEGIN
	IF dry_run THEN
		FOR line IN SELECT r.item, r.amount FROM @extschema@.prompt_stats_migrate_report() r LOOP
			RAISE NOTICE '%: %', line.item, line.amount;
		END LOOP;
		RETURN;
	END IF;

	PERFORM @extschema@.prompt_stats_check_top_level();
	PERFORM @extschema@.prompt_stats_migrate_begin(batch_size, mode, unmovable);
	COMMIT;
	WHILE @extschema@.prompt_stats_migrate_step(batch_size, mode, unmovable) LOOP
		COMMIT;
	END LOOP;
	COMMIT;
	/* Each step reads all events again, so few steps */
	WHILE @extschema@.prompt_stats_recount_step(200000) LOOP
		COMMIT;
	END LOOP;
	COMMIT;
	PERFORM @extschema@.prompt_stats_migrate_finish();
END $$;
COMMENT ON PROCEDURE @extschema@.prompt_stats_migrate(integer, text, text, boolean) IS
	'move every view and copy row into the counters, in batches; can be interrupted and called again at any time';

-- ---------------------------------------------------------------------------
-- Verifying
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.prompt_stats_verify()
RETURNS TABLE (check_name text, ok boolean, detail text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t record;
	n bigint;
BEGIN
	check_name := 'tables';
	BEGIN
		SELECT * INTO t FROM @extschema@.prompt_stats_tables();
		ok := t.events IS NOT NULL AND t.stats IS NOT NULL;
		detail := CASE WHEN ok THEN format('events in %s, counters in %s', t.events, t.stats)
			ELSE 'a table is missing: SELECT @extschema@.prompt_stats_setup();' END;
	EXCEPTION
		WHEN undefined_column OR wrong_object_type OR datatype_mismatch OR invalid_column_reference
		OR generated_always THEN
			ok := false;
			detail := SQLERRM;
	END;
	RETURN NEXT;
	IF NOT ok THEN
		RETURN;
	END IF;
	PERFORM @extschema@.prompt_stats_check_owner();

	check_name := 'event kinds';
	EXECUTE format('SELECT count(*) FROM ONLY %s'
		' WHERE event_type IS NULL OR event_type NOT IN (''fork'', ''compare_add'')', t.events) INTO n;
	ok := n = 0;
	detail := format('%s rows are neither fork nor compare_add', n);
	RETURN NEXT;

	check_name := 'check constraint';
	SELECT format('check %I is %s', c.name, CASE WHEN c.valid THEN 'valid' ELSE 'not valid yet' END), c.valid
	INTO detail, ok
	FROM @extschema@.prompt_stats_checks(t.events) c WHERE c.is_ours ORDER BY c.valid DESC LIMIT 1;
	IF NOT FOUND THEN
		ok := false;
		detail := format('no check keeps table %s to fork and compare_add', t.events);
	END IF;
	RETURN NEXT;

	check_name := 'one row per prompt';
	EXECUTE format('SELECT count(*) FROM (SELECT FROM ONLY %s GROUP BY prompt_id HAVING count(*) > 1) d', t.stats) INTO n;
	ok := n = 0;
	detail := format('%s prompts have several rows', n);
	RETURN NEXT;

	check_name := 'no negative counter';
	EXECUTE format('SELECT count(*) FROM ONLY %s'
		' WHERE view_count < 0 OR copy_count < 0 OR fork_count < 0', t.stats) INTO n;
	ok := n = 0;
	detail := format('%s rows have a negative counter', n);
	RETURN NEXT;

	check_name := 'fork counts';
	EXECUTE format('SELECT count(*) FROM (SELECT prompt_id, count(*) AS forks FROM ONLY %s'
		' WHERE event_type = ''fork'' AND prompt_id IS NOT NULL GROUP BY 1) e'
		' LEFT JOIN ONLY %s s ON s.prompt_id = e.prompt_id WHERE e.forks > COALESCE(s.fork_count, 0)'
		' AND e.prompt_id::text NOT IN (SELECT @extschema@.prompt_stats_missing_prompts(''{fork}''))',
		t.events, t.stats) INTO n;
	ok := n = 0;
	detail := format('%s prompts have more fork events than fork_count says', n);
	RETURN NEXT;

	/* Both are as good as zero */
	check_name := 'null counters';
	EXECUTE format('SELECT count(*) FROM ONLY %s'
		' WHERE view_count IS NULL OR copy_count IS NULL OR fork_count IS NULL', t.stats) INTO n;
	ok := true;
	detail := format('%s rows have a counter that is null, and counts from 0', n);
	RETURN NEXT;

	check_name := 'missing rows';
	ok := true;
	IF t.prompts IS NULL THEN
		detail := format('table %s references no table of prompts', t.stats);
	ELSIF NOT has_table_privilege(t.prompts, 'SELECT') THEN
		detail := format('not told: no right to read table %s', t.prompts);
	ELSE
		EXECUTE format('SELECT count(*) FROM %s p WHERE NOT EXISTS (SELECT FROM ONLY %s s WHERE s.prompt_id = p.%I)',
			t.prompts, t.stats, (SELECT a.attname FROM pg_constraint c
								 JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = c.confkey[1]
								 WHERE c.conrelid = t.stats AND c.confrelid = t.prompts AND c.contype = 'f'
								 ORDER BY c.oid LIMIT 1)) INTO n;
		detail := format('%s prompts have no row yet, and count from 0', n);
	END IF;
	RETURN NEXT;
END $$;
COMMENT ON FUNCTION @extschema@.prompt_stats_verify() IS
	'whether the tables are as they should be, check by check';

-- ---------------------------------------------------------------------------
-- The tables: created, or adopted.  Not in a restore, which brings its own: there
-- row_security is off (pg_backup_archiver.c), or pg_restore has given its name.
-- ---------------------------------------------------------------------------

DO $$
BEGIN
	IF pg_catalog.current_setting('row_security') OPERATOR(pg_catalog.<>) 'off'
	AND pg_catalog.current_setting('application_name') OPERATOR(pg_catalog.<>) 'pg_restore'
	AND NOT pg_catalog.current_setting('prompt_stats.skip_setup')::boolean THEN
		/* CREATE EXTENSION silences NOTICE (extension.c); say what is done all the same */
		PERFORM pg_catalog.set_config('client_min_messages', s.reset_val, true)
		FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'client_min_messages';
		PERFORM @extschema@.prompt_stats_setup();
	END IF;
END $$;
