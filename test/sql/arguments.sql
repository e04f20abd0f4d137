-- Each call by itself; test "durability" has the other modes
SET prompt_stats.durability = 'transaction';
--
-- Arguments that drivers send without a type: they come as text, arrays, too: [2]
--
\pset format unaligned
\pset footer off
\pset tuples_only on
\set SHOW_CONTEXT never

CREATE FUNCTION try(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	h text;
BEGIN
	EXECUTE sql;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS h = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ' ' || SQLERRM || COALESCE(E'\n  hint: ' || NULLIF(h, ''), '');
END $$;

--
-- uuid ids
--
CREATE EXTENSION prompt_stats;
\set p1 '00000000-0000-0000-0000-000000000001'
\set p2 '00000000-0000-0000-0000-000000000002'
CREATE FUNCTION counted() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s: %s %s %s', right(prompt_id::text, 1), view_count, copy_count, fork_count), '; ' ORDER BY prompt_id) FROM prompt_stats
$$;

-- nothing to count
SELECT increment_prompt_views('{}'), increment_prompt_copies('{}', 5), increment_fork_count(' { } ');
SELECT count(*) FROM prompt_stats;
-- each element counts, also twice, and with n so often
SELECT increment_prompt_views('{00000000-0000-0000-0000-000000000001,00000000-0000-0000-0000-000000000002}');
SELECT increment_prompt_copies('{00000000-0000-0000-0000-000000000001, 00000000-0000-0000-0000-000000000001}', 3);
SELECT increment_fork_count(id => E'\n{"00000000-0000-0000-0000-000000000001",00000000-0000-0000-0000-000000000002} ', n => 10);
SELECT counted();
-- one uuid in braces is what it was: an id, and an array of one
SELECT increment_prompt_views('{00000000-0000-0000-0000-000000000001}');
SELECT increment_prompt_views(' {00000000-0000-0000-0000-000000000001 } ');
-- as drivers do it: a parameter whose type the server chooses
PREPARE untyped AS SELECT increment_prompt_views($1);
SELECT parameter_types FROM pg_prepared_statements WHERE name = 'untyped';
EXECUTE untyped('{00000000-0000-0000-0000-000000000001,00000000-0000-0000-0000-000000000002}');
EXECUTE untyped('{}');
SELECT counted();
-- what is no array of ids
SELECT try('SELECT increment_prompt_views(''{1,2}'')');
SELECT try('SELECT increment_prompt_views(''{00000000-0000-0000-0000-000000000001,NULL}'')');
SELECT try('SELECT increment_prompt_views(''{00000000-0000-0000-0000-000000000001'')');
SELECT try('SELECT increment_prompt_views(''{},{}'')');
-- where one id is wanted
SELECT try('SELECT get_prompt_stats(''{}'')');
SELECT try('SELECT track_prompt_fork(''{}'', NULL)');
SELECT try('SELECT track_compare_add(''00000000-0000-0000-0000-000000000001'', ''{}'')');
SELECT counted();
DEALLOCATE untyped;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events;

--
-- bigint and integer ids
--
CREATE TABLE prompts (id integer PRIMARY KEY);
INSERT INTO prompts SELECT generate_series(1, 3);
CREATE EXTENSION prompt_stats;
SELECT increment_prompt_views('{}'), increment_prompt_views('{1}'), increment_prompt_views('{1,2}', 10), increment_prompt_copies(' { 3 , 3} ');
SELECT increment_fork_count('{{1,2},{3,3}}');
SELECT counted();
SELECT try('SELECT increment_prompt_views(''{1,two}'')');
SELECT try('SELECT increment_prompt_views(''{1,99999999999}'')');
SELECT try('SELECT increment_prompt_views(''{1,4}'')');
SELECT try('SELECT increment_prompt_views(''{1,2}'', -1)');
SELECT counted();
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts;

--
-- text ids, which may look so
--
CREATE TABLE prompts (id text PRIMARY KEY);
INSERT INTO prompts VALUES ('a'), ('{a,b}'), ('{}');
CREATE EXTENSION prompt_stats;
SELECT increment_prompt_views('{}'), increment_prompt_views('{}', 5);
SELECT count(*) FROM prompt_stats;
SELECT try('SELECT increment_prompt_views(''{a,b}'')');
SELECT increment_prompt_views(ARRAY['{a,b}']);
SELECT try('SELECT increment_prompt_views(ARRAY[''{}''])');
SELECT prompt_id, view_count FROM prompt_stats ORDER BY 1;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts;
DROP FUNCTION try, counted;
