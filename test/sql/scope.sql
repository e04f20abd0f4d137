-- What the code of a table's owner may do and see while it runs for somebody who counts, each by
-- itself: nothing that would outlive the count, or belongs to the session [9] [18]
SET prompt_stats.durability = 'transaction';
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CREATE ROLE regress_shop;
GRANT CREATE ON SCHEMA public TO regress_shop;
SET ROLE regress_shop;
CREATE TABLE prompts (id bigint PRIMARY KEY);
INSERT INTO prompts SELECT generate_series(1, 9);
RESET ROLE;
CREATE EXTENSION prompt_stats;
INSERT INTO prompt_stats (prompt_id) VALUES (1);
-- The trigger does what it is told, and notes what becomes of it
SET ROLE regress_shop;
CREATE TABLE todo (at serial, sql text);
CREATE TABLE done (at serial, note text);
CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	next text;
BEGIN
	FOR next IN SELECT sql FROM public.todo ORDER BY at LOOP
		BEGIN
			EXECUTE next;
			INSERT INTO public.done (note) VALUES (next || ': ok');
		EXCEPTION WHEN OTHERS THEN
			INSERT INTO public.done (note) VALUES (next || ': ' || SQLSTATE);
		END;
	END LOOP;
	RETURN NEW;
END $$;
CREATE TRIGGER act BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION act();
CREATE TABLE later (i int);
CREATE CONSTRAINT TRIGGER act_later AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION act();
RESET ROLE;
CREATE FUNCTION told() RETURNS SETOF text LANGUAGE sql AS $$
	WITH gone AS (DELETE FROM todo) SELECT note FROM done ORDER BY at
$$;

-- what would outlive it
CREATE TEMP TABLE of_the_session (i int);
GRANT ALL ON of_the_session TO PUBLIC;
INSERT INTO todo (sql) VALUES ('SET ROLE NONE'), ('SET SESSION AUTHORIZATION DEFAULT'), ('RESET ROLE'),
	('CREATE TEMP TABLE t (i int)'), ('CREATE TABLE pg_temp.t (i int)'), ('CREATE DOMAIN pg_temp.uuid AS pg_catalog.uuid'),
	('CREATE TYPE pg_temp.text AS (i int)'), ('CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS ''SELECT 1'''),
	('CREATE TEMP SEQUENCE q'), ('CREATE VIEW pg_temp.w AS SELECT 1'),
	('PREPARE p AS SELECT 1'), ('LISTEN news'), ('INSERT INTO public.later VALUES (1)'), ('SET CONSTRAINTS ALL IMMEDIATE'), ('SET CONSTRAINTS ALL DEFERRED'),
	('SELECT 1 / 0'), ('SELECT 1');
SELECT increment_prompt_views(1);
SELECT told();
SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema();
SELECT name FROM pg_prepared_statements;

-- what the session holds: locks, large objects
DELETE FROM done;
SELECT lo_create(4242);
INSERT INTO todo (sql) SELECT format('SELECT %s(%s)', f, args) FROM (VALUES ('pg_advisory_unlock', '7'), ('pg_advisory_unlock', '1, 7'),
	('pg_advisory_unlock_shared', '7'), ('pg_advisory_unlock_shared', '1, 7'), ('pg_advisory_unlock_all', ''),
	('loread', '0, 1'), ('lowrite', '0, ''x'''), ('lo_close', '0'), ('lo_lseek', '0, 0, 0'), ('lo_lseek64', '0, 0, 0'),
	('lo_tell', '0'), ('lo_tell64', '0'), ('lo_truncate', '0, 0'), ('lo_truncate64', '0, 0')) AS calls (f, args);
SELECT pg_advisory_lock(7), pg_advisory_lock(1, 7), pg_advisory_lock_shared(7), pg_advisory_lock_shared(1, 7);
BEGIN;
SELECT lo_open(4242, 393216);
SELECT increment_prompt_views(1);
SELECT lo_lseek(0, 0, 0);
COMMIT;
SELECT told();
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
SELECT pg_advisory_unlock_all();
SELECT lo_unlink(4242);

-- its cursors, those of a trigger that is left open included
DELETE FROM done;
INSERT INTO todo (sql) VALUES ('FETCH 1 FROM mine'), ('MOVE 1 FROM mine'), ('CLOSE mine'),
	('DO $do$ DECLARE c refcursor := ''left open''; BEGIN OPEN c FOR SELECT 1; END $do$');
BEGIN;
DECLARE mine CURSOR FOR SELECT generate_series(1, 3);
FETCH mine;
SELECT increment_prompt_views(1);
SELECT name FROM pg_cursors;
FETCH mine;
COMMIT;
SELECT told();

-- its settings: safe ones inside, whatever those of the caller; and none is left behind
DELETE FROM done;
INSERT INTO todo (sql) VALUES ('INSERT INTO public.done (note) SELECT current_setting(name) FROM unnest(''{search_path,row_security,session_replication_role}''::text[]) AS name'),
	('INSERT INTO public.done (note) SELECT current_user'), ('SELECT set_config(''work_mem'', ''123kB'', false)'), ('SET search_path = nowhere'), ('SET LOCAL row_security = on');
SET row_security = off;
SET session_replication_role = replica;
SET search_path = public, pg_temp;
SELECT increment_prompt_views(1);
SHOW search_path;
SHOW row_security;
SHOW session_replication_role;
SELECT setting <> '123' FROM pg_settings WHERE name = 'work_mem';
SELECT current_user = session_user;
RESET search_path;
RESET row_security;
RESET session_replication_role;
SELECT told();

-- what the caller has pending on the table fires with his own rights, and before his count
DELETE FROM done;
CREATE FUNCTION note_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.done (note) VALUES (format('%s %s, as %s', TG_OP, NEW.prompt_id, CASE current_user WHEN 'regress_shop' THEN 'the owner' ELSE 'the caller' END));
	RETURN NULL;
END $$;
DROP TRIGGER act ON prompt_stats;
CREATE CONSTRAINT TRIGGER note AFTER INSERT OR UPDATE ON prompt_stats DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_user();
BEGIN;
INSERT INTO prompt_stats (prompt_id) VALUES (2);
SELECT note FROM done ORDER BY at;
SELECT increment_prompt_views(1);
SELECT note FROM done ORDER BY at;
-- and is deferred again afterwards
INSERT INTO prompt_stats (prompt_id) VALUES (3);
SELECT count(*) FROM done;
COMMIT;
SELECT note FROM done ORDER BY at;
-- also after a count that failed
UPDATE prompt_stats SET view_count = 9223372036854775807 WHERE prompt_id = 2;
DELETE FROM done;
BEGIN;
SAVEPOINT s;
SELECT increment_prompt_views(2);
ROLLBACK TO s;
INSERT INTO prompt_stats (prompt_id) VALUES (4);
SELECT count(*) FROM done;
COMMIT;
SELECT note FROM done ORDER BY at;

DROP FUNCTION told;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts, todo, done, later, of_the_session;
DROP FUNCTION act, note_user;
REVOKE CREATE ON SCHEMA public FROM regress_shop;
DROP ROLE regress_shop;
