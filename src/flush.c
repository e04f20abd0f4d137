/*
 * flush.c
 *		The flusher folds for transactions that went on: the other side of pending.c.
 *
 * In cycles, each once over all that is pending, some prompts in a transaction.  That is
 * done in haste first (fold.c), and where it fails again, with care: rows that somebody
 * has locked are skipped, and left for the next cycle; rows that are missing, or have no
 * room, are folded by themselves, as a transaction folds its own.
 * Where that fails, by halves, until who is to blame is alone.  What becomes of its counts
 * depends on the cause (judge()): they stay pending, or are rejected, at once or after some tries,
 * which are counted in shared memory, for the flusher may die of the next one.  A prompt that
 * has failed before comes last in a cycle, and alone, so that no other fails with it.
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

/* Tries of a prompt: then it comes alone; then it is rejected */
#define ENDED_IN_COMPANY	2	/* each may take as long as a fold may */
#define MAX_ENDED			5
#define MAX_FAILED			10

#define SUSPECTS_MS			30000	/* in a cycle, for those that come alone */
#define LEAVING_SUSPECTS_MS	5000	/* the same at a shutdown */
#define MAX_TABLE_FAILURES	32	/* in a cycle, for finding out that it is one
								 * prompt */

static const PstTries no_tries = {0, 0};

/* What was gathered; those that are folded together; the flights of one transaction */
static PstHold *gathered = NULL;
static PstHold *holds = NULL;
static PstHold *flights = NULL;
static int	nflights = 0;
static bool folding = false;
static bool has_taken_off;		/* the last fold has got as far as that */
static void (*fold) (const PstTables *);
static bool in_haste;
static PstFailure failure;		/* of the last fold; its code is 0 while that
								 * runs */
static int	batch = MAX_HOLDS;	/* prompts in the next transaction */

/* Numbers of those that have no row yet, or no room */
static int *odd = NULL;
static int	nodd;

static TimestampTz last_flush = 0;	/* when the last cycle began, or ended if
									 * it left something over */
static bool left_over = false;	/* by the last cycle */
static bool table_fails = false;	/* in that cycle something did that tries
									 * don't mend */
static int	table_failures;		/* in this cycle */
static TimestampTz halves_until;
static TimestampTz suspects_until;	/* 0 before the first of the cycle */
static MemoryContext cycle_context = NULL;

/* ---- why a fold failed ---- */

typedef enum Cause
{
	CAUSE_LOCK,					/* others have locked something: until they
								 * let go */
	CAUSE_TABLE,				/* nothing can be written, most likely */
	CAUSE_END,					/* it took too long, or somebody ended it */
	CAUSE_CHANCE,				/* another try may go better */
	CAUSE_PROMPT				/* it will fail again */
} Cause;

/* Where the flusher dies of it there is no error, for that is FATAL */
static Cause
cause_of_failure(void)
{
	int			class = ERRCODE_TO_CATEGORY(failure.code);

	if (failure.code == 0 || class == ERRCODE_TO_CATEGORY(ERRCODE_QUERY_CANCELED))
		return CAUSE_END;
	if (failure.code == ERRCODE_LOCK_NOT_AVAILABLE)
		return CAUSE_LOCK;
	if (!has_taken_off ||		/* it has looked at no prompt */
		class == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
		class == ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR))
		return CAUSE_TABLE;
	if (class == ERRCODE_TO_CATEGORY(ERRCODE_T_R_SERIALIZATION_FAILURE) ||
		class == ERRCODE_TO_CATEGORY(ERRCODE_INTERNAL_ERROR))
		return CAUSE_CHANCE;
	return CAUSE_PROMPT;
}

/* What the fold that has just failed adds to the tries of its prompts */
static PstTries
tries_of_failure(void)
{
	Cause		cause = cause_of_failure();
	PstTries	more = no_tries;

	if (in_haste)
		return more;			/* it is tried again at once */
	more.ended = cause == CAUSE_END;
	more.failed = cause == CAUSE_CHANCE && nflights == 1;
	return more;
}

/* In the callbacks, as pst_end_group_fold(): must not fail */
void
pst_end_flights(bool committed)
{
	TimestampTz now = GetCurrentTransactionStopTimestamp();
	PstTries	more;

	if (!folding)
		return;
	folding = false;
	if (committed && nflights > 0)
		pst_last_fold = now;
	if (committed)
		pst_land(flights, nflights);
	more = tries_of_failure();
	for (int i = 0; i < nflights; i++)
		if (flights[i].in_air)
			pst_turn_back(&flights[i], more);
}

/* ---- one transaction ---- */

static void
read_hold(const PstTables *tables, const PstHold *hold, PstDeltas *deltas)
{
	Datum		id = pst_id_from_bytes(hold->key.id, hold->key.len, hold->key.kind);

	id = pst_stats_id(tables, id, hold->key.kind);
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
		verdicts[i] = PST_VERDICT_FOLDED;
		if (flights[i].in_air)
			read_hold(tables, &flights[i], &units[i]);
		else
			left_over = true;	/* a correction has it */
	}
	pst_fold_units(tables, units, verdicts, nflights, in_haste);
	in_haste = false;
	for (int i = 0; i < nflights; i++)
	{
		if (verdicts[i] == PST_VERDICT_FOLDED || !flights[i].in_air)
			continue;
		pst_turn_back(&flights[i], no_tries);
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
	{
		if (flights[i].in_air)
			read_hold(tables, &flights[i], &deltas);
		else
			left_over = true;	/* a correction has it */
	}
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
	failure.code = 0;
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

static void fold_by_halves(int first, int len);

static char *
print_key(const PstKey *key)
{
	return pst_show_id(pst_id_from_bytes(key->id, key->len, key->kind), key->kind);
}

/* Outside of a transaction; its caller has gone on, so nobody else will hear of it */
static void
reject(PstHold *hold, int code, const char *reason)
{
	static TimestampTz complained = 0;
	PstTries	left = {.ended = Min(hold->tries.ended, ENDED_IN_COMPANY)};

	if (!pst_reject(pst_served, hold, left, reason))
		left_over = true;		/* a correction has it */
	else if (pst_may_complain(&complained))
		ereport(LOG,
				(errcode(code),
				 errmsg("rejected counts of prompt %s: %s", print_key(&hold->key), reason),
				 errdetail("SQLSTATE %s; " INT64_FORMAT " views, " INT64_FORMAT " copies, " INT64_FORMAT
						   " forks. prompt_stats_status has the sum of what was rejected.",
						   unpack_sql_state(code), hold->n[PST_VIEWS], hold->n[PST_COPIES],
						   hold->n[PST_FORKS])));
}

/* No try of this cycle will mend it, and prompt_stats_flush() is not to wait for another */
static void
give_up(int code, const char *reason)
{
	static TimestampTz complained = 0;

	table_fails = left_over = true;
	if (pst_may_complain(&complained))
		ereport(LOG,
				(errcode(code),
				 errmsg("could not flush counts, which stay pending: %s", reason)));
}

/* Its fold failed with it alone.  Whatever does not end by itself ends after some tries. */
static void
judge(PstHold *hold, Cause cause)
{
	if (cause == CAUSE_PROMPT)
		reject(hold, failure.code, failure.text);
	else if (cause == CAUSE_CHANCE && hold->tries.failed >= MAX_FAILED)
		reject(hold, failure.code, psprintf("failed %d times: %s", hold->tries.failed, failure.text));
	else if (cause == CAUSE_END && hold->tries.ended >= MAX_ENDED)
		reject(hold, failure.code, psprintf("ended %d times: %s", hold->tries.ended, failure.text));
	else if (cause == CAUSE_TABLE)
		give_up(failure.code, failure.text);
	else
		left_over = true;
}

/* Where halves would tell no more, or the next cycle must */
static bool
is_search_over(Cause cause)
{
	return !has_taken_off || cause == CAUSE_END || GetCurrentTimestamp() > halves_until ||
		(cause == CAUSE_TABLE && ++table_failures > MAX_TABLE_FAILURES);
}

/* The last fold was of these, and failed */
static void
find_culprit(int first, int len)
{
	Cause		cause = cause_of_failure();

	if (has_taken_off && len == 1)
		judge(&holds[first], cause);
	else if (!is_search_over(cause))
	{
		fold_by_halves(first, len / 2);
		fold_by_halves(first + len / 2, len - len / 2);
	}
	else if (cause == CAUSE_TABLE)
		give_up(failure.code, failure.text);
	else
		left_over = true;
}

/* All in one transaction; where that fails, by halves, until who is to blame is alone */
static void
fold_by_halves(int first, int len)
{
	if (len > 0 && !fold_range(first, len, fold_whole))
		find_culprit(first, len);
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
	nodd = 0;
	if (fold_holds(n))
		fold_odd();
	else
		find_culprit(0, n);
	if (left_over)
		pst_list_again(holds, n);
	pg_atomic_fetch_add_u64(&pst_served->flushes, 1);
	pst_check_interrupts();
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
flush_innocent(int n)
{
	if (n > batch)
		qsort(gathered, n, sizeof(PstHold), compare_holds);
	for (int i = 0, len; i < n; i += len)
	{
		TimestampTz began = GetCurrentTimestamp();

		len = Min(batch, n - i);
		holds = &gathered[i];
		flush_holds(len);
		adapt_batch(len, began);
	}
}

/* ---- those that have failed before ---- */

static bool
is_suspect(const PstHold *hold)
{
	return hold->tries.failed > 0 || hold->tries.ended >= ENDED_IN_COMPANY;
}

static int
compare_tries(const void *a, const void *b)
{
	const PstTries *tries = &((const PstHold *) a)->tries;
	const PstTries *other = &((const PstHold *) b)->tries;

	return tries->ended != other->ended ? tries->ended - other->ended : tries->failed - other->failed;
}

/* Behind the others, of which it returns the number; those that were in bad company come first */
static int
put_suspects_last(int n)
{
	int			innocent = 0;

	for (int i = 0; i < n; i++)
	{
		PstHold		hold = gathered[i];

		if (is_suspect(&hold))
			continue;
		gathered[i] = gathered[innocent];
		gathered[innocent++] = hold;
	}
	if (n - innocent > 1)
		qsort(&gathered[innocent], n - innocent, sizeof(PstHold), compare_tries);
	return innocent;
}

static bool
is_time_over(void)
{
	TimestampTz now = GetCurrentTimestamp();

	bool		leaving = pg_atomic_read_u32(&pst_served->flusher) == PST_FLUSHER_LEAVING;

	if (suspects_until == 0)
		suspects_until = TimestampTzPlusMilliseconds(now, leaving ? LEAVING_SUSPECTS_MS : SUSPECTS_MS);
	return now > suspects_until;
}

/* One whose last try ended the flusher is not tried again by another */
static void
flush_suspect(void)
{
	if (holds->tries.ended >= MAX_ENDED)
		reject(holds, ERRCODE_QUERY_CANCELED, psprintf("ended %d times", holds->tries.ended));
	else
		flush_holds(1);
}

/* Each alone.  Where many take long, the others get their turn, and prompt_stats_flush() an error. */
static void
flush_suspects(int first, int n)
{
	for (int i = first; i < n; i++)
	{
		holds = &gathered[i];
		if (is_time_over())
		{
			give_up(ERRCODE_QUERY_CANCELED, "it takes too long");
			pst_list_again(holds, n - i);
			return;
		}
		flush_suspect();
	}
}

static void
flush_gathered(int n)
{
	int			innocent = put_suspects_last(n);

	flush_innocent(innocent);
	flush_suspects(innocent, n);
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
	table_failures = 0;
	suspects_until = 0;
	pg_atomic_write_u32(&pst_served->crowded, 0);
	pg_memory_barrier();
	pst_begin_cycle(pst_served, &cycle);
	while ((n = pst_gather(pst_served, &cycle, gathered, MAX_GATHERED)) > 0)
		flush_gathered(n);
	left_over |= pst_was_claimed(pst_served, &cycle);
	pst_tidy_partitions(pst_served, false);
	MemoryContextSwitchTo(caller);
	if (left_over)
		last_flush = GetCurrentTimestamp();
	tell_flushers(wanted);
}

/* Not by those who have got their error */
bool
pst_is_flush_wanted(void)
{
	uint64		answered = Max(pg_atomic_read_u64(&pst_served->flushes_done),
							   pg_atomic_read_u64(&pst_served->flushes_failed));

	return pg_atomic_read_u64(&pst_served->flushes_wanted) > answered ||
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
			(errmsg("could not flush counts of prompt %s: it stays locked, or fails",
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
