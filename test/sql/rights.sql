-- Each call by itself; test "durability" has the other modes
SET prompt_stats.durability = 'transaction';
--
-- Who may count: one statement allows, one denies; and whose the created tables are [23] [12]
--
\pset format unaligned
\pset footer off
\pset tuples_only on
\set SHOW_CONTEXT never

CREATE ROLE regress_site;
CREATE ROLE "regress Web ""1""" LOGIN;
CREATE ROLE current_user_regress;
CREATE ROLE regress_web;
CREATE ROLE regress_group;
CREATE ROLE regress_member NOINHERIT IN ROLE regress_group;
CREATE ROLE regress_anon;
CREATE ROLE regress_other;
CREATE ROLE regress_super SUPERUSER;
CREATE ROLE regress_under IN ROLE regress_super;
CREATE SCHEMA site AUTHORIZATION regress_site;
CREATE SCHEMA ext;
CREATE TABLE site.prompts (id bigint PRIMARY KEY);
INSERT INTO site.prompts VALUES (1);
ALTER TABLE site.prompts OWNER TO regress_site;

--
-- Created tables belong to the application, and are closed to others
--
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, regress_anon, "regress Web ""1""";
ALTER DEFAULT PRIVILEGES IN SCHEMA site GRANT SELECT ON TABLES TO regress_other WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO regress_anon;
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
	m := concat_ws(E'\n  ', SQLSTATE || ' ' || m, NULLIF(d, ''), NULLIF(h, ''));
	IF mend THEN
		EXECUTE substring(h FROM '(?:ALTER|REVOKE|SET|SELECT) .*;');
		m := m || E'\n  mended: ' || try(sql, mend);
	END IF;
	RETURN m;
END $$;
CREATE VIEW created AS
	SELECT c.oid::regclass::text AS tab, replace(c.relowner::regrole::text, current_user, 'me') AS owner,
		(SELECT count(*) FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner) AS others,
		EXISTS (SELECT FROM pg_init_privs i WHERE i.objoid = c.oid) AS has_init_privs
	FROM pg_class c WHERE c.relname IN ('prompt_stats', 'prompt_events') AND c.relkind = 'r' ORDER BY 1;
CREATE EXTENSION prompt_stats SCHEMA site;
TABLE created;
SELECT finding, object FROM site.prompt_stats_preflight();
DROP EXTENSION prompt_stats;
DROP TABLE site.prompt_stats, site.prompt_events;
-- without prompts: of the owner of the schema
ALTER TABLE site.prompts SET SCHEMA ext;
CREATE EXTENSION prompt_stats SCHEMA site;
TABLE created;
DROP EXTENSION prompt_stats;
DROP TABLE site.prompt_stats, site.prompt_events;
-- which may be the owner of the database
SELECT current_database() AS here \gset
CREATE DATABASE regression_prompt_stats OWNER regress_site;
\c regression_prompt_stats
SET client_min_messages = warning;
CREATE EXTENSION prompt_stats;
SELECT c.relname, c.relowner::regrole FROM pg_class c WHERE c.relname IN ('prompt_stats', 'prompt_events') ORDER BY 1;
\c :here
SET prompt_stats.durability = 'transaction';
DROP DATABASE regression_prompt_stats;
-- created by somebody who can give them to nobody else, they are his
SET prompt_stats.skip_setup = on;
CREATE EXTENSION prompt_stats SCHEMA ext;
RESET prompt_stats.skip_setup;
GRANT USAGE ON SCHEMA ext TO regress_site;
SELECT object, finding, consequence, replace(statement, 'ext.', '') FROM ext.prompt_stats_preflight() WHERE finding = 'missing table';
GRANT USAGE, CREATE ON SCHEMA ext TO regress_group;
GRANT REFERENCES ON ext.prompts TO regress_group;
SET ROLE regress_group;
SELECT object, finding, consequence FROM ext.prompt_stats_preflight() WHERE finding = 'missing table';
SELECT ext.prompt_stats_setup();
RESET ROLE;
TABLE created;
DROP TABLE ext.prompt_stats, ext.prompt_events;
DROP EXTENSION prompt_stats;
REVOKE ALL ON SCHEMA ext FROM regress_group, regress_site;
REVOKE ALL ON ext.prompts FROM regress_group;
DROP SCHEMA ext CASCADE;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC, regress_anon, "regress Web ""1""";
ALTER DEFAULT PRIVILEGES IN SCHEMA site REVOKE ALL ON TABLES FROM regress_other;

--
-- Allowing and denying
--
CREATE SCHEMA ext;
CREATE TABLE site.prompts (id bigint PRIMARY KEY);
INSERT INTO site.prompts VALUES (1);
CREATE TABLE site.prompt_stats (prompt_id bigint PRIMARY KEY REFERENCES site.prompts, view_count bigint, copy_count bigint, fork_count bigint);
CREATE TABLE site.prompt_events (prompt_id bigint, user_id bigint, event_type text);
ALTER TABLE site.prompts OWNER TO regress_site;
ALTER TABLE site.prompt_stats OWNER TO regress_site;
ALTER TABLE site.prompt_events OWNER TO regress_site;
SET prompt_stats.skip_setup = on;
CREATE EXTENSION prompt_stats SCHEMA ext;
RESET prompt_stats.skip_setup;
GRANT USAGE ON SCHEMA ext, site TO PUBLIC;
GRANT SELECT ON site.prompt_stats TO PUBLIC;
SET ROLE regress_site;
SELECT try('SELECT ext.prompt_stats_allow(''regress_web'')');
RESET ROLE;
SELECT ext.prompt_stats_setup('site.prompt_events', 'site.prompt_stats');
-- which of all forms may be called: all, none, or which
CREATE VIEW may AS
	SELECT r.rolname, CASE count(*) FILTER (WHERE has_function_privilege(r.oid, p.oid, 'EXECUTE')) WHEN 0 THEN 'none' WHEN count(*) THEN 'all'
		ELSE string_agg(p.oid::regprocedure::text, ' ') FILTER (WHERE has_function_privilege(r.oid, p.oid, 'EXECUTE')) END AS may
	FROM pg_roles r, pg_proc p
	WHERE (r.rolname LIKE 'regress%' OR r.rolname = 'current_user_regress') AND NOT r.rolsuper AND p.pronamespace = 'ext'::regnamespace AND p.proname ~ '^(increment|track)_'
	GROUP BY r.oid, r.rolname;
GRANT SELECT ON may TO PUBLIC;
SELECT count(*) FROM pg_proc p WHERE p.pronamespace = 'ext'::regnamespace AND p.proname ~ '^(increment|track)_';
SELECT may, count(*) > 5 FROM may GROUP BY may;
-- who may not: whoever does not own the tables
SET ROLE regress_other;
SELECT try('SELECT ext.prompt_stats_allow(''regress_other'')');
SELECT try('SELECT ext.prompt_stats_deny(''regress_web'')');
-- the owner of the tables, who has no rights on the functions
SET ROLE regress_site;
SELECT try('GRANT EXECUTE ON FUNCTION ext.increment_prompt_views(uuid) TO regress_web');
-- what has been given to a role by itself stays: to regress_anon, here
SELECT ext.prompt_stats_allow('regress_web');
SELECT ext.prompt_stats_allow('regress Web "1"');
SELECT ext.prompt_stats_allow('current_user_regress');
SELECT * FROM may ORDER BY 1;
RESET ROLE;
SET ROLE regress_web;
SELECT try('SELECT ext.increment_prompt_views(1::bigint), ext.increment_prompt_copies(ARRAY[1, 1], 3)');
SET ROLE regress_other;
SELECT try('SELECT ext.increment_prompt_views(1::bigint)');
SELECT view_count FROM ext.get_prompt_stats(1::bigint);
RESET ROLE;
-- deny: of those whom default privileges have let in
SELECT * FROM ext.prompt_stats_preflight();
SELECT statement FROM ext.prompt_stats_preflight() \gexec
SELECT * FROM ext.prompt_stats_preflight();
SET ROLE regress_site;
SELECT ext.prompt_stats_deny('regress_web');
SELECT ext.prompt_stats_deny('regress_web');
SELECT * FROM may WHERE may <> 'none' ORDER BY 1;
-- everybody again
SELECT ext.prompt_stats_allow('public');
SELECT DISTINCT may FROM may;
SELECT try('SELECT ext.prompt_stats_deny(''regress_web'')', true);
SELECT * FROM may WHERE may <> 'none' ORDER BY 1;
SELECT ext.prompt_stats_deny('regress Web "1"'), ext.prompt_stats_deny('current_user_regress');
SELECT DISTINCT may FROM may;

--
-- Where it still may, deny says through whom
--
SELECT ext.prompt_stats_allow('regress_group');
RESET ROLE;
-- also who only can become the other role
SELECT try('SELECT ext.prompt_stats_deny(''regress_member'')', true);
SELECT * FROM may WHERE may <> 'none' ORDER BY 1;
-- superusers, and who can become one
SELECT try('SELECT ext.prompt_stats_deny(''regress_super'')', true);
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_super';
ALTER ROLE regress_super SUPERUSER;
SELECT try('SELECT ext.prompt_stats_deny(''regress_under'')', true);
-- a grant by somebody else
DO $$
BEGIN
	EXECUTE (SELECT format('GRANT EXECUTE ON FUNCTION %s TO regress_group WITH GRANT OPTION', string_agg(oid::regprocedure::text, ', '))
		FROM pg_proc p WHERE p.pronamespace = 'ext'::regnamespace AND p.proname ~ '^(increment|track)_');
END $$;
SET ROLE regress_group;
GRANT EXECUTE ON FUNCTION ext.increment_prompt_views(uuid), ext.track_compare_add(uuid, uuid) TO regress_other, "regress Web ""1""";
RESET ROLE;
GRANT regress_web TO "regress Web ""1""";
SELECT ext.prompt_stats_allow('regress_web');
SELECT try('SELECT ext.prompt_stats_deny(''regress Web "1"'')', true);
SELECT * FROM may WHERE may <> 'none' ORDER BY 1;
-- goes with the one who made it
SELECT ext.prompt_stats_deny('regress_group'), ext.prompt_stats_deny('regress_web');
SELECT * FROM may WHERE may <> 'none' ORDER BY 1;

--
-- The right to use the schema is told; what is wrong is an error
--
REVOKE USAGE ON SCHEMA ext FROM PUBLIC;
SELECT ext.prompt_stats_allow('regress_web');
GRANT USAGE ON SCHEMA ext TO regress_web;
SELECT ext.prompt_stats_allow('regress_web');
SELECT ext.prompt_stats_allow('public');
SELECT try('SELECT ext.prompt_stats_allow(NULL)');
SELECT try('SELECT ext.prompt_stats_deny(NULL)');
SELECT try('SELECT ext.prompt_stats_allow(''nobody of that name'')');
SELECT try('SELECT ext.prompt_stats_deny(''PUBLIC'')');
SELECT DISTINCT may FROM may;
BEGIN READ ONLY;
SELECT try('SELECT ext.prompt_stats_allow(''regress_web'')');
SELECT try('SELECT ext.prompt_stats_deny(''regress_web'')');
COMMIT;
-- a function of the same name that is not the extension's is left alone; and a rollback undoes it
CREATE FUNCTION ext.increment_prompt_views(boolean) RETURNS void LANGUAGE sql AS '';
BEGIN;
SELECT ext.prompt_stats_deny('public');
SELECT has_function_privilege('regress_other', 'ext.increment_prompt_views(boolean)', 'EXECUTE'), has_function_privilege('regress_other', 'ext.increment_prompt_views(uuid)', 'EXECUTE');
ROLLBACK;
SELECT DISTINCT may FROM may;

DROP VIEW may, created;
DROP FUNCTION try;
DROP EXTENSION prompt_stats;
DROP SCHEMA ext, site CASCADE;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM regress_anon;
DROP ROLE regress_site, "regress Web ""1""", current_user_regress, regress_web, regress_member, regress_group, regress_anon, regress_other, regress_under, regress_super;
