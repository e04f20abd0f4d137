-- Each call by itself; test "durability" has the other modes
SET prompt_stats.durability = 'transaction';
--
-- Who may count, as whom rows are written, who may administer and read: [9] [10]
--
\pset format unaligned
\pset footer off
\pset tuples_only on
\set SHOW_CONTEXT never

CREATE ROLE regress_owner NOLOGIN;
CREATE ROLE regress_caller;
CREATE ROLE regress_reader;
CREATE ROLE regress_stranger;
CREATE ROLE regress_super SUPERUSER;
CREATE SCHEMA site AUTHORIZATION regress_owner;
CREATE SCHEMA ext;
SET ROLE regress_owner;
CREATE TABLE site.prompts (id bigint PRIMARY KEY);
INSERT INTO site.prompts SELECT generate_series(1, 5);
CREATE TABLE site.prompt_stats (prompt_id bigint PRIMARY KEY REFERENCES site.prompts ON DELETE CASCADE,
	view_count bigint DEFAULT 0, copy_count bigint DEFAULT 0, fork_count bigint DEFAULT 0);
CREATE TABLE site.prompt_events (id uuid DEFAULT gen_random_uuid(), prompt_id bigint NOT NULL REFERENCES site.prompts ON DELETE CASCADE,
	user_id name NOT NULL, event_type text NOT NULL, created_at timestamptz DEFAULT now());
ALTER TABLE site.prompt_events ALTER user_id TYPE text;
INSERT INTO site.prompt_stats SELECT generate_series(1, 3);
RESET ROLE;
SET prompt_stats.skip_setup = on;
CREATE EXTENSION prompt_stats SCHEMA ext;
RESET prompt_stats.skip_setup;
SELECT ext.prompt_stats_setup('site.prompt_events', 'site.prompt_stats');
SELECT relname, relowner::regrole FROM pg_class WHERE relnamespace = 'site'::regnamespace AND relkind = 'r' ORDER BY 1;
GRANT USAGE ON SCHEMA ext TO PUBLIC;

-- SQLSTATE and message, or 'ok'
CREATE FUNCTION ext.try(sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE sql;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;

--
-- EXECUTE and nothing else
--
SELECT has_table_privilege('regress_caller', 'site.prompt_stats', 'SELECT, INSERT, UPDATE, DELETE') OR has_schema_privilege('regress_caller', 'site', 'USAGE') AS privileges;
SET ROLE regress_caller;
SELECT ext.increment_prompt_views(1), ext.increment_prompt_copies('2', 2), ext.increment_fork_count(ARRAY[3, 4]);
TABLE site.prompt_stats;
RESET ROLE;
TABLE site.prompt_stats ORDER BY 1;
-- not without
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA ext FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ext.try, ext.increment_prompt_views(bigint) TO PUBLIC;
SET ROLE regress_caller;
SELECT ext.try('SELECT ext.increment_prompt_views(1)');
SELECT ext.try('SELECT ext.increment_prompt_copies(1)');
SELECT ext.try('SELECT ext.track_prompt_fork(1, ''me'')');
RESET ROLE;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ext TO PUBLIC;
-- row-level security of the table, not forced, doesn't stop the owner, who writes
ALTER TABLE site.prompt_stats ENABLE ROW LEVEL SECURITY;
SET ROLE regress_caller;
SELECT ext.try('SELECT ext.increment_prompt_views(ARRAY[1, 2, 5])');
RESET ROLE;
TABLE site.prompt_stats ORDER BY 1;
ALTER TABLE site.prompt_stats DISABLE ROW LEVEL SECURITY;

--
-- Whom triggers of the table see: its owner, however mighty the caller
--
CREATE TABLE site.seen (trigger text, op text, who name, path text, work_mem text, escape text);
ALTER TABLE site.seen OWNER TO regress_owner;
SET ROLE regress_owner;
CREATE FUNCTION site.escape() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	tricks text[] := ARRAY['SET ROLE regress_super', 'RESET ROLE', 'SET LOCAL ROLE NONE', 'SET SESSION AUTHORIZATION regress_super',
		'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION DEFAULT', 'ALTER ROLE regress_owner SUPERUSER',
		'SELECT pg_read_file(''PG_VERSION'')', 'SELECT set_config(''role'', ''regress_super'', false)'];
	trick text;
	result text := '';
BEGIN
	FOREACH trick IN ARRAY tricks LOOP
		BEGIN
			EXECUTE trick;
			IF current_user <> 'regress_owner' THEN
				result := result || trick || '; ';
			END IF;
		EXCEPTION WHEN insufficient_privilege OR invalid_parameter_value THEN
			NULL;
		END;
	END LOOP;
	IF current_user <> 'regress_owner' THEN
		result := result || 'runs as ' || current_user;
	END IF;
	RETURN result;
END $$;
CREATE FUNCTION site.look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO site.seen VALUES (TG_NAME, TG_OP, current_user, current_setting('search_path'), current_setting('work_mem'), site.escape());
	SET work_mem = '77MB';
	PERFORM set_config('regress.left', 'behind', false);
	IF TG_NAME = 'late_plain' AND NEW.prompt_id = 4 THEN
		-- the last to run: what follows is the caller's
		SET search_path = evil;
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER plain BEFORE INSERT OR UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION site.look();
CREATE TRIGGER late_plain AFTER INSERT OR UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION site.look();
CREATE CONSTRAINT TRIGGER immediate AFTER INSERT OR UPDATE ON site.prompt_stats DEFERRABLE FOR EACH ROW EXECUTE FUNCTION site.look();
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT OR UPDATE ON site.prompt_stats DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION site.look();
RESET ROLE;
CREATE VIEW ext.look AS SELECT trigger, op, who, path, string_agg(DISTINCT escape, ' ') AS escapes, count(*)
	FROM site.seen GROUP BY trigger, op, who, path ORDER BY 1, 2;
SHOW work_mem;
SET search_path = public;
SELECT ext.increment_prompt_views(1), ext.increment_prompt_views(ARRAY[1, 2]), ext.increment_prompt_views(4);
-- deferred ones have run: the count's own level is over
TABLE ext.look;
-- nothing is left behind
SHOW work_mem;
SHOW search_path;
SELECT COALESCE(current_setting('regress.left', true), '');
TRUNCATE site.seen;
-- in a transaction, after SET CONSTRAINTS
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
SET LOCAL work_mem = '5MB';
SELECT ext.increment_prompt_views(1);
SHOW work_mem;
COMMIT;
TABLE ext.look;
SHOW work_mem;
TRUNCATE site.seen;
-- inside somebody's SECURITY DEFINER function, and as a role without rights
CREATE FUNCTION ext.definer() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = public AS 'SELECT ext.increment_prompt_views(1)';
ALTER FUNCTION ext.definer OWNER TO regress_super;
SET ROLE regress_caller;
SELECT ext.definer();
SELECT ext.increment_prompt_views(1);
SELECT current_user;
RESET ROLE;
TABLE ext.look;
TRUNCATE site.seen;
-- after an error in a trigger too, everything is as before
SET ROLE regress_owner;
CREATE FUNCTION site.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SET work_mem = '88MB'; RAISE 'no'; END $$;
CREATE TRIGGER zz_fail AFTER UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION site.fail();
RESET ROLE;
BEGIN;
SET LOCAL ROLE regress_caller;
SAVEPOINT a;
SELECT ext.increment_prompt_views(1);
ROLLBACK TO a;
SELECT current_user;
SHOW work_mem;
COMMIT;
DROP TRIGGER zz_fail ON site.prompt_stats;
-- the migration and the recount write as the owner, too
ALTER TABLE site.prompt_events DROP CONSTRAINT prompt_events_event_type_check;
INSERT INTO site.prompt_events (prompt_id, user_id, event_type) VALUES (1, 'a', 'view'), (2, 'a', 'copy'), (3, 'a', 'fork'), (3, 'b', 'fork');
SET ROLE regress_owner;
CREATE FUNCTION site.look_at_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO site.seen VALUES (TG_NAME, TG_OP, current_user, current_setting('search_path'), NULL, site.escape());
	RETURN OLD;
END $$;
CREATE TRIGGER event BEFORE DELETE ON site.prompt_events FOR EACH ROW EXECUTE FUNCTION site.look_at_event();
RESET ROLE;
CALL ext.prompt_stats_migrate(accept => '{delete trigger}');
TABLE ext.look;
TABLE site.prompt_stats ORDER BY 1;
TRUNCATE site.seen;

--
-- Ways around a deferred trigger: one that defers itself, and one of another table
--
SET ROLE regress_owner;
DROP TRIGGER plain ON site.prompt_stats;
DROP TRIGGER late_plain ON site.prompt_stats;
DROP TRIGGER immediate ON site.prompt_stats;
DROP TRIGGER deferred ON site.prompt_stats;
DROP TRIGGER event ON site.prompt_events;
CREATE FUNCTION site.again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO site.seen VALUES (TG_NAME, TG_OP, current_user, '', NULL, site.escape());
	IF NEW.copy_count < 3 THEN
		SET CONSTRAINTS ALL DEFERRED;
		UPDATE site.prompt_stats SET copy_count = copy_count + 1 WHERE prompt_id = NEW.prompt_id;
	END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER again AFTER UPDATE ON site.prompt_stats DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION site.again();
RESET ROLE;
SELECT ext.try('SELECT ext.increment_prompt_views(1)') ~ '^(ok|42501)';
SELECT count(*) AS not_as_owner FROM site.seen WHERE who <> 'regress_owner' OR escape <> '';
SET ROLE regress_owner;
DROP TRIGGER again ON site.prompt_stats;
CREATE TABLE site.other (prompt_id int);
CREATE CONSTRAINT TRIGGER other AFTER INSERT ON site.other DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION site.look();
CREATE FUNCTION site.elsewhere() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO site.other VALUES (1); RETURN NULL; END $$;
CREATE TRIGGER elsewhere AFTER UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION site.elsewhere();
RESET ROLE;
TRUNCATE site.seen;
SELECT ext.try('SELECT ext.increment_prompt_views(1)') ~ '^(ok|42501)';
SELECT count(*) AS not_as_owner FROM site.seen WHERE who <> 'regress_owner' OR escape <> '';
RESET SESSION AUTHORIZATION;
RESET ROLE;
DROP TRIGGER elsewhere ON site.prompt_stats;
TRUNCATE site.seen;
RESET search_path;
RESET work_mem;

--
-- Code in a check that setup looks at runs as nobody but the owner
--
SET ROLE regress_owner;
CREATE FUNCTION site.is_kind(k text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO site.seen VALUES ('check', '', current_user, '', NULL, '');
	RETURN true;
END $$;
CREATE DOMAIN site.kind AS text CHECK (site.is_kind(VALUE));
ALTER TABLE site.prompt_events DROP CONSTRAINT prompt_events_event_type_check;
TRUNCATE site.prompt_events;
ALTER TABLE site.prompt_events ADD CONSTRAINT of_domain CHECK (event_type::site.kind IN ('view', 'fork', 'compare_add'));
TRUNCATE site.seen;
RESET ROLE;
SELECT ext.try('SELECT ext.prompt_stats_setup(''site.prompt_events'', ''site.prompt_stats'')') ~ '^(ok|\w+ .*of_domain)';
SELECT ext.try('SELECT ext.prompt_stats_verify()') ~ '^(ok|\w+ .*of_domain)';
SELECT count(*) AS not_as_owner FROM site.seen WHERE who <> 'regress_owner';
ALTER TABLE site.prompt_events DROP CONSTRAINT IF EXISTS of_domain;
TRUNCATE site.seen;
SELECT ext.prompt_stats_setup('site.prompt_events', 'site.prompt_stats');

--
-- Events are the caller's: his rights, his policies
--
UPDATE site.prompt_stats SET fork_count = 0;
SET ROLE regress_caller;
SELECT ext.try('SELECT ext.track_prompt_fork(1, ''regress_caller'')');
SELECT ext.try('SELECT ext.track_compare_add(1, ''regress_caller'')');
RESET ROLE;
GRANT USAGE ON SCHEMA site TO regress_caller;
GRANT INSERT ON site.prompt_events TO regress_caller;
SET ROLE regress_caller;
SELECT ext.try('SELECT ext.track_prompt_fork(1, ''regress_caller'')');
RESET ROLE;
ALTER TABLE site.prompt_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON site.prompt_events FOR INSERT TO regress_caller WITH CHECK (user_id = current_user);
SET ROLE regress_caller;
SELECT ext.try('SELECT ext.track_prompt_fork(1, ''regress_caller'')');
SELECT ext.try('SELECT ext.track_prompt_fork(1, ''somebody else'')');
SELECT ext.try('SELECT ext.track_compare_add(1, ''regress_caller'')');
SELECT ext.try('SELECT ext.track_compare_add(1, ''somebody else'')');
RESET ROLE;
SELECT prompt_id, user_id, event_type, count(*) FROM site.prompt_events GROUP BY 1, 2, 3 ORDER BY 3;
SELECT fork_count FROM site.prompt_stats WHERE prompt_id = 1;
-- one session, several callers: a kept plan checks each of them
SET ROLE regress_stranger;
SELECT ext.try('SELECT ext.track_prompt_fork(1, ''regress_stranger'')');
RESET ROLE;
SELECT ext.try('SELECT ext.track_prompt_fork(1, ''as superuser'')');
SELECT fork_count FROM site.prompt_stats WHERE prompt_id = 1;

--
-- Administration is for the owner of the tables, whoever has EXECUTE
--
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ext TO regress_stranger;
GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA ext TO regress_stranger;
GRANT ALL ON ALL TABLES IN SCHEMA site TO regress_stranger;
GRANT ALL ON SCHEMA site, ext TO regress_stranger;
SET ROLE regress_stranger;
SELECT call, ext.try(call) FROM (VALUES
	('SELECT ext.prompt_stats_setup(''site.prompt_events'', ''site.prompt_stats'')'),
	('SELECT ext.prompt_stats_enable_compat()'),
	('SELECT ext.prompt_stats_teardown()'),
	('SELECT ext.prompt_stats_migrate_batch()'),
	('SELECT ext.prompt_stats_migrate_finish()'),
	('SELECT ext.prompt_stats_recount_forks()'),
	('SELECT ext.prompt_stats_recount_forks(true)'),
	('SELECT * FROM ext.prompt_stats_verify()'),
	('CALL ext.prompt_stats_migrate(dry_run => true)')) v(call);
CALL ext.prompt_stats_migrate();
\echo :LAST_ERROR_SQLSTATE
-- nor can he have them count into a table of his own
CREATE TABLE site.mine (prompt_id bigint PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
SELECT ext.try('SELECT ext.prompt_stats_setup(''site.prompt_events'', ''site.mine'')');
DROP TABLE site.mine;
-- nor write into the extension's own tables, which everybody may read who dumps
SELECT ext.try('DELETE FROM prompt_stats_internal.config');
SELECT ext.try('INSERT INTO prompt_stats_internal.config VALUES (''site.prompt_events'', ''site.prompts'', ''site'', ''prompt_events'', ''site'', ''prompts'')');
SELECT ext.try('UPDATE prompt_stats_internal.migration SET mode = ''keep''');
SELECT ext.try('TABLE prompt_stats_internal.config');
SELECT ext.try('TABLE prompt_stats_internal.migration');
SELECT ext.try('TABLE ext.prompt_stats_migration_progress');
SELECT ext.try('CREATE TABLE prompt_stats_internal.mine ()');
-- its functions are for views, for a trigger, and for what a restore inserts
SELECT p.oid::regprocedure, has_function_privilege(p.oid, 'EXECUTE') AS may_execute
FROM pg_proc p WHERE pronamespace = 'prompt_stats_internal'::regnamespace ORDER BY p.proname;
RESET ROLE;
SELECT events, stats FROM ext.prompt_stats_tables();
-- not one function of it is SECURITY DEFINER
SELECT count(*) AS definers FROM pg_proc WHERE pronamespace = 'ext'::regnamespace AND prosecdef AND proname <> 'definer' OR pronamespace = 'prompt_stats_internal'::regnamespace AND prosecdef;
-- the owner may, also as a member of the role
GRANT regress_owner TO regress_reader;
INSERT INTO site.prompt_events (prompt_id, user_id, event_type) VALUES (5, 'a', 'fork');
SET ROLE regress_reader;
SELECT ext.try('SELECT ext.prompt_stats_recount_forks()');
SELECT bool_and(ok) FROM ext.prompt_stats_verify();
CALL ext.prompt_stats_migrate();
SELECT ext.prompt_stats_enable_compat();
SELECT ext.prompt_stats_teardown();
RESET ROLE;
REVOKE regress_owner FROM regress_reader;
-- a function of its own that somebody puts in the search_path is not called
CREATE SCHEMA evil;
GRANT ALL ON SCHEMA evil TO regress_stranger;
SET ROLE regress_stranger;
CREATE FUNCTION evil.trap() RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO site.seen VALUES ('trap', '', current_user); RETURN ''; END $$;
CREATE FUNCTION evil.count_trap(bigint, integer) RETURNS bigint LANGUAGE sql AS 'SELECT length(evil.trap())::bigint';
CREATE FUNCTION evil.eq_trap(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT evil.trap() IS NULL';
CREATE FUNCTION evil.eq_trap(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.trap() IS NULL';
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT pg_catalog.now() FROM evil.trap()';
CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS 'SELECT evil.trap()';
CREATE OPERATOR evil.= (FUNCTION = evil.eq_trap, LEFTARG = bigint, RIGHTARG = bigint);
CREATE OPERATOR evil.= (FUNCTION = evil.eq_trap, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR evil.+ (FUNCTION = evil.count_trap, LEFTARG = bigint, RIGHTARG = integer);
RESET ROLE;
SET search_path = evil, pg_catalog;
SELECT ext.increment_prompt_views(1), ext.increment_prompt_views(ARRAY[1, 2]), ext.track_prompt_fork(1, 'x'), ext.track_compare_add('1', 'x');
SELECT view_count > 0 AS read FROM ext.get_prompt_stats(1);
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 AS read FROM ext.prompt_stats_live;
CALL ext.prompt_stats_migrate();
SELECT pg_catalog.bool_and(ok) AS ok FROM ext.prompt_stats_verify();
RESET search_path;
SELECT count(*) AS trapped FROM site.seen WHERE trigger = 'trap';
SET client_min_messages = warning;
DROP SCHEMA evil CASCADE;
RESET client_min_messages;

--
-- Reading: the reader's rights and policies
--
UPDATE site.prompt_stats SET view_count = prompt_id, copy_count = 0, fork_count = 0;
SET ROLE regress_reader;
SELECT ext.try('SELECT ext.get_prompt_stats(1)');
SELECT ext.try('SELECT * FROM ext.prompt_stats_live');
RESET ROLE;
GRANT USAGE ON SCHEMA site TO regress_reader;
SET ROLE regress_reader;
SELECT ext.try('SELECT ext.get_prompt_stats(1)');
SELECT ext.try('SELECT * FROM ext.prompt_stats_live');
RESET ROLE;
GRANT SELECT ON site.prompt_stats TO regress_reader;
ALTER TABLE site.prompt_stats ENABLE ROW LEVEL SECURITY;
CREATE POLICY odd ON site.prompt_stats FOR SELECT TO regress_reader USING (prompt_id % 2 = 1);
SET ROLE regress_reader;
SELECT i, view_count FROM generate_series(1, 3) i, LATERAL ext.get_prompt_stats(i);
SELECT prompt_id, view_count FROM ext.prompt_stats_live ORDER BY 1;
RESET ROLE;
-- one session, several readers
SELECT i, view_count FROM generate_series(1, 3) i, LATERAL ext.get_prompt_stats(i);
SELECT prompt_id, view_count FROM ext.prompt_stats_live ORDER BY 1;
SET ROLE regress_stranger;
SELECT prompt_id, view_count FROM ext.prompt_stats_live ORDER BY 1;
SELECT view_count FROM ext.get_prompt_stats(1);
RESET ROLE;
-- counting works where the counter sees nothing
SET ROLE regress_reader;
SELECT ext.try('SELECT ext.increment_prompt_views(ARRAY[1, 2])');
RESET ROLE;
SELECT prompt_id, view_count FROM site.prompt_stats WHERE prompt_id < 3 ORDER BY 1;

--
-- A new owner is the owner at the next call
--
CREATE TRIGGER plain BEFORE UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION site.look();
SELECT ext.increment_prompt_views(1);
ALTER TABLE site.prompt_stats OWNER TO regress_stranger;
SELECT ext.increment_prompt_views(1);
SELECT who FROM site.seen ORDER BY 1;

--
-- Default privileges that give everybody everything
--
DROP EXTENSION prompt_stats CASCADE;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_caller;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO regress_caller;
SET prompt_stats.skip_setup = on;
CREATE EXTENSION prompt_stats SCHEMA ext;
RESET prompt_stats.skip_setup;
-- anybody may insert into config, which admits only what he may choose
SELECT relname, has_table_privilege('regress_caller', oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES') AS may_write
FROM pg_class WHERE relnamespace IN ('ext'::regnamespace, 'prompt_stats_internal'::regnamespace) AND relkind IN ('r', 'v') ORDER BY 1;
SELECT p.oid::regprocedure AS may_execute FROM pg_proc p WHERE pronamespace = 'prompt_stats_internal'::regnamespace AND has_function_privilege('regress_caller', oid, 'EXECUTE') ORDER BY 1;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM regress_caller;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM regress_caller;

DROP EXTENSION prompt_stats;
SET client_min_messages = warning;
DROP SCHEMA ext, site CASCADE;
DROP OWNED BY regress_owner, regress_caller, regress_reader, regress_stranger, regress_super;
DROP ROLE regress_owner, regress_caller, regress_reader, regress_stranger, regress_super;
