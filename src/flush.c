/*
 * flush.c
 *		The flusher folds for transactions that went on: the other side of pending.c.
 *
 * In cycles, each once over all that is pending, some prompts in a transaction.  That is
 * done in haste first (fold.c), and where it fails again, with care: rows that somebody
 * has locked are skipped, and left for the next cycle; rows that are missing, or have no
 * room, are folded by themselves, as a transaction folds its own.
 * Where that fails, by halves, until who is to blame is alone: then its counts stay
 * pending, if it may succeed another time, or are rejected.
 */
#include "prompt_stats.h"

#include "flusher.h"

#include "access/xact.h"
#include "utils/memutils.h"

#define MAX_HOLDS			2000	/* prompts in one transaction */

/* What was gathered; the flights of one transaction are some of them */
static PstHold *holds = NULL;
static PstHold *flights = NULL;
static int	nflights = 0;
static bool folding = false;
static void (*fold) (const PstTables *);
static bool in_haste;

/* Numbers of those that have no row yet, or no room */
static int *odd = NULL;
static int	nodd;

static bool left_over = false;	/* by the last cycle */
static MemoryContext cycle_context = NULL;

/* In the callbacks, as pst_end_group_fold(): must not fail */
void
pst_end_flights(bool committed)
{
	TimestampTz now = GetCurrentTransactionStopTimestamp();

	if (!folding)
		return;
	folding = false;
	if (committed && nflights > 0)
		pst_last_fold = now;
	for (int i = 0; i < nflights; i++)
	{
		if (!flights[i].in_air)
			continue;
		if (committed)
			pst_land(&flights[i], now);
		else
			pst_turn_back(&flights[i]);
	}
}

/* ---- one transaction ---- */

static void
read_hold(const PstTables *tables, const PstHold *hold, PstDeltas *deltas)
{
	Datum		id = pst_id_from_bytes(hold->key.id, hold->key.len, hold->key.kind);

	if (hold->key.kind != tables->id_kind)
		id = pst_convert_id(id, hold->key.kind, tables->id_kind, tables->stats_name);
	memcpy(pst_add_delta(deltas, id, PST_VIEWS, 0)->n, hold->n, sizeof(hold->n));
}

/* Each a unit by itself: one row that is locked or missing keeps no other, but in haste */
static void
fold_unlocked(const PstTables *tables)
{
	PstDeltas  *units = palloc0(nflights * sizeof(PstDeltas));
	PstVerdict *verdicts = palloc(nflights * sizeof(PstVerdict));

	in_haste = pst_may_hurry(tables);
	for (int i = 0; i < nflights; i++)
	{
		pst_init_deltas(&units[i], tables, 1);
		read_hold(tables, &flights[i], &units[i]);
		verdicts[i] = PST_VERDICT_FOLDED;
	}
	pst_fold_units(tables, units, verdicts, nflights, in_haste);
	in_haste = false;
	for (int i = 0; i < nflights; i++)
	{
		if (verdicts[i] == PST_VERDICT_FOLDED)
			continue;
		pst_turn_back(&flights[i]);
		if (verdicts[i] == PST_VERDICT_RETURNED)
			odd[nodd++] = &flights[i] - holds;
		else
			left_over = true;
	}
}

/* As a transaction folds its own: inserts, waits for locks, and fails */
static void
fold_whole(const PstTables *tables)
{
	PstDeltas	deltas;

	pst_init_deltas(&deltas, tables, nflights);
	for (int i = 0; i < nflights; i++)
		read_hold(tables, &flights[i], &deltas);
	(void) pst_fold(tables, &deltas);
}

static void
fold_flights(void)
{
	const PstTables *tables = pst_lock_stats_again(InvalidOid, flights[0].key.stats, false);
	FullTransactionId xid;

	if (tables == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("table prompt_stats is locked")));
	xid = GetTopFullTransactionId();
	for (int i = 0; i < nflights; i++)
		pst_take_off(&flights[i], xid);
	if (!OidIsValid(tables->stats))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table that was counted in is gone")));
	pst_fold_as_owner(tables, fold);
}

static bool
fold_range(int first, int len, void (*how) (const PstTables *))
{
	bool		ok;

	flights = &holds[first];
	nflights = len;
	folding = true;
	fold = how;
	in_haste = false;
	ok = pst_run_transaction(fold_flights, SYNCHRONOUS_COMMIT_ON);
	folding = false;
	pst_serve_waiting();
	return ok;
}

static bool
fold_gathered(int len)
{
	return fold_range(0, len, fold_unlocked) || (in_haste && fold_range(0, len, fold_unlocked));
}

/* ---- what fails ---- */

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
	static TimestampTz complained = 0;

	pst_reject(pst_served, hold, pst_error_text);
	if (pst_may_complain(&complained))
		ereport(LOG,
				(errcode(pst_error_code),
				 errmsg("rejected counts of prompt %s: %s", print_key(&hold->key), pst_error_text),
				 errdetail("SQLSTATE %s; " INT64_FORMAT " views, " INT64_FORMAT " copies, " INT64_FORMAT
						   " forks. prompt_stats_status has the sum of what was rejected.",
						   unpack_sql_state(pst_error_code), hold->n[PST_VIEWS], hold->n[PST_COPIES],
						   hold->n[PST_FORKS])));
}

/* All in one transaction; where that fails, by halves, until who is to blame is alone */
static void
fold_by_halves(int first, int len)
{
	if (len == 0 || fold_range(first, len, fold_whole))
		return;
	if (len > 1)
	{
		fold_by_halves(first, len / 2);
		fold_by_halves(first + len / 2, len - len / 2);
	}
	else if (is_transient(pst_error_code))
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

/* ---- cycles ---- */

/* Once over all that is pending */
void
pst_flush_pending(void)
{
	uint64		wanted = pg_atomic_read_u64(&pst_served->flushes_wanted);
	MemoryContext caller = MemoryContextSwitchTo(cycle_context);
	int			n;

	MemoryContextReset(cycle_context);
	pst_served->cycle++;
	left_over = false;
	pg_atomic_write_u32(&pst_served->crowded, 0);
	pg_memory_barrier();
	while ((n = pst_gather(pst_served, pst_served->cycle, holds, MAX_HOLDS)) > 0)
	{
		nodd = 0;
		if (fold_gathered(n))
			fold_odd();
		else if (is_transient(pst_error_code))
			left_over = true;
		else
			fold_by_halves(0, n);
		pg_atomic_fetch_add_u64(&pst_served->flushes, 1);
		pst_check_interrupts();
	}
	pst_tidy_partitions(pst_served, false);
	MemoryContextSwitchTo(caller);
	if (left_over || pg_atomic_read_u64(&pst_served->flushes_done) == wanted)
		return;
	pg_atomic_write_u64(&pst_served->flushes_done, wanted);
	ConditionVariableBroadcast(&pst_served->flushed);
}

bool
pst_is_flush_wanted(void)
{
	return pg_atomic_read_u64(&pst_served->flushes_wanted) != pg_atomic_read_u64(&pst_served->flushes_done) ||
		pg_atomic_read_u32(&pst_served->crowded) == 1;
}

/* Milliseconds until what is pending is to be flushed; 0: now */
long
pst_time_to_flush(TimestampTz last_flush)
{
	long		passed = TimestampDifferenceMilliseconds(last_flush, GetCurrentTimestamp());
	long		interval = pst_is_flush_wanted() ? 0 : pst_flush_interval;

	if (left_over)
		interval = pst_is_flush_wanted() ? PST_RETRY_MAX_MS : Min(interval, PST_RETURN_MS);
	return Max(interval - passed, 0);
}

static void
report(const PstHold *hold)
{
	const int64 *n = hold->entry->pending;

	ereport(LOG,
			(errmsg("could not flush counts of prompt %s: its row or table stays locked",
					print_key(&hold->key)),
			 errdetail(INT64_FORMAT " views, " INT64_FORMAT " copies, " INT64_FORMAT " forks.",
					   n[PST_VIEWS], n[PST_COPIES], n[PST_FORKS])));
}

/* At a shutdown it is lost, but not without a word */
void
pst_report_leftover(void)
{
	int			n;

	pst_served->cycle++;
	while ((n = pst_gather(pst_served, pst_served->cycle, holds, MAX_HOLDS)) > 0)
		for (int i = 0; i < n; i++)
			report(&holds[i]);
}

void
pst_flush_init(void)
{
	cycle_context = AllocSetContextCreate(TopMemoryContext, "prompt_stats flush",
										  ALLOCSET_DEFAULT_SIZES);
	holds = MemoryContextAlloc(TopMemoryContext, MAX_HOLDS * sizeof(PstHold));
	odd = MemoryContextAlloc(TopMemoryContext, MAX_HOLDS * sizeof(int));
}
