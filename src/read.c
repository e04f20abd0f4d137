/*
 * read.c
 *		Reading counts: the rows of view prompt_stats_live, and get_prompt_stats().
 *
 * Both read the table with the rights and under the policies of the caller, and
 * with the snapshot of the statement.  They are C functions rather than views so
 * that no dependency ties the table to the extension.
 */
#include "prompt_stats.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(prompt_stats_live_rows);
PG_FUNCTION_INFO_V1(get_prompt_stats);

#define LIVE_COLUMNS 6			/* prompt_id, 3 counters, pending, as_of */
#define COUNT_COLUMNS (LIVE_COLUMNS - 1)	/* the same without prompt_id */
#define FETCH_ROWS 1000

/*
 * Counts are folded within the transaction that made them, so nothing is ever
 * pending: the table is the truth, as of the statement's snapshot.
 */
#define LIVE_COUNTS \
	" COALESCE(s.view_count, 0)::pg_catalog.int8," \
	" COALESCE(s.copy_count, 0)::pg_catalog.int8," \
	" COALESCE(s.fork_count, 0)::pg_catalog.int8," \
	" 0::pg_catalog.int8, pg_catalog.statement_timestamp()" \
	" FROM %s AS s"

static PstPlan get_one_row_plan;

static void
copy_row(uint64 row, int columns, Datum *values, bool *nulls)
{
	for (int i = 0; i < columns; i++)
		values[i] = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
								  1 + i, &nulls[i]);
}

/*
 * prompt_stats_live_rows(): a row for each row of prompt_stats that the caller
 * may see.  Through a cursor, as the table may be large.
 */
Datum
prompt_stats_live_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const PstTables *tables = pst_need_stats(pst_schema_of(fcinfo));
	char	   *sql = psprintf("SELECT s.prompt_id::pg_catalog.text," LIVE_COUNTS,
							   tables->stats_name);
	Portal		portal;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	portal = SPI_cursor_open_with_args(NULL, sql, 0, NULL, NULL, NULL, true, 0);
	do
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		for (uint64 row = 0; row < SPI_processed; row++)
		{
			Datum		values[LIVE_COLUMNS];
			bool		nulls[LIVE_COLUMNS];

			copy_row(row, LIVE_COLUMNS, values, nulls);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
		SPI_freetuptable(SPI_tuptable);
	} while (SPI_processed > 0);
	SPI_cursor_close(portal);
	SPI_finish();
	return (Datum) 0;
}

static PstPlan *
get_row_plan(const PstTables *tables)
{
	if (get_one_row_plan.prepared == NULL)
	{
		char	   *sql = psprintf("SELECT" LIVE_COUNTS " WHERE s.prompt_id OPERATOR(pg_catalog.=) $1",
								   tables->stats_name);
		Oid			type = pst_id_type(tables->id_kind);

		pst_save_plan(&get_one_row_plan, sql, 1, &type);
	}
	return &get_one_row_plan;
}

/* A prompt without a row, or whose row the caller may not see, counts 0 */
static void
make_zero_row(Datum *values, bool *nulls)
{
	for (int i = 0; i < COUNT_COLUMNS - 1; i++)
		values[i] = Int64GetDatum(0);
	values[COUNT_COLUMNS - 1] = TimestampTzGetDatum(GetCurrentStatementStartTimestamp());
	memset(nulls, false, COUNT_COLUMNS * sizeof(bool));
}

/* get_prompt_stats(id): always one row */
Datum
get_prompt_stats(PG_FUNCTION_ARGS)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	const PstTables *tables = pst_need_stats(pst_schema_of(fcinfo));
	bool		is_array;
	Datum		values[COUNT_COLUMNS];
	bool		nulls[COUNT_COLUMNS];
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
	id = pst_convert_id(PG_GETARG_DATUM(0), pst_argument_kind(function, 0, &is_array),
						tables->id_kind, tables->stats_name);

	SPI_connect();
	if (pst_run_plan(get_row_plan(tables), &id, NULL, true) > 0)
		copy_row(0, COUNT_COLUMNS, values, nulls);
	else
		make_zero_row(values, nulls);
	result = PointerGetDatum(SPI_returntuple(heap_form_tuple(desc, values, nulls),
											 BlessTupleDesc(desc)));
	SPI_finish();
	PG_RETURN_DATUM(result);
}
