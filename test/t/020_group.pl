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
	wal_writer_delay = '10s'
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

# Counts that callers folded themselves for this reason
sub own_folds { return sql("SELECT coalesce((own_fold_reasons->>'$_[0]')::bigint, 0) FROM prompt_stats_status") }

# One that was ended or had nothing to do is started by who counts; and a list goes to
# the flusher also of who is alone, so that it stays for a while
sub wait_for_flusher
{
	foreach my $turn (1 .. 1800)
	{
		sql('SELECT increment_prompt_copies(ARRAY(SELECT generate_series(991::bigint, 999)))');
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
is(sql("SELECT query FROM pg_stat_activity WHERE backend_type = 'prompt_stats flusher'"), 'folding counts', 'which says what it does');
is(sql('SELECT largest_group > 1 FROM prompt_stats_status'), 't', 'groups of several');

pgbench(64, 100, 'zipf', "\\set id random_zipfian(1, 500, 1.1)\nSELECT increment_prompt_copies(:id), increment_prompt_views(:id + 500, 3);\n");
is(sql('SELECT sum(copy_count), sum(view_count) FROM prompt_stats WHERE prompt_id > 1 OR copy_count > 0'),
	'6400|' . (6400 * 3 + 6400), 'zipf: exact');

# Who was told of a count sees it: no more and no less
pgbench(32, 50, 'read', <<'END', '-D', 'turn=0');
\set id :client_id + 1601
\set turn :turn + 1
SELECT increment_prompt_views(:id), increment_prompt_views(1600);
SELECT 1 / (view_count = :turn)::int FROM prompt_stats WHERE prompt_id = :id;
SELECT 1 / (view_count = :turn)::int FROM get_prompt_stats(:id);
END
is(views(1600), 1600, 'read: exact');

# A list goes to the flusher even where nobody else counts; few prompts don't
wait_for_flusher();
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
	wait_for_flusher();
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
is(sql(q{SELECT DISTINCT wait_event_type, wait_event FROM pg_stat_activity WHERE query LIKE '%_views(4%' AND pid <> pg_backend_pid()}),
	'Extension|' . ($node->pg_version >= 17 ? 'PromptStatsGroup' : 'Extension'), 'as pg_stat_activity says');
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
is(outcome($other->query("SET statement_timeout = 0; SET lock_timeout = '100ms'")), 'ok', 'timeout set');
is(outcome($other->query('BEGIN; SELECT increment_prompt_views(4, 1000)')), 'ok', 'nothing to wait for before the COMMIT');
is(outcome($other->query('COMMIT')), '55P03', 'which lock_timeout ends');
is(outcome($other->query("SET lock_timeout = 0; SET statement_timeout = '100ms'")), 'ok', 'timeout set');
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

# ---- a row of a transaction that is prepared

is(outcome($locker->query("BEGIN; SELECT increment_prompt_views(27, 10); PREPARE TRANSACTION 'held'")), 'ok', 'prepared');
wait_for_flusher();
my $returned = own_folds('returned');
send_query($waiter, 'SELECT increment_prompt_views(27)');
wait_for_waiters(1, 'who counts its prompt waits in a group');
$other->query('RESET statement_timeout');
is(outcome($other->query('SELECT increment_prompt_views(28)')), 'ok', 'others go on');
ok($node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity
	WHERE query LIKE '%(27)%' AND wait_event_type = 'Lock')), 'then for the prepared transaction itself');
is(outcome($other->query('SELECT increment_prompt_views(28)')), 'ok', 'others go on');
is(outcome($other->query("COMMIT PREPARED 'held'")), 'ok', 'COMMIT PREPARED');
is(outcome($waiter->read_result), 'ok', 'releases it');
is(views(27), 11, 'both counted');
is(views(28), 2, 'so are the others');
is(own_folds('returned') - $returned, 1, 'it was returned by the group');

# ---- synchronous_commit: the strongest of a group

# Whether anybody has flushed the log when a group of these levels returns; nobody else
# does, as the writer of the log comes by each ten seconds, and the locker rolls back
sub flushed_by
{
	my @members = map { my $member = session(); $member->query("SET synchronous_commit = $_"); $member } @_;
	my $formed = 'SELECT groups, grouped_transactions FROM prompt_stats_status';

	foreach my $attempt (1 .. 10)
	{
		wait_for_flusher();
		my ($groups, $grouped) = split /\|/, sql($formed);
		$locker->query('SET synchronous_commit = off');
		$locker->query('BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 29 FOR UPDATE');
		send_query($_, 'SELECT increment_prompt_views(29)') foreach @members;
		wait_for_waiters(scalar @members, "synchronous_commit @_: they wait");
		my $lsn = $locker->query('SELECT pg_current_wal_insert_lsn()')->{rows}[0][0];
		$locker->query('ROLLBACK');
		is(outcome($_->read_result), 'ok', "synchronous_commit @_: ok") foreach @members;
		my $flushed = $locker->query("SELECT pg_current_wal_flush_lsn() > '$lsn'")->{rows}[0][0];
		$locker->query('RESET synchronous_commit');

		# Else they were too late for one
		return $flushed if sql($formed) eq join '|', $groups + 1, $grouped + @members;
	}
	return 'no group';
}
is(flushed_by('off', 'on'), 't', 'synchronous_commit: who wants it durable gets it');
my $flushed = '';
foreach (1 .. 3)    # the writer of the log may have come by
{
	$flushed = flushed_by('off', 'off');
	last if $flushed eq 'f';
}
is($flushed, 'f', 'synchronous_commit: where nobody wants it, nobody waits for it');

# ---- a table that somebody has locked

# The first that comes is alone, and the others a group
get_unstuck();
$returned = own_folds('returned');
wait_for_flusher();
$locker->query('BEGIN; LOCK TABLE prompt_stats IN SHARE MODE');
my @returned = ($waiter, $canceled, $other);
my $first = session();
send_query($first, 'SELECT increment_prompt_views(7, 10)');
ok(PromptStats::wait_until($node, "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted
	AND relation = 'prompt_stats'::regclass"), 'who is alone waits for the lock');
send_query($_, 'SELECT increment_prompt_views(7, 100)') foreach @returned;
ok($node->poll_query_until('postgres', "SELECT count(*) = 4 FROM pg_locks WHERE NOT granted
	AND relation = 'prompt_stats'::regclass"), 'who was in a group waits for the lock itself');
my $by_lock = own_folds('table_lock');
is(outcome($locker->query('SELECT increment_prompt_views(7)')), 'ok', 'who holds it counts');
$locker->query('COMMIT');
is(own_folds('table_lock') - $by_lock, 1, 'its own');
is(outcome($_->read_result), 'ok', 'the lock is free') foreach $first, @returned;
is(views(7), 311, 'all counted');
is(own_folds('returned') - $returned, 300, 'the group was returned');
get_stuck();

# ---- each its own error

my $bad = session();
is(outcome($bad->query('SELECT increment_prompt_views(99999)')), '23503', 'unknown prompt');
is(outcome($bad->query('SELECT increment_prompt_views(ARRAY[8, 99999]::bigint[])')), '23503', 'one of two unknown');
is(views(8), 0, 'a unit is counted whole or not at all');
is(outcome($bad->query('SELECT increment_prompt_views(1500)')), 'ok', 'no row yet');
is(views(1500), 1, 'it is made');
sql("UPDATE prompt_stats SET view_count = $MAX - CASE prompt_id WHEN 9 THEN 10 ELSE 1000000000 END WHERE prompt_id IN (9, 10, 11)");
is(outcome($bad->query('SELECT increment_prompt_views(9, 11)')), '22003', 'no room');
is(outcome($bad->query('SELECT increment_prompt_views(10, 1000000000)')), 'ok', 'just room enough');

# Two whose sum has no room, in one group
$locker->query('BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 11 FOR UPDATE');
send_query($waiter, 'SELECT increment_prompt_views(11, 1000000000)');
send_query($canceled, 'SELECT increment_prompt_views(11, 1000000000)');
wait_for_waiters(2, 'two that do not both fit');
$locker->query('COMMIT');
is(join(' ', sort map { outcome($_->read_result) } $waiter, $canceled), '22003 ok', 'one fits');
is(views(11), $MAX, 'and is counted');

# ---- transactions that fold their own

my $serializable = own_folds('serializable');
is(outcome($other->query("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT increment_prompt_views(12); COMMIT")),
	'ok', 'SERIALIZABLE');
is(own_folds('serializable') - $serializable, 1, 'told as such');
is(outcome($other->query("BEGIN; SELECT increment_prompt_views(12); PREPARE TRANSACTION 'p'")), 'ok', 'PREPARE');
is(outcome($other->query("COMMIT PREPARED 'p'")), 'ok', 'COMMIT PREPARED');
is(outcome($other->query('CREATE MATERIALIZED VIEW once AS
	SELECT count(*) FROM (SELECT increment_prompt_views(12) OFFSET 0) AS called')), 'ok', 'security-restricted');
is(outcome($other->query('BEGIN; SELECT increment_prompt_views(12); SAVEPOINT s; SELECT increment_prompt_views(12, 100);
	ROLLBACK TO s; SELECT increment_prompt_views(12); COMMIT')), 'ok', 'savepoints');
is(outcome($other->query('BEGIN; SELECT increment_prompt_views(12, 100); ROLLBACK')), 'ok', 'ROLLBACK');
is(views(12), 5, 'all of them exact');
is(outcome($other->query('SET ROLE anon')), 'ok', 'as somebody who may do nothing');
is(outcome($other->query('UPDATE prompt_stats SET view_count = 0')), '42501', 'not even with the table');
is(outcome($other->query('SELECT txid_current(), increment_prompt_views(12)')), 'ok', 'EXECUTE is enough');
is(outcome($other->query('SELECT increment_prompt_views(12)')), 'ok', 'in a group as well');
$other->query('RESET ROLE');
is(views(12), 7, 'counted');

# More than a slot takes
is(outcome($waiter->query('SELECT increment_prompt_copies(array_agg(i)) FROM generate_series(501::bigint, 600) AS i')),
	'ok', 'a hundred prompts at once');
my $too_large = own_folds('too_large');
is(outcome($waiter->query('SELECT increment_prompt_copies(array_agg(i)) FROM generate_series(1::bigint, 2000) AS i WHERE i <> 1000')),
	'ok', 'more than a group would wait for');
is(own_folds('too_large') - $too_large, 1999, 'told as such');
is(sql('SELECT sum(copy_count) FROM prompt_stats WHERE prompt_id > 500 AND prompt_id NOT BETWEEN 991 AND 999'),
	100 + 1499 - 9, 'all counted');

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
	CREATE TABLE seen (prompt bigint, kind text, who text, session text, path text, got_away boolean);
	ALTER TABLE seen OWNER TO shop;
	CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$
	DECLARE
		superuser text := (SELECT quote_ident(rolname) FROM pg_roles WHERE oid = 10);
		away boolean := false;
		step text;
	BEGIN
		FOREACH step IN ARRAY ARRAY['RESET ROLE', 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION DEFAULT',
			'SET ROLE ' || superuser, 'SET SESSION AUTHORIZATION ' || superuser] LOOP
			BEGIN
				EXECUTE step;
				away := away OR current_user <> 'shop';
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
		END LOOP;
		INSERT INTO public.seen
			VALUES (NEW.prompt_id, TG_NAME, current_user, session_user, current_setting('search_path'), away);
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
my $superuser = sql('SELECT current_user');
foreach my $round ([ $superuser, 'flusher' ], [ $superuser, 'itself' ], [ 'anon', 'flusher' ], [ 'anon', 'itself' ])
{
	my ($caller, $folder) = @$round;
	my $also = $folder eq 'itself' ? 'txid_current()' : '1';
	my $session = $folder eq 'itself' ? $caller : 'shop';
	my $path = 'pg_catalog, public, pg_temp';

	sql('TRUNCATE seen');
	wait_for_flusher();
	$other->query("SET SESSION AUTHORIZATION \"$caller\"");
	is(outcome($other->query("SELECT increment_prompt_views(15), $also")), 'ok', "$caller, folded by $folder: turn $_") for 1 .. 2;
	is(sql('SELECT kind, who, session, path, got_away, count(*) FROM seen WHERE prompt = 15 GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3'),
		"deferred|shop|$session|$path|f|2\nplain|shop|$session|$path|f|2",
		"$caller, folded by $folder: triggers run once, as the owner, and can't leave");
	is($other->query('SELECT session_user')->{rows}[0][0], $caller, "$caller, folded by $folder: is still the same");
}
is(views(15), 8, 'what a trigger sets does not reach the next group');
$other->query('RESET SESSION AUTHORIZATION');
is(outcome($other->query('SHOW search_path')), 'ok', 'settings of the session');
is($other->query('SHOW synchronous_commit')->{rows}[0][0], 'on', 'are left alone');
is($other->query('SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()')->{rows}[0][0],
	'test', 'so is its name');
ddl('DROP FUNCTION spy() CASCADE');

# Triggers that count another prompt, in the flusher and in the caller
ddl(q(
	CREATE FUNCTION count_next() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN PERFORM public.increment_prompt_views(NEW.prompt_id + 1); RETURN NULL; END $$;
	SET ROLE shop;
	CREATE TRIGGER next AFTER UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id BETWEEN 33 AND 35)
		EXECUTE FUNCTION count_next();
));
foreach my $caller ($superuser, 'anon')
{
	wait_for_flusher();
	my $grouped = sql('SELECT grouped_transactions FROM prompt_stats_status');
	$other->query("SET SESSION AUTHORIZATION \"$caller\"");
	is(outcome($other->query('SELECT increment_prompt_views(33)')), 'ok', "$caller: a trigger counts in the flusher");
	is(sql('SELECT grouped_transactions FROM prompt_stats_status'), $grouped + 1, "$caller: it was the flusher");
	is(outcome($other->query('SELECT increment_prompt_views(33), txid_current()')), 'ok', "$caller: and in the caller");
	$other->query('RESET SESSION AUTHORIZATION');
}
is(sql('SELECT string_agg(view_count::text, $$ $$ ORDER BY prompt_id) FROM prompt_stats WHERE prompt_id BETWEEN 33 AND 37'),
	'4 4 4 4 0', 'a trigger that counts: each row once');
pgbench(16, 50, 'nested', "SELECT increment_prompt_views(33);\n");
is(views(33), 804, 'a trigger that counts: exact');
is(sql('SELECT count(DISTINCT view_count) FROM prompt_stats WHERE prompt_id BETWEEN 34 AND 36'), 1, 'once a fold');
ddl('DROP FUNCTION count_next() CASCADE');

# One that puts off what it does elsewhere: refused, or done as the owner, but never as who commits
ddl(q(
	CREATE TABLE later (who text);
	CREATE FUNCTION leave_note() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN INSERT INTO public.later VALUES ('at once'); RETURN NULL; END $$;
	CREATE FUNCTION look_who() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN UPDATE public.later SET who = current_user; RETURN NULL; END $$;
	ALTER TABLE later OWNER TO shop;
	SET ROLE shop;
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look_who();
	CREATE TRIGGER note AFTER UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 38) EXECUTE FUNCTION leave_note();
));
foreach my $round ([ $superuser, '1' ], [ $superuser, 'txid_current()' ], [ 'anon', '1' ], [ 'anon', 'txid_current()' ])
{
	my ($caller, $also) = @$round;

	wait_for_flusher();
	$other->query("SET SESSION AUTHORIZATION \"$caller\"");
	my $outcome = outcome($other->query("SELECT increment_prompt_views(38), $also"));
	$other->query('RESET SESSION AUTHORIZATION');
	like($outcome, qr/^(42501|ok)$/, "$caller, $also: a trigger that defers is refused, or goes through");
	is(sql("SELECT view_count, (SELECT string_agg(who, ' ') FROM later) FROM prompt_stats WHERE prompt_id = 38"),
		$outcome eq 'ok' ? '1|shop' : '0|', "$caller, $also: nothing else happens");
	sql('TRUNCATE later; UPDATE prompt_stats SET view_count = 0 WHERE prompt_id = 38') if $outcome eq 'ok';
}
ddl('DROP TABLE later; DROP FUNCTION leave_note(), look_who() CASCADE');

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

# Each slot is used by one of these; who finds one that is not free folds its own
sub each_slot_joins
{
	my ($what) = @_;
	my @sessions = map { session() } 1 .. sql(q(SELECT 98 - count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'));

	wait_for_flusher();
	my $grouped = sql('SELECT grouped_transactions FROM prompt_stats_status');
	send_query($_, 'SELECT increment_prompt_views(31)') foreach @sessions;
	is(join(' ', grep { $_ ne 'ok' } map { outcome($_->read_result) } @sessions), '', "$what: all succeed");
	is(sql('SELECT grouped_transactions FROM prompt_stats_status') - $grouped, scalar @sessions, "$what: all join");
	return;
}

# The fold of prompt 30 stops at a gate, so that whatever comes, comes when units are taken
ddl(q(
	CREATE TABLE gate (open_to bigint);
	INSERT INTO gate VALUES (0);
	CREATE SEQUENCE arrivals;
	ALTER TABLE gate OWNER TO shop;
	ALTER SEQUENCE arrivals OWNER TO shop;
	CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$
	DECLARE arrival bigint := nextval('public.arrivals');
	BEGIN
		WHILE arrival > (SELECT open_to FROM public.gate) LOOP
			PERFORM pg_sleep(0.01);
		END LOOP;
		RETURN NEW;
	END $$;
	CREATE TRIGGER pass BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 30) EXECUTE FUNCTION pass();
));
my %late = (statement_timeout => 10, lock_timeout => 100, cancel => 1000, termination => 10000);
foreach my $end ('commits', 'fails')
{
	my %sessions = map { $_ => session() } keys %late;
	my $others_views = views(30);

	sql("UPDATE gate SET open_to = 0; SELECT setval('arrivals', 1, false)");
	wait_for_flusher();
	$sessions{$_}->query("SET $_ = '3s'") foreach qw(statement_timeout lock_timeout);
	send_query($waiter, 'SELECT increment_prompt_views(30)');
	ok($node->poll_query_until('postgres', 'SELECT is_called FROM arrivals'), "$end: a group stops at the gate");
	send_query($sessions{$_}, "SELECT increment_prompt_views(30, $late{$_})") foreach sort keys %late;
	wait_for_waiters(5, "$end: the next ones queue");
	sql('UPDATE gate SET open_to = 1');
	is(outcome($waiter->read_result), 'ok', "$end: the first goes on");
	ok($node->poll_query_until('postgres', 'SELECT last_value = 2 FROM arrivals'), "$end: the next ones are taken");
	is(sql(q(SELECT count(*), bool_and(pg_cancel_backend(pid)) FROM pg_stat_activity
		WHERE query LIKE '%(30, 1000)' AND pid <> pg_backend_pid())), '1|t', "$end: one is canceled");
	is(sql(q(SELECT count(*), bool_and(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE query LIKE '%(30, 10000)' AND pid <> pg_backend_pid())), '1|t', "$end: one is terminated");
	ok($node->poll_query_until('postgres', q(SELECT count(*) = 2 FROM pg_stat_activity
		WHERE (query LIKE '%(30, 10)' OR query LIKE '%(30, 100)') AND now() > query_start + interval '3.5 s')), "$end: the others' time is over");

	sql($end eq 'commits' ? 'UPDATE gate SET open_to = 1000' :
		q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'prompt_stats flusher'));
	my %outcome = map { $_ => outcome($sessions{$_}->read_result) } keys %late;
	my $last = delete $outcome{termination};
	like($last, $end eq 'commits' ? qr/^(ok|57P01|lost)$/ : qr/^57P01$/, "$end: who is terminated may still be told");
	isnt(outcome($sessions{termination}->query('SELECT 1')), 'ok', "$end: and is gone then");
	is_deeply(\%outcome, $end eq 'commits' ?
		{ statement_timeout => 'ok', lock_timeout => 'ok', cancel => 'ok' } :
		{ statement_timeout => '57014', lock_timeout => '55P03', cancel => '57014' },
		"$end: what came too late, or in time");
	sql('UPDATE gate SET open_to = 1000');
	each_slot_joins("$end: no slot is left behind");
	like(views(30) - $others_views, $end eq 'fails' ? qr/^1$/ : $last eq 'ok' ? qr/^11111$/ : qr/^1?1111$/,
		"$end: counted once, or not at all");
}
ddl('DROP FUNCTION pass() CASCADE');

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
my $older = session();
$older->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM prompt_stats WHERE prompt_id = 20');
sql('SELECT increment_prompt_views(20)');
is(outcome($older->query('SELECT increment_prompt_views(20)')), 'ok', 'REPEATABLE READ without a worker');
is(outcome($older->query('COMMIT')), 'ok', 'whose row is newer than its snapshot');
is(views(20), 802, 'counted');

$node->stop;
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:|terminated by signal/, 'nothing crashed');
is(scalar(() = $log =~ /ERROR:  deadlock detected/g), 1, 'no deadlock but the one that was made');
done_testing();
