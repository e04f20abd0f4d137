/*
 * compat.h
 *		The one file that knows PostgreSQL versions.
 */
#ifndef PST_COMPAT_H
#define PST_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "prompt_stats needs PostgreSQL 15 or later"
#endif

#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "utils/acl.h"

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
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

#if PG_VERSION_NUM >= 180000
#define PST_MODULE_MAGIC \
	PG_MODULE_MAGIC_EXT(.name = "prompt_stats", .version = PROMPT_STATS_VERSION)
#else
#define PST_MODULE_MAGIC PG_MODULE_MAGIC
#endif

#endif							/* PST_COMPAT_H */
