# What can't succeed: rejected with its reason, after a bounded number of tries, while others are
# counted and prompt_stats_flush() comes to an end; and nothing that could succeed [7] [21] [27].

use strict;
use warnings FATAL => 'all';
use utf8;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PromptStats;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => [ '--encoding=UTF8', '--no-locale' ]);
$node->append_conf('postgresql.conf', qq(
	prompt_stats.durability = async
	prompt_stats.flush_interval = '1h'
	log_statement = none
));
$node->start;

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub session { return PromptStats::Connection->new($node, 'test') // die 'no connection' }
sub outcome { my ($result) = @_; return $result->{sqlstate} // $result->{outcome} }
sub views { return sql("SELECT coalesce(sum(view_count), 0) FROM prompt_stats WHERE prompt_id = '$_[0]'") }
sub status { return sql("SELECT $_[0] FROM prompt_stats_status") }
my $LEDGER = 'accepted = flushed + pending + rejected';

# Comes to an end: the SQLSTATE, or ok
sub flush
{
	my ($limit) = @_;
	$limit //= '30s';
	return outcome(session()->query("SET statement_timeout = '$limit'; SELECT prompt_stats_flush()"));
}

# Calls until there is a flusher, which the first call starts
sub wait_for_flusher
{
	my ($id) = @_;
	foreach (1 .. 1800)
	{
		sql("SELECT increment_prompt_copies('$id')");
		return flush() if status('flusher') eq 'ready';
		usleep(100_000);
	}
	die 'there is no flusher';
}

# ---- ids as an assignment brings them to their column

sql(q(
	CREATE TABLE prompt_events (id bigserial PRIMARY KEY, prompt_id varchar(10) NOT NULL, user_id bigint, event_type text);
	CREATE TABLE prompt_stats (prompt_id varchar(10) PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
	CREATE EXTENSION prompt_stats;
));
wait_for_flusher('a');
sql(q(SELECT increment_prompt_views('abcdefghij   '))) for 1 .. 3;
is(sql(q(SELECT view_count, pending FROM get_prompt_stats('abcdefghij  '))), '3|3', 'blanks beyond the length: pending, and read');
is(flush(), 'ok', 'flushed');
is(sql(q(SELECT prompt_id, view_count FROM prompt_stats WHERE prompt_id <> 'a')), 'abcdefghij|3', 'in the row of what is stored');
foreach my $mode (qw(group transaction))
{
	sql(qq(SET prompt_stats.durability = '$mode'; SELECT increment_prompt_views('abcdefghij '), increment_prompt_views(ARRAY['abcdefghij  ', 'abcdefghij'])));
}
sql(q(BEGIN; SELECT increment_prompt_views('abcdefghij '), track_prompt_fork('abcdefghij   ', 1); COMMIT));
flush();
is(sql(q(SELECT prompt_id, view_count, fork_count FROM prompt_stats WHERE prompt_id <> 'a')), 'abcdefghij|10|1', 'in every way to count');

# Characters, not bytes
my ($ret, $stdout, $stderr) = $node->psql('postgres', q(SELECT increment_prompt_views('äöüßäöüßäö  '), increment_prompt_views('äöüßäöüßäö')));
is($ret, 0, 'ten characters of two bytes');
foreach my $id ('äöüßäöüßäöü', 'x' . 'äöü' x 100_000, 'äöü' x 100_000)
{
	($ret, $stdout, $stderr) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT increment_prompt_views('$id')");
	like($stderr, qr/22001: id "[^"]{11,110}" is too long for column "prompt_id" of table public.prompt_stats\n.*\nHINT: /, 'eleven, or more: an error, which shows its beginning');
}
is(flush(), 'ok', 'flushed');
is(views('äöüßäöüßäö'), 2, 'one row');

# A column that becomes too narrow for what is pending
sql(q(SELECT increment_prompt_views('1234567890', 7), increment_prompt_views('12345', 2)));
sql(q(DELETE FROM prompt_stats; ALTER TABLE prompt_stats ALTER prompt_id TYPE varchar(5)));
is(flush(), 'ok', 'a column that has become too narrow');
is(status("rejected, last_rejected, $LEDGER"), '7|id "1234567890" is too long for column "prompt_id" of table public.prompt_stats|t', 'is a reason to reject');
is(views('12345'), 2, 'what fits is counted');
sql('DROP EXTENSION prompt_stats; DROP TABLE prompt_stats, prompt_events');

# ---- triggers that store a row under another id

sql(q(
	CREATE TABLE prompt_events (id bigserial PRIMARY KEY, prompt_id text NOT NULL, user_id bigint, event_type text);
	CREATE TABLE prompt_stats (prompt_id text PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
	CREATE FUNCTION tidy_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.prompt_id := lower(btrim(NEW.prompt_id)); RETURN NEW; END $$;
	CREATE TRIGGER tidy_row BEFORE INSERT ON prompt_stats FOR EACH ROW EXECUTE FUNCTION tidy_row();
	CREATE EXTENSION prompt_stats;
));

# One at a time, or in lists; ids that are there, that are not yet, and that never will be
sub in_capitals
{
	my ($mode, $turn) = @_;
	my @ids = map { "'" . (' ' x int(rand 2)) . ('p', 'P')[ rand 2 ] . int(rand 20) . "$mode'" } 1 .. 3;
	my $argument = $turn % 2 ? 'ARRAY[' . join(', ', @ids) . ']' : $ids[0];
	return ("SET prompt_stats.durability = '$mode'; SELECT increment_prompt_views($argument)", { all => $turn % 2 ? 3 : 1 });
}
foreach my $mode (qw(transaction group async))
{
	my $had = sql('SELECT coalesce(sum(view_count), 0) FROM prompt_stats');
	my $load = PromptStats::Load->start($node, 6, sub { return in_capitals($mode, $_[1]) }, 60);
	my $told = $load->finish;
	is(flush(), 'ok', "$mode: ids in capitals are flushed");
	is(PromptStats::Load::differences($told, { all => sql('SELECT sum(view_count) FROM prompt_stats') - $had }), '', "$mode: each is counted");

	# Lists in which a trigger changes the order can meet each other
	is(join(' ', grep { !/^40P01/ } keys %{ $told->{errors} }), '', "$mode: no other errors");
	is(sql('SELECT count(*) FROM prompt_stats WHERE prompt_id <> lower(btrim(prompt_id))'), 0, "$mode: in rows as the trigger wants them");
	is(status("pending, $LEDGER"), '0|t', "$mode: the ledger adds up");
}
sql('DROP TRIGGER tidy_row ON prompt_stats; DROP FUNCTION tidy_row()');

# ---- triggers that fail for one prompt, with whatever class of error

# Of existing rows and of new ones; "lucky" succeeds at its second try, for a sequence is not rolled back
sql(q(
	DELETE FROM prompt_stats;
	INSERT INTO prompt_stats SELECT 'old ' || i, 0, 0, 0 FROM generate_series(1, 50) AS i;
	INSERT INTO prompt_stats VALUES ('old culprit', 0, 0, 0), ('old lucky', 0, 0, 0);
	CREATE SEQUENCE tries;
	CREATE TABLE failing (code text, message text DEFAULT 'not this one');
	CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
	DECLARE f public.failing;
	BEGIN
		SELECT * INTO f FROM public.failing;
		IF NEW.prompt_id ~ 'culprit' AND f.code = 'sleep' THEN
			PERFORM pg_sleep(60);
		ELSIF NEW.prompt_id ~ 'culprit' AND f.code = 'die' THEN
			PERFORM public.end_process();
		ELSIF NEW.prompt_id ~ 'culprit' AND FOUND THEN
			RAISE EXCEPTION USING MESSAGE = f.message, ERRCODE = f.code;
		ELSIF NEW.prompt_id ~ 'lucky' AND f.code ~ '^(4|5|XX)' AND nextval('public.tries') % 2 = 1 THEN
			RAISE EXCEPTION USING MESSAGE = 'another time', ERRCODE = f.code;
		END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON prompt_stats FOR EACH ROW EXECUTE FUNCTION fail();
));

sub count_all
{
	my ($kind) = @_;
	sql("SET session_replication_role = replica; UPDATE prompt_stats SET view_count = 0; DELETE FROM prompt_stats WHERE prompt_id ~ 'new'");
	sql("SELECT increment_prompt_views('$kind ' || i, 2) FROM generate_series(1, 50) AS i");
	sql("SELECT increment_prompt_views('$kind culprit', 5), increment_prompt_views('$kind lucky', 3)");
	return;
}
sub counted_others
{
	my ($kind) = @_;
	return sql("SELECT count(*) FROM prompt_stats WHERE prompt_id ~ '^$kind [0-9]+\$' AND view_count = 2");
}
wait_for_flusher('old 1');

# class => what becomes of the one that never succeeds: how often it is tried, and what is said
my %reason = (
	'23514' => qr/^not this one$/,
	'40001' => qr/^failed 10 times: not this one$/,
	'40P01' => qr/^failed 10 times: not this one$/,
	'XX000' => qr/^failed 10 times: not this one$/,
	'57014' => qr/^ended 5 times: not this one$/,
);
foreach my $code (sort keys %reason)
{
	foreach my $kind ('old', 'new')
	{
		my $rejected = status('rejected');
		sql("DELETE FROM failing; INSERT INTO failing VALUES ('$code'); SELECT setval('tries', 2)");
		count_all($kind);
		is(flush(), 'ok', "$code, $kind row: the flush comes to an end");
		is(counted_others($kind), 50, "$code, $kind row: all others are counted");
		is(views("$kind culprit"), 0, "$code, $kind row: the culprit is not");
		is(views("$kind lucky"), 3, "$code, $kind row: who succeeds at the second try is counted");
		is(status("rejected - $rejected, pending, $LEDGER"), '5|0|t', "$code, $kind row: the ledger knows");
		like(status('last_rejected'), $reason{$code}, "$code, $kind row: and the reason");
	}
}

# What looks as if nothing could be written stays pending, and a flush says so
foreach my $kind ('old', 'new')
{
	my $rejected = status('rejected');
	my $log = -s $node->logfile;
	sql("DELETE FROM failing; INSERT INTO failing VALUES ('53100', 'the disk is full'); SELECT setval('tries', 2)");
	count_all($kind);
	my @outcomes = map { flush() } 1 .. 12;
	is("@outcomes", join(' ', ('55000') x 12), "53100, $kind row: a flush ends with an error");
	is(counted_others($kind), 50, "53100, $kind row: all others are counted");
	is(views("$kind lucky"), 3, "53100, $kind row: and who is lucky");
	is(status("rejected - $rejected, pending, $LEDGER"), '0|5|t', "53100, $kind row: the culprit is pending");
	like(slurp_file($node->logfile, $log), qr/could not flush counts, which stay pending: the disk is full/, 'the log says why');
	my $flushes = status('flushes');
	usleep(500_000);
	cmp_ok(status('flushes') - $flushes, '<', 5, 'and the flusher does not run in circles');
	sql('DELETE FROM failing');
	is(flush(), 'ok', "53100, $kind row: when it is over");
	is(views("$kind culprit"), 5, "53100, $kind row: it is counted");
}

# All fail so: the flush ends, and nothing is rejected
{
	my $rejected = status('rejected');
	sql(q(INSERT INTO failing VALUES ('53100', 'the disk is full')));
	sql("SELECT increment_prompt_views('culprit ' || i, 2) FROM generate_series(1, 500) AS i");
	is(flush(), '55000', 'a disk that is full: a flush ends with an error');
	is(status("rejected - $rejected, pending, $LEDGER"), '0|1000|t', 'and all are pending');
	sql('DELETE FROM failing');
	is(flush(), 'ok', 'and then flushed');
	is(sql("SELECT count(*), sum(view_count) FROM prompt_stats WHERE prompt_id ~ '^culprit'"), '500|1000', 'exactly');
}

# One that comes again and again after it was rejected is alone from the start
{
	sql(q(INSERT INTO failing VALUES ('57014')));
	foreach my $turn (1 .. 3)
	{
		count_all('old');
		is(flush(), 'ok', "turn $turn: flushed");
		is(counted_others('old'), 50, "turn $turn: all others are counted");
	}
	sql('DELETE FROM failing');
	sql(q(SELECT increment_prompt_views('old culprit', 4)));
	is(flush(), 'ok', 'when it can succeed');
	is(views('old culprit'), 4, 'it is counted');
}

# A trigger that takes longer than a fold may
{
	my $rejected = status('rejected');
	my $began = time;
	sql(q(INSERT INTO failing VALUES ('sleep')));
	count_all('old');
	my $waiting = session();
	$waiting->send_query("SET statement_timeout = '100s'; SELECT prompt_stats_flush()");
	ok($node->poll_query_until('postgres', q(SELECT count(*) = 50 FROM prompt_stats WHERE prompt_id ~ '^old [0-9]+$' AND view_count = 2)),
		'a trigger that never ends: all others are counted');
	cmp_ok(time - $began, '<', 45, 'soon');
	is(outcome($waiting->read_result), 'ok', 'the flush comes to an end');
	cmp_ok(time - $began, '<', 90, 'not much later');
	is(status("rejected - $rejected, pending, $LEDGER"), '5|0|t', 'the culprit is rejected');
	like(status('last_rejected'), qr/^ended 5 times: canceling statement due to /, 'with a reason');
	sql('DELETE FROM failing');
}

# A trigger that ends the flusher itself: the next one knows
my $top = "$FindBin::RealBin/../..";
my $build = PostgreSQL::Test::Utils::tempdir();
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
{
	local $ENV{MAKEFLAGS} = '';
	system_or_bail('cp', '-r', "$top/test/end_process", $build);
	system_or_bail('make', '-s', '-C', "$build/end_process", 'with_llvm=no', "PG_CONFIG=$pg_config", 'end_process.so');
	chmod 0755, $build, "$build/end_process";
	sql("CREATE FUNCTION end_process() RETURNS void LANGUAGE c AS '$build/end_process/end_process.so'");
	foreach my $kind ('old', 'new')
	{
		my $rejected = status('rejected');
		sql(q(INSERT INTO failing VALUES ('die')));
		count_all($kind);
		is(flush('60s'), 'ok', "$kind row, a trigger that ends the flusher: the flush comes to an end");
		is(counted_others($kind), 50, "$kind row: all others are counted");
		is(status("rejected - $rejected, pending, $LEDGER"), '5|0|t', "$kind row: the culprit is rejected");
		like(status('last_rejected'), qr/^ended 5 times$/, "$kind row: with a reason");
		sql('DELETE FROM failing');
		wait_for_flusher('old 1');
	}
	my $ends = () = slurp_file($node->logfile) =~ /FATAL:  end_process\(\) was called/g;
	is($ends, 10, 'so many flushers died of it');
}

# ---- locks are waited for, however long they last

sql(q(
	CREATE TABLE parents (id text PRIMARY KEY);
	INSERT INTO parents SELECT prompt_id FROM prompt_stats UNION SELECT unnest('{new 1,locked}'::text[]);
	ALTER TABLE prompt_stats ADD FOREIGN KEY (prompt_id) REFERENCES parents ON DELETE CASCADE;
	DELETE FROM prompt_stats WHERE prompt_id IN ('new 1', 'locked');
));
wait_for_flusher('old 1');
{
	my $rejected = status('rejected');
	my $locker = session();
	is(outcome($locker->query(q(BEGIN; SELECT FROM prompt_stats WHERE prompt_id = 'old 2' FOR UPDATE; SELECT FROM parents WHERE id = 'locked' FOR UPDATE))), 'ok', 'locked');
	my $had = views('old 2');
	my $first = views('old 1');
	sql(q(SELECT increment_prompt_views(ARRAY['old 1', 'old 2', 'locked', 'new 1'])));
	my $flushes = status('flushes');
	is(flush('3s'), '57014', 'a locked row, and one that can not be made: a flush waits');
	cmp_ok(status('flushes') - $flushes, '>', 20, 'for more tries than any other cause gets');
	is(status("rejected - $rejected, pending, $LEDGER"), '0|2|t', 'they are pending');
	is(views('old 1') - $first . views('new 1'), '11', 'others are counted');
	$locker->query('COMMIT');
	is(flush(), 'ok', 'unlocked');
	is(views('old 2') - $had . views('locked'), '11', 'they are counted');
}
sql('DROP TABLE parents CASCADE');

# ---- policies that hide a row from its owner

sql(q(
	CREATE ROLE shop;
	GRANT USAGE, CREATE ON SCHEMA public TO shop;
	ALTER TABLE prompt_stats OWNER TO shop;
	ALTER TABLE prompt_events OWNER TO shop;
	GRANT SELECT ON failing TO shop;
	GRANT USAGE ON SEQUENCE tries TO shop;
	CREATE POLICY look ON prompt_stats FOR SELECT USING (true);
	ALTER TABLE prompt_stats ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
));
{
	my $rejected = status('rejected');
	sql(q(SELECT increment_prompt_views('old 1', 3)));
	sql(q(SELECT increment_prompt_views('old 1', 3))) while status('pending') eq '0';
	is(flush(), 'ok', 'policies that let the owner see, but not write: the flush comes to an end');
	is(status("rejected - $rejected > 0, pending, $LEDGER"), 't|0|t', 'rejected');
	like(status('last_rejected'), qr/could not count prompt old 1 in table public.prompt_stats/, 'with a reason');
	my $result = session()->query(q(SET prompt_stats.durability = 'group'; SELECT increment_prompt_views('old 1')));
	is(outcome($result), '42501', 'who waits is told');
}
sql('ALTER TABLE prompt_stats NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY; DROP POLICY look ON prompt_stats');

# ---- a reason is cut at a character, and told to the owner of the table that was meant

sql(q(CREATE ROLE reader; CREATE ROLE neighbour; CREATE ROLE monitor IN ROLE pg_read_all_stats));
foreach my $message ('ä' x 200, 'x' . 'ä' x 200, '€' x 200, 'x' . '€' x 200, 'xx' . '€' x 200)
{
	$node->safe_psql('postgres', "DELETE FROM failing; INSERT INTO failing VALUES ('23514', '$message'); SELECT increment_prompt_views('old culprit')");
	is(flush(), 'ok', 'a long reason');
	is(sql("SELECT octet_length(last_rejected) BETWEEN 252 AND 255 AND convert_from(convert_to(last_rejected, 'UTF8'), 'UTF8') <> ''
		AND starts_with((SELECT message FROM failing), last_rejected) FROM prompt_stats_status"), 't', 'is cut at a character');
}
my $TOLD = 'SELECT last_rejected IS NOT NULL, last_rejected_at IS NOT NULL FROM prompt_stats_status';
is(sql("SET ROLE $_->[0]; $TOLD"), $_->[1], "told to $_->[0]") foreach [ 'shop', 't|t' ], [ 'monitor', 't|t' ], [ 'reader', 'f|t' ], [ 'neighbour', 'f|t' ];

# Another table in its place: the ids of the first are not for its owner
sql(q(
	GRANT CREATE ON SCHEMA public TO neighbour;
	SET ROLE neighbour;
	CREATE TABLE other_events (id bigserial PRIMARY KEY, prompt_id text NOT NULL, user_id bigint, event_type text);
	CREATE TABLE other_stats (prompt_id text PRIMARY KEY, view_count bigint, copy_count bigint, fork_count bigint);
	RESET ROLE;
	SELECT prompt_stats_setup('other_events', 'other_stats');
));
sql(q(SELECT increment_prompt_views('one'))) for 1 .. 3;
is(flush(), 'ok', 'counted in another table');
is(sql("SET ROLE $_->[0]; $TOLD"), $_->[1], "still told to $_->[0]") foreach [ 'shop', 't|t' ], [ 'monitor', 't|t' ], [ 'reader', 'f|t' ], [ 'neighbour', 'f|t' ];
sql(q(SELECT prompt_stats_setup('prompt_events', 'prompt_stats'); DROP TABLE other_events, other_stats; DELETE FROM failing));

# ---- the memory of the flusher

sub memory_used
{
	my $log = -s $node->logfile;
	sql('SELECT pg_log_backend_memory_contexts(flusher_pid) FROM prompt_stats_status');
	foreach (1 .. 600)
	{
		return $1 if slurp_file($node->logfile, $log) =~ /Grand total: .* (\d+) used/;
		usleep(100_000);
	}
	die 'the flusher does not tell';
}

# Thousands of them in the log are not what is looked for
sub fail_often
{
	my ($n) = @_;
	sql("SELECT increment_prompt_views('culprit ' || i) FROM generate_series(1, $n) AS i");
	die 'not flushed' if flush('100s') ne 'ok';
	return;
}
sql(q(INSERT INTO failing VALUES ('23514'); DELETE FROM prompt_stats WHERE prompt_id ~ 'culprit'));
wait_for_flusher('old 1');
fail_often(500);
{
	my $rejected = status('rejected');
	my $before = memory_used();
	fail_often(1000) for 1 .. 3;
	is(status("rejected - $rejected"), 3000, 'thousands of rejected prompts');
	cmp_ok(memory_used() - $before, '<', 100_000, 'leave no memory behind');


	# Transactions that wait, and fail with their group
	sql(q(SET session_replication_role = replica; INSERT INTO prompt_stats VALUES ('old culprit', 0, 0, 0)));
	my $log = -s $node->logfile;
	my $work = sub {
		my ($client, $turn) = @_;
		my $id = $client <= 2 && $turn % 2 ? 'culprit' : $client;
		return ("SET prompt_stats.durability = 'group'; SELECT increment_prompt_views('old $id')", {});
	};
	PromptStats::Load->start($node, 6, $work, 100)->finish;
	$before = memory_used();
	my $load = PromptStats::Load->start($node, 6, $work, 400);
	my $told = $load->finish;
	is(join(' ', keys %{ $told->{errors} }) =~ s/ .*//sr, '23514', 'who waits for a group meets the error');
	like(slurp_file($node->logfile, $log), qr/could not fold a group: /, 'in groups');
	cmp_ok(memory_used() - $before, '<', 20_000, 'nor do they');
}

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'nothing crashed');
done_testing();
