# Counts survive a crash exactly as far as they were acknowledged, and together
# with whatever else their transaction wrote [5][6].

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;

my $CLIENTS = 8;
my $CRASHES = 3;    # of each kind

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq(
	restart_after_crash = on
	log_statement = none
));
$node->start;
$node->safe_psql('postgres', q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 100);
	CREATE EXTENSION prompt_stats;
	CREATE TABLE side (prompt_id bigint NOT NULL, n bigint NOT NULL, client integer NOT NULL);
));

# Prompts 1-10 by calls that only count, 11-20 by calls that also write, 21-30 by
# forks, which log an event each; 31-40 by those that are taken back.  All of
# them by every client.  Every other client folds all its own, at the call.
sub work
{
	my ($client, $turn) = @_;
	my ($sql, $counts) = work_of($client, $turn);
	return ($client % 2 ? "SET LOCAL prompt_stats.durability = 'transaction'; $sql" : $sql, $counts);
}

sub work_of
{
	my ($client, $turn) = @_;
	my $kind = $turn % 6;
	my $prompt = 1 + int(rand 10);
	my $n = 1 + int(rand 3);

	if ($kind == 0)
	{
		return ("SELECT increment_prompt_views($prompt)", { "$prompt views" => 1 });
	}
	elsif ($kind == 1)
	{
		my $other = 1 + $prompt % 10;
		return ("SELECT increment_prompt_copies(ARRAY[$prompt, $other]::bigint[], $n)",
			{ "$prompt copies" => $n, "$other copies" => $n });
	}
	elsif ($kind == 2)
	{
		$prompt += 10;
		return ("INSERT INTO side VALUES ($prompt, $n, $client); SELECT increment_prompt_views($prompt, $n)",
			{ "$prompt views" => $n });
	}
	elsif ($kind == 3)
	{
		$prompt += 10;
		return ("SELECT increment_prompt_views($prompt, $n); INSERT INTO side VALUES ($prompt, $n, $client)",
			{ "$prompt views" => $n });
	}
	elsif ($kind == 4)
	{
		$prompt += 20;
		return ("SELECT track_prompt_fork($prompt, $client)", { "$prompt forks" => 1 });
	}
	else
	{
		$prompt += 30;
		return ("BEGIN; SELECT increment_prompt_views($prompt);"
			  . " INSERT INTO side VALUES ($prompt, 1, $client); ROLLBACK", {});
	}
}

# What the table says, and what was logged beside it
sub counted
{
	my %counted;
	my $rows = $node->safe_psql('postgres', q(
		SELECT prompt_id || ' ' || c, n FROM prompt_stats,
		LATERAL (VALUES ('views', view_count), ('copies', copy_count), ('forks', fork_count)) v(c, n)
		WHERE n <> 0));
	foreach my $row (split /\n/, $rows)
	{
		my ($key, $n) = split /\|/, $row;
		$counted{$key} = $n;
	}
	return \%counted;
}

sub wait_for_progress
{
	my $sum = 'SELECT coalesce(sum(view_count + copy_count + fork_count), 0) FROM prompt_stats';

	# The server may be recovering
	PromptStats::wait_until($node, "SELECT true") or die 'no server';
	my $now = PromptStats::ask($node, $sum);
	PromptStats::wait_until($node, "SELECT ($sum) > $now + 500") or die 'no progress';
	return;
}

sub kill_backend
{
	my $offset = -s $node->logfile;
	kill 'KILL', PromptStats::ask($node, q(
		SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'client %' ORDER BY random() LIMIT 1));
	$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
	return;
}

my %ways = (
	"kill -9 of a client's backend" => \&kill_backend,
	'immediate stop' => sub { $node->stop('immediate'); $node->start },
);

# Each crash by itself: what one lost, another can't make up for
foreach my $crash (1 .. $CRASHES)
{
	foreach my $way (sort keys %ways)
	{
		my $before = counted();
		my $load = PromptStats::Load->start($node, $CLIENTS, \&work);

		wait_for_progress();
		$ways{$way}->();
		wait_for_progress();

		my $told = $load->stop;
		my $counted = counted();
		$counted->{$_} -= $before->{$_} foreach keys %$before;
		is_deeply($told->{errors}, {}, "crash $crash, $way: no client got an error");
		cmp_ok($told->{lost}, '>=', 1, "crash $crash, $way: connections were lost");
		cmp_ok($told->{lost}, '<=', 2 * $CLIENTS, "crash $crash, $way: few calls were in flight");
		is(PromptStats::Load::differences($told, $counted), '',
			"crash $crash, $way: acknowledged <= counted <= acknowledged + in flight");
	}
}

is( $node->safe_psql('postgres', q(
	SELECT prompt_id, coalesce(sum, 0), view_count
	FROM (SELECT prompt_id, sum(n) FROM side GROUP BY 1) s FULL JOIN prompt_stats USING (prompt_id)
	WHERE prompt_id BETWEEN 11 AND 20 AND sum IS DISTINCT FROM view_count)),
	'', 'counts and the rows written with them: both or neither');
is( $node->safe_psql('postgres', q(
	SELECT prompt_id, coalesce(n, 0), fork_count
	FROM (SELECT prompt_id, count(*) AS n FROM prompt_events WHERE event_type = 'fork' GROUP BY 1) e
	FULL JOIN prompt_stats USING (prompt_id)
	WHERE prompt_id BETWEEN 21 AND 30 AND n IS DISTINCT FROM fork_count)),
	'', 'forks and their events: both or neither');
is( $node->safe_psql('postgres', q(
	SELECT (SELECT count(*) FROM prompt_stats WHERE prompt_id > 30 AND view_count <> 0)
		+ (SELECT count(*) FROM side WHERE prompt_id > 30))),
	'0', 'what was rolled back is not counted');
is($node->safe_psql('postgres', 'SELECT bool_and(ok) FROM prompt_stats_verify()'), 't', 'verify() is content');

done_testing();
