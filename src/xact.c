/*
 * xact.c
 *		What a transaction has counted, and what is done with it at its end.
 *
 * Deltas are collected per nesting level, so that ROLLBACK TO SAVEPOINT un-counts,
 * and decided upon when COMMIT or PREPARE closes the portal of portal.c: handed over to
 * others, or folded here.  What triggers count meanwhile is folded at the call; what
 * they leave to be done later may count again, and then there is another portal.
 *
 * In the callbacks, in which no code of users may run, the outcome is told, and nothing
 * is folded.  A library that counts in a callback of its own gets an error.
 */
#include "prompt_stats.h"

#include "shared.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "replication/origin.h"
#include "storage/lock.h"
#include "storage/predicate.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

/* So many calls are merged before more memory is taken */
#define MERGE_AT 8192

/* So many calls a transaction folds by itself, if it is alone */
#define MAX_SOLO 8

typedef struct Collected
{
	int			level;			/* of the subtransaction that counted */
	PstDurability durability;
	PstIdKind	kind;			/* of the table at that time */
	PstDelta	delta;
} Collected;

/* With its ids in a child of TopTransactionContext, and gone with it */
static MemoryContext collect_context = NULL;
static Collected *collected = NULL;
static int	ncollected = 0;
static int	size_collected = 0;
static Oid	collected_collation = InvalidOid;
static Oid	collected_schema = InvalidOid;	/* of the extension */
static Oid	collected_stats = InvalidOid;	/* the table */
static PstDatabase *database = NULL;

/* What this transaction folded itself, for the statistics */
static int64 own_counts = 0;
static PstOwnFold own_reason;

/* What was collected is being handed over or folded */
static bool deciding = false;

/* It was handed over: the transaction must commit by itself, and now */
static bool handed_over = false;

/* The callbacks before the end of the transaction have been called */
static bool ending = false;

static void
forget_collected(void)
{
	collect_context = NULL;
	collected = NULL;
	ncollected = 0;
	size_collected = 0;
}

static MemoryContext
create_context(void)
{
	return AllocSetContextCreate(TopTransactionContext, "prompt_stats counts", ALLOCSET_SMALL_SIZES);
}

/* Where this fails, what was collected is as it was: the error may be caught */
static void
create_collected(int size)
{
	MemoryContext context = create_context();

	collected = MemoryContextAllocHuge(context, size * sizeof(Collected));
	collect_context = context;
	size_collected = size;
}

/* The strongest of the calls from "first" on */
static PstDurability
strongest_durability(int first)
{
	PstDurability strongest = PST_DURABILITY_ASYNC;

	for (int i = first; i < ncollected; i++)
		strongest = Max(strongest, collected[i].durability);
	return strongest;
}

/* Sorts and sums those of one level, from "first" on; false where they don't mix */
static bool
sum_collected(int first, PstDeltas *deltas)
{
	deltas->kind = collected[first].kind;
	deltas->collation = collected_collation;
	deltas->len = deltas->size = ncollected - first;
	deltas->items = palloc_extended(deltas->size * sizeof(PstDelta), MCXT_ALLOC_HUGE);
	for (int i = 0; i < deltas->len; i++)
	{
		if (collected[first + i].kind != deltas->kind)
			return false;
		deltas->items[i] = collected[first + i].delta;
	}
	pst_sort_deltas(deltas);
	return true;
}

/*
 * A transaction may call millions of times for the same prompts: those of its innermost
 * level become one for each prompt, in memory of their own.  As create_collected(), this
 * may fail.
 */
static void
merge_collected(void)
{
	MemoryContext context;
	Collected  *merged;
	Collected  *old = collected;
	int			level = old[ncollected - 1].level;
	int			first = ncollected;
	PstDurability durability;
	PstDeltas	deltas;

	while (first > 0 && old[first - 1].level == level)
		first--;
	durability = strongest_durability(first);
	if (!sum_collected(first, &deltas))
		return;

	context = create_context();
	MemoryContextSwitchTo(context);
	merged = MemoryContextAllocHuge(context, size_collected * sizeof(Collected));
	for (int i = 0; i < first + deltas.len; i++)
	{
		if (i < first)
			merged[i] = old[i];
		else
		{
			merged[i] = old[first];
			merged[i].durability = durability;
			merged[i].delta = deltas.items[i - first];
		}
		merged[i].delta.id = pst_copy_id(merged[i].delta.id, merged[i].kind);
	}
	MemoryContextDelete(collect_context);
	collect_context = context;
	collected = merged;
	ncollected = first + deltas.len;
}

static void
make_room(void)
{
	if (collected == NULL)
		create_collected(8);
	if (ncollected < size_collected)
		return;
	if (size_collected >= MERGE_AT)
		merge_collected();
	if (ncollected <= size_collected / 2)
		return;
	collected = repalloc_huge(collected, 2 * size_collected * sizeof(Collected));
	size_collected *= 2;
}

/* In a callback: nobody would fold it, and none may run the triggers of a table */
static void
late_count_error(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot count at the end of a transaction"),
			 errdetail("A library has counted from a callback that the server calls while it commits."),
			 errhint("Count before COMMIT.")));
}

/*
 * May a call leave its deltas to the end of the transaction?  A security-restricted
 * operation must not queue what is done at commit (xact.c: CommitTransaction).
 */
bool
pst_may_collect(void)
{
	if (ending)
		late_count_error();
	return pst_durability != PST_DURABILITY_TRANSACTION && !deciding &&
		!InSecurityRestrictedOperation();
}

bool
pst_has_collected(void)
{
	return ncollected > 0;
}

/* After a statement that may have closed it */
void
pst_keep_portal(void)
{
	if (ncollected > 0)
		pst_ensure_portal();
}

/* After DROP TABLE or prompt_stats_setup() in the midst of a transaction that counts */
static void
another_table_error(const PstTables *tables)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("this transaction has counted in another table than %s", tables->stats_name),
			 errhint("Commit before you count in the new table.")));
}

/*
 * Remembers deltas for the end of the transaction; the ids are copied.  Everything
 * that can be touched first is touched here, not while committing.
 */
void
pst_collect(const PstTables *tables, const PstDeltas *deltas)
{
	MemoryContext caller = CurrentMemoryContext;
	int			level = GetCurrentTransactionNestLevel();

	database = pst_find_database();
	if (ncollected > 0 && collected_stats != tables->stats)
		another_table_error(tables);
	collected_schema = tables->schema;
	collected_stats = tables->stats;
	collected_collation = tables->id_collation;
	pst_ensure_portal();
	for (int i = 0; i < deltas->len; i++)
	{
		make_room();
		MemoryContextSwitchTo(collect_context);
		collected[ncollected].level = level;
		collected[ncollected].durability = pst_durability;
		collected[ncollected].kind = deltas->kind;
		collected[ncollected].delta = deltas->items[i];
		collected[ncollected].delta.id = pst_copy_id(deltas->items[i].id, deltas->kind);
		ncollected++;
	}
	MemoryContextSwitchTo(caller);
}

/*
 * What this transaction has counted of a prompt, so far, and leaves to its end no more: a
 * correction writes it now.  Added to n.  As it may be rolled back to a savepoint, the
 * opposite is collected.
 */
void
pst_take_collected(const PstTables *tables, Datum id, int64 *n)
{
	int64		sum[PST_NCOUNTERS] = {0};
	PstDeltas	opposite;

	if (deciding || ncollected == 0 || collected_stats != tables->stats)
		return;
	for (int i = 0; i < ncollected; i++)
		if (pst_compare_ids(pst_stats_id(tables, collected[i].delta.id, collected[i].kind), id,
							tables->id_kind, tables->id_collation) == 0)
			for (int c = 0; c < PST_NCOUNTERS; c++)
				sum[c] = pst_add_saturated(sum[c], collected[i].delta.n[c]);
	if (pst_is_zero(sum))
		return;
	pst_init_deltas(&opposite, tables, 1);
	(void) pst_add_delta(&opposite, id, PST_VIEWS, 0);
	for (int c = 0; c < PST_NCOUNTERS; c++)
	{
		opposite.items[0].n[c] = -sum[c];
		n[c] = pst_add_saturated(n[c], sum[c]);
	}
	pst_collect(tables, &opposite);
}

/* Merged; the table may have changed since the calls */
static void
get_collected(const PstTables *tables, PstDeltas *deltas)
{
	pst_init_deltas(deltas, tables, ncollected);
	for (int i = 0; i < ncollected; i++)
	{
		PstDelta   *delta = &deltas->items[deltas->len++];

		*delta = collected[i].delta;
		delta->id = pst_stats_id(tables, delta->id, collected[i].kind);
	}
	pst_merge_deltas(deltas);
}

/* ---- the decision ---- */

/* Would the flusher wait for a lock that we hold? */
bool
pst_holds_conflicting_lock(Oid table)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, table);
	for (LOCKMODE mode = ShareLock; mode <= AccessExclusiveLock; mode++)
		if (pst_lock_held_by_me(&tag, mode))
			return true;
	return false;
}

/*
 * May others fold for us at all?  Else says why not.  Where the commit comes from
 * somewhere else, its record must say so: else it would be sent again after a crash.
 */
static bool
may_hand_over(PstOwnFold *why)
{
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()) || handed_over)
		*why = PST_OWN_WRITES;
	else if (replorigin_session_origin != InvalidRepOriginId)
		*why = PST_OWN_ORIGIN;
	else if (IsolationIsSerializable())
		*why = PST_OWN_SERIALIZABLE;
	else if (database == NULL)
		*why = PST_OWN_NO_MEMORY;
	else if (!pst_use_flusher)
		*why = PST_OWN_NO_FLUSHER;
	else
		return true;
	return false;
}

/*
 * A transaction that only counted does not mind what others have counted since its
 * snapshot, so REPEATABLE READ need not fail with 40001 for it; nor would it in a
 * group.
 */
static int
isolation_of_fold(void)
{
	return IsolationIsSerializable() || TransactionIdIsValid(GetTopTransactionIdIfAny()) ?
		XactIsoLevel : XACT_READ_COMMITTED;
}

/* Folds inside the transaction that is committing */
static void
fold_own(void)
{
	const PstTables *tables = pst_lock_stats_again(collected_schema, collected_stats, true);
	bool		read_only = XactReadOnly;
	int			isolation = XactIsoLevel;
	PstDeltas	deltas;

	get_collected(tables, &deltas);
	own_counts += pst_total_of(&deltas);
	XactReadOnly = false;		/* SET TRANSACTION READ ONLY came after the
								 * count */
	XactIsoLevel = isolation_of_fold();
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) pst_fold(tables, &deltas);
	PopActiveSnapshot();
	XactIsoLevel = isolation;
	XactReadOnly = read_only;
}

/*
 * Alone a backend folds its own, which is cheaper; in company the flusher does it, and
 * many prompts always, for it need not lock their rows first.
 */
static bool
may_join_group(const PstTables *tables, PstOwnFold *why)
{
	if (pst_holds_conflicting_lock(tables->stats))
		*why = PST_OWN_TABLE_LOCK;
	else if (ncollected <= MAX_SOLO && pst_begin_solo(database))
		*why = PST_OWN_ALONE;
	else
		return true;
	return false;
}

/* False where the transaction is to fold its own; the table is not locked */
static bool
hand_over(PstOwnFold *why)
{
	bool		is_async = strongest_durability(0) == PST_DURABILITY_ASYNC;
	const PstTables *tables;
	PstDeltas	deltas;

	if (!may_hand_over(why))
		return false;
	tables = pst_recall_stats(collected_stats);
	*why = PST_OWN_RETURNED;
	if (tables == NULL)
		return false;			/* which tells what happened to it */
	if (!is_async && !may_join_group(tables, why))
		return false;
	get_collected(tables, &deltas);
	if (deltas.len == 0)
		return true;
	return is_async ? pst_reserve(database, tables, &deltas, why) :
		pst_join_group(database, tables, &deltas, why);
}

/* The server has ended its own before it commits (postgres.c: finish_xact_command) */
static bool
begin_statement_timeout(void)
{
	if (StatementTimeout <= 0 || get_timeout_active(STATEMENT_TIMEOUT))
		return false;
	enable_timeout_at(STATEMENT_TIMEOUT,
					  TimestampTzPlusMilliseconds(GetCurrentStatementStartTimestamp(),
												  StatementTimeout));
	return true;
}

/* When the portal is closed */
void
pst_finish_counting(void)
{
	MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);
	bool		timed = begin_statement_timeout();

	deciding = true;

	/* Without a lock: it would hold up whoever the flusher waits for */
	if (hand_over(&own_reason))
		handed_over = true;
	else
		fold_own();
	deciding = false;
	forget_collected();
	if (timed)
		disable_timeout(STATEMENT_TIMEOUT, false);
	pst_await_standbys();
	MemoryContextSwitchTo(caller);
}

/* ---- callbacks ---- */

/* Nobody could tell later what becomes of the counts that were pending */
static void
prepared_claims_error(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot PREPARE a transaction that has corrected counts which were pending"),
			 errhint("Flush them before it begins, with SELECT %s.prompt_stats_flush();",
					 quote_identifier(get_namespace_name(pst_extension_schema())))));
}

/* The last time that something may fail */
static void
check_transaction(bool preparing)
{
	ending = true;
	if (ncollected > 0)
		late_count_error();
	if (preparing && pst_has_claims())
		prepared_claims_error();
	if (preparing && handed_over)
		elog(ERROR, "counts of a transaction that is being prepared are in the hands of others");
}

/*
 * From a callback that was called though ours was not: the library was loaded there.  It
 * is too late for an error.
 */
static void
warn_of_lost_counts(void)
{
	if (ncollected > 0)
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("what was counted at the end of a transaction is lost"),
				 errdetail("A library has counted from a callback that the server calls while it commits."),
				 errhint("Count before COMMIT.")));
}

static void
finish_statistics(XactEvent event)
{
	if (event == XACT_EVENT_PREPARE)
		own_reason = PST_OWN_PREPARE;
	if (event != XACT_EVENT_ABORT && own_counts > 0 && database != NULL)
		pst_count_own_fold(database, own_reason, own_counts);
	own_counts = 0;
}

/* Must not fail */
static void
end_transaction(XactEvent event)
{
	if (event != XACT_EVENT_ABORT)
		warn_of_lost_counts();
	ending = deciding = handed_over = false;
	forget_collected();
	finish_statistics(event);
	pst_end_reserved(event == XACT_EVENT_COMMIT);
	pst_end_claims(event == XACT_EVENT_COMMIT);
	pst_end_solo();
	pst_end_group(event == XACT_EVENT_ABORT);
}

static void
at_transaction_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			check_transaction(event == XACT_EVENT_PRE_PREPARE);
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			end_transaction(event);
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
		pst_abort_claims(level);
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = ncollected - 1; i >= 0 && collected[i].level >= level; i--)
			collected[i].level = level - 1;
		pst_keep_claims(level);
	}
}

void
PstXactInit(void)
{
	RegisterXactCallback(at_transaction_event, NULL);
	RegisterSubXactCallback(at_subtransaction_event, NULL);
}
