/*
 * migrate_run.c
 *		prompt_stats_migrate(): the batches, one after the other, and what comes before and after.
 *
 * It commits after each step, so that nothing that it locks stays locked, and so that it can
 * be interrupted at any moment, and called again.
 */
#include "migrate.h"

#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(prompt_stats_migrate);
PG_FUNCTION_INFO_V1(prompt_stats_migrate_finish);

/* At a step that somebody disturbs */
#define ATTEMPTS		10

/* Prompts whose forks are recounted in one transaction; each reads all events again */
#define RECOUNT_LIMIT	200000

/* ---- guards ---- */

void
pst_check_can_migrate(Oid function)
{
	pst_check_may_write(function);
	if (XactIsoLevel != XACT_READ_COMMITTED)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s() must run at isolation level READ COMMITTED", get_func_name(function)),
				 errdetail("A batch must see the rows that exist now."),
				 errhint("Begin the transaction with BEGIN ISOLATION LEVEL READ COMMITTED;")));
}

/* COMMIT must be possible */
static void
check_top_level(FunctionCallInfo fcinfo)
{
	CallContext *context = (CallContext *) fcinfo->context;

	if (context == NULL || !IsA(context, CallContext) || context->atomic || IsTransactionBlock())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("prompt_stats_migrate() cannot run inside a transaction block"),
				 errdetail("It commits after each batch."),
				 errhint("Call it outside; or call prompt_stats_migrate_batch() until it returns 0, then prompt_stats_recount_forks() and prompt_stats_migrate_finish().")));
}

/* ---- arguments ---- */

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

int32
pst_need_batch_size(FunctionCallInfo fcinfo, int argno)
{
	if (PG_ARGISNULL(argno) || PG_GETARG_INT32(argno) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a batch must have at least one row"),
				 errhint("Pass a number of rows, such as 500000.")));
	return PG_GETARG_INT32(argno);
}

/* The first three arguments: n integer, mode text, unmovable text; and accept text[] */
void
pst_need_batch(FunctionCallInfo fcinfo, PstBatch *batch, int accept_argno)
{
	batch->limit = pst_need_batch_size(fcinfo, 0);
	batch->keep = choose(fcinfo, 1, "mode", "add", "keep");
	batch->delete_unmovable = choose(fcinfo, 2, "unmovable", "keep", "delete");
	batch->accepted = pst_need_accepted(fcinfo, accept_argno, PST_MIGRATION);
}

/* ---- what is there already ---- */

/* What the counters hold, as text: a sum may be larger than any of them */
static void
read_sums(const PstTables *tables, char **views, char **copies)
{
	bool		isnull;

	(void) pst_run_on_table(tables->stats,
							psprintf("SELECT COALESCE(pg_catalog.sum(s.view_count::pg_catalog.int8), 0)::pg_catalog.text,"
									 " COALESCE(pg_catalog.sum(s.copy_count::pg_catalog.int8), 0)::pg_catalog.text"
									 " FROM ONLY %s AS s", tables->stats_name), 0, NULL, NULL);
	*views = TextDatumGetCString(pst_get_field(0, 1, &isnull));
	*copies = TextDatumGetCString(pst_get_field(0, 2, &isnull));
}

/* Rows are added to what the counters hold: is that right? */
static void
tell_what_is_held(const PstTables *tables, const char *views, const char *copies)
{
	if (strcmp(views, "0") != 0 || strcmp(copies, "0") != 0)
		ereport(NOTICE,
				(errmsg("the counters hold %s views and %s copies already; what is moved is added to them",
						views, copies),
				 errhint("If they hold the same rows already, use mode => 'keep' instead, which deletes these and adds nothing.")));
}

/* ---- the steps ---- */

typedef struct Step
{
	Oid			function;
	const PstBatch *batch;
	bool		more;			/* is there more to do? */
} Step;

/* Tells what is there already, if what is moved is added to it; and replaces the check */
static void
begin(void *arg)
{
	Step	   *step = arg;
	PstTables	tables;
	char	   *views = "0";
	char	   *copies = "0";

	pst_share_both(step->function, &tables);
	(void) pst_may_delete(step->function, &tables, step->batch);
	if (!step->batch->keep && !pst_is_running())
		read_sums(&tables, &views, &copies);
	if (!pst_guard_events(&tables))
		tell_what_is_held(&tables, views, copies);
	step->more = false;
}

static void
move_rows(void *arg)
{
	Step	   *step = arg;

	step->more = pst_migrate_batch(step->function, step->batch) > 0;
}

static void
recount_forks(void *arg)
{
	Step	   *step = arg;

	step->more = pst_recount_forks(step->function, false, RECOUNT_LIMIT) >= RECOUNT_LIMIT;
}

/*
 * By the deletion of a prompt, which takes its rows of both tables along; or by somebody who
 * begins at the same time.
 */
static bool
is_disturbed(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		error->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION;
}

/* Nothing is lost by an attempt that fails, and the next finds the prompt gone */
static void
run_step(Step *step, void (*work) (void *arg))
{
	ErrorData  *error;

	for (int attempt = 1; (error = pst_attempt(work, step)) != NULL; attempt++)
	{
		if (attempt == ATTEMPTS || !is_disturbed(error))
			ReThrowError(error);
		FreeErrorData(error);
	}
}

static void
run_steps(Step *step, void (*work) (void *arg))
{
	do
	{
		run_step(step, work);
		pst_commit();
	} while (step->more);
}

/* ---- the last step ---- */

static void
still_to_move_error(const PstTables *tables)
{
	const char *schema = quote_identifier(get_namespace_name(tables->schema));
	const char *trigger = pst_vetoing_trigger(tables->events, TRIGGER_TYPE_DELETE);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table %s still has view and copy rows to move", tables->events_name),
			 trigger == NULL ?
			 errhint("Call SELECT %s.prompt_stats_migrate_batch(); until it returns 0.", schema) :
			 errhint("Switch off the trigger that keeps them, with ALTER TABLE %s DISABLE TRIGGER %s; then call SELECT %s.prompt_stats_migrate_batch(); until it returns 0.",
					 tables->events_name, quote_identifier(trigger), schema)));
}

/* All that is there is as it should be, and yet there is no valid check */
static void
no_valid_check_error(const PstTables *tables)
{
	PstCheck   *check = pst_find_check(tables);

	if (check == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no check keeps table %s to fork and compare_add", tables->events_name),
				 errhint("Make one with SELECT %s.prompt_stats_setup();",
						 quote_identifier(get_namespace_name(tables->schema)))));
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("check %s of table %s is violated by rows that its owner cannot see",
					quote_identifier(check->name), tables->events_name),
			 errhint("Show them to the owner, with ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;",
					 tables->events_name)));
}

static void
warn_of_unmovable(const PstTables *tables, const PstReport *report)
{
	StringInfoData reasons;
	int64		rows;

	initStringInfo(&reasons);
	rows = pst_list_unmovable(report, &reasons);
	if (rows == 0)
		no_valid_check_error(tables);
	ereport(WARNING,
			(errmsg(INT64_FORMAT " rows of table %s could not be moved", rows, tables->events_name),
			 errdetail("They are %s.", reasons.data),
			 errhint("Mend them, or delete them with DELETE FROM %s WHERE event_type IS NULL OR event_type NOT IN ('fork', 'compare_add'); then CALL %s.prompt_stats_migrate(); again.",
					 tables->events_name, quote_identifier(get_namespace_name(tables->schema)))));
}

/* Must be connected to SPI */
static bool
finish(Oid function)
{
	PstTables	tables;
	PstReport	report;
	bool		valid;

	pst_share_both(function, &tables);
	valid = pst_validate_checks(&tables);
	if (!valid)
	{
		pst_make_report(&tables, &report);
		if (report.amounts[PST_ITEM_VIEWS] > 0 || report.amounts[PST_ITEM_COPIES] > 0)
			still_to_move_error(&tables);
		warn_of_unmovable(&tables, &report);
	}
	pst_end_run(&tables, valid);
	return valid;
}

/* ---- entry points ---- */

static void
tell_dry(Oid function, const PstBatch *batch)
{
	PstTables	tables;
	PstReport	report;

	pst_share_both(function, &tables);
	pst_make_report(&tables, &report);
	pst_tell_report(&report, batch->keep);
	pst_tell_findings(&tables, PST_MIGRATION);
}

static void
migrate(Oid function, const PstBatch *batch)
{
	Step		step = {function, batch, true};

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	run_steps(&step, begin);
	run_steps(&step, move_rows);
	run_steps(&step, recount_forks);
	(void) finish(function);
	SPI_finish();
}

/* prompt_stats_migrate(batch_size integer, mode text, unmovable text, dry_run boolean, accept text[]) */
Datum
prompt_stats_migrate(PG_FUNCTION_ARGS)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	bool		dry_run = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);
	PstBatch	batch;

	pst_need_batch(fcinfo, &batch, 4);
	if (dry_run)
		tell_dry(function, &batch);
	else
	{
		check_top_level(fcinfo);
		pst_check_can_migrate(function);
		migrate(function, &batch);
	}
	PG_RETURN_VOID();
}

/* prompt_stats_migrate_finish(): false where rows that can't move forbid a valid check */
Datum
prompt_stats_migrate_finish(PG_FUNCTION_ARGS)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	bool		valid;

	pst_check_may_write(function);
	SPI_connect();
	valid = finish(function);
	SPI_finish();
	PG_RETURN_BOOL(valid);
}
