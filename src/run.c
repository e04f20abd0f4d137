/*
 * run.c
 *		The one file that runs statements, and with whose rights.
 *
 * There are three entries:
 *
 * - As the owner of a table (pst_as_owner(), pst_run_on_table()): every statement that
 *	 names a table of the application, but for the exceptions below.  Planning alone can
 *	 execute functions that the owner wrote (expressions of indexes, statistics and checks),
 *	 so no such statement is planned with other rights.  It names tables of one owner.
 * - As the owner of the extension (pst_run_as_extension()): a statement that names only
 *	 catalogs and the extension's own tables.
 * - As the caller (pst_run_as_caller(), pst_open_as_caller()): a reader's SELECT, and the
 *	 INSERT of track_...(): with the rights and under the policies of whoever calls.
 *
 * The scope of an owner:
 *
 * - SECURITY_LOCAL_USERID_CHANGE refuses SET ROLE and SET SESSION AUTHORIZATION (guc.c:
 *	 set_config_option).
 * - SECURITY_RESTRICTED_OPERATION refuses what would outlive the scope: temporary tables,
 *	 PREPARE, LISTEN, cursors WITH HOLD, deferred triggers (utility.c, portalcmds.c,
 *	 tablecmds.c, trigger.c: afterTriggerMarkEvents).  refuse.c refuses the rest.
 * - A GUC level of its own gives a safe search_path, applies policies, fires triggers, and
 *	 undoes every SET that the owner's code leaves behind.  It is entered before the first
 *	 statement or expression, because a direct update has none (direct.c).
 * - The cursors of the session can't be read or moved meanwhile, and those that the owner's
 *	 code leaves open are closed.
 *
 * The deferrable constraints of a table that is written are immediate meanwhile, because a
 * deferred trigger would run at COMMIT, without all this, and before 18 as whoever commits
 * (trigger.c).
 *
 * An error leaves the scope by itself: the abort of the (sub)transaction restores user,
 * settings and constraints (xact.c), and PG_FINALLY the rest.
 *
 * The plans of statements that are run often are saved: plans.c.
 */
#include "prompt_stats.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_constraint.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"

/* The innermost scope that is entered; NULL outside of all */
static PstScope *current = NULL;

/* ---- deferrable constraints ---- */

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

/* The deferrable ones of a table, or only those that begin deferred */
static List *
deferrable_constraints(Oid table, bool initially)
{
	Relation	rel = relation_open(table, NoLock);
	List	   *names = NIL;

	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &rel->trigdesc->triggers[i];

		if (trigger->tgdeferrable && (trigger->tginitdeferred || !initially))
			names = lappend(names, constraint_name(trigger->tgconstraint, table));
	}
	relation_close(rel, NoLock);
	return names;
}

/*
 * SET CONSTRAINTS for the deferrable ones of a table; DEFERRED only for those that began
 * so.  IMMEDIATE fires what the caller has pending.
 */
static void
set_constraints(Oid table, bool deferred)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->constraints = deferrable_constraints(table, deferred);
	stmt->deferred = deferred;
	if (stmt->constraints != NIL)
		AfterTriggerSetState(stmt);
}

/* ---- cursors of the session ---- */

/* portalmem.c does not export it */
static MemoryContext
top_portal_context(void)
{
	static MemoryContext found = NULL;

	for (MemoryContext context = TopMemoryContext->firstchild;
		 found == NULL && context != NULL; context = context->nextchild)
		if (strcmp(context->name, "TopPortalContext") == 0)
			found = context;
	return found;
}

/* The context of a portal bears its name (portalmem.c: CreatePortal) */
static Portal
portal_of(MemoryContext context)
{
	Portal		portal = context->ident == NULL ? NULL : GetPortalByName(context->ident);

	if (portal == NULL)
		portal = GetPortalByName("");
	return portal != NULL && portal->portalContext == context ? portal : NULL;
}

/*
 * The owner's code could read or close a cursor of the session by its name.  An active
 * portal can't be run or dropped by anybody else (portalmem.c: MarkPortalActive, PortalDrop).
 * The new context marks which portals are newer: children are linked at the front (mcxt.c).
 */
static void
hide_cursors(PstScope *scope)
{
	MemoryContext top = top_portal_context();
	MemoryContext caller;

	if (top == NULL)
		return;
	caller = MemoryContextSwitchTo(scope->context);
	for (MemoryContext context = top->firstchild; context != NULL; context = context->nextchild)
	{
		Portal		portal = portal_of(context);

		if (portal == NULL || !portal->visible || portal->status != PORTAL_READY)
			continue;
		portal->status = PORTAL_ACTIVE;
		scope->hidden = lappend(scope->hidden, portal);
	}
	scope->mark = AllocSetContextCreate(top, "prompt_stats scope", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(caller);
}

/* Closes the portals that the owner's code has left, where it ended without an error */
static void
show_cursors(PstScope *scope, bool failed)
{
	MemoryContext top = top_portal_context();
	MemoryContext next;
	ListCell   *lc;

	foreach(lc, scope->hidden)
		((Portal) lfirst(lc))->status = PORTAL_READY;
	scope->hidden = NIL;
	if (scope->mark == NULL)
		return;
	for (MemoryContext context = failed ? scope->mark : top->firstchild;
		 context != scope->mark; context = next)
	{
		Portal		portal = portal_of(context);

		next = context->nextchild;
		if (portal != NULL && portal->visible)
			PortalDrop(portal, false);
	}
	MemoryContextDelete(scope->mark);
	scope->mark = NULL;
}

/* ---- the scope of an owner ---- */

static void
set_in_scope(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * The settings of the scope that we are in: before the first statement, and before the
 * first expression of the owner's is prepared.
 */
void
pst_enter_settings(void)
{
	PstScope   *scope = current;

	if (scope == NULL || scope->guc_level > 0)
		return;
	if (!scope->is_flusher)
		hide_cursors(scope);
	scope->guc_level = NewGUCNestLevel();
	set_in_scope("search_path", scope->path);
	if (!row_security)
		set_in_scope("row_security", "on");
	if (SessionReplicationRole != SESSION_REPLICATION_ROLE_ORIGIN)
		set_in_scope("session_replication_role", "origin");
	if (scope->lock_timeout != NULL)
		set_in_scope("lock_timeout", scope->lock_timeout);
}

/* Are we in the scope of an owner?  refuse.c asks. */
bool
pst_is_in_scope(void)
{
	return current != NULL;
}

/* Does the statement of the scope look up the keys of an array?  plans.c asks. */
bool
pst_finds_keys(void)
{
	return current != NULL && current->finds_keys;
}

/* With the settings of the server's defaults for what is not said */
PstScope
pst_scope_of(Oid owner, const char *path)
{
	PstScope	scope = {.owner = owner,.path = path};

	return scope;
}

/*
 * Where the caller has triggers of the table pending, these fire with his own rights: their
 * functions are not ours to run as anybody else.
 */
static void
fire_pending(PstScope *scope)
{
	if (OidIsValid(scope->writes) && AfterTriggerPendingOnRel(scope->writes))
		set_constraints(scope->writes, false);
}

static void
enter_scope(PstScope *scope)
{
	GetUserIdAndSecContext(&scope->userid, &scope->sec_context);
	scope->guc_level = 0;
	scope->hidden = NIL;
	scope->mark = NULL;
	scope->context = CurrentMemoryContext;
	scope->outer = current;
	SetUserIdAndSecContext(scope->owner, scope->sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION | scope->more_context);
	current = scope;
}

static void
leave_scope(PstScope *scope)
{
	if (OidIsValid(scope->writes))
		set_constraints(scope->writes, true);
	/* false: also a plain SET made inside ends here */
	if (scope->guc_level > 0)
		AtEOXact_GUC(false, scope->guc_level);
	show_cursors(scope, false);
	current = scope->outer;
	SetUserIdAndSecContext(scope->userid, scope->sec_context);
}

/* Runs "work" in the scope */
void
pst_as_owner(PstScope *scope, void (*work) (void *arg), void *arg)
{
	fire_pending(scope);
	enter_scope(scope);
	PG_TRY();
	{
		if (OidIsValid(scope->writes))
			set_constraints(scope->writes, false);
		work(arg);
		leave_scope(scope);
	}
	PG_CATCH();
	{
		show_cursors(scope, true);
		current = scope->outer;
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * For the flusher: the scope lasts until the transaction has ended, its commit included.
 * Session authorization is the owner's, too: with the security context alone a trigger would
 * see a superuser's session_user, and with that alone it could go back (guc.c, variable.c).
 */
void
pst_begin_as_owner(PstScope *scope)
{
	scope->is_flusher = true;
	SetSessionAuthorization(scope->owner, superuser_arg(scope->owner));
	enter_scope(scope);
	if (OidIsValid(scope->writes))
		set_constraints(scope->writes, false);
}

/* After the commit, which has left the settings, or after an abort, which has left the user, too */
void
pst_end_as_owner(Oid session_user)
{
	if (current != NULL)
		SetUserIdAndSecContext(session_user, 0);
	current = NULL;
	SetSessionAuthorization(session_user, true);
}

/* ---- statements ---- */

static uint64
execute(const char *sql, int nargs, Oid *types, Datum *values)
{
	int			result = SPI_execute_with_args(sql, nargs, types, values, NULL, false, 0);

	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", sql, SPI_result_code_string(result));
	return SPI_processed;
}

/*
 * One statement in the scope that is entered.  Must be connected to SPI; returns the number
 * of rows, which are in SPI_tuptable.
 */
uint64
pst_run(const char *sql, int nargs, Oid *types, Datum *values)
{
	Assert(current != NULL);
	pst_enter_settings();
	return execute(sql, nargs, types, values);
}

/* The same with options, such as a receiver for its rows */
void
pst_run_extended(const char *sql, int nargs, Oid *types, const SPIExecuteOptions *options)
{
	SPIPlanPtr	plan;

	Assert(current != NULL);
	pst_enter_settings();
	plan = SPI_prepare(sql, nargs, types);
	if (plan == NULL || SPI_execute_plan_extended(plan, options) < 0)
		elog(ERROR, "could not run \"%s\"", sql);
}

typedef struct Statement
{
	const char *sql;
	int			nargs;
	Oid		   *types;
	Datum	   *values;
	uint64		processed;
} Statement;

static void
run_statement(void *arg)
{
	Statement  *statement = arg;

	statement->processed = pst_run(statement->sql, statement->nargs, statement->types, statement->values);
}

uint64
pst_run_in(PstScope *scope, const char *sql, int nargs, Oid *types, Datum *values)
{
	Statement	statement = {sql, nargs, types, values, 0};

	pst_as_owner(scope, run_statement, &statement);
	return statement.processed;
}

/* "pg_catalog, the table's schema, pg_temp" */
char *
pst_path_of(Oid table)
{
	return psprintf("pg_catalog, %s, pg_temp",
					quote_identifier(get_namespace_name(get_rel_namespace(table))));
}

/* One statement that reads or defines a table, as its owner */
uint64
pst_run_on_table(Oid table, const char *sql, int nargs, Oid *types, Datum *values)
{
	PstScope	scope = pst_scope_of(pst_owner_of(table), pst_path_of(table));

	return pst_run_in(&scope, sql, nargs, types, values);
}

/* One statement on catalogs and the extension's own tables, as the extension's owner */
uint64
pst_run_as_extension(const char *sql, int nargs, Oid *types, Datum *values)
{
	PstScope	scope = pst_scope_of(pst_extension_owner(), PST_SAFE_PATH);

	return pst_run_in(&scope, sql, nargs, types, values);
}

/* For a procedure, between its steps; the next one finds a snapshot, as each statement does */
void
pst_commit(void)
{
	Assert(current == NULL);
	SPI_commit();
	EnsurePortalSnapshotExists();
}

/* ---- saved statements ---- */

/* The error context while we write: an ErrorContextCallback */
void
pst_write_context(void *table_name)
{
	pst_hint_at_write_error(table_name);
	errcontext("writing table %s", (const char *) table_name);
}

/*
 * Must be connected to SPI.  Planned once: with the arrays of a call for constants it would
 * be each time.
 */
void
pst_save_plan(PstPlan *plan, const char *sql, int nargs, Oid *argtypes)
{
	SPIPlanPtr	prepared;

	pst_enter_settings();
	prepared = SPI_prepare_cursor(sql, nargs, argtypes, CURSOR_OPT_GENERIC_PLAN);
	if (prepared == NULL || SPI_keepplan(prepared) != 0)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	pst_keep_plan(plan, prepared);
}

static uint64
execute_plan(PstPlan *plan, Datum *values, const char *nulls, bool read_only)
{
	volatile int result = 0;

	pst_begin_saved();
	PG_TRY();
	{
		result = SPI_execute_plan(plan->prepared, values, nulls, read_only, 0);
	}
	PG_FINALLY();
	{
		pst_end_saved();
	}
	PG_END_TRY();

	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
	return SPI_processed;
}

/* In the scope of the table's owner; what a SELECT found is in SPI_tuptable */
uint64
pst_run_plan(PstPlan *plan, Datum *values, const char *nulls, bool read_only)
{
	Assert(current != NULL);
	pst_enter_settings();
	return execute_plan(plan, values, nulls, read_only);
}

/* A reader's SELECT, or the INSERT of an event: with the caller's rights and policies */
uint64
pst_run_as_caller(PstPlan *plan, Datum *values, const char *nulls, bool read_only)
{
	return execute_plan(plan, values, nulls, read_only);
}

/* A reader's SELECT of many rows */
Portal
pst_open_as_caller(const char *sql)
{
	return SPI_cursor_open_with_args(NULL, sql, 0, NULL, NULL, NULL, true, 0);
}
