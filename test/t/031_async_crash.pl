# Durability "async" when the server ends: a crash loses what the ledger calls
# pending, and no more; a shutdown loses nothing [4][6].  CRASH_ROUNDS=1 for a short
# look.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(usleep);

my $ROUNDS = $ENV{CRASH_ROUNDS} || 3;    # of each kind

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq(
	prompt_stats.durability = async
	restart_after_crash = on
	max_connections = 100
	log_statement = none
));
$node->start;
$node->safe_psql('postgres', q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 100);
	CREATE EXTENSION prompt_stats;
	INSERT INTO prompt_stats (prompt_id) SELECT generate_series(1, 90);
));

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub session { return PromptStats::Connection->new($node, 'test') // die 'no connection' }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }
sub status { return sql("SELECT $_[0] FROM prompt_stats_status") }
sub flush { sql('SELECT prompt_stats_flush()'); return }
sub views { return sql("SELECT view_count FROM prompt_stats WHERE prompt_id = $_[0]") }
sub counted { return map { split /\|/ } split /\n/, sql("SELECT prompt_id || ' views', view_count FROM prompt_stats") }

my $TABLE = 'SELECT sum(view_count + copy_count + fork_count) FROM prompt_stats';
my $LEDGER = 'accepted = flushed + pending + rejected';

# What is in the table, as the ledger tells
my $FOLDED = 'flushed + own_folds';

# Calls until there is a flusher, which the first call starts
sub wait_for_flusher
{
	foreach (1 .. 1800)
	{
		sql('SELECT increment_prompt_copies(1)');
		return ok(1, 'there is a flusher') if status('flusher') eq 'ready';
		usleep(100_000);
	}
	return ok(0, 'there is a flusher');
}

# A flusher that has flushed twice since the server knew of it goes by it
sub set_interval
{
	my ($interval) = @_;
	$node->append_conf('postgresql.conf', "prompt_stats.flush_interval = '$interval'");
	$node->reload;
	ok($node->poll_query_until('postgres', "SELECT current_setting('prompt_stats.flush_interval') = '$interval'"),
		"flushed each $interval");
	foreach (1 .. 2)
	{
		wait_for_flusher();
		flush();
	}
	return;
}

# One hot prompt, and others; mostly more than one count
sub work
{
	my ($client, $turn) = @_;
	my $id = $turn % 2 ? 1 : 2 + int(rand 50);
	my $n = 1 + $turn % 3;
	return ("SELECT increment_prompt_views($id, $n)", { "$id views" => $n });
}

sub load { return PromptStats::Load->start($node, $_[0], \&work) }

sub progress
{
	my ($what, $n) = @_;
	my $since = status('accepted');
	ok($node->poll_query_until('postgres', "SELECT accepted > $since + $n FROM prompt_stats_status"), $what);
	return;
}

sub pid_of
{
	my ($type) = @_;
	my $pid = '';
	foreach (1 .. 1000)
	{
		$pid = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'
			AND (backend_type <> 'client backend' OR application_name LIKE 'client %') ORDER BY random() LIMIT 1");
		return $pid if $pid ne '';
		usleep(10_000);
	}
	die "no $type";
}

# ---- a crash: the ledger says what is lost

set_interval('20ms');
my $load = load(8);
progress('counting', 3000);
$load->stop;
flush();
set_interval('1h');
my $had = views(60);
my $session = session();
my @failed = grep { $_ ne 'ok' } map { outcome($session->query('SELECT increment_prompt_views(60)')) } 1 .. 50;
is("@failed", '', 'fifty more');
my ($folded, $pending, $since) = split /\|/, status("$FOLDED, pending, ledger_since");
is($pending, 50, 'they are pending');
$node->stop('immediate');
$node->start;
is(sql($TABLE), $folded, 'crash: what was flushed is there');
is($had + 50 - views(60), $pending, 'crash: lost is what was pending, and no more');
is(status("accepted, flushed, pending, rejected, own_folds, ledger_since > '$since'"), '0|0|0|0|0|t', 'crash: a new ledger begins');

# ---- under load: what was flushed when the ledger was last read is there

# Its last word before a crash
sub watch_ledger
{
	my ($since) = @_;
	my $watcher = session();
	my $last = $since;
	foreach (1 .. 60_000)
	{
		my $result = $watcher->query("SELECT $FOLDED FROM prompt_stats_status");
		$last = $result->{rows}[0][0];
		last if $last > $since + 2000;
		usleep(3_000);
	}
	cmp_ok($last, '>', $since + 2000, 'counts are flushed');
	return $last;
}

# Each finds its victim first, so that little happens between that word and the crash
sub kill_one
{
	my $pid = pid_of($_[0]);
	return sub { kill 'KILL', $pid };
}
my %ways = (
	'immediate stop' => sub { sub { $node->stop('immediate'); $node->start } },
	'kill -9 of the flusher' => sub { kill_one('prompt_stats flusher') },
	'kill -9 of a backend' => sub { kill_one('client backend') },
);

set_interval('20ms');
foreach my $way ((sort keys %ways) x $ROUNDS)
{
	wait_for_flusher();
	flush();
	my %before = counted();
	my $in_table = sql($TABLE);
	my ($ledger, $began) = split /\|/, status("$FOLDED, ledger_since");
	$load = load(8);
	my $crash = $ways{$way}->();
	my $last = watch_ledger($ledger) - $ledger;
	$crash->();
	ok($node->poll_query_until('postgres', "SELECT ledger_since > '$began' FROM prompt_stats_status"), "$way: a new ledger begins");
	ok($node->poll_query_until('postgres', 'SELECT flushed > 100 FROM prompt_stats_status'), "$way: counts are flushed again");
	my $told = $load->stop;
	flush();

	cmp_ok(sql($TABLE) - $in_table, '>=', $last + status($FOLDED), "$way: what was flushed is there");
	my %counted = counted();
	$counted{$_} -= $before{$_} foreach keys %before;
	my @excess = grep { $counted{$_} > ($told->{acked}{$_} // 0) + ($told->{in_flight}{$_} // 0) } keys %counted;
	is("@excess", '', "$way: nothing is counted twice");
	cmp_ok($told->{lost}, '>=', 1, "$way: connections were lost");
	is(join(' ', keys %{ $told->{errors} }), '', "$way: no errors");
	is(status("pending, $LEDGER"), '0|t', "$way: the ledger adds up");
}

# ---- a shutdown, or the end of the flusher: nothing is lost

sub check_nothing_lost
{
	my ($told, $before, $name) = @_;
	my %counted = counted();
	$counted{$_} -= $before->{$_} foreach keys %$before;
	is(PromptStats::Load::differences($told, \%counted), '', "$name: nothing is lost");
	is(join(' ', keys %{ $told->{errors} }), '', "$name: no errors");
	return;
}

set_interval('1h');
my %before = counted();
$load = load(8);
foreach my $turn (1 .. 5)
{
	progress("counting before turn $turn", 500);
	my $pid = status('flusher_pid');
	kill 'TERM', $pid;
	ok($node->poll_query_until('postgres', "SELECT flusher = 'ready' AND flusher_pid <> $pid FROM prompt_stats_status"),
		'terminated, it is followed by another');
}
my $told = $load->stop;
flush();
check_nothing_lost($told, \%before, 'termination of the flusher');
is(status("pending, $LEDGER"), '0|t', 'termination of the flusher: the ledger adds up');

foreach my $interval ('1h', '1ms', '1h', '20ms')
{
	set_interval($interval);
	%before = counted();
	$load = load(32);
	progress("counting before a fast shutdown, flushed each $interval", 3000);
	$node->stop('fast');
	$told = $load->stop;
	$node->start;
	check_nothing_lost($told, \%before, 'fast shutdown');
}

# It waits for the sessions, which count on
set_interval('1h');
%before = counted();
my $log = -s $node->logfile;
$load = load(32);
ok($node->poll_query_until('postgres', "SELECT count(*) = 32 FROM pg_stat_activity WHERE application_name LIKE 'client %'"), 'all are connected');
progress('counting before a smart shutdown', 3000);
system_or_bail('pg_ctl', '-D', $node->data_dir, '-m', 'smart', '-W', 'stop');
foreach (1 .. 1800)
{
	last if slurp_file($node->logfile, $log) =~ /received smart shutdown request/;
	usleep(100_000);
}
like(slurp_file($node->logfile, $log), qr/received smart shutdown request/, 'smart shutdown');
$told = $load->stop;
foreach (1 .. 1800)
{
	last unless -e $node->data_dir . '/postmaster.pid';
	usleep(100_000);
}
ok(!-e $node->data_dir . '/postmaster.pid', 'smart shutdown: it ends when the sessions do');
$node->{_pid} = undef;
$node->start;
check_nothing_lost($told, \%before, 'smart shutdown');
is($told->{lost}, 0, 'smart shutdown: no connection lost');

$node->stop;
unlike(slurp_file($node->logfile), qr/deadlock detected|PANIC|TRAP:|terminated by signal (?!9)/, 'nothing else crashed');
done_testing();
