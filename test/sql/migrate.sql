-- Each call by itself; test "durability" has the other modes
SET prompt_stats.durability = 'transaction';
--
-- Moving legacy rows into the counters, and verifying: [16] [17] [18]
--
\pset format unaligned
\pset footer off
\pset tuples_only on
\set SHOW_CONTEXT never

CREATE FUNCTION id(i int) RETURNS uuid IMMUTABLE LANGUAGE sql AS $$ SELECT lpad(i::text, 32, '0')::uuid $$;
-- 'ok', or SQLSTATE, message and hint
CREATE FUNCTION try(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	h text;
BEGIN
	EXECUTE sql;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS h = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ' ' || SQLERRM || COALESCE(E'\n  hint: ' || NULLIF(h, ''), E'\n  no hint');
END $$;
SET prompt_stats.skip_setup = on;
CREATE EXTENSION prompt_stats;
RESET prompt_stats.skip_setup;

-- A legacy database of so many events, and what should come of it
CREATE TABLE prompts (id uuid PRIMARY KEY);
INSERT INTO prompts SELECT id(i) FROM generate_series(1, 20) i;
CREATE PROCEDURE legacy(rows int DEFAULT 1000) LANGUAGE plpgsql AS $$
BEGIN
	DROP TABLE IF EXISTS prompt_events, prompt_stats, expected;
	CREATE TABLE prompt_stats (prompt_id uuid PRIMARY KEY REFERENCES prompts ON DELETE CASCADE,
		view_count integer DEFAULT 0, copy_count integer DEFAULT 0, fork_count integer DEFAULT 0);
	CREATE TABLE prompt_events (id bigint GENERATED ALWAYS AS IDENTITY, prompt_id uuid, user_id uuid, event_type text, filler text DEFAULT repeat('x', 100));
	INSERT INTO prompt_events (prompt_id, event_type)
		SELECT id(1 + (i * i) % 17), (ARRAY['view', 'view', 'copy', 'view', 'fork', 'compare_add', 'view'])[1 + i % 7] FROM generate_series(1, rows) i;
	CREATE TABLE expected AS
		SELECT e.prompt_id, count(*) FILTER (WHERE event_type = 'view') AS views, count(*) FILTER (WHERE event_type = 'copy') AS copies,
			count(*) FILTER (WHERE event_type = 'fork') AS forks FROM prompt_events e GROUP BY 1;
END $$;
-- How many prompts have other counts than expected; how many events there are of each kind
CREATE FUNCTION wrong() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	RETURN count(*) FROM expected e FULL JOIN prompt_stats s USING (prompt_id)
	WHERE (COALESCE(e.views, 0), COALESCE(e.copies, 0), COALESCE(e.forks, 0)) <> (COALESCE(s.view_count, 0), COALESCE(s.copy_count, 0), COALESCE(s.fork_count, 0));
END $$;
CREATE FUNCTION kinds() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN string_agg(format('%s %s', kind, n), ', ' ORDER BY kind COLLATE "C")
	FROM (SELECT COALESCE(event_type, 'NULL'), count(*) FROM prompt_events GROUP BY 1) k(kind, n);
END $$;
SET client_min_messages = warning;
CALL legacy();
RESET client_min_messages;

--
-- All at once, with every default
--
SELECT prompt_stats_setup();
CALL prompt_stats_migrate(dry_run => true);
-- the dry run has done nothing
SELECT kinds();
SELECT count(*) FROM prompt_stats;
SELECT count(*) FROM prompt_stats_migration_progress;
CALL prompt_stats_migrate();
SELECT wrong();
SELECT kinds();
SELECT convalidated FROM pg_constraint WHERE conrelid = 'prompt_events'::regclass AND contype = 'c';
SELECT phase, mode, rows_moved, views_moved, copies_moved, percent, finished_at >= updated_at AND updated_at >= started_at AS in_order FROM prompt_stats_migration_progress;
SELECT check_name, ok, detail FROM prompt_stats_verify();
-- again is a no-op, and so is a batch
CALL prompt_stats_migrate();
SELECT prompt_stats_migrate_batch(), prompt_stats_recount_forks();
SELECT wrong();
SELECT phase, rows_moved FROM prompt_stats_migration_progress;
-- of a table that was not set up
CALL legacy(100);
CALL prompt_stats_migrate();
SELECT wrong(), (SELECT convalidated FROM pg_constraint WHERE conrelid = 'prompt_events'::regclass AND contype = 'c');

--
-- Batches: at most n rows each, in a transaction of the caller's
--
CALL legacy();
SELECT prompt_stats_setup();
CREATE TABLE batches (moved bigint, gone bigint);
CREATE PROCEDURE run_batches(n int, steps int DEFAULT 1000) LANGUAGE plpgsql AS $$
DECLARE
	before bigint;
	moved bigint;
BEGIN
	FOR i IN 1 .. steps LOOP
		before := count(*) FROM prompt_events;
		moved := prompt_stats_migrate_batch(n);
		INSERT INTO batches SELECT moved, before - count(*) FROM prompt_events;
		COMMIT;
		EXIT WHEN moved = 0;
	END LOOP;
END $$;
CALL run_batches(100, 3);
SELECT sum(moved), max(moved), bool_and(moved = gone) FROM batches;
SELECT phase, rows_moved, views_moved + copies_moved, percent > 0 AND percent < 100 AS on_the_way, finished_at IS NULL FROM prompt_stats_migration_progress;
-- rolled back, a batch has not been
BEGIN;
SELECT prompt_stats_migrate_batch(50);
ROLLBACK;
BEGIN;
SELECT prompt_stats_migrate_batch(50);
SAVEPOINT a;
SELECT prompt_stats_migrate_batch(50);
ROLLBACK TO a;
COMMIT;
SELECT rows_moved FROM prompt_stats_migration_progress;
SELECT sum(view_count) + sum(copy_count) FROM prompt_stats;
-- after its rows have moved to other places
DELETE FROM prompt_events WHERE event_type = 'compare_add';
INSERT INTO prompt_events (prompt_id, event_type) SELECT id(1), 'fork' FROM generate_series(1, 300);
VACUUM FULL prompt_events;
TRUNCATE batches;
CALL run_batches(100);
SELECT sum(moved), max(moved), bool_and(moved = gone) FROM batches;
SELECT prompt_stats_recount_forks() > 0;
UPDATE expected SET forks = forks + 300 WHERE prompt_id = id(1);
SELECT wrong();
SELECT prompt_stats_migrate_finish();
SELECT bool_and(ok) FROM prompt_stats_verify();
-- with settings of the session that mislead the planner, n rows stay the most
CALL legacy();
CREATE INDEX ON prompt_events (event_type);
CREATE INDEX ON prompt_events (prompt_id);
ANALYZE prompt_events;
SELECT prompt_stats_setup();
SET enable_tidscan = off;
TRUNCATE batches;
CALL run_batches(70);
RESET enable_tidscan;
SELECT sum(moved), max(moved), bool_and(moved = gone) FROM batches;
CALL prompt_stats_migrate();
SELECT wrong();
-- one row a batch; a batch larger than all
CALL legacy(20);
CALL prompt_stats_migrate(1);
SELECT wrong();
CALL legacy(20);
CALL prompt_stats_migrate(2147483647);
SELECT wrong();
-- a table restored from a dump of halfway: old rows are back, the position is where it was
CALL legacy(200);
SELECT prompt_stats_setup();
SELECT prompt_stats_migrate_batch(60);
CREATE TABLE copied AS SELECT prompt_id, event_type FROM prompt_events ORDER BY random();
TRUNCATE prompt_events;
ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check;
INSERT INTO prompt_events (prompt_id, event_type) TABLE copied;
DROP TABLE copied;
CALL prompt_stats_migrate(50);
SELECT wrong();

--
-- Counters that hold something: added to, or replaced
--
CALL legacy();
INSERT INTO prompt_stats SELECT id(i), 100, NULL, 500 FROM generate_series(1, 5) i;
INSERT INTO prompt_stats VALUES (id(19), 7, 7, 7);
CALL prompt_stats_migrate(dry_run => true);
CALL prompt_stats_migrate(100);
INSERT INTO expected SELECT id(i), 0, 0, 0 FROM generate_series(1, 5) i WHERE NOT EXISTS (SELECT FROM expected WHERE prompt_id = id(i));
UPDATE expected SET views = views + 100, forks = 500 WHERE prompt_id <= id(5);
INSERT INTO expected VALUES (id(19), 7, 7, 7);
-- fork_count is raised, never lowered
SELECT wrong();
SELECT bool_and(fork_count = 500) FROM prompt_stats WHERE prompt_id <= id(5);
-- counters that hold the rows already keep what they hold, whatever is counted meanwhile
CALL legacy();
INSERT INTO prompt_stats SELECT prompt_id, views, copies, 0 FROM expected;
SELECT prompt_stats_setup();
CALL prompt_stats_migrate(mode => 'keep', dry_run => true);
SELECT prompt_stats_migrate_batch(50, 'keep');
SELECT increment_prompt_views(ARRAY(SELECT id(i) FROM generate_series(1, 20) i)), increment_prompt_copies(id(3), 5);
SELECT prompt_stats_migrate_batch(50, 'keep');
SELECT increment_prompt_views(ARRAY(SELECT id(i) FROM generate_series(1, 20) i)), increment_prompt_copies(id(3), 5);
SELECT phase, mode, rows_moved, views_moved + copies_moved FROM prompt_stats_migration_progress;
-- a run goes on as it began
SELECT try('SELECT prompt_stats_migrate_batch(50)');
CALL prompt_stats_migrate();
CALL prompt_stats_migrate(100, 'keep');
INSERT INTO expected SELECT id(i), 0, 0, 0 FROM generate_series(1, 20) i WHERE NOT EXISTS (SELECT FROM expected WHERE prompt_id = id(i));
UPDATE expected SET views = views + 2, copies = copies + CASE prompt_id WHEN id(3) THEN 10 ELSE 0 END;
SELECT wrong();
SELECT kinds();
SELECT phase, mode, rows_moved FROM prompt_stats_migration_progress;
-- the other mode again
CALL prompt_stats_migrate();
CALL prompt_stats_migrate(mode => 'keep');
SELECT wrong();
-- how far counters and rows are apart: the same, more, less, NULL, without rows, without counters, no such prompt
CALL legacy(0);
INSERT INTO prompt_stats (prompt_id, view_count, copy_count) VALUES (id(1), 3, 1), (id(2), 9, 1), (id(3), 1, 7), (id(4), NULL, NULL), (id(5), 100, 1000);
INSERT INTO prompt_events (prompt_id, event_type) SELECT p, kind FROM unnest(ARRAY[id(1), id(2), id(3), id(4), id(6), id(99), NULL]) p,
	unnest(ARRAY['view', 'view', 'view', 'copy', 'fork']) kind;
CALL prompt_stats_migrate(mode => 'keep', dry_run => true);
CALL prompt_stats_migrate(dry_run => true);
CALL prompt_stats_migrate(mode => 'keep');
SELECT * FROM prompt_stats ORDER BY 1;
-- sums that no bigint holds
CALL legacy(0);
ALTER TABLE prompt_stats ALTER view_count TYPE bigint;
INSERT INTO prompt_stats SELECT id(i), 9223372036854775807, 0, 0 FROM generate_series(1, 3) i;
INSERT INTO prompt_events (prompt_id, event_type) VALUES (id(4), 'view'), (id(5), 'copy');
CALL prompt_stats_migrate(mode => 'keep', dry_run => true);
CALL prompt_stats_migrate();
SELECT count(*) FROM prompt_stats WHERE view_count = 1 OR copy_count = 1;

--
-- Rows that can't move
--
CALL legacy(100);
INSERT INTO prompt_events (prompt_id, event_type) VALUES (id(1), NULL), (id(1), 'like'), (id(1), ''), (NULL, 'view'), (NULL, 'copy'), (NULL, NULL), (id(99), 'view'), (id(99), 'copy'), (id(98), 'view');
INSERT INTO prompt_events (prompt_id, event_type) VALUES (NULL, 'fork'), (id(99), 'fork');
CALL prompt_stats_migrate(dry_run => true);
CALL prompt_stats_migrate(10);
SELECT wrong();
SELECT kinds();
SELECT convalidated FROM pg_constraint WHERE conrelid = 'prompt_events'::regclass AND contype = 'c';
SELECT check_name, detail FROM prompt_stats_verify() WHERE NOT ok;
SELECT prompt_stats_migrate_batch();
-- mended by hand, they move at the next call
INSERT INTO prompts VALUES (id(98));
INSERT INTO expected VALUES (id(98), 1, 0, 0);
CALL prompt_stats_migrate();
SELECT wrong();
CALL prompt_stats_migrate(3, unmovable => 'delete');
SELECT wrong();
SELECT kinds();
SELECT check_name, detail FROM prompt_stats_verify() WHERE NOT ok;
DELETE FROM prompt_events WHERE prompt_id = id(99);
SELECT bool_and(ok) FROM prompt_stats_verify();
DELETE FROM prompts WHERE id = id(98);
-- a whole table of them, in small batches
CALL legacy(0);
INSERT INTO prompt_events (prompt_id, event_type) SELECT id(99), 'view' FROM generate_series(1, 100);
CALL prompt_stats_migrate(7);
CALL prompt_stats_migrate(7, unmovable => 'delete');
SELECT kinds();
-- a counter that would overflow stops the migration, and nothing is lost
CALL legacy(0);
INSERT INTO prompt_stats VALUES (id(1), 2147483645, 0, 0);
INSERT INTO prompt_events (prompt_id, event_type) SELECT id(1 + i % 2), 'view' FROM generate_series(1, 10) i;
CALL prompt_stats_migrate();
\echo :LAST_ERROR_SQLSTATE
SELECT kinds();
ALTER TABLE prompt_stats ALTER view_count TYPE bigint;
CALL prompt_stats_migrate();
TABLE prompt_stats ORDER BY 1;
-- rows that a trigger of the table keeps
CALL legacy(0);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
INSERT INTO prompt_events (prompt_id, event_type) VALUES (id(1), 'view'), (id(1), 'fork');
CREATE TRIGGER keep BEFORE DELETE ON prompt_events FOR EACH ROW EXECUTE FUNCTION keep();
CALL prompt_stats_migrate(accept => '{delete trigger}');
\echo :LAST_ERROR_SQLSTATE
DROP TRIGGER keep ON prompt_events;
-- counters that a trigger of the table keeps: nothing is deleted that is not counted
SET statement_timeout = '3s';
INSERT INTO prompt_events (prompt_id, event_type) VALUES (id(2), 'fork');
CREATE TRIGGER keep BEFORE INSERT OR UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION keep();
CALL prompt_stats_migrate();
\echo :LAST_ERROR_SQLSTATE
SELECT kinds();
RESET statement_timeout;
DROP TRIGGER keep ON prompt_stats;
DROP FUNCTION keep;

--
-- Where it can't run
--
CALL legacy(10);
SELECT prompt_stats_setup();
BEGIN;
CALL prompt_stats_migrate();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT try('CALL prompt_stats_migrate()');
BEGIN;
CALL prompt_stats_migrate(dry_run => true);
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT prompt_stats_migrate_batch();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT prompt_stats_recount_forks();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SET default_transaction_isolation = 'repeatable read';
CALL prompt_stats_migrate();
\echo :LAST_ERROR_SQLSTATE
RESET default_transaction_isolation;
SELECT try('SELECT prompt_stats_migrate_finish()');
CALL prompt_stats_migrate();
SELECT wrong();

--
-- Recounting forks
--
CALL legacy(70);
CALL prompt_stats_migrate();
UPDATE prompt_stats SET fork_count = CASE prompt_id WHEN id(1) THEN 100 WHEN id(2) THEN NULL ELSE 0 END;
INSERT INTO prompt_events (prompt_id, event_type) VALUES (id(20), 'fork'), (NULL, 'fork'), (id(99), 'fork');
SELECT prompt_stats_recount_forks(n => 2);
SELECT prompt_stats_recount_forks() > 0;
SELECT prompt_stats_recount_forks();
INSERT INTO expected VALUES (id(20), 0, 0, 1);
SELECT s.prompt_id, fork_count FROM prompt_stats s JOIN expected e USING (prompt_id) WHERE fork_count IS DISTINCT FROM e.forks AND (fork_count, e.forks) IS DISTINCT FROM (NULL, 0);
SELECT prompt_stats_recount_forks(lower => true);
SELECT wrong();

--
-- The opt-in trigger for legacy INSERTs
--
CALL legacy(0);
SELECT prompt_stats_setup();
SELECT try($$INSERT INTO prompt_events (prompt_id, event_type) VALUES (id(1), 'view')$$);
SELECT prompt_stats_enable_compat();
SELECT prompt_stats_enable_compat();
INSERT INTO prompt_events (prompt_id, event_type) VALUES (id(1), 'view'), (id(1), 'copy'), (id(2), 'view'), (id(1), 'fork'), (id(2), 'compare_add'), (id(1), 'view');
SELECT try($$INSERT INTO prompt_events (prompt_id, event_type) VALUES (id(99), 'view')$$) ~ '^23503';
SELECT try($$INSERT INTO prompt_events (prompt_id, event_type) VALUES (NULL, 'view')$$) ~ '^22004';
SELECT try($$INSERT INTO prompt_events (prompt_id, event_type) VALUES (id(1), 'like')$$) ~ '^23514';
BEGIN;
INSERT INTO prompt_events (prompt_id, event_type) VALUES (id(1), 'view');
ROLLBACK;
SELECT view_count, copy_count, fork_count FROM prompt_stats ORDER BY prompt_id;
SELECT kinds();
SELECT prompt_stats_teardown();
SELECT prompt_stats_teardown();
-- check and rows stay, and nothing else is gone
SELECT try($$INSERT INTO prompt_events (prompt_id, event_type) VALUES (id(1), 'view')$$) ~ '^23514';
SELECT kinds();
SELECT view_count FROM prompt_stats ORDER BY prompt_id;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'prompt_events'::regclass AND NOT tgisinternal;

--
-- verify(): each check turns false when what it checks is broken
--
CALL legacy(70);
CALL prompt_stats_migrate();
SELECT check_name FROM prompt_stats_verify() WHERE NOT ok;
CREATE FUNCTION broken(sql text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE sql;
	RETURN QUERY SELECT check_name || ': ' || detail FROM prompt_stats_verify() WHERE NOT ok;
	RAISE SQLSTATE 'UNDO1';
EXCEPTION WHEN SQLSTATE 'UNDO1' THEN
	RETURN;
END $$;
SELECT broken('ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check');
SELECT broken($$ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check, ADD CHECK (event_type IN ('fork', 'compare_add', 'view'))$$);
SELECT broken($$ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check, ADD CHECK (event_type IN ('fork', 'compare_add'))$$);
SELECT broken($$ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check, ADD CONSTRAINT c CHECK (event_type IS NOT NULL AND event_type IN ('fork', 'compare_add')) NOT VALID$$);
SELECT broken($$ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check; INSERT INTO prompt_events (prompt_id, event_type) VALUES (id(1), 'view'), (id(1), NULL), (id(1), 'x')$$);
SELECT broken('UPDATE prompt_stats SET view_count = -1 WHERE prompt_id = id(1)');
SELECT broken('UPDATE prompt_stats SET copy_count = -1 WHERE prompt_id = id(1)');
SELECT broken('UPDATE prompt_stats SET fork_count = fork_count - 1 WHERE fork_count > 0');
SELECT broken('DELETE FROM prompt_stats WHERE fork_count > 0');
SELECT broken('ALTER TABLE prompt_stats DROP CONSTRAINT prompt_stats_pkey');
SELECT broken('ALTER TABLE prompt_stats DROP COLUMN view_count');
SELECT broken('ALTER TABLE prompt_stats RENAME TO gone');
SELECT broken('ALTER TABLE prompt_events RENAME TO gone');
-- told, and no failure
SELECT broken('UPDATE prompt_stats SET view_count = NULL');
BEGIN;
UPDATE prompt_stats SET view_count = NULL;
DELETE FROM prompt_stats WHERE fork_count = 0 AND prompt_id = (SELECT min(prompt_id::text)::uuid FROM prompt_stats WHERE fork_count = 0);
INSERT INTO prompts VALUES (id(50));
SELECT check_name, ok, detail ~ '^[1-9]\d* ' AS told FROM prompt_stats_verify() WHERE check_name IN ('null counters', 'missing rows');
ROLLBACK;

DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts, expected, batches;
DROP FUNCTION broken, wrong, kinds, try, id;
DROP PROCEDURE run_batches, legacy;

--
-- Ids of other types, and tables whose types differ within one kind
--
CREATE TABLE prompts (id integer PRIMARY KEY);
INSERT INTO prompts SELECT generate_series(1, 5);
CREATE TABLE prompt_stats (prompt_id integer PRIMARY KEY REFERENCES prompts, view_count integer, copy_count integer, fork_count integer);
CREATE TABLE prompt_events (prompt_id bigint, user_id text, event_type varchar(20));
INSERT INTO prompt_events SELECT 1 + i % 6, NULL, (ARRAY['view', 'copy', 'fork'])[1 + i % 3] FROM generate_series(0, 59) i;
CREATE EXTENSION prompt_stats;
CALL prompt_stats_migrate(7);
TABLE prompt_stats ORDER BY 1;
CALL prompt_stats_migrate(7, unmovable => 'delete');
SELECT prompt_id, event_type, count(*) FROM prompt_events GROUP BY 1, 2 ORDER BY 1, 2;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts;
-- prompts with partitions; and with a child, whose rows a foreign key does not see
CREATE TABLE prompts (id integer PRIMARY KEY) PARTITION BY HASH (id);
CREATE TABLE half PARTITION OF prompts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE other_half PARTITION OF prompts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO prompts SELECT generate_series(1, 5);
CREATE TABLE prompt_stats (prompt_id integer PRIMARY KEY REFERENCES prompts, view_count integer, copy_count integer, fork_count integer);
CREATE TABLE prompt_events (prompt_id bigint, user_id text, event_type text);
INSERT INTO prompt_events SELECT 1 + i % 6, NULL, (ARRAY['view', 'copy', 'fork'])[1 + i % 3] FROM generate_series(0, 59) i;
CREATE EXTENSION prompt_stats;
SELECT detail FROM prompt_stats_verify() WHERE check_name = 'missing rows';
CALL prompt_stats_migrate(7);
TABLE prompt_stats ORDER BY 1;
SELECT detail FROM prompt_stats_verify() WHERE check_name = 'missing rows';
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts;
CREATE TABLE prompts (id integer PRIMARY KEY);
CREATE TABLE kid () INHERITS (prompts);
INSERT INTO prompts VALUES (1);
INSERT INTO kid VALUES (2);
CREATE TABLE prompt_stats (prompt_id integer PRIMARY KEY REFERENCES prompts, view_count integer, copy_count integer, fork_count integer);
CREATE TABLE prompt_events (prompt_id integer, user_id text, event_type text);
INSERT INTO prompt_events VALUES (1, NULL, 'view'), (2, NULL, 'view'), (2, NULL, 'fork');
CREATE EXTENSION prompt_stats;
SELECT detail FROM prompt_stats_verify() WHERE check_name = 'missing rows';
CALL prompt_stats_migrate();
TABLE prompt_stats;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts, kid;
CREATE TABLE prompt_stats (prompt_id varchar(20) PRIMARY KEY, view_count integer, copy_count integer, fork_count integer);
CREATE TABLE prompt_events (prompt_id text, user_id text, event_type text);
INSERT INTO prompt_stats VALUES ('b', 7, 7, 7), ('Z', 7, 7, 7);
INSERT INTO prompt_events SELECT (ARRAY['a', 'b', 'B', '{c}', ''])[1 + i % 5], NULL, (ARRAY['view', 'copy', 'fork'])[1 + i % 3] FROM generate_series(0, 59) i;
CREATE EXTENSION prompt_stats;
CALL prompt_stats_migrate(mode => 'keep', dry_run => true);
CALL prompt_stats_migrate(7);
SELECT * FROM prompt_stats ORDER BY prompt_id COLLATE "C";
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events;
