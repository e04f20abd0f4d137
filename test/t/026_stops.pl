# The flusher is stopped and goes on, again and again, while clients count, are cancelled and
# terminated: what is counted is what was acknowledged [6][27].  025_bounds.pl has the limits as they
# are; here the library is built with shorter ones, so that there is time for many rounds.
# STORM_SECONDS=60 for a longer storm.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(time usleep);

my $CLIENTS = 16;
my $SECONDS = $ENV{STORM_SECONDS} || 12;
my $SILENT_MS = 800;    # an idle flusher gives a sign of life every 500

# ---- the library

my $build = PostgreSQL::Test::Utils::tempdir();
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
chomp(my $pkglibdir = `$pg_config --pkglibdir`);
{
	local $ENV{MAKEFLAGS} = '';
	my $top = "$FindBin::RealBin/../..";
	system_or_bail('cp', '-r', map({ "$top/$_" } qw(Makefile prompt_stats.control sql src)), $build);
	system_or_bail('find', $build, '-name', '*.o', '-delete');
	system_or_bail('make', '-s', '-j2', '-C', $build, 'with_llvm=no', "PG_CONFIG=$pg_config", "COPT=-DPST_SILENT_MS=$SILENT_MS -DPST_LEAVING_MS=500", 'prompt_stats.so');
	system_or_bail('cp', "$pkglibdir/prompt_stats.so", "$build/as_it_was.so");
	install("$build/prompt_stats.so");
}

sub install
{
	my ($from) = @_;
	system_or_bail('cp', $from, "$pkglibdir/prompt_stats.so.new");
	rename "$pkglibdir/prompt_stats.so.new", "$pkglibdir/prompt_stats.so" or die "could not rename: $!";
	return;
}
END { install("$build/as_it_was.so") if -e "$build/as_it_was.so" }

# ---- the server

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q(
	prompt_stats.durability = group
	prompt_stats.flush_interval = '50ms'
	max_connections = 60
	log_statement = none
	log_min_error_statement = panic
	wal_level = replica
	max_wal_senders = 1
	synchronous_standby_names = 'nobody'
	synchronous_commit = local
));
$node->start;
$node->safe_psql('postgres', q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 3000);
	CREATE EXTENSION prompt_stats;
	INSERT INTO prompt_stats (prompt_id) SELECT generate_series(1, 2000);
	CREATE TABLE side (n int);
	CREATE SEQUENCE arrivals;
	CREATE FUNCTION come_to(place text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF pg_backend_pid() <> (SELECT flusher_pid FROM public.prompt_stats_status) THEN
			RETURN;
		ELSIF nextval('public.arrivals') <> 2 THEN
			PERFORM pg_sleep(0.5);
		ELSIF place = 'fold' THEN
			PERFORM pg_sleep(3);
		ELSE
			PERFORM set_config('lock_timeout', '0', true), pg_notify('somebody', 'something');
		END IF;
	END $$;
	CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM public.come_to(TG_ARGV[0]);
		RETURN NEW;
	END $$;
));

my $watch = PromptStats::Connection->new($node, 'watch') // die 'no connection';
sub ask { my $rows = $watch->query($_[0])->{rows}; return @$rows ? join('|', @{ $rows->[0] }) : undef }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }
sub views { return ask("SELECT view_count FROM prompt_stats WHERE prompt_id = $_[0]") }

sub poll
{
	my ($sql, $what) = @_;
	foreach (1 .. 6000)
	{
		return pass($what) if (ask($sql) // '') eq 't';
		usleep(10_000);
	}
	return fail($what);
}

sub get_flusher
{
	poll("SELECT flusher = 'ready' FROM prompt_stats_status, increment_prompt_copies(ARRAY(SELECT generate_series(991::bigint, 999)))", 'there is a flusher');
	return ask('SELECT flusher_pid FROM prompt_stats_status');
}

my %stopped;
END { kill 'CONT', keys %stopped if %stopped }

sub stop
{
	my ($pid) = @_;
	$stopped{$pid} = 1;
	kill 'STOP', $pid;
	return;
}

sub go_on
{
	my ($pid) = @_;
	kill 'CONT', $pid;
	delete $stopped{$pid};
	return;
}

sub client
{
	my $session = PromptStats::Connection->new($node, 'client') // die 'no connection';
	return { session => $session, pid => $session->query('SELECT pg_backend_pid()')->{rows}[0][0] };
}

# A prompt of this group alone, as it has a trigger, and eight that nobody else counts
sub begin
{
	my ($client, $block, $n) = @_;
	$client->{session}->send_query("SELECT increment_prompt_views(ARRAY(SELECT 10 UNION ALL
		SELECT generate_series($block * 10 + 1000, $block * 10 + 1007))::bigint[], $n)");
	return;
}

sub finish
{
	my ($client, $seconds) = @_;
	return $client->{session}->has_answered($seconds // 60) ? outcome($client->{session}->read_result) : 'waits';
}

# Sends a group of these, and stops the flusher when it has come to that place
sub stop_with_group
{
	my ($place, $at, @group) = @_;
	my $first = client();

	ask("SELECT setval('arrivals', 1, false);
		DROP TRIGGER IF EXISTS dawdle ON prompt_stats;
		CREATE TRIGGER dawdle BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 10) EXECUTE FUNCTION dawdle('$place')");
	my $flusher = get_flusher();
	begin($first, 0, 1);
	poll('SELECT is_called FROM arrivals', "$place: the flusher folds");
	begin($group[$_], $_ + 1, 10**($_ + 1)) foreach 0 .. $#group;
	poll('SELECT last_value = 2 FROM arrivals', "$place: and folds the next group");
	poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $flusher AND $at", "$place: it is there");
	stop($flusher);
	is(finish($first), 'ok', "$place: the first group is done");
	return $flusher;
}

# ---- one of a group takes its unit back; another does not, for it is stopped, too

my $before = views(10);
my @group = map { client() } 1 .. 2;
my $flusher = stop_with_group('fold', "wait_event = 'PgSleep'", @group);
my $grouped = ask('SELECT grouped_transactions FROM prompt_stats_status');
stop($group[0]{pid});
poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $group[1]{pid} AND wait_event_type = 'Lock'", 'fold: one takes its unit back');
go_on($flusher);
is(finish($group[1]), 'ok', 'fold: and folds its own');
poll("SELECT grouped_transactions = $grouped + 1 FROM prompt_stats_status", 'fold: the other is folded again');
go_on($group[0]{pid});
is(finish($group[0]), 'ok', 'fold: and told so');
is(views(10) - $before, 111, 'fold: exact');

# ---- in a commit: who is cancelled goes, and what was folded is taken back

my $notifier = client();
$notifier->{session}->query('SET synchronous_commit = on');
$notifier->{session}->send_query("INSERT INTO side VALUES (1); NOTIFY somebody, 'else'");
poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $notifier->{pid} AND wait_event = 'SyncRep'", 'commit: a lock that is held for long');

$before = views(10);
@group = map { client() } 1 .. 3;
$flusher = stop_with_group('commit', "wait_event_type = 'Lock' AND wait_event = 'object'", @group);
ask("SELECT pg_cancel_backend($group[1]{pid}), pg_terminate_backend($group[2]{pid})");
is(finish($group[1]), '57014', 'commit: a cancel comes through');
is(finish($group[2]), '57P01', 'commit: so does a termination');
is(finish($group[0], 2), 'waits', 'commit: else the commit decides');
go_on($flusher);
ask("SELECT pg_cancel_backend($notifier->{pid})");
is(finish($group[0]), 'ok', 'commit: it has committed');
poll("SELECT view_count = $before + 11 FROM prompt_stats WHERE prompt_id = 10", 'commit: what failed is taken back');
ask('DROP TRIGGER dawdle ON prompt_stats');

# ---- the storm

sub work
{
	my ($client, $turn) = @_;
	my $prompt = 12 + int(rand 20);

	return ("SELECT increment_prompt_copies(ARRAY[$prompt, 11]::bigint[], 2)", { "$prompt copies" => 2, '11 copies' => 2 }) if $turn % 8 == 1;
	return ('SELECT increment_prompt_views(ARRAY(SELECT generate_series(41, 60))::bigint[])', { map { ("$_ views" => 1) } 41 .. 60 })
		if $turn % 8 == 3;
	return ("SET LOCAL prompt_stats.durability = async; SELECT increment_prompt_views($prompt)", { "$prompt views" => 1 }) if $turn % 8 == 5;
	return ('SELECT increment_prompt_views(11)', { '11 views' => 1 });
}

sub counted
{
	return map { split /\|/ } split /\n/, $node->safe_psql('postgres', q(
		SELECT prompt_id || ' views', view_count FROM prompt_stats WHERE prompt_id BETWEEN 11 AND 60
		UNION ALL SELECT prompt_id || ' copies', copy_count FROM prompt_stats WHERE prompt_id BETWEEN 11 AND 60));
}

sub strike
{
	my ($how) = @_;
	ask("SELECT $how(pid) FROM pg_stat_activity WHERE application_name LIKE 'client %' AND state = 'active' ORDER BY random() LIMIT 1");
	return;
}

my $load = PromptStats::Load->start($node, $CLIENTS, \&work);
poll('SELECT grouped_transactions > groups + 100 FROM prompt_stats_status', 'groups form');
my $until = time + $SECONDS;
my $rounds = 0;
for (; time < $until; $rounds++)
{
	my $again = time + ($SILENT_MS + rand 400) / 1000;
	$flusher = ask('SELECT flusher_pid FROM prompt_stats_status') || next;
	stop($flusher);

	# Where it holds what the whole server needs these wait for it, too
	while (time < $again)
	{
		strike('pg_cancel_backend');
		strike('pg_terminate_backend') if rand() < 0.05;
		usleep(20_000);
	}
	go_on($flusher);
	usleep(int rand 200_000);
}
note "$rounds stops";
my $told = $load->stop;
ask('SELECT prompt_stats_flush()');

# What failed in a commit is taken back by the flusher, soon
my $differences;
foreach (1 .. 100)
{
	$differences = PromptStats::Load::differences($told, { counted() });
	last if $differences eq '';
	usleep(100_000);
}
is($differences, '', 'the storm: exact');
is(join(', ', grep { !/^57014 canceling statement due to user request/ } keys %{ $told->{errors} }), '', 'the storm: no errors but of cancels');
is(ask('SELECT pending, accepted = flushed + pending + rejected FROM prompt_stats_status'), '0|t', 'the storm: the ledger adds up');
note 'own folds: ' . ask('SELECT own_fold_reasons FROM prompt_stats_status');

# ---- what can't be flushed in time holds up nobody who ends the flusher

ask(q(CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(8); RETURN NEW; END $$));
ask('CREATE TRIGGER doze BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 10) EXECUTE FUNCTION doze()');
$flusher = get_flusher();
$before = views(10);
ask('SET prompt_stats.durability = async');
is(ask('SELECT increment_prompt_views(10)'), '', 'leaving: something is pending');
poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $flusher AND wait_event = 'PgSleep'", 'leaving: but its trigger is slow');
my $offset = -s $node->logfile;
my $began = time;
kill 'TERM', $flusher;
poll("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $flusher", 'leaving: the flusher ends');
cmp_ok(time - $began, '<', 7, 'leaving: soon');
my $log = slurp_file($node->logfile, $offset);
like($log, qr/ended the prompt_stats flusher, for it did not flush what is pending within 3 s/, 'leaving: the log says why');
like($log, qr/could not flush counts of prompt 10: .*\n.*DETAIL:  1 views/, 'leaving: and what');
is(views(10), $before, 'leaving: it is not counted');
ask('DROP TRIGGER doze ON prompt_stats');
poll("SELECT view_count = $before + 1 FROM prompt_stats WHERE prompt_id = 10", 'leaving: another flusher counts it');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|deadlock detected|could not take back|terminated by signal/, 'nothing crashed');
done_testing();
