/*
 * fail_commit.c
 *		A library whose pre-commit hook fails where fail_commit.now is on: what some
 *		other library might do after prompt_stats has waited for its group.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static bool fail_now = false;

static void
fail(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT && fail_now)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("fail_commit.now is on")));
}

void
_PG_init(void)
{
	DefineCustomBoolVariable("fail_commit.now", "Makes commits fail.", NULL, &fail_now,
							 false, PGC_USERSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(fail, NULL);
}
