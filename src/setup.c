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
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(prompt_stats_setup);

typedef struct Setup
{
	Oid			home;			/* schema of the tables */
	Oid			prompts;		/* table prompts in it, or InvalidOid */
	Oid			events;
	Oid			stats;
} Setup;

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

static void
find(Setup *setup)
{
	Oid			chosen_events;
	Oid			chosen_stats;

	pst_find_chosen(&chosen_events, &chosen_stats);
	if (OidIsValid(setup->stats) || OidIsValid(setup->events))
		setup->home = get_rel_namespace(OidIsValid(setup->stats) ? setup->stats : setup->events);
	else
	{
		setup->stats = chosen_stats;
		setup->events = chosen_events;
		setup->home = OidIsValid(chosen_stats) ? get_rel_namespace(chosen_stats) :
			OidIsValid(chosen_events) ? get_rel_namespace(chosen_events) : find_home(pst_extension_schema());
	}
	if (!OidIsValid(setup->events))
		setup->events = take_unasked("prompt_events", setup->home);
	if (!OidIsValid(setup->stats))
		setup->stats = take_unasked("prompt_stats", setup->home);
	setup->prompts = find_locked("prompts", setup->home);
	if (OidIsValid(setup->prompts) && get_rel_relkind(setup->prompts) != RELKIND_RELATION &&
		get_rel_relkind(setup->prompts) != RELKIND_PARTITIONED_TABLE)
		setup->prompts = InvalidOid;
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
static AttrNumber
key_of(Oid table)
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
	AttrNumber	key = key_of(prompts);

	if (key == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table %s has no primary key of one column", name),
				 errdetail("The tables to be created would hold its ids."),
				 errhint("Add one, with ALTER TABLE %s ADD PRIMARY KEY (id); or create the tables prompt_events and prompt_stats yourself.",
						 name)));
	if (!is_id_type(get_atttype(prompts, key)))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the key of table %s is of type %s, not uuid, bigint, integer, text or varchar",
						name, type_of_column(prompts, key)),
				 errhint("Create the tables prompt_events and prompt_stats yourself, with ids of one of these types.")));
}

/* As the other table has it, else as prompts has it */
static const char *
type_of_ids(const Setup *setup)
{
	Oid			table = OidIsValid(setup->stats) ? setup->stats : setup->events;
	AttrNumber	column = OidIsValid(table) ? get_attnum(table, "prompt_id") : InvalidAttrNumber;

	if (column != InvalidAttrNumber && is_id_type(get_atttype(table, column)))
		return type_of_column(table, column);
	return OidIsValid(setup->prompts) ? type_of_column(setup->prompts, key_of(setup->prompts)) : "uuid";
}

static const char *
type_of_users(const Setup *setup, const char *id_type)
{
	Oid			users = find_locked("users", setup->home);
	AttrNumber	key = InvalidAttrNumber;

	if (OidIsValid(users) && get_rel_relkind(users) == RELKIND_RELATION)
		key = key_of(users);
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
static Oid
future_owner(const Setup *setup)
{
	Oid			owner = OidIsValid(setup->prompts) ? pst_owner_of(setup->prompts) : pst_owner_of_schema(setup->home);

	return is_member_of_role(GetUserId(), owner) ? owner : GetUserId();
}

/* Where default privileges would open it to others */
static void
close_table(Oid table)
{
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(table);
	char	   *others;

	(void) pst_run_as_extension("SELECT string_agg(DISTINCT CASE WHEN a.grantee = 0::oid THEN 'PUBLIC'"
								" ELSE a.grantee::regrole::text END, ', ')"
								" FROM pg_class c, LATERAL aclexplode(c.relacl) a"
								" WHERE c.oid = $1 AND a.grantee <> c.relowner",
								1, &type, &value);
	others = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (others != NULL)
		(void) pst_run_on_table(table, psprintf("REVOKE ALL ON TABLE %s FROM %s", pst_qualified_name(table), others),
								0, NULL, NULL);
}

/* The application's, from now on: neither the extension's nor the creator's */
static void
give_away(const Setup *setup, Oid table)
{
	Oid			owner = future_owner(setup);
	const char *name = pst_qualified_name(table);

	if (OidIsValid(getExtensionOfObject(RelationRelationId, table)))
		run_as_creator(psprintf("ALTER EXTENSION prompt_stats DROP TABLE %s", name));
	if (owner != GetUserId())
		run_as_creator(psprintf("ALTER TABLE %s OWNER TO %s", name,
								quote_identifier(GetUserNameFromId(owner, false))));
	close_table(table);
	if (OidIsValid(setup->prompts))
		(void) pst_run_on_table(table, psprintf("ALTER TABLE %s ADD FOREIGN KEY (prompt_id) REFERENCES %s ON DELETE CASCADE",
												name, pst_qualified_name(setup->prompts)),
								0, NULL, NULL);
	ereport(NOTICE, (errmsg("created table %s", name)));
}

static const char *
name_in(const Setup *setup, const char *name)
{
	return quote_qualified_identifier(get_namespace_name(setup->home), name);
}

/* Room on each page for the next version of its rows: updates stay HOT */
static Oid
create_stats(const Setup *setup, const char *id_type)
{
	const char *name = name_in(setup, "prompt_stats");
	Oid			table;

	run_as_creator(psprintf("CREATE TABLE %s ("
							"prompt_id %s PRIMARY KEY,"
							" view_count bigint NOT NULL DEFAULT 0,"
							" copy_count bigint NOT NULL DEFAULT 0,"
							" fork_count bigint NOT NULL DEFAULT 0,"
							" updated_at timestamptz) WITH (fillfactor = 70)", name, id_type));
	run_as_creator(psprintf("COMMENT ON COLUMN %s.updated_at IS '%s'", name, PST_UPDATED_AT_COMMENT));
	table = get_relname_relid("prompt_stats", setup->home);
	give_away(setup, table);
	return table;
}

static Oid
create_events(const Setup *setup, const char *id_type)
{
	const char *name = name_in(setup, "prompt_events");
	Oid			table;

	run_as_creator(psprintf("CREATE TABLE %s ("
							"id uuid PRIMARY KEY DEFAULT gen_random_uuid(),"
							" prompt_id %s NOT NULL,"
							" user_id %s,"
							" event_type text NOT NULL,"
							" created_at timestamptz NOT NULL DEFAULT now(),"
							" CONSTRAINT prompt_events_event_type_check"
							" CHECK (event_type IS NOT NULL AND event_type IN ('fork', 'compare_add')))",
							name, id_type, type_of_users(setup, id_type)));
	run_as_creator(psprintf("CREATE INDEX ON %s (prompt_id)", name));
	table = get_relname_relid("prompt_events", setup->home);
	give_away(setup, table);
	return table;
}

static void
create_missing(Setup *setup)
{
	const char *id_type;

	if (OidIsValid(setup->events) && OidIsValid(setup->stats))
		return;
	if (OidIsValid(setup->prompts))
		check_key_of_prompts(setup->prompts);
	id_type = type_of_ids(setup);
	if (!OidIsValid(setup->stats))
		setup->stats = create_stats(setup, id_type);
	if (!OidIsValid(setup->events))
		setup->events = create_events(setup, id_type);
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
	char	   *type;

	(void) pst_run_as_extension("SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute a"
								" WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped"
								" AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''"
								" AND a.attname <> ALL ($2::name[]) ORDER BY a.attnum LIMIT 1",
								lengthof(types), types, values);
	column = field(1);
	if (column == NULL)
		return;
	type = field(2);
	ereport(ERROR,
			(errcode(ERRCODE_NOT_NULL_VIOLATION),
			 errmsg("column \"%s\" of table %s is NOT NULL and has no default", column, pst_qualified_name(table)),
			 errdetail("The extension inserts rows without it."),
			 errhint("Give it one, with ALTER TABLE %s ALTER COLUMN %s SET DEFAULT %s;",
					 pst_qualified_name(table), quote_identifier(column),
					 strcmp(type, "uuid") == 0 ? "gen_random_uuid()" :
					 strncmp(type, "timestamp", 9) == 0 || strcmp(type, "date") == 0 ? "now()" : "'...'")));
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

/*
 * prompt_stats_setup(events regclass, stats regclass): creates or adopts the tables; as often
 * as you like.
 */
Datum
prompt_stats_setup(PG_FUNCTION_ARGS)
{
	Setup		setup = {
		.events = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0),
		.stats = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1)
	};
	const PstTables *tables;
	bool		is_clean;

	pst_check_may_write(fcinfo->flinfo->fn_oid);
	if (OidIsValid(setup.events))
		(void) pst_owner_of(setup.events);
	if (OidIsValid(setup.stats))
		(void) pst_owner_of(setup.stats);

	SPI_connect();
	find(&setup);
	create_missing(&setup);
	pst_check_may_choose(setup.events, setup.stats);
	pst_choose(setup.events, setup.stats);

	/* Reads the shape of both: an error where they can't be used */
	tables = pst_need_tables(InvalidOid);
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
	SPI_finish();
	PG_RETURN_VOID();
}
