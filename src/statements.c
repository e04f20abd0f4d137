/*
 * statements.c
 *		The statements of fold.c on table prompt_stats.
 *
 * They are run inside a fold: as the owner of the table, connected to SPI.  Their plans are
 * saved (plans.c).
 *
 * A statement over many prompts takes them as arrays, and each prompt's row is looked up by
 * itself, in a subquery that the planner can't join in any other way (OFFSET 0): in the order
 * of the array, and in the index of the key, however large the table has become since the
 * plan was made, or whatever its statistics say.  An UPDATE can't have its target in
 * a subquery, so that finds where the row is.
 *
 * An UPDATE sets only the counters that its deltas touch, for the sake of HOT and
 * of UPDATE OF triggers.
 */
#include "prompt_stats.h"

#include "catalog/pg_type.h"
#include "utils/lsyscache.h"

/* A set of counters, a bit each */
typedef uint32 CounterMask;

#define NMASKS (1 << PST_NCOUNTERS)

/* Where statements find a delta: as parameters, or as a row d */
static const char *const of_params[PST_NCOUNTERS] = {"$2", "$3", "$4"};
static const char *const of_row[PST_NCOUNTERS] = {"d.views", "d.copies", "d.forks"};
#define DELTA_ROWS \
	"ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)," \
	" pg_catalog.unnest($4)) AS d(id, views, copies, forks)"
#define ID_ROWS "pg_catalog.unnest($1) AS d(id)"

/* Which keys may be in the way of an insertion; the last are all of them */
typedef enum Arbiter
{
	BY_PROMPT,
	BY_ANY_KEY
} Arbiter;

/* Saved plans; what updates, for each set of counters */
static PstPlan update_one_plans[NMASKS];
static PstPlan update_many_plans[NMASKS];
static PstPlan upsert_plans[NMASKS];
static PstPlan insert_plans[BY_ANY_KEY + 1];
static PstPlan find_plan;
static PstPlan lock_plan;
static PstPlan skip_locked_plan;
static PstPlan look_plan;

/* ---- their text ---- */

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
						 separator, pst_counter_name(c), pst_counter_name(c), delta[c]);
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
						 separator, pst_counter_name(c), tables->counter_max[c], delta[c]);
		separator = " AND ";
	}
}

/* The row s of each d, with these columns of it; "locking" may be empty */
static void
append_rows(StringInfo sql, const PstTables *tables, const char *columns, const char *locking)
{
	appendStringInfo(sql, " CROSS JOIN LATERAL (SELECT %s FROM ONLY %s AS s"
					 " WHERE s.prompt_id OPERATOR(pg_catalog.=) d.id %s OFFSET 0) AS r",
					 columns, tables->stats_name, locking);
}

static void
build_update_one(StringInfo sql, const PstTables *tables, CounterMask mask)
{
	appendStringInfo(sql, "UPDATE ONLY %s AS s SET ", tables->stats_name);
	append_assignments(sql, tables, mask, of_params);
	appendStringInfoString(sql, " WHERE s.prompt_id OPERATOR(pg_catalog.=) $1 AND ");
	append_room(sql, tables, mask, of_params);
}

/* Tells whose row it has written */
static void
build_update_many(StringInfo sql, const PstTables *tables, CounterMask mask)
{
	appendStringInfo(sql, "UPDATE ONLY %s AS s SET ", tables->stats_name);
	append_assignments(sql, tables, mask, of_row);
	appendStringInfoString(sql, " FROM " DELTA_ROWS);
	append_rows(sql, tables, "s.ctid AS place", "");
	appendStringInfoString(sql, " WHERE s.ctid OPERATOR(pg_catalog.=) r.place AND ");
	append_room(sql, tables, mask, of_row);
	appendStringInfoString(sql, " RETURNING d.id");
}

/* Columns that are not named take their default; a correction starts from 0 */
static void
build_insert(StringInfo sql, const PstTables *tables, Arbiter arbiter)
{
	bool		set = tables->sets_updated_at;

	appendStringInfo(sql, "INSERT INTO %s AS s (prompt_id, view_count, copy_count, fork_count%s)"
					 " SELECT d.id, GREATEST(d.views, 0), GREATEST(d.copies, 0), GREATEST(d.forks, 0)%s"
					 " FROM " DELTA_ROWS " ON CONFLICT %s DO NOTHING"
					 " RETURNING s.prompt_id::pg_catalog.%s",
					 tables->stats_name,
					 set ? ", updated_at" : "",
					 set ? ", pg_catalog.now()" : "",
					 arbiter == BY_PROMPT ? "(prompt_id)" : "",
					 pst_type_name(tables->id_kind));
}

/*
 * For one row, where a trigger may store it under another id, or as it likes: what is added to
 * a row that is there is the delta, not what the trigger made of it.
 */
static void
build_upsert(StringInfo sql, const PstTables *tables, CounterMask mask)
{
	bool		set = tables->sets_updated_at;

	appendStringInfo(sql, "INSERT INTO %s AS s (prompt_id, view_count, copy_count, fork_count%s)"
					 " VALUES ($1, GREATEST($2, 0), GREATEST($3, 0), GREATEST($4, 0)%s)"
					 " ON CONFLICT (prompt_id) DO UPDATE SET ",
					 tables->stats_name,
					 set ? ", updated_at" : "",
					 set ? ", pg_catalog.now()" : "");
	append_assignments(sql, tables, mask, of_params);
}

/* Finds ids */
static void
build_find(StringInfo sql, const PstTables *tables, const char *locking)
{
	appendStringInfoString(sql, "SELECT r.id FROM " ID_ROWS);
	append_rows(sql, tables, psprintf("s.prompt_id::pg_catalog.%s AS id", pst_type_name(tables->id_kind)), locking);
}

/* The counters, too: is there room? */
static void
build_look(StringInfo sql, const PstTables *tables, const char *locking)
{
	appendStringInfoString(sql, "SELECT r.id, r.views, r.copies, r.forks FROM " ID_ROWS);
	append_rows(sql, tables, psprintf("s.prompt_id::pg_catalog.%s AS id, s.view_count::pg_catalog.int8 AS views,"
									  " s.copy_count::pg_catalog.int8 AS copies, s.fork_count::pg_catalog.int8 AS forks",
									  pst_type_name(tables->id_kind)), locking);
}

/* ---- saved plans ---- */

/* A statement over the arrays that make_delta_arrays() makes, or the first of them */
static void
save_array_plan(PstPlan *plan, const PstTables *tables, const char *sql)
{
	Oid			types[] = {get_array_type(pst_id_type(tables->id_kind)),
	INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID};

	pst_save_plan(plan, sql, lengthof(types), types);
}

/* The statements over what run_for_one() passes */
static PstPlan *
get_one_plan(PstPlan *plan, const PstTables *tables, CounterMask mask,
			 void (*build) (StringInfo, const PstTables *, CounterMask))
{
	if (plan->prepared == NULL)
	{
		StringInfoData sql;
		Oid			types[] = {pst_id_type(tables->id_kind), INT8OID, INT8OID, INT8OID};

		initStringInfo(&sql);
		build(&sql, tables, mask);
		pst_save_plan(plan, sql.data, lengthof(types), types);
	}
	return plan;
}

static PstPlan *
get_many_plan(const PstTables *tables, CounterMask mask)
{
	PstPlan    *plan = &update_many_plans[mask];

	if (plan->prepared == NULL)
	{
		StringInfoData sql;

		initStringInfo(&sql);
		build_update_many(&sql, tables, mask);
		save_array_plan(plan, tables, sql.data);
	}
	return plan;
}

static PstPlan *
get_insert_plan(const PstTables *tables, Arbiter arbiter)
{
	PstPlan    *plan = &insert_plans[arbiter];

	if (plan->prepared == NULL)
	{
		StringInfoData sql;

		initStringInfo(&sql);
		build_insert(&sql, tables, arbiter);
		save_array_plan(plan, tables, sql.data);
	}
	return plan;
}

/* Of one that reads */
static PstPlan *
get_read_plan(PstPlan *plan, const PstTables *tables,
			  void (*build) (StringInfo, const PstTables *, const char *), const char *locking)
{
	if (plan->prepared == NULL)
	{
		StringInfoData sql;

		initStringInfo(&sql);
		build(&sql, tables, locking);
		save_array_plan(plan, tables, sql.data);
	}
	return plan;
}

/* ---- running them ---- */

static CounterMask
touched_by(const PstDelta *delta)
{
	CounterMask mask = 0;

	for (int c = 0; c < PST_NCOUNTERS; c++)
		if (delta->n[c] != 0)
			mask |= 1 << c;
	return mask;
}

static CounterMask
touched_counters(const PstDeltas *deltas)
{
	CounterMask mask = 0;

	for (int i = 0; i < deltas->len; i++)
		mask |= touched_by(&deltas->items[i]);
	return mask;
}

/* As the four arrays that DELTA_ROWS unnests */
static void
make_delta_arrays(const PstDeltas *deltas, Datum *arrays)
{
	Datum	   *numbers = palloc(deltas->len * sizeof(Datum));

	arrays[0] = PointerGetDatum(pst_ids_of(deltas));
	for (int c = 0; c < PST_NCOUNTERS; c++)
	{
		for (int i = 0; i < deltas->len; i++)
			numbers[i] = Int64GetDatum(deltas->items[i].n[c]);
		arrays[1 + c] = PointerGetDatum(construct_array(numbers, deltas->len, INT8OID,
														sizeof(int64), FLOAT8PASSBYVAL,
														TYPALIGN_DOUBLE));
	}
}

/*
 * Runs a statement that finds ids among the deltas; moves the deltas that it finds
 * into "found", and leaves the others.  Returns the number of rows.
 */
static uint64
move_found(PstPlan *plan, const PstTables *tables, PstDeltas *deltas, PstDeltas *found)
{
	bool	   *hits = palloc0(Max(deltas->len, 1) * sizeof(bool));
	int			left = 0;
	Datum		arrays[1 + PST_NCOUNTERS];
	uint64		processed;

	make_delta_arrays(deltas, arrays);
	processed = pst_run_plan(plan, arrays, NULL, false);

	for (uint64 row = 0; row < processed; row++)
	{
		bool		isnull;
		Datum		id = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
									   1, &isnull);
		PstDelta   *delta = pst_find_delta(deltas, id);

		if (delta != NULL)
			hits[delta - deltas->items] = true;
	}
	SPI_freetuptable(SPI_tuptable);

	pst_init_deltas(found, tables, deltas->len);
	for (int i = 0; i < deltas->len; i++)
	{
		if (hits[i])
			found->items[found->len++] = deltas->items[i];
		else
			deltas->items[left++] = deltas->items[i];
	}
	deltas->len = left;
	return processed;
}

static uint64
run_for_one(PstPlan *plan, const PstDelta *delta)
{
	Datum		values[1 + PST_NCOUNTERS] = {delta->id};

	for (int c = 0; c < PST_NCOUNTERS; c++)
		values[1 + c] = Int64GetDatum(delta->n[c]);
	return pst_run_plan(plan, values, NULL, false);
}

static uint64
update_one(const PstTables *tables, PstDeltas *deltas)
{
	CounterMask mask = touched_by(deltas->items);
	PstPlan    *plan = get_one_plan(&update_one_plans[mask], tables, mask, build_update_one);

	if (run_for_one(plan, deltas->items) == 0)
		return 0;
	deltas->len = 0;
	return 1;
}

/* Deltas that are written leave the set; returns how many.  The others have no row or no room, or it is not written. */
uint64
pst_update_rows(const PstTables *tables, PstDeltas *deltas)
{
	PstDeltas	written;

	if (deltas->len == 1)
		return update_one(tables, deltas);
	return move_found(get_many_plan(tables, touched_counters(deltas)), tables, deltas, &written);
}

static uint64
insert_rows(const PstTables *tables, PstDeltas *deltas, Arbiter arbiter)
{
	PstDeltas	inserted;
	uint64		processed = move_found(get_insert_plan(tables, arbiter), tables, deltas, &inserted);

	if (processed != (uint64) inserted.len)
		elog(ERROR, "table %s has stored a row under another id", tables->stats_name);
	return processed;
}

/* Those that are inserted leave the set; the others have a row.  A conflict in another key is an error. */
uint64
pst_insert_rows(const PstTables *tables, PstDeltas *deltas)
{
	return insert_rows(tables, deltas, BY_PROMPT);
}

/* The same, but a conflict in another key is taken for a row of the prompt's */
uint64
pst_insert_free_rows(const PstTables *tables, PstDeltas *deltas)
{
	return insert_rows(tables, deltas, BY_ANY_KEY);
}

/* One row, inserted or updated; 0: neither */
uint64
pst_upsert_row(const PstTables *tables, const PstDelta *delta)
{
	CounterMask mask = touched_by(delta);

	return run_for_one(get_one_plan(&upsert_plans[mask], tables, mask, build_upsert), delta);
}

/* Moves the deltas of rows that are there */
void
pst_move_existing(const PstTables *tables, PstDeltas *deltas, PstDeltas *existing)
{
	(void) move_found(get_read_plan(&find_plan, tables, build_find, ""), tables, deltas, existing);
}

/* The same, and locks the rows, in the order of the set */
void
pst_move_locked(const PstTables *tables, PstDeltas *deltas, PstDeltas *locked)
{
	(void) move_found(get_read_plan(&lock_plan, tables, build_find, "FOR NO KEY UPDATE"), tables, deltas, locked);
}

static void
look(PstPlan *plan, const PstDeltas *deltas)
{
	Datum		arrays[1 + PST_NCOUNTERS];

	make_delta_arrays(deltas, arrays);
	(void) pst_run_plan(plan, arrays, NULL, false);
}

/* Leaves rows (id, views, copies, forks) in SPI_tuptable */
void
pst_look_at_rows(const PstTables *tables, const PstDeltas *deltas)
{
	look(get_read_plan(&look_plan, tables, build_look, ""), deltas);
}

/* The same, of those that nobody else has locked, and locks them */
void
pst_lock_free_rows(const PstTables *tables, const PstDeltas *deltas)
{
	look(get_read_plan(&skip_locked_plan, tables, build_look, "FOR NO KEY UPDATE SKIP LOCKED"), deltas);
}
