-- Each call by itself; test "durability" has the other modes
SET prompt_stats.durability = 'transaction';
--
-- Adopting the tables of an application as they are: [13]
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
		FOR h IN SELECT s[1] FROM regexp_matches(h, '((?:ALTER|DROP|SELECT|DELETE|UPDATE|WITH) [^;]*(?:;|$))', 'g') s LOOP
			EXECUTE h;
		END LOOP;
		m := m || E'\n  mended: ' || try(sql);
	END IF;
	RETURN m;
END $$;
-- Does the table keep to the two kinds?
CREATE FUNCTION kinds(tab text DEFAULT 'prompt_events') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k text;
	r text := '';
BEGIN
	FOREACH k IN ARRAY ARRAY['fork', 'compare_add', 'view', 'copy', 'other', '', NULL] LOOP
		BEGIN
			EXECUTE format('INSERT INTO %s (prompt_id, user_id, event_type) VALUES (id(1), id(1), %L)', tab, k);
			r := r || ' ' || COALESCE(k, 'NULL');
			RAISE SQLSTATE 'UNDO1';
		EXCEPTION WHEN SQLSTATE 'UNDO1' OR check_violation OR not_null_violation THEN
			NULL;
		END;
	END LOOP;
	RETURN 'admits' || r;
END $$;

--
-- A database like the real one
--
CREATE ROLE regress_site NOLOGIN;
CREATE ROLE regress_anon;
GRANT CREATE ON SCHEMA public TO regress_site;
GRANT EXECUTE ON FUNCTION id TO PUBLIC;
SET ROLE regress_site;
CREATE TABLE prompts (id uuid PRIMARY KEY, title text, deleted_at timestamptz);
INSERT INTO prompts SELECT id(i), 'prompt ' || i FROM generate_series(1, 20) i;
ALTER TABLE prompts ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY living ON prompts FOR SELECT USING (deleted_at IS NULL);
CREATE TABLE prompt_stats (
	prompt_id uuid PRIMARY KEY REFERENCES prompts ON DELETE CASCADE,
	view_count integer DEFAULT 0, copy_count integer DEFAULT 0, fork_count integer DEFAULT 0,
	upvotes integer DEFAULT 0, score integer DEFAULT 0, updated_at timestamptz DEFAULT now(),
	shares integer NOT NULL DEFAULT 0, note text NOT NULL DEFAULT 'kept',
	twice integer GENERATED ALWAYS AS (view_count * 2) STORED,
	UNIQUE (prompt_id));
CREATE UNIQUE INDEX prompt_stats_again ON prompt_stats (prompt_id);
CREATE INDEX ON prompt_stats (fork_count);
CREATE INDEX ON prompt_stats (updated_at);
CREATE INDEX ON prompt_stats (prompt_id) INCLUDE (view_count, fork_count);
ALTER TABLE prompt_stats ENABLE ROW LEVEL SECURITY;
CREATE POLICY everyone_reads ON prompt_stats FOR SELECT USING (true);
CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'score is touched'; END $$;
CREATE TRIGGER score BEFORE UPDATE OF score, upvotes ON prompt_stats FOR EACH ROW EXECUTE FUNCTION forbid();
INSERT INTO prompt_stats (prompt_id, view_count, copy_count, fork_count, updated_at) SELECT id(i), 234, NULL, NULL, '-infinity' FROM generate_series(1, 12) i;
UPDATE prompt_stats SET view_count = NULL WHERE prompt_id = id(2);
CREATE VIEW popular AS SELECT prompt_id, view_count, fork_count FROM prompt_stats;
CREATE TABLE prompt_events (
	id uuid PRIMARY KEY DEFAULT gen_random_uuid(), prompt_id uuid NOT NULL REFERENCES prompts ON DELETE CASCADE, user_id uuid NOT NULL,
	event_type text, created_at timestamptz,
	CONSTRAINT prompt_events_event_type_check CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add')));
ALTER TABLE prompt_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON prompt_events FOR INSERT WITH CHECK (user_id = '00000000-0000-0000-0000-0000000000aa');
GRANT INSERT ON prompt_events TO regress_anon;
INSERT INTO prompt_events (prompt_id, user_id, event_type)
	SELECT id(1 + i % 16), id(99), CASE WHEN i % 10 < 7 THEN 'view' WHEN i % 10 < 9 THEN 'copy' ELSE 'fork' END FROM generate_series(1, 1000) i;
INSERT INTO prompt_events (prompt_id, user_id, event_type) VALUES (id(1), id(99), NULL);
CREATE FUNCTION increment_prompt_views(prompt_id uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO prompt_stats (prompt_id, view_count) VALUES (prompt_id, 1)
	ON CONFLICT (prompt_id) DO UPDATE SET view_count = prompt_stats.view_count + 1;
END $$;
RESET ROLE;
CREATE TABLE expected AS
	SELECT p.id, COALESCE(s.view_count, 0) + count(*) FILTER (WHERE event_type = 'view') AS views,
		COALESCE(s.copy_count, 0) + count(*) FILTER (WHERE event_type = 'copy') AS copies, count(*) FILTER (WHERE event_type = 'fork') AS forks
	FROM prompts p LEFT JOIN prompt_stats s ON s.prompt_id = p.id LEFT JOIN prompt_events e ON e.prompt_id = p.id GROUP BY p.id, s.prompt_id;
CREATE VIEW definitions AS
	SELECT 'column' AS what, attrelid::regclass || '.' || attname AS name, concat_ws(' ', format_type(atttypid, atttypmod), attnotnull, attgenerated, pg_get_expr(adbin, adrelid)) AS definition
	FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
	WHERE attrelid IN ('prompt_stats'::regclass, 'prompt_events'::regclass) AND attnum > 0
	UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE tablename IN ('prompt_stats', 'prompt_events')
	UNION ALL SELECT 'policy', policyname, concat_ws(' ', cmd, qual, with_check) FROM pg_policies WHERE tablename IN ('prompt_stats', 'prompt_events')
	UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid IN ('prompt_stats'::regclass, 'prompt_events'::regclass) AND NOT tgisinternal
	UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid IN ('prompt_stats'::regclass, 'prompt_events'::regclass)
	UNION ALL SELECT 'table', relname, concat_ws(' ', relowner::regrole, relacl, reloptions, relrowsecurity, relforcerowsecurity)
	FROM pg_class WHERE oid IN ('prompt_stats'::regclass, 'prompt_events'::regclass);
CREATE TABLE defined AS TABLE definitions;

CREATE EXTENSION prompt_stats;
DROP FUNCTION public.increment_prompt_views(prompt_id uuid);
CREATE EXTENSION prompt_stats;
-- all that changed is the check
(TABLE defined EXCEPT TABLE definitions) ORDER BY 1, 2;
(TABLE definitions EXCEPT TABLE defined) ORDER BY 1, 2;
SELECT check_name, detail FROM prompt_stats_verify() WHERE NOT ok ORDER BY 1;
SELECT kinds();
-- counting: NULL counts from 0, missing rows appear, the rest stays as it was
SET ROLE regress_anon;
SELECT increment_prompt_views(id(1)), increment_prompt_views(ARRAY[id(2), id(20)]), increment_prompt_copies(id(1), 5), increment_fork_count(ARRAY[id(1), id(1)]), increment_fork_count(id(19));
SELECT try($$SELECT track_prompt_fork(id(1), '00000000-0000-0000-0000-0000000000aa')$$);
SELECT try('SELECT track_prompt_fork(id(1), id(5))');
SELECT try('SELECT increment_prompt_views(id(999))') ~ '^23503';
RESET ROLE;
SELECT right(prompt_id::text, 2) AS prompt, view_count, copy_count, fork_count, upvotes, updated_at > '-infinity' AS touched, shares, note, twice
FROM prompt_stats WHERE prompt_id IN (id(1), id(2), id(3), id(19), id(20)) ORDER BY prompt_id;
SELECT created_at = now() AS now, created_at > now() - interval '1 hour' AS dated FROM prompt_events WHERE user_id = '00000000-0000-0000-0000-0000000000aa';
DELETE FROM prompt_events WHERE user_id = '00000000-0000-0000-0000-0000000000aa';
UPDATE expected SET views = views + 1 WHERE id IN (id(1), id(2), id(20));
UPDATE expected SET copies = copies + 5 WHERE id = id(1);
-- a soft-deleted prompt, which its policy hides from its owner, exists all the same
UPDATE prompts SET deleted_at = now() WHERE id IN (id(3), id(18));
SELECT increment_prompt_views(ARRAY[id(3), id(18)]);
UPDATE expected SET views = views + 1 WHERE id IN (id(3), id(18));
-- the migration, by the owner
SET ROLE regress_site;
CALL prompt_stats_migrate(batch_size => 100);
RESET ROLE;
SELECT count(*) AS prompts, count(*) FILTER (WHERE (e.views, e.copies) <> (COALESCE(s.view_count, 0), COALESCE(s.copy_count, 0))) AS wrong,
	count(*) FILTER (WHERE s.fork_count < e.forks) AS too_few_forks
FROM expected e LEFT JOIN prompt_stats s ON s.prompt_id = e.id;
SELECT event_type, count(*) FROM prompt_events GROUP BY 1 ORDER BY 1;
DELETE FROM prompt_events WHERE event_type IS NULL;
CALL prompt_stats_migrate();
SELECT bool_and(ok) AS verified FROM prompt_stats_verify();
SELECT convalidated, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'prompt_events'::regclass AND contype = 'c';

--
-- HOT: an UPDATE touches the counted column alone
--
CREATE PROCEDURE count_300(sql text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 300 LOOP
		EXECUTE sql;
		COMMIT;
	END LOOP;
	PERFORM pg_stat_force_next_flush();
END $$;
ALTER TABLE prompt_stats SET (fillfactor = 20, autovacuum_enabled = off);
VACUUM FULL prompt_stats;
SELECT pg_stat_force_next_flush();
SELECT n_tup_upd AS updates, n_tup_hot_upd AS hot FROM pg_stat_user_tables WHERE relname = 'prompt_stats' \gset
CALL count_300('SELECT increment_prompt_views(id(5))');
SELECT pg_stat_clear_snapshot();
SELECT 'views', n_tup_upd - :updates AS updates, n_tup_hot_upd - :hot AS hot FROM pg_stat_user_tables WHERE relname = 'prompt_stats';
CALL count_300('SELECT increment_prompt_copies(id(5))');
SELECT pg_stat_clear_snapshot();
SELECT 'views and copies', n_tup_upd - :updates AS updates, n_tup_hot_upd - :hot AS hot FROM pg_stat_user_tables WHERE relname = 'prompt_stats';
DROP PROCEDURE count_300;
DROP EXTENSION prompt_stats;
DROP VIEW popular, definitions;
DROP TABLE prompt_stats, prompt_events, prompts, expected, defined;
DROP FUNCTION forbid;

--
-- Checks of all sorts: afterwards the table keeps to the two kinds, under the old name
--
CREATE TABLE prompt_stats (prompt_id uuid PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type text);
CREATE EXTENSION prompt_stats;
CREATE FUNCTION is_kind(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$ SELECT $1 <> 'x' $$;
-- adopts with the constraints, and shows those that are there then
CREATE FUNCTION adopt(constraints text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	DROP TABLE prompt_events;
	EXECUTE format('CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type text%s)', constraints);
	RETURN NEXT regexp_replace(try('SELECT prompt_stats_setup()'), '^ok$', kinds());
	RETURN QUERY SELECT format('%s %s', conname, CASE WHEN convalidated THEN 'valid' ELSE 'not valid' END)
		FROM pg_constraint WHERE conrelid = 'prompt_events'::regclass AND contype = 'c' ORDER BY 1;
END $$;
SET client_min_messages = warning;
SELECT adopt('');
SELECT adopt(' NOT NULL');
SELECT adopt($$, CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add'))$$);
SELECT adopt($$, CONSTRAINT "Old name" CHECK (event_type = 'view' OR event_type = 'copy')$$);
SELECT adopt($$, CONSTRAINT no_views CHECK (event_type NOT IN ('view', 'copy'))$$);
SELECT adopt($$, CONSTRAINT short CHECK (length(event_type) < 100)$$);
SELECT adopt($$, CONSTRAINT too_short CHECK (length(event_type) < 10)$$);
SELECT adopt($$, CONSTRAINT forks CHECK (event_type = 'fork')$$);
SELECT adopt($$, CONSTRAINT a CHECK (event_type <> ''), CONSTRAINT b CHECK (event_type IN ('view', 'copy', 'fork')), CONSTRAINT c CHECK (event_type ~ '^[a-z_]+$')$$);
SELECT adopt($$, CONSTRAINT nullable CHECK (event_type IN ('fork', 'compare_add'))$$);
-- one that is right already stays
SELECT adopt($$, CONSTRAINT right_one CHECK (event_type IS NOT NULL AND event_type IN ('compare_add', 'fork'))$$);
SELECT adopt($$, CONSTRAINT right_one CHECK (COALESCE(event_type, '') = ANY ('{compare_add,fork}'))$$);
-- of other columns, and of several: not ours to judge
SELECT adopt($$, CONSTRAINT other CHECK (user_id IS NOT NULL), CONSTRAINT several CHECK (event_type <> 'view' OR user_id IS NULL)$$);
-- one that calls a function of users is not called to find out what it admits
SELECT adopt($$, CONSTRAINT calls CHECK (is_kind(event_type))$$);
SELECT adopt($$, CHECK (is_kind(event_type))$$) LIMIT 1;
RESET client_min_messages;
-- rows that it would refuse: NOT VALID, and said so
DROP TABLE prompt_events;
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type text CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add')));
INSERT INTO prompt_events VALUES (id(1), NULL, 'view');
SELECT prompt_stats_setup();
SELECT kinds();
SELECT conname, convalidated FROM pg_constraint WHERE conrelid = 'prompt_events'::regclass;
CALL prompt_stats_migrate();
SELECT conname, convalidated FROM pg_constraint WHERE conrelid = 'prompt_events'::regclass;

--
-- Columns of all sorts
--
-- adopts event tables with these columns, by the hint's statement if need be
CREATE FUNCTION adopt_events(columns text, mend boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	DROP TABLE IF EXISTS prompt_events;
	EXECUTE format('CREATE TABLE prompt_events (%s)', columns);
	RETURN try('SELECT prompt_stats_setup(''prompt_events'', ''prompt_stats'')', mend) || COALESCE(', ' || NULLIF(try('SELECT track_prompt_fork(id(1), NULL)'), 'ok'), '');
END $$;
CREATE FUNCTION adopt_stats(columns text, mend boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	DROP TABLE IF EXISTS prompt_stats;
	EXECUTE format('CREATE TABLE prompt_stats (%s)', columns);
	RETURN try('SELECT prompt_stats_setup(''prompt_events'', ''prompt_stats'')', mend) || COALESCE(', ' || NULLIF(try('SELECT increment_prompt_views(ARRAY[id(1), id(2)])'), 'ok'), '');
END $$;
SET client_min_messages = warning;
CREATE TYPE kind AS ENUM ('view', 'copy', 'fork', 'compare_add');
CREATE DOMAIN kind_text AS text;
SELECT adopt_events('prompt_id uuid, user_id uuid, event_type varchar(11)');
SELECT adopt_events('prompt_id uuid, user_id uuid, event_type kind_text');
SELECT adopt_events('prompt_id uuid, user_id uuid, event_type varchar(10)', true);
SELECT adopt_events($$prompt_id uuid, user_id uuid, event_type varchar(5) CHECK (event_type IN ('view', 'copy'))$$, true);
SELECT adopt_events('prompt_id uuid, user_id uuid, event_type kind', true);
SELECT adopt_events($$prompt_id uuid, user_id uuid, event_type kind DEFAULT 'view' CHECK (event_type <> 'copy')$$) ~ '^42804 .*event_type.*\n  hint: ';
SELECT adopt_events('prompt_id uuid, user_id uuid', true);
SELECT adopt_events('user_id uuid, event_type text', true);
SELECT adopt_events('prompt_id uuid, event_type text', true);
SELECT adopt_events('prompt_id uuid, user_id uuid, event_type text, created_at timestamptz NOT NULL');
SELECT adopt_events('prompt_id uuid, user_id uuid, event_type text, created_at date NOT NULL');
SELECT adopt_events('prompt_id uuid, user_id uuid, event_type text, id uuid NOT NULL', true);
SELECT adopt_events('prompt_id uuid, user_id uuid, event_type text, id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY');
SELECT adopt_events('prompt_id uuid, user_id uuid, event_type text, source text NOT NULL');
SELECT adopt_events('prompt_id bigint, user_id uuid, event_type text') ~ '^42804 .*prompt_id.*\n  hint: ';
SELECT adopt_events('prompt_id uuid, user_id uuid, event_type text');
-- counters
SELECT adopt_stats('prompt_id uuid UNIQUE, view_count integer, copy_count bigint, fork_count integer');
SELECT adopt_stats('prompt_id uuid, view_count bigint, copy_count bigint, fork_count bigint', true);
SELECT adopt_stats('prompt_id uuid UNIQUE, view_count bigint, copy_count bigint', true);
SELECT adopt_stats('prompt_id uuid UNIQUE, view_count smallint, copy_count bigint, fork_count bigint', true);
SELECT adopt_stats('prompt_id uuid UNIQUE, view_count text, copy_count bigint, fork_count bigint', true);
SELECT adopt_stats('prompt_id uuid UNIQUE, view_count bigint, fork_count bigint, copy_count bigint GENERATED ALWAYS AS (view_count) STORED', true);
SELECT adopt_stats('prompt_id uuid UNIQUE, view_count bigint, copy_count bigint, fork_count bigint, slug text NOT NULL');
SELECT adopt_stats('prompt_id uuid, view_count bigint, copy_count bigint, fork_count bigint, PRIMARY KEY (prompt_id, view_count)', true);
-- one key that is deferrable, beside one that is not
SELECT adopt_stats('prompt_id uuid PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint, UNIQUE (prompt_id) DEFERRABLE') ~ '^(ok$|\w+ .*\n  hint: )';
SELECT adopt_stats('prompt_id uuid UNIQUE, view_count bigint, copy_count bigint, fork_count bigint') ;
-- partitioned, a view, a foreign table
DROP TABLE prompt_events;
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type text) PARTITION BY LIST (event_type);
SELECT try('SELECT prompt_stats_setup()');
DROP TABLE prompt_events;
CREATE VIEW prompt_events AS SELECT id(1) AS prompt_id, id(1) AS user_id, 'fork' AS event_type;
SELECT try('SELECT prompt_stats_setup()');
DROP VIEW prompt_events;
CREATE FOREIGN DATA WRAPPER regress_fdw;
CREATE SERVER regress_server FOREIGN DATA WRAPPER regress_fdw;
CREATE FOREIGN TABLE prompt_events (prompt_id uuid, user_id uuid, event_type text) SERVER regress_server;
SELECT try('SELECT prompt_stats_setup()');
DROP FOREIGN TABLE prompt_events;
DROP FOREIGN DATA WRAPPER regress_fdw CASCADE;
CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type text);

--
-- FORCE ROW LEVEL SECURITY, which may stop the owner
--
CREATE FUNCTION forced(policies text, mend boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	DROP TABLE prompt_stats;
	CREATE TABLE prompt_stats (prompt_id uuid PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
	ALTER TABLE prompt_stats OWNER TO regress_site;
	ALTER TABLE prompt_stats ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
	EXECUTE policies;
	RETURN try('SELECT prompt_stats_setup(''prompt_events'', ''prompt_stats'')', mend) || COALESCE(', ' || NULLIF(try('SELECT increment_prompt_views(id(1)), increment_prompt_views(ARRAY[id(1), id(2)])'), 'ok'), '');
END $$;
SELECT forced('', true);
SELECT forced('CREATE POLICY r ON prompt_stats FOR SELECT USING (true)', true);
SELECT forced('CREATE POLICY a ON prompt_stats FOR ALL USING (true)');
SELECT forced('CREATE POLICY a ON prompt_stats FOR ALL TO regress_site USING (true) WITH CHECK (true)');
SELECT forced('CREATE POLICY a ON prompt_stats FOR ALL TO regress_anon USING (true)', true);
SELECT forced('CREATE POLICY a ON prompt_stats FOR ALL USING (view_count < 100)', true);
SELECT forced('CREATE POLICY a ON prompt_stats FOR ALL USING (true); CREATE POLICY b ON prompt_stats AS RESTRICTIVE FOR SELECT USING (view_count < 100)', true);
ALTER ROLE regress_site BYPASSRLS;
SELECT forced('');
ALTER ROLE regress_site NOBYPASSRLS;
-- of events: what is moved must be seen
DROP TABLE prompt_stats;
CREATE TABLE prompt_stats (prompt_id uuid PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
ALTER TABLE prompt_events OWNER TO regress_site;
ALTER TABLE prompt_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT try('SELECT prompt_stats_setup(''prompt_events'', ''prompt_stats'')', true);
ALTER TABLE prompt_stats OWNER TO regress_site;
RESET client_min_messages;

--
-- Tables of somebody who could only create them are not adopted unasked
--
DROP EXTENSION prompt_stats;
ALTER TABLE prompt_events OWNER TO regress_anon;
SELECT substring(try('CREATE EXTENSION prompt_stats') FROM 'SET .*') AS mend \gset
\echo :mend
:mend
RESET prompt_stats.skip_setup;
SELECT events, stats FROM prompt_stats_tables();
DROP EXTENSION prompt_stats;
-- nor counted in, where nothing was set up
SET prompt_stats.skip_setup = on;
CREATE EXTENSION prompt_stats;
RESET prompt_stats.skip_setup;
SELECT try('SELECT increment_prompt_views(id(1))', true);
SELECT try('SELECT track_compare_add(id(1), NULL)');

DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events;
DROP TYPE kind;
DROP DOMAIN kind_text;
DROP FUNCTION adopt, adopt_events, adopt_stats, forced, is_kind, kinds, try, id;
REVOKE CREATE ON SCHEMA public FROM regress_site;
DROP ROLE regress_site, regress_anon;
