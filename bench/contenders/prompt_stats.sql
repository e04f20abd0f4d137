-- prompt_stats
-- This extension, as CREATE EXTENSION leaves it. Run once for each durability
-- mode that it has.

--@ schema
CREATE EXTENSION prompt_stats;

--@ fill
-- In the key's order, which is fast while the key is there already.
INSERT INTO prompt_stats (prompt_id, view_count)
SELECT bench_prompt(n), bench_views(n, {prompts}) FROM generate_series(1, {prompts}) n
ORDER BY 1;

--@ call
SELECT increment_prompt_views({id});

--@ array
SELECT increment_prompt_views({ids});

--@ settle
-- What is acknowledged but still in memory belongs to the sum, and to the WAL.
SELECT prompt_stats_flush();

--@ total
SELECT sum(view_count) FROM prompt_stats;

--@ folds
-- Row versions that it has written, of one prompt; mode "transaction", which writes one
-- a count, is not told.
SELECT groups + flushes + own_folds FROM prompt_stats_status;

--@ read one count, plain
-- As from any table of counters, the upserts' too.
SELECT view_count FROM prompt_stats WHERE prompt_id = {id};

--@ read one count, get_prompt_stats()
SELECT view_count FROM get_prompt_stats({id});

--@ read top 20, plain
SELECT prompt_id, view_count FROM prompt_stats ORDER BY view_count DESC LIMIT 20;
