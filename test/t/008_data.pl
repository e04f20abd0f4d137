# Adopting a legacy event log: a small one that is made up here, whose numbers
# are known by construction, and the sample data of the project where they are to
# be had [13][16][18].
#
#   PROMPT_STATS_DATA    where prompts.csv and legacy_events.csv are; by default
#                        what "make check DATA=DIR" said, or ../shared/data

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;

my $LEGACY = q(
	CREATE TABLE prompts (id uuid PRIMARY KEY, title text);
	CREATE TABLE prompt_events (
		id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
		prompt_id uuid NOT NULL REFERENCES prompts ON DELETE CASCADE,
		user_id uuid,
		event_type text,
		created_at timestamptz DEFAULT now(),
		CONSTRAINT prompt_events_event_type_check
			CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add'))
	);
);
my $SUMS = q(SELECT sum(view_count), sum(copy_count), sum(fork_count) FROM prompt_stats);
my $EVENTS = q(SELECT event_type, count(*) FROM prompt_events GROUP BY 1 ORDER BY 1);

# What every event log must come to; the numbers are the test's own
sub adopt
{
	my ($db, %expected) = @_;
	$node->safe_psql($db, q(
		CREATE TABLE before AS SELECT prompt_id, count(*) FILTER (WHERE event_type = 'view') AS views,
			count(*) FILTER (WHERE event_type = 'copy') AS copies,
			count(*) FILTER (WHERE event_type = 'fork') AS forks
		FROM prompt_events GROUP BY 1;
		CREATE TABLE kept AS SELECT * FROM prompt_events WHERE event_type IN ('fork', 'compare_add');
		CREATE EXTENSION prompt_stats;
		CALL prompt_stats_migrate();
	));
	is($node->safe_psql($db, $SUMS), $expected{sums}, "$db: views, copies and forks in all");
	is( $node->safe_psql($db, q(
		SELECT prompt_id, view_count, copy_count, fork_count FROM prompt_stats
		ORDER BY view_count DESC, prompt_id LIMIT 1)),
		$expected{top}, "$db: the most viewed prompt");
	is($node->safe_psql($db, $EVENTS), $expected{events}, "$db: the events that are left");

	is( $node->safe_psql($db, q(
		SELECT * FROM before FULL JOIN prompt_stats USING (prompt_id)
		WHERE (coalesce(views, 0), coalesce(copies, 0), coalesce(forks, 0))
			IS DISTINCT FROM (coalesce(view_count, 0), coalesce(copy_count, 0), coalesce(fork_count, 0))
		LIMIT 10)),
		'', "$db: every prompt has what the GROUP BY gave before");
	is( $node->safe_psql($db, '(TABLE kept EXCEPT ALL TABLE prompt_events) UNION ALL'
		. ' (TABLE prompt_events EXCEPT ALL TABLE kept)'),
		'', "$db: they are what they were");
	is($node->safe_psql($db, 'SELECT check_name, detail FROM prompt_stats_verify() WHERE NOT ok'),
		'', "$db: verify() is content");

	# Again: nothing is left to do
	$node->safe_psql($db, 'CALL prompt_stats_migrate()');
	is($node->safe_psql($db, $SUMS), $expected{sums}, "$db: a second migration moves nothing");

	my ($top) = split /\|/, $expected{top};
	my $before = $node->safe_psql($db, "SELECT view_count, copy_count, fork_count FROM get_prompt_stats('$top')");
	my @counts = split /\|/, $before;
	$node->safe_psql($db, "SELECT increment_prompt_views('$top'), increment_prompt_copies('$top', 2)");
	is( $node->safe_psql($db, "SELECT view_count, copy_count, fork_count FROM get_prompt_stats('$top')"),
		join('|', $counts[0] + 1, $counts[1] + 2, $counts[2]), "$db: and counts on");
	my ($ret) = $node->psql($db, "INSERT INTO prompt_events (prompt_id, event_type) VALUES ('$top', 'view')");
	isnt($ret, 0, "$db: a view is no event any more");
	return;
}

# ---- made up ----

# Prompt n of 1..40 has 41 - n views, a copy for each tenth of them, a fork if n is
# even, a compare_add if it divides by 3; prompts 41..50 have nothing
$node->safe_psql('postgres', 'CREATE DATABASE synthetic');
$node->safe_psql('synthetic', $LEGACY . q(
	INSERT INTO prompts SELECT md5('prompt ' || n)::uuid, 'Prompt ' || n FROM generate_series(1, 50) n;
	INSERT INTO prompt_events (prompt_id, user_id, event_type)
	SELECT md5('prompt ' || n)::uuid, md5('user ' || k)::uuid, kind
	FROM generate_series(1, 40) n,
	LATERAL (VALUES ('view', 41 - n), ('copy', (41 - n) / 10), ('fork', (n % 2 = 0)::integer),
		('compare_add', (n % 3 = 0)::integer)) v(kind, times),
	LATERAL generate_series(1, times) k
	ORDER BY k, n, kind;
));
adopt('synthetic',
	sums => '820|64|20',    # 40 * 41 / 2; ten prompts each of 1, 2 and 3 copies, and one of 4
	top => $node->safe_psql('postgres', q(SELECT md5('prompt 1')::uuid)) . '|40|4|0',
	events => "compare_add|13\nfork|20");

# ---- the project's own ----

my ($data) = grep { defined && -r "$_/legacy_events.csv" }
  $ENV{PROMPT_STATS_DATA}, $ENV{DATA}, "$FindBin::RealBin/../../../shared/data";
die "no legacy_events.csv in $ENV{PROMPT_STATS_DATA}"
  if defined $ENV{PROMPT_STATS_DATA} && ($data // '') ne $ENV{PROMPT_STATS_DATA};

if (defined $data)
{
	$node->safe_psql('postgres', 'CREATE DATABASE sample');
	$node->safe_psql('sample', $LEGACY);
	$node->safe_psql('sample', "\\copy prompts (id, title) FROM '$data/prompts.csv' CSV HEADER");
	$node->safe_psql('sample', "\\copy prompt_events (prompt_id, user_id, event_type, created_at)"
		  . " FROM '$data/legacy_events.csv' CSV HEADER");
	adopt('sample',
		sums => '9126|445|258',
		top => 'a4734e90-5391-5d3c-91d0-a1c65d347a72|805|11|'
		  . $node->safe_psql('sample', q(
			SELECT count(*) FROM prompt_events
			WHERE event_type = 'fork' AND prompt_id = 'a4734e90-5391-5d3c-91d0-a1c65d347a72')),
		events => "compare_add|171\nfork|258");
}
else
{
	note 'no sample data here; the made-up log was adopted';
}

done_testing();
