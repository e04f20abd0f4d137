# Whatever is killed while a group is under way: acknowledged <= counted <=
# acknowledged + in flight [6].  CRASH_ROUNDS=1 for a short look.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(usleep);

my $CLIENTS = 64;
my $ROUNDS = $ENV{CRASH_ROUNDS} || 4;    # of each kind

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq(
	prompt_stats.durability = group
	restart_after_crash = on
	max_connections = 100
	log_statement = none
));
$node->start;
$node->safe_psql('postgres', q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 100);
	CREATE EXTENSION prompt_stats;
	CREATE TABLE side (prompt_id bigint NOT NULL, n bigint NOT NULL);
));

# Mostly one hot prompt; a unit of two; some that also write, and some that fail
sub work
{
	my ($client, $turn) = @_;
	my $kind = $turn % 8;
	my $prompt = 2 + int(rand 20);

	return ("SELECT increment_prompt_copies(ARRAY[$prompt, 1]::bigint[], 2)",
		{ "$prompt copies" => 2, '1 copies' => 2 }) if $kind == 1;
	return ("SELECT increment_prompt_views($prompt + 20); INSERT INTO side VALUES ($prompt + 20, 1)",
		{ ($prompt + 20) . ' views' => 1, ($prompt + 20) . ' side' => 1 }) if $kind == 3;
	return ("SELECT increment_prompt_views(ARRAY[1, 99999]::bigint[])", {}) if $kind == 5 && $client % 8 == 0;
	return ('SELECT increment_prompt_views(1)', { '1 views' => 1 });
}

my $STATS = q(
	SELECT prompt_id || ' views', view_count FROM prompt_stats
	UNION ALL SELECT prompt_id || ' copies', copy_count FROM prompt_stats
	UNION ALL SELECT prompt_id || ' side', sum(n) FROM side GROUP BY prompt_id);

sub counted { return map { split /\|/ } split /\n/, $node->safe_psql('postgres', $STATS) }

sub pid_of
{
	my ($type) = @_;
	my $pid = '';
	foreach (1 .. 1000)
	{
		$pid = eval { $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'
			AND pid <> pg_backend_pid() AND (backend_type <> 'client backend' OR application_name LIKE 'client %')
			ORDER BY random() LIMIT 1") } // '';
		return $pid if $pid ne '';
		usleep(10_000);
	}
	die "no $type";
}

# Not before the last of its children has gone
sub start_again
{
	foreach (1 .. 1800)
	{
		return if $node->start(fail_ok => 1);
		$node->{_pid} = undef;    # it has read the file that the dead one left
		usleep(100_000);
	}
	die 'the server does not start';
}

my %ways = (
	'kill -9 of the postmaster' => sub { $node->kill9; start_again() },
	'kill -9 of a backend' => sub { kill 'KILL', pid_of('client backend') },
	'kill -9 of the flusher' => sub { kill 'KILL', pid_of('prompt_stats flusher') },
	'termination of the flusher' => sub { kill 'TERM', pid_of('prompt_stats flusher') },
	'immediate stop' => sub { $node->stop('immediate'); $node->start },
	'fast stop' => sub { $node->stop('fast'); $node->start },
);

my $HOT = 'SELECT coalesce(sum(view_count), 0) FROM prompt_stats WHERE prompt_id = 1';

sub progress
{
	my ($what) = @_;
	$node->poll_query_until('postgres', 'SELECT 1', '1');
	my $since = $node->safe_psql('postgres', $HOT);
	ok($node->poll_query_until('postgres', "SELECT ($HOT) > $since + 200"), $what);
	return;
}

foreach my $round (1 .. $ROUNDS)
{
	my %before = counted();
	my $load = PromptStats::Load->start($node, $CLIENTS, \&work);

	progress("round $round: counting");
	foreach my $way (sort keys %ways)
	{
		$ways{$way}->();
		progress("round $round: and again after $way");
	}

	my $told = $load->stop;
	my %counted = counted();
	$counted{$_} -= $before{$_} foreach keys %before;
	is(PromptStats::Load::differences($told, \%counted), '', "round $round: exact");
	cmp_ok($told->{lost}, '>=', 1, "round $round: connections were lost");
	is(join(' ', grep { !/^23503/ } keys %{ $told->{errors} }), '', 'no error but for unknown prompts');
	my @torn = grep { /side/ && $counted{$_} != ($counted{ s/side/views/r } // 0) } keys %counted;
	is("@torn", '', 'counts and writes together');
}

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal (?!9)/, 'nothing else crashed');
done_testing();
