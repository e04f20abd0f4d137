# Transactions that only count wait for one common fold: exact, each with its own
# outcome, none held up by another's [3][4][5][7][8][9].
#
# Who is alone folds its own.  So that everybody has company, one session gets stuck
# while it folds alone, at a row that is locked to the end.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(usleep);

my $MAX = 9223372036854775807;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq(
	prompt_stats.durability = group
	max_connections = 100
	max_prepared_transactions = 2
	log_statement = none
));
$node->start;

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql(q(
	CREATE ROLE shop NOLOGIN;
	CREATE ROLE anon;
	GRANT CREATE ON SCHEMA public TO shop;
	SET ROLE shop;
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 2000);
	RESET ROLE;
	CREATE EXTENSION prompt_stats;
	INSERT INTO prompt_stats (prompt_id) SELECT generate_series(1, 1000);
	GRANT EXECUTE ON FUNCTION increment_prompt_views(bigint, bigint) TO anon;
));

sub views { return sql("SELECT coalesce(sum(view_count), 0) FROM prompt_stats WHERE prompt_id = $_[0]") }

sub session
{
	return PromptStats::Connection->new($node, 'test') // die 'no connection';
}

sub send_query
{
	my ($session, $sql) = @_;
	$session->send_bytes(pack('aNZ*', 'Q', length($sql) + 5, $sql));
	return;
}

# ok, or the SQLSTATE
sub outcome
{
	my ($result) = @_;
	return $result->{sqlstate} // $result->{outcome};
}

sub wait_for_waiters
{
	my ($n, $what) = @_;
	ok($node->poll_query_until('postgres', "SELECT count(*) = $n FROM pg_stat_activity
		WHERE wait_event IN ('Extension', 'PromptStatsGroup') AND backend_type = 'client backend'"),
		$what);
	return;
}

# One that was ended or had nothing to do is started by who counts
sub wait_for_flusher
{
	foreach my $turn (1 .. 1800)
	{
		sql('SELECT increment_prompt_copies(999)');
		return ok(1, 'the flusher is ready') if sql('SELECT flusher FROM prompt_stats_status') eq 'ready';
		usleep(100_000);
	}
	return ok(0, 'the flusher is ready');
}

my $FLUSHERS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'prompt_stats flusher'";

sub pgbench
{
	my ($clients, $turns, $name, $script, @options) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$name.sql";
	append_to_file($file, $script);
	command_like([ 'pgbench', '-n', '-M', 'prepared', '-c', $clients, '-j', 2, '-t', $turns,
			'-f', $file, '-h', $node->host, '-p', $node->port, @options, 'postgres' ],
		qr/processed: ${\($clients * $turns)}\/${\($clients * $turns)}/, "$name: all calls succeed");
	return;
}

# ---- groups form, and count exactly

my $xid = sql('SELECT txid_current()');
pgbench(64, 100, 'hot', "SELECT increment_prompt_views(1);\n");
my $used = sql('SELECT txid_current()') - $xid;
is(views(1), 6400, 'hot: exact');
cmp_ok($used, '<', 3200, "hot: 6400 calls in $used transactions that wrote");
is(sql($FLUSHERS), 1, 'there is one flusher');

pgbench(64, 100, 'zipf', "\\set id random_zipfian(1, 500, 1.1)\nSELECT increment_prompt_copies(:id), increment_prompt_views(:id + 500, 3);\n");
is(sql('SELECT sum(copy_count), sum(view_count) FROM prompt_stats WHERE prompt_id > 1 OR copy_count > 0'),
	'6400|' . (6400 * 3 + 6400), 'zipf: exact');

# A list goes to the flusher even where nobody else counts; few prompts don't
is(sql('SELECT flusher FROM prompt_stats_status'), 'ready', 'the flusher is ready');
my $groups = sql('SELECT groups FROM prompt_stats_status');
sql('SELECT increment_prompt_copies(ARRAY[1, 2]::bigint[])');
is(sql('SELECT groups FROM prompt_stats_status'), $groups, 'two prompts: no group');
sql('SELECT increment_prompt_copies(ARRAY(SELECT generate_series(1, 9)::bigint))');
is(sql('SELECT groups FROM prompt_stats_status'), $groups + 1, 'nine prompts: a group of one');

pgbench(16, 100, 'repeatable', "BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT increment_prompt_views(2);\nCOMMIT;\n");
is(views(2), 1600, 'REPEATABLE READ: exact, without 40001');

pgbench(16, 50, 'mixed', "BEGIN;\nSELECT increment_prompt_views(3);\nSET LOCAL prompt_stats.durability = transaction;\nSELECT increment_prompt_views(3);\nCOMMIT;\n");
is(views(3), 1600, 'mixed modes: exact');

# ---- from now on nobody is alone

my $holder = session();
my $stuck = session();
sub get_stuck
{
	$holder->query('BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 1000 FOR UPDATE');
	send_query($stuck, 'SELECT increment_prompt_views(1000)');
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity
		WHERE wait_event_type = 'Lock' AND query LIKE '%(1000)%'"), 'one is stuck');
	return;
}
sub get_unstuck
{
	$holder->query('COMMIT');
	is(outcome($stuck->read_result), 'ok', 'the one that was stuck goes on');
	return;
}

# What needs the table for itself
sub ddl
{
	get_unstuck();
	sql($_[0]);
	get_stuck();
	return;
}
get_stuck();

# ---- a row that somebody has locked

my $locker = session();
$locker->query('BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 4 FOR UPDATE');
my $waiter = session();
my $canceled = session();
my $terminated = session();
send_query($waiter, 'SELECT increment_prompt_views(4)');
send_query($canceled, 'SELECT increment_prompt_views(4, 100)');
wait_for_waiters(2, 'who counts a locked row waits');
send_query($terminated, 'SELECT increment_prompt_views(4, 10000)');
ok($node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity
	WHERE query LIKE '%(4, 10000)%' AND wait_event IN ('Extension', 'PromptStatsGroup')) AS t)), 'one of them is terminated');
is(outcome($terminated->read_result), '57P01', 'termination ends it');

my $other = session();
is(outcome($other->query('SELECT increment_prompt_views(5)')), 'ok', 'others do not wait');
is(views(5), 1, 'and are counted');
is(outcome($other->query("SET lock_timeout = '100ms'; SELECT increment_prompt_views(4, 1000)")),
	'55P03', 'lock_timeout ends the wait');
$other->query('SET lock_timeout = 0');
is(outcome($other->query("SET statement_timeout = '100ms'")), 'ok', 'timeout set');
is(outcome($other->query('SELECT increment_prompt_views(4, 1000)')), '57014', 'statement_timeout ends it');
is(outcome($other->query(q(BEGIN; SET LOCAL prompt_stats.durability = 'group'; SELECT increment_prompt_views(4, 1000); COMMIT))),
	'57014', 'also in a COMMIT');
is(outcome($other->query('BEGIN; SELECT txid_current(), increment_prompt_views(4, 1000)')), 'ok', 'with an XID');
is(outcome($other->query('COMMIT')), '57014', 'statement_timeout also ends the wait of an own fold');

# While the flusher tries again and again
sql(q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%(4, 100)%' AND backend_type = 'client backend'
	AND pid <> pg_backend_pid()));
is(outcome($canceled->read_result), '57014', 'a cancel ends it');
is(outcome($canceled->query('SELECT increment_prompt_views(6)')), 'ok', 'the session goes on');
$locker->query('COMMIT');
is(outcome($waiter->read_result), 'ok', 'the row is free, the waiter goes on');
is(views(4), 1, 'counted are only those that succeeded');

# Who waits for whom is seen by the server: a row's owner who waits for one that waits
$locker->query('BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 22 FOR UPDATE');
$waiter->query('SELECT pg_advisory_lock(22)');
send_query($waiter, 'SELECT increment_prompt_views(22)');
wait_for_waiters(1, 'one waits in a group');
send_query($locker, 'SELECT pg_advisory_lock(22)');
my $ended = outcome($waiter->read_result);
$waiter->query('SELECT pg_advisory_unlock(22)');
is(join(' ', sort $ended, outcome($locker->read_result)), '40P01 ok', 'a deadlock through a group is found');
$locker->query('ROLLBACK');
$locker->query('SELECT pg_advisory_unlock_all()');
is(views(22), $ended eq 'ok' ? 1 : 0, 'and counted is what succeeded');

# ---- a table that somebody has locked

get_unstuck();
$locker->query('BEGIN; LOCK TABLE prompt_stats IN SHARE MODE');
send_query($waiter, 'SELECT increment_prompt_views(7)');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted
	AND relation = 'prompt_stats'::regclass"), 'waits for the lock itself');
is(outcome($locker->query('SELECT increment_prompt_views(7)')), 'ok', 'who holds it counts');
$locker->query('COMMIT');
is(outcome($waiter->read_result), 'ok', 'the lock is free');
is(views(7), 2, 'both counted');
get_stuck();

# ---- each its own error

my $bad = session();
is(outcome($bad->query('SELECT increment_prompt_views(99999)')), '23503', 'unknown prompt');
is(outcome($bad->query('SELECT increment_prompt_views(ARRAY[8, 99999]::bigint[])')), '23503', 'one of two unknown');
is(views(8), 0, 'a unit is counted whole or not at all');
is(outcome($bad->query('SELECT increment_prompt_views(1500)')), 'ok', 'no row yet');
is(views(1500), 1, 'it is made');
sql("UPDATE prompt_stats SET view_count = $MAX - 10 WHERE prompt_id = 9");
is(outcome($bad->query('SELECT increment_prompt_views(9, 11)')), '22003', 'no room');
is(outcome($bad->query("SELECT increment_prompt_views(10, $MAX)")), 'ok', 'just room enough');

# Two whose sum has no room, in one group
$locker->query('BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 11 FOR UPDATE');
send_query($waiter, "SELECT increment_prompt_views(11, $MAX)");
send_query($canceled, "SELECT increment_prompt_views(11, $MAX)");
wait_for_waiters(2, 'two that do not both fit');
$locker->query('COMMIT');
is(join(' ', sort map { outcome($_->read_result) } $waiter, $canceled), '22003 ok', 'one fits');
is(views(11), $MAX, 'and is counted');

# ---- transactions that fold their own

is(outcome($other->query("RESET statement_timeout; BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT increment_prompt_views(12); COMMIT")),
	'ok', 'SERIALIZABLE');
is(outcome($other->query("BEGIN; SELECT increment_prompt_views(12); PREPARE TRANSACTION 'p'")), 'ok', 'PREPARE');
is(outcome($other->query("COMMIT PREPARED 'p'")), 'ok', 'COMMIT PREPARED');
is(outcome($other->query('CREATE MATERIALIZED VIEW once AS
	SELECT count(*) FROM (SELECT increment_prompt_views(12) OFFSET 0) AS called')), 'ok', 'security-restricted');
is(outcome($other->query('BEGIN; SELECT increment_prompt_views(12); SAVEPOINT s; SELECT increment_prompt_views(12, 100);
	ROLLBACK TO s; SELECT increment_prompt_views(12); COMMIT')), 'ok', 'savepoints');
is(outcome($other->query('BEGIN; SELECT increment_prompt_views(12, 100); ROLLBACK')), 'ok', 'ROLLBACK');
is(views(12), 5, 'all of them exact');
is(outcome($other->query('SET ROLE anon; SELECT increment_prompt_views(12); RESET ROLE')), 'ok', 'EXECUTE is enough');
is(outcome($waiter->query('SET ROLE anon; SELECT increment_prompt_views(12); RESET ROLE')), 'ok', 'in a group as well');
is(views(12), 7, 'counted');

# More than a slot takes
is(outcome($waiter->query('SELECT increment_prompt_copies(array_agg(i)) FROM generate_series(501::bigint, 600) AS i')),
	'ok', 'a hundred prompts at once');
is(outcome($waiter->query('SELECT increment_prompt_copies(array_agg(i)) FROM generate_series(1::bigint, 2000) AS i WHERE i <> 1000')),
	'ok', 'more than a group would wait for');
is(sql('SELECT sum(copy_count) FROM prompt_stats WHERE prompt_id > 500'), 100 + 1499, 'all counted');

# The ids change their type between the call and its commit
get_unstuck();
$waiter->query('BEGIN; SELECT increment_prompt_views(14)');
sql('ALTER TABLE prompt_stats DROP CONSTRAINT prompt_stats_prompt_id_fkey, ALTER prompt_id TYPE text');
isnt(outcome($waiter->query('COMMIT')), 'lost', 'a new type of ids');
$waiter->query('ROLLBACK');
sql(q(ALTER TABLE prompt_stats ALTER prompt_id TYPE bigint USING prompt_id::bigint,
	ADD FOREIGN KEY (prompt_id) REFERENCES prompts ON DELETE CASCADE));
get_stuck();

# ---- triggers: who they run as, and what they may do

ddl(q(
	CREATE TABLE seen (kind text, who text, session text, path text, got_away boolean);
	ALTER TABLE seen OWNER TO shop;
	CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$
	DECLARE away boolean := false; step text;
	BEGIN
		FOREACH step IN ARRAY '{RESET ROLE,RESET SESSION AUTHORIZATION,SET SESSION AUTHORIZATION DEFAULT}'::text[] LOOP
			BEGIN
				EXECUTE step;
				away := away OR current_user <> 'shop';
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
		END LOOP;
		INSERT INTO public.seen VALUES (TG_NAME, current_user, session_user, current_setting('search_path'), away);
		IF TG_NAME = 'plain' THEN	-- which is the last
			SET default_transaction_read_only = on;
			SET synchronous_commit = off;
			SET search_path = evil;
		END IF;
		RETURN NULL;
	END $$;
	ALTER FUNCTION spy() OWNER TO shop;
	SET ROLE shop;
	CREATE TRIGGER plain AFTER UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION spy();
	CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON prompt_stats
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION spy();
));
foreach my $session ($waiter, $other)
{
	my ($who, $also) = $session == $waiter ? ('flusher', '1') : ('superuser', 'txid_current()');
	sql('TRUNCATE seen');
	is(outcome($session->query("SELECT increment_prompt_views(15), $also")), 'ok', "$who: turn $_") for 1 .. 2;
	is(sql('SELECT DISTINCT kind, who, path, got_away FROM seen ORDER BY 1'),
		"deferred|shop|pg_catalog, public, pg_temp|f\nplain|shop|pg_catalog, public, pg_temp|f",
		"$who: triggers run as the owner, and can't leave");
}
is(views(15), 4, 'what a trigger sets does not reach the next group');
is(outcome($other->query('SHOW search_path')), 'ok', 'settings of the session');
is($other->query('SHOW synchronous_commit')->{rows}[0][0], 'on', 'are left alone');
ddl('DROP FUNCTION spy() CASCADE');

ddl(q(
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN RAISE EXCEPTION 'not this one'; END $$;
	CREATE TRIGGER refuse BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 16)
		EXECUTE FUNCTION refuse();
));
my $before = views(17);
my $load = PromptStats::Load->start($node, 8, sub {
	my ($client, $turn) = @_;
	my $id = $client == 1 ? 16 : 17;
	return ("SELECT increment_prompt_views($id)", { "$id views" => 1 });
});
ok($node->poll_query_until('postgres', "SELECT view_count > $before + 500 FROM prompt_stats WHERE prompt_id = 17"),
	'a trigger that fails for one prompt does not stop another');
my $told = $load->stop;
is($told->{acked}{'16 views'} // 0, 0, 'its own callers fail');
is(join(' ', keys %{ $told->{errors} }), 'P0001 not this one', 'with its error');
is(views(17), $before + $told->{acked}{'17 views'}, 'the others are exact');
ddl('DROP FUNCTION refuse() CASCADE');

# ---- the flusher ends while it folds

ddl(q(
	CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
	CREATE TRIGGER stall BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 18) EXECUTE FUNCTION stall();
));
$locker->query('SELECT pg_advisory_lock(1)');
send_query($waiter, 'SELECT increment_prompt_views(18)');
ok($node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
	WHERE locktype = 'advisory' AND NOT granted AND backend_type = 'prompt_stats flusher')), 'the flusher is stalled');
sql(q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'prompt_stats flusher'));
ok($node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
	WHERE locktype = 'advisory' AND NOT granted AND backend_type = 'client backend')), 'its waiter folds its own');
$locker->query('SELECT pg_advisory_unlock(1)');
is(outcome($waiter->read_result), 'ok', 'and succeeds');
is(views(18), 1, 'counted once');

# A waiter that holds what the group waits for does not stand still
wait_for_flusher();
$waiter->query('BEGIN; SELECT pg_advisory_lock(1), increment_prompt_views(18)');
is(outcome($waiter->query('COMMIT')), 'ok', 'no deadlock with a lock that the waiter holds');
is(views(18), 2, 'counted');
ddl('DROP FUNCTION stall() CASCADE');

# A trigger that takes long: a cancel is too late by then, and in the end it is cancelled itself
ddl(q(
	CREATE SEQUENCE turns;
	ALTER SEQUENCE turns OWNER TO shop;
	CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_sleep(CASE WHEN NEW.prompt_id = 24 THEN 1 WHEN nextval('public.turns') = 1 THEN 600 ELSE 0 END);
		RETURN NEW;
	END $$;
	CREATE TRIGGER dawdle BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id IN (24, 25)) EXECUTE FUNCTION dawdle();
));
wait_for_flusher();
send_query($waiter, 'SELECT increment_prompt_views(24)');
ok($node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity
	WHERE backend_type = 'prompt_stats flusher' AND wait_event = 'PgSleep')), 'the group is taken');
sql(q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%(24)%' AND backend_type = 'client backend'
	AND pid <> pg_backend_pid()));
is(outcome($waiter->read_result), 'ok', 'a cancel comes too late for it');
is(views(24), 1, 'counted once');
is(outcome($waiter->query('SELECT increment_prompt_views(25)')), 'ok', 'a trigger of ten minutes is cancelled in the flusher');
is(views(25), 1, 'and its caller folds its own');
ddl('DROP FUNCTION dawdle() CASCADE');

# ---- the switch, and no worker to be had

is(outcome($waiter->query('SELECT increment_prompt_views(19)')), 'ok', 'on');
ok($node->poll_query_until('postgres', $FLUSHERS, '1'), 'there is a flusher');
$node->append_conf('postgresql.conf', 'prompt_stats.flusher = off');
$node->reload;
ok($node->poll_query_until('postgres', $FLUSHERS, '0'), 'off: the flusher is gone');
is(outcome(session()->query('SELECT increment_prompt_views(19)')), 'ok', 'counting goes on');
$node->append_conf('postgresql.conf', 'prompt_stats.flusher = on');
$node->reload;
my $again = session();
is(outcome($again->query('SELECT increment_prompt_views(19)')), 'ok', 'it counts');
is(views(19), 3, 'all counted');
my $back = 0;
for (1 .. 1800)
{
	$again->query('SELECT increment_prompt_views(21)');
	last if $back = sql($FLUSHERS);
	usleep(100_000);
}
ok($back, 'on: it is back');
get_unstuck();

$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
$node->restart;
pgbench(16, 50, 'noworker', "SELECT increment_prompt_views(20);\n");
is(views(20), 800, 'no worker: exact');
is(outcome(session()->query('SELECT increment_prompt_views(20)')), 'ok', 'REPEATABLE READ without a worker');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'nothing crashed');
done_testing();
