/*
 * refuse.c
 *		What the code of a table's owner is refused while it runs in a scope (run.c).
 *
 * SECURITY_RESTRICTED_OPERATION lets through what would change the session of whoever counts,
 * or show what is open in it:
 *
 * - SET CONSTRAINTS, which also fires what the caller has pending, with the owner's rights;
 * - types and functions in pg_temp, where names of types are looked up first
 *	 (namespace.c): a domain pg_temp.uuid would run its checks as the caller;
 * - the functions that take no name but act on what the session holds: its advisory locks, and
 *	 the descriptors of its large objects, whose rights were checked when they were opened.
 *
 * All are refused by hooks, which every statement, every new object and every call passes.
 */
#include "prompt_stats.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/objectaddress.h"
#include "tcop/utility.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

static ProcessUtility_hook_type previous_utility = NULL;
static object_access_hook_type previous_access = NULL;

static void
refuse(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("cannot %s while counts are written", what),
			 errdetail("Triggers, defaults and checks of a table run in the session of whoever counts, and must leave nothing behind."),
			 errhint("Take it out of the function that the table calls.")));
}

static void
run_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
			ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest,
			QueryCompletion *completion)
{
	ProcessUtility_hook_type run = previous_utility != NULL ? previous_utility : standard_ProcessUtility;

	if (pst_is_in_scope() && IsA(pstmt->utilityStmt, ConstraintsSetStmt))
		refuse("SET CONSTRAINTS");
	run(pstmt, query, read_only_tree, context, params, environment, dest, completion);
}

/* The row of the new object is not visible yet but to itself */
static Oid
schema_of_new(Oid class, Oid object)
{
	AttrNumber	column = get_object_attnum_namespace(class);
	Oid			schema = InvalidOid;
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;

	if (column == InvalidAttrNumber)
		return InvalidOid;
	rel = table_open(class, AccessShareLock);
	ScanKeyInit(&key, get_object_attnum_oid(class), BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(object));
	scan = systable_beginscan(rel, get_object_oid_index(class), true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		schema = DatumGetObjectId(heap_getattr(tuple, column, RelationGetDescr(rel), &isnull));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return schema;
}

/* These act on what belongs to the session, whoever has taken or opened it */
static bool
is_of_session(Oid function)
{
	switch (function)
	{
		case F_PG_ADVISORY_UNLOCK_INT8:
		case F_PG_ADVISORY_UNLOCK_INT4_INT4:
		case F_PG_ADVISORY_UNLOCK_SHARED_INT8:
		case F_PG_ADVISORY_UNLOCK_SHARED_INT4_INT4:
		case F_PG_ADVISORY_UNLOCK_ALL:
		case F_LOREAD:
		case F_LOWRITE:
		case F_LO_CLOSE:
		case F_LO_LSEEK:
		case F_LO_LSEEK64:
		case F_LO_TELL:
		case F_LO_TELL64:
		case F_LO_TRUNCATE:
		case F_LO_TRUNCATE64:
			return true;
		default:
			return false;
	}
}

static void
see_access(ObjectAccessType access, Oid class, Oid object, int sub, void *arg)
{
	if (previous_access != NULL)
		previous_access(access, class, object, sub, arg);
	if (access == OAT_POST_CREATE && sub == 0 && pst_is_in_scope() && is_objectclass_supported(class) &&
		isTempNamespace(schema_of_new(class, object)))
		refuse("create temporary objects");
	if (access == OAT_FUNCTION_EXECUTE && pst_is_in_scope() && is_of_session(object))
		refuse("use advisory locks or large objects of the session");
}

void
PstRefuseInit(void)
{
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = run_utility;
	previous_access = object_access_hook;
	object_access_hook = see_access;
}
