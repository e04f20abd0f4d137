# Memory that is not to be had: shared memory, as where /dev/shm is full, and a session's own.
# Callers fold their own counts then, or get an error that counts nothing [5] [7] [11].

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;

# Small files of the server's own, and a place in shared memory for each of many backends: so a
# limit of the size of files keeps us from shared memory, and nothing else
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => ['--wal-segsize=1']);
$node->append_conf('postgresql.conf', qq(
	max_connections = 10000
	dynamic_shared_memory_type = posix
	prompt_stats.max_pending = '1GB'
	prompt_stats.flush_interval = '1h'));
$node->start;

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub session { return PromptStats::Connection->new($node, 'test') // die 'no connection' }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }
sub views { return sql('SELECT coalesce(sum(view_count), 0) FROM prompt_stats') }
sub status { return sql("SELECT $_[0] FROM prompt_stats_status") }

# Of those that start from now on
sub limit_files
{
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	system_or_bail('prlimit', "--pid=$postmaster", "--fsize=$_[0]:");
	return;
}

sql('CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 3000);
	CREATE EXTENSION prompt_stats;
	INSERT INTO prompt_stats (prompt_id) SELECT id FROM prompts;');

# ---- none at all

limit_files(1536 * 1024);
my $poor = session();
my $expected = 0;
foreach my $durability (qw(group async transaction))
{
	is(outcome($poor->query("SET prompt_stats.durability = '$durability'")), 'ok', $durability);
	is(outcome($poor->query('SELECT increment_prompt_views(1)')), 'ok', 'a count without shared memory');
	is(outcome($poor->query('SELECT increment_prompt_views(ARRAY[1, 2, 3]); SELECT increment_prompt_views(4)')), 'ok', 'and several');
	is(views(), $expected += 5, 'are in the table');
}
is($poor->query('SELECT view_count, pending FROM get_prompt_stats(1)')->{rows}[0][0], 6, 'and are read');
is(outcome($poor->query('SELECT prompt_stats_flush()')), 'ok', 'there is nothing to flush');
like(slurp_file($node->logfile), qr/LOG:  prompt_stats could not attach to shared memory: .*\n.*DETAIL:  This session folds its own counts/, 'the log says so');
unlike(slurp_file($node->logfile), qr/WARNING|FATAL|PANIC/, 'and nothing worse');

# ---- none for pending counts

limit_files('unlimited');
my $async = session();
is(outcome($async->query('SET prompt_stats.durability = async; SELECT increment_prompt_views(1)')), 'ok', 'another session gets what it needs');
ok($node->poll_query_until('postgres', "SELECT flusher = 'ready' FROM prompt_stats_status"), 'and a flusher');
limit_files(2 * 1024 * 1024);
$async = session();
$async->query('SET prompt_stats.durability = async');
is(outcome($async->query('SELECT increment_prompt_views(1)')), 'ok', 'a count where there is no room for pending ones');
is(outcome($async->query('SELECT increment_prompt_views(array_agg(i::bigint)) FROM generate_series(1, 1000) AS i')), 'ok', 'and many');
is(views(), $expected += 1002, 'are in the table');
is(status("pending = 0 AND (own_fold_reasons ->> 'no_memory')::bigint = 1001"), 't', 'and the status says why');
limit_files('unlimited');
$async = session();
is(outcome($async->query('SET prompt_stats.durability = async; SELECT increment_prompt_views(1)')), 'ok', 'with room');
is(status('pending'), 1, 'a count is pending');
sql('SELECT prompt_stats_flush()');
is(views(), ++$expected, 'and flushed');

# ---- none of the session's own: an error, which counts nothing, and can be caught

foreach my $durability (qw(group async))
{
	my $greedy = session();
	my $pid = $greedy->query('SELECT pg_backend_pid()')->{rows}[0][0];
	$greedy->query("SET prompt_stats.durability = '$durability'");
	$greedy->query('SELECT increment_prompt_views(1)');
	my ($size) = slurp_file("/proc/$pid/status") =~ /^VmSize:\s+(\d+) kB/m;
	system_or_bail('prlimit', "--pid=$pid", '--as=' . 1024 * ($size + 50_000) . ':');
	my $result = $greedy->query(q(DO $$
		DECLARE
			calls int := 0;
		BEGIN
			PERFORM increment_prompt_views(2);
			BEGIN
				LOOP
					PERFORM increment_prompt_views(array_agg(calls * 7000 + i::bigint)) FROM generate_series(1, 7000) AS i;
					calls := calls + 1;
				END LOOP;
			EXCEPTION WHEN out_of_memory THEN
				ASSERT calls > 3;
			END;
			PERFORM increment_prompt_views(3);
		END $$));
	is(outcome($result), 'ok', "$durability: out of memory, but not for long");
	is(outcome($greedy->query('SELECT increment_prompt_views(4)')), 'ok', 'the session goes on');
	sql('SELECT prompt_stats_flush()');
	is(views(), $expected += 4, 'and what was rolled back is not counted');
}
done_testing();
