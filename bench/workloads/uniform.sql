-- Every prompt is as likely as any other.

--@ id
bench_prompt(:n)

--@ script
\set n random(1, {prompts})
{call}
