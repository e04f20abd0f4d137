# Versions of the catalog and of the library, and the ways in which a library
# gets loaded [11][15].

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;

is( $node->safe_psql('postgres', "LOAD 'prompt_stats'; SHOW prompt_stats.skip_setup"),
	'off', 'LOAD works where there is no extension, as pg_upgrade does it');

my ($ret, $stdout, $stderr) =
  $node->psql('postgres', "LOAD 'prompt_stats'; SET prompt_stats.no_such_setting = 1");
isnt($ret, 0, 'a misspelt setting is an error once the library is loaded');

# Every version of the catalog that was ever released
my $versions = $node->safe_psql('postgres',
	q(SELECT version FROM pg_available_extension_versions WHERE name = 'prompt_stats' ORDER BY version));
my @versions = split /\n/, $versions;
ok((grep { $_ eq '1.0' } @versions), 'version 1.0 can be installed');

foreach my $version (@versions)
{
	my $db = "v$version";
	$node->safe_psql('postgres', qq(CREATE DATABASE "$db"));
	$node->safe_psql($db, "CREATE EXTENSION prompt_stats VERSION '$version'");
	is($node->safe_psql($db, q(SELECT extversion FROM pg_extension WHERE extname = 'prompt_stats')),
		$version, "version $version is installed by name");

	# Scripts are run without looking: does the library have what they declare?
	is( $node->safe_psql($db, q(
		SELECT count(*) > 0 FROM (
			SELECT fmgr_c_validator(p.oid) FROM pg_proc p
			JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'c'
			JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
			JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'prompt_stats') c)),
		't', "the library has every function of version $version");
	my $call = q(SELECT increment_prompt_views('11111111-1111-1111-1111-111111111111'););
	$node->safe_psql($db, $call);
	$node->safe_psql($db, 'ALTER EXTENSION prompt_stats UPDATE');
	is( $node->safe_psql($db, q(
		SELECT extversion = default_version FROM pg_extension e
		JOIN pg_available_extensions a ON a.name = e.extname WHERE extname = 'prompt_stats')),
		't', 'ALTER EXTENSION UPDATE brings it to the default version');
	$node->safe_psql($db, $call);
	is($node->safe_psql($db, 'SELECT view_count FROM prompt_stats'), '2', 'and it counts on');
}

($ret, $stdout, $stderr) = $node->psql('v1.0', 'ALTER EXTENSION prompt_stats UPDATE');
like($stderr, qr/of extension "prompt_stats" is already installed/, 'a second update has nothing to do');

# Preloading is never required, and does no harm
foreach my $setting (qw(shared_preload_libraries session_preload_libraries))
{
	$node->append_conf('postgresql.conf', "$setting = 'prompt_stats'");
	$node->restart;
	is( $node->safe_psql('v1.0', q(
		SELECT increment_prompt_views('22222222-2222-2222-2222-222222222222');
		SELECT view_count > 0 FROM get_prompt_stats('22222222-2222-2222-2222-222222222222'))) =~ s/^\n//r,
		't', "it counts with $setting");
	$node->append_conf('postgresql.conf', "$setting = ''");
}
is( $node->safe_psql('v1.0',
		q(SELECT view_count FROM get_prompt_stats('22222222-2222-2222-2222-222222222222'))),
	'2', 'exactly');

done_testing();
