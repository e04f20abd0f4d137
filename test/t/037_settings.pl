# Who may set the durability for a role or a database: docs/settings.md.

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
$node->safe_psql('postgres', q(
	CREATE ROLE shop LOGIN CREATEROLE;
	CREATE ROLE clerk LOGIN;
	CREATE DATABASE shop OWNER shop;
));
$node->safe_psql('shop', 'GRANT clerk TO shop WITH ADMIN OPTION; CREATE EXTENSION prompt_stats');
$node->safe_psql('shop', 'GRANT SELECT ON prompt_stats TO PUBLIC');

# In a fresh session of that role; returns what it printed, and its errors
sub run_as
{
	my ($role, $sql) = @_;
	my ($status, $out, $err) = $node->psql('shop', $sql, extra_params => [ '-U', $role ]);
	return $out . join ' ', $err =~ /(?:ERROR|WARNING): +(.*)/g;
}

my $DURABILITY = q(SELECT FROM prompt_stats_status; SHOW prompt_stats.durability);
my $FOR_DATABASE = q(ALTER DATABASE shop SET prompt_stats.durability = 'async');
my $FOR_ROLE = q(ALTER ROLE clerk SET prompt_stats.durability = 'transaction');

# ---- a session that has not loaded the library

foreach my $statement ($FOR_DATABASE, $FOR_ROLE)
{
	like(run_as('shop', $statement), qr/^permission denied to set parameter "prompt_stats.durability"/, "refused: $statement");
}
is(run_as('clerk', $DURABILITY), 'group', 'so nothing is set');

# ---- which a function of the extension loads

is(run_as('shop', "SELECT FROM prompt_stats_status; $FOR_DATABASE"), '', 'after a look at prompt_stats_status it may');
is(run_as('clerk', $DURABILITY), 'async', 'it holds in new sessions');
is(run_as('shop', 'ALTER DATABASE shop RESET ALL'), '', 'reset');

# ---- the right

$node->safe_psql('postgres', 'GRANT SET ON PARAMETER prompt_stats.durability TO shop');
is(run_as('shop', "SELECT has_parameter_privilege('shop', 'prompt_stats.durability', 'SET')"), 't', 'granted');
is(run_as('shop', $FOR_DATABASE), '', 'a fresh session may');
is(run_as('clerk', $DURABILITY), 'async', 'it holds in new sessions');
is(run_as('shop', $FOR_ROLE), '', 'for a role, too');
is(run_as('clerk', $DURABILITY), 'transaction', 'which has its own');
is(run_as('shop', $DURABILITY), 'async', 'others have the database\'s');
like(run_as('clerk', $FOR_DATABASE), qr/^must be owner of database shop/, 'it is no right to what others own');
like(run_as('clerk', q(ALTER ROLE clerk SET prompt_stats.durability = 'async')), qr/^permission denied to set parameter/, 'nor is it anybody\'s');
is(run_as('clerk', q(SET prompt_stats.durability = 'async'; SHOW prompt_stats.durability)), 'async', 'a session chooses for itself');
is(run_as('clerk', q(SELECT increment_prompt_views('00000000-0000-0000-0000-000000000001');
	SELECT view_count FROM prompt_stats)), "\n1", 'what was set before the library was loaded holds at the first call');

# ---- a value that is none

is(run_as('shop', q(ALTER DATABASE shop SET prompt_stats.durability = 'soon'; ALTER ROLE clerk RESET ALL)), '', 'not looked at');
like(run_as('clerk', $DURABILITY), qr/^group.*invalid value for parameter "prompt_stats.durability": "soon"/, 'the default holds, with a warning');

# ---- taken back

$node->safe_psql('postgres', 'REVOKE SET ON PARAMETER prompt_stats.durability FROM shop');
like(run_as('shop', $FOR_DATABASE), qr/^permission denied to set parameter/, 'taken back');

# ---- preloaded

$node->safe_psql('shop', q(ALTER DATABASE shop RESET ALL; ALTER DATABASE shop SET session_preload_libraries = 'prompt_stats'));
is(run_as('shop', $FOR_DATABASE), '', 'preloaded it needs no right');
is(run_as('clerk', $DURABILITY), 'async', 'and it holds');

$node->stop;
done_testing();
