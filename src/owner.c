/*
 * owner.c
 *		Who owns a table, and the right to administer it.
 */
#include "prompt_stats.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/* A regclass may be the number of what does not exist */
static void
no_table_error(Oid table)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("table with OID %u does not exist", table),
			 errhint("Name the table, as in 'public.prompt_stats'.")));
}

Oid
pst_owner_of(Oid table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		no_table_error(table);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

const char *
pst_qualified_name(Oid table)
{
	char	   *name = get_rel_name(table);
	char	   *schema = get_namespace_name(get_rel_namespace(table));

	if (name == NULL || schema == NULL)
		no_table_error(table);
	return quote_qualified_identifier(schema, name);
}

static Oid
owner_of_database(void)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for database %u", MyDatabaseId);
	owner = ((Form_pg_database) GETSTRUCT(tuple))->datdba;
	ReleaseSysCache(tuple);
	return owner;
}

/* Or is a superuser, or a member of the role that does */
bool
pst_owns_database(Oid role)
{
	return has_privs_of_role(role, owner_of_database());
}

/* Of schema public it is pg_database_owner, and who that is */
Oid
pst_owner_of_schema(Oid schema)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(schema));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema %u", schema);
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner == ROLE_PG_DATABASE_OWNER ? owner_of_database() : owner;
}

/*
 * Whoever may create in a schema can make a table of one of our names.  Unasked we take one
 * only from a superuser, or from the owner of the database, of the schema, or of table
 * prompts beside it.
 */
bool
pst_is_strangers(Oid table)
{
	Oid			schema = get_rel_namespace(table);
	Oid			prompts = get_relname_relid("prompts", schema);
	Oid			owner = pst_owner_of(table);

	return !superuser_arg(owner) && owner != owner_of_database() && owner != pst_owner_of_schema(schema) &&
		!(OidIsValid(prompts) && owner == pst_owner_of(prompts));
}

/* As an argument of prompt_stats_setup(); empty where there is no such table */
static const char *
setup_argument(const char *argument, const char *name, Oid schema)
{
	Oid			table = get_relname_relid(name, schema);

	return OidIsValid(table) ? psprintf("%s => %s", argument, quote_literal_cstr(pst_qualified_name(table))) : "";
}

/* Why it is not used: who owns it, or the schema, could be anybody */
static const char *
why_strangers(Oid table)
{
	return pst_is_strangers(table) ? "That role owns neither the database, nor the schema, nor table prompts." :
		"It stands in place of another, in a schema that may have been made anew by anybody.";
}

/* The names are those of the two tables in its schema, for the hint */
void
pst_stranger_error(Oid table, const char *events_name, const char *stats_name)
{
	Oid			schema = get_rel_namespace(table);
	const char *home = quote_identifier(get_namespace_name(pst_extension_schema()));
	const char *events = setup_argument("events", events_name, schema);
	const char *stats = setup_argument("stats", stats_name, schema);

	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("table %s belongs to role \"%s\", and is not used unasked",
					pst_qualified_name(table), GetUserNameFromId(pst_owner_of(table), false)),
			 errdetail("%s", why_strangers(table)),
			 errhint("If it is the application's, name it, with %sSELECT %s.prompt_stats_setup(%s%s%s);",
					 creating_extension ?
					 psprintf("SET prompt_stats.skip_setup = on; CREATE EXTENSION prompt_stats SCHEMA %s; ", home) : "",
					 home, events, *events && *stats ? ", " : "", stats)));
}

void
pst_check_owner_of(Oid table)
{
	if (OidIsValid(table) && !pst_owns_table(table, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table \"%s\"", get_rel_name(table)),
				 errhint("Call it as a member of role \"%s\".",
						 GetUserNameFromId(pst_owner_of(table), false))));
}

/* A REVOKE is not enough: default privileges may give everybody EXECUTE */
void
pst_check_owner(const PstTables *tables)
{
	pst_check_owner_of(tables->stats);
	pst_check_owner_of(tables->events);
}
