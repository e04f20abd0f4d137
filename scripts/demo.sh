#!/usr/bin/env bash
#
# The whole story on a throw-away server: a legacy event log, its cost,
# CREATE EXTENSION, the migration, counting under load, the cost afterwards.
# Runs inside sandbox.sh; fails if a single count is wrong.
#
#   DATA=DIR              prompts.csv and legacy_events.csv instead of made-up events
#   EVENTS= PROMPTS=      how many to make up
#   CLIENTS= DURATION=    of the load, DURATION in seconds
set -euo pipefail

# shellcheck source=scripts/cluster.sh
. scripts/cluster.sh

events=${EVENTS:-1000000}
prompts=${PROMPTS:-5000}
clients=${CLIENTS:-16}
duration=${DURATION:-10}
wrong=0

sql()
{
	psql -XAtq -v ON_ERROR_STOP=1 "$@"
}

step()
{
	printf '\n== %s\n' "$*"
}

expect() # WHAT FOUND EXPECTED
{
	if [ "$2" = "$3" ]; then
		echo "ok: $1"
	else
		echo "WRONG: $1: found $2, expected $3"
		wrong=1
	fi
}

milliseconds() # QUERY: the better of two runs, the first may find a cold cache
{
	local explain="EXPLAIN (ANALYZE, TIMING OFF) $1"
	sql -c "$explain" -c "$explain" | sed -n 's/Execution Time: //p' | sort -n | head -n 1
}

size() # TABLE: with its indexes
{
	sql -c "SELECT pg_size_pretty(pg_total_relation_size('$1'))"
}

rows()
{
	sql -c "SELECT to_char(count(*), 'FM999,999,999') FROM prompt_events"
}

# Room for all of it: the cost of a count is then that of a warm cache, the least it can be
start_server -c shared_buffers=512MB

step "A legacy database: one row of prompt_events for each view and copy"
sql <<'SQL'
CREATE TABLE prompts (id uuid, title text);
CREATE TABLE prompt_events (
	id uuid DEFAULT gen_random_uuid(),
	prompt_id uuid NOT NULL,
	user_id uuid,
	event_type text,
	created_at timestamptz DEFAULT now()
);
SQL
if [ -n "${DATA-}" ]; then
	sql -c "\copy prompts (id, title) FROM '$DATA/prompts.csv' CSV HEADER" \
		-c "\copy prompt_events (prompt_id, user_id, event_type, created_at) FROM '$DATA/legacy_events.csv' CSV HEADER"
else
	# A few prompts get most of it: the n-th has a share that falls as n^(-2/3)
	sql -v prompts="$prompts" -v events="$events" <<'SQL'
INSERT INTO prompts SELECT md5('prompt ' || n)::uuid, 'Prompt ' || n FROM generate_series(1, :prompts) n;
SELECT FROM setseed(0.5);
INSERT INTO prompt_events (prompt_id, user_id, event_type, created_at)
SELECT md5('prompt ' || 1 + floor(:prompts * random() ^ 3))::uuid,
	md5('user ' || floor(20000 * random()))::uuid,
	CASE WHEN kind < 0.86 THEN 'view' WHEN kind < 0.98 THEN 'copy' WHEN kind < 0.99 THEN 'fork' ELSE 'compare_add' END,
	now() - (:events - n) * interval '1 minute'
FROM (SELECT n, random() AS kind FROM generate_series(1, :events) n) made_up;
SQL
fi
sql <<'SQL'
ALTER TABLE prompts ADD PRIMARY KEY (id);
ALTER TABLE prompt_events ADD PRIMARY KEY (id),
	ADD FOREIGN KEY (prompt_id) REFERENCES prompts ON DELETE CASCADE,
	ADD CONSTRAINT prompt_events_event_type_check CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add'));
CREATE INDEX ON prompt_events (prompt_id);
VACUUM ANALYZE prompts, prompt_events;

-- What the counters must come to, and whom to count under load
CREATE SCHEMA demo;
CREATE TABLE demo.expected AS
	SELECT prompt_id,
		count(*) FILTER (WHERE event_type = 'view') AS views,
		count(*) FILTER (WHERE event_type = 'copy') AS copies,
		count(*) FILTER (WHERE event_type = 'fork') AS forks
	FROM prompt_events GROUP BY prompt_id;
CREATE TABLE demo.ranked AS
	SELECT row_number() OVER (ORDER BY views DESC, prompt_id) AS rank, prompt_id FROM demo.expected;
ALTER TABLE demo.ranked ADD PRIMARY KEY (rank);
SQL
top=$(sql -c "SELECT prompt_id FROM demo.ranked WHERE rank = 1")
kept=$(sql -c "SELECT count(*) FROM prompt_events WHERE event_type IN ('fork', 'compare_add')")
rows_before=$(rows)
size_before=$(size prompt_events)
one_before=$(milliseconds "SELECT count(*) FROM prompt_events WHERE prompt_id = '$top' AND event_type = 'view'")
list_before=$(milliseconds "SELECT prompt_id, count(*) FROM prompt_events WHERE event_type = 'view'
	GROUP BY prompt_id ORDER BY count(*) DESC LIMIT 20")
echo "$rows_before events, $size_before"
echo "one count of the most viewed prompt: $one_before; the 20 most viewed: $list_before"

step "CREATE EXTENSION prompt_stats"
sql -c "CREATE EXTENSION prompt_stats" 2>&1

step "CALL prompt_stats_migrate(), watched from a second session"
sql -c "CALL prompt_stats_migrate()" >"$HOME/migrate.log" 2>&1 &
migration=$!
shown=
while
	running=$(jobs -r)
	progress=$(sql -c "SELECT format('%s: %s rows, %s %%', phase, to_char(rows_moved, 'FM999,999,990'), percent)
		FROM prompt_stats_migration_progress")
	[ "$progress" = "$shown" ] || echo "$progress"
	shown=$progress
	[ -n "$running" ]
do
	sleep 1
done
wait "$migration" || { cat "$HOME/migrate.log"; exit 1; }
cat "$HOME/migrate.log"

step "SELECT * FROM prompt_stats_verify()"
psql -Xq -P footer=off -c "SELECT * FROM prompt_stats_verify()"
expect "every check of prompt_stats_verify()" "$(sql -c "SELECT bool_and(ok) FROM prompt_stats_verify()")" t
expect "the counters of every prompt are what its events came to" "$(sql <<'SQL'
SELECT count(*)
FROM demo.expected e FULL JOIN prompt_stats s USING (prompt_id)
WHERE (coalesce(e.views, 0), coalesce(e.copies, 0), coalesce(e.forks, 0))
	IS DISTINCT FROM (coalesce(s.view_count, 0), coalesce(s.copy_count, 0), coalesce(s.fork_count, 0))
SQL
)" 0
expect "forks and compare_adds are all there, and nothing else" \
	"$(sql -c "SELECT count(*) FILTER (WHERE event_type IN ('fork', 'compare_add')), count(*) FROM prompt_events")" "$kept|$kept"
moved=$(sql -c "SELECT format('%s views, %s copies, %s forks', sum(view_count), sum(copy_count), sum(fork_count)) FROM prompt_stats")
top_moved=$(sql -c "SELECT format('%s views, %s copies, %s forks', view_count, copy_count, fork_count)
	FROM get_prompt_stats('$top')")

step "Counting under load: $clients clients, $duration s, popular prompts more often"
cat >"$HOME/load.sql" <<SQL
\set rank random_zipfian(1, $(sql -c "SELECT count(*) FROM demo.ranked"), 1.1)
SELECT prompt_id FROM demo.ranked WHERE rank = :rank \gset
SELECT increment_prompt_views(:prompt_id);
SQL
views_before=$(sql -c "SELECT sum(view_count) FROM prompt_stats")
pgbench -n -M prepared -c "$clients" -j "$(nproc)" -T "$duration" -f "$HOME/load.sql" >"$HOME/load.log" 2>&1 ||
	{ cat "$HOME/load.log"; exit 1; }
acknowledged=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$HOME/load.log")
rate=$(sed -n 's/^tps = \([0-9]*\).*/\1/p' "$HOME/load.log")
counted=$(sql -c "SELECT sum(view_count) - $views_before FROM prompt_stats")
expect "$acknowledged calls acknowledged, $rate a second, as many counted" "$counted" "$acknowledged"

step "Summary"
sql -c "VACUUM FULL prompt_events" -c "VACUUM ANALYZE prompt_stats"
one_after=$(milliseconds "SELECT view_count FROM prompt_stats WHERE prompt_id = '$top'")
list_after=$(milliseconds "SELECT prompt_id, view_count FROM prompt_stats ORDER BY view_count DESC LIMIT 20")
row='%-34s %14s %14s\n'
# shellcheck disable=SC2059 # one format for the whole table
{
	printf "$row" "" before after
	printf "$row" "rows of prompt_events" "$rows_before" "$(rows)"
	printf "$row" "size of prompt_events" "$size_before" "$(size prompt_events)"
	printf "$row" "size of prompt_stats" - "$(size prompt_stats)"
	printf "$row" "one count of the top prompt" "$one_before" "$one_after"
	printf "$row" "the 20 most viewed prompts" "$list_before" "$list_after"
}
echo
took=$(sql -c "SELECT round(extract(epoch FROM finished_at - started_at), 1) FROM prompt_stats_migration_progress")
echo "moved in $took s: $moved"
echo "top prompt $top: $top_moved"
echo "then counted: $counted views in $duration s"
echo "(size of prompt_events after VACUUM FULL; a plain VACUUM leaves the room for new events)"
[ $wrong = 0 ] || { echo "SOMETHING WAS WRONG, see above"; exit 1; }
