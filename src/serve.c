/*
 * serve.c
 *		The flusher folds for transactions that wait: the other side of group.c.
 *
 * It takes the whole queue, and folds it in one transaction.  What becomes of each unit
 * is said in the transaction callbacks: FOLDED at commit, durable and visible; RETURNED
 * at abort.  Units whose rows are locked are held for the next turn.  Before it commits, the
 * pre-commit callback makes sure that none was withdrawn meanwhile; else it aborts, and the
 * others are folded again.
 *
 * It never waits long for anything: a lock on the table returns the group, locked
 * rows are skipped, and lock_timeout ends what a trigger waits for.  So a backend
 * that waits for it while holding such a lock is not stuck.
 */
#include "prompt_stats.h"

#include "flusher.h"

#include "access/xact.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#define SOLO_WAIT_MS		20

/* Microseconds: a commit that takes so long is worth some waiting, at most so much */
#define SLOW_FOLD_US		1200
#define MAX_NAP_US			1000

/* Linked slots that are with us: QUEUED, or WITHDRAWN; room for all that there are */
static uint32 *held = NULL;
static int	nheld = 0;

/* Those of them that we fold: TAKEN or COMMITTING, or WITHDRAWN or DISOWNED */
typedef struct TakenUnits
{
	uint32	   *slots;
	PstVerdict *verdicts;
	int			len;
	bool		durable;		/* a unit asks for it */
	int64		counts;			/* in the units that are folded */
	bool		folding;
	bool		in_haste;		/* should that fail, they are held again */
	bool		withdrawn;		/* one was, and all others are held again */
} TakenUnits;

static TakenUnits taken;

/* When the last group began to be folded; how long it took if several were woken, else 0 */
static TimestampTz fold_began;
static long fold_us = 0;

/* What takes a fold back could not, and is tried no more */
static bool gave_up = false;

static bool holds_soloist = false;

static PstSlot *
slot_of(uint32 number)
{
	return &pst_shared->slots[number];
}

/* ---- telling outcomes ---- */

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
	return slot->orphan == 0 && TimestampDifferenceExceeds(slot->since, now, PST_RETURN_MS);
}

/* Whoever waits is told of that, too: it may have slept over a cancel meanwhile */
static bool
hold_again(uint32 number, uint32 state)
{
	if (!pst_tell(number, state, PST_QUEUED))
		return false;
	held[nheld++] = number;
	return true;
}

/* Its backend has failed while we committed: now it takes back what we have folded */
static void
hold_orphan(uint32 number)
{
	pst_make_orphan(slot_of(number));
	(void) hold_again(number, PST_DISOWNED);
}

static void
end_orphan(PstSlot *slot, PstVerdict verdict)
{
	gave_up |= verdict != PST_VERDICT_FOLDED;
	pst_free_slot(slot);
}

/* False where its backend has gone on */
static bool
end_wait(uint32 number, uint32 state, PstVerdict verdict)
{
	slot_of(number)->lsn = XactLastCommitEnd;
	return pst_tell(number, state, verdict == PST_VERDICT_FOLDED ? PST_FOLDED : PST_RETURNED);
}

static void
tell_outcome(uint32 number, PstVerdict verdict)
{
	PstSlot    *slot = slot_of(number);
	uint32		state = pg_atomic_read_u32(&slot->state);
	bool		later = verdict == PST_VERDICT_LATER && (taken.withdrawn || !is_overdue(slot));

	if (slot->orphan > 0 && !later)
		end_orphan(slot, verdict);
	else if ((state == PST_TAKEN || state == PST_COMMITTING) &&
			 (later ? hold_again(number, state) : end_wait(number, state, verdict)))
		return;
	else if (verdict == PST_VERDICT_FOLDED)
		hold_orphan(number);
	else
		pst_free_slot(slot);
}

/* What takes a fold back is tried again, too, down to its last try */
static PstVerdict
verdict_of_abort(PstSlot *slot)
{
	if (taken.in_haste || taken.withdrawn)
		return PST_VERDICT_LATER;
	if (slot->orphan <= 1)
		return PST_VERDICT_RETURNED;
	slot->orphan--;
	return PST_VERDICT_LATER;
}

/* In the ledger; must not fail */
static void
count_group(void)
{
	uint64		units = 0;

	for (int i = 0; i < taken.len; i++)
		units += taken.verdicts[i] == PST_VERDICT_FOLDED;
	if (units == 0)
		return;
	pst_add_grouped(pst_served, taken.counts);
	pg_atomic_fetch_add_u64(&pst_served->groups, 1);
	pg_atomic_fetch_add_u64(&pst_served->grouped, units);
	if (units > 1)
	{
		TimestampTz now = GetCurrentTimestamp();

		pg_atomic_write_u64(&pst_served->company_at, now);
		fold_us = now - fold_began;
	}
	if (units > pg_atomic_read_u64(&pst_served->largest_group))
		pg_atomic_write_u64(&pst_served->largest_group, units);
}

/* False where its backend has taken it back; what it has disowned is folded all the same */
static bool
begin_commit(uint32 number)
{
	PstSlot    *slot = slot_of(number);

	return pst_move_slot(slot, PST_TAKEN, PST_COMMITTING) ||
		pg_atomic_read_u32(&slot->state) != PST_WITHDRAWN;
}

/*
 * The last thing before the commit, where an error is still allowed: from here on nobody
 * takes back what is folded.
 */
void
pst_begin_group_commit(void)
{
	if (!taken.folding)
		return;
	for (int i = 0; i < taken.len; i++)
		if (taken.verdicts[i] == PST_VERDICT_FOLDED && !begin_commit(taken.slots[i]))
			taken.withdrawn = true;
	if (taken.withdrawn)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("a transaction has taken its counts back from the group")));
}

/* In the callbacks: must not fail */
void
pst_end_group_fold(bool committed)
{
	if (!taken.folding)
		return;
	taken.folding = false;
	if (committed)
		count_group();
	for (int i = 0; i < taken.len; i++)
	{
		PstVerdict	verdict = committed ? taken.verdicts[i] : verdict_of_abort(slot_of(taken.slots[i]));

		if (verdict == PST_VERDICT_FOLDED)
			pst_last_fold = GetCurrentTransactionStopTimestamp();
		tell_outcome(taken.slots[i], verdict);
	}
	taken.len = 0;
}

/* ---- the queue ---- */

static void
take_queue(void)
{
	uint32		number;

	if (pg_atomic_read_u32(&pst_served->head) == PST_NONE)
		return;
	number = pg_atomic_exchange_u32(&pst_served->head, PST_NONE);
	while (number != PST_NONE)
	{
		held[nheld++] = number;
		number = slot_of(number)->next;
	}
}

/* Makes a group of what is held: of one orphan, or of all others */
static void
form_group(bool orphan)
{
	int			left = 0;

	taken.len = 0;
	taken.durable = false;
	for (int i = 0; i < nheld; i++)
	{
		PstSlot    *slot = slot_of(held[i]);

		if ((slot->orphan > 0) != orphan || (orphan && taken.len > 0))
			held[left++] = held[i];
		else if (!pst_move_slot(slot, PST_QUEUED, PST_TAKEN))
			pst_free_slot(slot);	/* it was withdrawn */
		else
		{
			taken.durable |= slot->durable;
			taken.slots[taken.len++] = held[i];
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

/* Units that mean another table, or another shape of it, go back to their backends */
static void
fold_group(const PstTables *tables)
{
	PstDeltas  *units = palloc0(taken.len * sizeof(PstDeltas));

	for (int i = 0; i < taken.len; i++)
	{
		PstSlot    *slot = slot_of(taken.slots[i]);

		taken.verdicts[i] = is_of(slot, tables) ? PST_VERDICT_FOLDED : PST_VERDICT_RETURNED;
		if (taken.verdicts[i] == PST_VERDICT_RETURNED)
			continue;
		pst_init_deltas(&units[i], tables, slot->ndeltas);
		pst_read_slot(slot, &units[i]);
	}
	taken.in_haste = pst_may_hurry(tables);
	pst_fold_units(tables, units, taken.verdicts, taken.len, taken.in_haste);
	taken.in_haste = false;

	taken.counts = 0;
	for (int i = 0; i < taken.len; i++)
		if (taken.verdicts[i] == PST_VERDICT_FOLDED)
			taken.counts += pst_total_of(&units[i]);
}

/*
 * Where the table is gone or locked its backends get it back: who waits for the lock
 * itself is in the sight of the deadlock detector.
 */
static void
fold_group_or_return(void)
{
	PstSlot    *slot = slot_of(taken.slots[0]);
	const PstTables *tables = pst_lock_stats_again(InvalidOid, slot->stats, false);
	bool		again = tables == NULL && slot->orphan > 0;

	if (tables != NULL && OidIsValid(tables->stats))
	{
		pst_fold_as_owner(tables, fold_group);
		return;
	}
	for (int i = 0; i < taken.len; i++)
		taken.verdicts[i] = again ? PST_VERDICT_LATER : PST_VERDICT_RETURNED;
	CommitTransactionCommand();
}

/*
 * Where it fails, each caller meets the error himself; what takes back has none.
 * False where it failed for haste, or for one that was withdrawn: the others are held again.
 */
static bool
fold_taken(void)
{
	static TimestampTz complained = 0;
	int			len = taken.len;
	PstFailure	failure;
	bool		ok;

	gave_up = false;
	fold_began = GetCurrentTimestamp();
	taken.in_haste = taken.withdrawn = false;
	taken.folding = true;
	ok = pst_run_transaction(fold_group_or_return, taken.durable, &failure);
	pst_end_group_fold(false);	/* where it has not even begun */
	if (taken.in_haste || taken.withdrawn)
		return false;
	if (gave_up)
		ereport(LOG,
				(errmsg("could not take back the counts of a transaction that failed after they were folded"),
				 errdetail("%s.", ok ? "A row or the table is gone" : failure.text)));
	else if (!ok && pst_may_complain(&complained))
		ereport(LOG,
				(errmsg("could not fold a group: %s", failure.text),
				 errdetail("Each of its %d transactions folds its own counts.", len)));
	return true;
}

/* ---- taking turns with who folds alone ---- */

static bool
become_soloist(void)
{
	uint32		expected = 0;

	holds_soloist = pg_atomic_compare_exchange_u32(&pst_served->soloist, &expected, 1);
	return holds_soloist;
}

void
pst_end_soloist(void)
{
	if (holds_soloist)
		pg_atomic_write_u32(&pst_served->soloist, 0);
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
	uint32		soloist = pg_atomic_read_u32(&pst_served->soloist);
	TimestampTz began;

	if (become_soloist() || soloist == stuck)
		return;
	began = GetCurrentTimestamp();
	while (!become_soloist())
	{
		soloist = pg_atomic_read_u32(&pst_served->soloist);
		if (TimestampDifferenceExceeds(began, GetCurrentTimestamp(), SOLO_WAIT_MS))
		{
			stuck = soloist;
			break;
		}
		if (soloist != 0)
			pst_sleep_until_woken(SOLO_WAIT_MS, soloist);
	}
	take_queue();
}

/* ---- serving ---- */

static void
fold_held(void)
{
	wait_for_soloist();
	do
		form_group(false);
	while (taken.len > 0 && !fold_taken());
	form_group(true);
	if (taken.len > 0)
		(void) fold_taken();
	pst_end_soloist();
	pst_check_interrupts();
}

/* Who waits is to fold its own; what takes back waits for another flusher */
void
pst_return_waiting(void)
{
	int			n;

	take_queue();
	n = nheld;
	nheld = 0;
	for (int i = 0; i < n; i++)
	{
		PstSlot    *slot = slot_of(held[i]);

		if (slot->orphan > 0)
			pst_push(pst_served, held[i]);
		else if (!pst_tell(held[i], PST_QUEUED, PST_RETURNED))
			pst_free_slot(slot);
	}
}

/*
 * Whom the last group woke will be back in a moment.  Where a commit is slow it pays to
 * wait for them: else they miss this group, and two halves take turns.
 */
static void
await_company(void)
{
	long		nap = Min(fold_us / 4, MAX_NAP_US);

	if (fold_us >= SLOW_FOLD_US && pg_atomic_read_u32(&pst_served->head) != PST_NONE)
		pg_usleep(nap);
	fold_us = 0;
}

void
pst_serve_waiting(void)
{
	await_company();
	take_queue();
	if (nheld > 0)
		fold_held();
}

/* Some wait for rows that were locked */
bool
pst_holds_waiting(void)
{
	return nheld > 0;
}

void
pst_serve_init(void)
{
	uint32		n = pst_shared->nslots;

	held = MemoryContextAlloc(TopMemoryContext, n * sizeof(uint32));
	taken.slots = MemoryContextAlloc(TopMemoryContext, n * sizeof(uint32));
	taken.verdicts = MemoryContextAlloc(TopMemoryContext, n * sizeof(PstVerdict));
}
