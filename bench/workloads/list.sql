-- A list page: one call counts a hundred prompts.

--@ id
bench_prompt(:n)

--@ ids
ARRAY(SELECT bench_prompt(i) FROM generate_series(:n, :n + 99) i)

--@ script
\set n random(1, {prompts} - 99)
{array}
