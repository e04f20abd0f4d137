/*
 * xact.c
 *		What a transaction has counted, and what is done with it at its end.
 *
 * Deltas are collected per nesting level, so that ROLLBACK TO SAVEPOINT un-counts,
 * and decided upon at pre-commit, where errors are still allowed (xact.c:
 * CommitTransaction).
 */
#include "prompt_stats.h"

#include "group.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/predicate.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

typedef struct Collected
{
	int			level;			/* of the subtransaction that counted */
	PstDelta	delta;
} Collected;

/* In TopTransactionContext; reset with it */
static Collected *collected = NULL;
static int	ncollected = 0;
static int	size_collected = 0;
static Oid	collected_schema = InvalidOid;
static PstDatabase *database = NULL;

static void
forget_collected(void)
{
	collected = NULL;
	ncollected = 0;
	size_collected = 0;
}

static void
make_room(void)
{
	if (collected == NULL)
	{
		size_collected = 8;
		collected = MemoryContextAlloc(TopTransactionContext,
									   size_collected * sizeof(Collected));
	}
	else if (ncollected == size_collected)
	{
		size_collected *= 2;
		collected = repalloc_huge(collected, size_collected * sizeof(Collected));
	}
}

/*
 * Remembers deltas for the end of the transaction; the ids are copied.  Everything
 * that can be touched first is touched here, not while committing.
 */
void
pst_collect(const PstTables *tables, const PstDeltas *deltas)
{
	MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);
	int			level = GetCurrentTransactionNestLevel();

	if (pst_attach())
		database = pst_find_database();
	for (int i = 0; i < deltas->len; i++)
	{
		make_room();
		collected[ncollected].delta = deltas->items[i];
		collected[ncollected].delta.id = pst_copy_id(deltas->items[i].id, deltas->kind);
		collected[ncollected].level = level;
		ncollected++;
	}
	collected_schema = tables->schema;
	MemoryContextSwitchTo(caller);
}

/* ---- the decision ---- */

/* Would the flusher wait for a lock that we hold? */
static bool
holds_conflicting_lock(Oid table)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, table);
	for (LOCKMODE mode = ShareLock; mode <= AccessExclusiveLock; mode++)
		if (pst_lock_held_by_me(&tag, mode))
			return true;
	return false;
}

static bool
may_join_group(const PstTables *tables)
{
	return database != NULL && pst_use_flusher &&
		!TransactionIdIsValid(GetTopTransactionIdIfAny()) &&
		!IsolationIsSerializable() &&
		!holds_conflicting_lock(tables->stats);
}

/*
 * Folds inside the transaction that is committing.  The triggers that this queues
 * would be forgotten, as the server has fired all deferred ones already.
 */
static void
fold_own(PstDeltas *deltas)
{
	const PstTables *tables = pst_lock_stats(collected_schema);
	bool		read_only = XactReadOnly;

	XactReadOnly = false;		/* SET TRANSACTION READ ONLY came after the count */
	PushActiveSnapshot(GetTransactionSnapshot());
	pst_fold(tables, deltas);
	PopActiveSnapshot();
	AfterTriggerFireDeferred();
	XactReadOnly = read_only;
}

static void
fold_alone_or_join(PstDeltas *deltas)
{
	if (!IsolationUsesXactSnapshot() && pst_begin_solo(database))
		fold_own(deltas);
	else if (!pst_join_group(database, collected_schema, deltas))
		fold_own(deltas);
}

static void
get_collected(const PstTables *tables, PstDeltas *deltas)
{
	pst_init_deltas(deltas, tables, ncollected);
	for (int i = 0; i < ncollected; i++)
		deltas->items[deltas->len++] = collected[i].delta;
	pst_merge_deltas(deltas);
}

static void
finish_counting(bool preparing)
{
	const PstTables *tables;
	PstDeltas	deltas;

	if (ncollected == 0)
		return;
	/* No lock while we wait: it would hold up whoever the flusher waits for */
	tables = pst_need_stats(collected_schema);
	get_collected(tables, &deltas);
	forget_collected();
	if (deltas.len == 0)
		return;
	if (!preparing && may_join_group(tables))
		fold_alone_or_join(&deltas);
	else
		fold_own(&deltas);
}

/* ---- callbacks ---- */

static void
at_transaction_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			finish_counting(false);
			break;
		case XACT_EVENT_PRE_PREPARE:
			finish_counting(true);
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			forget_collected();
			pst_end_solo();
			pst_end_group(event == XACT_EVENT_ABORT);
			break;
		default:
			break;
	}
}

static void
at_subtransaction_event(SubXactEvent event, SubTransactionId mine,
						SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (ncollected > 0 && collected[ncollected - 1].level >= level)
			ncollected--;
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = ncollected - 1; i >= 0 && collected[i].level >= level; i--)
			collected[i].level = level - 1;
	}
}

void
PstXactInit(void)
{
	RegisterXactCallback(at_transaction_event, NULL);
	RegisterSubXactCallback(at_subtransaction_event, NULL);
}
