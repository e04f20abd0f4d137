# A row that is there and can't be written: rejected with its reason where the caller has gone on,
# an error to who waits; and what was in the way leaves no plan behind [21].

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
));
$node->start;

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub session { return PromptStats::Connection->new($node, 'test') // die 'no connection' }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }
sub status { return sql("SELECT $_[0] FROM prompt_stats_status") }
sub counts { return sql('SELECT prompt_id, view_count FROM prompt_stats WHERE prompt_id < 9 ORDER BY 1') =~ s/\n/ /gr }
my $LEDGER = 'accepted = flushed + pending + rejected';

# Comes to an end: the SQLSTATE, or ok
sub flush
{
	return outcome(session()->query("SET statement_timeout = '60s'; SELECT prompt_stats_flush()"));
}

# Calls until there is a flusher, which the first call starts
sub wait_for_flusher
{
	foreach (1 .. 1800)
	{
		sql('SELECT increment_prompt_copies(9)');
		return flush() if status('flusher') eq 'ready';
		usleep(100_000);
	}
	die 'there is no flusher';
}

sub count_async
{
	wait_for_flusher();
	sql('SELECT increment_prompt_views(1); SELECT increment_prompt_views(ARRAY[1, 2])');
	return flush();
}

sql(q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 9);
	CREATE EXTENSION prompt_stats;
	CREATE ROLE shop;
	ALTER TABLE prompts OWNER TO shop;
	ALTER TABLE prompt_stats OWNER TO shop;
	ALTER TABLE prompt_events OWNER TO shop;
	CREATE TABLE elsewhere (prompt_id bigint, view_count bigint);
	INSERT INTO elsewhere VALUES (1, 0), (2, 0);
	GRANT ALL ON elsewhere TO shop;
));
is(count_async(), 'ok', 'counted');
is(counts(), '1|2 2|1', 'for the first time');

# ---- what keeps rows from being written, and what ends it

my @obstacles = (
	[ 'a rule', '55000',
		'CREATE RULE r AS ON UPDATE TO prompt_stats DO INSTEAD NOTHING',
		'DROP RULE r ON prompt_stats' ],
	[ 'a rule that counts elsewhere', '55000',
		'CREATE RULE r AS ON UPDATE TO prompt_stats DO INSTEAD UPDATE elsewhere SET view_count = NEW.view_count WHERE prompt_id = OLD.prompt_id',
		'DROP RULE r ON prompt_stats' ],
	[ 'a right that is taken', '42501', 'REVOKE UPDATE ON prompt_stats FROM shop', 'GRANT UPDATE ON prompt_stats TO shop' ],
	[ 'another', '42501', 'REVOKE SELECT ON prompt_stats FROM shop', 'GRANT SELECT ON prompt_stats TO shop' ],
	[ 'a policy', '42501',
		'CREATE POLICY p ON prompt_stats FOR SELECT USING (true); ALTER TABLE prompt_stats ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
		'ALTER TABLE prompt_stats DISABLE ROW LEVEL SECURITY; DROP POLICY p ON prompt_stats' ],
);
my $caller = session();
$caller->query("SET prompt_stats.durability = 'group'");
my ($one, $two) = (2, 1);
foreach (@obstacles)
{
	my ($name, $state, $make, $end) = @$_;
	my $was = counts();

	wait_for_flusher();
	my $rejected = status('rejected');
	sql($make);
	sql('SELECT increment_prompt_views(1); SELECT increment_prompt_views(ARRAY[1, 2])');
	is(flush(), 'ok', "$name: a flush comes to an end");
	is(status("rejected - $rejected, pending, $LEDGER"), '3|0|t', 'what it can not write is rejected');
	like(status('last_rejected'), qr/prompt_stats/, 'with a reason');
	foreach my $call ('increment_prompt_views(1)', 'increment_prompt_views(ARRAY[1, 2])', 'increment_prompt_views(array_fill(2::bigint, ARRAY[100]))')
	{
		my $result = $caller->query("SELECT $call");
		is(outcome($result), $state, "$call: who waits is told");
	}
	is(counts(), $was, 'nothing is counted');

	sql($end);
	is(count_async(), 'ok', 'it is gone');
	is(outcome($caller->query('SELECT increment_prompt_views(ARRAY[1, 2])')), 'ok', 'also for who waits');
	($one, $two) = ($one + 3, $two + 2);
	is(counts(), "1|$one 2|$two", 'and all is counted');
}
is(sql('SELECT sum(view_count) FROM elsewhere'), '0', 'nothing anywhere else');

# ---- a trigger's veto is its way to say no

sql(q(
	CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN NEW.prompt_id = 1 THEN NULL ELSE NEW END; END';
	CREATE TRIGGER veto BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION veto();
));
{
	wait_for_flusher();
	my $rejected = status('rejected');
	is(count_async(), 'ok', 'a veto: the flush comes to an end');
	is(status("rejected - $rejected, pending, $LEDGER"), '0|0|t', 'nothing is rejected');
	is(outcome($caller->query('SELECT increment_prompt_views(ARRAY[1, 2])')), 'ok', 'nor is it an error');
	$two += 2;
	is(counts(), "1|$one 2|$two", 'others are counted');
}
sql('DROP TRIGGER veto ON prompt_stats');

# ---- the flusher, whose table was small when it made its plans

sub reads
{
	return sql(q(SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname IN ('prompts', 'prompt_stats')));
}
foreach my $trigger (0, 1)
{
	my $size = 3000 + $trigger * 3000;

	sql('CREATE TRIGGER nothing AFTER INSERT OR UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION nothing()') if $trigger;
	sql(q(
		CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		TRUNCATE prompts, prompt_events, prompt_stats;
		ALTER TABLE prompts SET (autovacuum_enabled = off);
		ALTER TABLE prompt_stats SET (autovacuum_enabled = off);
		INSERT INTO prompts VALUES (1), (2), (9);
	)) unless $trigger;
	is(count_async(), 'ok', 'a flush while few are there') for 1 .. 3;
	sql('ANALYZE prompts, prompt_stats');
	is(count_async(), 'ok', 'and one after they were analysed');
	my $reads = reads();
	sql("INSERT INTO prompts SELECT generate_series($size + 1, $size + 3000)");
	foreach my $round (1, 2)
	{
		wait_for_flusher();
		sql("SELECT increment_prompt_views(array_agg(i)) FROM generate_series($size + 1, $size + 3000) i");
		is(flush(), 'ok', 'many prompts are flushed');
	}
	is(sql("SELECT count(*), sum(view_count) FROM prompt_stats WHERE prompt_id > $size"), '3000|6000', 'and counted');

	# It tells what it has read when it goes
	my $flusher = status('flusher_pid');
	ok(sql("SELECT pg_terminate_backend($flusher, 60000)"), 'it goes');
	cmp_ok(reads() - $reads, '<', 60_000, 'without reading the tables again and again');
}

done_testing();
