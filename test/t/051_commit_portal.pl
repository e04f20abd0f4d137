# Where a transaction's counts are decided upon: in the last step of COMMIT and PREPARE
# in which code of users may run [19], with all that may run there; and whose own commit
# record matters folds its own [20].

use strict;
use warnings FATAL => 'all';

use File::Copy qw(copy);
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(usleep);

my $top = "$FindBin::RealBin/../..";
my $build = PostgreSQL::Test::Utils::tempdir();
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
chomp(my $pkglibdir = `$pg_config --pkglibdir`);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "max_prepared_transactions = 10\nmax_connections = 200\nlog_statement = none");
$node->start;

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub session { return PromptStats::Connection->new($node, 'test') // die 'no connection' }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }
sub views { return sql("SELECT coalesce(sum(view_count), 0) FROM prompt_stats WHERE prompt_id = $_[0]") }
sub own_folds { return sql("SELECT coalesce((own_fold_reasons->>'$_[0]')::bigint, 0) FROM prompt_stats_status") }

# In a session of its own, so that libraries are loaded in the midst of it
sub run { return outcome(session()->query($_[0])) }

# Messages of the extended protocol, each of the bytes of its body
sub message { my ($type, $body) = @_; return pack('aNa*', $type, length($body) + 4, $body) }
sub parse { return message('P', pack('Z*Z*n', '', $_[0], 0)) }
sub bind_to { return message('B', pack('Z*Z*nnn', $_[0], '', 0, 0, 0)) }
sub execute { my ($portal, $rows) = @_; return message('E', pack('Z*N', $portal, $rows)) }
my $SYNC = message('S', '');

sql(q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 200);
	CREATE EXTENSION prompt_stats;
	INSERT INTO prompt_stats (prompt_id) SELECT id FROM prompts;
));
my $started = sql('SELECT pg_postmaster_start_time()');

# ---- a trigger that uses a library with transaction callbacks of its own

my ($host, $port) = ($node->host, $node->port);
sql(qq(
	CREATE EXTENSION postgres_fdw;
	CREATE EXTENSION dblink;
	CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR PUBLIC SERVER loopback;
	CREATE TABLE copied (prompt_id bigint, n bigint);
	CREATE FOREIGN TABLE remote_copied (prompt_id bigint, n bigint) SERVER loopback OPTIONS (table_name 'copied');
	CREATE FUNCTION copy_abroad() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN
		INSERT INTO public.remote_copied VALUES (NEW.prompt_id, NEW.view_count - CASE TG_OP WHEN 'UPDATE' THEN OLD.view_count ELSE 0 END);
		RETURN NULL;
	END \$\$;
	CREATE FUNCTION copy_by_dblink() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN
		PERFORM public.dblink_exec('host=$host port=$port dbname=postgres', format('INSERT INTO copied VALUES (%s, %s)',
			NEW.prompt_id, NEW.view_count - CASE TG_OP WHEN 'UPDATE' THEN OLD.view_count ELSE 0 END));
		RETURN NULL;
	END \$\$;
));

# Counts a prompt and the foreign rows of it: both, and the same
sub both { return views($_[0]) . '|' . sql("SELECT coalesce(sum(n), 0) FROM copied WHERE prompt_id = $_[0]") }
sub flush { return outcome(session()->query("SET statement_timeout = '60s'; SELECT prompt_stats_flush()")) }

my $prompt = 0;
foreach my $trigger (qw(copy_abroad copy_by_dblink))
{
	sql("CREATE TRIGGER copying AFTER INSERT OR UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION $trigger()");

	# dblink's own session does not roll back what "transaction" takes back
	foreach my $mode ($trigger eq 'copy_abroad' ? qw(group async transaction) : qw(group async))
	{
		my $name = "$trigger, $mode";
		sql("ALTER ROLE CURRENT_USER SET prompt_stats.durability = '$mode'");
		$prompt++;
		is(run("SELECT increment_prompt_views($prompt)"), 'ok', "$name: one count in a new session");
		is(run("BEGIN; SELECT increment_prompt_views($prompt); SAVEPOINT s; SELECT increment_prompt_views($prompt, 10);
				ROLLBACK TO s; SELECT increment_prompt_views($prompt, 100); RELEASE s; COMMIT"), 'ok', "$name: in savepoints");
		is(run("SELECT increment_prompt_views($prompt); SELECT increment_prompt_views($prompt)"), 'ok', "$name: two statements in one message");
		is(run("DO \$\$ BEGIN FOR i IN 1 .. 3 LOOP PERFORM increment_prompt_views($prompt, 1000); COMMIT; END LOOP; END \$\$"), 'ok', "$name: a block that commits");
		is(run("BEGIN; SELECT increment_prompt_views($prompt); ROLLBACK"), 'ok', "$name: rolled back");
		is(run("BEGIN; INSERT INTO copied VALUES (0, 0); SELECT increment_prompt_views($prompt, 10000); COMMIT"), 'ok', "$name: beside a write");
		is(flush(), 'ok', "$name: flushed");
		is(both($prompt), '13104|13104', "$name: all is counted, there and here");

		# postgres_fdw refuses to prepare, dblink's own session has committed
		my $session = session();
		is(outcome($session->query("BEGIN; SELECT increment_prompt_views($prompt); PREPARE TRANSACTION 'p$prompt'")),
			$trigger eq 'copy_abroad' ? '0A000' : 'ok', "$name: prepared");
		is(outcome($session->query($trigger eq 'copy_abroad' ? 'ROLLBACK' : "COMMIT PREPARED 'p$prompt'")), 'ok', "$name: the session goes on");
		is(both($prompt), $trigger eq 'copy_abroad' ? '13104|13104' : '13105|13105', "$name: both or neither");
	}
	sql('ALTER ROLE CURRENT_USER RESET prompt_stats.durability');

	$prompt++;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$trigger.sql";
	append_to_file($file, "SELECT increment_prompt_views($prompt);\n");
	$node->command_ok([ 'pgbench', '-n', '-C', '-c', 64, '-j', 2, '-t', 3, '-f', $file, 'postgres' ], "$trigger: 64 clients, a session for each call");
	is(both($prompt), '192|192', "$trigger: exact");
	sql('DROP TRIGGER copying ON prompt_stats');
}
is(sql('SELECT pg_postmaster_start_time()'), $started, 'the server did not go down');

# NOTIFY in a trigger: it is sent with the commit
sql(q(
	CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('counted', NEW.view_count::text); RETURN NULL; END $$;
	CREATE TRIGGER tell AFTER UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION tell();
));
foreach my $mode (qw(group transaction))
{
	$prompt++;
	my ($ret, $stdout) = $node->psql('postgres', "LISTEN counted; SET prompt_stats.durability = '$mode'; SELECT increment_prompt_views($prompt, 7);");
	like($stdout, qr/notification "counted" with payload "7"/, "$mode: NOTIFY");
}
sql('DROP TRIGGER tell ON prompt_stats');

# CLOSE ALL while the portal is being closed: a trigger of the table may not, a cursor may
sql(q(
	CREATE FUNCTION close_all() RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'CLOSE ALL'; RETURN 1; END $$;
	CREATE FUNCTION close_all_after() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.close_all(); RETURN NULL; END $$;
	CREATE TRIGGER close_all AFTER UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION close_all_after();
));
$prompt++;
is(run("SELECT increment_prompt_views($prompt)"), '42501', 'CLOSE ALL in a trigger');
sql('DROP TRIGGER close_all ON prompt_stats');
is(run("BEGIN; SELECT increment_prompt_views($prompt); DECLARE c CURSOR WITH HOLD FOR SELECT close_all(); COMMIT"), 'ok', 'in a cursor WITH HOLD') for 1 .. 5;
is(views($prompt), 5, 'which counts');

# ---- whatever the transaction does with the portal

sql(q(
	CREATE FUNCTION close_in_vain(prompt bigint) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		PERFORM increment_prompt_views(prompt);
		BEGIN
			EXECUTE 'CLOSE ALL';
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
		END;
	END $$;
));
my $first = $prompt + 1;
foreach my $mode (qw(group async))
{
	my $session = session();
	my $expected = 0;
	$prompt++;
	my $count = "SELECT increment_prompt_views($prompt";
	my $case = sub {
		my ($what, $n, $statements, $sqlstate) = @_;
		my $statement_ok = outcome($session->query($statements));
		is($statement_ok, $sqlstate // 'ok', "$mode: $what");
		$session->query('ROLLBACK') if $statement_ok ne 'ok';
		$session->query('SELECT prompt_stats_flush()') if $mode eq 'async';
		$expected += $n;
		is(views($prompt), $expected, "$mode: $what: counted");
		return;
	};

	$session->query("SET prompt_stats.durability = '$mode'; SET statement_timeout = '60s'");
	$case->('nobody sees it', 1, "BEGIN; $count); SELECT 1 / (count(*) = 0)::int FROM pg_cursors; COMMIT");
	$case->('nobody sees its name', 1, "BEGIN; $count); SELECT 1 / (count(*) = 0)::int FROM pg_backend_memory_contexts WHERE ident ~ '^prompt_stats [0-9a-f]{32}'; COMMIT");
	$case->('CLOSE ALL', 1, "BEGIN; $count); CLOSE ALL; COMMIT");
	$case->('CLOSE ALL before and after', 2, "BEGIN; CLOSE ALL; $count); CLOSE ALL; CLOSE ALL; $count); COMMIT");
	$case->('CLOSE ALL in a savepoint that is rolled back', 1, "BEGIN; $count); SAVEPOINT s; $count, 10); CLOSE ALL; ROLLBACK TO s; COMMIT");
	$case->('CLOSE ALL in one that is not', 11, "BEGIN; $count); SAVEPOINT s; $count, 10); CLOSE ALL; RELEASE s; COMMIT");
	$case->('CLOSE ALL, and ROLLBACK', 0, "BEGIN; $count); CLOSE ALL; ROLLBACK");
	$case->('CLOSE ALL in a block', 3, "DO \$\$ BEGIN PERFORM increment_prompt_views($prompt); EXECUTE 'CLOSE ALL'; PERFORM increment_prompt_views($prompt, 2); END \$\$");
	$case->('CLOSE ALL in one that is taken back', 1, "SELECT close_in_vain($prompt)");
	$case->('CLOSE ALL in one that commits', 30, "DO \$\$ BEGIN FOR i IN 1 .. 3 LOOP PERFORM increment_prompt_views($prompt, 10); EXECUTE 'CLOSE ALL'; COMMIT; END LOOP; END \$\$");
	$case->('CLOSE ALL, and a write', 1, "BEGIN; $count); CLOSE ALL; INSERT INTO copied VALUES (0, 0); COMMIT");
	$case->('first in a savepoint that is rolled back', 0, "BEGIN; SAVEPOINT s; $count); ROLLBACK TO s; COMMIT");
	$case->('first in one that is rolled back, then again', 2, "BEGIN; SAVEPOINT s; $count); ROLLBACK TO s; $count, 2); SAVEPOINT t; $count, 5); ROLLBACK TO t; COMMIT");
	$case->('first in one that is released', 1, "BEGIN; SAVEPOINT s; SAVEPOINT t; $count); RELEASE t; RELEASE s; COMMIT");
	$case->('several statements in one message', 3, "$count); $count); $count)");
	$case->('several transactions in one message', 2, "$count); BEGIN; $count); COMMIT; BEGIN; $count); ROLLBACK");
	$case->('an error in the last of several', 0, "$count); SELECT 1 / 0", '22012');
	$case->('COMMIT of one that has failed', 0, "BEGIN; $count); SAVEPOINT s; SELECT 1 / 0", '22012');
	$case->('COMMIT AND CHAIN', 3, "BEGIN; $count); COMMIT AND CHAIN; $count, 2); COMMIT");
	$case->('COPY FREEZE', 1, "BEGIN; CREATE TABLE frozen (i int); $count); COPY frozen FROM PROGRAM 'echo 1' (FREEZE); COMMIT");
	$case->('a cursor', 2, "BEGIN; DECLARE c CURSOR FOR SELECT increment_prompt_views($prompt) FROM generate_series(1, 5); FETCH 2 FROM c; COMMIT");
	$case->('cursors WITH HOLD that count, and one that does not', 10, "BEGIN; DECLARE a CURSOR WITH HOLD FOR SELECT increment_prompt_views($prompt) FROM generate_series(1, 4);
		DECLARE b CURSOR WITH HOLD FOR SELECT increment_prompt_views($prompt) FROM generate_series(1, 5); $count); DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT");
	$case->('a loop over rows that are counted, with COMMIT', 5, "DO \$\$ DECLARE r record; BEGIN
		FOR r IN SELECT increment_prompt_views($prompt) FROM generate_series(1, 5) LOOP COMMIT; END LOOP; END \$\$");
	is($session->query('SELECT string_agg(name, \',\' ORDER BY name) FROM pg_cursors')->{rows}[0][0], 'a,b,c', "$mode: the cursors are there");
	$case->('DISCARD ALL', 0, 'DISCARD ALL');
	is($session->query('SELECT count(*) FROM pg_cursors')->{rows}[0][0], 0, "$mode: and gone");
	sql('DROP TABLE frozen');

	# By the extended protocol; a portal that is open at the end is closed, too
	$session->query("SET prompt_stats.durability = '$mode'");
	foreach my $rows (0, 2)
	{
		$session->send_bytes(parse("SELECT increment_prompt_views($prompt) FROM generate_series(1, 5)") . bind_to('') . execute('', $rows) . $SYNC);
		is(outcome($session->read_result), 'ok', "$mode: a portal");
		$expected += $rows || 5;
	}
	$session->send_bytes(parse("$count)") . bind_to('') . execute('', 0) . parse('CLOSE ALL') . bind_to('') . execute('', 0) . parse("$count)") . bind_to('') . execute('', 0) . $SYNC);
	is(outcome($session->read_result), 'ok', "$mode: a pipeline");
	$case->('which counts', 2, 'SELECT 1');
}

# All is decided when it is known whether the transaction writes, whichever portal the
# server happens to close first
sql(q(CREATE FUNCTION write() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO copied VALUES (0, 0); RETURN 1; END $$));
my $writes = own_folds('writes');
is(run("BEGIN; SELECT increment_prompt_views($first); DECLARE c CURSOR WITH HOLD FOR SELECT write(); COMMIT"), 'ok', 'a cursor WITH HOLD that writes') for 1 .. 10;
is(own_folds('writes') - $writes, 10, 'its transaction folds its own');

# ---- a COMMIT that fails leaves no cursor behind

foreach my $turn (1 .. 5)
{
	my $session = session();
	my $cursors = sub { return $session->query("SELECT coalesce(string_agg(name, ',' ORDER BY name), '') FROM pg_cursors")->{rows}[0][0] };
	my $held = 'DECLARE held CURSOR WITH HOLD FOR SELECT increment_prompt_views(1, 0); DECLARE "a name" CURSOR WITH HOLD FOR SELECT 2';

	is(outcome($session->query("BEGIN; SELECT increment_prompt_views(999); $held; COMMIT")), '23503', 'a count that fails');
	is($cursors->(), '', 'the cursors are gone');
	is(outcome($session->query("BEGIN; $held; SELECT increment_prompt_views(999); COMMIT")), '23503', 'again, with cursors that were first');
	is($cursors->(), '', 'the cursors are gone');
	is(outcome($session->query('DO $$ BEGIN EXECUTE \'DECLARE inside CURSOR WITH HOLD FOR SELECT 1\'; PERFORM increment_prompt_views(1); COMMIT;
		EXECUTE \'DECLARE twice CURSOR WITH HOLD FOR SELECT 1\'; PERFORM increment_prompt_views(999); COMMIT; END $$')), '23503', 'in a block that commits');
	is($cursors->(), 'inside', 'only what was held before is there');
	is(outcome($session->query("CLOSE inside; BEGIN; DECLARE old CURSOR WITH HOLD FOR SELECT 1; COMMIT; BEGIN; SELECT increment_prompt_views(999); $held; COMMIT")), '23503', 'after a transaction in the same message');
	is($cursors->(), 'old', 'its cursor is there');
	is(outcome($session->query("BEGIN; SELECT increment_prompt_views(1); $held; DECLARE failing CURSOR WITH HOLD FOR SELECT 1 / (i - 3) FROM generate_series(1, 5) i; COMMIT")), '22012', 'a cursor that fails');
	is($cursors->(), 'old', 'no cursor is left');
	is($session->query("SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'PortalContext'")->{rows}[0][0], 2, 'nor anything else');
	is(outcome($session->query("BEGIN; SELECT increment_prompt_views(1); $held; COMMIT")), 'ok', 'one that succeeds');
	is($cursors->(), 'a name,held,old', 'its cursors are there');
	is($session->query('FETCH FROM "a name"')->{rows}[0][0], 2, 'and can be read');
}

# ---- PREPARE TRANSACTION folds its own

foreach my $mode (qw(group async transaction))
{
	$prompt++;
	my $prepared = own_folds('prepare');
	my $session = session();
	$session->query("SET prompt_stats.durability = '$mode'");
	is(outcome($session->query("BEGIN; SELECT increment_prompt_views($prompt); SAVEPOINT s; SELECT increment_prompt_views($prompt); CLOSE ALL; PREPARE TRANSACTION 'p'")), 'ok', "$mode: prepared");
	is(own_folds('prepare') - $prepared, $mode eq 'transaction' ? 0 : 2, "$mode: as its own");
	is(views($prompt), 0, "$mode: it does not count yet");
	is(outcome($session->query("COMMIT PREPARED 'p'")), 'ok', "$mode: committed");
	is(views($prompt), 2, "$mode: now it does");
	is(outcome($session->query("BEGIN; SELECT increment_prompt_views($prompt); DECLARE c CURSOR WITH HOLD FOR SELECT 1; PREPARE TRANSACTION 'p'")), '0A000', "$mode: not with a cursor WITH HOLD");
	is($session->query('SELECT count(*) FROM pg_cursors')->{rows}[0][0], 0, "$mode: which is gone");
	is(views($prompt), 2, "$mode: nothing is counted");
}

# ---- whose commit comes from another server folds its own, so that it is not sent again

sql("SELECT pg_replication_origin_create('o')");
my $lsn = 0x2000;
foreach my $mode (qw(group async transaction))
{
	$prompt++;
	my $session = session();
	my $origins = own_folds('origin');
	my $at = sprintf('0/%X', $lsn += 0x1000);
	$session->query("SET prompt_stats.durability = '$mode'; SELECT pg_replication_origin_session_setup('o')");
	is(outcome($session->query("BEGIN; SELECT pg_replication_origin_xact_setup('$at', now()); SELECT increment_prompt_views($prompt) FROM generate_series(1, 20); COMMIT")), 'ok', "$mode: behind an origin");
	is($session->query('SELECT pg_replication_origin_session_progress(true)')->{rows}[0][0], $at, "$mode: which has advanced");
	is(views($prompt), 20, "$mode: it is counted");
	is(own_folds('origin') - $origins, $mode eq 'transaction' ? 0 : 20, "$mode: as its own");
	$session->query('SELECT pg_replication_origin_session_reset()');
}

# ---- libraries that count in a callback of their own

system_or_bail('cp', '-r', "$top/test/fail_commit", $build);
{
	local $ENV{MAKEFLAGS} = '';
	system_or_bail('make', '-s', '-C', "$build/fail_commit", 'with_llvm=no', "PG_CONFIG=$pg_config", 'fail_commit.so');
}
copy("$build/fail_commit/fail_commit.so", "$pkglibdir/fail_commit.so") or die "could not copy: $!";

# Callbacks are called in the reverse order of their registration
my %libraries = ('before ours' => "SELECT increment_prompt_views(1, 0); LOAD 'fail_commit'", 'after ours' => "LOAD 'fail_commit'; SELECT increment_prompt_views(1, 0)");
foreach my $mode (qw(group async))
{
	foreach my $order (sort keys %libraries)
	{
		my $name = "$mode: a callback $order";
		my $session = session();
		$prompt++;
		$session->query("SET prompt_stats.durability = '$mode'");
		$session->query($libraries{$order});
		my $at_commit = "SET LOCAL fail_commit.run = 'SELECT increment_prompt_views($prompt, 100)'";
		my $result = $session->query("BEGIN; $at_commit; COMMIT");
		is(outcome($result), '55000', "$name that counts");
		is($result->{message}, 'cannot count at the end of a transaction', "$name: it says why");
		is(outcome($session->query("BEGIN; SELECT increment_prompt_views($prompt); $at_commit; COMMIT")), '55000', "$name that counts, too");
		is(outcome($session->query("BEGIN; SELECT increment_prompt_views($prompt); SET LOCAL fail_commit.now = on; COMMIT")), '38000', "$name that fails");
		is(outcome($session->query("BEGIN; SELECT increment_prompt_views($prompt, 1000); COMMIT")), 'ok', "$name: the session counts on");
		$session->query('SELECT prompt_stats_flush()');
		ok($node->poll_query_until('postgres', "SELECT view_count = 1000 FROM prompt_stats WHERE prompt_id = $prompt"), "$name: exactly");
	}

	# In a transaction that has not counted before nobody can tell in time
	my $session = session();
	my $log = -s $node->logfile;
	$prompt++;
	$session->query("LOAD 'fail_commit'; SET prompt_stats.durability = '$mode'");
	is(outcome($session->query("BEGIN; SET LOCAL fail_commit.run = 'SELECT increment_prompt_views($prompt, 100)'; COMMIT")), 'ok', "$mode: a callback that loads our library");
	like(slurp_file($node->logfile, $log), qr/WARNING:.*what was counted at the end of a transaction is lost/, "$mode: is told");
	is(outcome($session->query("SELECT increment_prompt_views($prompt)")), 'ok', "$mode: the session counts on");
	is(outcome($session->query("BEGIN; SELECT increment_prompt_views($prompt); ROLLBACK; SELECT prompt_stats_flush()")), 'ok', "$mode: and rolls back");
	is(views($prompt), 1, "$mode: exactly");
}

is(sql('SELECT pending, accepted = flushed + pending + rejected FROM prompt_stats_status'), '0|t', 'the ledger adds up');
is(sql('SELECT pg_postmaster_start_time()'), $started, 'the server did not go down');
unlink "$pkglibdir/fail_commit.so";
$node->stop;
unlike(slurp_file($node->logfile), qr/deadlock detected|PANIC|TRAP:|terminated by signal|skipping cleanup|missed cleaning up|leaked|still active|not closed/, 'nothing crashed');
done_testing();
