# Dumps and restores by the owner of the database and of its tables, who is no
# superuser: a superuser has created the extension in the new database, and that
# is all he does [24].

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'fsync = off');
$node->start;
$node->safe_psql('postgres', q(
	CREATE ROLE app LOGIN;
	CREATE ROLE web LOGIN;
	CREATE ROLE mallory LOGIN;
));

# ---- running things as somebody ----

sub connection
{
	my ($db, $role) = @_;
	return $node->connstr($db) . ' user=' . ($role // 'app');
}

# The output and the errors of a program, and whether it succeeded
sub run_program
{
	my (@command) = @_;
	my ($out, $error) = ('', '');
	my $ok = $node->run_log(\@command, '>', \$out, '2>', \$error);
	return ($ok, $error, $out);
}

sub works
{
	my ($what, @command) = @_;
	my ($ok, $error) = run_program(@command);
	ok($ok && $error !~ /error/i, $what) or diag $error;
	return $error;
}

sub fails
{
	my ($what, $expected, @command) = @_;
	my ($ok, $error) = run_program(@command);
	ok(!$ok, "$what fails");
	like($error, $expected, "$what says why");
	return;
}

sub psql_command { my ($db, @options) = @_; return ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', connection($db), @options); }
sub restore_command { my ($db, @options) = @_; return ('pg_restore', '--exit-on-error', '-d', connection($db), @options); }

sub sql
{
	my ($db, $sql, $role) = @_;
	return $node->safe_psql($db, $sql, connstr => connection($db, $role));
}

# As a superuser
sub admin
{
	my ($db, $sql) = @_;
	return $node->safe_psql($db, $sql);
}

sub new_database
{
	my ($db, $sql) = @_;
	admin('postgres', "DROP DATABASE IF EXISTS $db");
	admin('postgres', "CREATE DATABASE $db OWNER app");
	admin($db, $sql) if $sql;
	return;
}

# ---- the databases ----

# ID_TYPE and ID(n) are replaced
my $legacy = q(
	CREATE TABLE prompts (id ID_TYPE PRIMARY KEY);
	INSERT INTO prompts SELECT ID(n) FROM generate_series(1, 30) n;
	CREATE TABLE prompt_events (
		id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
		prompt_id ID_TYPE NOT NULL REFERENCES prompts ON DELETE CASCADE,
		user_id ID_TYPE,
		event_type varchar(20) CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add')),
		created_at timestamptz DEFAULT now()
	);
	CREATE TABLE prompt_stats (
		prompt_id ID_TYPE PRIMARY KEY REFERENCES prompts ON DELETE CASCADE,
		view_count integer DEFAULT 0,
		copy_count integer DEFAULT 0,
		fork_count integer DEFAULT 0
	);
	INSERT INTO prompt_stats SELECT ID(n), 100 * n, n, 0 FROM generate_series(1, 20) n;
	INSERT INTO prompt_events (prompt_id, event_type)
	SELECT ID(n), (ARRAY['view', 'view', 'copy', 'fork', 'compare_add'])[1 + (n + k) % 5]
	FROM generate_series(1, 20) k, generate_series(1, 30) n ORDER BY n, k;
);
my $count = q(
	SELECT increment_prompt_views(array_agg(ID(n))) FROM generate_series(1, 30) n;
	SELECT track_prompt_fork(ID(3), ID(4)), track_compare_add(ID(3), ID(5));
);

# admin: what the superuser did before; app: what the owner did; mode: of a
# migration that is under way; place: of the extension and of the tables, where
# it isn't public
my %databases = (
	created => {
		type => 'uuid',
		admin => 'CREATE EXTENSION prompt_stats',
		app => $count,
	},
	migrated => {
		type => 'bigint',
		app => [ $legacy, 'CALL prompt_stats_migrate()', $count ],
	},
	legacy => {
		type => 'uuid',
		due => 1,
		app => [ $legacy, $count ],
	},
	half => {
		type => 'uuid',
		mode => 'keep',
		due => 1,
		app => [ $legacy, q(SELECT prompt_stats_migrate_batch(100, 'keep')), $count ],
	},
	rolling => {
		type => 'bigint',
		mode => 'add',
		due => 1,
		app => [ $legacy, 'SELECT prompt_stats_enable_compat(); SELECT prompt_stats_migrate_batch(100)', $count ],
	},
	named => {
		type => 'bigint',
		mode => 'keep',
		due => 1,
		extension_schema => 'tools',
		dump_options => [ '-N', 'tools' ],    # the superuser makes it, too
		stats => 'app."Counters"',
		events => 'app."Log"',
		admin => 'CREATE SCHEMA tools; GRANT USAGE ON SCHEMA tools TO PUBLIC;'
		  . 'SET prompt_stats.skip_setup = on; CREATE EXTENSION prompt_stats SCHEMA tools',
		app => [ $legacy . q(
			CREATE SCHEMA app;
			ALTER TABLE prompt_stats SET SCHEMA app; ALTER TABLE app.prompt_stats RENAME TO "Counters";
			ALTER TABLE prompt_events SET SCHEMA app; ALTER TABLE app.prompt_events RENAME TO "Log";),
			q(SELECT tools.prompt_stats_setup('app."Log"', 'app."Counters"');
			SELECT tools.prompt_stats_migrate_batch(100, 'keep');),
			$count ],
	});

sub spell
{
	my ($sql, $is) = @_;
	my ($before, $after) = $is->{type} eq 'uuid' ? ('md5((', ')::text)::uuid') : ('(', ')::bigint');
	return $sql =~ s/ID_TYPE/$is->{type}/gr =~ s/ID\(([^()]*)\)/$before$1$after/gr;
}

sub path_of { my ($is) = @_; return 'SET search_path = public, ' . ($is->{extension_schema} // 'public') . ';'; }

# The extension as the superuser creates it beforehand, with no tables
sub bare_extension
{
	my ($is) = @_;
	my $schema = $is->{extension_schema};
	return ($schema ? "CREATE SCHEMA $schema; GRANT USAGE ON SCHEMA $schema TO PUBLIC;" : '')
	  . 'SET prompt_stats.skip_setup = on; CREATE EXTENSION prompt_stats' . ($schema ? " SCHEMA $schema" : '');
}

sub make_database
{
	my ($name) = @_;
	my $is = $databases{$name};
	my @steps = ref $is->{app} ? @{ $is->{app} } : $is->{app};

	new_database($name);
	if ($is->{admin})
	{
		admin($name, $is->{admin});
	}
	else
	{
		sql($name, spell(shift @steps, $is));
		admin($name, 'CREATE EXTENSION prompt_stats');
	}
	sql($name, path_of($is) . spell($_, $is)) foreach @steps;
	$is->{content} = content($name, $is);
	return;
}

# All that has to be the same
sub content
{
	my ($db, $is) = @_;
	my ($stats, $events) = ($is->{stats} // 'prompt_stats', $is->{events} // 'prompt_events');
	return join "\n", sql($db, "SELECT count(*), md5(string_agg(s::text, ' ' ORDER BY prompt_id)) FROM $stats s"),
	  sql($db, "SELECT count(*), md5(string_agg(e::text, ' ' ORDER BY id)) FROM $events e"),
	  sql($db, "SELECT conname, convalidated, pg_get_constraintdef(oid) FROM pg_constraint"
		  . " WHERE conrelid = '$events'::regclass AND contype = 'c'") =~ s/::(text|character varying)(\[\])?|[()]//gr,
	  sql($db, path_of($is) . 'SELECT * FROM prompt_stats_tables()');
}

# What must go on after a restore
sub check_use
{
	my ($db, $is, $what, %but) = @_;
	my ($stats, $events) = ($is->{stats} // 'prompt_stats', $is->{events} // 'prompt_events');
	my $path = path_of($is);

	is($but{content} ? $but{content}->(content($db, $is)) : content($db, $is),
		$but{content} ? $but{content}->($is->{content}) : $is->{content}, "$what: it is the same");
	my $counts = "SELECT view_count, fork_count FROM $stats WHERE prompt_id = ID(1)";
	my ($views, $forks) = split /\|/, sql($db, spell($counts, $is));
	sql($db, spell("$path SELECT increment_prompt_views(ID(1), 2), track_prompt_fork(ID(1), ID(2))", $is));
	is(sql($db, spell($counts, $is)), join('|', $views + 2, $forks + 1), "$what: and counts on");

	# A run goes on as it began: the other mode would count twice, or lose
	if ($is->{mode})
	{
		works("$what: setup again", psql_command($db, '-c', $path, '-c', 'SELECT prompt_stats_setup()'));
		my $other = $is->{mode} eq 'add' ? 'keep' : 'add';
		fails("$what: a migration of the other mode", qr/a migration with mode => '$is->{mode}' is under way/,
			psql_command($db, '-c', $path, '-c', "CALL prompt_stats_migrate(mode => '$other')"));
	}
	my ($sum, $rows) = split /\|/,
	  sql($db, "SELECT sum(view_count), (SELECT count(*) FROM $events WHERE event_type = 'view') FROM $stats");
	my $mode = $is->{mode} ? "mode => '$is->{mode}'" : '';
	works("$what: migration", psql_command($db, '-c', $path, '-c', "CALL prompt_stats_migrate($mode)"));
	is( sql($db, "SELECT sum(view_count) FROM $stats"),
		$sum + (($is->{mode} // '') eq 'keep' ? 0 : $rows), "$what: every view counts");
	is(sql($db, "$path SELECT check_name, detail FROM prompt_stats_verify() WHERE NOT ok"), '', "$what: verify() is content");
	return;
}

make_database($_) foreach sort keys %databases;

# ---- whole dumps ----

sub dump_file
{
	my ($name, $suffix, @options) = @_;
	my $file = "$dir/$name.$suffix";
	works("$name: pg_dump @options", 'pg_dump', '-d', connection($name), '-f', $file, @options) unless -e $file;
	return $file;
}

sub plain { my ($name, @options) = @_; return dump_file($name, join('', 'sql', @options), @options); }
sub custom { my ($name, @options) = @_; return dump_file($name, join('', 'dump', @options), '-Fc', @options); }

my %ways = (
	'psql' => sub { my ($db, $name, @options) = @_; return [ psql_command($db, '-f', plain($name, @options)) ]; },
	'psql -1' => sub { my ($db, $name, @options) = @_; return [ psql_command($db, '-1', '-f', plain($name, @options)) ]; },
	'psql --inserts' => sub { my ($db, $name, @options) = @_; return [ psql_command($db, '-f', plain($name, '--inserts', '--on-conflict-do-nothing', @options)) ]; },
	'pg_restore' => sub { my ($db, $name, @options) = @_; return [ restore_command($db, custom($name, @options)) ]; },
	'pg_restore -1' => sub { my ($db, $name, @options) = @_; return [ restore_command($db, '-1', custom($name, @options)) ]; },
	'pg_restore -Fd -j2' => sub {
		my ($db, $name, @options) = @_;
		return [ restore_command($db, '-j2', dump_file($name, 'dir', '-Fd', '-j2', @options)) ];
	},
	'sections' => sub {
		my ($db, $name, @options) = @_;
		return map { [ restore_command($db, "--section=$_", custom($name, @options)) ] } qw(pre-data data post-data);
	},
	'--schema-only, --data-only' => sub {
		my ($db, $name, @options) = @_;
		return map { [ psql_command($db, '-f', plain($name, $_, @options)) ] } qw(--schema-only --data-only);
	});

foreach my $name (sort keys %databases)
{
	my $is = $databases{$name};
	my @choice = $name =~ /^(migrated|half)$/ ? sort keys %ways : ('psql', 'pg_restore -Fd -j2', '--schema-only, --data-only');

	foreach my $way (@choice)
	{
		my %but;
		new_database('copy', bare_extension($is));

		# A check that isn't valid comes before the rows that violate it: see below
		next if $is->{due} && $way =~ /data-only/;
		works("$name: $way", @$_) foreach $ways{$way}->('copy', $name, @{ $is->{dump_options} // [] });
		check_use('copy', $is, "$name: $way");
	}
}

# ---- legacy rows after their check ----

# Goes on: the check is out of the way until the migration goes on
foreach my $name (qw(legacy half rolling))
{
	my $is = $databases{$name};
	new_database('copy', bare_extension($is));
	my ($schema, $data) = $ways{'--schema-only, --data-only'}->('copy', $name);
	works("$name: schema first", @$schema);
	my $said = works("$name: data second", @$data);
	my $mode = $is->{mode} ? "mode => '$is->{mode}'" : '';
	like($said, qr/WARNING:  dropped check \w+ of table public\.prompt_events.*^HINT:  .*CALL public\.prompt_stats_migrate\(\Q$mode\E\);/ms,
		"$name: data second says what to do then");
	check_use('copy', $is, "$name: data second", content => sub { $_[0] =~ s/^(\w+\|[tf]\|CHECK.*)?\n//mr });
	new_database('copy', bare_extension($is));
	works("$name: schema first", @$schema);
	works("$name: data second, without triggers", 'pg_restore', '--exit-on-error', '--data-only', '--disable-triggers',
		'-d', $node->connstr('copy'), custom($name));
	check_use('copy', $is, "$name: data second, without triggers", content => sub { $_[0] =~ s/^(\w+\|[tf]\|CHECK.*)?\n//mr });
}

# Where the rows come before the row that tells: the server's own error, at once
{
	my $is = $databases{named};
	new_database('copy', bare_extension($is));
	my ($schema, $data) = $ways{'--schema-only, --data-only'}->('copy', 'named', '-N', 'tools');
	works('named: schema first', @$schema);
	fails('named: data second', qr/new row for relation "Log" violates check constraint/, @$data);
	new_database('copy', bare_extension($is));
	works('named: schema first', @$schema);
	sql('copy', 'ALTER TABLE app."Log" DROP CONSTRAINT prompt_events_event_type_check');
	works('named: data second, when the check is dropped', @$data);
	check_use('copy', $is, 'named: data second', content => sub { $_[0] =~ s/^(\w+\|[tf]\|CHECK.*)?\n//mr });
}

# ---- data into tables that are there ----

# Setup has made the tables, or migrations of the application have
new_database('copy', 'CREATE EXTENSION prompt_stats');
works('created: data only, into tables that setup made', psql_command('copy', '-f', plain('created', '--data-only')));
check_use('copy', $databases{created}, 'created: data only');

new_database('copy');
sql('copy', spell($legacy, $databases{migrated}));
admin('copy', 'CREATE EXTENSION prompt_stats');
works('migrated', psql_command('copy', '-c', 'CALL prompt_stats_migrate()', '-c', 'TRUNCATE prompts CASCADE'));
works('migrated: data only, into adopted tables', psql_command('copy', '-f', plain('migrated', '--data-only')));
check_use('copy', $databases{migrated}, 'migrated: data only');

# Restored over what is there: a superuser who has all triggers off meets the row of before
sql('copy', 'TRUNCATE prompts CASCADE');
works('migrated: data only, without triggers', 'pg_restore', '--exit-on-error', '--data-only', '--disable-triggers',
	'-d', $node->connstr('copy'), custom('migrated'));
check_use('copy', $databases{migrated}, 'migrated: data only, without triggers');
sql('copy', 'TRUNCATE prompts CASCADE');
{
	local $ENV{PGOPTIONS} = '-c session_replication_role=replica';
	works('migrated: data only, as a replica', 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'),
		'-f', plain('migrated', '--data-only'));
}
check_use('copy', $databases{migrated}, 'migrated: data only, as a replica');

# A whole dump, where setup has made tables: it says so at once, and the owner can drop them
foreach my $name (qw(created migrated))
{
	new_database('copy', 'CREATE EXTENSION prompt_stats');
	fails("$name: into tables that setup made", qr/relation "prompt_events" already exists/,
		psql_command('copy', '-f', plain($name)));
	sql('copy', 'DROP TABLE prompt_events, prompt_stats');
	my @psql = psql_command('copy', '-f', plain($name));
	sql('copy', 'DROP TABLE IF EXISTS prompts CASCADE');
	works("$name: when they are dropped", @psql);
	check_use('copy', $databases{$name}, "$name: when they are dropped");
}

# Over what is there: not what is the superuser's
fails('migrated: --clean', qr/must be owner of extension prompt_stats/,
	restore_command('copy', '--clean', '--if-exists', custom('migrated')));
{
	my ($ok, undef, $list) = run_program('pg_restore', '-l', custom('migrated'));
	append_to_file("$dir/list", $list =~ s/.* EXTENSION .*\n//gr);
	works('migrated: --clean, without the extension',
		restore_command('copy', '--clean', '--if-exists', '-L', "$dir/list", custom('migrated')));
	check_use('copy', $databases{migrated}, 'migrated: --clean, without the extension');
}

# Of another owner
admin('postgres', 'CREATE DATABASE other OWNER web');
admin('other', bare_extension({}));
works('migrated: --no-owner', 'pg_restore', '--exit-on-error', '--no-owner', '-d', connection('other', 'web'), custom('migrated'));
is(admin('other', q(SELECT relowner::regrole FROM pg_class WHERE relname = 'prompt_stats')), 'web', 'migrated: --no-owner: his');
is($node->safe_psql('other', 'SELECT increment_prompt_views(1); SELECT check_name FROM prompt_stats_verify() WHERE NOT ok',
		connstr => connection('other', 'web')), '', 'migrated: --no-owner: counts');

# ---- one schema, some tables ----

foreach my $extension ('', bare_extension({}))
{
	my $when = $extension ? 'the extension there' : 'the extension created afterwards';

	new_database('copy', $extension);
	works("migrated: pg_restore -n public, $when", restore_command('copy', '-n', 'public', custom('migrated')));
	admin('copy', 'CREATE EXTENSION prompt_stats') unless $extension;
	check_use('copy', $databases{migrated}, "migrated: pg_restore -n public, $when");

	new_database('copy', $extension);
	works("migrated: pg_dump -n public, $when",
		restore_command('copy', '-n', 'public', dump_file('migrated', 'public.dump', '-Fc', '-n', 'public')));
	admin('copy', 'CREATE EXTENSION prompt_stats') unless $extension;
	check_use('copy', $databases{migrated}, "migrated: pg_dump -n public, $when");

	# With the table that they reference
	new_database('copy', $extension);
	works("migrated: pg_dump -t, $when",
		psql_command('copy', '-f', plain('migrated', '-t', 'prompts', '-t', 'prompt_*')));
	admin('copy', 'CREATE EXTENSION prompt_stats') unless $extension;
	check_use('copy', $databases{migrated}, "migrated: pg_dump -t, $when");

	new_database('copy', $extension);
	works("created: pg_dump -t, $when", psql_command('copy', '-f', plain('created', '-t', 'prompt_*')));
	admin('copy', 'CREATE EXTENSION prompt_stats') unless $extension;
	check_use('copy', $databases{created}, "created: pg_dump -t, $when");
}

# In an empty public schema, as a plain dump wants it
new_database('copy', 'CREATE SCHEMA tools; SET prompt_stats.skip_setup = on; CREATE EXTENSION prompt_stats SCHEMA tools; GRANT USAGE ON SCHEMA tools TO PUBLIC');
works('migrated: pg_dump -n public, plain', psql_command('copy', '-c', 'DROP SCHEMA public', '-f', plain('migrated', '-n', 'public')));
sql('copy', "SELECT tools.prompt_stats_setup('prompt_events', 'prompt_stats')");
check_use('copy', { %{ $databases{migrated} }, extension_schema => 'tools' }, 'migrated: pg_dump -n public, plain');

# Schema only: counting begins
new_database('copy', bare_extension({}));
works('migrated: schema only', psql_command('copy', '-f', plain('migrated', '--schema-only')));
sql('copy', 'INSERT INTO prompts VALUES (1); SELECT increment_prompt_views(1)');
is(sql('copy', 'SELECT view_count FROM prompt_stats'), 1, 'migrated: schema only, and counts');
new_database('copy', bare_extension({ extension_schema => 'tools' }));
works('elsewhere: schema only', psql_command('copy', '-f', plain('migrated', '-t', 'prompts', '-t', 'prompt_*', '--schema-only')));
sql('copy', 'INSERT INTO prompts VALUES (1); SELECT tools.increment_prompt_views(1)');
is(sql('copy', 'SELECT view_count FROM prompt_stats'), 1, 'elsewhere: schema only, and counts');

# ---- rights that the owner can't give back: it is said ----

admin('created', 'REVOKE EXECUTE ON FUNCTION increment_prompt_views(uuid) FROM PUBLIC; GRANT EXECUTE ON FUNCTION increment_prompt_views(uuid) TO web');
new_database('copy', bare_extension({}));
like(works('rights on functions', psql_command('copy', '-f', plain('created', '--no-publications'))),
	qr/WARNING:  no privileges could be revoked for "increment_prompt_views"/, 'rights on functions: it is said');

# ---- a dump that names tables which it doesn't bring ----

new_database('copy', bare_extension({}));
fails('without a table', qr/relation "public\.prompt_events" does not exist.*COPY config/s,
	psql_command('copy', '-f', plain('migrated', '-T', 'prompt_events')));
foreach my $option ('-T', '--exclude-table-data')
{
	new_database('copy', bare_extension({}));
	works("without a table and the row: $option", psql_command('copy', '-f', plain('migrated', '-T', 'prompt_events', $option, 'prompt_stats_internal.*')));
	sql('copy', 'SELECT prompt_stats_setup(); SELECT increment_prompt_views(1), track_prompt_fork(2, 2)');
	is(sql('copy', 'SELECT view_count FROM prompt_stats WHERE prompt_id = 1'),
		1 + sql('migrated', 'SELECT view_count FROM prompt_stats WHERE prompt_id = 1'), "without a table and the row: $option: counts");
}

# ---- nobody gains by it ----

# Whatever is off: triggers, those of replicas
sub refused
{
	my ($what, $role, $sql, $expected) = @_;
	fails($what, $expected // qr/must be owner of table|permission denied to choose|relation with OID/,
		'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', connection('copy', $role), '-c', $sql);
	return;
}

sub choice
{
	my ($events, $stats, $names) = @_;
	$names //= join ', ', map { my ($schema, $name) = split /\./; "'$schema', '$name'" } $events, $stats;
	return "INSERT INTO prompt_stats_internal.config (events, stats, events_schema, events_name, stats_schema, stats_name)"
	  . " SELECT '$events', '$stats', $names";
}

my $mallorys = q(
	CREATE TABLE site.prompt_events (prompt_id uuid, user_id uuid, event_type text);
	CREATE TABLE site.s (prompt_id uuid PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
);
new_database('copy', 'CREATE SCHEMA site; GRANT ALL ON SCHEMA site TO PUBLIC; CREATE EXTENSION prompt_stats');
my $before = admin('copy', 'TABLE prompt_stats_internal.config');
sql('copy', $mallorys, 'mallory');
my %attempts = (
	'his own tables' => choice('site.prompt_events', 'site.s'),
	'one of them his own' => choice('public.prompt_events', 'site.s'),
	'none of them' => choice('public.prompt_events', 'public.prompt_stats'),
	'of a name that is not his' => choice('site.prompt_events', 'site.s', q('site', 'prompt_events', 'public', 'prompt_stats')),
	'with ON CONFLICT' => choice('site.prompt_events', 'site.s') . ' ON CONFLICT DO NOTHING',
	'that do not exist' => choice('site.prompt_events', 'site.s') =~ s/'site.s'::regclass/4294967295/r,
	'and a mode' => "INSERT INTO prompt_stats_internal.config (events, stats, events_schema, events_name, stats_schema, stats_name, migration)"
	  . " SELECT 'public.prompt_events', 'public.prompt_stats', 'public', 'prompt_events', 'public', 'prompt_stats', 'keep'");
sub attack
{
	my ($when) = @_;
	refused("$when: a choice of $_", 'mallory', $attempts{$_}) foreach sort keys %attempts;
	refused("$when: $_", 'mallory', $_, qr/permission denied for table/)
	  foreach 'DELETE FROM prompt_stats_internal.config', 'UPDATE prompt_stats_internal.config SET migration = NULL',
	  'INSERT INTO prompt_stats_internal.migration (mode, blocks_total) VALUES (1, 1)';
	is(admin('copy', 'TABLE prompt_stats_internal.config'), $before, "$when: nothing has changed");
	return;
}
attack('as it is');
admin('copy', 'ALTER TABLE prompt_stats_internal.config DISABLE TRIGGER ALL');
attack('while a restore has triggers off');
admin('copy', 'ALTER TABLE prompt_stats_internal.config ENABLE TRIGGER ALL');
attack('after it');
admin('postgres', 'GRANT SET ON PARAMETER session_replication_role TO mallory');
{
	local $ENV{PGOPTIONS} = '-c session_replication_role=replica';
	attack('as a replica');
}

# Where nothing is chosen yet, whoever may create beside the extension may choose; and the owner of the database
new_database('copy', 'CREATE SCHEMA site; GRANT ALL ON SCHEMA site TO PUBLIC; CREATE SCHEMA tools;'
	. 'SET prompt_stats.skip_setup = on; CREATE EXTENSION prompt_stats SCHEMA tools');
$before = '';
sql('copy', $mallorys, 'mallory');
refused('no choice: a first one', 'mallory', $attempts{'his own tables'}, qr/permission denied to choose the tables.*GRANT CREATE ON SCHEMA tools/s);
is(admin('copy', 'TABLE prompt_stats_internal.config'), '', 'no choice: none was made');
sql('copy', 'CREATE TABLE prompt_events (prompt_id uuid, user_id uuid, event_type text);'
	. 'CREATE TABLE s (prompt_id uuid PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);');
sql('copy', choice('public.prompt_events', 'public.s'));
is(admin('copy', 'SELECT events, stats FROM tools.prompt_stats_tables()'), 'prompt_events|s', 'no choice: the owner of the database has one');
refused('no choice: after him', 'mallory', $attempts{'his own tables'}, qr/must be owner of table/);

# What a row remembers beside the tables is what is so
foreach my $mode (qw(origin replica))
{
	admin('copy', "SET session_replication_role = $mode; " . choice('public.prompt_events', 'public.s', q('site', 'gone', 'site', 'gone')));
	is(admin('copy', 'SELECT events_schema, events_name, stats_schema, stats_name FROM prompt_stats_internal.config'),
		'public|prompt_events|public|s', "$mode: names are those of the tables");
}

# ---- what the row says of a migration ----

sub migration_of { my ($db) = @_; return sql($db, 'SELECT migration FROM prompt_stats_internal.config'); }

new_database('copy');
sql('copy', spell($legacy, $databases{migrated}));
admin('copy', 'CREATE EXTENSION prompt_stats');
is(migration_of('copy'), 'due', 'a migration is due');
sql('copy', q(SELECT prompt_stats_migrate_batch(10, 'keep')));
is(migration_of('copy'), 'keep', 'a migration is under way');
sql('copy', q(CREATE TABLE more_events (LIKE prompt_events INCLUDING ALL); CREATE TABLE more_stats (LIKE prompt_stats INCLUDING ALL);
	SELECT prompt_stats_setup('more_events', 'more_stats')));
is(migration_of('copy'), '', 'it is none of other tables');
sql('copy', q(SELECT prompt_stats_setup('prompt_events', 'prompt_stats')));
is(migration_of('copy'), 'due', 'a migration is due again');
sql('copy', q(ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check; INSERT INTO prompt_events (prompt_id, event_type) VALUES (1, 'like')));
sql('copy', 'CALL prompt_stats_migrate()');
is(migration_of('copy'), 'due', 'rows are left that could not be moved');
sql('copy', q(DELETE FROM prompt_events WHERE event_type = 'like'));
sql('copy', 'CALL prompt_stats_migrate()');
is(migration_of('copy'), '', 'no rows are left');

# Tables that were made anew since they were chosen have other OIDs, which mean nothing elsewhere
sql('copy', q(CREATE TABLE s (LIKE prompt_stats INCLUDING ALL); DROP TABLE prompt_stats; ALTER TABLE s RENAME TO prompt_stats));
unlink "$dir/copy.sql";
like(slurp_file(plain('copy')), qr/^COPY prompt_stats_internal\.config .*\n\\\.$/m, 'the OID of a table that is gone is not dumped');
new_database('copy', bare_extension({}));
works('made anew: psql', psql_command('copy', '-f', plain('copy')));
sql('copy', 'SELECT increment_prompt_views(1)');
is(sql('copy', 'SELECT view_count FROM prompt_stats'), 1, 'made anew: counts');

# ---- the commands of docs/dumps.md ----
#
# From database app to app_new.  At a heading, and after <!-- half-migrated -->, app
# is made anew, and app_new is empty.

# A list of { name, like, scripts }
sub read_parts
{
	my ($file) = @_;
	my @parts = { name => 'docs', like => 'migrated', scripts => [] };
	my $script;

	foreach my $line (split /^/, slurp_file($file))
	{
		if ($line =~ /^## (.*)/)
		{
			push @parts, { name => "docs: $1", like => 'migrated', scripts => [] };
		}
		elsif ($line =~ /^<!-- half-migrated -->/)
		{
			push @parts, { name => "$parts[-1]{name}, half-migrated", like => 'half', scripts => [] };
		}
		elsif ($line =~ /^```/)
		{
			push @{ $parts[-1]{scripts} }, $script if defined $script;
			$script = $line =~ /^```sh$/ ? '' : undef;
		}
		elsif (defined $script)
		{
			$script .= $line;
		}
	}
	return grep { @{ $_->{scripts} } } @parts;
}

sub run_scripts
{
	my ($part) = @_;
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGUSER => 'app');

	foreach my $script (@{ $part->{scripts} })
	{
		my ($ok, $error) = run_program('sh', '-ec', "cd '$dir'; $script");
		ok($ok, $part->{name}) or diag $script, $error;
	}
	return;
}

admin('postgres', 'CREATE ROLE postgres SUPERUSER LOGIN');
my @parts = read_parts("$FindBin::RealBin/../../docs/dumps.md");
cmp_ok(scalar @parts, '>=', 8, 'docs: there are commands');
foreach my $part (@parts)
{
	my $is = $databases{app} = { %{ $databases{ $part->{like} } } };
	my $scripts = join '', @{ $part->{scripts} };

	make_database('app');
	new_database('app_new');
	run_scripts($part);
	next unless $scripts =~ /app_new/;
	if ($scripts =~ /prompt_stats_migrate/)
	{
		# It has been done
		delete $is->{mode};
		$is->{content} = content('app_new', $is);
	}
	check_use('app_new', $is, $part->{name});
}

done_testing();
