# On a hot standby the functions that write fail as nextval() does, and those that
# read work [8][10]; after its promotion it counts.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->start;
$primary->backup('backup');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

$primary->safe_psql('postgres', q(
	CREATE SEQUENCE seq;
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts VALUES (1), (2), (3);
	CREATE EXTENSION prompt_stats;
	SELECT increment_prompt_views(1, 5);
	SELECT increment_prompt_copies(ARRAY[1, 2]::bigint[]);
	SELECT track_prompt_fork(1, 7);
));
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));

# ---- what writes ----

my $nextval = error_of("SELECT nextval('seq')");
like($nextval, qr/25006: cannot execute nextval\(\)/, 'the error of nextval()');

foreach my $call (
	'increment_prompt_views(1)', 'increment_prompt_views(1::bigint)',
	"increment_prompt_views('1'::text)", 'increment_prompt_views(gen_random_uuid())',
	'increment_prompt_views(1, 5)', 'increment_prompt_views(ARRAY[1, 2]::bigint[])',
	'increment_prompt_copies(1)', 'increment_prompt_copies(ARRAY[1, 2]::bigint[], 3)',
	'increment_fork_count(1)', 'track_prompt_fork(1, 7)', 'track_compare_add(1, 7)',
	'prompt_stats_migrate_batch()', 'prompt_stats_recount_forks()')
{
	my ($function) = $call =~ /^(\w+)/;
	my $expected = $nextval =~ s/nextval/$function/r;
	is(error_of("SELECT $call"), $expected, "$call fails as nextval() does");
}
foreach my $sql ('CALL prompt_stats_migrate()', 'SELECT prompt_stats_enable_compat()', q(SELECT prompt_stats_allow('public')), q(SELECT prompt_stats_deny('public')))
{
	like(error_of($sql), qr/ERROR:  25006:/, "$sql fails for the same reason");
}

# The first line of it, which has the SQLSTATE
sub error_of
{
	my ($sql) = @_;
	my ($ret, $stdout, $stderr) = $standby->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	my ($error) = $stderr =~ /(ERROR: .*)/;
	return $error // "no error, $stderr";
}

# ---- what reads ----

my $session = $standby->background_psql('postgres');
is($session->query_safe('SELECT view_count, copy_count, fork_count, pending FROM get_prompt_stats(1)'),
	'5|1|1|0', 'get_prompt_stats()');
is($session->query_safe('SELECT view_count, copy_count, fork_count, pending FROM get_prompt_stats(3)'),
	'0|0|0|0', 'get_prompt_stats() of a prompt without a row');
is( $session->query_safe(q(
	SELECT prompt_id, view_count, copy_count, fork_count, pending, as_of IS NOT NULL
	FROM prompt_stats_live ORDER BY prompt_id)),
	"1|5|1|1|0|t\n2|0|1|0|0|t", 'prompt_stats_live');
is($session->query_safe('SELECT bool_and(ok) FROM prompt_stats_verify()'), 't', 'prompt_stats_verify()');
is($session->query_safe('SELECT count(*) FROM prompt_stats_preflight()'), 0, 'prompt_stats_preflight()');

# ---- a table that is dropped, or replaced, while a session that has not used it yet waits for it ----

foreach my $call ('FROM get_prompt_stats(1)', 'FROM prompt_stats_live', "FROM prompt_stats_verify() WHERE check_name = 'tables' AND NOT ok")
{
	foreach my $replaced (0, 1)
	{
		my $changer = $primary->background_psql('postgres');
		$changer->query_safe('BEGIN');
		$changer->query_safe('ALTER TABLE prompt_stats RENAME TO kept');
		$changer->query_safe('CREATE TABLE prompt_stats (LIKE kept INCLUDING ALL)') if $replaced;
		$changer->query_safe('DROP TABLE kept');
		$primary->safe_psql('postgres', q(SELECT pg_logical_emit_message(true, '', '')));	# what is flushed is replayed
		$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));

		my ($out, $err) = ('', '');
		my $reader = IPC::Run::start(
			[ 'psql', '-XAtq', '-d', $standby->connstr('postgres'), '-c', '\set VERBOSITY verbose', '-c', "SELECT count(*) $call" ],
			'<', '/dev/null', '>', \$out, '2>', \$err);
		$standby->poll_query_until('postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
			or die 'the reader does not wait';
		$changer->query_safe('COMMIT');
		$changer->quit;
		$reader->finish;
		my $told = $call =~ /verify/ ? $out =~ s/\s//gr : $err =~ /ERROR:  (\w+):/ ? $1 : 'rows';
		my $expected = $call =~ /verify/ ? ($replaced ? '0' : '1') : $replaced ? 'rows' : '42P01';
		is($told, $expected, "$call, " . ($replaced ? 'replaced' : 'dropped'));
		$primary->safe_psql('postgres', 'SELECT prompt_stats_setup()') unless $replaced;
	}
}
$primary->safe_psql('postgres', q(
	DELETE FROM prompt_stats;
	SELECT increment_prompt_views(1, 5), increment_prompt_copies(ARRAY[1, 2]::bigint[]), increment_fork_count(1)
));
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));

# ---- promotion ----

$standby->promote;
is($standby->safe_psql('postgres', 'SELECT increment_prompt_views(1)'), '', 'a new session counts after the promotion');
$session->query_safe('SELECT increment_prompt_views(1)');
$session->query_safe('SELECT track_prompt_fork(2, 7)');
is( $session->query_safe('SELECT prompt_id, view_count, copy_count, fork_count FROM prompt_stats ORDER BY 1'),
	"1|7|1|1\n2|0|1|1", 'and so does one that read before it');
is($session->query_safe('SELECT bool_and(ok) FROM prompt_stats_verify()'), 't', 'verify() is content');
$session->quit;

done_testing();
