/*
 * fold.c
 *		The only way into table prompt_stats.
 *
 * pst_fold() adds a set of deltas to the counters, as the owner of the table,
 * inside the transaction it is called in.  pst_fold_units() does so for the flusher,
 * with many transactions' deltas: it waits for no row longer than a millisecond,
 * inserts none, and says of each transaction what became of it.
 *
 * A delta of one prompt is one update of its row, without a statement where that can be
 * (direct.c), as are the flusher's; those who wait for the same row take turns.  A larger
 * set whose rows are all there and free is updated so, too, in the order of their ids.  Else
 * it, or a prompt without a row, first inserts the rows that are missing, then locks the
 * others, both in the order of their ids, and then updates them with one statement.  No row
 * is locked before the last is inserted (but for one that is deleted just then), and an
 * insertion that meets a row of somebody else's leaves it alone: so two folds never wait for
 * each other in a circle.  Only where a trigger chooses the row that an insertion goes to they
 * can, as any two upserts can.
 *
 * Every statement leaves a row alone whose counter would not fit its column.
 * Whatever it left out is looked at again, and is an error then: a set is added
 * whole, or the transaction fails.  Only a trigger of the table that returns NULL
 * can have its row left out, as with any UPDATE.
 *
 * An UPDATE sets only the counters that its deltas touch, for the sake of HOT and
 * of UPDATE OF triggers.
 */
#include "prompt_stats.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

/* A set of counters, a bit each */
typedef uint32 CounterMask;

#define NMASKS (1 << PST_NCOUNTERS)

/* Milliseconds */
#define HASTY_LOCK_MS	1		/* for a row that is locked; less is not to be
								 * had */
#define CALM_MS			500		/* after haste has failed */

/* In the tag of a lock, where SQL's advisory locks have 1 or 2 (lockfuncs.c) */
#define TURN			3

static const char *const column_names[PST_NCOUNTERS] = {
	"view_count", "copy_count", "fork_count"
};

/* Where statements find a delta: as parameters, or as a row d */
static const char *const of_params[PST_NCOUNTERS] = {"$2", "$3", "$4"};
static const char *const of_row[PST_NCOUNTERS] = {"d.views", "d.copies", "d.forks"};
#define DELTA_ROWS \
	"ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)," \
	" pg_catalog.unnest($4)) AS d(id, views, copies, forks)"

/* Saved plans; what updates, for each set of counters */
static PstPlan update_one_plans[NMASKS];
static PstPlan update_many_plans[NMASKS];
static PstPlan upsert_plans[NMASKS];
static PstPlan insert_plan;
static PstPlan find_plan;
static PstPlan lock_plan;
static PstPlan skip_locked_plan;
static PstPlan look_plan;

/* Until then the flusher folds with care */
static TimestampTz calm_until = 0;

const char *
pst_counter_name(PstCounter counter)
{
	return column_names[counter];
}

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

/* Columns that are not named take their default; a correction starts from 0 */
static void
build_insert(StringInfo sql, const PstTables *tables)
{
	bool		set = tables->sets_updated_at;

	appendStringInfo(sql, "INSERT INTO %s AS s (prompt_id, view_count, copy_count, fork_count%s)"
					 " SELECT d.id, GREATEST(d.views, 0), GREATEST(d.copies, 0), GREATEST(d.forks, 0)%s"
					 " FROM " DELTA_ROWS " ON CONFLICT (prompt_id) DO NOTHING"
					 " RETURNING s.prompt_id::pg_catalog.%s",
					 tables->stats_name,
					 set ? ", updated_at" : "",
					 set ? ", pg_catalog.now()" : "",
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

static void
build_find(StringInfo sql, const PstTables *tables)
{
	appendStringInfo(sql, "SELECT s.prompt_id::pg_catalog.%s FROM ONLY %s AS s"
					 " WHERE s.prompt_id OPERATOR(pg_catalog.=) ANY ($1)",
					 pst_type_name(tables->id_kind), tables->stats_name);
}

static void
build_lock(StringInfo sql, const PstTables *tables)
{
	build_find(sql, tables);
	appendStringInfoString(sql, " ORDER BY s.prompt_id FOR NO KEY UPDATE");
}

/* The counters, too: is there room? */
static void
build_look(StringInfo sql, const PstTables *tables)
{
	appendStringInfo(sql, "SELECT s.prompt_id::pg_catalog.%s, s.view_count::pg_catalog.int8,"
					 " s.copy_count::pg_catalog.int8, s.fork_count::pg_catalog.int8"
					 " FROM ONLY %s AS s WHERE s.prompt_id OPERATOR(pg_catalog.=) ANY ($1)",
					 pst_type_name(tables->id_kind), tables->stats_name);
}

static void
build_skip_locked(StringInfo sql, const PstTables *tables)
{
	build_look(sql, tables);
	appendStringInfoString(sql, " ORDER BY s.prompt_id FOR NO KEY UPDATE SKIP LOCKED");
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

/* The statements that are the same for every set of counters */
static PstPlan *
get_plan(PstPlan *plan, const PstTables *tables,
		 void (*build) (StringInfo, const PstTables *))
{
	if (plan->prepared == NULL)
	{
		StringInfoData sql;

		initStringInfo(&sql);
		build(&sql, tables);
		save_array_plan(plan, tables, sql.data);
	}
	return plan;
}

/* ---- policies ---- */

/* As the owner, whose policies are seldom in force for himself */
static bool
may_be_hidden(const PstTables *tables)
{
	return check_enable_rls(tables->stats, InvalidOid, true) == RLS_ENABLED;
}

static int
hint_at_policies(const PstTables *tables)
{
	return errhint("Release the owner with ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;", tables->stats_name);
}

static void
hidden_row_error(const PstTables *tables, const char *id)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("could not count prompt %s in table %s", id, tables->stats_name),
			 errdetail("The policies of the table keep its row from the owner of the table."),
			 hint_at_policies(tables)));
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

static uint64
run_for_one(PstPlan *plan, const PstDelta *delta)
{
	Datum		values[1 + PST_NCOUNTERS] = {delta->id};

	for (int c = 0; c < PST_NCOUNTERS; c++)
		values[1 + c] = Int64GetDatum(delta->n[c]);
	return pst_run_plan(plan, values, NULL, false);
}

static uint64
update_one(const PstTables *tables, const PstDelta *delta)
{
	CounterMask mask = touched_by(delta);

	return run_for_one(get_one_plan(&update_one_plans[mask], tables, mask, build_update_one), delta);
}

static uint64
upsert_one(const PstTables *tables, const PstDelta *delta)
{
	CounterMask mask = touched_by(delta);

	return run_for_one(get_one_plan(&upsert_plans[mask], tables, mask, build_upsert), delta);
}

/* Returns how many rows were written */
static uint64
update(const PstTables *tables, const PstDeltas *deltas)
{
	Datum		arrays[1 + PST_NCOUNTERS];

	if (deltas->len == 1)
		return update_one(tables, deltas->items);
	make_delta_arrays(deltas, arrays);
	return pst_run_plan(get_many_plan(tables, touched_counters(deltas)), arrays, NULL, false);
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
					pst_show_id(id, tables->id_kind)),
			 errdetail("It is " INT64_FORMAT ", " INT64_FORMAT
					   " would be added, and its type %s holds at most " INT64_FORMAT ".",
					   value, n, is_int ? "integer" : "bigint",
					   tables->counter_max[counter]),
			 is_int ?
			 errhint("Widen it with %s",
					 pst_alteration(tables->stats, column_names[counter],
									psprintf("ALTER COLUMN %s TYPE bigint", column_names[counter]))) :
			 errhint("Set the counters of this prompt to zero, with SELECT %s.prompt_stats_reset(%s);",
					 quote_identifier(get_namespace_name(pst_extension_schema())),
					 quote_literal_cstr(pst_print_id(id, tables->id_kind)))));
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

/* Finds the counter that has no room, if there is one */
static void
check_counters_fit(const PstTables *tables, const PstDeltas *deltas)
{
	Datum		arrays[1 + PST_NCOUNTERS];

	make_delta_arrays(deltas, arrays);
	(void) pst_run_plan(get_plan(&look_plan, tables, build_look), arrays, NULL, false);
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
 * Runs a statement that finds ids among the deltas; moves the deltas that it finds
 * into "found", and leaves the others.  Returns the number of rows.
 */
static uint64
move_found(PstPlan *plan, const PstTables *tables, Datum *arrays, PstDeltas *deltas,
		   PstDeltas *found)
{
	bool	   *hits = palloc0(Max(deltas->len, 1) * sizeof(bool));
	int			left = 0;
	uint64		processed = pst_run_plan(plan, arrays, NULL, false);

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

/* Moves the deltas of rows that are there */
static void
move_existing(const PstTables *tables, PstDeltas *deltas, PstDeltas *existing)
{
	Datum		arrays[1 + PST_NCOUNTERS];

	make_delta_arrays(deltas, arrays);
	(void) move_found(get_plan(&find_plan, tables, build_find), tables, arrays, deltas, existing);
}

static uint64
insert_rows(const PstTables *tables, PstDeltas *deltas)
{
	PstDeltas	inserted;
	Datum		arrays[1 + PST_NCOUNTERS];
	uint64		processed;

	make_delta_arrays(deltas, arrays);
	processed = move_found(get_plan(&insert_plan, tables, build_insert), tables, arrays, deltas, &inserted);
	if (processed != (uint64) inserted.len)
		elog(ERROR, "table %s has stored a row under another id", tables->stats_name);
	return processed;
}

/* The error context of an upsert */
typedef struct Upsert
{
	const PstTables *tables;
	const PstDelta *delta;
} Upsert;

/* Which row has no room is known to the trigger alone */
static void
upsert_context(void *arg)
{
	const Upsert *upsert = arg;

	if (geterrcode() == ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE)
		errhint("Correct the counter of the row in which it is counted, or count fewer at once.");
	errcontext("counting prompt %s", pst_show_id(upsert->delta->id, upsert->tables->id_kind));
}

/*
 * Where a trigger has a say in what is inserted, a row that was inserted may not be found again.
 * What it lets through is counted, in whatever row; what it returns NULL for is not, as with
 * any INSERT.
 */
static uint64
upsert_rows(const PstTables *tables, PstDeltas *deltas)
{
	Upsert		upsert = {.tables = tables};
	ErrorContextCallback context = {error_context_stack, upsert_context, &upsert};
	uint64		written = 0;

	error_context_stack = &context;
	for (int i = 0; i < deltas->len; i++)
	{
		upsert.delta = &deltas->items[i];
		written += upsert_one(tables, upsert.delta);
	}
	error_context_stack = context.previous;
	deltas->len = 0;
	return written;
}

/* Inserts rows for the deltas that have none; these are done, and leave the set */
static uint64
insert_missing(const PstTables *tables, PstDeltas *deltas)
{
	PstDeltas	existing;
	uint64		written = 0;

	move_existing(tables, deltas, &existing);
	if (deltas->len > 0)
		written = tables->alters_inserts ? upsert_rows(tables, deltas) : insert_rows(tables, deltas);
	for (int i = 0; i < existing.len; i++)
		pst_append_delta(deltas, &existing.items[i]);
	pst_merge_deltas(deltas);
	return written;
}

/*
 * Where a trigger may leave a row out, the others can't be told from those without room
 * afterwards.
 */
static uint64
update_locked(const PstTables *tables, PstDeltas *locked)
{
	uint64		written;

	if (tables->runs_code)
		check_counters_fit(tables, locked);
	written = update(tables, locked);
	if (written < (uint64) locked->len && !tables->runs_code)
		check_counters_fit(tables, locked);
	return written;
}

/* Locks the rows of the deltas, and updates them; these are done, and leave the set */
static uint64
update_existing(const PstTables *tables, PstDeltas *deltas)
{
	PstDeltas	locked;
	Datum		arrays[1 + PST_NCOUNTERS];

	if (deltas->len == 0)
		return 0;
	make_delta_arrays(deltas, arrays);
	(void) move_found(get_plan(&lock_plan, tables, build_lock), tables, arrays, deltas, &locked);
	return locked.len == 0 ? 0 : update_locked(tables, &locked);
}

/* In the scope of the owner, for a row that he did not find */
void
pst_check_not_hidden(const PstTables *tables, Datum id)
{
	if (may_be_hidden(tables))
		hidden_row_error(tables, pst_show_id(id, tables->id_kind));
}

/* Neither inserted nor found: else others delete and insert it faster than we look */
static void
check_none_left(const PstTables *tables, const PstDeltas *deltas)
{
	const char *id;

	if (deltas->len == 0)
		return;
	id = pst_show_id(deltas->items[0].id, tables->id_kind);
	if (may_be_hidden(tables))
		hidden_row_error(tables, id);
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not count prompt %s in table %s", id, tables->stats_name),
			 errdetail("Its row is deleted and inserted by others again and again."),
			 errhint("Retry the transaction.")));
}

/* A row that was there may be gone when it is to be locked: again, then */
static uint64
fold_by_statements(const PstTables *tables, PstDeltas *deltas)
{
	uint64		written = 0;

	for (int attempt = 0; attempt < 3 && deltas->len > 0; attempt++)
	{
		written += insert_missing(tables, deltas);
		written += update_existing(tables, deltas);
	}
	check_none_left(tables, deltas);
	return written;
}

static uint64
fold_many(const PstTables *tables, PstDeltas *deltas)
{
	uint64		written = pst_update_directly_in_order(tables, deltas);

	return written + fold_by_statements(tables, deltas);
}

/*
 * A turn at a row that is busy, as a lock of the server's.  All who wait for one row are
 * woken by each commit (heapam.c: heap_update), and with many nearly all time goes there; who
 * waits for a lock is woken alone, in the order of coming.  So one waits for the row, and
 * the others for him.  Whoever finds the row free takes it, though others may be on their way:
 * handing it on in order would cost a context switch each time.  A turn ends when the row is
 * written: who holds one or waits for one holds no row.
 */
static void
set_turn_tag(LOCKTAG *tag, const PstTables *tables, Datum id)
{
	Size		len = pst_id_bytes(id, tables->id_kind, NULL);
	unsigned char *bytes = palloc(Max(len, 1));
	uint64		hash;

	(void) pst_id_bytes(id, tables->id_kind, (char *) bytes);
	hash = hash_bytes_extended(bytes, len, tables->stats);
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, TURN);
	pfree(bytes);
}

/* Waits for who is writing the row, if anybody; one that is hard to get is for a statement */
static uint64
update_when_free(const PstTables *tables, PstDeltas *deltas, TransactionId writer)
{
	for (int attempt = 0; attempt < 3 && TransactionIdIsValid(writer); attempt++)
	{
		XactLockTableWait(writer, NULL, NULL, XLTW_None);
		if (pst_update_directly(tables, deltas, &writer) > 0)
			return 1;
	}
	return update(tables, deltas);
}

static uint64
update_in_turn(const PstTables *tables, PstDeltas *deltas, TransactionId writer)
{
	LOCKTAG		tag;
	uint64		written;

	set_turn_tag(&tag, tables, deltas->items[0].id);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	written = update_when_free(tables, deltas, writer);
	(void) LockRelease(&tag, ExclusiveLock, false);
	return written;
}

/*
 * Who has written may hold the row that others wait for in turn, and must not wait for them.
 * Nor is it for tables whose triggers could wait for other rows meanwhile.
 */
static bool
takes_turns(const PstTables *tables)
{
	return OidIsValid(tables->direct_index) && !TransactionIdIsValid(GetTopTransactionIdIfAny());
}

static uint64
fold_one(const PstTables *tables, PstDeltas *deltas)
{
	TransactionId writer;
	uint64		written = pst_update_directly(tables, deltas, &writer);

	if (written == 0)
		written = takes_turns(tables) ?
			update_in_turn(tables, deltas, writer) : update_when_free(tables, deltas, writer);
	return written > 0 ? written : fold_by_statements(tables, deltas);
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

/* Runs a SELECT of build_look()'s shape, and notes each row that it finds */
static void
look_at_rows(PstPlan *plan, const PstTables *tables, Rows *rows, bool locks)
{
	Datum		arrays[1 + PST_NCOUNTERS];

	make_delta_arrays(&rows->prompts, arrays);
	(void) pst_run_plan(plan, arrays, NULL, false);
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

/* "hidden": a row that could not be locked may be one that policies keep from us, not others */
static PstVerdict
judge_unit(const PstDeltas *unit, const Rows *rows, bool hidden)
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
		return hidden ? PST_VERDICT_RETURNED : PST_VERDICT_LATER;
	return take_room(unit, rows) ? PST_VERDICT_FOLDED : PST_VERDICT_RETURNED;
}

/* Locks the rows that it can */
static void
judge_units(const PstTables *tables, const PstDeltas *units, PstVerdict *verdicts, int nunits)
{
	Rows		rows;
	bool		all_locked = true;
	bool		hidden = may_be_hidden(tables);

	collect_prompts(tables, units, verdicts, nunits, &rows);
	if (rows.prompts.len == 0)
		return;
	look_at_rows(get_plan(&skip_locked_plan, tables, build_skip_locked), tables, &rows, true);
	for (int i = 0; i < rows.prompts.len; i++)
		all_locked &= rows.states[i].locked;
	if (!all_locked)
		look_at_rows(get_plan(&look_plan, tables, build_look), tables, &rows, false);
	for (int u = 0; u < nunits; u++)
		if (verdicts[u] == PST_VERDICT_FOLDED)
			verdicts[u] = judge_unit(&units[u], &rows, hidden);
}

static void
fold_judged(const PstTables *tables, const PstDeltas *units, PstVerdict *verdicts, int nunits)
{
	PstDeltas	sum;

	judge_units(tables, units, verdicts, nunits);
	sum_units(tables, units, verdicts, nunits, &sum);
	if (sum.len > 0)
		(void) update(tables, &sum);
}

/* ---- in haste ---- */

/*
 * Most often no row is locked, missing or full: then one plain UPDATE does.
 * Locking the rows first costs a second descent of the index and a WAL record each.
 * Whatever haste meets fails the transaction, and for a while nobody is hasty.
 */
bool
pst_may_hurry(const PstTables *tables)
{
	return !tables->runs_code && GetCurrentTimestamp() >= calm_until;
}

/* Directly what can be, which leaves the set; the rest with a statement */
static uint64
update_quickly(const PstTables *tables, PstDeltas *deltas)
{
	TransactionId writer;

	(void) pst_update_directly(tables, deltas, &writer);
	return deltas->len > 0 ? update(tables, deltas) : 0;
}

static void
update_in_haste(const PstTables *tables, PstDeltas *sum)
{
	int			timeout = LockTimeout;
	volatile uint64 written = 0;

	PG_TRY();
	{
		LockTimeout = HASTY_LOCK_MS;
		written = update_quickly(tables, sum);
	}
	PG_FINALLY();
	{
		LockTimeout = timeout;
	}
	PG_END_TRY();
	if (written < (uint64) sum->len)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("some prompts have no row, or no room in it")));
}

/* All of them, or the transaction fails: then it is to be tried again with care */
static void
fold_in_haste(const PstTables *tables, const PstDeltas *units, const PstVerdict *verdicts,
			  int nunits)
{
	PstDeltas	sum;

	calm_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CALM_MS);	/* if this fails */
	sum_units(tables, units, verdicts, nunits, &sum);
	if (sum.len > 0)
		update_in_haste(tables, &sum);
	calm_until = 0;
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

/* In a copy of what we know of the table: a trigger that counts may load it anew */
typedef struct Fold
{
	PstTables	tables;
	PstDeltas  *deltas;
	int			len;			/* of deltas, at first */
	Datum		first;
	Datum		last;
	uint64		written;
} Fold;

/* The server's own errors don't name the prompt */
static void
fold_context(void *arg)
{
	const Fold *fold = arg;
	PstIdKind	kind = fold->tables.id_kind;

	if (geterrcode() == ERRCODE_INSUFFICIENT_PRIVILEGE && may_be_hidden(&fold->tables))
		(void) hint_at_policies(&fold->tables);
	if (fold->len == 1)
		errcontext("counting prompt %s", pst_show_id(fold->first, kind));
	else
		errcontext("counting %d prompts from %s to %s", fold->len,
				   pst_show_id(fold->first, kind), pst_show_id(fold->last, kind));
}

static void
fold_set(void *arg)
{
	Fold	   *fold = arg;
	const PstTables *tables = &fold->tables;
	ErrorContextCallback naming = {error_context_stack, fold_context, fold};
	ErrorContextCallback context;

	error_context_stack = &naming;
	begin_fold(tables, &context);
	check_deltas_fit(tables, fold->deltas);
	fold->written = fold->deltas->len == 1 ? fold_one(tables, fold->deltas) : fold_many(tables, fold->deltas);
	end_fold(&context);
	error_context_stack = naming.previous;
}

static uint64
fold_as_owner(const PstTables *known, PstDeltas *deltas)
{
	Fold		fold = {.tables = *known,.deltas = deltas,.len = deltas->len};
	PstScope	scope = pst_scope_of(known->stats_owner, fold.tables.stats_path);

	scope.writes = known->stats;
	fold.first = deltas->items[0].id;
	fold.last = deltas->items[deltas->len - 1].id;
	pst_as_owner(&scope, fold_set, &fold);
	return fold.written;
}

/*
 * Adds the deltas to the counters; merges them in place first.  The caller has
 * locked the table with pst_lock_stats() and has an active snapshot.  Returns the
 * number of rows written: fewer than deltas where a trigger suppressed some.
 */
uint64
pst_fold(const PstTables *tables, PstDeltas *deltas)
{
	pst_fit_ids(tables, deltas);
	pst_merge_deltas(deltas);
	return deltas->len > 0 ? fold_as_owner(tables, deltas) : 0;
}

/*
 * The same for the flusher, which acts as the owner already: of the units whose
 * verdict is FOLDED it folds those that it can, each whole or not at all, and says
 * what became of each.  Rows that somebody else has locked are left for later;
 * only rows that exist are updated.
 *
 * In haste it folds all, or fails the transaction: then it is to be tried again, with
 * pst_may_hurry() false.
 */
void
pst_fold_units(const PstTables *known, const PstDeltas *units, PstVerdict *verdicts, int nunits,
			   bool in_haste)
{
	PstTables	copy = *known;
	const PstTables *tables = &copy;
	ErrorContextCallback context;

	begin_fold(tables, &context);
	if (in_haste)
		fold_in_haste(tables, units, verdicts, nunits);
	else
		fold_judged(tables, units, verdicts, nunits);
	end_fold(&context);
}
