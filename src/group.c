/*
 * group.c
 *		Transactions that wait for one common fold: the group.
 *
 * A transaction that only counted has no XID, writes no WAL and holds no row lock.
 * At its pre-commit it puts its deltas, a unit, into its backend's slot, links the
 * slot into the queue of its database, and waits.  The flusher takes the whole
 * queue, folds it in one transaction, and tells each slot the outcome from its
 * commit or abort callback (worker.c).  Who arrives meanwhile makes the next
 * group.  So a hot prompt costs one row version and one commit a group.
 *
 * The life of a slot.  "Linked" is being in the queue, or in the flusher's own list.
 *
 *	FREE -> QUEUED			by its backend, which fills and links it
 *	QUEUED -> WITHDRAWN		by its backend: cancelled, timed out, or impatient
 *	QUEUED -> TAKEN			by the flusher, which folds it
 *	TAKEN -> QUEUED			by the flusher: a row is locked, it stays for later
 *	TAKEN -> FOLDED			by the flusher, in its commit callback
 *	TAKEN, QUEUED -> RETURNED	by the flusher: abort, end, or not for it to fold
 *	RETURNED -> FREE		by its backend, which folds it
 *	FOLDED -> FREE			by its backend, at the end of its transaction
 *	FOLDED -> QUEUED		by its backend, negated: its transaction failed after all
 *	WITHDRAWN -> FREE		by the flusher, which unlinks it
 *
 * The two steps out of QUEUED are compare-and-exchange: one side wins.  A backend
 * whose slot is not FREE folds its own deltas.
 *
 * Why nothing is lost or doubled: a unit is folded by the flusher's transaction
 * or by its backend's, never by both.  FOLDED is said only after that transaction
 * is durable and visible; RETURNED only after it is known to have aborted, or
 * before it began.  A crash takes the waiting backends along: what was not
 * committed was not acknowledged.
 *
 * One thing can go wrong: after the fold, the transaction that waited for it can
 * fail, in another library's pre-commit hook.  Then its unit is queued again with
 * its sign changed, and nobody waits for it ("orphan").
 *
 * Alone, a backend folds its own deltas instead, which is cheaper: when nothing is
 * queued and nobody folds, it takes PstDatabase.soloist and gives it back at the
 * end of its transaction.  The word only keeps others from joining in; the flusher
 * does not rely on it, for it skips rows that are locked.
 */
#include "prompt_stats.h"

#include "group.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

/* A delta as it lies in a slot */
typedef struct FlatDelta
{
	int64		n[PST_NCOUNTERS];
	uint32		idlen;
	char		id[FLEXIBLE_ARRAY_MEMBER];
} FlatDelta;

static PstDatabase *solo_database = NULL;

/* Our unit was folded, but the transaction that it is of has not ended yet */
static PstDatabase *folded_in = NULL;

/* ---- deltas in a slot ---- */

static Size
flat_size(Size idlen)
{
	return MAXALIGN(offsetof(FlatDelta, id) + idlen);
}

static Size
unit_size(const PstDeltas *deltas)
{
	Size		size = 0;

	for (int i = 0; i < deltas->len; i++)
		size = add_size(size, flat_size(pst_id_bytes(deltas->items[i].id, deltas->kind, NULL)));
	return size;
}

static void
flatten(const PstDeltas *deltas, char *to)
{
	for (int i = 0; i < deltas->len; i++)
	{
		FlatDelta  *flat = (FlatDelta *) to;

		memcpy(flat->n, deltas->items[i].n, sizeof(flat->n));
		flat->idlen = pst_id_bytes(deltas->items[i].id, deltas->kind, flat->id);
		to += flat_size(flat->idlen);
	}
}

/* False where memory is short */
static bool
fill_slot(PstSlot *slot, const PstDeltas *deltas)
{
	Size		size = unit_size(deltas);

	slot->big = InvalidDsaPointer;
	if (size > PST_INLINE_BYTES)
	{
		slot->big = dsa_allocate_extended(pst_area, size, DSA_ALLOC_NO_OOM | DSA_ALLOC_HUGE);
		if (!DsaPointerIsValid(slot->big))
			return false;
	}
	slot->ndeltas = deltas->len;
	slot->orphan = false;
	slot->sync_commit = synchronous_commit;
	flatten(deltas, pst_slot_data(slot));
	return true;
}

char *
pst_slot_data(PstSlot *slot)
{
	return DsaPointerIsValid(slot->big) ? dsa_get_address(pst_area, slot->big) : slot->data;
}

/* Adds a unit's deltas to a set, for the flusher; ids are copied */
void
pst_read_slot(PstSlot *slot, PstDeltas *deltas)
{
	char	   *from = pst_slot_data(slot);

	for (uint32 i = 0; i < slot->ndeltas; i++)
	{
		FlatDelta  *flat = (FlatDelta *) from;
		Datum		id = pst_id_from_bytes(flat->id, flat->idlen, deltas->kind);

		memcpy(pst_add_delta(deltas, id, PST_VIEWS, 0)->n, flat->n, sizeof(flat->n));
		from += flat_size(flat->idlen);
	}
}

/* By whoever brings the slot back to FREE */
void
pst_free_slot(PstSlot *slot)
{
	if (DsaPointerIsValid(slot->big))
		dsa_free(pst_area, slot->big);
	slot->big = InvalidDsaPointer;
	pg_write_barrier();
	pg_atomic_write_u32(&slot->state, PST_FREE);
}

/* ---- the queue ---- */

void
pst_push(PstDatabase *db, uint32 me)
{
	PstSlot    *slot = &pst_shared->slots[me];
	uint32		head = pg_atomic_read_u32(&db->head);

	pg_atomic_write_u32(&slot->state, PST_QUEUED);
	do
	{
		slot->next = head;
		pg_write_barrier();
	} while (!pg_atomic_compare_exchange_u32(&db->head, &head, me));
}

void
pst_wake_flusher(PstDatabase *db)
{
	uint32		proc = pg_atomic_read_u32(&db->flusher_proc);

	if (pg_atomic_exchange_u32(&db->flusher_idle, 0) == 1 && proc != PST_NO_SLOT)
		SetLatch(&ProcGlobal->allProcs[proc].procLatch);
}

static bool
is_ready(PstDatabase *db)
{
	return pg_atomic_read_u32(&db->flusher) == PST_FLUSHER_READY;
}

static bool
withdraw(PstSlot *slot)
{
	uint32		expected = PST_QUEUED;

	return pg_atomic_compare_exchange_u32(&slot->state, &expected, PST_WITHDRAWN);
}

/* ---- waiting ---- */

/* Milliseconds until a timeout of "after" ms that began at "since"; -1: none is set */
static long
remaining(TimestampTz since, int after)
{
	if (after <= 0)
		return -1;
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
										   TimestampTzPlusMilliseconds(since, after));
}

/*
 * The wait is part of COMMIT, which the server's own statement_timeout does not
 * cover (postgres.c: finish_xact_command), so both are kept here.
 */
static void
check_timeouts(TimestampTz began)
{
	if (remaining(GetCurrentStatementStartTimestamp(), StatementTimeout) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling statement due to statement timeout"),
				 errdetail("The transaction waited for its counts to be folded.")));
	if (remaining(began, LockTimeout) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("canceling statement due to lock timeout"),
				 errdetail("The transaction waited for its counts to be folded.")));
}

static long
next_timeout(TimestampTz began)
{
	long		statement = remaining(GetCurrentStatementStartTimestamp(), StatementTimeout);
	long		lock = remaining(began, LockTimeout);

	if (statement < 0 || (lock >= 0 && lock < statement))
		return lock;
	return statement;
}

/* True if the unit was folded; false if its backend is to fold it */
static bool
wait_for_outcome(PstDatabase *db, PstSlot *slot)
{
	TimestampTz began = GetCurrentTimestamp();

	for (;;)
	{
		uint32		state = pg_atomic_read_u32(&slot->state);
		long		timeout;
		int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

		if (state == PST_FOLDED)
		{
			folded_in = db;
			return true;
		}
		if (state == PST_RETURNED)
		{
			pst_free_slot(slot);
			return false;
		}

		timeout = next_timeout(began);
		if (state == PST_QUEUED &&
			(InterruptPending || timeout == 0 || !is_ready(db)) && withdraw(slot))
		{
			CHECK_FOR_INTERRUPTS();
			check_timeouts(began);
			return false;
		}

		if (timeout > 0 && state == PST_QUEUED)
			events |= WL_TIMEOUT;
		(void) WaitLatch(MyLatch, events, timeout, pst_wait_event());
		ResetLatch(MyLatch);
	}
}

/*
 * Hands the deltas to the flusher and waits for its commit.  False, with nothing
 * done, where the caller is to fold them itself.
 */
bool
pst_join_group(PstDatabase *db, Oid schema, const PstDeltas *deltas)
{
	uint32		me = pst_my_procno();
	PstSlot    *slot = &pst_shared->slots[me];

	if (pg_atomic_read_u32(&slot->state) != PST_FREE)
		return false;
	if (!is_ready(db))
	{
		pst_start_flusher(db, schema);
		return false;
	}
	if (!fill_slot(slot, deltas))
		return false;
	pst_push(db, me);
	pg_memory_barrier();
	pst_wake_flusher(db);
	return wait_for_outcome(db, slot);
}

/*
 * In the callbacks at the end of a transaction: must not fail.  What an abort
 * queues stays in the queue until a flusher comes.
 */
void
pst_end_group(bool aborted)
{
	PstDatabase *db = folded_in;
	PstSlot    *slot;
	char	   *from;

	if (db == NULL)
		return;
	folded_in = NULL;
	slot = &pst_shared->slots[pst_my_procno()];
	if (!aborted)
	{
		pst_free_slot(slot);
		return;
	}

	from = pst_slot_data(slot);
	for (uint32 i = 0; i < slot->ndeltas; i++)
	{
		FlatDelta  *flat = (FlatDelta *) from;

		for (int c = 0; c < PST_NCOUNTERS; c++)
			flat->n[c] = -flat->n[c];
		from += flat_size(flat->idlen);
	}
	slot->orphan = true;
	pst_push(db, pst_my_procno());
	pg_memory_barrier();
	pst_wake_flusher(db);
}

/* ---- alone ---- */

bool
pst_begin_solo(PstDatabase *db)
{
	uint32		expected = 0;

	if (pg_atomic_read_u32(&db->head) != PST_NO_SLOT ||
		!pg_atomic_compare_exchange_u32(&db->soloist, &expected, 1))
		return false;
	solo_database = db;
	return true;
}

/* In the callbacks at the end of a transaction: must not fail */
void
pst_end_solo(void)
{
	PstDatabase *db = solo_database;

	if (db == NULL)
		return;
	solo_database = NULL;
	pg_atomic_write_u32(&db->soloist, 0);
	pg_memory_barrier();
	pst_wake_flusher(db);
}
