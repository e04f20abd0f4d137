# Counts of a prepared transaction: they are folded when it is prepared, and
# count once it is committed, whatever crashes in between [8].

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 10');
$node->start;
$node->safe_psql('postgres', q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 9);
	CREATE EXTENSION prompt_stats;
	CREATE TABLE side (prompt_id bigint);
	SELECT increment_prompt_views(1, 10);
));

my $all = q(
	SELECT prompt_id, view_count, copy_count, fork_count FROM prompt_stats
	WHERE (view_count, copy_count, fork_count) <> (0, 0, 0) ORDER BY prompt_id);
my $written = q(SELECT prompt_id FROM side UNION ALL SELECT prompt_id FROM prompt_events ORDER BY 1);

# Two that will be committed, two that will be rolled back; of each, one that
# does nothing but count
$node->safe_psql('postgres', q(
	BEGIN; SELECT increment_prompt_views(1); PREPARE TRANSACTION 'count';
	BEGIN; SELECT increment_prompt_views(ARRAY[2, 3]::bigint[], 2); INSERT INTO side VALUES (2);
		SAVEPOINT s; SELECT increment_prompt_views(2); ROLLBACK TO s;
		SELECT track_prompt_fork(3, 7); PREPARE TRANSACTION 'count and write';
	BEGIN; SELECT increment_prompt_copies(4); PREPARE TRANSACTION 'undone count';
	BEGIN; SELECT increment_prompt_copies(5); INSERT INTO side VALUES (5);
		SELECT track_prompt_fork(5, 7); PREPARE TRANSACTION 'undone count and write';
));
is($node->safe_psql('postgres', $all), '1|10|0|0', 'nothing counts while it is prepared only');

# Whoever meets a prepared row waits as an UPDATE does; nobody else does
$node->safe_psql('postgres', 'SELECT increment_prompt_views(6)');
my ($ret, $stdout, $stderr) = $node->psql('postgres',
	"\\set VERBOSITY verbose\nSET lock_timeout = '100ms'; SELECT increment_prompt_views(1)");
like($stderr, qr/ 55P03: /, 'its prompt waits for it, as long as lock_timeout');

$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '4', 'they survive a crash');
is($node->safe_psql('postgres', $all), "1|10|0|0\n6|1|0|0", 'and do not count yet');

$node->safe_psql('postgres', q(
	COMMIT PREPARED 'count'; COMMIT PREPARED 'count and write';
	ROLLBACK PREPARED 'undone count'; ROLLBACK PREPARED 'undone count and write';
));
my $expected = "1|11|0|0\n2|2|0|0\n3|2|0|1\n6|1|0|0";
is($node->safe_psql('postgres', $all), $expected, 'those that are committed count, once');
is($node->safe_psql('postgres', $written), "2\n3", 'so does what they wrote');

$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', $all), $expected, 'after another crash too');

# Once more, without a crash, and within one session
$node->safe_psql('postgres', q(
	BEGIN; SELECT increment_prompt_views(1); PREPARE TRANSACTION 'yes'; COMMIT PREPARED 'yes';
	BEGIN; SELECT increment_prompt_views(1); PREPARE TRANSACTION 'no'; ROLLBACK PREPARED 'no';
	SELECT increment_prompt_views(1);
));
is($node->safe_psql('postgres', $all), $expected =~ s/^1\|11/1|13/r, 'the session counts on');
is($node->safe_psql('postgres', 'SELECT bool_and(ok) FROM prompt_stats_verify()'), 't', 'verify() is content');

done_testing();
