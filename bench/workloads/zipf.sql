-- Popularity as it is: the n-th prompt gets 1/n of what the first one gets.

--@ id
bench_prompt(:n)

--@ script
\set n random_zipfian(1, {prompts}, 1.001)
{call}
