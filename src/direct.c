/*
 * direct.c
 *		Updating counters without a statement.
 *
 * Where nothing but the table and its indexes has a say in an update, its row is found
 * in the key's index and updated by the access methods, as the executor would: in about
 * two thirds of the time of an UPDATE, and with less log.  Part of it is this: the executor
 * prunes a page whenever less is free than its fillfactor asks for (pruneheap.c:
 * heap_page_prune_opt), which at a counter is at every visit; here a page is pruned when
 * it is nearly full.
 *
 * What it leaves, because the row is locked, is missing, has no room, or changed this very
 * moment, is for a statement.  So it waits for nobody, but for who locks the row between
 * the look and the update, as any update would (heap_update() can't be told not to).
 *
 * What the executor does in an UPDATE (nodeModifyTable.c: ExecUpdate), and what becomes of it:
 *
 * - triggers, rules, forced policies, checks, domains, defaults, generated columns, and
 *	 expressions of indexes: a table that has them is for statements (tables.c:
 *	 runs_user_code); other policies are none for the owner;
 * - the constraint of a partition, another access method, columns of other types: is_plain();
 * - rights: the owner's, when the table is read.  A library that is asked as well
 *	 (ExecutorCheckPerms_hook) must be asked: may_update();
 * - replica identity, and what is published: check_identity();
 * - foreign keys: none may contain what we set, so a key does not change.  A row that this
 *	 transaction wrote is checked once more all the same (ri_triggers.c:
 *	 RI_FKey_fk_upd_check_required), by a statement: must_check_key();
 * - unique indexes: the access method checks, in write_indexes().  What is checked later, or
 *	 by the executor, is for statements: is_checked_apart();
 * - NOT NULL: a counter gets a number, and the others keep what they have;
 * - a row that somebody else has changed meanwhile: left for a statement;
 * - RETURNING, transition tables, moving to another partition: none.
 *
 * What heap_update() asks of its callers: a lock of the table, and a row that can be
 * seen, by a snapshot that is registered.  40001 is for a statement, hence none under
 * REPEATABLE READ.  A command of our own, before and after which others see what was done:
 * CommandCounterIncrement().  TOAST, WAL and the statistics it does itself.
 */
#include "prompt_stats.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Bytes; with less a page is pruned.  The server's own limit at fillfactor 100. */
#define NEARLY_FULL (BLCKSZ / 10)

typedef struct Update
{
	const PstTables *tables;
	Relation	rel;
	Relation	index;
	IndexScanDesc scan;
	ScanKeyData key;
	Snapshot	snapshot;
	CommandId	command;
	bool		has_identity;	/* as a published table needs it */
	TransactionId writer;		/* of the last row, if that is why it was left */
	TupleTableSlot *slot;		/* the new version */
	EState	   *estate;			/* NULL until indexes are to be written */
	ResultRelInfo indexes;
} Update;

/* ---- which tables: when they are read into the cache ---- */

/* Is it a column that we set? */
static bool
is_set(const PstTables *tables, AttrNumber column)
{
	for (int c = 0; c < PST_NCOUNTERS; c++)
		if (tables->counter_columns[c] == column)
			return true;
	return tables->sets_updated_at && tables->updated_at_column == column;
}

/* Does a foreign key contain one, or may one reference it? */
static bool
is_set_in_key(Relation rel, const PstTables *tables)
{
	Bitmapset  *keys = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_KEY);
	bool		result = false;
	ListCell   *lc;

	for (int i = -1; (i = bms_next_member(keys, i)) >= 0;)
		result |= is_set(tables, i + FirstLowInvalidHeapAttributeNumber);
	foreach(lc, RelationGetFKeyList(rel))
	{
		ForeignKeyCacheInfo *fk = lfirst(lc);

		for (int i = 0; i < fk->nkeys; i++)
			result |= is_set(tables, fk->conkey[i]);
	}
	bms_free(keys);
	return result;
}

/* An owner can take rights from himself */
static bool
may_owner_update(Relation rel)
{
	Oid			owner = rel->rd_rel->relowner;
	AclMode		needed = ACL_SELECT | ACL_UPDATE;

	return pg_class_aclmask(RelationGetRelid(rel), owner, needed, ACLMASK_ALL) == needed;
}

/* A domain, or a length, would have to be applied */
static bool
is_of_type(Relation rel, AttrNumber column, Oid type)
{
	Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(rel), column - 1);

	return attr->atttypid == type && attr->atttypmod == -1;
}

static bool
has_plain_types(Relation rel, const PstTables *tables)
{
	for (int c = 0; c < PST_NCOUNTERS; c++)
		if (!is_of_type(rel, tables->counter_columns[c],
						tables->counter_max[c] == PG_INT32_MAX ? INT4OID : INT8OID))
			return false;
	return !tables->sets_updated_at || is_of_type(rel, tables->updated_at_column, TIMESTAMPTZOID);
}

static bool
is_plain(Relation rel, const PstTables *tables)
{
	return !tables->runs_code && rel->rd_rel->relam == HEAP_TABLE_AM_OID &&
		!rel->rd_rel->relispartition && has_plain_types(rel, tables) &&
		!is_set_in_key(rel, tables) && may_owner_update(rel);
}

/* Exclusion constraints, and deferrable keys (execIndexing.c: ExecInsertIndexTuples) */
static bool
is_checked_apart(Relation index)
{
	Form_pg_index form = index->rd_index;

	return form->indisexclusion || (form->indisunique && !form->indimmediate);
}

/* The function that compares the key with an id; InvalidOid where the index won't do */
static Oid
equality_of(Relation index, const PstTables *tables)
{
	Form_pg_index form = index->rd_index;
	Oid			operator;

	if (index->rd_rel->relam != BTREE_AM_OID || !form->indisunique || !form->indimmediate ||
		!form->indisvalid || form->indnkeyatts != 1 ||
		form->indkey.values[0] != tables->id_column ||
		index->rd_indcollation[0] != tables->id_collation)
		return InvalidOid;
	operator = get_opfamily_member(index->rd_opfamily[0], index->rd_opcintype[0],
								   pst_id_type(tables->id_kind), BTEqualStrategyNumber);
	return OidIsValid(operator) ? get_opcode(operator) : InvalidOid;
}

/* Sets tables->direct_index, which stays InvalidOid where rows need a statement */
void
pst_find_direct(Relation rel, PstTables *tables)
{
	bool		checks_apart = false;
	ListCell   *lc;

	if (!is_plain(rel, tables))
		return;
	tables->has_foreign_key = RelationGetFKeyList(rel) != NIL;
	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Oid			equality = equality_of(index, tables);

		if (OidIsValid(equality) && !OidIsValid(tables->direct_index))
		{
			tables->direct_index = RelationGetRelid(index);
			tables->direct_equality = equality;
		}
		checks_apart |= is_checked_apart(index);
		index_close(index, AccessShareLock);
	}
	if (checks_apart)
		tables->direct_index = InvalidOid;
}

/* ---- an update ---- */

static void
begin_update(Update *update, const PstTables *tables)
{
	memset(update, 0, sizeof(*update));
	update->tables = tables;
	update->rel = table_open(tables->stats, NoLock);
	update->index = index_open(tables->direct_index, RowExclusiveLock);
	update->slot = MakeSingleTupleTableSlot(RelationGetDescr(update->rel), &TTSOpsHeapTuple);

	/* What this transaction has done already counts, too */
	CommandCounterIncrement();
	update->snapshot = RegisterSnapshot(GetLatestSnapshot());
	update->command = GetCurrentCommandId(true);
	update->scan = pst_begin_index_scan(update->rel, update->index, update->snapshot);
	ScanKeyEntryInitialize(&update->key, 0, 1, BTEqualStrategyNumber, pst_id_type(tables->id_kind),
						   tables->id_collation, tables->direct_equality, (Datum) 0);
}

static void
end_update(Update *update)
{
	if (update->estate != NULL)
	{
		ExecCloseIndices(&update->indexes);
		FreeExecutorState(update->estate);
	}
	index_endscan(update->scan);
	UnregisterSnapshot(update->snapshot);
	ExecDropSingleTupleTableSlot(update->slot);
	index_close(update->index, NoLock);
	table_close(update->rel, NoLock);
	CommandCounterIncrement();
}

static void
make_room_on_page(Relation rel, Buffer buffer)
{
	Page		page = BufferGetPage(buffer);

	if (PageIsFull(page) || PageGetHeapFreeSpace(page) < NEARLY_FULL)
		heap_page_prune_opt(rel, buffer);
}

/* Who writes a new version; whoever only locks the row may not be in the way */
static TransactionId
writer_of(HeapTuple row)
{
	uint16		mask = row->t_data->t_infomask;

	return (mask & HEAP_XMAX_IS_MULTI) || HEAP_XMAX_IS_LOCKED_ONLY(mask) ?
		InvalidTransactionId : HeapTupleHeaderGetRawXmax(row->t_data);
}

/*
 * The check of a key that is deferred, or that comes after the statement in which we
 * are called, passes over a version that is not the last; it is for the last to be checked.
 */
static bool
must_check_key(const Update *update, HeapTuple row)
{
	return update->tables->has_foreign_key &&
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(row->t_data));
}

/* Under a lock of the buffer */
static bool
is_free(Update *update, HeapTuple row, Buffer buffer)
{
	TM_Result	state = HeapTupleSatisfiesUpdate(row, update->command, buffer);

	if (state == TM_BeingModified)
		update->writer = writer_of(row);
	return state == TM_Ok && !must_check_key(update, row);
}

/* The version that the snapshot sees, if nobody holds it; its buffer is pinned then */
static bool
find_row(Update *update, Datum id, HeapTuple row, Buffer *buffer)
{
	ItemPointer tid;

	CHECK_FOR_INTERRUPTS();		/* there may be many */
	update->writer = InvalidTransactionId;
	update->key.sk_argument = id;
	index_rescan(update->scan, &update->key, 1, NULL, 0);
	while ((tid = index_getnext_tid(update->scan, ForwardScanDirection)) != NULL)
	{
		bool		found;
		bool		usable;

		*buffer = ReadBuffer(update->rel, ItemPointerGetBlockNumber(tid));
		make_room_on_page(update->rel, *buffer);
		LockBuffer(*buffer, BUFFER_LOCK_SHARE);
		row->t_self = *tid;
		found = heap_hot_search_buffer(&row->t_self, update->rel, *buffer, update->snapshot, row, NULL, true);
		usable = found && is_free(update, row, *buffer);
		LockBuffer(*buffer, BUFFER_LOCK_UNLOCK);
		if (usable)
			return true;
		ReleaseBuffer(*buffer);
		if (found)
			return false;
	}
	return false;
}

/* False where the counter has no room; NULL counts from 0 */
static bool
add_to_counter(const Update *update, HeapTuple row, PstCounter counter, int64 n, Datum *sum)
{
	bool		is_int = update->tables->counter_max[counter] == PG_INT32_MAX;
	bool		isnull;
	Datum		value = heap_getattr(row, update->tables->counter_columns[counter],
									 RelationGetDescr(update->rel), &isnull);
	int64		held = isnull ? 0 : is_int ? DatumGetInt32(value) : DatumGetInt64(value);

	if (pg_add_s64_overflow(held, n, &held) || (is_int && held != (int32) held))
		return false;
	*sum = is_int ? Int32GetDatum((int32) held) : Int64GetDatum(held);
	return true;
}

/* NULL where a counter has no room.  Only counters that the delta touches are set. */
static HeapTuple
make_version(Update *update, HeapTuple row, const PstDelta *delta)
{
	int			columns[PST_NCOUNTERS + 1];
	Datum		values[PST_NCOUNTERS + 1];
	bool		nulls[PST_NCOUNTERS + 1] = {false};
	int			ncolumns = 0;

	for (int c = 0; c < PST_NCOUNTERS; c++)
	{
		if (delta->n[c] == 0)
			continue;
		columns[ncolumns] = update->tables->counter_columns[c];
		if (!add_to_counter(update, row, c, delta->n[c], &values[ncolumns++]))
			return NULL;
	}
	if (update->tables->sets_updated_at)
	{
		columns[ncolumns] = update->tables->updated_at_column;
		values[ncolumns++] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	}
	return heap_modify_tuple_by_cols(row, RelationGetDescr(update->rel), ncolumns, columns, values, nulls);
}

/* Where the new version is no HOT update */
static void
write_indexes(Update *update, PstIndexUpdates which)
{
	if (update->estate == NULL)
	{
		update->estate = CreateExecutorState();
		InitResultRelInfo(&update->indexes, update->rel, 0, NULL, 0);

		/*
		 * An index made a moment ago may have an expression, which is folded
		 * there
		 */
		pst_enter_settings();
		ExecOpenIndices(&update->indexes, false);
	}
	pst_insert_index_entries(&update->indexes, update->slot, update->estate, which);
	ResetPerTupleExprContext(update->estate);
}

/* As an UPDATE of any row asks for it; not where rows are only inserted */
static void
check_identity(Update *update)
{
	if (!update->has_identity)
		CheckCmdReplicaIdentity(update->rel, CMD_UPDATE);
	update->has_identity = true;
}

static bool
update_row(Update *update, const PstDelta *delta)
{
	HeapTupleData row;
	Buffer		buffer;
	HeapTuple	version;
	PstIndexUpdates indexes;
	bool		done = false;

	if (!find_row(update, delta->id, &row, &buffer))
		return false;
	check_identity(update);
	version = make_version(update, &row, delta);
	if (version != NULL)
	{
		ExecStoreHeapTuple(version, update->slot, true);
		done = pst_update_tuple(update->rel, &row.t_self, update->slot, update->command,
								update->snapshot, &indexes);
		if (done && indexes != PST_NO_INDEXES)
			write_indexes(update, indexes);
		ExecClearTuple(update->slot);
	}
	ReleaseBuffer(buffer);
	return done;
}

static bool
may_update(const PstTables *tables)
{
	/*
	 * A snapshot of the whole transaction has to fail where somebody changed
	 * the row
	 */
	return OidIsValid(tables->direct_index) && !IsolationUsesXactSnapshot() &&
		ExecutorCheckPerms_hook == NULL;
}

/*
 * Updates what it can of a merged set: these leave the set.  Returns how many.  The table
 * is locked, and we act as its owner.  "writer" is the transaction that is writing the last
 * row, if that is why it was left.
 */
uint64
pst_update_directly(const PstTables *tables, PstDeltas *deltas, TransactionId *writer)
{
	Update		update;
	int			len = deltas->len;
	int			left = 0;

	*writer = InvalidTransactionId;
	if (!may_update(tables))
		return 0;
	begin_update(&update, tables);
	for (int i = 0; i < len; i++)
	{
		if (!update_row(&update, &deltas->items[i]))
			deltas->items[left++] = deltas->items[i];
	}
	*writer = update.writer;
	end_update(&update);
	deltas->len = left;
	return len - left;
}

static bool
are_free_rows(Update *update, const PstDeltas *deltas)
{
	HeapTupleData row;
	Buffer		buffer;

	for (int i = 0; i < deltas->len; i++)
	{
		if (!find_row(update, deltas->items[i].id, &row, &buffer))
			return false;
		ReleaseBuffer(buffer);
	}
	return true;
}

/*
 * The same for a transaction that keeps what it has until its end, and so must take its
 * rows in the order of their ids: all are looked at first, and none is updated where one is
 * missing or busy, nor any after the first that has become so meanwhile, or has no room.
 */
uint64
pst_update_directly_in_order(const PstTables *tables, PstDeltas *deltas)
{
	Update		update;
	int			done = 0;

	if (!may_update(tables))
		return 0;
	begin_update(&update, tables);
	if (are_free_rows(&update, deltas))
		while (done < deltas->len && update_row(&update, &deltas->items[done]))
			done++;
	end_update(&update);
	deltas->len -= done;
	memmove(deltas->items, deltas->items + done, deltas->len * sizeof(PstDelta));
	return done;
}
