-- Different ids are different prompts, however alike: alone, in one list, and where calls are
-- summed up [1] [2]
\pset format unaligned
\pset tuples_only on
-- bigint: alike in the lower half, in the upper one, and but for the sign
CREATE TABLE prompts (id bigint PRIMARY KEY);
INSERT INTO prompts SELECT sign * (high * 4294967296 + low) FROM unnest('{0,1,2147483647}'::bigint[]) AS high,
	unnest('{40,2147483648,4294967295}'::bigint[]) AS low, unnest('{-1,1}'::bigint[]) AS sign;
INSERT INTO prompts VALUES (9223372036854775807), (-9223372036854775808) ON CONFLICT DO NOTHING;
CREATE EXTENSION prompt_stats;
CREATE VIEW counted AS SELECT prompt_id, view_count, copy_count, fork_count FROM prompt_stats ORDER BY 1;
-- first as prompts without a row, then with; each has its own number
CREATE PROCEDURE count_all(mode text) LANGUAGE plpgsql AS $$
DECLARE
	numbers CONSTANT bigint[] := (SELECT array_agg(id ORDER BY id % 7, id) FROM prompts);
BEGIN
	PERFORM set_config('prompt_stats.durability', mode, false);
	FOR turn IN 1 .. 2 LOOP
		PERFORM increment_prompt_views(numbers);
		COMMIT;
		FOR i IN 1 .. cardinality(numbers) LOOP
			PERFORM increment_prompt_copies(numbers[i], i);
		END LOOP;
		COMMIT;
		PERFORM increment_fork_count(numbers[1]);
		COMMIT;
	END LOOP;
END $$;
CALL count_all('transaction');
TABLE counted;
CREATE TABLE first_time AS TABLE prompt_stats;
DELETE FROM prompt_stats;
CALL count_all('group');
SELECT count(*) FROM prompt_stats AS s JOIN first_time AS f USING (prompt_id, view_count, copy_count, fork_count);
DELETE FROM prompt_stats;
CALL count_all('async');
SELECT count(*) FROM prompt_stats_live AS s JOIN first_time AS f ON s.prompt_id = f.prompt_id::text AND s.view_count = f.view_count AND s.copy_count = f.copy_count AND s.fork_count = f.fork_count;
SELECT count(*) FROM first_time AS f, get_prompt_stats(f.prompt_id) AS s WHERE s.view_count = f.view_count AND s.copy_count = f.copy_count;
SELECT prompt_stats_flush();
SELECT count(*) FROM prompt_stats AS s JOIN first_time AS f USING (prompt_id, view_count, copy_count, fork_count);
RESET prompt_stats.durability;
DROP VIEW counted;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts, first_time;

-- text: one the beginning of the other, alike in their first bytes, or but for case and blanks
CREATE TABLE prompts (id text PRIMARY KEY);
INSERT INTO prompts VALUES ('a'), ('A'), ('a '), ('aa'), ('ä'), ('aaaaaaaaaaaaaaaa'), ('aaaaaaaaaaaaaaaab'), ('aaaaaaaaaaaaaaaac'), ('40'), ('040');
CREATE EXTENSION prompt_stats;
SET prompt_stats.durability = 'transaction';
SELECT increment_prompt_views((SELECT array_agg(id) FROM prompts));
SELECT count(increment_prompt_views(id, length(id))) FROM prompts;
SELECT prompt_id, view_count FROM prompt_stats ORDER BY prompt_id COLLATE "C";
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events, prompts;
DROP PROCEDURE count_all;
