# Durability "async": held in memory, flushed by the flusher, and nothing lost or
# doubled on the way; the ledger says so at every moment [4][6][7][10].

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(time usleep);

my $MAX = 9223372036854775807;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', qq(
	prompt_stats.durability = async
	prompt_stats.flush_interval = '1h'
	max_connections = 100
	max_prepared_transactions = 5
	log_statement = none
));
$node->start;

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]) }
sub session { return PromptStats::Connection->new($node, 'test') // die 'no connection' }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }

sub set_interval
{
	$node->append_conf('postgresql.conf', "prompt_stats.flush_interval = '$_[0]'");
	$node->reload;
	return;
}

my $SCHEMA = q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 3000);
	CREATE EXTENSION prompt_stats;
	INSERT INTO prompt_stats (prompt_id) SELECT generate_series(1, 2000);
);
sql($SCHEMA);

sub views { return sql("SELECT coalesce(sum(view_count), 0) FROM prompt_stats WHERE prompt_id = $_[0]") }
sub live { return sql("SELECT view_count, pending FROM get_prompt_stats($_[0])") }
sub status { return sql("SELECT $_[0] FROM prompt_stats_status") }
sub flush { sql('SELECT prompt_stats_flush()'); return }
sub send_query
{
	my ($session, $sql) = @_;
	$session->send_bytes(pack('aNZ*', 'Q', length($sql) + 5, $sql));
	return;
}
my $LEDGER = 'accepted = flushed + pending + rejected';

# Calls until there is a flusher, which the first call starts
sub wait_for_flusher
{
	my ($database) = @_;
	foreach (1 .. 1800)
	{
		sql('SELECT increment_prompt_copies(1)', $database);
		return ok(1, 'there is a flusher')
			if sql("SELECT flusher FROM prompt_stats_status", $database) eq 'ready';
		usleep(100_000);
	}
	return ok(0, 'there is a flusher');
}

# ---- handed over, seen, flushed

wait_for_flusher();
my $session = session();
is(outcome($session->query('SELECT increment_prompt_views(2), increment_prompt_views(ARRAY[2, 3]::bigint[], 4)')), 'ok', 'counted');
is(views(2), 0, 'not in the table yet');
is(live(2), '5|5', 'but seen by get_prompt_stats()');
is(sql("SELECT view_count, pending FROM prompt_stats_live WHERE prompt_id = '3'"), '4|4', 'and in prompt_stats_live');
is(status('pending >= 9 AND lag > interval \'0\''), 't', 'and in the ledger');
is(status($LEDGER), 't', 'which adds up');
flush();
is(views(2), 5, 'flushed');
is(live(2), '5|0', 'nothing is pending');
is(status("pending, lag IS NULL, $LEDGER"), '0|t|t', 'the ledger knows');

# Without a row, seen all the same
wait_for_flusher();
sql('SELECT increment_prompt_views(2500)');
is(live(2500), '1|1', 'a prompt without a row: one');
is(sql("SELECT view_count, pending FROM prompt_stats_live WHERE prompt_id = '2500'"), '1|1', 'a prompt without a row: all');
flush();
is(views(2500), 1, 'its row is made');

# Rolled back, also in part
is(outcome($session->query('BEGIN; SELECT increment_prompt_views(4, 100); ROLLBACK')), 'ok', 'ROLLBACK');
is(outcome($session->query('BEGIN; SELECT increment_prompt_views(4); SAVEPOINT s; SELECT increment_prompt_views(4, 100);
	ROLLBACK TO s; SELECT increment_prompt_views(4); COMMIT')), 'ok', 'ROLLBACK TO SAVEPOINT');
is(outcome($session->query('BEGIN; SELECT increment_prompt_views(4, 100); SELECT 1/0; COMMIT')), '22012', 'an error');
$session->query('ROLLBACK');
is(outcome($session->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT increment_prompt_views(4); COMMIT')), 'ok', 'REPEATABLE READ');
is(live(4), '3|3', 'count as they should');

# With other writes, or mixed: the strongest durability
sql('CREATE TABLE side (n bigint)');
sql('BEGIN; SELECT increment_prompt_views(5); INSERT INTO side VALUES (1); COMMIT');
is(views(5), 1, 'a transaction that writes commits its counts with its writes');
sql(q(BEGIN; SELECT increment_prompt_views(5); SET LOCAL prompt_stats.durability = 'group'; SELECT increment_prompt_views(5); COMMIT));
is(views(5), 3, 'mixed modes: the strongest');
sql(q(BEGIN; SELECT increment_prompt_views(5); PREPARE TRANSACTION 'p'));
sql(q(COMMIT PREPARED 'p'));
is(views(5), 4, 'PREPARE TRANSACTION');
is(status("(own_fold_reasons->>'writes')::int >= 1 AND own_fold_reasons ? 'prepare'"), 't', 'the reasons are told');

# A snapshot of a whole transaction sees the table
$session->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
sql('SELECT increment_prompt_views(4)');
is_deeply($session->query('SELECT view_count, pending FROM get_prompt_stats(4)')->{rows}, [ [ 0, 0 ] ], 'REPEATABLE READ sees the table: one');
flush();
is_deeply($session->query("SELECT view_count, pending FROM prompt_stats_live WHERE prompt_id = '4'")->{rows}, [ [ 0, 0 ] ], 'and all');
$session->query('COMMIT');
is(live(4), '4|0', 'afterwards it sees all');

# A statement that is older than the flush, when nothing is remembered of it any more
my $gate = session();
$gate->query('SELECT pg_advisory_lock(7)');
send_query($session, q(WITH gate AS MATERIALIZED (SELECT pg_advisory_lock_shared(7) AS open)
	SELECT (SELECT view_count FROM get_prompt_stats(8)), (SELECT view_count FROM prompt_stats_live WHERE prompt_id = '9') FROM gate));
ok($node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'advisory')), 'a statement has its snapshot, and waits');
sql('SELECT increment_prompt_views(ARRAY[8, 9]::bigint[], 5)');
flush();
is(status('entries'), 0, 'what it did not see is flushed and forgotten');
$gate->query('SELECT pg_advisory_unlock(7)');
is_deeply($session->read_result->{rows}, [ [ 5, 5 ] ], 'it reads it all the same');
$session->query('SELECT pg_advisory_unlock_shared(7)');

# ---- what can't be flushed yet

my $locker = session();
$locker->query('BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 6 FOR UPDATE');
sql('SELECT increment_prompt_views(ARRAY[6, 7]::bigint[])');
is(outcome($session->query("SET statement_timeout = '200ms'; SELECT prompt_stats_flush()")), '57014', 'a locked row: the flush waits');
is(views(7), 1, 'others are flushed');
is(live(6), '1|1', 'the locked one is pending');
is(outcome($locker->query('SELECT prompt_stats_flush()')), '25001', 'who holds the lock may not wait');
$locker->query('COMMIT');
flush();
is(views(6), 1, 'the lock is gone, it is flushed');
$session->query('RESET statement_timeout');

$locker->query('BEGIN; LOCK TABLE prompt_stats IN SHARE MODE');
sql('SELECT increment_prompt_views(6)');
is(outcome($session->query("SET statement_timeout = '200ms'; SELECT prompt_stats_flush()")), '57014', 'a locked table: the flush waits');
is(outcome($locker->query('SELECT prompt_stats_flush()')), '25001', 'who holds that lock may not wait either');
$locker->query('COMMIT');
flush();
is(views(6), 2, 'and then it is flushed');
$session->query('RESET statement_timeout');

# The same between two transactions of a cycle: the second inserts rows that are missing
wait_for_flusher();
flush();
sql(q(
	CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN new; END $$;
	CREATE TRIGGER hold_up BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION hold_up();
));
my $flushed = status('flushes');
$gate->query('SELECT pg_advisory_lock(7)');
sql('SELECT increment_prompt_views(ARRAY[6, 2501]::bigint[])');
send_query($session, "SET statement_timeout = '60s'; SELECT prompt_stats_flush()");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"), 'the flusher folds');
send_query($locker, 'BEGIN; LOCK TABLE prompt_stats IN SHARE MODE');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'relation' AND NOT granted"), 'a lock waits for it');
$gate->query('SELECT pg_advisory_unlock(7)');
is(outcome($locker->read_result), 'ok', 'and is next');
ok($node->poll_query_until('postgres', "SELECT flushes > $flushed FROM prompt_stats_status"), 'the rest of the cycle comes to nothing');
is(views(6) . status('pending'), '31', 'part of it is flushed');
$locker->query('COMMIT');
is(outcome($session->read_result), 'ok', 'who waits has waited');
is(views(2501), 1, 'until all was flushed');
sql('DROP FUNCTION hold_up CASCADE');
$session->query('RESET statement_timeout');

# ---- what can't be flushed at all

my $rejected = status('rejected');
my $log = -s $node->logfile;
sql("UPDATE prompt_stats SET view_count = $MAX - 5 WHERE prompt_id = 8");
sql(q(
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
	CREATE TRIGGER refuse BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 9) EXECUTE FUNCTION refuse();
));
wait_for_flusher();
sql('SELECT increment_prompt_views(99999, 7), increment_prompt_views(8, 6), increment_prompt_views(9, 3)');
sql('SELECT increment_prompt_views(array_agg(i)) FROM generate_series(10::bigint, 500) AS i');
flush();
is(status("rejected - $rejected"), 16, 'an unknown prompt, no room, a trigger: rejected');
is(status("pending, $LEDGER"), '0|t', 'the ledger adds up');
is(sql('SELECT count(*) FROM prompt_stats WHERE prompt_id BETWEEN 10 AND 500 AND view_count = 1'), 491, 'all others are counted');
isnt(status('last_rejected'), '', 'the last reason is told');
like(slurp_file($node->logfile, $log), qr/rejected counts of prompt \d+: .*\n.*SQLSTATE \w{5}; \d+ views/, 'and logged');
sql('DROP FUNCTION refuse() CASCADE; UPDATE prompt_stats SET view_count = 0 WHERE prompt_id = 8');

# Thousands of them write but few lines, one a second
$rejected = status('rejected');
$log = -s $node->logfile;
my $burst = time;
foreach my $first (100_000, 101_000, 102_000)
{
	sql("SELECT increment_prompt_views(array_agg(i), 2) FROM generate_series(${first}::bigint, $first + 999) AS i");
}
is(status('pending'), 6000, 'three thousand unknown prompts');
flush();
my $lines = () = slurp_file($node->logfile, $log) =~ /rejected counts of prompt/g;
is(status("rejected - $rejected, pending, $LEDGER"), '6000|0|t', 'all are rejected');
cmp_ok($lines, '<=', 1 + time - $burst, 'and some of them logged');

# ---- a trigger runs once for a row, as its owner, and a failing cycle changes nothing

sql(q(
	CREATE TABLE seen (prompt_id bigint, added bigint, who text);
	CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN INSERT INTO public.seen VALUES (NEW.prompt_id, NEW.view_count - OLD.view_count, current_user); RETURN NEW; END $$;
	CREATE TRIGGER see BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION see();
));
sql('SELECT increment_prompt_views(11), increment_prompt_views(12)') for 1 .. 3;
flush();
is(sql('SELECT prompt_id, added FROM seen ORDER BY 1'), "11|3\n12|3", 'a trigger runs once for each folded row');
sql('DROP FUNCTION see() CASCADE');

# ---- the flusher ends

sql('SELECT increment_prompt_views(601)');
my $pid = status('flusher_pid');
sql("SELECT pg_terminate_backend($pid)");
ok($node->poll_query_until('postgres', 'SELECT view_count = 1 FROM prompt_stats WHERE prompt_id = 601'), 'a terminated flusher flushes first');
wait_for_flusher();
sql('SELECT increment_prompt_views(601)');
$pid = status('flusher_pid');
sql("SELECT pg_cancel_backend($pid)");
flush();
is(views(601), 2, 'a cancel does it no harm');
set_interval('50ms');
ok($node->poll_query_until('postgres', "SELECT flusher = 'none' FROM prompt_stats_status"), 'idle, it goes');
wait_for_flusher();

# ---- under load: the ledger holds at every moment, no reader sees less than before

sub load
{
	my ($clients, $work) = @_;
	return PromptStats::Load->start($node, $clients, $work);
}
my %before;
my $handed;
sub counted { return map { split /\|/ } split /\n/, sql("SELECT prompt_id || ' views', view_count FROM prompt_stats") }

# Before a load: the table, and what the ledger says that was handed over or folded by callers
sub remember
{
	%before = counted();
	$handed = status('accepted + own_folds');
	return;
}

sub check_exact
{
	my ($load, $name) = @_;
	my $told = $load->stop;
	my $sum = 0;
	$sum += $_ foreach values %{ $told->{acked} };
	is(status("accepted + own_folds - $handed"), $sum, "$name: the ledger has what the clients were told");
	flush();
	my %counted = counted();
	$counted{$_} -= $before{$_} foreach keys %before;
	is(PromptStats::Load::differences($told, \%counted), '', "$name: exact");
	is(join(' ', keys %{ $told->{errors} }), '', "$name: no errors");
	is(status("pending, $LEDGER"), '0|t', "$name: the ledger adds up");
	return;
}

sub hot_and_not
{
	my ($client, $turn) = @_;
	my $id = $turn % 2 ? 20 : 20 + int(rand 100);
	my $n = 1 + $turn % 3;
	return ("SELECT increment_prompt_views($id, $n)", { "$id views" => $n });
}

foreach my $interval ('1ms', '20ms')
{
	set_interval($interval);
	remember();
	my $load = load(8, \&hot_and_not);
	my ($last, $sum, $wrong, $less, $unlike) = (0, 0, 0, 0, 0);
	foreach (1 .. 400)
	{
		my $rows = $session->query("SELECT (SELECT $LEDGER FROM prompt_stats_status), (SELECT view_count FROM get_prompt_stats(20)),
			(SELECT sum(view_count) FROM prompt_stats_live WHERE prompt_id::bigint BETWEEN 20 AND 119)")->{rows}[0];
		$wrong++ if $rows->[0] ne 't';
		$less++ if $rows->[1] < $last || $rows->[2] < $sum;
		$unlike++ if $rows->[2] < $rows->[1];
		($last, $sum) = @$rows[ 1, 2 ];
	}
	is("$wrong $less $unlike", '0 0 0', "flushed each $interval: every reader sees every count once");
	check_exact($load, "flushed each $interval");
}

# The sums that a session was told of before it asks are there, in one statement or two
set_interval('5ms');
my $told = 0;
my $missed = 0;
foreach my $turn (1 .. 300)
{
	$session->query('SELECT increment_prompt_views(21)');
	my $now = $session->query('SELECT view_count FROM get_prompt_stats(21)')->{rows}[0][0];
	$missed++ if $turn > 1 && $now != $told + 1;
	$told = $now;
}
is($missed, 0, 'a session sees what it has counted, once');

# A statement whose snapshot is older than all that is remembered
set_interval('1ms');
wait_for_flusher();
my $slow = session();
$locker->query('SELECT pg_advisory_lock(5)');
my $query = q(SELECT (SELECT view_count FROM get_prompt_stats(602)) FROM (SELECT pg_advisory_lock(5) OFFSET 0) AS waited);
$slow->send_bytes(pack('aNZ*', 'Q', length($query) + 5, $query));
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"), 'a statement waits');
$session->query('SELECT increment_prompt_views(602)'), $session->query('SELECT prompt_stats_flush()') foreach 1 .. 100;
$locker->query('SELECT pg_advisory_unlock(5)');
is($slow->read_result->{rows}[0][0], 100, 'an old snapshot: all of it, as of now');

# ---- DDL under load

set_interval('20ms');
wait_for_flusher();
remember();
my $load = load(8, \&hot_and_not);
foreach my $statement ('ALTER TABLE prompt_stats ADD COLUMN extra integer', 'VACUUM FULL prompt_stats', 'REINDEX TABLE prompt_stats',
	'ALTER TABLE prompt_stats ALTER view_count TYPE integer USING view_count::integer', 'ALTER TABLE prompt_stats ALTER view_count TYPE bigint')
{
	my $began = time;
	sql($statement);
	cmp_ok(time - $began, '<', 10, $statement);
	my $since = status('flushed');
	ok($node->poll_query_until('postgres', "SELECT flushed > $since + 100 FROM prompt_stats_status"), 'flushing goes on');
}
check_exact($load, 'DDL');

# Pending counts of a table that is truncated arrive; of one that is dropped they are rejected
set_interval('1h');
wait_for_flusher();
flush();
sql('SELECT increment_prompt_views(30, 5)');
sql('TRUNCATE prompt_stats');
flush();
is(views(30), 5, 'TRUNCATE: what was pending is counted afterwards');

sql('SELECT increment_prompt_views(30, 5)');
is(sql('DROP EXTENSION prompt_stats; SELECT 1'), 1, 'DROP EXTENSION with counts pending');
set_interval('10ms');
ok($node->poll_query_until('postgres', 'SELECT view_count = 10 FROM prompt_stats WHERE prompt_id = 30'), 'they arrive in the table');
sql('CREATE EXTENSION prompt_stats');
set_interval('1h');
wait_for_flusher();
flush();
$rejected = status('rejected');
sql('SELECT increment_prompt_views(30, 5)');
sql('DROP TABLE prompt_stats; SELECT prompt_stats_setup()');
flush();
is(status("rejected - $rejected, $LEDGER"), '5|t', 'DROP TABLE: they are rejected');

# The ids change their type
sql('SELECT increment_prompt_views(31, 5)');
sql('ALTER TABLE prompt_stats DROP CONSTRAINT prompt_stats_prompt_id_fkey, ALTER prompt_id TYPE text');
flush();
is(sql(q(SELECT view_count FROM prompt_stats WHERE prompt_id = '31')), 5, 'another type of ids');

# Long ids that begin alike: an entry holds the first 16 bytes, its history as far as 52
my $ids = "SELECT repeat('x', n) || last AS id FROM generate_series(1, 51) AS n, unnest('{a,b}'::text[]) AS last";
set_interval('1h');
wait_for_flusher();
flush();
sql("SELECT increment_prompt_views(id), increment_prompt_copies(id, 2) FROM ($ids) AS i") for 1 .. 2;
is(sql("SELECT count(*) FROM ($ids) AS i, get_prompt_stats(id) WHERE view_count = 2 AND copy_count = 4"), 102, 'long ids: read one by one');
is(sql("SELECT count(*) FROM ($ids) AS i JOIN prompt_stats_live ON prompt_id = id WHERE view_count = 2 AND copy_count = 4"), 102, 'and all');
is(status('pending'), 612, 'all are pending');
sql("SELECT increment_prompt_views(repeat('x', 52) || 'a')");
is(sql("SELECT view_count FROM prompt_stats WHERE prompt_id = repeat('x', 52) || 'a'"), 1, 'a longer one is folded by its caller');
flush();
is(sql("SELECT count(*) FROM ($ids) AS i JOIN prompt_stats ON prompt_id = id WHERE view_count = 2 AND copy_count = 4"), 102, 'and are flushed');
sql(q(DROP EXTENSION prompt_stats; DROP TABLE prompt_stats, prompt_events; CREATE EXTENSION prompt_stats));

# ---- a table of pending counts that is full

$node->append_conf('postgresql.conf', "prompt_stats.max_pending = '256kB'");
set_interval('20ms');
ok($node->poll_query_until('postgres', "SELECT flusher = 'none' AND max_entries = 0 FROM prompt_stats_status"), 'idle, the memory is given back');
set_interval('1h');
wait_for_flusher();
flush();
my $flushes = status('flushes');
my $many = session();
my @failed;
# Any two of these need more than there is, and follow each other faster than one is flushed
foreach my $range (([ 100, 1032 ], [ 1033, 1965 ], [ 1966, 2899 ]) x 3)
{
	my $outcome = outcome($many->query("SELECT increment_prompt_views(array_agg(i::bigint)) FROM generate_series($range->[0], $range->[1]) AS i"));
	push @failed, $outcome if $outcome ne 'ok';
}
is("@failed", '', 'counts of more prompts than there is memory for');
ok($node->poll_query_until('postgres', "SELECT flushes > $flushes FROM prompt_stats_status"), 'it is flushed at once');
is(sql('SELECT sum(view_count) FROM prompt_stats_live WHERE prompt_id::bigint BETWEEN 100 AND 2899'), 8400, 'readers see all');
flush();
is(sql('SELECT count(*), min(view_count), max(view_count) FROM prompt_stats WHERE prompt_id BETWEEN 100 AND 2899'), '2800|3|3',
	'are exact');
is(status($LEDGER), 't', 'the ledger adds up');
is(status("own_fold_reasons ? 'no_memory' AND max_entries < 1500"), 't', 'callers folded what found no room');
$node->append_conf('postgresql.conf', "prompt_stats.max_pending = '16MB'");

# ---- a parallel plan reads what only this process knows

wait_for_flusher();
flush();
sql('SELECT increment_prompt_views(array_agg(i::bigint)) FROM generate_series(100, 1099) AS i');
my $parallel = q(SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
	SET enable_indexscan = off; SET enable_bitmapscan = off;);
my $join = 'SELECT count(*), sum(view_count) FROM prompts JOIN prompt_stats_live ON prompt_id = id::text WHERE id BETWEEN 100 AND 1099';
like(sql("$parallel EXPLAIN (COSTS off) $join"), qr/Gather/, 'a parallel plan');
is(sql("$parallel $join"), '1000|4000', 'shows what is pending');
flush();
is(sql("$parallel $join"), '1000|4000', 'and what is flushed');

# ---- a trigger that takes long: transactions get shorter, for others wait for them

sql(q(
	CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.005); RETURN new; END';
	CREATE TRIGGER dawdle BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION dawdle();
));
foreach my $transactions (1, 2)
{
	my $before = status('flushes');
	sql('SELECT increment_prompt_views(array_agg(i::bigint)) FROM generate_series(100, 349) AS i');
	flush();
	is(status("flushes - $before"), $transactions, "transactions for 250 prompts: $transactions");
}
is(sql('SELECT min(view_count), max(view_count) FROM prompt_stats WHERE prompt_id BETWEEN 100 AND 349'), '6|6', 'exact');
sql('DROP FUNCTION dawdle CASCADE');
set_interval('20ms');

# ---- databases that are to go

sql('CREATE DATABASE shop');
sql($SCHEMA, 'shop');
wait_for_flusher('shop');
sql('SELECT increment_prompt_views(1, 5)', 'shop');
my $began = time;
sql('CREATE DATABASE copy TEMPLATE shop');
sql('ALTER DATABASE shop RENAME TO store');
is(sql('SELECT view_count FROM prompt_stats WHERE prompt_id = 1', 'copy'), 5, 'CREATE DATABASE TEMPLATE: flushed before');
sql('SELECT increment_prompt_views(1, 5)', 'store') for 1 .. 3;
sql('DROP DATABASE store');
sql('DROP DATABASE copy');
cmp_ok(time - $began, '<', 15, 'and none of it takes long');

# ---- shutdown, promotion; crashes are in 031_async_crash.pl

set_interval('200ms');
wait_for_flusher();
%before = counted();
foreach my $way ('fast', 'smart')
{
	$load = load(8, \&hot_and_not);
	my $sum = 'SELECT sum(view_count) FROM prompt_stats_live';
	my $since = sql($sum);
	ok($node->poll_query_until('postgres', "SELECT ($sum) > $since + 500"), 'counting');
	my $told = $way eq 'smart' ? $load->stop : undef;
	$node->stop($way);
	$told //= $load->stop;
	$node->start;
	my %counted = counted();
	$counted{$_} -= $before{$_} // 0 foreach keys %counted;
	is(PromptStats::Load::differences($told, \%counted), '', "$way shutdown: nothing is lost");
	%before = counted();
	wait_for_flusher();
}

# A row that stays locked to the end
set_interval('10ms');
wait_for_flusher();
sql(q(INSERT INTO prompt_stats (prompt_id) VALUES (3000); BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 3000 FOR UPDATE; PREPARE TRANSACTION 'keeps'));
sql('SELECT increment_prompt_views(3000, 7), increment_prompt_views(2999)');
$log = -s $node->logfile;
$node->stop('fast');
like(slurp_file($node->logfile, $log), qr/could not flush counts of prompt 3000: .*\n.*7 views/, 'a locked row: what is lost is in the log');
$node->start;
sql(q(COMMIT PREPARED 'keeps'));
is(views(3000) . ' ' . views(2999), '0 1', 'all others are flushed');
set_interval('200ms');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$node->backup('backup');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;

is($standby->safe_psql('postgres', 'SELECT accepted, pending, flusher FROM prompt_stats_status'), '0|0|none', 'a standby has nothing pending');
is($standby->safe_psql('postgres', 'SELECT prompt_stats_flush()'), '', 'and nothing to flush');
my ($ret, $stdout, $stderr) = $standby->psql('postgres', 'SELECT increment_prompt_views(1)');
like($stderr, qr/read-only transaction/, 'and counts nothing');
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'prompt_stats flusher'"), 0, 'nor does it start a flusher');
$node->wait_for_catchup($standby);
$standby->promote;
my $was = $standby->safe_psql('postgres', 'SELECT coalesce(sum(view_count), 0) FROM prompt_stats WHERE prompt_id = 40');
my $calls = 0;
my $accepted = 0;
while (!$accepted && $calls < 1800)
{
	usleep(100_000) if $calls++;
	$standby->safe_psql('postgres', 'SELECT increment_prompt_views(40)');
	$accepted = $standby->safe_psql('postgres', 'SELECT accepted FROM prompt_stats_status');
}
is($accepted, 1, 'promoted, it has a flusher, which takes a count');
ok($standby->poll_query_until('postgres', "SELECT flushed = 1 AND own_folds = $calls - 1 FROM prompt_stats_status"), 'and folds it');
is($standby->safe_psql('postgres', 'SELECT view_count FROM prompt_stats WHERE prompt_id = 40'), $was + $calls, 'all are counted');
$standby->stop;

# ---- the switch; no worker to be had

$node->append_conf('postgresql.conf', 'prompt_stats.flusher = off');
set_interval('1h');
ok($node->poll_query_until('postgres', "SELECT flusher = 'none' AND pending = 0 FROM prompt_stats_status"), 'off: it has flushed, and is gone');
$was = views(41);
sql('SELECT increment_prompt_views(41)') for 1 .. 3;
is(views(41) - $was, 3, 'callers fold their own');
$node->append_conf('postgresql.conf', "prompt_stats.flusher = on\nmax_worker_processes = 0");
$node->restart;
sql('SELECT increment_prompt_views(41)') for 1 .. 3;
is(views(41) - $was, 6, 'no worker slot: they do so, too');
is(status("own_fold_reasons ? 'no_flusher'"), 't', 'which is told');

$node->stop;
unlike(slurp_file($node->logfile), qr/deadlock detected|PANIC|TRAP:|terminated by signal/, 'nothing crashed');
done_testing();
