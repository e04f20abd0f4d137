-- slotted counter
-- The sharded counter: 64 rows a prompt, a call takes one at random, a reader
-- adds them up. Slots come into being when they are first hit.

--@ schema
CREATE TABLE prompt_slots (
	prompt_id uuid,
	slot integer,
	view_count bigint NOT NULL DEFAULT 0
);

CREATE FUNCTION increment_prompt_views(id uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO prompt_slots AS s (prompt_id, slot, view_count)
	VALUES (id, floor(random() * 64), 1)
	ON CONFLICT (prompt_id, slot) DO UPDATE SET view_count = s.view_count + 1;
END $$;

--@ fill
INSERT INTO prompt_slots (prompt_id, slot, view_count)
SELECT bench_prompt(n), slot, (views + 63 - slot) / 64
FROM generate_series(1, {prompts}) n,
	bench_views(n, {prompts}) views,
	generate_series(0, least(views, 64) - 1) slot;

--@ keys
ALTER TABLE prompt_slots ADD PRIMARY KEY (prompt_id, slot);

--@ call
SELECT increment_prompt_views({id});

--@ total
SELECT sum(view_count) FROM prompt_slots;

--@ read one count
SELECT sum(view_count) FROM prompt_slots WHERE prompt_id = {id};

--@ read top 20
SELECT prompt_id, sum(view_count) FROM prompt_slots GROUP BY prompt_id ORDER BY 2 DESC LIMIT 20;
