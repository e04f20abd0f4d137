/*
 * worker.c
 *		The flusher: a background worker that folds for others.
 *
 * For transactions that wait (group.c), as soon as there are any; for those that
 * went on (pending.c), each prompt_stats.flush_interval.
 *
 * One per database, started by the first transaction that needs it, gone when it had
 * nothing to do for a while (so that DROP DATABASE works).  It connects as the
 * bootstrap superuser, for the owner of the table may have no right to log in, and
 * is the owner for each whole transaction, by session authorization and security
 * context both: with either alone a trigger could go back (guc.c, variable.c).
 * What a trigger sets is reset before the next transaction.
 *
 * It says the outcome from its transaction callbacks: a group is FOLDED and a flight
 * lands at commit, durable and visible; at abort, it is RETURNED or turned back.
 * However it ends, the server aborts its transaction first, and then leave() returns
 * all that is queued, and sees that somebody flushes what is pending.
 *
 * SIGTERM, which a shutdown sends, too, makes it flush what is pending before it goes.
 *
 * It never waits long for anything: a lock on the table returns the group, locked
 * rows are skipped, and lock_timeout ends what a trigger waits for.  So a backend
 * that waits for it while holding such a lock is not stuck.
 */
#include "prompt_stats.h"

#include "shared.h"

#include "access/xact.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#define IDLE_CHECK_MS		500
#define IDLE_MS				2000	/* it goes, after that */
#define ABANDONED_MS		1000	/* the same where no session is left */
#define FOLD_MS				10000	/* a trigger that takes longer is cancelled */
#define LEAVING_MS			30000	/* for rows that stay locked at shutdown */
#define RETURN_MS			1000	/* for rows that stay locked */
#define MAX_HOLDS			2000	/* prompts in one transaction */
#define RETRY_MIN_MS		1		/* for rows that were locked */
#define RETRY_MAX_MS		32
#define SOLO_WAIT_MS		20
#define START_AGAIN_MS		1000	/* after a start that came to nothing */
#define COMPLAIN_MS			1000

PGDLLEXPORT void prompt_stats_flusher_main(Datum arg);

/* Linked slots that are with us: QUEUED, or WITHDRAWN; room for all that there are */
static uint32 *held = NULL;
static int	nheld = 0;

/* Those of them that we fold: TAKEN */
static struct
{
	uint32	   *slots;
	PstVerdict *verdicts;
	int			len;
	int			sync_commit;	/* the strongest that a unit asks for */
	int64		counts;			/* in the units that are folded */
	bool		folding;
}			group;

/* The flights of a transaction */
static struct
{
	PstHold    *holds;
	int			len;
	bool		folding;
}			air;

/* Between transactions; reset once a turn of the loop */
static MemoryContext loop_context = NULL;

static PstDatabase *database = NULL;
static bool is_ready = false;
static volatile sig_atomic_t is_terminated = false;
static bool holds_soloist = false;
static TimestampTz last_fold = 0;

static PstSlot *
slot_of(uint32 number)
{
	return &pst_shared->slots[number];
}

/* ---- telling outcomes ---- */

static const char *
sync_commit_name(int level)
{
	switch (level)
	{
		case SYNCHRONOUS_COMMIT_OFF:
			return "off";
		case SYNCHRONOUS_COMMIT_LOCAL_FLUSH:
			return "local";
		case SYNCHRONOUS_COMMIT_REMOTE_WRITE:
			return "remote_write";
		case SYNCHRONOUS_COMMIT_REMOTE_APPLY:
			return "remote_apply";
		default:
			return "on";
	}
}

static void
set_sync_commit(void)
{
	SetConfigOption("synchronous_commit", sync_commit_name(group.sync_commit),
					PGC_USERSET, PGC_S_SESSION);
}

/*
 * A row that stays locked is for its callers to wait for, in the sight of the deadlock
 * detector.
 */
static bool
is_overdue(PstSlot *slot)
{
	TimestampTz now = GetCurrentTimestamp();

	if (slot->since == 0)
		slot->since = now;
	return slot->orphan == 0 && TimestampDifferenceExceeds(slot->since, now, RETURN_MS);
}

/* Whoever waits is told of LATER too: it may have slept over a cancel meanwhile */
static void
tell_outcome(uint32 number, PstVerdict verdict)
{
	PstSlot    *slot = slot_of(number);

	if (verdict == PST_VERDICT_LATER && !is_overdue(slot))
	{
		held[nheld++] = number;
		pst_tell(number, PST_QUEUED);
	}
	else if (slot->orphan > 0)
		pst_free_slot(slot);
	else
		pst_tell(number, verdict == PST_VERDICT_FOLDED ? PST_FOLDED : PST_RETURNED);
}

/* What takes a fold back is tried again */
static PstVerdict
verdict_of_abort(PstSlot *slot)
{
	return slot->orphan > 0 && --slot->orphan > 0 ? PST_VERDICT_LATER : PST_VERDICT_RETURNED;
}

/* In the ledger; must not fail */
static void
count_group(void)
{
	uint64		units = 0;

	for (int i = 0; i < group.len; i++)
		units += group.verdicts[i] == PST_VERDICT_FOLDED;
	if (units == 0)
		return;
	pst_add_grouped(database, group.counts);
	pg_atomic_fetch_add_u64(&database->groups, 1);
	pg_atomic_fetch_add_u64(&database->grouped, units);
	if (units > pg_atomic_read_u64(&database->largest_group))
		pg_atomic_write_u64(&database->largest_group, units);
}

/* In the callbacks: must not fail */
static void
tell_outcomes(bool committed)
{
	group.folding = false;
	if (committed)
		count_group();
	for (int i = 0; i < group.len; i++)
	{
		PstVerdict	verdict = committed ? group.verdicts[i] : verdict_of_abort(slot_of(group.slots[i]));

		if (verdict == PST_VERDICT_FOLDED)
			last_fold = GetCurrentTransactionStopTimestamp();
		tell_outcome(group.slots[i], verdict);
	}
	group.len = 0;
}

/* The same for flights */
static void
end_flights(bool committed)
{
	TimestampTz now = GetCurrentTransactionStopTimestamp();

	air.folding = false;
	if (committed && air.len > 0)
		last_fold = now;
	for (int i = 0; i < air.len; i++)
	{
		if (!air.holds[i].in_air)
			continue;
		if (committed)
			pst_land(&air.holds[i], now);
		else
			pst_turn_back(&air.holds[i]);
	}
}

static void
at_flusher_event(XactEvent event, void *arg)
{
	bool		committed = event == XACT_EVENT_COMMIT;

	if (!group.folding && !air.folding)
		return;
	if (event == XACT_EVENT_PRE_COMMIT)
		set_sync_commit();		/* a trigger may have changed it */
	else if (committed || event == XACT_EVENT_ABORT)
	{
		if (group.folding)
			tell_outcomes(committed);
		if (air.folding)
			end_flights(committed);
	}
}

/* ---- the queue ---- */

static void
take_queue(void)
{
	uint32		number;

	if (pg_atomic_read_u32(&database->head) == PST_NONE)
		return;
	number = pg_atomic_exchange_u32(&database->head, PST_NONE);
	while (number != PST_NONE)
	{
		held[nheld++] = number;
		number = slot_of(number)->next;
	}
}

static bool
take(PstSlot *slot)
{
	uint32		expected = PST_QUEUED;

	return pg_atomic_compare_exchange_u32(&slot->state, &expected, PST_TAKEN);
}

/* Makes a group of what is held: of one orphan, or of all others */
static void
form_group(bool orphan)
{
	int			left = 0;

	group.len = 0;
	group.sync_commit = SYNCHRONOUS_COMMIT_OFF;
	for (int i = 0; i < nheld; i++)
	{
		PstSlot    *slot = slot_of(held[i]);

		if ((slot->orphan > 0) != orphan || (orphan && group.len > 0))
			held[left++] = held[i];
		else if (!take(slot))
			pst_free_slot(slot);	/* it was withdrawn */
		else
		{
			group.sync_commit = Max(group.sync_commit, slot->sync_commit);
			group.slots[group.len++] = held[i];
		}
	}
	nheld = left;
}

/* ---- folding ---- */

static bool
is_of(const PstSlot *slot, const PstTables *tables)
{
	return slot->stats == tables->stats && slot->kind == (int) tables->id_kind;
}

static int64
sum_of(const PstDeltas *deltas)
{
	int64		sum = 0;

	for (int i = 0; i < deltas->len; i++)
		for (int c = 0; c < PST_NCOUNTERS; c++)
			sum += deltas->items[i].n[c];
	return sum;
}

/* Units that mean another table, or another shape of it, go back to their backends */
static void
fold_group(const PstTables *tables)
{
	PstDeltas  *units = palloc0(group.len * sizeof(PstDeltas));

	for (int i = 0; i < group.len; i++)
	{
		PstSlot    *slot = slot_of(group.slots[i]);

		group.verdicts[i] = is_of(slot, tables) ? PST_VERDICT_FOLDED : PST_VERDICT_RETURNED;
		if (group.verdicts[i] == PST_VERDICT_RETURNED)
			continue;
		pst_init_deltas(&units[i], tables, slot->ndeltas);
		pst_read_slot(slot, &units[i]);
	}
	pst_fold_units(tables, units, group.verdicts, group.len);

	group.counts = 0;
	for (int i = 0; i < group.len; i++)
		if (group.verdicts[i] == PST_VERDICT_FOLDED)
			group.counts += sum_of(&units[i]);
}

/* The scope of the owner lasts until the transaction has ended */
static void
fold_as_owner(const PstTables *tables, void (*fold) (const PstTables *))
{
	PstOwnerScope scope;
	Oid			me = GetUserId();
	Oid			owner = tables->stats_owner;

	SetSessionAuthorization(owner, superuser_arg(owner));
	pst_enter_owner(&scope, owner, tables->runs_code ? tables->stats_path : NULL, tables->stats);
	PushActiveSnapshot(GetTransactionSnapshot());
	fold(tables);
	PopActiveSnapshot();
	CommitTransactionCommand();

	/* The commit has left the GUC level, but not the user */
	SetUserIdAndSecContext(owner, 0);
	SetSessionAuthorization(me, true);
}

/*
 * Where the table is gone or locked its backends get it back: who waits for the lock
 * itself is in the sight of the deadlock detector.
 */
static void
fold_group_or_return(void)
{
	PstSlot    *slot = slot_of(group.slots[0]);
	const PstTables *tables = pst_lock_stats_again(InvalidOid, slot->stats, false);
	bool		again = tables == NULL && slot->orphan > 0;

	if (tables != NULL && OidIsValid(tables->stats))
	{
		fold_as_owner(tables, fold_group);
		return;
	}
	for (int i = 0; i < group.len; i++)
		group.verdicts[i] = again ? PST_VERDICT_LATER : PST_VERDICT_RETURNED;
	CommitTransactionCommand();
}

/* Undoes what a trigger has set in a transaction before, and StartTransaction() has read */
static void
reset_settings(void)
{
	ResetAllOptions();
	set_sync_commit();
	XactReadOnly = false;
	XactIsoLevel = XACT_READ_COMMITTED;
	XactDeferrable = false;
}

/* The log must not fill up with what fails again and again */
static bool
may_complain(void)
{
	static TimestampTz last = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(last, now, COMPLAIN_MS))
		return false;
	last = now;
	return true;
}

/* Of the transaction that failed last */
static int	error_code;
static char error_text[PST_REASON_LEN];

/* In the handler of an error; callers in a group will meet it themselves */
static void
keep_error(void)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	ErrorData  *error = CopyErrorData();

	error_code = error->sqlerrcode;
	strlcpy(error_text, error->message, sizeof(error_text));
	FreeErrorData(error);
	if (group.folding && may_complain())
		EmitErrorReport();
	FlushErrorState();
	MemoryContextSwitchTo(caller);
}

/*
 * One transaction, which "step" ends.  False where it failed; then error_data() is what
 * it failed with.
 */
static bool
run_transaction(void (*step) (void))
{
	Oid			me = GetUserId();
	bool		ok = true;

	SetCurrentStatementStartTimestamp();
	PG_TRY();
	{
		StartTransactionCommand();
		reset_settings();
		enable_timeout_after(STATEMENT_TIMEOUT, FOLD_MS);
		step();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		keep_error();
		AbortCurrentTransaction();
		SetSessionAuthorization(me, true);
		RESUME_INTERRUPTS();
		ok = false;
	}
	PG_END_TRY();
	disable_timeout(STATEMENT_TIMEOUT, false);
	MemoryContextSwitchTo(loop_context);

	/* pg_advisory_lock() by a trigger */
	LockReleaseSession(USER_LOCKMETHOD);
	return ok;
}

static void
fold_group_in_transaction(void)
{
	group.folding = true;
	(void) run_transaction(fold_group_or_return);
	group.folding = false;
}

/* ---- the loop ---- */

/* Outside of a transaction there is nothing to cancel */
static void
check_interrupts(void)
{
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
}

/* Woken by who queues something, unless it is there already, and by soloists */
static void
sleep_until_woken(long timeout, uint32 soloist)
{
	pg_atomic_write_u32(&database->flusher_idle, soloist != 0 ? PST_AWAITS_SOLOIST : PST_AWAITS_WORK);
	pg_memory_barrier();
	if (soloist != 0 ? pg_atomic_read_u32(&database->soloist) == soloist :
		pg_atomic_read_u32(&database->head) == PST_NONE)
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout, pst_wait_event());
	pg_atomic_write_u32(&database->flusher_idle, PST_AWAKE);
	ResetLatch(MyLatch);
	check_interrupts();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

static bool
become_soloist(void)
{
	uint32		expected = 0;

	holds_soloist = pg_atomic_compare_exchange_u32(&database->soloist, &expected, 1);
	return holds_soloist;
}

static void
end_soloist(void)
{
	if (holds_soloist)
		pg_atomic_write_u32(&database->soloist, 0);
	holds_soloist = false;
}

/*
 * A soloist holds the hot row, most likely, but not for long.  One that is stuck is
 * waited for only once: rows that it has locked are skipped.
 */
static void
wait_for_soloist(void)
{
	static uint32 stuck = 0;
	uint32		soloist = pg_atomic_read_u32(&database->soloist);
	TimestampTz began;

	if (become_soloist() || soloist == stuck)
		return;
	began = GetCurrentTimestamp();
	while (!become_soloist())
	{
		soloist = pg_atomic_read_u32(&database->soloist);
		if (TimestampDifferenceExceeds(began, GetCurrentTimestamp(), SOLO_WAIT_MS))
		{
			stuck = soloist;
			break;
		}
		if (soloist != 0)
			sleep_until_woken(SOLO_WAIT_MS, soloist);
	}
	take_queue();
}

static void
fold_held(void)
{
	wait_for_soloist();
	form_group(false);
	if (group.len > 0)
		fold_group_in_transaction();
	form_group(true);
	if (group.len > 0)
		fold_group_in_transaction();
	end_soloist();
	check_interrupts();
}

/* Who waits is to fold its own; what takes back waits for another flusher */
static void
return_held(void)
{
	int			n;

	take_queue();
	n = nheld;
	nheld = 0;
	for (int i = 0; i < n; i++)
	{
		PstSlot    *slot = slot_of(held[i]);

		if (slot->orphan > 0)
			pst_push(database, held[i]);
		else if (take(slot))
			pst_tell(held[i], PST_RETURNED);
		else
			pst_free_slot(slot);
	}
}

static void
serve_group(void)
{
	take_queue();
	if (nheld > 0)
		fold_held();
}

/* ---- what is pending ---- */

/* Of this cycle */
static uint32 cycle = 0;
static bool left_over;

/* The flights of one transaction */
static PstHold *holds = NULL;
static bool skips_locked;		/* rows that somebody has locked */

/* What of them has no row yet, or no room */
static int *odd = NULL;
static int	nodd;

static void
read_hold(const PstTables *tables, const PstHold *hold, PstDeltas *deltas)
{
	Datum		id = pst_id_from_bytes(hold->key.id, hold->key.len, hold->key.kind);

	if (hold->key.kind != tables->id_kind)
		id = pst_convert_id(id, hold->key.kind, tables->id_kind, tables->stats_name);
	memcpy(pst_add_delta(deltas, id, PST_VIEWS, 0)->n, hold->n, sizeof(hold->n));
}

/* Each a unit by itself: one row that is locked or missing keeps no other */
static void
fold_unlocked(const PstTables *tables)
{
	PstDeltas  *units = palloc0(air.len * sizeof(PstDeltas));
	PstVerdict *verdicts = palloc(air.len * sizeof(PstVerdict));

	for (int i = 0; i < air.len; i++)
	{
		pst_init_deltas(&units[i], tables, 1);
		read_hold(tables, &air.holds[i], &units[i]);
		verdicts[i] = PST_VERDICT_FOLDED;
	}
	pst_fold_units(tables, units, verdicts, air.len);
	for (int i = 0; i < air.len; i++)
	{
		if (verdicts[i] == PST_VERDICT_FOLDED)
			continue;
		pst_turn_back(&air.holds[i]);
		if (verdicts[i] == PST_VERDICT_RETURNED)
			odd[nodd++] = &air.holds[i] - holds;
		else
			left_over = true;
	}
}

/* As a transaction folds its own: inserts, waits for locks, and fails */
static void
fold_whole(const PstTables *tables)
{
	PstDeltas	deltas;

	pst_init_deltas(&deltas, tables, air.len);
	for (int i = 0; i < air.len; i++)
		read_hold(tables, &air.holds[i], &deltas);
	(void) pst_fold(tables, &deltas);
}

static void
fold_flights(void)
{
	const PstTables *tables = pst_lock_stats_again(InvalidOid, air.holds[0].key.stats, false);
	FullTransactionId xid;

	if (tables == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("table prompt_stats is locked")));
	xid = GetTopFullTransactionId();
	for (int i = 0; i < air.len; i++)
		pst_take_off(&air.holds[i], xid);
	if (!OidIsValid(tables->stats))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table that was counted in is gone")));
	fold_as_owner(tables, skips_locked ? fold_unlocked : fold_whole);
}

/* What may succeed another time: for want of a lock, of resources, or of time */
static bool
is_transient(int code)
{
	int			class = ERRCODE_TO_CATEGORY(code);

	return code == ERRCODE_LOCK_NOT_AVAILABLE ||
		class == ERRCODE_TO_CATEGORY(ERRCODE_T_R_SERIALIZATION_FAILURE) ||
		class == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
		class == ERRCODE_TO_CATEGORY(ERRCODE_QUERY_CANCELED) ||
		class == ERRCODE_TO_CATEGORY(ERRCODE_IO_ERROR);
}

static char *
print_key(const PstKey *key)
{
	return pst_print_id(pst_id_from_bytes(key->id, key->len, key->kind), key->kind);
}

/* Outside of a transaction; its caller has gone on, so nobody else will hear of it */
static void
reject(PstHold *hold)
{
	pst_reject(database, hold, error_text);
	if (may_complain())
		ereport(LOG,
				(errcode(error_code),
				 errmsg("rejected counts of prompt %s: %s", print_key(&hold->key), error_text),
				 errdetail("SQLSTATE %s; " INT64_FORMAT " views, " INT64_FORMAT " copies, " INT64_FORMAT
						   " forks. prompt_stats_status has the sum of what was rejected.",
						   unpack_sql_state(error_code), hold->n[PST_VIEWS], hold->n[PST_COPIES],
						   hold->n[PST_FORKS])));
}

static bool
fold_range(int first, int len, bool skip_locked)
{
	bool		ok;

	air.holds = &holds[first];
	air.len = len;
	air.folding = true;
	skips_locked = skip_locked;
	group.sync_commit = SYNCHRONOUS_COMMIT_ON;
	ok = run_transaction(fold_flights);
	air.folding = false;
	serve_group();
	return ok;
}

/* All in one transaction; where that fails, by halves, until who is to blame is alone */
static void
fold_by_halves(int first, int len)
{
	if (len == 0 || fold_range(first, len, false))
		return;
	if (len > 1)
	{
		fold_by_halves(first, len / 2);
		fold_by_halves(first + len / 2, len - len / 2);
	}
	else if (is_transient(error_code))
		left_over = true;
	else
		reject(&holds[first]);
}

static void
fold_odd(void)
{
	for (int i = 0; i < nodd; i++)
	{
		PstHold		hold = holds[i];

		holds[i] = holds[odd[i]];
		holds[odd[i]] = hold;
	}
	fold_by_halves(0, nodd);
}

/* Once over all that is pending */
static void
flush_pending(void)
{
	uint64		wanted = pg_atomic_read_u64(&database->flushes_wanted);
	int			n;

	MemoryContextReset(loop_context);
	cycle++;
	left_over = false;
	pg_atomic_write_u32(&database->crowded, 0);
	pg_memory_barrier();
	while ((n = pst_gather(database, cycle, holds, MAX_HOLDS)) > 0)
	{
		nodd = 0;
		if (fold_range(0, n, true))
			fold_odd();
		else if (is_transient(error_code))
			left_over = true;
		else
			fold_by_halves(0, n);
		pg_atomic_fetch_add_u64(&database->flushes, 1);
		check_interrupts();
	}
	pst_tidy_partitions(database, false);
	if (left_over || pg_atomic_read_u64(&database->flushes_done) == wanted)
		return;
	pg_atomic_write_u64(&database->flushes_done, wanted);
	ConditionVariableBroadcast(&database->flushed);
}

static bool
is_wanted(void)
{
	return pg_atomic_read_u64(&database->flushes_wanted) != pg_atomic_read_u64(&database->flushes_done) ||
		pg_atomic_read_u32(&database->crowded) == 1;
}

/* Milliseconds until what is pending is to be flushed; 0: now */
static long
time_to_flush(TimestampTz last_flush)
{
	long		passed = TimestampDifferenceMilliseconds(last_flush, GetCurrentTimestamp());
	long		interval = is_wanted() ? 0 : pst_flush_interval;

	if (left_over)
		interval = is_wanted() ? RETRY_MAX_MS : Min(interval, RETURN_MS);
	return Max(interval - passed, 0);
}

/* ---- serving ---- */

/* True where nobody can hand over anything any more, and nothing is left */
static bool
retire(void)
{
	bool		empty;

	pst_lock_partitions(database, LW_EXCLUSIVE);
	empty = pst_is_empty(database);
	if (empty)
		pg_atomic_write_u32(&database->flusher, PST_NO_FLUSHER);
	pst_unlock_partitions(database);
	return empty;
}

static bool
has_nothing_to_do(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (pg_atomic_read_u32(&database->head) != PST_NONE || nheld > 0 || is_wanted())
		return false;
	return TimestampDifferenceExceeds(last_fold, now, IDLE_MS) ||
		(TimestampDifferenceExceeds(last_fold, now, ABANDONED_MS) &&
		 CountDBConnections(MyDatabaseId) == 0);
}

static void
serve(void)
{
	long		retry = RETRY_MIN_MS;
	TimestampTz last_flush = 0;
	long		wait;

	last_fold = GetCurrentTimestamp();
	while (pst_use_flusher && !is_terminated)
	{
		serve_group();
		if (time_to_flush(last_flush) == 0)
		{
			last_flush = GetCurrentTimestamp();
			flush_pending();
		}
		if (pg_atomic_read_u32(&database->head) != PST_NONE)
			continue;

		pgstat_report_stat(false);
		retry = nheld > 0 ? Min(retry * 2, RETRY_MAX_MS) : RETRY_MIN_MS;
		wait = Min(nheld > 0 ? retry : IDLE_CHECK_MS, Max(time_to_flush(last_flush), 1));
		sleep_until_woken(wait, 0);
		if (!has_nothing_to_do())
			continue;
		pst_tidy_partitions(database, true);
		if (retire())
			return;
	}
}

/* Rows that stay locked can't be flushed: at a shutdown, nothing is lost without a word */
static void
report_leftover(void)
{
	int			n = pst_gather(database, ++cycle, holds, MAX_HOLDS);

	for (int i = 0; i < n; i++)
		ereport(LOG,
				(errmsg("could not flush counts of prompt %s: its row stays locked",
						print_key(&holds[i].key)),
				 errdetail(INT64_FORMAT " views, " INT64_FORMAT " copies, " INT64_FORMAT " forks.",
						   holds[i].entry->pending[PST_VIEWS], holds[i].entry->pending[PST_COPIES],
						   holds[i].entry->pending[PST_FORKS])));
}

/*
 * Takes nothing more, and flushes until nothing is left: also transactions that have
 * reserved are waited for.
 */
static void
flush_and_leave(void)
{
	TimestampTz began = GetCurrentTimestamp();

	pg_atomic_write_u32(&database->flusher, PST_FLUSHER_LEAVING);
	pg_memory_barrier();
	return_held();
	while (!retire())
	{
		flush_pending();
		return_held();
		if (TimestampDifferenceExceeds(began, GetCurrentTimestamp(), LEAVING_MS))
		{
			report_leftover();
			return;
		}
		pg_usleep(5000L);
	}
}

/* ---- beginning and end ---- */

/* One that lived for a while may be followed at once */
static void
resign(void)
{
	uint32		starting = PST_FLUSHER_STARTING;

	if (!is_ready)
	{
		(void) pg_atomic_compare_exchange_u32(&database->flusher, &starting, PST_NO_FLUSHER);
		return;
	}
	pg_atomic_write_u32(&database->flusher_proc, PST_NONE);
	pst_lock_partitions(database, LW_EXCLUSIVE);
	pg_atomic_write_u32(&database->flusher, PST_NO_FLUSHER);
	pst_unlock_partitions(database);
	pg_atomic_write_u64(&database->started_at, 0);
}

/*
 * However it ends, nobody waits for a flusher that is gone, and what is pending finds
 * another.  Registered before the server's own callback that aborts the transaction,
 * hence called after it.
 */
static void
leave(int code, Datum arg)
{
	resign();
	end_soloist();
	if (!is_ready)
		return;
	return_held();
	ConditionVariableBroadcast(&database->flushed);
	if (!pst_is_empty(database))
		(void) pst_start_flusher(database);
}

/* What could hurt a group; nothing that a role or database sets may change it */
static void
override_settings(void)
{
	static const char *const settings[][2] = {
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"},
		{"statement_timeout", "0"},
		{"transaction_timeout", "0"},
		{"lock_timeout", "500ms"},
		{"idle_in_transaction_session_timeout", "0"},
		{"row_security", "on"},
	};

	for (size_t i = 0; i < lengthof(settings); i++)
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/* False where another flusher was faster */
static bool
announce(void)
{
	uint32		starting = PST_FLUSHER_STARTING;

	if (!pg_atomic_compare_exchange_u32(&database->flusher, &starting, PST_FLUSHER_READY))
		return false;
	is_ready = true;
	pg_atomic_write_u32(&database->flusher_proc, pst_my_procno());
	return true;
}

static void
allocate(void)
{
	uint32		n = pst_shared->nslots;

	loop_context = AllocSetContextCreate(TopMemoryContext, "prompt_stats flusher",
										 ALLOCSET_DEFAULT_SIZES);
	held = MemoryContextAlloc(TopMemoryContext, n * sizeof(uint32));
	group.slots = MemoryContextAlloc(TopMemoryContext, n * sizeof(uint32));
	group.verdicts = MemoryContextAlloc(TopMemoryContext, n * sizeof(PstVerdict));
	holds = MemoryContextAlloc(TopMemoryContext, MAX_HOLDS * sizeof(PstHold));
	odd = MemoryContextAlloc(TopMemoryContext, MAX_HOLDS * sizeof(int));
}

/* What runs is cancelled, for it may wait for long; then the loop sees it */
static void
handle_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	is_terminated = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
	errno = save_errno;
}

void
prompt_stats_flusher_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (!pst_attach() || (database = pst_entry_of(DatumGetObjectId(arg))) == NULL)
		proc_exit(0);
	before_shmem_exit(leave, (Datum) 0);
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid,
											  BGWORKER_BYPASS_ALLOWCONN);
	override_settings();
	allocate();
	RegisterXactCallback(at_flusher_event, NULL);
	pgstat_report_activity(STATE_RUNNING, "folding counts");
	pqsignal(SIGTERM, handle_sigterm);
	if (announce())
	{
		serve();
		if (pg_atomic_read_u32(&database->flusher) == PST_FLUSHER_READY)
			flush_and_leave();
	}
	proc_exit(0);
}

/* Whose turn it is to start a flusher; not too often */
static bool
may_start(PstDatabase *db)
{
	uint64		now = GetCurrentTimestamp();
	uint64		started = pg_atomic_read_u64(&db->started_at);
	uint32		none = PST_NO_FLUSHER;

	if (now - started < START_AGAIN_MS * UINT64CONST(1000) ||
		!pg_atomic_compare_exchange_u64(&db->started_at, &started, now))
		return false;
	(void) pg_atomic_compare_exchange_u32(&db->flusher, &none, PST_FLUSHER_STARTING);
	return none == PST_NO_FLUSHER || none == PST_FLUSHER_STARTING;
}

/* By who needs one; this does not wait for the start.  False where none is on its way. */
bool
pst_start_flusher(PstDatabase *db)
{
	BackgroundWorker worker = {0};
	uint32		starting = PST_FLUSHER_STARTING;

	if (!may_start(db))
		return pg_atomic_read_u32(&db->flusher) != PST_NO_FLUSHER;
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "prompt_stats");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "prompt_stats_flusher_main");
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "prompt_stats flusher");
	snprintf(worker.bgw_type, sizeof(worker.bgw_type), "prompt_stats flusher");
	worker.bgw_main_arg = ObjectIdGetDatum(db->oid);
	if (RegisterDynamicBackgroundWorker(&worker, NULL))
		return true;
	(void) pg_atomic_compare_exchange_u32(&db->flusher, &starting, PST_NO_FLUSHER);
	return false;
}
