/*
 * missing.c
 *		Prompts that can't be counted, because they don't exist.
 */
#include "migrate.h"

#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* Can prompt_events hold ids that prompt_stats would refuse? */
bool
pst_may_miss_prompts(const PstTables *tables)
{
	return OidIsValid(tables->prompts) && tables->event_prompts != tables->prompts;
}

/* The first column of what a statement has found */
ArrayType *
pst_get_ids(PstIdKind kind)
{
	Datum	   *ids = palloc(Max(SPI_processed, 1) * sizeof(Datum));
	ArrayType  *array;
	bool		isnull;

	for (uint64 row = 0; row < SPI_processed; row++)
		ids[row] = pst_get_field(row, 1, &isnull);
	array = pst_id_array(ids, SPI_processed, kind);
	SPI_freetuptable(SPI_tuptable);
	return array;
}

/*
 * The ids of an array that "looked_up" does not find as k, in the scope of the owner of the
 * table in which it looks.  OFFSET 0 makes that a look into the index for each (statements.c).
 */
static ArrayType *
without(const PstTables *tables, PstScope *scope, const char *looked_up, ArrayType *ids)
{
	Oid			type = get_array_type(pst_id_type(tables->id_kind));
	Datum		value = PointerGetDatum(ids);

	scope->finds_keys = true;
	(void) pst_run_in(scope, psprintf("SELECT k FROM pg_catalog.unnest($1) AS k WHERE k IS NOT NULL"
									  " AND NOT EXISTS (SELECT %s OPERATOR(pg_catalog.=) k OFFSET 0)", looked_up),
					  1, &type, &value);
	return pst_get_ids(tables->id_kind);
}

/* Those of the ids that have no row in prompt_stats */
static ArrayType *
without_row(const PstTables *tables, ArrayType *ids)
{
	PstScope	scope = pst_scope_of(tables->stats_owner, tables->stats_path);

	return without(tables, &scope, psprintf("FROM ONLY %s AS s WHERE s.prompt_id", tables->stats_name), ids);
}

/* "FROM prompts AS p", as the server reads it for a foreign key (ri_triggers.c) */
char *
pst_prompts_sql(const PstTables *tables)
{
	return psprintf("FROM %s%s AS p",
					get_rel_relkind(tables->prompts) == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ",
					pst_qualified_name(tables->prompts));
}

/*
 * Those of the ids that could get no row for want of the prompt that it references.  Asked
 * as the server asks for a foreign key: as the owner of the referenced table, whose policies
 * don't apply even if they are forced (ri_triggers.c: ri_PerformCheck).
 */
ArrayType *
pst_without_prompt(const PstTables *tables, ArrayType *ids)
{
	PstScope	scope;

	if (!OidIsValid(tables->prompts) || ARR_NDIM(ids) == 0)
		return construct_empty_array(pst_id_type(tables->id_kind));

	LockRelationOid(tables->prompts, AccessShareLock);
	scope = pst_scope_of(pst_owner_of(tables->prompts), pst_path_of(tables->prompts));
	scope.more_context = SECURITY_NOFORCE_RLS;
	return without(tables, &scope,
				   psprintf("%s WHERE p.%s", pst_prompts_sql(tables),
							quote_identifier(get_attname(tables->prompts, tables->prompts_key, false))), ids);
}

/* Those of the ids that can't be counted */
ArrayType *
pst_missing_prompts(const PstTables *tables, ArrayType *ids)
{
	if (!OidIsValid(tables->prompts))
		return construct_empty_array(pst_id_type(tables->id_kind));
	return pst_without_prompt(tables, without_row(tables, ids));
}
