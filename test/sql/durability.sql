-- What the commit of a transaction that counted waits for: prompt_stats.durability,
-- and what is told of it [4][6][8][10].  Crashes, companions and locks are in test/t.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE TABLE prompts (id bigint PRIMARY KEY);
INSERT INTO prompts SELECT generate_series(1, 9);
CREATE EXTENSION prompt_stats;
RESET client_min_messages;
CREATE VIEW counted AS SELECT prompt_id, view_count FROM prompt_stats WHERE view_count <> 0 ORDER BY 1;
CREATE VIEW ledger AS SELECT accepted, pending, rejected, accepted = flushed + pending + rejected AS ok FROM prompt_stats_status;

--
-- The settings
--
SELECT increment_prompt_views(1, 0);
SELECT name, setting, unit, vartype, context, min_val, max_val, enumvals FROM pg_settings
WHERE name LIKE 'prompt\_stats.%' ORDER BY name;
SET prompt_stats.durability = 'never';
SET prompt_stats.flush_interval = 0;
SET prompt_stats.no_such_setting = 1;
-- their bounds: each is refused
\set VERBOSITY sqlstate
SET prompt_stats.durability = 'never';
ALTER SYSTEM SET prompt_stats.flush_interval = 0;
ALTER SYSTEM SET prompt_stats.flush_interval = '3600001ms';
ALTER SYSTEM SET prompt_stats.max_pending = '255kB';
ALTER SYSTEM SET prompt_stats.max_pending = '1048577kB';
ALTER SYSTEM SET prompt_stats.flusher = 'perhaps';
ALTER SYSTEM SET prompt_stats.skip_setup = 'perhaps';
\set VERBOSITY default

--
-- group: at COMMIT, in the table for every new snapshot; before that, nowhere
--
SHOW prompt_stats.durability;
SELECT increment_prompt_views(1);
TABLE counted;
BEGIN;
SELECT increment_prompt_views(1), increment_prompt_views(ARRAY[1, 2]);
TABLE counted;
SAVEPOINT s;
SELECT increment_prompt_views(3);
ROLLBACK TO s;
COMMIT;
TABLE counted;
-- an error is one of the COMMIT, and takes everything along
BEGIN;
INSERT INTO prompts VALUES (10);
SELECT increment_prompt_views(10), increment_prompt_views(99);
COMMIT;
TABLE counted;
SELECT count(*) FROM prompts WHERE id = 10;
-- a snapshot that is older than the row's last count
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM prompt_stats;
SELECT increment_prompt_views(1);
COMMIT;
-- set read-only after the count
BEGIN;
SELECT increment_prompt_views(1);
SET TRANSACTION READ ONLY;
COMMIT;
BEGIN READ ONLY;
SELECT increment_prompt_views(1);
ROLLBACK;
-- a table lock of one's own, and DDL
BEGIN;
LOCK TABLE prompt_stats IN SHARE MODE;
SELECT increment_prompt_views(1);
COMMIT;
BEGIN;
SELECT increment_prompt_views(1);
ALTER TABLE prompt_stats ADD COLUMN extra integer;
COMMIT;
BEGIN;
SELECT increment_prompt_views(1);
ALTER TABLE prompt_stats RENAME TO old_stats;
ALTER TABLE old_stats RENAME TO prompt_stats;
COMMIT;
TABLE counted;
-- a cursor that is open, a procedure that commits, a function in a trigger
BEGIN;
DECLARE c CURSOR FOR SELECT increment_prompt_views(i) FROM generate_series(4::bigint, 6) AS i;
FETCH 2 FROM c;
COMMIT;
CREATE PROCEDURE many() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 3 LOOP
		PERFORM increment_prompt_views(7);
		COMMIT;
		PERFORM increment_prompt_views(7, 100);
		ROLLBACK;
	END LOOP;
END $$;
CALL many();
TABLE counted;
-- a DO block, and what an exception takes back in it
DO $$
BEGIN
	PERFORM increment_prompt_views(4);
	BEGIN
		PERFORM increment_prompt_views(5, 100);
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		PERFORM increment_prompt_views(6);
	END;
END $$;
-- a cursor that is held makes its rows at COMMIT
BEGIN;
DECLARE held CURSOR WITH HOLD FOR SELECT increment_prompt_views(i) FROM generate_series(8::bigint, 9) AS i;
COMMIT;
CLOSE held;
TABLE counted;
-- triggers that count, at once and at COMMIT
CREATE TABLE notes (prompt bigint);
CREATE FUNCTION count_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM increment_prompt_views(NEW.prompt);
	RETURN NEW;
END $$;
CREATE TRIGGER at_once BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION count_note();
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION count_note();
INSERT INTO notes VALUES (5), (5);
BEGIN;
INSERT INTO notes VALUES (5);
ROLLBACK;
-- one on prompt_stats that counts the next prompt, and so on
CREATE FUNCTION count_next() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.increment_prompt_views(NEW.prompt_id + 1);
	RETURN NULL;
END $$;
CREATE TRIGGER next AFTER INSERT OR UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id < 4) EXECUTE FUNCTION count_next();
SELECT increment_prompt_views(2);
SELECT increment_prompt_views(ARRAY[2, 3]);
DROP TRIGGER next ON prompt_stats;
DROP FUNCTION count_next;
DROP TABLE notes;
DROP FUNCTION count_note;
TABLE counted;
-- very many calls take no more memory than prompts, also beside a savepoint
BEGIN;
SELECT count(increment_prompt_views(1 + i % 3)) FROM generate_series(1::bigint, 30000) AS i;
SAVEPOINT s;
SELECT count(increment_prompt_views(4 + i % 3)) FROM generate_series(1::bigint, 60000) AS i;
ROLLBACK TO s;
SELECT count(increment_prompt_views(7 + i % 3)) FROM generate_series(1::bigint, 60000) AS i;
SELECT sum(total_bytes) < 4 * 1024 * 1024 AS small FROM pg_backend_memory_contexts WHERE name = 'prompt_stats counts';
COMMIT;
TABLE counted;
UPDATE prompt_stats SET view_count = 1;
-- the table is gone by then
BEGIN;
SELECT increment_prompt_views(1);
DROP TABLE prompt_stats CASCADE;
COMMIT;
TABLE counted;
-- so is the extension, which does no harm
BEGIN;
SELECT increment_prompt_views(8);
DROP EXTENSION prompt_stats CASCADE;
COMMIT;
TABLE counted;
SET client_min_messages = warning;
CREATE EXTENSION prompt_stats;
CREATE VIEW ledger AS SELECT accepted, pending, rejected, accepted = flushed + pending + rejected AS ok FROM prompt_stats_status;
RESET client_min_messages;

--
-- transaction: at the call
--
BEGIN;
SET LOCAL prompt_stats.durability = 'transaction';
SELECT increment_prompt_views(9);
TABLE counted;
-- mixed, each as it says
SET LOCAL prompt_stats.durability = 'group';
SELECT increment_prompt_views(9);
TABLE counted;
COMMIT;
TABLE counted;

--
-- async: in memory, until flushed; what is not there yet is not lost
--
SET prompt_stats.durability = 'async';
SELECT increment_prompt_views(1, 5), increment_prompt_views(2);
SELECT view_count FROM get_prompt_stats(1);
SELECT prompt_id, view_count FROM prompt_stats_live WHERE prompt_id IN ('1', '2') ORDER BY 1;
SELECT prompt_stats_flush();
TABLE counted;
SELECT pending, ok FROM ledger;
-- who has written would wait for the flusher, and it for him
BEGIN;
INSERT INTO prompts VALUES (11);
SELECT prompt_stats_flush();
ROLLBACK;
-- its columns
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = 'prompt_stats_status'::regclass AND attnum > 0 ORDER BY attnum;
RESET prompt_stats.durability;
DROP EXTENSION prompt_stats CASCADE;
DROP TABLE prompt_stats, prompt_events, prompts CASCADE;
