-- Each call by itself; test 036_unwritten.pl has the other modes
SET prompt_stats.durability = 'transaction';
--
-- A count is in the table, or an error with what mends it; and no legacy row is deleted uncounted: [21]
--
\pset format unaligned
\pset footer off
\pset tuples_only on
\set SHOW_CONTEXT never

-- What came of a statement: 'ok', or SQLSTATE, message, detail and hint.  With mend, runs the
-- statement of the hint as well, and tries again.
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
	m := SQLSTATE || ' ' || m || COALESCE(E'\n  detail: ' || NULLIF(d, ''), '') || COALESCE(E'\n  hint: ' || NULLIF(h, ''), E'\n  no hint');
	IF mend THEN
		EXECUTE substring(h FROM '(?:ALTER|DROP|SELECT|GRANT) [^;]*;');
		m := m || E'\n  mended: ' || try(sql);
	END IF;
	RETURN m;
END $$;
CREATE FUNCTION is_error(answer text, state text) RETURNS boolean LANGUAGE sql AS $$
	SELECT answer ~ ('^' || state || ' .*\n  hint: .*;$')
$$;

CREATE ROLE regress_written;
CREATE TABLE prompts (id bigint PRIMARY KEY);
INSERT INTO prompts SELECT generate_series(1, 9);
SET client_min_messages = warning;
CREATE EXTENSION prompt_stats;
RESET client_min_messages;
ALTER TABLE prompts OWNER TO regress_written;
ALTER TABLE prompt_stats OWNER TO regress_written;
ALTER TABLE prompt_events OWNER TO regress_written;
SELECT increment_prompt_views(ARRAY[1, 2, 2]);
CREATE FUNCTION counts() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(prompt_id || ': ' || view_count, ', ' ORDER BY prompt_id) FROM prompt_stats
$$;
-- One, and a list; prompts that have a row, and prompts that have none
CREATE FUNCTION try_all() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN NEXT try('SELECT increment_prompt_views(1)');
	RETURN NEXT try('SELECT increment_prompt_views(ARRAY[1, 2])');
	RETURN NEXT try('SELECT increment_prompt_views(3)');
	RETURN NEXT try('SELECT increment_prompt_views(ARRAY[2, 4])');
END $$;
CREATE FUNCTION failing() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT check_name || ': ' || detail FROM prompt_stats_verify() WHERE NOT ok AND check_name NOT IN ('event kinds', 'check constraint')
$$;
CREATE PROCEDURE put_legacy() LANGUAGE plpgsql AS $$
BEGIN
	ALTER TABLE prompt_events DROP CONSTRAINT IF EXISTS prompt_events_event_type_check;
	DELETE FROM prompt_events;
	INSERT INTO prompt_events (prompt_id, event_type) VALUES (1, 'view'), (2, 'view'), (5, 'view');
	PERFORM prompt_stats_setup();
END $$;
CREATE FUNCTION legacy() RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM prompt_events WHERE event_type = 'view' $$;

--
-- Policies that come after setup, and keep rows from their owner
--
ALTER TABLE prompt_stats ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY look ON prompt_stats FOR SELECT USING (true);
SELECT try_all();
SELECT failing();
CREATE POLICY add ON prompt_stats FOR INSERT WITH CHECK (true);
SELECT is_error(try('SELECT increment_prompt_views(1)'), '42501'), is_error(try('SELECT increment_prompt_views(ARRAY[2, 3])'), '42501');
-- one that admits some rows, and one that changes its mind between a look and the update
CREATE POLICY few ON prompt_stats FOR UPDATE USING (prompt_id = 1) WITH CHECK (view_count < 100);
SELECT try('SELECT increment_prompt_views(1)'), is_error(try('SELECT increment_prompt_views(ARRAY[1, 2])'), '42501');
SELECT is_error(try('SELECT increment_prompt_views(1, 200)'), '42501');
DROP POLICY few ON prompt_stats;
CREATE SEQUENCE moods;
GRANT USAGE ON SEQUENCE moods TO regress_written;
CREATE POLICY moody ON prompt_stats FOR UPDATE USING (nextval('moods') % 2 = 0);
SELECT is_error(try('SELECT increment_prompt_views(ARRAY[1])'), '42501'), is_error(try('SELECT increment_prompt_views(1)'), '42501');
SELECT counts();
DROP POLICY moody ON prompt_stats;
-- The migration deletes nothing that it can't count
CREATE FUNCTION put_legacy_unforced() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	ALTER TABLE prompt_stats NO FORCE ROW LEVEL SECURITY;
	CALL put_legacy();
	ALTER TABLE prompt_stats FORCE ROW LEVEL SECURITY;
END $$;
SET client_min_messages = warning;
SELECT put_legacy_unforced();
RESET client_min_messages;
SELECT is_error(try('SELECT prompt_stats_migrate_batch(10)'), '42501'), legacy(), counts();
SELECT try('SELECT prompt_stats_migrate_batch(10)', true) ~ 'mended: ok$', legacy(), counts();
ALTER TABLE prompt_stats DISABLE ROW LEVEL SECURITY;
DROP POLICY look ON prompt_stats;
DROP POLICY add ON prompt_stats;

--
-- Rules: they outlive no plan, nor does a plan outlive them
--
CREATE RULE nothing AS ON UPDATE TO prompt_stats DO INSTEAD NOTHING;
SELECT try_all();
SELECT failing();
SELECT try('SELECT increment_prompt_views(1)', true);
SELECT try('SELECT increment_prompt_views(ARRAY[1, 2])');
SELECT counts();
-- One that counts elsewhere, as it thinks
CREATE TABLE elsewhere (prompt_id bigint PRIMARY KEY, view_count bigint);
INSERT INTO elsewhere SELECT generate_series(1, 9), 0;
GRANT ALL ON elsewhere TO regress_written;
CREATE RULE elsewhere AS ON UPDATE TO prompt_stats DO INSTEAD UPDATE elsewhere SET view_count = NEW.view_count WHERE prompt_id = OLD.prompt_id;
SELECT is_error(answer, '55000') FROM try_all() AS answer;
SELECT counts(), sum(view_count) FROM elsewhere;
DROP RULE elsewhere ON prompt_stats;
-- and one for a few rows, where a trigger may leave rows out as well
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION touch();
CREATE RULE few AS ON UPDATE TO prompt_stats WHERE OLD.prompt_id = 1 DO INSTEAD NOTHING;
SET client_min_messages = warning;
CALL put_legacy();
RESET client_min_messages;
SELECT is_error(try('SELECT increment_prompt_views(1)'), '55000'), is_error(try('SELECT increment_prompt_views(ARRAY[1, 2])'), '55000'),
	is_error(try('SELECT prompt_stats_migrate_batch(10)'), '55000'), legacy();
ALTER TABLE prompt_stats DISABLE RULE few;
SELECT try('SELECT increment_prompt_views(1)');
DROP RULE few ON prompt_stats;
DROP TRIGGER touch ON prompt_stats;
SELECT try_all();
-- One that does something besides lets rows be updated, but not inserted; so does one for INSERT
CREATE RULE besides AS ON UPDATE TO prompt_stats DO ALSO UPDATE elsewhere SET view_count = NEW.view_count WHERE prompt_id = OLD.prompt_id;
SELECT try('SELECT increment_prompt_views(ARRAY[1, 2])');
SELECT view_count FROM elsewhere WHERE prompt_id = 1;
SELECT try('SELECT increment_prompt_views(6)', true);
CREATE RULE nothing AS ON INSERT TO prompt_stats DO INSTEAD NOTHING;
SELECT try('SELECT increment_prompt_views(ARRAY[7, 8])', true);
SELECT counts();
-- Rules of events: logged and counted, or neither
SELECT track_prompt_fork(1, NULL);
CREATE RULE nothing AS ON INSERT TO prompt_events DO INSTEAD NOTHING;
SELECT try('SELECT track_prompt_fork(1, NULL)');
SELECT is_error(try('SELECT track_compare_add(1, NULL)'), '55000'), try('SELECT track_compare_add(1, NULL)', true) ~ 'mended: ok$';
SELECT track_prompt_fork(1, NULL);
SELECT fork_count, (SELECT string_agg(event_type, ' ' ORDER BY event_type) FROM prompt_events) FROM prompt_stats WHERE prompt_id = 1;
-- and none lets a row be counted, and stay
SET client_min_messages = warning;
CALL put_legacy();
RESET client_min_messages;
CREATE RULE keep AS ON DELETE TO prompt_events DO INSTEAD UPDATE prompt_events SET user_id = 1 WHERE id = OLD.id RETURNING *;
SELECT try('SELECT prompt_stats_migrate_batch(10)');
SELECT legacy(), counts();
SELECT try('SELECT prompt_stats_migrate_batch(10)', true) ~ 'mended: ok$', legacy(), counts();

--
-- An owner who has taken rights from himself
--
REVOKE UPDATE ON prompt_stats FROM regress_written;
SELECT try_all();
SELECT failing();
SELECT try('SELECT increment_prompt_views(1)', true);
REVOKE INSERT ON prompt_stats FROM regress_written;
SELECT try('SELECT increment_prompt_views(1)'), is_error(try('SELECT increment_prompt_views(9)'), '42501'), try('SELECT increment_prompt_views(9)', true) ~ 'mended: ok$';
REVOKE SELECT ON prompt_stats FROM regress_written;
SELECT is_error(try('SELECT increment_prompt_views(ARRAY[1, 2])'), '42501');
GRANT SELECT ON prompt_stats TO regress_written;
-- of some columns he has kept them
REVOKE UPDATE ON prompt_stats FROM regress_written;
GRANT UPDATE (view_count, updated_at) ON prompt_stats TO regress_written;
SELECT try('SELECT increment_prompt_views(ARRAY[1, 2])'), is_error(try('SELECT increment_prompt_copies(1)'), '42501');
GRANT UPDATE ON prompt_stats TO regress_written;
SELECT counts();

--
-- A trigger's veto: none of a count, but of a batch
--
CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN NEW.prompt_id = 2 THEN NULL ELSE NEW END; END $$;
CREATE TRIGGER veto BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION veto();
SET client_min_messages = warning;
CALL put_legacy();
RESET client_min_messages;
DELETE FROM prompt_stats WHERE prompt_id <> 2;
SELECT try('SELECT increment_prompt_views(2)'), try('SELECT increment_prompt_views(ARRAY[1, 2])'), counts();
SELECT try('SELECT prompt_stats_migrate_batch(10)');
SELECT legacy(), counts();
CALL prompt_stats_migrate();
SELECT legacy(), counts();
SELECT try('SELECT prompt_stats_migrate_batch(10)', true) ~ 'mended: ok$', legacy(), counts();
DROP TRIGGER veto ON prompt_stats;
-- of an insertion; and of forks that are recounted
CREATE TRIGGER "no insert" BEFORE INSERT ON prompt_stats FOR EACH ROW EXECUTE FUNCTION veto();
SET client_min_messages = warning;
CALL put_legacy();
RESET client_min_messages;
DELETE FROM prompt_stats;
SELECT try('SELECT prompt_stats_migrate_batch(10)');
SELECT legacy(), counts();
INSERT INTO prompt_events (prompt_id, event_type) VALUES (2, 'fork');
SELECT is_error(try('SELECT prompt_stats_recount_forks()'), '09000');
SELECT try('SELECT prompt_stats_recount_forks()', true) ~ 'mended: ok$';
SELECT fork_count FROM prompt_stats WHERE prompt_id = 2;
DROP TRIGGER "no insert" ON prompt_stats;
SELECT failing();
-- what setup would refuse
DELETE FROM prompt_events;
ALTER TABLE prompt_events ADD tenant int NOT NULL;
SELECT failing();
ALTER TABLE prompt_events DROP tenant, ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT failing();

DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts, elsewhere;
DROP SEQUENCE moods;
DROP FUNCTION try, counts, try_all, is_error, legacy, failing, put_legacy_unforced, touch, veto;
DROP PROCEDURE put_legacy;
DROP ROLE regress_written;
