# Durability "async", and who may see what is pending, who its triggers run as, whose
# setting of the durability it is, and what the ledger tells to whom [4][6][9][10].

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq(
	prompt_stats.durability = async
	prompt_stats.flush_interval = '1h'
	log_statement = none
));
$node->start;

sub sql { return $node->safe_psql('postgres', $_[0]) }

# In a session of that role
sub sql_of { return $node->safe_psql('postgres', $_[1], extra_params => [ '-U', $_[0] ]) }
sub session { return PromptStats::Connection->new($node, 'test') // die 'no connection' }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }
sub views { return sql("SELECT view_count FROM prompt_stats WHERE prompt_id = $_[0]") }
sub status { return sql("SELECT $_[0] FROM prompt_stats_status") }
sub flush { sql('SELECT prompt_stats_flush()'); return }
my $LEDGER = 'accepted = flushed + pending + rejected';

sql(q(
	CREATE ROLE shop NOLOGIN;
	CREATE ROLE reader LOGIN;
	CREATE ROLE plain LOGIN;
	CREATE ROLE monitor LOGIN IN ROLE pg_read_all_stats;
	CREATE ROLE anon LOGIN;
	CREATE ROLE careful LOGIN;
	GRANT CREATE ON SCHEMA public TO shop;
	SET ROLE shop;
	CREATE TABLE prompts (id bigint PRIMARY KEY);
	INSERT INTO prompts SELECT generate_series(1, 100);
	RESET ROLE;
	CREATE EXTENSION prompt_stats;
	INSERT INTO prompt_stats (prompt_id) SELECT generate_series(1, 50);
));

# Calls until there is a flusher, which the first call starts
sub wait_for_flusher
{
	foreach (1 .. 1800)
	{
		sql('SELECT increment_prompt_copies(50)');
		return ok(1, 'there is a flusher') if status('flusher') eq 'ready';
		usleep(100_000);
	}
	return ok(0, 'there is a flusher');
}

# ---- what is pending, under row level security

wait_for_flusher();
flush();
sql(q(
	GRANT SELECT ON prompt_stats TO reader;
	ALTER TABLE prompt_stats ENABLE ROW LEVEL SECURITY;
	CREATE POLICY odd ON prompt_stats FOR SELECT TO reader USING (prompt_id % 2 = 1);
));

# Two with rows, and two without
sql('SELECT increment_prompt_views(ARRAY[1, 2, 51, 52]::bigint[], 5)');
my $ONE = "SELECT string_agg(concat_ws(' ', i, view_count, pending), ', ' ORDER BY i)
	FROM unnest(ARRAY[1, 2, 3, 51, 52]::bigint[]) AS i, get_prompt_stats(i)";
my $ALL = "SELECT string_agg(concat_ws(' ', prompt_id, view_count, pending), ', ' ORDER BY prompt_id::bigint)
	FROM prompt_stats_live WHERE pending > 0 OR prompt_id = '3'";
my $SEES_ODD = '1 5 5, 2 0 0, 3 0 0, 51 0 0, 52 0 0';
my $SEES_ALL = '1 5 5, 2 5 5, 3 0 0, 51 5 5, 52 5 5';
is(sql_of('reader', $ONE), $SEES_ODD, 'get_prompt_stats(): only of rows that the policy shows');
is(sql_of('reader', $ALL), '1 5 5, 3 0 0', 'prompt_stats_live: the same');
is(sql_of('reader', 'SELECT bool_and(prompt_id::bigint % 2 = 1), count(*) FROM prompt_stats_live'), 't|25', 'and no row else');
my $session = session();
foreach my $role ('shop', 'reader', 'shop')
{
	$session->query("SET ROLE $role");
	my ($one, $all) = $role eq 'shop' ? ($SEES_ALL, $SEES_ALL) : ($SEES_ODD, '1 5 5, 3 0 0');
	is($session->query($ONE)->{rows}[0][0], $one, "one session, now as $role: one");
	is($session->query($ALL)->{rows}[0][0], $all, "one session, now as $role: all");
}
$session->query('RESET ROLE');
flush();
is(sql_of('reader', $ONE), '1 5 0, 2 0 0, 3 0 0, 51 5 0, 52 0 0', 'flushed: the same rows');
is(sql('SELECT count(*) FROM prompt_stats WHERE prompt_id IN (1, 2, 51, 52) AND view_count = 5'), 4, 'all are counted');
sql('DROP POLICY odd ON prompt_stats; ALTER TABLE prompt_stats DISABLE ROW LEVEL SECURITY');

# ---- triggers: once for each row, as the owner, and no way up

my $superuser = sql('SELECT quote_ident(current_user)');
sql(qq(
	CREATE TABLE seen (kind text, prompt_id bigint, added bigint, who text, session text, path text, pid integer, got_away text);
	ALTER TABLE seen OWNER TO shop;
	CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS \$\$
	DECLARE step text; away text := '';
	BEGIN
		INSERT INTO public.seen VALUES (TG_NAME, NEW.prompt_id, NEW.view_count - OLD.view_count, current_user, session_user,
			current_setting('search_path'), pg_backend_pid(), '');
		FOREACH step IN ARRAY ARRAY['SET ROLE $superuser', 'RESET ROLE', 'SET SESSION AUTHORIZATION $superuser',
			'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION DEFAULT', 'SET ROLE NONE', 'SET LOCAL ROLE $superuser'] LOOP
			BEGIN
				EXECUTE step;
				IF current_user <> 'shop' OR session_user <> 'shop' OR current_setting('is_superuser') <> 'off' THEN
					away := away || step || '; ';
				END IF;
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
		END LOOP;
		IF away <> '' THEN
			UPDATE public.seen SET got_away = away WHERE kind = TG_NAME AND prompt_id = NEW.prompt_id;
		END IF;
		SET default_transaction_read_only = on;
		RETURN NULL;
	END \$\$;
	ALTER FUNCTION spy() OWNER TO shop;
	SET ROLE shop;
	CREATE TRIGGER plain AFTER UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id < 40) EXECUTE FUNCTION spy();
	CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON prompt_stats
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.prompt_id < 40) EXECUTE FUNCTION spy();
));
wait_for_flusher();
foreach my $turn (1 .. 2)
{
	sql('TRUNCATE seen');
	sql('SELECT increment_prompt_views(ARRAY[11, 12, 13]::bigint[]), increment_prompt_views(11, 4)') for 1 .. 3;
	is(sql('SELECT count(*) FROM seen'), 0, "turn $turn: nobody has folded yet");
	my $pid = status('flusher_pid');
	flush();
	is(sql("SELECT kind, prompt_id, count(*), sum(added) FROM seen GROUP BY 1, 2 ORDER BY 1, 2"),
		"deferred|11|1|15\ndeferred|12|1|3\ndeferred|13|1|3\nplain|11|1|15\nplain|12|1|3\nplain|13|1|3", "turn $turn: each trigger runs once for each row");
	is(sql('SELECT DISTINCT who, session, path FROM seen'), 'shop|shop|pg_catalog, public, pg_temp', "turn $turn: as the owner");
	is(sql("SELECT string_agg(got_away, '') FROM seen"), '', "turn $turn: nothing leads away from it");
	is(sql("SELECT bool_and(pid = $pid) FROM seen"), 't', "turn $turn: in the flusher");
}
sql('DROP FUNCTION spy() CASCADE');

# Triggers that count another prompt: one that is pending itself, after and before
sql(q(
	CREATE FUNCTION pass_on() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN PERFORM public.increment_prompt_views(NEW.prompt_id + 1); RETURN NEW; END $$;
	ALTER FUNCTION pass_on() OWNER TO shop;
	SET ROLE shop;
	CREATE TRIGGER pass_on_after AFTER UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id IN (21, 24)) EXECUTE FUNCTION pass_on();
	CREATE TRIGGER pass_on_before BEFORE UPDATE ON prompt_stats FOR EACH ROW WHEN (NEW.prompt_id = 27) EXECUTE FUNCTION pass_on();
));
wait_for_flusher();
my $rejected = status('rejected');
sql('SELECT increment_prompt_views(ARRAY[21, 24, 25, 27, 28, 29]::bigint[], 10)');
flush();
is(join(' ', map { views($_) } 21, 22, 24, 25, 27, 28, 29), '10 1 10 11 10 11 10', 'a trigger counts another prompt, in the flusher');
is(status("rejected - $rejected, pending, $LEDGER"), '0|0|t', 'the ledger adds up');
sql('DROP FUNCTION pass_on() CASCADE');

# ---- the ledger, and what it tells to whom

is(status('last_rejected_at IS NULL AND last_rejected IS NULL'), 't', 'nothing was rejected yet');
my $since = status('ledger_since');
is(status("ledger_since < clock_timestamp() AND ledger_since > pg_postmaster_start_time()"), 't', 'since when');
wait_for_flusher();
flush();
my $flushes = status('flushes');
sql('SELECT increment_prompt_views(array_agg(i)) FROM generate_series(1::bigint, 40) AS i');
is(status('entries >= 40 AND max_entries > entries'), 't', 'forty prompts are in memory');
is(status('flushes') - $flushes, 0, 'no flush meanwhile');
flush();
cmp_ok(status('flushes'), '>', $flushes, 'and then one');

my $before = sql('SELECT clock_timestamp()');
sql('SELECT increment_prompt_views(999, 3)');
flush();
is(status("last_rejected_at BETWEEN '$before' AND clock_timestamp()"), 't', 'when one was rejected');
my $reason = 'SELECT last_rejected FROM prompt_stats_status';
like(sql($reason), qr/foreign key|does not exist|not present/, 'and why');
is(sql("SET ROLE shop; $reason"), sql($reason), 'the owner is told, too');
is(sql_of('monitor', $reason), sql($reason), 'and pg_read_all_stats');
is(sql_of('plain', "SELECT last_rejected IS NULL, last_rejected_at IS NOT NULL, rejected FROM prompt_stats_status"), 't|t|3', 'anybody else is told that, but not why');

my $REASONS = 'SELECT sum(value::bigint) FROM jsonb_each_text(own_fold_reasons)';
my $own = status('own_folds');
sql('BEGIN; SELECT increment_prompt_views(30, 4); SELECT txid_current(); COMMIT');
is(status("own_folds - $own, own_folds = ($REASONS)"), '4|t', 'own folds are in counts, and each has its reason');
my $file = "$PostgreSQL::Test::Utils::tmp_check/033_group.sql";
append_to_file($file, "SELECT increment_prompt_views(31, 2);\n");
my $had = views(31);
my ($groups, $grouped, $accepted, $folded) = split /\|/, status('groups, grouped_transactions, accepted, own_folds');
{
	local $ENV{PGOPTIONS} = '-c prompt_stats.durability=group';
	$node->command_ok([ 'pgbench', '-n', '-c', 16, '-j', 2, '-t', 200, '-f', $file, 'postgres' ], 'groups');
}
is(views(31) - $had, 6400, 'they are exact');
is(status('largest_group BETWEEN 2 AND 16'), 't', 'the largest group');
is(status("groups - $groups < grouped_transactions - $grouped AND grouped_transactions - $grouped <= 3200"), 't', 'transactions in groups');
is(status("accepted - $accepted + own_folds - $folded, own_folds = ($REASONS)"), '6400|t', 'each count was handed over, or folded by its caller');
is(status("(accepted - $accepted) / 2 = grouped_transactions - $grouped"), 't', 'and what was handed over went through groups');
is(status('ledger_since'), $since, 'it is the same ledger');

# ---- EXECUTE is enough, and the durability that a role or a database has

$node->append_conf('postgresql.conf', 'prompt_stats.durability = group');
$node->reload;
ok($node->poll_query_until('postgres', "SELECT current_setting('prompt_stats.durability') = 'group'"), 'group for everybody');
sql(q(
	REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;
	GRANT EXECUTE ON FUNCTION increment_prompt_views(bigint) TO anon, careful;
	ALTER ROLE anon SET prompt_stats.durability = 'async';
	ALTER ROLE careful SET prompt_stats.durability = 'transaction';
	GRANT SELECT ON prompt_stats TO careful;
));
sub wait_for_anon
{
	foreach (1 .. 1800)
	{
		sql_of('anon', 'SELECT increment_prompt_views(32)');
		return ok(1, 'there is a flusher') if status('flusher') eq 'ready';
		usleep(100_000);
	}
	return ok(0, 'there is a flusher');
}
wait_for_anon();
$had = views(33);
sql_of('anon', 'SELECT increment_prompt_views(33)') for 1 .. 3;
is(views(33) - $had, 0, 'a role with async: not in the table');
is(sql('SELECT pending FROM get_prompt_stats(33)'), 3, 'but pending');
flush();
is(views(33) - $had, 3, 'and flushed, whatever rights it has on the table');
my ($ret, $stdout, $stderr) = $node->psql('postgres', 'SELECT * FROM prompt_stats', extra_params => [ '-U', 'anon' ]);
like($stderr, qr/permission denied/, 'which are none');

$had = views(34);
is(sql_of('careful', "BEGIN; SELECT increment_prompt_views(34); SELECT view_count - $had FROM prompt_stats WHERE prompt_id = 34; COMMIT"),
	"\n1", 'a role with transaction: reads what it counted');
sql('SELECT increment_prompt_views(34)');
is(views(34) - $had, 2, 'all others have group: it is in the table');
sql(q(ALTER DATABASE postgres SET prompt_stats.durability = 'async'));
wait_for_flusher();
sql('SELECT increment_prompt_views(34)');
is(views(34) - $had, 2, 'a database with async: not in the table');
is(sql_of('careful', "BEGIN; SELECT increment_prompt_views(49); SELECT view_count FROM prompt_stats WHERE prompt_id = 49; COMMIT"),
	"\n1", 'a role that has its own keeps it');
flush();
is(views(34) - $had, 3, 'but flushed');

$node->stop;
unlike(slurp_file($node->logfile), qr/deadlock detected|PANIC|TRAP:|terminated by signal/, 'nothing crashed');
done_testing();
