# Attacks, and that they fail, by those who own none of the tables: a neighbour with CREATE on
# the schema, and the owner of the database [9][18a][23].
#
# What they have is names: made before the extension, in its schema or in its own; beside it,
# with arguments that fit better; in a schema that a search_path puts first; where a schema or
# a table of that name was.  How a cell tells: Attacks.pm.
#
# Not tried, because it can't be, or says nothing about us:
#
#   way in                        why
#   dropping or changing members  only their owner may (aclchk.c), and whoever owns the schema drops no member
#   of the extension              alone (dependency.c: an extension's)
#   event triggers, languages     a superuser's (event_trigger.c, proclang.c)
#   session_preload_libraries,    a superuser's, also for ALTER DATABASE (guc.c)
#   session_replication_role
#   default privileges            one changes only what roles that one is a member of create; those of the installation
#                                 itself: 062_attacks_caller.pl
#   a caller who names no schema  finds the neighbour's increment_prompt_views(integer), as with any function
#   pg_temp                       is a session's own: 062_attacks_caller.pl
#
# These were never seen to break a version, because names of the server's were always qualified,
# or because an error came first: "names that fit better", "search_path of the database", "database
# with ...", the views and other relations made beforehand, and the functions whose names the
# first version looked for.  The other ways broke it, with one victim at least.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use Attacks;
use Test::More;

Attacks::start('neighbour');

# ---- names made before the extension ----

Attacks::as('postgres', 'admin', 'CREATE DATABASE bare');
Attacks::as('bare', 'admin', q(
	CREATE SCHEMA site AUTHORIZATION shop;
	GRANT USAGE, CREATE ON SCHEMA site TO neighbour;
	GRANT CREATE ON DATABASE bare TO neighbour;
));
Attacks::make_trap('bare', $_) foreach qw(neighbour dbowner);

# CREATE DATABASE copies no rights on the database itself
sub made_before
{
	my ($name, $refused, @install) = @_;
	my $way = { role => 'neighbour', name => $name, database_owner => 'dbowner', before => [ [ 'dbowner', 'SET client_min_messages = warning',
		'DO $$ BEGIN EXECUTE format($f$GRANT CREATE ON DATABASE %I TO neighbour$f$, current_database()); END $$' ] ], install => \@install };
	Attacks::try_way($way, 'bare', { name => 'CREATE EXTENSION', user => 'admin', refused => $refused, sql => ['CREATE EXTENSION prompt_stats SCHEMA site'] });
	return;
}

# Its members, as they are
my $scratch = Attacks::new_database('bare');
Attacks::as($scratch, 'admin', 'CREATE EXTENSION prompt_stats SCHEMA site');
my $members = Attacks::as($scratch, 'admin', q(
	SELECT p.proname, string_agg(oidvectortypes(p.proargtypes), ';') FROM pg_proc p
	JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	WHERE p.pronamespace = 'site'::regnamespace GROUP BY 1 ORDER BY 1));
my $relations = Attacks::as($scratch, 'admin', q(
	SELECT c.relname FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
	WHERE c.relnamespace = 'site'::regnamespace ORDER BY 1));
cmp_ok(scalar @$members, '>=', 16, 'there are functions');
cmp_ok(scalar @$members + @$relations, '<=', 24, 'and no more names than 24');

# Each argument, and all, of a type into which an untyped literal, or a narrower type, goes rather than into ours
sub better_arguments
{
	my @arguments = split /, /, $_[0];
	my @better = map { $_ eq 'text' ? 'character varying' : 'text' } @arguments;
	return join(', ', @better), map { my $i = $_; join ', ', map { $_ == $i ? $better[$_] : $arguments[$_] } 0 .. $#arguments } 0 .. $#arguments;
}
foreach my $member (@$members)
{
	my ($name, $signatures) = @$member;
	my %arguments = map { $_ => 1 } '', 'text', map { better_arguments($_) } split /;/, $signatures;
	made_before("function $name", qr/^42710 |^42723 /,
		map { "CREATE FUNCTION site.$name($_) RETURNS bigint LANGUAGE plpgsql AS \$\$ BEGIN RETURN %ACT; END \$\$" } sort keys %arguments);
}
foreach my $name (map { $_->[0] } @$relations)
{
	made_before("view $name", qr/^42710 |^42P07 /, "CREATE VIEW site.$name AS SELECT %EVIL AS prompt_id");
}
my $RELATION = 'prompt_stats_live';
made_before("table $RELATION", qr/^42710 |^42P07 /, "CREATE TABLE site.$RELATION (prompt_id bigint DEFAULT %ACT)",
	"CREATE STATISTICS site.s ON ((prompt_id + %EVIL)) FROM site.$RELATION");
made_before("materialized view $RELATION", qr/^42710 |^42P07 /, "CREATE MATERIALIZED VIEW site.$RELATION AS SELECT %EVIL AS prompt_id");
made_before("sequence $RELATION", qr/^42710 |^42P07 /, "CREATE SEQUENCE site.$RELATION");
made_before("composite type $RELATION", qr/^42710 |^42P07 /, "CREATE TYPE site.$RELATION AS (prompt_id bigint)");
made_before("domain $RELATION", qr/^42710 /, "CREATE DOMAIN site.$RELATION AS bigint CHECK (%ACT = VALUE)");
made_before("procedure prompt_stats_migrate", qr/^42710 |^42723 /, 'CREATE PROCEDURE site.prompt_stats_migrate(text) LANGUAGE plpgsql AS $$ BEGIN PERFORM %ACT; END $$');
made_before("aggregate increment_prompt_views", qr/^42710 |^42723 /,
	'CREATE FUNCTION site.step(bigint, bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN %ACT; END $$',
	'CREATE AGGREGATE site.increment_prompt_views(bigint) (SFUNC = site.step, STYPE = bigint)');

my $INTERNAL = $Attacks::INTERNAL;
made_before('its schema', qr/^42710 |^42P06 /, "CREATE SCHEMA $INTERNAL");
made_before('its schema, with tables', qr/^42710 |^42P06 /, "CREATE SCHEMA $INTERNAL",
	map { ("CREATE TABLE $INTERNAL.$_ (i bigint DEFAULT %ACT)", "CREATE STATISTICS $INTERNAL.s_$_ ON ((i + %EVIL)) FROM $INTERNAL.$_") } qw(config migration));
made_before('its schema, with functions', qr/^42710 |^42P06 /, "CREATE SCHEMA $INTERNAL",
	map { "CREATE FUNCTION $INTERNAL.$_ RETURNS bigint LANGUAGE plpgsql AS \$\$ BEGIN RETURN %ACT; END \$\$" } 'live_rows()', 'status_row()', 'reroute(text)');
made_before('functions and operators that fit better', undef, Attacks::better_fits('neighbour', 'site'));

# ---- tables made before the extension ----

my $STATS = 'CREATE TABLE site.prompt_stats (prompt_id bigint PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint)';
my $EVENTS = 'CREATE TABLE site.prompt_events (id uuid, prompt_id bigint, user_id bigint, event_type text)';
my @STATS_TRAPS = ('CREATE STATISTICS site.st ON ((view_count + %EVIL)), copy_count FROM site.prompt_stats',
	'CREATE INDEX ON site.prompt_stats (view_count) WHERE view_count + %EVIL < 0');
my @EVENTS_TRAPS = (q(INSERT INTO site.prompt_events (prompt_id, event_type) VALUES (1, 'view')),
	'CREATE STATISTICS site.s ON ((prompt_id + %EVIL)), user_id FROM site.prompt_events',
	'ALTER TABLE site.prompt_events ADD CHECK (user_id + %EVIL >= 0)');
my $STRANGER = qr/^42501 .*(prompt_events|prompt_stats)/;

made_before('a table prompt_events', $STRANGER, $EVENTS, @EVENTS_TRAPS);
made_before('a table prompt_stats', $STRANGER, $STATS, @STATS_TRAPS);
made_before('both tables', $STRANGER, $EVENTS, $STATS, @EVENTS_TRAPS, @STATS_TRAPS);
made_before('a view prompt_stats', qr/^42809 |^42501 /, 'CREATE VIEW site.prompt_stats AS SELECT %EVIL AS prompt_id, 0::bigint AS view_count, 0::bigint AS copy_count, 0::bigint AS fork_count');
made_before('a table prompts', undef, 'CREATE TABLE site.prompts (id bigint PRIMARY KEY, n bigint)', 'INSERT INTO site.prompts VALUES (1)',
	'CREATE STATISTICS site.s ON ((n + %EVIL)), id FROM site.prompts', 'CREATE INDEX ON site.prompts ((n + %EVIL))');
made_before('a table prompts, with keys of a domain', qr/^42804 |^42501 /, 'CREATE DOMAIN site.d AS bigint CHECK (VALUE > %ACT)',
	'CREATE TABLE site.prompts (id site.d PRIMARY KEY)');
made_before('a table users', undef, 'CREATE DOMAIN site.d AS bigint DEFAULT %ACT CHECK (VALUE > %ACT)', 'CREATE TABLE site.users (id site.d PRIMARY KEY)');

# Named by a superuser they are adopted, and their code runs as their owner's
Attacks::try_way({ role => 'neighbour', name => 'tables that a superuser names', install => [ $EVENTS, $STATS, @EVENTS_TRAPS, @STATS_TRAPS,
		'CREATE TRIGGER t AFTER INSERT OR UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION %TRIGGER' ] }, 'bare',
	{ name => 'prompt_stats_setup(), and all', user => 'admin', sql => [ 'SET prompt_stats.skip_setup = on', 'CREATE EXTENSION prompt_stats SCHEMA site', 'RESET prompt_stats.skip_setup',
		"SELECT site.prompt_stats_setup('site.prompt_events', 'site.prompt_stats')", 'CALL site.prompt_stats_migrate()', 'SELECT site.increment_prompt_views(1::bigint)',
		'SELECT site.increment_prompt_views(ARRAY[1, 2]::bigint[])', 'SELECT count(*) FROM site.prompt_stats_verify()', 'SELECT site.prompt_stats_recount_forks()' ] });

# ---- names beside the extension ----

Attacks::make_template('site', 'shop');
my @ALL = Attacks::victims_of('\w+', 'shop');
my $OTHER_ARGUMENTS = q(
	DO $do$
	DECLARE
		f record;
		wanted text;
		other text;
	BEGIN
		FOR f IN SELECT p.proname, oidvectortypes(p.proargtypes) AS args FROM pg_proc p
			JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
			WHERE p.pronamespace = 'site'::regnamespace
		LOOP
			FOR wanted, other IN VALUES ('bigint', 'integer'), ('bigint', 'text'), ('integer', 'text'), ('text', 'varchar'), ('text', 'name'),
				('uuid', 'text'), ('uuid', 'varchar'), ('regclass', 'oid'), ('regclass', 'text'), ('boolean', 'text'), ('name\[\]', 'text'), ('text\[\]', 'varchar[]')
			LOOP
				BEGIN
					EXECUTE format('CREATE FUNCTION site.%I(%s) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN %ACT; END $$',
						f.proname, regexp_replace(f.args, wanted, other, 'g'));
				EXCEPTION WHEN duplicate_function THEN NULL;
				END;
			END LOOP;
		END LOOP;
	END $do$);
$OTHER_ARGUMENTS =~ s/%ACT/evil_neighbour.act(%L)/;
$OTHER_ARGUMENTS =~ s/'g'\)\)/'g'), 'overload of ' || f.proname)/;

Attacks::try_way({ role => 'neighbour', name => 'names that fit better', install => [ Attacks::better_fits('neighbour', 'site') ] }, 'site', @ALL);
Attacks::try_way({ role => 'neighbour', name => 'overloads', install => [$OTHER_ARGUMENTS], fails => qr/^(42710|42723) .*CREATE EXTENSION/ }, 'site', @ALL);

# Whoever owns the database sets the search_path of every session in it, the flusher's too
Attacks::as('postgres', 'admin', 'CREATE DATABASE with_twins TEMPLATE site');
Attacks::make_twins('with_twins', 'dbowner');
Attacks::try_way({ role => 'dbowner', database_owner => 'dbowner', name => 'search_path of the database', proof => 'SELECT 1 = 1', any_way => 1,
	install => [ q(DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = twins_dbowner, pg_catalog, site', current_database()); END $$) ] }, 'with_twins', @ALL);
foreach my $setting ('role = dbowner', 'row_security = off', 'default_transaction_read_only = on', 'default_transaction_isolation = serializable')
{
	my ($flusher) = grep { $_->{flusher} } @ALL;
	Attacks::try_way({ role => 'dbowner', database_owner => 'dbowner', name => "database with $setting",
		before => [ [ 'shop', q(CREATE TRIGGER t BEFORE UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION evil_shop.trigger('trigger')) ] ],
		install => [ qq(DO \$\$ BEGIN EXECUTE format('ALTER DATABASE %I SET $setting', current_database()); END \$\$) ] }, 'site',
		{ %$flusher, prelude => [ 'SET default_transaction_read_only = off', 'SET default_transaction_isolation = "read committed"' ] });
}

# ---- where a name was ----

# The functions of the extension, as they were called, in a schema of the old name
my $SAME_ARGUMENTS = q(
	CREATE SCHEMA site;
	GRANT USAGE ON SCHEMA site TO PUBLIC;
	DO $do$
	DECLARE
		f record;
	BEGIN
		FOR f IN SELECT p.proname, oidvectortypes(p.proargtypes) AS args FROM pg_proc p
			JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
			JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'prompt_stats'
			WHERE p.prorettype <> 'trigger'::regtype
		LOOP
			EXECUTE format('CREATE FUNCTION site.%I(%s) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN evil_dbowner.act(%L); END $$', f.proname, f.args, f.proname);
		END LOOP;
	END $do$;
	CREATE TABLE site.prompt_stats (prompt_id bigint PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
	CREATE TABLE site.prompt_events (id uuid, prompt_id bigint, user_id bigint, event_type text);
	CREATE STATISTICS site.s ON ((prompt_id + evil_dbowner.evil('statistics'))), user_id FROM site.prompt_events;
	CREATE STATISTICS site.s2 ON ((prompt_id + evil_dbowner.evil('statistics'))), view_count FROM site.prompt_stats);
Attacks::try_way({ role => 'dbowner', database_owner => 'dbowner', name => 'a schema of the old name', before => [ [ 'admin', 'ALTER SCHEMA site RENAME TO moved' ] ],
	install => [$SAME_ARGUMENTS] }, 'site', Attacks::elsewhere('moved', @ALL));

# The tables move, and a neighbour puts his own in their place
my @MOVED = map { my $victim = $_; +{ %$victim, before => [ map { [ $_->[0], $_->[1] =~ s/site\.prompt_events/away.prompt_events/gr ] } @{ $victim->{before} // [] } ],
	sql => [ map { s/site\.prompt_events/away.prompt_events/gr } @{ $victim->{sql} } ] } } grep { $_->{name} ne 'CREATE EXTENSION' } @ALL;
Attacks::try_way({ role => 'neighbour', name => 'tables where ours were', before => [ [ 'admin', 'CREATE SCHEMA away; GRANT ALL ON SCHEMA away TO PUBLIC;
		ALTER TABLE site.prompt_stats SET SCHEMA away; ALTER TABLE site.prompt_events SET SCHEMA away; ALTER TABLE site.prompts SET SCHEMA away' ] ],
	install => [ $EVENTS, $STATS, @EVENTS_TRAPS, @STATS_TRAPS, 'CREATE TRIGGER t BEFORE INSERT OR UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION %TRIGGER' ] },
	'site', @MOVED);

# They are dropped, and a neighbour puts his own in their place: his code may run, as himself
Attacks::try_way({ role => 'neighbour', name => 'tables where ours were dropped', before => [ [ 'shop', 'DROP TABLE site.prompt_stats, site.prompt_events' ] ],
	install => [ $EVENTS, $STATS, @EVENTS_TRAPS, @STATS_TRAPS, 'CREATE TRIGGER t BEFORE INSERT OR UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION %TRIGGER' ],
	fails => qr/^42501 |^42P01 |^55000 |^23514 / }, 'site', grep { $_->{name} ne 'CREATE EXTENSION' && $_->{name} !~ /fork|legacy insert/ } @ALL);

# ---- long names, with quotes and percent signs ----

# Whatever is not quoted ends a literal or an identifier, and calls the trap
my $NAME = substr(q(%s%n"'\\; SELECT evil_shop.act('%L'); -- $$ ) . 'x' x 63, 0, 63);
sub quoted { my ($last) = @_; return '"' . ((substr($NAME, 0, 62) . $last) =~ s/"/""/gr) . '"' }
my $QUOTED = quoted('x');
Attacks::as('postgres', 'admin', "CREATE ROLE $QUOTED LOGIN");
my $named = Attacks::new_database('site');
Attacks::as($named, 'admin', "ALTER SCHEMA site RENAME TO $QUOTED",
	"GRANT ALL ON DATABASE $named TO PUBLIC",
	"ALTER TABLE $QUOTED.prompts RENAME id TO $QUOTED", "ALTER TABLE $QUOTED.prompts RENAME TO $QUOTED",
	"ALTER TABLE $QUOTED.prompt_stats RENAME CONSTRAINT prompt_stats_prompt_id_fkey TO " . quoted(1),
	"ALTER TABLE $QUOTED.prompt_events RENAME CONSTRAINT prompt_events_prompt_id_fkey TO " . quoted(2),
	"ALTER TABLE $QUOTED.prompt_stats RENAME CONSTRAINT prompt_stats_pkey TO " . quoted(3),
	"ALTER TABLE $QUOTED.prompt_events RENAME CONSTRAINT $Attacks::CHECK TO " . quoted(4),
	'CREATE CONSTRAINT TRIGGER ' . quoted(5) . " AFTER UPDATE ON $QUOTED.prompt_stats DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION evil_shop.trigger('named')",
	"REASSIGN OWNED BY shop TO $QUOTED");
Attacks::as('postgres', 'admin', "ALTER DATABASE $named RENAME TO $QUOTED");
foreach my $victim (Attacks::elsewhere($QUOTED, grep { !$_->{legacy} && $_->{user} ne 'staff' } @ALL))
{
	Attacks::try_victim($NAME, "names: $victim->{name}", $victim, may => $NAME);
}

# The server takes no quotes, backslashes and comments in the name of an extension's schema (extension.c: execute_extension_script)
my $PERCENT = '"' . substr(q(%s%n%L%I; SELECT evil_shop.act(%L); ) . 'x' x 63, 0, 63) . '"';
Attacks::try_victim($NAME, 'names: CREATE EXTENSION', { user => 'admin', sql => [ 'DROP EXTENSION prompt_stats', "ALTER SCHEMA $QUOTED RENAME TO $PERCENT",
	"CREATE EXTENSION prompt_stats SCHEMA $PERCENT", "SELECT $PERCENT.increment_prompt_views(1::bigint)", "CALL $PERCENT.prompt_stats_migrate()" ] }, may => $NAME);

Attacks::stop();
done_testing();
