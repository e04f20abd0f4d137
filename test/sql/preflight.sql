-- Each call by itself; test "durability" has the other modes
SET prompt_stats.durability = 'transaction';
--
-- What adopting and migrating will mean, told beforehand; what would make numbers wrong is
-- refused until it is accepted by name [25]
--
\pset format unaligned
\pset footer off
\pset tuples_only on
\set SHOW_CONTEXT never

-- SQLSTATE, message, detail and hint, or 'ok'; with mend, runs the first statement of the hint
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
		EXECUTE substring(h FROM '(?:ALTER|DROP|SELECT|DELETE) [^;]*;?');
		m := m || E'\n  mended: ' || try(sql);
	END IF;
	RETURN m;
END $$;
CREATE ROLE regress_site;
CREATE ROLE regress_stranger;
CREATE SCHEMA site AUTHORIZATION regress_site;
GRANT CREATE ON SCHEMA public TO regress_site;

--
-- Before adoption: in a transaction that is rolled back, in a schema of its own
--
BEGIN;
CREATE SCHEMA look;
SET LOCAL prompt_stats.skip_setup = on;
CREATE EXTENSION prompt_stats SCHEMA look;
-- nothing there yet
SELECT object, finding, replace(consequence, current_user, 'me'), statement FROM look.prompt_stats_preflight();
SET LOCAL ROLE regress_site;
CREATE TABLE prompts (id bigint PRIMARY KEY);
SET TRANSACTION READ ONLY;
RESET ROLE;
SELECT * FROM look.prompt_stats_preflight();
ROLLBACK;
SELECT count(*) FROM pg_class WHERE relname IN ('prompt_stats', 'prompt_events', 'prompts');

--
-- A legacy database with much that stands out
--
SET ROLE regress_site;
CREATE TABLE site.prompts (id bigint PRIMARY KEY);
INSERT INTO site.prompts SELECT generate_series(1, 9);
CREATE TABLE site.prompt_daily_stats (prompt_id bigint, views bigint);
CREATE UNLOGGED TABLE site.prompt_stats (prompt_id bigint PRIMARY KEY REFERENCES site.prompts ON DELETE CASCADE,
	view_count bigint DEFAULT 0, copy_count bigint DEFAULT 0, fork_count bigint DEFAULT 0, updated_at date);
COMMENT ON COLUMN site.prompt_stats.updated_at IS 'when it was hot';
CREATE TABLE site.prompt_events (id bigserial PRIMARY KEY, parent bigint REFERENCES site.prompt_events, prompt_id bigint, user_id bigint,
	event_type text CONSTRAINT kinds CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add', 'share')), request text UNIQUE, created_at timestamptz DEFAULT now());
CREATE TABLE site.clicks (event bigint REFERENCES site.prompt_events ON DELETE CASCADE);
CREATE TABLE site."The Notes" (event bigint CONSTRAINT "of event" REFERENCES site.prompt_events ON DELETE SET NULL);
CREATE UNIQUE INDEX once ON site.prompt_events (prompt_id, user_id, ((created_at AT TIME ZONE 'UTC')::date)) WHERE event_type = 'view';
CREATE VIEW site.daily AS SELECT prompt_id, count(*) AS views FROM site.prompt_events WHERE event_type = 'view' GROUP BY 1;
CREATE MATERIALIZED VIEW site.weekly AS SELECT event_type FROM site.prompt_events;
CREATE FUNCTION site.cache() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP = 'INSERT' THEN
		INSERT INTO site.prompt_stats (prompt_id) VALUES (NEW.prompt_id) ON CONFLICT DO NOTHING;
		UPDATE site.prompt_stats SET view_count = view_count + 1 WHERE NEW.event_type = 'view' AND prompt_id = NEW.prompt_id;
		UPDATE site.prompt_stats SET fork_count = fork_count + 1 WHERE NEW.event_type = 'fork' AND prompt_id = NEW.prompt_id;
		RETURN NEW;
	END IF;
	UPDATE site.prompt_stats SET view_count = view_count - 1 WHERE OLD.event_type = 'view' AND prompt_id = OLD.prompt_id;
	RETURN OLD;
END $$;
CREATE TRIGGER cache AFTER INSERT ON site.prompt_events FOR EACH ROW EXECUTE FUNCTION site.cache();
CREATE TRIGGER "un cache" AFTER DELETE ON site.prompt_events FOR EACH ROW EXECUTE FUNCTION site.cache();
CREATE FUNCTION site.pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION site.pass();
CREATE TRIGGER tell AFTER UPDATE ON site.prompt_stats FOR EACH STATEMENT EXECUTE FUNCTION site.pass();
ALTER TABLE site.prompt_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON site.prompt_events USING (true) WITH CHECK (true);
GRANT ALL ON site.prompt_stats TO PUBLIC;
GRANT INSERT ON site.prompt_stats TO regress_stranger;
CREATE FUNCTION site.increment_prompt_views(prompt_id integer) RETURNS void LANGUAGE sql AS $$
	INSERT INTO site.prompt_daily_stats VALUES (prompt_id, 1); INSERT INTO site.prompt_events (prompt_id, event_type) VALUES (prompt_id, 'view');
$$;
-- triggers that don't fire for applications, and keys that keep nothing out, don't stand out
CREATE TRIGGER disabled AFTER DELETE ON site.prompt_events FOR EACH ROW EXECUTE FUNCTION site.cache();
ALTER TABLE site.prompt_events DISABLE TRIGGER disabled;
CREATE TRIGGER of_replica AFTER DELETE ON site.prompt_events FOR EACH ROW EXECUTE FUNCTION site.cache();
ALTER TABLE site.prompt_events ENABLE REPLICA TRIGGER of_replica;
CREATE UNIQUE INDEX nothing_kept ON site.prompt_events (prompt_id, id);
RESET ROLE;
-- rows that can't be moved, and a counter of an unknown prompt, as a subscription brings it
SET session_replication_role = replica;
INSERT INTO site.prompt_stats VALUES (77, 1, 0, 0, NULL);
INSERT INTO site.prompt_events (prompt_id, event_type) VALUES (1, NULL), (NULL, 'view'), (2, 'share'), (88, 'copy');
RESET session_replication_role;
INSERT INTO site.prompt_events (prompt_id, user_id, event_type, created_at) SELECT 1 + i % 9, i, 'view', now() FROM generate_series(1, 18) i;
CREATE RULE shared AS ON DELETE TO site.prompt_events WHERE OLD.event_type = 'share' DO INSTEAD NOTHING;
CREATE RULE also AS ON INSERT TO site.prompt_events DO ALSO NOTHING;
CREATE RULE audit AS ON UPDATE TO site.prompt_stats DO ALSO NOTHING;
-- published: what is deleted, what has no key
SET client_min_messages = error;
CREATE PUBLICATION regress_all FOR ALL TABLES WITH (publish = 'insert, update, delete');
RESET client_min_messages;
ALTER TABLE site.prompt_stats REPLICA IDENTITY NOTHING;
SET prompt_stats.skip_setup = on;
CREATE SCHEMA ext;
CREATE EXTENSION prompt_stats SCHEMA ext;
RESET prompt_stats.skip_setup;
GRANT USAGE ON SCHEMA ext, site TO PUBLIC;
-- the owner of the tables needs no other rights
SET ROLE regress_site;
SELECT * FROM ext.prompt_stats_preflight('site.prompt_events', 'site.prompt_stats');
RESET ROLE;
SET ROLE regress_stranger;
SELECT try($$SELECT * FROM ext.prompt_stats_preflight('site.prompt_events', 'site.prompt_stats')$$);
SELECT try($$SELECT * FROM prompt_stats_internal.findings(NULL, NULL)$$);
RESET ROLE;
-- it has changed nothing, also where nothing can be changed
BEGIN READ ONLY;
SELECT count(*) FROM ext.prompt_stats_preflight('site.prompt_events', 'site.prompt_stats');
COMMIT;
SELECT event_type, count(*) FROM site.prompt_events GROUP BY 1 ORDER BY 1;

-- setup tells in full what may make numbers wrong
SELECT ext.prompt_stats_setup('site.prompt_events', 'site.prompt_stats');
-- the chosen tables are those that it looks at now
SELECT finding, object FROM ext.prompt_stats_preflight();
SELECT * FROM ext.prompt_stats_verify();
CALL ext.prompt_stats_migrate(dry_run => true);

--
-- Refused until accepted by name
--
CALL ext.prompt_stats_migrate();
SELECT ext.prompt_stats_migrate_batch();
SELECT ext.prompt_stats_enable_compat();
CALL ext.prompt_stats_migrate(accept => '{delete rule}');
SELECT ext.prompt_stats_migrate_batch(accept => '{delete rule,referenced events}');
SELECT ext.prompt_stats_migrate_batch(accept => '{unique events}');
SELECT ext.prompt_stats_migrate_batch(accept => '{NULL}');
SELECT ext.prompt_stats_migrate_batch(accept => '{}');
SELECT ext.prompt_stats_enable_compat('{delete trigger}');
SELECT count(*) AS rows, sum(view_count) AS views FROM site.prompt_events, (SELECT sum(view_count) AS view_count FROM site.prompt_stats) s;
-- accepted
BEGIN;
DROP RULE also ON site.prompt_events;
DROP RULE audit ON site.prompt_stats;
ALTER TABLE site.prompt_events DISABLE TRIGGER cache;
SELECT ext.prompt_stats_enable_compat('{unique events}');
INSERT INTO site.prompt_events (prompt_id, event_type, request) VALUES (1, 'view', 'r'), (1, 'view', 'r') ON CONFLICT DO NOTHING;
SELECT view_count FROM site.prompt_stats WHERE prompt_id = 1;
ROLLBACK;
BEGIN;
DROP RULE audit ON site.prompt_stats;
SELECT ext.prompt_stats_migrate_batch(5, accept => '{delete trigger,delete rule,referenced events}');
ROLLBACK;

--
-- Each statement, pasted, mends
--
SET client_min_messages = error;
SELECT statement FROM ext.prompt_stats_preflight() \gexec
RESET client_min_messages;
-- a table that is logged is published: the next round
SELECT * FROM ext.prompt_stats_preflight();
SELECT statement FROM ext.prompt_stats_preflight() \gexec
SELECT * FROM ext.prompt_stats_preflight();
CALL ext.prompt_stats_migrate(mode => 'keep');
SELECT prompt_id, view_count, copy_count FROM site.prompt_stats ORDER BY 1;
SELECT ext.prompt_stats_enable_compat();
SELECT bool_and(ok) FROM ext.prompt_stats_verify();
SELECT detail FROM ext.prompt_stats_verify() WHERE check_name = 'preflight';
SELECT pubname, puballtables, pubdelete, pubtruncate FROM pg_publication WHERE pubname = 'regress_all';
-- and touch => true has left the comment that was there
SELECT col_description('site.prompt_stats'::regclass, attnum) FROM pg_attribute WHERE attrelid = 'site.prompt_stats'::regclass AND attname = 'updated_at';
DROP PUBLICATION regress_all;

--
-- What deletes may do, each by itself; where nothing is to be moved, nothing is refused
--
CREATE TRIGGER t BEFORE DELETE ON site.prompt_events FOR EACH STATEMENT EXECUTE FUNCTION site.pass();
CALL ext.prompt_stats_migrate();
SELECT ext.prompt_stats_migrate_batch();
ALTER TABLE site.prompt_events DISABLE TRIGGER prompt_stats_reroute, DROP CONSTRAINT kinds;
INSERT INTO site.prompt_events (prompt_id, event_type) SELECT 1, 'view' FROM generate_series(1, 3);
SELECT try('SELECT ext.prompt_stats_migrate_batch(1)', true);
DROP TRIGGER t ON site.prompt_events;
CREATE CONSTRAINT TRIGGER t AFTER INSERT OR DELETE ON site.prompt_events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION site.pass();
SELECT try('SELECT ext.prompt_stats_migrate_batch(1)', true);
DROP TRIGGER t ON site.prompt_events;
-- always, also for replicas
CREATE TRIGGER t AFTER DELETE ON site.prompt_events REFERENCING OLD TABLE AS o FOR EACH STATEMENT EXECUTE FUNCTION site.pass();
ALTER TABLE site.prompt_events ENABLE ALWAYS TRIGGER t;
SELECT try('SELECT ext.prompt_stats_migrate_batch(1)', true);
DROP TRIGGER t ON site.prompt_events;
-- what can't be moved stays, so nothing is refused for its sake; unless it is to be deleted
INSERT INTO site.prompt_events (prompt_id, event_type) VALUES (1, NULL);
CREATE TRIGGER t AFTER DELETE ON site.prompt_events FOR EACH ROW EXECUTE FUNCTION site.pass();
SELECT ext.prompt_stats_migrate_batch();
SELECT ext.prompt_stats_migrate_batch(unmovable => 'delete');
SELECT ext.prompt_stats_migrate_batch(unmovable => 'delete', accept => '{delete trigger,delete trigger}');
DROP TRIGGER t ON site.prompt_events;
CALL ext.prompt_stats_migrate();
-- the usual counter cache, which takes off on DELETE: what the counters hold stays
ALTER TABLE site.prompt_events ENABLE TRIGGER "un cache", DROP CONSTRAINT prompt_events_event_type_check;
INSERT INTO site.prompt_events (prompt_id, event_type) SELECT 1 + i % 2, 'view' FROM generate_series(1, 20) i;
UPDATE site.prompt_stats SET view_count = 10;
SELECT try('SELECT ext.prompt_stats_migrate_batch(7, ''keep'')', true);
CALL ext.prompt_stats_migrate(mode => 'keep');
SELECT DISTINCT view_count FROM site.prompt_stats;
-- rows that reference events: they stay, or go, as was accepted
ALTER TABLE site.prompt_events DROP CONSTRAINT prompt_events_event_type_check;
CREATE TABLE site.replies (event bigint REFERENCES site.prompt_events ON DELETE CASCADE);
CREATE TABLE site.receipts (event bigint REFERENCES site.prompt_events);
INSERT INTO site.prompt_events (prompt_id, event_type) SELECT 1, 'view' FROM generate_series(1, 4);
INSERT INTO site.replies SELECT id FROM site.prompt_events;
INSERT INTO site.receipts SELECT max(id) FROM site.prompt_events;
SELECT try('SELECT ext.prompt_stats_migrate_batch()');
SELECT count(*) FROM site.replies;
SELECT try('SELECT ext.prompt_stats_migrate_batch(accept => ''{referenced events}'')') ~ '^23503';
DROP TABLE site.receipts;
SELECT ext.prompt_stats_migrate_batch(accept => '{referenced events}');
SELECT count(*) FROM site.replies;
SELECT view_count FROM site.prompt_stats WHERE prompt_id = 1;
DROP TABLE site.replies;
-- a reference from a partitioned table is one
CREATE TABLE site.parts (event bigint REFERENCES site.prompt_events ON DELETE CASCADE) PARTITION BY LIST (event);
CREATE TABLE site.part PARTITION OF site.parts DEFAULT;
SELECT object, consequence FROM ext.prompt_stats_preflight() WHERE finding = 'referenced events';
DROP TABLE site.parts;

--
-- Keys that keep events from being logged twice
--
CREATE FUNCTION site.new_id() RETURNS bigint VOLATILE LANGUAGE sql AS 'SELECT (random() * 1e15)::bigint';
ALTER TABLE site.prompt_events ADD a uuid DEFAULT gen_random_uuid() UNIQUE, ADD b bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
	ADD c bigint DEFAULT site.new_id() UNIQUE, ADD d timestamptz DEFAULT clock_timestamp();
SELECT object FROM ext.prompt_stats_preflight() WHERE finding = 'unique events';
-- an application may make its ids itself
ALTER TABLE site.prompt_events ALTER id DROP DEFAULT;
SELECT object FROM ext.prompt_stats_preflight() WHERE finding = 'unique events';
CREATE UNIQUE INDEX included ON site.prompt_events (user_id) INCLUDE (id);
CREATE UNIQUE INDEX expression ON site.prompt_events ((prompt_id + user_id));
ALTER TABLE site.prompt_events ADD CONSTRAINT excluded EXCLUDE USING btree (prompt_id WITH =) WHERE (user_id > 0);
SELECT object, statement FROM ext.prompt_stats_preflight() WHERE finding = 'unique events';
SELECT statement FROM ext.prompt_stats_preflight() WHERE finding = 'unique events' \gexec
SELECT ext.prompt_stats_enable_compat();
ALTER TABLE site.prompt_events DROP CONSTRAINT prompt_events_pkey, ADD PRIMARY KEY (prompt_id, created_at);
SELECT object FROM ext.prompt_stats_preflight() WHERE finding = 'unique events';
DROP EXTENSION prompt_stats CASCADE;
DROP SCHEMA site CASCADE;
REVOKE CREATE ON SCHEMA public FROM regress_site;

--
-- What setup refuses is told with what mends it
--
SET client_min_messages = warning;
SET prompt_stats.skip_setup = on;
CREATE EXTENSION prompt_stats;
RESET prompt_stats.skip_setup;
CREATE VIEW prompt_stats AS SELECT NULL::uuid AS prompt_id, 0::bigint AS view_count, 0::bigint AS copy_count;
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type varchar(5), session text NOT NULL);
ALTER TABLE prompt_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE prompt_events OWNER TO regress_stranger;
SELECT * FROM prompt_stats_preflight();
ALTER TABLE prompt_events OWNER TO CURRENT_USER;
SELECT * FROM prompt_stats_preflight();
SELECT statement FROM prompt_stats_preflight() WHERE finding = 'not adoptable' \gexec
ALTER TABLE prompt_events OWNER TO regress_site;
ALTER TABLE prompt_stats OWNER TO regress_site;
SELECT * FROM prompt_stats_preflight('prompt_events', 'prompt_stats');
-- one after the other
DO $$
DECLARE
	mend text;
BEGIN
	LOOP
		SELECT statement INTO mend FROM prompt_stats_preflight('prompt_events', 'prompt_stats') WHERE finding = 'not adoptable' LIMIT 1;
		EXIT WHEN mend IS NULL;
		RAISE WARNING '%', mend;
		EXECUTE replace(mend, '''...''', '''none''');
	END LOOP;
END $$;
SELECT prompt_stats_setup('prompt_events', 'prompt_stats');
SELECT * FROM prompt_stats_preflight();
-- an owner who has taken rights from himself
REVOKE UPDATE ON prompt_stats FROM regress_site;
REVOKE ALL ON prompt_events FROM regress_site;
SELECT finding, object, statement FROM prompt_stats_preflight();
SELECT statement FROM prompt_stats_preflight() \gexec
SELECT * FROM prompt_stats_preflight();
DROP VIEW prompt_stats_old;
DROP TABLE prompt_stats, prompt_events;
CREATE TABLE prompts (id bigint);
SELECT * FROM prompt_stats_preflight();
SELECT statement FROM prompt_stats_preflight() \gexec
SELECT object, finding, replace(consequence, current_user, 'me'), statement FROM prompt_stats_preflight();
SELECT DISTINCT statement FROM prompt_stats_preflight() \gexec
SELECT * FROM prompt_stats_preflight();
-- what can't be read is compared with nothing
ALTER TABLE prompt_stats RENAME TO kept;
CREATE VIEW prompt_stats AS TABLE kept;
SELECT object, finding FROM prompt_stats_preflight();
DROP VIEW prompt_stats;
ALTER TABLE kept RENAME TO prompt_stats;
-- events alone: what the counters will reference is known
DROP TABLE prompt_stats;
ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check, DROP CONSTRAINT prompt_events_prompt_id_fkey;
INSERT INTO prompts VALUES (1);
INSERT INTO prompt_events (prompt_id, event_type) VALUES (1, 'view'), (2, 'copy'), (2, 'copy'), (2, 'fork');
SELECT object, finding, replace(consequence, current_user, 'me'), statement FROM prompt_stats_preflight();
SELECT statement FROM prompt_stats_preflight() WHERE finding = 'missing table' \gexec
SELECT statement FROM prompt_stats_preflight() \gexec
SELECT * FROM prompt_stats_preflight();
CALL prompt_stats_migrate();
RESET client_min_messages;

--
-- Functions of our names
--
SELECT ok, detail FROM prompt_stats_verify() WHERE check_name = 'preflight';
CREATE FUNCTION increment_prompt_views(prompt_no integer) RETURNS void LANGUAGE sql AS '';
CREATE SCHEMA old;
CREATE PROCEDURE old.track_prompt_fork() LANGUAGE sql BEGIN ATOMIC SELECT FROM prompts; END;
SELECT * FROM prompt_stats_preflight();
SELECT ok, detail FROM prompt_stats_verify() WHERE check_name = 'preflight';
SELECT prompt_stats_setup();
SELECT statement FROM prompt_stats_preflight() \gexec
SELECT ok, detail FROM prompt_stats_verify() WHERE check_name = 'preflight';
-- one of ours replaced
CREATE OR REPLACE FUNCTION increment_prompt_views(prompt_no bigint) RETURNS void LANGUAGE sql AS '';
SELECT * FROM prompt_stats_preflight();
SELECT ok, detail FROM prompt_stats_verify() WHERE check_name = 'preflight';
SELECT statement FROM prompt_stats_preflight() \gexec
SELECT increment_prompt_views(1::bigint);
SELECT view_count FROM prompt_stats;

--
-- A counter of an unknown prompt is a failure where a valid foreign key says that there is none
--
SET session_replication_role = replica;
INSERT INTO prompt_stats (prompt_id) VALUES (5), (6);
RESET session_replication_role;
SELECT * FROM prompt_stats_verify() WHERE check_name = 'unknown prompts';
ALTER TABLE prompt_stats DROP CONSTRAINT prompt_stats_prompt_id_fkey, ADD FOREIGN KEY (prompt_id) REFERENCES prompts ON DELETE CASCADE NOT VALID;
SELECT * FROM prompt_stats_verify() WHERE check_name = 'unknown prompts';
SELECT statement FROM prompt_stats_preflight() \gexec
SELECT * FROM prompt_stats_verify() WHERE check_name = 'unknown prompts';

--
-- updated_at: ours to set, if the owner wants it
--
SELECT prompt_stats_setup(touch => false);
UPDATE prompt_stats SET updated_at = '-infinity';
SELECT increment_prompt_views(1);
SELECT view_count, updated_at FROM prompt_stats;
SELECT finding, statement FROM prompt_stats_preflight();
SELECT prompt_stats_setup();
SELECT prompt_stats_setup(touch => true);
SELECT prompt_stats_setup(touch => true);
SELECT increment_prompt_views(1);
SELECT view_count, updated_at > '-infinity' AS set FROM prompt_stats;
SELECT col_description('prompt_stats'::regclass, attnum) FROM pg_attribute WHERE attrelid = 'prompt_stats'::regclass AND attname = 'updated_at';
SELECT * FROM prompt_stats_preflight();
-- an ordinary comment stays, and goes on being one
COMMENT ON COLUMN prompt_stats.updated_at IS E'it''s \\ old';
SELECT prompt_stats_setup(touch => true);
SELECT prompt_stats_setup(touch => true);
SELECT col_description('prompt_stats'::regclass, attnum) FROM pg_attribute WHERE attrelid = 'prompt_stats'::regclass AND attname = 'updated_at';
SELECT prompt_stats_setup(touch => false);
SELECT col_description('prompt_stats'::regclass, attnum) FROM pg_attribute WHERE attrelid = 'prompt_stats'::regclass AND attname = 'updated_at';
-- a type that holds no time, and none at all
CREATE DOMAIN moment AS timestamptz;
CREATE VIEW recent AS SELECT updated_at FROM prompt_stats;
CREATE FUNCTION touch_as(type text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r text;
BEGIN
	DROP VIEW recent;
	EXECUTE format('ALTER TABLE prompt_stats ALTER updated_at TYPE %s USING %L', type, value);
	CREATE VIEW recent AS SELECT updated_at FROM prompt_stats;
	SET client_min_messages = warning;
	r := try('SELECT prompt_stats_setup(touch => true)');
	EXECUTE (SELECT statement FROM prompt_stats_preflight() WHERE finding = 'updated_at');
	RESET client_min_messages;
	RETURN regexp_replace(r, '\n.*', '') || E'\n  ' || (SELECT count(*) FROM prompt_stats_preflight()) || ' ' || COALESCE((SELECT updated_at::text FROM prompt_stats), 'NULL');
END $$;
SET timezone = 'UTC';
SELECT type, touch_as(type, value) FROM (VALUES ('integer', '86400'), ('text', '2001-02-03 04:05:06+00'), ('varchar(99)', '2001-02-03'), ('time', '10:00'), ('jsonb', '{}')) v(type, value);
RESET timezone;
DROP VIEW recent;
SELECT prompt_stats_setup(touch => false);
ALTER TABLE prompt_stats ALTER updated_at TYPE moment;
SELECT finding, statement FROM prompt_stats_preflight();
SELECT prompt_stats_setup(touch => true);
DROP FUNCTION touch_as;
ALTER TABLE prompt_stats DROP updated_at;
DROP DOMAIN moment;
SELECT prompt_stats_setup(touch => false);
SELECT try('SELECT prompt_stats_setup(touch => true)', true);
-- only its owner may say so
SET ROLE regress_stranger;
SELECT replace(try('SELECT prompt_stats_setup(touch => false)'), session_user, 'me');
SELECT try('SELECT * FROM prompt_stats_preflight()') ~ '^42501 must be owner';
RESET ROLE;
DROP TABLE prompt_stats, prompt_events;
SET ROLE regress_stranger;
SELECT try('SELECT * FROM prompt_stats_preflight()');
RESET ROLE;
DROP EXTENSION prompt_stats;
DROP TABLE prompts;
DROP SCHEMA old, ext;
DROP FUNCTION try;
DROP ROLE regress_site, regress_stranger;
