-- Each call by itself; test "durability" has the other modes
SET prompt_stats.durability = 'transaction';
--
-- What a review found, once each: [4] [6] [7] [9] [10] [13] [16] [18]
--
\pset format unaligned
\pset footer off
\pset tuples_only on
\set SHOW_CONTEXT never

CREATE FUNCTION id(i int) RETURNS uuid IMMUTABLE LANGUAGE sql AS $$ SELECT lpad(i::text, 32, '0')::uuid $$;
-- 'ok', or SQLSTATE, message and hint; with mend, runs the statement of the hint and tries again
CREATE FUNCTION try(sql text, mend boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	m text;
	h text;
BEGIN
	EXECUTE sql;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, h = PG_EXCEPTION_HINT;
	m := SQLSTATE || ' ' || m || COALESCE(E'\n  hint: ' || NULLIF(h, ''), E'\n  no hint');
	IF mend THEN
		EXECUTE substring(h FROM '(?:ALTER|DROP|SELECT|DELETE) [^;]*;?');
		m := m || E'\n  mended: ' || try(sql);
	END IF;
	RETURN m;
END $$;
-- The checks of an event table
CREATE FUNCTION checks(tab regclass) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s %s: %s', conname, CASE WHEN convalidated THEN 'valid' ELSE 'not valid' END, pg_get_expr(conbin, conrelid))
	FROM pg_constraint WHERE conrelid = tab AND contype = 'c' ORDER BY conname COLLATE "C"
$$;
CREATE ROLE regress_owner;
CREATE ROLE regress_other;
CREATE SCHEMA site AUTHORIZATION regress_owner;

--
-- A check that its owner could not evaluate, but that would work for a superuser
--
SET ROLE regress_owner;
CREATE DOMAIN site.kind AS text CHECK (set_config('session_replication_role', 'replica', false) IS NOT NULL);
CREATE FUNCTION site.is_kind(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'evaluated as %', current_user; END $$;
CREATE TABLE site.prompt_stats (prompt_id uuid PRIMARY KEY, view_count bigint DEFAULT 0, copy_count bigint DEFAULT 0, fork_count bigint DEFAULT 0);
CREATE TABLE site.prompt_events (prompt_id uuid, user_id uuid, event_type text);
INSERT INTO site.prompt_events SELECT public.id(1), NULL, k FROM unnest('{compare_add,compare_add}'::text[]) k;
ALTER TABLE site.prompt_events ADD CONSTRAINT "Setting" CHECK (set_config('session_replication_role', 'replica', false) IS NOT NULL AND event_type IN ('view', 'fork', 'compare_add')) NOT VALID;
RESET ROLE;
CREATE EXTENSION prompt_stats SCHEMA site;
SHOW session_replication_role;
SELECT checks('site.prompt_events');
-- of a domain, and of a function
ALTER TABLE site.prompt_events DROP CONSTRAINT "Setting",
	ADD CONSTRAINT of_domain CHECK (event_type::site.kind IN ('view', 'fork', 'compare_add')) NOT VALID;
SELECT check_name, detail FROM site.prompt_stats_verify() WHERE NOT ok;
SHOW session_replication_role;
SELECT site.prompt_stats_setup();
SHOW session_replication_role;
SELECT checks('site.prompt_events');
ALTER TABLE site.prompt_events DROP CONSTRAINT of_domain, ADD CONSTRAINT of_function CHECK (site.is_kind(event_type)) NOT VALID;
SELECT check_name, detail FROM site.prompt_stats_verify() WHERE NOT ok;
SELECT site.prompt_stats_setup();
SELECT checks('site.prompt_events');
SELECT bool_and(ok) FROM site.prompt_stats_verify();
SHOW session_replication_role;
DROP EXTENSION prompt_stats;
DROP TABLE site.prompt_events, site.prompt_stats;

--
-- Default privileges that give everything away
--
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_other, PUBLIC;
CREATE EXTENSION prompt_stats SCHEMA site;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM regress_other, PUBLIC;
GRANT USAGE ON SCHEMA site TO regress_other;
-- the one is config, which admits only what the inserter may choose
SELECT count(*) AS relations, count(*) FILTER (WHERE has_table_privilege('regress_other', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')) AS writable,
	string_agg(relname, ' ' ORDER BY relname COLLATE "C") FILTER (WHERE has_table_privilege('regress_other', c.oid, 'SELECT')) AS readable
FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
JOIN pg_extension e ON e.extname = 'prompt_stats' AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE c.relkind IN ('r', 'v');
SET ROLE regress_other;
SELECT tab, try(format('DELETE FROM %s.%I', home, tab)) ~ '^(42501|55000)' AS no_delete, try(format('UPDATE %s.%s SET %s = NULL', home, tab, col)) ~ '^(42501|55000)' AS no_update
FROM (VALUES ('site', 'prompt_stats_migration_progress', 'mode'), ('site', 'prompt_stats_live', 'view_count'),
	('prompt_stats_internal', 'config', 'events'), ('prompt_stats_internal', 'migration', 'mode')) v(home, tab, col);
SELECT count(*) FROM site.prompt_stats_live;
SELECT count(*) FROM site.prompt_stats_migration_progress;
RESET ROLE;
DROP EXTENSION prompt_stats;
DROP TABLE site.prompt_events, site.prompt_stats;

--
-- A default of the table's that changes a setting of the session's
--
SET ROLE regress_owner;
CREATE TABLE site.prompt_stats (prompt_id uuid PRIMARY KEY, view_count bigint DEFAULT 0, copy_count bigint DEFAULT 0, fork_count bigint DEFAULT 0,
	note text DEFAULT set_config('search_path', 'evil', false));
CREATE TABLE site.prompt_events (prompt_id uuid, user_id uuid, event_type text);
RESET ROLE;
CREATE EXTENSION prompt_stats SCHEMA site;
SELECT site.increment_prompt_views(id(1));
SHOW search_path;
SELECT site.increment_prompt_copies(ARRAY[id(1), id(2), id(3)]), site.track_prompt_fork(id(4), NULL);
SHOW search_path;
SELECT right(prompt_id::text, 1), view_count, copy_count, fork_count, note FROM site.prompt_stats ORDER BY prompt_id;

--
-- A deferrable trigger that shares its name with another table's
--
SET ROLE regress_owner;
CREATE FUNCTION site.look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '% of %', TG_OP, TG_TABLE_NAME; RETURN NULL; END $$;
CREATE TABLE site.other (i int);
CREATE CONSTRAINT TRIGGER look AFTER INSERT OR UPDATE ON site.prompt_stats DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION site.look();
CREATE CONSTRAINT TRIGGER look AFTER INSERT OR UPDATE ON site.other DEFERRABLE INITIALLY IMMEDIATE FOR EACH ROW EXECUTE FUNCTION site.look();
RESET ROLE;
SELECT try('SELECT site.increment_prompt_views(id(1))');
SELECT view_count FROM site.prompt_stats WHERE prompt_id = id(1);
SELECT try('SELECT site.increment_prompt_views(id(1))', true);
SELECT view_count FROM site.prompt_stats WHERE prompt_id = id(1);
-- the other's is left as it was
BEGIN;
SET CONSTRAINTS site.look DEFERRED;
INSERT INTO site.other VALUES (1);
SELECT site.increment_prompt_views(id(1));
\echo commit
COMMIT;
DROP EXTENSION prompt_stats;
DROP TABLE site.prompt_events, site.prompt_stats, site.other;
DROP FUNCTION site.look;

--
-- Triggers of the tables that leave a row out: no count without an event, none without an error elsewhere
--
CREATE EXTENSION prompt_stats;
CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER veto BEFORE INSERT ON prompt_events FOR EACH ROW WHEN (NEW.prompt_id = id(1)) EXECUTE FUNCTION veto();
SELECT track_prompt_fork(id(1), NULL), track_compare_add(id(1), NULL), track_prompt_fork(id(2), NULL);
SELECT right(prompt_id::text, 1), event_type FROM prompt_events;
SELECT right(prompt_id::text, 1), fork_count FROM prompt_stats;
DROP TRIGGER veto ON prompt_events;
SELECT increment_prompt_views(ARRAY[id(1), id(2), id(3)], 10);
CREATE TRIGGER veto BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = id(1)) EXECUTE FUNCTION veto();
SELECT try('SELECT increment_prompt_views(id(1))'), try('SELECT increment_prompt_copies(ARRAY[id(1), id(2), id(4)])'), try('SELECT track_prompt_fork(id(1), NULL)');
SELECT right(prompt_id::text, 1), view_count, copy_count, fork_count FROM prompt_stats ORDER BY prompt_id;
-- one that has no room is an error all the same
UPDATE prompt_stats SET view_count = 9223372036854775807 WHERE prompt_id = id(2);
SELECT try('SELECT increment_prompt_views(ARRAY[id(1), id(2)])') ~ '^22003 ';
-- and one that has just enough is none
UPDATE prompt_stats SET view_count = 9223372036854775807 - 12 WHERE prompt_id = id(2);
SELECT try('SELECT increment_prompt_views(ARRAY[id(1), id(2)], 12)');
SELECT right(prompt_id::text, 1), view_count FROM prompt_stats WHERE prompt_id IN (id(1), id(2)) ORDER BY prompt_id;
DROP TRIGGER veto ON prompt_stats;

--
-- Reading: never a view that takes the place of the table
--
SELECT view_count FROM get_prompt_stats(id(3));
SELECT count(*) FROM prompt_stats_live;
ALTER TABLE prompt_stats RENAME TO kept;
CREATE FUNCTION run() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE 'the view is run'; END $$;
CREATE VIEW prompt_stats AS SELECT prompt_id, run() AS view_count, copy_count, fork_count FROM kept;
SELECT try('SELECT * FROM get_prompt_stats(id(3))');
SELECT try('SELECT count(*) FROM prompt_stats_live') ~ '^42809 ';
DROP VIEW prompt_stats;
DROP FUNCTION run;
ALTER TABLE kept RENAME TO prompt_stats;
SELECT view_count FROM get_prompt_stats(id(3));
SELECT count(*) FROM prompt_stats_live;

--
-- A child that has gone
--
CREATE TABLE kid () INHERITS (prompt_stats);
SELECT try('SELECT increment_prompt_views(id(3))') ~ '^42809 ';
SELECT try('SELECT * FROM get_prompt_stats(id(3))') ~ '^42809 ';
DROP TABLE kid;
SELECT try('SELECT increment_prompt_views(id(3))');
SELECT view_count FROM get_prompt_stats(id(3));
CREATE TABLE kid () INHERITS (prompt_events);
SELECT try('SELECT track_prompt_fork(id(3), NULL)') ~ '^42809 ';
DROP TABLE kid;
SELECT try('SELECT track_prompt_fork(id(3), NULL)');
SELECT try('SELECT prompt_stats_setup()');

--
-- A uuid in braces is no array
--
SELECT increment_prompt_views('{00000000-0000-0000-0000-000000000003}'), increment_prompt_views(ARRAY['{00000000-0000-0000-0000-000000000003}']);
SELECT track_prompt_fork('{00000000-0000-0000-0000-000000000003}', '{00000000-0000-0000-0000-000000000003}');
SELECT view_count, fork_count FROM get_prompt_stats('{00000000-0000-0000-0000-000000000003}');
SELECT try('SELECT get_prompt_stats(''{00000000-0000-0000-0000-000000000003,00000000-0000-0000-0000-000000000004}'')') ~ '^22P02 an array literal';
SELECT try('SELECT increment_prompt_views(''{0000000000000000000000000000000000,1}'')') ~ '^22P02 ';

DROP EXTENSION prompt_stats;
DROP TABLE prompt_events, prompt_stats;

--
-- Who may choose the tables, where there are none yet
--
SET prompt_stats.skip_setup = on;
CREATE EXTENSION prompt_stats;
RESET prompt_stats.skip_setup;
SET ROLE regress_owner;
CREATE TABLE site.stats (prompt_id uuid PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
CREATE TABLE site.events (prompt_id uuid, user_id uuid, event_type text);
SELECT try('SELECT prompt_stats_setup(''site.events'', ''site.stats'')');
RESET ROLE;
SELECT events, stats FROM prompt_stats_tables();
SELECT count(*) FROM prompt_stats_internal.config;
-- the hint's grant is enough
GRANT CREATE ON SCHEMA public TO regress_owner;
SET ROLE regress_owner;
SELECT prompt_stats_setup('site.events', 'site.stats');
RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM regress_owner;
SELECT events, stats FROM prompt_stats_tables();
-- and from now on they are another's, who must own them
CREATE SCHEMA other AUTHORIZATION regress_other;
SET ROLE regress_other;
CREATE TABLE other.stats (prompt_id uuid PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
CREATE TABLE other.events (prompt_id uuid, user_id uuid, event_type text);
SELECT try('SELECT prompt_stats_setup(''other.events'', ''other.stats'')') ~ '^42501 ';
RESET ROLE;
SELECT events, stats FROM prompt_stats_tables();
DROP EXTENSION prompt_stats;
DROP TABLE site.events, site.stats, other.events, other.stats;

--
-- Tables of other shapes
--
SET prompt_stats.skip_setup = on;
CREATE EXTENSION prompt_stats;
RESET prompt_stats.skip_setup;
-- counters that are NOT NULL and have no default
CREATE TABLE prompt_stats (prompt_id uuid PRIMARY KEY, view_count integer NOT NULL, copy_count bigint NOT NULL, fork_count integer NOT NULL);
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type text, CONSTRAINT kinds CHECK (event_type IS NOT NULL AND event_type IN ('fork', 'compare_add', 'share')));
SELECT prompt_stats_setup();
SELECT increment_prompt_views(id(1)), increment_prompt_copies(ARRAY[id(1), id(2)]), track_prompt_fork(id(3), NULL);
SELECT right(prompt_id::text, 1), view_count, copy_count, fork_count FROM prompt_stats ORDER BY prompt_id;
-- a third kind is no more
SELECT checks('prompt_events');
SELECT try('INSERT INTO prompt_events (event_type) VALUES (''share'')') ~ '^23514 ';
DROP TABLE prompt_events;
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type text, CONSTRAINT kinds CHECK (event_type IS NOT NULL AND event_type = 'fork' OR event_type = 'compare_add' OR event_type LIKE 'x%'));
SELECT prompt_stats_setup();
SELECT checks('prompt_events');
-- created_at: only that of events is written
DROP TABLE prompt_stats;
CREATE TABLE prompt_stats (prompt_id uuid PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint, created_at timestamptz NOT NULL);
SELECT try('SELECT prompt_stats_setup()');
ALTER TABLE prompt_stats ALTER created_at SET DEFAULT now();
SELECT prompt_stats_setup();
SELECT increment_prompt_views(id(1));
SELECT view_count, created_at > now() - interval '1 hour' AS dated FROM prompt_stats;
-- a domain that has no room for compare_add
CREATE DOMAIN short AS varchar(5);
CREATE DOMAIN shorter AS short;
CREATE DOMAIN wide AS varchar(11);
DROP TABLE prompt_events;
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type short);
SELECT try('SELECT prompt_stats_setup()', true);
DROP TABLE prompt_events;
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type shorter);
SELECT try('SELECT prompt_stats_setup()') ~ '^42804 ';
DROP TABLE prompt_events;
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type wide);
SELECT prompt_stats_setup();
SELECT track_compare_add(id(1), NULL);
SELECT event_type FROM prompt_events;
-- its check is known again
SELECT prompt_stats_setup();
SELECT count(*) FROM checks('prompt_events');
DROP TABLE prompt_events, prompt_stats;
DROP DOMAIN short, shorter, wide;
-- ids of four bytes, in arrays
CREATE TABLE prompts (id integer PRIMARY KEY);
INSERT INTO prompts SELECT generate_series(1, 9);
CREATE TABLE prompt_stats (prompt_id integer PRIMARY KEY REFERENCES prompts, view_count integer, copy_count integer, fork_count integer);
CREATE TABLE prompt_events (prompt_id integer, user_id integer, event_type text);
SELECT prompt_stats_setup();
INSERT INTO prompt_stats VALUES (2, 10), (5, 10);
SELECT increment_prompt_views(ARRAY[2, 5]), increment_prompt_views(ARRAY[1, 3]::bigint[]), increment_prompt_views(ARRAY[5, 4, 2, 5]), increment_prompt_copies(ARRAY['1', '9']), track_prompt_fork(9, 7);
TABLE prompt_stats ORDER BY 1;
SELECT prompt_id, view_count FROM prompt_stats_live ORDER BY 1;
SELECT try('SELECT increment_prompt_views(ARRAY[1, 10])') ~ '^23503 ';
DROP TABLE prompt_events, prompt_stats, prompts;

--
-- A mode that there is none of changes nothing; a batch does not need our check
--
CREATE TABLE prompt_stats (prompt_id uuid PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type text, CONSTRAINT old CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add')));
INSERT INTO prompt_events SELECT id(1 + i % 3), NULL, 'view' FROM generate_series(1, 30) i;
CALL prompt_stats_migrate(mode => 'typo');
CALL prompt_stats_migrate(unmovable => 'typo');
CALL prompt_stats_migrate(batch_size => 0);
SELECT checks('prompt_events');
SELECT count(*) FROM prompt_events;
SELECT try('SELECT prompt_stats_migrate_batch(10)');
SELECT checks('prompt_events');
SELECT count(*) FROM prompt_events;
SELECT count(*) FROM prompt_stats;
SELECT count(*) FROM prompt_stats_migration_progress;
SELECT sum(view_count) FROM prompt_stats;
SELECT count(*) FROM prompt_events;
-- once it has gone, too
ALTER TABLE prompt_events DROP CONSTRAINT old;
SELECT try('SELECT prompt_stats_migrate_batch(10)');
SELECT sum(view_count) FROM prompt_stats;
CALL prompt_stats_migrate();
SELECT sum(view_count) FROM prompt_stats;
DROP TABLE prompt_events, prompt_stats;

--
-- A trigger that keeps some of the rows: the others are moved and counted
--
CREATE TABLE prompt_stats (prompt_id uuid PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type text, n int, keep boolean);
INSERT INTO prompt_events SELECT id(1 + i % 3), NULL, CASE WHEN i % 4 = 0 THEN 'copy' ELSE 'view' END, i, i % 5 = 0 FROM generate_series(1, 600) i;
CREATE TABLE expected AS
	SELECT prompt_id, count(*) FILTER (WHERE event_type = 'view') AS views, count(*) FILTER (WHERE event_type = 'copy') AS copies
	FROM prompt_events WHERE NOT keep GROUP BY 1;
CREATE TABLE deleted (n int);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF OLD.keep THEN
		RETURN NULL;
	END IF;
	INSERT INTO deleted VALUES (OLD.n);
	RETURN OLD;
END $$;
CREATE TRIGGER keep BEFORE DELETE ON prompt_events FOR EACH ROW EXECUTE FUNCTION keep();
SELECT prompt_stats_setup();
CREATE PROCEDURE run_batches(size int, mode text DEFAULT 'add') LANGUAGE plpgsql AS $$
DECLARE
	moved bigint;
	total bigint := 0;
BEGIN
	FOR i IN 1 .. 1000 LOOP
		moved := prompt_stats_migrate_batch(size, mode, accept => '{delete trigger}');
		total := total + moved;
		COMMIT;
		EXIT WHEN moved = 0;
	END LOOP;
	RAISE NOTICE 'moved %, then %', total, moved;
END $$;
CALL run_batches(7);
SELECT count(*) AS rows, bool_and(keep) AS kept FROM prompt_events;
SELECT count(*) AS deleted, count(DISTINCT n) AS once FROM deleted;
SELECT count(*) AS prompts, count(*) FILTER (WHERE (e.views, e.copies) IS DISTINCT FROM (s.view_count, s.copy_count)) AS wrong FROM expected e FULL JOIN prompt_stats s USING (prompt_id);
SELECT phase, rows_moved, views_moved + copies_moved AS counted FROM prompt_stats_migration_progress;
-- the rest, when it may go
DROP TRIGGER keep ON prompt_events;
CALL prompt_stats_migrate(100);
SELECT sum(view_count), sum(copy_count) FROM prompt_stats;
SELECT count(*) FROM prompt_events;
DROP TABLE prompt_events, prompt_stats, expected, deleted;
DROP FUNCTION keep;

--
-- Rows that the counters hold already, while rows of the counters are deleted
--
CREATE TABLE prompt_stats (prompt_id uuid PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
INSERT INTO prompt_stats SELECT id(i), 100 * i, 10 * i, 0 FROM generate_series(1, 5) i;
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type text);
INSERT INTO prompt_events SELECT id(i), NULL, k FROM generate_series(1, 5) i, unnest('{view,view,view,view,copy}'::text[]) k ORDER BY i;
SELECT prompt_stats_setup();
SELECT prompt_stats_migrate_batch(7, 'keep');
SELECT right(prompt_id::text, 1), view_count, copy_count FROM prompt_stats ORDER BY prompt_id;
DELETE FROM prompt_stats WHERE prompt_id IN (id(2), id(3), id(4));
SELECT increment_prompt_views(ARRAY[id(4), id(5)]);
CALL run_batches(5, 'keep');
SELECT right(prompt_id::text, 1), view_count, copy_count FROM prompt_stats ORDER BY prompt_id;
SELECT check_name, detail FROM prompt_stats_verify() WHERE NOT ok;
SELECT count(*) FROM prompt_events;

DROP EXTENSION prompt_stats;
DROP TABLE prompt_events, prompt_stats;
DROP PROCEDURE run_batches;
DROP FUNCTION veto, checks, try, id;
DROP FUNCTION site.is_kind;
DROP DOMAIN site.kind;
DROP SCHEMA site, other;
DROP ROLE regress_owner, regress_other;
