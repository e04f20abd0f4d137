--
-- Counting and reading, in every way that a driver sends an argument: [1] [2] [10]
--
\pset format unaligned
\pset footer off
\set SHOW_CONTEXT never

CREATE EXTENSION prompt_stats;

\set p1 '00000000-0000-0000-0000-000000000001'
\set p2 '00000000-0000-0000-0000-000000000002'
\set p3 '00000000-0000-0000-0000-000000000003'
\set ada 'a0000000-0000-0000-0000-00000000000a'

CREATE VIEW counts AS
	SELECT right(prompt_id::text, 1) AS prompt, view_count AS views, copy_count AS copies, fork_count AS forks FROM prompt_stats;
CREATE VIEW events AS
	SELECT right(prompt_id::text, 1) AS prompt, user_id IS NULL AS anonymous, event_type, count(*) FROM prompt_events GROUP BY 1, 2, 3;

--
-- What each function counts
--
SELECT increment_prompt_views(:'p1'::uuid), increment_prompt_copies(:'p2'::uuid), increment_fork_count(:'p3'::uuid);
TABLE counts ORDER BY prompt;
-- n at once, up to a thousand million
SELECT increment_prompt_views(:'p1'::uuid, 2), increment_prompt_copies(:'p1'::uuid, 3), increment_fork_count(:'p1'::uuid, 1000000000);
TABLE counts ORDER BY prompt;
-- an array counts each element, repeated ones too; with n, each n times
SELECT increment_prompt_views(ARRAY[:'p1', :'p2', :'p2']::uuid[]), increment_prompt_copies(ARRAY[:'p3', :'p1']::uuid[], 10),
	increment_fork_count(ARRAY[:'p2', :'p2']::uuid[], 5);
TABLE counts ORDER BY prompt;
-- more than one dimension, and a lower bound that is not 1
SELECT increment_prompt_views(ARRAY[[:'p1', :'p2'], [:'p3', :'p1']]::uuid[]), increment_prompt_views(('[5:6]={' || :'p1' || ',' || :'p2' || '}')::uuid[]);
TABLE counts ORDER BY prompt;
-- events: a fork is logged and counted, compare_add is logged
SELECT track_prompt_fork(:'p2'::uuid, :'ada'::uuid), track_compare_add(:'p3'::uuid, :'ada'::uuid), track_compare_add(:'p3'::uuid, NULL::uuid);
TABLE counts ORDER BY prompt;
TABLE events ORDER BY prompt, anonymous, event_type;
-- all return void
SELECT count(*) AS functions, bool_and(prorettype = 'void'::regtype) AS void,
	bool_and(provolatile = 'v' AND proparallel = 'u' AND NOT proisstrict AND NOT prosecdef) AS declared_right
FROM pg_proc WHERE proname ~ '^(increment|track)_';

-- declared without n they count one, of each prompt
CREATE FUNCTION copy_one(id uuid) RETURNS void LANGUAGE c AS 'prompt_stats', 'increment_prompt_copies';
CREATE FUNCTION copy_some(ids text[]) RETURNS void LANGUAGE c AS 'prompt_stats', 'increment_prompt_copies';
SELECT copy_one(:'p3'), copy_some(ARRAY[:'p3', :'p2', :'p3']);
TABLE counts ORDER BY prompt;
DROP FUNCTION copy_one, copy_some;

--
-- Nothing to count
--
SELECT ctid AS before FROM prompt_stats WHERE prompt_id = :'p1' \gset
SELECT increment_prompt_views(:'p1'::uuid, 0), increment_prompt_views('{}'::uuid[]), increment_prompt_views('{}'::uuid[], 5),
	increment_prompt_views(ARRAY[:'p1']::uuid[], 0), increment_prompt_views(gen_random_uuid(), 0);
SELECT ctid = :'before' AS untouched FROM prompt_stats WHERE prompt_id = :'p1';
SELECT count(*) AS prompts FROM prompt_stats;

--
-- Every way to say the same: each adds one view to prompt 1
--
TRUNCATE prompt_stats, prompt_events;
SELECT increment_prompt_views(:'p1');
SELECT increment_prompt_views(:'p1'::text);
SELECT increment_prompt_views(:'p1'::varchar);
SELECT increment_prompt_views(:'p1'::name);
SELECT increment_prompt_views(upper(:'p1'));
SELECT increment_prompt_views(prompt_id => :'p1');
SELECT increment_prompt_views(prompt_id => :'p1'::uuid, n => 1);
SELECT increment_prompt_views(n => 1, prompt_id => :'p1');
SELECT increment_prompt_views(id => :'p1');
SELECT increment_prompt_views(id => :'p1', n => 1);
SELECT increment_prompt_views(:'p1', n => 1);
SELECT increment_prompt_views(prompt_ids => ARRAY[:'p1']::uuid[]);
SELECT increment_prompt_views(prompt_ids => ('{' || :'p1' || '}')::uuid[], n => 1);
SELECT increment_prompt_views(ids => ARRAY[:'p1']);
SELECT increment_prompt_views(ARRAY[:'p1']);
SELECT increment_prompt_views(ARRAY[:'p1']::varchar[]);
SELECT increment_prompt_views(:'p1', 1::smallint);
-- untyped parameters, as node-postgres and psycopg send them
PREPARE untyped AS SELECT increment_prompt_views($1);
EXECUTE untyped(:'p1');
PREPARE untyped_n AS SELECT increment_prompt_views($1, $2);
EXECUTE untyped_n(:'p1', 1);
PREPARE untyped_name AS SELECT increment_prompt_views(prompt_id => $1);
EXECUTE untyped_name(:'p1');
-- typed ones
PREPARE typed(uuid, int) AS SELECT increment_prompt_views($1, $2);
EXECUTE typed(:'p1', 1);
PREPARE setstring(varchar) AS SELECT increment_prompt_views($1);
EXECUTE setstring(:'p1');
PREPARE cast_array AS SELECT increment_prompt_views($1::uuid[]);
EXECUTE cast_array(ARRAY[:'p1']::uuid[]);
PREPARE text_array(text[]) AS SELECT increment_prompt_views($1);
EXECUTE text_array(ARRAY[:'p1']);
SELECT view_count AS views, count(*) OVER () AS prompts FROM prompt_stats;
DEALLOCATE ALL;
-- many plans of one session: a plan is kept through all of them
DO $$ BEGIN FOR i IN 1 .. 20 LOOP PERFORM increment_prompt_views('00000000-0000-0000-0000-000000000001'); END LOOP; END $$;
SELECT view_count AS views FROM prompt_stats;

--
-- As PostgREST calls: a role that has EXECUTE, the arguments in JSON
--
CREATE ROLE regress_anon;
TRUNCATE prompt_stats;
BEGIN;
SELECT set_config('role', 'regress_anon', true), set_config('request.jwt.claims', '{"role":"anon"}', true),
	set_config('search_path', '"public", "extensions"', true);
SELECT public.increment_prompt_views("prompt_id" := _.prompt_id)
FROM json_to_record('{"prompt_id": "00000000-0000-0000-0000-000000000001"}') AS _("prompt_id" uuid);
COMMIT;
BEGIN;
SELECT set_config('role', 'regress_anon', true);
WITH pgrst_source AS (
	SELECT public.increment_prompt_views("prompt_ids" := _.prompt_ids, "n" := _.n) AS x
	FROM json_to_record('{"prompt_ids": ["00000000-0000-0000-0000-000000000001"], "n": 2}') AS _("prompt_ids" uuid[], "n" bigint))
SELECT count(x) FROM pgrst_source;
COMMIT;
TABLE counts;
DROP ROLE regress_anon;
-- it knows overloads by the names of their arguments alone, optional ones left out
WITH f AS (
	SELECT p.proname, p.oid, a.names, required
	FROM pg_proc p
	JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e',
	LATERAL generate_series(p.pronargs::int - p.pronargdefaults, p.pronargs::int) AS required,
	LATERAL (SELECT array_agg(n ORDER BY n) FROM unnest(p.proargnames[1:required]) n) AS a(names)
	WHERE p.proname ~ '^(increment|track|get_prompt)_')
SELECT count(DISTINCT (proname, names)) = count(*) AS unique_names, count(*) AS forms, bool_and(NOT '' = ANY (names)) AS all_named FROM f;

--
-- Reading
--
TRUNCATE prompt_stats, prompt_events;
SELECT increment_prompt_views(:'p1', 5), increment_prompt_copies(:'p1', 2), increment_fork_count(:'p2', 3);
SELECT view_count, copy_count, fork_count, pending, as_of = statement_timestamp() AS now FROM get_prompt_stats(:'p1'::uuid);
SELECT view_count, copy_count, fork_count, pending FROM get_prompt_stats(:'p2');
SELECT view_count, copy_count, fork_count, pending FROM get_prompt_stats(prompt_id => :'p1');
SELECT view_count, copy_count, fork_count, pending FROM get_prompt_stats(id => :'p1');
SELECT view_count, copy_count, fork_count, pending FROM get_prompt_stats(:'p1'::varchar);
-- always one row
SELECT view_count, copy_count, fork_count, pending, as_of IS NOT NULL AS dated FROM get_prompt_stats(gen_random_uuid());
SELECT prompt_id, view_count, copy_count, fork_count, pending, as_of = statement_timestamp() AS now FROM prompt_stats_live ORDER BY prompt_id;
SELECT s.prompt_id = l.prompt_id::uuid AS joined, l.view_count FROM prompt_stats s JOIN prompt_stats_live l ON l.prompt_id = s.prompt_id::text ORDER BY s.prompt_id;
SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute WHERE attrelid = 'prompt_stats_live'::regclass AND attnum > 0 ORDER BY attnum;
-- O(1): reads by the key, however large the table
INSERT INTO prompt_stats (prompt_id) SELECT gen_random_uuid() FROM generate_series(1, 5000);
ANALYZE prompt_stats;
SELECT count(*) AS all_of_them FROM prompt_stats_live;
SELECT pg_stat_force_next_flush();
SELECT seq_tup_read > 0 AS counted FROM pg_stat_user_tables WHERE relname = 'prompt_stats';
SELECT seq_tup_read AS before FROM pg_stat_user_tables WHERE relname = 'prompt_stats' \gset
SELECT count(*) FROM generate_series(1, 20) i, LATERAL (SELECT view_count FROM get_prompt_stats(('00000000-0000-0000-0000-00000000000' || i % 3)::uuid)) g;
SELECT pg_stat_force_next_flush();
SELECT seq_tup_read - :before AS read_in_passing FROM pg_stat_user_tables WHERE relname = 'prompt_stats';
-- reading alone takes no XID, and works read only
BEGIN READ ONLY;
SELECT view_count FROM get_prompt_stats(:'p1');
SELECT count(*) > 5000 AS rows FROM prompt_stats_live;
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_xid;
COMMIT;
-- a statement sees what was counted before it, not what it counts itself
SELECT increment_prompt_views(:'p1'), (SELECT view_count FROM get_prompt_stats(:'p1'));
SELECT view_count FROM get_prompt_stats(:'p1');
-- an ordinary table: views, indexes, joins
CREATE MATERIALIZED VIEW top AS SELECT prompt_id, view_count FROM prompt_stats ORDER BY view_count DESC LIMIT 1;
CREATE INDEX ON prompt_stats (view_count DESC);
SELECT increment_prompt_views(:'p1');
REFRESH MATERIALIZED VIEW top;
SELECT view_count FROM top;
DROP MATERIALIZED VIEW top;
DROP VIEW counts, events;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events;

--
-- bigint prompts, uuid users
--
CREATE TABLE users (id uuid PRIMARY KEY);
CREATE TABLE prompts (id bigint PRIMARY KEY);
INSERT INTO prompts SELECT generate_series(1, 3);
CREATE EXTENSION prompt_stats;
-- one view of prompt 1 each
SELECT increment_prompt_views(1);
SELECT increment_prompt_views(1::bigint, 1);
SELECT increment_prompt_views(1::smallint);
SELECT increment_prompt_views('1');
SELECT increment_prompt_views(' 1 '::text);
SELECT increment_prompt_views('1'::varchar);
SELECT increment_prompt_views(prompt_no => 1);
SELECT increment_prompt_views(prompt_no => '1', n => 1);
SELECT increment_prompt_views(id => '1');
SELECT increment_prompt_views(ARRAY[1]);
SELECT increment_prompt_views(ARRAY[1]::bigint[], 1);
SELECT increment_prompt_views(prompt_nos => ARRAY[1]);
SELECT increment_prompt_views(ids => '{1}');
SELECT increment_prompt_views(ARRAY['1']);
PREPARE untyped AS SELECT increment_prompt_views($1);
EXECUTE untyped('1');
EXECUTE untyped(1);
PREPARE typed(int) AS SELECT increment_prompt_views($1);
EXECUTE typed(1);
PREPARE ints(int[]) AS SELECT increment_prompt_views($1);
EXECUTE ints(ARRAY[1]);
SELECT public.increment_prompt_views("prompt_no" := _.prompt_no) FROM json_to_record('{"prompt_no": 1}') AS _("prompt_no" bigint);
SELECT public.increment_prompt_views("id" := _.id) FROM json_to_record('{"id": 1}') AS _("id" text);
SELECT prompt_id, view_count FROM prompt_stats;
DEALLOCATE ALL;
-- every way to name a fork
SELECT track_prompt_fork(2, :'ada'::uuid);
SELECT track_prompt_fork(2, :'ada');
SELECT track_prompt_fork('2', :'ada');
SELECT track_prompt_fork(prompt_no => 2, user_id => :'ada');
SELECT track_prompt_fork(prompt_no => '2', user_key => :'ada');
SELECT track_prompt_fork(id => '2', user_uuid => :'ada');
SELECT track_prompt_fork(id => '2', user_id => :'ada');
SELECT track_prompt_fork('2'::varchar, :'ada'::varchar);
PREPARE untyped AS SELECT track_prompt_fork($1, $2);
EXECUTE untyped('2', :'ada');
PREPARE nobody AS SELECT track_prompt_fork($1, NULL);
EXECUTE nobody('2');
SELECT track_compare_add(prompt_no => 3, user_id => :'ada'), track_compare_add('3', :'ada'), track_compare_add(id => '3', user_uuid => NULL);
SELECT prompt_id, fork_count FROM prompt_stats WHERE prompt_id > 1 ORDER BY 1;
SELECT prompt_id, user_id, event_type, count(*) FROM prompt_events GROUP BY 1, 2, 3 ORDER BY 1, 2;
SELECT view_count, fork_count FROM get_prompt_stats(2);
SELECT view_count, fork_count FROM get_prompt_stats('2');
SELECT view_count, fork_count FROM get_prompt_stats(prompt_no => 2);
SELECT prompt_id, view_count, fork_count FROM prompt_stats_live ORDER BY 1;
-- PREPARE and a table that changes under it
PREPARE p AS SELECT increment_prompt_copies(3);
EXECUTE p;
ALTER TABLE prompt_stats ALTER COLUMN copy_count TYPE integer;
EXECUTE p;
ALTER TABLE prompt_stats ADD COLUMN extra text DEFAULT 'x' NOT NULL;
EXECUTE p;
SELECT copy_count, extra FROM prompt_stats WHERE prompt_id = 3;
SELECT increment_prompt_copies(ARRAY[3, 3, 3], 1000000000);
DEALLOCATE ALL;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts, users;

--
-- text prompts, bigint users
--
CREATE TABLE users (id serial PRIMARY KEY);
CREATE TABLE prompts (slug varchar(40) PRIMARY KEY);
INSERT INTO prompts VALUES ('a'), ('1'), (:'p1'), ('A b''"\'), ('{"x"');
CREATE EXTENSION prompt_stats;
SELECT increment_prompt_views('a'), increment_prompt_views('a'::varchar), increment_prompt_views(id => 'a'), increment_prompt_views(ARRAY['a', 'a']),
	increment_prompt_views(ids => ARRAY['a']), increment_prompt_views('a'::char(5)), increment_prompt_views('A b''"\'), increment_prompt_views('{"x"');
-- an id of another type is its text
SELECT increment_prompt_views(1), increment_prompt_views(:'p1'::uuid), increment_prompt_views(ARRAY[1, 1]), increment_prompt_views(ARRAY[:'p1']::uuid[]);
SELECT track_prompt_fork('a', 7), track_prompt_fork('a', '7'), track_prompt_fork(id => 'a', user_no => 7), track_prompt_fork(1, '7');
SELECT prompt_id, view_count, fork_count FROM prompt_stats ORDER BY prompt_id COLLATE "C";
SELECT prompt_id, user_id, count(*) FROM prompt_events GROUP BY 1, 2 ORDER BY prompt_id COLLATE "C";
SELECT view_count FROM get_prompt_stats('a');
SELECT view_count FROM get_prompt_stats(1);
SELECT prompt_id, view_count FROM prompt_stats_live ORDER BY prompt_id COLLATE "C";
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts, users;

--
-- Ids as an assignment brings them to their columns: blanks beyond the length of a varchar go
--
CREATE DOMAIN slug AS varchar(4);
CREATE DOMAIN short_slug AS slug;
CREATE TABLE prompt_events (id bigserial PRIMARY KEY, prompt_id slug NOT NULL, user_id varchar(3), event_type text);
CREATE TABLE prompt_stats (prompt_id short_slug PRIMARY KEY, view_count bigint, copy_count bigint, fork_count integer);
CREATE EXTENSION prompt_stats;
SELECT increment_prompt_views('four   '), increment_prompt_views(ARRAY['four', 'four '], 10), increment_prompt_views('ab '), increment_prompt_views('ab    '),
	increment_prompt_views(repeat(' ', 9)), increment_prompt_views('1234'::text || ' '), increment_prompt_views(1234);
SELECT track_prompt_fork('four     ', 'ada  '), track_compare_add('four ', 'bo');
SELECT quote_literal(prompt_id) AS prompt_id, view_count, fork_count FROM prompt_stats ORDER BY prompt_id COLLATE "C";
SELECT quote_literal(prompt_id) AS prompt_id, quote_literal(user_id) AS user_id, event_type FROM prompt_events ORDER BY id;
-- who reads finds what was counted; what is too long has no row
SELECT id, view_count FROM unnest(ARRAY['four', 'four   ', 'ab ', 'ab  ', 'fourth']) AS id, get_prompt_stats(id);
-- a wider and a narrower column, in a session that knows the table; and between a call and its commit
ALTER TABLE prompt_stats ALTER prompt_id TYPE varchar(6);
SELECT increment_prompt_views('four   ');
SELECT quote_literal(prompt_id) AS prompt_id, view_count FROM prompt_stats WHERE prompt_id ~ 'four' ORDER BY 1;
BEGIN;
SELECT increment_prompt_views('seven '), increment_prompt_views('seven');
ALTER TABLE prompt_stats ALTER prompt_id TYPE varchar(5);
COMMIT;
SELECT quote_literal(prompt_id) AS prompt_id, view_count FROM prompt_stats WHERE prompt_id ~ '(four|seven)' ORDER BY 1;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events;
DROP DOMAIN short_slug, slug;

--
-- BEFORE INSERT triggers: the count is in the row that they have made of it
--
CREATE TABLE prompt_events (id bigserial PRIMARY KEY, prompt_id text NOT NULL, user_id text, event_type text);
CREATE TABLE prompt_stats (prompt_id text PRIMARY KEY, view_count bigint NOT NULL, copy_count bigint, fork_count integer);
CREATE EXTENSION prompt_stats;
CREATE FUNCTION tidy_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.prompt_id = 'no' THEN
		RETURN NULL;
	END IF;
	NEW.prompt_id := lower(btrim(NEW.prompt_id));
	NEW.view_count := NEW.view_count + 100;
	RETURN NEW;
END $$;
CREATE TRIGGER tidy_row BEFORE INSERT ON prompt_stats FOR EACH ROW EXECUTE FUNCTION tidy_row();
CREATE FUNCTION count_them() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM increment_prompt_views(id) FROM unnest(ARRAY['ABC', 'abc', ' Abc ', 'ABC', 'no']) AS id;
	PERFORM increment_prompt_views(ARRAY['ABC', 'X', 'abc', 'aBC', 'x', 'no', 'ABC']);
	PERFORM increment_prompt_copies(ARRAY['ABC', 'x'], 3);
	RETURN current_setting('prompt_stats.durability');
END $$;
-- what it adds when a row is made is not added again
SET prompt_stats.durability = 'transaction';
SELECT count_them();
SELECT * FROM prompt_stats ORDER BY prompt_id;
SET prompt_stats.durability = 'group';
SELECT count_them();
SELECT * FROM prompt_stats ORDER BY prompt_id;
BEGIN;
SELECT count_them();
CREATE TEMP TABLE writes ();
COMMIT;
SELECT * FROM prompt_stats ORDER BY prompt_id;
SET prompt_stats.durability = 'async';
SELECT count_them();
SELECT prompt_stats_flush();
SELECT * FROM prompt_stats ORDER BY prompt_id;
-- one that is turned off has no say
ALTER TABLE prompt_stats DISABLE TRIGGER tidy_row;
SET prompt_stats.durability = 'transaction';
SELECT increment_prompt_views('ABC');
SELECT prompt_id, view_count FROM prompt_stats ORDER BY prompt_id COLLATE "C";
ALTER TABLE prompt_stats ENABLE REPLICA TRIGGER tidy_row;
SELECT increment_prompt_views('new'), increment_prompt_views(ARRAY['new', 'ABC', 'Newer']);
SELECT prompt_id, view_count FROM prompt_stats ORDER BY prompt_id COLLATE "C";
-- no room in the row that it chooses
ALTER TABLE prompt_stats ENABLE TRIGGER tidy_row;
UPDATE prompt_stats SET view_count = 9223372036854775807, fork_count = 2147483647 WHERE prompt_id = 'x';
SELECT increment_prompt_views('X');
SELECT increment_fork_count(ARRAY['X', 'abc']);
SELECT prompt_id, fork_count FROM prompt_stats WHERE prompt_id IN ('x', 'abc') ORDER BY 1;
RESET prompt_stats.durability;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, writes;
DROP FUNCTION tidy_row, count_them;
