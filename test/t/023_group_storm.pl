# Cancels and terminations, of clients and of the flusher, at any moment: nobody
# hangs, and what is counted is what was acknowledged [6][7][8].  STORM_SECONDS=60
# for a longer one.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(time usleep);

my $CLIENTS = 16;
my $CONNECTIONS = 40;
my $SECONDS = $ENV{STORM_SECONDS} || 8;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq(
	prompt_stats.durability = group
	max_connections = $CONNECTIONS
	log_statement = none
));
$node->start;
$node->safe_psql('postgres', q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 1000000);
	CREATE EXTENSION prompt_stats;
	INSERT INTO prompt_stats (prompt_id) SELECT generate_series(1, 40);
	CREATE TABLE side (prompt_id bigint NOT NULL);
));

# Hot ones; a unit of several; a list; one that has no row; one that also writes
sub work
{
	my ($client, $turn) = @_;
	my $kind = $turn % 8;
	my $prompt = 2 + int(rand 8);
	my $new = 1000 * $client + $turn % 1000;

	return ("SELECT increment_prompt_copies(ARRAY[$prompt, 1]::bigint[], 2)",
		{ "$prompt copies" => 2, '1 copies' => 2 }) if $kind == 1;
	return ('SELECT increment_prompt_views(ARRAY(SELECT generate_series(21, 40))::bigint[])',
		{ map { ("$_ views" => 1) } 21 .. 40 }) if $kind == 3;
	return ("SELECT increment_prompt_views($new)", { "$new views" => 1 }) if $kind == 5 && $turn % 10 == 0;
	return ("INSERT INTO side VALUES ($prompt + 10); SELECT increment_prompt_views($prompt + 10)",
		{ ($prompt + 10) . ' views' => 1, ($prompt + 10) . ' side' => 1 }) if $kind == 7;
	return ('SELECT increment_prompt_views(1)', { '1 views' => 1 });
}

my $STATS = q(
	SELECT prompt_id || ' views', view_count FROM prompt_stats
	UNION ALL SELECT prompt_id || ' copies', copy_count FROM prompt_stats
	UNION ALL SELECT prompt_id || ' side', count(*) FROM side GROUP BY prompt_id);

sub counted { return map { split /\|/ } split /\n/, $node->safe_psql('postgres', $STATS) }
sub ask { return PromptStats::ask($node, $_[0]) }

# ---- the storm

my $CLIENT = "backend_type = 'client backend' AND application_name LIKE 'client %' AND state = 'active'";
my $FLUSHER = "backend_type = 'prompt_stats flusher'";
my $storm = PromptStats::Connection->new($node, 'storm') // die 'no connection';
my $locker = PromptStats::Connection->new($node, 'locker') // die 'no connection';
my %struck;

sub strike
{
	my ($how, $whom) = @_;
	my $rows = $storm->query("SELECT $how(pid) FROM pg_stat_activity WHERE $whom ORDER BY random() LIMIT 1")->{rows};
	$struck{$how . ($whom eq $FLUSHER ? ' flusher' : ' client')} += @$rows;
	return;
}

my $load = PromptStats::Load->start($node, $CLIENTS, \&work);
ok(PromptStats::wait_until($node, 'SELECT grouped_transactions > groups + 100 FROM prompt_stats_status'), 'groups form');
my $until = time + $SECONDS;
for (my $turn = 1; time < $until; $turn++)
{
	strike('pg_cancel_backend', $CLIENT);
	strike('pg_terminate_backend', $CLIENT) if $turn % 8 == 0;
	strike('pg_cancel_backend', $FLUSHER) if $turn % 16 == 5;
	strike('pg_terminate_backend', $FLUSHER) if $turn % 64 == 33;

	# Some wait for a row meanwhile
	$locker->query('COMMIT');
	$locker->query('BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 1 FOR UPDATE') if $turn % 4 == 0;
	usleep(5_000);
}
$locker->query('COMMIT');
note join ', ', map { "$_: $struck{$_}" } sort keys %struck;

# ---- and after it

ok(PromptStats::wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity
	WHERE application_name LIKE 'client %' AND state = 'active' AND query_start < now() - interval '2 s'"), 'nobody hangs');
my $told = $load->stop;
my %counted = counted();
is(PromptStats::Load::differences($told, \%counted), '', 'exact');
is(join(', ', grep { !/^57014 canceling statement due to user request/ } keys %{ $told->{errors} }), '', 'no errors but of cancels');
cmp_ok($told->{errors}{'57014 canceling statement due to user request'}, '>=', 20, 'cancels hit');
cmp_ok($told->{lost}, '>=', 5, 'terminations hit');
cmp_ok($told->{lost}, '<=', $struck{'pg_terminate_backend client'}, 'nobody else was lost');
is(scalar(keys %struck), 4, 'all kinds of strikes');
is(join(' ', grep { /side/ && $counted{$_} != ($counted{ s/side/views/r } // 0) } keys %counted), '', 'counts and writes together');

# Who finds a slot that is not free folds its own, as too_large: here that is all that can be
ok(PromptStats::wait_until($node, q(SELECT flusher = 'ready' FROM prompt_stats_status, increment_prompt_copies(1))), 'the flusher is there');
my $OWN = q(SELECT coalesce((own_fold_reasons->>'too_large')::bigint, 0) FROM prompt_stats_status);
my $too_large = ask($OWN);
my $joined = ask('SELECT grouped_transactions FROM prompt_stats_status');
my $after = PromptStats::Load->start($node, $CONNECTIONS - 5, sub { return ('SELECT increment_prompt_views(1)', {}) }, 20);
is(join(' ', keys %{ $after->finish->{errors} }), '', 'as many as can be go on');
cmp_ok(ask('SELECT grouped_transactions FROM prompt_stats_status'), '>', $joined + 100, 'in groups');
is(ask($OWN), $too_large, 'no slot is left behind');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|deadlock detected|could not take back|terminated by signal/,
	'nothing crashed, no deadlock, nothing to take back');
done_testing();
