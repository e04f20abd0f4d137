/*
 * owner.c
 *		Acting as the owner of a table, and the right to administer it.
 *
 * What we write into an application's tables runs the triggers of their owner.
 * So it is done as that owner: never with the rights of the caller, who may
 * have none, nor of a superuser who happens to call.  A trigger must not become a
 * way up:
 *
 * - SECURITY_LOCAL_USERID_CHANGE keeps it from SET ROLE and SET SESSION
 *   AUTHORIZATION (guc.c: set_config_option);
 * - a GUC level of its own gives it a safe search_path, and undoes every SET that
 *   it leaves behind;
 * - a deferred trigger runs at COMMIT, without these settings, and before 18 as
 *   whoever commits (trigger.c).  So the deferrable constraints of the table are
 *   immediate meanwhile, and what a trigger defers elsewhere is an error:
 *   SECURITY_RESTRICTED_OPERATION.
 *
 * An error leaves the scope by itself: the abort of the (sub)transaction restores
 * user, settings and constraints (xact.c).
 *
 * Without a search_path there is only the change of user: for statements that
 * name everything in full and can't run functions that users wrote.
 */
#include "prompt_stats.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_constraint.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(prompt_stats_check_owner);

/* SET CONSTRAINTS takes a name, and means every constraint of that name in the schema */
static void
check_unique_name(const char *name, Oid schema, Oid table)
{
	Relation	rel = table_open(ConstraintRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	int			found = 0;

	ScanKeyInit(&keys[0], Anum_pg_constraint_conname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(name));
	ScanKeyInit(&keys[1], Anum_pg_constraint_connamespace, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(schema));
	scan = systable_beginscan(rel, ConstraintNameNspIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(systable_getnext(scan)))
		found++;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	if (found > 1)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("deferrable constraint \"%s\" of table %s is not the only one of its name",
						name, pst_qualified_name(table)),
				 errdetail("Another table in the same schema has a constraint of that name, which SET CONSTRAINTS would change, too."),
				 errhint("Rename it with ALTER TABLE %s RENAME CONSTRAINT %s TO %s;",
						 pst_qualified_name(table), quote_identifier(name),
						 quote_identifier(psprintf("%s_%s", get_rel_name(table), name)))));
}

static RangeVar *
constraint_name(Oid constraint, Oid table)
{
	HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
	Form_pg_constraint form;
	RangeVar   *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for constraint %u", constraint);
	form = (Form_pg_constraint) GETSTRUCT(tuple);
	check_unique_name(NameStr(form->conname), form->connamespace, table);
	name = makeRangeVar(get_namespace_name(form->connamespace),
						pstrdup(NameStr(form->conname)), -1);
	ReleaseSysCache(tuple);
	return name;
}

/* SET CONSTRAINTS for the deferrable ones of a table; DEFERRED only where they began so */
static void
set_constraints(Oid table, bool deferred)
{
	Relation	rel = relation_open(table, NoLock);
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->deferred = deferred;
	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &rel->trigdesc->triggers[i];

		if (trigger->tgdeferrable && (trigger->tginitdeferred || !deferred))
			stmt->constraints = lappend(stmt->constraints,
										constraint_name(trigger->tgconstraint, table));
	}
	relation_close(rel, NoLock);
	if (stmt->constraints != NIL)
		AfterTriggerSetState(stmt);
}

/*
 * As the owner, with this search_path, to write into the table, which the caller
 * has locked; InvalidOid to write into none whose triggers are a user's.
 */
void
pst_enter_owner(PstOwnerScope *scope, Oid owner, const char *search_path, Oid table)
{
	int			restriction = SECURITY_LOCAL_USERID_CHANGE;

	GetUserIdAndSecContext(&scope->userid, &scope->sec_context);
	scope->guc_level = 0;
	scope->table = search_path == NULL ? InvalidOid : table;
	if (OidIsValid(scope->table))
		restriction |= SECURITY_RESTRICTED_OPERATION;
	SetUserIdAndSecContext(owner, scope->sec_context | restriction);
	if (search_path == NULL)
		return;

	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", search_path,
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (OidIsValid(scope->table))
		set_constraints(scope->table, false);
}

void
pst_leave_owner(const PstOwnerScope *scope)
{
	if (OidIsValid(scope->table))
		set_constraints(scope->table, true);
	/* false: also a plain SET made inside ends here */
	if (scope->guc_level > 0)
		AtEOXact_GUC(false, scope->guc_level);
	SetUserIdAndSecContext(scope->userid, scope->sec_context);
}

/* Anybody can pass a number as regclass */
static void
no_table_error(Oid table)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("relation with OID %u does not exist", table),
			 errhint("Pass the name of a table.")));
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

/* One statement, in the scope that is entered; returns the number of rows */
uint64
pst_run_sql(const char *sql, int nargs, Oid *types, Datum *values)
{
	if (SPI_execute_with_args(sql, nargs, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", sql);
	return SPI_processed;
}

/* One statement as a role; the search_path is set for it */
uint64
pst_run_as(Oid role, const char *path, const char *sql, int nargs, Oid *types,
		   Datum *values)
{
	PstOwnerScope scope;
	uint64		processed;

	pst_enter_owner(&scope, role, path, InvalidOid);
	processed = pst_run_sql(sql, nargs, types, values);
	pst_leave_owner(&scope);
	return processed;
}

/* A table of the extension itself, by name */
Oid
pst_own_table(const PstTables *tables, const char *name)
{
	Oid			table = get_relname_relid(name, tables->schema);

	if (!OidIsValid(table))
		elog(ERROR, "table \"%s\" of extension prompt_stats is missing", name);
	return table;
}

/* One statement on such a table, which callers have no rights on */
uint64
pst_run_on_own(Oid table, const char *sql, int nargs, Oid *types, Datum *values)
{
	return pst_run_as(pst_owner_of(table), PST_SAFE_PATH, sql, nargs, types, values);
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

static void
check_owns(Oid table, Oid owner)
{
	if (OidIsValid(table) && !pst_owns_table(table, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table \"%s\"", get_rel_name(table)),
				 errhint("Call it as a member of role \"%s\".",
						 GetUserNameFromId(owner, false))));
}

/* A REVOKE is not enough: default privileges may give everybody EXECUTE */
void
pst_check_owner(const PstTables *tables)
{
	check_owns(tables->stats, tables->stats_owner);
	check_owns(tables->events, tables->events_owner);
}

/* prompt_stats_check_owner() */
Datum
prompt_stats_check_owner(PG_FUNCTION_ARGS)
{
	pst_check_owner(pst_need_tables(fcinfo->flinfo->fn_oid));
	PG_RETURN_VOID();
}
