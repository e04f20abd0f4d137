# Durability "async" and DDL under load, databases that go, logical replication and
# preloading: the ledger says where each count went [6][7][10][11][14].

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 'logical');
$node->append_conf('postgresql.conf', qq(
	prompt_stats.durability = async
	prompt_stats.flush_interval = '20ms'
	max_connections = 100
	log_statement = none
));
$node->start;

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]) }
sub session { return PromptStats::Connection->new($node, 'test') // die 'no connection' }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }
sub status { return sql("SELECT $_[0] FROM prompt_stats_status", $_[1]) }
sub flush { sql("SET statement_timeout = '60s'; SELECT prompt_stats_flush()", $_[0]); return }
my $LEDGER = 'accepted = flushed + pending + rejected';

my $SCHEMA = q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 100);
	CREATE EXTENSION prompt_stats;
);

# Calls until there is a flusher, which the first call starts
sub wait_for_flusher
{
	my ($database) = @_;
	foreach (1 .. 1800)
	{
		sql('SELECT increment_prompt_copies(1)', $database);
		return ok(1, 'there is a flusher') if status('flusher', $database) eq 'ready';
		usleep(100_000);
	}
	return ok(0, 'there is a flusher');
}

# ---- replication: a row that the flusher makes, and what it adds to it

sql($SCHEMA);
sql('CREATE DATABASE mirror');
sql('CREATE TABLE prompt_stats (prompt_id bigint PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint, updated_at timestamptz)', 'mirror');
sql('CREATE PUBLICATION counts FOR TABLE prompt_stats');
sql("SELECT pg_create_logical_replication_slot('mirror', 'pgoutput')");
my $connection = $node->connstr('postgres');
$connection =~ s/'/''/g;
sql("CREATE SUBSCRIPTION mirror CONNECTION '$connection' PUBLICATION counts WITH (create_slot = false, slot_name = 'mirror', copy_data = false)", 'mirror');
wait_for_flusher();
my $own = status('own_folds');
foreach my $turn (1 .. 3)
{
	sql('SELECT increment_prompt_views(ARRAY[10, 11]::bigint[], 5), increment_fork_count(10)');
	flush();
}
is(status('own_folds'), $own, 'the flusher folds');
ok($node->poll_query_until('mirror', q(SELECT string_agg(concat_ws(' ', prompt_id, view_count, fork_count), ', ' ORDER BY prompt_id) = '10 15 3, 11 15 0'
	FROM prompt_stats WHERE prompt_id > 9)), 'what was flushed is replicated');
sql('ALTER SUBSCRIPTION mirror DISABLE; ALTER SUBSCRIPTION mirror SET (slot_name = NONE); DROP SUBSCRIPTION mirror', 'mirror');
ok($node->poll_query_until('postgres', "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'mirror'"), 'the slot is free');
sql("SELECT pg_drop_replication_slot('mirror'); DROP PUBLICATION counts");
sql('DROP DATABASE mirror');

# ---- DDL under load: what can't be folded is rejected, nobody hangs

sql('CREATE TABLE gone (key text, n bigint)');

# In the table, and taken away with it
my $COUNTED = q(SELECT prompt_id || ' views' AS key, view_count AS n FROM prompt_stats UNION ALL SELECT key, n FROM gone);
sub counted { return map { split /\|/ } split /\n/, sql("SELECT key, sum(n) FROM ($COUNTED) AS c GROUP BY key") }

sub sum_of
{
	my ($counts) = @_;
	my $sum = 0;
	$sum += $_ foreach values %$counts;
	return $sum;
}

sub progress
{
	my ($what) = @_;
	my $since = status('accepted + own_folds');
	ok($node->poll_query_until('postgres', "SELECT accepted + own_folds > $since + 500 FROM prompt_stats_status"), $what);
	return;
}

# Runs the steps while 16 clients count, then compares; "errors" are those that are allowed
sub under_load
{
	my ($name, $steps, $errors) = @_;
	wait_for_flusher();
	flush();
	my %before = counted();
	my ($rejected, $handed) = split /\|/, status('rejected, accepted + own_folds');
	my $load = PromptStats::Load->start($node, 16, sub {
		my ($client, $turn) = @_;
		my $id = $turn % 3 ? 1 : 1 + int(rand 50);
		my $n = 1 + $turn % 3;
		return ("SELECT increment_prompt_views($id, $n)", { "$id views" => $n });
	});

	progress("$name: counting");
	foreach my $step (@$steps)
	{
		my $began = time;
		ref $step ? $step->() : sql($step);
		cmp_ok(time - $began, '<', 20, "$name: done");
	}
	progress("$name: still counting");
	my $told = $load->stop;
	flush();
	is(join("\n", grep { $_ !~ $errors } keys %{ $told->{errors} }), '', "$name: no other errors");
	is($told->{lost}, 0, "$name: no connection lost");
	is(status("pending, $LEDGER"), '0|t', "$name: the ledger adds up");
	is(status("accepted + own_folds - $handed"), sum_of($told->{acked}), "$name: it has what the clients were told");

	my %counted = counted();
	$counted{$_} -= $before{$_} foreach keys %before;
	$rejected = status("rejected - $rejected");
	is(sum_of(\%counted) + $rejected, sum_of($told->{acked}), "$name: counted or rejected, exactly");
	is(PromptStats::Load::differences($told, \%counted), '', "$name: each prompt is exact") if $rejected == 0;
	return $rejected;
}

# Others count while it is locked
my $ddl = session();
sub take_away
{
	my ($statement) = @_;
	my $result = $ddl->query(q(BEGIN; LOCK TABLE prompt_stats;
		INSERT INTO gone SELECT prompt_id || ' views', view_count FROM prompt_stats WHERE view_count > 0));
	is(outcome($result), 'ok', 'the table is locked');
	ok($node->poll_query_until('postgres', 'SELECT pending > 200 FROM prompt_stats_status'), 'counting goes on');
	is(outcome($ddl->query("$statement; COMMIT")), 'ok', $statement);
	return;
}

my $NONE = qr/^$/;
is(under_load('TRUNCATE', [ (sub { take_away('TRUNCATE prompt_stats') }) x 3 ], $NONE), 0, 'TRUNCATE: nothing is rejected');

# Callers meet the error of a missing table or function meanwhile
my $MISSING = qr/^(42P01|42883|XX000 cache lookup failed|42704)/;
cmp_ok(under_load('DROP TABLE', [ sub { take_away('DROP TABLE prompt_stats') }, 'SELECT prompt_stats_setup()' ], $MISSING), '>', 200,
	'DROP TABLE: what was pending is rejected');
is(under_load('DROP EXTENSION', [ 'DROP EXTENSION prompt_stats', 'CREATE EXTENSION prompt_stats' ], $MISSING), 0,
	'DROP EXTENSION: nothing is rejected');

# ---- a table of another shape

my $log = -s $node->logfile;
wait_for_flusher();
flush();
my $rejected = status('rejected');
$ddl->query('BEGIN; LOCK TABLE prompt_stats IN SHARE MODE');
sql("SET statement_timeout = '60s'; SELECT increment_prompt_views(60, 7), increment_prompt_views(61, 2)");
is(outcome($ddl->query('ALTER TABLE prompt_stats RENAME view_count TO seen; COMMIT')), 'ok', 'a column is renamed while counts are pending');
is(outcome(session()->query("SET statement_timeout = '60s'; SELECT prompt_stats_flush()")), '55000', 'a flush says that the table cannot be written');
is(status("pending, rejected - $rejected, $LEDGER"), '9|0|t', 'what has no column stays pending');
like(slurp_file($node->logfile, $log), qr/could not flush counts, which stay pending: .*view_count/, 'the log says why');
sql('ALTER TABLE prompt_stats RENAME seen TO view_count');
flush();
is(sql('SELECT view_count FROM prompt_stats WHERE prompt_id IN (60, 61) ORDER BY 1'), "2\n7", 'with the column, it is counted');

# ---- a database that goes, whoever is in it

$node->append_conf('postgresql.conf', "prompt_stats.flush_interval = '1h'");
$node->reload;
ok($node->poll_query_until('postgres', "SELECT current_setting('prompt_stats.flush_interval') = '1h'"), 'flushed each hour');
sql('CREATE DATABASE shop');
sql($SCHEMA, 'shop');
wait_for_flusher('shop');
my $inside = $node->background_psql('shop', on_error_stop => 0);
$inside->query_safe('SELECT increment_prompt_views(1, 5)');
is(status('pending >= 5', 'shop'), 't', 'counts are pending');
my $began = time;
sql('DROP DATABASE shop WITH (FORCE)');
cmp_ok(time - $began, '<', 5, 'DROP DATABASE with FORCE');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop'"), 0, 'its flusher is gone');
$inside->quit;
sql('CREATE DATABASE shop');
sql($SCHEMA, 'shop');
is(status("accepted, pending, own_folds, $LEDGER", 'shop'), '0|0|0|t', 'another of that name has a new ledger');
wait_for_flusher('shop');
sql('SELECT increment_prompt_views(1, 3)', 'shop');
flush('shop');
is(sql('SELECT view_count FROM prompt_stats WHERE prompt_id = 1', 'shop'), 3, 'and counts');

# The flusher, which stays for a pending count, is a superuser's
sql('CREATE ROLE keeper; ALTER DATABASE shop OWNER TO keeper');
wait_for_flusher('shop');
sql('SELECT increment_prompt_views(1)', 'shop');
my $keeper = session();
$keeper->query('SET ROLE keeper');
is(outcome($keeper->query('DROP DATABASE shop WITH (FORCE)')), '42501', 'its owner can not end the flusher');
flush('shop');
is(outcome($keeper->query('DROP DATABASE shop')), 'ok', 'but need not');

# ---- preloaded it is the same

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'prompt_stats'\nprompt_stats.flush_interval = '20ms'");
$node->restart;
is(sql('SHOW prompt_stats.flush_interval'), '20ms', 'preloaded');
my $had = sql('SELECT view_count FROM prompt_stats WHERE prompt_id = 60');
my $file = "$PostgreSQL::Test::Utils::tmp_check/group.sql";
append_to_file($file, "SELECT increment_prompt_views(60);\n");
{
	local $ENV{PGOPTIONS} = '-c prompt_stats.durability=group';
	$node->command_ok([ 'pgbench', '-n', '-c', 32, '-j', 2, '-t', 100, '-f', $file, 'postgres' ], 'preloaded: groups');
}
is(sql('SELECT view_count FROM prompt_stats WHERE prompt_id = 60') - $had, 3200, 'exact');
is(status('largest_group > 1 AND grouped_transactions > groups'), 't', 'and there were some');
is(under_load('preloaded', [], $NONE), 0, 'preloaded: nothing is rejected');
is(status('flushes > 0 AND flushed > own_folds'), 't', 'preloaded: the flusher folds');

$node->stop;
unlike(slurp_file($node->logfile), qr/deadlock detected|PANIC|TRAP:|terminated by signal/, 'nothing crashed');
done_testing();
