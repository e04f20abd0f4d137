-- Each call by itself; test "durability" has the other modes
SET prompt_stats.durability = 'transaction';
--
-- Rows that are updated without a statement (src/direct.c): the same as with one: [7] [10] [13]
--
\pset format unaligned
\pset footer off
\pset tuples_only on
\set SHOW_CONTEXT never

-- 'ok', or the SQLSTATE and message
CREATE FUNCTION try(sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE sql;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
-- Do all indexes find what the table holds?
CREATE FUNCTION indexes_agree() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	counted bigint;
	found bigint;
BEGIN
	SET LOCAL enable_indexscan = off;
	SET LOCAL enable_indexonlyscan = off;
	SET LOCAL enable_bitmapscan = off;
	EXECUTE 'SELECT count(*) FROM prompt_stats WHERE view_count > 0 AND prompt_id > $1' INTO counted USING '';
	SET LOCAL enable_seqscan = off;
	SET LOCAL enable_indexscan = on;
	SET LOCAL enable_indexonlyscan = on;
	EXECUTE 'SELECT count(*) FROM prompt_stats WHERE view_count > 0' INTO found;
	RETURN counted = found;
END $$;

-- A table as it grew: a column that went, varchar ids, integer counters that may be null, wide rows
CREATE TABLE prompt_events (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), prompt_id varchar(40) NOT NULL, user_id uuid,
	event_type text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE prompt_stats (gone int, note text, fork_count int DEFAULT 0, view_count int DEFAULT 0, prompt_id varchar(40) PRIMARY KEY,
	copy_count int);
ALTER TABLE prompt_stats DROP COLUMN gone;
CREATE INDEX by_views ON prompt_stats (view_count);
CREATE INDEX with_views ON prompt_stats (prompt_id) INCLUDE (view_count, fork_count);
INSERT INTO prompt_stats (prompt_id, note) SELECT 'p' || i, repeat('x', 1000) FROM generate_series(1, 50) i;
SET client_min_messages = warning;
CREATE EXTENSION prompt_stats;
RESET client_min_messages;

-- Versions move from page to page, and indexes follow
DO $$ BEGIN FOR i IN 1..40 LOOP PERFORM increment_prompt_views('p' || p) FROM generate_series(1, 50) p; END LOOP; END $$;
SELECT count(*), min(view_count), max(view_count), max(length(note)) FROM prompt_stats;
SELECT indexes_agree();
-- Only what is counted is set; null counts from 0
SELECT increment_prompt_copies('p1'::text, 3);
SELECT view_count, copy_count, fork_count FROM prompt_stats WHERE prompt_id IN ('p1', 'p2') ORDER BY prompt_id;
-- Twice in one statement, and after a savepoint that is rolled back
SELECT increment_prompt_views('p3'), increment_prompt_views('p3');
BEGIN;
SELECT increment_prompt_views('p3');
SAVEPOINT s;
SELECT increment_prompt_views('p3');
ROLLBACK TO s;
SELECT view_count FROM prompt_stats WHERE prompt_id = 'p3';
COMMIT;
SELECT view_count FROM prompt_stats WHERE prompt_id = 'p3';
-- No room
UPDATE prompt_stats SET view_count = 2147483647 WHERE prompt_id = 'p4';
SELECT try($$SELECT increment_prompt_views('p4')$$);
SELECT view_count FROM prompt_stats WHERE prompt_id = 'p4';
-- Lists: all have rows; one has none; one has no room, and then nothing is counted
SELECT increment_prompt_views(ARRAY['p10', 'p12', 'p11', 'p10']);
SELECT prompt_id, view_count FROM prompt_stats WHERE prompt_id ~ '^p1[0-2]$' ORDER BY 1;
SELECT increment_prompt_views(ARRAY['p12', 'p100', 'p11', 'p10']);
SELECT prompt_id, view_count FROM prompt_stats WHERE prompt_id ~ '^p1(00|[0-2])$' ORDER BY 1;
SELECT try($$SELECT increment_prompt_views(ARRAY['p12', 'p4', 'p11', 'p10'])$$);
SELECT prompt_id, view_count FROM prompt_stats WHERE prompt_id ~ '^p1(00|[0-2])$' ORDER BY 1;
SELECT increment_prompt_views(array_agg('p' || i)) FROM generate_series(11, 50) i;
SELECT view_count, count(*) FROM prompt_stats GROUP BY 1 ORDER BY 1;
SELECT indexes_agree();
DELETE FROM prompt_stats WHERE prompt_id = 'p100';
-- A REPEATABLE READ transaction counts on what it has seen
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT increment_prompt_views('p5');
SELECT view_count FROM prompt_stats WHERE prompt_id = 'p5';
COMMIT;

-- A counter in a foreign key is checked
CREATE TABLE limits (n int PRIMARY KEY);
INSERT INTO limits VALUES (3), (4);
ALTER TABLE prompt_stats ADD CONSTRAINT in_limits FOREIGN KEY (copy_count) REFERENCES limits;
SELECT try($$SELECT increment_prompt_copies('p1')$$);
SELECT try($$SELECT increment_prompt_copies('p1')$$);
ALTER TABLE prompt_stats DROP CONSTRAINT in_limits;
-- and one that is referenced
UPDATE prompt_stats SET copy_count = substr(prompt_id, 2)::int * 100;
ALTER TABLE prompt_stats ADD CONSTRAINT u UNIQUE (copy_count);
CREATE TABLE medals (n int REFERENCES prompt_stats (copy_count));
INSERT INTO medals VALUES (100);
SELECT try($$SELECT increment_prompt_copies('p1')$$);
SELECT try($$SELECT increment_prompt_copies('p2', 100)$$);
SELECT try($$SELECT increment_prompt_copies('p2'::text, 100)$$);
DROP TABLE medals, limits;
ALTER TABLE prompt_stats DROP CONSTRAINT u;

-- A published table without an identity
ALTER TABLE prompt_stats REPLICA IDENTITY NOTHING;
SET client_min_messages = error;
CREATE PUBLICATION direct_pub FOR TABLE prompt_stats;
RESET client_min_messages;
SELECT try($$SELECT increment_prompt_views('p6')$$);
SELECT try($$SELECT increment_prompt_views(ARRAY['new1', 'new2'])$$);
SELECT try($$SELECT increment_prompt_views(ARRAY['new1', 'new2'])$$);
SELECT prompt_id, view_count FROM prompt_stats WHERE prompt_id ~ 'new' ORDER BY 1;
DROP PUBLICATION direct_pub;
SELECT try($$SELECT increment_prompt_views('p6')$$);
ALTER TABLE prompt_stats REPLICA IDENTITY DEFAULT;

-- An owner who has taken the right from himself
CREATE ROLE regress_owner;
ALTER TABLE prompt_stats OWNER TO regress_owner;
REVOKE UPDATE ON prompt_stats FROM regress_owner;
SELECT try($$SELECT increment_prompt_views('p6')$$);
GRANT UPDATE ON prompt_stats TO regress_owner;
SELECT try($$SELECT increment_prompt_views('p6')$$);
-- A trigger that comes, and goes
CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER veto BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION veto();
SELECT increment_prompt_views('p7');
SELECT view_count FROM prompt_stats WHERE prompt_id = 'p7';
DROP TRIGGER veto ON prompt_stats;
SELECT increment_prompt_views('p7');
SELECT view_count FROM prompt_stats WHERE prompt_id = 'p7';
-- An extension's own
SET allow_system_table_mods = on;
CREATE TRIGGER veto BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION veto();
UPDATE pg_trigger SET tgisinternal = true WHERE tgname = 'veto';
ALTER TABLE prompt_stats SET (fillfactor = 90);
SELECT increment_prompt_views('p7');
SELECT view_count FROM prompt_stats WHERE prompt_id = 'p7';
UPDATE pg_trigger SET tgisinternal = false WHERE tgname = 'veto';
DROP TRIGGER veto ON prompt_stats;
ALTER TABLE prompt_stats RESET (fillfactor);
RESET allow_system_table_mods;
-- Another key, and no key for a while
ALTER TABLE prompt_stats DROP CONSTRAINT prompt_stats_pkey;
SELECT try($$SELECT increment_prompt_views('p7')$$) ~ '^42P10 ';
CREATE UNIQUE INDEX other_key ON prompt_stats (prompt_id);
SELECT try($$SELECT increment_prompt_views('p7')$$);
SELECT view_count FROM prompt_stats WHERE prompt_id = 'p7';
SELECT indexes_agree();

-- Exclusion constraints and unique keys, checked at once or later
UPDATE prompt_stats SET view_count = 10 * substr(prompt_id, 2)::int WHERE prompt_id ~ '^p';
UPDATE prompt_stats SET view_count = 1000 + substr(prompt_id, 4)::int WHERE prompt_id ~ '^new';
ALTER TABLE prompt_stats ADD CONSTRAINT apart EXCLUDE USING btree (view_count WITH =) DEFERRABLE INITIALLY DEFERRED;
SELECT try($$SELECT increment_prompt_views('p8', 10); SET CONSTRAINTS ALL IMMEDIATE$$);
SELECT try($$SELECT increment_prompt_views('p8', 5); SET CONSTRAINTS ALL IMMEDIATE$$);
ALTER TABLE prompt_stats DROP CONSTRAINT apart, ADD CONSTRAINT apart EXCLUDE USING btree (view_count WITH =);
SELECT try($$SELECT increment_prompt_views('p8', 5)$$);
SELECT try($$SELECT increment_prompt_views('p8', 1)$$);
ALTER TABLE prompt_stats DROP CONSTRAINT apart, ADD CONSTRAINT late UNIQUE (view_count) DEFERRABLE INITIALLY DEFERRED;
SELECT try($$SELECT increment_prompt_views('p8', 4); SET CONSTRAINTS ALL IMMEDIATE$$);
SELECT try($$SELECT increment_prompt_views('p8', 1); SET CONSTRAINTS ALL IMMEDIATE$$);
ALTER TABLE prompt_stats DROP CONSTRAINT late;
SELECT view_count FROM prompt_stats WHERE prompt_id = 'p8';

-- A partition has a constraint
CREATE TABLE all_stats (note text, fork_count int, view_count int, prompt_id varchar(40) NOT NULL, copy_count int) PARTITION BY RANGE (copy_count);
UPDATE prompt_stats SET copy_count = 1;
ALTER TABLE all_stats ATTACH PARTITION prompt_stats FOR VALUES FROM (0) TO (3);
SELECT try($$SELECT increment_prompt_copies('p8')$$);
SELECT try($$SELECT increment_prompt_copies('p8')$$);
SELECT copy_count FROM prompt_stats WHERE prompt_id = 'p8';
ALTER TABLE all_stats DETACH PARTITION prompt_stats;
DROP TABLE all_stats;

-- A domain that the server brings
ALTER TABLE prompt_stats ALTER view_count TYPE information_schema.cardinal_number;
SELECT try($$SELECT increment_prompt_views('p8')$$);
SELECT prompt_id, view_count FROM prompt_stats WHERE prompt_id = 'p8';

DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events;

-- The time of the last count is set where it can be: whatever became of our column
SET client_min_messages = warning;
CREATE TABLE prompts (id bigint PRIMARY KEY);
INSERT INTO prompts SELECT generate_series(1, 9);
CREATE EXTENSION prompt_stats;
RESET client_min_messages;
CREATE PROCEDURE count_anew() LANGUAGE plpgsql AS $$
BEGIN
	UPDATE prompt_stats SET updated_at = NULL;
	COMMIT;
	PERFORM increment_prompt_views(ARRAY[1, 2]);
	COMMIT;
	PERFORM increment_prompt_views(1);
END $$;
CREATE FUNCTION is_now(OUT rows bigint, OUT ok boolean) LANGUAGE plpgsql AS $$
BEGIN
	SELECT count(*), bool_and(abs(extract(epoch FROM now() - updated_at::text::timestamptz)) <= 86400)
		INTO rows, ok FROM prompt_stats WHERE updated_at IS NOT NULL;
END $$;
CALL count_anew();
SELECT is_now();
-- in a key it is checked, as a counter is
CREATE TABLE times (at timestamptz PRIMARY KEY);
ALTER TABLE prompt_stats ADD CONSTRAINT at_times FOREIGN KEY (updated_at) REFERENCES times NOT VALID;
SELECT try('SELECT increment_prompt_views(1)') ~ '^23503 ';
ALTER TABLE prompt_stats DROP CONSTRAINT at_times, ADD CONSTRAINT u UNIQUE (prompt_id, updated_at);
CREATE TABLE marks (id bigint, at timestamptz, FOREIGN KEY (id, at) REFERENCES prompt_stats (prompt_id, updated_at));
INSERT INTO marks SELECT prompt_id, updated_at FROM prompt_stats WHERE prompt_id = 1;
SELECT try('SELECT increment_prompt_views(1)') ~ '^23503 ';
DROP TABLE marks, times;
ALTER TABLE prompt_stats DROP CONSTRAINT u;
ALTER TABLE prompt_stats ALTER updated_at TYPE text;
CALL count_anew();
SELECT is_now();
ALTER TABLE prompt_stats ALTER updated_at TYPE bigint USING 0;
CALL count_anew();
SELECT is_now();
ALTER TABLE prompt_stats ALTER updated_at TYPE timestamptz[] USING NULL;
CALL count_anew();
SELECT is_now();
ALTER TABLE prompt_stats ALTER updated_at TYPE date USING NULL;
CALL count_anew();
SELECT is_now();
ALTER TABLE prompt_stats ALTER updated_at TYPE timestamp;
CALL count_anew();
SELECT is_now();
ALTER TABLE prompt_stats ALTER updated_at TYPE timestamptz(0);
CALL count_anew();
SELECT is_now(), bool_and(extract(epoch FROM updated_at) % 1 = 0) AS whole FROM prompt_stats WHERE updated_at IS NOT NULL;
ALTER TABLE prompt_stats ALTER updated_at TYPE information_schema.time_stamp;
CALL count_anew();
SELECT is_now(), bool_and(extract(epoch FROM updated_at) * 100 % 1 = 0) AS whole FROM prompt_stats WHERE updated_at IS NOT NULL;
CREATE DOMAIN moment AS timestamptz CHECK (VALUE > '2000-01-01');
ALTER TABLE prompt_stats ALTER updated_at TYPE moment;
CALL count_anew();
SELECT is_now();
CREATE DOMAIN day AS date CHECK (VALUE < '2000-01-01');
ALTER TABLE prompt_stats ALTER updated_at TYPE day USING NULL;
SELECT try('SELECT increment_prompt_views(1)');
CREATE DOMAIN words AS text;
ALTER TABLE prompt_stats ALTER updated_at TYPE words USING NULL;
CALL count_anew();
SELECT is_now();
ALTER TABLE prompt_stats DROP updated_at;
SELECT try('SELECT increment_prompt_views(1)');
-- another column of the name is not ours, unless its comment says so
ALTER TABLE prompt_stats ADD updated_at timestamptz;
CALL count_anew();
SELECT is_now();
COMMENT ON COLUMN prompt_stats.updated_at IS 'time of the last count, set by extension prompt_stats';
ALTER TABLE prompt_stats ALTER updated_at SET DEFAULT NULL;
CALL count_anew();
SELECT is_now();
ALTER TABLE prompt_stats DROP updated_at, ADD updated_at timestamptz GENERATED ALWAYS AS ('2000-01-01 00:00Z') STORED;
COMMENT ON COLUMN prompt_stats.updated_at IS 'time of the last count, set by extension prompt_stats';
SELECT try('SELECT increment_prompt_views(1)');
ALTER TABLE prompt_stats DROP updated_at;
SELECT prompt_id, view_count FROM prompt_stats ORDER BY 1;

-- A key whose check is to come yet, for a row of this transaction
ALTER TABLE prompt_stats DROP CONSTRAINT prompt_stats_prompt_id_fkey,
	ADD CONSTRAINT key FOREIGN KEY (prompt_id) REFERENCES prompts DEFERRABLE INITIALLY DEFERRED;
SELECT try('SELECT increment_prompt_views(99); SELECT increment_prompt_views(99); SET CONSTRAINTS ALL IMMEDIATE') ~ '^23503 ';
SELECT try('SELECT increment_prompt_views(99); SELECT increment_prompt_views(ARRAY[1, 99]); SET CONSTRAINTS ALL IMMEDIATE') ~ '^23503 ';
SELECT try('INSERT INTO prompt_stats (prompt_id) VALUES (99); SELECT increment_prompt_views(99); SET CONSTRAINTS ALL IMMEDIATE') ~ '^23503 ';
SELECT try('SELECT increment_prompt_views(4); SELECT increment_prompt_views(4); SET CONSTRAINTS ALL IMMEDIATE');
SELECT prompt_id, view_count FROM prompt_stats WHERE prompt_id IN (4, 99);
-- nor need it be deferrable, where a function counts in the statement that inserts
ALTER TABLE prompt_stats DROP CONSTRAINT key, ADD CONSTRAINT key FOREIGN KEY (prompt_id) REFERENCES prompts;
CREATE FUNCTION count_last(id bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM increment_prompt_views(id); RETURN id; END $$;
SELECT try('WITH i AS (INSERT INTO prompt_stats (prompt_id) VALUES (98) RETURNING prompt_id) SELECT count_last(prompt_id) FROM i') ~ '^23503 ';
SELECT count(*) FROM prompt_stats WHERE prompt_id > 9;

DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts;
DROP FUNCTION try, veto, indexes_agree, is_now, count_last;
DROP PROCEDURE count_anew;
DROP DOMAIN moment, day, words;
DROP ROLE regress_owner;
