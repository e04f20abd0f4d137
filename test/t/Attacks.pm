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
#
# With ATTACKS=PATTERN in the environment only the ways are tried whose role and name match.

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
our $CHECK = 'prompt_events_event_type_check';

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
	'SELECT pg_catalog.set_config(\'role\', \'admin\', false)',
	'SET session_replication_role = replica',
	'SET row_security = off',
	'SET work_mem = \'77MB\'',
	'SET LOCAL TimeZone = \'Antarctica/Troll\'',
	'SET prompt_stats.durability = async',
	'SELECT pg_catalog.set_config(\'trap.left\', \'behind\', false)',
	'PREPARE evil_left AS SELECT 1',
	'DECLARE evil_open CURSOR FOR SELECT 1',
	'DECLARE evil_held CURSOR WITH HOLD FOR SELECT 1',
	'LISTEN evil_left',
	'CREATE DOMAIN pg_temp.uuid AS pg_catalog.text CHECK (evil_%R.evil(\'temporary domain\') IS NOT NULL)',
	'CREATE DOMAIN pg_temp.int8 AS pg_catalog.text CHECK (evil_%R.evil(\'temporary domain\') IS NOT NULL)',
	'CREATE DOMAIN evil_%R.text AS pg_catalog.text CHECK (evil_%R.evil(\'domain moved\') IS NOT NULL)',
	'ALTER DOMAIN evil_%R.text SET SCHEMA pg_temp',
	'CREATE TEMPORARY TABLE prompt_stats (prompt_id bigint)',
	'CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE sql AS \'SELECT NULL::timestamptz FROM evil_%R.evil(\'\'temporary function\'\')\'',
	'SET CONSTRAINTS ALL DEFERRED',
	'FETCH ALL FROM victims_held',
	'MOVE ALL FROM victims',
	'CLOSE victims_held',
	'DEALLOCATE victims',
	'UNLISTEN victims',
	'DROP TABLE victims',
	'DISCARD ALL',
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
		RAISE LOG 'SPRUNG|%|%|%|%|%|%|', pg_catalog.current_database(), way, '%R', current_user, pg_catalog.pg_backend_pid(), 'runs';
		FOREACH trick IN ARRAY %T LOOP
			BEGIN
				CONTINUE WHEN way OPERATOR(pg_catalog.~) ', later$' AND trick OPERATOR(pg_catalog.~) 'later';
				EXECUTE pg_catalog.replace(trick, '(way)', pg_catalog.format('(%L)', way));
				IF current_user OPERATOR(pg_catalog.<>) '%R' OR trick OPERATOR(pg_catalog.~) 'victims' THEN
					RAISE LOG 'SPRUNG|%|%|%|%|%|%|', pg_catalog.current_database(), way, '%R', current_user, pg_catalog.pg_backend_pid(), trick;
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
	my ($before, $after, $may, @sprung) = @_;
	my (%tricks, @wrong);

	foreach my $sprung (grep { ($_->{who} ne $_->{owner} && $_->{who} ne $may) || $_->{trick} =~ /victims/ } @sprung)
	{
		$tricks{"$sprung->{way}: of $sprung->{owner}, as $sprung->{who}: "}{ $sprung->{trick} } = 1;
	}
	push @wrong, map { $_ . join('; ', sort keys %{ $tricks{$_} }) } sort keys %tricks;
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
	my ($connection, $victim) = @_;
	foreach (1 .. 600)
	{
		$connection->query($victim->{flusher});
		my $status = $connection->query("SELECT s.flusher FROM $victim->{status} s");
		return if $status->{outcome} ne 'ok' || $status->{rows}[0][0] eq 'ready';
		usleep(20_000);
	}
	return;
}

# What a victim has in his session, and must find there afterwards
my @BELONGINGS = (
	'PREPARE victims AS SELECT 1',
	'DECLARE victims_held CURSOR WITH HOLD FOR SELECT 1',
	'LISTEN victims',
	'CREATE TEMPORARY TABLE victims ()',
	'SET constraint_exclusion = on');

# A new session, as the victim has it; and what it is
sub meet
{
	my ($database, $victim) = @_;
	my $connection = connect_as($database, $victim->{user});

	# Settings of the library are there before any comparison
	$connection->query($_) foreach ($victim->{user} eq 'admin' ? "LOAD 'prompt_stats'" : "SELECT FROM $victim->{status}",
		"SET prompt_stats.durability = '" . ($victim->{durability} // 'group') . q('),
		@BELONGINGS, @{ $victim->{prelude} // [] });
	wait_for_flusher($connection, $victim) if $victim->{flusher};
	return ($connection, session_of($connection));
}

# His statements, one by one, or in a block; what went wrong, and what the session was meanwhile
sub do_work
{
	my ($connection, $victim) = @_;
	my @work = @{ $victim->{sql} };
	my (@errors, @sessions);

	@work = ('BEGIN', 'DECLARE victims CURSOR FOR SELECT 1', @work, 'CLOSE victims', undef, 'COMMIT') if $victim->{block};
	foreach my $sql (@work, undef)
	{
		my $result = defined $sql ? $connection->query($sql) : undef;
		push @sessions, session_of($connection) unless $result;
		next if !$result || $result->{outcome} eq 'ok';
		push @errors, "$result->{sqlstate} $result->{message} in: $sql";
		last if !$victim->{block};
		$connection->query('ROLLBACK');
		push @sessions, session_of($connection);
		last;
	}
	return (\@errors, \@sessions);
}

# Else it was the caller who sprang the trap, and the flusher was not tried
sub flusher_sprang
{
	my ($pid, @sprung) = @_;
	return !grep { $_->{pid} == $pid } @sprung;
}

# One cell; returns how often traps were sprung
sub try_victim
{
	my ($database, $name, $victim, %way) = @_;
	my ($connection, $before) = meet($database, $victim);
	my $pid = must($connection, 'SELECT pg_catalog.pg_backend_pid()')->[0][0];
	my $offset = log_size();
	my ($errors, $sessions) = do_work($connection, $victim);
	my ($changed) = (grep({ $_ ne $before } @$sessions), $before);
	undef $connection;

	my @sprung = sprung($offset, $database);
	# What belongs to him is in his session only
	my @wrong = judge($before, $changed, $way{may} // '', grep { $_->{pid} == $pid || $_->{trick} !~ /victims/ } @sprung);
	my $fails = $victim->{refused} // $way{fails};
	push @wrong, grep { !$fails || $_ !~ $fails } @$errors;
	push @wrong, "it was not refused" if $victim->{refused} && !@$errors;
	push @wrong, 'it was the caller who folded' if $victim->{flusher} && !flusher_sprang($pid, @sprung);
	ok(!@wrong, $name) or diag(join "\n", @wrong);
	return scalar @sprung;
}

# ---- names that fit ----

# Of all that stands in pg_catalog, a twin with the same name and arguments: for who has a search_path in which it comes first
my $TWINS = q(
	CREATE SCHEMA twins_%R AUTHORIZATION %R;
	GRANT USAGE ON SCHEMA twins_%R TO PUBLIC;
	SET ROLE %R;
	DO $do$
	DECLARE
		f record;
	BEGIN
		FOR f IN
			SELECT p.proname, p.oid::regprocedure::text AS full_name, oidvectortypes(p.proargtypes) AS args, format_type(p.prorettype, NULL) AS result,
				(SELECT string_agg('$' || i, ', ' ORDER BY i) FROM generate_series(1, p.pronargs) i) AS params
			FROM pg_proc p
			WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset AND p.provariadic = 0 AND p.pronargs <= 4
			AND p.proname !~ '(_in|_out|_recv|_send|typmodin|typmodout)$'
			AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = ANY (p.proargtypes::oid[] || p.prorettype) AND t.typtype = 'p' AND t.typname !~ '^any(element|array|compatible|compatiblearray)$')
			AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = p.prorettype AND t.typtype = 'p')
		LOOP
			EXECUTE format($f$CREATE FUNCTION twins_%R.%I(%s) RETURNS %s LANGUAGE plpgsql AS
				$$ BEGIN PERFORM evil_%R.act(%L); RETURN pg_catalog.%I(%s); END $$$f$,
				f.proname, f.args, f.result, 'twin of ' || f.full_name, f.proname, f.params);
		END LOOP;
		FOR f IN
			SELECT o.oprname, o.oid, o.oid::regoperator::text AS full_name, format_type(NULLIF(o.oprleft, 0), NULL) AS l,
				format_type(o.oprright, NULL) AS r, format_type(o.oprresult, NULL) AS result, o.oprleft = 0 AS prefix
			FROM pg_operator o
			WHERE o.oprnamespace = 'pg_catalog'::regnamespace
			AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid IN (o.oprleft, o.oprright, o.oprresult) AND t.typtype = 'p' AND t.typname <> 'anyarray')
			AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = o.oprresult AND t.typtype = 'p')
		LOOP
			EXECUTE format($f$CREATE FUNCTION twins_%R.op_%s(%s) RETURNS %s LANGUAGE plpgsql AS
				$$ BEGIN PERFORM evil_%R.act(%L); RETURN %s; END $$$f$,
				f.oid, CASE WHEN f.prefix THEN f.r ELSE format('%s, %s', f.l, f.r) END, f.result, 'twin of ' || f.full_name,
				CASE WHEN f.prefix THEN format('OPERATOR(pg_catalog.%s) $1', f.oprname) ELSE format('$1 OPERATOR(pg_catalog.%s) $2', f.oprname) END);
			EXECUTE format('CREATE OPERATOR twins_%R.%s (FUNCTION = twins_%R.op_%s, %s RIGHTARG = %s)',
				f.oprname, f.oid, CASE WHEN NOT f.prefix THEN format('LEFTARG = %s,', f.l) END, f.r);
		END LOOP;
		FOR f IN SELECT relname, (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute a
				WHERE a.attrelid = c.oid AND attnum > 0 AND atttypid <> 'anyarray'::regtype) AS columns FROM pg_class c WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')
			AND relname IN ('pg_class', 'pg_attribute', 'pg_constraint', 'pg_index', 'pg_namespace', 'pg_proc', 'pg_extension', 'pg_depend', 'pg_type',
				'pg_roles', 'pg_policy', 'pg_settings', 'pg_database', 'pg_trigger', 'pg_default_acl')
		LOOP
			EXECUTE format('CREATE VIEW twins_%R.%I AS SELECT %s FROM pg_catalog.%I WHERE evil_%R.act(%L) = 0', f.relname, f.columns, f.relname, 'twin of ' || f.relname);
			EXECUTE format('GRANT SELECT ON twins_%R.%I TO PUBLIC', f.relname);
		END LOOP;
		FOR f IN SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace
			AND typname IN ('text', 'int8', 'int4', 'bool', 'uuid', 'name', 'regclass', 'regnamespace', 'regrole', 'oid', 'tid', 'timestamptz', 'numeric', 'jsonb')
		LOOP
			EXECUTE format('CREATE DOMAIN twins_%R.%I AS pg_catalog.%I CHECK (evil_%R.act(%L) = 0)', f.typname, f.typname, 'twin of type ' || f.typname);
		END LOOP;
	END $do$;
	CREATE FUNCTION twins_%R.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE plpgsql AS
		$$ BEGIN PERFORM evil_%R.act('twin of unnest'); RETURN QUERY SELECT pg_catalog.unnest($1); END $$;
	CREATE FUNCTION twins_%R.count_step(pg_catalog.int8) RETURNS pg_catalog.int8 LANGUAGE plpgsql AS
		$$ BEGIN PERFORM evil_%R.act('twin of count'); RETURN $1 OPERATOR(pg_catalog.+) 1; END $$;
	CREATE AGGREGATE twins_%R.count(*) (SFUNC = twins_%R.count_step, STYPE = pg_catalog.int8, INITCOND = '0');
	CREATE FUNCTION twins_%R.sum_step(pg_catalog.int8, pg_catalog.int8) RETURNS pg_catalog.int8 LANGUAGE plpgsql AS
		$$ BEGIN PERFORM evil_%R.act('twin of an aggregate'); RETURN $1; END $$;
	CREATE AGGREGATE twins_%R.sum(pg_catalog.int8) (SFUNC = twins_%R.sum_step, STYPE = pg_catalog.int8);
	CREATE AGGREGATE twins_%R.max(pg_catalog.int8) (SFUNC = twins_%R.sum_step, STYPE = pg_catalog.int8);
	CREATE FUNCTION twins_%R.text_step(pg_catalog.text, pg_catalog.text, pg_catalog.text) RETURNS pg_catalog.text LANGUAGE plpgsql AS
		$$ BEGIN PERFORM evil_%R.act('twin of string_agg'); RETURN $1; END $$;
	CREATE AGGREGATE twins_%R.string_agg(pg_catalog.text, pg_catalog.text) (SFUNC = twins_%R.text_step, STYPE = pg_catalog.text);
);

# Functions and operators whose arguments fit better than pg_catalog's, where these want a conversion: for who may create in a schema
my $BETTER_FITS = q(
	DO $do$
	DECLARE
		types text[] := '{regclass,regnamespace,regrole,regtype,oid,name,text,varchar,"\"char\"",int2,int4,int8,uuid,tid,"text[]","name[]"}';
		l text;
		r text;
		f text;
		n int := 0;
	BEGIN
		FOREACH l IN ARRAY types LOOP
			FOREACH r IN ARRAY types LOOP
				EXECUTE format($f$CREATE FUNCTION %S.fit_%s(%s, %s) RETURNS boolean LANGUAGE plpgsql AS
					$$ BEGIN PERFORM evil_%R.act(%L); RETURN true; END $$$f$, n, l, r, format('operator of %s and %s', l, r));
				FOR f IN SELECT unnest('{=,<>,<,<=,>,>=,~,!~,||,+,-}'::text[]) LOOP
					CONTINUE WHEN to_regoperator(format('pg_catalog.%s(%s,%s)', f, l, r)) IS NOT NULL;
					EXECUTE format('CREATE OPERATOR %S.%s (FUNCTION = %S.fit_%s, LEFTARG = %s, RIGHTARG = %s)', f, n, l, r);
				END LOOP;
				n := n + 1;
			END LOOP;
			FOR f IN SELECT unnest('{format,quote_ident,quote_literal,to_regclass,to_regnamespace,current_setting,length,replace,split_part,unnest,now,
				clock_timestamp,gen_random_uuid,current_schema,pg_get_expr,pg_relation_size,has_table_privilege,pg_has_role,format_type,regexp_replace,concat,
				string_agg,array_agg,count,sum,max,bool_and,coalesce_,round,substr,set_config,lower,upper}'::text[]) LOOP
				IF to_regprocedure(format('pg_catalog.%I(%s)', f, l)) IS NULL THEN
					EXECUTE format($f$CREATE FUNCTION %S.%I(%s) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN evil_%R.act(%L); END $$$f$, f, l, f);
				END IF;
				IF to_regprocedure(format('pg_catalog.%I(text, %s)', f, l)) IS NULL AND NOT (l = 'text[]' AND f IN ('format', 'concat')) THEN
					EXECUTE format($f$CREATE FUNCTION %S.%I(text, %s) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN evil_%R.act(%L); END $$$f$, f, l, f);
				END IF;
			END LOOP;
		END LOOP;
		FOR f IN SELECT unnest('{format,concat}'::text[]) LOOP
			EXECUTE format($f$CREATE FUNCTION %S.%I(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN evil_%R.act(%L); END $$$f$, f, f);
		END LOOP;
		FOR f IN SELECT unnest('{uuid,int8,text,name,regclass,bool,oid,tid,timestamptz}'::text[]) LOOP
			EXECUTE format('CREATE DOMAIN %S.%I AS pg_catalog.%I CHECK (evil_%R.act(%L) = 0)', f, f, 'type ' || f);
		END LOOP;
	END $do$;
);

sub fill_in { my ($sql, $role, $schema) = @_; $sql =~ s/%R/$role/g; $sql =~ s/%S/$schema/g; return $sql }

sub make_twins
{
	my ($database, $role) = @_;
	as($database, 'admin', fill_in($TWINS, $role, ''));
	return;
}

sub better_fits { my ($role, $schema) = @_; return fill_in($BETTER_FITS, $role, $schema) }

# ---- an application, with the extension ----

my $LEGACY = qq(
	ALTER TABLE site.prompt_events DROP CONSTRAINT IF EXISTS $CHECK;
	INSERT INTO site.prompt_events (prompt_id, user_id, event_type) VALUES
		(1, 1, 'view'), (1, 2, 'view'), (2, 1, 'view'), (70, 1, 'copy'), (71, 1, 'view'), (8, 1, 'fork'), (9, 1, 'fork'));

sub make_template
{
	my ($name, $events_owner) = @_;
	as('postgres', 'admin', "CREATE DATABASE $name");
	as($name, 'admin', q(
		CREATE SCHEMA site AUTHORIZATION shop;
		GRANT USAGE ON SCHEMA site TO PUBLIC;
		GRANT CREATE ON SCHEMA site TO press, clerk, neighbour;
		CREATE TABLE public.own (i integer);
		GRANT INSERT ON public.own TO PUBLIC;
		CREATE TABLE site.prompts (id bigint PRIMARY KEY, title text, weight bigint DEFAULT 0);
		INSERT INTO site.prompts SELECT generate_series(1, 100);
		ALTER TABLE site.prompts OWNER TO press;
		GRANT SELECT, REFERENCES ON site.prompts TO shop, clerk;
	));
	make_trap($name, $_) foreach @ROLES;
	as($name, 'shop', q(
		CREATE TABLE site.prompt_stats (prompt_id bigint PRIMARY KEY REFERENCES site.prompts ON DELETE CASCADE,
			view_count bigint NOT NULL DEFAULT 0, copy_count bigint NOT NULL DEFAULT 0, fork_count bigint NOT NULL DEFAULT 0,
			UNIQUE (prompt_id, view_count));
		INSERT INTO site.prompt_stats SELECT generate_series(1, 50);
		GRANT SELECT, REFERENCES ON site.prompt_stats TO child));
	as($name, $events_owner, q(
		CREATE TABLE site.prompt_events (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), prompt_id bigint NOT NULL REFERENCES site.prompts,
			user_id bigint, event_type text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
		GRANT SELECT, REFERENCES ON site.prompt_events TO child));
	as($name, 'admin', create_extension($events_owner));
	return;
}

# A table of somebody else's is not adopted unasked
sub create_extension
{
	my ($events_owner) = @_;
	return 'CREATE EXTENSION prompt_stats SCHEMA site' if $events_owner eq 'shop';
	return ('SET prompt_stats.skip_setup = on', 'CREATE EXTENSION prompt_stats SCHEMA site', 'RESET prompt_stats.skip_setup',
		q(SELECT site.prompt_stats_setup('site.prompt_events', 'site.prompt_stats')));
}

# ---- what victims do ----

# "on": tables whose code the work can run
sub counting
{
	my ($name, $on, @rest) = @_;
	return { name => $name, on => $on, user => 'admin', @rest };
}

my @COUNTING = (
	counting('a superuser counts one, in a group', 'stats', sql => ['SELECT site.increment_prompt_views(1::bigint)']),
	counting('a superuser counts one at once', 'stats', durability => 'transaction', sql => ['SELECT site.increment_prompt_views(1::bigint)']),
	counting('a superuser counts a list, in a group', 'stats', sql => ['SELECT site.increment_prompt_views(ARRAY[2, 3]::bigint[])']),
	counting('a superuser counts a list at once', 'stats', durability => 'transaction',
		sql => ['SELECT site.increment_prompt_views(ARRAY[2, 3]::bigint[])']),
	counting('a superuser counts new prompts, in a group', 'stats prompts',
		sql => ['SELECT site.increment_prompt_views(51::bigint)', 'SELECT site.increment_prompt_views(ARRAY[4, 52]::bigint[])']),
	counting('a superuser counts new prompts at once', 'stats prompts', durability => 'transaction',
		sql => ['SELECT site.increment_prompt_views(53::bigint)', 'SELECT site.increment_prompt_views(ARRAY[5, 54]::bigint[])']),
	counting('a superuser counts in a block that writes', 'stats prompts', block => 1,
		sql => ['INSERT INTO public.own VALUES (1)', 'SELECT site.increment_prompt_views(ARRAY[6, 55]::bigint[])']),
	counting('a superuser counts at once in a block', 'stats prompts', block => 1, durability => 'transaction',
		sql => ['SELECT site.increment_prompt_views(ARRAY[6, 56]::bigint[])', 'SELECT site.increment_prompt_copies(6::bigint)']),
	counting('another user counts', 'stats prompts', user => 'bob',
		sql => ['SELECT site.increment_prompt_views(7::bigint)', 'SELECT site.increment_prompt_views(ARRAY[8, 57]::bigint[])']),
	counting('another user counts at once', 'stats prompts', user => 'bob', durability => 'transaction',
		sql => ['SELECT site.increment_prompt_views(7::bigint)', 'SELECT site.increment_prompt_views(ARRAY[8, 58]::bigint[])']),
	counting('the flusher', 'stats prompts', user => 'bob', durability => 'async', flusher => 'SELECT site.increment_prompt_views(9::bigint)',
		sql => ['SELECT site.increment_prompt_views(ARRAY[9, 59]::bigint[])', 'SELECT site.prompt_stats_flush()']),
	counting('a superuser logs and counts a fork', 'stats', sql => ['SELECT site.track_prompt_fork(10::bigint, 1::bigint)']),
);

sub administering
{
	my ($name, $on, @sql) = @_;
	return { name => $name, on => $on, user => 'admin', sql => \@sql };
}
sub legacy { my ($victim) = @_; return { %$victim, legacy => 1 } }
# What the traps would make wrong, and what they keep out
my $ACCEPT = q(accept => '{delete trigger,delete rule,referenced events}');
my $COMPAT = q(SELECT site.prompt_stats_enable_compat(accept => '{unique events}'));

sub by_staff { my ($victim) = @_; return { %$victim, user => 'staff', name => "$victim->{name}, by a member of both owners" } }

my @ADMINISTERING = (
	administering('prompt_stats_setup()', 'stats events prompts', 'SELECT site.prompt_stats_setup()'),
	administering('prompt_stats_setup(touch => false)', 'stats events prompts', 'SELECT site.prompt_stats_setup(touch => false)'),
	legacy(administering('prompt_stats_preflight()', 'stats events prompts', 'SELECT pg_catalog.count(*) FROM site.prompt_stats_preflight()')),
	legacy(by_staff(administering('prompt_stats_preflight()', 'stats events prompts', 'SELECT pg_catalog.count(*) FROM site.prompt_stats_preflight()'))),
	legacy(administering('dry run', 'stats events prompts', 'CALL site.prompt_stats_migrate(dry_run => true)')),
	administering('a batch', 'stats events prompts', "SELECT site.prompt_stats_migrate_batch(2, $ACCEPT)"),
	by_staff(administering('a batch', 'stats events prompts', "SELECT site.prompt_stats_migrate_batch(2, $ACCEPT)")),
	administering('prompt_stats_migrate()', 'stats events prompts', "CALL site.prompt_stats_migrate(2, $ACCEPT)"),
	legacy(administering('a batch that keeps the counters', 'stats events prompts', "SELECT site.prompt_stats_migrate_batch(2, 'keep', $ACCEPT)")),
	legacy(by_staff(administering('prompt_stats_migrate() that keeps them', 'stats events prompts', "CALL site.prompt_stats_migrate(2, mode => 'keep', $ACCEPT)"))),
	administering('prompt_stats_migrate_finish()', 'stats events prompts', 'SELECT site.prompt_stats_migrate_finish()'),
	administering('prompt_stats_verify()', 'stats events prompts', 'SELECT pg_catalog.count(*) FROM site.prompt_stats_verify()'),
	by_staff(administering('prompt_stats_verify()', 'stats events prompts', 'SELECT pg_catalog.count(*) FROM site.prompt_stats_verify()')),
	legacy(administering('prompt_stats_recount_forks()', 'stats events prompts', 'SELECT site.prompt_stats_recount_forks()')),
	administering('prompt_stats_recount_forks(lower => true)', 'stats events prompts', 'SELECT site.prompt_stats_recount_forks(lower => true)'),
	administering('the trigger for legacy inserts', 'events', $COMPAT, 'SELECT site.prompt_stats_teardown()'),
	administering('a legacy insert', 'stats prompts', $COMPAT,
		q(INSERT INTO site.prompt_events (prompt_id, event_type) VALUES (11, 'view'), (60, 'view')), 'SELECT site.prompt_stats_teardown()'),
);

# Those whose work touches that table
sub victims_of
{
	my ($on, $events_owner) = @_;
	my @victims = grep { $_->{on} =~ /\b$on\b/ } @COUNTING, @ADMINISTERING,
	  legacy({ %{ administering('CREATE EXTENSION', 'stats events prompts', 'DROP EXTENSION prompt_stats', create_extension($events_owner)) },
		before => [ [ 'admin', 'SELECT site.prompt_stats_teardown()' ] ] });
	return map { +{ status => 'site.prompt_stats_status', %$_, before => [ $_->{legacy} ? [ $events_owner, $LEGACY ] : (), @{ $_->{before} // [] } ] } } @victims;
}

# The same in another schema
sub elsewhere
{
	my ($schema, @victims) = @_;
	my $move;
	$move = sub {
		my ($value) = @_;
		return [ map { $move->($_) } @$value ] if ref $value eq 'ARRAY';
		return ref $value ? $value : $value =~ s/\bsite\b/$schema/gr;
	};
	return map { my $victim = $_; +{ map { $_ => $move->($victim->{$_}) } keys %$victim } } @victims;
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
	return if $ENV{ATTACKS} && "$role: $way->{name}" !~ /$ENV{ATTACKS}/;
	my $database = new_database($from, $way->{database_owner});
	my $sprung = 0;

	as($database, @$_) foreach @{ $way->{before} // [] };
	as($database, $role, map { expand($_, $role, $way->{name}) } @{ $way->{install} });
	is(spring($database, $way), 1, "$role: $way->{name}: the trap is set") if $way->{proof};
	foreach my $victim (@victims)
	{
		prepare($database, @$_) foreach @{ $victim->{before} // [] };
		$sprung += try_victim($database, "$role: $way->{name}: $victim->{name}", $victim, %$way);
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
	return scalar(grep { $way->{any_way} || $_->{way} eq $way->{name} } sprung($offset, $database)) ? 1 : 0;
}

1;
