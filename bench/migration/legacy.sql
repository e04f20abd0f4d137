-- An application's tables before: one row an event, as many counters as prompts,
-- all at zero. {rows} events, popularity as it is.

--@ schema
CREATE TABLE prompt_stats (
	prompt_id uuid PRIMARY KEY,
	view_count bigint NOT NULL DEFAULT 0,
	copy_count bigint NOT NULL DEFAULT 0,
	fork_count bigint NOT NULL DEFAULT 0,
	updated_at timestamptz
);

CREATE TABLE prompt_events (
	id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	prompt_id uuid NOT NULL,
	user_id uuid,
	event_type text NOT NULL
		CONSTRAINT prompt_events_event_type_check
		CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add')),
	created_at timestamptz NOT NULL DEFAULT now()
);

-- The clients that go on counting stop when there is a row in it.
CREATE TABLE bench_stop ();

--@ fill
INSERT INTO prompt_stats (prompt_id) SELECT bench_prompt(n) FROM generate_series(1, {prompts}) n;

ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_pkey;
INSERT INTO prompt_events (prompt_id, event_type)
SELECT bench_prompt(floor(power({prompts}, random()))::bigint),
	CASE WHEN n % 100 < 75 THEN 'view' WHEN n % 100 < 95 THEN 'copy' WHEN n % 100 < 99 THEN 'fork' ELSE 'compare_add' END
FROM generate_series(1, {rows}) n;
ALTER TABLE prompt_events ADD PRIMARY KEY (id);
CREATE INDEX ON prompt_events (prompt_id);

--@ total
SELECT (SELECT sum(view_count + copy_count) FROM prompt_stats)
	+ (SELECT count(*) FROM prompt_events WHERE event_type IN ('view', 'copy'));
