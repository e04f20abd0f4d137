-- one-transaction roll-up
-- What a careful hand writes. One statement moves the rows, so that none that
-- comes meanwhile is deleted without being counted.

--@ prepare
CREATE FUNCTION increment_prompt_views(id uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO prompt_stats AS s (prompt_id, view_count, updated_at)
	VALUES (id, 1, now())
	ON CONFLICT (prompt_id) DO UPDATE
		SET view_count = s.view_count + 1, updated_at = now();
END $$;

--@ migrate
BEGIN;
WITH moved AS (
	DELETE FROM prompt_events WHERE event_type IN ('view', 'copy') RETURNING prompt_id, event_type
)
INSERT INTO prompt_stats AS s (prompt_id, view_count, copy_count, updated_at)
SELECT prompt_id, count(*) FILTER (WHERE event_type = 'view'), count(*) FILTER (WHERE event_type = 'copy'), now()
FROM moved GROUP BY prompt_id
ON CONFLICT (prompt_id) DO UPDATE
	SET view_count = s.view_count + excluded.view_count,
		copy_count = s.copy_count + excluded.copy_count, updated_at = now();
ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check;
ALTER TABLE prompt_events ADD CONSTRAINT prompt_events_event_type_check
	CHECK (event_type IN ('fork', 'compare_add'));
COMMIT;
