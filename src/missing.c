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

/* Those of the ids that have no row in prompt_stats */
static ArrayType *
without_row(const PstTables *tables, ArrayType *ids)
{
	Oid			type = get_array_type(pst_id_type(tables->id_kind));
	Datum		value = PointerGetDatum(ids);

	(void) pst_run_on_table(tables->stats,
							psprintf("SELECT k FROM pg_catalog.unnest($1) AS k WHERE k IS NOT NULL AND NOT EXISTS"
									 " (SELECT FROM ONLY %s AS s WHERE s.prompt_id OPERATOR(pg_catalog.=) k)",
									 tables->stats_name),
							1, &type, &value);
	return pst_get_ids(tables->id_kind);
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
	Oid			type = get_array_type(pst_id_type(tables->id_kind));
	Datum		value = PointerGetDatum(ids);
	PstScope	scope;

	if (!OidIsValid(tables->prompts) || ARR_NDIM(ids) == 0)
		return construct_empty_array(pst_id_type(tables->id_kind));

	LockRelationOid(tables->prompts, AccessShareLock);
	scope = pst_scope_of(pst_owner_of(tables->prompts), pst_path_of(tables->prompts));
	scope.more_context = SECURITY_NOFORCE_RLS;
	(void) pst_run_in(&scope,
					  psprintf("SELECT k FROM pg_catalog.unnest($1) AS k WHERE NOT EXISTS"
							   " (SELECT %s WHERE p.%s OPERATOR(pg_catalog.=) k)",
							   pst_prompts_sql(tables),
							   quote_identifier(get_attname(tables->prompts, tables->prompts_key, false))),
					  1, &type, &value);
	return pst_get_ids(tables->id_kind);
}

/* Those of the ids that can't be counted */
ArrayType *
pst_missing_prompts(const PstTables *tables, ArrayType *ids)
{
	if (!OidIsValid(tables->prompts))
		return construct_empty_array(pst_id_type(tables->id_kind));
	return pst_without_prompt(tables, without_row(tables, ids));
}
