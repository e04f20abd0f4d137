/*
 * setup.c
 *		prompt_stats_setup(): creates the two tables, or adopts those that are there.
 *
 * A new table is created as the caller, given to its owner, and only then gets its foreign
 * key, as that owner: so no statement with another role's rights names a table that somebody
 * else owns (run.c).
 */
#include "prompt_stats.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(prompt_stats_setup);

/* ---- which tables ---- */

/* For tables that don't exist yet: beside those of the application that do */
static Oid
find_home(Oid extension_schema)
{
	static const char *const names[] = {"prompt_stats", "prompt_events", "prompts"};
	Oid			schemas[] = {extension_schema, get_namespace_oid("public", true)};

	for (size_t first = 0; first < lengthof(names); first += 2)
		for (size_t s = 0; s < lengthof(schemas); s++)
			for (size_t n = first; n < lengthof(names) && n < first + 2; n++)
				if (OidIsValid(schemas[s]) && OidIsValid(get_relname_relid(names[n], schemas[s])))
					return schemas[s];
	return extension_schema;
}

/* A table of one of the usual names, which nobody has named to us */
static Oid
take_unasked(const char *name, Oid schema)
{
	Oid			table = get_relname_relid(name, schema);

	if (OidIsValid(table) && pst_is_strangers(table))
		pst_stranger_error(table, "prompt_events", "prompt_stats");
	return table;
}

/* Locked, for one that is dropped meanwhile is none, and there may be another in its place */
static Oid
find_locked(const char *name, Oid schema)
{
	Oid			table;

	while (OidIsValid(table = get_relname_relid(name, schema)))
	{
		LockRelationOid(table, AccessShareLock);
		if (get_relname_relid(name, schema) == table)
			break;
		UnlockRelationOid(table, AccessShareLock);
	}
	return table;
}

/*
 * The tables to adopt: those that are named, else those that were chosen, else those of the
 * usual names.  What there is none of will be created in the same schema.
 */
void
pst_find_place(PstPlace *place)
{
	Oid			chosen_events;
	Oid			chosen_stats;

	pst_find_chosen(&chosen_events, &chosen_stats);
	if (OidIsValid(place->stats) || OidIsValid(place->events))
		place->home = get_rel_namespace(OidIsValid(place->stats) ? place->stats : place->events);
	else
	{
		place->stats = chosen_stats;
		place->events = chosen_events;
		place->home = OidIsValid(chosen_stats) ? get_rel_namespace(chosen_stats) :
			OidIsValid(chosen_events) ? get_rel_namespace(chosen_events) : find_home(pst_extension_schema());
	}
	if (!OidIsValid(place->events))
		place->events = take_unasked("prompt_events", place->home);
	if (!OidIsValid(place->stats))
		place->stats = take_unasked("prompt_stats", place->home);
	place->prompts = find_locked("prompts", place->home);
	if (OidIsValid(place->prompts) && get_rel_relkind(place->prompts) != RELKIND_RELATION &&
		get_rel_relkind(place->prompts) != RELKIND_PARTITIONED_TABLE)
		place->prompts = InvalidOid;
}

/* ---- the types of their ids ---- */

static char *
type_of_column(Oid table, AttrNumber column)
{
	Oid			type;
	Oid			collation;
	int32		typmod;

	get_atttypetypmodcoll(table, column, &type, &typmod, &collation);
	return format_type_with_typemod(type, typmod);
}

/* InvalidAttrNumber where the primary key is not of one column */
AttrNumber
pst_key_of(Oid table)
{
	Relation	rel = table_open(table, AccessShareLock);
	AttrNumber	column = InvalidAttrNumber;
	Relation	index;

	list_free(RelationGetIndexList(rel));	/* which sets rd_pkindex */
	if (OidIsValid(rel->rd_pkindex))
	{
		index = index_open(rel->rd_pkindex, AccessShareLock);
		if (index->rd_index->indnkeyatts == 1)
			column = index->rd_index->indkey.values[0];
		index_close(index, AccessShareLock);
	}
	table_close(rel, AccessShareLock);
	return column;
}

static bool
may_add_key(Oid table)
{
	Relation	rel = table_open(table, AccessShareLock);
	bool		has_key = OidIsValid(RelationGetPrimaryKeyIndex(rel));

	table_close(rel, AccessShareLock);
	return !has_key && get_attnum(table, "id") != InvalidAttrNumber;
}

/* Built in, so that its name means the same whoever reads it */
static bool
is_id_type(Oid type)
{
	return type == UUIDOID || type == INT8OID || type == INT4OID || type == TEXTOID || type == VARCHAROID;
}

static void
check_key_of_prompts(Oid prompts)
{
	const char *name = pst_qualified_name(prompts);
	AttrNumber	key = pst_key_of(prompts);

	if (key == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table %s has no primary key of one column", name),
				 errdetail("The tables to be created would hold its ids."),
				 may_add_key(prompts) ?
				 errhint("Add one, with ALTER TABLE %s ADD PRIMARY KEY (id);", name) :
				 errhint("Create the tables prompt_events and prompt_stats yourself.")));
	if (!is_id_type(get_atttype(prompts, key)))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the key of table %s is of type %s, not uuid, bigint, integer, text or varchar",
						name, type_of_column(prompts, key)),
				 errhint("Create the tables prompt_events and prompt_stats yourself, with ids of one of these types.")));
}

/* As the other table has it, else as prompts has it */
const char *
pst_type_of_ids(const PstPlace *place)
{
	Oid			table = OidIsValid(place->stats) ? place->stats : place->events;
	AttrNumber	column = OidIsValid(table) ? get_attnum(table, "prompt_id") : InvalidAttrNumber;

	if (column != InvalidAttrNumber && is_id_type(get_atttype(table, column)))
		return type_of_column(table, column);
	return OidIsValid(place->prompts) ? type_of_column(place->prompts, pst_key_of(place->prompts)) : "uuid";
}

static const char *
type_of_users(const PstPlace *place, const char *id_type)
{
	Oid			users = find_locked("users", place->home);
	AttrNumber	key = InvalidAttrNumber;

	if (OidIsValid(users) && get_rel_relkind(users) == RELKIND_RELATION)
		key = pst_key_of(users);
	return key != InvalidAttrNumber && is_id_type(get_atttype(users, key)) ? type_of_column(users, key) : id_type;
}

/* ---- creating ---- */

/* The creator is the owner of the table as yet */
static void
run_as_creator(const char *sql)
{
	PstScope	scope = pst_scope_of(GetUserId(), PST_SAFE_PATH);

	(void) pst_run_in(&scope, sql, 0, NULL, NULL);
}

/* The owner of prompts, else of the schema, if that is a role that the caller can give it to */
Oid
pst_future_owner(const PstPlace *place)
{
	Oid			owner = OidIsValid(place->prompts) ? pst_owner_of(place->prompts) : pst_owner_of_schema(place->home);

	return is_member_of_role(GetUserId(), owner) ? owner : GetUserId();
}

/* Those whom default privileges have given something; NULL: nobody */
static char *
others_of(Oid table)
{
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(table);

	(void) pst_run_as_extension("SELECT string_agg(DISTINCT CASE WHEN a.grantee = 0::oid THEN 'PUBLIC'"
								" ELSE a.grantee::regrole::text END, ', ')"
								" FROM pg_class c, LATERAL aclexplode(c.relacl) a"
								" WHERE c.oid = $1 AND a.grantee <> c.relowner",
								1, &type, &value);
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/*
 * The application's, from now on: neither the extension's nor the creator's.  Rights are
 * taken first, because ALTER EXTENSION forgets which were the extension's initial ones.
 */
static void
give_away(const PstPlace *place, Oid table)
{
	Oid			owner = pst_future_owner(place);
	const char *name = pst_qualified_name(table);
	char	   *others = others_of(table);

	if (others != NULL)
		run_as_creator(psprintf("REVOKE ALL ON TABLE %s FROM %s", name, others));
	if (OidIsValid(getExtensionOfObject(RelationRelationId, table)))
		run_as_creator(psprintf("ALTER EXTENSION prompt_stats DROP TABLE %s", name));
	if (owner != GetUserId())
		run_as_creator(psprintf("ALTER TABLE %s OWNER TO %s", name,
								quote_identifier(GetUserNameFromId(owner, false))));
	if (OidIsValid(place->prompts))
		(void) pst_run_on_table(table, psprintf("ALTER TABLE %s ADD FOREIGN KEY (prompt_id) REFERENCES %s ON DELETE CASCADE",
												name, pst_qualified_name(place->prompts)),
								0, NULL, NULL);
	ereport(NOTICE,
			(errmsg("created table %s", name),
			 others == NULL ? 0 :
			 errdetail("It is closed to %s, whom default privileges would have given rights.", others)));
}

static const char *
name_in(const PstPlace *place, const char *name)
{
	return quote_qualified_identifier(get_namespace_name(place->home), name);
}

/* Room on each page for the next version of its rows: updates stay HOT */
static Oid
create_stats(const PstPlace *place, const char *id_type)
{
	const char *name = name_in(place, "prompt_stats");
	Oid			table;

	run_as_creator(psprintf("CREATE TABLE %s ("
							"prompt_id %s PRIMARY KEY,"
							" view_count bigint NOT NULL DEFAULT 0,"
							" copy_count bigint NOT NULL DEFAULT 0,"
							" fork_count bigint NOT NULL DEFAULT 0,"
							" updated_at timestamptz) WITH (fillfactor = 70)", name, id_type));
	run_as_creator(psprintf("COMMENT ON COLUMN %s.updated_at IS '%s'", name, PST_UPDATED_AT_COMMENT));
	table = get_relname_relid("prompt_stats", place->home);
	give_away(place, table);
	return table;
}

static Oid
create_events(const PstPlace *place, const char *id_type)
{
	const char *name = name_in(place, "prompt_events");
	Oid			table;

	run_as_creator(psprintf("CREATE TABLE %s ("
							"id uuid PRIMARY KEY DEFAULT gen_random_uuid(),"
							" prompt_id %s NOT NULL,"
							" user_id %s,"
							" event_type text NOT NULL,"
							" created_at timestamptz NOT NULL DEFAULT now(),"
							" CONSTRAINT prompt_events_event_type_check"
							" CHECK (event_type IS NOT NULL AND event_type IN ('fork', 'compare_add')))",
							name, id_type, type_of_users(place, id_type)));
	run_as_creator(psprintf("CREATE INDEX ON %s (prompt_id)", name));
	table = get_relname_relid("prompt_events", place->home);
	give_away(place, table);
	return table;
}

/* Can what is missing be created? */
void
pst_check_place(const PstPlace *place)
{
	if (OidIsValid(place->prompts) && !(OidIsValid(place->events) && OidIsValid(place->stats)))
		check_key_of_prompts(place->prompts);
}

static void
create_missing(PstPlace *place)
{
	const char *id_type;

	pst_check_place(place);
	id_type = pst_type_of_ids(place);
	if (!OidIsValid(place->stats))
		place->stats = create_stats(place, id_type);
	if (!OidIsValid(place->events))
		place->events = create_events(place, id_type);
}

/* ---- guards ---- */

/* As a row of catalogs gives it; NULL where there is none */
static char *
field(int column)
{
	return SPI_processed == 0 ? NULL : SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);
}

/* Columns that we don't write need a default */
static void
check_defaults(Oid table, const char *ours)
{
	Oid			types[] = {OIDOID, TEXTOID};
	Datum		values[] = {ObjectIdGetDatum(table), CStringGetTextDatum(ours)};
	char	   *column;

	(void) pst_run_as_extension("SELECT a.attname FROM pg_attribute a"
								" WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped"
								" AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''"
								" AND a.attname <> ALL ($2::name[]) ORDER BY a.attnum LIMIT 1",
								lengthof(types), types, values);
	column = field(1);
	if (column == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_NOT_NULL_VIOLATION),
			 errmsg("column \"%s\" of table %s is NOT NULL and has no default", column, pst_qualified_name(table)),
			 errdetail("The extension inserts rows without it."),
			 errhint("Do without, by ALTER TABLE %s ALTER COLUMN %s", pst_qualified_name(table),
					 pst_do_without(table, column))));
}

/*
 * Each command needs a permissive policy that admits every row to the owner, and there may
 * be no restrictive one.
 */
static void
check_policies(Oid table)
{
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(table);

	(void) pst_run_as_extension("SELECT c.relowner::regrole"
								" FROM pg_class c JOIN pg_authid r ON r.oid = c.relowner"
								" WHERE c.oid = $1 AND c.relrowsecurity AND c.relforcerowsecurity"
								" AND NOT r.rolsuper AND NOT r.rolbypassrls AND ("
								"EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND NOT p.polpermissive)"
								" OR NOT (SELECT bool_and(EXISTS (SELECT FROM pg_policy p"
								" WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('*', cmd)"
								" AND (0::oid = ANY (p.polroles) OR EXISTS (SELECT FROM unnest(p.polroles) m"
								" WHERE m <> 0::oid AND pg_has_role(c.relowner, m, 'USAGE')))"
								" AND COALESCE(pg_get_expr(p.polqual, c.oid), 'true') = 'true'"
								" AND COALESCE(pg_get_expr(p.polwithcheck, c.oid), 'true') = 'true'))"
								" FROM unnest(ARRAY['r', 'a', 'w', 'd']::\"char\"[]) cmd))",
								1, &type, &value);
	if (SPI_processed == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("FORCE ROW LEVEL SECURITY on table %s stops its owner %s", pst_qualified_name(table), field(1)),
			 errdetail("Rows are counted as the owner of the table."),
			 errhint("Exempt the owner, with ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;", pst_qualified_name(table))));
}

void
pst_check_stats_adoptable(Oid stats)
{
	check_defaults(stats, "{prompt_id,view_count,copy_count,fork_count}");
	check_policies(stats);
}

void
pst_check_events_adoptable(Oid events)
{
	check_defaults(events, "{prompt_id,user_id,event_type,created_at}");
	check_policies(events);
}

/* ---- updated_at ---- */

/* What it says beside ours */
static char *
rest_of_comment(Oid table, AttrNumber column)
{
	char	   *comment = GetComment(table, RelationRelationId, column);
	char	   *ours;

	if (comment == NULL)
		return pstrdup("");
	ours = pst_find_own_comment(comment);
	if (ours != NULL)
		*(ours > comment ? ours - 1 : ours) = '\0';
	return comment;
}

/* The statement that makes points in time of what the column holds */
const char *
pst_make_time_of(Oid stats)
{
	char		category;
	bool		is_preferred;

	get_type_category_preferred(get_atttype(stats, get_attnum(stats, "updated_at")), &category, &is_preferred);
	return pst_alteration(stats, "updated_at",
						  psprintf("ALTER COLUMN updated_at TYPE timestamptz USING %s",
								   category == TYPCATEGORY_STRING ? "updated_at::timestamptz" :
								   category == TYPCATEGORY_NUMERIC ? "to_timestamp(updated_at)" : "NULL"));
}

static void
check_touched(const PstTables *tables)
{
	Oid			type = get_atttype(tables->stats, get_attnum(tables->stats, "updated_at"));

	if (!tables->sets_updated_at)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"updated_at\" of table %s is of type %s, which holds no point in time",
						tables->stats_name, format_type_be(type)),
				 errhint("Change it with %s", pst_make_time_of(tables->stats))));
}

/* The comment on the column tells that it is ours to set: tables.c */
static void
touch(Oid stats, bool ours)
{
	AttrNumber	column = get_attnum(stats, "updated_at");
	const char *name = pst_qualified_name(stats);
	char	   *rest;

	if (column == InvalidAttrNumber && !ours)
		return;
	if (column == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table %s has no column \"updated_at\"", name),
				 errhint("Add it with ALTER TABLE %s ADD COLUMN updated_at timestamptz;", name)));
	rest = rest_of_comment(stats, column);
	(void) pst_run_on_table(stats, psprintf("COMMENT ON COLUMN %s.updated_at IS %s", name,
											quote_literal_cstr(!ours ? rest : *rest == '\0' ? PST_UPDATED_AT_COMMENT :
															   psprintf("%s\n%s", rest, PST_UPDATED_AT_COMMENT))),
							0, NULL, NULL);
	CacheInvalidateRelcacheByRelid(stats);
	CommandCounterIncrement();
	if (ours)
		check_touched(pst_need_tables(InvalidOid));
}

/* The first two arguments: events regclass, stats regclass */
PstPlace
pst_named_place(FunctionCallInfo fcinfo)
{
	PstPlace	place = {
		.events = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0),
		.stats = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1)
	};

	if (OidIsValid(place.events))
		(void) pst_owner_of(place.events);
	if (OidIsValid(place.stats))
		(void) pst_owner_of(place.stats);
	return place;
}

/*
 * prompt_stats_setup(events regclass, stats regclass, touch boolean): creates or adopts the
 * tables; as often as you like.
 */
Datum
prompt_stats_setup(PG_FUNCTION_ARGS)
{
	PstPlace	place;
	const PstTables *tables;
	bool		is_clean;

	pst_check_may_write(fcinfo->flinfo->fn_oid);
	place = pst_named_place(fcinfo);
	SPI_connect();
	pst_find_place(&place);
	pst_check_may_choose(place.events, place.stats);	/* who may not create,
														 * either */
	create_missing(&place);
	pst_check_may_choose(place.events, place.stats);
	pst_choose(place.events, place.stats);

	/* Reads the shape of both: an error where they can't be used */
	tables = pst_need_tables(InvalidOid);
	if (!PG_ARGISNULL(2))
		touch(tables->stats, PG_GETARG_BOOL(2));
	pst_check_stats_adoptable(tables->stats);
	pst_check_events_adoptable(tables->events);
	is_clean = pst_guard_events(tables);
	pst_note_legacy(tables, is_clean);

	ereport(NOTICE,
			(errmsg("counting into table %s, events in table %s", tables->stats_name, tables->events_name)));
	if (!is_clean)
		ereport(NOTICE,
				(errmsg("table %s holds rows of other kinds than fork and compare_add", tables->events_name),
				 errhint("Move views and copies into the counters with CALL %s();",
						 quote_qualified_identifier(get_namespace_name(tables->schema), "prompt_stats_migrate"))));
	pst_tell_findings(tables, PST_PERHAPS);
	SPI_finish();
	PG_RETURN_VOID();
}
