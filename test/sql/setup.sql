-- Each call by itself; test "durability" has the other modes
SET prompt_stats.durability = 'transaction';
--
-- Installing and leaving: [11] [12] [14]
--
\pset format unaligned
\pset footer off
\set SHOW_CONTEXT never

-- Columns, keys and defaults of the two tables
CREATE VIEW shape AS
	SELECT c.oid::regclass AS tab, a.attnum, a.attname AS col, format_type(a.atttypid, a.atttypmod) AS type,
		a.attnotnull AS not_null, pg_get_expr(d.adbin, d.adrelid) AS "default"
	FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
	LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
	WHERE c.relname IN ('prompt_events', 'prompt_stats') AND c.relkind = 'r' AND a.attnum > 0;
CREATE VIEW keys AS
	SELECT conrelid::regclass AS tab, conname, pg_get_constraintdef(oid) AS definition
	FROM pg_constraint
	WHERE conrelid IN (SELECT oid FROM pg_class WHERE relname IN ('prompt_events', 'prompt_stats'))
	AND contype <> 'n';
CREATE VIEW members AS
	SELECT objid::regclass AS member FROM pg_depend
	WHERE classid = 'pg_class'::regclass AND deptype = 'e' AND refclassid = 'pg_extension'::regclass
	AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'prompt_stats');

--
-- An empty database
--
SHOW shared_preload_libraries;
CREATE EXTENSION prompt_stats;
SELECT tab, col, type, not_null, "default" FROM shape ORDER BY tab::text, attnum;
SELECT * FROM keys ORDER BY tab::text, conname;
SELECT indexdef FROM pg_indexes WHERE tablename IN ('prompt_events', 'prompt_stats') ORDER BY 1;
-- room for HOT
SELECT relname, 'fillfactor=70' = ANY (reloptions) AS room FROM pg_class WHERE oid = 'prompt_stats'::regclass;
-- the tables are the application's
SELECT count(*) AS members_of_ours FROM members WHERE member IN ('prompt_events'::regclass, 'prompt_stats'::regclass);
SELECT events, stats, prompts IS NULL AS no_prompts FROM prompt_stats_tables();
SELECT bool_and(ok) AS verified FROM prompt_stats_verify();
-- counting sets updated_at
SELECT increment_prompt_views('00000000-0000-0000-0000-000000000001');
SELECT view_count, copy_count, fork_count, updated_at = now() AS of_then FROM prompt_stats;
BEGIN;
SELECT increment_prompt_copies('00000000-0000-0000-0000-000000000001');
SELECT view_count, copy_count, fork_count, updated_at = now() AS now FROM prompt_stats;
COMMIT;
-- the check is there and holds
\set VERBOSITY terse
INSERT INTO prompt_events (prompt_id, event_type) VALUES (gen_random_uuid(), 'view');
INSERT INTO prompt_events (prompt_id, event_type) VALUES (gen_random_uuid(), NULL);
INSERT INTO prompt_events (prompt_id, event_type) VALUES (gen_random_uuid(), 'fork'), (gen_random_uuid(), 'compare_add');
\set VERBOSITY default
-- setup again changes nothing
SELECT prompt_stats_setup();
SELECT count(*) AS checks FROM pg_constraint WHERE conrelid = 'prompt_events'::regclass AND contype = 'c';

--
-- Leaving, and coming back
--
DROP EXTENSION prompt_stats;
SELECT view_count, copy_count, fork_count FROM prompt_stats;
SELECT event_type FROM prompt_events ORDER BY 1;
SELECT count(*) AS checks FROM pg_constraint WHERE conrelid = 'prompt_events'::regclass AND contype = 'c';
UPDATE prompt_stats SET updated_at = '-infinity';
CREATE EXTENSION prompt_stats;
SELECT increment_prompt_views('00000000-0000-0000-0000-000000000001');
SELECT view_count, copy_count, fork_count, updated_at > '-infinity' AS set_again FROM prompt_stats;
SELECT count(*) AS members_of_ours FROM members WHERE member IN ('prompt_events'::regclass, 'prompt_stats'::regclass);
-- a table can go and come back while the session stays
DROP TABLE prompt_stats;
SELECT increment_prompt_views('00000000-0000-0000-0000-000000000001');
SELECT prompt_stats_setup();
SELECT increment_prompt_views('00000000-0000-0000-0000-000000000001', 2);
SELECT view_count FROM prompt_stats;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events;

--
-- Beside a table prompts: its key's type, its owner, ON DELETE CASCADE
--
CREATE ROLE regress_prompts_owner NOLOGIN;
GRANT CREATE ON SCHEMA public TO regress_prompts_owner;
CREATE TABLE prompts (no bigint PRIMARY KEY, title text);
CREATE TABLE users (name varchar(20) PRIMARY KEY);
ALTER TABLE prompts OWNER TO regress_prompts_owner;
INSERT INTO prompts VALUES (1, 'one'), (2, 'two');
CREATE EXTENSION prompt_stats;
SELECT tab, col, type FROM shape WHERE col IN ('prompt_id', 'user_id') ORDER BY tab::text, attnum;
SELECT tab, definition FROM keys WHERE definition LIKE 'FOREIGN%' ORDER BY tab::text;
SELECT relname, relowner::regrole FROM pg_class WHERE relname IN ('prompt_events', 'prompt_stats') ORDER BY 1;
SELECT events, stats, prompts FROM prompt_stats_tables();
SELECT increment_prompt_views(ARRAY[1, 2, 2]);
SELECT track_prompt_fork(2, 'ada');
SELECT prompt_id, view_count, fork_count FROM prompt_stats ORDER BY 1;
SELECT prompt_id, user_id, event_type FROM prompt_events;
DELETE FROM prompts WHERE no = 2;
SELECT prompt_id, view_count FROM prompt_stats ORDER BY 1;
SELECT count(*) AS events FROM prompt_events;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts, users;

-- text; a table of users whose key can't be an id of ours is no reason to fail
CREATE TABLE prompts (slug text PRIMARY KEY);
CREATE TABLE users (first text, last text);
INSERT INTO prompts VALUES ('a slug');
CREATE EXTENSION prompt_stats;
SELECT tab, col, type FROM shape WHERE col = 'prompt_id' ORDER BY tab::text, attnum;
SELECT increment_prompt_views('a slug');
SELECT prompt_id, view_count FROM prompt_stats;
DROP EXTENSION prompt_stats;
DROP TABLE IF EXISTS prompt_stats, prompt_events;
DROP TABLE prompts, users;

-- integer
CREATE TABLE prompts (id integer PRIMARY KEY);
INSERT INTO prompts VALUES (7);
CREATE EXTENSION prompt_stats;
SELECT tab, col, type FROM shape WHERE col IN ('prompt_id', 'user_id') ORDER BY tab::text, attnum;
SELECT increment_prompt_views(7), increment_prompt_views('7'), increment_prompt_views(7::bigint);
SELECT prompt_id, view_count FROM prompt_stats;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts;

--
-- Only one of the two is missing
--
CREATE TABLE prompt_stats (prompt_id bigint PRIMARY KEY, view_count integer, copy_count integer, fork_count integer,
	updated_at timestamptz DEFAULT now());
INSERT INTO prompt_stats VALUES (1, 5, NULL, 0, '-infinity');
CREATE EXTENSION prompt_stats;
SELECT tab, col, type FROM shape WHERE col = 'prompt_id' ORDER BY tab::text, attnum;
SELECT track_prompt_fork(1, 2);
-- updated_at is not ours to set here
SELECT * FROM prompt_stats;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events;

--
-- skip_setup leaves every table alone
--
SET prompt_stats.skip_setup = on;
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type text CHECK (event_type IN ('view', 'fork', 'compare_add')));
CREATE EXTENSION prompt_stats;
RESET prompt_stats.skip_setup;
SELECT tab, conname, definition FROM keys;
SELECT to_regclass('prompt_stats') IS NULL AS not_created;
SELECT increment_prompt_views('00000000-0000-0000-0000-000000000001');
-- setup does it later
SELECT prompt_stats_setup();
SELECT tab, definition FROM keys ORDER BY tab::text;
SELECT increment_prompt_views('00000000-0000-0000-0000-000000000001');
SELECT view_count FROM prompt_stats;

--
-- Other names, other schemas
--
CREATE SCHEMA app;
CREATE TABLE app."Prompt Log" (prompt_id text, user_id text, event_type varchar(20), created_at timestamp NOT NULL);
CREATE TABLE app.counters (prompt_id varchar(10) UNIQUE, view_count bigint, copy_count bigint, fork_count bigint);
SELECT prompt_stats_setup('app."Prompt Log"', 'app.counters');
SELECT events, stats FROM prompt_stats_tables();
SELECT increment_prompt_views('p1'), track_prompt_fork('p1', 'ada');
SELECT * FROM app.counters;
SELECT prompt_id, user_id, event_type, created_at <= now() AS dated FROM app."Prompt Log";
SELECT view_count, copy_count, fork_count, pending FROM get_prompt_stats('p1');
SELECT sum(view_count) AS not_here FROM prompt_stats WHERE prompt_id <> '00000000-0000-0000-0000-000000000001';
-- a rename is noticed
ALTER TABLE app.counters RENAME TO counters2;
ALTER SCHEMA app RENAME TO app2;
SELECT increment_prompt_views('p1');
SELECT view_count FROM app2.counters2;
-- back to the usual ones
SELECT prompt_stats_setup('public.prompt_events', 'public.prompt_stats');
SELECT events, stats FROM prompt_stats_tables();
SELECT increment_prompt_views('00000000-0000-0000-0000-000000000001');
SELECT view_count FROM prompt_stats;
DROP EXTENSION prompt_stats;
SELECT count(*) AS left_alone FROM app2.counters2;
DROP SCHEMA app2 CASCADE;
DROP TABLE prompt_stats, prompt_events;

--
-- The extension in a schema of its own, the tables where prompts is
--
CREATE SCHEMA ext;
CREATE TABLE prompts (id uuid PRIMARY KEY DEFAULT '00000000-0000-0000-0000-000000000001');
INSERT INTO prompts DEFAULT VALUES;
CREATE EXTENSION prompt_stats SCHEMA ext;
SELECT events, stats, prompts FROM ext.prompt_stats_tables();
SELECT ext.increment_prompt_views('00000000-0000-0000-0000-000000000001');
SELECT view_count, pending FROM ext.get_prompt_stats('00000000-0000-0000-0000-000000000001');
SELECT prompt_id, view_count FROM ext.prompt_stats_live;
SELECT bool_and(ok) AS verified FROM ext.prompt_stats_verify();
CALL ext.prompt_stats_migrate();
-- in no search_path at all
SET search_path = '';
SELECT ext.increment_prompt_views('00000000-0000-0000-0000-000000000001');
SELECT view_count FROM public.prompt_stats;
RESET search_path;
-- DROP EXTENSION and DROP SCHEMA leave the tables
DROP EXTENSION prompt_stats;
DROP SCHEMA ext;
SELECT view_count FROM prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts;

--
-- In a schema of its own, with nothing there yet
--
CREATE EXTENSION prompt_stats SCHEMA app2;
CREATE SCHEMA app2;
CREATE EXTENSION prompt_stats SCHEMA app2;
SELECT events, stats FROM app2.prompt_stats_tables();
SELECT app2.increment_prompt_views('00000000-0000-0000-0000-000000000001');
DROP EXTENSION prompt_stats;
SELECT view_count FROM app2.prompt_stats;
DROP SCHEMA app2 CASCADE;

--
-- The opt-in trigger is the one thing that a DROP must hear of
--
CREATE EXTENSION prompt_stats;
SELECT prompt_stats_enable_compat();
DROP EXTENSION prompt_stats;
SELECT prompt_stats_teardown();
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events;

REVOKE CREATE ON SCHEMA public FROM regress_prompts_owner;
DROP ROLE regress_prompts_owner;
DROP VIEW members, keys, shape;
