# Other libraries beside ours: one of ours with another layout of shared memory,
# installed under a running server [11], one that fails commits after us [3], and one that is
# asked for rights [22].

use strict;
use warnings FATAL => 'all';

use File::Copy qw(copy);
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(usleep);

my $top = "$FindBin::RealBin/../..";
my $build = PostgreSQL::Test::Utils::tempdir();
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
chomp(my $pkglibdir = `$pg_config --pkglibdir`);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'log_statement = none');
$node->start;

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub session { return PromptStats::Connection->new($node, 'test') // die 'no connection' }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }
sub views { return sql("SELECT coalesce(sum(view_count), 0) FROM prompt_stats WHERE prompt_id = $_[0]") }

sql(q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 20);
	CREATE EXTENSION prompt_stats;
	INSERT INTO prompt_stats (prompt_id) SELECT id FROM prompts;
));

# ---- a library with another layout, while sessions and the flusher use the old one

sub make
{
	my ($directory, @arguments) = @_;
	local $ENV{MAKEFLAGS} = '';
	system_or_bail('make', '-s', '-C', $directory, 'with_llvm=no', "PG_CONFIG=$pg_config", @arguments);
	return;
}

# As "make install" does it: the old file stays with those that have it open
sub install
{
	my ($from, $name) = @_;
	copy($from, "$pkglibdir/$name.new") or die "could not copy $from: $!";
	chmod 0755, "$pkglibdir/$name.new";
	rename "$pkglibdir/$name.new", "$pkglibdir/$name" or die "could not rename: $!";
	return;
}

my $tree = "$build/tree";
mkdir $tree;
system_or_bail('cp', '-r', map({ "$top/$_" } qw(Makefile prompt_stats.control sql src)), $tree);

sub build
{
	my ($to, $flags) = @_;
	system_or_bail('find', $tree, '-name', '*.o', '-delete');
	make($tree, "COPT=$flags", 'prompt_stats.so');
	rename "$tree/prompt_stats.so", "$build/$to" or die "could not rename: $!";
	return;
}

build('new.so', '-DPST_LAYOUT=9999');
copy("$pkglibdir/prompt_stats.so", "$build/old.so") or die "could not keep the library: $!";

my $old = session();
my $asynchronous = session();
sub be_asynchronous
{
	my ($session) = @_;
	$session->query("SET prompt_stats.durability = 'async'; SET statement_timeout = '60s'");
	foreach (1 .. 600)
	{
		$session->query('SELECT increment_prompt_copies(1)');
		last if sql('SELECT flusher FROM prompt_stats_status') eq 'ready';
		usleep(50_000);
	}
	return;
}

be_asynchronous($asynchronous);
is(outcome($old->query('SELECT increment_prompt_views(1)')), 'ok', 'the old library counts');

# A row that is locked keeps a count pending, and hence the flusher from leaving
my $locker = session();
$locker->query('BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 7 FOR UPDATE');
is(outcome($asynchronous->query('SELECT increment_prompt_views(7, 5)')), 'ok', 'also a prompt whose row is locked');
my $log = -s $node->logfile;
install("$build/new.so", 'prompt_stats.so');

is(outcome($asynchronous->query('SELECT increment_prompt_views(1)')), 'ok', 'it does so when another is installed');
is(outcome($old->query('SELECT increment_prompt_views(1)')), 'ok', 'in every mode');
my $new = session();
is(outcome($new->query("SELECT increment_prompt_views(1); SET prompt_stats.durability = 'async'")), 'ok', 'the new library counts');
is(outcome($new->query('SELECT increment_prompt_views(1)')), 'ok', 'in every mode as well');
like(slurp_file($node->logfile, $log), qr/shared memory.*another version.*Restart the server/s, 'and says that a restart is due');

my $file = "$PostgreSQL::Test::Utils::tmp_check/layouts.sql";
append_to_file($file, "SELECT increment_prompt_views(1);\n");
$node->command_ok([ 'pgbench', '-n', '-c', 16, '-j', 2, '-t', 50, '-f', $file, 'postgres' ], 'many sessions with the new library');
is(outcome($asynchronous->query('SELECT increment_prompt_views(1)')), 'ok', 'the old session goes on');

# What the old one holds stays where it is
$new->query("SET statement_timeout = '30s'");
is(outcome($new->query('SELECT prompt_stats_flush()')), '55000', 'the new library says that it cannot flush what the old one holds');
is(outcome($new->query('SELECT increment_prompt_views(1)')), 'ok', 'and counts on');
is($asynchronous->query('SELECT pending >= 5 FROM prompt_stats_status')->{rows}[0][0], 't', 'the count is pending yet');
$locker->query('COMMIT');
is(outcome($asynchronous->query('SELECT prompt_stats_flush()')), 'ok', 'the old session flushes');
is(views(7), 5, 'what was pending is counted');
is(views(1), 807, 'both together: exact');

# What is started instead of the old flusher is of the new library, and can't serve the old memory
$asynchronous->query('SELECT pg_terminate_backend(flusher_pid) FROM prompt_stats_status');
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'prompt_stats flusher'"), 'the old flusher is gone');
is(outcome($asynchronous->query('SELECT increment_prompt_views(7)')), 'ok', 'the old session counts on') for 1 .. 3;
is(outcome($asynchronous->query('SELECT prompt_stats_flush()')), 'ok', 'and has nothing to wait for');
is(views(7), 8, 'it has folded its own');
$node->restart;
$node->command_ok([ 'pgbench', '-n', '-c', 16, '-j', 2, '-t', 50, '-f', $file, 'postgres' ], 'after the restart');
is(views(1), 1607, 'exact');
is(sql("SELECT flusher FROM prompt_stats_status"), 'ready', 'the new library has its own memory');

# ---- a flusher that left counts behind, and none that could come after it

build('hasty.so', '-DPST_LEAVING_MS=100');
install("$build/hasty.so", 'prompt_stats.so');
$node->restart;
my $left = session();
be_asynchronous($left);
$locker = session();
$locker->query('BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 9 FOR UPDATE');
is(outcome($left->query('SELECT increment_prompt_views(9, 5)')), 'ok', 'its row is locked');
install("$build/new.so", 'prompt_stats.so');
$left->query('SELECT pg_terminate_backend(flusher_pid) FROM prompt_stats_status');
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'prompt_stats flusher'"), 'the flusher gives up');
$locker->query('COMMIT');
is(outcome($left->query("SET statement_timeout = '2500ms'; SELECT prompt_stats_flush()")), '57014', 'what it left waits for another');
is($left->query('SELECT pending FROM prompt_stats_status')->{rows}[0][0], 5, 'and is pending');
install("$build/hasty.so", 'prompt_stats.so');
is(outcome($left->query("SET statement_timeout = '60s'; SELECT prompt_stats_flush()")), 'ok', 'who flushes starts one, again and again');
is(views(9), 5, 'it is counted');
install("$build/old.so", 'prompt_stats.so');
$node->restart;

# ---- a library whose pre-commit hook fails, after ours has counted

system_or_bail('cp', '-r', "$top/test/fail_commit", $build);
make("$build/fail_commit", 'fail_commit.so');
install("$build/fail_commit/fail_commit.so", 'fail_commit.so');

# Hooks are called in the reverse order of their registration
my $failing = session();
is(outcome($failing->query("LOAD 'fail_commit'")), 'ok', 'loaded before ours');
is(outcome($failing->query('SELECT increment_prompt_views(2, 0)')), 'ok', 'then ours');
sub fail_to_count
{
	my ($mode, $id) = @_;
	$failing->query("SET prompt_stats.durability = '$mode'");
	is(outcome($failing->query("SET LOCAL fail_commit.now = on; SELECT increment_prompt_views($id, 100)")), '38000', "$mode: the commit fails");
	return;
}

fail_to_count($_, 3) foreach qw(transaction group async);
sql('SELECT prompt_stats_flush()');
is(views(3), 0, 'alone: nothing is counted');
is(sql('SELECT pending, accepted = flushed + pending + rejected FROM prompt_stats_status'), '0|t', 'nothing is pending');

# Nobody is there to get the error of a trigger that lets no count be taken back
sql(q(
	CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'counters only grow'; END $$;
	CREATE TRIGGER keep BEFORE UPDATE ON prompt_stats FOR EACH ROW
		WHEN (NEW.prompt_id = 6 AND NEW.view_count < OLD.view_count) EXECUTE FUNCTION keep();
));

# In company: one that is stuck while it folds alone keeps the others together
my $holder = session();
my $stuck = session();
$holder->query('BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 20 FOR UPDATE');
$stuck->send_bytes(pack('aNZ*', 'Q', length('SELECT increment_prompt_views(20)') + 5, 'SELECT increment_prompt_views(20)'));
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"), 'one is stuck');
my $companion = session();
foreach (1 .. 600)
{
	$companion->query('SELECT increment_prompt_copies(4)');
	last if sql('SELECT flusher FROM prompt_stats_status') eq 'ready';
	usleep(50_000);
}
my $groups = sql('SELECT grouped_transactions FROM prompt_stats_status');
# A place in the queue that still holds counts to be taken back takes no others
foreach my $turn (1 .. 3)
{
	fail_to_count('group', 5);
	ok($node->poll_query_until('postgres', "SELECT grouped_transactions >= $groups + 2 * $turn FROM prompt_stats_status"),
		"in company: it is folded, and taken back, $turn");
}
is(views(5), 0, 'so nothing is counted');
is(sql('SELECT pending, accepted = flushed + pending + rejected FROM prompt_stats_status'), '0|t', 'the ledger adds up');
is(outcome($failing->query('SELECT increment_prompt_views(5, 7)')), 'ok', 'the session counts on');
is(views(5), 7, 'exactly');
$log = -s $node->logfile;
fail_to_count('group', 6);
my $found = 0;
for (my $turn = 0; $turn < 1800 && !$found; $turn++)
{
	usleep(100_000) if $turn;
	$found = slurp_file($node->logfile, $log) =~ /could not take back the counts .*\n.*counters only grow/;
}
ok($found, 'a count that could not be taken back is told in the log');
is(views(6), 100, 'and stays');
$holder->query('COMMIT');
is(outcome($stuck->read_result), 'ok', 'the one that was stuck goes on');

# ---- a library that is asked for rights is asked for each update

sql('DROP TRIGGER keep ON prompt_stats');
foreach my $mode (qw(transaction group))
{
	my $asked = session();
	$asked->query("LOAD 'fail_commit'; SET prompt_stats.durability = '$mode'");
	is(outcome($asked->query('SELECT increment_prompt_views(10)')), 'ok', "$mode: it allows");
	is(outcome($asked->query('SET LOCAL fail_commit.deny = on; SELECT increment_prompt_views(10)')), '42501', "$mode: it denies");
}
is(views(10), 2, 'what it denied is not counted');

unlink "$pkglibdir/fail_commit.so";
$node->stop;
unlike(slurp_file($node->logfile), qr/deadlock detected|PANIC|TRAP:|terminated by signal/, 'nothing crashed');
done_testing();
