# DDL while groups are under way: nobody hangs, nothing is lost [6][7][14].

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(time);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq(
	prompt_stats.durability = group
	max_connections = 100
	log_statement = none
));
$node->start;

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]) }

my $SCHEMA = q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 100);
	CREATE EXTENSION prompt_stats;
	INSERT INTO prompt_stats (prompt_id) SELECT generate_series(1, 50);
);
sql($SCHEMA);

# What is not there any more counts as 0
sub counted { return map { split /\|/ } split /\n/, sql("SELECT prompt_id || ' views', view_count FROM prompt_stats") }

sub progress
{
	my ($what) = @_;
	my $sum = 'SELECT coalesce(sum(view_count), 0) FROM prompt_stats';
	my $since = sql($sum);
	ok($node->poll_query_until('postgres', "SELECT ($sum) > $since + 300"), $what);
	return;
}

# Under load from many; "errors" are those that are allowed
sub under_load
{
	my ($name, $statements, $errors) = @_;
	my %before = counted();
	my $load = PromptStats::Load->start($node, 24, sub {
		my ($client, $turn) = @_;
		my $id = $turn % 3 ? 1 : 1 + int(rand 50);
		return ("SELECT increment_prompt_views($id)", { "$id views" => 1 });
	});

	progress("$name: counting");
	foreach my $statement (@$statements)
	{
		my $began = time;
		ref $statement ? $statement->() : sql($statement);
		cmp_ok(time - $began, '<', 20, "$name: done") or diag($statement);
	}
	progress("$name: still counting");
	my $told = $load->stop;
	is(join("\n", grep { $_ !~ $errors } keys %{ $told->{errors} }), '', "$name: no other errors");
	is($told->{lost}, 0, "$name: no connection lost");
	my %counted = counted();
	$counted{$_} -= $before{$_} foreach keys %before;
	return ($told, \%counted);
}

my $NONE = qr/^$/;
my %exact = (
	'ALTER' => [ map { "ALTER TABLE prompt_stats ADD COLUMN extra$_ integer DEFAULT $_" } 1 .. 5 ],
	'another type' => [
		q(ALTER TABLE prompt_stats ALTER view_count TYPE integer USING view_count::integer),
		q(ALTER TABLE prompt_stats ALTER view_count TYPE bigint) ],
	'RENAME of the schema' => [ q(BEGIN; ALTER SCHEMA public RENAME TO elsewhere; ALTER SCHEMA elsewhere RENAME TO public; COMMIT) ],
	'another owner' => [ q(CREATE ROLE shop NOLOGIN; ALTER TABLE prompt_stats OWNER TO shop; ALTER TABLE prompts OWNER TO shop) ],
	'VACUUM FULL' => [ ('VACUUM FULL prompt_stats') x 3 ],
	'REINDEX' => [ ('REINDEX TABLE prompt_stats') x 3, 'REINDEX TABLE CONCURRENTLY prompt_stats' ],
	'a new trigger' => [
		q(CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'),
		q(CREATE TRIGGER nothing BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION nothing()),
		q(DROP TRIGGER nothing ON prompt_stats) ],
);
foreach my $name (sort keys %exact)
{
	my ($told, $counted) = under_load($name, $exact{$name}, $NONE);
	is(PromptStats::Load::differences($told, $counted), '', "$name: exact");
}

# What TRUNCATE takes away is gone, in one transaction with a note of how much
sql('CREATE TABLE gone (key text, n bigint)');
my ($told, $left) = under_load('TRUNCATE', [ (q(
	BEGIN;
	LOCK TABLE prompt_stats;
	INSERT INTO gone SELECT prompt_id || ' views', view_count FROM prompt_stats;
	TRUNCATE prompt_stats;
	COMMIT)) x 3 ], $NONE);
my %gone = map { split /\|/ } split /\n/, sql('SELECT key, sum(n) FROM gone GROUP BY key');
$left->{$_} += $gone{$_} foreach keys %gone;
is(PromptStats::Load::differences($told, $left), '', 'TRUNCATE: exact');

# Dropped and made again: callers meet the error of a missing table or function meanwhile
my $MISSING = qr/^(42P01|42883|XX000 cache lookup failed|42704)/;
sql('TRUNCATE gone');
($told, $left) = under_load('DROP TABLE', [ q(
	BEGIN;
	LOCK TABLE prompt_stats;
	INSERT INTO gone SELECT prompt_id || ' views', view_count FROM prompt_stats;
	DROP TABLE prompt_stats;
	COMMIT), sub { ok(1, 'dropped') }, 'SELECT prompt_stats_setup()' ], $MISSING);
%gone = map { split /\|/ } split /\n/, sql('SELECT key, sum(n) FROM gone GROUP BY key');
$left->{$_} += $gone{$_} foreach keys %gone;
is(PromptStats::Load::differences($told, $left), '', 'DROP TABLE: exact');

($told, $left) = under_load('DROP EXTENSION', [ 'DROP EXTENSION prompt_stats', 'CREATE EXTENSION prompt_stats' ], $MISSING);
is(PromptStats::Load::differences($told, $left), '', 'DROP EXTENSION: exact');

# ---- DROP DATABASE does not wait for the flusher

sql('CREATE DATABASE shop');
sql($SCHEMA, 'shop');
my $file = "$PostgreSQL::Test::Utils::tmp_check/shop.sql";
append_to_file($file, "SELECT increment_prompt_views(1);\n");
$node->command_ok([ 'pgbench', '-n', '-c', 16, '-j', 2, '-t', 100, '-f', $file, 'shop' ], 'counting in a database');
is(sql('SELECT view_count FROM prompt_stats WHERE prompt_id = 1', 'shop'), 1600, 'exact');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' AND backend_type = 'prompt_stats flusher'"), 1,
	'it has a flusher');
my $began = time;
sql('DROP DATABASE shop');
cmp_ok(time - $began, '<', 4, 'DROP DATABASE: soon done');

# Its entry in shared memory serves another
sql('CREATE DATABASE shop');
sql($SCHEMA, 'shop');
$node->command_ok([ 'pgbench', '-n', '-c', 16, '-j', 2, '-t', 100, '-f', $file, 'shop' ], 'a database of the same name');
is(sql('SELECT view_count FROM prompt_stats WHERE prompt_id = 1', 'shop'), 1600, 'exact again');

# ---- fast shutdown under load

my %before = counted();
my $load = PromptStats::Load->start($node, 24, sub { return ('SELECT increment_prompt_views(2)', { '2 views' => 1 }) });
progress('counting before the end');
my $stopping = time;
$node->stop('fast');
cmp_ok(time - $stopping, '<', 10, 'fast shutdown: soon done');
$told = $load->stop;
$node->start;
my %counted = counted();
$counted{$_} -= $before{$_} foreach keys %before;
is(PromptStats::Load::differences($told, \%counted), '', 'fast shutdown: nothing that was acknowledged is lost');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|deadlock detected|terminated by signal/, 'nothing crashed, no deadlock');
done_testing();
