-- Each call by itself; test "durability" has the other modes
SET prompt_stats.durability = 'transaction';
--
-- Migrating and verifying tables of three owners: no code of one runs as another, nor as
-- who calls [16] [18] [18a]
--
\pset format unaligned
\pset footer off
\pset tuples_only on
\set SHOW_CONTEXT never

CREATE ROLE regress_prompts NOLOGIN;
CREATE ROLE regress_events NOLOGIN;
CREATE ROLE regress_stats NOLOGIN;
CREATE ROLE regress_admin IN ROLE regress_events, regress_stats;
CREATE ROLE regress_stranger;

-- Whose code ran as whom
CREATE TABLE log (code_of text, ran_as name);
GRANT INSERT ON log TO PUBLIC;
CREATE FUNCTION act(code_of text) RETURNS void LANGUAGE sql AS '';
-- A lie: the planner evaluates it
CREATE FUNCTION lie(code_of text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM public.act(code_of); RETURN true; END $$;
CREATE FUNCTION as_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.act(TG_ARGV[0]);
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
-- Lies in every place of a table where the server looks for them
CREATE PROCEDURE lay_traps(tab regclass, col name) LANGUAGE plpgsql AS $$
DECLARE
	code_of text := (SELECT relowner::regrole FROM pg_class WHERE oid = tab);
BEGIN
	EXECUTE format('CREATE STATISTICS public.%I ON (public.lie(%L)), %I FROM %s', code_of, code_of, col, tab);
	EXECUTE format('CREATE INDEX ON %s (%I) WHERE public.lie(%L)', tab, col, code_of);
	EXECUTE format('CREATE INDEX ON %s ((%I::text || public.lie(%L)::text))', tab, col, code_of);
	EXECUTE format('ALTER TABLE %s ADD CHECK (public.lie(%L))', tab, code_of);
	EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', tab);
	EXECUTE format('CREATE POLICY p ON %s USING (public.lie(%L))', tab, code_of);
	EXECUTE format('CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION public.as_trigger(%L)', tab, code_of);
	EXECUTE format('CREATE CONSTRAINT TRIGGER %I AFTER INSERT OR UPDATE OR DELETE ON %s INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.as_trigger(%L)', code_of, tab, code_of);
END $$;
-- Whose code ran as anybody else
CREATE FUNCTION strangers() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT DISTINCT code_of || ' as ' || ran_as FROM log WHERE ran_as <> code_of ORDER BY 1
$$;
-- Text ids, of columns with other collations, one of them longer
CREATE TABLE prompts (id text COLLATE "C" PRIMARY KEY);
INSERT INTO prompts SELECT 'p' || i FROM generate_series(1, 30) i;
CREATE TABLE prompt_stats (prompt_id varchar(40) COLLATE "POSIX" PRIMARY KEY REFERENCES prompts ON DELETE CASCADE,
	view_count integer, copy_count bigint DEFAULT 0, fork_count integer DEFAULT 0);
CREATE TABLE prompt_events (prompt_id text COLLATE "ucs_basic", user_id text, event_type varchar(30),
	CONSTRAINT c CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add')));
INSERT INTO prompt_events SELECT 'p' || 1 + i % 33, NULL, (ARRAY['view', 'view', 'copy', 'fork'])[1 + i % 4] FROM generate_series(1, 330) i;
INSERT INTO prompt_stats VALUES ('p1', NULL, 1, 0), ('p2', 10, 1, 100), ('p3', 0, 0, 0), ('p30', 1, 1, 1);
CREATE TABLE expected AS
	SELECT p.id AS prompt_id, COALESCE(s.view_count, 0) + count(*) FILTER (WHERE event_type = 'view') AS views,
		COALESCE(s.copy_count, 0) + count(*) FILTER (WHERE event_type = 'copy') AS copies,
		GREATEST(COALESCE(s.fork_count, 0), count(*) FILTER (WHERE event_type = 'fork')) AS forks
	FROM prompts p LEFT JOIN prompt_stats s ON s.prompt_id COLLATE "C" = p.id LEFT JOIN prompt_events e ON e.prompt_id COLLATE "C" = p.id GROUP BY p.id, s.prompt_id;
ALTER TABLE prompts OWNER TO regress_prompts;
ALTER TABLE prompt_events OWNER TO regress_events;
ALTER TABLE prompt_stats OWNER TO regress_stats;
CALL lay_traps('prompts', 'id');
CALL lay_traps('prompt_events', 'prompt_id');
CALL lay_traps('prompt_stats', 'prompt_id');
-- hidden from everybody, but for the check of a foreign key
DROP POLICY p ON prompts;
ALTER TABLE prompts FORCE ROW LEVEL SECURITY;
SET constraint_exclusion = on;

SET prompt_stats.skip_setup = on;
CREATE EXTENSION prompt_stats;
RESET prompt_stats.skip_setup;
-- from now on every trap is set
CREATE OR REPLACE FUNCTION act(code_of text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.log VALUES (code_of, current_user);
	PERFORM set_config('search_path', 'left_behind', false);
	-- all that would give it more
	BEGIN
		SET ROLE NONE;
		INSERT INTO public.log VALUES (code_of, 'SET ROLE');
	EXCEPTION WHEN OTHERS THEN NULL;
	END;
	BEGIN
		CREATE TEMP TABLE left_behind (i int);
		INSERT INTO public.log VALUES (code_of, 'TEMP');
	EXCEPTION WHEN OTHERS THEN NULL;
	END;
END $$;
SELECT prompt_stats_setup('prompt_events', 'prompt_stats');
SELECT strangers();
SHOW search_path;

-- what only reads
CALL prompt_stats_migrate(dry_run => true);
CALL prompt_stats_migrate(mode => 'keep', dry_run => true);
SELECT * FROM prompt_stats_verify();
SELECT strangers();
SELECT count(DISTINCT code_of) AS heard_of FROM log;

-- what writes: by a superuser, and by a member of two of the owners
SELECT prompt_stats_migrate_batch(10, accept => '{delete trigger}');
SELECT prompt_stats_recount_forks(n => 3);
SELECT strangers();
SET ROLE regress_admin;
SELECT prompt_stats_migrate_batch(10, accept => '{delete trigger}');
RESET ROLE;
CALL prompt_stats_migrate(20, accept => '{delete trigger}');
SELECT strangers();
SELECT prompt_stats_recount_forks(lower => true);
SELECT prompt_stats_recount_forks();
SELECT prompt_stats_migrate_finish();
SELECT strangers();
CALL prompt_stats_migrate(unmovable => 'delete', accept => '{delete trigger}');
SELECT strangers();
SHOW search_path;
SELECT count(*) FROM pg_class WHERE relname = 'left_behind';

-- and it is right; our own queries need not spring the traps
CREATE OR REPLACE FUNCTION act(code_of text) RETURNS void LANGUAGE sql AS '';
UPDATE expected SET forks = (SELECT count(*) FROM prompt_events e WHERE e.prompt_id COLLATE "C" = expected.prompt_id AND event_type = 'fork');
SELECT count(*) AS wrong FROM expected e FULL JOIN prompt_stats s ON s.prompt_id COLLATE "C" = e.prompt_id
	WHERE (COALESCE(e.views, 0), COALESCE(e.copies, 0), COALESCE(e.forks, 0)) <> (COALESCE(s.view_count, 0), COALESCE(s.copy_count, 0), COALESCE(s.fork_count, 0));
SELECT event_type, count(*) FROM prompt_events GROUP BY 1 ORDER BY 1;
SELECT * FROM prompt_stats_verify();

-- who may: an owner of both; prompts are told only to those who may read them all
SET ROLE regress_stranger;
SELECT * FROM prompt_stats_verify();
CALL prompt_stats_migrate(dry_run => true);
CALL prompt_stats_migrate();
SELECT prompt_stats_migrate_finish();
SET ROLE regress_admin;
SELECT detail FROM prompt_stats_verify() WHERE check_name = 'missing rows';
RESET ROLE;
GRANT SELECT ON prompts TO regress_admin;
SET ROLE regress_admin;
SELECT detail FROM prompt_stats_verify() WHERE check_name = 'missing rows';
RESET ROLE;
ALTER TABLE prompts DISABLE ROW LEVEL SECURITY;
SET ROLE regress_admin;
SELECT bool_and(ok) FROM prompt_stats_verify();
SELECT detail FROM prompt_stats_verify() WHERE check_name = 'missing rows';
SELECT prompt_stats_migrate_finish();
RESET ROLE;
SELECT strangers();

-- what stands in the tables' schema under names of the server is not used
CREATE FUNCTION eq(varchar, text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'used'; END $$;
CREATE FUNCTION eq(varchar, varchar) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'used'; END $$;
CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = text, FUNCTION = eq);
CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = eq);
CREATE OPERATOR <> (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = eq);
INSERT INTO prompt_events SELECT 'p1', NULL, 'fork';
SELECT prompt_stats_recount_forks();
ALTER TABLE prompt_events DROP CONSTRAINT c;
INSERT INTO prompt_events VALUES ('p1', NULL, 'view'), ('p99', NULL, 'view'), ('p2', NULL, 'copy');
CALL prompt_stats_migrate(accept => '{delete trigger}');
CALL prompt_stats_migrate(unmovable => 'delete', accept => '{delete trigger}');
SELECT bool_and(ok) FROM prompt_stats_verify();
DROP OPERATOR = (varchar, text);
DROP OPERATOR = (varchar, varchar);
DROP OPERATOR <> (varchar, varchar);
DROP FUNCTION eq(varchar, text), eq(varchar, varchar);

-- rows that the owner cannot see are not moved, and no check is valid over them
ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check;
INSERT INTO prompt_events VALUES ('p1', NULL, 'view');
SELECT prompt_stats_setup();
CREATE POLICY no_views ON prompt_events AS RESTRICTIVE USING (event_type <> 'view');
ALTER TABLE prompt_events FORCE ROW LEVEL SECURITY;
CALL prompt_stats_migrate(accept => '{delete trigger}');
\echo :LAST_ERROR_SQLSTATE
SELECT check_name, detail FROM prompt_stats_verify() WHERE NOT ok;
ALTER TABLE public.prompt_events NO FORCE ROW LEVEL SECURITY;
CALL prompt_stats_migrate(accept => '{delete trigger}');
SELECT bool_and(ok) FROM prompt_stats_verify();

DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts, expected, log;
DROP FUNCTION act, lie, as_trigger, strangers;
DROP PROCEDURE lay_traps;
DROP ROLE regress_prompts, regress_events, regress_stats, regress_admin, regress_stranger;
