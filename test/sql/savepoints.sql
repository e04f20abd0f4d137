-- What is collected until COMMIT belongs to the savepoint in which it was counted, or to the one
-- that this was released into: each way by itself [3]
\pset format unaligned
\pset tuples_only on
CREATE TABLE prompts (id bigint PRIMARY KEY);
INSERT INTO prompts SELECT generate_series(1, 9);
CREATE EXTENSION prompt_stats;
CREATE VIEW counted AS SELECT prompt_id, view_count FROM prompt_stats WHERE view_count <> 0 ORDER BY 1;
-- released, then another of the same depth is rolled back
BEGIN;
SAVEPOINT a;
SELECT increment_prompt_views(1);
RELEASE a;
SAVEPOINT b;
SELECT increment_prompt_views(1, 10);
ROLLBACK TO b;
COMMIT;
TABLE counted;
-- released into one that is rolled back
BEGIN;
SELECT increment_prompt_views(2);
SAVEPOINT a;
SAVEPOINT b;
SELECT increment_prompt_views(2, 10);
RELEASE b;
ROLLBACK TO a;
COMMIT;
TABLE counted;
-- rolled back from two levels up
BEGIN;
SELECT increment_prompt_views(3);
SAVEPOINT a;
SELECT increment_prompt_views(3, 10);
SAVEPOINT b;
SELECT increment_prompt_views(3, 100);
SAVEPOINT c;
SELECT increment_prompt_views(3, 1000);
ROLLBACK TO a;
SELECT increment_prompt_views(3, 10000);
RELEASE a;
COMMIT;
TABLE counted;
-- the same by blocks that catch an error
DO $$
BEGIN
	BEGIN
		PERFORM increment_prompt_views(4);
	EXCEPTION WHEN OTHERS THEN NULL;
	END;
	BEGIN
		PERFORM increment_prompt_views(4, 10);
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		PERFORM increment_prompt_views(4, 100);
	END;
END $$;
TABLE counted;
-- with so many calls that they are summed up: those of a level only with one another
BEGIN;
SELECT increment_prompt_views(5);
SAVEPOINT a;
SELECT count(increment_prompt_views(5, 10)) FROM generate_series(1, 20000);
SAVEPOINT b;
SELECT count(increment_prompt_views(5, 1000000)) FROM generate_series(1, 20000);
ROLLBACK TO b;
SELECT count(increment_prompt_views(6)) FROM generate_series(1, 20000);
RELEASE a;
SAVEPOINT c;
ROLLBACK TO c;
COMMIT;
TABLE counted;
-- a transaction after one that failed, or that was rolled back, begins with nothing
BEGIN;
SELECT increment_prompt_views(7, 100);
SELECT 1 / 0;
COMMIT;
SELECT increment_prompt_views(7);
BEGIN;
SELECT increment_prompt_views(8, 100);
ROLLBACK;
SELECT increment_prompt_views(8);
TABLE counted;
DROP VIEW counted;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts;
