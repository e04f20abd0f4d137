# Synchronous replication whose standby does not come: who asked for it waits in COMMIT, by
# himself and for as long as he likes; nobody else does [4][7].

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', "synchronous_commit = local\nprompt_stats.durability = group");
$node->start;

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub session { return PromptStats::Connection->new($node, 'test') // die 'no connection' }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }

sub send_query
{
	my ($session, $sql) = @_;
	$session->send_bytes(pack('aNZ*', 'Q', length($sql) + 5, $sql));
	return;
}

# Lists always go to the flusher
sub list { return "SELECT increment_prompt_views(ARRAY(SELECT generate_series($_[0], $_[0] + 9)::bigint))" }
sub sum { return sql("SELECT sum(view_count) FROM prompt_stats WHERE prompt_id BETWEEN $_[0] AND $_[0] + 9") }

sub wait_for_flusher
{
	ok($node->poll_query_until('postgres', q(SELECT flusher = 'ready' FROM prompt_stats_status,
		increment_prompt_copies(ARRAY(SELECT generate_series(1, 10)::bigint)))), 'the flusher is ready');
	return;
}

sub wait_for_sync_waiters
{
	my ($n, $what) = @_;
	ok($node->poll_query_until('postgres', "SELECT count(*) = $n FROM pg_stat_activity
		WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'"), $what);
	return;
}

sql('CREATE TABLE prompts (id bigint PRIMARY KEY); INSERT INTO prompts SELECT generate_series(1, 100)');
sql('CREATE EXTENSION prompt_stats; INSERT INTO prompt_stats (prompt_id) SELECT generate_series(1, 100)');
wait_for_flusher();
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
$node->reload;
ok($node->poll_query_until('postgres', q(SELECT current_setting('synchronous_standby_names') = 'nobody')), 'a standby is awaited');

my $patient = session();
$patient->query("SET synchronous_commit = on; SET statement_timeout = '300ms'");
my $groups = sql('SELECT groups FROM prompt_stats_status');
send_query($patient, list(21));
wait_for_sync_waiters(1, 'who wants a standby waits for it');
is(sum(21), 10, 'what he counted is on the disk of this server');

my $local = session();
is(outcome($local->query(list(41))), 'ok', 'who does not want it does not wait');
is(sum(41), 10, 'and is counted');
is(sql("SELECT groups > $groups AND flusher = 'ready' FROM prompt_stats_status"), 't', 'the flusher folded for both');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type LIKE 'prompt%'"), 0, 'and waits for no standby');
ok($node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity
	WHERE wait_event = 'SyncRep' AND query_start < now() - interval '600 ms')), 'statement_timeout does not end the wait, as in any commit');

sql(q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'));
is(outcome($patient->read_result), 'ok', 'a cancel ends the wait: it is committed');
like(slurp_file($node->logfile), qr/canceling wait for synchronous replication due to user request/, 'with the warning of any commit');
is(sum(21), 10, 'counted once');

$patient->query('RESET statement_timeout');

# In async nobody waits, neither for the flush
is(outcome($patient->query("SET prompt_stats.durability = 'async'; " . list(61))), 'ok', 'async');
is(outcome($patient->query('SELECT prompt_stats_flush()')), 'ok', 'and its flush');
is(sum(61), 10, 'are counted');

send_query($patient, "SET prompt_stats.durability = 'group'; " . list(81));
wait_for_sync_waiters(1, 'another who waits');
$node->stop('fast');
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->start;
is(sum(81), 10, 'a shutdown while he waits: counted once');

done_testing();
