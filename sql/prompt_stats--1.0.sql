/* sql/prompt_stats--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION prompt_stats" to load this file. \quit

/*
 * Rules of this file, because whoever may create in the schema can make a function, an
 * operator or a type beforehand: each name of ours and of the server's is qualified, each
 * argument has its type, and each operator is pg_catalog's.  Functions that run as SQL call
 * nothing outside pg_catalog and prompt_stats_internal.
 */

/*
 * Whatever has one of our names already is not ours: the application's own, most likely,
 * which these functions replace; or somebody's trap.
 */
DO $$
DECLARE
	drops pg_catalog.text;
BEGIN
	SELECT pg_catalog.string_agg(x.drop, E'\n' ORDER BY x.drop)
	INTO drops
	FROM (
		SELECT pg_catalog.format('DROP %s %I.%I(%s);',
				CASE WHEN p.prokind OPERATOR(pg_catalog.=) 'p'::pg_catalog."char" THEN 'PROCEDURE'
				WHEN p.prokind OPERATOR(pg_catalog.=) 'a'::pg_catalog."char" THEN 'AGGREGATE' ELSE 'FUNCTION' END,
				n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid))
		FROM pg_catalog.pg_proc p
		JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
		WHERE n.nspname OPERATOR(pg_catalog.=) pg_catalog.current_schema()
		AND p.proname OPERATOR(pg_catalog.=) ANY (ARRAY[
			'increment_prompt_views', 'increment_prompt_copies', 'increment_fork_count', 'track_prompt_fork',
			'track_compare_add', 'get_prompt_stats', 'prompt_stats_setup', 'prompt_stats_teardown',
			'prompt_stats_enable_compat', 'prompt_stats_migrate', 'prompt_stats_migrate_batch', 'prompt_stats_migrate_finish',
			'prompt_stats_recount_forks', 'prompt_stats_verify', 'prompt_stats_tables', 'prompt_stats_flush',
			'prompt_stats_preflight', 'prompt_stats_allow', 'prompt_stats_deny', 'prompt_stats_reset',
			'prompt_stats_correct']::pg_catalog.name[])
		UNION ALL
		SELECT pg_catalog.format('DROP %s %I.%I;',
				CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'v'::pg_catalog."char" THEN 'VIEW'
				WHEN c.relkind OPERATOR(pg_catalog.=) 'm'::pg_catalog."char" THEN 'MATERIALIZED VIEW'
				WHEN c.relkind OPERATOR(pg_catalog.=) 'f'::pg_catalog."char" THEN 'FOREIGN TABLE'
				WHEN c.relkind OPERATOR(pg_catalog.=) 'S'::pg_catalog."char" THEN 'SEQUENCE'
				WHEN c.relkind OPERATOR(pg_catalog.=) 'i'::pg_catalog."char" THEN 'INDEX'
				WHEN c.relkind OPERATOR(pg_catalog.=) 'c'::pg_catalog."char" THEN 'TYPE' ELSE 'TABLE' END,
				n.nspname, c.relname)
		FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
		WHERE n.nspname OPERATOR(pg_catalog.=) pg_catalog.current_schema()
		AND c.relname OPERATOR(pg_catalog.=) ANY (ARRAY[
			'prompt_stats_live', 'prompt_stats_status', 'prompt_stats_migration_progress']::pg_catalog.name[])
		UNION ALL
		SELECT pg_catalog.format('DROP TYPE %I.%I;', n.nspname, t.typname)
		FROM pg_catalog.pg_type t
		JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace
		WHERE n.nspname OPERATOR(pg_catalog.=) pg_catalog.current_schema()
		AND t.typrelid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
		AND t.typname OPERATOR(pg_catalog.=) ANY (ARRAY[
			'prompt_stats_live', 'prompt_stats_status', 'prompt_stats_migration_progress']::pg_catalog.name[])
		UNION ALL
		SELECT pg_catalog.format('DROP SCHEMA %I CASCADE;', n.nspname)
		FROM pg_catalog.pg_namespace n
		WHERE n.nspname OPERATOR(pg_catalog.=) 'prompt_stats_internal'::pg_catalog.name
	) AS x(drop);

	IF drops IS NOT NULL THEN
		RAISE EXCEPTION USING
			ERRCODE = 'duplicate_object',
			MESSAGE = 'objects that extension prompt_stats would create exist already',
			DETAIL = 'They are not the extension''s own, which would replace them.',
			HINT = pg_catalog.concat(E'Drop them, then create the extension again:\n'::pg_catalog.text, drops);
	END IF;
END $$;

-- ---------------------------------------------------------------------------
-- What the extension keeps for itself: no ids, and no counts.  Nobody but its owner may
-- create here.
-- ---------------------------------------------------------------------------

CREATE SCHEMA prompt_stats_internal;
COMMENT ON SCHEMA prompt_stats_internal IS 'what extension prompt_stats keeps for itself';

/*
 * Which tables count, since prompt_stats_setup() chose them; one row or none.  By OID, for
 * they may be moved, and by the place that they had, for they may be replaced.
 *
 * A dump brings the row, and whoever restores inserts it: src/choice.c says what it goes
 * through.
 */
CREATE FUNCTION prompt_stats_internal.normalise_choice() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'prompt_stats_normalise_choice';

CREATE FUNCTION prompt_stats_internal.admit_choice(events regclass, stats regclass, events_schema name, events_name name,
		stats_schema name, stats_name name, migration text) RETURNS boolean
	LANGUAGE C AS 'MODULE_PATHNAME', 'prompt_stats_admit_choice';

CREATE TABLE prompt_stats_internal.config (
	events regclass NOT NULL,
	stats regclass NOT NULL,
	events_schema name NOT NULL,
	events_name name NOT NULL,
	stats_schema name NOT NULL,
	stats_name name NOT NULL,
	/* 'due', or the mode of one that is under way; NULL where no legacy rows are left */
	migration text CHECK (migration OPERATOR(pg_catalog.=) ANY (ARRAY['due', 'add', 'keep']::pg_catalog.text[])),
	singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	CONSTRAINT config_is_admitted CHECK (prompt_stats_internal.admit_choice(events, stats, events_schema, events_name,
		stats_schema, stats_name, migration))
);

CREATE TRIGGER normalise BEFORE INSERT ON prompt_stats_internal.config
	FOR EACH ROW EXECUTE FUNCTION prompt_stats_internal.normalise_choice();
ALTER TABLE prompt_stats_internal.config ENABLE ALWAYS TRIGGER normalise;

/* The last run of the migration; one row or none.  It only saves time, and is in no dump. */
CREATE TABLE prompt_stats_internal.migration (
	mode text NOT NULL,
	position tid NOT NULL DEFAULT '(0,0)',
	blocks_done bigint NOT NULL DEFAULT 0,
	blocks_total bigint NOT NULL,
	rows_moved bigint NOT NULL DEFAULT 0,
	views_moved bigint NOT NULL DEFAULT 0,
	copies_moved bigint NOT NULL DEFAULT 0,
	started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	finished_at timestamptz,
	singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton)
);

/* The OIDs of tables that are gone would mean others in the new database */
SELECT pg_catalog.pg_extension_config_dump('prompt_stats_internal.config'::pg_catalog.regclass,
	'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) events)'
	' AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) stats)');

CREATE VIEW @extschema@.prompt_stats_migration_progress AS
	SELECT CASE WHEN m.finished_at IS NULL THEN 'moving'::pg_catalog.text ELSE 'finished'::pg_catalog.text END AS phase,
		m.mode, m.rows_moved, m.views_moved, m.copies_moved,
		CASE WHEN m.finished_at IS NOT NULL OR m.blocks_total OPERATOR(pg_catalog.=) 0::pg_catalog.int8
		THEN 100.0::pg_catalog.numeric
		ELSE pg_catalog.round(100.0::pg_catalog.numeric
			OPERATOR(pg_catalog.*) LEAST(m.blocks_done, m.blocks_total)::pg_catalog.numeric
			OPERATOR(pg_catalog./) m.blocks_total::pg_catalog.numeric, 1::pg_catalog.int4)
		END AS percent,
		m.started_at, m.updated_at, m.finished_at
	FROM prompt_stats_internal.migration m;
COMMENT ON VIEW @extschema@.prompt_stats_migration_progress IS
	'the last run of prompt_stats_migrate(): rows moved so far; percent is of the pages of prompt_events';

/*
 * The control file's comment stays in pg_available_extensions.  On the extension it would be
 * in each dump, and stop a restore by whoever owns the database and not the extension.
 */
COMMENT ON EXTENSION prompt_stats IS NULL;

-- ---------------------------------------------------------------------------
-- Counting
--
-- uuid, bigint and text forms, so that every way a driver sends an argument finds one: an
-- untyped argument is taken as text, and parsed.  The names of the arguments differ, so that
-- a call by name means one function only.  With and without n are functions of their own, so
-- that GRANT decides who may count more than one at once.
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.increment_prompt_views(prompt_id uuid) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_views';
CREATE FUNCTION @extschema@.increment_prompt_views(prompt_no bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_views';
CREATE FUNCTION @extschema@.increment_prompt_views(id text) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_views';
CREATE FUNCTION @extschema@.increment_prompt_views(prompt_ids uuid[]) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_views';
CREATE FUNCTION @extschema@.increment_prompt_views(prompt_nos bigint[]) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_views';
CREATE FUNCTION @extschema@.increment_prompt_views(ids text[]) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_views';
CREATE FUNCTION @extschema@.increment_prompt_views(prompt_id uuid, n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_views';
CREATE FUNCTION @extschema@.increment_prompt_views(prompt_no bigint, n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_views';
CREATE FUNCTION @extschema@.increment_prompt_views(id text, n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_views';
CREATE FUNCTION @extschema@.increment_prompt_views(prompt_ids uuid[], n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_views';
CREATE FUNCTION @extschema@.increment_prompt_views(prompt_nos bigint[], n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_views';
CREATE FUNCTION @extschema@.increment_prompt_views(ids text[], n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_views';

CREATE FUNCTION @extschema@.increment_prompt_copies(prompt_id uuid) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_copies';
CREATE FUNCTION @extschema@.increment_prompt_copies(prompt_no bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_copies';
CREATE FUNCTION @extschema@.increment_prompt_copies(id text) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_copies';
CREATE FUNCTION @extschema@.increment_prompt_copies(prompt_ids uuid[]) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_copies';
CREATE FUNCTION @extschema@.increment_prompt_copies(prompt_nos bigint[]) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_copies';
CREATE FUNCTION @extschema@.increment_prompt_copies(ids text[]) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_copies';
CREATE FUNCTION @extschema@.increment_prompt_copies(prompt_id uuid, n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_copies';
CREATE FUNCTION @extschema@.increment_prompt_copies(prompt_no bigint, n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_copies';
CREATE FUNCTION @extschema@.increment_prompt_copies(id text, n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_copies';
CREATE FUNCTION @extschema@.increment_prompt_copies(prompt_ids uuid[], n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_copies';
CREATE FUNCTION @extschema@.increment_prompt_copies(prompt_nos bigint[], n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_copies';
CREATE FUNCTION @extschema@.increment_prompt_copies(ids text[], n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_prompt_copies';

CREATE FUNCTION @extschema@.increment_fork_count(prompt_id uuid) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_fork_count';
CREATE FUNCTION @extschema@.increment_fork_count(prompt_no bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_fork_count';
CREATE FUNCTION @extschema@.increment_fork_count(id text) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_fork_count';
CREATE FUNCTION @extschema@.increment_fork_count(prompt_ids uuid[]) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_fork_count';
CREATE FUNCTION @extschema@.increment_fork_count(prompt_nos bigint[]) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_fork_count';
CREATE FUNCTION @extschema@.increment_fork_count(ids text[]) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_fork_count';
CREATE FUNCTION @extschema@.increment_fork_count(prompt_id uuid, n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_fork_count';
CREATE FUNCTION @extschema@.increment_fork_count(prompt_no bigint, n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_fork_count';
CREATE FUNCTION @extschema@.increment_fork_count(id text, n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_fork_count';
CREATE FUNCTION @extschema@.increment_fork_count(prompt_ids uuid[], n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_fork_count';
CREATE FUNCTION @extschema@.increment_fork_count(prompt_nos bigint[], n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_fork_count';
CREATE FUNCTION @extschema@.increment_fork_count(ids text[], n bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'increment_fork_count';

CREATE FUNCTION @extschema@.track_prompt_fork(prompt_id uuid, user_id uuid) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_prompt_fork';
CREATE FUNCTION @extschema@.track_prompt_fork(prompt_id uuid, user_no bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_prompt_fork';
CREATE FUNCTION @extschema@.track_prompt_fork(prompt_id uuid, user_key text) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_prompt_fork';
CREATE FUNCTION @extschema@.track_prompt_fork(prompt_no bigint, user_id uuid) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_prompt_fork';
CREATE FUNCTION @extschema@.track_prompt_fork(prompt_no bigint, user_no bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_prompt_fork';
CREATE FUNCTION @extschema@.track_prompt_fork(prompt_no bigint, user_key text) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_prompt_fork';
CREATE FUNCTION @extschema@.track_prompt_fork(id text, user_uuid uuid) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_prompt_fork';
CREATE FUNCTION @extschema@.track_prompt_fork(id text, user_no bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_prompt_fork';
CREATE FUNCTION @extschema@.track_prompt_fork(id text, user_id text) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_prompt_fork';

CREATE FUNCTION @extschema@.track_compare_add(prompt_id uuid, user_id uuid) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_compare_add';
CREATE FUNCTION @extschema@.track_compare_add(prompt_id uuid, user_no bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_compare_add';
CREATE FUNCTION @extschema@.track_compare_add(prompt_id uuid, user_key text) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_compare_add';
CREATE FUNCTION @extschema@.track_compare_add(prompt_no bigint, user_id uuid) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_compare_add';
CREATE FUNCTION @extschema@.track_compare_add(prompt_no bigint, user_no bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_compare_add';
CREATE FUNCTION @extschema@.track_compare_add(prompt_no bigint, user_key text) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_compare_add';
CREATE FUNCTION @extschema@.track_compare_add(id text, user_uuid uuid) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_compare_add';
CREATE FUNCTION @extschema@.track_compare_add(id text, user_no bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_compare_add';
CREATE FUNCTION @extschema@.track_compare_add(id text, user_id text) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'track_compare_add';

-- ---------------------------------------------------------------------------
-- Reading
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.get_prompt_stats(prompt_id uuid, OUT view_count bigint, OUT copy_count bigint,
		OUT fork_count bigint, OUT pending bigint, OUT as_of timestamptz)
	LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'get_prompt_stats';
CREATE FUNCTION @extschema@.get_prompt_stats(prompt_no bigint, OUT view_count bigint, OUT copy_count bigint,
		OUT fork_count bigint, OUT pending bigint, OUT as_of timestamptz)
	LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'get_prompt_stats';
CREATE FUNCTION @extschema@.get_prompt_stats(id text, OUT view_count bigint, OUT copy_count bigint,
		OUT fork_count bigint, OUT pending bigint, OUT as_of timestamptz)
	LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'get_prompt_stats';

CREATE FUNCTION prompt_stats_internal.live_rows(OUT prompt_id text, OUT view_count bigint, OUT copy_count bigint,
		OUT fork_count bigint, OUT pending bigint, OUT as_of timestamptz) RETURNS SETOF record
	LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'prompt_stats_live_rows';
CREATE VIEW @extschema@.prompt_stats_live AS
	SELECT r.prompt_id, r.view_count, r.copy_count, r.fork_count, r.pending, r.as_of
	FROM prompt_stats_internal.live_rows() r;
COMMENT ON VIEW @extschema@.prompt_stats_live IS
	'counts of all prompts that the reader may see; pending is how much of them is not in prompt_stats yet';

CREATE FUNCTION prompt_stats_internal.status_row(
		OUT accepted bigint, OUT flushed bigint, OUT pending bigint, OUT rejected bigint,
		OUT ledger_since timestamptz, OUT last_rejected_at timestamptz, OUT last_rejected text,
		OUT oldest_pending timestamptz, OUT own_folds bigint, OUT own_fold_reasons jsonb,
		OUT groups bigint, OUT grouped_transactions bigint, OUT largest_group bigint, OUT flushes bigint,
		OUT flusher text, OUT flusher_pid integer, OUT entries bigint, OUT max_entries bigint)
	LANGUAGE C VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'prompt_stats_status_row';
CREATE VIEW @extschema@.prompt_stats_status AS
	SELECT s.accepted, s.flushed, s.pending, s.rejected, s.ledger_since, s.last_rejected_at, s.last_rejected,
		pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) s.oldest_pending AS lag,
		s.own_folds, s.own_fold_reasons, s.groups, s.grouped_transactions, s.largest_group, s.flushes,
		s.flusher, s.flusher_pid, s.entries, s.max_entries
	FROM prompt_stats_internal.status_row() s;
COMMENT ON VIEW @extschema@.prompt_stats_status IS
	'what was handed over to the flusher in this database: accepted = flushed + pending + rejected, in counts';

CREATE FUNCTION @extschema@.prompt_stats_flush() RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'prompt_stats_flush';

-- ---------------------------------------------------------------------------
-- Administration, by the owner of the tables: each function checks that itself.  All are C,
-- because what names a table of the application is run as that table's owner (src/run.c).
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.prompt_stats_tables(OUT events regclass, OUT stats regclass, OUT prompts regclass)
	LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'prompt_stats_tables';

CREATE FUNCTION @extschema@.prompt_stats_setup(events regclass DEFAULT NULL, stats regclass DEFAULT NULL,
		touch boolean DEFAULT NULL) RETURNS void
	LANGUAGE C SET search_path = pg_catalog, pg_temp SET lock_timeout = '3s' AS 'MODULE_PATHNAME', 'prompt_stats_setup';

CREATE FUNCTION prompt_stats_internal.reroute() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'prompt_stats_reroute';

CREATE FUNCTION @extschema@.prompt_stats_enable_compat(accept text[] DEFAULT '{}') RETURNS void
	LANGUAGE C SET search_path = pg_catalog, pg_temp SET lock_timeout = '3s' AS 'MODULE_PATHNAME', 'prompt_stats_enable_compat';

CREATE FUNCTION @extschema@.prompt_stats_teardown() RETURNS void
	LANGUAGE C SET search_path = pg_catalog, pg_temp SET lock_timeout = '3s' AS 'MODULE_PATHNAME', 'prompt_stats_teardown';

/* Commits as it goes, so it can have no SET clause */
CREATE PROCEDURE @extschema@.prompt_stats_migrate(batch_size integer DEFAULT 500000, mode text DEFAULT 'add',
		unmovable text DEFAULT 'keep', dry_run boolean DEFAULT false, accept text[] DEFAULT '{}')
	LANGUAGE C AS 'MODULE_PATHNAME', 'prompt_stats_migrate';

CREATE FUNCTION @extschema@.prompt_stats_migrate_batch(n integer DEFAULT 500000, mode text DEFAULT 'add',
		unmovable text DEFAULT 'keep', accept text[] DEFAULT '{}') RETURNS bigint
	LANGUAGE C AS 'MODULE_PATHNAME', 'prompt_stats_migrate_batch';

CREATE FUNCTION @extschema@.prompt_stats_migrate_finish() RETURNS boolean
	LANGUAGE C SET search_path = pg_catalog, pg_temp SET lock_timeout = '3s' AS 'MODULE_PATHNAME', 'prompt_stats_migrate_finish';

CREATE FUNCTION @extschema@.prompt_stats_recount_forks(lower boolean DEFAULT false, n integer DEFAULT NULL) RETURNS bigint
	LANGUAGE C AS 'MODULE_PATHNAME', 'prompt_stats_recount_forks';

/* Of one prompt; the forms and names are those of the counting functions */
CREATE FUNCTION @extschema@.prompt_stats_reset(prompt_id uuid) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'prompt_stats_reset';
CREATE FUNCTION @extschema@.prompt_stats_reset(prompt_no bigint) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'prompt_stats_reset';
CREATE FUNCTION @extschema@.prompt_stats_reset(id text) RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'prompt_stats_reset';

CREATE FUNCTION @extschema@.prompt_stats_correct(prompt_id uuid, views bigint DEFAULT 0, copies bigint DEFAULT 0,
		forks bigint DEFAULT 0) RETURNS void
	LANGUAGE C AS 'MODULE_PATHNAME', 'prompt_stats_correct';
CREATE FUNCTION @extschema@.prompt_stats_correct(prompt_no bigint, views bigint DEFAULT 0, copies bigint DEFAULT 0,
		forks bigint DEFAULT 0) RETURNS void
	LANGUAGE C AS 'MODULE_PATHNAME', 'prompt_stats_correct';
CREATE FUNCTION @extschema@.prompt_stats_correct(id text, views bigint DEFAULT 0, copies bigint DEFAULT 0,
		forks bigint DEFAULT 0) RETURNS void
	LANGUAGE C AS 'MODULE_PATHNAME', 'prompt_stats_correct';

CREATE FUNCTION @extschema@.prompt_stats_verify() RETURNS TABLE (check_name text, ok boolean, detail text)
	LANGUAGE C SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'prompt_stats_verify';

CREATE FUNCTION @extschema@.prompt_stats_allow(role name) RETURNS void
	LANGUAGE C SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'prompt_stats_allow';

CREATE FUNCTION @extschema@.prompt_stats_deny(role name) RETURNS void
	LANGUAGE C SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'prompt_stats_deny';

CREATE FUNCTION @extschema@.prompt_stats_preflight(events regclass DEFAULT NULL, stats regclass DEFAULT NULL)
		RETURNS TABLE (object text, finding text, consequence text, statement text)
	LANGUAGE C SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'prompt_stats_preflight';

-- ---------------------------------------------------------------------------
-- Preflight: what adoption and migration will mean
-- ---------------------------------------------------------------------------

/*
 * What catalogs say of two tables, a row for what stands out.  "gravity" is what goes wrong:
 * 'counting', or 'migration' or 'compat', which refuse to run until it is accepted by name;
 * 'perhaps' where it depends on what others wrote; NULL where it only surprises.
 *
 * Its text is parsed when it runs, on catalogs alone, so that pg_upgrade need not print it for
 * catalogs of a later version; in that search_path every name means the server's.
 */
CREATE FUNCTION prompt_stats_internal.findings(events regclass, stats regclass)
	RETURNS TABLE (object text, finding text, consequence text, statement text, gravity text)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $findings$
WITH us AS (
	SELECT x.oid, x.extnamespace, quote_ident(n.nspname) AS home
	FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace WHERE x.extname = 'prompt_stats'
), tables AS (
	SELECT c.oid, c.relname, c.relnamespace, c.relowner, c.relacl, c.relpersistence, c.relreplident, c.relrowsecurity,
		c.relforcerowsecurity, t.is_stats, t.name
	FROM (VALUES (events, false, events::text), (stats, true, stats::text)) AS t(oid, is_stats, name) JOIN pg_class c USING (oid)
	WHERE c.relkind = 'r'
), triggers AS (
	/* Those that fire in sessions of applications */
	SELECT t.tgtype::int AS type, b.is_stats, b.name AS tab, quote_ident(t.tgname) AS name
	FROM pg_trigger t JOIN tables b ON b.oid = t.tgrelid
	WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgfoid <> 'prompt_stats_internal.reroute()'::regprocedure
), rules AS (
	SELECT r.ev_type, b.is_stats, b.name AS tab, quote_ident(r.rulename) AS name
	FROM pg_rewrite r JOIN tables b ON b.oid = r.ev_class WHERE r.ev_enabled IN ('O', 'A')
), publications AS (
	SELECT p.pubname, p.pubupdate, p.pubdelete, b.oid AS tab, b.is_stats
	FROM pg_publication p JOIN pg_publication_tables t USING (pubname) JOIN pg_namespace n ON n.nspname = t.schemaname
	JOIN tables b ON b.relname = t.tablename AND b.relnamespace = n.oid
), ours AS (
	SELECT p.oid, p.proname, p.pronamespace, p.proowner, p.proacl, p.probin, p.proname IN ('increment_prompt_views',
		'increment_prompt_copies', 'increment_fork_count', 'track_prompt_fork', 'track_compare_add') AS counts
	FROM us JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = us.oid AND d.deptype = 'e'
	JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND p.pronamespace = us.extnamespace
)
SELECT format('trigger %s on table %s', t.name, t.tab), 'delete trigger',
	'The migration deletes rows of this table; a trigger that takes them off the counters makes these wrong.',
	format('ALTER TABLE %s DISABLE TRIGGER %s;', t.tab, t.name), 'migration'
FROM triggers t WHERE NOT t.is_stats AND t.type & 8 <> 0
UNION ALL
SELECT format('rule %s on table %s', r.name, r.tab), 'delete rule',
	'The migration deletes rows of this table; what the rule does in addition, or instead, makes the counters wrong.',
	format('DROP RULE %s ON %s;', r.name, r.tab), 'migration'
FROM rules r WHERE NOT r.is_stats AND r.ev_type = '4'
UNION ALL
SELECT format('foreign key %I of table %s', k.conname, k.conrelid::regclass), 'referenced events',
	CASE WHEN k.confdeltype = 'c' THEN 'Where the migration moves a row that is referenced, it deletes the rows that reference it.'
	WHEN k.confdeltype IN ('n', 'd') THEN 'Where the migration moves a row that is referenced, it unsets the reference.'
	ELSE 'A row that is referenced can''t be moved: the migration fails there (23503).' END,
	format('ALTER TABLE %s DROP CONSTRAINT %I;', k.conrelid::regclass, k.conname), 'migration'
FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = events AND k.conparentid = 0
UNION ALL
SELECT format('trigger %s on table %s', t.name, t.tab), 'insert trigger',
	'It fires for what track_prompt_fork() and track_compare_add() insert; if it counts a fork, the fork counts twice.',
	format('ALTER TABLE %s DISABLE TRIGGER %s;', t.tab, t.name), 'perhaps'
FROM triggers t WHERE NOT t.is_stats AND t.type & 4 <> 0
UNION ALL
SELECT format('trigger %s on table %s', t.name, t.tab), k.name, k.consequence,
	format('ALTER TABLE %s DISABLE TRIGGER %s;', t.tab, t.name), NULL
FROM triggers t JOIN (VALUES
	(true, 'veto trigger', 'It fires once for a sum of counts; where it returns NULL they are not made, and a batch of the migration fails.'),
	(false, 'stats trigger', 'It fires once for a sum of counts, as the owner of the table, and perhaps in the flusher.')
) AS k(is_veto, name, consequence) ON k.is_veto = (t.type & 3 = 3)
WHERE t.is_stats AND t.type & 20 <> 0
UNION ALL
SELECT format('rule %s on table %s', r.name, r.tab), 'rule',
	CASE WHEN r.is_stats THEN 'With it a prompt that has no row yet can''t be counted; with one that is INSTEAD, none can.'
	ELSE 'What it does in addition, or instead, is done for what track_prompt_fork() and track_compare_add() insert.' END,
	format('DROP RULE %s ON %s;', r.name, r.tab), 'perhaps'
FROM rules r WHERE r.ev_type = '3' OR r.is_stats AND r.ev_type = '2'
UNION ALL
/* But for keys with a column that is new each time, which keep nothing out */
SELECT format('unique key %I of table %s', c.relname, events), 'unique events',
	'What the key kept from being logged twice is counted each time: by the functions, and by the compat trigger.',
	CASE WHEN k.oid IS NULL THEN format('DROP INDEX %s;', i.indexrelid::regclass)
	ELSE format('ALTER TABLE %s DROP CONSTRAINT %I;', events, k.conname) END, 'compat'
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
WHERE i.indrelid = events AND (i.indisunique OR i.indisexclusion) AND NOT EXISTS (
	SELECT FROM pg_attribute a LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
	WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
	AND (a.attidentity <> '' OR pg_get_expr(f.adbin, f.adrelid) ~ '(nextval|gen_random_uuid|uuidv[47])\(' OR EXISTS (
		SELECT FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid
		WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_proc'::regclass AND p.provolatile = 'v')
	OR a.attname NOT IN ('prompt_id', 'user_id') AND EXISTS (
		SELECT FROM pg_index p WHERE p.indrelid = a.attrelid AND p.indisprimary AND p.indnkeyatts = 1 AND p.indkey[0] = a.attnum)))
UNION ALL
SELECT DISTINCT format('%s %s', k.name, c.oid::regclass), 'view of events',
	'It no longer finds the views and copies that are counted or moved.', format('DROP %s %s;', upper(k.name), c.oid::regclass), NULL
FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class
JOIN (VALUES ('v'::"char", 'view'), ('m', 'materialized view')) AS k(kind, name) ON k.kind = c.relkind
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = events
UNION ALL
SELECT format('subscription %I', s.subname), 'subscription',
	'What it brings are rows of a legacy application: they fail the check (23514), unless the compat trigger counts them.',
	format('SELECT %s.prompt_stats_enable_compat();', us.home), NULL
FROM us, pg_subscription_rel l JOIN pg_subscription s ON s.oid = l.srsubid
WHERE l.srrelid = events AND NOT EXISTS (
	SELECT FROM pg_trigger t WHERE t.tgrelid = l.srrelid AND t.tgname = 'prompt_stats_reroute' AND t.tgenabled = 'A')
UNION ALL
SELECT format('subscription %I', s.subname), 'subscribed counters',
	'It replaces the counters by those of the publisher: what is counted here is lost.',
	format('ALTER SUBSCRIPTION %I DISABLE;', s.subname), 'perhaps'
FROM pg_subscription_rel l JOIN pg_subscription s ON s.oid = l.srsubid WHERE l.srrelid = stats AND s.subenabled
UNION ALL
SELECT format('publication %I', p.pubname), 'published events',
	'A subscriber''s rows are deleted as the migration moves them here; nothing adds them to counters of its own.',
	format('ALTER PUBLICATION %I SET (publish = ''insert, update, truncate'');', p.pubname), 'perhaps'
FROM publications p WHERE NOT p.is_stats AND p.pubdelete
UNION ALL
SELECT format('table %s', b.name), 'no replica identity',
	'It is published, and updates and deletes of a published table fail without a replica identity (55000).',
	format('ALTER TABLE %s REPLICA IDENTITY FULL;', b.name), 'perhaps'
FROM tables b
WHERE EXISTS (SELECT FROM publications p WHERE p.tab = b.oid AND (p.pubupdate OR p.pubdelete))
AND b.relreplident <> 'f' AND NOT EXISTS (
	SELECT FROM pg_index i WHERE i.indrelid = b.oid
	AND (b.relreplident = 'i' AND i.indisreplident OR b.relreplident = 'd' AND i.indisprimary))
UNION ALL
SELECT format('publication %I', p.pubname), 'publication',
	'It ships what the extension keeps in schema prompt_stats_internal, too, which a subscriber has no tables for.',
	format('BEGIN; DROP PUBLICATION %I; CREATE PUBLICATION %I FOR TABLES IN SCHEMA %s WITH (publish = %L, publish_via_partition_root = %s); COMMIT;',
		p.pubname, p.pubname, s.names, concat_ws(', ', CASE WHEN p.pubinsert THEN 'insert' END, CASE WHEN p.pubupdate THEN 'update' END,
			CASE WHEN p.pubdelete THEN 'delete' END, CASE WHEN p.pubtruncate THEN 'truncate' END), p.pubviaroot::text), NULL
FROM pg_publication p, LATERAL (
	SELECT string_agg(DISTINCT quote_ident(t.schemaname), ', ') AS names FROM pg_publication_tables t
	WHERE t.pubname = p.pubname AND t.schemaname <> 'prompt_stats_internal') s
WHERE p.puballtables AND s.names IS NOT NULL
UNION ALL
SELECT format('table %s', b.name), 'unlogged', 'A crash of the server empties it.', format('ALTER TABLE %s SET LOGGED;', b.name), NULL
FROM tables b WHERE b.relpersistence = 'u'
UNION ALL
SELECT format('table %s', b.name), 'forced policies', 'They hold for its owner, too, as whom rows are written.',
	format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;', b.name), NULL
FROM tables b WHERE b.relrowsecurity AND b.relforcerowsecurity
UNION ALL
SELECT format('table %s', b.name), 'owner without rights', 'Rows are written as its owner, which fails (42501).',
	format('GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE %s TO %s;', b.name, b.relowner::regrole), 'perhaps'
FROM tables b
WHERE NOT (has_table_privilege(b.relowner, b.oid, 'SELECT') AND CASE WHEN b.is_stats
	THEN has_table_privilege(b.relowner, b.oid, 'INSERT') AND has_table_privilege(b.relowner, b.oid, 'UPDATE')
	ELSE has_table_privilege(b.relowner, b.oid, 'DELETE') END)
UNION ALL
SELECT format('table %s', b.name), 'open counters', format('Counters can be changed past the extension, by %s.', w.names),
	format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON TABLE %s FROM %s;', b.name, w.names), NULL
FROM tables b, LATERAL (
	SELECT string_agg(DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, ', ') AS names
	FROM aclexplode(b.relacl) a
	WHERE a.grantee <> b.relowner AND a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')) w
WHERE b.is_stats AND NOT b.relrowsecurity AND w.names IS NOT NULL
UNION ALL
SELECT format('column updated_at of table %s', b.name), 'updated_at',
	'It stays as it is: the extension sets it only where it created the table, or is asked to.',
	CASE WHEN h.holds_time THEN format('SELECT %s.prompt_stats_setup(touch => true);', us.home) END, NULL
FROM us, tables b JOIN pg_attribute a ON a.attrelid = b.oid JOIN pg_type t ON t.oid = a.atttypid,
LATERAL (SELECT t.typcategory = 'D' AND t.oid NOT IN ('time'::regtype, 'timetz'::regtype)) AS h(holds_time)
WHERE b.is_stats AND a.attname = 'updated_at' AND NOT a.attisdropped AND a.attgenerated = '' AND (NOT h.holds_time
	OR COALESCE(col_description(a.attrelid, a.attnum), '') !~ 'time of the last count, set by extension prompt_stats$')
UNION ALL
SELECT format('function %s', p.oid::regprocedure), 'function of our name',
	CASE WHEN p.pronamespace = us.extnamespace THEN 'A call may mean this one, or nothing, because the name is not unique.'
	ELSE 'A call without a schema may mean this one.' END
	|| COALESCE(' What it does beside counting, the extension does not: it names ' || w.names || '.', ''),
	format('DROP ROUTINE %s;', p.oid::regprocedure), CASE WHEN p.pronamespace = us.extnamespace THEN 'counting' ELSE 'perhaps' END
FROM us, pg_proc p, LATERAL (
	SELECT string_agg(DISTINCT c.relname, ', ') AS names FROM pg_class c
	WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid >= 16384
	AND c.oid IS DISTINCT FROM events::oid AND c.oid IS DISTINCT FROM stats::oid
	AND COALESCE(pg_get_function_sqlbody(p.oid), p.prosrc) ~* ('\y' || regexp_replace(c.relname, '(\W)', '\\\1', 'g') || '\y')) w
WHERE p.proname IN ('increment_prompt_views', 'increment_prompt_copies', 'increment_fork_count', 'track_prompt_fork',
	'track_compare_add', 'get_prompt_stats')
AND NOT EXISTS (SELECT FROM ours o WHERE o.oid = p.oid)
UNION ALL
/* All of ours are of one library */
SELECT format('function %s', o.oid::regprocedure), 'replaced function', 'It is not the extension''s any more.',
	format('DROP EXTENSION prompt_stats; CREATE EXTENSION prompt_stats SCHEMA %s;', us.home), 'counting'
FROM us, ours o WHERE o.probin IS DISTINCT FROM (SELECT p.probin FROM pg_proc p WHERE p.oid = 'prompt_stats_internal.reroute()'::regprocedure)
UNION ALL
SELECT DISTINCT format('default privileges for role %s', a.grantee::regrole), 'default privileges',
	'They let it count, whatever is taken from PUBLIC.',
	format('SELECT %s.prompt_stats_deny(''public''), %s.prompt_stats_deny(%L);', us.home, us.home, r.rolname), NULL
FROM us, ours o, LATERAL aclexplode(o.proacl) a JOIN pg_roles r ON r.oid = a.grantee
WHERE o.counts AND a.grantee <> o.proowner AND EXISTS (
	SELECT FROM pg_default_acl d, LATERAL aclexplode(d.defaclacl) b
	WHERE d.defaclrole = o.proowner AND d.defaclobjtype = 'f' AND d.defaclnamespace IN (0, o.pronamespace) AND b.grantee = a.grantee)
$findings$;

DO $$
DECLARE
	what record;
BEGIN
	FOR what IN
		SELECT p.oid::pg_catalog.regprocedure AS name, CASE WHEN p.prokind OPERATOR(pg_catalog.=) 'p'::pg_catalog."char"
			THEN 'PROCEDURE' ELSE 'FUNCTION' END AS kind, c.text
		FROM pg_catalog.pg_proc p
		JOIN (VALUES
			('increment_prompt_views', 'count a view, or n, of a prompt, or of each prompt of an array'),
			('increment_prompt_copies', 'count a copy, or n, of a prompt, or of each prompt of an array'),
			('increment_fork_count', 'count a fork, or n, of a prompt, or of each prompt of an array'),
			('track_prompt_fork', 'log that a user forked a prompt, and count it: both or neither'),
			('track_compare_add', 'log that a user added a prompt to a comparison'),
			('get_prompt_stats', 'the counts of a prompt that the caller may see; zeros where there is no row'),
			('live_rows', 'the rows of view prompt_stats_live'),
			('status_row', 'the row of view prompt_stats_status'),
			('normalise_choice', 'trigger function: a row of config says where its tables are now'),
			('admit_choice', 'check: a row of config is inserted by whoever may choose the tables, and replaces the one before'),
			('prompt_stats_flush', 'return when all counts that were accepted before are in prompt_stats, or rejected'),
			('prompt_stats_tables', 'the tables in use: of events, of counters, and the one that the counters reference; null where there is none'),
			('prompt_stats_setup', 'create prompt_events and prompt_stats, or adopt those that are there'),
			('reroute', 'trigger function: counts a legacy view or copy instead of inserting its row'),
			('prompt_stats_enable_compat', 'for a rolling deployment: a legacy INSERT of a view or copy counts it, and inserts no row'),
			('prompt_stats_teardown', 'drop the trigger of prompt_stats_enable_compat(), and nothing else'),
			('prompt_stats_migrate', 'move every view and copy row into the counters, in batches; can be interrupted and called again at any time'),
			('prompt_stats_migrate_batch', 'move at most n view and copy rows into the counters, in this transaction; returns how many rows left: 0 at the end'),
			('prompt_stats_migrate_finish', 'after the last batch: validate the check; false, with a warning, where rows that can''t move forbid it'),
			('prompt_stats_recount_forks', 'raise fork_count of at most n prompts to the number of fork events, or with lower => true make them equal; returns of how many'),
			('prompt_stats_reset', 'set the counters of a prompt to zero, with what is pending of it'),
			('prompt_stats_correct', 'add to the counters of a prompt what may be negative; none becomes less than zero'),
			('prompt_stats_verify', 'whether the tables are as they should be, check by check'),
			('prompt_stats_allow', 'let a role count, and nobody who has not been allowed by name; ''public'' lets everybody'),
			('prompt_stats_deny', 'forbid a role to count; an error where it still may, through others'),
			('prompt_stats_preflight', 'what adopting these tables, and migrating them, will mean; reads only'),
			('findings', 'what catalogs say of two tables, for prompt_stats_preflight()')
		) AS c(name, text) ON p.proname OPERATOR(pg_catalog.=) c.name::pg_catalog.name
		JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
			AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char"
			AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::pg_catalog.oid
		JOIN pg_catalog.pg_extension x ON x.oid OPERATOR(pg_catalog.=) d.refobjid
			AND x.extname OPERATOR(pg_catalog.=) 'prompt_stats'::pg_catalog.name
	LOOP
		EXECUTE pg_catalog.format('COMMENT ON %s %s IS %L', what.kind, what.name, what.text);
	END LOOP;
END $$;

-- ---------------------------------------------------------------------------
-- Rights.  Default privileges may have given some to anybody.
-- ---------------------------------------------------------------------------

DO $$
DECLARE
	revoke pg_catalog.text;
BEGIN
	FOR revoke IN
		SELECT pg_catalog.format('REVOKE ALL ON %s %s FROM %s', o.kind, o.name,
			CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC'
			ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END)
		FROM (
			SELECT 'SCHEMA', pg_catalog.quote_ident(n.nspname::pg_catalog.text), n.nspowner,
				COALESCE(n.nspacl, pg_catalog.acldefault('n'::pg_catalog."char", n.nspowner))
			FROM pg_catalog.pg_namespace n
			WHERE n.nspname OPERATOR(pg_catalog.=) 'prompt_stats_internal'::pg_catalog.name
			UNION ALL
			SELECT 'TABLE', c.oid::pg_catalog.regclass::pg_catalog.text, c.relowner,
				COALESCE(c.relacl, pg_catalog.acldefault('r'::pg_catalog."char", c.relowner))
			FROM pg_catalog.pg_class c
			WHERE c.oid OPERATOR(pg_catalog.=) ANY (ARRAY[
				'prompt_stats_internal.config', 'prompt_stats_internal.migration',
				'@extschema@.prompt_stats_migration_progress', '@extschema@.prompt_stats_live',
				'@extschema@.prompt_stats_status']::pg_catalog.regclass[]::pg_catalog.oid[])
			UNION ALL
			SELECT 'FUNCTION', p.oid::pg_catalog.regprocedure::pg_catalog.text, p.proowner,
				COALESCE(p.proacl, pg_catalog.acldefault('f'::pg_catalog."char", p.proowner))
			FROM pg_catalog.pg_proc p
			WHERE p.pronamespace OPERATOR(pg_catalog.=) 'prompt_stats_internal'::pg_catalog.regnamespace::pg_catalog.oid
		) AS o(kind, name, owner, acl), LATERAL pg_catalog.aclexplode(o.acl) a
		WHERE a.grantee OPERATOR(pg_catalog.<>) o.owner
	LOOP
		EXECUTE revoke;
	END LOOP;
END $$;

/* Whoever dumps the application reads these tables (pg_dump.c: getTables, dumpTableData) */
GRANT USAGE ON SCHEMA prompt_stats_internal TO PUBLIC;
GRANT SELECT ON prompt_stats_internal.config, prompt_stats_internal.migration TO PUBLIC;

/* And whoever restores it writes this one; the table itself admits only what he may choose */
GRANT INSERT ON prompt_stats_internal.config TO PUBLIC;
GRANT EXECUTE ON FUNCTION prompt_stats_internal.admit_choice(regclass, regclass, name, name, name, name, text) TO PUBLIC;

/*
 * Of counters, the rights on prompt_stats are what matters: its rows are read as the reader.
 * The server asks the reader of a view for the right to execute its functions.
 */
GRANT SELECT ON @extschema@.prompt_stats_live, @extschema@.prompt_stats_migration_progress,
	@extschema@.prompt_stats_status TO PUBLIC;
GRANT EXECUTE ON FUNCTION prompt_stats_internal.live_rows(), prompt_stats_internal.status_row() TO PUBLIC;

/* Whoever makes a trigger needs it, as a dump of prompt_events does; it counts only for that table */
GRANT EXECUTE ON FUNCTION prompt_stats_internal.reroute() TO PUBLIC;

-- ---------------------------------------------------------------------------
-- The tables: created, or adopted.  Not in a restore, which brings its own: there
-- row_security is off (pg_backup_archiver.c), or pg_restore has given its name.
-- ---------------------------------------------------------------------------

DO $$
BEGIN
	IF pg_catalog.current_setting('row_security'::pg_catalog.text) OPERATOR(pg_catalog.<>) 'off'::pg_catalog.text
	AND pg_catalog.current_setting('application_name'::pg_catalog.text) OPERATOR(pg_catalog.<>) 'pg_restore'::pg_catalog.text
	AND NOT pg_catalog.current_setting('prompt_stats.skip_setup'::pg_catalog.text)::pg_catalog.bool THEN
		/* CREATE EXTENSION silences NOTICE (extension.c); say what is done all the same */
		PERFORM pg_catalog.set_config('client_min_messages'::pg_catalog.text, s.reset_val, true)
		FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'client_min_messages'::pg_catalog.text;
		PERFORM @extschema@.prompt_stats_setup(NULL::pg_catalog.regclass, NULL::pg_catalog.regclass, NULL::pg_catalog.bool);
	END IF;
END $$;
