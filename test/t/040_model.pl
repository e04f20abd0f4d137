# A model: random histories of calls, savepoints, rollbacks, modes, deletions and
# flushes, in concurrent sessions; what they were told makes the sums [3][4][5][6].
#
# Each history is made from MODEL_SEED; a failure names it.  MODEL_TURNS makes more.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;

my $SEED = $ENV{MODEL_SEED} // int(rand 1_000_000);
my $TURNS = $ENV{MODEL_TURNS} // 2000;
my $CLIENTS = 12;
my $PROMPTS = 12;
my $UNKNOWN = 777;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq(
	prompt_stats.flush_interval = '10ms'
	deadlock_timeout = '50ms'
	statement_timeout = '60s'
	max_connections = 50
	log_statement = none
));
$node->start;
$node->safe_psql('postgres', qq(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, $PROMPTS);
	CREATE EXTENSION prompt_stats;
	CREATE TABLE side (key text, n bigint);
));

my @COUNTERS = (
	[ 'increment_prompt_views', 'views' ],
	[ 'increment_prompt_copies', 'copies' ],
	[ 'increment_fork_count', 'forks' ]);
my @MODES = ('group', 'group', 'async', 'async', 'transaction');

sub pick { return $_[ int rand @_ ] }

# One call: its SQL, and what it counts
sub call
{
	my ($function, $counter) = @{ pick(@COUNTERS) };
	my $n = pick(1, 1, 1, 2, 5, 0);
	my @ids = map { 1 + int(rand $PROMPTS) } 1 .. pick(1, 1, 1, 1, 2, 5);
	my %counts;

	$counts{"$_ $counter"} += $n foreach @ids;
	my $ids = @ids > 1 || pick(0, 1) ? 'ARRAY[' . join(',', @ids) . ']::bigint[]' : "$ids[0]::bigint";
	return ("SELECT $function($ids, $n)", \%counts);
}

sub add_up
{
	my ($to, $counts) = @_;
	$to->{$_} += $counts->{$_} foreach keys %$counts;
	return;
}

# A transaction, or one statement by itself
sub history
{
	my ($client, $turn) = @_;
	my $mode = pick(@MODES);
	my (@sql, %counts, $savepoint);

	return ('SELECT prompt_stats_flush()', {}) if rand() < 0.01;
	return ("SET prompt_stats.durability = '$mode'", {}) if rand() < 0.1;

	# What is deleted is noted, in one statement
	my $victim = 1 + int rand $PROMPTS;
	return (qq{WITH gone AS (DELETE FROM prompt_stats WHERE prompt_id = $victim RETURNING *)
		INSERT INTO side SELECT prompt_id || c, n FROM gone,
		LATERAL (VALUES (' views', view_count), (' copies', copy_count), (' forks', fork_count)) AS v (c, n)}, {}) if rand() < 0.02;
	return call() if rand() < 0.4;

	push @sql, 'BEGIN' . pick('', '', ' ISOLATION LEVEL REPEATABLE READ', ' ISOLATION LEVEL SERIALIZABLE');
	foreach (1 .. 1 + int rand 5)
	{
		my ($sql, $counts) = call();
		my $what = rand;
		if ($what < 0.2)
		{
			# Undone, also what was released into it
			push @sql, 'SAVEPOINT a', $sql, 'SAVEPOINT b', (call())[0], pick('RELEASE b', 'SELECT 1'), 'ROLLBACK TO a';
			next;
		}
		push @sql, 'SAVEPOINT c', $sql, 'RELEASE c' if $what < 0.3;
		push @sql, $sql if $what >= 0.3;
		add_up(\%counts, $counts);
		push @sql, "SET LOCAL prompt_stats.durability = '" . pick(@MODES) . "'" if rand() < 0.2;
		push @sql, "INSERT INTO side VALUES ('side $client', 1)" and $counts{"side $client"}++ if rand() < 0.1;
	}
	my $end = rand;
	return (join('; ', @sql, 'ROLLBACK'), {}) if $end < 0.2;
	return (join('; ', @sql, 'SELECT 1/0', 'COMMIT'), {}) if $end < 0.25;
	return (join('; ', @sql, 'COMMIT'), \%counts);
}

# A failed transaction has to be ended; the next query does
my %in_block;
sub work
{
	my ($client, $turn) = @_;
	srand($SEED * 1000 + $client) if $turn == 0;
	my ($sql, $counts) = history($client, $turn);
	return ("ROLLBACK; $sql", $counts);
}

my $load = PromptStats::Load->start($node, $CLIENTS, sub { return work(@_) }, $TURNS);
my $told = $load->finish;

$node->safe_psql('postgres', 'SELECT prompt_stats_flush()');
my %counted = map { split /\|/ } split /\n/, $node->safe_psql('postgres', q(
	SELECT key, sum(n) FROM (
		SELECT key, n FROM side
		UNION ALL SELECT prompt_id || ' views', view_count FROM prompt_stats
		UNION ALL SELECT prompt_id || ' copies', copy_count FROM prompt_stats
		UNION ALL SELECT prompt_id || ' forks', fork_count FROM prompt_stats) AS x
	GROUP BY key));
is(PromptStats::Load::differences($told, \%counted), '', 'the model and the table agree')
	or diag("replay with MODEL_SEED=$SEED MODEL_TURNS=$TURNS");
cmp_ok($told->{calls}, '>', $TURNS * $CLIENTS / 2, 'most histories succeed');
is(join("\n", grep { !/^(40001|40P01|22012)/ } keys %{ $told->{errors} }), '', 'no errors but those that concurrency brings')
	or diag("replay with MODEL_SEED=$SEED MODEL_TURNS=$TURNS");
is($node->safe_psql('postgres', 'SELECT accepted = flushed + pending + rejected, pending, rejected FROM prompt_stats_status'),
	't|0|0', 'the ledger adds up');
note $node->safe_psql('postgres', 'SELECT accepted, own_folds, own_fold_reasons, groups, flushes FROM prompt_stats_status');
note "seed $SEED";

# Unknown prompts: each refused to its caller, or rejected in the ledger
$node->safe_psql('postgres', "SET prompt_stats.durability = 'async'; SELECT increment_prompt_views($UNKNOWN)") for 1 .. 1;
$node->safe_psql('postgres', 'SELECT prompt_stats_flush()');
is($node->safe_psql('postgres', "SELECT count(*) FROM prompt_stats WHERE prompt_id = $UNKNOWN"), 0, 'an unknown prompt is not counted');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'nothing crashed');
done_testing();
