/*
 * status.c
 *		The ledger and the statistics of a database, and prompt_stats_flush().
 */
#include "prompt_stats.h"

#include "shared.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(prompt_stats_status_row);
PG_FUNCTION_INFO_V1(prompt_stats_flush);

/* Columns of prompt_stats_status, in its order */
typedef enum StatusColumn
{
	ACCEPTED,
	FLUSHED,
	PENDING,
	REJECTED,
	LEDGER_SINCE,
	LAST_REJECTED_AT,
	LAST_REJECTED,
	OLDEST_PENDING,
	OWN_FOLDS,
	OWN_FOLD_REASONS,
	GROUPS,
	GROUPED_TRANSACTIONS,
	LARGEST_GROUP,
	FLUSHES,
	FLUSHER,
	FLUSHER_PID,
	ENTRIES,
	MAX_ENTRIES,
	STATUS_COLUMNS
} StatusColumn;

#define WAIT_MS 1000			/* then look whether there is a flusher */

static const char *const own_fold_reasons[PST_NOWN] = {
	[PST_OWN_ALONE] = "alone",
	[PST_OWN_WRITES] = "writes",
	[PST_OWN_SERIALIZABLE] = "serializable",
	[PST_OWN_TABLE_LOCK] = "table_lock",
	[PST_OWN_PREPARE] = "prepare",
	[PST_OWN_ORIGIN] = "origin",
	[PST_OWN_NO_MEMORY] = "no_memory",
	[PST_OWN_NO_FLUSHER] = "no_flusher",
	[PST_OWN_TOO_LARGE] = "too_large",
	[PST_OWN_COLLATION] = "collation",
	[PST_OWN_RETURNED] = "returned",
};

/* ---- prompt_stats_status ---- */

static Datum
count_of(pg_atomic_uint64 *counter)
{
	return Int64GetDatum(pg_atomic_read_u64(counter));
}

static void
put_time(TimestampTz time, Datum *value, bool *isnull)
{
	*value = TimestampTzGetDatum(time);
	*isnull = time == 0;
}

static void
put_ledger(PstDatabase *db, Datum *values, bool *nulls)
{
	PstLedger	ledger;

	pst_read_ledger(db, &ledger);
	values[ACCEPTED] = Int64GetDatum(ledger.accepted);
	values[FLUSHED] = Int64GetDatum(ledger.flushed);
	values[PENDING] = Int64GetDatum(ledger.pending);
	values[REJECTED] = Int64GetDatum(ledger.rejected);
	values[ENTRIES] = Int64GetDatum(ledger.entries);
	values[MAX_ENTRIES] = Int64GetDatum(ledger.max_entries);
	put_time(db->since, &values[LEDGER_SINCE], &nulls[LEDGER_SINCE]);
	put_time(ledger.oldest, &values[OLDEST_PENDING], &nulls[OLDEST_PENDING]);
}

/* It may name ids of that table, which may be gone, or have another owner by now */
static bool
may_see_reason(Oid stats)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS) ||
		(SearchSysCacheExists1(RELOID, ObjectIdGetDatum(stats)) &&
		 pst_owns_table(stats, GetUserId()));
}

static void
put_rejection(PstDatabase *db, Datum *values, bool *nulls)
{
	char		reason[PST_REASON_LEN];
	TimestampTz at;
	Oid			stats;

	LWLockAcquire(&db->partitions[0].lock, LW_SHARED);
	memcpy(reason, db->reason, sizeof(reason));
	at = db->rejected_at;
	stats = db->rejected_stats;
	LWLockRelease(&db->partitions[0].lock);
	put_time(at, &values[LAST_REJECTED_AT], &nulls[LAST_REJECTED_AT]);
	values[LAST_REJECTED] = CStringGetTextDatum(reason);
	nulls[LAST_REJECTED] = at == 0 || !may_see_reason(stats);
}

/* In the callbacks at the end of a transaction: must not fail */
void
pst_count_own_fold(PstDatabase *db, PstOwnFold why, int64 n)
{
	uint64		old = pg_atomic_read_u64(&db->own[why]);

	while (!pg_atomic_compare_exchange_u64(&db->own[why], &old, pst_add_saturated(old, n)))
		;
}

/* By reason, as in {"alone": 12} */
static void
put_own_folds(PstDatabase *db, Datum *values)
{
	StringInfoData json;
	const char *separator = "";
	int64		sum = 0;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < PST_NOWN; i++)
	{
		int64		n = pg_atomic_read_u64(&db->own[i]);

		sum = pst_add_saturated(sum, n);
		if (n == 0)
			continue;
		appendStringInfo(&json, "%s\"%s\": " INT64_FORMAT, separator, own_fold_reasons[i], n);
		separator = ", ";
	}
	appendStringInfoChar(&json, '}');
	values[OWN_FOLDS] = Int64GetDatum(sum);
	values[OWN_FOLD_REASONS] = DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

static int
pid_of(uint32 procno)
{
	return procno < ProcGlobal->allProcCount ? ProcGlobal->allProcs[procno].pid : 0;
}

static void
put_flusher(PstDatabase *db, Datum *values, bool *nulls)
{
	static const char *const states[] = {"none", "starting", "ready", "leaving"};
	int			pid = pid_of(pg_atomic_read_u32(&db->flusher_proc));

	values[FLUSHER] = CStringGetTextDatum(states[pg_atomic_read_u32(&db->flusher)]);
	values[FLUSHER_PID] = Int32GetDatum(pid);
	nulls[FLUSHER_PID] = pid == 0;
}

/*
 * prompt_stats_status_row(): the row of view prompt_stats_status.  Where there is no
 * shared memory, as on a standby, all but the state of the flusher is 0 or NULL.
 */
Datum
prompt_stats_status_row(PG_FUNCTION_ARGS)
{
	PstDatabase *db = pst_find_database();
	Datum		values[STATUS_COLUMNS] = {0};
	bool		nulls[STATUS_COLUMNS] = {0};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (db != NULL)
	{
		put_ledger(db, values, nulls);
		put_rejection(db, values, nulls);
		put_own_folds(db, values);
		put_flusher(db, values, nulls);
		values[GROUPS] = count_of(&db->groups);
		values[GROUPED_TRANSACTIONS] = count_of(&db->grouped);
		values[LARGEST_GROUP] = count_of(&db->largest_group);
		values[FLUSHES] = count_of(&db->flushes);
	}
	else
	{
		nulls[LEDGER_SINCE] = nulls[LAST_REJECTED_AT] = nulls[LAST_REJECTED] = true;
		nulls[OLDEST_PENDING] = nulls[OWN_FOLD_REASONS] = nulls[FLUSHER_PID] = true;
		values[FLUSHER] = CStringGetTextDatum("none");
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* ---- prompt_stats_flush() ---- */

/* The flusher skips rows that we have locked, and we would wait for it */
static void
check_holds_nothing(PstDatabase *db)
{
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()) ||
		pst_holds_conflicting_lock(pg_atomic_read_u32(&db->stats)))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("prompt_stats_flush() cannot run in a transaction that has written or locked a table"),
				 errdetail("The flusher would wait for this transaction, and it for the flusher."),
				 errhint("Call it in a transaction of its own.")));
}

static void
flush_failed_error(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("some counts can't be flushed now"),
			 errdetail("They stay pending; the server log says why."),
			 errhint("Mend what it names, and call prompt_stats_flush() again.")));
}

static void
check_layout(void)
{
	if (pst_is_other_layout())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("prompt_stats_flush() cannot reach the counts of another version of prompt_stats"),
				 errdetail("Sessions that began before this version was installed hold them in shared memory, and flush them."),
				 errhint("Restart the server, which flushes them, or call it in a session that began before.")));
}

static void
no_flusher_error(PstDatabase *db)
{
	int			pid = pid_of(pg_atomic_read_u32(&db->flusher_proc));

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 pid != 0 ?
			 errmsg("the prompt_stats flusher (PID %d) has given no sign of life for %d s",
					pid, PST_SILENT_MS / 1000) :
			 errmsg("no prompt_stats flusher has come to life for %d s", PST_SILENT_MS / 1000),
			 errdetail("The counts stay pending."),
			 pid != 0 ?
			 errhint("Let the process go on if it is stopped; else look for code that the table runs and that does not check for interrupts.") :
			 errhint("Check prompt_stats.flusher and max_worker_processes, and the server log.")));
}

/* Since "began" at least; one that is to start has that time, too */
static bool
is_any_flusher_silent(PstDatabase *db, uint64 began)
{
	return pst_is_flusher_silent(db) &&
		(pg_atomic_read_u32(&db->flusher_proc) != PST_NONE || pst_clock_ms() - began > PST_SILENT_MS);
}

/* A flusher that died may have left something for another, and one that starts may never come */
static void
wait_for_flush(PstDatabase *db, uint64 ticket)
{
	uint64		began = pst_clock_ms();

	ConditionVariablePrepareToSleep(&db->flushed);
	while (pg_atomic_read_u64(&db->flushes_done) < ticket && !pst_is_empty(db))
	{
		if (pg_atomic_read_u64(&db->flushes_failed) >= ticket)
			flush_failed_error();
		if (is_any_flusher_silent(db, began))
			no_flusher_error(db);
		if (!pst_is_flusher_ready(db))
			pst_start_flusher(db);
		pst_wake_flusher(db);
		(void) ConditionVariableTimedSleep(&db->flushed, WAIT_MS, pst_wait_event());
	}
	ConditionVariableCancelSleep();
}

/*
 * prompt_stats_flush() returns when all that was accepted before is in the table, or
 * rejected.  Until then it waits: also for rows that others have locked.  An error where
 * the table has lost a column or key that it needs, can't be written, or takes too long, and
 * where the flusher gives no sign of life.
 */
Datum
prompt_stats_flush(PG_FUNCTION_ARGS)
{
	PstDatabase *db = pst_find_database();

	PreventCommandIfParallelMode("prompt_stats_flush()");
	if (db == NULL)
	{
		check_layout();
		PG_RETURN_VOID();		/* a standby, or no shared memory: nothing can
								 * be pending */
	}
	check_holds_nothing(db);
	if (!pst_is_empty(db))
		wait_for_flush(db, pg_atomic_add_fetch_u64(&db->flushes_wanted, 1));
	PG_RETURN_VOID();
}
