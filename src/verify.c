/*
 * verify.c
 *		prompt_stats_verify(): whether the tables are as they should be, check by check.
 */
#include "migrate.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"

PG_FUNCTION_INFO_V1(prompt_stats_verify);

/* A row of the answer; takes what psprintf() has made */
static void
put_row(ReturnSetInfo *rsinfo, const char *name, bool ok, char *detail)
{
	Datum		values[] = {CStringGetTextDatum(name), BoolGetDatum(ok), CStringGetTextDatum(detail)};
	bool		nulls[] = {false, false, false};

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	pfree(detail);
}

/* ---- can the tables be used? ---- */

typedef struct Look
{
	Oid			function;
	PstTables	tables;
} Look;

static void
look_at_tables(void *arg)
{
	Look	   *look = arg;

	look->tables = *pst_need_tables(look->function);
}

/* What is told, rather than raised */
static bool
is_unusable(int sqlerrcode)
{
	switch (sqlerrcode)
	{
		case ERRCODE_UNDEFINED_COLUMN:
		case ERRCODE_WRONG_OBJECT_TYPE:
		case ERRCODE_DATATYPE_MISMATCH:
		case ERRCODE_INVALID_COLUMN_REFERENCE:
		case ERRCODE_GENERATED_ALWAYS:
		case ERRCODE_INSUFFICIENT_PRIVILEGE:	/* a stranger's: owner.c */
			return true;
		default:
			return false;
	}
}

static bool
put_tables(ReturnSetInfo *rsinfo, Oid function)
{
	Look		look = {.function = function};
	ErrorData  *error;
	char	   *detail;

	/* The extension's own, without which nothing can be told */
	(void) pst_own_table("config");

	error = pst_attempt(look_at_tables, &look);
	if (error == NULL)
		detail = psprintf("events in %s, counters in %s", look.tables.events_name, look.tables.stats_name);
	else if (error->sqlerrcode == ERRCODE_UNDEFINED_TABLE)
		detail = psprintf("a table is missing: SELECT %s.prompt_stats_setup();",
						  quote_identifier(get_namespace_name(pst_extension_schema())));
	else if (is_unusable(error->sqlerrcode))
		detail = pstrdup(error->message);
	else
		ReThrowError(error);
	put_row(rsinfo, "tables", error == NULL, detail);
	return error == NULL;
}

/* ---- can they be counted in? ---- */

/* What setup refuses, and what counting would meet */
static void
check_setup(void *arg)
{
	const PstTables *tables = arg;

	pst_check_stats_adoptable(tables->stats);
	pst_check_events_adoptable(tables->events);
	pst_check_writable(tables);
}

static void
put_setup(ReturnSetInfo *rsinfo, PstTables *tables)
{
	ErrorData  *error = pst_attempt(check_setup, tables);

	put_row(rsinfo, "setup", error == NULL,
			error == NULL ? pstrdup("rows can be written") :
			error->hint == NULL ? pstrdup(error->message) : psprintf("%s: %s", error->message, error->hint));
}

/* ---- the checks ---- */

/* A statement that finds a number, as the owner of the table */
static int64
count(Oid table, const char *sql)
{
	int64		number;

	(void) pst_run_on_table(table, sql, 0, NULL, NULL);
	number = pst_get_number(0, 1);
	SPI_freetuptable(SPI_tuptable);
	return number;
}

static int64
count_rows(const PstTables *tables, const char *condition)
{
	return count(tables->stats, psprintf("SELECT pg_catalog.count(*) FROM ONLY %s AS s WHERE %s",
										 tables->stats_name, condition));
}

static void
put_event_kinds(ReturnSetInfo *rsinfo, const PstTables *tables)
{
	int64		n = count(tables->events,
						  psprintf("SELECT pg_catalog.count(*) FROM ONLY %s AS e WHERE " PST_IS_REFUSED,
								   tables->events_name));

	put_row(rsinfo, "event kinds", n == 0, psprintf(INT64_FORMAT " rows are neither fork nor compare_add", n));
}

static void
put_check(ReturnSetInfo *rsinfo, const PstTables *tables)
{
	PstCheck   *check = pst_find_check(tables);

	if (check == NULL)
		put_row(rsinfo, "check constraint", false,
				psprintf("no check keeps table %s to fork and compare_add", tables->events_name));
	else
		put_row(rsinfo, "check constraint", check->is_valid,
				psprintf("check %s is %s", quote_identifier(check->name), check->is_valid ? "valid" : "not valid yet"));
}

static void
put_duplicates(ReturnSetInfo *rsinfo, const PstTables *tables)
{
	int64		n = count(tables->stats,
						  psprintf("SELECT pg_catalog.count(*) FROM (SELECT FROM ONLY %s AS s GROUP BY s.prompt_id"
								   " HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1::pg_catalog.int8) AS d",
								   tables->stats_name));

	put_row(rsinfo, "one row per prompt", n == 0, psprintf(INT64_FORMAT " prompts have several rows", n));
}

static void
put_negative(ReturnSetInfo *rsinfo, const PstTables *tables)
{
	int64		n = count_rows(tables, "LEAST(s.view_count::pg_catalog.int8, s.copy_count::pg_catalog.int8,"
							   " s.fork_count::pg_catalog.int8) OPERATOR(pg_catalog.<) 0::pg_catalog.int8");

	put_row(rsinfo, "no negative counter", n == 0, psprintf(INT64_FORMAT " rows have a negative counter", n));
}

static void
put_forks(ReturnSetInfo *rsinfo, const PstTables *tables)
{
	int64		n = pst_count_low_forks(tables);

	put_row(rsinfo, "fork counts", n == 0,
			psprintf(INT64_FORMAT " prompts have more fork events than fork_count says", n));
}

/* ---- what is told, and is no failure: both are as good as zero ---- */

static void
put_nulls(ReturnSetInfo *rsinfo, const PstTables *tables)
{
	int64		n = count_rows(tables, "s.view_count IS NULL OR s.copy_count IS NULL OR s.fork_count IS NULL");

	put_row(rsinfo, "null counters", true,
			psprintf(INT64_FORMAT " rows have a counter that is null, and counts from 0", n));
}

/* Of the key of the prompts, in our words */
static bool
has_our_kind(const PstTables *tables)
{
	PstIdKind	kind;

	return pst_id_kind_of(get_atttype(tables->prompts, tables->prompts_key), &kind) && kind == tables->id_kind;
}

/*
 * Prompts are read as their owner, forced policies or not, because nobody else runs a
 * statement that names his table; so only for those who may read all of them themselves.
 */
static char *
why_not_to_tell(const PstTables *tables)
{
	const char *name;

	if (!OidIsValid(tables->prompts))
		return psprintf("table %s references no table of prompts", tables->stats_name);
	name = pst_qualified_name(tables->prompts);
	if (pg_class_aclcheck(tables->prompts, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		return psprintf("not told: no right to read table %s", name);
	if (check_enable_rls(tables->prompts, GetUserId(), true) == RLS_ENABLED)
		return psprintf("not told: policies of table %s decide which of its rows may be read", name);
	if (!has_our_kind(tables))
		return psprintf("not told: the key of table %s is of another type than prompt_id", name);
	return NULL;
}

/* NULL, or why it is not told */
char *
pst_count_unmatched(const PstTables *tables, PstUnmatched *unmatched)
{
	char	   *reason;
	char	   *key;
	PstMerge   *merge;
	PstMerged	merged;

	if (OidIsValid(tables->prompts))
		LockRelationOid(tables->prompts, AccessShareLock);
	reason = why_not_to_tell(tables);
	if (reason != NULL)
		return reason;

	*unmatched = (PstUnmatched)
	{
		0
	};
	key = psprintf("p.%s", quote_identifier(get_attname(tables->prompts, tables->prompts_key, false)));
	merge = pst_begin_merge(tables);
	pst_merge_table(merge, tables->prompts, SECURITY_NOFORCE_RLS, PST_PROMPTS,
					psprintf("SELECT %s, 1::pg_catalog.int8 %s", pst_id_sql(key, tables->id_kind), pst_prompts_sql(tables)));
	pst_merge_counters(merge);
	pst_sort_merged(merge);
	while (pst_next_merged(merge, &merged))
		if (!merged.no_id && merged.n[PST_ROWS] == 0)
			unmatched->prompts += merged.n[PST_PROMPTS];
		else if (!merged.no_id && merged.n[PST_PROMPTS] == 0)
			unmatched->counters += merged.n[PST_ROWS];
	pst_end_merge(merge);
	return NULL;
}

/* Not valid, it was known that there are such rows */
static bool
has_valid_key(const PstTables *tables)
{
	Oid			types[] = {OIDOID, OIDOID};
	Datum		values[] = {ObjectIdGetDatum(tables->stats), ObjectIdGetDatum(tables->prompts)};
	bool		isnull;

	(void) pst_run_as_extension("SELECT bool_or(c.convalidated) FROM pg_constraint c"
								" WHERE c.contype = 'f' AND c.conrelid = $1 AND c.confrelid = $2",
								lengthof(types), types, values);
	return DatumGetBool(pst_get_field(0, 1, &isnull));
}

static void
put_unmatched(ReturnSetInfo *rsinfo, const PstTables *tables)
{
	PstUnmatched unmatched;
	char	   *reason = pst_count_unmatched(tables, &unmatched);

	put_row(rsinfo, "missing rows", true, reason != NULL ? pstrdup(reason) :
			psprintf(INT64_FORMAT " prompts have no row yet, and count from 0", unmatched.prompts));
	put_row(rsinfo, "unknown prompts", reason != NULL || unmatched.counters == 0 || !has_valid_key(tables),
			reason != NULL ? reason :
			psprintf(INT64_FORMAT " rows are of prompts that don't exist", unmatched.counters));
}

/* What surprises is no failure; what makes calls count nothing is */
static void
put_findings(ReturnSetInfo *rsinfo, const PstTables *tables)
{
	int			findings = pst_count_findings(tables, PST_SURPRISES);

	put_row(rsinfo, "preflight", pst_count_findings(tables, PST_COUNTING) == 0,
			findings == 0 ? pstrdup("nothing stands out") :
			psprintf("%d findings: SELECT * FROM %s.prompt_stats_preflight();", findings,
					 quote_identifier(get_namespace_name(tables->schema))));
}

/* prompt_stats_verify() returns rows (check_name text, ok boolean, detail text) */
Datum
prompt_stats_verify(PG_FUNCTION_ARGS)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	PstTables	tables;

	InitMaterializedSRF(fcinfo, 0);
	if (!put_tables(rsinfo, function))
		return (Datum) 0;
	pst_share_both(function, &tables);

	SPI_connect();
	put_setup(rsinfo, &tables);
	put_event_kinds(rsinfo, &tables);
	put_check(rsinfo, &tables);
	put_duplicates(rsinfo, &tables);
	put_negative(rsinfo, &tables);
	put_forks(rsinfo, &tables);
	put_nulls(rsinfo, &tables);
	put_unmatched(rsinfo, &tables);
	put_findings(rsinfo, &tables);
	SPI_finish();
	return (Datum) 0;
}
