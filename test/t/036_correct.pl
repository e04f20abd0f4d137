# Corrections, and what is pending in durability "async" meanwhile: it is taken along, seen by
# every reader once, and given back by an abort; nothing is lost or doubled under load.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq(
	prompt_stats.durability = async
	prompt_stats.flush_interval = '1h'
	max_prepared_transactions = 5
	log_statement = none
));
$node->start;

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub session { return PromptStats::Connection->new($node, 'test') // die 'no connection' }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }
sub value { my ($result) = @_; return $result->{outcome} eq 'ok' ? $result->{rows}[-1][0] : outcome($result) }
sub wait_until { return ok(PromptStats::wait_until($node, $_[0]), $_[1]) }

# What readers see of a prompt, and what of it is pending; and what the table has
sub live { return sql("SELECT view_count, pending FROM get_prompt_stats($_[0])") }
sub views { return sql("SELECT coalesce(sum(view_count), 0) FROM prompt_stats WHERE prompt_id = $_[0]") }
sub is_balanced { return is(sql('SELECT accepted = flushed + pending + rejected FROM prompt_stats_status'), 't', $_[0]) }
sub flush { sql('SELECT prompt_stats_flush()'); return }

sql(q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 100);
	CREATE EXTENSION prompt_stats;
	INSERT INTO prompt_stats (prompt_id) SELECT generate_series(1, 50);
));

# Once a call has met one, it stays while something is pending
my $counter = session();
foreach (1 .. 1800)
{
	$counter->query('SELECT increment_prompt_copies(1)');
	last if sql('SELECT flusher = $$ready$$ AND pending > 0 FROM prompt_stats_status') eq 't';
	usleep(100_000);
}
is(sql('SELECT flusher FROM prompt_stats_status'), 'ready', 'there is a flusher');

sub count
{
	my ($id, $n) = @_;
	return is(outcome($counter->query("SELECT increment_prompt_views($id, $n)")), 'ok', "prompt $id: $n more");
}

# Flushes until so many prompts are remembered, and some times more than it takes to forget them
sub tidied
{
	my ($left) = @_;
	foreach my $turn (1 .. 1800)
	{
		$counter->query('SELECT increment_prompt_views(6)');
		flush();
		return 1 if $turn > 10 && sql('SELECT entries FROM prompt_stats_status') <= $left;
		usleep(100_000);
	}
	return 0;
}

# ---- what is pending goes along

count(2, 5);
is(live(2), '5|5', 'it is pending');
my $ledger = sql('SELECT flushed FROM prompt_stats_status');
sql('SELECT prompt_stats_reset(2)');
is(live(2), '0|0', 'reset: nothing is left');
is(sql("SELECT flushed - $ledger FROM prompt_stats_status"), 5, 'it counts as flushed');
is_balanced('the ledger is balanced');
count(2, 7);
sql('SELECT prompt_stats_correct(2, -4)');
is(live(2), '3|0', 'corrected: the rest is in the table');
is(views(2), 3, 'and there only once');
is($node->psql('postgres', 'SELECT prompt_stats_correct(2, -4)'), 3, 'not below zero');
is(live(2), '3|0', 'nor changed by that');

# A prompt without a row
count(60, 5);
sql('SELECT prompt_stats_reset(60)');
is(live(60), '0|0', 'reset without a row');
is(sql('SELECT count(*) FROM prompt_stats WHERE prompt_id = 60'), 0, 'which was not inserted for that');
count(60, 5);
sql('SELECT prompt_stats_correct(60, -2, 1)');
is(sql('SELECT view_count, copy_count, pending FROM get_prompt_stats(60)'), '3|1|0', 'corrected without a row');
flush();
is(views(2) . ' ' . views(60), '3 3', 'a flush adds nothing');

# ---- while a correction is not committed

foreach my $end (qw(COMMIT ROLLBACK))
{
	my $correcting = session();
	my $flushing = session();

	sql('SELECT prompt_stats_correct(3, 100 - view_count) FROM get_prompt_stats(3)');
	count(3, 5);
	is(value($correcting->query('BEGIN; SELECT prompt_stats_reset(3); SELECT view_count FROM get_prompt_stats(3)')), 0, "$end: its own transaction sees it");
	is(value($correcting->query(q(SELECT view_count FROM prompt_stats_live WHERE prompt_id = '3'))), 0, 'in the view, too');
	is(live(3), '105|5', 'others do not');
	is(sql(q(SELECT view_count, pending FROM prompt_stats_live WHERE prompt_id = '3')), '105|5', 'nor in the view');
	is_balanced('the ledger is balanced meanwhile');
	count(3, 20);
	is(live(3), '125|25', 'what comes now is pending');
	is(value($correcting->query('SELECT view_count FROM get_prompt_stats(3)')), 20, 'also for its own transaction');
	$flushing->send_query('SELECT prompt_stats_flush()');
	wait_until(q(SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query = 'SELECT prompt_stats_flush()' AND state = 'active')), 'a flush waits');
	is(live(3), '125|25', 'and takes nothing of it');
	is(outcome($correcting->query($end)), 'ok', $end);
	is(outcome($flushing->read_result), 'ok', 'the flush ends');
	is(live(3), ($end eq 'COMMIT' ? 20 : 125) . '|0', 'all is in the table');
	is(views(3), ($end eq 'COMMIT' ? 20 : 125), 'once');
	is_balanced('the ledger is balanced');
}

# Savepoints, and a prompt that is claimed twice
{
	my $correcting = session();

	sql('SELECT prompt_stats_reset(4)');
	count(4, 1);
	is(outcome($correcting->query('BEGIN; SELECT prompt_stats_correct(4, 1000); SAVEPOINT a')), 'ok', 'corrected');
	count(4, 2);
	is(value($correcting->query('SELECT prompt_stats_reset(4); SELECT view_count FROM get_prompt_stats(4)')), 0, 'reset after a savepoint');
	count(4, 4);
	is(live(4), '7|7', 'others see none of that');
	is(value($correcting->query('SELECT prompt_stats_reset(4); SAVEPOINT b; ROLLBACK TO b; SELECT view_count FROM get_prompt_stats(4)')), 0, 'again');
	is(value($correcting->query('ROLLBACK TO a; SELECT view_count FROM get_prompt_stats(4)')), 1007, 'back to the savepoint');
	is(live(4), '7|7', 'others still see none of that');
	is_balanced('the ledger is balanced');
	is(outcome($correcting->query('SAVEPOINT c; SELECT prompt_stats_correct(4, 10000); RELEASE c; COMMIT')), 'ok', 'committed');
	is(live(4), '11007|0', 'all of it');
	is(views(4), 11007, 'in the table');
	is_balanced('the ledger is balanced');

	count(4, 1);
	is(outcome($correcting->query('BEGIN; SELECT prompt_stats_reset(4)')), 'ok', 'reset');
	is($correcting->query('SELECT 1 / 0')->{sqlstate}, '22012', 'and failed');
	is(live(4), '11008|1', 'it is as it was');
	is(outcome($correcting->query('ROLLBACK')), 'ok', 'rolled back');
	flush();
	is(live(4), '11008|0', 'flushed');

	# A session that ends in the middle
	count(4, 1);
	is(value($correcting->query('BEGIN; SELECT prompt_stats_reset(4); SELECT pg_backend_pid()')) =~ /^\d+$/, 1, 'reset');
	my $pid = value($correcting->query('SELECT pg_backend_pid()'));
	sql("SELECT pg_terminate_backend($pid, 60000)");
	is(live(4), '11009|1', 'terminated: it is as it was');
	flush();
	is(views(4), 11009, 'flushed');
}

# Prepared transactions end somewhere else
{
	my $correcting = session();

	is(outcome($correcting->query(q(BEGIN; SELECT prompt_stats_correct(4, -9); PREPARE TRANSACTION 'p'))), 'ok', 'prepared with nothing pending');
	sql(q(COMMIT PREPARED 'p'));
	is(live(4), '11000|0', 'committed');
	count(4, 5);
	my $result = $correcting->query(q(BEGIN; SELECT prompt_stats_correct(4, -9); PREPARE TRANSACTION 'p'));
	is(outcome($result), '0A000', 'not with pending counts');
	is(live(4), '11005|5', 'it is as it was');
	sql($result->{hint} =~ /(SELECT .*;)/);
	is(outcome($correcting->query(q(BEGIN; SELECT prompt_stats_correct(4, -5); PREPARE TRANSACTION 'p'))), 'ok', 'the hint mends it');
	sql(q(COMMIT PREPARED 'p'));
	is(live(4), '11000|0', 'committed');
}

# ---- older snapshots

{
	my $reading = session();
	my $correcting = session();

	# The correction has an older XID than flights that land before it, and are forgotten
	sql('SELECT prompt_stats_reset(id) FROM prompts');
	is(outcome($correcting->query('BEGIN; SELECT pg_current_xact_id()')), 'ok', 'a transaction begins');
	$counter->query("SELECT increment_prompt_views($_, 1)") foreach 1 .. 100;
	flush();
	sql('SELECT prompt_stats_correct(5, 3 - view_count) FROM get_prompt_stats(5)');
	count(5, 4);
	is(outcome($reading->query('BEGIN; DECLARE old CURSOR FOR SELECT view_count FROM get_prompt_stats(5)')), 'ok', 'a cursor');
	is(outcome($correcting->query('SELECT prompt_stats_reset(5); COMMIT')), 'ok', 'it resets a prompt');
	ok(tidied(20), 'what the flusher does not need goes');
	is(value($reading->query('FETCH old')), 7, 'the cursor reads what was when it was opened');
	is(outcome($reading->query('COMMIT')), 'ok', 'closed');
	ok(tidied(0), 'what the cursor needed goes, too');
	is(live(5), '0|0', 'now');

	# Its own
	count(5, 3);
	is(value($reading->query('BEGIN; DECLARE old CURSOR FOR SELECT view_count FROM get_prompt_stats(5);
		SELECT prompt_stats_reset(5); FETCH old')), 3, 'a cursor of its own that was opened before');
	is(value($reading->query('SELECT view_count FROM get_prompt_stats(5)')), 0, 'a later command');
	is(outcome($reading->query('ROLLBACK')), 'ok', 'rolled back');
	my $result = $reading->query('SELECT (get_prompt_stats(5)).view_count, prompt_stats_reset(5), (get_prompt_stats(5)).view_count');
	is(join(' ', $result->{rows}[0][0], $result->{rows}[0][2]), '3 3', 'in the same command it is what was before');
	is(live(5), '0|0', 'reset');
}

# ---- two corrections

{
	my @sessions = (session(), session());

	count(70, 1);
	count(71, 1);
	is(outcome($sessions[0]->query('BEGIN; SELECT prompt_stats_reset(70)')), 'ok', 'the first resets a prompt without a row');
	is(outcome($sessions[1]->query('BEGIN; SELECT prompt_stats_reset(71)')), 'ok', 'the second another');
	$sessions[0]->send_query('SELECT prompt_stats_reset(71)');
	wait_until('SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)', 'the first waits for the second');
	$sessions[1]->send_query('SELECT prompt_stats_reset(70)');
	my @results = map { $_->read_result } @sessions;
	is(join(' ', sort map { outcome($_) } @results), '40P01 ok', 'a deadlock is seen');
	is(join(' ', map { outcome($_->query('COMMIT')) } @sessions), 'ok ok', 'both end');
	is(live(70) . ' ' . live(71), '0|0 0|0', 'one has reset both') or diag live(70), live(71);

	count(72, 1);
	is(outcome($sessions[0]->query('BEGIN; SELECT prompt_stats_correct(72, 10)')), 'ok', 'corrected, not committed');
	is(outcome($sessions[1]->query(q(SET lock_timeout = '100ms'; SELECT prompt_stats_reset(72)))), '55P03', 'a wait ends by lock_timeout');
	is(outcome($sessions[1]->query(q(RESET lock_timeout; SET statement_timeout = '100ms'; SELECT prompt_stats_reset(72)))), '57014', 'or by statement_timeout');
	is(outcome($sessions[0]->query('COMMIT')), 'ok', 'committed');
	is(live(72), '12|0', 'it is in');
	is_balanced('the ledger is balanced');
}

# ---- under load: eight clients, a short interval, and corrections of known size

$node->append_conf('postgresql.conf', q(prompt_stats.flush_interval = '2ms'));
$node->reload;
sql('SELECT prompt_stats_reset(id) FROM prompts');
flush();
my $load = PromptStats::Load->start($node, 8, sub {
	my ($client, $turn) = @_;
	my $id = 1 + int(rand 4) + 50 * int(rand 2);
	my $n = 1 + int(rand 3);
	return ("SELECT increment_prompt_views($id, $n)", { $id => $n });
});
my $correct = PromptStats::Load->start($node, 3, sub {
	my ($client, $turn) = @_;
	my $id = 1 + int(rand 4) + 50 * int(rand 2);
	my $n = 1 + int(rand 1000);
	my $kind = int(rand 5);

	return ("SELECT prompt_stats_correct($id, $n)", { $id => $n }) if $kind == 0;
	return ("BEGIN; SELECT prompt_stats_correct($id, $n); SELECT prompt_stats_correct($id, -$n); COMMIT", {}) if $kind == 1;
	return ("BEGIN; SELECT prompt_stats_reset($id); SAVEPOINT a; SELECT prompt_stats_correct($id, $n); ROLLBACK", {}) if $kind == 2;
	return ("BEGIN; SAVEPOINT a; SELECT prompt_stats_reset($id); ROLLBACK TO a; COMMIT", {}) if $kind == 3;
	return ("BEGIN; SELECT prompt_stats_correct($id, $n); SAVEPOINT a; SELECT prompt_stats_reset($id); ROLLBACK TO a; COMMIT", { $id => $n });
});

# Meanwhile no reader sees less than before, for nothing is taken away that is committed
my ($low, $reads) = (0, 0);
my $until = time + 10;
while (time < $until)
{
	my $sum = PromptStats::ask($node, $reads++ % 2 ? 'SELECT sum(view_count) FROM prompt_stats_live' :
		'SELECT sum((get_prompt_stats(id)).view_count) FROM generate_series(1, 54) id WHERE id < 5 OR id > 50');
	fail("readers saw $low, then $sum"), last if $sum < $low && $reads % 2 == 0;
	$low = $sum if $reads % 2 == 0;
	is_balanced('balanced') if $reads % 50 == 0;
}
my @told = map { $_->stop } $load, $correct;
cmp_ok($told[1]{calls}, '>', 20, 'there were corrections');
is(join(' ', map { %{ $_->{errors} } } @told), '', 'no errors');
my %expected;
foreach my $told (@told)
{
	$expected{$_} += $told->{acked}{$_} foreach keys %{ $told->{acked} };
}
my %seen = map { split /\|/ } split /\n/, sql('SELECT prompt_id, view_count FROM prompt_stats_live WHERE view_count > 0');
is_deeply(\%seen, \%expected, 'readers see all that was counted and corrected');
flush();
my %stored = map { split /\|/ } split /\n/, sql('SELECT prompt_id, view_count FROM prompt_stats WHERE view_count > 0');
is_deeply(\%stored, \%expected, 'and so has the table');
is_balanced('the ledger is balanced');
is(sql('SELECT pending, rejected FROM prompt_stats_status'), '0|0', 'and nothing is left over');

$node->stop;
done_testing();
