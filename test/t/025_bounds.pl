# Every wait has an end [27]: whatever a trigger does, and when the flusher is stopped at any
# moment; and when it goes on, nothing counts twice and nothing is lost [6].  With the limits as
# they are: a transaction of the flusher is cancelled after 10 s and ended after 13 s, and one
# that gives no sign of life for 20 s is not waited for any more.  To save time each case has a
# database, hence a flusher, and they wait together.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q(
	prompt_stats.durability = group
	prompt_stats.flush_interval = '1h'
	max_connections = 100
	max_worker_processes = 20
	log_statement = none
	log_min_error_statement = panic
	wal_level = replica
	max_wal_senders = 1
	synchronous_standby_names = 'nobody'
	synchronous_commit = local
));
$node->start;

# ---- the cases

my @DATABASES = qw(evil late queued taken committing);

sub sql { return $node->safe_psql($_[0], $_[1]) }
sub ask { my $rows = $_[0]->query($_[1])->{rows}; return @$rows ? join('|', @{ $rows->[0] }) : undef }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }

sql('postgres', q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 3000);
	CREATE EXTENSION prompt_stats;
	INSERT INTO prompt_stats (prompt_id) SELECT generate_series(1, 2000);
	CREATE TABLE side (n int);
	INSERT INTO side VALUES (0);
	CREATE VIEW sums AS SELECT sum(view_count) AS views, sum(copy_count) AS copies FROM prompt_stats
		WHERE prompt_id NOT BETWEEN 991 AND 999;	-- which bring a flusher
));
sql('template1', "CREATE DATABASE $_ TEMPLATE postgres") foreach @DATABASES;

# Sees what all others do
my $watch = PromptStats::Connection->new($node, 'watch') // die 'no connection';
my %ask_in = map { $_ => PromptStats::Connection->new($node, 'ask', database => $_) // die 'no connection' } 'postgres', @DATABASES;

sub poll
{
	my ($sql, $what, $where) = @_;
	foreach (1 .. 6000)
	{
		return pass($what) if (ask($where // $watch, $sql) // '') eq 't';
		usleep(10_000);
	}
	return fail($what);
}

# A client: its session, and when it has asked
sub client
{
	my ($database, $settings) = @_;
	my $session = PromptStats::Connection->new($node, 'client', $database ? (database => $database) : ()) // die 'no connection';
	$session->query($settings) if defined $settings;
	return { session => $session, pid => ask($session, 'SELECT pg_backend_pid()') };
}

sub begin
{
	my ($client, $sql) = @_;
	$client->{began} = time;
	$client->{session}->send_query($sql);
	return;
}

# Its outcome, and how many seconds it took
sub finish
{
	my ($client, $limit) = @_;
	my $answered = $client->{session}->has_answered($limit);
	$client->{took} = time - $client->{began};
	return $answered ? outcome($client->{session}->read_result) : 'waits';
}

# The sum over its rows is exactly this
sub counts_are
{
	my ($database, $expected, $what) = @_;
	is(ask($ask_in{$database}, 'SELECT views FROM sums'), $expected, $what);
	return;
}

# Many prompts go to the flusher also of who is alone; eight from a thousand on that nobody else
# counts, and this
sub list
{
	my ($prompt, $block, $n) = @_;
	return "SELECT increment_prompt_views(ARRAY(SELECT $prompt UNION ALL
		SELECT generate_series($block * 10 + 1000, $block * 10 + 1007))::bigint[], $n)";
}

sub flusher_of
{
	my ($database) = @_;
	return ask($watch, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'prompt_stats flusher' AND datname = '$database'");
}

sub get_flusher
{
	my ($database) = @_;
	poll("SELECT flusher = 'ready' FROM prompt_stats_status, increment_prompt_copies(ARRAY(SELECT generate_series(991::bigint, 999)))",
		"$database: a flusher", $ask_in{$database});
	return flusher_of($database);
}

my %stopped;
END { kill 'CONT', keys %stopped if %stopped }

sub stop
{
	my ($pid) = @_;
	$stopped{$pid} = 1;
	kill 'STOP', $pid;
	foreach (1 .. 1000)
	{
		return if `ps -o stat= -p $pid` =~ /^T/;
		usleep(1_000);
	}
	die "process $pid does not stop";
}

sub go_on
{
	my ($pid) = @_;
	kill 'CONT', $pid;
	delete $stopped{$pid};
	return;
}

sub is_gone
{
	my ($pid, $seconds) = @_;
	my $until = time + $seconds;
	while (time < $until)
	{
		return 1 if ask($watch, "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") == 0;
		usleep(10_000);
	}
	return;
}

my $EVENTS = "wait_event IN ('Extension', 'PromptStatsGroup')";

sub wait_for_waiters
{
	my ($database, $n) = @_;
	return poll("SELECT count(*) = $n FROM pg_stat_activity WHERE $EVENTS AND datname = '$database' AND backend_type = 'client backend'",
		"$database: $n wait");
}

# Its trigger can't be cancelled, neither in the flusher nor elsewhere
sql($_, q(
	CREATE TABLE gate (shut boolean);
	INSERT INTO gate VALUES (true);
	CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		WHILE (SELECT shut FROM public.gate) LOOP
			BEGIN
				PERFORM pg_sleep(0.1);
			EXCEPTION WHEN query_canceled THEN
				NULL;
			END;
		END LOOP;
		RETURN NEW;
	END $$;
	CREATE TRIGGER hold BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 10) EXECUTE FUNCTION hold();
)) foreach qw(evil late);

# The flusher takes its time at this prompt, so that others queue; then it comes to a place where it
# can be stopped.  Nobody else does.
sub slow_trigger
{
	my ($place) = @_;
	return qq(
		CREATE SEQUENCE arrivals;
		CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			IF pg_backend_pid() = (SELECT flusher_pid FROM public.prompt_stats_status) THEN
				IF nextval('public.arrivals') = 1 THEN
					PERFORM pg_sleep(2);
				ELSE
					$place;
				END IF;
			END IF;
			RETURN NEW;
		END \$\$;
		CREATE TRIGGER dawdle BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 10) EXECUTE FUNCTION dawdle());
}
sql('taken', slow_trigger('PERFORM pg_sleep(5)'));

# A lock that the server takes after the pre-commit callbacks (async.c: PreCommit_Notify)
sql('committing', slow_trigger(q(PERFORM set_config('lock_timeout', '0', true), pg_notify('somebody', 'something'))));
my $notifier = client('committing', 'SET synchronous_commit = on');
begin($notifier, "UPDATE side SET n = 1; NOTIFY somebody, 'else'");
poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $notifier->{pid} AND wait_event = 'SyncRep'", 'committing: a lock that is held for long');

# Sends a group of these, while the flusher is busy with another
sub send_group
{
	my ($database, $first, @group) = @_;
	begin($first, list(10, 1, 1));
	poll('SELECT is_called FROM arrivals', "$database: the flusher folds", $ask_in{$database});
	begin($group[$_], list(10, $_ + 2, 10**($_ + 1))) foreach 0 .. $#group;
	poll('SELECT last_value = 2 FROM arrivals', "$database: and folds the next group", $ask_in{$database});
	is(finish($first, 30), 'ok', "$database: the first group is done");
	return;
}

sub work
{
	my ($client, $turn) = @_;
	my $prompt = 2 + int(rand 20);

	return ("SELECT increment_prompt_copies(ARRAY[$prompt, 1]::bigint[], 2)", { copies => 4 }) if $turn % 8 == 1;
	return (list(1, $client, 1), { views => 9 }) if $turn % 8 == 3;
	return ('SELECT increment_prompt_views(1)', { views => 1 });
}

# ---- the flusher is stopped: anywhere under load

# Not while it has a lock that the whole server needs, which is what any process can do
sub stop_under_load
{
	foreach (1 .. 100)
	{
		my $pid = get_flusher('postgres');
		my $other = client('postgres');
		usleep(int rand 300_000);
		stop($pid);
		begin($other, 'UPDATE side SET n = n + 1; SELECT pending FROM prompt_stats_status');
		return $pid if finish($other, 3) eq 'ok';
		note 'the server stands still';
		go_on($pid);
	}
	return;
}

my $load = PromptStats::Load->start($node, 12, \&work);
poll('SELECT grouped_transactions > groups + 100 FROM prompt_stats_status', 'groups form', $ask_in{postgres});
my %flusher = (postgres => stop_under_load());

# ---- while nothing is queued

my $async = client('queued', 'SET prompt_stats.durability = async');
$flusher{queued} = get_flusher('queued');
is(outcome($async->{session}->query('SELECT increment_prompt_views(2, 5)')), 'ok', 'queued: something is pending');
stop($flusher{queued});
my %queued = (plain => client('queued'), short => client('queued', "SET statement_timeout = '2s'"), big => client('queued'), flush => client('queued'));
begin($queued{plain}, list(10, 1, 1));
begin($queued{short}, list(10, 2, 100));
begin($queued{big}, 'SELECT increment_prompt_views(ARRAY(SELECT generate_series(1000::bigint, 1399)), 10)');
begin($queued{flush}, 'SELECT prompt_stats_flush()');

# ---- in the midst of a fold

$flusher{taken} = get_flusher('taken');
my %taken = map { $_ => client('taken') } qw(first plain terminated next);
$taken{short} = client('taken', "SET statement_timeout = '3s'");
send_group('taken', @taken{qw(first plain short terminated)});
stop($flusher{taken});
begin($taken{next}, list(20, 6, 10000));
ask($watch, "SELECT pg_terminate_backend($taken{terminated}{pid})");

# ---- in the midst of a commit

$flusher{committing} = get_flusher('committing');
my %committing = map { $_ => client('committing') } qw(first plain canceled terminated next);
send_group('committing', @committing{qw(first plain canceled terminated)});
poll("SELECT count(*) = 1 FROM pg_locks WHERE pid = $flusher{committing} AND locktype = 'object' AND NOT granted", 'committing: it commits');
stop($flusher{committing});
begin($committing{next}, list(20, 6, 10000));
ask($watch, "SELECT pg_cancel_backend($committing{canceled}{pid}), pg_terminate_backend($committing{terminated}{pid})");

# ---- a trigger that can't be cancelled (the others wait meanwhile)

$flusher{evil} = get_flusher('evil');
my @evil = (client('evil', "SET statement_timeout = '1s'"), client('evil'), client('evil'));
begin($evil[$_], list(10, $_, 10**$_)) foreach 0 .. 2;
poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $flusher{evil} AND wait_event = 'PgSleep'", 'evil: the flusher hangs');
my $began = time;
is(ask($watch, "SELECT pg_cancel_backend($flusher{evil}), pg_terminate_backend($flusher{evil})"), 't|t', 'evil: cancelled and terminated');
ok(is_gone($flusher{evil}, 60), 'evil: it ends');
cmp_ok(time - $began, '<', 25, 'evil: soon');
is(finish($evil[0], 30), '57014', 'evil: statement_timeout comes through');
poll("SELECT count(*) = 2 FROM pg_stat_activity WHERE pid IN ($evil[1]{pid}, $evil[2]{pid})
	AND (wait_event_type = 'Lock' OR wait_event = 'PgSleep')", 'evil: the others fold their own, and meet the trigger there');
ask($watch, "SELECT pg_terminate_backend($evil[1]{pid})");
is(finish($evil[1], 30), '57P01', 'evil: where they can be terminated');
sql('evil', 'UPDATE gate SET shut = false');
is(finish($evil[2], 30), 'ok', 'evil: the trigger lets go');
counts_are('evil', 900, 'evil: exact');
my $log = slurp_file($node->logfile);
like($log, qr/LOG:  ended the prompt_stats flusher, for its transaction did not end within 13 s\n.*DETAIL:  It was writing into table public\.prompt_stats\. /,
	'evil: the log says why');

# ---- who waits for one that is stopped goes on

is(finish($queued{short}, 1), '57014', 'queued: statement_timeout ends a wait');
foreach my $name (qw(plain big))
{
	is(finish($queued{$name}, 60), 'ok', "queued: $name goes on");
	cmp_ok($queued{$name}{took}, '>', 15, "queued: $name has waited");
	cmp_ok($queued{$name}{took}, '<', 40, "queued: $name has not waited long");
}
is(finish($queued{flush}, 60), '55000', 'queued: prompt_stats_flush() gives up');
cmp_ok($queued{flush}{took}, '<', 40, 'queued: soon');
my $error = $queued{plain}{session}->query('SELECT prompt_stats_flush()');
is($error->{sqlstate}, '55000', 'queued: at once, where silence is known');
like($error->{message}, qr/PID $flusher{queued}\) has given no sign of life for 20 s/, 'queued: and says why');

$began = time;
is(outcome($queued{plain}{session}->query(list(11, 3, 1000))), 'ok', 'queued: a new list');
is(outcome($queued{short}{session}->query('SELECT increment_prompt_views(2, 10000)')), 'ok', 'queued: a new count');
is(outcome($async->{session}->query('SELECT increment_prompt_views(2, 100000)')), 'ok', 'queued: and async');
cmp_ok(time - $began, '<', 10, 'queued: do not wait');
is(ask($ask_in{queued}, 'SELECT view_count, pending FROM get_prompt_stats(2)'), '110005|5', 'queued: but for what is pending they are in the table');

is(finish($taken{short}, 60), '57014', 'taken: statement_timeout comes through');
is(finish($taken{terminated}, 60), '57P01', 'taken: so does a termination');
is(finish($taken{next}, 60), 'ok', 'taken: who was queued goes on');
poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $taken{plain}{pid} AND wait_event_type = 'Lock'", 'taken: who folds its own waits for the row, as an UPDATE');

is(finish($committing{next}, 60), 'ok', 'committing: who was queued goes on');
is(finish($committing{canceled}, 60), '57014', 'committing: a cancel comes through');
is(finish($committing{terminated}, 60), '57P01', 'committing: so does a termination');
is(finish($committing{plain}, 1), 'waits', 'committing: else the commit decides');

$log = slurp_file($node->logfile);
foreach my $database (qw(postgres queued taken committing))
{
	is(scalar(() = $log =~ /LOG:  the prompt_stats flusher \(PID $flusher{$database}\) has given no sign of life for 20 s\n/g), 1, "$database: the log tells once");
}
like($log, qr/PID $flusher{taken}\) has given .*\n.*DETAIL:  It was writing into table public\.prompt_stats\. /, 'taken: and of the table');

# ---- they go on

go_on($flusher{$_}) foreach qw(postgres queued taken committing);

is(finish($taken{plain}, 60), 'ok', 'taken: the row is free');
counts_are('taken', 9 * 10011, 'taken: exact');

ask($watch, "SELECT pg_cancel_backend($notifier->{pid})");
is(finish($committing{plain}, 60), 'ok', 'committing: who waited goes on');
counts_are('committing', 9 * 10011, 'committing: exact');

poll('SELECT pending = 0 FROM prompt_stats_status, prompt_stats_flush()', 'queued: all is flushed', $ask_in{queued});
counts_are('queued', 9 * 1001 + 400 * 10 + 110005, 'queued: exact');
is(ask($ask_in{queued}, 'SELECT accepted = flushed + pending + rejected FROM prompt_stats_status'), 't', 'queued: so is the ledger');

# Slots are used again
foreach my $database (qw(queued taken committing))
{
	get_flusher($database);
	my @clients = map { client($database) } 1 .. 40;
	my $grouped = ask($ask_in{$database}, 'SELECT grouped_transactions FROM prompt_stats_status');
	begin($clients[$_], list(100 + $_, $_, 1)) foreach 0 .. $#clients;
	is(join(' ', grep { $_ ne 'ok' } map { finish($_, 60) } @clients), '', "$database: counting goes on");
	is(ask($ask_in{$database}, 'SELECT grouped_transactions FROM prompt_stats_status') - $grouped, scalar @clients, "$database: no slot is left behind");
}

my %before;
sub load_is_exact
{
	my ($what) = @_;
	my $told = $load->pause;
	my %now;
	@now{qw(views copies)} = split /\|/, ask($ask_in{postgres}, 'SELECT views, copies FROM sums');
	my %counted = map { $_ => $now{$_} - ($before{$_} // 0) } keys %now;
	%before = %now;
	is(PromptStats::Load::differences($told, \%counted), '', "$what: exact");
	is(join(', ', keys %{ $told->{errors} }), '', "$what: no error");
	$load->resume;
	return;
}
load_is_exact('under load');

# ---- once more under load; meanwhile a second SIGTERM ends the flusher at once

$flusher{postgres} = stop_under_load();
my $offset = -s $node->logfile;

sql('evil', 'UPDATE gate SET shut = true');
my $stubborn = get_flusher('evil');
my $hangs = client('evil');
begin($hangs, list(10, 1, 1000));
poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $stubborn AND wait_event = 'PgSleep'", 'twice: the flusher hangs');
my $terminated = time;
kill 'TERM', $stubborn;
ok(!is_gone($stubborn, 0.5), 'twice: the first SIGTERM is caught');
kill 'TERM', $stubborn;
ok(is_gone($stubborn, 60), 'twice: the second ends it');
cmp_ok(time - $terminated, '<', 8, 'twice: at once');
poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $hangs->{pid} AND wait_event = 'PgSleep'", 'twice: who waited meets the trigger');
ask($watch, "SELECT pg_terminate_backend($hangs->{pid})");
is(finish($hangs, 30), '57P01', 'twice: and can be terminated');

$node->wait_for_log(qr/PID $flusher{postgres}\) has given no sign of life/, $offset);
go_on($flusher{postgres});
load_is_exact('once more under load');
$load->stop;

# ---- a fast shutdown, while the trigger holds a group, and where something is pending

get_flusher('evil');
my @last = (client('evil'), client('evil', 'SET prompt_stats.durability = async'), client('late', 'SET prompt_stats.durability = async'));
is(outcome($last[1]{session}->query('SELECT increment_prompt_views(10, 7)')), 'ok', 'shutdown: something is pending');
begin($last[0], list(10, 1, 1000));
poll(q(SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'prompt_stats flusher' AND datname = 'evil' AND wait_event = 'PgSleep'),
	'shutdown: the flusher hangs');
get_flusher('late');
is(outcome($last[2]{session}->query('SELECT increment_prompt_views(10, 8)')), 'ok', 'shutdown: and in another database');
$offset = -s $node->logfile;
$began = time;
$node->stop('fast');
cmp_ok(time - $began, '<', 30, 'shutdown: it ends');
is(finish($last[0], 1), '57P01', 'shutdown: so does the wait');
$log = slurp_file($node->logfile, $offset);
like($log, qr/could not flush counts of prompt 10: .*\n.*DETAIL:  $_ views/, "shutdown: the log tells what is lost: $_") foreach 7, 8;
is(scalar(() = $log =~ /ended the prompt_stats flusher, for its transaction did not end/g), 2, 'shutdown: and why');

$node->start;
$ask_in{$_} = PromptStats::Connection->new($node, 'ask', database => $_) // die 'no connection' foreach qw(evil late);
counts_are('evil', 900, 'shutdown: exact');
counts_are('late', 0, 'shutdown: exact, also there');
sql('evil', 'UPDATE gate SET shut = false; SELECT increment_prompt_views(10)');
counts_are('evil', 901, 'shutdown: counting goes on');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|deadlock detected|could not take back|terminated by signal/, 'nothing crashed');
done_testing();
