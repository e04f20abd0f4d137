# A migration that is killed again and again while the application runs moves
# every row exactly once, and never stands in an application's way for longer
# than a batch [16].
#
#   PROMPT_STATS_TEST_ROWS    how many legacy rows (1,000,000); with fewer than
#                             200,000 it may end before it is killed

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Storable;
use Test::More;
use Time::HiRes qw(usleep);

my $ROWS = $ENV{PROMPT_STATS_TEST_ROWS} // 1_000_000;
my $CLIENTS = 8;
my $KILLS = 5;
my $SAMPLE_MS = 10;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq(
	restart_after_crash = on
	log_statement = none
	max_wal_size = 2GB
));
$node->start;

# The n-th prompt has a share of the events that falls as n^(-2/3)
$node->safe_psql('postgres', qq(
	CREATE FUNCTION prompt(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE
		RETURN md5('prompt ' || n)::uuid;
	CREATE TABLE prompts (n integer NOT NULL, id uuid PRIMARY KEY);
	INSERT INTO prompts SELECT n, prompt(n) FROM generate_series(1, 5000) n;
	CREATE TABLE prompt_events (
		id uuid DEFAULT gen_random_uuid(),
		prompt_id uuid NOT NULL,
		user_id uuid,
		event_type text CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add')),
		created_at timestamptz DEFAULT now()
	);
	SELECT setseed(0.5);
	INSERT INTO prompt_events (prompt_id, user_id, event_type)
	SELECT prompt(1 + floor(5000 * random() ^ 3)::integer), gen_random_uuid(),
		CASE WHEN kind < 0.86 THEN 'view' WHEN kind < 0.98 THEN 'copy'
			WHEN kind < 0.99 THEN 'fork' ELSE 'compare_add' END
	FROM (SELECT random() AS kind FROM generate_series(1, $ROWS)) made_up;
	ALTER TABLE prompt_events ADD FOREIGN KEY (prompt_id) REFERENCES prompts ON DELETE CASCADE;
	CREATE INDEX ON prompt_events (prompt_id);

	CREATE TABLE expected AS
	SELECT n, prompt_id,
		count(*) FILTER (WHERE event_type = 'view') AS views,
		count(*) FILTER (WHERE event_type = 'copy') AS copies,
		count(*) FILTER (WHERE event_type = 'fork') AS forks
	FROM prompt_events JOIN prompts ON prompts.id = prompt_id GROUP BY 1, 2;

	CREATE EXTENSION prompt_stats;
));

# The hottest ten prompts are everybody's, the next eighty belong to a client each
my $TOUCHED = 10 + 10 * $CLIENTS;
my $prompt_ids = $node->safe_psql('postgres', "SELECT id FROM prompts WHERE n <= $TOUCHED ORDER BY n");
my @prompts = (undef, split /\n/, $prompt_ids);

my $load = PromptStats::Load->start($node, $CLIENTS, sub {
	my ($client, $turn) = @_;
	my $shared = 1 + int(rand 10);
	my $own = 10 * $client + 1 + int(rand 10);
	my $n = rand() < 0.5 ? $shared : $own;
	my $id = $prompts[$n];
	my $kind = $turn % 4;

	return ("SELECT increment_prompt_views('$id')", { "$n views" => 1 }) if $kind == 0;
	return ("SELECT increment_prompt_copies('$id', 3)", { "$n copies" => 3 }) if $kind == 1;
	return ("SELECT track_prompt_fork('$id', '$id')", { "$n forks" => 1 }) if $kind == 2;
	return ("SELECT increment_prompt_views(ARRAY['$prompts[$own]', '$prompts[$shared]']::uuid[])",
		{ "$own views" => 1, "$shared views" => 1 });
});

# ---- the sampler: which clients the migration keeps waiting ----

# Every client that waits for a lock, with those whom it waits for
my $WAITING = q(
	SELECT pid, pid || ' ' || query_start, array_to_string(pg_blocking_pids(pid), ' ')
	FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'client %');
my $BATCH = q(SELECT pid, xact_start FROM pg_stat_activity
	WHERE application_name = 'migration' AND xact_start IS NOT NULL);

# Of the clients in the rows of $WAITING: those that wait for the pid, be it
# through others
sub find_blocked
{
	my ($rows, $pid) = @_;
	my %waits_for_it = ($pid => 1);
	my %blocked;

	for (my $found = 1; $found;)
	{
		$found = 0;
		foreach my $row (@$rows)
		{
			my ($waiter, $call, $blockers) = @$row;
			next if $waits_for_it{$waiter} || !grep { $waits_for_it{$_} } split / /, $blockers;
			$found = $waits_for_it{$waiter} = $blocked{$call} = 1;
		}
	}
	return keys %blocked;
}

# {calls}: the batches that kept a client's call waiting.  A sample counts only
# if the batch was the same before and after it.
sub sample
{
	my ($go_on) = @_;
	my %seen = (samples => 0, batches => {}, calls => {});
	my $connection;

	while ($go_on->())
	{
		usleep(1000 * $SAMPLE_MS);
		$connection //= PromptStats::Connection->new($node, 'sampler') or next;
		my ($before, $waiting, $after) = map { $connection->query($_) } $BATCH, $WAITING, $BATCH;
		if ($after->{outcome} ne 'ok')
		{
			undef $connection;
			next;
		}
		my ($batch, $same) = map { join ' ', @{ $_->{rows}[0] // [] } } $before, $after;
		next if $batch eq '' || $batch ne $same;
		$seen{samples}++;
		$seen{batches}{$batch} = 1;
		$seen{calls}{$_}{$batch} = 1
		  foreach find_blocked($waiting->{rows}, $before->{rows}[0][0]);
	}
	return \%seen;
}

my $samples = PostgreSQL::Test::Utils::tempdir() . '/samples';
my $sampler = PromptStats::Load::in_child(sub { Storable::store(sample($_[0]), $samples) });

# ---- the migration, killed at random moments ----

# Batches smaller than the usual ones: more moments to be killed at
my $CALL = 'CALL prompt_stats_migrate(' . int($ROWS / 40) . ')';
my $moved = 'SELECT coalesce(sum(rows_moved), 0) FROM prompt_stats_migration_progress';
my $migrating = q(FROM pg_stat_activity WHERE application_name = 'migration');

sub start_migration
{
	return PromptStats::Load::in_child(sub {
		my $connection;
		until ($connection = PromptStats::Connection->new($node, 'migration'))
		{
			usleep(10_000);
		}
		my $result = $connection->query($CALL);
		die "$result->{outcome} $result->{message}" if $result->{outcome} ne 'ok';
	});
}

foreach my $kill (1 .. $KILLS)
{
	# At a moment of some batch, in one part of the table after the other
	my $goal = int(0.9 * $ROWS * ($kill - 1 + rand) / $KILLS);
	my $migration = start_migration();
	$node->poll_query_until('postgres', "SELECT ($moved) >= $goal") or die 'nothing is moved';
	usleep(rand 300_000);

	my $offset = -s $node->logfile;
	my $pid = $node->safe_psql('postgres', "SELECT pid $migrating");
	kill 'KILL', $pid;
	waitpid($migration, 0);
	ok($? != 0, "kill $kill: the migration had not ended");
	$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
	$node->poll_query_until('postgres', 'SELECT true') or die 'no server';
	note $node->safe_psql('postgres', 'SELECT rows_moved, percent FROM prompt_stats_migration_progress');
}

my $migration = start_migration();
waitpid($migration, 0);
is($?, 0, 'called again, it ends');

kill 'TERM', $sampler;
waitpid($sampler, 0);
is($?, 0, 'the sampler saw to the end of it');
my $told = $load->stop;

# ---- what came of it ----

is_deeply($told->{errors}, {}, 'no client got an error');
cmp_ok($told->{calls}, '>', 1000, 'the clients counted');
cmp_ok($told->{lost}, '<', $told->{calls} / 20, 'few calls were in flight');

is($node->safe_psql('postgres', q(SELECT phase FROM prompt_stats_migration_progress)),
	'finished', 'the progress view says that it has finished');
is($node->safe_psql('postgres', q(SELECT check_name, detail FROM prompt_stats_verify() WHERE NOT ok)),
	'', 'verify() is content');
is( $node->safe_psql('postgres', q(
	SELECT count(*) FROM prompt_events WHERE event_type NOT IN ('fork', 'compare_add'))),
	'0', 'no view or copy is left');

is( $node->safe_psql('postgres', qq(
	SELECT n, views, view_count, copies, copy_count, forks, fork_count
	FROM expected FULL JOIN prompt_stats USING (prompt_id)
	WHERE n IS NULL OR n > $TOUCHED
		AND (views, copies, forks) IS DISTINCT FROM (view_count, copy_count, fork_count)
	LIMIT 10)),
	'', 'prompts that no client touched: exactly what the GROUP BY gave before');

my %counted;
my $rows = $node->safe_psql('postgres', qq(
	SELECT n || ' ' || c, came FROM prompt_stats JOIN expected USING (prompt_id),
	LATERAL (VALUES ('views', view_count - views), ('copies', copy_count - copies),
		('forks', fork_count - forks)) v(c, came)
	WHERE n <= $TOUCHED AND came <> 0));
foreach my $row (split /\n/, $rows)
{
	my ($key, $came) = split /\|/, $row;
	$counted{$key} = $came;
}
is(PromptStats::Load::differences($told, \%counted),
	'', 'the others: that, and acknowledged <= counted <= acknowledged + in flight');
is( $node->safe_psql('postgres', q(
	SELECT prompt_id, n, fork_count FROM prompt_stats
	FULL JOIN (SELECT prompt_id, count(*) AS n FROM prompt_events WHERE event_type = 'fork' GROUP BY 1) e
	USING (prompt_id) WHERE coalesce(n, 0) IS DISTINCT FROM fork_count LIMIT 10)),
	'', 'fork_count is the number of fork events');

my $seen = Storable::retrieve($samples);
my @waited = values %{ $seen->{calls} };
note scalar keys %{ $seen->{batches} }, " batches in $seen->{samples} samples, ",
  scalar @waited, ' calls waited';
cmp_ok($seen->{samples}, '>', 100, 'there are samples');
is(scalar(grep { keys %$_ > 1 } @waited), 0, 'no call was blocked by the migration across two batches');

done_testing();
