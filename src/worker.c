/*
 * worker.c
 *		The flusher: a background worker that folds for transactions that wait.
 *
 * One per database, started by the first transaction that finds company, gone soon
 * after the last session (so that DROP DATABASE works).  It connects as the
 * bootstrap superuser, for the owner of the table may have no right to log in, and
 * is the owner for each whole transaction, by session authorization and security
 * context both: with either alone a trigger could go back (guc.c, variable.c).
 * What a trigger sets is reset before the next transaction.
 *
 * It says the outcome of a group from its transaction callbacks: FOLDED at commit,
 * durable and visible; RETURNED at abort.  However it ends, the server aborts its
 * transaction first, and then leave() returns all that is queued.
 *
 * It never waits long for anything: a lock on the table returns the group, locked
 * rows are skipped, and lock_timeout ends what a trigger waits for.  So a backend
 * that waits for it while holding such a lock is not stuck.
 */
#include "prompt_stats.h"

#include "group.h"

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
#include "utils/timestamp.h"

#define IDLE_CHECK_MS		500
#define ABANDONED_MS		1000
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
	bool		folding;
}			group;

static PstDatabase *database = NULL;
static bool is_ready = false;
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

/* Whoever waits is told of LATER too: it may have slept over a cancel meanwhile */
static void
tell_outcome(uint32 number, PstVerdict verdict)
{
	PstSlot    *slot = slot_of(number);

	if (verdict == PST_VERDICT_LATER)
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

/* In the callbacks: must not fail */
static void
tell_outcomes(bool committed)
{
	group.folding = false;
	for (int i = 0; i < group.len; i++)
	{
		PstVerdict	verdict = committed ? group.verdicts[i] : verdict_of_abort(slot_of(group.slots[i]));

		if (verdict == PST_VERDICT_FOLDED)
			last_fold = GetCurrentTransactionStopTimestamp();
		tell_outcome(group.slots[i], verdict);
	}
	group.len = 0;
}

static void
at_flusher_event(XactEvent event, void *arg)
{
	if (!group.folding)
		return;
	if (event == XACT_EVENT_PRE_COMMIT)
		set_sync_commit();		/* a trigger may have changed it */
	else if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		tell_outcomes(event == XACT_EVENT_COMMIT);
}

/* ---- the queue ---- */

static void
take_queue(void)
{
	uint32		number;

	if (pg_atomic_read_u32(&database->head) == PST_NO_SLOT)
		return;
	number = pg_atomic_exchange_u32(&database->head, PST_NO_SLOT);
	while (number != PST_NO_SLOT)
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
	return slot->schema == tables->schema && slot->stats == tables->stats &&
		slot->kind == (int) tables->id_kind;
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
}

/*
 * NULL where the table is gone or locked.  Then "verdict" says what to do: a backend
 * that waits for the lock itself is in the sight of the deadlock detector.
 */
static const PstTables *
lock_table(Oid schema, PstVerdict *verdict)
{
	const PstTables *tables = pst_get_tables(schema);
	Oid			stats = tables->stats;

	*verdict = PST_VERDICT_RETURNED;
	if (!OidIsValid(stats))
		return NULL;
	if (!ConditionalLockRelationOid(stats, RowExclusiveLock))
	{
		if (slot_of(group.slots[0])->orphan > 0)
			*verdict = PST_VERDICT_LATER;
		return NULL;
	}
	tables = pst_get_tables(schema);
	return tables->stats == stats ? tables : NULL;
}

/* The scope of the owner lasts until the transaction has ended */
static void
fold_as_owner(const PstTables *tables)
{
	PstOwnerScope scope;
	Oid			me = GetUserId();
	Oid			owner = tables->stats_owner;

	SetSessionAuthorization(owner, superuser_arg(owner));
	pst_enter_owner(&scope, owner, tables->runs_code ? tables->stats_path : NULL, tables->stats);
	PushActiveSnapshot(GetTransactionSnapshot());
	fold_group(tables);
	PopActiveSnapshot();
	CommitTransactionCommand();

	/* The commit has left the GUC level, but not the user */
	SetUserIdAndSecContext(owner, 0);
	SetSessionAuthorization(me, true);
}

static void
fold_or_return(void)
{
	PstVerdict	verdict;
	const PstTables *tables = lock_table(slot_of(group.slots[0])->schema, &verdict);

	if (tables != NULL)
	{
		fold_as_owner(tables);
		return;
	}
	for (int i = 0; i < group.len; i++)
		group.verdicts[i] = verdict;
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

/* Each caller meets the error himself, so ours need not fill the log */
static void
complain(void)
{
	static TimestampTz last = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (TimestampDifferenceExceeds(last, now, COMPLAIN_MS))
	{
		EmitErrorReport();
		last = now;
	}
	FlushErrorState();
}

static void
fold_in_transaction(void)
{
	Oid			me = GetUserId();

	SetCurrentStatementStartTimestamp();
	group.folding = true;
	PG_TRY();
	{
		StartTransactionCommand();
		reset_settings();
		fold_or_return();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		AbortCurrentTransaction();
		complain();
		SetSessionAuthorization(me, true);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	/* pg_advisory_lock() by a trigger */
	LockReleaseSession(USER_LOCKMETHOD);
}

/* ---- the loop ---- */

/* Woken by who queues something, unless it is there already, and by soloists */
static void
sleep_until_woken(long timeout, uint32 soloist)
{
	pg_atomic_write_u32(&database->flusher_idle, 1);
	pg_memory_barrier();
	if (soloist != 0 ? pg_atomic_read_u32(&database->soloist) == soloist :
		pg_atomic_read_u32(&database->head) == PST_NO_SLOT)
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout, pst_wait_event());
	pg_atomic_write_u32(&database->flusher_idle, 0);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
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
		fold_in_transaction();
	form_group(true);
	if (group.len > 0)
		fold_in_transaction();
	end_soloist();
	CHECK_FOR_INTERRUPTS();
}

static bool
is_abandoned(void)
{
	return TimestampDifferenceExceeds(last_fold, GetCurrentTimestamp(), ABANDONED_MS) &&
		CountDBConnections(MyDatabaseId) == 0;
}

static void
serve(void)
{
	long		retry = RETRY_MIN_MS;

	last_fold = GetCurrentTimestamp();
	while (pst_use_flusher)
	{
		take_queue();
		if (nheld > 0)
			fold_held();
		if (pg_atomic_read_u32(&database->head) != PST_NO_SLOT)
			continue;

		pgstat_report_stat(false);
		retry = nheld > 0 ? Min(retry * 2, RETRY_MAX_MS) : RETRY_MIN_MS;
		sleep_until_woken(nheld > 0 ? retry : IDLE_CHECK_MS, 0);
		if (pg_atomic_read_u32(&database->head) == PST_NO_SLOT && is_abandoned())
			break;
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
	pg_atomic_write_u32(&database->flusher_proc, PST_NO_SLOT);
	pg_atomic_write_u32(&database->flusher, PST_NO_FLUSHER);
	pg_memory_barrier();
}

/*
 * Whatever is queued goes back: nobody waits for a flusher that is gone.  Registered
 * before the server's own callback that aborts the transaction, hence called after it.
 */
static void
leave(int code, Datum arg)
{
	int			n;

	resign();
	end_soloist();
	if (!is_ready)
		return;
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

	held = MemoryContextAlloc(TopMemoryContext, n * sizeof(uint32));
	group.slots = MemoryContextAlloc(TopMemoryContext, n * sizeof(uint32));
	group.verdicts = MemoryContextAlloc(TopMemoryContext, n * sizeof(PstVerdict));
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
	if (announce())
		serve();
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
	return none != PST_FLUSHER_READY;
}

/* By a backend that would rather wait; this does not wait for the start */
void
pst_start_flusher(PstDatabase *db)
{
	BackgroundWorker worker = {0};
	uint32		starting = PST_FLUSHER_STARTING;

	if (!may_start(db))
		return;
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "prompt_stats");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "prompt_stats_flusher_main");
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "prompt_stats flusher");
	snprintf(worker.bgw_type, sizeof(worker.bgw_type), "prompt_stats flusher");
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	if (!RegisterDynamicBackgroundWorker(&worker, NULL))
		(void) pg_atomic_compare_exchange_u32(&db->flusher, &starting, PST_NO_FLUSHER);
}
