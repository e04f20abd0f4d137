-- bare UPDATE
-- The least that can be sent; right only while every prompt has its row.

--@ schema
CREATE TABLE prompt_stats (
	prompt_id uuid,
	view_count bigint NOT NULL DEFAULT 0,
	copy_count bigint NOT NULL DEFAULT 0,
	fork_count bigint NOT NULL DEFAULT 0,
	updated_at timestamptz
);

--@ fill
INSERT INTO prompt_stats (prompt_id, view_count)
SELECT bench_prompt(n), bench_views(n, {prompts}) FROM generate_series(1, {prompts}) n;

--@ keys
ALTER TABLE prompt_stats ADD PRIMARY KEY (prompt_id);

--@ call
UPDATE prompt_stats SET view_count = view_count + 1, updated_at = now() WHERE prompt_id = {id};

--@ total
SELECT sum(view_count) FROM prompt_stats;
