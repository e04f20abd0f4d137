-- Who may do what with the tables that setup creates: they are their owner's, whatever default
-- privileges say, and closed to all others [9] [12]
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CREATE ROLE regress_app;
CREATE ROLE regress_maker;
CREATE ROLE regress_other;
CREATE SCHEMA regress_schema AUTHORIZATION regress_app;
CREATE TABLE regress_schema.prompts (id bigint PRIMARY KEY);
ALTER TABLE regress_schema.prompts OWNER TO regress_app;
CREATE VIEW rights AS
	SELECT relname, relowner::regrole, COALESCE((SELECT string_agg(DISTINCT COALESCE(r.rolname, 'PUBLIC'), ' ')
		FROM aclexplode(relacl) AS a LEFT JOIN pg_roles AS r ON r.oid = grantee WHERE grantee <> relowner), 'nobody else') AS others
	FROM pg_class WHERE relname IN ('prompt_stats', 'prompt_events') ORDER BY 1;
-- open to everybody by default, and to one by name
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, regress_other;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_app GRANT ALL ON TABLES TO regress_other;
CREATE EXTENSION prompt_stats SCHEMA regress_schema;
TABLE rights;
SELECT has_table_privilege('regress_other', 'regress_schema.prompt_stats', 'SELECT'), has_table_privilege('regress_other', 'regress_schema.prompt_events', 'INSERT');
DROP EXTENSION prompt_stats;
DROP TABLE regress_schema.prompt_stats, regress_schema.prompt_events;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC, regress_other;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_app REVOKE ALL ON TABLES FROM regress_other;
-- by who is no member of the owner of prompts, and may reference it
SET prompt_stats.skip_setup = on;
CREATE EXTENSION prompt_stats SCHEMA regress_schema;
RESET prompt_stats.skip_setup;
GRANT CREATE, USAGE ON SCHEMA regress_schema TO regress_maker;
GRANT REFERENCES, SELECT ON regress_schema.prompts TO regress_maker;
SET ROLE regress_maker;
SELECT regress_schema.prompt_stats_setup();
RESET ROLE;
TABLE rights;
DROP VIEW rights;
DROP EXTENSION prompt_stats;
DROP TABLE regress_schema.prompt_stats, regress_schema.prompt_events, regress_schema.prompts;
DROP SCHEMA regress_schema;
DROP OWNED BY regress_maker, regress_other, regress_app;
DROP ROLE regress_app, regress_maker, regress_other;
