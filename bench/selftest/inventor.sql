-- counts one in a thousand twice
-- No contender: it shows that the exactness check catches invented counts too.

--@ schema
CREATE TABLE prompt_stats (prompt_id uuid PRIMARY KEY, view_count bigint NOT NULL DEFAULT 0);
-- Near a thousand already: a slow machine makes few calls in a second.
CREATE SEQUENCE calls START 900;

CREATE FUNCTION increment_prompt_views(id uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	UPDATE prompt_stats SET view_count = view_count + 1 + (nextval('calls') % 1000 = 0)::int
	WHERE prompt_id = id;
END $$;

--@ fill
INSERT INTO prompt_stats (prompt_id)
SELECT bench_prompt(n) FROM generate_series(1, {prompts}) n;

--@ call
SELECT increment_prompt_views({id});

--@ total
SELECT sum(view_count) FROM prompt_stats;
