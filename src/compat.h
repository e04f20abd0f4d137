/*
 * compat.h
 *		The one file that knows PostgreSQL versions.
 */
#ifndef PST_COMPAT_H
#define PST_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "prompt_stats needs PostgreSQL 15 or later"
#endif

#include "access/genam.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif
#if PG_VERSION_NUM >= 170000
#include "storage/dsm_registry.h"
#endif

/* aclchk.c: pg_class_ownercheck() became object_ownercheck() in 16 */
static inline bool
pst_owns_table(Oid table, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(RelationRelationId, table, role);
#else
	return pg_class_ownercheck(table, role);
#endif
}

static inline bool
pst_may_create_in(Oid schema, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(NamespaceRelationId, schema, role, ACL_CREATE) == ACLCHECK_OK;
#else
	return pg_namespace_aclcheck(schema, role, ACL_CREATE) == ACLCHECK_OK;
#endif
}

static inline bool
pst_may_execute(Oid function, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == ACLCHECK_OK;
#else
	return pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK;
#endif
}

/* dsm_registry.c since 17; before that the slack of the main segment (ipci.c) */
static inline void *
pst_find_anchor(const char *name, Size size, void (*init) (void *ptr))
{
	bool		found;
	void	   *anchor;

#if PG_VERSION_NUM >= 170000
	anchor = GetNamedDSMSegment(name, size, init, &found);
#else
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	anchor = ShmemInitStruct(name, size, &found);
	if (!found)
		init(anchor);
	LWLockRelease(AddinShmemInitLock);
#endif
	return anchor;
}

static inline uint32
pst_my_procno(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyProc->pgprocno;
#endif
}

static inline bool
pst_lock_held_by_me(const LOCKTAG *tag, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(tag, mode, false);
#else
	return LockHeldByMe(tag, mode);
#endif
}

/* Custom wait events have names since 17; the first call may fail, as where memory is short */
static inline uint32
pst_wait_event(void)
{
#if PG_VERSION_NUM >= 170000
	static uint32 event = 0;

	if (event == 0)
		event = WaitEventExtensionNew("PromptStatsGroup");
	return event;
#else
	return PG_WAIT_EXTENSION;
#endif
}

/* Generated columns can be virtual since 18, and are checked all the same */
static inline bool
pst_has_generated_column(const TupleConstr *constr)
{
#if PG_VERSION_NUM >= 180000
	return constr->has_generated_stored || constr->has_generated_virtual;
#else
	return constr->has_generated_stored;
#endif
}

/* For one key; 18 wants to know where to count */
static inline IndexScanDesc
pst_begin_index_scan(Relation rel, Relation index, Snapshot snapshot)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(rel, index, snapshot, NULL, 1, 0);
#else
	return index_beginscan(rel, index, snapshot, 1, 0);
#endif
}

/* Which indexes need entries for a new version: summarizing ones apart since 16 */
#if PG_VERSION_NUM >= 160000
#define PstIndexUpdates TU_UpdateIndexes
#define PST_NO_INDEXES TU_None
#else
#define PstIndexUpdates bool
#define PST_NO_INDEXES false
#endif

/* False where somebody else has changed the row; waits where he has locked it */
static inline bool
pst_update_tuple(Relation rel, ItemPointer tid, TupleTableSlot *slot, CommandId command,
				 Snapshot snapshot, PstIndexUpdates *indexes)
{
	TM_FailureData failure;
	LockTupleMode lockmode;

	return table_tuple_update(rel, tid, slot, command, snapshot, InvalidSnapshot, true,
							  &failure, &lockmode, indexes) == TM_Ok;
}

static inline void
pst_insert_index_entries(ResultRelInfo *info, TupleTableSlot *slot, EState *estate, PstIndexUpdates which)
{
#if PG_VERSION_NUM >= 160000
	(void) ExecInsertIndexTuples(info, slot, estate, true, false, NULL, NIL, which == TU_Summarizing);
#else
	(void) ExecInsertIndexTuples(info, slot, estate, true, false, NULL, NIL);
#endif
}

/* In SQL, of a row c of pg_constraint: since 18 a check may be there and not be enforced */
#if PG_VERSION_NUM >= 180000
#define PST_CHECK_IS_ENFORCED "c.conenforced"
#else
#define PST_CHECK_IS_ENFORCED "true"
#endif

#if PG_VERSION_NUM >= 180000
#define PST_MODULE_MAGIC \
	PG_MODULE_MAGIC_EXT(.name = "prompt_stats", .version = PROMPT_STATS_VERSION)
#else
#define PST_MODULE_MAGIC PG_MODULE_MAGIC
#endif

#endif							/* PST_COMPAT_H */
