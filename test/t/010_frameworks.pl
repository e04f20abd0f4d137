# What frameworks and their databases do to tables: load a schema over what is
# there, wipe it, publish every table, subscribe to that [23][24].

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q(
	fsync = off
	wal_level = logical
	max_wal_senders = 8
	max_worker_processes = 16
));
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE app LOGIN; CREATE ROLE web LOGIN; CREATE ROLE mallory LOGIN');

sub new_database
{
	my ($db, $sql) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db OWNER app");
	$node->safe_psql($db, $sql) if $sql;
	return;
}

sub as
{
	my ($role, $db, $sql) = @_;
	return $node->safe_psql($db, $sql, connstr => $node->connstr($db) . " user=$role");
}

sub error_of
{
	my ($role, $db, $sql) = @_;
	my ($ret, undef, $error) = $node->psql($db, $sql, connstr => $node->connstr($db) . " user=$role");
	return $ret ? $error : 'no error';
}

# ---- loading a schema, as schema.rb does: create_table "...", force: :cascade ----

sub schema_rb
{
	my ($schema) = @_;
	return qq(
		CREATE EXTENSION IF NOT EXISTS prompt_stats;
		DROP TABLE IF EXISTS $schema."prompt_events" CASCADE;
		CREATE TABLE $schema."prompt_events" ("id" uuid DEFAULT gen_random_uuid() NOT NULL PRIMARY KEY,
			"prompt_id" bigint NOT NULL, "user_id" bigint, "event_type" text NOT NULL, "created_at" timestamptz DEFAULT now() NOT NULL,
			CONSTRAINT prompt_events_event_type_check CHECK (event_type IS NOT NULL
				AND (event_type = ANY (ARRAY['fork'::text, 'compare_add'::text]))));
		CREATE INDEX "index_prompt_events_on_prompt_id" ON $schema."prompt_events" ("prompt_id");
		DROP TABLE IF EXISTS $schema."prompt_stats" CASCADE;
		CREATE TABLE $schema."prompt_stats" ("prompt_id" bigserial NOT NULL PRIMARY KEY, "view_count" bigint DEFAULT 0 NOT NULL,
			"copy_count" bigint DEFAULT 0 NOT NULL, "fork_count" bigint DEFAULT 0 NOT NULL, "updated_at" timestamptz);
		DROP TABLE IF EXISTS $schema."prompts" CASCADE;
		CREATE TABLE $schema."prompts" ("id" bigserial PRIMARY KEY, "title" text);
		ALTER TABLE $schema."prompt_events" ADD CONSTRAINT "fk_rails_1" FOREIGN KEY ("prompt_id") REFERENCES $schema."prompts" ON DELETE CASCADE;
		ALTER TABLE $schema."prompt_stats" ADD CONSTRAINT "fk_rails_2" FOREIGN KEY ("prompt_id") REFERENCES $schema."prompts" ON DELETE CASCADE;
		INSERT INTO $schema.prompts (title) VALUES ('one'), ('two');
	);
}

# From a session that has counted in what was there before, and from a new one
sub check_counting
{
	my ($db, $schema, $home, $what, $session) = @_;
	my $result = $session->query("SELECT $home.increment_prompt_views(1, 2)");
	is($result->{outcome}, 'ok', "$what: an old session counts") or diag "$result->{sqlstate} $result->{message}";
	as('app', $db, "SELECT $home.track_prompt_fork(2, 1), $home.increment_prompt_copies(2)");
	is(as('app', $db, "SELECT prompt_id, view_count, copy_count, fork_count FROM $schema.prompt_stats ORDER BY 1"),
		"1|2|0|0\n2|0|1|1", "$what: the counts are there");
	is(as('app', $db, "SELECT check_name, detail FROM $home.prompt_stats_verify() WHERE NOT ok"), '', "$what: verify() is content");
	return;
}

# Ends no more than tables: all of one schema
my $WIPE = q(
	DO $$
	DECLARE
		r record;
	BEGIN
		FOR r IN SELECT schemaname, tablename FROM pg_tables WHERE schemaname = 'SCHEMA' LOOP
			EXECUTE format('DROP TABLE IF EXISTS %I.%I CASCADE', r.schemaname, r.tablename);
		END LOOP;
	END $$;
);

# The tables in a schema; the extension in another, or there, too
my %homes = (public => 'public', tools => 'public', of_app => 'public', app => 'app', tools_app => 'app');
foreach my $case (sort keys %homes)
{
	my $schema = $homes{$case};
	my $home = $case =~ /^(tools|of_app)/ ? 'tools' : 'public';
	my $db = "load_$case";

	new_database($db, "CREATE SCHEMA tools; GRANT USAGE ON SCHEMA tools TO PUBLIC;"
		  . "SET prompt_stats.skip_setup = on; CREATE EXTENSION prompt_stats SCHEMA $home");
	as('app', $db, "CREATE SCHEMA app") if $schema eq 'app';
	as('app', $db, schema_rb($schema));
	as('app', $db, "SELECT $home.prompt_stats_setup('$schema.prompt_events', '$schema.prompt_stats')") unless $case eq 'of_app';
	my $session = PromptStats::Connection->new($node, 'old', user => 'app', database => $db);
	check_counting($db, $schema, $home, $case, $session);

	as('app', $db, schema_rb($schema));
	check_counting($db, $schema, $home, "$case: loaded again", $session);

	as('app', $db, $WIPE =~ s/SCHEMA/$schema/r);
	is(as('app', $db, "SELECT count(*) FROM pg_tables WHERE schemaname = '$schema'"), 0, "$case: a wipe drops every table");
	like(error_of('app', $db, "SELECT $home.increment_prompt_views(1)"), qr/table "prompt_stats" does not exist/,
		"$case: then a count says that there is none");
	as('app', $db, schema_rb($schema));
	check_counting($db, $schema, $home, "$case: loaded after a wipe", $session);

	# The whole schema, where the extension is not in it
	next if $home eq $schema;
	as('app', $db, "DROP SCHEMA $schema CASCADE; CREATE SCHEMA $schema");
	as('app', $db, schema_rb($schema));
	check_counting($db, $schema, $home, "$case: loaded after the schema was dropped", $session);

	# Tables that somebody else makes meanwhile in its place are not used
	as('app', $db, "DROP SCHEMA $schema CASCADE; GRANT CREATE ON DATABASE $db TO mallory");
	as('mallory', $db, "CREATE SCHEMA $schema");
	as('mallory', $db, schema_rb($schema));
	like(error_of('app', $db, "SELECT $home.increment_prompt_views(1)"),
		qr/table $schema.prompt_stats belongs to role "mallory", and is not used unasked.*prompt_stats_setup\(events => '$schema.prompt_events', stats => '$schema.prompt_stats'\);/s,
		"$case: a stranger's tables are not used");
	is(as('mallory', $db, "SELECT count(*) FROM $schema.prompt_stats"), 0, "$case: nothing was counted there");
}

# With the extension in it: it goes as well, and can be created again
new_database('dropped', 'CREATE EXTENSION prompt_stats');
as('app', 'dropped', 'DROP SCHEMA public CASCADE; CREATE SCHEMA public');
$node->safe_psql('dropped', 'CREATE EXTENSION prompt_stats');
as('app', 'dropped', 'SELECT increment_prompt_views(gen_random_uuid())');
is(as('app', 'dropped', 'SELECT sum(view_count) FROM prompt_stats'), 1, 'its own schema was dropped: created again, and counts');

# ---- publications of every table ----

my $LEGACY = q(
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts VALUES (1), (2);
	CREATE TABLE prompt_events (id bigserial PRIMARY KEY, prompt_id bigint NOT NULL REFERENCES prompts, user_id bigint,
		event_type text CHECK (event_type IN ('view', 'copy', 'fork', 'compare_add')), created_at timestamptz DEFAULT now());
	CREATE TABLE prompt_stats (prompt_id bigint PRIMARY KEY REFERENCES prompts, view_count integer DEFAULT 0,
		copy_count integer DEFAULT 0, fork_count integer DEFAULT 0);
	INSERT INTO prompt_events (prompt_id, event_type) SELECT 1 + n % 2, 'view' FROM generate_series(1, 100) n;
);
my %publications = (
	all_tables => [ 'CREATE PUBLICATION p FOR ALL TABLES', '' ],
	all_tables_afterwards => [ '', 'CREATE PUBLICATION p FOR ALL TABLES' ],
	in_schema => [ 'CREATE PUBLICATION p FOR TABLES IN SCHEMA public', 'ALTER PUBLICATION p ADD TABLES IN SCHEMA prompt_stats_internal' ],
	some => [ 'CREATE PUBLICATION p FOR TABLE prompt_stats, prompt_events',
		'ALTER PUBLICATION p ADD TABLE prompt_stats_internal.config, prompt_stats_internal.migration' ]);

foreach my $case (sort keys %publications)
{
	my ($before, $after) = @{ $publications{$case} };
	my $db = "publish_$case";

	new_database($db, $LEGACY . $before);
	$node->safe_psql($db, 'CREATE EXTENSION prompt_stats');
	$node->safe_psql($db, $after) if $after;
	$node->safe_psql($db, 'SELECT prompt_stats_setup()');
	$node->safe_psql($db, 'SELECT prompt_stats_enable_compat()');
	$node->safe_psql($db, 'SELECT prompt_stats_migrate_batch(30)');
	$node->safe_psql($db, 'CALL prompt_stats_migrate()');
	$node->safe_psql($db, 'SELECT prompt_stats_teardown(), increment_prompt_views(1), track_prompt_fork(2, 1)');
	is($node->safe_psql($db, 'SELECT prompt_id, view_count, fork_count FROM prompt_stats ORDER BY 1'), "1|51|0\n2|50|1",
		"$case: setup, migration and counting");
	$node->safe_psql($db, 'DROP EXTENSION prompt_stats');
	$node->safe_psql($db, 'CREATE EXTENSION prompt_stats; SELECT increment_prompt_views(1)');
	is($node->safe_psql($db, 'SELECT view_count FROM prompt_stats WHERE prompt_id = 1'), 52, "$case: created again");
}

# ---- a subscriber to all of them, with the extension and its tables there ----

{
	my ($publisher, $subscriber) = ('publish_all_tables', 'subscriber');
	my ($schema) = run_command([ 'pg_dump', '-s', '-d', $node->connstr($publisher), '--no-publications' ]);
	my $slot = 'slot';

	new_database($subscriber);
	$node->safe_psql($subscriber, $schema);
	$node->safe_psql($subscriber, 'SELECT prompt_stats_setup()');

	# In one server the slot comes first
	$node->safe_psql($publisher, "SELECT pg_create_logical_replication_slot('$slot', 'pgoutput')");
	my $connection = $node->connstr($publisher) =~ s/'/''/gr;
	$node->safe_psql($subscriber, "CREATE SUBSCRIPTION s CONNECTION '$connection' PUBLICATION p"
		  . " WITH (create_slot = false, slot_name = '$slot')");
	ok(PromptStats::wait_until($node, "SELECT count(*) = 1 FROM pg_stat_subscription WHERE subname = 's' AND received_lsn IS NOT NULL"),
		'the subscription is there');
	$node->poll_query_until($subscriber, q(SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel))
	  or die 'the tables are not in step';
	is($node->safe_psql($subscriber, 'SELECT events, stats, migration FROM prompt_stats_internal.config'), 'prompt_events|prompt_stats|',
		'the row of the publisher replaced that of the subscriber');

	# What the publisher writes about itself arrives there
	$node->safe_psql($publisher, 'ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check');
	$node->safe_psql($subscriber, 'ALTER TABLE prompt_events DROP CONSTRAINT prompt_events_event_type_check');
	$node->safe_psql($publisher, q(INSERT INTO prompt_events (prompt_id, event_type) SELECT 1, 'view' FROM generate_series(1, 10)));
	$node->safe_psql($publisher, 'SELECT prompt_stats_setup()');
	$node->safe_psql($publisher, 'CALL prompt_stats_migrate()');
	$node->safe_psql($publisher, 'SELECT increment_prompt_views(1)');
	$node->wait_for_catchup('s');
	is($node->safe_psql($subscriber, 'SELECT view_count FROM prompt_stats WHERE prompt_id = 1'),
		$node->safe_psql($publisher, 'SELECT view_count FROM prompt_stats WHERE prompt_id = 1'), 'the counters are the same');
	is($node->safe_psql($subscriber, 'SELECT migration, (SELECT rows_moved FROM prompt_stats_migration_progress) FROM prompt_stats_internal.config'),
		'|10', 'so is the progress of the migration');
	$node->safe_psql($subscriber, 'DROP SUBSCRIPTION s');
}

done_testing();
