/*
 * migrate.c
 *		Moving legacy view and copy rows out of prompt_events, batch by batch.
 *
 * A batch takes the next rows in physical order, deletes them, and folds their
 * sums, in one transaction: a row is either there or counted, whenever the
 * server dies, whoever calls, however often.  Where the last batch ended is kept
 * in prompt_stats_migration, in the same transaction.  That position only saves
 * time: when nothing is left behind it, the table is looked through once more
 * from its start, so a table that was rewritten or restored meanwhile is moved
 * completely all the same.
 *
 * Rows are deleted, and prompt_stats is written, as the owner of each table, for
 * triggers run (owner.c).  The extension's own tables, and the tables that
 * prompt_stats references, belong to others; their owners are acted as for one
 * statement each.
 *
 * Batches exclude each other by a lock on prompt_stats_migration, taken first.
 * Rows of prompt_stats are locked last, by the fold, just before the commit.
 */
#include "prompt_stats.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "storage/itemptr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(prompt_stats_migrate_batch);
PG_FUNCTION_INFO_V1(prompt_stats_recount_forks);
PG_FUNCTION_INFO_V1(prompt_stats_missing_prompts);
PG_FUNCTION_INFO_V1(prompt_stats_check_arguments);
PG_FUNCTION_INFO_V1(prompt_stats_end_run);
PG_FUNCTION_INFO_V1(prompt_stats_check_top_level);

/* Rows that move; unmovable => 'delete' takes all that the check refuses */
#define IS_MOVABLE "e.event_type IN ('view', 'copy') AND e.prompt_id IS NOT NULL"
#define IS_REFUSED "(e.event_type IS NULL OR e.event_type NOT IN ('fork', 'compare_add'))"

typedef struct Migration
{
	const PstTables *tables;
	Oid			state;			/* table prompt_stats_migration */
	Oid			baseline;		/* table prompt_stats_baseline */
	bool		discard;
	bool		delete_unmovable;
	bool		running;		/* the state is of this run, not of an earlier
								 * one */
	ItemPointerData position;	/* the last row that was looked at */
} Migration;

/* The next rows to look at: those after the position, up to "last" */
typedef struct Range
{
	bool		is_open;		/* no last: to the end of the table */
	ItemPointerData last;
	ArrayType  *missing;		/* their prompts that don't exist; NULL: none */
} Range;

/* ---- reading ---- */

static Datum
get_field(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

static int64
get_number(uint64 row, int column)
{
	bool		isnull;
	Datum		value = get_field(row, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/* The first column of what was found */
static ArrayType *
get_ids(PstIdKind kind)
{
	Datum	   *ids = palloc(Max(SPI_processed, 1) * sizeof(Datum));
	bool		isnull;

	for (uint64 row = 0; row < SPI_processed; row++)
		ids[row] = get_field(row, 1, &isnull);
	return pst_id_array(ids, SPI_processed, kind);
}

/*
 * As the owner of prompt_events, with a planner that walks it in physical order,
 * whatever indexes it has: ranges of ctid are what a batch is made of.
 */
static void
enter_events(PstOwnerScope *scope, const PstTables *tables)
{
	static const char *const off[] = {
		"enable_seqscan", "enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan", "jit"
	};

	pst_enter_owner(scope, tables->events_owner, tables->events_path, tables->events);
	for (size_t i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("max_parallel_workers_per_gather", "0", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* One statement on prompt_events */
static void
run_on_events(const PstTables *tables, const char *sql, int nargs, Oid *types, Datum *values)
{
	PstOwnerScope scope;

	enter_events(&scope, tables);
	(void) pst_run_sql(sql, nargs, types, values);
	pst_leave_owner(&scope);
}

/* ---- prompts that do not exist ---- */

/*
 * Those of the ids that have no row in prompt_stats, and could get none for want
 * of the prompt that it references.  Asked as the server asks for a foreign key:
 * as the owner of the referenced table, whose policies don't apply even if they
 * are forced (ri_triggers.c: ri_PerformCheck).
 */
static ArrayType *
missing_prompts(const PstTables *tables, ArrayType *ids)
{
	Oid			type = get_array_type(pst_id_type(tables->id_kind));
	Datum		value = PointerGetDatum(ids);
	PstOwnerScope scope;
	Oid			user;
	int			sec_context;

	if (!OidIsValid(tables->prompts))
		return construct_empty_array(pst_id_type(tables->id_kind));

	(void) pst_run_as(tables->stats_owner, tables->stats_path,
					  psprintf("SELECT k FROM pg_catalog.unnest($1) AS k WHERE k IS NOT NULL AND NOT EXISTS"
							   " (SELECT FROM ONLY %s AS s WHERE s.prompt_id OPERATOR(pg_catalog.=) k)",
							   tables->stats_name),
					  1, &type, &value);
	value = PointerGetDatum(get_ids(tables->id_kind));

	pst_enter_owner(&scope, pst_owner_of(tables->prompts), PST_SAFE_PATH, InvalidOid);
	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(user, sec_context | SECURITY_NOFORCE_RLS);
	(void) pst_run_sql(psprintf("SELECT k FROM pg_catalog.unnest($1) AS k WHERE NOT EXISTS"
								" (SELECT FROM %s AS p WHERE p.%s OPERATOR(pg_catalog.=) k)",
								pst_qualified_name(tables->prompts),
								quote_identifier(get_attname(tables->prompts, tables->prompts_key, false))),
					   1, &type, &value);
	pst_leave_owner(&scope);
	return get_ids(tables->id_kind);
}

/* Can prompt_events hold ids that prompt_stats would refuse? */
static bool
may_miss_prompts(const PstTables *tables)
{
	return OidIsValid(tables->prompts) && tables->event_prompts != tables->prompts;
}

/* ---- the state of the run ---- */

static void
read_state(Migration *migration)
{
	char	   *sql = psprintf("SELECT position, mode FROM %s WHERE finished_at IS NULL",
							   pst_qualified_name(migration->state));
	bool		isnull;

	ItemPointerSet(&migration->position, 0, 0);
	migration->running = pst_run_on_own(migration->state, sql, 0, NULL, NULL) > 0;
	if (!migration->running)
		return;

	migration->position = *(ItemPointer) DatumGetPointer(get_field(0, 1, &isnull));
	if (migration->discard !=
		(strcmp(TextDatumGetCString(get_field(0, 2, &isnull)), "discard") == 0))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a migration with mode => '%s' is under way",
						migration->discard ? "add" : "discard"),
				 errhint("Finish it first, with CALL prompt_stats_migrate(mode => '%s');",
						 migration->discard ? "add" : "discard")));
}

/*
 * Begins a run.  With mode "discard" the counters of now are remembered: they are
 * taken off again when the first rows of their prompt are moved, so that what is
 * counted meanwhile stays.
 */
static void
begin_run(Migration *migration)
{
	const char *state = pst_qualified_name(migration->state);
	const char *baseline = pst_qualified_name(migration->baseline);
	Oid			types[] = {TEXTOID, REGCLASSOID};
	Datum		values[] = {
		CStringGetTextDatum(migration->discard ? "discard" : "add"),
		ObjectIdGetDatum(migration->tables->events)
	};

	(void) pst_run_on_own(migration->state, psprintf("DELETE FROM %s", state), 0, NULL, NULL);
	(void) pst_run_on_own(migration->state,
						  psprintf("INSERT INTO %s (mode, blocks_total) VALUES ($1,"
								   " pg_relation_size($2) / current_setting('block_size')::integer)",
								   state),
						  lengthof(types), types, values);
	(void) pst_run_on_own(migration->baseline, psprintf("DELETE FROM %s", baseline), 0, NULL, NULL);
	if (migration->discard)
		(void) pst_run_on_own(migration->baseline,
							  psprintf("INSERT INTO %s (prompt_id, views, copies)"
									   " SELECT s.prompt_id::text, COALESCE(s.view_count, 0), COALESCE(s.copy_count, 0)"
									   " FROM ONLY %s AS s"
									   " WHERE COALESCE(s.view_count, 0) <> 0 OR COALESCE(s.copy_count, 0) <> 0",
									   baseline, migration->tables->stats_name),
							  0, NULL, NULL);
	migration->running = true;
}

static void
save_state(Migration *migration, int64 rows, const PstDeltas *deltas)
{
	Oid			types[] = {TIDOID, INT8OID, INT8OID, INT8OID, INT8OID};
	int64		views = 0;
	int64		copies = 0;
	Datum		values[5];

	for (int i = 0; i < deltas->len; i++)
	{
		views += deltas->items[i].n[PST_VIEWS];
		copies += deltas->items[i].n[PST_COPIES];
	}
	values[0] = PointerGetDatum(&migration->position);
	values[1] = Int64GetDatum(rows);
	values[2] = Int64GetDatum(views);
	values[3] = Int64GetDatum(copies);
	values[4] = Int64GetDatum(ItemPointerGetBlockNumberNoCheck(&migration->position));
	(void) pst_run_on_own(migration->state,
						  psprintf("UPDATE %s SET position = $1, rows_moved = rows_moved + $2,"
								   " views_moved = views_moved + $3, copies_moved = copies_moved + $4,"
								   " blocks_done = $5, updated_at = clock_timestamp()",
								   pst_qualified_name(migration->state)),
						  lengthof(types), types, values);
}

/* ---- one batch ---- */

/* The limit-th row after the position; false where there is none */
static bool
find_last(Migration *migration, int32 limit, Range *range)
{
	const PstTables *tables = migration->tables;
	Oid			types[] = {TIDOID, INT4OID};
	Datum		values[] = {PointerGetDatum(&migration->position), Int32GetDatum(limit)};
	bool		isnull;
	Datum		last;

	run_on_events(tables, psprintf("SELECT pg_catalog.max(x.ctid) FROM (SELECT e.ctid FROM ONLY %s AS e"
								   " WHERE e.ctid OPERATOR(pg_catalog.>) $1 AND %s LIMIT $2) AS x",
								   tables->events_name,
								   migration->delete_unmovable ? IS_REFUSED : IS_MOVABLE),
				  lengthof(types), types, values);
	last = get_field(0, 1, &isnull);
	if (!isnull)
		range->last = *(ItemPointer) DatumGetPointer(last);
	return !isnull;
}

static ArrayType *
find_missing(Migration *migration, const Range *range)
{
	const PstTables *tables = migration->tables;
	Oid			types[] = {TIDOID, TIDOID};
	Datum		values[] = {PointerGetDatum(&migration->position), PointerGetDatum(&range->last)};
	ArrayType  *missing;

	run_on_events(tables, psprintf("SELECT DISTINCT e.prompt_id::pg_catalog.%s FROM ONLY %s AS e"
								   " WHERE e.ctid OPERATOR(pg_catalog.>) $1 AND e.ctid OPERATOR(pg_catalog.<=) $2"
								   " AND " IS_MOVABLE,
								   pst_type_name(tables->id_kind), tables->events_name),
				  lengthof(types), types, values);
	missing = missing_prompts(tables, get_ids(tables->id_kind));
	return ARR_NDIM(missing) > 0 ? missing : NULL;
}

/*
 * The next range after the position; false at the end of the table.  Where every
 * prompt exists, the DELETE itself sees how far it comes, and reads the rows once.
 */
static bool
find_range(Migration *migration, int32 limit, Range *range)
{
	range->is_open = !may_miss_prompts(migration->tables);
	range->missing = NULL;
	if (range->is_open)
	{
		ItemPointerSet(&range->last, MaxBlockNumber, MaxOffsetNumber);
		return true;
	}
	if (!find_last(migration, limit, range))
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

/*
 * Deletes rows of the range, up to the limit; returns how many, their sums, and in
 * an open range the last of them.  They are summed up as they are deleted: rows that
 * somebody else deletes meanwhile, or that a trigger keeps, don't count.
 */
static int64
delete_range(Migration *migration, Range *range, int32 limit, PstDeltas *deltas)
{
	const PstTables *tables = migration->tables;
	bool		keeps = range->missing != NULL && !migration->delete_unmovable;
	Oid			types[] = {TIDOID, TIDOID, get_array_type(pst_id_type(tables->id_kind))};
	PstTally   *tally = pst_create_tally(tables);
	SPIExecuteOptions options = {
		.params = makeParamList(lengthof(types)),
		.tcount = limit,
		.dest = pst_tally_receiver(tally)
	};
	PstOwnerScope scope;
	SPIPlanPtr	plan;
	int64		rows;

	set_param(options.params, 0, types[0], PointerGetDatum(&migration->position), false);
	set_param(options.params, 1, types[1], PointerGetDatum(&range->last), false);
	set_param(options.params, 2, types[2], PointerGetDatum(range->missing), !keeps);
	enter_events(&scope, tables);
	plan = SPI_prepare(psprintf("DELETE FROM ONLY %s AS e"
								" WHERE e.ctid OPERATOR(pg_catalog.>) $1 AND e.ctid OPERATOR(pg_catalog.<=) $2"
								" AND %s%s"
								" RETURNING e.prompt_id::pg_catalog.%s, e.event_type::pg_catalog.text, e.ctid",
								tables->events_name,
								migration->delete_unmovable ? IS_REFUSED : IS_MOVABLE,
								keeps ? " AND e.prompt_id OPERATOR(pg_catalog.<>) ALL ($3)" : "",
								pst_type_name(tables->id_kind)),
					   lengthof(types), types);
	if (plan == NULL || SPI_execute_plan_extended(plan, &options) < 0)
		elog(ERROR, "could not delete from %s", tables->events_name);
	pst_leave_owner(&scope);

	rows = pst_finish_tally(tally, deltas, range->is_open ? &range->last : NULL);
	if (range->missing != NULL)
		pst_remove_deltas(deltas, range->missing);
	return rows;
}

/* What the counters of the prompts hold now; those without a row are left out */
static PstDeltas
read_counters(const PstTables *tables, const PstDeltas *deltas)
{
	Oid			type = get_array_type(pst_id_type(deltas->kind));
	Datum		ids = PointerGetDatum(pst_ids_of(deltas));
	PstDeltas	rows;
	bool		isnull;

	(void) pst_run_as(tables->stats_owner, tables->stats_path,
					  psprintf("SELECT s.prompt_id::pg_catalog.%s, s.view_count::pg_catalog.int8,"
							   " s.copy_count::pg_catalog.int8 FROM ONLY %s AS s"
							   " WHERE s.prompt_id OPERATOR(pg_catalog.=) ANY ($1)",
							   pst_type_name(deltas->kind), tables->stats_name),
					  1, &type, &ids);
	pst_init_deltas(&rows, tables, SPI_processed);
	for (uint64 row = 0; row < SPI_processed; row++)
		pst_add_delta(&rows, get_field(row, 1, &isnull), PST_VIEWS, get_number(row, 2))->n[PST_COPIES] =
			get_number(row, 3);
	pst_sort_deltas(&rows);
	return rows;
}

/* Forgets what the counters of these prompts held at first, which is found then */
static uint64
take_baseline(Migration *migration, const PstDeltas *deltas)
{
	Datum	   *ids = palloc(Max(deltas->len, 1) * sizeof(Datum));
	Oid			type = TEXTARRAYOID;
	Datum		texts;

	for (int i = 0; i < deltas->len; i++)
		ids[i] = CStringGetTextDatum(pst_print_id(deltas->items[i].id, deltas->kind));
	texts = PointerGetDatum(pst_id_array(ids, deltas->len, PST_TEXT));
	return pst_run_on_own(migration->baseline,
						  psprintf("DELETE FROM %s AS b WHERE b.prompt_id = ANY ($1)"
								   " RETURNING b.prompt_id, b.views, b.copies",
								   pst_qualified_name(migration->baseline)),
						  1, &type, &texts);
}

/*
 * With mode => 'discard': what the counters held at first is taken off, once.  A
 * counter that holds less by now has been reset, or its row was deleted, and what
 * it held at first is gone already.
 */
static void
subtract_baseline(Migration *migration, PstDeltas *deltas)
{
	const PstTables *tables = migration->tables;
	PstDeltas	rows = read_counters(tables, deltas);
	uint64		found = take_baseline(migration, deltas);
	bool		isnull;

	for (uint64 row = 0; row < found; row++)
	{
		Datum		id = get_field(row, 1, &isnull);
		int64		views = get_number(row, 2);
		int64		copies = get_number(row, 3);
		PstDelta   *held;

		if (deltas->kind != PST_TEXT)
			id = pst_stats_id(tables, id, PST_TEXT);
		held = pst_find_delta(&rows, id);
		if (held != NULL && held->n[PST_VIEWS] >= views)
			(void) pst_add_delta(deltas, id, PST_VIEWS, -views);
		if (held != NULL && held->n[PST_COPIES] >= copies)
			(void) pst_add_delta(deltas, id, PST_COPIES, -copies);
	}
	pst_merge_deltas(deltas);
}

/* Moves rows of one range; returns how many left prompt_events */
static int64
move_range(Migration *migration, Range *range, int32 limit)
{
	PstDeltas	deltas;
	int64		rows = delete_range(migration, range, limit, &deltas);

	migration->position = range->last;
	if (rows == 0)
		return 0;
	if (!migration->running)
		begin_run(migration);
	save_state(migration, rows, &deltas);
	if (migration->discard)
		subtract_baseline(migration, &deltas);
	(void) pst_fold(migration->tables, &deltas);
	return rows;
}

/*
 * From the position to the end, and once more from the start where the position
 * was not the start.  A range may hold nothing that can be moved.
 */
static int64
move_next(Migration *migration, int32 limit)
{
	bool		from_start = ItemPointerGetBlockNumberNoCheck(&migration->position) == 0 &&
	ItemPointerGetOffsetNumberNoCheck(&migration->position) == 0;
	Range		range;

	for (;;)
	{
		while (find_range(migration, limit, &range))
		{
			int64		rows = move_range(migration, &range, limit);

			if (rows > 0)
				return rows;
			if (range.is_open)
				break;
		}
		if (from_start)
			return 0;
		from_start = true;
		ItemPointerSet(&migration->position, 0, 0);
	}
}

/* ---- guards and entry points ---- */

static void
check_can_migrate(Oid function)
{
	pst_check_may_write(function);
	if (XactIsoLevel != XACT_READ_COMMITTED)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s() must run at isolation level READ COMMITTED", get_func_name(function)),
				 errdetail("A batch must see the rows that exist now."),
				 errhint("Begin the transaction with BEGIN ISOLATION LEVEL READ COMMITTED;")));
}

/* prompt_stats_check_top_level(): COMMIT must be possible */
Datum
prompt_stats_check_top_level(PG_FUNCTION_ARGS)
{
	if (IsTransactionBlock())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("prompt_stats_migrate() cannot run inside a transaction block"),
				 errdetail("It commits after each batch."),
				 errhint("Call it outside; or call prompt_stats_migrate_batch() until it returns 0, then prompt_stats_recount_forks() and prompt_stats_migrate_finish().")));
	PG_RETURN_VOID();
}

static bool
choose(FunctionCallInfo fcinfo, int argno, const char *name, const char *first,
	   const char *second)
{
	const char *value = PG_ARGISNULL(argno) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(argno));

	if (strcmp(value, first) == 0)
		return false;
	if (strcmp(value, second) == 0)
		return true;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for argument %s: \"%s\"", name, value),
			 errhint("Valid values are '%s' and '%s'.", first, second)));
}

static int32
need_batch_size(FunctionCallInfo fcinfo, int argno)
{
	if (PG_ARGISNULL(argno) || PG_GETARG_INT32(argno) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a batch must have at least one row"),
				 errhint("Pass a number of rows, such as 500000.")));
	return PG_GETARG_INT32(argno);
}

static const PstTables *
lock_both(Oid function)
{
	const PstTables *tables;

	(void) pst_lock_stats(function);
	tables = pst_lock_events(function);
	pst_check_owner(tables);
	return tables;
}

/* prompt_stats_check_arguments(n integer, mode text, unmovable text) */
Datum
prompt_stats_check_arguments(PG_FUNCTION_ARGS)
{
	(void) need_batch_size(fcinfo, 0);
	(void) choose(fcinfo, 1, "mode", "add", "discard");
	(void) choose(fcinfo, 2, "unmovable", "keep", "delete");
	PG_RETURN_VOID();
}

/*
 * prompt_stats_migrate_batch(n integer, mode text, unmovable text) returns the
 * number of rows that left prompt_events: 0 when none is left that can be moved.
 */
Datum
prompt_stats_migrate_batch(PG_FUNCTION_ARGS)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	int32		limit = need_batch_size(fcinfo, 0);
	Migration	migration = {0};
	int64		rows;

	migration.discard = choose(fcinfo, 1, "mode", "add", "discard");
	migration.delete_unmovable = choose(fcinfo, 2, "unmovable", "keep", "delete");
	check_can_migrate(function);
	migration.tables = lock_both(function);
	migration.state = pst_own_table(migration.tables, "prompt_stats_migration");
	migration.baseline = pst_own_table(migration.tables, "prompt_stats_baseline");
	LockRelationOid(migration.state, ShareUpdateExclusiveLock);

	SPI_connect();
	read_state(&migration);
	rows = move_next(&migration, limit);
	SPI_finish();
	PG_RETURN_INT64(rows);
}

/* Sets the state of a run to finished; what is left of its baseline is void */
Datum
prompt_stats_end_run(PG_FUNCTION_ARGS)
{
	const PstTables *tables = lock_both(fcinfo->flinfo->fn_oid);
	Oid			state = pst_own_table(tables, "prompt_stats_migration");
	Oid			baseline = pst_own_table(tables, "prompt_stats_baseline");

	SPI_connect();
	(void) pst_run_on_own(state, psprintf("UPDATE %s SET finished_at = clock_timestamp()"
										  " WHERE finished_at IS NULL",
										  pst_qualified_name(state)), 0, NULL, NULL);
	(void) pst_run_on_own(baseline, psprintf("DELETE FROM %s", pst_qualified_name(baseline)),
						  0, NULL, NULL);
	SPI_finish();
	PG_RETURN_VOID();
}

/* How far fork_count is from the number of fork events, per prompt */
static void
read_fork_differences(const PstTables *tables, bool lower, PstDeltas *deltas)
{
	const char *type = pst_id_name(tables->id_kind);
	bool		isnull;

	(void) pst_run_as(GetUserId(), PST_SAFE_PATH,
					  psprintf("SELECT x.prompt_id, x.n FROM"
							   " (SELECT COALESCE(e.prompt_id, s.prompt_id::%s) AS prompt_id,"
							   " COALESCE(e.n, 0) - COALESCE(s.fork_count, 0) AS n"
							   " FROM (SELECT prompt_id::%s, count(*) AS n FROM ONLY %s"
							   " WHERE event_type = 'fork' AND prompt_id IS NOT NULL GROUP BY 1) AS e"
							   " FULL JOIN ONLY %s AS s ON s.prompt_id::%s = e.prompt_id) AS x"
							   " WHERE x.n %s 0",
							   type, type, tables->events_name, tables->stats_name, type,
							   lower ? "<>" : ">"),
					  0, NULL, NULL);
	pst_init_deltas(deltas, tables, SPI_processed);
	for (uint64 row = 0; row < SPI_processed; row++)
		(void) pst_add_delta(deltas, get_field(row, 1, &isnull), PST_FORKS, get_number(row, 2));
	pst_merge_deltas(deltas);
}

/*
 * prompt_stats_recount_forks(lower boolean, n integer) corrects fork_count of at
 * most n prompts, and returns of how many it did.  The differences are of one snapshot
 * and are added: forks that are tracked meanwhile are in the events and in the
 * counter, and change nothing.
 */
Datum
prompt_stats_recount_forks(PG_FUNCTION_ARGS)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	bool		lower = !PG_ARGISNULL(0) && PG_GETARG_BOOL(0);
	int32		limit = PG_ARGISNULL(1) ? PG_INT32_MAX : need_batch_size(fcinfo, 1);
	const PstTables *tables;
	PstDeltas	deltas;
	int64		written;

	check_can_migrate(function);
	tables = lock_both(function);
	LockRelationOid(pst_own_table(tables, "prompt_stats_migration"), ShareUpdateExclusiveLock);

	SPI_connect();
	read_fork_differences(tables, lower, &deltas);
	pst_remove_deltas(&deltas, missing_prompts(tables, get_ids(deltas.kind)));
	deltas.len = Min(deltas.len, limit);
	written = pst_fold(tables, &deltas);
	SPI_finish();
	PG_RETURN_INT64(written);
}

/*
 * prompt_stats_missing_prompts(kinds text[]) returns, as text, the prompts of events
 * of these kinds that can't be counted because they don't exist.
 */
Datum
prompt_stats_missing_prompts(PG_FUNCTION_ARGS)
{
	const PstTables *tables = lock_both(fcinfo->flinfo->fn_oid);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum	   *ids;
	bool	   *nulls;
	int			len;
	Oid			type = TEXTARRAYOID;
	Datum		event_kinds = PG_GETARG_DATUM(0);

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (!may_miss_prompts(tables))
		return (Datum) 0;

	SPI_connect();
	(void) pst_run_as(GetUserId(), PST_SAFE_PATH,
					  psprintf("SELECT DISTINCT e.prompt_id::%s FROM ONLY %s AS e"
							   " WHERE e.event_type = ANY ($1) AND e.prompt_id IS NOT NULL",
							   pst_id_name(tables->id_kind), tables->events_name),
					  1, &type, &event_kinds);
	pst_deconstruct_ids(missing_prompts(tables, get_ids(tables->id_kind)),
						tables->id_kind, &ids, &nulls, &len);
	for (int i = 0; i < len; i++)
	{
		Datum		id = CStringGetTextDatum(pst_print_id(ids[i], tables->id_kind));

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &id, &nulls[i]);
	}
	SPI_finish();
	return (Datum) 0;
}
