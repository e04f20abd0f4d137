-- PL/pgSQL upsert
-- What most applications ship; the yardstick of every ratio.

--@ schema
CREATE TABLE prompt_stats (
	prompt_id uuid,
	view_count bigint NOT NULL DEFAULT 0,
	copy_count bigint NOT NULL DEFAULT 0,
	fork_count bigint NOT NULL DEFAULT 0,
	updated_at timestamptz
);

CREATE FUNCTION increment_prompt_views(id uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO prompt_stats AS s (prompt_id, view_count, updated_at)
	VALUES (id, 1, now())
	ON CONFLICT (prompt_id) DO UPDATE
		SET view_count = s.view_count + 1, updated_at = now();
END $$;

--@ fill
INSERT INTO prompt_stats (prompt_id, view_count)
SELECT bench_prompt(n), bench_views(n, {prompts}) FROM generate_series(1, {prompts}) n;

--@ keys
ALTER TABLE prompt_stats ADD PRIMARY KEY (prompt_id);

--@ call
SELECT increment_prompt_views({id});

--@ array
SELECT increment_prompt_views(x) FROM unnest({ids}) x;

--@ total
SELECT sum(view_count) FROM prompt_stats;
