# Attacks, and that they fail, by a caller who has EXECUTE and nothing else: he wants the
# rights of the owner of the tables, or of the extension [9][18a][23].
#
# What he has is his session: temporary objects, a search_path, settings, transactions that
# change between the call and COMMIT; and the right to try every function.  How a cell tells:
# Attacks.pm; here the trap is the caller's, and may run as nobody else.
#
# Not tried, because it can't be, or says nothing about us:
#
#   way in                          why
#   SET of a superuser's settings   refused (guc.c)
#   an event in another's name      the INSERT is the caller's own, with his rights and policies: test "privileges"
#   an id or a number that can't    an error to its own caller, or rejected with a reason: tests "errors" and
#   be counted                      031_async_crash.pl
#   the pending counts of others    with the rights and policies of the reader: 033_async_rights.pl
#
# His session, and what is not for him, were never seen to break a version: names of the server's
# and of tables were always qualified, pg_temp came last, and each function asked who owns the
# tables.  The schema that keeps what is the extension's own did not exist in the first.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use Attacks;
use Test::More;

Attacks::start('caller');
my $INTERNAL = $Attacks::INTERNAL;

Attacks::make_template('site', 'shop');
Attacks::as('site', 'admin', 'CREATE SCHEMA calls AUTHORIZATION caller');
Attacks::make_twins('site', 'caller');

# Code of the owner's runs in each cell, with names that it does not qualify
Attacks::as('site', 'shop', q(
	CREATE TABLE site.seen (prompt_id bigint, at timestamptz, id uuid);
	CREATE FUNCTION site.look() RETURNS trigger LANGUAGE plpgsql AS $$
	DECLARE
		n bigint;
	BEGIN
		INSERT INTO seen VALUES (NEW.prompt_id, now(), gen_random_uuid());
		SELECT count(*) INTO n FROM prompt_stats WHERE prompt_id = NEW.prompt_id AND view_count + 0 >= 0;
		PERFORM NEW.prompt_id::int8, '00000000-0000-0000-0000-000000000000'::uuid, format('%s', n);
		RETURN NEW;
	END $$;
	CREATE TRIGGER look BEFORE INSERT OR UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION site.look()));

# ---- his session ----

my @COUNTS = ('SELECT site.increment_prompt_views(1::bigint)', 'SELECT site.increment_prompt_views(ARRAY[2, 3]::bigint[])');
# Whoever sprang the trap but the caller, whose session it is
sub gained
{
	my ($offset, $where) = @_;
	return Attacks::judge('', '', '', grep { $_->{who} ne 'caller' } Attacks::sprung($offset, $where));
}

sub new_prompts { my ($n) = @_; return ("SELECT site.increment_prompt_copies($n\::bigint)", "SELECT site.increment_prompt_copies(ARRAY[4, $n + 1]::bigint[])") }
my @CALLS = (@COUNTS, new_prompts(51),
	'SET prompt_stats.durability = transaction', @COUNTS, new_prompts(53),
	'SET prompt_stats.durability = async', @COUNTS, new_prompts(55), 'SELECT site.prompt_stats_flush()', 'RESET prompt_stats.durability',
	'BEGIN', @COUNTS, new_prompts(57), 'COMMIT',
	'BEGIN', 'SAVEPOINT s', @COUNTS, 'ROLLBACK TO s', @COUNTS, 'PREPARE calls AS SELECT site.increment_prompt_views($1::bigint)', 'EXECUTE calls(5)', 'DEALLOCATE calls', 'COMMIT');

# The sums of what CALLS count
my $SUMS = '1=5 2=5 3=5 4=4 5=1 51=1 52=1 53=1 54=1 55=1 56=1 57=1 58=1';

my @WAYS = (
	{ name => 'temporary tables', session => [
		'CREATE TEMPORARY TABLE prompt_stats (prompt_id bigint PRIMARY KEY, view_count bigint DEFAULT %ACT, copy_count bigint, fork_count bigint)',
		'INSERT INTO prompt_stats SELECT i, 0, 0, 0 FROM generate_series(1, 60) i',
		'CREATE TRIGGER t BEFORE INSERT OR UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION %TRIGGER',
		'CREATE STATISTICS pg_temp.s ON ((view_count + %EVIL)), copy_count FROM prompt_stats',
		'CREATE TEMPORARY TABLE seen (prompt_id bigint, at timestamptz, id uuid DEFAULT gen_random_uuid(), trap bigint DEFAULT %ACT)',
		'CREATE TEMPORARY TABLE prompts (id bigint PRIMARY KEY)', 'CREATE TEMPORARY TABLE config (i bigint)' ] },
	{ name => 'temporary views', session => [ map { "CREATE TEMPORARY VIEW $_ AS SELECT %ACT AS prompt_id, 0::bigint AS view_count, now() AS at, NULL::uuid AS id" } qw(prompt_stats seen prompts pg_class) ] },
	{ name => 'temporary types', session => [ map { "CREATE DOMAIN pg_temp.$_ AS pg_catalog.$_ CHECK (%ACT = 0)" } qw(int8 int4 uuid text name bool oid regclass timestamptz) ] },
	{ name => 'temporary functions and operators', session => [
		'CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT NULL::timestamptz FROM %ACT $$',
		'CREATE FUNCTION pg_temp.unnest(bigint[]) RETURNS SETOF bigint LANGUAGE sql AS $$ SELECT %ACT $$',
		'CREATE FUNCTION pg_temp.plus(bigint, bigint) RETURNS bigint LANGUAGE sql AS $$ SELECT %ACT $$',
		'CREATE OPERATOR pg_temp.+ (FUNCTION = pg_temp.plus, LEFTARG = bigint, RIGHTARG = bigint)',
		'SET search_path = pg_temp, pg_catalog' ] },
	{ name => 'search_path of twins', session => [ 'SET search_path = twins_caller, pg_temp, pg_catalog, site' ] },
	{ name => 'functions of the same names', session => [
		(map { "CREATE FUNCTION calls.$_ RETURNS void LANGUAGE sql AS \$\$ SELECT %ACT \$\$" } 'increment_prompt_views(bigint)', 'increment_prompt_views(bigint, bigint)', 'look()'),
		'SET search_path = calls, site' ] },
	{ name => 'settings', session => [
		'SET standard_conforming_strings = off', 'SET quote_all_identifiers = on', 'SET escape_string_warning = off', 'SET transform_null_equals = on',
		'SET array_nulls = off', q(SET bytea_output = 'escape'), q(SET IntervalStyle = 'sql_standard'), q(SET DateStyle = 'German'), q(SET TimeZone = 'Antarctica/Troll'),
		'SET extra_float_digits = -15', 'SET row_security = off', 'SET constraint_exclusion = on', 'SET plan_cache_mode = force_custom_plan', 'SET check_function_bodies = off',
		q(SET client_encoding = 'LATIN1'), q(SET xmloption = 'document'), 'SET default_with_oids = off', 'SET enable_indexscan = off', 'SET enable_seqscan = off', 'SET from_collapse_limit = 1',
		'SET jit = on', 'SET jit_above_cost = 0', 'SET debug_discard_caches = 1', 'SET client_min_messages = debug5', 'SET backtrace_functions = \'ereport\'',
		'SET default_tablespace = pg_default', 'SET temp_tablespaces = pg_default', q(SET search_path = '') ] },
	{ name => 'isolation', session => [ 'SET default_transaction_isolation = serializable', 'SET default_transaction_deferrable = on' ] },
);
foreach my $way (@WAYS)
{
	my $database = Attacks::new_database('site');
	my $connection = Attacks::connect_as($database, 'caller');
	my @errors = map { $_->{message} } grep { $_->{outcome} ne 'ok' && $_->{message} !~ /parameter/ }
	  map { $connection->query(Attacks::expand($_, 'caller', $way->{name})) } @{ $way->{session} };
	is("@errors", '', "caller: $way->{name}: his session is prepared");

	my $offset = Attacks::log_size();
	@errors = map { $_->{message} } grep { $_->{outcome} ne 'ok' } map { $connection->query($_) } @CALLS;
	my @wrong = (gained($offset, $database), @errors);
	ok(!@wrong, "caller: $way->{name}: he gains nothing by counting") or diag(join "\n", @wrong);
	my $sums = Attacks::as($database, 'admin', q(SELECT string_agg(concat(prompt_id, '=', view_count + copy_count), ' ' ORDER BY prompt_id)
		FROM site.prompt_stats WHERE view_count + copy_count > 0))->[0][0];
	is($sums, $SUMS, "caller: $way->{name}: it is counted");
}

# What changes between the call and COMMIT
my $database = Attacks::new_database('site');
foreach my $way (
	[ 'search_path', 'SET search_path = twins_caller, pg_temp, pg_catalog, site' ],
	[ 'temporary table', 'CREATE TEMPORARY TABLE prompt_stats (prompt_id bigint, view_count bigint)', 'CREATE TEMPORARY TABLE seen (prompt_id bigint, at timestamptz, id uuid)' ],
	[ 'role', 'SET ROLE caller' ],
	[ 'constraints', 'SET CONSTRAINTS ALL DEFERRED' ],
	[ 'cursor', 'DECLARE c CURSOR WITH HOLD FOR SELECT site.increment_prompt_views(11::bigint)' ],
	[ 'deferred trigger', 'CREATE TEMPORARY TABLE later (i bigint)',
		'CREATE FUNCTION pg_temp.later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SET search_path = twins_caller, pg_catalog; PERFORM site.increment_prompt_views(11::bigint); PERFORM evil_caller.act(\'at commit\'); RETURN NULL; END $$',
		'CREATE CONSTRAINT TRIGGER later AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.later()',
		'INSERT INTO later VALUES (1)' ])
{
	my ($name, @sql) = @$way;
	my $connection = Attacks::connect_as($database, 'caller');
	my $offset = Attacks::log_size();
	my @errors = map { $_->{message} } grep { $_->{outcome} ne 'ok' }
	  map { $connection->query($_) } 'BEGIN', 'SELECT site.increment_prompt_views(10::bigint)', 'SELECT site.increment_prompt_views(ARRAY[10, 12]::bigint[])', @sql, 'COMMIT';
	my @wrong = (gained($offset, $database), @errors);
	ok(!@wrong, "caller: before COMMIT: $name") or diag(join "\n", @wrong);
}
is(Attacks::as($database, 'admin', 'SELECT view_count FROM site.prompt_stats WHERE prompt_id = 10')->[0][0], 12, 'caller: before COMMIT: all is counted');

# ---- what is not for him ----

# Also where default privileges give everybody everything
my $open = Attacks::new_database('site');
Attacks::as($open, 'admin', 'DROP EXTENSION prompt_stats',
	(map { "ALTER DEFAULT PRIVILEGES GRANT ALL ON $_ TO PUBLIC" } qw(TABLES FUNCTIONS SEQUENCES TYPES SCHEMAS)), 'CREATE EXTENSION prompt_stats SCHEMA site');

my @ADMINISTRATION = ('prompt_stats_setup()', q(prompt_stats_setup('site.prompt_events', 'site.prompt_stats')), q(prompt_stats_setup('calls.prompt_events', 'calls.prompt_stats')),
	'prompt_stats_enable_compat()', 'prompt_stats_teardown()', 'prompt_stats_migrate_batch()', q(prompt_stats_migrate_batch(1, 'keep')), 'prompt_stats_migrate_finish()',
	'prompt_stats_recount_forks()', 'prompt_stats_recount_forks(lower => true)', 'prompt_stats_verify()',
	'prompt_stats_setup(touch => true)', 'prompt_stats_preflight()', q(prompt_stats_preflight('site.prompt_events', 'site.prompt_stats')),
	q(prompt_stats_allow('caller')), q(prompt_stats_deny('shop')), q(prompt_stats_allow('public')));
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }

foreach my $case ([ 'site', 'caller' ], [ 'site', 'neighbour' ], [ 'site', 'press' ], [ 'site', 'clerk' ], [ 'open', 'caller' ])
{
	my ($kind, $role) = @$case;
	my $where = $kind eq 'open' ? $open : Attacks::new_database('site');
	my $connection = Attacks::connect_as($where, $role);
	Attacks::as($where, 'admin', "GRANT ALL ON ALL FUNCTIONS IN SCHEMA site TO PUBLIC", "GRANT ALL ON ALL PROCEDURES IN SCHEMA site TO PUBLIC");
	Attacks::as($where, 'caller', 'CREATE TABLE calls.prompt_events (id uuid, prompt_id bigint, user_id bigint, event_type text)',
		'CREATE TABLE calls.prompt_stats (prompt_id bigint PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint)',
		'GRANT ALL ON SCHEMA calls TO PUBLIC');
	my %allowed = map { $_ => $connection->query("SELECT site.$_") } @ADMINISTRATION;
	$allowed{"CALL $_"} = $connection->query("CALL site.$_") foreach 'prompt_stats_migrate()', 'prompt_stats_migrate(dry_run => true)';
	is(join("\n", map { "$_: " . outcome($allowed{$_}) . ' ' . ($allowed{$_}{message} // '') } grep { outcome($allowed{$_}) ne '42501' } sort keys %allowed),
		'', "$role, $kind: administration is for the owner of the tables");
}

# Everything in its own schema, with arguments that are null.  A row of them is
# refused where others could be inserted; 009 tries these.
sub try_internals
{
	my ($where, $role, $name) = @_;
	my $connection = Attacks::connect_as($where, $role);
	my $functions = Attacks::as($where, 'admin', qq(
		SELECT p.oid::regprocedure, concat('SELECT $INTERNAL.', quote_ident(p.proname), '(',
			(SELECT string_agg('NULL::' || format_type(t, NULL), ', ') FROM unnest(p.proargtypes) t), ')')
		FROM pg_proc p WHERE pronamespace = '$INTERNAL'::regnamespace AND prorettype <> 'trigger'::regtype));
	my $relations = Attacks::as($where, 'admin', qq(
		SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = '$INTERNAL'::regnamespace AND relkind = 'r'));
	my @wrong;

	cmp_ok(scalar @$relations, '>=', 2, "$name: there are tables of its own");
	foreach my $function (@$functions)
	{
		my $outcome = outcome($connection->query($function->[1]));
		push @wrong, "$function->[0]: $outcome" if $function->[0] !~ /live_rows\(\)|status_row\(\)/ && $outcome !~ /^42501$|^22004$/;
	}
	foreach my $table (map { $_->[0] } @$relations)
	{
		push @wrong, "$table can't be read" if outcome($connection->query("SELECT FROM $table")) ne 'ok';
		foreach my $sql ("INSERT INTO $table DEFAULT VALUES", "DELETE FROM $table", "UPDATE $table SET singleton = true", "TRUNCATE $table", "SELECT FROM $table FOR UPDATE",
			"DO \$\$ BEGIN LOCK TABLE $table IN ACCESS EXCLUSIVE MODE; END \$\$", "CREATE TABLE calls.refers (s boolean REFERENCES $table)", "ALTER TABLE $table ADD i bigint",
			"CREATE TRIGGER t BEFORE INSERT ON $table FOR EACH ROW EXECUTE FUNCTION evil_$role.trigger('trigger')",
			"CREATE RULE r AS ON UPDATE TO $table DO ALSO SELECT 1", "CREATE INDEX ON $table ((evil_$role.evil('index')))",
			"CREATE STATISTICS evil_$role.s ON ((evil_$role.evil('statistics'))) FROM $table",
			"CREATE POLICY p ON $table", "DROP TABLE $table", "COMMENT ON TABLE $table IS 'mine'")
		{
			my $outcome = outcome($connection->query($sql));
			push @wrong, "$sql: $outcome" if $outcome !~ /^42501$|^42703$|^23502$/;
		}
	}
	foreach my $sql ("CREATE TABLE $INTERNAL.t ()", "CREATE FUNCTION $INTERNAL.live_rows(text) RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE VIEW $INTERNAL.v AS SELECT 1",
		"CREATE DOMAIN $INTERNAL.text AS bigint", "ALTER SCHEMA $INTERNAL RENAME TO mine", "DROP SCHEMA $INTERNAL CASCADE",
		"ALTER EXTENSION prompt_stats DROP TABLE $INTERNAL.config", 'ALTER EXTENSION prompt_stats UPDATE', 'DROP EXTENSION prompt_stats')
	{
		my $outcome = outcome($connection->query($sql));
		push @wrong, "$sql: $outcome" if $outcome !~ /^42501$/;
	}
	is(join("\n", @wrong), '', "$name: nothing of it can be called or changed");
	return;
}
Attacks::as('postgres', 'admin', 'GRANT ALL ON DATABASE postgres TO dbowner');
try_internals(Attacks::new_database('site', 'dbowner'), $_, $_) foreach qw(caller neighbour shop dbowner);
try_internals($open, 'caller', 'caller, where default privileges give everything');
is(Attacks::as($open, 'admin', q(SELECT count(*) FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'prompt_stats' WHERE p.prosecdef))->[0][0], 0, 'not one function of it is SECURITY DEFINER');

Attacks::stop();
done_testing();
