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
 *	QUEUED -> WITHDRAWN		by its backend: cancelled, timed out, or no flusher
 *	QUEUED -> TAKEN			by the flusher, which folds it
 *	QUEUED -> RETURNED		by the flusher: it ends
 *	TAKEN -> COMMITTING		by the flusher, in its pre-commit callback
 *	TAKEN -> QUEUED			by the flusher: a row is locked, it stays for later
 *	TAKEN -> RETURNED		by the flusher: it aborted, or can't fold it
 *	TAKEN -> WITHDRAWN		by its backend: the flusher is silent
 *	COMMITTING -> FOLDED	by the flusher, in its commit callback
 *	COMMITTING -> QUEUED	by the flusher: another of its group is WITHDRAWN
 *	COMMITTING -> RETURNED	by the flusher: its commit failed
 *	COMMITTING -> DISOWNED	by its backend: the flusher is silent, and it is cancelled
 *	RETURNED -> FREE		by its backend, which folds it
 *	FOLDED -> FREE			by its backend, at the end of its transaction
 *	FOLDED -> QUEUED		by its backend, negated: its transaction failed after all
 *	WITHDRAWN -> FREE		by the flusher, which unlinks it
 *	DISOWNED -> FREE		by the flusher, where it is not folded
 *	DISOWNED -> QUEUED		by the flusher, negated, where it is folded
 *
 * A transaction that fails otherwise while its slot is TAKEN or COMMITTING makes it
 * DISOWNED, too.
 *
 * The steps that either side may make, out of QUEUED, TAKEN and COMMITTING, are
 * compare-and-exchange: one side wins.  A backend whose slot is not FREE folds its own
 * deltas; a slot may outlive its backend, and the next backend finds it so.
 *
 * Why nothing is lost or doubled: a unit is folded by the flusher's transaction
 * or by its backend's, never by both.  FOLDED is said only after that transaction
 * is durable and visible; RETURNED only after it is known to have aborted, or
 * before it began.  A crash takes the waiting backends along: what was not
 * committed was not acknowledged.
 *
 * Why no wait is without an end: a transaction of the flusher has a limit (worker.c).
 * Where it gives no sign of life for PST_SILENT_MS nonetheless, because it is stopped or
 * runs code that does not check for interrupts, its waiters take their units back, and
 * fold them.  When it wakes up it finds that before it commits: then it aborts, and folds
 * the rest again.  From COMMITTING on that is too late, for it may have committed
 * already.  Who is cancelled then goes, and leaves it to the flusher to take back what it
 * has folded.
 *
 * One thing can go wrong: after the fold, the transaction that waited for it can
 * fail, in another library's pre-commit hook.  Then its unit is queued again with
 * its sign changed, and nobody waits for it ("orphan").  Each is folded by itself,
 * for a trigger might refuse it, and given up after some tries.
 *
 * Alone, a backend folds its own deltas instead, which is cheaper: when nothing is
 * queued, was a moment ago, and nobody folds, it takes PstDatabase.soloist and gives it back at the
 * end of its transaction.  The word only keeps others from joining in; the flusher
 * waits for it but briefly, and skips rows that are locked.
 */
#include "prompt_stats.h"

#include "shared.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#define ORPHAN_TRIES		10

/* Milliseconds: so often who waits looks whether the flusher lives */
#define LOOK_MS				1000

/* Who has been in company is about to come again, and then together is cheaper */
#define COMPANY_US			3000

/* A delta as it lies in a slot */
typedef struct FlatDelta
{
	int64		n[PST_NCOUNTERS];
	uint32		idlen;
	char		id[FLEXIBLE_ARRAY_MEMBER];
} FlatDelta;

static PstDatabase *solo_database = NULL;

/* Where our slot is linked, or was until its unit was folded, for this transaction */
static PstDatabase *joined = NULL;

static PstSlot *
my_slot(void)
{
	return &pst_shared->slots[pst_my_procno()];
}

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

static char *
slot_data(PstSlot *slot)
{
	return DsaPointerIsValid(slot->big) ? dsa_get_address(pst_area, slot->big) : slot->data;
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

/*
 * False where there is no room.  What was allocated is kept until the next time, for
 * slots become free where nothing may fail.
 */
static bool
make_room(PstSlot *slot, Size size)
{
	if (DsaPointerIsValid(slot->big))
	{
		dsa_pointer old = slot->big;

		slot->big = InvalidDsaPointer;
		dsa_free(pst_area, old);
	}
	if (size > PST_UNIT_BYTES)
		return false;
	if (size > PST_INLINE_BYTES)
		slot->big = pst_allocate(size);
	return size <= PST_INLINE_BYTES || DsaPointerIsValid(slot->big);
}

static bool
fill_slot(PstSlot *slot, const PstTables *tables, const PstDeltas *deltas)
{
	if (!make_room(slot, unit_size(deltas)))
		return false;
	slot->ndeltas = deltas->len;
	slot->kind = deltas->kind;
	slot->stats = tables->stats;
	slot->durable = synchronous_commit > SYNCHRONOUS_COMMIT_OFF;
	slot->orphan = 0;
	slot->since = 0;
	flatten(deltas, slot_data(slot));
	return true;
}

/* Adds a unit's deltas to a set, for the flusher; ids are copied */
void
pst_read_slot(PstSlot *slot, PstDeltas *deltas)
{
	char	   *from = slot_data(slot);

	for (uint32 i = 0; i < slot->ndeltas; i++)
	{
		FlatDelta  *flat = (FlatDelta *) from;
		Datum		id = pst_id_from_bytes(flat->id, flat->idlen, deltas->kind);

		memcpy(pst_add_delta(deltas, id, PST_VIEWS, 0)->n, flat->n, sizeof(flat->n));
		from += flat_size(flat->idlen);
	}
}

/* It takes back what was folded, and nobody waits for it */
void
pst_make_orphan(PstSlot *slot)
{
	char	   *from = slot_data(slot);

	for (uint32 i = 0; i < slot->ndeltas; i++)
	{
		FlatDelta  *flat = (FlatDelta *) from;

		for (int c = 0; c < PST_NCOUNTERS; c++)
			flat->n[c] = -flat->n[c];
		from += flat_size(flat->idlen);
	}
	slot->orphan = ORPHAN_TRIES;
}

/* By whoever may bring the slot back to FREE; must not fail */
void
pst_free_slot(PstSlot *slot)
{
	pg_write_barrier();
	pg_atomic_write_u32(&slot->state, PST_FREE);
}

/* ---- the queue ---- */

void
pst_push(PstDatabase *db, uint32 number)
{
	PstSlot    *slot = &pst_shared->slots[number];
	uint32		head = pg_atomic_read_u32(&db->head);

	pg_atomic_write_u32(&slot->state, PST_QUEUED);
	do
	{
		slot->next = head;
		pg_write_barrier();
	} while (!pg_atomic_compare_exchange_u32(&db->head, &head, number));
}

/* If it sleeps until this happens */
static void
wake_if_awaits(PstDatabase *db, uint32 awaited)
{
	uint32		proc = pg_atomic_read_u32(&db->flusher_proc);

	if (pg_atomic_read_u32(&db->flusher_idle) == awaited && proc != PST_NONE &&
		pg_atomic_compare_exchange_u32(&db->flusher_idle, &awaited, PST_AWAKE))
		SetLatch(&ProcGlobal->allProcs[proc].procLatch);
}

void
pst_wake_flusher(PstDatabase *db)
{
	wake_if_awaits(db, PST_AWAITS_WORK);
}

/* False where the other side was faster */
bool
pst_move_slot(PstSlot *slot, uint32 from, uint32 to)
{
	return pg_atomic_compare_exchange_u32(&slot->state, &from, to);
}

/*
 * By the flusher: a new state of a slot that it has, to the backend that waits for it.
 * False where that has gone on.
 */
bool
pst_tell(uint32 number, uint32 from, uint32 to)
{
	if (!pst_move_slot(&pst_shared->slots[number], from, to))
		return false;
	SetLatch(&ProcGlobal->allProcs[number].procLatch);
	return true;
}

/* ---- waiting ---- */

/*
 * What becomes of a slot, by its backend, that is waited for no more; its own state where it
 * is waited for.
 */
static uint32
state_without_wait(PstDatabase *db, uint32 state, bool silent)
{
	if (silent)
		pst_report_silence(db);
	if (state == PST_QUEUED && (silent || InterruptPending || !pst_is_flusher_ready(db)))
		return PST_WITHDRAWN;
	if (state == PST_TAKEN && silent)
		return PST_WITHDRAWN;
	if (state == PST_COMMITTING && silent && (QueryCancelPending || ProcDiePending))
		return PST_DISOWNED;
	return state;
}

/* Returns the final state: FOLDED, RETURNED, WITHDRAWN or DISOWNED */
static uint32
wait_for_outcome(PstDatabase *db, PstSlot *slot)
{
	bool		waited = false;

	for (;;)
	{
		uint32		state = pg_atomic_read_u32(&slot->state);
		uint32		next;

		if (state == PST_FOLDED || state == PST_RETURNED)
			return state;
		next = state_without_wait(db, state, waited && pst_is_flusher_silent(db));
		if (next != state && pst_move_slot(slot, state, next))
			return next;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_MS,
						 pst_wait_event());
		ResetLatch(MyLatch);
		waited = true;
	}
}

/* As a wait for a lock, which lock_timeout ends; 55P03 comes from CHECK_FOR_INTERRUPTS() */
static uint32
wait_with_timeout(PstDatabase *db, PstSlot *slot)
{
	uint32		state;

	if (LockTimeout > 0)
		enable_timeout_after(LOCK_TIMEOUT, LockTimeout);
	state = wait_for_outcome(db, slot);
	if (LockTimeout > 0)
		disable_timeout(LOCK_TIMEOUT, state != PST_FOLDED);
	return state;
}

/* A cancel that came too late is ignored, as it is during any commit */
static void
ignore_cancel(void)
{
	QueryCancelPending = false;
}

/*
 * After a fold by the flusher, whose commit is on this server's disk.  For standbys each
 * waits by himself, for the level that he wants, with the warnings that any commit has
 * (syncrep.c); as there, no timeout of a statement ends it.
 */
void
pst_await_standbys(void)
{
	if (joined == NULL)
		return;
	ignore_cancel();
	HOLD_INTERRUPTS();
	SyncRepWaitForLSN(my_slot()->lsn, true);
	RESUME_INTERRUPTS();
}

/* Hands the deltas to the flusher, and waits for its commit */
static bool
queue_and_wait(PstDatabase *db, PstSlot *slot)
{
	uint32		outcome;

	/* Our snapshot would keep the versions of the hot row from being pruned */
	InvalidateCatalogSnapshot();
	joined = db;
	pst_push(db, pst_my_procno());
	pg_memory_barrier();
	pst_wake_flusher(db);
	outcome = wait_with_timeout(db, slot);
	if (outcome == PST_FOLDED)
	{
		ignore_cancel();
		return true;
	}

	joined = NULL;
	if (outcome == PST_RETURNED)
		pst_free_slot(slot);
	CHECK_FOR_INTERRUPTS();
	return false;
}

/* False, with nothing done, where the caller is to fold its own, and why */
bool
pst_join_group(PstDatabase *db, const PstTables *tables, const PstDeltas *deltas,
			   PstOwnFold *why)
{
	PstSlot    *slot = my_slot();

	*why = PST_OWN_NO_FLUSHER;
	if (!pst_is_flusher_alive(db))
	{
		pst_start_flusher(db);
		return false;
	}
	*why = PST_OWN_TOO_LARGE;
	if (pg_atomic_read_u32(&slot->state) != PST_FREE || !fill_slot(slot, tables, deltas))
		return false;
	*why = PST_OWN_RETURNED;
	return queue_and_wait(db, slot);
}

/* By a backend whose transaction fails: gives up its slot, or returns the final state */
static uint32
give_up(PstSlot *slot)
{
	for (;;)
	{
		uint32		state = pg_atomic_read_u32(&slot->state);

		if (state != PST_QUEUED && state != PST_TAKEN && state != PST_COMMITTING)
			return state;
		if (pst_move_slot(slot, state, state == PST_QUEUED ? PST_WITHDRAWN : PST_DISOWNED))
			return PST_WITHDRAWN;
	}
}

/*
 * Our transaction fails although its unit was folded, or may be yet: an error in
 * another pre-commit hook, or in the wait itself.  This does not wait for the flusher,
 * for nothing could end such a wait.
 */
static void
take_back(PstDatabase *db, PstSlot *slot)
{
	uint32		state = give_up(slot);

	if (state == PST_RETURNED)
		pst_free_slot(slot);
	if (state != PST_FOLDED)
		return;

	pst_make_orphan(slot);
	pst_push(db, pst_my_procno());
	pg_memory_barrier();
	pst_wake_flusher(db);
}

/*
 * In the callbacks at the end of a transaction: must not fail.  What an abort
 * queues stays in the queue until a flusher comes.
 */
void
pst_end_group(bool aborted)
{
	PstDatabase *db = joined;

	if (db == NULL)
		return;
	joined = NULL;
	if (aborted)
		take_back(db, my_slot());
	else
		pst_free_slot(my_slot());
}

/* ---- alone ---- */

static bool
has_company(PstDatabase *db)
{
	TimestampTz passed = GetCurrentTimestamp() - (TimestampTz) pg_atomic_read_u64(&db->company_at);

	/* The clock may have been put back since */
	return pg_atomic_read_u32(&db->head) != PST_NONE || (passed >= 0 && passed < COMPANY_US);
}

bool
pst_begin_solo(PstDatabase *db)
{
	static uint32 solos = 0;
	uint32		expected = 0;

	if (has_company(db) ||
		!pg_atomic_compare_exchange_u32(&db->soloist, &expected,
										((pst_my_procno() << 12) + ++solos) | 1))
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
	wake_if_awaits(db, PST_AWAITS_SOLOIST);
}
