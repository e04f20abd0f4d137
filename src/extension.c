/*
 * extension.c
 *		What the extension owns: its schemas, its tables, its owner.
 *
 * Found by name and membership in the extension, never by a search_path, and not by the
 * schema of the function that was called: whatever became of the names of schemas, it is
 * the extension's own.
 */
#include "prompt_stats.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

/* Nobody but the extension's owner may create in it */
#define INTERNAL_SCHEMA "prompt_stats_internal"

typedef struct Extension
{
	Oid			oid;
	Oid			owner;
	Oid			schema;			/* the application's: of what it calls */
} Extension;

static void
no_extension_error(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("extension \"prompt_stats\" does not exist in this database"),
			 errhint("Create it with CREATE EXTENSION prompt_stats;")));
}

static Extension
find_extension(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	Extension	extension = {InvalidOid};
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("prompt_stats"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_extension form = (Form_pg_extension) GETSTRUCT(tuple);

		extension.oid = form->oid;
		extension.owner = form->extowner;
		extension.schema = form->extnamespace;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	if (!OidIsValid(extension.oid))
		no_extension_error();
	return extension;
}

/* The schema where the functions stand that applications call */
Oid
pst_extension_schema(void)
{
	return find_extension().schema;
}

Oid
pst_extension_owner(void)
{
	return find_extension().owner;
}

static void
missing_error(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("table \"%s.%s\" of extension prompt_stats is missing", INTERNAL_SCHEMA, name),
			 errdetail("It was renamed or moved, or another object stands in its place."),
			 errhint("Give it its name back, or drop the extension and create it again; the application's tables stay.")));
}

/* A table of the extension itself */
Oid
pst_own_table(const char *name)
{
	Oid			extension = find_extension().oid;
	Oid			schema = get_namespace_oid(INTERNAL_SCHEMA, true);
	Oid			table = OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;

	if (!OidIsValid(table) || getExtensionOfObject(RelationRelationId, table) != extension)
		missing_error(name);
	return table;
}

/* The same, as a statement names it */
const char *
pst_own_name(const char *name)
{
	return pst_qualified_name(pst_own_table(name));
}
