-- What the owner has attached to the table has its say in each count, in each way to count: a rule,
-- a trigger; and a trigger does not hide a counter that is full [21] [22]
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CREATE TABLE prompts (id bigint PRIMARY KEY);
INSERT INTO prompts SELECT generate_series(1, 9);
CREATE EXTENSION prompt_stats;
INSERT INTO prompt_stats (prompt_id) SELECT generate_series(1, 6);
CREATE TABLE log (what text, prompt_id bigint, n bigint);
CREATE PROCEDURE count_each_way(mode text) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('prompt_stats.durability', mode, false);
	PERFORM increment_prompt_views(1);
	COMMIT;
	PERFORM increment_prompt_views(ARRAY[3, 2], 10);
	COMMIT;
	PERFORM increment_prompt_views(id, 100) FROM generate_series(1::bigint, 9) AS id;
	COMMIT;
	PERFORM prompt_stats_flush();
	COMMIT;
END $$;
CREATE VIEW seen AS SELECT what, prompt_id, sum(n) FROM log GROUP BY 1, 2 ORDER BY 1, 2;
-- once without either, so that what is remembered of the table is of that time
CALL count_each_way('transaction');
CREATE RULE also AS ON UPDATE TO prompt_stats DO ALSO INSERT INTO log VALUES ('rule', NEW.prompt_id, NEW.view_count - OLD.view_count);
CALL count_each_way('transaction');
TABLE seen;
CALL count_each_way('group');
TABLE seen;
CALL count_each_way('async');
TABLE seen;
DROP RULE also ON prompt_stats;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.log VALUES ('trigger', NEW.prompt_id, NEW.view_count - OLD.view_count);
	RETURN NEW;
END $$;
CREATE TRIGGER note BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION note();
CALL count_each_way('transaction');
CALL count_each_way('group');
CALL count_each_way('async');
TABLE seen;
SELECT sum(view_count) = 7 * 921 AS exact FROM prompt_stats;
-- a counter that is full, by itself and in a list, beside a trigger that lets all through
UPDATE prompt_stats SET view_count = 9223372036854775807 WHERE prompt_id = 4;
UPDATE prompt_stats SET view_count = 0 WHERE prompt_id <> 4;
SET prompt_stats.durability = 'transaction';
SELECT increment_prompt_views(4);
\echo :LAST_ERROR_SQLSTATE
SELECT increment_prompt_views(ARRAY[3, 4, 5]);
\echo :LAST_ERROR_SQLSTATE
SET prompt_stats.durability = 'group';
SELECT increment_prompt_views(ARRAY[3, 4, 5]);
\echo :LAST_ERROR_SQLSTATE
SELECT count(increment_prompt_views(id)) FROM generate_series(1::bigint, 9) AS id;
\echo :LAST_ERROR_SQLSTATE
SELECT sum(view_count) FROM prompt_stats WHERE prompt_id <> 4;
DROP TRIGGER note ON prompt_stats;
SELECT increment_prompt_views(ARRAY[3, 4, 5]);
\echo :LAST_ERROR_SQLSTATE
-- the last of what was collected is folded by a statement, also if the transaction is read-only by then
BEGIN;
DELETE FROM prompt_stats WHERE prompt_id < 9;
COMMIT;
BEGIN;
SELECT increment_prompt_views(ARRAY[1, 2, 9], 5);
SET TRANSACTION READ ONLY;
COMMIT;
SELECT prompt_id, view_count FROM prompt_stats ORDER BY 1;
-- of the table that was counted in, whatever is set up meanwhile
CREATE TABLE other_stats (LIKE prompt_stats INCLUDING ALL);
BEGIN;
SELECT increment_prompt_views(1);
SELECT prompt_stats_setup('prompt_events', 'other_stats');
SELECT increment_prompt_views(1);
ROLLBACK;
BEGIN;
SELECT increment_prompt_views(1, 1000);
SELECT prompt_stats_setup('prompt_events', 'other_stats');
COMMIT;
SELECT view_count FROM prompt_stats WHERE prompt_id = 1;
SELECT count(*) FROM other_stats;
DROP VIEW seen;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, other_stats, prompt_events, prompts, log;
DROP FUNCTION note;
DROP PROCEDURE count_each_way;
