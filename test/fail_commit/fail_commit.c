/*
 * fail_commit.c
 *		A library with a pre-commit hook: it fails where fail_commit.now is on, what
 *		some other library might do after prompt_stats has waited for its group; and it
 *		runs the SQL of fail_commit.run, which none should.  And one that is asked who may
 *		use a table: nobody, where fail_commit.deny is on.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static bool fail_now = false;
static bool deny = false;
static char *sql = NULL;

static void
run(void)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", sql);
	SPI_finish();
	PopActiveSnapshot();
}

static void
at_pre_commit(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT)
		return;
	if (sql[0] != '\0')
		run();
	if (fail_now)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("fail_commit.now is on")));
}

static bool
#if PG_VERSION_NUM >= 160000
check_rights(List *tables, List *rights, bool raise)
#else
check_rights(List *tables, bool raise)
#endif
{
	ListCell   *lc;

	foreach(lc, tables)
	{
		if (deny && lfirst_node(RangeTblEntry, lc)->rtekind == RTE_RELATION)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("fail_commit.deny is on")));
	}
	return true;
}

void
_PG_init(void)
{
	DefineCustomBoolVariable("fail_commit.now", "Makes commits fail.", NULL, &fail_now,
							 false, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("fail_commit.deny", "Makes statements with tables fail.", NULL, &deny,
							 false, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("fail_commit.run", "SQL that is run in each commit.", NULL, &sql,
							   "", PGC_USERSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(at_pre_commit, NULL);
	ExecutorCheckPerms_hook = check_rights;
}
