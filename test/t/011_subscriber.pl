# A subscriber of a legacy application counts what its apply worker brings: all of it, and
# exactly, whoever crashes [17][20][25]; and what an apply worker does not check is told.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;

my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->start;
my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init;
$subscriber->append_conf('postgresql.conf', "wal_retrieve_retry_interval = '100ms'\nlog_statement = none");
$subscriber->start;

my $SCHEMA = q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	CREATE TABLE prompt_events (id bigserial PRIMARY KEY, prompt_id bigint, user_id bigint,
		event_type text CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add')));
);
my $KINDS = q((ARRAY['view', 'view', 'copy', 'view', 'fork'])[1 + i % 5]);

sub there { return $publisher->safe_psql('postgres', $_[0]) }
sub here { return $subscriber->safe_psql('postgres', $_[0]) }

there($SCHEMA . qq(
	INSERT INTO prompts SELECT generate_series(1, 20);
	INSERT INTO prompt_events (prompt_id, event_type) SELECT 1 + i % 20, $KINDS FROM generate_series(1, 500) i;
	CREATE PUBLICATION legacy FOR TABLE prompts, prompt_events;
));
here("$SCHEMA CREATE EXTENSION prompt_stats;");

# What the publisher has as rows the subscriber has as counts, and other rows as they are
sub compare
{
	my ($name) = @_;
	$publisher->wait_for_catchup('sub');
	here('SELECT prompt_stats_flush()');
	my $expected = there(q(SELECT prompt_id, count(*) FILTER (WHERE event_type = 'view'), count(*) FILTER (WHERE event_type = 'copy')
		FROM prompt_events GROUP BY 1 HAVING bool_or(event_type IN ('view', 'copy')) ORDER BY 1));
	is(here('SELECT prompt_id, view_count, copy_count FROM prompt_stats WHERE view_count + copy_count > 0 ORDER BY 1'), $expected, "$name: counts");
	is(here('SELECT count(*), sum(id) FROM prompt_events'),
		there(q(SELECT count(*), sum(id) FROM prompt_events WHERE event_type NOT IN ('view', 'copy'))), "$name: events");
	return;
}

# ---- the rows that are there already

my $connection = $publisher->connstr . ' dbname=postgres';
here("CREATE SUBSCRIPTION sub CONNECTION '$connection' PUBLICATION legacy");
$subscriber->wait_for_log(qr/new row for relation "prompt_events" violates check constraint/);
my $finding = here(q(SELECT object, finding, statement FROM prompt_stats_preflight() WHERE finding = 'subscription'));
is($finding, 'subscription sub|subscription|SELECT public.prompt_stats_enable_compat();', 'the subscription stands out');
here((split /\|/, $finding)[2]);
is(here('SELECT count(*) FROM prompt_stats_preflight()'), 0, 'until the trigger is there');
$subscriber->wait_for_subscription_sync($publisher, 'sub');
compare('synchronized');

# ---- under load, while either is crashed

my $sum = q(coalesce(sum(view_count + copy_count), 0) FROM prompt_stats);
foreach my $mode (qw(group async transaction))
{
	here("ALTER DATABASE postgres SET prompt_stats.durability = '$mode'");
	$subscriber->restart;
	my $load = PromptStats::Load->start($publisher, 2, sub {
		my ($client, $turn) = @_;

		# Most bring nothing but counts: their only write is that of the counters
		my $kind = $turn % 4 == 0 ? $KINDS : q('view');
		return ("INSERT INTO prompt_events (prompt_id, event_type) SELECT 1 + i % 20, $kind FROM generate_series(1, 20) i", {});
	});
	foreach my $crash (1 .. 3)
	{
		my $before = PromptStats::ask($subscriber, "SELECT $sum");
		ok(PromptStats::wait_until($subscriber, "SELECT $before + 200 < $sum"), "$mode: the subscriber counts");
		$subscriber->stop('immediate');
		$subscriber->start;
	}
	$publisher->stop('immediate');
	$publisher->start;
	$load->stop;
	compare("$mode, crashed");
	is(here('SELECT pending FROM prompt_stats_status'), 0, "$mode: nothing is left in memory");
}
here('SELECT prompt_stats_recount_forks()');
is(here('SELECT bool_and(ok) FROM prompt_stats_verify()'), 't', 'verified');

# ---- a prompt that is not there is an error of the apply worker, until it is

there(q(INSERT INTO prompt_events (prompt_id, event_type) VALUES (77, 'view')));
$subscriber->wait_for_log(qr/insert or update on table "prompt_stats" violates foreign key constraint/);
here('INSERT INTO prompts VALUES (77)');
compare('a prompt that came late');

# ---- counters that a subscription brings, for which it checks no foreign keys

there(q(
	CREATE TABLE prompt_stats (prompt_id bigint PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
	INSERT INTO prompt_stats VALUES (1000, 1, 0, 0), (1001, 1, 0, 0);
	CREATE PUBLICATION counters FOR TABLE prompt_stats;
));
here("CREATE SUBSCRIPTION counters CONNECTION '$connection' PUBLICATION counters");
$subscriber->wait_for_subscription_sync($publisher, 'counters');
is(here(q(SELECT ok, detail FROM prompt_stats_verify() WHERE check_name = 'unknown prompts')),
	"f|2 rows are of prompts that don't exist", 'unknown prompts are told');
is(here('SELECT object, finding FROM prompt_stats_preflight()'),
	"subscription counters|subscribed counters\ntable public.prompt_stats|unknown prompts", 'and what brings them');
here($_) foreach split /\n/, here('SELECT statement FROM prompt_stats_preflight()');
is(here('SELECT count(*) FROM prompt_stats_preflight()'), 0, 'each statement mends');
compare('in the end');

$subscriber->stop;
$publisher->stop;
done_testing();
