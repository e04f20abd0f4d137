--
-- prompt_stats_reset() and prompt_stats_correct(): what was counted is taken back
--
\pset format unaligned
\pset footer off
\pset tuples_only on
\set SHOW_CONTEXT never

CREATE FUNCTION try(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	d text;
	h text;
BEGIN
	EXECUTE sql;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ' ' || SQLERRM || COALESCE(E'\n  detail: ' || NULLIF(d, ''), '') || COALESCE(E'\n  hint: ' || NULLIF(h, ''), '');
END $$;

CREATE TABLE prompts (id bigint PRIMARY KEY);
INSERT INTO prompts SELECT generate_series(1, 9);
CREATE EXTENSION prompt_stats;
CREATE VIEW counts AS SELECT prompt_id AS id, view_count AS views, copy_count AS copies, fork_count AS forks FROM prompt_stats;

--
-- Each counter, up and down; the others stay
--
INSERT INTO prompt_stats (prompt_id, view_count, copy_count, fork_count) VALUES (1, 10, 20, 30), (2, 1, 2, 3);
SELECT prompt_stats_correct(1, -1, 2, -30);
TABLE counts ORDER BY id;
SELECT prompt_stats_correct(1, views => 5), prompt_stats_correct(prompt_no => 1, copies => -22), prompt_stats_correct(id => '1', forks => 7);
SELECT prompt_stats_correct(1, 0, 0, 0), prompt_stats_correct(1);
TABLE counts ORDER BY id;
SELECT prompt_stats_reset(1), prompt_stats_reset(1);
TABLE counts ORDER BY id;
SELECT prompt_stats_reset('2'), prompt_stats_reset(prompt_no => 2), prompt_stats_reset(id => '2');
TABLE counts ORDER BY id;
-- a prompt without a row
SELECT prompt_stats_reset(3), prompt_stats_correct(3, 0, 0, 0);
SELECT count(*) FROM prompt_stats WHERE prompt_id = 3;
SELECT prompt_stats_correct(3, 4, 5, 6);
TABLE counts ORDER BY id;
-- NULL counters are 0, and negative ones end
ALTER TABLE prompt_stats ALTER view_count DROP NOT NULL;
UPDATE prompt_stats SET view_count = NULL WHERE prompt_id = 1;
UPDATE prompt_stats SET view_count = -7 WHERE prompt_id = 2;
SELECT prompt_stats_reset(1), prompt_stats_reset(2);
SELECT id, views FROM counts WHERE id < 3 ORDER BY id;
SELECT prompt_stats_correct(1, 2);
SELECT id, views FROM counts WHERE id < 3 ORDER BY id;

--
-- Errors change nothing
--
SELECT try('SELECT prompt_stats_correct(3, -5, 0, 0)');
SELECT try('SELECT prompt_stats_correct(3, -4, -6, -7)');
SELECT prompt_stats_correct('3', -4, -5, -6);
SELECT prompt_stats_correct(3, 4, 5, 6);
SELECT try('SELECT prompt_stats_correct(4, -1, 0, 0)');
SELECT try('SELECT prompt_stats_correct(3, -9223372036854775808, 0, 0)');
SELECT try('SELECT prompt_stats_correct(3, 9223372036854775807, 0, 0)');
SELECT try('SELECT prompt_stats_correct(3, NULL, 0, 0)');
SELECT try('SELECT prompt_stats_correct(NULL::bigint, 1, 0, 0)');
SELECT try('SELECT prompt_stats_reset(NULL)');
SELECT try('SELECT prompt_stats_reset(''x'')');
SELECT try('SELECT prompt_stats_reset(''{1,2}'')');
SELECT try('SELECT prompt_stats_reset(gen_random_uuid())');
SELECT try('SELECT prompt_stats_correct(10, 1, 0, 0)');
BEGIN READ ONLY;
SELECT try('SELECT prompt_stats_reset(3)');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT try('SELECT prompt_stats_correct(3, 1)');
ROLLBACK;
TABLE counts ORDER BY id;

--
-- By the owner of the table
--
CREATE ROLE regress_correct_other;
CREATE ROLE regress_correct_owner;
SET ROLE regress_correct_other;
SELECT try('SELECT prompt_stats_reset(3)');
SELECT try('SELECT prompt_stats_correct(3, 1)');
RESET ROLE;
ALTER TABLE prompt_stats OWNER TO regress_correct_owner;
GRANT SELECT ON prompts TO regress_correct_owner;
SET ROLE regress_correct_owner;
SELECT prompt_stats_correct(3, 1), prompt_stats_correct(5, 1);
RESET ROLE;
SELECT * FROM counts WHERE id >= 3 ORDER BY id;

--
-- A trigger that leaves the row as it was; one that has its say is heard
--
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION twice() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.view_count := 2 * NEW.view_count; RETURN NEW; END';
CREATE TRIGGER "No, thanks" BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION no();
SELECT try('SELECT prompt_stats_reset(3)');
SELECT try('SELECT prompt_stats_correct(3, 1)');
ALTER TABLE public.prompt_stats DISABLE TRIGGER "No, thanks";
CREATE TRIGGER twice BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION twice();
SELECT prompt_stats_correct(3, 1);
SELECT * FROM counts WHERE id = 3;
DROP TRIGGER twice ON prompt_stats;
-- policies that keep the row from its owner
ALTER TABLE prompt_stats ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SET ROLE regress_correct_owner;
SELECT try('SELECT prompt_stats_reset(3)');
SELECT try('SELECT prompt_stats_correct(3, 1)');
RESET ROLE;
ALTER TABLE prompt_stats DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;

--
-- With what the transaction itself has counted, and left to its end
--
SELECT prompt_stats_reset(id) FROM prompts;
BEGIN;
SELECT increment_prompt_views(6::bigint, 10), increment_prompt_copies(6::bigint, 10), increment_prompt_views(7::bigint, 5);
SELECT prompt_stats_reset(6);
SELECT increment_prompt_copies(6::bigint, 1);
COMMIT;
SELECT * FROM counts WHERE id > 5 ORDER BY id;
BEGIN;
SELECT increment_prompt_views(8::bigint, 10);
SELECT try('SELECT prompt_stats_correct(8, -11)');
SELECT prompt_stats_correct(8, -9);
SELECT views FROM counts WHERE id = 8;
SAVEPOINT a;
SELECT increment_prompt_views(8::bigint, 100);
SELECT prompt_stats_reset(8);
SELECT views FROM counts WHERE id = 8;
ROLLBACK TO a;
SELECT increment_prompt_views(8::bigint, 1000);
COMMIT;
SELECT * FROM counts WHERE id > 5 ORDER BY id;
BEGIN;
SELECT increment_prompt_views(8::bigint, 10000);
SAVEPOINT a;
SELECT prompt_stats_reset(8);
SAVEPOINT b;
SELECT increment_prompt_views(8::bigint, 5);
SELECT prompt_stats_correct(8, -3);
RELEASE b;
ROLLBACK TO a;
COMMIT;
SELECT * FROM counts WHERE id = 8;
BEGIN;
SELECT increment_prompt_views(9::bigint, 4);
SELECT prompt_stats_correct(9, -4);
ROLLBACK;
SELECT count(*) FROM counts WHERE id = 9;

--
-- Other ids
--
DROP EXTENSION prompt_stats;
DROP VIEW counts;
DROP TABLE prompt_stats, prompt_events, prompts;
CREATE EXTENSION prompt_stats;
SELECT increment_prompt_views('00000000-0000-0000-0000-000000000001', 3);
SELECT prompt_stats_correct('00000000-0000-0000-0000-000000000001', -1), prompt_stats_correct(prompt_id => '00000000-0000-0000-0000-000000000001', copies => 1);
SELECT try('SELECT prompt_stats_correct(prompt_id => ''00000000-0000-0000-0000-000000000001'', views => -3)');
SELECT view_count, copy_count, updated_at > now() - interval '1 hour' FROM prompt_stats;
SELECT prompt_stats_reset('00000000-0000-0000-0000-000000000001'::uuid);
SELECT view_count, copy_count FROM prompt_stats;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events;
CREATE TABLE prompts (id text PRIMARY KEY);
INSERT INTO prompts VALUES ('it''s'), ('{}');
CREATE EXTENSION prompt_stats;
SELECT increment_prompt_views('it''s');
SELECT prompt_stats_correct('it''s', 1);
SELECT try('SELECT prompt_stats_correct(''it''''s'', -3, 1)');
SELECT public.prompt_stats_correct('it''s', -2, 1, 0);
SELECT prompt_id, view_count, copy_count FROM prompt_stats ORDER BY 1;
-- which may look like an array
SELECT increment_prompt_views(ARRAY['{}']);
SELECT prompt_stats_correct('{}', 1, 1), (get_prompt_stats('{}')).pending;
SELECT prompt_stats_reset('{}'), prompt_stats_reset('it''s');
SELECT prompt_id, view_count, copy_count FROM prompt_stats ORDER BY 1;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts;
DROP FUNCTION try, no, twice;
DROP ROLE regress_correct_other, regress_correct_owner;
