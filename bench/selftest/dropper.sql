-- drops one count in a thousand
-- No contender: it shows that the exactness check catches a contender that
-- loses so little.

--@ schema
CREATE TABLE prompt_stats (prompt_id uuid PRIMARY KEY, view_count bigint NOT NULL DEFAULT 0);
-- Near a thousand already: a slow machine makes few calls in a second.
CREATE SEQUENCE calls START 900;

CREATE FUNCTION increment_prompt_views(id uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF nextval('calls') % 1000 <> 0 THEN
		UPDATE prompt_stats SET view_count = view_count + 1 WHERE prompt_id = id;
	END IF;
END $$;

--@ fill
INSERT INTO prompt_stats (prompt_id)
SELECT bench_prompt(n) FROM generate_series(1, {prompts}) n;

--@ call
SELECT increment_prompt_views({id});

--@ total
SELECT sum(view_count) FROM prompt_stats;
