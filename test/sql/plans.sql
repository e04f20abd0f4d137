-- Each call by itself; test 036_unwritten.pl has the flusher
SET prompt_stats.durability = 'transaction';
--
-- However many rows a table has got since a statement was planned, and whatever its statistics
-- say, a prompt is looked up in an index: rows that are read grow as the prompts do: [21]
--
\pset format unaligned
\pset footer off
\pset tuples_only on
\set SHOW_CONTEXT never

SET client_min_messages = warning;
CREATE TABLE prompts (id bigint PRIMARY KEY) WITH (autovacuum_enabled = off);
-- no foreign key, so that its prompts are looked up
CREATE TABLE prompt_events (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), prompt_id bigint, user_id bigint, event_type text NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now());
CREATE EXTENSION prompt_stats;
ALTER TABLE prompt_stats SET (autovacuum_enabled = off);
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TABLE found (state text, step text, rows bigint);

CREATE TABLE so_far (rows bigint);
INSERT INTO so_far VALUES (0);
-- Rows, and entries of indexes, that were read since the last call
CREATE PROCEDURE note(state text, step text) LANGUAGE plpgsql AS $$
DECLARE
	now bigint;
BEGIN
	SELECT sum(t.seq_tup_read + (SELECT sum(i.idx_tup_read) FROM pg_stat_user_indexes i WHERE i.relid = t.relid)) INTO now
		FROM pg_stat_user_tables t WHERE t.relname IN ('prompts', 'prompt_stats');
	INSERT INTO found SELECT state, step, now - rows FROM so_far;
	UPDATE so_far SET rows = now;
END $$;

-- Plans are made for a table with few rows; then it is analysed, or not; then it grows
CREATE PROCEDURE begin_small(state text) LANGUAGE plpgsql AS $$
DECLARE
	few int := CASE state WHEN 'small' THEN 99 ELSE 1 END;
BEGIN
	TRUNCATE prompts, prompt_stats, prompt_events;
	INSERT INTO prompts SELECT generate_series(-99, 0);
	IF state = 'empty' THEN
		ANALYZE prompt_stats, prompts;
	END IF;
	COMMIT;
	PERFORM increment_prompt_views(1 - p) FROM generate_series(1, few) p;
	IF state IN ('one', 'small') THEN
		ANALYZE prompt_stats, prompts;
	END IF;
	COMMIT;
	FOR i IN 1..8 LOOP
		PERFORM increment_prompt_views(0), increment_prompt_views(ARRAY[0, -99]), get_prompt_stats(0);
		DELETE FROM prompt_stats WHERE prompt_id = -99;
		INSERT INTO prompt_events (prompt_id, event_type) VALUES (-1, 'fork');
		PERFORM prompt_stats_recount_forks(), track_prompt_fork(-1, NULL);
	END LOOP;
	COMMIT;
	INSERT INTO prompts SELECT generate_series(1, 4000);
	ALTER TABLE prompt_events DROP CONSTRAINT IF EXISTS prompt_events_event_type_check;
	INSERT INTO prompt_events (prompt_id, event_type) SELECT i, 'view' FROM generate_series(1, 4000) i;
	PERFORM prompt_stats_setup();
END $$;
CREATE PROCEDURE count_list(prompts bigint) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM increment_prompt_views(array_agg(i)) FROM generate_series(1, prompts) i;
END $$;
CREATE PROCEDURE count_each(prompts bigint) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM increment_prompt_views(i), get_prompt_stats(i) FROM generate_series(1, prompts) i;
END $$;

-- Each statement by itself; "slowly": with a trigger, so that rows are updated by statements
SELECT unnest(ARRAY[
	format('CALL begin_small(%L)', state),
	flush, format('CALL note(%L, %L)', state, 'begin'),
	'CALL prompt_stats_migrate(200)',
	flush, format('CALL note(%L, %L)', state, 'migrate' || how),
	format('CALL begin_small(%L)', state),
	flush, format('CALL note(%L, %L)', state, 'begin'),
	'CALL count_list(4000)',
	flush, format('CALL note(%L, %L)', state, 'insert' || how),
	format('CALL begin_small(%L)', state),
	'INSERT INTO prompt_stats SELECT generate_series(1, 4000)',
	flush, format('CALL note(%L, %L)', state, 'begin'),
	'CALL count_list(4000)', 'CALL count_each(500)',
	flush, format('CALL note(%L, %L)', state, 'count' || how),
	CASE state WHEN 'small' THEN next ELSE '' END
]) FROM (VALUES
	('', 'CREATE TRIGGER nothing AFTER INSERT OR UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION nothing()'),
	(' slowly', 'DROP TRIGGER nothing ON prompt_stats')) h (how, next),
	unnest(ARRAY['never', 'empty', 'one', 'small']) WITH ORDINALITY s (state, i),
	(VALUES ('DO $$ BEGIN PERFORM pg_stat_force_next_flush(); END $$')) f (flush)
	ORDER BY how, i
\gexec
SELECT state, step, CASE WHEN rows BETWEEN 4000 AND 6 * 4000 THEN 'linear' ELSE rows::text END FROM found WHERE step <> 'begin';
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts, found, so_far;
DROP PROCEDURE note, begin_small, count_list, count_each;
DROP FUNCTION nothing;
