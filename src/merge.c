/*
 * merge.c
 *		Bringing together what tables of different owners say of the same prompts.
 *
 * A statement names tables of one owner (run.c), so none may join them.  Each table is read
 * as its owner, summed up per prompt, and put into one sort of ours, in which the sums of a
 * prompt meet: ids are compared as in the key of prompt_stats, whatever the collations of the
 * other tables.  All tables of a merge are read with one snapshot.  It needs no more memory
 * than work_mem, however many prompts there are.
 */
#include "migrate.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "tcop/dest.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplesort.h"
#include "utils/typcache.h"

struct PstMerge
{
	DestReceiver receiver;		/* must be first */
	const PstTables *tables;
	Tuplesortstate *sort;		/* of (id, sums) */
	TupleTableSlot *in;			/* what is put into it */
	TupleTableSlot *out;		/* what comes out of it: the next row */
	bool		has_next;
	PstSum		first;			/* of the sums of the table that is read */
	MemoryContext context;		/* of the id that was handed out */
};

/*
 * The ids of a column as those of one kind.  Text is told apart byte by byte: which ids are
 * the same prompt is for the collation of prompt_stats to say, not of the column.
 */
char *
pst_id_sql(const char *column, PstIdKind kind)
{
	return psprintf("%s::pg_catalog.%s%s", column, pst_type_name(kind),
					kind == PST_TEXT ? " COLLATE pg_catalog.\"C\"" : "");
}

/* ---- reading ---- */

/* A row (id, sum, ...) */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	PstMerge   *merge = (PstMerge *) self;
	Datum	   *values = merge->in->tts_values;
	bool	   *nulls = merge->in->tts_isnull;
	Datum		id = slot_getattr(slot, 1, &nulls[0]);
	bool		isnull;

	ExecClearTuple(merge->in);
	values[0] = id;
	if (!nulls[0] && merge->tables->id_kind == PST_TEXT)
		values[0] = PointerGetDatum(PG_DETOAST_DATUM_PACKED(id));
	for (int sum = 0; sum < PST_NSUMS; sum++)
	{
		values[1 + sum] = (Datum) 0;
		nulls[1 + sum] = true;
	}
	for (int column = 2; column <= slot->tts_tupleDescriptor->natts; column++)
	{
		int			target = merge->first + column - 1;

		values[target] = slot_getattr(slot, column, &isnull);
		nulls[target] = isnull;
	}
	ExecStoreVirtualTuple(merge->in);
	tuplesort_puttupleslot(merge->sort, merge->in);
	if (values[0] != id)
		pfree(DatumGetPointer(values[0]));
	return true;
}

static void
start_nothing(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
do_nothing(DestReceiver *self)
{
}

static TupleDesc
make_row_type(PstIdKind kind)
{
	TupleDesc	desc = CreateTemplateTupleDesc(1 + PST_NSUMS);

	TupleDescInitEntry(desc, 1, "id", pst_id_type(kind), -1, 0);
	for (int sum = 0; sum < PST_NSUMS; sum++)
		TupleDescInitEntry(desc, 2 + sum, "n", INT8OID, -1, 0);
	return desc;
}

/* In the order of pst_compare_ids() */
static Tuplesortstate *
begin_sort(const PstTables *tables, TupleDesc desc)
{
	AttrNumber	column = 1;
	Oid			less = lookup_type_cache(pst_id_type(tables->id_kind), TYPECACHE_LT_OPR)->lt_opr;
	Oid			collation = tables->id_collation;
	bool		nulls_first = false;

	return tuplesort_begin_heap(desc, 1, &column, &less, &collation, &nulls_first,
								work_mem, NULL, TUPLESORT_NONE);
}

/*
 * In the current memory context.  The caller is connected to SPI until the end, and has
 * locked the tables.
 */
PstMerge *
pst_begin_merge(const PstTables *tables)
{
	PstMerge   *merge = palloc0(sizeof(PstMerge));
	TupleDesc	desc = make_row_type(tables->id_kind);

	merge->receiver.receiveSlot = receive_row;
	merge->receiver.rStartup = start_nothing;
	merge->receiver.rShutdown = do_nothing;
	merge->receiver.rDestroy = do_nothing;
	merge->receiver.mydest = DestNone;
	merge->tables = tables;
	merge->sort = begin_sort(tables, desc);
	merge->in = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	merge->out = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	merge->context = AllocSetContextCreate(CurrentMemoryContext, "prompt_stats merge", ALLOCSET_SMALL_SIZES);

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	return merge;
}

typedef struct Reading
{
	PstMerge   *merge;
	const char *sql;
} Reading;

static void
read_table(void *arg)
{
	Reading    *reading = arg;
	SPIExecuteOptions options = {.read_only = true,.dest = &reading->merge->receiver};

	pst_run_extended(reading->sql, 0, NULL, &options);
}

/* A statement that finds rows (id, n, ...), as the owner of the table; its first n is "first" */
void
pst_merge_table(PstMerge *merge, Oid table, int more_context, PstSum first, const char *sql)
{
	Reading		reading = {merge, sql};
	PstScope	scope = pst_scope_of(pst_owner_of(table), pst_path_of(table));

	scope.more_context = more_context;
	merge->first = first;
	pst_as_owner(&scope, read_table, &reading);
}

/* The rows of prompt_stats, from PST_ROWS to PST_ROW_FORKS */
void
pst_merge_counters(PstMerge *merge)
{
	const PstTables *tables = merge->tables;

	pst_merge_table(merge, tables->stats, 0, PST_ROWS,
					psprintf("SELECT %s, 1::pg_catalog.int8, s.view_count::pg_catalog.int8,"
							 " s.copy_count::pg_catalog.int8, s.fork_count::pg_catalog.int8"
							 " FROM ONLY %s AS s",
							 pst_id_sql("s.prompt_id", tables->id_kind), tables->stats_name));
}

/* ---- merging ---- */

static void
fetch_next(PstMerge *merge)
{
	CHECK_FOR_INTERRUPTS();
	merge->has_next = tuplesort_gettupleslot(merge->sort, true, false, merge->out, NULL);
	if (merge->has_next)
		slot_getallattrs(merge->out);
}

/* After the last table */
void
pst_sort_merged(PstMerge *merge)
{
	PopActiveSnapshot();
	tuplesort_performsort(merge->sort);
	fetch_next(merge);
}

static bool
is_next_of(PstMerge *merge, const PstMerged *merged)
{
	const PstTables *tables = merge->tables;
	bool		no_id = merge->out->tts_isnull[0];

	if (no_id || merged->no_id)
		return no_id && merged->no_id;
	return pst_compare_ids(merge->out->tts_values[0], merged->id, tables->id_kind, tables->id_collation) == 0;
}

/* The sums of the next prompt, in the order of the ids; rows without an id come last */
bool
pst_next_merged(PstMerge *merge, PstMerged *merged)
{
	if (!merge->has_next)
		return false;
	MemoryContextReset(merge->context);
	memset(merged, 0, sizeof(*merged));
	merged->no_id = merge->out->tts_isnull[0];
	if (!merged->no_id)
	{
		MemoryContext caller = MemoryContextSwitchTo(merge->context);

		merged->id = pst_copy_id(merge->out->tts_values[0], merge->tables->id_kind);
		MemoryContextSwitchTo(caller);
	}
	do
	{
		for (int sum = 0; sum < PST_NSUMS; sum++)
			if (!merge->out->tts_isnull[1 + sum])
				merged->n[sum] += DatumGetInt64(merge->out->tts_values[1 + sum]);
		fetch_next(merge);
	} while (merge->has_next && is_next_of(merge, merged));
	return true;
}

void
pst_end_merge(PstMerge *merge)
{
	tuplesort_end(merge->sort);
	ExecDropSingleTupleTableSlot(merge->in);
	ExecDropSingleTupleTableSlot(merge->out);
	MemoryContextDelete(merge->context);
	pfree(merge);
}
