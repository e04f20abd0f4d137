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
-- Another key, and no key for a while
ALTER TABLE prompt_stats DROP CONSTRAINT prompt_stats_pkey;
SELECT try($$SELECT increment_prompt_views('p7')$$) ~ '^42P10 ';
CREATE UNIQUE INDEX other_key ON prompt_stats (prompt_id);
SELECT try($$SELECT increment_prompt_views('p7')$$);
SELECT view_count FROM prompt_stats WHERE prompt_id = 'p7';
SELECT indexes_agree();

DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events;
DROP FUNCTION try, veto, indexes_agree;
DROP ROLE regress_owner;
