-- delta table
-- A call appends a row, a job folds the rows into the counters each second.

--@ schema
CREATE TABLE prompt_stats (
	prompt_id uuid,
	view_count bigint NOT NULL DEFAULT 0,
	copy_count bigint NOT NULL DEFAULT 0,
	fork_count bigint NOT NULL DEFAULT 0,
	updated_at timestamptz
);

CREATE TABLE prompt_deltas (prompt_id uuid NOT NULL, views bigint NOT NULL);

--@ fill
INSERT INTO prompt_stats (prompt_id, view_count)
SELECT bench_prompt(n), bench_views(n, {prompts}) FROM generate_series(1, {prompts}) n;

--@ keys
ALTER TABLE prompt_stats ADD PRIMARY KEY (prompt_id);

CREATE FUNCTION roll_up() RETURNS void LANGUAGE sql AS $$
	WITH moved AS (DELETE FROM prompt_deltas RETURNING *)
	INSERT INTO prompt_stats AS s (prompt_id, view_count, updated_at)
	SELECT prompt_id, sum(views), now() FROM moved GROUP BY prompt_id
	ON CONFLICT (prompt_id) DO UPDATE
		SET view_count = s.view_count + excluded.view_count, updated_at = now();
$$;

--@ call
INSERT INTO prompt_deltas VALUES ({id}, 1);

--@ each second
SELECT roll_up();

--@ settle
-- Otherwise the WAL of the last second's roll-up would not be counted.
SELECT roll_up();

--@ total
SELECT sum(views) FROM (
	SELECT view_count FROM prompt_stats UNION ALL SELECT views FROM prompt_deltas
) AS all_of_it (views);

--@ prepare reads
-- A reader who wants the truth adds what is not rolled up: half a second's rows.
INSERT INTO prompt_deltas
SELECT bench_prompt(floor(power({prompts}, random()))::bigint), 1 FROM generate_series(1, 5000);

--@ read one count
SELECT view_count + (SELECT coalesce(sum(views), 0) FROM prompt_deltas d WHERE d.prompt_id = s.prompt_id)
FROM prompt_stats s WHERE prompt_id = {id};

--@ read top 20
SELECT prompt_id, view_count + coalesce(views, 0)
FROM prompt_stats
	LEFT JOIN (SELECT prompt_id, sum(views) AS views FROM prompt_deltas GROUP BY prompt_id) d USING (prompt_id)
ORDER BY 2 DESC LIMIT 20;
