# What is between COMMIT and the table, step by step: counts that take off and are turned back, or
# land while somebody reads; entries that are alike; units that meet at a full counter; and a
# flusher that ends in the midst of it.  The flusher is stopped at each step by a gate in a
# trigger, so that nothing is left to chance [4] [6] [7] [10].

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(time usleep);

my $LIMIT = 60;    # seconds that anything may take, on a busy machine

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q(
	prompt_stats.durability = async
	prompt_stats.flush_interval = '1h'
	prompt_stats.max_pending = '256kB'
	log_statement = none
));
$node->start;

sub session { return PromptStats::Connection->new($node, 'test', @_) // die 'no connection' }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }
my $asker = session();
$asker->query("SET statement_timeout = '${LIMIT}s'");

# The rows of a query, as psql -At prints them
sub sql
{
	my ($sql) = @_;
	my $result = $asker->query($sql);
	die "$result->{sqlstate} $result->{message}: $sql" if $result->{outcome} ne 'ok';
	return join "\n", map { join '|', map { $_ // '' } @$_ } @{ $result->{rows} };
}

# Tests that an answer becomes true
sub soon
{
	my ($sql, $what) = @_;
	for (my $began = time; time - $began < $LIMIT; usleep(20_000))
	{
		return ok(1, $what) if sql($sql) eq 't';
	}
	return ok(0, "$what: $sql");
}

sub views { return sql("SELECT coalesce(sum(view_count), 0) FROM prompt_stats WHERE prompt_id = '$_[0]'") }
sub live { return sql("SELECT view_count, pending FROM get_prompt_stats('$_[0]')") }
sub all_live { return sql("SELECT view_count, pending FROM prompt_stats_live WHERE prompt_id = '$_[0]'") }
sub status { return sql("SELECT $_[0] FROM prompt_stats_status") }
my $LEDGER = 'accepted = flushed + pending + rejected';

# In a session of its own, which waits; and what became of it
sub begin_flush { my $session = session(); $session->send_query("SET statement_timeout = '${LIMIT}s'; SELECT prompt_stats_flush()"); return $session }
sub end_of { my ($session) = @_; return outcome($session->read_result) }
sub flush { return end_of(begin_flush()) }

# Counts until there is a flusher, which the first count starts
sub wait_for_flusher
{
	for (my $began = time; time - $began < $LIMIT; usleep(50_000))
	{
		sql("SELECT increment_prompt_copies('1')");
		return flush() if status('flusher') eq 'ready';
	}
	die 'there is no flusher';
}

# Who updates prompt 2 passes a gate, which is closed by a lock
my $gate = session();
my $WAITS_AT_GATE = "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted";
sub close_gate { return is(outcome($gate->query('SELECT pg_advisory_lock(7)')), 'ok', 'the gate is closed') }
sub open_gate { return is(outcome($gate->query('SELECT pg_advisory_unlock(7)')), 'ok', 'the gate is opened') }

sql(q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 99);
	CREATE EXTENSION prompt_stats;
	INSERT INTO prompt_stats (prompt_id) SELECT id FROM prompts;
));

# ---- turned back: pending again, and nowhere else

wait_for_flusher();
{
	my $locker = session();
	is(outcome($locker->query('BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 3 FOR UPDATE')), 'ok', 'prompt 3 is locked');
	sql('SELECT increment_prompt_views(3, 1), increment_prompt_views(4, 1)');
	my $flushes = status('flushes');
	my $waiting = begin_flush();
	soon("SELECT flushes >= $flushes + 4 FROM prompt_stats_status", 'it is tried again and again');
	is(views(3) . views(4), '01', 'the other one is flushed');
	is(live(3), '1|1', 'read by itself: one');
	is(all_live(3), '1|1', 'read with all: one');
	is(status("pending, $LEDGER"), '1|t', 'the ledger says one');
	$locker->query('COMMIT');
	is(end_of($waiting), 'ok', 'it is let go');
	is(views(3) . ' ' . live(3), '1 1|0', 'and counted once');
}

# ---- in the air: who reads adds what his snapshot does not see yet

sql(q(
	CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END $$;
	CREATE TRIGGER pass BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 2) EXECUTE FUNCTION pass();
));
wait_for_flusher();
{
	# A statement that is older than all that follows, and reads at its end
	my $old = session();
	my $second_gate = session();
	$second_gate->query('SELECT pg_advisory_lock(8)');
	$old->send_query(q(WITH gate AS MATERIALIZED (SELECT pg_advisory_lock_shared(8))
		SELECT (SELECT view_count FROM get_prompt_stats(2)), (SELECT view_count FROM prompt_stats_live WHERE prompt_id = '2') FROM gate));
	soon("SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 8 AND NOT granted", 'a statement has its snapshot');

	# The entry stays, for while one flight is in the air the next count comes
	sql('SELECT increment_prompt_views(2)');
	foreach my $n (1 .. 4)
	{
		close_gate();
		my $flush = begin_flush();
		soon($WAITS_AT_GATE, "flight $n is in the air");
		sql('SELECT increment_prompt_views(2)');
		my $all = $n + 1;
		is(live(2) . ' ' . all_live(2), "$all|2 $all|2", "flight $n: one is in the table or not, one in the air, one is pending");
		is(status("pending, $LEDGER"), '2|t', "flight $n: the ledger has both");
		open_gate();
		is(end_of($flush), 'ok', "flight $n lands");
		is(views(2) . ' ' . live(2), "$n $all|1", "flight $n: in the table now");
	}
	$second_gate->query('SELECT pg_advisory_unlock(8)');
	is_deeply($old->read_result->{rows}, [ [ 5, 5 ] ], 'the old statement misses none, though not all flights are remembered');
	is(flush(), 'ok', 'flushed');
	is(live(2) . ' ' . all_live(2), '5|0 5|0', 'nothing is pending');
}

# ---- a transaction that fails in the air

{
	close_gate();
	sql('SELECT increment_prompt_views(2, 10), increment_prompt_views(5, 10)');
	my $flush = begin_flush();
	soon($WAITS_AT_GATE, 'it is in the air');
	is(sql("SELECT pg_cancel_backend(flusher_pid) FROM prompt_stats_status"), 't', 'the flusher is told to stop');
	soon("SELECT view_count = 10 FROM prompt_stats WHERE prompt_id = 5", 'it comes to the other one');
	is(live(2) . ' ' . all_live(2), '15|10 15|10', 'what failed is pending, once');
	is(status("pending, $LEDGER"), '10|t', 'the ledger says so');
	open_gate();
	is(end_of($flush), 'ok', 'the flush comes to an end');
	is(views(2) . ' ' . live(2) . ' ' . views(5), '15 15|0 10', 'all is counted once');
}

# ---- many calls of mixed durability: the strongest, also when they are summed up

wait_for_flusher();
foreach my $order ('async group async', 'group async', 'async group')
{
	my $had = views(6);
	my @modes = split / /, $order;
	my $last = pop @modes;
	sql('BEGIN; ' . join('', map { "SET LOCAL prompt_stats.durability = '$_'; SELECT increment_prompt_views(6);" } @modes) .
		"SET LOCAL prompt_stats.durability = '$last'; SELECT count(increment_prompt_views(6)) FROM generate_series(1, 9000); COMMIT");
	is(views(6) - $had, 9000 + @modes, "$order, the last many times: in the table at COMMIT");
}

# ---- a group at a counter that has room for two of its three units

{
	sql('UPDATE prompt_stats SET view_count = 9223372036854775807 - 9 WHERE prompt_id = 7');
	wait_for_flusher();
	my @clients = map { session() } 1 .. 4;
	$_->query("SET prompt_stats.durability = 'group'; SET statement_timeout = '${LIMIT}s'") foreach @clients;

	# Lists go to the flusher, though nobody else counts
	my $others = 'increment_prompt_views(ARRAY[11, 12, 13, 14, 15, 16, 17, 18, 19])';
	my $first = shift @clients;
	close_gate();
	$first->send_query("SELECT increment_prompt_views(2), $others");
	soon($WAITS_AT_GATE, 'a group is being folded');
	$_->send_query("SELECT increment_prompt_views(7, 4), $others") foreach @clients;
	soon(q(SELECT count(*) = 4 FROM pg_stat_activity WHERE wait_event IN ('Extension', 'PromptStatsGroup') AND backend_type = 'client backend'),
		'three more units wait for the next one');
	open_gate();
	is(end_of($first), 'ok', 'the first group');
	is(join(' ', sort map { end_of($_) } @clients), '22003 ok ok', 'of the next, two have room, and the third is told that it has none');
	is(sql('SELECT 9223372036854775807 - view_count FROM prompt_stats WHERE prompt_id = 7'), 1, 'the two are counted');
	is(sql('SELECT min(view_count), max(view_count) FROM prompt_stats WHERE prompt_id BETWEEN 11 AND 19'), '3|3', 'with all that they counted, and nothing of the third');
	is(status('largest_group'), 2, 'they were one group');
}

# ---- a flusher that ends in the midst of it: another one goes on, though nobody asks for it

{
	my $build = PostgreSQL::Test::Utils::tempdir();
	my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
	local $ENV{MAKEFLAGS} = '';
	system_or_bail('cp', '-r', "$FindBin::RealBin/../end_process", $build);
	system_or_bail('make', '-s', '-C', "$build/end_process", 'with_llvm=no', "PG_CONFIG=$pg_config", 'end_process.so');
	chmod 0755, $build, "$build/end_process";
	sql(qq(
		CREATE FUNCTION end_process() RETURNS void LANGUAGE c AS '$build/end_process/end_process.so';
		CREATE SEQUENCE tries;
		CREATE FUNCTION end_once() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN
			IF nextval('public.tries') = 1 THEN PERFORM public.end_process(); END IF;
			RETURN NEW;
		END \$\$;
		CREATE TRIGGER end_once BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 8) EXECUTE FUNCTION end_once();
	));
	wait_for_flusher();
	my $pid = status('flusher_pid');

	# Not by prompt_stats_flush(), which would start another
	sql('SELECT increment_prompt_views(8, 5), increment_prompt_views(9, 5)');
	$node->append_conf('postgresql.conf', "prompt_stats.flush_interval = '10ms'");
	$node->reload;
	soon('SELECT is_called FROM tries', 'the flusher ends');
	soon("SELECT count(*) = 2 FROM prompt_stats WHERE prompt_id IN (8, 9) AND view_count = 5", 'another one flushes what is left');
	is(status("pending, $LEDGER"), '0|t', 'once');
	like(status('flusher_pid'), qr/^(?!$pid$)[0-9]+$/, 'it is another one');
}
sql('DROP EXTENSION prompt_stats; DROP TABLE prompt_stats, prompt_events, prompts');

# ---- ids that begin alike and are of one length: so many that some are in one bucket

sql(q(
	CREATE TABLE prompts (id text PRIMARY KEY);
	INSERT INTO prompts SELECT i FROM generate_series(1, 99) AS i;
	CREATE EXTENSION prompt_stats;
));
wait_for_flusher();
{
	my $id = q('ids that begin with the same words, and end in ' || lpad(i::text, 4, '0'));
	my $each = 'FROM generate_series(1, 800) AS i';
	sql("INSERT INTO prompts SELECT $id $each");
	my $accepted = status('accepted');
	sql("SELECT count(increment_prompt_views($id, i)) $each");
	is(status("accepted - $accepted"), 800 * 801 / 2, 'all are handed over');
	is(sql("SELECT count(*) $each, get_prompt_stats($id) WHERE view_count = i"), 800, 'each reads its own');
	is(sql("SELECT count(*) $each JOIN prompt_stats_live ON prompt_id = $id WHERE view_count = i"), 800, 'so does who reads all');
	is(flush(), 'ok', 'flushed');
	is(sql("SELECT count(*) $each JOIN prompt_stats ON prompt_id = $id WHERE view_count = i"), 800, 'each is in its own row');
	is(status("pending, $LEDGER"), '0|t', 'the ledger adds up');
}

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'nothing crashed');
done_testing();
