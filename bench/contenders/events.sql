-- event row per view
-- The old way: log every view, count(*) to read.

--@ schema
CREATE TABLE prompt_events (
	id uuid DEFAULT gen_random_uuid(),
	prompt_id uuid NOT NULL,
	user_id uuid,
	event_type text NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now()
);

--@ fill
INSERT INTO prompt_events (prompt_id, event_type)
SELECT bench_prompt(n), 'view'
FROM generate_series(1, {prompts}) n,
	generate_series(1, bench_views(n, {prompts}));

--@ keys
ALTER TABLE prompt_events ADD PRIMARY KEY (id);
CREATE INDEX ON prompt_events (prompt_id);

--@ call
INSERT INTO prompt_events (prompt_id, event_type) VALUES ({id}, 'view');

--@ total
SELECT count(*) FROM prompt_events WHERE event_type = 'view';

--@ read one count
SELECT count(*) FROM prompt_events WHERE prompt_id = {id} AND event_type = 'view';

--@ read top 20
SELECT prompt_id, count(*) FROM prompt_events WHERE event_type = 'view'
GROUP BY prompt_id ORDER BY 2 DESC LIMIT 20;
