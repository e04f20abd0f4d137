# A collation to which different ids are one prompt: in every way to count and to read, while old
# rows are moved, and in what is told of them [1] [2] [16].

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => [ '--encoding=UTF8', '--no-locale' ]);
$node->append_conf('postgresql.conf', "prompt_stats.flush_interval = '1h'");
$node->start;
sub sql { return $node->safe_psql('postgres', $_[0]) }

if (sql(q(SELECT count(*) FROM pg_collation WHERE collprovider = 'i')) eq '0')
{
	$node->stop;
	plan skip_all => 'a server without ICU';
}

# One row of the table, and others that mean the same prompt
sql(q(
	CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE TABLE prompts (id text COLLATE any_case PRIMARY KEY);
	INSERT INTO prompts VALUES ('one'), ('two'), ('three'), ('four');
	CREATE TABLE prompt_events (id bigserial PRIMARY KEY, prompt_id text COLLATE any_case REFERENCES prompts, user_id bigint, event_type text);
	INSERT INTO prompt_events (prompt_id, event_type) SELECT id, kind FROM unnest('{one,ONE,One,TWO,four}'::text[]) AS id,
		unnest('{view,view,copy,fork}'::text[]) AS kind;
	CREATE TABLE prompt_stats (prompt_id text COLLATE any_case PRIMARY KEY REFERENCES prompts, view_count bigint DEFAULT 0, copy_count bigint DEFAULT 0, fork_count bigint DEFAULT 0);
	INSERT INTO prompt_stats VALUES ('oNE', 6, 3, 0), ('two', 1, 0, 0);
	CREATE EXTENSION prompt_stats;
));
my $ALL = 'SELECT lower(prompt_id), view_count, copy_count, fork_count FROM prompt_stats ORDER BY 1';

# ---- what is there already

my ($ret, $stdout, $stderr) = $node->psql('postgres', q(CALL prompt_stats_migrate(mode => 'keep', dry_run => true)));
like($stderr, qr/$_$/m, "told of prompts, not of ids: $_")
  foreach 'prompts they belong to: 3', 'prompts whose counters hold something already: 2',
  'prompts whose counters hold something else than their rows: 2', 'views that the counters lack: 3', 'views that only the counters have: 0',
  'copies that the counters lack: 2', 'copies that only the counters have: 0';
sql('CALL prompt_stats_migrate(batch_size => 4)');
is(sql($ALL), "four|2|1|1\none|12|6|3\ntwo|3|1|1", 'moved, and forks recounted');
is(sql('SELECT count(*) FROM prompt_stats_verify() WHERE NOT ok'), 0, 'verify() is content');

# ---- counting

foreach my $mode (qw(transaction group async))
{
	my $had = sql(q(SELECT view_count FROM prompt_stats WHERE prompt_id = 'one'));
	sql(qq(SET prompt_stats.durability = '$mode'; SELECT increment_prompt_views('ONE')));
	sql(qq(SET prompt_stats.durability = '$mode'; SELECT increment_prompt_views(ARRAY['one', 'TWO', 'One', 'three', 'oNe', 'THREE'])));
	sql(qq(SET prompt_stats.durability = '$mode'; SELECT count(increment_prompt_views(CASE i % 3 WHEN 0 THEN 'ONE' WHEN 1 THEN 'one' ELSE 'Three' END)) FROM generate_series(1, 30) AS i));
	is(sql(q(SELECT view_count, pending FROM get_prompt_stats('OnE'))), ($had + 24) . '|0', "$mode: one prompt, in the table at once");
}
is(sql($ALL), "four|2|1|1\none|84|6|3\nthree|36|0|0\ntwo|6|1|1", 'no prompt has two rows');
is(sql(q(SELECT sum(view_count) FROM prompt_stats_live)), 128, 'read with all');
is(sql('SELECT pending, accepted = flushed + pending + rejected FROM prompt_stats_status'), '0|t', 'the ledger adds up');

$node->stop;
done_testing();
