-- A row that is there, and gone when it is to be counted in: another attempt; at last an error,
-- never a count that is in no row [21]
SET prompt_stats.durability = 'transaction';
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CREATE TABLE prompts (id bigint PRIMARY KEY);
INSERT INTO prompts SELECT generate_series(1, 9);
CREATE EXTENSION prompt_stats;
-- Before and after an insertion of ours somebody inserts and deletes prompt 1, for some times
CREATE SEQUENCE turns;
CREATE TABLE limits (turns bigint);
CREATE FUNCTION insert_and_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF nextval('public.turns') > (SELECT turns FROM public.limits) THEN
		RETURN NULL;
	ELSIF TG_WHEN = 'BEFORE' THEN
		INSERT INTO public.prompt_stats (prompt_id) VALUES (1);
	ELSE
		DELETE FROM public.prompt_stats WHERE prompt_id = 1;
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER appears BEFORE INSERT ON prompt_stats FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION insert_and_delete();
CREATE TRIGGER vanishes AFTER INSERT ON prompt_stats FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION insert_and_delete();
CREATE PROCEDURE vanish(times bigint) LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM prompt_stats;
	DELETE FROM limits;
	INSERT INTO limits VALUES (2 * times);
	PERFORM setval('turns', 1, false);
END $$;
CALL vanish(1);
SELECT increment_prompt_views(ARRAY[1, 2], 5);
SELECT prompt_id, view_count FROM prompt_stats ORDER BY 1;
CALL vanish(2);
SELECT increment_prompt_views(ARRAY[1, 2], 5);
SELECT prompt_id, view_count FROM prompt_stats ORDER BY 1;
CALL vanish(100);
SELECT increment_prompt_views(ARRAY[1, 2], 5);
\echo :LAST_ERROR_SQLSTATE
SELECT increment_prompt_views(1);
\echo :LAST_ERROR_SQLSTATE
SELECT prompt_id, view_count FROM prompt_stats ORDER BY 1;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts, limits;
DROP SEQUENCE turns;
DROP FUNCTION insert_and_delete;
DROP PROCEDURE vanish;
