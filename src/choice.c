/*
 * choice.c
 *		Which two tables count: the one row of prompt_stats_internal.config.
 *
 * prompt_stats_setup() writes it, and so does every restore, because a dump brings the row
 * (COPY ... FROM stdin by whoever restores).  So everybody may insert, and what stands
 * between is here:
 *
 * - normalise_choice(), a trigger, replaces what the row remembers by what is so: tables
 *	 that were renamed or replaced since, places.
 * - admit_choice(), a CHECK, lets a row in only if it was inserted by whoever may choose its
 *	 tables, and makes room for it.  A CHECK and not a trigger, because triggers can be off:
 *	 in a replica's session, and for everybody while pg_restore --disable-triggers works.
 *
 * Where there is no row, tables of the usual names are found beside the extension or in
 * schema public, if they are no stranger's.
 */
#include "prompt_stats.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(prompt_stats_normalise_choice);
PG_FUNCTION_INFO_V1(prompt_stats_admit_choice);

/* Columns of config, and arguments of admit_choice() */
enum
{
	EVENTS,
	STATS,
	EVENTS_SCHEMA,
	EVENTS_NAME,
	STATS_SCHEMA,
	STATS_NAME,
	MIGRATION,
	NCOLUMNS
};

/* A table by its OID, for it may be moved; and where it was, for it may be replaced */
typedef struct Place
{
	Oid			table;
	NameData	schema;
	NameData	name;
} Place;

typedef struct Choice
{
	Place		events;
	Place		stats;
	char	   *migration;		/* NULL: no legacy rows are left */
} Choice;

/* ---- the row ---- */

static void
take_place(Place *place, Datum table, Datum schema, Datum name)
{
	place->table = DatumGetObjectId(table);
	place->schema = *DatumGetName(schema);
	place->name = *DatumGetName(name);
}

/* All but "migration" are NOT NULL */
static void
take_choice(Choice *choice, Datum *values, bool *nulls)
{
	take_place(&choice->events, values[EVENTS], values[EVENTS_SCHEMA], values[EVENTS_NAME]);
	take_place(&choice->stats, values[STATS], values[STATS_SCHEMA], values[STATS_NAME]);
	choice->migration = nulls[MIGRATION] ? NULL : TextDatumGetCString(values[MIGRATION]);
}

/* There must be one; if it is dropped while we wait for its lock, another, or the error that says so */
static Relation
open_config(void)
{
	Relation	rel;

	do
		rel = try_relation_open(pst_own_table("config"), AccessShareLock);
	while (rel == NULL);
	return rel;
}

/* False where nothing has been chosen yet */
static bool
read_choice(Choice *choice)
{
	Relation	rel = open_config();
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	row = systable_getnext(scan);
	bool		found = HeapTupleIsValid(row);

	if (found)
	{
		Datum		values[NCOLUMNS];
		bool		nulls[NCOLUMNS];

		for (int i = 0; i < NCOLUMNS; i++)
			values[i] = heap_getattr(row, i + 1, RelationGetDescr(rel), &nulls[i]);
		take_choice(choice, values, nulls);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* Where setup would look, too */
static void
take_default(Choice *choice)
{
	static const Place none = {.table = InvalidOid};

	choice->events = choice->stats = none;
	choice->migration = NULL;
	namestrcpy(&choice->events.schema, "public");
	namestrcpy(&choice->events.name, "prompt_events");
	namestrcpy(&choice->stats.schema, "public");
	namestrcpy(&choice->stats.name, "prompt_stats");
}

/* ---- from the row to the tables ---- */

/* A table of that name that may be ours unasked */
static Oid
find_unasked(const char *name, Oid schema)
{
	Oid			table = OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;

	return OidIsValid(table) && get_rel_relkind(table) == RELKIND_RELATION && !pst_is_strangers(table) ?
		table : InvalidOid;
}

/* Also what is no table, for the error that says so */
static Oid
find_usual(const char *name, Oid schema)
{
	Oid			table = get_relname_relid(name, schema);

	return OidIsValid(table) && get_rel_relkind(table) == RELKIND_RELATION ? find_unasked(name, schema) : table;
}

/*
 * A schema of that name may be another by now, so it must belong to somebody who could
 * have us count elsewhere anyway.
 */
static bool
is_trusted_schema(Oid schema)
{
	Oid			owner = pst_owner_of_schema(schema);

	return superuser_arg(owner) || pst_owns_database(owner);
}

static Oid
find_in(const char *schema_name, const char *name)
{
	Oid			schema = get_namespace_oid(schema_name, true);

	return OidIsValid(schema) && is_trusted_schema(schema) ? find_unasked(name, schema) : InvalidOid;
}

/*
 * The chosen table, wherever it was moved; or, where it is gone, what was made in its place,
 * as by a framework that loads a schema.  Where it was renamed and another stands in its
 * place, as tools that rewrite a table do it, it is the other.  Without another, one that was
 * chosen under a name of its own is followed; one of the usual name is gone, and may come back
 * under that name.
 */
static Oid
find_table(const Place *place, const char *usual, Oid home)
{
	const char *name = NameStr(place->name);
	Oid			table;

	if (OidIsValid(place->table) && SearchSysCacheExists1(RELOID, ObjectIdGetDatum(place->table)))
	{
		if (strcmp(get_rel_name(place->table), name) == 0)
			return place->table;
		table = find_unasked(name, get_rel_namespace(place->table));
		if (OidIsValid(table))
			return table;
		if (strcmp(name, usual) != 0)
			return place->table;
	}
	table = find_in(NameStr(place->schema), name);
	return OidIsValid(table) ? table : find_usual(usual, home);
}

/* Where nothing was chosen, what stands beside the extension comes first */
static Oid
find_unchosen(const Place *place, Oid home)
{
	Oid			table = find_usual(NameStr(place->name), home);

	return OidIsValid(table) ? table : find_in(NameStr(place->schema), NameStr(place->name));
}

/* InvalidOid: none */
static void
find_both(Oid home, Oid *events, Oid *stats)
{
	Choice		choice;

	if (read_choice(&choice))
	{
		*events = find_table(&choice.events, "prompt_events", home);
		*stats = find_table(&choice.stats, "prompt_stats", home);
	}
	else
	{
		take_default(&choice);
		*events = find_unchosen(&choice.events, home);
		*stats = find_unchosen(&choice.stats, home);
	}
}

void
pst_find_tables(PstTables *tables)
{
	find_both(tables->schema, &tables->events, &tables->stats);
}

/* Without a look at their shape, which may be one that can't be used; InvalidOid: none */
void
pst_find_chosen(Oid *events, Oid *stats)
{
	find_both(pst_extension_schema(), events, stats);
}

static void
check_no_stranger_in(Oid schema, const char *name, const Choice *choice)
{
	Oid			table = OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;

	if (OidIsValid(table) && get_rel_relkind(table) == RELKIND_RELATION)
		pst_stranger_error(table, NameStr(choice->events.name), NameStr(choice->stats.name));
}

/*
 * Where there is none to count in: does one stand where it would, and is not used, because
 * anybody may have made it?
 */
void
pst_check_no_stranger(const char *usual)
{
	Choice		choice;
	const Place *place;

	if (!read_choice(&choice))
		take_default(&choice);
	place = strcmp(usual, "prompt_events") == 0 ? &choice.events : &choice.stats;
	check_no_stranger_in(pst_extension_schema(), usual, &choice);
	check_no_stranger_in(get_namespace_oid(NameStr(place->schema), true), NameStr(place->name), &choice);
}

/* ---- who may choose ---- */

/* Whoever owns what is chosen now; where nothing is, the owner of the database, and who may create beside us */
void
pst_check_may_choose(Oid events, Oid stats)
{
	Oid			schema = pst_extension_schema();
	PstTables	chosen = {0};

	pst_find_chosen(&chosen.events, &chosen.stats);
	pst_check_owner(&chosen);
	if ((!OidIsValid(chosen.stats) || !OidIsValid(chosen.events)) &&
		!pst_may_create_in(schema, GetUserId()) && !pst_owns_database(GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to choose the tables of extension prompt_stats"),
				 errhint("Grant the right to create in its schema, with GRANT CREATE ON SCHEMA %s TO %s;",
						 quote_identifier(get_namespace_name(schema)),
						 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
	chosen.events = events;
	chosen.stats = stats;
	pst_check_owner(&chosen);
}

static bool
is_at(const Place *place)
{
	return OidIsValid(place->table) && get_rel_name(place->table) != NULL &&
		strcmp(get_rel_name(place->table), NameStr(place->name)) == 0 &&
		strcmp(get_namespace_name(get_rel_namespace(place->table)), NameStr(place->schema)) == 0;
}

/* As normalise_choice() leaves them; else a place could name what is not his */
static void
check_places(const Choice *choice)
{
	if (!is_at(&choice->events) || !is_at(&choice->stats))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to choose tables by places where they are not"),
				 errhint("Restore with triggers enabled.")));
}

/* ---- writing the row ---- */

/* In a restore row_security is off (pg_backup_archiver.c), or pg_restore has given its name */
bool
pst_is_restoring(void)
{
	return !row_security || (application_name != NULL && strcmp(application_name, "pg_restore") == 0);
}

/* All columns but "migration", as the tables are now; "names" has room for what values point to */
static void
describe(Datum *values, NameData * names, Oid events, Oid stats)
{
	values[EVENTS] = ObjectIdGetDatum(events);
	values[STATS] = ObjectIdGetDatum(stats);
	namestrcpy(&names[EVENTS_SCHEMA], get_namespace_name(get_rel_namespace(events)));
	namestrcpy(&names[EVENTS_NAME], get_rel_name(events));
	namestrcpy(&names[STATS_SCHEMA], get_namespace_name(get_rel_namespace(stats)));
	namestrcpy(&names[STATS_NAME], get_rel_name(stats));
	for (int i = EVENTS_SCHEMA; i <= STATS_NAME; i++)
		values[i] = NameGetDatum(&names[i]);
}

/*
 * The CHECK is a part of every INSERT, so the row that was there is gone whichever way the
 * new one comes.
 */
static void
insert_choice(Oid events, Oid stats, const char *migration)
{
	Oid			types[] = {REGCLASSOID, REGCLASSOID, NAMEOID, NAMEOID, NAMEOID, NAMEOID, TEXTOID};
	Datum		values[NCOLUMNS];
	NameData	names[NCOLUMNS];

	StaticAssertStmt(lengthof(types) == NCOLUMNS, "a type for each column");
	describe(values, names, events, stats);
	values[MIGRATION] = CStringGetTextDatum(migration != NULL ? migration : "");
	(void) pst_run_as_extension(psprintf("INSERT INTO %s (events, stats, events_schema, events_name,"
										 " stats_schema, stats_name, migration)"
										 " VALUES ($1, $2, $3, $4, $5, $6, NULLIF($7, ''))", pst_own_name("config")),
								lengthof(types), types, values);
}

/* From now on they are counted in, whatever becomes of their names and schemas */
void
pst_choose(Oid events, Oid stats)
{
	Choice		choice = {.migration = NULL};
	Oid			chosen_events;
	Oid			chosen_stats;

	pst_find_chosen(&chosen_events, &chosen_stats);
	if (chosen_events == events && chosen_stats == stats)
		(void) read_choice(&choice);
	insert_choice(events, stats, choice.migration);
}

/* 'due', or the mode of a migration that is under way; NULL: no legacy rows are left */
const char *
pst_get_migration(void)
{
	Choice		choice = {.migration = NULL};

	(void) read_choice(&choice);
	return choice.migration;
}

void
pst_set_migration(const PstTables *tables, const char *migration)
{
	const char *known = pst_get_migration();

	if (known == NULL ? migration != NULL : migration == NULL || strcmp(known, migration) != 0)
		insert_choice(tables->events, tables->stats, migration);
}

/* For a dump: may it bring rows that the check refuses? */
void
pst_note_legacy(const PstTables *tables, bool is_clean)
{
	const char *known = pst_get_migration();

	if (known == NULL || strcmp(known, "due") == 0)
		pst_set_migration(tables, is_clean ? NULL : "due");
}

/* ---- what an INSERT goes through ---- */

static void
check_trigger(FunctionCallInfo fcinfo)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(data->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(data->tg_event) || !TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		RelationGetRelid(data->tg_relation) != pst_own_table("config"))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("normalise_choice() is for the trigger of table prompt_stats_internal.config")));
}

/* Of the row that the trigger sees; false where a column is NULL that must not be */
static bool
read_new_row(const TriggerData * data, Datum *values, bool *nulls)
{
	bool		complete = true;

	for (int i = 0; i < NCOLUMNS; i++)
	{
		values[i] = heap_getattr(data->tg_trigtuple, i + 1, RelationGetDescr(data->tg_relation), &nulls[i]);
		complete &= !nulls[i] || i == MIGRATION;
	}
	return complete;
}

/* Such a row would make everybody look at places where nothing is */
static void
warn_of_missing(void)
{
	ereport(WARNING,
			(errmsg("no tables are chosen for extension prompt_stats, because those to be chosen are gone"),
			 errhint("Choose others with SELECT %s.prompt_stats_setup();",
					 quote_identifier(get_namespace_name(pst_extension_schema())))));
}

/* prompt_stats_internal.normalise_choice() */
Datum
prompt_stats_normalise_choice(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	int			columns[] = {EVENTS + 1, STATS + 1, EVENTS_SCHEMA + 1, EVENTS_NAME + 1, STATS_SCHEMA + 1, STATS_NAME + 1};
	Datum		values[NCOLUMNS];
	NameData	names[NCOLUMNS];
	bool		nulls[NCOLUMNS];
	Choice		choice;
	Oid			events;
	Oid			stats;

	check_trigger(fcinfo);
	if (!read_new_row(data, values, nulls))
		return PointerGetDatum(data->tg_trigtuple); /* and the server refuses
													 * it */
	take_choice(&choice, values, nulls);
	events = find_table(&choice.events, "prompt_events", pst_extension_schema());
	stats = find_table(&choice.stats, "prompt_stats", pst_extension_schema());
	if (!OidIsValid(events) || !OidIsValid(stats))
	{
		warn_of_missing();
		return PointerGetDatum(NULL);
	}
	describe(values, names, events, stats);
	return PointerGetDatum(heap_modify_tuple_by_cols(data->tg_trigtuple, RelationGetDescr(data->tg_relation),
													 lengthof(columns), columns, values, nulls));
}

/*
 * Of one row there is no second; for whoever inserts, who may not delete.  The lock lets those
 * who choose at the same time see each other's row.
 */
static void
make_room(void)
{
	LockRelationOid(pst_own_table("config"), ShareUpdateExclusiveLock);
	SPI_connect();
	(void) pst_run_as_extension(psprintf("DELETE FROM %s", pst_own_name("config")), 0, NULL, NULL);
	SPI_finish();
	CacheInvalidateRelcacheByRelid(pst_own_table("config"));
}

/*
 * prompt_stats_internal.admit_choice(events, stats, events_schema, events_name, stats_schema,
 * stats_name, migration): true, or an error.  Called by itself it does no more than whoever
 * calls may do: forget what was chosen.
 */
Datum
prompt_stats_admit_choice(PG_FUNCTION_ARGS)
{
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS];
	Choice		choice;

	for (int i = 0; i < NCOLUMNS; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i);
		/* The columns are NOT NULL, which the server has checked before */
		if (nulls[i] && i != MIGRATION)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("a choice of tables must not be null")));
	}
	take_choice(&choice, values, nulls);
	if (!pst_owns_table(pst_own_table("config"), GetUserId()))
	{
		check_places(&choice);
		pst_check_may_choose(choice.events.table, choice.stats.table);
	}
	if (choice.migration != NULL && pst_is_restoring())
		pst_make_way_for_legacy(choice.events.table, choice.migration);
	make_room();
	PG_RETURN_BOOL(true);
}
