# A model: random histories of calls, savepoints, rollbacks, modes, prepared
# transactions, unknown and deleted prompts, and flushes, in concurrent sessions; what
# they were told makes the sums [3][4][5][6][7][8].
#
# Each history is made from MODEL_SEED, which is printed; with it the same histories are
# replayed, but not how the sessions meet, which is up to the server.  MODEL_TURNS makes
# more.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(usleep);

my $SEED = $ENV{MODEL_SEED} // int(rand 1_000_000);
my $TURNS = $ENV{MODEL_TURNS} // 2000;
my $CLIENTS = 12;
my $REPLAY = "replay with MODEL_SEED=$SEED MODEL_TURNS=$TURNS";
note $REPLAY;

# Those that stay, those that are deleted and made again, and those that never are
my @STAY = 1 .. 10;
my @COME_AND_GO = 11 .. 12;
my @NEVER = 13 .. 15;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq(
	prompt_stats.flush_interval = '10ms'
	deadlock_timeout = '50ms'
	statement_timeout = '60s'
	max_connections = 50
	max_prepared_transactions = $CLIENTS
	log_statement = none
));
$node->start;
$node->safe_psql('postgres', qq(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, $COME_AND_GO[-1]);
	CREATE EXTENSION prompt_stats;
	CREATE TABLE side (key text, n bigint);
));

my @COUNTERS = (
	[ 'increment_prompt_views', 'views' ],
	[ 'increment_prompt_copies', 'copies' ],
	[ 'increment_fork_count', 'forks' ]);
my @MODES = ('group', 'group', 'async', 'async', 'transaction');

sub pick { return $_[ int rand @_ ] }

# Mostly of those that stay
sub pick_id
{
	my $what = rand;
	return $what < 0.05 ? pick(@COME_AND_GO) : $what < 0.07 ? pick(@NEVER) : pick(@STAY);
}

# One call: its SQL, and what it counts
sub call
{
	my ($function, $counter) = @{ pick(@COUNTERS) };
	my $n = pick(1, 1, 1, 2, 5, 0);
	my @ids = map { pick_id() } 1 .. pick(1, 1, 1, 1, 2, 5);
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

# What may be rejected once its caller has gone on has one sum, with what is rejected:
# counts of prompts that never are, if all is async, and of those that come and go
sub expectation
{
	my ($counts, $is_async) = @_;
	my %expected;

	foreach my $key (keys %$counts)
	{
		my ($id) = $key =~ /^(\d+) /;
		my $is_open = defined $id && $id > $STAY[-1] && ($id <= $COME_AND_GO[-1] || $is_async);
		$expected{ $is_open ? 'open' : $key } += $counts->{$key};
	}
	return \%expected;
}

# Its rows go by cascade; what they held is noted
sub deletion
{
	my ($id) = @_;
	return qq{BEGIN; SELECT FROM prompts WHERE id = $id FOR UPDATE;
		WITH held AS (SELECT * FROM prompt_stats WHERE prompt_id = $id FOR UPDATE)
		INSERT INTO side SELECT prompt_id || c, n FROM held,
		LATERAL (VALUES (' views', view_count), (' copies', copy_count), (' forks', fork_count)) AS v (c, n);
		DELETE FROM prompts WHERE id = $id; COMMIT};
}

# Of one client: the durability of its session, and what it has prepared
my $session_mode = 'group';
my $prepared;

# A transaction of several statements
sub transaction
{
	my ($client, $turn) = @_;
	my $isolation = pick('', '', ' ISOLATION LEVEL REPEATABLE READ', ' ISOLATION LEVEL SERIALIZABLE');
	my $mode = $session_mode;
	my $is_async = $isolation !~ /SERIALIZABLE/;
	my @sql = ("BEGIN$isolation");
	my %counts;

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
		$is_async &&= $mode eq 'async' || !grep { $_ > 0 } values %$counts;
		push @sql, "SET LOCAL prompt_stats.durability = '" . ($mode = pick(@MODES)) . "'" if rand() < 0.2;
		push @sql, "INSERT INTO side VALUES ('side $client', 1)" and $counts{"side $client"}++ if rand() < 0.1;
	}
	$is_async &&= !$counts{"side $client"};

	my $end = rand;
	return (join('; ', @sql, 'ROLLBACK'), {}) if $end < 0.2;
	return (join('; ', @sql, 'SELECT 1/0', 'COMMIT'), {}) if $end < 0.25;

	# Not with the last turn: others would wait for it
	return (join('; ', @sql, 'COMMIT'), expectation(\%counts, $is_async)) if $end < 0.95 || $turn >= $TURNS - 1;
	$prepared = { name => "$client $turn", counts => expectation(\%counts, 0) };
	return (join('; ', @sql, "PREPARE TRANSACTION '$prepared->{name}'"), {});
}

# A failed transaction has to be ended; the next query does
sub history
{
	my ($client, $turn) = @_;

	# That is to be a query by itself
	if (defined $prepared)
	{
		my ($name, $counts) = @$prepared{qw(name counts)};
		undef $prepared;
		return pick(0, 1) ? ("COMMIT PREPARED '$name'", $counts) : ("ROLLBACK PREPARED '$name'", {});
	}

	my $what = rand;
	my ($sql, $counts);
	if ($what < 0.01)
	{
		($sql, $counts) = ('SELECT prompt_stats_flush()', {});
	}
	elsif ($what < 0.1)
	{
		$session_mode = pick(@MODES);
		($sql, $counts) = ("SET prompt_stats.durability = '$session_mode'", {});
	}
	elsif ($what < 0.12)
	{
		# What is deleted is noted, in one statement
		my $victim = pick(@STAY);
		($sql, $counts) = (qq{WITH gone AS (DELETE FROM prompt_stats WHERE prompt_id = $victim RETURNING *)
			INSERT INTO side SELECT prompt_id || c, n FROM gone,
			LATERAL (VALUES (' views', view_count), (' copies', copy_count), (' forks', fork_count)) AS v (c, n)}, {});
	}
	elsif ($what < 0.15)
	{
		my $id = pick(@COME_AND_GO);
		($sql, $counts) = (pick(deletion($id), ("INSERT INTO prompts VALUES ($id) ON CONFLICT DO NOTHING") x 2), {});
	}
	elsif ($what < 0.5)
	{
		($sql, $counts) = call();
		$counts = expectation($counts, $session_mode eq 'async');
	}
	else
	{
		($sql, $counts) = transaction($client, $turn);
	}
	return ("ROLLBACK; $sql", $counts);
}

sub work
{
	my ($client, $turn) = @_;
	srand($SEED * 1000 + $client) if $turn == 0;
	return history($client, $turn);
}

# What a client will do, from its seed
sub first_histories
{
	my @histories = map { (work(1, $_))[0] } 0 .. 99;
	($session_mode, $prepared) = ('group', undef);
	return join "\n", @histories;
}
is(first_histories(), first_histories(), 'the same seed makes the same histories');

my $load = PromptStats::Load->start($node, $CLIENTS, \&work, $TURNS);
my $told = $load->finish;
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), 0, 'what was prepared has ended');
$node->safe_psql('postgres', 'SELECT prompt_stats_flush()');
my $rejected = $node->safe_psql('postgres', 'SELECT rejected FROM prompt_stats_status');
my %counted = map { split /\|/ } split /\n/, $node->safe_psql('postgres', q(
	SELECT key, sum(n) FROM (
		SELECT key, n FROM side
		UNION ALL SELECT prompt_id || ' views', view_count FROM prompt_stats
		UNION ALL SELECT prompt_id || ' copies', copy_count FROM prompt_stats
		UNION ALL SELECT prompt_id || ' forks', fork_count FROM prompt_stats) AS x
	GROUP BY key));
my $expected = expectation(\%counted, 0);
$expected->{open} += $rejected;
is(PromptStats::Load::differences($told, $expected), '', 'the model and the table agree') or diag($REPLAY);
cmp_ok($told->{calls}, '>', $TURNS * $CLIENTS / 2, 'most histories succeed');

# Where there is nothing prepared, or a block that failed, an error has kept it from being prepared
my @errors = keys %{ $told->{errors} };
my $EXPECTED = qr/^(40001|40P01|22012|42704 prepared transaction|25P02|23503 .*prompt_stats.* Key \(prompt_id\)=\(1[1-5]\))/;
is(join("\n", grep { !/$EXPECTED/ } @errors), '', 'no errors but those that are to be expected') or diag($REPLAY);
cmp_ok(scalar(grep { /^23503/ } @errors), '>', 0, 'some were told that there is no such prompt');
cmp_ok($rejected, '>', 0, 'some had gone on by then');
is($node->safe_psql('postgres', 'SELECT accepted = flushed + pending + rejected, pending FROM prompt_stats_status'),
	't|0', 'the ledger adds up');
note $node->safe_psql('postgres', 'SELECT accepted, rejected, own_folds, own_fold_reasons, groups, flushes FROM prompt_stats_status');

# Unknown prompts: refused to their caller, or rejected in the ledger, with what else there is untouched
sub outcome
{
	my ($mode, $sql) = @_;
	my $session = PromptStats::Connection->new($node, 'test') // die 'no connection';
	$session->query("SET prompt_stats.durability = '$mode'");
	my $result = $session->query($sql);
	return $result->{sqlstate} // $result->{outcome};
}
my $TABLE = 'SELECT sum(view_count + copy_count + fork_count) FROM prompt_stats';
my $sum = $node->safe_psql('postgres', $TABLE);
foreach my $mode ('group', 'transaction')
{
	is(outcome($mode, "SELECT increment_prompt_views(ARRAY[1, $_]::bigint[], 3)"), '23503', "$mode: no prompt $_") foreach @NEVER;
}
is($node->safe_psql('postgres', $TABLE), $sum, 'refused as a whole');
my $had = $node->safe_psql('postgres', 'SELECT coalesce(sum(view_count), 0) FROM prompt_stats WHERE prompt_id = 1');


# Calls until there is a flusher; then in the same session
my $session = PromptStats::Connection->new($node, 'test') // die 'no connection';
$session->query("SET prompt_stats.durability = 'async'");
foreach (1 .. 1800)
{
	$session->query('SELECT increment_prompt_copies(2)');
	last if $session->query('SELECT flusher FROM prompt_stats_status')->{rows}[0][0] eq 'ready';
	usleep(100_000);
}
is(join(' ', map { $session->query("SELECT increment_prompt_views(ARRAY[1, $_]::bigint[], 3)")->{outcome} } @NEVER), 'ok ok ok', 'async: nobody is told');
$session->query('SELECT prompt_stats_flush()');
is($session->query("SELECT rejected - $rejected FROM prompt_stats_status")->{rows}[0][0], 3 * @NEVER, 'async: rejected, exactly');
is($node->safe_psql('postgres', 'SELECT view_count FROM prompt_stats WHERE prompt_id = 1') - $had, 3 * @NEVER, 'and the prompt beside them is counted');

$node->stop;

# Sessions that hold several rows may meet in a deadlock, and are told so; the flusher's group may not
unlike(slurp_file($node->logfile), qr/could not fold a group: deadlock|PANIC|TRAP:|terminated by signal/, 'nothing crashed');
done_testing();
