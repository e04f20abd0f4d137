# A subscriber that counts what a publisher sends: its own commit record says how far it has come,
# so that after a crash nothing is applied twice, nor left out, though the rows themselves are
# thrown away [20].  And counts of a prepared transaction, in each mode, across a crash.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(usleep);

my @MODES = qw(group async transaction);
my $HOT = 5;    # prompts that all count

my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->append_conf('postgresql.conf', q(
	max_prepared_transactions = 20
	logical_decoding_work_mem = '64kB'
	log_statement = none
));
$publisher->start;

my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init;
$subscriber->append_conf('postgresql.conf', q(
	max_prepared_transactions = 20
	wal_retrieve_retry_interval = '100ms'
	log_statement = none
));
$subscriber->start;

my $PROMPTS = 'CREATE TABLE prompts (id bigint PRIMARY KEY); INSERT INTO prompts SELECT generate_series(1, 20000);';
my $SHOWN = 'CREATE TABLE shown (id bigserial PRIMARY KEY, prompt_id bigint NOT NULL, n bigint NOT NULL DEFAULT 1);';
$publisher->safe_psql('postgres', "$SHOWN CREATE PUBLICATION shown FOR TABLE shown");
$subscriber->safe_psql('postgres', "$PROMPTS $SHOWN" . q(
	CREATE EXTENSION prompt_stats;
	CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM public.increment_prompt_views(NEW.prompt_id, NEW.n);
		RETURN NULL;
	END $$;
	CREATE TRIGGER count_it BEFORE INSERT ON shown FOR EACH ROW EXECUTE FUNCTION count_it();
	ALTER TABLE shown ENABLE ALWAYS TRIGGER count_it;
));

my $INSERTED = 'SELECT prompt_id, sum(n) FROM shown GROUP BY 1 ORDER BY 1';
my $COUNTED = 'SELECT prompt_id, view_count FROM prompt_stats WHERE view_count <> 0 ORDER BY 1';

sub total { my ($rows) = @_; my $sum = 0; $sum += (split /\|/)[1] foreach split /\n/, $rows; return $sum }

# Those that a crash has left behind: as long as they are there no version of a row is removed
sub decide_prepared
{
	my $gids = $publisher->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts');
	$publisher->psql('postgres', "COMMIT PREPARED '$_'") foreach split /\n/, $gids;
	return;
}

# What was inserted, once the subscriber has come so far; and what it has counted
sub compare
{
	my ($name) = @_;
	decide_prepared();
	my $lsn = $publisher->lsn('insert');
	ok(PromptStats::wait_until($publisher, "SELECT count(*) = 1 FROM pg_stat_replication
		WHERE application_name = 'counting' AND state = 'streaming' AND replay_lsn >= '$lsn'"), "$name: the subscriber has applied all");
	my $inserted = $publisher->safe_psql('postgres', $INSERTED);
	my $counted = $subscriber->safe_psql('postgres', $COUNTED);
	is($counted, $inserted, "$name: what is counted is what was inserted");
	note total($inserted) . ' rows';
	return total($inserted);
}

# Transactions of one row, of some, and now and then one so large that it is sent while it runs;
# some that fail.  No faster than one process can apply them, on a busy machine.  One client prepares each: a row of prompt_stats is locked until it is
# committed, so each counts a prompt of its own.
my $phase = 0;
sub insert_rows
{
	my ($client, $turn) = @_;
	usleep(10_000);
	my $prompt = 100 + $phase * 5000 + int($turn / 2);
	return ($turn % 2 == 0 ? "BEGIN; INSERT INTO shown (prompt_id) SELECT $prompt FROM generate_series(1, 20); PREPARE TRANSACTION 'p$prompt'" :
		$turn % 8 == 5 ? "ROLLBACK PREPARED 'p$prompt'" : "COMMIT PREPARED 'p$prompt'", {}) if $client == 1;
	my $rows = $turn % 50 == 25 ? 600 : (1, 20, 5)[ $turn % 3 ];
	my $sql = "INSERT INTO shown (prompt_id, n) SELECT 1 + i % $HOT, 1 + i % 3 FROM generate_series(1, $rows) AS i";
	return ($turn % 5 == 4 ? "BEGIN; $sql; SAVEPOINT s; $sql; ROLLBACK TO s; $sql; COMMIT" :
		$turn % 17 == 16 ? "BEGIN; $sql; ROLLBACK" : $sql, {});
}

# The same prompts, in company
sub count_here
{
	my ($client, $turn) = @_;
	my $id = 1 + int rand $HOT;
	return ("SELECT increment_prompt_copies($id)", { $id => 1 });
}

sub applied
{
	my ($n) = @_;
	return PromptStats::wait_until($subscriber, "SELECT (SELECT coalesce(sum(view_count), 0) FROM prompt_stats) > $n");
}
sub copies { return map { split /\|/ } split /\n/, $subscriber->safe_psql('postgres', 'SELECT prompt_id, copy_count FROM prompt_stats WHERE copy_count <> 0') }

# Before the subscription, too
$publisher->safe_psql('postgres', "INSERT INTO shown (prompt_id) SELECT 1 + i % $HOT FROM generate_series(1, 100) AS i");
my $connection = $publisher->connstr . ' dbname=postgres application_name=counting';
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION counting CONNECTION '$connection' PUBLICATION shown WITH (streaming = on, two_phase = on)");
ok(PromptStats::wait_until($subscriber, "SELECT subtwophasestate = 'e' FROM pg_subscription"), 'the subscription is there, prepared transactions and all');
my $sum = compare('the first rows');

foreach my $mode (@MODES)
{
	$subscriber->append_conf('postgresql.conf', "prompt_stats.durability = $mode");
	$subscriber->restart;
	my %before = copies();
	my $rows = PromptStats::Load->start($publisher, 3, \&insert_rows);
	my $here = PromptStats::Load->start($subscriber, 2, \&count_here);

	foreach my $stopped ($subscriber, $publisher, $subscriber)
	{
		ok(applied($sum + 200), "$mode: rows stream");
		$stopped->stop('immediate');
		$stopped->start;
		decide_prepared();
		$sum = $subscriber->safe_psql('postgres', 'SELECT sum(view_count) FROM prompt_stats');
	}
	ok(applied($sum + 200), "$mode: rows stream again");
	$rows->stop;
	$sum = compare($mode);

	# Both at once, when nothing is under way: what was applied last is not sent again
	$_->stop('immediate') foreach $publisher, $subscriber;
	$_->start foreach $publisher, $subscriber;
	is(compare("$mode: both crash"), $sum, "$mode: nothing has come twice");
	my $told = $here->stop;
	my %copies = copies();
	$copies{$_} -= $before{$_} // 0 foreach keys %copies;
	is(PromptStats::Load::differences($told, \%copies), '', "$mode: exact, too, is what was counted beside it") if $mode ne 'async';

	$publisher->safe_psql('postgres', 'INSERT INTO shown (prompt_id) SELECT 1 FROM generate_series(1, 20)');
	$sum = compare("$mode: once more");
	is($subscriber->safe_psql('postgres', "SELECT own_fold_reasons ? 'origin' FROM prompt_stats_status"), 't', "$mode: the subscriber has folded its own")
		if $mode ne 'transaction';
	$phase++;
}
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM shown'), 0, 'of the rows themselves none was kept');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION counting');

# ---- prepared transactions of its own, in each mode: written or not, committed or not

my %prompt = map { $MODES[$_] => 15000 + 10 * $_ } 0 .. 2;
foreach my $mode (@MODES)
{
	my $id = $prompt{$mode};
	$subscriber->safe_psql('postgres', qq(
		SET prompt_stats.durability = '$mode';
		SELECT increment_prompt_views(ARRAY[$id, $id + 1, $id + 2, $id + 3]);
		SELECT prompt_stats_flush();
		BEGIN; SELECT increment_prompt_views($id, 10); PREPARE TRANSACTION '$mode commit';
		BEGIN; SELECT increment_prompt_views($id + 1, 10); PREPARE TRANSACTION '$mode rollback';
		BEGIN; SELECT increment_prompt_views($id + 2, 10); INSERT INTO prompts VALUES (-$id);
			SAVEPOINT s; SELECT increment_prompt_views($id + 2, 100); ROLLBACK TO s;
			SELECT increment_prompt_views(ARRAY[$id + 2, $id + 5], 10); PREPARE TRANSACTION '$mode write, commit';
		BEGIN; INSERT INTO prompts VALUES (-$id - 1); SELECT increment_prompt_views(ARRAY[$id + 3, $id + 4], 10);
			PREPARE TRANSACTION '$mode write, rollback';
	));
}
sub prepared
{
	my ($mode) = @_;
	return $subscriber->safe_psql('postgres', "SELECT string_agg(view_count::text, ' ' ORDER BY prompt_id) || ' ' || (SELECT count(*) FROM prompts WHERE id < 0)
		FROM prompt_stats WHERE prompt_id BETWEEN $prompt{$mode} AND $prompt{$mode} + 9");
}
foreach my $when ('prepared', 'after a crash')
{
	is(prepared($_), '1 1 1 1 0', "$_: $when") foreach @MODES;
	$subscriber->stop('immediate') if $when eq 'prepared';
	$subscriber->start if $when eq 'prepared';
}
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), 12, 'all are there still');
$subscriber->safe_psql('postgres', join ';', map { my $mode = $_;
	map { ($_ =~ /rollback/ ? 'ROLLBACK' : 'COMMIT') . " PREPARED '$mode $_'" } 'commit', 'rollback', 'write, commit', 'write, rollback' } @MODES);
foreach my $when ('decided', 'after another crash')
{
	is(prepared($_), '11 1 21 1 10 3', "$_: $when, those that are committed count, once") foreach @MODES;
	$subscriber->stop('immediate') if $when eq 'decided';
	$subscriber->start if $when eq 'decided';
}
is($subscriber->safe_psql('postgres', 'SELECT bool_and(ok) FROM prompt_stats_verify()'), 't', 'verify() is content');

$_->stop foreach $subscriber, $publisher;
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:|terminated by signal|deadlock detected/, 'nothing crashed') foreach $subscriber, $publisher;
done_testing();
