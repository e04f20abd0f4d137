/*
 * read.c
 *		Reading counts: the rows of view prompt_stats_live, and get_prompt_stats().
 *
 * Both read the table with the rights and under the policies of the caller, and
 * with the snapshot of the statement; they add what is pending, but for that snapshot
 * not in the table yet (pending.c).  They are C functions rather than views so that
 * no dependency ties the table to the extension.
 */
#include "prompt_stats.h"

#include "shared.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(prompt_stats_live_rows);
PG_FUNCTION_INFO_V1(get_prompt_stats);

#define LIVE_COLUMNS 6			/* prompt_id, 3 counters, pending, as_of */
#define COUNT_COLUMNS (LIVE_COLUMNS - 1)	/* the same without prompt_id */
#define FETCH_ROWS 1000

/* What the table holds; what is pending is added to it */
#define LIVE_COUNTS_OF \
	" COALESCE(s.view_count, 0)::pg_catalog.int8," \
	" COALESCE(s.copy_count, 0)::pg_catalog.int8," \
	" COALESCE(s.fork_count, 0)::pg_catalog.int8," \
	" 0::pg_catalog.int8, pg_catalog.statement_timestamp()"

/* Columns of LIVE_COUNTS */
#define PENDING_COLUMN	PST_NCOUNTERS
#define AS_OF_COLUMN	(PST_NCOUNTERS + 1)

static PstPlan get_one_row_plan;

/* ---- what is pending ---- */

/*
 * NULL where nothing is to be added, also for the snapshot of a whole transaction,
 * which is to see the same as long as it lasts.
 */
static PstDatabase *
find_database(void)
{
	return IsolationUsesXactSnapshot() ? NULL : pst_find_database();
}

/*
 * A prompt that has no row yet has pending counts all the same; but under policies a
 * row that is not seen may be one that must not be seen.
 */
static bool
may_see_all(const PstTables *tables)
{
	return check_enable_rls(tables->stats, InvalidOid, true) != RLS_ENABLED;
}

/*
 * The statement's snapshot is so old that what was flushed since is not known any more:
 * what was pending can't be told for that time, but for now.
 */
static void
renew_snapshot(void)
{
	CHECK_FOR_INTERRUPTS();
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());	/* allowed in parallel
													 * mode, too */
}

static void
add_pending(const int64 *n, Datum *counts)
{
	for (int c = 0; c < PST_NCOUNTERS; c++)
		counts[c] = Int64GetDatum(DatumGetInt64(counts[c]) + n[c]);
	counts[PENDING_COLUMN] = Int64GetDatum(pst_total(n));
}

static void
copy_row(uint64 row, int columns, Datum *values, bool *nulls)
{
	for (int i = 0; i < columns; i++)
		values[i] = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
								  1 + i, &nulls[i]);
}

/* A prompt without a row, or whose row the caller may not see, counts 0 */
static void
make_zero_row(Datum *values, bool *nulls)
{
	for (int i = 0; i < COUNT_COLUMNS - 1; i++)
		values[i] = Int64GetDatum(0);
	values[AS_OF_COLUMN] = TimestampTzGetDatum(GetCurrentStatementStartTimestamp());
	memset(nulls, false, COUNT_COLUMNS * sizeof(bool));
}

/* ---- prompt_stats_live ---- */

/* The pending counts that a row of the table takes are set to 0 */
static void
put_row(uint64 row, const PstTables *tables, PstDeltas *pending, ReturnSetInfo *rsinfo)
{
	Datum		values[LIVE_COLUMNS + 1];
	bool		nulls[LIVE_COLUMNS + 1];
	PstDelta   *delta;

	copy_row(row, LIVE_COLUMNS + 1, values, nulls);
	delta = pending->len > 0 && !nulls[LIVE_COLUMNS] ? pst_find_delta(pending, values[LIVE_COLUMNS]) : NULL;
	if (delta != NULL)
	{
		add_pending(delta->n, &values[1]);
		memset(delta->n, 0, sizeof(delta->n));
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_rowless(const PstDeltas *pending, ReturnSetInfo *rsinfo)
{
	for (int i = 0; i < pending->len; i++)
	{
		const PstDelta *delta = &pending->items[i];
		Datum		values[LIVE_COLUMNS];
		bool		nulls[LIVE_COLUMNS] = {0};

		if (pst_is_zero(delta->n))
			continue;
		make_zero_row(&values[1], &nulls[1]);
		values[0] = CStringGetTextDatum(pst_print_id(delta->id, pending->kind));
		add_pending(delta->n, &values[1]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/* Through a cursor, as the table may be large */
static void
put_rows(const PstTables *tables, PstDeltas *pending, ReturnSetInfo *rsinfo)
{
	char	   *sql = psprintf("SELECT s.prompt_id::pg_catalog.text," LIVE_COUNTS_OF ", s.prompt_id::pg_catalog.%s FROM %s AS s",
							   pst_type_name(tables->id_kind), tables->stats_name);
	Portal		portal = pst_open_as_caller(sql);

	do
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		for (uint64 row = 0; row < SPI_processed; row++)
			put_row(row, tables, pending, rsinfo);
		SPI_freetuptable(SPI_tuptable);
	} while (SPI_processed > 0);
	SPI_cursor_close(portal);
}

/*
 * prompt_stats_live_rows(): a row for each row of prompt_stats that the caller
 * may see.
 */
Datum
prompt_stats_live_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const PstTables *tables = pst_share_stats(fcinfo->flinfo->fn_oid);
	PstDatabase *db = find_database();
	PstDeltas	pending;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	PushActiveSnapshot(GetActiveSnapshot());
	pst_init_deltas(&pending, tables, 1);
	while (db != NULL && !pst_read_pending(db, tables, GetActiveSnapshot(), &pending))
		renew_snapshot();
	put_rows(tables, &pending, rsinfo);
	if (may_see_all(tables))
		put_rowless(&pending, rsinfo);
	PopActiveSnapshot();
	SPI_finish();
	return (Datum) 0;
}

/* ---- get_prompt_stats() ---- */

static PstPlan *
get_row_plan(const PstTables *tables)
{
	if (get_one_row_plan.prepared == NULL)
	{
		char	   *sql = psprintf("SELECT" LIVE_COUNTS_OF " FROM %s AS s WHERE s.prompt_id OPERATOR(pg_catalog.=) $1",
								   tables->stats_name);
		Oid			type = pst_id_type(tables->id_kind);

		pst_save_plan(&get_one_row_plan, sql, 1, &type);
	}
	return &get_one_row_plan;
}

/* get_prompt_stats(id): always one row */
Datum
get_prompt_stats(PG_FUNCTION_ARGS)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	const PstTables *tables = pst_share_stats(function);
	bool		is_array;
	Datum		values[COUNT_COLUMNS];
	bool		nulls[COUNT_COLUMNS];
	PstDatabase *db = find_database();
	int64		pending[PST_NCOUNTERS] = {0};
	TupleDesc	desc;
	Datum		result;
	Datum		id;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the id of %s() must not be null", get_func_name(function)),
				 errhint("Pass the id of a prompt.")));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	id = pst_stats_id_to_read(tables, PG_GETARG_DATUM(0), pst_argument_kind(function, 0, &is_array));

	SPI_connect();
	PushActiveSnapshot(GetActiveSnapshot());
	while (db != NULL && !pst_read_one_pending(db, tables, id, GetActiveSnapshot(), pending))
		renew_snapshot();
	if (pst_run_as_caller(get_row_plan(tables), &id, NULL, true) > 0)
		copy_row(0, COUNT_COLUMNS, values, nulls);
	else
	{
		make_zero_row(values, nulls);
		if (!may_see_all(tables))
			memset(pending, 0, sizeof(pending));
	}
	PopActiveSnapshot();
	add_pending(pending, values);
	result = PointerGetDatum(SPI_returntuple(heap_form_tuple(desc, values, nulls),
											 BlessTupleDesc(desc)));
	SPI_finish();
	PG_RETURN_DATUM(result);
}
