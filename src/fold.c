/*
 * fold.c
 *		The only way into table prompt_stats.
 *
 * pst_fold() adds a set of deltas to the counters, as the owner of the table,
 * inside the transaction it is called in.  A delta of one prompt is one UPDATE.
 * A larger set first locks its rows in the order of their ids, so that two folds
 * never wait for each other in a circle, and then updates all of them with one
 * statement.  Rows that are missing are inserted last; meeting a row that
 * another transaction has just inserted, the insertion adds to it.
 *
 * Every statement leaves a row alone whose counter would not fit its column.
 * Whatever a statement left out is looked at again, and is an error then: a
 * delta is added whole, or the transaction fails.
 *
 * An UPDATE sets only the counters that its deltas touch, for the sake of HOT and
 * of UPDATE OF triggers.
 */
#include "prompt_stats.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "utils/lsyscache.h"

/* A set of counters, a bit each */
typedef uint32 CounterMask;

#define NMASKS (1 << PST_NCOUNTERS)

static const char *const column_names[PST_NCOUNTERS] = {
	"view_count", "copy_count", "fork_count"
};

/* Where statements find a delta: as parameters, as a row d, as EXCLUDED */
static const char *const of_params[PST_NCOUNTERS] = {"$2", "$3", "$4"};
static const char *const of_row[PST_NCOUNTERS] = {"d.views", "d.copies", "d.forks"};
static const char *const of_excluded[PST_NCOUNTERS] = {
	"EXCLUDED.view_count", "EXCLUDED.copy_count", "EXCLUDED.fork_count"
};

#define DELTA_ROWS \
	"ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)," \
	" pg_catalog.unnest($4)) AS d(id, views, copies, forks)"

/* Saved plans; a statement for each set of counters but those that read */
static PstPlan update_one_plans[NMASKS];
static PstPlan update_many_plans[NMASKS];
static PstPlan upsert_plans[NMASKS];
static PstPlan lock_plan;
static PstPlan skip_locked_plan;
static PstPlan exists_plan;

/* ---- statements ---- */

static void
append_assignments(StringInfo sql, const PstTables *tables, CounterMask mask,
				   const char *const *delta)
{
	const char *separator = "";

	for (int c = 0; c < PST_NCOUNTERS; c++)
	{
		if (!(mask & (1 << c)))
			continue;
		appendStringInfo(sql, "%s%s = COALESCE(s.%s, 0) OPERATOR(pg_catalog.+) %s",
						 separator, column_names[c], column_names[c], delta[c]);
		separator = ", ";
	}
	if (tables->sets_updated_at)
		appendStringInfoString(sql, ", updated_at = pg_catalog.now()");
}

/* True for rows whose counters have room for the delta */
static void
append_room(StringInfo sql, const PstTables *tables, CounterMask mask,
			const char *const *delta)
{
	const char *separator = "";

	for (int c = 0; c < PST_NCOUNTERS; c++)
	{
		if (!(mask & (1 << c)))
			continue;
		appendStringInfo(sql, "%sCOALESCE(s.%s, 0) OPERATOR(pg_catalog.<=) "
						 "(" INT64_FORMAT " OPERATOR(pg_catalog.-) GREATEST(%s, 0))",
						 separator, column_names[c], tables->counter_max[c], delta[c]);
		separator = " AND ";
	}
}

static void
build_update_one(StringInfo sql, const PstTables *tables, CounterMask mask)
{
	appendStringInfo(sql, "UPDATE ONLY %s AS s SET ", tables->stats_name);
	append_assignments(sql, tables, mask, of_params);
	appendStringInfoString(sql, " WHERE s.prompt_id OPERATOR(pg_catalog.=) $1 AND ");
	append_room(sql, tables, mask, of_params);
}

static void
build_update_many(StringInfo sql, const PstTables *tables, CounterMask mask)
{
	appendStringInfo(sql, "UPDATE ONLY %s AS s SET ", tables->stats_name);
	append_assignments(sql, tables, mask, of_row);
	appendStringInfoString(sql, " FROM " DELTA_ROWS
						   " WHERE s.prompt_id OPERATOR(pg_catalog.=) d.id AND ");
	append_room(sql, tables, mask, of_row);
}

/* Columns that are not named take their default */
static void
build_upsert(StringInfo sql, const PstTables *tables, CounterMask mask)
{
	appendStringInfo(sql, "INSERT INTO %s AS s (prompt_id", tables->stats_name);
	for (int c = 0; c < PST_NCOUNTERS; c++)
		if (mask & (1 << c))
			appendStringInfo(sql, ", %s", column_names[c]);
	if (tables->sets_updated_at)
		appendStringInfoString(sql, ", updated_at");

	appendStringInfoString(sql, ") SELECT d.id");
	for (int c = 0; c < PST_NCOUNTERS; c++)
		if (mask & (1 << c))
			appendStringInfo(sql, ", %s", of_row[c]);
	if (tables->sets_updated_at)
		appendStringInfoString(sql, ", pg_catalog.now()");

	appendStringInfoString(sql, " FROM " DELTA_ROWS " ON CONFLICT (prompt_id) DO UPDATE SET ");
	append_assignments(sql, tables, mask, of_excluded);
	appendStringInfoString(sql, " WHERE ");
	append_room(sql, tables, mask, of_excluded);
}

#define SELECT_ROWS \
	"SELECT s.prompt_id, s.view_count::pg_catalog.int8, s.copy_count::pg_catalog.int8," \
	" s.fork_count::pg_catalog.int8 FROM ONLY %s AS s WHERE s.prompt_id OPERATOR(pg_catalog.=) ANY ($1)"

#define LOCK_ROWS SELECT_ROWS " ORDER BY s.prompt_id FOR NO KEY UPDATE"

/* ---- saved plans ---- */

static PstPlan *
get_one_plan(const PstTables *tables, CounterMask mask)
{
	PstPlan    *plan = &update_one_plans[mask];

	if (plan->prepared == NULL)
	{
		StringInfoData sql;
		Oid			types[] = {pst_id_type(tables->id_kind), INT8OID, INT8OID, INT8OID};

		initStringInfo(&sql);
		build_update_one(&sql, tables, mask);
		pst_save_plan(plan, sql.data, lengthof(types), types);
	}
	return plan;
}

/* A statement over arrays of deltas */
static PstPlan *
get_many_plan(PstPlan *plan, const PstTables *tables, CounterMask mask,
			  void (*build) (StringInfo, const PstTables *, CounterMask))
{
	if (plan->prepared == NULL)
	{
		StringInfoData sql;
		Oid			types[] = {get_array_type(pst_id_type(tables->id_kind)),
		INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID};

		initStringInfo(&sql);
		build(&sql, tables, mask);
		pst_save_plan(plan, sql.data, lengthof(types), types);
	}
	return plan;
}

/* A SELECT over an array of ids; %s in its text is the table */
static PstPlan *
get_select_plan(PstPlan *plan, const PstTables *tables, const char *select)
{
	if (plan->prepared == NULL)
	{
		StringInfoData sql;
		Oid			types[] = {get_array_type(pst_id_type(tables->id_kind))};

		initStringInfo(&sql);
		appendStringInfo(&sql, select, tables->stats_name);
		pst_save_plan(plan, sql.data, lengthof(types), types);
	}
	return plan;
}

/* ---- running them ---- */

static CounterMask
touched_counters(const PstDeltas *deltas)
{
	CounterMask mask = 0;

	for (int i = 0; i < deltas->len; i++)
		for (int c = 0; c < PST_NCOUNTERS; c++)
			if (deltas->items[i].n[c] != 0)
				mask |= 1 << c;
	return mask;
}

static Datum
ids_of(const PstDeltas *deltas)
{
	Datum	   *ids = palloc(deltas->len * sizeof(Datum));

	for (int i = 0; i < deltas->len; i++)
		ids[i] = deltas->items[i].id;
	return PointerGetDatum(pst_id_array(ids, deltas->len, deltas->kind));
}

/* As the four arrays that DELTA_ROWS unnests */
static void
make_delta_arrays(const PstDeltas *deltas, Datum *arrays)
{
	Datum	   *numbers = palloc(deltas->len * sizeof(Datum));

	arrays[0] = ids_of(deltas);
	for (int c = 0; c < PST_NCOUNTERS; c++)
	{
		for (int i = 0; i < deltas->len; i++)
			numbers[i] = Int64GetDatum(deltas->items[i].n[c]);
		arrays[1 + c] = PointerGetDatum(construct_array(numbers, deltas->len, INT8OID,
														sizeof(int64), FLOAT8PASSBYVAL,
														TYPALIGN_DOUBLE));
	}
}

static void
overflow_error(const PstTables *tables, PstCounter counter, Datum id, int64 value,
			   int64 n)
{
	bool		is_int = tables->counter_max[counter] == PG_INT32_MAX;

	ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("counter \"%s\" of table %s is out of range for prompt %s",
					column_names[counter], tables->stats_name,
					pst_print_id(id, tables->id_kind)),
			 errdetail("It is " INT64_FORMAT ", " INT64_FORMAT
					   " would be added, and its type %s holds at most " INT64_FORMAT ".",
					   value, n, is_int ? "integer" : "bigint",
					   tables->counter_max[counter]),
			 is_int ?
			 errhint("Widen it with ALTER TABLE %s ALTER COLUMN %s TYPE bigint;",
					 tables->stats_name, column_names[counter]) :
			 errhint("Correct the counter, or count fewer at once.")));
}

/* Before anything is changed: a missing row's counters start from 0 */
static void
check_deltas_fit(const PstTables *tables, const PstDeltas *deltas)
{
	for (int i = 0; i < deltas->len; i++)
		for (int c = 0; c < PST_NCOUNTERS; c++)
			if (deltas->items[i].n[c] > tables->counter_max[c])
				overflow_error(tables, c, deltas->items[i].id, 0,
							   deltas->items[i].n[c]);
}

/*
 * After a statement that touched fewer rows than it has deltas: find the counter
 * that has no room.  Where there is none, a trigger of the table suppressed the
 * row, which is its right.
 */
static void
check_counters_fit(const PstTables *tables, const PstDeltas *deltas)
{
	Oid			type = get_array_type(pst_id_type(tables->id_kind));
	Datum		ids = ids_of(deltas);
	char	   *sql = psprintf("SELECT s.prompt_id, s.view_count::bigint, s.copy_count::bigint,"
							   " s.fork_count::bigint FROM ONLY %s AS s"
							   " WHERE s.prompt_id OPERATOR(pg_catalog.=) ANY ($1)",
							   tables->stats_name);

	if (SPI_execute_with_args(sql, 1, &type, &ids, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read %s", tables->stats_name);

	for (uint64 row = 0; row < SPI_processed; row++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[row];
		bool		isnull;
		Datum		id = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull);
		PstDelta   *delta = pst_find_delta(deltas, id);

		for (int c = 0; delta != NULL && c < PST_NCOUNTERS; c++)
		{
			Datum		value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2 + c, &isnull);

			if (!isnull && delta->n[c] > 0 &&
				DatumGetInt64(value) > tables->counter_max[c] - delta->n[c])
				overflow_error(tables, c, id, DatumGetInt64(value), delta->n[c]);
		}
	}
}

/*
 * Runs a statement over all deltas, and sees to those that it left out.  Returns
 * the number of rows that it wrote, as the next ones do.
 */
static uint64
run_over_deltas(PstPlan *plans, const PstTables *tables, const PstDeltas *deltas,
				void (*build) (StringInfo, const PstTables *, CounterMask))
{
	Datum		arrays[1 + PST_NCOUNTERS];
	CounterMask mask = touched_counters(deltas);
	PstPlan    *plan;
	uint64		written;

	if (deltas->len == 0)
		return 0;
	plan = get_many_plan(&plans[mask], tables, mask, build);
	make_delta_arrays(deltas, arrays);
	written = pst_run_plan(plan, arrays, NULL, false);
	if (written < (uint64) deltas->len)
		check_counters_fit(tables, deltas);
	return written;
}

static uint64
fold_one(const PstTables *tables, const PstDeltas *deltas)
{
	const PstDelta *delta = deltas->items;
	PstPlan    *plan = get_one_plan(tables, touched_counters(deltas));
	Datum		values[1 + PST_NCOUNTERS] = {delta->id};

	for (int c = 0; c < PST_NCOUNTERS; c++)
		values[1 + c] = Int64GetDatum(delta->n[c]);
	if (pst_run_plan(plan, values, NULL, false) > 0)
		return 1;
	return run_over_deltas(upsert_plans, tables, deltas, build_upsert);
}

/* Locks the rows that exist; sets their deltas apart from those without a row */
static void
lock_rows(const PstTables *tables, const PstDeltas *deltas,
		  PstDeltas *existing, PstDeltas *missing)
{
	Datum		ids = ids_of(deltas);
	bool	   *found = palloc0(deltas->len * sizeof(bool));

	(void) pst_run_plan(get_select_plan(&lock_plan, tables, LOCK_ROWS), &ids, NULL, false);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool		isnull;
		Datum		id = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
									   1, &isnull);
		PstDelta   *delta = pst_find_delta(deltas, id);

		if (delta != NULL)
			found[delta - deltas->items] = true;
	}
	SPI_freetuptable(SPI_tuptable);

	pst_init_deltas(existing, tables, deltas->len);
	pst_init_deltas(missing, tables, deltas->len);
	for (int i = 0; i < deltas->len; i++)
	{
		PstDeltas  *half = found[i] ? existing : missing;

		half->items[half->len++] = deltas->items[i];
	}
}

static uint64
fold_many(const PstTables *tables, const PstDeltas *deltas)
{
	PstDeltas	existing;
	PstDeltas	missing;

	lock_rows(tables, deltas, &existing, &missing);
	return run_over_deltas(update_many_plans, tables, &existing, build_update_many) +
		run_over_deltas(upsert_plans, tables, &missing, build_upsert);
}

/* ---- many transactions' deltas at once ---- */

/* What was found of a prompt in the table */
typedef struct RowState
{
	bool		exists;
	bool		locked;			/* by us: we may update it */
	int64		room[PST_NCOUNTERS];	/* left until the counter overflows */
} RowState;

/* The prompts of all units, and what was found of each */
typedef struct Rows
{
	PstDeltas	prompts;		/* merged; the numbers are not used */
	RowState   *states;
} Rows;

static RowState *
state_of(const Rows *rows, Datum id)
{
	PstDelta   *prompt = pst_find_delta(&rows->prompts, id);

	return prompt == NULL ? NULL : &rows->states[prompt - rows->prompts.items];
}

/* Without their numbers, whose sums could overflow */
static void
collect_prompts(const PstTables *tables, const PstDeltas *units,
				const PstVerdict *verdicts, int nunits, Rows *rows)
{
	pst_init_deltas(&rows->prompts, tables, nunits);
	for (int u = 0; u < nunits; u++)
		for (int i = 0; verdicts[u] == PST_VERDICT_FOLDED && i < units[u].len; i++)
			(void) pst_add_delta(&rows->prompts, units[u].items[i].id, PST_VIEWS, 0);
	pst_sort_deltas(&rows->prompts);
	rows->states = palloc0(Max(rows->prompts.len, 1) * sizeof(RowState));
}

static void
sum_units(const PstTables *tables, const PstDeltas *units,
		  const PstVerdict *verdicts, int nunits, PstDeltas *sum)
{
	pst_init_deltas(sum, tables, nunits);
	for (int u = 0; u < nunits; u++)
		for (int i = 0; verdicts[u] == PST_VERDICT_FOLDED && i < units[u].len; i++)
			memcpy(pst_add_delta(sum, units[u].items[i].id, PST_VIEWS, 0)->n,
				   units[u].items[i].n, sizeof(units[u].items[i].n));
	pst_merge_deltas(sum);
}

static void
read_room(const PstTables *tables, uint64 row, RowState *state)
{
	for (int c = 0; c < PST_NCOUNTERS; c++)
	{
		bool		isnull;
		Datum		value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
										  2 + c, &isnull);
		int64		held = isnull ? 0 : DatumGetInt64(value);

		state->room[c] = tables->counter_max[c] - Max(held, 0);
	}
}

/* Runs a SELECT of SELECT_ROWS' shape, and notes each row that it finds */
static void
look_at_rows(PstPlan *plan, const PstTables *tables, Rows *rows, bool locks)
{
	Datum		ids = ids_of(&rows->prompts);

	(void) pst_run_plan(plan, &ids, NULL, false);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool		isnull;
		Datum		id = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
									   1, &isnull);
		RowState   *state = state_of(rows, id);

		if (state == NULL)
			continue;
		state->exists = true;
		state->locked |= locks;
		read_room(tables, row, state);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Takes the room that a unit needs; false, with none taken, where there is not enough */
static bool
take_room(const PstDeltas *unit, const Rows *rows)
{
	for (int i = 0; i < unit->len; i++)
		for (int c = 0; c < PST_NCOUNTERS; c++)
			if (unit->items[i].n[c] > state_of(rows, unit->items[i].id)->room[c])
				return false;
	for (int i = 0; i < unit->len; i++)
		for (int c = 0; c < PST_NCOUNTERS; c++)
			state_of(rows, unit->items[i].id)->room[c] -= Max(unit->items[i].n[c], 0);
	return true;
}

static PstVerdict
judge_unit(const PstDeltas *unit, const Rows *rows)
{
	bool		later = false;

	for (int i = 0; i < unit->len; i++)
	{
		RowState   *state = state_of(rows, unit->items[i].id);

		if (!state->exists)
			return PST_VERDICT_RETURNED;
		later |= !state->locked;
	}
	if (later)
		return PST_VERDICT_LATER;
	return take_room(unit, rows) ? PST_VERDICT_FOLDED : PST_VERDICT_RETURNED;
}

/* Locks the rows that it can */
static void
judge_units(const PstTables *tables, const PstDeltas *units, PstVerdict *verdicts, int nunits)
{
	Rows		rows;
	bool		all_locked = true;

	collect_prompts(tables, units, verdicts, nunits, &rows);
	look_at_rows(get_select_plan(&skip_locked_plan, tables, LOCK_ROWS " SKIP LOCKED"),
				 tables, &rows, true);
	for (int i = 0; i < rows.prompts.len; i++)
		all_locked &= rows.states[i].locked;
	if (!all_locked)
		look_at_rows(get_select_plan(&exists_plan, tables, SELECT_ROWS), tables, &rows, false);
	for (int u = 0; u < nunits; u++)
		if (verdicts[u] == PST_VERDICT_FOLDED)
			verdicts[u] = judge_unit(&units[u], &rows);
}

/* ---- the fold ---- */

static void
begin_fold(const PstTables *tables, ErrorContextCallback *context)
{
	context->previous = error_context_stack;
	context->callback = pst_write_context;
	context->arg = unconstify(PstTables *, tables)->stats_name;
	error_context_stack = context;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

static void
end_fold(ErrorContextCallback *context)
{
	SPI_finish();
	error_context_stack = context->previous;
}

static uint64
fold_as_owner(const PstTables *tables, PstDeltas *deltas)
{
	PstOwnerScope scope;
	ErrorContextCallback context;
	uint64		written;

	pst_enter_owner(&scope, tables->stats_owner,
					tables->runs_code ? tables->stats_path : NULL, tables->stats);
	begin_fold(tables, &context);
	check_deltas_fit(tables, deltas);
	written = deltas->len == 1 ? fold_one(tables, deltas) : fold_many(tables, deltas);
	end_fold(&context);
	pst_leave_owner(&scope);
	return written;
}

/*
 * Adds the deltas to the counters; merges them in place first.  The caller has
 * locked the table with pst_lock_stats() and has an active snapshot.  Returns the
 * number of rows written: fewer than deltas where a trigger suppressed some.
 */
uint64
pst_fold(const PstTables *tables, PstDeltas *deltas)
{
	pst_merge_deltas(deltas);
	return deltas->len > 0 ? fold_as_owner(tables, deltas) : 0;
}

/*
 * The same for the flusher, which acts as the owner already: of the units whose
 * verdict is FOLDED it folds those that it can, each whole or not at all, and says
 * what became of each.  Rows that somebody else has locked are left for later;
 * only rows that exist are updated.
 */
void
pst_fold_units(const PstTables *tables, const PstDeltas *units, PstVerdict *verdicts, int nunits)
{
	ErrorContextCallback context;
	PstDeltas	sum;

	begin_fold(tables, &context);
	judge_units(tables, units, verdicts, nunits);
	sum_units(tables, units, verdicts, nunits, &sum);
	(void) run_over_deltas(update_many_plans, tables, &sum, build_update_many);
	end_fold(&context);
}
