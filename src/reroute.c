/*
 * reroute.c
 *		For rolling deployments: a trigger that counts a legacy view or copy, instead of
 *		inserting its row.
 */
#include "prompt_stats.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(prompt_stats_reroute);
PG_FUNCTION_INFO_V1(prompt_stats_enable_compat);
PG_FUNCTION_INFO_V1(prompt_stats_teardown);

/* ---- the trigger ---- */

/* Anybody may make a trigger of a table of his own, which must not be a way around a REVOKE */
static void
check_trigger(FunctionCallInfo fcinfo)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(data->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(data->tg_event) || !TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		RelationGetRelid(data->tg_relation) != pst_need_tables(fcinfo->flinfo->fn_oid)->events)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("reroute() is for the trigger that prompt_stats_enable_compat() makes"),
				 errhint("Count with increment_prompt_views() and increment_prompt_copies().")));
}

/* The function that an application would call, in the form for ids of this kind */
static Oid
counting_function(const PstTables *tables, PstIdKind kind, const char *name)
{
	List	   *names = list_make1(makeString(get_namespace_name(tables->schema)));
	Oid			type = pst_id_type(kind);

	names = lappend(names, makeString(pstrdup(name)));
	return LookupFuncName(names, 1, &type, false);
}

static void
count_legacy(const PstTables *tables, Datum id, Oid type, PstCounter counter)
{
	const char *name = counter == PST_VIEWS ? "increment_prompt_views" : "increment_prompt_copies";
	Oid			function = counting_function(tables, tables->event_id_kind, name);

	if (!pst_may_execute(function, GetUserId()))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, name);
	pst_check_may_write(function);
	if (getBaseType(type) == INT4OID)
		id = Int64GetDatum(DatumGetInt32(id));
	pst_count_one(function, id, tables->event_id_kind, counter, 1);
}

static bool
is_word(const char *value, const char *word)
{
	return value != NULL && strcmp(value, word) == 0;
}

/* prompt_stats_internal.reroute() */
Datum
prompt_stats_reroute(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	HeapTuple	row;
	TupleDesc	desc;
	int			column;
	char	   *event_type;
	Datum		id;
	bool		isnull;

	check_trigger(fcinfo);
	row = data->tg_trigtuple;
	if (pst_is_restoring())
		return PointerGetDatum(row);	/* its counters come with it */
	desc = RelationGetDescr(data->tg_relation);
	event_type = SPI_getvalue(row, desc, SPI_fnumber(desc, "event_type"));
	if (!is_word(event_type, "view") && !is_word(event_type, "copy"))
		return PointerGetDatum(row);

	column = SPI_fnumber(desc, "prompt_id");
	id = heap_getattr(row, column, desc, &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("prompt_id of a %s must not be null in table %s", event_type,
						pst_qualified_name(RelationGetRelid(data->tg_relation))),
				 errhint("Leave out the row where there is nothing to count.")));
	count_legacy(pst_need_tables(fcinfo->flinfo->fn_oid), id, SPI_gettypeid(desc, column),
				 is_word(event_type, "view") ? PST_VIEWS : PST_COPIES);
	return PointerGetDatum(NULL);
}

/* ---- on and off ---- */

static const PstTables *
own_tables(Oid function)
{
	const PstTables *tables;

	pst_check_may_write(function);
	tables = pst_need_tables(function);
	pst_check_owner(tables);
	return tables;
}

/* As the owner of prompt_events */
static void
alter_events(const PstTables *tables, const char *sql)
{
	(void) pst_run_on_table(tables->events, sql, 0, NULL, NULL);
}

/* A row that is not inserted can be no duplicate */
static void
check_accepted(FunctionCallInfo fcinfo, const PstTables *tables)
{
	List	   *accepted = pst_need_accepted(fcinfo, 0, PST_COMPAT);
	List	   *unaccepted = pst_find_unaccepted(tables, PST_COMPAT, accepted);

	if (unaccepted != NIL)
		pst_unaccepted_error(unaccepted, accepted, fcinfo->flinfo->fn_oid, "");
}

/*
 * prompt_stats_enable_compat(accept text[]).  ALWAYS: also for the apply worker of a
 * subscription, and for whoever else plays a replica.
 */
Datum
prompt_stats_enable_compat(PG_FUNCTION_ARGS)
{
	PstTables	tables = *own_tables(fcinfo->flinfo->fn_oid);

	SPI_connect();
	check_accepted(fcinfo, &tables);
	alter_events(&tables, psprintf("CREATE OR REPLACE TRIGGER prompt_stats_reroute BEFORE INSERT ON %s FOR EACH ROW"
								   " WHEN (NEW.event_type::pg_catalog.text OPERATOR(pg_catalog.=) 'view'::pg_catalog.text"
								   " OR NEW.event_type::pg_catalog.text OPERATOR(pg_catalog.=) 'copy'::pg_catalog.text)"
								   " EXECUTE FUNCTION prompt_stats_internal.reroute()", tables.events_name));
	alter_events(&tables, psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER prompt_stats_reroute", tables.events_name));
	SPI_finish();
	ereport(NOTICE,
			(errmsg("inserting a view or copy into table %s now counts it", tables.events_name),
			 errhint("When every application calls the functions, SELECT %s();",
					 quote_qualified_identifier(get_namespace_name(tables.schema), "prompt_stats_teardown"))));
	PG_RETURN_VOID();
}

/* Check and rows stay */
Datum
prompt_stats_teardown(PG_FUNCTION_ARGS)
{
	const PstTables *tables = own_tables(fcinfo->flinfo->fn_oid);

	SPI_connect();
	alter_events(tables, psprintf("DROP TRIGGER IF EXISTS prompt_stats_reroute ON %s", tables->events_name));
	SPI_finish();
	PG_RETURN_VOID();
}
