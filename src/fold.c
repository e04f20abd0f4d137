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
#include "access/relation.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

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

/* Runs a statement over all deltas, and sees to those that it left out */
static void
run_over_deltas(PstPlan *plans, const PstTables *tables, const PstDeltas *deltas,
				void (*build) (StringInfo, const PstTables *, CounterMask))
{
	Datum		arrays[1 + PST_NCOUNTERS];
	CounterMask mask = touched_counters(deltas);
	PstPlan    *plan;

	if (deltas->len == 0)
		return;
	plan = get_many_plan(&plans[mask], tables, mask, build);
	make_delta_arrays(deltas, arrays);
	if (pst_run_plan(plan, arrays, NULL, false) < (uint64) deltas->len)
		check_counters_fit(tables, deltas);
}

static void
fold_one(const PstTables *tables, const PstDeltas *deltas)
{
	const PstDelta *delta = deltas->items;
	PstPlan    *plan = get_one_plan(tables, touched_counters(deltas));
	Datum		values[1 + PST_NCOUNTERS] = {delta->id};

	for (int c = 0; c < PST_NCOUNTERS; c++)
		values[1 + c] = Int64GetDatum(delta->n[c]);
	if (pst_run_plan(plan, values, NULL, false) == 0)
		run_over_deltas(upsert_plans, tables, deltas, build_upsert);
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

static void
fold_many(const PstTables *tables, const PstDeltas *deltas)
{
	PstDeltas	existing;
	PstDeltas	missing;

	lock_rows(tables, deltas, &existing, &missing);
	run_over_deltas(update_many_plans, tables, &existing, build_update_many);
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

static PstDeltas
sum_units(const PstTables *tables, const PstDeltas *units, const PstVerdict *verdicts, int nunits)
{
	PstDeltas	sum;

	pst_init_deltas(&sum, tables, nunits);
	for (int u = 0; u < nunits; u++)
		for (int i = 0; verdicts[u] == PST_VERDICT_FOLDED && i < units[u].len; i++)
			memcpy(pst_add_delta(&sum, units[u].items[i].id, PST_VIEWS, 0)->n,
				   units[u].items[i].n, sizeof(units[u].items[i].n));
	pst_sort_deltas(&sum);
	return sum;
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

/* Runs a SELECT of LOCK_ROWS' shape; tells of each row that it finds */
static void
look_at_rows(PstPlan *plan, const PstTables *tables, const PstDeltas *deltas,
			 RowState *states, bool locks)
{
	Datum		ids = ids_of(deltas);

	(void) pst_run_plan(plan, &ids, NULL, false);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool		isnull;
		Datum		id = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
									   1, &isnull);
		PstDelta   *delta = pst_find_delta(deltas, id);

		if (delta == NULL)
			continue;
		states[delta - deltas->items].exists = true;
		states[delta - deltas->items].locked |= locks;
		read_room(tables, row, &states[delta - deltas->items]);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Takes the room that a unit needs; false, with none taken, where there is not enough */
static bool
take_room(const PstDeltas *unit, const PstDeltas *all, RowState *states)
{
	for (int i = 0; i < unit->len; i++)
		for (int c = 0; c < PST_NCOUNTERS; c++)
			if (unit->items[i].n[c] > states[pst_find_delta(all, unit->items[i].id) - all->items].room[c])
				return false;
	for (int i = 0; i < unit->len; i++)
		for (int c = 0; c < PST_NCOUNTERS; c++)
			states[pst_find_delta(all, unit->items[i].id) - all->items].room[c] -=
				Max(unit->items[i].n[c], 0);
	return true;
}

static PstVerdict
judge_unit(const PstDeltas *unit, const PstDeltas *all, RowState *states)
{
	bool		later = false;

	for (int i = 0; i < unit->len; i++)
	{
		RowState   *state = &states[pst_find_delta(all, unit->items[i].id) - all->items];

		if (!state->exists)
			return PST_VERDICT_RETURNED;
		later |= !state->locked;
	}
	if (later)
		return PST_VERDICT_LATER;
	return take_room(unit, all, states) ? PST_VERDICT_FOLDED : PST_VERDICT_RETURNED;
}

static void
judge_units(const PstTables *tables, const PstDeltas *units, PstVerdict *verdicts, int nunits)
{
	PstDeltas	all;
	RowState   *states;
	bool		all_locked = true;

	for (int u = 0; u < nunits; u++)
		verdicts[u] = PST_VERDICT_FOLDED;
	all = sum_units(tables, units, verdicts, nunits);
	states = palloc0(all.len * sizeof(RowState));

	look_at_rows(get_select_plan(&skip_locked_plan, tables, LOCK_ROWS " SKIP LOCKED"),
				 tables, &all, states, true);
	for (int i = 0; i < all.len; i++)
		all_locked &= states[i].locked;
	if (!all_locked)
		look_at_rows(get_select_plan(&exists_plan, tables, SELECT_ROWS),
					 tables, &all, states, false);
	for (int u = 0; u < nunits; u++)
		verdicts[u] = judge_unit(&units[u], &all, states);
}

/* ---- deferred triggers ---- */

/* SET CONSTRAINTS, for the deferrable triggers that users wrote */
static void
set_constraints(const PstTables *tables, bool deferred)
{
	Relation	rel = relation_open(tables->stats, NoLock);
	TriggerDesc *triggers = rel->trigdesc;
	const char *schema = get_namespace_name(RelationGetNamespace(rel));
	StringInfoData sql;
	const char *separator = "";

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SET CONSTRAINTS ");
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (trigger->tgisinternal || !trigger->tgdeferrable ||
			(deferred && !trigger->tginitdeferred))
			continue;
		appendStringInfo(&sql, "%s%s", separator,
						 quote_qualified_identifier(schema, get_constraint_name(trigger->tgconstraint)));
		separator = ", ";
	}
	relation_close(rel, NoLock);

	appendStringInfoString(&sql, deferred ? " DEFERRED" : " IMMEDIATE");
	if (*separator != '\0' && SPI_execute(sql.data, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", sql.data);
}

/*
 * A deferred trigger would run at COMMIT as whoever commits, who may be a
 * superuser (before 18, trigger.c).  Run it now, as the owner.
 */
static void
fire_deferred_triggers(const PstTables *tables)
{
	set_constraints(tables, false);
	set_constraints(tables, true);
}

/* ---- the fold ---- */

static void
add_context(void *arg)
{
	const PstTables *tables = arg;

	if (geterrcode() == ERRCODE_FOREIGN_KEY_VIOLATION)
		errhint("Count prompts that exist; insert the prompt first.");
	errcontext("counting into table %s", tables->stats_name);
}

static void
begin_fold(const PstTables *tables, ErrorContextCallback *context)
{
	context->previous = error_context_stack;
	context->callback = add_context;
	context->arg = unconstify(PstTables *, tables);
	error_context_stack = context;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

static void
end_fold(const PstTables *tables, ErrorContextCallback *context)
{
	if (tables->has_deferrable)
		fire_deferred_triggers(tables);
	SPI_finish();
	error_context_stack = context->previous;
}

/*
 * Adds the deltas to the counters, as the owner of the table; merges them in place
 * first.  The caller has locked the table with pst_lock_stats() and has an active
 * snapshot.
 */
void
pst_fold(const PstTables *tables, PstDeltas *deltas)
{
	PstOwnerScope scope;
	ErrorContextCallback context;

	pst_merge_deltas(deltas);
	if (deltas->len == 0)
		return;

	pst_enter_owner(&scope, tables->stats_owner,
					tables->runs_code ? tables->stats_path : NULL);
	begin_fold(tables, &context);
	check_deltas_fit(tables, deltas);
	if (deltas->len == 1)
		fold_one(tables, deltas);
	else
		fold_many(tables, deltas);
	end_fold(tables, &context);
	pst_leave_owner(&scope);
}

/*
 * The same for the flusher, which acts as the owner already: folds the units that
 * it can, each whole or not at all, and says what became of each.  Rows that
 * somebody else has locked are left for later; only rows that exist are updated.
 */
void
pst_fold_units(const PstTables *tables, const PstDeltas *units, PstVerdict *verdicts, int nunits)
{
	ErrorContextCallback context;
	PstDeltas	sum;

	begin_fold(tables, &context);
	judge_units(tables, units, verdicts, nunits);
	sum = sum_units(tables, units, verdicts, nunits);
	pst_merge_deltas(&sum);
	run_over_deltas(update_many_plans, tables, &sum, build_update_many);
	end_fold(tables, &context);
}
