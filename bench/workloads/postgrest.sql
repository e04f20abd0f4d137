-- The transaction that PostgREST sends for rpc('increment_prompt_views'), the
-- prompt a hot one.

--@ id
(SELECT prompt_id FROM json_to_record('{"prompt_id": "{hot}"}') AS _(prompt_id uuid))

--@ script
BEGIN;
SELECT set_config('role', 'anon', true), set_config('request.jwt.claims', '{"role": "anon"}', true), set_config('search_path', 'public', true);
{call}
COMMIT;
