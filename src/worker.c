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
 * SIGTERM, which a shutdown sends, too, cancels what runs, and makes it flush what is
 * pending before it goes.  A second one ends it at once.
 *
 * Nothing that a trigger does holds up those who wait for it, nor a shutdown: a transaction
 * that takes too long is cancelled, and if it catches that, the flusher is ended, which no SQL
 * can catch.  Where not even that helps, for it is stopped or runs code that does not
 * check for interrupts, others notice that its heart does not beat (group.c).
 *
 * There are never two in a database: PstDatabase.flusher goes to READY by
 * compare-and-exchange, from STARTING, or from NO_FLUSHER where a start was given up too
 * early; and only who made it READY makes it anything else.
 */
#include "prompt_stats.h"

#include "flusher.h"

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
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#define LOCK_TIMEOUT_TEXT	"500ms"
#define IDLE_CHECK_MS		500
#define IDLE_MS				2000	/* it goes, after that */
#define ABANDONED_MS		1000	/* the same where no session is left */
#define START_AGAIN_MS		1000	/* after a start that came to nothing */
#define COMPLAIN_MS			1000

PGDLLEXPORT void prompt_stats_flusher_main(Datum arg);

PstDatabase *pst_served = NULL;
TimestampTz pst_last_fold = 0;

static bool is_durable = true;	/* the commit of the transaction that runs */
static bool is_ready = false;	/* we are the flusher */
static bool has_retired = false;	/* we were */
static volatile sig_atomic_t is_terminated = false;
static volatile sig_atomic_t is_ended = false;	/* by a second SIGTERM */

/* Set where a limit has ended us */
static volatile sig_atomic_t fold_overran = false;
static volatile sig_atomic_t leaving_overran = false;

static TimeoutId fold_limit;
static TimeoutId leaving_limit;

/* The table that we write into, for the log: there it is too late to look up its name */
static char folding[PST_QUALIFIED_LEN];

static void
beat(void)
{
	pg_atomic_write_u64(&pst_served->heartbeat, pst_clock_ms());
}

/* ---- limits ---- */

/* In a signal handler: the next check for interrupts is FATAL, which no SQL can catch */
static void
end_process(void)
{
	ProcDiePending = true;
	InterruptPending = true;
}

static void
at_fold_limit(void)
{
	fold_overran = true;
	end_process();
}

static void
at_leaving_limit(void)
{
	leaving_overran = true;
	end_process();
}

static void
begin_limits(void)
{
	EnableTimeoutParams limits[] = {
		{STATEMENT_TIMEOUT, TMPARAM_AFTER, PST_FOLD_MS, 0},
		{fold_limit, TMPARAM_AFTER, PST_FOLD_END_MS, 0},
	};

	enable_timeouts(limits, lengthof(limits));
}

/*
 * Whatever comes after the end of a transaction comes too late, and must not hit the next
 * one.  But where this ends the transaction of a process that exits, it is told why.
 */
static void
end_limits(void)
{
	DisableTimeoutParams limits[] = {
		{STATEMENT_TIMEOUT, false},
		{fold_limit, false},
	};

	disable_timeouts(limits, lengthof(limits));
	if (!fold_overran || proc_exit_inprogress)
		return;
	fold_overran = false;
	ProcDiePending = false;
	if (is_ended || leaving_overran)
		end_process();
}

/* ---- a transaction ---- */

/* Never for a standby: each waiter waits for his own level (group.c) */
static void
set_sync_commit(void)
{
	SetConfigOption("synchronous_commit", is_durable ? "local" : "off",
					PGC_USERSET, PGC_S_SESSION);
}

/* Outcomes are told here: nothing may fail */
static void
at_flusher_event(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT)
	{
		set_sync_commit();		/* a trigger may have changed it */
		pst_begin_group_commit();
	}
	else if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
	{
		end_limits();
		pst_end_group_fold(event == XACT_EVENT_COMMIT);
		pst_end_flights(event == XACT_EVENT_COMMIT);
	}
}

/*
 * Undoes what a trigger has set in a transaction before, and StartTransaction() has read.  What
 * overrides is not reset by the server (guc.c: ResetAllOptions), but lock_timeout is written by
 * hand in some folds, so that a SET may have kept such a value.
 */
static void
reset_settings(void)
{
	ResetAllOptions();
	SetConfigOption("lock_timeout", LOCK_TIMEOUT_TEXT, PGC_SUSET, PGC_S_OVERRIDE);
	set_sync_commit();
	XactReadOnly = false;
	XactIsoLevel = XACT_READ_COMMITTED;
	XactDeferrable = false;
}

/* The log must not fill up with what fails again and again; "last" is of the caller */
bool
pst_may_complain(TimestampTz *last)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(*last, now, COMPLAIN_MS))
		return false;
	*last = now;
	return true;
}

/* In the handler of an error.  FreeErrorData() leaves part of a copy behind, a reset nothing. */
static void
keep_error(PstFailure *failure)
{
	static MemoryContext context = NULL;
	MemoryContext caller;
	ErrorData  *error;

	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "prompt_stats error", ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	error = CopyErrorData();
	failure->code = error->sqlerrcode;
	pst_copy_text(failure->text, error->message, sizeof(failure->text));
	FlushErrorState();
	MemoryContextSwitchTo(caller);
	MemoryContextReset(context);
}

/*
 * One transaction, which "step" ends.  False where it failed, and why.  "durable" on the
 * disk of this server when it ends.
 */
bool
pst_run_transaction(void (*step) (void), bool durable, PstFailure *failure)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			me = GetUserId();
	bool		ok = true;

	is_durable = durable;
	beat();
	SetCurrentStatementStartTimestamp();
	PG_TRY();
	{
		StartTransactionCommand();
		reset_settings();
		begin_limits();
		step();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		keep_error(failure);
		AbortCurrentTransaction();
		pst_end_as_owner(me);
		RESUME_INTERRUPTS();
		ok = false;
	}
	PG_END_TRY();
	end_limits();				/* where it has not even begun */
	pg_atomic_write_u32(&pst_served->folding, InvalidOid);
	MemoryContextSwitchTo(caller);

	/* pg_advisory_lock() by a trigger */
	LockReleaseSession(USER_LOCKMETHOD);
	return ok;
}

/* The scope of the owner lasts until the transaction has ended */
void
pst_fold_as_owner(const PstTables *tables, void (*fold) (const PstTables *))
{
	PstScope	scope = pst_scope_of(tables->stats_owner, tables->stats_path);
	Oid			me = GetUserId();

	strlcpy(folding, tables->stats_name, sizeof(folding));
	pg_atomic_write_u32(&pst_served->folding, tables->stats);
	scope.writes = tables->stats;
	pst_begin_as_owner(&scope);
	PushActiveSnapshot(GetTransactionSnapshot());
	fold(tables);
	PopActiveSnapshot();
	CommitTransactionCommand();
	pst_end_as_owner(me);
}

/* ---- the loop ---- */

/* Outside of a transaction there is nothing to cancel */
void
pst_check_interrupts(void)
{
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
}

/* Woken by who queues something, unless it is there already, and by soloists */
void
pst_sleep_until_woken(long timeout, uint32 soloist)
{
	pg_atomic_write_u32(&pst_served->flusher_idle, soloist != 0 ? PST_AWAITS_SOLOIST : PST_AWAITS_WORK);
	pg_memory_barrier();
	if (soloist != 0 ? pg_atomic_read_u32(&pst_served->soloist) == soloist :
		pg_atomic_read_u32(&pst_served->head) == PST_NONE)
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout, pst_wait_event());
	pg_atomic_write_u32(&pst_served->flusher_idle, PST_AWAKE);
	ResetLatch(MyLatch);
	pst_check_interrupts();
}

static void
reload_settings(void)
{
	if (!ConfigReloadPending)
		return;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
}

/* Under the locks of all partitions: from now on there may be another */
static void
cease(void)
{
	is_ready = false;
	has_retired = true;
	pg_atomic_write_u64(&pst_served->started_at, 0);
	pg_atomic_write_u32(&pst_served->flusher_proc, PST_NONE);
	pg_atomic_write_u32(&pst_served->flusher, PST_NO_FLUSHER);
}

/* True where nobody can hand over anything any more, and nothing is left */
static bool
retire(void)
{
	bool		empty;

	pst_lock_partitions(pst_served, LW_EXCLUSIVE);
	empty = pst_is_empty(pst_served);
	if (empty)
		cease();
	pst_unlock_partitions(pst_served);
	return empty;
}

static bool
has_nothing_to_do(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (pg_atomic_read_u32(&pst_served->head) != PST_NONE || pst_holds_waiting() || pst_is_flush_wanted())
		return false;
	pst_last_fold = Min(pst_last_fold, now);	/* the clock may have been put
												 * back */
	return TimestampDifferenceExceeds(pst_last_fold, now, IDLE_MS) ||
		(TimestampDifferenceExceeds(pst_last_fold, now, ABANDONED_MS) &&
		 CountDBConnections(MyDatabaseId) == 0);
}

static void
serve(void)
{
	long		retry = PST_RETRY_MIN_MS;
	long		wait;

	pst_last_fold = GetCurrentTimestamp();
	while (pst_use_flusher && !is_terminated)
	{
		beat();
		pst_serve_waiting();
		if (pst_time_to_flush() == 0)
			pst_flush_pending();
		pgstat_report_stat(false);
		reload_settings();
		if (pg_atomic_read_u32(&pst_served->head) != PST_NONE)
			continue;

		retry = pst_holds_waiting() ? Min(retry * 2, PST_RETRY_MAX_MS) : PST_RETRY_MIN_MS;
		wait = Min(pst_holds_waiting() ? retry : IDLE_CHECK_MS, Max(pst_time_to_flush(), 1));
		pst_sleep_until_woken(wait, 0);
		if (!has_nothing_to_do())
			continue;
		pst_tidy_partitions(pst_served, true);
		if (retire())
			return;
	}
}

/*
 * Takes nothing more, and flushes until nothing is left: also transactions that have
 * reserved are waited for.  What stays locked is left, and leave() tells of it.
 */
static void
flush_and_leave(void)
{
	TimestampTz began = GetCurrentTimestamp();

	enable_timeout_after(leaving_limit, PST_LEAVING_END_MS);
	pg_atomic_write_u32(&pst_served->flusher, PST_FLUSHER_LEAVING);
	pg_memory_barrier();
	pst_return_waiting();
	while (!retire())
	{
		beat();
		pst_flush_pending();
		pst_return_waiting();
		if (TimestampDifferenceExceeds(began, GetCurrentTimestamp(), PST_LEAVING_MS))
			return;
		pg_usleep(5000L);
		pst_check_interrupts();
	}
}

/* ---- beginning and end ---- */

/* However we end, we are not the flusher any more; nor does one seem to start */
static void
resign(void)
{
	uint32		starting = PST_FLUSHER_STARTING;

	if (is_ready)
	{
		pst_lock_partitions(pst_served, LW_EXCLUSIVE);
		cease();
		pst_unlock_partitions(pst_served);
	}
	else if (!has_retired)
		(void) pg_atomic_compare_exchange_u32(&pst_served->flusher, &starting, PST_NO_FLUSHER);
}

static void
report_limit(void)
{
	if (fold_overran)
		ereport(LOG,
				(errmsg("ended the prompt_stats flusher, for its transaction did not end within %d s",
						PST_FOLD_END_MS / 1000),
				 errdetail("It was writing into table %s. It was canceled after %d s, in vain.",
						   folding, PST_FOLD_MS / 1000),
				 errhint("Look for a trigger or function of that table that catches query_canceled.")));
	else if (leaving_overran)
		ereport(LOG,
				(errmsg("ended the prompt_stats flusher, for it did not flush what is pending within %d s",
						PST_LEAVING_END_MS / 1000)));
}

/* At a shutdown no other flusher comes */
static bool
is_last(void)
{
	return is_terminated || !pst_use_flusher;
}

/*
 * Nobody waits for a flusher that is gone, and what is pending finds another.
 * Registered before the server's own callback that aborts the transaction, hence
 * called after it.
 */
static void
leave(int code, Datum arg)
{
	report_limit();
	if (is_ready && is_last())
		pst_report_leftover();
	resign();
	pst_end_soloist();
	if (!has_retired)
		return;
	pst_return_waiting();
	ConditionVariableBroadcast(&pst_served->flushed);
	if (!pst_is_empty(pst_served) || pg_atomic_read_u32(&pst_served->head) != PST_NONE)
		pst_start_flusher(pst_served);
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
		{"lock_timeout", LOCK_TIMEOUT_TEXT},
		{"idle_in_transaction_session_timeout", "0"},
		{"row_security", "on"},
	};

	for (size_t i = 0; i < lengthof(settings); i++)
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/* False where another flusher was faster; one that comes late may find that it was given up */
static bool
announce(void)
{
	uint32		state = PST_FLUSHER_STARTING;

	beat();
	while (!pg_atomic_compare_exchange_u32(&pst_served->flusher, &state, PST_FLUSHER_READY))
		if (state != PST_NO_FLUSHER && state != PST_FLUSHER_STARTING)
			return false;
	is_ready = true;
	pst_list_due(pst_served);
	pg_atomic_write_u32(&pst_served->flusher_proc, pst_my_procno());
	return true;
}

/* What runs is cancelled, for it may wait for long; then the loop sees it, or a second one ends us */
static void
handle_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	if (is_terminated && !proc_exit_inprogress)
	{
		is_ended = true;
		end_process();
	}
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
	if (!pst_attach() || (pst_served = pst_entry_of(DatumGetObjectId(arg))) == NULL)
		proc_exit(0);
	before_shmem_exit(leave, (Datum) 0);
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid,
											  BGWORKER_BYPASS_ALLOWCONN);
	override_settings();
	pst_serve_init();
	pst_flush_init();
	RegisterXactCallback(at_flusher_event, NULL);
	fold_limit = RegisterTimeout(USER_TIMEOUT, at_fold_limit);
	leaving_limit = RegisterTimeout(USER_TIMEOUT, at_leaving_limit);
	pgstat_report_activity(STATE_RUNNING, "folding counts");
	pqsignal(SIGTERM, handle_sigterm);
	if (ProcDiePending)
		proc_exit(0);			/* SIGTERM came before */
	if (announce())
	{
		serve();
		if (is_ready)
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

/* Who finds it silent first tells of it */
static bool
is_first_to_tell(PstDatabase *db)
{
	uint64		heartbeat = pg_atomic_read_u64(&db->heartbeat);
	uint64		told = pg_atomic_read_u64(&db->silence_told);

	return told != heartbeat &&
		pg_atomic_compare_exchange_u64(&db->silence_told, &told, heartbeat);
}

/* What a silent flusher is at; reads the catalog */
static char *
describe_folding(PstDatabase *db)
{
	Oid			table = pg_atomic_read_u32(&db->folding);

	if (!OidIsValid(table) || !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(table)))
		return "It was not writing into any table.";
	return psprintf("It was writing into table %s.", pst_qualified_name(table));
}

/* By who needs it and finds it silent; once in the log, by the first */
void
pst_report_silence(PstDatabase *db)
{
	uint32		proc = pg_atomic_read_u32(&db->flusher_proc);

	if (proc == PST_NONE || !is_first_to_tell(db))
		return;
	ereport(LOG,
			(errmsg("the prompt_stats flusher (PID %d) has given no sign of life for %d s",
					ProcGlobal->allProcs[proc].pid, PST_SILENT_MS / 1000),
			 errdetail("%s Meanwhile transactions fold their own counts.", describe_folding(db)),
			 errhint("If the process is not stopped, look for code that the table runs and that does not check for interrupts.")));
}

/* By who needs one; this does not wait for the start, which may come to nothing */
void
pst_start_flusher(PstDatabase *db)
{
	BackgroundWorker worker = {0};
	uint32		starting = PST_FLUSHER_STARTING;

	if (pst_is_flusher_silent(db))
		pst_report_silence(db);
	if (!may_start(db))
		return;
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "prompt_stats");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "prompt_stats_flusher_main");
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "prompt_stats flusher");
	snprintf(worker.bgw_type, sizeof(worker.bgw_type), "prompt_stats flusher");
	worker.bgw_main_arg = ObjectIdGetDatum(db->oid);
	if (!RegisterDynamicBackgroundWorker(&worker, NULL))
		(void) pg_atomic_compare_exchange_u32(&db->flusher, &starting, PST_NO_FLUSHER);
}
