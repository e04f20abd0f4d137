-- Each call by itself; test "durability" has the other modes
SET prompt_stats.durability = 'transaction';
--
-- Bad input: each error has its SQLSTATE and a hint, and changes nothing: [7] [13]
--
\pset format unaligned
\pset footer off
\pset tuples_only on
\set SHOW_CONTEXT never

-- What came of a statement: 'ok', or SQLSTATE, message, detail and hint.  With
-- mend, runs the statement of the hint as well, and tries again.
CREATE FUNCTION try(sql text, mend boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	m text;
	d text;
	h text;
BEGIN
	EXECUTE sql;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
	m := SQLSTATE || ' ' || m || COALESCE(E'\n  detail: ' || NULLIF(d, ''), '') || COALESCE(E'\n  hint: ' || NULLIF(h, ''), E'\n  no hint');
	IF mend THEN
		EXECUTE substring(h FROM '(?:ALTER|DROP|SELECT|DELETE) [^;]*;?');
		m := m || E'\n  mended: ' || try(sql);
	END IF;
	RETURN m;
END $$;

CREATE TABLE prompts (id uuid PRIMARY KEY);
CREATE EXTENSION prompt_stats;
\set p1 '00000000-0000-0000-0000-000000000001'
\set nobody '00000000-0000-0000-0000-000000000009'
INSERT INTO prompts VALUES (:'p1');
SELECT increment_prompt_views(:'p1'), track_prompt_fork(:'p1', NULL);
CREATE TABLE was AS SELECT s.ctid AS place, s.* FROM prompt_stats s;
CREATE VIEW unchanged AS SELECT
	(SELECT array_agg(w::text) FROM was w) = (SELECT array_agg(s::text) FROM (SELECT s.ctid AS place, s.* FROM prompt_stats s) s)
	AND (SELECT count(*) FROM prompt_events) = 1 AS unchanged;

--
-- NULL, and n that is negative or too large
--
SELECT try('SELECT increment_prompt_views(NULL)');
SELECT try('SELECT increment_prompt_views(NULL::uuid)');
SELECT try('SELECT increment_prompt_copies(NULL::bigint)');
SELECT try('SELECT increment_fork_count(NULL::uuid[])');
SELECT try(format('SELECT increment_prompt_views(ARRAY[%L, NULL]::uuid[])', :'p1'));
SELECT try(format('SELECT increment_prompt_views(ARRAY[NULL, %L]::text[])', :'p1'));
SELECT try('SELECT increment_prompt_views(ARRAY[NULL]::uuid[], 0)');
SELECT try(format('SELECT increment_prompt_views(%L, NULL)', :'p1'));
SELECT try(format('SELECT increment_prompt_views(%L, -1)', :'p1'));
SELECT try(format('SELECT increment_fork_count(ARRAY[%L]::uuid[], -9223372036854775808)', :'p1'));
SELECT try(format('SELECT increment_prompt_views(%L, 1000000001)', :'p1'));
SELECT try(format('SELECT increment_fork_count(ARRAY[%L]::uuid[], 9223372036854775807)', :'p1'));
SELECT try('SELECT increment_prompt_copies(''{}''::uuid[], 1000000001)');
SELECT try('SELECT increment_prompt_views(''{}''::uuid[], -1)');
SELECT try('SELECT track_prompt_fork(NULL::uuid, NULL::uuid)');
SELECT try('SELECT track_compare_add(NULL, NULL)');
SELECT try('SELECT * FROM get_prompt_stats(NULL::uuid)');
TABLE unchanged;

--
-- Ids that are none
--
SELECT try('SELECT increment_prompt_views(''no uuid'')');
SELECT try('SELECT increment_prompt_views('''')');
SELECT try('SELECT increment_prompt_views(42)');
SELECT try(format('SELECT increment_prompt_views(ARRAY[%L, ''x''])', :'p1'));
SELECT try(format('SELECT track_prompt_fork(%L, ''x'')', :'p1'));
SELECT try(format('SELECT track_compare_add(%L, 42)', :'p1'));
SELECT try('SELECT * FROM get_prompt_stats(''x'')');
SELECT try('SELECT * FROM get_prompt_stats(42)');
-- an array that lost its type, where one id is wanted
SELECT try('SELECT * FROM get_prompt_stats(''{}'')');
TABLE unchanged;

--
-- Prompts that don't exist
--
SELECT try(format('SELECT increment_prompt_views(%L)', :'nobody'));
SELECT try(format('SELECT increment_prompt_views(ARRAY[%L, %L, %1$L]::uuid[])', :'p1', :'nobody'));
SELECT try(format('SELECT track_prompt_fork(%L, NULL)', :'nobody')) ~ '^23503 .*_prompt_id_fkey.*\n  hint: ';
SELECT try(format('SELECT track_compare_add(%L, NULL)', :'nobody')) ~ '^23503 .*_prompt_id_fkey.*\n  hint: ';
TABLE unchanged;
-- a transaction that fails counts nothing, also of what was good before
BEGIN;
SELECT increment_prompt_views(:'p1');
SELECT increment_prompt_views(:'nobody');
SELECT increment_prompt_views(:'p1');
COMMIT;
TABLE unchanged;

DROP VIEW unchanged;

--
-- Counters that are full
--
UPDATE prompt_stats SET view_count = 9223372036854775800;
SELECT try(format('SELECT increment_prompt_views(%L, 8)', :'p1'));
SELECT try(format('SELECT increment_prompt_views(ARRAY[%L, %1$L]::uuid[], 4)', :'p1'));
SELECT view_count, copy_count FROM prompt_stats;
SELECT try(format('SELECT increment_prompt_views(%L, 7)', :'p1'));
SELECT view_count, copy_count FROM prompt_stats;
-- integer columns, with rows and without
ALTER TABLE prompt_stats ALTER view_count TYPE integer USING 2147483640, ALTER copy_count TYPE integer;
INSERT INTO prompts SELECT :'nobody';
SELECT try(format('SELECT increment_prompt_views(%L, 8)', :'p1'));
SELECT try(format('SELECT increment_prompt_views(ARRAY[%L, %L]::uuid[], 8)', :'p1', :'nobody'));
SELECT try(format('SELECT increment_prompt_copies(array_fill(%L::uuid, ''{3}''), 1000000000)', :'nobody'));
SELECT try(format('SELECT increment_prompt_copies(%L, 1000000000), increment_prompt_copies(ARRAY[%1$L, %1$L]::uuid[], 1000000000)', :'nobody'));
SELECT view_count, copy_count FROM prompt_stats;
-- the other counters go on, and so do other prompts
SELECT try(format('SELECT increment_fork_count(array_fill(%L::uuid, ''{3}''), 1000000000)', :'p1'));
SELECT try(format('SELECT increment_prompt_views(%L, 8)', :'nobody'));
SELECT view_count, copy_count, fork_count FROM prompt_stats ORDER BY prompt_id;
-- the hint mends it
SELECT try(format('SELECT increment_prompt_views(%L, 8)', :'p1'), true);
SELECT view_count FROM prompt_stats WHERE prompt_id = :'p1';

--
-- Administrative functions
--
SELECT try('SELECT prompt_stats_migrate_batch(0)');
SELECT try('SELECT prompt_stats_migrate_batch(-1)');
SELECT try('SELECT prompt_stats_migrate_batch(NULL)');
SELECT try('SELECT prompt_stats_migrate_batch(10, ''replace'')');
SELECT try('SELECT prompt_stats_migrate_batch(10, NULL)');
SELECT try('SELECT prompt_stats_migrate_batch(10, ''add'', ''drop'')');
SELECT try('SELECT prompt_stats_recount_forks(false, -1)') ~ '^22023 ';
SELECT try('SELECT prompt_stats_setup(''prompts'', ''prompt_stats'')');
SELECT try('SELECT prompt_stats_setup(''prompt_events'', ''prompt_events'')');
SELECT try('SELECT prompt_stats_setup(''no_table'')');
SELECT try('SELECT prompt_stats_setup(999999::regclass)') ~ '^42P01 ';
SELECT try('SELECT prompt_stats_setup(''prompt_events'', 999999::regclass)') ~ '^42P01 ';
SELECT try('SELECT prompt_stats_setup(''pg_class'', ''pg_class'')');
SELECT events, stats FROM prompt_stats_tables();
CALL prompt_stats_migrate(0);
CALL prompt_stats_migrate(mode => 'replace');
CALL prompt_stats_migrate(unmovable => 'drop');
SET prompt_stats.no_such = 1;

--
-- Tables that are missing, or have another shape
--
ALTER TABLE prompt_stats RENAME TO kept;
SELECT call, try('SELECT ' || call) ~ '^42P01 table "prompt_stats" does not exist.*\n  hint: .*SELECT public.prompt_stats_setup\(\);'
FROM (VALUES
	(format('increment_prompt_views(%L)', :'p1')),
	(format('increment_prompt_copies(ARRAY[%L])', :'p1')),
	(format('track_prompt_fork(%L, NULL)', :'p1')),
	(format('get_prompt_stats(%L)', :'p1')),
	('count(*) FROM prompt_stats_live'),
	('prompt_stats_migrate_batch()'),
	('prompt_stats_recount_forks()')) v(call);
CALL prompt_stats_migrate();
CALL prompt_stats_migrate(dry_run => true);
SELECT check_name, ok FROM prompt_stats_verify();
SELECT count(*) AS events FROM prompt_events;
-- the hint mends it
SELECT try(format('SELECT increment_prompt_views(%L)', :'p1'), true);
SELECT view_count FROM prompt_stats;
DROP TABLE prompt_stats;
ALTER TABLE kept RENAME TO prompt_stats;

ALTER TABLE prompt_events RENAME TO kept;
SELECT call, try('SELECT ' || call) ~ '^42P01 table "prompt_events" does not exist.*\n  hint: .*SELECT public.prompt_stats_setup\(\);'
FROM (VALUES
	(format('track_prompt_fork(%L, NULL)', :'p1')),
	(format('track_compare_add(%L, NULL)', :'p1')),
	('prompt_stats_enable_compat()'),
	('prompt_stats_teardown()'),
	('prompt_stats_migrate_batch()'),
	('prompt_stats_migrate_finish()'),
	('prompt_stats_recount_forks()')) v(call);
CALL prompt_stats_migrate();
CALL prompt_stats_migrate(dry_run => true);
SELECT check_name, ok FROM prompt_stats_verify();
-- counting needs no events
SELECT try(format('SELECT increment_prompt_views(%L)', :'p1'));
ALTER TABLE kept RENAME TO prompt_events;

-- a view
ALTER TABLE prompt_stats RENAME TO kept;
CREATE VIEW prompt_stats AS TABLE kept;
SELECT try(format('SELECT increment_prompt_views(%L)', :'p1'));
SELECT try(format('SELECT * FROM get_prompt_stats(%L)', :'p1'));
SELECT try('SELECT prompt_stats_setup()');
SELECT check_name, ok FROM prompt_stats_verify();
DROP VIEW prompt_stats;
CREATE MATERIALIZED VIEW prompt_stats AS TABLE kept;
SELECT try(format('SELECT increment_prompt_views(%L)', :'p1'));
DROP MATERIALIZED VIEW prompt_stats;
-- partitioned
CREATE TABLE prompt_stats (LIKE kept INCLUDING ALL) PARTITION BY HASH (prompt_id);
SELECT try(format('SELECT increment_prompt_views(%L)', :'p1'));
DROP TABLE prompt_stats;
-- with children
CREATE TABLE prompt_stats (LIKE kept INCLUDING ALL);
CREATE TABLE child () INHERITS (prompt_stats);
SELECT try(format('SELECT increment_prompt_views(%L)', :'p1'));
DROP TABLE prompt_stats CASCADE;
-- temporary ones are not found, not even first in the path
CREATE TEMP TABLE prompt_stats (LIKE kept INCLUDING ALL);
SELECT try(format('SELECT increment_prompt_views(%L)', :'p1'));
SELECT regexp_replace(try('SELECT prompt_stats_setup(''prompt_events'', ''pg_temp.prompt_stats'')'), 'pg_temp_\d+', 'pg_temp_N', 'g');
DROP TABLE pg_temp.prompt_stats;
ALTER TABLE kept RENAME TO prompt_stats;
SELECT try(format('SELECT increment_prompt_views(%L)', :'p1'));

-- columns, keys, types: each with the statement that mends it
BEGIN;
ALTER TABLE prompt_stats DROP COLUMN copy_count;
SELECT try(format('SELECT increment_prompt_views(%L)', :'p1'), true);
ROLLBACK;
BEGIN;
ALTER TABLE prompt_stats DROP CONSTRAINT prompt_stats_pkey;
DELETE FROM prompt_stats;
CREATE UNIQUE INDEX ON prompt_stats (prompt_id) WHERE view_count > 0;
CREATE UNIQUE INDEX ON prompt_stats (prompt_id, view_count);
CREATE INDEX ON prompt_stats (prompt_id);
ALTER TABLE prompt_stats ADD UNIQUE (prompt_id) DEFERRABLE;
SELECT try(format('SELECT increment_prompt_views(%L)', :'p1'), true);
ROLLBACK;
BEGIN;
ALTER TABLE prompt_stats ALTER view_count TYPE numeric;
SELECT try(format('SELECT increment_prompt_views(%L)', :'p1'), true);
ROLLBACK;
BEGIN;
ALTER TABLE prompt_stats DROP CONSTRAINT prompt_stats_prompt_id_fkey, ALTER prompt_id TYPE jsonb USING to_jsonb(prompt_id);
SELECT try('SELECT increment_prompt_views(''x'')');
ROLLBACK;
BEGIN;
ALTER TABLE prompt_stats DROP COLUMN fork_count, ADD fork_count bigint GENERATED ALWAYS AS (copy_count + 1) STORED;
SELECT try(format('SELECT increment_prompt_views(%L)', :'p1'), true);
ROLLBACK;
BEGIN;
ALTER TABLE prompt_events DROP COLUMN user_id;
SELECT try(format('SELECT track_compare_add(%L, NULL)', :'p1'), true);
ROLLBACK;
BEGIN;
ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_prompt_id_fkey, ALTER prompt_id TYPE text;
SELECT try(format('SELECT track_compare_add(%L, NULL)', :'p1'), true);
ROLLBACK;
SELECT try(format('SELECT increment_prompt_views(%L)', :'p1'));
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, was, prompts;

--
-- bigint ids
--
CREATE TABLE prompts (id integer PRIMARY KEY);
CREATE EXTENSION prompt_stats;
INSERT INTO prompts VALUES (1);
SELECT try('SELECT increment_prompt_views(''x'')');
SELECT try('SELECT increment_prompt_views(''1.5'')');
SELECT try('SELECT increment_prompt_views(gen_random_uuid())') ~ '^42804 ids in table public.prompt_stats are bigint, not uuid';
SELECT try('SELECT increment_prompt_views(''9223372036854775808'')');
-- beyond an integer column's range
SELECT try('SELECT increment_prompt_views(9223372036854775807)');
SELECT try('SELECT increment_prompt_views(ARRAY[1, 9223372036854775807])');
SELECT try('SELECT track_compare_add(9223372036854775807, 1)');
SELECT try('SELECT * FROM get_prompt_stats(9223372036854775807)');
SELECT try('SELECT increment_prompt_views(-2147483649)');
SELECT try('SELECT increment_prompt_views(''2147483648'')');
SELECT try('SELECT increment_prompt_views(ARRAY[''2147483648''])');
SELECT try('SELECT increment_prompt_views(2147483647)');
SELECT try('SELECT increment_prompt_views(''{1,2}'')');
SELECT try('SELECT increment_prompt_views(2)');
SELECT count(*) FROM prompt_stats;
-- users, too
ALTER TABLE prompt_events ALTER user_id TYPE integer USING NULL;
SELECT try('SELECT track_prompt_fork(1, 2147483648)');
SELECT try('SELECT track_compare_add(''1'', ''-2147483649'')');
-- the hint mends it
ALTER TABLE prompt_stats DROP CONSTRAINT prompt_stats_prompt_id_fkey;
SELECT try('SELECT increment_prompt_views(2147483648)', true);
SELECT try('SELECT track_compare_add(1, 2147483648)', true);
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts;

-- text ids too long for their column
CREATE TABLE prompts (id varchar(3) PRIMARY KEY);
CREATE EXTENSION prompt_stats;
SELECT try('SELECT increment_prompt_views(''abcd'')');
SELECT try('SELECT increment_prompt_views(''abcd    '')');
SELECT try('SELECT increment_prompt_views(ARRAY[''abc'', ''abcd''])');
SELECT try('SELECT increment_prompt_views(1234)');
SELECT try('SELECT increment_prompt_views(gen_random_uuid())') ~ '^22001 id "[-0-9a-f]{36}" is too long for column "prompt_id" of table public.prompt_stats\n';
SELECT try('SELECT track_prompt_fork(''abcd'', NULL)');
SELECT try('SELECT * FROM get_prompt_stats(''abcd'')');
-- cut, for it may be of any length
SELECT try('SELECT increment_prompt_views(repeat(''abc'', 100000))');
SELECT try('SELECT increment_prompt_views(''{'' || repeat(''abc'', 100000) || ''}'')');
SELECT try('SELECT increment_prompt_views(''{a,b}'')');
SELECT count(*) FROM prompt_stats;
-- the hint mends it
ALTER TABLE prompt_stats DROP CONSTRAINT prompt_stats_prompt_id_fkey;
ALTER TABLE prompt_events ALTER user_id TYPE varchar(3) USING NULL, DROP CONSTRAINT prompt_events_prompt_id_fkey;
SELECT try('SELECT increment_prompt_views(''abcd'')', true);
SELECT try('SELECT track_prompt_fork(''abc'', ''lovelace'')', true);
SELECT try('SELECT track_prompt_fork(''abcd'', NULL)', true);
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts;

--
-- Rows that policies keep from the owner of the table: no count is lost without a word
--
CREATE ROLE regress_owner;
CREATE TABLE prompts (id text PRIMARY KEY);
INSERT INTO prompts VALUES ('a'), ('b'), ('c');
ALTER TABLE prompts OWNER TO regress_owner;
CREATE EXTENSION prompt_stats;
SELECT increment_prompt_views(ARRAY['a', 'b']);
ALTER TABLE prompt_stats ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY look ON prompt_stats FOR SELECT USING (prompt_id <> 'b');
SELECT try('SELECT increment_prompt_views(''a'')');
SELECT try('SELECT increment_prompt_views(''b'')') ~ '^42501 ';
SELECT try('SELECT increment_prompt_views(ARRAY[''a'', ''b''])') ~ '^42501 ';
SELECT try('SELECT increment_prompt_views(''c'')') ~ '^42501 ';
CREATE POLICY add ON prompt_stats FOR INSERT WITH CHECK (true);
SELECT try('SELECT increment_prompt_views(''b'')');
SELECT prompt_id, view_count FROM prompt_stats ORDER BY prompt_id;
SELECT try('SELECT increment_prompt_views(''a'')', true);
SELECT prompt_id, view_count FROM prompt_stats ORDER BY prompt_id;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts;
DROP ROLE regress_owner;

--
-- Functions of the same names, at CREATE EXTENSION: the DROP statements work
--
CREATE FUNCTION increment_prompt_views(prompt_id uuid) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION increment_prompt_views("Odd arg" text DEFAULT '', VARIADIC b int[] DEFAULT '{}') RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION track_compare_add(a uuid, OUT b int) LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE prompt_stats_migrate() LANGUAGE sql AS '';
CREATE AGGREGATE get_prompt_stats(int) (SFUNC = int4pl, STYPE = int);
SELECT substring(try('CREATE EXTENSION prompt_stats') FROM 'DROP .*') AS drops \gset
\echo :drops
:drops
SELECT count(*) AS left_behind FROM pg_proc WHERE proname ~ '^(increment_prompt|track_|get_prompt|prompt_stats)';
SELECT try('DROP AGGREGATE get_prompt_stats(int)') ~ '^42883';
SELECT try('DROP PROCEDURE prompt_stats_migrate()') ~ '^42883';
-- in another schema they harm nobody
CREATE SCHEMA app;
CREATE FUNCTION app.increment_prompt_views(prompt_id uuid) RETURNS void LANGUAGE sql AS '';
CREATE EXTENSION prompt_stats;
DROP EXTENSION prompt_stats;
DROP SCHEMA app CASCADE;
DROP TABLE prompt_stats, prompt_events;

-- prompts that can't be referenced
CREATE TABLE prompts (id uuid);
SELECT try('CREATE EXTENSION prompt_stats');
DROP TABLE prompts;
CREATE TABLE prompts (a uuid, b uuid, PRIMARY KEY (a, b));
SELECT try('CREATE EXTENSION prompt_stats');
DROP TABLE prompts;
CREATE TABLE prompts (a numeric PRIMARY KEY);
SELECT try('CREATE EXTENSION prompt_stats') ~ '^\w+ .*public.prompts.*\n  hint: ';
DROP TABLE prompts;
SELECT count(*) AS left_behind FROM pg_class WHERE relname ~ '^prompt_';
DROP FUNCTION try;
