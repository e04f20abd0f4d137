/*
 * events.c
 *		Logging the two events that mean something by themselves.
 *
 * The row is inserted with the rights and under the policies of the caller:
 * else anybody could forge anybody's event.  Only the count of a fork is made
 * as the owner of the table (fold.c).  Event and count are of one transaction.
 */
#include "prompt_stats.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(track_prompt_fork);
PG_FUNCTION_INFO_V1(track_compare_add);

static PstPlan insert_plan;

static PstPlan *
get_insert_plan(const PstTables *tables)
{
	if (insert_plan.prepared == NULL)
	{
		bool		fill = tables->fills_created_at;
		char	   *sql = psprintf("INSERT INTO %s (prompt_id, user_id, event_type%s)"
								   " VALUES ($1, $2, $3%s)",
								   tables->events_name,
								   fill ? ", created_at" : "",
								   fill ? ", pg_catalog.now()" : "");
		Oid			types[] = {pst_id_type(tables->event_id_kind),
		pst_id_type(tables->user_kind), TEXTOID};

		pst_save_plan(&insert_plan, sql, lengthof(types), types);
	}
	return &insert_plan;
}

static void
event_context(void *arg)
{
	PstTables  *tables = arg;

	pst_hint_at_event_error(tables->events);
	pst_write_context(tables->events_name);
}

/* False where a trigger suppressed the row; nothing else may */
static bool
insert_event(const PstTables *tables, Datum *values, const char *nulls)
{
	bool		inserted;

	ErrorContextCallback context = {error_context_stack, event_context,
	unconstify(PstTables *, tables)};

	error_context_stack = &context;
	SPI_connect();
	inserted = pst_run_as_caller(get_insert_plan(tables), values, nulls, false) > 0;
	SPI_finish();
	error_context_stack = context.previous;
	if (!inserted)
		pst_check_event_vetoed(tables);
	return inserted;
}

/* A NULL user is for the table to take or refuse; a NULL prompt is an error */
static bool
log_event(FunctionCallInfo fcinfo, const char *event_type)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	const PstTables *tables;
	Datum		values[3];
	char		nulls[] = {' ', PG_ARGISNULL(1) ? 'n' : ' ', ' ', '\0'};
	bool		is_array;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the prompt id of %s() must not be null", get_func_name(function)),
				 errhint("Leave out the call where there is nothing to log.")));

	pst_check_may_write(function);
	tables = pst_lock_events(function);
	values[0] = pst_event_id(tables, PG_GETARG_DATUM(0), pst_argument_kind(function, 0, &is_array));
	values[1] = (Datum) 0;
	if (!PG_ARGISNULL(1))
		values[1] = pst_user_id(tables, PG_GETARG_DATUM(1), pst_argument_kind(function, 1, &is_array));
	values[2] = CStringGetTextDatum(event_type);
	return insert_event(tables, values, nulls);
}

/* track_prompt_fork(id, user_id): logs and counts, both or neither */
Datum
track_prompt_fork(PG_FUNCTION_ARGS)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	bool		is_array;

	if (log_event(fcinfo, "fork"))
		pst_count_one(function, PG_GETARG_DATUM(0),
					  pst_argument_kind(function, 0, &is_array), PST_FORKS, 1);
	PG_RETURN_VOID();
}

/* track_compare_add(id, user_id): logs */
Datum
track_compare_add(PG_FUNCTION_ARGS)
{
	(void) log_event(fcinfo, "compare_add");
	PG_RETURN_VOID();
}
