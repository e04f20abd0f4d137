/*
 * plans.c
 *		Statements that name the application's tables: saved plans, error context.
 *
 * The server revises a saved plan when its tables change (plancache.c), but from
 * its text: a table that was renamed or replaced needs another text.  So all are
 * forgotten when tables.c finds the tables changed.
 */
#include "prompt_stats.h"

static PstPlan *saved_plans = NULL;

/* A trigger may count while a plan of ours runs: don't free that plan then */
static int	running = 0;

/* The error context while we write: an ErrorContextCallback */
void
pst_write_context(void *table_name)
{
	if (geterrcode() == ERRCODE_FOREIGN_KEY_VIOLATION)
		errhint("Count prompts that exist; insert the prompt first.");
	errcontext("writing table %s", (const char *) table_name);
}

/* Must be connected to SPI */
void
pst_save_plan(PstPlan *plan, const char *sql, int nargs, Oid *argtypes)
{
	SPIPlanPtr	prepared = SPI_prepare(sql, nargs, argtypes);

	if (prepared == NULL || SPI_keepplan(prepared) != 0)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	plan->prepared = prepared;
	plan->next = saved_plans;
	saved_plans = plan;
}

/* Returns the number of rows; what a SELECT found is in SPI_tuptable */
uint64
pst_run_plan(PstPlan *plan, Datum *values, const char *nulls, bool read_only)
{
	int			result = 0;

	running++;
	PG_TRY();
	{
		result = SPI_execute_plan(plan->prepared, values, nulls, read_only, 0);
	}
	PG_FINALLY();
	{
		running--;
	}
	PG_END_TRY();

	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
	return SPI_processed;
}

/* Rare, so the plans that must stay because they run are not worth a list */
void
pst_forget_plans(void)
{
	while (saved_plans != NULL)
	{
		PstPlan    *plan = saved_plans;

		saved_plans = plan->next;
		if (running == 0)
			SPI_freeplan(plan->prepared);
		plan->prepared = NULL;
		plan->next = NULL;
	}
}
