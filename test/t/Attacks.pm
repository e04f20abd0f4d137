# What the tables of attacks share: a trap, and a watch over who runs it.
#
# The trap of a role is function evil_ROLE.evil(way): declared IMMUTABLE, so that the
# planner calls it, and calling a VOLATILE one, so that it may do anything.  It says in
# the server log as whom it runs, tries what a superuser could do, queues a deferred
# trigger elsewhere that does the same at COMMIT, and leaves things behind in the session.
# The log is where it tells, because nothing undoes that: no rollback, no read-only
# transaction, no recovery.
#
# An attack is one way in, installed by its role in a session of its own, in a database of
# its own.  Victims, one after another, each in a new session, do their work there.  A cell
# is one victim of one way.  It holds if
#
# - whatever ran as anybody did so as the owner of the trap;
# - nobody has become superuser, or a member of another role;
# - the victim's session is as before: settings, user, prepared statements, cursors,
#   channels, temporary objects;
# - the victim's statements succeeded, or failed as the way says.
#
# Before that the attacker himself springs the trap, with a statement of his own: one that
# can't spring proves nothing.

use strict;
use warnings FATAL => 'all';

package Attacks;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(usleep);

# Names of the extension's objects, in one place
our $INTERNAL = 'prompt_stats_internal';

# Nobody of these is superuser but "admin", who installs and calls
my @ROLES = qw(shop press clerk child neighbour dbowner caller bob);

my ($node, $monitor, $databases, $innocent);

# ---- the server ----

sub start
{
	my ($name) = @_;
	$node = PostgreSQL::Test::Cluster->new($name);
	$node->init;

	# Of each database the flusher keeps a slot for a while
	$node->append_conf('postgresql.conf', qq(
		autovacuum = off
		fsync = off
		log_statement = none
		log_error_verbosity = terse
		max_worker_processes = 32
		statement_timeout = '1min'
	));
	$node->start;
	$monitor = connect_as('postgres');
	must($monitor, join '', 'CREATE ROLE admin SUPERUSER LOGIN;', map { "CREATE ROLE $_ LOGIN;" } @ROLES);
	must($monitor, 'CREATE ROLE staff LOGIN IN ROLE shop, clerk');
	$innocent = might();
	return $node;
}

sub connect_as
{
	my ($database, $user) = @_;
	return PromptStats::Connection->new($node, 'attacks', database => $database, $user ? (user => $user) : ())
	  // die "cannot connect to $database";
}

sub must
{
	my ($connection, @statements) = @_;
	my $result;
	foreach my $sql (@statements)
	{
		$result = $connection->query($sql);
		die "$result->{outcome}: " . ($result->{message} // '') . " in: $sql" if $result->{outcome} ne 'ok';
	}
	return $result->{rows};
}

# In a session of that role; for what prepares an attack, or is the attack itself
sub as { my ($database, $user, @statements) = @_; return must(connect_as($database, $user), @statements) }

sub new_database
{
	my ($from, $owner) = @_;
	my $name = 'd' . ++$databases;
	must($monitor, "CREATE DATABASE $name TEMPLATE $from" . ($owner ? " OWNER $owner" : ''));
	return $name;
}

sub stop
{
	undef $monitor;
	$node->stop;
	unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'nothing crashed');
	return;
}

# ---- the trap ----

# Tried one by one; "later" last, which needs a table of the attacker's
my @TRICKS = (
	'ALTER ROLE %R SUPERUSER',
	'CREATE ROLE made_by_%R SUPERUSER',
	'GRANT admin TO %R',
	'GRANT pg_execute_server_program TO %R',
	'SET ROLE admin',
	'SET SESSION AUTHORIZATION admin',
	'RESET SESSION AUTHORIZATION',
	'RESET ROLE',
	'SELECT set_config(\'role\', \'admin\', false)',
	'SET session_replication_role = replica',
	'SET row_security = off',
	'SET work_mem = \'77MB\'',
	'SET LOCAL TimeZone = \'Antarctica/Troll\'',
	'SET prompt_stats.durability = async',
	'SELECT set_config(\'trap.left\', \'behind\', false)',
	'PREPARE evil_left AS SELECT 1',
	'DECLARE evil_open CURSOR FOR SELECT 1',
	'DECLARE evil_held CURSOR WITH HOLD FOR SELECT 1',
	'LISTEN evil_left',
	'CREATE DOMAIN pg_temp.uuid AS pg_catalog.text CHECK (evil_%R.evil(\'temporary domain\') IS NOT NULL)',
	'CREATE DOMAIN pg_temp.int8 AS pg_catalog.text CHECK (evil_%R.evil(\'temporary domain\') IS NOT NULL)',
	'CREATE TEMPORARY TABLE prompt_stats (prompt_id bigint)',
	'CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE sql AS \'SELECT evil_%R.evil(\'\'temporary function\'\'), NULL\'',
	'SET CONSTRAINTS ALL DEFERRED',
	'INSERT INTO evil_%R.later VALUES (way)',
	'SET search_path = evil_%R, pg_catalog',
);

my $TRAP = q(
	CREATE TABLE evil_%R.later (way pg_catalog.text);
	GRANT USAGE ON SCHEMA evil_%R TO PUBLIC;
	CREATE FUNCTION evil_%R.act(way pg_catalog.text) RETURNS pg_catalog.int8 LANGUAGE plpgsql AS $$
	DECLARE
		trick pg_catalog.text;
	BEGIN
		RAISE LOG 'SPRUNG|%|%|%|%|%|%|', current_database(), way, '%R', current_user, pg_backend_pid(), 'runs';
		FOREACH trick IN ARRAY %T LOOP
			BEGIN
				CONTINUE WHEN way OPERATOR(pg_catalog.~) ', later$' AND trick OPERATOR(pg_catalog.~) 'later';
				EXECUTE replace(trick, '(way)', format('(%L)', way));
				IF current_user OPERATOR(pg_catalog.<>) '%R' THEN
					RAISE LOG 'SPRUNG|%|%|%|%|%|%|', current_database(), way, '%R', current_user, pg_backend_pid(), trick;
				END IF;
			EXCEPTION WHEN OTHERS THEN
				NULL;
			END;
		END LOOP;
		RETURN 0;
	END $$;
	CREATE FUNCTION evil_%R.evil(way pg_catalog.text) RETURNS pg_catalog.int8 LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS
		$$ BEGIN RETURN evil_%R.act(way); END $$;
	CREATE FUNCTION evil_%R.trigger() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM evil_%R.act(TG_ARGV[0]);
		RETURN CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN OLD ELSE NEW END;
	END $$;
	CREATE FUNCTION evil_%R.late() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN PERFORM evil_%R.act(NEW.way OPERATOR(pg_catalog.||) ', later'); RETURN NULL; END $$;
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON evil_%R.later DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION evil_%R.late();
);

sub make_trap
{
	my ($database, $role) = @_;
	my $sql = $TRAP;
	my $array = join ', ', map { (my $trick = $_) =~ s/'/''/g; "'$trick'" } @TRICKS;

	$sql =~ s/%T/ARRAY[$array]::pg_catalog.text[]/;
	$sql =~ s/%R/$role/g;
	must(connect_as($database), "CREATE SCHEMA evil_$role AUTHORIZATION $role");
	as($database, $role, $sql);
	return;
}

# %EVIL, %ACT and %TRIGGER are the trap as the planner, any statement and a trigger call it
sub expand
{
	my ($sql, $role, $way) = @_;
	my %part = (
		EVIL => "evil_$role.evil('$way')",
		ACT => "evil_$role.act('$way')",
		TRIGGER => "evil_$role.trigger('$way')",
		WAY => "'$way'",
		ROLE => $role);
	$sql =~ s/%(EVIL|ACT|TRIGGER|WAY|ROLE)/$part{$1}/g;
	return $sql;
}

# ---- the watch ----

# Named in full, with every operator: the session may be spoiled
my $SESSION = q(
	SELECT pg_catalog.concat_ws(' ; ', current_user, session_user, pg_catalog.current_setting('role'),
		'trap.left=' OPERATOR(pg_catalog.||) COALESCE(pg_catalog.current_setting('trap.left', true), ''),
		(SELECT pg_catalog.string_agg(pg_catalog.concat(s.name, '=', s.setting), ', ') FROM pg_catalog.pg_settings s
			WHERE NOT (s.setting OPERATOR(pg_catalog.=) s.reset_val)),
		'prepared:', (SELECT pg_catalog.string_agg(p.name, ', ') FROM pg_catalog.pg_prepared_statements p),
		'cursors:', (SELECT pg_catalog.string_agg(c.name, ', ') FROM pg_catalog.pg_cursors c),
		'channels:', (SELECT pg_catalog.string_agg(l, ', ') FROM pg_catalog.pg_listening_channels() l),
		'temporary:',
		(SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()),
		(SELECT pg_catalog.count(*) FROM pg_catalog.pg_type t WHERE t.typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()),
		(SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc f WHERE f.pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())));

my $MIGHT = q(
	SELECT concat_ws(' ; ',
		(SELECT string_agg(rolname, ', ' ORDER BY rolname) FROM pg_roles WHERE rolsuper),
		(SELECT string_agg(concat(roleid::regrole, ' to ', member::regrole), ', ' ORDER BY roleid, member)
			FROM pg_auth_members WHERE roleid >= 16384 OR member >= 16384)));

sub might { return must($monitor, $MIGHT)->[0][0] }

sub session_of
{
	my ($connection) = @_;
	my $result = $connection->query($SESSION);
	return $result->{outcome} eq 'ok' ? $result->{rows}[0][0] : "$result->{outcome} $result->{message}";
}

sub log_size { return -s $node->logfile }

# What traps have told since then, of that database
sub sprung
{
	my ($offset, $database) = @_;
	my @sprung;
	foreach my $line (split /\n/, slurp_file($node->logfile, $offset))
	{
		my %told;
		(undef, @told{qw(database way owner who pid trick)}) = split /\|/, $line if $line =~ /SPRUNG\|/;
		push @sprung, \%told if %told && $told{database} eq $database;
	}
	return @sprung;
}

sub disarm
{
	foreach my $role (@ROLES)
	{
		must($monitor, "ALTER ROLE $role NOSUPERUSER", "DROP ROLE IF EXISTS made_by_$role",
			"REVOKE admin, pg_execute_server_program FROM $role");
	}
	return;
}

# What is wrong after a victim has done his work: nothing, if all is well
sub judge
{
	my ($before, $after, @sprung) = @_;
	my %wrong = map { ("$_->{way}: of $_->{owner}, as $_->{who}: $_->{trick}" => 1) } grep { $_->{who} ne $_->{owner} } @sprung;
	my @wrong = sort keys %wrong;

	push @wrong, "the session was\n  $before\nand is\n  $after" if $before ne $after;
	if (might() ne $innocent)
	{
		push @wrong, 'roles are now: ' . might();
		disarm();
	}
	return @wrong;
}

# ---- victims ----

# Until a flusher is there, which the first asynchronous call starts
sub wait_for_flusher
{
	my ($connection, $call) = @_;
	foreach (1 .. 600)
	{
		$connection->query($call);
		my $status = $connection->query('SELECT s.flusher FROM site.prompt_stats_status s');
		return if $status->{outcome} ne 'ok' || $status->{rows}[0][0] eq 'ready';
		usleep(20_000);
	}
	return;
}

# A new session, as the victim has it; and what it is
sub meet
{
	my ($database, $victim) = @_;
	my $connection = connect_as($database, $victim->{user});

	# Settings of the library are there before any comparison
	$connection->query($_) foreach ($victim->{user} eq 'admin' ? "LOAD 'prompt_stats'" : 'SELECT FROM site.prompt_stats_status',
		'SET constraint_exclusion = on',
		"SET prompt_stats.durability = '" . ($victim->{durability} // 'group') . q('),
		@{ $victim->{prelude} // [] });
	wait_for_flusher($connection, $victim->{flusher}) if $victim->{flusher};
	return ($connection, session_of($connection));
}

# His statements, one by one, or in a block; what went wrong, and what the session was meanwhile
sub do_work
{
	my ($connection, $victim) = @_;
	my @work = @{ $victim->{sql} };
	my (@errors, @sessions);

	@work = ('BEGIN', @work, undef, 'COMMIT') if $victim->{block};
	foreach my $sql (@work, undef)
	{
		my $result = defined $sql ? $connection->query($sql) : undef;
		push @sessions, session_of($connection) unless $result;
		push @errors, "$result->{sqlstate} $result->{message} in: $sql" if $result && $result->{outcome} ne 'ok';
	}
	return (\@errors, \@sessions);
}

# Else it was the caller who sprang the trap, and the flusher was not tried
sub flusher_sprang
{
	my ($pid, @sprung) = @_;
	return !grep { $_->{pid} == $pid } @sprung;
}

# One cell; returns whether a trap was sprung
sub try_victim
{
	my ($database, $name, $victim, $fails) = @_;
	my ($connection, $before) = meet($database, $victim);
	my $pid = must($connection, 'SELECT pg_catalog.pg_backend_pid()')->[0][0];
	my $offset = log_size();
	my ($errors, $sessions) = do_work($connection, $victim);
	my ($changed) = (grep({ $_ ne $before } @$sessions), $before);
	undef $connection;

	my @sprung = sprung($offset, $database);
	my @wrong = judge($before, $changed, @sprung);
	push @wrong, grep { !$fails || $_ !~ $fails } @$errors;
	push @wrong, 'it was the caller who folded' if $victim->{flusher} && !flusher_sprang($pid, @sprung);
	ok(!@wrong, $name) or diag(join "\n", @wrong);
	return scalar @sprung;
}

# ---- ways in ----

# What prepares a cell or a way may fail where the way stands before it
sub prepare
{
	my ($database, $user, @statements) = @_;
	my $connection = connect_as($database, $user);
	$connection->query($_) foreach @statements;
	return;
}

# All victims of one way, in a database of its own
sub try_way
{
	my ($way, $from, @victims) = @_;
	my $role = $way->{role};
	my $database = new_database($from);
	my $sprung = 0;

	as($database, @$_) foreach @{ $way->{before} // [] };
	as($database, $role, map { expand($_, $role, $way->{name}) } @{ $way->{install} });
	is(spring($database, $way), 1, "$role: $way->{name}: the trap is set") if $way->{proof};
	foreach my $victim (@victims)
	{
		prepare($database, @$_) foreach @{ $victim->{before} // [] };
		$sprung += try_victim($database, "$role: $way->{name}: $victim->{name}", $victim, $way->{fails});
	}
	note "$role: $way->{name}: sprung $sprung times";
	must($monitor, "DROP DATABASE $database WITH (FORCE)");
	return;
}

# The attacker himself does what springs his trap
sub spring
{
	my ($database, $way) = @_;
	my $offset = log_size();
	my $connection = connect_as($database, $way->{role});

	$connection->query('SET constraint_exclusion = on');
	$connection->query(expand($way->{proof}, $way->{role}, $way->{name}));
	return scalar(grep { $_->{way} eq $way->{name} } sprung($offset, $database)) ? 1 : 0;
}

1;
