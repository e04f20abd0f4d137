/*
 * progress.c
 *		The one row of prompt_stats_internal.migration: where the last run stands.
 *
 * It is the extension's own table, and it holds what view prompt_stats_migration_progress
 * shows to other sessions.  It only saves time, and is in no dump.  The mode of a run decides
 * what becomes of rows, so that stands beside the choice of tables, which is (choice.c).
 */
#include "migrate.h"

#include "catalog/pg_type.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* Batches exclude each other; taken before any row is locked */
void
pst_lock_run(void)
{
	LockRelationOid(pst_own_table("migration"), ShareUpdateExclusiveLock);
}

static const char *
mode_name(bool keep)
{
	return keep ? "keep" : "add";
}

/* NULL: none is under way */
static const char *
running_mode(void)
{
	const char *migration = pst_get_migration();

	return migration != NULL && strcmp(migration, "due") != 0 ? migration : NULL;
}

bool
pst_is_running(void)
{
	return running_mode() != NULL;
}

/* A run goes on as it began, also in a restored database */
static void
check_mode(const char *mode, bool keep)
{
	if (strcmp(mode, mode_name(keep)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a migration with mode => '%s' is under way", mode),
				 errhint("Finish it first, with CALL %s.prompt_stats_migrate(mode => '%s');",
						 quote_identifier(get_namespace_name(pst_extension_schema())), mode)));
}

void
pst_read_run(PstRun *run, bool keep)
{
	const char *mode = running_mode();
	bool		isnull;

	ItemPointerSet(&run->position, 0, 0);
	run->is_running = false;
	if (mode == NULL)
		return;

	check_mode(mode, keep);
	run->is_running = pst_run_as_extension(psprintf("SELECT m.position FROM %s AS m WHERE m.finished_at IS NULL",
													pst_own_name("migration")), 0, NULL, NULL) > 0;
	if (run->is_running)
		run->position = *(ItemPointer) DatumGetPointer(pst_get_field(0, 1, &isnull));
}

void
pst_begin_run(PstRun *run, const PstTables *tables, bool keep)
{
	const char *name = pst_own_name("migration");
	Oid			types[] = {TEXTOID, INT8OID};
	Datum		values[] = {
		CStringGetTextDatum(mode_name(keep)),
		Int64GetDatum(pst_count_blocks(tables->events))
	};

	(void) pst_run_as_extension(psprintf("DELETE FROM %s", name), 0, NULL, NULL);
	(void) pst_run_as_extension(psprintf("INSERT INTO %s (mode, blocks_total) VALUES ($1, $2)", name),
								lengthof(types), types, values);
	pst_set_migration(tables, mode_name(keep));
	run->is_running = true;
}

/* What a batch has done */
void
pst_save_run(const PstRun *run, int64 rows, const PstDeltas *deltas)
{
	Oid			types[] = {TIDOID, INT8OID, INT8OID, INT8OID, INT8OID};
	ItemPointerData position = run->position;
	int64		views = 0;
	int64		copies = 0;
	Datum		values[5];

	for (int i = 0; i < deltas->len; i++)
	{
		views += deltas->items[i].n[PST_VIEWS];
		copies += deltas->items[i].n[PST_COPIES];
	}
	values[0] = PointerGetDatum(&position);
	values[1] = Int64GetDatum(rows);
	values[2] = Int64GetDatum(views);
	values[3] = Int64GetDatum(copies);
	values[4] = Int64GetDatum(ItemPointerGetBlockNumberNoCheck(&position));
	(void) pst_run_as_extension(psprintf("UPDATE %s AS m SET position = $1,"
										 " rows_moved = m.rows_moved OPERATOR(pg_catalog.+) $2,"
										 " views_moved = m.views_moved OPERATOR(pg_catalog.+) $3,"
										 " copies_moved = m.copies_moved OPERATOR(pg_catalog.+) $4,"
										 " blocks_done = $5, updated_at = pg_catalog.clock_timestamp()",
										 pst_own_name("migration")),
								lengthof(types), types, values);
}

/* Where rows are left that can't move, the check is not valid */
void
pst_end_run(const PstTables *tables, bool valid)
{
	pst_set_migration(tables, valid ? NULL : "due");
	(void) pst_run_as_extension(psprintf("UPDATE %s AS m SET finished_at = pg_catalog.clock_timestamp()"
										 " WHERE m.finished_at IS NULL", pst_own_name("migration")),
								0, NULL, NULL);
}
