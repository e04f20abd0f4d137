# Every hint, pasted, mends what raised it [26].
#
# The list of hints is read from the sources: each errhint() and .hint of src/, and each HINT of
# the install script.  Each needs a case here, by its text; a case without a hint fails, too.  Where
# the text is made elsewhere, "%s: what makes it" is its name.  A case raises the error, runs the statements that the hint offers, and calls again.
#
#	setup		SQL in a database of its own
#	as			the role that calls, else a superuser
#	call		raises it; or a NOTICE or WARNING that has it
#	then		what was advised, where the hint has no statement for it
#	repeat		instead of the call, when it is mended
#	blocked_by	SQL of another session meanwhile, which is rolled back before "then"
#	times		as often the next error may have a hint, which is pasted, too
#	check		must be true in the end
#	tested_in	a test that does all that, for what can't be done here
#	unseen		why it can't be raised by any test

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;

my $top = "$FindBin::RealBin/../..";

# ---- the hints there are

# Of C: literals that are concatenated
sub c_text
{
	my ($literals) = @_;
	$literals =~ s/INT64_FORMAT/"%ld"/g;
	my $text = join '', $literals =~ /"((?:[^"\\]|\\.)*)"/g;
	$text =~ s/\\(.)/$1/g;
	return $text;
}

sub read_hints
{
	my %hints;

	foreach my $file (glob "$top/src/*.c")
	{
		my $name = $file =~ s{.*/}{}r;
		my $source = slurp_file($file) =~ s{/\*.*?\*/}{}gsr;
		my $calls = () = $source =~ /\berrhint\(|\berrhint_plural\(/g;
		my $literals = 0;

		while ($source =~ /(\berrhint|\.hint)(?:\(| = )(?:psprintf\()?\s*((?:"(?:[^"\\]|\\.)*"|INT64_FORMAT|\s)+)/g)
		{
			my ($where, $text) = ($1, c_text($2));
			$literals++ if $where eq 'errhint';
			$text .= ": $1" if $text eq '%s' && $source =~ /\G,\s*((?:[^()]|\([^()]*\))*)\)/gc;
			$hints{$text} = $text =~ s/^%s\K: .*//r;
		}
		is($literals, $calls, "$name: each hint has its text beside it") if $calls != $literals;
	}
	foreach my $file (glob "$top/sql/*.sql")
	{
		my $name = $file =~ s{.*/}{}r;
		foreach my $text (slurp_file($file) =~ /\bHINT = [^']*'((?:[^']|'')*)'/g)
		{
			$text =~ s/\\n.*//;
			$hints{$text} = "$text%s";
		}
	}
	return %hints;
}

my %hints = read_hints();

# ---- states of a database

my $PROMPTS = q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 9);
);
my $COUNTING = "$PROMPTS CREATE EXTENSION prompt_stats;";
my $EVENTS = q(
	CREATE TABLE prompt_events (
		id bigserial PRIMARY KEY, prompt_id bigint NOT NULL, user_id bigint, event_type text, created_at timestamptz DEFAULT now());
	INSERT INTO prompt_events (prompt_id, event_type) SELECT 1 + n % 3, (ARRAY['view', 'copy', 'fork'])[1 + n % 3] FROM generate_series(1, 30) n;
);
my $STATS = q(
	CREATE TABLE prompt_stats (
		prompt_id bigint PRIMARY KEY, view_count bigint DEFAULT 0, copy_count bigint DEFAULT 0, fork_count bigint DEFAULT 0);
	INSERT INTO prompt_stats SELECT 1, 10, 20, 30;
);
my $LEGACY = "$PROMPTS $EVENTS CREATE EXTENSION prompt_stats;";
my $CREATE = 'CREATE EXTENSION prompt_stats';
my $COUNT = 'SELECT increment_prompt_views(1::bigint)';

# Both tables belong to "owner"
my $OWNED = q(
	ALTER TABLE prompt_stats OWNER TO owner;
	ALTER TABLE prompt_events OWNER TO owner;
	GRANT SELECT ON prompts TO owner;
);
my $KEEP = q(
	CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
);

# A NOT NULL column of each kind of type, which is a key or is not
my @columns;
foreach my $column ([ 'uuid PRIMARY KEY', 'gen_random_uuid()' ], [ 'bigint PRIMARY KEY', 7 ], [ 'smallint NOT NULL', 7 ], [ 'text PRIMARY KEY', q('x') ],
	[ 'text NOT NULL', q('x') ], [ 'timestamptz NOT NULL', 'now()' ], [ 'boolean NOT NULL', 'true' ])
{
	push @columns, { setup => "$PROMPTS $STATS CREATE TABLE prompt_events (\"Id\" $column->[0], prompt_id bigint, user_id bigint, event_type text);
		INSERT INTO prompt_events VALUES ($column->[1], 1, 1, 'fork');", call => $CREATE,
		check => 'SELECT track_prompt_fork(1, 1) IS NOT NULL' };
}

# ---- the cases

my @cases = (
	# checks.c
	'Try again when it has ended.' => {
		setup => "$PROMPTS $EVENTS", blocked_by => 'BEGIN; LOCK TABLE prompt_events IN SHARE MODE', call => $CREATE, then => '' },
	'CALL %s(); again when the table is not being altered or vacuumed.' => {
		setup => "$LEGACY SELECT prompt_stats_migrate_batch(100);",
		blocked_by => 'BEGIN; LOCK TABLE prompt_events IN SHARE UPDATE EXCLUSIVE MODE', call => 'CALL prompt_stats_migrate()' },

	# correct.c
	'Switch it off for the while, with ALTER TABLE %s DISABLE TRIGGER %s;' => {
		setup => "$COUNTING INSERT INTO prompt_stats (prompt_id, view_count) VALUES (1, 5); $KEEP
			CREATE TRIGGER \"Keep it\" BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION keep();",
		call => 'SELECT prompt_stats_reset(1)', check => 'SELECT view_count = 0 FROM prompt_stats' },
	'Begin the transaction with BEGIN ISOLATION LEVEL READ COMMITTED;' => [
		map { { setup => $LEGACY, call => "BEGIN ISOLATION LEVEL REPEATABLE READ; $_", repeat => $_ } }
		  'SELECT prompt_stats_reset(1)', 'SELECT prompt_stats_migrate_batch()'
	],
	'Pass the id of a prompt, and 0 for what is to stay.' => {
		setup => $COUNTING, call => 'SELECT prompt_stats_correct(1, 1, NULL)', then => '', repeat => 'SELECT prompt_stats_correct(1, 1, 0)' },
	'Take away what there is, with SELECT %s.prompt_stats_correct(%s, %ld, %ld, %ld);' => {
		setup => "$COUNTING INSERT INTO prompt_stats (prompt_id, view_count) VALUES (1, 5);",
		call => 'SELECT prompt_stats_correct(1, -6, 1)', repeat => 'SELECT',
		check => 'SELECT view_count = 0 AND copy_count = 1 FROM prompt_stats' },

	# deltas.c
	'Count fewer at once.' => {
		unseen => 'nobody calls nine thousand million times, with a thousand million each, in one transaction' },

	# events.c
	'Leave out the call where there is nothing to log.' => {
		setup => $COUNTING, call => 'SELECT track_compare_add(NULL::bigint, NULL::bigint)', then => '', repeat => 'SELECT' },

	# extension.c
	'Create it with CREATE EXTENSION prompt_stats;' => {
		setup => "$PROMPTS CREATE FUNCTION my_views(id bigint) RETURNS void LANGUAGE c AS 'prompt_stats', 'increment_prompt_views';",
		call => 'SELECT my_views(1)' },
	q(Give it its name back, or drop the extension and create it again; the application's tables stay.) => {
		setup => "$COUNTING ALTER TABLE prompt_stats_internal.config RENAME TO conf;", call => $COUNT,
		then => 'ALTER TABLE prompt_stats_internal.conf RENAME TO config' },

	# fold.c
	'Widen it with %s' => {
		setup => q(
			CREATE TABLE prompts (id bigint PRIMARY KEY);
			INSERT INTO prompts VALUES (1);
			CREATE TABLE prompt_stats (prompt_id bigint PRIMARY KEY, view_count integer, copy_count integer, fork_count integer);
			INSERT INTO prompt_stats VALUES (1, 2147483647, 0, 0);
			CREATE EXTENSION prompt_stats;
			CREATE VIEW popular WITH (security_barrier) AS SELECT prompt_id, view_count FROM prompt_stats WHERE view_count > 10;
			CREATE VIEW "Most popular" AS SELECT view_count + 1 AS n FROM popular;
			CREATE MATERIALIZED VIEW sums AS SELECT p.view_count, s.copy_count FROM popular p JOIN prompt_stats s USING (prompt_id);
			ALTER VIEW popular OWNER TO owner;
			GRANT SELECT ON popular TO PUBLIC;
			GRANT SELECT ON prompt_stats TO owner;
			CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TRIGGER note AFTER UPDATE OF view_count ON prompt_stats FOR EACH ROW EXECUTE FUNCTION note();
		),
		call => $COUNT,
		check => q(SELECT (SELECT n FROM "Most popular") = 2147483649 AND (SELECT view_count FROM sums) = 2147483647
			AND has_table_privilege('anybody', 'popular', 'SELECT') AND pg_get_userbyid(relowner) = 'owner'
			AND reloptions = '{security_barrier=true}' AND EXISTS (SELECT FROM pg_trigger WHERE tgname = 'note')
			FROM pg_class WHERE relname = 'popular') },
	'Set the counters of this prompt to zero, with SELECT %s.prompt_stats_reset(%s);' => {
		setup => "$COUNTING INSERT INTO prompt_stats (prompt_id, view_count) VALUES (1, 9223372036854775807);",
		call => $COUNT, check => 'SELECT view_count = 1 FROM prompt_stats' },
	'Correct the counter of the row in which it is counted, or count fewer at once.' => {
		setup => qq($COUNTING
			CREATE FUNCTION one() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.prompt_id := 1; RETURN NEW; END';
			CREATE TRIGGER one BEFORE INSERT ON prompt_stats FOR EACH ROW EXECUTE FUNCTION one();
			INSERT INTO prompt_stats (prompt_id, view_count) VALUES (1, 9223372036854775807);),
		call => 'SELECT increment_prompt_views(2::bigint)', then => 'SELECT prompt_stats_reset(1)' },
	'Release the owner with ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;' => [
		map {
			{ setup => "$COUNTING INSERT INTO prompt_stats (prompt_id) VALUES (1); $OWNED
				ALTER TABLE prompt_stats ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
				CREATE POLICY p ON prompt_stats $_;",
			call => $COUNT, check => 'SELECT view_count = 1 FROM prompt_stats' }
		} 'FOR SELECT USING (true)', 'FOR INSERT WITH CHECK (true)', 'AS RESTRICTIVE'
	],
	'Retry the transaction.' => {
		setup => qq($COUNTING $KEEP
			CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM prompt_stats WHERE prompt_id = NEW.prompt_id; RETURN NEW; END';
			CREATE TRIGGER keep BEFORE INSERT ON prompt_stats FOR EACH ROW EXECUTE FUNCTION keep();),
		unseen => 'somebody else must delete and insert the row three times between two statements' },

	# functions.c
	'Leave out the call where there is nothing to count.' => {
		setup => $COUNTING, call => 'SELECT increment_prompt_views(NULL)', then => '', repeat => 'SELECT' },
	'Counters only grow; the owner of the table takes counts back with prompt_stats_correct().' => {
		setup => "$COUNTING INSERT INTO prompt_stats (prompt_id, view_count) VALUES (1, 5);",
		call => 'SELECT increment_prompt_views(1::bigint, -1)', then => 'SELECT prompt_stats_correct(1, -1)', repeat => 'SELECT' },
	'Count fewer at once; the owner of the table adds more with prompt_stats_correct().' => {
		setup => $COUNTING, call => 'SELECT increment_prompt_views(1::bigint, 2000000000)',
		then => 'SELECT prompt_stats_correct(1, 2000000000)', repeat => 'SELECT increment_prompt_views(1::bigint, 1000000000)' },
	'Remove the nulls, as with array_remove(ids, NULL).' => {
		setup => $COUNTING, call => 'SELECT increment_prompt_views(ARRAY[1, NULL]::bigint[])', then => '',
		repeat => 'SELECT increment_prompt_views(array_remove(ARRAY[1, NULL]::bigint[], NULL))' },

	# hints.c
	'Count prompts that exist; insert the prompt first.' => {
		setup => $COUNTING, call => 'SELECT increment_prompt_views(10::bigint)', then => 'INSERT INTO prompts VALUES (10)' },
	'Name a user who exists; insert the user first.' => {
		setup => 'CREATE TABLE users (id bigint PRIMARY KEY);' . $COUNTING . 'ALTER TABLE prompt_events ADD FOREIGN KEY (user_id) REFERENCES users',
		call => 'SELECT track_prompt_fork(1, 42)', then => 'INSERT INTO users VALUES (42)' },
	'Count what it admits, or drop it with ALTER TABLE %s DROP CONSTRAINT %s;' => {
		setup => "$COUNTING ALTER TABLE prompt_stats ADD CONSTRAINT \"Few views\" CHECK (view_count < 1);", call => $COUNT,
		context => qr/counting prompt 1$/m },
	'Events are inserted with the rights of who calls: GRANT INSERT ON %s TO %s;' => {
		setup => $COUNTING, as => 'anybody', call => 'SELECT track_prompt_fork(1, 42)' },
	'Events are inserted under the policies of who calls: CREATE POLICY track ON %s FOR INSERT TO %s WITH CHECK (true);' => {
		setup => "$COUNTING GRANT INSERT ON prompt_events TO anybody; ALTER TABLE prompt_events ENABLE ROW LEVEL SECURITY;",
		as => 'anybody', call => 'SELECT track_prompt_fork(1, 42)' },

	# ids.c
	'Pass it as an array of text, as in $1::text[].' => {
		setup => q(CREATE TABLE prompts (id text PRIMARY KEY); INSERT INTO prompts VALUES ('a'), ('b'); CREATE EXTENSION prompt_stats;),
		call => q(SELECT increment_prompt_views('{a,b}')), then => '', repeat => q(SELECT increment_prompt_views('{a,b}'::text[])) },
	'Call the function once for each id.' => {
		setup => $COUNTING, call => q(SELECT track_prompt_fork('{1,2}', NULL)), then => '',
		repeat => q(SELECT track_prompt_fork(id, NULL::bigint) FROM unnest('{1,2}'::bigint[]) id) },
	'Pass an id of type %s.' => {
		setup => $COUNTING, call => 'SELECT increment_prompt_views(gen_random_uuid())', then => '', repeat => $COUNT },
	'Pass an id that exists; if there are such ids, widen the column with %s' => {
		setup => q(
			CREATE TABLE prompts (id integer PRIMARY KEY);
			CREATE EXTENSION prompt_stats;
			ALTER TABLE prompts ALTER id TYPE bigint;
			INSERT INTO prompts VALUES (99999999999);
			CREATE VIEW ids AS SELECT prompt_id FROM prompt_stats;
		),
		call => 'SELECT increment_prompt_views(99999999999)', check => 'SELECT prompt_id = 99999999999 FROM ids' },

	# migrate_run.c
	'Call it outside; or call prompt_stats_migrate_batch() until it returns 0, then prompt_stats_recount_forks() and prompt_stats_migrate_finish().' => {
		setup => $LEGACY, call => 'BEGIN; CALL prompt_stats_migrate()',
		then => 'SELECT prompt_stats_migrate_batch(); SELECT prompt_stats_recount_forks(); SELECT prompt_stats_migrate_finish()',
		repeat => 'CALL prompt_stats_migrate()' },
	q(Valid values are '%s' and '%s'.) => {
		setup => $LEGACY, call => q(CALL prompt_stats_migrate(mode => 'discard')), then => '', repeat => q(CALL prompt_stats_migrate(mode => 'keep')) },
	'Pass a number of rows, such as 500000.' => {
		setup => $LEGACY, call => 'CALL prompt_stats_migrate(0)', then => '', repeat => 'CALL prompt_stats_migrate(500000)' },
	q(If they hold the same rows already, use mode => 'keep' instead, which deletes these and adds nothing.) => {
		setup => "$PROMPTS $EVENTS $STATS CREATE EXTENSION prompt_stats;", call => 'CALL prompt_stats_migrate()', then => '',
		repeat => q(CALL prompt_stats_migrate(mode => 'keep')) },
	'Call SELECT %s.prompt_stats_migrate_batch(); until it returns 0.' => {
		setup => $LEGACY, call => 'SELECT prompt_stats_migrate_finish()' },
	'Switch off the trigger that keeps them, with ALTER TABLE %s DISABLE TRIGGER %s; then call SELECT %s.prompt_stats_migrate_batch(); until it returns 0.' => {
		setup => "$LEGACY $KEEP CREATE TRIGGER keep BEFORE DELETE ON prompt_events FOR EACH ROW EXECUTE FUNCTION keep();",
		call => 'SELECT prompt_stats_migrate_finish()' },
	'Make one with SELECT %s.prompt_stats_setup();' => {
		setup => "$COUNTING ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check;", call => 'SELECT prompt_stats_migrate_finish()' },
	'Show them to the owner, with ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;' => {
		setup => "$LEGACY $OWNED DELETE FROM prompt_events WHERE event_type <> 'fork';
			ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check;
			INSERT INTO prompt_events (prompt_id, event_type) VALUES (1, 'view');
			ALTER TABLE prompt_events ADD CONSTRAINT prompt_events_event_type_check CHECK (event_type IS NOT NULL AND event_type IN ('fork', 'compare_add')) NOT VALID;
			ALTER TABLE prompt_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
			CREATE POLICY p ON prompt_events USING (event_type <> 'view');",
		call => 'SELECT prompt_stats_migrate_finish()', times => 2 },
	q(Mend them, or delete them with DELETE FROM %s WHERE event_type IS NULL OR event_type NOT IN ('fork', 'compare_add'); then CALL %s.prompt_stats_migrate(); again.) => {
		setup => "$LEGACY ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check;
			INSERT INTO prompt_events (prompt_id, event_type) VALUES (1, NULL); SELECT prompt_stats_setup();",
		call => 'CALL prompt_stats_migrate()', check => 'SELECT bool_and(ok) FROM prompt_stats_verify()' },

	# owner.c
	q(Name the table, as in 'public.prompt_stats'.) => {
		setup => $COUNTING, call => 'SELECT prompt_stats_setup(stats => 999999)', then => '', repeat => q(SELECT prompt_stats_setup(stats => 'public.prompt_stats')) },
	q(If it is the application's, name it, with %sSELECT %s.prompt_stats_setup(%s%s%s);) => {
		setup => "$PROMPTS $STATS ALTER TABLE prompt_stats OWNER TO anybody; GRANT SELECT ON prompts TO anybody;", call => $CREATE, repeat => $COUNT },
	'Call it as a member of role "%s".' => {
		setup => "$COUNTING $OWNED", as => 'anybody', call => 'SELECT prompt_stats_reset(1)', then => 'SET ROLE owner', by_superuser => 1 },

	# progress.c
	q(Finish it first, with CALL %s.prompt_stats_migrate(mode => '%s');) => {
		setup => "$LEGACY SELECT prompt_stats_migrate_batch(1, 'keep');", call => 'SELECT prompt_stats_migrate_batch(1)' },

	# read.c
	'Pass the id of a prompt.' => {
		setup => $COUNTING, call => 'SELECT get_prompt_stats(NULL::bigint)', then => '', repeat => 'SELECT get_prompt_stats(1)' },

	# refuse.c
	'Take it out of the function that the table calls.' => {
		setup => "$COUNTING INSERT INTO prompt_stats (prompt_id) VALUES (1);
			CREATE FUNCTION bad() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN SET CONSTRAINTS ALL IMMEDIATE; RETURN NEW; END';
			CREATE TRIGGER bad BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION bad();",
		call => $COUNT, then => q(CREATE OR REPLACE FUNCTION bad() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END') },

	# reroute.c
	'Count with increment_prompt_views() and increment_prompt_copies().' => {
		setup => "$COUNTING CREATE TABLE mine (prompt_id bigint, event_type text);
			CREATE TRIGGER mine BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION prompt_stats_internal.reroute();",
		call => q(INSERT INTO mine VALUES (1, 'view')), then => '', repeat => $COUNT },
	'Leave out the row where there is nothing to count.' => {
		setup => "$COUNTING SELECT prompt_stats_enable_compat();", call => q(INSERT INTO prompt_events (event_type) VALUES ('view')),
		then => '', repeat => q(INSERT INTO prompt_events (prompt_id, event_type) VALUES (1, 'view')) },
	'When every application calls the functions, SELECT %s();' => {
		setup => $COUNTING, call => 'SELECT prompt_stats_enable_compat()', repeat => 'SELECT',
		check => q(SELECT NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'prompt_events'::regclass AND NOT tgisinternal)) },

	# run.c
	'Rename it with ALTER TABLE %s RENAME CONSTRAINT %s TO %s;' => {
		setup => "$COUNTING INSERT INTO prompt_stats (prompt_id) VALUES (1);
			CREATE TABLE other (id bigint CONSTRAINT same REFERENCES prompts DEFERRABLE);
			ALTER TABLE prompt_stats ADD CONSTRAINT same FOREIGN KEY (prompt_id) REFERENCES prompts DEFERRABLE INITIALLY DEFERRED;",
		call => $COUNT },

	# setup.c
	'Add one, with ALTER TABLE %s ADD PRIMARY KEY (id);' => {
		setup => 'CREATE TABLE prompts (id bigint, title text); INSERT INTO prompts VALUES (1);', call => $CREATE },
	'Create the tables prompt_events and prompt_stats yourself.' => {
		setup => 'CREATE TABLE prompts (id bigint, locale text, PRIMARY KEY (id, locale));', call => $CREATE, then => "$EVENTS $STATS" },
	'Create the tables prompt_events and prompt_stats yourself, with ids of one of these types.' => {
		setup => 'CREATE TABLE prompts (id numeric PRIMARY KEY);', call => $CREATE, then => "$EVENTS $STATS" },
	'Grant the right to create in its schema, with GRANT CREATE ON SCHEMA %s TO %s;' => {
		setup => 'SET prompt_stats.skip_setup = on; CREATE EXTENSION prompt_stats;', as => 'anybody', call => 'SELECT prompt_stats_setup()' },
	'Do without, by ALTER TABLE %s ALTER COLUMN %s' => \@columns,
	'Exempt the owner, with ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;' => {
		setup => "$PROMPTS $STATS ALTER TABLE prompt_stats OWNER TO owner, ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
			ALTER TABLE prompts OWNER TO owner;", call => $CREATE },
	'Move views and copies into the counters with CALL %s();' => {
		setup => "$PROMPTS $EVENTS", call => $CREATE, repeat => 'SELECT',
		check => q(SELECT NOT EXISTS (SELECT FROM prompt_events WHERE event_type IN ('view', 'copy'))) },

	# shmem.c, status.c, worker.c
	'Restart the server.' => { tested_in => '007_upgrade_library' },
	'Call it in a transaction of its own.' => {
		setup => $COUNTING, call => q(BEGIN; SET LOCAL prompt_stats.durability = 'transaction'; SELECT increment_prompt_views(1::bigint); SELECT prompt_stats_flush()),
		then => '', repeat => 'SELECT prompt_stats_flush()' },
	'Mend what it names, and call prompt_stats_flush() again.' => { tested_in => '035_rejections' },
	'Restart the server, which flushes them, or call it in a session that began before.' => { tested_in => '007_upgrade_library' },
	'Let the process go on if it is stopped; else look for code that the table runs and that does not check for interrupts.' => { tested_in => '026_stops' },
	'Check prompt_stats.flusher and max_worker_processes, and the server log.' => { tested_in => '025_bounds' },
	'Look for a trigger or function of that table that catches query_canceled.' => { tested_in => '025_bounds' },
	'If the process is not stopped, look for code that the table runs and that does not check for interrupts.' => { tested_in => '026_stops' },

	# tables.c
	'Put a table with its rows in its place, with %s' => [
		{ setup => "$PROMPTS CREATE TABLE counts (prompt_id bigint, views integer);
				INSERT INTO counts VALUES (1, 10);
				CREATE VIEW prompt_stats AS SELECT prompt_id, sum(views) AS view_count, 0 AS copy_count, 0 AS fork_count FROM counts GROUP BY prompt_id;",
			call => $CREATE, times => 3, check => 'SELECT view_count = 10 FROM prompt_stats' },
		{ setup => "$PROMPTS CREATE TABLE prompt_stats (prompt_id bigint PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint) PARTITION BY HASH (prompt_id);
				CREATE TABLE part PARTITION OF prompt_stats FOR VALUES WITH (MODULUS 1, REMAINDER 0); INSERT INTO prompt_stats VALUES (1, 10, 0, 0);",
			call => $CREATE, check => 'SELECT view_count = 10 FROM ONLY prompt_stats' },
		{ setup => "$PROMPTS CREATE TABLE prompt_events (id bigint GENERATED ALWAYS AS IDENTITY, prompt_id bigint, user_id bigint, event_type text) PARTITION BY LIST (event_type);
				CREATE TABLE part PARTITION OF prompt_events DEFAULT; INSERT INTO prompt_events (prompt_id, event_type) VALUES (1, 'fork');",
			call => $CREATE, check => 'SELECT count(*) = 1 FROM ONLY prompt_events' },
	],
	'Name a table that stays.' => {
		setup => $COUNTING, call => 'CREATE TEMPORARY TABLE t (LIKE prompt_stats); SELECT prompt_stats_setup($$prompt_events$$, $$t$$)', then => '',
		repeat => q(SELECT prompt_stats_setup(stats => 'prompt_stats')) },
	'Detach them, with%s' => {
		setup => "$PROMPTS $STATS CREATE TABLE a () INHERITS (prompt_stats); CREATE TABLE \"B\" () INHERITS (prompt_stats);", call => $CREATE },
	'Add it with ALTER TABLE %s ADD COLUMN %s %s;' => [
		{ setup => "$PROMPTS $STATS ALTER TABLE prompt_stats DROP COLUMN copy_count;", call => $CREATE },
		{ setup => "$PROMPTS $EVENTS ALTER TABLE prompt_events DROP COLUMN event_type;", call => $CREATE },
	],
	'Make it an ordinary one with ALTER TABLE %s ALTER COLUMN %s DROP EXPRESSION;' => {
		setup => "$PROMPTS CREATE TABLE prompt_stats (prompt_id bigint PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint GENERATED ALWAYS AS (view_count * 2) STORED);",
		call => $CREATE },
	'Change it with %s' => [
		# under a view, a numeric counter
		{ setup => "$PROMPTS $STATS ALTER TABLE prompt_stats ALTER view_count TYPE numeric; CREATE VIEW v AS SELECT view_count FROM prompt_stats;",
			call => $CREATE, check => 'SELECT view_count = 10 FROM v' },
		# char(n): blanks at the end do not matter to those who reference, so none may come
		{ setup => q(CREATE TABLE prompts (id char(6) PRIMARY KEY); INSERT INTO prompts VALUES ('a');
				CREATE TABLE prompt_stats (prompt_id char(6) PRIMARY KEY REFERENCES prompts, view_count bigint, copy_count bigint, fork_count bigint);
				CREATE TABLE prompt_events (prompt_id text, user_id text, event_type text);
				INSERT INTO prompt_stats VALUES ('a', 1, 0, 0);),
			call => $CREATE, check => q(SELECT prompt_id = 'a' AND (SELECT count(*) FROM pg_constraint WHERE conrelid = 'prompt_stats'::regclass AND contype = 'c') = 1 FROM prompt_stats) },
		# citext, which text can't reference
		{ setup => q(CREATE EXTENSION IF NOT EXISTS citext; CREATE TABLE prompts (id citext PRIMARY KEY); INSERT INTO prompts VALUES ('a');
				CREATE TABLE prompt_stats (prompt_id citext PRIMARY KEY REFERENCES prompts, view_count bigint, copy_count bigint, fork_count bigint);
				CREATE TABLE prompt_events (prompt_id text, user_id text, event_type text);),
			call => $CREATE },
		{ setup => q(CREATE TABLE prompts (id smallint PRIMARY KEY); INSERT INTO prompts VALUES (1);
				CREATE TABLE prompt_stats (prompt_id smallint PRIMARY KEY REFERENCES prompts, view_count bigint, copy_count bigint, fork_count bigint);
				CREATE TABLE prompt_events (prompt_id bigint, user_id bigint, event_type text);),
			call => $CREATE, check => q(SELECT count(*) = 1 FROM pg_constraint WHERE conrelid = 'prompt_stats'::regclass AND contype = 'f') },
		{ setup => "$PROMPTS $STATS CREATE TYPE kind AS ENUM ('view', 'copy', 'fork');
				CREATE TABLE prompt_events (prompt_id bigint, user_id bigint, event_type kind); INSERT INTO prompt_events VALUES (1, 1, 'fork');", call => $CREATE },
		{ setup => "$PROMPTS $STATS CREATE TABLE prompt_events (prompt_id bigint, user_id bigint, event_type varchar(5));", call => $CREATE },
		{ setup => "$PROMPTS $STATS CREATE TABLE prompt_events (prompt_id text, user_id bigint, event_type text);", call => $CREATE },
	],
	q(Make it text that says 'view', 'copy', 'fork' or 'compare_add': only you know which of its values means what.) => {
		setup => "$PROMPTS $STATS CREATE TABLE prompt_events (prompt_id bigint, user_id bigint, event_type integer); INSERT INTO prompt_events VALUES (1, 1, 2);",
		call => $CREATE, then => q(ALTER TABLE prompt_events ALTER event_type TYPE text USING CASE event_type WHEN 1 THEN 'view' WHEN 2 THEN 'fork' END) },
	'Merge the rows of each prompt, and add one: %s ALTER TABLE %s ADD UNIQUE (prompt_id);' => {
		setup => "$PROMPTS CREATE TABLE prompt_stats (prompt_id bigint, view_count integer, copy_count bigint, fork_count bigint);
			INSERT INTO prompt_stats VALUES (1, 10, 1, NULL), (2, 5, 5, 5), (1, 100, NULL, NULL), (1, 1000, 0, NULL), (NULL, 1, 1, 1);",
		call => $CREATE, check => q(SELECT string_agg(s::text, ' ' ORDER BY s) = '(1,1110,1,) (2,5,5,5) (,1,1,1)' FROM prompt_stats s) },
	'Replace it with ALTER TABLE %s DROP CONSTRAINT %s%s;' => [
		{ setup => "$PROMPTS CREATE TABLE prompt_stats (prompt_id bigint UNIQUE DEFERRABLE, view_count bigint, copy_count bigint, fork_count bigint);", call => $CREATE },
		{ setup => "$PROMPTS CREATE TABLE prompt_stats (prompt_id bigint PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint, CONSTRAINT \"Twice\" UNIQUE (prompt_id) DEFERRABLE);", call => $CREATE },
	],
	'Create it with SELECT %s();' => {
		setup => "$PROMPTS SET prompt_stats.skip_setup = on; CREATE EXTENSION prompt_stats;", call => $COUNT },

	# unwritten.c, choice.c
	'Drop it, with DROP RULE %s ON %s;' => {
		setup => "$COUNTING INSERT INTO prompt_stats (prompt_id) VALUES (1); CREATE RULE \"No, thanks\" AS ON UPDATE TO prompt_stats DO INSTEAD NOTHING;",
		call => $COUNT },
	'Disable it for the while, with ALTER TABLE %s %s;' => {
		setup => "$LEGACY INSERT INTO prompt_stats (prompt_id) SELECT id FROM prompts; $KEEP
			CREATE TRIGGER \"Keep it\" BEFORE UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION keep();",
		call => 'SELECT prompt_stats_migrate_batch()' },
	'%s: mend_rights(tables)' => { tested_in => '036_unwritten' },
	'%s: writing->hint' => {
		setup => "$COUNTING $OWNED REVOKE INSERT ON prompt_stats FROM owner;", call => $COUNT },
	'%s: alteration->hint' => { tested_in => '070_hints' },
	'Look for what keeps it from that, with SELECT * FROM %s();' => { unseen => 'nothing that is known keeps a row from being updated and is not named' },
	'Restore without -j.' => { unseen => 'a parallel restore must hold the table at that moment' },
	'When they are restored, make it again with CALL %s;' => { tested_in => '009_dumps_by_owner' },
	'Choose others with SELECT %s.prompt_stats_setup();' => { tested_in => '009_dumps_by_owner' },
	'Restore with triggers enabled.' => { tested_in => '009_dumps_by_owner' },

	# xact.c
	'Count before COMMIT.' => { tested_in => '051_commit_portal' },
	'Commit before you count in the new table.' => {
		setup => $COUNTING, call => "BEGIN; $COUNT; CREATE TABLE new (LIKE prompt_stats INCLUDING ALL); SELECT prompt_stats_setup(stats => 'new'); $COUNT",
		then => '', repeat => "BEGIN; $COUNT; CREATE TABLE new (LIKE prompt_stats INCLUDING ALL); SELECT prompt_stats_setup(stats => 'new'); COMMIT; $COUNT" },
	'Flush them before it begins, with SELECT %s.prompt_stats_flush();' => { tested_in => '036_correct' },

	# preflight.c
	'%s: finding->statement' => {
		setup => "$COUNTING $KEEP CREATE TRIGGER keep AFTER INSERT ON prompt_events FOR EACH ROW EXECUTE FUNCTION keep();",
		call => 'SELECT prompt_stats_setup()', check => q(SELECT tgenabled = 'D' FROM pg_trigger WHERE tgname = 'keep') },
	'SELECT * FROM %s();' => {
		setup => "$PROMPTS $STATS $EVENTS ALTER TABLE prompt_stats ADD updated_at date;", call => $CREATE, repeat => 'SELECT' },
	'It takes the names of findings: %s.' => {
		setup => $LEGACY, call => q(SELECT prompt_stats_migrate_batch(accept => '{typo}')), then => '',
		repeat => q(SELECT prompt_stats_migrate_batch(accept => '{delete trigger,delete rule,referenced events}')) },
	'Take it out of the way, with %s or accept it, with %s' => [
		{ setup => "$LEGACY $KEEP CREATE TRIGGER keep AFTER DELETE ON prompt_events FOR EACH ROW EXECUTE FUNCTION keep();",
		call => 'CALL prompt_stats_migrate()', check => 'SELECT sum(view_count) = 10 FROM prompt_stats' },
		{ setup => "$LEGACY CREATE TABLE notes (event bigint REFERENCES prompt_events ON DELETE CASCADE);",
		call => q(SELECT prompt_stats_migrate_batch(7, 'keep')), check => 'SELECT NOT EXISTS (SELECT FROM prompt_stats)' },
		{ setup => "$LEGACY CREATE UNIQUE INDEX once ON prompt_events (prompt_id, user_id);",
		call => 'SELECT prompt_stats_enable_compat()', check => q(SELECT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'prompt_stats_reroute')) },
	],

	# rights.c
	q(Pass the name of a role, or 'public' for everybody.) => {
		setup => $COUNTING, call => 'SELECT prompt_stats_allow(NULL)', then => '', repeat => q(SELECT prompt_stats_allow('public')) },
	q(To let everybody count again, SELECT %s('public');) => {
		setup => $COUNTING, call => q(SELECT prompt_stats_allow('owner')), repeat => 'SELECT',
		check => q(SELECT has_function_privilege('anybody', 'increment_prompt_views(bigint)', 'EXECUTE')) },
	'GRANT USAGE ON SCHEMA %s TO %s;' => {
		setup => "CREATE SCHEMA ext; CREATE EXTENSION prompt_stats SCHEMA ext;", call => q(SELECT ext.prompt_stats_allow('anybody')),
		check => q(SELECT has_schema_privilege('anybody', 'ext', 'USAGE')) },
	'Make it none, with ALTER ROLE %s NOSUPERUSER;' => {
		setup => "$COUNTING CREATE ROLE root SUPERUSER; SELECT prompt_stats_deny('public');", call => q(SELECT prompt_stats_deny('root')) },
	'Take that away first, with %s' => [
		{ setup => $COUNTING, call => q(SELECT prompt_stats_deny('anybody')) },
		{ setup => "$COUNTING CREATE ROLE readers ROLE anybody; SELECT prompt_stats_allow('readers');", call => q(SELECT prompt_stats_deny('anybody')) },
		{ setup => "$COUNTING SELECT prompt_stats_deny('public'); GRANT EXECUTE ON FUNCTION increment_prompt_views(bigint) TO owner WITH GRANT OPTION;
			SET ROLE owner; GRANT EXECUTE ON FUNCTION increment_prompt_views(bigint) TO anybody; RESET ROLE;",
		call => q(SELECT prompt_stats_deny('anybody')) },
	],

	# setup.c: updated_at
	'Add it with ALTER TABLE %s ADD COLUMN updated_at timestamptz;' => {
		setup => "$PROMPTS $STATS $CREATE;", call => 'SELECT prompt_stats_setup(touch => true)',
		check => 'SELECT increment_prompt_views(1::bigint) IS NOT NULL' },

	# the install script
	'Drop them, then create the extension again:' => {
		setup => "$PROMPTS CREATE FUNCTION increment_prompt_views(n integer) RETURNS void LANGUAGE sql AS '';
			CREATE VIEW prompt_stats_live AS SELECT 1; CREATE FUNCTION prompt_stats_reset(n text) RETURNS void LANGUAGE sql AS '';", call => $CREATE },
);

# ---- walking the list

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq(
	max_prepared_transactions = 5
	prompt_stats.flush_interval = '1h'
	log_statement = none
));
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE owner LOGIN; CREATE ROLE anybody LOGIN');

sub session
{
	my ($database, @who) = @_;
	return PromptStats::Connection->new($node, 'hints', database => $database, @who) // die 'no connection';
}

sub outcome { my ($result) = @_; return $result->{outcome} eq 'error' ? "$result->{sqlstate} $result->{message}" : $result->{outcome} }

# As a pattern, of which the conversions are what it can't know
sub pattern
{
	my ($text) = @_;
	return join '', map { /^%l?[sd]$/ ? '.*' : quotemeta } split /(%l?[sd])/, $text;
}

sub statements
{
	my ($hint) = @_;
	return $hint =~ /\b((?:ALTER|BEGIN ISOLATION|CALL|CREATE|DELETE|DROP|GRANT|INSERT|RESET|REVOKE|SELECT|SET|UPDATE|WITH) [^;]*;)/g;
}

# Those of an error, or of notices
sub hints_of { my ($result) = @_; return grep { defined } $result->{hint}, @{ $result->{hints} // [] } }

my $databases = 0;

sub walk
{
	my ($name, $text, $case) = @_;
	my $database = 'hint' . ++$databases;
	my $pattern = pattern($text);

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	my $superuser = session($database);
	is(outcome($superuser->query($case->{setup})), 'ok', "$name: set up") or return;
	my $session = session($database, $case->{as} ? (user => $case->{as}) : ());
	my $blocking = session($database);
	$blocking->query($case->{blocked_by}) if $case->{blocked_by};

	# It is raised
	my $result = $session->query($case->{call});
	my ($hint) = grep { /^$pattern$/s } hints_of($result);
	ok(defined $hint, "$name: raised") or diag(join "\n", outcome($result), hints_of($result)), return;
	like($result->{context}, $case->{context}, "$name: where") if $case->{context};
	$session->query('ROLLBACK');
	$blocking->query('ROLLBACK') if $case->{blocked_by};

	# And mended
	my $repeat = $case->{repeat} // $case->{call};
	for (my $time = 1;; $time++)
	{
		my @mends = defined $case->{then} ? ($case->{then}) : statements($hint);
		ok(scalar @mends, "$name: has a statement, or a test of what it advises") or diag($hint), return;
		foreach my $mend (grep { length } @mends)
		{
			# Who calls may not be allowed to mend; BEGIN is for his session
			my $mending = $mend =~ /^BEGIN/ || !$case->{as} ? $session : $superuser;
			$result = $mending->query($mend);
			is(outcome($result), 'ok', "$name: $mend") or return;
		}
		$session = $superuser if $case->{by_superuser};
		$result = $session->query($repeat);
		last if outcome($result) eq 'ok' || $time >= ($case->{times} // 1) || !defined $result->{hint};
		$hint = $result->{hint};
	}
	is(outcome($result), 'ok', "$name: mended") or diag(hints_of($result));
	$session->query('COMMIT');
	is($superuser->query($case->{check})->{rows}[0][0], 't', "$name: as it should be") if $case->{check};
	return;
}

my %cases = @cases;

foreach my $name (sort keys %cases)
{
	ok(exists $hints{$name}, "there is a hint \"$name\"");
}
foreach my $name (sort keys %hints)
{
	my $case = $cases{$name};

	ok(defined $case, "there is a case for \"$name\"") or next;
	foreach my $one (ref $case eq 'ARRAY' ? @$case : $case)
	{
		if ($one->{unseen})
		{
			note("$name: not tested, because $one->{unseen}");
		}
		elsif ($one->{tested_in})
		{
			ok(-f "$FindBin::RealBin/$one->{tested_in}.pl", "$name: tested in $one->{tested_in}");
		}
		else
		{
			walk($name, $hints{$name}, $one);
		}
	}
}

$node->stop;
done_testing();
