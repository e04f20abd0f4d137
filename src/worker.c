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
 * durable and visible; RETURNED at abort.  Its end returns all that is queued.
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
#define RETRY_MS			2	/* for rows that were locked */
#define SOLO_WAIT_MS		10
#define START_AGAIN_MS		5000	/* after a start that came to nothing */

PGDLLEXPORT void prompt_stats_flusher_main(Datum arg);

/* The units that the flusher holds: TAKEN while it folds, else QUEUED */
static struct
{
	uint32	   *slots;
	PstVerdict *verdicts;
	int			len;
	int			size;
	bool		folding;
	int			sync_commit;	/* the strongest that a unit asks for */
}			held;

static PstDatabase *database = NULL;
static Oid	extension_schema = InvalidOid;

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
tell(uint32 number, PstSlotState outcome)
{
	PstSlot    *slot = &pst_shared->slots[number];

	if (slot->orphan)
	{
		pst_free_slot(slot);
		return;
	}
	pg_write_barrier();
	pg_atomic_write_u32(&slot->state, outcome);
	SetLatch(&ProcGlobal->allProcs[number].procLatch);
}

/* Not to be folded now, but it stays with us; its backend may withdraw it */
static void
keep(uint32 number, int *len)
{
	pg_atomic_write_u32(&pst_shared->slots[number].state, PST_QUEUED);
	held.slots[(*len)++] = number;
}

/* In the callbacks: must not fail */
static void
at_flusher_event(XactEvent event, void *arg)
{
	int			len = 0;

	if (!held.folding)
		return;
	if (event == XACT_EVENT_PRE_COMMIT)
	{
		/* A trigger may have changed it */
		SetConfigOption("synchronous_commit", sync_commit_name(held.sync_commit),
						PGC_USERSET, PGC_S_SESSION);
		return;
	}
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;

	for (int i = 0; i < held.len; i++)
	{
		PstVerdict	verdict = event == XACT_EVENT_ABORT ? PST_VERDICT_RETURNED : held.verdicts[i];

		/* What takes a fold back is not given up */
		if (event == XACT_EVENT_ABORT && pst_shared->slots[held.slots[i]].orphan)
			verdict = PST_VERDICT_LATER;
		if (verdict == PST_VERDICT_LATER)
			keep(held.slots[i], &len);
		else
			tell(held.slots[i], verdict == PST_VERDICT_FOLDED ? PST_FOLDED : PST_RETURNED);
	}
	held.len = len;
	held.folding = false;
}

/* ---- the queue ---- */

static void
make_room(void)
{
	if (held.len < held.size)
		return;
	held.size = Max(held.size * 2, 64);
	held.slots = held.slots == NULL ?
		MemoryContextAlloc(TopMemoryContext, held.size * sizeof(uint32)) :
		repalloc(held.slots, held.size * sizeof(uint32));
	held.verdicts = held.verdicts == NULL ?
		MemoryContextAlloc(TopMemoryContext, held.size * sizeof(PstVerdict)) :
		repalloc(held.verdicts, held.size * sizeof(PstVerdict));
}

/* Takes what is queued into our list, still QUEUED */
static void
take_queue(void)
{
	uint32		number;

	if (pg_atomic_read_u32(&database->head) == PST_NO_SLOT)
		return;
	number = pg_atomic_exchange_u32(&database->head, PST_NO_SLOT);
	while (number != PST_NO_SLOT)
	{
		uint32		next = pst_shared->slots[number].next;

		make_room();
		held.slots[held.len++] = number;
		number = next;
	}
}

/* From QUEUED to TAKEN; what was withdrawn is unlinked */
static void
claim_units(void)
{
	int			len = 0;

	held.sync_commit = SYNCHRONOUS_COMMIT_OFF;
	for (int i = 0; i < held.len; i++)
	{
		PstSlot    *slot = &pst_shared->slots[held.slots[i]];
		uint32		expected = PST_QUEUED;

		if (pg_atomic_compare_exchange_u32(&slot->state, &expected, PST_TAKEN))
		{
			held.slots[len++] = held.slots[i];
			held.sync_commit = Max(held.sync_commit, slot->sync_commit);
		}
		else
			pst_free_slot(slot);
	}
	held.len = len;
}

/* ---- folding ---- */

static void
fold_group(const PstTables *tables)
{
	PstDeltas  *units = palloc(held.len * sizeof(PstDeltas));

	for (int i = 0; i < held.len; i++)
	{
		PstSlot    *slot = &pst_shared->slots[held.slots[i]];

		pst_init_deltas(&units[i], tables, slot->ndeltas);
		pst_read_slot(slot, &units[i]);
	}
	pst_fold_units(tables, units, held.verdicts, held.len);
}

/*
 * False where the table is gone or locked: a backend that waits for the lock itself
 * is in the sight of the deadlock detector.
 */
static bool
lock_table(const PstTables **tables)
{
	*tables = pst_get_tables(extension_schema);
	if (!OidIsValid((*tables)->stats) ||
		!ConditionalLockRelationOid((*tables)->stats, RowExclusiveLock))
		return false;
	*tables = pst_get_tables(extension_schema);
	return OidIsValid((*tables)->stats);
}

static void
return_all(void)
{
	for (int i = 0; i < held.len; i++)
		held.verdicts[i] = PST_VERDICT_RETURNED;
}

static void
fold_as_owner(const PstTables *tables)
{
	PstOwnerScope scope;
	Oid			me = GetUserId();

	SetSessionAuthorization(tables->stats_owner, superuser_arg(tables->stats_owner));
	pst_enter_owner(&scope, tables->stats_owner, tables->stats_path);
	PushActiveSnapshot(GetTransactionSnapshot());
	fold_group(tables);
	PopActiveSnapshot();
	CommitTransactionCommand();

	/* The commit has left the GUC level, but not the user */
	SetUserIdAndSecContext(tables->stats_owner, 0);
	SetSessionAuthorization(me, true);
}

static void
flush_group(void)
{
	Oid			me = GetUserId();
	const PstTables *tables;

	PG_TRY();
	{
		StartTransactionCommand();
		ResetAllOptions();
		SetConfigOption("synchronous_commit", sync_commit_name(held.sync_commit),
						PGC_USERSET, PGC_S_SESSION);
		held.folding = true;
		if (lock_table(&tables))
			fold_as_owner(tables);
		else
		{
			return_all();
			CommitTransactionCommand();
		}
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		SetSessionAuthorization(me, true);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	pgstat_report_stat(true);
}

/* ---- the loop ---- */

/* Awake at once if something is queued, unless it is to be slept over */
static void
sleep_until_woken(long timeout, bool queued)
{
	pg_atomic_write_u32(&database->flusher_idle, 1);
	pg_memory_barrier();
	if (queued || pg_atomic_read_u32(&database->head) == PST_NO_SLOT)
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
begin_folding(void)
{
	uint32		expected = 0;

	return pg_atomic_compare_exchange_u32(&database->soloist, &expected, 1);
}

/*
 * A soloist holds the hot row, most likely, but not for long.  One that is stuck is
 * not waited for: rows that it has locked are skipped.
 */
static bool
wait_for_soloist(void)
{
	if (begin_folding())
		return true;
	sleep_until_woken(SOLO_WAIT_MS, true);
	take_queue();
	return begin_folding();
}

static bool
is_abandoned(TimestampTz last_work)
{
	return TimestampDifferenceExceeds(last_work, GetCurrentTimestamp(), 2 * IDLE_CHECK_MS) &&
		CountDBConnections(MyDatabaseId) == 0;
}

static void
serve(void)
{
	TimestampTz last_work = GetCurrentTimestamp();

	for (;;)
	{
		bool		alone;

		take_queue();
		if (held.len == 0)
		{
			if (is_abandoned(last_work))
				break;
			sleep_until_woken(IDLE_CHECK_MS, false);
			continue;
		}

		alone = wait_for_soloist();
		claim_units();
		if (held.len > 0)
			flush_group();
		if (alone)
			pg_atomic_write_u32(&database->soloist, 0);
		last_work = GetCurrentTimestamp();
		CHECK_FOR_INTERRUPTS();
		if (held.len > 0)
			sleep_until_woken(RETRY_MS, true);
	}
}

/* ---- beginning and end ---- */

/* Whatever is queued goes back: nobody waits for a flusher that is gone */
static void
leave(int code, Datum arg)
{
	pg_atomic_write_u32(&database->flusher, PST_NO_FLUSHER);
	pg_atomic_write_u32(&database->flusher_proc, PST_NO_SLOT);
	pg_atomic_write_u64(&database->started_at, 0);
	pg_memory_barrier();

	take_queue();
	claim_units();
	for (int i = 0; i < held.len; i++)
	{
		if (pst_shared->slots[held.slots[i]].orphan)
			pst_push(database, held.slots[i]);
		else
			tell(held.slots[i], PST_RETURNED);
	}
}

static void
override_settings(void)
{
	static const char *const settings[][2] = {
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"},
		{"statement_timeout", "0"},
		{"lock_timeout", "500ms"},
		{"idle_in_transaction_session_timeout", "0"},
		{"row_security", "on"},
	};

	for (size_t i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

void
prompt_stats_flusher_main(Datum arg)
{
	memcpy(&extension_schema, MyBgworkerEntry->bgw_extra, sizeof(Oid));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid,
											  BGWORKER_BYPASS_ALLOWCONN);
	override_settings();
	if (!pst_attach() || (database = pst_find_database()) == NULL)
		proc_exit(0);

	before_shmem_exit(leave, (Datum) 0);
	RegisterXactCallback(at_flusher_event, NULL);
	pgstat_report_activity(STATE_RUNNING, "folding counts");
	pg_atomic_write_u32(&database->flusher_proc, pst_my_procno());
	pg_write_barrier();
	pg_atomic_write_u32(&database->flusher, PST_FLUSHER_READY);
	serve();
	proc_exit(0);
}

/* By a backend that would rather wait; it does not wait for the start */
void
pst_start_flusher(PstDatabase *db, Oid schema)
{
	BackgroundWorker worker = {0};
	uint64		now = GetCurrentTimestamp();
	uint64		started = pg_atomic_read_u64(&db->started_at);

	if (now - started < START_AGAIN_MS * UINT64CONST(1000) ||
		!pg_atomic_compare_exchange_u64(&db->started_at, &started, now))
		return;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "prompt_stats");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "prompt_stats_flusher_main");
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "prompt_stats flusher");
	snprintf(worker.bgw_type, sizeof(worker.bgw_type), "prompt_stats flusher");
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	memcpy(worker.bgw_extra, &schema, sizeof(Oid));
	(void) RegisterDynamicBackgroundWorker(&worker, NULL);
}
