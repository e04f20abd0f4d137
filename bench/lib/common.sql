-- In every contender's database.

CREATE FUNCTION bench_noop(uuid) RETURNS void
AS '{library}', 'bench_noop' LANGUAGE C VOLATILE STRICT;

CREATE FUNCTION bench_prompt(n bigint) RETURNS uuid
AS '{library}', 'bench_prompt' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

-- The views that the n-th prompt starts with: one, and its share, by popularity
-- (Zipf), of a tenth as many views as there are prompts.
CREATE FUNCTION bench_views(n bigint, prompts bigint) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT 1 + (prompts / 10 * ln(1 + 1::float8 / n) / ln(prompts::float8))::integer $$;

-- As PostgREST's callers: no rights but what everybody has.
DO $$ BEGIN CREATE ROLE anon; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC;
