-- Each call by itself; test "durability" has the other modes
SET prompt_stats.durability = 'transaction';
--
-- A call counts if and only if its transaction commits, wherever it is made: [3] [5] [8]
--
\pset format unaligned
\pset footer off
\pset tuples_only on
\set SHOW_CONTEXT never

CREATE EXTENSION prompt_stats;
CREATE TABLE notes (note text PRIMARY KEY);

-- Views of prompt n since the last look
CREATE TABLE looked (views bigint, copies bigint, forks bigint);
INSERT INTO looked VALUES (0, 0, 0);
CREATE FUNCTION id(i int) RETURNS uuid IMMUTABLE LANGUAGE sql AS $$ SELECT lpad(i::text, 32, '0')::uuid $$;
CREATE FUNCTION counted(OUT views bigint, OUT copies bigint, OUT forks bigint) LANGUAGE sql AS $$
	WITH now AS (SELECT COALESCE(sum(view_count), 0) v, COALESCE(sum(copy_count), 0) c, COALESCE(sum(fork_count), 0) f FROM prompt_stats),
	before AS (SELECT * FROM looked), look AS (UPDATE looked SET views = v, copies = c, forks = f FROM now)
	SELECT v - views, c - copies, f - forks FROM now, before;
$$;

--
-- Rollback
--
BEGIN;
SELECT increment_prompt_views(id(1)), increment_prompt_copies(ARRAY[id(1), id(2)]), track_prompt_fork(id(1), id(9));
-- a transaction reads its own counts
SELECT * FROM counted();
ROLLBACK;
UPDATE looked SET views = 0, copies = 0, forks = 0;
SELECT * FROM counted();
SELECT count(*) AS events FROM prompt_events;

--
-- Savepoints
--
BEGIN;
SELECT increment_prompt_views(id(1));
SAVEPOINT a;
SELECT increment_prompt_views(id(1), 10), increment_prompt_copies(id(2));
SAVEPOINT b;
SELECT increment_prompt_views(ARRAY[id(1), id(2), id(3)], 100), track_prompt_fork(id(3), NULL);
ROLLBACK TO b;
SELECT increment_prompt_views(id(1), 1000);
SAVEPOINT c;
SELECT increment_prompt_views(id(1), 10000);
RELEASE c;
RELEASE a;
SAVEPOINT d;
SELECT increment_prompt_views(id(1), 100000);
SAVEPOINT e;
SELECT increment_prompt_views(id(1), 1000000);
RELEASE e;
ROLLBACK TO d;
SELECT increment_prompt_views(id(1), 10000000);
COMMIT;
SELECT * FROM counted();
SELECT count(*) AS events FROM prompt_events;
-- an error in between, and on
BEGIN;
SELECT increment_prompt_views(id(1));
SAVEPOINT a;
SELECT increment_prompt_views(id(1), -1);
SELECT increment_prompt_views(id(1));
ROLLBACK TO a;
SELECT increment_prompt_views(id(2));
COMMIT;
SELECT * FROM counted();

--
-- PL/pgSQL: exception blocks, DO, procedures that commit
--
DO $$
BEGIN
	PERFORM increment_prompt_views(id(1));
	BEGIN
		PERFORM increment_prompt_views(id(1), 10);
		BEGIN
			PERFORM increment_prompt_views(id(2), 100);
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
			PERFORM increment_prompt_views(id(2), 1000);
		END;
		PERFORM increment_prompt_views('no id');
	EXCEPTION WHEN invalid_text_representation THEN
		NULL;
	END;
	PERFORM increment_prompt_views(id(1), 10000);
END $$;
SELECT * FROM counted();
CREATE PROCEDURE count_in_steps() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 5 LOOP
		PERFORM increment_prompt_views(id(i)), increment_prompt_copies(ARRAY[id(1), id(2)]);
		IF i % 2 = 1 THEN COMMIT; ELSE ROLLBACK; END IF;
	END LOOP;
	PERFORM increment_prompt_views(id(1), 10);
	RAISE 'too late for the rest';
END $$;
CALL count_in_steps();
SELECT * FROM counted();

--
-- Both or neither, with other writes
--
INSERT INTO notes VALUES ('taken');
BEGIN;
INSERT INTO notes VALUES ('with a count');
SELECT increment_prompt_views(id(1));
COMMIT;
BEGIN;
SELECT increment_prompt_views(id(1));
INSERT INTO notes VALUES ('taken');
COMMIT;
-- in one statement
WITH n AS (INSERT INTO notes VALUES ('one statement') RETURNING note) SELECT increment_prompt_views(id(1)) FROM n;
WITH n AS (INSERT INTO notes SELECT 'not counted' RETURNING note) SELECT increment_prompt_views(id(1), length(note) / 0) FROM n;
-- a deferred constraint that fails at COMMIT
CREATE TABLE late (note text REFERENCES notes DEFERRABLE INITIALLY DEFERRED);
BEGIN;
SELECT increment_prompt_views(id(1), 100), track_prompt_fork(id(1), NULL);
INSERT INTO late VALUES ('no such note');
COMMIT;
SELECT * FROM counted();
SELECT note FROM notes ORDER BY 1;
SELECT count(*) AS events FROM prompt_events;

--
-- Isolation levels
--
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT sum(view_count) > 0 FROM prompt_stats;
SELECT increment_prompt_views(id(1)), increment_prompt_views(id(7)), increment_prompt_views(ARRAY[id(7), id(8)]);
SELECT view_count FROM get_prompt_stats(id(7));
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT sum(view_count) > 0 FROM prompt_stats;
SELECT increment_prompt_views(id(1)), increment_prompt_views(ARRAY[id(1), id(9)]), track_prompt_fork(id(9), NULL);
COMMIT;
SELECT * FROM counted();

--
-- Read only: the error of nextval()
--
CREATE SEQUENCE s;
BEGIN READ ONLY;
SELECT nextval('s');
ROLLBACK;
BEGIN READ ONLY;
SAVEPOINT a;
SELECT increment_prompt_views(id(1));
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO a;
SELECT increment_prompt_copies(ARRAY[id(1)], 0);
ROLLBACK TO a;
SELECT increment_fork_count(id(1));
ROLLBACK TO a;
SELECT track_prompt_fork(id(1), NULL);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO a;
SELECT track_compare_add(id(1), NULL);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO a;
SELECT prompt_stats_migrate_batch();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO a;
SELECT prompt_stats_recount_forks();
ROLLBACK TO a;
SELECT view_count > 0 FROM get_prompt_stats(id(1));
COMMIT;
SET default_transaction_read_only = on;
SELECT increment_prompt_views(id(1));
RESET default_transaction_read_only;
SELECT * FROM counted();

--
-- Cursors: what was fetched was counted
--
BEGIN;
DECLARE c CURSOR FOR SELECT i, increment_prompt_views(id(i)) FROM generate_series(1, 10) i;
FETCH 3 FROM c;
SAVEPOINT a;
FETCH 2 FROM c;
ROLLBACK TO a;
COMMIT;
SELECT * FROM counted();
BEGIN;
DECLARE held CURSOR WITH HOLD FOR SELECT i, increment_prompt_views(id(i)) FROM generate_series(1, 10) i;
FETCH 3 FROM held;
COMMIT;
FETCH 1 FROM held;
CLOSE held;
SELECT * FROM counted();

--
-- Triggers that call the functions; STABLE and SQL functions that do
--
CREATE FUNCTION count_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM increment_prompt_views(id(length(NEW.note))), increment_prompt_copies(ARRAY[id(1), id(2)]);
	RETURN NEW;
END $$;
CREATE TRIGGER before_note BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION count_note();
CREATE TRIGGER after_note AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION count_note();
CREATE CONSTRAINT TRIGGER late_note AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION count_note();
INSERT INTO notes VALUES ('a'), ('b');
INSERT INTO notes VALUES ('c'), ('taken');
BEGIN;
INSERT INTO notes VALUES ('d');
SELECT * FROM counted();
COMMIT;
SELECT * FROM counted();
DROP TRIGGER before_note ON notes;
DROP TRIGGER after_note ON notes;
DROP TRIGGER late_note ON notes;
-- a trigger on prompt_stats that counts another prompt
CREATE FUNCTION count_next() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.prompt_id < public.id(5) THEN
		PERFORM public.increment_prompt_views(public.id(right(NEW.prompt_id::text, 1)::int + 1));
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER next AFTER INSERT OR UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION count_next();
SELECT increment_prompt_views(id(1));
SELECT increment_prompt_views(ARRAY[id(3), id(1)]);
SELECT * FROM counted();
DROP TRIGGER next ON prompt_stats;
CREATE FUNCTION seen(i int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM increment_prompt_views(id(i)); RETURN i; END $$;
SELECT sum(seen(i)) FROM generate_series(1, 4) i;
CREATE FUNCTION seen_sql(i int) RETURNS void LANGUAGE sql AS $$ SELECT increment_prompt_views(id(i)) $$;
SELECT seen_sql(1);
-- in WHERE, for rows of a table, through a view
SELECT count(*) FROM notes WHERE increment_prompt_views(id(1)) IS NOT NULL;
SELECT count(increment_prompt_views(prompt_id)) > 0 FROM prompt_stats WHERE prompt_id = id(1);
CREATE VIEW counting AS SELECT increment_prompt_views(id(1)) IS NULL AS x;
SELECT count(x) FROM counting;
DROP VIEW counting;
SELECT * FROM counted();
SELECT count(*) AS notes FROM notes;

--
-- Parallel plans: refused in a worker, even where a wrapper promises that it's safe
--
CREATE FUNCTION not_safe(i int) RETURNS int PARALLEL SAFE LANGUAGE plpgsql AS $$ BEGIN PERFORM increment_prompt_views(id(1)); RETURN 1; END $$;
CREATE FUNCTION not_safe_either(i int) RETURNS int PARALLEL SAFE LANGUAGE plpgsql AS $$ BEGIN PERFORM track_compare_add(id(1), NULL); RETURN 1; END $$;
CREATE TABLE big AS SELECT i FROM generate_series(1, 1000) i;
ANALYZE big;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
SELECT sum(not_safe(i)) FROM big;
\echo :LAST_ERROR_SQLSTATE
SELECT sum(not_safe_either(i)) FROM big;
\echo :LAST_ERROR_SQLSTATE
-- unwrapped, the plan is not parallel
EXPLAIN (COSTS OFF) SELECT count(increment_prompt_views(id(1))) FROM big;
SELECT count(increment_prompt_views(id(1))) FROM big;
SELECT count(g.view_count) FROM big, LATERAL (SELECT * FROM get_prompt_stats(id(i))) g;
SELECT count(*) > 0 FROM big JOIN prompt_stats_live ON true;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET max_parallel_workers_per_gather;
SELECT * FROM counted();

--
-- Security-restricted operations
--
CREATE FUNCTION view_of(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM public.increment_prompt_views(public.id(1)); RETURN i; END $$;
CREATE MATERIALIZED VIEW seen_by AS SELECT view_of(i) FROM generate_series(1, 5) i;
REFRESH MATERIALIZED VIEW seen_by;
SELECT * FROM counted();
CREATE INDEX ON looked (view_of(1)) WHERE views >= 0;
SELECT views > 0 FROM counted();
-- a deferred trigger on prompt_stats runs inside of it, at the call
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON prompt_stats DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION nothing();
REFRESH MATERIALIZED VIEW seen_by;
DROP TRIGGER late ON prompt_stats;
SELECT views FROM counted();

--
-- Under locks of its own, and after TRUNCATE, in one transaction
--
BEGIN;
LOCK TABLE prompt_stats;
SELECT increment_prompt_views(id(1));
TRUNCATE prompt_stats;
SELECT increment_prompt_views(id(1), 2), increment_prompt_views(ARRAY[id(1), id(2)]);
SELECT view_count FROM prompt_stats ORDER BY prompt_id;
ROLLBACK;
BEGIN;
SELECT 1 FROM prompt_stats WHERE prompt_id = id(1) FOR UPDATE;
SELECT increment_prompt_views(id(1));
UPDATE prompt_stats SET view_count = view_count + 1 WHERE prompt_id = id(1);
SELECT increment_prompt_views(id(1));
COMMIT;
SELECT * FROM counted();
-- a row deleted in the same transaction counts from 0
BEGIN;
DELETE FROM prompt_stats WHERE prompt_id = id(1);
SELECT increment_prompt_views(ARRAY[id(1), id(2)]);
SELECT view_count FROM prompt_stats WHERE prompt_id = id(1);
ROLLBACK;

-- a transaction that has been prepared is in test/t, as it needs a setting
DROP EXTENSION prompt_stats CASCADE;
DROP TABLE prompt_stats, prompt_events, notes, late, big, looked;
DROP SEQUENCE s;
DROP FUNCTION nothing, view_of CASCADE;
DROP FUNCTION not_safe, not_safe_either, seen_sql, seen, count_next, count_note, counted, id;
DROP PROCEDURE count_in_steps;
