# Whatever is killed while a group is under way: acknowledged <= counted <=
# acknowledged + in flight, for each crash by itself [6]; and a transaction that
# also writes, both or neither [5].  CRASH_ROUNDS=1 for a short look.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(usleep);

my $CLIENTS = 64;
my $ROUNDS = $ENV{CRASH_ROUNDS} || 5;    # of each kind

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq(
	prompt_stats.durability = group
	restart_after_crash = on
	max_connections = 100
	log_statement = none
	log_min_error_statement = panic
	log_error_verbosity = terse
	wal_level = replica
	max_wal_senders = 1
));
$node->start;
$node->safe_psql('postgres', q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 100);
	CREATE EXTENSION prompt_stats;
	CREATE TABLE side (prompt_id bigint NOT NULL, n bigint NOT NULL);
));

# Mostly one hot prompt; a unit of two; some that also write, and some that fail
sub work
{
	my ($client, $turn) = @_;
	my $kind = $turn % 8;
	my $prompt = 2 + int(rand 20);

	return ("SELECT increment_prompt_copies(ARRAY[$prompt, 1]::bigint[], 2)",
		{ "$prompt copies" => 2, '1 copies' => 2 }) if $kind == 1;
	return ("SELECT increment_prompt_views($prompt + 20); INSERT INTO side VALUES ($prompt + 20, 1)",
		{ ($prompt + 20) . ' views' => 1, ($prompt + 20) . ' side' => 1 }) if $kind == 3;
	return ("SELECT increment_prompt_views(ARRAY[1, 99999]::bigint[])", {}) if $kind == 5 && $client % 8 == 0;
	return ('SELECT increment_prompt_views(1)', { '1 views' => 1 });
}

my $STATS = q(
	SELECT prompt_id || ' views', view_count FROM prompt_stats
	UNION ALL SELECT prompt_id || ' copies', copy_count FROM prompt_stats
	UNION ALL SELECT prompt_id || ' side', sum(n) FROM side GROUP BY prompt_id);

sub counted { return map { split /\|/ } split /\n/, $node->safe_psql('postgres', $STATS) }

sub kill_one
{
	my ($signal, $type) = @_;
	my $pid = "SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'
		AND (backend_type <> 'client backend' OR application_name LIKE 'client %') ORDER BY random() LIMIT 1";

	PromptStats::wait_until($node, "SELECT true WHERE EXISTS ($pid)") or die "no $type";
	kill $signal, PromptStats::ask($node, $pid) // die "no $type";
	return;
}

# It takes all along
sub crash_one
{
	my ($type) = @_;
	my $offset = -s $node->logfile;

	kill_one('KILL', $type);
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	return;
}

# Not before the last of its children has gone
sub start_again
{
	foreach (1 .. 1800)
	{
		return if $node->start(fail_ok => 1);
		$node->{_pid} = undef;    # it has read the file that the dead one left
		usleep(100_000);
	}
	die 'the server does not start';
}

my %ways = (
	'kill -9 of the postmaster' => sub { $node->kill9; start_again() },
	'kill -9 of a backend' => sub { crash_one('client backend') },
	'kill -9 of the flusher' => sub { crash_one('prompt_stats flusher') },
	'termination of the flusher' => sub { kill_one('TERM', 'prompt_stats flusher') },
	'immediate stop' => sub { $node->stop('immediate'); $node->start },
	'fast stop' => sub { $node->stop('fast'); $node->start },
);

# Groups of several, not only calls
sub wait_for_groups
{
	my ($what) = @_;
	PromptStats::wait_until($node, 'SELECT true') or die 'no server';
	my ($groups, $grouped) = map { PromptStats::ask($node, "SELECT $_ FROM prompt_stats_status") } qw(groups grouped_transactions);
	ok(PromptStats::wait_until($node, "SELECT grouped_transactions > $grouped + 200
		AND grouped_transactions - $grouped > groups - $groups + 100 FROM prompt_stats_status"), $what);
	return;
}

# Each way by itself: what one lost, another can't make up for
my $load = PromptStats::Load->start($node, $CLIENTS, \&work);
my %before;
wait_for_groups('groups form');
foreach my $round (1 .. $ROUNDS)
{
	foreach my $way (sort keys %ways)
	{
		my $name = "round $round, $way";

		$ways{$way}->();
		wait_for_groups("$name: groups form again");
		my $told = $load->pause;
		my %now = counted();
		my %counted = map { $_ => $now{$_} - ($before{$_} // 0) } keys %now;
		%before = %now;
		$load->resume;

		is(PromptStats::Load::differences($told, \%counted), '', "$name: exact");
		my $survive = $way eq 'termination of the flusher';
		is($told->{lost} > 0, !$survive, "$name: " . ($survive ? 'no connection was lost' : 'connections were lost'));
		is(join(' ', grep { !/^23503/ } keys %{ $told->{errors} }), '', "$name: no error but for unknown prompts");
		my @torn = grep { /side/ && $counted{$_} != ($counted{ s/side/views/r } // 0) } keys %counted;
		is("@torn", '', "$name: counts and writes together");
	}
}
$load->stop;

# ---- in the midst of one that counts and writes

$node->safe_psql('postgres', q(
	INSERT INTO prompt_stats (prompt_id) VALUES (50);
	CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
	CREATE TRIGGER stall BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 50) EXECUTE FUNCTION stall();
));

sub session { return PromptStats::Connection->new($node, 'test') // die 'no connection' }

# Counted, and written
sub both
{
	return $node->safe_psql('postgres', q(SELECT view_count, (SELECT count(*) FROM side WHERE prompt_id = 50)
		FROM prompt_stats WHERE prompt_id = 50));
}

# Crashes while it hangs at this
sub crash_at
{
	my ($sql, $event, $name) = @_;
	my $session = session();

	$session->send_query($sql);
	ok(PromptStats::wait_until($node, "SELECT count(*) = 1 FROM pg_stat_activity
		WHERE wait_event = '$event' AND backend_type = 'client backend'"), $name);
	$node->stop('immediate');
	is($session->read_result->{outcome}, 'lost', "$name: not acknowledged");
	return;
}

my $done = 0;
foreach my $mode (qw(group async transaction))
{
	my $mixed = "BEGIN; SET LOCAL prompt_stats.durability = '$mode'; INSERT INTO side VALUES (50, 1);
		SELECT increment_prompt_views(50); COMMIT";

	my $locker = session();
	$locker->query('SELECT pg_advisory_lock(1)');
	crash_at($mixed, 'advisory', "$mode: crash in the fold");
	$node->start;
	is(both(), "$done|$done", "$mode: neither");

	# It has committed, but is not told so before a standby has it
	$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
	$node->restart;
	crash_at($mixed, 'SyncRep', "$mode: crash in the commit");
	$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
	$node->start;
	$done++;
	is(both(), "$done|$done", "$mode: both");

	is(session()->query($mixed)->{outcome}, 'ok', "$mode: committed");
	$node->stop('immediate');
	$node->start;
	$done++;
	is(both(), "$done|$done", "$mode: crash after the commit: both");
}

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|deadlock detected|terminated by signal (?!9)/, 'nothing else crashed');
done_testing();
