/*
 * functions.c
 *		The counting functions that SQL calls: check, convert, count.
 *
 * None is STRICT: a NULL is an error, never a count that silently did not
 * happen.  All are PARALLEL UNSAFE, as everything that writes.
 */
#include "prompt_stats.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"

/* One call must not fill a counter, for nobody could count after it */
#define MAX_N 1000000000

PG_FUNCTION_INFO_V1(increment_prompt_views);
PG_FUNCTION_INFO_V1(increment_prompt_copies);
PG_FUNCTION_INFO_V1(increment_fork_count);

/* Errors as nextval() has them (sequence.c: nextval_internal) */
void
pst_check_may_write(Oid function)
{
	if (XactReadOnly || IsInParallelMode())
	{
		char	   *name = psprintf("%s()", get_func_name(function));

		PreventCommandIfReadOnly(name);
		PreventCommandIfParallelMode(name);
	}
}

static Datum
need_argument(FunctionCallInfo fcinfo, int argno, const char *name)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of %s() must not be null", name,
						get_func_name(fcinfo->flinfo->fn_oid)),
				 errhint("Leave out the call where there is nothing to count.")));
	return PG_GETARG_DATUM(argno);
}

static void
bad_n_error(Oid function, int64 n)
{
	bool		negative = n < 0;

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 negative ?
			 errmsg("argument n of %s() must not be negative", get_func_name(function)) :
			 errmsg("argument n of %s() must not be greater than %d", get_func_name(function), MAX_N),
			 errdetail("It is " INT64_FORMAT ".", n),
			 negative ?
			 errhint("Counters only grow; the owner of the table takes counts back with prompt_stats_correct().") :
			 errhint("Count fewer at once; the owner of the table adds more with prompt_stats_correct().")));
}

/* Declared as (id), too, so that rights can be given to count one at a time */
static int64
need_n(FunctionCallInfo fcinfo)
{
	int64		n;

	if (PG_NARGS() < 2)
		return 1;
	n = DatumGetInt64(need_argument(fcinfo, 1, "argument n"));
	if (n < 0 || n > MAX_N)
		bad_n_error(fcinfo->flinfo->fn_oid, n);
	return n;
}

/* Locked, where we count now and not at the end of the transaction */
static const PstTables *
find_stats(Oid function)
{
	return pst_may_collect() ? pst_find_stats(function) : pst_lock_stats(function);
}

static void
count_deltas(const PstTables *tables, PstDeltas *deltas)
{
	if (pst_may_collect())
		pst_collect(tables, deltas);
	else
		(void) pst_fold(tables, deltas);
}

/* Counts n for one prompt */
void
pst_count_one(Oid function, Datum id, PstIdKind kind, PstCounter counter, int64 n)
{
	const PstTables *tables = find_stats(function);
	PstDeltas	deltas;

	pst_init_deltas(&deltas, tables, 1);
	(void) pst_add_delta(&deltas, pst_stats_id(tables, id, kind), counter, n);
	count_deltas(tables, &deltas);
}

static void
null_element_error(Oid function)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("the ids of %s() must not contain null", get_func_name(function)),
			 errhint("Remove the nulls, as with array_remove(ids, NULL).")));
}

static void
count_array(Oid function, ArrayType *ids, PstIdKind kind, PstCounter counter, int64 n)
{
	const PstTables *tables = find_stats(function);
	PstDeltas	deltas;
	Datum	   *elements;
	bool	   *nulls;
	int			len;

	pst_deconstruct_ids(ids, kind, &elements, &nulls, &len);
	pst_init_deltas(&deltas, tables, len);
	for (int i = 0; i < len; i++)
	{
		if (nulls[i])
			null_element_error(function);
		(void) pst_add_delta(&deltas, pst_stats_id(tables, elements[i], kind), counter, n);
	}
	count_deltas(tables, &deltas);
}

/* What a driver sends without a type comes as text, an array, too */
static void
count_text(Oid function, Datum text, PstCounter counter, int64 n)
{
	const PstTables *tables = find_stats(function);
	PstIdKind	kind = tables->id_kind;
	ArrayType  *ids = pst_ids_from_text(tables, text);

	if (ids != NULL)
		count_array(function, ids, kind, counter, n);
	else
		pst_count_one(function, pst_only_stats_id(tables, text, PST_TEXT, true), kind, counter, n);
}

static Datum
count(FunctionCallInfo fcinfo, PstCounter counter)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	Datum		id = need_argument(fcinfo, 0, "the id");
	int64		n = PG_NARGS() > 1 ? need_n(fcinfo) : 1;
	bool		is_array;
	PstIdKind	kind = pst_argument_kind(function, 0, &is_array);

	pst_check_may_write(function);
	if (is_array)
		count_array(function, DatumGetArrayTypeP(id), kind, counter, n);
	else if (kind == PST_TEXT)
		count_text(function, id, counter, n);
	else
		pst_count_one(function, id, kind, counter, n);
	PG_RETURN_VOID();
}

/*
 * increment_prompt_views(id) and (id, n bigint), and so on: each is declared for an id,
 * and for an array of ids, of every kind.
 */
Datum
increment_prompt_views(PG_FUNCTION_ARGS)
{
	return count(fcinfo, PST_VIEWS);
}

Datum
increment_prompt_copies(PG_FUNCTION_ARGS)
{
	return count(fcinfo, PST_COPIES);
}

Datum
increment_fork_count(PG_FUNCTION_ARGS)
{
	return count(fcinfo, PST_FORKS);
}
