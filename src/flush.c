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

#define MAX_GATHERED		16384	/* prompts that are sorted together */
#define MAX_HOLDS			2000	/* in one transaction */
#define LONG_MS				1000	/* a transaction that takes longer has too
									 * many */
#define HALVES_MS			2000	/* in a cycle, for finding out who is to
									 * blame */
#define BRIEF_LOCK_MS		10	/* waiting for a lock, where rows are inserted */

/* What was gathered; those that are folded together; the flights of one transaction */
static PstHold *gathered = NULL;
static PstHold *holds = NULL;
static PstHold *flights = NULL;
static int	nflights = 0;
static bool folding = false;
static bool has_taken_off;		/* the last fold has got as far as that */
static void (*fold) (const PstTables *);
static bool in_haste;
static PstFailure failure;		/* of the last fold */
static int	batch = MAX_HOLDS;	/* prompts in the next transaction */

/* Numbers of those that have no row yet, or no room */
static int *odd = NULL;
static int	nodd;

static TimestampTz last_flush = 0;	/* when the last cycle began, or ended if
									 * it left something over */
static bool left_over = false;	/* by the last cycle */
static bool table_fails = false;	/* not some prompt, in that cycle */
static TimestampTz halves_until;
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
	if (committed)
		pst_land(flights, nflights);
	for (int i = 0; i < nflights; i++)
		if (flights[i].in_air)
			pst_turn_back(&flights[i]);
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

/*
 * As a transaction folds its own: inserts, waits for locks, and fails.  Others wait for us,
 * so a lock is not waited for as long as a transaction would.
 */
static void
fold_whole(const PstTables *tables)
{
	int			timeout = LockTimeout;
	PstDeltas	deltas;

	pst_init_deltas(&deltas, tables, nflights);
	for (int i = 0; i < nflights; i++)
		read_hold(tables, &flights[i], &deltas);
	PG_TRY();
	{
		LockTimeout = BRIEF_LOCK_MS;
		(void) pst_fold(tables, &deltas);
	}
	PG_FINALLY();
	{
		LockTimeout = timeout;
	}
	PG_END_TRY();
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
	pst_take_off(flights, nflights, xid);
	has_taken_off = true;
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
	has_taken_off = false;
	fold = how;
	in_haste = false;
	ok = pst_run_transaction(fold_flights, true, &failure);
	folding = false;
	pst_serve_waiting();
	return ok;
}

static bool
fold_holds(int len)
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

	pst_reject(pst_served, hold, failure.text);
	if (pst_may_complain(&complained))
		ereport(LOG,
				(errcode(failure.code),
				 errmsg("rejected counts of prompt %s: %s", print_key(&hold->key), failure.text),
				 errdetail("SQLSTATE %s; " INT64_FORMAT " views, " INT64_FORMAT " copies, " INT64_FORMAT
						   " forks. prompt_stats_status has the sum of what was rejected.",
						   unpack_sql_state(failure.code), hold->n[PST_VIEWS], hold->n[PST_COPIES],
						   hold->n[PST_FORKS])));
}

static void
complain(void)
{
	static TimestampTz complained = 0;

	if (pst_may_complain(&complained))
		ereport(LOG,
				(errcode(failure.code),
				 errmsg("could not flush counts, which stay pending: %s", failure.text)));
}

/* The last fold failed before it looked at any prompt: none is to blame, and none rejected */
static bool
has_table_failed(void)
{
	if (has_taken_off)
		return false;
	if (!is_transient(failure.code))
	{
		table_fails = true;
		complain();
	}
	return true;
}

/* All in one transaction; where that fails, by halves, until who is to blame is alone */
static void
fold_by_halves(int first, int len)
{
	if (len == 0 || fold_range(first, len, fold_whole))
		return;
	if (has_table_failed() || GetCurrentTimestamp() > halves_until)
		left_over = true;
	else if (len > 1)
	{
		fold_by_halves(first, len / 2);
		fold_by_halves(first + len / 2, len - len / 2);
	}
	else if (is_transient(failure.code))
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

/* Slow triggers can make a transaction long, and groups wait for its end */
static void
adapt_batch(int n, TimestampTz began)
{
	if (TimestampDifferenceExceeds(began, GetCurrentTimestamp(), LONG_MS))
		batch = Max(n / 2, 1);
	else if (n == batch)
		batch = Min(batch * 2, MAX_HOLDS);
}

static void
flush_holds(int n)
{
	TimestampTz began = GetCurrentTimestamp();
	bool		ok;

	nodd = 0;
	ok = fold_holds(n);
	adapt_batch(n, began);
	if (ok)
		fold_odd();
	else if (is_transient(failure.code) || has_table_failed())
		left_over = true;
	else
		fold_by_halves(0, n);
}

/* Those who wait in prompt_stats_flush() */
static void
tell_flushers(uint64 wanted)
{
	if (table_fails)
		pg_atomic_write_u64(&pst_served->flushes_failed, wanted);
	else if (!left_over && pg_atomic_read_u64(&pst_served->flushes_done) != wanted)
		pg_atomic_write_u64(&pst_served->flushes_done, wanted);
	else
		return;
	ConditionVariableBroadcast(&pst_served->flushed);
}

static int
compare_holds(const void *a, const void *b)
{
	const PstKey *key = &((const PstHold *) a)->key;
	const PstKey *other = &((const PstHold *) b)->key;

	if (key->kind != other->kind)
		return key->kind < other->kind ? -1 : 1;
	if (key->kind == PST_BIGINT)
	{
		int64		n,
					m;

		memcpy(&n, key->id, sizeof(n));
		memcpy(&m, other->id, sizeof(m));
		return n < m ? -1 : n > m;
	}
	return memcmp(key->id, other->id, PST_ID_BYTES);
}

/*
 * In transactions that are short, for others wait for them.  Each has ids that are near each
 * other: so a page of the index serves several.
 */
static void
flush_gathered(int n)
{
	if (n > batch)
		qsort(gathered, n, sizeof(PstHold), compare_holds);
	for (int i = 0, len; i < n; i += len)
	{
		len = Min(batch, n - i);
		holds = &gathered[i];
		flush_holds(len);
		if (left_over)
			pst_list_again(holds, len);
		pg_atomic_fetch_add_u64(&pst_served->flushes, 1);
		pst_check_interrupts();
	}
}

/* Once over all that is pending */
void
pst_flush_pending(void)
{
	PstCycle	cycle;
	uint64		wanted = pg_atomic_read_u64(&pst_served->flushes_wanted);
	MemoryContext caller = MemoryContextSwitchTo(cycle_context);
	int			n;

	MemoryContextReset(cycle_context);
	last_flush = GetCurrentTimestamp();
	halves_until = TimestampTzPlusMilliseconds(last_flush, HALVES_MS);
	left_over = table_fails = false;
	pg_atomic_write_u32(&pst_served->crowded, 0);
	pg_memory_barrier();
	pst_begin_cycle(pst_served, &cycle);
	while ((n = pst_gather(pst_served, &cycle, gathered, MAX_GATHERED)) > 0)
		flush_gathered(n);
	pst_tidy_partitions(pst_served, false);
	MemoryContextSwitchTo(caller);
	if (left_over)
		last_flush = GetCurrentTimestamp();
	tell_flushers(wanted);
}

bool
pst_is_flush_wanted(void)
{
	return pg_atomic_read_u64(&pst_served->flushes_wanted) != pg_atomic_read_u64(&pst_served->flushes_done) ||
		pg_atomic_read_u32(&pst_served->crowded) == 1;
}

/* Milliseconds until what is pending is to be flushed; 0: now */
long
pst_time_to_flush(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long		passed = TimestampDifferenceMilliseconds(last_flush, now);
	long		interval = pst_is_flush_wanted() ? 0 : pst_flush_interval;

	if (now < last_flush)
		return 0;				/* the clock was put back */
	if (left_over)
		interval = pst_is_flush_wanted() ? PST_RETRY_MAX_MS : Min(interval, PST_RETURN_MS);
	return Max(interval - passed, 0);
}

static void
report(const PstHold *hold)
{
	const int64 *n = hold->entry->pending;

	ereport(LOG,
			(errmsg("could not flush counts of prompt %s: its row or table stays locked, or its triggers take too long",
					print_key(&hold->key)),
			 errdetail(INT64_FORMAT " views, " INT64_FORMAT " copies, " INT64_FORMAT " forks.",
					   n[PST_VIEWS], n[PST_COPIES], n[PST_FORKS])));
}

/* At a shutdown it is lost, but not without a word */
void
pst_report_leftover(void)
{
	PstCycle	cycle;
	int			n;

	pst_list_due(pst_served);
	pst_begin_cycle(pst_served, &cycle);
	while ((n = pst_gather(pst_served, &cycle, gathered, MAX_GATHERED)) > 0)
		for (int i = 0; i < n; i++)
			report(&gathered[i]);
}

void
pst_flush_init(void)
{
	cycle_context = AllocSetContextCreate(TopMemoryContext, "prompt_stats flush",
										  ALLOCSET_DEFAULT_SIZES);
	gathered = MemoryContextAlloc(TopMemoryContext, MAX_GATHERED * sizeof(PstHold));
	odd = MemoryContextAlloc(TopMemoryContext, MAX_HOLDS * sizeof(int));
}
