# Attacks, and that they fail, by those who own what the extension works on: the tables of
# counters and events, the prompts, tables that reference the counters [9][18a].
#
# The rule: a statement that names a table is planned and run only as its owner, in a
# security-restricted operation and with settings of its own; nothing that the owner's code
# leaves behind changes the caller's session.  How a cell tells: Attacks.pm.
#
# Not tried, because it can't be:
#
#   way in                   victim              why
#   operator classes         all                 only a superuser makes one (opclasscmds.c: DefineOpClass)
#   event triggers           all                 only a superuser makes one (event_trigger.c: CreateEventTrigger)
#   row filters of           all                 may call built-in immutable functions only (publicationcmds.c:
#   publications                                 check_simple_rowfilter_expr)
#   languages, transforms,   all                 need a superuser, or functions in C
#   conversions, base types
#   casts from or to         all                 one needs to own one of the two types; types of one's own are no
#   uuid, bigint, text                           ids and no counters, and a domain's casts are ignored (functioncmds.c:
#                                                CreateCast); "type of updated_at" below has one of his own
#   tables of one's own      other sessions      a temporary object is its session's only; 062_attacks_caller.pl has
#   in pg_temp                                   the caller's own
#
# or says nothing about us:
#
#   anything                 readers             get_prompt_stats() and prompt_stats_live read with the rights of the
#                                                reader, as his own SELECT would; so do policies that are not forced
#   anything on events       track_...           the INSERT is the caller's own, as if he had written it
#   anything on events       legacy INSERT       the same
#   anything on events       counting            counting does not touch that table
#   deferred triggers        all                 the trap queues one itself, in each cell
#   SET, PREPARE, LISTEN,    all                 the trap does so itself, in each cell
#   cursors, pg_temp, ROLE
#
# Most ways were seen to break the first version, with one victim at least.  These never did:
#
#   view in its place        the kind of a relation was always looked at first
#   rule on insert           the server refuses ON CONFLICT there before it runs anything
#   check of a domain of     is evaluated where prompts are written, which nobody does for us
#   the prompts
#   domain of the kinds      is evaluated at an INSERT only, which is the caller's own
#   a read-only transaction  triggers had a level of settings from the beginning
#   what is let through      the flusher let go of advisory locks from the beginning (worker.c)

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use Attacks;
use Test::More;

my $node = Attacks::start('owner');

Attacks::make_template('one_owner', 'shop');
Attacks::make_template('two_owners', 'clerk');

# ---- ways in: the table of counters ----

sub on_stats { my ($name, $proof, @install) = @_; return { on => 'stats', role => 'shop', name => $name, proof => $proof, install => \@install } }

my $READ = 'SELECT count(*) FROM site.prompt_stats WHERE copy_count >= 0';
my $WRITE = 'UPDATE site.prompt_stats SET view_count = view_count + 1 WHERE prompt_id = 1';
my $INSERT = 'INSERT INTO site.prompt_stats (prompt_id) VALUES (99)';
sub trigger { my ($name, $when, $each) = @_; return on_stats($name, $WRITE, "CREATE TRIGGER t $when ON site.prompt_stats $each EXECUTE FUNCTION %TRIGGER") }
sub constraint_trigger
{
	my ($name, $when) = @_;
	return on_stats($name, $WRITE, "CREATE CONSTRAINT TRIGGER t AFTER INSERT OR UPDATE ON site.prompt_stats $when FOR EACH ROW EXECUTE FUNCTION %TRIGGER");
}

my @ON_STATS = (
	on_stats('statistics of an expression', $READ, 'CREATE STATISTICS site.s ON ((view_count + %EVIL)), copy_count FROM site.prompt_stats'),
	on_stats('index of an expression', $READ, 'CREATE INDEX ON site.prompt_stats ((view_count + %EVIL))'),
	on_stats('partial index', $READ, 'CREATE INDEX ON site.prompt_stats (copy_count) WHERE copy_count + %EVIL < 0'),
	on_stats('check', $WRITE, 'ALTER TABLE site.prompt_stats ADD CHECK (view_count + %EVIL >= 0)'),
	on_stats('check of a new row', $INSERT, 'ALTER TABLE site.prompt_stats ADD CHECK (view_count >= %ACT) NOT VALID'),
	on_stats('exclusion constraint', $READ,
		'ALTER TABLE site.prompt_stats ADD EXCLUDE USING btree (prompt_id WITH =, (view_count + %EVIL) WITH =)'),
	on_stats('default', $INSERT, 'ALTER TABLE site.prompt_stats ADD note bigint DEFAULT %ACT'),
	on_stats('generated column', $WRITE, 'ALTER TABLE site.prompt_stats ADD doubled bigint GENERATED ALWAYS AS (view_count + %EVIL) STORED'),
	on_stats('check of a domain', $INSERT, 'CREATE DOMAIN site.d AS bigint DEFAULT 0 CHECK (VALUE >= %ACT)', 'ALTER TABLE site.prompt_stats ADD note site.d'),
	on_stats('default of a domain', $INSERT, 'CREATE DOMAIN site.d AS bigint DEFAULT %ACT', 'ALTER TABLE site.prompt_stats ADD note site.d'),
	on_stats('cast in a default', $INSERT, q(CREATE TYPE site.odd AS (i bigint)),
		q(CREATE FUNCTION site.to_odd(bigint) RETURNS site.odd LANGUAGE sql AS $$ SELECT ROW(%ACT)::site.odd $$),
		'CREATE CAST (bigint AS site.odd) WITH FUNCTION site.to_odd AS ASSIGNMENT',
		'ALTER TABLE site.prompt_stats ADD note site.odd DEFAULT (0::bigint)::site.odd'),
	# The server takes no ON CONFLICT where there are rules on INSERT or UPDATE (rewriteHandler.c)
	{ %{ on_stats('rule that also does something', $WRITE, 'CREATE TABLE evil_shop.seen (i bigint)',
		'CREATE RULE r AS ON UPDATE TO site.prompt_stats DO ALSO INSERT INTO evil_shop.seen VALUES (%ACT)') }, fails => qr/^0A000 |^55000 / },
	{ %{ on_stats('rule on insert', $INSERT, 'CREATE TABLE evil_shop.seen (i bigint)',
		'CREATE RULE r AS ON INSERT TO site.prompt_stats DO ALSO INSERT INTO evil_shop.seen VALUES (%ACT)') }, fails => qr/^0A000 |^55000 / },
	{ %{ on_stats('forced policy', $READ, 'ALTER TABLE site.prompt_stats ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
		'CREATE POLICY p ON site.prompt_stats USING (copy_count + %EVIL >= 0) WITH CHECK (copy_count + %EVIL >= 0)',
		# setup wants one that admits every row; the server asks the last name first (policy.c)
		'CREATE POLICY a ON site.prompt_stats USING (true) WITH CHECK (true)') },
		# the trap sets row_security off, which hurts its owner until the scope ends
		fails => qr/^42501 |^55000 / },
	trigger('trigger before a row', 'BEFORE INSERT OR UPDATE', 'FOR EACH ROW'),
	trigger('trigger after a row', 'AFTER INSERT OR UPDATE', 'FOR EACH ROW'),
	trigger('trigger before a statement', 'BEFORE INSERT OR UPDATE', 'FOR EACH STATEMENT'),
	trigger('trigger after a statement', 'AFTER UPDATE', 'REFERENCING NEW TABLE AS n FOR EACH STATEMENT'),
	trigger('trigger of a column', 'AFTER UPDATE OF view_count, copy_count, fork_count', 'FOR EACH ROW'),
	trigger('condition of a trigger', 'AFTER INSERT OR UPDATE', 'FOR EACH ROW WHEN (NEW.view_count + %EVIL >= 0)'),
	on_stats('trigger that fires always', $WRITE, 'CREATE TRIGGER t BEFORE UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION %TRIGGER',
		'ALTER TABLE site.prompt_stats ENABLE ALWAYS TRIGGER t'),
	constraint_trigger('constraint trigger', 'NOT DEFERRABLE'),
	constraint_trigger('deferrable constraint trigger', 'DEFERRABLE'),
	constraint_trigger('deferred constraint trigger', 'DEFERRABLE INITIALLY DEFERRED'),
	on_stats('trigger that counts', $WRITE, q(
		CREATE FUNCTION evil_shop.count() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NEW.prompt_id < 90 THEN
				SET prompt_stats.durability = transaction;
				PERFORM site.increment_prompt_views(90::bigint);
				SET prompt_stats.durability = async;
				PERFORM site.increment_prompt_views(91::bigint);
			ELSE
				PERFORM %ACT;
			END IF;
			RETURN NEW;
		END $$), 'CREATE TRIGGER t BEFORE INSERT OR UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION evil_shop.count()'),
	on_stats('trigger that migrates', $WRITE, q(
		CREATE FUNCTION evil_shop.migrate() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM %ACT;
			BEGIN
				PERFORM site.prompt_stats_migrate_batch(1);
				PERFORM site.prompt_stats_setup();
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
			RETURN NEW;
		END $$), 'CREATE TRIGGER t BEFORE UPDATE ON site.prompt_stats FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION evil_shop.migrate()',
		'CREATE STATISTICS site.s ON ((prompt_id + %EVIL)), created_at FROM site.prompt_events'),
	on_stats('foreign key to a table of his own', $INSERT, 'CREATE TABLE evil_shop.team (id bigint PRIMARY KEY, n bigint)',
		'INSERT INTO evil_shop.team VALUES (1)', 'CREATE STATISTICS evil_shop.s ON ((n + %EVIL)), id FROM evil_shop.team',
		'ALTER TABLE site.prompt_stats ADD team bigint DEFAULT 1 REFERENCES evil_shop.team'),
	on_stats('deferred foreign key to a table of his own', $INSERT, 'CREATE TABLE evil_shop.team (id bigint PRIMARY KEY, n bigint)',
		'INSERT INTO evil_shop.team VALUES (1)', 'CREATE INDEX ON evil_shop.team ((n + %EVIL))',
		'ALTER TABLE site.prompt_stats ADD team bigint DEFAULT 1 REFERENCES evil_shop.team DEFERRABLE INITIALLY DEFERRED'),
	# Not the type that the extension gave it: it is not written any more
	on_stats('type of updated_at', 'SELECT now()::site.odd', q(CREATE TYPE site.odd AS (i bigint)),
		q(CREATE FUNCTION site.to_odd(timestamptz) RETURNS site.odd LANGUAGE sql AS $$ SELECT ROW(%ACT)::site.odd $$),
		'CREATE CAST (timestamptz AS site.odd) WITH FUNCTION site.to_odd AS ASSIGNMENT',
		'ALTER TABLE site.prompt_stats ADD updated_at timestamptz',
		q(COMMENT ON COLUMN site.prompt_stats.updated_at IS 'time of the last count, set by extension prompt_stats'),
		'ALTER TABLE site.prompt_stats ALTER updated_at TYPE site.odd USING NULL'),
	{ %{ on_stats('view in its place', 'SELECT * FROM site.prompt_stats', 'ALTER TABLE site.prompt_stats RENAME TO kept',
		'CREATE VIEW site.prompt_stats AS SELECT prompt_id, view_count + %EVIL AS view_count, copy_count, fork_count FROM site.kept') },
		fails => qr/^42809 |^42P01 / },
);

# ---- ways in: the table of events ----

sub on_events { my ($name, $proof, @install) = @_; return { on => 'events', name => $name, proof => $proof, install => \@install } }

my $READ_EVENT = 'SELECT count(*) FROM site.prompt_events WHERE user_id >= 0';
my $EVENT = q(INSERT INTO site.prompt_events (prompt_id, user_id, event_type) VALUES (3, 1, 'fork'));
my $DELETE_EVENT = "$EVENT; DELETE FROM site.prompt_events";

my @ON_EVENTS = (
	on_events('statistics of an expression', $READ_EVENT, 'CREATE STATISTICS evil_%ROLE.s ON ((prompt_id + %EVIL)), user_id FROM site.prompt_events'),
	on_events('index of an expression', $READ_EVENT, 'CREATE INDEX ON site.prompt_events ((prompt_id + %EVIL))'),
	on_events('partial index', $READ_EVENT, 'CREATE INDEX ON site.prompt_events (user_id) WHERE user_id + %EVIL < 0'),
	on_events('check', $READ_EVENT, 'ALTER TABLE site.prompt_events ADD CHECK (user_id + %EVIL >= 0)'),
	on_events('check of the kinds', $READ_EVENT,
		qq(ALTER TABLE site.prompt_events DROP CONSTRAINT IF EXISTS $Attacks::CHECK,
			ADD CONSTRAINT $Attacks::CHECK CHECK (length(event_type) + %EVIL >= 0 AND event_type <> 'view'))),
	on_events('domain of the kinds', $EVENT, 'CREATE DOMAIN site.kind AS text CHECK (length(VALUE) >= %ACT)',
		'ALTER TABLE site.prompt_events ALTER event_type TYPE site.kind'),
	{ %{ on_events('forced policy', $READ_EVENT, 'ALTER TABLE site.prompt_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
		'CREATE POLICY p ON site.prompt_events USING (user_id + %EVIL >= 0) WITH CHECK (user_id + %EVIL >= 0)',
		'CREATE POLICY a ON site.prompt_events USING (true) WITH CHECK (true)') }, fails => qr/^42501 |^55000 / },
	on_events('rule on delete', $DELETE_EVENT, 'CREATE TABLE evil_%ROLE.seen (i bigint)',
		'CREATE RULE r AS ON DELETE TO site.prompt_events DO ALSO INSERT INTO evil_%ROLE.seen VALUES (%ACT)'),
	on_events('trigger before a row is deleted', $DELETE_EVENT, 'CREATE TRIGGER t BEFORE DELETE ON site.prompt_events FOR EACH ROW EXECUTE FUNCTION %TRIGGER'),
	on_events('trigger after rows are deleted', $DELETE_EVENT,
		'CREATE TRIGGER t AFTER DELETE ON site.prompt_events REFERENCING OLD TABLE AS o FOR EACH STATEMENT EXECUTE FUNCTION %TRIGGER'),
	on_events('deferred trigger after a row is deleted', $DELETE_EVENT,
		'CREATE CONSTRAINT TRIGGER t AFTER DELETE ON site.prompt_events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION %TRIGGER'),
	{ %{ on_events('view in its place', 'SELECT * FROM site.prompt_events', 'ALTER TABLE site.prompt_events RENAME TO kept',
		'CREATE VIEW site.prompt_events AS SELECT id, prompt_id, user_id + %EVIL AS user_id, event_type, created_at FROM site.kept') },
		fails => qr/^42809 |^42P01 / },
);

# ---- ways in: the prompts ----

sub on_prompts { my ($name, $proof, @install) = @_; return { on => 'prompts', role => 'press', name => $name, proof => $proof, install => \@install } }

my $READ_PROMPT = 'SELECT count(*) FROM site.prompts WHERE weight >= 0';
my @ON_PROMPTS = (
	on_prompts('statistics of an expression', $READ_PROMPT, 'CREATE STATISTICS evil_press.s ON ((id + %EVIL)), weight FROM site.prompts'),
	on_prompts('index of an expression', $READ_PROMPT, 'CREATE INDEX ON site.prompts ((id + %EVIL))'),
	on_prompts('partial index', $READ_PROMPT, 'CREATE INDEX ON site.prompts (weight) WHERE weight + %EVIL < 0'),
	on_prompts('check', $READ_PROMPT, 'ALTER TABLE site.prompts ADD CHECK (weight + %EVIL >= 0)'),
	on_prompts('forced policy', $READ_PROMPT, 'ALTER TABLE site.prompts ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
		'CREATE POLICY p ON site.prompts USING (weight + %EVIL >= 0)'),
	on_prompts('check of a domain', 'INSERT INTO site.prompts VALUES (1000)', 'CREATE DOMAIN evil_press.id AS bigint CHECK (VALUE >= %EVIL)',
		'ALTER TABLE site.prompts ALTER weight TYPE evil_press.id'),
);

# ---- ways in: tables that reference the counters, or the events ----

sub child
{
	my ($name, $action, $proof, @more) = @_;
	my $kids = qq(CREATE TABLE evil_child.kids (k bigint, prompt_id bigint, views bigint, n bigint DEFAULT 0,
		FOREIGN KEY (prompt_id, views) REFERENCES site.prompt_stats (prompt_id, view_count) $action));
	return { on => 'stats', role => 'child', name => $name, proof => $proof,
		install => [ $kids, 'INSERT INTO evil_child.kids SELECT 1, i, 0 FROM generate_series(1, 11) i', @more ] };
}
my $CHILD_WRITE = 'UPDATE evil_child.kids SET n = n WHERE prompt_id = 2 AND n >= 0';

my @ON_CHILDREN = (
	child('child that follows, with a trigger before', 'ON UPDATE CASCADE', $CHILD_WRITE,
		'CREATE TRIGGER t BEFORE UPDATE ON evil_child.kids FOR EACH ROW EXECUTE FUNCTION %TRIGGER'),
	# The server runs it at the end of the statement, as whoever made that (trigger.c): the owner of the counters, who let it be referenced
	{ %{ child('child that follows, with a trigger after', 'ON UPDATE CASCADE', $CHILD_WRITE,
		'CREATE TRIGGER t AFTER UPDATE ON evil_child.kids FOR EACH STATEMENT EXECUTE FUNCTION %TRIGGER') }, may => 'shop' },
	# Deferred on another table: refused in a security-restricted operation
	{ %{ child('child that follows, with a deferred trigger', 'ON UPDATE CASCADE', $CHILD_WRITE,
		'CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON evil_child.kids DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION %TRIGGER') },
		fails => qr/^42501 / },
	child('child that follows, with statistics', 'ON UPDATE CASCADE', $CHILD_WRITE,
		'CREATE STATISTICS evil_child.s ON ((n + %EVIL)), k FROM evil_child.kids'),
	child('child that follows, with an index of an expression', 'ON UPDATE CASCADE', $CHILD_WRITE, 'CREATE INDEX ON evil_child.kids ((n + %EVIL))'),
	child('child that follows, with a check', 'ON UPDATE CASCADE', $CHILD_WRITE, 'ALTER TABLE evil_child.kids ADD CHECK (n + %EVIL >= 0)'),
	child('child that takes its default', 'ON UPDATE SET DEFAULT', 'INSERT INTO evil_child.kids (k) VALUES (2)',
		'ALTER TABLE evil_child.kids ALTER views SET DEFAULT %ACT, ALTER prompt_id SET DEFAULT NULL'),
	child('child that is set to null, with a trigger', 'ON UPDATE SET NULL', $CHILD_WRITE,
		'CREATE TRIGGER t BEFORE UPDATE ON evil_child.kids FOR EACH ROW EXECUTE FUNCTION %TRIGGER'),
	{ %{ child('child that forbids, with statistics', '', $CHILD_WRITE,
		'CREATE STATISTICS evil_child.s ON ((n + %EVIL)), k FROM evil_child.kids') }, fails => qr/^23503 / },
	{ %{ child('child that forbids at the end, with an index of an expression', 'DEFERRABLE INITIALLY DEFERRED', $CHILD_WRITE,
		'CREATE INDEX ON evil_child.kids ((n + %EVIL))') }, fails => qr/^23503 / },
	{ on => 'events', role => 'child', name => 'child of the events, with a trigger', proof => 'DELETE FROM evil_child.notes',
		install => [ 'CREATE TABLE evil_child.notes (event uuid REFERENCES site.prompt_events ON DELETE CASCADE)', 'INSERT INTO evil_child.notes VALUES (NULL)',
			'CREATE TRIGGER t BEFORE DELETE ON evil_child.notes FOR EACH STATEMENT EXECUTE FUNCTION %TRIGGER' ] },
	{ on => 'events', role => 'child', name => 'child of the events, with statistics', proof => 'SELECT FROM evil_child.notes WHERE n = 0',
		install => [ 'CREATE TABLE evil_child.notes (event uuid REFERENCES site.prompt_events ON DELETE CASCADE, n bigint)', 'INSERT INTO evil_child.notes VALUES (NULL)',
			'CREATE STATISTICS evil_child.s ON ((n + %EVIL)), event FROM evil_child.notes' ] },
);

Attacks::try_way($_, 'one_owner', Attacks::victims_of($_->{on}, 'shop')) foreach @ON_STATS, @ON_PROMPTS, @ON_CHILDREN;
foreach my $way (@ON_EVENTS)
{
	Attacks::try_way({ %$way, role => 'shop', name => "events: $way->{name}" }, 'one_owner', Attacks::victims_of($way->{on}, 'shop'));
	Attacks::try_way({ %$way, role => 'clerk', name => "events: $way->{name}" }, 'two_owners', Attacks::victims_of($way->{on}, 'clerk'));
}

# ---- what a security-restricted operation lets through ----

# It stays in a caller's session, where it gives nobody anything; the flusher lets go of it
my $through = Attacks::new_database('one_owner');
Attacks::as($through, 'shop', 'CREATE SEQUENCE evil_shop.s', q(
	CREATE FUNCTION evil_shop.through() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_try_advisory_lock(4711), pg_try_advisory_lock_shared(4712), setseed(0.5), nextval('evil_shop.s'), lo_create(0);
		NOTIFY heard;
		LOCK TABLE site.prompt_events IN SHARE MODE;
		RETURN NEW;
	END $$), 'CREATE TRIGGER t BEFORE UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION evil_shop.through()');
my @COUNTING = Attacks::victims_of('stats', 'shop');
foreach my $victim (grep { $_->{sql}[0] =~ /increment/ && $_->{name} !~ /new prompts/ } @COUNTING)
{
	Attacks::try_victim($through, "shop: what is let through: $victim->{name}", $victim);
	next if !$victim->{flusher};
	is(Attacks::as($through, 'bob', 'SELECT pg_try_advisory_lock(4711) AND pg_try_advisory_lock(4712)')->[0][0], 't', 'shop: what is let through: not kept by the flusher');
}

# ---- what belongs to the caller ----

# Advisory locks and open large objects of a session have no owner of their own: whoever runs in it could release and read them
my $grab = Attacks::new_database('one_owner');
Attacks::as($grab, 'shop', q(
	CREATE FUNCTION evil_shop.grab() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		BEGIN
			PERFORM pg_advisory_unlock_all();
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
		BEGIN
			PERFORM pg_advisory_unlock_shared(99);
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
		BEGIN
			IF convert_from(loread(0, 100), 'UTF8') = 'secret' THEN
				RAISE LOG 'SPRUNG|%|large object|shop|%|%|victims: read|', current_database(), current_user, pg_backend_pid();
			END IF;
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
		RETURN NEW;
	END $$), 'CREATE TRIGGER t BEFORE UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION evil_shop.grab()');
my $LOCKED = q(DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 99 AND pid = pg_backend_pid()) THEN
	RAISE EXCEPTION 'the advisory lock is released'; END IF; END $$);
foreach my $durability (qw(transaction group))
{
	my @large = ('SELECT lo_from_bytea(0, \'secret\')', 'SELECT lo_open(max(oid), 262144) FROM pg_largeobject_metadata');
	Attacks::try_victim($grab, "shop: what belongs to the caller: a superuser counts one, $durability", { user => 'admin', status => '', durability => $durability,
		sql => [ 'SELECT pg_advisory_lock_shared(99)', 'BEGIN', @large, 'SELECT site.increment_prompt_views(1::bigint)', 'COMMIT', $LOCKED ] });
	Attacks::try_victim($grab, "shop: what belongs to the caller: a superuser counts a list, $durability", { user => 'admin', status => '', durability => $durability,
		sql => [ 'SELECT pg_advisory_lock_shared(99)', 'SELECT site.increment_prompt_views(ARRAY[1, 2]::bigint[])', $LOCKED ] });
}

# The transaction itself: not read-only, nor of another isolation, for what follows
Attacks::as($grab, 'shop', 'DROP TRIGGER t ON site.prompt_stats', q(
	CREATE FUNCTION evil_shop.transaction() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM set_config('transaction_read_only', 'on', false);
		PERFORM set_config('default_transaction_read_only', 'on', false);
		RETURN NEW;
	END $$), 'CREATE TRIGGER t AFTER UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION evil_shop.transaction()');
Attacks::try_victim($grab, 'shop: a read-only transaction: a superuser counts at once in a block, and writes', { user => 'admin', status => '', durability => 'transaction', block => 1,
	sql => [ 'SELECT site.increment_prompt_views(1::bigint)', 'INSERT INTO public.own VALUES (1)' ] });

# Code that alters the tables while they are used: whatever it gets away with, the server goes on
my $ALTER = q(
	CREATE FUNCTION evil_shop.alter() RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		trick text;
	BEGIN
		FOREACH trick IN ARRAY ARRAY['ALTER TABLE site.prompt_stats ADD c bigint', 'ALTER TABLE site.prompt_stats DROP c', 'ALTER TABLE site.prompt_stats ALTER view_count TYPE numeric',
			'ALTER TABLE site.prompt_stats ALTER view_count TYPE bigint', 'ALTER TABLE site.prompt_stats RENAME view_count TO v', 'ALTER TABLE site.prompt_stats RENAME v TO view_count',
			'ALTER TABLE site.prompt_events ADD c bigint', 'ALTER TABLE site.prompt_events DROP c', 'ALTER TABLE site.prompt_events ALTER event_type TYPE varchar',
			'ALTER TABLE site.prompt_events ALTER event_type TYPE text', 'ALTER TABLE site.prompt_events RENAME TO p', 'ALTER TABLE site.p RENAME TO prompt_events',
			'ALTER TABLE site.prompt_stats DROP CONSTRAINT prompt_stats_pkey', 'ALTER TABLE site.prompt_stats ADD PRIMARY KEY (prompt_id)', 'TRUNCATE site.prompt_events',
			'CREATE INDEX i ON site.prompt_stats (copy_count)', 'DROP INDEX site.i', 'ALTER TABLE site.prompt_stats ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
			'ALTER TABLE site.prompt_stats DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', 'DROP STATISTICS site.s', 'CLUSTER site.prompt_stats USING prompt_stats_pkey',
			'REINDEX TABLE site.prompt_stats', 'ALTER SCHEMA site RENAME TO t', 'ALTER SCHEMA t RENAME TO site'] LOOP
			BEGIN
				EXECUTE trick;
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
		END LOOP;
		RETURN %ACT;
	END $$);
my $ALTER_EVIL = 'CREATE FUNCTION evil_shop.alter_evil() RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN evil_shop.alter(); END $$';
my $ALTER_TRIGGER = 'CREATE FUNCTION evil_shop.alter_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM evil_shop.alter(); RETURN NEW; END $$';
foreach my $way (
	on_stats('statistics that alter the tables', undef, $ALTER, $ALTER_EVIL, 'CREATE STATISTICS site.s2 ON ((view_count + evil_shop.alter_evil())), copy_count FROM site.prompt_stats'),
	on_stats('index that alters the tables', undef, $ALTER, $ALTER_EVIL, 'CREATE INDEX ON site.prompt_stats ((view_count + evil_shop.alter_evil()))'),
	on_stats('trigger that alters the tables', undef, $ALTER, $ALTER_TRIGGER,
		'CREATE TRIGGER t AFTER INSERT OR UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION evil_shop.alter_trigger()'))
{
	# But for what is the caller's own INSERT, into a column that has another type meanwhile
	Attacks::try_way({ %$way, fails => qr/./ }, 'one_owner', grep { $_->{name} !~ /fork$|legacy insert/ } Attacks::victims_of('stats', 'shop'));
}

# ---- other servers, and this one as another ----

# Of trusted connections: a superuser's "dblink" could name anybody
my ($host, $port) = ($node->host, $node->port);
my $far = Attacks::new_database('one_owner');
Attacks::as($far, 'admin', 'CREATE EXTENSION dblink', 'CREATE EXTENSION postgres_fdw',
	"CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname '$far')",
	"CREATE USER MAPPING FOR shop SERVER loopback OPTIONS (user 'shop', password_required 'false')",
	"CREATE USER MAPPING FOR admin SERVER loopback OPTIONS (user 'admin')",
	'GRANT USAGE ON FOREIGN SERVER loopback TO shop');
Attacks::as($far, 'shop', qq(
	CREATE FUNCTION evil_shop.dblink() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		PERFORM evil_shop.act('dblink');
		BEGIN
			PERFORM public.dblink_exec('host=$host port=$port dbname=$far user=admin', 'ALTER ROLE shop SUPERUSER');
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
		BEGIN
			PERFORM public.dblink_exec('loopback', 'ALTER ROLE shop SUPERUSER');
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
		RETURN NEW;
	END \$\$), 'CREATE TRIGGER t BEFORE INSERT OR UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION evil_shop.dblink()');
Attacks::try_victim($far, "shop: dblink in a trigger: $_->{name}", $_) foreach grep { $_->{sql}[0] =~ /increment/ } @COUNTING;
Attacks::as($far, 'shop', 'DROP TRIGGER t ON site.prompt_stats',
	'CREATE TABLE evil_shop.near (prompt_id bigint)', q(CREATE TRIGGER t BEFORE INSERT ON evil_shop.near FOR EACH ROW EXECUTE FUNCTION evil_shop.trigger('foreign table')),
	q(CREATE FOREIGN TABLE evil_shop.far (prompt_id bigint) SERVER loopback OPTIONS (schema_name 'evil_shop', table_name 'near')),
	'CREATE FUNCTION evil_shop.go_far() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO evil_shop.far VALUES (NEW.prompt_id); RETURN NULL; END $$',
	'CREATE TRIGGER t AFTER INSERT OR UPDATE ON site.prompt_stats FOR EACH ROW EXECUTE FUNCTION evil_shop.go_far()');
Attacks::try_victim($far, "shop: foreign table in a trigger: $_->{name}", $_) foreach grep { $_->{sql}[0] =~ /increment/ } @COUNTING;
cmp_ok(Attacks::as($far, 'shop', 'SELECT count(*) FROM evil_shop.near')->[0][0], '>=', 10, 'shop: foreign table in a trigger: the rows are there');

Attacks::stop();
done_testing();
