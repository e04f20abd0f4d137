/*
 * preflight.c
 *		What adopting two tables, and migrating them, will mean: told beforehand, reading only.
 *
 * What catalogs say is the SQL of prompt_stats_internal.findings().  To that
 * prompt_stats_preflight() adds what setup would refuse, and what it takes counting rows to
 * know, as the owner of each table.
 *
 * A finding that would make numbers wrong is refused until it is accepted by its name.
 */
#include "migrate.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(prompt_stats_preflight);

typedef struct Finding
{
	char	   *object;
	char	   *name;
	char	   *consequence;
	char	   *statement;		/* mends it; or NULL */
	PstGravity	gravity;
} Finding;

/* As the SQL says it */
static const char *const gravities[] = {
	[PST_PERHAPS] = "perhaps",
	[PST_COMPAT] = "compat",
	[PST_MIGRATION] = "migration",
	[PST_COUNTING] = "counting",
};

/* What may be accepted */
static const struct
{
	PstGravity	gravity;
	const char *name;
}			acceptable[] = {
	{PST_MIGRATION, "delete trigger"},
	{PST_MIGRATION, "delete rule"},
	{PST_MIGRATION, "referenced events"},
	{PST_COMPAT, "unique events"},
};

/* ---- what catalogs say ---- */

static PstGravity
gravity_of(const char *word)
{
	for (PstGravity gravity = PST_PERHAPS; word != NULL && gravity <= PST_COUNTING; gravity++)
		if (strcmp(gravities[gravity], word) == 0)
			return gravity;
	return PST_SURPRISES;
}

/* Of a type that holds no point in time, whatever shows the column */
static char *
alter_updated_at(Oid stats)
{
	return psprintf("%s SELECT %s.prompt_stats_setup(touch => true);", pst_make_time_of(stats),
					quote_identifier(get_namespace_name(pst_extension_schema())));
}

/* Must be connected to SPI.  Either table may be InvalidOid. */
static List *
list_findings(Oid events, Oid stats)
{
	Oid			types[] = {OIDOID, OIDOID};
	Datum		values[] = {ObjectIdGetDatum(events), ObjectIdGetDatum(stats)};
	List	   *findings = NIL;

	SPITupleTable *table;
	uint64		rows;

	rows = pst_run_as_extension("SELECT f.object, f.finding, f.consequence, f.statement, f.gravity"
								" FROM prompt_stats_internal.findings($1, $2) f"
								" ORDER BY f.gravity IS NULL, f.finding, f.object",
								lengthof(types), types, values);
	table = SPI_tuptable;
	for (uint64 row = 0; row < rows; row++)
	{
		Finding    *finding = palloc(sizeof(Finding));
		char	   *fields[5];

		for (size_t i = 0; i < lengthof(fields); i++)
			fields[i] = SPI_getvalue(table->vals[row], table->tupdesc, i + 1);
		*finding = (Finding)
		{
			fields[0], fields[1], fields[2], fields[3], gravity_of(fields[4])
		};
		if (finding->statement == NULL)
			finding->statement = alter_updated_at(stats);
		findings = lappend(findings, finding);
	}
	return findings;
}

/* Of this gravity or more */
int
pst_count_findings(const PstTables *tables, PstGravity least)
{
	ListCell   *lc;
	int			found = 0;

	foreach(lc, list_findings(tables->events, tables->stats))
		if (((Finding *) lfirst(lc))->gravity >= least)
		found++;
	return found;
}

static const char *
our_name(const char *name)
{
	return quote_qualified_identifier(get_namespace_name(pst_extension_schema()), name);
}

/* In full those of this gravity or more, and how many there are in all */
void
pst_tell_findings(const PstTables *tables, PstGravity least)
{
	List	   *findings;
	ListCell   *lc;

	SPI_connect();
	findings = list_findings(tables->events, tables->stats);
	foreach(lc, findings)
	{
		Finding    *finding = lfirst(lc);

		if (finding->gravity >= least)
			ereport(NOTICE,
					(errmsg("%s: %s", finding->name, finding->object),
					 errdetail("%s", finding->consequence),
					 errhint("%s", finding->statement)));
	}
	if (findings != NIL)
		ereport(NOTICE,
				(errmsg_plural("there is %d finding", "there are %d findings",
							   list_length(findings), list_length(findings)),
				 errhint("SELECT * FROM %s();", our_name("prompt_stats_preflight"))));
	SPI_finish();
}

/* ---- what is refused ---- */

static bool
is_acceptable(const char *name, PstGravity gravity)
{
	for (size_t i = 0; i < lengthof(acceptable); i++)
		if (acceptable[i].gravity == gravity && strcmp(acceptable[i].name, name) == 0)
			return true;
	return false;
}

static void
no_name_error(const char *name, PstGravity gravity)
{
	StringInfoData names;

	initStringInfo(&names);
	for (size_t i = 0; i < lengthof(acceptable); i++)
		if (acceptable[i].gravity == gravity)
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", quote_literal_cstr(acceptable[i].name));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for argument accept: %s", name == NULL ? "NULL" : psprintf("\"%s\"", name)),
			 errhint("It takes the names of findings: %s.", names.data)));
}

/* The argument "accept text[]": names of findings */
List *
pst_need_accepted(FunctionCallInfo fcinfo, int argno, PstGravity gravity)
{
	List	   *accepted = NIL;
	Datum	   *names;
	bool	   *nulls;
	int			len;

	if (PG_ARGISNULL(argno))
		return NIL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argno), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &len);
	for (int i = 0; i < len; i++)
	{
		char	   *name = nulls[i] ? NULL : TextDatumGetCString(names[i]);

		if (name == NULL || !is_acceptable(name, gravity))
			no_name_error(name, gravity);
		accepted = list_append_unique(accepted, makeString(name));
	}
	return accepted;
}

/* Must be connected to SPI */
List *
pst_find_unaccepted(const PstTables *tables, PstGravity gravity, List *accepted)
{
	List	   *unaccepted = NIL;
	ListCell   *lc;

	foreach(lc, list_findings(tables->events, tables->stats))
	{
		Finding    *finding = lfirst(lc);

		if (finding->gravity == gravity && !list_member(accepted, makeString(finding->name)))
			unaccepted = lappend(unaccepted, finding);
	}
	return unaccepted;
}

/* The call, with all that it takes accepted; "arguments" are those before, and end in ", " */
static char *
accepting_call(List *unaccepted, List *accepted, Oid function, const char *arguments)
{
	List	   *names = list_copy(accepted);
	StringInfoData call;
	ListCell   *lc;

	foreach(lc, unaccepted)
		names = list_append_unique(names, makeString(((Finding *) lfirst(lc))->name));
	initStringInfo(&call);
	appendStringInfo(&call, "%s %s(%saccept => '{", get_func_prokind(function) == PROKIND_PROCEDURE ? "CALL" : "SELECT",
					 our_name(get_func_name(function)), arguments);
	foreach(lc, names)
		appendStringInfo(&call, "%s%s", foreach_current_index(lc) > 0 ? "," : "", strVal(lfirst(lc)));
	appendStringInfoString(&call, "}');");
	return call.data;
}

void
pst_unaccepted_error(List *unaccepted, List *accepted, Oid function, const char *arguments)
{
	Finding    *finding = linitial(unaccepted);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s is not accepted: %s", finding->name, finding->object),
			 errdetail("%s", finding->consequence),
			 errhint("Take it out of the way, with %s or accept it, with %s",
					 finding->statement, accepting_call(unaccepted, accepted, function, arguments))));
}

/* ---- the rows ---- */

typedef struct Preflight
{
	ReturnSetInfo *rsinfo;
	PstPlace	named;			/* as the arguments say */
	PstPlace	place;
	PstTables	tables;			/* their shape, where it can be read */
	bool		can_count;
} Preflight;

static void
put_row(Preflight *preflight, const char *object, const char *finding, const char *consequence, const char *statement)
{
	Datum		values[] = {
		CStringGetTextDatum(object), CStringGetTextDatum(finding), CStringGetTextDatum(consequence),
		statement == NULL ? (Datum) 0 : CStringGetTextDatum(statement)
	};
	bool		nulls[] = {false, false, false, statement == NULL};

	tuplestore_putvalues(preflight->rsinfo->setResult, preflight->rsinfo->setDesc, values, nulls);
}

/* ---- what setup would refuse, or create ---- */

/* The statement of a hint */
static char *
find_statement(const char *hint)
{
	static const char *const words[] = {"ALTER ", "SELECT ", "SET ", "DROP ", "CREATE ", "WITH ", "GRANT "};
	const char *first = NULL;
	const char *last;

	for (size_t i = 0; hint != NULL && i < lengthof(words); i++)
	{
		const char *found = strstr(hint, words[i]);

		if (found != NULL && (first == NULL || found < first))
			first = found;
	}
	if (first == NULL)
		return NULL;
	last = strrchr(first, ';');
	return last == NULL ? pstrdup(first) : pnstrdup(first, last - first + 1);
}

/* What is told, rather than raised */
static bool
is_about_tables(int sqlerrcode)
{
	switch (sqlerrcode)
	{
		case ERRCODE_UNDEFINED_COLUMN:
		case ERRCODE_UNDEFINED_OBJECT:
		case ERRCODE_WRONG_OBJECT_TYPE:
		case ERRCODE_DATATYPE_MISMATCH:
		case ERRCODE_INVALID_COLUMN_REFERENCE:
		case ERRCODE_GENERATED_ALWAYS:
		case ERRCODE_NOT_NULL_VIOLATION:
		case ERRCODE_INSUFFICIENT_PRIVILEGE:
			return true;
		default:
			return false;
	}
}

/* Does the work; false, and a row of the error, where setup would fail */
static bool
try(Preflight *preflight, void (*work) (void *preflight), const char *object)
{
	ErrorData  *error = pst_attempt(work, preflight);

	if (error == NULL)
		return true;
	if (!is_about_tables(error->sqlerrcode))
		ReThrowError(error);
	put_row(preflight, object, "not adoptable",
			psprintf("Setup fails: %s.%s%s", error->message, error->detail == NULL ? "" : " ",
					 error->detail == NULL ? "" : error->detail),
			find_statement(error->hint));
	return false;
}

static void
find_place(void *arg)
{
	Preflight  *preflight = arg;

	pst_find_place(&preflight->place);
}

static void
check_place(void *arg)
{
	pst_check_place(&((Preflight *) arg)->place);
}

static void
read_stats(void *arg)
{
	Preflight  *preflight = arg;

	preflight->tables.stats = preflight->place.stats;
	pst_read_stats(&preflight->tables);
}

static void
read_events(void *arg)
{
	Preflight  *preflight = arg;

	preflight->tables.events = preflight->place.events;
	pst_read_events(&preflight->tables);
}

static void
check_stats(void *arg)
{
	pst_check_stats_adoptable(((Preflight *) arg)->place.stats);
}

static void
check_events(void *arg)
{
	pst_check_events_adoptable(((Preflight *) arg)->place.events);
}

/* Those who could run the setup */
static void
check_may_look(const PstPlace *place)
{
	PstTables	tables = {.events = place->events,.stats = place->stats};

	pst_check_owner(&tables);
	if (!(OidIsValid(place->events) && OidIsValid(place->stats)) && !pst_may_create_in(place->home, GetUserId()))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SCHEMA, get_namespace_name(place->home));
}

static char *
setup_call(const Preflight *preflight)
{
	const PstPlace *named = &preflight->named;
	StringInfoData call;

	initStringInfo(&call);
	appendStringInfo(&call, "SELECT %s(", our_name("prompt_stats_setup"));
	if (OidIsValid(named->events))
		appendStringInfo(&call, "events => %s", quote_literal_cstr(pst_qualified_name(named->events)));
	if (OidIsValid(named->stats))
		appendStringInfo(&call, "%sstats => %s", OidIsValid(named->events) ? ", " : "",
						 quote_literal_cstr(pst_qualified_name(named->stats)));
	appendStringInfoString(&call, ");");
	return call.data;
}

static void
put_missing(Preflight *preflight, const char *name)
{
	const PstPlace *place = &preflight->place;

	put_row(preflight, psprintf("table %s", quote_qualified_identifier(get_namespace_name(place->home), name)),
			"missing table",
			psprintf("Setup creates it, with ids of type %s, for role %s.", pst_type_of_ids(place),
					 quote_identifier(GetUserNameFromId(pst_future_owner(place), false))),
			setup_call(preflight));
}

/* An error where it is gone */
static void
lock_table(Oid table)
{
	LockRelationOid(table, AccessShareLock);
	(void) pst_owner_of(table);
}

static char *
name_table(Oid table)
{
	return psprintf("table %s", pst_qualified_name(table));
}

/* The shape of what is there, and what is not there */
static void
look_at_place(Preflight *preflight)
{
	PstPlace   *place = &preflight->place;
	bool		fits = true;

	if (OidIsValid(place->prompts) && !try(preflight, check_place, name_table(place->prompts)))
		return;
	if (OidIsValid(place->stats))
	{
		char	   *object = name_table(place->stats);

		lock_table(place->stats);
		fits = try(preflight, read_stats, object) && try(preflight, check_stats, object);
		if (!fits)
			preflight->tables.stats = InvalidOid;	/* nothing is compared
													 * with it */
	}
	else
		put_missing(preflight, "prompt_stats");
	if (OidIsValid(place->events))
	{
		char	   *object = name_table(place->events);

		lock_table(place->events);
		fits = try(preflight, read_events, object) && try(preflight, check_events, object) && fits;
	}
	else
		put_missing(preflight, "prompt_events");
	preflight->can_count = fits && OidIsValid(place->events);
}

/* ---- what it takes counting rows to know ---- */

/* Where the counters will be in a table that is not created yet */
static void
assume_stats(Preflight *preflight)
{
	PstTables  *tables = &preflight->tables;
	Oid			prompts = preflight->place.prompts;
	PstIdKind	kind;
	AttrNumber	key;

	tables->id_kind = tables->event_id_kind;
	tables->id_type = tables->event_id_type;
	tables->id_collation = get_typcollation(pst_id_type(tables->id_kind));
	if (!OidIsValid(prompts))
		return;
	key = pst_key_of(prompts);
	if (pst_id_kind_of(get_atttype(prompts, key), &kind) && kind == tables->id_kind)
	{
		tables->prompts = prompts;
		tables->prompts_key = key;
	}
}

/* "NOT EXISTS (...)" for a row of a table: its prompt is not there */
static char *
without_prompt_sql(const PstTables *tables, const char *row)
{
	return psprintf("NOT EXISTS (SELECT FROM %s p WHERE p.%s = %s.prompt_id)", pst_qualified_name(tables->prompts),
					quote_identifier(get_attname(tables->prompts, tables->prompts_key, false)), row);
}

static char *
condition_of(const PstTables *tables, PstItem item)
{
	switch (item)
	{
		case PST_ITEM_NO_KIND:
			return pstrdup("e.event_type IS NULL");
		case PST_ITEM_OTHER_KIND:
			return pstrdup("e.event_type NOT IN ('view', 'copy', 'fork', 'compare_add')");
		case PST_ITEM_NO_PROMPT_ID:
			return pstrdup("e.prompt_id IS NULL AND e.event_type IN ('view', 'copy')");
		default:
			return psprintf("e.event_type IN ('view', 'copy') AND %s", without_prompt_sql(tables, "e"));
	}
}

static void
put_unmovable(Preflight *preflight)
{
	const PstTables *tables = &preflight->tables;
	PstReport	report;

	pst_make_report(tables, &report);
	for (PstItem item = PST_ITEM_NO_KIND; item <= PST_ITEM_NO_PROMPT; item++)
		if (report.amounts[item] > 0)
			put_row(preflight, psprintf("table %s", tables->events_name), "unmovable rows",
					psprintf("The migration leaves what is %s (" INT64_FORMAT " rows), and the check is not valid before it is gone.",
							 pst_item_text(item), report.amounts[item]),
					psprintf("DELETE FROM %s e WHERE %s;", tables->events_name, condition_of(tables, item)));
}

static void
put_unknown_prompts(Preflight *preflight)
{
	const PstTables *tables = &preflight->tables;
	PstUnmatched unmatched;

	if (pst_count_unmatched(tables, &unmatched) != NULL || unmatched.counters == 0)
		return;
	put_row(preflight, psprintf("table %s", tables->stats_name), "unknown prompts",
			psprintf("It has rows of " INT64_FORMAT " prompts that table %s does not have, so that a restore of both fails.",
					 unmatched.counters, pst_qualified_name(tables->prompts)),
			psprintf("DELETE FROM %s s WHERE %s;", tables->stats_name, without_prompt_sql(tables, "s")));
}

static bool
owner_may_read(Oid table)
{
	return !OidIsValid(table) || pg_class_aclcheck(table, pst_owner_of(table), ACL_SELECT) == ACLCHECK_OK;
}

static void
count_rows(Preflight *preflight)
{
	if (!preflight->can_count || !owner_may_read(preflight->place.events) || !owner_may_read(preflight->place.stats))
		return;
	if (!OidIsValid(preflight->tables.stats))
		assume_stats(preflight);
	put_unmovable(preflight);
	if (OidIsValid(preflight->tables.stats))
		put_unknown_prompts(preflight);
}

/* ---- entry point ---- */

static void
put_findings(Preflight *preflight)
{
	ListCell   *lc;

	foreach(lc, list_findings(preflight->place.events, preflight->place.stats))
	{
		Finding    *finding = lfirst(lc);

		put_row(preflight, finding->object, finding->name, finding->consequence, finding->statement);
	}
}

/* prompt_stats_preflight(events regclass, stats regclass) returns rows (object, finding, consequence, statement) */
Datum
prompt_stats_preflight(PG_FUNCTION_ARGS)
{
	Preflight	preflight = {
		.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo,
		.named = pst_named_place(fcinfo)
	};

	InitMaterializedSRF(fcinfo, 0);
	preflight.place = preflight.named;
	preflight.tables.schema = pst_extension_schema();
	if (!try(&preflight, find_place, "tables"))
		return (Datum) 0;
	check_may_look(&preflight.place);

	SPI_connect();
	look_at_place(&preflight);
	put_findings(&preflight);
	count_rows(&preflight);
	SPI_finish();
	return (Datum) 0;
}
