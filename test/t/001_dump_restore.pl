# The tables belong to the application: dumps, pg_upgrade and DROP EXTENSION leave
# a database that counts on, whatever state it was in [14].

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE app NOLOGIN; CREATE ROLE web');

# ---- the databases ----
#
# A prompt n is n::bigint or md5(n)::uuid.  Prompt 1 exists everywhere.

my $uuid_ids = q(
	CREATE FUNCTION p(n integer) RETURNS uuid IMMUTABLE LANGUAGE sql RETURN md5(n::text)::uuid;);
my $bigint_ids = q(
	CREATE FUNCTION p(n integer) RETURNS bigint IMMUTABLE LANGUAGE sql RETURN n::bigint;);

my $count_a_bit = q(
	CREATE TABLE expected (prompt_id ID_TYPE, n numeric);
	SELECT increment_prompt_views(array_agg(p(n))) FROM generate_series(1, 50) n, generate_series(1, n);
	SELECT increment_prompt_copies(p(n), 2) FROM generate_series(1, 50, 7) n;
	SELECT track_prompt_fork(p(n), p(n + 1)), track_compare_add(p(n), p(n + 1)) FROM generate_series(1, 50, 5) n;
);

# ID_TYPE is replaced
my $legacy = q(
	CREATE TABLE prompts (id ID_TYPE PRIMARY KEY, title text);
	INSERT INTO prompts SELECT p(n), 'Prompt ' || n FROM generate_series(1, 51) n;
	CREATE TABLE prompt_events (
		id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
		prompt_id ID_TYPE REFERENCES prompts ON DELETE CASCADE,
		user_id ID_TYPE,
		event_type varchar(20),
		created_at timestamptz DEFAULT now(),
		CONSTRAINT "Kinds of event" CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add'))
	);
	CREATE TABLE prompt_stats (
		prompt_id ID_TYPE PRIMARY KEY REFERENCES prompts ON DELETE CASCADE,
		view_count integer DEFAULT 0,
		copy_count integer DEFAULT 0,
		fork_count integer DEFAULT 0,
		upvotes integer NOT NULL DEFAULT 0,
		updated_at timestamptz DEFAULT now()
	);
	CREATE INDEX ON prompt_stats (fork_count) INCLUDE (view_count);
	INSERT INTO prompt_stats SELECT p(n), CASE WHEN n % 3 = 0 THEN 1000 END, 0, NULL, n,
		'2020-01-01' FROM generate_series(1, 40) n;
	INSERT INTO prompt_events (prompt_id, user_id, event_type)
	SELECT p(n), p(k), (ARRAY['view', 'view', 'copy', 'fork', 'compare_add'])[1 + (n + k) % 5]
	FROM generate_series(1, 40) k, generate_series(1, 50) n ORDER BY n, k;
	ALTER TABLE prompts OWNER TO app; ALTER TABLE prompt_events OWNER TO app; ALTER TABLE prompt_stats OWNER TO app;
);

# What the counters of a legacy database must come to; half of it from "mode"
my $expect_legacy = q(
	CREATE VIEW views AS SELECT prompt_id, view_count AS n FROM prompt_stats WHERE view_count <> 0;
	CREATE TABLE expected AS
	SELECT prompt_id, sum(n) AS n FROM (
		SELECT prompt_id, count(*) AS n FROM prompt_events WHERE event_type = 'view' AND 'MODE' = 'add' GROUP BY 1
		UNION ALL SELECT prompt_id, n FROM views) e
	GROUP BY 1;
);

# Half done; meanwhile views are counted, of prompts from either half
my $begin_to_migrate = q(
	SELECT prompt_stats_migrate_batch(600, 'MODE');
	SELECT increment_prompt_views(p(n), n) FROM generate_series(1, 51) n;
	SELECT prompt_stats_migrate_batch(200, 'MODE');
	INSERT INTO expected SELECT p(k), 0 FROM generate_series(1, 51) k WHERE p(k) NOT IN (SELECT prompt_id FROM expected);
	UPDATE expected SET n = expected.n + k FROM generate_series(1, 51) k WHERE prompt_id = p(k);
);

# A name => type of its ids, SQL that makes it.  Optional: the mode of a
# migration that isn't finished; SQL that completes CREATE EXTENSION where the
# tables have other names; those names; whether we created them; whether it is
# to be restored in every way.
my %databases = (
	created_uuid => {
		every_way => 1,
		type => 'uuid',
		created => 1,
		sql => $uuid_ids . 'CREATE EXTENSION prompt_stats;' . $count_a_bit
	},
	created_bigint => {
		every_way => 1,
		type => 'bigint',
		created => 1,
		sql => $bigint_ids . q(
			CREATE TABLE prompts (id bigint PRIMARY KEY);
			INSERT INTO prompts SELECT generate_series(1, 60);
			ALTER TABLE prompts OWNER TO app;
			CREATE EXTENSION prompt_stats;
			CREATE INDEX ON prompt_stats (view_count);
			GRANT SELECT ON prompt_stats TO web;) . $count_a_bit
	},
	created_with_policies => {
		type => 'uuid',
		created => 1,
		sql => $uuid_ids . q(
			CREATE SCHEMA extensions;
			CREATE TABLE prompts (id uuid PRIMARY KEY);
			INSERT INTO prompts SELECT p(n) FROM generate_series(1, 60) n;
			ALTER TABLE prompts OWNER TO app;
			ALTER TABLE prompts ENABLE ROW LEVEL SECURITY;
			ALTER TABLE prompts FORCE ROW LEVEL SECURITY;
			CREATE POLICY everything ON prompts TO app USING (true);
			CREATE EXTENSION prompt_stats SCHEMA extensions;
			ALTER TABLE prompt_stats ENABLE ROW LEVEL SECURITY;
			ALTER TABLE prompt_events ENABLE ROW LEVEL SECURITY;
			CREATE POLICY popular ON prompt_stats FOR SELECT TO web USING (view_count > 10);
			CREATE POLICY own ON prompt_events TO web USING (user_id = prompt_id);
			GRANT SELECT ON prompt_stats, prompt_events TO web;
			SET search_path = public, extensions;) . $count_a_bit
	},
	adopted_uuid => {
		every_way => 1,
		type => 'uuid',
		sql => $uuid_ids . $legacy . $expect_legacy . q(
			ALTER TABLE prompt_stats ENABLE ROW LEVEL SECURITY;
			ALTER TABLE prompt_events ENABLE ROW LEVEL SECURITY;
			CREATE POLICY readers ON prompt_stats FOR SELECT USING (true);
			CREATE POLICY own ON prompt_events TO web USING (user_id = prompt_id);
			GRANT SELECT ON prompt_stats TO web;
			CREATE FUNCTION notice_votes() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TRIGGER votes BEFORE UPDATE OF upvotes ON prompt_stats
				FOR EACH ROW EXECUTE FUNCTION notice_votes();
			CREATE MATERIALIZED VIEW popular AS SELECT * FROM prompt_stats WHERE view_count > 30;
			CREATE EXTENSION prompt_stats;
			CALL prompt_stats_migrate();)
	},
	adopted_bigint => {
		every_way => 1,
		type => 'bigint',
		sql => $bigint_ids . $legacy . $expect_legacy . q(
			CREATE EXTENSION prompt_stats;
			CALL prompt_stats_migrate(mode => 'keep');),
		expect => 'keep'
	},
	other_names => {
		type => 'bigint',
		stats => '"My data"."Counters"',
		events => '"My data"."Log"',
		setup => q(SELECT prompt_stats_setup('"My data"."Log"', '"My data"."Counters"');),
		sql => $bigint_ids . $legacy . $expect_legacy . q(
			CREATE SCHEMA "My data" AUTHORIZATION app;
			ALTER TABLE prompt_stats RENAME TO "Counters"; ALTER TABLE "Counters" SET SCHEMA "My data";
			ALTER TABLE prompt_events RENAME TO "Log"; ALTER TABLE "Log" SET SCHEMA "My data";
			SET prompt_stats.skip_setup = on;
			CREATE EXTENSION prompt_stats;
			SELECT prompt_stats_setup('"My data"."Log"', '"My data"."Counters"');
			CALL prompt_stats_migrate();)
	},
	half_migrated => {
		type => 'uuid',
		mode => 'add',
		sql => $uuid_ids . $legacy . $expect_legacy . 'CREATE EXTENSION prompt_stats;' . $begin_to_migrate
	},
	half_migrated_keep => {
		type => 'bigint',
		mode => 'keep',
		sql => $bigint_ids . $legacy . $expect_legacy . 'CREATE EXTENSION prompt_stats;' . $begin_to_migrate
	},
	half_migrated_other_names => {
		type => 'uuid',
		mode => 'keep',
		stats => 'counters',
		events => 'log',
		setup => q(SELECT prompt_stats_setup('log', 'counters');),
		sql => $uuid_ids . $legacy . $expect_legacy . q(
			ALTER TABLE prompt_stats RENAME TO counters;
			ALTER TABLE prompt_events RENAME TO log;
			SET prompt_stats.skip_setup = on;
			CREATE EXTENSION prompt_stats;
			SELECT prompt_stats_setup('log', 'counters');) . $begin_to_migrate
	},
	rolling_deployment => {
		type => 'uuid',
		mode => 'add',
		compat => 1,
		sql => $uuid_ids . $legacy . $expect_legacy . q(
			CREATE EXTENSION prompt_stats;
			SELECT prompt_stats_enable_compat();
			INSERT INTO prompt_events (prompt_id, event_type) SELECT p(51), 'view' FROM generate_series(1, 51);
			SELECT increment_prompt_views(p(n), n) FROM generate_series(1, 50) n;
			SELECT prompt_stats_migrate_batch(600);
			INSERT INTO expected VALUES (p(51), 0);
			UPDATE expected SET n = expected.n + k FROM generate_series(1, 51) k WHERE prompt_id = p(k);)
	});

# ---- what a database must be able to do ----

sub dump_of
{
	my ($server, $db) = @_;
	my ($dump, $error);

	$server->run_log([ 'pg_dump', '-d', $server->connstr($db) ], '>', \$dump, '2>', \$error)
	  or die "could not dump $db: $error";
	return comparable($dump);
}

sub comparable
{
	my ($dump) = @_;

	# Random tokens guard it against a hostile server; casts of a varchar to text
	# look different when they are parsed again
	$dump =~ s/^\\(un)?restrict .*$//gm;
	$dump =~ s{((?:CHECK|TRIGGER) .*event_type.*)}{ $1 =~ s/::(character varying|text)(\[\])?|[()]//gr }ge;
	return $dump;
}

# What is left of a migration, and every way of counting
sub check_use
{
	my ($server, $db, $source, $what) = @_;
	my $is = $databases{$source};
	my ($stats, $events) = ($is->{stats} // 'prompt_stats', $is->{events} // 'prompt_events');
	my $counts = q(SELECT view_count AS views, copy_count AS copies, fork_count AS forks FROM get_prompt_stats(p(1)));
	my $migrate = $is->{mode} ? "CALL prompt_stats_migrate(mode => '$is->{mode}');" : '';
	my $sums = $is->{created} ? '' : qq(
		SELECT 'wrong', prompt_id, n, view_count FROM $stats FULL JOIN expected USING (prompt_id)
		WHERE coalesce(n, 0) <> coalesce(view_count, 0););
	my $updated_at = $is->{created} ? "updated_at >= :'now'" : "updated_at = :'updated_at'";

	my $found = $server->safe_psql($db, qq(
		SET search_path = public, extensions;
		$migrate
		$sums
		SELECT now() AS now \\gset
		SELECT updated_at FROM $stats WHERE prompt_id = p(1) \\gset
		$counts \\gset
		SELECT increment_prompt_views(p(1), 2);
		SELECT increment_prompt_copies(p(1));
		SELECT track_prompt_fork(p(1), p(2));
		DO \$\$ BEGIN
			INSERT INTO $events (prompt_id, event_type) VALUES (p(1), 'view');
		EXCEPTION WHEN check_violation THEN
			NULL;
		END \$\$;
		SELECT 'counted', views - :views, copies - :copies, forks - :forks FROM ($counts) now;
		SELECT 'updated_at', $updated_at FROM $stats WHERE prompt_id = p(1);
		SELECT 'view rows', count(*) FROM $events WHERE event_type = 'view';
		SELECT 'bad', check_name, detail FROM prompt_stats_verify() WHERE NOT ok;
		DELETE FROM expected WHERE prompt_id = p(1);
		INSERT INTO expected SELECT prompt_id, view_count FROM $stats WHERE prompt_id = p(1);
	));

	# A trigger counts the legacy view; else it is refused
	my $views = $is->{compat} ? 3 : 2;
	is($found =~ s/^\n+//gmr, "counted|$views|1|1\nupdated_at|t\nview rows|0", "$what: counts on");
	return;
}

# As it was, and alive
sub check_copy
{
	my ($server, $db, $source, $what) = @_;
	my $is = $databases{$source};

	my $dump = dump_of($server, $db);
	ok($dump eq $is->{dump}, "$what: it is the same")
	  or diag difference($is->{dump}, $dump);
	check_use($server, $db, $source, $what);
	return;
}

sub difference
{
	my ($expected, $found) = @_;
	foreach ([ expected => $expected ], [ found => $found ])
	{
		open my $out, '>', "$dir/$_->[0]" or die $!;
		print $out $_->[1];
		close $out;
	}
	return `diff -u $dir/expected $dir/found | head -n 40`;
}

# ---- ways to restore ----

sub pg
{
	my ($what, @command) = @_;
	my ($out, $error);
	my $done = $node->run_log(\@command, '>', \$out, '2>', \$error);
	ok($done && $error !~ /error/i, $what) or diag $error;
	return;
}

sub psql
{
	my ($what, $db, @options) = @_;
	pg($what, 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($db), @options);
	return;
}

sub pg_restore
{
	my ($what, $db, @options) = @_;
	pg($what, 'pg_restore', '--exit-on-error', '-d', $node->connstr($db), @options);
	return;
}

my %ways = (
	'psql' => sub { psql(@_[ 0, 1 ], '-f', "$_[2].sql") },
	'psql -1' => sub { psql(@_[ 0, 1 ], '-1', '-f', "$_[2].sql") },
	'pg_restore' => sub { pg_restore(@_[ 0, 1 ], "$_[2].dump") },
	'pg_restore -1' => sub { pg_restore(@_[ 0, 1 ], '-1', "$_[2].dump") },
	'pg_restore -j2' => sub { pg_restore(@_[ 0, 1 ], '-j2', "$_[2].dump") },
	'psql, with row security' => sub {
		local $ENV{PGOPTIONS} = '-c prompt_stats.skip_setup=on';
		psql(@_[ 0, 1 ], '-f', "$_[2].rls.sql");
	});

# Over what is there
my %again = (
	'psql, --clean' => sub { psql(@_[ 0, 1 ], '-f', "$_[2].clean.sql") },
	'pg_restore --clean' => sub { pg_restore(@_[ 0, 1 ], '--clean', '--if-exists', "$_[2].dump") });

# For want of time, databases that are much like another go but some ways
my @some_ways = ('psql', 'pg_restore -j2', 'pg_restore --clean');

foreach my $name (sort keys %databases)
{
	my $is = $databases{$name};
	my $mode = $is->{mode} // $is->{expect} // 'add';
	my $sql = $is->{sql} =~ s/ID_TYPE/$is->{type}/gr =~ s/MODE/$mode/gr;
	my $file = "$dir/$name";
	my @db = ('-d', $node->connstr($name));

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, $sql);
	pg("$name: pg_dump", 'pg_dump', @db, '-f', "$file.sql");
	$is->{dump} = comparable(slurp_file("$file.sql"));
	pg("$name: pg_dump -Fc", 'pg_dump', @db, '-Fc', '-f', "$file.dump");
	pg("$name: pg_dump --clean", 'pg_dump', @db, '--clean', '--if-exists', '-f', "$file.clean.sql");
	pg("$name: pg_dump --enable-row-security", 'pg_dump', @db, '--enable-row-security', '-f', "$file.rls.sql");

	my @choice = $is->{every_way} ? (sort keys %ways, sort keys %again) : @some_ways;
	foreach my $way (grep { $ways{$_} } @choice)
	{
		$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS copy');
		$node->safe_psql('postgres', 'CREATE DATABASE copy');
		$ways{$way}->("$name: $way", 'copy', $file);
		check_copy($node, 'copy', $name, "$name: $way");
	}
	foreach my $way (grep { $again{$_} } @choice)
	{
		$again{$way}->("$name: $way", 'copy', $file);
		check_copy($node, 'copy', $name, "$name: $way");
	}

	# Without the extension, and with it again
	$node->safe_psql('copy', 'SELECT prompt_stats_teardown()') if $is->{compat};
	my $tables = join '; ', map { "TABLE $_ ORDER BY prompt_id" }
	  $is->{stats} // 'prompt_stats', $is->{events} // 'prompt_events';
	my $rows = $node->safe_psql('copy', $tables);
	is($node->safe_psql('copy', "DROP EXTENSION prompt_stats; $tables"), $rows,
		"$name: DROP EXTENSION leaves every row");
	my $create = $is->{setup} ? "SET prompt_stats.skip_setup = on; CREATE EXTENSION prompt_stats; $is->{setup}"
		: 'CREATE EXTENSION prompt_stats';
	is($node->safe_psql('copy', "$create; $tables") =~ s/^\n//r, $rows, "$name: so does CREATE EXTENSION");
	$node->safe_psql('copy', 'SELECT prompt_stats_enable_compat()') if $is->{compat};
	check_use($node, 'copy', $name, "$name: created again");
}

# ---- pg_upgrade ----

$node->safe_psql('postgres', 'DROP DATABASE copy');
$node->stop;
my $new = PostgreSQL::Test::Cluster->new('new');
$new->init;
my $bindir = $new->config_data('--bindir');
chdir $dir or die $!;
command_ok(
	[
		'pg_upgrade', '--no-sync', '--link', '-j2', '-d', $node->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $bindir,
		'-s', $new->host, '-p', $node->port, '-P', $new->port
	],
	'pg_upgrade');
$new->start;
check_copy($new, $_, $_, "$_: pg_upgrade") foreach sort keys %databases;

done_testing();
