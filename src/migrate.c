/*
 * migrate.c
 *		One batch: legacy view and copy rows move out of prompt_events.
 *
 * A batch takes the next rows in physical order, deletes them, and folds their
 * sums, in one transaction: a row is either there or counted, whenever the
 * server dies, whoever calls, however often.  Where the last batch ended is kept
 * (progress.c) in the same transaction.  That position only saves time: when
 * nothing is left behind it, the table is looked through once more from its start,
 * so a table that was rewritten or restored meanwhile is moved completely all the
 * same.
 *
 * Rows are deleted, and prompt_stats is written, as the owner of each table, for
 * triggers run (run.c).  The table of prompts may belong to a third, who is asked for
 * himself (missing.c).
 *
 * Batches exclude each other by a lock, taken first.  Rows of prompt_stats are locked
 * last, by the fold, just before the commit.
 */
#include "migrate.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "nodes/params.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(prompt_stats_migrate_batch);

typedef struct Migration
{
	PstTables	tables;			/* a copy: the owner's code may have them
								 * loaded anew */
	PstBatch	batch;
	PstRun		run;
} Migration;

/* The next rows to look at: those after the position, up to "last" */
typedef struct Range
{
	bool		is_open;		/* no last: to the end of the table */
	ItemPointerData last;
	ArrayType  *missing;		/* their prompts that don't exist; NULL: none */
} Range;

/* ---- the tables ---- */

int64
pst_count_blocks(Oid table)
{
	Relation	rel = table_open(table, AccessShareLock);
	int64		blocks = RelationGetNumberOfBlocks(rel);

	table_close(rel, AccessShareLock);
	return blocks;
}

/*
 * Both tables, locked, for their owner; in a copy that no code of others changes.  Again,
 * where others were chosen while we waited.
 */
static void
take_both(Oid function, PstTables *tables, const PstTables *(*lock_stats) (Oid), const PstTables *(*lock_events) (Oid))
{
	Oid			locked;

	do
	{
		locked = lock_stats(function)->stats;
		*tables = *lock_events(function);
	} while (tables->stats != locked);
	pst_check_owner(tables);
}

/* To write */
void
pst_lock_both(Oid function, PstTables *tables)
{
	take_both(function, tables, pst_lock_stats, pst_lock_events);
}

/* To read */
void
pst_share_both(Oid function, PstTables *tables)
{
	take_both(function, tables, pst_share_stats, pst_share_events);
}

/* ---- statements on prompt_events ---- */

/*
 * In the scope of the owner of prompt_events: a planner that walks the table in physical
 * order, whatever indexes it has, because ranges of ctid are what a batch is made of.
 */
static void
plan_for_ranges(void)
{
	static const char *const off[] = {
		"enable_seqscan", "enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan", "jit"
	};

	pst_enter_settings();
	for (size_t i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("max_parallel_workers_per_gather", "0", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);

	/* A list of ids is hashed only where it is a constant (clauses.c) */
	(void) set_config_option("plan_cache_mode", "force_custom_plan", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static PstScope
events_scope(const PstTables *tables)
{
	return pst_scope_of(tables->events_owner, tables->events_path);
}

typedef struct EventsQuery
{
	const char *sql;
	int			nargs;
	Oid		   *types;
	Datum	   *values;
} EventsQuery;

static void
run_events_query(void *arg)
{
	EventsQuery *query = arg;

	plan_for_ranges();
	(void) pst_run(query->sql, query->nargs, query->types, query->values);
}

/* A SELECT from prompt_events */
static void
run_on_events(const PstTables *tables, const char *sql, int nargs, Oid *types, Datum *values)
{
	PstScope	scope = events_scope(tables);
	EventsQuery query = {sql, nargs, types, values};

	pst_as_owner(&scope, run_events_query, &query);
}

/* ---- one batch ---- */

/* What leaves the table */
static const char *
condition_of(const PstBatch *batch)
{
	return batch->delete_unmovable ? PST_IS_REFUSED : PST_IS_MOVABLE;
}

/* The last of the next rows after the position, up to the limit; false where there is none */
static bool
find_last(Migration *migration, Range *range)
{
	const PstTables *tables = &migration->tables;
	Oid			types[] = {TIDOID, INT8OID};
	Datum		values[] = {PointerGetDatum(&migration->run.position), Int64GetDatum(migration->batch.limit)};
	bool		isnull;
	Datum		last;

	run_on_events(tables, psprintf("SELECT pg_catalog.max(x.ctid) FROM (SELECT e.ctid FROM ONLY %s AS e"
								   " WHERE e.ctid OPERATOR(pg_catalog.>) $1 AND %s LIMIT $2) AS x",
								   tables->events_name, condition_of(&migration->batch)),
				  lengthof(types), types, values);
	last = pst_get_field(0, 1, &isnull);
	if (!isnull)
		range->last = *(ItemPointer) DatumGetPointer(last);
	return !isnull;
}

static ArrayType *
find_missing(Migration *migration, const Range *range)
{
	const PstTables *tables = &migration->tables;
	Oid			types[] = {TIDOID, TIDOID};
	Datum		values[] = {PointerGetDatum(&migration->run.position), PointerGetDatum(&range->last)};
	ArrayType  *missing;

	run_on_events(tables, psprintf("SELECT DISTINCT %s FROM ONLY %s AS e"
								   " WHERE e.ctid OPERATOR(pg_catalog.>) $1 AND e.ctid OPERATOR(pg_catalog.<=) $2"
								   " AND " PST_IS_MOVABLE,
								   pst_id_sql("e.prompt_id", tables->id_kind), tables->events_name),
				  lengthof(types), types, values);
	missing = pst_missing_prompts(tables, pst_get_ids(tables->id_kind));
	return ARR_NDIM(missing) > 0 ? missing : NULL;
}

/*
 * The next range after the position; false at the end of the table.  Where every
 * prompt exists, the DELETE itself sees how far it comes, and reads the rows once.
 */
static bool
find_range(Migration *migration, Range *range)
{
	range->is_open = !pst_may_miss_prompts(&migration->tables);
	range->missing = NULL;
	if (range->is_open)
	{
		ItemPointerSet(&range->last, MaxBlockNumber, MaxOffsetNumber);
		return true;
	}
	if (!find_last(migration, range))
		return false;
	range->missing = find_missing(migration, range);
	return true;
}

static void
set_param(ParamListInfo params, int number, Oid type, Datum value, bool isnull)
{
	params->params[number].value = value;
	params->params[number].isnull = isnull;
	params->params[number].pflags = PARAM_FLAG_CONST;
	params->params[number].ptype = type;
}

typedef struct Deletion
{
	const char *sql;
	Oid		   *types;
	SPIExecuteOptions options;
} Deletion;

static void
run_deletion(void *arg)
{
	Deletion   *deletion = arg;

	plan_for_ranges();
	pst_run_extended(deletion->sql, deletion->options.params->numParams, deletion->types, &deletion->options);
}

static char *
deletion_sql(const Migration *migration, bool spares)
{
	const PstTables *tables = &migration->tables;
	char	   *id = pst_id_sql("e.prompt_id", tables->id_kind);

	return psprintf("DELETE FROM ONLY %s AS e"
					" WHERE e.ctid OPERATOR(pg_catalog.>) $1 AND e.ctid OPERATOR(pg_catalog.<=) $2"
					" AND %s%s RETURNING %s, " PST_EVENT_TYPE ", e.ctid",
					tables->events_name, condition_of(&migration->batch),
					spares ? psprintf(" AND %s OPERATOR(pg_catalog.<>) ALL ($3)", id) : "", id);
}

/*
 * Deletes rows of the range, up to the limit; returns how many, their sums, and in
 * an open range the last of them.  They are summed up as they are deleted: rows that
 * somebody else deletes meanwhile, or that a trigger keeps, don't count.
 */
static int64
delete_range(Migration *migration, Range *range, PstDeltas *deltas)
{
	const PstTables *tables = &migration->tables;
	bool		spares = range->missing != NULL && !migration->batch.delete_unmovable;
	Oid			types[] = {TIDOID, TIDOID, get_array_type(pst_id_type(tables->id_kind))};
	PstTally   *tally = pst_create_tally(tables);
	PstScope	scope = events_scope(tables);
	Deletion	deletion = {
		.sql = deletion_sql(migration, spares),
		.types = types,
		.options = {
			.params = makeParamList(lengthof(types)),
			.tcount = migration->batch.limit,
			.dest = pst_tally_receiver(tally)
		}
	};
	int64		rows;

	pst_check_no_delete_rule(tables);
	set_param(deletion.options.params, 0, types[0], PointerGetDatum(&migration->run.position), false);
	set_param(deletion.options.params, 1, types[1], PointerGetDatum(&range->last), false);
	set_param(deletion.options.params, 2, types[2], PointerGetDatum(range->missing), !spares);
	scope.writes = tables->events;
	pst_as_owner(&scope, run_deletion, &deletion);

	rows = pst_finish_tally(tally, deltas, range->is_open ? &range->last : NULL);
	if (range->missing != NULL)
		pst_remove_deltas(deltas, range->missing);
	return rows;
}

/* Moves rows of one range; returns how many left prompt_events */
static int64
move_range(Migration *migration, Range *range)
{
	bool		keep = migration->batch.keep;
	PstDeltas	deltas;
	int64		rows = delete_range(migration, range, &deltas);

	migration->run.position = range->last;
	if (rows == 0)
		return 0;
	if (!migration->run.is_running)
		pst_begin_run(&migration->run, &migration->tables, keep);
	pst_save_run(&migration->run, rows, &deltas);
	if (!keep)
		(void) pst_fold_all(&migration->tables, &deltas);
	return rows;
}

/*
 * From the position to the end, and once more from the start where the position
 * was not the start.  A range may hold nothing that can be moved.
 */
static int64
move_next(Migration *migration)
{
	ItemPointer position = &migration->run.position;
	bool		from_start = ItemPointerGetBlockNumberNoCheck(position) == 0 &&
	ItemPointerGetOffsetNumberNoCheck(position) == 0;
	Range		range;

	for (;;)
	{
		while (find_range(migration, &range))
		{
			int64		rows = move_range(migration, &range);

			if (rows > 0)
				return rows;
			if (range.is_open)
				break;
		}
		if (from_start)
			return 0;
		from_start = true;
		ItemPointerSet(position, 0, 0);
	}
}

/* What is refused has left its triggers here, those of foreign keys included, or its rules */
static bool
runs_on_delete(Oid events)
{
	Relation	rel = table_open(events, NoLock);
	TriggerDesc *triggers = rel->trigdesc;
	bool		result = rel->rd_rules != NULL ||
	(triggers != NULL && (triggers->trig_delete_before_row || triggers->trig_delete_after_row ||
						  triggers->trig_delete_before_statement || triggers->trig_delete_after_statement));

	table_close(rel, NoLock);
	return result;
}

/*
 * False where nothing is to be deleted, and an error where something is, though that makes
 * numbers wrong which nobody has accepted.  Must be connected to SPI.
 */
bool
pst_may_delete(Oid function, const PstTables *tables, const PstBatch *batch)
{
	List	   *unaccepted;
	bool		isnull;

	if (!runs_on_delete(tables->events))
		return true;
	unaccepted = pst_find_unaccepted(tables, PST_MIGRATION, batch->accepted);
	if (unaccepted == NIL)
		return true;
	(void) pst_run_on_table(tables->events, psprintf("SELECT EXISTS (SELECT FROM ONLY %s AS e WHERE %s)",
													 tables->events_name, condition_of(batch)), 0, NULL, NULL);
	if (DatumGetBool(pst_get_field(0, 1, &isnull)))
		pst_unaccepted_error(unaccepted, batch->accepted, function,
							 psprintf("%d, mode => '%s', unmovable => '%s', ", batch->limit, batch->keep ? "keep" : "add",
									  batch->delete_unmovable ? "delete" : "keep"));
	return false;
}

/*
 * Returns the number of rows that left prompt_events: 0 when none is left that can be
 * moved.
 */
int64
pst_migrate_batch(Oid function, const PstBatch *batch)
{
	Migration	migration = {.batch = *batch};
	int64		rows = 0;

	pst_check_can_migrate(function);
	pst_lock_both(function, &migration.tables);
	pst_lock_run();
	SPI_connect();
	if (pst_may_delete(function, &migration.tables, batch))
	{
		pst_read_run(&migration.run, batch->keep);
		rows = move_next(&migration);
	}
	SPI_finish();
	return rows;
}

/* prompt_stats_migrate_batch(n integer, mode text, unmovable text, accept text[]) */
Datum
prompt_stats_migrate_batch(PG_FUNCTION_ARGS)
{
	PstBatch	batch;

	pst_need_batch(fcinfo, &batch, 3);
	PG_RETURN_INT64(pst_migrate_batch(fcinfo->flinfo->fn_oid, &batch));
}
