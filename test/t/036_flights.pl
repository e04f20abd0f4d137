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

# A library of test/
my $build = PostgreSQL::Test::Utils::tempdir();
sub build
{
	my ($name) = @_;
	my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
	local $ENV{MAKEFLAGS} = '';
	system_or_bail('cp', '-r', "$FindBin::RealBin/../$name", $build);
	system_or_bail('make', '-s', '-C', "$build/$name", 'with_llvm=no', "PG_CONFIG=$pg_config", "$name.so");
	chmod 0755, $build, "$build/$name";
	return "$build/$name/$name.so";
}

# Who updates prompt 2 passes a gate, which is closed by a lock
my $gate = session();
sub waits_for { return "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = $_[0] AND NOT granted" }
my $WAITS_AT_GATE = waits_for(7);
sub close_gate { return is(outcome($gate->query('SELECT pg_advisory_lock(7)')), 'ok', 'the gate is closed') }
sub open_gate { return is(outcome($gate->query('SELECT pg_advisory_unlock(7)')), 'ok', 'the gate is opened') }

# A statement whose snapshot is of now, and that reads the prompt when the lock is released
sub begin_to_read
{
	my ($id, $lock) = @_;
	my $reader = session();
	$gate->query("SELECT pg_advisory_lock($lock)");
	$reader->send_query("WITH lock AS MATERIALIZED (SELECT pg_advisory_lock_shared($lock))
		SELECT (SELECT view_count FROM get_prompt_stats($id)), (SELECT view_count FROM prompt_stats_live WHERE prompt_id = '$id') FROM lock");
	soon(waits_for($lock), "a statement has its snapshot, and will read prompt $id");
	return $reader;
}
sub end_to_read
{
	my ($reader, $lock) = @_;
	$gate->query("SELECT pg_advisory_unlock($lock)");
	return join ' ', map { $_ // '' } @{ $reader->read_result->{rows}[0] };
}

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
	my $since = sql('SELECT clock_timestamp()');
	my $flushes = status('flushes');
	my $waiting = begin_flush();
	soon("SELECT flushes >= $flushes + 4 FROM prompt_stats_status", 'it is tried again and again');
	is(sql("SELECT statement_timestamp() - lag <= '$since' FROM prompt_stats_status"), 't', 'since it was counted');
	my $waits = 0;
	for (1 .. 40)
	{
		$waits += sql(q(SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
			WHERE backend_type = 'prompt_stats flusher' AND locktype = 'transactionid' AND NOT granted));
		usleep(25_000);
	}
	cmp_ok($waits, '<', 20, 'the flusher itself waits for nobody');
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
	# Older than all that follows
	my $older = begin_to_read(2, 8);
	my $old = begin_to_read(2, 9);
	my $other = begin_to_read(10, 10);

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
		is(end_to_read($older, 8), '2 2', 'an older statement reads it all the same') if $n == 1;
	}
	is(end_to_read($old, 9), '5 5', 'nor does one miss any when not all flights are remembered');
	sql('SELECT increment_prompt_views(10, 3)');
	is(flush(), 'ok', 'flushed');
	is(live(2) . ' ' . all_live(2), '5|0 5|0', 'nothing is pending');
	is(status('entries'), 0, 'the entries are gone');
	is(end_to_read($other, 10), '3 3', 'nor does one when the entry is gone');
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

# ---- a count that comes while the one before it turns out to be impossible

{
	sql(q(
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RAISE check_violation; END $$;
		CREATE TRIGGER refuse BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 20) EXECUTE FUNCTION refuse();
	));
	wait_for_flusher();
	my $rejected = status('rejected');
	close_gate();
	sql('SELECT increment_prompt_views(20, 3)');
	my $flush = begin_flush();
	soon($WAITS_AT_GATE, 'it is in the air');
	sql('SELECT increment_prompt_views(20, 4)');
	open_gate();
	is(end_of($flush), 'ok', 'the flush comes to an end');
	is(flush(), 'ok', 'so does another');
	is(status("rejected - $rejected, pending, $LEDGER"), '7|0|t', 'both are rejected, none is forgotten');
}

# ---- a transaction that is between its reservation and its end: another library waits there

{
	my $library = build('fail_commit');
	my $holder = session();
	is(outcome($holder->query("SET statement_timeout = '${LIMIT}s'; LOAD '$library'")), 'ok', 'a library that runs SQL in its pre-commit hook');
	is(outcome($holder->query('SELECT increment_prompt_views(1, 0)')), 'ok', 'and ours');
	$holder->query(q(SET fail_commit.run = 'SELECT pg_advisory_xact_lock_shared(11)'));
	foreach my $end (qw(commit rollback))
	{
		wait_for_flusher();
		my $had = views(30);
		$gate->query('SELECT pg_advisory_lock(11)');
		$holder->send_query(($end eq 'commit' ? '' : 'BEGIN; SET LOCAL fail_commit.now = on;') .
			'SELECT increment_prompt_views(30), increment_prompt_views(31, 10)' . ($end eq 'commit' ? '' : '; COMMIT'));
		soon(waits_for(11), "$end: it waits");
		is(live(30), "$had|0", "$end: what is reserved is not counted");

		# Its entry stays, also when others come and go, and nobody else gets it
		sql('SELECT increment_prompt_views(30, 100)');
		is(flush(), 'ok', "$end: flushed");
		sql('SELECT count(increment_prompt_copies(i, i)) FROM generate_series(32::bigint, 99) AS i');
		$gate->query('SELECT pg_advisory_unlock(11)');
		is(end_of($holder), $end eq 'commit' ? 'ok' : '38000', "$end: it goes on");
		my ($one, $all) = $end eq 'commit' ? (1, $had + 101) : (0, $had + 100);
		is(live(30), "$all|$one", "$end: counted, or not");
		is(flush(), 'ok', "$end: flushed");
		is(views(30), $all, "$end: in its row");
		is(status("pending, $LEDGER"), '0|t', "$end: the ledger adds up");
	}
	is(sql('SELECT count(*) FROM prompt_stats WHERE prompt_id BETWEEN 32 AND 99 AND copy_count = 2 * prompt_id AND view_count = 0'), 68, 'the others have theirs');

	# One that fails after its group was folded: the flusher takes it back
	wait_for_flusher();
	my @ids = (61 .. 70);
	my $list = 'ARRAY[' . join(', ', @ids) . ']';
	my $groups = status('groups');
	$holder->query("SET fail_commit.run = ''");
	is(outcome($holder->query("SET LOCAL prompt_stats.durability = 'group'; SET LOCAL fail_commit.now = on; SELECT increment_prompt_views($list, 7)")), '38000',
		'a commit that fails after the fold');
	soon("SELECT groups >= $groups + 2 FROM prompt_stats_status", 'is followed by another fold');
	is(sql("SELECT max(view_count) FROM prompt_stats WHERE prompt_id = ANY ($list)"), 0, 'which takes it back');
	is(outcome($holder->query("SET LOCAL prompt_stats.durability = 'group'; SELECT increment_prompt_views($list, 7)")), 'ok', 'the session counts on');
	is(sql("SELECT min(view_count), max(view_count) FROM prompt_stats WHERE prompt_id = ANY ($list)"), '7|7', 'exactly');
	$holder->query(q(SET fail_commit.run = 'SELECT pg_advisory_xact_lock_shared(11)'));

	# A flusher that is to go waits for it
	wait_for_flusher();
	$gate->query('SELECT pg_advisory_lock(11)');
	$holder->send_query('SELECT increment_prompt_views(40, 5)');
	soon(waits_for(11), 'it waits');
	sql('SELECT increment_prompt_views(41, 5)');
	$node->append_conf('postgresql.conf', 'prompt_stats.flusher = off');
	$node->reload;
	soon("SELECT flusher = 'leaving' FROM prompt_stats_status", 'the flusher is to go');
	soon('SELECT view_count = 5 FROM prompt_stats WHERE prompt_id = 41', 'it flushes what is pending');
	is(status('flusher'), 'leaving', 'and stays for what is reserved');
	$gate->query('SELECT pg_advisory_unlock(11)');
	is(end_of($holder), 'ok', 'which is counted');
	soon("SELECT flusher = 'none' FROM prompt_stats_status", 'then it goes');
	is(views(40), 5, 'nothing is left');
	is(status("pending, $LEDGER"), '0|t', 'the ledger adds up');
	$node->append_conf('postgresql.conf', 'prompt_stats.flusher = on');
	$node->reload;
	soon("SELECT setting = 'on' FROM pg_settings WHERE name = 'prompt_stats.flusher'", 'on again');
}

# ---- what a trigger sets in the flusher ends with its transaction; so does what it locks

{
	sql(q(
		CREATE TABLE found (mode text, work_mem text, datestyle text, locks bigint);
		CREATE FUNCTION leave_behind() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO public.found SELECT current_setting('prompt_stats.durability'), current_setting('work_mem'), current_setting('datestyle'),
				(SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory');
			PERFORM set_config('work_mem', '123kB', false), set_config('datestyle', 'German', false),
				set_config('prompt_stats.durability', 'transaction', false), pg_advisory_lock(42);
			RETURN NEW;
		END $$;
		CREATE TRIGGER leave_behind BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 80) EXECUTE FUNCTION leave_behind();
	));
	wait_for_flusher();
	my $pid = status('flusher_pid');
	for (1 .. 3)
	{
		sql('SELECT increment_prompt_views(80)');
		is(flush(), 'ok', 'flushed');
	}
	is(sql('SELECT count(*), count(DISTINCT (mode, work_mem, datestyle)), max(locks) FROM found'), '3|1|0', 'each time it finds the same');
	is(sql("SELECT count(*) FROM found WHERE work_mem = '123kB' OR datestyle ~ 'German' OR mode = 'transaction'"), 0, 'and nothing of its own');
	is(sql("SELECT count(*) FROM pg_locks WHERE pid = $pid AND locktype = 'advisory'"), 0, 'nor does a lock stay');
}

# ---- a session that hears of another table between its count and its commit

{
	sql('CREATE TABLE other_stats (LIKE prompt_stats INCLUDING ALL)');
	my $counter = session();
	foreach my $mode (qw(async group))
	{
		wait_for_flusher();
		$counter->query("BEGIN; SET LOCAL prompt_stats.durability = '$mode'; SELECT increment_prompt_views(ARRAY[71, 72, 73, 74, 75, 76, 77, 78, 79])");
		sql("SELECT prompt_stats_setup('prompt_events', 'other_stats')");
		is(outcome($counter->query('SELECT view_count FROM get_prompt_stats(71)')), 'ok', "$mode: it reads the other one");
		is(outcome($counter->query('COMMIT')), 'ok', "$mode: it commits");
		sql("SELECT prompt_stats_setup('prompt_events', 'prompt_stats')");
		is(flush(), 'ok', "$mode: flushed");
	}
	is(sql('SELECT min(view_count), max(view_count) FROM prompt_stats WHERE prompt_id BETWEEN 71 AND 79'), '2|2', 'counted in the table of the call');
	is(sql('SELECT count(*) FROM other_stats'), 0, 'not in the other one');
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

# ---- a unit whose row stays locked is for its own backend to wait for

{
	wait_for_flusher();
	my $locker = session();
	my $waiting = session();
	$locker->query('BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 90 FOR UPDATE');
	$waiting->send_query("SET LOCAL prompt_stats.durability = 'group'; SELECT increment_prompt_views(ARRAY[90, 91, 92, 93, 94, 95, 96, 97, 98])");
	soon("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event_type = 'Lock' AND query ~ '90, 91'", 'it waits for the lock itself');

	# Though the server's own timeout ends before COMMIT
	my $impatient = session();
	$impatient->query("SET statement_timeout = '500ms'; SET prompt_stats.durability = 'group'");
	$impatient->send_query('SELECT increment_prompt_views(ARRAY[90, 81, 82, 83, 84, 85, 86, 87, 88])');
	my $answered = $impatient->has_answered($LIMIT / 2);
	$locker->query('COMMIT');
	is(end_of($waiting), 'ok', 'it is let go');
	is($answered ? end_of($impatient) : 'waits', '57014', 'statement_timeout ends such a wait, too');
	is(sql('SELECT min(view_count), max(view_count) FROM prompt_stats WHERE prompt_id BETWEEN 90 AND 98'), '1|1', 'and counted');
}

# ---- a flusher that ends in the midst of it: another one goes on, though nobody asks for it

{
	my $library = build('end_process');
	sql(qq(
		CREATE FUNCTION end_process() RETURNS void LANGUAGE c AS '$library';
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

# ---- the ids change their type while counts are pending, or wait

{
	# By a flusher that is in no hurry, as the last one was
	$node->append_conf('postgresql.conf', "prompt_stats.flush_interval = '1h'");
	$node->reload;
	ok(PromptStats::wait_until($node, "SELECT current_setting('prompt_stats.flush_interval') = '1h'"), 'the interval is long again');
	sql('SELECT pg_terminate_backend(flusher_pid) FROM prompt_stats_status');
	soon("SELECT flusher = 'none' FROM prompt_stats_status", 'the flusher goes');
	sql('DROP FUNCTION pass, refuse, end_once, leave_behind CASCADE');
	wait_for_flusher();
	my $had = views(81);
	sql('SELECT increment_prompt_views(81, 5)');
	is(live(81), $had + 5 . '|5', 'pending');

	# An id whose bytes are a text
	my $number = 4702111234474983745;
	my $counter = session();
	sql("INSERT INTO prompts VALUES ($number); INSERT INTO prompt_stats (prompt_id) VALUES ($number)");
	$counter->query("BEGIN; SET LOCAL prompt_stats.durability = 'group'; SELECT increment_prompt_views(array_fill($number, ARRAY[9]))");
	sql(q(ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_prompt_id_fkey; ALTER TABLE prompt_stats DROP CONSTRAINT prompt_stats_prompt_id_fkey;
		DROP TABLE prompts; ALTER TABLE prompt_events ALTER prompt_id TYPE text));
	sql('ALTER TABLE prompt_stats ALTER prompt_id TYPE text');
	sql(q(INSERT INTO prompt_stats (prompt_id) VALUES ('AAAAAAAA')));
	is(sql('SELECT count(*) FROM prompt_stats_live WHERE pending <> 0'), 0, 'not told of as of another prompt');
	is(outcome($counter->query('COMMIT')), 'ok', 'who has counted before commits');
	is(views($number) . ' ' . views('AAAAAAAA'), '9 0', 'in the row of its number, not of its bytes');
	is(flush(), 'ok', 'flushed');
	is(views(81) - $had, 5, 'in its row');
	is(status("pending, $LEDGER"), '0|t', 'the ledger adds up');
}
sql('DROP EXTENSION prompt_stats; DROP TABLE prompt_stats, prompt_events');

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

	# Where there is room for some of a transaction's prompts it folds its own, and reserves none
	my $holder = session();
	$holder->query("SET statement_timeout = '${LIMIT}s'; LOAD '$build/fail_commit/fail_commit.so'");
	$holder->query("SELECT increment_prompt_views('1', 0)");
	$holder->query(q(SET fail_commit.run = 'SELECT pg_advisory_xact_lock_shared(11)'));
	wait_for_flusher();
	$gate->query('SELECT pg_advisory_lock(11)');
	$holder->send_query("SELECT count(increment_prompt_views($id)) $each");
	soon(waits_for(11), 'many are reserved');
	my $folds = status('own_folds');
	my $others = q('others ' || i);
	sql("INSERT INTO prompts SELECT $others FROM generate_series(1, 1000) AS i; SELECT 1");
	sql("SELECT count(increment_prompt_views($others)) FROM generate_series(1, 1000) AS i");
	is(status("own_folds - $folds"), 1000, 'others find no room');
	$gate->query('SELECT pg_advisory_unlock(11)');
	is(end_of($holder), 'ok', 'the first are counted');
	is(flush(), 'ok', 'flushed');
	is(sql(q(SELECT count(*), min(view_count), max(view_count) FROM prompt_stats WHERE prompt_id ~ '^others')), '1000|1|1', 'each of them once');
	is(status("pending, $LEDGER"), '0|t', 'the ledger adds up');
}

my $began = time;
$node->stop;
cmp_ok(time - $began, '<', 20, 'nothing is left to wait for at the shutdown');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'nothing crashed');
done_testing();
