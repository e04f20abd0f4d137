-- Counting does not make a table grow: what older versions of a row took is used again, in every
-- way in which a row is updated
\pset format unaligned
\pset tuples_only on
CREATE EXTENSION prompt_stats;
CREATE PROCEDURE count_often(mode text) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('prompt_stats.durability', mode, false);
	FOR i IN 1 .. 3000 LOOP
		PERFORM increment_prompt_views('00000000-0000-0000-0000-000000000001');
		COMMIT;
	END LOOP;
END $$;
-- without help
ALTER TABLE prompt_stats SET (autovacuum_enabled = off);
CREATE VIEW pages AS SELECT pg_relation_size('prompt_stats') / current_setting('block_size')::int <= 3 AS few,
	pg_relation_size('prompt_stats_pkey') / current_setting('block_size')::int <= 3 AS few_of_the_key, view_count FROM prompt_stats;
CALL count_often('transaction');
TABLE pages;
CALL count_often('group');
TABLE pages;
-- rows that fill their page
ALTER TABLE prompt_stats SET (fillfactor = 100);
ALTER TABLE prompt_stats ADD note text;
UPDATE prompt_stats SET note = repeat('x', 1500);
CALL count_often('transaction');
TABLE pages;
DROP VIEW pages;
DROP EXTENSION prompt_stats;
DROP TABLE prompt_stats, prompt_events;
DROP PROCEDURE count_often;
